package child

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// janitorPeriod is how often orphans are looked through. What matters is done when a child ends; this
// is for what slipped through, and for zombies of those that were let live.
const janitorPeriod = 5 * time.Second

// ErrClosed says that the Runner starts nothing any more.
var ErrClosed = errors.New("the daemon is stopping")

// Options are what a Runner needs.
type Options struct {
	// Binary is this program's own file, started again as the keeper.
	Binary string
	// StateDir holds the record of this run (boot id, run id, keeper), by which leftovers of a dead
	// run are known at the next start. Empty: no record and no lock, only with NoKeeper.
	StateDir string
	Logger   *slog.Logger
	// Limits bound every child that names none of its own, but those that are Unmanaged. The default of
	// Pids counts only in a cgroup: elsewhere the kernel counts by user.
	Limits Limits
	// NoKeeper leaves the keeper out: for short-lived commands and tests that watch their own children.
	NoKeeper bool
}

// Runner starts the children of one run of the daemon. Every child gets ATTUNE_RUN_ID, leads its own
// process group, and has a cgroup where one is delegated.
type Runner struct {
	logger    *slog.Logger
	id        string
	null      *os.File
	orphans   orphanage
	cgroups   *cgroups // nil where none is delegated, because of noCgroups
	noCgroups string
	keeper    *keeperLink
	state     *stateDir // nil without
	oom       oomKills
	limits    Limits
	users     users
	// ambient says that this daemon has capabilities that its children would inherit.
	ambient bool
	// mayLimit says that the limits of another user's process may be set.
	mayLimit bool
	weakTold sync.Map // kind of limit
	lastID   atomic.Int64

	warmed atomic.Bool // children may carry tags
	warm   *Warm       // nil without; guarded by mu

	deadRun string
	killed  int

	// killWait is KillWait, but where a test has less patience.
	killWait time.Duration
	// busyWait is time.After, but where a test has something to do meanwhile.
	busyWait func(time.Duration) <-chan time.Time

	starting sync.WaitGroup
	mu       sync.Mutex
	closed   bool
	detached bool // a Detach child was started, so orphans may rightly live
	byPID    map[int]*Process
	byID     map[string]*Process

	stopJanitor chan struct{}
	janitorDone chan struct{}
	closeOnce   sync.Once
	closeErr    error
}

// NewRunner prepares a run: it becomes the subreaper, sets the process's umask to 077
// and forbids it core files, probes cgroup v2,
// kills the leftovers of a dead run of the same StateDir, and starts the keeper. It refuses a StateDir
// that another daemon uses, with that daemon's pid. What it starts ends with Close.
func NewRunner(ctx context.Context, opts Options) (*Runner, error) {
	switch {
	case opts.Logger == nil:
		return nil, errors.New("cannot prepare children: Options.Logger is missing")
	case !opts.NoKeeper && (opts.Binary == "" || opts.StateDir == ""):
		return nil, errors.New("cannot prepare children: a keeper needs Options.Binary and Options.StateDir")
	}
	r := &Runner{
		logger:      opts.Logger.With("component", "child"),
		id:          newRunID(),
		limits:      opts.Limits,
		users:       users{missing: sync.OnceValue(missingCapabilities)},
		ambient:     hasAmbient(),
		mayLimit:    hasCapability(unix.CAP_SYS_RESOURCE),
		killWait:    KillWait,
		busyWait:    time.After,
		oom:         oomKills{file: "/proc/vmstat"},
		byPID:       map[int]*Process{},
		byID:        map[string]*Process{},
		stopJanitor: make(chan struct{}),
		janitorDone: make(chan struct{}),
	}
	if err := r.prepare(ctx, opts); err != nil {
		r.release()
		return nil, err
	}
	go r.janitor()
	return r, nil
}

// prepare does what can fail; release undoes it at any point.
func (r *Runner) prepare(ctx context.Context, opts Options) (err error) {
	if r.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return fmt.Errorf("cannot prepare children: %v", err)
	}
	r.orphans = openOrphanage()
	// Whoever leaves its group by a double fork becomes our child, not init's, and can be found.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become the reaper of orphaned children: %v", err)
	}
	if err := closeInheritedOnExec(); err != nil {
		return fmt.Errorf("cannot keep inherited files from children: %v", err)
	}
	// Both are inherited, and hold in a child from its first instruction.
	unix.Umask(defaultUmask)
	if err := forbidCores(); err != nil {
		return fmt.Errorf("cannot forbid core files: %v", err)
	}
	if opts.StateDir != "" {
		if r.state, err = openStateDir(opts.StateDir); err != nil {
			return err
		}
		if err := r.killDeadRun(ctx); err != nil {
			return err
		}
	}
	if opts.NoKeeper {
		return r.state.write(r.record())
	}
	// A child of the same user could else read the daemon's environment and memory.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot protect the daemon's memory: %v", err)
	}
	if r.cgroups, err = delegatedCgroups(r.id); err != nil {
		r.noCgroups = err.Error()
		r.logger.Info("no delegated cgroup, children are tracked by process group and environment", "err", err)
	}
	// The record comes first: a run that dies between the two must be found.
	if err := r.state.write(r.record()); err != nil {
		return err
	}
	r.keeper = newKeeperLink(r, opts.Binary)
	if err := r.keeper.start(); err != nil {
		return err
	}
	return r.state.write(r.record())
}

func (r *Runner) record() record {
	rec := newRecord(r.id)
	if r.cgroups != nil {
		rec.Cgroup = r.cgroups.path
	}
	if r.keeper != nil {
		rec.Keeper = r.keeper.identity()
	}
	return rec
}

// killDeadRun ends what an earlier run of this StateDir left. Its keeper goes first: it is doing the
// same, and would stop a database that this run is about to take over.
func (r *Runner) killDeadRun(ctx context.Context) error {
	rec, err := r.state.read()
	if err != nil {
		r.logger.Warn("cannot read the record of the last run, its leftovers are not looked for", "err", err)
		return nil
	}
	if rec == nil {
		return nil
	}
	r.deadRun = rec.RunID
	if boot, err := BootID(); err != nil || boot != rec.BootID {
		return nil // nothing lives through a boot
	}
	killByIdentity(rec.Keeper)
	if isRunCgroup(rec.Cgroup) {
		killCgroup(rec.Cgroup)
		removeCgroup(rec.Cgroup)
	}
	k := killer{run: rec.RunID, session: rec.Session, spare: selfAndAncestors()}
	r.killed, err = k.killAll(ctx, KillWait)
	if err != nil {
		return fmt.Errorf("cannot end the children of the dead run %s: %w", rec.RunID, err)
	}
	if r.killed > 0 {
		r.logger.Warn("killed children that a dead run had left", "run_id", rec.RunID, "count", r.killed)
	}
	return nil
}

// RunID names this run; each child has it in its environment as ATTUNE_RUN_ID.
func (r *Runner) RunID() string { return r.id }

// DeadRun is the run id that StateDir's record named at start and that has ended without saying so;
// empty if there was none. Killed is how many of its processes were still there.
func (r *Runner) DeadRun() (runID string, killed int) { return r.deadRun, r.killed }

// LeaseUntil tells the keeper that this daemon may run children until the given time, counted on
// CLOCK_BOOTTIME (see Boottime); the keeper kills them KeeperMargin before it. Until the first call it
// only watches the pipe.
func (r *Runner) LeaseUntil(d time.Duration) {
	if r.keeper != nil {
		r.keeper.lease(d)
	}
}

// WatchPostgres tells the keeper to stop the private PostgreSQL if this daemon dies. A pid of 0 takes
// that back. A clean end of the run does not stop it: that is its owner's, before Close.
func (r *Runner) WatchPostgres(pid int, dataDir string) {
	if r.keeper != nil {
		r.keeper.postgres(pid, dataDir)
	}
}

// Close kills what is left and ends the keeper. Nothing can be started afterwards.
func (r *Runner) Close() error {
	r.closeOnce.Do(func() { r.closeErr = r.close() })
	return r.closeErr
}

// useWarm makes warm starts end with the run.
func (r *Runner) useWarm(w *Warm) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.warm = w
	r.warmed.Store(true)
}

func (r *Runner) close() error {
	r.mu.Lock()
	warm := r.warm
	r.mu.Unlock()
	if warm != nil {
		warm.Close()
	}
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.starting.Wait()

	var errs []error
	var stops sync.WaitGroup
	var mu sync.Mutex
	for _, p := range r.running() {
		if p.spec.Unmanaged {
			continue // its owner ends it
		}
		stops.Go(func() {
			if err := p.Stop(0); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	stops.Wait()
	close(r.stopJanitor)
	<-r.janitorDone
	k := killer{run: r.id, session: mySession()}
	if _, err := k.killAll(context.Background(), KillWait); err != nil {
		errs = append(errs, err)
	}
	r.tidy(nil)
	r.killUnmarked()
	if r.keeper != nil {
		r.keeper.stop() // before the record goes: it writes there, too
	}
	if len(errs) == 0 {
		errs = append(errs, r.state.clear()) // a clean end leaves no record
	}
	r.release()
	return errors.Join(errs...)
}

// release gives back what prepare took.
func (r *Runner) release() {
	if r.keeper != nil {
		r.keeper.stop()
	}
	r.cgroups.remove()
	r.state.close()
	r.orphans.close()
	if r.null != nil {
		r.null.Close()
	}
}

func (r *Runner) running() []*Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*Process, 0, len(r.byPID))
	for _, p := range r.byPID {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *Process) int { return a.pid - b.pid })
	return list
}

func (r *Runner) beginStart() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.starting.Add(1)
	return true
}

func (r *Runner) announce(p *Process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byID[p.id] = p
	r.detached = r.detached || p.spec.Detach
}

func (r *Runner) register(p *Process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byPID[p.pid] = p
}

// forget removes a child that was reaped, or that never was. Its pid may have been given to a newer child
// of ours meanwhile.
func (r *Runner) forget(p *Process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byPID[p.pid] == p {
		delete(r.byPID, p.pid)
	}
	delete(r.byID, p.id)
}

func (r *Runner) owns(pid int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byPID[pid] != nil
}

// unknown gives those of the processes that are neither children nor the keeper.
func (r *Runner) unknown(pids []int) []int {
	keeper := 0
	if r.keeper != nil {
		keeper = r.keeper.identity().PID
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(pids, func(pid int) bool { return pid == keeper || r.byPID[pid] != nil })
}

func (r *Runner) lives(childID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byID[childID] != nil
}

// mayBelong tells whether a process without our marks, that began at start, may belong to a child that
// lives, or to one that was allowed to leave something behind.
func (r *Runner) mayBelong(start uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.detached {
		return true
	}
	for pid, p := range r.byPID {
		if p.spec.Unmanaged {
			continue
		}
		if began, err := StartTime(pid); err != nil || began <= start {
			return true
		}
	}
	return false
}

func (r *Runner) isSelf(u *User) bool {
	return int(u.UID) == os.Geteuid() && int(u.GID) == os.Getegid() && os.Geteuid() != 0
}

// newRunID is long and random: a process that carries it can only be a descendant of that run.
func newRunID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
