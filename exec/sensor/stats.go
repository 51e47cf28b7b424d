package sensor

import (
	"sync"
	"time"
)

const (
	// blockedLeast is the shortest wait for the Sink that counts as being held back.
	blockedLeast = time.Millisecond

	// rateWindow is how far back EventsPerMinute looks, in one-second steps.
	rateWindow = 60
)

// stats counts what a sensor printed, over all its processes.
type stats struct {
	mu        sync.Mutex
	events    int64
	bad       int64
	lastEvent time.Time
	blocked   time.Duration
	waiting   time.Time // since when an event waits for the Sink; zero: none does
	lastLine  time.Time // the last sign of life
	perSecond [rateWindow]int64
	second    int64 // the Unix second that perSecond was last written in
}

// stored counts a committed event.
func (s *stats) stored(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events++
	s.lastEvent = now
	s.advance(now.Unix())
	s.perSecond[s.second%rateWindow]++
}

// advance clears the seconds in which nothing was counted.
func (s *stats) advance(second int64) {
	if second-s.second >= rateWindow {
		s.perSecond = [rateWindow]int64{}
		s.second = second
	}
	for s.second < second {
		s.second++
		s.perSecond[s.second%rateWindow] = 0
	}
}

func (s *stats) badLine() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad++
}

// alive notes a sign of life.
func (s *stats) alive(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastLine = now
}

// silent tells for how long there was no sign of life. A sensor that is held back by us is not
// silent: its lines are there, and we do not read them.
func (s *stats) silent(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waiting.IsZero() {
		return 0
	}
	return now.Sub(s.lastLine)
}

func (s *stats) submitting(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = now
}

func (s *stats) submitted(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait := now.Sub(s.waiting); wait >= blockedLeast {
		s.blocked += wait
		s.lastLine = now
	}
	s.waiting = time.Time{}
}

// fill writes the counts into an Info.
func (s *stats) fill(info *Info, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info.Events, info.BadLines = s.events, s.bad
	if !s.lastEvent.IsZero() {
		last := s.lastEvent
		info.LastEventAt = &last
	}
	info.BlockedSeconds = s.blockedUntil(now).Seconds()
	s.advance(now.Unix())
	var sum int64
	for _, n := range s.perSecond {
		sum += n
	}
	info.EventsPerMinute = float64(sum)
}

// scraped gives what metrics tell: when the last event was stored, in seconds (0: none was), and the seconds blocked.
func (s *stats) scraped(now time.Time) (last, blocked float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.lastEvent.IsZero() {
		last = float64(s.lastEvent.UnixMilli()) / 1000
	}
	return last, s.blockedUntil(now).Seconds()
}

// blockedUntil is for how long events waited in all, with one that waits now.
func (s *stats) blockedUntil(now time.Time) time.Duration {
	if !s.waiting.IsZero() {
		if wait := now.Sub(s.waiting); wait >= blockedLeast {
			return s.blocked + wait
		}
	}
	return s.blocked
}
