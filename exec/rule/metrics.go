package rule

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// The reasons for which an event is rejected, as the metric's label says them.
const (
	rejectUnknown  = "unknown_trigger"
	rejectDisabled = "disabled_trigger"
	rejectInvalid  = "invalid_payload"
	rejectStore    = "store"
	rejectClosed   = "closed"
	rejectFenced   = "fenced" // another node has its sensor by now
)

type metrics struct {
	events       *prometheus.CounterVec
	duplicates   *prometheus.CounterVec
	flagged      *prometheus.CounterVec
	rejected     *prometheus.CounterVec
	latency      prometheus.Histogram
	enforcements *prometheus.CounterVec
	retries      prometheus.Counter
	rules        prometheus.Gauge

	stopped *prometheus.CounterVec

	breakerOpen   *prometheus.GaugeVec
	breakerOpened *prometheus.CounterVec
}

// newMetrics registers the metrics; a nil Registerer leaves them unregistered.
func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_events_total", Help: "Events stored, by trigger.",
		}, []string{"trigger"}),
		duplicates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_events_duplicate_total", Help: "Events whose event_id was stored already, by trigger.",
		}, []string{"trigger"}),
		flagged: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_events_flagged_total", Help: "Events stored although their payload does not fit the trigger's schema, by trigger.",
		}, []string{"trigger"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_events_rejected_total", Help: "Events refused, by reason.",
		}, []string{"reason"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "attune_event_latency_seconds", Help: "Time from taking an event to its commit.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18), // 0.5 ms to 65 s
		}),
		enforcements: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_enforcements_total", Help: "Enforcements as they were stored, by rule and status; one that waits for quiet counts as matched.",
		}, []string{"rule", "status"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attune_event_commit_retries_total", Help: "Commits of events that failed and were tried again.",
		}),
		rules: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "attune_rules", Help: "Rules in force.",
		}),
		stopped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_chains_stopped_total", Help: "Matches that were left without executions, because the chain that led to them is too long, by rule.",
		}, []string{"rule"}),
		breakerOpen: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "attune_rule_breaker_open", Help: "Whether a rule's breaker is open, for rules whose breaker ever was.",
		}, []string{"rule"}),
		breakerOpened: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_rule_breaker_opened_total", Help: "How often a rule's breaker opened on this node.",
		}, []string{"rule"}),
	}
	for _, reason := range []string{rejectUnknown, rejectDisabled, rejectInvalid, rejectStore, rejectClosed, rejectFenced} {
		m.rejected.WithLabelValues(reason)
	}
	if registerer != nil {
		registerer.MustRegister(m.events, m.duplicates, m.flagged, m.rejected, m.latency, m.enforcements, m.retries, m.rules, m.stopped, m.breakerOpen, m.breakerOpened)
	}
	return m
}

// lastCounter remembers which of its counters was asked for: nearly always it is the next one too.
type lastCounter struct {
	vec     *prometheus.CounterVec
	labels  []string
	counter prometheus.Counter
}

func (l *lastCounter) of(labels ...string) prometheus.Counter {
	if !slices.Equal(l.labels, labels) {
		l.labels = append(l.labels[:0], labels...)
		l.counter = l.vec.WithLabelValues(l.labels...)
	}
	return l.counter
}
