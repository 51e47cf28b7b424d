package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

const (
	// refreshFirst and refreshLast bound the wait before a failed refresh is tried again, doubling.
	refreshFirst = 100 * time.Millisecond
	refreshLast  = 5 * time.Second
)

// catalogs shares the newest snapshot of the catalog among all who need one. Who has seen a
// generation is never given an older one; who has seen none gets what is known here, without a word
// to the database.
type catalogs struct {
	load func(ctx context.Context, previous *store.Catalog) (*store.Catalog, error)
	log  *slog.Logger
	// loading is held by the one who loads; the others wait for what that brings.
	loading chan struct{}
	current atomic.Pointer[store.Catalog]
	dirty   chan struct{}
}

func newCatalogs(load func(context.Context, *store.Catalog) (*store.Catalog, error), log *slog.Logger) *catalogs {
	return &catalogs{load: load, log: log, loading: make(chan struct{}, 1), dirty: make(chan struct{}, 1)}
}

// Catalog gives a snapshot that is at least of the generation; 0: the newest that is known here.
func (c *catalogs) Catalog(ctx context.Context, generation int64) (*store.Catalog, error) {
	if known := c.current.Load(); known != nil && known.Generation >= generation {
		return known, nil
	}
	select {
	case c.loading <- struct{}{}:
		defer func() { <-c.loading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if known := c.current.Load(); known != nil && known.Generation >= generation {
		return known, nil
	}
	loaded, err := c.loadHeld(ctx)
	if err != nil {
		return nil, err
	}
	if loaded.Generation < generation {
		return nil, fmt.Errorf("cannot load generation %d of the catalog: the database has %d", generation, loaded.Generation)
	}
	return loaded, nil
}

// refresh loads what changed since the snapshot that is known.
func (c *catalogs) refresh(ctx context.Context) error {
	select {
	case c.loading <- struct{}{}:
		defer func() { <-c.loading }()
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err := c.loadHeld(ctx)
	return err
}

// loadHeld loads, with the right to.
func (c *catalogs) loadHeld(ctx context.Context) (*store.Catalog, error) {
	previous := c.current.Load()
	loaded, err := c.load(ctx, previous)
	if err != nil {
		return nil, fmt.Errorf("cannot load the catalog: %w", err)
	}
	if previous != nil && loaded.Generation < previous.Generation {
		// A database that was restored from a backup: what is there now is the truth.
		c.log.Warn("generation went back", "generation", loaded.Generation, "previous", previous.Generation)
	}
	c.current.Store(loaded)
	return loaded, nil
}

// signal says that there may be a newer one; it never waits.
func (c *catalogs) signal() {
	select {
	case c.dirty <- struct{}{}:
	default:
	}
}

// run keeps the snapshot fresh until ctx ends: at each signal and each notice. changed is called after
// each refresh that brought something.
func (c *catalogs) run(ctx context.Context, notices <-chan string, changed func()) error {
	wait := refreshFirst
	var retry <-chan time.Time
	told := c.generation()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.dirty:
		case <-notices:
		case <-retry:
		}
		retry = nil
		if err := c.refresh(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if wait == refreshFirst {
				c.log.Warn("catalog not refreshed, it is tried again", "err", err)
			}
			retry = time.After(wait)
			wait = min(2*wait, refreshLast)
			continue
		}
		wait = refreshFirst
		if now := c.generation(); now != told {
			told = now
			changed()
		}
	}
}

// generation is that of the snapshot that is known; -1: none is.
func (c *catalogs) generation() int64 {
	if known := c.current.Load(); known != nil {
		return known.Generation
	}
	return -1
}
