package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

func (c *command) executionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "execution",
		Aliases: []string{"executions"},
		Short:   "Look at what ran, runs and waits",
	}
	cmd.AddCommand(c.executionList(), c.executionShow(), c.executionLogs(), c.executionCancel(), c.executionRerun())
	return cmd
}

// statuses are what --status takes.
func statuses() []string {
	return []string{
		string(store.StatusRequested), string(store.StatusScheduled), string(store.StatusRunning), string(store.StatusSucceeded),
		string(store.StatusFailed), string(store.StatusTimedOut), string(store.StatusCancelled), string(store.StatusLost),
	}
}

func (c *command) executionList() *cobra.Command {
	var filter api.ExecutionFilter
	var wanted []string
	cmd := listCommand(c, &cobra.Command{
		Short:   "List executions, newest first",
		Example: "  attune execution list --status failed --since 1h",
	}, list[api.Execution]{
		noun:        "execution",
		newestFirst: true,
		ask:         narrowed((*api.Client).Executions, &filter),
		follow: func(client *api.Client, ctx context.Context, follow api.Follow[api.Execution]) error {
			return client.StreamExecutions(ctx, filter, follow)
		},
		name:    func(e *api.Execution) string { return strconv.FormatInt(e.ID, 10) },
		columns: executionColumns(),
	})
	cmd.PreRunE = func(*cobra.Command, []string) (err error) {
		filter.Status, err = parseStatuses(wanted)
		return err
	}
	flags := cmd.Flags()
	refFlag(cmd, &filter.Action, manifest.KindAction, "action", "only of this action")
	refFlag(cmd, &filter.Rule, manifest.KindRule, "rule", "only those that this rule queued")
	refFlag(cmd, &filter.Pack, manifest.KindPack, "pack", "only of actions of this pack")
	flags.StringSliceVar(&wanted, "status", nil, "only in this status: "+strings.Join(statuses(), ", "))
	flags.Int64Var(&filter.EventID, "event", 0, "only those that followed from this event")
	sinceFlag(cmd, &filter.Since)
	beforeFlag(cmd, &filter.Before)
	limitFlag(cmd, &filter.Limit, 100)
	return cmd
}

// oneOf has a list refuse a value of its filter that nothing has, where it would only find nothing.
func oneOf(cmd *cobra.Command, flag string, known func() []string) {
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		word := cmd.Flags().Lookup(flag).Value.String()
		if word == "" || slices.Contains(known(), word) {
			return nil
		}
		err := &usageError{text: fmt.Sprintf("cannot filter by %s %q: expected %s", flag, word, strings.Join(known(), ", "))}
		if near := manifest.Nearest(word, known()); near != "" {
			err.hint = fmt.Sprintf("Did you mean --%s %s?", flag, near)
		}
		return err
	}
}

// parseStatuses reads the words of --status.
func parseStatuses(words []string) ([]store.Status, error) {
	var found []store.Status
	for _, word := range words {
		if !slices.Contains(statuses(), word) {
			err := &usageError{text: fmt.Sprintf("cannot filter by status %q: expected %s", word, strings.Join(statuses(), ", "))}
			if near := manifest.Nearest(word, statuses()); near != "" {
				err.hint = fmt.Sprintf("Did you mean --status %s?", near)
			}
			return nil, err
		}
		found = append(found, store.Status(word))
	}
	return found, nil
}

func executionColumns() []column[api.Execution] {
	return []column[api.Execution]{
		numberColumn("id", func(e *api.Execution) int64 { return e.ID }),
		textColumn("action", func(e *api.Execution) string { return e.Action }),
		stateColumn("status", func(e *api.Execution) string { return string(e.Status) }),
		textColumn("exit", exitText),
		ageColumn("age", func(e *api.Execution) *time.Time { return &e.CreatedAt }),
		{title: "took", moving: true, cell: func(now time.Time, e *api.Execution) cell { return plain(tookText(now, e)) }},
		textColumn("node", func(e *api.Execution) string { return orDash(e.Node) }).onlyWide(),
		textColumn("ran from", func(e *api.Execution) string { return short(orDash(e.Revision)) }).onlyWide(),
		textColumn("by", byText),
	}
}

// orDash is a value of a column that may be absent.
func orDash(text *string) string {
	if text == nil || *text == "" {
		return "-"
	}
	return *text
}

func exitText(e *api.Execution) string {
	switch {
	case e.ExitCode != nil:
		return strconv.Itoa(*e.ExitCode)
	case e.Signal != nil && *e.Signal != "":
		return *e.Signal
	default:
		return "-"
	}
}

func tookText(now time.Time, e *api.Execution) string {
	switch {
	case e.StartedAt == nil:
		return "-"
	case e.FinishedAt == nil:
		return span(now.Sub(*e.StartedAt))
	default:
		return span(e.FinishedAt.Sub(*e.StartedAt))
	}
}

func idText(id *int64) string {
	if id == nil {
		return ""
	}
	return strconv.FormatInt(*id, 10)
}

// byText is the rule, or whoever asked.
func byText(e *api.Execution) string {
	if e.Rule != nil && *e.Rule != "" {
		return *e.Rule
	}
	return e.RequestedBy
}

func (c *command) executionShow() *cobra.Command {
	return byID(c, &cobra.Command{
		Use:     "show ID",
		Aliases: []string{"get"},
		Short:   "Show an execution: parameters, attempts, output, result",
		Example: "  attune execution show 17",
	}, (*api.Client).Execution, c.executionScreen)
}

func (c *command) executionScreen(w io.Writer, e *api.ExecutionDetail) {
	now := time.Now()
	optional := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	event := ""
	if e.EventID != nil {
		event = fmt.Sprintf("%d (%s)", *e.EventID, optional(e.Trigger))
	}
	exit := exitText(&e.Execution)
	if exit == "-" {
		exit = ""
	}
	due := ""
	if e.DueAt != nil && e.StartedAt == nil {
		due = e.DueAt.Local().Format(time.RFC3339)
	}
	c.fields(w, [][2]string{
		{"execution", strconv.FormatInt(e.ID, 10)},
		{"action", e.Action},
		{"status", c.paint(status(string(e.Status)).style, string(e.Status))},
		{"exit", exit},
		{"error", optional(e.Error)},
		{"waits for", optional(e.WaitsFor)},
		{"rule", optional(e.Rule)},
		{"event", event},
		{"asked by", e.RequestedBy},
		{"asked", fmt.Sprintf("%s, %s ago", e.CreatedAt.Local().Format(time.RFC3339), age(now, e.CreatedAt))},
		{"due", due},
		{"took", tookText(now, &e.Execution)},
		{"node", optional(e.Node)},
		{"ran from", short(optional(e.Revision))},
		{"rerun of", idText(e.RerunOf)},
		{"parameters", string(e.Parameters)},
		{"result", string(e.Result)},
	})
	if len(e.Attempts) > 1 {
		fmt.Fprintln(w)
		var rows [][]cell
		for _, a := range e.Attempts {
			exit := "-"
			if a.ExitCode != nil {
				exit = strconv.Itoa(*a.ExitCode)
			}
			rows = append(rows, []cell{
				plain(strconv.Itoa(a.Number)), status(string(a.Status)), plain(exit), plain(agePtr(now, a.StartedAt)), plain(optional(a.Error)),
			})
		}
		c.table(w, []string{"attempt", "status", "exit", "started", "error"}, rows)
	}
	for _, stream := range [][2]string{{"stdout", e.Stdout}, {"stderr", e.Stderr}} {
		if stream[1] != "" {
			fmt.Fprintf(w, "\n%s\n%s\n", c.paint(styleDim, strings.ToUpper(stream[0])), strings.TrimSuffix(stream[1], "\n"))
		}
	}
}

func (c *command) executionLogs() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:     "logs ID",
		Short:   "Print what an execution wrote",
		Example: "  attune execution logs -f 17",
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
			p := newPrinter(c, id)
			if follow {
				_, err = p.follow(cmd.Context(), client)
				return err
			}
			_, err = client.Output(cmd.Context(), id, false, p.line)
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes, to its end")
	return cmd
}
