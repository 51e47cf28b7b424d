package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
)

func (c *command) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Say who may use the API over TCP"}
	cmd.AddCommand(c.tokenCreate(), c.tokenList(), c.tokenRevoke())
	return cmd
}

func (c *command) tokenCreate() *cobra.Command {
	var asked api.NewToken
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token for the API over TCP, and print it this once",
		Long: "Makes a token and prints it; only its hash is kept. Scope read sees everything but secrets, tokens and the\n" +
			"audit; run also starts and stops work; admin also changes what is in force and who may come in. With\n" +
			"--pack it is good for what is of that pack alone.\n\n" +
			"Commands take a token from $ATTUNE_TOKEN, or from the file that --token-file or $ATTUNE_TOKEN_FILE names.",
		Example: "  attune token create ci --scope run --pack tour --expires 90d\n" +
			"  attune token create prometheus --scope read > /etc/prometheus/attune.token",
		Args: needOne("name"),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asked.Name = args[0]
		if asked.Scope == "" {
			return &usageError{text: fmt.Sprintf("cannot run %q: --scope is missing", cmd.CommandPath()), hint: "Say --scope read, run or admin."}
		}
		return ask(cmd.Context(), c, func(client *api.Client, ctx context.Context) (*api.CreatedToken, error) {
			return client.CreateToken(ctx, asked)
		}, func(w io.Writer, t *api.CreatedToken) {
			fmt.Fprintln(w, t.Secret)
			until := "does not expire"
			if t.ExpiresAt != nil {
				until = "expires " + t.ExpiresAt.Local().Format(time.DateTime)
			}
			c.note("token %s has scope %s for %s and %s; it is shown this once", t.Name, t.Scope, packOf(t.Pack), until)
		})
	}
	f := cmd.Flags()
	f.StringVar((*string)(&asked.Scope), "scope", "", "read, run or admin")
	f.StringVar(&asked.Pack, "pack", "", "the only pack that it is good for")
	f.StringVar(&asked.Expires, "expires", "", "how long it is good, such as 90d or 12h (for ever)")
	return cmd
}

// packOf says what a token is good for.
func packOf(pack *string) string {
	if pack == nil {
		return "all packs"
	}
	return "pack " + *pack
}

func (c *command) tokenList() *cobra.Command {
	var all bool
	cmd := listCommand(c, &cobra.Command{
		Short:   "List the tokens that are good",
		Example: "  attune token list\n  attune token list --all -o wide",
	}, list[api.Token]{
		noun: "token",
		name: func(t *api.Token) string { return t.Name },
		ask: func(client *api.Client, ctx context.Context) ([]api.Token, error) {
			return client.Tokens(ctx, all)
		},
		columns: []column[api.Token]{
			textColumn("name", func(t *api.Token) string { return t.Name }),
			textColumn("scope", func(t *api.Token) string { return t.Scope }),
			textColumn("pack", func(t *api.Token) string {
				if t.Pack == nil {
					return "*"
				}
				return *t.Pack
			}),
			stateColumn("state", tokenState),
			ageColumn("created", func(t *api.Token) *time.Time { return &t.CreatedAt }),
			textColumn("by", func(t *api.Token) string { return t.CreatedBy }).onlyWide(),
			ageColumn("used", func(t *api.Token) *time.Time { return t.LastUsedAt }),
			textColumn("expires", func(t *api.Token) string {
				if t.ExpiresAt == nil {
					return "never"
				}
				return t.ExpiresAt.Local().Format(time.DateTime)
			}),
		},
	})
	cmd.Flags().BoolVar(&all, "all", false, "list the expired and the revoked too")
	return cmd
}

func tokenState(t *api.Token) string {
	switch {
	case t.RevokedAt != nil:
		return "revoked"
	case t.Expired:
		return "expired"
	default:
		return "ok"
	}
}

func (c *command) tokenRevoke() *cobra.Command {
	return byRef(c, &cobra.Command{
		Use:   "revoke NAME",
		Short: "End a token at once, on other nodes within seconds",
		Long: "Ends a token at once, on other nodes within seconds. Requests that are under way are finished. The name\n" +
			"is free again; the audit goes on telling of it.",
		Example: "  attune token revoke ci",
	}, "name", (*api.Client).RevokeToken, func(w io.Writer, t *api.Token) {
		fmt.Fprintf(w, "token %s is revoked\n", t.Name)
	})
}
