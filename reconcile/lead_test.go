package reconcile

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// seat is whose the lead is, in a test of two nodes on one database.
type seat struct{ holder atomic.Value }

func (s *seat) of(node string) func() (string, bool) {
	return func() (string, bool) { return "", s.holder.Load() == node }
}

// twoNodes gives two reconcilers, of which the first leads. Each has a folder of its own, and they hear
// of each other as daemons do.
func twoNodes(t *testing.T, fill func(b *bench)) (leader, follower *bench, s *seat) {
	t.Helper()
	s = &seat{}
	s.holder.Store("a")
	leader, follower = setup(t), setup(t)
	follower.store, follower.url = storetest.Open(t, leader.url), leader.url
	var err error
	follower.revisions.Close()
	follower.revisions, err = NewRevisions(follower.state, follower.store, quietLogger())
	leader.do(err)
	for name, b := range map[string]*bench{"a": leader, "b": follower} {
		b.options = func(o *Options) { o.Node, o.Leads = name, s.of(name) }
		fill(b)
	}
	leader.hold("a")
	leader.start()
	follower.start()
	for _, b := range []*bench{leader, follower} {
		b.hear()
	}
	return leader, follower, s
}

// hold gives a node the row of the leader's lease.
func (b *bench) hold(node string) {
	b.t.Helper()
	storetest.Exec(b.t, b.url, "DELETE FROM attune.lease")
	_, err := b.store.HoldLeases(b.t.Context(), node, []string{store.LeaseLeader})
	b.do(err)
}

// hear has the reconciler told of what others did and want.
func (b *bench) hear() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	r, listener := b.Reconciler, b.store.NewListener()
	errands, _ := listener.Subscribe(store.ChannelErrand)
	catalog, _ := listener.Subscribe(store.ChannelCatalog)
	go func() {
		defer close(ended)
		if err := listener.Run(ctx); err != nil {
			b.t.Error(err)
		}
	}()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-errands:
				r.Asked()
			case <-catalog:
				if c, err := b.store.Catalog(ctx, nil); err == nil {
					r.Noticed(c.Generation)
				}
			}
		}
	}()
	b.t.Cleanup(func() { cancel(); <-ended })
}

// One that follows has the leader roll back and unpin, and tells what came of it as if it had done so
// itself. The leader knows at once: an edit does not undo it.
func TestFollowerHasTheLeaderRollBack(t *testing.T) {
	t.Parallel()
	leader, follower, _ := twoNodes(t, func(b *bench) { b.pack("one") })
	leader.write("one/actions/act.sh", "#!/bin/bash\necho edited\n")
	leader.reload()

	report, err := follower.Rollback(t.Context(), "one", 1, "alice", "2 is bad")
	leader.do(err)
	if diff := cmp.Diff([]string{"~ action one.act (files)"}, steps(report.Plan)); diff != "" || report.Generation != leader.catalog().Generation {
		t.Errorf("generation %d, the rollback did (-want +have):\n%s", report.Generation, diff)
	}
	row := leader.catalog().Packs["one"]
	if row.Revision != 3 || row.PinnedBy != "alice" || row.PinnedReason != "2 is bad" || !strings.Contains(follower.script(), "echo one") {
		t.Errorf("row %+v", row)
	}
	leader.write("one/actions/act.sh", "#!/bin/bash\necho worse\n")
	if leader.reload(); leader.catalog().Packs["one"].Revision != 3 {
		t.Error("the leader applied the folder of a pinned pack")
	}
	if _, err := follower.Rollback(t.Context(), "one", 99, "alice", ""); !errors.Is(err, ErrNoRevision) {
		t.Errorf("an unknown revision: %v", err)
	}
	if _, err := follower.Rollback(t.Context(), "nobody", 1, "alice", ""); !errors.Is(err, ErrNoPack) {
		t.Errorf("an unknown pack: %v", err)
	}

	_, err = follower.Unpin(t.Context(), "one", "bob")
	leader.do(err)
	if row := leader.catalog().Packs["one"]; row.Revision != 4 || row.PinnedBy != "" || !strings.Contains(leader.script(), "echo worse") {
		t.Errorf("row %+v", row)
	}
	if _, err := follower.Unpin(t.Context(), "one", "bob"); !errors.Is(err, ErrNotPinned) {
		t.Errorf("a second unpin: %v", err)
	}
	if n := leader.count("SELECT count(*) FROM attune.errand"); n != 0 {
		t.Errorf("%d errands are left", n)
	}
	if diff := cmp.Diff([]string{"bob unpin pack one", "alice rollback pack one"}, leader.audited()); diff != "" {
		t.Errorf("audit (-want +have):\n%s", diff)
	}
}

// count runs a query that answers with a number.
func (b *bench) count(sql string) (n int) {
	b.t.Helper()
	b.do(storetest.Connect(b.t, b.url).QueryRow(b.t.Context(), sql).Scan(&n))
	return n
}

// audited is who did what, newest first.
func (b *bench) audited() (list []string) {
	b.t.Helper()
	entries, err := b.store.ListAudit(b.t.Context(), store.AuditFilter{})
	b.do(err)
	for _, e := range entries {
		list = append(list, e.Actor+" "+e.Action+" "+e.Object)
	}
	return list
}

// A refusal with its reasons comes from the leader as it was given there.
func TestFollowerIsToldWhyARollbackIsRefused(t *testing.T) {
	t.Parallel()
	leader, follower, _ := twoNodes(t, func(b *bench) {
		b.pack("base")
		b.pack("one")
		b.write("one/rules/far.yaml", "name: far\ntrigger: {ref: base.tick}\naction: {ref: base.act}\n")
	})
	leader.remove("one/rules/far.yaml")
	leader.reload()
	for _, gone := range []string{"triggers/tick.yaml", "sensors/sense.yaml", "rules/rule.yaml"} {
		leader.remove("base/" + gone)
	}
	leader.reload()
	_, err := follower.Rollback(t.Context(), "one", 1, "alice", "")
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok || refused.Revision != 1 || !strings.Contains(refused.Errors.Error(), `one/rules/far.yaml:2:`) {
		t.Errorf("found %v", err)
	}
}

// What is asked for while nobody leads is done by who leads next; who gives up before gets nothing done.
func TestErrandsWaitForALeader(t *testing.T) {
	t.Parallel()
	leader, follower, s := twoNodes(t, func(b *bench) { b.pack("one"); b.pack("two") })
	s.holder.Store("nobody")
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := follower.Rollback(ctx, "two", 1, "alice", "")
		gone <- err
	}()
	asked := func(n int) func() bool {
		return func() bool { return leader.count("SELECT count(*) FROM attune.errand") == n }
	}
	awaitCondition(t, "the errand", asked(1), follower.log.String)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got %v", err)
	}
	if !asked(0)() {
		t.Error("who gave up left an errand")
	}
	done := make(chan error, 1)
	go func() {
		_, err := follower.Rollback(t.Context(), "one", 1, "alice", "")
		done <- err
	}()
	awaitCondition(t, "the errand", asked(1), follower.log.String)
	s.holder.Store("a")
	leader.Dirty("leads")
	leader.do(<-done)
	c := leader.catalog()
	if c.Packs["one"].PinnedBy != "alice" || c.Packs["two"].PinnedBy != "" {
		t.Errorf("one pinned by %q, two by %q", c.Packs["one"].PinnedBy, c.Packs["two"].PinnedBy)
	}
}

// A follower refuses to reload, and names who leads.
func TestFollowerNamesTheLeader(t *testing.T) {
	t.Parallel()
	leader, follower, s := twoNodes(t, func(b *bench) { b.pack("one") })
	_, err := follower.Reload(t.Context(), "alice")
	follows, ok := errors.AsType[*FollowsError](err)
	if !ok || follows.Leader != "a" || !errors.Is(err, ErrFollows) || !strings.Contains(err.Error(), "another node leads and applies the packs: a") {
		t.Errorf("found %v", err)
	}
	s.holder.Store("nobody")
	storetest.Exec(t, leader.url, "DELETE FROM attune.lease")
	if _, err = follower.Reload(t.Context(), "alice"); !errors.Is(err, ErrFollows) || !strings.Contains(err.Error(), "no node leads at the moment") {
		t.Errorf("without a leader: %v", err)
	}
}

// What others change of packs the leader sees at once, and not only at its next look at everything, which
// is an hour away here.
func TestLeaderSeesWhatOthersChanged(t *testing.T) {
	t.Parallel()
	leader, follower, _ := twoNodes(t, func(b *bench) { b.pack("one") })
	_, _, err := follower.store.Switch(t.Context(), store.Switch{Kind: manifest.KindPack, Refs: []string{"one"}, By: "bob"})
	leader.do(err)
	awaitCondition(t, "the disabled pack", func() bool { return leader.metric("attune_packs", packDisabled) == 1 }, leader.log.String)
	_, err = follower.store.Apply(t.Context(), []store.PackChange{{Ref: "one", Directory: leader.dir, Pin: &store.Pin{By: "bob"}}})
	leader.do(err)
	awaitCondition(t, "the pin", func() bool { return testutil.ToFloat64(leader.metrics.pinned.WithLabelValues("one")) == 1 }, leader.log.String)
}

// checking are interpreters that are all there, and do something when they are asked for: between the look
// at the database and the apply.
type checking func()

func (c checking) Check(string, string, string) error { c(); return nil }

// A plan is not applied to rows that somebody else changed after it was made: it is made again from what
// is there now. Here the pin comes between the two.
func TestPlanOfRowsThatMoved(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.pack("two")
	b.start()
	b.stop()
	pinned := false
	b.options = func(o *Options) {
		o.Interpreters = checking(func() {
			if !pinned {
				pinned = true
				_, err := b.store.Apply(t.Context(), []store.PackChange{{Ref: "one", Directory: b.dir, Pin: &store.Pin{By: "alice"}}})
				b.do(err)
			}
		})
	}
	b.write("one/actions/act.sh", "#!/bin/bash\necho bad\n")
	b.write("two/actions/act.sh", "#!/bin/bash\necho good\n")
	b.start()
	c := b.catalog()
	if c.Packs["one"].Revision != 1 || c.Packs["two"].Revision != 2 || !pinned {
		t.Errorf("one is at revision %d, two at %d", c.Packs["one"].Revision, c.Packs["two"].Revision)
	}
	want := []Drift{{Pack: "one", Why: "pinned to revision 1 by alice", Steps: 1}}
	awaitCondition(t, "the drift", func() bool { return cmp.Equal(b.Status().Drift, want) }, b.log.String)
}

// Who finds in the middle of an apply that it leads no more stops there, and says so once, however many
// packs there are.
func TestLostLeadEndsAnApply(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const packs = 30
	for i := range packs {
		b.pack("p" + strings.Repeat("x", i))
	}
	token := "00000000-0000-0000-0000-000000000000"
	b.options = func(o *Options) { o.Leads = func() (string, bool) { return token, true } }
	b.launch()
	_, err := b.Reload(t.Context(), "alice")
	if !errors.Is(err, store.ErrNotHeld) || strings.Count(err.Error(), store.ErrNotHeld.Error()) != 1 {
		t.Errorf("found %v", err)
	}
	if len(b.catalog().Packs) != 0 {
		t.Error("something was applied")
	}
}

// What was done is not called undone because what follows from it could not be looked at.
func TestRollbackOfWhichTheRestFails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.edited()
	var failing atomic.Bool
	failing.Store(true)
	b.stop()
	b.prepare = func(r *Reconciler) {
		r.opts.Applied = func(int64, []string) {
			if failing.Load() { // the catalog cannot be read from now on
				storetest.Exec(t, b.url, "ALTER TABLE attune.generation RENAME TO away")
			}
		}
	}
	b.start()
	report, err := b.Rollback(t.Context(), "one", 1, "alice", "")
	b.do(err)
	if len(report.Plan.Packs) != 1 || report.Plan.Packs[0].Ref != "one" || report.Generation == 0 {
		t.Errorf("report %+v", report)
	}
	failing.Store(false)
	storetest.Exec(t, b.url, "ALTER TABLE attune.away RENAME TO generation")
	if row := b.catalog().Packs["one"]; row.PinnedBy != "alice" || !cmp.Equal(b.audited(), []string{"alice rollback pack one"}) {
		t.Errorf("row %+v, audit %v", row, b.audited())
	}
	awaitCondition(t, "the drift", func() bool { return len(b.Status().Drift) == 1 }, b.log.String)
}

// An answer to a rollback is about what it did, not about what has long been wrong elsewhere.
func TestRollbackDoesNotTellOfOthers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("sick")
	b.edited()
	b.write("sick/rules/rule.yaml", "name: rule\ntrigger: {ref: sick.tick}\naction: {ref: sick.none}\n")
	b.reload()
	report, err := b.Rollback(t.Context(), "one", 1, "alice", "")
	b.do(err)
	if len(report.Plan.Packs) != 1 || len(report.Errors) != 0 {
		t.Errorf("packs %+v, errors %v", report.Plan.Packs, texts(report.Errors))
	}
	report, err = b.Unpin(t.Context(), "one", "alice")
	b.do(err)
	if len(report.Plan.Packs) != 1 || len(report.Errors) != 0 {
		t.Errorf("packs %+v, errors %v", report.Plan.Packs, texts(report.Errors))
	}
}

// Who applies older files by force is recorded with it.
func TestForceIsRecorded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.edited()
	b.stop()
	b.write("one/actions/act.sh", "#!/bin/bash\necho one\n")
	b.start()
	for range 2 {
		_, err := b.ReloadForced(t.Context(), "alice", "one")
		b.do(err)
	}
	if diff := cmp.Diff([]string{"alice force pack one"}, b.audited()); diff != "" {
		t.Errorf("audit (-want +have):\n%s", diff)
	}
	if n := b.catalog().Packs["one"].Revision; n != 3 {
		t.Errorf("revision %d", n)
	}
}
