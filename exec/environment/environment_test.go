package environment

import (
	"archive/zip"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/attune-io/attune/exec/child"
)

// patience is how long a test waits for what should come soon: a busy machine is no failure.
const patience = 60 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a Manager with a folder of wheels.
type bench struct {
	*Manager
	t      *testing.T
	runner *child.Runner
	found  *child.Interpreters
	opts   Options
}

func newBench(t *testing.T) *bench {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	runner, err := child.NewRunner(t.Context(), child.Options{Logger: logger, NoKeeper: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { runner.Close() })
	found, err := child.ProbeInterpreters(t.Context(), runner, "")
	if err != nil {
		t.Fatal(err)
	}
	wheels := t.TempDir()
	for _, version := range []string{"1.0", "2.0"} {
		writeWheel(t, wheels, "attune_tiny", version)
	}
	b := &bench{t: t, runner: runner, found: found, opts: Options{
		Dir: filepath.Join(t.TempDir(), "environments"), Runner: runner, PythonWheels: wheels, Logger: logger, Timeout: patience,
	}}
	b.Manager = b.manager()
	return b
}

func (b *bench) manager() *Manager {
	m, err := New(b.opts)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(m.Close)
	return m
}

// writeWheel makes a wheel, which is a zip, with one module that knows its version.
func writeWheel(t *testing.T, dir, name, version string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, name+"-"+version+"-py3-none-any.whl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := zip.NewWriter(f)
	info := name + "-" + version + ".dist-info/"
	for _, file := range [][2]string{
		{name + ".py", "VERSION = '" + version + "'\n"},
		{info + "METADATA", "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{info + "RECORD", name + ".py,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n"},
	} {
		part, err := w.Create(file[0])
		if err == nil {
			_, err = part.Write([]byte(file[1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// need makes a revision's folder.
func (b *bench) need(runtime string, files map[string]string) Need {
	b.t.Helper()
	in, err := b.found.Find(runtime, "", nil)
	if err != nil {
		b.t.Skip(err)
	}
	dir := b.t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			b.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o444); err != nil {
			b.t.Fatal(err)
		}
	}
	return Need{Pack: "p", Runtime: runtime, Dir: dir, Interpreter: *in}
}

// settle waits until an environment is made, or cannot be.
func (b *bench) settle(m *Manager, need Need) Status {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		_, err := m.For(need)
		if wait := (*WaitError)(nil); err != nil && !errors.As(err, &wait) {
			b.t.Fatal(err)
		}
		for _, s := range m.Of(need.Pack) {
			if s.Runtime == need.Runtime && s.State != Checking && s.State != Making {
				return s
			}
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("not settled: %+v", m.Of(need.Pack))
		}
		<-time.After(5 * time.Millisecond)
	}
}

// print runs a program and gives what it printed.
func (b *bench) print(env []string, path string, args ...string) string {
	b.t.Helper()
	out, err := child.NewCapture(1<<16, nil), child.NewCapture(1<<16, nil)
	p, serr := b.runner.Start(context.Background(), child.Spec{Name: "test", Path: path, Args: args, Dir: "/", Env: append(child.NewEnv("/", "/tmp").List(), env...), Stdout: out, Stderr: err})
	if serr != nil {
		b.t.Fatal(serr)
	}
	exit := p.Wait()
	text, _, _ := out.Text()
	if wrong, _, _ := err.Text(); exit.Code != 0 {
		b.t.Fatalf("%v: %s", exit, wrong)
	}
	return strings.TrimSpace(text)
}

func TestPython(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const version = "import attune_tiny; print(attune_tiny.VERSION)"
	one := b.need(Python, map[string]string{"requirements.txt": "# ours\nattune-tiny == 1.0\n"})
	wait := (*WaitError)(nil)
	if _, err := b.For(one); !errors.As(err, &wait) || !strings.Contains(wait.Reason, "waits for the python environment of pack p, which is being made") {
		t.Fatalf("before it is made: %v", err)
	}
	if s := b.settle(b.Manager, one); s.State != Ready || s.Path == "" || s.Error != "" {
		t.Fatalf("%+v", s)
	}
	env, err := b.For(one)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.print(nil, env.Path, "-c", version); got != "1.0" {
		t.Errorf("version %s", got)
	}
	// Others can run it.
	for _, name := range []string{"", "bin", "pyvenv.cfg"} {
		if info, err := os.Stat(filepath.Join(filepath.Dir(filepath.Dir(env.Path)), name)); err != nil || info.Mode().Perm()&0o044 != 0o044 {
			t.Errorf("%q is closed to others: %v, %v", name, info, err)
		}
	}

	// One that cannot be made leaves the pack with what it had, and says why.
	bad := b.need(Python, map[string]string{"requirements.txt": "attune-tiny == 3.0\n"})
	s := b.settle(b.Manager, bad)
	if s.State != Failed || !strings.Contains(s.Error, "attune-tiny==3.0") || !strings.Contains(s.Log, "1.0") || s.RetryAt == nil || s.InUse != env.Digest {
		t.Errorf("%+v", s)
	}
	retryAt := func(at time.Time) (backoff time.Duration) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.all[s.Digest].retryAt = at
		return b.all[s.Digest].backoff
	}
	backoff := retryAt(time.Now().Add(time.Hour)) // when this test wants it, however long it takes until then
	if kept, err := b.For(bad); err != nil || *kept != *env {
		t.Errorf("in use: %+v, %v", kept, err)
	}
	// Also after a restart, when only the disk knows.
	again := b.manager()
	if s := b.settle(again, bad); s.State != Failed || s.InUse != env.Digest {
		t.Errorf("%+v", s)
	}
	if kept, err := again.For(bad); err != nil || *kept != *env {
		t.Errorf("in use after a restart: %+v, %v", kept, err)
	}
	// Who never had one waits.
	bad.Pack = "q"
	if _, err := b.For(bad); !errors.As(err, &wait) || !strings.Contains(wait.Reason, "could not be made") || !strings.Contains(wait.Reason, "tried again at") {
		t.Errorf("%v", err)
	}
	// It is tried again when its time has come.
	writeWheel(t, b.opts.PythonWheels, "attune_tiny", "3.0")
	retryAt(time.Now())
	if _, err := b.For(bad); err == nil {
		t.Error("it should be being made")
	}
	if s := b.settle(b.Manager, bad); s.State != Ready {
		t.Errorf("after %v: %+v", backoff, s)
	}
	if env, err := b.For(bad); err != nil || b.print(nil, env.Path, "-c", version) != "3.0" {
		t.Errorf("%+v, %v", env, err)
	}

	// One that was made half is not used.
	half := b.need(Python, map[string]string{"requirements.txt": "attune-tiny == 2.0\n"})
	what, err := b.requirements(half)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(b.opts.Dir, b.digest(half, what), "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if s := b.settle(b.Manager, half); s.State != Ready {
		t.Errorf("%+v", s)
	}

	// What nobody needs goes after a while; what is needed, and the last good, stay.
	b.Keep([]Need{half})
	b.prune(time.Now().Add(2 * unusedGrace))
	if isComplete(filepath.Join(b.opts.Dir, env.Digest)) {
		t.Error("the first one is still there")
	}
	for _, need := range []Need{half, bad} {
		if env, err := b.For(need); err != nil || !isComplete(filepath.Join(b.opts.Dir, env.Digest)) {
			t.Errorf("%+v, %v", env, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(b.opts.Dir, "tmp-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestSystem(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, text := range []string{"", "# nothing\n\n", "pip >= 1  # is there\n", "pip >= 1; python_version >= '3'\nnothing-at-all; python_version < '3'\n"} {
		need := b.need(Python, map[string]string{"requirements.txt": text})
		if onlyComments([]byte(text)) {
			if env, err := b.For(need); err != nil || env.Path != need.Interpreter.Path {
				t.Errorf("%q: %+v, %v", text, env, err)
			}
			continue
		}
		if s := b.settle(b.Manager, need); s.State != System {
			t.Errorf("%q: %+v", text, s)
		}
		if env, err := b.For(need); err != nil || env.Path != need.Interpreter.Path || env.Digest != "" {
			t.Errorf("%q: %+v, %v", text, env, err)
		}
	}
	if env, err := b.For(Need{Pack: "p", Runtime: "shell", Interpreter: child.Interpreter{Path: "/bin/bash"}}); err != nil || env.Path != "/bin/bash" {
		t.Errorf("%+v, %v", env, err)
	}
}

// The check goes without packaging where there is no pip.
func TestCheckAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dir := t.TempDir()
	site := filepath.Join(dir, "site")
	if err := os.MkdirAll(filepath.Join(site, "tiny-1.2.0.dist-info"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(site, "tiny-1.2.0.dist-info", "METADATA"), []byte("Metadata-Version: 2.1\nName: tiny\nVersion: 1.2.0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	in := b.need(Python, nil).Interpreter.Path
	for text, want := range map[string]string{
		"tiny": "0", "tiny==1.2": "0", "tiny >= 1, < 2": "0", "tiny ~= 1.1": "0", "tiny != 1.3": "0",
		"tiny == 1.3": "1", "tiny > 1.2": "1", "tiny ~= 2.0": "1", "other": "1", "tiny[x]": "1", "-e .": "1", "tiny @ https://x/y.whl": "1",
	} {
		file := filepath.Join(dir, "requirements.txt")
		if err := os.WriteFile(file, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		// -S leaves pip and packaging out of sight.
		program := "import subprocess, sys; print(subprocess.run([sys.executable, '-S', '-c', sys.argv[1], sys.argv[2]], capture_output=True).returncode)"
		if got := b.print([]string{"PYTHONPATH=" + site}, in, "-c", program, checkProgram, file); got != want {
			t.Errorf("%q: exit %s, want %s", text, got, want)
		}
	}
}

func TestNode(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	plain := b.need(Node, map[string]string{"package.json": `{"name": "x", "type": "commonjs", "devDependencies": {"y": "1"}}`})
	if env, err := b.For(plain); err != nil || env.NodePath != "" {
		t.Errorf("%+v, %v", env, err)
	}
	if (&maker{one: &one{need: plain}}).npm() == "" {
		t.Skip("there is no npm")
	}
	need := b.need(Node, map[string]string{
		"package.json":             `{"name": "x", "version": "1.0.0", "dependencies": {"tiny": "file:./vendor/tiny"}}`,
		"vendor/tiny/package.json": `{"name": "tiny", "version": "1.2.3", "main": "index.js"}`,
		"vendor/tiny/index.js":     `module.exports = 'tiny ' + require('./package.json').version`,
	})
	if s := b.settle(b.Manager, need); s.State != Ready {
		t.Fatalf("%+v", s)
	}
	env, err := b.For(need)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.print([]string{"NODE_PATH=" + env.NodePath}, env.Path, "-p", "require('tiny')"); got != "tiny 1.2.3" {
		t.Errorf("got %q", got)
	}
	broken := b.need(Node, map[string]string{"package.json": `{"dependencies": `})
	if _, err := b.For(broken); err == nil || !strings.Contains(err.Error(), "package.json") {
		t.Errorf("%v", err)
	}
}

// A daemon that stops does not wait for the network, which gives no answer here.
func TestClose(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	fake, asked := filepath.Join(t.TempDir(), "python3"), filepath.Join(t.TempDir(), "asked")
	script := `#!/bin/sh
case "$*" in
*--version* | *venv*) exit 0 ;;
*install*) echo >` + asked + `; exec sleep 999 ;;
esac
exit 1
`
	if err := os.WriteFile(fake, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	need := b.need(Python, map[string]string{"requirements.txt": "attune-tiny == 1.0\n"})
	need.Interpreter.Path = fake
	m := b.manager()
	if _, err := m.For(need); err == nil {
		t.Fatal("it cannot be there yet")
	}
	for deadline := time.Now().Add(patience); ; <-time.After(5 * time.Millisecond) {
		if _, err := os.Stat(asked); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody asks: %+v", m.Of("p"))
		}
	}
	m.Close()
	if s := m.Of("p"); len(s) != 1 || s[0].State != Failed {
		t.Errorf("%+v", s)
	}
	if left, err := filepath.Glob(filepath.Join(b.opts.Dir, "*", complete)); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// The address of an index may have a password, which is for the one who asks there alone.
func TestPasswordsOfIndexes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	fake := filepath.Join(t.TempDir(), "python3")
	seen := filepath.Join(t.TempDir(), "seen")
	script := `#!/bin/sh
case "$*" in
*--version* | *venv*) exit 0 ;;
*install*)
	echo "$*" >` + seen + `
	echo "Looking in $PIP_INDEX_URL"
	echo "ERROR: no answer from $PIP_INDEX_URL by way of $HTTPS_PROXY" >&2 ;;
esac
exit 1
`
	if err := os.WriteFile(fake, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	b.opts.PythonWheels, b.opts.PythonIndex = "", "https://me:swordfish@index.example/simple"
	b.opts.Variables = map[string]string{"HTTPS_PROXY": "http://tokenfish@proxy.example"}
	need := b.need(Python, map[string]string{"requirements.txt": "tiny"})
	need.Interpreter.Path = fake
	m := b.manager()
	s := b.settle(m, need)
	log, err := os.ReadFile(s.LogFile)
	if err != nil || s.State != Failed {
		t.Fatalf("%+v, %v", s, err)
	}
	arguments, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"error": s.Error, "log": s.Log, "progress": s.Progress, "log file": string(log), "arguments": string(arguments)} {
		if strings.Contains(text, "fish") {
			t.Errorf("%s: %s", name, text)
		}
	}
	if want := "ERROR: no answer from https://me:***@index.example/simple by way of http://***@proxy.example"; !strings.HasSuffix(s.Error, want) {
		t.Errorf("error %q, want %q", s.Error, want)
	}
	// What failed and is not needed any more is forgotten.
	m.Keep(nil)
	m.prune(time.Now().Add(2 * unusedGrace))
	if counts := m.count(); len(counts) != 0 {
		t.Errorf("it still knows of %v", counts)
	}
}
