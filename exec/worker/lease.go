package worker

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// renewPeriod leaves two more tries before fenceStop.
	renewPeriod = store.LeaseDuration / 3
	// renewRetry is the pause after a renewal that failed.
	renewRetry = time.Second

	// fenceStop and fenceKill are how long after the last renewal the children are stopped and killed.
	// What is left until LeaseDuration is for a kill that takes its time, and for clocks that differ.
	fenceStop = 18 * time.Second
	fenceKill = 22 * time.Second
	// guardPeriod is how exactly the two are kept.
	guardPeriod = 500 * time.Millisecond

	// orphanAfter is how long a lease may be ours without anybody here knowing of it, where claims are always
	// under way: longer than the answer to one can be.
	orphanAfter = 25 * time.Second
)

// lease is until when this node may run what it holds. Times are of CLOCK_BOOTTIME.
type lease struct {
	first chan struct{} // closed with the first renewal
	now   chan struct{} // asks for a renewal before its time

	mu      sync.Mutex
	renewed time.Duration // when the last successful renewal was sent; 0: never
	fenced  bool
	// late is when the answer to the last renewal came that the keeper did not wait for; 0: it always did.
	late time.Duration
}

const (
	// keeperKill is how long after the last renewal the keeper kills what this node runs.
	keeperKill = store.LeaseDuration - child.KeeperMargin
	// keeperSeen is how soon a daemon that was frozen sees what the keeper has killed.
	keeperSeen = 5 * time.Second
)

func (l *lease) init() {
	l.first = make(chan struct{})
	l.now = make(chan struct{}, 1)
}

// age is the time since the last renewal was sent; 0 before there was one.
func (l *lease) age(now time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.renewed == 0 {
		return 0
	}
	return now - l.renewed
}

func (l *lease) renewedAt(sent, answered time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.renewed == 0:
		close(l.first)
	case answered-l.renewed >= keeperKill:
		l.late = answered
	}
	l.renewed, l.fenced = sent, false
}

// outlasted tells whether the keeper has killed what has begun at that time, because nothing was renewed for so
// long. A daemon that was frozen meanwhile may be quicker to renew again than to see what became of its children.
func (l *lease) outlasted(began, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.renewed != 0 && (now-l.renewed >= keeperKill || began < l.late && now-l.late < keeperSeen)
}

// fence tells whether it is the first call since the last renewal.
func (l *lease) fence() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.fenced
	l.fenced = true
	return first
}

// hasten asks for a renewal now.
func (l *lease) hasten() {
	select {
	case l.now <- struct{}{}:
	default:
	}
}

// renewLeases renews until ctx ends.
func (p *Pool) renewLeases(ctx context.Context) {
	orphans := map[string]time.Duration{}
	failing := false
	var locked lockedLeases
	for ctx.Err() == nil {
		wait := renewPeriod
		renewal, err := p.renew(ctx, orphans)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			wait = renewRetry
		} else {
			p.metrics.locked.Set(float64(len(renewal.Locked)))
			if len(renewal.Locked) > 0 {
				wait = renewRetry
			}
			locked.note(p, renewal.Locked)
		}
		if failed := err != nil; failed != failing {
			failing = failed
			if failed {
				p.log.Warn("cannot renew leases, trying again", "err", err)
			} else {
				p.log.Info("leases are renewed again")
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-p.lease.now:
		}
		timer.Stop()
	}
}

// lockedLeases counts for how many renewals on end some were locked.
type lockedLeases int

// lockedRenewals is after how many it is told: whatever writes to a row locks it for a moment.
const lockedRenewals = 3

// note tells of it once. A lease that is not renewed for this is not at stake, as long as this node is seen
// to live.
func (l *lockedLeases) note(p *Pool, tokens []string) {
	if len(tokens) == 0 {
		if *l >= lockedRenewals {
			p.log.Info("the leases whose rows were locked are renewed again")
		}
		*l = 0
		return
	}
	if *l++; *l == lockedRenewals {
		var ids []int64
		for _, token := range tokens {
			if a := p.heldBy(token); a != nil {
				ids = append(ids, a.claim.ExecutionID)
			}
		}
		p.log.Warn("leases cannot be renewed, because another session has locked their rows in attune.queue: end its transaction; the other leases are renewed", "executions", ids)
	}
}

// renew renews all leases of the node, and does what the answer says.
func (p *Pool) renew(ctx context.Context, orphans map[string]time.Duration) (*store.Renewal, error) {
	// Both before the statement is sent: the lease begins no later than that, and an attempt that was
	// claimed since may be missing in the answer.
	sent := p.boottime()
	before := p.unfinished()
	renewal, err := p.queue.Renew(ctx, p.opts.Node)
	if err != nil {
		return nil, err
	}
	p.lease.renewedAt(sent, p.boottime())
	p.leaseUntil(sent + store.LeaseDuration)
	held := make(map[string]bool, len(renewal.Held))
	for _, token := range renewal.Held {
		held[token] = true
	}
	for _, a := range before {
		if !held[a.claim.Token] {
			a.disown()
		}
	}
	for _, token := range renewal.Cancel {
		if a := p.heldBy(token); a != nil {
			a.stop(stopCancel, p.opts.StopGrace)
		}
	}
	p.releaseOrphans(ctx, held, orphans)
	return renewal, nil
}

func (p *Pool) heldBy(token string) *attempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[token]
}

// releaseOrphans gives back what a claim took whose answer got lost: nobody would run it, and renewing
// it would keep others from it for ever. What is unknown here at one renewal may have ended since; at the
// next it is an orphan, unless the answer to its claim may still come.
func (p *Pool) releaseOrphans(ctx context.Context, held map[string]bool, orphans map[string]time.Duration) {
	now, mayHear := p.boottime(), p.mayHear()
	for token := range orphans {
		if !held[token] {
			delete(orphans, token)
		}
	}
	var old []string
	fresh := false
	for token := range held {
		if p.heldBy(token) != nil {
			delete(orphans, token)
			continue
		}
		since, known := orphans[token]
		switch {
		case !known:
			orphans[token], fresh = now, true
		case !mayHear, now-since >= orphanAfter:
			old = append(old, token)
		}
	}
	if fresh && p.unanswered.Swap(false) {
		p.lease.hasten()
	}
	if len(old) == 0 {
		return
	}
	if err := p.queue.Release(ctx, old); err != nil {
		p.log.Warn("cannot release executions whose claim was not answered", "count", len(old), "err", err)
		return
	}
	p.log.Warn("released executions whose claim was not answered", "count", len(old))
}

// guardLease stops this node's children before somebody else may start the same executions.
func (p *Pool) guardLease(ctx context.Context) {
	tick := time.NewTicker(guardPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		age := p.lease.age(p.boottime())
		if age < fenceStop {
			continue
		}
		running := p.unfinished()
		if len(running) == 0 {
			continue
		}
		if p.lease.fence() {
			p.metrics.selfFence.Inc()
			p.log.Error("leases could not be renewed, stopping the attempts of this node", "count", len(running), "duration", age)
		}
		for _, a := range running {
			if age < fenceKill {
				a.stop(stopFence, fenceKill-age)
			} else {
				a.kill()
			}
		}
	}
}

// hearCancels looks at once when somebody asks to cancel what runs here.
func (p *Pool) hearCancels(ctx context.Context) {
	notices, unsubscribe := p.subscribe(store.ChannelCancel)
	defer unsubscribe()
	for {
		select {
		case <-ctx.Done():
			return
		case payload := <-notices:
			id, err := strconv.ParseInt(payload, 10, 64)
			if err != nil || p.isOurs(id) {
				p.lease.hasten()
			}
		}
	}
}

// isOurs tells whether an execution runs here. One that does not may have been claimed a moment ago: then admit has
// the leases looked at.
func (p *Pool) isOurs(id int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.followed[id] != nil {
		return true
	}
	p.strangers[p.nextStranger] = id
	p.nextStranger = (p.nextStranger + 1) % len(p.strangers)
	return false
}
