package reconcile

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
)

// TestRounds loads packs that name each other, in all the ways that they can, a few at a time: the first load
// has nothing to refuse, whatever the order of their names.
func TestRounds(t *testing.T) {
	t.Parallel()
	for _, atOnce := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(atOnce), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Hour, time.Hour }
			b.prepare = func(r *Reconciler) { r.roundPacks = atOnce }
			uses := map[string][]string{
				"a": {"zcore"}, "b": {"zcore", "a"}, "c": {"d"}, "d": {"e"}, "e": {"c", "zcore"}, "f": {"c"}, "zcore": {},
			}
			for ref, others := range uses {
				b.pack(ref)
				for _, other := range others {
					b.write(fmt.Sprintf("%s/rules/on_%s.yaml", ref, other), fmt.Sprintf("name: on_%s\ntrigger: %s.tick\naction: %s.act\nwhen: event.payload.n > 1\n", other, other, other))
				}
			}
			b.start()
			c := b.catalog()
			for ref := range uses {
				if row := c.Packs[ref]; row == nil || row.Revision != 1 || len(row.Errors) > 0 {
					t.Errorf("pack %s: %+v", ref, row)
				}
			}
			if have := len(c.Rules); have != 7+8 {
				t.Errorf("%d rules are in force", have)
			}
			// Those that name it are checked against what it offers now.
			b.write("zcore/triggers/tick.yaml", "name: tick\npayload_schema:\n  type: object\n  additionalProperties: false\n  properties: {m: {type: integer}}\n")
			b.write("zcore/rules/rule.yaml", "name: rule\ntrigger: zcore.tick\naction: zcore.act\n")
			report := b.reload()
			var told []string
			for _, one := range report.Plan.Packs {
				told = append(told, one.Ref)
			}
			slices.Sort(told)
			if len(slices.Compact(slices.Clone(told))) != len(told) {
				t.Errorf("packs were told twice: %v", told)
			}
			for _, ref := range []string{"a", "b", "e"} {
				if !b.catalog().Packs[ref].Errors.HasErrors() {
					t.Errorf("pack %s was not checked again", ref)
				}
			}
			for ref := range uses {
				b.remove(ref + "/rules")
			}
			if report := b.reload(); report.Errors.HasErrors() {
				t.Errorf("found %v", texts(report.Errors))
			}
		})
	}
}

// TestAround checks a pack that names what is not there, in a world of very many packs: with all of them at hand
// and with those that it may mean, the same is found, or an error would change its words by itself.
func TestAround(t *testing.T) {
	t.Parallel()
	w := &world{set: manifest.NewSet(), members: map[string][]manifest.Component{}}
	parse := func(folder string, files map[string]string) *PackState {
		content := map[string]manifest.File{"pack.yaml": {Content: []byte("version: 1.0.0\n")}}
		for name, text := range files {
			content[name] = manifest.File{Content: []byte(text)}
		}
		b := manifest.Parse(folder, content)
		return &PackState{Folder: folder, Bundle: b, needs: needsOf(b)}
	}
	for i := range 2 * fewMembers {
		b := parse(fmt.Sprintf("of%d", i), map[string]string{"triggers/tick.yaml": "label: x\n"}).Bundle
		w.put(b.Folder, b.Pack, b.Components())
	}
	other := parse("mailer", map[string]string{"triggers/tick.yaml": "label: x\n"}).Bundle
	w.put(other.Folder, other.Pack, other.Components())
	refused := func() map[manifest.Kind]map[string]string {
		return map[manifest.Kind]map[string]string{manifest.KindPack: {"poster": "poster/pack.yaml"}}
	}
	for _, trigger := range []string{"mailer.tick", "mailer.tik", "maler.tick", "maler.tock", "postr.tick", "nobody.tick", "of7.tick", "of999.tick"} {
		state := func() *PackState {
			return parse("p", map[string]string{"rules/r.yaml": "trigger: " + trigger + "\naction: act\n", "actions/act.yaml": "label: x\n", "actions/act.sh": ""})
		}
		near, all := state(), state()
		some := w.around(map[string]*PackState{"p": near}, refused)
		if len(some.Triggers) > 2 {
			t.Errorf("%s: %d triggers of other packs are at hand", trigger, len(some.Triggers))
		}
		manifest.Check([]*manifest.Bundle{near.Bundle}, manifest.CheckOptions{InForce: some, Refused: refused})
		manifest.Check([]*manifest.Bundle{all.Bundle}, manifest.CheckOptions{InForce: w.set, Refused: refused})
		if diff := cmp.Diff(texts(all.Bundle.Errors), texts(near.Bundle.Errors)); diff != "" {
			t.Errorf("%s (-all +near):\n%s", trigger, diff)
		}
	}
}

// TestPlanInRounds plans packs that name each other a few at a time: the plan is the one of all at once, each is
// checked against what the plan has of the others, and nothing of it is left in the world.
func TestPlanInRounds(t *testing.T) {
	t.Parallel()
	uses := map[string][]string{"a": {"z"}, "b": {"z", "a"}, "c": {"d"}, "d": {"c"}, "z": {}}
	plans := map[int]*Plan{}
	for _, atOnce := range []int{1, 100} {
		b := setup(t)
		b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Hour, time.Hour }
		b.prepare = func(r *Reconciler) { r.roundPacks = atOnce }
		b.pack("gone")
		b.pack("z")
		b.start()
		for ref, others := range uses {
			b.pack(ref)
			// What it names is new as well.
			b.write(ref+"/triggers/tock.yaml", "name: tock\npayload_schema: {n: {type: integer}}\n")
			for _, other := range others {
				b.write(fmt.Sprintf("%s/rules/on_%s.yaml", ref, other), fmt.Sprintf("name: on_%s\ntrigger: %s.tock\naction: %s.act\n", other, other, other))
			}
		}
		b.write("z/triggers/tick.yaml", "name: tick\n\tlabel: broken\n")
		b.write("a/rules/late.yaml", "name: late\ntrigger: z.tick\naction: gone.act\n") // of the last good z, and of what goes
		b.remove("gone")
		var err error
		if plans[atOnce], err = b.Plan(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, ref := range []string{"a", "gone", "z"} {
			if have, want := b.world.set.Packs[ref] != nil, b.catalog().Packs[ref] != nil; have != want {
				t.Errorf("%d at once: pack %s is in the world: %v, in force: %v", atOnce, ref, have, want)
			}
		}
		if c := b.Status().Compared; c != nil {
			t.Errorf("a plan that is over goes on: %+v", c)
		}
	}
	told := func(p *Plan) map[string][]string {
		told := map[string][]string{}
		for _, one := range p.Packs {
			for _, s := range one.Steps {
				told[one.Ref] = append(told[one.Ref], s.line())
			}
			told[one.Ref] = append(told[one.Ref], texts(one.Errors)...)
		}
		return told
	}
	if diff := cmp.Diff(told(plans[100]), told(plans[1])); diff != "" {
		t.Errorf("(-at once +in rounds):\n%s", diff)
	}
	if have := told(plans[1])["a"]; len(have) == 0 || !slices.ContainsFunc(have, func(line string) bool { return line == "+ rule a.on_z" }) {
		t.Errorf("the plan of a: %v", have)
	}
}
