package reconcile

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/attune-io/attune/reconcile/manifest"
)

func utc(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at.UTC()
}

func mustSchedule(t *testing.T, triggerType string, parameters map[string]any, anchor time.Time) Schedule {
	t.Helper()
	s, err := ParseSchedule(triggerType, parameters, anchor)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// due lists n due times after a time, as UTC.
func due(s Schedule, after time.Time, n int) []string {
	var list []string
	for range n {
		after = s.Next(after)
		if after.IsZero() {
			return append(list, "never")
		}
		list = append(list, after.Format(time.RFC3339))
	}
	return list
}

func TestCronAtClockChanges(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, zone, expression, after string
		want                          []string
	}{
		{
			"skipped hour fires at the first instant after, once", "America/New_York", "30 2 * * *", "2026-03-07T12:00:00Z",
			[]string{"2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"},
		},
		{
			"a skipped hour of many minutes fires once", "America/New_York", "*/15 2 * * *", "2026-03-07T12:00:00Z",
			[]string{"2026-03-08T07:00:00Z", "2026-03-09T06:00:00Z"},
		},
		{
			"the skipped one and the one that is due at that instant are one", "America/New_York", "0 2,3 * * *", "2026-03-07T12:00:00Z",
			[]string{"2026-03-08T07:00:00Z", "2026-03-09T06:00:00Z", "2026-03-09T07:00:00Z"},
		},
		{
			"midnight skipped in Cairo", "Africa/Cairo", "0 0 * * *", "2026-04-23T12:00:00Z",
			[]string{"2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"},
		},
		{
			"midnight skipped in Sao Paulo", "America/Sao_Paulo", "0 0 * * *", "2018-11-03T12:00:00Z",
			[]string{"2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"},
		},
		{
			"half an hour skipped in Lord Howe", "Australia/Lord_Howe", "15 2 * * *", "2026-10-03T00:00:00Z",
			[]string{"2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"},
		},
		{
			"half an hour repeated in Lord Howe", "Australia/Lord_Howe", "45 1 * * *", "2026-04-04T00:00:00Z",
			[]string{"2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"},
		},
		{
			"repeated hour fires at its first", "America/New_York", "30 1 * * *", "2026-11-01T00:00:00Z",
			[]string{"2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"},
		},
		{
			"asked within the repeated hour", "America/New_York", "*/30 1 * * *", "2026-11-01T06:10:00Z",
			[]string{"2026-11-02T06:00:00Z", "2026-11-02T06:30:00Z"},
		},
		{
			"every hour keeps both of the repeated", "America/New_York", "30 * * * *", "2026-11-01T05:00:00Z",
			[]string{"2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z", "2026-11-01T07:30:00Z"},
		},
		{
			"every hour leaves the skipped one out", "America/New_York", "30 * * * *", "2026-03-08T06:00:00Z",
			[]string{"2026-03-08T06:30:00Z", "2026-03-08T07:30:00Z"},
		},
		{
			"every hour leaves half a skipped hour out", "Australia/Lord_Howe", "15 * * * *", "2026-10-03T15:00:00Z",
			[]string{"2026-10-03T16:15:00Z", "2026-10-03T17:15:00Z"},
		},
		{
			"every two seconds through the change", "Europe/Berlin", "*/2 * * * * *", "2026-10-25T00:59:57Z",
			[]string{"2026-10-25T00:59:58Z", "2026-10-25T01:00:00Z", "2026-10-25T01:00:02Z"},
		},
		{
			"a day that never was", "Pacific/Apia", "0 12 30 12 *", "2011-12-01T00:00:00Z",
			[]string{"2011-12-30T10:00:00Z", "2012-12-29T22:00:00Z"},
		},
		{
			"a zone of seconds", "America/New_York", "0 12 * * *", "1883-11-17T00:00:00Z",
			[]string{"1883-11-17T16:56:02Z", "1883-11-18T16:56:02Z", "1883-11-19T17:00:00Z"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := mustSchedule(t, manifest.TriggerCron, map[string]any{"expression": test.expression, "timezone": test.zone}, time.Time{})
			got := due(s, utc(t, test.after), len(test.want))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("due times (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCronExpressions(t *testing.T) {
	t.Parallel()
	const after = "2026-01-01T00:00:00Z" // a Thursday
	tests := []struct {
		expression string
		want       []string
	}{
		{"* * * * *", []string{"2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"}},
		{"*/20 * * * * *", []string{"2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z", "2026-01-01T00:01:00Z"}},
		{"@hourly", []string{"2026-01-01T01:00:00Z"}},
		{"@daily", []string{"2026-01-02T00:00:00Z"}},
		{"@midnight", []string{"2026-01-02T00:00:00Z"}},
		{"@WEEKLY", []string{"2026-01-04T00:00:00Z"}},
		{"@monthly", []string{"2026-02-01T00:00:00Z"}},
		{"@yearly", []string{"2027-01-01T00:00:00Z"}},
		{"@annually", []string{"2027-01-01T00:00:00Z"}},
		{" 0   9 * * MON-FRI ", []string{"2026-01-01T09:00:00Z", "2026-01-02T09:00:00Z", "2026-01-05T09:00:00Z"}},
		{"0 9 * MAR THU", []string{"2026-03-05T09:00:00Z"}},
		{"0 0 * * 7", []string{"2026-01-04T00:00:00Z"}},
		{"0 0 * * 0", []string{"2026-01-04T00:00:00Z"}},
		{"0 0 * * fri-mon", []string{"2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-04T00:00:00Z", "2026-01-05T00:00:00Z", "2026-01-09T00:00:00Z"}},
		{"0 22-2/2 * * *", []string{"2026-01-01T02:00:00Z", "2026-01-01T22:00:00Z", "2026-01-02T00:00:00Z"}},
		{"0 0 L * *", []string{"2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"}},
		{"0 0 L-1 * *", []string{"2026-01-30T00:00:00Z", "2026-02-27T00:00:00Z"}},
		{"0 0 15W * *", []string{"2026-01-15T00:00:00Z", "2026-02-16T00:00:00Z"}},
		{"0 0 LW * *", []string{"2026-01-30T00:00:00Z", "2026-02-27T00:00:00Z"}},
		{"0 0 * * 5#2", []string{"2026-01-09T00:00:00Z", "2026-02-13T00:00:00Z"}},
		{"0 0 * * FRI#L", []string{"2026-01-30T00:00:00Z", "2026-02-27T00:00:00Z"}},
		{"0 0 29 2 *", []string{"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
		// Either day matches, as crontab has it …
		{"0 0 13 * 5", []string{"2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z", "2026-01-13T00:00:00Z"}},
		// … but a star restricts nothing, even with a step.
		{"0 0 */2 * 5", []string{"2026-01-09T00:00:00Z", "2026-01-23T00:00:00Z"}},
		{"0 0 ? * 5", []string{"2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z"}},
		{"5/20 3 * * *", []string{"2026-01-01T03:05:00Z", "2026-01-01T03:25:00Z", "2026-01-01T03:45:00Z"}},
	}
	for _, test := range tests {
		t.Run(test.expression, func(t *testing.T) {
			t.Parallel()
			s := mustSchedule(t, manifest.TriggerCron, map[string]any{"expression": test.expression}, time.Time{})
			got := due(s, utc(t, after), len(test.want))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("due times (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCronFarLeapDay(t *testing.T) {
	t.Parallel()
	s := mustSchedule(t, manifest.TriggerCron, map[string]any{"expression": "0 0 29 2 */7"}, time.Time{})
	want := []string{"2088-02-29T00:00:00Z", "2128-02-29T00:00:00Z"} // Sundays; 2100 has no such day
	if diff := cmp.Diff(want, due(s, utc(t, "2060-03-01T00:00:00Z"), 2)); diff != "" {
		t.Errorf("due times (-want +got):\n%s", diff)
	}
}

func TestScheduleErrors(t *testing.T) {
	t.Parallel()
	expression := func(text string) map[string]any { return map[string]any{"expression": text} }
	tests := []struct {
		name, triggerType string
		parameters        map[string]any
		parameter, text   string
	}{
		{"webhook", manifest.TriggerWebhook, nil, "type", `found "webhook", expected interval, cron or datetime`},
		{"no interval", manifest.TriggerInterval, nil, "interval", "is missing, expected a whole number of seconds, 1 or more"},
		{"zero", manifest.TriggerInterval, map[string]any{"interval": 0, "unit": "hours"}, "interval", "found 0, expected a whole number of hours, 1 or more"},
		{"text", manifest.TriggerInterval, map[string]any{"interval": "5"}, "interval", `found "5", expected a whole number`},
		{"fraction", manifest.TriggerInterval, map[string]any{"interval": 1.5}, "interval", "found 1.5, expected a whole number"},
		{"huge", manifest.TriggerInterval, map[string]any{"interval": int64(math.MaxInt64), "unit": "weeks"}, "interval", "expected at most 5214 weeks (100 years)"},
		{"unit", manifest.TriggerInterval, map[string]any{"interval": 1, "unit": "day"}, "unit", `found "day", expected seconds, minutes, hours, days or weeks`},
		{"unit type", manifest.TriggerInterval, map[string]any{"interval": 1, "unit": 5}, "unit", "found 5, expected seconds"},
		{"no expression", manifest.TriggerCron, nil, "expression", "is missing, expected 5 fields"},
		{"number", manifest.TriggerCron, map[string]any{"expression": 5}, "expression", "found 5, expected 5 fields"},
		{"four fields", manifest.TriggerCron, expression("* * * *"), "expression", "which has 4 fields, expected 5 fields"},
		{"seven fields", manifest.TriggerCron, expression("* * * * * * *"), "expression", "which has 7 fields"},
		{"empty", manifest.TriggerCron, expression(""), "expression", "which has 0 fields"},
		{"too high", manifest.TriggerCron, expression("61 * * * *"), "expression", `whose minutes "61" is wrong: found 61, expected at most 59`},
		{"step", manifest.TriggerCron, expression("*/90 * * * *"), "expression", `whose minutes "*/90" is wrong: found a step of 90, expected less than 60`},
		{"step zero", manifest.TriggerCron, expression("*/0 * * * *"), "expression", `whose minutes "*/0" is wrong: found a step of 0, expected 1 or more`},
		{"nonsense", manifest.TriggerCron, expression("* * x * *"), "expression", `whose day of month "x" is wrong: expected *, a number, a range`},
		{"star range", manifest.TriggerCron, expression("*-5 * * * *"), "expression", `whose minutes "*-5" is wrong: expected *`},
		{"empty element", manifest.TriggerCron, expression("1,,2 * * * *"), "expression", "an element of the list is empty"},
		{"spread", manifest.TriggerCron, expression("H(70-80) * * * *"), "expression", `whose minutes "h(70-80)" is wrong: found a range from 70 to 80, expected one within 0 to 59`},
		{"spread step", manifest.TriggerCron, expression("H H/30 * * *"), "expression", `whose hours "h/30" is wrong: found a step of 30, expected 1 to 24`},
		{"spread nonsense", manifest.TriggerCron, expression("H5 * * * *"), "expression", `whose minutes "h5" is wrong: expected H, a range of it like H(0-29) or a step like H/15`},
		{"last weekday", manifest.TriggerCron, expression("0 0 * * 5L"), "expression", "the last of a weekday is written 5#L"},
		{"wrapping step", manifest.TriggerCron, expression("0 0 * * fri-mon/2"), "expression", "a step cannot wrap round the end of the week"},
		{"wrapping step from 7", manifest.TriggerCron, expression("0 0 * * 7-3/2"), "expression", "a step cannot wrap round the end of the week"},
		{"never", manifest.TriggerCron, expression("0 0 30 2 *"), "expression", "which is never due: there is no such day"},
		{"never either", manifest.TriggerCron, expression("0 0 31 4,6,9,11 *"), "expression", "which is never due"},
		{"zone prefix", manifest.TriggerCron, expression("CRON_TZ=UTC 0 0 * * *"), "expression", "give it as timezone"},
		{"short zone prefix", manifest.TriggerCron, expression("TZ=UTC 0 0 * * *"), "expression", "give it as timezone"},
		{"every", manifest.TriggerCron, expression("@every 5m"), "expression", "use core.intervaltimer"},
		{"reboot", manifest.TriggerCron, expression("@reboot"), "expression", "expected no @reboot"},
		{"macro", manifest.TriggerCron, expression("@fortnightly"), "expression", "expected 5 fields"},
		{"long", manifest.TriggerCron, expression(strings.Repeat("* ", 600)), "expression", "expected at most 1000 characters"},
		{"zone", manifest.TriggerCron, map[string]any{"expression": "* * * * *", "timezone": "Berlin"}, "timezone", `found "Berlin", expected an IANA time zone like Europe/Berlin`},
		{"zone path", manifest.TriggerCron, map[string]any{"expression": "* * * * *", "timezone": "../etc/passwd"}, "timezone", "expected an IANA time zone"},
		{"zone local", manifest.TriggerCron, map[string]any{"expression": "* * * * *", "timezone": "Local"}, "timezone", "differs from machine to machine"},
		{"zone number", manifest.TriggerCron, map[string]any{"expression": "* * * * *", "timezone": 1}, "timezone", "found 1, expected an IANA time zone"},
		{"no fire_at", manifest.TriggerDatetime, nil, "fire_at", "is missing, expected a time like 2026-12-31T23:59:00Z"},
		{"date", manifest.TriggerDatetime, map[string]any{"fire_at": "2026-12-31"}, "fire_at", `found "2026-12-31", expected a time like`},
		{"no such date", manifest.TriggerDatetime, map[string]any{"fire_at": "2026-02-30T00:00:00Z"}, "fire_at", "expected a time like"},
		{"fire_at number", manifest.TriggerDatetime, map[string]any{"fire_at": 17}, "fire_at", "found 17, expected a time like"},
		{"misfire", manifest.TriggerInterval, map[string]any{"interval": 1, "misfire": "some"}, "misfire", `found "some", expected latest, all or none`},
		{"window", manifest.TriggerInterval, map[string]any{"interval": 1, "misfire_window": "soon"}, "misfire_window", `found "soon", expected seconds or a duration like 5m`},
		{"jitter", manifest.TriggerInterval, map[string]any{"interval": 1, "jitter": -1}, "jitter", "found -1, expected seconds"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseSchedule(test.triggerType, test.parameters, time.Time{})
			if err == nil {
				t.Fatal("no error")
			}
			if err.Parameter != test.parameter || !strings.Contains(err.Message, test.text) {
				t.Errorf("got %v\nwant %s: … %s …", err, test.parameter, test.text)
			}
		})
	}
}

func TestInterval(t *testing.T) {
	t.Parallel()
	anchor := utc(t, "2026-03-01T10:00:00.7Z")
	tests := []struct {
		unit  any
		value any
		want  []string
	}{
		{nil, 90, []string{"2026-03-01T10:01:30Z", "2026-03-01T10:03:00Z"}},
		{"seconds", 1.0, []string{"2026-03-01T10:00:01Z", "2026-03-01T10:00:02Z"}},
		{"minutes", json.Number("5"), []string{"2026-03-01T10:05:00Z", "2026-03-01T10:10:00Z"}},
		{"hours", json.Number("1e1"), []string{"2026-03-01T20:00:00Z", "2026-03-02T06:00:00Z"}},
		{"days", int64(2), []string{"2026-03-03T10:00:00Z", "2026-03-05T10:00:00Z"}},
		{"weeks", 1, []string{"2026-03-08T10:00:00Z", "2026-03-15T10:00:00Z"}},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.unit), func(t *testing.T) {
			t.Parallel()
			s := mustSchedule(t, manifest.TriggerInterval, map[string]any{"unit": test.unit, "interval": test.value}, anchor)
			if diff := cmp.Diff(test.want, due(s, anchor, 2)); diff != "" {
				t.Errorf("due times (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIntervalDoesNotDrift(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		every := rapid.Int64Range(1, 1e6).Draw(t, "every")
		anchor := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "anchor"), 0).UTC()
		at := anchor.Add(time.Duration(rapid.Int64Range(-1e9, 4e18).Draw(t, "later")))
		s, err := ParseSchedule(manifest.TriggerInterval, map[string]any{"interval": every}, anchor)
		if err != nil {
			t.Fatal(err)
		}
		next := s.Next(at)
		length := time.Duration(every) * time.Second
		switch {
		case !next.After(at) || !next.After(anchor):
			t.Fatalf("%v is not after %v", next, at)
		case next.Sub(anchor)%length != 0:
			t.Fatalf("%v drifted off %v", next, anchor)
		case at.After(anchor) && next.Sub(at) > length:
			t.Fatalf("%v is not the first after %v", next, at)
		}
	})
}

func TestDatetime(t *testing.T) {
	t.Parallel()
	tests := []struct{ at, zone, want string }{
		{"2026-12-31T23:59:00Z", "Europe/Berlin", "2026-12-31T23:59:00Z"},
		{"2026-12-31T23:59:00+01:00", "", "2026-12-31T22:59:00Z"},
		{"2026-12-31t23:59:00z", "", "2026-12-31T23:59:00Z"},
		{"2026-12-31T23:59:00.001Z", "", "2026-12-31T23:59:01Z"},
		{"2026-12-31T23:59:00", "", "2026-12-31T23:59:00Z"},
		{"2026-12-31 23:59", "Europe/Berlin", "2026-12-31T22:59:00Z"},
		{"2026-03-29T02:30:00", "Europe/Berlin", "2026-03-29T01:00:00Z"},
		{"2026-10-25T02:30:00", "Europe/Berlin", "2026-10-25T00:30:00Z"},
		{"2011-12-30T12:00:00", "Pacific/Apia", "2011-12-30T10:00:00Z"},
		{"2026-06-01T00:00", "Pacific/Kiritimati", "2026-05-31T10:00:00Z"},
	}
	for _, test := range tests {
		t.Run(test.at+test.zone, func(t *testing.T) {
			t.Parallel()
			s := mustSchedule(t, manifest.TriggerDatetime, map[string]any{"fire_at": test.at, "timezone": test.zone}, time.Time{})
			if diff := cmp.Diff([]string{test.want, "never"}, due(s, time.Time{}, 2)); diff != "" {
				t.Errorf("due times (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseMisfire(t *testing.T) {
	t.Parallel()
	tests := []struct {
		parameters map[string]any
		want       Misfire
	}{
		{nil, Misfire{Policy: MisfireLatest, Window: time.Hour}},
		{map[string]any{"misfire": nil, "misfire_window": nil}, Misfire{Policy: MisfireLatest, Window: time.Hour}},
		{map[string]any{"misfire": "all", "misfire_window": "5m", "jitter": 1.5}, Misfire{MisfireAll, 5 * time.Minute, 1500 * time.Millisecond}},
		{map[string]any{"misfire": "none", "misfire_window": int64(0), "jitter": json.Number("2")}, Misfire{MisfireNone, 0, 2 * time.Second}},
	}
	for _, test := range tests {
		got, err := ParseMisfire(test.parameters)
		if err != nil {
			t.Errorf("%v: %v", test.parameters, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", test.parameters, diff)
		}
	}
}

// matcher is a second, slow reading of a five-field expression of numbers, as a set for each field.
type matcher struct {
	minute, hour, dom, month, dow map[int]bool
	domStar, dowStar, hourly      bool
}

func (m matcher) match(clock time.Time) bool {
	if !m.minute[clock.Minute()] || !m.hour[clock.Hour()] || !m.month[int(clock.Month())] {
		return false
	}
	dom, dow := m.dom[clock.Day()], m.dow[int(clock.Weekday())]
	if m.domStar || m.dowStar {
		return dom && dow
	}
	return dom || dow
}

func drawField(t *rapid.T, name string, low, high int) (text string, set map[int]bool) {
	set = map[int]bool{}
	if rapid.IntRange(0, 2).Draw(t, name+" star") == 0 {
		step := rapid.IntRange(1, (high-low)/2).Draw(t, name+" step")
		for i := low; i <= high; i += step {
			set[i] = true
		}
		if step == 1 {
			return "*", set
		}
		return "*/" + strconv.Itoa(step), set
	}
	var parts []string
	for i := range rapid.IntRange(1, 3).Draw(t, name+" elements") {
		a := rapid.IntRange(low, high).Draw(t, fmt.Sprint(name, i, " from"))
		b := rapid.IntRange(a, high).Draw(t, fmt.Sprint(name, i, " to"))
		if a == b || rapid.Bool().Draw(t, fmt.Sprint(name, i, " single")) {
			set[a] = true
			parts = append(parts, strconv.Itoa(a))
			continue
		}
		for n := a; n <= b; n++ {
			set[n] = true
		}
		parts = append(parts, fmt.Sprintf("%d-%d", a, b))
	}
	return strings.Join(parts, ","), set
}

func drawExpression(t *rapid.T) (string, matcher) {
	minute, minutes := drawField(t, "minute", 0, 59)
	hour, hours := drawField(t, "hour", 0, 23)
	dom, doms := drawField(t, "dom", 1, 31)
	month, months := drawField(t, "month", 1, 12)
	dow, dows := drawField(t, "dow", 0, 6)
	return strings.Join([]string{minute, hour, dom, month, dow}, " "), matcher{
		minute: minutes, hour: hours, dom: doms, month: months, dow: dows,
		domStar: dom[0] == '*', dowStar: dow[0] == '*', hourly: len(hours) == 24,
	}
}

// bruteForce steps through real time minute by minute and looks at the zone's clock.
func bruteForce(m matcher, zone *time.Location, from, to time.Time) []string {
	var list []string
	shown := asUTC(from.Add(-48 * time.Hour).In(zone)) // the latest that the clock ever showed
	for at := from.Add(-48 * time.Hour).Add(time.Minute); !at.After(to); at = at.Add(time.Minute) {
		clock := asUTC(at.In(zone))
		fires := m.match(clock)
		if !m.hourly {
			fires = false
			// Each clock time counts when it is first shown or has just been passed over.
			for shown.Before(clock) {
				shown = shown.Add(time.Minute)
				fires = fires || m.match(shown)
			}
		}
		if fires && at.After(from) {
			list = append(list, at.UTC().Format(time.RFC3339))
		}
	}
	return list
}

func asUTC(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC)
}

func TestCronAgainstBruteForce(t *testing.T) {
	t.Parallel()
	// Days around a change, and one far from any.
	places := []struct{ zone, near string }{
		{"America/New_York", "2026-03-08T07:00:00Z"},
		{"America/New_York", "2026-11-01T06:00:00Z"},
		{"Europe/Berlin", "2026-03-29T01:00:00Z"},
		{"Europe/Berlin", "2026-10-25T01:00:00Z"},
		{"Australia/Lord_Howe", "2026-10-03T15:30:00Z"},
		{"Australia/Lord_Howe", "2026-04-04T15:00:00Z"},
		{"Africa/Cairo", "2026-04-23T22:00:00Z"},
		{"Africa/Cairo", "2026-10-29T21:00:00Z"},
		{"America/Sao_Paulo", "2018-11-04T03:00:00Z"},
		{"Pacific/Apia", "2011-12-30T10:00:00Z"},
		{"Africa/Casablanca", "2026-02-15T02:00:00Z"},
		{"America/Caracas", "2016-05-01T07:00:00Z"},
		{"Asia/Kathmandu", "2026-06-01T00:00:00Z"},
		{"UTC", "2028-02-29T00:00:00Z"},
	}
	rapid.Check(t, func(rt *rapid.T) {
		place := rapid.SampledFrom(places).Draw(rt, "place")
		zone, err := time.LoadLocation(place.zone)
		if err != nil {
			rt.Fatal(err)
		}
		near, err := time.Parse(time.RFC3339, place.near)
		if err != nil {
			rt.Fatal(err)
		}
		from := near.Add(-time.Duration(rapid.IntRange(-120, 3000).Draw(rt, "minutes before")) * time.Minute)
		to := from.Add(time.Duration(rapid.IntRange(1, 4000).Draw(rt, "minutes")) * time.Minute)
		expression, m := drawExpression(rt)
		s, perr := ParseSchedule(manifest.TriggerCron, map[string]any{"expression": expression, "timezone": place.zone}, time.Time{})
		if perr != nil {
			if strings.Contains(perr.Message, "never due") {
				rt.Skip("there is no such day")
			}
			rt.Fatalf("%s: %v", expression, perr)
		}
		want := bruteForce(m, zone, from, to)
		var got []string
		for at := s.Next(from); !at.IsZero() && !at.After(to); at = s.Next(at) {
			got = append(got, at.Format(time.RFC3339))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("%q in %s from %v to %v (-want +got):\n%s", expression, place.zone, from, to, diff)
		}
	})
}

func FuzzParseSchedule(f *testing.F) {
	for _, text := range []string{
		"* * * * *", "*/2 * * * * *", "@daily", "0 0 L-3 * FRI#L", "15W", "fri-mon/2", "TZ=UTC", "0 0 29 2 1-7/2",
		"2026-12-31T23:59:00Z", "2026-12-31 23:59", "1,2,3-9/2 * * jan-mar *", "@every 1s", "0 0 31W 2 *",
	} {
		f.Add(text, "Europe/Berlin", int64(1780000000))
	}
	f.Fuzz(func(t *testing.T, text, zone string, unix int64) {
		at := time.Unix(unix%4e9, 0)
		for _, p := range []struct {
			triggerType string
			parameters  map[string]any
		}{
			{manifest.TriggerCron, map[string]any{"expression": text, "timezone": zone}},
			{manifest.TriggerDatetime, map[string]any{"fire_at": text, "timezone": zone}},
			{manifest.TriggerInterval, map[string]any{"interval": unix, "unit": text}},
		} {
			s, err := ParseSchedule(p.triggerType, p.parameters, at)
			if err != nil {
				if err.Parameter == "" || err.Message == "" {
					t.Fatalf("empty error %#v", err)
				}
				continue
			}
			began := time.Now()
			last := at
			for range 3 {
				next := s.Next(last)
				if next.IsZero() {
					break
				}
				if !next.After(last) || next.Nanosecond() != 0 {
					t.Fatalf("Next(%v) = %v", last, next)
				}
				last = next
			}
			if took := time.Since(began); took > time.Second {
				t.Fatalf("took %v", took)
			}
		}
	})
}

func BenchmarkCronNext(b *testing.B) {
	for _, expression := range []string{"*/5 * * * *", "30 2 * * *", "0 0 29 2 *"} {
		b.Run(strings.ReplaceAll(expression, " ", "_"), func(b *testing.B) {
			s, err := ParseSchedule(manifest.TriggerCron, map[string]any{"expression": expression, "timezone": "Europe/Berlin"}, time.Time{})
			if err != nil {
				b.Fatal(err)
			}
			at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			for b.Loop() {
				if s.Next(at).IsZero() {
					b.Fatal("never")
				}
			}
		})
	}
}
