package worker

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

func TestPace(t *testing.T) {
	t.Parallel()
	var p pace
	for range paceSamples - 1 {
		p.took(time.Millisecond)
	}
	if p.stock(4) != 0 {
		t.Error("a stock after too few attempts")
	}
	p.took(time.Millisecond)
	if n := p.stock(4); n != 4*stockFactor {
		t.Errorf("a stock of %d", n)
	}
	p.took(time.Minute)
	if p.stock(4) != 0 {
		t.Error("a stock while attempts are long")
	}
	for range 10 * paceSamples {
		p.took(time.Millisecond)
	}
	if p.stock(4) == 0 {
		t.Error("no stock, although attempts are short again")
	}
	p.slowed()
	if p.stock(4) != 0 {
		t.Error("a stock although an attempt waited in vain")
	}
}

// An attempt that was claimed ahead, and for which no slot becomes free, goes back to the queue and uses
// no attempt.
func TestStockThatWaitsInVainGoesBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("short", "true\n")
	m.action("long", "while [ ! -e \"$ATTUNE_DATA_DIR/go\" ]; do sleep 0.05; done\n")
	p := m.run(func(o *Options) { o.Workers = 1 })
	for range paceSamples {
		p.pace.took(time.Millisecond)
	}
	ids := m.enqueue(
		store.NewExecution{Action: "p.long"},
		store.NewExecution{Action: "p.short"},
	)
	eventually(t, "the short one was claimed and is back", func() bool {
		e, _, err := m.store.Execution(t.Context(), ids[1])
		return err == nil && e.Status == store.StatusRequested && p.pace.stock(1) == 0
	})
	if e, _, err := m.store.Execution(t.Context(), ids[1]); err != nil || e.Attempt != 0 {
		t.Errorf("%+v %v", e, err)
	}
	if err := os.WriteFile(filepath.Join(m.state, "data", "p", "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.await(ids[1])
	e, attempts, err := m.store.Execution(t.Context(), ids[1])
	if err != nil || e.Status != store.StatusSucceeded || len(attempts) != 1 {
		t.Errorf("%+v %v %v", e, attempts, err)
	}
}
