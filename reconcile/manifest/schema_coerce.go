package manifest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Coerce turns a word of the command line into the value that the property's schema wants:
// n=21 is a number where the schema wants one and a string where it wants that.
//
// integer and number are written as JSON has them, boolean as true or false, array and object as
// JSON, null as null. Where several types are allowed, the first of integer, number, boolean, object,
// array and null that can be read wins, and else it is a string. Where the schema names no type, a
// word that is JSON is that value (so 1, true, null and {"a":1} are), unless it is a number too large
// to be kept exactly, and every other word is a string.
func (s *Schema) Coerce(property, text string) (any, error) {
	node, err := s.property(property)
	if err != nil {
		return nil, err
	}
	types := s.allowedTypes(node, 0)
	if len(types) == 0 {
		return s.guess(node, text), nil
	}
	for _, t := range []string{"integer", "number", "boolean", "object", "array", "null"} {
		if !slices.Contains(types, t) {
			continue
		}
		if value, ok := readAs(t, text); ok {
			return value, nil
		}
	}
	if slices.Contains(types, "string") {
		return text, nil
	}
	found := quoted(text)
	if s.IsSecret("/" + escapePointer(property)) {
		found = hiddenValue
	}
	return nil, fmt.Errorf("cannot use %s: found %s, expected %s%s", property, found, orList(types), coerceHint(types, text))
}

// property gives the schema of a top-level property; nil where the schema is open and does not list it.
func (s *Schema) property(name string) (map[string]any, error) {
	if s == nil {
		return nil, fmt.Errorf("cannot use %s: %s, expected none", name, unknownProperty)
	}
	if node := s.at("/" + escapePointer(name)); node != nil {
		return node, nil
	}
	_, listed := object(resolve(s.raw(), s.raw())["properties"])[name]
	if listed || s.raw()["additionalProperties"] != false {
		return nil, nil
	}
	message := "cannot use " + name + ": " + unknownProperty
	if hint := didYouMean(name, s.names("")); hint != "" {
		message += "; " + hint
	}
	return nil, errors.New(message)
}

// allowedTypes gives the types of a schema, those of its alternatives included; none means any.
func (s *Schema) allowedTypes(node map[string]any, depth int) []string {
	if types := typesOf(node); len(types) > 0 || depth > maxRefs {
		return types
	}
	var types []string
	for _, key := range []string{"anyOf", "oneOf", "allOf"} {
		list, _ := node[key].([]any)
		for _, item := range list {
			sub := s.allowedTypes(resolve(s.raw(), object(item)), depth+1)
			if len(sub) == 0 && key != "allOf" {
				return nil
			}
			types = append(types, sub...)
		}
	}
	slices.Sort(types)
	return slices.Compact(types)
}

// guess reads a word whose type nothing tells. An enum does tell: a word that it lists is that word.
func (s *Schema) guess(node map[string]any, text string) any {
	enum, _ := node["enum"].([]any)
	if slices.ContainsFunc(enum, func(v any) bool { return v == any(text) }) {
		return text
	}
	value, err := decodeJSON([]byte(text))
	if err != nil {
		return text
	}
	switch v := value.(type) {
	case string:
		return text // the quotes are meant: whoever types them had to escape them from the shell
	case float64:
		if !strings.ContainsAny(text, ".eE") {
			return text // an account number of 20 digits, not 1.2e+19
		}
		return v
	default:
		return v
	}
}

// readAs reads a word as a value of one type.
func readAs(t, text string) (any, bool) {
	switch t {
	case "boolean":
		switch strings.ToLower(text) {
		case "true":
			return true, true
		case "false":
			return false, true
		}
		return nil, false
	case "null":
		return nil, text == "null"
	}
	value, err := decodeJSON([]byte(text))
	if err != nil {
		// JSON has no leading plus and no leading zeros; people type them.
		if i, err := strconv.ParseInt(text, 10, 64); err == nil && (t == "integer" || t == "number") {
			return i, true
		}
		return nil, false
	}
	ok := false
	switch value.(type) {
	case int64:
		ok = t == "integer" || t == "number"
	case float64:
		ok = t == "number"
	case map[string]any:
		ok = t == "object"
	case []any:
		ok = t == "array"
	}
	return value, ok
}

// coerceHint tells how to type what was expected.
func coerceHint(types []string, text string) string {
	switch {
	case slices.Contains(types, "boolean"):
		return "; write true or false"
	case slices.Contains(types, "array") && !strings.HasPrefix(text, "["):
		return `; write it as JSON: '["a","b"]'`
	case slices.Contains(types, "object") && !strings.HasPrefix(text, "{"):
		return `; write it as JSON: '{"key":"value"}'`
	}
	return ""
}
