package reconcile

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// hostileFile names, in the environment of a process of its own, the manifest that it is to lint.
const hostileFile = "ATTUNE_TEST_HOSTILE_FILE"

// hostile are manifests that were made to fill memory or to take for ever, with what is said of them.
func hostile() map[string]struct{ content, want string } {
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 30; i++ {
		fmt.Fprintf(&bomb, "a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), i-1)
	}
	var deep, keys, many strings.Builder
	const levels = 20_000
	deep.WriteString("x: " + strings.Repeat("[", levels) + strings.Repeat("]", levels) + "\n")
	for i := range 1_000_000 {
		fmt.Fprintf(&keys, "k%d: 1\n", i)
	}
	for i := 0; many.Len() < 1_000_000; i++ {
		fmt.Fprintf(&many, "k%d: 1\n", i)
	}
	return map[string]struct{ content, want string }{
		"billion laughs":        {bomb.String(), "nodes, each use of an anchor counted"},
		"20,000 levels":         {deep.String(), "more than 64 levels deep"},
		"50 MB":                 {strings.Repeat("# nothing but a comment, again and again\n", 50_000_000/41), "at most 1048576 are read"},
		"1,000,000 keys":        {keys.String(), "at most 1048576 are read"},
		"keys up to the bound":  {many.String(), "lines and commas, expected at most 40000"},
		"fewer keys":            {strings.Repeat("- {a: 1}\n", 39_000), "nodes, each use of an anchor counted"},
		"one text to the bound": {"description: " + strings.Repeat("a", 1_000_000) + "\n", ""},
	}
}

// Whatever a manifest holds, reading it takes less than 50 MB more than reading a small one. Each is linted
// by a process of its own, whose peak the kernel knows. (That it is quick is TestHostileFiles's.)
func TestHostileManifestsAreBounded(t *testing.T) {
	if file := os.Getenv(hostileFile); file != "" {
		lintHostile(t, file)
		return
	}
	t.Parallel()
	small := t.TempDir() + "/small"
	writeHostile(t, small, "description: nothing special\n")
	_, base := runHostile(t, small)
	for name, c := range hostile() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir() + "/p"
			writeHostile(t, folder, c.content)
			said, peak := runHostile(t, folder)
			if c.want == "" && said != "" || !strings.Contains(said, c.want) {
				t.Errorf("found %q, expected %q", said, c.want)
			}
			limit := int64(50_000) // KiB
			if raceEnabled {
				limit *= 8 // the race detector keeps up to eight times as much beside
			}
			if peak-base > limit {
				t.Errorf("took %d KiB more than a small manifest, expected at most %d", peak-base, limit)
			}
		})
	}
}

func writeHostile(t *testing.T, folder, content string) {
	t.Helper()
	for name, text := range map[string]string{"pack.yaml": "version: 1.0.0\n", "triggers/x.yaml": content} {
		if err := os.MkdirAll(folder+"/triggers", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(folder+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// runHostile lints in another process, and gives what was said and the peak of its memory in KiB.
func runHostile(t *testing.T, folder string) (said string, peak int64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHostileManifestsAreBounded$", "-test.v")
	cmd.Env = append(os.Environ(), hostileFile+"="+folder)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range bytes.Lines(out) {
		text := strings.TrimSpace(string(line))
		if rest, ok := strings.CutPrefix(text, "peak: "); ok {
			peak, _ = strconv.ParseInt(rest, 10, 64)
		}
		if rest, ok := strings.CutPrefix(text, "said: "); ok {
			said += rest
		}
	}
	if peak == 0 {
		t.Fatalf("no peak in %s", out)
	}
	return said, peak
}

func lintHostile(t *testing.T, folder string) {
	t.Helper()
	report, err := Lint([]string{folder}, LintOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range report.Errors {
		fmt.Fprintf(os.Stdout, "said: %v\n", e)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			fmt.Fprintf(os.Stdout, "peak: %s\n", strings.Fields(rest)[0])
		}
	}
}

// Each link to a folder makes a path more to all that is in it.
func TestHostileLinksAreBounded(t *testing.T) {
	t.Parallel()
	const links, each = 60, 1000
	f := newTree(t)
	f.pack("one")
	for i := range each {
		f.write(fmt.Sprintf("one/lib/data/%d", i), "")
	}
	for i := range links {
		f.do(os.Symlink("data", f.path(fmt.Sprintf("one/lib/link%d", i))))
	}
	report, err := Lint([]string{f.dir}, LintOptions{})
	f.do(err)
	found := strings.Join(texts(report.Errors), "\n")
	if !strings.Contains(found, "error: one: cannot load the pack: its links to folders make 61067 paths of 1067 files and links, at most 50000 are followed") {
		t.Errorf("found %s", found)
	}
	for i := range links / 4 {
		f.remove(fmt.Sprintf("one/lib/link%d", i))
	}
	if report, err = Lint([]string{f.dir}, LintOptions{}); err != nil || report.Errors.HasErrors() {
		t.Errorf("found %v, %v", texts(report.Errors), err)
	}

	var files []file
	for i := range 2 * links * each / 100 {
		files = append(files, file{path: fmt.Sprintf("data/%06d", i), digest: "x"})
	}
	for i := range each {
		files = append(files, file{path: fmt.Sprintf("link%06d", i), link: "data", to: "data"})
	}
	if n := len(reachable(files)); n > maxPackPaths {
		t.Errorf("%d paths are kept", n)
	}
}
