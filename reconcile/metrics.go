package reconcile

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// The outcomes of a pass.
const (
	outcomeApplied   = "applied"   // something changed
	outcomeUnchanged = "unchanged" // files and database agreed
	outcomePlanned   = "planned"   // something would have changed (mode plan)
	outcomeFailed    = "failed"    // the database could not be reached, or refused
)

// The states of a pack.
const (
	packLoaded   = "loaded"
	packBroken   = "broken" // something in it is refused
	packDisabled = "disabled"
)

// metrics are what reconciling tells Prometheus.
type metrics struct {
	packs       *prometheus.GaugeVec
	packErrors  *prometheus.GaugeVec
	duration    prometheus.Histogram
	total       *prometheus.CounterVec
	lag         prometheus.Histogram
	lastSuccess prometheus.Gauge
	watch       *prometheus.GaugeVec
	overflows   prometheus.Counter
	unavailable prometheus.Gauge
	held        prometheus.Counter
	resyncFound prometheus.Counter
	pinned      *prometheus.GaugeVec
	signatures  *prometheus.GaugeVec
	drift       *prometheus.GaugeVec
	mismatch    *prometheus.GaugeVec
}

// newMetrics registers them; with nil they count for nobody.
func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		packs: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "attune_packs", Help: "Packs, by state: loaded, broken (something in it is refused) or disabled.",
		}, []string{"state"}),
		packErrors: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "attune_pack_errors", Help: "Errors in a pack's files; the last good version is in force.",
		}, []string{"pack"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "attune_reconcile_duration_seconds", Help: "Time of one pass: scan, check, plan and apply.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9), // 1 ms to 65 s
		}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_reconcile_total", Help: "Passes, by outcome: applied, unchanged, planned or failed.",
		}, []string{"outcome"}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "attune_reconcile_lag_seconds", Help: "Time from the first change of a pack's files until they were in force.",
			Buckets: []float64{0.025, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 1, 2, 3, 5, 10, 30, 60},
		}),
		lastSuccess: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "attune_last_reconcile_success_timestamp_seconds", Help: "When files and database last agreed.",
		}),
		watch: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "attune_watch_mode", Help: "1 for each way in which changes of files are heard of: inotify, poll, or both where a file system does not tell all.",
		}, []string{"mode"}),
		overflows: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attune_watch_overflows_total", Help: "Times that the kernel's queue of file events overflowed; all packs are scanned then.",
		}),
		unavailable: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "attune_source_unavailable", Help: "Packs folders that cannot be read; their packs stay as they are.",
		}),
		held: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attune_reconcile_held_total", Help: "Times that the removal of over half of the packs was held until a second scan agreed.",
		}),
		resyncFound: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attune_resync_found_changes_total", Help: "Packs whose changes were found by the regular scan only: events of them were lost.",
		}),
	}
	m.pinned = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "attune_pack_pinned", Help: "1 for a pack that an operator pinned to a revision, whatever its folder says.",
	}, []string{"pack"})
	m.signatures = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "attune_pack_signatures", Help: "Packs' folders, by whether they have a good signature: signed or unsigned. Only where packs.signatures is not off.",
	}, []string{"state"})
	m.drift = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "attune_pack_drift_steps", Help: "Steps between a pack's folder and what is in force, where they are not applied: it is pinned, a stale checkout, or the daemon only plans.",
	}, []string{"pack"})
	m.mismatch = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "attune_pack_hash_mismatch", Help: "1 for a pack of which this node, which does not lead, has had other files than those in force for a minute.",
	}, []string{"pack"})
	for _, outcome := range []string{outcomeApplied, outcomeUnchanged, outcomePlanned, outcomeFailed} {
		m.total.WithLabelValues(outcome)
	}
	for _, state := range []string{packLoaded, packBroken, packDisabled} {
		m.packs.WithLabelValues(state)
	}
	m.watchMode(watchInotify)
	if registerer != nil {
		registerer.MustRegister(m.packs, m.packErrors, m.duration, m.total, m.lag, m.lastSuccess, m.watch,
			m.overflows, m.unavailable, m.held, m.resyncFound, m.pinned, m.signatures, m.drift, m.mismatch)
	}
	return m
}

func (m *metrics) watchMode(modes ...string) {
	for _, one := range []string{watchInotify, watchPoll} {
		value := 0.0
		if slices.Contains(modes, one) {
			value = 1
		}
		m.watch.WithLabelValues(one).Set(value)
	}
}
