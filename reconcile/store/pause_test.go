package store_test

import (
	"slices"
	"testing"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// A pause holds for all nodes and also where many wait, says who and why, and goes on queueing.
func TestPause(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	if was, err := s.Resume(t.Context(), "ada"); err != nil || was != nil {
		t.Errorf("resumed %+v, %v where nothing was paused", was, err)
	}
	first, changed, err := s.Pause(t.Context(), "ada", "the storage moves")
	if err != nil || !changed || first.By != "ada" || first.Reason != "the storage moves" || first.At.IsZero() {
		t.Fatalf("found %+v, %v, %v", first, changed, err)
	}
	if again, changed, err := s.Pause(t.Context(), "eve", ""); err != nil || changed || *again != *first {
		t.Errorf("found %+v, %v, %v: the first word stands", again, changed, err)
	}
	const many = 300 // so that claims look ahead
	ids := enqueue(t, s, times(many, store.NewExecution{Action: "a.x"})...)
	for range 3 {
		for _, node := range []string{"n", "m"} {
			if claimed, err := s.Claim(t.Context(), node, 4); err != nil || len(claimed) > 0 {
				t.Fatalf("claimed %d, %v while all is paused", len(claimed), err)
			}
		}
	}
	if err := s.PutNode(t.Context(), store.Node{ID: "n", Host: "h"}); err != nil {
		t.Fatal(err)
	}
	if e, _ := execution(t, s, ids[0]); e.WaitsFor == nil || *e.WaitsFor != "the end of a pause by ada (attune resume)" {
		t.Errorf("it waits for %v", e.WaitsFor)
	}
	stats, err := s.QueueStats(t.Context())
	if err != nil || stats.Pause == nil || *stats.Pause != *first {
		t.Errorf("found %+v, %v", stats, err)
	}

	was, err := s.Resume(t.Context(), "bob")
	if err != nil || was == nil || *was != *first {
		t.Fatalf("found %+v, %v", was, err)
	}
	if claimed := claim(t, s, "n", 4); !slices.Equal([]int64{claimed[0].ExecutionID, claimed[3].ExecutionID}, []int64{ids[0], ids[3]}) {
		t.Errorf("claimed %+v", claimed)
	}
	entries, err := s.ListAudit(t.Context(), store.AuditFilter{Object: "executions"})
	if err != nil || len(entries) != 2 || entries[0].Action != "resume" || entries[0].Actor != "bob" || entries[1].Action != "pause" || entries[1].Actor != "ada" {
		t.Errorf("the audit has %+v, %v", entries, err)
	}
}
