package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
)

// switchCommands are enable and disable, which packs and all kinds of component have alike.
func (c *command) switchCommands(kind manifest.Kind, effect string) []*cobra.Command {
	return []*cobra.Command{c.switchCommand(kind, true, ""), c.switchCommand(kind, false, effect)}
}

// switchFlags are what enable and disable take beside refs.
type switchFlags struct {
	pack   string
	reason string
	yes    bool
	force  bool
}

func (c *command) switchCommand(kind manifest.Kind, enable bool, effect string) *cobra.Command {
	var flags switchFlags
	verb, short := "disable", fmt.Sprintf("Switch %ss off, until somebody enables them again", kind)
	long := fmt.Sprintf("Switches %ss off at once. It outlives edits, reloads and restarts: whatever the files say, they\n"+
		"stay off until `attune %s enable`.", kind, kind)
	if effect != "" {
		long += "\n\n" + effect
	}
	if enable {
		verb, short = "enable", fmt.Sprintf("Take back what `attune %s disable` said", kind)
		long = fmt.Sprintf("Takes back what `attune %s disable` said. What a manifest itself switches off by `enabled: false`\n"+
			"stays off: that is for an edit to change. Exits 1 if one of them is not in force afterwards.", kind)
	}
	example := fmt.Sprintf("  attune %s %s tour.summarize_load", kind, verb)
	if kind == manifest.KindPack {
		example = fmt.Sprintf("  attune %s %s tour", kind, verb)
	} else {
		example += fmt.Sprintf("\n  attune %s %s --pack tour --yes", kind, verb)
	}
	cmd := &cobra.Command{
		Use:     verb + " REF…",
		Short:   short,
		Long:    long,
		Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.runSwitch(cmd.Context(), kind, enable, args, flags)
		},
	}
	if kind == manifest.KindPack {
		if !enable {
			cmd.Flags().BoolVar(&flags.force, "force", false, "also a pack of the system, which others rely on")
		}
	} else {
		cmd.Flags().StringVar(&flags.pack, "pack", "", fmt.Sprintf("all %ss of this pack, after a question", kind))
		cmd.Flags().BoolVar(&flags.yes, "yes", false, "do not ask")
	}
	if !enable {
		cmd.Flags().StringVar(&flags.reason, "reason", "", "why, for whoever wonders later")
	}
	return cmd
}

func (c *command) runSwitch(ctx context.Context, kind manifest.Kind, enable bool, refs []string, flags switchFlags) error {
	verb := "disable"
	if enable {
		verb = "enable"
	}
	switch {
	case len(refs) > 0 && flags.pack != "":
		return usagef("cannot %s %ss: name them, or a pack with --pack, not both", verb, kind)
	case len(refs) == 0 && flags.pack == "" && kind == manifest.KindPack:
		return usagef("cannot %s a pack: name it", verb)
	case len(refs) == 0 && flags.pack == "":
		return usagef("cannot %s %ss: name them, or a pack with --pack", verb, kind)
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Close()
	if flags.pack != "" {
		if refs, err = c.refsOfPack(ctx, client, kind, flags.pack, enable); err != nil {
			return err
		}
		if len(refs) == 0 {
			c.note("no %s to %s in pack %s", kind, verb, flags.pack)
			return nil
		}
		question := fmt.Sprintf("%s %s of pack %s (%s)", strings.ToUpper(verb[:1])+verb[1:], count(len(refs), string(kind)), flags.pack, someOf(refs))
		if err := c.confirm(question, flags.yes); err != nil {
			return err
		}
	}
	asked := api.NewSwitch{Kind: kind, Refs: refs, Reason: flags.reason, Force: flags.force}
	result, err := client.Switch(ctx, asked, enable)
	if err != nil {
		return err
	}
	err = c.print(result, func(w io.Writer) { c.switchedScreen(w, result, enable) })
	if err != nil || !enable {
		return err
	}
	for _, item := range result.Items {
		if !item.Enabled {
			return &exitError{exitFailed}
		}
	}
	return nil
}

func (c *command) switchedScreen(w io.Writer, result *api.Switched, enable bool) {
	for _, item := range result.Items {
		switch {
		case enable && item.Enabled && item.Changed:
			fmt.Fprintf(w, "%s %s is enabled\n", item.Kind, item.Ref)
		case enable && item.Enabled:
			fmt.Fprintf(w, "%s %s was enabled already\n", item.Kind, item.Ref)
		case enable:
			fmt.Fprintf(w, "%s %s is still disabled: %s\n", item.Kind, item.Ref, item.WhyDisabled)
		case item.Changed:
			fmt.Fprintf(w, "%s %s is disabled\n", item.Kind, item.Ref)
		default:
			fmt.Fprintf(w, "%s %s was disabled already: %s\n", item.Kind, item.Ref, item.WhyDisabled)
		}
	}
}

// refsOfPack lists the components of a pack that a switch would change.
func (c *command) refsOfPack(ctx context.Context, client *api.Client, kind manifest.Kind, pack string, enable bool) ([]string, error) {
	detail, err := client.Pack(ctx, pack)
	if err != nil {
		return nil, err
	}
	states := map[manifest.Kind][]api.ComponentState{
		manifest.KindAction: detail.Actions, manifest.KindTrigger: detail.Triggers,
		manifest.KindSensor: detail.Sensors, manifest.KindRule: detail.Rules,
	}
	var refs []string
	for _, s := range states[kind] {
		if s.Present && (s.DisabledBy != nil) == enable {
			refs = append(refs, s.Ref)
		}
	}
	return refs, nil
}

// someOf names the first of many.
func someOf(refs []string) string {
	const most = 5
	if len(refs) <= most {
		return strings.Join(refs, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(refs[:most], ", "), len(refs)-most)
}
