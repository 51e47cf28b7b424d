package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/environment"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// stopReason is why an attempt was stopped; the table is in the package's comment.
type stopReason string

const (
	stopNot      stopReason = "" // it runs, or ended by itself
	stopTimeout  stopReason = "timeout"
	stopCancel   stopReason = "cancel"
	stopShutdown stopReason = "shutdown"
	stopFence    stopReason = "fence"
	stopUnheld   stopReason = "unheld"
)

// awayPause is how long an attempt whose files could not be fetched keeps its slot before it goes back
// to the queue: a node that cannot prepare anything must not claim the same over and over.
const awayPause = time.Second

// putOff is how long an attempt waits at most whose environment is not there. It is made due as soon as
// that has come.
const putOff = 15 * time.Second

// errAway says that what an attempt needs is not there for now; it has nothing to do with the attempt.
var errAway = errors.New("not available now")

// errAllOver says that the time for all attempts was over before this one began.
var errAllOver = errors.New("the time for all attempts is over")

// attempt is one start of one execution on this node.
type attempt struct {
	pool  *Pool
	claim store.Claimed

	// ctx ends when the attempt is told to stop. It bounds everything but the child's life.
	ctx    context.Context
	cancel context.CancelFunc
	// granted is closed when it may run.
	granted chan struct{}
	// printing is closed when stdout and stderr are set for good; nil: it never got that far.
	printing       chan struct{}
	stdout, stderr *child.Capture
	arrivals       *child.Arrivals
	// total is how long all attempts of its execution may take together, allUntil until when they have to have
	// ended; zero: any time.
	total    time.Duration
	allUntil time.Time
	// outlived says that something of its tree is there, or may be.
	outlived bool

	mu     sync.Mutex
	reason stopReason
	grace  time.Duration
	proc   process
	began  time.Duration // on CLOCK_BOOTTIME, of the process
	killed bool
	over   bool
}

func newAttempt(p *Pool, c store.Claimed) *attempt {
	a := &attempt{
		pool: p, claim: c, granted: make(chan struct{}), printing: make(chan struct{}),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

// log names the attempt. It is made when there is something to say: mostly there is nothing.
func (a *attempt) log() *slog.Logger {
	log := a.pool.log.With("action", a.claim.Action, "execution_id", a.claim.ExecutionID, "attempt", a.claim.Attempt)
	if a.claim.EventID != 0 {
		log = log.With("event_id", a.claim.EventID)
	}
	return log
}

// live is the whole life of the attempt.
func (a *attempt) live() {
	defer a.pool.free()
	var outcome *store.Outcome
	if a.slot() {
		begun := time.Now()
		outcome = a.survive()
		a.pool.pace.took(time.Since(begun))
		a.trace(begun, outcome)
		a.pool.slots.back()
	} else {
		a.giveUp()
	}
	a.end()
	if outcome == nil {
		a.pool.forget(a)
		return
	}
	outcome.Token = a.claim.Token
	a.pool.finisher.add(&ended{
		Action: a.claim.Action, ExecutionID: a.claim.ExecutionID, Attempt: a.claim.Attempt,
		Outcome: *outcome, attempt: a,
	})
}

// trace tells who traces what became of the attempt.
func (a *attempt) trace(begun time.Time, o *store.Outcome) {
	defer caught(a.pool.log, "tracing an attempt")
	if tracer := a.pool.opts.Tracer; tracer != nil && o != nil {
		tracer.Attempt(&a.claim, begun, o)
	}
}

// giveUp gives back an attempt that got no slot. Where a mistake of ours comes between, the renewals find that
// nobody has it.
func (a *attempt) giveUp() {
	defer caught(a.pool.log, "giving back an attempt")
	a.release(nil)
}

// survive keeps a mistake of ours to the one attempt that meets it.
func (a *attempt) survive() (o *store.Outcome) {
	defer func() {
		if v := recover(); v != nil {
			a.log().Error("attempt panicked", "err", v, "stack", string(debug.Stack()))
			o = a.abandon(fmt.Errorf("a mistake inside the daemon: %v", v))
		}
	}()
	return a.run()
}

// abandon ends the child of an attempt that nobody watches any more: none may follow before it is gone.
func (a *attempt) abandon(why error) *store.Outcome {
	a.stop(stopFence, 0)
	a.mu.Lock()
	proc := a.proc
	a.mu.Unlock()
	if proc == nil {
		return a.failed(why)
	}
	if err := proc.Stop(0); err != nil {
		a.noteUnkillable(err)
		return &store.Outcome{Status: store.StatusFailed, Error: child.Sanitize([]byte(why.Error() + ": " + err.Error()))}
	}
	return a.failed(why)
}

// end closes what others may look at.
func (a *attempt) end() {
	a.mu.Lock()
	a.over = true
	a.mu.Unlock()
	a.cancel()
	_ = a.pool.unbegun.begins(a.claim.Token) // what has not begun by now is given back, or has an outcome
	for _, capture := range []*child.Capture{a.stdout, a.stderr} {
		if capture != nil {
			_ = capture.Close()
		}
	}
	select {
	case <-a.printing:
	default:
		close(a.printing)
	}
}

// stop asks the attempt to end; only the first reason counts. A child gets grace between TERM and KILL.
func (a *attempt) stop(reason stopReason, grace time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || a.reason != stopNot {
		return
	}
	a.reason, a.grace = reason, grace
	a.cancel()
}

// disown ends an attempt whose token is void, at once: another one may run elsewhere by now.
func (a *attempt) disown() {
	a.stop(stopUnheld, 0)
	if reason, _ := a.stopped(); reason != stopUnheld {
		a.kill() // it is being stopped, with patience
	}
}

// kill ends the child at once, also one that is being stopped with more patience.
func (a *attempt) kill() {
	a.stop(stopFence, 0)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || a.killed || a.proc == nil {
		return
	}
	a.killed = true
	proc := a.proc
	a.pool.attempts.Go(func() {
		if err := proc.Stop(0); err != nil {
			a.log().Error("child cannot be killed", "err", err)
		}
	})
}

func (a *attempt) isOver() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.over
}

func (a *attempt) stopped() (stopReason, time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reason, a.grace
}

// run gives the outcome to write; nil: there is none, for nothing began.
func (a *attempt) run() *store.Outcome {
	if action := a.action(); a.claim.Expired && action != nil {
		return &store.Outcome{
			Status: store.StatusCancelled,
			Error:  store.ExpiredText(time.Duration(action.Expires)),
		}
	}
	if a.linedUp() {
		return nil
	}
	plan, err := a.prepare()
	if plan != nil {
		defer func() { plan.clear(&a.pool.temps, a.outlived) }()
	}
	if child.ShortageOf(err) != child.NoShortage {
		a.pool.ranShort(err)
		err = fmt.Errorf("%w: %w", errAway, err)
	}
	if reason, _ := a.stopped(); reason != stopNot || errors.Is(err, errAway) || a.pool.isDraining() {
		a.release(err)
		return nil
	}
	if errors.Is(err, errAllOver) {
		return &store.Outcome{Status: store.StatusTimedOut, Error: "timed out before it began again: " + a.allText()}
	}
	if err != nil {
		return a.failed(err)
	}
	a.pool.ready.add(a.claim.Record.RevisionID)
	held := a.claim.Begun
	if !held {
		held, err = a.pool.starter.begin(a.ctx, a.claim.Token)
	}
	switch reason, _ := a.stopped(); {
	case reason != stopNot:
		return a.neverRan()
	case err != nil:
		return a.failed(fmt.Errorf("cannot record that it begins: %w", err))
	case !held:
		a.log().Debug("not started, its token is void: it was cancelled, or its lease lapsed")
		return nil
	case a.pool.lease.age(a.pool.boottime()) >= fenceStop:
		a.stop(stopFence, 0)
		return a.neverRan()
	}
	if err := a.pool.unbegun.begins(a.claim.Token); err != nil {
		a.release(fmt.Errorf("%w: %w", errAway, err))
		return nil
	}
	proc, err := a.start(plan)
	if err != nil {
		if reason, _ := a.stopped(); reason != stopNot {
			return a.neverRan()
		}
		if child.ShortageOf(err) != child.NoShortage {
			return a.postponed(err)
		}
		return a.failed(err)
	}
	a.pool.started()
	return a.watch(plan, proc)
}

// linedUp gives back an attempt that is counted by another key than when it was queued, or was not counted
// then: the action has been edited since, or its edit was not known to who queued it.
func (a *attempt) linedUp() bool {
	if a.claim.Record == nil || a.claim.Record.ID == 0 {
		return false // of a former revision, which is counted as the one in force
	}
	key, counted, err := a.action().ConcurrencyKey(a.claim.Parameters)
	if !counted || store.SameKey(a.claim.Key, key) {
		return false
	}
	a.log().Debug("attempt is lined up by another key", "key", key, "err", err)
	if err := a.pool.queue.LineUp(context.Background(), a.claim.Token, key); err != nil {
		a.log().Warn("cannot line up an attempt", "err", err)
	}
	return true
}

// release gives back an attempt that did not begin.
func (a *attempt) release(why error) {
	reason, _ := a.stopped()
	if reason == stopUnheld {
		return // it is ours no more
	}
	if wait, ok := errors.AsType[*environment.WaitError](why); ok && reason == stopNot {
		a.log().Debug("attempt is put off", "reason", wait.Reason)
		if err := a.pool.queue.PutOff(context.Background(), a.claim.Token, child.Sanitize([]byte(wait.Reason)), putOff); err != nil {
			a.log().Warn("cannot put an attempt off", "err", err)
		}
		return
	}
	if errors.Is(why, errAway) {
		a.log().Warn("cannot prepare an attempt, it goes back to the queue", "err", why)
		timer := time.NewTimer(awayPause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-a.ctx.Done():
		}
	}
	// What is not released by this is found to be nobody's by the renewals, or lapses.
	if err := a.pool.queue.Release(context.Background(), []string{a.claim.Token}); err != nil {
		a.log().Warn("cannot give an attempt back to the queue", "err", err)
	}
}

// neverRan is for an attempt that was stopped when its start may have been recorded already: it goes
// back to the queue, for nothing has happened.
func (a *attempt) neverRan() *store.Outcome {
	reason, _ := a.stopped()
	if reason == stopUnheld {
		return nil
	}
	o := &store.Outcome{Status: store.StatusCancelled, Error: "stopped before it began: " + string(reason)}
	if reason != stopCancel {
		again(o, 0)
		o.Spare = true
	}
	return o
}

// postponed is for an attempt whose start was recorded and that could not be started here and now: it
// goes back to the queue.
func (a *attempt) postponed(err error) *store.Outcome {
	o := &store.Outcome{Status: store.StatusCancelled, Spare: true, Error: child.Sanitize([]byte(err.Error()))}
	again(o, a.pool.ranShort(err))
	return o
}

// failed is for an attempt without a process.
func (a *attempt) failed(err error) *store.Outcome {
	o := &store.Outcome{Status: store.StatusFailed, Error: child.Sanitize([]byte(err.Error()))}
	a.retry(o)
	return o
}

// start starts the child.
func (a *attempt) start(plan *plan) (process, error) {
	a.stdout = child.NewCapture(a.pool.opts.OutputLimit, plan.mask)
	a.stderr = child.NewCapture(a.pool.opts.OutputLimit, plan.mask)
	a.arrivals = child.NewArrivals(a.stdout, a.stderr)
	close(a.printing)
	plan.spec.Stdout, plan.spec.Stderr = a.stdout, a.stderr
	proc, err := a.pool.start(a.ctx, plan.spec)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.proc, a.began = proc, a.pool.boottime()
	a.mu.Unlock()
	a.outlived = true // until its end is seen, also if a mistake of ours takes us past that
	// The two clocks may differ; waiting less than nothing is no news.
	a.pool.metrics.wait.Observe(max(time.Since(a.claim.QueuedAt), 0).Seconds())
	return proc, nil
}

// watch waits for the child's end, or brings it about.
func (a *attempt) watch(plan *plan, proc process) *store.Outcome {
	began := time.Now()
	if !a.allUntil.IsZero() {
		plan.total = time.Until(a.allUntil) < plan.timeout
		plan.timeout = min(plan.timeout, time.Until(a.allUntil))
	}
	timer := time.NewTimer(plan.timeout)
	defer timer.Stop()
	if a.pool.lease.age(a.pool.boottime()) >= fenceStop {
		a.stop(stopFence, 0) // the start took long, or this daemon was frozen in it: another may run elsewhere by now
	}
	select {
	case <-proc.Done():
	case <-timer.C:
		a.stop(stopTimeout, a.pool.opts.StopGrace)
	case <-a.ctx.Done():
	}
	reason, grace := a.stopped()
	select {
	case <-proc.Done():
		reason = a.endedBy(reason, proc.Wait())
	default:
		if err := proc.Stop(grace); err != nil {
			a.noteUnkillable(err)
			a.closeStreams()
			return a.conclude(plan, reason, child.Exit{Code: -1}, err)
		}
	}
	exit := proc.Wait()
	a.closeStreams()
	a.pool.metrics.duration.WithLabelValues(a.claim.Action).Observe(time.Since(began).Seconds())
	if exit.Outlived {
		err := fmt.Errorf("cannot end what it left behind: %w", child.ErrUnkillable)
		a.noteUnkillable(err)
		return a.conclude(plan, reason, exit, err)
	}
	a.outlived = false
	return a.conclude(plan, reason, exit, nil)
}

func (a *attempt) noteUnkillable(err error) {
	a.log().Error("child cannot be stopped", "err", err)
	a.pool.metrics.unkillable.Inc()
}

// endedBy tells what ended a child that this attempt has not stopped: itself, whoever wanted it to, or a
// kill that came past the attempt, by the guard of the leases or by the keeper while this daemon was frozen.
func (a *attempt) endedBy(reason stopReason, exit child.Exit) stopReason {
	if exit.Signal != sigKill || exit.OOM || exit.ForkBomb {
		return stopNot
	}
	a.mu.Lock()
	killed, began := a.killed, a.began
	a.mu.Unlock()
	switch {
	case killed:
		return reason
	case a.pool.lease.outlasted(began, a.pool.boottime()):
		return stopFence
	}
	return stopNot
}

func (a *attempt) closeStreams() {
	_ = a.stdout.Close()
	_ = a.stderr.Close()
}

// conclude makes the outcome of an attempt whose child has ended, or cannot be ended.
func (a *attempt) conclude(plan *plan, reason stopReason, exit child.Exit, unkillable error) *store.Outcome {
	o := &store.Outcome{Signal: exit.Signal}
	if exit.Code >= 0 {
		o.ExitCode = &exit.Code
	}
	o.Stdout, o.Stderr, o.Arrival = output(a.stdout), output(a.stderr), a.arrivals.InText()
	switch reason {
	case stopNot:
		a.judge(plan, exit, o)
		a.retry(o)
	case stopTimeout:
		o.Status, o.Error = store.StatusTimedOut, fmt.Sprintf("timed out after %v", plan.timeout)
		if plan.total {
			o.Error = "timed out: " + a.allText()
		}
		o.Result = plan.result(a.stdout, nil)
		a.retry(o)
	case stopCancel:
		o.Status, o.Error = store.StatusCancelled, "cancelled while it ran"
	case stopShutdown:
		o.Status, o.Error = store.StatusCancelled, "stopped, because the daemon was stopping"
		again(o, 0)
		o.Spare = true // the action has done nothing wrong
	case stopFence:
		o.Status, o.Error = store.StatusFailed, fmt.Sprintf("stopped, because this node could not renew its lease for %v", fenceStop)
		if delay, yes := retryLost(a.action(), a.retries(), a.claim.Tries); yes {
			a.follow(o, delay)
		}
	case stopUnheld:
		o.Status, o.Error = store.StatusFailed, "stopped, because its lease was lost"
	default:
		panic("worker: unknown reason to stop: " + string(reason))
	}
	if text := exit.Refused(); text != "" && reason != stopNot {
		o.Error += ": " + text
	}
	if unkillable != nil && o.Status != store.StatusSucceeded {
		o.Error += ": " + unkillable.Error()
		// What is still there and another attempt would be two at once.
		o.RetryAt, o.Spare = nil, false
		if reason == stopShutdown {
			o.Status = store.StatusFailed
		}
	}
	return o
}

// sigKill is the signal that leaves no trace of its sender.
const sigKill = "SIGKILL"

// judge is for a child that ended by itself.
func (a *attempt) judge(plan *plan, exit child.Exit, o *store.Outcome) {
	o.Status = store.StatusFailed
	if exit.Code != 0 {
		o.Error = exit.String()
		if exit.Signal == sigKill && !exit.OOM && !exit.ForkBomb {
			o.Error += ", which Attune did not send"
		}
		o.Result = plan.result(a.stdout, nil)
		return
	}
	var problem error
	o.Result = plan.result(a.stdout, &problem)
	if problem != nil {
		o.Error = child.Sanitize([]byte(problem.Error()))
		return
	}
	if text := misfits(plan.action.OutputSchema, o.Result); text != "" {
		o.Error = text
		return
	}
	o.Status = store.StatusSucceeded
	if exit.OutputIncomplete {
		a.log().Info("a process that the action left behind kept its output open, it was cut off")
	}
}

// retry lets another attempt follow where the action says so.
func (a *attempt) retry(o *store.Outcome) {
	if a.action() == nil {
		return
	}
	if delay, yes := retryAfter(a.retries(), a.claim.Tries, o.Status, o.ExitCode); yes {
		a.follow(o, delay)
	}
}

// follow lets another attempt follow after delay, unless the time for all of them is over by then.
func (a *attempt) follow(o *store.Outcome, delay time.Duration) {
	if a.allUntil.IsZero() || time.Now().Add(delay).Before(a.allUntil) {
		again(o, delay)
	} else if !strings.HasSuffix(o.Error, a.allText()) {
		o.Error += "; not tried again: " + a.allText()
	}
}

// allText says what bounds all attempts.
func (a *attempt) allText() string {
	return fmt.Sprintf("all attempts together may take %v (timeout_total)", a.total)
}

// retries is the execution's own retry, else the action's; nil: there is none.
func (a *attempt) retries() *manifest.Retry {
	action := a.action()
	if a.claim.Retry != nil || action == nil {
		return a.claim.Retry
	}
	return action.Retry
}

// again lets another attempt follow after delay.
func again(o *store.Outcome, delay time.Duration) {
	at := time.Now().Add(delay)
	o.RetryAt = &at
}

// action is what is to be run; nil: it is gone.
func (a *attempt) action() *manifest.Action {
	if a.claim.Record == nil {
		return nil
	}
	action, _ := a.claim.Record.Spec.(*manifest.Action)
	return action
}

func output(c *child.Capture) store.Output {
	text, total, omitted := c.Text()
	return store.Output{Text: text, Bytes: total, Omitted: omitted}
}
