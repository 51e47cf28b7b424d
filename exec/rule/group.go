package rule

import (
	"slices"
	"strings"
	"sync"

	"github.com/attune-io/attune/reconcile/manifest"
)

// group holds the rules that an event concerns by its trigger and its instance. Those whose condition
// begins by comparing a field of the payload with a constant are found by what the payload has there:
// ten thousand rules that wait for ten thousand hosts cost an event as much as the rules for its host.
type group struct {
	entries []*entry // by ref

	index sync.Once
	fixed []placed // those without a selector
	// fields are the fields that some selectors look at, each with the rules by the value that they wait for.
	fields []*field
}

// placed is a rule with its place among the entries.
type placed struct {
	place int
	entry *entry
}

type field struct {
	selector *manifest.Selector
	values   map[any][]placed
}

// indexFrom is the number of rules from which an index costs less than evaluating all of them.
const indexFrom = 16

func (g *group) add(e *entry) { g.entries = append(g.entries, e) }

// candidates gives the rules that may match, by ref. All others cannot, and cannot fail either.
func (g *group) candidates(payload map[string]any) []*entry {
	if len(g.entries) < indexFrom {
		return g.entries
	}
	g.index.Do(g.build)
	if len(g.fields) == 0 {
		return g.entries
	}
	found := slices.Clone(g.fixed)
	for _, f := range g.fields {
		if value := f.selector.Find(payload); value != nil {
			found = append(found, f.values[value]...)
		}
	}
	slices.SortFunc(found, func(a, b placed) int { return a.place - b.place })
	entries := make([]*entry, len(found))
	for i := range found {
		entries[i] = found[i].entry
	}
	return entries
}

// build runs once, when the first event asks: most triggers never have so many rules.
func (g *group) build() {
	fields := map[string]*field{}
	for place, e := range g.entries {
		selector := e.rule.Selector()
		if selector == nil {
			g.fixed = append(g.fixed, placed{place, e})
			continue
		}
		name := strings.Join(selector.Field, "\x00")
		if fields[name] == nil {
			fields[name] = &field{selector: selector, values: map[any][]placed{}}
			g.fields = append(g.fields, fields[name])
		}
		fields[name].values[selector.Value] = append(fields[name].values[selector.Value], placed{place, e})
	}
}
