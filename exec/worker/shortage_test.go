package worker

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/store"
)

// A machine that has run out of processes is no fault of what is queued: nothing is lost, nothing more
// is claimed, and all goes on when there are some again.
func TestShortagePausesClaims(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		begin := s.start
		short := true
		s.start = func(ctx context.Context, spec child.Spec) (process, error) {
			s.mu.Lock()
			failing := short
			s.mu.Unlock()
			if failing {
				return nil, &child.StartError{Name: spec.Name, Reason: "no processes", Err: unix.EAGAIN}
			}
			return begin(ctx, spec)
		}
		pass(time.Second) // the first look at the queue found nothing
		s.offer(1, 2, 3, 4)
		s.retryAt(time.Now())
		pass(time.Millisecond)
		told := s.queue.told()
		if len(told.outcomes) != 2 {
			t.Fatalf("%d outcomes, want those of both workers", len(told.outcomes))
		}
		for _, o := range told.outcomes {
			if o.Status != store.StatusCancelled || o.RetryAt == nil || !o.Spare || o.Error != "cannot start execution 1: no processes" && o.Error != "cannot start execution 2: no processes" {
				t.Errorf("outcome %+v", o)
			}
		}
		if n := testutil.ToFloat64(s.metrics.shortages.WithLabelValues("processes")); n != 2 {
			t.Errorf("%v shortages were counted, want 2", n)
		}
		// Each look finds the same, ever more rarely.
		pass(10 * time.Minute)
		tries := len(s.queue.told().outcomes)
		if tries != 4 {
			t.Errorf("%d outcomes after the second look", tries)
		}
		s.mu.Lock()
		short = false
		s.mu.Unlock()
		s.offer(5, 6)
		pass(shortageMost + 2*pollPeriod)
		if s.started() != 2 {
			t.Errorf("%d were started when it was over, want 2", s.started())
		}
		if left := s.shortage.left(time.Now()); left != 0 || s.shortage.kind != child.NoShortage {
			t.Errorf("still short of %q for %v", s.shortage.kind, left)
		}
	})
}

func TestShortagePauses(t *testing.T) {
	t.Parallel()
	var s shortage
	now := time.Now()
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		want *= time.Second
		pause, news := s.hit(child.ShortageFiles, now)
		if pause != want || news != (i == 0) {
			t.Errorf("%d: %v, news %v", i, pause, news)
		}
		now = now.Add(pause / 2)
		if pause, news := s.hit(child.ShortageFiles, now); pause != want/2 || news {
			t.Errorf("%d: a neighbour makes it %v, news %v", i, pause, news)
		}
		if s.over(now) || s.left(now) != want/2 {
			t.Errorf("%d: what was under way ends the pause", i)
		}
		now = now.Add(want / 2)
	}
	if !s.over(now) || s.over(now) || s.left(now) != 0 {
		t.Error("a success does not end it once")
	}
	if pause, news := s.hit(child.ShortageDisk, now); pause != shortageFirst || !news {
		t.Errorf("the next one: %v, news %v", pause, news)
	}
}

// A loop that panics goes on.
func TestLoopsOutliveTheirPanics(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		count := func() int {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.leases)
		}
		pass(0)
		s.mu.Lock()
		s.panicAt = len(s.leases) + 2
		at := s.panicAt
		s.mu.Unlock()
		pass(time.Minute)
		if n := count(); n < at+3 {
			t.Errorf("the keeper was told %d times, the panic was at %d", n, at)
		}
	})
}
