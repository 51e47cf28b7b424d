package reconcile

import (
	"fmt"
	"time"
)

// Firing is a due time to come, as people want to see it.
type Firing struct {
	At time.Time `json:"at"`
	// Local is the same in the time zone of the schedule, with its offset.
	Local time.Time `json:"local"`
	// Note says what a change of the zone's clocks has to do with it; empty: nothing.
	Note string `json:"note"`
}

// Firings gives the next n due times of a timer trigger after a time, fewer where there are no more.
// The arguments are those of ParseSchedule.
func Firings(triggerType string, parameters map[string]any, anchor, after time.Time, n int) ([]Firing, *ScheduleError) {
	schedule, err := ParseSchedule(triggerType, parameters, anchor)
	if err != nil {
		return nil, err
	}
	zone, err := parseZone(parameters)
	if err != nil {
		return nil, err
	}
	firings := []Firing{}
	for at := schedule.Next(after); !at.IsZero() && len(firings) < n; at = schedule.Next(at) {
		firings = append(firings, Firing{At: at, Local: at.In(zone), Note: clockNote(schedule, zone, after, at)})
		after = at
	}
	return firings, nil
}

// clockNote tells of a change of the clocks that decides about a due time, or lies between it and the
// one before.
func clockNote(schedule Schedule, zone *time.Location, before, at time.Time) string {
	const shown = "15:04:05"
	cron, isCron := schedule.(cronSchedule)
	s := zoneSpan(at, zone)
	clock := s.clock(at)
	if isCron && !cron.clock.Next(clock.Add(-time.Second)).Equal(clock) {
		previous := zoneSpan(s.start.Add(-time.Nanosecond), zone)
		skipped := cron.clock.Next(previous.clock(s.start).Add(-time.Second))
		return fmt.Sprintf("instead of %s, which the clocks skip", skipped.Format(shown))
	}
	if !s.end.IsZero() {
		next := zoneSpan(s.end, zone)
		if again := clock.Add(-next.offset); !again.Before(next.start) {
			return "the first of two: the clocks go back afterwards"
		}
	}
	if s.start.IsZero() {
		return ""
	}
	previous := zoneSpan(s.start.Add(-time.Nanosecond), zone)
	if clock.Add(-previous.offset).Before(s.start) {
		return "the second of two: the clocks went back"
	}
	if _, isInterval := schedule.(interval); isInterval || !before.Before(s.start) || at.Sub(s.start) > 24*time.Hour {
		return ""
	}
	return fmt.Sprintf("the clocks went from %s to %s", previous.clock(s.start).Format(shown), s.clock(s.start).Format(shown))
}
