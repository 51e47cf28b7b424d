package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// token makes a token of a running daemon.
func (r *running) token(t *testing.T, n api.NewToken) string {
	t.Helper()
	made, err := r.client.CreateToken(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return made.Secret
}

// overTCP is a client that comes with a token.
func (r *running) overTCP(t *testing.T, token string) *api.Client {
	t.Helper()
	client, err := api.NewClient(r.server.URL(), api.WithToken(token))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// F103, F105, over a real network address: who listens there wants a certificate and a token first, and then lets
// nobody in without one.
func TestF103F105OpenToOthers(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	certFile, keyFile := writeCertificate(t, dir, "attune.example.com")
	r := &running{packs: filepath.Join(dir, "packs"), state: filepath.Join(dir, "state"), url: storetest.NewURL(t)}
	writePacks(t, r.packs, demoPack)
	flags := []Flag{
		{"http.listen", "0.0.0.0:0", "test"},
		{"http.tls_cert", certFile, "test"},
		{"http.tls_key", keyFile, "test"},
		{"http.hosts", "proxy.example.com", "test"},
	}
	config, err := FindConfig(os.DevNull, []string{"PATH=" + os.Getenv("PATH")}, append(flags,
		Flag{"state.directory", r.state, "test"}, Flag{"database.url", r.url, "test"}, Flag{"http.socket", filepath.Join(dir, "b.sock"), "test"})...)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(t.Context(), Options{Config: config, Logger: slog.New(slog.DiscardHandler), Version: "1", Binary: binary})
	if err == nil || !strings.Contains(err.Error(), "cannot listen on 0.0.0.0:0") || !strings.Contains(err.Error(), "attune token create") {
		t.Fatalf("without a token: %v", err)
	}
	// One that was revoked will do: somebody thought of it.
	s := storetest.Open(t, r.url)
	if _, err := s.AddToken(t.Context(), store.NewToken{Name: "first", Hash: []byte("x"), Scope: "admin", By: "test"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RevokeToken(t.Context(), "first", "test"); err != nil {
		t.Fatal(err)
	}
	r.run(t, flags...)

	_, port, err := net.SplitHostPort(strings.TrimPrefix(r.server.URL(), "https://"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	ask := func(method, path string, header map[string]string) (int, string) {
		t.Helper()
		name := "attune.example.com"
		request, err := http.NewRequestWithContext(t.Context(), method, "https://"+name+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range header {
			request.Header.Set(key, value)
		}
		if host := header["Host"]; host != "" {
			request.Host = host
		}
		transport := &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
			},
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	reads := r.token(t, api.NewToken{Name: "reads", Scope: api.ScopeRead})
	gone := r.token(t, api.NewToken{Name: "gone", Scope: api.ScopeAdmin})
	expired := r.token(t, api.NewToken{Name: "expired", Scope: api.ScopeAdmin, Expires: "1h"})
	storetest.Exec(t, r.url, "UPDATE attune.token SET expires_at = now() - interval '1 second' WHERE name = 'expired'")
	if _, err := r.client.RevokeToken(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what, method, path string
		header             map[string]string
		status             int
	}{
		{"a good token", "GET", "/api/v1/packs", map[string]string{"Authorization": "Bearer " + reads}, 200},
		{"under a name of http.hosts", "GET", "/api/v1/packs", map[string]string{"Authorization": "Bearer " + reads, "Host": "proxy.example.com"}, 200},
		{"another scope", "POST", "/api/v1/reload", map[string]string{"Authorization": "Bearer " + reads}, 403},
		{"none", "GET", "/api/v1/packs", nil, 401},
		{"expired", "GET", "/api/v1/packs", map[string]string{"Authorization": "Bearer " + expired}, 401},
		{"revoked", "GET", "/api/v1/packs", map[string]string{"Authorization": "Bearer " + gone}, 401},
		{"a wrong host", "GET", "/api/v1/packs", map[string]string{"Authorization": "Bearer " + reads, "Host": "rebound.example"}, 403},
		{"another site", "POST", "/api/v1/reload", map[string]string{"Authorization": "Bearer " + reads, "Origin": "https://evil.example"}, 403},
		{"metrics for outside", "GET", "/metrics", map[string]string{"X-Forwarded-For": "192.0.2.7"}, 401},
	} {
		if status, body := ask(test.method, test.path, test.header); status != test.status {
			t.Errorf("%s: found %d %s, want %d", test.what, status, body, test.status)
		}
	}
	for object, actor := range map[string]string{"token": "unknown", "scope": "token reads", "host": "unknown", "site": "unknown"} {
		eventually(t, func() error {
			rows, err := r.client.Audit(t.Context(), api.AuditFilter{Action: "refuse request", Object: object})
			if err == nil && (len(rows) == 0 || rows[0].Actor != actor) {
				err = fmt.Errorf("%s: the audit tells %+v, want %s", object, rows, actor)
			}
			return err
		})
	}

	// A new certificate is served on SIGHUP.
	writeCertificate(t, dir, "attune.example.com")
	r.signals <- syscall.SIGHUP
	eventually(t, func() error {
		if !strings.Contains(r.log.String(), "certificate reloaded") {
			return errors.New("the certificate is not reloaded")
		}
		return nil
	})
	if text, err = os.ReadFile(certFile); err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	if status, _ := ask("GET", "/api/v1/packs", map[string]string{"Authorization": "Bearer " + reads}); status != 200 {
		t.Errorf("with the new certificate: %d", status)
	}
}

// Every operation that changes something leaves a row in the audit that says who, what and from where.
func TestEveryChangeIsAudited(t *testing.T) {
	t.Parallel()
	// Nothing but a reload has the packs scanned: what a watch applied would be nobody's, and a revision more.
	r := start(t, Flag{"reconcile.debounce", "1h", "test"}, Flag{"reconcile.max_wait", "1h", "test"}, Flag{"reconcile.resync", "1h", "test"})
	c := r.overTCP(t, r.token(t, api.NewToken{Name: "ops", Scope: api.ScopeAdmin}))
	ctx := t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	gate := filepath.Join(t.TempDir(), "never")
	slow := api.NewExecution{Action: "demo.slow", Parameters: map[string]any{"gate": gate}}
	greet := api.NewExecution{Action: "demo.greet", Parameters: map[string]any{"name": "x", "token": "hunter2"}}
	var queued *api.ExecutionDetail
	edit := func(label string) {
		t.Helper()
		manifest := "ref: demo\nlabel: " + label + "\nversion: 1.0.0\n"
		if err := os.WriteFile(filepath.Join(r.packs, "demo/pack.yaml"), []byte(manifest), 0o644); err != nil {
			t.Fatal(err)
		}
		must(r.client.Reload(ctx, ""))
	}
	hook := []byte("name: hook\ntype: webhook\n")
	if err := os.WriteFile(filepath.Join(r.packs, "demo/triggers/hook.yaml"), hook, 0o644); err != nil {
		t.Fatal(err)
	}
	edit("Second")
	changes := map[string]struct {
		do                  func()
		action, object, has string // what the audit says
	}{
		"create-token": {func() { must(c.CreateToken(ctx, api.NewToken{Name: "made", Scope: api.ScopeRead})) }, "create token", "made", `"scope":"read"`},
		"revoke-token": {func() {
			must(c.CreateToken(ctx, api.NewToken{Name: "ended", Scope: api.ScopeRead}))
			must(c.RevokeToken(ctx, "ended"))
		}, "revoke token", "ended", `"scope":"read"`},
		"rollback": {func() { must(c.Rollback(ctx, "demo", api.NewRollback{Reason: "it is bad"})) }, "rollback pack", "demo", `"files_of_revision":2`},
		"unpin": {func() {
			must(r.client.Rollback(ctx, "demo", api.NewRollback{}))
			must(c.Unpin(ctx, "demo"))
		}, "unpin pack", "demo", `"pinned_by"`},
		"disable": {func() {
			must(c.Switch(ctx, api.NewSwitch{Kind: manifest.KindRule, Refs: []string{"demo.on_call"}, Reason: "noise"}, false))
		}, "disable rule", "demo.on_call", "noise"},
		"enable": {func() {
			must(r.client.Switch(ctx, api.NewSwitch{Kind: manifest.KindAction, Refs: []string{"demo.greet"}}, false))
			must(c.Switch(ctx, api.NewSwitch{Kind: manifest.KindAction, Refs: []string{"demo.greet"}}, true))
		}, "enable action", "demo.greet", `"disabled":true`},
		"pause":        {func() { must(c.Pause(ctx, api.NewPause{Reason: "a storm"})); must(r.client.Resume(ctx)) }, "pause", "executions", "a storm"},
		"resume":       {func() { must(r.client.Pause(ctx, api.NewPause{})); must(c.Resume(ctx)) }, "resume", "executions", `"paused":true`},
		"fire-trigger": {func() { must(c.Fire(ctx, "demo.called", api.Fire{Payload: json.RawMessage(`{"who":"nobody"}`)})) }, "fire trigger", "demo.called", "event_id"},
		"replay-event": {func() {
			fired, err := r.client.Fire(ctx, "demo.called", api.Fire{Payload: json.RawMessage(`{"who":"nobody"}`), EventID: "once"})
			must(fired, err)
			must(c.ReplayEvent(ctx, fired.ID, nil))
		}, "replay event", "", "event_id"},
		"restart-sensor": {func() { must(c.RestartSensor(ctx, "demo.once")) }, "restart sensor", "demo.once", ""},
		"test-sensor": {func() {
			stop := errors.New("enough")
			if err := c.TrySensor(ctx, "demo.once", func(*api.SensorTrialLine) error { return stop }); !errors.Is(err, stop) {
				t.Error(err)
			}
		}, "test sensor", "demo.once", ""},
		"reset-rule":        {func() { must(c.ResetRule(ctx, "demo.on_call")) }, "reset rule", "demo.on_call", "breaker_open"},
		"create-execution":  {func() { must(c.Execute(ctx, greet)) }, "run action", "", "demo.greet"},
		"create-executions": {func() { must(c.ExecuteBatch(ctx, []api.NewExecution{greet, greet})) }, "run action", "2 executions", "last_id"},
		"cancel-execution": {func() {
			running, err := r.client.Execute(ctx, slow)
			must(running, err)
			must(c.Cancel(ctx, running.ID))
		}, "cancel execution", "", "cancel"},
		"cancel-executions": {func() {
			due := time.Now().Add(time.Hour)
			later := greet
			later.DueAt = &due
			must(r.client.Execute(ctx, later))
			must(c.CancelAll(ctx, api.BulkChoice{Action: "demo.greet", Status: []string{"scheduled"}}))
		}, "cancel execution", "", `"scheduled"`},
		"rerun-execution": {func() {
			var err error
			queued, err = r.client.Execute(ctx, greet)
			must(queued, err)
			must(r.client.Output(ctx, queued.ID, true, func(*api.OutputLine) error { return nil }))
			must(c.Rerun(ctx, queued.ID, api.AsNow))
		}, "rerun execution", "", "rerun_of"},
		"rerun-executions": {func() { must(c.RerunAll(ctx, api.BulkChoice{IDs: []int64{queued.ID}}, api.AsNow)) }, "rerun execution", "", "demo.greet"},
		"reload": {func() {
			text := []byte("ref: demo\nlabel: Third\nversion: 1.0.0\n")
			if err := os.WriteFile(filepath.Join(r.packs, "demo/pack.yaml"), text, 0o644); err != nil {
				t.Fatal(err)
			}
			must(c.Reload(ctx, ""))
		}, "reload pack", "demo", "digest"},
		"webhook-token":        {func() { must(c.WebhookToken(ctx, "demo.hook")) }, "make webhook token", "demo.hook", ""},
		"rotate-webhook-token": {func() { must(c.RotateWebhookToken(ctx, "demo.hook", "1h")) }, "rotate webhook token", "demo.hook", "3600"},
	}
	reads := []string{"test-rule", "test-rule-since", "execution-ends"}
	for _, id := range changingOperations(t, r.client) {
		if _, known := changes[id]; !known && !slices.Contains(reads, id) {
			t.Errorf("operation %s changes something, and nobody looks for its row in the audit", id)
		}
	}
	// Some go on from what others did.
	order := []string{"rerun-execution", "webhook-token"}
	for _, id := range slices.Sorted(maps.Keys(changes)) {
		if !slices.Contains(order, id) {
			order = append(order, id)
		}
	}
	for _, id := range order {
		change := changes[id]
		change.do()
		rows, err := r.client.Audit(ctx, api.AuditFilter{Actor: "token ops", Action: change.action, Object: change.object, Limit: 1})
		must(rows, err)
		if len(rows) != 1 || rows[0].Origin != "127.0.0.1" || rows[0].RequestID == "" {
			t.Errorf("%s: found %+v", id, rows)
			continue
		}
		if text := string(rows[0].Before) + string(rows[0].After) + string(rows[0].Detail); !strings.Contains(text, change.has) {
			t.Errorf("%s: the audit tells %s, want %s", id, text, change.has)
		}
	}
	all, err := r.client.Audit(ctx, api.AuditFilter{Limit: 1000})
	must(all, err)
	for _, row := range all {
		if text, _ := json.Marshal(row); strings.Contains(string(text), "hunter2") || strings.Contains(string(text), "att_") {
			t.Errorf("a secret in the audit: %s", text)
		}
	}
}

// changingOperations are the ids of all that is not only read.
func changingOperations(t *testing.T, client *api.Client) []string {
	t.Helper()
	text, err := client.Document(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, methods := range document.Paths {
		for method, op := range methods {
			if method != "get" {
				ids = append(ids, op.OperationID)
			}
		}
	}
	if len(ids) < 20 {
		t.Fatalf("found %d operations: the document is not read", len(ids))
	}
	return ids
}

// A daemon whose role can change nothing of the schema does everything.
func TestDaemonOfARestrictedRole(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	r := &running{packs: filepath.Join(dir, "packs"), state: filepath.Join(dir, "state"), url: storetest.Runtime(t, storetest.NewURL(t))}
	writePacks(t, r.packs, demoPack)
	r.run(t)
	queued, err := r.client.Execute(t.Context(), api.NewExecution{Action: "demo.greet", Parameters: map[string]any{"name": "you"}})
	if err != nil {
		t.Fatal(err)
	}
	done, err := r.client.Output(t.Context(), queued.ID, true, func(*api.OutputLine) error { return nil })
	if err != nil || done.Status != store.StatusSucceeded {
		t.Fatalf("found %+v, %v", done, err)
	}
	if _, err := r.client.Fire(t.Context(), "demo.called", api.Fire{Payload: json.RawMessage(`{"who":"nobody"}`)}); err != nil {
		t.Error(err)
	}
	if _, err := r.store.Maintain(t.Context(), r.retention()); err != nil {
		t.Error(err)
	}
	if text := r.log.String(); strings.Contains(text, "permission denied") {
		t.Error("something was denied")
	}
}
