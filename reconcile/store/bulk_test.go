package store_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// TestSparedAttempts holds that an attempt whose node was stopping does not count: neither for the retry
// of its action nor for the reaper, and that its execution keeps its place.
func TestSparedAttempts(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("core", action("core", "echo", onLostRetry, func(a *manifest.Action) {
		a.Retry = &manifest.Retry{MaxAttempts: 2, On: []string{"lost"}}
	})))
	id := enqueue(t, s, store.NewExecution{Action: "core.echo"})[0]
	due := one[time.Time](t, s, "SELECT due_at FROM attune.queue")
	var c store.Claimed
	for n := 1; n <= 3; n++ {
		c = claim(t, s, "n", 1)[0]
		if c.Attempt != n || c.Tries != 1 {
			t.Fatalf("attempt %d counts as try %d, want %d and 1", c.Attempt, c.Tries, n)
		}
		start(t, s, c)
		if n < 3 {
			now := time.Now()
			finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusCancelled, RetryAt: &now, Spare: true})
		}
		if n == 1 {
			if again := one[time.Time](t, s, "SELECT due_at FROM attune.queue"); !again.Equal(due) {
				t.Errorf("it lost its place: due %v, then %v", due, again)
			}
		}
	}
	lapse := func() (requeued, lost []int64) {
		sql(t, s, "UPDATE attune.queue SET lease_until = now() - INTERVAL '1 second' WHERE token IS NOT NULL")
		requeued, lost, err := s.Reap(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return requeued, lost
	}
	if requeued, _ := lapse(); !slices.Equal(requeued, []int64{id}) {
		t.Fatalf("lost at its first try, and requeued is %v", requeued)
	}
	if c = claim(t, s, "n", 1)[0]; c.Attempt != 4 || c.Tries != 2 {
		t.Errorf("attempt %d counts as try %d, want 4 and 2", c.Attempt, c.Tries)
	}
	start(t, s, c)
	if requeued, _ := lapse(); len(requeued) != 0 {
		t.Errorf("lost at its last try, and requeued is %v", requeued)
	}
	if _, attempts := execution(t, s, id); len(attempts) != 4 {
		t.Errorf("%d attempts are recorded, want 4", len(attempts))
	}
}

// TestOwnRetry holds that an execution's own retry is instead of its action's.
func TestOwnRetry(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("core", action("core", "echo")))
	want := &manifest.Retry{MaxAttempts: 3, Delay: manifest.Duration(1500 * time.Millisecond), On: []string{"lost"}}
	enqueue(t, s, store.NewExecution{Action: "core.echo", Retry: want}, store.NewExecution{Action: "core.echo"})
	claimed := claim(t, s, "n", 2)
	if diff := cmp.Diff(want, claimed[0].Retry); diff != "" {
		t.Error(diff)
	}
	if claimed[1].Retry != nil {
		t.Errorf("the other one has %+v", claimed[1].Retry)
	}
	start(t, s, claimed...)
	requeued, lost, err := s.LoseNode(t.Context(), "n")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(requeued, []int64{claimed[0].ExecutionID}) || len(lost) != 2 {
		t.Errorf("requeued %v, lost %v", requeued, lost)
	}
	if n := one[int](t, s, "SELECT count(*) FROM attune.queue WHERE status = 'scheduled' AND due_at > now()"); n != 1 {
		t.Error("its delay is not kept")
	}
}

// What bounds all attempts of one execution is kept beside its action's retry, which goes on to count, and goes
// over to what repeats it.
func TestOwnTimeoutTotal(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("core", action("core", "echo", func(a *manifest.Action) {
		a.Retry = &manifest.Retry{MaxAttempts: 2, On: []string{"lost"}}
	})))
	own := &manifest.Retry{MaxAttempts: 1, On: []string{"lost"}}
	enqueue(
		t, s, store.NewExecution{Action: "core.echo", TimeoutTotal: 90 * time.Second},
		store.NewExecution{Action: "core.echo", TimeoutTotal: time.Minute, Retry: own},
	)
	claimed := claim(t, s, "n", 2)
	if c := claimed[0]; c.TimeoutTotal != 90*time.Second || c.Retry != nil {
		t.Errorf("claimed with %v and %+v", c.TimeoutTotal, c.Retry)
	}
	if diff := cmp.Diff(own, claimed[1].Retry); claimed[1].TimeoutTotal != time.Minute || diff != "" {
		t.Errorf("claimed with %v and %s", claimed[1].TimeoutTotal, diff)
	}
	start(t, s, claimed...)
	requeued, lost, err := s.LoseNode(t.Context(), "n")
	if err != nil || !slices.Equal(requeued, []int64{claimed[0].ExecutionID}) || len(lost) != 2 {
		t.Errorf("requeued %v, lost %v: %v", requeued, lost, err)
	}
	reruns, err := s.Reruns(t.Context(), []int64{claimed[0].ExecutionID, claimed[1].ExecutionID})
	if err != nil || len(reruns) != 2 || reruns[0].Again.TimeoutTotal != 90*time.Second || reruns[0].Again.Retry != nil || reruns[1].Again.TimeoutTotal != time.Minute {
		t.Errorf("repeated as %+v: %v", reruns, err)
	}
}

func TestCancelAll(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("core", action("core", "echo")))
	ids := enqueue(t, s, times(4, store.NewExecution{Action: "core.echo"})...)
	claimed := claim(t, s, "n", 2)
	start(t, s, claimed...)
	finish(t, s, store.Outcome{Token: claimed[0].Token, Status: store.StatusSucceeded})
	later := time.Now().Add(time.Hour)
	ids = append(ids, enqueue(t, s, store.NewExecution{Action: "core.echo", DueAt: &later})...)
	found, err := s.CancelAll(t.Context(), append([]int64{9999}, ids...), "ada")
	if err != nil {
		t.Fatal(err)
	}
	want := map[int64]store.Status{
		ids[1]: store.StatusRunning, ids[2]: store.StatusRequested, ids[3]: store.StatusRequested, ids[4]: store.StatusScheduled,
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
	for _, id := range ids[2:] {
		if e, _ := execution(t, s, id); e.Status != store.StatusCancelled || *e.Error != "cancelled by ada" {
			t.Errorf("execution %d is %s", id, e.Status)
		}
	}
	renewal, err := s.Renew(t.Context(), "n")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(renewal.Cancel, []string{claimed[1].Token}) {
		t.Errorf("the node is told %v", renewal.Cancel)
	}
}

func TestChooseExecutions(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("core", action("core", "echo"), action("core", "other")))
	ids := enqueue(t, s, times(3, store.NewExecution{Action: "core.echo"})...)
	other := enqueue(t, s, store.NewExecution{Action: "core.other", Rule: "core.r"})
	c := claim(t, s, "n", 1)[0]
	start(t, s, c)
	finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusFailed})
	waiting := []store.Status{store.StatusRequested, store.StatusScheduled}
	for name, test := range map[string]struct {
		filter store.ExecutionFilter
		want   []int64
	}{
		"all":           {store.ExecutionFilter{}, []int64{other[0], ids[2], ids[1], ids[0]}},
		"failed":        {store.ExecutionFilter{Status: []store.Status{store.StatusFailed}}, ids[:1]},
		"waiting":       {store.ExecutionFilter{Status: waiting}, []int64{other[0], ids[2], ids[1]}},
		"of an action":  {store.ExecutionFilter{Status: waiting, Action: "core.echo"}, []int64{ids[2], ids[1]}},
		"of a rule":     {store.ExecutionFilter{Status: waiting, Rule: "core.r"}, other},
		"of no pack":    {store.ExecutionFilter{Status: waiting, Pack: "nix"}, []int64{}},
		"page":          {store.ExecutionFilter{Status: waiting, Before: other[0], Limit: 1}, ids[2:]},
		"since":         {store.ExecutionFilter{Status: waiting, Since: time.Now().Add(time.Hour)}, []int64{}},
		"both kinds of": {store.ExecutionFilter{Status: []store.Status{store.StatusFailed, store.StatusRequested}}, []int64{other[0], ids[2], ids[1], ids[0]}},
	} {
		have, err := s.ChooseExecutions(t.Context(), test.filter)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(have, test.want) {
			t.Errorf("%s: %v, want %v", name, have, test.want)
		}
	}
}

func TestEnds(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("core", action("core", "echo")))
	began := one[time.Time](t, s, "SELECT now()")
	ids := enqueue(t, s, times(3, store.NewExecution{Action: "core.echo"})...)
	claimed := claim(t, s, "n", 2)
	start(t, s, claimed...)
	finish(t, s,
		store.Outcome{Token: claimed[0].Token, Status: store.StatusSucceeded, ExitCode: new(0)},
		store.Outcome{Token: claimed[1].Token, Status: store.StatusFailed, ExitCode: new(3), Error: "exit 3"})
	ends, err := s.Ends(t.Context(), ids, began)
	if err != nil {
		t.Fatal(err)
	}
	reason := "exit 3"
	want := []store.End{
		{ID: ids[0], Status: store.StatusSucceeded, ExitCode: new(0)},
		{ID: ids[1], Status: store.StatusFailed, ExitCode: new(3), Error: &reason},
	}
	if diff := cmp.Diff(want, ends); diff != "" {
		t.Error(diff)
	}
	if ends, err = s.Ends(t.Context(), ids, began.Add(time.Hour)); err != nil || len(ends) != 0 {
		t.Errorf("of the future: %v, %v", ends, err)
	}
}

// TestRerun holds that a rerun is given what its original was given, whatever has become of the action.
func TestRerun(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("core", action("core", "echo")))
	first := store.NewExecution{
		Action: "core.echo", Rule: "core.r", Trigger: "core.t", EventID: 7, Parameters: json.RawMessage(`{"n": 9007199254740993}`),
		Secrets: map[string]string{"/token": "sealed:k:x"}, Priority: 5, Timeout: 90 * time.Second, Retry: &manifest.Retry{MaxAttempts: 2}, RequestedBy: "rule",
	}
	id := enqueue(t, s, first)[0]
	c := claim(t, s, "n", 1)[0]
	start(t, s, c)
	finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusFailed})
	then := c.Record

	// The action changes; its former revision is still kept.
	newer := change("core", action("core", "echo", func(a *manifest.Action) { a.EntryPoint = "newer.sh" }))
	newer.Revision = files(map[string]string{"pack.yaml": "newer"})
	apply(t, s, newer)

	reruns, err := s.Reruns(t.Context(), []int64{id, 4711})
	if err != nil || len(reruns) != 1 {
		t.Fatalf("%+v, %v", reruns, err)
	}
	r := reruns[0]
	if r.ID != id || r.Status != store.StatusFailed || r.Revision != then.TreeDigest || r.RevisionID != then.RevisionID {
		t.Errorf("%+v", r)
	}
	now, asThen := r.Again, r.Again
	now.RequestedBy, asThen.RequestedBy = "ada", "ada"
	spec, err := manifest.Encode(then.Spec)
	if err != nil {
		t.Fatal(err)
	}
	asThen.Former = &store.Former{RevisionID: r.RevisionID, Manifest: spec}
	ids := enqueue(t, s, now, asThen)
	for i, c := range claim(t, s, "n", 2) {
		if c.ExecutionID != ids[i] || string(c.Parameters) != `{"n": 9007199254740993}` || c.Rule != "core.r" || c.EventID != 7 || c.Priority != 5 || c.Timeout != 90*time.Second {
			t.Errorf("claimed %+v", c)
		}
		if diff := cmp.Diff(first.Secrets, c.Secrets); diff != "" {
			t.Error(diff)
		}
		action := c.Record.Spec.(*manifest.Action)
		switch i {
		case 0:
			if action.EntryPoint != "newer.sh" || c.Record.TreeDigest == then.TreeDigest {
				t.Errorf("as now: %s from %s", action.EntryPoint, c.Record.TreeDigest)
			}
		case 1:
			if action.EntryPoint != "echo.sh" || c.Record.TreeDigest != then.TreeDigest || c.Record.RevisionID != then.RevisionID {
				t.Errorf("as then: %s from %s", action.EntryPoint, c.Record.TreeDigest)
			}
		}
		if e, _ := execution(t, s, c.ExecutionID); e.RerunOf == nil || *e.RerunOf != id || e.RequestedBy != "ada" || *e.Revision != c.Record.TreeDigest {
			t.Errorf("%+v", e)
		}
	}
}

// TestRerunOfWhatIsGone holds that a former revision runs although its action has vanished, but not when
// an operator has disabled it; and that what waits for it keeps it from being pruned.
func TestRerunOfWhatIsGone(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("core", action("core", "echo")))
	id := enqueue(t, s, store.NewExecution{Action: "core.echo"})[0]
	c := claim(t, s, "n", 1)[0]
	start(t, s, c)
	finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusSucceeded})
	spec, err := manifest.Encode(c.Record.Spec)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		gone := store.PackChange{
			Ref: "core", Directory: "/packs", Manifest: &manifest.Pack{Ref: "core", Version: "2.0.0", Enabled: true},
			Revision: files(map[string]string{"pack.yaml": string(rune('a' + n))}),
			Disable:  []store.ComponentRef{{Kind: manifest.KindAction, Ref: "core.echo"}},
		}
		apply(t, s, gone)
	}
	sql(t, s, "UPDATE attune.action SET revision_id = NULL")
	rerun := func() {
		t.Helper()
		reruns, err := s.Reruns(t.Context(), []int64{id})
		if err != nil || len(reruns) != 1 {
			t.Fatal(reruns, err)
		}
		again := reruns[0].Again
		again.Former = &store.Former{RevisionID: reruns[0].RevisionID, Manifest: spec}
		enqueue(t, s, again)
	}
	rerun()
	maintain(t, s, store.Retention{Revisions: 1})
	again := claim(t, s, "n", 1)[0]
	if again.Record == nil || again.Record.TreeDigest != c.Record.TreeDigest {
		t.Fatalf("its record is %+v", again.Record)
	}
	rerun()
	sql(t, s, "UPDATE attune.action SET disabled_at = now(), disabled_by = 'ada'")
	if again = claim(t, s, "n", 1)[0]; again.Record != nil {
		t.Error("it runs although an operator has disabled it")
	}
	sql(t, s, "DELETE FROM attune.queue")
	maintain(t, s, store.Retention{Revisions: 1})
	reruns, err := s.Reruns(t.Context(), []int64{id})
	if err != nil {
		t.Fatal(err)
	}
	if reruns[0].RevisionID != 0 || reruns[0].Revision == "" {
		t.Errorf("after its revision was pruned: %+v", reruns[0])
	}
}
