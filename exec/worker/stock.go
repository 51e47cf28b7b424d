package worker

import (
	"sync"
	"time"
)

const (
	// stockFactor is how many attempts for each worker are claimed beyond those that have a slot, where
	// attempts are so short that they do not wait for one: then a claim takes several, and no slot waits
	// for the database. If the daemon dies, these too count as lost, so there are few of them.
	stockFactor = 2
	// shortAttempt is how long attempts may take on average for that.
	shortAttempt = 100 * time.Millisecond
	// stockPatience is how long a claimed attempt waits for a slot before it goes back to the queue:
	// others may have one free.
	stockPatience = 250 * time.Millisecond
	// paceSamples are how many attempts the average looks back on, and how many there have to be.
	paceSamples = 8
)

// pace is how long attempts have taken of late.
type pace struct {
	mu      sync.Mutex
	count   int
	average time.Duration
}

func (p *pace) took(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	p.average += (d - p.average) / time.Duration(min(p.count, paceSamples))
}

// slowed is for when an attempt waited for a slot in vain: short ones have to show up again first.
func (p *pace) slowed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count, p.average = 0, 0
}

// stock is how many attempts may be claimed beyond the slots.
func (p *pace) stock(workers int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count < paceSamples || p.average > shortAttempt {
		return 0
	}
	return stockFactor * workers
}

// slot waits until the attempt may run; false: it is to go back to the queue.
func (a *attempt) slot() bool {
	select {
	case a.pool.slots <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(stockPatience)
	defer timer.Stop()
	select {
	case a.pool.slots <- struct{}{}:
		return true
	case <-a.ctx.Done():
	case <-timer.C:
		a.pool.pace.slowed()
	}
	return false
}
