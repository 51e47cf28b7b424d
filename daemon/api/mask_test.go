package api

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	doc, err := decode([]byte(`{
		"user": {"type": "string"}, "password": {"type": "string", "secret": true}, "a/b": {"type": "string", "secret": true},
		"list": {"type": "array", "items": {"type": "object", "properties": {"key": {"type": "string", "secret": true}, "id": {"type": "integer"}}}},
		"map": {"type": "object", "additionalProperties": {"type": "string", "secret": true}}, "absent": {"type": "string", "secret": true}}`))
	if err != nil {
		t.Fatal(err)
	}
	schema, errs := manifest.NewSchema(doc, false)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	given := json.RawMessage(`{"user": "u", "password": "p", "list": [{"key": "k", "id": 1}, {"id": 12345678901234567890}], "map": {"x": "1", "y": "2"}, "a/b": "s"}`)
	want := `{"a/b":"***","list":[{"id":1,"key":"***"},{"id":12345678901234567890}],"map":{"x":"***","y":"***"},"password":"***","user":"u"}`
	catalog := &store.Catalog{
		Actions:  map[string]*store.Record{"p.a": {Spec: &manifest.Action{Parameters: schema}}},
		Triggers: map[string]*store.Record{"p.t": {Spec: &manifest.Trigger{PayloadSchema: schema}}},
	}
	for name, got := range map[string]json.RawMessage{
		"execution": masked(catalog, &store.Execution{Action: "p.a", Parameters: given}),
		"event":     maskedPayload(catalog, &store.Event{Trigger: "p.t", Payload: given}),
	} {
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	read := func(path string, value any) manifest.Read { return manifest.Read{Path: path, Value: value} }
	parts := []manifest.Part{
		{Source: "a", Value: true, Reads: []manifest.Read{read("event.payload.password", "p"), read("event.payload.user", "u")}},
		{Source: "b", Value: "p", Reads: []manifest.Read{read("event.payload.password", "p")}},
		{Source: "c", Value: "u", Reads: []manifest.Read{read("event.payload.user", "u"), read("event.payload.absent", nil), read("rule.ref", "p.r")}},
		{Source: "d", Value: "x", Reads: []manifest.Read{read(`event.payload["a/b"]`, "s"), read("event.payload.list", []any{}), read("event.payload", map[string]any{})}},
	}
	shown := maskedParts(catalog, "p.t", parts)
	wanted := []manifest.Part{
		{Source: "a", Value: true, Reads: []manifest.Read{read("event.payload.password", mask), read("event.payload.user", "u")}},
		{Source: "b", Value: mask, Reads: []manifest.Read{read("event.payload.password", mask)}},
		{Source: "c", Value: "u", Reads: []manifest.Read{read("event.payload.user", "u"), read("event.payload.absent", nil), read("rule.ref", "p.r")}},
		{Source: "d", Value: mask, Reads: []manifest.Read{read(`event.payload["a/b"]`, mask), read("event.payload.list", mask), read("event.payload", mask)}},
	}
	if diff := cmp.Diff(wanted, shown); diff != "" {
		t.Errorf("parts (-want +got):\n%s", diff)
	}
	for steps, want := range map[string]string{"": "", ".a.b": "/a/b", `["x.y"].z`: "/x.y/z", `.l[0]["~"]`: "/l/0/~0", `["a\"]b"]`: "/a\"]b"} {
		if got, ok := readPointer(steps); !ok || got != want {
			t.Errorf("%s is %s, %v, want %s", steps, got, ok, want)
		}
	}
	for _, steps := range []string{"x", `["a`, "[0"} {
		if got, ok := readPointer(steps); ok {
			t.Errorf("%s is %s", steps, got)
		}
	}
	if parts[1].Value != "p" || len(maskedParts(catalog, "p.gone", parts)) != 4 {
		t.Error("the evaluation itself was changed")
	}
	// Of what is gone nothing is known; what cannot be read is not shown.
	if got := masked(catalog, &store.Execution{Action: "p.gone", Parameters: given}); string(got) != string(given) {
		t.Errorf("an action that is gone: %s", got)
	}
	for _, broken := range []string{`{"password": `, `["p"]`} {
		if got := maskSecrets(schema, json.RawMessage(broken)); string(got) != `"***"` {
			t.Errorf("%s: %s", broken, got)
		}
	}
}
