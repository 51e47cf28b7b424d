package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
)

func (c *command) triggerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "trigger",
		Aliases: []string{"triggers"},
		Short:   "Look at triggers and fire them by hand",
	}
	cmd.AddCommand(c.triggerList(), c.triggerShow(), c.triggerFire())
	return cmd
}

func (c *command) triggerList() *cobra.Command {
	var filter api.ComponentFilter
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the triggers in force",
		Example: "  attune trigger list --type cron",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			triggers, err := client.Triggers(cmd.Context(), filter)
			if err != nil {
				return err
			}
			return c.printList(triggers, len(triggers), "trigger", func(w io.Writer) {
				var rows [][]cell
				for _, t := range triggers {
					rows = append(rows, []cell{
						plain(t.Ref), plain(t.Type), status(yesNo(t.Enabled)), plain(fmt.Sprint(len(t.Rules))), plain(t.Description),
					})
				}
				c.table(w, []string{"ref", "type", "enabled", "rules", "description"}, rows)
			})
		},
	}
	componentFlags(cmd, &filter)
	cmd.Flags().StringVar(&filter.Type, "type", "", "only of this type: interval, cron, datetime, webhook or custom")
	return cmd
}

func (c *command) triggerShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show REF",
		Aliases: []string{"get"},
		Short:   "Show a trigger, its schemas and who waits for it",
		Example: "  attune trigger show core.crontimer",
		Args:    needOne("trigger"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			t, err := client.Trigger(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.print(t, func(w io.Writer) {
				c.componentFields(w, "trigger", &t.Component, [][2]string{
					{"type", t.Type},
					{"rules", strings.Join(t.Rules, ", ")},
				})
				c.schemaTable(w, "parameters", t.ParametersSchema)
				c.schemaTable(w, "payload", t.PayloadSchema)
				if len(t.Instances) == 0 {
					return
				}
				fmt.Fprintln(w)
				var rows [][]cell
				for _, i := range t.Instances {
					rows = append(rows, []cell{
						plain(i.ID), plain(agePtr(time.Now(), i.LastDue)), plain(strings.Join(i.Rules, ", ")), plain(string(i.Parameters)),
					})
				}
				c.table(w, []string{"instance", "last", "rules", "parameters"}, rows)
			})
		},
	}
}

func (c *command) triggerFire() *cobra.Command {
	var fire api.Fire
	cmd := &cobra.Command{
		Use:   "fire REF [NAME=VALUE…|@FILE|-]",
		Short: "Store an event of a trigger, as if a sensor had seen it",
		Long: "Stores an event of a trigger with the given payload, and tells which rules matched it and what they\n" +
			"queued. Values are read by the payload's schema; @FILE and - read the payload as one JSON object.",
		Example: "  attune trigger fire tour.load_sampled load=3.5 cores=2",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			trigger, err := client.Trigger(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			payload, err := c.values(args[1:], trigger.PayloadSchema)
			if err != nil {
				return err
			}
			if fire.Payload, err = json.Marshal(payload); err != nil {
				return err
			}
			fired, err := client.Fire(cmd.Context(), args[0], fire)
			if err != nil {
				return err
			}
			return c.print(fired, func(w io.Writer) {
				if fired.Duplicate {
					fmt.Fprintf(w, "event %d was there already\n", fired.ID)
					return
				}
				fmt.Fprintf(w, "event %d\n", fired.ID)
				c.eventNote(w, &fired.Event)
				c.enforcements(w, fired.Enforcements)
			})
		},
	}
	cmd.Flags().StringVar(&fire.Instance, "instance", "", "only for the rules of this trigger instance")
	cmd.Flags().StringVar(&fire.EventID, "event-id", "", "makes a repetition harmless: a second event with this id changes nothing")
	return cmd
}
