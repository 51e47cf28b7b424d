package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func (c *command) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this binary",
		Example: "  attune version -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := c.sys.Version
			return c.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "attune %s (commit %s, %s, %s)\n", v.Version, v.Commit, v.Date, v.Go)
			})
		},
	}
}
