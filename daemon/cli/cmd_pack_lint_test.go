package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/attune-io/attune/reconcile/manifest"
)

// packTree writes files below a new folder.
func packTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLintExits(t *testing.T) {
	t.Parallel()
	dir := packTree(t, map[string]string{
		"good/pack.yaml": "ref: good\nversion: 1.0.0\n",
		"warn/pack.yaml": "ref: warn\nversion: 1.0.0\nicno: x\n",
		"bad/pack.yaml":  "ref: bad\nversion: 1\n",
		"file":           "",
	})
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{0, "1 pack, 0 components: 0 errors, 0 warnings", []string{"good"}},
		{0, "0 errors, 1 warning", []string{"warn"}},
		{1, "1 error, 0 warnings", []string{"warn", "--strict"}},
		{1, `bad/pack.yaml:2:10: cannot use version: found 1, expected a version in quotes; write "1.0.0"`, []string{"bad"}},
		{1, "3 packs, 0 components: 1 error, 1 warning", []string{""}},
		{1, "2 packs, 0 components: 1 error, 0 warnings", []string{"good", "bad", "good"}},
		{2, "cannot lint", []string{"nowhere"}},
		{2, "it is a file", []string{"file"}},
		{2, "cannot print as \"gihtub\": expected table, json, yaml or github", []string{"good", "-o", "gihtub"}},
	} {
		args := []string{"pack", "lint", "--no-runtimes"}
		for _, arg := range c.args {
			if !strings.HasPrefix(arg, "-") && arg != "gihtub" {
				arg = filepath.Join(dir, arg)
			}
			args = append(args, arg)
		}
		code, stdout, stderr := offline(t, args...)
		if code != c.code || !strings.Contains(stdout+stderr, c.want) {
			t.Errorf("%v: exit %d, expected %d and %s\n%s%s", c.args, code, c.code, c.want, stdout, stderr)
		}
	}
	_, stdout, _ := offline(t, "pack", "lint", "--no-runtimes", "-o", "json", filepath.Join(dir, "bad"))
	var report struct {
		Packs  int
		Errors manifest.Errors
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || report.Packs != 1 || len(report.Errors) != 1 || report.Errors[0].Line != 2 {
		t.Errorf("%v: %s", err, stdout)
	}
}

func TestLintAnnotates(t *testing.T) {
	t.Parallel()
	dir := packTree(t, map[string]string{
		"p/pack.yaml":        "ref: p\nversion: 1.0.0\n",
		"p/actions/x.yaml":   "name: x\ntimeot: 5\n",
		"p/actions/x.sh":     "echo\n",
		"nopack/actions/x.y": "",
	})
	code, stdout, stderr := offline(t, "pack", "lint", "--no-runtimes", "-o", "github", dir)
	want := "::warning file=" + dir + "/nopack,title=nopack::cannot load this folder as a pack: it has no pack.yaml; add one with ref, label and version, or move the folder away\n" +
		"::warning file=" + dir + "/p/actions/x.yaml,line=2,col=1,title=p.x::cannot use key \"timeot\": unknown; did you mean \"timeout\"?\n" +
		"1 pack, 1 component: 0 errors, 2 warnings\n"
	if code != exitDone || stdout != want {
		t.Errorf("exit %d: %s\nfound\n%s\nexpected\n%s", code, stderr, stdout, want)
	}
	e := &manifest.Error{Place: manifest.Place{File: "a,b:c"}, Severity: manifest.SeverityError, Message: "50 %\r\nmore: x, y"}
	if have, want := annotation(e, "a,b:c"), "::error file=a%2Cb%3Ac::50 %25%0D%0Amore: x, y"; have != want {
		t.Errorf("found %s, expected %s", have, want)
	}
}

func TestLintTellsWhatTheMachineLacks(t *testing.T) {
	t.Parallel()
	dir := packTree(t, map[string]string{
		"p/pack.yaml":      "ref: p\nversion: 1.0.0\n",
		"p/actions/x.yaml": "name: x\nruntime_version: \">= 99\"\n",
		"p/actions/x.sh":   "echo\n",
	})
	code, stdout, _ := offline(t, "pack", "lint", dir)
	if code != exitFailed || !strings.Contains(stdout, "p/actions/x.yaml:2:18: cannot run this action: ") {
		t.Errorf("exit %d: %s", code, stdout)
	}
	if code, stdout, _ = offline(t, "pack", "lint", "--no-runtimes", dir); code != exitDone {
		t.Errorf("exit %d: %s", code, stdout)
	}
}

func TestPackSchema(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := offline(t, "pack", "schema", "rule")
	shipped, err := os.ReadFile("../../contrib/schema/rule.json")
	if code != exitDone || err != nil || stdout != string(shipped) {
		t.Errorf("exit %d, %v: %s", code, err, stderr)
	}
	var all map[string]map[string]any
	if code, stdout, _ = offline(t, "pack", "schema"); code != exitDone || json.Unmarshal([]byte(stdout), &all) != nil || len(all) != 5 {
		t.Errorf("exit %d: %d kinds", code, len(all))
	}
	if code, _, stderr = offline(t, "pack", "schema", "rlue"); code != exitUsage || !strings.Contains(stderr, "attune pack schema rule") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	dir := filepath.Join(t.TempDir(), "schema")
	if code, _, stderr = offline(t, "pack", "schema", "--directory", dir); code != exitDone {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if written, err := os.ReadFile(filepath.Join(dir, "rule.json")); err != nil || string(written) != string(shipped) {
		t.Errorf("what was written is not what is shipped: %v", err)
	}
}
