package filechange

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func parsed(t *testing.T, parameters map[string]any) *pattern {
	t.Helper()
	text, err := json.Marshal(parameters)
	if err != nil {
		t.Fatal(err)
	}
	p, err := parsePattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWhatAPatternFinds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a.csv", "b.txt", "in/c.csv", "in/deep/d.csv", "in/deep/.e.csv", ".hidden/f.csv", "in/g.csv.tmp", "out/h.csv", "in/x,y.csv", "in/[z].csv"} {
		write(t, filepath.Join(dir, name), "x")
	}
	if err := os.Symlink(filepath.Join(dir, "in"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		glob    string
		hidden  bool
		files   string
		covered string
	}{
		{"/*.csv", false, "a.csv", "."},
		{"/a.csv", false, "a.csv", "."},
		{"/**/*.csv", false, "a.csv in/[z].csv in/c.csv in/deep/d.csv in/x,y.csv out/h.csv", ". in in/deep out"},
		{"/**/*.csv", true, ".hidden/f.csv a.csv in/[z].csv in/c.csv in/deep/.e.csv in/deep/d.csv in/x,y.csv out/h.csv", ". .hidden in in/deep out"},
		{"/*/*.csv", false, "in/[z].csv in/c.csv in/x,y.csv out/h.csv", ". in out"},
		{"/i*/deep/*", false, "in/deep/d.csv", ". in in/deep"},
		{"/in/**", false, "in/[z].csv in/c.csv in/deep/d.csv in/x,y.csv", "in in/deep"},
		{"/{in/deep/d,out/h}.csv", false, "in/deep/d.csv out/h.csv", ". in in/deep out"},
		{"/in/[cx]*.csv", false, "in/c.csv in/x,y.csv", "in"},
		{"/link/*.csv", false, "link/[z].csv link/c.csv link/x,y.csv", "link"}, // who names a link means it
		{"/none/*.csv", false, "", "none"},
	} {
		p := parsed(t, map[string]any{"glob": dir + c.glob, "hidden": c.hidden})
		var covered, files []string
		f := p.look(func(folder string) {
			rel, err := filepath.Rel(dir, folder)
			if err != nil {
				t.Fatal(err)
			}
			covered = append(covered, rel)
		})
		for file := range f.files {
			files = append(files, strings.TrimPrefix(file, dir+"/"))
		}
		slices.Sort(files)
		slices.Sort(covered)
		if diff := cmp.Diff([]string{c.files, c.covered}, []string{strings.Join(files, " "), strings.Join(covered, " ")}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.glob, diff)
		}
		if f.missing != (c.covered == "none") {
			t.Errorf("%s: missing %v", c.glob, f.missing)
		}
	}
}

func TestPatternsThatAreNone(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{}`:                                `cannot use glob: found "", expected an absolute path`,
		`{"glob": "in/*.csv"}`:              `expected an absolute path`,
		`{"glob": "/in/[a"}`:                `is no pattern`,
		`{"glob": "/in", "events": ["x"]}`:  `cannot use events: found "x", expected created, modified or deleted`,
		`{"glob": "/in", "settle": "soon"}`: `cannot use settle: found "soon"`,
		`{"glob": "/in", "settle": -1}`:     `cannot use settle: expected 0 to 1h0m0s`,
		`{"glob": "/in", "settle": 1e99}`:   `cannot use settle: expected 0 to 1h0m0s`,
		`{"glob": "/in", "settle": true}`:   `cannot use settle: expected seconds`,
		`[]`:                                `cannot read the parameters`,
	} {
		if _, err := parsePattern(json.RawMessage(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
