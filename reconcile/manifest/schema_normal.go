package manifest

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var schemaTypes = []string{"array", "boolean", "integer", "null", "number", "object", "string"}

// meantTypes are the names that other languages give to a type.
var meantTypes = map[string]string{
	"int": "integer", "long": "integer", "float": "number", "double": "number", "decimal": "number",
	"bool": "boolean", "str": "string", "text": "string", "list": "array", "dict": "object",
	"map": "object", "mapping": "object", "hash": "object", "none": "null", "nil": "null",
}

// plainKeywords are those that hold no schema. With the schema keywords they are all that is known.
var plainKeywords = []string{
	"type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum",
	"maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains",
	"maxProperties", "minProperties", "required", "dependentRequired", "format", "contentEncoding",
	"contentMediaType", "title", "description", "default", "deprecated", "readOnly", "writeOnly", "examples",
	"$ref", "$anchor", "$dynamicRef", "$dynamicAnchor", "$comment", "$id", "$schema",
	"secret", "immutable", "literal", "position", "example",
}

// What may stand under the keywords that hold one value of a known type.
var (
	countKeywords = []string{
		"maxLength", "minLength", "maxItems", "minItems", "maxContains", "minContains", "maxProperties", "minProperties", "position",
	}
	numberKeywords = []string{"maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"}
	textKeywords   = []string{"pattern", "format", "title", "description", "$anchor", "$comment", "$id", "$schema"}
	flagKeywords   = []string{"uniqueItems", "deprecated", "readOnly", "writeOnly", "secret", "immutable", "literal", "x-identity"}
	listKeywords   = []string{"enum", "examples"}
)

// droppedWhen are keywords that mean nothing with this value.
var droppedWhen = map[string]any{
	"uniqueItems": false, "deprecated": false, "readOnly": false, "writeOnly": false,
	"secret": false, "immutable": false, "literal": false, "additionalProperties": true, "x-identity": true,
}

// normalizer brings a schema into its normal form and collects what is wrong with it, with pointers
// into the document as written.
type normalizer struct {
	root     map[string]any
	flat     bool
	errs     []SchemaError
	warnings []SchemaError
}

func (n *normalizer) fail(pointer, format string, args ...any) {
	n.errs = append(n.errs, SchemaError{pointer, fmt.Sprintf(format, args...)})
}

// written turns a pointer into the normal form into one into the document as written: the flat form
// lacks the level of "properties".
func (n *normalizer) written(pointer string) string {
	if rest, ok := strings.CutPrefix(pointer, "/properties"); ok && n.flat {
		return rest
	}
	return pointer
}

func (n *normalizer) document(doc any, open bool) map[string]any {
	if doc == nil {
		return nil
	}
	written, ok := doc.(map[string]any)
	if !ok {
		n.fail("", "found %s, expected a map of names to schemas, or a JSON Schema", describe(doc))
		return nil
	}
	if len(written) == 0 {
		return nil
	}
	n.root = written
	n.flat = !isJSONSchema(written)
	if n.flat {
		written = n.wrapFlat(written)
		n.root = written
	}
	if !open {
		n.checkParameters(written)
	}
	raw := n.schema(written, "")
	if _, said := written["additionalProperties"]; !open && !said {
		closeSchema(raw)
	}
	delete(raw, "$schema")
	delete(raw, "$id")
	return raw
}

// isJSONSchema tells the two forms apart. A flat map may well have a parameter called "type", whose
// value is then a schema and no string.
func isJSONSchema(doc map[string]any) bool {
	switch t := doc["type"].(type) {
	case string:
		return true
	case []any:
		if len(stringsOf(t)) == len(t) {
			return true
		}
	}
	for _, key := range []string{"$ref", "oneOf", "anyOf", "allOf"} {
		switch doc[key].(type) {
		case string, []any:
			return true
		}
	}
	return false
}

// wrapFlat makes a JSON Schema of the flat form. additionalProperties as true or false is the keyword
// there too: as a parameter's schema it would say nothing.
func (n *normalizer) wrapFlat(doc map[string]any) map[string]any {
	_, list := doc["required"].([]any)
	additional, boolean := doc["additionalProperties"].(bool)
	if object(doc["properties"]) != nil && (list || boolean) {
		n.fail("", `found "properties" without "type", expected a JSON Schema or a map of names to schemas; add "type: object"`)
		return map[string]any{}
	}
	properties := maps.Clone(doc)
	wrapped := map[string]any{"type": "object", "properties": properties}
	if boolean {
		wrapped["additionalProperties"] = additional
		delete(properties, "additionalProperties")
	}
	return wrapped
}

// checkParameters refuses a JSON Schema of parameters that no object can fit.
func (n *normalizer) checkParameters(doc map[string]any) {
	types := typesOf(doc)
	if len(types) > 0 && !slices.Contains(types, "object") && slices.Contains(schemaTypes, types[0]) {
		n.fail("/type", `found %s, expected object; a parameter named "type" is written "type: {type: %s}"`,
			quoted(strings.Join(types, ", ")), types[0])
	}
}

// closeSchema allows no properties but those listed. What a $ref or a branch lists counts as listed.
func closeSchema(raw map[string]any) {
	if _, ok := raw["unevaluatedProperties"]; ok {
		return
	}
	for _, key := range []string{"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas"} {
		if _, ok := raw[key]; ok {
			raw["unevaluatedProperties"] = false
			return
		}
	}
	raw["additionalProperties"] = false
}

// schema gives the normal form of one schema.
func (n *normalizer) schema(node map[string]any, pointer string) map[string]any {
	out := make(map[string]any, len(node))
	for key, value := range node {
		n.keyword(out, key, value, pointer)
	}
	n.required(out, node, pointer)
	return out
}

// sub gives the normal form of what stands where a schema is expected. null and true are the schema
// that says nothing.
func (n *normalizer) sub(value any, pointer string) any {
	switch v := value.(type) {
	case nil:
		return map[string]any{}
	case bool:
		if v {
			return map[string]any{}
		}
		return false
	case map[string]any:
		return n.schema(v, pointer)
	case string:
		hint := ""
		if known := meantType(v); known != "" {
			hint = "; write {type: " + known + "}"
		}
		n.fail(n.written(pointer), "found %s, expected a schema%s", quoted(v), hint)
	default:
		n.fail(n.written(pointer), "found %s, expected a schema", describe(value))
	}
	return nil
}

func (n *normalizer) keyword(out map[string]any, key string, value any, pointer string) {
	at := pointer + "/" + escapePointer(key)
	switch {
	case key == "required": // see required
	case key == "type":
		out[key] = n.types(value, at)
	case slices.Contains(schemaKeywords, key):
		if sub := n.sub(value, at); key != "additionalProperties" || !isEmptySchema(sub) {
			out[key] = sub
		}
	case slices.Contains(schemaListKeywords, key):
		out[key] = n.subList(value, at)
	case slices.Contains(schemaMapKeywords, key):
		if subs := n.subMap(key, value, at); len(subs) > 0 {
			out[key] = subs
		}
	default:
		n.plain(out, key, value, at)
	}
}

func isEmptySchema(v any) bool {
	m, ok := v.(map[string]any)
	return ok && len(m) == 0
}

func (n *normalizer) subList(value any, at string) []any {
	list, ok := value.([]any)
	if !ok {
		n.fail(n.written(at), "found %s, expected a list of schemas", describe(value))
		return nil
	}
	subs := make([]any, len(list))
	for i, item := range list {
		subs[i] = n.sub(item, at+"/"+strconv.Itoa(i))
	}
	return subs
}

func (n *normalizer) subMap(key string, value any, at string) map[string]any {
	written, ok := value.(map[string]any)
	if !ok && value != nil {
		n.fail(n.written(at), "found %s, expected a map of names to schemas", describe(value))
		return nil
	}
	subs := make(map[string]any, len(written))
	for name, item := range written {
		if key == "patternProperties" {
			n.regexp(name, at+"/"+escapePointer(name))
		}
		subs[name] = n.sub(item, at+"/"+escapePointer(name))
	}
	return subs
}

// plain takes over a keyword that holds no schema.
func (n *normalizer) plain(out map[string]any, key string, value any, at string) {
	plain, errs := plainNumbers(value, "")
	for _, e := range errs {
		n.fail(n.written(at)+e.Pointer, "%s", e.Message)
	}
	if drop, ok := droppedWhen[key]; ok && plain == drop {
		return
	}
	switch {
	case key == "default" && plain == nil:
		return // null is no value, so it is no default either
	case !n.typed(key, plain, at):
	case key == "pattern":
		n.regexp(plain.(string), at)
	case key == "$ref":
		n.reference(plain, at)
	case !slices.Contains(plainKeywords, key) && !strings.HasPrefix(key, "x-"):
		n.unknown(key, plain, at)
	}
	out[key] = plain
}

// typed checks the type of what stands under a keyword, so that all such mistakes are told at once.
func (n *normalizer) typed(key string, value any, at string) bool {
	ok, expected := true, ""
	switch {
	case slices.Contains(countKeywords, key):
		i, whole := value.(int64)
		ok, expected = whole && i >= 0, "a whole number from 0"
	case slices.Contains(numberKeywords, key), key == "multipleOf":
		switch value.(type) {
		case int64, float64:
		default:
			ok, expected = false, "a number"
		}
		if f, isFloat := value.(float64); key == "multipleOf" && ok && (value == int64(0) || isFloat && f <= 0) {
			ok, expected = false, "a number above 0"
		}
	case slices.Contains(textKeywords, key):
		_, ok = value.(string)
		expected = "a string"
	case slices.Contains(flagKeywords, key):
		_, ok = value.(bool)
		expected = "true or false"
	case slices.Contains(listKeywords, key):
		_, ok = value.([]any)
		expected = "a list"
	}
	if !ok {
		n.fail(n.written(at), "found %s, expected %s", describe(value), expected)
	}
	return ok
}

// unknown warns of a keyword that no schema knows: JSON Schema itself would pass over a slip.
func (n *normalizer) unknown(key string, value any, at string) {
	known := slices.Concat(plainKeywords, schemaKeywords, schemaListKeywords, schemaMapKeywords)
	message := "unknown keyword " + quoted(key) + " in a schema"
	if hint := didYouMean(key, known); hint != "" {
		message += "; " + hint
	} else if value == nil && isProse(key) {
		message += "; " + commaHint
	}
	n.warnings = append(n.warnings, SchemaError{n.written(at), message})
}

func (n *normalizer) regexp(text, at string) {
	if _, err := regexp.Compile(text); err != nil {
		cause := strings.TrimPrefix(err.Error(), "error parsing regexp: ")
		n.fail(n.written(at), "found %s, expected a regular expression (RE2, without lookahead): %s", quoted(text), cause)
	}
}

// reference allows references inside the document alone: a schema reads no file and no network.
func (n *normalizer) reference(value any, at string) {
	ref, ok := value.(string)
	switch {
	case !ok || !strings.HasPrefix(ref, "#"):
		n.fail(n.written(at), `found %s, expected a reference inside this schema, like "#/$defs/name"`, describe(value))
	case ref == "#" || !strings.HasPrefix(ref, "#/"):
		// The whole document, or an anchor: the compiler knows them.
	default:
		if _, ok := lookup(n.root, ref); !ok {
			n.fail(n.written(at), "found %s, expected a reference to something that is there", quoted(ref))
		}
	}
}

// types gives the normal form of "type": one name, or a sorted list of several.
func (n *normalizer) types(value any, at string) any {
	var names []string
	switch v := value.(type) {
	case string:
		names = []string{v}
	case []any:
		names = stringsOf(v)
		if len(names) != len(v) || len(v) == 0 {
			n.fail(n.written(at), "found %s, expected a type or a list of types", describe(value))
			return nil
		}
	default:
		n.fail(n.written(at), "found %s, expected a type or a list of types", describe(value))
		return nil
	}
	for i, name := range names {
		if slices.Contains(schemaTypes, name) {
			continue
		}
		place := at
		if _, list := value.([]any); list {
			place += "/" + strconv.Itoa(i)
		}
		n.unknownType(name, n.written(place))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 1 {
		return names[0]
	}
	list := make([]any, len(names))
	for i, name := range names {
		list[i] = name
	}
	return list
}

func (n *normalizer) unknownType(name, place string) {
	switch known := meantType(name); {
	case strings.EqualFold(name, "any"):
		n.fail(place, "found %s, expected a type; leave type out to allow any", quoted(name))
	case known != "":
		n.fail(place, "found %s, expected a type; did you mean %q?", quoted(name), known)
	default:
		n.fail(place, "found %s, expected a type: %s", quoted(name), orList(schemaTypes))
	}
}

// meantType gives the type that was probably meant, or "".
func meantType(name string) string {
	if known, ok := meantTypes[strings.ToLower(name)]; ok {
		return known
	}
	return Nearest(name, schemaTypes)
}

// required collects the required properties: those of the list, and those that say so themselves.
// One with a default is not required, for it always has a value.
func (n *normalizer) required(out, node map[string]any, pointer string) {
	var names []string
	switch list := node["required"].(type) {
	case nil, bool: // a bool belongs to the level above
	case []any:
		names = stringsOf(list)
		if len(names) != len(list) {
			n.fail(n.written(pointer+"/required"), "found %s, expected a list of names", describe(list))
		}
	default:
		n.fail(n.written(pointer+"/required"), "found %s, expected true, false or a list of names", describe(list))
	}
	for name, p := range object(node["properties"]) {
		if object(p)["required"] == true {
			names = append(names, name)
		}
	}
	normal := object(out["properties"])
	names = slices.DeleteFunc(names, func(name string) bool {
		_, satisfied := resolve(n.root, object(normal[name]))["default"]
		return satisfied
	})
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return
	}
	list := make([]any, len(names))
	for i, name := range names {
		list[i] = name
	}
	out["required"] = list
}

// filler gives values the shape that a schema wants of them.
type filler struct {
	root map[string]any
	// defaults says whether absent properties get their defaults.
	defaults bool
}

// maxFill bounds the depth of filling in: a default may hold an object whose default holds another.
const maxFill = 64

// fill copies a value, without the nulls of optional properties that do not allow null: they mean
// absence. With defaults, absent properties get theirs.
func (f filler) fill(node map[string]any, value any, depth int) any {
	node = resolve(f.root, node)
	if depth > maxFill {
		return deepCopy(value)
	}
	switch v := value.(type) {
	case map[string]any:
		return f.fillObject(node, v, depth)
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			list[i] = f.fill(below(node, strconv.Itoa(i)), item, depth+1)
		}
		return list
	default:
		return value
	}
}

func (f filler) fillObject(node, value map[string]any, depth int) any {
	properties := object(node["properties"])
	out := make(map[string]any, len(value))
	for name, item := range value {
		_, listed := properties[name]
		sub := below(node, name)
		if item == nil && listed && !slices.Contains(stringsOf(node["required"]), name) && !allowsNull(resolve(f.root, sub)) {
			continue
		}
		out[name] = f.fill(sub, item, depth+1)
	}
	if f.defaults {
		for name, p := range properties {
			if _, present := out[name]; present {
				continue
			}
			if value, ok := resolve(f.root, object(p))["default"]; ok {
				out[name] = f.fill(object(p), value, depth+1)
			}
		}
	}
	branches, _ := node["allOf"].([]any)
	for _, branch := range branches {
		// A branch that lists other properties adds to what is there already.
		if filled, ok := f.fill(object(branch), out, depth+1).(map[string]any); ok {
			out = filled
		}
	}
	return out
}

// allowsNull says whether null is a value of its own here.
func allowsNull(node map[string]any) bool {
	if slices.Contains(typesOf(node), "null") {
		return true
	}
	enum, _ := node["enum"].([]any)
	if value, ok := node["const"]; ok && value == nil {
		return true
	}
	return slices.Contains(enum, nil)
}

// ApplyDefaults gives a copy of params with the defaults of absent properties filled in, at every
// depth of what is there, and with `null` for an optional one removed, unless its type names null.
func (s *Schema) ApplyDefaults(params map[string]any) map[string]any {
	if s == nil {
		if params == nil {
			return map[string]any{}
		}
		return maps.Clone(object(deepCopy(params)))
	}
	if params == nil {
		params = map[string]any{}
	}
	return object(filler{root: s.raw(), defaults: true}.fill(s.raw(), params, 0))
}
