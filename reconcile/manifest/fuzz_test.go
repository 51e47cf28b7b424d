package manifest_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/attune-io/attune/reconcile/manifest"
)

// fuzzPaths are the manifests that a fuzzed content may be.
var fuzzPaths = []string{
	"actions/x.yaml", "triggers/x.yaml", "sensors/x.yaml", "rules/x.yaml", "pack.yaml", "config.schema.yaml",
}

// FuzzParse holds that no content of a manifest makes Parse or Check panic, that what they tell is
// bounded and the same each time, and that what they accept survives being stored.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(files) == 0 {
		f.Fatalf("cannot find the seeds: %v", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, seed := range archive.Files {
			for i, path := range fuzzPaths {
				folder, _, _ := strings.Cut(path, "x.yaml")
				if strings.Contains(seed.Name, folder) {
					f.Add(uint8(i), seed.Data)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, content []byte) {
		path := fuzzPaths[int(which)%len(fuzzPaths)]
		first, bundle := fuzzOnce(path, content)
		second, _ := fuzzOnce(path, content)
		if diff := cmp.Diff(first, second); diff != "" {
			t.Fatalf("the same bytes tell another thing:\n%s", diff)
		}
		const most = 250 // 100 and one for each of the two manifests, and what Check adds
		if len(bundle.Errors) > most {
			t.Fatalf("%d findings", len(bundle.Errors))
		}
		accepted := len(bundle.Components())
		if bundle.Pack == nil && !bundle.Errors.HasErrors() {
			t.Fatalf("a pack is held without an error: %v", bundle.Errors)
		}
		if len(bundle.Broken) > 0 && !bundle.Errors.HasErrors() {
			t.Fatalf("%v are refused without an error, %d accepted", bundle.Broken, accepted)
		}
		roundTrip(t, bundle)
	})
}

func fuzzOnce(path string, content []byte) (string, *manifest.Bundle) {
	files := map[string]manifest.File{
		"pack.yaml": {Content: []byte("ref: p\nversion: 1.0.0\n")}, "actions/x.sh": {Executable: true}, "sensors/x.sh": {},
		"actions/a.sh": {}, "actions/a.yaml": {Content: []byte("parameters: {x: {type: integer}}\n")},
		"triggers/t.yaml": {Content: []byte("payload_schema: {x: {type: integer}}\n")},
	}
	files[path] = manifest.File{Content: content}
	b := manifest.Parse("p", files)
	manifest.Check([]*manifest.Bundle{b}, manifest.CheckOptions{Now: testNow})
	var out strings.Builder
	fmt.Fprintln(&out, b.Errors)
	writeModel(&out, b)
	return out.String(), b
}

// Files that were made to hurt are answered quickly, whatever the answer is.
func TestHostileFiles(t *testing.T) {
	t.Parallel()
	const size = manifest.MaxFileSize / 4 // enough for quadratic work to take minutes
	repeat := func(s string) []byte { return bytes.Repeat([]byte(s), size/len(s)) }
	wide := bytes.NewBufferString("x: &a [1]\ny: [")
	for wide.Len() < size-10 {
		wide.WriteString("*a, ")
	}
	wide.WriteString("*a]\n")
	hostile := map[string][]byte{
		"open lists":          repeat("["),
		"open mappings":       repeat("{"),
		"open mappings keys":  repeat("{a: "),
		"list items":          repeat("- "),
		"question marks":      repeat("? "),
		"anchors":             repeat("&a "),
		"many anchors":        repeat("- &a b\n"),
		"quotes":              repeat("\""),
		"one long word":       repeat("a"),
		"one long line":       append([]byte("name: "), repeat("a b ")[:size-10]...),
		"comments":            repeat("#\n"),
		"comments after keys": repeat("a: b # c\n"),
		"blank lines":         repeat("\n"),
		"spaces":              repeat(" "),
		"tabs":                repeat("\t"),
		"documents":           repeat("---\n"),
		"duplicate keys":      repeat("a: b\n"),
		"deep blocks":         deepBlocks(size),
		"many aliases":        wide.Bytes(),
		"merges":              append([]byte("x: &a {b: c}\n"), repeat("<<: *a\n")[:size-20]...),
		"digits":              append([]byte("x: "), repeat("9")[:size-10]...),
		"too large":           bytes.Repeat([]byte("a"), manifest.MaxFileSize+1),
		"tags":                repeat("!a "),
		"block scalars":       repeat("a: |\n b\n"),
		"carriage returns":    repeat("\r"),
		"unclosed templates":  repeat("a: {{ b\n"),
		"templates in a line": append(append([]byte("x: ["), repeat("{{a}}, ")[:size-20]...), ']'),
		"texts in a line":     append(append([]byte("x: ["), repeat("abc, ")[:size-20]...), ']'),
		"colons":              repeat(": "),
		"percent":             repeat("%a\n"),
	}
	for name, content := range hostile {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			done := make(chan *manifest.Bundle, 1)
			go func() {
				done <- manifest.Parse("p", map[string]manifest.File{
					"pack.yaml": {Content: []byte("version: 1.0.0\n")}, "triggers/x.yaml": {Content: content},
				})
			}()
			// Each takes some 0.2 s; the race detector and a busy machine take many times that, and what
			// this is to catch takes longer.
			const limit = time.Minute
			select {
			case b := <-done:
				if len(b.Triggers) != 0 || !b.Errors.HasErrors() {
					t.Errorf("accepted: %v", b.Errors)
				}
			case <-time.After(limit):
				t.Fatal("not answered in time")
			}
		})
	}
}

func deepBlocks(size int) []byte {
	var b bytes.Buffer
	for depth := 0; b.Len() < size-depth-10; depth++ {
		fmt.Fprintf(&b, "%*sa:\n", depth, "")
	}
	return b.Bytes()
}
