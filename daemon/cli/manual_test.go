package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// visible gives the commands that people see.
func visible(cmd *cobra.Command) []*cobra.Command {
	var found []*cobra.Command
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			found = append(append(found, sub), visible(sub)...)
		}
	}
	return found
}

func newRoot(t *testing.T) *cobra.Command {
	t.Helper()
	return (&command{sys: System{Getenv: func(string) string { return "" }}}).root()
}

// Every verb shows how it is used, by commands that it would take.
func TestExamples(t *testing.T) {
	t.Parallel()
	for _, cmd := range visible(newRoot(t)) {
		if cmd.HasSubCommands() {
			continue
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: expected a short description without a full stop, found %q", cmd.CommandPath(), cmd.Short)
		}
		if cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
			continue
		}
		own := false
		for line := range strings.SplitSeq(cmd.Example, "\n") {
			words := calls(line)
			if words == nil {
				t.Errorf("%s: example %q does not call attune", cmd.CommandPath(), line)
				continue
			}
			root := newRoot(t)
			found, rest, err := root.Find(words)
			if err != nil {
				t.Errorf("%s: example %q: %v", cmd.CommandPath(), line, err)
				continue
			}
			own = own || found.CommandPath() == cmd.CommandPath()
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%s: example %q: %v", cmd.CommandPath(), line, err)
			} else if found.Args != nil {
				if err := found.Args(found, found.Flags().Args()); err != nil {
					t.Errorf("%s: example %q: %v", cmd.CommandPath(), line, err)
				}
			}
		}
		if !own {
			t.Errorf("%s: none of its examples calls it", cmd.CommandPath())
		}
	}
}

// calls gives the words behind attune in the part of a pipeline that calls it; nil: none does.
func calls(line string) []string {
	for _, words := range pipeline(line) {
		for len(words) > 0 && strings.Contains(words[0], "=") {
			words = words[1:]
		}
		if len(words) > 0 && words[0] == "attune" {
			return words[1:]
		}
	}
	return nil
}

// pipeline splits an example as a shell does, as far as examples go.
func pipeline(line string) [][]string {
	var parts [][]string
	var words []string
	var word strings.Builder
	inWord := false
	var quote rune
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ':
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		case r == '|' || r == '>' || r == '<' || r == ';':
			parts, words = append(parts, words), nil
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return append(parts, words)
}

// Every command that people see has a page, and whatever its texts hold is no request of roff's.
func TestManual(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man1")
	root := newRoot(t)
	root.Long += "\n.SH \"not a heading\"\n'nor \\this -x"
	if err := (manual{version: Version{Version: "1.2.3", Date: "2026-01-31T23:30:00-02:00"}}).write(dir, root); err == nil {
		t.Error("a folder that is not there was written into")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (manual{version: Version{Version: "1.2.3", Date: "2026-01-31T23:30:00-02:00"}}).write(dir, root); err != nil {
		t.Fatal(err)
	}
	want := []string{"attune.1"}
	for _, cmd := range visible(root) {
		want = append(want, pageName(cmd)+".1")
	}
	slices.Sort(want)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
	page, err := os.ReadFile(filepath.Join(dir, "attune.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`.TH "ATTUNE" 1 "2026\-02\-01" "attune 1.2.3" "Attune"`,
		`\&.SH "not a heading"`,
		`\&'nor \ethis \-x`,
		`.BR attune\-pack (1)`,
	} {
		if !strings.Contains(string(page), "\n"+line+"\n") && !strings.HasPrefix(string(page), line+"\n") {
			t.Errorf("expected line %q in:\n%s", line, page)
		}
	}
}

// The bill of materials names what was replaced by what replaces it, and says the same each time.
func TestBillOfMaterials(t *testing.T) {
	t.Parallel()
	info := &debug.BuildInfo{
		GoVersion: "go1.26.0", Main: debug.Module{Path: "github.com/attune-io/attune", Version: "(devel)"},
		Deps: []*debug.Module{
			{Path: "example.org/a", Version: "v1.0.0", Sum: "h1:x"},
			{Path: "example.org/b", Version: "v1.0.0", Replace: &debug.Module{Path: "example.org/c", Version: "v2.0.0"}},
		},
	}
	bill := newBill(info, Version{Version: "0.2.0", Date: "2026-01-31T00:00:00Z"})
	text, err := json.Marshal(bill)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"metadata":{"timestamp":"2026-01-31T00:00:00Z",` +
		`"component":{"bom-ref":"pkg:golang/github.com/attune-io/attune@0.2.0","type":"application","name":"github.com/attune-io/attune","version":"0.2.0",` +
		`"purl":"pkg:golang/github.com/attune-io/attune@0.2.0","licenses":[{"license":{"id":"Apache-2.0"}}]}},"components":[` +
		`{"bom-ref":"pkg:golang/std@1.26.0","type":"library","name":"std","version":"1.26.0","purl":"pkg:golang/std@1.26.0"},` +
		`{"bom-ref":"pkg:golang/example.org/a@v1.0.0","type":"library","name":"example.org/a","version":"v1.0.0","purl":"pkg:golang/example.org/a@v1.0.0","properties":[{"name":"go:sum","value":"h1:x"}]},` +
		`{"bom-ref":"pkg:golang/example.org/c@v2.0.0","type":"library","name":"example.org/c","version":"v2.0.0","purl":"pkg:golang/example.org/c@v2.0.0"}],` +
		`"dependencies":[{"ref":"pkg:golang/github.com/attune-io/attune@0.2.0","dependsOn":["pkg:golang/std@1.26.0","pkg:golang/example.org/a@v1.0.0","pkg:golang/example.org/c@v2.0.0"]}]}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("bill (-want +got):\n%s", diff)
	}
}

// What a command's usage line asks for is offered: nobody adds a verb whose words a shell cannot complete.
func TestCompletionCoversUsage(t *testing.T) {
	t.Parallel()
	known := []string{"REF", "REF|FILE", "REF…", "ID", "ID…", "NAME=VALUE…|@FILE|-", "NAME=VALUE…", "TRIGGER", "RULE", "REVISION", "FROM", "TO", "PATH…", "FILE", "UNIT", "event|execution", "ARGUMENT…"}
	// These are names that do not exist yet, or that nobody can list.
	known = append(known, "NAME", "KIND", "bash|zsh|fish", "--event", "|", "--payload", "--since", "AGE")
	for _, cmd := range visible(newRoot(t)) {
		_, usage, _ := strings.Cut(cmd.Use, " ")
		for word := range strings.FieldsSeq(optional.ReplaceAllString(usage, "")) {
			if !slices.Contains(known, word) {
				t.Errorf("%s: completion does not know what %q is", cmd.CommandPath(), word)
			}
		}
	}
}

// inGuides finds commands of Attune in a guide: lines of its blocks, and spans of code.
var inGuides = regexp.MustCompile("(?m)^(?:    |\\$ |.*\\| )(attune .*)$|`(attune [^`]+)`")

// Guides name commands and flags that there are.
func TestGuidesNameWhatThereIs(t *testing.T) {
	t.Parallel()
	for _, guide := range []string{
		"README.md", "SECURITY.md", "contrib/README.md", "contrib/prometheus/README.md", "packs/README.md", "packs/core/README.md", "packs/tour/README.md",
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", guide))
		if err != nil {
			t.Fatal(err)
		}
		found, root := 0, newRoot(t)
		for _, match := range inGuides.FindAllStringSubmatch(string(text), -1) {
			line, _, _ := strings.Cut(match[1]+match[2], "   #")
			line, _, _ = strings.Cut(strings.TrimSuffix(line, "\\"), " #")
			words := strings.Fields(strings.NewReplacer("…", "", "|", " ").Replace(line))[1:]
			if len(words) == 0 {
				continue
			}
			found++
			cmd, rest, err := root.Find(words)
			if err != nil || cmd == root && !strings.HasPrefix(words[0], "-") {
				t.Errorf("%s: %q names no command: %v", guide, line, err)
				continue
			}
			if cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
				t.Errorf("%s: %q: %s has no %q", guide, line, cmd.CommandPath(), rest[0])
			}
			for _, word := range rest {
				name, isFlag := strings.CutPrefix(word, "--")
				name, _, _ = strings.Cut(name, "=")
				if isFlag && name != "" && cmd.Flags().Lookup(name) == nil && cmd.InheritedFlags().Lookup(name) == nil && root.PersistentFlags().Lookup(name) == nil && name != "help" && name != "version" {
					t.Errorf("%s: %q: %s has no --%s", guide, line, cmd.CommandPath(), name)
				}
			}
		}
		t.Logf("%s names %d commands", guide, found)
	}
}
