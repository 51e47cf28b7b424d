package child

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// daemonLeaf is where the daemon and its keeper sit: a cgroup that hands controllers down may have
	// no processes of its own.
	daemonLeaf = "attune.daemon"
	// runPrefix begins the name of the cgroup that holds all children of a run.
	runPrefix = "attune.run."
	// cpuPeriod is the window in microseconds in which a CPU quota is counted: the kernel's own default.
	cpuPeriod = 100_000
	// removeWait bounds how long an emptied cgroup may take to become removable.
	removeWait = time.Second
)

// cgroups is the part of the cgroup tree that was given to this daemon.
type cgroups struct {
	path        string // of this run
	controllers map[string]bool
}

// Trees is how whole trees of children are held together, for who wants to know whether limits bind.
type Trees struct {
	// Cgroup is where the children's cgroups are; empty: there are none, because of Why.
	Cgroup string `json:"cgroup"`
	Why    string `json:"why"`
	// Controllers are what can be bounded of a whole tree: of memory, pids and cpu.
	Controllers []string `json:"controllers"`
}

// Trees tells how this run holds its children.
func (r *Runner) Trees() Trees {
	if r.cgroups == nil {
		return Trees{Why: r.noCgroups, Controllers: []string{}}
	}
	return Trees{Cgroup: r.cgroups.path, Controllers: slices.Sorted(maps.Keys(r.cgroups.controllers))}
}

// delegatedCgroups finds out whether this process's cgroup v2 was given to it to be divided, and divides
// it. That root could write everywhere is no permission: the manager that owns the tree would fight back.
func delegatedCgroups(runID string) (*cgroups, error) {
	if err := canStartInCgroup(); err != nil {
		return nil, err
	}
	own, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	if !isDelegated(own) {
		return nil, fmt.Errorf("%s is not delegated to this process", own)
	}
	return divide(own, runID)
}

// HasCgroups tells whether this machine has the cgroups that trees are held in, delegated to somebody or not.
func HasCgroups() bool {
	own, err := ownCgroup()
	if err != nil {
		return false
	}
	// The root of the hierarchy has no cgroup.kill, those below it do.
	_, err = os.Stat(filepath.Join(own, "cgroup.kill"))
	_, atRoot := os.Stat(filepath.Join(own, "cgroup.type"))
	return err == nil || errors.Is(atRoot, fs.ErrNotExist)
}

// canStartInCgroup tells why no child can begin its life in a cgroup: that takes clone3, which seccomp hides
// where namespaces are restricted, since it cannot look at its flags. Moving a child after its start is no
// substitute: the kernel takes some ten milliseconds for it, in which the child forks, and all other forks
// on the machine wait.
func canStartInCgroup() error {
	// Without arguments it can only be refused: EINVAL says that it is there.
	if _, _, errno := unix.Syscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.EINVAL {
		return fmt.Errorf("clone3 is not to be had (%v), as with RestrictNamespaces= in a unit", errno)
	}
	return nil
}

// divide moves this process to a leaf and makes a cgroup for the run beside it.
func divide(own, runID string) (*cgroups, error) {
	leaf := filepath.Join(own, daemonLeaf)
	if filepath.Base(own) == daemonLeaf { // placed there by systemd's DelegateSubgroup=
		own, leaf = filepath.Dir(own), own
	}
	if err := mkCgroup(leaf); err != nil {
		return nil, err
	}
	if err := writeCgroup(leaf, "cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
		return nil, err
	}
	return newRunCgroup(own, runID)
}

func newRunCgroup(own, runID string) (*cgroups, error) {
	g := &cgroups{path: filepath.Join(own, runPrefix+runID), controllers: map[string]bool{}}
	if err := mkCgroup(g.path); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(g.path, "cgroup.kill")); err != nil {
		os.Remove(g.path)
		return nil, errors.New("the kernel has no cgroup.kill (it came with 5.14)")
	}
	for _, c := range []string{"memory", "pids", "cpu"} {
		// Without a controller the tree is still found and killed; only its limit is missing.
		if writeCgroup(own, "cgroup.subtree_control", "+"+c) == nil &&
			writeCgroup(g.path, "cgroup.subtree_control", "+"+c) == nil {
			g.controllers[c] = true
		}
	}
	return g, nil
}

// ownCgroup gives the folder of this process's cgroup in the unified hierarchy.
func ownCgroup() (string, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	return locateCgroup(string(data), string(mounts))
}

// locateCgroup joins /proc/self/cgroup and /proc/self/mountinfo, both as in proc(5).
func locateCgroup(cgroup, mountinfo string) (string, error) {
	var path string
	for line := range strings.Lines(cgroup) {
		if p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			path = p
		}
	}
	if path == "" {
		return "", errors.New("this process is in no cgroup v2")
	}
	for line := range strings.Lines(mountinfo) {
		mount, fstype, ok := strings.Cut(line, " - ")
		f := strings.Fields(mount)
		if !ok || !strings.HasPrefix(fstype, "cgroup2 ") || len(f) < 5 {
			continue
		}
		root, point := f[3], f[4]
		if rel, err := filepath.Rel(root, path); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return filepath.Join(point, rel), nil
		}
	}
	return "", errors.New("cgroup v2 is not mounted")
}

// isDelegated asks for what a manager leaves where it delegates: systemd an attribute, and for a user's
// own daemon the ownership.
func isDelegated(dir string) bool {
	if unix.Access(dir, unix.W_OK) != nil || unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK) != nil {
		return false
	}
	for _, attr := range []string{"user.delegate", "trusted.delegate"} {
		var b [8]byte
		if n, err := unix.Getxattr(dir, attr, b[:]); err == nil && string(b[:n]) == "1" {
			return true
		}
	}
	return os.Geteuid() != 0
}

// child makes the cgroup of one child.
func (g *cgroups) child(id string, l Limits) (*cgroup, error) {
	path := filepath.Join(g.path, id)
	if err := mkCgroup(path); err != nil {
		return nil, err
	}
	dir, err := os.Open(path)
	if err != nil {
		os.Remove(path)
		return nil, err
	}
	c := &cgroup{path: path, dir: dir, memory: g.controllers["memory"], pids: g.controllers["pids"]}
	if err := g.limit(path, l); err != nil {
		c.remove()
		return nil, err
	}
	return c, nil
}

func (g *cgroups) limit(path string, l Limits) error {
	set := func(controller, file, value string) error {
		if !g.controllers[controller] {
			return nil
		}
		return writeCgroup(path, file, value)
	}
	var errs []error
	if l.Memory > 0 {
		errs = append(errs, set("memory", "memory.max", strconv.FormatInt(l.Memory, 10)))
		if g.controllers["memory"] {
			// Half a tree is worse than none; swap would only make it die slowly. Both are missing on
			// some kernels.
			_ = writeCgroup(path, "memory.oom.group", "1")
			_ = writeCgroup(path, "memory.swap.max", "0")
		}
	}
	if l.Pids > 0 {
		errs = append(errs, set("pids", "pids.max", strconv.FormatInt(l.Pids, 10)))
	}
	if l.CPU > 0 {
		quota := max(int64(l.CPU*cpuPeriod), 1000) // the kernel takes no less
		errs = append(errs, set("cpu", "cpu.max", fmt.Sprintf("%d %d", quota, cpuPeriod)))
	}
	return errors.Join(errs...)
}

// has tells whether the cgroup bounds what rlimits would have to bound else.
func (g *cgroups) has(controller string) bool { return g != nil && g.controllers[controller] }

// remove takes the run's cgroup away once it is empty; a process that cannot be killed keeps it.
func (g *cgroups) remove() {
	if g != nil {
		removeCgroup(g.path)
	}
}

// cgroup is the one of one child; nil where there is none, and then every method does nothing.
type cgroup struct {
	path   string
	dir    *os.File
	memory bool
	pids   bool
}

// kill ends all that is inside, forks in flight included.
func (c *cgroup) kill() {
	if c != nil {
		_ = writeCgroup(c.path, "cgroup.kill", "1")
	}
}

func (c *cgroup) remove() {
	if c == nil {
		return
	}
	c.dir.Close()
	removeCgroup(c.path)
}

func (c *cgroup) peak() (int64, bool) {
	if c == nil {
		return 0, false
	}
	return c.number("memory.peak")
}

// number reads a file that holds one; false: this kernel has it not.
func (c *cgroup) number(file string) (int64, bool) {
	data, err := os.ReadFile(filepath.Join(c.path, file))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return n, err == nil
}

func (c *cgroup) oomKills() (n uint64, ok bool) {
	if c == nil || !c.memory {
		return 0, false
	}
	data, err := os.ReadFile(filepath.Join(c.path, "memory.events"))
	return counter(data, "oom_kill"), err == nil
}

// bounds tells whether a limit on processes is the whole tree's, and counted.
func (c *cgroup) bounds(pids int64) bool { return c != nil && c.pids && pids > 0 }

// refusedForks counts what a limit on processes has refused. Before Linux 6.11 that is counted where the fork was
// tried, and not where the limit is: what never had so many was refused by a cgroup above, which others have filled.
func (c *cgroup) refusedForks(limit int64) uint64 {
	data, err := os.ReadFile(filepath.Join(c.path, "pids.events"))
	if err != nil {
		return 0
	}
	n := counter(data, "max")
	if n == 0 {
		return 0
	}
	if peak, ok := c.number("pids.peak"); ok && peak < limit {
		return 0
	}
	return n
}

// killCgroup ends a run's children by its cgroup. The path comes from a file or a pipe, so only what is
// named like a run's is touched.
func killCgroup(path string) {
	if isRunCgroup(path) {
		_ = writeCgroup(path, "cgroup.kill", "1")
	}
}

func isRunCgroup(path string) bool {
	return filepath.IsAbs(path) && strings.HasPrefix(filepath.Base(path), runPrefix)
}

// removeCgroup removes a cgroup and those below it. A dead process leaves its cgroup a moment after it
// can be waited for.
func removeCgroup(path string) {
	if path == "" {
		return
	}
	deadline := time.Now().Add(removeWait)
	for pause := sweepPause; ; pause = min(2*pause, sweepPauseMax) {
		below, _ := os.ReadDir(path)
		for _, d := range below {
			if d.IsDir() {
				_ = os.Remove(filepath.Join(path, d.Name()))
			}
		}
		err := os.Remove(path)
		if err == nil || errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
			return
		}
		<-time.After(pause)
	}
}

func mkCgroup(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// writeCgroup writes one of the kernel's files; it never creates one.
func writeCgroup(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}
