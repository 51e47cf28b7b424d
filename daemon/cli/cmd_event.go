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
	cmd := listCommand(c, &cobra.Command{
		Short:   "List events, newest first",
		Example: "  attune event list --trigger core.crontimer --since 1h",
	}, list[api.Event]{
		noun:        "event",
		newestFirst: true,
		ask:         narrowed((*api.Client).Events, &filter),
		name:        func(e *api.Event) string { return strconv.FormatInt(e.ID, 10) },
		columns: []column[api.Event]{
			numberColumn("id", func(e *api.Event) int64 { return e.ID }),
			ageColumn("age", func(e *api.Event) *time.Time { return &e.CreatedAt }),
			textColumn("trigger", func(e *api.Event) string { return e.Trigger }),
			textColumn("source", func(e *api.Event) string { return e.Source }),
			textColumn("event id", func(e *api.Event) string { return e.EventID }).onlyWide(),
			textColumn("payload", func(e *api.Event) string { return string(e.Payload) }),
		},
	})
	flags := cmd.Flags()
	flags.StringVar(&filter.Trigger, "trigger", "", "only of this trigger")
	flags.StringVar(&filter.Source, "source", "", "only from this sensor, or api")
	sinceFlag(cmd, &filter.Since)
	beforeFlag(cmd, &filter.Before)
	limitFlag(cmd, &filter.Limit, 100)
	return cmd
}

func (c *command) eventShow() *cobra.Command {
	return byID(c, &cobra.Command{
		Use:     "show ID",
		Aliases: []string{"get"},
		Short:   "Show an event, the rules that matched it and what they queued",
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
	c.eventNote(w, &e.Event)
	c.enforcements(w, e.Enforcements)
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
