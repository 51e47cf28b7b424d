package trace

import (
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/attune-io/attune/reconcile/store"
)

// collector takes what is sent to it as OTLP over HTTP says.
type collector struct {
	mu    sync.Mutex
	spans map[string]*tracepb.Span // by name
	of    []string                 // the values of its resources' attributes
	err   string
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	var sent tracepb.TracesData
	if err == nil {
		err = proto.Unmarshal(body, &sent)
	}
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		c.err = "bad request " + r.Method + " " + r.URL.Path
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	for _, resource := range sent.GetResourceSpans() {
		for _, a := range resource.GetResource().GetAttributes() {
			c.of = append(c.of, a.GetKey()+"="+a.GetValue().GetStringValue())
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans[span.GetName()] = span
			}
		}
	}
}

func newTracer(t *testing.T, url string) *Tracer {
	t.Helper()
	tracer, err := New(Options{Endpoint: url, Installation: "1.5", Node: "n1", Version: "1.2.3", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return tracer
}

// An event and the attempts that follow from it, on whatever node, are one trace; a child is told its own span.
func TestFromEventToResult(t *testing.T) {
	t.Parallel()
	c := &collector{spans: map[string]*tracepb.Span{}}
	server := httptest.NewServer(c)
	defer server.Close()
	taken := time.Unix(1000, 500)
	one, other := newTracer(t, server.URL), newTracer(t, server.URL+"/")
	one.Event(&store.StoredEvent{Event: store.Event{ID: 7, Trigger: "p.t", Source: "api"}, Executions: []int64{9}}, taken)
	one.Event(&store.StoredEvent{Event: store.Event{ID: 8, Trigger: "p.twice"}, Duplicate: true}, taken)
	claim := &store.Claimed{ExecutionID: 9, EventID: 7, Attempt: 2, Action: "p.a", Rule: "p.r", QueuedAt: taken}
	code := 3
	other.Attempt(claim, taken.Add(time.Second), &store.Outcome{Status: store.StatusFailed, ExitCode: &code, Error: "exit status 3"})
	alone := &store.Claimed{ExecutionID: 10, Attempt: 1, Action: "p.b"}
	other.Attempt(alone, taken, &store.Outcome{Status: store.StatusSucceeded})
	for _, tracer := range []*Tracer{one, other} {
		if err := tracer.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	event, run, single := c.spans["event p.t"], c.spans["run p.a"], c.spans["run p.b"]
	if c.err != "" || len(c.spans) != 3 || event == nil || run == nil || single == nil {
		t.Fatalf("%s; found %v", c.err, c.spans)
	}
	if diff := cmp.Diff(hex.EncodeToString(event.GetTraceId()), hex.EncodeToString(run.GetTraceId())); diff != "" {
		t.Error("two traces of one event:", diff)
	}
	if string(run.GetParentSpanId()) != string(event.GetSpanId()) || len(event.GetParentSpanId()) != 0 || len(single.GetParentSpanId()) != 0 {
		t.Error("the attempt is not below its event, or something is below what is not there")
	}
	if string(single.GetTraceId()) == string(event.GetTraceId()) {
		t.Error("what no event caused is in an event's trace")
	}
	want := "00-" + hex.EncodeToString(run.GetTraceId()) + "-" + hex.EncodeToString(run.GetSpanId()) + "-01"
	if got := one.Parent(claim); got != want {
		t.Errorf("the child is told %s, want %s", got, want)
	}
	if event.GetStartTimeUnixNano() != uint64(taken.UnixNano()) || run.GetStatus().GetMessage() != "exit status 3" || run.GetStatus().GetCode() != tracepb.Status_STATUS_CODE_ERROR || single.GetStatus() != nil {
		t.Errorf("found %v and %v", event, run)
	}
	said := map[string]string{}
	for _, a := range run.GetAttributes() {
		said[a.GetKey()] = strings.Trim(a.GetValue().String(), " ")
	}
	for key, value := range map[string]string{"attune.execution_id": "int_value:9", "attune.status": `string_value:"failed"`, "attune.waited_seconds": "double_value:1", "process.exit.code": "int_value:3"} {
		if said[key] != value {
			t.Errorf("%s is %q, want %q", key, said[key], value)
		}
	}
	if !strings.Contains(strings.Join(c.of, " "), "service.name=attune") {
		t.Errorf("its resource is %q", c.of)
	}
}

// A collector that is away holds up nobody, and its return is told.
func TestCollectorIsAway(t *testing.T) {
	t.Parallel()
	c := &collector{spans: map[string]*tracepb.Span{}}
	server := httptest.NewServer(c)
	server.Close()
	var log strings.Builder
	tracer, err := New(Options{Endpoint: server.URL, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for id := range int64(5000) { // more than waits for it
		tracer.Event(&store.StoredEvent{Event: store.Event{ID: id + 1, Trigger: "p.t"}}, time.Now())
	}
	if err := tracer.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	if strings.Count(log.String(), "traces are dropped") != 1 {
		t.Errorf("the log says %s", log.String())
	}
	if _, err := New(Options{Endpoint: "localhost:4318", Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("an endpoint without a scheme was taken")
	}
}
