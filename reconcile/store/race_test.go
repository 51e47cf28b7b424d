package store_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// racer is a node that does everything at once with everybody else: it claims, starts, finishes twice
// and late, releases, puts off and forgets, and so do its likes, while leases lapse, nodes die and people cancel.
type racer struct {
	t      *testing.T
	s      *store.Store
	node   string
	random *rand.Rand
	left   *atomic.Int64
	// ran are the tokens whose holders were told that they may run.
	ran *sync.Map
	// stalled are outcomes of attempts that this node could not tell in time.
	stalled []store.Outcome
}

func (r *racer) run(ctx context.Context) {
	for r.left.Load() > 0 {
		claimed, err := r.s.Claim(ctx, r.node, 1+r.random.IntN(4))
		if err != nil {
			r.t.Error(err)
			return
		}
		for _, c := range claimed {
			r.live(ctx, c)
		}
		if n := len(r.stalled); n > 0 && (n > 5 || r.random.IntN(8) == 0) {
			i := r.random.IntN(n)
			r.tell(ctx, r.stalled[i])
			r.stalled = append(r.stalled[:i], r.stalled[i+1:]...)
		}
		if len(claimed) == 0 || r.random.IntN(10) == 0 {
			r.mend(ctx)
		}
	}
}

// live is one attempt, which may go any way.
func (r *racer) live(ctx context.Context, c store.Claimed) {
	switch r.random.IntN(10) {
	case 0:
		r.check(r.s.Release(ctx, []string{c.Token}))
		return
	case 1:
		r.check(r.s.PutOff(ctx, c.Token, "waits for the moon", 0))
		return
	case 2: // the answer to its claim was lost
		return
	}
	held, err := r.s.Start(ctx, []string{c.Token})
	r.check(err)
	if !held[c.Token] {
		return
	}
	if _, again := r.ran.LoadOrStore(c.Token, true); again {
		r.t.Errorf("token %s was given twice", c.Token)
	}
	o := store.Outcome{Token: c.Token, Status: store.StatusSucceeded}
	switch r.random.IntN(6) {
	case 0:
		o.Status = store.StatusFailed
	case 1:
		o.Status, o.RetryAt = store.StatusFailed, new(time.Now())
	case 2:
		o.Status, o.RetryAt, o.Spare = store.StatusCancelled, new(time.Now()), true
	}
	if r.random.IntN(4) == 0 {
		r.stalled = append(r.stalled, o) // its node is frozen, and late
		return
	}
	r.tell(ctx, o)
}

// tell tells an outcome, in time or not.
func (r *racer) tell(ctx context.Context, o store.Outcome) {
	for range 1 + r.random.IntN(2) { // the first answer may have been lost
		_, err := r.s.Finish(ctx, []store.Outcome{o})
		r.check(err)
	}
}

// mend is for when there is nothing to claim.
func (r *racer) mend(ctx context.Context) {
	_, err := r.s.Pool().Exec(ctx, "UPDATE attune.queue SET lease_until = now() - INTERVAL '1 second' WHERE execution_id IN (SELECT execution_id FROM attune.queue WHERE token IS NOT NULL AND node = $1 LIMIT 2 FOR UPDATE SKIP LOCKED)", r.node)
	r.check(err)
	_, _, err = r.s.Reap(ctx)
	r.check(err)
	_, err = r.s.Hurry(ctx, "a")
	r.check(err)
	var left int64
	r.check(r.s.Pool().QueryRow(ctx, "SELECT count(*) FROM attune.queue").Scan(&left))
	r.left.Store(left)
}

func (r *racer) check(err error) {
	if err != nil && !store.IsTransient(err) {
		r.t.Error(err)
	}
}

// TestRacesLeaveNothingBehind has nodes, a reaper and people at one queue at the same moment: each execution
// ends, once, and what is told of its attempts fits.
func TestRacesLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	apply(t, s, change("a", action("a", "once"), action("a", "again", onLostRetry)))
	var all []store.NewExecution
	for i := range 300 {
		all = append(all, store.NewExecution{Action: []string{"a.once", "a.again"}[i%2]})
	}
	ids := enqueue(t, s, all...)
	var left atomic.Int64
	left.Store(int64(len(ids)))
	var ran sync.Map
	var racers sync.WaitGroup
	for i, node := range nodes {
		r := &racer{t: t, s: storetest.Open(t, url), node: node, random: rand.New(rand.NewPCG(uint64(i), 1)), left: &left, ran: &ran}
		racers.Go(func() { r.run(t.Context()) })
	}
	racers.Go(func() {
		random := rand.New(rand.NewPCG(99, 1))
		for range 60 {
			if _, err := s.Cancel(t.Context(), ids[random.IntN(len(ids))], "alice"); err != nil && !store.IsTransient(err) {
				t.Error(err)
			}
			if _, err := s.Renew(t.Context(), nodes[random.IntN(len(nodes))]); err != nil && !store.IsTransient(err) {
				t.Error(err)
			}
			if random.IntN(10) == 0 {
				if _, _, err := s.LoseNode(t.Context(), nodes[random.IntN(len(nodes))]); err != nil && !store.IsTransient(err) {
					t.Error(err)
				}
			}
		}
	})
	racers.Wait()
	storetest.Settle(t, url)
	if got := one[int](t, s, "SELECT count(*) FROM attune.execution WHERE finished_at IS NOT NULL"); got != len(ids) {
		t.Errorf("%d of %d executions have ended", got, len(ids))
	}
	if started := one[int](t, s, "SELECT count(*) FROM attune.attempt WHERE started_at IS NOT NULL"); started == 0 {
		t.Error("nothing has started")
	}
	ran.Range(func(token, _ any) bool {
		if one[int](t, s, "SELECT count(*) FROM attune.attempt WHERE token = $1", token) != 1 {
			t.Errorf("attempt %v was started and is told of nowhere", token)
		}
		return true
	})
}
