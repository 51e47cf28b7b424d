package reconcile

import (
	"fmt"
	"slices"
	"testing"
	"time"
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
