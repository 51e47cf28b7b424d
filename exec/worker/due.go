package worker

import (
	"context"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

// duePause is the least between two questions after what falls due next: under load every commit tells
// that something was queued, and most of it is due at once.
const duePause = 100 * time.Millisecond

// watchDue has the claim loop look at the moment at which something falls due: what waits for quiet, for
// its time, or for the next attempt of another node. Without it that is found by polling.
func (p *Pool) watchDue(ctx context.Context) {
	notices, unsubscribe := p.subscribe(store.ChannelQueue)
	defer unsubscribe()
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		next := pollPeriod
		// An error is no news: the claim loop has it too, and tells.
		if left, waits, err := p.queue.NextDue(ctx); err == nil && waits && left < pollPeriod {
			p.retryAt(time.Now().Add(left))
			if left > 0 {
				next = left + duePause // by then it is claimed, and something else is next
			}
		}
		again := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-again.C:
		case <-notices:
			for range len(notices) {
				<-notices
			}
		}
		again.Stop()
		look.Reset(duePause)
	}
}
