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
	run := c.runCommand()
	run.Example = strings.ReplaceAll(run.Example, "attune run", "attune action run")
	cmd.AddCommand(c.actionList(), c.actionShow(), run)
	cmd.AddCommand(c.switchCommands(manifest.KindAction, "No execution of them is started any more: those that wait fail when their turn comes, and those that\n"+
		"run are left to end (see `attune execution cancel`). Rules go on with what else they do.")...)
	return cmd
}

func (c *command) actionList() *cobra.Command {
	var filter api.ComponentFilter
	cmd := listCommand(c, &cobra.Command{
		Short:   "List the actions in force",
		Example: "  attune action list --pack core",
	}, list[api.Action]{
		noun:    "action",
		changes: true,
		ask:     narrowed((*api.Client).Actions, &filter),
		name:    func(a *api.Action) string { return a.Ref },
		columns: []column[api.Action]{
			textColumn("ref", func(a *api.Action) string { return a.Ref }),
			textColumn("runner", func(a *api.Action) string { return a.RunnerType }),
			{title: "enabled", cell: func(_ time.Time, a *api.Action) cell { return componentEnabledCell(&a.Component) }},
			textColumn("entry point", func(a *api.Action) string { return a.EntryPoint }).onlyWide(),
			textColumn("runs from", func(a *api.Action) string { return short(a.Digest) }).onlyWide(),
			textColumn("description", func(a *api.Action) string { return a.Description }),
		},
	})
	componentFlags(cmd, &filter)
	return cmd
}

func (c *command) actionShow() *cobra.Command {
	return byRef(c, &cobra.Command{
		Use:     "show REF",
		Aliases: []string{"get"},
		Short:   "Show an action and its parameters",
		Example: "  attune action show core.http_request",
	}, "action", (*api.Client).Action, c.actionScreen)
}

func (c *command) actionScreen(w io.Writer, a *api.Action) {
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
}

// componentFields prints what all components have in common, then what is the kind's own.
func (c *command) componentFields(w io.Writer, kind string, h *api.Component, more [][2]string) {
	fields := [][2]string{
		{kind, h.Ref},
		{"label", h.Label},
		{"description", h.Description},
		{"enabled", enabledText(h.Enabled, h.WhyDisabled)},
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
	case p.Default != nil && p.Secret:
		return manifest.Mask
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
