package child

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hothouse is a Warm whose starts are counted, with a pack's folder.
type hothouse struct {
	*Warm
	t   testing.TB
	dir string // the pack's

	mu       sync.Mutex
	outcomes map[string]int
}

func newHothouse(t testing.TB, edit ...func(*WarmOptions)) *hothouse {
	t.Helper()
	h := &hothouse{t: t, dir: t.TempDir(), outcomes: map[string]int{}}
	opts := WarmOptions{
		Runner: newTestRunner(t), Dir: filepath.Join(t.TempDir(), "warm"), Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Started: func(_, outcome string) {
			h.mu.Lock()
			h.outcomes[outcome]++
			h.mu.Unlock()
		},
	}
	for _, e := range edit {
		e(&opts)
	}
	var err error
	if h.Warm, err = NewWarm(opts); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *hothouse) count(outcome string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.outcomes[outcome]
}

// programs are the interpreters by kind; what a machine does not have is skipped.
func program(t testing.TB, kind string) string {
	t.Helper()
	name := map[string]string{WarmBash: "bash", WarmPython: "python3", WarmNode: "node"}[kind]
	for dir := range strings.SplitSeq(ChildPath, ":") {
		path := filepath.Join(dir, name)
		if unix.Access(path, unix.X_OK) == nil {
			real, err := filepath.EvalSymlinks(path)
			if err != nil {
				t.Fatal(err)
			}
			return real
		}
	}
	t.Skipf("there is no %s", name)
	return ""
}

// script writes a script into the pack and describes its child.
func (h *hothouse) script(kind, name, text string) Spec {
	h.t.Helper()
	file := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	env := NewEnv("/", h.t.TempDir())
	if err := env.Set("PYTHONUNBUFFERED", "1"); err != nil {
		h.t.Fatal(err)
	}
	return Spec{Name: "test " + name, Warm: kind, Path: program(h.t, kind), Args: []string{file}, Env: env.List(), Dir: h.dir}
}

func ending(kind string) string {
	return map[string]string{WarmBash: ".sh", WarmPython: ".py", WarmNode: ".js"}[kind]
}

// ran is what came of a child.
type ran struct {
	stdout, stderr string
	exit           Exit
	pid            int
}

// run runs a child to its end by the given way of starting.
func (h *hothouse) run(start func(context.Context, Spec) (*Process, error), spec Spec) ran {
	h.t.Helper()
	out, err := NewCapture(1<<20, nil), NewCapture(1<<20, nil)
	spec.Stdout, spec.Stderr = out, err
	p, serr := start(context.Background(), spec)
	if serr != nil {
		h.t.Fatal(serr)
	}
	exit := waitDone(h.t, p)
	var r ran
	r.stdout, _, _ = out.Text()
	r.stderr, _, _ = err.Text()
	r.exit, r.pid = exit, p.PID()
	return r
}

func (h *hothouse) cold(spec Spec) ran { h.t.Helper(); return h.run(h.runner.Start, spec) }

// warmly starts a child again and again until its parent is there.
func (h *hothouse) warmly(spec Spec) ran {
	h.t.Helper()
	h.heat(spec)
	before := h.count(WarmStarted)
	r := h.run(h.Start, spec)
	if h.count(WarmStarted) != before+1 {
		h.t.Fatalf("the start was not warm: %v", h.outcomes)
	}
	return r
}

// unfit starts a child that cannot come from a parent.
func (h *hothouse) unfit(spec Spec) ran {
	h.t.Helper()
	before := h.count(WarmUnfit)
	r := h.run(h.Start, spec)
	if h.count(WarmUnfit) != before+1 {
		h.t.Errorf("%s: the start should not have been warm: %v", spec.Name, h.outcomes)
	}
	return r
}

// heat waits until a warm child is ready for a spec.
func (h *hothouse) heat(spec Spec) {
	h.t.Helper()
	key := h.key(&spec)
	h.parent(&spec)
	eventually(h.t, "a warm child waits for "+spec.Name, func() bool {
		h.Warm.mu.Lock()
		defer h.Warm.mu.Unlock()
		par := h.parents[key]
		return par != nil && par.isUp() && len(par.spares) > 0
	})
}

// TestWarmLikeCold runs scripts both ways and compares all that they can see.
func TestWarmLikeCold(t *testing.T) {
	t.Parallel()
	h := newHothouse(t)
	const helper = "NAME = 'beside'\n"
	if err := os.MkdirAll(filepath.Join(h.dir, "actions"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "actions", "beside.py"), []byte(helper), 0o644); err != nil {
		t.Fatal(err)
	}
	const gone = "class A:\n def __del__(self): print('end of', __name__, NAME)\nNAME = 'module'\na = A()\n"
	if err := os.WriteFile(filepath.Join(h.dir, "actions", "gone.py"), []byte(gone), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, kind, text string }{
		{"hello", WarmBash, "echo out; echo err >&2"},
		{"code", WarmBash, "exit 7"},
		{"last status", WarmBash, "(exit 5)"},
		{"signal", WarmBash, "kill -TERM $BASHPID; sleep 100"},
		{"killed", WarmBash, "kill -9 $BASHPID"},
		{"names", WarmBash, `echo "$0 ${BASH_SOURCE[0]} $# $* $- $BASH_SUBSHELL $LINENO $PPID $SHLVL"; [[ ${BASH_SOURCE[0]} == "$0" ]] && echo main`},
		{"stdin", WarmBash, "cat; read -r x || echo end"},
		{"syntax", WarmBash, "echo before\nif true; then\n"},
		{"set -e", WarmBash, "set -eu\nfalse\necho no"},
		{"unset", WarmBash, "set -u\necho $nothing\necho no"},
		{"traps", WarmBash, "trap; trap 'echo int' INT; kill -INT $BASHPID; trap 'echo bye' EXIT; exit 3"},
		{"ignored signals", WarmBash, "grep -E 'SigIgn|ShdPnd' /proc/self/status"},
		{"variables", WarmBash, "compgen -v | grep -vE '^(BASH_.*|_|PIPESTATUS|FUNCNAME)$'; declare -F; alias; shopt; set -o"},
		{"environment", WarmBash, "env | grep -vE '^(ATTUNE_CHILD_ID|_)=' | sort"},
		{"descriptors", WarmBash, "ls /proc/self/fd"},
		{"limits", WarmBash, "ulimit -a | grep -v real-time; umask; pwd"},
		{"exec", WarmBash, "exec echo replaced"},
		{"group", WarmBash, `read -r _ _ _ _ group _ </proc/$BASHPID/stat; [[ $group == "$BASHPID" ]] && echo leads`},
		{"hello", WarmPython, "import sys\nprint('out'); print('err', file=sys.stderr)"},
		{"code", WarmPython, "import sys\nsys.exit(7)"},
		{"text as code", WarmPython, "raise SystemExit('gone wrong')"},
		{"true as code", WarmPython, "raise SystemExit(True)"},
		{"exception", WarmPython, "def f():\n    raise ValueError('bad')\nf()"},
		{"chained", WarmPython, "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise KeyError('x') from e"},
		{"syntax", WarmPython, "print('a'\n"},
		{"interrupt", WarmPython, "raise KeyboardInterrupt"},
		{"own hook", WarmPython, "import sys\nsys.excepthook = lambda t, v, tb: print(t.__name__, tb.tb_frame.f_code.co_name, tb.tb_lineno, tb.tb_next)\n1/0"},
		{"hard end", WarmPython, "import os\nprint('x', end='')\nos._exit(9)"},
		{"killed", WarmPython, "import os\nos.kill(os.getpid(), 9)"},
		{"main", WarmPython, "import sys, os\nprint(__name__, __file__, sys.argv, __spec__, __package__, __doc__, type(__loader__).__name__, sys.path[:2], sys.modules['__main__'].__file__ == __file__, sorted(k for k in globals()))"},
		{"beside", WarmPython, "import beside\nprint(beside.NAME)"},
		{"stdin", WarmPython, "import sys\nprint(repr(sys.stdin.read()), sys.stdin.encoding, sys.stdin.seekable())"},
		{"streams", WarmPython, "import sys\nprint([(s.encoding, s.errors, s.line_buffering, s.write_through, s.isatty(), s.seekable(), s.name, s.mode) for s in (sys.stdout, sys.stderr)])"},
		{"at exit", WarmPython, "import atexit, threading\natexit.register(print, 'bye')\nend = threading.Event()\nthreading.Thread(target=lambda: (end.wait(), print('thread'))).start()\nprint('end')\nend.set()"},
		{"signals", WarmPython, "import signal\nprint({s.name: str(signal.getsignal(s)).split(' at ')[0] for s in signal.Signals}, signal.pthread_sigmask(signal.SIG_BLOCK, []))"},
		{"flags", WarmPython, "import sys, gc, os\nprint(sys.flags, sys.executable, sys.orig_argv, gc.isenabled(), gc.get_threshold(), os.getcwd(), oct(os.umask(0)), os.getppid())"},
		{"environment", WarmPython, "import os\nprint(sorted((k, v) for k, v in os.environ.items() if k != 'ATTUNE_CHILD_ID'))\nos.system('env | grep ATTUNE_OWN')"},
		{"descriptors", WarmPython, "import os\nprint(sorted(os.listdir('/proc/self/fd')))"},
		{"future", WarmPython, "print(1 if 'annotations' in dir() else 0)\ndef f(x: undefined): pass\n"},
		{"processes", WarmPython, "import multiprocessing as m, os\ndef f(x): return x * x\nif __name__ == '__main__':\n    with m.Pool(2) as p: print(p.map(f, [1, 2]))\n    with m.get_context('spawn').Pool(1) as p: print(p.map(f, [3]))"},
		{"written late", WarmPython, "import os\nf = os.fdopen(os.dup(1), 'w')\nf.write('late')\ng = open(os.dup(2), 'w')\ng.write('later')"},
		{"finalizers", WarmPython, "import weakref\nclass A:\n def __del__(self): print('end', self.name, NAME)\nNAME = 'global'\na, b = A(), A()\na.name, b.name = 'a', 'b'\nb.self = b\nweakref.finalize(a, print, 'finalized')"},
		{"finalizers beside", WarmPython, "import gone"},
		{"finalizers kept", WarmPython, "import json\nclass A:\n def __del__(self): print('end', self.name, NAME)\nNAME = 'global'\njson.kept = A()\njson.kept.name = 'kept'"},
		{"generator", WarmPython, "def g():\n try:\n  yield 1\n finally:\n  print('closed')\nx = g()\nnext(x)"},
		{"own stdout", WarmPython, "import io, os, sys\nsys.stdout = io.TextIOWrapper(os.fdopen(os.dup(1), 'wb'))\nprint('mine')"},
		{"no stdout", WarmPython, "import sys\nprint('x')\nsys.stdout.close()\nsys.stderr = None"},
		{"lost stdout", WarmPython, "import os\nprint('x', end='')\nos.close(1)"},
		{"buffers of C", WarmPython, "import ctypes\nctypes.CDLL(None).printf(b'from C')"},
		{"left thread", WarmPython, "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\nprint('end')"},
		{"failing exit", WarmPython, "import atexit\natexit.register(print, 1, file=3)\nraise SystemExit(2)"},
		{"early exit", WarmPython, "import atexit\natexit.register(print, 'bye')\natexit._run_exitfuncs()\nprint('end')\nraise SystemExit(4)"},
		{"negative code", WarmPython, "raise SystemExit(-1)"},
		{"large code", WarmPython, "raise SystemExit(1 << 40)"},
		{"hook with a code", WarmPython, "import sys\nsys.excepthook = lambda *a: sys.exit(5)\n1/0"},
		{"code of a fork", WarmPython, "import os, sys\npid = os.fork()\nif pid == 0:\n sys.exit(3)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"},
		{"hello", WarmNode, "console.log('out'); console.error('err')"},
		{"code", WarmNode, "process.exitCode = 7"},
		{"signal", WarmNode, "process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 100000)"},
		{"main", WarmNode, "console.log(require.main === module, __filename, process.argv, process.execArgv, process.cwd(), module.paths, Object.keys(require.cache))"},
		{"stdin", WarmNode, "process.stdin.on('data', d => console.log(String(d))).on('end', () => console.log('end'))"},
		{"environment", WarmNode, "delete process.env.ATTUNE_CHILD_ID; console.log(Object.entries(process.env).sort()); console.log(String(require('child_process').execSync('env | grep ATTUNE_OWN')))"},
		{"async", WarmNode, "process.on('exit', c => console.log('exit', c)); (async () => { await null; console.log('later') })()"},
	}
	for _, test := range tests {
		t.Run(test.kind+" "+test.name, func(t *testing.T) {
			spec := h.script(test.kind, "actions/"+strings.ReplaceAll(test.name, " ", "_")+ending(test.kind), test.text)
			spec.Env = append(spec.Env, "ATTUNE_OWN=it's \"mine\"\n$HOME\\ ü", "FIXED=1")
			run := func(do func(Spec) ran) ran {
				spec.Stdin = strings.NewReader("from stdin\n")
				return do(spec)
			}
			cold, warm := run(h.cold), run(h.warmly)
			cold.pid, warm.pid = 0, 0
			cold.exit, warm.exit = Exit{Code: cold.exit.Code, Signal: cold.exit.Signal}, Exit{Code: warm.exit.Code, Signal: warm.exit.Signal}
			if cold != warm {
				t.Errorf("cold: %+v\nwarm: %+v", cold, warm)
			}
		})
	}
}

// TestWarmNoLeaks changes everything that a script can, and looks from the next attempt.
func TestWarmNoLeaks(t *testing.T) {
	t.Parallel()
	h := newHothouse(t)
	for kind, change := range map[string]string{
		WarmBash: "if [[ -n ${ATTUNE_FIRST-} ]]; then cd /; umask 0; trap '' TERM; export LEAK=1 PATH=/x; set -f; shopt -s nullglob; f() { :; }; ulimit -n 50; fi\n" +
			"echo $PWD $(umask) ${LEAK-} $PATH $- $(trap) $(ulimit -n); declare -F; shopt nullglob; type f",
		WarmPython: "import os, sys, signal, json\nif 'ATTUNE_FIRST' in os.environ:\n" +
			" os.chdir('/'); os.umask(0); signal.signal(signal.SIGTERM, signal.SIG_IGN); os.environ['LEAK'] = '1'; json.leak = 1; sys.path.append('/leak'); sys.argv.append('x'); import builtins; builtins.print = None\n" +
			"sys.stdout.write(repr((os.getcwd(), os.umask(0o77), str(signal.getsignal(signal.SIGTERM)), os.environ.get('LEAK'), hasattr(json, 'leak'), sys.path, sys.argv, str(print))))",
	} {
		spec := h.script(kind, "leak"+ending(kind), change)
		before := h.warmly(spec)
		first := spec
		first.Env = append(slices.Clone(spec.Env), "ATTUNE_FIRST=1")
		first.Limits = Limits{OpenFiles: 40}
		if changed := h.warmly(first); changed.stdout == before.stdout {
			t.Errorf("%s: the script changed nothing: %s%s", kind, changed.stdout, changed.stderr)
		}
		if after := h.warmly(spec); after.stdout != before.stdout || after.stderr != before.stderr {
			t.Errorf("%s: before %q %q\nafter %q %q", kind, before.stdout, before.stderr, after.stdout, after.stderr)
		}
	}
	random := h.script(WarmPython, "chance.py", "import random, uuid, os, tempfile\nprint(random.random(), uuid.uuid4(), tempfile.gettempdir())")
	one, two := h.warmly(random), h.warmly(random)
	if one.stdout == two.stdout || one.stdout == "" {
		t.Errorf("twice the same randomness: %q %q", one.stdout, two.stdout)
	}
}

// TestWarmTree leaves processes behind in every way; all of them are gone when the child has ended, and
// those of a child that runs are left alone.
func TestWarmTree(t *testing.T) {
	t.Parallel()
	h := newHothouse(t)
	for kind, text := range map[string]string{
		WarmBash: `set -m; ( while :; do sleep 1; done ) >/dev/null 2>&1 & echo $! >"$ATTUNE_A"; setsid env -i /bin/sleep 300 >/dev/null 2>&1 & sleep 300 & echo $! >"$ATTUNE_B"; while [[ ! -e $ATTUNE_GO ]]; do sleep 0.01; done`,
		WarmPython: `import os, time
def gone(name):
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        with open(os.environ[name] + '.new', 'w') as f: f.write('%d\n' % os.getpid())
        os.rename(os.environ[name] + '.new', os.environ[name])
        for fd in range(3): os.close(fd)
        time.sleep(300)
gone('ATTUNE_A'); gone('ATTUNE_B')
while not os.path.exists(os.environ['ATTUNE_GO']): time.sleep(0.01)`,
	} {
		dir := t.TempDir()
		file := func(name string) string { return filepath.Join(dir, name) }
		tree := h.script(kind, "tree"+ending(kind), text) // once: the first child reads it while the second starts
		start := func(n string) *Process {
			spec := tree
			spec.Env = append(slices.Clone(spec.Env), "ATTUNE_A="+file(n+"a"), "ATTUNE_B="+file(n+"b"), "ATTUNE_GO="+file(n+"go"))
			h.heat(spec)
			p, err := h.Start(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		one, two := start("1"), start("2")
		mine := []int{pidIn(t, file("1a")), pidIn(t, file("1b"))}
		others := []int{pidIn(t, file("2a")), pidIn(t, file("2b"))}
		if err := os.WriteFile(file("1go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if e := waitDone(t, one); e.Code != 0 {
			t.Errorf("%s: %v", kind, e)
		}
		for _, pid := range mine {
			if alive(pid) {
				t.Errorf("%s: process %d outlived its child", kind, pid)
			}
		}
		// The end of a parent is not the end of its children.
		for _, par := range h.Warm.parents {
			par.end("test")
		}
		for _, pid := range append(others, two.PID()) {
			assertLives(t, kind+": of another child", pid)
		}
		if err := two.Stop(0); err != nil {
			t.Error(err)
		}
		for _, pid := range others {
			if alive(pid) {
				t.Errorf("%s: process %d outlived its child", kind, pid)
			}
		}
		clear(h.Warm.parents)
	}
	if n := h.count(WarmStarted); n != 4 {
		t.Errorf("%d warm starts: %v", n, h.outcomes)
	}
}

// TestWarmStops stops warm children like any others.
func TestWarmStops(t *testing.T) {
	t.Parallel()
	h := newHothouse(t)
	for kind, text := range map[string]string{
		WarmBash:   "trap 'echo term; exit 4' TERM; echo up; while :; do sleep 0.01; done",
		WarmPython: "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *a: (print('term'), sys.exit(4)))\nprint('up')\nwhile True: time.sleep(0.01)",
		WarmNode:   "process.on('SIGTERM', () => { console.log('term'); process.exit(4) }); console.log('up'); setInterval(() => {}, 1000)",
	} {
		for _, grace := range []time.Duration{patience, 0} {
			spec := h.script(kind, "stop"+ending(kind), text)
			h.heat(spec)
			out := NewCapture(1000, nil)
			spec.Stdout = out
			p, err := h.Start(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			said := func() string { s, _, _ := out.Text(); return s }
			eventually(t, kind+" is up", func() bool { return said() == "up\n" }) // python writes the end of a line apart
			if err := p.Stop(grace); err != nil {
				t.Error(err)
			}
			e := p.Wait()
			if gentle := e.Code == 4 && said() == "up\nterm\n"; grace > 0 && !gentle || grace == 0 && e.Signal != "SIGKILL" {
				t.Errorf("%s, grace %v: %v, %q", kind, grace, e, said())
			}
			if e.CPU <= 0 || e.MaxRSS <= 0 {
				t.Errorf("%s: no usage: %+v", kind, e)
			}
		}
	}
}

// TestWarmOutput has much to say on both streams, with much on stdin.
func TestWarmOutput(t *testing.T) {
	t.Parallel()
	h := newHothouse(t)
	in := strings.Repeat("0123456789abcde\n", 1<<16) // 1 MiB
	for kind, text := range map[string]string{
		WarmBash:   "cat; head -c 3000000 /dev/zero >&2",
		WarmPython: "import sys\nsys.stdout.write(sys.stdin.read())\nsys.stderr.write('x' * 3000000)",
	} {
		spec := h.script(kind, "much"+ending(kind), text)
		spec.Stdin = strings.NewReader(in)
		r := h.warmly(spec)
		if len(r.stdout) != len(in) || r.stdout != in || r.exit.Code != 0 || !strings.Contains(r.stderr, "left out") {
			t.Errorf("%s: %d bytes of stdout, %d of stderr, %v", kind, len(r.stdout), len(r.stderr), r.exit)
		}
	}
}

// TestWarmParentDies kills and stops parents at every point: starts go on, cold where they must.
// TestWarmStdin hands shells what a here-document cannot carry, and what it can.
func TestWarmStdin(t *testing.T) {
	t.Parallel()
	h := newHothouse(t)
	spec := h.script(WarmBash, "stdin.sh", "od -An -v -tx1; stat -Lc %F /dev/stdin")
	for name, text := range map[string]string{
		"nothing":     "",
		"a line":      "{\"a\": \"it's $HOME `id` \\\\ ü\"}\n",
		"no line end": "x",
		"NUL":         "a\x00b\n",
		"control":     "a\x01b\x7f\x1b\n",
		"bad UTF-8":   "\xff\xfe\xc3\n",
		"its end":     "x\n" + documentEnd + "\ny\n",
		"full":        strings.Repeat("0123456\n", pipeLeast/8),
		"more":        strings.Repeat("0123456\n", 100_000),
	} {
		run := func(do func(Spec) ran) ran {
			spec.Stdin = strings.NewReader(text)
			r := do(spec)
			r.pid, r.exit = 0, Exit{Code: r.exit.Code}
			return r
		}
		if cold, warm := run(h.cold), run(h.warmly); cold != warm || cold.exit.Code != 0 {
			t.Errorf("%s:\ncold %.200q %q\nwarm %.200q %q", name, cold.stdout, cold.stderr, warm.stdout, warm.stderr)
		}
	}
}

// TestWarmPlaceStays ends a parent while a child of it may not have opened its pipes yet.
func TestWarmPlaceStays(t *testing.T) {
	t.Parallel()
	h := newHothouse(t)
	spec := h.script(WarmBash, "late.sh", "echo begun; sleep 300")
	h.heat(spec)
	par := h.parents[h.key(&spec)]
	b := par.breed.(*bashBreed)
	p, err := h.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	par.end("the test wants it to")
	if _, err := os.Stat(b.folder); err != nil {
		t.Errorf("a child has begun, and its pipes are gone: %v", err)
	}
	if err := p.Stop(0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.folder); !os.IsNotExist(err) {
		t.Errorf("nobody is left, and the folder is there: %v", err)
	}
}

func TestWarmParentDies(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{WarmBash, WarmPython} {
		for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGSTOP} {
			t.Run(kind+" "+unix.SignalName(sig), func(t *testing.T) {
				t.Parallel()
				h := newHothouse(t)
				text := map[string]string{WarmBash: "echo fine", WarmPython: "print('fine')"}[kind]
				spec := h.script(kind, "fine"+ending(kind), text)
				h.heat(spec)
				par := h.parents[h.key(&spec)]
				proc := par.process()
				if err := unix.Kill(proc.PID(), sig); err != nil {
					t.Fatal(err)
				}
				// More than wait already, so that the parent is asked for others.
				for range 2 * mostSpares {
					if r := h.run(h.Start, spec); r.stdout != "fine\n" || r.exit.Code != 0 {
						t.Fatalf("%+v", r)
					}
				}
				waitDone(t, proc) // also a stopped one is not left
				eventually(t, "there is another parent", func() bool {
					h.run(h.Start, spec)
					return par.isUp()
				})
				if again := par.process(); again == proc {
					t.Error("it is the same parent")
				}
				h.warmly(spec)
			})
		}
	}
}

// TestWarmSpareDies kills and stops children that wait: the next start does not notice, and begins once.
func TestWarmSpareDies(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{WarmBash, WarmPython, WarmNode} {
		for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGSTOP} {
			t.Run(kind+" "+unix.SignalName(sig), func(t *testing.T) {
				t.Parallel()
				h := newHothouse(t)
				count := filepath.Join(t.TempDir(), "count")
				text := map[string]string{
					WarmBash:   `echo x >>"$ATTUNE_COUNT"`,
					WarmPython: "import os\nopen(os.environ['ATTUNE_COUNT'], 'a').write('x\\n')",
					WarmNode:   `require('fs').appendFileSync(process.env.ATTUNE_COUNT, 'x\n')`,
				}[kind]
				spec := h.script(kind, "once"+ending(kind), text)
				spec.Env = append(spec.Env, "ATTUNE_COUNT="+count)
				h.heat(spec)
				par := h.parents[h.key(&spec)]
				s := <-par.spares
				if err := unix.Kill(s.p.PID(), sig); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the spare child has got the signal", func() bool { return s.hasEnded() || isStopped(s.p.PID()) })
				// First in the queue, so that the next start gets it.
				rest := []*spare{s}
				for range len(par.spares) {
					rest = append(rest, <-par.spares)
				}
				for _, s := range rest {
					par.spares <- s
				}
				if r := h.run(h.Start, spec); r.exit.Code != 0 {
					t.Fatalf("%+v", r)
				}
				if data, err := os.ReadFile(count); string(data) != "x\n" {
					t.Errorf("it ran %q times: %v", data, err)
				}
			})
		}
	}
}

// TestWarmRevision replaces the pack's folder: what starts there comes from a parent of its own.
func TestWarmRevision(t *testing.T) {
	t.Parallel()
	h := newHothouse(t, func(o *WarmOptions) { o.Parents = 1 })
	old := h.script(WarmPython, "say.py", "print('old')")
	if r := h.warmly(old); r.stdout != "old\n" {
		t.Fatalf("%+v", r)
	}
	was := h.parents[h.key(&old)].process()
	h.dir = t.TempDir()
	fresh := h.script(WarmPython, "say.py", "print('new')")
	if r := h.run(h.Start, fresh); r.stdout != "new\n" {
		t.Errorf("%+v", r)
	}
	if r := h.warmly(fresh); r.stdout != "new\n" {
		t.Errorf("%+v", r)
	}
	waitDone(t, was) // there is room for one
	if r := h.run(h.Start, old); r.stdout != "old\n" {
		t.Errorf("%+v", r)
	}
}

// TestWarmIdle ends parents that nobody uses, with all that waits.
func TestWarmIdle(t *testing.T) {
	t.Parallel()
	h := newHothouse(t)
	spec := h.script(WarmBash, "x.sh", "true")
	h.warmly(spec)
	par := h.parents[h.key(&spec)]
	proc := par.process()
	h.look(time.Now())
	if parents, _ := h.Parents(); parents != 1 {
		t.Errorf("%d parents", parents)
	}
	h.look(time.Now().Add(defaultWarmIdle + time.Second))
	waitDone(t, proc)
	if parents, spares := h.Parents(); parents != 0 || spares != 0 {
		t.Errorf("%d parents, %d spares", parents, spares)
	}
	if len(h.runner.running()) != 0 {
		t.Errorf("left: %v", h.runner.running())
	}
}

// TestWarmUnfit starts cold what cannot come from a parent, and says so.
func TestWarmUnfit(t *testing.T) {
	t.Parallel()
	h := newHothouse(t)
	spec := h.script(WarmBash, "x.sh", "echo $#")
	for name, edit := range map[string]func(*Spec){
		"detach": func(s *Spec) { s.Detach = true },
		"umask":  func(s *Spec) { s.Umask = 0o22 },
		"much":   func(s *Spec) { s.Env = append(slices.Clone(s.Env), "ATTUNE_X="+strings.Repeat("x", warmWork)) },
		"kind":   func(s *Spec) { s.Warm = "perl" },
	} {
		s := spec
		edit(&s)
		before := h.count(WarmUnfit)
		if r := h.run(h.Start, s); r.stdout != "0\n" || h.count(WarmUnfit) != before+1 {
			t.Errorf("%s: %+v, %v", name, r, h.outcomes)
		}
	}
	// An interpreter that is none: there is never a parent, and each start says what is wrong.
	bad := spec
	bad.Path = "/bin/false"
	h.run(h.Start, bad)
	eventually(t, "the parent has failed", func() bool {
		if r := h.run(h.Start, bad); r.exit.Code != 1 {
			t.Fatalf("%+v", r)
		}
		return h.count(WarmFailed) > 0
	})
}

// TestWarmThreads imports what starts a thread: the next parent imports nothing ahead.
func TestWarmThreads(t *testing.T) {
	t.Parallel()
	h := newHothouse(t)
	site := t.TempDir()
	if err := os.WriteFile(filepath.Join(site, "busy.py"), []byte("import threading, time\nthreading.Thread(target=time.sleep, args=(300,), daemon=True).start()\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec := h.script(WarmPython, "x.py", "import sys\nprint('busy' in sys.modules)\nimport busy\nprint(busy.threading.active_count())")
	spec.Env = append(spec.Env, "PYTHONPATH="+site)
	h.run(h.Start, spec)
	eventually(t, "a start is warm", func() bool {
		if r := h.run(h.Start, spec); r.stdout != "False\n2\n" {
			t.Fatalf("%+v", r)
		}
		return h.count(WarmStarted) > 0
	})
}

// TestWarmUser runs children of another user from a parent of theirs.
func TestWarmUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	u, err := LookupUser("nobody")
	if err != nil {
		t.Skip(err)
	}
	// Outside of the test's own folder, which nobody else may enter.
	base, err := os.MkdirTemp("", "warm-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHothouse(t, func(o *WarmOptions) { o.Dir = filepath.Join(base, "warm") })
	h.dir = filepath.Join(base, "pack")
	for kind, text := range map[string]string{
		WarmBash: "id -un; exit 3", WarmPython: "import os\nprint(os.popen('id -un').read(), end='')\nraise SystemExit(3)", WarmNode: "console.log(require('os').userInfo().username); process.exit(3)",
	} {
		spec := h.script(kind, "user"+ending(kind), text)
		if err := os.Chmod(h.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		spec.User, spec.Dir = u, h.dir
		spec.Env = NewEnv("/", "/tmp").List()
		if err := os.Chmod(spec.Args[0], 0o644); err != nil {
			t.Fatal(err)
		}
		run := h.warmly
		if !h.runner.mayLimit { // this root may not do all that root may
			run = h.unfit
		}
		if r := run(spec); r.stdout != "nobody\n" || r.exit.Code != 3 {
			t.Errorf("%s: %+v", kind, r)
		}
	}
}

// TestWarmKeeper kills a daemon: its keeper ends parents, what waits and what runs.
func TestWarmKeeper(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDaemonWith(t, []string{warmVar + "=" + dir}, t.TempDir())
	pids := []int{pidIn(t, filepath.Join(dir, "parent")), pidIn(t, filepath.Join(dir, "spare")), pidIn(t, filepath.Join(dir, "child"))}
	d.kill()
	for _, pid := range pids {
		assertGone(t, "a process of a warm start", pid)
	}
}
