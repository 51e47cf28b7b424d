package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/attune-io/attune/reconcile/store"
)

const (
	// measurePeriod is how often the queue is measured: at least once for each scrape of the usual 15
	// s. A scrape itself never waits for the database.
	measurePeriod = 5 * time.Second

	// measureTimeout bounds one measurement.
	measureTimeout = 2 * time.Second
)

// newRegistry makes the registry of one daemon, with what it says of its own process and build.
func newRegistry(version string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "attune_build_info",
		Help:        "Always 1; the labels say what was built.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	info.Set(1)
	registry.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// blockedCounter counts the addresses that core was asked for and that its configuration forbids: what sensors say by a
// line of their own, actions say in their result.
type blockedCounter struct{ total prometheus.Counter }

func newBlockedCounter(registerer prometheus.Registerer) *blockedCounter {
	b := &blockedCounter{prometheus.NewCounter(prometheus.CounterOpts{
		Name: "attune_http_blocked_total", Help: "Requests of core.http_request and core.http_poll to addresses that http_deny names, or that are link-local.",
	})}
	registerer.MustRegister(b.total)
	return b
}

// recorded looks at the result of an attempt. Other actions may mean by "blocked" what they like.
func (b *blockedCounter) recorded(action string, result []byte) {
	if action != "core.http_request" || !bytes.Contains(result, []byte(`"blocked"`)) {
		return
	}
	var r struct {
		Blocked bool `json:"blocked"`
	}
	if json.Unmarshal(result, &r) == nil && r.Blocked {
		b.total.Inc()
	}
}

// queueMetrics are what the database says of the queue.
type queueMetrics struct {
	depth      *prometheus.GaugeVec
	oldest     prometheus.Gauge
	oldestXact prometheus.Gauge
	answers    prometheus.Gauge
	paused     prometheus.Gauge
}

func newQueueMetrics(registerer prometheus.Registerer) *queueMetrics {
	m := &queueMetrics{
		depth: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "attune_queue_depth", Help: "Executions in the queue, by status.",
		}, []string{"status"}),
		oldest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "attune_queue_oldest_seconds", Help: "How long the oldest execution that is due has waited.",
		}),
		oldestXact: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "attune_db_oldest_xact_seconds", Help: "Age of the database's oldest open transaction.",
		}),
		answers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "attune_db_up", Help: "Whether the database answered when it was last asked.",
		}),
	}
	m.paused = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "attune_paused", Help: "Whether somebody has paused everything, so that nothing is claimed.",
	})
	for _, status := range queueStatuses() {
		m.depth.WithLabelValues(string(status)).Set(0)
	}
	registerer.MustRegister(m.depth, m.oldest, m.oldestXact, m.answers, m.paused)
	return m
}

func queueStatuses() []store.Status {
	return []store.Status{store.StatusRequested, store.StatusScheduled, store.StatusRunning}
}

// run measures until ctx ends. While the database is away the figures keep their last values, and
// attune_db_up says so.
func (m *queueMetrics) run(ctx context.Context, measure func(context.Context) (*store.QueueStats, error), log *slog.Logger) error {
	ticker := time.NewTicker(measurePeriod)
	defer ticker.Stop()
	up := true
	for {
		bounded, cancel := context.WithTimeout(ctx, measureTimeout)
		stats, err := measure(bounded)
		cancel()
		switch {
		case err == nil:
			m.set(stats)
		case ctx.Err() == nil:
			m.answers.Set(0)
		}
		if now := err == nil; now != up && ctx.Err() == nil {
			up = now
			if up {
				log.Info("database answers again")
			} else {
				log.Warn("database does not answer, the daemon goes on and tries again", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (m *queueMetrics) set(stats *store.QueueStats) {
	for _, status := range queueStatuses() {
		m.depth.WithLabelValues(string(status)).Set(float64(stats.Depth[status]))
	}
	m.oldest.Set(stats.OldestWaiting.Seconds())
	m.oldestXact.Set(stats.OldestXact.Seconds())
	m.answers.Set(1)
	m.paused.Set(0)
	if stats.Pause != nil {
		m.paused.Set(1)
	}
}
