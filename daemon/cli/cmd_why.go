package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
)

func (c *command) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "why [event|execution] ID",
		Short: "Tell the whole chain: event, what each rule made of it and why, executions and attempts",
		Long: "Tells the whole chain around an event or an execution: the files and revisions that were in force, the\n" +
			"event, each rule's verdict with the parts of its condition and the values that they had, enforcements,\n" +
			"executions and attempts. Events and executions are numbered apart: where both have the number, the\n" +
			"execution is meant, and a note says so.",
		Example: "  attune why 17\n  attune why event 17\n  attune why execution 17 -o json",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind := ""
			if len(args) == 2 {
				kind = strings.TrimSuffix(args[0], "s")
				if kind != "event" && kind != "execution" {
					return usagef("cannot tell why %q: expected event or execution", args[0])
				}
			}
			id, err := parseID(args[len(args)-1])
			if err != nil {
				return err
			}
			return ask(cmd.Context(), c, func(client *api.Client, ctx context.Context) (*api.Why, error) {
				return c.why(ctx, client, kind, id)
			}, c.whyScreen)
		},
	}
}

// why asks for what is meant by a number.
func (c *command) why(ctx context.Context, client *api.Client, kind string, id int64) (*api.Why, error) {
	if kind == "event" {
		return client.WhyEvent(ctx, id)
	}
	why, err := client.WhyExecution(ctx, id)
	if kind == "execution" || err != nil && !api.IsNotFound(err) {
		return why, err
	}
	if err != nil {
		event, err := client.WhyEvent(ctx, id)
		if api.IsNotFound(err) {
			return nil, fmt.Errorf("cannot tell why: there is neither an event nor an execution %d; they never were, or retention has removed them", id)
		}
		return event, err
	}
	if _, err := client.Event(ctx, id); err == nil {
		c.note("this is execution %d; for event %d say `attune why event %d`", id, id, id)
	}
	return why, nil
}

func (c *command) whyScreen(w io.Writer, why *api.Why) {
	if why.Event == nil {
		if len(why.Executions) > 0 && why.Executions[0].EventID != nil {
			fmt.Fprintf(w, "event %d is no longer stored\n", *why.Executions[0].EventID)
		} else {
			fmt.Fprintln(w, "no event: somebody asked for it")
		}
	} else {
		c.chainEvent(w, why)
	}
	for i := range why.Executions {
		c.chainExecution(w, &why.Executions[i])
	}
	if why.MoreExecutions > 0 {
		fmt.Fprintf(w, "and %d more executions: attune execution list --event %d\n", why.MoreExecutions, why.Event.ID)
	}
}

func (c *command) chainEvent(w io.Writer, why *api.Why) {
	e := why.Event
	fmt.Fprintf(w, "event %d of %s, %s, %s ago\n", e.ID, e.Trigger, e.CreatedAt.Local().Format(time.RFC3339), age(time.Now(), e.CreatedAt))
	if why.Trigger != nil {
		fmt.Fprintf(w, "  trigger %s at %s\n", why.Trigger.File, short(why.Trigger.Digest))
	}
	fmt.Fprintf(w, "  from %s\n", e.Source)
	if e.ReplayOf != nil {
		fmt.Fprintf(w, "  it repeats event %d\n", *e.ReplayOf)
	}
	if len(why.Replays) > 0 {
		fmt.Fprintf(w, "  repeated by %s\n", idsText(why.Replays))
	}
	fmt.Fprintf(w, "  payload %s\n", oneLine(string(e.Payload)))
	c.eventNote(w, &e.Event)
	if len(e.Rules) == 0 {
		fmt.Fprintf(w, "no rule waits for %s\n", e.Trigger)
	}
	for i := range e.Rules {
		c.chainRule(w, &e.Rules[i])
	}
	if e.MoreRules > 0 {
		fmt.Fprintf(w, "and %d more rules that did not match\n", e.MoreRules)
	}
}

func (c *command) chainRule(w io.Writer, v *api.RuleVerdict) {
	told := ""
	if !v.Stored && v.ChangedSince {
		told = ", evaluated as the rule is now"
	}
	fmt.Fprintf(w, "rule %s: %s%s\n", v.Rule, c.paint(outcomeStyle(v.Outcome), outcomeText(v.Outcome)), told)
	if v.File != "" {
		changed := ""
		if v.ChangedSince {
			changed = ", changed since the event"
		}
		fmt.Fprintf(w, "  %s at %s%s\n", v.File, short(v.Digest), changed)
	}
	switch v.Outcome {
	case "disabled", "other_instance":
		fmt.Fprintf(w, "  %s\n", v.Reason)
		return
	}
	if v.When != "" {
		fmt.Fprintf(w, "  when %s\n", oneLine(v.When))
	}
	c.chainCondition(w, "    ", v.Parts)
	if v.Reason != "" && v.Outcome != "not_matched" {
		fmt.Fprintf(w, "  %s\n", v.Reason)
	}
	for _, warning := range v.Warnings {
		fmt.Fprintf(w, "  %s %s\n", c.paint(styleWarn, "warning:"), warning)
	}
	if len(v.Executions) > 0 {
		fmt.Fprintf(w, "  queued %s\n", idsText(v.Executions))
	}
}

func (c *command) chainExecution(w io.Writer, e *api.WhyExecution) {
	by := ""
	if e.EventID == nil {
		by = ", asked for by " + e.RequestedBy
	}
	fmt.Fprintf(w, "execution %d of %s: %s%s\n", e.ID, e.Action, c.paint(status(string(e.Status)).style, string(e.Status)), by)
	if e.ActionFile != "" {
		ran := "not started yet"
		if e.Revision != nil && *e.Revision != "" {
			ran = "ran from " + short(*e.Revision)
		}
		fmt.Fprintf(w, "  %s, %s\n", e.ActionFile, ran)
	}
	fmt.Fprintf(w, "  parameters %s\n", oneLine(string(e.Parameters)))
	for _, a := range e.Attempts {
		end := ""
		switch {
		case a.ExitCode != nil:
			end = fmt.Sprintf(", exit %d", *a.ExitCode)
		case a.Signal != nil && *a.Signal != "":
			end = ", " + *a.Signal
		}
		if a.StartedAt != nil && a.FinishedAt != nil {
			end += fmt.Sprintf(", after %s", span(a.FinishedAt.Sub(*a.StartedAt)))
		}
		fmt.Fprintf(w, "  attempt %d on %s: %s%s\n", a.Number, a.Node, c.paint(status(string(a.Status)).style, string(a.Status)), end)
		if a.Error != nil && *a.Error != "" {
			fmt.Fprintf(w, "    %s\n", *a.Error)
		}
	}
	if len(e.Attempts) == 0 && e.Error != nil {
		fmt.Fprintf(w, "  %s\n", *e.Error)
	}
	for _, stream := range [][2]string{{"stdout", e.Stdout}, {"stderr", e.Stderr}} {
		text := strings.TrimRight(stream[1], "\n")
		if text != "" {
			fmt.Fprintf(w, "  %s\n    %s\n", c.paint(styleDim, stream[0]), strings.ReplaceAll(text, "\n", "\n    "))
		}
	}
}
