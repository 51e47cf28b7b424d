package child

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// keptTree is a daemon in a process of its own, with a child that has a process in its group and one that
// escaped from it.
func keptTree(t *testing.T) (d *daemon, group, escaped int) {
	t.Helper()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "group"), filepath.Join(dir, "escaped")
	d = startDaemon(t, filepath.Join(dir, "state"), "trap '' TERM; sleep 300 & echo $! > "+a+"; "+escape(b)+"wait")
	return d, pidIn(t, a), pidIn(t, b)
}

func TestKeeperKillsWhenTheDaemonIsKilled(t *testing.T) {
	t.Parallel()
	d, group, escaped := keptTree(t)
	d.kill()
	// There is no lease that could run out: what ends them is that the keeper sees the end.
	assertGone(t, "the group", group)
	assertGone(t, "the escaped process", escaped)
	assertGone(t, "the keeper", d.keeper)
}

func TestKeeperEndsQuietlyWithTheDaemon(t *testing.T) {
	t.Parallel()
	d, group, escaped := keptTree(t)
	d.in.Close()
	if err := d.cmd.Wait(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		t.Error(err)
	}
	if alive(group) || alive(escaped) || alive(d.keeper) {
		t.Error("something has outlived a clean end")
	}
	if _, err := os.Stat(filepath.Join(d.stateDir, "run.json")); !os.IsNotExist(err) {
		t.Errorf("a clean end left its record: %v", err)
	}
}

// TestKeeperIgnoresSignals: a service manager may send TERM to all, a terminal INT.
func TestKeeperIgnoresSignals(t *testing.T) {
	t.Parallel()
	d, group, _ := keptTree(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		if err := syscall.Kill(d.keeper, sig); err != nil {
			t.Fatal(err)
		}
	}
	st, err := readStat(d.keeper)
	if err != nil || st.session != d.keeper {
		t.Errorf("the keeper has no session of its own: %+v, %v", st, err)
	}
	d.kill()
	assertGone(t, "the group", group)
	assertGone(t, "the keeper", d.keeper)
}

// TestKeeperKillsWhenTheLeaseRunsOut freezes the daemon: it lives and can do nothing.
func TestKeeperKillsWhenTheLeaseRunsOut(t *testing.T) {
	t.Parallel()
	d, group, escaped := keptTree(t)
	d.say("L") // a long one first: the short one must count
	d.say("l")
	if got := d.line(); got != "leased" {
		t.Fatal(got)
	}
	if err := d.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	assertGone(t, "the group", group)
	assertGone(t, "the escaped process", escaped)
	assertLives(t, "the keeper", d.keeper)
	// It wakes up, finds its children dead, and ends well.
	if err := d.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	d.in.Close()
	if err := d.cmd.Wait(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		t.Error(err)
	}
	assertGone(t, "the keeper", d.keeper)
}

// TestUnmarkedProcess emptied its environment and left its session: only that nobody else can have
// started it tells whose it was.
func TestUnmarkedProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "pid")
	d := startDaemon(t, filepath.Join(dir, "state"), "env -i setsid /bin/sh -c 'echo $$ > "+file+"; exec /bin/sleep 300' & while [ ! -s "+file+" ]; do sleep 0.01; done")
	pid := pidIn(t, file)
	d.in.Close()
	if err := d.cmd.Wait(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		t.Error(err)
	}
	assertGone(t, "the process without marks", pid)
}

func TestKeeperIsStartedAgain(t *testing.T) {
	t.Parallel()
	d, group, escaped := keptTree(t)
	d.say("L")
	if err := syscall.Kill(d.keeper, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	next := d.keeper
	eventually(t, "a new keeper", func() bool {
		d.say("k")
		var err error
		next, err = strconv.Atoi(strings.TrimPrefix(d.line(), "keeper "))
		return err == nil && next != d.keeper
	})
	assertLives(t, "the group", group)
	d.kill()
	assertGone(t, "the group", group)
	assertGone(t, "the escaped process", escaped)
	assertGone(t, "the new keeper", next)
}

// TestKeeperDiesAtTheEnd: a run that ends while its keeper is being started again ends all the same.
func TestKeeperDiesAtTheEnd(t *testing.T) {
	t.Parallel()
	d, group, escaped := keptTree(t)
	if err := syscall.Kill(d.keeper, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.in.Close()
	if err := d.cmd.Wait(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		t.Error(err)
	}
	if alive(group) || alive(escaped) {
		t.Error("children have outlived the daemon")
	}
}

// TestKeeperLeavesDetached: what a detaching child moved to its own session stays, the child itself does
// not.
func TestKeeperLeavesDetached(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	leader, moved := filepath.Join(dir, "leader"), filepath.Join(dir, "moved")
	d := startDaemon(t, filepath.Join(dir, "state"), ": detach; echo $$ > "+leader+"; "+escape(moved)+"wait; sleep 300")
	l, m := pidIn(t, leader), pidIn(t, moved)
	d.kill()
	assertGone(t, "the leader", l)
	assertGone(t, "the keeper", d.keeper)
	assertLives(t, "the detached process", m)
	st, err := readStat(m)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(-st.pgrp, syscall.SIGKILL)
}

func TestKeeperStopsPostgresLast(t *testing.T) {
	t.Parallel()
	// A stand-in that tells by which signal it was asked to go; the real one is in exec/postgres.
	file := filepath.Join(t.TempDir(), "signal")
	server := exec.Command("/bin/sh", "-c", `trap 'echo fast > `+file+`; exit 0' INT; trap 'echo other > `+file+`; exit 0' TERM QUIT; echo up; while :; do sleep 0.01; done`)
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	if _, err := NewLineReader(out).Next(); err != nil {
		t.Fatal(err)
	}
	k := &keeper{logger: testLogger(t), pg: identify(server.Process.Pid)}
	k.stopPostgres()
	if got, err := os.ReadFile(file); err != nil || string(got) != "fast\n" {
		t.Errorf("got %q, %v", got, err)
	}
	k.stopPostgres() // it is gone: nothing happens
}

func TestKeeperTakesLines(t *testing.T) {
	t.Parallel()
	alarm, err := newBootAlarm()
	if err != nil {
		t.Fatal(err)
	}
	defer alarm.f.Close()
	k := &keeper{logger: testLogger(t), alarm: alarm}
	for _, line := range []string{"run abc 17", "cgroup /sys/fs/cgroup/x/attune.run.abc", "postgres 42 4711 /var/lib/a b/data", "lease 9223372036854775807"} {
		if err := k.take(line); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	if k.killer.run != "abc" || k.killer.session != 17 || k.pg != (identity{42, 4711}) || k.pgDir != "/var/lib/a b/data" || k.cgroup == "" || k.done {
		t.Errorf("got %+v", k)
	}
	for _, bad := range []string{"", "run", "lease x", "lease", "postgres 1 2", "postgres a 2 x", "postgres 1 b x", "hello"} {
		if err := k.take(bad); err == nil {
			t.Errorf("%q was understood", bad)
		}
	}
	if err := k.take("done"); err != nil || !k.done {
		t.Errorf("done: %v", err)
	}
}

func TestKeeperByHand(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], keeperCommand)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "not by hand") {
		t.Errorf("got %v, %q", err, out)
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, filepath.Join(t.TempDir(), "state"))
	_, err := NewRunner(t.Context(), Options{Logger: testLogger(t), StateDir: d.stateDir, NoKeeper: true})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(d.cmd.Process.Pid)) {
		t.Fatalf("got %v", err)
	}
	d.kill()
	r, err := NewRunner(t.Context(), Options{Logger: testLogger(t), StateDir: d.stateDir, NoKeeper: true})
	if err != nil {
		t.Fatalf("the lock of a dead daemon holds: %v", err)
	}
	if dead, _ := r.DeadRun(); dead != d.runID {
		t.Errorf("dead run %q, want %q", dead, d.runID)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// TestLeftovers kills daemon and keeper, so that only the next start can clean up.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	d, group, escaped := keptTree(t)
	keeper := identify(d.keeper)
	// The keeper first, and the daemon before it can start another.
	syscall.Kill(d.cmd.Process.Pid, syscall.SIGSTOP)
	killByIdentity(keeper)
	d.kill()
	assertLives(t, "the group", group)
	r, err := NewRunner(t.Context(), Options{Logger: testLogger(t), StateDir: d.stateDir, NoKeeper: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if dead, killed := r.DeadRun(); dead != d.runID || killed < 3 {
		t.Errorf("dead run %q with %d processes", dead, killed)
	}
	if alive(group) || alive(escaped) {
		t.Error("leftovers live")
	}
}

// TestOldKeeperIsEnded: it would stop a database that the new run has taken over.
func TestOldKeeperIsEnded(t *testing.T) {
	t.Parallel()
	d, group, _ := keptTree(t)
	if err := syscall.Kill(d.keeper, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	d.kill()
	r, err := NewRunner(t.Context(), Options{Logger: testLogger(t), StateDir: d.stateDir, NoKeeper: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if alive(d.keeper) || alive(group) {
		t.Error("something of the dead run lives")
	}
}

// TestLeftoversWithForgedRecord: pids in the record that belong to somebody else now are left alone.
func TestLeftoversWithForgedRecord(t *testing.T) {
	t.Parallel()
	victim := exec.Command("sleep", "300")
	marked := exec.Command("sleep", "300")
	deadRun := newRunID() // no fixed one, by which another run of these tests would take it for its own
	boot, err := BootID()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*exec.Cmd{victim, marked} {
		c.Env = []string{}
		if c == marked {
			c.Env = []string{EnvRunID + "=" + deadRun}
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			c.Process.Kill()
			c.Wait()
		}()
	}
	// Pid reused: right pid, wrong start time.
	reused := identity{PID: victim.Process.Pid, Start: identify(victim.Process.Pid).Start - 1}
	for _, tc := range []struct {
		name   string
		rec    record
		killed int
	}{
		{"another boot", record{BootID: "another", RunID: deadRun, Daemon: reused, Keeper: reused}, 0},
		{"no run id", record{BootID: boot, Daemon: reused, Keeper: reused}, 0},
		{"reused pids", record{BootID: boot, RunID: deadRun, Daemon: reused, Keeper: reused, Cgroup: "/sys/fs/cgroup"}, 1},
	} {
		dir := t.TempDir()
		forge(t, dir, tc.rec)
		r, err := NewRunner(t.Context(), Options{Logger: testLogger(t), StateDir: dir, NoKeeper: true})
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if dead, killed := r.DeadRun(); dead != tc.rec.RunID || killed != tc.killed {
			t.Errorf("%s: dead run %q, killed %d", tc.name, dead, killed)
		}
		assertLives(t, tc.name+": the stranger", victim.Process.Pid)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "the leftover is dead", func() bool { return !alive(marked.Process.Pid) })
}

func forge(t *testing.T, dir string, rec record) {
	t.Helper()
	data, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "run.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDaemonStartedByAChildOfTheDeadRun carries that run's mark itself: it must not kill itself.
func TestDaemonStartedByAChildOfTheDeadRun(t *testing.T) {
	t.Parallel()
	boot, err := BootID()
	if err != nil {
		t.Fatal(err)
	}
	dir, deadRun := t.TempDir(), newRunID()
	forge(t, dir, record{BootID: boot, RunID: deadRun})
	d := startDaemonWith(t, []string{EnvRunID + "=" + deadRun}, dir)
	assertLives(t, "the daemon", d.cmd.Process.Pid)
}

func TestBrokenRecord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "run.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := NewRunner(t.Context(), Options{Logger: testLogger(t), StateDir: dir, NoKeeper: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{}, {Logger: testLogger(t)}, {Logger: testLogger(t), Binary: "/x"}} {
		if _, err := NewRunner(t.Context(), o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	// A program that is no keeper is told from one.
	if _, err := NewRunner(t.Context(), Options{Logger: testLogger(t), Binary: "/bin/true", StateDir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "it ended at once") {
		t.Errorf("got %v", err)
	}
	// A keeper that cannot be started is told, and nothing is left locked.
	dir := t.TempDir()
	for range 2 {
		_, err := NewRunner(t.Context(), Options{Logger: testLogger(t), Binary: "/no/such/binary", StateDir: dir})
		if err == nil || !strings.Contains(err.Error(), "/no/such/binary does not exist") {
			t.Errorf("got %v", err)
		}
	}
}

func TestHandle(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	id := identify(pid)
	if _, err := OpenProcess(pid, id.Start+1); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("another start time: %v", err)
	}
	h, err := OpenProcess(pid, id.Start)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := h.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
	if err := h.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := h.Wait(t.Context()); err != nil { // unreaped, and ended all the same
		t.Error(err)
	}
	cmd.Wait()
	if err := h.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal to the dead: %v", err)
	}
	if _, err := OpenProcess(pid, id.Start); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("open of the dead: %v", err)
	}
}
