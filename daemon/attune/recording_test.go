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

// step is what somebody types. until, where set, is waited for before the command is recorded.
type step struct {
	command string
	until   string
}

// session is what the README shows: what a newcomer types in the first half minute, in another
// terminal than the daemon's.
var session = []step{
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

// tutorial is what the guide for pack authors shows: a pack from nothing to a sensor.
var tutorial = []step{
	{command: `mkdir -p inbox packs/inbox/{actions,triggers,sensors,rules}
cat > packs/inbox/pack.yaml <<END
version: "1.0.0"
conf_schema: {folder: {type: string, required: true}}
config: {folder: "$PWD/inbox"}
END
cat > packs/inbox/actions/count.yaml <<END
description: Counts the lines of a file.
parameters: {file: {type: string, required: true}}
END
cat > packs/inbox/actions/count.sh <<'END'
wc -l < "$ATTUNE_ACTION_FILE"
END`},
	{command: `printf 'a\nb\n' > inbox/one`},
	{command: "attune run inbox.count file=$PWD/inbox/one", until: "^2\n$"},
	{command: `cat > packs/inbox/triggers/file_came.yaml <<END
payload_schema: {file: {type: string, required: true}}
END
cat > packs/inbox/rules/count_what_came.yaml <<'END'
trigger: file_came
when: event.payload.file startsWith pack.config.folder
action: {ref: count, parameters: {file: '{{ event.payload.file }}'}}
END`},
	{command: "attune pack lint packs/inbox"},
	{command: "attune trigger fire inbox.file_came file=$PWD/inbox/one", until: "matched"},
	{command: "attune execution list --rule inbox.count_what_came", until: "succeeded"},
	{command: `cat > packs/inbox/sensors/watch.yaml <<END
trigger_types: [file_came]
poll_interval: 2s
END
cat > packs/inbox/sensors/watch.sh <<'END'
for file in "$ATTUNE_PACK_CONFIG_FOLDER"/*; do
  printf '{"event_id": "%s", "payload": {"file": "%s"}}\n' "$file" "$file"
done
END`},
	{command: "echo x > inbox/two"},
	{command: "attune event list --source inbox.watch --limit 1", until: "two"},
	{command: "rm -r packs/inbox/sensors"},
	{command: "attune sensor list --pack inbox", until: "no sensors"},
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
	{`(?m)^\d+( +(tour\.greet|inbox\.count))`, "2$1"},
	{`event \d+`, "event 7"},
	{`(inbox\.count_what_came +matched +)\d+`, "${1}2"},
	{`(?m)^\d+( +2s +inbox\.file_came)`, "9$1"},
	{`"id":\d+`, `"id":7`},
	{`127\.0\.0\.1:\d+`, "127.0.0.1:9753"},
	{`(?m)^((?:core|tour)\.\S+ +running +4713 +)\d+.*$`, "${1}2s   0         2       2s"},
}

// TestRecording runs what the guides show against a real daemon and compares it with them, which
// UPDATE_README=1 rewrites.
func TestRecording(t *testing.T) {
	t.Parallel()
	for _, guide := range []struct {
		file  string
		packs []string
		steps []step
	}{
		{"README.md", []string{"core", "tour"}, session},
		{"packs/README.md", []string{"core"}, tutorial},
	} {
		t.Run(guide.file, func(t *testing.T) {
			t.Parallel()
			compareRecording(t, filepath.Join("..", "..", guide.file), record(t, guide.packs, guide.steps))
		})
	}
}

// record gives what a terminal would show.
func record(t *testing.T, packs []string, steps []step) string {
	t.Helper()
	i := newInstance(t, "", packs...)
	i.env = append(i.env, "ATTUNE_EXEC_WORKERS=4")
	i.start()
	var have strings.Builder
	have.WriteString("```console\n")
	for _, step := range steps {
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
	return text
}

func compareRecording(t *testing.T, guide, text string) {
	t.Helper()
	whole, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	parts := regexp.MustCompile(`(?s)(<!-- recording: begin[^\n]*\n)(.*?)(<!-- recording: end)`)
	found := parts.FindSubmatch(whole)
	if found == nil {
		t.Fatalf("%s has no recording", guide)
	}
	if os.Getenv("UPDATE_README") != "" {
		updated := bytes.Replace(whole, found[2], []byte(text), 1)
		if err := os.WriteFile(guide, updated, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	// The widths of columns follow the values, which change.
	space := regexp.MustCompile(` +`)
	squeeze := func(s string) string { return space.ReplaceAllString(s, " ") }
	if diff := cmp.Diff(squeeze(string(found[2])), squeeze(text)); diff != "" {
		t.Errorf("%s shows something else; UPDATE_README=1 rewrites it (-guide +run):\n%s", guide, diff)
	}
}
