package manifest

import (
	"encoding/json"
	"slices"
	"strings"
)

// Mask stands for a value that is not to be seen.
const Mask = "***"

// TakenBy gives the schema of what a component that a rule names takes: an action's parameters, or a trigger's.
// nil for one that is not known.
type TakenBy func(kind Kind, ref string) *Schema

// Masked gives the normal form of a pack or a component as a tree of JSON, for people to see: in place
// of what a schema calls secret it has Mask. What is a template stays, since it is not the value.
// Without takes (nil), and of what that does not know, nothing that a rule gives is masked.
func Masked(v any, takes TakenBy) (any, error) {
	data, err := Encode(v)
	if err != nil {
		return nil, err
	}
	var decoded any
	if err := unmarshal(data, &decoded); err != nil {
		return nil, errorf("cannot decode %T: %v", v, err)
	}
	tree := object(decoded)
	switch v := v.(type) {
	case *Pack:
		maskValues(tree, "config", v.ConfSchema)
		maskSchema(tree["conf_schema"])
	case *Action:
		maskSchema(tree["parameters"])
	case *Trigger:
		maskSchema(tree["parameters_schema"])
	case *Sensor:
		maskValues(tree, "config", v.Parameters)
		maskSchema(tree["parameters"])
	case *Rule:
		if takes == nil {
			break
		}
		if use := object(tree["trigger"]); use != nil {
			maskValues(use, "parameters", takes(KindTrigger, v.Trigger.Ref))
		}
		uses, _ := tree["actions"].([]any)
		for i, use := range uses {
			if i < len(v.Actions) {
				maskValues(object(use), "parameters", takes(KindAction, v.Actions[i].Ref))
			}
		}
	}
	return decoded, nil
}

// Masked gives the schema without the values that it names itself for its secret parts, for people to
// see.
func (s *Schema) Masked() *Schema {
	if len(s.Secrets()) == 0 {
		return s
	}
	raw, _ := deepCopy(s.raw()).(map[string]any)
	maskSchema(raw)
	data, err := canonicalJSON(raw)
	if err != nil {
		return nil
	}
	shown := new(Schema)
	if err := shown.UnmarshalJSON(data); err != nil {
		return nil
	}
	return shown
}

// MaskedValues gives a copy of values without those that the schema calls secret.
func MaskedValues(values map[string]any, schema *Schema) map[string]any {
	tree := map[string]any{"values": deepCopy(values)}
	maskValues(tree, "values", schema)
	masked, _ := tree["values"].(map[string]any)
	return masked
}

// maskValues masks, in what stands under the key, what the schema calls secret.
func maskValues(tree map[string]any, key string, schema *Schema) {
	values := object(tree[key])
	if values == nil || schema == nil {
		return
	}
	masked, err := schema.ReplaceSecrets(values, func(_ string, value any) (any, error) {
		if text, ok := value.(string); ok && strings.Contains(text, "{{") {
			return value, nil
		}
		return Mask, nil
	})
	if err != nil {
		masked = map[string]any{} // nothing is shown rather than too much
	}
	tree[key] = masked
}

// HoldsLiteral says whether a value that a rule gives an action is written as it is, or has a part that is. A text
// with a template is a reference, or is made from the event.
func HoldsLiteral(value any) bool {
	switch v := value.(type) {
	case nil:
		return false
	case string:
		return v != "" && !strings.Contains(v, "{{")
	case []any:
		return slices.ContainsFunc(v, HoldsLiteral)
	case map[string]any:
		for _, item := range v {
			if HoldsLiteral(item) {
				return true
			}
		}
		return false
	default:
		return true
	}
}

// maskSchema masks the values that a schema itself names for its secret parts.
func maskSchema(node any) {
	raw := object(node)
	if raw == nil {
		return
	}
	walkSchemas(raw, "", func(node map[string]any, _ string) {
		if secret, _ := node["secret"].(bool); !secret {
			return
		}
		for key := range node {
			if slices.Contains([]string{"default", "const", "enum", "examples"}, key) {
				node[key] = Mask
			}
		}
	})
}

// HiddenTexts lists the values that Masked hides, as they are written where they are texts or numbers.
func HiddenTexts(v any, takes TakenBy) []string {
	data, err := Encode(v)
	if err != nil {
		return nil
	}
	var whole any
	if err := unmarshal(data, &whole); err != nil {
		return nil
	}
	masked, err := Masked(v, takes)
	if err != nil {
		return nil
	}
	var texts []string
	hidden(whole, masked, &texts)
	return texts
}

func hidden(whole, masked any, texts *[]string) {
	if masked == Mask && whole != Mask {
		leaves(whole, texts)
		return
	}
	switch w := whole.(type) {
	case map[string]any:
		for key, item := range w {
			hidden(item, object(masked)[key], texts)
		}
	case []any:
		list, _ := masked.([]any)
		for i, item := range w {
			if i < len(list) {
				hidden(item, list[i], texts)
			}
		}
	}
}

// leaves are the texts and numbers of a tree.
func leaves(v any, texts *[]string) {
	switch v := v.(type) {
	case string:
		*texts = append(*texts, v)
	case json.Number:
		*texts = append(*texts, v.String())
	case map[string]any:
		for _, item := range v {
			leaves(item, texts)
		}
	case []any:
		for _, item := range v {
			leaves(item, texts)
		}
	}
}

// MaskedJSON is Masked as JSON.
func MaskedJSON(v any, takes TakenBy) (json.RawMessage, error) {
	tree, err := Masked(v, takes)
	if err != nil {
		return nil, err
	}
	return Encode(tree)
}
