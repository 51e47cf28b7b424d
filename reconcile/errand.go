package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

const (
	// errandPatience is how long the leader is waited for: longer than a lease, so that where one died its
	// successor does it.
	errandPatience = store.LeaseDuration + 15*time.Second
	// errandPoll is how often the answer is looked for; who asks is a person.
	errandPoll = 200 * time.Millisecond
	// errandLate is how long the answer to what was done is waited for.
	errandLate = 10 * time.Second
	// mostMoved is how often in a row somebody else may be quicker.
	mostMoved = 3
)

// order has an errand done by who may: this node where it leads, or else the one that does.
func (r *Reconciler) order(ctx context.Context, e store.Errand) (*Report, error) {
	if r.opts.PlanOnly {
		return nil, ErrPlanOnly
	}
	if r.leads() {
		w := &waiter{by: e.Actor, answer: make(chan answer, 1)}
		w.command = func(ctx context.Context, now time.Time) (*Report, error) { return r.perform(ctx, &e, now) }
		report, err := r.wait(ctx, w)
		if !errors.Is(err, ErrFollows) && !errors.Is(err, store.ErrNotHeld) {
			return report, err
		}
	}
	return r.send(ctx, e)
}

// perform does an errand, again where somebody else changed the pack meanwhile.
func (r *Reconciler) perform(ctx context.Context, e *store.Errand, now time.Time) (report *Report, err error) {
	for range mostMoved {
		switch e.Verb {
		case store.ErrandRollback:
			report, err = r.rollback(ctx, e, now)
		case store.ErrandUnpin:
			report, err = r.unpin(ctx, e, now)
		default:
			return nil, fmt.Errorf("this version of Attune does not know how to %s", e.Verb)
		}
		if !isMoved(err) {
			break
		}
	}
	return report, err
}

func isMoved(err error) bool {
	_, moved := errors.AsType[*store.MovedError](err)
	return moved
}

// errandAnswer is what came of an errand, on its way to who asked.
type errandAnswer struct {
	Report  *Report       `json:"report,omitempty"`
	Error   string        `json:"error,omitempty"`
	Kind    string        `json:"kind,omitempty"` // of the error, one of refusals
	Refused *RefusedError `json:"refused,omitempty"`
}

// refusals are the errors that callers decide by.
func refusals() map[string]error {
	return map[string]error{"plan only": ErrPlanOnly, "no pack": ErrNoPack, "no revision": ErrNoRevision, "not pinned": ErrNotPinned}
}

func answerOf(report *Report, err error) errandAnswer {
	a := errandAnswer{Report: report}
	if err == nil {
		return a
	}
	a.Error = err.Error()
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		a.Refused = refused
	}
	for kind, one := range refusals() {
		if errors.Is(err, one) {
			a.Kind = kind
		}
	}
	return a
}

// result is what the leader found, as if it had been found here.
func (a *errandAnswer) result() (*Report, error) {
	switch {
	case a.Refused != nil:
		return nil, a.Refused
	case a.Error != "":
		return nil, &toldError{a.Error, refusals()[a.Kind]}
	case a.Report == nil:
		return nil, errors.New("the leader's answer is empty")
	}
	return a.Report, nil
}

// toldError is an error in the words of the node where it happened.
type toldError struct {
	text string
	kind error
}

func (e *toldError) Error() string { return e.text }
func (e *toldError) Unwrap() error { return e.kind }

// send asks the leader and waits for what comes of it. Who gives up takes the errand back: then nothing
// comes of it.
func (r *Reconciler) send(ctx context.Context, e store.Errand) (*Report, error) {
	e.Node = r.opts.Node
	id, err := r.opts.Store.AddErrand(ctx, e, errandPatience)
	if err != nil {
		return nil, err
	}
	r.logger.Info("leader asked", "verb", e.Verb, "pack", e.Pack, "by", e.Actor)
	waiting, cancel := context.WithTimeout(ctx, errandPatience)
	defer cancel()
	found, err := r.answer(waiting, id)
	if err == nil {
		r.withdraw(ctx, id)
		return found.result()
	}
	if r.withdraw(ctx, id) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, r.follows(ctx)
	}
	// It is being done, or was.
	waiting, cancel = context.WithTimeout(ctx, errandLate)
	defer cancel()
	if found, err = r.answer(waiting, id); err != nil {
		return nil, fmt.Errorf("what was asked for may be in force, but the leader did not say: see `attune pack history %s`: %w", e.Pack, err)
	}
	r.withdraw(ctx, id)
	return found.result()
}

// answer looks for the answer to an errand until ctx ends.
func (r *Reconciler) answer(ctx context.Context, id int64) (*errandAnswer, error) {
	ticker := time.NewTicker(errandPoll)
	defer ticker.Stop()
	for {
		text, _, err := r.opts.Store.ErrandAnswer(ctx, id)
		switch {
		case err != nil && !store.IsTransient(err):
			return nil, err
		case text != nil:
			var found errandAnswer
			if err := json.Unmarshal(text, &found); err != nil {
				return nil, fmt.Errorf("cannot read the leader's answer: %w", err)
			}
			return &found, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ticker.C:
		}
	}
}

// withdraw takes an errand back, or away; it tells whether nothing came of it.
func (r *Reconciler) withdraw(ctx context.Context, id int64) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), errandLate)
	defer cancel()
	withdrawn, err := r.opts.Store.WithdrawErrand(ctx, id)
	if err != nil {
		r.logger.Warn("errand not taken back, it expires", "err", err)
	}
	return withdrawn
}

// doErrands does what other nodes asked for, as long as this one leads.
func (r *Reconciler) doErrands(ctx context.Context) {
	errands, err := r.opts.Store.OpenErrands(ctx)
	if err != nil {
		r.logger.Warn("what other nodes ask for is not known, it is looked for again", "err", err)
		return
	}
	for _, e := range errands {
		report, err := r.perform(ctx, &e, time.Now())
		switch {
		case errors.Is(err, ErrFollows), errors.Is(err, store.ErrNotHeld), ctx.Err() != nil:
			return // they are the next leader's
		case errors.Is(err, store.ErrErrandGone):
			continue
		case err != nil:
			r.logger.Info("what another node asked for is refused", "verb", e.Verb, "pack", e.Pack, "node", e.Node, "by", e.Actor, "err", err)
		}
		text, err := json.Marshal(answerOf(report, err))
		if err == nil {
			err = r.opts.Store.AnswerErrand(ctx, e.ID, text)
		}
		if err != nil {
			r.logger.Warn("another node is not told what came of what it asked for", "verb", e.Verb, "pack", e.Pack, "node", e.Node, "err", err)
		}
	}
}
