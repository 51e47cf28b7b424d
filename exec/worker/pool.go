package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/environment"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// workersPerCore is for Options.Workers 0: most actions wait for something else than the CPU.
	workersPerCore = 2

	defaultTimeout     = 300 * time.Second
	defaultOutputLimit = 1 << 20 // bytes
	defaultStopGrace   = 10 * time.Second

	// persistPause comes before a loop that panicked is started again.
	persistPause = time.Second

	// hurryGrace is what a child gets to end itself once somebody is in a hurry.
	hurryGrace = time.Second
)

// Revisions gives the folder that a revision's files stand in; reconcile.Revisions is it.
type Revisions interface {
	Dir(ctx context.Context, revisionID int64, treeDigest string) (string, error)
}

// Environments makes what packs require; environment.Manager is it.
type Environments interface {
	For(need environment.Need) (*environment.Environment, error)
}

// Starter starts children: child.Runner always from nothing, child.Warm from warm parents where it can.
type Starter interface {
	Start(ctx context.Context, spec child.Spec) (*child.Process, error)
}

var (
	_ Starter = (*child.Runner)(nil)
	_ Starter = (*child.Warm)(nil)
)

// queue is the part of store.Store that attempts live on.
type queue interface {
	Claim(ctx context.Context, node string, limit int, ready ...int64) ([]store.Claimed, error)
	Start(ctx context.Context, tokens []string) (held map[string]bool, err error)
	Release(ctx context.Context, tokens []string) error
	PutOff(ctx context.Context, token, reason string, wait time.Duration) error
	LineUp(ctx context.Context, token, key string) error
	Renew(ctx context.Context, node string) (*store.Renewal, error)
	Finish(ctx context.Context, outcomes []store.Outcome) (accepted []bool, err error)
	Reap(ctx context.Context) (requeued, lost []int64, err error)
	Execution(ctx context.Context, id int64) (*store.Execution, []store.Attempt, error)
	SinceFirstStart(ctx context.Context, id int64, createdAt time.Time) (time.Duration, error)
	NextDue(ctx context.Context) (left time.Duration, waits bool, err error)
}

var _ queue = (*store.Store)(nil)

// process is a started child; child.Process is it.
type process interface {
	Done() <-chan struct{}
	Wait() child.Exit
	Stop(grace time.Duration) error
}

// Options are what a Pool needs.
type Options struct {
	Node     string
	Store    *store.Store
	Listener *store.Listener
	Runner   *child.Runner
	// Starter starts the children; a child.Warm is one. Defaults to Runner, which starts them all cold.
	Starter Starter
	// Warm lets every action start from a warm parent, not only those that say so.
	Warm         bool
	Interpreters *child.Interpreters
	// Environments gives what a script runs with beside its interpreter; nil: nothing.
	Environments Environments
	Revisions    Revisions
	PackConfig   func(pack string) map[string]any // nil: no pack has any
	// ConfSchema says what of a pack's configuration is secret; nil: nothing.
	ConfSchema func(pack string) *manifest.Schema
	Secret     func(name string) (string, error) // nil: there is none
	// Unseal opens a parameter that was encrypted when it was queued; nil: none can be.
	Unseal func(action, pointer, sealed string) (any, error)
	// RunAs is the user of actions that name none. Defaults to the daemon's own.
	RunAs string
	// Workers is how many children run at once. Defaults to twice the cores.
	Workers int
	// Timeout is for actions that name none; OutputLimit bounds what is kept of a stream, in bytes.
	// Default to 5 minutes and 1 MiB.
	Timeout     time.Duration
	OutputLimit int64
	// StopGrace is between TERM and KILL; it defaults to 10 s. Drain is how long attempts may run on
	// after Run's context has ended.
	StopGrace, Drain time.Duration
	// MaxTimeout bounds the timeout of a pack's actions ([packs.config.x] max_action_timeout); 0: none.
	MaxTimeout func(pack string) time.Duration
	// DataDir holds a folder for each pack that its children may write; TempDir their TMPDIRs;
	// SpoolDir keeps results while the database is away.
	DataDir, TempDir, SpoolDir string
	// Binary is this program's own file, given to children as ATTUNE_BINARY.
	Binary   string
	LogLevel string // given to children as ATTUNE_LOG_LEVEL
	Tracer   Tracer // nil: nobody traces
	// Recorded hears of each outcome that was recorded, with the action's result; nil: nobody does. It waits for
	// nobody.
	Recorded   func(action string, result []byte)
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Tracer is told what became of attempts. It waits for nobody.
type Tracer interface {
	// Parent is what the attempt's child finds in TRACEPARENT.
	Parent(c *store.Claimed) string
	// Attempt tells of one that has ended.
	Attempt(c *store.Claimed, begun time.Time, o *store.Outcome)
}

func (o *Options) check() error {
	missing := func(name string) error {
		return fmt.Errorf("cannot make the worker pool: Options.%s is missing", name)
	}
	switch {
	case o.Node == "":
		return missing("Node")
	case o.Store == nil:
		return missing("Store")
	case o.Listener == nil:
		return missing("Listener")
	case o.Runner == nil:
		return missing("Runner")
	case o.Interpreters == nil:
		return missing("Interpreters")
	case o.Revisions == nil:
		return missing("Revisions")
	case o.DataDir == "":
		return missing("DataDir")
	case o.TempDir == "":
		return missing("TempDir")
	case o.SpoolDir == "":
		return missing("SpoolDir")
	case o.Workers < 0:
		return fmt.Errorf("cannot make the worker pool: Options.Workers is %d, expected 0 or more", o.Workers)
	}
	return nil
}

func (o *Options) fill() {
	if o.PackConfig == nil {
		o.PackConfig = func(string) map[string]any { return nil }
	}
	if o.ConfSchema == nil {
		o.ConfSchema = func(string) *manifest.Schema { return nil }
	}
	if o.Secret == nil {
		o.Secret = func(string) (string, error) { return "", errors.New("there are no secrets") }
	}
	if o.Unseal == nil {
		o.Unseal = func(string, string, string) (any, error) { return nil, errors.New("there are no keys") }
	}
	if o.MaxTimeout == nil {
		o.MaxTimeout = func(string) time.Duration { return 0 }
	}
	if o.Starter == nil {
		o.Starter = o.Runner
	}
	if o.Workers == 0 {
		o.Workers = workersPerCore * runtime.NumCPU()
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.OutputLimit <= 0 {
		o.OutputLimit = defaultOutputLimit
	}
	if o.StopGrace <= 0 {
		o.StopGrace = defaultStopGrace
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Pool claims executions and runs them.
type Pool struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics

	// What tests put a stand-in for: the clock of leases, and processes.
	queue     queue
	boottime  func() time.Duration
	start     func(ctx context.Context, spec child.Spec) (process, error)
	subscribe func(channel string) (<-chan string, func())
	// leaseUntil tells the keeper.
	leaseUntil func(time.Duration)
	// patience is stockPatience.
	patience time.Duration

	lease    lease
	shortage shortage
	starter  starter
	finisher finisher
	temps    temps
	resolved resolved
	ready    ready
	pace     pace
	slots    slots
	unbegun  unbegun
	// wake tells the claim loop that something changed for it.
	wake chan struct{}

	hurry     chan struct{}
	hurryOnce sync.Once
	attempts  sync.WaitGroup

	mu   sync.Mutex
	busy int // attempts that run or wait for a slot, and what is kept for a Hand
	// idle says that the last look at the queue left nothing there, and that none has to follow.
	idle     bool
	draining bool
	// held are the attempts whose token is ours, until their outcome is written; followed are those of
	// them that Follow finds, by execution.
	held     map[string]*attempt
	followed map[int64]*attempt
	due      time.Time // when the next retry of ours is; zero: none
	// claiming are the claims whose answer may come still.
	claiming int
	// unanswered says that a claim failed, and that no renewal has been hastened for what it may have taken.
	unanswered atomic.Bool
	// strangers are the executions that somebody last wanted cancelled and nobody here knew of.
	strangers    [cancelsKept]int64
	nextStranger int
}

// cancelsKept is how many notices may come while a claim is answered; what is missed waits for the next renewal.
const cancelsKept = 64

// New makes a Pool.
func New(opts Options) (*Pool, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	opts.fill()
	return newPool(opts, opts.Store), nil
}

func newPool(opts Options, q queue) *Pool {
	p := &Pool{
		opts:      opts,
		log:       opts.Logger.With("component", "worker"),
		queue:     q,
		boottime:  child.Boottime,
		subscribe: opts.Listener.Subscribe,
		wake:      make(chan struct{}, 1),
		hurry:     make(chan struct{}),
		held:      map[string]*attempt{},
		followed:  map[int64]*attempt{},
	}
	p.start = func(ctx context.Context, spec child.Spec) (process, error) { return opts.Starter.Start(ctx, spec) }
	p.leaseUntil = opts.Runner.LeaseUntil
	p.metrics = newMetrics(opts.Registerer, opts.Workers)
	p.temps.dir, p.temps.log = opts.TempDir, p.log
	p.slots.free, p.patience = opts.Workers, stockPatience
	p.lease.init()
	p.starter.init(q, p.log)
	p.finisher.init(q, p.log, spool{dir: opts.SpoolDir}, p.settle, p.isStocked, p.metrics.setAside)
	return p
}

// Run claims and runs until ctx ends; then it stops claiming, lets running attempts finish within
// Drain, stops the rest and gives them back to the queue. Outcomes that the database did not take
// until the end are in SpoolDir.
func (p *Pool) Run(ctx context.Context) error {
	if err := p.makeFolders(); err != nil {
		return err
	}
	if err := p.finisher.recover(); err != nil {
		return err
	}
	if err := p.unbegun.open(p.opts.SpoolDir); err != nil {
		p.log.Warn("cannot note which attempts have not begun: if the daemon is killed they are lost with the others", "err", err)
	}
	defer p.unbegun.close()
	// What serves running attempts goes on while they drain.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var helpers sync.WaitGroup
	for _, helper := range []func(context.Context){p.renewLeases, p.guardLease, p.starter.run, p.reap, p.hearCancels, p.watchDue} {
		helpers.Go(func() { p.persist(work, helper) })
	}
	var finishing sync.WaitGroup
	finishing.Go(p.finisher.run)

	p.persist(ctx, p.claimLoop)
	p.StopClaiming()
	p.drain()
	stopped := p.finisher.stop()
	finishing.Wait()
	stopped()
	// Until here leases were renewed: a result whose lease has lapsed would be no result.
	stop()
	helpers.Wait()
	p.temps.clear()
	return nil
}

// persist runs a loop until ctx ends. A mistake of ours in one of them must not take the daemon, and
// all that runs, down with it: each keeps what it knows in the pool, under locks that a panic gives back, and begins
// anew after persistPause.
func (p *Pool) persist(ctx context.Context, helper func(context.Context)) {
	for ctx.Err() == nil {
		func() {
			defer caught(p.log, "a loop of the pool")
			helper(ctx)
		}()
		select {
		case <-ctx.Done():
		case <-time.After(persistPause):
		}
	}
}

// caught, deferred, keeps a mistake of ours to what the function was about. It is logged with its stack, which
// attune_panics_total counts.
func caught(log *slog.Logger, what string) {
	if v := recover(); v != nil {
		log.Error("panicked, the daemon goes on without what it met", "what", what, "err", fmt.Sprint(v), "stack", string(debug.Stack()))
	}
}

// StopClaiming has the pool take nothing more, before Run's context ends: what runs goes on.
func (p *Pool) StopClaiming() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draining = true
}

// Hurry ends a drain now. It may be called before there is one.
func (p *Pool) Hurry() { p.hurryOnce.Do(func() { close(p.hurry) }) }

// drain waits for the attempts that run, and stops those that take too long.
func (p *Pool) drain() {
	done := make(chan struct{})
	go func() {
		p.attempts.Wait()
		close(done)
	}()
	limit := time.NewTimer(p.opts.Drain)
	defer limit.Stop()
	grace := p.opts.StopGrace
	if n := len(p.unfinished()); n > 0 {
		p.log.Info("waiting for running attempts to finish", "count", n, "drain", p.opts.Drain)
	}
	select {
	case <-done:
		return
	case <-limit.C:
	case <-p.hurry:
		grace = min(grace, hurryGrace)
	}
	running := p.unfinished()
	p.log.Info("stopping attempts that have not finished, they go back to the queue", "count", len(running))
	for _, a := range running {
		a.stop(stopShutdown, grace)
	}
	select {
	case <-done:
		return
	case <-p.hurry:
	}
	// Also those that were being stopped with more patience.
	kill := time.NewTimer(min(grace, hurryGrace))
	defer kill.Stop()
	select {
	case <-done:
		return
	case <-kill.C:
	}
	for _, a := range p.unfinished() {
		a.kill()
	}
	<-done
}

// makeFolders makes the folders that children live in, and clears what a dead run left of them.
func (p *Pool) makeFolders() error {
	for dir, mode := range map[string]os.FileMode{
		// Children of other users pass through the first two.
		p.opts.DataDir: 0o711, p.opts.TempDir: 0o711, p.opts.SpoolDir: 0o700,
	} {
		if _, err := os.Stat(dir); err == nil {
			continue
		}
		err := os.MkdirAll(dir, mode)
		if err == nil {
			err = os.Chmod(dir, mode) // whatever the umask says
		}
		if err != nil {
			return fmt.Errorf("cannot make folder %s: %v", dir, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(p.opts.TempDir, tempPrefix+"*"))
	if err != nil {
		return fmt.Errorf("cannot look for folders of dead attempts: %v", err)
	}
	for _, dir := range left {
		if err := child.RemoveFolder(dir); err != nil {
			p.log.Warn("cannot remove the folder of a dead attempt", "err", err)
		}
	}
	return nil
}

// admit takes claimed attempts in, and starts them.
// reserved are how many of them busy counts already.
func (p *Pool) admit(claimed []store.Claimed, reserved int) {
	for _, a := range p.enlist(claimed, reserved) {
		if a.claim.Begun {
			if err := p.unbegun.note(a.claim.Token); err != nil {
				a.log().Warn("cannot note that an attempt has not begun: if the daemon is killed now it is lost", "err", err)
			}
		}
		p.slots.ask(a)
		p.attempts.Go(a.live)
	}
	if len(claimed) > 0 {
		p.opts.Listener.Claimed()
	}
}

// enlist makes claimed attempts known.
func (p *Pool) enlist(claimed []store.Claimed, reserved int) []*attempt {
	list := make([]*attempt, len(claimed))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy -= reserved
	for i, c := range claimed {
		a := newAttempt(p, c)
		list[i] = a
		p.held[c.Token], p.followed[c.ExecutionID] = a, a
		p.busy++
		if slices.Contains(p.strangers[:], c.ExecutionID) {
			p.lease.hasten()
		}
	}
	p.metrics.setBusy(min(p.busy, p.opts.Workers))
	return list
}

// free gives a slot back.
func (p *Pool) free() {
	p.mu.Lock()
	p.busy--
	p.metrics.setBusy(min(p.busy, p.opts.Workers))
	p.mu.Unlock()
	p.poke()
}

// poke makes the claim loop look again at what it waits for.
func (p *Pool) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// forget is for an attempt of which nothing is to be written any more.
func (p *Pool) forget(a *attempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.held, a.claim.Token)
	if p.followed[a.claim.ExecutionID] == a {
		delete(p.followed, a.claim.ExecutionID)
	}
}

// settle is told each outcome that the database has taken, or will not take.
func (p *Pool) settle(e *ended, accepted bool) {
	if e.attempt != nil {
		p.forget(e.attempt)
	}
	p.poke() // claims wait while too many outcomes are unwritten
	o := &e.Outcome
	if accepted && p.opts.Recorded != nil {
		p.opts.Recorded(e.Action, o.Result)
	}
	about := []any{"action", e.Action, "execution_id", e.ExecutionID, "attempt", e.Attempt}
	switch {
	case !accepted:
		p.metrics.fenced.Inc()
		p.log.Warn("outcome came too late, it is kept as evidence only", append(about, "status", o.Status)...)
	case o.RetryAt != nil:
		p.retryAt(*o.RetryAt)
		p.log.Info("attempt ended and is queued again", append(about, "status", o.Status, "err", o.Error)...)
	default:
		p.metrics.executions.WithLabelValues(e.Action, string(o.Status)).Inc()
		if o.Status == store.StatusSucceeded {
			p.log.Debug("execution succeeded", about...)
		} else {
			p.log.Info("execution ended", append(about, "status", o.Status, "err", o.Error)...)
		}
	}
}

func (p *Pool) isDraining() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.draining
}

// unfinished lists the attempts whose child may be there.
func (p *Pool) unfinished() []*attempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]*attempt, 0, len(p.held))
	for _, a := range p.held {
		if !a.isOver() {
			list = append(list, a)
		}
	}
	return list
}

// Stats are for status and metrics.
type Stats struct {
	Workers int `json:"workers"`
	Busy    int `json:"busy"`
}

// Stats tells how busy the pool is.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{Workers: p.opts.Workers, Busy: min(p.busy, p.opts.Workers)}
}

// packOf is the pack of a ref.
func packOf(ref string) string {
	pack, _, _ := strings.Cut(ref, ".")
	return pack
}
