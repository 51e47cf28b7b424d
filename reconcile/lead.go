package reconcile

import (
	"context"
	"errors"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

// ErrFollows says that another node applies the packs. What is given is a *FollowsError.
var ErrFollows = errors.New("another node leads and applies the packs")

// FollowsError is ErrFollows with the node that leads.
type FollowsError struct {
	Leader string // empty: none does at the moment
}

func (e *FollowsError) Error() string {
	if e.Leader == "" {
		return "no node leads at the moment, and this one may not apply the packs"
	}
	return ErrFollows.Error() + ": " + e.Leader
}

// Unwrap makes it an ErrFollows.
func (e *FollowsError) Unwrap() error { return ErrFollows }

// lead finds out for one pass whether this node may apply. One that has come to lead looks again at what
// it could only tell before: it may have missed what the node before it applied, and must not take the
// others back with it. So files of an older revision are held, and what its folders lack is not removed.
func (r *Reconciler) lead() {
	followed, leads := r.planOnly, true
	r.lease = ""
	if r.opts.Leads != nil {
		r.lease, leads = r.opts.Leads()
	}
	r.planOnly = r.opts.PlanOnly || !leads
	if !followed || r.planOnly {
		return
	}
	for ref := range r.drifts {
		if p := r.packs[ref]; p != nil {
			p.stale = true
			r.unsure = append(r.unsure, ref)
		} else {
			r.absent[ref] = true
		}
	}
}

// leads tells whether this node may apply at this moment; for those who are not the loop.
func (r *Reconciler) leads() bool {
	if r.opts.Leads == nil {
		return true
	}
	_, leads := r.opts.Leads()
	return leads
}

// follows is the refusal of what only the leader does.
func (r *Reconciler) follows(ctx context.Context) error {
	leader, err := r.opts.Store.LeaseHolder(ctx, store.LeaseLeader)
	if err != nil {
		return err
	}
	if leader == r.opts.Node { // its lease is its own, and not trusted any more
		leader = ""
	}
	return &FollowsError{leader}
}

// Noticed tells of a generation that somebody raised: where this node leads, what they changed (a pin, a
// switch) is looked at now. It never waits.
func (r *Reconciler) Noticed(generation int64) {
	r.mu.Lock()
	r.noticedGeneration = max(r.noticedGeneration, generation)
	r.mu.Unlock()
	r.signal()
}

// Asked tells that another node may have asked for something. It never waits.
func (r *Reconciler) Asked() {
	r.mu.Lock()
	r.errandsDue = true
	r.mu.Unlock()
	r.signal()
}

// told takes what the others told of. Before the first pass nobody knows what it means, and who follows
// leaves it to who leads.
func (r *Reconciler) told() *job {
	leads := r.leads()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked.cause == causeStart {
		return nil
	}
	errands, generation := r.errandsDue, r.noticedGeneration
	r.errandsDue, r.noticedGeneration = false, 0
	switch {
	case !leads:
		return nil
	case errands:
		r.noticedGeneration = generation
		return &job{errands: true}
	case generation > r.catalog.Generation:
		return &job{cause: causeResync, since: map[string]time.Time{}}
	}
	return nil
}
