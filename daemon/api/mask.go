package api

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// mask stands for a value that is not to be seen.
const mask = "***"

// masked gives the parameters without the values of those that the action's schema calls secret. What
// was encrypted when it was queued is masked in the database already, so that it stays so when the
// action, and its schema, are gone.
func masked(catalog *store.Catalog, e *store.Execution) json.RawMessage {
	r := catalog.Actions[e.Action]
	if r == nil {
		return e.Parameters
	}
	return maskSecrets(r.Spec.(*manifest.Action).Parameters, e.Parameters)
}

// maskedPayload does the same for an event, by its trigger's payload_schema. The event itself is as it
// came, for rules to read.
func maskedPayload(catalog *store.Catalog, e *store.Event) json.RawMessage {
	r := catalog.Triggers[e.Trigger]
	if r == nil {
		return e.Payload
	}
	return maskSecrets(r.Spec.(*manifest.Trigger).PayloadSchema, e.Payload)
}

// maskSecrets masks what the schema calls secret in an object; the whole where it cannot be read.
func maskSecrets(schema *manifest.Schema, object json.RawMessage) json.RawMessage {
	if len(object) == 0 || len(schema.Secrets()) == 0 {
		return object
	}
	const hidden = `"` + mask + `"`
	value, err := decode(object)
	if err != nil {
		return json.RawMessage(hidden)
	}
	values, ok := value.(map[string]any)
	if !ok {
		return json.RawMessage(hidden)
	}
	values, err = schema.ReplaceSecrets(values, func(string, any) (any, error) { return mask, nil })
	if err != nil {
		return json.RawMessage(hidden)
	}
	encoded, err := json.Marshal(values)
	if err != nil {
		return json.RawMessage(hidden)
	}
	return encoded
}

// maskedParts gives the terms of a rule's condition without the values that the trigger's payload_schema
// calls secret. Whether a term holds is no secret.
func maskedParts(catalog *store.Catalog, trigger string, parts []manifest.Part) []manifest.Part {
	r := catalog.Triggers[trigger]
	if r == nil {
		return orEmpty(parts)
	}
	schema := r.Spec.(*manifest.Trigger).PayloadSchema
	if len(schema.Secrets()) == 0 {
		return orEmpty(parts)
	}
	shown := slices.Clone(parts)
	for i := range shown {
		part := &shown[i]
		part.Reads = slices.Clone(part.Reads)
		hidden := false
		for j := range part.Reads {
			if readsSecret(schema, part.Reads[j]) {
				part.Reads[j].Value, hidden = mask, true
			}
		}
		if _, truth := part.Value.(bool); hidden && !truth && part.Value != nil {
			part.Value = mask
		}
	}
	return orEmpty(shown)
}

// readPointer makes a JSON pointer of the steps of an expression's path: .name, ["any name"], [0].
func readPointer(steps string) (pointer string, ok bool) {
	for steps != "" {
		step := ""
		switch {
		case steps[0] == '.':
			end := strings.IndexAny(steps[1:], ".[") + 1
			if end == 0 {
				end = len(steps)
			}
			step, steps = steps[1:end], steps[end:]
		case strings.HasPrefix(steps, `["`):
			quoted, err := strconv.QuotedPrefix(steps[1:])
			if err != nil {
				return "", false
			}
			if step, err = strconv.Unquote(quoted); err != nil {
				return "", false
			}
			steps = strings.TrimPrefix(steps[1+len(quoted):], "]")
		case steps[0] == '[':
			step, steps, ok = strings.Cut(steps[1:], "]")
			if !ok {
				return "", false
			}
		default:
			return "", false
		}
		pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(step)
	}
	return pointer, true
}

// readsSecret says whether a value that an expression looked at is secret, or has something secret inside.
func readsSecret(schema *manifest.Schema, read manifest.Read) bool {
	rest, inPayload := strings.CutPrefix(read.Path, "event.payload")
	if !inPayload || read.Value == nil {
		return false
	}
	pointer, ok := readPointer(rest)
	if !ok || schema.IsSecret(pointer) {
		return true
	}
	switch read.Value.(type) {
	case map[string]any, []any:
		first, _, _ := strings.Cut(strings.TrimPrefix(pointer, "/"), "/")
		return first == "" || schema.HoldsSecret(first)
	}
	return false
}
