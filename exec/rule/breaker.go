package rule

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

const (
	// breakerPeriod is how often it is looked which breakers are open: they open on other nodes too,
	// and close by time and by hand.
	breakerPeriod = 5 * time.Second
	// breakerTimeout bounds one look.
	breakerTimeout = 2 * time.Second
)

// breakers are those that are open, as last seen.
type breakers struct {
	mu   sync.Mutex
	open []store.Breaker
}

func (b *breakers) list() []store.Breaker {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.open)
}

// replace gives those that are open no longer.
func (b *breakers) replace(open []store.Breaker) (closed []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, was := range b.open {
		if !slices.ContainsFunc(open, func(is store.Breaker) bool { return is.Rule == was.Rule }) {
			closed = append(closed, was.Rule)
		}
	}
	b.open = open
	return closed
}

func (b *breakers) add(breaker store.Breaker) {
	b.remove(breaker.Rule)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = append(b.open, breaker)
}

func (b *breakers) remove(rule string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = slices.DeleteFunc(b.open, func(is store.Breaker) bool { return is.Rule == rule })
}

// Breakers lists the rules whose breaker is open, as last seen, which is seconds ago at most while the
// database answers.
func (i *Intake) Breakers() []store.Breaker {
	now := time.Now()
	return slices.DeleteFunc(i.breakers.list(), func(b store.Breaker) bool { return !b.OpenUntil.After(now) })
}

// Closed tells that somebody closed a rule's breaker, so that it is not told as open until the next look.
func (i *Intake) Closed(rule string) {
	i.breakers.remove(rule)
	i.metrics.breakerOpen.WithLabelValues(rule).Set(0)
}

// opened tells that a rule's breaker opened at an event.
func (i *Intake) opened(m *store.Match, event *store.StoredEvent) {
	i.metrics.breakerOpened.WithLabelValues(m.Rule).Inc()
	i.metrics.breakerOpen.WithLabelValues(m.Rule).Set(1)
	until := event.CreatedAt
	if m.Limits != nil && m.Limits.Breaker != nil {
		until = until.Add(time.Duration(m.Limits.Breaker.Pause))
	}
	i.breakers.add(store.Breaker{Rule: m.Rule, OpenedAt: event.CreatedAt, OpenUntil: until, Reason: m.Opened})
	i.logger.Warn("breaker opened, the rule does nothing until it closes", "rule", m.Rule, "event_id", event.ID,
		"until", until, "reason", m.Opened)
}

// watchBreakers keeps what is told of breakers true, until ctx ends.
func (i *Intake) watchBreakers(ctx context.Context) {
	ticker := time.NewTicker(breakerPeriod)
	defer ticker.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, breakerTimeout)
		open, err := i.openBreakers(bounded, "")
		cancel()
		if err == nil {
			for _, b := range open {
				i.metrics.breakerOpen.WithLabelValues(b.Rule).Set(1)
			}
			for _, rule := range i.breakers.replace(open) {
				i.metrics.breakerOpen.WithLabelValues(rule).Set(0)
				i.logger.Info("breaker closed, the rule is back", "rule", rule)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
