package rule

import (
	"fmt"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

// DefaultChain is how many executions may follow from one another by events about them.
const DefaultChain = 10

// stopChains leaves nothing of what would make a chain of executions longer than it may be: a rule on
// core.execution_finished that feeds itself would go on for ever. What the chain is made of does not
// matter, for it may lead over several rules.
func stopChains(event *store.Event, matches []store.Match, limit int) {
	if event.Depth < limit {
		return
	}
	for n := range matches {
		m := &matches[n]
		if len(m.Executions) == 0 {
			continue
		}
		m.Stopped = true
		m.Status, m.Executions, m.Limits = store.EnforcementSkipped, nil, nil
		m.Error = fmt.Sprintf("a chain of %d executions led to this event, each by the end of the one before; "+
			"rule %s would make it longer, and exec.chain_limit is %d: "+
			`leave out in its when what it causes itself, such as event.payload.rule != rule.ref`, event.Depth, m.Rule, limit)
	}
}

// tellStopped counts and logs a rule that was stopped, not for each of a thousand events.
func (i *Intake) tellStopped(m *store.Match, event *store.StoredEvent) {
	i.metrics.stopped.WithLabelValues(m.Rule).Inc()
	now := time.Now()
	if last, ok := i.told[m.Rule]; ok && now.Sub(last) < tellEvery {
		return
	}
	i.told[m.Rule] = now
	i.logger.Warn("rule stopped: it would make a chain of executions longer than exec.chain_limit", "rule", m.Rule, "event_id", event.ID, "depth", event.Depth)
}
