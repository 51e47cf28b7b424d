package rule

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/attune-io/attune/reconcile/store"
)

// flow is the way of the groups into the database where nothing is wrong: while one is matched and
// committed the next is inserted, so that the database and we work at the same time. They are committed
// one after the other, in their order. Where one fails it goes back, with the next, to storeGroup.
type flow struct {
	*Intake
	ctx context.Context //nolint:containedctx // that of the commits, which outlives the one that Run is given

	group     []item      // is being committed; nil: none is
	committed chan result // gives the result of that; nil: nothing is being committed
	spare     []item      // a slice to be used again
}

// begun is a group whose events are inserted by a transaction that is still open.
type begun interface {
	Commit(ctx context.Context, match store.Matcher) ([]store.StoredEvent, error)
	Rollback(ctx context.Context)
}

type result struct {
	stored []store.StoredEvent
	err    error
}

func beginIn(s *store.Store, hand store.Hand) func(context.Context, []store.NewEvent, bool) (begun, error) {
	return func(ctx context.Context, events []store.NewEvent, ahead bool) (begun, error) {
		group, err := s.BeginEvents(ctx, events, ahead)
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

// add stores a group. It returns when the group before is stored and told of.
func (f *flow) add(group []item) {
	f.spare = nil
	if len(group) == 0 {
		return
	}
	next, err := f.insert(group)
	former, before := f.group, result{}
	if former != nil {
		before = <-f.committed
		f.group, f.committed = nil, nil
	}
	if before.err != nil {
		// Its numbers are to be lower than those of the events after it.
		if err == nil {
			next.Rollback(f.ctx)
		}
		f.storeGroup(f.ctx, former)
		f.storeGroup(f.ctx, group)
		return
	}
	if err == nil {
		f.commit(next, group)
	}
	f.tell(former, before.stored)
	if err != nil {
		f.storeGroup(f.ctx, group)
	}
}

// settle ends the group that was committed when no other came meanwhile.
func (f *flow) settle(r result) {
	group := f.group
	f.group, f.committed = nil, nil
	if r.err != nil {
		f.storeGroup(f.ctx, group)
		return
	}
	f.tell(group, r.stored)
}

// tell tells of a stored group, and keeps nothing of it alive.
func (f *flow) tell(group []item, stored []store.StoredEvent) {
	if group == nil {
		return
	}
	f.finish(group, stored)
	clear(group)
	f.spare = group
}

// insert begins a group's transaction.
func (f *flow) insert(group []item) (next begun, err error) {
	defer func() {
		if p := recover(); p != nil {
			f.logger.Error("insertion of events panicked", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(f.ctx, commitTimeout)
	defer cancel()
	return f.begin(ctx, eventsOf(group), f.group != nil)
}

// commit has a group committed behind our back.
func (f *flow) commit(next begun, group []item) {
	f.group, f.committed = group, make(chan result, 1)
	committed := f.committed
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				f.logger.Error("commit of events panicked", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
				r = result{err: fmt.Errorf("internal error: %v", p)}
			}
			committed <- r
		}()
		ctx, cancel := context.WithTimeout(f.ctx, commitTimeout)
		defer cancel()
		r.stored, r.err = next.Commit(ctx, f.match)
		if r.err == nil && len(r.stored) != len(group) {
			r.err = errors.New("the store did not tell the fate of every event")
		}
	}()
}
