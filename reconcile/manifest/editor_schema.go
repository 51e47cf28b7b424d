package manifest

import (
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"time"
)

// EditorSchema gives the JSON Schema 2020-12 of a kind of manifest, made from the table of its keys, for
// editors that complete and check while one types. It refers to nothing outside itself.
//
// It is stricter than Parse in one thing: an unknown key, of which Parse only warns, does not validate.
func EditorSchema(kind Kind) ([]byte, error) {
	s := mappingSchema(tableOf(kind))
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = editorTitles[kind]
	s["patternProperties"] = map[string]any{"^x-": map[string]any{}}
	s["$defs"] = editorDefinitions(kind)
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(s); err != nil {
		return nil, errorf("cannot encode the schema of %s: %v", kind, err)
	}
	return b.Bytes(), nil
}

var editorTitles = map[Kind]string{
	KindPack:    "pack.yaml: a pack of Attune",
	KindAction:  "actions/*.yaml: an action of Attune",
	KindTrigger: "triggers/*.yaml: a trigger of Attune",
	KindSensor:  "sensors/*.yaml: a sensor of Attune",
	KindRule:    "rules/*.yaml: a rule of Attune",
}

// What a duration looks like to an editor: a number of seconds, or numbers with units.
const (
	durationText = `^\+?([0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|[0-9]+d|([0-9]+d)?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`
	sizeText     = `^[0-9]+\s*(B|[KMGT]i?B)$`
)

// editorDefinitions are the parts that a kind refers to.
func editorDefinitions(kind Kind) map[string]any {
	defs := map[string]any{
		"ref": map[string]any{"type": "string", "pattern": `^([a-z0-9][a-z0-9_-]*\.)?[A-Za-z0-9_][A-Za-z0-9_.-]*$`},
		"duration": oneOf(
			map[string]any{"type": "number", "minimum": 1e-9, "maximum": math.MaxInt64 / int64(time.Second)},
			map[string]any{"type": "string", "pattern": durationText},
		),
		"pause": oneOf(
			map[string]any{"type": "number", "minimum": int64(0), "maximum": math.MaxInt64 / int64(time.Second)},
			map[string]any{"type": "string", "pattern": durationText},
		),
		"size": oneOf(
			map[string]any{"type": "integer", "minimum": int64(1)},
			map[string]any{"type": "string", "pattern": sizeText},
		),
		"schema":   schemaOfSchemas(),
		"property": propertySchema(),
	}
	used := map[Kind][]string{
		KindPack:    {"schema", "property"},
		KindAction:  {"duration", "pause", "size", "schema", "property"},
		KindTrigger: {"duration", "schema", "property"},
		KindSensor:  {"ref", "duration", "size", "schema", "property"},
		KindRule:    {"ref", "duration"},
	}[kind]
	for name := range defs {
		if !slices.Contains(used, name) {
			delete(defs, name)
		}
	}
	return defs
}

// schemaOfSchemas is what stands under parameters and their like: a JSON Schema, or a map of names to
// schemas.
func schemaOfSchemas() map[string]any {
	isWhole := []any{map[string]any{
		"required":   []any{"type"},
		"properties": map[string]any{"type": map[string]any{"type": []any{"string", "array"}}},
	}}
	for _, key := range []string{"$ref", "oneOf", "anyOf", "allOf"} {
		isWhole = append(isWhole, map[string]any{
			"required": []any{key}, "properties": map[string]any{key: map[string]any{"type": []any{"string", "array"}}},
		})
	}
	return map[string]any{
		"type": "object",
		"if":   map[string]any{"anyOf": isWhole},
		"then": definition("property"),
		"else": map[string]any{"additionalProperties": definition("property")},
	}
}

// Documentation of the keywords of a schema that people meet most.
var keywordDocs = map[string]string{
	"type":                 "The type, or a list of types. Default: any.",
	"description":          "What it is for, in a sentence.",
	"default":              "What absence means. It satisfies required.",
	"required":             "true: the value has to be there. In a JSON Schema also a list of names.",
	"enum":                 "The values that are allowed.",
	"format":               "A format such as date-time, uri, email, ipv4, uuid; it is checked.",
	"secret":               "The value is masked everywhere, and given to no environment by default.",
	"immutable":            "No caller may give another value than the default.",
	"literal":              "No template may fill it: no event has a say in it.",
	"position":             "The place of the parameter where parameters are listed.",
	"pattern":              "A regular expression (RE2).",
	"additionalProperties": "Whether, or with which schema, other properties are allowed.",
	"x-identity":           "false: it is no part of what tells one trigger instance from another.",
}

// propertySchema is a JSON Schema as Attune takes it: the keywords of 2020-12, our own, and required as
// a flag.
func propertySchema() map[string]any {
	types := []any{}
	for _, t := range schemaTypes {
		types = append(types, t)
	}
	sub := definition("property")
	properties := map[string]any{}
	for _, key := range plainKeywords {
		properties[key] = map[string]any{}
	}
	for _, key := range schemaKeywords {
		properties[key] = definition("property")
	}
	for _, key := range schemaListKeywords {
		properties[key] = map[string]any{"type": "array", "items": sub}
	}
	for _, key := range schemaMapKeywords {
		properties[key] = map[string]any{"type": []any{"object", "null"}, "additionalProperties": sub}
	}
	count := func() map[string]any { return map[string]any{"type": "integer", "minimum": int64(0)} }
	for _, key := range countKeywords {
		properties[key] = count()
	}
	for _, key := range numberKeywords {
		properties[key] = typed("number")
	}
	for _, key := range textKeywords {
		properties[key] = typed("string")
	}
	for _, key := range flagKeywords {
		properties[key] = typed("boolean")
	}
	properties["multipleOf"] = map[string]any{"type": "number", "exclusiveMinimum": int64(0)}
	for _, key := range listKeywords {
		properties[key] = typed("array")
	}
	properties["$ref"] = map[string]any{"type": "string", "pattern": "^#"}
	properties["required"] = oneOf(typed("boolean"), map[string]any{"type": "array", "items": typed("string")}, typed("null"))
	properties["type"] = oneOf(map[string]any{"enum": types}, map[string]any{"type": "array", "items": map[string]any{"enum": types}, "minItems": int64(1)})
	for key, text := range keywordDocs {
		documented := map[string]any{"description": text}
		maps.Copy(documented, object(properties[key]))
		properties[key] = documented
	}
	return map[string]any{
		"type":                 []any{"object", "boolean", "null"},
		"properties":           properties,
		"patternProperties":    map[string]any{"^x-": map[string]any{}},
		"additionalProperties": false,
	}
}
