package child

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// KeeperMargin is how long before the end of the lease the keeper kills: another node may start the
	// same work when the lease is over, and by then nothing of it may run here.
	KeeperMargin = 8 * time.Second

	// keeperCommand is the hidden command that starts the keeper.
	keeperCommand = "keeper"
	// keeperFD is where the keeper finds its pipe, keeperReadyFD where it says that it is there.
	keeperFD      = 3
	keeperReadyFD = 4
	// keeperHello is how long a keeper may take to be there: it takes some 10 ms.
	keeperHello = 10 * time.Second
	// keeperPatience bounds one attempt of the keeper to kill all of a run; it then tries again.
	keeperPatience = 30 * time.Second
	// keeperSend bounds a write to the keeper. The pipe holds hours of lease lines, so only a keeper that
	// is stopped for long makes it wait.
	keeperSend = 100 * time.Millisecond
	// keeperPause comes before a keeper that died is started again, so that one that cannot run does not
	// eat a core.
	keeperPause = time.Second
	// keeperGoodbye is how long a keeper may take to end after it was told to.
	keeperGoodbye = 2 * time.Second

	// postgresFast is how long the private PostgreSQL may take to stop in an orderly way, postgresQuit how
	// long at once.
	postgresFast = 30 * time.Second
	postgresQuit = 10 * time.Second
)

// keeperLink is the daemon's end of the pipe to its keeper.
type keeperLink struct {
	r      *Runner
	binary string

	mu      sync.Mutex
	pipe    *os.File // nil while there is no keeper
	proc    identity // the newest
	leaseNS int64    // 0: no lease yet
	pg      string   // last "postgres" line
	stopped bool
	stopCh  chan struct{}
	ending  sync.Once
	watcher sync.WaitGroup
}

func newKeeperLink(r *Runner, binary string) *keeperLink {
	return &keeperLink{r: r, binary: binary, stopCh: make(chan struct{})}
}

// start starts the keeper and watches it.
func (k *keeperLink) start() error {
	pidfd, err := k.spawn()
	if err != nil {
		return err
	}
	k.watcher.Go(func() { k.watch(pidfd) })
	return nil
}

// spawn starts one keeper, waits until it is there, and tells it all that the last one knew.
func (k *keeperLink) spawn() (pidfd *os.File, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot start the keeper: %v", err)
	}
	defer read.Close()
	ready, hello, err := os.Pipe()
	if err != nil {
		write.Close()
		return nil, fmt.Errorf("cannot start the keeper: %v", err)
	}
	defer ready.Close()
	fd := -1
	null := k.r.null.Fd()
	pid, _, err := syscall.StartProcess(k.binary, []string{k.binary, keeperCommand}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   keeperEnv(),
		Files: []uintptr{null, null, 2, read.Fd(), hello.Fd()},
		// A session of its own: Ctrl-C at a terminal and the hangup of one are for the daemon.
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &fd},
	})
	hello.Close()
	if err != nil {
		write.Close()
		return nil, explainStart(&Spec{Name: "the keeper", Path: k.binary}, err)
	}
	if fd >= 0 && unix.SetNonblock(fd, true) == nil {
		pidfd = os.NewFile(uintptr(fd), "pidfd")
	}
	if err := awaitHello(ready); err != nil {
		write.Close()
		_ = unix.Kill(pid, unix.SIGKILL)
		awaitEnd(pid, pidfd)
		reapStranger(pid)
		if pidfd != nil {
			pidfd.Close()
		}
		return nil, fmt.Errorf("cannot start the keeper: %s %s: %v", k.binary, keeperCommand, err)
	}
	k.introduce(write, pid)
	return pidfd, nil
}

// keeperEnv is the keeper's environment. How Go's runtime is set for the daemon holds for the keeper too: it
// is the same program.
func keeperEnv() []string {
	env := []string{"PATH=" + ChildPath, EnvChildID + "=" + unmanagedMark}
	for _, name := range []string{"GODEBUG", "GORACE", "GOTRACEBACK"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// awaitHello makes sure that what was started is a keeper, and one that ignores signals by now.
func awaitHello(ready *os.File) error {
	ready.SetReadDeadline(time.Now().Add(keeperHello))
	var b [1]byte
	switch _, err := ready.Read(b[:]); {
	case errors.Is(err, io.EOF):
		return errors.New("it ended at once")
	case err != nil:
		return fmt.Errorf("it does not answer: %v", err)
	}
	return nil
}

func (k *keeperLink) introduce(pipe *os.File, pid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pipe, k.proc = pipe, identify(pid)
	lines := fmt.Sprintf("run %s %d\n", k.r.id, mySession())
	if k.r.cgroups != nil {
		lines += "cgroup " + k.r.cgroups.path + "\n"
	}
	lines += k.pg
	if k.leaseNS > 0 {
		lines += leaseLine(k.leaseNS)
	}
	if k.stopped { // while it was being started
		lines += "done\n"
	}
	k.send(lines)
}

// watch reaps the keeper and starts another: without one a killed daemon would leave its children.
func (k *keeperLink) watch(pidfd *os.File) {
	for {
		pid := k.identity().PID
		awaitEnd(pid, pidfd)
		reapStranger(pid)
		if pidfd != nil {
			pidfd.Close()
		}
		k.mu.Lock()
		k.pipe.Close()
		k.pipe = nil
		stopped := k.stopped
		k.mu.Unlock()
		if stopped {
			return
		}
		k.r.logger.Warn("keeper died, starting another", "pid", pid)
		var err error
		for pidfd, err = k.spawn(); err != nil; pidfd, err = k.spawn() {
			k.r.logger.Error("cannot start the keeper, children would outlive the daemon", "err", err)
			select {
			case <-k.stopCh:
				return
			case <-time.After(keeperPause):
			}
		}
		if err := k.r.state.write(k.r.record()); err != nil {
			k.r.logger.Warn("cannot record the keeper", "err", err)
		}
		select {
		case <-k.stopCh: // it was told to go: see it off at once
		case <-time.After(keeperPause):
		}
	}
}

func (k *keeperLink) identity() identity {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.proc
}

func (k *keeperLink) lease(end time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.leaseNS = int64(end)
	k.send(leaseLine(k.leaseNS))
}

func leaseLine(ns int64) string { return "lease " + strconv.FormatInt(ns, 10) + "\n" }

func (k *keeperLink) postgres(pid int, dataDir string) {
	var start uint64
	if pid != 0 {
		st, err := StartTime(pid)
		if err != nil {
			return // gone already
		}
		start = st
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pg = fmt.Sprintf("postgres %d %d %s\n", pid, start, dataDir)
	k.send(k.pg)
}

// send needs k.mu. A keeper that does not take it is dead or stopped: the first is noticed by watch, the
// second kills too early at worst.
func (k *keeperLink) send(lines string) {
	if k.pipe == nil {
		return // the next one will be told
	}
	k.pipe.SetWriteDeadline(time.Now().Add(keeperSend))
	if _, err := io.WriteString(k.pipe, lines); err != nil {
		k.r.logger.Warn("keeper does not listen", "err", err)
	}
}

// stop tells the keeper that the run ended well, and waits until it is gone.
func (k *keeperLink) stop() { k.ending.Do(k.end) }

func (k *keeperLink) end() {
	k.mu.Lock()
	k.stopped = true
	k.send("done\n")
	k.mu.Unlock()
	close(k.stopCh)
	gone := make(chan struct{})
	go func() { k.watcher.Wait(); close(gone) }()
	for {
		select {
		case <-gone:
			return
		case <-time.After(keeperGoodbye):
			killByIdentity(k.identity())
		}
	}
}

// RunKeeper is the keeper's main: the hidden command `attune keeper` calls it. It returns the exit
// code.
func RunKeeper() int {
	// It ends when its daemon does, by the pipe and by nothing else; the daemon's stderr may be gone by
	// then.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("component", "keeper")
	var st unix.Stat_t
	if err := unix.Fstat(keeperFD, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		fmt.Fprintln(os.Stderr, "attune keeper is started by the daemon, not by hand")
		return 2
	}
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	_ = unix.SetNonblock(keeperFD, true)
	alarm, err := newBootAlarm()
	if err != nil {
		logger.Error("cannot watch the lease", "err", err)
		return 1
	}
	if _, err := unix.Write(keeperReadyFD, []byte{'\n'}); err != nil {
		return 1
	}
	unix.Close(keeperReadyFD)
	k := &keeper{logger: logger, alarm: alarm}
	return k.run(os.NewFile(keeperFD, "daemon"))
}

// keeper is what runs in the second process.
type keeper struct {
	logger *slog.Logger
	alarm  *bootAlarm
	killer killer
	until  time.Duration // when to kill, on CLOCK_BOOTTIME
	cgroup string
	pg     identity
	pgDir  string
	done   bool
}

func (k *keeper) run(daemon io.Reader) int {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(daemon); in.Scan(); {
			lines <- in.Text()
		}
	}()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return k.daemonGone()
			}
			if err := k.take(line); err != nil {
				k.logger.Error("daemon said what the keeper does not understand", "err", err)
			}
			if k.done {
				return 0
			}
		case <-k.alarm.c:
			if Boottime() < k.until {
				continue // renewed at the last moment
			}
			// The daemon is frozen or cut off. The database stays: the daemon may wake up.
			k.logger.Warn("lease is running out, killing the children of the run", "run_id", k.killer.run)
			k.killRun()
		}
	}
}

// take acts on one line of the daemon's.
func (k *keeper) take(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "run":
		_, err := fmt.Sscanf(rest, "%s %d", &k.killer.run, &k.killer.session)
		return err
	case "cgroup":
		k.cgroup = rest
	case "lease":
		ns, err := strconv.ParseInt(rest, 10, 64)
		if err != nil {
			return err
		}
		k.until = time.Duration(ns) - KeeperMargin
		return k.alarm.set(k.until)
	case "postgres":
		f := strings.SplitN(rest, " ", 3)
		if len(f) != 3 {
			return fmt.Errorf("bad line %q", line)
		}
		pid, err := strconv.Atoi(f[0])
		if err != nil {
			return err
		}
		start, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			return err
		}
		k.pg, k.pgDir = identity{PID: pid, Start: start}, f[2]
	case "done":
		k.done = true
	default:
		return fmt.Errorf("unknown word %q", word)
	}
	return nil
}

// daemonGone ends what the daemon can no longer end: its children at once, as nobody is left to take
// their results, then the database in its own order.
func (k *keeper) daemonGone() int {
	k.logger.Warn("daemon is gone, killing the children of its run", "run_id", k.killer.run)
	k.killRun()
	removeCgroup(k.cgroup)
	if k.pg.PID != 0 {
		k.stopPostgres()
	}
	return 0
}

func (k *keeper) killRun() {
	if k.killer.run == "" {
		return
	}
	killCgroup(k.cgroup)
	n, err := k.killer.killAll(context.Background(), keeperPatience)
	if err != nil {
		k.logger.Error("cannot kill all children", "err", err)
	}
	k.logger.Warn("killed the children of the run", "run_id", k.killer.run, "count", n)
}

func (k *keeper) stopPostgres() {
	h, err := OpenProcess(k.pg.PID, k.pg.Start)
	if err != nil {
		return // it has ended
	}
	defer h.Close()
	k.logger.Info("stopping the private PostgreSQL", "pid", k.pg.PID, "data_dir", k.pgDir)
	for _, step := range []struct {
		sig      syscall.Signal
		patience time.Duration
	}{{syscall.SIGINT, postgresFast}, {syscall.SIGQUIT, postgresQuit}} {
		if err := h.Signal(step.sig); errors.Is(err, os.ErrProcessDone) {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), step.patience)
		err := h.Wait(ctx)
		cancel()
		if err == nil {
			return
		}
	}
	k.logger.Error("private PostgreSQL does not stop", "pid", k.pg.PID, "data_dir", k.pgDir)
}

// bootAlarm goes off at a time on CLOCK_BOOTTIME: Go's own timers stand still while the machine sleeps.
type bootAlarm struct {
	f *os.File
	c chan struct{}
}

func newBootAlarm() (*bootAlarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	a := &bootAlarm{f: os.NewFile(uintptr(fd), "timerfd"), c: make(chan struct{})}
	go func() {
		var expirations [8]byte
		for {
			if _, err := a.f.Read(expirations[:]); err != nil {
				return
			}
			a.c <- struct{}{}
		}
	}()
	return a, nil
}

// set moves the alarm; a time that has passed goes off at once.
func (a *bootAlarm) set(at time.Duration) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(at, 1)))} // zero would turn it off
	var err error
	conn, cerr := a.f.SyscallConn()
	if cerr != nil {
		return cerr
	}
	cerr = conn.Control(func(fd uintptr) {
		err = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &spec, nil)
	})
	return errors.Join(err, cerr)
}
