package store

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	reconnects  prometheus.Counter
	failures    *prometheus.CounterVec
	older       prometheus.Counter
	concurrency *prometheus.CounterVec
	refused     *prometheus.CounterVec
	stuck       prometheus.Counter
}

// How an outcome was recorded after all that the database refused as it was.
const (
	asStripped = "stripped"
	asFailed   = "failed"
)

// newMetrics registers the metrics, or takes those that a former Store registered: opening is tried
// again while the server is away.
func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attune_db_reconnects_total",
			Help: "Times that a lost connection to the database was made anew.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_db_failures_total",
			Help: "Statements that failed and are tried again, by why.",
		}, []string{"reason"}),
		older: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attune_db_older_total",
			Help: "Times that the database was found older than it had been, so that something is lost.",
		}),
		concurrency: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_concurrency_ended_total",
			Help: "Executions that the concurrency of their action ended: skipped, replaced while they waited, or unwanted and stopped while they ran.",
		}, []string{"fate"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_outcomes_refused_total",
			Help: "Outcomes of attempts that the database refused as they were, by how they were recorded after all: stripped of output and result, or as failed.",
		}, []string{"as"}),
		stuck: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attune_attempts_stuck_total",
			Help: "Executions that the database does not let end: lost with their node, expired, skipped or replaced.",
		}),
	}
	for _, as := range []string{asStripped, asFailed} {
		m.refused.WithLabelValues(as)
	}
	for _, reason := range failureReasons() {
		m.failures.WithLabelValues(reason)
	}
	for _, fate := range []string{fateSkipped, fateReplaced, fateUnwanted} {
		m.concurrency.WithLabelValues(fate)
	}
	if registerer == nil {
		return m, nil
	}
	return m, errors.Join(
		take(registerer, &m.reconnects), take(registerer, &m.failures), take(registerer, &m.older), take(registerer, &m.concurrency),
		take(registerer, &m.refused), take(registerer, &m.stuck),
	)
}

// take registers a collector, or puts the one in its place that is registered already.
func take[C prometheus.Collector](registerer prometheus.Registerer, c *C) error {
	err := registerer.Register(*c)
	if twice, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if former, ok := twice.ExistingCollector.(C); ok {
			*c, err = former, nil
		}
	}
	return err
}
