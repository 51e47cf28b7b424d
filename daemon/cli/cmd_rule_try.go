package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/exec/rule"
	"github.com/attune-io/attune/reconcile/manifest"
)

// maxRuleFile bounds the file that rule test reads: what is larger is no manifest.
const maxRuleFile = manifest.MaxFileSize

// ruleTest is called so on the command line; a file of that name would be one of tests.
func (c *command) ruleTest() *cobra.Command {
	var event int64
	var payload, file, since string
	var inForce bool
	cmd := &cobra.Command{
		Use:   "test REF|FILE (--event ID | --payload FILE | --since AGE)",
		Short: "Try a rule, edited or as it is, on an event; nothing runs",
		Long: "Shows what a rule would make of an event: whether it matches, the value of each part of its condition, and\n" +
			"the parameters that its actions would get. Limits (throttle, debounce, dedupe, breaker) are not asked.\n\n" +
			"What is tried is the file in the packs folder, where that is not in force yet, else the rule in force;\n" +
			"--file names another file, and --in-force wants the one in force. A FILE in the rules folder of a pack\n" +
			"says itself whose it is.\n\n" +
			"With --since the rule is run over the stored events, and those are listed that it would newly match, no\n" +
			"longer match, or answer otherwise than the rule in force.\n\n" +
			"Exits 0 when it could be told, 1 when the file would be refused or the rule fails on the event.",
		Example: "  attune rule test tour.summarize_load --event 17\n" +
			"  attune rule test tour.summarize_load --payload '{\"load\": 3}'\n" +
			"  attune rule test tour.summarize_load --file /tmp/edited.yaml --since 7d",
		Args: needOne("rule"),
		RunE: func(cmd *cobra.Command, args []string) error {
			wanted := 0
			for _, name := range []string{"event", "payload", "since"} {
				if cmd.Flags().Changed(name) {
					wanted++
				}
			}
			if wanted != 1 {
				return usagef("cannot test rule %s: expected one of --event, --payload and --since", args[0])
			}
			source := api.TrialSource{InForce: inForce}
			ref := args[0]
			if isRuleFile(ref) {
				if file != "" || inForce {
					return usagef("cannot test %s: name the rule by its ref beside --file and --in-force", ref)
				}
				file = ref
			}
			if file != "" {
				text, err := c.readFile(file, maxRuleFile)
				if err != nil {
					return err
				}
				source.Source, source.File = string(text), filepath.ToSlash(file)
				if file == args[0] {
					if ref, err = ruleOfFile(file, text); err != nil {
						return err
					}
				}
			}
			if since != "" {
				return c.tryRuleSince(cmd.Context(), ref, api.NewTrialRun{Since: since, TrialSource: source})
			}
			trial := api.NewTrial{EventID: event, TrialSource: source}
			if payload != "" {
				text, err := c.payload(payload)
				if err != nil {
					return err
				}
				trial.Payload = text
			}
			return c.tryRule(cmd.Context(), ref, trial)
		},
	}
	flags := cmd.Flags()
	flags.Int64Var(&event, "event", 0, "try it on this stored event")
	flags.StringVar(&payload, "payload", "", "try it on an event with this payload: a file, - for stdin, or the JSON itself, {…}")
	flags.StringVar(&since, "since", "", "try it on all stored events since then: 90s, 1h, 7d, or a time such as 2026-01-31T09:00:00Z")
	flags.StringVar(&file, "file", "", "the manifest to try; - is stdin")
	flags.BoolVar(&inForce, "in-force", false, "try the rule in force, whatever the packs folder has")
	cmd.MarkFlagsMutuallyExclusive("file", "in-force")
	return cmd
}

// isRuleFile says whether a word is a manifest's file, and not a ref: refs have no slash, and one may be p.yaml.
func isRuleFile(word string) bool {
	if strings.ContainsRune(word, filepath.Separator) {
		return true
	}
	info, err := os.Stat(word)
	return err == nil && info.Mode().IsRegular() && slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(word))
}

// ruleOfFile gives the ref of the rule whose manifest this is, by the pack that the file stands in.
func ruleOfFile(file string, text []byte) (string, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return "", usagef("cannot find %s: %v", file, err)
	}
	const packFile = "pack.yaml"
	folder := filepath.Dir(filepath.Dir(path))
	pack, err := os.ReadFile(filepath.Join(folder, packFile))
	if err != nil {
		return "", &usageError{
			text: fmt.Sprintf("cannot tell which rule %s is: it does not stand in the rules folder of a pack", file),
			hint: fmt.Sprintf("Name the rule as well: attune rule test REF --file %s", file),
		}
	}
	b := manifest.Parse(filepath.Base(folder), map[string]manifest.File{
		packFile: {Content: pack}, "rules/" + filepath.Base(path): {Content: text},
	})
	for _, r := range b.Rules {
		return r.Ref, nil
	}
	for _, broken := range b.Broken {
		if broken.Kind == manifest.KindRule && broken.Ref != "" {
			return broken.Ref, nil
		}
	}
	return "", usagef("cannot tell which rule %s is: %v", file, b.Errors)
}

// payload reads a payload from a file or stdin, or is given it.
func (c *command) payload(given string) (json.RawMessage, error) {
	text, from := []byte(given), "--payload"
	if !strings.HasPrefix(strings.TrimSpace(given), "{") {
		var err error
		if text, err = c.readFile(given, 0); err != nil {
			return nil, err
		}
		from = given
	}
	if !json.Valid(text) {
		return nil, usagef("cannot read the payload from %s: expected one JSON object", from)
	}
	return text, nil
}

// readFile reads a file, or stdin; with most no more than that.
func (c *command) readFile(name string, most int64) ([]byte, error) {
	reader := c.sys.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usagef("cannot read %s: %v", name, errors.Unwrap(err))
		}
		defer f.Close()
		reader = f
	}
	if most > 0 {
		reader = io.LimitReader(reader, most+1)
	}
	text, err := io.ReadAll(reader)
	switch {
	case err != nil:
		return nil, usagef("cannot read %s: %v", name, err)
	case most > 0 && int64(len(text)) > most:
		return nil, usagef("cannot read %s: it has more than %s", name, bytesText(most))
	}
	return text, nil
}

func (c *command) tryRule(ctx context.Context, ref string, n api.NewTrial) error {
	failed := false
	err := ask(ctx, c, func(client *api.Client, ctx context.Context) (*api.Trial, error) {
		trial, err := client.TryRule(ctx, ref, n)
		failed = err == nil && trial.Outcome == "error"
		return trial, err
	}, c.trialScreen)
	if err == nil && failed {
		return &exitError{exitFailed}
	}
	return err
}

func (c *command) trialScreen(w io.Writer, t *api.Trial) {
	state := "as it is in force"
	if !t.Applied {
		state = "not in force yet"
	}
	c.fields(w, [][2]string{
		{"rule", fmt.Sprintf("%s, %s (%s)", t.Rule, t.File, state)},
		{"when", orAlways(t.When)},
		{"outcome", c.paint(outcomeStyle(t.Outcome), outcomeText(t.Outcome))},
		{"because", t.Reason},
		{"payload", t.Problem},
	})
	for _, f := range t.Findings {
		fmt.Fprintf(w, "%s %v\n", c.paint(styleWarn, string(f.Severity)+":"), f)
	}
	for _, warning := range t.Warnings {
		fmt.Fprintf(w, "%s %s\n", c.paint(styleWarn, "warning:"), warning)
	}
	c.partsTable(w, t.Parts)
	for i, e := range t.Executions {
		if i == 0 {
			fmt.Fprintln(w, "\nwould run:")
		}
		fmt.Fprintf(w, "  %s %s%s\n", e.Action, e.Parameters, secretsText(e.Secrets))
	}
	for i, limit := range t.Limits {
		if i == 0 {
			fmt.Fprintln(w, "\nlimits, which are not asked here:")
		}
		fmt.Fprintf(w, "  %s\n", limit)
	}
}

func secretsText(secrets map[string]string) string {
	var b strings.Builder
	for pointer, name := range secrets {
		fmt.Fprintf(&b, " %s=@secret:%s", strings.TrimPrefix(pointer, "/"), name)
	}
	return b.String()
}

func orAlways(when string) string {
	if when == "" {
		return "always"
	}
	return when
}

// outcomeText says an outcome as people would.
func outcomeText(outcome string) string { return strings.ReplaceAll(outcome, "_", " ") }

func outcomeStyle(outcome string) string {
	switch outcome {
	case "matched":
		return styleGood
	case "error":
		return styleBad
	case "throttled", "deduplicated", "skipped":
		return styleWarn
	default:
		return styleDim
	}
}

// partsTable prints the terms of a condition with their values.
func (c *command) partsTable(w io.Writer, parts []manifest.Part) {
	if len(parts) == 0 {
		return
	}
	fmt.Fprintln(w)
	var rows [][]cell
	for _, p := range parts {
		value := cell{jsonText(p.Value), styleBad}
		switch {
		case p.Error != "":
			value.text = "error: " + p.Error
		case p.Value == true:
			value.style = styleGood
		case p.Value == nil:
			value.text = "nil"
		}
		var reads []string
		for _, r := range p.Reads {
			text := "not there"
			if r.Value != nil {
				text = jsonText(r.Value)
			}
			reads = append(reads, r.Path+": "+text)
		}
		rows = append(rows, []cell{plain(p.Source), value, plain(strings.Join(reads, ", "))})
	}
	c.table(w, []string{"part", "value", "looked at"}, rows)
}

// tryRuleSince runs a rule over the stored events. What it finds is printed as it comes; how far it is,
// on stderr.
func (c *command) tryRuleSince(ctx context.Context, ref string, n api.NewTrialRun) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Close()
	report := trialReport{Differences: []api.TrialDifference{}}
	rows := tableWriter{command: c, head: []string{"event", "age", "change", "was", "is", "because"}}
	progress := c.newProgress()
	err = client.TryRuleSince(ctx, ref, n, func(line *api.TrialLine) error {
		switch {
		case line.Error != nil:
			return line.Error
		case line.Sum != nil:
			report.Sum = line.Sum
		case line.Progress != nil:
			progress.tell("%d events looked at, back to %s", line.Progress.Events, line.Progress.Back.Local().Format(time.DateTime))
		case line.Difference != nil && c.output != outputTable:
			report.Differences = append(report.Differences, *line.Difference)
		case line.Difference != nil:
			d := line.Difference
			progress.clear()
			rows.write(c.sys.Stdout, [][]cell{{
				plain(strconv.FormatInt(d.EventID, 10)), plain(age(time.Now(), d.CreatedAt)),
				{outcomeText(d.Change), styleBusy},
				plain(outcomeText(d.Was)), plain(outcomeText(d.Is)), plain(d.Reason),
			}})
		}
		return nil
	})
	progress.clear()
	switch {
	case err != nil:
		return err
	case report.Sum == nil:
		return fmt.Errorf("cannot test rule %s: the daemon ended the run: %w", ref, api.ErrNoDaemon)
	}
	return c.print(&report, func(w io.Writer) { c.sumScreen(w, report.Sum) })
}

// trialReport is what a run over stored events found, for programs.
type trialReport struct {
	Sum         *api.TrialSum         `json:"sum"`
	Differences []api.TrialDifference `json:"differences"`
}

func (c *command) sumScreen(w io.Writer, s *api.TrialSum) {
	fmt.Fprintf(w, "%d events since %s: %s would match %d of them\n", s.Events, s.Since.Local().Format(time.DateTime), s.File, s.Matched)
	if s.Applied {
		fmt.Fprintln(w, "it is the rule in force, so nothing differs")
		return
	}
	fmt.Fprintf(w, "%d newly, %d no longer, %d with other actions or parameters, %d newly fail\n",
		s.NewlyMatches, s.NoLongerMatches, s.RunsOtherwise, s.NewlyFails)
	if len(s.Limits) > 0 {
		fmt.Fprintf(w, "limits are not asked: %s\n", strings.Join(s.Limits, "; "))
	}
}

func (c *command) ruleReset() *cobra.Command {
	return byRef(c, &cobra.Command{
		Use:   "reset REF",
		Short: "Close a rule's breaker; throttle and dedupe begin anew",
		Long: "Closes a rule's breaker where that is open, and forgets what its throttle has counted and what its dedupe\n" +
			"has seen. What waits for quiet by debounce goes on waiting.",
		Example: "  attune rule reset tour.summarize_load",
	}, "rule", (*api.Client).ResetRule, func(w io.Writer, r *api.Reset) {
		state := "its breaker was not open"
		if r.Closed {
			state = "its breaker is closed again"
		}
		fmt.Fprintf(w, "%s: %s, %d counts forgotten\n", r.Rule, state, r.Forgotten)
	})
}

// verdictNote is the last column of a rule's verdict.
func verdictNote(v *api.RuleVerdict) string {
	return strings.Join(append(nonEmptyTexts(v.Reason), v.Warnings...), "; ")
}

func nonEmptyTexts(texts ...string) []string {
	var list []string
	for _, t := range texts {
		if t != "" {
			list = append(list, t)
		}
	}
	return list
}

// verdicts prints what the rules made of an event.
func (c *command) verdicts(w io.Writer, e *api.EventDetail) {
	if len(e.Rules) == 0 {
		fmt.Fprintf(w, "\nno rule waits for %s\n", e.Trigger)
		return
	}
	fmt.Fprintln(w)
	var rows [][]cell
	for i := range e.Rules {
		v := &e.Rules[i]
		rows = append(rows, []cell{
			plain(v.Rule), {outcomeText(v.Outcome), outcomeStyle(v.Outcome)}, plain(idsText(v.Executions)), plain(verdictNote(v)),
		})
	}
	c.table(w, []string{"rule", "outcome", "executions", "because"}, rows)
	if e.MoreRules > 0 {
		fmt.Fprintf(w, "and %d more rules that did not match\n", e.MoreRules)
	}
}

func idsText(ids []int64) string {
	const most = 5 // what still reads as a column
	var texts []string
	for i, id := range ids {
		if i == most {
			texts = append(texts, fmt.Sprintf("… %d", len(ids)))
			break
		}
		texts = append(texts, strconv.FormatInt(id, 10))
	}
	return strings.Join(texts, ", ")
}

// chainCondition prints the terms of a condition in a chain.
func (c *command) chainCondition(w io.Writer, indent string, parts []manifest.Part) {
	for _, p := range parts {
		mark, style := "✗", styleBad
		if p.Error == "" && p.Value == true {
			mark, style = "✓", styleGood
		}
		fmt.Fprintf(w, "%s%s %s\n", indent, c.paint(style, mark), oneLine(rule.PartText(p)))
	}
}
