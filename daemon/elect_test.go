package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// candidates are nodes that hold elections on one database.
type candidates struct {
	t     *testing.T
	url   string
	store *store.Store
	refs  []string
	nodes []*candidate
	// later is by how much their clock is put forward.
	later time.Duration
}

type candidate struct {
	*elector
	ended map[string]bool // sensors whose process is gone
}

func newCandidates(t *testing.T, sensors int) *candidates {
	url := storetest.NewURL(t)
	c := &candidates{t: t, url: url}
	c.store = storetest.Open(t, url, func(o *store.Options) { o.Now = func() time.Time { return time.Now().Add(c.later) } })
	for i := range sensors {
		c.refs = append(c.refs, fmt.Sprintf("p.s%d", i))
	}
	return c
}

func (c *candidates) join(name string) *candidate {
	c.t.Helper()
	if err := c.store.PutNode(c.t.Context(), store.Node{ID: name, Host: "h", PID: 1, Version: "1"}); err != nil {
		c.t.Fatal(err)
	}
	n := &candidate{elector: newElector(name, c.store, slog.New(slog.DiscardHandler), prometheus.NewRegistry()), ended: map[string]bool{}}
	n.wanted = func() []string { return slices.Clone(c.refs) }
	n.isEnded = func(ref string) bool { return n.ended[ref] }
	c.nodes = append(c.nodes, n)
	return n
}

func holds(n *candidate, ref string) bool {
	_, holds := n.Holds(ref)
	return holds
}

// elect lets each node hold some elections; what it was told to stop is stopped before the next.
func (c *candidates) elect(nodes ...*candidate) {
	c.t.Helper()
	for range 3 {
		for _, n := range nodes {
			if _, err := n.elect(c.t.Context()); err != nil {
				c.t.Fatal(err)
			}
			for _, ref := range c.refs {
				n.ended[ref] = !holds(n, ref)
			}
		}
	}
}

// held checks that each sensor runs on one node, and one node leads; it gives how many sensors each has.
func (c *candidates) held(nodes ...*candidate) (counts []int, leader string) {
	c.t.Helper()
	counts = make([]int, len(nodes))
	for _, ref := range c.refs {
		var on []string
		for i, n := range nodes {
			if holds(n, ref) {
				on = append(on, n.node)
				counts[i]++
			}
		}
		if len(on) != 1 {
			c.t.Errorf("sensor %s runs on %v", ref, on)
		}
	}
	for _, n := range nodes {
		if _, leads := n.Leads(); leads {
			if leader != "" {
				c.t.Errorf("%s and %s lead", leader, n.node)
			}
			leader = n.node
		}
	}
	if leader == "" {
		c.t.Error("nobody leads")
	}
	return counts, leader
}

func TestElection(t *testing.T) {
	t.Parallel()
	c := newCandidates(t, 5)
	a := c.join("a")
	c.elect(a)
	if counts, _ := c.held(a); counts[0] != 5 {
		t.Errorf("alone it has %v", counts)
	}
	b := c.join("b")
	c.elect(a, b)
	counts, leader := c.held(a, b)
	if slices.Max(counts) > 3 || leader != "a" {
		t.Errorf("two have %v, and %s leads", counts, leader)
	}
	d := c.join("d")
	c.elect(a, b, d)
	if counts, _ = c.held(a, b, d); slices.Max(counts) > 2 {
		t.Errorf("three have %v", counts)
	}

	// In order: what was done has ended, and the others go on at once.
	if err := a.resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.store.RemoveNode(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	c.elect(b, d)
	if counts, leader = c.held(b, d); slices.Max(counts) > 3 || leader == "a" {
		t.Errorf("after a has left, %v, and %s leads", counts, leader)
	}

	// Without a word: its leases lapse, and it is no longer counted.
	storetest.Exec(t, c.url, "UPDATE attune.lease SET lease_until = now() - INTERVAL '1 second' WHERE node = 'b'")
	storetest.Exec(t, c.url, "UPDATE attune.node SET seen_at = now() - INTERVAL '1 minute' WHERE id = 'b'")
	b.boottime = func() time.Duration { return b.answered + 2*electFence }
	c.elect(d) // for all that it knows, the database's clock was put forward
	if _, leads := d.Leads(); leads {
		t.Error("d leads before anybody knows that b has died")
	}
	c.later += store.LeaseDuration
	c.elect(d)
	if counts, leader = c.held(b, d); counts[1] != 5 || leader != "d" {
		t.Errorf("after b has died, %v, and %s leads", counts, leader)
	}
}

// A node that a lease was taken from does nothing under it, not even with what it holds of it.
func TestFencedLeader(t *testing.T) {
	t.Parallel()
	c := newCandidates(t, 0)
	a, b := c.join("a"), c.join("b")
	c.elect(a, b)
	token, _ := a.Leads()
	storetest.Exec(t, c.url, "UPDATE attune.lease SET lease_until = now() - INTERVAL '1 second'")
	c.elect(b)
	c.later += store.LeaseDuration
	c.elect(b)
	if _, leads := b.Leads(); !leads {
		t.Fatal("b does not lead")
	}
	if _, err := c.store.ApplyAs(t.Context(), token, nil); err == nil {
		t.Error("who leads no more has applied something")
	}
	token, _ = b.Leads()
	if _, err := c.store.ApplyAs(t.Context(), token, nil); err != nil {
		t.Error(err)
	}
}

// A sensor that is disabled and enabled again before its lease was given back runs on where it did.
func TestSensorWantedAgain(t *testing.T) {
	t.Parallel()
	c := newCandidates(t, 1)
	a := c.join("a")
	c.elect(a)
	all := c.refs
	for _, step := range []struct {
		wanted []string
		holds  bool
	}{{nil, false}, {all, true}, {all, true}} {
		c.refs = step.wanted
		a.ended[all[0]] = false // its process takes its time
		if _, err := a.elect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if holds(a, all[0]) != step.holds {
			t.Errorf("wanted %v, held %v", step.wanted, !step.holds)
		}
	}
}

// stuckLead are leases whose leader's row is locked by a commit that does not end.
type stuckLead struct{ leases }

func (l stuckLead) HoldLeases(ctx context.Context, node string, names []string) (map[string]string, error) {
	if slices.Contains(names, store.LeaseLeader) {
		return nil, context.DeadlineExceeded
	}
	return l.leases.HoldLeases(ctx, node, names)
}

// A lead that cannot be renewed costs the lead; the sensors of the node run on.
func TestSensorsOutliveTheLead(t *testing.T) {
	t.Parallel()
	c := newCandidates(t, 2)
	a := c.join("a")
	c.elect(a)
	now := a.boottime()
	a.boottime = func() time.Duration { return now }
	free := a.leases
	a.leases = stuckLead{free}
	for range 4 {
		now += electPeriod
		if _, err := a.elect(t.Context()); err == nil {
			t.Error("that the lead is not renewed is no error")
		}
		a.fence(nil)
	}
	if _, leads := a.Leads(); leads {
		t.Error("the lead is trusted for ever")
	}
	for _, ref := range c.refs {
		if !holds(a, ref) {
			t.Errorf("sensor %s is given up with the lead", ref)
		}
	}
	if have := testutil.ToFloat64(a.leading); have != 0 {
		t.Errorf("attune_leader is %v", have)
	}
	told := 0
	a.ledChanged = func() { told++ }
	a.leases = free
	c.elect(a)
	if _, leads := a.Leads(); !leads || told != 1 {
		t.Errorf("leads again: %v, told %d times", leads, told)
	}
}

// What another session has locked is given up when its time has come, and nothing else is: not the other sensors, not
// the lead. It goes on under the same lease when the lock is gone.
func TestLocksCostOnlyWhatTheyHold(t *testing.T) {
	t.Parallel()
	c := newCandidates(t, 3)
	a := c.join("a")
	var logged bytes.Buffer
	a.log = slog.New(slog.NewTextHandler(&logged, nil))
	c.elect(a)
	start := a.boottime()
	now := start
	a.boottime = func() time.Duration { return now }
	c.elect(a)
	before := maps.Clone(a.held)
	told := 0
	a.changed = func() { told++ }
	blocker := storetest.Connect(t, c.url)
	if _, err := blocker.Exec(t.Context(), "BEGIN; SELECT FROM attune.lease WHERE name = 'sensor:p.s1' FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, c.url, "UPDATE attune.lease SET lease_until = now() WHERE name <> 'sensor:p.s1'")
	now = start + electFence - time.Millisecond
	wait, err := a.elect(t.Context())
	some, ok := errors.AsType[*store.LeasesLockedError](err)
	if !ok || !slices.Equal(some.Names, []string{"sensor:p.s1"}) || wait != electRetry {
		t.Fatalf("the next election is in %v: %v", wait, err)
	}
	if view, err := c.store.Leases(t.Context(), "a"); err != nil || view.Holder["sensor:p.s0"] != "a" || view.Holder[store.LeaseLeader] != "a" {
		t.Errorf("the database has %+v, %v", view, err)
	}
	var fenced []string
	for _, age := range []time.Duration{electFence - time.Millisecond, electFence} {
		now = start + age
		fenced = a.fence(fenced)
		if _, leads := a.Leads(); !leads {
			t.Errorf("after %v the lead is lost", age)
		}
		for _, ref := range c.refs {
			if want := ref != "p.s1" || age < electFence; holds(a, ref) != want {
				t.Errorf("after %v it is %v that %s is held", age, !want, ref)
			}
		}
	}
	if want := []string{"sensor:p.s1"}; !slices.Equal(fenced, want) || told != 1 || strings.Count(logged.String(), "sensors=[p.s1]") != 1 {
		t.Errorf("given up are %v, told %d times:\n%s", fenced, told, &logged)
	}
	if _, err := blocker.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	told = 0
	c.elect(a)
	if token, holds := a.Holds("p.s1"); !holds || token != before["sensor:p.s1"].token || told != 1 {
		t.Errorf("held again: %v, under the same lease: %v, told %d times", holds, token == before["sensor:p.s1"].token, told)
	}
	if fenced = a.fence(fenced); len(fenced) != 0 {
		t.Errorf("given up are %v", fenced)
	}
}

// A lease that is to be given back and is locked keeps none from being renewed.
func TestLockedWhenGivenBack(t *testing.T) {
	t.Parallel()
	c := newCandidates(t, 2)
	a := c.join("a")
	c.elect(a)
	blocker := storetest.Connect(t, c.url)
	if _, err := blocker.Exec(t.Context(), "BEGIN; SELECT FROM attune.lease WHERE name = 'sensor:p.s1' FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	a.ended["p.s1"], c.refs = true, c.refs[:1]
	now := a.boottime() + electFence
	a.boottime = func() time.Duration { return now }
	if _, err := a.elect(t.Context()); err == nil {
		t.Error("that it is not given back is no error")
	}
	if _, leads := a.Leads(); !leads || !holds(a, "p.s0") {
		t.Errorf("it leads: %v, it runs the other sensor: %v", leads, holds(a, "p.s0"))
	}
}

// Why a sensor does not run here is told as it is.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	c := newCandidates(t, 2)
	a := c.join("a")
	told := 0
	a.changed = func() { told++ }
	expect := func(ref, want string) {
		t.Helper()
		if have := a.Elsewhere(ref); have != want {
			t.Errorf("%s: found %q, want %q", ref, have, want)
		}
		if told == 0 {
			t.Errorf("%s: nobody was told that there is news", ref)
		}
		told = 0
	}
	told = 1
	expect("p.s0", "this node has not taken its lease yet")
	storetest.Exec(t, c.url, "INSERT INTO attune.lease (name, node, token, lease_until) VALUES ('sensor:p.s1', 'former', gen_random_uuid(), now() + INTERVAL '30 seconds')")
	c.elect(a)
	expect("p.s1", "node former, which ended without giving its lease back, has it until it lapses, within 30s")
	storetest.Exec(t, c.url, "DELETE FROM attune.lease WHERE node = 'former'")
	b := c.join("b")
	c.elect(b)
	c.elect(a)
	expect("p.s1", "node b runs it")
	a.mu.Lock()
	a.leaving["sensor:p.s0"] = true
	a.mu.Unlock()
	told = 1
	expect("p.s0", "another node is to run it, this one has more than its share")
	now := a.boottime() + electFence
	a.boottime = func() time.Duration { return now }
	a.mu.Lock()
	clear(a.leaving)
	a.mu.Unlock()
	told = 1
	expect("p.s0", "its lease could not be renewed for so long that another node may run it")
	if err := b.resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What the answer of did not come before the end is given back as well.
	a.mu.Lock()
	clear(a.held)
	a.mu.Unlock()
	if err := a.resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if view, err := c.store.Leases(t.Context(), "a"); err != nil || len(view.Holder) != 0 {
		t.Errorf("left are %+v, %v", view, err)
	}
	told = 0
	a.see(&store.Leases{Nodes: 2, Holder: map[string]string{}})
	if have := a.Elsewhere("p.s0"); have != "no node has its lease yet" {
		t.Errorf("found %q", have)
	}
	a.see(&store.Leases{Nodes: 1, Holder: map[string]string{}})
	if have := a.Elsewhere("p.s0"); have != "this node is taking its lease" {
		t.Errorf("found %q", have)
	}
}

// deaf are leases of which nothing is heard.
type deaf struct{ leases }

func (deaf) Leases(context.Context, string) (*store.Leases, error) {
	return nil, errors.New("nobody answers")
}

// That nothing is renewed is a problem of the daemon until it is.
func TestElectionTellsItsProblem(t *testing.T) {
	t.Parallel()
	c := newCandidates(t, 1)
	a := c.join("a")
	free := a.leases
	a.leases = deaf{free}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx, nil) }()
	until := func(want string) {
		t.Helper()
		eventually(t, func() error {
			if have := a.Problem(); have != want {
				return fmt.Errorf("found %q, want %q", have, want)
			}
			return nil
		})
	}
	until("what this node leads and runs is not renewed: nobody answers")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	a.leases = free
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- a.run(ctx, nil) }()
	until("")
	cancel()
	<-ended
}

// Who cannot read the packs leaves it to who can, but for want of another leads.
func TestLeaderReadsThePacks(t *testing.T) {
	t.Parallel()
	c := newCandidates(t, 0)
	a := c.join("a")
	a.canLead = func() bool { return false }
	c.elect(a)
	if _, leader := c.held(a); leader != "a" {
		t.Errorf("%s leads", leader)
	}
	b := c.join("b")
	c.elect(a, b)
	if _, leader := c.held(a, b); leader != "b" {
		t.Errorf("%s leads", leader)
	}
}

// After an outage of the database that no lease outlived, each node goes on with what it had, whoever is
// back first: its sensors' last lines wait to be stored under its leases.
func TestElectionAfterAnOutage(t *testing.T) {
	t.Parallel()
	c := newCandidates(t, 4)
	a, b := c.join("a"), c.join("b")
	c.elect(a, b)
	before, _ := c.held(a, b)
	tokens := maps.Clone(a.held)
	now := max(a.boottime(), b.boottime())
	for _, n := range c.nodes {
		n.boottime = func() time.Duration { return now }
	}
	now += store.LeaseDuration + time.Second
	storetest.Exec(t, c.url, "UPDATE attune.lease SET lease_until = now() - INTERVAL '1 second'")
	storetest.Exec(t, c.url, "UPDATE attune.node SET seen_at = now() - INTERVAL '1 minute'")
	for _, n := range []*candidate{b, a} {
		if wait, err := n.elect(t.Context()); err != nil || wait > electRetry {
			t.Errorf("the next election is in %v: %v", wait, err)
		}
	}
	after, _ := c.held(a, b)
	if !slices.Equal(before, after) {
		t.Errorf("%v before, %v after", before, after)
	}
	for _, ref := range c.refs {
		if token, holds := a.Holds(ref); holds && token != tokens[store.LeaseSensor+ref].token {
			t.Errorf("sensor %s has another token", ref)
		}
	}
	// The other does not come back.
	now += electSettle
	storetest.Exec(t, c.url, "UPDATE attune.lease SET lease_until = now() - INTERVAL '1 second' WHERE node = 'b'")
	for name, h := range a.held {
		a.held[name] = holding{token: h.token, renewed: now}
	}
	a.answered = now
	b.boottime = func() time.Duration { return now + electFence }
	c.elect(a)
	c.later += store.LeaseDuration
	c.elect(a)
	if counts, _ := c.held(a, b); counts[0] != len(c.refs) {
		t.Errorf("in the end a has %v", counts)
	}
}
