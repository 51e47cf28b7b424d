package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
)

func (c *command) triggerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "trigger",
		Aliases: []string{"triggers"},
		Short:   "Look at triggers and fire them by hand",
	}
	cmd.AddCommand(c.triggerList(), c.triggerShow(), c.triggerFire(), c.triggerNext(), c.triggerRotateToken())
	cmd.AddCommand(c.switchCommands(manifest.KindTrigger, "Events of them are refused, so that no rule on them matches.")...)
	return cmd
}

func (c *command) triggerList() *cobra.Command {
	var filter api.ComponentFilter
	cmd := listCommand(c, &cobra.Command{
		Short:   "List the triggers in force",
		Example: "  attune trigger list --type cron",
	}, list[api.Trigger]{
		noun:    "trigger",
		changes: true,
		ask:     narrowed((*api.Client).Triggers, &filter),
		name:    func(t *api.Trigger) string { return t.Ref },
		columns: []column[api.Trigger]{
			textColumn("ref", func(t *api.Trigger) string { return t.Ref }),
			textColumn("type", func(t *api.Trigger) string { return t.Type }),
			{title: "enabled", cell: func(_ time.Time, t *api.Trigger) cell { return componentEnabledCell(&t.Component) }},
			numberColumn("rules", func(t *api.Trigger) int { return len(t.Rules) }),
			textColumn("runs from", func(t *api.Trigger) string { return short(t.Digest) }).onlyWide(),
			textColumn("description", func(t *api.Trigger) string { return t.Description }),
		},
	})
	componentFlags(cmd, &filter)
	cmd.Flags().StringVar(&filter.Type, "type", "", "only of this type: interval, cron, datetime, webhook or custom")
	oneOf(cmd, "type", triggerTypes)
	return cmd
}

func (c *command) triggerShow() *cobra.Command {
	var secrets bool
	cmd := byRef(c, &cobra.Command{
		Use:     "show REF",
		Aliases: []string{"get"},
		Short:   "Show a trigger, its schemas and who waits for it",
		Example: "  attune trigger show core.crontimer\n  attune trigger show tour.called --secrets",
	}, "trigger", func(client *api.Client, ctx context.Context, ref string) (*api.Trigger, error) {
		t, err := client.Trigger(ctx, ref)
		if err != nil || !secrets {
			return t, err
		}
		token, err := client.WebhookToken(ctx, t.Ref)
		if problem, is := errors.AsType[*api.Error](err); is && problem.Code == api.CodeConflict {
			c.note("%s", problem.Detail) // it has none, which is no failure of a look
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		t.WebhookToken = token.Token
		return t, nil
	}, c.triggerScreen)
	cmd.Flags().BoolVar(&secrets, "secrets", false, "with the token that a webhook asks for, which is made at the first look")
	return cmd
}

func (c *command) triggerRotateToken() *cobra.Command {
	var grace string
	cmd := byRef(c, &cobra.Command{
		Use:   "rotate-token REF",
		Short: "Give a webhook a new token",
		Long: "Makes a new token for a webhook that checks no signature, and prints it. The former one stops counting\n" +
			"at once, on other nodes within seconds, or after --grace.",
		Example: "  attune trigger rotate-token tour.called --grace 1h",
	}, "trigger", func(client *api.Client, ctx context.Context, ref string) (*api.WebhookToken, error) {
		return client.RotateWebhookToken(ctx, ref, grace)
	}, func(w io.Writer, t *api.WebhookToken) {
		fmt.Fprintln(w, t.Token)
		if t.FormerUntil != nil {
			c.note("the former token counts until %s", t.FormerUntil.Local().Format(time.DateTime))
		}
	})
	cmd.Flags().StringVar(&grace, "grace", "", "how long the former token counts beside the new one, such as 1h")
	return cmd
}

func (c *command) triggerScreen(w io.Writer, t *api.Trigger) {
	c.componentFields(w, "trigger", &t.Component, [][2]string{
		{"type", t.Type},
		{"url", t.WebhookURL},
		{"token", t.WebhookToken},
		{"rules", strings.Join(t.Rules, ", ")},
	})
	c.schemaTable(w, "parameters", t.ParametersSchema)
	c.schemaTable(w, "payload", t.PayloadSchema)
	if len(t.Instances) == 0 {
		return
	}
	fmt.Fprintln(w)
	printTable(c, w, []column[api.TriggerInstance]{
		textColumn("instance", func(i *api.TriggerInstance) string { return i.ID }),
		ageColumn("last", func(i *api.TriggerInstance) *time.Time { return i.LastDue }),
		textColumn("rules", func(i *api.TriggerInstance) string { return strings.Join(i.Rules, ", ") }),
		textColumn("parameters", func(i *api.TriggerInstance) string { return string(i.Parameters) }),
	}, t.Instances, time.Now())
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
			payload, err := c.parameters(args[1:], trigger.PayloadSchema, "trigger "+args[0])
			if err != nil {
				return err
			}
			if len(payload.secrets) > 0 {
				return usagef("cannot put a secret into an event: events are stored as they are; let the rule name it")
			}
			if fire.Payload, err = json.Marshal(payload.values); err != nil {
				return err
			}
			fired, err := client.Fire(cmd.Context(), args[0], fire)
			if err != nil {
				return err
			}
			c.tellMisfit(fired)
			return c.print(fired, func(w io.Writer) {
				if fired.Duplicate {
					fmt.Fprintf(w, "event %d was there already\n", fired.ID)
					return
				}
				fmt.Fprintf(w, "event %d\n", fired.ID)
				c.enforcements(w, fired.Enforcements)
			})
		},
	}
	cmd.Flags().StringVar(&fire.Instance, "instance", "", "only for the rules of this trigger instance")
	cmd.Flags().StringVar(&fire.EventID, "event-id", "", "makes a repetition harmless: a second event with this id changes nothing")
	return cmd
}
