package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/attune-io/attune/daemon/trace"
	"github.com/attune-io/attune/exec/worker"
	"github.com/attune-io/attune/reconcile/store"
)

// traceDrain bounds how long the end of the daemon waits for the collector.
const traceDrain = 5 * time.Second

// tracing is who is told what became of events and of attempts; both nil: nobody traces.
type tracing struct {
	event    func(*store.StoredEvent, time.Time)
	attempts worker.Tracer
}

func (d *Daemon) makeTracer(ctx context.Context) (tracing, error) {
	endpoint := d.config.Trace.Endpoint
	if endpoint == "" {
		return tracing{}, nil
	}
	installation, err := d.store.Installation(ctx)
	if err != nil {
		return tracing{}, err
	}
	t, err := trace.New(trace.Options{
		Endpoint: endpoint, Installation: installation, Node: d.node, Version: d.opts.Version, Logger: d.opts.Logger,
	})
	if err != nil {
		return tracing{}, fmt.Errorf("cannot trace: %w", err)
	}
	d.undo = append(d.undo, func() {
		ctx, cancel := context.WithTimeout(context.Background(), traceDrain)
		defer cancel()
		if err := t.Close(ctx); err != nil {
			d.log.Warn("not all traces were sent", "err", err)
		}
	})
	return tracing{event: t.Event, attempts: t}, nil
}
