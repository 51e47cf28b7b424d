package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/attune-io/attune/exec/child"
)

const (
	// statusReady is how line 8 of the pid file calls a server that takes connections.
	statusReady = "ready"
	// backendGrace is how long sessions of a dead server may take to notice; they then are killed, as
	// they hold its shared memory and no new server may start beside them.
	backendGrace = 2 * time.Second
	// backendPoll is how often they are looked at.
	backendPoll = 10 * time.Millisecond
)

// pidFile is postmaster.pid: line 1 the pid, 5 the socket's folder, 8 the state.
type pidFile struct {
	pid       int
	start     uint64 // of the process, where it was looked up
	socketDir string
	status    string
}

func (l layout) pidFile() string { return filepath.Join(l.data, "postmaster.pid") }

func readPIDFile(name string) (*pidFile, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return parsePIDFile(string(data))
}

// parsePIDFile takes a file that is being written, too: only the pid must be there.
func parsePIDFile(text string) (*pidFile, error) {
	lines := strings.Split(text, "\n")
	line := func(n int) string {
		if n > len(lines) {
			return ""
		}
		return strings.TrimSpace(lines[n-1])
	}
	pid, err := strconv.Atoi(line(1))
	if err != nil {
		return nil, fmt.Errorf("its first line is no pid: %q", line(1))
	}
	if pid < 0 { // a single-user server
		pid = -pid
	}
	return &pidFile{pid: pid, socketDir: line(5), status: line(8)}, nil
}

// runningServer gives the server that runs this cluster, nil where there is none.
func (l layout) runningServer() (*pidFile, error) {
	f, err := readPIDFile(l.pidFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		if os.IsPermission(err) {
			return nil, fmt.Errorf("cannot read %s: %v", l.pidFile(), err)
		}
		return nil, nil // cut off by a crash: no server wrote on
	}
	start, err := child.StartTime(f.pid)
	if err != nil || !l.serves(f.pid) {
		return nil, nil
	}
	f.start = start
	return f, nil
}

// serves tells whether a process is a PostgreSQL process of this cluster: it stands in the data
// directory, as the postmaster and all its children do, and runs a program called postgres.
func (l layout) serves(pid int) bool {
	proc := "/proc/" + strconv.Itoa(pid)
	exe, err := os.Readlink(proc + "/exe")
	if err != nil {
		return false
	}
	// An upgrade of the package leaves "(deleted)" behind the name.
	exe = strings.TrimSuffix(exe, " (deleted)")
	if name := filepath.Base(exe); name != "postgres" && name != "postmaster" {
		return false
	}
	cwd, err := os.Stat(proc + "/cwd")
	if err != nil {
		return false
	}
	data, err := os.Stat(l.data)
	return err == nil && os.SameFile(cwd, data)
}

// clearAway removes what a server that is gone left in the way of the next: its sessions, its pid file
// and its socket's lock. PostgreSQL does the latter itself, but not if the pid is somebody else's now.
func (l layout) clearAway(ctx context.Context, logger *slog.Logger) error {
	if err := l.endBackends(ctx, logger); err != nil {
		return err
	}
	stale := []string{l.pidFile(), filepath.Join(l.socketDir, ".s.PGSQL."+port+".lock")}
	for _, name := range stale {
		f, err := readPIDFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && l.serves(f.pid) {
			return fmt.Errorf("process %d serves this cluster although it was not there a moment ago", f.pid)
		}
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("cannot remove a stale pid file: %v", err)
		}
		if err := os.Remove(strings.TrimSuffix(name, ".lock")); strings.HasSuffix(name, ".lock") && err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove a stale socket: %v", err)
		}
		logger.Info("removed a stale pid file", "file", name)
	}
	return nil
}

// endBackends waits for the sessions of a dead server, which end by themselves when they notice, and
// kills those that do not.
func (l layout) endBackends(ctx context.Context, logger *slog.Logger) error {
	deadline := time.Now().Add(backendGrace)
	poll := time.NewTicker(backendPoll)
	defer poll.Stop()
	killed := map[int]bool{}
	for {
		pids, err := l.processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline.Add(stopQuit)) {
			return fmt.Errorf("processes %v of a dead server do not end", pids)
		}
		if time.Now().After(deadline) {
			for _, pid := range pids {
				if !killed[pid] {
					killed[pid] = true
					logger.Warn("killing a session of a dead database server", "pid", pid)
				}
				l.kill(pid)
			}
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l layout) kill(pid int) {
	h, err := child.OpenProcess(pid, 0)
	if err != nil {
		return
	}
	defer h.Close()
	if l.serves(pid) {
		_ = h.Signal(syscall.SIGKILL)
	}
}

// processes lists the cluster's. It is asked when no postmaster runs.
func (l layout) processes() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && l.serves(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
