package worker

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/store"
)

// take has the queue claim one execution for a reservation, and hands it over.
func (s *stage) take(c store.Claiming, id int64) {
	s.offer(id)
	var claimed []store.Claimed
	s.queue.set(func() {
		last := len(s.queue.waiting) - 1
		claimed, s.queue.waiting = slices.Clone(s.queue.waiting[last:]), s.queue.waiting[:last]
		s.queue.held[claimed[0].Token] = true
	})
	s.Take(c, claimed)
}

// Slots are kept for what is claimed as it is queued while there are some and nothing else waits, and are free
// again where nothing comes.
func TestReserve(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		pass(time.Second)
		first, ok := s.Reserve(5)
		if !ok || first.Node != "n" || first.Most != 2 {
			t.Fatalf("reserved %+v, %v", first, ok)
		}
		if more, ok := s.Reserve(1); ok {
			t.Errorf("reserved %+v of no slots", more)
		}
		s.offer(7)
		pass(3 * time.Second)
		if s.started() != 0 {
			t.Error("a slot that was kept is used")
		}
		told, unsubscribe := s.opts.Listener.Subscribe(store.ChannelClaimed)
		defer unsubscribe()
		s.setAway(true) // the slot that was not needed takes nothing yet, which would be told too
		s.take(first, 1)
		synctest.Wait()
		if len(told) != 1 {
			t.Errorf("who follows executions is told %d times of what was claimed as it was queued", len(told))
		}
		s.setAway(false)
		pass(3 * time.Second)
		s.proc(t, 1)
		s.proc(t, 7) // in the slot that was not needed
		s.proc(t, 1).end(child.Exit{})
		pass(3 * time.Second)
		// It may have come to a look at the queue that found nothing.
		second, ok := s.Reserve(1)
		if !ok || second.Most != 1 {
			t.Fatalf("reserved %+v, %v", second, ok)
		}
		s.Take(second, nil)
		if third, ok := s.Reserve(3); !ok || third.Most != 1 {
			t.Errorf("reserved %+v, %v", third, ok)
		} else {
			s.Take(third, nil)
		}
		// What cannot be claimed may be there.
		s.setAway(true)
		pass(2 * pollPeriod)
		if c, ok := s.Reserve(1); ok {
			t.Errorf("reserved %+v while the queue cannot be seen", c)
		}
		s.setAway(false)
		pass(2 * pollPeriod)
		// More waits than there are slots.
		s.offer(8, 9)
		pass(2 * pollPeriod)
		s.proc(t, 8)
		if c, ok := s.Reserve(1); ok {
			t.Errorf("reserved %+v before others", c)
		}
		if got := s.queue.told().outcomes; len(got) != 1 {
			t.Errorf("outcomes %+v", got)
		}
	})
}

// A drain waits for what was reserved, and gives back what comes of it.
func TestReserveWhileItDrains(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, leave func()) {
		pass(time.Second)
		c, ok := s.Reserve(1)
		if !ok {
			t.Fatal("no slot")
		}
		leave()
		pass(25 * time.Second)
		if n := len(s.queue.told().renewals); n != 3 {
			t.Errorf("%d renewals: it did not wait", n)
		}
		if more, ok := s.Reserve(1); ok {
			t.Errorf("reserved %+v while it drains", more)
		}
		s.take(c, 1)
		pass(time.Second)
		if s.started() != 0 || !slices.Equal(s.queue.told().released, []string{token(1)}) {
			t.Errorf("started %d, released %v", s.started(), s.queue.told().released)
		}
	})
}
