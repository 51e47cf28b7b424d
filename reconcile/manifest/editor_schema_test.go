package manifest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const schemaFolder = "../../contrib/schema"

func allKinds() []Kind { return append([]Kind{KindPack}, ComponentKinds()...) }

// The schemas in contrib/schema are those that the tables of keys give; UPDATE_SCHEMA=1 rewrites them.
func TestEditorSchemasAreCurrent(t *testing.T) {
	t.Parallel()
	for _, kind := range allKinds() {
		want, err := EditorSchema(kind)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(schemaFolder, string(kind)+".json")
		if os.Getenv("UPDATE_SCHEMA") != "" {
			if err := os.MkdirAll(schemaFolder, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(have, want) {
			t.Errorf("%s is not what the keys of the model say (%v); run: UPDATE_SCHEMA=1 go test ./reconcile/manifest -run EditorSchemas", file, err)
		}
	}
}

// editorSchemas compiles the schemas, each against the meta-schema of 2020-12.
func editorSchemas(t *testing.T) map[Kind]*jsonschema.Schema {
	t.Helper()
	compiled := map[Kind]*jsonschema.Schema{}
	for _, kind := range allKinds() {
		text, err := EditorSchema(kind)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		c := jsonschema.NewCompiler()
		c.UseLoader(jsonschema.SchemeURLLoader{}) // it must need no other file
		if err := c.AddResource("x:///"+string(kind), doc); err != nil {
			t.Fatal(err)
		}
		if compiled[kind], err = c.Compile("x:///" + string(kind)); err != nil {
			t.Fatal(err)
		}
	}
	return compiled
}

// editorFindings gives what an editor would say of a manifest; ok is false where it is no YAML.
func editorFindings(t *testing.T, s *jsonschema.Schema, content []byte) (problem error, ok bool) {
	t.Helper()
	v, errs := readYAML("x", content)
	if v == nil || errs.HasErrors() {
		return nil, false
	}
	// Through JSON, as an editor has it.
	text, err := json.Marshal(v.plain())
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc), true
}

func kindOf(path string) (Kind, bool) {
	_, inside, _ := strings.Cut(path, "/")
	if inside == packFile {
		return KindPack, true
	}
	return manifestKind(inside)
}

func TestEditorSchemasTakeShippedManifests(t *testing.T) {
	t.Parallel()
	schemas := editorSchemas(t)
	files, err := filepath.Glob("../../packs/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../../packs/*/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range append(files, more...) {
		path, err := filepath.Rel("../../packs", file)
		if err != nil {
			t.Fatal(err)
		}
		kind, ok := kindOf(filepath.ToSlash(path))
		if !ok {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		seen++
		if problem, _ := editorFindings(t, schemas[kind], content); problem != nil {
			t.Errorf("%s: %v", file, problem)
		}
	}
	const atLeast = 15
	if seen < atLeast {
		t.Errorf("found %d manifests, expected at least %d", seen, atLeast)
	}
}

// structural are the findings that an editor can have too: of shape, not of meaning.
var structural = regexp.MustCompile(
	`^cannot use \S+: found .*, expected|^cannot use key "[^"]*": unknown|^cannot use (\S+): it has no |names no (trigger|action)$`)

// beyondEditors are findings of that form which no schema can have.
var beyondEditors = regexp.MustCompile(strings.Join([]string{
	`expected a regular expression`, `a default has to fit`, `expected a reference to something that is there`,
	`^cannot use (\S+): found "[^"]*": expected a range`, `expected a path below`, `at least the window`,
	`a parameter named "type"`, `expected a runtime`, `expected \{field, operator`, `expected a ref$`, `expected lower-case`,
	`found "[0-9]+d", expected at most 292 years`, `expected a range like`, `found a pre-release`, `the address`,
}, "|"))

// What parsing accepts without a word an editor accepts too, and what it refuses for its shape an editor
// marks too.
func TestEditorSchemasAgreeWithParsing(t *testing.T) {
	t.Parallel()
	schemas := editorSchemas(t)
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("cannot find the cases: %v", err)
	}
	accepted, refused := 0, 0
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		packs := map[string]map[string]File{}
		for _, f := range archive.Files {
			name := strings.TrimPrefix(f.Name, "in-force/")
			folder, inside, found := strings.Cut(name, "/")
			if !found || name != f.Name {
				continue
			}
			if packs[folder] == nil {
				packs[folder] = map[string]File{}
			}
			packs[folder][inside] = File{Content: f.Data, Executable: true}
		}
		for folder, contents := range packs {
			b := Parse(folder, contents)
			for inside, f := range contents {
				kind, ok := kindOf(folder + "/" + inside)
				if !ok || bytes.Contains(archive.Comment, []byte("raw ")) {
					continue
				}
				problem, ok := editorFindings(t, schemas[kind], f.Content)
				if !ok {
					continue
				}
				told, shape := findingsOf(b, folder+"/"+inside)
				switch {
				case len(told) == 0 && problem != nil:
					t.Errorf("%s: %s/%s is accepted, but not by the schema: %v", file, folder, inside, problem)
				case shape != "" && problem == nil:
					t.Errorf("%s: %s/%s validates, but is refused: %s", file, folder, inside, shape)
				case shape != "":
					refused++
				case len(told) == 0:
					accepted++
				}
			}
		}
	}
	const enough = 50
	if accepted < enough || refused < enough {
		t.Errorf("found %d accepted and %d refused manifests, expected at least %d of each", accepted, refused, enough)
	}
}

// findingsOf gives what was told of a file, and the first finding about its shape.
func findingsOf(b *Bundle, file string) (told []string, shape string) {
	for _, e := range b.Errors {
		if e.File != file {
			continue
		}
		told = append(told, e.Error())
		if structural.MatchString(e.Message) && !beyondEditors.MatchString(e.Error()) && shape == "" {
			shape = e.Error()
		}
	}
	return told, shape
}

// Every key of the tables, in every spelling, stands in a case, and is known where it stands: what is
// documented is read.
func TestEveryKeyHasACase(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	given := map[string]bool{}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			kind, ok := kindOf(strings.TrimPrefix(f.Name, "in-force/"))
			if !ok {
				continue
			}
			if v, _ := readYAML("x", f.Data); v != nil {
				noteKeys(given, string(kind), tableOf(kind), v)
			}
		}
	}
	var missing []string
	for _, kind := range allKinds() {
		missing = append(missing, notGiven(given, string(kind), tableOf(kind))...)
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		t.Errorf("these keys stand in no case of testdata:\n%s", strings.Join(missing, "\n"))
	}
}

func noteKeys(given map[string]bool, path string, keys []Key, v *value) {
	for _, item := range v.items {
		noteKeys(given, path, keys, item)
	}
	for _, f := range v.fields {
		for _, k := range keys {
			if k.Name == f.key || slices.Contains(k.Aliases, f.key) {
				given[path+"."+f.key] = true
				if sub := subKeys(k.shape); sub != nil {
					noteKeys(given, path+"."+k.Name, sub, f.value)
				}
			}
		}
	}
}

func notGiven(given map[string]bool, path string, keys []Key) []string {
	var missing []string
	for _, k := range keys {
		for _, name := range keyNames([]Key{k}) {
			if !given[path+"."+name] {
				missing = append(missing, path+"."+name)
			}
		}
		missing = append(missing, notGiven(given, path+"."+k.Name, subKeys(k.shape))...)
	}
	return missing
}
