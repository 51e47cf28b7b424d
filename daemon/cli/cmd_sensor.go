package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/exec/sensor"
	"github.com/attune-io/attune/reconcile/manifest"
)

func (c *command) sensorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "sensor",
		Aliases: []string{"sensors"},
		Short:   "Look at sensors, their state and their logs",
	}
	cmd.AddCommand(c.sensorList(), c.sensorShow(), c.sensorLogs(), c.sensorRestart(), c.sensorTest())
	cmd.AddCommand(c.switchCommands(manifest.KindSensor, "Their processes are stopped.")...)
	return cmd
}

func (c *command) sensorList() *cobra.Command {
	var filter api.ComponentFilter
	cmd := listCommand(c, &cobra.Command{
		Short:   "List the sensors in force and what their processes do",
		Example: "  attune sensor list --state backoff",
	}, list[api.Sensor]{
		noun:    "sensor",
		ask:     narrowed((*api.Client).Sensors, &filter),
		name:    func(s *api.Sensor) string { return s.Ref },
		columns: sensorColumns(),
	})
	componentFlags(cmd, &filter)
	cmd.Flags().StringVar(&filter.State, "state", "", "only in this state: running, idle, backoff, …")
	oneOf(cmd, "state", sensorStates)
	return cmd
}

func sensorColumns() []column[api.Sensor] {
	return []column[api.Sensor]{
		textColumn("sensor", func(s *api.Sensor) string { return s.Ref }),
		stateColumn("state", func(s *api.Sensor) string { return s.State }),
		textColumn("pid", func(s *api.Sensor) string {
			if s.PID == nil {
				return "-"
			}
			return fmt.Sprint(*s.PID)
		}),
		ageColumn("up", func(s *api.Sensor) *time.Time { return s.StartedAt }),
		numberColumn("restarts", func(s *api.Sensor) int64 { return s.Restarts }),
		numberColumn("events", func(s *api.Sensor) int64 { return s.Events }).moves(),
		ageColumn("last", func(s *api.Sensor) *time.Time { return s.LastEventAt }),
		numberColumn("bad lines", func(s *api.Sensor) int64 { return s.BadLines }).onlyWide().moves(),
		textColumn("last exit", func(s *api.Sensor) string { return s.LastExit }).onlyWide(),
		textColumn("problem", func(s *api.Sensor) string { return s.Problem }),
	}
}

func (c *command) sensorShow() *cobra.Command {
	return byRef(c, &cobra.Command{
		Use:     "show REF",
		Aliases: []string{"get"},
		Short:   "Show a sensor, its process and its last words",
		Example: "  attune sensor show core.interval_timer_sensor",
	}, "sensor", (*api.Client).Sensor, c.sensorScreen)
}

func (c *command) sensorScreen(w io.Writer, s *api.Sensor) {
	now := time.Now()
	state := c.paint(status(s.State).style, s.State)
	if s.PID != nil {
		state += fmt.Sprintf(", pid %d, up %s", *s.PID, agePtr(now, s.StartedAt))
	}
	if s.NextStart != nil {
		state += fmt.Sprintf(", starts again in %s", span(s.NextStart.Sub(now)))
	}
	events := fmt.Sprintf("%d, %.1f a minute", s.Events, s.EventsPerMinute)
	if s.LastEventAt != nil {
		events += fmt.Sprintf(", the last %s ago", agePtr(now, s.LastEventAt))
	}
	blocked := ""
	if s.BlockedSeconds >= 1 {
		blocked = span(time.Duration(s.BlockedSeconds * float64(time.Second)))
	}
	c.componentFields(w, "sensor", &s.Component, [][2]string{
		{"state", state},
		{"problem", s.Problem},
		{"restarts", fmt.Sprint(s.Restarts)},
		{"last exit", s.LastExit},
		{"events", events},
		{"bad lines", fmt.Sprint(s.BadLines)},
		{"blocked", blocked},
		{"cursor", cursorText(s.Cursor)},
		{"triggers", strings.Join(s.TriggerTypes, ", ")},
		{"runner", s.RunnerType},
		{"entry point", s.EntryPoint},
	})
	if len(s.Stderr) > 0 {
		fmt.Fprintf(w, "\n%s\n", c.paint(styleDim, "LAST LINES OF ITS LOG"))
		for _, line := range s.Stderr {
			fmt.Fprintln(w, line)
		}
	}
}

// cursorText is a cursor in one line, or its beginning.
func cursorText(cursor []byte) string {
	const most = 100 // characters; the whole is in -o json
	if text := []rune(string(cursor)); len(text) > most {
		return string(text[:most]) + "…"
	}
	return string(cursor)
}

func (c *command) sensorLogs() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:     "logs REF",
		Short:   "Print what a sensor wrote to its stderr",
		Example: "  attune sensor logs -f tour.load",
		Args:    needOne("sensor"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			tell := func(line string) error {
				_, err := fmt.Fprintln(c.sys.Stdout, line)
				return err
			}
			if !follow {
				return client.SensorLogs(cmd.Context(), args[0], false, tell)
			}
			return quietly(cmd.Context(), client.StreamSensorLogs(cmd.Context(), args[0], api.Follow[api.LogLine]{
				Item: func(line *api.LogLine) error { return tell(line.Text) },
				Gap: func(gap *api.Gap) error {
					c.note("not all is told: %s", gap.Reason)
					return nil
				},
				Away: func(err error) error {
					c.note("%v; waiting for it", err)
					return nil
				},
			}))
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	return cmd
}

func (c *command) sensorRestart() *cobra.Command {
	return byRef(c, &cobra.Command{
		Use:     "restart REF",
		Short:   "Restart a sensor now, whatever its backoff",
		Example: "  attune sensor restart tour.load",
	}, "sensor", (*api.Client).RestartSensor, func(w io.Writer, s *api.Sensor) {
		if s.State == string(sensor.StateIdle) {
			fmt.Fprintf(w, "%s is idle, and there is nothing to restart: %s\n", s.Ref, s.Problem)
			return
		}
		fmt.Fprintf(w, "%s is restarting\n", s.Ref)
	})
}
