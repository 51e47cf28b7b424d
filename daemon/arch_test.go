package daemon_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "github.com/attune-io/attune"

// ranks orders the packages: each imports only packages of a lower rank. Packages of one rank never
// import each other.
var ranks = map[string]int{
	"daemon/attune":             100, // main: nothing but the call of the command line
	"daemon/faults":             100, // tests alone: it breaks whole daemons
	"daemon/cli":                90,  // people face this; it talks to a daemon by the client, or starts one
	"daemon/doctor":             85,  // looks at all that a daemon needs, also where none runs
	"daemon":                    80,  // builds everything and decides the order of stopping
	"daemon/api":                70,  // serves what exec and reconcile know
	"daemon/trace":              62,  // tells a collector what became of events
	"daemon/pace":               62,  // what strangers may ask, and how often
	"daemon/webhook":            65,  // the one door without a token of the API; the api listens for it
	"exec/sensor":               60,  // sensors never know of workers, nor workers of sensors
	"exec/worker":               60,
	"exec/rule":                 60,
	"exec/timer":                60,
	"exec/filechange":           60,
	"reconcile":                 50, // what is wanted
	"reconcile/store/storetest": 45, // a real server for the tests of all that is above
	"reconcile/store":           40, // what is recorded
	"reconcile/seal":            35, // keeps secret parameters unreadable at rest
	"reconcile/manifest":        30, // what files mean
	"exec/postgres":             20, // the private server is a child like any other
	"exec/environment":          20, // what packs need beside interpreters is made by children
	"exec/child":                10, // processes; knows nothing of Attune
}

// reserved are packages that only some may import, with the reason.
var reserved = []struct {
	prefix  string
	allowed []string // packages
	inTests bool     // whether any test may import it
	reason  string
}{
	{"github.com/jackc/pgx", []string{"reconcile/store", "reconcile/store/storetest"}, false, "only the store speaks to PostgreSQL"},
	{"database/sql", []string{"reconcile/store", "reconcile/store/storetest"}, false, "only the store speaks to PostgreSQL"},
	{"os/exec", []string{"exec/child"}, true, "only exec/child starts processes"},
	{"gopkg.in/yaml.v3", []string{"reconcile/manifest"}, false, "only manifest reads YAML, with its caps"},
	{"github.com/fsnotify/fsnotify", []string{"reconcile"}, false, "only reconcile watches files"},
}

// source is one Go file of the tree.
type source struct {
	path string // slash path from the root
	file *ast.File
}

// violations tells everything in the tree that breaks a rule of the house.
func violations(tree fs.FS) ([]string, error) {
	var sources []source
	fset := token.NewFileSet()
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || entry.Name() == "bin") {
			return fs.SkipDir
		}
		// A module of its own is no part of this house: contrib/bench compares it with others.
		if _, err := fs.Stat(tree, path.Join(name, "go.mod")); entry.IsDir() && name != "." && err == nil {
			return fs.SkipDir
		}
		if entry.IsDir() || path.Ext(name) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, name, text, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		sources = append(sources, source{name, file})
		return nil
	})
	if err != nil {
		return nil, err
	}
	var found []string
	comments := map[string][]string{}
	for _, s := range sources {
		pkg := path.Dir(s.path)
		if _, ok := ranks[pkg]; !ok {
			found = append(found, fmt.Sprintf("%s: package %s has no rank: give it one, with its reason", s.path, pkg))
			continue
		}
		isTest := strings.HasSuffix(s.path, "_test.go")
		if !isTest {
			comments[pkg] = slices.Concat(comments[pkg])
			if s.file.Doc != nil {
				comments[pkg] = append(comments[pkg], s.path)
			}
		}
		found = append(found, importViolations(s, pkg, isTest)...)
	}
	for pkg, files := range comments {
		if len(files) != 1 {
			found = append(found, fmt.Sprintf("%s: %d package comments, one is wanted %v", pkg, len(files), files))
		}
	}
	slices.Sort(found)
	return found, nil
}

func importViolations(s source, pkg string, isTest bool) []string {
	var found []string
	for _, spec := range s.file.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return append(found, fmt.Sprintf("%s: %v", s.path, err))
		}
		for _, r := range reserved {
			isPrefix := name == r.prefix || strings.HasPrefix(name, r.prefix+"/")
			if isPrefix && !slices.Contains(r.allowed, pkg) && !(isTest && r.inTests) {
				found = append(found, fmt.Sprintf("%s: imports %s: %s", s.path, name, r.reason))
			}
		}
		inner, ok := strings.CutPrefix(name, module+"/")
		if !ok {
			continue
		}
		// A test may use the server for tests whatever its package's rank.
		if isTest && (inner == "reconcile/store/storetest" || inner == pkg) {
			continue
		}
		if ranks[inner] >= ranks[pkg] {
			found = append(found, fmt.Sprintf("%s: imports %s, which is not below %s", s.path, inner, pkg))
		}
		if pkg == "exec/child" {
			found = append(found, fmt.Sprintf("%s: imports %s: exec/child knows nothing of Attune", s.path, inner))
		}
	}
	if pkg == "exec/child" {
		for _, spec := range s.file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			first, _, _ := strings.Cut(name, "/")
			if strings.Contains(first, ".") && !strings.HasPrefix(name, "golang.org/x/sys/") && !isTest {
				found = append(found, fmt.Sprintf("%s: imports %s: exec/child is for the standard library and x/sys", s.path, name))
			}
		}
	}
	return found
}

func TestHouse(t *testing.T) {
	t.Parallel()
	found, err := violations(os.DirFS(filepath.Join("..")))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range found {
		t.Error(line)
	}
}

// TestHouseSeesViolations plants each kind of violation, so that the rules are known to bite.
func TestHouseSeesViolations(t *testing.T) {
	t.Parallel()
	const comment = "// Package x is planted.\n"
	cases := map[string]struct {
		files fstest.MapFS
		want  string
	}{
		"upward edge": {
			fstest.MapFS{"reconcile/x.go": {Data: []byte(comment + "package reconcile\nimport _ \"" + module + "/exec/sensor\"\n")}},
			"imports exec/sensor, which is not below reconcile",
		},
		"sideways edge": {
			fstest.MapFS{"exec/sensor/x.go": {Data: []byte(comment + "package sensor\nimport _ \"" + module + "/exec/worker\"\n")}},
			"imports exec/worker, which is not below exec/sensor",
		},
		"no package comment": {
			fstest.MapFS{"reconcile/x.go": {Data: []byte("package reconcile\n")}},
			"0 package comments",
		},
		"two package comments": {
			fstest.MapFS{
				"reconcile/x.go": {Data: []byte(comment + "package reconcile\n")},
				"reconcile/y.go": {Data: []byte(comment + "package reconcile\n")},
			},
			"2 package comments",
		},
		"pgx outside store": {
			fstest.MapFS{"exec/rule/x.go": {Data: []byte(comment + "package rule\nimport _ \"github.com/jackc/pgx/v5\"\n")}},
			"only the store speaks to PostgreSQL",
		},
		"pgx in a test": {
			fstest.MapFS{"exec/rule/x_test.go": {Data: []byte("package rule\nimport _ \"github.com/jackc/pgx/v5\"\n")}},
			"only the store speaks to PostgreSQL",
		},
		"os/exec outside child": {
			fstest.MapFS{"exec/worker/x.go": {Data: []byte(comment + "package worker\nimport _ \"os/exec\"\n")}},
			"only exec/child starts processes",
		},
		"yaml outside manifest": {
			fstest.MapFS{"daemon/cli/x.go": {Data: []byte(comment + "package cli\nimport _ \"gopkg.in/yaml.v3\"\n")}},
			"only manifest reads YAML",
		},
		"Go files in exec": {
			fstest.MapFS{"exec/x.go": {Data: []byte(comment + "package exec\n")}},
			"package exec has no rank",
		},
		"child imports the house": {
			fstest.MapFS{"exec/child/x.go": {Data: []byte(comment + "package child\nimport _ \"github.com/google/uuid\"\n")}},
			"exec/child is for the standard library",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found, err := violations(c.files)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(found, func(line string) bool { return strings.Contains(line, c.want) }) {
				t.Errorf("want a violation with %q, have %q", c.want, found)
			}
		})
	}
}
