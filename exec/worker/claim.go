package worker

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

const (
	// pollPeriod is the floor under notifications: what they miss is found within it.
	pollPeriod = 2 * time.Second

	// backlogFactor: with so many unwritten outcomes for each worker the database is in trouble, and
	// more work would only make more of them.
	backlogFactor = 4

	// claimMost is how many a claim takes at most. A row of a claim for more costs no less, and what was claimed is
	// begun while the next claim runs.
	claimMost = 400
)

// claimLoop claims until ctx ends: when told that something may be due, when something that waited is, and
// each pollPeriod; and as long as claims come back full, whenever a slot is free.
func (p *Pool) claimLoop(ctx context.Context) {
	notices, unsubscribe := p.subscribe(store.ChannelQueue)
	defer unsubscribe()
	select {
	case <-ctx.Done():
		return
	case <-p.lease.first: // what is claimed must be renewed, so renewing comes first
	}
	poll := time.NewTimer(0)
	defer poll.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	failing := false
	for look := true; ctx.Err() == nil; {
		if free := p.freeSlots(); look && free > 0 {
			claimed, err := p.claim(ctx, free)
			look = err == nil && len(claimed) == free
			p.setIdle(err == nil && !look)
			if failed := err != nil; failed != failing {
				failing = failed
				if failed {
					p.unanswered.Store(true) // it may have been committed: then two renewals tell of it
					p.lease.hasten()
					p.log.Warn("cannot claim executions, trying again", "err", err)
				} else {
					p.log.Info("claiming executions again")
				}
			}
			continue
		}
		due.Reset(p.untilDue())
		select {
		case <-ctx.Done():
		case <-notices:
			// One look answers all notices that are there.
			for range len(notices) {
				<-notices
			}
			look = true
			p.setIdle(false)
		case <-poll.C:
			// Nodes that were woken by one notice must not poll in step for ever.
			poll.Reset(pollPeriod + rand.N(pollPeriod/10))
			look = true
		case <-due.C:
			look = p.takeDue() || look
		case <-p.wake:
		}
	}
}

// claim claims and takes in. A claim that was sent is waited for, also when ctx ends: the database
// would hold what nobody knows of.
func (p *Pool) claim(ctx context.Context, free int) ([]store.Claimed, error) {
	p.mu.Lock()
	p.claiming++
	p.mu.Unlock()
	defer p.endClaim()
	claimed, err := p.queue.Claim(context.WithoutCancel(ctx), p.opts.Node, free, p.ready.revisions()...)
	if len(claimed) > 0 {
		p.admit(claimed, 0)
	}
	return claimed, err
}

// endClaim says that what the answer to a claim brought is known here, or that none comes.
func (p *Pool) endClaim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claiming--
}

// mayHear tells whether the answer to a claim may bring tokens that nobody here knows of yet.
func (p *Pool) mayHear() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.claiming > 0
}

// freeSlots tells how many attempts may be claimed now: those that have a slot, and a stock of short ones.
func (p *Pool) freeSlots() int {
	stock := p.pace.stock(p.opts.Workers)
	p.mu.Lock()
	busy, draining := p.busy, p.draining
	p.mu.Unlock()
	room := min(p.opts.Workers+stock-busy, claimMost)
	switch {
	case draining:
		return 0
	case busy >= p.opts.Workers && room < min(max(p.opts.Workers, stock/2), claimMost):
		return 0 // a claim for a few is hardly cheaper than one for many
	// Looked at last: who gave a slot back for want of something has said so before.
	case !p.mayClaim(stock):
		return 0
	}
	return room
}

// mayClaim tells whether nothing speaks against having more.
func (p *Pool) mayClaim(stock int) bool {
	return p.shortage.left(time.Now()) == 0 && p.lease.age(p.boottime()) < fenceStop &&
		p.finisher.backlog() <= backlogFactor*p.opts.Workers+stock
}

var _ store.Hand = (*Pool)(nil)

// Reserve keeps slots free for executions that are about to be queued, and claimed with that: where there are
// some, and nothing else waits in the queue whose turn it would be.
func (p *Pool) Reserve(most int) (store.Claiming, bool) {
	select {
	case <-p.lease.first:
	default:
		return store.Claiming{}, false
	}
	if !p.mayClaim(0) {
		return store.Claiming{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(most, p.opts.Workers-p.busy)
	if p.draining || !p.idle || n <= 0 {
		return store.Claiming{}, false
	}
	p.busy += n
	p.attempts.Add(1) // a drain waits for what comes of it
	p.claiming++
	return store.Claiming{Node: p.opts.Node, Most: n, Ready: p.ready.revisions()}, true
}

// Take takes in what was claimed for a Reserve, and what was kept for it and is not needed.
func (p *Pool) Take(c store.Claiming, claimed []store.Claimed) {
	defer p.attempts.Done()
	defer p.endClaim()
	p.admit(claimed, c.Most)
	if len(claimed) < c.Most {
		p.poke()
	}
}

func (p *Pool) setIdle(idle bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = idle
}

// isStocked tells whether attempts wait for a slot: then no slot waits for what is written.
func (p *Pool) isStocked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.busy > p.opts.Workers
}

// retryAt makes the claim loop look at that time. Of several only the earliest is kept: what comes
// after it is found by polling.
func (p *Pool) retryAt(at time.Time) {
	p.mu.Lock()
	if p.due.IsZero() || at.Before(p.due) {
		p.due = at
	}
	p.mu.Unlock()
	p.poke()
}

func (p *Pool) untilDue() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.due.IsZero() {
		return pollPeriod
	}
	return time.Until(p.due)
}

func (p *Pool) takeDue() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.due.IsZero() || time.Now().Before(p.due) {
		return false
	}
	p.due = time.Time{}
	return true
}
