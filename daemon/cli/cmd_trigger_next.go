package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
)

// maxFirings bounds -n: more than this nobody reads, and a slip of the finger should not take minutes.
const maxFirings = 10_000

func (c *command) triggerNext() *cobra.Command {
	var count int
	var from string
	cmd := &cobra.Command{
		Use:   "next (TRIGGER NAME=VALUE… | RULE)",
		Short: "Print when a timer fires next",
		Long: "Prints the coming firings of a timer trigger with the given parameters, or of the timer that a rule asks for,\n" +
			"in UTC and in the timer's own time zone. Firings that a change of the clocks moves, doubles or comes before\n" +
			"say so. Nothing is stored. jitter is not in the times: it comes on top of them.",
		Example: "  attune trigger next core.crontimer expression='30 2 * * *' timezone=Asia/Tokyo\n" +
			"  attune trigger next tour.nightly -n 3 --from 2026-10-25T00:00:00Z",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 1 || count > maxFirings {
				return usagef("cannot print %d firings: expected 1 to %d", count, maxFirings)
			}
			after := time.Now()
			if from != "" {
				var err error
				if after, err = time.Parse(time.RFC3339, from); err != nil {
					return usagef("cannot use --from %q: expected a time such as 2026-03-29T00:00:00Z", from)
				}
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Close()
			t, err := c.timerOf(cmd.Context(), client, args[0], args[1:], after)
			if err != nil {
				return err
			}
			firings, perr := reconcile.Firings(t.kind, t.parameters, t.anchor, after, count)
			if perr != nil {
				return usagef("cannot tell when %s fires: %v", args[0], perr)
			}
			return c.print(firings, func(w io.Writer) { c.firingScreen(w, firings, after) })
		},
	}
	cmd.Flags().IntVarP(&count, "count", "n", 10, "how many")
	cmd.Flags().StringVar(&from, "from", "", "look from this time on, such as 2026-03-29T00:00:00Z. Defaults to now.")
	return cmd
}

// plannedTimer is what firings are computed from.
type plannedTimer struct {
	kind       string
	parameters map[string]any
	anchor     time.Time // what intervals count from
}

// timerOf finds out which timer is meant: that of a trigger with the parameters of the command line, or
// that of a rule.
func (c *command) timerOf(ctx context.Context, client *api.Client, ref string, words []string, now time.Time) (*plannedTimer, error) {
	trigger, err := client.Trigger(ctx, ref)
	switch {
	case api.IsNotFound(err):
		rule, ruleErr := client.Rule(ctx, ref)
		if api.IsNotFound(ruleErr) {
			return nil, err // of the trigger: most refs given here are one
		}
		if ruleErr != nil {
			return nil, ruleErr
		}
		if len(words) > 0 {
			return nil, usagef("cannot give rule %s other parameters: %s", ref, strings.Join(words, " "))
		}
		return timerOfRule(ctx, client, rule, now)
	case err != nil:
		return nil, err
	}
	if err := needTimer(trigger); err != nil {
		return nil, err
	}
	given, err := c.parameters(words, trigger.ParametersSchema, "trigger "+ref)
	if err != nil {
		return nil, err
	}
	if expression, _ := given.values["expression"].(string); manifest.SpreadCron(expression, ref) != expression {
		c.note("H differs from rule to rule; these times are an example. Name a rule to see its own.")
	}
	parameters := trigger.ParametersSchema.ApplyDefaults(given.values)
	return &plannedTimer{kind: trigger.Type, parameters: parameters, anchor: now}, nil
}

func needTimer(t *api.Trigger) error {
	switch t.Type {
	case manifest.TriggerInterval, manifest.TriggerCron, manifest.TriggerDatetime:
		return nil
	}
	return usagef("cannot tell when %s fires: it is no timer, but of type %s", t.Ref, t.Type)
}

// timerOfRule gives the timer of a rule as the daemon holds it, or would, were the rule enabled.
func timerOfRule(ctx context.Context, client *api.Client, rule *api.Rule, now time.Time) (*plannedTimer, error) {
	trigger, err := client.Trigger(ctx, rule.Trigger)
	if err != nil {
		return nil, err
	}
	if err := needTimer(trigger); err != nil {
		return nil, err
	}
	for _, instance := range trigger.Instances {
		if !slices.Contains(instance.Rules, rule.Ref) {
			continue
		}
		t := &plannedTimer{kind: trigger.Type, anchor: instance.AnchorAt}
		if err := json.Unmarshal(instance.Parameters, &t.parameters); err != nil {
			return nil, fmt.Errorf("cannot read the parameters of %s: %v", instance.ID, err)
		}
		return t, nil
	}
	spec := manifest.Trigger{Type: trigger.Type}
	parameters := trigger.ParametersSchema.ApplyDefaults(spec.Spread(rule.Ref, rule.TriggerParameters))
	return &plannedTimer{kind: trigger.Type, parameters: parameters, anchor: now}, nil
}

func (c *command) firingScreen(w io.Writer, firings []reconcile.Firing, after time.Time) {
	if len(firings) == 0 {
		fmt.Fprintln(w, "never again")
		return
	}
	rows := make([][]cell, len(firings))
	for i, f := range firings {
		rows[i] = []cell{
			plain(f.Local.Format("Mon 2006-01-02 15:04:05 -07:00")),
			plain(f.At.UTC().Format(time.RFC3339)),
			plain(age(f.At, after)),
			{f.Note, styleWarn},
		}
	}
	c.table(w, []string{"local", "utc", "in", "note"}, rows)
}
