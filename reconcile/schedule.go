package reconcile

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // a machine without zoneinfo must know the same time zones

	"github.com/attune-io/attune/reconcile/manifest"
)

// Schedule tells when a timer is due. It is pure: no clock. Due times are whole seconds, so that two
// of them never share the name that RFC 3339 gives them.
type Schedule interface {
	// Next gives the first due time after t, in UTC; the zero time: never again.
	Next(t time.Time) time.Time
}

// ParseSchedule makes the schedule of a timer trigger of the given type (manifest.TriggerInterval,
// TriggerCron, TriggerDatetime) from its parameters, as core's triggers declare them: unit and
// interval; expression and timezone; fire_at and timezone. Intervals count from anchor, or from the
// beginning of 1970 where it is zero. An H that manifest.Trigger.Spread left in a cron expression gets the
// numbers of no rule. What ParseMisfire reads is checked as well. The error names the
// parameter.
func ParseSchedule(triggerType string, parameters map[string]any, anchor time.Time) (Schedule, *ScheduleError) {
	if _, err := ParseMisfire(parameters); err != nil {
		return nil, err
	}
	switch triggerType {
	case manifest.TriggerInterval:
		return parseInterval(parameters, anchor)
	case manifest.TriggerCron:
		return parseCron(parameters)
	case manifest.TriggerDatetime:
		return parseDatetime(parameters)
	}
	return nil, wrong("type", "found %q, expected interval, cron or datetime", triggerType)
}

// ScheduleError says which parameter is wrong, and how.
type ScheduleError struct {
	Parameter string
	Message   string
}

func (e *ScheduleError) Error() string { return e.Parameter + ": " + e.Message }

func wrong(parameter, format string, args ...any) *ScheduleError {
	return &ScheduleError{Parameter: parameter, Message: fmt.Sprintf(format, args...)}
}

// maxInterval keeps sums of times far from the ends of time.Duration.
const maxInterval = 100 * 365 * 24 * time.Hour

// intervalUnits are in the order in which people are told of them.
var intervalUnits = []struct {
	name   string
	length time.Duration
}{
	{"seconds", time.Second},
	{"minutes", time.Minute},
	{"hours", time.Hour},
	{"days", 24 * time.Hour},
	{"weeks", 7 * 24 * time.Hour},
}

// interval is due at anchor + n*every: it does not drift, however late it is asked.
type interval struct {
	anchor time.Time
	every  time.Duration
}

func parseInterval(parameters map[string]any, anchor time.Time) (Schedule, *ScheduleError) {
	every, err := Interval(parameters)
	if err != nil {
		return nil, err
	}
	if anchor.IsZero() {
		anchor = time.Unix(0, 0)
	}
	return interval{anchor: anchor.UTC().Truncate(time.Second), every: every}, nil
}

// Interval is the distance between two firings of an interval timer with these parameters.
func Interval(parameters map[string]any) (time.Duration, *ScheduleError) {
	names := make([]string, len(intervalUnits))
	unit := intervalUnits[0]
	given, ok := parameters["unit"]
	for i, u := range intervalUnits {
		names[i] = u.name
		if given == u.name {
			unit = u
		}
	}
	if ok && given != nil && given != unit.name {
		return 0, wrong("unit", "found %s, expected %s", show(given), orList(names))
	}
	value, ok := parameters["interval"]
	if !ok || value == nil {
		return 0, wrong("interval", "is missing, expected a whole number of %s, 1 or more", unit.name)
	}
	n, ok := wholeNumber(value)
	if !ok || n < 1 {
		return 0, wrong("interval", "found %s, expected a whole number of %s, 1 or more", show(value), unit.name)
	}
	if most := int64(maxInterval / unit.length); n > most {
		return 0, wrong("interval", "found %d, expected at most %d %s (100 years)", n, most, unit.name)
	}
	return time.Duration(n) * unit.length, nil
}

// Next counts from the anchor; the anchor itself is not due.
func (s interval) Next(t time.Time) time.Time {
	if t.Before(s.anchor) {
		return s.anchor.Add(s.every)
	}
	n := t.Sub(s.anchor)/s.every + 1
	return s.anchor.Add(n * s.every)
}

// wholeNumber reads what JSON and YAML make of a whole number.
func wholeNumber(v any) (int64, bool) {
	switch v := v.(type) {
	case int:
		return int64(v), true
	case int64:
		return v, true
	case float64:
		const exact = 1 << 53 // beyond, a float64 is no longer sure which number was written
		return int64(v), v == math.Trunc(v) && math.Abs(v) <= exact
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, true
		}
		f, err := v.Float64()
		if err != nil {
			return 0, false
		}
		return wholeNumber(f)
	}
	return 0, false
}

// once is due at one time only.
type once struct{ at time.Time }

func (s once) Next(t time.Time) time.Time {
	if t.Before(s.at) {
		return s.at
	}
	return time.Time{}
}

// The layouts of fire_at, with an offset from UTC and without.
var (
	offsetLayouts = []string{time.RFC3339, "2006-01-02 15:04:05Z07:00", "2006-01-02T15:04Z07:00", "2006-01-02 15:04Z07:00"}
	localLayouts  = []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04"}
)

func parseDatetime(parameters map[string]any) (Schedule, *ScheduleError) {
	const expected = "expected a time like 2026-12-31T23:59:00Z, or 2026-12-31T23:59:00 in the time zone of timezone"
	value, ok := parameters["fire_at"]
	if !ok || value == nil {
		return nil, wrong("fire_at", "is missing, %s", expected)
	}
	zone, err := parseZone(parameters)
	if err != nil {
		return nil, err
	}
	text, ok := value.(string)
	if !ok {
		return nil, wrong("fire_at", "found %s, %s", show(value), expected)
	}
	at, ok := instantOf(strings.ToUpper(strings.TrimSpace(text)), zone)
	if !ok {
		return nil, wrong("fire_at", "found %s, %s", show(value), expected)
	}
	if whole := at.Truncate(time.Second); !whole.Equal(at) {
		at = whole.Add(time.Second) // never before the time that was asked for
	}
	return once{at: at.UTC()}, nil
}

func instantOf(text string, zone *time.Location) (time.Time, bool) {
	for _, layout := range offsetLayouts {
		if at, err := time.Parse(layout, text); err == nil {
			return at, true
		}
	}
	for _, layout := range localLayouts {
		if clock, err := time.Parse(layout, text); err == nil {
			return atClock(clock, zone), true
		}
	}
	return time.Time{}, false
}

// atClock gives the instant at which the clocks of a zone show what clock, a time in UTC, shows: the
// first of two, and the first instant after where they skip it. (time.Date promises neither.)
func atClock(clock time.Time, zone *time.Location) time.Time {
	const furthest = 48 * time.Hour // no zone is that far from UTC, and no change is that wide
	s := zoneSpan(clock.Add(-furthest), zone)
	for {
		at := clock.Add(-s.offset)
		if at.Before(s.start) {
			return s.start
		}
		if s.end.IsZero() || at.Before(s.end) {
			return at
		}
		s = zoneSpan(s.end, zone)
	}
}

// span is a time during which a zone keeps one offset from UTC: from start until before end. A zero
// time is no bound.
type span struct {
	start, end time.Time
	offset     time.Duration
}

func zoneSpan(t time.Time, zone *time.Location) span {
	local := t.In(zone)
	_, seconds := local.Zone()
	start, end := local.ZoneBounds()
	return span{start: start, end: end, offset: time.Duration(seconds) * time.Second}
}

// clock gives what the clocks of the span's zone show at t, as a time in UTC.
func (s span) clock(t time.Time) time.Time { return t.UTC().Add(s.offset) }

func parseZone(parameters map[string]any) (*time.Location, *ScheduleError) {
	const expected = "expected an IANA time zone like Europe/Berlin or UTC"
	value, ok := parameters["timezone"]
	if !ok || value == nil || value == "" {
		return time.UTC, nil
	}
	name, ok := value.(string)
	if !ok {
		return nil, wrong("timezone", "found %s, %s", show(value), expected)
	}
	if name == "Local" {
		return nil, wrong("timezone", "found \"Local\", which differs from machine to machine; %s", expected)
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, wrong("timezone", "found %s, %s", show(value), expected)
	}
	return zone, nil
}

// show prints a value as a manifest has it, short enough for a message.
func show(v any) string {
	const longest = 100 // bytes
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%T", v)
	}
	if len(text) > longest {
		return strings.ToValidUTF8(string(text[:longest]), "") + "…"
	}
	return string(text)
}

// orList prints "a, b or c".
func orList(words []string) string {
	last := len(words) - 1
	return strings.Join(slices.Concat([]string{strings.Join(words[:last], ", ")}, words[last:]), " or ")
}
