package environment

import "github.com/prometheus/client_golang/prometheus"

type metrics struct{ builds *prometheus.CounterVec }

// newMetrics registers the metrics; a nil Registerer leaves them unregistered.
func newMetrics(registerer prometheus.Registerer, count func() map[State]int) *metrics {
	m := &metrics{builds: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "attune_environment_builds_total", Help: "Environments of packs that were made, or could not be, by runtime.",
	}, []string{"runtime", "outcome"})}
	for _, runtime := range []string{Python, Node} {
		m.builds.WithLabelValues(runtime, "ready")
		m.builds.WithLabelValues(runtime, "failed")
	}
	if registerer == nil {
		return m
	}
	registerer.MustRegister(m.builds)
	for _, state := range []State{Checking, System, Making, Ready, Failed} {
		registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "attune_environments", Help: "Environments of packs, by state.",
			ConstLabels: prometheus.Labels{"state": string(state)},
		}, func() float64 { return float64(count()[state]) }))
	}
	return m
}

func (m *metrics) made(runtime, outcome string) { m.builds.WithLabelValues(runtime, outcome).Inc() }
