package rule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// lockable is a rig where another session may lock the lease "locked".
type lockable struct {
	*rig
	locked atomic.Bool
}

func newLockable(t *testing.T) *lockable {
	l := &lockable{}
	hit := func(e store.NewEvent) bool { return l.locked.Load() && e.Lease == "locked" }
	l.rig = newRig(t, catalogOf(t, 1, pack), &database{fail: func(_ int, events []store.NewEvent) (int, error) {
		if slices.ContainsFunc(events, hit) {
			return 0, errPassing
		}
		return 0, nil
	}})
	l.isTimeout = l.isTransient
	l.lockedLeases = func(_ context.Context, events []store.NewEvent) ([]string, error) {
		if slices.ContainsFunc(events, hit) {
			return []string{"locked"}, nil
		}
		return nil, nil
	}
	return l
}

// hand hands over an event of a sensor under a lease, and tells whether it was taken.
func (l *lockable) hand(t *testing.T, f *fates, n int, sensor, lease string) (taken *atomic.Bool) {
	e := numbered(n)
	e.Source, e.Lease = sensor, lease
	taken, ctx := &atomic.Bool{}, t.Context()
	go func() {
		taken.Store(l.SubmitAsync(ctx, e, f.of(n)) == nil)
	}()
	synctest.Wait()
	return taken
}

// Events of a sensor whose lease is locked wait, in their order, and the sensor with those that follow; events of
// all others do not.
func TestALockedLeaseHoldsUpItsSensorAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, f := newLockable(t), &fates{}
		hold := make(chan struct{})
		l.database.hold = hold
		l.locked.Store(true)
		l.hand(t, f, 0, "p.free", "free") // a group of its own, which is held
		for n := 1; n <= 6; n++ {
			sensor, lease := "p.free", "free"
			if n%2 == 0 {
				sensor, lease = "p.locked", "locked"
			}
			if !l.hand(t, f, n, sensor, lease).Load() {
				t.Fatalf("event %d is not taken", n)
			}
		}
		close(hold)
		synctest.Wait()
		if diff := cmp.Diff([]string{"0", "1", "3", "5"}, f.order); diff != "" {
			t.Error(diff)
		}
		late := []*atomic.Bool{l.hand(t, f, 7, "p.locked", "locked"), l.hand(t, f, 8, "p.free", "free"), l.hand(t, f, 9, "p.locked", "")}
		if late[0].Load() || !late[1].Load() || !late[2].Load() {
			t.Error("of the sensor more is taken, or less of others and of people")
		}
		sleep(time.Hour)
		synctest.Wait()
		if diff := cmp.Diff([]string{"0", "1", "3", "5", "8", "9"}, f.order); diff != "" {
			t.Error(diff)
		}
		l.locked.Store(false)
		sleep(asideEvery)
		synctest.Wait()
		if diff := cmp.Diff([]string{"0", "1", "3", "5", "8", "9", "2", "4", "6", "7"}, f.order); diff != "" || len(f.errors) > 0 {
			t.Fatal(diff, f.errors)
		}
		// It is as before, and may come again.
		l.locked.Store(true)
		l.hand(t, f, 10, "p.locked", "locked")
		l.hand(t, f, 11, "p.free", "free")
		l.locked.Store(false)
		sleep(asideEvery)
		synctest.Wait()
		if diff := cmp.Diff([]string{"11", "10"}, f.order[10:]); diff != "" || len(f.errors) > 0 {
			t.Error(diff, f.errors)
		}
	})
}

// At the end what is set aside is waited for as long as all else, and who waits for the queue is told.
func TestTheEndOfWhatIsSetAside(t *testing.T) {
	t.Parallel()
	for name, locked := range map[string]bool{"stays locked": true, "is free again": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l, f := newLockable(t), &fates{}
				l.locked.Store(true)
				l.hand(t, f, 0, "p.locked", "locked")
				e := numbered(1)
				e.Source, e.Lease = "p.locked", "locked"
				waits := make(chan error, 1)
				go func() { waits <- l.SubmitAsync(context.WithoutCancel(t.Context()), e, f.of(1)) }()
				synctest.Wait()
				l.end()
				synctest.Wait()
				select {
				case <-l.ended:
					t.Error("it does not wait")
				default:
				}
				if err := <-waits; !errors.Is(err, ErrClosed) {
					t.Errorf("who waits is told %v", err)
				}
				l.locked.Store(locked)
				begun := time.Now()
				<-l.ended
				if took := time.Since(begun); took > drainTime || locked != (took == drainTime) {
					t.Errorf("the end took %v", took)
				}
				if diff := cmp.Diff([]string{"0"}, f.order); diff != "" || locked != errors.Is(f.errors["0"], ErrClosed) {
					t.Error(diff, f.errors)
				}
			})
		})
	}
}

// The same with a real lock of a session that was forgotten.
func TestALeaseLockedInTheDatabase(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.apply(t, pack)
	// So that a commit waits no 9 s for the lock.
	separator := "?"
	if strings.Contains(h.url, "?") {
		separator = "&"
	}
	h.Store = storetest.Open(t, h.url+separator+"lock_timeout=100ms")
	tokens, err := h.HoldLeases(t.Context(), "n", []string{store.LeaseSensor + "p.free", store.LeaseSensor + "p.locked"})
	if err != nil {
		t.Fatal(err)
	}
	forgotten := storetest.Connect(t, h.url)
	if _, err := forgotten.Exec(t.Context(), "BEGIN; SELECT FROM attune.lease WHERE name = 'sensor:p.locked' FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	i := h.intake(t)
	stored := make(chan string, 100)
	hand := func(n int, sensor string) {
		t.Helper()
		e := store.NewEvent{Trigger: "p.t", Source: sensor, Lease: tokens[store.LeaseSensor+sensor], Payload: fmt.Appendf(nil, `{"n": %d}`, n)}
		err := i.SubmitAsync(t.Context(), e, func(_ store.StoredEvent, err error) { stored <- fmt.Sprint(sensor, " ", n, " ", err) })
		if err != nil {
			t.Fatal(err)
		}
	}
	hand(0, "p.locked")
	hand(1, "p.free")
	hand(2, "p.free")
	next := func(want ...string) {
		t.Helper()
		for _, want := range want {
			if got := <-stored; got != want {
				t.Errorf("stored is %s, expected %s", got, want)
			}
		}
	}
	next("p.free 1 <nil>", "p.free 2 <nil>")
	hand(3, "p.free")
	next("p.free 3 <nil>")
	if _, err := forgotten.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	next("p.locked 0 <nil>")
	hand(4, "p.locked")
	next("p.locked 4 <nil>")
}

// What waits in the queue when the lock is seen is set aside before it is begun.
func TestNoGroupIsBegunWithALockedLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr, f := newTransactions(t), &fates{}
		tr.isTimeout = tr.isTransient
		tr.numbers = make(chan struct{})
		var locked atomic.Bool
		locked.Store(true)
		tr.lockedLeases = func(_ context.Context, events []store.NewEvent) ([]string, error) {
			if locked.Load() && slices.ContainsFunc(events, func(e store.NewEvent) bool { return e.Lease == "locked" }) {
				return []string{"locked"}, nil
			}
			return nil, nil
		}
		hand := func(n int, sensor, lease string) {
			t.Helper()
			e := numbered(n)
			e.Source, e.Lease = sensor, lease
			e.Cursor = make([]byte, someCost) // so that it is worth a group of its own
			if err := tr.SubmitAsync(t.Context(), e, f.of(n)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		hand(0, "p.locked", "locked")
		tr.numbers <- struct{}{}
		hand(1, "p.free", "free")
		hand(2, "p.locked", "locked")
		hand(3, "p.free", "free")
		tr.commits <- errPassing
		tr.numbers <- struct{}{} // of 1
		tr.numbers <- struct{}{} // of 3
		tr.commits <- nil
		synctest.Wait()
		want := []string{"begin 0", "ahead 1", "commit the server is starting 0", "rollback 1", "begin 3", "commit <nil> 3"}
		if diff := cmp.Diff(want, tr.notes); diff != "" {
			t.Error(diff)
		}
		hand(4, "p.free", "free")
		tr.numbers <- struct{}{}
		locked.Store(false)
		sleep(asideEvery)
		synctest.Wait()
		if diff := cmp.Diff([]string{"1", "3"}, f.order); diff != "" {
			t.Errorf("beside a group that is under way: %s", diff)
		}
		tr.commits <- nil
		synctest.Wait()
		if diff := cmp.Diff([]string{"1", "3", "4", "0", "2"}, f.order); diff != "" || len(f.errors) > 0 {
			t.Error(diff, f.errors)
		}
	})
}
