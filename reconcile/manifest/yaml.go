package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// readYAML reads the one document of a manifest into a tree. The tree is nil where the file cannot be
// read at all; where it can be read in part, the tree has that part and the findings the rest.
func readYAML(file string, content []byte) (*value, Errors) {
	r := &yamlReader{file: file, expanding: map[*yaml.Node]bool{}}
	content, ok := r.checkBytes(content)
	if !ok {
		return nil, r.errs
	}
	r.content, r.lines = content, bytes.Split(content, []byte("\n"))
	doc := r.parse(content)
	if doc == nil {
		return nil, r.errs
	}
	v := r.convert(doc.Content[0], 0)
	if r.overflowed {
		// A tree that was cut off means something else than its author wrote.
		return nil, r.errs
	}
	if v != nil && v.kind != mappingValue {
		r.fail(v.place, "write it as \"key: value\" lines",
			"cannot read the manifest: found %s, expected a mapping", v.describe())
		v = nil
	}
	return v, r.errs
}

// yamlReader turns the nodes of yaml.v3 into values. yaml.v3's own decoding is not used: it takes
// 2020-01-01 for a time and 017 for 15, and names no column.
type yamlReader struct {
	file    string
	content []byte
	// lines are the content's, split once.
	lines [][]byte

	errs       Errors
	nodes      int
	overflowed bool
	// expanding holds the anchored nodes between the root and the current one, to tell a cycle.
	expanding map[*yaml.Node]bool
}

func (r *yamlReader) fail(place Place, hint, format string, args ...any) {
	place.File = r.file
	r.errs = append(r.errs, &Error{
		Place: place, Severity: SeverityError, Message: fmt.Sprintf(format, args...), Hint: hint,
	})
}

// checkBytes refuses what is no YAML text, with its place, which yaml.v3 does not tell. It gives the
// content without a byte order mark.
func (r *yamlReader) checkBytes(content []byte) ([]byte, bool) {
	const saveUTF8 = "save the file as UTF-8"
	if bytes.HasPrefix(content, []byte{0xFF, 0xFE}) || bytes.HasPrefix(content, []byte{0xFE, 0xFF}) {
		r.fail(Place{Line: 1, Col: 1}, saveUTF8, "cannot read the manifest: it is UTF-16")
		return nil, false
	}
	content = bytes.TrimPrefix(content, []byte("\uFEFF"))
	if len(content) > MaxFileSize {
		r.fail(Place{}, "", "cannot read the manifest: found %d bytes, expected at most %d", len(content), MaxFileSize)
		return nil, false
	}
	// yaml.v3 makes a node of each before anybody can count them, at some 300 bytes a node.
	if parts := bytes.Count(content, []byte("\n")) + bytes.Count(content, []byte(",")); parts > maxParts {
		r.fail(Place{}, "", "cannot read the manifest: found %d lines and commas, expected at most %d", parts, maxParts)
		return nil, false
	}
	for i := 0; i < len(content); {
		char, size := utf8.DecodeRune(content[i:])
		switch {
		case char == utf8.RuneError && size == 1:
			r.fail(placeOf(content, i), saveUTF8, "cannot read the manifest: byte 0x%02x is not UTF-8", content[i])
			return nil, false
		case char == 0:
			r.fail(placeOf(content, i), saveUTF8, "cannot read the manifest: found a NUL byte")
			return nil, false
		case !isPrintable(char):
			r.fail(placeOf(content, i), fmt.Sprintf(`write it as "\u%04X" in double quotes`, char),
				"cannot read the manifest: found the control character U+%04X", char)
			return nil, false
		}
		i += size
	}
	return content, true
}

// isPrintable says whether YAML allows the character unescaped.
func isPrintable(char rune) bool {
	switch {
	case char < ' ':
		return char == '\t' || char == '\n' || char == '\r'
	case char >= 0x7F && char < 0xA0:
		return char == 0x85
	default:
		return char != 0xFFFE && char != 0xFFFF
	}
}

// placeOf gives line and column, in characters, of an offset.
func placeOf(content []byte, offset int) Place {
	before := content[:offset]
	line := 1 + bytes.Count(before, []byte("\n"))
	start := bytes.LastIndexByte(before, '\n') + 1
	return Place{Line: line, Col: 1 + utf8.RuneCount(before[start:])}
}

// parse gives the document node, or nil after a finding.
func (r *yamlReader) parse(content []byte) *yaml.Node {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	doc, err := decodeNode(decoder)
	switch {
	case errors.Is(err, io.EOF):
		r.fail(Place{Line: 1, Col: 1}, "write it, or delete the file", "cannot read the manifest: it is empty")
		return nil
	case err != nil:
		r.syntax(err)
		return nil
	}
	second, err := decodeNode(decoder)
	const oneDocument = "remove the second \"---\", or put it into a file of its own"
	switch {
	case errors.Is(err, io.EOF):
		return doc
	case err != nil:
		// What follows is not even YAML; the place of the separator is what the author needs.
		r.fail(secondDocument(content, doc), oneDocument, "cannot read a second document in one file: %s", cause(err))
	default:
		r.fail(Place{Line: second.Line, Col: second.Column}, oneDocument, "cannot read a second document in one file")
	}
	return nil
}

// decodeNode reads the next document. yaml.v3 panics on a few malformed inputs that its own error
// handling does not know, and a file must not be able to end the daemon.
func decodeNode(decoder *yaml.Decoder) (doc *yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			doc, err = nil, errorf("yaml: the parser gave up: %v", p)
		}
	}()
	var node yaml.Node
	if err := decoder.Decode(&node); err != nil {
		return nil, err
	}
	if node.Kind != yaml.DocumentNode || len(node.Content) == 0 {
		return nil, io.EOF
	}
	return &node, nil
}

// secondDocument finds the separator after the first document.
func secondDocument(content []byte, doc *yaml.Node) Place {
	for i, line := range bytes.Split(content, []byte("\n")) {
		if i+1 > doc.Content[0].Line && (bytes.HasPrefix(line, []byte("---")) || bytes.HasPrefix(line, []byte("..."))) {
			return Place{Line: i + 1, Col: 1}
		}
	}
	return Place{Line: doc.Line, Col: 1}
}

// convert turns a node into a value, expanding aliases. It gives nil where that cannot be done; then
// there is a finding.
func (r *yamlReader) convert(n *yaml.Node, depth int) *value {
	place := Place{File: r.file, Line: n.Line, Col: n.Column}
	if r.overflowed {
		return nil
	}
	r.nodes++
	if r.nodes > MaxNodes {
		r.overflowed = true
		r.fail(place, "", "cannot read the manifest: more than %d nodes, each use of an anchor counted", MaxNodes)
		return nil
	}
	if depth > MaxDepth {
		r.overflowed = true
		r.fail(place, "", "cannot read the manifest: more than %d levels deep", MaxDepth)
		return nil
	}
	switch n.Kind {
	case yaml.AliasNode:
		return r.expand(n, depth)
	case yaml.ScalarNode:
		return r.scalar(n)
	case yaml.SequenceNode:
		return r.list(n, depth)
	case yaml.MappingNode:
		return r.mapping(n, depth)
	default:
		r.fail(place, "", "cannot read the manifest: found an unknown kind of node")
		return nil
	}
}

func (r *yamlReader) expand(n *yaml.Node, depth int) *value {
	if r.expanding[n.Alias] {
		r.fail(Place{Line: n.Line, Col: n.Column}, "", "cannot expand %s: it contains itself", quoted("*"+n.Value))
		return nil
	}
	r.expanding[n.Alias] = true
	defer delete(r.expanding, n.Alias)
	return r.convert(n.Alias, depth+1)
}

func (r *yamlReader) list(n *yaml.Node, depth int) *value {
	defer r.enter(n)()
	r.checkTag(n, "!!seq")
	v := &value{kind: listValue, place: Place{File: r.file, Line: n.Line, Col: n.Column}}
	for _, item := range n.Content {
		if r.overflowed {
			return nil
		}
		if child := r.convert(item, depth+1); child != nil {
			v.items = append(v.items, child)
		}
	}
	return v
}

// enter marks an anchored node as being converted, so that an alias to it from inside is a cycle.
func (r *yamlReader) enter(n *yaml.Node) (leave func()) {
	if n.Anchor == "" || r.expanding[n] {
		return func() {}
	}
	r.expanding[n] = true
	return func() { delete(r.expanding, n) }
}

func (r *yamlReader) mapping(n *yaml.Node, depth int) *value {
	defer r.enter(n)()
	r.checkTag(n, "!!map")
	v := &value{kind: mappingValue, place: Place{File: r.file, Line: n.Line, Col: n.Column}}
	if isUnquotedTemplate(n) {
		r.unquoted(n.Line, n.Column)
		return nil
	}
	seen := map[string]Place{}
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content) && !r.overflowed; i += 2 {
		keyNode, valueNode := n.Content[i], n.Content[i+1]
		place := Place{File: r.file, Line: keyNode.Line, Col: keyNode.Column}
		if keyNode.Kind == yaml.ScalarNode && keyNode.Tag == "!!merge" {
			merges = append(merges, valueNode)
			continue
		}
		key, ok := r.key(keyNode)
		child := r.convert(valueNode, depth+1)
		if !ok {
			continue
		}
		if first, again := seen[key]; again {
			r.fail(place, "keep one of them", "cannot use key %s twice: it stands at line %d already", quoted(key), first.Line)
			continue
		}
		seen[key] = place
		if child == nil {
			child = &value{kind: brokenValue, place: place}
		}
		v.fields = append(v.fields, field{key: key, place: place, value: child})
	}
	for _, m := range merges {
		if r.overflowed {
			return nil
		}
		r.merge(v, m, depth, seen)
	}
	return v
}

// merge adds the fields of a `<<` that the mapping does not have itself; of several mappings, the
// earlier one wins.
func (r *yamlReader) merge(v *value, n *yaml.Node, depth int, seen map[string]Place) {
	source := r.convert(n, depth+1)
	if source == nil {
		return
	}
	sources := []*value{source}
	if source.kind == listValue {
		sources = source.items
	}
	for _, s := range sources {
		if s.kind != mappingValue {
			r.fail(Place{Line: n.Line, Col: n.Column}, "", "cannot merge \"<<\": found %s, expected a mapping", s.describe())
			continue
		}
		for _, f := range s.fields {
			if _, ok := seen[f.key]; !ok {
				seen[f.key] = f.place
				v.fields = append(v.fields, f)
			}
		}
	}
}

// key gives the text of a mapping's key, which must be a string: JSON has no other.
func (r *yamlReader) key(n *yaml.Node) (string, bool) {
	place := Place{Line: n.Line, Col: n.Column}
	if n.Kind == yaml.AliasNode && n.Alias != nil && n.Alias.Kind == yaml.ScalarNode {
		n = n.Alias
	}
	r.nodes++
	if n.Kind != yaml.ScalarNode {
		r.fail(place, "", "cannot use this key: found a list or a mapping, expected a string")
		return "", false
	}
	v := r.scalar(n)
	if v == nil {
		return "", false
	}
	s, ok := v.scalar.(string)
	if !ok {
		r.fail(place, "write "+strconv.Quote(n.Value), "cannot use key %s: found %s, expected a string", n.Value, typeName(v.scalar))
		return "", false
	}
	return s, true
}

// isUnquotedTemplate recognises `message: {{ event.payload.x }}`, which YAML takes for a mapping whose
// key is a mapping.
func isUnquotedTemplate(n *yaml.Node) bool {
	return n.Style&yaml.FlowStyle != 0 && len(n.Content) >= 1 &&
		n.Content[0].Kind == yaml.MappingNode && n.Content[0].Style&yaml.FlowStyle != 0
}

// checkTag refuses an explicit tag on a list or mapping that asks for another type than it has.
func (r *yamlReader) checkTag(n *yaml.Node, natural string) {
	if n.Style&yaml.TaggedStyle != 0 && n.Tag != natural {
		r.fail(Place{Line: n.Line, Col: n.Column}, "remove it", "cannot use tag %s", quoted(n.Tag))
	}
}
