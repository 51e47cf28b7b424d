package cli

import (
	"io"

	"github.com/spf13/cobra"
)

// shells are those that completion has a script for.
var shells = map[string]func(*cobra.Command, io.Writer) error{
	"bash": func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
	"zsh":  func(root *cobra.Command, w io.Writer) error { return root.GenZshCompletion(w) },
	"fish": func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
}

func (c *command) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print what makes a shell complete commands, refs, ids and parameters",
		Long: "Prints a script for the shell. It completes commands and flags, and asks the running daemon for\n" +
			"refs, ids, parameters and their values. The packages install it; elsewhere:\n\n" +
			"  bash, with its package bash-completion:  source <(attune completion bash)\n" +
			"  zsh:   attune completion zsh >\"${fpath[1]}/_attune\"\n" +
			"  fish:  attune completion fish >~/.config/fish/completions/attune.fish",
		Example:   "  attune completion bash",
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args:      needOne("shell"),
		RunE: func(cmd *cobra.Command, args []string) error {
			script, ok := shells[args[0]]
			if !ok {
				return usagef("cannot complete for shell %q: expected bash, zsh or fish", args[0])
			}
			return script(cmd.Root(), c.sys.Stdout)
		},
	}
}
