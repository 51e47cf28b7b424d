package manifest_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/attune-io/attune/reconcile/manifest"
)

// company are packs that name each other's triggers and actions, whole and broken, by names that fit and by
// names that do not. Dependencies go one way, as a cycle is for those to find who see all of it.
var company = rapid.Custom(func(t *rapid.T) map[string]map[string]manifest.File {
	names := []string{"disk", "disks", "mail", "timers"}
	packs := map[string]map[string]manifest.File{}
	text := func(content string) manifest.File { return manifest.File{Content: []byte(content)} }
	for i, pack := range names {
		if rapid.IntRange(0, 9).Draw(t, pack+" is gone") == 0 {
			continue
		}
		files := map[string]manifest.File{"actions/x.sh": text("true\n"), "sensors/x.sh": text("true\n")}
		packs[pack] = files
		content := "version: 1.0.0\n"
		if needs := rapid.SliceOfNDistinct(rapid.SampledFrom(names[:i+1]), 0, 2, rapid.ID[string]).Draw(t, pack+" needs"); len(needs) > 0 {
			content += fmt.Sprintf("dependencies: %q\n", slices.DeleteFunc(needs, func(need string) bool { return need == pack }))
		}
		if rapid.IntRange(0, 5).Draw(t, pack+" is broken") == 0 {
			content += "label: [\n"
		}
		files["pack.yaml"] = text(content)
		other := func(what string) string {
			return rapid.SampledFrom(append(names, "dsik", "nowhere")).Draw(t, what+" of") + "." + rapid.SampledFrom([]string{"one", "two", "tow"}).Draw(t, what)
		}
		for _, name := range []string{"one", "two"} {
			if rapid.Bool().Draw(t, name) {
				broken := rapid.SampledFrom([]string{"", "label: [\n", "type: nothing\n", "type: interval\nname: other\nlabel: [\n"}).Draw(t, "trigger")
				files["triggers/"+name+".yaml"] = text("enabled: true\n" + broken)
			}
			if rapid.Bool().Draw(t, name) {
				broken := rapid.SampledFrom([]string{"", "label: [\n", "timeout: never\n"}).Draw(t, "action")
				files["actions/"+name+".yaml"] = text("entry_point: x.sh\n" + broken)
			}
			if rapid.Bool().Draw(t, name) {
				files["rules/"+name+".yaml"] = text(fmt.Sprintf("trigger: %s\naction: %s\n", other("trigger"), other("action")))
			}
		}
		files["sensors/s.yaml"] = text(fmt.Sprintf("entry_point: x.sh\ntrigger_types: [%s]\n", other("trigger")))
	}
	return packs
})

// TestCompany brings packs into force all at once, and then checks each alone: what is found must not depend on
// which others are looked at with it, or findings come and go without an edit.
func TestCompany(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := newRounds()
		for _, state := range []string{"before", "now"} {
			packs := company.Draw(t, state)
			all := slices.Sorted(maps.Keys(packs))
			r.gone(packs)
			r.settle(packs, all)
			r.settle(packs, all) // what was gone before is in force no more
			found, inForce := maps.Clone(r.found), r.refs()
			for _, pack := range all {
				r.settle(packs, []string{pack})
			}
			if diff := cmp.Diff(found, r.found); diff != "" {
				t.Fatalf("%s: findings (-together +alone):\n%s", state, diff)
			}
			if diff := cmp.Diff(inForce, r.refs()); diff != "" {
				t.Fatalf("%s: in force (-together +alone):\n%s", state, diff)
			}
		}
	})
}

// rounds is what is in force after some checks, and what they found.
type rounds struct {
	packs   map[string]*manifest.Pack
	members map[string][]manifest.Component
	broken  map[string][]manifest.Broken
	found   map[string][]string
}

func newRounds() *rounds {
	return &rounds{
		packs: map[string]*manifest.Pack{}, members: map[string][]manifest.Component{},
		broken: map[string][]manifest.Broken{}, found: map[string][]string{},
	}
}

// settle checks some packs together and puts into force what is accepted of them.
func (r *rounds) settle(packs map[string]map[string]manifest.File, refs []string) {
	inForce := manifest.NewSet()
	maps.Copy(inForce.Packs, r.packs)
	for _, members := range r.members {
		for _, c := range members {
			inForce.Add(c)
		}
	}
	var bundles []*manifest.Bundle
	for _, ref := range refs {
		bundles = append(bundles, manifest.Parse(ref, packs[ref]))
	}
	manifest.Check(bundles, manifest.CheckOptions{InForce: inForce, Refused: r.refused})
	for _, b := range bundles {
		r.found[b.Folder] = []string{}
		for _, e := range b.Errors {
			r.found[b.Folder] = append(r.found[b.Folder], e.Error())
		}
		r.broken[b.Folder] = b.Broken
		if b.Pack == nil {
			continue // all of it stays
		}
		members := b.Components()
		for _, old := range r.members[b.Folder] {
			h := old.Head()
			accepted := slices.ContainsFunc(members, func(c manifest.Component) bool { return c.Kind() == old.Kind() && c.Head().Ref == h.Ref })
			if !accepted && slices.ContainsFunc(b.Broken, func(x manifest.Broken) bool {
				return x.Kind == old.Kind() && (x.Ref == h.Ref || x.File == h.File)
			}) {
				members = append(members, old)
			}
		}
		r.packs[b.Folder], r.members[b.Folder] = b.Pack, members
	}
}

// gone takes out the packs whose folders are no longer there.
func (r *rounds) gone(packs map[string]map[string]manifest.File) {
	for ref := range r.found {
		if packs[ref] == nil {
			delete(r.packs, ref)
			delete(r.members, ref)
			delete(r.broken, ref)
			delete(r.found, ref)
		}
	}
}

func (r *rounds) refused() map[manifest.Kind]map[string]string {
	files := map[manifest.Kind]map[string]string{}
	for pack, broken := range r.broken {
		for _, b := range broken {
			if files[b.Kind] == nil {
				files[b.Kind] = map[string]string{}
			}
			files[b.Kind][b.Ref] = pack + "/" + b.File
		}
	}
	return files
}

func (r *rounds) refs() []string {
	var refs []string
	for ref := range r.packs {
		refs = append(refs, "pack "+ref)
	}
	for _, members := range r.members {
		for _, c := range members {
			refs = append(refs, fmt.Sprintf("%s %s", c.Kind(), c.Head().Ref))
		}
	}
	slices.Sort(refs)
	return refs
}
