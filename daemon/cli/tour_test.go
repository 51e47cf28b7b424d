package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/attune-io/attune/daemon/api"
)

// call runs the command with these words, with no daemon to talk to.
func call(t *testing.T, words ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(t.Context(), System{
		Args: words, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		Getenv: func(name string) string {
			if name == "ATTUNE_URL" {
				return "unix:///nowhere/attune.sock"
			}
			return ""
		},
	})
	return out.String(), errs.String(), code
}

// mistyped is a word with two letters swapped.
func mistyped(word string) string {
	for i := len(word) - 2; i >= 0; i-- {
		if word[i] != word[i+1] {
			return word[:i] + word[i+1:i+2] + word[i:i+1] + word[i+2:]
		}
	}
	return word + "x"
}

// What every command has to have, whoever adds it.
func TestEveryCommand(t *testing.T) {
	t.Parallel()
	lists, bulk := 0, 0
	c := &command{sys: System{Getenv: func(string) string { return "" }}}
	for _, cmd := range visible(c.root()) {
		path, own := cmd.CommandPath(), strings.Fields(cmd.CommandPath())[1:]
		for line := range strings.Lines(cmd.Long + "\n" + cmd.UsageString()) {
			if width := lipgloss.Width(strings.TrimRight(line, "\n")); width > helpWidth {
				t.Errorf("%s --help: a line of %d columns: %s", path, width, line)
			}
		}
		nearNames(t, c, cmd, own)
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			_, completed := cmd.GetFlagCompletionFunc(f.Name)
			if f.Value.Type() != "bool" && completed == slices.Contains(fileFlags(), f.Name) && f.Name != "state" {
				t.Errorf("%s --%s: completed %t, expected files or something else to be offered", path, f.Name, completed)
			}
		})
		if _, isList := cmd.Annotations[listing]; isList {
			lists++
			isComplete(t, c, cmd)
		}
		switch cmd.Name() {
		case "cancel", "rerun", "enable", "disable":
			bulk++
			if cmd.Parent().Name() == "pack" {
				continue // they are named: a pack is what others are filtered by
			}
			if cmd.Flags().Lookup("yes") == nil || cmd.Flags().Lookup("pack") == nil {
				t.Errorf("%s takes no filter, or asks for ever", path)
			}
		}
	}
	if lists < 9 || bulk < 10 {
		t.Errorf("%d lists and %d that act on many: the walk sees not all", lists, bulk)
	}
}

// nearNames mistypes the verb, each flag and the way to print.
func nearNames(t *testing.T, c *command, cmd *cobra.Command, own []string) {
	t.Helper()
	last := len(own) - 1
	words := append(slices.Clone(own[:last]), mistyped(own[last]))
	if _, stderr, code := call(t, words...); code != exitUsage || !strings.Contains(stderr, cmd.CommandPath()) {
		t.Errorf("%q: exit code %d and no %s: %s", strings.Join(words, " "), code, cmd.CommandPath(), stderr)
	}
	if cmd.HasSubCommands() {
		return
	}
	hints := func(what, near string, err error) {
		var usage *usageError
		if !errors.As(err, &usage) || !strings.Contains(usage.hint, near) {
			t.Errorf("%s %s: found %v, expected a hint at %s", cmd.CommandPath(), what, err, near)
		}
	}
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if len(f.Name) > 2 && !f.Hidden {
			wrong := "--" + mistyped(f.Name) + "=1"
			hints(wrong, "--"+f.Name, flagError(cmd, cmd.ParseFlags([]string{wrong})))
		}
	})
	c.output = "jsno"
	hints("-o jsno", "-o json", c.checkOutput(cmd))
	if cmd.Args != nil {
		hints("-o jsno before its words", "-o json", cmd.Args(cmd, nil))
	}
}

// isComplete holds a list to what every list has.
func isComplete(t *testing.T, c *command, cmd *cobra.Command) {
	t.Helper()
	if cmd.Flags().Lookup("watch") == nil {
		t.Errorf("%s has no --watch", cmd.CommandPath())
	}
	for _, c.output = range []string{outputTable, outputWide, outputJSON, outputYAML, outputName} {
		if err := c.checkOutput(cmd); err != nil {
			t.Errorf("%s -o %s: %v", cmd.CommandPath(), c.output, err)
		}
	}
	if cmd.Flags().Lookup("before") != nil && cmd.Flags().Lookup("since") == nil {
		t.Errorf("%s lists what happened, and has no --since", cmd.CommandPath())
	}
}

// Colour is for terminals, and for those who did not say that they want none.
func TestColour(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := &command{sys: System{Stdout: &out, Getenv: func(string) string { return "" }}, width: helpWidth}
	if c.table(&out, []string{"status"}, [][]cell{{status("failed")}}); strings.Contains(out.String(), "\x1b") {
		t.Errorf("colour in a pipe: %q", out.String())
	}
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no terminal can be had: ", err)
	}
	defer terminal.Close()
	if c := (&command{sys: System{Stdout: terminal, Getenv: func(string) string { return "" }}}); !c.colour() {
		t.Error("no colour on a terminal")
	}
	// Nobody has told this one how wide it is.
	if width, _ := (&command{sys: System{Stdout: terminal}}).terminalWidth(); width != helpWidth {
		t.Errorf("a terminal of unknown width has %d columns", width)
	}
	for name, c := range map[string]*command{
		"--no-color": {noColor: true, sys: System{Stdout: terminal, Getenv: func(string) string { return "" }}},
		"NO_COLOR": {sys: System{Stdout: terminal, Getenv: func(name string) string {
			if name == "NO_COLOR" {
				return "1"
			}
			return ""
		}}},
	} {
		if c.colour() {
			t.Errorf("%s is not heard", name)
		}
	}
}

// However long what is listed is called, a row is a line of a narrow terminal, and tells the ends of what is cut.
func TestTablesFit(t *testing.T) {
	t.Parallel()
	long, now := strings.Repeat("monitoring_of_", 5)+"disks", time.Now()
	reason := strings.Repeat("because of something else, ", 10)
	component := api.Component{Ref: long + "." + long, Label: reason, WhyDisabled: reason, Description: reason}
	tables := map[string]func(*command){
		"executions": func(c *command) {
			printTable(c, c.sys.Stdout, executionColumns(), []api.Execution{{ID: 123456789, Action: component.Ref, Status: "timed_out", Rule: &component.Ref, Node: &long, CreatedAt: now}}, now)
		},
		"sensors": func(c *command) {
			printTable(c, c.sys.Stdout, sensorColumns(), []api.Sensor{{Component: component, State: "unkillable", Problem: reason, LastExit: reason}}, now)
		},
		"one column": func(c *command) { c.table(c.sys.Stdout, []string{"ref"}, [][]cell{{plain(component.Ref)}}) },
		"wide characters": func(c *command) {
			c.table(c.sys.Stdout, []string{"a", "b"}, [][]cell{{plain(strings.Repeat("漢", 60)), plain(strings.Repeat("字", 60))}})
		},
	}
	for name, print := range tables {
		for _, output := range []string{outputTable, outputWide} {
			var out bytes.Buffer
			print(&command{sys: System{Stdout: &out, Getenv: func(string) string { return "" }}, output: output, width: helpWidth})
			lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
			for _, line := range lines {
				if width := lipgloss.Width(line); width > helpWidth {
					t.Errorf("%s -o %s: %d columns: %s", name, output, width, line)
				}
			}
			if len(lines) != 2 || !strings.Contains(out.String(), "…") {
				t.Errorf("%s -o %s: found %q", name, output, out.String())
			}
			if name == "executions" && !strings.Contains(out.String(), "123456789 ") {
				t.Errorf("%s -o %s: the id is cut: %s", name, output, out.String())
			}
		}
	}
}

func TestSqueezed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		widths []int
		room   int
		want   string
	}{
		{[]int{5, 5}, 12, "[5 5]"},
		{[]int{5, 60}, 40, "[5 33]"},
		{[]int{40, 40}, 60, "[40 18]"},
		{[]int{60, 40}, 60, "[46 12]"},
		{[]int{60, 6, 40}, 50, "[28 6 12]"},
		{[]int{10, 10, 10, 10}, 20, "[6 6 6 6]"},
	} {
		if got := fmt.Sprint(squeezed(test.widths, test.room)); got != test.want {
			t.Errorf("%v in %d: found %s, want %s", test.widths, test.room, got, test.want)
		}
	}
}
