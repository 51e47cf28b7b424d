package cli

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
)

func (c *command) auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "See who changed what"}
	cmd.AddCommand(c.auditList())
	return cmd
}

func (c *command) auditList() *cobra.Command {
	var filter api.AuditFilter
	cmd := listCommand(c, &cobra.Command{
		Short: "List changes that people made, newest first",
		Long: "Lists who did what to which object, from where, and what changed by it, newest first: by command, by the\n" +
			"API, and who was refused. Secrets are not in it.",
		Example: "  attune audit list --object tour.summarize_load --since 7d\n  attune audit list --actor 'token ci' -o json",
	}, list[api.AuditEntry]{
		noun:        "change",
		newestFirst: true,
		ask:         narrowed((*api.Client).Audit, &filter),
		name:        func(e *api.AuditEntry) string { return strconv.FormatInt(e.ID, 10) },
		columns: []column[api.AuditEntry]{
			numberColumn("id", func(e *api.AuditEntry) int64 { return e.ID }).onlyWide(),
			textColumn("time", func(e *api.AuditEntry) string { return e.CreatedAt.Local().Format(time.DateTime) }),
			textColumn("actor", func(e *api.AuditEntry) string { return e.Actor }),
			textColumn("origin", func(e *api.AuditEntry) string { return e.Origin }).onlyWide(),
			textColumn("action", func(e *api.AuditEntry) string { return e.Action }),
			textColumn("object", func(e *api.AuditEntry) string { return e.Object }),
			textColumn("request", func(e *api.AuditEntry) string { return e.RequestID }).onlyWide(),
			textColumn("change", auditChange),
		},
	})
	f := cmd.Flags()
	f.StringVar(&filter.Actor, "actor", "", "only by this user, or 'token NAME'")
	f.StringVar(&filter.Action, "action", "", "only what was done, such as 'cancel execution'")
	f.StringVar(&filter.Object, "object", "", "only to this ref, id or name")
	f.StringVar(&filter.Origin, "origin", "", "only from this address, or 'unix socket'")
	sinceFlag(cmd, &filter.Since)
	beforeFlag(cmd, &filter.Before)
	limitFlag(cmd, &filter.Limit, 100)
	return cmd
}

// auditChange tells on one line what was, what became of it, and the rest.
func auditChange(e *api.AuditEntry) string {
	said := func(text json.RawMessage) string {
		switch s := string(text); s {
		case "{}", "null":
			return ""
		default:
			return s
		}
	}
	before, after, detail := said(e.Before), said(e.After), said(e.Detail)
	if before != "" && after != "" {
		before += " -> "
	}
	if detail != "" && before+after != "" {
		detail = " " + detail
	}
	return before + after + detail
}
