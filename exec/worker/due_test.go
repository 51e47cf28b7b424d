package worker

import (
	"testing"
	"time"
)

// What waits for its time is claimed when that has come, and not when the queue is polled next.
func TestWhatFallsDueIsClaimedAtOnce(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		const until = pollPeriod + 1300*time.Millisecond
		s.offer(1)
		s.queue.set(func() {
			s.queue.later, s.queue.waiting = s.queue.waiting, nil
			s.queue.dueAt = time.Now().Add(until)
		})
		pass(until - time.Millisecond)
		if n := s.started(); n != 0 {
			t.Errorf("%d were started before their time", n)
		}
		pass(2 * time.Millisecond)
		if n := s.started(); n != 1 {
			t.Errorf("%d are started, want 1", n)
		}
	})
}
