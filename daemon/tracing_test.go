package daemon

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector takes traces, and knows their spans by how they are named to children.
type collector struct {
	mu    sync.Mutex
	spans map[string]*tracepb.Span
	url   string
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{spans: map[string]*tracepb.Span{}}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var sent tracepb.TracesData
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = proto.Unmarshal(body, &sent)
		}
		if err != nil {
			t.Errorf("the collector got what it cannot read: %v", err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, resource := range sent.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				for _, span := range scope.GetSpans() {
					c.spans["00-"+hex.EncodeToString(span.GetTraceId())+"-"+hex.EncodeToString(span.GetSpanId())+"-01"] = span
				}
			}
		}
	}))
	c.url = server.URL
	t.Cleanup(server.Close)
	return c
}

// checkChild looks whether an action's child was told its own span, and that is below its event's.
func (c *collector) checkChild(t *testing.T, traceparent string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	run := c.spans[traceparent]
	if run == nil {
		t.Errorf("the child was told %q, the collector knows %d others", traceparent, len(c.spans))
		return
	}
	event := c.spans["00-"+hex.EncodeToString(run.GetTraceId())+"-"+hex.EncodeToString(run.GetParentSpanId())+"-01"]
	if event == nil || !strings.HasPrefix(event.GetName(), "event ") || run.GetName() != "run demo.greet" {
		t.Errorf("%s is below %v", run.GetName(), event)
	}
}
