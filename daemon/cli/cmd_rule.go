package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
)

func (c *command) ruleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rule",
		Aliases: []string{"rules"},
		Short:   "Look at rules",
	}
	cmd.AddCommand(c.ruleList(), c.ruleShow())
	return cmd
}

func (c *command) ruleList() *cobra.Command {
	var filter api.ComponentFilter
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the rules in force",
		Example: "  attune rule list --trigger core.crontimer",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			rules, err := client.Rules(cmd.Context(), filter)
			if err != nil {
				return err
			}
			return c.printList(rules, len(rules), "rule", func(w io.Writer) {
				c.table(w, []string{"ref", "enabled", "trigger", "action", "when"}, ruleRows(rules))
			})
		},
	}
	componentFlags(cmd, &filter)
	cmd.Flags().StringVar(&filter.Trigger, "trigger", "", "only of this trigger")
	cmd.Flags().StringVar(&filter.Action, "action", "", "only those that run this action")
	return cmd
}

func ruleRows(rules []api.Rule) [][]cell {
	var rows [][]cell
	for _, r := range rules {
		action := r.Action
		if len(r.Actions) > 1 {
			action += fmt.Sprintf(" +%d", len(r.Actions)-1)
		}
		when := r.When
		if when == "" {
			when = "always"
		}
		rows = append(rows, []cell{plain(r.Ref), status(yesNo(r.Enabled)), plain(r.Trigger), plain(action), plain(when)})
	}
	return rows
}

func (c *command) ruleShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show REF",
		Aliases: []string{"get"},
		Short:   "Show a rule: what it waits for, and what it does then",
		Example: "  attune rule show tour.summarize_load",
		Args:    needOne("rule"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			r, err := client.Rule(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.print(r, func(w io.Writer) {
				fields := [][2]string{{"trigger", r.Trigger}}
				if len(r.TriggerParameters) > 0 {
					fields = append(fields, [2]string{"with", jsonText(r.TriggerParameters)})
				}
				when := r.When
				if when == "" {
					when = "always"
				}
				fields = append(fields, [2]string{"when", when}, [2]string{"for each", r.ForEach})
				for _, a := range r.Actions {
					text := a.Action
					if len(a.Parameters) > 0 {
						text += " " + jsonText(a.Parameters)
					}
					fields = append(fields, [2]string{"action", text})
				}
				c.componentFields(w, "rule", &r.Component, fields)
			})
		},
	}
}
