package manifest

import (
	"maps"
	"strconv"
	"strings"
)

// valueKind tells the shapes of a value.
type valueKind int

const (
	scalarValue valueKind = iota
	listValue
	mappingValue
	// brokenValue has its finding already; it counts as given, so that nobody misses it.
	brokenValue
)

// value is a node of a manifest after aliases, merges and scalars are resolved, with the place where
// it was written. The decoders see nothing else of YAML.
type value struct {
	kind valueKind
	// scalar is nil, a bool, an int64, a float64 or a string.
	scalar any
	// text is the scalar as written, for what a number cannot say: 1.10 is not 1.1 in a version.
	text   string
	items  []*value
	fields []field
	place  Place
	// begin is where the first character of a text stands, behind its quote or below its bar; zero
	// where the text does not run on in the file as it does in the value.
	begin Place
}

// field is one entry of a mapping, in the order of the file.
type field struct {
	key   string
	place Place
	value *value
}

// field gives the entry of that name, or nil.
func (v *value) field(key string) *field {
	for i := range v.fields {
		if v.fields[i].key == key {
			return &v.fields[i]
		}
	}
	return nil
}

// isNull says whether the value is null, which means the same as absence in a manifest.
func (v *value) isNull() bool { return v.kind == scalarValue && v.scalar == nil }

// plain gives the value as a tree of map[string]any, []any and scalars.
func (v *value) plain() any {
	switch v.kind {
	case listValue:
		list := make([]any, len(v.items))
		for i, item := range v.items {
			list[i] = item.plain()
		}
		return list
	case mappingValue:
		m := make(map[string]any, len(v.fields))
		for _, f := range v.fields {
			m[f.key] = f.value.plain()
		}
		return m
	default:
		return v.scalar
	}
}

// describe says what the value is, for "found …, expected …".
func (v *value) describe() string {
	switch v.kind {
	case listValue:
		return "a list"
	case mappingValue:
		return "a mapping"
	}
	switch s := v.scalar.(type) {
	case nil:
		return "null"
	case string:
		return quoted(s)
	default:
		return v.text
	}
}

// register notes the place of the value and of all below it, under their JSON pointers, and where their
// texts begin.
func (v *value) register(places, texts Places, pointer string) {
	places[pointer] = v.place
	if v.begin != (Place{}) {
		texts[pointer] = v.begin
	}
	for i, item := range v.items {
		item.register(places, texts, pointer+"/"+strconv.Itoa(i))
	}
	for _, f := range v.fields {
		f.value.register(places, texts, pointer+"/"+escapePointer(f.key))
	}
}

// escapePointer makes a key a segment of a JSON pointer (RFC 6901).
func escapePointer(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}

// At gives the place of the node that the pointer names, or of the nearest one above it that has a
// place: a value that a default or a translation made stands nowhere itself.
func (p Places) At(pointer string) Place {
	for {
		if place, ok := p[pointer]; ok {
			return place
		}
		i := strings.LastIndexByte(pointer, '/')
		if i < 0 {
			return Place{}
		}
		pointer = pointer[:i]
	}
}

// alias makes what stands under the pointer from known under the pointer to as well.
func (p Places) alias(from, to string) {
	if from == to {
		return
	}
	more := Places{}
	for pointer, place := range p {
		if rest, ok := strings.CutPrefix(pointer, from); ok && (rest == "" || rest[0] == '/') {
			more[to+rest] = place
		}
	}
	maps.Copy(p, more)
}

// dotted writes a JSON pointer as people do: "retry.max_attempts".
func dotted(pointer string) string {
	s := strings.ReplaceAll(strings.TrimPrefix(pointer, "/"), "/", ".")
	return strings.ReplaceAll(strings.ReplaceAll(s, "~1", "/"), "~0", "~")
}
