package reconcile

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// shortestSecret is the shortest secret value, and the shortest line of one, that is looked for in all files:
// what is shorter stands everywhere. In the manifest that gives it, a secret of any length is found.
const shortestSecret = 4

// concealer takes out of differences what schemas call secret: from manifests by where it stands, whatever
// its form, and from all files by what it is.
type concealer struct {
	sides [2]*PackState
	// manifests are the manifests under which each file of a side is read, by the file's own path.
	manifests [2]map[string][]string
	// schemas are what both sides say of each: a value that one of them calls secret is.
	config  []*manifest.Schema
	sensors map[string][]*manifest.Schema
	takes   map[store.ComponentRef][]*manifest.Schema // what rules give to actions and triggers
	texts   []string                                  // the longest first
}

func newConcealer(was, will *PackState, others []*store.Record) *concealer {
	c := &concealer{
		sides: [2]*PackState{was, will}, sensors: map[string][]*manifest.Schema{}, takes: map[store.ComponentRef][]*manifest.Schema{},
	}
	for _, record := range others {
		c.known(record.Spec)
	}
	for i, side := range c.sides {
		c.manifests[i] = map[string][]string{}
		for at, f := range reachable(side.folder.files) {
			if manifest.IsManifest(at) {
				c.manifests[i][f.path] = append(c.manifests[i][f.path], at)
			}
		}
		if side.Bundle.Pack != nil {
			c.config = append(c.config, side.Bundle.Pack.ConfSchema)
		}
		for _, component := range side.Bundle.Components() {
			c.known(component)
		}
	}
	for _, side := range c.sides {
		c.collect(side)
	}
	// The longest first, so that none is left half seen because another is its beginning.
	slices.SortFunc(c.texts, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	c.texts = slices.Compact(c.texts)
	return c
}

// known notes what a component says is secret of what it is given.
func (c *concealer) known(component manifest.Component) {
	ref := component.Head().Ref
	switch component := component.(type) {
	case *manifest.Sensor:
		c.sensors[ref] = append(c.sensors[ref], component.Parameters)
	case *manifest.Action, *manifest.Trigger:
		key := store.ComponentRef{Kind: component.Kind(), Ref: ref}
		c.takes[key] = append(c.takes[key], takenBy(component))
	}
}

// taken gives the schemas of what an action or a trigger takes.
func (c *concealer) taken(kind manifest.Kind, ref string) []*manifest.Schema {
	return c.takes[store.ComponentRef{Kind: kind, Ref: ref}]
}

// collect notes the values in a pack's manifests that schemas call secret.
func (c *concealer) collect(side *PackState) {
	add := func(v any, schema manifest.TakenBy) {
		c.texts = append(c.texts, manifest.HiddenTexts(v, schema)...)
	}
	if side.Bundle.Pack != nil {
		add(side.Bundle.Pack, nil)
	}
	for _, component := range side.Bundle.Components() {
		// Each schema says of its own what is secret.
		for i := range max(1, c.mostSchemas(component)) {
			add(component, func(kind manifest.Kind, ref string) *manifest.Schema {
				if known := c.taken(kind, ref); i < len(known) {
					return known[i]
				}
				return nil
			})
		}
	}
}

func (c *concealer) mostSchemas(component manifest.Component) int {
	most := 0
	if rule, ok := component.(*manifest.Rule); ok {
		most = len(c.taken(manifest.KindTrigger, rule.Trigger.Ref))
		for _, use := range rule.Actions {
			most = max(most, len(c.taken(manifest.KindAction, use.Ref)))
		}
	}
	return most
}

// conceal gives a unified diff of a file with Mask in place of secrets. ok is false where nobody can tell
// what is one.
func (c *concealer) conceal(p string, before, after []byte, unified string) (shown string, ok bool) {
	var spans [2][]manifest.Span
	for i, content := range [2][]byte{before, after} {
		if spans[i], ok = c.spans(i, p, content); !ok {
			return "", false
		}
	}
	return c.replace(maskUnified(unified, spans[0], spans[1])), true
}

// spans finds the secrets of a manifest; none in another file.
func (c *concealer) spans(side int, p string, content []byte) (spans []manifest.Span, ok bool) {
	for _, at := range c.manifests[side][p] {
		places, ok := c.places(c.sides[side].Bundle, at)
		if !ok {
			return nil, false
		}
		found, ok := manifest.SecretSpans(content, places, c.long())
		if !ok {
			return nil, false
		}
		spans = append(spans, found...)
	}
	return spans, true
}

// long are the texts that are looked for.
func (c *concealer) long() []string {
	return slices.DeleteFunc(slices.Clone(c.texts), func(text string) bool { return len(text) < shortestSecret })
}

// places are those of the secret values in a manifest; ok is false for one that was not understood.
func (c *concealer) places(b *manifest.Bundle, at string) (places []manifest.Place, ok bool) {
	switch at {
	case "config.schema.yaml":
		return nil, b.Pack != nil
	case "pack.yaml":
		if b.Pack == nil {
			return nil, false
		}
		return manifest.HiddenPlaces(b.Pack, c.config, c.taken), true
	}
	for _, component := range b.Components() {
		if head := component.Head(); head.File == at {
			return manifest.HiddenPlaces(component, c.sensors[head.Ref], c.taken), true
		}
	}
	return nil, false
}

// replace takes out the secrets that stand elsewhere than in the manifest that gives them. One of several
// lines is looked for line by line.
func (c *concealer) replace(text string) string {
	found := map[string]bool{}
	for _, secret := range c.texts {
		for line := range strings.Lines(secret) {
			if line = strings.TrimSpace(line); len(line) >= shortestSecret {
				found[line] = true
			}
		}
		if len(secret) >= shortestSecret {
			found[secret] = true
		}
	}
	all := slices.SortedFunc(maps.Keys(found), func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	for _, secret := range all {
		text = strings.ReplaceAll(text, secret, manifest.Mask)
	}
	return text
}

// maskUnified masks the lines of a unified diff by where they stand in either file.
func maskUnified(unified string, before, after []manifest.Span) string {
	if len(before)+len(after) == 0 {
		return unified
	}
	var b strings.Builder
	old, wanted, inside := 0, 0, false
	for line := range strings.Lines(unified) {
		text := strings.TrimSuffix(line, "\n")
		end := line[len(text):]
		switch {
		case strings.HasPrefix(line, "@@ "):
			old, wanted = hunkStart(text)
			inside = true
		case !inside: // the head
		case strings.HasPrefix(line, "-"):
			text = "-" + manifest.MaskLine(text[1:], old, before)
			old++
		case strings.HasPrefix(line, "+"):
			text = "+" + manifest.MaskLine(text[1:], wanted, after)
			wanted++
		case strings.HasPrefix(line, " "):
			text = " " + manifest.MaskLine(text[1:], old, slices.Concat(before, moved(after, old-wanted)))
			old++
			wanted++
		}
		b.WriteString(text + end)
	}
	return b.String()
}

// moved gives spans as they are where all stands some lines further down.
func moved(spans []manifest.Span, lines int) []manifest.Span {
	all := slices.Clone(spans)
	for i := range all {
		all[i].Start.Line += lines
		all[i].End.Line += lines
	}
	return all
}

// hunkStart reads "@@ -3,4 +5,6 @@".
func hunkStart(line string) (old, wanted int) {
	for part := range strings.FieldsSeq(line) {
		number, _, _ := strings.Cut(part[1:], ",")
		n, err := strconv.Atoi(number)
		switch {
		case err != nil:
		case part[0] == '-':
			old = n
		case part[0] == '+':
			wanted = n
		}
	}
	return old, wanted
}
