package api

import (
	"encoding/json"

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
