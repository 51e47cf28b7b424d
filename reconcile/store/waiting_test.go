package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// Every execution that has not begun says why.
func TestWaitsFor(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x", limited(1, ""))), change("b", action("b", "x")))
	want := func(id int64, text string) {
		t.Helper()
		if e, _ := execution(t, s, id); deref(e.WaitsFor) != text {
			t.Errorf("execution %d waits for %s, expected %s", id, deref(e.WaitsFor), text)
		}
	}
	due := time.Now().Add(time.Hour).Truncate(time.Second)
	later := enqueue(t, s, store.NewExecution{Action: "b.x", DueAt: &due})[0]
	want(later, "its time, "+due.UTC().Format(time.RFC3339))

	a := enqueue(t, s, keyed("k"), keyed("k"), keyed("k"))
	b := enqueue(t, s, store.NewExecution{Action: "b.x"}, store.NewExecution{Action: "b.x", Priority: 3}, store.NewExecution{Action: "b.x"})
	want(a[0], "a node: none lives")
	if err := s.PutNode(t.Context(), store.Node{ID: "n", Host: "h", PID: 1, Version: "v"}); err != nil {
		t.Fatal(err)
	}
	want(a[0], "its pack's turn among those that have something due")
	want(a[1], fmt.Sprintf("a place by its action's concurrency, key \"k\", which allows 1 at once; held by execution %d", a[0]))
	want(a[2], fmt.Sprintf("a place by its action's concurrency, key \"k\", which allows 1 at once; held by execution %d; 1 execution in front of it", a[0]))
	want(b[2], "2 executions of its pack before it, and other packs' turns")

	claimed := wantClaimed(t, s, a[0], b[0], b[1], b[2])
	want(a[0], "node n, which has taken it, to start it")
	free := enqueue(t, s, store.NewExecution{Action: "b.x"}, store.NewExecution{Action: "b.x"})
	want(free[0], "a free worker: 4 executions taken, by 1 node")
	want(free[1], "1 execution of its pack before it")
	for _, c := range claimed {
		switch c.ExecutionID {
		case b[0]:
			if err := s.PutOff(t.Context(), c.Token, "a tree to grow", time.Hour); err != nil {
				t.Fatal(err)
			}
			want(b[0], "a tree to grow")
		case b[1]:
			start(t, s, c)
			want(b[1], "(none)")
			finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusFailed, RetryAt: &due})
			e, _ := execution(t, s, b[1])
			want(b[1], "the time of its next attempt, "+e.DueAt.UTC().Format(time.RFC3339))
		case b[2]:
			start(t, s, c)
			finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusSucceeded})
			want(b[2], "(none)")
		}
	}
}
