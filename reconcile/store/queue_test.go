package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func TestLifeOfAnExecution(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("core", action("core", "echo")))
	id := enqueue(t, s, store.NewExecution{
		Action: "core.echo", Parameters: json.RawMessage(`{"message":"hi"}`), Secrets: map[string]string{"/token": "github"},
		Priority: 3, Timeout: 90 * time.Second, RequestedBy: "alice",
	})[0]

	e, attempts := execution(t, s, id)
	if e.Status != store.StatusRequested || e.Pack != "core" || e.Rule != nil || len(attempts) != 0 {
		t.Errorf("queued: %+v, attempts %v", e, attempts)
	}
	claimed := claim(t, s, "node-1", 10)
	if len(claimed) != 1 {
		t.Fatalf("claimed %d", len(claimed))
	}
	c := claimed[0]
	if c.ExecutionID != id || c.Attempt != 1 || c.Action != "core.echo" || c.Priority != 3 || c.Timeout != 90*time.Second {
		t.Errorf("claimed %+v", c)
	}
	if diff := cmp.Diff(map[string]string{"/token": "github"}, c.Secrets); diff != "" {
		t.Error(diff)
	}
	if c.Record == nil || c.Record.Spec.Head().Name != "echo" || c.Record.TreeDigest == "" || c.Record.RevisionID == 0 {
		t.Errorf("the action's record is %+v", c.Record)
	}
	if held := start(t, s, c); !held[c.Token] {
		t.Fatal("not held")
	}
	e, attempts = execution(t, s, id)
	if e.Status != store.StatusRunning || *e.Node != "node-1" || e.StartedAt == nil || *e.Revision != c.Record.TreeDigest {
		t.Errorf("running: %+v", e)
	}
	if len(attempts) != 1 || attempts[0].Status != store.StatusRunning {
		t.Errorf("attempts: %+v", attempts)
	}
	accepted := finish(t, s, store.Outcome{
		Token: c.Token, Status: store.StatusFailed, ExitCode: new(3), Error: "exit 3",
		Result: json.RawMessage(`{"n": 1}`),
		Stdout: store.Output{Text: "hi\n", Bytes: 3},
		Stderr: store.Output{Text: "head…tail", Bytes: 5000, Omitted: 4000},
	})
	if !accepted[0] {
		t.Fatal("refused")
	}
	e, attempts = execution(t, s, id)
	if e.Status != store.StatusFailed || *e.ExitCode != 3 || *e.Error != "exit 3" || e.Signal != nil ||
		e.Stdout != "hi\n" || e.Stderr != "head…tail" || e.StdoutTruncated || !e.StderrTruncated || e.FinishedAt == nil {
		t.Errorf("ended: %+v", e)
	}
	var result map[string]int
	if err := json.Unmarshal(e.Result, &result); err != nil || result["n"] != 1 {
		t.Errorf("result %s: %v", e.Result, err)
	}
	if len(attempts) != 1 || attempts[0].Status != store.StatusFailed || attempts[0].FinishedAt == nil {
		t.Errorf("attempts: %+v", attempts)
	}
	if left := one[int](t, s, "SELECT count(*) FROM attune.queue"); left != 0 {
		t.Errorf("%d rows left in the queue", left)
	}
}

func TestClaimTakesTurns(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	enqueue(t, s, times(50, store.NewExecution{Action: "a.x"})...)
	enqueue(t, s, times(3, store.NewExecution{Action: "b.x"})...)
	enqueue(t, s, times(3, store.NewExecution{Action: "c.x"})...)
	packs := func(claimed []store.Claimed) string {
		var list []string
		for _, c := range claimed {
			pack, _, _ := strings.Cut(c.Action, ".")
			list = append(list, pack)
		}
		return strings.Join(list, "")
	}
	var got string
	for range 6 {
		got += packs(claim(t, s, "n", 1))
	}
	if got != "abcabc" {
		t.Errorf("one by one: %s", got)
	}
	// The shares of b and c, of which little is left, go to a.
	if got := packs(claim(t, s, "n", 9)); strings.Count(got, "b") != 1 || strings.Count(got, "c") != 1 || len(got) != 9 {
		t.Errorf("nine at once: %s", got)
	}
	if got := packs(claim(t, s, "n", 1000)); got != strings.Repeat("a", 41) {
		t.Errorf("the rest: %s", got)
	}
	// Also where nothing was looked up before.
	enqueue(t, s, times(1, store.NewExecution{Action: "b.x"})...)
	enqueue(t, s, times(8, store.NewExecution{Action: "c.x"})...)
	if got := packs(claim(t, s, "n", 9)); strings.Count(got, "c") != 8 || len(got) != 9 {
		t.Errorf("one of b and eight of c: %s", got)
	}
}

// What another pack queues waits for what a node has looked up already, which is bounded, and for no more of what
// waits before it.
func TestAnotherPackWaitsForOneLook(t *testing.T) {
	t.Parallel()
	for limit, look := range map[int]int{2: 64, 34: 8 * 34} {
		s := storetest.New(t) // what was looked up for another limit would count too
		enqueue(t, s, times(3000, store.NewExecution{Action: "a.x"})...)
		for range 3 { // from the second on it looks ahead
			claim(t, s, "n", limit)
		}
		other := enqueue(t, s, store.NewExecution{Action: "b.x"})[0]
		for passed := 0; ; {
			claimed := claim(t, s, "n", limit)
			if slices.Contains(ids(claimed), other) {
				break
			}
			if passed += len(claimed); passed > look || len(claimed) == 0 {
				t.Errorf("after %d of the other pack, %d at once, it still waits", passed, limit)
				break
			}
		}
	}
}

func TestClaimFindsAllOfManyPacks(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	var all []store.NewExecution
	for i := range 100 {
		all = append(all, times(i%3+1, store.NewExecution{Action: fmt.Sprintf("p%d.x", i)})...)
	}
	enqueue(t, s, all...)
	for _, limit := range []int{7, 64, 1, 500} {
		left := one[int](t, s, "SELECT count(*) FROM attune.queue WHERE status = 'requested'")
		if got := len(claim(t, s, "n", limit)); got != min(limit, left) {
			t.Errorf("of %d waiting, %d were asked for and %d claimed", left, limit, got)
		}
	}
}

func TestClaimOrderInAPack(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	past := time.Now().Add(-time.Hour)
	ids := enqueue(t, s,
		store.NewExecution{Action: "a.x"},
		store.NewExecution{Action: "a.x", DueAt: &past},
		store.NewExecution{Action: "a.x", Priority: 5},
		store.NewExecution{Action: "a.x", DueAt: new(time.Now().Add(time.Hour)), Priority: 9},
	)
	var got []int64
	for _, c := range claim(t, s, "n", 10) {
		got = append(got, c.ExecutionID)
	}
	if diff := cmp.Diff([]int64{ids[2], ids[1], ids[0]}, got); diff != "" {
		t.Error(diff)
	}
	sql(t, s, "UPDATE attune.queue SET due_at = now() - INTERVAL '1 second' WHERE execution_id = $1", ids[3])
	if got := claim(t, s, "n", 10); len(got) != 1 || got[0].ExecutionID != ids[3] {
		t.Errorf("when it is due, %v is claimed", got)
	}
}

func TestTwoClaimersShareNothing(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	const total = 400
	for i := range 4 {
		enqueue(t, s, times(total/4, store.NewExecution{Action: fmt.Sprintf("p%d.x", i)})...)
	}
	var mu sync.Mutex
	seen := map[int64]string{}
	var claimers sync.WaitGroup
	for i := range 4 {
		other := storetest.Open(t, url)
		node := fmt.Sprintf("node-%d", i)
		claimers.Go(func() {
			for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
				claimed, err := other.Claim(t.Context(), node, 7)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, c := range claimed {
					if by, ok := seen[c.ExecutionID]; ok {
						t.Errorf("execution %d was claimed by %s and %s", c.ExecutionID, by, node)
					}
					seen[c.ExecutionID] = node
				}
				done := len(seen) == total
				mu.Unlock()
				if done {
					return
				}
			}
		})
	}
	claimers.Wait()
	if len(seen) != total {
		t.Errorf("%d of %d were claimed", len(seen), total)
	}
}

func TestClaimOfAnActionThatIsGone(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("core", action("core", "echo")))
	enqueue(t, s, store.NewExecution{Action: "core.echo"}, store.NewExecution{Action: "core.unknown"})
	for range 2 { // the second time the record is remembered
		for _, c := range claim(t, s, "n", 10) {
			if (c.Record != nil) != (c.Action == "core.echo") {
				t.Errorf("%s has record %v", c.Action, c.Record)
			}
			if err := s.Release(t.Context(), []string{c.Token}); err != nil {
				t.Fatal(err)
			}
		}
	}
	apply(t, s, store.PackChange{Ref: "core", Vanished: true})
	for _, c := range claim(t, s, "n", 10) {
		if c.Record != nil {
			t.Errorf("%s has record %v although it vanished", c.Action, c.Record)
		}
		// It can be ended without ever being started.
		if !finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusFailed, Error: "the action no longer exists"})[0] {
			t.Error("refused")
		}
	}
}

func TestClaimSeesAnActionsNewVersion(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	first := change("core", action("core", "echo"))
	apply(t, s, first)
	enqueue(t, s, times(2, store.NewExecution{Action: "core.echo"})...)
	before := claim(t, s, "n", 1)[0].Record
	second := change("core", action("core", "echo", func(a *manifest.Action) { a.Description = "new" }))
	second.Revision = files(map[string]string{"pack.yaml": "edited"})
	apply(t, s, second)
	after := claim(t, s, "n", 1)[0].Record
	if after.Spec.Head().Description != "new" || after.TreeDigest == before.TreeDigest || after.RevisionID == before.RevisionID {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

func TestStartIsRepeatable(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	enqueue(t, s, times(3, store.NewExecution{Action: "a.x"})...)
	claimed := claim(t, s, "n", 3)
	for range 2 {
		if held := start(t, s, claimed[:2]...); len(held) != 2 {
			t.Errorf("held %v", held)
		}
	}
	if n := one[int](t, s, "SELECT count(*) FROM attune.queue WHERE started_at IS NOT NULL"); n != 2 {
		t.Errorf("%d were started", n)
	}
	sql(t, s, "UPDATE attune.queue SET lease_until = now() - INTERVAL '1 second' WHERE token = $1", claimed[2].Token)
	if held := start(t, s, claimed[2]); len(held) != 0 {
		t.Error("a lapsed claim was started")
	}
	held, err := s.Start(t.Context(), []string{"no token", "2f0b8a0e-0000-4000-8000-000000000000"})
	if err != nil || len(held) != 0 {
		t.Errorf("held %v: %v", held, err)
	}
}

func TestReleaseUsesNoAttempt(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	id := enqueue(t, s, store.NewExecution{Action: "a.x"})[0]
	for range 3 {
		c := claim(t, s, "n", 1)[0]
		if c.Attempt != 1 {
			t.Fatalf("attempt %d", c.Attempt)
		}
		if err := s.Release(t.Context(), []string{c.Token}); err != nil {
			t.Fatal(err)
		}
		if held := start(t, s, c); len(held) != 0 {
			t.Error("a released attempt was started")
		}
	}
	c := claim(t, s, "n", 1)[0]
	start(t, s, c)
	if err := s.Release(t.Context(), []string{c.Token}); err != nil {
		t.Fatal(err)
	}
	// The holder says that nothing came of the start that was recorded.
	if e, attempts := execution(t, s, id); e.Status != store.StatusRequested || e.Attempt != 0 || len(attempts) != 0 {
		t.Errorf("released after its start: %+v, attempts %v", e, attempts)
	}
	c = claim(t, s, "n", 1)[0]
	start(t, s, c)
	if _, err := s.Cancel(t.Context(), id, "alice"); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(t.Context(), []string{c.Token}); err != nil {
		t.Fatal(err)
	}
	if e, _ := execution(t, s, id); e.Status != store.StatusCancelled || e.Attempt != 0 || *e.Error != "cancelled by alice" {
		t.Errorf("released after somebody had cancelled it: %+v", e)
	}
}

// A node that was frozen and wakes up late changes nothing, and what it has to say is kept.
func TestLateOutcomeIsFenced(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "once"), action("a", "again", onLostRetry)))
	ids := enqueue(t, s, store.NewExecution{Action: "a.once"}, store.NewExecution{Action: "a.again"})
	old := claim(t, s, "frozen", 2)
	start(t, s, old...)
	lapse(t, s)
	requeued, lost, err := s.Reap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ids, lost); diff != "" {
		t.Error("lost:", diff)
	}
	if diff := cmp.Diff(ids[1:], requeued); diff != "" {
		t.Error("requeued:", diff)
	}
	fresh := claim(t, s, "awake", 1)[0]
	if fresh.ExecutionID != ids[1] || fresh.Attempt != 2 {
		t.Fatalf("claimed %+v", fresh)
	}
	start(t, s, fresh)

	late := []store.Outcome{
		{Token: old[0].Token, Status: store.StatusSucceeded, ExitCode: new(0), Stdout: store.Output{Text: "late", Bytes: 4}},
		{Token: old[1].Token, Status: store.StatusSucceeded, ExitCode: new(0), Result: json.RawMessage(`{"late": true}`)},
	}
	if accepted := finish(t, s, late...); slices.Contains(accepted, true) {
		t.Errorf("accepted %v", accepted)
	}
	if held := start(t, s, old...); len(held) != 0 {
		t.Error("a lost attempt was started")
	}
	if e, _ := execution(t, s, ids[0]); e.Status != store.StatusLost || e.Stdout != "" || e.ExitCode != nil || !strings.Contains(*e.Error, "frozen") {
		t.Errorf("lost for good: %+v", e)
	}
	if e, _ := execution(t, s, ids[1]); e.Status != store.StatusRunning || *e.Node != "awake" {
		t.Errorf("tried again: %+v", e)
	}
	if n := one[int](t, s, "SELECT count(*) FROM attune.attempt WHERE status = 'lost' AND late ->> 'status' = 'succeeded' AND late_at IS NOT NULL"); n != 2 {
		t.Errorf("evidence is kept of %d attempts", n)
	}
	if !finish(t, s, store.Outcome{Token: fresh.Token, Status: store.StatusSucceeded})[0] {
		t.Error("who holds it was refused")
	}
	_, attempts := execution(t, s, ids[1])
	if len(attempts) != 2 || attempts[0].Status != store.StatusLost || attempts[1].Status != store.StatusSucceeded {
		t.Errorf("attempts %+v", attempts)
	}
}

func lapse(t testing.TB, s *store.Store) {
	t.Helper()
	sql(t, s, "UPDATE attune.queue SET lease_until = now() - INTERVAL '1 second' WHERE token IS NOT NULL")
}

// The answer to a commit can be lost. Then the same outcome comes again, and is no late one.
func TestFinishIsRepeatable(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	ids := enqueue(t, s, times(2, store.NewExecution{Action: "a.x"})...)
	claimed := claim(t, s, "n", 2)
	start(t, s, claimed...)
	outcomes := []store.Outcome{
		{Token: claimed[0].Token, Status: store.StatusSucceeded, Stdout: store.Output{Text: "x", Bytes: 1}},
		{Token: claimed[1].Token, Status: store.StatusFailed, RetryAt: new(time.Now().Add(time.Hour))},
	}
	for i := range 3 {
		if accepted := finish(t, s, outcomes...); !accepted[0] || !accepted[1] {
			t.Errorf("time %d: accepted %v", i+1, accepted)
		}
	}
	if n := one[int](t, s, "SELECT count(*) FROM attune.attempt WHERE late IS NOT NULL"); n != 0 {
		t.Errorf("evidence is kept of %d attempts", n)
	}
	if e, _ := execution(t, s, ids[1]); e.Status != store.StatusScheduled || e.Attempt != 1 {
		t.Errorf("to be tried again: %+v", e)
	}
}

func TestRetryCountsAttempts(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	id := enqueue(t, s, store.NewExecution{Action: "a.x"})[0]
	for attempt := 1; attempt <= 3; attempt++ {
		c := claim(t, s, "n", 1)[0]
		if c.Attempt != attempt {
			t.Fatalf("attempt %d, expected %d", c.Attempt, attempt)
		}
		start(t, s, c)
		o := store.Outcome{Token: c.Token, Status: store.StatusFailed, ExitCode: new(attempt), Stdout: store.Output{Text: fmt.Sprint(attempt), Bytes: 1}}
		if attempt < 3 {
			o.RetryAt = new(time.Now().Add(-time.Second))
		}
		finish(t, s, o)
	}
	e, attempts := execution(t, s, id)
	if e.Status != store.StatusFailed || e.Attempt != 3 || *e.ExitCode != 3 || e.Stdout != "3" || len(attempts) != 3 {
		t.Errorf("%+v, attempts %+v", e, attempts)
	}
}

func TestReapSparesTheLiving(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	enqueue(t, s, times(3, store.NewExecution{Action: "a.x"})...)
	alive := claim(t, s, "alive", 1)[0]
	start(t, s, alive)
	dead := claim(t, s, "dead", 1)[0]
	sql(t, s, "UPDATE attune.queue SET lease_until = now() - INTERVAL '1 second' WHERE node = 'dead'")
	requeued, lost, err := s.Reap(t.Context())
	if err != nil || len(lost) != 0 || !slices.Equal(requeued, []int64{dead.ExecutionID}) {
		t.Errorf("requeued %v, lost %v: %v", requeued, lost, err)
	}
	if again := claim(t, s, "n", 10); len(again) != 2 || again[0].Attempt != 1 {
		t.Errorf("claimed again: %+v", again)
	}
}

func TestLostAttemptsHaveAnEnd(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a",
		action("a", "bomb", onLostRetry),
		action("a", "twice", onLostRetry, func(a *manifest.Action) { a.Retry = &manifest.Retry{MaxAttempts: 2} }),
	))
	for name, most := range map[string]int{"a.bomb": store.MaxLostAttempts, "a.twice": 2} {
		id := enqueue(t, s, store.NewExecution{Action: name})[0]
		for attempt := 1; attempt <= most; attempt++ {
			c := claim(t, s, "n", 1)
			if len(c) != 1 {
				t.Fatalf("%s: nothing to claim for attempt %d", name, attempt)
			}
			start(t, s, c...)
			lapse(t, s)
			if _, _, err := s.Reap(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if e, _ := execution(t, s, id); e.Status != store.StatusLost || e.Attempt != most {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestLoseNode(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	for _, id := range []string{"dead", "alive"} {
		if err := s.PutNode(t.Context(), store.Node{ID: id, Host: "h", PID: 7, Version: "1"}); err != nil {
			t.Fatal(err)
		}
	}
	enqueue(t, s, times(3, store.NewExecution{Action: "a.x"})...)
	started, waiting := claim(t, s, "dead", 1)[0], claim(t, s, "dead", 1)[0]
	other := claim(t, s, "alive", 1)[0]
	start(t, s, started, other)
	for node, name := range map[string]string{"dead": "sensor p.a", "alive": "sensor p.b"} {
		if _, err := s.HoldLeases(t.Context(), node, []string{name}); err != nil {
			t.Fatal(err)
		}
	}
	requeued, lost, err := s.LoseNode(t.Context(), "dead")
	if err != nil || !slices.Equal(lost, []int64{started.ExecutionID}) || !slices.Equal(requeued, []int64{waiting.ExecutionID}) {
		t.Errorf("requeued %v, lost %v: %v", requeued, lost, err)
	}
	nodes, err := s.Nodes(t.Context())
	if err != nil || len(nodes) != 1 || nodes[0].ID != "alive" || nodes[0].PID != 7 {
		t.Errorf("nodes %+v: %v", nodes, err)
	}
	renewal, err := s.Renew(t.Context(), "alive")
	if err != nil || !slices.Equal(renewal.Held, []string{other.Token}) {
		t.Errorf("renewal %+v: %v", renewal, err)
	}
	if left := one[string](t, s, "SELECT string_agg(name || ' of ' || node, ', ') FROM attune.lease"); left != "sensor p.b of alive" {
		t.Errorf("held are %s", left)
	}
	if _, _, err := s.LoseNode(t.Context(), ""); err == nil {
		t.Error("an empty node means every lapsed one, and must be refused")
	}
}

func TestRenew(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	enqueue(t, s, times(3, store.NewExecution{Action: "a.x"})...)
	claimed := claim(t, s, "n", 2)
	stranger := claim(t, s, "other", 1)[0]
	start(t, s, claimed...)
	sql(t, s, "UPDATE attune.queue SET lease_until = now() + INTERVAL '1 second'")
	if _, err := s.Cancel(t.Context(), claimed[1].ExecutionID, "alice"); err != nil {
		t.Fatal(err)
	}
	renewal, err := s.Renew(t.Context(), "n")
	if err != nil {
		t.Fatal(err)
	}
	want, got := tokens(claimed), renewal.Held
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) || !slices.Equal(renewal.Cancel, []string{claimed[1].Token}) {
		t.Errorf("renewal %+v", renewal)
	}
	left := one[float64](t, s, "SELECT EXTRACT(EPOCH FROM min(lease_until) - now())::double precision FROM attune.queue WHERE node = 'n'")
	if left < store.LeaseDuration.Seconds()-5 {
		t.Errorf("the lease lasts %v s", left)
	}
	if left := one[float64](t, s, "SELECT EXTRACT(EPOCH FROM lease_until - now())::double precision FROM attune.queue WHERE token = $1", stranger.Token); left > 1 {
		t.Errorf("another node's lease lasts %v s", left)
	}
	lapse(t, s)
	if renewal, err := s.Renew(t.Context(), "n"); err != nil || len(renewal.Held) != 2 || len(renewal.Locked) != 0 {
		t.Errorf("what looks lapsed and nobody has ended is not renewed: %+v, %v", renewal, err)
	}
	lapse(t, s)
	if _, _, err := s.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if renewal, err := s.Renew(t.Context(), "n"); err != nil || len(renewal.Held) != 0 {
		t.Errorf("what was ended is renewed: %+v, %v", renewal, err)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	ids := enqueue(t, s,
		store.NewExecution{Action: "a.running"},
		store.NewExecution{Action: "a.claimed"},
		store.NewExecution{Action: "a.waiting"},
		store.NewExecution{Action: "a.later", DueAt: new(time.Now().Add(time.Hour))},
	)
	claimed := claim(t, s, "n", 2)
	running, unstarted := claimed[0], claimed[1]
	start(t, s, running)
	for id, found := range map[int64]store.Status{
		ids[0]: store.StatusRunning, ids[1]: store.StatusRunning, ids[2]: store.StatusRequested, ids[3]: store.StatusScheduled,
	} {
		status, err := s.Cancel(t.Context(), id, "alice")
		if err != nil || status != found {
			t.Errorf("execution %d was found %s, expected %s: %v", id, status, found, err)
		}
	}
	for _, id := range ids[1:] {
		e, attempts := execution(t, s, id)
		if e.Status != store.StatusCancelled || *e.Error != "cancelled by alice" || e.Attempt != 0 || len(attempts) != 0 {
			t.Errorf("%+v, attempts %+v", e, attempts)
		}
		if status, err := s.Cancel(t.Context(), id, "bob"); err != nil || status != store.StatusCancelled {
			t.Errorf("a second time: %s, %v", status, err)
		}
	}
	if held := start(t, s, unstarted); len(held) != 0 {
		t.Error("a cancelled claim was started")
	}
	// Its node does not know yet, and wants to try again: it is not tried again.
	if !finish(t, s, store.Outcome{Token: running.Token, Status: store.StatusFailed, RetryAt: new(time.Now())})[0] {
		t.Error("refused")
	}
	e, attempts := execution(t, s, ids[0])
	if e.Status != store.StatusCancelled || attempts[0].Status != store.StatusFailed {
		t.Errorf("%+v, attempts %+v", e, attempts)
	}
	if _, err := s.Cancel(t.Context(), 424242, "alice"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// One outcome for each execution, whoever is first.
func TestCancelRacesFinish(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	const rounds = 30
	for range rounds {
		id := enqueue(t, s, store.NewExecution{Action: "a.x"})[0]
		c := claim(t, s, "n", 1)[0]
		var both sync.WaitGroup
		both.Go(func() {
			held, err := s.Start(t.Context(), []string{c.Token})
			for errors.Is(err, store.ErrRowLocked) {
				held, err = s.Start(t.Context(), []string{c.Token})
			}
			if err != nil {
				t.Error(err)
			}
			if !held[c.Token] {
				return
			}
			_, err = s.Finish(t.Context(), []store.Outcome{{Token: c.Token, Status: store.StatusSucceeded}})
			for errors.Is(err, store.ErrRowLocked) {
				_, err = s.Finish(t.Context(), []store.Outcome{{Token: c.Token, Status: store.StatusSucceeded}})
			}
			if err != nil {
				t.Error(err)
			}
		})
		both.Go(func() {
			if _, err := s.Cancel(t.Context(), id, "alice"); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		if e, _ := execution(t, s, id); !e.Status.Final() {
			t.Fatalf("it ended as %s", e.Status)
		}
	}
}

func TestFinishCleansAndNeverStops(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	ids := enqueue(t, s, times(4, store.NewExecution{Action: "a.x", Parameters: json.RawMessage(`{"s":"\u0000"}`)})...)
	claimed := claim(t, s, "n", 4)
	start(t, s, claimed...)
	deep := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	accepted := finish(t, s,
		store.Outcome{Token: claimed[0].Token, Status: store.StatusSucceeded, Result: json.RawMessage(`{"a":"\u0000","b":1e400}`), Stdout: store.Output{Text: "a\x00b\xff", Bytes: 4}},
		store.Outcome{Token: claimed[1].Token, Status: store.StatusSucceeded, Result: json.RawMessage(deep)},
		store.Outcome{Token: claimed[2].Token, Status: store.StatusSucceeded, Result: json.RawMessage("no json \x00")},
		store.Outcome{Token: claimed[3].Token, Status: store.StatusSucceeded},
	)
	if diff := cmp.Diff([]bool{true, true, true, true}, accepted); diff != "" {
		t.Error(diff)
	}
	e, _ := execution(t, s, ids[0])
	if e.Stdout != "a\uFFFDb\uFFFD" || !strings.Contains(*e.Error, "NUL") || !strings.Contains(*e.Error, "out of range") {
		t.Errorf("%+v", e)
	}
	for _, id := range ids {
		if e, _ := execution(t, s, id); e.Status != store.StatusSucceeded {
			t.Errorf("%+v", e)
		}
	}
}

func TestFinishRefusesWhatIsNoOutcome(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	for _, status := range []store.Status{store.StatusRunning, store.StatusLost, store.StatusRequested, "done", ""} {
		if _, err := s.Finish(t.Context(), []store.Outcome{{Token: "2f0b8a0e-0000-4000-8000-000000000000", Status: status}}); err == nil {
			t.Errorf("%q was taken", status)
		}
	}
}

func TestQueueStats(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	enqueue(t, s,
		store.NewExecution{Action: "a.x", DueAt: new(time.Now().Add(-time.Hour))},
		store.NewExecution{Action: "a.x", DueAt: new(time.Now().Add(time.Hour))},
	)
	stats, err := s.QueueStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[store.Status]int64{store.StatusRequested: 1, store.StatusScheduled: 1, store.StatusRunning: 0}
	if diff := cmp.Diff(want, stats.Depth); diff != "" {
		t.Error(diff)
	}
	if stats.OldestWaiting < 59*time.Minute || stats.OldestWaiting > 61*time.Minute {
		t.Errorf("the oldest waits since %v", stats.OldestWaiting)
	}
}

func TestListExecutions(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", trigger("a", "t")))
	event := commit(t, s, matchAll("a.x", 2), store.NewEvent{Trigger: "a.t", Source: "api"})[0]
	byHand := enqueue(t, s, store.NewExecution{Action: "b.y", RequestedBy: "alice"})
	c := claim(t, s, "n", 1)[0]
	start(t, s, c)
	finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusFailed})
	for name, test := range map[string]struct {
		filter store.ExecutionFilter
		want   []int64
	}{
		"all":     {store.ExecutionFilter{}, []int64{byHand[0], event.Executions[1], event.Executions[0]}},
		"rule":    {store.ExecutionFilter{Rule: "a.r"}, []int64{event.Executions[1], event.Executions[0]}},
		"action":  {store.ExecutionFilter{Action: "b.y"}, byHand},
		"pack":    {store.ExecutionFilter{Pack: "b"}, byHand},
		"event":   {store.ExecutionFilter{EventID: event.ID, Limit: 1}, []int64{event.Executions[1]}},
		"failed":  {store.ExecutionFilter{Status: []store.Status{store.StatusFailed}}, []int64{c.ExecutionID}},
		"before":  {store.ExecutionFilter{Before: event.Executions[1]}, []int64{event.Executions[0]}},
		"future":  {store.ExecutionFilter{Since: time.Now().Add(time.Hour)}, nil},
		"unknown": {store.ExecutionFilter{Rule: "no.such"}, nil},
	} {
		found, err := s.ListExecutions(t.Context(), test.filter)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []int64
		for _, e := range found {
			got = append(got, e.ID)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if _, _, err := s.Execution(t.Context(), 424242); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestSinceFirstStart(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	enqueue(t, s, store.NewExecution{Action: "a.x"})
	for attempt := range 3 {
		c := claim(t, s, "n", 1)[0]
		since, err := s.SinceFirstStart(t.Context(), c.ExecutionID, c.CreatedAt)
		if err != nil || (since > 0) != (attempt > 0) || attempt == 2 && since < time.Hour {
			t.Errorf("before attempt %d it is since %v: %v", attempt+1, since, err)
		}
		start(t, s, c)
		finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusFailed, RetryAt: new(time.Now())})
		sql(t, s, "UPDATE attune.attempt SET started_at = started_at - INTERVAL '1 hour' WHERE number = 1")
	}
}
