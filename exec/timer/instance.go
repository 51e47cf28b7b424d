package timer

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"strconv"
	"time"

	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
)

const (
	// lateAfter is how late a due time may be fired by a running engine before it counts as missed.
	lateAfter = 2 * time.Second

	// maxAhead is how far the last firing may lie in the future: further, and the clock was wrong when it
	// fired. Waiting for it could take years, and the firings before it are likely new.
	maxAhead = 24 * time.Hour
)

// timer is one instance at its place in time.
type timer struct {
	in       Instance
	schedule reconcile.Schedule
	misfire  reconcile.Misfire
	line     lineParts

	// position is up to where all is done: fired, or not to be fired.
	position time.Time
	due      time.Time // the next due time; zero: never
	fireAt   time.Time // due and its jitter
	// watched is since when this engine looks after the instance. What was due before was missed.
	watched time.Time
	count   int64
	rank    int // among those of one instant
}

func newTimer(in Instance, kind, sensor string, now time.Time) (*timer, error) {
	if kind == "" {
		return nil, fmt.Errorf("trigger %s is none of core.intervaltimer, core.crontimer and core.datetimetimer", in.Trigger)
	}
	schedule, perr := reconcile.ParseSchedule(kind, in.Parameters, in.Since)
	if perr != nil {
		return nil, perr
	}
	misfire, perr := reconcile.ParseMisfire(in.Parameters)
	if perr != nil {
		return nil, perr
	}
	t := &timer{in: in, schedule: schedule, misfire: misfire, watched: now}
	var err error
	if t.line, err = newLineParts(in, kind, sensor); err != nil {
		return nil, err
	}
	switch {
	case in.Last != nil && in.Last.Before(now.Add(maxAhead)):
		t.position = in.Last.UTC()
	case in.Last != nil:
		t.position = now
	case kind == manifest.TriggerDatetime:
		// Its only due time may lie before the rule that asks for it.
	default:
		t.position = in.Since.UTC()
	}
	t.arm()
	return t, nil
}

// arm sets the next due time after position.
func (t *timer) arm() { t.armAt(t.schedule.Next(t.position)) }

func (t *timer) armAt(due time.Time) {
	t.due = due
	t.fireAt = due.Add(t.jitter())
}

// continueFrom takes over from a timer of the same instance whose parameters were changed.
func (t *timer) continueFrom(old *timer) {
	t.watched, t.count = old.watched, old.count
	if old.position.After(t.position) {
		t.position = old.position
		t.arm()
	}
}

// comeBack forgets a place that the clock, which was put back, reaches only in more than maxAhead.
func (t *timer) comeBack(now time.Time) {
	if t.watched.After(now) {
		t.watched = now
	}
	if t.position.After(now.Add(maxAhead)) {
		t.position = now
		t.arm()
	}
}

// jitter delays a due time by the same random part of Misfire.Jitter each time it is asked, so that a
// restart in between changes nothing.
func (t *timer) jitter() time.Duration {
	if t.misfire.Jitter <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(t.eventID()))
	part := float64(mix(h.Sum64())) / math.MaxUint64
	return time.Duration(part * float64(t.misfire.Jitter))
}

// mix spreads what differs in the last bytes over all bits (the end of splitmix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// catchUp decides what becomes of a due time that has come: true says that due is to be fired now, and
// appendLine does it. Else another one was armed.
func (t *timer) catchUp(now time.Time) bool {
	late := now.Sub(t.fireAt) > lateAfter
	if !late && t.due.After(t.watched) {
		return true
	}
	justOutside := now.Add(-t.misfire.Window).Add(-time.Nanosecond)
	switch t.misfire.Policy {
	case reconcile.MisfireAll:
		t.skipTo(justOutside)
	case reconcile.MisfireLatest:
		t.skipTo(justOutside)
		t.skipToLatest(now)
	default:
		t.skipTo(t.watched)
		if late {
			t.skipTo(now.Add(-lateAfter))
		}
	}
	return !t.due.IsZero() && !t.fireAt.After(now)
}

// skipTo leaves out what is due until a time.
func (t *timer) skipTo(until time.Time) {
	if t.due.IsZero() || t.due.After(until) {
		return
	}
	t.position = until
	t.arm()
}

// skipToLatest leaves out all that is due now but the last. It looks back in ever larger steps, because
// a window of a month may hold millions of due times.
func (t *timer) skipToLatest(now time.Time) {
	if t.due.IsZero() || t.due.After(now) {
		return
	}
	for step := time.Second; ; step *= 2 {
		from := now.Add(-step)
		if !from.After(t.position) {
			from = t.position
		}
		latest := time.Time{}
		for at := t.schedule.Next(from); !at.IsZero() && !at.After(now); at = t.schedule.Next(at) {
			latest = at
		}
		if !latest.IsZero() {
			t.skipTo(latest.Add(-time.Nanosecond))
			return
		}
	}
}

// eventID is the same on every node and in every run.
func (t *timer) eventID() string {
	return t.in.Instance + "@" + t.due.Format(time.RFC3339)
}

// appendLine appends the event of the due time, and arms the next.
func (t *timer) appendLine(buf []byte, now time.Time) []byte {
	due, next := t.due, t.schedule.Next(t.due)
	t.count++
	when := due.AppendFormat(make([]byte, 0, len(time.RFC3339)), time.RFC3339)

	buf = append(buf, t.line.head...)
	buf = append(buf, when...)
	buf = append(buf, `","due":"`...)
	buf = append(buf, when...)
	buf = append(buf, '"')
	if jitter := t.fireAt.Sub(due); jitter > 0 {
		// What was waited on purpose is no delay.
		buf = append(buf, `,"jitter_ms":`...)
		buf = strconv.AppendInt(buf, jitter.Milliseconds(), 10)
	}
	buf = append(buf, t.line.kind...)
	buf = now.Truncate(time.Microsecond).AppendFormat(buf, time.RFC3339Nano)
	buf = append(buf, `","scheduled_at":"`...)
	buf = append(buf, when...)
	buf = append(buf, `","next_fire_at":`...)
	if next.IsZero() {
		buf = append(buf, "null"...)
	} else {
		buf = next.AppendFormat(append(buf, '"'), time.RFC3339)
		buf = append(buf, '"')
	}
	buf = append(buf, `,"delay_ms":`...)
	buf = strconv.AppendInt(buf, now.Sub(due).Milliseconds(), 10)
	buf = append(buf, `,"count":`...)
	buf = strconv.AppendInt(buf, t.count, 10)
	buf = append(buf, `,"execution_count":`...)
	buf = strconv.AppendInt(buf, t.count, 10)
	buf = append(buf, t.line.tail...)

	t.position = due
	t.armAt(next)
	return buf
}

// lineParts are what all lines of a timer have in common: thousands may have to be printed within
// milliseconds.
type lineParts struct {
	head []byte // up to the time in event_id
	kind []byte // from payload up to fired_at
	tail []byte // what follows execution_count
}

func newLineParts(in Instance, kind, sensor string) (p lineParts, err error) {
	instance := text(in.Instance)
	p.head = fmt.Appendf(nil, `{"trigger":%s,"instance":%s,"event_id":%s@`, text(in.Trigger), instance, instance[:len(instance)-1])
	p.kind = fmt.Appendf(nil, `,"payload":{"type":%s,"fired_at":"`, text(kind))
	p.tail = fmt.Appendf(nil, `,"sensor_ref":%s`, text(sensor))
	zone, _ := in.Parameters["timezone"].(string)
	if zone == "" {
		zone = "UTC"
	}
	switch kind {
	case manifest.TriggerInterval:
		every, err := reconcile.Interval(in.Parameters)
		if err != nil {
			return p, err
		}
		p.tail = fmt.Appendf(p.tail, `,"interval_seconds":%d`, every/time.Second)
	case manifest.TriggerCron:
		expression, _ := in.Parameters["expression"].(string)
		p.tail = fmt.Appendf(p.tail, `,"expression":%s,"timezone":%s`, text(expression), text(zone))
	case manifest.TriggerDatetime:
		at, _ := in.Parameters["fire_at"].(string)
		p.tail = fmt.Appendf(p.tail, `,"fire_at":%s,"timezone":%s`, text(at), text(zone))
	}
	p.tail = append(p.tail, "}}\n"...)
	return p, nil
}

// text is a string as JSON.
func text(s string) string {
	encoded, err := json.Marshal(s)
	if err != nil {
		return `""` // strings always encode
	}
	return string(encoded)
}
