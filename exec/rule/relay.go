package rule

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

const (
	// sourceAttune is the source of events about Attune itself.
	sourceAttune = "attune"

	// relayPeriod is how often a Relay looks by itself: it is told of what is new, and takes up what a
	// dead node has left behind.
	relayPeriod = 15 * time.Second

	// relayGroup is how many notices are handed on at once.
	relayGroup = 500

	// relayTime bounds one group; what is not stored by then is taken again, by anybody.
	relayTime = 25 * time.Second
)

// Notices are what happened to Attune itself, and is not stored as events yet; store.Store is it.
type Notices interface {
	TakeNotices(ctx context.Context, after int64, others bool, most int) ([]store.Notice, error)
	DropNotices(ctx context.Context, ids []int64) error
}

// Submitter takes an event and tells its fate later; an Intake is it.
type Submitter interface {
	SubmitAsync(ctx context.Context, e store.NewEvent, done func(store.StoredEvent, error)) error
}

// Relay makes events of what happened to Attune itself. It was written with what it tells of, so that it
// is there if and only if that happened; it is forgotten when the event is committed, and the event's id
// makes what is handed on twice one event. Each node has a Relay, and any of them will do.
type Relay struct {
	notices Notices
	intake  Submitter
	told    <-chan string // something is new
	log     *slog.Logger

	// early says that it has just begun: then also what another node took is handed on, for it
	// may have been this one before it died. after is how far that has come.
	early bool
	after int64
}

// NewRelay makes a Relay, which looks whenever told says so.
func NewRelay(notices Notices, intake Submitter, told <-chan string, logger *slog.Logger) *Relay {
	return &Relay{notices: notices, intake: intake, told: told, log: logger.With("component", "relay"), early: true}
}

// Run hands on until ctx ends.
func (r *Relay) Run(ctx context.Context) error {
	wait := newRetry()
	for ctx.Err() == nil {
		more, err := r.pass(ctx)
		if err != nil {
			if ctx.Err() == nil && wait.tries == 0 {
				r.log.Warn("cannot tell of what happened to attune itself, trying again", "err", err)
			}
			_ = wait.sleep(ctx) // its end is seen by the loop
			continue
		}
		wait = newRetry()
		if more {
			continue
		}
		timer := time.NewTimer(relayPeriod)
		select {
		case <-ctx.Done():
		case <-r.told:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// pass hands on one group; more says that there may be another.
func (r *Relay) pass(ctx context.Context) (more bool, err error) {
	notices, err := r.notices.TakeNotices(ctx, r.after, r.early, relayGroup)
	if err != nil {
		return false, err
	}
	if r.early && len(notices) > 0 {
		r.after = notices[len(notices)-1].ID
	} else {
		r.early, r.after = false, 0
	}
	if len(notices) == 0 {
		return false, nil
	}
	bounded, cancel := context.WithTimeout(ctx, relayTime)
	defer cancel()
	var mu sync.Mutex
	var settled []int64
	var fates sync.WaitGroup
	for _, n := range notices {
		fates.Add(1)
		err = r.intake.SubmitAsync(bounded, store.NewEvent{
			Trigger: n.Trigger, Source: sourceAttune, EventID: n.EventID, Depth: n.Depth, Payload: n.Payload,
		}, func(_ store.StoredEvent, err error) {
			defer fates.Done()
			if errors.Is(err, ErrClosed) {
				return // it was not looked at: somebody else will
			}
			// What is refused for good (nobody has the trigger any more) is not tried for ever.
			mu.Lock()
			defer mu.Unlock()
			settled = append(settled, n.ID)
		})
		if err != nil {
			fates.Done()
			break
		}
	}
	// What was taken by the intake has a fate, however long the database is away, unless the intake ends.
	all := make(chan struct{})
	go func() { fates.Wait(); close(all) }()
	select {
	case <-all:
	case <-bounded.Done():
	}
	mu.Lock()
	done := settled
	mu.Unlock()
	if len(done) > 0 {
		// It is stored, also where ctx has ended meanwhile.
		if dropErr := r.notices.DropNotices(context.WithoutCancel(ctx), done); dropErr != nil {
			return false, dropErr
		}
	}
	if err != nil {
		return false, err
	}
	return len(notices) == relayGroup || r.early, nil
}
