package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	defaultQuiet   = 250 * time.Millisecond
	defaultMaxWait = 2 * time.Second
	defaultResync  = 30 * time.Second
	defaultPoll    = 5 * time.Second
	// sourceRetry is how often a packs folder that cannot be read is tried, and one that can be looked at.
	sourceRetry = time.Second
	// A pass that the database did not let through is tried again after firstBackoff, doubled up to
	// maxBackoff: short enough to be there when a restarted server is.
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 10 * time.Second
)

// The causes of a pass, as revisions and the log name them.
const (
	causeStart   = "start"
	causeEdit    = "edit"
	causeResync  = "resync"
	causeCommand = "command"
)

var errEnded = errors.New("the reconciler has ended")

// Options are what a Reconciler needs.
type Options struct {
	// Directories are the packs folders; of two packs with one ref the later folder's wins.
	Directories []string
	// AutoLoad are patterns (path.Match) of the packs to load. Defaults to ["*"].
	AutoLoad []string
	// PackConfig is [packs.config], by pack ref.
	PackConfig map[string]map[string]any
	// ConfigPlace gives where a key of it stands; nil: nobody knows.
	ConfigPlace func(pack, key string) manifest.Place
	Store       *store.Store
	Revisions   *Revisions
	// Interpreters tells which runtimes there are; nil: not checked.
	Interpreters Interpreters
	Version      string // of the daemon
	// Seals says why nothing secret could be encrypted to be stored; nil: it can be.
	Seals func() error
	// Environment names what else decides about packs and is in none of their files: the program, the
	// interpreters. When it changes, what an earlier process found of them no longer counts.
	Environment string
	// Trust says which packs may come into force.
	Trust Trust
	// Memory is the file in which a start finds what the last process knew of the packs. Empty: each
	// start reads all of them.
	Memory     string
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	// Quiet, MaxWait and Resync are reconcile.debounce, max_wait and resync. Default to 250 ms, 2 s
	// and 30 s.
	Quiet, MaxWait, Resync time.Duration
	// Poll is how often the folders are scanned where watching fails. Defaults to 5 s.
	Poll time.Duration
	// PlanOnly applies nothing (reconcile.mode = "plan").
	PlanOnly bool
	// Node names this node where there are several.
	Node string
	// Leads tells whether this node is the one that applies, and the token of that lease. The others
	// only look, and say what differs. nil: it always is.
	Leads func() (token string, leads bool)
	// Applied is called after each apply with the generation and the packs that changed; it must
	// only signal.
	Applied func(generation int64, packs []string)
	// Many is called before very many packs are parsed in one pass.
	Many func()
}

// Interpreters is what only exec knows: which interpreters this machine has.
type Interpreters interface {
	// Check gives nil when one of the runtime satisfies the version range; the error says what was
	// found and what would do.
	Check(runtime, interpreter, versions string) error
}

// Reconciler is the loop: dirty, scan, plan, apply, announce. Only its own goroutine applies.
type Reconciler struct {
	opts    Options
	logger  *slog.Logger
	metrics *metrics
	watcher *watcher
	scanner *scanner
	wake    chan struct{} // holds one
	ready   chan struct{}

	// These belong to Run's goroutine.
	packs   map[string]*pack // those that have a folder, by ref
	listing *listing
	known   map[string]identity // of the packs folders
	noticed map[string]bool     // keys of folders that are no pack, told once
	warned  map[string]bool     // what was said of packs folders
	catalog *store.Catalog
	records map[string][]*store.Record // the catalog's, by pack
	world   *world
	removal removal
	// seen are the packs that were ever looked at, and unsure those whose first look has yet to be
	// compared with the past: see hold.
	seen   map[string]bool
	unsure []string
	// checkouts are packs whose files were of an older revision when they were first looked at.
	checkouts map[string]checkout
	// absent are packs in force that this node's folders did not have when it came to lead.
	absent map[string]bool
	// differs is since when packs of this node's folders are not those in force, while it follows.
	differs map[string]time.Time
	// pinned are the packs with a pin, and drifts what is not applied, by pack.
	pinned map[string]bool
	drifts map[string]*PackPlan
	// drifted says that drifts changed since the status tells of them.
	drifted  bool
	resyncAt time.Time
	sourceAt time.Time // when to look again whether the packs folders are what they were
	// afar are the packs on file systems that do not tell of all changes, where their packs folder is not.
	afar     map[string]string
	failures int // of passes, in a row
	// memory is of the last process, for the first look at each pack; environment is what it has to be of.
	memory      memory
	environment string
	unkept      bool // something changed since the memory was written
	// planOnly says for the pass under way that it applies nothing, and lease is the token that it applies
	// under.
	planOnly bool
	lease    string
	// forced are packs whose files were released by order and are not in force yet, with who ordered it.
	forced map[string]*waiter
	// roundPacks is how many packs are compared at once.
	roundPacks int

	mu    sync.Mutex
	asked request
	// changed is the environment that the next pass finds; nil: it is what it was.
	changed *string
	// reconfigured is what [packs.config] has become; nil: it has not.
	reconfigured *map[string]map[string]any
	// noticedGeneration is the newest that somebody told of, and errandsDue says that another node may have
	// asked for something.
	noticedGeneration int64
	errandsDue        bool
	waiters           []*waiter
	status            Status
	ended             bool
}

// pack is what is remembered of one pack between passes.
type pack struct {
	folder *folder
	// content are manifests that were just read; they are dropped when they have been parsed.
	content map[string][]byte
	// stale says that it is to be compared: its files changed, or its row did.
	stale bool
	cause string    // of its staleness
	since time.Time // of its first change that is not in force; zero: unknown
	// errors are the findings of the last check.
	errors manifest.Errors
	// needs are other packs whose components it names, accepted or not, and offer is a digest of what others
	// may name.
	needs []string
	offer string
	// broken are the manifests that the last check refused.
	broken []manifest.Broken
	row    *store.PackRow
	// told is one more than the errors that Prometheus knows of; 0: it knows nothing of the pack.
	told int
	// rest is what the last plan would have done, or what it keeps; nil: nothing.
	rest    *PackPlan
	enabled bool
}

// request is a scan of all packs that somebody asked for.
type request struct {
	cause string // empty: nobody asked
	since map[string]time.Time
	at    time.Time // not before
	// again says that no person asked but a pass that failed, a new leader or the machine: what is not
	// quiet is left alone.
	again bool
}

// waiter waits for a pass that begins after it came.
type waiter struct {
	by     string
	origin store.Origin // from where by asks
	plan   bool         // only the plan is wanted
	// force is a pack whose files are to be applied although they are of an older revision.
	force string
	// command runs instead of a pass.
	command func(ctx context.Context, now time.Time) (*Report, error)
	answer  chan answer
}

type answer struct {
	report *Report
	err    error
}

// Status tells how the loop is doing.
type Status struct {
	LastScan     time.Time     `json:"last_scan"`
	LastApply    time.Time     `json:"last_apply"`
	ScanDuration time.Duration `json:"scan_duration"`
	Mode         string        `json:"mode"`       // apply or plan
	WatchMode    string        `json:"watch_mode"` // inotify or poll
	WatchReason  string        `json:"watch_reason,omitempty"`
	// SourceProblem says which folder cannot be read; empty: all can.
	SourceProblem string `json:"source_problem,omitempty"`
	Error         string `json:"error,omitempty"` // why the last apply failed
	// Drift are packs whose folder is not what is in force, and is not going to be by itself.
	Drift []Drift `json:"drift"`
	// Compared tells how far the pass under way is that compares very many packs; nil: none does.
	Compared *Compared `json:"compared,omitempty"`
}

// Compared is how many packs a pass has compared with what is in force, of how many that it knows of by then.
type Compared struct {
	Packs int `json:"packs"`
	Of    int `json:"of"`
}

// Drift is a pack whose folder differs from what is in force, and why that is left so.
type Drift struct {
	Pack string `json:"pack"`
	// Why is "the daemon only plans", "pinned to revision 3 by alice" or the like.
	Why string `json:"why"`
	// Steps is how many steps an apply would take.
	Steps int `json:"steps"`
}

// Report is what a scan found and did.
type Report struct {
	Generation int64           `json:"generation"`
	Plan       *Plan           `json:"plan"`
	Errors     manifest.Errors `json:"errors"`
	// Held are packs that have vanished and stay until a second scan agrees, because they are over
	// half of all.
	Held []string `json:"held,omitempty"`
	// Waits are packs that are being written: they stay as they are until that is over, and are then applied.
	Waits []PackWait `json:"waits,omitempty"`
}

// PackWait is a pack that is being written, and what tells so.
type PackWait struct {
	Pack string `json:"pack"`
	Why  string `json:"why"`
}

// New makes a Reconciler; nothing is read before Run.
func New(opts Options) (*Reconciler, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	r := &Reconciler{
		opts: opts, logger: opts.Logger.With("component", "reconcile"), metrics: newMetrics(opts.Registerer),
		wake: make(chan struct{}, 1), ready: make(chan struct{}),
		packs: map[string]*pack{}, known: map[string]identity{}, noticed: map[string]bool{}, warned: map[string]bool{}, afar: map[string]string{},
		seen: map[string]bool{}, checkouts: map[string]checkout{}, absent: map[string]bool{}, differs: map[string]time.Time{},
		pinned: map[string]bool{}, drifts: map[string]*PackPlan{}, forced: map[string]*waiter{},
		asked: request{cause: causeStart}, roundPacks: roundPacks,
	}
	r.environment = r.opts.environmentOf()
	r.status.Mode = "apply"
	if opts.PlanOnly {
		r.status.Mode = "plan"
	}
	r.status.WatchMode = watchInotify
	r.watcher = newWatcher(newWindows(opts.Quiet, opts.MaxWait), r.logger, r.metrics, r.signal)
	r.scanner = newScanner(r.watcher, opts.Quiet)
	r.scanner.lenient = opts.Trust.WorldWritable
	return r, nil
}

func (o *Options) complete() error {
	if len(o.Directories) == 0 {
		return errors.New("cannot reconcile: Directories is empty")
	}
	o.Directories = slices.Clone(o.Directories)
	for i, directory := range o.Directories {
		whole, err := filepath.Abs(directory)
		if err != nil {
			return fmt.Errorf("cannot reconcile: Directories: %v", err)
		}
		o.Directories[i] = whole
	}
	if o.AutoLoad == nil {
		o.AutoLoad = []string{"*"}
	}
	for _, pattern := range o.AutoLoad {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("cannot reconcile: AutoLoad: %q: %v", pattern, err)
		}
	}
	switch {
	case o.Store == nil:
		return errors.New("cannot reconcile: Store is missing")
	case o.Revisions == nil:
		return errors.New("cannot reconcile: Revisions is missing")
	case o.Logger == nil:
		return errors.New("cannot reconcile: Logger is missing")
	}
	for _, d := range []struct {
		value     *time.Duration
		otherwise time.Duration
	}{{&o.Quiet, defaultQuiet}, {&o.MaxWait, defaultMaxWait}, {&o.Resync, defaultResync}, {&o.Poll, defaultPoll}} {
		if *d.value <= 0 {
			*d.value = d.otherwise
		}
	}
	if o.Applied == nil {
		o.Applied = func(int64, []string) {}
	}
	if o.Many == nil {
		o.Many = func() {}
	}
	return nil
}

// Run watches first, then scans, then serves, until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	r.remember()
	defer r.keep()
	r.watcher.start()
	defer r.watcher.stop()
	defer r.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		job, next := r.next(time.Now())
		if job != nil {
			r.serve(ctx, job)
			if ctx.Err() != nil {
				return nil
			}
			continue
		}
		timer.Reset(max(time.Until(next), 0))
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
	}
}

// end answers those who wait, now and from now on.
func (r *Reconciler) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	for _, w := range r.waiters {
		w.answer <- answer{err: errEnded}
	}
	r.waiters = nil
}

// signal wakes the loop, which then sees for itself why.
func (r *Reconciler) signal() {
	select {
	case r.wake <- struct{}{}:
	default: // it has not looked since the last one
	}
}

// Ready is closed after the first scan was applied.
func (r *Reconciler) Ready() <-chan struct{} { return r.ready }

// Dirty asks for a scan of all packs soon. cause is for the revision and the log: "leader", "resync". As no
// person asked, what is being written is left until it is quiet.
func (r *Reconciler) Dirty(cause string) {
	r.mu.Lock()
	if r.asked.cause == "" {
		r.asked.cause, r.asked.again = cause, true
	}
	r.mu.Unlock()
	r.signal()
}

// EnvironmentChanged says what Options.Environment has become, and has all packs checked again: what was
// refused may do now, and the other way round. What is being written is left until it is quiet.
func (r *Reconciler) EnvironmentChanged(environment, cause string) {
	r.mu.Lock()
	r.changed = &environment
	if r.asked.cause == "" {
		r.asked.cause, r.asked.again = cause, true
	}
	r.mu.Unlock()
	r.signal()
}

// Reconfigure says what Options.PackConfig has become, and has all packs checked against it with the next pass.
func (r *Reconciler) Reconfigure(config map[string]map[string]any) {
	r.mu.Lock()
	r.reconfigured = &config
	r.mu.Unlock()
}

// adopt has each pack compared again where the environment or the configuration has changed.
func (r *Reconciler) adopt() {
	r.mu.Lock()
	environment, config := r.changed, r.reconfigured
	r.changed, r.reconfigured = nil, nil
	r.mu.Unlock()
	if environment == nil && config == nil {
		return
	}
	if environment != nil {
		r.opts.Environment = *environment
	}
	if config != nil {
		r.opts.PackConfig = *config
	}
	r.environment = r.opts.environmentOf()
	r.unkept = true
	for _, p := range r.packs {
		p.stale = true
	}
}

// Reload waits for a scan that began after the call, of all packs, and gives its report. by is who
// asked.
func (r *Reconciler) Reload(ctx context.Context, by string) (*Report, error) {
	return r.ReloadForced(ctx, by, "")
}

// ReloadForced is Reload, with one pack whose files are applied although they are of an older revision:
// see the package's comment about stale checkouts.
func (r *Reconciler) ReloadForced(ctx context.Context, by, pack string) (*Report, error) {
	var report *Report
	var err error
	if r.leads() {
		report, err = r.wait(ctx, &waiter{by: by, origin: store.OriginOf(ctx), force: pack, answer: make(chan answer, 1)})
	} else {
		err = r.follows(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot reload the packs: %w", err)
	}
	return report, nil
}

// Plan scans and gives what an apply would do now; nothing is applied.
func (r *Reconciler) Plan(ctx context.Context) (*Plan, error) {
	report, err := r.wait(ctx, &waiter{plan: true, answer: make(chan answer, 1)})
	if err != nil {
		return nil, fmt.Errorf("cannot plan: %w", err)
	}
	return report.Plan, nil
}

func (r *Reconciler) wait(ctx context.Context, w *waiter) (*Report, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return nil, errEnded
	}
	r.waiters = append(r.waiters, w)
	r.mu.Unlock()
	r.signal()
	select {
	case a := <-w.answer:
		return a.report, a.err
	case <-ctx.Done():
		r.mu.Lock()
		r.waiters = slices.DeleteFunc(r.waiters, func(other *waiter) bool { return other == w })
		r.mu.Unlock()
		return nil, ctx.Err()
	}
}

// Status is the state of the loop, for `attune status`.
func (r *Reconciler) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	status := r.status
	status.Drift = slices.Clone(status.Drift)
	return status
}

// job is one pass to be made.
type job struct {
	cause string
	// all says to look at every pack; else only at those of since.
	all bool
	// now says to look also at what is not quiet yet, because somebody asked.
	now bool
	// plan says to apply nothing.
	plan bool
	// silent says that nobody asks for a report, which costs more than an edit where there are many packs.
	silent bool
	// many says that the pass takes several rounds.
	many    bool
	since   map[string]time.Time // first changes, by key
	waiters []*waiter
	// command runs instead of a pass; it has one waiter.
	command func(ctx context.Context, now time.Time) (*Report, error)
	// errands says to do, instead of a pass, what other nodes asked for.
	errands bool
	// about is the pack that a command was for: the report tells of it and of what followed from it alone.
	about string
}

// next gives the pass that is due; nil: none before the time that is given with it.
func (r *Reconciler) next(now time.Time) (*job, time.Time) {
	if j := r.requested(now); j != nil {
		return j, time.Time{}
	}
	if j := r.told(); j != nil {
		return j, time.Time{}
	}
	if r.watcher.isBroken() {
		return &job{cause: causeEdit, all: true, since: map[string]time.Time{}}, time.Time{}
	}
	since, next := r.watcher.due(now)
	if len(since) > 0 {
		_, all := since[everything]
		return &job{cause: causeEdit, all: all, since: since}, time.Time{}
	}
	if !r.sourceAt.IsZero() && !now.Before(r.sourceAt) && r.sourcesChanged(now) {
		return &job{cause: causeEdit, all: true, since: since}, time.Time{}
	}
	if !now.Before(r.resyncAt) {
		cause := causeResync
		if r.watcher.mode() == watchPoll {
			cause = causeEdit // it is how edits are found there
		}
		return &job{cause: cause, all: true, since: since}, time.Time{}
	}
	for _, at := range []time.Time{r.resyncAt, r.sourceAt, r.retryAt()} {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return nil, next
}

// requested takes what was asked for: by those who wait first, then by those who do not.
func (r *Reconciler) requested(now time.Time) *job {
	r.mu.Lock()
	defer r.mu.Unlock()
	if j := r.commanded(); j != nil {
		return j
	}
	wanted := func(w *waiter) bool { return !w.plan && w.command == nil }
	if !slices.ContainsFunc(r.waiters, wanted) {
		wanted = func(w *waiter) bool { return w.plan && w.command == nil }
	}
	j := &job{all: true, now: true, since: map[string]time.Time{}}
	var rest []*waiter
	for _, w := range r.waiters {
		if wanted(w) {
			j.waiters = append(j.waiters, w)
		} else {
			rest = append(rest, w)
		}
	}
	r.waiters = rest
	switch {
	case len(j.waiters) > 0:
		j.plan = j.waiters[0].plan
		j.cause = causeCommand
		if by := j.waiters[0].by; by != "" {
			j.cause += " " + by
		}
	case r.asked.cause != "" && !now.Before(r.asked.at):
		j.cause = r.asked.cause
	default:
		return nil
	}
	if !j.plan {
		if r.asked.cause == causeStart {
			j.cause = causeStart
		}
		if r.asked.since != nil {
			j.since = r.asked.since
		}
		j.now = len(j.waiters) > 0 || !r.asked.again
		r.asked = request{}
	}
	return j
}

// commanded takes the first command, one at a time. None is done before the first pass, which finds out
// what there is.
func (r *Reconciler) commanded() *job {
	if r.asked.cause == causeStart {
		return nil
	}
	for i, w := range r.waiters {
		if w.command != nil {
			r.waiters = slices.Delete(r.waiters, i, i+1)
			return &job{command: w.command, waiters: []*waiter{w}}
		}
	}
	return nil
}

func (r *Reconciler) retryAt() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked.cause == "" {
		return time.Time{}
	}
	return r.asked.at
}

// serve makes one pass and answers those who wait for it.
func (r *Reconciler) serve(ctx context.Context, j *job) {
	started := time.Now()
	if j.errands {
		r.doErrands(ctx)
		r.tellDrift()
		return
	}
	if j.command != nil {
		report, err := j.command(ctx, started)
		r.tellDrift()
		j.waiters[0].answer <- answer{report, err}
		return
	}
	if j.now && r.watcher.mode() == watchPoll {
		r.watcher.start() // whoever raised a limit says so by asking
	}
	if r.watcher.repair(j.all) {
		j.all = true
	}
	if j.now && !j.plan {
		maps.Copy(j.since, r.watcher.take())
	}
	j.silent = len(j.waiters) == 0
	report, outcome, err := r.pass(ctx, j, started)
	for tries := 1; isMoved(err) && tries < mostMoved; tries++ {
		report, outcome, err = r.pass(ctx, j, started)
	}
	if j.all && !j.plan {
		r.watcher.also(r.remote(), r.opts.Poll)
		r.resyncAt = started.Add(r.resyncInterval())
	}
	r.tellDrift()
	r.tellMismatches(started)
	if err != nil {
		outcome = outcomeFailed
		r.failed(ctx, j, err)
	} else if !j.plan {
		r.failures = 0
		r.metrics.lastSuccess.Set(float64(time.Now().UnixMilli()) / 1000)
		r.succeeded(started)
		if j.all {
			r.memory.packs = nil // each pack has been looked at
			r.keep()
		}
	}
	r.metrics.total.WithLabelValues(outcome).Inc()
	r.metrics.duration.Observe(time.Since(started).Seconds())
	if follows := r.planOnly && !r.opts.PlanOnly; follows && err == nil && !j.plan && len(j.waiters) > 0 {
		err = r.follows(ctx) // it led when they asked
	}
	for _, w := range j.waiters {
		w.answer <- answer{report, err}
	}
	if j.all && !j.plan && !r.planOnly && r.opts.Leads != nil {
		r.doErrands(ctx) // one whose notice was lost, or that was asked of the leader before
		r.tellDrift()
	}
}

// resyncInterval is how long until all packs are looked at without being asked, spread by a tenth so
// that nodes do not do it at once.
func (r *Reconciler) resyncInterval() time.Duration {
	interval := r.opts.Resync
	if r.watcher.mode() == watchPoll || r.remote() != "" {
		interval = min(interval, r.opts.Poll)
	}
	spread := int64(interval) / 10
	return interval - time.Duration(spread) + time.Duration(rand.Int64N(2*spread+1))
}

// remote names a packs folder's file system on which not all changes are told to this machine.
func (r *Reconciler) remote() string {
	if r.listing == nil {
		return ""
	}
	for _, s := range r.listing.sources {
		if s.remote != "" {
			return s.remote
		}
	}
	for _, ref := range sortedKeys(r.afar) {
		return r.afar[ref]
	}
	return ""
}

// failed remembers that everything is still to be done.
func (r *Reconciler) failed(ctx context.Context, j *job, err error) {
	if ctx.Err() != nil {
		return
	}
	text := err.Error()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status.Error != text {
		r.logger.Error("reconcile failed", "cause", j.cause, "err", err)
	}
	r.status.Error = text
	if j.plan {
		return
	}
	backoff := min(firstBackoff<<min(r.failures, 10), maxBackoff)
	r.failures++
	if r.asked.cause == "" {
		r.asked.cause, r.asked.again = j.cause, true
	}
	if r.asked.since == nil {
		r.asked.since = map[string]time.Time{}
	}
	maps.Copy(r.asked.since, j.since)
	r.asked.at = time.Now().Add(backoff)
}

// succeeded puts down how the loop is doing.
func (r *Reconciler) succeeded(started time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status.Error != "" {
		r.logger.Info("reconcile succeeded again")
	}
	r.status.Error = ""
	r.status.LastScan = started
	r.status.ScanDuration = time.Since(started)
	r.status.WatchMode, r.status.WatchReason = r.watcher.mode(), r.watcher.reason
	if remote := r.remote(); remote != "" && r.status.WatchReason == "" {
		r.status.WatchReason = remoteReason(remote, r.opts.Poll)
	}
	select {
	case <-r.ready:
	default:
		close(r.ready)
	}
}
