package rule

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

// flow is the way of the groups into the database where nothing is wrong: while one is matched and
// committed the next is inserted, so that the database and we work at the same time. They get their
// numbers one after the other, and are committed one after the other, in their order. Where one fails it
// goes back, with all behind it, to storeGroup.
type flow struct {
	*Intake
	ctx context.Context //nolint:containedctx // that of the commits, which outlives the one that Run is given

	flights []*flight        // in their order; only the first is being committed
	spare   []item           // a slice to be used again
	pause   <-chan time.Time // what few events there are gather until then; nil: they do not
}

// groupPace is how often a group is begun, at most, where events come while another is committed: a group for each of
// two thousand events a second took all of a processor. Who waits for the fate of one event before he hands
// over the next is alone, and never waits for this.
const groupPace = 3 * time.Millisecond

// maxFlights is one group that is committed and one that is inserted, or two that are inserted where that takes
// longer. A third brought nothing.
const maxFlights = 2

// flight is a group on its way. Its channels are nil where there is nothing to come from them.
type flight struct {
	group     []item
	begun     time.Time
	numbered  chan struct{} // closed when the next group may be begun
	inserted  chan insertion
	committed chan result
}

// begun is a group whose events are inserted by a transaction that is still open.
type begun interface {
	Commit(ctx context.Context, match store.Matcher) ([]store.StoredEvent, error)
	Rollback(ctx context.Context)
}

type insertion struct {
	next begun
	err  error
}

type result struct {
	stored []store.StoredEvent
	err    error
}

func beginIn(s *store.Store, hand store.Hand) func(context.Context, []store.NewEvent, bool, func()) (begun, error) {
	return func(ctx context.Context, events []store.NewEvent, ahead bool, numbered func()) (begun, error) {
		group, err := s.BeginEvents(ctx, events, ahead, numbered)
		if err != nil {
			return nil, err
		}
		group.ClaimFor(hand)
		return group, nil
	}
}

func eventsOf(group []item) []store.NewEvent {
	events := make([]store.NewEvent, len(group))
	for n := range group {
		events[n] = group[n].event
	}
	return events
}

// wanted tells of events that may be taken now; nil: none may. Beside others a group has to be worth it: many small
// ones cost more than few large ones, and what does not fill one gathers while another is committed.
func (f *flow) wanted() <-chan struct{} {
	switch n := len(f.flights); {
	case n == 0 && f.pause == nil:
		return f.queue.filled
	case n == 0, n < maxFlights && f.last().numbered == nil:
		return f.queue.some
	default:
		return nil
	}
}

func (f *flow) last() *flight { return f.flights[len(f.flights)-1] }

// numbered tells that the last group has its numbers.
func (f *flow) numbered() <-chan struct{} {
	if len(f.flights) == 0 {
		return nil
	}
	return f.last().numbered
}

// inserted gives the end of the first group's insertion.
func (f *flow) inserted() <-chan insertion {
	if len(f.flights) == 0 {
		return nil
	}
	return f.flights[0].inserted
}

// committed gives the end of the first group's commit.
func (f *flow) committed() <-chan result {
	if len(f.flights) == 0 {
		return nil
	}
	return f.flights[0].committed
}

// add has a group inserted behind our back.
func (f *flow) add(group []item) {
	f.spare = nil
	if group = f.aside.take(group); len(group) == 0 {
		return
	}
	f.pause = nil
	fl := &flight{group: group, begun: time.Now(), numbered: make(chan struct{}), inserted: make(chan insertion, 1)}
	ahead := len(f.flights) > 0
	f.flights = append(f.flights, fl)
	numbered := fl.numbered
	go func() { fl.inserted <- f.insert(group, ahead, func() { close(numbered) }) }()
}

// insert begins a group's transaction.
func (f *flow) insert(group []item, ahead bool, numbered func()) (in insertion) {
	defer func() {
		if p := recover(); p != nil {
			f.logger.Error("insertion of events panicked", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			in.err = fmt.Errorf("internal error: %v", p)
		}
	}()
	if err := f.ctx.Err(); err != nil {
		return insertion{err: err}
	}
	ctx, cancel := context.WithTimeout(f.ctx, commitTimeout)
	defer cancel()
	in.next, in.err = f.begin(ctx, eventsOf(group), ahead, numbered)
	return in
}

// commit has the first group committed behind our back, if it is inserted.
func (f *flow) commit(in insertion) {
	first := f.flights[0]
	first.inserted = nil
	if in.err != nil {
		f.retreat(in.err)
		return
	}
	committed := make(chan result, 1)
	first.committed = committed
	go func() { committed <- f.end(in.next, len(first.group)) }()
}

// end commits a group of so many events.
func (f *flow) end(next begun, events int) (r result) {
	defer func() {
		if p := recover(); p != nil {
			f.logger.Error("commit of events panicked", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			r = result{err: fmt.Errorf("internal error: %v", p)}
		}
	}()
	ctx, cancel := context.WithTimeout(f.ctx, commitTimeout)
	defer cancel()
	r.stored, r.err = next.Commit(ctx, f.match)
	if r.err == nil && len(r.stored) != events {
		r.err = errors.New("the store did not tell the fate of every event")
	}
	return r
}

// settle ends the first group, and has the next committed before it tells of it.
func (f *flow) settle(r result) {
	first := f.flights[0]
	if r.err != nil {
		f.retreat(r.err)
		return
	}
	f.flights = f.flights[1:]
	if left := groupPace - time.Since(first.begun); left > 0 && f.queue.waits() {
		f.pause = time.After(left)
	}
	tell := func() {
		f.finish(first.group, r.stored)
		clear(first.group) // it keeps nothing alive
		f.spare = first.group
	}
	select {
	case in := <-f.inserted():
		if in.err != nil {
			tell() // before what comes after it
			f.commit(in)
			return
		}
		f.commit(in)
	default:
	}
	tell()
}

// retreat stores all groups one by one, because the first failed: the numbers of its events are to be lower
// than those of the events after it. err is the first one's.
func (f *flow) retreat(err error) {
	flights := f.flights
	f.flights = nil
	for _, fl := range flights {
		if fl.inserted == nil {
			continue // the first, of which nothing is left
		}
		if in := <-fl.inserted; in.err == nil {
			in.next.Rollback(f.ctx)
		}
	}
	f.setAside(f.ctx, flights[0].group, err)
	for _, fl := range flights {
		f.storeGroup(f.ctx, fl.group)
	}
}

// finishAll waits for all groups.
func (f *flow) finishAll() {
	for len(f.flights) > 0 {
		select {
		case in := <-f.inserted():
			f.commit(in)
		case r := <-f.committed():
			f.settle(r)
		}
	}
}
