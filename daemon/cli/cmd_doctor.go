package cli

import (
	"fmt"
	"io"
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/doctor"
)

func (c *command) doctorCommand() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what is wrong, and what to do about it; also without a daemon",
		Long: "Looks at the configuration, the files and who may use them, the packs, the database and its settings,\n" +
			"the clock, the limits of the machine, the interpreters and the disks, and says of each finding what to\n" +
			"do. It asks the daemon, if one runs, and changes nothing.\n\n" +
			"Exits 0 without errors (there may be warnings), 1 with, and 2 where the command line is wrong.",
		Example: "  attune doctor\n  attune doctor --quiet\n  attune doctor -o json | jq '.findings[] | select(.severity == \"error\")'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			progress := c.newProgress()
			opts := doctor.Options{
				Version: c.sys.Version.Version, Getenv: c.sys.Getenv,
				Progress: func(what string) { progress.tell("%s …", what) },
			}
			opts.Config, opts.ConfigError = c.config()
			if client, err := c.client(); err == nil {
				defer client.Close()
				opts.Client = client
			}
			snapshot := doctor.Gather(cmd.Context(), opts)
			progress.clear()
			if err := cmd.Context().Err(); err != nil {
				return err // what was not looked at would look like a fault
			}
			report := doctor.Examine(snapshot)
			if err := c.print(report, func(w io.Writer) { c.doctorReport(w, report, quiet) }); err != nil {
				return err
			}
			if report.Errors > 0 {
				return &exitError{exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only print errors and warnings")
	return cmd
}

// doctorReport prints findings below one another: a line for what is, one for what to do.
func (c *command) doctorReport(w io.Writer, report *doctor.Report, quiet bool) {
	styles := map[doctor.Severity]string{doctor.OK: styleGood, doctor.Warning: styleWarn, doctor.Error: styleBad, doctor.Note: styleDim}
	const severity = len("warning")
	widest := 0
	for _, f := range report.Findings {
		widest = max(widest, len(f.Check))
	}
	indent := severity + 2 + widest + 2
	for _, f := range report.Findings {
		if quiet && (f.Severity == doctor.OK || f.Severity == doctor.Note) {
			continue
		}
		fmt.Fprintf(w, "%s%s  %-*s  %s\n", c.paint(styles[f.Severity], string(f.Severity)), strings.Repeat(" ", severity-len(f.Severity)),
			widest, f.Check, c.wrapped(f.Message, indent))
		if f.Remedy != "" {
			fmt.Fprintf(w, "%*s%s\n", indent, "", c.wrapped("→ "+f.Remedy, indent))
		}
	}
	fmt.Fprintf(w, "%s, %s\n", count(report.Errors, "error"), count(report.Warnings, "warning"))
}

// wrapped breaks text into lines that begin after an indent, where people read it; elsewhere a line stays
// one, for programs such as grep.
func (c *command) wrapped(text string, indent int) string {
	const least = 20 // columns: narrower, nothing is gained
	width, isTerminal := c.terminalWidth()
	if !isTerminal || width-indent < least {
		return text
	}
	return strings.ReplaceAll(lipgloss.Wrap(text, width-indent, ""), "\n", "\n"+strings.Repeat(" ", indent))
}
