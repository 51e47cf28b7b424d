package daemon

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/sensor"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// electPeriod renews leases with two tries to spare before electFence.
	electPeriod = store.LeaseDuration / 3
	// electRetry is the pause after a try that failed.
	electRetry = time.Second
	// electFence is how long after the last renewal a lease is trusted: what is done under it has to have
	// ended when another node may take it.
	electFence = 18 * time.Second
	// electSettle is how long after an outage of the database, which no lease outlives, a node takes only
	// what it had: the others come back as well, with what their sensors printed meanwhile, and that would
	// be lost to whoever is a moment faster.
	electSettle = 5 * time.Second
	// electMargin is how long after another node's lease has lapsed it is tried for.
	electMargin = 100 * time.Millisecond
)

// leases is the part of the store that an election needs.
type leases interface {
	Leases(ctx context.Context, node string) (*store.Leases, error)
	HoldLeases(ctx context.Context, node string, names []string) (map[string]string, error)
	ReleaseLeases(ctx context.Context, node string, names []string) error
	ResignLeases(ctx context.Context, node string) error
}

// elector holds what one node at a time may do: to reconcile, and to run a sensor. Every node takes at
// most its share of the sensors, so that they spread; what it has above that it stops, and then gives
// back. Leases are counted on CLOCK_BOOTTIME, from before they were asked for.
type elector struct {
	node    string
	leases  leases
	log     *slog.Logger
	leading prometheus.Gauge
	// What it asks: the sensors that are wanted, whether a sensor's process is gone, and whether this node
	// can read its packs.
	wanted  func() []string
	isEnded func(ref string) bool
	canLead func() bool
	// changed is told when a sensor, or anything, was won or lost, ledChanged when the lead was.
	changed, ledChanged func()
	boottime            func() time.Duration
	wake                chan struct{}

	mu      sync.Mutex
	held    map[string]holding // by lease
	leaving map[string]bool    // held until their process has ended
	// answered is when sensors' leases were asked for the last time that there was an answer.
	answered time.Duration
	// settled is until when only what it had is taken.
	settled time.Duration
	view    *store.Leases // who held what when it was last seen; nil: it was never seen
	problem string        // why nothing is renewed; empty: it is
}

// holding is a lease as it was given. Each is trusted by itself: another session may have locked the rows of
// some, and the leader's is locked while the packs that are applied are committed.
type holding struct {
	token   string
	renewed time.Duration
}

func newElector(node string, l leases, log *slog.Logger, registry prometheus.Registerer) *elector {
	e := &elector{
		node: node, leases: l, log: log.With("component", "elector"), boottime: child.Boottime, wake: make(chan struct{}, 1),
		wanted: func() []string { return nil }, isEnded: func(string) bool { return true },
		canLead: func() bool { return true }, changed: func() {}, ledChanged: func() {},
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "attune_leader", Help: "Whether this node applies the packs: 1 on one node of all.",
		}),
		held: map[string]holding{}, leaving: map[string]bool{},
	}
	registry.MustRegister(e.leading)
	return e
}

// poke asks for an election now.
func (e *elector) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Leads gives the token of the leader's lease; leads is false where another node has it, or where it
// could not be renewed for so long that another may.
func (e *elector) Leads() (token string, leads bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	token = e.held[store.LeaseLeader].token
	return token, e.isFresh(store.LeaseLeader)
}

// Holds tells whether this node may run a sensor, and the token of its lease.
func (e *elector) Holds(ref string) (token string, holds bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	name := store.LeaseSensor + ref
	token = e.held[name].token
	return token, !e.leaving[name] && e.isFresh(name)
}

// Elsewhere tells people why this node does not run a sensor.
func (e *elector) Elsewhere(ref string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	name := store.LeaseSensor + ref
	switch {
	case e.leaving[name]:
		return "another node is to run it, this one has more than its share"
	case e.held[name].token != "" && !e.isFresh(name):
		return "its lease could not be renewed for so long that another node may run it"
	case e.view == nil:
		return "this node has not taken its lease yet"
	}
	switch holder := e.view.Holder[name]; {
	case holder == "" && e.view.Nodes > 1:
		return "no node has its lease yet"
	case holder == "" || holder == e.node:
		return "this node is taking its lease"
	case e.view.Nodes == 1:
		return "node " + holder + ", which ended without giving its lease back, has it until it lapses, within " + store.LeaseDuration.String()
	default:
		return "node " + holder + " runs it"
	}
}

// Problem says why what this node leads and runs is not renewed; empty: it is.
func (e *elector) Problem() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.problem
}

// see notes who holds what, and tells whether that is news for those who want to know why this node does not.
func (e *elector) see(view *store.Leases) (changed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	changed = e.view == nil || e.view.Nodes != view.Nodes || !maps.Equal(e.view.Holder, view.Holder)
	e.view = view
	return changed
}

// isFresh tells whether a lease is held and can be trusted.
func (e *elector) isFresh(name string) bool {
	h, held := e.held[name]
	return held && e.boottime()-h.renewed < electFence
}

// run holds elections until ctx ends, and then gives everything back: what was done under the leases has
// ended by then.
func (e *elector) run(ctx context.Context, notices <-chan string) error {
	failing := false
	var fenced []string
	for {
		wait, err := e.elect(ctx)
		if ctx.Err() != nil {
			break
		}
		e.mu.Lock()
		e.problem = ""
		if err != nil {
			e.problem = unrenewed(err) + " is not renewed: " + err.Error()
		}
		e.mu.Unlock()
		if failed := err != nil; failed != failing {
			failing = failed
			if failed {
				e.log.Warn("cannot renew all that this node leads and runs, trying again", "err", err)
			} else {
				e.log.Info("all that this node leads and runs is renewed again")
			}
		}
		fenced = e.fence(fenced)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-e.wake:
		case <-notices:
		}
		timer.Stop()
		if ctx.Err() != nil {
			break
		}
	}
	return e.resign(context.WithoutCancel(ctx))
}

// unrenewed says of what an election that failed tells.
func unrenewed(err error) string {
	if _, some := errors.AsType[*store.LeasesLockedError](err); some {
		return "a part of what this node leads and runs"
	}
	return "what this node leads and runs"
}

// fence gives up what could not be renewed in time, and says so once. before is what it gave last.
func (e *elector) fence(before []string) (now []string) {
	e.mu.Lock()
	for name := range e.held {
		if !e.isFresh(name) {
			now = append(now, name)
		}
	}
	e.mu.Unlock()
	slices.Sort(now)
	var sensors []string
	for _, name := range now {
		ref, isSensor := strings.CutPrefix(name, store.LeaseSensor)
		switch {
		case slices.Contains(before, name):
		case isSensor:
			sensors = append(sensors, ref)
		default:
			e.log.Error("the lead of this node could not be renewed, it is given up")
			e.leading.Set(0)
		}
	}
	if len(sensors) > 0 {
		e.log.Error("sensors of this node could not be renewed, they are given up", "count", len(sensors), "sensors", sensors)
	}
	if !slices.Equal(now, before) {
		e.changed()
	}
	return now
}

// elect renews, takes and gives back, once. It gives the time until the next.
func (e *elector) elect(ctx context.Context) (wait time.Duration, err error) {
	view, err := e.leases.Leases(ctx, e.node)
	if err != nil {
		return electRetry, err
	}
	hold, leave, release := e.decide(view, e.outage())
	seen, left := e.see(view), e.leave(slices.Concat(leave, release))
	if seen || left {
		e.changed()
	}
	if err := errors.Join(e.holdSensors(ctx, hold, release), e.holdLead(ctx, hold, release)); err != nil {
		return electRetry, err
	}
	switch {
	case len(leave) > 0, e.settling():
		return electRetry, nil // until they have ended, or the others are back
	case view.NextLapse > 0:
		return min(electPeriod, view.NextLapse+electMargin), nil
	}
	return electPeriod, nil
}

// outage gives the sensors that this node had, and that alone it may take, where the database was away for
// so long that all leases have lapsed; nil: it may take any.
func (e *elector) outage() (had map[string]bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.boottime()
	if e.answered > 0 && now-e.answered >= store.LeaseDuration {
		e.settled = now + electSettle
	}
	if now >= e.settled {
		return nil
	}
	had = map[string]bool{}
	for name := range e.held {
		had[name] = true
	}
	return had
}

func (e *elector) settling() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.boottime() < e.settled
}

// decide tells what is to be renewed or taken, what is to be stopped, and what has stopped and is to be
// given back. Of what nobody holds only had is taken; nil: any.
func (e *elector) decide(view *store.Leases, had map[string]bool) (hold, leave, release []string) {
	own := map[string]bool{}
	for name, node := range view.Holder {
		if node == e.node {
			own[name] = true
		}
	}
	switch holder := view.Holder[store.LeaseLeader]; {
	case e.canLead() || view.Nodes == 1:
		hold = append(hold, store.LeaseLeader)
	case holder == e.node:
		release = append(release, store.LeaseLeader)
	}
	wanted := e.wanted()
	slices.Sort(wanted)
	// At most this many on a node: sensors ÷ nodes, rounded up.
	share := (len(wanted) + max(view.Nodes, 1) - 1) / max(view.Nodes, 1)
	have := 0
	for _, free := range []bool{false, true} { // what runs here stays here, before more is taken
		for _, ref := range wanted {
			name := store.LeaseSensor + ref
			if own[name] == free || free && (view.Holder[name] != "" || had != nil && !had[name]) {
				continue
			}
			if have < share {
				hold = append(hold, name)
				have++
			}
		}
	}
	for name := range own {
		ref, isSensor := strings.CutPrefix(name, store.LeaseSensor)
		switch {
		case !isSensor || slices.Contains(hold, name):
		case e.isEnded(ref):
			release = append(release, name)
		default:
			leave, hold = append(leave, name), append(hold, name)
		}
	}
	slices.Sort(leave)
	slices.Sort(release)
	return hold, leave, release
}

// leave marks what is to be stopped here, or has stopped and is about to be given back, and nothing else:
// what is wanted again before it was given back goes on under the lease that it has. It tells whether that
// is news.
func (e *elector) leave(names []string) (changed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	leaving := map[string]bool{}
	for _, name := range names {
		leaving[name] = true
	}
	changed = !maps.Equal(leaving, e.leaving)
	e.leaving = leaving
	return changed
}

// holdSensors renews, takes and gives back the leases of sensors. What is locked is left as it is, the others
// are not: each is given up when its own time has come.
func (e *elector) holdSensors(ctx context.Context, hold, release []string) error {
	isLead := func(name string) bool { return name == store.LeaseLeader }
	hold, release = slices.DeleteFunc(slices.Clone(hold), isLead), slices.DeleteFunc(slices.Clone(release), isLead)
	sent := e.boottime()
	tokens, err := e.leases.HoldLeases(ctx, e.node, hold)
	locked, some := errors.AsType[*store.LeasesLockedError](err)
	if err != nil && !some {
		return err
	}
	e.mu.Lock()
	changed := false
	now := map[string]holding{}
	for name, token := range tokens {
		changed = changed || e.held[name].token != token || !e.isFresh(name)
		now[name] = holding{token: token, renewed: sent}
	}
	if some {
		for _, name := range locked.Names {
			if h, held := e.held[name]; held {
				now[name] = h
			}
		}
	}
	for name, h := range e.held {
		if isLead(name) {
			now[name] = h
		} else if _, still := now[name]; !still {
			changed = true
		}
	}
	e.held, e.answered = now, sent
	e.mu.Unlock()
	if changed {
		e.changed()
	}
	return errors.Join(err, e.leases.ReleaseLeases(ctx, e.node, release))
}

// holdLead renews, takes or gives back the lead. The statement waits where an apply is being committed,
// so it has only this one lease.
func (e *elector) holdLead(ctx context.Context, hold, release []string) error {
	sent, token := e.boottime(), ""
	switch {
	case slices.Contains(release, store.LeaseLeader):
		if err := e.leases.ReleaseLeases(ctx, e.node, []string{store.LeaseLeader}); err != nil {
			return err
		}
	case slices.Contains(hold, store.LeaseLeader):
		tokens, err := e.leases.HoldLeases(ctx, e.node, []string{store.LeaseLeader})
		if err != nil {
			return err
		}
		token = tokens[store.LeaseLeader]
	}
	e.mu.Lock()
	before, led := e.held[store.LeaseLeader].token, e.isFresh(store.LeaseLeader)
	if token == "" {
		delete(e.held, store.LeaseLeader)
	} else {
		e.held[store.LeaseLeader] = holding{token: token, renewed: sent}
	}
	e.mu.Unlock()
	leads := token != ""
	e.leading.Set(map[bool]float64{true: 1}[leads])
	if led != leads {
		e.log.Info("leader changed", "leads", leads)
		e.ledChanged()
	}
	if led != leads || before != token {
		e.changed()
	}
	return nil
}

// resign gives back what is held, also what was taken by a statement whose answer was not waited for.
func (e *elector) resign(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	e.mu.Lock()
	e.held = map[string]holding{}
	e.mu.Unlock()
	e.leading.Set(0)
	if err := e.leases.ResignLeases(ctx, e.node); err != nil {
		e.log.Warn("what this node led and ran is not given back, it lapses", "err", err)
	}
	return nil
}

// wantedSensors are those in force.
func (d *Daemon) wantedSensors() []string {
	catalog := d.catalogs.current.Load()
	if catalog == nil {
		return nil
	}
	var refs []string
	for ref, record := range catalog.Sensors {
		if record.Enabled {
			refs = append(refs, ref)
		}
	}
	return refs
}

// sensorEnded tells whether nothing of a sensor runs here.
func (d *Daemon) sensorEnded(ref string) bool {
	for _, info := range d.sensors.List() {
		if info.Ref == ref {
			return info.State == sensor.StateStopped
		}
	}
	return true
}

// electLeaders is the stage.
func (d *Daemon) electLeaders(ctx context.Context) error {
	notices, unsubscribe := d.listener.Subscribe(store.ChannelLease)
	defer unsubscribe()
	return d.elector.run(ctx, notices)
}
