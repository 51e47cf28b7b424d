package store_test

import (
	"slices"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func flip(t testing.TB, s *store.Store, sw store.Switch) ([]string, int64) {
	t.Helper()
	changed, generation, err := s.Switch(t.Context(), sw)
	if err != nil {
		t.Fatal(err)
	}
	return changed, generation
}

func TestSwitchOfComponents(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, whole("core"))
	off := store.Switch{Kind: manifest.KindRule, Refs: []string{"core.r", "core.nobody"}, By: "alice", Reason: "it floods"}
	changed, generation := flip(t, s, off)
	if !slices.Equal(changed, []string{"core.r"}) || generation != 2 {
		t.Errorf("changed %v, generation %d", changed, generation)
	}
	c := catalog(t, s, nil)
	r := c.Rules["core.r"]
	if r.Enabled || !r.ManifestEnabled || r.DisabledBy != "alice" || r.DisabledReason != "it floods" || r.DisabledAt == nil {
		t.Errorf("%+v", r)
	}
	if list, err := s.TriggerInstances(t.Context(), nil); err != nil || len(list) != 0 {
		t.Errorf("instances that no rule wants: %+v, %v", list, err)
	}

	// Whoever comes second changes nothing: the first one's name and reason stay.
	again := off
	again.By, again.Reason = "bob", ""
	if changed, generation := flip(t, s, again); len(changed) != 0 || generation != 2 {
		t.Errorf("changed %v, generation %d", changed, generation)
	}
	// A reload changes nothing of it either.
	edited := whole("core")
	edited.Revision = files(map[string]string{"pack.yaml": "edited"})
	apply(t, s, edited)
	if r := catalog(t, s, nil).Rules["core.r"]; r.Enabled || r.DisabledBy != "alice" {
		t.Errorf("after a reload: %+v", r)
	}

	on := off
	on.Enable, on.Reason = true, ""
	if changed, _ := flip(t, s, on); !slices.Equal(changed, []string{"core.r"}) {
		t.Errorf("changed %v", changed)
	}
	if r := catalog(t, s, nil).Rules["core.r"]; !r.Enabled || r.DisabledBy != "" || r.DisabledReason != "" || r.DisabledAt != nil {
		t.Errorf("%+v", r)
	}
	if list, err := s.TriggerInstances(t.Context(), nil); err != nil || len(list) != 1 {
		t.Errorf("instances: %+v, %v", list, err)
	}

	entries, err := s.ListAudit(t.Context(), store.AuditFilter{Object: "core.r", Since: time.Now().Add(-time.Hour)})
	if err != nil || len(entries) != 2 {
		t.Fatalf("audit: %+v, %v", entries, err)
	}
	if e := entries[1]; e.Actor != "alice" || e.Action != "disable rule" || string(e.Detail) != `{"reason": "it floods"}` {
		t.Errorf("audit: %+v %s", e, e.Detail)
	}
	if e := entries[0]; e.Action != "enable rule" {
		t.Errorf("audit: %+v", e)
	}
}

func TestSwitchOfAPackReachesComponents(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, whole("core"), whole("other"))
	before := catalog(t, s, nil)
	changed, _ := flip(t, s, store.Switch{Kind: manifest.KindPack, Refs: []string{"core"}, By: "alice"})
	if !slices.Equal(changed, []string{"core"}) {
		t.Errorf("changed %v", changed)
	}
	// Who loads only what changed has to see it all.
	c := catalog(t, s, before)
	if c.Packs["core"].Enabled || c.Packs["core"].DisabledBy != "alice" || c.Actions["core.echo"].Enabled || c.Sensors["core.s"].Enabled {
		t.Errorf("%+v, %+v", c.Packs["core"], c.Actions["core.echo"])
	}
	if c.Actions["core.echo"].DisabledBy != "" {
		t.Error("the components were switched off themselves")
	}
	if !c.Packs["other"].Enabled || !c.Sensors["other.s"].Enabled {
		t.Error("another pack was switched off")
	}
	flip(t, s, store.Switch{Kind: manifest.KindPack, Refs: []string{"core"}, Enable: true, By: "bob"})
	if c = catalog(t, s, c); !c.Actions["core.echo"].Enabled || !c.Sensors["core.s"].Enabled {
		t.Errorf("%+v", c.Actions["core.echo"])
	}
}

func TestPins(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, whole("core"))
	second := whole("core")
	second.Revision = files(map[string]string{"pack.yaml": "second"})
	apply(t, s, second)
	older := map[string]string{"core": whole("core").Revision.Digest, "nobody": "x"}
	if found, err := s.OlderRevisions(t.Context(), older); err != nil || len(found) != 1 || found["core"] != 1 {
		t.Errorf("older revisions: %v, %v", found, err)
	}
	back := whole("core")
	back.Pin = &store.Pin{By: "alice", Reason: "2 is bad"}
	apply(t, s, back)
	p := catalog(t, s, nil).Packs["core"]
	if p.Revision != 3 || p.TreeDigest != back.Revision.Digest || p.PinnedBy != "alice" || p.PinnedReason != "2 is bad" || p.PinnedAt == nil {
		t.Errorf("%+v", p)
	}
	if found, err := s.OlderRevisions(t.Context(), older); err != nil || len(found) != 0 {
		t.Errorf("the newest counts as older: %v, %v", found, err)
	}
	revision, tree, err := s.Revision(t.Context(), "core", 2)
	if err != nil || revision.Number != 2 || revision.Digest != second.Revision.Digest || len(tree) != 1 {
		t.Errorf("%+v, %v, %v", revision, tree, err)
	}
	if generation := apply(t, s, store.PackChange{Ref: "core", Pin: &store.Pin{Unpin: true}}); generation != 4 {
		t.Errorf("generation %d", generation)
	}
	if p := catalog(t, s, nil).Packs["core"]; p.PinnedBy != "" || p.PinnedAt != nil || p.PinnedReason != "" || p.Revision != 3 {
		t.Errorf("%+v", p)
	}
	if generation := apply(t, s, store.PackChange{Ref: "core", Pin: &store.Pin{Unpin: true}}); generation != 4 {
		t.Errorf("unpinning what is not pinned raised the generation to %d", generation)
	}
}
