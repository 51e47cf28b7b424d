package store

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// trackedHoles is how many numbers that were drawn and have not come are waited for, and holesFor how long:
	// the transaction that drew one commits within it, or never. A statement of ours takes hotTimeout at most.
	trackedHoles = 10_000
	holesFor     = 2 * time.Minute

	// trackedWaiting is how many waiting executions are remembered, for when many end at once.
	trackedWaiting = 10_000

	// trackedPage is how many new rows are read at once.
	trackedPage = 1000
)

// numbers follows the numbers of a table whose rows come in nearly their order: a transaction that drew its
// number earlier may commit later.
type numbers struct {
	last  int64               // the highest that has come
	holes map[int64]time.Time // lower ones that may come yet, and when they were missed
}

// begin takes the newest ones as those that have come, in descending order.
func (n *numbers) begin(newest []int64, now time.Time) {
	*n = numbers{holes: map[int64]time.Time{}}
	slices.Reverse(newest)
	for i, id := range newest {
		if i == 0 {
			n.last = id
			continue
		}
		n.came(id, now)
	}
}

// came notes a number, and those that were left out before it.
func (n *numbers) came(id int64, now time.Time) {
	delete(n.holes, id)
	for missed := max(n.last+1, id-trackedHoles); missed < id && len(n.holes) < trackedHoles; missed++ {
		n.holes[missed] = now
	}
	n.last = max(n.last, id)
}

// open are the holes that are still waited for.
func (n *numbers) open(now time.Time) []int64 {
	maps.DeleteFunc(n.holes, func(_ int64, since time.Time) bool { return now.Sub(since) > holesFor })
	return slices.Sorted(maps.Keys(n.holes))
}

// EventTrack tells which events have been stored since it began. It is for one goroutine.
type EventTrack struct {
	s       *Store
	numbers numbers
}

// TrackEvents begins with the events that are stored from now on.
func (s *Store) TrackEvents(ctx context.Context) (*EventTrack, error) {
	newest, err := list(ctx, s, "NewestEvents", pgx.StrictNamedArgs{"most": trackedHoles}, pgx.RowTo[int64])
	if err != nil {
		return nil, s.failed("look for the newest events", err)
	}
	t := &EventTrack{s: s}
	t.numbers.begin(newest, time.Now())
	return t, nil
}

// Look gives what has come since the last look, once each; more says that there is more at once. After an error
// the next look gives it.
func (t *EventTrack) Look(ctx context.Context) (came []Event, more bool, err error) {
	now := time.Now()
	if holes := t.numbers.open(now); len(holes) > 0 {
		if came, err = list(ctx, t.s, "EventsOf", pgx.StrictNamedArgs{"ids": holes}, pgx.RowToStructByPos[Event]); err != nil {
			return nil, false, t.s.failed("look for new events", err)
		}
	}
	fresh, err := list(ctx, t.s, "EventsAfter", pgx.StrictNamedArgs{"after": t.numbers.last, "most": trackedPage}, pgx.RowToStructByPos[Event])
	if err != nil {
		return nil, false, t.s.failed("look for new events", err)
	}
	came = append(came, fresh...)
	for i := range came {
		t.numbers.came(came[i].ID, now)
	}
	return came, len(fresh) == trackedPage, nil
}

// progress is how far an execution is.
type progress struct {
	status  Status
	attempt int
}

// ExecutionTrack tells which executions have come or changed since it began. It is for one goroutine.
type ExecutionTrack struct {
	s       *Store
	numbers numbers
	// running are those that a node holds, with their attempt.
	running map[int64]int
	// waiting are those that wait, as far as they are remembered; beyond says that there are others.
	waiting map[int64]struct{}
	beyond  bool
	// suspects may have changed; many says that others may have ended too. Both stay until they were looked at.
	suspects map[int64]struct{}
	many     bool
	// told is what was told last of those that were told not long ago: each change is told once.
	told, toldBefore map[int64]progress
}

// TrackExecutions begins with what happens from now on.
func (s *Store) TrackExecutions(ctx context.Context) (*ExecutionTrack, error) {
	const doing = "look for the newest executions"
	newest, err := list(ctx, s, "NewestExecutions", pgx.StrictNamedArgs{"most": trackedHoles}, pgx.RowTo[int64])
	if err != nil {
		return nil, s.failed(doing, err)
	}
	waiting, err := list(ctx, s, "NewestWaiting", pgx.StrictNamedArgs{"most": trackedWaiting}, pgx.RowTo[int64])
	if err != nil {
		return nil, s.failed(doing, err)
	}
	t := &ExecutionTrack{
		s: s, waiting: map[int64]struct{}{}, beyond: len(waiting) == trackedWaiting,
		suspects: map[int64]struct{}{}, told: map[int64]progress{},
	}
	if t.running, err = t.held(ctx); err != nil {
		return nil, s.failed(doing, err)
	}
	for _, id := range waiting {
		t.waiting[id] = struct{}{}
	}
	t.numbers.begin(newest, time.Now())
	return t, nil
}

func (t *ExecutionTrack) held(ctx context.Context) (map[int64]int, error) {
	type row struct {
		ID      int64
		Attempt int
	}
	rows, err := list(ctx, t.s, "HeldAttempts", nil, pgx.RowToStructByPos[row])
	held := make(map[int64]int, len(rows))
	for _, r := range rows {
		held[r.ID] = r.Attempt
	}
	return held, err
}

// Look gives what has come or changed since the last look, as it now is; what changed twice between two looks is
// given once. ended are payloads of ChannelFinished since then: an empty one says that many may have. lost says
// that others may have ended which nobody remembers, and more that there is more at once. After an error the next
// look gives it.
func (t *ExecutionTrack) Look(ctx context.Context, ended []string) (changed []Execution, lost, more bool, err error) {
	now := time.Now()
	for _, payload := range ended {
		t.many = t.many || payload == ""
		for id := range strings.SplitSeq(payload, ",") {
			if number, err := strconv.ParseInt(id, 10, 64); err == nil {
				t.suspects[number] = struct{}{}
			}
		}
	}
	running, fresh, err := t.read(ctx, now, &changed)
	if err != nil {
		return nil, false, false, t.s.failed("look for changed executions", err)
	}
	lost = t.many && t.beyond
	t.running, t.suspects, t.many = running, map[int64]struct{}{}, false
	changed = slices.DeleteFunc(append(changed, fresh...), func(e Execution) bool { return !t.news(&e, now) })
	return changed, lost, len(fresh) == trackedPage, nil
}

// read reads all that may have changed, and changes nothing but the suspects.
func (t *ExecutionTrack) read(ctx context.Context, now time.Time, changed *[]Execution) (running map[int64]int, fresh []Execution, err error) {
	if t.many && len(t.waiting) > 0 {
		gone, err := list(ctx, t.s, "WaitingNoMore", pgx.StrictNamedArgs{"ids": slices.Sorted(maps.Keys(t.waiting))}, pgx.RowTo[int64])
		if err != nil {
			return nil, nil, err
		}
		t.suspect(gone)
	}
	if running, err = t.held(ctx); err != nil {
		return nil, nil, err
	}
	for id, attempt := range running {
		if t.running[id] != attempt {
			t.suspects[id] = struct{}{}
		}
	}
	for id := range t.running {
		if _, still := running[id]; !still {
			t.suspects[id] = struct{}{}
		}
	}
	t.suspect(t.numbers.open(now))
	if len(t.suspects) > 0 {
		if *changed, err = t.executions(ctx, "ExecutionsOf", pgx.StrictNamedArgs{"ids": slices.Sorted(maps.Keys(t.suspects))}); err != nil {
			return nil, nil, err
		}
	}
	fresh, err = t.executions(ctx, "ExecutionsAfter", pgx.StrictNamedArgs{"after": t.numbers.last, "most": trackedPage})
	return running, fresh, err
}

func (t *ExecutionTrack) executions(ctx context.Context, query string, args pgx.StrictNamedArgs) ([]Execution, error) {
	return list(ctx, t.s, query, args, pgx.RowToStructByPos[Execution])
}

func (t *ExecutionTrack) suspect(ids []int64) {
	for _, id := range ids {
		t.suspects[id] = struct{}{}
	}
}

// news remembers how far an execution is, and says whether that was told before.
func (t *ExecutionTrack) news(e *Execution, now time.Time) bool {
	t.numbers.came(e.ID, now)
	delete(t.waiting, e.ID)
	if e.Status == StatusRequested || e.Status == StatusScheduled {
		if len(t.waiting) < trackedWaiting {
			t.waiting[e.ID] = struct{}{}
		} else {
			t.beyond = true
		}
	}
	is := progress{e.Status, e.Attempt}
	before, known := t.told[e.ID]
	if !known {
		before, known = t.toldBefore[e.ID]
	}
	if len(t.told) == trackedWaiting {
		t.told, t.toldBefore = map[int64]progress{}, t.told
	}
	t.told[e.ID] = is
	return !known || before != is
}
