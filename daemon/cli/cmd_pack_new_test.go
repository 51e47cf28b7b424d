package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/attune-io/attune/reconcile"
)

// offline runs a command without a daemon and gives its exit code and output.
func offline(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(t.Context(), System{
		Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		Getenv: func(string) string { return "" }, Environ: []string{"HOME=" + t.TempDir()},
		Version: Version{Version: "dev"},
	})
	return code, out.String(), errs.String()
}

// subsets gives every selection of the words, the empty one first.
func subsets(words []string) [][]string {
	all := [][]string{nil}
	for _, word := range words {
		for _, some := range slices.Clip(all) {
			all = append(all, append(slices.Clip(some), word))
		}
	}
	return all
}

// Whatever a new pack is made of, it has no error and no warning: every choice of sensors and rules, and
// every action with every rule.
func TestNewPacksLintClean(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	actions := [][]string{nil, newActions}
	for _, one := range newActions {
		actions = append(actions, []string{one})
	}
	n := 0
	write := func(a, s, r []string) {
		p := &newPack{Pack: fmt.Sprintf("p%d", n), actions: a, sensors: s, rules: r}
		n++
		if err := p.check(); err != nil {
			t.Fatal(err)
		}
		c := &command{sys: System{Stdout: new(bytes.Buffer)}, output: outputTable}
		if err := c.writePack(dir, p); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range subsets(newSensors) {
		for j, r := range subsets(newRules) {
			write(actions[(i+j)%len(actions)], s, r)
		}
	}
	for _, a := range actions {
		for _, r := range newRules {
			write(a, nil, []string{r})
		}
	}
	report, err := reconcile.Lint([]string{dir}, reconcile.LintOptions{Strict: true, Context: []string{"../../packs/core"}})
	if err != nil {
		t.Fatal(err)
	}
	if report.Packs != n || len(report.Errors) > 0 {
		t.Errorf("%d of %d packs, with findings:\n%v", report.Packs, n, report.Errors[:min(len(report.Errors), 20)])
	}
}

func TestNewPackIsWhole(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "not", "yet")
	code, stdout, stderr := offline(t, "pack", "new", "my-pack", "--directory", dir, "-o", "json")
	if code != exitDone {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	var report struct {
		Ref, Directory string
		Files          []string
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || report.Ref != "my-pack" || report.Directory != filepath.Join(dir, "my-pack") {
		t.Fatalf("%v: %s", err, stdout)
	}
	var have []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			rel, _ := filepath.Rel(report.Directory, path)
			have = append(have, rel)
		}
		return err
	})
	want := []string{"README.md", "actions/hello.sh", "actions/hello.yaml", "pack.yaml", "rules/hello_often.yaml"}
	if err != nil || strings.Join(have, " ") != strings.Join(want, " ") || strings.Join(report.Files, " ") != strings.Join(want, " ") {
		t.Errorf("%v: found %q, reported %q, expected %q", err, have, report.Files, want)
	}
	content, err := os.ReadFile(filepath.Join(report.Directory, "pack.yaml"))
	if err != nil || !strings.Contains(string(content), "label: My pack\n") {
		t.Errorf("%v: %s", err, content)
	}
	info, err := os.Stat(filepath.Join(report.Directory, "actions/hello.sh"))
	if err != nil || info.Mode().Perm()&0o100 == 0 {
		t.Errorf("the script has no x bit: %v, %v", info, err)
	}
}

func TestNewPackNeverOverwrites(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	taken := func(name string, make func(path string) error) {
		path := filepath.Join(dir, name)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		code, _, stderr := offline(t, "pack", "new", name, "--directory", dir)
		if code != exitFailed || !strings.Contains(stderr, "never overwritten") {
			t.Errorf("%s: exit %d: %s", name, code, stderr)
		}
	}
	taken("folder", func(path string) error { return os.Mkdir(path, 0o755) })
	taken("file", func(path string) error { return os.WriteFile(path, []byte("mine"), 0o600) })
	taken("link", func(path string) error { return os.Symlink("nowhere", path) })
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("something was left behind: %v, %v", entries, err)
	}
	if err := moveInto(t.TempDir(), filepath.Join(dir, "folder")); err == nil {
		t.Error("an empty folder was replaced")
	}
}

func TestNewPackTellsMistakes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, c := range []struct{ args, want string }{
		{"My.Pack", `cannot create pack "My.Pack": expected lower-case letters, digits, _ and -`},
		{"My.Pack", "Try `attune pack new my_pack`."},
		{"...", `cannot create pack "..."`},
		{"", "cannot create pack"},
		{"a --action pyton", "Did you mean --action python?"},
		{"a --sensor node", `cannot write a sensor "node": expected shell, python`},
		{"a --rule tiemr", "Did you mean --rule timer?"},
		{"a --rule timer --rule timer", "cannot write two rules"},
		{"a b", "expected one name"},
	} {
		words := strings.Split(c.args, " ")
		code, _, stderr := offline(t, append([]string{"pack", "new", "--directory", dir}, words...)...)
		if code != exitUsage || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: exit %d: %s\nexpected %s", c.args, code, stderr, c.want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("something was written: %v, %v", entries, err)
	}
}
