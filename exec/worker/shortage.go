package worker

import (
	"sync"
	"time"

	"github.com/attune-io/attune/exec/child"
)

const (
	// shortageFirst and shortageMost bound how long nothing is claimed after something could not be
	// started for want of descriptors, processes, memory or disk, doubling.
	shortageFirst = time.Second
	shortageMost  = 30 * time.Second
)

// shortage remembers that the machine has run out of something.
type shortage struct {
	mu    sync.Mutex
	kind  child.Shortage // none: all is well
	pause time.Duration
	until time.Time
}

// hit notes one failure. What fails while claims are paused already is a neighbour's echo.
func (s *shortage) hit(kind child.Shortage, now time.Time) (pause time.Duration, news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.until) {
		return s.until.Sub(now), false
	}
	news = s.kind == child.NoShortage
	s.kind, s.pause = kind, max(min(2*s.pause, shortageMost), shortageFirst)
	s.until = now.Add(s.pause)
	return s.pause, news
}

// over notes a success; news says that there was a shortage before.
func (s *shortage) over(now time.Time) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kind == child.NoShortage || now.Before(s.until) {
		return false // it was under way already
	}
	s.kind, s.pause = child.NoShortage, 0
	return true
}

// left is how long claims are still paused.
func (s *shortage) left(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.until.Sub(now), 0)
}

// ranShort pauses the claims: whoever cannot start what it has must not take more.
func (p *Pool) ranShort(err error) (pause time.Duration) {
	kind := child.ShortageOf(err)
	p.metrics.shortages.WithLabelValues(string(kind)).Inc()
	pause, news := p.shortage.hit(kind, time.Now())
	if news {
		p.log.Error("cannot start children, nothing is claimed until that works again", "shortage", kind, "err", err, "hint", kind.Hint())
	}
	return pause
}

// started ends a pause.
func (p *Pool) started() {
	if p.shortage.over(time.Now()) {
		p.log.Info("children are started again")
	}
}
