package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// maxRefs bounds how many references are followed in a row: a schema may refer to itself.
const maxRefs = 32

// object gives v as an object; nil where it is none.
func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// stringsOf gives the strings of a list.
func stringsOf(v any) []string {
	list, _ := v.([]any)
	var texts []string
	for _, item := range list {
		if s, ok := item.(string); ok {
			texts = append(texts, s)
		}
	}
	return texts
}

// typesOf gives the types that a schema allows; none means any.
func typesOf(node map[string]any) []string {
	if s, ok := node["type"].(string); ok {
		return []string{s}
	}
	return stringsOf(node["type"])
}

// resolve follows the references of a schema inside its document. The keywords beside a $ref stay,
// and win.
func resolve(root, node map[string]any) map[string]any {
	for range maxRefs {
		ref, ok := node["$ref"].(string)
		if !ok {
			return node
		}
		target, ok := lookup(root, ref)
		if !ok {
			return node
		}
		merged := maps.Clone(target)
		for key, value := range node {
			if key != "$ref" {
				merged[key] = value
			}
		}
		node = merged
	}
	return node
}

// lookup finds what "#/$defs/x" names.
func lookup(root map[string]any, ref string) (map[string]any, bool) {
	pointer, ok := strings.CutPrefix(ref, "#")
	if !ok || (pointer != "" && pointer[0] != '/') {
		return nil, false
	}
	var node any = root
	for _, segment := range segments(pointer) {
		switch n := node.(type) {
		case map[string]any:
			node = n[segment]
		case []any:
			i, err := strconv.Atoi(segment)
			if err != nil || i < 0 || i >= len(n) {
				return nil, false
			}
			node = n[i]
		default:
			return nil, false
		}
	}
	target, ok := node.(map[string]any)
	return target, ok
}

// below gives the schema of one property or element.
func below(node map[string]any, segment string) map[string]any {
	if p, ok := object(node["properties"])[segment]; ok {
		return object(p)
	}
	if _, err := strconv.Atoi(segment); err == nil {
		if prefix, ok := node["prefixItems"].([]any); ok {
			if i, _ := strconv.Atoi(segment); i < len(prefix) {
				return object(prefix[i])
			}
		}
		if items, ok := node["items"].(map[string]any); ok {
			return items
		}
	}
	if additional, ok := node["additionalProperties"].(map[string]any); ok {
		return additional
	}
	return nil
}

// Which keywords hold schemas, and how.
var (
	schemaKeywords = []string{
		"items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems", "contains", "not",
		"if", "then", "else", "propertyNames", "contentSchema",
	}
	schemaListKeywords = []string{"prefixItems", "allOf", "anyOf", "oneOf"}
	schemaMapKeywords  = []string{"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
)

// walkSchemas visits a schema and every schema inside it, in a fixed order.
func walkSchemas(node map[string]any, pointer string, visit func(node map[string]any, pointer string)) {
	visit(node, pointer)
	for _, key := range slices.Sorted(maps.Keys(node)) {
		at := pointer + "/" + escapePointer(key)
		switch {
		case slices.Contains(schemaKeywords, key):
			if sub := object(node[key]); sub != nil {
				walkSchemas(sub, at, visit)
			}
		case slices.Contains(schemaListKeywords, key):
			list, _ := node[key].([]any)
			for i, item := range list {
				if sub := object(item); sub != nil {
					walkSchemas(sub, at+"/"+strconv.Itoa(i), visit)
				}
			}
		case slices.Contains(schemaMapKeywords, key):
			subs := object(node[key])
			for _, name := range slices.Sorted(maps.Keys(subs)) {
				if sub := object(subs[name]); sub != nil {
					walkSchemas(sub, at+"/"+escapePointer(name), visit)
				}
			}
		}
	}
}

// pattern is a JSON pointer whose "*" stands for any segment.
type pattern []string

func (p pattern) String() string {
	var b strings.Builder
	for _, segment := range p {
		b.WriteString("/" + escapePointer(segment))
	}
	return b.String()
}

// covers says whether the pointer is what the pattern names, or a part of it.
func (p pattern) covers(pointer string) bool {
	path := segments(pointer)
	if len(path) < len(p) {
		return false
	}
	for i, segment := range p {
		if segment != "*" && segment != path[i] {
			return false
		}
	}
	return true
}

// each visits the values that the pattern names, in a fixed order.
func (p pattern) each(value any, visit func(pointer string, value any)) {
	var walk func(rest pattern, value any, pointer string)
	walk = func(rest pattern, value any, pointer string) {
		if len(rest) == 0 {
			visit(pointer, value)
			return
		}
		switch v := value.(type) {
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(v)) {
				if rest[0] == key || rest[0] == "*" {
					walk(rest[1:], v[key], pointer+"/"+escapePointer(key))
				}
			}
		case []any:
			for i, item := range v {
				if rest[0] == "*" || rest[0] == strconv.Itoa(i) {
					walk(rest[1:], item, pointer+"/"+strconv.Itoa(i))
				}
			}
		}
	}
	walk(p, value, "")
}

func matchesAny(patterns []pattern, pointer string) bool {
	return slices.ContainsFunc(patterns, func(p pattern) bool { return p.covers(pointer) })
}

// annotated finds the values whose schema has an annotation, in whichever branch it does.
func annotated(root map[string]any, keyword string, want any) []pattern {
	var found []pattern
	entered := map[string]bool{} // references between the root and here, against a schema inside itself
	var walk func(node map[string]any, at pattern)
	walk = func(node map[string]any, at pattern) {
		if node == nil {
			return
		}
		if got, ok := node[keyword]; ok && got == want {
			found = append(found, slices.Clone(at))
			return
		}
		if ref, ok := node["$ref"].(string); ok && !entered[ref] {
			if target, ok := lookup(root, ref); ok {
				entered[ref] = true
				walk(target, at)
				delete(entered, ref)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(object(node["properties"]))) {
			walk(object(object(node["properties"])[name]), append(slices.Clone(at), name))
		}
		for _, key := range []string{"items", "additionalProperties", "unevaluatedProperties"} {
			walk(object(node[key]), append(slices.Clone(at), "*"))
		}
		for _, sub := range object(node["patternProperties"]) {
			walk(object(sub), append(slices.Clone(at), "*"))
		}
		prefix, _ := node["prefixItems"].([]any)
		for i, item := range prefix {
			walk(object(item), append(slices.Clone(at), strconv.Itoa(i)))
		}
		for _, key := range []string{"allOf", "anyOf", "oneOf"} {
			list, _ := node[key].([]any)
			for _, item := range list {
				walk(object(item), at)
			}
		}
		for _, key := range []string{"if", "then", "else"} {
			walk(object(node[key]), at)
		}
	}
	walk(root, nil)
	slices.SortFunc(found, func(a, b pattern) int { return slices.Compare(a, b) })
	return slices.CompactFunc(found, func(a, b pattern) bool { return slices.Equal(a, b) })
}

// segments splits a JSON pointer.
func segments(pointer string) []string {
	if pointer == "" {
		return nil
	}
	list := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for i := range list {
		list[i] = unescape.Replace(list[i])
	}
	return list
}

// SetPointer puts a value into a tree of JSON where there is one already, and says whether there was.
func SetPointer(tree any, pointer string, value any) bool {
	at := tree
	for _, segment := range segments(pointer) {
		switch node := at.(type) {
		case map[string]any:
			next, ok := node[segment]
			if !ok {
				return false
			}
			at = next
		case []any:
			i, err := strconv.Atoi(segment)
			if err != nil || i < 0 || i >= len(node) {
				return false
			}
			at = node[i]
		default:
			return false
		}
	}
	setPointer(tree, pointer, value)
	return true
}

// setPointer gives the tree with value at the pointer, making the objects on the way that are absent.
// The tree is changed in place where it can be.
func setPointer(tree any, pointer string, value any) any {
	return setSegments(tree, segments(pointer), value)
}

func setSegments(tree any, path []string, value any) any {
	if len(path) == 0 {
		return value
	}
	switch t := tree.(type) {
	case []any:
		if i, err := strconv.Atoi(path[0]); err == nil && i >= 0 && i < len(t) {
			t[i] = setSegments(t[i], path[1:], value)
		}
		return t
	case map[string]any:
		t[path[0]] = setSegments(t[path[0]], path[1:], value)
		return t
	default:
		return map[string]any{path[0]: setSegments(nil, path[1:], value)}
	}
}

// deepCopy copies objects and lists.
func deepCopy(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return v
		}
		m := make(map[string]any, len(v))
		for key, item := range v {
			m[key] = deepCopy(item)
		}
		return m
	case []any:
		if v == nil {
			return v
		}
		list := make([]any, len(v))
		for i, item := range v {
			list[i] = deepCopy(item)
		}
		return list
	default:
		return v
	}
}

// lookThrough tells, without a copy, whether plainNumbers would change nothing in a tree, and whether there is
// a null in it.
func lookThrough(v any) (isPlain, hasNull bool) {
	isPlain = true
	note := func(item any) {
		plain, null := lookThrough(item)
		isPlain, hasNull = isPlain && plain, hasNull || null
	}
	switch v := v.(type) {
	case map[string]any:
		for _, item := range v {
			note(item)
		}
	case []any:
		for _, item := range v {
			note(item)
		}
	case nil:
		hasNull = true
	case bool, string, int64:
	default:
		isPlain = false
	}
	return isPlain, hasNull
}

// plainNumbers copies a tree with every number as an int64, or as a float64 where that cannot hold
// it, so that 21, 21.0 and json.Number("21") are one value. What JSON cannot say is an error.
func plainNumbers(v any, pointer string) (any, []SchemaError) {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		var errs []SchemaError
		for key, item := range v {
			plain, e := plainNumbers(item, pointer+"/"+escapePointer(key))
			m[key], errs = plain, append(errs, e...)
		}
		sortSchemaErrors(errs)
		return m, errs
	case []any:
		list := make([]any, len(v))
		var errs []SchemaError
		for i, item := range v {
			plain, e := plainNumbers(item, pointer+"/"+strconv.Itoa(i))
			list[i], errs = plain, append(errs, e...)
		}
		return list, errs
	case nil, bool, string, int64:
		return v, nil
	default:
		number, ok := plainNumber(v)
		if !ok {
			return nil, []SchemaError{{pointer, fmt.Sprintf("found %v, expected a value that JSON can say", v)}}
		}
		return number, nil
	}
}

// plainNumber makes any Go number, and json.Number, an int64 or a float64.
func plainNumber(v any) (any, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case int:
		return int64(v), true
	case int32:
		return int64(v), true
	case uint32:
		return int64(v), true
	case float32:
		return plainNumber(float64(v))
	case float64:
		return normalNumber(v), !math.IsNaN(v) && !math.IsInf(v, 0)
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i, true
		}
		f, err := v.Float64()
		return normalNumber(f), err == nil
	}
	return nil, false
}

// canonicalJSON gives the one JSON text of a value: keys sorted, no HTML escapes, 1.0 as 1.
func canonicalJSON(v any) ([]byte, error) {
	plain, errs := plainNumbers(v, "")
	if len(errs) > 0 {
		return nil, errorf("cannot encode value: %s: %s", errs[0].Pointer, errs[0].Message)
	}
	return compactJSON(plain)
}

// compactJSON is json.Marshal without the escapes for HTML, which nothing here ever is.
func compactJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// decodeJSON reads one JSON value, with numbers as plainNumbers has them.
func decodeJSON(data []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errorf("more follows after the value")
	}
	plain, errs := plainNumbers(v, "")
	if len(errs) > 0 {
		return nil, errorf("%s", errs[0].Message)
	}
	return plain, nil
}

// sameJSON says whether two values are one JSON value.
func sameJSON(a, b any) bool {
	x, errX := canonicalJSON(a)
	y, errY := canonicalJSON(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
