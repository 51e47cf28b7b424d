package manifest

import (
	"math"
	"slices"
)

// shape says what may stand under a key, as a JSON Schema for editors. What only the whole pack can tell
// (that a trigger exists, that a script is there) is no part of it.
type shape interface {
	schema() map[string]any
}

type (
	textShape struct {
		pattern string
	}
	flagShape struct{}
	// integerShape is a whole number of 32 bits, from low on.
	integerShape struct{ low int64 }
	coresShape   struct{}
	sizeShape    struct{}
	// durationShape is a time span; zero says that it may be 0.
	durationShape struct{ zero bool }
	// choiceShape maps what may be written to what it means.
	choiceShape  struct{ words map[string]string }
	rangeShape   struct{}
	refShape     struct{}
	userShape    struct{}
	listShape    struct{ of shape }
	mappingShape struct{ keys []Key }
	anyShape     []shape
	// treeShape is a mapping that is kept as it is, keptShape anything that is.
	treeShape         struct{}
	keptShape         struct{}
	schemaShape       struct{}
	conditionShape    struct{}
	environmentShape  struct{}
	exitCodeShape     struct{}
	requirementShape  struct{}
	dependenciesShape struct{}
)

// semverPattern is what is left of semantic versioning where an editor checks it.
const semverPattern = `^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`

// subKeys gives the keys of the mapping that a shape allows.
func subKeys(s shape) []Key {
	switch s := s.(type) {
	case mappingShape:
		return s.keys
	case listShape:
		return subKeys(s.of)
	case anyShape:
		for _, one := range s {
			if keys := subKeys(one); keys != nil {
				return keys
			}
		}
	case dependenciesShape:
		return dependencyKeys
	case requirementShape:
		return requirementKeys
	case conditionShape:
		return expressionKeys
	}
	return nil
}

// same makes the table of a choice of words that mean themselves.
func same(list ...string) map[string]string {
	m := map[string]string{}
	for _, word := range list {
		m[word] = word
	}
	return m
}

// runnerWords are the accepted runner_types.
func runnerWords() map[string]string { return runtimeAliases }

func oneOf(schemas ...map[string]any) map[string]any {
	list := make([]any, len(schemas))
	for i, s := range schemas {
		list[i] = s
	}
	return map[string]any{"anyOf": list}
}

func typed(name string) map[string]any { return map[string]any{"type": name} }

func definition(name string) map[string]any { return map[string]any{"$ref": "#/$defs/" + name} }

func (s textShape) schema() map[string]any {
	text := typed("string")
	if s.pattern != "" {
		text["pattern"] = s.pattern
	}
	return text
}

func (flagShape) schema() map[string]any { return typed("boolean") }

func (s integerShape) schema() map[string]any {
	return map[string]any{"type": "integer", "minimum": s.low, "maximum": int64(math.MaxInt32)}
}

func (coresShape) schema() map[string]any {
	return map[string]any{"type": "number", "exclusiveMinimum": int64(0)}
}

func (sizeShape) schema() map[string]any { return definition("size") }

func (s durationShape) schema() map[string]any {
	if s.zero {
		return definition("pause")
	}
	return definition("duration")
}

func (s choiceShape) schema() map[string]any {
	list := []any{}
	for _, word := range sortedKeys(s.words) {
		list = append(list, word)
	}
	return map[string]any{"enum": list}
}

func (rangeShape) schema() map[string]any { return typed("string") }

func (refShape) schema() map[string]any { return definition("ref") }

func (userShape) schema() map[string]any {
	return map[string]any{"type": []any{"string", "integer"}}
}

func (s listShape) schema() map[string]any {
	return map[string]any{"type": "array", "items": s.of.schema()}
}

func (s mappingShape) schema() map[string]any { return mappingSchema(s.keys) }

func (s anyShape) schema() map[string]any {
	schemas := make([]map[string]any, len(s))
	for i, one := range s {
		schemas[i] = one.schema()
	}
	return oneOf(schemas...)
}

func (treeShape) schema() map[string]any { return typed("object") }

func (keptShape) schema() map[string]any { return map[string]any{} }

func (schemaShape) schema() map[string]any { return definition("schema") }

func (conditionShape) schema() map[string]any {
	return oneOf(
		map[string]any{"type": []any{"string", "boolean"}},
		mappingSchema(expressionKeys),
		map[string]any{"type": "array", "items": mappingSchema(criterionKeys)},
	)
}

func (environmentShape) schema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"propertyNames":        map[string]any{"pattern": variablePattern.String(), "not": map[string]any{"pattern": "^ATTUNE_"}},
		"additionalProperties": map[string]any{"type": []any{"string", "number", "boolean"}},
	}
}

func (exitCodeShape) schema() map[string]any {
	return map[string]any{"type": "integer", "minimum": int64(0), "maximum": int64(highestExitCode)}
}

func (requirementShape) schema() map[string]any {
	return oneOf(typed("string"), mappingSchema(requirementKeys))
}

func (dependenciesShape) schema() map[string]any {
	return oneOf(listShape{requirementShape{}}.schema(), mappingSchema(dependencyKeys))
}

// mappingSchema is the schema of a mapping with these keys and no others.
func mappingSchema(keys []Key) map[string]any {
	properties := map[string]any{}
	var required, spelled []any
	for _, k := range keys {
		properties[k.Name] = k.property()
		for _, alias := range k.Aliases {
			property := k.property()
			property["description"] = "The same as " + k.Name + "."
			properties[alias] = property
		}
		if k.Required {
			if either := spellings(k); len(either) == 1 {
				required = append(required, k.Name)
			} else {
				spelled = append(spelled, map[string]any{"anyOf": either})
			}
		}
	}
	m := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		m["required"] = required
	}
	if len(spelled) > 0 {
		m["allOf"] = spelled
	}
	return m
}

// spellings requires a key in each of the ways in which it may be given.
func spellings(k Key) []any {
	names := append([]string{k.Name}, k.Aliases...)
	switch k.Name {
	case "trigger":
		names = append(names, "trigger_ref")
	case "trigger_types":
		names = append(names, "trigger_type")
	case "action":
		names = append(names, "action_ref", "actions")
	}
	list := make([]any, len(names))
	for i, name := range names {
		list[i] = map[string]any{"required": []any{name}}
	}
	return list
}

// property is the schema of a key, with its documentation. null means absence everywhere.
func (k Key) property() map[string]any {
	s := nullable(k.shape.schema())
	text := k.Doc
	if k.Default != "" {
		text += " Default: " + k.Default + "."
	}
	s["description"] = text
	if value, ok := k.plainDefault(); ok {
		s["default"] = value
	}
	return s
}

// plainDefault is the default as a value, where it is one rather than a description.
func (k Key) plainDefault() (any, bool) {
	switch s := k.shape.(type) {
	case flagShape:
		return k.Default == "true", k.Default == "true" || k.Default == "false"
	case choiceShape:
		_, known := s.words[k.Default]
		return k.Default, known
	case integerShape:
		return int64(0), k.Default == "0"
	case durationShape:
		_, err := parseDuration(k.Default)
		return k.Default, err == nil
	}
	return nil, false
}

// nullable allows null beside what a schema allows.
func nullable(s map[string]any) map[string]any {
	switch {
	case len(s) == 0:
		return s
	case s["enum"] != nil:
		s["enum"] = append(s["enum"].([]any), nil)
		return s
	case s["anyOf"] != nil && s["type"] == nil:
		s["anyOf"] = append(s["anyOf"].([]any), typed("null"))
		return s
	}
	switch t := s["type"].(type) {
	case string:
		s["type"] = []any{t, "null"}
	case []any:
		s["type"] = append(slices.Clone(t), "null")
	default:
		return oneOf(s, typed("null"))
	}
	return s
}
