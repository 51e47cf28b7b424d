package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/exec/rule"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// fakes are the parts around a receiver.
type fakes struct {
	mu       sync.Mutex
	catalog  *store.Catalog
	away     error // of the catalog
	noTokens error
	events   []store.NewEvent
	fate     error         // of what is submitted
	hold     chan struct{} // what is submitted waits for it
	tokens   map[string][][]byte
	looked   int // how often tokens were read
	secrets  map[string]string
}

func (f *fakes) Catalog(context.Context, int64) (*store.Catalog, error) { return f.catalog, f.away }

func (f *fakes) WebhookTokens(context.Context) (map[string][][]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked++
	return f.tokens, f.noTokens
}

func (f *fakes) Submit(ctx context.Context, e store.NewEvent) (store.StoredEvent, error) {
	if f.hold != nil {
		select {
		case <-f.hold:
		case <-ctx.Done():
			return store.StoredEvent{}, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fate != nil {
		return store.StoredEvent{}, f.fate
	}
	for i, known := range f.events {
		if e.EventID != "" && known.EventID == e.EventID {
			return store.StoredEvent{Event: store.Event{ID: int64(i + 1)}, Duplicate: true}, nil
		}
	}
	f.events = append(f.events, e)
	return store.StoredEvent{Event: store.Event{ID: int64(len(f.events))}}, nil
}

func (f *fakes) secret(name string) (string, error) {
	if text, ok := f.secrets[name]; ok {
		return text, nil
	}
	return "", errors.New("there is no such file")
}

// theToken is that of p.token.
const theToken = "attw_of-a-test"

func setup(t *testing.T) (*fakes, *Receiver, *syncBuffer) {
	t.Helper()
	triggers := map[string]*store.Record{}
	add := func(name string, enabled bool, spec *manifest.Trigger) {
		spec.Header = manifest.Header{Ref: "p." + name, Pack: "p", Name: name, Enabled: enabled}
		triggers[spec.Ref] = &store.Record{Ref: spec.Ref, Pack: "p", Enabled: enabled, Present: true, Spec: spec}
	}
	verified := func(kind, secret string) *manifest.Trigger {
		return &manifest.Trigger{Type: manifest.TriggerWebhook, Verify: &manifest.Verify{Type: kind, Secret: secret}}
	}
	add("token", true, &manifest.Trigger{Type: manifest.TriggerWebhook})
	add("strict", true, &manifest.Trigger{Type: manifest.TriggerWebhook, OnInvalid: "refuse", Verify: &manifest.Verify{Type: manifest.VerifyNone}})
	add("open", true, verified(manifest.VerifyNone, ""))
	add("github", true, verified(manifest.VerifyGitHub, "{{ secret.hook }}"))
	add("config", true, verified(manifest.VerifyGitHub, `{{ pack.config.hooks.key }}`))
	add("referred", true, verified(manifest.VerifyGitHub, `{{ pack.config.hooks.secret }}`))
	add("missing", true, verified(manifest.VerifyGitHub, "{{ secret.not_there }}"))
	add("empty", true, verified(manifest.VerifyGitHub, "{{ secret.empty }}"))
	add("slack", true, verified(manifest.VerifySlack, "{{ secret.hook }}"))
	add("off", false, verified(manifest.VerifyNone, ""))
	add("timer", true, &manifest.Trigger{Type: manifest.TriggerInterval})
	f := &fakes{
		catalog: &store.Catalog{Triggers: triggers}, tokens: map[string][][]byte{"p.token": {Hash(theToken)}},
		secrets: map[string]string{"hook": "former\nhush\n", "empty": "\n"},
	}
	logged := &syncBuffer{}
	v := New(Options{
		Catalogs: f, Events: f, Tokens: f, Secret: f.secret, Registerer: prometheus.NewRegistry(),
		PackConfig: func(string) map[string]any {
			return map[string]any{"hooks": map[string]any{"key": "hush", "secret": "{{ secret.hook }}"}}
		},
		Logger: slog.New(slog.NewJSONHandler(logged, nil)),
	})
	return f, v, logged
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// ask sends one request and gives its answer and how long that took.
func ask(v *Receiver, path, body string, header ...string) (*httptest.ResponseRecorder, time.Duration) {
	r := httptest.NewRequest(http.MethodPost, "http://attune.test"+Path+path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	began := time.Now()
	v.ServeHTTP(w, r)
	return w, time.Since(began)
}

func TestWhoIsBelieved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, v, _ := setup(t)
		const body = `{"n": 1}`
		signature := "sha256=" + hexMAC("hush", body)
		for _, c := range [][]string{
			{"p/token", "Authorization", "Bearer " + theToken},
			{"p/token", "Authorization", "bearer  " + theToken},
			{"p/token", "X-Attune-Token", theToken},
			{"p/open"},
			{"p/github", "X-Hub-Signature-256", signature},
			{"p/github", "X-Hub-Signature-256", "sha256=" + hexMAC("former", body)},
			{"p/config", "X-Hub-Signature-256", signature},
			{"p/referred", "X-Hub-Signature-256", signature},
		} {
			before := len(f.events)
			if w, took := ask(v, c[0], body, c[1:]...); w.Code != http.StatusAccepted || len(f.events) != before+1 || took != 0 {
				t.Errorf("%q: %d %s after %v, %d events", c, w.Code, w.Body, took, len(f.events)-before)
			} else if want := fmt.Sprintf("{\"id\":%d,\"duplicate\":false}\n", before+1); w.Body.String() != want {
				t.Errorf("%q answered %q, want %q", c, w.Body, want)
			}
		}
	})
}

// Whoever is not believed gets the same answer at the same time, whatever there is or is not.
func TestRefusalsAreAlike(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, v, logged := setup(t)
		const body = `{"n": 1}`
		reasons := map[string]string{}
		for _, c := range [][]string{
			{reasonUnknown, "p/nothing"},
			{reasonUnknown, "nothing"},
			{reasonUnknown, ""},
			{reasonUnknown, "p/token/more", "X-Attune-Token", theToken},
			{reasonUnknown, "p/off"},
			{reasonUnknown, "p/timer"},
			{reasonMissing, "p/token"},
			{reasonSignature, "p/token", "X-Attune-Token", "attw_wrong"},
			{reasonSignature, "p/token", "Authorization", "Bearer attw_wrong"},
			{reasonMissing, "p/token", "Authorization", "Basic " + theToken},
			{reasonMissing, "p/github"},
			{reasonSignature, "p/github", "X-Hub-Signature-256", "sha256=" + hexMAC("no", body)},
			{reasonSignature, "p/github", "X-Hub-Signature-256", "sha256=" + hexMAC("", body)},
			{reasonSignature, "p/github", "X-Hub-Signature-256", "sha256=" + hexMAC("former\nhush", body)},
			{reasonSecret, "p/missing", "X-Hub-Signature-256", "sha256=" + hexMAC("", body)},
			{reasonSecret, "p/empty", "X-Hub-Signature-256", "sha256=" + hexMAC("", body)},
			{reasonStale, "p/slack", "X-Slack-Request-Timestamp", "1531420618", "X-Slack-Signature", "v0=" + hexMAC("hush", "v0:1531420618:"+body)},
		} {
			w, took := ask(v, c[1], body, c[2:]...)
			got := fmt.Sprintf("%d %v %s", w.Code, w.Header(), w.Body)
			if reasons[""] == "" {
				reasons[""] = got
			}
			if got != reasons[""] || took != refusalTime || w.Code != http.StatusUnauthorized {
				t.Errorf("%q: %s after %v, want %s after %v", c, got, took, reasons[""], refusalTime)
			}
			trigger := strings.Replace(c[1], "/", ".", 1)
			if c[0] == reasonUnknown {
				trigger = ""
			}
			if n := testutil.ToFloat64(v.metrics.requests.WithLabelValues(trigger, c[0])); n == 0 {
				t.Errorf("%q: not counted as %s", c, c[0])
			}
		}
		if len(f.events) != 0 {
			t.Errorf("%d events of requests that were refused", len(f.events))
		}
		text := logged.String()
		for _, secret := range []string{"hush", "former", theToken, "attw_wrong"} {
			if strings.Contains(text, secret) {
				t.Errorf("the log has %q:\n%s", secret, text)
			}
		}
		if !strings.Contains(text, `"reason":"secret"`) || !strings.Contains(text, "there is no such file") {
			t.Errorf("the log does not say that there is no secret:\n%s", text)
		}
	})
}

// A prober fills neither the log nor the metrics.
func TestRefusalsAreToldOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, v, logged := setup(t)
		const times = 100
		for i := range times {
			ask(v, fmt.Sprintf("p/nothing%d", i), "")
		}
		if n := strings.Count(logged.String(), "webhook refused"); n != 1 {
			t.Errorf("%d lines for %d refusals within a minute", n, times)
		}
		time.Sleep(tellEvery) //nolint:forbidigo // of a bubble
		ask(v, "p/nothing", "")
		if !strings.Contains(logged.String(), fmt.Sprintf(`"since_last":%d`, times-1)) {
			t.Errorf("the log does not say how many it left out:\n%s", logged)
		}
		if n := testutil.CollectAndCount(v.metrics.requests); n > 10 {
			t.Errorf("%d series after requests of strangers", n)
		}
	})
}

func TestPayloads(t *testing.T) {
	t.Parallel()
	const form, js = "application/x-www-form-urlencoded", "application/json; charset=utf-8"
	multi := "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"n.bin\"\r\nContent-Type: image/png\r\n\r\n\xff\x00\r\n--b--\r\n"
	for _, c := range []struct {
		name, kind, body string
		want             string // body, and body_encoding behind a blank
		problem          string
	}{
		{"json", js, ` {"a": 1.50, "b": [12345678901234567890]} `, `{"a":1.50,"b":[12345678901234567890]}`, ""},
		{"json of a kind", "application/vnd.x+json", `[1]`, `[1]`, ""},
		{"a json scalar", "application/json", `"x"`, `"x"`, ""},
		{"json without a type", "", `{"a":1}`, `{"a":1}`, ""},
		{"json that curl calls a form", form, `{"a":1}`, `{"a":1}`, ""},
		{"broken json", js, `{"a":`, `"{\"a\":"`, "the body is no JSON, although its type says so"},
		{"a form", form, "a=1&b=x+y&b=z&c=", `{"a":"1","b":["x y","z"],"c":""}`, ""},
		{"a broken form", form, "a=%zz", `"a=%zz"`, "the body is no form, although its type says so"},
		{"a form with parts", "multipart/form-data; boundary=b", multi, `{"a":"x","f":{"content":"/wA=","content_type":"image/png","encoding":"base64","filename":"n.bin"}}`, ""},
		{"parts without a boundary", "multipart/form-data", multi[:20], `"--b\r\nContent-Disposi"`, "the body is no form, although its type says so"},
		{"text", "text/plain", "hello <you>", `"hello <you>"`, ""},
		{"xml", "application/xml", "<a/>", `"<a/>"`, ""},
		{"bytes", "application/octet-stream", "\xff\xfe", `"//4=" base64`, ""},
		{"bytes that are no json", js, "{\xff}", `"e/99" base64`, "the body is no JSON, although its type says so"},
		{"nothing", js, "", `null`, ""},
		{"only blanks", "", "\r\n", `null`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, v, _ := setup(t)
			r := httptest.NewRequest(http.MethodPost, "http://h"+Path+"p/open?x=1&y=2&y=3", strings.NewReader(c.body))
			r.Header.Set("Content-Type", c.kind)
			v.ServeHTTP(httptest.NewRecorder(), r)
			if len(f.events) != 1 {
				t.Fatalf("%d events", len(f.events))
			}
			var have struct {
				Body     json.RawMessage
				Encoding string `json:"body_encoding"`
				Query    map[string]any
				Method   string
				Remote   string
			}
			if err := json.Unmarshal(f.events[0].Payload, &have); err != nil {
				t.Fatalf("%v: %s", err, f.events[0].Payload)
			}
			if got := strings.TrimSpace(string(have.Body) + " " + have.Encoding); got != c.want || f.events[0].Problem != c.problem {
				t.Errorf("body %s, problem %q, want %s, %q", got, f.events[0].Problem, c.want, c.problem)
			}
			if diff := cmp.Diff(map[string]any{"x": "1", "y": []any{"2", "3"}}, have.Query); diff != "" || have.Method != "POST" || have.Remote != "192.0.2.1" {
				t.Errorf("method %s, remote %s, query (-want +got):\n%s", have.Method, have.Remote, diff)
			}
			// A trigger that refuses what does not fit refuses this too.
			w, _ := ask(v, "p/strict", c.body, "Content-Type", c.kind)
			if want := map[bool]int{true: http.StatusAccepted, false: http.StatusUnprocessableEntity}[c.problem == ""]; w.Code != want {
				t.Errorf("the strict one answers %d, want %d", w.Code, want)
			}
		})
	}
}

// What proves a request is in no event.
func TestProofsAreNotOffered(t *testing.T) {
	t.Parallel()
	f, v, _ := setup(t)
	f.catalog.Triggers["p.own"] = &store.Record{Ref: "p.own", Enabled: true, Spec: &manifest.Trigger{
		Header: manifest.Header{Ref: "p.own", Pack: "p"}, Type: manifest.TriggerWebhook,
		Verify: &manifest.Verify{Type: manifest.VerifyHMAC, Secret: "{{ secret.hook }}", Header: "x-own"},
	}}
	ask(v, "p/own", "x", "X-Own", hexMAC("hush", "x"), "Cookie", "c=proof", "X-GitHub-Event", "push", "Authorization", "Bearer proof",
		"X-Gitlab-Token", "proof", "X-Attune-Token", "proof", "User-Agent", "a\xffb")
	if len(f.events) != 1 {
		t.Fatalf("%d events", len(f.events))
	}
	var have struct{ Headers map[string]string }
	if err := json.Unmarshal(f.events[0].Payload, &have); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"x-github-event": "push", "user-agent": "a�b"}, have.Headers); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestDeliveriesComeAgain(t *testing.T) {
	t.Parallel()
	f, v, _ := setup(t)
	for i, want := range []string{`{"id":1,"duplicate":false}`, `{"id":1,"duplicate":true}`} {
		w, _ := ask(v, "p/github", "x", "X-Hub-Signature-256", "sha256="+hexMAC("hush", "x"), "X-GitHub-Delivery", "d1")
		if got := strings.TrimSpace(w.Body.String()); got != want || w.Code != http.StatusAccepted {
			t.Errorf("delivery %d answered %d %s, want %s", i, w.Code, got, want)
		}
	}
	if len(f.events) != 1 || f.events[0].EventID != "d1" || f.events[0].Source != "webhook" {
		t.Errorf("events %+v", f.events)
	}
}

// Slack wants to hear its own word before it sends anything; without a signature it hears nothing.
func TestSlackChallenge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, v, _ := setup(t)
		const body = `{"type":"url_verification","challenge":"3eZbrw1a","token":"x"}`
		stamp := fmt.Sprint(time.Now().Unix())
		w, _ := ask(v, "p/slack", body, "X-Slack-Request-Timestamp", stamp, "X-Slack-Signature", "v0="+hexMAC("hush", "v0:"+stamp+":"+body))
		if w.Code != http.StatusOK || w.Body.String() != "3eZbrw1a" || len(f.events) != 0 {
			t.Errorf("%d %s, %d events", w.Code, w.Body, len(f.events))
		}
		if w, _ := ask(v, "p/slack", body); w.Code != http.StatusUnauthorized {
			t.Errorf("without a signature: %d %s", w.Code, w.Body)
		}
	})
}

func TestWhatHasNothingToDoWithTheSender(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, v, _ := setup(t)
		large := strings.Repeat("x", MaxBody+1)
		for _, path := range []string{"p/open", "p/nothing"} {
			status := func(want int, body string, header ...string) {
				t.Helper()
				if w, _ := ask(v, path, body, header...); w.Code != want {
					t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, want)
				}
			}
			status(http.StatusForbidden, "x", "Origin", "http://evil.example")
			status(http.StatusForbidden, "x", "Sec-Fetch-Site", "same-origin")
			status(http.StatusRequestEntityTooLarge, large)
			// One that says how long it is, is not read.
			long := httptest.NewRequest(http.MethodPost, Path+path, brokenReader{})
			long.ContentLength = MaxBody + 1
			answer := httptest.NewRecorder()
			if v.ServeHTTP(answer, long); answer.Code != http.StatusRequestEntityTooLarge {
				t.Errorf("%s: %d by its length", path, answer.Code)
			}
			// Without a length it is seen as it comes.
			r := httptest.NewRequest(http.MethodPost, Path+path, io.MultiReader(strings.NewReader(large)))
			w := httptest.NewRecorder()
			if v.ServeHTTP(w, r); w.Code != http.StatusRequestEntityTooLarge {
				t.Errorf("%s: %d without a length", path, w.Code)
			}
			r = httptest.NewRequest(http.MethodPost, Path+path, io.MultiReader(strings.NewReader("half"), brokenReader{}))
			w = httptest.NewRecorder()
			if v.ServeHTTP(w, r); w.Code != http.StatusBadRequest {
				t.Errorf("%s: %d for half a body", path, w.Code)
			}
			f.noTokens, f.away = errors.New("secret of the database"), nil
			v.keys.known = nil
			v.TokensChanged()
			status(http.StatusServiceUnavailable, "x")
			f.noTokens, f.away = nil, errors.New("secret of the database")
			status(http.StatusServiceUnavailable, "x")
			f.away = nil
			v.TokensChanged()
		}
		if len(f.events) != 0 {
			t.Errorf("%d events", len(f.events))
		}
		// What is just not too large is taken, with a length and without.
		for _, body := range []io.Reader{strings.NewReader(large[1:]), io.MultiReader(strings.NewReader(large[1:]))} {
			w := httptest.NewRecorder()
			if v.ServeHTTP(w, httptest.NewRequest(http.MethodPost, Path+"p/open", body)); w.Code != http.StatusAccepted {
				t.Errorf("%d for the largest body", w.Code)
			}
		}
		for fate, want := range map[error]int{
			rule.ErrUnknownTrigger: http.StatusUnauthorized, rule.ErrDisabledTrigger: http.StatusUnauthorized,
			fmt.Errorf("no: %w", rule.ErrInvalidPayload): http.StatusUnprocessableEntity, rule.ErrClosed: http.StatusServiceUnavailable,
		} {
			f.fate = fate
			if w, _ := ask(v, "p/open", "x"); w.Code != want {
				t.Errorf("%v: %d, want %d", fate, w.Code, want)
			}
		}
		// A database that hangs is not waited for longer than a sender waits.
		f.fate, f.hold = nil, make(chan struct{})
		if w, took := ask(v, "p/open", "x"); w.Code != http.StatusServiceUnavailable || took != commitTimeout || w.Header().Get("Retry-After") == "" {
			t.Errorf("%d after %v, want 503 after %v", w.Code, took, commitTimeout)
		}
	})
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, v, _ := setup(t)
		from := func(address string) int {
			w, _ := ask(v, "p/open", "x", "X-Forwarded-For", "203.0.113.9, "+address)
			return w.Code
		}
		// 192.0.2.1 is no proxy of this machine, so that its word does not count.
		for range requestBurst {
			if code := from("1.1.1.1"); code != http.StatusAccepted {
				t.Fatalf("within the burst: %d", code)
			}
		}
		if code := from("2.2.2.2"); code != http.StatusTooManyRequests {
			t.Errorf("beyond the burst: %d", code)
		}
		if w, _ := ask(v, "p/strict", "x"); w.Code != http.StatusAccepted {
			t.Errorf("another trigger: %d", w.Code)
		}
		at := func(address string) int {
			r := httptest.NewRequest(http.MethodPost, Path+"p/open", strings.NewReader("x"))
			r.RemoteAddr = address
			w := httptest.NewRecorder()
			v.ServeHTTP(w, r)
			return w.Code
		}
		if code := at("198.51.100.7:1"); code != http.StatusAccepted {
			t.Errorf("another address: %d", code)
		}
		time.Sleep(time.Second) //nolint:forbidigo // of a bubble
		counts := map[int]int{}
		for range 2 * requestRate {
			counts[from("1.1.1.1")]++
		}
		if want := map[int]int{http.StatusAccepted: requestRate, http.StatusTooManyRequests: requestRate}; !cmp.Equal(counts, want) {
			t.Errorf("a second later: %v, want %v", counts, want)
		}
		// A network of IPv6 is one address.
		for i := range requestBurst {
			at(fmt.Sprintf("[2001:db8::%x]:1", i))
		}
		if code := at("[2001:db8::ffff]:1"); code != http.StatusTooManyRequests {
			t.Errorf("beyond the burst of a network: %d", code)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // of a bubble
		// Those that are under way are bounded for each address.
		f.hold = make(chan struct{})
		var wg sync.WaitGroup
		for range underWayEach {
			wg.Go(func() { ask(v, "p/open", "x") })
		}
		synctest.Wait()
		if code := from("x"); code != http.StatusServiceUnavailable {
			t.Errorf("too many under way: %d", code)
		}
		other := httptest.NewRequest(http.MethodPost, Path+"p/nothing", strings.NewReader("x"))
		other.RemoteAddr = "198.51.100.7:1234"
		w := httptest.NewRecorder()
		if v.ServeHTTP(w, other); w.Code != http.StatusUnauthorized {
			t.Errorf("another address meanwhile: %d", w.Code)
		}
		close(f.hold)
		wg.Wait()
		if n := v.limits.places.Taken(); n != 0 {
			t.Errorf("%d places not given back", n)
		}
	})
}

// Tokens are read anew within seconds, and the last ones count while the database is away.
func TestTokensAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, v, _ := setup(t)
		status := func(want int, token string) {
			t.Helper()
			if w, _ := ask(v, "p/token", "x", "X-Attune-Token", token); w.Code != want {
				t.Errorf("%s: %d, want %d", token, w.Code, want)
			}
		}
		status(http.StatusAccepted, theToken)
		status(http.StatusAccepted, theToken)
		if f.looked != 1 {
			t.Errorf("read %d times for two requests", f.looked)
		}
		f.tokens = map[string][][]byte{"p.token": {Hash("new"), Hash("grace")}}
		time.Sleep(tokensFresh) //nolint:forbidigo // of a bubble
		status(http.StatusUnauthorized, theToken)
		status(http.StatusAccepted, "new")
		status(http.StatusAccepted, "grace")
		f.noTokens = errors.New("away")
		time.Sleep(tokensFresh) //nolint:forbidigo // of a bubble
		status(http.StatusAccepted, "new")
		f.noTokens, f.tokens = nil, nil
		v.TokensChanged()
		f.tokens = map[string][][]byte{}
		status(http.StatusUnauthorized, "new")
	})
	if one, two := NewToken(), NewToken(); one == two || len(one) < 40 {
		t.Errorf("tokens %q and %q", one, two)
	}
}

// A body that does not come is waited for so long and no longer, and its sender is told.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, v, _ := setup(t)
		ours, theirs := net.Pipe()
		listener := &oneConn{conn: theirs, closed: make(chan struct{})}
		server := &http.Server{Handler: v} //nolint:gosec // the header comes at once
		done := make(chan error, 1)
		go func() { done <- server.Serve(listener) }()
		began := time.Now()
		fmt.Fprintf(ours, "POST %sp/open HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", Path)
		text, err := io.ReadAll(ours)
		if took := time.Since(began); err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 408 ") || took != bodyTimeout {
			t.Errorf("after %v: %s, %v", took, text, err)
		}
		if len(f.events) != 0 {
			t.Error("half a body is an event")
		}
		_ = server.Close()
		<-done
	})
}

// oneConn is a listener that has one connection.
type oneConn struct {
	conn   net.Conn
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error { close(l.closed); return nil }

func (*oneConn) Addr() net.Addr { return &net.TCPAddr{} }
