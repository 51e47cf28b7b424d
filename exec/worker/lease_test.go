package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// errAwayTest is a transient error to store.IsTransient.
var errAwayTest = fmt.Errorf("the database is away: %w", context.DeadlineExceeded)

// errRefusedTest is what the database says of an attempt that it does not let end.
var errRefusedTest = errors.New("new row violates a check constraint")

// fakeQueue is a database of this test alone: it hands out each claim once and notes what it is told.
type fakeQueue struct {
	mu       sync.Mutex
	away     bool
	waiting  []store.Claimed
	held     map[string]bool
	cancel   map[string]bool
	started  []string
	released []string
	outcomes []store.Outcome
	renewals []time.Time
	// locked are the rows that another session has locked, refused the attempts that cannot end in any form.
	locked, refused map[string]bool
	// lostClaim makes the next claim commit without an answer.
	lostClaim bool
	// stumble are those over whose end we panic, and stumbleClaim has us panic over the next claim, which commits.
	stumble      map[string]bool
	stumbleClaim bool
	// stumbleRelease has us panic over the next release.
	stumbleRelease bool
	// claimTakes and renewTakes are how long an answer is under way.
	claimTakes, renewTakes time.Duration
	// since is how long ago the first attempt of each began.
	since time.Duration
	// later falls due at dueAt.
	later []store.Claimed
	dueAt time.Time
}

// told is what the queue was told so far.
type told struct {
	released []string
	outcomes []store.Outcome
	renewals []time.Time
}

func (q *fakeQueue) told() told {
	q.mu.Lock()
	defer q.mu.Unlock()
	return told{slices.Clone(q.released), slices.Clone(q.outcomes), slices.Clone(q.renewals)}
}

func (q *fakeQueue) set(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f()
}

func (q *fakeQueue) SinceFirstStart(context.Context, int64, time.Time) (time.Duration, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.since, nil
}

func (q *fakeQueue) NextDue(context.Context) (time.Duration, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Until(q.dueAt), len(q.later) > 0, nil
}

func (q *fakeQueue) Claim(_ context.Context, _ string, limit int, _ ...int64) ([]store.Claimed, error) {
	claimed, err := q.claim(limit)
	if len(claimed) > 0 {
		time.Sleep(q.claimTakes) //nolint:forbidigo // the bubble's time, which takes none
	}
	return claimed, err
}

func (q *fakeQueue) claim(limit int) ([]store.Claimed, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.away {
		return nil, errAwayTest
	}
	if !time.Now().Before(q.dueAt) {
		q.waiting, q.later = append(q.waiting, q.later...), nil
	}
	n := min(limit, len(q.waiting))
	claimed := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	for _, c := range claimed {
		q.held[c.Token] = true
	}
	if q.stumbleClaim && n > 0 {
		q.stumbleClaim = false
		panic("oh no")
	}
	if q.lostClaim && n > 0 {
		q.lostClaim = false
		return nil, errAwayTest
	}
	return claimed, nil
}

func (q *fakeQueue) Start(_ context.Context, tokens []string) (map[string]bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.away {
		return nil, errAwayTest
	}
	held := map[string]bool{}
	var locked []string
	for _, token := range tokens {
		if q.locked[token] {
			locked = append(locked, token)
			continue
		}
		held[token] = q.held[token]
		q.started = append(q.started, token)
	}
	if len(locked) > 0 {
		return held, &store.LockedError{Tokens: locked}
	}
	return held, nil
}

func (q *fakeQueue) PutOff(ctx context.Context, token, _ string, _ time.Duration) error {
	return q.Release(ctx, []string{token})
}

func (q *fakeQueue) LineUp(ctx context.Context, token, _ string) error {
	return q.Release(ctx, []string{token})
}

func (q *fakeQueue) Release(_ context.Context, tokens []string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.away {
		return errAwayTest
	}
	if q.stumbleRelease {
		q.stumbleRelease = false
		panic("oh no")
	}
	for _, token := range tokens {
		delete(q.held, token)
	}
	q.released = append(q.released, tokens...)
	return nil
}

func (q *fakeQueue) Renew(context.Context, string) (*store.Renewal, error) {
	renewal, takes, err := q.renew()
	time.Sleep(takes) //nolint:forbidigo // the bubble's time, which takes none
	return renewal, err
}

func (q *fakeQueue) renew() (*store.Renewal, time.Duration, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.away {
		return nil, 0, errAwayTest
	}
	q.renewals = append(q.renewals, time.Now())
	r := &store.Renewal{}
	for token := range q.held {
		r.Held = append(r.Held, token)
		if q.locked[token] {
			r.Locked = append(r.Locked, token)
		}
		if q.cancel[token] {
			r.Cancel = append(r.Cancel, token)
		}
	}
	return r, q.renewTakes, nil
}

func (q *fakeQueue) Finish(_ context.Context, outcomes []store.Outcome) ([]bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.away {
		return nil, errAwayTest
	}
	for _, o := range outcomes {
		if q.stumble[o.Token] {
			panic("oh no")
		}
	}
	accepted, left := make([]bool, len(outcomes)), map[int]error{}
	for i, o := range outcomes {
		switch {
		case q.locked[o.Token]:
			left[i] = store.ErrRowLocked
			continue
		case q.refused[o.Token]:
			left[i] = errRefusedTest
			continue
		}
		accepted[i] = q.held[o.Token]
		delete(q.held, o.Token)
		q.outcomes = append(q.outcomes, o)
	}
	if len(left) > 0 {
		return accepted, &store.LeftError{Left: left}
	}
	return accepted, nil
}

func (q *fakeQueue) Reap(context.Context) (requeued, lost []int64, err error) { return nil, nil, nil }

func (q *fakeQueue) Execution(context.Context, int64) (*store.Execution, []store.Attempt, error) {
	return nil, nil, store.ErrNotFound
}

// fakeProcess ends when it is told to, or by a signal that it obeys.
type fakeProcess struct {
	began    time.Time
	stubborn bool
	stuck    bool // in the kernel: not even KILL ends it

	mu    sync.Mutex
	done  chan struct{}
	exit  child.Exit
	stops []stopCall
}

// stopCall is a Stop: when after the start, and with which grace.
type stopCall struct{ After, Grace time.Duration }

func (f *fakeProcess) Done() <-chan struct{} { return f.done }

func (f *fakeProcess) Wait() child.Exit {
	<-f.done
	return f.exit
}

func (f *fakeProcess) end(exit child.Exit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.done:
	default:
		f.exit = exit
		close(f.done)
	}
}

func (f *fakeProcess) Stop(grace time.Duration) error {
	f.mu.Lock()
	f.stops = append(f.stops, stopCall{time.Since(f.began), grace})
	stuck := f.stuck
	f.mu.Unlock()
	if stuck {
		return child.ErrUnkillable
	}
	if grace > 0 && !f.stubborn {
		f.end(child.Exit{Code: -1, Signal: "SIGTERM"})
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-f.done:
	case <-timer.C:
		f.end(child.Exit{Code: -1, Signal: "SIGKILL"})
	}
	return nil
}

func (f *fakeProcess) stopped() []stopCall {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.stops)
}

// stage is a pool in a bubble, with nothing real around it.
type stage struct {
	*Pool
	queue *fakeQueue
	begun time.Time
	// frozen is how long this daemon and its timers stood still.
	frozen atomic.Int64

	mu     sync.Mutex
	procs  map[string]*fakeProcess // by execution
	leases []time.Duration         // what the keeper was told
	// panicAt is the number of the lease at which telling the keeper panics; 0: none.
	panicAt int
	notices map[string][]chan string // of each channel's subscribers
}

func (s *stage) Dir(context.Context, int64, string) (string, error) { return s.opts.DataDir, nil }

// onStage runs f in a bubble with a pool whose children obey signals, or not.
func onStage(t *testing.T, stubborn bool, f func(s *stage, leave func())) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "data", "actions"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "actions", "a"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := &stage{
			queue: &fakeQueue{held: map[string]bool{}, cancel: map[string]bool{}}, begun: time.Now(),
			procs: map[string]*fakeProcess{}, notices: map[string][]chan string{},
		}
		opts := Options{
			Node: "n", Listener: new(store.Store).NewListener(), Interpreters: new(child.Interpreters), Revisions: s, Workers: 2,
			Timeout: time.Hour, StopGrace: 10 * time.Second, Drain: time.Minute, DataDir: filepath.Join(dir, "data"),
			TempDir: filepath.Join(dir, "tmp"), SpoolDir: filepath.Join(dir, "spool"),
		}
		opts.fill()
		s.Pool = newPool(opts, s.queue)
		s.boottime = func() time.Duration { return time.Second + time.Since(s.begun) + time.Duration(s.frozen.Load()) }
		s.leaseUntil = func(d time.Duration) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.leases = append(s.leases, d)
			if len(s.leases) == s.panicAt {
				panic("oh no")
			}
		}
		s.subscribe = func(channel string) (<-chan string, func()) {
			s.mu.Lock()
			defer s.mu.Unlock()
			notices := make(chan string, 1)
			s.notices[channel] = append(s.notices[channel], notices)
			return notices, func() {}
		}
		s.start = func(_ context.Context, spec child.Spec) (process, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.procs[spec.Name] = &fakeProcess{began: time.Now(), stubborn: stubborn, done: make(chan struct{})}
			return s.procs[spec.Name], nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait() // it has renewed and looked, and not whenever it comes to run: what f offers waits for the next look
		f(s, cancel)
		s.Hurry()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// pass lets time pass.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the bubble's time, which takes none
	synctest.Wait()
}

func token(id int64) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", id) }

// offer puts executions into the queue.
func (s *stage) offer(ids ...int64) {
	s.queue.set(func() {
		for _, id := range ids {
			action := &manifest.Action{Header: manifest.Header{Ref: "p.a", Pack: "p", Name: "a"}, OnLost: "retry"}
			action.RunnerType, action.EntryPoint = manifest.RuntimeNative, "a"
			s.queue.waiting = append(s.queue.waiting, store.Claimed{
				ExecutionID: id, Token: token(id), Attempt: 1, Action: "p.a", QueuedAt: time.Now(), Record: &store.Record{Spec: action},
			})
		}
	})
}

func (s *stage) proc(t *testing.T, id int64) *fakeProcess {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.procs[fmt.Sprintf("execution %d", id)]
	if p == nil {
		t.Fatalf("execution %d was not started", id)
	}
	return p
}

func (s *stage) started() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.procs)
}

func (s *stage) setAway(away bool) { s.queue.set(func() { s.queue.away = away }) }

// The package's comment tells of each reason in the order in which they are defined.
func TestDocumentsStopReasons(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "What stops a running attempt")
	table, _, _ = strings.Cut(table, "What it promises")
	var got []stopReason
	for line := range strings.Lines(table) {
		if words := strings.Fields(strings.TrimPrefix(line, "//")); strings.HasPrefix(line, "//\t") && len(words) > 0 {
			got = append(got, stopReason(words[0]))
		}
	}
	want := []stopReason{stopTimeout, stopCancel, stopShutdown, stopFence, stopUnheld}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reasons in doc.go (-want +got):\n%s", diff)
	}
}

func TestRenewsLeases(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, leave func()) {
		s.offer(1)
		pass(3 * time.Second)
		s.proc(t, 1)
		leave() // renewing goes on while it drains
		pass(45 * time.Second)
		s.proc(t, 1).end(child.Exit{})
		pass(time.Second)
		var at []float64
		for _, renewal := range s.queue.told().renewals {
			at = append(at, renewal.Sub(s.begun).Seconds())
		}
		if diff := cmp.Diff([]float64{0, 10, 20, 30, 40}, at); diff != "" {
			t.Errorf("renewals (-want +got):\n%s", diff)
		}
		// The keeper counts from before the statement was sent.
		s.mu.Lock()
		told := s.leases[1]
		s.mu.Unlock()
		if want := time.Second + 10*time.Second + store.LeaseDuration; told != want {
			t.Errorf("keeper was told %v, want %v", told, want)
		}
		if len(s.queue.told().outcomes) != 1 || s.queue.told().outcomes[0].Status != store.StatusSucceeded {
			t.Errorf("outcomes: %+v", s.queue.told().outcomes)
		}
	})
}

func TestFencesItself(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		s.offer(1)
		pass(3 * time.Second)
		s.setAway(true)
		s.offer(2)
		pass(fenceStop - 3*time.Second - guardPeriod)
		if stops := s.proc(t, 1).stopped(); len(stops) > 0 {
			t.Fatalf("stopped too early: %v", stops)
		}
		pass(2 * guardPeriod)
		stops := s.proc(t, 1).stopped()
		if len(stops) != 1 || stops[0].Grace > fenceKill-fenceStop || stops[0].Grace <= 0 {
			t.Fatalf("stops: %v", stops)
		}
		// The outcome waits in the spool, and nothing new is claimed.
		pass(time.Minute)
		if files, _ := filepath.Glob(filepath.Join(s.opts.SpoolDir, "*"+spoolSuffix)); len(files) != 1 {
			t.Errorf("%d files in the spool", len(files))
		}
		s.setAway(false)
		pass(5 * time.Second)
		if files, _ := filepath.Glob(filepath.Join(s.opts.SpoolDir, "*"+spoolSuffix)); len(files) != 0 {
			t.Errorf("%d files are left in the spool", len(files))
		}
		if len(s.queue.told().outcomes) != 1 {
			t.Fatalf("outcomes: %+v", s.queue.told().outcomes)
		}
		o := s.queue.told().outcomes[0]
		if o.Status != store.StatusFailed || o.Error != "stopped, because this node could not renew its lease for 18s" || o.RetryAt == nil {
			t.Errorf("outcome: %+v", o)
		}
		if got := testutil.ToFloat64(s.metrics.selfFence); got != 1 {
			t.Errorf("attune_self_fence_total is %v", got)
		}
		s.proc(t, 2) // with the lease back, it goes on
	})
}

// A row that another session has locked, however long: its attempt begins and is told of when that lets go,
// and nobody else waits for it.
func TestRowLockedByAnother(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		s.queue.set(func() { s.queue.locked = map[string]bool{token(1): true} })
		s.offer(1, 2)
		pass(3 * time.Second)
		if n := s.started(); n != 1 {
			t.Fatalf("%d have begun", n)
		}
		s.proc(t, 2).end(child.Exit{})
		pass(time.Second)
		s.queue.set(func() { s.queue.locked = nil })
		pass(time.Second)
		s.proc(t, 1)
		s.queue.set(func() { s.queue.locked = map[string]bool{token(1): true} })
		s.offer(3)
		pass(2 * store.LeaseDuration)
		if stops := s.proc(t, 1).stopped(); len(stops) != 0 {
			t.Errorf("stopped %v, although its node is seen to live", stops)
		}
		if got := testutil.ToFloat64(s.metrics.locked); got != 1 {
			t.Errorf("attune_leases_locked is %v", got)
		}
		s.proc(t, 1).end(child.Exit{})
		s.proc(t, 3).end(child.Exit{})
		pass(2 * time.Second)
		if got := s.queue.told().outcomes; len(got) != 2 {
			t.Errorf("outcomes: %+v", got)
		}
		if files, _ := filepath.Glob(filepath.Join(s.opts.SpoolDir, "*"+spoolSuffix)); len(files) != 1 || testutil.ToFloat64(s.metrics.aside) != 1 {
			t.Errorf("%d files in the spool, attune_outcomes_set_aside is %v", len(files), testutil.ToFloat64(s.metrics.aside))
		}
		s.queue.set(func() { s.queue.locked = nil })
		pass(finishRetryMost + renewRetry)
		if got := s.queue.told().outcomes; len(got) != 3 || got[2].Token != token(1) || got[2].Status != store.StatusSucceeded {
			t.Errorf("outcomes: %+v", got)
		}
		if files, _ := filepath.Glob(filepath.Join(s.opts.SpoolDir, "*"+spoolSuffix)); len(files) != 0 || testutil.ToFloat64(s.metrics.aside) != 0 || testutil.ToFloat64(s.metrics.locked) != 0 {
			t.Errorf("%d files in the spool, attune_outcomes_set_aside is %v", len(files), testutil.ToFloat64(s.metrics.aside))
		}
	})
}

// What the database refuses in every form holds up nobody, is renewed so that nobody runs it again, and is
// written when that has been mended; if the daemon ends before, it is in the spool.
func TestRefusedOutcomeIsSetAside(t *testing.T) {
	t.Parallel()
	var dir string
	onStage(t, false, func(s *stage, _ func()) {
		dir = s.opts.SpoolDir
		s.queue.set(func() { s.queue.refused = map[string]bool{token(1): true, token(2): true} })
		s.offer(1, 2)
		pass(3 * time.Second)
		s.proc(t, 1).end(child.Exit{})
		s.proc(t, 2).end(child.Exit{})
		pass(time.Second)
		s.offer(3)
		pass(3 * time.Second)
		s.proc(t, 3).end(child.Exit{})
		pass(orphanAfter + 2*renewPeriod)
		told := s.queue.told()
		if len(told.outcomes) != 1 || told.outcomes[0].Token != token(3) || len(told.released) != 0 {
			t.Errorf("outcomes %+v, released %v", told.outcomes, told.released)
		}
		if got := testutil.ToFloat64(s.metrics.aside); got != 2 {
			t.Errorf("attune_outcomes_set_aside is %v", got)
		}
		s.queue.set(func() { delete(s.queue.refused, token(1)) })
		pass(refusedRetry)
		if told := s.queue.told(); len(told.outcomes) != 2 || told.outcomes[1].Token != token(1) {
			t.Errorf("outcomes %+v", told.outcomes)
		}
	})
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d files are left in the spool", len(files))
	}
}

func TestFenceKillsTheStubborn(t *testing.T) {
	t.Parallel()
	onStage(t, true, func(s *stage, _ func()) {
		s.offer(1, 2)
		pass(3 * time.Second)
		// One of them is being stopped already, with all the patience there is.
		s.heldBy(token(2)).stop(stopTimeout, time.Hour)
		s.setAway(true)
		began := s.proc(t, 1).began
		renewed := s.begun
		pass(fenceKill)
		for _, id := range []int64{1, 2} {
			p := s.proc(t, id)
			select {
			case <-p.done:
			default:
				t.Fatalf("%d is still there %v after the last renewal", id, time.Since(renewed))
			}
			for _, stop := range p.stopped() {
				if at := began.Add(stop.After).Add(stop.Grace).Sub(renewed); id == 1 && at > fenceKill {
					t.Errorf("%d would have lived until %v after the last renewal", id, at)
				}
			}
		}
		s.setAway(false)
		pass(5 * time.Second)
	})
}

// A suspended machine wakes up: the wall clock and Go's timers have not moved, CLOCK_BOOTTIME has.
func TestFencesAfterSuspension(t *testing.T) {
	t.Parallel()
	onStage(t, true, func(s *stage, _ func()) {
		s.offer(1)
		pass(3 * time.Second)
		s.setAway(true) // or the renewal might come first
		s.lease.mu.Lock()
		s.lease.renewed -= time.Hour
		s.lease.mu.Unlock()
		pass(guardPeriod)
		select {
		case <-s.proc(t, 1).done:
		default:
			t.Error("it is still there")
		}
		s.setAway(false)
		pass(5 * time.Second)
	})
}

// A kill that comes past the attempt, by the guard of the leases or by the keeper, is no failure of the
// action's.
func TestKillsOfTheLeaseAreNoFailures(t *testing.T) {
	t.Parallel()
	killed := child.Exit{Code: -1, Signal: sigKill}
	for name, end := range map[string]func(s *stage, p *fakeProcess){
		"by the guard": func(s *stage, p *fakeProcess) {
			a := s.heldBy(token(1))
			a.mu.Lock()
			a.reason, a.killed = stopFence, true
			a.mu.Unlock()
			p.end(killed)
		},
		"by the keeper": func(s *stage, p *fakeProcess) {
			s.lease.mu.Lock()
			s.lease.renewed -= store.LeaseDuration - child.KeeperMargin
			s.lease.mu.Unlock()
			p.end(killed)
		},
	} {
		onStage(t, false, func(s *stage, _ func()) {
			s.offer(1)
			pass(3 * time.Second)
			end(s, s.proc(t, 1))
			pass(time.Second)
			outcomes := s.queue.told().outcomes
			if len(outcomes) != 1 || !strings.Contains(outcomes[0].Error, "could not renew its lease") || outcomes[0].RetryAt == nil {
				t.Errorf("%s: %+v", name, outcomes)
			}
		})
	}
	onStage(t, false, func(s *stage, _ func()) {
		s.offer(1)
		pass(3 * time.Second)
		s.proc(t, 1).end(killed)
		pass(time.Second)
		if outcomes := s.queue.told().outcomes; len(outcomes) != 1 || !strings.Contains(outcomes[0].Error, "which Attune did not send") {
			t.Errorf("by a stranger: %+v", outcomes)
		}
	})
}

// Processes that an action was refused are told with its end, whatever that was.
func TestRefusedForksAreTold(t *testing.T) {
	t.Parallel()
	const refused = "its limit of 40 processes and threads (limits.pids) refused 41 more"
	for want, end := range map[string]func(a *attempt, p *fakeProcess, e child.Exit){
		"killed as a fork bomb: " + refused: func(_ *attempt, p *fakeProcess, e child.Exit) {
			e.Code, e.Signal, e.ForkBomb = -1, sigKill, true
			p.end(e)
		},
		"exit 3: " + refused: func(_ *attempt, p *fakeProcess, e child.Exit) {
			e.Code = 3
			p.end(e)
		},
		"timed out after 1h0m0s: " + refused: func(a *attempt, p *fakeProcess, e child.Exit) {
			e.Code, e.Signal = -1, "SIGTERM"
			a.stop(stopTimeout, time.Second)
			pass(time.Second / 2)
			p.end(e)
		},
	} {
		onStage(t, true, func(s *stage, _ func()) {
			s.offer(1)
			pass(3 * time.Second)
			end(s.heldBy(token(1)), s.proc(t, 1), child.Exit{RefusedForks: 41, MaxProcesses: 40})
			pass(time.Second)
			if outcomes := s.queue.told().outcomes; len(outcomes) != 1 || outcomes[0].Error != want {
				t.Errorf("expected %q, found %+v", want, outcomes)
			}
		})
	}
}

// What cannot be ended is followed by nothing: two of it would run at once.
func TestUnkillableIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	for _, reason := range []stopReason{stopShutdown, stopFence, stopTimeout} {
		onStage(t, false, func(s *stage, _ func()) {
			s.offer(1)
			pass(3 * time.Second)
			p := s.proc(t, 1)
			p.mu.Lock()
			p.stuck = true
			p.mu.Unlock()
			a := s.heldBy(token(1))
			a.claim.Retry = &manifest.Retry{MaxAttempts: 5}
			a.stop(reason, time.Second)
			pass(time.Second)
			outcomes := s.queue.told().outcomes
			if len(outcomes) != 1 || outcomes[0].RetryAt != nil || outcomes[0].Spare || outcomes[0].Status == store.StatusCancelled {
				t.Errorf("%s: %+v", reason, outcomes)
			}
			if got := testutil.ToFloat64(s.metrics.unkillable); got != 1 {
				t.Errorf("%s: attune_unkillable_children_total is %v", reason, got)
			}
		})
	}
}

func TestVoidTokenIsKilled(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		s.offer(1, 2)
		pass(3 * time.Second)
		s.queue.set(func() { delete(s.queue.held, token(1)) })
		pass(renewPeriod)
		if stops := s.proc(t, 1).stopped(); len(stops) != 1 || stops[0].Grace != 0 {
			t.Errorf("stops: %v", stops)
		}
		if stops := s.proc(t, 2).stopped(); len(stops) != 0 {
			t.Errorf("the other one was stopped: %v", stops)
		}
		if got := testutil.ToFloat64(s.metrics.fenced); got != 1 {
			t.Errorf("attune_fenced_writes_total is %v", got)
		}
	})
}

// With a void token nothing has patience: another attempt may run elsewhere by now.
func TestVoidTokenEndsPatience(t *testing.T) {
	t.Parallel()
	onStage(t, true, func(s *stage, _ func()) {
		s.offer(1)
		pass(3 * time.Second)
		s.heldBy(token(1)).stop(stopCancel, time.Hour)
		s.queue.set(func() { delete(s.queue.held, token(1)) })
		pass(renewPeriod)
		select {
		case <-s.proc(t, 1).done:
		default:
			t.Error("it is still there")
		}
	})
}

// The keeper killed what ran while this daemon was frozen, which renews its leases before it sees that.
func TestRenewsBeforeItSeesTheKeeper(t *testing.T) {
	t.Parallel()
	killed := child.Exit{Code: -1, Signal: sigKill}
	onStage(t, false, func(s *stage, _ func()) {
		s.offer(1, 2)
		pass(3 * time.Second)
		s.frozen.Add(int64(keeperKill))
		s.lease.hasten()
		synctest.Wait()
		s.proc(t, 1).end(killed)
		synctest.Wait()
		outcomes := s.queue.told().outcomes
		if len(outcomes) != 1 || !strings.Contains(outcomes[0].Error, "could not renew its lease") || outcomes[0].RetryAt == nil {
			t.Errorf("before it is seen: %+v", outcomes)
		}
		s.offer(3)
		pass(pollPeriod + pollPeriod/10)
		s.proc(t, 3).end(killed) // it began after
		pass(keeperSeen)
		s.proc(t, 2).end(killed) // it was not killed then
		synctest.Wait()
		outcomes = s.queue.told().outcomes
		if len(outcomes) != 3 || !strings.Contains(outcomes[1].Error, "which Attune did not send") || !strings.Contains(outcomes[2].Error, "which Attune did not send") {
			t.Errorf("by a stranger: %+v", outcomes)
		}
	})
}

// A start that takes until the lease may be over is ended at once.
func TestFencesALateStart(t *testing.T) {
	t.Parallel()
	onStage(t, true, func(s *stage, _ func()) {
		start := s.start
		s.start = func(ctx context.Context, spec child.Spec) (process, error) {
			s.setAway(true)
			s.frozen.Add(int64(store.LeaseDuration))
			return start(ctx, spec)
		}
		pass(guardPeriod / 2)
		s.offer(1)
		s.poke()
		pass(pollPeriod + pollPeriod/10)
		if stops := s.proc(t, 1).stopped(); len(stops) == 0 || stops[0].After != 0 || stops[0].Grace != 0 {
			t.Errorf("stops: %v", stops)
		}
		s.setAway(false)
		pass(5 * time.Second)
	})
}

// What an attempt left behind and cannot be ended is followed by nothing, either.
func TestLeftoverIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(a *attempt, p *fakeProcess){
		"failed": func(_ *attempt, p *fakeProcess) { p.end(child.Exit{Code: 1, Outlived: true}) },
		"stopped": func(a *attempt, p *fakeProcess) {
			a.stop(stopShutdown, time.Second)
			p.end(child.Exit{Code: -1, Signal: "SIGTERM", Outlived: true})
		},
		"succeeded": func(_ *attempt, p *fakeProcess) { p.end(child.Exit{Outlived: true}) },
	} {
		onStage(t, true, func(s *stage, _ func()) {
			s.offer(1)
			pass(3 * time.Second)
			a := s.heldBy(token(1))
			a.claim.Retry = &manifest.Retry{MaxAttempts: 5}
			end(a, s.proc(t, 1))
			pass(time.Second)
			outcomes := s.queue.told().outcomes
			if len(outcomes) != 1 || outcomes[0].RetryAt != nil || outcomes[0].Spare {
				t.Fatalf("%s: %+v", name, outcomes)
			}
			if o := outcomes[0]; name == "succeeded" && (o.Status != store.StatusSucceeded || o.Error != "") ||
				name != "succeeded" && (o.Status != store.StatusFailed || !strings.Contains(o.Error, "cannot end what it left behind")) {
				t.Errorf("%s: %+v", name, o)
			}
			if got := testutil.ToFloat64(s.metrics.unkillable); got != 1 {
				t.Errorf("%s: attune_unkillable_children_total is %v", name, got)
			}
			if dirs, _ := filepath.Glob(filepath.Join(s.opts.TempDir, tempPrefix+"*")); len(dirs) != 0 {
				t.Errorf("%s: its folder is kept for others", name)
			}
		})
	}
}

// panicking is a process over which this daemon stumbles.
type panicking struct{ *fakeProcess }

func (panicking) Done() <-chan struct{} { panic("oh no") }

// An attempt over which this daemon stumbles is not tried again before its child is gone.
func TestPanicEndsTheChildFirst(t *testing.T) {
	t.Parallel()
	for _, stuck := range []bool{false, true} {
		onStage(t, true, func(s *stage, _ func()) {
			start := s.start
			s.start = func(ctx context.Context, spec child.Spec) (process, error) {
				p, err := start(ctx, spec)
				p.(*fakeProcess).stuck = stuck
				return panicking{p.(*fakeProcess)}, err
			}
			s.offer(1)
			s.queue.set(func() { s.queue.waiting[0].Retry = &manifest.Retry{MaxAttempts: 5} })
			pass(3 * time.Second)
			outcomes := s.queue.told().outcomes
			if len(outcomes) != 1 || !strings.Contains(outcomes[0].Error, "a mistake inside the daemon: oh no") {
				t.Fatalf("outcomes: %+v", outcomes)
			}
			p := s.proc(t, 1)
			ended := false
			select {
			case <-p.done:
				ended = true
			default:
			}
			if ended == stuck || len(p.stopped()) != 1 || (outcomes[0].RetryAt == nil) != stuck {
				t.Errorf("stuck %v: ended %v, stops %v, outcome %+v", stuck, ended, p.stopped(), outcomes[0])
			}
		})
	}
}

func TestCancelledByRenewal(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		s.offer(1)
		pass(3 * time.Second)
		s.queue.set(func() { s.queue.cancel[token(1)] = true })
		pass(renewPeriod)
		if stops := s.proc(t, 1).stopped(); len(stops) != 1 || stops[0].Grace != s.opts.StopGrace {
			t.Errorf("stops: %v", stops)
		}
		if len(s.queue.told().outcomes) != 1 || s.queue.told().outcomes[0].Status != store.StatusCancelled || s.queue.told().outcomes[0].RetryAt != nil {
			t.Errorf("outcomes: %+v", s.queue.told().outcomes)
		}
	})
}

// Whoever wants it cancelled need not wait for the next renewal.
func TestCancelledByNotice(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		s.offer(1)
		pass(3 * time.Second)
		s.queue.set(func() { s.queue.cancel[token(1)] = true })
		s.mu.Lock()
		for _, notices := range s.notices[store.ChannelCancel] {
			notices <- "1"
		}
		s.mu.Unlock()
		synctest.Wait()
		if stops := s.proc(t, 1).stopped(); len(stops) != 1 || stops[0].Grace != s.opts.StopGrace {
			t.Errorf("stops: %v", stops)
		}
	})
}

// Somebody wants cancelled what was claimed a moment ago: the notice comes before the answer to the claim.
func TestCancelledBeforeTheClaimIsAnswered(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		pass(3 * time.Second)
		s.isOurs(1)
		s.queue.set(func() { s.queue.cancel[token(1)] = true })
		s.offer(1)
		pass(pollPeriod + pollPeriod/10)
		// Either way it ends as cancelled.
		if told := s.queue.told(); len(told.outcomes)+len(told.released) != 1 {
			t.Errorf("outcomes %+v, released %v", told.outcomes, told.released)
		}
	})
}

// A claim was committed and its answer lost: nobody knows of it, and its lease would be renewed with the rest. It goes
// back to the queue as soon as it fails.
func TestOrphanedClaimIsReleased(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		s.queue.set(func() { s.queue.lostClaim = true })
		s.offer(1)
		pass(pollPeriod + pollPeriod/10)
		if diff := cmp.Diff([]string{token(1)}, s.queue.told().released); diff != "" {
			t.Errorf("released (-want +got):\n%s", diff)
		}
		pass(orphanAfter + 2*renewPeriod)
		if n := len(s.queue.told().released); n != 1 {
			t.Errorf("released %d times", n)
		}
	})
}

// What is claimed is not given back while the answer may come, however many renewals tell of it.
func TestSlowClaimIsNoOrphan(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		s.queue.claimTakes = 2*renewPeriod + renewRetry
		s.offer(1)
		pass(3 * renewPeriod)
		s.proc(t, 1)
		if told := s.queue.told(); len(told.released) != 0 || len(told.renewals) < 3 {
			t.Errorf("released %v, after %d renewals", told.released, len(told.renewals))
		}
	})
}

// What ends while a renewal is answered that still has it was known all the time.
func TestWhatEndsDuringARenewalIsNoOrphan(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		s.offer(1)
		pass(renewPeriod - time.Second)
		s.queue.set(func() { s.queue.renewTakes = 2 * time.Second })
		pass(2 * time.Second)
		s.proc(t, 1).end(child.Exit{})
		pass(3 * renewPeriod)
		if told := s.queue.told(); len(told.outcomes) != 1 || len(told.released) != 0 {
			t.Errorf("%d outcomes, released %v", len(told.outcomes), told.released)
		}
	})
}

// Where an answer may always come, what nobody knows of waits longer than any can take.
func TestOrphanAmongClaimsIsReleased(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		pass(time.Second)
		kept, ok := s.Reserve(1)
		if !ok {
			t.Fatal("nothing is kept")
		}
		s.queue.set(func() { s.queue.lostClaim = true })
		s.offer(1)
		pass(orphanAfter)
		if len(s.queue.told().released) != 0 {
			t.Fatal("released too early")
		}
		pass(2 * renewPeriod)
		if diff := cmp.Diff([]string{token(1)}, s.queue.told().released); diff != "" {
			t.Errorf("released (-want +got):\n%s", diff)
		}
		s.Take(kept, nil)
		s.queue.set(func() { s.queue.lostClaim = true })
		s.offer(2)
		pass(pollPeriod + pollPeriod/10)
		if diff := cmp.Diff([]string{token(1), token(2)}, s.queue.told().released); diff != "" {
			t.Errorf("released (-want +got):\n%s", diff)
		}
	})
}

// A panic over a claim ends neither the daemon nor the claiming, and what was claimed goes back to the queue.
func TestClaimingOutlivesAPanic(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		s.queue.set(func() { s.queue.stumbleClaim = true })
		s.offer(1)
		const look = pollPeriod + pollPeriod/10
		pass(look)
		s.offer(2)
		pass(persistPause + look)
		s.proc(t, 2)
		pass(orphanAfter + 2*renewPeriod)
		if diff := cmp.Diff([]string{token(1)}, s.queue.told().released); diff != "" {
			t.Errorf("released (-want +got):\n%s", diff)
		}
	})
}

// clumsy is a tracer with a mistake.
type clumsy struct{}

func (clumsy) Parent(*store.Claimed) string                      { return "" }
func (clumsy) Attempt(*store.Claimed, time.Time, *store.Outcome) { panic("oh no") }

// A panic beside an attempt costs neither its outcome nor its slot.
func TestPanicsAroundAttempts(t *testing.T) {
	t.Parallel()
	onStage(t, true, func(s *stage, _ func()) {
		s.opts.Tracer = clumsy{}
		pass(0)
		s.queue.set(func() { s.queue.stumbleRelease = true })
		var claimed []store.Claimed
		s.offer(1, 2, 3) // the last gets no slot
		s.queue.set(func() {
			claimed, s.queue.waiting = s.queue.waiting, nil
			for _, c := range claimed {
				s.queue.held[c.Token] = true
			}
		})
		s.admit(claimed, 0)
		pass(2 * stockPatience)
		s.proc(t, 1).end(child.Exit{})
		s.proc(t, 2).end(child.Exit{})
		pass(3 * time.Second)
		if n, busy := len(s.queue.told().outcomes), s.Stats().Busy; n != 2 || busy != 0 {
			t.Errorf("%d outcomes, %d busy", n, busy)
		}
		pass(orphanAfter + 2*renewPeriod)
		if diff := cmp.Diff([]string{token(3)}, s.queue.told().released); diff != "" {
			t.Errorf("released (-want +got):\n%s", diff)
		}
	})
}

func TestStartIsTriedAgain(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		calls := 0
		s.starter.queue = startsLater{s.queue, func() error {
			if calls++; calls < 3 {
				return errAwayTest
			}
			return nil
		}}
		s.offer(1)
		pass(3 * time.Second)
		s.proc(t, 1)
		if calls != 3 {
			t.Errorf("%d calls", calls)
		}
	})
}

// startsLater fails to start as f says, after the start was committed.
type startsLater struct {
	*fakeQueue
	f func() error
}

func (q startsLater) Start(ctx context.Context, tokens []string) (map[string]bool, error) {
	held, err := q.fakeQueue.Start(ctx, tokens)
	return held, errors.Join(err, q.f())
}

// While a start is being committed the lease is lost: nothing is started, and it goes back.
func TestFencedWhileStarting(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		s.starter.queue = startsLater{s.queue, func() error { return errAwayTest }}
		s.offer(1)
		pass(3 * time.Second)
		s.setAway(true)
		pass(fenceStop)
		s.setAway(false)
		pass(5 * time.Second)
		if s.started() != 0 {
			t.Error("it was started")
		}
		if len(s.queue.told().outcomes) != 1 || s.queue.told().outcomes[0].RetryAt == nil || s.queue.told().outcomes[0].Error != "stopped before it began: fence" {
			t.Errorf("outcomes: %+v", s.queue.told().outcomes)
		}
	})
}

func TestClaimsAtMostFreeSlots(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		s.offer(1, 2, 3, 4, 5)
		pass(3 * time.Second)
		if got := s.Stats(); got != (Stats{Workers: 2, Busy: 2}) || s.started() != 2 {
			t.Errorf("%+v with %d processes", got, s.started())
		}
		// A slot is filled as soon as it is free, without a notice or a poll.
		s.proc(t, 1).end(child.Exit{})
		pass(0)
		s.proc(t, 3)
		for _, id := range []int64{2, 3} {
			s.proc(t, id).end(child.Exit{})
		}
		pass(0)
		s.proc(t, 4).end(child.Exit{})
		s.proc(t, 5).end(child.Exit{})
		pass(time.Second)
		if got := s.Stats(); got.Busy != 0 || len(s.queue.told().outcomes) != 5 {
			t.Errorf("%+v, %d outcomes", got, len(s.queue.told().outcomes))
		}
	})
}

// Outcomes that cannot be written survive the end of the pool.
func TestEndsWithoutDatabase(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, leave func()) {
		s.offer(1, 2)
		pass(3 * time.Second)
		s.setAway(true)
		s.proc(t, 1).end(child.Exit{Code: 0})
		pass(time.Second)
		leave()
		s.Hurry()
		pass(time.Minute)
		left, err := s.finisher.spool.load(s.log)
		if err != nil || len(left) != 2 {
			t.Fatalf("%d outcomes are kept: %v", len(left), err)
		}
		status := map[int64]store.Status{}
		for _, e := range left {
			status[e.ExecutionID] = e.Outcome.Status
		}
		want := map[int64]store.Status{1: store.StatusSucceeded, 2: store.StatusCancelled}
		if diff := cmp.Diff(want, status); diff != "" {
			t.Errorf("kept (-want +got):\n%s", diff)
		}
	})
}
