package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestExit(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	for _, tc := range []struct {
		script, text string
		code         int
		signal       string
	}{
		{"true", "exit 0", 0, ""},
		{"exit 3", "exit 3", 3, ""},
		{"kill -9 $$", "killed by SIGKILL", -1, "SIGKILL"},
		{"kill -TERM $$", "killed by SIGTERM", -1, "SIGTERM"},
	} {
		e := waitDone(t, start(t, r, sh(tc.script)))
		if e.Code != tc.code || e.Signal != tc.signal || e.String() != tc.text || e.OOM || e.OutputIncomplete {
			t.Errorf("%s: got %+v, %q", tc.script, e, e)
		}
		if e.EndedAt.IsZero() || e.MaxRSS <= 0 {
			t.Errorf("%s: no time or memory: %+v", tc.script, e)
		}
	}
	if got := (Exit{Code: -1, Signal: "SIGKILL", OOM: true, OutputIncomplete: true}).String(); got != "killed for memory, output incomplete" {
		t.Errorf("got %q", got)
	}
}

func TestStdin(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)

	t.Run("written and closed", func(t *testing.T) {
		spec := sh("cat")
		spec.Stdin = strings.NewReader("hello")
		if got, _ := output(t, r, spec); got != "hello" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("empty", func(t *testing.T) {
		if got, e := output(t, r, sh("cat")); got != "" || e.Code != 0 {
			t.Errorf("got %q, %v", got, e)
		}
	})
	t.Run("not read", func(t *testing.T) {
		spec := sh("exit 0")
		spec.Stdin = bytes.NewReader(make([]byte, 1<<20))
		if _, e := output(t, r, spec); e.Code != 0 {
			t.Errorf("got %v", e)
		}
	})
	t.Run("held open by a grandchild that does not read", func(t *testing.T) {
		spec := sh("sleep 300 & exit 0")
		spec.Stdin = bytes.NewReader(make([]byte, 1<<20))
		spec.Detach = true
		p := start(t, r, spec)
		if e := waitDone(t, p); e.Code != 0 {
			t.Errorf("got %v", e)
		}
	})
	t.Run("a file is handed over", func(t *testing.T) {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		spec := sh("readlink /proc/self/fd/0")
		spec.Stdin = f
		if got, _ := output(t, r, spec); got != "/dev/null\n" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("kept", func(t *testing.T) {
		spec := sh("read a; echo $a; read b; echo $b; cat")
		spec.Stdin, spec.KeepStdin = strings.NewReader("first\n"), true
		out := NewCapture(1000, nil)
		spec.Stdout = out
		p := start(t, r, spec)
		if _, err := io.WriteString(p.Stdin(), "second\n"); err != nil {
			t.Fatal(err)
		}
		if err := p.Stdin().Close(); err != nil {
			t.Fatal(err)
		}
		waitDone(t, p)
		if text, _, _ := out.Text(); text != "first\nsecond\n" {
			t.Errorf("got %q", text)
		}
		if _, err := io.WriteString(p.Stdin(), "x"); err == nil {
			t.Error("a write after the end should fail")
		}
	})
}

// TestDescriptors starts children while files are open, so that one that leaks would be seen.
func TestDescriptors(t *testing.T) {
	t.Parallel()
	// One that the daemon itself inherited, as from a careless shell.
	inherited, err := syscall.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(inherited)
	r := newTestRunner(t)
	other := start(t, r, func() Spec { s := sh("cat"); s.KeepStdin = true; s.Stdout = io.Discard; return s }())
	defer other.Stop(0)

	list := sh("ls /proc/self/fd")
	list.Stdout = io.Discard
	// ls itself opens one more for the folder.
	if got, _ := output(t, r, list); got != "0\n1\n2\n3\n" {
		t.Errorf("descriptors in the child: %q", got)
	}

	f, err := os.Open("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list = sh("readlink /proc/self/fd/3")
	list.Files = []*os.File{f}
	if got, _ := output(t, r, list); got != "/etc/hostname\n" {
		t.Errorf("descriptor 3: %q", got)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://secret")
	t.Setenv("NOTIFY_SOCKET", "/run/x")
	t.Setenv("TZ", "Europe/Berlin")
	t.Setenv("LANG", "")
	r := newTestRunner(t)
	env := NewEnv("/home/x", "/tmp/x")
	if err := env.Set("GIVEN", "a=b"); err != nil {
		t.Fatal(err)
	}
	out, _ := output(t, r, Spec{Name: "env", Path: "/usr/bin/env", Env: env.List(), Dir: "/"})
	got := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(got)
	want := []string{
		EnvChildID + "=1", EnvRunID + "=" + r.RunID(), "GIVEN=a=b", "HOME=/home/x", "LC_CTYPE=C.UTF-8",
		"PATH=" + ChildPath, "PYTHONDONTWRITEBYTECODE=1", "SHELL=/bin/sh", "TMPDIR=/tmp/x", "TZ=Europe/Berlin",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}
}

func TestLocale(t *testing.T) {
	for _, test := range []struct {
		daemon string
		given  string // name=value
		want   []string
	}{
		{"", "", []string{"LC_CTYPE=C.UTF-8"}},
		{"C.UTF-8", "", []string{"LC_CTYPE=C.UTF-8"}},
		{"de_DE.UTF-8", "", []string{"LANG=de_DE.UTF-8"}},
		{"de_DE.UTF-8", "LANG=C.UTF-8", []string{"LANG=C.UTF-8"}},
		{"", "LANG=de_DE.UTF-8", []string{"LANG=de_DE.UTF-8"}},
		{"", "LANG=", []string{"LANG="}},
		{"", "LC_ALL=C", []string{"LC_ALL=C"}},
		{"", "LC_CTYPE=C", []string{"LC_CTYPE=C"}},
		{"", "LC_TIME=de_DE.UTF-8", []string{"LC_CTYPE=C.UTF-8", "LC_TIME=de_DE.UTF-8"}},
	} {
		t.Setenv("LANG", test.daemon)
		env := NewEnv("", "")
		if name, value, ok := strings.Cut(test.given, "="); ok {
			if err := env.Set(name, value); err != nil {
				t.Fatal(err)
			}
		}
		got := slices.DeleteFunc(env.List(), func(v string) bool { return !strings.HasPrefix(v, "L") })
		if !slices.Equal(got, test.want) {
			t.Errorf("LANG %q, given %q: got %q, want %q", test.daemon, test.given, got, test.want)
		}
	}
}

// What a child gets instead of LANG=C.UTF-8 means the same to what scripts are made of.
func TestLocaleMeansTheSame(t *testing.T) {
	t.Setenv("LANG", "")
	r := newTestRunner(t)
	for _, test := range []struct {
		program string
		args    []string
		want    string
	}{
		{"bash", []string{"-c", `x=äö; echo "${#x} ${x:1} ${x^^}"; printf '%s\n' é e z B Ä b | sort | tr '\n' ' '; printf äb | wc -m; echo ä | sed 's/./x/g'`}, "2 ö ÄÖ\nB b e z Ä é 2\nx\n"},
		{"python3", []string{"-c", `import locale, sys; print(sys.stdout.encoding, sys.getfilesystemencoding(), locale.getpreferredencoding(), "ä")`}, "utf-8 utf-8 UTF-8 ä\n"},
		{"node", []string{"-e", `console.log(Intl.DateTimeFormat().resolvedOptions().locale, (1234.5).toLocaleString(), "ä")`}, "en-US 1,234.5 ä\n"},
		{"perl", []string{"-CSAL", "-e", `print "${^UTF8LOCALE} ", length($ARGV[0]), "\n"`, "ä"}, "1 1\n"},
	} {
		path, err := exec.LookPath(test.program)
		if err != nil {
			t.Logf("%s is not here", test.program)
			continue
		}
		spec := Spec{Name: test.program, Path: path, Args: test.args, Env: NewEnv("/", "").List(), Dir: "/"}
		ours, _ := output(t, r, spec)
		env := NewEnv("/", "")
		if err := env.Set("LANG", utf8Locale); err != nil {
			t.Fatal(err)
		}
		spec.Env = env.List()
		theirs, _ := output(t, r, spec)
		if ours != test.want || theirs != test.want {
			t.Errorf("%s prints %q, with LANG %q, want %q", test.program, ours, theirs, test.want)
		}
	}
}

func TestEnvSet(t *testing.T) {
	t.Parallel()
	e := NewEnv("", "")
	if err := e.Set("TOKEN", "geheim\x00"); err == nil || !strings.Contains(err.Error(), "TOKEN") || strings.Contains(err.Error(), "geheim") {
		t.Errorf("NUL: %v", err)
	}
	for _, name := range []string{"", "A=B", "A\x00"} {
		if e.Set(name, "x") == nil {
			t.Errorf("%q was taken for a name", name)
		}
	}
	if e.Set("PATH", "/x") != nil || !slices.Contains(e.List(), "PATH=/x") || !slices.IsSorted(e.List()) {
		t.Errorf("got %q", e.List())
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"url": "URL", "json_body": "JSON_BODY", "a-b.c": "A_B_C", "ä1": "_1", "": ""} {
		if got := Key(in); got != want {
			t.Errorf("Key(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	// The limits come right after the exec: what a child starts later has them for certain.
	spec := sh("read go; ulimit -c; ulimit -n; ulimit -f; umask")
	spec.Limits = Limits{OpenFiles: 64, FileSize: 1 << 20}
	spec.KeepStdin = true
	out := NewCapture(1000, nil)
	spec.Stdout = out
	p := start(t, r, spec)
	if _, err := io.WriteString(p.Stdin(), "\n"); err != nil {
		t.Fatal(err)
	}
	waitDone(t, p)
	if got, _, _ := out.Text(); got != "0\n64\n2048\n0077\n" {
		t.Errorf("got %q", got)
	}

	spec = sh("read go; head -c 2000000 /dev/zero > " + filepath.Join(t.TempDir(), "big"))
	spec.Limits, spec.KeepStdin = Limits{FileSize: 1 << 20}, true
	p = start(t, r, spec)
	if _, err := io.WriteString(p.Stdin(), "\n"); err != nil {
		t.Fatal(err)
	}
	if e := waitDone(t, p); e.Code == 0 {
		t.Errorf("wrote more than its limit: %v", e)
	}
}

func TestUmask(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	spec := sh("umask")
	spec.Umask = 0o022
	if got, _ := output(t, r, spec); got != "0022\n" {
		t.Errorf("own umask: %q", got)
	}
	if got, _ := output(t, r, sh("umask")); got != "0077\n" {
		t.Errorf("umask of the next child: %q", got)
	}
}

func TestStopIsKillAfterGrace(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	file := filepath.Join(t.TempDir(), "pid")
	p := start(t, r, sh(`trap '' TERM; sleep 300 & echo $! > `+file+`; while :; do sleep 1; done`))
	pid := pidIn(t, file)
	begun := time.Now()
	if err := p.Stop(100 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begun); d < 100*time.Millisecond { // and no longer than the child sleeps, or it is not killed
		t.Errorf("Stop took %v", d)
	}
	if e := p.Wait(); e.Signal != "SIGKILL" || e.OOM {
		t.Errorf("got %v", e)
	}
	assertGone(t, "the grandchild", pid)
}

func TestStopWithinGrace(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	file := filepath.Join(t.TempDir(), "pid")
	p := start(t, r, sh(`trap 'exit 7' TERM; echo $$ > `+file+`; while :; do sleep 0.01; done`))
	pidIn(t, file)
	if err := p.Stop(patience); err != nil {
		t.Fatal(err)
	}
	if e := p.Wait(); e.Code != 7 {
		t.Errorf("got %v", e)
	}
	if err := p.Stop(patience); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal to the dead: %v", err)
	}
}

func TestStopOfAStoppedProcess(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	file := filepath.Join(t.TempDir(), "pid")
	// No loop around sleep: a shell that is stopped between vfork and exec of its child shows state D.
	spec := sh(`trap 'exit 7' TERM; echo $$ > ` + file + `; read x`)
	spec.KeepStdin = true
	p := start(t, r, spec)
	pidIn(t, file)
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is stopped", func() bool { st, err := readStat(p.PID()); return err == nil && st.state == 'T' })
	if err := p.Stop(patience); err != nil {
		t.Fatal(err)
	}
	if e := p.Wait(); e.Code != 7 {
		t.Errorf("TERM without CONT is not seen: %v", e)
	}
}

func TestStartIsRefusedAfterClose(t *testing.T) {
	t.Parallel()
	r, err := NewRunner(t.Context(), Options{Logger: testLogger(t), NoKeeper: true})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, r, sh("sleep 300"))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	default:
		t.Error("Close left a child")
	}
	if _, err := r.Start(t.Context(), sh("true")); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

// slowWriter takes its time for each write, and counts.
type slowWriter struct {
	gate chan struct{}
	n    atomic.Int64
}

func (w *slowWriter) Write(p []byte) (int, error) {
	<-w.gate
	w.n.Add(int64(len(p)))
	return len(p), nil
}

// TestSlowReaderLosesNothing has a child that ends while its output is not taken: what is in the pipe
// must not be cut off, however late it is read.
func TestSlowReaderLosesNothing(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	w := &slowWriter{gate: make(chan struct{})}
	spec := sh("head -c 60000 /dev/zero") // less than a pipe holds, or it would wait for us
	spec.Stdout = w
	p := start(t, r, spec)
	eventually(t, "the child has ended", func() bool { return !alive(p.PID()) })
	timer := time.NewTimer(2 * pipeWait) // longer than a silent pipe is waited for
	<-timer.C
	close(w.gate)
	if e := waitDone(t, p); e.OutputIncomplete || w.n.Load() != 60000 {
		t.Errorf("got %d bytes, %v", w.n.Load(), e)
	}
}

func TestFailingWriterDoesNotStopTheChild(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	spec := sh("head -c 1000000 /dev/zero && exit 5")
	spec.Stdout = failing{}
	if e := waitDone(t, start(t, r, spec)); e.Code != 5 {
		t.Errorf("got %v", e)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestOnePipeForBoth(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	var b bytes.Buffer // not safe for two writers: the race detector would tell
	spec := sh("for i in 1 2 3; do echo out; echo err >&2; done")
	spec.Stdout, spec.Stderr = &b, &b
	waitDone(t, start(t, r, spec))
	if got, want := b.String(), strings.Repeat("out\nerr\n", 3); got != want {
		t.Errorf("got %q", got)
	}
}

// TestFlood lets a child print 1 GB and 100 MB without a newline, and looks at our own memory.
func TestFlood(t *testing.T) {
	r := newTestRunner(t)
	c := NewCapture(1<<20, nil)
	spec := sh("head -c 1000000000 /dev/zero; head -c 1000000000 /dev/zero >&2")
	spec.Stdout, spec.Stderr = c, io.Discard
	before := heap()
	var peak uint64
	p := start(t, r, spec)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-p.Done():
			running = false
		case <-tick.C:
			peak = max(peak, heap())
		}
	}
	if grown := int64(peak) - int64(before); grown > 20<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	text, total, omitted := c.Text()
	if total != 1e9 || omitted != 1e9-1<<20 || len(text) == 0 {
		t.Errorf("total %d, omitted %d", total, omitted)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapSys - m.HeapReleased + m.StackSys
}

// The kernel's count of kills for memory is the machine's, so the test has one of its own; a real kill is F50's.
func TestOOM(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "vmstat")
	for name, test := range map[string]struct {
		script string
		want   string
		oom    bool
	}{
		"for memory":               {"echo oom_kill 8 >" + file + "; kill -9 $$", "killed for memory", true},
		"by hand":                  {"kill -9 $$", "killed by SIGKILL", false},
		"beside one for memory":    {"echo oom_kill 8 >" + file + "; exit 3", "exit 3", false},
		"otherwise, beside such":   {"echo oom_kill 8 >" + file + "; kill -15 $$", "killed by SIGTERM", false},
		"of a kernel that is mute": {"echo pgfault 8 >" + file + "; kill -9 $$", "killed by SIGKILL", false},
	} {
		t.Run(name, func(t *testing.T) { //nolint:paralleltest // they have one file
			if err := os.WriteFile(file, []byte("pgfault 9\noom_kill 7\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			r := newTestRunner(t)
			r.oom.file = file
			if e := waitDone(t, start(t, r, sh(test.script))); e.OOM != test.oom || e.String() != test.want {
				t.Errorf("got %q, %+v, want %q", e, e, test.want)
			}
		})
	}
}

// TestManyAtOnce starts and stops from many goroutines, which is what workers do.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 25 {
				want := fmt.Sprintf("%d-%d\n", i, j)
				if got, e := output(t, r, sh("(setsid sleep 300 >/dev/null 2>&1 &) ; printf '%s\\n' "+strings.TrimSpace(want))); got != want || e.Code != 0 {
					t.Errorf("got %q, %v", got, e)
				}
			}
		})
	}
	wg.Wait()
	k := killer{run: r.RunID()}
	n, _, err := k.pass(map[int]uint64{})
	if err != nil || n != 0 {
		t.Errorf("%d processes were left, %v", n, err)
	}
}

func TestCancelledStart(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Start(ctx, sh("true")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
