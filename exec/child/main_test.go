package child

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	// helperVar makes this test binary another program than the tests.
	helperVar = "CHILD_TEST_HELPER"
	// patience is how long a test waits for what should come at once: a busy machine is no failure.
	patience = 60 * time.Second
)

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == keeperCommand:
		os.Exit(RunKeeper())
	case os.Getenv(helperVar) == capabilitiesHelper:
		os.Exit(showCapabilities())
	case os.Getenv(helperVar) == descriptorsHelper:
		os.Exit(startShort())
	case os.Getenv(helperVar) == tracerHelper:
		os.Exit(trace())
	case os.Getenv(helperVar) != "":
		os.Exit(helper(os.Getenv(helperVar)))
	}
	goleak.VerifyTestMain(m)
}

// helper is a daemon of its own, which a test can kill. It starts the script of its first argument and
// prints its own pid when it is there; then it does what its stdin says.
func helper(stateDir string) int {
	r, err := NewRunner(context.Background(), Options{Binary: os.Args[0], StateDir: stateDir, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		fmt.Fprintln(os.Stdout, "error:", err)
		return 1
	}
	for _, script := range os.Args[1:] {
		_, err := r.Start(context.Background(), Spec{Name: "helper's child", Path: "/bin/sh", Args: []string{"-c", script}, Env: NewEnv("", "").List(), Detach: strings.Contains(script, "detach")})
		if err != nil {
			fmt.Fprintln(os.Stdout, "error:", err)
			return 1
		}
	}
	if dir := os.Getenv(warmVar); dir != "" {
		if err := warmHelper(r, dir); err != nil {
			fmt.Fprintln(os.Stdout, "error:", err)
			return 1
		}
	}
	fmt.Fprintln(os.Stdout, "ready", r.RunID(), r.keeper.identity().PID)
	in := []byte{0}
	for {
		if _, err := os.Stdin.Read(in); err != nil {
			break
		}
		switch in[0] {
		case 'l': // a lease that is over
			r.LeaseUntil(Boottime() + KeeperMargin + 200*time.Millisecond)
			fmt.Fprintln(os.Stdout, "leased")
		case 'L': // one that is not
			r.LeaseUntil(Boottime() + time.Hour)
		case 'k':
			fmt.Fprintln(os.Stdout, "keeper", r.keeper.identity().PID)
		}
	}
	if err := r.Close(); err != nil {
		fmt.Fprintln(os.Stdout, "error:", err)
		return 1
	}
	return 0
}

// warmVar makes a helper daemon start a warm child, too, and write pids into the folder that it names.
const warmVar = "CHILD_TEST_WARM"

func warmHelper(r *Runner, dir string) error {
	w, err := NewWarm(WarmOptions{Runner: r, Dir: filepath.Join(dir, "warm"), Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	script := filepath.Join(dir, "x.sh")
	if err := os.WriteFile(script, []byte("sleep 300"), 0o600); err != nil {
		return err
	}
	spec := Spec{Name: "test", Warm: WarmBash, Path: "/bin/bash", Args: []string{script}, Env: NewEnv("/", "/tmp").List(), Dir: dir}
	w.parent(&spec)
	par := w.parents[w.key(&spec)]
	for !par.isUp() || len(par.spares) < 2 {
		time.Sleep(time.Millisecond) //nolint:forbidigo // a helper daemon has nothing else to do
	}
	parent := par.process()
	p, err := w.Start(context.Background(), spec)
	if err != nil {
		return err
	}
	s := <-par.spares
	for name, pid := range map[string]int{"parent": parent.PID(), "child": p.PID(), "spare": s.p.PID()} {
		if err := os.WriteFile(filepath.Join(dir, name), fmt.Appendln(nil, pid), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// daemon is a helper process.
type daemon struct {
	t        *testing.T
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      *LineReader
	runID    string
	keeper   int
	stateDir string
}

func startDaemon(t *testing.T, stateDir string, scripts ...string) *daemon {
	t.Helper()
	return startDaemonWith(t, nil, stateDir, scripts...)
}

func startDaemonWith(t *testing.T, env []string, stateDir string, scripts ...string) *daemon {
	t.Helper()
	cmd := exec.Command(os.Args[0], scripts...)
	cmd.Env = append(append(os.Environ(), env...), helperVar+"="+stateDir)
	cmd.Stderr = t.Output()
	cmd.WaitDelay = time.Second // the keeper has its stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, cmd: cmd, in: in, out: NewLineReader(out), stateDir: stateDir}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	if _, err := fmt.Sscanf(d.line(), "ready %s %d", &d.runID, &d.keeper); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *daemon) line() string {
	d.t.Helper()
	l, err := d.out.Next()
	if err != nil {
		d.t.Fatalf("helper daemon ended: %v", err)
	}
	return string(l.Bytes)
}

func (d *daemon) say(what string) {
	d.t.Helper()
	if _, err := io.WriteString(d.in, what); err != nil {
		d.t.Fatal(err)
	}
}

// kill is kill -9.
func (d *daemon) kill() {
	d.cmd.Process.Kill()
	d.cmd.Wait()
}

func testLogger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func newTestRunner(t testing.TB) *Runner {
	t.Helper()
	r, err := NewRunner(context.Background(), Options{Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), NoKeeper: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// sh describes a child that runs a shell script.
func sh(script string) Spec {
	return Spec{Name: "test", Path: "/bin/sh", Args: []string{"-c", script}, Env: NewEnv("/", "/tmp").List(), Dir: "/"}
}

func start(t testing.TB, r *Runner, spec Spec) *Process {
	t.Helper()
	p, err := r.Start(context.Background(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// waitDone fails the test if the child does not end in time.
func waitDone(t testing.TB, p *Process) Exit {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatalf("child %d has not ended within %v", p.PID(), patience)
	}
	return p.Wait()
}

// eventually polls until a condition holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// pidIn waits for a script to write a pid to a file.
func pidIn(t testing.TB, file string) int {
	t.Helper()
	var pid int
	eventually(t, "a pid in "+filepath.Base(file), func() bool {
		data, err := os.ReadFile(file)
		if err != nil || !bytes.HasSuffix(data, []byte("\n")) {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
		return err == nil
	})
	return pid
}

// alive is false for a zombie, too.
func alive(pid int) bool {
	st, err := readStat(pid)
	return err == nil && st.state != 'Z'
}

func assertGone(t testing.TB, what string, pid int) {
	t.Helper()
	eventually(t, what+" is gone", func() bool { return !alive(pid) })
}

// assertLives is for what must not have been killed: the kill would have come before now.
func assertLives(t testing.TB, what string, pid int) {
	t.Helper()
	if !alive(pid) {
		t.Errorf("%s (pid %d) is dead", what, pid)
	}
}

// output runs a child to its end and gives its stdout.
func output(t testing.TB, r *Runner, spec Spec) (string, Exit) {
	t.Helper()
	c := NewCapture(1<<20, nil)
	spec.Stdout = c
	exit := waitDone(t, start(t, r, spec))
	text, _, _ := c.Text()
	return text, exit
}
