package store_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// lead takes the lead for a node, and gives the token; empty: another has it.
func lead(t testing.TB, s *store.Store, node string) string {
	t.Helper()
	tokens, err := s.HoldLeases(t.Context(), node, []string{store.LeaseLeader})
	if err != nil {
		t.Fatal(err)
	}
	return tokens[store.LeaseLeader]
}

// meanwhile does something in the middle of an apply of the pack.
func meanwhile(pack string, do func()) store.PackChange {
	c := change(pack, action(pack, "echo"))
	content := c.Revision.Content
	c.Revision.Content = func(digest string) ([]byte, error) {
		do()
		return content(digest)
	}
	return c
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	const patience, between = 60 * time.Second, 5 * time.Millisecond
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-time.After(between):
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// However long an apply takes, what the node holds is renewed meanwhile.
func TestLeasesAreRenewedDuringAnApply(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	token := lead(t, s, "a")
	renewed := false
	_, err := s.ApplyAs(t.Context(), token, []store.PackChange{meanwhile("core", func() {
		tokens, err := s.HoldLeases(t.Context(), "a", []string{store.LeaseLeader, store.LeaseSensor + "core.s"})
		if err != nil || tokens[store.LeaseLeader] != token || len(tokens) != 2 {
			t.Errorf("renewed %v: %v", tokens, err)
		}
		renewed = true
	})})
	if err != nil || !renewed {
		t.Errorf("renewed: %v; %v", renewed, err)
	}
}

// A lead that is lost in the middle of an apply takes it along, whoever has it now; that nobody has it
// yet is enough.
func TestApplyOfWhoLeadsNoMore(t *testing.T) {
	t.Parallel()
	for name, taken := range map[string]bool{"lapsed": false, "taken": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := storetest.NewURL(t)
			s := storetest.Open(t, url)
			token := lead(t, s, "a")
			_, err := s.ApplyAs(t.Context(), token, []store.PackChange{meanwhile("core", func() {
				storetest.Exec(t, url, "UPDATE attune.lease SET lease_until = clock_timestamp()")
				if taken && lead(t, s, "b") == "" {
					t.Error("b does not lead")
				}
			})})
			if !errors.Is(err, store.ErrNotHeld) {
				t.Errorf("found %v", err)
			}
			if c := catalog(t, s, nil); len(c.Packs) != 0 {
				t.Errorf("who leads no more has applied %+v", c.Packs["core"])
			}
		})
	}
}

// Who takes the lead gets it when what was done under it before is there to be seen.
func TestTheLeadWaitsForAnApply(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	token := lead(t, s, "a")
	// A trigger is what lets the test in between the check and the end of the commit.
	storetest.Exec(t, url, `
		CREATE FUNCTION attune.linger() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_advisory_xact_lock(1);
			RETURN NULL;
		END $$`)
	storetest.Exec(t, url, `
		CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON attune.pack
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION attune.linger()`)
	gate := storetest.Connect(t, url)
	if _, err := gate.Exec(t.Context(), "SELECT pg_advisory_lock(1)"); err != nil {
		t.Fatal(err)
	}
	applied := make(chan error, 1)
	go func() {
		_, err := s.ApplyAs(t.Context(), token, []store.PackChange{change("core", action("core", "echo"))})
		applied <- err
	}()
	waits := func(n int) func() bool {
		return func() bool {
			return one[int](t, s, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()") == n
		}
	}
	eventually(t, "the apply is committing", waits(1))
	took, taker := make(chan error, 1), storetest.Connect(t, url)
	go func() {
		_, err := taker.Exec(t.Context(), `
			UPDATE attune.lease SET node = 'b', token = gen_random_uuid() WHERE name = 'leader'`)
		took <- err
	}()
	eventually(t, "who takes the lead waits", waits(2))
	if _, err := gate.Exec(t.Context(), "SELECT pg_advisory_unlock(1)"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(<-applied, <-took); err != nil {
		t.Fatal(err)
	}
	if c := catalog(t, s, nil); c.Packs["core"] == nil {
		t.Error("what was applied under the lead is not there")
	}
}

// What was made from rows that are others now is not done, nor is anything else of its transaction.
func TestApplyOfWhatMovedMeanwhile(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "echo")), change("b", action("b", "echo")))
	made := catalog(t, s, nil)
	edit := func(ref string) store.PackChange {
		c := change(ref, action(ref, "echo"), action(ref, "more"))
		c.Base = store.NoBase
		if row := made.Packs[ref]; row != nil {
			c.Base = row.Generation
		}
		return c
	}
	for name, moved := range map[string]func(){
		"pinned": func() { apply(t, s, store.PackChange{Ref: "a", Directory: "/packs", Pin: &store.Pin{By: "alice"}}) },
		"switched": func() {
			if _, _, err := s.Switch(t.Context(), store.Switch{Kind: manifest.KindPack, Refs: []string{"a"}, By: "bob"}); err != nil {
				t.Error(err)
			}
		},
		"put": func() { apply(t, s, change("c")) },
	} {
		moved()
		want := []string{"a"}
		if name == "put" {
			want = []string{"c"}
		}
		_, err := s.Apply(t.Context(), []store.PackChange{edit("b"), edit(want[0])})
		found, ok := errors.AsType[*store.MovedError](err)
		if !ok || !slices.Equal(found.Packs, want) {
			t.Errorf("%s: %v", name, err)
		}
		if c := catalog(t, s, nil); c.Actions["b.more"] != nil {
			t.Errorf("%s: half of the transaction is there", name)
		}
		made = catalog(t, s, nil)
	}
	if _, err := s.Apply(t.Context(), []store.PackChange{edit("a"), edit("b"), edit("d")}); err != nil {
		t.Error(err)
	}
}

// Who wanted a change is recorded with it, or not at all.
func TestApplyRecordsWhoWantedIt(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	token := lead(t, s, "a")
	wanted := change("core", action("core", "echo"))
	wanted.Audit = &store.NewAudit{Actor: "alice", Action: "force pack", Object: "core", Detail: []byte(`{"revision": 1}`)}
	if _, err := s.ApplyAs(t.Context(), "00000000-0000-0000-0000-000000000000", []store.PackChange{wanted}); !errors.Is(err, store.ErrNotHeld) {
		t.Fatal(err)
	}
	if _, err := s.ApplyAs(t.Context(), token, []store.PackChange{wanted}); err != nil {
		t.Fatal(err)
	}
	entries, err := s.ListAudit(t.Context(), store.AuditFilter{})
	if err != nil || len(entries) != 1 {
		t.Fatalf("%+v: %v", entries, err)
	}
	if diff := cmp.Diff([]string{"alice", "force pack", "core", `{"revision": 1}`},
		[]string{entries[0].Actor, entries[0].Action, entries[0].Object, string(entries[0].Detail)}); diff != "" {
		t.Errorf("(-want +have):\n%s", diff)
	}
}

// An errand is done once, and not after it was taken back.
func TestErrand(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("core", action("core", "echo")))
	ask := func(patience time.Duration) int64 {
		t.Helper()
		id, err := s.AddErrand(t.Context(), store.Errand{
			Node: "b", Verb: store.ErrandRollback, Pack: "core", Revision: 3, Actor: "alice", Reason: "why\x00",
		}, patience)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	do := func(id int64) error {
		_, err := s.Apply(t.Context(), []store.PackChange{{Ref: "core", Directory: "/packs", Pin: &store.Pin{By: "alice"}, Errand: id}})
		return err
	}
	first := ask(time.Hour)
	open, err := s.OpenErrands(t.Context())
	want := []store.Errand{{ID: first, Node: "b", Verb: store.ErrandRollback, Pack: "core", Revision: 3, Actor: "alice", Reason: "why\uFFFD"}}
	if diff := cmp.Diff(want, open); diff != "" || err != nil {
		t.Errorf("open (-want +have):\n%s%v", diff, err)
	}
	if answer, done, err := s.ErrandAnswer(t.Context(), first); answer != nil || done || err != nil {
		t.Errorf("answered before it was done: %s %v %v", answer, done, err)
	}
	if err := do(first); err != nil {
		t.Fatal(err)
	}
	if err := do(first); !errors.Is(err, store.ErrErrandGone) {
		t.Errorf("done twice: %v", err)
	}
	if withdrawn, err := s.WithdrawErrand(t.Context(), first); withdrawn || err != nil {
		t.Errorf("withdrawn after it was done: %v", err)
	}
	if err := s.AnswerErrand(t.Context(), first, []byte(`{"a": 1}`)); err != nil {
		t.Fatal(err)
	}
	if answer, done, err := s.ErrandAnswer(t.Context(), first); string(answer) != `{"a": 1}` || !done || err != nil {
		t.Errorf("answer %s %v %v", answer, done, err)
	}
	if _, err := s.WithdrawErrand(t.Context(), first); err != nil {
		t.Error(err)
	}
	second := ask(time.Hour)
	if withdrawn, err := s.WithdrawErrand(t.Context(), second); !withdrawn || err != nil {
		t.Errorf("not withdrawn: %v", err)
	}
	for _, id := range []int64{second, ask(0)} {
		if err := do(id); !errors.Is(err, store.ErrErrandGone) {
			t.Errorf("done although nobody waits: %v", err)
		}
	}
	if open, err := s.OpenErrands(t.Context()); len(open) != 0 || err != nil {
		t.Errorf("open: %+v %v", open, err)
	}
}
