package trace

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// sendTimeout bounds one request to the collector.
const sendTimeout = 10 * time.Second

// exporter sends spans by OTLP over HTTP, in protobuf. The library's own one brings gRPC along, which is a third of
// this program.
type exporter struct {
	url  string
	http *http.Client
	log  *slog.Logger
	away atomic.Bool
}

func newExporter(endpoint string, log *slog.Logger) (*exporter, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("cannot trace to %q: expected a URL like http://localhost:4318", endpoint)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	return &exporter{url: u.String(), http: &http.Client{Timeout: sendTimeout}, log: log}, nil
}

// ExportSpans sends spans. What the collector does not take is dropped.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.send(ctx, spans)
	switch {
	case err == nil && e.away.CompareAndSwap(true, false):
		e.log.Info("the collector takes traces again")
	case err != nil && e.away.CompareAndSwap(false, true):
		e.log.Warn("traces are dropped: the collector does not take them", "err", err, "spans", len(spans))
	}
	return nil // it is told already
}

func (e *exporter) send(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	body, err := proto.Marshal(encode(spans))
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	response, err := e.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20)) // so that the connection can be used again
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("it answers %s", response.Status)
	}
	return nil
}

// Shutdown has nothing to wait for.
func (e *exporter) Shutdown(context.Context) error {
	e.http.CloseIdleConnections()
	return nil
}

// encode makes the message: spans of one tracer, and so of one resource.
func encode(spans []sdktrace.ReadOnlySpan) *tracepb.TracesData {
	if len(spans) == 0 {
		return &tracepb.TracesData{}
	}
	scope := &tracepb.ScopeSpans{Scope: &commonpb.InstrumentationScope{Name: spans[0].InstrumentationScope().Name}}
	for _, span := range spans {
		scope.Spans = append(scope.Spans, encodeSpan(span))
	}
	return &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource:   &resourcepb.Resource{Attributes: encodeAttributes(spans[0].Resource().Attributes())},
		ScopeSpans: []*tracepb.ScopeSpans{scope},
	}}}
}

func encodeSpan(span sdktrace.ReadOnlySpan) *tracepb.Span {
	traceID, spanID := span.SpanContext().TraceID(), span.SpanContext().SpanID()
	encoded := &tracepb.Span{
		TraceId: traceID[:], SpanId: spanID[:], Name: span.Name(), Kind: tracepb.Span_SpanKind(span.SpanKind()),
		StartTimeUnixNano: uint64(span.StartTime().UnixNano()), EndTimeUnixNano: uint64(span.EndTime().UnixNano()),
		Attributes: encodeAttributes(span.Attributes()),
	}
	if parent := span.Parent(); parent.IsValid() {
		parentID := parent.SpanID()
		encoded.ParentSpanId = parentID[:]
	}
	if status := span.Status(); status.Code == codes.Error {
		encoded.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: status.Description}
	}
	return encoded
}

func encodeAttributes(attributes []attribute.KeyValue) []*commonpb.KeyValue {
	encoded := make([]*commonpb.KeyValue, len(attributes))
	for i, a := range attributes {
		value := &commonpb.AnyValue{}
		switch a.Value.Type() {
		case attribute.INT64:
			value.Value = &commonpb.AnyValue_IntValue{IntValue: a.Value.AsInt64()}
		case attribute.FLOAT64:
			value.Value = &commonpb.AnyValue_DoubleValue{DoubleValue: a.Value.AsFloat64()}
		default:
			value.Value = &commonpb.AnyValue_StringValue{StringValue: a.Value.AsString()}
		}
		encoded[i] = &commonpb.KeyValue{Key: string(a.Key), Value: value}
	}
	return encoded
}
