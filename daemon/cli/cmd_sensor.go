package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
)

func (c *command) sensorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "sensor",
		Aliases: []string{"sensors"},
		Short:   "Look at sensors, their state and their logs",
	}
	cmd.AddCommand(c.sensorList(), c.sensorShow(), c.sensorLogs(), c.sensorRestart())
	return cmd
}

func (c *command) sensorList() *cobra.Command {
	var filter api.ComponentFilter
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the sensors in force and what their processes do",
		Example: "  attune sensor list --state backoff",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			sensors, err := client.Sensors(cmd.Context(), filter)
			if err != nil {
				return err
			}
			return c.printList(sensors, len(sensors), "sensor", func(w io.Writer) { c.sensorTable(w, sensors, time.Now()) })
		},
	}
	componentFlags(cmd, &filter)
	cmd.Flags().StringVar(&filter.State, "state", "", "only in this state: running, idle, backoff, …")
	return cmd
}

func (c *command) sensorTable(w io.Writer, sensors []api.Sensor, now time.Time) {
	var rows [][]cell
	for _, s := range sensors {
		pid := "-"
		if s.PID != nil {
			pid = fmt.Sprint(*s.PID)
		}
		rows = append(rows, []cell{
			plain(s.Ref), status(s.State), plain(pid), plain(agePtr(now, s.StartedAt)), plain(fmt.Sprint(s.Restarts)),
			plain(fmt.Sprint(s.Events)), plain(agePtr(now, s.LastEventAt)), plain(s.Problem),
		})
	}
	c.table(w, []string{"sensor", "state", "pid", "up", "restarts", "events", "last", "problem"}, rows)
}

func (c *command) sensorShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show REF",
		Aliases: []string{"get"},
		Short:   "Show a sensor, its process and its last words",
		Example: "  attune sensor show core.interval_timer_sensor",
		Args:    needOne("sensor"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			s, err := client.Sensor(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.print(s, func(w io.Writer) { c.sensorScreen(w, s) })
		},
	}
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
			return client.SensorLogs(cmd.Context(), args[0], follow, func(line string) error {
				_, err := fmt.Fprintln(c.sys.Stdout, line)
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	return cmd
}

func (c *command) sensorRestart() *cobra.Command {
	return &cobra.Command{
		Use:     "restart REF",
		Short:   "Restart a sensor now, whatever its backoff",
		Example: "  attune sensor restart tour.load",
		Args:    needOne("sensor"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			s, err := client.RestartSensor(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.print(s, func(w io.Writer) { fmt.Fprintf(w, "%s is restarting\n", s.Ref) })
		},
	}
}
