package worker

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

// reapPeriod, with the lease, is how soon the death of a node is noticed. Every node looks, so that none
// is needed.
const reapPeriod = 5 * time.Second

// reap ends the attempts of dead nodes until ctx ends.
func (p *Pool) reap(ctx context.Context) {
	for {
		timer := time.NewTimer(reapPeriod - rand.N(reapPeriod/10)) // nodes must not look in step
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		requeued, lost, err := p.queue.Reap(ctx)
		if err != nil {
			if ctx.Err() == nil {
				p.log.Debug("cannot look for lapsed leases", "err", err)
			}
			continue
		}
		if len(requeued)+len(lost) > 0 {
			p.log.Warn("leases lapsed: their node died or lost the database", "lost", lost, "requeued", requeued)
		}
		p.countLost(ctx, lost)
	}
}

// countLost counts what ended as lost, and was not queued again.
func (p *Pool) countLost(ctx context.Context, lost []int64) {
	const most = 100 // a lookup each; who loses more has other troubles than this metric
	for _, id := range lost[:min(len(lost), most)] {
		e, _, err := p.queue.Execution(ctx, id)
		if err == nil && e.Status == store.StatusLost {
			p.metrics.executions.WithLabelValues(e.Action, string(e.Status)).Inc()
		}
	}
}
