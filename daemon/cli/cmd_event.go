package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
)

func (c *command) eventCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "event",
		Aliases: []string{"events"},
		Short:   "Look at what happened, and what the rules made of it",
	}
	cmd.AddCommand(c.eventList(), c.eventShow(), c.eventReplay())
	return cmd
}

func (c *command) eventList() *cobra.Command {
	var filter api.EventFilter
	cmd := listCommand(c, &cobra.Command{
		Short:   "List events, newest first",
		Example: "  attune event list --trigger core.crontimer --since 1h",
	}, list[api.Event]{
		noun:        "event",
		newestFirst: true,
		ask:         narrowed((*api.Client).Events, &filter),
		follow: func(client *api.Client, ctx context.Context, follow api.Follow[api.Event]) error {
			return client.StreamEvents(ctx, filter, follow)
		},
		name: func(e *api.Event) string { return strconv.FormatInt(e.ID, 10) },
		columns: []column[api.Event]{
			numberColumn("id", func(e *api.Event) int64 { return e.ID }),
			ageColumn("age", func(e *api.Event) *time.Time { return &e.CreatedAt }),
			textColumn("trigger", func(e *api.Event) string { return e.Trigger }),
			textColumn("source", func(e *api.Event) string { return e.Source }),
			textColumn("event id", func(e *api.Event) string { return e.EventID }).onlyWide(),
			textColumn("problem", func(e *api.Event) string { return e.Problem }).onlyWide(),
			textColumn("payload", func(e *api.Event) string { return string(e.Payload) }),
		},
	})
	refFlag(cmd, &filter.Trigger, manifest.KindTrigger, "trigger", "only of this trigger")
	refFlag(cmd, &filter.Source, manifest.KindSensor, "source", "only from this sensor, or api")
	sinceFlag(cmd, &filter.Since)
	beforeFlag(cmd, &filter.Before)
	limitFlag(cmd, &filter.Limit, 100)
	return cmd
}

func (c *command) eventShow() *cobra.Command {
	return byID(c, &cobra.Command{
		Use:     "show ID",
		Aliases: []string{"get"},
		Short:   "Show an event, what each rule made of it and why, and what ran",
		Example: "  attune event show 17",
	}, (*api.Client).Event, c.eventScreen)
}

func (c *command) eventScreen(w io.Writer, e *api.EventDetail) {
	c.fields(w, [][2]string{
		{"event", strconv.FormatInt(e.ID, 10)},
		{"time", fmt.Sprintf("%s, %s ago", e.CreatedAt.Local().Format(time.RFC3339), age(time.Now(), e.CreatedAt))},
		{"trigger", e.Trigger},
		{"instance", e.Instance},
		{"source", e.Source},
		{"event id", e.EventID},
		{"payload", string(e.Payload)},
	})
	if e.ReplayOf != nil {
		fmt.Fprintf(w, "it repeats event %d\n", *e.ReplayOf)
	}
	c.eventNote(w, &e.Event)
	c.verdicts(w, e)
}

func (c *command) eventReplay() *cobra.Command {
	var rules []string
	var dry bool
	cmd := &cobra.Command{
		Use:   "replay ID",
		Short: "Store an event anew, so that the rules of today answer it",
		Long: "Stores an event with the payload of an earlier one, which it names, and has the rules in force match it.\n" +
			"With --rule only these hear of it, whatever instance of the trigger they wait for. Limits count as for any\n" +
			"event. With --dry-run nothing is stored: it is shown what each rule would make of it.",
		Example: "  attune event replay 17\n  attune event replay 17 --rule tour.summarize_load\n  attune event replay 17 --dry-run",
		Args:    needOne("id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseID(args[0])
			if err != nil {
				return err
			}
			if dry {
				return c.dryReplay(cmd.Context(), id, rules)
			}
			return ask(cmd.Context(), c, func(client *api.Client, ctx context.Context) (*api.Fired, error) {
				fired, err := client.ReplayEvent(ctx, id, rules)
				c.tellMisfit(fired)
				return fired, err
			}, func(w io.Writer, fired *api.Fired) {
				fmt.Fprintf(w, "event %d\n", fired.ID)
				c.enforcements(w, fired.Enforcements)
			})
		},
	}
	cmd.Flags().StringSliceVar(&rules, "rule", nil, "only for this rule; may be given several times")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "store nothing, and show what would match")
	return cmd
}

// dryReplay tries the rules on a stored event: those named, or all that wait for its trigger.
func (c *command) dryReplay(ctx context.Context, id int64, rules []string) error {
	return ask(ctx, c, func(client *api.Client, ctx context.Context) ([]*api.Trial, error) {
		event, err := client.Event(ctx, id)
		if err != nil {
			return nil, err
		}
		if len(rules) == 0 {
			inForce, err := client.Rules(ctx, api.ComponentFilter{Trigger: event.Trigger})
			if err != nil {
				return nil, err
			}
			for i := range inForce {
				rules = append(rules, inForce[i].Ref)
			}
		}
		trials := []*api.Trial{}
		for _, ref := range rules {
			trial, err := client.TryRule(ctx, ref, api.NewTrial{EventID: id, TrialSource: api.TrialSource{InForce: true}})
			if err != nil {
				return nil, err
			}
			trials = append(trials, trial)
		}
		return trials, nil
	}, func(w io.Writer, trials []*api.Trial) {
		var rows [][]cell
		for _, t := range trials {
			var runs []string
			for _, e := range t.Executions {
				runs = append(runs, e.Action+" "+string(e.Parameters))
			}
			rows = append(rows, []cell{
				plain(t.Rule), {outcomeText(t.Outcome), outcomeStyle(t.Outcome)}, plain(strings.Join(append(nonEmptyTexts(t.Reason), runs...), "; ")),
			})
		}
		if len(rows) == 0 {
			fmt.Fprintln(w, "no rule waits for it")
		}
		c.table(w, []string{"rule", "outcome", "because, or what would run"}, rows)
	})
}

// eventNote tells what is wrong with an event.
func (c *command) eventNote(w io.Writer, e *api.Event) {
	if e.Problem != "" {
		fmt.Fprintf(w, "%s %s\n", c.paint(styleWarn, "payload:"), e.Problem)
	}
}

// tellMisfit warns that an event was stored although its payload does not fit: however it is printed, whoever
// fires should hear of it. Where the trigger's on_invalid is refuse, the daemon has refused it.
func (c *command) tellMisfit(fired *api.Fired) {
	if fired != nil && fired.Problem != "" {
		c.note("%s the payload does not fit trigger %s, and is stored with that mark: %s", c.paint(styleWarn, "warning:"), fired.Trigger, fired.Problem)
	}
}

// enforcements prints which rules matched an event, and what they queued.
func (c *command) enforcements(w io.Writer, list []api.Enforcement) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no rule matched")
		return
	}
	var rows [][]cell
	for _, e := range list {
		var ids []string
		for _, id := range e.Executions {
			ids = append(ids, strconv.FormatInt(id, 10))
		}
		note := strings.Join(append([]string{e.Error}, e.Warnings...), "; ")
		rows = append(rows, []cell{plain(e.Rule), status(e.Status), plain(strings.Join(ids, ", ")), plain(strings.Trim(note, "; "))})
	}
	c.table(w, []string{"rule", "status", "executions", "note"}, rows)
}
