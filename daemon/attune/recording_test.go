package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// session is what the README shows: what a newcomer types in the first half minute, in another
// terminal than the daemon's. until, where set, is waited for before the command is recorded.
var session = []struct {
	command string
	until   string
}{
	{command: "attune run core.echo message=hello"},
	{command: "attune rule list"},
	{command: "attune execution list --rule tour.greet_often --limit 1", until: "succeeded"},
	{command: "sed -i 's/Hello/Good day/' packs/tour/actions/greet.sh"},
	{command: "attune run tour.greet name=Ada", until: "Good day"},
	{
		command: `curl -sH "X-Attune-Token: $(attune trigger show tour.called --secrets | awk '/^token/ {print $2}')" \` + "\n" +
			`    -d '{"name": "Grace"}' http://127.0.0.1:9753/webhooks/tour/called`,
		until: "duplicate",
	},
	{command: "attune execution list --rule tour.greet_caller", until: "succeeded"},
	{command: "sed -i 's/^when:/wehn:/; s/tour.summarize$/tour.sumarize/' packs/tour/rules/summarize_load.yaml"},
	{command: "attune pack lint packs/tour"},
	{command: "attune status", until: "errors +[1-9]"},
}

// changing are the parts of the output that differ from run to run, and what the recording has for them.
var changing = []struct{ pattern, with string }{
	{`\b\d+(ms|s|m)\b`, "2s"},
	{`\bpid \d+`, "pid 4711"},
	{`(?m)^(\S+ +running +)\d+ +`, "${1}4713  "},
	{`\b\d+\.\d+ (Ki|Mi)B`, "9.1 MiB"},
	{`schema \d+`, "schema 18"},
	{`PostgreSQL \d+\.\d+( \([^)]*\))?`, "PostgreSQL 15.18"},
	{`private, pid 4711`, "private, pid 4712"},
	{`(attune +)\S+, ready`, "${1}0.1.0, ready"},
	{`\d+ requested, \d+ scheduled, \d+ running; \d+ of \d+ workers`, "0 requested, 0 scheduled, 0 running; 0 of 4 workers"},
	{`generation \d+`, "generation 3"},
	{`(?m)^\d+( +tour\.greet)`, "2$1"},
	{`"id":\d+`, `"id":7`},
	{`127\.0\.0\.1:\d+`, "127.0.0.1:9753"},
	{`(?m)^((?:core|tour)\.\S+ +running +4713 +)\d+.*$`, "${1}2s   0         2       2s"},
}

// TestRecording runs the session against a real daemon and compares it with the README, which
// UPDATE_README=1 rewrites.
func TestRecording(t *testing.T) {
	t.Parallel()
	i := newInstance(t, "", "core", "tour")
	i.env = append(i.env, "ATTUNE_EXEC_WORKERS=4")
	i.start()
	var have strings.Builder
	have.WriteString("```console\n")
	for _, step := range session {
		var out []byte
		run := func() bool {
			cmd := exec.Command("bash", "-c", strings.ReplaceAll(step.command, "http://127.0.0.1:9753", i.status().URL))
			cmd.Dir, cmd.Env = i.dir, i.env
			out, _ = cmd.CombinedOutput()
			return regexp.MustCompile(step.until).Match(out)
		}
		i.until("`"+step.command+"` prints "+step.until, run)
		text := strings.ReplaceAll(string(out), i.dir, "~/attune")
		have.WriteString("$ " + step.command + "\n" + text)
	}
	have.WriteString("```\n")
	// Times become shorter, and columns stay where they are.
	text := regexp.MustCompile(`\b\d+(ms|s|m)  +`).ReplaceAllStringFunc(have.String(), func(cell string) string {
		return "2s" + strings.Repeat(" ", max(len(cell)-len("2s"), 2))
	})
	for _, c := range changing {
		text = regexp.MustCompile(c.pattern).ReplaceAllString(text, c.with)
	}

	readme := filepath.Join("..", "..", "README.md")
	whole, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	parts := regexp.MustCompile(`(?s)(<!-- recording: begin[^\n]*\n)(.*?)(<!-- recording: end)`)
	found := parts.FindSubmatch(whole)
	if found == nil {
		t.Fatal("README.md has no recording")
	}
	if os.Getenv("UPDATE_README") != "" {
		updated := bytes.Replace(whole, found[2], []byte(text), 1)
		if err := os.WriteFile(readme, updated, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	// The widths of columns follow the values, which change.
	space := regexp.MustCompile(` +`)
	squeeze := func(s string) string { return space.ReplaceAllString(s, " ") }
	if diff := cmp.Diff(squeeze(string(found[2])), squeeze(text)); diff != "" {
		t.Errorf("README.md shows something else; UPDATE_README=1 rewrites it (-README +run):\n%s", diff)
	}
}
