package manifest

import (
	"strings"
	"testing"
)

func TestMasked(t *testing.T) {
	t.Parallel()
	schema := schemaOf(t, `{"type": "object", "properties": {
		"token": {"type": "string", "secret": true, "default": "hunter2"},
		"deep": {"type": "object", "properties": {"key": {"type": "string", "secret": true}}},
		"open": {"type": "string", "default": "seen"}}}`, false)
	values := func() map[string]any {
		return map[string]any{"token": "hunter2", "open": "seen", "deep": map[string]any{"key": "hunter2"}}
	}
	known := func(kind Kind, ref string) *Schema {
		if kind == KindAction && ref == "p.act" || kind == KindTrigger && ref == "p.tick" {
			return schema
		}
		return nil
	}
	tests := map[string]any{
		"pack":    &Pack{Ref: "p", ConfSchema: schema, Config: values()},
		"action":  &Action{Parameters: schema, Header: Header{Label: "seen"}},
		"trigger": &Trigger{ParametersSchema: schema},
		"sensor":  &Sensor{Parameters: schema, Config: values()},
		"rule":    &Rule{Actions: []Use{{Ref: "p.act", Parameters: values()}}},
		"on":      &Rule{Trigger: Use{Ref: "p.tick", Parameters: values()}},
	}
	for name, v := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := MaskedJSON(v, known)
			if err != nil {
				t.Fatal(err)
			}
			if text := string(got); strings.Contains(text, "hunter2") || !strings.Contains(text, "seen") || !strings.Contains(text, Mask) {
				t.Errorf("found %s", text)
			}
			raw, err := Encode(v)
			if err != nil || !strings.Contains(string(raw), "hunter2") {
				t.Errorf("the model itself was changed: %s, %v", raw, err)
			}
		})
	}
	reference := &Sensor{Parameters: schema, Config: map[string]any{"token": "{{ secret.api }}"}}
	if got, err := MaskedJSON(reference, nil); err != nil || !strings.Contains(string(got), "secret.api") {
		t.Errorf("a reference is no secret: %s, %v", got, err)
	}
	if got := MaskedValues(values(), schema); got["token"] != Mask || got["open"] != "seen" {
		t.Errorf("found %v", got)
	}
}

func TestMaskedSchema(t *testing.T) {
	t.Parallel()
	schema := schemaOf(t, `{"type": "object", "properties": {
		"token": {"type": "string", "secret": true, "default": "hunter2"}, "open": {"type": "string", "default": "seen"}}}`, false)
	shown, err := Encode(schema.Masked())
	if err != nil || strings.Contains(string(shown), "hunter2") || !strings.Contains(string(shown), "seen") {
		t.Errorf("found %s, %v", shown, err)
	}
	if got := schema.ApplyDefaults(nil)["token"]; got != "hunter2" {
		t.Errorf("the schema itself was changed: %v", got)
	}
	var none *Schema
	if none.Masked() != nil {
		t.Error("no schema has something to mask")
	}
}
