package manifest

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// Span is a part of a text. Lines and columns count from 1, columns in characters; End.Col is the first
// that is no longer in it, and 0 there says that the rest of the line is.
type Span struct{ Start, End Spot }

// Spot is a place in a text.
type Spot struct{ Line, Col int }

// HiddenPlaces tells where the values stand that one of the schemas calls secret, for a pack or a component
// that was read from a file. takes gives the schemas of a trigger or an action that a rule names; where there are
// none, all that the rule gives it counts as secret.
func HiddenPlaces(v any, schemas []*Schema, takes func(kind Kind, ref string) []*Schema) []Place {
	var found []Place
	values := func(places Places, pointer string, values map[string]any, schemas []*Schema) {
		for _, schema := range schemas {
			_, err := schema.ReplaceSecrets(values, func(at string, value any) (any, error) {
				if text, ok := value.(string); !ok || !strings.Contains(text, "{{") {
					found = append(found, places.At(pointer+at))
				}
				return value, nil
			})
			if err != nil {
				found = append(found, places.At(pointer))
			}
		}
	}
	switch v := v.(type) {
	case *Pack:
		values(v.Places, "/config", v.Config, schemas)
	case *Sensor:
		values(v.Places, "/config", v.Config, schemas)
	case *Rule:
		given := func(kind Kind, use Use, pointer string) {
			known := takes(kind, use.Ref)
			if len(known) == 0 && len(use.Parameters) > 0 {
				found = append(found, v.Places.At(pointer))
			}
			values(v.Places, pointer, use.Parameters, known)
		}
		given(KindTrigger, v.Trigger, "/trigger/parameters")
		for i, use := range v.Actions {
			given(KindAction, use, "/actions/"+strconv.Itoa(i)+"/parameters")
		}
	}
	return found
}

// SecretSpans tells which parts of a manifest's text are not to be seen: what stands at the places, the
// values that schemas in it name for their own secret parts, and each text that is one of texts, however it
// is written. ok is false where that cannot be told.
func SecretSpans(content []byte, places []Place, texts []string) (spans []Span, ok bool) {
	content, marked := bytes.CutPrefix(content, []byte("\uFEFF"))
	// YAML ends lines with these too; whoever shows them does not.
	if bytes.ContainsAny(content, "\u0085\u2028\u2029") || bytes.Contains(bytes.ReplaceAll(content, []byte("\r\n"), nil), []byte("\r")) {
		return nil, false
	}
	doc, err := decodeNode(yaml.NewDecoder(bytes.NewReader(content)))
	if err != nil {
		return nil, false
	}
	t := &textMask{
		texts: map[string]bool{}, at: map[Spot]int{}, index: map[*yaml.Node]int{}, hidden: map[int]bool{}, looked: map[*yaml.Node][2]bool{},
	}
	for line := range bytes.SplitSeq(content, []byte("\n")) {
		t.lines = append(t.lines, []rune(string(line)))
	}
	for _, text := range texts {
		t.texts[text] = true
	}
	t.add(doc.Content[0], false)
	for _, place := range places {
		i, known := t.at[Spot{place.Line, place.Col}]
		if !known {
			return nil, false
		}
		t.hide(i)
	}
	t.schemas(doc.Content[0], false)
	for i := range t.nodes {
		if n := t.nodes[i].node; n.Kind == yaml.ScalarNode && t.texts[n.Value] {
			t.hide(i)
		}
	}
	for i := range t.spans {
		if end := &t.spans[i].End; marked && end.Line == 1 && end.Col > 0 {
			end.Col++ // the mark is a character of the text, though not of YAML's
		}
	}
	return t.spans, !t.lost
}

// textMask finds the extent of nodes, of which yaml.v3 tells only where they begin.
type textMask struct {
	lines [][]rune
	texts map[string]bool
	nodes []spanNode   // in the order of the text
	at    map[Spot]int // the outermost that begins there
	index map[*yaml.Node]int
	spans []Span
	// hidden are the nodes of the spans, and looked those that were looked through for schemas, outside of a
	// secret one and inside.
	hidden map[int]bool
	looked map[*yaml.Node][2]bool
	lost   bool
}

// spanNode is a node, the number of the first one that is no longer inside it, and whether it stands between
// brackets.
type spanNode struct {
	node *yaml.Node
	end  int
	flow bool
}

func (t *textMask) add(n *yaml.Node, flow bool) {
	i := len(t.nodes)
	t.nodes = append(t.nodes, spanNode{node: n, flow: flow})
	t.index[n] = i
	// Of what begins at one spot, as a mapping and its first key, the outermost holds the others.
	if spot := (Spot{n.Line, n.Column}); n.Kind != yaml.AliasNode {
		if _, taken := t.at[spot]; !taken {
			t.at[spot] = i
		}
	}
	for _, child := range n.Content {
		t.add(child, flow || n.Style&yaml.FlowStyle != 0)
	}
	t.nodes[i].end = len(t.nodes)
}

// hide takes a node and all that it is made of, also where that stands elsewhere under an anchor.
func (t *textMask) hide(i int) {
	if t.hidden[i] {
		return
	}
	t.hidden[i] = true
	n := t.nodes[i].node
	if n.Kind == yaml.AliasNode {
		t.hideNode(n.Alias)
		return
	}
	span := Span{Start: Spot{n.Line, n.Column}, End: Spot{n.Line, n.Column}}
	for j := i; j < t.nodes[i].end; j++ {
		switch part := t.nodes[j].node; part.Kind {
		case yaml.AliasNode:
			t.hideNode(part.Alias)
			span.End = Spot{Line: max(span.End.Line, part.Line)}
		case yaml.ScalarNode:
			span.End = t.endOf(j)
		}
	}
	t.spans = append(t.spans, span)
}

func (t *textMask) hideNode(n *yaml.Node) {
	if i, known := t.index[n]; known {
		t.hide(i)
	} else {
		t.lost = true
	}
}

// schemas hides the values that schemas name for their secret parts.
func (t *textMask) schemas(n *yaml.Node, secret bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	var fields []*yaml.Node
	if n.Kind == yaml.MappingNode {
		fields = fieldsOf(n, map[*yaml.Node]bool{})
	}
	for i := 0; i < len(fields); i += 2 {
		secret = secret || fields[i].Value == "secret" && fields[i+1].Kind == yaml.ScalarNode && fields[i+1].Value != "false"
	}
	looked, side := t.looked[n], 0
	if secret {
		side = 1
	}
	if looked[side] {
		return
	}
	looked[side] = true
	t.looked[n] = looked
	for i := 0; secret && i < len(fields); i += 2 {
		if slices.Contains([]string{"default", "const", "enum", "examples"}, fields[i].Value) {
			t.hideNode(fields[i+1])
		}
	}
	for _, child := range n.Content {
		t.schemas(child, secret)
	}
}

// fieldsOf gives the keys and values of a mapping, in turn, with those that are merged into it.
func fieldsOf(n *yaml.Node, within map[*yaml.Node]bool) (fields []*yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if within[n] {
		return nil
	}
	within[n] = true
	switch n.Kind {
	case yaml.SequenceNode: // of what is merged
		for _, item := range n.Content {
			fields = append(fields, fieldsOf(item, within)...)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Tag == "!!merge" {
				fields = append(fields, fieldsOf(n.Content[i+1], within)...)
			} else {
				fields = append(fields, n.Content[i], n.Content[i+1])
			}
		}
	}
	return fields
}

// endOf gives where a scalar ends. Where that is not plain, it is before the next node begins.
func (t *textMask) endOf(i int) Spot {
	n := t.nodes[i].node
	last := len(t.lines) // the last line that may be all of it
	rest := Spot{Line: last}
	if j := t.nodes[i].end; j < len(t.nodes) {
		next := t.nodes[j].node
		last = max(next.Line-1, n.Line)
		if rest = (Spot{next.Line, next.Column}); next.Line <= n.Line {
			rest = Spot{Line: n.Line}
		}
	}
	line, col := n.Line, n.Column
	if line < 1 || line > len(t.lines) {
		t.lost = true
		return rest
	}
	if n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		return rest
	}
	text := t.lines[line-1]
	switch n.Style &^ yaml.TaggedStyle {
	case yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle:
		if end, ok := t.closing(line, col); ok {
			return end
		}
		return rest
	case yaml.LiteralStyle, yaml.FoldedStyle:
		outer := indent(text)
		for next := line + 1; next <= last; next++ {
			if l := t.lines[next-1]; !blank(l) && indent(l) <= outer {
				return Spot{Line: next - 1}
			}
		}
		return rest
	case 0:
		if !t.nodes[i].flow {
			return Spot{Line: t.plainEnd(line, last)}
		}
		for at := col; at <= len(text); at++ {
			if strings.ContainsRune(",]}", text[at-1]) {
				return Spot{line, at}
			}
		}
	}
	return rest
}

// plainEnd gives the last line of a text without quotes: a comment ends it, blank lines behind it are not
// of it.
func (t *textMask) plainEnd(line, last int) int {
	end := line
	for next := line + 1; next <= last; next++ {
		l := t.lines[next-1]
		if !blank(l) && l[indent(l)] == '#' {
			break
		}
		if !blank(l) {
			end = next
		}
	}
	return end
}

// closing gives the spot behind the quote that closes the one at a spot.
func (t *textMask) closing(line, col int) (Spot, bool) {
	text := t.lines[line-1]
	if col > len(text) {
		return Spot{}, false
	}
	quote := text[col-1]
	if quote != '"' && quote != '\'' {
		return Spot{}, false
	}
	for at := col; ; at++ { // counted from 0, it is behind the quote
		if at >= len(text) {
			if line++; line > len(t.lines) {
				return Spot{}, false
			}
			text, at = t.lines[line-1], -1
			continue
		}
		switch {
		case quote == '"' && text[at] == '\\':
			at++
		case text[at] != quote:
		case quote == '\'' && at+1 < len(text) && text[at+1] == quote:
			at++
		default:
			return Spot{line, at + 2}, true
		}
	}
}

func indent(line []rune) int {
	n := 0
	for n < len(line) && (line[n] == ' ' || line[n] == '\t') {
		n++
	}
	return n
}

func blank(line []rune) bool {
	n := indent(line)
	return n == len(line) || n == len(line)-1 && line[n] == '\r'
}

// MaskLine gives a line of a text with Mask in place of what the spans hold of it.
func MaskLine(line string, number int, spans []Span) string {
	type cut struct{ from, to int }
	var cuts []cut
	runes := []rune(line)
	for _, s := range spans {
		if number < s.Start.Line || number > s.End.Line {
			continue
		}
		c := cut{0, len(runes)}
		if number == s.Start.Line {
			c.from = min(s.Start.Col-1, len(runes))
		} else {
			c.from = min(indent(runes), len(runes))
		}
		if number == s.End.Line && s.End.Col > 0 {
			c.to = min(s.End.Col-1, len(runes))
		}
		if c.from < c.to {
			cuts = append(cuts, c)
		}
	}
	if len(cuts) == 0 {
		return line
	}
	slices.SortFunc(cuts, func(a, b cut) int { return a.from - b.from })
	var b strings.Builder
	at := 0
	for _, c := range cuts {
		if c.from >= at {
			b.WriteString(string(runes[at:c.from]) + Mask)
		}
		at = max(at, c.to)
	}
	b.WriteString(string(runes[at:]))
	return b.String()
}
