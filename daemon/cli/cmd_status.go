package cli

import (
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon/api"
)

func (c *command) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Show on one screen how the daemon is doing",
		Example: "  attune status\n  attune status -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return ask(cmd.Context(), c, (*api.Client).Status, c.statusScreen)
		},
	}
}

func (c *command) statusScreen(w io.Writer, s *api.Status) {
	state := c.paint(styleGood, "ready")
	if !s.Ready {
		state = c.paint(styleBad, "not ready")
	}
	if p := s.Queue.Pause; p != nil {
		fmt.Fprintln(w, c.paint(styleBad, pausedLine(p, s.Time)))
	}
	c.fields(w, [][2]string{
		{"attune", fmt.Sprintf("%s, %s, up %s, pid %d", s.Version, state, age(s.Time, s.StartedAt), s.PID)},
		{"packs", packsLine(s.Packs)},
		{"errors", c.errorsLine(s.Packs)},
		{"pinned", pinnedLine(s.Packs)},
		{"components", strings.Join([]string{
			count(s.Components.Actions, "action"), count(s.Components.Triggers, "trigger"),
			count(s.Components.Sensors, "sensor"), count(s.Components.Rules, "rule"),
		}, ", ")},
		{"sensors", sensorsLine(s.Sensors)},
		{"queue", queueLine(s)},
		{"database", databaseLine(s.Database)},
		{"reconcile", reconcileLine(s)},
		{"state", s.StateDirectory},
		{"socket", s.Socket},
		{"url", s.URL},
	})
	const mostDrift = 8 // what leaves room on a screen
	for i, drift := range s.Reconcile.Drift {
		if i == mostDrift {
			fmt.Fprintf(w, "%s %d more packs are not what their folders say\n", c.paint(styleWarn, "!"), len(s.Reconcile.Drift)-i)
			break
		}
		fmt.Fprintf(w, "%s pack %s: %s\n", c.paint(styleWarn, "!"), drift.Pack, driftText(&drift))
	}
	for _, problem := range s.Problems {
		fmt.Fprintf(w, "%s %s\n", c.paint(styleWarn, "!"), problem)
	}
	if len(s.Sensors) > 0 {
		fmt.Fprintln(w)
		printTable(c, w, sensorColumns(), s.Sensors, s.Time)
	}
}

// pausedLine says that nothing goes on, before anything else is said.
func pausedLine(p *api.Pause, now time.Time) string {
	line := fmt.Sprintf("PAUSED by %s, %s ago", p.By, age(now, p.At))
	if p.Reason != "" {
		line += " (" + p.Reason + ")"
	}
	return line + ": nothing is begun until `attune resume`"
}

func packsLine(packs []api.Pack) string {
	const most = 8 // what still reads as one line
	var names []string
	for _, p := range packs {
		if !p.Enabled {
			continue
		}
		names = append(names, p.Ref+" "+p.Version)
	}
	switch {
	case len(names) == 0:
		return "none in force"
	case len(names) > most:
		return fmt.Sprintf("%d in force", len(names))
	default:
		return fmt.Sprintf("%d in force: %s", len(names), strings.Join(names, ", "))
	}
}

// pinnedLine names the packs whose folder does not rule; empty: all do.
func pinnedLine(packs []api.Pack) string {
	var names []string
	for _, p := range packs {
		if p.PinnedBy != nil {
			names = append(names, fmt.Sprintf("%s to revision %d by %s", p.Ref, p.Revision, *p.PinnedBy))
		}
	}
	return strings.Join(names, ", ")
}

func (c *command) errorsLine(packs []api.Pack) string {
	var broken []string
	total := 0
	for _, p := range packs {
		n := errorCount(p.Errors)
		if n > 0 {
			broken = append(broken, p.Ref)
			total += n
		}
	}
	if total == 0 {
		return "none"
	}
	return c.paint(styleBad, fmt.Sprintf("%s in %s: see `attune pack show %s`",
		count(total, "error"), strings.Join(broken, ", "), broken[0]))
}

func sensorsLine(sensors []api.Sensor) string {
	if len(sensors) == 0 {
		return "none"
	}
	counts := map[string]int{}
	for _, s := range sensors {
		counts[s.State]++
	}
	var parts []string
	for state, n := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, state))
	}
	sort.Strings(parts)
	return strings.Join(parts, ", ")
}

func queueLine(s *api.Status) string {
	q := s.Queue
	if q.Error != "" {
		return q.Error
	}
	line := fmt.Sprintf("%d requested, %d scheduled, %d running; %d of %d workers busy",
		q.Requested, q.Scheduled, q.Running, s.Workers.Busy, s.Workers.Workers)
	if q.OldestSeconds >= 1 {
		line += ", the oldest waits for " + span(time.Duration(q.OldestSeconds*float64(time.Second)))
	}
	return line
}

func databaseLine(d api.DatabaseStatus) string {
	if d.Error != "" {
		return d.Error
	}
	whose := d.URL
	if d.Private {
		whose = fmt.Sprintf("private, pid %d", d.PID)
	}
	return fmt.Sprintf("PostgreSQL %s, %s, schema %d, %s", d.Version, whose, d.SchemaVersion, bytesText(d.SizeBytes))
}

func reconcileLine(s *api.Status) string {
	r := s.Reconcile
	if r.LastScan == nil {
		return "the first scan has not ended"
	}
	line := fmt.Sprintf("generation %d, scanned %s ago, changed %s ago, watching by %s",
		r.Generation, agePtr(s.Time, r.LastScan), agePtr(s.Time, r.LastApply), r.WatchMode)
	if r.Mode != "apply" {
		line += ", applying nothing (mode " + r.Mode + ")"
	}
	if r.Error != "" {
		line += "; " + r.Error
	}
	return line
}

// count is "1 error", "2 errors".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
