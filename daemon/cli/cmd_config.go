package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon"
	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
)

func (c *command) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Look at the configuration; needs no daemon"}
	cmd.AddCommand(c.configShow(), c.configCheck())
	return cmd
}

func (c *command) configShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show every key, its value and where it comes from",
		Long: "Shows every key, its value and where it comes from. Passwords, and what a pack's conf_schema calls\n" +
			"secret, are masked.",
		Example: "  attune config show\n  attune config show -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			settings := maskSettings(cfg.Settings(), lintConfig(cfg).Packs)
			return c.print(settings, func(w io.Writer) {
				var rows [][]cell
				for _, s := range settings {
					rows = append(rows, []cell{plain(s.Key), plain(jsonText(s.Value)), plain(s.Origin)})
				}
				c.table(w, []string{"key", "value", "from"}, rows)
			})
		},
	}
}

func (c *command) configCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration; exits 2 where something is wrong",
		Long: "Checks the configuration, and [packs.config] against the conf_schema of the packs in the packs\n" +
			"folders. Exits 2 where something is wrong.",
		Example: "  attune config check --config /etc/attune/attune.toml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			report, err := c.checkConfig()
			if err != nil {
				return err
			}
			if err := c.print(report, func(w io.Writer) {
				c.findings(w, report.Errors)
				if !report.Errors.HasErrors() {
					fmt.Fprintf(w, "The configuration is good (%s).\n", cmp.Or(report.File, "no file: the defaults, the environment and the flags"))
				}
			}); err != nil {
				return err
			}
			if report.Errors.HasErrors() {
				return &exitError{exitUsage}
			}
			return nil
		},
	}
}

// configReport is what `config check` finds.
type configReport struct {
	File   string          `json:"file,omitempty"`
	Errors manifest.Errors `json:"errors"`
}

// checkConfig checks the configuration. What people read as an error of the command is a finding to programs.
func (c *command) checkConfig() (*configReport, error) {
	report := &configReport{Errors: manifest.Errors{}}
	cfg, err := c.config()
	if problems, ok := errors.AsType[*daemon.ConfigError](err); ok && c.output != outputTable {
		for _, p := range problems.Problems {
			report.Errors = append(report.Errors, &manifest.Error{Place: p.Place, Severity: manifest.SeverityError, Message: p.Message, Hint: p.Hint})
		}
		return report, nil
	}
	if err != nil {
		return nil, err
	}
	report.File = cfg.File()
	// Who may not read the key, as most who check may not, cannot say anything about it.
	if err := cfg.CheckCertificate(); err != nil && !errors.Is(err, fs.ErrPermission) {
		if c.output == outputTable {
			return nil, usagef("%v", err)
		}
		report.Errors = append(report.Errors, &manifest.Error{Severity: manifest.SeverityError, Message: err.Error()})
	}
	report.Errors = append(report.Errors, lintConfig(cfg).Findings...)
	return report, nil
}

func lintConfig(cfg *daemon.Config) *reconcile.PackConfigs {
	return reconcile.LintConfig(existing(cfg.Packs.Directories), cfg.Packs.AutoLoad, cfg.Packs.Config, cfg.PackConfigPlace)
}

// secretKey is what the key of a secret is often called; it decides only where no schema does.
var secretKey = regexp.MustCompile(`(?i)secret|token|passw|passphrase|credential|api_?key|private`)

// maskSettings hides what packs call secret among the keys of [packs.config].
func maskSettings(settings []daemon.Setting, packs map[string]*manifest.Pack) []daemon.Setting {
	for i := range settings {
		s := &settings[i]
		rest, ok := strings.CutPrefix(s.Key, "packs.config.")
		if !ok {
			continue
		}
		pack, key, _ := strings.Cut(rest, ".")
		if known := packs[pack]; known != nil {
			s.Value = manifest.MaskedValues(map[string]any{key: s.Value}, known.ConfSchema)[key]
		} else if secretKey.MatchString(key) {
			s.Value = manifest.Mask
		}
	}
	return settings
}
