package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// choice is how commands that do something to many executions are told which.
type choice struct {
	*command
	api.BulkChoice
	cmd *cobra.Command
	yes bool
}

func (ch *choice) flags(cmd *cobra.Command) {
	ch.cmd = cmd
	flags := cmd.Flags()
	refFlag(cmd, &ch.Action, manifest.KindAction, "action", "those of this action")
	refFlag(cmd, &ch.Rule, manifest.KindRule, "rule", "those that this rule queued")
	refFlag(cmd, &ch.Pack, manifest.KindPack, "pack", "those of actions of this pack")
	flags.StringSliceVar(&ch.Status, "status", nil, "those in this status")
	flags.Int64Var(&ch.Event, "event", 0, "those that followed from this event")
	flags.StringVar(&ch.Since, "since", "", "those since then: 90s, 1h, 7d, or a time such as 2026-01-31T09:00:00Z")
	flags.Int64Var(&ch.Before, "before", 0, "those with an id below this one")
	flags.BoolVar(&ch.All, "all", false, "all there are")
	flags.BoolVarP(&ch.yes, "yes", "y", false, "do not ask")
}

// filtered says whether executions were named by flags. It refuses both, and neither.
func (ch *choice) filtered(cmd *cobra.Command, args []string) (bool, error) {
	filtered := false
	for _, name := range []string{"action", "rule", "pack", "status", "event", "since", "before", "all"} {
		filtered = filtered || cmd.Flags().Changed(name)
	}
	switch {
	case filtered && len(args) > 0:
		return false, usagef("cannot run %q: expected either ids or filters", cmd.CommandPath())
	case !filtered && len(args) == 0:
		return false, &usageError{
			text: fmt.Sprintf("cannot run %q: id is missing", cmd.CommandPath()),
			hint: "Name executions by id, or by filters such as --status and --since.",
		}
	}
	_, err := parseStatuses(ch.Status)
	return filtered, err
}

// settle counts what the filters name, has a person agree, and ties the filters to what was counted.
// Without any it says so and gives false.
func (ch *choice) settle(ctx context.Context, client *api.Client, verb string, ask func(context.Context, api.BulkChoice) (*api.Bulk, error)) (bool, error) {
	dry := ch.BulkChoice
	dry.DryRun = true
	counted, err := ask(ctx, dry)
	if err != nil {
		return false, err
	}
	if counted.Count == 0 {
		ch.note("no executions")
		ch.tellUnknown(ctx, ch.cmd, client)
		return false, nil
	}
	if ch.Before == 0 || counted.Before < ch.Before {
		ch.Before = counted.Before
	}
	return true, ch.confirm(fmt.Sprintf("%s %s", verb, count(counted.Count, "execution")), ch.yes)
}

// parseIDs reads words that are ids.
func parseIDs(words []string) ([]int64, error) {
	ids := make([]int64, len(words))
	for i, word := range words {
		var err error
		if ids[i], err = parseID(word); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

func (c *command) executionCancel() *cobra.Command {
	ch := &choice{command: c}
	cmd := &cobra.Command{
		Use:     "cancel ID…",
		Aliases: []string{"stop", "kill"},
		Short:   "Cancel executions that wait, or stop those that run",
		Long: "Cancels executions that wait, and has those that run stopped. Named by filters, all that fit and\n" +
			"have not ended are cancelled, after a question.",
		Example: "  attune execution cancel 17\n  attune execution cancel --rule tour.greet_often --status requested",
		RunE: func(cmd *cobra.Command, args []string) error {
			filtered, err := ch.filtered(cmd, args)
			if err != nil {
				return err
			}
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Close()
			if filtered {
				return ch.cancel(cmd.Context(), client)
			}
			return eachID(c, ids, func(id int64) error {
				found, err := client.Cancel(cmd.Context(), id)
				if err != nil {
					return err
				}
				return c.print(found, func(w io.Writer) {
					if found.Status == store.StatusRunning {
						fmt.Fprintf(w, "execution %d is being stopped\n", id)
						return
					}
					fmt.Fprintf(w, "execution %d is cancelled\n", id)
				})
			})
		},
	}
	ch.flags(cmd)
	return cmd
}

// eachID does something to one after the other. A failure does not keep the others from it.
func eachID(c *command, ids []int64, do func(id int64) error) error {
	if len(ids) == 1 {
		return do(ids[0])
	}
	code := exitDone
	for _, id := range ids {
		if err := do(id); err != nil {
			code = c.finish(err)
		}
	}
	return codeError(code)
}

func (ch *choice) cancel(ctx context.Context, client *api.Client) error {
	some, err := ch.settle(ctx, client, "Cancel", client.CancelAll)
	if err != nil || !some {
		return err
	}
	done, err := client.CancelAll(ctx, ch.BulkChoice)
	if err != nil {
		return err
	}
	return ch.print(done, func(w io.Writer) { fmt.Fprintf(w, "%s cancelled\n", count(done.Count, "execution")) })
}

func (c *command) executionRerun() *cobra.Command {
	ch := &choice{command: c}
	var asThen, asNow bool
	cmd := &cobra.Command{
		Use:     "rerun ID…",
		Aliases: []string{"retry"},
		Short:   "Run executions once more, with the same parameters",
		Long: "Queues executions once more, with the same parameters, secrets and limits: the action as it is in\n" +
			"force, or --as-then the very revision that it ran from, manifest and files. Named by filters, all\n" +
			"that fit and have ended are repeated, after a question.",
		Example: "  attune execution rerun 17 --as-then\n  attune execution rerun --status failed --since 1h",
		RunE: func(cmd *cobra.Command, args []string) error {
			filtered, err := ch.filtered(cmd, args)
			if err != nil {
				return err
			}
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			if asNow && asThen {
				return usagef("cannot run it --as-now and --as-then at once")
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Close()
			as := api.AsNow
			if asThen {
				as = api.AsThen
			}
			if filtered {
				return ch.rerun(cmd.Context(), client, as)
			}
			return eachID(c, ids, func(id int64) error {
				queued, err := client.Rerun(cmd.Context(), id, as)
				if err != nil {
					return err
				}
				return c.print(queued, func(w io.Writer) { fmt.Fprintf(w, "execution %d repeats %d\n", queued.ID, id) })
			})
		},
	}
	ch.flags(cmd)
	cmd.Flags().BoolVar(&asNow, "as-now", false, "run the action as it is in force (the default)")
	cmd.Flags().BoolVar(&asThen, "as-then", false, "run the revision that it ran from then")
	return cmd
}

func (ch *choice) rerun(ctx context.Context, client *api.Client, as string) error {
	ask := func(ctx context.Context, choice api.BulkChoice) (*api.Bulk, error) {
		return client.RerunAll(ctx, choice, as)
	}
	some, err := ch.settle(ctx, client, "Run again", ask)
	if err != nil || !some {
		return err
	}
	done, err := ask(ctx, ch.BulkChoice)
	if err != nil {
		return err
	}
	for _, reason := range done.Reasons {
		ch.complain(strings.ReplaceAll(reason, "\n", "\n  "), "")
	}
	if err := ch.print(done, func(w io.Writer) {
		fmt.Fprintf(w, "%s queued again", count(done.Count, "execution"))
		if done.Refused > 0 {
			fmt.Fprintf(w, ", %s", ch.paint(styleBad, fmt.Sprintf("%d refused", done.Refused)))
		}
		fmt.Fprintln(w)
	}); err != nil {
		return err
	}
	if done.Refused > 0 {
		return &exitError{exitFailed}
	}
	return nil
}
