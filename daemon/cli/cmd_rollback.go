package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile"
)

func (c *command) packRollback() *cobra.Command {
	var unpin bool
	var reason string
	cmd := &cobra.Command{
		Use:   "rollback REF [REVISION]",
		Short: "Put an older revision of a pack back into force, and pin it",
		Long: "Puts an older revision of a pack back into force, as a new revision, and pins the pack to it: until\n" +
			"--unpin its folder does not rule, and edits there show as drift in `attune pack plan`. Without a\n" +
			"number it is the newest revision whose files are not those in force. It is refused, and nothing\n" +
			"changes, where that revision no longer validates.",
		Example: "  attune pack rollback tour --reason 'floods the queue'\n  attune pack rollback tour 3\n  attune pack rollback tour --unpin",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			number := 0
			if len(args) > 1 {
				var err error
				if number, err = strconv.Atoi(args[1]); err != nil || number <= 0 {
					return usagef("cannot use %q as a revision: expected a number of `attune pack history %s`", args[1], args[0])
				}
			}
			switch {
			case unpin && len(args) > 1:
				return usagef("cannot unpin and name a revision: the folder rules after --unpin")
			case unpin && reason != "":
				return usagef("cannot give --reason with --unpin")
			}
			var report *api.Report
			err := ask(cmd.Context(), c, func(client *api.Client, ctx context.Context) (_ *api.Report, err error) {
				if unpin {
					report, err = client.Unpin(ctx, args[0])
				} else {
					report, err = client.Rollback(ctx, args[0], api.NewRollback{Revision: number, Reason: reason})
				}
				return report, err
			}, func(w io.Writer, report *api.Report) {
				if report.Plan != nil && !report.Plan.Empty() {
					c.planScreen(w, report.Plan)
				}
				if unpin {
					fmt.Fprintf(w, "Pack %s is unpinned: its folder rules again.\n", args[0])
					return
				}
				fmt.Fprintf(w, "Pack %s is pinned: `attune pack rollback %s --unpin` lets its folder rule again.\n", args[0], args[0])
			})
			if err == nil && unpin && report.Errors.HasErrors() {
				err = &exitError{exitFailed}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&unpin, "unpin", false, "let the folder rule again")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for whoever wonders later")
	return cmd
}

func (c *command) packDiff() *cobra.Command {
	return &cobra.Command{
		Use:   "diff REF [FROM] [TO]",
		Short: "Show what lies between two states of a pack's files",
		Long: "Shows what lies between two states of a pack's files: the components that differ, and the files as a\n" +
			"unified diff. A state is the number of a revision, or `folder`, the pack's folder as it is now. TO is\n" +
			"the newest revision unless it is named, and FROM the one before.",
		Example: "  attune pack diff tour\n  attune pack diff tour 3 5\n  attune pack diff tour 5 folder",
		Args:    cobra.RangeArgs(1, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to := "", ""
			if len(args) > 1 {
				from = args[1]
			}
			if len(args) > 2 {
				to = args[2]
			}
			return ask(cmd.Context(), c, func(client *api.Client, ctx context.Context) (*api.Difference, error) {
				return client.Difference(ctx, args[0], from, to)
			}, c.differenceScreen)
		},
	}
}

func (c *command) differenceScreen(w io.Writer, d *api.Difference) {
	fmt.Fprintf(w, "%s  %s -> %s\n", d.Pack, sideText(d.From), sideText(d.To))
	if len(d.Steps)+len(d.Files) == 0 {
		fmt.Fprintln(w, "No differences.")
		return
	}
	for _, s := range d.Steps {
		c.stepLines(w, s)
	}
	c.findings(w, d.Errors)
	for _, f := range d.Files {
		fmt.Fprintf(w, "\n%s %s", f.Change, f.Path)
		if f.Note != "" {
			fmt.Fprintf(w, " (%s)", f.Note)
		}
		fmt.Fprintln(w)
		c.diffLines(w, f.Diff)
	}
}

// diffLines prints a unified diff, its added and removed lines painted.
func (c *command) diffLines(w io.Writer, text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		style := ""
		switch {
		case strings.HasPrefix(line, "diff "):
			continue // the line above has said it
		case strings.HasPrefix(line, "--- "), strings.HasPrefix(line, "+++ "), strings.HasPrefix(line, "@@"):
			style = styleDim
		case strings.HasPrefix(line, "-"):
			style = styleBad
		case strings.HasPrefix(line, "+"):
			style = styleGood
		}
		fmt.Fprintln(w, c.paint(style, line))
	}
}

func sideText(s reconcile.Side) string {
	text := "folder"
	if s.Revision > 0 {
		text = fmt.Sprintf("revision %d", s.Revision)
	}
	return strings.TrimSpace(fmt.Sprintf("%s (%s)", text, strings.TrimSpace(s.Version+" "+short(s.Digest))))
}
