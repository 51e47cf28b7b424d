package worker

import (
	"slices"
	"sync"
	"time"
)

const (
	// stockWork is for how long the attempts that are claimed beyond those that have a slot keep all slots
	// busy, where attempts are so short that they do not wait for one: then a claim takes many, and no slot
	// waits for the database. There are stockLeast to stockMost of them for each worker. If the machine
	// dies, these too count as lost, and what comes meanwhile waits behind them, so there are no more.
	stockWork  = 25 * time.Millisecond
	stockLeast = 2
	stockMost  = 16
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
	return workers * int(min(max(stockWork/max(p.average, 1), stockLeast), stockMost))
}

// slots are handed out in the order of the claim, which is that of the queue.
type slots struct {
	mu      sync.Mutex
	free    int
	waiting []*attempt
}

// ask gives the attempt a slot, now or when it is its turn: its granted is closed then.
func (s *slots) ask(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free > 0 {
		s.free--
		close(a.granted)
		return
	}
	s.waiting = append(s.waiting, a)
}

// back takes a slot back, for the next.
func (s *slots) back() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		s.free++
		return
	}
	close(s.waiting[0].granted)
	s.waiting = s.waiting[1:]
}

// leave is for who waits no more; false: the slot has been given meanwhile.
func (s *slots) leave(a *attempt) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.waiting, a)
	if i < 0 {
		return false
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
	return true
}

// slot waits until the attempt may run; false: it is to go back to the queue.
func (a *attempt) slot() bool {
	select {
	case <-a.granted:
		return true
	default:
	}
	timer := time.NewTimer(a.pool.patience)
	defer timer.Stop()
	select {
	case <-a.granted:
		return true
	case <-a.ctx.Done():
	case <-timer.C:
		a.pool.pace.slowed()
	}
	return !a.pool.slots.leave(a)
}
