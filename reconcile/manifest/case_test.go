package manifest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/attune-io/attune/reconcile/manifest"
)

var update = flag.Bool("update", false, "rewrite the wanted output of testdata")

// testNow is the time of every case, against which a fire_at is past.
var testNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// TestCases runs the files of testdata. A case holds the files of one or more packs, and under "want"
// what comes of them. Its comment explains it, and may have the directives (a line each):
//
//	check              check the packs too, against each other and the packs below "in-force/"
//	strict             check strictly
//	version VERSION    the daemon's own version
//	config PACK JSON   [packs.config.PACK]
//	executable PATH    the file has its x bit
//	problem PATH TEXT  the file cannot be read
//	raw PATH           the file's content is a Go string literal
func TestCases(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("cannot find the cases: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.ToSlash(file), "testdata/"), ".txtar")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runCase(t, file)
		})
	}
}

func runCase(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c := readCase(t, archive)
	got := c.run()
	for range 3 {
		if again := readCase(t, archive).run(); again != got {
			t.Fatalf("the same files tell another thing:\n%s", cmp.Diff(got, again))
		}
	}
	if *update {
		archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return f.Name == "want" })
		archive.Files = append(archive.Files, txtar.File{Name: "want", Data: []byte(got)})
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(c.want, got); diff != "" {
		t.Errorf("findings and model (-want +got):\n%s", diff)
	}
}

// testCase is one file of testdata.
type testCase struct {
	packs, inForce map[string]map[string]manifest.File
	check          bool
	opts           manifest.CheckOptions
	want           string
}

func readCase(t *testing.T, archive *txtar.Archive) *testCase {
	t.Helper()
	c := &testCase{packs: map[string]map[string]manifest.File{}, inForce: map[string]map[string]manifest.File{}}
	for _, f := range archive.Files {
		if f.Name == "want" {
			c.want = string(f.Data)
			continue
		}
		c.add(f.Name, manifest.File{Content: f.Data})
	}
	c.opts = manifest.CheckOptions{Now: testNow, Environment: testEnvironment{c.packs}, Config: map[string]map[string]any{}}
	for line := range strings.Lines(string(archive.Comment)) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		rest := strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(line), words[0]), " "))
		c.directive(t, words, rest)
	}
	return c
}

func (c *testCase) directive(t *testing.T, words []string, rest string) {
	t.Helper()
	argument := ""
	if len(words) > 1 {
		argument = strings.TrimSpace(strings.TrimPrefix(rest, words[1]))
	}
	switch {
	case words[0] == "check" && len(words) == 1:
		c.check = true
	case words[0] == "strict" && len(words) == 1:
		c.check, c.opts.Strict = true, true
	case words[0] == "version" && len(words) == 2:
		c.opts.Version = words[1]
	case words[0] == "executable" && len(words) == 2:
		c.change(t, words[1], func(f *manifest.File) { f.Executable = true })
	case words[0] == "problem" && len(words) > 2:
		c.change(t, words[1], func(f *manifest.File) { f.Content, f.Problem = nil, argument })
	case words[0] == "raw" && len(words) == 2:
		c.change(t, words[1], func(f *manifest.File) { f.Content = unquote(t, f.Content) })
	case words[0] == "config" && len(words) > 2:
		var config map[string]any
		if err := json.Unmarshal([]byte(argument), &config); err != nil {
			t.Fatal(err)
		}
		c.opts.Config[words[1]] = config
	}
}

func unquote(t *testing.T, literal []byte) []byte {
	t.Helper()
	var text string
	if _, err := fmt.Sscanf(string(literal), "%q", &text); err != nil {
		t.Fatalf("cannot read the literal %s: %v", literal, err)
	}
	return []byte(text)
}

func (c *testCase) add(name string, f manifest.File) {
	packs := c.packs
	if rest, ok := strings.CutPrefix(name, "in-force/"); ok {
		packs, name = c.inForce, rest
	}
	folder, file, _ := strings.Cut(name, "/")
	if packs[folder] == nil {
		packs[folder] = map[string]manifest.File{}
	}
	packs[folder][file] = f
}

func (c *testCase) change(t *testing.T, name string, change func(*manifest.File)) {
	t.Helper()
	folder, file, _ := strings.Cut(name, "/")
	f, ok := c.packs[folder][file]
	if !ok {
		t.Fatalf("cannot change %s: no such file", name)
	}
	change(&f)
	c.packs[folder][file] = f
}

// run gives the findings and then the model, as text.
func (c *testCase) run() string {
	bundles := parseAll(c.packs)
	if c.check {
		c.opts.InForce = manifest.NewSet()
		for _, b := range parseAll(c.inForce) {
			c.opts.InForce.Packs[b.Folder] = b.Pack
			for _, component := range b.Components() {
				c.opts.InForce.Add(component)
			}
		}
		manifest.Check(bundles, c.opts)
	}
	var out strings.Builder
	for _, b := range bundles {
		for _, e := range b.Errors {
			fmt.Fprintf(&out, "%s: %v\n", e.Severity, e)
		}
	}
	for _, b := range bundles {
		writeModel(&out, b)
	}
	return out.String()
}

func writeModel(out *strings.Builder, b *manifest.Bundle) {
	for _, broken := range b.Broken {
		fmt.Fprintf(out, "broken %s %s/%s %s\n", broken.Kind, b.Folder, broken.File, broken.Ref)
	}
	if b.Pack != nil {
		writeJSON(out, "pack "+b.Pack.Ref, b.Pack)
	}
	for _, component := range b.Components() {
		writeJSON(out, string(component.Kind())+" "+component.Head().Ref, component)
	}
}

func writeJSON(out *strings.Builder, title string, v any) {
	text, err := manifest.Encode(v)
	if err != nil {
		text = []byte(err.Error())
	}
	fmt.Fprintf(out, "%s %s\n", title, text)
}

func parseAll(packs map[string]map[string]manifest.File) []*manifest.Bundle {
	var bundles []*manifest.Bundle
	for _, folder := range sortedNames(packs) {
		bundles = append(bundles, manifest.Parse(folder, packs[folder]))
	}
	return bundles
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// testEnvironment is a machine with bash, sh and python 3.11, and nothing else.
type testEnvironment struct {
	packs map[string]map[string]manifest.File
}

func (testEnvironment) Runtime(runtime, interpreter, versions string) error {
	switch {
	case runtime == manifest.RuntimeNode:
		return errors.New("node is not there; apt install nodejs")
	case runtime == manifest.RuntimePython && strings.Contains(versions, "3.20"):
		return fmt.Errorf("found python 3.11, expected %s", versions)
	case runtime == manifest.RuntimeShell && interpreter != "bash" && interpreter != "sh":
		return fmt.Errorf("no interpreter %q", interpreter)
	}
	return nil
}

func (e testEnvironment) EntryPoint(pack, file string, r manifest.Runner) []*manifest.Error {
	f, ok := e.packs[pack][file]
	switch {
	case !ok:
		return []*manifest.Error{{Message: "cannot find " + path.Base(file)}}
	case bytes.Contains(f.Content, []byte("ruby")) && r.RunnerType != manifest.RuntimeNative:
		return []*manifest.Error{{Severity: manifest.SeverityWarning, Message: "the shebang names ruby"}}
	}
	return nil
}

func (e testEnvironment) IgnoresStdin(pack, file string, _ manifest.Runner) bool {
	return !bytes.Contains(e.packs[pack][file].Content, []byte("read"))
}

func (testEnvironment) Schedule(triggerType string, parameters map[string]any) (string, error) {
	if parameters["timezone"] == "Nowhere" {
		return "timezone", errors.New(`found "Nowhere", expected a time zone`)
	}
	if text, ok := parameters["expression"].(string); triggerType == manifest.TriggerCron && ok && strings.Contains(text, "99") {
		return "expression", errors.New("99 is above 59")
	}
	return "", nil
}
