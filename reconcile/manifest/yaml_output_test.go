package manifest

import "testing"

func TestFormatYAML(t *testing.T) {
	t.Parallel()
	type row struct {
		Ref     string   `json:"ref"`
		Enabled bool     `json:"enabled"`
		Version string   `json:"version"`
		Date    string   `json:"date"`
		Tags    []string `json:"tags"`
		Text    string   `json:"text"`
		Count   int      `json:"count"`
		Rule    *string  `json:"rule_ref"`
	}
	have, err := FormatYAML([]row{{
		Ref: "core.echo", Enabled: true, Version: "1.0", Date: "yes", Tags: []string{},
		Text: "two\nlines\n", Count: 3,
	}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `- ref: core.echo
  enabled: true
  version: "1.0"
  date: "yes"
  tags: []
  text: |
    two
    lines
  count: 3
  rule_ref: null
`
	if string(have) != want {
		t.Errorf("have:\n%s\nwant:\n%s", have, want)
	}
}
