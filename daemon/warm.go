package daemon

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/exec/child"
)

// newWarmMetrics registers what warm starts are counted by, and gives the function that counts them.
// numbers gives the parents there are and the children that wait.
func newWarmMetrics(registry prometheus.Registerer, numbers func() (parents, spares int)) func(kind, outcome string) {
	starts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "attune_warm_starts_total",
		Help: "Starts of actions that may be warm, by runtime and by what became of them: warm, or the reason why they were cold.",
	}, []string{"runtime", "outcome"})
	for _, kind := range []string{child.WarmBash, child.WarmPython, child.WarmNode} {
		for _, outcome := range child.WarmOutcomes() {
			starts.WithLabelValues(kind, outcome)
		}
	}
	registry.MustRegister(starts,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "attune_warm_parents", Help: "Interpreters that fork actions.",
		}, func() float64 { parents, _ := numbers(); return float64(parents) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "attune_warm_spares", Help: "Children that were forked ahead and wait for an action.",
		}, func() float64 { _, spares := numbers(); return float64(spares) }),
	)
	return func(kind, outcome string) { starts.WithLabelValues(kind, outcome).Inc() }
}
