package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
)

func (c *command) sensorTest() *cobra.Command {
	var most int
	var lasts time.Duration
	cmd := &cobra.Command{
		Use:   "test REF",
		Short: "Run a sensor and show what it would emit, storing nothing",
		Long: "Runs a second process of a sensor in force, with its real environment, configuration, secrets and cursor, and\n" +
			"shows each event that it would emit and the rules that would match, its stderr, and its lines that are no\n" +
			"event. It ends with Ctrl-C, with --events or --for. Events are acknowledged as if they were stored.\n\n" +
			"What the sensor itself does outside Attune it does: it writes to its data folder, and may find its port in use\n" +
			"by the process that is supervised. A disabled sensor can be tried.\n\n" +
			"With -o json each line is printed as one JSON object, with -o yaml as a document, as it comes.\n\n" +
			"Exits 0 when it was told to end or the sensor exited 0, 1 otherwise.",
		Example: "  attune sensor test tour.load --events 3",
		Args:    needOne("sensor"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if most < 0 || lasts < 0 {
				return usagef("cannot run it for less than nothing: --events and --for are not negative")
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			defer client.Close()
			ctx := cmd.Context()
			if lasts > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, lasts)
				defer cancel()
			}
			run := sensorTrial{command: c, encoder: json.NewEncoder(c.sys.Stdout), most: most}
			run.encoder.SetEscapeHTML(false)
			err = client.TrySensor(ctx, args[0], run.line)
			switch {
			case errors.Is(err, errEnough), ctx.Err() != nil && lasts > 0 && cmd.Context().Err() == nil:
				return nil
			case cmd.Context().Err() != nil && run.started:
				return nil // Ctrl-C is how it is ended
			case err != nil:
				return err
			case run.exit != "exit 0":
				return &exitError{exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&most, "events", 0, "end after so many events")
	cmd.Flags().DurationVar(&lasts, "for", 0, "end after this time, such as 30s")
	return cmd
}

// errEnough ends a trial that has shown what was wanted.
var errEnough = errors.New("enough events")

// sensorTrial prints a trial as it comes.
type sensorTrial struct {
	*command
	encoder *json.Encoder
	most    int
	events  int
	started bool
	exit    string
}

func (t *sensorTrial) line(line *api.SensorTrialLine) error {
	if line.Error != nil {
		return line.Error
	}
	t.started = t.started || line.Started != nil
	if line.Exit != nil {
		t.exit = *line.Exit
	}
	switch t.output {
	case outputTable:
		t.people(line)
	case outputYAML:
		text, err := manifest.FormatYAML(line)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(t.sys.Stdout, "---\n%s", text); err != nil {
			return err
		}
	default:
		if err := t.encoder.Encode(line); err != nil {
			return err
		}
	}
	if line.Event != nil {
		if t.events++; t.events == t.most {
			return errEnough
		}
	}
	return nil
}

func (t *sensorTrial) people(line *api.SensorTrialLine) {
	out := t.sys.Stdout
	label := func(style, name string) string { return t.paint(style, fmt.Sprintf("%-8s", name)) }
	switch {
	case line.Started != nil:
		fmt.Fprintf(out, "%s pid %d, from revision %s\n", label(styleGood, "started"), line.Started.PID, short(line.Started.Digest))
	case line.Event != nil:
		t.event(line.Event)
	case line.Cursor != nil:
		fmt.Fprintf(out, "%s %s\n", label(styleDim, "cursor"), line.Cursor)
	case line.Log != nil:
		fmt.Fprintf(out, "%s %s\n", label(styleDim, "stderr"), *line.Log)
	case line.Note != nil:
		fmt.Fprintf(out, "%s %s\n", label(styleWarn, "warning"), *line.Note)
	case line.Exit != nil:
		fmt.Fprintf(out, "%s %s\n", label(styleDim, "ended"), *line.Exit)
	}
}

func (t *sensorTrial) event(e *api.SensorTrialEvent) {
	out := t.sys.Stdout
	target := e.Trigger
	if e.Instance != "" {
		target = e.Instance
	}
	fmt.Fprintf(out, "%s %s %s", t.paint(styleBusy, fmt.Sprintf("%-8s", "event")), target, e.Payload)
	if e.EventID != "" {
		fmt.Fprintf(out, " event_id=%s", e.EventID)
	}
	if e.Cursor != nil {
		fmt.Fprintf(out, " cursor=%s", e.Cursor)
	}
	fmt.Fprintln(out)
	if e.Refused != "" {
		fmt.Fprintf(out, "  %s %s\n", t.paint(styleBad, "would be refused:"), e.Refused)
		return
	}
	if e.Problem != "" {
		fmt.Fprintf(out, "  %s %s\n", t.paint(styleWarn, "flagged:"), e.Problem)
	}
	for _, r := range e.Rules {
		fmt.Fprintf(out, "  %s %s", t.paint(outcomeStyle(r.Outcome), outcomeText(r.Outcome)), r.Rule)
		if r.Reason != "" {
			fmt.Fprintf(out, ": %s", r.Reason)
		}
		fmt.Fprintln(out)
		for _, x := range r.Executions {
			fmt.Fprintf(out, "    would run %s %s%s\n", x.Action, x.Parameters, secretsText(x.Secrets))
		}
		for _, limit := range r.Limits {
			fmt.Fprintf(out, "    unless %s\n", limit)
		}
	}
	switch {
	case len(e.Rules) == 0 && e.Others == 0:
		fmt.Fprintln(out, "  no rule waits for it")
	case e.Others > 0:
		noun := "rule"
		if len(e.Rules) > 0 {
			noun = "other rule"
		}
		fmt.Fprintf(out, "  %s on %s would not match\n", count(e.Others, noun), e.Trigger)
	}
}
