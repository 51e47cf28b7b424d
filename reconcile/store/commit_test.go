package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func TestCommitEvents(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", trigger("a", "t"), sensor("a", "s", "a.t")))
	var events []store.NewEvent
	for i := range 5 {
		events = append(events, store.NewEvent{
			Trigger: "a.t", Source: "a.s", EventID: fmt.Sprint("e", i),
			Payload: object(t, map[string]int{"n": i}), Cursor: object(t, i),
		})
	}
	stored := commit(t, s, matchAll("a.x", 2), events...)
	for i, e := range stored {
		if e.Duplicate || len(e.Executions) != 2 || len(e.Matches) != 1 || e.CreatedAt.IsZero() {
			t.Errorf("%+v", e)
		}
		if i > 0 && (e.ID <= stored[i-1].ID || e.Executions[0] <= stored[i-1].Executions[1]) {
			t.Error("the order is lost")
		}
		got, enforcements, err := s.Event(t.Context(), e.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got.EventID != fmt.Sprint("e", i) || got.Source != "a.s" || string(got.Payload) != fmt.Sprintf(`{"n": %d}`, i) {
			t.Errorf("%+v", got)
		}
		want := []store.Enforcement{{EventID: e.ID, Rule: "a.r", Status: store.EnforcementMatched, Executions: e.Executions}}
		if diff := cmp.Diff(want, enforcements, cmpopts.IgnoreFields(store.Enforcement{}, "ID", "CreatedAt")); diff != "" {
			t.Error(diff)
		}
	}
	ran, _ := execution(t, s, stored[4].Executions[1])
	if *ran.EventID != stored[4].ID || *ran.Rule != "a.r" || *ran.Trigger != "a.t" || ran.RequestedBy != "rule" || string(ran.Parameters) != `{"n": 4}` {
		t.Errorf("%+v", ran)
	}
	if cursor, err := s.SensorCursor(t.Context(), "a.s"); err != nil || string(cursor) != "4" {
		t.Errorf("cursor %s: %v", cursor, err)
	}
	if claimed := claim(t, s, "n", 100); len(claimed) != 10 || claimed[0].EventID != stored[0].ID {
		t.Errorf("claimed %+v", claimed)
	}
}

// TestEventsAreStoredAsGiven has each of them alone in its group, where what is empty is left out of the statement, and
// then all in one.
func TestEventsAreStoredAsGiven(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", trigger("a", "t"), sensor("a", "s", "a.t")))
	original := commit(t, s, nil, store.NewEvent{Trigger: "a.t", Source: "api"})[0].ID
	plain := store.NewEvent{Trigger: "a.t", Source: "a.s", Payload: json.RawMessage(`{"n": 1}`)}
	events := []store.NewEvent{plain}
	for _, change := range []func(e *store.NewEvent){
		func(e *store.NewEvent) { e.Instance = "a.t#1" },
		func(e *store.NewEvent) { e.EventID = "e" },
		func(e *store.NewEvent) { e.Problem = "too old" },
		func(e *store.NewEvent) { e.Payload = json.RawMessage(`{"n": "\u0000"}`) },
		func(e *store.NewEvent) { e.ReplayOf = original },
		func(e *store.NewEvent) { e.Depth = 3 },
	} {
		e := plain
		change(&e)
		events = append(events, e)
	}
	check := func(given []store.NewEvent) {
		t.Helper()
		last := int64(0)
		for i, stored := range commit(t, s, nil, given...) {
			read, _, err := s.Event(t.Context(), stored.ID)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&stored.Event, read, cmpopts.IgnoreFields(store.Event{}, "Payload")); diff != "" {
				t.Errorf("told and stored differ: %s", diff)
			}
			e := given[i]
			if read.Trigger != e.Trigger || read.Source != e.Source || read.Instance != e.Instance || read.EventID != e.EventID ||
				read.Depth != e.Depth || e.ReplayOf != 0 && *read.ReplayOf != e.ReplayOf || !strings.Contains(read.Problem, e.Problem) ||
				read.Problem == e.Problem && !bytes.Equal(read.Payload, e.Payload) {
				t.Errorf("event %d is %+v", i, read)
			}
			if read.ID <= last {
				t.Error("the order is lost")
			}
			last = read.ID
		}
	}
	for _, e := range events {
		check([]store.NewEvent{e})
	}
	events[2].EventID = "another"
	check(events)
	for n := range 5 {
		events[n] = plain
		events[n].Payload = json.RawMessage(fmt.Sprintf(`{"n": %d}`, n))
	}
	check(events[:5])
}

// TestMatchesAreQueuedAsGiven has each of them alone in its group, where a shorter statement may do, and then all in one,
// where none does.
func TestMatchesAreQueuedAsGiven(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x"), trigger("a", "t"), sensor("a", "s", "a.t")))
	later := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	changes := []func(m *store.Match, e *store.NewExecution){
		func(*store.Match, *store.NewExecution) {},
		func(_ *store.Match, e *store.NewExecution) { e.Priority = 7 },
		func(_ *store.Match, e *store.NewExecution) { e.Ordinal = 1 },
		func(_ *store.Match, e *store.NewExecution) { e.Item = 1 },
		func(_ *store.Match, e *store.NewExecution) { e.DueAt = &later },
		func(_ *store.Match, e *store.NewExecution) { e.Timeout = time.Minute },
		func(_ *store.Match, e *store.NewExecution) { e.TimeoutTotal = time.Minute },
		func(_ *store.Match, e *store.NewExecution) { e.Retry = &manifest.Retry{MaxAttempts: 3} },
		func(_ *store.Match, e *store.NewExecution) { e.Secrets = map[string]string{"/n": "s"} },
		func(_ *store.Match, e *store.NewExecution) { e.Parameters = json.RawMessage(`{"k": "line"}`) },
		func(_ *store.Match, e *store.NewExecution) {
			e.Former = &store.Former{RevisionID: 1, Manifest: json.RawMessage(`{}`)}
		},
		func(_ *store.Match, e *store.NewExecution) { e.RequestedBy = "ada" },
		func(_ *store.Match, e *store.NewExecution) { e.Rule = "a.q" },
		func(_ *store.Match, e *store.NewExecution) { e.Trigger = "" },
		func(m *store.Match, _ *store.NewExecution) { m.Warnings = []string{"odd"} },
		func(m *store.Match, _ *store.NewExecution) { m.Executions = append(m.Executions, m.Executions...) },
		func(m *store.Match, _ *store.NewExecution) { m.Executions = nil },
		func(m *store.Match, _ *store.NewExecution) { m.Status, m.Executions = store.EnforcementThrottled, nil },
		func(m *store.Match, _ *store.NewExecution) { m.Status = store.EnforcementThrottled },
		func(m *store.Match, _ *store.NewExecution) { m.Error = "no" },
	}
	event := store.NewEvent{Trigger: "a.t", Source: "a.s", Payload: json.RawMessage(`{"n": 1}`)}
	queue := func(changes ...func(*store.Match, *store.NewExecution)) []string {
		t.Helper()
		given := make([]store.NewEvent, len(changes))
		for i := range given {
			given[i] = event
			given[i].Depth = i
		}
		stored := commit(t, s, func(_ context.Context, _ int64, events []store.Event) ([][]store.Match, error) {
			all := make([][]store.Match, len(events))
			for i := range events {
				m := store.Match{Rule: "a.r", Status: store.EnforcementMatched, Executions: []store.NewExecution{{
					Action: "a.x", Rule: "a.r", Trigger: "a.t", Parameters: events[i].Payload, RequestedBy: "rule",
				}}}
				changes[i](&m, &m.Executions[0])
				all[i] = []store.Match{m}
			}
			return all, nil
		}, given...)
		var texts []string
		for _, e := range stored {
			rows, err := s.Pool().Query(t.Context(), `
				SELECT concat(
					to_jsonb(enforcement) - '{id, event_id, created_at, execution_ids}'::text[],
					(SELECT jsonb_agg(to_jsonb(queue) - '{execution_id, event_id, enforcement_id, created_at, due_at, depth}'::text[]
						|| jsonb_build_object(
							'of', queue.enforcement_id = enforcement.id AND queue.event_id = enforcement.event_id,
							'depth', queue.depth = (SELECT depth FROM attune.event WHERE event.id = enforcement.event_id),
							'due', CASE WHEN queue.due_at > now() THEN queue.due_at END)
						ORDER BY place)
					FROM unnest(enforcement.execution_ids) WITH ORDINALITY AS known (id, place)
					JOIN attune.queue ON queue.execution_id = known.id))
				FROM attune.enforcement
				WHERE event_id = $1`, e.ID)
			if err != nil {
				t.Fatal(err)
			}
			text, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			if told := len(e.Executions); told != len(e.Matches[0].Executions) || !slices.IsSorted(e.Executions) {
				t.Errorf("%d executions are told: %v", told, e.Executions)
			}
			texts = append(texts, text)
		}
		return texts
	}
	var alone []string
	for _, change := range changes {
		alone = append(alone, queue(change)...)
	}
	if diff := cmp.Diff(queue(changes...), alone); diff != "" {
		t.Errorf("what is queued together (-) and alone (+) differ: %s", diff)
	}
	if !strings.Contains(alone[0], `"of": true`) || !strings.Contains(alone[0], `"depth": true`) {
		t.Errorf("the execution is not of its event and enforcement: %s", alone[0])
	}
	for i, change := range changes {
		if diff := cmp.Diff(alone[i], queue(changes[0], change)[1]); diff != "" {
			t.Errorf("what is queued alone (-) and after another (+) differ: %s", diff)
		}
	}
}

func TestCommitEventsFindsDuplicates(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	long := strings.Repeat("x", 5000)
	event := func(source, id string) store.NewEvent {
		return store.NewEvent{Trigger: "a.t", Source: source, EventID: id}
	}
	first := commit(t, s, matchAll("a.x", 1), event("s", "1"), event("s", "2"), event("s", "1"), event("s", long+"1"))
	if first[0].Duplicate || first[1].Duplicate || !first[2].Duplicate || first[2].ID != first[0].ID || len(first[2].Executions) != 0 {
		t.Errorf("inside a batch: %+v", first)
	}
	seen := 0
	counting := func(ctx context.Context, generation int64, events []store.Event) ([][]store.Match, error) {
		seen += len(events)
		return matchAll("a.x", 1)(ctx, generation, events)
	}
	second := commit(t, s, counting,
		event("s", "2"), event("other", "2"), event("s", ""), event("s", ""), event("s", long+"1"), event("s", long+"2"), event("s", "1"))
	want := []bool{true, false, false, false, true, false, true}
	var got []bool
	for _, e := range second {
		got = append(got, e.Duplicate)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if second[0].ID != first[1].ID || second[4].ID != first[3].ID || seen != 4 {
		t.Errorf("ids %d and %d, matched %d", second[0].ID, second[4].ID, seen)
	}
	if n := one[int](t, s, "SELECT count(*) FROM attune.event"); n != 7 {
		t.Errorf("%d events stored", n)
	}
	// A replay alone starts nothing and asks nobody.
	third := commit(t, s, func(context.Context, int64, []store.Event) ([][]store.Match, error) {
		t.Error("a duplicate was matched")
		return nil, nil
	}, event("s", "1"))
	if !third[0].Duplicate {
		t.Error("stored again")
	}
}

// Two nodes that replay the same events, in opposite orders, neither store twice nor deadlock.
func TestCommitEventsFromTwoNodes(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	const total = 50
	var fresh atomic.Int64
	var nodes sync.WaitGroup
	for node := range 2 {
		other := storetest.Open(t, url)
		nodes.Go(func() {
			for round := range 10 {
				var events []store.NewEvent
				for i := range total {
					n := i
					if node == 1 {
						n = total - 1 - i
					}
					events = append(events, store.NewEvent{Trigger: "a.t", Instance: "a.t#1", Source: "s", EventID: fmt.Sprint(round, "-", n)})
				}
				stored, err := other.CommitEvents(t.Context(), events, matchAll("a.x", 1))
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range stored {
					if !e.Duplicate {
						fresh.Add(1)
					}
					if e.ID == 0 {
						t.Error("a duplicate has no id")
					}
				}
			}
		})
	}
	nodes.Wait()
	if n := one[int64](t, s, "SELECT count(*) FROM attune.execution_now"); n != 10*total || fresh.Load() != n {
		t.Errorf("%d executions, %d fresh events", n, fresh.Load())
	}
}

func TestCommitEventsCleansPoison(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	poison := []string{
		`{"nul":"a\u0000b"}`, `{"half":"\ud800"}`, `{"big":1e200000}`, `{"big":1e999}`, `{"tiny":1e-20000}`,
		strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000),
		"{\"bytes\":\"\xff\"}", "not json", "\x00", "", `{"key\u0000":1}`,
	}
	var events []store.NewEvent
	for _, payload := range poison {
		events = append(events, store.NewEvent{Trigger: "a.t", Source: "s", Payload: json.RawMessage(payload)})
		events = append(events, store.NewEvent{Trigger: "a.t", Source: "s", Payload: json.RawMessage(`{"good": true}`)})
	}
	stored := commit(t, s, matchAll("a.x", 1), events...)
	for i, e := range stored {
		got, _, err := s.Event(t.Context(), e.ID)
		if err != nil {
			t.Fatal(err)
		}
		flagged := i%2 == 0 && poison[i/2] != ""
		if (got.Problem != "") != flagged || len(e.Executions) != 1 {
			t.Errorf("payload %.40q: problem %q, executions %v", events[i].Payload, got.Problem, e.Executions)
		}
		var value map[string]any
		if err := json.Unmarshal(got.Payload, &value); err != nil {
			t.Errorf("payload %.40q is stored as %.40q: %v", events[i].Payload, got.Payload, err)
		}
	}
}

// What a rule makes of one event may be refused too. It costs that event alone.
func TestCommitEventsSurvivesARefusedMatch(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	var calls int
	match := func(_ context.Context, _ int64, events []store.Event) ([][]store.Match, error) {
		calls++
		all := make([][]store.Match, len(events))
		for i, e := range events {
			status := store.EnforcementMatched
			if strings.Contains(string(e.Payload), "bad") || string(e.Payload) == "{}" {
				status = "no such status" // a CHECK refuses it
			}
			all[i] = []store.Match{{Rule: "a.r", Status: status, Executions: []store.NewExecution{{Action: "a.x", Rule: "a.r"}}}}
		}
		return all, nil
	}
	stored := commit(t, s, match,
		store.NewEvent{Trigger: "a.t", Source: "s", EventID: "1", Payload: json.RawMessage(`{"n":"good"}`)},
		store.NewEvent{Trigger: "a.t", Source: "s", EventID: "2", Payload: json.RawMessage(`{"n":"bad"}`)},
		store.NewEvent{Trigger: "a.t", Source: "s", EventID: "3", Payload: json.RawMessage(`{"n":"good"}`)},
	)
	if len(stored) != 3 || len(stored[0].Executions) != 1 || len(stored[1].Executions) != 0 || len(stored[2].Executions) != 1 {
		t.Fatalf("%+v", stored)
	}
	bad, enforcements, err := s.Event(t.Context(), stored[1].ID)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(bad.Problem, "refused") || len(enforcements) != 1 || enforcements[0].Status != store.EnforcementError || enforcements[0].Error == "" {
		t.Errorf("%+v, %+v", bad, enforcements)
	}
	if calls < 4 {
		t.Errorf("%d calls", calls)
	}
}

func TestCommitEventsRollsBackWithItsMatcher(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	broken := errors.New("no index")
	_, err := s.CommitEvents(t.Context(), []store.NewEvent{{Trigger: "a.t", Source: "s", EventID: "1"}},
		func(context.Context, int64, []store.Event) ([][]store.Match, error) { return nil, broken })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	_, err = s.CommitEvents(t.Context(), []store.NewEvent{{Trigger: "a.t", Source: "s", EventID: "1"}},
		func(context.Context, int64, []store.Event) ([][]store.Match, error) { return nil, nil })
	if err == nil {
		t.Error("an answer that is too short was taken")
	}
	if stored := commit(t, s, nil, store.NewEvent{Trigger: "a.t", Source: "s", EventID: "1"}); stored[0].Duplicate {
		t.Error("the first try left its key")
	}
}

// An apply cannot raise the generation under a commit that was matched by the older rules.
func TestCommitEventsHoldsTheGeneration(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	before := apply(t, s, change("a", trigger("a", "t")))
	applied := make(chan int64, 1)
	slow := func(ctx context.Context, generation int64, events []store.Event) ([][]store.Match, error) {
		if generation != before {
			t.Errorf("matched at generation %d, expected %d", generation, before)
		}
		go func() {
			generation, err := s.Apply(context.WithoutCancel(ctx), []store.PackChange{change("b", trigger("b", "t"))})
			if err != nil {
				t.Error(err)
			}
			applied <- generation
		}()
		waitFor(t, func() bool {
			return one[int](t, s, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%generation%' AND datname = current_database()") == 1
		})
		if now := one[int64](t, s, "SELECT number FROM attune.generation"); now != before {
			t.Errorf("generation %d while the commit is open", now)
		}
		return matchAll("a.x", 1)(ctx, generation, events)
	}
	commit(t, s, slow, store.NewEvent{Trigger: "a.t", Source: "s"})
	select {
	case after := <-applied:
		if after != before+1 {
			t.Errorf("generation %d, expected %d", after, before+1)
		}
	case <-time.After(patience):
		t.Error("the apply never came through")
	}
}

func waitFor(t testing.TB, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if condition() {
			return
		}
	}
	t.Fatal("it did not come to pass")
}

func TestLastDue(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", trigger("a", "t"), trigger("a", "u"), rule("a", "r", "a.t", nil), rule("a", "q", "a.u", nil)))
	instances := func() map[string]store.TriggerInstance {
		list, err := s.TriggerInstances(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		byTrigger := map[string]store.TriggerInstance{}
		for _, instance := range list {
			byTrigger[instance.Trigger] = instance
		}
		return byTrigger
	}
	before := instances()
	if before["a.t"].LastDue != nil || before["a.t"].AnchorAt.IsZero() {
		t.Errorf("%+v", before)
	}
	due := time.Now().Add(-time.Minute).UTC().Truncate(time.Microsecond)
	older := due.Add(-time.Hour)
	id := before["a.t"].ID
	commit(t, s, nil,
		store.NewEvent{Trigger: "a.t", Instance: id, Source: "s", Due: &due},
		store.NewEvent{Trigger: "a.t", Instance: id, Source: "s", Due: &older},
	)
	commit(t, s, nil, store.NewEvent{Trigger: "a.t", Instance: id, Source: "s", Due: &older})
	stored := commit(t, s, nil, store.NewEvent{Trigger: "a.u", Source: "s"})
	after := instances()
	if got := after["a.t"].LastDue; got == nil || !got.Equal(due) {
		t.Errorf("last due %v, expected %v", got, due)
	}
	if got := after["a.u"].LastDue; got == nil || !got.Equal(stored[0].CreatedAt) {
		t.Errorf("last event %v, expected %v", got, stored[0].CreatedAt)
	}
	if err := s.SetSensorCursor(t.Context(), "no.such", "", json.RawMessage(`1`)); err != nil {
		t.Error(err)
	}
}

func TestListEvents(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	stored := commit(t, s, nil,
		store.NewEvent{Trigger: "a.t", Source: "a.s"},
		store.NewEvent{Trigger: "a.u", Source: "api"},
		store.NewEvent{Trigger: "a.t", Source: "api"},
	)
	for name, test := range map[string]struct {
		filter store.EventFilter
		want   []int
	}{
		"all":     {store.EventFilter{}, []int{2, 1, 0}},
		"trigger": {store.EventFilter{Trigger: "a.t"}, []int{2, 0}},
		"source":  {store.EventFilter{Source: "api", Limit: 1}, []int{2}},
		"before":  {store.EventFilter{Before: stored[1].ID}, []int{0}},
		"since":   {store.EventFilter{Since: time.Now().Add(time.Hour)}, nil},
	} {
		found, err := s.ListEvents(t.Context(), test.filter)
		if err != nil {
			t.Fatal(err)
		}
		var got, want []int64
		for _, e := range found {
			got = append(got, e.ID)
		}
		for _, place := range test.want {
			want = append(want, stored[place].ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if _, _, err := s.Event(t.Context(), 424242); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// The connection is cut exactly at the commit, once before the server sees it and once after. In the
// first case nothing happened and an error says so; in the second the commit is found done.
func TestCommitThatLosesItsAnswer(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after=%v", after), func(t *testing.T) {
			t.Parallel()
			direct := storetest.NewURL(t)
			proxy := newProxy(t, direct)
			s := storetest.Open(t, proxy.url)
			match := func(ctx context.Context, generation int64, events []store.Event) ([][]store.Match, error) {
				proxy.cutAtCommit(after)
				return matchAll("a.x", 2)(ctx, generation, events)
			}
			stored, err := s.CommitEvents(t.Context(), []store.NewEvent{{Trigger: "a.t", Source: "s"}, {Trigger: "a.t", Source: "s"}}, match)
			count := one[int](t, s, "SELECT count(*) FROM attune.execution_now")
			if !after {
				if err == nil || !store.IsTransient(err) || count != 0 {
					t.Errorf("%d executions, error %v", count, err)
				}
				return
			}
			if err != nil || count != 4 {
				t.Fatalf("%d executions, error %v", count, err)
			}
			for _, e := range stored {
				if len(e.Executions) != 2 {
					t.Errorf("%+v", e)
					continue
				}
				if ran, _ := execution(t, s, e.Executions[0]); *ran.EventID != e.ID {
					t.Errorf("execution %d is of event %d, not %d", ran.ID, *ran.EventID, e.ID)
				}
			}
		})
	}
}

// holdSensor takes the lease of a sensor for a node.
func holdSensor(t testing.TB, s *store.Store, node, sensor string) (token string) {
	t.Helper()
	name := store.LeaseSensor + sensor
	tokens, err := s.HoldLeases(t.Context(), node, []string{name})
	if err != nil {
		t.Fatal(err)
	}
	return tokens[name]
}

// What a node stores for a sensor that another node has by now is left out whole, with its cursor and what
// rules make of it; its neighbours in the group are stored, in their order.
func TestEventsOfALostSensor(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	apply(t, s, change("a", trigger("a", "t"), sensor("a", "s", "a.t"), sensor("a", "u", "a.t")))
	lapse := func() {
		storetest.Exec(t, url, "UPDATE attune.lease SET lease_until = now() - INTERVAL '1 second'")
	}
	event := func(source, lease, id string) store.NewEvent {
		return store.NewEvent{Trigger: "a.t", Source: source, Lease: lease, EventID: id, Cursor: object(t, id)}
	}
	old, kept := holdSensor(t, s, "a", "a.s"), holdSensor(t, s, "a", "a.u")
	lapse()
	// Nobody took it: that the database was away for long costs nothing.
	if stored := commit(t, s, nil, event("a.s", old, "1")); stored[0].Fenced {
		t.Error("a lease that only lapsed counts as lost")
	}
	if again := holdSensor(t, s, "a", "a.s"); again != old {
		t.Error("who renews late gets another token, although nobody had it meanwhile")
	}
	lapse()
	now := holdSensor(t, s, "b", "a.s")
	if now == "" || now == old {
		t.Fatalf("b holds it by %q, a by %q", now, old)
	}
	stored := commit(t, s, matchAll("a.x", 1),
		event("a.u", kept, "2"), event("a.s", old, "3"), event("a.s", now, "4"), event("api", "", "5"), event("a.s", old, "6"))
	var fates []string
	for _, e := range stored {
		fates = append(fates, fmt.Sprintf("%s %t %d", e.EventID, e.Fenced, len(e.Executions)))
	}
	if diff := cmp.Diff([]string{"2 false 1", " true 0", "4 false 1", "5 false 1", " true 0"}, fates); diff != "" {
		t.Error(diff)
	}
	if found := one[string](t, s, "SELECT string_agg(event_id, ' ' ORDER BY id) FROM attune.event"); found != "1 2 4 5" {
		t.Errorf("stored are %s", found)
	}
	if stored := commit(t, s, matchAll("a.x", 1), event("a.s", old, "7")); !stored[0].Fenced {
		t.Errorf("%+v", stored[0])
	}
	if err := s.SetSensorCursor(t.Context(), "a.s", old, json.RawMessage(`"8"`)); !errors.Is(err, store.ErrNotHeld) {
		t.Errorf("a cursor of who lost the sensor: %v", err)
	}
	if cursor, err := s.SensorCursor(t.Context(), "a.s"); err != nil || string(cursor) != `"4"` {
		t.Errorf("cursor %s: %v", cursor, err)
	}
	if err := s.SetSensorCursor(t.Context(), "a.s", now, json.RawMessage(`"9"`)); err != nil {
		t.Error(err)
	}
}

// A group may be inserted before the one before it is committed; an apply comes between the two.
func TestGroupsOfEventsOverlap(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	apply(t, s, change("a", action("a", "x"), trigger("a", "t")))
	begin := func(ahead bool, ids ...string) *store.EventGroup {
		t.Helper()
		var events []store.NewEvent
		for _, id := range ids {
			events = append(events, store.NewEvent{Trigger: "a.t", Source: "s", EventID: id})
		}
		g, err := s.BeginEvents(t.Context(), events, ahead, nil)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	first := begin(false, "1", "2")
	second := begin(true, "3")
	applied := make(chan error, 1)
	go func() {
		_, err := s.Apply(t.Context(), []store.PackChange{change("b", action("b", "x"))})
		applied <- err
	}()
	eventually(t, "the apply waits", func() bool {
		return one[int](t, s, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()") == 1
	})
	var generations []int64
	match := func(ctx context.Context, generation int64, events []store.Event) ([][]store.Match, error) {
		generations = append(generations, generation)
		return matchAll("a.x", 1)(ctx, generation, events)
	}
	a, err := first.Commit(t.Context(), match)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-applied; err != nil {
		t.Fatal(err)
	}
	b, err := second.Commit(t.Context(), match)
	if err != nil {
		t.Fatal(err)
	}
	if len(a) != 2 || len(b) != 1 || b[0].ID <= a[1].ID || len(b[0].Executions) != 1 || b[0].Executions[0] <= a[1].Executions[0] {
		t.Errorf("stored %+v and %+v", a, b)
	}
	if len(generations) != 2 || generations[1] <= generations[0] {
		t.Errorf("matched in generations %v", generations)
	}

	begin(false, "4").Rollback(t.Context())
	if stored := commit(t, s, nil, store.NewEvent{Trigger: "a.t", Source: "s", EventID: "4"}); stored[0].Duplicate {
		t.Error("what was rolled back is stored")
	}
	if n := one[int](t, s, "SELECT count(*) FROM attune.event"); n != 4 {
		t.Errorf("%d events", n)
	}
}

// Many events have their numbers before they are inserted, so that the next group is inserted beside them and
// gets higher ones.
func TestGroupsOfEventsAreInsertedAtOnce(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "x"), trigger("a", "t")))
	group := func(first int) (events []store.NewEvent) {
		for n := range 100 {
			events = append(events, store.NewEvent{Trigger: "a.t", Source: "s", Payload: fmt.Appendf(nil, `{"n": %d}`, first+n)})
		}
		return events
	}
	lock, err := s.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Rollback(t.Context())
	if _, err := lock.Exec(t.Context(), "LOCK TABLE attune.event IN SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	type begun struct {
		group *store.EventGroup
		err   error
	}
	var groups []chan begun
	for n := range 3 {
		has, ended := make(chan struct{}), make(chan begun, 1)
		go func() {
			g, err := s.BeginEvents(t.Context(), group(100*n), n > 0, func() { close(has) })
			ended <- begun{g, err}
		}()
		select {
		case <-has:
		case b := <-ended:
			t.Fatalf("it ended without its numbers, or in spite of the lock: %v", b.err)
		}
		groups = append(groups, ended)
	}
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n, ended := range groups {
		b := <-ended
		if b.err != nil {
			t.Fatal(b.err)
		}
		stored, err := b.group.Commit(t.Context(), matchAll("a.x", 1))
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range stored {
			if len(e.Executions) != 1 || string(e.Payload) != fmt.Sprintf(`{"n": %d}`, 100*n+i) || e.CreatedAt.IsZero() {
				t.Fatalf("event %d of group %d: %+v", i, n, e)
			}
		}
	}
	if n := one[int](t, s, `SELECT count(*) FROM (
		SELECT (payload ->> 'n')::int AS n, row_number() OVER (ORDER BY id) - 1 AS place, trigger_ref, source FROM attune.event
	) AS e WHERE n = place AND trigger_ref = 'a.t' AND source = 's'`); n != 300 {
		t.Errorf("%d events are stored in their place, want 300", n)
	}
	if n := one[int](t, s, `SELECT count(*) FROM attune.enforcement JOIN attune.event ON event.id = enforcement.event_id AND event.created_at = enforcement.created_at`); n != 300 {
		t.Errorf("%d enforcements have their event, want 300", n)
	}
}

// A trigger had no event where its transaction was rolled back, and is not taken for one that had a moment ago.
func TestLastEventAfterARollback(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "x"), trigger("a", "t")))
	event := store.NewEvent{Trigger: "a.t", Source: "a.s"}
	refused := errors.New("refused")
	sql(t, s, "ALTER TABLE attune.enforcement ADD CONSTRAINT refused CHECK (rule_ref = '') NOT VALID")
	if _, err := s.CommitEvents(t.Context(), []store.NewEvent{event}, func(context.Context, int64, []store.Event) ([][]store.Match, error) {
		return nil, refused
	}); !errors.Is(err, refused) {
		t.Fatalf("%v, want %v", err, refused)
	}
	if _, err := s.CommitEvents(t.Context(), []store.NewEvent{event}, matchAll("a.x", 1)); err == nil {
		t.Fatal("an enforcement that the database refuses is stored")
	}
	var at *time.Time
	last := func() *time.Time {
		if err := s.Pool().QueryRow(t.Context(), "SELECT last_event_at FROM attune.trigger WHERE ref = 'a.t'").Scan(&at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	if last() != nil {
		t.Errorf("it had an event at %v", at)
	}
	sql(t, s, "ALTER TABLE attune.enforcement DROP CONSTRAINT refused")
	stored := commit(t, s, nil, event)
	if last() == nil || !at.Equal(stored[0].CreatedAt) {
		t.Errorf("its last event was at %v, want %v", at, stored[0].CreatedAt)
	}
}
