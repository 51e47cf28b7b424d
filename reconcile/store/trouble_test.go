package store_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// What the database refuses of one attempt holds up no other: it is recorded as far as it can be, and what
// cannot be recorded at all is told, and recorded once that has been mended.
func TestFinishWhatIsRefused(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	all := times(20, store.NewExecution{Action: "a.x"})
	all[7].Action = "a.poison"
	ids := enqueue(t, s, all...)
	// Real refusals: of what is said of one attempt, and of another whatever is said of it.
	storetest.Exec(t, url, `
		ALTER TABLE attune.execution
			ADD CONSTRAINT unlucky CHECK (exit_code IS DISTINCT FROM 77),
			ADD CONSTRAINT poison CHECK (action_ref <> 'a.poison' OR finished_at IS NULL)`)
	claimed := claim(t, s, "n", len(all))
	start(t, s, claimed...)
	outcomes := make([]store.Outcome, len(claimed))
	poison, unlucky := 0, 3
	for i, c := range claimed {
		outcomes[i] = store.Outcome{Token: c.Token, Status: store.StatusSucceeded, ExitCode: new(0), Stdout: store.Output{Text: "said", Bytes: 4}}
		if c.Action == "a.poison" {
			poison = i
		}
	}
	if poison == unlucky {
		unlucky++
	}
	outcomes[unlucky].Status, outcomes[unlucky].ExitCode = store.StatusFailed, new(77)
	outcomes = append(outcomes, store.Outcome{Token: "00000000-0000-0001-8000-000000000000", Status: store.StatusSucceeded}) // nobody's

	for range 2 { // the second time it is all there already
		accepted, err := s.Finish(t.Context(), outcomes)
		left, ok := errors.AsType[*store.LeftError](err)
		if !ok || len(left.Left) != 1 || left.Left[poison] == nil || errors.Is(left.Left[poison], store.ErrRowLocked) {
			t.Fatalf("found %v", err)
		}
		for i := range claimed {
			// Sent again, the unlucky one says something else than what is recorded.
			if i != poison && i != unlucky && !accepted[i] {
				t.Errorf("outcome %d does not count", i)
			}
		}
		if accepted[len(claimed)] {
			t.Error("what nobody holds counts")
		}
		for i, c := range claimed {
			e, _ := execution(t, s, c.ExecutionID)
			switch {
			case i == poison:
				if e.Status != store.StatusRunning {
					t.Errorf("what cannot be recorded is %s", e.Status)
				}
			case i == unlucky:
				if e.Status != store.StatusFailed || e.ExitCode != nil || !strings.Contains(*e.Error, `ended as failed, but the database refused`) || !strings.Contains(*e.Error, "unlucky") {
					t.Errorf("what was refused is %s: %v", e.Status, *e.Error)
				}
			case e.Status != store.StatusSucceeded || e.Stdout != "said":
				t.Errorf("a neighbour is %s and said %q", e.Status, e.Stdout)
			}
		}
	}
	storetest.Exec(t, url, "ALTER TABLE attune.execution DROP CONSTRAINT poison")
	if accepted := finish(t, s, outcomes[poison]); !accepted[0] {
		t.Error("it does not count after it was mended")
	}
	storetest.Settle(t, url)
	if n := one[int](t, s, "SELECT count(*) FROM attune.execution WHERE finished_at IS NOT NULL"); n != len(ids) {
		t.Errorf("%d have ended", n)
	}
}

// One attempt that cannot be ended does not keep those of a dead node from ending.
func TestReapWhatIsRefused(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	apply(t, s, change("a", action("a", "x"), action("a", "again", onLostRetry)))
	enqueue(t, s, store.NewExecution{Action: "a.x"}, store.NewExecution{Action: "a.poison"}, store.NewExecution{Action: "a.again"}, store.NewExecution{Action: "a.x"})
	claimed := claim(t, s, "n", 4)
	start(t, s, claimed...)
	storetest.Exec(t, url, "ALTER TABLE attune.execution ADD CONSTRAINT poison CHECK (action_ref <> 'a.poison' OR finished_at IS NULL)")
	lapse(t, s)
	requeued, lost, err := s.Reap(t.Context())
	if err != nil || len(requeued) != 1 || len(lost) != 3 {
		t.Errorf("requeued %v, lost %v: %v", requeued, lost, err)
	}
	if requeued, lost, err := s.Reap(t.Context()); err != nil || len(requeued)+len(lost) != 0 {
		t.Errorf("again: requeued %v, lost %v: %v", requeued, lost, err)
	}
	storetest.Exec(t, url, "ALTER TABLE attune.execution DROP CONSTRAINT poison")
	if _, lost, err := s.Reap(t.Context()); err != nil || len(lost) != 1 {
		t.Errorf("mended: lost %v: %v", lost, err)
	}
}

// hold locks the row of an attempt, as an operator does who looks at it in a transaction of psql and forgets it.
func hold(t *testing.T, url, token string) (release func()) {
	t.Helper()
	tx, err := storetest.Connect(t, url).BeginTx(t.Context(), pgx.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT * FROM attune.queue WHERE token = $1 FOR UPDATE", token); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// Who has locked leases is named, long before they are given up for it: nobody but a person can end that.
func TestLeaseLockedByAnother(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	for _, node := range []string{"one", "two", "three", "other"} {
		if _, err := s.HoldLeases(t.Context(), node, []string{"of " + node}); err != nil {
			t.Fatal(err)
		}
	}
	blocker := storetest.Connect(t, url)
	if _, err := blocker.Exec(t.Context(), "BEGIN; SELECT FROM attune.lease WHERE node <> 'other' FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("session %d of ", blocker.PgConn().PID())
	// Who waits for the same is not to be blamed.
	var all sync.WaitGroup
	waiter, ctx := storetest.Connect(t, url), t.Context()
	waiting := make(chan struct{})
	go func() {
		defer close(waiting)
		_, _ = waiter.Exec(ctx, "UPDATE attune.lease SET lease_until = now() WHERE node = 'one'")
	}()
	waitFor(t, func() bool {
		return one[int](t, s, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == 1
	})
	for doing, do := range map[string]func() error{
		"hold":    func() error { _, err := s.HoldLeases(t.Context(), "one", []string{"of one"}); return err },
		"release": func() error { return s.ReleaseLeases(t.Context(), "two", []string{"of two"}) },
		"resign":  func() error { return s.ResignLeases(t.Context(), "three") },
	} {
		all.Go(func() {
			switch err := do(); {
			case err == nil || !store.IsTransient(err):
				t.Errorf("%s: found %v", doing, err)
			case !strings.Contains(err.Error(), want) || strings.Count(err.Error(), "session ") != 1 || !strings.Contains(err.Error(), "lock timeout"):
				t.Errorf("%s: it is not told who holds the leases, and nobody else: %v", doing, err)
			}
		})
	}
	all.Wait()
	if _, err := blocker.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	<-waiting
	for _, node := range []string{"one", "two", "three"} {
		if err := s.ResignLeases(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	if left := one[string](t, s, "SELECT string_agg(name, ', ') FROM attune.lease"); left != "of other" {
		t.Errorf("held are %s", left)
	}
}

// Rows of leases that another session has locked hold up those leases alone: the others are renewed, taken and given
// back, and it is told which were not.
func TestSomeLeasesLockedByAnother(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	all := []string{"a", "b", "c", "d"}
	for node, names := range map[string][]string{"n": all[:3], "dead": all[3:], "leaving": {"e", "f"}, "resigning": {"g", "h"}} {
		if _, err := s.HoldLeases(t.Context(), node, names); err != nil {
			t.Fatal(err)
		}
	}
	sql(t, s, "UPDATE attune.lease SET lease_until = now() + INTERVAL '5 seconds'")
	sql(t, s, "UPDATE attune.lease SET lease_until = now() - INTERVAL '5 seconds' WHERE node = 'dead'")
	blocker := storetest.Connect(t, url)
	if _, err := blocker.Exec(t.Context(), "BEGIN; SELECT FROM attune.lease WHERE name IN ('a', 'd', 'e', 'g') FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	locked := func(err error, want ...string) {
		t.Helper()
		some, ok := errors.AsType[*store.LeasesLockedError](err)
		if !ok || !slices.Equal(some.Names, want) || !store.IsTransient(err) || !strings.Contains(err.Error(), "session ") {
			t.Errorf("expected %v to be locked and the session named, found %v", want, err)
		}
	}
	var together sync.WaitGroup
	together.Go(func() {
		tokens, err := s.HoldLeases(t.Context(), "n", append(all, "new"))
		locked(err, "a", "d")
		if got := slices.Sorted(maps.Keys(tokens)); !slices.Equal(got, []string{"b", "c", "new"}) {
			t.Errorf("held are %v", got)
		}
	})
	together.Go(func() { locked(s.ReleaseLeases(t.Context(), "leaving", []string{"e", "f"}), "e") })
	together.Go(func() { locked(s.ResignLeases(t.Context(), "resigning"), "g") })
	together.Wait()
	left := func(want string) {
		t.Helper()
		if got := one[string](t, s, "SELECT string_agg(name, ' ' ORDER BY name) FROM attune.lease WHERE lease_until > now() + INTERVAL '20 seconds'"); got != want {
			t.Errorf("renewed are %s, expected %s", got, want)
		}
	}
	left("b c new")
	if got := one[string](t, s, "SELECT string_agg(name, ' ' ORDER BY name) FROM attune.lease"); got != "a b c d e g new" {
		t.Errorf("left are %s", got)
	}
	if _, err := blocker.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if tokens, err := s.HoldLeases(t.Context(), "n", all); err != nil || len(tokens) != 4 {
		t.Errorf("afterwards held are %v: %v", tokens, err)
	}
	left("a b c d new")
}

// A row that is locked only as long as a commit takes is waited for, also beside one that stays locked.
func TestLeaseLockedForAMoment(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	if _, err := s.HoldLeases(t.Context(), "n", []string{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	forever, moment := storetest.Connect(t, url), storetest.Connect(t, url)
	for name, session := range map[string]*pgx.Conn{"a": forever, "b": moment} {
		if _, err := session.Exec(t.Context(), "BEGIN; SELECT FROM attune.lease WHERE name = '"+name+"' FOR SHARE"); err != nil {
			t.Fatal(err)
		}
	}
	type answer struct {
		tokens map[string]string
		err    error
	}
	answered, ctx := make(chan answer, 1), t.Context()
	go func() {
		tokens, err := s.HoldLeases(ctx, "n", []string{"a", "b"})
		answered <- answer{tokens, err}
	}()
	waitFor(t, func() bool {
		return one[int](t, s, "SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid = (SELECT transactionid FROM pg_locks WHERE pid = $1 AND locktype = 'transactionid')", moment.PgConn().PID()) == 1
	})
	if _, err := moment.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	got := <-answered
	some, ok := errors.AsType[*store.LeasesLockedError](got.err)
	if !ok || !slices.Equal(some.Names, []string{"a"}) || got.tokens["b"] == "" {
		t.Errorf("held are %v: %v", got.tokens, got.err)
	}
}

// A row that another session has locked holds up that attempt alone.
func TestRowLockedByAnother(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	enqueue(t, s, times(4, store.NewExecution{Action: "a.x"})...)
	claimed := claim(t, s, "n", 4)
	if err := s.PutNode(t.Context(), store.Node{ID: "n", Host: "h"}); err != nil {
		t.Fatal(err)
	}
	locked := claimed[1].Token
	release := hold(t, url, locked)

	held, err := s.Start(t.Context(), tokens(claimed))
	waits, ok := errors.AsType[*store.LockedError](err)
	if !ok || !slices.Equal(waits.Tokens, []string{locked}) || len(held) != 3 || held[locked] {
		t.Errorf("started %v: %v", held, err)
	}
	sql(t, s, "UPDATE attune.queue SET lease_until = now() + INTERVAL '5 seconds' WHERE token <> $1", locked)
	renewal, err := s.Renew(t.Context(), "n")
	if err != nil {
		t.Fatal(err)
	}
	if len(renewal.Held) != 4 || !slices.Equal(renewal.Locked, []string{locked}) {
		t.Errorf("renewed %+v", renewal)
	}
	if n := one[int](t, s, "SELECT count(*) FROM attune.queue WHERE lease_until > now() + INTERVAL '20 seconds' AND token <> $1", locked); n != 3 {
		t.Errorf("%d of the other leases were renewed", n)
	}
	outcomes := make([]store.Outcome, 4)
	for i, c := range claimed {
		outcomes[i] = store.Outcome{Token: c.Token, Status: store.StatusSucceeded}
	}
	accepted, err := s.Finish(t.Context(), outcomes)
	left, ok := errors.AsType[*store.LeftError](err)
	if !ok || len(left.Left) != 1 || !errors.Is(left.Left[1], store.ErrRowLocked) || !accepted[0] || !accepted[2] || !accepted[3] {
		t.Errorf("finished %v: %v", accepted, err)
	}
	release()
	if held := start(t, s, claimed[1]); !held[locked] {
		t.Error("it cannot be started afterwards")
	}
	if accepted := finish(t, s, outcomes...); slices.Contains(accepted, false) {
		t.Errorf("afterwards, finished %v", accepted)
	}
	storetest.Settle(t, url)
}

// putForward is what a step of the database's clock makes of all that is kept by it.
func putForward(t *testing.T, s *store.Store, step string) {
	t.Helper()
	sql(t, s, "UPDATE attune.queue SET lease_until = lease_until - $1::interval WHERE token IS NOT NULL", step)
	sql(t, s, "UPDATE attune.lease SET lease_until = lease_until - $1::interval", step)
	sql(t, s, "UPDATE attune.node SET seen_at = seen_at - $1::interval", step)
}

// The database's clock is put forward by an hour, or back. Who lives keeps what it holds; who is dead
// loses it, when nobody has seen it for as long as a lease lasts.
func TestTheClockJumps(t *testing.T) {
	t.Parallel()
	for name, jump := range map[string]string{"forward": "1 hour", "back": "-1 hour"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := storetest.NewURL(t)
			later := time.Duration(0)
			s, other := storetest.Open(t, url), storetest.Open(t, url, func(o *store.Options) {
				o.Now = func() time.Time { return time.Now().Add(later) }
			})
			names := []string{store.LeaseLeader, store.LeaseSensor + "a.s"}
			view := func() *store.Leases {
				t.Helper()
				leases, err := other.Leases(t.Context(), "other")
				if err != nil {
					t.Fatal(err)
				}
				return leases
			}
			reap := func() int {
				t.Helper()
				_, lost, err := other.Reap(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return len(lost)
			}
			for _, node := range []string{"n", "other"} {
				if err := s.PutNode(t.Context(), store.Node{ID: node, Host: "h"}); err != nil {
					t.Fatal(err)
				}
			}
			enqueue(t, s, times(2, store.NewExecution{Action: "a.x"})...)
			start(t, s, claim(t, s, "n", 2)...)
			if tokens, err := s.HoldLeases(t.Context(), "n", names); err != nil || len(tokens) != 2 {
				t.Fatalf("holds %v: %v", tokens, err)
			}
			view()
			reap()

			putForward(t, s, jump)
			if n := reap(); n != 0 {
				t.Errorf("%d attempts were lost", n)
			}
			if leases := view(); leases.Holder[names[0]] != "n" || leases.Holder[names[1]] != "n" {
				t.Errorf("held by %v", leases.Holder)
			}
			if tokens, err := other.HoldLeases(t.Context(), "other", names); err != nil || len(tokens) != 0 {
				t.Errorf("another took %v: %v", tokens, err)
			}
			renewal, err := s.Renew(t.Context(), "n")
			if err != nil || len(renewal.Held) != 2 {
				t.Errorf("renewed %+v: %v", renewal, err)
			}
			if tokens, err := s.HoldLeases(t.Context(), "n", names); err != nil || len(tokens) != 2 {
				t.Errorf("who held it holds %v: %v", tokens, err)
			}

			// Put forward again, and now it dies.
			view()
			reap()
			putForward(t, s, jump)
			later += store.LeaseDuration - time.Second
			view()
			if n := reap(); n != 0 {
				t.Errorf("%d attempts were lost before anybody could know", n)
			}
			later += store.LeaseDuration
			if n := reap(); n != 2 {
				t.Errorf("%d attempts of a dead node were lost", n)
			}
			if jump[0] == '-' {
				return // leases are taken when they have lapsed by the database's clock, too
			}
			if leases := view(); len(leases.Holder) != 0 {
				t.Errorf("held by %v", leases.Holder)
			}
			if tokens, err := other.HoldLeases(t.Context(), "other", names); err != nil || len(tokens) != 2 {
				t.Errorf("another took %v: %v", tokens, err)
			}
		})
	}
}

// One execution that the database does not let end keeps no other from being cancelled, from expiring, or from its
// place in line, whatever is done with many at once.
func TestEndsThatAreRefused(t *testing.T) {
	t.Parallel()
	poison := func(t *testing.T, url string, id int64) {
		t.Helper()
		storetest.Exec(t, url, "ALTER TABLE attune.execution ADD CONSTRAINT poison CHECK (id <> "+strconv.FormatInt(id, 10)+")")
	}
	left := func(t *testing.T, s *store.Store, want ...int64) {
		t.Helper()
		got := one[[]int64](t, s, "SELECT COALESCE(array_agg(execution_id ORDER BY execution_id), '{}') FROM attune.queue WHERE status <> 'requested'")
		if !slices.Equal(got, want) {
			t.Errorf("left are %v, expected %v", got, want)
		}
	}
	t.Run("cancel", func(t *testing.T) {
		t.Parallel()
		url := storetest.NewURL(t)
		s := storetest.Open(t, url)
		all := enqueue(t, s, times(7, store.NewExecution{Action: "a.x", DueAt: new(time.Now().Add(time.Hour))})...)
		poison(t, url, all[3])
		found, err := s.CancelAll(t.Context(), all, "ada")
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("execution %d", all[3])) || len(found) != 6 {
			t.Errorf("found %v: %v", found, err)
		}
		left(t, s, all[3])
		if n := one[int](t, s, "SELECT count(*) FROM attune.audit WHERE action = 'cancel execution'"); n != 6 {
			t.Errorf("%d are audited", n)
		}
	})
	t.Run("expire", func(t *testing.T) {
		t.Parallel()
		url := storetest.NewURL(t)
		s := storetest.Open(t, url)
		apply(t, s, change("a", action("a", "x", func(a *manifest.Action) { a.Expires = manifest.Duration(time.Hour) })))
		all := enqueue(t, s, times(7, store.NewExecution{Action: "a.x"})...)
		sql(t, s, "UPDATE attune.queue SET status = 'scheduled', due_at = now() - INTERVAL '2 hours'")
		poison(t, url, all[3])
		reap(t, s)
		left(t, s, all[3])
	})
	t.Run("admit", func(t *testing.T) {
		t.Parallel()
		url := storetest.NewURL(t)
		registry := prometheus.NewRegistry()
		s := counted(t, url, func(o *store.Options) { o.Registerer = registry })
		apply(t, s, change("a", action("a", "x", limited(1, "skip"))))
		first := enqueue(t, s, keyed("k"), keyed("l"))
		claimed := wantClaimed(t, s, first...)
		next := one[int64](t, s, "SELECT last_value FROM attune.execution_id") + 1
		poison(t, url, next)
		// The first cannot be skipped, those of other keys are.
		enqueue(t, s, keyed("k"), keyed("l"))
		left(t, s, first[0], first[1], next)
		other := enqueue(t, s, keyed("m"))
		// It does not keep the place of its key from being given, to itself.
		start(t, s, claimed...)
		finish(t, s, store.Outcome{Token: claimed[0].Token, Status: store.StatusSucceeded})
		wantClaimed(t, s, next, other[0])
		for range 2 {
			reap(t, s)
		}
		want := "# HELP attune_attempts_stuck_total Executions that the database does not let end: lost with their node, expired, skipped or replaced.\n# TYPE attune_attempts_stuck_total counter\nattune_attempts_stuck_total 1\n"
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "attune_attempts_stuck_total"); err != nil {
			t.Error(err)
		}
	})
}
