package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestPanicsAreCounted(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	var written bytes.Buffer
	log := slog.New(countPanics(slog.NewTextHandler(&written, nil), registry))
	worker := log.With("component", "worker", "action", "p.a")
	worker.Error("attempt panicked", "err", "x", "stack", "goroutine 1")
	worker.WithGroup("g").Error("attempt panicked", "stack", "goroutine 1")
	worker.Error("attempt failed", "err", "x")
	log.Error("it panicked", "stack", "goroutine 2")
	want := `# HELP attune_panics_total Mistakes inside the daemon that ended what they met and nothing else, by component.
# TYPE attune_panics_total counter
attune_panics_total{component="api"} 0
attune_panics_total{component="child"} 0
attune_panics_total{component="daemon"} 1
attune_panics_total{component="rule"} 0
attune_panics_total{component="sensor"} 0
attune_panics_total{component="worker"} 2
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if text := written.String(); strings.Count(text, "\n") != 4 || !strings.Contains(text, "action=p.a") {
		t.Errorf("lines were not passed on:\n%s", text)
	}
}

// A part that panics has ended with an error, for which the daemon stops in order, and its stack is logged, by which it is counted.
func TestPartThatPanicsHasEnded(t *testing.T) {
	t.Parallel()
	var written bytes.Buffer
	d := &Daemon{log: slog.New(slog.NewTextHandler(&written, nil))}
	err := d.runStage(t.Context(), stage{name: "catalog", run: func(context.Context) error { panic("oh no") }})
	if err == nil || err.Error() != "it panicked: oh no" {
		t.Errorf("it ended with %v", err)
	}
	if text := written.String(); !strings.Contains(text, " part=catalog ") || !strings.Contains(text, " "+stackKey+"=") {
		t.Errorf("nothing counts it:\n%s", text)
	}
}
