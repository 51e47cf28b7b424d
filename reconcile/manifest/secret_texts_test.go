package manifest

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is secret is hidden in every shape: a number from a configuration is one of Go, one from parameters is text.
func TestSecretTexts(t *testing.T) {
	t.Parallel()
	s := schemaOf(t, `{"plain": {}, "pin": {"type": "integer", "secret": true}, "whole": {"type": "object", "secret": true},
		"list": {"type": "array", "items": {"type": "object", "properties": {"key": {"type": "string", "secret": true}}}}}`, false)
	texts := s.SecretTexts(map[string]any{
		"plain": "seen", "pin": int64(12345678),
		"whole": map[string]any{"a": json.Number("2.50"), "b": 1.25, "c": []any{"x", true, nil}},
		"list":  []any{map[string]any{"key": "k", "name": "seen"}},
	})
	slices.Sort(texts)
	if diff := cmp.Diff([]string{"1.25", "12345678", "2.50", "k", "x"}, texts); diff != "" {
		t.Errorf("texts (-want +got):\n%s", diff)
	}
	var none *Schema
	if none.SecretTexts(map[string]any{"x": "y"}) != nil {
		t.Error("without a schema something is secret")
	}
}
