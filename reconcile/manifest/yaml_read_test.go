package manifest_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
)

func TestReadYAML(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		want any
		err  string
	}{
		{"a: 1\nb: [x, yes, 2020-01-01, 0.5, null]\n", map[string]any{"a": int64(1), "b": []any{"x", "yes", "2020-01-01", 0.5, nil}}, ""},
		{"- 1\n- true\n", []any{int64(1), true}, ""},
		{"just text", "just text", ""},
		{"", nil, "line 1, column 1: it is empty"},
		{"a: [1", nil, "line 1, column"},
		{"a: \xff", nil, "line 1, column 4: byte 0xff is not UTF-8"},
		{"a: 1\na: 2\n", nil, `line 2, column 1: cannot use key "a" twice`},
		{"a: 1\n---\nb: 2\n", nil, "cannot read a second document"},
	}
	for _, test := range tests {
		got, err := manifest.ReadYAML([]byte(test.text))
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%q: got %v, want an error with %q", test.text, err, test.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", test.text, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.text, diff)
		}
	}
}
