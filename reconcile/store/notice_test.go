package store_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// listening puts rules on these triggers of core into force.
func listening(t *testing.T, s *store.Store, triggers ...string) {
	t.Helper()
	components := []manifest.Component{action("core", "echo")}
	for _, name := range triggers {
		components = append(components, trigger("core", name), rule("core", "on_"+name, "core."+name, nil))
	}
	apply(t, s, change("core", components...))
}

// taken gives what was noted, by its trigger, without the trigger's "core.".
func taken(t *testing.T, s *store.Store) (told []string, notices []store.Notice) {
	t.Helper()
	notices, err := s.TakeNotices(t.Context(), 0, false, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range notices {
		told = append(told, strings.TrimPrefix(n.Trigger, "core."))
	}
	return told, notices
}

func field(t *testing.T, n store.Notice, name string) any {
	t.Helper()
	var payload map[string]any
	if err := json.Unmarshal(n.Payload, &payload); err != nil {
		t.Fatal(err)
	}
	return payload[name]
}

// Where no rule listens, nothing of what happens is written down.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("core", action("core", "echo"), trigger("core", "execution_finished"), trigger("core", "pack_applied")))
	enqueue(t, s, store.NewExecution{Action: "core.echo"})
	c := claim(t, s, "n", 1)
	start(t, s, c...)
	finish(t, s, store.Outcome{Token: c[0].Token, Status: store.StatusSucceeded})
	if err := s.PutNode(t.Context(), store.Node{ID: "n", Host: "h"}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddNotices(t.Context(), []store.Notice{{Trigger: store.TriggerSensorStateChanged, EventID: "x", Payload: json.RawMessage("{}")}}); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, s, "SELECT count(*)::int FROM attune.notice"); n != 0 {
		t.Errorf("%d notices for nobody", n)
	}
	// From the moment that one does, every end is.
	listening(t, s, "execution_finished")
	enqueue(t, s, times(3, store.NewExecution{Action: "core.echo"})...)
	for i, c := range claim(t, s, "n", 3) {
		start(t, s, c)
		if !finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusSucceeded})[0] {
			t.Error("refused")
		}
		if n := one[int](t, s, "SELECT count(*)::int FROM attune.notice"); n != i+1 {
			t.Errorf("%d notices of %d ends", n, i+1)
		}
	}
}

// Every way in which an execution ends is noted with it, and once.
func TestEndsAreNoted(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.NewURL(t), func(o *store.Options) {
		o.Concurrency = func(action string, _ json.RawMessage) (string, bool) { return "", action == "a.once" }
	})
	listening(t, s, "execution_finished")
	apply(t, s, change("a", action("a", "x"), action("a", "once", func(a *manifest.Action) {
		a.Concurrency = &manifest.Concurrency{Max: 1, Policy: "skip"}
	}), action("a", "again", onLostRetry), trigger("a", "t")))
	caused := commit(t, s, matchAll("a.x", 1), store.NewEvent{Trigger: "a.t", Source: "s", Payload: json.RawMessage("{}"), Depth: 3})
	want := map[int64]string{}
	enqueue(t, s, times(4, store.NewExecution{Action: "a.x", RequestedBy: "ada"})...)
	claimed := claim(t, s, "n", 10)
	start(t, s, claimed...)
	statuses := []store.Status{store.StatusSucceeded, store.StatusFailed, store.StatusTimedOut, store.StatusCancelled, store.StatusFailed}
	code := 3
	for i, c := range claimed {
		o := store.Outcome{Token: c.Token, Status: statuses[i], ExitCode: &code, Error: "because"}
		finish(t, s, o)
		finish(t, s, o) // an answer that was lost
		want[c.ExecutionID] = string(statuses[i])
	}
	// Cancelled before it began, lost with its node, lost and tried again, skipped.
	waiting := enqueue(t, s, store.NewExecution{Action: "a.x"})
	if _, err := s.Cancel(t.Context(), waiting[0], "ada"); err != nil {
		t.Fatal(err)
	}
	want[waiting[0]] = "cancelled"
	lost := enqueue(t, s, store.NewExecution{Action: "a.x"})
	retried := enqueue(t, s, store.NewExecution{Action: "a.again"})
	start(t, s, claim(t, s, "dead", 10)...)
	if _, _, err := s.LoseNode(t.Context(), "dead"); err != nil {
		t.Fatal(err)
	}
	want[lost[0]] = "lost"
	skipped := enqueue(t, s, times(2, store.NewExecution{Action: "a.once"})...)
	want[skipped[1]] = "cancelled"

	have := map[int64]string{}
	_, notices := taken(t, s)
	for _, n := range notices {
		id := int64(field(t, n, "execution_id").(float64))
		if have[id] != "" {
			t.Errorf("execution %d is told twice: %s", id, n.Payload)
		}
		have[id] = field(t, n, "status").(string)
		if n.EventID != fmt.Sprintf("execution %d", id) || n.Trigger != store.TriggerExecutionFinished {
			t.Errorf("told as %+v", n)
		}
	}
	if fmt.Sprint(have) != fmt.Sprint(want) {
		t.Errorf("told %v, want %v; %d is tried again", have, want, retried[0])
	}
	i := slices.IndexFunc(notices, func(n store.Notice) bool { return field(t, n, "execution_id") == float64(caused[0].Executions[0]) })
	if i < 0 {
		t.Fatal("the execution of the event is not told")
	}
	n := notices[i]
	if n.Depth != 4 || field(t, n, "depth") != 3.0 || field(t, n, "rule") != "a.r" || field(t, n, "action") != "a.x" || field(t, n, "trigger") != "a.t" ||
		field(t, n, "exit_code") != 3.0 || field(t, n, "error") != "because" || field(t, n, "event_id") != float64(caused[0].ID) || field(t, n, "node") != "n" {
		t.Errorf("depth %d, told %s", n.Depth, n.Payload)
	}
}

// What is rolled back is not told.
func TestPacksAreNoted(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	broken := func(message string) manifest.Errors {
		return manifest.Errors{
			{Place: manifest.Place{File: "a/pack.yaml", Line: 2}, Severity: manifest.SeverityError, Message: message},
			{Place: manifest.Place{File: "a/pack.yaml", Line: 3}, Severity: manifest.SeverityWarning, Message: "odd"},
		}
	}
	listening(t, s, "pack_applied", "pack_failed")
	taken(t, s)
	first := change("a", action("a", "x"))
	apply(t, s, first)
	apply(t, s, first) // nothing changes
	refused := store.PackChange{Ref: "a", Directory: "/packs", Errors: broken("no such key")}
	apply(t, s, refused)
	apply(t, s, refused)
	refused.Errors = broken("another mistake")
	apply(t, s, refused)
	refused.Errors = broken("")[1:] // a warning is no failure
	apply(t, s, refused)
	bad := change("a", action("a", "x"))
	bad.Revision = files(map[string]string{"pack.yaml": "other"})
	bad.Revision.Content = func(string) ([]byte, error) { return nil, fmt.Errorf("gone") }
	if _, err := s.Apply(t.Context(), []store.PackChange{bad}); err == nil {
		t.Fatal("a revision without its files was applied")
	}
	told, notices := taken(t, s)
	if want := []string{"pack_applied", "pack_failed", "pack_failed"}; !slices.Equal(told, want) {
		t.Fatalf("told %q, want %q", told, want)
	}
	if n := notices[0]; field(t, n, "pack") != "a" || field(t, n, "revision") != 1.0 || field(t, n, "cause") != "edit" || fmt.Sprint(field(t, n, "changes")) != "[~ everything]" {
		t.Errorf("applied: %s", n.Payload)
	}
	errs := field(t, notices[2], "errors").([]any)
	if len(errs) != 1 || errs[0].(map[string]any)["message"] != "another mistake" || errs[0].(map[string]any)["line"] != 2.0 {
		t.Errorf("failed: %s", notices[2].Payload)
	}
}

func TestNodesAreNoted(t *testing.T) {
	t.Parallel()
	later := time.Duration(0)
	s := storetest.Open(t, storetest.NewURL(t), func(o *store.Options) {
		o.Now = func() time.Time { return time.Now().Add(later) }
	})
	listening(t, s, "node_state_changed")
	node := store.Node{ID: "n-1", Host: "n", PID: 7, Version: "1"}
	put := func(n store.Node) {
		if err := s.PutNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	reap := func() {
		if _, _, err := s.Reap(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	put(node)
	put(node)
	reap()
	sql(t, s, "UPDATE attune.node SET seen_at = now() - INTERVAL '1 minute'")
	reap() // as far as anybody can know, the clock was put forward
	later = store.LeaseDuration
	reap()
	reap()
	for range 2 {
		if _, err := s.Renew(t.Context(), node.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.RemoveNode(t.Context(), node.ID); err != nil {
		t.Fatal(err)
	}
	put(store.Node{ID: "n-2", Host: "n"})
	if _, _, err := s.LoseNode(t.Context(), "n-2"); err != nil {
		t.Fatal(err)
	}
	_, notices := taken(t, s)
	var have []string
	for _, n := range notices {
		have = append(have, fmt.Sprint(field(t, n, "node"), " ", field(t, n, "state")))
	}
	if want := []string{"n-1 joined", "n-1 lost", "n-1 back", "n-1 left", "n-2 joined", "n-2 lost"}; !slices.Equal(have, want) {
		t.Errorf("told %q, want %q", have, want)
	}
}

// That a node is back is noted of that node alone, once, and only where an enabled rule asks for it; what is known of
// it is put right in any case.
func TestWhoIsBack(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	for _, id := range []string{"n-1", "n-2"} {
		if err := s.PutNode(t.Context(), store.Node{ID: id, Host: "h"}); err != nil {
			t.Fatal(err)
		}
	}
	// back loses both nodes, renews the one, and gives what was noted.
	back := func(when string) []store.Notice {
		t.Helper()
		sql(t, s, "UPDATE attune.node SET seen_at = now() - INTERVAL '1 hour', lost_at = now()")
		for range 2 {
			if _, err := s.Renew(t.Context(), "n-1"); err != nil {
				t.Fatal(err)
			}
		}
		const want = "n-1 true true, n-2 false false"
		if got := one[string](t, s, "SELECT string_agg(concat_ws(' ', id, seen_at > now() - INTERVAL '1 minute', lost_at IS NULL), ', ' ORDER BY id) FROM attune.node"); got != strings.NewReplacer("true", "t", "false", "f").Replace(want) {
			t.Errorf("%s: seen and not lost are %s", when, got)
		}
		_, notices := taken(t, s)
		return notices
	}
	if noted := back("without a rule"); len(noted) > 0 {
		t.Errorf("noted without a rule: %+v", noted)
	}
	listening(t, s, "pack_failed")
	if noted := back("another rule"); len(noted) > 0 {
		t.Errorf("noted for a rule of something else: %+v", noted)
	}
	listening(t, s, "pack_failed", "node_state_changed")
	sql(t, s, "UPDATE attune.rule SET disabled_at = now(), disabled_by = 'ada' WHERE trigger_ref = 'core.node_state_changed'")
	if noted := back("a disabled rule"); len(noted) > 0 {
		t.Errorf("noted for a rule that is disabled: %+v", noted)
	}
	sql(t, s, "UPDATE attune.rule SET disabled_at = NULL, disabled_by = NULL")
	if noted := back("a rule"); len(noted) != 1 || field(t, noted[0], "node") != "n-1" || field(t, noted[0], "state") != "back" {
		t.Errorf("noted: %+v", noted)
	}
}

// Who takes notices has them until they are dropped, or too long.
func TestNoticesAreTakenOnce(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	listening(t, s, "sensor_state_changed")
	var added []store.Notice
	for i := range 5 {
		added = append(added, store.Notice{Trigger: store.TriggerSensorStateChanged, EventID: fmt.Sprint("e", i), Payload: json.RawMessage(`{"n": "a\u0000b"}`)})
	}
	if err := s.AddNotices(t.Context(), added); err != nil {
		t.Fatal(err)
	}
	first, err := s.TakeNotices(t.Context(), 0, false, 2)
	if err != nil || len(first) != 2 || first[0].EventID != "e0" || first[1].EventID != "e1" {
		t.Fatalf("took %+v, %v", first, err)
	}
	_, second := taken(t, s)
	if len(second) != 3 || second[0].EventID != "e2" {
		t.Fatalf("another took %+v", second)
	}
	if _, none := taken(t, s); len(none) != 0 {
		t.Errorf("taken twice: %+v", none)
	}
	if all, err := s.TakeNotices(t.Context(), first[0].ID, true, 1000); err != nil || len(all) != 4 || all[0].EventID != "e1" {
		t.Errorf("with those of others %+v, %v", all, err)
	}
	if err := s.DropNotices(t.Context(), []int64{first[0].ID, second[0].ID, second[1].ID, second[2].ID}); err != nil {
		t.Fatal(err)
	}
	sql(t, s, "UPDATE attune.notice SET taken_until = now() - INTERVAL '1 second'")
	if _, left := taken(t, s); len(left) != 1 || left[0].EventID != "e1" {
		t.Errorf("left behind: %+v", left)
	}
}

// Whatever takes executions from the queue ends them: it writes their history, and tells of it, or rules
// would miss their ends. Only what waits for quiet and is superseded was never due.
func TestEveryEndIsNoted(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	ends := 0
	for _, name := range s.QueryNames() {
		text := s.Query(name)
		if !strings.Contains(text, "DELETE FROM attune.queue") || name == "SupersedeExecutions" {
			continue
		}
		ends++
		if !strings.Contains(text, "INSERT INTO attune.execution (") {
			t.Errorf("%s ends executions and does not keep them", name)
		}
		if !strings.Contains(text, "'core.execution_finished'") {
			t.Errorf("%s ends executions and has no NOTE_ENDED", name)
		}
	}
	if ends == 0 {
		t.Error("no statement ends executions")
	}
}
