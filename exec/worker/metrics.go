package worker

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/exec/child"
)

type metrics struct {
	executions *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	wait       prometheus.Histogram
	workers    *prometheus.GaugeVec
	fenced     prometheus.Counter
	selfFence  prometheus.Counter
	shortages  *prometheus.CounterVec
	unkillable prometheus.Counter
	aside      prometheus.Gauge
	locked     prometheus.Gauge
	busy, idle prometheus.Gauge // of workers
	total      int
}

// newMetrics registers the metrics; a nil Registerer leaves them unregistered.
func newMetrics(registerer prometheus.Registerer, workers int) *metrics {
	m := &metrics{
		total: workers,
		executions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_executions_total", Help: "Executions that ended, by action and status.",
		}, []string{"action", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "attune_execution_duration_seconds", Help: "How long the processes of actions ran.",
			Buckets: prometheus.ExponentialBuckets(0.005, 4, 10), // 5 ms to 22 min
		}, []string{"action"}),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "attune_execution_wait_seconds", Help: "Time from when an execution was due to the start of its process.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10), // 1 ms to 4 min
		}),
		workers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "attune_workers", Help: "Slots for running actions, by state.",
		}, []string{"state"}),
		fenced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attune_fenced_writes_total", Help: "Outcomes that came after their lease was lost, and changed nothing.",
		}),
		selfFence: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attune_self_fence_total", Help: "How often this node stopped its own attempts because it could not renew their leases.",
		}),
	}
	m.unkillable = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "attune_unkillable_children_total", Help: "Actions whose processes were killed and did not end: they are stuck in the kernel, and not tried again.",
	})
	m.aside = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "attune_outcomes_set_aside", Help: "Outcomes that cannot be recorded for now, because another session has locked their row or the database refuses them, and that are tried again.",
	})
	m.locked = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "attune_leases_locked", Help: "Attempts of this node whose lease could not be renewed the last time, because another session has locked their row.",
	})
	m.shortages = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "attune_start_shortages_total", Help: "Starts that failed for want of something the machine had run out of, by what.",
	}, []string{"shortage"})
	for _, kind := range []child.Shortage{child.ShortageFiles, child.ShortageProcesses, child.ShortageMemory, child.ShortageDisk} {
		m.shortages.WithLabelValues(string(kind))
	}
	m.busy, m.idle = m.workers.WithLabelValues("busy"), m.workers.WithLabelValues("idle")
	m.setBusy(0)
	if registerer != nil {
		registerer.MustRegister(m.executions, m.duration, m.wait, m.workers, m.fenced, m.selfFence, m.shortages, m.unkillable, m.aside, m.locked)
	}
	return m
}

func (m *metrics) setAside(count int) { m.aside.Set(float64(count)) }

func (m *metrics) setBusy(busy int) {
	m.busy.Set(float64(busy))
	m.idle.Set(float64(m.total - busy))
}
