package reconcile

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/netresearch/go-cron"

	"github.com/attune-io/attune/reconcile/manifest"
)

const (
	// maxExpression bounds an expression, in bytes; real ones have a tenth of it.
	maxExpression = 1000
	// searchYears is how far ahead a due time is looked for: a 29 February on a given weekday may be 40
	// years away, as 2100 is no leap year.
	searchYears = 50

	cronStar  = uint64(1) << 63 // how the parser marks a field that says nothing
	cronHours = uint64(1)<<24 - 1
)

// cronSchedule is due by what the clocks of a zone show.
//
// The parser's own Next loses or doubles days when clocks change, so it is asked only about clocks that
// never change (those of UTC); what a change of the zone's clocks means for the answer is decided here.
type cronSchedule struct {
	clock *cron.SpecSchedule
	zone  *time.Location
	// hourly says that every hour matches. Such a schedule is about the minutes that pass, so it leaves
	// a skipped hour out and keeps both of a repeated one; any other is about a time of day, which is
	// kept once whatever the clocks do.
	hourly bool
}

func parseCron(parameters map[string]any) (Schedule, *ScheduleError) {
	value, ok := parameters["expression"]
	if !ok || value == nil {
		return nil, wrong("expression", "is missing, %s", cronExpected)
	}
	text, ok := value.(string)
	if !ok {
		return nil, wrong("expression", "found %s, %s", show(value), cronExpected)
	}
	zone, zoneErr := parseZone(parameters)
	if zoneErr != nil {
		return nil, zoneErr
	}
	spec, err := parseExpression(text)
	if err != nil {
		return nil, wrong("expression", "found %s, %v", show(value), err)
	}
	s := cronSchedule{clock: spec, zone: zone, hourly: spec.Hour&cronHours == cronHours}
	if s.clock.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, wrong("expression", "found %s, which is never due: there is no such day", show(value))
	}
	return s, nil
}

const cronExpected = `expected 5 fields (minute, hour, day of month, month, day of week), 6 with seconds first, or @hourly, @daily, @weekly, @monthly, @yearly`

// cronFields are the six fields, with what may stand in one element of their lists.
var cronFields = []struct {
	name    string
	element *regexp.Regexp
}{
	{"seconds", cronNumbers},
	{"minutes", cronNumbers},
	{"hours", cronNumbers},
	{"day of month", regexp.MustCompile(cronNumbers.String() + `|^(l(-\d{1,2})?|lw|\d{1,2}w)$`)},
	{"month", cronNames},
	{"day of week", regexp.MustCompile(cronNames.String() + `|^([a-z]{3}|\d)#(\d|l)$`)},
}

var (
	cronNumbers = regexp.MustCompile(`^([*?]|\d{1,2}(-\d{1,2})?)(/\d{1,4})?$`)
	cronNames   = regexp.MustCompile(`^([*?]|([a-z]{3}|\d{1,2})(-([a-z]{3}|\d{1,2}))?)(/\d{1,4})?$`)
	// cronWrap finds what may be a step over a range that wraps, as in fri-mon/2.
	cronWrap = regexp.MustCompile(`^(\w+)-(\w+)/`)
	// lastOfWeekday is how other crons write fri#L.
	lastOfWeekday = regexp.MustCompile(`^([a-z]{3}|\d)l$`)
)

func cronParser() cron.Parser {
	return cron.MustNewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow |
		cron.Descriptor | cron.Extended | cron.DowOrDom).WithMaxSearchYears(searchYears)
}

// parseExpression checks the shape itself before it asks the parser, because the parser lets through
// what it does not understand ("*-5", ",") and does not say which field it complains about.
func parseExpression(text string) (*cron.SpecSchedule, error) {
	if len(text) > maxExpression {
		return nil, fmt.Errorf("expected at most %d characters", maxExpression)
	}
	// The parser takes the H of THU for its hash syntax, but not that of thu.
	text = strings.ToLower(strings.TrimSpace(text))
	if strings.HasPrefix(text, "tz=") || strings.HasPrefix(text, "cron_tz=") {
		return nil, fmt.Errorf("expected no time zone here: give it as timezone")
	}
	if strings.HasPrefix(text, "@") {
		return parseMacro(text)
	}
	fields := strings.Fields(text)
	switch len(fields) {
	case 5:
		fields = append([]string{"0"}, fields...)
	case 6:
	default:
		return nil, fmt.Errorf("which has %d fields, %s", len(fields), cronExpected)
	}
	for i, field := range fields {
		spread, err := manifest.SpreadField(i, field, "")
		if err == nil {
			err = checkField(i, spread)
		}
		if err != nil {
			return nil, fmt.Errorf("whose %s %q is wrong: %w", cronFields[i].name, field, err)
		}
		fields[i] = spread
	}
	spec, err := parseSpec(strings.Join(fields, " "))
	if err != nil {
		return nil, err
	}
	// To crontab a field that begins with a star does not restrict, even with a step: with */2 for one
	// and 1 for the other, both must match.
	if strings.HasPrefix(fields[3], "*") {
		spec.Dom |= cronStar
	}
	if strings.HasPrefix(fields[5], "*") {
		spec.Dow |= cronStar
	}
	return spec, nil
}

func parseMacro(text string) (*cron.SpecSchedule, error) {
	switch {
	case strings.HasPrefix(text, "@every"):
		return nil, fmt.Errorf("expected no @every: use core.intervaltimer")
	case text == "@reboot":
		return nil, fmt.Errorf("expected no @reboot: a time is wanted")
	}
	spec, err := parseSpec(text)
	if err != nil {
		return nil, fmt.Errorf("%s", cronExpected)
	}
	return spec, nil
}

func parseSpec(text string) (*cron.SpecSchedule, error) {
	parsed, err := cronParser().Parse(text)
	if err != nil {
		return nil, err
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("%s", cronExpected)
	}
	spec.Location = time.UTC
	return spec, nil
}

// checkField gives the error of one field alone.
func checkField(i int, field string) error {
	for element := range strings.SplitSeq(field, ",") {
		switch {
		case element == "":
			return fmt.Errorf("an element of the list is empty")
		case i == 5 && lastOfWeekday.MatchString(element):
			return fmt.Errorf("the last of a weekday is written %s#L", strings.TrimSuffix(element, "l"))
		case !cronFields[i].element.MatchString(element):
			return fmt.Errorf("expected *, a number, a range like 1-5 or a step like */10, or a list of these")
		}
	}
	alone := []string{"*", "*", "*", "*", "*", "*"}
	alone[i] = field
	if _, err := parseSpec(strings.Join(alone, " ")); err != nil {
		return wordField(err)
	}
	if i == 5 {
		return checkWrap(field)
	}
	return nil
}

// fieldWords puts the parser's messages about one field into ours.
var fieldWords = []struct {
	parser *regexp.Regexp
	ours   string
}{
	{regexp.MustCompile(`\((\d+)\) above maximum \((\d+)\)`), "found $1, expected at most $2"},
	{regexp.MustCompile(`\((\d+)\) below minimum \((\d+)\)`), "found $1, expected at least $2"},
	{regexp.MustCompile(`\((\d+)\) beyond end(?: of range)? \((\d+)\)`), "its range begins at $1, after its end at $2"},
	{regexp.MustCompile(`step \((\d+)\) must be less than range size \((\d+)\)`), "found a step of $1, expected less than $2"},
	{regexp.MustCompile(`step of range must be a positive number`), "found a step of 0, expected 1 or more"},
	{regexp.MustCompile(`failed to parse int from ("[^"]*")`), "found $1, expected a number or a name like mon or jan"},
}

func wordField(err error) error {
	for _, w := range fieldWords {
		if m := w.parser.FindStringSubmatchIndex(err.Error()); m != nil {
			return fmt.Errorf("%s", w.parser.ExpandString(nil, w.ours, err.Error(), m))
		}
	}
	return err
}

// checkWrap refuses what the parser gets wrong: it steps over a range that wraps round the end of the
// week as if a week had eight days.
func checkWrap(field string) error {
	for element := range strings.SplitSeq(field, ",") {
		m := cronWrap.FindStringSubmatch(element)
		if m == nil {
			continue
		}
		first, _ := parseSpec("* * * * * " + m[1])
		last, _ := parseSpec("* * * * * " + m[2])
		wraps := first != nil && last != nil && first.Dow&^cronStar > last.Dow&^cronStar
		if wraps && m[2] != "7" || m[1] == "7" {
			return fmt.Errorf("a step cannot wrap round the end of the week; name the days")
		}
	}
	return nil
}

// Next goes from span to span of the zone's offset. w is always the next clock time that matches, at or
// after the one that the span begins with.
func (c cronSchedule) Next(t time.Time) time.Time {
	s := zoneSpan(t, c.zone)
	w := c.clock.Next(c.from(s, t))
	for {
		switch {
		case w.IsZero():
			return time.Time{}
		case s.end.IsZero() || w.Before(s.clock(s.end)):
			return w.Add(-s.offset)
		}
		next := zoneSpan(s.end, c.zone)
		begin := next.clock(next.start)
		switch {
		case w.Before(begin) && !c.hourly:
			return next.start.UTC() // it was skipped: the first instant after
		case w.Before(begin), next.offset < s.offset && c.hourly:
			w = c.clock.Next(begin.Add(-time.Second))
		}
		s = next
	}
}

// from is the clock time after which a span is searched: that of t, or the end of what the clocks
// showed already before they were put back.
func (c cronSchedule) from(s span, t time.Time) time.Time {
	clock := s.clock(t)
	if c.hourly || s.start.IsZero() {
		return clock
	}
	before := zoneSpan(s.start.Add(-time.Nanosecond), c.zone)
	if shown := before.clock(s.start).Add(-time.Second); clock.Before(shown) {
		return shown
	}
	return clock
}
