package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

const (
	// finishRetry and finishRetryMost bound the pause before outcomes are sent again, doubling.
	finishRetry     = 100 * time.Millisecond
	finishRetryMost = 2 * time.Second

	// gatherMost is how long an outcome may wait for others when attempts wait for slots, and gatherCount
	// for how many: each commit costs as much as a good part of a short attempt.
	gatherMost  = 10 * time.Millisecond
	gatherCount = 32

	// lockedFirst is the pause before an outcome is sent again whose row somebody had locked, doubling until
	// finishRetryMost; one that takes as long as lockedTold is told of. refusedRetry is that before one is
	// sent again that the database refuses in every form, until somebody has mended what refuses it.
	lockedFirst  = 10 * time.Millisecond
	lockedTold   = time.Second
	refusedRetry = time.Minute

	// finalFlush is how long the end waits for a database that does not take the last outcomes.
	finalFlush = 10 * time.Second
)

// ended is an attempt that ended and whose outcome is to be written.
type ended struct {
	Action      string        `json:"action"`
	ExecutionID int64         `json:"execution_id"`
	Attempt     int           `json:"attempt"`
	Outcome     store.Outcome `json:"outcome"`

	attempt *attempt // nil: of a former run
	spooled bool
	// wait is how long it is set aside for, the next time that it cannot be recorded on its own account.
	wait time.Duration
	// alone says that it is sent without others, as a mistake of ours met them together.
	alone bool
}

// errStumbled says that an outcome cannot be recorded because the daemon panics over it.
var errStumbled = errors.New("a mistake inside the daemon, see the log")

// finisher writes outcomes, as many at once as have come together while the last ones were written.
type finisher struct {
	queue queue
	log   *slog.Logger
	spool spool
	// settle is told each outcome that was written, and whether its token still held.
	settle func(e *ended, accepted bool)
	// mayGather says that attempts wait for slots, and nobody for outcomes.
	mayGather func() bool

	signal   chan struct{}
	stopping chan struct{}
	ctx      context.Context // ends when nothing is tried any more
	giveUp   context.CancelFunc

	// writing are those that run has taken and that are neither recorded nor set aside. Only run has it.
	writing []*ended

	mu      sync.Mutex
	pending []*ended
	// aside are those that cannot be recorded for now; true: because their row is locked.
	aside map[*ended]bool
	// countAside tells the metric how many there are.
	countAside func(count int)
}

func (f *finisher) init(q queue, log *slog.Logger, s spool, settle func(*ended, bool), mayGather func() bool, countAside func(int)) {
	f.queue, f.log, f.spool, f.settle, f.mayGather, f.countAside = q, log, s, settle, mayGather, countAside
	f.signal = make(chan struct{}, 1)
	f.stopping = make(chan struct{})
	f.aside = map[*ended]bool{}
	f.ctx, f.giveUp = context.WithCancel(context.Background())
}

// add hands over outcomes to be written; it does not wait.
func (f *finisher) add(list ...*ended) {
	f.mu.Lock()
	f.pending = append(f.pending, list...)
	f.mu.Unlock()
	select {
	case f.signal <- struct{}{}:
	default:
	}
}

// backlog is how many outcomes are not written yet, apart from those being written now.
func (f *finisher) backlog() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pending)
}

// recover takes up what a former run could not write. Where the tokens are void by now it becomes
// evidence.
func (f *finisher) recover() error {
	left, err := f.spool.load(f.log)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		f.log.Info("writing outcomes that a former run left", "count", len(left))
		f.add(left...)
	}
	return nil
}

// stop makes run return once all is written, or cannot be within finalFlush. Call the func when it has
// returned.
func (f *finisher) stop() (stopped func()) {
	close(f.stopping)
	limit := time.AfterFunc(finalFlush, f.giveUp)
	return func() {
		limit.Stop()
		f.giveUp()
	}
}

func (f *finisher) run() {
	for {
		over, whole := f.survive()
		if !whole {
			over = f.mend()
		}
		if over {
			return
		}
	}
}

// survive keeps a mistake of ours to the round that meets it: whole is false then.
func (f *finisher) survive() (over, whole bool) {
	defer caught(f.log, "writing outcomes")
	return f.round(), true
}

// mend takes up what was being written when a round panicked. Each is sent alone then, which shows the one over which
// we stumble; that one is set aside, and holds up no other.
func (f *finisher) mend() (over bool) {
	batch := f.writing
	f.writing = nil
	switch len(batch) {
	case 0:
		select {
		case <-time.After(persistPause): // nothing tells that the next round comes any further
			return false
		case <-f.ctx.Done():
			f.keep(f.rest())
			return true
		}
	case 1:
		f.setAside(batch[0], errStumbled)
	default:
		for _, e := range batch {
			e.alone = true
		}
		f.mu.Lock()
		f.pending = slices.Concat(batch, f.pending)
		f.mu.Unlock()
	}
	return false
}

// round writes what there is, or waits for something to write; over says that it was the last.
func (f *finisher) round() (over bool) {
	f.gather()
	if batch := f.take(); len(batch) > 0 {
		left := f.write(f.ctx, batch)
		if len(left) == 0 {
			return false
		}
		left = append(left, f.rest()...)
		f.keep(left)
		f.log.Error("the database did not take the last outcomes, they are kept in the spool folder", "count", len(left))
		return true
	}
	select {
	case <-f.signal:
		return false
	case <-f.stopping:
	}
	if f.isDone() {
		return true
	}
	// What is locked comes back by itself, unless it takes too long.
	select {
	case <-f.signal:
		return false
	case <-f.ctx.Done():
		f.keep(f.rest())
		return true
	}
}

// isDone says that nothing is left that a try in a moment may record.
func (f *finisher) isDone() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pending) == 0 && !slices.Contains(slices.Collect(maps.Values(f.aside)), true)
}

// setAside has an outcome that cannot be recorded on its own account sent again later, while the others go
// on.
func (f *finisher) setAside(e *ended, why error) {
	isLocked, told := errors.Is(why, store.ErrRowLocked), false
	log := f.log.With("action", e.Action, "execution_id", e.ExecutionID, "attempt", e.Attempt)
	if isLocked {
		e.wait = min(max(2*e.wait, lockedFirst), finishRetryMost)
		if told = e.wait >= lockedTold && e.wait < 2*lockedTold; told {
			log.Warn("an outcome cannot be recorded yet: end the transaction that holds the lock", "err", why)
		}
	} else if told = e.wait != refusedRetry; told {
		e.wait = refusedRetry
		if errors.Is(why, errStumbled) {
			log.Error("an outcome cannot be recorded, it is kept and tried again: report what the log says, and start a daemon in which that is mended", "err", why)
		} else {
			log.Error("an outcome cannot be recorded in any form, it is kept and tried again: see what refuses it (a constraint, a trigger, a partition that is gone) and mend that", "err", why)
		}
	}
	if told {
		f.keep([]*ended{e}) // it may be there for long
	}
	f.mu.Lock()
	f.aside[e] = isLocked
	f.countAside(len(f.aside))
	f.mu.Unlock()
	time.AfterFunc(e.wait, func() {
		f.mu.Lock()
		delete(f.aside, e)
		f.pending = append(f.pending, e)
		f.countAside(len(f.aside))
		f.mu.Unlock()
		f.add() // tells run
	})
}

// gather lets a few outcomes come together while there is so much to do that nothing waits for them.
func (f *finisher) gather() {
	limit := time.NewTimer(gatherMost)
	defer limit.Stop()
	for f.mayGather() {
		if n := f.backlog(); n == 0 || n >= gatherCount {
			return
		}
		select {
		case <-f.signal:
		case <-limit.C:
			return
		case <-f.stopping:
			return
		}
	}
}

// take gives all that waits, up to one that is to be sent alone.
func (f *finisher) take() []*ended {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := slices.IndexFunc(f.pending, func(e *ended) bool { return e.alone })
	if n == 0 {
		n = 1
	}
	if n < 0 || n == len(f.pending) {
		batch := f.pending
		f.pending = nil
		return batch
	}
	batch := f.pending[:n:n]
	f.pending = f.pending[n:]
	return batch
}

// rest gives all that is not written: what waits, and what is set aside.
func (f *finisher) rest() []*ended {
	f.mu.Lock()
	defer f.mu.Unlock()
	rest := slices.AppendSeq(f.pending, maps.Keys(f.aside))
	f.pending = nil
	return rest
}

// write tries until the database answers, and gives what it did not take until ctx ended. What comes
// meanwhile goes with the next try.
func (f *finisher) write(ctx context.Context, batch []*ended) (left []*ended) {
	wait, failing := finishRetry, ""
	for {
		f.writing = batch
		// A commit whose answer is lost may have happened. Then the same outcome, sent again, is found
		// to be written.
		accepted, err := f.queue.Finish(ctx, outcomesOf(batch))
		apart, some := errors.AsType[*store.LeftError](err)
		if err == nil || some {
			if failing != "" {
				f.log.Info("outcomes are written again", "count", len(batch))
			}
			for i, e := range batch {
				if some && apart.Left[i] != nil {
					f.setAside(e, apart.Left[i])
					f.writing = batch[i+1:]
					continue
				}
				isAccepted := accepted[i]
				f.writing = batch[i+1:]
				f.recorded(e, isAccepted)
			}
			return nil
		}
		f.keep(batch)
		if failing != err.Error() && ctx.Err() == nil {
			failing = err.Error()
			f.log.Warn("cannot write outcomes, they are kept", "count", len(batch), "err", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return append(batch, f.take()...)
		case <-timer.C:
		}
		wait = min(2*wait, finishRetryMost)
		batch = append(batch, f.take()...)
	}
}

// recorded is for an outcome that the database has answered for: whatever we do about it then, that holds.
func (f *finisher) recorded(e *ended, accepted bool) {
	defer caught(f.log, "telling of an outcome")
	f.spool.remove(e, f.log)
	f.settle(e, accepted)
}

// keep writes to disk what is not there yet, for the case that this daemon ends before the database is
// back. One that does not fit keeps no other off.
func (f *finisher) keep(batch []*ended) {
	var failed []int64
	var first error
	for _, e := range batch {
		if e.spooled {
			continue
		}
		if err := f.spool.write(e); err != nil {
			failed, first = append(failed, e.ExecutionID), cmp.Or(first, err)
			continue
		}
		e.spooled = true
	}
	if len(failed) > 0 {
		f.log.Error("cannot keep outcomes on disk, they are in memory only", "executions", failed, "err", first)
	}
}

// FlushSpool writes the outcomes that a dead run left in a SpoolDir, and gives back what it had claimed and
// not begun. It is for before store.LoseNode of that run, which makes their tokens void.
func FlushSpool(ctx context.Context, s *store.Store, dir string, logger *slog.Logger) error {
	sp := spool{dir: dir}
	left, err := sp.load(logger)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(left, 100) {
		if err := flush(ctx, s, sp, batch, logger.With("component", "worker")); err != nil {
			return fmt.Errorf("cannot write the outcomes of a former run: %w", err)
		}
	}
	return giveBack(ctx, s, dir, logger)
}

// flush writes outcomes of the spool folder, those that it can. One over which we panic must not keep the daemon from
// starting.
func flush(ctx context.Context, s outcomes, sp spool, batch []*ended, logger *slog.Logger) error {
	accepted, err := finishSafely(ctx, s, batch, logger)
	if errors.Is(err, errStumbled) && len(batch) > 1 {
		for _, e := range batch {
			if err := flush(ctx, s, sp, []*ended{e}, logger); err != nil {
				return err
			}
		}
		return nil
	}
	apart, some := errors.AsType[*store.LeftError](err)
	if errors.Is(err, errStumbled) {
		apart, some = &store.LeftError{Left: map[int]error{0: err}}, true
	}
	if err != nil && !some {
		return err
	}
	for i, e := range batch {
		log := logger.With("execution_id", e.ExecutionID, "attempt", e.Attempt)
		if some && apart.Left[i] != nil {
			log.Warn("cannot write an outcome that a former run left, it stays in the spool folder", "err", apart.Left[i])
			continue
		}
		log.Info("wrote an outcome that a former run left", "accepted", accepted[i])
		sp.remove(e, logger)
	}
	return nil
}

// outcomes takes the ends of attempts; a queue does.
type outcomes interface {
	Finish(ctx context.Context, outcomes []store.Outcome) (accepted []bool, err error)
}

// finishSafely gives errStumbled where a mistake of ours is in the way.
func finishSafely(ctx context.Context, s outcomes, batch []*ended, logger *slog.Logger) (accepted []bool, err error) {
	err = errStumbled
	defer caught(logger, "writing outcomes")
	return s.Finish(ctx, outcomesOf(batch))
}

func outcomesOf(batch []*ended) []store.Outcome {
	list := make([]store.Outcome, len(batch))
	for i, e := range batch {
		list[i] = e.Outcome
	}
	return list
}
