package child

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// procStat is the part of /proc/PID/stat that tells processes apart.
type procStat struct {
	pid, ppid, pgrp, session int
	state                    byte   // 'Z': dead, not reaped
	kernel                   bool   // a thread of the kernel's own
	start                    uint64 // clock ticks since boot; with the pid it is an identity
}

func readStat(pid int) (procStat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	return parseStat(data)
}

// parseStat begins behind the last parenthesis, because a program may call itself ") R 1 1 (".
func parseStat(data []byte) (procStat, error) {
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return procStat{}, errors.New("no process name")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data[:open])))
	if err != nil {
		return procStat{}, fmt.Errorf("bad pid: %v", err)
	}
	f := strings.Fields(string(data[end+1:]))
	const (
		flagsField = 6  // field 9 of proc(5), counted from the state
		startField = 19 // field 22
		kthread    = 0x00200000
	)
	if len(f) <= startField {
		return procStat{}, errors.New("too few fields")
	}
	st := procStat{pid: pid, state: f[0][0]}
	for i, to := range []*int{&st.ppid, &st.pgrp, &st.session} {
		if *to, err = strconv.Atoi(f[i+1]); err != nil {
			return procStat{}, fmt.Errorf("bad field: %v", err)
		}
	}
	flags, err := strconv.ParseUint(f[flagsField], 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("bad flags: %v", err)
	}
	st.kernel = flags&kthread != 0
	if st.start, err = strconv.ParseUint(f[startField], 10, 64); err != nil {
		return procStat{}, fmt.Errorf("bad start time: %v", err)
	}
	return st, nil
}

// StartTime is when a process began, in clock ticks since boot: together with the pid it names one
// process for as long as the machine runs.
func StartTime(pid int) (uint64, error) {
	st, err := readStat(pid)
	if err != nil {
		return 0, fmt.Errorf("cannot read the start time of process %d: %w", pid, err)
	}
	return st.start, nil
}

// marks are the variables of a process's environment that say whose it is.
type marks struct{ run, child string }

// sight is how much of a process could be seen.
type sight int

const (
	// hidden: it is gone, a zombie, or not ours to look at. It says nothing about whose it is.
	hidden sight = iota
	// blurred: it is in the middle of an exec, when for some microseconds, or for long on a busy machine,
	// it has neither environment nor arguments. Ask again.
	blurred
	// seen: what there is was read.
	seen
)

// maxEnviron bounds what is read of one environment: the kernel allows a quarter of the stack limit,
// which is 2 MiB by default.
const maxEnviron = 8 << 20

// readMarks gives empty marks where they could not be seen.
func readMarks(pid int) (marks, sight) {
	dir := "/proc/" + strconv.Itoa(pid)
	// Twice, as the exec may be over between a look at the environment and one at the arguments.
	for range 2 {
		environ, err := readSome(dir + "/environ")
		if err != nil {
			return marks{}, hidden
		}
		if len(environ) > 0 {
			return parseMarks(environ), seen
		}
		args, err := readSome(dir + "/cmdline")
		if err != nil {
			return marks{}, hidden
		}
		if len(args) == 0 {
			st, err := readStat(pid)
			if err != nil || st.state == 'Z' || st.state == 'X' || st.kernel {
				return marks{}, hidden
			}
			return marks{}, blurred
		}
	}
	return marks{}, seen // it has no environment for good
}

func readSome(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxEnviron))
}

func parseMarks(environ []byte) marks {
	var m marks
	for len(environ) > 0 && (m.run == "" || m.child == "") {
		var item []byte
		item, environ, _ = bytes.Cut(environ, []byte{0})
		if v, ok := bytes.CutPrefix(item, []byte(EnvRunID+"=")); ok && m.run == "" {
			m.run = string(v)
		}
		if v, ok := bytes.CutPrefix(item, []byte(EnvChildID+"=")); ok && m.child == "" {
			m.child = string(v)
		}
	}
	return m
}

// allPIDs lists the processes of this machine, or of this pid namespace.
func allPIDs() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	pids := make([]int, 0, len(names))
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// orphanage lists children of this process's main thread. The kernel gives orphans of a subreaper to its
// first living thread, which in Go is the main thread for as long as the process lives, so one file has them
// all; children that we forked ourselves are there or at another thread. The file stays open, as each end of
// a child takes a look at it.
type orphanage struct {
	file *os.File // nil: the kernel has no such file
	conn syscall.RawConn
}

func openOrphanage() orphanage {
	f, err := os.Open("/proc/self/task/" + strconv.Itoa(os.Getpid()) + "/children")
	if err != nil {
		return orphanage{}
	}
	conn, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return orphanage{}
	}
	return orphanage{f, conn}
}

func (o orphanage) pids() (pids []int, err error) {
	if o.file == nil {
		return nil, os.ErrNotExist
	}
	// One read gives whole numbers that fit into the kernel's buffer, which is a page.
	const page, longest = 4096, len("4194304 ")
	list := buffers.Get().(*[readSize]byte)
	defer buffers.Put(list)
	var n int
	closed := o.conn.Control(func(fd uintptr) { n, err = unix.Pread(int(fd), list[:page], 0) })
	if closed != nil || err != nil {
		return nil, errors.Join(closed, err)
	}
	if n > page-longest {
		return childrenFile(o.file.Name())
	}
	return parsePIDs(list[:n]), nil
}

func (o orphanage) close() {
	if o.file != nil {
		o.file.Close()
	}
}

// childPIDs lists the children of all threads; where the kernel has no such file, by a walk of /proc.
func childPIDs() ([]int, error) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, t := range tasks {
		p, err := childrenFile("/proc/self/task/" + t.Name() + "/children")
		if errors.Is(err, os.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil {
			return nil, err
		}
		pids = append(pids, p...)
	}
	return pids, nil
}

func childrenFile(name string) ([]int, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return parsePIDs(data), nil
}

// parsePIDs reads numbers between spaces.
func parsePIDs(list []byte) (pids []int) {
	for f := range strings.FieldsSeq(string(list)) {
		if pid, err := strconv.Atoi(f); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// childrenByWalk is childPIDs for a kernel without CONFIG_PROC_CHILDREN.
func childrenByWalk() ([]int, error) {
	all, err := allPIDs()
	if err != nil {
		return nil, err
	}
	self := os.Getpid()
	var pids []int
	for _, pid := range all {
		if st, err := readStat(pid); err == nil && st.ppid == self {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// BootID names this boot of the machine: start times and pids of another one mean nothing.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data)), err
}

// Boottime is the time since boot, suspension included: leases are counted on it, because it neither
// jumps with the wall clock nor stops while the machine sleeps.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("no CLOCK_BOOTTIME: " + err.Error()) // there since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}
