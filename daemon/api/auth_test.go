package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/store"
)

// good makes a token that the fakes know.
func (b *bundle) good(name string, scope Scope, pack string) (secret string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	secret = newToken()
	b.tokens = append(b.tokens, store.GoodToken{
		ID: int64(len(b.tokens) + 1), Name: name, Hash: hashToken(secret), Scope: string(scope), Pack: pack,
	})
	b.server.keyring.forget()
	return secret
}

func TestWithoutATokenTCPServesHealthAndMetricsOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if !strings.HasPrefix(b.server.URL(), "http://127.0.0.1:") {
		t.Fatalf("a bare port listens on %s", b.server.URL())
	}
	outside := map[string]string{"X-Forwarded-For": "192.0.2.7"}
	tests := []struct {
		method, path string
		header       map[string]string
		status       int
		body         string
	}{
		{"GET", "/-/healthy", nil, 200, "alive"},
		{"GET", "/-/ready", nil, 200, "ready"},
		{"HEAD", "/-/healthy", nil, 200, ""},
		{"GET", "/metrics", nil, 200, ""},
		{"GET", "/metrics", outside, 401, "unauthorized"},
		{"GET", "/-/healthy", outside, 401, "unauthorized"},
		{"GET", "/metrics", map[string]string{"Host": "localhost:9753"}, 200, ""},
		{"GET", "/metrics", map[string]string{"Host": "attune.example.com"}, 200, ""},
		{"GET", "/metrics", map[string]string{"Host": "[::1]:9753"}, 200, ""},
		{"GET", "/metrics", map[string]string{"Host": "rebound.example.com"}, 403, "cannot serve host"},
		{"GET", "/metrics", map[string]string{"Host": "127.0.0.1.example.com"}, 403, "cannot serve host"},
		{"GET", "/api/v1/packs", map[string]string{"Host": "rebound.example.com"}, 403, "cannot serve host"},
		{"POST", "/-/healthy", map[string]string{"Origin": "http://example.com"}, 403, "from another site"},
		{"POST", "/api/v1/reload", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403, "from another site"},
		{"POST", "/-/healthy", nil, 405, "method_not_allowed"},
		{"GET", "/api/v1/packs", nil, 401, "unauthorized"},
		{"POST", "/api/v1/reload", nil, 401, "unauthorized"},
		{"GET", "/api/v1/openapi.json", nil, 200, ""},
		{"GET", "/api/v1/docs", nil, 200, ""},
		{"GET", "/api/v1/packs", map[string]string{"Authorization": "Basic YTpi"}, 401, "unauthorized"},
		{"GET", "/api/v1/packs", map[string]string{"Authorization": "Bearer"}, 401, "unauthorized"},
		{"POST", "/webhooks/p/t", nil, 202, "a webhook"},
		{"POST", "/webhooks/p/t", map[string]string{"Host": "hooks.example.com"}, 202, "a webhook"},
		{"POST", "/webhooks/", nil, 401, "unauthorized"},
		{"POST", "/webhooks/p", nil, 202, "a webhook"},
		{"GET", "/webhooks/p/t", nil, 405, "method_not_allowed"},
		{"PUT", "/webhooks/p/t", nil, 405, "method_not_allowed"},
		{"POST", "/webhooks/../api/v1/reload", nil, 401, "unauthorized"},
		{"GET", "/", nil, 401, "unauthorized"},
		{"GET", "//metrics", nil, 401, "unauthorized"},
		{"GET", "/-/healthy/../../api/v1/packs", nil, 401, "unauthorized"},
	}
	for _, test := range tests {
		b.server.limits = newLimits()
		status, body := b.overTCP(t, test.method, test.path, test.header)
		if status != test.status || !strings.Contains(body, test.body) {
			t.Errorf("%s %s %v: found %d %s, want %d %s", test.method, test.path, test.header, status, body, test.status, test.body)
		}
	}
}

// A header has a bound, and whoever is slow with one is not waited for: the server of the standard library sees to it
// where it is told.
func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	server := setup(t).server.server(t.Context(), nil)
	if server.ReadHeaderTimeout != headerTimeout || server.IdleTimeout != idleTimeout || server.MaxHeaderBytes != maxHeaderBytes {
		t.Errorf("a header may take %v and %d bytes, and a connection be idle for %v", server.ReadHeaderTimeout, server.MaxHeaderBytes, server.IdleTimeout)
	}
}

// Nobody learns from an answer what is wrong with a token, nor what there is.
func TestRefusalsTellNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	secret := b.good("ci", ScopeAdmin, "")
	past := -1.0
	b.mu.Lock()
	b.tokens = append(b.tokens, store.GoodToken{ID: 9, Name: "old", Hash: hashToken("att_old"), Scope: "admin", Seconds: &past})
	b.mu.Unlock()
	want := ""
	for _, test := range []struct{ method, path, token string }{
		{"GET", "/api/v1/packs", ""},
		{"GET", "/api/v1/packs", "att_old"},
		{"GET", "/api/v1/packs", secret[:len(secret)-1]},
		{"GET", "/api/v1/packs", secret + "x"},
		{"GET", "/api/v1/packs", strings.TrimPrefix(secret, tokenPrefix)},
		{"GET", "/api/v1/packs", strings.Repeat("x", 8000)},
		{"GET", "/api/v1/nothing", "att_x"},
		{"DELETE", "/api/v1/packs", "att_x"},
		{"POST", "/api/v1/executions", "att_x"},
	} {
		status, body := b.overTCP(t, test.method, test.path, map[string]string{"Authorization": "Bearer " + test.token})
		id, _, _ := strings.Cut(body[strings.Index(body, "request_id"):], ",")
		if body = strings.Replace(body, id, "", 1); want == "" {
			want = body
		}
		if status != http.StatusUnauthorized || body != want {
			t.Errorf("%s %s with %.20q: found %d %s, want %s", test.method, test.path, test.token, status, body, want)
		}
	}
}

// described is what the document says of one.
type described struct {
	Description string
	Security    []map[string][]string
}

// recorded are the rows of the audit.
func (f *fakes) recorded() []store.NewAudit {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.audits)
}

// operations reads the document.
func (b *bundle) operations(t *testing.T) map[string]map[string]described {
	t.Helper()
	var document struct {
		Paths map[string]map[string]described
	}
	if _, body := b.raw(t, "GET", prefix+"/openapi.json", ""); json.Unmarshal([]byte(body), &document) != nil {
		t.Fatal("the document cannot be read")
	}
	return document.Paths
}

// Every operation says who may, and that is what happens.
func TestEveryOperationWantsItsScope(t *testing.T) {
	t.Parallel()
	b := setup(t)
	secrets := map[Scope]string{}
	for _, scope := range allScopes {
		secrets[scope] = b.good(string(scope), scope, "")
	}
	foreign := b.good("foreign", ScopeAdmin, "net")
	seen := 0
	for path, methods := range b.operations(t) {
		for method, op := range methods {
			method = strings.ToUpper(method)
			seen++
			if len(op.Security) != 1 || len(op.Security[0][schemeToken]) != 1 {
				t.Errorf("%s %s says not which scope it wants", method, path)
				continue
			}
			wants := Scope(op.Security[0][schemeToken][0])
			asked := prefix + strings.NewReplacer("{ref}", "core.echo", "{id}", "1", "{name}", "x").Replace(path)
			for scope, secret := range secrets {
				if scope.holds(wants) {
					continue // what it does then is another test's
				}
				status, body := b.overTCP(t, method, asked, map[string]string{"Authorization": "Bearer " + secret})
				if status != http.StatusForbidden || !strings.Contains(body, "it has scope "+string(scope)) {
					t.Errorf("%s %s with scope %s: found %d %s", method, path, scope, status, body)
				}
			}
			if strings.Contains(op.Description, "A token of one pack sees") {
				continue
			}
			status, body := b.overTCP(t, method, asked, map[string]string{"Authorization": "Bearer " + foreign})
			if status != http.StatusForbidden || !strings.Contains(body, "it is for pack net alone") {
				t.Errorf("%s %s with a token of another pack: found %d %s", method, path, status, body)
			}
		}
	}
	if seen < 40 {
		t.Errorf("found %d operations: they were not read", seen)
	}
	// One that nobody thought of is nobody's.
	if ScopeAdmin.holds("") || Scope("").holds(ScopeRead) || Scope("root").holds(ScopeRead) {
		t.Error("a scope that is none is good for something")
	}
}

func TestTokenOfOnePackSeesThatPack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tests := []struct {
		pack, method, path, body string
		status                   int
		want                     string
	}{
		{"core", "GET", "/packs?all=true", "", 200, `[{"ref":"core"`},
		{"net", "GET", "/packs?all=true", "", 200, `[]`},
		{"core", "GET", "/actions", "", 200, `[{"ref":"core.echo"`},
		{"net", "GET", "/actions", "", 200, `[]`},
		{"net", "GET", "/actions?pack=core", "", 200, `[]`},
		{"net", "GET", "/sensors", "", 200, `[]`},
		{"net", "GET", "/rules", "", 200, `[]`},
		{"net", "GET", "/triggers", "", 200, `[]`},
		{"net", "GET", "/events", "", 200, `[]`},
		{"net", "GET", "/events?trigger=core.tick", "", 200, `[]`},
		{"net", "GET", "/plan", "", 403, "for pack net alone"},
		{"net", "GET", "/plan?pack=core", "", 403, "for pack net alone"},
		{"core", "GET", "/plan?pack=core", "", 200, "packs"},
		{"net", "POST", "/reload?pack=core", "", 403, "for pack net alone"},
		{"core", "POST", "/reload", "", 403, "for pack core alone"},
		{"net", "POST", "/executions", `{"action_ref":"core.echo"}`, 403, "for pack net alone"},
		{"net", "POST", "/executions", `{"action_ref":"core.nothing"}`, 403, "for pack net alone"},
		{"net", "POST", "/disable", `{"kind":"rule","refs":["net.r","core.r"]}`, 403, "for pack net alone"},
		{"core", "POST", "/executions/cancel", `{"ids":[1]}`, 403, "for pack core alone"},
		{"core", "POST", "/executions", `{"action_ref":"core.echo","secrets":{"/a":"b"}}`, 403, "may not name secrets"},
	}
	secrets := map[string]string{"core": b.good("core", ScopeAdmin, "core"), "net": b.good("net", ScopeAdmin, "net")}
	for _, test := range tests {
		request := httptest.NewRequest(test.method, "http://127.0.0.1"+prefix+test.path, strings.NewReader(test.body))
		request.RemoteAddr = "127.0.0.1:1"
		request.Header.Set("Authorization", "Bearer "+secrets[test.pack])
		request.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		identify(b.server.gate(b.server.handler())).ServeHTTP(w, request)
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
			t.Errorf("%s %s %s of pack %s: found %d %s, want %d %s", test.method, test.path, test.body, test.pack, w.Code, w.Body, test.status, test.want)
		}
	}
}

// A prober is slowed down, and neither fills the log nor keeps others out.
func TestBadTokensAreLimited(t *testing.T) {
	t.Parallel()
	b := setup(t)
	secret := b.good("ci", ScopeRead, "")
	handler := identify(b.server.gate(b.server.handler()))
	ask := func(address, token string) int {
		request := httptest.NewRequest("GET", "http://127.0.0.1"+prefix+"/packs", nil)
		request.RemoteAddr = address + ":1"
		request.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, request)
		return w.Code
	}
	counts := map[int]int{}
	for i := range 1000 {
		counts[ask("192.0.2.7", fmt.Sprintf("att_%d", i))]++
	}
	if counts[http.StatusUnauthorized] < failureBurst || counts[http.StatusTooManyRequests] < 500 || len(counts) != 2 {
		t.Errorf("found answers %v", counts)
	}
	if status := ask("192.0.2.7", secret); status != http.StatusOK {
		t.Errorf("a good token from there: %d", status)
	}
	if status := ask("192.0.2.8", "att_x"); status != http.StatusUnauthorized {
		t.Errorf("a bad one from elsewhere: %d", status)
	}
	b.stop()
	told := map[string]int{}
	for _, a := range b.recorded() {
		told[a.Object+" "+a.Origin.From]++
	}
	if want := map[string]int{"token 192.0.2.7": 1, "rate 192.0.2.7": 1, "token 192.0.2.8": 1}; cmp.Diff(want, told) != "" {
		t.Errorf("the audit differs (-want +got):\n%s", cmp.Diff(want, told))
	}
	if n := strings.Count(b.logged.String(), "requests refused"); n != 3 {
		t.Errorf("%d lines of the log tell of it", n)
	}
}

// Whoever asks over TCP has a pace: of bad tokens an address, or a network of IPv6, has few, a good token many, and
// what needs no token as many for an address.
func TestPaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{tokens: []store.GoodToken{
			{ID: 1, Name: "ci", Hash: hashToken("att_ci"), Scope: "read"}, {ID: 2, Name: "other", Hash: hashToken("att_other"), Scope: "read"},
		}}
		s := &Server{
			limits: newLimits(), keyring: newKeyring(f), refusals: newRefusals(slog.New(slog.DiscardHandler), nil, f.Audit),
		}
		held := make(chan struct{})
		handler := identify(s.gate(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("hold") {
				<-held
			}
		})))
		ask := func(address, path, token string) *httptest.ResponseRecorder {
			request := httptest.NewRequest("GET", "http://127.0.0.1"+path, nil)
			request.RemoteAddr = address
			if token != "" {
				request.Header.Set("Authorization", "Bearer "+token)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, request)
			return w
		}
		times := func(n int, address, path, token string) (answers map[int]int) {
			answers = map[int]int{}
			for range n {
				w := ask(address, path, token)
				answers[w.Code]++
				if again := w.Header().Get("Retry-After"); w.Code == http.StatusTooManyRequests && again == "" {
					t.Error("it is not said when to come again")
				}
			}
			return answers
		}
		const here, there, page = "127.0.0.1:1", "192.0.2.7:1", prefix + "/packs"
		for _, test := range []struct {
			what, address, path, token string
			good, burst, rate          int
			same, other                [2]string // addresses and tokens
		}{
			{"bad tokens", "[2001:db8::1]:1", page, "att_bad", 401, failureBurst, failureRate, [2]string{"[2001:db8::2]:1", "att_worse"}, [2]string{"[2001:db8:0:1::1]:1", "att_bad"}},
			{"no token", there, page, "", 401, failureBurst, failureRate, [2]string{there, "att_bad"}, [2]string{"192.0.2.8:1", ""}},
			{"a good token", there, page, "att_ci", 200, requestBurst, requestRate, [2]string{here, "att_ci"}, [2]string{there, "att_other"}},
			{"a public path", here, pathMetrics, "", 200, requestBurst, requestRate, [2]string{here, ""}, [2]string{"127.0.0.2:1", ""}},
		} {
			const more = 50
			if answers := times(test.burst+more, test.address, test.path, test.token); answers[test.good] != test.burst || answers[429] != more {
				t.Errorf("%s: %v at once, want %d", test.what, answers, test.burst)
			}
			time.Sleep(time.Second) //nolint:forbidigo // of a bubble
			if answers := times(test.rate+more, test.address, test.path, test.token); answers[test.good] != test.rate || answers[429] != more {
				t.Errorf("%s: %v a second later, want %d", test.what, answers, test.rate)
			}
			if w := ask(test.same[0], test.path, test.same[1]); w.Code != 429 {
				t.Errorf("%s, of %q: %d, want 429", test.what, test.same, w.Code)
			}
			if w := ask(test.other[0], test.path, test.other[1]); w.Code != test.good {
				t.Errorf("%s, of %q: %d, want %d", test.what, test.other, w.Code, test.good)
			}
		}
		time.Sleep(time.Minute) //nolint:forbidigo // of a bubble
		var wg sync.WaitGroup
		for range underWayEach {
			wg.Go(func() { ask(there, page+"?hold", "att_ci") })
		}
		synctest.Wait()
		for address, want := range map[string]int{there: 429, here: 200} {
			if w := ask(address, page, "att_other"); w.Code != want {
				t.Errorf("%s beside all that is under way: %d, want %d", address, w.Code, want)
			}
		}
		close(held)
		wg.Wait()
		if n := s.limits.places.Taken(); n != 0 {
			t.Errorf("%d places not left", n)
		}
		told := map[string]bool{}
		for kind := range s.refusals.counts {
			told[kind.reason+" "+kind.name+" "+kind.origin] = true
		}
		for _, want := range []string{"token  2001:db8::/64", "rate  2001:db8::/64", "rate token ci 192.0.2.7", "rate  127.0.0.1"} {
			if !told[want] {
				t.Errorf("%q is not told of: %v", want, told)
			}
		}
	})
}

// Tokens are read anew within seconds, and the last ones count while the database is away.
func TestTokensAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{}
		k := newKeyring(f)
		hour := time.Hour.Seconds()
		f.tokens = []store.GoodToken{
			{ID: 1, Name: "a", Hash: hashToken("att_a"), Scope: "read"},
			{ID: 2, Name: "b", Hash: hashToken("att_b"), Scope: "read", Seconds: &hour},
		}
		good := func(token, want string) {
			t.Helper()
			found, err := k.find(t.Context(), token)
			got := ""
			if found != nil {
				got = found.Name
			}
			if err != nil || got != want {
				t.Errorf("%s: found %q, %v; want %q", token, got, err, want)
			}
		}
		good("att_a", "a")
		good("att_b", "b")
		good("att_c", "")
		if f.looked != 1 {
			t.Errorf("read %d times", f.looked)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // of a bubble
		if err := k.record(t.Context()); err != nil || f.used[1] != time.Minute || len(f.used) != 2 {
			t.Errorf("recorded %v, %v", f.used, err)
		}
		f.tokens = f.tokens[1:]
		good("att_a", "")
		f.away = errors.New("away")
		time.Sleep(2 * time.Hour) //nolint:forbidigo // of a bubble
		good("att_b", "")         // it has expired meanwhile, whether or not anybody can be asked
		f.away, f.tokens = nil, []store.GoodToken{{ID: 3, Name: "c", Hash: hashToken("att_c"), Scope: "run"}}
		good("att_c", "")
		k.forget()
		good("att_c", "c")
		f.away = errors.New("away")
		if err := k.record(t.Context()); err == nil {
			t.Error("the failure is not told")
		}
		f.away = nil
		if err := k.record(t.Context()); err != nil || len(f.used) != 1 {
			t.Errorf("recorded %v, %v; want the ones that failed before", f.used, err)
		}
		never := newKeyring(&fakes{away: errors.New("away")})
		if _, err := never.find(t.Context(), "att_a"); err == nil {
			t.Error("without ever having read the tokens one is refused for good")
		}
	})
	if one, two := newToken(), newToken(); one == two || len(one) < 40 || !strings.HasPrefix(one, tokenPrefix) {
		t.Errorf("tokens %q and %q", one, two)
	}
}

// silence is a database that answers nothing while it is away.
type silence struct {
	*fakes
	gone atomic.Bool
}

func (s *silence) GoodTokens(ctx context.Context) ([]store.GoodToken, error) {
	if s.gone.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.fakes.GoodTokens(ctx)
}

// While the database is away, one look in the beginning is waited for, and no request after it.
func TestNobodyWaitsForADatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &silence{fakes: &fakes{tokens: []store.GoodToken{{ID: 1, Name: "a", Hash: hashToken("att_a"), Scope: "read"}}}}
		k := newKeyring(s)
		wait := func() time.Duration {
			began := time.Now()
			if found, err := k.find(t.Context(), "att_a"); found == nil || err != nil {
				t.Errorf("found %v, %v", found, err)
			}
			return time.Since(began)
		}
		if waited := wait(); waited != 0 {
			t.Errorf("the first waits %s", waited)
		}
		s.gone.Store(true)
		time.Sleep(tokensFresh) //nolint:forbidigo // of a bubble
		if waited := wait(); waited != tokensPatience {
			t.Errorf("the first after it went waits %s", waited)
		}
		for range 10 {
			time.Sleep(tokensFresh) //nolint:forbidigo // of a bubble
			if waited := wait(); waited != 0 {
				t.Errorf("another waits %s", waited)
			}
		}
		// Who goes away meanwhile does not wait either.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := newKeyring(s).find(ctx, "att_a"); !errors.Is(err, context.Canceled) {
			t.Errorf("found %v", err)
		}
		time.Sleep(tokensPatience) //nolint:forbidigo // of a bubble
	})
}

// What a token follows ends with it.
func TestRevokedTokensFollowNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakes{}
		minute := time.Minute.Seconds()
		f.tokens = []store.GoodToken{
			{ID: 1, Name: "a", Hash: hashToken("att_a"), Scope: "read"},
			{ID: 2, Name: "b", Hash: hashToken("att_b"), Scope: "read"},
			{ID: 3, Name: "c", Hash: hashToken("att_c"), Scope: "read", Seconds: &minute},
		}
		k := newKeyring(f)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go k.watch(ctx)
		var visits []context.Context
		for _, token := range []string{"att_a", "att_b", "att_c"} {
			found, err := k.find(ctx, token)
			if err != nil || found == nil {
				t.Fatal(found, err)
			}
			visiting, leave := k.visit(ctx, found.ID)
			defer leave()
			visits = append(visits, visiting)
		}
		over := func(want ...bool) {
			t.Helper()
			time.Sleep(tokensFresh + time.Millisecond) //nolint:forbidigo // of a bubble
			for i, visiting := range visits {
				if (visiting.Err() != nil) != want[i] {
					t.Errorf("visit %d: %v", i, visiting.Err())
				}
			}
		}
		over(false, false, false)
		f.mu.Lock()
		f.tokens = f.tokens[1:2]
		f.mu.Unlock()
		over(true, false, true)
	})
	synctest.Test(t, func(t *testing.T) { // the database is away, and one expires
		soon := time.Minute.Seconds()
		s := &silence{fakes: &fakes{tokens: []store.GoodToken{{ID: 3, Name: "c", Hash: hashToken("att_c"), Scope: "read", Seconds: &soon}}}}
		k := newKeyring(s)
		ctx, cancel := context.WithCancel(t.Context())
		go k.watch(ctx)
		_, err := k.find(ctx, "att_c")
		visiting, leave := k.visit(ctx, 3)
		defer leave()
		s.gone.Store(true)
		time.Sleep(30 * time.Second) //nolint:forbidigo // of a bubble
		if err != nil || visiting.Err() != nil {
			t.Errorf("it ended early: %v, %v", err, visiting.Err())
		}
		time.Sleep(time.Minute) //nolint:forbidigo // of a bubble
		if visiting.Err() == nil {
			t.Error("it outlives its token")
		}
		cancel()
		time.Sleep(tokensPatience) //nolint:forbidigo // of a bubble
	})
}

// Refusals are told as they come first, and then counted.
func TestRefusalsAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &fakes{}
		f := newRefusals(slog.New(slog.DiscardHandler), nil, b.Audit)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go f.run(ctx)
		for i := range 3 * maxRefusals {
			f.note(refusedToken, "", fmt.Sprintf("192.0.%d.%d", i/200, i%200))
			f.note(refusedToken, "", "2001:db8::1")
			f.note(refusedToken, "", "2001:db8::2")
		}
		synctest.Wait()
		if n := len(b.recorded()); n != maxRefusals+1 {
			t.Errorf("%d rows at once, want %d", n, maxRefusals+1)
		}
		time.Sleep(refusalsPeriod) //nolint:forbidigo // of a bubble
		synctest.Wait()
		rest := map[string]string{}
		for _, a := range b.recorded()[maxRefusals+1:] {
			rest[a.Origin.From] = string(a.Detail)
		}
		want := map[string]string{"many": `{"count":401}`, "2001:db8::/64": `{"count":1200}`}
		if diff := cmp.Diff(want, rest); diff != "" {
			t.Errorf("a minute later (-want +got):\n%s", diff)
		}
	})
}
