package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
)

func (c *command) pauseCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "pause",
		Short: "Have no node begin anything more, until resume",
		Long: "Has no node begin an execution any more, until `attune resume`, also over restarts. What runs goes on.\n" +
			"Sensors, timers and webhooks go on too: their events, and what rules queue for them, are recorded and\n" +
			"wait. To be rid of what has queued, cancel it before you resume.",
		Example: "  attune pause --reason 'the storage moves'\n  attune execution cancel --status requested\n  attune resume",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return ask(cmd.Context(), c, func(client *api.Client, ctx context.Context) (*api.Paused, error) {
				return client.Pause(ctx, api.NewPause{Reason: reason})
			}, func(w io.Writer, p *api.Paused) {
				if !p.Changed {
					fmt.Fprintf(w, "%s has paused everything already, %s ago\n", p.Pause.By, age(time.Now(), p.Pause.At))
					return
				}
				fmt.Fprintln(w, "paused: what runs goes on, and nothing more is begun until `attune resume`")
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for whoever wonders later")
	return cmd
}

func (c *command) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "resume",
		Short:   "End a pause: what has queued meanwhile is begun",
		Example: "  attune resume",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return ask(cmd.Context(), c, (*api.Client).Resume, func(w io.Writer, p *api.Paused) {
				if !p.Changed {
					fmt.Fprintln(w, "nothing was paused")
					return
				}
				fmt.Fprintf(w, "resumed; %s had paused everything %s ago\n", p.Pause.By, age(time.Now(), p.Pause.At))
			})
		},
	}
}
