package api

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/daemon/pace"
	"github.com/attune-io/attune/reconcile/store"
)

// Why requests are refused before anybody looks at what they ask for.
const (
	refusedToken = "token" // none, or none that is good
	refusedScope = "scope" // the token may not
	refusedHost  = "host"  // under a name that is not ours
	refusedSite  = "site"  // from another site's page
	refusedRate  = "rate"  // too many
)

func refusalReasons() []string {
	return []string{refusedToken, refusedScope, refusedHost, refusedSite, refusedRate}
}

const (
	// refusalsPeriod is how often refusals are told of one kind: a prober must fill neither the log nor the
	// audit.
	refusalsPeriod = time.Minute

	// maxRefusals bounds the kinds of one period; the others are told as one.
	maxRefusals = 200
)

// denial is a kind of refusals.
type denial struct{ reason, name, origin string }

// refusals tells of them: each in the metrics, and the first of a kind in the log and in the audit, with how many
// there were at the end of the period.
type refusals struct {
	log     *slog.Logger
	counter *prometheus.CounterVec
	audit   func(ctx context.Context, a store.NewAudit) error

	mu     sync.Mutex
	counts map[denial]int
	fresh  chan denial // the first of a kind
}

// newRefusals registers the metric; a nil Registerer leaves it unregistered.
func newRefusals(log *slog.Logger, registerer prometheus.Registerer, audit func(context.Context, store.NewAudit) error) *refusals {
	f := &refusals{
		log: log, audit: audit, counts: map[denial]int{}, fresh: make(chan denial, maxRefusals+1),
		counter: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_api_refusals_total", Help: "Requests that were refused for who asks, and from where, by reason.",
		}, []string{"reason"}),
	}
	for _, reason := range refusalReasons() {
		f.counter.WithLabelValues(reason)
	}
	if registerer != nil {
		registerer.MustRegister(f.counter)
	}
	return f
}

// note counts a refusal. It waits for nobody.
func (f *refusals) note(reason, name, origin string) {
	f.counter.WithLabelValues(reason).Inc()
	kind := denial{reason, name, pace.Block(origin)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.counts[kind]; !known && len(f.counts) >= maxRefusals {
		kind = denial{reason: reason, origin: "many"}
	}
	f.counts[kind]++
	if f.counts[kind] > 1 {
		return
	}
	select {
	case f.fresh <- kind:
	default: // the end of the period tells of it
	}
}

// run tells of refusals until ctx ends.
func (f *refusals) run(ctx context.Context) {
	period := time.NewTicker(refusalsPeriod)
	defer period.Stop()
	for {
		select {
		case <-ctx.Done():
			f.last(ctx)
			return
		case kind := <-f.fresh:
			f.tell(ctx, kind, 1)
		case <-period.C:
			f.mu.Lock()
			counts := f.counts
			f.counts = map[denial]int{}
			f.mu.Unlock()
			for kind, n := range counts {
				if n > 1 {
					f.tell(ctx, kind, n)
				}
			}
		}
	}
}

// last tells what nobody has heard of yet.
func (f *refusals) last(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), usesTimeout)
	defer cancel()
	for {
		select {
		case kind := <-f.fresh:
			f.tell(ctx, kind, 1)
		default:
			return
		}
	}
}

func (f *refusals) tell(ctx context.Context, kind denial, n int) {
	f.log.Warn("requests refused", "reason", kind.reason, "by", kind.name, "remote", kind.origin, "count", n)
	detail, err := json.Marshal(map[string]int{"count": n})
	if err == nil {
		err = f.audit(ctx, store.NewAudit{
			Actor: cmp.Or(kind.name, "unknown"), Action: "refuse request", Object: kind.reason, Origin: store.Origin{From: kind.origin}, Detail: detail,
		})
	}
	if err != nil && ctx.Err() == nil {
		f.log.Warn("cannot record refused requests", "err", err)
	}
}
