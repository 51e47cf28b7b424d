package manifest

import (
	"encoding/json"
	"fmt"
	"math/big"
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
func (s *Schema) Coerce(property, text string) (any, *SchemaError) {
	node, misfit := s.property(property)
	if misfit != nil {
		return nil, misfit
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
	return nil, &SchemaError{
		Pointer: "/" + escapePointer(property),
		Message: fmt.Sprintf("found %s, expected %s%s", found, orList(types), coerceHint(types, text)),
	}
}

// property gives the schema of a top-level property; nil where the schema is open and does not list it.
func (s *Schema) property(name string) (map[string]any, *SchemaError) {
	pointer := "/" + escapePointer(name)
	if s == nil {
		return nil, &SchemaError{pointer, unknownMessage(name, nil) + ", expected none"}
	}
	if node := s.at(pointer); node != nil {
		return node, nil
	}
	_, listed := object(resolve(s.raw(), s.raw())["properties"])[name]
	if listed || s.raw()["additionalProperties"] != false {
		return nil, nil
	}
	return nil, &SchemaError{pointer, unknownMessage(name, s.names(""))}
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
	value, err := exactJSON(text)
	if err != nil {
		return text
	}
	switch v := value.(type) {
	case string:
		return text // the quotes are meant: whoever types them had to escape them from the shell
	case float64:
		if !strings.ContainsAny(text, ".eE") {
			return text
		}
		return v
	case json.Number:
		return text // an account number of 20 digits, not 1.2e+19
	default:
		return v
	}
}

// exactJSON reads JSON so that no number loses digits: one that neither int64 nor float64 holds stays a
// json.Number.
func exactJSON(text string) (any, error) {
	if _, err := decodeJSON([]byte(text)); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	return exactNumbers(value), nil
}

func exactNumbers(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key := range v {
			v[key] = exactNumbers(v[key])
		}
	case []any:
		for i := range v {
			v[i] = exactNumbers(v[i])
		}
	case json.Number:
		plain, ok := plainNumber(v)
		f, isFloat := plain.(float64)
		if !ok || isFloat && !holds(f, string(v)) {
			return v
		}
		return plain
	}
	return value
}

// holds says whether a float64 is all that a number says: written out again it has the same value.
func holds(f float64, number string) bool {
	if strings.ContainsAny(number, "eE") {
		return true // it is meant as one
	}
	have, ok := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64))
	want, alike := new(big.Rat).SetString(number)
	return ok && alike && have.Cmp(want) == 0
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
	value, err := exactJSON(text)
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
	case json.Number:
		ok = t == "number" || t == "integer" && !strings.Contains(text, ".")
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
