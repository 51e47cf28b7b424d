package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func catalog(t testing.TB, s *store.Store, previous *store.Catalog) *store.Catalog {
	t.Helper()
	c, err := s.Catalog(t.Context(), previous)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func whole(pack string) store.PackChange {
	return change(pack,
		action(pack, "echo"), trigger(pack, "t"), sensor(pack, "s", pack+".t"), rule(pack, "r", pack+".t", map[string]any{"n": 1}))
}

func TestApplyAndLoad(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	first := whole("core")
	first.Errors = manifest.Errors{{
		Place: manifest.Place{File: "core/rules/x.yaml", Line: 3, Col: 7}, Severity: manifest.SeverityError, Message: "no such trigger", Hint: "try core.t",
	}}
	if generation := apply(t, s, first); generation != 1 {
		t.Errorf("generation %d", generation)
	}
	c := catalog(t, s, nil)
	pack := c.Packs["core"]
	if c.Generation != 1 || pack == nil || !pack.Enabled || !pack.Present || pack.Revision != 1 || pack.TreeDigest != first.Revision.Digest || pack.Directory != "/packs" {
		t.Fatalf("generation %d, pack %+v", c.Generation, pack)
	}
	if diff := cmp.Diff(first.Errors, pack.Errors); diff != "" {
		t.Error(diff)
	}
	for _, put := range first.Put {
		head := put.Spec.Head()
		record := c.Records(put.Spec.Kind())[head.Ref]
		if record == nil {
			t.Errorf("no %s", head.Ref)
			continue
		}
		if !record.Enabled || !record.Present || record.File != head.File || record.Digest != put.Digest || record.RevisionID != pack.RevisionID || record.Kind != put.Spec.Kind() {
			t.Errorf("%+v", record)
		}
		got, err := manifest.Encode(record.Spec)
		if err != nil {
			t.Fatal(err)
		}
		want, err := manifest.Encode(put.Spec)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) || record.Spec.Head().File != head.File {
			t.Errorf("got %s, expected %s", got, want)
		}
	}
	if set := c.InForce(); len(set.Packs) != 1 || len(set.Actions)+len(set.Triggers)+len(set.Sensors)+len(set.Rules) != 4 {
		t.Errorf("in force: %+v", set)
	}
}

func TestApplyOfTheSameChangesNothing(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	first := apply(t, s, whole("core"), whole("other"))
	state := "SELECT string_agg(t, '') FROM (SELECT p::text AS t FROM attune.pack p UNION ALL SELECT a::text FROM attune.action a UNION ALL SELECT r::text FROM attune.rule r UNION ALL SELECT i::text FROM attune.trigger_instance i UNION ALL SELECT v::text FROM attune.revision v ORDER BY 1) x"
	before := one[string](t, s, state)
	if second := apply(t, s, whole("core"), whole("other")); second != first {
		t.Errorf("generation %d, expected %d", second, first)
	}
	if diff := cmp.Diff(before, one[string](t, s, state)); diff != "" {
		t.Error(diff)
	}
	if n := one[int](t, s, "SELECT count(*) FROM attune.revision"); n != 2 {
		t.Errorf("%d revisions", n)
	}
}

// An edit waits for each round trip, on a busy machine longer than for what is done in it.
// TestChangedMeansItself: a component that only moves to its pack's next revision has not changed.
func TestChangedMeansItself(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, whole("core"))
	at := func() map[string]time.Time {
		times := map[string]time.Time{}
		for _, kind := range manifest.ComponentKinds() {
			for ref, record := range catalog(t, s, nil).Records(kind) {
				times[ref] = record.UpdatedAt
			}
		}
		return times
	}
	before := at()
	next := whole("core")
	next.Revision = files(map[string]string{"README.md": "x"})
	for i := range next.Put {
		switch next.Put[i].Spec.Head().Ref {
		case "core.echo":
			next.Put[i].FilesDigest = "g"
		case "core.r":
			next.Put[i] = change("core", rule("core", "r", "core.t", map[string]any{"n": 2})).Put[0]
		}
	}
	apply(t, s, next)
	for ref, now := range at() {
		if changed := ref == "core.echo" || ref == "core.r"; now.After(before[ref]) != changed {
			t.Errorf("%s: changed at %v, before at %v", ref, now, before[ref])
		}
	}
}

func TestRoundTrips(t *testing.T) {
	t.Parallel()
	p := newProxy(t, storetest.NewURL(t))
	s := storetest.Open(t, p.url)
	edited := func(n int) store.PackChange {
		c := whole("core")
		c.Revision = files(map[string]string{"actions/echo.sh": fmt.Sprint("echo ", n)})
		c.Base = store.NoBase
		if n > 0 {
			c.Base = int64(n)
		}
		return c
	}
	var c *store.Catalog
	for n := range 3 { // the first ones prepare the statements
		before := p.trips.Load()
		apply(t, s, edited(n))
		applying := p.trips.Load() - before
		c = catalog(t, s, c)
		loading := p.trips.Load() - before - applying
		catalog(t, s, c)
		looking := p.trips.Load() - before - applying - loading
		const most, mostLoading, mostLooking = 5, 5, 1 // begin and commit included
		if n == 2 && (applying > most || loading > mostLoading || looking > mostLooking) {
			t.Errorf("an edit took %d round trips, loading it %d, and a look whether there is one %d; want at most %d, %d and %d",
				applying, loading, looking, most, mostLoading, mostLooking)
		}
	}
	if c.Packs["core"].Revision != 3 {
		t.Errorf("revision %d, want 3", c.Packs["core"].Revision)
	}
}

func TestRowsComeBack(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, whole("core"))
	before := catalog(t, s, nil)
	anchor := one[time.Time](t, s, "SELECT anchor_at FROM attune.trigger_instance")
	sql(t, s, "UPDATE attune.action SET disabled_at = now(), disabled_by = 'alice'")

	gone := store.PackChange{Ref: "core", Disable: []store.ComponentRef{{Kind: manifest.KindRule, Ref: "core.r"}}}
	apply(t, s, gone)
	c := catalog(t, s, before)
	if r := c.Rules["core.r"]; r.Enabled || r.Present || !r.ManifestEnabled || r.ID != before.Rules["core.r"].ID {
		t.Errorf("vanished: %+v", r)
	}
	if _, ok := c.InForce().Rules["core.r"]; ok {
		t.Error("a rule that vanished is in force")
	}
	if active := one[bool](t, s, "SELECT active FROM attune.trigger_instance"); active {
		t.Error("nobody asks for the instance, and it is active")
	}

	apply(t, s, store.PackChange{Ref: "core", Vanished: true})
	c = catalog(t, s, c)
	if c.Packs["core"].Enabled || c.Packs["core"].Manifest == nil || c.Sensors["core.s"].Enabled || c.Sensors["core.s"].Present || len(c.InForce().Packs) != 0 {
		t.Errorf("vanished: %+v", c.Packs["core"])
	}

	apply(t, s, whole("core"))
	c = catalog(t, s, c)
	for _, kind := range manifest.ComponentKinds() {
		for ref, record := range c.Records(kind) {
			if was := before.Records(kind)[ref]; record.ID != was.ID || !record.Present || record.CreatedAt != was.CreatedAt {
				t.Errorf("came back as %+v, was %+v", record, was)
			}
		}
	}
	if a := c.Actions["core.echo"]; a.Enabled || a.DisabledBy != "alice" || a.DisabledAt == nil {
		t.Errorf("the operator's word is lost: %+v", a)
	}
	if again := one[time.Time](t, s, "SELECT anchor_at FROM attune.trigger_instance WHERE active"); !again.Equal(anchor) {
		t.Errorf("the anchor moved from %v to %v", anchor, again)
	}
	if one[int](t, s, "SELECT count(*) FROM attune.revision") != 1 {
		t.Error("the same files made another revision")
	}
}

func TestPacksSwitchReachesComponents(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, whole("core"))
	off := store.PackChange{Ref: "core", Directory: "/packs", Manifest: &manifest.Pack{Ref: "core", Version: "1.0.0"}}
	apply(t, s, off)
	c := catalog(t, s, nil)
	if c.Packs["core"].Enabled || c.Packs["core"].ManifestEnabled || c.Actions["core.echo"].Enabled || !c.Actions["core.echo"].Present {
		t.Errorf("%+v, %+v", c.Packs["core"], c.Actions["core.echo"])
	}
	if list, err := s.TriggerInstances(t.Context(), nil); err != nil || len(list) != 0 {
		t.Errorf("instances of a disabled pack: %+v, %v", list, err)
	}
	on := off
	on.Manifest = &manifest.Pack{Ref: "core", Version: "1.0.0", Enabled: true}
	apply(t, s, on)
	if c = catalog(t, s, c); !c.Actions["core.echo"].Enabled {
		t.Errorf("%+v", c.Actions["core.echo"])
	}
	if list, err := s.TriggerInstances(t.Context(), []string{"core.t"}); err != nil || len(list) != 1 {
		t.Errorf("instances: %+v, %v", list, err)
	}
}

func TestRefusedPack(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	finding := func(text string) manifest.Errors {
		return manifest.Errors{{Place: manifest.Place{File: "x/pack.yaml"}, Severity: manifest.SeverityError, Message: text}}
	}
	refused := store.PackChange{Ref: "x", Directory: "/packs", Errors: finding("no version")}
	first := apply(t, s, refused)
	c := catalog(t, s, nil)
	if p := c.Packs["x"]; p == nil || p.Enabled || !p.Present || p.Manifest != nil || len(p.Errors) != 1 {
		t.Fatalf("%+v", p)
	}
	if again := apply(t, s, refused); again != first {
		t.Error("equal errors raised the generation")
	}
	refused.Errors = finding("another")
	if again := apply(t, s, refused); again != first+1 {
		t.Error("other errors are news")
	}
	// One that vanished before anybody heard of it leaves no trace.
	if again := apply(t, s, store.PackChange{Ref: "ghost", Vanished: true}); again != first+1 {
		t.Error("a ghost raised the generation")
	}
	if c = catalog(t, s, nil); c.Packs["ghost"] != nil {
		t.Error("there is a ghost")
	}
}

func TestCatalogSharesWhatDidNotChange(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, whole("a"), whole("b"))
	before := catalog(t, s, nil)
	if same := catalog(t, s, before); same.Generation != before.Generation || same.Actions["a.echo"] != before.Actions["a.echo"] {
		t.Error("an unchanged catalog was loaded anew")
	}
	edited := change("b", action("b", "echo", func(a *manifest.Action) { a.Description = "new" }))
	apply(t, s, edited)
	after := catalog(t, s, before)
	if after.Actions["a.echo"] != before.Actions["a.echo"] || after.Packs["a"] != before.Packs["a"] {
		t.Error("pack a was loaded anew")
	}
	if after.Actions["b.echo"].Spec.Head().Description != "new" || before.Actions["b.echo"].Spec.Head().Description != "" {
		t.Error("pack b was not, or the older snapshot changed")
	}
	if diff := cmp.Diff(refs(catalog(t, s, nil)), refs(after)); diff != "" {
		t.Error(diff)
	}
	// A server that was put back to an older state has an older generation.
	sql(t, s, "UPDATE attune.generation SET number = 1")
	sql(t, s, "UPDATE attune.pack SET generation = 1")
	if back := catalog(t, s, after); back.Generation != 1 || back.Actions["a.echo"] == after.Actions["a.echo"] {
		t.Error("what was known of a lost state was kept")
	}
}

func refs(c *store.Catalog) []string {
	var list []string
	for _, kind := range manifest.ComponentKinds() {
		for ref, record := range c.Records(kind) {
			list = append(list, string(kind)+" "+ref+" "+record.Digest)
		}
	}
	slices.Sort(list)
	return list
}

func TestRevisionsKeepTheirFiles(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	asked := map[string]int{}
	revise := func(contents map[string]string) store.PackChange {
		c := change("core", action("core", "echo"))
		c.Revision = files(contents)
		content := c.Revision.Content
		c.Revision.Content = func(d string) ([]byte, error) {
			asked[d]++
			return content(d)
		}
		c.Revision.Tree = append(c.Revision.Tree, store.TreeEntry{Path: "link", Link: "pack.yaml"})
		return c
	}
	big := strings.Repeat("text ", 100_000)
	apply(t, s, revise(map[string]string{"pack.yaml": "1", "big": big, "same": big, "empty": ""}))
	apply(t, s, revise(map[string]string{"pack.yaml": "2", "big": big}))
	for d, n := range asked {
		if n != 1 {
			t.Errorf("file %s was asked for %d times", d, n)
		}
	}
	list, err := s.Revisions(t.Context(), "core", 10)
	if err != nil || len(list) != 2 || list[0].Number != 2 || list[1].Number != 1 || list[0].Cause != "edit" || !slices.Equal(list[0].Changes, []string{"~ everything"}) {
		t.Fatalf("%+v: %v", list, err)
	}
	pack, tree, err := s.RevisionTree(t.Context(), list[1].ID)
	if err != nil || pack != "core" || len(tree) != 5 {
		t.Fatalf("%s %+v: %v", pack, tree, err)
	}
	for _, entry := range tree {
		if entry.Link != "" {
			continue
		}
		content, err := s.FileContent(t.Context(), entry.Digest)
		if err != nil || digest(content) != entry.Digest || int64(len(content)) != entry.Size {
			t.Errorf("%s: %v", entry.Path, err)
		}
	}
	if size := one[int](t, s, "SELECT sum(length(content)) FROM attune.file"); size > 10_000 {
		t.Errorf("%d bytes stored for little text", size)
	}
	if _, err := s.FileContent(t.Context(), "no such"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if _, _, err := s.RevisionTree(t.Context(), 424242); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// A file that changes between the scan and the apply is noticed, and nothing of it is kept.
func TestApplyRefusesAFileThatChanged(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	c := change("core", action("core", "echo"))
	c.Revision.Content = func(string) ([]byte, error) { return []byte("other"), nil }
	if _, err := s.Apply(t.Context(), []store.PackChange{c}); err == nil || !strings.Contains(err.Error(), "changed after it was scanned") {
		t.Errorf("got %v", err)
	}
	if c := catalog(t, s, nil); c.Generation != 0 || len(c.Packs) != 0 {
		t.Errorf("%+v", c)
	}
}

func TestTriggerInstances(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	off := rule("b", "off", "a.t", map[string]any{"n": 3})
	off.Enabled = false
	apply(t, s,
		change("a", trigger("a", "t"), trigger("a", "unused"), rule("a", "r1", "a.t", map[string]any{"n": 1})),
		change("b", rule("b", "r1", "a.t", map[string]any{"n": 1}), rule("b", "r2", "a.t", map[string]any{"n": 2}), off, rule("b", "lost", "no.such", nil)),
	)
	list := func() string {
		instances, err := s.TriggerInstances(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(instances, func(x, y store.TriggerInstance) int { return strings.Compare(x.ID, y.ID) }) {
			t.Error("not sorted")
		}
		var lines []string
		for _, i := range instances {
			if !strings.HasPrefix(i.ID, i.Trigger+"#") {
				t.Errorf("id %s of trigger %s", i.ID, i.Trigger)
			}
			lines = append(lines, fmt.Sprintf("%s %s %v", i.Trigger, i.Parameters, i.Rules))
		}
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	if diff := cmp.Diff("a.t {\"n\": 1} [a.r1 b.r1]\na.t {\"n\": 2} [b.r2]", list()); diff != "" {
		t.Error(diff)
	}
	// A rule moves to other parameters, and so to another instance.
	apply(t, s, change("b", rule("b", "r2", "a.t", map[string]any{"n": 1})))
	if diff := cmp.Diff("a.t {\"n\": 1} [a.r1 b.r1 b.r2]", list()); diff != "" {
		t.Error(diff)
	}
	// The trigger appears that a rule of another pack has been waiting for.
	apply(t, s, change("no", trigger("no", "such")))
	if diff := cmp.Diff("a.t {\"n\": 1} [a.r1 b.r1 b.r2]\nno.such {} [b.lost]", list()); diff != "" {
		t.Error(diff)
	}
	apply(t, s, store.PackChange{Ref: "a", Disable: []store.ComponentRef{{Kind: manifest.KindTrigger, Ref: "a.t"}}})
	if diff := cmp.Diff("no.such {} [b.lost]", list()); diff != "" {
		t.Error(diff)
	}
	if n := one[int](t, s, "SELECT count(*) FROM attune.trigger_instance WHERE active"); n != 1 {
		t.Errorf("%d are active", n)
	}
}

func TestColumnsForReaders(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	c := whole("core")
	c.Manifest = &manifest.Pack{
		Ref: "core", Label: "Core", Version: "1.2.3", System: true, Enabled: true, Tags: []string{"b", "a"},
		RuntimeDeps: []manifest.Requirement{{Ref: "python3", Version: ">= 3.8"}, {Ref: "shell"}},
		Meta:        map[string]any{"x": 1},
	}
	apply(t, s, c)
	for query, want := range map[string]string{
		"SELECT label || ' ' || version || ' ' || system || ' ' || tags::text FROM attune.pack": "Core 1.2.3 true {b,a}",
		"SELECT array_to_string(runtime_deps, ', ') FROM attune.pack":                           "python3 >= 3.8, shell",
		"SELECT runner_type || ' ' || entry_point || ' ' || enabled FROM attune.action":         "shell echo.sh true",
		"SELECT type FROM attune.trigger":                                                       "custom",
		"SELECT trigger_types::text FROM attune.sensor":                                         "{core.t}",
		"SELECT trigger_ref || ' ' || action_refs::text FROM attune.rule":                       "core.t {core.echo}",
	} {
		if got := one[string](t, s, query); got != want {
			t.Errorf("%s: %s, expected %s", query, got, want)
		}
	}
}

func TestNodesAndRuntimes(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	if err := s.PutNode(t.Context(), store.Node{ID: "n", Host: "h", PID: 1, Version: "1"}); err != nil {
		t.Fatal(err)
	}
	put := func(found ...store.Runtime) {
		t.Helper()
		if err := s.PutRuntimes(t.Context(), "n", found); err != nil {
			t.Fatal(err)
		}
	}
	put(store.Runtime{Name: "python", Path: "/a", Version: "3.9"}, store.Runtime{Name: "node", Problem: "not found"})
	put(store.Runtime{Name: "python", Path: "/a", Version: "3.11"}, store.Runtime{Name: "python", Path: "/b", Version: "3.12"})
	if got := one[string](t, s, "SELECT string_agg(name || path || version, ' ' ORDER BY path) FROM attune.runtime"); got != "python/a3.11 python/b3.12" {
		t.Error(got)
	}
	if err := s.RemoveNode(t.Context(), "n"); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, s, "SELECT (SELECT count(*) FROM attune.runtime) + (SELECT count(*) FROM attune.node)"); n != 0 {
		t.Errorf("%d rows left", n)
	}
	if err := s.Audit(t.Context(), store.NewAudit{Actor: "alice", Action: "cancel execution", Object: "17"}); err != nil {
		t.Error(err)
	}
}
