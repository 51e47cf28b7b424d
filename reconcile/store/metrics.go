package store

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	reconnects prometheus.Counter
}

// newMetrics registers the metrics, or takes those that a former Store registered: opening is tried
// again while the server is away.
func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attune_db_reconnects_total",
			Help: "Times that a lost connection to the database was made anew.",
		}),
	}
	if registerer == nil {
		return m, nil
	}
	err := registerer.Register(m.reconnects)
	if twice, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if former, ok := twice.ExistingCollector.(prometheus.Counter); ok {
			m.reconnects, err = former, nil
		}
	}
	return m, err
}
