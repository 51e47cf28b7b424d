package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
)

func TestErrorText(t *testing.T) {
	t.Parallel()
	tests := []struct {
		err  manifest.Error
		want string
	}{
		{manifest.Error{Message: "m"}, "m"},
		{manifest.Error{Place: manifest.Place{File: "p/pack.yaml"}, Message: "m"}, "p/pack.yaml: m"},
		{manifest.Error{Place: manifest.Place{File: "p/pack.yaml", Line: 7}, Message: "m"}, "p/pack.yaml:7: m"},
		{manifest.Error{Place: manifest.Place{File: "p/pack.yaml", Line: 7, Col: 3}, Message: "m", Hint: "h"}, "p/pack.yaml:7:3: m; h"},
	}
	for _, test := range tests {
		if got := test.err.Error(); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestErrorsSortAndText(t *testing.T) {
	t.Parallel()
	at := func(file string, line, col int, severity manifest.Severity, message string) *manifest.Error {
		return &manifest.Error{Place: manifest.Place{File: file, Line: line, Col: col}, Severity: severity, Message: message}
	}
	errs := manifest.Errors{
		at("b", 1, 1, manifest.SeverityError, "x"),
		at("a", 10, 1, manifest.SeverityError, "x"),
		at("a", 9, 2, manifest.SeverityWarning, "y"),
		at("a", 9, 2, manifest.SeverityError, "x"),
		at("a", 9, 1, manifest.SeverityError, "z"),
	}
	errs.Sort()
	want := "a:9:1: z\na:9:2: x\nwarning: a:9:2: y\na:10:1: x\nb:1:1: x"
	if diff := cmp.Diff(want, errs.Error()); diff != "" {
		t.Errorf("sorted findings (-want +got):\n%s", diff)
	}
	if !errs.HasErrors() || errs[2:3].HasErrors() || manifest.Errors(nil).HasErrors() {
		t.Error("HasErrors does not tell errors from warnings")
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	keys := []string{"enabled", "entry_point", "name", "parameters", "tags", "ref"}
	tests := map[string]string{
		"enbled": "enabled", "enabeld": "enabled", "Enabled": "enabled", "paramters": "parameters",
		"entrypoint": "entry_point", "nmae": "name", "tag": "tags", "refs": "ref",
		"frobnicate": "", "x": "", "": "", "rf": "", strings.Repeat("enabled", 100): "",
	}
	for word, want := range tests {
		if got := manifest.Nearest(word, keys); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
	if got := manifest.Nearest("abcx", []string{"abcz", "abcy"}); got != "abcy" {
		t.Errorf("of two that are equally near got %q, want the first by name", got)
	}
}

// A file of nonsense tells the most important of it, and that there is more.
func TestFindingsAreLimited(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("name: t\n")
	for i := range 3000 {
		fmt.Fprintf(&text, "key_%d: x\n", i)
	}
	text.WriteString("type: nothing\n")
	b := manifest.Parse("p", map[string]manifest.File{
		"pack.yaml":       {Content: []byte("ref: p\nversion: 1.0.0\n")},
		"triggers/t.yaml": {Content: []byte(text.String())},
	})
	if len(b.Errors) != 101 {
		t.Errorf("got %d findings, want 100 and one for the rest", len(b.Errors))
	}
	if !b.Errors.HasErrors() || len(b.Broken) != 1 {
		t.Error("the error is lost among the warnings")
	}
	if want := "p/triggers/t.yaml: cannot list all findings of this file: 2901 more"; b.Errors[0].Error() != want {
		t.Errorf("got %q, want %q", b.Errors[0], want)
	}
}
