package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
)

func (c *command) actionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "action",
		Aliases: []string{"actions"},
		Short:   "Look at actions and run them",
	}
	cmd.AddCommand(c.actionList(), c.actionShow(), c.runCommand())
	return cmd
}

// componentFlags are the filters that all component lists share.
func componentFlags(cmd *cobra.Command, filter *api.ComponentFilter) {
	cmd.Flags().BoolVar(&filter.All, "all", false, "list the disabled and the removed too")
	cmd.Flags().StringVar(&filter.Pack, "pack", "", "only of this pack")
}

func (c *command) actionList() *cobra.Command {
	var filter api.ComponentFilter
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the actions in force",
		Example: "  attune action list --pack core",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			actions, err := client.Actions(cmd.Context(), filter)
			if err != nil {
				return err
			}
			return c.printList(actions, len(actions), "action", func(w io.Writer) {
				var rows [][]cell
				for _, a := range actions {
					rows = append(rows, []cell{plain(a.Ref), plain(a.RunnerType), status(yesNo(a.Enabled)), plain(a.Description)})
				}
				c.table(w, []string{"ref", "runner", "enabled", "description"}, rows)
			})
		},
	}
	componentFlags(cmd, &filter)
	return cmd
}

func (c *command) actionShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show REF",
		Aliases: []string{"get"},
		Short:   "Show an action and its parameters",
		Example: "  attune action show core.http_request",
		Args:    needOne("action"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			a, err := client.Action(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.print(a, func(w io.Writer) {
				timeout := "the daemon's"
				if a.TimeoutSeconds > 0 {
					timeout = fmt.Sprintf("%gs", a.TimeoutSeconds)
				}
				c.componentFields(w, "action", &a.Component, [][2]string{
					{"runner", a.RunnerType},
					{"entry point", a.EntryPoint},
					{"timeout", timeout},
				})
				c.schemaTable(w, "parameters", a.Parameters)
				c.schemaTable(w, "result", a.OutputSchema)
			})
		},
	}
}

// componentFields prints what all components have in common, then what is the kind's own.
func (c *command) componentFields(w io.Writer, kind string, h *api.Component, more [][2]string) {
	fields := [][2]string{
		{kind, h.Ref},
		{"label", h.Label},
		{"description", h.Description},
		{"enabled", enabledText(h.Enabled, h.Present, h.DisabledBy, h.DisabledAt)},
	}
	fields = append(fields, more...)
	fields = append(fields,
		[2]string{"tags", strings.Join(h.Tags, ", ")},
		[2]string{"file", h.Pack + "/" + h.File},
		[2]string{"runs from", short(h.Digest)},
		[2]string{"changed", age(time.Now(), h.UpdatedAt) + " ago"},
	)
	c.fields(w, fields)
	if h.Held {
		fmt.Fprintln(w, c.paint(styleWarn, "The newest version was refused; the last good one is in force:"))
	}
	c.findings(w, h.Errors)
}

// schemaTable prints the top level of a schema.
func (c *command) schemaTable(w io.Writer, title string, schema *manifest.Schema) {
	if schema == nil {
		return
	}
	properties := schema.Properties()
	if len(properties) == 0 {
		return
	}
	fmt.Fprintln(w)
	var rows [][]cell
	for _, p := range properties {
		rows = append(rows, []cell{plain(p.Name), plain(p.Type), plain(defaultText(p)), plain(propertyText(p))})
	}
	c.table(w, []string{title, "type", "default", "description"}, rows)
}

func defaultText(p manifest.Property) string {
	switch {
	case p.Default != nil:
		return jsonText(p.Default)
	case p.Required:
		return "required"
	default:
		return "-"
	}
}

func propertyText(p manifest.Property) string {
	text := p.Description
	if len(p.Enum) > 0 {
		var values []string
		for _, v := range p.Enum {
			values = append(values, fmt.Sprint(v))
		}
		text = strings.TrimSpace(text + " One of " + strings.Join(values, ", ") + ".")
	}
	if p.Secret {
		text = strings.TrimSpace(text + " Secret.")
	}
	return text
}
