package manifest_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/attune-io/attune/reconcile/manifest"
)

// BenchmarkParse reads and checks a pack of 100 actions and 100 rules that use them.
func BenchmarkParse(b *testing.B) {
	files := map[string]manifest.File{
		"pack.yaml":       {Content: []byte("ref: p\nversion: 1.0.0\n")},
		"triggers/t.yaml": {Content: []byte("type: custom\npayload_schema: {count: {type: integer}}\n")},
	}
	for i := range 100 {
		files[fmt.Sprintf("actions/a%d.sh", i)] = manifest.File{}
		files[fmt.Sprintf("actions/a%d.yaml", i)] = manifest.File{Content: []byte(`label: An action
description: Does what actions do
runner_type: shell
parameters:
  message: {type: string, required: true, description: What to say}
  count: {type: integer, default: 1, minimum: 0}
output_schema:
  lines: {type: array, items: {type: string}}
timeout: 30s
retry: {max_attempts: 3, delay: 1}
tags: [one, two]
`)}
		files[fmt.Sprintf("rules/r%d.yaml", i)] = manifest.File{Content: fmt.Appendf(nil, `trigger: t
when: event.payload.count > %d
action:
  ref: a%d
  parameters: {message: "count is {{ event.payload.count }}"}
`, i, i)}
	}
	b.ReportAllocs()
	for b.Loop() {
		bundle := manifest.Parse("p", files)
		manifest.Check([]*manifest.Bundle{bundle}, manifest.CheckOptions{Now: testNow})
		if len(bundle.Errors) > 0 {
			b.Fatal(bundle.Errors)
		}
	}
}

// BenchmarkFit is what each execution of a rule costs: defaults and the check of its parameters.
func BenchmarkFit(b *testing.B) {
	var doc any
	if err := json.Unmarshal([]byte(`{"n": {"type": "integer", "required": true}, "text": {"type": "string", "default": "x"}, "list": {"type": "array", "items": {"type": "string"}}}`), &doc); err != nil {
		b.Fatal(err)
	}
	schema, errs := manifest.NewSchema(doc, true)
	if len(errs) > 0 {
		b.Fatal(errs)
	}
	for name, parameters := range map[string]map[string]any{
		"number": {"n": 5.0}, "plain": {"n": int64(5), "list": []any{"a", "b"}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if errs := schema.ValidateUnresolved(schema.ApplyDefaults(parameters), nil); len(errs) > 0 {
					b.Fatal(errs)
				}
			}
		})
	}
}
