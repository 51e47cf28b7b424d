package reconcile

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func TestFirstLoad(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.start()
	c := b.catalog()
	row := c.Packs["one"]
	if row == nil || !row.Enabled || row.Revision != 1 || row.Directory != b.dir {
		t.Fatalf("pack row: %+v", row)
	}
	for _, kind := range manifest.ComponentKinds() {
		if len(c.Records(kind)) != 1 {
			t.Errorf("%d components of kind %s, want 1", len(c.Records(kind)), kind)
		}
		for ref, r := range c.Records(kind) {
			if !r.Enabled || r.TreeDigest != row.TreeDigest {
				t.Errorf("%s: enabled %v, tree %s, want the pack's %s", ref, r.Enabled, r.TreeDigest, row.TreeDigest)
			}
		}
	}
	history, err := b.store.Revisions(t.Context(), "one", 10)
	b.do(err)
	want := []string{"+ pack one", "+ trigger one.tick", "+ action one.act", "+ sensor one.sense", "+ rule one.rule"}
	if diff := cmp.Diff(want, history[0].Changes); diff != "" || history[0].Cause != "start" {
		t.Errorf("revision by %s (-want +have):\n%s", history[0].Cause, diff)
	}
	dir, err := b.revisions.Dir(t.Context(), row.RevisionID, row.TreeDigest)
	b.do(err)
	if text, err := os.ReadFile(filepath.Join(dir, "actions/act.sh")); err != nil || string(text) != "#!/bin/bash\necho one\n" {
		t.Errorf("revision's script: %q, %v", text, err)
	}
}

func TestNothingChangedWritesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.start()
	before := b.catalog().Generation
	b.do(os.Chtimes(b.path("one/pack.yaml"), time.Now(), time.Now()))
	report := b.reload()
	if !report.Plan.Empty() || report.Generation != before {
		t.Errorf("plan %v, generation %d, want none and %d", steps(report.Plan), report.Generation, before)
	}
	b.stop()
	b.start() // nor does a new daemon
	if have := b.catalog().Generation; have != before {
		t.Errorf("generation %d after a restart, want %d", have, before)
	}
	if n := len(b.applications()); n != 1 {
		t.Errorf("%d applies, want 1", n)
	}
}

func TestEditIsLive(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		edit func(b *bench)
		most time.Duration
	}{
		"renamed into place": {func(b *bench) { b.replace("one/actions/act.sh", "#!/bin/bash\necho new\n") }, 150 * time.Millisecond},
		"written in place":   {func(b *bench) { b.write("one/actions/act.sh", "#!/bin/bash\necho new\n") }, 500 * time.Millisecond},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.pack("one")
			b.start()
			old := b.catalog().Actions["one.act"]
			sensor := b.catalog().Sensors["one.sense"]
			began := time.Now()
			test.edit(b)
			b.await("the edit", func(c *store.Catalog) bool { return c.Actions["one.act"].FilesDigest != old.FilesDigest })
			t.Logf("live after %s, goal %s", time.Since(began), test.most)
			c := b.catalog()
			if c.Sensors["one.sense"].FilesDigest != sensor.FilesDigest || c.Sensors["one.sense"].Digest != sensor.Digest {
				t.Error("the sensor's restart key changed with an action's script")
			}
			if c.Sensors["one.sense"].TreeDigest != c.Packs["one"].TreeDigest {
				t.Error("the sensor did not follow its pack to the new revision")
			}
			history, err := b.store.Revisions(t.Context(), "one", 1)
			b.do(err)
			if diff := cmp.Diff([]string{"~ action one.act"}, history[0].Changes); diff != "" || history[0].Cause != "edit" {
				t.Errorf("revision by %q (-want +have):\n%s", history[0].Cause, diff)
			}
		})
	}
}

func TestPackWrittenFileByFile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.start()
	b.write("new/actions/act.sh", "echo hello\n")
	b.write("new/actions/act.yaml", "name: act\nentry_point: act.sh\n")
	awaitCondition(t, "the notice", func() bool { return strings.Contains(b.log.String(), "has no pack.yaml") }, b.log.String)
	b.write("new/pack.yaml", "ref: new\nlabel: New\nversion: 0.1.0\n")
	b.await("the action", func(c *store.Catalog) bool { return c.Actions["new.act"] != nil })
	b.write("new/triggers/t.yaml", "name: t\n")
	b.await("the trigger", func(c *store.Catalog) bool { return c.Triggers["new.t"] != nil })
	b.write("new/sensors/deep/er/s.sh", "echo '{}'\n")
	b.write("new/sensors/s.yaml", "name: s\nrunner_type: shell\nentry_point: deep/er/s.sh\ntrigger_types: [new.t]\n")
	b.await("the sensor", func(c *store.Catalog) bool { return c.Sensors["new.s"] != nil })
	old := b.catalog().Sensors["new.s"].FilesDigest
	b.write("new/sensors/deep/er/s.sh", "echo '{\"a\": 1}'\n")
	b.await("the edit far below", func(c *store.Catalog) bool { return c.Sensors["new.s"].FilesDigest != old })
	if n := strings.Count(b.log.String(), "has no pack.yaml"); n != 1 {
		t.Errorf("%d notices, want 1", n)
	}
}

// Who reloads is told of a file that counts as being written, instead of that nothing changed.
func TestReloadNamesWhatIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// Nothing is looked at before it is asked for, however slow the writes.
	b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Minute, time.Minute }
	b.pack("one")
	b.start()
	if report := b.reload(); len(report.Waits) != 0 {
		t.Errorf("found %+v", report.Waits)
	}
	b.write("one/triggers/new.yaml", "")
	report := b.reload()
	if len(report.Waits) != 1 || report.Waits[0].Pack != "one" || !strings.HasPrefix(report.Waits[0].Why, "one/triggers/new.yaml has no bytes") || !report.Plan.Empty() {
		t.Errorf("found %+v and %+v", report.Waits, report.Plan)
	}
	b.write("one/triggers/new.yaml", "name: new\n")
	if report := b.reload(); len(report.Waits) != 0 || report.Plan.Empty() {
		t.Errorf("found %+v and %+v", report.Waits, report.Plan)
	}
}

func TestBrokenEditKeepsLastGood(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// Nothing is looked at before it is asked for, however slow the writes.
	b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Minute, time.Minute }
	b.pack("one")
	b.start()
	good := b.catalog().Actions["one.act"]
	b.write("one/actions/act.yaml", "name: act\nrunner_type: shell\nentry_point: [\n")
	b.write("one/triggers/tick.yaml", "name: tick\nlabel: Tick\npayload_schema:\n  n: {type: integer}\n")
	b.reload()
	c := b.catalog()
	if !c.Packs["one"].Errors.HasErrors() {
		t.Fatal("the error is not told")
	}
	bad := c.Actions["one.act"]
	if !bad.Enabled || bad.TreeDigest != good.TreeDigest || bad.Digest != good.Digest {
		t.Errorf("the last good version did not stay: %+v", bad)
	}
	if c.Triggers["one.tick"].Spec.Head().Label != "Tick" || c.Triggers["one.tick"].TreeDigest == good.TreeDigest {
		t.Error("its neighbour did not move on")
	}
	place := c.Packs["one"].Errors[0].Place
	if place.File != "one/actions/act.yaml" || place.Line == 0 {
		t.Errorf("the error is at %s", place)
	}
	report := b.reload()
	if !strings.Contains(b.log.String(), "one/actions/act.yaml:") {
		t.Errorf("the place is not in the log:\n%s", b.log)
	}
	if n := b.metric("attune_pack_errors", "one"); n == 0 {
		t.Error("attune_pack_errors is 0")
	}
	if diff := cmp.Diff([]string{"! action one.act"}, steps(report.Plan)); diff != "" || !report.Errors.HasErrors() {
		t.Errorf("reload says (-want +have):\n%s", diff)
	}
	b.write("one/actions/act.yaml", "name: act\nrunner_type: shell\nentry_point: act.sh\nlabel: Better\nparameters:\n  text: {type: string}\n")
	b.reload()
	if c := b.catalog(); len(c.Packs["one"].Errors) != 0 || c.Actions["one.act"].Spec.Head().Label != "Better" {
		t.Errorf("the repair is not in force: %v", texts(c.Packs["one"].Errors))
	}
	if n := b.metric("attune_pack_errors", "one"); n != 0 {
		t.Errorf("attune_pack_errors is %v", n)
	}
}

func TestBrokenPackHoldsAll(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.start()
	before := b.catalog()
	b.write("one/pack.yaml", "ref: one\nversion: [\n")
	b.remove("one/rules/rule.yaml")
	b.await("the error", func(c *store.Catalog) bool { return c.Packs["one"].Errors.HasErrors() })
	c := b.catalog()
	if !c.Rules["one.rule"].Enabled || c.Packs["one"].RevisionID != before.Packs["one"].RevisionID {
		t.Error("the pack moved on although its manifest is refused")
	}
	b.write("one/pack.yaml", "ref: one\nlabel: One\nversion: 1.0.1\n")
	b.await("the repair", func(c *store.Catalog) bool { return !c.Rules["one.rule"].Enabled && !c.Packs["one"].Errors.HasErrors() })
}

func TestNewBrokenPackIsTold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.write("bad/pack.yaml", "ref: bad\nversion: nonsense\n")
	b.start()
	row := b.catalog().Packs["bad"]
	if row == nil || !row.Errors.HasErrors() || row.Enabled {
		t.Fatalf("row: %+v", row)
	}
	b.remove("bad")
	b.await("its end", func(c *store.Catalog) bool { return len(c.Packs["bad"].Errors) == 0 && !c.Packs["bad"].Present })
}

func TestVanishAndComeBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.pack("two")
	b.start()
	id := b.catalog().Rules["one.rule"].ID
	b.rename("one/rules/rule.yaml", "one/rules/rule.yaml~")
	b.await("the rule's end", func(c *store.Catalog) bool { return !c.Rules["one.rule"].Enabled })
	b.rename("one/rules/rule.yaml~", "one/rules/rule.yaml")
	b.await("the rule", func(c *store.Catalog) bool { return c.Rules["one.rule"].Enabled && c.Rules["one.rule"].ID == id })

	b.rename("one", "../away")
	b.await("the pack's end", func(c *store.Catalog) bool {
		return !c.Packs["one"].Enabled && !c.Sensors["one.sense"].Enabled && c.Packs["two"].Enabled
	})
	b.rename("../away", "one")
	b.await("the pack", func(c *store.Catalog) bool {
		return c.Packs["one"].Enabled && c.Sensors["one.sense"].Enabled && c.Rules["one.rule"].ID == id
	})
	digest := b.catalog().Packs["one"].TreeDigest
	b.write("one/sensors/sense.sh", "#!/bin/bash\nsleep 2000\n")
	b.await("an edit after the return", func(c *store.Catalog) bool { return c.Packs["one"].TreeDigest != digest })
}

func TestPackRenamed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.pack("other")
	b.pack("third")
	b.start()
	b.rename("one", "two")
	b.await("the error of the misnamed", func(c *store.Catalog) bool { return c.Packs["two"] != nil && c.Packs["two"].Errors.HasErrors() })
	b.await("the end of the old", func(c *store.Catalog) bool { return !c.Packs["one"].Enabled })
	b.pack("two") // in place, in the renamed folder
	b.await("the new", func(c *store.Catalog) bool { return c.Packs["two"].Enabled && c.Sensors["two.sense"] != nil })
	old := b.catalog().Sensors["two.sense"].FilesDigest
	b.write("two/sensors/sense.sh", "#!/bin/bash\nsleep 2000\n")
	b.await("an edit in a renamed folder", func(c *store.Catalog) bool { return c.Sensors["two.sense"].FilesDigest != old })
}

func TestPacksSwapped(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.pack("two")
	b.pack("three")
	b.start()
	b.rename("one", "../x")
	b.rename("two", "one")
	b.rename("../x", "two")
	b.await("both misnamed", func(c *store.Catalog) bool {
		return c.Packs["one"].Errors.HasErrors() && c.Packs["two"].Errors.HasErrors()
	})
	for _, ref := range []string{"one", "two"} {
		b.pack(ref)
	}
	b.await("both mended", func(c *store.Catalog) bool {
		return !c.Packs["one"].Errors.HasErrors() && !c.Packs["two"].Errors.HasErrors()
	})
	old := b.catalog().Sensors["one.sense"].FilesDigest
	b.write("one/sensors/sense.sh", "#!/bin/bash\nsleep 2000\n")
	b.await("an edit after the swap", func(c *store.Catalog) bool { return c.Sensors["one.sense"].FilesDigest != old })
}

func TestManyVanishAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// They vanish together, however slow the renames.
	b.options = func(o *Options) { o.Quiet = time.Second }
	for _, ref := range []string{"a", "b", "c", "d", "e"} {
		b.pack(ref)
	}
	b.start()
	began := time.Now()
	for _, ref := range []string{"b", "c", "d", "e"} {
		b.rename(ref, "../"+ref)
	}
	awaitCondition(t, "the hold", func() bool { return b.metric("attune_reconcile_held_total", "") == 1 }, b.log.String)
	report := b.reload()
	if diff := cmp.Diff([]string{"b", "c", "d", "e"}, report.Held); diff != "" {
		t.Errorf("held (-want +have):\n%s", diff)
	}
	for ref, row := range b.catalog().Packs {
		if !row.Enabled {
			t.Errorf("%s was disabled at once", ref)
		}
	}
	b.await("the removal", func(c *store.Catalog) bool {
		return !c.Packs["b"].Enabled && !c.Packs["e"].Enabled && c.Packs["a"].Enabled
	})
	if waited := time.Since(began); waited < removalHold {
		t.Errorf("removed after %s, want at least %s", waited, removalHold)
	}
}

func TestRootAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.pack("two")
	b.start()
	generation := b.catalog().Generation
	b.do(os.Rename(b.dir, b.dir+".away"))
	awaitCondition(t, "the problem", func() bool { return b.Status().SourceProblem != "" }, b.log.String)
	if n := b.metric("attune_source_unavailable", ""); n != 1 {
		t.Errorf("attune_source_unavailable is %v", n)
	}
	if report := b.reload(); !report.Plan.Empty() {
		t.Errorf("a missing folder leads to %v", steps(report.Plan))
	}
	b.do(os.Rename(b.dir+".away", b.dir))
	awaitCondition(t, "its end", func() bool { return b.Status().SourceProblem == "" }, b.log.String)
	b.reload()
	if have := b.catalog().Generation; have != generation {
		t.Errorf("generation %d, want %d: nothing changed", have, generation)
	}
	b.write("one/README.md", "hello\n")
	b.await("an edit after the return", func(c *store.Catalog) bool { return c.Packs["one"].Revision == 2 })
}

func TestStartWithoutRoot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.do(os.Remove(b.dir))
	b.start()
	if b.Status().SourceProblem == "" {
		t.Error("nobody says that the folder is missing")
	}
	b.do(os.Mkdir(b.dir, 0o755))
	b.pack("one")
	b.await("the pack", func(c *store.Catalog) bool { return c.Rules["one.rule"] != nil })
}

func TestRootThatOthersMayWrite(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.do(os.Chmod(b.dir, 0o777))
	b.start()
	if len(b.catalog().Packs) != 0 || !strings.Contains(b.Status().SourceProblem, "everybody may write") {
		t.Errorf("loaded from a folder that everybody may write: %q", b.Status().SourceProblem)
	}
	b.do(os.Chmod(b.dir, 0o755))
	b.await("the pack", func(c *store.Catalog) bool { return c.Packs["one"] != nil })
	b.do(os.Chmod(b.path("one/actions"), 0o777))
	b.await("the refusal", func(c *store.Catalog) bool { return c.Packs["one"].Errors.HasErrors() })
	if !b.catalog().Packs["one"].Enabled {
		t.Error("the last good version did not stay")
	}
}

func TestTwoDirectories(t *testing.T) {
	t.Parallel()
	b := setup(t)
	own := newTree(t)
	b.options = func(o *Options) { o.Directories = []string{b.dir, own.dir} }
	b.pack("one")
	b.pack("two")
	b.start()
	if have := b.catalog().Packs["one"].Directory; have != b.dir {
		t.Fatalf("read from %s", have)
	}
	own.pack("one")
	own.write("one/actions/act.sh", "echo mine\n")
	b.await("the later folder's", func(c *store.Catalog) bool {
		row := c.Packs["one"]
		return row.Directory == own.dir && len(row.Errors) == 1 && row.Errors[0].Severity == manifest.SeverityWarning
	})
	own.do(os.Rename(own.dir, own.dir+".away"))
	awaitCondition(t, "the problem", func() bool { return b.Status().SourceProblem != "" }, b.log.String)
	b.reload()
	if have := b.catalog().Packs["one"].Directory; have != own.dir {
		t.Error("the pack of a folder that is away was replaced by another's")
	}
	own.do(os.Rename(own.dir+".away", own.dir))
	awaitCondition(t, "its end", func() bool { return b.Status().SourceProblem == "" }, b.log.String)
	own.remove("one")
	b.await("the earlier folder's", func(c *store.Catalog) bool {
		return c.Packs["one"].Directory == b.dir && len(c.Packs["one"].Errors) == 0
	})
}

func TestAutoLoad(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.options = func(o *Options) { o.AutoLoad = []string{"on*"} }
	b.pack("one")
	b.pack("two")
	b.start()
	if c := b.catalog(); c.Packs["one"] == nil || c.Packs["two"] != nil {
		t.Errorf("loaded: %v", sortedKeys(c.Packs))
	}
	b.stop()
	b.options = func(o *Options) { o.AutoLoad = []string{"tw*"} }
	b.start()
	if c := b.catalog(); c.Packs["one"].Enabled || !c.Packs["two"].Enabled {
		t.Error("a pack that is no longer to be loaded stays")
	}
}

func TestReadmeOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// Nothing is looked at before it is asked for, however slow the writes.
	b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Minute, time.Minute }
	b.pack("one")
	b.start()
	b.write("one/README.md", "# One\n")
	b.write("one/sensors/README.md", "# Sensors\n")
	report := b.reload()
	if diff := cmp.Diff([]string{"~ pack one (files)"}, steps(report.Plan)); diff != "" {
		t.Errorf("plan (-want +have):\n%s", diff)
	}
	if have := report.Plan.Packs[0].Steps[0].Consequence; have != consequenceNone {
		t.Errorf("consequence %q", have)
	}
}

func TestDependents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("base")
	b.write("top/pack.yaml", "ref: top\nlabel: Top\nversion: 1.0.0\n")
	b.write("top/rules/r.yaml", "name: r\ntrigger: {ref: base.tick}\naction: {ref: base.late}\n")
	b.start()
	if c := b.catalog(); c.Rules["top.r"] != nil || !c.Packs["top"].Errors.HasErrors() {
		t.Fatal("a rule without its action was accepted")
	}
	b.write("base/actions/late.sh", "echo late\n")
	b.write("base/actions/late.yaml", "name: late\nentry_point: late.sh\n")
	b.await("the rule, without an edit of it", func(c *store.Catalog) bool {
		return c.Rules["top.r"] != nil && !c.Packs["top"].Errors.HasErrors()
	})
	b.remove("base/actions/late.yaml")
	b.await("the error of the rule", func(c *store.Catalog) bool { return c.Packs["top"].Errors.HasErrors() })
	if !b.catalog().Rules["top.r"].Enabled {
		t.Error("the rule did not stay as it was")
	}
}

func TestOperatorsDisableOutlivesReload(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.start()
	storetest.Exec(t, b.url, "UPDATE attune.sensor SET disabled_at = now(), disabled_by = 'alice' WHERE ref = 'one.sense'")
	old := b.catalog().Packs["one"].TreeDigest
	b.write("one/sensors/sense.sh", "#!/bin/bash\nsleep 3000\n")
	b.await("the edit", func(c *store.Catalog) bool { return c.Packs["one"].TreeDigest != old })
	if r := b.catalog().Sensors["one.sense"]; r.Enabled || r.DisabledBy != "alice" {
		t.Errorf("the sensor is in force again: %+v", r)
	}
}

func TestPlanOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.options = func(o *Options) { o.PlanOnly = true }
	b.pack("one")
	b.start()
	plan, err := b.Plan(t.Context())
	b.do(err)
	want := []string{"+ pack one", "+ trigger one.tick", "+ action one.act", "+ sensor one.sense => starts", "+ rule one.rule"}
	if diff := cmp.Diff(want, steps(plan)); diff != "" {
		t.Errorf("plan (-want +have):\n%s", diff)
	}
	if len(b.catalog().Packs) != 0 || len(b.applications()) != 0 {
		t.Error("a plan was applied")
	}
	b.write("one/README.md", "x\n")
	plan, err = b.Plan(t.Context())
	b.do(err)
	if diff := cmp.Diff(want, steps(plan)); diff != "" {
		t.Errorf("second plan (-want +have):\n%s", diff)
	}
	if b.Status().Mode != "plan" {
		t.Errorf("mode %q", b.Status().Mode)
	}
}

// TestPlanAppliesNothing asks for a plan between an edit and its window's end.
func TestPlanAppliesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Hour, time.Hour }
	b.pack("one")
	b.start()
	generation := b.catalog().Generation
	b.write("one/actions/act.sh", "#!/bin/bash\necho planned\n")
	plan, err := b.Plan(t.Context())
	b.do(err)
	if diff := cmp.Diff([]string{"~ action one.act (files)"}, steps(plan)); diff != "" {
		t.Errorf("plan (-want +have):\n%s", diff)
	}
	if have := b.catalog().Generation; have != generation {
		t.Error("the plan was applied")
	}
	b.quiet(0)
	b.await("the edit after its window", func(c *store.Catalog) bool { return c.Generation > generation })
	history, err := b.store.Revisions(t.Context(), "one", 1)
	b.do(err)
	if history[0].Cause != "edit" { // not the command that only looked
		t.Errorf("revision by %q", history[0].Cause)
	}
	plan, err = b.Plan(t.Context())
	b.do(err)
	if !plan.Empty() {
		t.Errorf("still to do: %v", steps(plan))
	}
}

// TestPlanLeavesWhatIsWritten: what only a plan has looked at is not applied before it is quiet, whatever
// else is.
func TestPlanLeavesWhatIsWritten(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Hour, time.Hour }
	b.pack("one")
	b.pack("two")
	b.pack("three")
	b.write("three/rules/rule.yaml", "name: rule\ntrigger: {ref: two.tick}\naction: {ref: one.act}\n")
	b.start()
	half := b.catalog().Packs["one"].TreeDigest
	b.write("one/actions/act.yaml", "name: act\nentry_point: another.sh\nparameters:\n  text: {type: string}\n")
	plan, err := b.Plan(t.Context())
	b.do(err)
	if len(plan.Packs) == 0 || plan.Packs[0].Ref != "one" {
		t.Errorf("what is being written is not in the plan: %v", steps(plan))
	}
	// A file that is renamed into place is not waited for an hour.
	b.replace("two/triggers/tick.yaml", "name: tick\nlabel: Another\n")
	b.await("the other pack's edit", func(c *store.Catalog) bool { return c.Packs["two"].Revision == 2 })
	if row := b.catalog().Packs["one"]; row.TreeDigest != half || row.Errors.HasErrors() {
		t.Errorf("what was being written is in force: revision %d, %v", row.Revision, texts(row.Errors))
	}
	b.write("one/actions/another.sh", "#!/bin/bash\necho whole\n")
	if report := b.reload(); report.Errors.HasErrors() || b.catalog().Packs["one"].Revision != 2 {
		t.Errorf("the whole edit is not in force: %v", texts(report.Errors))
	}
}

func TestPlanApplies(t *testing.T) {
	t.Parallel()
	for want, steps := range map[bool][]Step{true: {{Op: StepKeep}, {Op: StepDisable}}, false: {{Op: StepKeep}}} {
		if have := (&Plan{Packs: []PackPlan{{Steps: steps}}}).Applies(); have != want {
			t.Errorf("%v: %v, want %v", steps, have, want)
		}
		if (&Plan{Packs: []PackPlan{{Held: "pinned", Steps: steps}}}).Applies() {
			t.Errorf("%v would be applied in spite of a pin", steps)
		}
	}
}

func TestReloadServesMany(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.start()
	errs := make(chan error, 20)
	for range cap(errs) {
		go func() {
			_, err := b.Reload(t.Context(), "somebody")
			errs <- err
		}()
	}
	for range cap(errs) {
		b.do(<-errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Reload(ctx, "nobody"); err == nil {
		t.Error("a cancelled reload reports")
	}
	b.stop()
	if _, err := b.Reload(t.Context(), "late"); err == nil {
		t.Error("an ended reconciler reports")
	}
}

// TestEachAskerIsAnsweredByALaterScan has ten people edit a pack each and ask at once: there is one scan at
// a time, fewer than askers, and what each wrote before asking is in force at the answer.
func TestEachAskerIsAnsweredByALaterScan(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// By themselves, edits would take for ever.
	b.options = func(o *Options) { o.Quiet, o.MaxWait, o.Resync = time.Minute, time.Minute, time.Hour }
	people := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}
	for _, ref := range people {
		b.pack(ref)
	}
	b.start()
	passes := func() float64 {
		return b.metric("attune_reconcile_total", outcomeApplied) + b.metric("attune_reconcile_total", outcomeUnchanged)
	}
	before := passes()
	const rounds = 3
	errs := make(chan error, len(people)*rounds)
	for _, ref := range people {
		go func() {
			for round := range rounds {
				text := fmt.Sprintf("name: tick\nlabel: %s %d\n", ref, round)
				err := os.WriteFile(b.path(ref+"/triggers/tick.yaml"), []byte(text), 0o644)
				if err == nil {
					_, err = b.Reload(t.Context(), ref)
				}
				var c *store.Catalog
				if err == nil {
					c, err = b.store.Catalog(t.Context(), nil)
				}
				if err == nil {
					if have, want := c.Triggers[ref+".tick"].Spec.Head().Label, fmt.Sprintf("%s %d", ref, round); have != want {
						err = fmt.Errorf("%s was answered before %q was in force, with %q", ref, want, have)
					}
				}
				errs <- err
			}
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := passes() - before; n < rounds || n > float64(len(people)*rounds) {
		t.Errorf("%v passes for %d questions of %d people", n, len(people)*rounds, len(people))
	}
}

// TestTwoPeopleAtOnce edits two packs, by the watch and by command, at the same time.
func TestTwoPeopleAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.pack("two")
	b.start()
	const edits = 10
	done := make(chan error, 2)
	go func() {
		var err error
		for i := range edits {
			if err == nil {
				err = os.WriteFile(b.path("one/actions/act.sh"), fmt.Appendf(nil, "#!/bin/bash\necho one %d\n", i), 0o755)
			}
		}
		done <- err
	}()
	go func() {
		var err error
		for i := range edits {
			if err == nil {
				err = os.WriteFile(b.path("two/actions/act.sh"), fmt.Appendf(nil, "#!/bin/bash\necho two %d\n", i), 0o755)
			}
			if err == nil {
				_, err = b.Reload(t.Context(), "bob")
			}
		}
		done <- err
	}()
	b.do(<-done)
	b.do(<-done)
	for _, ref := range []string{"one", "two"} {
		want := digestOf(fmt.Appendf(nil, "#!/bin/bash\necho %s %d\n", ref, edits-1))
		b.await("the last edit of "+ref, func(c *store.Catalog) bool {
			_, tree, err := b.store.RevisionTree(t.Context(), c.Packs[ref].RevisionID)
			b.do(err)
			return slices.ContainsFunc(tree, func(e store.TreeEntry) bool { return e.Path == "actions/act.sh" && e.Digest == want })
		})
	}
}

func TestReloadIsTheCause(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Minute, time.Minute }
	b.pack("one")
	b.start()
	b.write("one/actions/act.sh", "#!/bin/bash\necho by command\n")
	b.reload()
	history, err := b.store.Revisions(t.Context(), "one", 1)
	b.do(err)
	if history[0].Number != 2 || history[0].Cause != "command tester" {
		t.Errorf("revision %d by %q", history[0].Number, history[0].Cause)
	}
}

func TestEmptyManifestIsBeingWritten(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// Nothing is looked at before it is asked for, however slow the writes.
	b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Minute, time.Minute }
	b.pack("one")
	b.start()
	text, err := os.ReadFile(b.path("one/rules/rule.yaml"))
	b.do(err)
	b.do(os.Truncate(b.path("one/rules/rule.yaml"), 0))
	report := b.reload()
	if !report.Plan.Empty() || len(report.Errors) > 0 {
		t.Errorf("a truncated file was believed: %v %v", steps(report.Plan), texts(report.Errors))
	}
	b.write("one/rules/rule.yaml", string(text))
	b.reload()
	b.do(os.Truncate(b.path("one/rules/rule.yaml"), 0))
	b.await("the error, in the end", func(*store.Catalog) bool {
		b.reload()
		return b.catalog().Packs["one"].Errors.HasErrors()
	})
	if !b.catalog().Rules["one.rule"].Enabled {
		t.Error("the rule went with its content")
	}
}

func TestGitAtWork(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.start()
	generation := b.catalog().Generation
	b.write(".git/index.lock", "")
	b.write("one/actions/act.sh", "#!/bin/bash\necho checked out\n")
	if report := b.reload(); !report.Plan.Empty() {
		t.Errorf("planned while git is at work: %v", steps(report.Plan))
	}
	b.remove(".git/index.lock")
	b.await("the end of the checkout", func(c *store.Catalog) bool { return c.Generation > generation })
}

func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.start()
	storetest.Exec(t, b.url, "ALTER TABLE attune.generation RENAME TO away")
	b.write("one/actions/act.sh", "#!/bin/bash\necho meanwhile\n")
	awaitCondition(t, "the failure", func() bool { return b.Status().Error != "" }, b.log.String)
	if _, err := b.Reload(t.Context(), "tester"); err == nil {
		t.Error("a reload without a database succeeded")
	}
	storetest.Exec(t, b.url, "ALTER TABLE attune.away RENAME TO generation")
	b.await("the edit", func(c *store.Catalog) bool { return c.Packs["one"].Revision == 2 })
	awaitCondition(t, "the status", func() bool { return b.Status().Error == "" }, b.log.String)
}

func TestStatusAndMetrics(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.start()
	s := b.Status()
	if s.Mode != "apply" || s.WatchMode != watchInotify || s.LastScan.IsZero() || s.LastApply.IsZero() || s.Error != "" {
		t.Errorf("status: %+v", s)
	}
	b.write("one/README.md", "x\n")
	b.await("the edit", func(c *store.Catalog) bool { return c.Packs["one"].Revision == 2 })
	awaitCondition(t, "the second pass", func() bool { return b.metric("attune_reconcile_total", outcomeApplied) == 2 }, b.log.String)
	for name, label := range map[string]string{
		"attune_reconcile_lag_seconds": "", "attune_packs": packLoaded, "attune_watch_mode": watchInotify,
	} {
		if have := b.metric(name, label); have != 1 {
			t.Errorf("%s is %v, want 1", name, have)
		}
	}
}

// TestLostEvents edits what is not watched: the regular scan finds it.
func TestLostEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// The regular scan is asked for below: one that came in between would watch the folders again. Nothing is
	// too young for it.
	b.options = func(o *Options) { o.Resync, o.Quiet = time.Hour, time.Nanosecond }
	b.pack("one")
	b.start()
	b.watcher.mu.Lock()
	clear(b.watcher.folders) // as if the kernel had told nobody
	b.watcher.mu.Unlock()
	b.write("one/actions/act.sh", "#!/bin/bash\necho lost\n")
	b.Dirty(causeResync)
	b.await("the edit", func(c *store.Catalog) bool { return c.Packs["one"].Revision == 2 })
	if b.metric("attune_resync_found_changes_total", "") != 1 {
		t.Error("attune_resync_found_changes_total is not 1")
	}
}

func TestPacksAreAppliedTogether(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, ref := range []string{"a", "b", "c"} {
		b.pack(ref)
	}
	b.start()
	have := b.applications()
	if len(have) != 1 || !slices.Equal(have[0], []string{"a", "b", "c"}) {
		t.Errorf("applied %v", have)
	}
}

// TestRuleTellsOfOperatorsSwitch: a rule whose action or trigger an operator has switched off is accepted, and
// says so with its place, who did it and the way back; also one in another pack; until it is taken back.
func TestRuleTellsOfOperatorsSwitch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// Nothing is looked at before it is asked for, however slow the writes.
	b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Minute, time.Minute }
	b.pack("one")
	b.write("two/pack.yaml", "ref: two\nlabel: Two\nversion: 1.0.0\n")
	b.write("two/rules/r.yaml", "name: r\ntrigger: one.tick\naction: {ref: one.act, parameters: {text: x}}\n")
	b.start()
	flip := func(kind manifest.Kind, ref, reason string, enable bool) {
		t.Helper()
		_, generation, err := b.store.Switch(t.Context(), store.Switch{Kind: kind, Refs: []string{ref}, Enable: enable, By: "alice", Reason: reason})
		b.do(err)
		b.Noticed(generation) // as a daemon hears of it
	}
	findings := func(c *store.Catalog, ref string) string { return strings.Join(texts(c.Packs[ref].Errors), "\n") }

	flip(manifest.KindAction, "one.act", "it floods", false)
	b.await("the warnings", func(c *store.Catalog) bool { return findings(c, "one") != "" && findings(c, "two") != "" })
	at := b.catalog().Actions["one.act"].DisabledAt.UTC().Format(time.RFC3339)
	want := `: cannot run its action: action "one.act" is switched off: alice disabled it at ` + at + " (it floods); `attune action enable one.act` takes that back"
	for ref, place := range map[string]string{"one": "warning: one/rules/rule.yaml:3:15", "two": "warning: two/rules/r.yaml:3:15"} {
		if diff := cmp.Diff(place+want, findings(b.catalog(), ref)); diff != "" {
			t.Errorf("pack %s (-want +have):\n%s", ref, diff)
		}
	}
	if c := b.catalog(); !c.Rules["two.r"].Enabled || !c.Rules["one.rule"].Enabled {
		t.Error("an operator's switch refused a rule")
	}

	// A new rule is planned and applied with the same words, and said to match nothing where its trigger is off.
	flip(manifest.KindTrigger, "one.tick", "", false)
	b.await("the trigger's warnings", func(c *store.Catalog) bool {
		return strings.Contains(findings(c, "two"), "cannot match any event: trigger")
	})
	b.write("two/rules/late.yaml", "name: late\ntrigger: one.tick\naction: one.act\n")
	plan, err := b.Plan(t.Context())
	b.do(err)
	if diff := cmp.Diff([]string{"+ rule two.late"}, steps(plan)); diff != "" || len(effects(plan)) > 0 {
		t.Errorf("effects %v, steps (-want +have):\n%s", effects(plan), diff)
	}
	if all := strings.Join(texts(plan.Packs[0].Errors), "\n"); strings.Count(all, "two/rules/late.yaml") != 2 {
		t.Errorf("the plan tells of the new rule:\n%s", all)
	}
	b.quiet(defaultQuiet)

	flip(manifest.KindTrigger, "one.tick", "", true)
	flip(manifest.KindAction, "one.act", "", true)
	b.await("no warnings", func(c *store.Catalog) bool { return findings(c, "one") == "" && findings(c, "two") == "" })

	// The same where the whole pack is off.
	flip(manifest.KindPack, "one", "", false)
	b.await("the pack's warnings", func(c *store.Catalog) bool {
		return strings.Contains(findings(c, "two"), `trigger "one.tick" is switched off: its pack is not in force, because alice disabled it at 2`) &&
			strings.Contains(findings(c, "two"), "`attune pack enable one` takes that back")
	})

	// And where its folder comes back, or an action that was never there comes: with the same pass, not with a
	// later one that nothing calls for.
	b.remove("one")
	b.reload()
	b.pack("one")
	b.write("one/actions/late.yaml", "name: late\nentry_point: act.sh\n")
	b.write("two/rules/late.yaml", "name: late\ntrigger: one.tick\naction: one.late\n")
	b.reload()
	for _, want := range []string{`trigger "one.tick"`, `action "one.act"`, `action "one.late"`} {
		if have := findings(b.catalog(), "two"); !strings.Contains(have, want+" is switched off: its pack is not in force, because alice disabled it at 2") {
			t.Errorf("nothing says that %s is switched off:\n%s", want, have)
		}
	}
}

// TestDirtyLeavesWhatIsWritten: a pass that no person asked for, as one after taking the lead, does not apply
// what is half saved.
func TestDirtyLeavesWhatIsWritten(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Hour, time.Hour }
	b.pack("one")
	b.pack("two")
	b.start()
	half := b.catalog().Packs["one"].TreeDigest
	b.write("one/actions/act.sh", "#!/bin/bash\necho ha")
	awaitCondition(t, "the watcher's word", func() bool { return b.watcher.isOpen(b.path("one")) }, b.log.String)
	asked := time.Now()
	b.Dirty("leader")
	// Not during the pass: a pack that changes while it is read is read again when it is quiet, in an hour.
	awaitCondition(t, "the pass", func() bool { return b.Status().LastScan.After(asked) }, b.log.String)
	// A file that is renamed into place is not waited for an hour.
	b.replace("two/actions/act.sh", "#!/bin/bash\necho two again\n")
	b.await("the other pack's edit", func(c *store.Catalog) bool { return c.Packs["two"].Revision == 2 })
	if row := b.catalog().Packs["one"]; row.TreeDigest != half {
		t.Errorf("what was being written is in force: revision %d", row.Revision)
	}
	b.write("one/actions/act.sh", "#!/bin/bash\necho half\n")
	if b.reload(); b.catalog().Packs["one"].Revision != 2 {
		t.Error("the whole edit is not in force")
	}
}
