package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// topPeriod is how often the daemon is asked, and topPatience how long it gets: one that hangs must not
	// look like one that has nothing to do.
	topPeriod   = time.Second
	topPatience = 5 * time.Second

	// topMost is how many executions are asked for: more than any screen has lines.
	topMost = 200

	// topFrames is how often a second the screen may be drawn: nothing on it is quicker.
	topFrames = 10
)

func (c *command) topCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "top",
		Short: "Watch executions, sensors and errors on a screen, and act on them",
		Long: "Shows executions, sensors, what failed and what is wrong with packs on one screen, asked anew each\n" +
			"second. Tab, or a number, goes to another list, the arrows to a line, Enter looks inside; c cancels an\n" +
			"execution, r repeats one, or restarts a sensor, p pauses or resumes all, q leaves. A daemon that goes away\n" +
			"is waited for.",
		Example: "  attune top",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, isTerminal := c.terminalWidth(); !isTerminal {
				return &usageError{text: "cannot draw a screen: stdout is not a terminal", hint: "Try `attune status`, or `attune execution list --watch`."}
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Close()
			program := tea.NewProgram(newTop(c, &topDaemon{ctx: cmd.Context(), client: client}),
				tea.WithContext(cmd.Context()), tea.WithInput(c.sys.Stdin), tea.WithOutput(c.sys.Stdout),
				tea.WithEnvironment(c.sys.Environ), tea.WithFPS(topFrames))
			_, err = program.Run()
			if errors.Is(err, tea.ErrInterrupted) || cmd.Context().Err() != nil {
				return nil
			}
			return err
		},
	}
}

// What the screen is told.
type (
	// topData is what the daemon says; err, that it does not.
	topData struct {
		status *api.Status
		active []api.Execution // that wait or run
		ended  []api.Execution
		failed []api.Execution
		err    error
	}
	// topDetail is the inside of a line.
	topDetail struct {
		of   string
		text string
	}
	// topDone is what became of an order.
	topDone struct {
		text string
		err  error
	}
	// topTick says that it is time to ask again.
	topTick time.Time
)

// topDaemon asks and orders, for one screen.
type topDaemon struct {
	ctx    context.Context //nolint:containedctx // it is the command's own, and ends with it
	client *api.Client
}

// look asks for all that a screen shows.
func (d *topDaemon) look() tea.Msg {
	ctx, cancel := context.WithTimeout(d.ctx, topPatience)
	defer cancel()
	var data topData
	data.status, data.err = d.client.Status(ctx)
	for _, list := range []struct {
		into   *[]api.Execution
		status []store.Status
	}{
		{&data.active, []store.Status{store.StatusRunning, store.StatusRequested, store.StatusScheduled}},
		{&data.ended, nil},
		{&data.failed, []store.Status{store.StatusFailed, store.StatusTimedOut, store.StatusLost}},
	} {
		if data.err != nil {
			break
		}
		*list.into, data.err = d.client.Executions(ctx, api.ExecutionFilter{Status: list.status, Limit: topMost})
	}
	return data
}

// inside asks for what stands behind a line.
func (d *topDaemon) inside(c *command, line *topLine) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(d.ctx, topPatience)
		defer cancel()
		detail := topDetail{of: line.key}
		switch {
		case line.execution != 0:
			e, err := d.client.Execution(ctx, line.execution)
			if err != nil {
				return topDone{err: err}
			}
			detail.text = c.screenText(func(c *command, w *screenBuffer) { c.executionScreen(w, e) })
		case line.sensor != "":
			s, err := d.client.Sensor(ctx, line.sensor)
			if err != nil {
				return topDone{err: err}
			}
			detail.text = c.screenText(func(c *command, w *screenBuffer) { c.sensorScreen(w, s) })
		default:
			detail.text = line.text
		}
		return detail
	}
}

// order has the daemon do something, and tells what came of it.
func (d *topDaemon) order(do func(context.Context, *api.Client) (string, error)) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(d.ctx, topPatience)
		defer cancel()
		text, err := do(ctx, d.client)
		return topDone{text: text, err: err}
	}
}

func cancelOrder(id int64) func(context.Context, *api.Client) (string, error) {
	return func(ctx context.Context, client *api.Client) (string, error) {
		_, err := client.Cancel(ctx, id)
		return fmt.Sprintf("execution %d is being cancelled", id), err
	}
}

func rerunOrder(id int64) func(context.Context, *api.Client) (string, error) {
	return func(ctx context.Context, client *api.Client) (string, error) {
		again, err := client.Rerun(ctx, id, api.AsNow)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("execution %d repeats %d", again.ID, id), nil
	}
}

func restartOrder(ref string) func(context.Context, *api.Client) (string, error) {
	return func(ctx context.Context, client *api.Client) (string, error) {
		_, err := client.RestartSensor(ctx, ref)
		return "sensor " + ref + " is being restarted", err
	}
}

func pauseOrder(isPaused bool) func(context.Context, *api.Client) (string, error) {
	return func(ctx context.Context, client *api.Client) (string, error) {
		if isPaused {
			_, err := client.Resume(ctx)
			return "resumed", err
		}
		_, err := client.Pause(ctx, api.NewPause{Reason: "attune top"})
		return "paused", err
	}
}
