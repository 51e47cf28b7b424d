package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/attune-io/attune/exec/rule"
	"github.com/attune-io/attune/exec/sensor"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// newsMost bounds what waits to be written while the database is away; beyond it the oldest goes.
	newsMost = 1000

	// newsRetry is when it is tried again after it failed.
	newsRetry = time.Second
)

// news writes what happens to Attune itself outside of the database's transactions: what sensors do.
type news struct {
	node    string
	notices interface {
		AddNotices(ctx context.Context, notices []store.Notice) error
	}
	listens func(trigger string) bool // whether a rule wants to know
	log     *slog.Logger

	wake chan struct{}

	mu      sync.Mutex
	waiting []store.Notice
	number  int // of this run, for the ids
}

func newNews(node string, s *store.Store, listens func(string) bool, logger *slog.Logger) *news {
	return &news{node: node, notices: s, listens: listens, log: logger.With("component", "news"), wake: make(chan struct{}, 1)}
}

// sensorChanged is sensor.Options.StateChanged.
func (n *news) sensorChanged(c sensor.Change) {
	if !n.listens(store.TriggerSensorStateChanged) {
		return
	}
	payload, err := json.Marshal(map[string]any{
		"sensor": c.Ref, "state": c.State, "previous_state": c.Former, "node": n.node, "pid": c.PID,
		"restarts": c.Restarts, "last_exit": c.LastExit, "problem": c.Problem,
	})
	if err != nil {
		n.log.Error("change of a sensor not encoded", "sensor", c.Ref, "err", err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.waiting) == newsMost {
		n.waiting = n.waiting[1:]
		n.log.Error("a change of a sensor is not told: too many wait for the database", "most", newsMost)
	}
	n.number++
	n.waiting = append(n.waiting, store.Notice{
		// The node's id is new with each run, and so this names the change for good.
		Trigger: store.TriggerSensorStateChanged, EventID: fmt.Sprintf("%s %d", n.node, n.number), Payload: payload,
	})
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends, and once more then. Saying something twice does no harm.
func (n *news) run(ctx context.Context) {
	for ctx.Err() == nil {
		var again <-chan time.Time
		if err := n.write(ctx); err != nil {
			n.log.Debug("changes of sensors not written yet", "err", err)
			again = time.After(newsRetry)
		}
		select {
		case <-ctx.Done():
		case <-n.wake:
		case <-again:
		}
	}
	if err := n.write(ctx); err != nil {
		n.log.Warn("changes of sensors are not told", "err", err)
	}
}

// write writes what waits.
func (n *news) write(ctx context.Context) error {
	n.mu.Lock()
	all := n.waiting
	n.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	if err := n.notices.AddNotices(context.WithoutCancel(ctx), all); err != nil {
		return err
	}
	n.forget(all[len(all)-1].EventID)
	return nil
}

// forget drops what was written: all up to this one.
func (n *news) forget(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.waiting {
		if n.waiting[i].EventID == id {
			n.waiting = n.waiting[i+1:]
			return
		}
	}
}

// listens says whether a rule in force waits for a trigger, as far as the newest catalog knows.
func (d *Daemon) listens(trigger string) bool {
	catalog := d.catalogs.current.Load()
	if catalog == nil {
		return true
	}
	for _, r := range catalog.Rules {
		if spec, ok := r.Spec.(*manifest.Rule); ok && r.Enabled && spec.Trigger.Ref == trigger {
			return true
		}
	}
	return false
}

// tellNews makes events of what happens to Attune itself, until ctx ends.
func (d *Daemon) tellNews(ctx context.Context) error {
	told, unsubscribe := d.listener.Subscribe(store.ChannelNotice)
	defer unsubscribe()
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() { d.news.run(ctx) })
	return rule.NewRelay(d.store, d.intake, told, d.opts.Logger).Run(ctx)
}
