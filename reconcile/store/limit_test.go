package store_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// matchLimited matches every event with one rule that has these limits.
func matchLimited(limits store.Limits) store.Matcher {
	return func(_ context.Context, _ int64, events []store.Event) ([][]store.Match, error) {
		all := make([][]store.Match, len(events))
		for i, e := range events {
			own := limits
			all[i] = []store.Match{{
				Rule: "a.r", Status: store.EnforcementMatched, Limits: &own,
				Executions: []store.NewExecution{{Action: "a.x", Rule: "a.r", Trigger: e.Trigger, EventID: e.ID, Parameters: e.Payload}},
			}}
		}
		return all, nil
	}
}

func event() store.NewEvent { return store.NewEvent{Trigger: "a.t", Source: "s"} }

// judged gives the statuses of the enforcements as they are stored, by event.
func judged(t *testing.T, s *store.Store) []string {
	t.Helper()
	rows, err := s.Pool().Query(t.Context(), "SELECT status FROM attune.enforcement ORDER BY event_id")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var statuses []string
	for rows.Next() {
		var status string
		if err := rows.Scan(&status); err != nil {
			t.Fatal(err)
		}
		statuses = append(statuses, status)
	}
	return statuses
}

// TestThrottleHoldsOverNodes has four nodes store events of one rule at once.
func TestThrottleHoldsOverNodes(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	const most = 17
	limits := store.Limits{
		Throttle: &manifest.Throttle{Max: most, Per: manifest.Duration(time.Hour)},
		Dedupe:   &manifest.Dedupe{Window: manifest.Duration(time.Hour)},
		Breaker:  &manifest.Breaker{Executions: 1000, Per: manifest.Duration(time.Hour), Failures: 5, Pause: manifest.Duration(time.Hour)},
	}
	var matched atomic.Int64
	var nodes sync.WaitGroup
	for node := range 4 {
		other := storetest.Open(t, url)
		nodes.Go(func() {
			for round := range 10 {
				own := limits
				own.Keys.Dedupe = fmt.Sprint(node, round) // each group of three is one event for it
				stored, err := other.CommitEvents(t.Context(), []store.NewEvent{event(), event(), event()}, matchLimited(own))
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range stored {
					matched.Add(int64(len(e.Executions)))
				}
			}
		})
	}
	nodes.Wait()
	if matched.Load() != most {
		t.Errorf("%d executions, want %d", matched.Load(), most)
	}
	if n := one[int64](t, s, "SELECT count(*) FROM attune.queue"); n != most {
		t.Errorf("%d in the queue", n)
	}
	for status, want := range map[string]int64{"matched": most, "deduplicated": 2 * most, "throttled": 120 - 3*most} {
		if n := one[int64](t, s, "SELECT count(*) FROM attune.enforcement WHERE status = $1", status); n != want {
			t.Errorf("%d %s, want %d", n, status, want)
		}
	}
}

// TestDebounceKeepsTheLast: what waits is in the queue, so that a restart does not matter.
func TestDebounceKeepsTheLast(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	limits := store.Limits{Debounce: &manifest.Debounce{Window: manifest.Duration(time.Hour)}}
	first := commit(t, s, matchLimited(limits), event(), event())
	if len(first[0].Executions) != 0 || len(first[1].Executions) != 1 {
		t.Fatalf("executions %v and %v", first[0].Executions, first[1].Executions)
	}
	second := commit(t, s, matchLimited(limits), event())
	if diff := cmp.Diff([]string{"skipped", "skipped", "matched"}, judged(t, s)); diff != "" {
		t.Error(diff)
	}
	_, enforcements, err := s.Event(t.Context(), first[1].ID)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("event %d came before it was quiet for 1h0m0s", second[0].ID); enforcements[0].Error != want || len(enforcements[0].Executions) != 0 {
		t.Errorf("%+v, want error %q", enforcements[0], want)
	}
	waiting, _ := execution(t, s, second[0].Executions[0])
	if waiting.Status != store.StatusScheduled || time.Until(*waiting.DueAt) < 50*time.Minute {
		t.Errorf("%s, due %v", waiting.Status, waiting.DueAt)
	}
	if n := one[int64](t, s, "SELECT count(*) FROM attune.execution_now"); n != 1 {
		t.Errorf("%d executions are left", n)
	}
	if n, err := s.WaitingForQuiet(t.Context(), "a.r"); err != nil || n != 1 {
		t.Errorf("%d wait: %v", n, err)
	}
	// Its hour is over.
	sql(t, s, "UPDATE attune.queue SET due_at = now() - INTERVAL '1 second'")
	sql(t, s, "UPDATE attune.rule_state SET state = jsonb_set(state, '{due}', '1')")
	if claimed := claim(t, s, "n", 10); len(claimed) != 1 || claimed[0].EventID != second[0].ID {
		t.Fatalf("claimed %+v", claimed)
	}
	// The next event finds nothing that waits, and takes nothing away.
	third := commit(t, s, matchLimited(limits), event())
	if n := one[int64](t, s, "SELECT count(*) FROM attune.execution_now"); n != 2 || len(third[0].Executions) != 1 {
		t.Errorf("%d executions", n)
	}
}

// TestDebounceLeavesWhatRuns: a state that lags behind the queue must cost neither a running execution
// nor one that is due.
func TestDebounceLeavesWhatRuns(t *testing.T) {
	t.Parallel()
	for name, become := range map[string]func(*testing.T, *store.Store){
		"due": func(t *testing.T, s *store.Store) {
			sql(t, s, "UPDATE attune.queue SET due_at = now() - INTERVAL '1 second'")
		},
		"running": func(t *testing.T, s *store.Store) {
			sql(t, s, "UPDATE attune.queue SET due_at = now() - INTERVAL '1 second'")
			if claimed := claim(t, s, "n", 10); len(claimed) != 1 {
				t.Fatalf("claimed %+v", claimed)
			}
			sql(t, s, "UPDATE attune.queue SET due_at = now() + INTERVAL '1 hour'")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.New(t)
			limits := store.Limits{Debounce: &manifest.Debounce{Window: manifest.Duration(time.Hour)}}
			commit(t, s, matchLimited(limits), event())
			become(t, s)
			commit(t, s, matchLimited(limits), event())
			if diff := cmp.Diff([]string{"matched", "matched"}, judged(t, s)); diff != "" {
				t.Error(diff)
			}
			if n := one[int64](t, s, "SELECT count(*) FROM attune.queue"); n != 2 {
				t.Errorf("%d in the queue", n)
			}
		})
	}
}

func TestBreakerLooksAtOutcomes(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "x")))
	limits := store.Limits{Breaker: &manifest.Breaker{Failures: 2, Pause: manifest.Duration(time.Hour)}}
	end := func(statuses ...store.Status) {
		t.Helper()
		for _, status := range statuses {
			stored := commit(t, s, matchLimited(limits), event())
			if len(stored[0].Executions) != 1 {
				t.Fatalf("%+v", stored[0].Matches)
			}
			claimed := claim(t, s, "n", 10)
			start(t, s, claimed...)
			for _, c := range claimed {
				finish(t, s, store.Outcome{Token: c.Token, Status: status})
			}
		}
	}
	stopped := func() bool {
		t.Helper()
		stored := commit(t, s, matchLimited(limits), event())
		m := stored[0].Matches[0]
		if (m.Status == store.EnforcementSkipped) != (len(stored[0].Executions) == 0) {
			t.Errorf("%+v", m)
		}
		if m.Status == store.EnforcementMatched {
			sql(t, s, "DELETE FROM attune.queue") // it says nothing, neither well nor badly
		}
		return m.Status == store.EnforcementSkipped
	}
	end(store.StatusFailed, store.StatusSucceeded, store.StatusFailed, store.StatusCancelled)
	if stopped() {
		t.Fatal("opened although one in between succeeded")
	}
	end(store.StatusTimedOut)
	for range 2 {
		if !stopped() {
			t.Fatal("two failures in a row did not open it, or it did not stay open")
		}
	}
	open, err := s.OpenBreakers(t.Context(), "")
	if err != nil || len(open) != 1 || open[0].Rule != "a.r" || !strings.HasPrefix(open[0].Reason, "its last 2 executions did not succeed") {
		t.Fatalf("%+v: %v", open, err)
	}
	if other, err := s.OpenBreakers(t.Context(), "a.other"); err != nil || len(other) != 0 {
		t.Errorf("%+v: %v", other, err)
	}
	reset, err := s.ResetRule(t.Context(), "a.r", "ada")
	if err != nil || !reset.Closed {
		t.Fatalf("%+v: %v", reset, err)
	}
	if stopped() {
		t.Error("a reset did not close it, or failures from before count")
	}
	end(store.StatusFailed)
	if stopped() {
		t.Error("one failure opened it")
	}
	end(store.StatusFailed)
	if !stopped() {
		t.Error("two new failures did not open it")
	}
	// Its time passes.
	sql(t, s, "UPDATE attune.rule_state SET state = jsonb_set(state, '{open_until}', to_jsonb((EXTRACT(EPOCH FROM now()) * 1000000)::bigint))")
	if stopped() {
		t.Error("it did not close by time")
	}
	if stopped() {
		t.Error("failures from before it closed count")
	}
}

func TestResetForgets(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	limits := store.Limits{
		Throttle: &manifest.Throttle{Max: 1, Per: manifest.Duration(time.Hour)},
		Debounce: &manifest.Debounce{Window: manifest.Duration(time.Hour)},
		Dedupe:   &manifest.Dedupe{Window: manifest.Duration(time.Hour)},
	}
	commit(t, s, matchLimited(limits), event())
	if reset, err := s.ResetRule(t.Context(), "a.other", "ada"); err != nil || reset != (store.Reset{}) {
		t.Errorf("another rule: %+v, %v", reset, err)
	}
	if reset, err := s.ResetRule(t.Context(), "a.r", "ada"); err != nil || reset != (store.Reset{Forgotten: 2}) {
		t.Errorf("%+v, %v", reset, err)
	}
	if n := one[int64](t, s, "SELECT count(*) FROM attune.queue"); n != 1 {
		t.Errorf("what waits for quiet is gone: %d in the queue", n)
	}
}

func TestRuleStatesArePruned(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	limits := store.Limits{Dedupe: &manifest.Dedupe{Window: manifest.Duration(time.Minute)}}
	for i := range 3 {
		limits.Keys.Dedupe = fmt.Sprint(i)
		commit(t, s, matchLimited(limits), event())
	}
	sql(t, s, "UPDATE attune.rule_state SET expires_at = now() - INTERVAL '1 second' WHERE key <> '1'")
	if _, err := s.Maintain(t.Context(), store.Retention{}); err != nil {
		t.Fatal(err)
	}
	if key := one[string](t, s, "SELECT string_agg(key, ',') FROM attune.rule_state"); key != "1" {
		t.Errorf("left: %s", key)
	}
}

// TestABrokenStateBeginsAnew: a hand in the table must not stop the stream of events.
func TestABrokenStateBeginsAnew(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	limits := store.Limits{Throttle: &manifest.Throttle{Max: 1, Per: manifest.Duration(time.Hour)}}
	commit(t, s, matchLimited(limits), event())
	sql(t, s, `UPDATE attune.rule_state SET state = '{"hits": "many"}'`)
	commit(t, s, matchLimited(limits), event(), event())
	if diff := cmp.Diff([]string{"matched", "matched", "throttled"}, judged(t, s)); diff != "" {
		t.Error(diff)
	}
}
