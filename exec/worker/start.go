package worker

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

// startRetry is the pause before a start that the database did not answer is committed again.
const startRetry = 200 * time.Millisecond

// starter commits that attempts begin, as many at once as are ready.
type starter struct {
	queue    queue
	log      *slog.Logger
	requests chan startRequest
}

type startRequest struct {
	ctx    context.Context
	token  string
	answer chan startAnswer // of room 1, so that nobody waits for who has gone
}

type startAnswer struct {
	held bool
	err  error
}

func (s *starter) init(q queue, log *slog.Logger) {
	s.queue, s.log, s.requests = q, log, make(chan startRequest)
}

// begin returns when the database has committed that the attempt begins; false: its token is void, and
// it must not. After an error, which is that of ctx or final, nobody knows.
func (s *starter) begin(ctx context.Context, token string) (held bool, err error) {
	r := startRequest{ctx: ctx, token: token, answer: make(chan startAnswer, 1)}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	select {
	case a := <-r.answer:
		return a.held, a.err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func (s *starter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-s.requests:
			s.commit(ctx, s.gather(r))
		}
	}
}

// gather takes whoever is ready at this moment.
func (s *starter) gather(first startRequest) []startRequest {
	group := []startRequest{first}
	for {
		select {
		case r := <-s.requests:
			group = append(group, r)
		default:
			return group
		}
	}
}

// commit tries until the database answers or nobody waits any more. Committing a start twice is
// harmless.
func (s *starter) commit(ctx context.Context, group []startRequest) {
	for {
		waiting := group[:0]
		tokens := make([]string, 0, len(group))
		for _, r := range group {
			if r.ctx.Err() == nil {
				waiting, tokens = append(waiting, r), append(tokens, r.token)
			}
		}
		group = waiting
		if len(group) == 0 {
			return
		}
		held, err := s.queue.Start(ctx, tokens)
		if locked, some := errors.AsType[*store.LockedError](err); some {
			group = s.answerUnlocked(group, held, locked.Tokens)
			go s.later(ctx, group)
			return
		}
		if err == nil || !store.IsTransient(err) {
			for _, r := range group {
				r.answer <- startAnswer{held: held[r.token], err: err}
			}
			return
		}
		s.log.Warn("cannot record that attempts begin, trying again", "count", len(group), "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(startRetry):
		}
	}
}

// answerUnlocked answers all but those whose rows are locked, and gives these.
func (s *starter) answerUnlocked(group []startRequest, held map[string]bool, locked []string) (left []startRequest) {
	for _, r := range group {
		if slices.Contains(locked, r.token) {
			left = append(left, r)
		} else {
			r.answer <- startAnswer{held: held[r.token]}
		}
	}
	return left
}

// later asks again for those whose rows are locked: nobody else is to wait for them.
func (s *starter) later(ctx context.Context, group []startRequest) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(startRetry):
	}
	for _, r := range group {
		select {
		case s.requests <- r:
		case <-r.ctx.Done():
		case <-ctx.Done():
			return
		}
	}
}
