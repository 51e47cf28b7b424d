package reconcile

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// files is a pack as paths and contents.
type files map[string]string

// with gives a copy with other contents; an empty one removes the file.
func (f files) with(changes ...string) files {
	next := maps.Clone(f)
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == "" {
			delete(next, changes[i])
		} else {
			next[changes[i]] = changes[i+1]
		}
	}
	return next
}

func onePack() files {
	return files{
		"pack.yaml":          "ref: p\nlabel: P\nversion: 1.0.0\n",
		"actions/act.sh":     "echo\n",
		"actions/act.yaml":   "name: act\nentry_point: act.sh\n",
		"triggers/tick.yaml": "name: tick\nparameters_schema:\n  n: {type: integer}\n",
		"sensors/s.sh":       "sleep 1\n",
		"sensors/s.yaml":     "name: s\nentry_point: s.sh\ntrigger_types: [p.tick]\n",
		"sensors/o.sh":       "sleep 2\n",
		"sensors/o.yaml":     "name: o\nentry_point: o.sh\ntrigger_types: [p.tick]\nenabled: false\n",
		"sensors/common.inc": "x\n",
		"rules/r.yaml":       "name: r\ntrigger: {ref: p.tick, parameters: {n: 1}}\naction: p.act\n",
		"lib/x.py":           "x\n",
	}
}

// state is what a scan and a check would make of the files, with the components in force.
func (f files) state(t testing.TB, c *store.Catalog) *PackState {
	t.Helper()
	const ref = "p"
	var found []file
	parsed := map[string]manifest.File{}
	for _, at := range sortedKeys(f) {
		m := mark{mode: 0o644}
		if strings.HasSuffix(at, ".sh") {
			m.mode = 0o755
		}
		found = append(found, file{path: at, mark: m, digest: digestOf([]byte(f[at]))})
		one := manifest.File{Executable: m.executable()}
		if manifest.IsManifest(at) {
			one.Content = []byte(f[at])
		}
		parsed[at] = one
	}
	b := manifest.Parse(ref, parsed)
	var kept []manifest.Component
	for _, r := range recordsOf(c, map[string]bool{ref: true})[ref] {
		kept = append(kept, r.Spec)
	}
	tree := treeOf(found)
	s := &PackState{
		Folder: ref, Directory: "/packs", Digest: treeDigest(tree), Tree: tree, Bundle: b,
		FilesDigests: filesDigests(reachable(found), b.Components(), kept),
	}
	manifest.Check([]*manifest.Bundle{b}, manifest.CheckOptions{InForce: c.InForce()})
	return s
}

func emptyCatalog() *store.Catalog {
	return &store.Catalog{
		Packs: map[string]*store.PackRow{}, Actions: map[string]*store.Record{}, Triggers: map[string]*store.Record{},
		Sensors: map[string]*store.Record{}, Rules: map[string]*store.Record{},
	}
}

// recorded is a model of what the store makes of a plan.
func recorded(c *store.Catalog, plan *Plan) *store.Catalog {
	next := &store.Catalog{
		Generation: c.Generation + 1, Packs: maps.Clone(c.Packs), Actions: maps.Clone(c.Actions),
		Triggers: maps.Clone(c.Triggers), Sensors: maps.Clone(c.Sensors), Rules: maps.Clone(c.Rules),
	}
	for _, p := range plan.Packs {
		row := &store.PackRow{Ref: p.Ref}
		if old := c.Packs[p.Ref]; old != nil {
			copied := *old
			row = &copied
		}
		row.Present, row.Errors, row.Directory = !p.change.Vanished, p.change.Errors, p.change.Directory
		if p.change.Manifest != nil {
			row.Manifest, row.ManifestEnabled = p.change.Manifest, p.change.Manifest.Enabled
			_, row.Digest = normalForm(p.change.Manifest)
		}
		if p.change.Revision != nil {
			row.TreeDigest = p.change.Revision.Digest
			row.Revision++
		}
		row.Enabled = row.Present && row.ManifestEnabled && row.DisabledBy == ""
		next.Packs[p.Ref] = row
		for _, put := range p.change.Put {
			head := put.Spec.Head()
			r := store.Record{}
			if old := next.Records(put.Spec.Kind())[head.Ref]; old != nil {
				r = *old
			}
			r.Kind, r.Ref, r.Pack, r.File, r.Present = put.Spec.Kind(), head.Ref, p.Ref, head.File, true
			r.ManifestEnabled, r.Digest, r.FilesDigest = head.Enabled, put.Digest, put.FilesDigest
			r.TreeDigest, r.Spec = row.TreeDigest, put.Spec
			next.Records(put.Spec.Kind())[head.Ref] = &r
		}
		for _, gone := range p.change.Disable {
			r := *next.Records(gone.Kind)[gone.Ref]
			r.Present = false
			next.Records(gone.Kind)[gone.Ref] = &r
		}
		for _, kind := range manifest.ComponentKinds() {
			for ref, old := range next.Records(kind) {
				if old.Pack != p.Ref {
					continue
				}
				r := *old
				r.Present = r.Present && !p.change.Vanished
				r.Enabled = r.Present && r.ManifestEnabled && row.Enabled && r.DisabledBy == ""
				next.Records(kind)[ref] = &r
			}
		}
	}
	return next
}

// applied is the catalog after the files were applied to an empty one.
func applied(t testing.TB, f files) *store.Catalog {
	t.Helper()
	c := emptyCatalog()
	plan := Diff(&Snapshot{Packs: map[string]*PackState{"p": f.state(t, c)}}, c)
	for _, p := range plan.Packs {
		if p.Errors.HasErrors() {
			t.Fatal(p.Errors)
		}
	}
	return recorded(c, plan)
}

func TestDiff(t *testing.T) {
	t.Parallel()
	disable := func(kind manifest.Kind, ref string) func(c *store.Catalog) {
		return func(c *store.Catalog) {
			c.Records(kind)[ref].Enabled, c.Records(kind)[ref].DisabledBy = false, "alice"
		}
	}
	tests := map[string]struct {
		catalog func(c *store.Catalog)
		files   files // nil: the pack has vanished
		steps   []string
		put     int // components that are written
		errors  string
	}{
		"nothing": {files: onePack()},
		"readme": {
			files: onePack().with("README.md", "x"),
			steps: []string{"~ pack p (files)"}, put: 5,
		},
		"readme beside sensors": {
			files: onePack().with("sensors/README", "x"),
			steps: []string{"~ pack p (files)"}, put: 5,
		},
		"comment in a manifest": {
			files: onePack().with("sensors/s.yaml", "# hello\n"+onePack()["sensors/s.yaml"]),
			steps: []string{"~ pack p (files)"}, put: 5,
		},
		"action script": {
			files: onePack().with("actions/act.sh", "echo more\n"),
			steps: []string{"~ action p.act (files)"}, put: 5,
		},
		"sensor script": {
			files: onePack().with("sensors/s.sh", "sleep 3\n"),
			steps: []string{"~ sensor p.s (files) => restarts"}, put: 5,
		},
		"file beside the sensors": {
			files: onePack().with("sensors/common.inc", "y\n"),
			steps: []string{"~ sensor p.o (files)", "~ sensor p.s (files) => restarts"}, put: 5,
		},
		"library": {
			files: onePack().with("lib/x.py", "y\n"),
			steps: []string{"~ action p.act (files)", "~ sensor p.o (files)", "~ sensor p.s (files) => restarts"}, put: 5,
		},
		"label": {
			files: onePack().with("triggers/tick.yaml", "name: tick\nlabel: Tick\nparameters_schema:\n  n: {type: integer}\n"),
			steps: []string{"~ trigger p.tick /label"}, put: 5,
		},
		"sensor switched on": {
			files: onePack().with("sensors/o.yaml", "name: o\nentry_point: o.sh\ntrigger_types: [p.tick]\n"),
			steps: []string{"~ sensor p.o /enabled => starts"}, put: 5,
		},
		"sensor switched off": {
			files: onePack().with("sensors/s.yaml", onePack()["sensors/s.yaml"]+"enabled: false\n"),
			steps: []string{"~ sensor p.s /enabled => stops"}, put: 5,
		},
		"an operator's disable is not undone": {
			catalog: disable(manifest.KindSensor, "p.s"),
			files:   onePack().with("sensors/s.sh", "sleep 3\n"),
			steps:   []string{"~ sensor p.s (files)"}, put: 5,
		},
		"manifest gone, script left": {
			files: onePack().with("sensors/s.yaml", "", "rules/r.yaml", ""),
			steps: []string{"- sensor p.s => stops", "- rule p.r"}, put: 3,
		},
		"component gone": {
			files: onePack().with("sensors/s.yaml", ""),
			steps: []string{"- sensor p.s => stops"}, put: 4,
		},
		"component new": {
			files: onePack().with("triggers/tock.yaml", "name: tock\n"),
			steps: []string{"+ trigger p.tock"}, put: 6,
		},
		"component renamed": {
			files: onePack().with("triggers/tick.yaml", "name: tick\nparameters_schema:\n  n: {type: integer}\n", "actions/act.yaml", "",
				"actions/do.yaml", "name: do\nentry_point: act.sh\n", "rules/r.yaml", "name: r\ntrigger: {ref: p.tick, parameters: {n: 1}}\naction: p.do\n"),
			steps: []string{"+ action p.do", "~ rule p.r /actions/0/ref", "- action p.act"}, put: 5,
		},
		"manifest's file renamed": {
			files: onePack().with("triggers/tick.yaml", "", "triggers/t.yaml", onePack()["triggers/tick.yaml"]),
			steps: []string{"~ pack p (files)"}, put: 5,
		},
		"broken component": {
			files: onePack().with("sensors/s.yaml", "name: s\nentry_point: [\n"),
			steps: []string{"! sensor p.s", "~ pack p (files)"}, put: 4, errors: "p/sensors/s.yaml:",
		},
		"broken without a name": {
			files: onePack().with("sensors/s.yaml", "{[\n"),
			steps: []string{"! sensor p.s", "~ pack p (files)"}, put: 4, errors: "p/sensors/s.yaml:",
		},
		"broken and a neighbour that moves on": {
			files: onePack().with("sensors/s.yaml", "{[\n", "actions/act.sh", "echo more\n"),
			steps: []string{"~ action p.act (files)", "! sensor p.s"}, put: 4, errors: "p/sensors/s.yaml:",
		},
		"refused by what it names": {
			files: onePack().with("rules/r.yaml", "name: r\ntrigger: p.nothing\naction: p.act\n"),
			steps: []string{"! rule p.r", "~ pack p (files)"}, put: 4, errors: "p/rules/r.yaml:2",
		},
		"two of one ref": {
			files: onePack().with("triggers/again.yaml", "name: tick\n"),
			steps: []string{"! trigger p.tick", "~ pack p (files)"}, put: 4, errors: "p/triggers/tick.yaml:1",
		},
		"broken pack": {
			files: onePack().with("pack.yaml", "ref: p\nversion: [\n", "rules/r.yaml", ""),
			steps: []string{"! pack p"}, errors: "p/pack.yaml:",
		},
		"pack's label": {
			files: onePack().with("pack.yaml", "ref: p\nlabel: Q\nversion: 1.0.0\n"),
			steps: []string{"~ pack p /label"}, put: 5,
		},
		"pack's configuration": {
			files: onePack().with("pack.yaml", "ref: p\nlabel: P\nversion: 1.0.0\nconf_schema: {a: {type: integer}}\nconfig: {a: 1}\n"),
			steps: []string{"~ pack p /conf_schema /config => restarts"}, put: 5,
		},
		"pack switched off": {
			files: onePack().with("pack.yaml", "ref: p\nlabel: P\nversion: 1.0.0\nenabled: false\n"),
			steps: []string{"~ pack p /enabled => stops"}, put: 5,
		},
		"pack gone": {
			steps: []string{"- pack p", "- trigger p.tick", "- action p.act", "- sensor p.o", "- sensor p.s => stops", "- rule p.r"},
		},
		"pack back": {
			catalog: func(c *store.Catalog) {
				*c = *recorded(c, Diff(&Snapshot{}, c))
			},
			files: onePack(),
			steps: []string{"+ pack p", "+ trigger p.tick", "+ action p.act", "+ sensor p.o", "+ sensor p.s => starts", "+ rule p.r"}, put: 5,
		},
		"rule asks for another instance": {
			files: onePack().with("rules/r.yaml", "name: r\ntrigger: {ref: p.tick, parameters: {n: 2}}\naction: p.act\n"),
			steps: []string{"~ rule p.r /trigger/parameters/n => restarts"}, put: 5,
		},
		"rule asks for the same instance": {
			files: onePack().with("rules/r.yaml", onePack()["rules/r.yaml"]+"label: R\n"),
			steps: []string{"~ rule p.r /label"}, put: 5,
		},
		"second rule on the same instance": {
			files: onePack().with("rules/r2.yaml", "name: r2\ntrigger: {ref: p.tick, parameters: {n: 1}}\naction: p.act\n"),
			steps: []string{"+ rule p.r2"}, put: 6,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := applied(t, onePack())
			if test.catalog != nil {
				test.catalog(c)
			}
			wanted := &Snapshot{}
			if test.files != nil {
				wanted.Packs = map[string]*PackState{"p": test.files.state(t, c)}
			}
			plan := Diff(wanted, c)
			if test.steps == nil {
				test.steps = []string{}
			}
			if diff := cmp.Diff(test.steps, steps(plan)); diff != "" {
				t.Errorf("steps (-want +have):\n%s", diff)
			}
			if plan.Empty() != (len(test.steps) == 0) {
				t.Errorf("Empty is %v", plan.Empty())
			}
			for _, p := range plan.Packs {
				if len(p.change.Put) != test.put {
					t.Errorf("%d components are written, want %d", len(p.change.Put), test.put)
				}
				if (test.errors != "") != p.Errors.HasErrors() || !strings.Contains(p.Errors.Error(), test.errors) {
					t.Errorf("errors %v, want %q", p.Errors, test.errors)
				}
				for _, s := range p.Steps {
					if s.Op == StepKeep && !s.Errors.HasErrors() {
						t.Errorf("%s is kept without a reason", s.Ref)
					}
				}
			}
			next := recorded(c, plan)
			if again := Diff(wanted, next); !onlyKeeps(again) {
				t.Errorf("a second plan has %v", steps(again))
			}
		})
	}
}

// onlyKeeps says that a plan would write nothing.
func onlyKeeps(p *Plan) bool {
	for _, one := range p.Packs {
		if one.writes {
			return false
		}
	}
	return true
}

func TestDiffFields(t *testing.T) {
	t.Parallel()
	c := applied(t, onePack())
	f := onePack().with("rules/r.yaml", "name: r\ntrigger: {ref: p.tick, parameters: {n: 7}}\nwhen: event.payload.x == 1\naction: p.act\n")
	plan := Diff(&Snapshot{Packs: map[string]*PackState{"p": f.state(t, c)}}, c)
	var have []string
	for _, change := range plan.Packs[0].Steps[0].Fields {
		old, wanted := "", ""
		if change.Old != nil {
			old = toText(change.Old)
		}
		if change.New != nil {
			wanted = toText(change.New)
		}
		have = append(have, change.Field+": "+old+" -> "+wanted)
	}
	want := []string{"/trigger/parameters/n: 1 -> 7", "/when:  -> event.payload.x == 1"}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("(-want +have):\n%s", diff)
	}
}

func toText(v any) string {
	text, ok := v.(interface{ String() string })
	if ok {
		return text.String()
	}
	s, _ := v.(string)
	return s
}

func TestDiffScope(t *testing.T) {
	t.Parallel()
	c := applied(t, onePack())
	if plan := Diff(&Snapshot{Scope: map[string]bool{}}, c); !plan.Empty() {
		t.Errorf("a pack that could not be judged: %v", steps(plan))
	}
	if plan := Diff(&Snapshot{Scope: map[string]bool{"p": true}}, c); plan.Empty() {
		t.Error("a pack that has vanished stays")
	}
}

// TestBrokenSensorRestartsNobody: whose manifest is broken must not become a file beside the others.
func TestBrokenSensorRestartsNobody(t *testing.T) {
	t.Parallel()
	c := applied(t, onePack())
	for _, text := range []string{"name: o\nentry_point: [\n", "{[\n"} {
		f := onePack().with("sensors/o.yaml", text)
		plan := Diff(&Snapshot{Packs: map[string]*PackState{"p": f.state(t, c)}}, c)
		for _, s := range plan.Packs[0].Steps {
			if s.Ref == "p.s" {
				t.Errorf("p.s: %s", s.line())
			}
		}
	}
}

// TestDiffConverges edits at random. Whatever the way, the plan to the last state leads to it, the
// next plan writes nothing, and what is refused is as it was.
func TestDiffConverges(t *testing.T) {
	t.Parallel()
	names := sortedKeys(onePack())
	rapid.Check(t, func(rt *rapid.T) {
		c, f := applied(t, onePack()), onePack()
		for range rapid.IntRange(1, 8).Draw(rt, "edits") {
			name := rapid.SampledFrom(names).Draw(rt, "name")
			switch rapid.SampledFrom([]string{"break", "remove", "restore", "comment"}).Draw(rt, "edit") {
			case "break":
				f = f.with(name, "{[\n")
			case "remove":
				f = f.with(name, "")
			case "restore":
				f = f.with(name, onePack()[name])
			case "comment":
				f = f.with(name, f[name]+"# more\n")
			}
			if _, ok := f["pack.yaml"]; !ok {
				f = f.with("pack.yaml", onePack()["pack.yaml"])
			}
			before := c
			wanted := &Snapshot{Packs: map[string]*PackState{"p": f.state(t, c)}}
			plan := Diff(wanted, c)
			c = recorded(c, plan)
			wanted = &Snapshot{Packs: map[string]*PackState{"p": f.state(t, c)}}
			if again := Diff(wanted, c); !onlyKeeps(again) {
				rt.Fatalf("after %v: %v", steps(plan), steps(again))
			}
			for _, p := range plan.Packs {
				for _, s := range p.Steps {
					if s.Op != StepKeep || s.Kind == manifest.KindPack {
						continue
					}
					if diff := cmp.Diff(before.Records(s.Kind)[s.Ref], c.Records(s.Kind)[s.Ref]); diff != "" {
						rt.Fatalf("%s was kept, but changed:\n%s", s.Ref, diff)
					}
				}
			}
		}
		whole := onePack()
		c = recorded(c, Diff(&Snapshot{Packs: map[string]*PackState{"p": whole.state(t, c)}}, c))
		for _, kind := range manifest.ComponentKinds() {
			for ref, r := range c.Records(kind) {
				want := applied(t, whole).Records(kind)[ref]
				if want == nil || r.Digest != want.Digest || r.FilesDigest != want.FilesDigest || r.Enabled != want.Enabled || r.TreeDigest != want.TreeDigest {
					rt.Fatalf("%s did not come back as it was: %+v", ref, r)
				}
			}
		}
	})
}
