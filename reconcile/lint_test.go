package reconcile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLintShippedPacks(t *testing.T) {
	t.Parallel()
	report, err := Lint([]string{filepath.Join("..", "packs")}, LintOptions{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	if report.Packs < 2 || report.Components < 8 {
		t.Errorf("have %d packs with %d components, want core with its 8 and the tour", report.Packs, report.Components)
	}
	if len(report.Errors) > 0 {
		t.Errorf("the shipped packs have findings:\n%v", report.Errors)
	}
}

func TestLintOnePack(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.pack("base")
	f.write("top/pack.yaml", "ref: top\nlabel: Top\nversion: 1.0.0\n")
	f.write("top/rules/r.yaml", "name: r\ntrigger: {ref: base.tick}\naction: {ref: base.act}\n")
	report, err := Lint([]string{f.path("top")}, LintOptions{Context: []string{f.dir}})
	f.do(err)
	if len(report.Errors) > 0 || report.Packs != 1 || report.Components != 1 {
		t.Errorf("with its context: %+v", report)
	}
	report, err = Lint([]string{f.path("top")}, LintOptions{})
	f.do(err)
	if !report.Errors.HasErrors() || report.Components != 1 || report.Errors[0].File != "top/rules/r.yaml" {
		t.Errorf("without: %+v", report)
	}
	t.Run("by a relative path and a link", func(t *testing.T) {
		f.do(os.Symlink(f.path("base"), filepath.Join(filepath.Dir(f.dir), "base")))
		report, err := Lint([]string{filepath.Join(filepath.Dir(f.dir), "base", ".")}, LintOptions{})
		f.do(err)
		if report.Packs != 1 || report.Components != 4 || len(report.Errors) > 0 {
			t.Errorf("%+v", report)
		}
	})
}

func TestLintTells(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.pack("good")
	f.write("nopack/x", "x")
	f.write("nopack/actions/y", "x")
	f.write("alias/pack.yml", "ref: alias\n")
	f.write("bad/pack.yaml", "")
	f.write("bad/actions/a.yaml", "name: a\nentry_point: a.sh\nrunner_type: shell\n")
	f.do(os.Symlink("/etc/passwd", f.path("good/actions/secret")))
	report, err := Lint([]string{f.dir}, LintOptions{})
	f.do(err)
	var have []string
	for _, line := range texts(report.Errors) {
		have = append(have, strings.SplitN(line, ": cannot", 2)[0])
	}
	want := []string{
		"warning: alias", "error: bad/actions/a.yaml:2:14", "error: bad/pack.yaml:1:1", "error: good/actions/secret", "warning: nopack",
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("(-want +have):\n%s\n%v", diff, report.Errors)
	}
}

func TestLintRefusesPaths(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.write("file", "x")
	f.do(os.Mkdir(f.path("empty"), 0o755))
	f.write("bare/actions/a.yaml", "name: a\nentry_point: a.sh\n")
	for path, want := range map[string]string{
		f.path("nothing"): "it is not there",
		f.path("file"):    "it is a file",
		f.path("bare"):    "it is a pack, by its folder actions/, and has no pack.yaml: add one with ref, label and version",
		f.path("empty"):   "it is no pack",
	} {
		if _, err := Lint([]string{path}, LintOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}
