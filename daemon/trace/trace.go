// Package trace tells an OpenTelemetry collector what became of events: a span for each event, from its taking to its
// commit, and below it one for each attempt that followed. Whose trace something is follows from the number of the
// event, or of an execution that no event caused: so nodes agree on it without a word, and nothing is stored.
package trace

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/attune-io/attune/reconcile/store"
)

// Options are what a Tracer needs.
type Options struct {
	// Endpoint is the URL of the collector's OTLP over HTTP, "http://localhost:4318"; /v1/traces is added where it
	// has no path.
	Endpoint string
	// Installation tells those of one database from all others.
	Installation string
	Node         string
	Version      string
	Logger       *slog.Logger
}

// Tracer tells what became of events and executions. It waits for nobody: what a collector does not take in time is
// dropped, and counted in the log.
type Tracer struct {
	installation string
	provider     *sdktrace.TracerProvider
	tracer       trace.Tracer
	exporter     *exporter
}

// New makes a tracer. Nothing is sent before there is something to tell.
func New(opts Options) (*Tracer, error) {
	e, err := newExporter(opts.Endpoint, opts.Logger.With("component", "trace"))
	if err != nil {
		return nil, err
	}
	t := &Tracer{installation: opts.Installation, exporter: e}
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(e), sdktrace.WithIDGenerator(ids{}), sdktrace.WithSampler(sdktrace.AlwaysSample()),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "attune"), attribute.String("service.version", opts.Version),
			attribute.String("service.instance.id", opts.Node), attribute.String("service.namespace", opts.Installation),
		)),
	)
	t.tracer = t.provider.Tracer("github.com/attune-io/attune")
	return t, nil
}

// Close sends what is left, until ctx ends.
func (t *Tracer) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }

// Event tells of an event that was taken at some time and is stored.
func (t *Tracer) Event(e *store.StoredEvent, taken time.Time) {
	if e.Duplicate || e.Fenced {
		return
	}
	ctx := context.WithValue(context.Background(), idsKey{}, wanted{t.traceOf(e.ID, 0), t.span("event", e.ID, 0)})
	_, span := t.tracer.Start(ctx, "event "+e.Trigger, trace.WithTimestamp(taken), trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.Int64("attune.event_id", e.ID), attribute.String("attune.trigger", e.Trigger), attribute.String("attune.source", e.Source),
		attribute.Int("attune.executions", len(e.Executions)),
	))
	if e.Problem != "" {
		span.SetStatus(codes.Error, e.Problem)
	}
	span.End()
}

// Parent names an attempt to its child, in the form of TRACEPARENT.
func (t *Tracer) Parent(c *store.Claimed) string {
	return fmt.Sprintf("00-%s-%s-01", t.traceOf(c.EventID, c.ExecutionID), t.span("attempt", c.ExecutionID, c.Attempt))
}

// Attempt tells of an attempt that has ended.
func (t *Tracer) Attempt(c *store.Claimed, begun time.Time, o *store.Outcome) {
	traceID := t.traceOf(c.EventID, c.ExecutionID)
	ctx := context.WithValue(context.Background(), idsKey{}, wanted{traceID, t.span("attempt", c.ExecutionID, c.Attempt)})
	if c.EventID != 0 {
		ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: traceID, SpanID: t.span("event", c.EventID, 0), TraceFlags: trace.FlagsSampled, Remote: true,
		}))
	}
	_, span := t.tracer.Start(ctx, "run "+c.Action, trace.WithTimestamp(begun), trace.WithAttributes(
		attribute.Int64("attune.execution_id", c.ExecutionID), attribute.Int("attune.attempt", c.Attempt),
		attribute.String("attune.action", c.Action), attribute.String("attune.rule", c.Rule), attribute.String("attune.status", string(o.Status)),
		attribute.Float64("attune.waited_seconds", max(begun.Sub(c.QueuedAt), 0).Seconds()),
	))
	if o.ExitCode != nil {
		span.SetAttributes(attribute.Int("process.exit.code", *o.ExitCode))
	}
	if o.Status != store.StatusSucceeded {
		span.SetStatus(codes.Error, o.Error)
	}
	span.End()
}

// traceOf is the trace of what followed from an event, or, without one, of an execution.
func (t *Tracer) traceOf(event, execution int64) (id trace.TraceID) {
	if event != 0 {
		copy(id[:], t.sum("trace of event", event, 0))
	} else {
		copy(id[:], t.sum("trace of execution", execution, 0))
	}
	return id
}

func (t *Tracer) span(kind string, number int64, attempt int) (id trace.SpanID) {
	copy(id[:], t.sum(kind, number, attempt))
	return id
}

func (t *Tracer) sum(kind string, number int64, attempt int) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%d", t.installation, kind, number, attempt))
	return sum[:]
}

// idsKey is the context key of the ids that a span is to have.
type idsKey struct{}

type wanted struct {
	trace trace.TraceID
	span  trace.SpanID
}

// ids gives spans the ids that their context names; every span here has one.
type ids struct{}

func (ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	w, _ := ctx.Value(idsKey{}).(wanted)
	return w.trace, w.span
}

func (ids) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	w, _ := ctx.Value(idsKey{}).(wanted)
	return w.span
}
