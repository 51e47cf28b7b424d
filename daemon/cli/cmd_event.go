package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
)

func (c *command) eventCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "event",
		Aliases: []string{"events"},
		Short:   "Look at what happened, and what the rules made of it",
	}
	cmd.AddCommand(c.eventList(), c.eventShow())
	return cmd
}

func (c *command) eventList() *cobra.Command {
	var filter api.EventFilter
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List events, newest first",
		Example: "  attune event list --trigger core.crontimer --since 1h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			events, err := client.Events(cmd.Context(), filter)
			if err != nil {
				return err
			}
			return c.printList(events, len(events), "event", func(w io.Writer) {
				var rows [][]cell
				for _, e := range events {
					rows = append(rows, []cell{
						plain(strconv.FormatInt(e.ID, 10)), plain(age(time.Now(), e.CreatedAt)), plain(e.Trigger), plain(e.Source), plain(string(e.Payload)),
					})
				}
				c.table(w, []string{"id", "age", "trigger", "source", "payload"}, rows)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&filter.Trigger, "trigger", "", "only of this trigger")
	flags.StringVar(&filter.Source, "source", "", "only from this sensor, or api")
	flags.StringVar(&filter.Since, "since", "", "only since then: 90s, 1h, 7d, or a time such as 2026-01-31T09:00:00Z")
	flags.Int64Var(&filter.Before, "before", 0, "only with an id below this one")
	flags.IntVar(&filter.Limit, "limit", 100, "how many at most")
	return cmd
}

func (c *command) eventShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Aliases: []string{"get"},
		Short:   "Show an event, the rules that matched it and what they queued",
		Example: "  attune event show 17",
		Args:    needOne("id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseID(args[0])
			if err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			e, err := client.Event(cmd.Context(), id)
			if err != nil {
				return err
			}
			return c.print(e, func(w io.Writer) {
				c.fields(w, [][2]string{
					{"event", strconv.FormatInt(e.ID, 10)},
					{"time", fmt.Sprintf("%s, %s ago", e.CreatedAt.Local().Format(time.RFC3339), age(time.Now(), e.CreatedAt))},
					{"trigger", e.Trigger},
					{"instance", e.Instance},
					{"source", e.Source},
					{"event id", e.EventID},
					{"payload", string(e.Payload)},
				})
				c.eventNote(w, &e.Event)
				c.enforcements(w, e.Enforcements)
			})
		},
	}
}

// parseID reads an id from the command line.
func parseID(word string) (int64, error) {
	id, err := strconv.ParseInt(word, 10, 64)
	if err != nil || id <= 0 {
		return 0, usagef("cannot use %q as an id: expected a number such as 17", word)
	}
	return id, nil
}

// eventNote tells what is wrong with an event.
func (c *command) eventNote(w io.Writer, e *api.Event) {
	if e.Problem != "" {
		fmt.Fprintf(w, "%s %s\n", c.paint(styleWarn, "payload:"), e.Problem)
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
