package daemon

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

// stackKey is the attribute that the log line of a contained panic has, and no other.
const stackKey = "stack"

// panicCounter passes log lines on and counts those that tell of a panic: each part contains its own
// and logs it with its stack, so none can be forgotten here.
type panicCounter struct {
	slog.Handler
	panics    *prometheus.CounterVec
	component string
}

func countPanics(inner slog.Handler, registerer prometheus.Registerer) slog.Handler {
	panics := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "attune_panics_total", Help: "Mistakes inside the daemon that ended what they met and nothing else, by component.",
	}, []string{"component"})
	for _, component := range []string{"api", "child", "rule", "sensor", "worker"} {
		panics.WithLabelValues(component)
	}
	registerer.MustRegister(panics)
	return &panicCounter{Handler: inner, panics: panics, component: "daemon"}
}

func (c *panicCounter) Handle(ctx context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == stackKey {
			c.panics.WithLabelValues(c.component).Inc()
			return false
		}
		return true
	})
	return c.Handler.Handle(ctx, r)
}

func (c *panicCounter) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *c
	with.Handler = c.Handler.WithAttrs(attrs)
	for _, a := range attrs {
		if a.Key == "component" {
			with.component = a.Value.String()
		}
	}
	return &with
}

func (c *panicCounter) WithGroup(name string) slog.Handler {
	with := *c
	with.Handler = c.Handler.WithGroup(name)
	return &with
}
