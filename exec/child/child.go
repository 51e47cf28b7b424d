package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// KillWait is how long a killed tree may take to be gone: only a process in an uninterruptible
	// sleep takes longer, and waiting on would not help it.
	KillWait = 5 * time.Second

	// pipeWait is how long output is read on after the tree is gone, where a process that was let live
	// still holds the pipe.
	pipeWait = 300 * time.Millisecond
)

// Spec describes one child.
type Spec struct {
	// Name is for logs and errors: "sensor core.interval_timer_sensor", "execution 17".
	Name string
	Path string   // absolute path of the program
	Args []string // without the program itself
	Env  []string // complete, but for ATTUNE_RUN_ID and ATTUNE_CHILD_ID
	Dir  string
	// Stdin is written to the child and then closed; nil: empty. A child that does not read it is no
	// error. It must come to an end by itself. An *os.File is handed over as it is.
	Stdin io.Reader
	// KeepStdin leaves stdin open after Stdin was written; Process.Stdin then gives it.
	KeepStdin bool
	// Stdout and Stderr get what the child writes, each from one goroutine; nil: discarded. A writer
	// that blocks holds the child back; one that fails gets no more, and the child notices nothing.
	// Where both are the same writer they share a pipe. An *os.File is handed over as it is.
	Stdout io.Writer
	Stderr io.Writer
	// Files are opened in the child as descriptors 3 and up. The caller closes its own.
	Files []*os.File
	// Credential to run as; nil: the daemon's own.
	User   *User
	Limits Limits
	// Umask of the child. 0 means 077.
	Umask int
	// Detach lets live what the leader leaves behind when it ends by itself. What moved to a session of
	// its own (setsid) then outlives the daemon too.
	Detach bool
	// Warm names the kind of warm parent that may start this child, if Warm.Start does it: one of WarmBash,
	// WarmPython and WarmNode. Path is then the interpreter, and Args the script alone. Empty: cold.
	Warm string
	// parent says that the child is a warm parent: what it forks is limited, not itself.
	parent bool
	// Unmanaged leaves out run id, limits and process marking: for the private PostgreSQL, which
	// outlives nothing but is stopped in its own way.
	Unmanaged bool
}

const (
	// detachMark ends the child id of a Detach child, so that it can be told from the outside.
	detachMark = ".detach"
	// unmanagedMark is the child id of what is nobody's to kill.
	unmanagedMark = "unmanaged"
)

// Start starts a child. Errors tell a missing file, a missing interpreter, a missing x bit, a CRLF
// shebang and a bad working directory apart; they are of type *StartError. ETXTBSY is tried again a few
// times. ctx bounds the start, not the child's life.
func (r *Runner) Start(ctx context.Context, spec Spec) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", spec.Name, err)
	}
	if !r.beginStart() {
		return nil, fmt.Errorf("cannot start %s: %w", spec.Name, ErrClosed)
	}
	defer r.starting.Done()

	id := r.nextID()
	if spec.Detach {
		id += detachMark
	}
	if !spec.Unmanaged && !spec.parent {
		r.bound(&spec)
	}
	p := &Process{runner: r, spec: spec, id: id, done: make(chan struct{})}
	p.streams.log, p.streams.name = r.logger, spec.Name
	// Its mark is known before it can be seen in /proc: the janitor kills whose mark it does not know.
	r.announce(p)
	if err := p.start(ctx); err != nil {
		r.forget(p)
		return nil, err
	}
	p.streams.write(&p.spec)
	go p.supervise()
	return p, nil
}

// bound fills in the limits of a child that are not its own.
func (r *Runner) bound(spec *Spec) {
	explicit := spec.Limits
	spec.Limits = explicit.or(r.limits)
	if explicit.Pids == 0 && !r.cgroups.has("pids") {
		// Without a cgroup it would count all of the user's processes, whoever started them.
		spec.Limits.Pids = 0
	}
	if spec.Limits != (Limits{}) {
		r.tellWeak(spec)
	}
}

func (r *Runner) nextID() string { return strconv.FormatInt(r.lastID.Add(1), 10) }

// startIdle starts a child whose streams are not joined with anything, and which nobody watches yet.
func (r *Runner) startIdle(spec Spec) (*Process, error) {
	if !r.beginStart() {
		return nil, fmt.Errorf("cannot start %s: %w", spec.Name, ErrClosed)
	}
	defer r.starting.Done()
	p := &Process{runner: r, spec: spec, id: r.nextID(), done: make(chan struct{})}
	p.streams.log, p.streams.name = r.logger, spec.Name
	r.announce(p)
	if err := p.start(context.Background()); err != nil {
		r.forget(p)
		return nil, err
	}
	return p, nil
}

// Process is a started child.
type Process struct {
	runner  *Runner
	spec    Spec
	id      string
	pid     int
	pidfd   *os.File // nil on a kernel without
	started time.Time
	oomSeen uint64
	limiter string  // script of a shell that limits itself and then becomes the child; empty: none
	group   *cgroup // nil without
	streams streams

	stopping atomic.Bool // Stop was called: Detach counts no more
	killed   atomic.Bool // the KILL was ours
	bombed   atomic.Bool // and was for forking on against its limit

	ended func(Exit) // called at the end, where set

	// outlived are the start times of the processes that outlived it; valid once done is closed.
	outlived map[int]uint64

	mu     sync.Mutex
	reaped bool // from here on the pid may be another's

	done chan struct{}
	exit Exit // valid once done is closed
}

// start forks and registers. Nothing but the fork itself can fail after the streams are open.
func (p *Process) start(ctx context.Context) error {
	spec := &p.spec
	if !spec.Unmanaged && p.runner.cgroups != nil {
		g, err := p.runner.cgroups.child(p.id, spec.Limits)
		if err != nil {
			return &StartError{Name: spec.Name, Path: spec.Path, Reason: "its cgroup: " + err.Error(), Err: err}
		}
		p.group = g
	}
	if spec.User != nil && !spec.Unmanaged && !p.runner.mayLimit {
		p.limiter = spec.Limits.limiter(p.runner.cgroups)
	}
	files, err := p.streams.open(spec, p.runner.null)
	if err != nil {
		p.group.remove()
		return &StartError{Name: spec.Name, Path: spec.Path, Reason: "its pipes: " + err.Error(), Err: err}
	}
	p.oomSeen = p.runner.oom.before()
	pidfd := -1
	pid, err := p.fork(ctx, files, &pidfd)
	p.streams.closeChildEnds()
	if err != nil {
		p.streams.close()
		p.group.remove()
		return explainStart(spec, err)
	}
	p.pid, p.started = pid, time.Now()
	if pidfd >= 0 && unix.SetNonblock(pidfd, true) == nil {
		p.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	}
	if !spec.Unmanaged {
		offerToOOM(pid)
		if p.limiter == "" {
			if err := spec.Limits.apply(pid, p.runner.cgroups); err != nil {
				p.runner.logger.Warn("child runs without its limit", "child", spec.Name, "err", err)
			}
		}
	}
	p.runner.register(p)
	return nil
}

// busyWaits are the pauses before a program that is open for writing is tried again: whoever wrote it,
// or a concurrent fork that inherited the descriptor for a moment, is soon done.
var busyWaits = [...]time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond}

func (p *Process) fork(ctx context.Context, files []uintptr, pidfd *int) (int, error) {
	for try := 0; ; try++ {
		pid, err := p.forkOnce(files, pidfd)
		if !errors.Is(err, syscall.ETXTBSY) || try == len(busyWaits) {
			return pid, err
		}
		select {
		case <-p.runner.busyWait(busyWaits[try]):
		case <-ctx.Done():
			return 0, fmt.Errorf("%w while waiting for the program, which is open for writing", ctx.Err())
		}
	}
}

func (p *Process) forkOnce(files []uintptr, pidfd *int) (int, error) {
	spec := &p.spec
	attr := &syscall.ProcAttr{
		Dir:   spec.Dir,
		Env:   p.environ(),
		Files: files,
		// No Pdeathsig: it fires when the forking thread ends, and Go ends threads as it likes.
		Sys: &syscall.SysProcAttr{Setpgid: true, PidFD: pidfd},
	}
	if u := spec.User; u != nil && !p.runner.isSelf(u) {
		attr.Sys.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	if p.group != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(p.group.dir.Fd())
	}
	path, argv := spec.Path, append([]string{spec.Path}, spec.Args...)
	if p.limiter != "" {
		path, argv = limiterShell, append([]string{limiterShell, "-c", p.limiter}, argv...)
	}
	start := func() (int, error) {
		pid, _, err := syscall.StartProcess(path, argv, attr)
		if err == syscall.EBADF {
			// All of files are open. Setting them up takes numbers above the highest of them, and dup3(2)
			// calls a number beyond the limit a bad descriptor.
			err = syscall.EMFILE
		}
		return pid, err
	}
	ownUmask := spec.Umask != 0 && spec.Umask != defaultUmask
	if !ownUmask && !p.runner.ambient {
		return start()
	}
	return startApart(func() error {
		if p.runner.ambient {
			if err := dropAmbient(); err != nil {
				return fmt.Errorf("cannot keep the daemon's capabilities from it: %v", err)
			}
		}
		if ownUmask {
			return setOwnUmask(spec.Umask)
		}
		return nil
	}, start)
}

// environ puts our marks first: where a variable is given twice, programs and we take the first.
func (p *Process) environ() []string {
	if p.spec.Unmanaged {
		return append([]string{EnvChildID + "=" + unmanagedMark}, p.spec.Env...)
	}
	return append([]string{EnvRunID + "=" + p.runner.id, EnvChildID + "=" + p.id}, p.spec.Env...)
}

// supervise follows the child to its end, in the one order that is safe: while the dead leader is not
// reaped its pid and its group are nobody else's, so the rest of the tree is killed before it is reaped.
func (p *Process) supervise() {
	watched := p.watchForks()
	if !p.endsSoon() {
		p.streams.startReading(&p.spec)
		awaitEnd(p.pid, p.pidfd)
	}
	watched()
	ended := time.Now()
	gone := true
	if !p.spec.Unmanaged && (!p.spec.Detach || p.stopping.Load()) {
		gone = p.runner.endTree(p)
	}
	exit := p.reap()
	exit.EndedAt = ended
	exit.OOM, exit.ForkBomb = p.oomKilled(exit), p.bombed.Load()
	if n := p.refusedForks(); n > 0 {
		exit.RefusedForks, exit.MaxProcesses = n, p.spec.Limits.Pids
	}
	if peak, ok := p.group.peak(); ok {
		exit.MaxRSS = peak
	}
	exit.OutputIncomplete, exit.Outlived = p.streams.finish(&p.spec) || !gone, !gone
	if p.pidfd != nil {
		p.pidfd.Close()
	}
	p.group.remove()
	p.exit = exit
	p.runner.forget(p)
	if p.ended != nil {
		p.ended(exit)
	}
	close(p.done)
}

// briefLooks are the pauses between briefLooks at the output of a child that may be about to end. Readers of its
// own, which are woken for each line, are for who lives on.
var briefLooks = [...]time.Duration{4 * time.Millisecond, 8 * time.Millisecond, 16 * time.Millisecond}

// endsSoon waits a moment for the child's end.
func (p *Process) endsSoon() bool {
	if p.pidfd == nil || !p.streams.neverWait(&p.spec) {
		return false
	}
	for _, pause := range briefLooks {
		if awaitEndWithin(p.pid, p.pidfd, pause) {
			return true
		}
		p.streams.take(&p.spec)
	}
	return false
}

func (p *Process) reap() Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaped = true
	var ws unix.WaitStatus
	var ru unix.Rusage
	for {
		_, err := unix.Wait4(p.pid, &ws, 0, &ru)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			p.runner.logger.Error("child was reaped by somebody else", "child", p.spec.Name, "pid", p.pid, "err", err)
			return Exit{Code: -1}
		}
		break
	}
	exit := Exit{
		Code:   -1,
		CPU:    time.Duration(ru.Utime.Nano() + ru.Stime.Nano()),
		MaxRSS: ru.Maxrss << 10, // KiB
	}
	if ws.Signaled() {
		exit.Signal = signalName(ws.Signal())
	} else {
		exit.Code = ws.ExitStatus()
	}
	return exit
}

// oomKilled tells a kill for memory from one by hand. A cgroup counts its own; else a KILL that was not
// ours, while the kernel's own count of such kills rose, is taken for one.
func (p *Process) oomKilled(e Exit) bool {
	if n, ok := p.group.oomKills(); ok {
		return n > 0 && !p.killed.Load()
	}
	return e.Signal == "SIGKILL" && !p.killed.Load() && p.runner.oom.now() > p.oomSeen
}

// forkLook is how often is looked for a child that forks on against its limit: as long it may take a core.
const forkLook = time.Second / 2

// forkWindow is how long what the limit refuses counts together. A sensor runs for months, and may be refused some
// forks each day; a shell that is refused one tries again a second later, and a bomb made of shells goes off in two.
const forkWindow = 10 * time.Second

// forkCount tells a fork bomb from a program that merely needs more than it may have. That one is refused some
// times, and does without or gives up; what is refused more often in forkWindow than it may have processes is a bomb.
type forkCount struct {
	limit  uint64
	since  time.Time
	before uint64 // what was refused until then
}

// isBomb is told how much was refused until now.
func (c *forkCount) isBomb(now time.Time, refused uint64) bool {
	if refused > c.before+c.limit {
		return true
	}
	if now.Sub(c.since) >= forkWindow {
		c.since, c.before = now, refused
	}
	return false
}

// watchForks kills a child that goes on forking although the limit refuses it, which takes the daemon's time and
// everybody's, and gives what ends the watch. Only a cgroup counts that.
func (p *Process) watchForks() (end func()) {
	if !p.group.bounds(p.spec.Limits.Pids) {
		return func() {}
	}
	var mu sync.Mutex
	over := false
	var next *time.Timer
	count := forkCount{limit: uint64(p.spec.Limits.Pids), since: time.Now()}
	look := func() {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case over:
		case count.isBomb(time.Now(), p.refusedForks()):
			p.bombed.Store(true)
			p.kill()
		default:
			next.Reset(forkLook)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	next = time.AfterFunc(forkLook, look)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		next.Stop()
	}
}

// refusedForks counts what its limit on processes has refused the child.
func (p *Process) refusedForks() uint64 {
	limit := p.spec.Limits.Pids
	if !p.group.bounds(limit) {
		return 0
	}
	return p.group.refusedForks(limit)
}

// PID is the leader's process id.
func (p *Process) PID() int { return p.pid }

// StartedAt is when the exec returned.
func (p *Process) StartedAt() time.Time { return p.started }

// Stdin is the child's standard input where Spec.KeepStdin was set, else nil. A write waits until
// Spec.Stdin was written, and while the child does not read; it fails once the child has ended.
func (p *Process) Stdin() io.WriteCloser {
	if p.streams.kept == nil {
		return nil
	}
	return p.streams.kept
}

// Done is closed when the leader has ended, its group is gone and its pipes are read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for Done and tells how it ended. It may be called by many.
func (p *Process) Wait() Exit {
	<-p.done
	return p.exit
}

// Outlast returns when what outlived the child is gone as well (Exit.Outlived), and goes on killing it until then or
// until ctx ends. It waits for Done first.
func (p *Process) Outlast(ctx context.Context) error {
	if !p.Wait().Outlived {
		return nil
	}
	known := maps.Clone(p.outlived)
	// One that is in the middle of an exec does not show whose it is: it is there at the next look.
	for clean := 0; clean < 2; {
		if p.runner.killOutlived(p, known) > 0 {
			clean = 0
		} else {
			clean++
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(outlastPause):
		}
	}
	return nil
}

// ErrUnkillable says that a tree was killed and is still there.
var ErrUnkillable = errors.New("it does not end although it was killed; a process of it is probably stuck in the kernel (state D)")

// Stop ends the whole tree: TERM and CONT to the group, KILL to everything after grace. It returns
// when Done is closed, or with ErrUnkillable when the tree could not be killed within KillWait (a
// process in uninterruptible sleep). A grace of zero or less kills at once.
func (p *Process) Stop(grace time.Duration) error {
	p.stopping.Store(true)
	if grace > 0 {
		_ = p.signal(unix.SIGTERM) // a leader that has ended needs none
		// A stopped process sees the TERM only when it goes on.
		_ = p.signal(unix.SIGCONT)
		if p.doneWithin(grace) {
			return nil
		}
	}
	p.kill()
	// The pipes may be read on for a moment after the tree is gone.
	if !p.doneWithin(KillWait + pipeWait) {
		return fmt.Errorf("cannot stop %s (pid %d): %w", p.spec.Name, p.pid, ErrUnkillable)
	}
	return nil
}

// kill ends the leader, which makes supervise end the rest; the group goes at once, as a leader stuck
// in the kernel should not save the others.
func (p *Process) kill() {
	p.killed.Store(true)
	p.group.kill()
	_ = p.signal(unix.SIGKILL)
}

func (p *Process) doneWithin(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.done:
		return true
	case <-t.C:
		return false
	}
}

// Signal sends a signal to the process group; os.ErrProcessDone says that the leader has ended.
func (p *Process) Signal(sig os.Signal) error {
	s, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("cannot signal %s: %v is no signal of this system", p.spec.Name, sig)
	}
	if err := p.signal(s); err != nil {
		return fmt.Errorf("cannot signal %s: %w", p.spec.Name, err)
	}
	return nil
}

// SignalLeader sends a signal to the leader alone: for a server that passes it on to its own children
// in its own way.
func (p *Process) SignalLeader(sig syscall.Signal) error {
	return p.signalTo(p.pid, sig)
}

func (p *Process) signal(sig syscall.Signal) error { return p.signalTo(-p.pid, sig) }

func (p *Process) signalTo(target int, sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return unix.Kill(target, sig)
}

// LogValue names the child in logs.
func (p *Process) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", p.spec.Name), slog.Int("pid", p.pid))
}

// Exit is how a child ended.
type Exit struct {
	// Code is the exit code, or -1 when a signal ended it.
	Code   int
	Signal string // "SIGKILL"; empty: none
	OOM    bool   // the kernel killed it for memory
	// RefusedForks is how many processes and threads it did not get because it may have MaxProcesses. Known in
	// a cgroup only.
	RefusedForks uint64
	MaxProcesses int64
	ForkBomb     bool // it was killed for forking on all the same
	// OutputIncomplete says that a grandchild kept the pipes open and they were closed by us.
	OutputIncomplete bool
	// Outlived says that processes of its tree were killed and are there all the same.
	Outlived bool
	EndedAt  time.Time
	CPU      time.Duration // user and system, of the leader and what it waited for
	// MaxRSS is in bytes: of the whole tree in a cgroup, else of its largest process. In the latter case
	// Linux counts what the daemon had at the fork, so small children seem as large as the daemon.
	MaxRSS int64
}

// Refused tells people of refused forks; empty: there were none.
func (e Exit) Refused() string {
	if e.RefusedForks == 0 {
		return ""
	}
	return fmt.Sprintf("its limit of %d processes and threads (limits.pids) refused %d more", e.MaxProcesses, e.RefusedForks)
}

// String is for people: "exit 3", "killed by SIGKILL", "killed for memory".
func (e Exit) String() string {
	var b strings.Builder
	switch {
	case e.ForkBomb:
		b.WriteString("killed as a fork bomb")
	case e.OOM:
		b.WriteString("killed for memory")
	case e.Signal != "":
		b.WriteString("killed by " + e.Signal)
	default:
		b.WriteString("exit " + strconv.Itoa(e.Code))
	}
	if e.OutputIncomplete {
		b.WriteString(", output incomplete")
	}
	if text := e.Refused(); text != "" {
		b.WriteString(": " + text)
	}
	return b.String()
}
