package reconcile

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/reconcile/store"
)

// edited gives the pack a second revision, whose action prints another text.
func (b *bench) edited() {
	b.t.Helper()
	b.pack("one")
	b.start()
	b.write("one/actions/act.sh", "#!/bin/bash\necho edited\n")
	b.reload()
	if n := b.catalog().Packs["one"].Revision; n != 2 {
		b.t.Fatalf("revision %d, want 2", n)
	}
}

// script is what children of the action in force would run.
func (b *bench) script() string {
	b.t.Helper()
	r := b.catalog().Actions["one.act"]
	dir, err := b.revisions.Dir(b.t.Context(), r.RevisionID, r.TreeDigest)
	b.do(err)
	text, err := os.ReadFile(filepath.Join(dir, "actions/act.sh"))
	b.do(err)
	return string(text)
}

func TestRollbackPinsUntilUnpinned(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.edited()
	report, err := b.Rollback(t.Context(), "one", 0, "alice", "2 is bad")
	b.do(err)
	if diff := cmp.Diff([]string{"~ action one.act (files)"}, steps(&Plan{Packs: report.Plan.Packs[:1]})); diff != "" {
		t.Errorf("the rollback did (-want +have):\n%s", diff)
	}
	row := b.catalog().Packs["one"]
	if row.Revision != 3 || row.PinnedBy != "alice" || row.PinnedReason != "2 is bad" || !strings.Contains(b.script(), "echo one") {
		t.Fatalf("row %+v, script %q", row, b.script())
	}
	history, err := b.store.Revisions(t.Context(), "one", 10)
	b.do(err)
	if history[0].Cause != "rollback to 1 by alice" || history[0].Digest != history[2].Digest {
		t.Errorf("history: %+v", history)
	}

	// Its folder does not rule: what it has, and what is edited there, is drift.
	want := []Drift{{Pack: "one", Why: "pinned to revision 3 by alice", Steps: 1}}
	if diff := cmp.Diff(want, b.Status().Drift); diff != "" {
		t.Errorf("drift (-want +have):\n%s", diff)
	}
	b.write("one/rules/rule.yaml", "name: rule\nlabel: Edited\ntrigger: {ref: one.tick}\naction: {ref: one.act}\n")
	awaitCondition(t, "the drift", func() bool { return b.metric("attune_pack_drift_steps", "one") == 2 }, b.log.String)
	plan, err := b.Plan(t.Context())
	b.do(err)
	if len(plan.Packs) != 1 || plan.Packs[0].Held != "pinned to revision 3 by alice" || plan.Packs[0].writes {
		t.Errorf("plan: %+v", plan.Packs)
	}
	if b.reload(); b.catalog().Packs["one"].Revision != 3 {
		t.Error("a reload applied a pinned pack")
	}
	if b.metric("attune_pack_pinned", "one") != 1 {
		t.Error("attune_pack_pinned is not 1")
	}

	// A restart changes nothing of it.
	b.stop()
	b.start()
	if row := b.catalog().Packs["one"]; row.Revision != 3 || len(b.Status().Drift) != 1 {
		t.Errorf("after a restart: %+v, drift %+v", row, b.Status().Drift)
	}
	// Nor does it when the folder goes.
	b.rename("one", "../away")
	awaitCondition(t, "the drift of a folder that is gone", func() bool {
		plan, err := b.Plan(t.Context())
		b.do(err)
		return len(plan.Packs) == 1 && plan.Packs[0].Steps[0].line() == "- pack one"
	}, b.log.String)
	if !b.catalog().Packs["one"].Enabled {
		t.Error("a pinned pack went with its folder")
	}
	b.rename("../away", "one")

	report, err = b.Unpin(t.Context(), "one", "bob")
	b.do(err)
	if diff := cmp.Diff([]string{"~ action one.act (files)", "~ rule one.rule /actions/0/parameters /label"}, steps(report.Plan)); diff != "" {
		t.Errorf("unpinning did (-want +have):\n%s", diff)
	}
	row = b.catalog().Packs["one"]
	if row.Revision != 4 || row.PinnedBy != "" || !strings.Contains(b.script(), "echo edited") || len(b.Status().Drift) != 0 {
		t.Errorf("row %+v, drift %+v", row, b.Status().Drift)
	}
	if _, err := b.Unpin(t.Context(), "one", "bob"); !errors.Is(err, ErrNotPinned) {
		t.Errorf("a second unpin: %v", err)
	}
	b.write("one/README.md", "x\n")
	b.await("an edit after the unpin", func(c *store.Catalog) bool { return c.Packs["one"].Revision == 5 })
}

func TestRollbackIsRefusedWithReasons(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("base")
	b.pack("one")
	b.write("one/rules/far.yaml", "name: far\ntrigger: {ref: base.tick}\naction: {ref: base.act}\n")
	b.start()
	b.remove("one/rules/far.yaml")
	b.reload()
	b.remove("base/triggers/tick.yaml")
	b.remove("base/sensors/sense.yaml")
	b.remove("base/rules/rule.yaml")
	b.reload()
	before := b.catalog()
	_, err := b.Rollback(t.Context(), "one", 1, "alice", "")
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Errors.Error(), `one/rules/far.yaml:2:`) || !strings.Contains(refused.Errors.Error(), "base.tick") {
		t.Fatalf("found %v", err)
	}
	if after := b.catalog(); after.Generation != before.Generation || after.Packs["one"].PinnedBy != "" {
		t.Error("a refused rollback changed something")
	}
	for number, want := range map[int]error{99: ErrNoRevision} {
		if _, err := b.Rollback(t.Context(), "one", number, "alice", ""); !errors.Is(err, want) {
			t.Errorf("revision %d: %v", number, err)
		}
	}
	if _, err := b.Rollback(t.Context(), "nobody", 0, "alice", ""); !errors.Is(err, ErrNoPack) {
		t.Errorf("an unknown pack: %v", err)
	}
	b.pack("single")
	b.reload()
	if _, err := b.Rollback(t.Context(), "single", 0, "alice", ""); !errors.Is(err, ErrNoRevision) {
		t.Errorf("a pack of one revision: %v", err)
	}
}

// TestRollbackToWhatIsInForce only pins.
func TestRollbackToWhatIsInForce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.edited()
	_, err := b.Rollback(t.Context(), "one", 2, "alice", "")
	b.do(err)
	if row := b.catalog().Packs["one"]; row.Revision != 2 || row.PinnedBy != "alice" || len(b.Status().Drift) != 0 {
		t.Errorf("row %+v, drift %+v", row, b.Status().Drift)
	}
	b.write("one/README.md", "x\n")
	awaitCondition(t, "the drift", func() bool { return len(b.Status().Drift) == 1 }, b.log.String)
}

// TestRollbackBringsBackWhatWasRemoved restores a pack whose folder is gone.
func TestRollbackBringsBackWhatWasRemoved(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("other")
	b.edited()
	b.remove("one")
	b.await("the removal", func(c *store.Catalog) bool { return !c.Packs["one"].Enabled })
	_, err := b.Rollback(t.Context(), "one", 1, "alice", "")
	b.do(err)
	c := b.catalog()
	if !c.Packs["one"].Enabled || !c.Sensors["one.sense"].Enabled || !strings.Contains(b.script(), "echo one") {
		t.Errorf("row %+v", c.Packs["one"])
	}
}

// TestDependentsAreToldOfARollback takes an action away from another pack's rule.
func TestDependentsAreToldOfARollback(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.start()
	b.write("one/actions/late.sh", "echo late\n")
	b.write("one/actions/late.yaml", "name: late\nentry_point: late.sh\n")
	b.write("top/pack.yaml", "ref: top\nlabel: Top\nversion: 1.0.0\n")
	b.write("top/rules/r.yaml", "name: r\ntrigger: {ref: one.tick}\naction: {ref: one.late}\n")
	// By itself, so that no window is open any more: what is being written is left alone until it is quiet.
	b.await("the rule", func(c *store.Catalog) bool { return c.Rules["top.r"] != nil && c.Rules["top.r"].Enabled })
	report, err := b.Rollback(t.Context(), "one", 1, "alice", "")
	b.do(err)
	if !strings.Contains(report.Errors.Error(), "top/rules/r.yaml:3") {
		t.Errorf("errors: %v", texts(report.Errors))
	}
}

func TestStaleCheckoutIsHeld(t *testing.T) {
	t.Parallel()
	b := setup(t)
	old := "#!/bin/bash\necho one\n"
	b.pack("two")
	b.edited()
	b.stop()
	b.write("one/actions/act.sh", old)
	b.write("two/actions/act.sh", "#!/bin/bash\necho never seen before\n")
	b.start()
	if c := b.catalog(); c.Packs["one"].Revision != 2 || c.Packs["two"].Revision != 2 {
		t.Errorf("one is at %d, two at %d, want both at 2", c.Packs["one"].Revision, c.Packs["two"].Revision)
	}
	want := []Drift{{Pack: "one", Why: "its files are those of revision 1, and revision 2 is in force", Steps: 1}}
	if diff := cmp.Diff(want, b.Status().Drift); diff != "" {
		t.Errorf("drift (-want +have):\n%s", diff)
	}
	if !strings.Contains(b.log.String(), "attune pack reload one --force") {
		t.Errorf("nobody says what to do:\n%s", b.log)
	}
	if b.reload(); b.catalog().Packs["one"].Revision != 2 {
		t.Error("a reload without force applied it")
	}
	report, err := b.ReloadForced(t.Context(), "alice", "one")
	b.do(err)
	if c := b.catalog(); c.Packs["one"].Revision != 3 || !strings.Contains(b.script(), "echo one") || len(b.Status().Drift) != 0 {
		t.Errorf("after force: revision %d, %v", c.Packs["one"].Revision, steps(report.Plan))
	}
}

// TestOlderFilesAreAnEditWhileTheDaemonRuns checks out what was there before, under a running daemon and
// after a hold.
func TestOlderFilesAreAnEditWhileTheDaemonRuns(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.edited()
	b.write("one/actions/act.sh", "#!/bin/bash\necho one\n")
	b.await("the older files", func(c *store.Catalog) bool { return c.Packs["one"].Revision == 3 })

	b.stop()
	b.write("one/actions/act.sh", "#!/bin/bash\necho edited\n") // which is revision 2
	b.start()
	if n := b.catalog().Packs["one"].Revision; n != 3 {
		t.Fatalf("revision %d, want 3", n)
	}
	b.write("one/actions/act.sh", "#!/bin/bash\necho newest\n")
	b.await("an edit of a held folder", func(c *store.Catalog) bool { return c.Packs["one"].Revision == 4 })
	b.await("the end of the drift", func(*store.Catalog) bool { return len(b.Status().Drift) == 0 })
}

func TestPlanOnlyTellsDriftAndRollsNothingBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.edited()
	b.stop()
	b.options = func(o *Options) { o.PlanOnly = true }
	b.write("one/README.md", "x\n")
	b.start()
	want := []Drift{{Pack: "one", Why: "the daemon only plans", Steps: 1}}
	if diff := cmp.Diff(want, b.Status().Drift); diff != "" || b.metric("attune_pack_drift_steps", "one") != 1 {
		t.Errorf("drift (-want +have):\n%s", diff)
	}
	if _, err := b.Rollback(t.Context(), "one", 1, "alice", ""); !errors.Is(err, ErrPlanOnly) {
		t.Errorf("a rollback: %v", err)
	}
	b.remove("one")
	awaitCondition(t, "the drift of a removal", func() bool {
		drift := b.Status().Drift
		return len(drift) == 1 && drift[0].Steps > 1
	}, b.log.String)
	if n := b.catalog().Packs["one"].Revision; n != 2 || !b.catalog().Packs["one"].Enabled {
		t.Errorf("something was applied: revision %d", n)
	}
}

// TestNewLeaderTakesNobodyBack has a node that followed, with files of an older revision and without
// a pack that is in force, come to lead.
func TestNewLeaderTakesNobodyBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("two")
	b.edited()
	b.stop()
	var leads atomic.Bool
	b.options = func(o *Options) { o.Leads = func() (string, bool) { return "", leads.Load() } }
	b.start()
	b.write("one/actions/act.sh", "#!/bin/bash\necho one\n")
	b.remove("two")
	follows := []Drift{{Pack: "one", Why: driftFollows, Steps: 1}, {Pack: "two", Why: driftFollows, Steps: 5}}
	awaitCondition(t, "the follower's drift", func() bool { return cmp.Equal(b.Status().Drift, follows) }, b.log.String)

	leads.Store(true)
	b.Dirty("leads")
	held := []Drift{
		{Pack: "one", Why: "its files are those of revision 1, and revision 2 is in force", Steps: 1},
		{Pack: "two", Why: "the packs folders of this node did not have it when it came to lead, and revision 1 is in force", Steps: 5},
	}
	awaitCondition(t, "what is held", func() bool { return cmp.Equal(b.Status().Drift, held) }, b.log.String)
	c := b.catalog()
	if c.Packs["one"].Revision != 2 || !c.Packs["two"].Enabled {
		t.Errorf("in force: %+v, %+v", c.Packs["one"], c.Packs["two"])
	}
	_, err := b.ReloadForced(t.Context(), "alice", "two")
	b.do(err)
	if b.catalog().Packs["two"].Enabled {
		t.Error("an order to remove it did not")
	}
	b.pack("two")
	b.await("a pack that comes back", func(c *store.Catalog) bool { return c.Packs["two"].Enabled })
	b.remove("two")
	b.await("its removal by whoever leads", func(c *store.Catalog) bool { return !c.Packs["two"].Enabled })
}

// TestMismatchIsToldAfterAWhile looks at the time alone.
func TestMismatchIsToldAfterAWhile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r, err := New(Options{Directories: []string{b.dir}, Store: b.store, Revisions: b.revisions, Logger: quietLogger()})
	b.do(err)
	r.planOnly = true // and so follows
	now := time.Now()
	r.drifts["one"] = &PackPlan{}
	for _, step := range []struct {
		after time.Duration
		want  float64
	}{{0, 0}, {mismatchAfter - time.Second, 0}, {mismatchAfter, 1}, {2 * mismatchAfter, 1}} {
		r.tellMismatches(now.Add(step.after))
		if have := testutil.ToFloat64(r.metrics.mismatch.WithLabelValues("one")); have != step.want {
			t.Errorf("after %v: %v, want %v", step.after, have, step.want)
		}
	}
	delete(r.drifts, "one")
	r.tellMismatches(now.Add(3 * mismatchAfter))
	if n := testutil.CollectAndCount(r.metrics.mismatch); n != 0 {
		t.Errorf("%d series are left", n)
	}
}

// TestCommandsWaitForTheFirstPass asks before anything is known.
func TestCommandsWaitForTheFirstPass(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.edited()
	b.stop()
	b.launch()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := b.Rollback(ctx, "one", 1, "alice", "")
	b.do(err)
	if row := b.catalog().Packs["one"]; row.Revision != 3 || row.PinnedBy != "alice" {
		t.Errorf("row %+v", row)
	}
}
