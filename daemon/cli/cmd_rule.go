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

func (c *command) ruleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rule",
		Aliases: []string{"rules"},
		Short:   "Look at rules, and try them",
	}
	cmd.AddCommand(c.ruleList(), c.ruleShow(), c.ruleTest(), c.ruleReset())
	cmd.AddCommand(c.switchCommands(manifest.KindRule, "They match no event any more. What they have queued goes on (see `attune execution cancel`).")...)
	return cmd
}

func (c *command) ruleList() *cobra.Command {
	var filter api.ComponentFilter
	cmd := listCommand(c, &cobra.Command{
		Short:   "List the rules in force",
		Example: "  attune rule list --trigger core.crontimer",
	}, list[api.Rule]{
		noun: "rule",
		ask:  narrowed((*api.Client).Rules, &filter),
		name: func(r *api.Rule) string { return r.Ref },
		columns: []column[api.Rule]{
			textColumn("ref", func(r *api.Rule) string { return r.Ref }),
			{title: "enabled", cell: func(_ time.Time, r *api.Rule) cell {
				if r.Breaker != nil {
					return cell{"breaker open", styleWarn}
				}
				if len(r.Obstacles) > 0 {
					return cell{"yes, " + string(r.Obstacles[0].Kind) + " off", styleWarn}
				}
				return componentEnabledCell(&r.Component)
			}},
			textColumn("trigger", func(r *api.Rule) string { return r.Trigger }),
			textColumn("action", ruleActionText),
			textColumn("runs from", func(r *api.Rule) string { return short(r.Digest) }).onlyWide(),
			textColumn("when", whenText),
		},
	})
	componentFlags(cmd, &filter)
	refFlag(cmd, &filter.Trigger, manifest.KindTrigger, "trigger", "only of this trigger")
	refFlag(cmd, &filter.Action, manifest.KindAction, "action", "only those that run this action")
	return cmd
}

func ruleActionText(r *api.Rule) string {
	if more := len(r.Actions) - 1; more > 0 {
		return fmt.Sprintf("%s +%d", r.Action, more)
	}
	return r.Action
}

func whenText(r *api.Rule) string {
	if r.When == "" {
		return "always"
	}
	return r.When
}

func (c *command) ruleShow() *cobra.Command {
	return byRef(c, &cobra.Command{
		Use:     "show REF",
		Aliases: []string{"get"},
		Short:   "Show a rule: what it waits for, and what it does then",
		Example: "  attune rule show tour.summarize_load",
	}, "rule", (*api.Client).Rule, c.ruleScreen)
}

func (c *command) ruleScreen(w io.Writer, r *api.Rule) {
	fields := [][2]string{{"trigger", r.Trigger}}
	if len(r.TriggerParameters) > 0 {
		fields = append(fields, [2]string{"with", jsonText(r.TriggerParameters)})
	}
	fields = append(fields, [2]string{"when", whenText(r)}, [2]string{"for each", r.ForEach})
	for _, a := range r.Actions {
		text := a.Action
		if len(a.Parameters) > 0 {
			text += " " + jsonText(a.Parameters)
		}
		fields = append(fields, [2]string{"action", text})
	}
	for _, o := range r.Obstacles {
		effect := "matches nothing"
		if o.Kind == manifest.KindAction {
			effect = "does not run it"
		}
		text := fmt.Sprintf("%s %s is disabled: %s", o.Kind, o.Ref, o.Why)
		if o.Hint != "" {
			text += "; " + o.Hint
		}
		fields = append(fields, [2]string{effect, text})
	}
	for _, limit := range r.Limits {
		name, text, _ := strings.Cut(limit, ": ")
		fields = append(fields, [2]string{name, text})
	}
	if b := r.Breaker; b != nil {
		fields = append(fields, [2]string{"stopped", fmt.Sprintf("the breaker is open since %s, until %s: %s; `attune rule reset %s` closes it",
			b.OpenedAt.Local().Format(time.DateTime), b.OpenUntil.Local().Format(time.DateTime), b.Reason, r.Ref)})
	}
	if r.WaitingForQuiet > 0 {
		fields = append(fields, [2]string{"waiting", fmt.Sprintf("%d until it is quiet", r.WaitingForQuiet)})
	}
	c.componentFields(w, "rule", &r.Component, fields)
}
