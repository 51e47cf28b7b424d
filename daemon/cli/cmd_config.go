package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func (c *command) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Look at the configuration; needs no daemon"}
	cmd.AddCommand(&cobra.Command{
		Use:     "show",
		Short:   "Show every key, its value and where it comes from",
		Example: "  attune config show\n  attune config show -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			settings := cfg.Settings()
			return c.print(settings, func(w io.Writer) {
				var rows [][]cell
				for _, s := range settings {
					rows = append(rows, []cell{plain(s.Key), plain(jsonText(s.Value)), plain(s.Origin)})
				}
				c.table(w, []string{"key", "value", "from"}, rows)
			})
		},
	}, &cobra.Command{
		Use:     "check",
		Short:   "Check the configuration; exits 2 where something is wrong",
		Example: "  attune config check --config /etc/attune/attune.toml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			file := cfg.File()
			if file == "" {
				file = "no file: the defaults, the environment and the flags"
			}
			fmt.Fprintf(c.sys.Stdout, "The configuration is good (%s).\n", file)
			return nil
		},
	})
	return cmd
}
