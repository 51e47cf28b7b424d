package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDefaultLimits(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	r.limits = Limits{OpenFiles: 77, FileSize: 1 << 20, Pids: 50}
	for name, test := range map[string]struct {
		own  Limits
		want string
	}{
		"defaults": {want: "77\n2048\n"},
		"own":      {own: Limits{OpenFiles: 99}, want: "99\n2048\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := sh("read go; ulimit -n; ulimit -f; ulimit -u >&2")
			out, processes := NewCapture(1000, nil), NewCapture(1000, nil)
			spec.Limits, spec.KeepStdin, spec.Stdout, spec.Stderr = test.own, true, out, processes
			p := start(t, r, spec)
			if _, err := io.WriteString(p.Stdin(), "\n"); err != nil {
				t.Fatal(err)
			}
			waitDone(t, p)
			if got, _, _ := out.Text(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			// Without a cgroup the default of processes would count everybody's.
			if got, _, _ := processes.Text(); got == "50\n" {
				t.Error("the default of processes bounds the user")
			}
		})
	}
}

func TestWeakLimits(t *testing.T) {
	t.Parallel()
	all := Limits{Memory: 1, Pids: 1, CPU: 1, OpenFiles: 1, FileSize: 1}
	whole := &cgroups{controllers: map[string]bool{"memory": true, "pids": true, "cpu": true}}
	for name, test := range map[string]struct {
		limits Limits
		cg     *cgroups
		uid    int
		want   []string
	}{
		"none":    {limits: Limits{OpenFiles: 1, FileSize: 1}},
		"cgroup":  {limits: all, cg: whole},
		"without": {limits: all, uid: 7, want: []string{"cpu", "memory", "pids"}},
		"part":    {limits: all, cg: &cgroups{controllers: map[string]bool{"memory": true}}, want: []string{"cpu", "pids"}},
	} {
		if got := slices.Sorted(maps.Keys(test.limits.weak(test.cg, test.uid))); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	if root := all.weak(nil, 0)["pids"]; !strings.Contains(root, "would not bind root") {
		t.Errorf("processes of root: %s", root)
	}

	var written bytes.Buffer
	r := newTestRunner(t)
	r.logger = slog.New(slog.NewTextHandler(&written, nil))
	for range 3 {
		spec := sh("true")
		spec.Limits = Limits{CPU: 1}
		waitDone(t, start(t, r, spec))
	}
	if n := strings.Count(written.String(), "limit=cpu"); n != 1 {
		t.Errorf("it was said %d times, want once:\n%s", n, &written)
	}
}

// TestForkBomb is bounded by the processes of a user that nobody else is, as this machine is others'
// too. One bomb stays in its group, the other leaves it at every step.
func TestForkBomb(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root may start children as somebody else")
	}
	r := newTestRunner(t)
	r.mayLimit = false // whatever this root may do
	for name, bomb := range map[string]string{
		"group":   `b() { b | b & b; }; b`,
		"session": `B='while :; do setsid /bin/bash -c "$B" & done'; export B; eval "$B"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			uid := uint32(1<<20 + rand.N(1<<20))
			spec := sh("ulimit -u; read go; " + bomb + " 2>/dev/null")
			spec.Path = "/bin/bash"
			out := NewCapture(100, nil)
			spec.Stdout = out
			spec.User, spec.KeepStdin = &User{UID: uid, GID: uid, Name: "bomb"}, true
			spec.Limits.Pids = 30
			// The bomb is lit when it is known to be bounded, and not before.
			p := start(t, r, spec)
			eventually(t, "its limit is known", func() bool { text, _, _ := out.Text(); return text != "" })
			if text, _, _ := out.Text(); text != "30\n" {
				t.Fatalf("its limit is %s", text)
			}
			if _, err := io.WriteString(p.Stdin(), "\n"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the bomb has filled its room, or is dead", func() bool { return len(processesOf(t, uid)) > 20 || !alive(p.PID()) })
			if err := p.Stop(0); err != nil {
				t.Fatal(err)
			}
			if left := processesOf(t, uid); len(left) > 0 {
				t.Errorf("%d processes are left", len(left))
			}
		})
	}
}

// processesOf lists the living processes of a user.
func processesOf(t *testing.T, uid uint32) []int {
	t.Helper()
	pids, err := allPIDs()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(pids, func(pid int) bool {
		var st unix.Stat_t
		return unix.Stat(fmt.Sprintf("/proc/%d", pid), &st) != nil || st.Uid != uid || !alive(pid)
	})
}

func TestShortageOf(t *testing.T) {
	t.Parallel()
	for errno, want := range map[unix.Errno]Shortage{
		unix.EMFILE: ShortageFiles, unix.ENFILE: ShortageFiles, unix.EAGAIN: ShortageProcesses, unix.ENOMEM: ShortageMemory,
		unix.ENOSPC: ShortageDisk, unix.EDQUOT: ShortageDisk, unix.ENOENT: NoShortage, unix.EACCES: NoShortage,
	} {
		err := fmt.Errorf("cannot run: %w", &StartError{Name: "x", Err: errno})
		if got := ShortageOf(err); got != want || (got == NoShortage) != (got.Hint() == "") {
			t.Errorf("%v: %q with hint %q, want %q", errno, got, got.Hint(), want)
		}
	}
	if ShortageOf(nil) != NoShortage || ShortageOf(io.EOF) != NoShortage {
		t.Error("other errors are shortages")
	}
}

// descriptorsHelper is a daemon with few descriptors.
const descriptorsHelper = "descriptors"

// startShort starts children with ever fewer descriptors, and prints what came of each.
func startShort() int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stdout, "error:", err)
		return 1
	}
	r, err := NewRunner(context.Background(), Options{Logger: slog.New(slog.DiscardHandler), NoKeeper: true})
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	const most = 64
	limit := unix.Rlimit{Cur: most, Max: most}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fail(err)
	}
	var taken []int
	for {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			break
		}
		taken = append(taken, fd)
	}
	// What the child gets has the highest of all numbers, as may be where others open and close at once.
	stdin := os.NewFile(most-1, "stdin")
	taken = taken[:len(taken)-1]
	for _, last := range []bool{false, true} {
		for range 8 {
			spec := Spec{Name: "child", Path: "/bin/sh", Args: []string{"-c", "echo out"}, Env: NewEnv("", "").List(), Stdin: stdin, Stderr: io.Discard}
			if last {
				spec.Stdin = nil
			}
			var out bytes.Buffer
			spec.Stdout = &out
			p, err := r.Start(context.Background(), spec)
			switch {
			case err == nil && p.Wait().Code == 0 && out.String() == "out\n":
				fmt.Fprintln(os.Stdout, "started")
				return 0
			case err == nil:
				fmt.Fprintf(os.Stdout, "%v: %q\n", p.Wait(), out.String())
			default:
				fmt.Fprintf(os.Stdout, "%s: %v\n", ShortageOf(err), err)
			}
			unix.Close(taken[len(taken)-1])
			taken = taken[:len(taken)-1]
		}
	}
	return fail(errors.New("nothing was started"))
}

// However few descriptors are free, a start that fails for the want of them says so.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), helperVar+"="+descriptorsHelper)
	out, err := cmd.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || len(lines) < 5 || lines[len(lines)-1] != "started" {
		t.Fatalf("%v: %s", err, out)
	}
	for _, line := range lines[:len(lines)-1] {
		if !strings.HasPrefix(line, string(ShortageFiles)+": ") {
			t.Errorf("not told as a shortage: %s", line)
		}
	}
}

// panicking is a writer with a mistake.
type panicking struct {
	mu    sync.Mutex
	calls int
}

func (p *panicking) Write([]byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	panic("oh no")
}

// A mistake of ours in what reads a child's output ends neither the daemon nor the child.
func TestPanickingWriter(t *testing.T) {
	t.Parallel()
	var written bytes.Buffer
	r := newTestRunner(t)
	r.logger = slog.New(slog.NewTextHandler(&written, nil))
	w := &panicking{}
	spec := sh("for i in 1 2 3 4 5; do head -c 200000 /dev/zero; done; exit 3")
	spec.Stdout = w
	if e := waitDone(t, start(t, r, spec)); e.Code != 3 {
		t.Errorf("got %v", e)
	}
	if w.calls != 1 || strings.Count(written.String(), "stack=") != 1 || !strings.Contains(written.String(), "oh no") {
		t.Errorf("called %d times; log:\n%s", w.calls, &written)
	}
}
