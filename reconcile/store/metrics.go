package store

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	reconnects prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attune_db_reconnects_total",
			Help: "Times that a lost connection to the database was made anew.",
		}),
	}
	if registerer != nil {
		registerer.MustRegister(m.reconnects)
	}
	return m
}
