package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon"
	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
)

// outputGitHub prints findings as commands of a GitHub workflow, which shows them beside the lines.
const outputGitHub = "github"

func (c *command) packLint() *cobra.Command {
	var strict, noRuntimes bool
	cmd := &cobra.Command{
		Use:     "lint PATH…",
		Aliases: []string{"validate"},
		Short:   "Check packs, or folders of packs; needs no daemon",
		Long: "Checks packs, or folders of packs, with no daemon and no database, and finds what the daemon\n" +
			"would find. The packs are checked together; what they refer to is looked up in the configured\n" +
			"packs folders too. With -o github the findings are annotations of a GitHub workflow.\n\n" +
			"Exits 0 without errors (with --strict: without warnings), 1 with, and 2 if a path is no pack.",
		Example:     "  attune pack lint packs/\n  attune pack lint --strict -o github packs/tour",
		Args:        cobra.MinimumNArgs(1),
		Annotations: map[string]string{furtherOutput: outputGitHub},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			opts := reconcile.LintOptions{
				Strict:      strict,
				PackConfig:  cfg.Packs.Config,
				ConfigPlace: cfg.PackConfigPlace,
				Version:     c.sys.Version.Version,
				Trust:       cfg.Trust(),
				Context:     existing(cfg.Packs.Directories),
			}
			if !noRuntimes {
				machine := &lintMachine{ctx: cmd.Context(), path: c.sys.Getenv("PATH")}
				defer machine.close()
				opts.Interpreters = machine
			}
			report, err := reconcile.Lint(args, opts)
			if err != nil {
				return &usageError{text: err.Error()}
			}
			if err := c.printLint(report); err != nil {
				return err
			}
			if report.Errors.HasErrors() {
				return &exitError{exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "treat warnings as errors")
	cmd.Flags().BoolVar(&noRuntimes, "no-runtimes", false, "do not ask whether this machine has the interpreters")
	return cmd
}

func (c *command) printLint(report *reconcile.LintReport) error {
	n := errorCount(report.Errors)
	summary := fmt.Sprintf("%s, %s: %s, %s", count(report.Packs, "pack"), count(report.Components, "component"),
		count(n, "error"), count(len(report.Errors)-n, "warning"))
	if c.output == outputGitHub {
		for _, e := range report.Errors {
			fmt.Fprintln(c.sys.Stdout, annotation(e, relative(report.Path(e))))
		}
		fmt.Fprintln(c.sys.Stdout, summary)
		return nil
	}
	return c.print(report, func(w io.Writer) {
		c.findings(w, report.Errors)
		fmt.Fprintln(w, summary)
	})
}

// annotation writes a finding as a workflow command.
func annotation(e *manifest.Error, path string) string {
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	fields := []string{"file=" + property.Replace(path)}
	if e.Line > 0 {
		fields = append(fields, fmt.Sprintf("line=%d", e.Line))
	}
	if e.Col > 0 {
		fields = append(fields, fmt.Sprintf("col=%d", e.Col))
	}
	if e.Ref != "" {
		fields = append(fields, "title="+property.Replace(e.Ref))
	}
	text := e.Message
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return fmt.Sprintf("::%s %s::%s", e.Severity, strings.Join(fields, ","), data.Replace(text))
}

// relative gives a path as seen from the working directory where it lies below that, which is what a
// workflow wants.
func relative(path string) string {
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	if below, err := filepath.Rel(here, path); err == nil && filepath.IsLocal(below) {
		return below
	}
	return path
}

// existing keeps the folders that are there: lint works on machines that have none configured.
func existing(folders []string) []string {
	var found []string
	for _, f := range folders {
		if info, err := os.Stat(f); err == nil && info.IsDir() {
			found = append(found, f)
		}
	}
	return found
}

// lintMachine asks this machine for its interpreters, at the first question.
type lintMachine struct {
	ctx  context.Context //nolint:containedctx // it is the command's own, and ends with it
	path string

	once   sync.Once
	runner *child.Runner
	found  daemon.Interpreters
	err    error
}

var _ reconcile.Interpreters = (*lintMachine)(nil)

// Check gives nil when one of the runtime satisfies the semver range.
func (m *lintMachine) Check(runtime, interpreter, versions string) error {
	m.once.Do(func() {
		quiet := slog.New(slog.DiscardHandler)
		if m.runner, m.err = child.NewRunner(m.ctx, child.Options{Logger: quiet, NoKeeper: true}); m.err != nil {
			return
		}
		m.found.Found, m.err = child.ProbeInterpreters(m.ctx, m.runner, m.path)
	})
	if m.err != nil {
		return m.err
	}
	return m.found.Check(runtime, interpreter, versions)
}

func (m *lintMachine) close() {
	if m.runner != nil {
		_ = m.runner.Close() // it ran probes, and nothing is left of them
	}
}
