package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/seal"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func edit(f func(*manifest.Action)) func(*manifest.Action) { return f }

func TestSucceeds(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	action := m.action("hello", `echo '{"answer": 42.0}'; echo "careful in ${SHELL##*/}" >&2`)
	m.run()
	e := m.do(action, `{}`)
	m.want(e, store.StatusSucceeded, "")
	if e.ExitCode == nil || *e.ExitCode != 0 || string(e.Result) != `{"answer": 42.0}` || e.Stdout != "{\"answer\": 42.0}\n" || e.Stderr != "careful in bash\n" {
		t.Errorf("exit code %v, result %s, stdout %q, stderr %q", e.ExitCode, e.Result, e.Stdout, e.Stderr)
	}
	_, attempts := m.execution(e.ID)
	if len(attempts) != 1 || attempts[0].Status != store.StatusSucceeded || attempts[0].StartedAt == nil {
		t.Errorf("attempts: %+v", attempts)
	}
}

// The child sees exactly this, whichever way its parameters come.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	secret := schema(t, `{"name": {"type": "string"}, "token": {"type": "string", "secret": true}}`, false)
	script := `import json, os, stat, sys
file = os.environ.get("ATTUNE_PARAMETER_FILE")
print(json.dumps({
	"env": dict(os.environ), "stdin": sys.stdin.read(), "cwd": os.getcwd(), "path": sys.path[:2],
	"file": open(file).read() if file else None, "mode": oct(os.stat(file).st_mode & 0o777) if file else None,
	"fds": sorted(os.listdir("/proc/self/fd"))[:3], "temp": os.path.isdir(os.environ["TMPDIR"]),
	"umask": oct(os.umask(0)),
}))
`
	m.write("lib/helper.py", "")
	always := []string{
		"ATTUNE_ACTION", "ATTUNE_ATTEMPT", "ATTUNE_BINARY", "ATTUNE_CHILD_ID", "ATTUNE_DATA_DIR", "ATTUNE_EVENT_ID", "ATTUNE_EXECUTION_ID",
		"ATTUNE_EXEC_ID", "ATTUNE_LOG_LEVEL", "ATTUNE_PACK_CONFIG_LIMITS", "ATTUNE_PACK_CONFIG_MAX_SIZE", "ATTUNE_PACK_DIR",
		"ATTUNE_PACK_REF", "ATTUNE_PARAMETER_DELIVERY", "ATTUNE_PARAMETER_FORMAT", "ATTUNE_RESULT_FILE", "ATTUNE_RULE",
		"ATTUNE_RUN_ID", "ATTUNE_TRIGGER", "HOME", "LC_CTYPE", "OWN", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH",
		"PYTHONUNBUFFERED", "SHELL", "TMPDIR",
	}
	if os.Getenv("TZ") != "" {
		always = append(always, "TZ")
	}
	const both = `{"name":"x y","token":"hush-hush"}` + "\n"
	tests := []struct {
		delivery, stdin, file string
		more                  []string
	}{
		{"", both, "", []string{"ATTUNE_ACTION_NAME"}},
		{"env", "", "", []string{"ATTUNE_ACTION_NAME", "ATTUNE_ACTION_TOKEN"}},
		{"stdin", both, "", nil},
		{"file", "", both, []string{"ATTUNE_PARAMETER_FILE"}},
	}
	var list []store.NewExecution
	for _, test := range tests {
		action := m.action("env"+test.delivery, script, edit(func(a *manifest.Action) {
			a.RunnerType, a.Interpreter, a.EntryPoint = manifest.RuntimePython, "", "env"+test.delivery+".py"
			a.Parameters, a.ParameterDelivery, a.OutputFormat = secret, test.delivery, manifest.OutputJSON
			a.Env = map[string]string{"OWN": "mine", "ATTUNE_ACTION": "forged"}
		}))
		list = append(list, store.NewExecution{
			Action: action, Rule: "p.r", Trigger: "p.t", EventID: 7, Parameters: json.RawMessage(`{"name": "x y"}`),
			Secrets: map[string]string{"/token": "my-token"},
		})
	}
	m.run(func(o *Options) {
		o.Binary = "/usr/bin/attune"
		o.PackConfig = func(string) map[string]any { return map[string]any{"max-size": 5, "limits": map[string]any{"a": true}} }
		o.Secret = func(name string) (string, error) {
			if name != "my-token" {
				return "", errors.New("no such secret")
			}
			return "hush-hush", nil
		}
	})
	ids := m.enqueue(list...)
	for i, test := range tests {
		e := m.await(ids[i])
		m.want(e, store.StatusSucceeded, "")
		// What is printed is masked, so the secret's place is seen, not the secret.
		var saw struct {
			Env        map[string]string
			Stdin, Cwd string
			File, Mode *string
			Path, FDs  []string
			Temp       bool
			Umask      string
		}
		if err := json.Unmarshal(e.Result, &saw); err != nil {
			t.Fatalf("%v: %s", err, e.Stdout)
		}
		want := append(slices.Clone(always), test.more...)
		slices.Sort(want)
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(saw.Env))); diff != "" {
			t.Errorf("%s: variables (-want +got):\n%s", test.delivery, diff)
		}
		masked := strings.ReplaceAll(test.stdin, "hush-hush", "***")
		if saw.Stdin != masked {
			t.Errorf("%s: stdin %q, want %q", test.delivery, saw.Stdin, masked)
		}
		if test.file != "" && (saw.File == nil || *saw.File != strings.ReplaceAll(test.file, "hush-hush", "***") || *saw.Mode != "0o400") {
			t.Errorf("%s: file %v, mode %v", test.delivery, saw.File, saw.Mode)
		}
		id := fmt.Sprint(e.ID)
		for name, want := range map[string]string{
			"ATTUNE_ACTION": e.Action, "ATTUNE_EXECUTION_ID": id, "ATTUNE_EXEC_ID": id, "ATTUNE_ATTEMPT": "1", "ATTUNE_RULE": "p.r",
			"ATTUNE_TRIGGER": "p.t", "ATTUNE_EVENT_ID": "7", "ATTUNE_PACK_REF": "p", "ATTUNE_PACK_DIR": m.pack, "OWN": "mine",
			"ATTUNE_PACK_CONFIG_MAX_SIZE": "5", "ATTUNE_PACK_CONFIG_LIMITS": `{"a":true}`, "ATTUNE_LOG_LEVEL": "info",
			"ATTUNE_DATA_DIR": filepath.Join(m.state, "data", "p"), "PYTHONPATH": filepath.Join(m.pack, "lib"), "PATH": child.ChildPath,
		} {
			if saw.Env[name] != want {
				t.Errorf("%s: %s is %q, want %q", test.delivery, name, saw.Env[name], want)
			}
		}
		if saw.Cwd != m.pack || !saw.Temp || saw.Path[0] != filepath.Join(m.pack, "actions") || saw.Path[1] != filepath.Join(m.pack, "lib") {
			t.Errorf("%s: cwd %s, temp %v, python path %v", test.delivery, saw.Cwd, saw.Temp, saw.Path)
		}
		if left, _ := os.ReadDir(saw.Env["TMPDIR"]); len(left) > 0 {
			t.Errorf("%s: TMPDIR still has %v", test.delivery, left)
		}
	}
}

func TestRunAs(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root may run children as others")
	}
	m := newMachine(t)
	// Others pass through, as they do through the daemon's state directory.
	for _, dir := range []*string{&m.pack, &m.state} {
		made, err := os.MkdirTemp("", "attune-worker-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(made) })
		if err := os.Chmod(made, 0o755); err != nil {
			t.Fatal(err)
		}
		*dir = made
	}
	if err := os.Mkdir(filepath.Join(m.pack, "actions"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.action("other", `id -un; cat "$ATTUNE_PARAMETER_FILE"; echo x >"$TMPDIR/x" && echo x >"$HOME/x" && echo '{"a": 1}' >"$ATTUNE_RESULT_FILE"`,
		edit(func(a *manifest.Action) { a.RunAs, a.ParameterDelivery = "nobody", manifest.DeliverFile }))
	for _, path := range []string{"actions", "actions/other.sh"} {
		if err := os.Chmod(filepath.Join(m.pack, path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.run()
	e := m.do("p.other", `{"b": 2}`)
	m.want(e, store.StatusSucceeded, "")
	if e.Stdout != "nobody\n{\"b\":2}\n" || string(e.Result) != `{"a": 1}` {
		t.Errorf("stdout %q, result %s", e.Stdout, e.Result)
	}
}

func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("leak", `
input=$(cat)
echo "out $input"; echo "err $input" >&2
printf '{"token": "%s", "code": "%s"}' "hush-hush-1" "$(printf hush-hush-1 | base64)" >"$ATTUNE_RESULT_FILE"
`, edit(func(a *manifest.Action) {
		a.Parameters = schema(t, `{"token": {"type": "string", "secret": true}, "plain": {"type": "string", "secret": true}}`, false)
	}))
	m.run(func(o *Options) { o.Secret = func(string) (string, error) { return "hush-hush-1", nil } })
	id := m.enqueue(store.NewExecution{
		Action: "p.leak", Parameters: json.RawMessage(`{"plain": "hush-hush-2"}`), Secrets: map[string]string{"/token": "s"},
	})[0]
	e := m.await(id)
	m.want(e, store.StatusSucceeded, "")
	all := e.Stdout + e.Stderr + string(e.Result)
	if strings.Contains(all, "hush") || strings.Contains(all, "aHVzaC1o") || strings.Count(all, "***") < 6 {
		t.Errorf("stdout %q, stderr %q, result %s", e.Stdout, e.Stderr, e.Result)
	}
}

// What was encrypted when it was queued comes to the action as it was, and nowhere else.
func TestEncryptedParameters(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	keys := seal.New(seal.Options{Path: m.file("attune.key"), Create: true})
	ref := m.action("use", `cat >"$HOME/got"; env >"$HOME/env"; grep -o 'hush[^"]*' "$HOME/got"; grep -o 31415926 "$HOME/got"`, edit(func(a *manifest.Action) {
		a.Parameters = schema(t, `{"token": {"type": "string", "secret": true, "minLength": 6}, "pin": {"type": "integer", "secret": true}, "plain": {"type": "string"}}`, false)
	}))
	given := map[string]any{"token": "hush-hush-3", "pin": json.Number("31415926"), "plain": "p"}
	hidden, secrets, err := keys.Hide(ref, m.actions[0].(*manifest.Action).Parameters, given, nil)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(hidden)
	if err != nil {
		t.Fatal(err)
	}
	m.run(func(o *Options) { o.Unseal = keys.Open })
	e := m.await(m.enqueue(store.NewExecution{Action: ref, Parameters: encoded, Secrets: secrets})[0])
	m.want(e, store.StatusSucceeded, "")
	if e.Stdout != "***\n***\n" {
		t.Errorf("stdout %q", e.Stdout)
	}
	data := filepath.Join(m.state, "data", "p")
	if got := read(t, filepath.Join(data, "got")); got != `{"pin":31415926,"plain":"p","token":"hush-hush-3"}`+"\n" {
		t.Errorf("stdin %s", got)
	}
	if env := read(t, filepath.Join(data, "env")); strings.Contains(env, "hush") || strings.Contains(env, "3141") || !strings.Contains(env, "ATTUNE_ACTION_PLAIN=p") {
		t.Errorf("environment %s", env)
	}

	// The schema has forgotten that it was secret, and wants something else.
	m.actions[0].(*manifest.Action).Parameters = schema(t, `{"token": {"type": "string", "enum": ["a", "b"]}, "pin": {"type": "boolean"}, "plain": {"type": "string"}}`, false)
	m.apply()
	e = m.await(m.enqueue(store.NewExecution{Action: ref, Parameters: encoded, Secrets: secrets})[0])
	m.want(e, store.StatusFailed, "token: the encrypted value does not fit the schema")
	if strings.Contains(*e.Error, "hush") || strings.Contains(*e.Error, "3141") {
		t.Errorf("the error tells a secret: %s", *e.Error)
	}

	if err := os.Remove(m.file("attune.key")); err != nil {
		t.Fatal(err)
	}
	e = m.await(m.enqueue(store.NewExecution{Action: ref, Parameters: encoded, Secrets: secrets})[0])
	m.want(e, store.StatusFailed, "cannot use the encrypted value for parameter pin: cannot read the key file")
}

func TestFailures(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	native := func(a *manifest.Action) {
		a.RunnerType, a.Interpreter, a.EntryPoint = manifest.RuntimeNative, "", a.Name
	}
	m.action("exit", `echo '{"kept": true}'; exit 3`)
	m.action("signal", `kill -9 $$`)
	m.action("json", `echo no`, edit(func(a *manifest.Action) { a.OutputFormat = "json" }))
	m.action("misfit", `echo '{"count": "x"}'`, edit(func(a *manifest.Action) {
		a.OutputSchema = schema(t, `{"count": {"type": "integer"}}`, true)
	}))
	m.action("link", `ln -s /etc/passwd "$ATTUNE_RESULT_FILE"`)
	m.action("gone", `true`)
	if err := os.Remove(filepath.Join(m.pack, "actions/gone.sh")); err != nil {
		t.Fatal(err)
	}
	m.action("outside", `true`, edit(func(a *manifest.Action) { a.EntryPoint = "../../outside.sh" }))
	if err := os.Symlink("/bin/true", filepath.Join(m.pack, "actions", "escape")); err != nil {
		t.Fatal(err)
	}
	m.action("old", `true`, edit(func(a *manifest.Action) { a.RuntimeVersion = ">= 99" }))
	m.action("closed", `true`, edit(func(a *manifest.Action) { a.Parameters = nil }))
	m.action("user", `true`, edit(func(a *manifest.Action) { a.RunAs = "nobody-at-all" }))
	m.action("crlf", "#!/bin/sh\r\ntrue\r\n", native)
	m.action("noexec", "no shebang\n", native)
	m.action("away", `true`, edit(func(a *manifest.Action) { a.ParameterDelivery = "env" }))
	m.actions = append(m.actions, func() manifest.Component {
		a := *m.actions[0].(*manifest.Action)
		a.Ref, a.Name, a.File, a.EntryPoint = "p.escape", "escape", "actions/escape.yaml", "escape"
		a.RunnerType, a.Interpreter = manifest.RuntimeNative, ""
		return &a
	}())
	m.action("off", `true`)
	m.apply()
	m.switchOff("p.off", "it floods")
	m.run()
	tests := []struct {
		action, parameters, want string
		code                     int
		signal, result           string
	}{
		{action: "p.exit", want: "exit 3", code: 3, result: `{"kept": true}`},
		{action: "p.signal", want: "killed by SIGKILL", code: -1, signal: "SIGKILL"},
		{action: "p.json", want: "cannot read stdout as json: it is not JSON: line 1, column 2"},
		{action: "p.misfit", want: `the result does not fit output_schema: /count: found "x", expected integer`, result: `{"count": "x"}`},
		{action: "p.link", want: "cannot use the result file: it is a link"},
		{action: "p.gone", want: `cannot find entry_point "gone.sh"`, code: -1},
		{action: "p.outside", want: `cannot use entry_point "../../outside.sh": it is not inside actions/`, code: -1},
		{action: "p.escape", want: `cannot use entry_point "escape": it leads out of the pack`, code: -1},
		{action: "p.old", want: "of the wanted version", code: -1},
		{action: "p.closed", parameters: `{"x": 1}`, want: `cannot use its parameters: x: unknown property "x"`, code: -1},
		{action: "p.user", want: `cannot find user "nobody-at-all"`, code: -1},
		{action: "p.crlf", want: "CR", code: -1},
		{action: "p.noexec", want: "cannot start execution", code: -1},
		{action: "p.away", parameters: `{"x": "` + strings.Repeat("y", manifest.MaxEnvironment) + `"}`, want: "write parameter_delivery: stdin", code: -1},
		{action: "p.nobody", want: "action no longer exists", code: -1},
		{action: "p.off", want: "Z (it floods); `attune action enable p.off` takes that back", code: -1},
		{action: "p.off", want: "action is disabled: alice disabled it at 2", code: -1},
	}
	for _, test := range tests {
		t.Run(test.action, func(t *testing.T) {
			t.Parallel()
			parameters := test.parameters
			if parameters == "" {
				parameters = "{}"
			}
			e := m.do(test.action, parameters)
			m.want(e, store.StatusFailed, test.want)
			code, signal := -1, ""
			if e.ExitCode != nil {
				code = *e.ExitCode
			}
			if e.Signal != nil {
				signal = *e.Signal
			}
			if code != test.code || signal != test.signal || string(e.Result) != test.result {
				t.Errorf("exit code %d, signal %q, result %s", code, signal, e.Result)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	short := edit(func(a *manifest.Action) { a.Timeout = manifest.Duration(300 * time.Millisecond) })
	pid := m.file("pid-")
	ready := `; echo $$ >` + pid + `$ATTUNE_EXECUTION_ID; `
	m.action("slow", `echo begun`+ready+`sleep 999`, short)
	m.action("polite", `trap 'echo bye; exit 0' TERM`+ready+`sleep 999 & wait`, short)
	m.action("stubborn", `trap '' TERM`+ready+`while :; do sleep 0.05; done`, short)
	// The time of each begins when it is what it is to be: a busy machine takes longer than that to come so far.
	m.prepare = func(p *Pool) {
		start := p.start
		p.start = func(ctx context.Context, spec child.Spec) (process, error) {
			proc, err := start(ctx, spec)
			for err == nil && ctx.Err() == nil {
				if text, _ := os.ReadFile(pid + strings.TrimPrefix(spec.Name, "execution ")); len(text) > 0 {
					break
				}
				<-time.After(pollEvery)
			}
			return proc, err
		}
	}
	do := func(action, signal string) {
		t.Helper()
		e := m.do(action, `{}`)
		m.want(e, store.StatusTimedOut, "timed out after 300ms")
		got := ""
		if e.Signal != nil {
			got = *e.Signal
		}
		if got != signal {
			t.Errorf("%s: signal %q, want %q", action, got, signal)
		}
		if alive(read(t, pid+fmt.Sprint(e.ID))) {
			t.Errorf("%s is still there", action)
		}
	}
	patient := m.run(func(o *Options) { o.StopGrace = time.Hour })
	do("p.slow", "SIGTERM")
	do("p.polite", "")
	patient.stop()
	m.run(func(o *Options) { o.StopGrace = 300 * time.Millisecond })
	do("p.stubborn", "SIGKILL")
}

func TestTimeoutsBound(t *testing.T) {
	t.Parallel()
	tests := []struct {
		execution, action, daemon, most, want time.Duration
	}{
		{0, 0, time.Minute, 0, time.Minute},
		{0, time.Hour, time.Minute, 0, time.Hour},
		{time.Second, time.Hour, time.Minute, 0, time.Second},
		{0, time.Hour, time.Minute, 5 * time.Minute, 5 * time.Minute},
		{time.Hour, 0, time.Minute, 5 * time.Minute, 5 * time.Minute},
	}
	for _, test := range tests {
		a := &attempt{
			pool:  &Pool{opts: Options{Timeout: test.daemon, MaxTimeout: func(string) time.Duration { return test.most }}},
			claim: store.Claimed{Timeout: test.execution},
		}
		if got := a.timeout(&manifest.Action{Timeout: manifest.Duration(test.action)}, "p"); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// It runs alone, for what it measures is of the whole process.
func TestOutputIsBounded(t *testing.T) { //nolint:paralleltest // see above
	m := newMachine(t)
	m.action("flood", `echo first; head -c 100000000 /dev/zero | tr '\0' x; echo; echo last`)
	m.run()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	e := m.do("p.flood", `{}`)
	runtime.ReadMemStats(&after)
	m.want(e, store.StatusSucceeded, "")
	if !e.StdoutTruncated || !strings.HasPrefix(e.Stdout, "first\n") || !strings.HasSuffix(e.Stdout, "\nlast\n") || !strings.Contains(e.Stdout, "bytes left out") {
		t.Errorf("stdout of %d bytes, truncated: %v", len(e.Stdout), e.StdoutTruncated)
	}
	if len(e.Stdout) > defaultOutputLimit+1000 {
		t.Errorf("kept %d bytes", len(e.Stdout))
	}
	if grown := int64(after.Sys) - int64(before.Sys); grown > 64<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
}

func TestBinaryOutput(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("binary", `printf 'a\0b\xff\xfec\n'; head -c 100000 /dev/urandom >&2`)
	m.run()
	e := m.do("p.binary", `{}`)
	m.want(e, store.StatusSucceeded, "")
	if e.Stdout != "a\uFFFDb\uFFFDc\n" {
		t.Errorf("stdout %q", e.Stdout)
	}
}

func TestNeverReadsStdin(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("deaf", `echo "$ATTUNE_PARAMETER_DELIVERY"; exit 0`)
	m.run()
	e := m.do("p.deaf", `{"text": "`+strings.Repeat("x", 1<<20)+`"}`)
	m.want(e, store.StatusSucceeded, "")
	if e.Stdout != "stdin\n" {
		t.Errorf("stdout %q", e.Stdout)
	}
}

func TestDaemonizes(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	leave := func(name string) string {
		return `nohup setsid sh -c 'echo $$ >` + m.file(name) + `; exec sleep 999' >/dev/null 2>&1 &
until [ -s ` + m.file(name) + ` ]; do sleep 0.01; done; echo done`
	}
	m.action("away", leave("away"))
	m.action("kept", leave("kept"), edit(func(a *manifest.Action) { a.Detach = true }))
	m.action("pipe", `sleep 999 & echo $! >`+m.file("pipe")+`; echo done`)
	m.run()
	for _, name := range []string{"away", "kept", "pipe"} {
		e := m.do("p."+name, `{}`)
		m.want(e, store.StatusSucceeded, "")
		if e.Stdout != "done\n" {
			t.Errorf("%s: stdout %q", name, e.Stdout)
		}
	}
	if alive(read(t, m.file("away"))) || alive(read(t, m.file("pipe"))) {
		t.Error("what an action left behind is still there")
	}
	pid := strings.TrimSpace(read(t, m.file("kept")))
	if !alive(pid) {
		t.Error("what detach lets live is gone")
	}
	number, err := strconv.Atoi(pid)
	if err == nil {
		err = syscall.Kill(number, syscall.SIGKILL)
	}
	if err != nil {
		t.Error(err)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("long", `echo $$ >`+m.file("long")+`; sleep 999`)
	m.action("quick", `true`)
	p := m.run(func(o *Options) { o.Workers = 1 })
	ids := m.enqueue(store.NewExecution{Action: "p.long"}, store.NewExecution{Action: "p.quick"})
	eventually(t, "it runs", func() bool { return exists(m.file("long")) && read(t, m.file("long")) != "" })
	for _, id := range []int64{ids[1], ids[0]} {
		if _, err := m.store.Cancel(t.Context(), id, "alice"); err != nil {
			t.Fatal(err)
		}
	}
	m.want(m.await(ids[1]), store.StatusCancelled, "cancelled by alice")
	m.want(m.await(ids[0]), store.StatusCancelled, "cancelled")
	if alive(read(t, m.file("long"))) {
		t.Error("its process is still there")
	}
	eventually(t, "the slot is free", func() bool { return p.Stats().Busy == 0 })
}

// Whenever it is cancelled, there is one outcome, and the pool goes on.
func TestCancelAnyTime(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("quick", `sleep 0.02`)
	p := m.run()
	var list []store.NewExecution
	for range 60 {
		list = append(list, store.NewExecution{Action: "p.quick"})
	}
	ids := m.enqueue(list...)
	for i, id := range ids {
		if i%3 != 0 {
			if _, err := m.store.Cancel(t.Context(), id, "alice"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, id := range ids {
		e := m.await(id)
		if e.Status != store.StatusSucceeded && (i%3 == 0 || e.Status != store.StatusCancelled) {
			m.want(e, store.StatusCancelled, "")
		}
	}
	eventually(t, "all is forgotten", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.busy == 0 && len(p.held) == 0 && len(p.followed) == 0
	})
}

func TestRetry(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("third", `echo $ATTUNE_ATTEMPT; [ $ATTUNE_ATTEMPT = 3 ]`, edit(func(a *manifest.Action) {
		a.Retry = &manifest.Retry{MaxAttempts: 5, Delay: manifest.Duration(50 * time.Millisecond)}
	}))
	m.action("never", `exit 75`, edit(func(a *manifest.Action) { a.Retry = &manifest.Retry{MaxAttempts: 2, ExitCodes: []int{75}} }))
	m.action("other", `exit 1`, edit(func(a *manifest.Action) { a.Retry = &manifest.Retry{MaxAttempts: 2, ExitCodes: []int{75}} }))
	m.run()
	for _, test := range []struct {
		action   string
		status   store.Status
		attempts int
	}{{"p.third", store.StatusSucceeded, 3}, {"p.never", store.StatusFailed, 2}, {"p.other", store.StatusFailed, 1}} {
		e := m.do(test.action, `{}`)
		_, attempts := m.execution(e.ID)
		if e.Status != test.status || len(attempts) != test.attempts || e.Attempt != test.attempts {
			t.Errorf("%s: %s after %d attempts: %+v", test.action, e.Status, e.Attempt, attempts)
		}
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("finishes", `echo $$ >>`+m.file("finishes")+`; until [ -e `+m.file("go")+` ]; do sleep 0.01; done; echo done`)
	p := m.run(func(o *Options) { o.Workers = 1 })
	ids := m.enqueue(store.NewExecution{Action: "p.finishes"}, store.NewExecution{Action: "p.finishes"})
	eventually(t, "it runs", func() bool { return exists(m.file("finishes")) })
	p.leave()
	select {
	case <-p.ended:
		t.Fatal("the pool ended with an attempt running")
	case <-time.After(100 * time.Millisecond):
	}
	if err := os.WriteFile(m.file("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.stop()
	e, _ := m.execution(ids[0])
	m.want(e, store.StatusSucceeded, "")
	if e, _ := m.execution(ids[1]); e.Status != store.StatusRequested {
		t.Errorf("the one behind is %s", e.Status)
	}
}

func TestDrainIsOver(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*running){
		"time":  func(p *running) { p.stop() },
		"hurry": func(p *running) { p.leave(); p.Hurry(); p.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			// The first attempt does not count: of the two that retry allows, two follow.
			m.action("long", `echo $$ >`+m.file("pid")+`; [ $ATTUNE_ATTEMPT != 1 ] || sleep 999; [ $ATTUNE_ATTEMPT = 3 ]`, func(a *manifest.Action) {
				a.Retry = &manifest.Retry{MaxAttempts: 2}
			})
			p := m.run(func(o *Options) {
				if name == "time" {
					o.Drain = 100 * time.Millisecond
				}
			})
			id := m.enqueue(store.NewExecution{Action: "p.long"})[0]
			eventually(t, "it runs", func() bool { return exists(m.file("pid")) && read(t, m.file("pid")) != "" })
			pid := read(t, m.file("pid"))
			end(p)
			if alive(pid) {
				t.Error("its process is still there")
			}
			e, attempts := m.execution(id)
			if e.Status != store.StatusRequested || len(attempts) != 1 || attempts[0].Status != store.StatusCancelled {
				t.Fatalf("it is %s: %+v", e.Status, attempts)
			}
			m.run()
			m.want(m.await(id), store.StatusSucceeded, "")
		})
	}
}

func TestHurryKillsTheStubborn(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("stubborn", `trap '' TERM; echo $$ >`+m.file("pid")+`; while :; do sleep 0.05; done`)
	p := m.run(func(o *Options) { o.StopGrace = time.Hour })
	m.enqueue(store.NewExecution{Action: "p.stubborn"})
	eventually(t, "it runs", func() bool { return exists(m.file("pid")) && read(t, m.file("pid")) != "" })
	began := time.Now()
	p.leave()
	p.Hurry()
	p.stop()
	if took := time.Since(began); took > patience/2 || alive(read(t, m.file("pid"))) {
		t.Errorf("took %v", took)
	}
}

// A node died: nobody renews its lease.
func TestReap(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("fails", `exit 1`)
	m.action("again", `echo attempt $ATTUNE_ATTEMPT`, edit(func(a *manifest.Action) { a.OnLost = "retry" }))
	m.action("waits", `echo attempt $ATTUNE_ATTEMPT`)
	ids := m.enqueue(store.NewExecution{Action: "p.fails"}, store.NewExecution{Action: "p.again"}, store.NewExecution{Action: "p.waits"})
	claimed, err := m.store.Claim(t.Context(), "dead", 3)
	if err != nil || len(claimed) != 3 {
		t.Fatalf("claimed %d: %v", len(claimed), err)
	}
	var started []string
	for _, c := range claimed {
		if c.Action != "p.waits" {
			started = append(started, c.Token)
		}
	}
	if _, err := m.store.Start(t.Context(), started); err != nil {
		t.Fatal(err)
	}
	m.sql("UPDATE attune.queue SET lease_until = now() - interval '1 second'")
	registry := prometheus.NewRegistry()
	m.run(func(o *Options) { o.Registerer = registry })
	m.want(m.await(ids[0]), store.StatusLost, "node dead")
	e := m.await(ids[1])
	m.want(e, store.StatusSucceeded, "")
	if e.Stdout != "attempt 2\n" {
		t.Errorf("retried: %q", e.Stdout)
	}
	if e := m.await(ids[2]); e.Stdout != "attempt 1\n" {
		t.Errorf("never started: %q", e.Stdout)
	}
	eventually(t, "the lost one is counted", func() bool {
		return testutil.CollectAndCount(registry, "attune_executions_total") == 3
	})
}

// What an action prints by turns on its two streams is followed, and kept, in the order in which it came.
func TestStreamsByTurns(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("turns", `for i in 1 2 3; do
	echo "out $i"; until [ -e `+m.file("out")+`$i ]; do sleep 0.01; done
	echo "err $i" >&2; until [ -e `+m.file("err")+`$i ]; do sleep 0.01; done
done`)
	p := m.run()
	id := m.enqueue(store.NewExecution{Action: "p.turns"})[0]
	var chunks <-chan Chunk
	eventually(t, "it can be followed", func() bool {
		var attempt int
		chunks, attempt = p.Follow(t.Context(), id)
		return attempt == 1
	})
	const want = "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n"
	got := ""
	for chunk := range chunks {
		if got += chunk.Text; !strings.HasSuffix(got, "\n") {
			continue
		}
		// It goes on when its last line was seen.
		last := strings.Split(got, "\n")
		name := strings.ReplaceAll(last[len(last)-2], " ", "")
		if err := os.WriteFile(m.file(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got != want {
		t.Errorf("followed as %q", got)
	}
	e := m.await(id)
	printed, err := m.store.Outputs(t.Context(), id, e.CreatedAt, 0, 2)
	if err != nil {
		t.Fatal(err)
	}
	kept := ""
	for _, piece := range printed {
		if !strings.HasPrefix(piece.Text, strings.TrimPrefix(piece.Stream, "std")) {
			t.Errorf("%q is of %s", piece.Text, piece.Stream)
		}
		kept += piece.Text
	}
	if kept != want || e.Stdout != "out 1\nout 2\nout 3\n" || e.Stderr != "err 1\nerr 2\nerr 3\n" {
		t.Errorf("kept as %q, and apart as %q and %q", kept, e.Stdout, e.Stderr)
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("talks", `printf 'one ü\n'; until [ -e `+m.file("go")+` ]; do sleep 0.01; done; printf 'two\n'; printf 'three \xc3' >&2; sleep 0.05; printf '\xbc\n' >&2`)
	p := m.run()
	if _, attempt := p.Follow(t.Context(), 12345); attempt != 0 {
		t.Error("follows what does not run")
	}
	id := m.enqueue(store.NewExecution{Action: "p.talks"})[0]
	var chunks <-chan Chunk
	eventually(t, "it can be followed", func() bool {
		var attempt int
		chunks, attempt = p.Follow(t.Context(), id)
		return attempt == 1
	})
	got := map[string]string{}
	released := false
	for chunk := range chunks {
		got[chunk.Stream] += chunk.Text
		if strings.Contains(got["stdout"], "one ü\n") && !released {
			released = true // it was seen while the action runs
			if err := os.WriteFile(m.file("go"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if diff := cmp.Diff(map[string]string{"stdout": "one ü\ntwo\n", "stderr": "three ü\n"}, got); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	m.await(id)
	ctx, cancel := context.WithCancel(t.Context())
	id = m.enqueue(store.NewExecution{Action: "p.talks"})[0]
	_ = m.await(id)
	eventually(t, "it cannot be followed any more", func() bool {
		_, attempt := p.Follow(ctx, id)
		return attempt == 0
	})
	cancel()
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("good", `true`)
	m.action("bad", `false`)
	registry := prometheus.NewRegistry()
	m.run(func(o *Options) { o.Registerer = registry })
	m.do("p.good", `{}`)
	m.do("p.good", `{}`)
	m.do("p.bad", `{}`)
	want := `# HELP attune_executions_total Executions that ended, by action and status.
# TYPE attune_executions_total counter
attune_executions_total{action="p.bad",status="failed"} 1
attune_executions_total{action="p.good",status="succeeded"} 2
# HELP attune_fenced_writes_total Outcomes that came after their lease was lost, and changed nothing.
# TYPE attune_fenced_writes_total counter
attune_fenced_writes_total 0
# HELP attune_self_fence_total How often this node stopped its own attempts because it could not renew their leases.
# TYPE attune_self_fence_total counter
attune_self_fence_total 0
# HELP attune_workers Slots for running actions, by state.
# TYPE attune_workers gauge
attune_workers{state="busy"} 0
attune_workers{state="idle"} 4
`
	var err error
	eventually(t, "the metrics are right", func() bool {
		err = testutil.GatherAndCompare(registry, strings.NewReader(want), "attune_executions_total", "attune_fenced_writes_total", "attune_self_fence_total", "attune_workers")
		return err == nil
	})
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

func TestPanicIsContained(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("good", `true`)
	m.run(func(o *Options) {
		o.PackConfig = func(string) map[string]any {
			if !exists(m.file("panicked")) {
				_ = os.WriteFile(m.file("panicked"), nil, 0o600)
				panic("oh no")
			}
			return nil
		}
	})
	m.want(m.do("p.good", `{}`), store.StatusFailed, "a mistake inside the daemon: oh no")
	m.want(m.do("p.good", `{}`), store.StatusSucceeded, "")
}

func TestClearsFoldersOfDeadRuns(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, name := range []string{"tmp/exec-17-abc/x", "tmp/sensor-p.s-1/x"} {
		if err := os.MkdirAll(m.file(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	m.action("good", `true`)
	m.run()
	m.do("p.good", `{}`)
	if exists(m.file("tmp/exec-17-abc")) || !exists(m.file("tmp/sensor-p.s-1")) {
		t.Error("the wrong folders were cleared")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	full := Options{
		Node: "n", Store: new(store.Store), Listener: new(store.Listener), Runner: new(child.Runner),
		Interpreters: new(child.Interpreters), Revisions: &machine{}, DataDir: "d", TempDir: "t", SpoolDir: "s",
	}
	if err := full.check(); err != nil {
		t.Fatal(err)
	}
	for field, clear := range map[string]func(*Options){
		"Node": func(o *Options) { o.Node = "" }, "Store": func(o *Options) { o.Store = nil }, "Listener": func(o *Options) { o.Listener = nil },
		"Runner": func(o *Options) { o.Runner = nil }, "Interpreters": func(o *Options) { o.Interpreters = nil },
		"Revisions": func(o *Options) { o.Revisions = nil }, "DataDir": func(o *Options) { o.DataDir = "" },
		"TempDir": func(o *Options) { o.TempDir = "" }, "SpoolDir": func(o *Options) { o.SpoolDir = "" },
		"Workers": func(o *Options) { o.Workers = -1 },
	} {
		opts := full
		clear(&opts)
		if _, err := New(opts); err == nil || !strings.Contains(err.Error(), "Options."+field+" is") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// switchOff disables an action as an operator does.
func (m *machine) switchOff(action, reason string) {
	m.t.Helper()
	off := store.Switch{Kind: manifest.KindAction, Refs: []string{action}, By: "alice", Reason: reason}
	if changed, _, err := m.store.Switch(m.t.Context(), off); err != nil || len(changed) != 1 {
		m.t.Fatalf("switched %v, %v", changed, err)
	}
}

func (m *machine) sql(statement string, args ...any) {
	m.t.Helper()
	storetest.Exec(m.t, m.url, statement, args...)
}

// What did not start in time is cancelled, and says so; what began once is past expiring.
func TestExpires(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("brief", "echo ran\n", func(a *manifest.Action) { a.Expires = manifest.Duration(time.Minute) })
	late, fresh, again := time.Now().Add(-time.Hour), time.Now(), time.Now().Add(-time.Hour)
	ids := m.enqueue(
		store.NewExecution{Action: "p.brief", DueAt: &late},
		store.NewExecution{Action: "p.brief", DueAt: &fresh},
		store.NewExecution{Action: "p.brief", DueAt: &again},
	)
	storetest.Exec(t, m.url, "UPDATE attune.queue SET attempt = 1 WHERE execution_id = $1", ids[2])
	m.run()
	for _, id := range ids {
		m.await(id)
	}
	for i, want := range []store.Status{store.StatusCancelled, store.StatusSucceeded, store.StatusSucceeded} {
		e, _, err := m.store.Execution(t.Context(), ids[i])
		if err != nil || e.Status != want {
			t.Errorf("%d: %+v %v", i, e, err)
		}
		if i == 0 && (e.Error == nil || *e.Error != "expired: it did not start within 1m0s of when it was due" || e.Stdout != "") {
			t.Errorf("it says %v and printed %q", e.Error, e.Stdout)
		}
	}
}

// Who queues these knows nothing of concurrency, as after an edit: their claims set it right, and no two of
// a key run at once.
func TestConcurrencyIsSetRightAtTheClaim(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	action := m.action("alone", `mkdir "$ATTUNE_DATA_DIR/$ATTUNE_ACTION_NAME" && sleep 0.05 && rmdir "$ATTUNE_DATA_DIR/$ATTUNE_ACTION_NAME"`, edit(func(a *manifest.Action) {
		a.Parameters = schema(t, `{"name": {"type": "string"}}`, false)
		a.Concurrency = &manifest.Concurrency{Max: 1, Key: "parameters.name"}
	}))
	m.run(func(o *Options) { o.Workers = 4 })
	var list []store.NewExecution
	for i := range 12 {
		list = append(list, store.NewExecution{Action: action, Parameters: json.RawMessage(fmt.Sprintf(`{"name": "k%d"}`, i%2))})
	}
	for _, id := range m.enqueue(list...) {
		e := m.await(id)
		m.want(e, store.StatusSucceeded, "")
		if e.Attempt != 1 {
			t.Errorf("execution %d took %d attempts", id, e.Attempt)
		}
	}
}
