package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// counted is a store whose executions are counted by their parameter k where they have one.
func counted(t *testing.T, url string, edit ...func(*store.Options)) *store.Store {
	t.Helper()
	return storetest.Open(t, url, append(edit, func(o *store.Options) {
		o.Concurrency = func(_ string, parameters json.RawMessage) (string, bool) {
			var p struct{ K *string }
			if json.Unmarshal(parameters, &p) != nil || p.K == nil {
				return "", false
			}
			return *p.K, true
		}
	})...)
}

func limited(most int, policy string) func(*manifest.Action) {
	return func(a *manifest.Action) {
		a.Concurrency = &manifest.Concurrency{Max: most, Key: "parameters.k", Policy: policy}
	}
}

func keyed(k string, edit ...func(*store.NewExecution)) store.NewExecution {
	e := store.NewExecution{Action: "a.x", Parameters: json.RawMessage(`{"k":"` + k + `"}`)}
	for _, f := range edit {
		f(&e)
	}
	return e
}

func ids(claimed []store.Claimed) []int64 {
	list := make([]int64, len(claimed))
	for i, c := range claimed {
		list[i] = c.ExecutionID
	}
	slices.Sort(list)
	return list
}

func wantClaimed(t *testing.T, s *store.Store, want ...int64) []store.Claimed {
	t.Helper()
	claimed := claim(t, s, "n", 100)
	if got := ids(claimed); !slices.Equal(got, want) {
		t.Fatalf("claimed %v, expected %v", got, want)
	}
	return claimed
}

func wantEnded(t *testing.T, s *store.Store, id int64, text string) {
	t.Helper()
	e, _ := execution(t, s, id)
	if e.Status != store.StatusCancelled || e.Error == nil || *e.Error != text || e.FinishedAt == nil {
		t.Errorf("execution %d is %s, error %v; expected it cancelled: %s", id, e.Status, deref(e.Error), text)
	}
}

func deref(text *string) string {
	if text == nil {
		return "(none)"
	}
	return *text
}

func TestConcurrencyQueues(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x", limited(2, ""))))
	urgent := func(e *store.NewExecution) { e.Priority = 5 }
	a := enqueue(t, s, keyed("a"), keyed("a"), keyed("a"), keyed("a", urgent), keyed("a"))
	b := enqueue(t, s, keyed("b"))[0]
	free := enqueue(t, s, store.NewExecution{Action: "a.x"}, store.NewExecution{Action: "a.y"})

	// The one that is urgent goes first of those that were queued together.
	claimed := wantClaimed(t, s, a[0], a[3], b, free[0], free[1])
	if e, _ := execution(t, s, a[1]); e.Status != store.StatusScheduled {
		t.Errorf("what waits in line is %s", e.Status)
	}
	byID := map[int64]store.Claimed{}
	for _, c := range claimed {
		byID[c.ExecutionID] = c
	}
	if key := byID[a[0]].Key; !store.SameKey(key, "a") || byID[free[0]].Key != nil {
		t.Errorf("claimed with the key %v, and one that is not counted with %v", key, byID[free[0]].Key)
	}
	wantClaimed(t, s)

	// A place is free when one ends, whoever ended meanwhile.
	start(t, s, claimed...)
	finish(t, s, store.Outcome{Token: byID[b].Token, Status: store.StatusSucceeded}, store.Outcome{Token: byID[free[0]].Token, Status: store.StatusSucceeded})
	wantClaimed(t, s)
	finish(t, s, store.Outcome{Token: byID[a[0]].Token, Status: store.StatusFailed})
	next := wantClaimed(t, s, a[1])[0]

	// A try again at once keeps the place, one later gives it up and stands in line again.
	finish(t, s, store.Outcome{Token: next.Token, Status: store.StatusFailed, RetryAt: new(time.Now())})
	next = wantClaimed(t, s, a[1])[0]
	finish(t, s, store.Outcome{Token: next.Token, Status: store.StatusFailed, RetryAt: new(time.Now().Add(time.Hour))})
	next = wantClaimed(t, s, a[2])[0]
	sql(t, s, "UPDATE attune.queue SET due_at = now() - interval '2 hours' WHERE execution_id = $1", a[1])
	wantClaimed(t, s)
	finish(t, s, store.Outcome{Token: next.Token, Status: store.StatusFailed})
	wantClaimed(t, s, a[1]) // it has been due for longer than a[4]

	// What is released keeps its place, what is put off or cancelled does not.
	if err := s.Release(t.Context(), []string{byID[a[3]].Token}); err != nil {
		t.Fatal(err)
	}
	released := wantClaimed(t, s, a[3])[0]
	if err := s.PutOff(t.Context(), released.Token, "a tree to grow", time.Hour); err != nil {
		t.Fatal(err)
	}
	last := wantClaimed(t, s, a[4])[0]
	if n, err := s.Hurry(t.Context(), "a"); err != nil || n != 1 {
		t.Fatalf("hurried %d: %v", n, err)
	}
	wantClaimed(t, s)
	if _, err := s.Cancel(t.Context(), last.ExecutionID, "me"); err != nil {
		t.Fatal(err)
	}
	wantClaimed(t, s, a[3])
}

func TestConcurrencySkips(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	s := counted(t, storetest.NewURL(t), func(o *store.Options) { o.Registerer = registry })
	apply(t, s, change("a", action("a", "x", limited(1, "skip"))))
	a := enqueue(t, s, keyed("a"), keyed("a"))
	later := enqueue(t, s, keyed("a", func(e *store.NewExecution) { e.DueAt = new(time.Now().Add(time.Hour)) }))[0]
	b := enqueue(t, s, keyed("b"))[0]
	c := wantClaimed(t, s, a[0], b)[0]
	wantEnded(t, s, a[1], fmt.Sprintf("skipped: concurrency allows 1 at once for key \"a\", and execution %d has not ended", a[0]))

	// What is for later is judged then, and what has begun is never skipped.
	sql(t, s, "UPDATE attune.queue SET due_at = now() WHERE execution_id = $1", later)
	wantClaimed(t, s)
	wantEnded(t, s, later, fmt.Sprintf("skipped: concurrency allows 1 at once for key \"a\", and execution %d has not ended", a[0]))
	start(t, s, c)
	finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusFailed, RetryAt: new(time.Now().Add(time.Hour))})
	other := enqueue(t, s, keyed("a"))[0]
	c = wantClaimed(t, s, other)[0]
	sql(t, s, "UPDATE attune.queue SET due_at = now() WHERE execution_id = $1", a[0])
	wantClaimed(t, s)
	finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusSucceeded})
	wantClaimed(t, s, a[0])

	want := "# HELP attune_concurrency_ended_total Executions that the concurrency of their action ended: skipped, replaced while they waited, or unwanted and stopped while they ran.\n" +
		"# TYPE attune_concurrency_ended_total counter\n" +
		"attune_concurrency_ended_total{fate=\"replaced\"} 0\nattune_concurrency_ended_total{fate=\"skipped\"} 2\nattune_concurrency_ended_total{fate=\"unwanted\"} 0\n"
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "attune_concurrency_ended_total"); err != nil {
		t.Error(err)
	}
}

func TestConcurrencyReplaces(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x", limited(1, "replace"))))
	first := enqueue(t, s, keyed("a"))[0]
	c := wantClaimed(t, s, first)[0]
	start(t, s, c)
	second := enqueue(t, s, keyed("a"))[0]
	wantClaimed(t, s) // the first has to end before
	third := enqueue(t, s, keyed("a"))[0]
	wantEnded(t, s, second, fmt.Sprintf("replaced by execution %d", third))
	renewal, err := s.Renew(t.Context(), "n")
	if err != nil || !slices.Equal(renewal.Cancel, []string{c.Token}) {
		t.Fatalf("to be cancelled: %v, expected the first: %v", renewal, err)
	}
	if by := one[string](t, s, "SELECT cancel_by FROM attune.queue WHERE execution_id = $1", first); by != fmt.Sprintf("execution %d, which replaces it", second) {
		t.Errorf("cancelled by %s", by)
	}
	finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusCancelled})
	c = wantClaimed(t, s, third)[0]

	// One that was claimed and has not begun ends at once.
	fourth := enqueue(t, s, keyed("a"))[0]
	wantEnded(t, s, third, fmt.Sprintf("cancelled by execution %d, which replaces it", fourth))
	if held := start(t, s, c); held[c.Token] {
		t.Error("what was replaced began")
	}
	c = wantClaimed(t, s, fourth)[0]
	start(t, s, c)

	// A retry is older than what came after it.
	finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusFailed, RetryAt: new(time.Now().Add(time.Hour))})
	fifth := enqueue(t, s, keyed("a"))[0]
	c = wantClaimed(t, s, fifth)[0]
	start(t, s, c)
	sql(t, s, "UPDATE attune.queue SET due_at = now() WHERE execution_id = $1", fourth)
	wantClaimed(t, s)
	wantEnded(t, s, fourth, fmt.Sprintf("replaced by execution %d", fifth))
	if renewal, err = s.Renew(t.Context(), "n"); err != nil || len(renewal.Cancel) > 0 {
		t.Errorf("to be cancelled: %v, expected none: %v", renewal, err)
	}
}

// Of those that are queued together who is skipped is told who took the last place: of its own action and key, and
// not who came first.
func TestSkipsForItsOwn(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x", limited(1, "skip")), action("a", "y", limited(1, "skip"))))
	all := enqueue(
		t, s, keyed("a", func(e *store.NewExecution) { e.Action = "a.y" }), keyed("b"), keyed("a"),
		keyed("a", func(e *store.NewExecution) { e.Priority = 5 }),
	)
	wantClaimed(t, s, all[0], all[1], all[3])
	wantEnded(t, s, all[2], fmt.Sprintf("skipped: concurrency allows 1 at once for key \"a\", and execution %d has not ended", all[3]))
}

// Who was passed over while somebody held it, or whose admission died with its node, is found by the next look,
// whatever holds places of other lines.
func TestStrayLinesAreFound(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	policies := []string{"queue", "skip", "replace"}
	for _, policy := range policies {
		apply(t, s, change("a", action("a", "x", limited(1, policy)), action("a", "y", limited(1, policy))))
		holders := enqueue(t, s, keyed("full"), keyed("other"), keyed("free", func(e *store.NewExecution) { e.Action = "a.y" }))
		start(t, s, wantClaimed(t, s, holders...)...)
		later := func(e *store.NewExecution) { e.DueAt = new(time.Now().Add(time.Hour)) }
		line := enqueue(t, s, keyed("full", later), keyed("full", later), keyed("free", later))
		sql(t, s, "UPDATE attune.queue SET in_line = TRUE, due_at = now() WHERE execution_id = ANY ($1)", line)
		reap(t, s)
		wantClaimed(t, s, line[2])
		switch policy {
		case "queue":
			if n := one[int](t, s, "SELECT count(*) FROM attune.queue WHERE execution_id = ANY ($1) AND in_line", line[:2]); n != 2 {
				t.Errorf("%d wait in line, expected both", n)
			}
		case "skip":
			for _, id := range line[:2] {
				wantEnded(t, s, id, fmt.Sprintf("skipped: concurrency allows 1 at once for key \"full\", and execution %d has not ended", holders[0]))
			}
		case "replace":
			wantEnded(t, s, line[0], fmt.Sprintf("replaced by execution %d", line[1]))
		}
		sql(t, s, "DELETE FROM attune.queue")
	}
}

// What replaces is of the same action and key, and is named by who it replaces, also where several lines are looked at
// at once.
func TestReplacesItsOwn(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x", limited(1, "replace")), action("a", "y", limited(1, "replace"))))
	of := func(action, key string) store.NewExecution {
		return keyed(key, func(e *store.NewExecution) { e.Action = "a." + action })
	}
	stopped := func() string {
		t.Helper()
		return one[string](t, s, "SELECT COALESCE(string_agg(execution_id || ' by ' || cancel_by, ', ' ORDER BY execution_id), '') FROM attune.queue WHERE cancel_at IS NOT NULL")
	}
	by := func(old, next int64) string {
		return fmt.Sprintf("%d by execution %d, which replaces it", old, next)
	}
	holders := enqueue(t, s, of("x", "a"), of("x", "b"), of("x", "c"), of("y", "a"), of("y", "c"))
	start(t, s, wantClaimed(t, s, holders...)...)

	b := enqueue(t, s, of("x", "b"))[0]
	if got := stopped(); got != by(holders[1], b) {
		t.Errorf("to be stopped: %s", got)
	}
	a := enqueue(t, s, of("x", "a"))[0]
	if got := stopped(); got != by(holders[0], a)+", "+by(holders[1], b) {
		t.Errorf("to be stopped: %s", got)
	}
	all := enqueue(t, s, of("y", "a"), of("y", "c"), of("x", "a"), of("x", "b"), of("x", "c"))
	wantEnded(t, s, a, fmt.Sprintf("replaced by execution %d", all[2]))
	wantEnded(t, s, b, fmt.Sprintf("replaced by execution %d", all[3]))
	want := strings.Join([]string{by(holders[0], a), by(holders[1], b), by(holders[2], all[4]), by(holders[3], all[0]), by(holders[4], all[1])}, ", ")
	if got := stopped(); got != want {
		t.Errorf("to be stopped: %s\nwant: %s", got, want)
	}
}

// Of those that are queued together the newest is wanted, and no place is kept for the others; one that somebody has
// stopped already wants none.
func TestReplacesAllButTheNewest(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x", limited(1, "replace"))))
	a := enqueue(t, s, times(3, keyed("a"))...)
	wantClaimed(t, s, a[2])
	wantEnded(t, s, a[0], fmt.Sprintf("replaced by execution %d", a[2]))
	wantEnded(t, s, a[1], fmt.Sprintf("replaced by execution %d", a[2]))

	apply(t, s, change("a", action("a", "x", limited(2, "replace"))))
	b := enqueue(t, s, times(2, keyed("b"))...)
	start(t, s, wantClaimed(t, s, b...)...)
	if _, err := s.Cancel(t.Context(), b[1], "ada"); err != nil {
		t.Fatal(err)
	}
	enqueue(t, s, keyed("b"))
	if got := one[string](t, s, "SELECT string_agg(execution_id || ' by ' || cancel_by, ', ') FROM attune.queue WHERE cancel_at IS NOT NULL"); got != fmt.Sprintf("%d by ada", b[1]) {
		t.Errorf("to be stopped: %s", got)
	}

	// Where several are wanted the oldest of them is named.
	c := enqueue(t, s, times(4, keyed("c"))...)
	start(t, s, wantClaimed(t, s, c[2:]...)...)
	wantEnded(t, s, c[1], fmt.Sprintf("replaced by execution %d", c[2]))
	d := enqueue(t, s, times(2, keyed("c"))...)
	by := fmt.Sprintf("%d by execution %d, which replaces it, %d by execution %[2]d, which replaces it", c[2], d[0], c[3])
	if got := one[string](t, s, "SELECT string_agg(execution_id || ' by ' || cancel_by, ', ' ORDER BY execution_id) FROM attune.queue WHERE cancel_at IS NOT NULL AND concurrency_key = 'c'"); got != by {
		t.Errorf("to be stopped: %s, want %s", got, by)
	}
}

// Whatever the policy, places go by priority, then by when it was due, then by who came first.
func TestLinesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	for _, policy := range []string{"queue", "skip"} {
		apply(t, s, change("a", action("a", "x", limited(1, policy))))
		later := keyed("a", func(e *store.NewExecution) { e.DueAt = new(time.Now().Add(time.Hour)) })
		line := enqueue(t, s, times(4, later)...)
		held := wantClaimed(t, s, enqueue(t, s, keyed("a"))...)
		// As after a try that failed, which is not skipped.
		sql(t, s, `UPDATE attune.queue SET in_line = TRUE, attempt = 1, due_at = now() - CASE execution_id
			WHEN $1 THEN INTERVAL '1 hour' WHEN $2 THEN INTERVAL '1 hour' WHEN $3 THEN INTERVAL '2 hours' ELSE INTERVAL '0' END,
			priority = (execution_id = $4)::integer
			WHERE execution_id BETWEEN $1 AND $4`, line[0], line[1], line[2], line[3])
		for _, next := range []int{3, 2, 0, 1} {
			start(t, s, held...)
			finish(t, s, store.Outcome{Token: held[0].Token, Status: store.StatusSucceeded})
			held = wantClaimed(t, s, line[next])
		}
		start(t, s, held...)
		finish(t, s, store.Outcome{Token: held[0].Token, Status: store.StatusSucceeded})
	}
}

// A node that dies gives its places up when it is reaped, and what nobody admitted is admitted then.
func TestConcurrencyOutlivesNodes(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := counted(t, url)
	apply(t, s, change("a", action("a", "x", limited(1, ""))))
	a := enqueue(t, s, keyed("a"), keyed("a"), keyed("a"))
	start(t, s, wantClaimed(t, s, a[0])...)
	sql(t, s, "UPDATE attune.queue SET lease_until = now() - interval '1 second' WHERE token IS NOT NULL")
	reap(t, s)
	wantClaimed(t, s, a[1])
	if requeued, lost, err := s.LoseNode(t.Context(), "n"); err != nil || len(requeued) != 1 || len(lost) != 0 {
		t.Fatalf("requeued %v, lost %v: %v", requeued, lost, err)
	}
	c := wantClaimed(t, s, a[1])[0] // it never began, and keeps its place

	// The holder's row goes without anybody admitting the next: a crash between two transactions.
	sql(t, s, "DELETE FROM attune.queue WHERE execution_id = $1", c.ExecutionID)
	wantClaimed(t, s)
	reap(t, s)
	wantClaimed(t, s, a[2])

	// Keys are forgotten, which changes nothing.
	sql(t, s, "UPDATE attune.concurrency SET counted_at = now() - interval '2 days'")
	if _, err := s.Maintain(t.Context(), store.Retention{}); err != nil {
		t.Fatal(err)
	}
	if left := one[int](t, s, "SELECT count(*) FROM attune.concurrency"); left != 0 {
		t.Errorf("%d keys are kept for ever", left)
	}
	enqueue(t, s, keyed("a"))
	wantClaimed(t, s)
}

func reap(t *testing.T, s *store.Store) {
	t.Helper()
	if _, _, err := s.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// An edit of the action counts for what waits.
func TestConcurrencyFollowsItsAction(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x", limited(1, ""))))
	a := enqueue(t, s, times(8, keyed("a"))...)
	one := wantClaimed(t, s, a[0])[0]
	apply(t, s, change("a", action("a", "x", limited(3, ""))))
	reap(t, s)
	two := wantClaimed(t, s, a[1], a[2])
	apply(t, s, change("a", action("a", "x", limited(2, ""))))
	enqueue(t, s, keyed("a")) // whoever lines up has the places counted
	if renewal, err := s.Renew(t.Context(), "n"); err != nil || len(renewal.Held) != 3 || len(renewal.Cancel) > 0 {
		t.Errorf("of three that hold two places some are to end: %+v, %v", renewal, err)
	}
	finish(t, s, store.Outcome{Token: one.Token, Status: store.StatusSucceeded})
	reap(t, s)
	wantClaimed(t, s)
	finish(t, s, store.Outcome{Token: two[0].Token, Status: store.StatusSucceeded})
	wantClaimed(t, s, a[3])
	apply(t, s, change("a", action("a", "x", limited(3, "skip"))))
	reap(t, s)
	wantClaimed(t, s, a[4])
	wantEnded(t, s, a[5], fmt.Sprintf("skipped: concurrency allows 3 at once for key \"a\", and execution %d has not ended", a[2]))
	apply(t, s, change("a", action("a", "x")))
	free := enqueue(t, s, keyed("a"), keyed("a"))
	wantClaimed(t, s, free...)
}

// An attempt that is counted by another key than it was queued with goes into that line.
func TestConcurrencyLinesUpAnew(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x", limited(1, ""))))
	plain := enqueue(t, s, times(2, store.NewExecution{Action: "a.x"})...)
	old := enqueue(t, s, keyed("old"), keyed("old"))
	for _, c := range wantClaimed(t, s, plain[0], plain[1], old[0]) {
		if err := s.LineUp(t.Context(), c.Token, "new"); err != nil {
			t.Fatal(err)
		}
	}
	claimed := wantClaimed(t, s, plain[0], old[1])
	for _, c := range claimed {
		if want := map[int64]string{plain[0]: "new", old[1]: "old"}[c.ExecutionID]; !store.SameKey(c.Key, want) {
			t.Errorf("execution %d is counted by %v, expected %s", c.ExecutionID, c.Key, want)
		}
		if c.Attempt != 1 {
			t.Errorf("lining up used an attempt: %d", c.Attempt)
		}
	}
	if err := s.LineUp(t.Context(), "none", "x"); err != nil {
		t.Error(err)
	}
}

// Events queue what is counted as people do, in the transaction of the event.
func TestConcurrencyOfEvents(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x", limited(1, "skip")), trigger("a", "t"), rule("a", "r", "a.t", nil)))
	event := store.NewEvent{Trigger: "a.t", Source: "a.s", Payload: json.RawMessage(`{"k":"a"}`)}
	stored := commit(t, s, matchAll("a.x", 1), event, event)
	wantClaimed(t, s, stored[0].Executions[0])
	e, _ := execution(t, s, stored[1].Executions[0])
	if e.Status != store.StatusCancelled {
		t.Errorf("the second is %s", e.Status)
	}
}

// Several nodes do at random what nodes do and die of. At no moment do more than max hold a place of a
// key, and in the end nobody is left waiting.
func TestConcurrencyUnderManyNodes(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := counted(t, url)
	limits := map[string]int{"x": 1, "y": 3}
	apply(t, s, change("a", action("a", "x", limited(limits["x"], "")), action("a", "y", limited(limits["y"], ""))))
	const most, nodes = 400, 4
	var queued atomic.Int64
	var work sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for n := range nodes {
		node := counted(t, url)
		random := rand.New(rand.NewPCG(uint64(n), 1))
		work.Go(func() {
			name := fmt.Sprint("n", n)
			for ctx.Err() == nil && queued.Load() < most {
				if err := live(ctx, node, name, random, &queued); err != nil && !store.IsTransient(err) && ctx.Err() == nil {
					t.Errorf("node %s: %v", name, err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		work.Wait()
		close(done)
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		for ref, limit := range limits {
			over := one[int](t, s, `SELECT count(*) FROM (
				SELECT FROM attune.queue WHERE action_ref = $1 AND concurrency_key IS NOT NULL AND status <> 'scheduled'
				GROUP BY concurrency_key HAVING count(*) > $2) AS over`, "a."+ref, limit)
			if over > 0 {
				stop()
				t.Fatalf("%d keys of %s have more than %d that hold a place", over, ref, limit)
			}
		}
	}
	sql(t, s, "UPDATE attune.queue SET lease_until = now() - interval '1 second' WHERE token IS NOT NULL")
	for {
		reap(t, s)
		claimed := claim(t, s, "last", 100)
		for _, c := range claimed {
			finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusSucceeded})
		}
		if len(claimed) == 0 {
			break
		}
	}
	if left := one[int](t, s, "SELECT count(*) FROM attune.queue"); left > 0 {
		t.Errorf("%d executions wait for ever", left)
	}
}

// live is one thing that a node does.
func live(ctx context.Context, s *store.Store, node string, random *rand.Rand, queued *atomic.Int64) error {
	switch random.IntN(8) {
	case 0, 1:
		n := 1 + random.IntN(6)
		var batch []store.NewExecution
		for range n {
			batch = append(batch, keyed(string(rune('a'+random.IntN(3))), func(e *store.NewExecution) {
				e.Action = []string{"a.x", "a.y"}[random.IntN(2)]
			}))
		}
		queued.Add(int64(n))
		_, err := s.Enqueue(ctx, batch)
		return err
	case 2:
		_, err := s.Pool().Exec(ctx, "UPDATE attune.queue SET lease_until = now() WHERE node = $1 AND random() < 0.3", node)
		_, _, reaped := s.Reap(ctx)
		return errors.Join(err, reaped)
	}
	claimed, err := s.Claim(ctx, node, 1+random.IntN(4))
	if err != nil || len(claimed) == 0 {
		return err
	}
	list := tokens(claimed)
	if _, err := s.Start(ctx, list); err != nil {
		return err
	}
	var outcomes []store.Outcome
	for i, c := range claimed {
		switch random.IntN(6) {
		case 0:
			_, err = s.Cancel(ctx, c.ExecutionID, node)
		case 1:
			err = s.Release(ctx, list[i:i+1])
		case 2:
			outcomes = append(outcomes, store.Outcome{Token: c.Token, Status: store.StatusFailed, RetryAt: new(time.Now().Add(time.Duration(random.IntN(2)) * time.Millisecond))})
		case 3: // it dies
		default:
			outcomes = append(outcomes, store.Outcome{Token: c.Token, Status: store.StatusSucceeded})
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	_, err = s.Finish(ctx, outcomes)
	return err
}
