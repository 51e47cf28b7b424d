package child

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// escape starts a process that left the group: a double fork, and a session of its own.
func escape(pidFile string) string {
	return `(setsid sh -c 'sleep 300 & echo $! > ` + pidFile + `; wait' >/dev/null 2>&1 &)
		while [ ! -s ` + pidFile + ` ]; do sleep 0.01; done; `
}

func TestTreeDiesWithItsLeader(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	for _, tc := range []struct {
		name, end string
		stop      bool
	}{
		{"it ends", "exit 0", false},
		{"it is killed", "kill -9 $$", false},
		{"it is stopped", "sleep 300", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			group, escaped := filepath.Join(dir, "group"), filepath.Join(dir, "escaped")
			p := start(t, r, sh("sleep 300 & echo $! > "+group+";"+escape(escaped)+tc.end))
			inGroup, gone := pidIn(t, group), pidIn(t, escaped)
			if tc.stop {
				if err := p.Stop(patience); err != nil {
					t.Fatal(err)
				}
			}
			waitDone(t, p)
			// No wait: Done means that they are gone.
			if alive(inGroup) || alive(gone) {
				t.Error("the tree has outlived its leader")
			}
		})
	}
}

// TestDeepTree has each process start the next in a session of its own, and the whole chain behind it:
// killing one gives us the one below.
func TestDeepTree(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	dir := t.TempDir()
	script := filepath.Join(dir, "chain.sh")
	text := "#!/bin/sh\necho $$ > " + dir + "/$1\n[ $1 -eq 0 ] || setsid " + script + " $(($1-1)) &\nsleep 300\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	p := start(t, r, Spec{Name: "chain", Path: script, Args: []string{"8"}, Env: NewEnv("", "").List(), Dir: "/"})
	var pids []int
	for i := range 9 {
		pids = append(pids, pidIn(t, filepath.Join(dir, string(rune('0'+i)))))
	}
	if err := p.Stop(0); err != nil {
		t.Fatal(err)
	}
	for i, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d of the chain lives", i)
		}
	}
}

// TestTreesAreKeptApart ends one child while another of the same run has an orphan.
func TestTreesAreKeptApart(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	dir := t.TempDir()
	mine, theirs := filepath.Join(dir, "mine"), filepath.Join(dir, "theirs")
	a := start(t, r, sh(escape(mine)+"sleep 300"))
	b := start(t, r, sh(escape(theirs)+"sleep 300"))
	minePID, theirsPID := pidIn(t, mine), pidIn(t, theirs)
	if err := a.Stop(0); err != nil {
		t.Fatal(err)
	}
	if alive(minePID) {
		t.Error("an orphan of the stopped child lives")
	}
	assertLives(t, "an orphan of another child", theirsPID)
	if err := b.Stop(0); err != nil {
		t.Fatal(err)
	}
	if alive(theirsPID) {
		t.Error("an orphan of the second child lives")
	}
}

func TestDetach(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	file := filepath.Join(t.TempDir(), "pid")
	spec := sh(escape(file) + "exit 0")
	spec.Detach = true
	waitDone(t, start(t, r, spec))
	pid := pidIn(t, file)
	r.tidy(nil)
	assertLives(t, "the detached process", pid)
	killByIdentity(identify(pid))

	// Stop is not an end by itself.
	file = filepath.Join(t.TempDir(), "pid")
	spec = sh(escape(file) + "sleep 300")
	spec.Detach = true
	p := start(t, r, spec)
	pid = pidIn(t, file)
	if err := p.Stop(0); err != nil {
		t.Fatal(err)
	}
	if alive(pid) {
		t.Error("Stop left a process of a detaching child")
	}
}

// TestGrandchildKeepsPipe has a process that may live hold stdout: the end of the leader must be noticed.
func TestGrandchildKeepsPipe(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	dir := t.TempDir()
	spec := sh("echo before; setsid sh -c 'echo $$ > " + dir + "/pid; exec sleep 300' & while [ ! -s " + dir + "/pid ]; do sleep 0.01; done")
	spec.Detach = true
	c := NewCapture(1000, nil)
	spec.Stdout = c
	p := start(t, r, spec)
	pid := pidIn(t, dir+"/pid")
	defer func() { killByIdentity(identify(pid)) }()
	eventually(t, "the leader has ended", func() bool { return !alive(p.PID()) })
	e := waitDone(t, p)
	if !alive(pid) {
		t.Error("it was noticed only when nobody held the pipe any more")
	}
	if pipeWait >= time.Second {
		t.Errorf("the pipe is waited for %v, F40 promises that an exit is noticed within a second", pipeWait)
	}
	if text, _, _ := c.Text(); !e.OutputIncomplete || e.Code != 0 || text != "before\n" {
		t.Errorf("got %v, %q", e, text)
	}

	// One that may not live does not hold anything up, and all of the output is there.
	spec = sh("echo before; sleep 300 &")
	spec.Stdout = NewCapture(1000, nil)
	if e := waitDone(t, start(t, r, spec)); e.OutputIncomplete {
		t.Errorf("got %v", e)
	}
}

// TestGrandchildFloodsPipe: not even one that writes without an end holds up the end.
func TestGrandchildFloodsPipe(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	file := filepath.Join(t.TempDir(), "pid")
	spec := sh("setsid sh -c 'echo $$ > " + file + "; exec yes' & while [ ! -s " + file + " ]; do sleep 0.01; done")
	spec.Detach = true
	spec.Stdout = NewCapture(1000, nil)
	p := start(t, r, spec)
	pid := pidIn(t, file)
	defer func() { killByIdentity(identify(pid)) }()
	if e := waitDone(t, p); !e.OutputIncomplete {
		t.Errorf("got %v", e)
	}
	assertGone(t, "the writer, by SIGPIPE,", pid)
}

// TestZombiesAreReaped: an orphan that ends by itself has nobody else. It is not parallel, as its two
// passes do not leave others the time that the janitor does.
func TestZombiesAreReaped(t *testing.T) {
	r := newTestRunner(t)
	file := filepath.Join(t.TempDir(), "pid")
	spec := sh("setsid sh -c 'echo $$ > " + file + "; exec sleep 300' &")
	spec.Detach = true
	waitDone(t, start(t, r, spec))
	pid := pidIn(t, file)
	killByIdentity(identify(pid))
	left := r.tidy(nil)
	if _, ok := left[pid]; !ok {
		t.Fatalf("the zombie %d was not seen: %v", pid, left)
	}
	r.tidy(left)
	if _, err := readStat(pid); err == nil {
		t.Error("the zombie is still there")
	}
}

// TestTidyLeavesOthersAlone: the children of another Runner in this process are strangers, but not ours.
// It is not parallel, for the same reason.
func TestTidyLeavesOthersAlone(t *testing.T) {
	mine, other := newTestRunner(t), newTestRunner(t)
	p := start(t, other, sh("sleep 300"))
	mine.tidy(mine.tidy(nil))
	assertLives(t, "a child of another Runner", p.PID())
	if err := p.Stop(0); err != nil {
		t.Fatal(err)
	}
	if e := p.Wait(); e.Signal != "SIGKILL" {
		t.Errorf("somebody else reaped it: %v", e)
	}
}

// TestTidyLeavesZombiesToWhoWaits: what lived in the last pass has ended a moment ago, and os/exec is about to hear of it.
func TestTidyLeavesZombiesToWhoWaits(t *testing.T) {
	r := newTestRunner(t)
	cmd := exec.Command("/bin/sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := r.tidy(nil)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if !hasEnded(cmd.Process.Pid, 0) {
		t.Fatal("it lives")
	}
	r.tidy(seen)
	if err := cmd.Wait(); cmd.ProcessState == nil {
		t.Errorf("somebody else reaped it: %v", err)
	}
}

// TestTidyKillsTheUnmarked is not parallel: it takes all unmarked strangers of this process for its own.
func TestTidyKillsTheUnmarked(t *testing.T) {
	r := newTestRunner(t)
	r.keeper = newKeeperLink(r, "") // as in a daemon, which has its process to itself
	file := filepath.Join(t.TempDir(), "pid")
	owner := start(t, r, sh("env -i setsid /bin/sh -c 'echo $$ > "+file+"; exec /bin/sleep 300' & sleep 300"))
	pid := pidIn(t, file)
	r.tidy(r.tidy(nil))
	assertLives(t, "the process whose owner may live", pid)
	if err := owner.Stop(0); err != nil {
		t.Fatal(err)
	}
	r.tidy(r.tidy(nil))
	assertGone(t, "the process without marks", pid)
}

// TestTidyKillsWhatSlippedThrough has processes with the marks of children that have ended.
func TestTidyKillsWhatSlippedThrough(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	late := func(childID string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command("/bin/sleep", "300")
		cmd.Env = []string{EnvRunID + "=" + r.id, EnvChildID + "=" + childID}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		return cmd
	}
	gone, stays := late("998"), late("999"+detachMark)
	r.tidy(nil)
	assertGone(t, "the process of a child that has ended", gone.Process.Pid)
	assertLives(t, "the process that was let live", stays.Process.Pid)
}

// TestTidyDuringStarts: a child that was forked a moment ago is none that has outlived anything.
func TestTidyDuringStarts(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				r.tidy(nil)
			}
		}
	}()
	for range 100 {
		if e := waitDone(t, start(t, r, sh("exit 3"))); e.Code != 3 {
			t.Fatalf("got %v", e)
		}
	}
	close(stop)
	<-stopped
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	tail := " S 1 2 3 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0"
	for _, name := range []string{"sh", "a b", ") R 9 9 (", ""} {
		st, err := parseStat([]byte("17 (" + name + ")" + tail))
		if want := (procStat{pid: 17, ppid: 1, pgrp: 2, session: 3, state: 'S', start: 4711}); err != nil || st != want {
			t.Errorf("%q: got %+v, %v", name, st, err)
		}
	}
	for _, bad := range []string{"", "17", "17 (", ")(", "x (sh)" + tail, "17 (sh) S 1 2"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestParseMarks(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]marks{
		"": {},
		"A=1\x00ATTUNE_RUN_ID=r\x00ATTUNE_CHILD_ID=7\x00":           {"r", "7"},
		"XATTUNE_RUN_ID=r\x00":                                      {},
		"ATTUNE_RUN_ID=r\x00ATTUNE_RUN_ID=s":                        {run: "r"},
		"ATTUNE_CHILD_ID=7.detach\x00B=ATTUNE_RUN_ID=x\x00\x00\x00": {child: "7.detach"},
	} {
		if got := parseMarks([]byte(in)); got != want {
			t.Errorf("%q: got %+v", in, got)
		}
	}
}

func TestLocateCgroup(t *testing.T) {
	t.Parallel()
	const hybrid = "31 23 0:27 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw\n" +
		"32 31 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n"
	const nested = "32 31 0:28 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate\n"
	for _, tc := range []struct{ cgroup, mounts, want, err string }{
		{"12:pids:/x\n0::/system.slice/attune.service\n", hybrid, "/sys/fs/cgroup/unified/system.slice/attune.service", ""},
		{"0::/docker/abc/unit\n", nested, "/sys/fs/cgroup/unit", ""},
		{"0::/elsewhere\n", nested, "", "not mounted"},
		{"12:pids:/x\n", hybrid, "", "no cgroup v2"},
		{"0::/x\n", "31 23 0:27 / /sys rw - sysfs sysfs rw\n", "", "not mounted"},
	} {
		got, err := locateCgroup(tc.cgroup, tc.mounts)
		if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%q: got %q, %v", tc.cgroup, got, err)
		}
	}
}

// testCgroup makes a cgroup v2 folder for one test, where this machine lets us.
func testCgroup(t *testing.T) string {
	t.Helper()
	own, err := ownCgroup()
	if err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(own, "attune-test-"+newRunID())
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("no cgroup may be made here: %v", err)
	}
	t.Cleanup(func() { removeCgroup(dir) })
	return dir
}

func TestCanStartInCgroup(t *testing.T) {
	t.Parallel()
	if err := canStartInCgroup(); err != nil {
		t.Errorf("where nothing is restricted: %v", err)
	}
}

// TestCgroup has a process that also emptied its environment: only the cgroup still knows it.
func TestCgroup(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	var err error
	if r.cgroups, err = newRunCgroup(testCgroup(t), r.id); err != nil {
		t.Skip(err)
	}
	file := filepath.Join(t.TempDir(), "pid")
	p := start(t, r, sh(`env -i setsid /bin/sh -c '/bin/sleep 300 & echo $! > `+file+`; wait' & sleep 300`))
	pid := pidIn(t, file)
	path := p.group.path
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(0); err != nil {
		t.Fatal(err)
	}
	assertGone(t, "the process without environment", pid)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the cgroup of the child is left: %v", err)
	}
	if got, e := output(t, r, sh("echo ok")); got != "ok\n" || e.Code != 0 {
		t.Errorf("got %q, %v", got, e)
	}
}

func TestIsRunCgroup(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"": false, "/": false, "/sys/fs/cgroup/system.slice": false, "attune.run.x": false,
		"/sys/fs/cgroup/x/attune.run.1": true,
	} {
		if isRunCgroup(path) != want {
			t.Errorf("%q: %v", path, !want)
		}
	}
}

// What the kernel counts of a bomb is written by hand here, as few machines have a cgroup of processes for a test:
// contrib/cgroup/test.sh lets a bomb go off in one.
func TestForksAreWatched(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	const limit = 40
	for name, test := range map[string]struct {
		refused int
		peak    string // empty: the kernel is too old
		bomb    bool
		want    string
		early   bool // before anybody looks
	}{
		"bomb":     {limit + 1, "40", true, "killed as a fork bomb: its limit of 40 processes and threads (limits.pids) refused 41 more", false},
		"old bomb": {limit + 1, "", true, "killed as a fork bomb: its limit of 40 processes and threads (limits.pids) refused 41 more", true},
		"greedy":   {limit, "40", false, "exit 3: its limit of 40 processes and threads (limits.pids) refused 40 more", false},
		"none":     {0, "3", false, "exit 3", false},
		// Counted here, but refused by a limit above.
		"beside a bomb": {limit + 1, "39", false, "exit 3", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write := func(file, text string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if test.peak != "" {
				write("pids.peak", test.peak)
			}
			spec := sh("read go; exit 3")
			spec.KeepStdin = true
			p, err := r.startIdle(spec)
			if err != nil {
				t.Fatal(err)
			}
			p.spec.Limits.Pids = limit
			open, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			p.group = &cgroup{path: dir, dir: open, pids: true}
			if !test.early {
				synctest.Test(t, func(t *testing.T) {
					watched := p.watchForks()
					for look, refused := range []int{0, test.refused, test.refused} {
						write("pids.events", fmt.Sprint("max ", refused))
						time.Sleep(forkLook) //nolint:forbidigo // of a bubble
						synctest.Wait()
						if bomb := test.bomb && look > 0; p.bombed.Load() != bomb {
							t.Errorf("a bomb after look %d is %v, expected %v", look+1, !bomb, bomb)
						}
					}
					watched()
				})
			}
			write("pids.events", fmt.Sprint("max ", test.refused))
			go p.supervise()
			if !test.bomb {
				if _, err := io.WriteString(p.Stdin(), "go\n"); err != nil {
					t.Error(err)
				}
			}
			if e := waitDone(t, p); e.String() != test.want || e.ForkBomb != test.bomb {
				t.Errorf("found %q, %+v, expected %q", e, e, test.want)
			}
		})
	}
}

// What is refused now and then is no bomb, however long it goes on; a bomb is one too where it begins late.
func TestForkBombsAreToldByTheirPace(t *testing.T) {
	t.Parallel()
	const limit = 40
	for name, test := range map[string]struct {
		each int // refused at each look
		want int // looks until it is a bomb; 0: never
	}{
		"a fork that is tried twice a second": {1, 0}, // 120 a minute
		"shells that fork shells":             {limit, 2},
		"a loop":                              {1_000_000, 1},
	} {
		for _, late := range []time.Duration{0, forkWindow - forkLook, 24 * time.Hour} {
			now, refused, got := time.Now(), 0, 0
			count := forkCount{limit: limit, since: now}
			for begin := now.Add(late); now.Before(begin); {
				now = now.Add(forkLook)
				if count.isBomb(now, 0) {
					t.Fatal("a bomb that forks nothing")
				}
			}
			for look := 1; look <= 10_000 && got == 0; look++ {
				now, refused = now.Add(forkLook), refused+test.each
				if count.isBomb(now, uint64(refused)) {
					got = look
				}
			}
			if test.want == 0 && got != 0 || got > test.want+1 || got < test.want {
				t.Errorf("%s, after %v: a bomb after %d looks, expected %d", name, late, got, test.want)
			}
		}
	}
}

// A bomb is bounded by the cgroup of its child and ended, and nothing is left of it, also where its processes have
// left the session and taken the environment off. Whoever stands beside it has all that it may have.
func TestForkBombInCgroup(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	var err error
	if r.cgroups, err = newRunCgroup(testCgroup(t), r.id); err != nil {
		t.Skip(err)
	}
	if !r.cgroups.has("pids") {
		t.Skip("no processes may be bounded by a cgroup here")
	}
	const limit = 40
	beside := sh("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 300 & done; read go; exit 7")
	beside.Limits.Pids, beside.KeepStdin = limit, true
	b := start(t, r, beside)
	for name, script := range map[string]string{
		"in the background": `b() { b | b & }; b; sleep 300`,
		"another session": `exec env -i python3 -c "
import os
while True:
    try: os.fork() or os.setsid()
    except OSError: pass
"`,
	} {
		spec := sh("exec bash -c '" + script + "'")
		spec.Limits.Pids, spec.Stderr = limit, NewCapture(1000, nil)
		p := start(t, r, spec)
		path := p.group.path
		most := 0
		for running := true; running; {
			if n, err := os.ReadFile(filepath.Join(path, "pids.current")); err == nil {
				if now, _ := strconv.Atoi(strings.TrimSpace(string(n))); now > most {
					most = now
				}
			}
			select {
			case <-p.Done():
				running = false
			default:
			}
		}
		e := p.Wait()
		if !e.ForkBomb || e.Signal != "SIGKILL" || e.RefusedForks <= limit || e.MaxProcesses != limit {
			t.Errorf("%s: it ended by %v", name, e)
		}
		if most > limit {
			t.Errorf("%s: it had %d processes", name, most)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s: the cgroup of the child is left: %v", name, err)
		}
	}
	if _, err := io.WriteString(b.Stdin(), "\n"); err != nil {
		t.Error(err)
	}
	waitDone(t, b)
	if e := b.Wait(); e.Code != 7 || e.RefusedForks != 0 {
		t.Errorf("beside them a child ended by %v", e)
	}
}

const tracerHelper = "tracer"

// trace holds on to a process, whose end then is nobody else's to see, until stdin ends.
func trace() int {
	runtime.LockOSThread()
	pid, _ := strconv.Atoi(os.Args[1])
	if err := unix.PtraceSeize(pid); err != nil {
		fmt.Fprintln(os.Stdout, "error:", err)
		return 1
	}
	fmt.Fprintln(os.Stdout, "traced")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// TestOutlived tells of what does not end although it was killed, as a process does that is stuck in the kernel; here
// it is one whose end a stranger keeps from us. Once that lets go, it is seen to be gone.
func TestOutlived(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	for _, traced := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "pid")
		spec := sh("setsid sh -c 'echo $$ > " + file + "; exec sleep 300' >/dev/null 2>&1 & read x")
		spec.KeepStdin = true
		if traced {
			r.killWait = 50 * time.Millisecond
		}
		p := start(t, r, spec)
		pid := pidIn(t, file)
		release := func() {}
		if traced {
			tracer := exec.Command(os.Args[0], strconv.Itoa(pid))
			tracer.Env = append(os.Environ(), helperVar+"="+tracerHelper)
			in, err := tracer.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := tracer.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := tracer.Start(); err != nil {
				t.Fatal(err)
			}
			release = sync.OnceFunc(func() {
				in.Close()
				_ = tracer.Wait()
			})
			defer release()
			if line, err := NewLineReader(out).Next(); err != nil || string(line.Bytes) != "traced" {
				t.Skipf("nobody may be traced here: %s %v", line.Bytes, err)
			}
		}
		if err := p.Stdin().Close(); err != nil {
			t.Fatal(err)
		}
		if exit := waitDone(t, p); exit.Outlived != traced || exit.Code != 1 {
			t.Errorf("traced %v: %+v", traced, exit)
		}
		brief, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := p.Outlast(brief); (err == nil) == traced {
			t.Errorf("traced %v: waited for what is left: %v", traced, err)
		}
		cancel()
		release()
		if err := p.Outlast(t.Context()); err != nil {
			t.Errorf("traced %v: what is left is not seen to end: %v", traced, err)
		}
		if _, err := readStat(pid); err == nil {
			t.Errorf("traced %v: %d is there", traced, pid)
		}
	}
}
