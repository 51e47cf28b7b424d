package reconcile

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/attune-io/attune/reconcile/manifest"
)

const guideFile = "../packs/README.md"

// guideExamples are what the guide's annotated manifests say, by kind and key. A value that begins with #
// is shown as a comment: it cannot stand beside another key.
var guideExamples = map[string]string{
	"pack.ref":                   "guide",
	"pack.label":                 "Guide",
	"pack.name":                  "# Guide",
	"pack.description":           "Keeps copies of databases, and tells when one fails.",
	"pack.version":               `"1.2.0"`,
	"pack.author":                "Ada",
	"pack.email":                 "ada@example.org",
	"pack.system":                "false",
	"pack.enabled":               "true",
	"pack.conf_schema":           "{retention_days: {type: integer, minimum: 1, default: 7}, hook_key: {type: string, secret: true}}",
	"pack.config":                "{retention_days: 14}",
	"pack.attune":                `">= 0.1"`,
	"pack.dependencies":          `["core >= 1.0"]`,
	"pack.dependencies.packs":    "",
	"pack.runtime_deps":          `[shell, "python3 >= 3.8"]`,
	"pack.tags":                  "[backup, postgresql]",
	"pack.meta":                  "{team: storage}",
	"pack.license":               "Apache-2.0",
	"pack.homepage":              "https://example.org",
	"pack.repository":            "https://example.org/guide.git",
	"pack.contributors":          "[Ada, Grace]",
	"pack.icon":                  "icon.png",
	"pack.testing":               "{enabled: true}",
	"pack.examples":              "[see README.md]",
	"name":                       "",
	"ref":                        "# guide.<name>",
	"label":                      "A label",
	"description":                "What it does.",
	"enabled":                    "true",
	"tags":                       "[example]",
	"pack":                       "# guide",
	"pack_ref":                   "# guide",
	"meta":                       "{ticket: OPS-17}",
	"examples":                   "[see README.md]",
	"testing":                    "{enabled: true}",
	"limits.memory":              "256MiB",
	"limits.pids":                "64",
	"limits.cpu":                 "1.5",
	"limits.nofile":              "1024",
	"limits.fsize":               "10GiB",
	"action.name":                "backup",
	"action.runner_type":         "shell",
	"action.runtime_version":     `">= 4"`,
	"action.entry_point":         "backup.sh",
	"action.run_as":              "# postgres",
	"action.env":                 "{PGCONNECT_TIMEOUT: 10}",
	"action.parameters":          "\n  database: {type: string, required: true, literal: true, description: Which database.}\n  password: {type: string, required: true, secret: true}\n  format: {type: string, enum: [plain, custom], default: plain, immutable: true}",
	"action.output_schema":       "{bytes: {type: integer, required: true}}",
	"action.output_format":       "json",
	"action.parameter_delivery":  "# stdin",
	"action.parameter_format":    "json",
	"action.timeout":             "30m",
	"action.timeout_total":       "2h",
	"action.expires":             "6h",
	"action.retry.max_attempts":  "3",
	"action.retry.delay":         "10s",
	"action.retry.backoff":       "exponential",
	"action.retry.max_delay":     "5m",
	"action.retry.on":            "[failed, lost]",
	"action.retry.exit_codes":    "[75]",
	"action.concurrency.max":     "1",
	"action.concurrency.key":     "parameters.database",
	"action.concurrency.policy":  "queue",
	"action.priority":            "0",
	"action.on_lost":             "retry",
	"action.warm":                "false",
	"action.detach":              "false",
	"trigger.name":               "called",
	"trigger.type":               "webhook",
	"trigger.parameters_schema":  "{channel: {type: string}}",
	"trigger.payload_schema":     "{body: {type: object, properties: {name: {type: string}, bytes: {type: integer}, parts: {type: array, items: {type: string}}}}}",
	"trigger.on_invalid":         "keep",
	"trigger.verify.type":        "hmac",
	"trigger.verify.secret":      `"{{ pack.config.hook_key }}"`,
	"trigger.verify.header":      "X-Signature",
	"trigger.verify.prefix":      "sha256=",
	"trigger.verify.encoding":    "hex",
	"trigger.verify.tolerance":   "# 5m",
	"trigger.verify.delivery_id": "X-Delivery",
	"sensor.name":                "watch",
	"sensor.runner_type":         "python",
	"sensor.runtime_version":     `">= 3.8"`,
	"sensor.entry_point":         "watch.py",
	"sensor.run_as":              "# nobody",
	"sensor.env":                 "{TZ: Europe/Berlin}",
	"sensor.trigger_types":       "[file_came]",
	"sensor.trigger_type":        "# file_came",
	"sensor.on_demand":           "true",
	"sensor.parameters":          "{folder: {type: string, required: true}}",
	"sensor.config":              "{folder: /var/spool/guide}",
	"sensor.poll_interval":       "# 30s",
	"sensor.watchdog":            "1m",
	"sensor.ack":                 "false",
	"sensor.updates":             "false",
	"rule.name":                  "tell_who_called",
	"rule.trigger.ref":           "called",
	"rule.trigger.parameters":    "{channel: backups}",
	"rule.trigger_ref":           "# called",
	"rule.trigger_params":        "# {channel: backups}",
	"rule.when":                  `event.payload.body.bytes > 0 and not (event.payload.body.name matches "[.]tmp$")`,
	"rule.action.ref":            "core.echo",
	"rule.action.parameters":     `{message: "{{ item }} came with {{ event.payload.body.name }}"}`,
	"rule.action_ref":            "# core.echo",
	"rule.action_params":         "# {message: hello}",
	"rule.actions":               "# [core.echo, {ref: core.noop, parameters: {exit_code: 0}}]",
	"rule.for_each":              `event.payload.body.parts | default(["all"])`,
	"rule.throttle.max":          "10",
	"rule.throttle.per":          "1m",
	"rule.throttle.key":          "event.payload.body.name",
	"rule.debounce.window":       "30s",
	"rule.debounce.max_wait":     "5m",
	"rule.debounce.key":          "event.payload.body.name",
	"rule.dedupe.key":            "event.payload.body.name",
	"rule.dedupe.window":         "1h",
	"rule.breaker.failures":      "5",
	"rule.breaker.executions":    "1000",
	"rule.breaker.per":           "1m",
	"rule.breaker.pause":         "10m",
	"rule.priority":              "5",
}

// annotated writes a manifest with every key of its kind, each with what it means.
func annotated(t *testing.T, kind manifest.Kind) string {
	t.Helper()
	folder := "pack.yaml"
	if kind != manifest.KindPack {
		folder = kind.Folder() + "/" + guideExamples[string(kind)+".name"] + ".yaml"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "```yaml\n# %s\n", folder)
	for i, k := range manifest.Keys(kind) {
		if i > 0 {
			b.WriteByte('\n')
		}
		writeKey(t, &b, string(kind), "", k)
	}
	b.WriteString("```\n")
	return b.String()
}

func writeKey(t *testing.T, b *strings.Builder, path, indent string, k manifest.Key) {
	t.Helper()
	text := k.Doc
	switch {
	case k.Required:
		text += " Required."
	case k.Default != "":
		text += " Optional, default: " + k.Default + "."
	default:
		text += " Optional."
	}
	if len(k.Aliases) > 0 {
		text += " Alias: " + strings.Join(k.Aliases, ", ") + "."
	}
	const width = 110
	line := indent + "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > width {
			b.WriteString(line + "\n")
			line = indent + "#"
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
	for _, name := range []string{path + "." + k.Name, strings.TrimPrefix(path[strings.IndexByte(path+".", '.'):], ".") + "." + k.Name, k.Name} {
		example, ok := guideExamples[strings.TrimPrefix(name, ".")]
		if !ok || example == "" {
			continue
		}
		if commented, is := strings.CutPrefix(example, "# "); is {
			fmt.Fprintf(b, "%s# %s: %s\n", indent, k.Name, commented)
		} else {
			fmt.Fprintf(b, "%s%s:%s%s\n", indent, k.Name, map[bool]string{true: " "}[example[0] != '\n'], example)
		}
		return
	}
	if k.Keys() == nil {
		t.Errorf("the guide has no example of %s.%s", path, k.Name)
		return
	}
	fmt.Fprintf(b, "%s%s:\n", indent, k.Name)
	for _, sub := range k.Keys() {
		writeKey(t, b, path+"."+k.Name, indent+"  ", sub)
	}
}

var (
	guidePart  = regexp.MustCompile(`(?s)(<!-- (pack|action|trigger|sensor|rule): begin[^\n]*-->\n)(.*?)(<!-- \w+: end -->)`)
	guideBlock = regexp.MustCompile("(?s)```(?:yaml|bash|python)\n# (\\S+)\n(.*?)```")
)

// The guide shows every key of every kind of manifest; UPDATE_GUIDE=1 rewrites that part.
func TestGuideIsCurrent(t *testing.T) {
	t.Parallel()
	have, err := os.ReadFile(guideFile)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	want := guidePart.ReplaceAllStringFunc(string(have), func(part string) string {
		m := guidePart.FindStringSubmatch(part)
		seen++
		return m[1] + annotated(t, manifest.Kind(m[2])) + m[4]
	})
	const kinds = 5
	if seen != kinds {
		t.Errorf("found %d annotated manifests in %s, expected %d", seen, guideFile, kinds)
	}
	if want == string(have) {
		return
	}
	if os.Getenv("UPDATE_GUIDE") == "" {
		t.Fatalf("%s does not say what the keys of the model say; run: UPDATE_GUIDE=1 go test ./reconcile -run Guide", guideFile)
	}
	if err := os.WriteFile(guideFile, []byte(want), 0o644); err != nil { //nolint:gosec // the guide is for everybody
		t.Fatal(err)
	}
}

// What the guide shows is a pack, and that pack has no findings.
func TestGuideLintsClean(t *testing.T) {
	t.Parallel()
	if os.Getenv("UPDATE_GUIDE") != "" {
		t.Skip("the guide is being rewritten")
	}
	text, err := os.ReadFile(guideFile)
	if err != nil {
		t.Fatal(err)
	}
	f := newTree(t)
	for _, block := range guideBlock.FindAllStringSubmatch(string(text), -1) {
		f.write(filepath.Join("guide", block[1]), block[2])
	}
	report, err := Lint([]string{f.path("guide")}, LintOptions{Context: []string{"../packs/core"}})
	f.do(err)
	for _, e := range report.Errors {
		t.Error(e)
	}
	const components = 5 // one of each kind, and a trigger with both forms of schema
	if report.Packs != 1 || report.Components != components {
		t.Errorf("found %d packs with %d components, expected 1 with %d", report.Packs, report.Components, components)
	}
}
