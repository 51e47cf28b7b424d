package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/rule"
	"github.com/attune-io/attune/exec/sensor"
	"github.com/attune-io/attune/exec/worker"
	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// fakes stand for the parts that need no database to be tested through HTTP.
type fakes struct {
	mu       sync.Mutex
	catalog  *store.Catalog
	panics   bool
	refuse   error // of the reconciler; nil: what each fake says
	unready  []string
	restarts []string
	lines    chan sensor.LogLine
	logAfter int64
	notices  chan string
	logCtx   context.Context
	tokens   []store.GoodToken
	away     error // why tokens cannot be read
	looked   int   // how often they were
	used     map[int64]time.Duration
	audits   []store.NewAudit
}

func (f *fakes) GoodTokens(context.Context) ([]store.GoodToken, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked++
	return slices.Clone(f.tokens), f.away
}

func (f *fakes) UseTokens(_ context.Context, ago map[int64]time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = ago
	return f.away
}

func (f *fakes) Audit(_ context.Context, a store.NewAudit) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.audits = append(f.audits, a)
	return nil
}

func (f *fakes) Catalog(context.Context, int64) (*store.Catalog, error) {
	if f.panics {
		panic("secret of the daemon")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.catalog, nil
}

func (f *fakes) List() []sensor.Info {
	return []sensor.Info{{Ref: "core.timer", State: sensor.StateRunning, PID: 42, Stderr: []string{"x"}}}
}

func (f *fakes) Logs(ctx context.Context, ref string, _ bool, after int64) (<-chan sensor.LogLine, string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logCtx, f.logAfter = ctx, after
	return f.lines, "journal", ref == "core.timer"
}

func (f *fakes) Restart(ref string) bool {
	f.restarts = append(f.restarts, ref)
	return ref == "core.timer"
}

func (f *fakes) Try(context.Context, string, sensor.Trial) (child.Exit, error) {
	return child.Exit{}, sensor.ErrUnknown
}

func (f *fakes) Follow(context.Context, int64) (<-chan worker.Chunk, int) { return nil, 0 }
func (f *fakes) Stats() worker.Stats                                      { return worker.Stats{Workers: 4} }

func (f *fakes) Plan(context.Context) (*reconcile.Plan, error) { return &reconcile.Plan{}, nil }
func (f *fakes) Status() reconcile.Status                      { return reconcile.Status{Mode: "apply"} }

func (f *fakes) Rollback(context.Context, string, int, string, string) (*reconcile.Report, error) {
	if f.refuse != nil {
		return nil, fmt.Errorf("cannot roll back pack core: %w", f.refuse)
	}
	return nil, &reconcile.RefusedError{Pack: "core", Revision: 1, Errors: manifest.Errors{{Message: "no such trigger"}}}
}

func (f *fakes) Unpin(context.Context, string, string) (*reconcile.Report, error) {
	if f.refuse != nil {
		return nil, fmt.Errorf("cannot unpin pack core: %w", f.refuse)
	}
	return nil, reconcile.ErrNotPinned
}

func (f *fakes) Difference(context.Context, string, string, string) (*reconcile.Difference, error) {
	return nil, reconcile.ErrNoSide
}

func (f *fakes) ReloadForced(context.Context, string, string) (*reconcile.Report, error) {
	if f.refuse != nil {
		return nil, fmt.Errorf("cannot reload the packs: %w", f.refuse)
	}
	return &reconcile.Report{Generation: 3, Errors: manifest.Errors{
		{Place: manifest.Place{File: "core/pack.yaml"}, Severity: manifest.SeverityError, Message: "m"},
		{Place: manifest.Place{File: "net/pack.yaml"}, Severity: manifest.SeverityError, Message: "m"},
	}}, nil
}

func (f *fakes) Newest(context.Context) (*rule.Index, error) {
	return rule.NewIndex(f.catalog, nil, slog.New(slog.DiscardHandler)), nil
}

func (f *fakes) Breakers() []store.Breaker {
	return []store.Breaker{{Rule: "core.r", Reason: "it storms"}}
}

func (f *fakes) Closed(string) {}

// ServeHTTP stands for the webhooks.
func (f *fakes) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprint(w, "a webhook")
}

func (f *fakes) TokensChanged() {}

func (f *fakes) Subscribe(channel string) (<-chan string, func()) {
	if channel == store.ChannelClaimed {
		return nil, func() {}
	}
	return f.notices, func() {}
}

// raise raises the generation, and says so.
func (f *fakes) raise() {
	f.mu.Lock()
	next := *f.catalog
	next.Generation++
	f.catalog = &next
	f.mu.Unlock()
	f.notices <- ""
}

func record(spec manifest.Component, enabled bool) *store.Record {
	head := spec.Head()
	return &store.Record{
		Kind: spec.Kind(), Ref: head.Ref, Pack: head.Pack, File: spec.Kind().Folder() + "/" + head.Name + ".yaml",
		Enabled: enabled, Present: true, ManifestEnabled: enabled, Spec: spec, TreeDigest: "d1",
	}
}

func head(ref string) manifest.Header {
	pack, name, _ := strings.Cut(ref, ".")
	return manifest.Header{Ref: ref, Pack: pack, Name: name, Label: "The " + name, Enabled: true}
}

func testCatalog() *store.Catalog {
	return &store.Catalog{
		Generation: 3,
		Packs: map[string]*store.PackRow{
			"core": {
				Ref: "core", Enabled: true, Present: true, Revision: 2, TreeDigest: "d1",
				Manifest: &manifest.Pack{Ref: "core", Version: "1.0.0", Enabled: true},
				Errors: manifest.Errors{{
					Place:    manifest.Place{File: "core/actions/echo.yaml", Line: 2, Col: 1},
					Severity: manifest.SeverityError, Ref: "core.echo", Kind: manifest.KindAction, Message: "broken",
				}},
			},
			"gone": {Ref: "gone"},
		},
		Actions: map[string]*store.Record{
			"core.echo": record(&manifest.Action{Header: head("core.echo")}, true),
			"core.off":  record(&manifest.Action{Header: head("core.off")}, false),
		},
		Triggers: map[string]*store.Record{"core.tick": record(&manifest.Trigger{Header: head("core.tick"), Type: "interval"}, true)},
		Sensors:  map[string]*store.Record{"core.timer": record(&manifest.Sensor{Header: head("core.timer"), TriggerTypes: []string{"core.tick"}}, true)},
		Rules: map[string]*store.Record{"core.r": record(&manifest.Rule{
			Header:  head("core.r"),
			Trigger: manifest.Use{Ref: "core.tick"}, Actions: []manifest.Use{{Ref: "core.echo"}},
		}, true)},
	}
}

// bundle is a server that runs, and clients for both its doors.
type bundle struct {
	*fakes
	server   *Server
	client   *Client
	registry *prometheus.Registry
	logged   *bytes.Buffer
	stop     func()
}

func setup(t *testing.T) *bundle {
	t.Helper()
	f := &fakes{catalog: testCatalog(), lines: make(chan sensor.LogLine, 10), notices: make(chan string, 10)}
	logged, registry := &syncBuffer{}, prometheus.NewRegistry()
	server, err := New(Options{
		Socket: filepath.Join(shortDir(t), "a.sock"), Listen: ":0", Info: Info{Version: "test"},
		Access: f, ServesHost: func(name string) bool { return name == "attune.example.com" }, Catalogs: f, Rules: f, Sensors: f, Workers: f, Reconciler: f, Notices: f, Webhooks: f,
		Unready: func(context.Context) []string { return f.unready }, Degraded: func() []string { return nil },
		Gatherer: registry, Logger: slog.New(slog.NewTextHandler(logged, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	client, err := NewSocketClient([]string{filepath.Join(t.TempDir(), "none.sock"), server.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	t.Cleanup(func() {
		client.Close()
		stop()
	})
	return &bundle{fakes: f, server: server, client: client, registry: registry, logged: &logged.Buffer, stop: stop}
}

type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

// overTCP sends a request to the TCP door.
func (b *bundle) overTCP(t *testing.T, method, path string, header map[string]string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, b.server.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		if name == "Host" {
			request.Host = value
			continue
		}
		request.Header.Set(name, value)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, answerOf(t, response)
}

func TestReadyTellsItsReasons(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.unready = []string{"the first scan is not applied", "the database does not answer"}
	status, body := b.overTCP(t, "GET", "/-/ready", nil)
	if status != 503 || body != "not ready\nthe first scan is not applied\nthe database does not answer\n" {
		t.Errorf("found %d %q", status, body)
	}
	if status, _ := b.overTCP(t, "GET", "/-/healthy", nil); status != 200 {
		t.Errorf("alive: found %d", status)
	}
}

func TestErrorsAreProblemDocuments(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tests := []struct {
		name string
		ask  func(context.Context) error
		want Error
	}{
		{
			"unknown action", func(ctx context.Context) error { _, err := b.client.Action(ctx, "core.ecko"); return err },
			Error{Title: "Not Found", Status: 404, Code: CodeNotFound, Detail: "action core.ecko is not known", Hint: "did you mean core.echo?"},
		},
		{
			"action without its pack", func(ctx context.Context) error { _, err := b.client.Action(ctx, "echo"); return err },
			Error{Title: "Not Found", Status: 404, Code: CodeNotFound, Detail: "action echo is not known", Hint: "did you mean core.echo?"},
		},
		{
			"unknown pack", func(ctx context.Context) error { _, err := b.client.Pack(ctx, "zzz/../../x"); return err },
			Error{Title: "Not Found", Status: 404, Code: CodeNotFound, Detail: "pack zzz/../../x is not known"},
		},
		{
			"unknown rule", func(ctx context.Context) error { _, err := b.client.Rule(ctx, "core.x"); return err },
			Error{Title: "Not Found", Status: 404, Code: CodeNotFound, Detail: "rule core.x is not known", Hint: "did you mean core.r?"},
		},
		{
			"disabled action", func(ctx context.Context) error {
				_, err := b.client.Execute(ctx, NewExecution{Action: "core.off"})
				return err
			},
			Error{Title: "Conflict", Status: 409, Code: CodeDisabled, Detail: "action core.off is disabled: its manifest says enabled: false", Hint: "edit core/actions/off.yaml"},
		},
		{"parameters of an action that takes none", func(ctx context.Context) error {
			_, err := b.client.Execute(ctx, NewExecution{Action: "core.echo", Parameters: map[string]any{"a": 1}})
			return err
		}, Error{
			Title: "Unprocessable Entity", Status: 422, Code: CodeInvalidParameters, Detail: "the parameters do not fit action core.echo",
			Hint: "see `attune action show core.echo`", Errors: []ErrorDetail{{Pointer: "/a"}},
		}},
		{"payload that is no object", func(ctx context.Context) error {
			_, err := b.client.Fire(ctx, "core.tick", Fire{Payload: json.RawMessage(`[1]`)})
			return err
		}, Error{Title: "Unprocessable Entity", Status: 422, Code: CodeInvalidParameters, Detail: "cannot use the payload for trigger core.tick: expected a JSON object"}},
		{"unknown status", func(ctx context.Context) error {
			_, err := b.client.Executions(ctx, ExecutionFilter{Status: []store.Status{"faild"}})
			return err
		}, Error{Title: "Bad Request", Status: 400, Code: CodeInvalidRequest, Detail: `cannot use status: found "faild"`, Hint: "did you mean failed?"}},
		{
			"bad since", func(ctx context.Context) error {
				_, err := b.client.Events(ctx, EventFilter{Since: "soon"})
				return err
			},
			Error{Title: "Bad Request", Status: 400, Code: CodeInvalidRequest, Detail: `cannot use since: found "soon"`},
		},
		{
			"limit out of range", func(ctx context.Context) error {
				_, err := b.client.Events(ctx, EventFilter{Limit: 100000})
				return err
			},
			Error{
				Title: "Unprocessable Entity", Status: 422, Code: CodeInvalidRequest, Detail: "cannot take the request: validation failed",
				Errors: []ErrorDetail{{Pointer: "limit", Message: "expected number <= 1000"}},
			},
		},
	}
	for _, test := range tests {
		err := test.ask(t.Context())
		var got *Error
		if !errors.As(err, &got) {
			t.Errorf("%s: found %v, want a problem", test.name, err)
			continue
		}
		if got.RequestID == "" {
			t.Errorf("%s: there is no request id", test.name)
		}
		got.RequestID = ""
		if test.name == "bad since" {
			got.Hint = ""
		}
		if test.name == "parameters of an action that takes none" && len(got.Errors) == 1 {
			got.Errors[0].Message = ""
		}
		if diff := cmp.Diff(test.want, *got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", test.name, diff)
		}
	}
}

// answered is the head of an answer whose body has been read.
type answered struct {
	StatusCode int
	Header     http.Header
}

// raw sends a request over the socket as it stands.
func (b *bundle) raw(t *testing.T, method, path, body string) (answered, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://attune"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := b.client.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	return answered{response.StatusCode, response.Header}, answerOf(t, response)
}

// answerOf reads an answer to its end, and closes it: where the linter sees that.
func answerOf(t *testing.T, response *http.Response) string {
	t.Helper()
	defer response.Body.Close()
	return whole(t, response.Body)
}

// whole reads to the end.
func whole(t *testing.T, from io.Reader) string {
	t.Helper()
	text, err := io.ReadAll(from)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rawWith gets something with a header, and its whole answer.
func (b *bundle) rawWith(t *testing.T, path, name, value string) (int, string) {
	t.Helper()
	response, err := b.client.do(t.Context(), http.MethodGet, strings.TrimPrefix(path, prefix), nil, nil, name, value)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, answerOf(t, response)
}

// Who has an answer already is told so, until it is another one; errors are told each time.
func TestTaggedAnswers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ask := func(path, known string) (status int, tag, body string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://attune/api/v1"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("If-None-Match", known)
		response, err := b.client.http.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, response.Header.Get("ETag"), answerOf(t, response)
	}
	for _, path := range []string{"/openapi.json", "/packs", "/packs/core", "/actions/core.echo", "/triggers", "/rules/core.r"} {
		status, tag, body := ask(path, `"other"`)
		if status != http.StatusOK || tag == "" || body == "" {
			t.Fatalf("%s: found %d %q %.50s", path, status, tag, body)
		}
		for _, known := range []string{tag, "W/" + tag, `"other", ` + tag, "*"} {
			if status, again, body := ask(path, known); status != http.StatusNotModified || again != tag || body != "" {
				t.Errorf("%s, If-None-Match %s: found %d %q %.50s", path, known, status, again, body)
			}
		}
	}
	_, tag, _ := ask("/packs/core", "")
	b.mu.Lock()
	row := *b.catalog.Packs["core"]
	row.Revision++
	b.catalog.Packs["core"] = &row
	b.mu.Unlock()
	if status, again, body := ask("/packs/core", tag); status != http.StatusOK || again == tag || body == "" {
		t.Errorf("after a change: found %d %q", status, again)
	}
	for path, want := range map[string]int{"/packs/none": http.StatusNotFound, "/sensors": http.StatusOK} {
		if status, tag, body := ask(path, "*"); tag != "" || body == "" || status != want {
			t.Errorf("%s: found %d %q", path, status, tag)
		}
	}
}

// Somebody who does not prove to be the daemon is not taken for none.
func TestUnknownAuthority(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	defer server.Close()
	client, err := NewClient(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = client.Status(t.Context())
	if !errors.Is(err, ErrUntrusted) || errors.Is(err, ErrNoDaemon) {
		t.Errorf("found %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tests := []struct {
		method, path, body string
		status             int
		code               Code
	}{
		{"GET", "/api/v1/nope", "", 404, CodeNotFound},
		{"GET", "/api/v2/packs", "", 404, CodeNotFound},
		{"DELETE", "/api/v1/packs", "", 405, CodeMethod},
		{"GET", "/api/v1/reload", "", 405, CodeMethod},
		{"GET", "/api/v1/packs?al=true", "", 422, CodeInvalidRequest},
		{"GET", "/api/v1/packs?all=maybe", "", 422, CodeInvalidRequest},
		{"GET", "/api/v1/executions/x", "", 422, CodeInvalidRequest},
		{"GET", "/api/v1/executions/0", "", 422, CodeInvalidRequest},
		{"GET", "/api/v1/events/99999999999999999999", "", 422, CodeInvalidRequest},
		{"POST", "/api/v1/executions", "", 400, CodeInvalidRequest},
		{"POST", "/api/v1/executions", "{", 400, CodeInvalidRequest},
		{"POST", "/api/v1/executions", "[]", 422, CodeInvalidRequest},
		{"POST", "/api/v1/executions", "{}", 422, CodeInvalidRequest},
		{"POST", "/api/v1/executions", `{"action_ref": 1}`, 422, CodeInvalidRequest},
		{"POST", "/api/v1/executions", `{"action_ref": "core.echo", "param": {}}`, 422, CodeInvalidRequest},
		{"POST", "/api/v1/executions", `{"action_ref": "core.echo", "parameters": "x"}`, 422, CodeInvalidParameters},
		{"POST", "/api/v1/executions", `{"action_ref": "` + strings.Repeat("x", maxBody) + `"}`, 413, CodeTooLarge},
	}
	for _, test := range tests {
		response, body := b.raw(t, test.method, test.path, test.body)
		var problem Error
		err := json.Unmarshal([]byte(body), &problem)
		if err != nil || response.StatusCode != test.status || problem.Status != test.status || problem.Code != test.code ||
			problem.Detail == "" || problem.RequestID == "" || response.Header.Get(requestHeader) != problem.RequestID {
			t.Errorf("%s %s %.60s: found %d %s (%v), want %d %s", test.method, test.path, test.body, response.StatusCode, body, err, test.status, test.code)
		}
		if got := response.Header.Get("Content-Type"); got != problemType {
			t.Errorf("%s %s: found content type %s", test.method, test.path, got)
		}
	}
}

// Who sends too much is told how much may be sent, and what to do instead, by the daemon and by the client.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const want = "cannot take the request: expected at most 1 MiB of parameters or payload, found "
	_, body := b.raw(t, http.MethodPost, "/api/v1/executions", `{"action_ref": "`+strings.Repeat("x", maxBody)+`"}`)
	var problem *Error
	if err := json.Unmarshal([]byte(body), &problem); err != nil || problem.Detail != want+"1.0 MiB" || problem.Hint == "" {
		t.Errorf("found %+v, %v", problem, err)
	}
	_, err := b.client.Execute(t.Context(), NewExecution{Action: "core.echo", Parameters: map[string]any{"message": strings.Repeat("x", 10_000_000)}})
	if problem = nil; !errors.As(err, &problem) || problem.Code != CodeTooLarge || problem.Detail != want+"9.5 MiB" {
		t.Errorf("found %v", err)
	} else if problem.RequestID != "" {
		t.Error("the client sent all that")
	}
}

func TestPanicIsAnAnswerWithTheRequestsID(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.panics = true
	_, err := b.client.Actions(t.Context(), ComponentFilter{})
	var problem *Error
	if !errors.As(err, &problem) || problem.Status != 500 || problem.Code != CodeInternal || strings.Contains(err.Error(), "secret") {
		t.Fatalf("found %#v", err)
	}
	b.stop()
	log := b.logged.String()
	if !strings.Contains(log, "request_id="+problem.RequestID) || !strings.Contains(log, "secret of the daemon") {
		t.Errorf("the log does not have it under the id %s: %s", problem.RequestID, log)
	}
}

func TestListsAndShows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	refs := func(what string, list any, err error, want ...string) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		encoded, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		var items []struct{ Ref string }
		if err := json.Unmarshal(encoded, &items); err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for _, item := range items {
			got = append(got, item.Ref)
		}
		if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	packs, err := b.client.Packs(ctx, ComponentFilter{})
	refs("packs", packs, err, "core")
	packs, err = b.client.Packs(ctx, ComponentFilter{All: true})
	refs("all packs", packs, err, "core", "gone")
	actions, err := b.client.Actions(ctx, ComponentFilter{})
	refs("actions", actions, err, "core.echo")
	actions, err = b.client.Actions(ctx, ComponentFilter{All: true, Pack: "core"})
	refs("all actions", actions, err, "core.echo", "core.off")
	actions, err = b.client.Actions(ctx, ComponentFilter{Pack: "nope"})
	refs("actions of no pack", actions, err)
	triggers, err := b.client.Triggers(ctx, ComponentFilter{Type: "interval"})
	refs("triggers", triggers, err, "core.tick")
	triggers, err = b.client.Triggers(ctx, ComponentFilter{Type: "cron"})
	refs("cron triggers", triggers, err)
	sensors, err := b.client.Sensors(ctx, ComponentFilter{State: "running", Trigger: "core.tick"})
	refs("sensors", sensors, err, "core.timer")
	sensors, err = b.client.Sensors(ctx, ComponentFilter{State: "backoff"})
	refs("sensors in backoff", sensors, err)
	rules, err := b.client.Rules(ctx, ComponentFilter{Trigger: "core.tick", Action: "core.echo"})
	refs("rules", rules, err, "core.r")
	rules, err = b.client.Rules(ctx, ComponentFilter{Action: "core.noop"})
	refs("rules of another action", rules, err)

	if response, body := b.raw(t, "GET", "/api/v1/actions?pack=nope", ""); body != "[]\n" || response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("an empty list is %q", body)
	}

	a, err := b.client.Action(ctx, "core.echo")
	if err != nil {
		t.Fatal(err)
	}
	if !a.Held || len(a.Errors) != 1 || a.Errors[0].Line != 2 || len(a.Manifest) == 0 || a.Label != "The echo" {
		t.Errorf("found %+v, want a held action with its error and its manifest", a)
	}
	p, err := b.client.Pack(ctx, "core")
	if err != nil {
		t.Fatal(err)
	}
	want := []ComponentState{{Ref: "core.echo", Label: "The echo", Enabled: true, Present: true, Held: true}, {Ref: "core.off", Label: "The off", Present: true, WhyDisabled: "its manifest says enabled: false"}}
	if diff := cmp.Diff(want, p.Actions); diff != "" {
		t.Error(diff)
	}
	if want := (ComponentCounts{1, 1, 1, 1}); p.Components != want {
		t.Errorf("found %+v, want %+v", p.Components, want)
	}
	s, err := b.client.Sensor(ctx, "core.timer")
	if err != nil || s.PID == nil || *s.PID != 42 || s.State != "running" || len(s.Stderr) != 1 {
		t.Errorf("found %+v, %v", s, err)
	}
	if _, err := b.client.RestartSensor(ctx, "core.timer"); err != nil || len(b.restarts) != 1 {
		t.Errorf("restart: %v, %v", err, b.restarts)
	}
	r, err := b.client.Rule(ctx, "core.r")
	if err != nil || r.Trigger != "core.tick" || r.Action != "core.echo" {
		t.Errorf("found %+v, %v", r, err)
	}
	plan, err := b.client.Plan(ctx, "")
	if err != nil || plan.Packs == nil {
		t.Errorf("found %+v, %v", plan, err)
	}
	report, err := b.client.Reload(ctx, "core")
	if err != nil || len(report.Errors) != 1 || report.Errors[0].File != "core/pack.yaml" {
		t.Errorf("found %+v, %v; want the errors of core alone", report, err)
	}
	if _, err := b.client.Reload(ctx, "cor"); !IsNotFound(err) {
		t.Errorf("found %v for an unknown pack", err)
	}
}

func TestSensorLogsAreStreamed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.lines <- sensor.LogLine{Number: 1, Text: "one"}
	b.lines <- sensor.LogLine{Number: 2, Text: "two <&>"}
	var got []string
	enough := errors.New("enough")
	err := b.client.SensorLogs(t.Context(), "core.timer", true, func(line string) error {
		got = append(got, line)
		if len(got) == 2 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatalf("found %v", err)
	}
	if diff := cmp.Diff([]string{"one", "two <&>"}, got); diff != "" {
		t.Error(diff)
	}
	b.mu.Lock()
	ctx := b.logCtx
	b.mu.Unlock()
	if ctx == nil {
		t.Fatal("the supervisor was not asked")
	}
	<-ctx.Done() // the supervisor is told that nobody listens any more
}

func TestStreamsEndWhenTheServerStops(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.lines <- sensor.LogLine{Number: 1, Text: "one"}
	first := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- b.client.SensorLogs(context.Background(), "core.timer", true, func(string) error {
			close(first)
			return nil
		})
	}()
	select {
	case <-first:
	case err := <-done:
		t.Fatalf("the stream ended before its first line: %v", err)
	}
	b.stop()
	// One that is cut off when the time of the shutdown is over ends with an error.
	if err := <-done; err != nil {
		t.Errorf("the stream ended with %v", err)
	}
	if _, err := b.client.Status(t.Context()); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("found %v after the stop, want ErrNoDaemon", err)
	}
}

func TestClientTellsWhatIsThere(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"":                      "expected http://host:port",
		"localhost:9753":        "expected http://host:port",
		"127.0.0.1:9753":        "expected http://host:port",
		"ftp://x":               "expected http://host:port",
		"unix://":               "expected http://host:port",
		"http://127.0.0.1:%zz/": "cannot read URL",
	} {
		if _, err := NewClient(url); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: found %v, want %s", url, err, want)
		}
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case prefix + "/packs":
			fmt.Fprint(w, "<html>")
		case prefix + "/actions":
			http.Redirect(w, r, "http://example.com", http.StatusFound)
		default:
			http.Error(w, "no", http.StatusBadGateway)
		}
	}))
	defer other.Close()
	client, err := NewClient(other.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Packs(t.Context(), ComponentFilter{}); err == nil || !strings.HasPrefix(err.Error(), "cannot read the answer of the daemon at "+other.URL) {
		t.Errorf("found %v", err)
	}
	if _, err := client.Actions(t.Context(), ComponentFilter{}); err == nil || !strings.Contains(err.Error(), "302 Found, expected an Attune daemon") {
		t.Errorf("found %v", err)
	}
	if _, err := client.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "502 Bad Gateway, expected an Attune daemon") {
		t.Errorf("found %v", err)
	}
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	for address, want := range map[string]error{
		strings.Replace(other.URL, "http://", "https://", 1):  ErrPlain,
		strings.Replace(secure.URL, "https://", "http://", 1): ErrTLS,
	} {
		client, err := NewClient(address)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.Status(t.Context()); !errors.Is(err, want) || !strings.HasPrefix(err.Error(), "cannot talk to the daemon at "+address) {
			t.Errorf("%s: found %v, want %v", address, err, want)
		}
	}
	gone, err := NewSocketClient([]string{"/nonexistent/a.sock", "/nonexistent/b.sock"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = gone.Status(t.Context())
	if want := "cannot reach a daemon at socket /nonexistent/a.sock, /nonexistent/b.sock: no daemon answers"; !errors.Is(err, ErrNoDaemon) || err.Error() != want {
		t.Errorf("found %v, want %s", err, want)
	}
	err = gone.unreachable(t.Context(), &url.Error{Op: "Get", URL: "/", Err: &deniedError{"/a.sock"}})
	if want := "cannot reach a daemon: no permission for socket /a.sock"; !errors.Is(err, ErrNoDaemon) || !errors.Is(err, ErrDenied) || err.Error() != want {
		t.Errorf("found %v, want %s", err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := gone.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("found %v for a caller that gave up", err)
	}
}

func TestOpenAPIDescribesEveryRoute(t *testing.T) {
	t.Parallel()
	b := setup(t)
	response, body := b.raw(t, "GET", prefix+"/openapi.json", "")
	var document struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Responses   map[string]any
		}
	}
	if err := json.Unmarshal([]byte(body), &document); err != nil || response.StatusCode != 200 {
		t.Fatalf("found %d, %v", response.StatusCode, err)
	}
	if !strings.HasPrefix(document.OpenAPI, "3.1") {
		t.Errorf("found version %s", document.OpenAPI)
	}
	operations := 0
	for path, methods := range document.Paths {
		for method, operation := range methods {
			operations++
			if operation.OperationID == "" || operation.Responses["200"] == nil || operation.Responses["default"] == nil {
				t.Errorf("%s %s: found %+v, want an id, a good answer and an error", method, path, operation)
			}
		}
	}
	if operations < 30 {
		t.Errorf("found %d operations: the document is not read", operations)
	}
}

// The page needs nothing from elsewhere, and has every operation and every code.
func TestPageTellsAll(t *testing.T) {
	t.Parallel()
	b := setup(t)
	response, body := b.raw(t, "GET", prefix+"/docs", "")
	if response.StatusCode != 200 || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/html") || strings.Contains(body, "src=") || strings.Contains(body, "href=") {
		t.Errorf("found %d %s", response.StatusCode, response.Header.Get("Content-Type"))
	}
	for path := range b.operations(t) {
		if !strings.Contains(body, "</span>"+path+"</code>") {
			t.Errorf("the page has no %s", path)
		}
	}
	for code := range statuses {
		if !strings.Contains(body, "<code>"+string(code)+"</code>") {
			t.Errorf("the page has no %s", code)
		}
	}
}

func TestRevisionsAreRefusedWithReasons(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	tests := map[string]struct {
		ask    func() error
		code   Code
		detail string
	}{
		"rollback": {func() error { _, err := b.client.Rollback(ctx, "core", NewRollback{}); return err }, CodeConflict, "no such trigger"},
		"unpin":    {func() error { _, err := b.client.Unpin(ctx, "core"); return err }, CodeConflict, "it is not pinned"},
		"diff":     {func() error { _, err := b.client.Difference(ctx, "core", "x", ""); return err }, CodeInvalidRequest, "expected the number of a revision"},
		"unknown":  {func() error { _, err := b.client.Rollback(ctx, "cor", NewRollback{}); return err }, CodeNotFound, "pack cor is not known"},
		"force all": {func() error {
			_, err := b.client.ForceReload(ctx, "")
			return err
		}, CodeInvalidRequest, "cannot force all packs"},
		"switch of nothing": {func() error {
			_, err := b.client.Switch(ctx, NewSwitch{Kind: manifest.KindRule, Refs: []string{}}, true)
			return err
		}, CodeInvalidRequest, "cannot take the request"},
		"switch of the unknown": {func() error {
			_, err := b.client.Switch(ctx, NewSwitch{Kind: manifest.KindRule, Refs: []string{"core.r", "core.q"}}, true)
			return err
		}, CodeNotFound, "rule core.q is not known"},
		"switch of a strange kind": {func() error {
			_, err := b.client.Switch(ctx, NewSwitch{Kind: "queue", Refs: []string{"x"}}, true)
			return err
		}, CodeInvalidRequest, "cannot take the request"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var problem *Error
			if err := test.ask(); !errors.As(err, &problem) || problem.Code != test.code || !strings.Contains(problem.Error(), test.detail) {
				t.Errorf("found %v, want %s with %q", err, test.code, test.detail)
			}
		})
	}
}

// TestWhatTheReconcilerRefuses: each of its errors has its status, its code and its hint, however it is wrapped,
// on every route that it may come from.
func TestWhatTheReconcilerRefuses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tests := map[string]struct {
		err    error
		status int
		code   Code
		said   string // in the detail, the hint or the single errors
		// anywhere says that a reload may meet it too.
		anywhere bool
	}{
		"plans only":     {reconcile.ErrPlanOnly, 409, CodeConflict, "the daemon applies nothing", false},
		"not pinned":     {reconcile.ErrNotPinned, 409, CodeConflict, "it is not pinned", false},
		"no longer fits": {&reconcile.RefusedError{Pack: "core", Revision: 1, Errors: manifest.Errors{{Message: "no such trigger"}}}, 409, CodeConflict, "no such trigger", false},
		"no pack":        {reconcile.ErrNoPack, 404, CodeNotFound, "`attune pack history` lists", false},
		"no revision":    {reconcile.ErrNoRevision, 404, CodeNotFound, "there is no such revision", false},
		"follows":        {&reconcile.FollowsError{Leader: "north"}, 409, CodeConflict, "ask the daemon of node north", true},
		"nobody leads":   {&reconcile.FollowsError{}, 409, CodeConflict, "ask again in half a minute", true},
		"lost the lead":  {store.ErrNotHeld, 409, CodeConflict, "nothing was applied; ask again", true},
		"moved":          {&store.MovedError{Packs: []string{"core"}}, 409, CodeConflict, "nothing was applied; ask again", true},
		"not there":      {store.ErrNotFound, 404, CodeNotFound, "", true},
		"database away":  {&net.OpError{Op: "dial", Net: "unix", Err: syscall.ECONNREFUSED}, 503, CodeUnavailable, "it is tried again", true},
		"anything else":  {errors.New("a mistake"), 500, CodeInternal, "a mistake", true},
	}
	for name, test := range tests {
		b.refuse = test.err
		routes := map[string]string{"/api/v1/packs/core/rollback": `{"revision": 1}`, "/api/v1/packs/core/unpin": ""}
		if test.anywhere {
			routes["/api/v1/reload"] = ""
		}
		for route, body := range routes {
			answer, text := b.raw(t, "POST", route, body)
			if answer.StatusCode != test.status || answer.Header.Get("Content-Type") != problemType ||
				!strings.Contains(text, `"code":"`+string(test.code)+`"`) || !strings.Contains(text, test.said) {
				t.Errorf("%s, %s: found %d %s\nwant %d %s with %q", name, route, answer.StatusCode, text, test.status, test.code, test.said)
			}
		}
	}
}

// TestWhatAStateForbids: what a thing's state forbids is a conflict, with what may be done instead.
func TestWhatAStateForbids(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.catalog
	verified := func(ref, kind, secret string) {
		c.Triggers[ref] = record(&manifest.Trigger{Header: head(ref), Type: manifest.TriggerWebhook, Verify: &manifest.Verify{Type: kind, Secret: secret}}, true)
	}
	verified("core.open", manifest.VerifyNone, "")
	verified("core.signed", manifest.VerifyGitHub, "{{ secret.hook }}")
	c.Sensors["core.young"] = record(&manifest.Sensor{Header: head("core.young")}, true)
	c.Sensors["core.quiet"] = record(&manifest.Sensor{Header: head("core.quiet")}, false)
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c.Sensors["core.quiet"].ManifestEnabled, c.Sensors["core.quiet"].DisabledBy = true, "alice"
	c.Sensors["core.quiet"].DisabledAt, c.Sensors["core.quiet"].DisabledReason = &since, "it is loud"
	c.Packs["held"] = &store.PackRow{Ref: "held", Present: true, Enabled: true, Revision: 4, PinnedBy: "alice", Manifest: &manifest.Pack{Ref: "held"}}
	c.Packs["core"].Manifest.System = true
	for _, test := range []struct {
		route, body string
		code        Code
		said        []string
	}{
		{"/reload?pack=held&force=true", "", CodeConflict, []string{"it is pinned to revision 4 by alice", "attune pack rollback held --unpin"}},
		{"/disable", `{"kind": "pack", "refs": ["core"]}`, CodeConflict, []string{"it is part of the system", "say --force"}},
		{"/triggers/core.tick/token", "{}", CodeConflict, []string{"it is no webhook, its type is interval"}},
		{"/triggers/core.open/token", "{}", CodeConflict, []string{"its verify is none"}},
		{"/triggers/core.signed/token", "{}", CodeConflict, []string{"checked by their signature (github)", "{{ secret.hook }}"}},
		{"/sensors/core.young/restart", "", CodeConflict, []string{"it is not supervised here yet", "try again in a moment"}},
		{"/sensors/core.quiet/restart", "", CodeDisabled, []string{
			"sensor core.quiet is disabled: alice disabled it at 2026-01-02T03:04:05Z (it is loud)", "`attune sensor enable core.quiet` takes that back",
		}},
		{"/executions", `{"action_ref": "core.off"}`, CodeDisabled, []string{"its manifest says enabled: false", "edit core/actions/off.yaml"}},
	} {
		answer, text := b.raw(t, "POST", "/api/v1"+test.route, test.body)
		if answer.StatusCode != 409 || !strings.Contains(text, `"code":"`+string(test.code)+`"`) {
			t.Errorf("%s: found %d %s, want 409 %s", test.route, answer.StatusCode, text, test.code)
		}
		for _, said := range test.said {
			if !strings.Contains(text, said) {
				t.Errorf("%s: found %s, want it to say %q", test.route, text, said)
			}
		}
	}
}

func TestSince(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "90s": now.Add(-90 * time.Second), "7d": now.AddDate(0, 0, -7), "1h30m": now.Add(-90 * time.Minute),
		"2026-01-02T03:04:05Z": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: found %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"7", "-1h", "-1d", "d", "1w", "yesterday", "99999999d", "2026-01-02"} {
		if got, err := parseSince(text, now); err == nil {
			t.Errorf("%q: accepted as %s", text, got)
		}
	}
}

// TestMetricsAreSqueezed asks as Prometheus does, and as curl does.
func TestMetricsAreSqueezed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	many := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "attune_many", Help: "Many."}, []string{"n"})
	for n := range 1000 {
		many.WithLabelValues(strconv.Itoa(n)).Set(1)
	}
	b.registry.MustRegister(many)
	_, plain := b.overTCP(t, "GET", "/metrics", map[string]string{"Accept-Encoding": "identity"})
	_, squeezed := b.overTCP(t, "GET", "/metrics", map[string]string{"Accept-Encoding": "gzip"})
	reader, err := gzip.NewReader(strings.NewReader(squeezed))
	if err != nil {
		t.Fatal(err)
	}
	if whole(t, reader) != plain || !strings.Contains(plain, `attune_many{n="999"} 1`) || len(squeezed) > len(plain)/3 {
		t.Errorf("%d bytes, squeezed %d", len(plain), len(squeezed))
	}
}
