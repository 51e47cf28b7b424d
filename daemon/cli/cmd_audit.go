package cli

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
)

func (c *command) auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "See who changed what by command"}
	cmd.AddCommand(c.auditList())
	return cmd
}

func (c *command) auditList() *cobra.Command {
	var filter api.AuditFilter
	cmd := listCommand(c, &cobra.Command{
		Short:   "List changes that people made by command, newest first",
		Example: "  attune audit list --object tour.summarize_load --since 7d",
	}, list[api.AuditEntry]{
		noun:        "change",
		newestFirst: true,
		ask:         narrowed((*api.Client).Audit, &filter),
		name:        func(e *api.AuditEntry) string { return strconv.FormatInt(e.ID, 10) },
		columns: []column[api.AuditEntry]{
			textColumn("time", func(e *api.AuditEntry) string { return e.CreatedAt.Local().Format(time.DateTime) }),
			textColumn("actor", func(e *api.AuditEntry) string { return e.Actor }),
			textColumn("action", func(e *api.AuditEntry) string { return e.Action }),
			textColumn("object", func(e *api.AuditEntry) string { return e.Object }),
			textColumn("detail", func(e *api.AuditEntry) string {
				if text := string(e.Detail); text != "{}" {
					return text
				}
				return ""
			}),
		},
	})
	f := cmd.Flags()
	f.StringVar(&filter.Actor, "actor", "", "only by this user")
	f.StringVar(&filter.Object, "object", "", "only to this ref or id")
	f.StringVar(&filter.Since, "since", "", "only since: 90s, 1h, 7d, or an RFC 3339 time")
	f.IntVar(&filter.Limit, "limit", 0, "how many at most (100)")
	return cmd
}
