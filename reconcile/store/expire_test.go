package store_test

import (
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// expires gives an action an hour to begin in.
func expires(a *manifest.Action) { a.Expires = manifest.Duration(time.Hour) }

// What was put off expires by when it was due before, and comes back to its place in the order.
func TestPutOffExpiresByWhenItWasDue(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "brief", expires)))
	due := time.Now().Add(-30 * time.Minute).Truncate(time.Millisecond)
	ids := enqueue(t, s, store.NewExecution{Action: "a.brief", DueAt: &due})
	first := claim(t, s, "n", 1)[0]
	for range 2 { // the second time, when it has been looked at again
		if err := s.PutOff(t.Context(), first.Token, "waits for the moon", time.Hour); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Hurry(t.Context(), "a"); err != nil || n != 1 {
			t.Fatalf("hurried %d: %v", n, err)
		}
		if got := one[time.Time](t, s, "SELECT due_at FROM attune.queue"); !got.Equal(due) {
			t.Errorf("it is due at %v, was at %v", got, due)
		}
		if first = claim(t, s, "n", 1)[0]; first.ExecutionID != ids[0] || first.Expired {
			t.Fatalf("claimed %d, expired: %v", first.ExecutionID, first.Expired)
		}
	}
	// An hour passes while it is put off.
	if err := s.PutOff(t.Context(), first.Token, "waits for the moon", 0); err != nil {
		t.Fatal(err)
	}
	sql(t, s, "UPDATE attune.queue SET put_off_from = put_off_from - INTERVAL '1 hour' WHERE execution_id = $1", ids[0])
	ids = append(ids, enqueue(t, s, store.NewExecution{Action: "a.brief", DueAt: &due})...)
	claimed := claim(t, s, "n", 2)
	for _, c := range claimed {
		if want := c.ExecutionID == ids[0]; c.Expired != want {
			t.Errorf("%d expired: %v", c.ExecutionID, c.Expired)
		}
	}
	if len(claimed) != 2 {
		t.Errorf("claimed %d", len(claimed))
	}
}

// What has expired while nobody claimed ends, and only that.
func TestReapEndsTheExpired(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "brief", expires), action("a", "patient")))
	late := new(time.Now().Add(-2 * time.Hour))
	ids := enqueue(t, s,
		store.NewExecution{Action: "a.brief", DueAt: late},
		store.NewExecution{Action: "a.brief"},
		store.NewExecution{Action: "a.brief", DueAt: new(time.Now().Add(time.Hour))},
		store.NewExecution{Action: "a.patient", DueAt: late},
		store.NewExecution{Action: "a.brief", DueAt: late}, // began once
		store.NewExecution{Action: "a.brief", DueAt: late}, // is held
	)
	sql(t, s, "UPDATE attune.queue SET attempt = 1 WHERE execution_id = $1", ids[4])
	sql(t, s, "UPDATE attune.queue SET status = 'running', token = gen_random_uuid(), node = 'n', attempt = 1, claimed_at = now(), lease_until = now() + INTERVAL '50 seconds' WHERE execution_id = $1", ids[5])
	if _, _, err := s.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, want := range []store.Status{
		store.StatusCancelled, store.StatusRequested, store.StatusScheduled, store.StatusRequested, store.StatusRequested, store.StatusRunning,
	} {
		e, _ := execution(t, s, ids[i])
		if e.Status != want {
			t.Errorf("%d: %s, want %s", i, e.Status, want)
		}
		if want == store.StatusCancelled && (e.Error == nil || *e.Error != "expired: it did not start within 1h0m0s of when it was due" || e.FinishedAt == nil) {
			t.Errorf("%d: %v at %v", i, e.Error, e.FinishedAt)
		}
	}
}
