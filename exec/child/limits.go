package child

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// defaultUmask keeps what a child writes to itself.
	defaultUmask = 0o077

	// oomScore makes the kernel take a child before the daemon and before the database.
	oomScore = 500

	// oomCounterAge is how old the remembered count of OOM kills may be, as reading it costs some 30 µs:
	// a kill of somebody else's within this time before the start may be taken for ours.
	oomCounterAge = time.Second
)

// Limits bound one child; zero means the default of Options, and where that is zero too, what the
// daemon itself has. In a cgroup they bound the whole tree. Without one Memory bounds the data of each single process, Pids is the number of
// processes of the user and does not bind root, and CPU is not bounded.
type Limits struct {
	Memory    int64   // bytes
	FileSize  int64   // bytes of one file
	OpenFiles int64   // descriptors
	Pids      int64   // processes and threads
	CPU       float64 // cores
}

// or fills what is not limited from the defaults.
func (l Limits) or(defaults Limits) Limits {
	return Limits{
		Memory:    cmp.Or(l.Memory, defaults.Memory),
		FileSize:  cmp.Or(l.FileSize, defaults.FileSize),
		OpenFiles: cmp.Or(l.OpenFiles, defaults.OpenFiles),
		Pids:      cmp.Or(l.Pids, defaults.Pids),
		CPU:       cmp.Or(l.CPU, defaults.CPU),
	}
}

// weak tells what of the limits does not hold as it reads, and why.
func (l Limits) weak(cg *cgroups, uid int) map[string]string {
	const wants = "; that takes a cgroup v2 that is delegated to the daemon (Delegate=yes in its unit, and tree-limits.conf)"
	found := map[string]string{}
	if l.CPU > 0 && !cg.has("cpu") {
		found["cpu"] = "it is not enforced" + wants
	}
	if l.Memory > 0 && !cg.has("memory") {
		found["memory"] = "it bounds the data of each process, not the whole tree" + wants
	}
	if l.Pids > 0 && !cg.has("pids") {
		found["pids"] = "it bounds the processes of the user, not those of the tree" + wants
		if uid == 0 {
			found["pids"] = "it is not enforced, for it would not bind root" + wants
		}
	}
	return found
}

// tellWeak says once for each kind of limit that it does not hold as it reads.
func (r *Runner) tellWeak(spec *Spec) {
	uid := os.Geteuid()
	if spec.User != nil {
		uid = int(spec.User.UID)
	}
	for limit, why := range spec.Limits.weak(r.cgroups, uid) {
		if _, told := r.weakTold.LoadOrStore(limit, true); !told {
			r.logger.Warn("limit of a child does not hold as it reads", "limit", limit, "child", spec.Name, "err", why)
		}
	}
}

// apply sets what the kernel offers per process. It comes right after the exec: for some ten
// microseconds the child runs with the inherited limits, and what it forks in that time keeps them.
// Only a wrapper program could close that window, at twice the price of a start; the limits of a cgroup
// hold from the first instruction. For a child of another user it needs CAP_SYS_RESOURCE; see limiter.
func (l Limits) apply(pid int, cg *cgroups) error {
	set := func(what string, resource int, n int64) error {
		lim := unix.Rlimit{Cur: uint64(n), Max: uint64(n)}
		err := unix.Prlimit(pid, resource, &lim, nil)
		if errors.Is(err, unix.EPERM) {
			// Only root may raise the hard limit: go as far as it allows.
			var old unix.Rlimit
			if unix.Prlimit(pid, resource, nil, &old) == nil && old.Max < lim.Max {
				lim = unix.Rlimit{Cur: old.Max, Max: old.Max}
				err = unix.Prlimit(pid, resource, &lim, nil)
			}
		}
		if err == nil || errors.Is(err, unix.ESRCH) { // ended already
			return nil
		}
		return fmt.Errorf("cannot limit %s to %d: %v", what, n, err)
	}
	var errs []error
	if l.FileSize > 0 {
		errs = append(errs, set("the size of files", unix.RLIMIT_FSIZE, l.FileSize))
	}
	if l.OpenFiles > 0 {
		errs = append(errs, set("open files", unix.RLIMIT_NOFILE, l.OpenFiles))
	}
	if l.Memory > 0 && !cg.has("memory") {
		// Not RLIMIT_AS: node reserves address space by the gigabyte and uses none of it.
		errs = append(errs, set("memory", unix.RLIMIT_DATA, l.Memory))
	}
	if l.Pids > 0 && !cg.has("pids") {
		errs = append(errs, set("processes", unix.RLIMIT_NPROC, l.Pids))
	}
	return errors.Join(errs...)
}

// limiterShell is there on every system, and starts in a millisecond.
const limiterShell = "/bin/sh"

// limiter is a script that sets what apply would set and becomes its arguments; empty: there is nothing
// to set. It is for children of other users where this daemon lacks CAP_SYS_RESOURCE, as in many
// containers: a process may always lower its own limits.
func (l Limits) limiter(cg *cgroups) string {
	const block, kilo = 512, 1024 // POSIX counts files in blocks, shells count memory in KiB
	var b strings.Builder
	set := func(flag string, n int64) { fmt.Fprintf(&b, "ulimit -%s %d && ", flag, n) }
	if l.FileSize > 0 {
		set("f", (l.FileSize+block-1)/block)
	}
	if l.OpenFiles > 0 {
		set("n", l.OpenFiles)
	}
	if l.Memory > 0 && !cg.has("memory") {
		set("d", (l.Memory+kilo-1)/kilo)
	}
	if l.Pids > 0 && !cg.has("pids") {
		// Shells do not agree on the letter, and -p is the size of pipes to bash.
		fmt.Fprintf(&b, "{ ulimit -u %[1]d || ulimit -p %[1]d; } 2>/dev/null && ", l.Pids)
	}
	if b.Len() == 0 {
		return ""
	}
	return b.String() + `exec "$0" "$@"`
}

// forbidCores is for this process and all that it starts: a core file may hold secrets, and fills disks.
func forbidCores() error {
	return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}

// closeInheritedOnExec is for descriptors that whoever started the daemon left open: a careless shell's
// files, sockets of systemd. What Go opens has the flag already.
func closeInheritedOnExec() error {
	const first = 3
	if unix.CloseRange(first, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return nil
	}
	fds, err := os.ReadDir("/proc/self/fd") // a kernel before 5.11
	if err != nil {
		return err
	}
	for _, e := range fds {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// offerToOOM makes the child the kernel's first choice. Lowering the score needs privilege, raising it
// does not; where it fails the daemon's score is inherited.
func offerToOOM(pid int) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	_, _ = unix.Write(fd, []byte(strconv.Itoa(oomScore)))
	unix.Close(fd)
}

// startApart forks on a thread of its own, for what a child inherits from the thread that forks it and
// the daemon must not change for itself. The thread ends with the goroutine.
func startApart(prepare func() error, start func() (int, error)) (pid int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = prepare(); err == nil {
			pid, err = start()
		}
	}()
	<-done
	return pid, err
}

// setOwnUmask gives the calling thread a umask of its own, as the process has only one and a change of
// it would hit every file that is created meanwhile.
func setOwnUmask(umask int) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("cannot give it a umask of its own: %v", err)
	}
	unix.Umask(umask)
	return nil
}

// oomKills remembers how many processes the kernel had killed for memory. Without a memory cgroup it is
// the only trace that such a kill leaves for others than root.
type oomKills struct {
	file string // what has the kernel's count: /proc/vmstat, but where a test counts

	mu    sync.Mutex
	count uint64
	read  time.Time
}

// before gives the count at some time not long before now.
func (o *oomKills) before() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.read) > oomCounterAge {
		o.count, o.read = o.now(), time.Now()
	}
	return o.count
}

func (o *oomKills) now() uint64 {
	data, err := os.ReadFile(o.file)
	if err != nil {
		return 0
	}
	return counter(data, "oom_kill")
}

// counter finds "name 17" in the lines that the kernel uses in vmstat and memory.events.
func counter(data []byte, name string) uint64 {
	for line := range bytes.Lines(data) {
		key, value, _ := bytes.Cut(line, []byte(" "))
		if string(key) == name {
			n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

func signalName(sig syscall.Signal) string {
	if n := unix.SignalName(sig); n != "" {
		return n
	}
	return "signal " + strconv.Itoa(int(sig))
}
