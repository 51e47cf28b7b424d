package sensor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/attune-io/attune/exec/child"
)

// startJitter is the longest that a start waits beyond its turn, where others were before it.
const startJitter = 100 * time.Millisecond

// exitRefused is the exit code by which a sensor says that its configuration cannot work: it is not
// started again before something changes.
const exitRefused = 78

// sensor is one sensor of the catalog, with the goroutine that owns its state.
type sensor struct {
	ref     string
	logger  *slog.Logger
	metrics *metrics
	slots   chan struct{} // a place in it is held over a start
	grace   time.Duration
	launch  func(context.Context, *sensor, *target) (life, error)

	journal journal
	stats   stats
	series  series
	stdout  atomic.Int64 // bytes, of all its processes
	stderr  atomic.Int64

	changed chan struct{} // holds a token when the target changed
	asked   chan struct{} // holds a token when somebody asks for a restart

	mu     sync.Mutex
	target *target
	lost   string // the lease that turned out to be another node's
	shown  Info   // State and what else the goroutine shows; the rest is of stats and journal

	// Of the goroutine alone.
	back    backoff
	life    life
	held    bool      // a slot
	key     string    // restart key of the life, or of the last
	told    string    // digest of the instances that it was told last
	until   time.Time // the end of backoff or waiting
	reason  string    // why the next start is one, for the metric; empty: it is no restart
	silence bool      // stopping because of the watchdog
	after   aftermath // what the end of a process leads to once what outlived it is gone
	polled  bool      // the last process finished its work
	settled State     // what StateChanged was told last

	stateChanged func(Change)     // nil: nobody hears
	leaseLost    func(ref string) // nil: nobody hears
}

// aftermath is put off until what outlived a process is gone.
type aftermath struct {
	then    happening // empty: what is wanted by then
	problem string
}

func newSensor(ref string, s *Supervisor) *sensor {
	return &sensor{
		journal: journal{name: strconv.FormatUint(rand.Uint64(), 36)},
		ref:     ref,
		series:  newSeries(ref),
		logger:  s.logger.With("sensor", ref),
		metrics: s.metrics,
		slots:   s.slots,
		grace:   s.opts.StopGrace,
		changed: make(chan struct{}, 1),
		asked:   make(chan struct{}, 1),
		shown:   Info{Ref: ref, State: StateStopped},
		back:    backoff{random: rand.Float64},
		settled: StateStopped,

		stateChanged: s.opts.StateChanged,
		leaseLost:    s.opts.LeaseLost,
	}
}

// aim replaces what is wanted.
func (s *sensor) aim(t *target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target = t
	token(s.changed)
}

// drop takes back what is wanted.
func (s *sensor) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.target == nil || s.target.want == hUnwanted {
		return
	}
	t := *s.target
	t.want, t.reason = hUnwanted, "it is gone"
	s.target = &t
	token(s.changed)
}

// lose ends what runs under a lease that is another node's, as the database says. This node may learn it
// from nobody else, and for long.
func (s *sensor) lose(lease string) {
	s.mu.Lock()
	first := s.lost != lease
	s.lost = lease
	s.mu.Unlock()
	if !first {
		return
	}
	token(s.changed)
	if s.leaseLost != nil {
		s.leaseLost(s.ref)
	}
}

// ask asks for a restart.
func (s *sensor) ask() { token(s.asked) }

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// info is what people see.
func (s *sensor) info() Info {
	s.mu.Lock()
	info := s.shown
	s.mu.Unlock()
	s.stats.fill(&info, time.Now())
	info.Stderr = s.journal.tail(shownLines)
	return info
}

// show changes what people see.
func (s *sensor) show(change func(*Info)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.shown)
}

func (s *sensor) state() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.State
}

// runs gives the state, and 1 while a process runs.
func (s *sensor) runs() (state State, running float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shown.PID != 0 {
		running = 1
	}
	return s.shown.State, running
}

// wanted tells what the catalog wants at this moment; the end of ctx is an end to all wanting.
func (s *sensor) wanted(ctx context.Context) (*target, happening) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil || s.target == nil {
		return s.target, hUnwanted
	}
	if s.target.want != hUnwanted && s.target.lease != "" && s.target.lease == s.lost {
		t := *s.target
		t.want, t.reason = hUnwanted, reasonElsewhere
		s.target = &t
	}
	return s.target, s.target.want
}

// run is the sensor's goroutine. It returns when ctx has ended and the sensor is stopped.
func (s *sensor) run(ctx context.Context) {
	for !s.step(ctx) {
	}
}

// step lives through one state; over says that it was the last. A mistake of ours in here must not
// take the daemon down with it: the sensor is started anew, after a while.
func (s *sensor) step(ctx context.Context) (over bool) {
	defer func() {
		if p := recover(); p != nil {
			s.logger.Error("sensor's supervision panicked", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			s.salvage(ctx)
			over = ctx.Err() != nil
		}
	}()
	state := s.state()
	var h happening
	switch state {
	case StateStopped, StateIdle, StateFailed:
		h = s.rest(ctx, state)
	case StateStarting:
		h = s.start(ctx)
	case StateRunning:
		h = s.watch(ctx)
	case StateStopping:
		h = s.stop(ctx)
	case StateBackoff, StateWaiting:
		h = s.wait(ctx)
	case StateUnkillable:
		h = s.outlast(ctx)
	default:
		panic("unknown state " + string(state))
	}
	if state == StateStopped && h == hUnwanted {
		return true // only the end of ctx ends a rest so
	}
	then, ok := next(state, h)
	if !ok {
		panic(fmt.Sprintf("%s is no state where %q can happen", state, h))
	}
	s.enter(ctx, then)
	return false
}

// salvage ends what may be running and goes on from backoff.
func (s *sensor) salvage(ctx context.Context) {
	const problem = "internal error, see the log"
	s.pauseAfter(0, problem)
	if s.life != nil {
		err := s.life.Stop(s.grace)
		if err != nil {
			s.unkillable(err)
		}
		if err != nil || s.outlived(s.life.Exit()) {
			s.after = aftermath{hCrashed, problem}
			s.enter(ctx, StateUnkillable)
			return
		}
		s.over()
	}
	s.enter(ctx, StateBackoff)
}

// enter changes the state, and shows what belongs to it.
func (s *sensor) enter(ctx context.Context, state State) {
	if state != StateStarting && state != StateStopping {
		s.release()
	}
	t, _ := s.wanted(ctx)
	s.show(func(i *Info) {
		i.State = state
		i.NextStart = nil
		if s.life == nil {
			i.PID, i.Revision = 0, ""
		}
		switch state {
		case StateRunning:
			i.PID, i.Problem = s.life.PID(), ""
			started := s.life.StartedAt()
			i.StartedAt = &started
		case StateBackoff, StateWaiting:
			until := s.until
			i.NextStart = &until
		case StateStopped, StateIdle:
			i.Problem = ""
			if t != nil {
				i.Problem = t.reason
			}
			if ctx.Err() != nil {
				i.Problem = "the daemon is stopping"
			}
		}
	})
	if ctx.Err() == nil { // that the daemon ends is no news of each of its sensors
		s.tellChange(state)
	}
	switch state {
	case StateStopped, StateIdle, StateWaiting:
		// What comes next starts afresh.
		s.back.reset()
		s.reason = ""
	}
}

// Change is a sensor's way from one state to another.
type Change struct {
	Ref           string
	State, Former State
	PID           int
	Restarts      int64
	LastExit      string
	Problem       string // why it is not running
}

// tellChange tells of a state that lasts. Starting and stopping lead to another in a moment, and a sensor
// that waits for its next run is as well as one that runs.
func (s *sensor) tellChange(state State) {
	switch state {
	case StateStarting, StateStopping:
		return
	case StateWaiting:
		state = StateRunning
	}
	former := s.settled
	if s.stateChanged == nil || former == state {
		return
	}
	s.settled = state
	i := s.info()
	s.stateChanged(Change{
		Ref: s.ref, State: state, Former: former, PID: i.PID, Restarts: i.Restarts, LastExit: i.LastExit, Problem: i.Problem,
	})
}

// rest waits where nothing runs and nothing is due.
func (s *sensor) rest(ctx context.Context, state State) happening {
	for {
		t, want := s.wanted(ctx)
		switch {
		case want == hUnwanted && (state != StateStopped || ctx.Err() != nil):
			return want
		case want == hUnneeded && state != StateIdle:
			return want
		case want == hWanted && state != StateFailed:
			return want
		case want == hWanted && t.key != s.key:
			return s.anew(hChanged)
		}
		s.show(func(i *Info) {
			if t != nil && want != hWanted {
				i.Problem = t.reason
			}
		})
		select {
		case <-ctx.Done():
		case <-s.changed:
		case <-s.asked:
			if state == StateFailed {
				return s.anew(hAsked)
			}
		}
	}
}

// anew notes that a start follows which is no answer to a failure, and forgets those that were.
func (s *sensor) anew(h happening) happening {
	s.back.reset()
	s.reason = restartChanged
	if h == hAsked {
		s.reason = restartAsked
	}
	return h
}

// start waits for its turn and starts a process.
func (s *sensor) start(ctx context.Context) happening {
	if h := s.acquire(ctx); h != hWanted {
		return h
	}
	t, want := s.wanted(ctx)
	if want != hWanted {
		return want
	}
	select {
	case <-s.asked: // this start is what was asked for
	default:
	}
	s.key, s.told = t.key, t.list
	life, err := s.launch(ctx, s, t)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return hUnwanted
	default:
		return s.notStarted(err)
	}
	s.life = life
	s.show(func(i *Info) { i.Revision = t.record.TreeDigest })
	if s.reason != "" {
		s.metrics.restarts.WithLabelValues(s.ref, s.reason).Inc()
		s.show(func(i *Info) { i.Restarts++ })
	}
	level := slog.LevelInfo
	if s.polled {
		level = slog.LevelDebug // it may be so each second
	}
	log := s.logger
	if s.reason != "" {
		log = log.With("reason", s.reason)
	}
	log.Log(ctx, level, "sensor started", "pid", life.PID())
	s.reason, s.polled = "", false
	return hStarted
}

// acquire takes a slot, and waits a little longer than others where there was a queue.
func (s *sensor) acquire(ctx context.Context) happening {
	if s.held {
		return hWanted
	}
	select {
	case s.slots <- struct{}{}:
		s.held = true
		return hWanted
	default:
	}
	for {
		if _, want := s.wanted(ctx); want != hWanted {
			return want
		}
		select {
		case s.slots <- struct{}{}:
			s.held = true
			timer := time.NewTimer(rand.N(startJitter))
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
			return hWanted
		case <-s.changed:
		case <-ctx.Done():
		}
	}
}

func (s *sensor) release() {
	if s.held {
		<-s.slots
		s.held = false
	}
}

// notStarted decides what follows a start that failed.
func (s *sensor) notStarted(err error) happening {
	previous := s.info().Problem
	s.show(func(i *Info) { i.Problem = err.Error() })
	switch {
	case errors.Is(err, errRefused):
		s.logger.Error("sensor cannot be started before it is changed", "err", err)
		return hRefused
	case errors.Is(err, errAway):
		if previous != err.Error() {
			s.logger.Warn("sensor waits to be started", "err", err)
		}
		s.until = time.Now().Add(s.back.spread(awayWait))
		return hCrashed
	default:
		wait := s.back.failed(0)
		s.until = time.Now().Add(wait)
		s.reason = restartStart
		s.logger.Warn("cannot start sensor", "err", err, "duration", wait)
		return hCrashed
	}
}

// watch follows a running process.
func (s *sensor) watch(ctx context.Context) happening {
	var watchdog <-chan time.Time
	limit := s.watchdogLimit()
	if limit > 0 {
		s.stats.alive(time.Now())
		timer := time.NewTicker(max(limit/4, time.Millisecond))
		defer timer.Stop()
		watchdog = timer.C
	}
	var due happening // hChanged or hAsked: to be done when there is a slot
	for {
		t, want := s.wanted(ctx)
		switch {
		case want != hWanted:
			return want
		case t.key != s.key:
			due = hChanged
		case due == hChanged:
			due = "" // changed back meanwhile
		}
		if t.key == s.key && t.spec.Updates && t.list != s.told {
			s.told = t.list
			s.life.Tell(t.instances)
		}
		var slot chan<- struct{}
		if due != "" {
			slot = s.slots
		}
		select {
		case <-s.life.Done():
			return s.ended(s.life.Exit())
		case slot <- struct{}{}:
			s.held = true
			return s.anew(due)
		case <-s.asked:
			if due == "" {
				due = hAsked
			}
		case <-watchdog:
			if silent := s.stats.silent(time.Now()); silent > limit {
				s.silence = true
				s.reason = restartWatchdog
				s.logger.Warn("sensor is silent for longer than its watchdog allows", "duration", silent)
				s.show(func(i *Info) { i.LastExit = fmt.Sprintf("stopped by its watchdog after %s of silence", limit) })
				return hSilent
			}
		case <-s.changed:
		case <-ctx.Done():
		}
	}
}

// watchdogLimit is that of the process that runs; a change of it changes the restart key.
func (s *sensor) watchdogLimit() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(s.target.spec.Watchdog)
}

// ended decides what follows a process that ended by itself.
func (s *sensor) ended(exit child.Exit) happening {
	h := s.judge(exit, exit.EndedAt.Sub(s.life.StartedAt()))
	problem := s.info().Problem
	if s.outlived(exit) {
		s.after = aftermath{h, problem}
		return hSurvived
	}
	s.over()
	return h
}

// judge tells what an end by itself means.
func (s *sensor) judge(exit child.Exit, ran time.Duration) happening {
	t, _ := s.wanted(context.Background())
	last := ""
	if tail := s.journal.tail(1); len(tail) > 0 {
		last = tail[0]
	}
	s.show(func(i *Info) { i.LastExit = exit.String() })
	switch {
	case exit.Code == exitRefused:
		s.logger.Error("sensor says that its configuration cannot work", "exit", exit.String(), "stderr", last)
		s.show(func(i *Info) {
			i.Problem = fmt.Sprintf("exit %d: waits for a change of its configuration", exitRefused)
		})
		return hRefused
	case exit.Code == 0 && t.spec.PollInterval > 0:
		s.until = time.Now().Add(time.Duration(t.spec.PollInterval))
		s.polled = true
		s.show(func(i *Info) { i.Problem = "" })
		return hFinished
	}
	s.reason = restartExit
	switch {
	case exit.OOM:
		s.reason = restartOOM
	case exit.ForkBomb:
		s.reason = restartForkBomb
	case exit.Signal != "":
		s.reason = restartSignal
	}
	s.pauseAfter(ran, exit.String())
	s.logger.Warn("sensor ended", "exit", exit.String(), "stderr", last, "duration", ran, "next_start", s.until)
	return hCrashed
}

// pauseAfter sets the time of the next start after a failure.
func (s *sensor) pauseAfter(ran time.Duration, problem string) {
	wait := s.back.failed(ran)
	s.until = time.Now().Add(wait)
	s.show(func(i *Info) { i.Problem = problem })
}

// over forgets the process. It is shown until the state changes, for what runs has a process.
func (s *sensor) over() { s.life = nil }

// stop ends the process, and then asks anew what is wanted.
func (s *sensor) stop(ctx context.Context) happening {
	ran := time.Since(s.life.StartedAt())
	if err := s.life.Stop(s.grace); err != nil {
		s.unkillable(err)
		return hSurvived
	}
	exit := s.life.Exit()
	s.logger.Info("sensor stopped", "exit", exit.String())
	h := s.judgeStop(ctx, exit, ran)
	problem := s.info().Problem
	if s.outlived(exit) {
		if h == hCrashed {
			s.after = aftermath{h, problem}
		}
		return hSurvived
	}
	s.over()
	return h
}

// unkillable tells of what does not die.
func (s *sensor) unkillable(err error) {
	s.logger.Error("sensor cannot be killed", "pid", s.life.PID(), "err", err)
	s.metrics.unkillable.Inc()
	s.show(func(i *Info) { i.Problem = err.Error() })
}

// errOutlived is what people read of a sensor whose process has ended.
var errOutlived = fmt.Errorf("its process has ended, and it waits for what that left behind: %w", child.ErrUnkillable)

// outlived tells whether something of the process's tree is there still.
func (s *sensor) outlived(exit child.Exit) bool {
	if !exit.Outlived {
		return false
	}
	s.unkillable(errOutlived)
	s.show(func(i *Info) { i.PID = 0 }) // that may be another's by now
	return true
}

// judgeStop tells what follows a process that was stopped.
func (s *sensor) judgeStop(ctx context.Context, exit child.Exit, ran time.Duration) happening {
	silence := s.silence
	s.silence = false
	t, want := s.wanted(ctx)
	if !silence {
		s.show(func(i *Info) { i.LastExit = exit.String() })
		return want
	}
	if want == hWanted && t.key == s.key {
		s.pauseAfter(ran, "its watchdog found it silent")
		return hCrashed
	}
	return want
}

// outlast waits for what does not die. No other is started while it lives.
func (s *sensor) outlast(ctx context.Context) happening {
	for {
		select {
		case <-s.life.Gone():
			s.over()
			s.silence = false
			after := s.after
			s.after = aftermath{}
			if _, want := s.wanted(ctx); want != hWanted || after.then == "" {
				return want
			}
			s.show(func(i *Info) { i.Problem = after.problem })
			return after.then
		case <-ctx.Done():
			return hUnwanted // the daemon ends, and the keeper goes on trying
		case <-s.changed:
		case <-s.asked:
		}
	}
}

// wait waits for the time of the next start.
func (s *sensor) wait(ctx context.Context) happening {
	timer := time.NewTimer(time.Until(s.until))
	defer timer.Stop()
	for {
		t, want := s.wanted(ctx)
		switch {
		case want != hWanted:
			return want
		case t.key != s.key:
			return s.anew(hChanged)
		}
		select {
		case <-timer.C:
			return hDue
		case <-s.asked:
			return s.anew(hAsked)
		case <-s.changed:
		case <-ctx.Done():
		}
	}
}
