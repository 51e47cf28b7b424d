package reconcile

import (
	"slices"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// world is what is in force, kept from pass to pass: to make it anew for each edit would cost more
// than all the rest of the edit where there are thousands of packs.
type world struct {
	set *manifest.Set
	// members are the components of each pack.
	members map[string][]manifest.Component
}

func newWorld(c *store.Catalog) *world {
	w := &world{set: c.InForce(), members: map[string][]manifest.Component{}}
	for _, kind := range manifest.ComponentKinds() {
		for _, r := range c.Records(kind) {
			if r.Present {
				w.members[r.Pack] = append(w.members[r.Pack], r.Spec)
			}
		}
	}
	return w
}

// fewMembers is up to how many packs a check is given all that is in force. Beyond, it is given what the
// checked packs name, or may have meant: to look through everything would cost more than the rest of an edit.
const fewMembers = 200

// around gives what is in force as far as the packs can concern it. refused is as manifest.Check has it.
func (w *world) around(states map[string]*PackState, refused func() map[manifest.Kind]map[string]string) *manifest.Set {
	if len(w.members) <= fewMembers || len(states) > fewMembers {
		return w.set
	}
	near := manifest.NewSet()
	near.Packs = w.set.Packs
	named := map[string]bool{}
	var names []string
	for ref, s := range states {
		named[ref] = true
		for _, need := range s.needs {
			named[need] = true
			if w.set.Packs[need] != nil || states[need] != nil {
				continue
			}
			if names == nil {
				names = slices.Concat(sortedKeys(w.set.Packs), sortedKeys(states), sortedKeys(refused()[manifest.KindPack]))
			}
			named[manifest.Nearest(need, names)] = true
		}
	}
	for pack := range named {
		for _, c := range w.members[pack] {
			near.Add(c)
		}
	}
	return near
}

// forget takes a pack out.
func (w *world) forget(pack string) {
	delete(w.set.Packs, pack)
	for _, c := range w.members[pack] {
		switch ref := c.Head().Ref; c.Kind() {
		case manifest.KindAction:
			delete(w.set.Actions, ref)
		case manifest.KindTrigger:
			delete(w.set.Triggers, ref)
		case manifest.KindSensor:
			delete(w.set.Sensors, ref)
		case manifest.KindRule:
			delete(w.set.Rules, ref)
		default:
			panic("reconcile: unknown component kind " + string(c.Kind()))
		}
	}
	delete(w.members, pack)
}

// put puts a pack in as it would be; with pack nil, as it was, it stays.
func (w *world) put(ref string, pack *manifest.Pack, components []manifest.Component) {
	if pack == nil {
		return
	}
	w.forget(ref)
	w.set.Packs[ref] = pack
	for _, c := range components {
		w.set.Add(c)
	}
	w.members[ref] = components
}

// recorded puts a pack in as the database has it.
func (w *world) recorded(ref string, c *store.Catalog, records []*store.Record) {
	w.forget(ref)
	if row := c.Packs[ref]; row != nil && row.Present && row.Manifest != nil {
		w.set.Packs[ref] = row.Manifest
	}
	var components []manifest.Component
	for _, r := range records {
		if r.Present {
			components = append(components, r.Spec)
			w.set.Add(r.Spec)
		}
	}
	w.members[ref] = components
}
