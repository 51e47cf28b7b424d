package child

import (
	"cmp"
	"context"
	_ "embed" // the programs of the parents
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Kinds of warm parents, for Spec.Warm.
const (
	WarmBash   = "bash"   // a bash that forks
	WarmPython = "python" // a Python that has imported what scripts import, and forks
	WarmNode   = "node"   // nothing forks: a node that waits for its script
)

// What became of a start that might have been warm, for WarmOptions.Started.
const (
	WarmStarted  = "warm"     // from a parent
	WarmStarting = "starting" // cold: its parent is not there yet
	WarmBusy     = "busy"     // cold: the parent had no child ready in time
	WarmFailed   = "failed"   // cold: the parent cannot be started, or the child did not answer
	WarmUnfit    = "unfit"    // cold: what was asked for is not to be had from a parent
)

// WarmOutcomes lists them all.
func WarmOutcomes() []string {
	return []string{WarmStarted, WarmStarting, WarmBusy, WarmFailed, WarmUnfit}
}

const (
	defaultWarmParents = 16
	defaultWarmIdle    = 10 * time.Minute
	// warmUp is how long a parent may take until it is there: it may import a lot.
	warmUp = 20 * time.Second
	// warmPatience is how long a start waits for a child to be forked, and for it to answer. Both take
	// some milliseconds, so who takes longer is stuck.
	warmPatience = 2 * time.Second
	// mostSpares is how many children a parent has ready at most, mostShells how many where they are shells.
	// They wait, and cost little memory, shells least.
	mostSpares = 8
	mostShells = 16
	// mostNodes is how many nodes wait in all: each is a whole one.
	mostNodes = 4
	// warmRetry and warmRetryMost bound the pause before a parent that failed is started again, doubling.
	warmRetry     = time.Second
	warmRetryMost = time.Minute
	// warmTick is how often parents are looked through.
	warmTick = 5 * time.Second
	// warmWork bounds the variables that are handed over, in bytes; who has more starts cold.
	warmWork = 48 << 10
)

// WarmOptions are what a Warm needs.
type WarmOptions struct {
	Runner *Runner
	// Dir is for the parents' programs and pipes; what is in it is removed.
	Dir string
	// Parents bounds how many there are; the one that was used least recently goes. Defaults to 16.
	Parents int
	// Idle is how long a parent stays that nobody uses. Defaults to 10 minutes.
	Idle   time.Duration
	Logger *slog.Logger
	// Started, where set, is told what became of each start with Spec.Warm.
	Started func(kind, outcome string)
}

// Warm starts children from parents that are there already: of an interpreter, an environment, a folder
// and a user each. What it starts is a Process like any other, a child of this process in a process group
// and cgroup of its own, with its own limits; only its first instructions are not those of an exec.
// Where no parent can serve it starts cold, and the first start of each kind is always cold.
//
// A child is forked before it is wanted and has run nothing until then, so it knows nothing of any other.
type Warm struct {
	opts   WarmOptions
	runner *Runner
	logger *slog.Logger

	mu      sync.Mutex
	closed  bool
	parents map[string]*parent
	// bare are the keys whose parent must not import anything ahead.
	bare map[string]bool
	// nodes bounds the nodes that wait.
	nodes room

	stop    chan struct{}
	running sync.WaitGroup
}

var (
	//go:embed warm/bash.sh
	bashProgram []byte
	//go:embed warm/python.py
	pythonProgram []byte
	//go:embed warm/node.js
	nodeProgram []byte
)

// The files that the programs stand in.
const (
	bashFile   = "bash.sh"
	pythonFile = "python.py"
	nodeFile   = "node.js"
)

// NewWarm prepares warm starts. It ends with Close, or with its Runner.
func NewWarm(opts WarmOptions) (*Warm, error) {
	switch {
	case opts.Runner == nil || opts.Dir == "" || opts.Logger == nil:
		return nil, errors.New("cannot prepare warm starts: Runner, Dir or Logger is missing")
	case strings.ContainsAny(opts.Dir, "'\n\x00"):
		return nil, fmt.Errorf("cannot prepare warm starts: the path %q has a quote or a line break", opts.Dir)
	}
	opts.Parents = cmp.Or(opts.Parents, defaultWarmParents)
	opts.Idle = cmp.Or(opts.Idle, defaultWarmIdle)
	if opts.Started == nil {
		opts.Started = func(string, string) {}
	}
	w := &Warm{
		opts: opts, runner: opts.Runner, logger: opts.Logger.With("component", "warm"),
		parents: map[string]*parent{}, bare: map[string]bool{}, stop: make(chan struct{}),
	}
	if err := w.makeDir(); err != nil {
		return nil, fmt.Errorf("cannot prepare warm starts: %v", err)
	}
	w.runner.useWarm(w)
	w.running.Go(w.tend)
	return w, nil
}

// makeDir makes the folder anew: what a dead run left is of no use.
func (w *Warm) makeDir() error {
	if err := os.RemoveAll(w.opts.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(w.opts.Dir, 0o711); err != nil {
		return err
	}
	// Others pass through, to what is theirs.
	if err := os.Chmod(w.opts.Dir, 0o711); err != nil {
		return err
	}
	for name, text := range map[string][]byte{bashFile: bashProgram, pythonFile: pythonProgram, nodeFile: nodeProgram} {
		file := filepath.Join(w.opts.Dir, name)
		if err := os.WriteFile(file, text, 0o444); err != nil {
			return err
		}
		if err := os.Chmod(file, 0o444); err != nil { // whatever the umask
			return err
		}
	}
	return nil
}

// Start starts a child from a warm parent where Spec.Warm says so and one can serve, else like
// Runner.Start. In both cases the child begins at most once.
func (w *Warm) Start(ctx context.Context, spec Spec) (*Process, error) {
	if spec.Warm == "" {
		return w.runner.Start(ctx, spec)
	}
	p, outcome, err := w.warm(ctx, spec)
	if err != nil {
		return nil, err
	}
	w.opts.Started(spec.Warm, outcome)
	if p != nil {
		return p, nil
	}
	return w.runner.Start(ctx, spec)
}

// warm gives nil where the start is to be cold; the error is final.
func (w *Warm) warm(ctx context.Context, spec Spec) (*Process, string, error) {
	if !suits(&spec) || spec.User != nil && !w.runner.mayLimit && !w.runner.isSelf(spec.User) {
		return nil, WarmUnfit, nil
	}
	if !w.runner.beginStart() {
		return nil, "", fmt.Errorf("cannot start %s: %w", spec.Name, ErrClosed)
	}
	defer w.runner.starting.Done()
	par, outcome := w.parent(&spec)
	if par == nil {
		return nil, outcome, nil
	}
	for {
		s, outcome := par.take(ctx)
		if s == nil {
			return nil, outcome, nil
		}
		p, err := w.use(s, spec)
		if err == nil {
			return p, WarmStarted, nil
		}
		w.logger.Warn("warm child cannot be used", "child", spec.Name, "pid", s.p.pid, "err", err)
		// It must be gone before another begins.
		if err := s.discard(); err != nil {
			return nil, "", fmt.Errorf("cannot start %s: %w", spec.Name, err)
		}
		if !errors.Is(err, errGone) || ctx.Err() != nil {
			return nil, WarmFailed, nil
		}
	}
}

// errGone says that a spare child had ended while it waited.
var errGone = errors.New("it has ended while it waited")

// suits tells whether a child can come from a parent.
func suits(spec *Spec) bool {
	if len(spec.Args) != 1 || spec.Detach || spec.KeepStdin || spec.Unmanaged || len(spec.Files) > 0 {
		return false
	}
	// A child with another's end of a pipe as it is, or with one pipe for both, is rare.
	for _, w := range []any{spec.Stdin, spec.Stdout, spec.Stderr} {
		if _, ok := w.(*os.File); ok {
			return false
		}
	}
	if spec.Stdout != nil && sameWriter(spec.Stdout, spec.Stderr) {
		return false
	}
	if spec.Umask != 0 && spec.Umask != defaultUmask {
		return false
	}
	size := 0
	for _, item := range spec.Env {
		if isWarmVariable(item) {
			size += len(item)
		}
	}
	return size <= warmWork && (spec.Warm == WarmBash || spec.Warm == WarmPython || spec.Warm == WarmNode)
}

// split parts the variables of the interpreter from those of the attempt.
func split(env []string) (fixed, own []string) {
	for _, item := range env {
		if isWarmVariable(item) {
			own = append(own, item)
		} else {
			fixed = append(fixed, item)
		}
	}
	return fixed, own
}

// key names the parent that can serve: everything that an interpreter may look at when it starts.
func (w *Warm) key(spec *Spec) string {
	fixed, _ := split(spec.Env)
	slices.Sort(fixed)
	size := len(spec.Warm) + len(spec.Path) + len(spec.Dir)
	for _, item := range fixed {
		size += len(item) + 1
	}
	key := make([]byte, 0, size+64)
	for _, part := range []string{spec.Warm, spec.Path, spec.Dir} {
		key = append(append(key, part...), 0) // none has a NUL
	}
	for _, item := range fixed {
		key = append(append(key, item...), 0)
	}
	if u := spec.User; u != nil {
		key = fmt.Append(key, u.UID, u.GID, u.Groups)
	}
	return string(key)
}

// parent gives the parent for a spec, and begins to start it where there is none; nil: not for now.
func (w *Warm) parent(spec *Spec) (*parent, string) {
	key := w.key(spec)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, WarmFailed
	}
	par := w.parents[key]
	if par == nil {
		w.makeRoom()
		par = newParent(w, key, spec)
		w.parents[key] = par
	}
	return par.ask(spec)
}

// makeRoom ends the parent that was used least recently where there are as many as may be. It needs w.mu.
func (w *Warm) makeRoom() {
	if len(w.parents) < w.opts.Parents {
		return
	}
	var oldest *parent
	for _, par := range w.parents {
		if oldest == nil || par.lastUsed().Before(oldest.lastUsed()) {
			oldest = par
		}
	}
	delete(w.parents, oldest.key)
	w.running.Go(func() { oldest.end("another takes its place") })
}

// tend ends the parents that nobody uses, reaps spare children that have ended, and starts again what
// died.
func (w *Warm) tend() {
	t := time.NewTicker(warmTick)
	defer t.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-t.C:
			w.look(time.Now())
		}
	}
}

func (w *Warm) look(now time.Time) {
	w.mu.Lock()
	var idle, rest []*parent
	for key, par := range w.parents {
		if now.Sub(par.lastUsed()) > w.opts.Idle {
			delete(w.parents, key)
			idle = append(idle, par)
		} else {
			rest = append(rest, par)
		}
	}
	w.mu.Unlock()
	for _, par := range idle {
		par.end("nobody uses it")
	}
	for _, par := range rest {
		par.sift()
	}
}

// Close ends all parents and what waits. Children that began run on.
func (w *Warm) Close() {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	w.closed = true
	parents := w.parents
	w.parents = nil
	w.mu.Unlock()
	close(w.stop)
	var ends sync.WaitGroup
	for _, par := range parents {
		ends.Go(func() { par.end("the daemon stops") })
	}
	ends.Wait()
	w.running.Wait()
	os.RemoveAll(w.opts.Dir)
}

// Parents tells how many there are, and how many children wait.
func (w *Warm) Parents() (parents, spares int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, par := range w.parents {
		if par.isUp() {
			parents++
		}
		spares += len(par.spares)
	}
	return parents, spares
}

// use gives a spare child its work and lets it begin. After an error it has not begun.
func (w *Warm) use(s *spare, spec Spec) (*Process, error) {
	p := s.p
	// Its own mark comes last: a spec says nothing of it. That of the run is the parent's, too.
	_, own := split(spec.Env)
	own = append(own, EnvChildID+"="+p.id)
	w.runner.bound(&spec)
	w.runner.mu.Lock() // it is registered already
	p.spec = spec
	w.runner.mu.Unlock()
	if p.group != nil {
		if err := w.runner.cgroups.limit(p.group.path, spec.Limits); err != nil {
			return nil, fmt.Errorf("its cgroup: %w", err)
		}
	}
	if err := spec.Limits.apply(p.pid, w.runner.cgroups); err != nil {
		w.logger.Warn("child runs without its limit", "child", spec.Name, "err", err)
	}
	if err := s.door.hand(&p.streams, &spec, own); err != nil {
		p.streams.closeChildEnds()
		p.streams.close()
		return nil, err
	}
	p.streams.closeChildEnds()
	p.streams.name = spec.Name
	p.oomSeen = w.runner.oom.before()
	p.started = time.Now()
	if err := s.door.open(&p.streams); err != nil {
		p.streams.close()
		return nil, err
	}
	p.ended = s.door.done
	p.streams.write(&p.spec)
	go p.supervise()
	return p, nil
}

// spare is a child that was forked and waits for its work.
type spare struct {
	p    *Process
	door door
}

// door is the way to one waiting child.
type door interface {
	// hand makes its work ready: streams and variables.
	hand(s *streams, spec *Spec, variables []string) error
	// open lets it begin; after an error it has not, and the process is to be ended.
	open(s *streams) error
	// done is called when a child that began has ended.
	done(e Exit)
	// shut gives the door up.
	shut()
}

// discard kills a child that did not begin, and waits until it is gone.
func (s *spare) discard() error {
	s.door.shut()
	s.p.kill()
	go s.p.supervise()
	if !s.p.doneWithin(KillWait + pipeWait) {
		return fmt.Errorf("a warm child (pid %d) cannot be ended: %w", s.p.pid, ErrUnkillable)
	}
	return nil
}

// hasEnded tells whether a spare child has ended; it stays unreaped.
func (s *spare) hasEnded() bool { return hasEnded(s.p.pid, unix.WNOHANG) }

// adopt makes a Process of a child that a parent has forked: it is ours by now, as its own parent ended
// and this process takes in orphans. One that is the parent's and cannot be taken in is ended.
func (r *Runner) adopt(pid int, from *Process) (p *Process, err error) {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil); err != nil {
		return nil, fmt.Errorf("process %d is no child of ours: %w", pid, err)
	}
	// Until it is reaped its pid is nobody else's. The parent runs what packs wrote, so it is not believed;
	// it is marked by a tag, as the child is by now, which is looked at in no time.
	if m, _ := r.readMarks(pid); r.owns(pid) || m.run != r.id || m.child != from.id {
		return nil, fmt.Errorf("process %d is not the parent's", pid)
	}
	defer func() {
		if err != nil {
			_ = unix.Kill(pid, unix.SIGKILL) // it is ours and not reaped; the janitor does that
		}
	}()
	p = &Process{runner: r, spec: Spec{Name: "spare of " + from.spec.Name}, id: r.nextID(), pid: pid, done: make(chan struct{}), started: time.Now()}
	p.streams.log = r.logger
	if err := unix.Setpgid(pid, pid); err != nil {
		return nil, fmt.Errorf("process %d: cannot give it a group of its own: %w", pid, err)
	}
	if err := r.setTag(pid, p.id); err != nil {
		return nil, fmt.Errorf("process %d: cannot mark it: %w", pid, err)
	}
	if r.cgroups != nil {
		g, err := r.cgroups.child(p.id, Limits{})
		if err == nil {
			if err = writeCgroup(g.path, "cgroup.procs", fmt.Sprint(pid)); err != nil {
				g.remove()
			}
		}
		if err != nil {
			return nil, fmt.Errorf("process %d: its cgroup: %w", pid, err)
		}
		p.group = g
	}
	if fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK); err == nil {
		p.pidfd = os.NewFile(uintptr(fd), "pidfd")
	}
	r.announce(p)
	r.register(p)
	return p, nil
}

// room counts places.
type room struct {
	mu    sync.Mutex
	taken int
}

func (r *room) take() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taken == mostNodes {
		return false
	}
	r.taken++
	return true
}

func (r *room) give() {
	r.mu.Lock()
	r.taken--
	r.mu.Unlock()
}
