package store_test

import (
	"maps"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// The hot statements look into the queue by index and never into the history, with statistics from a
// time when the queue was empty, which is when a planner goes wrong.
//
// What claims by number finds by number: any other index it would walk for each.
func TestHotPlans(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "x")))
	history(t, s, 1000)
	sql(t, s, "ALTER TABLE attune.queue SET (autovacuum_enabled = false)")
	enqueue(t, s, times(2000, store.NewExecution{Action: "a.x"})...)
	claimed := claim(t, s, "n", 100)
	token := uuid.MustParse(claimed[0].Token)
	ids, tokens := []int64{claimed[0].ExecutionID}, []uuid.UUID{token}
	ends := pgx.StrictNamedArgs{
		"ids": ids, "tokens": tokens, "statuses": []string{"failed"}, "exit_codes": []*int{nil}, "signals": []string{""}, "errors": []string{""},
		"results":      []string{""},
		"stdout_texts": []string{""}, "stdout_bytes": []int64{0}, "stdout_omitted": []int64{0},
		"stderr_texts": []string{""}, "stderr_bytes": []int64{0}, "stderr_omitted": []int64{0},
	}
	queued := store.QueueArgs(t, store.NewExecution{Action: "a.x", Parameters: []byte(`{}`)})
	maps.Copy(queued, pgx.StrictNamedArgs{"last_claimed": 1, "node": "n", "lease_seconds": 30.0, "ready_revisions": ids, "known_ids": ids, "known_generations": ids})
	for name, args := range map[string]pgx.StrictNamedArgs{
		"EndAttempts":      ends,
		"PromoteScheduled": {},
		"PeekQueue":        {"most": 4, "after_pack": ""},
		"ClaimExecutions":  {"ids": ids, "node": "n", "most": 4, "lease_seconds": 30.0, "ready_revisions": ids, "known_ids": ids, "known_generations": ids},
		"QueueClaimed":     queued,
		"ClaimNext":        {"after_pack": "", "node": "n", "most": 4, "lease_seconds": 30.0, "ready_revisions": ids, "known_ids": ids, "known_generations": ids},
		"StartAttempts":    {"ids": ids, "tokens": tokens},
		"ReleaseAttempts":  {"ids": ids, "tokens": tokens},
		"LineUpReleased":   {"id": ids[0], "key": "x"},
		"LockConcurrency":  {"actions": []string{"a.x"}, "keys": []string{"x"}},
		"Admit":            {"actions": []string{"a.x"}, "keys": []string{"x"}, "ending": true},
		"StrayLines":       {"most": 10},
		"StillHeld":        {"ids": ids, "tokens": tokens},
		"RenewLeases":      {"node": "n", "lease_seconds": 30.0},
		"EndLapsed":        {"node": "", "living": []string{"n"}, "lease_seconds": 30.0, "only": 0, "reason": "", "most_attempts": 3, "longest_delay": 60.0},
		"CancelExecutions": {"ids": []int64{claimed[0].ExecutionID}, "cancelled_by": "x", "audited": true, "origin": "y", "request_id": "z"},
		"FinishAttempts": {
			"ids": ids, "tokens": tokens, "statuses": []string{"failed"}, "exit_codes": []*int{nil}, "signals": []string{""}, "errors": []string{""},
			"results": []string{""}, "retry_seconds": []*float64{nil}, "spares": []bool{false},
			"stdout_texts": []string{""}, "stdout_bytes": []int64{0}, "stdout_omitted": []int64{0},
			"stderr_texts": []string{""}, "stderr_bytes": []int64{0}, "stderr_omitted": []int64{0}, "arrivals": []string{"{1,2}"},
		},
	} {
		plan := explain(t, s, name, args)
		if strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "JIT") {
			t.Errorf("%s scans a table:\n%s", name, plan)
		}
		if strings.Contains(plan, "Bitmap") {
			t.Errorf("%s collects all that it may want before it takes the first:\n%s", name, plan)
		}
		if found := regexp.MustCompile(`(?m)(Seq|Index|Only|Heap) Scan .*on (execution|attempt|output|event|enforcement)_\w+`).FindString(plan); found != "" {
			t.Errorf("%s looks into the history: %s\n%s", name, found, plan)
		}
		if name == "ClaimExecutions" && strings.Contains(plan, "queue_waiting") {
			t.Errorf("%s looks for what it is given among all that waits:\n%s", name, plan)
		}
		if !strings.Contains(plan, "Index") {
			t.Errorf("%s uses no index, so this test understands nothing:\n%s", name, plan)
		}
	}
}

func explain(t *testing.T, s *store.Store, name string, args pgx.StrictNamedArgs) string {
	t.Helper()
	var lines []string
	err := pgx.BeginFunc(t.Context(), s.Pool(), func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), s.Query("HotSettings")); err != nil {
			return err
		}
		rows, err := tx.Query(t.Context(), "EXPLAIN "+s.Query(name), args)
		if err != nil {
			return err
		}
		lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return strings.Join(lines, "\n")
}
