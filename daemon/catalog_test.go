package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

// loader is a database that has a catalog of some generation.
type loader struct {
	generation atomic.Int64
	loads      atomic.Int64
	previous   atomic.Pointer[store.Catalog]
	fail       atomic.Bool
	wait       chan struct{} // nil: loading takes no time
}

func (l *loader) load(ctx context.Context, previous *store.Catalog) (*store.Catalog, error) {
	l.loads.Add(1)
	l.previous.Store(previous)
	if l.wait != nil {
		select {
		case <-l.wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if l.fail.Load() {
		return nil, errors.New("away")
	}
	return &store.Catalog{Generation: l.generation.Load()}, nil
}

func TestCatalogIsLoadedOnceForMany(t *testing.T) {
	t.Parallel()
	l := &loader{wait: make(chan struct{})}
	l.generation.Store(3)
	c := newCatalogs(l.load, slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	var first atomic.Pointer[store.Catalog]
	for range 20 {
		wg.Go(func() {
			got, err := c.Catalog(t.Context(), 0)
			if err != nil {
				t.Error(err)
				return
			}
			if !first.CompareAndSwap(nil, got) && first.Load() != got {
				t.Error("found two snapshots of one generation")
			}
		})
	}
	close(l.wait)
	wg.Wait()
	if n := l.loads.Load(); n != 1 {
		t.Errorf("loaded %d times, want once", n)
	}
}

func TestCatalogIsAtLeastOfTheGeneration(t *testing.T) {
	t.Parallel()
	l := &loader{}
	l.generation.Store(1)
	c := newCatalogs(l.load, slog.New(slog.DiscardHandler))
	one, err := c.Catalog(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	l.generation.Store(5)
	if same, err := c.Catalog(t.Context(), 1); err != nil || same != one {
		t.Errorf("found %v, %v for a generation that is known; want it without loading", same, err)
	}
	five, err := c.Catalog(t.Context(), 4)
	if err != nil || five.Generation != 5 {
		t.Errorf("found %v, %v; want generation 5", five, err)
	}
	if l.previous.Load() != one {
		t.Error("the snapshot before was not handed on to share what did not change")
	}
	if got, err := c.Catalog(t.Context(), 6); err == nil {
		t.Errorf("found %v for a generation that the database has not", got)
	}
}

func TestCatalogWaitsNoLongerThanItsCaller(t *testing.T) {
	t.Parallel()
	l := &loader{wait: make(chan struct{})}
	c := newCatalogs(l.load, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 { // one loads, one waits for it
		wg.Go(func() {
			if _, err := c.Catalog(ctx, 0); !errors.Is(err, context.Canceled) {
				t.Errorf("found %v, want the context's error", err)
			}
		})
	}
	cancel()
	wg.Wait()
}

func TestCatalogFollowsNoticesThroughAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &loader{}
		c := newCatalogs(l.load, slog.New(slog.DiscardHandler))
		if _, err := c.Catalog(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		notices := make(chan string, 1)
		var changes atomic.Int64
		done := make(chan error, 1)
		go func() { done <- c.run(ctx, notices, func() { changes.Add(1) }) }()

		notices <- "" // a notice that brings nothing
		synctest.Wait()
		if n := changes.Load(); n != 0 {
			t.Errorf("told of %d changes, want none: the generation is the same", n)
		}
		l.generation.Store(2)
		c.signal()
		synctest.Wait()
		if n := changes.Load(); n != 1 {
			t.Errorf("told of %d changes, want 1", n)
		}

		l.fail.Store(true)
		l.generation.Store(3)
		notices <- "3"
		<-time.After(time.Minute) // of the fake clock
		if got, err := c.Catalog(ctx, 0); err != nil || got.Generation != 2 {
			t.Errorf("found %v, %v while the database is away; want generation 2", got, err)
		}
		before := l.loads.Load()
		if before < 5 || before > 40 {
			t.Errorf("tried %d times in a minute of outage, want a backoff", before)
		}
		l.fail.Store(false)
		<-time.After(refreshLast)
		synctest.Wait()
		if n, g := changes.Load(), c.generation(); n != 2 || g != 3 {
			t.Errorf("told of %d changes, generation %d; want 2 and 3: nobody notified anew", n, g)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
