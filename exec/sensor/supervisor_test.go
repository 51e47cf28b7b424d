package sensor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// alive says whether a process is there and no zombie.
func alive(pid int) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(data), ") Z ")
}

func TestEventsOfAProcess(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("s", "1", `
echo '{"payload":{"n":1},"event_id":"a"}'
echo 'not an event'
echo '{"type":"heartbeat"}'
echo '{"trigger":"t","payload":{"n":2},"cursor":{"at":2}}'
sleep 999`)
	y.sink.payloads(t, 2)
	want := []store.NewEvent{
		{Trigger: "p.t", Source: "p.s", EventID: "a", Payload: json.RawMessage(`{"n":1}`)},
		{Trigger: "p.t", Source: "p.s", Payload: json.RawMessage(`{"n":2}`), Cursor: json.RawMessage(`{"at":2}`)},
	}
	if diff := cmp.Diff(want, y.sink.all()); diff != "" {
		t.Error(diff)
	}
	until(t, "all counted", func() bool { return y.info("s").Events == 2 })
	y.running("s") // which is shown a moment after it began, and may be after its first words
	info := y.info("s")
	if info.State != StateRunning || !alive(info.PID) || info.BadLines != 1 || info.EventsPerMinute != 2 || info.LastEventAt == nil {
		t.Errorf("it shows %+v", info)
	}
	if !strings.Contains(y.log.String(), `msg="sensor printed no event" component=sensors sensor=p.s line=2`) {
		t.Errorf("the log does not name the line:\n%s", y.log)
	}
	y.stop()
	if alive(info.PID) {
		t.Error("the process outlives its supervisor")
	}
}

func TestWhatAProcessGets(t *testing.T) {
	t.Parallel()
	anchor := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	last := anchor.Add(time.Hour)
	y := newYard(t, func(y *yard) {
		y.config = map[string]any{"site": "home", "limits": map[string]any{"n": 1}}
		y.cursors["p.s"] = json.RawMessage(`{"at":7}`)
		y.instances = []store.TriggerInstance{
			{ID: "p.t#1", Trigger: "p.t", Parameters: json.RawMessage(`{"zone":"north"}`), Rules: []string{"p.r"}, AnchorAt: anchor, LastDue: &last},
			{ID: "q.u#1", Trigger: "q.u"},
		}
	})
	y.put("s", "1", `
read -r secret
echo "{\"payload\":{\"stdin\":$secret}}"
for name in ATTUNE_SENSOR_REF ATTUNE_SENSOR_ZONE ATTUNE_SENSOR_MAX_RATE ATTUNE_SENSOR_SITE ATTUNE_SENSOR_TOKEN \
	ATTUNE_PACK_REF ATTUNE_PACK_CONFIG_SITE ATTUNE_LOG_LEVEL ATTUNE_BINARY OWN ATTUNE_SENSOR_CURSOR; do
	value=${!name-absent}
	echo "{\"payload\":{\"$name\":\"${value//\"/\\\"}\"}}"
done
echo "{\"payload\":{\"triggers\":$ATTUNE_SENSOR_TRIGGERS}}"
cmp -s <(printf %s "$ATTUNE_SENSOR_TRIGGERS") "$ATTUNE_SENSOR_TRIGGERS_FILE" && echo '{"payload":{"file":"same"}}'
[ "$PWD" = "$ATTUNE_PACK_DIR" ] && [ -f sensors/s.sh ] && echo '{"payload":{"pwd":"pack"}}'
touch "$HOME/x" "$TMPDIR/y" && [ "$HOME" = "$ATTUNE_DATA_DIR" ] && echo '{"payload":{"folders":"writable"}}'
echo "token is $(printf %s "$secret" | tr -d '{}')" >&2
sleep 999`, func(m *manifest.Sensor, _ map[string]string) {
		m.Config = map[string]any{"zone": "north", "max-rate": 2.5, "site": "{{ pack.config.site }}", "token": "{{ secret.key }}"}
		m.Env = map[string]string{"OWN": "yes", "ATTUNE_PACK_REF": "forged"}
	})
	got := y.sink.payloads(t, 16)
	want := []string{
		`{"stdin":{"config":{"token":"open sesame"}}}`,
		`{"ATTUNE_SENSOR_REF":"p.s"}`, `{"ATTUNE_SENSOR_ZONE":"north"}`, `{"ATTUNE_SENSOR_MAX_RATE":"2.5"}`,
		`{"ATTUNE_SENSOR_SITE":"home"}`, `{"ATTUNE_SENSOR_TOKEN":"absent"}`, `{"ATTUNE_PACK_REF":"p"}`,
		`{"ATTUNE_PACK_CONFIG_SITE":"home"}`, `{"ATTUNE_LOG_LEVEL":"info"}`, `{"ATTUNE_BINARY":"/usr/bin/attune"}`,
		`{"OWN":"yes"}`, `{"ATTUNE_SENSOR_CURSOR":"{\"at\":7}"}`,
		`{"triggers":[{"trigger":"p.t","instance":"p.t#1","parameters":{"zone":"north"},"rules":["p.r"],"since":"2026-01-01T00:00:00Z","last":"2026-01-01T01:00:00Z","id":"p.t#1","ref":"p.t","config":{"zone":"north"}}]}`,
		`{"file":"same"}`, `{"pwd":"pack"}`, `{"folders":"writable"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	until(t, "its stderr", func() bool { return len(y.info("s").Stderr) > 0 })
	if stderr := y.info("s").Stderr[0]; strings.Contains(stderr, "sesame") || !strings.Contains(stderr, "***") {
		t.Errorf("stderr shows %q", stderr)
	}
	pid := y.running("s")
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(environ), "sesame") {
		t.Error("the secret is in the environment")
	}
	if strings.Contains(string(environ), "TRACEPARENT=") {
		t.Error("a sensor finds a trace, whose events begin their own")
	}
	y.stop()
	left, err := os.ReadDir(y.opts.TempDir)
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v %v", left, err)
	}
}

// A sensor whose secret was rotated is restarted with the new one, others are not, and none is for a secret that
// cannot be read.
func TestARotatedSecretReachesItsSensor(t *testing.T) {
	t.Parallel()
	secret := struct {
		sync.Mutex
		value string
	}{value: "one"}
	set := func(value string) { secret.Lock(); defer secret.Unlock(); secret.value = value }
	y := newYard(t, func(y *yard) {
		y.opts.Secret = func(string) (string, error) {
			secret.Lock()
			defer secret.Unlock()
			if secret.value == "" {
				return "", errors.New("there is no such file")
			}
			return secret.value, nil
		}
	})
	script := `read -r line; printf '{"payload":%s}\n' "$line"; exec sleep 999`
	y.put("s", "1", script, func(m *manifest.Sensor, _ map[string]string) { m.Config = map[string]any{"token": "{{ secret.key }}"} })
	y.put("other", "1", "exec sleep 999")
	if diff := cmp.Diff([]string{`{"config":{"token":"one"}}`}, y.sink.payloads(t, 1)); diff != "" {
		t.Error(diff)
	}
	y.running("s")
	y.running("other")
	first, other := y.info("s").PID, y.info("other").PID
	look := func() (key string) {
		t.Helper()
		y.lookAtSecrets()
		if err := y.look(t.Context(), func(*sensor) {}); err != nil {
			t.Fatal(err)
		}
		s := y.find("p.s")
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.target.key
	}
	key := look()
	set("")
	if got := look(); got != key {
		t.Error("it is to be restarted for a secret that cannot be read")
	}
	set("one")
	if got := look(); got != key {
		t.Error("it is to be restarted for the same secret")
	}
	if pid := y.info("s").PID; pid != first {
		t.Errorf("it is process %d, before %d, although its secret is the same", pid, first)
	}
	set("two")
	y.lookAtSecrets()
	if diff := cmp.Diff([]string{`{"config":{"token":"one"}}`, `{"config":{"token":"two"}}`}, y.sink.payloads(t, 2)); diff != "" {
		t.Error(diff)
	}
	if pid := y.info("other").PID; pid != other {
		t.Errorf("the other one is process %d, before %d", pid, other)
	}
}

// TestAStartKnowsTheNewestDueTimes lets time go on between the look at the catalog and the start.
func TestAStartKnowsTheNewestDueTimes(t *testing.T) {
	t.Parallel()
	old, newer := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)
	y := newYard(t, func(y *yard) {
		y.instances = []store.TriggerInstance{{ID: "p.t#1", Trigger: "p.t", LastDue: &old}}
	})
	y.put("s", "1", `last=${ATTUNE_SENSOR_TRIGGERS#*\"last\":}; echo "{\"payload\":{\"last\":${last%%,*}}}"; sleep 999`)
	y.sink.payloads(t, 1)
	y.running("s")
	y.mu.Lock()
	y.instances = []store.TriggerInstance{{ID: "p.t#1", Trigger: "p.t", LastDue: &newer}}
	y.mu.Unlock()
	y.Restart("p.s")
	want := []string{`{"last":"2026-01-01T00:00:00Z"}`, `{"last":"2026-01-01T01:00:00Z"}`}
	if diff := cmp.Diff(want, y.sink.payloads(t, 2)); diff != "" {
		t.Error(diff)
	}
}

func TestManyInstancesComeByFileOnly(t *testing.T) {
	t.Parallel()
	y := newYard(t, func(y *yard) {
		for i := range 2000 {
			y.instances = append(y.instances, store.TriggerInstance{ID: fmt.Sprintf("p.t#%d", i), Trigger: "p.t", Parameters: json.RawMessage(`{}`)})
		}
	})
	y.put("s", "1", `
size=$(wc -c <"$ATTUNE_SENSOR_TRIGGERS_FILE")
echo "{\"payload\":{\"variable\":\"${ATTUNE_SENSOR_TRIGGERS-absent}\",\"big\":$((size > 65536))}}"
sleep 999`)
	if got := y.sink.payloads(t, 1); got[0] != `{"variable":"absent","big":1}` {
		t.Error(got)
	}
}

// TestSecretParametersComeByFileOnly: what a trigger's schema calls secret stands in no variable, where others of
// the same user and the sensor's own children find it, nor in the sensor's log.
func TestSecretParametersComeByFileOnly(t *testing.T) {
	t.Parallel()
	y := newYard(t, func(y *yard) {
		schema := new(manifest.Schema)
		if err := json.Unmarshal([]byte(`{"type":"object","properties":{"login":{"type":"object","properties":{"password":{"type":"string","secret":true}}}}}`), schema); err != nil {
			t.Fatal(err)
		}
		y.catalog.Triggers = map[string]*store.Record{"p.t": {Ref: "p.t", Pack: "p", Spec: &manifest.Trigger{ParametersSchema: schema}}}
		y.instances = append(y.instances, store.TriggerInstance{ID: "p.t#1", Trigger: "p.t", Parameters: json.RawMessage(`{"login":{"password":"hunter22"}}`)})
	})
	y.put("s", "1", `
cat "$ATTUNE_SENSOR_TRIGGERS_FILE" >&2; echo >&2
[[ $(<"$ATTUNE_SENSOR_TRIGGERS_FILE") == *hunter22* ]]; file=$?
echo "{\"payload\":{\"variable\":\"${ATTUNE_SENSOR_TRIGGERS-absent}\",\"file\":$file}}"
sleep 999`)
	if got := y.sink.payloads(t, 1); got[0] != `{"variable":"absent","file":0}` {
		t.Error(got)
	}
	lines, _, _ := y.Logs(t.Context(), "p.s", true, 0)
	if line := <-lines; strings.Contains(line.Text, "hunter22") || !strings.Contains(line.Text, "***") {
		t.Error(line.Text)
	}
}

func TestInterpretersFindThePacksLibraries(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("py", "1", `
import json, time
import beside, below
print(json.dumps({"payload": {"beside": beside.name, "below": below.name}}))
time.sleep(999)
`, func(m *manifest.Sensor, files map[string]string) {
		m.RunnerType, m.Interpreter, m.EntryPoint, m.RuntimeVersion = manifest.RuntimePython, "", "deep/py.py", ">= 3.6"
		files["sensors/deep/beside.py"] = "name = 'sensors'\n"
		files["lib/beside.py"] = "name = 'lib'\n"
		files["lib/below.py"] = "name = 'lib'\n"
	})
	if got := y.sink.payloads(t, 1); got[0] != `{"beside": "sensors", "below": "lib"}` {
		t.Errorf("python: %s", got)
	}
	y.put("js", "1", `
console.log(JSON.stringify({payload: {below: require("below").name}}));
setInterval(() => {}, 1e6);
`, func(m *manifest.Sensor, files map[string]string) {
		m.RunnerType, m.Interpreter, m.EntryPoint = manifest.RuntimeNode, "", "js.js"
		files["lib/below.js"] = "exports.name = 'lib';\n"
	})
	if got := y.sink.payloads(t, 2); got[1] != `{"below":"lib"}` {
		t.Errorf("node: %s", got)
	}
}

func TestScriptsThatCannotStart(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	outside := filepath.Join(t.TempDir(), "outside.sh")
	if err := os.WriteFile(outside, []byte("sleep 999"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, problem string
		state         State
		change        func(*manifest.Sensor, map[string]string)
	}{
		{"dots", `refused: cannot use entry_point "../x.sh": it is not inside sensors/`, StateFailed, func(m *manifest.Sensor, _ map[string]string) { m.EntryPoint = "../x.sh" }},
		{"version", "", StateBackoff, func(m *manifest.Sensor, _ map[string]string) {
			m.RunnerType, m.Interpreter, m.RuntimeVersion = manifest.RuntimePython, "", ">= 99"
		}},
		{"key", `refused: cannot use config key "triggers": ATTUNE_SENSOR_TRIGGERS is Attune's own; take another name`, StateFailed, func(m *manifest.Sensor, _ map[string]string) { m.Config = map[string]any{"triggers": "x"} }},
		{"template", `refused: cannot use config key "x": found "{{ event.payload.x }}", expected {{ secret.name }} or {{ pack.config.key }} as the whole value`, StateFailed, func(m *manifest.Sensor, _ map[string]string) {
			m.Config = map[string]any{"x": "{{ event.payload.x }}"}
		}},
		{"secret", `cannot use config key "x": not available now: there is no secret "other"`, StateBackoff, func(m *manifest.Sensor, _ map[string]string) { m.Config = map[string]any{"x": "{{ secret.other }}"} }},
		{"nul", `refused: cannot set variable ATTUNE_SENSOR_X: its value holds a NUL byte, which no environment can carry; hand it over by stdin`, StateFailed, func(m *manifest.Sensor, _ map[string]string) { m.Config = map[string]any{"x": "a\x00b"} }},
	} {
		y.put(test.name, "1", "sleep 999", test.change)
		y.reaches(test.name, test.state)
		if got := y.info(test.name).Problem; test.problem != "" && got != test.problem {
			t.Errorf("%s: %s", test.name, got)
		}
		if y.info(test.name).PID != 0 {
			t.Errorf("%s has a pid", test.name)
		}
	}
	if got := y.info("version").Problem; !strings.Contains(got, "python") {
		t.Errorf("version: %s", got)
	}

	left, err := os.ReadDir(y.opts.TempDir)
	if err != nil || len(left) > 0 {
		t.Errorf("starts that failed left temporary files: %v %v", left, err)
	}

	y.put("link", "1", "sleep 999")
	y.running("link")
	y.mu.Lock()
	dir := y.dirs["link1"]
	y.mu.Unlock()
	if err := os.Remove(filepath.Join(dir, "sensors/link.sh")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "sensors/link.sh")); err != nil {
		t.Fatal(err)
	}
	y.Restart("p.link")
	y.reaches("link", StateFailed)
	if got := y.info("link").Problem; got != `refused: cannot use entry_point "link.sh": it leads out of the pack` {
		t.Error(got)
	}
}

func TestAKilledSensorComesBack(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("s", "1", "sleep 999")
	y.put("other", "1", "sleep 999")
	pid, other := y.running("s"), y.running("other")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	y.other("s", pid) // how soon: TestHealthForgetsFailures
	if y.running("other") != other {
		t.Error("another sensor was restarted too")
	}
	info := y.info("s")
	if info.LastExit != "killed by SIGKILL" || info.Restarts != 1 {
		t.Errorf("it shows %+v", info)
	}
	if got := testutil.ToFloat64(y.metrics.restarts.WithLabelValues("p.s", restartSignal)); got != 1 {
		t.Errorf("%v restarts counted", got)
	}
}

func TestOnlyTheChangedSensorRestarts(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	const sensors = 12
	pids := map[string]int{}
	for i := range sensors {
		y.put("s"+strconv.Itoa(i), "1", "sleep 999")
	}
	for i := range sensors {
		name := "s" + strconv.Itoa(i)
		pids[name] = y.running(name)
	}
	y.put("s3", "2", "sleep 999")
	y.other("s3", pids["s3"])
	for name, pid := range pids {
		if name != "s3" && y.running(name) != pid {
			t.Errorf("%s was restarted", name)
		}
	}
}

// TestNothingIsLostOverARestart lets a sensor count on, over many edits, with its cursor.
func TestNothingIsLostOverARestart(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	// The sink keeps the cursors, as the database would in the same transaction.
	keep := func(e store.NewEvent) {
		y.mu.Lock()
		defer y.mu.Unlock()
		y.cursors[e.Source] = e.Cursor
	}
	y.sink.mu.Lock()
	y.sink.onEvent = keep
	y.sink.mu.Unlock()
	// Bash drops a line whose write a signal interrupts, and says so by its exit code only.
	const script = `
n=${ATTUNE_SENSOR_CURSOR:-0}
say() {
	n=$((n + 1))
	until echo "{\"payload\":{\"n\":$n},\"cursor\":$n}"; do :; done
}
trap 'stop=1' TERM
until [ "$stop" ]; do say; done
for last in 1 2 3 4 5; do say; done`
	y.put("s", "0", script)
	for edit := range 10 {
		n := len(y.sink.all())
		y.sink.payloads(t, n+200)
		pid := y.running("s")
		y.put("s", fmt.Sprint(edit+1), script)
		y.other("s", pid)
	}
	y.stop()
	for i, payload := range y.sink.payloads(t, 1) {
		if want := fmt.Sprintf(`{"n":%d}`, i+1); payload != want {
			t.Fatalf("event %d is %s, want %s; stderr %q, %d bad lines\n%s", i, payload, want, y.info("s").Stderr, y.info("s").BadLines, y.log)
		}
	}
}

func TestASensorThatIgnoresTERM(t *testing.T) {
	t.Parallel()
	y := newYard(t, func(y *yard) { y.opts.StopGrace = 300 * time.Millisecond })
	y.put("s", "1", `
trap '' TERM
setsid sleep 999 &
echo "{\"payload\":{\"pid\":$!}}"
while :; do sleep 999; done`)
	var child struct{ PID int }
	if err := json.Unmarshal([]byte(y.sink.payloads(t, 1)[0]), &child); err != nil {
		t.Fatal(err)
	}
	pid := y.running("s")
	y.put("s", "2", "sleep 999")
	until(t, "its stop", func() bool { return y.info("s").State == StateStopping || y.info("s").PID != pid })
	y.other("s", pid)
	if alive(pid) || alive(child.PID) {
		t.Errorf("alive after the stop: %d %v, %d %v", pid, alive(pid), child.PID, alive(child.PID))
	}
	if info := y.info("s"); !strings.Contains(info.LastExit, "SIGKILL") {
		t.Errorf("it shows %+v", info)
	}
}

func TestAGrandchildThatKeepsStdout(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("s", "1", "setsid sleep 999 &\nexit 3")
	y.reaches("s", StateBackoff)
	until(t, "a second start", func() bool { return y.info("s").Restarts > 0 })
	if info := y.info("s"); !strings.HasPrefix(info.LastExit, "exit 3") {
		t.Errorf("it shows %+v", info)
	}
}

func TestASilentSensorIsRestarted(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("s", "1", `while :; do echo '{"type":"heartbeat"}'; sleep 0.05; done`, func(m *manifest.Sensor, _ map[string]string) {
		m.Watchdog = manifest.Duration(8 * time.Second) // more than a start takes on a machine that others load
	})
	pid := y.running("s")
	if err := syscall.Kill(-pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	y.find("p.s").stats.alive(time.Now().Add(-time.Hour)) // as if its last line were that old
	y.other("s", pid)
	if got := testutil.ToFloat64(y.metrics.restarts.WithLabelValues("p.s", restartWatchdog)); got != 1 {
		t.Errorf("%v restarts by the watchdog counted", got)
	}
	if alive(pid) {
		t.Error("the stopped process lives")
	}
}

func TestASinkThatTakesNothing(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.sink.shut()
	const lines = 50_000
	y.put("s", "1", fmt.Sprintf(`
for ((n = 0; n < %d; n++)); do echo "{\"payload\":{\"n\":$n}}"; done
echo done >&2
for ((n = 0; n < 5000; n++)); do echo "line $n" >&2; done
sleep 999`, lines))
	y.put("chatty", "1", `while :; do echo "I say something" >&2; sleep 0.01; done`)
	until(t, "being held back", func() bool { return y.info("s").BlockedSeconds > 0.1 })
	until(t, "stderr of the others", func() bool { return len(y.info("chatty").Stderr) > 3 })
	if len(y.info("s").Stderr) > 0 {
		t.Fatal("the sensor was not held back")
	}
	y.sink.open()
	for i, payload := range y.sink.payloads(t, lines) {
		if want := fmt.Sprintf(`{"n":%d}`, i); payload != want {
			t.Fatalf("event %d is %s", i, payload)
		}
	}
	until(t, "its last line", func() bool { return slices.Contains(y.info("s").Stderr, "line 4999") })
}

// TestAStopWhileTheSinkTakesNothing edits a sensor whose lines find no taker: the process goes at once,
// its lines wait, and the next process waits for them.
func TestAStopWhileTheSinkTakesNothing(t *testing.T) {
	t.Parallel()
	y := newYard(t, func(y *yard) { y.opts.StopGrace = time.Hour })
	y.sink.shut()
	const least = 2000
	many := filepath.Join(t.TempDir(), "many")
	y.put("s", "1", fmt.Sprintf(`for ((n = 0; ; n++)); do echo "{\"payload\":{\"n\":$n}}"; if ((n == %d)); then : >%s; fi; done`, least, many))
	until(t, "being held back", func() bool {
		_, err := os.Stat(many)
		return err == nil && y.info("s").BlockedSeconds > 0.2
	})
	pid := y.running("s")
	process := y.find("p.s").life.(*process)
	y.put("s", "2", `echo '{"payload":{"n":"new"}}'; sleep 999`)
	select {
	case <-process.Process.Done():
	case <-time.After(patience):
		t.Fatal("the process does not end while its lines wait")
	}
	if state := y.info("s").State; state != StateStopping {
		t.Errorf("it is %s while its lines wait", state)
	}
	y.sink.open()
	y.other("s", pid)
	until(t, "the new process's event", func() bool {
		events := y.sink.all()
		return string(events[len(events)-1].Payload) == `{"n":"new"}`
	})
	payloads := y.sink.payloads(t, 2)
	for i, payload := range payloads[:len(payloads)-1] {
		if want := fmt.Sprintf(`{"n":%d}`, i); payload != want {
			t.Fatalf("event %d is %s", i, payload)
		}
	}
	if len(payloads) < least {
		t.Errorf("only %d events", len(payloads))
	}
}

// TestTheEndWaitsForTheLastLines stops the supervisor while the sink takes nothing.
func TestTheEndWaitsForTheLastLines(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("s", "1", `
trap 'for n in 1 2 3; do echo "{\"payload\":{\"n\":$n}}"; done; printf "{\"payload\":{\"n\":4}}"; exit 0' TERM
echo '{"payload":{"n":0}}'
while :; do sleep 0.01; done`)
	y.sink.payloads(t, 1)
	pid := y.running("s")
	y.sink.shut()
	y.end()
	until(t, "the end of the process", func() bool { return !alive(pid) })
	select {
	case <-y.ended:
		t.Fatal("it did not wait")
	default:
	}
	y.sink.open()
	<-y.ended
	want := []string{`{"n":0}`, `{"n":1}`, `{"n":2}`, `{"n":3}`, `{"n":4}`}
	if diff := cmp.Diff(want, y.sink.payloads(t, 5)); diff != "" {
		t.Error(diff)
	}
}

func TestBadLinesHarmNobody(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("s", "1", `
python3 -c '
import sys
out = sys.stdout.buffer
out.write(b"x" * (3 << 20) + b"\n")
out.write(b"{\"payload\":{\"a\":\"\xff\"}}\n")
out.write(b"{\"payload\":" + b"[" * 20000 + b"\n")
out.write(b"\n   \n")
out.write(b"{\"trigger\":\"core.other\"}\n")
out.write(b"{\"payload\":{\"n\":1}}\n")
out.write(b"{\"payload\":{\"n\":2}")
'
exit 78`)
	if got := y.sink.payloads(t, 1); len(got) != 1 || got[0] != `{"n":1}` {
		t.Error(got)
	}
	y.reaches("s", StateFailed)
	until(t, "all counted", func() bool { return y.info("s").BadLines == 5 })
	for outcome, want := range map[string]float64{lineTooLong: 1, lineBad: 4, lineEvent: 1} {
		if got := testutil.ToFloat64(y.metrics.lines.WithLabelValues("p.s", outcome)); got != want {
			t.Errorf("%s: %v, want %v", outcome, got, want)
		}
	}
	if log := y.log.String(); !strings.Contains(log, "line=1 ") || strings.Count(log, "sensor printed no event") != badLineLogBurst {
		t.Errorf("the log:\n%s", log)
	}
}

func TestAcknowledgements(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("s", "1", `
echo '{"payload":{"n":1},"event_id":"a"}'
echo '{"payload":{"n":2}}'
echo '{"events":[{"n":3},{"n":4}],"event_id":"b"}'
read -r one
read -r two
echo "{\"payload\":{\"one\":$one,\"two\":$two}}"
sleep 999`, func(m *manifest.Sensor, _ map[string]string) { m.Ack = true })
	got := y.sink.payloads(t, 5)
	sorted := strings.Contains(got[4], `{"one":{"ack":"a"},"two":{"ack":"b"}}`)
	swapped := strings.Contains(got[4], `{"one":{"ack":"b"},"two":{"ack":"a"}}`) // this sink settles in any order
	if !sorted && !swapped {
		t.Error(got[4])
	}
}

func TestUpdatesInsteadOfARestart(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("s", "1", `
echo "{\"payload\":{\"first\":$ATTUNE_SENSOR_TRIGGERS}}"
while read -r line; do echo "{\"payload\":$line}"; done`, func(m *manifest.Sensor, _ map[string]string) {
		m.Updates, m.OnDemand = true, true
	})
	y.reaches("s", StateIdle)
	y.set(store.TriggerInstance{ID: "p.t#1", Trigger: "p.t", Rules: []string{"p.r"}})
	first := y.sink.payloads(t, 1)[0]
	if !strings.HasPrefix(first, `{"first":[{"trigger":"p.t","instance":"p.t#1","parameters":{},"rules":["p.r"]`) {
		t.Error(first)
	}
	pid := y.running("s")
	y.set(store.TriggerInstance{ID: "p.t#1", Trigger: "p.t", Rules: []string{"p.r"}}, store.TriggerInstance{ID: "p.t#2", Trigger: "p.t"})
	second := y.sink.payloads(t, 2)[1]
	if !strings.HasPrefix(second, `{"type":"triggers","instances":[{"trigger":"p.t","instance":"p.t#1"`) || !strings.Contains(second, `"p.t#2"`) {
		t.Error(second)
	}
	if y.running("s") != pid {
		t.Error("it was restarted")
	}
	y.set()
	y.reaches("s", StateIdle)
	if alive(pid) {
		t.Error("it lives although nobody wants it")
	}
}

func TestASensorThatPolls(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("s", "1", `echo "{\"payload\":{\"at\":${ATTUNE_SENSOR_CURSOR:-0}}}"; echo "{\"type\":\"cursor\",\"cursor\":$((${ATTUNE_SENSOR_CURSOR:-0} + 1))}"`, func(m *manifest.Sensor, _ map[string]string) {
		m.PollInterval = manifest.Duration(20 * time.Millisecond)
	})
	got := y.sink.payloads(t, 5)
	want := []string{`{"at":0}`, `{"at":1}`, `{"at":2}`, `{"at":3}`, `{"at":4}`}
	if diff := cmp.Diff(want, got[:5]); diff != "" {
		t.Error(diff)
	}
	if info := y.info("s"); info.Restarts != 0 {
		t.Errorf("runs that were due are counted as %d restarts", info.Restarts)
	}
}

func TestASensorOfAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can run a sensor as another user")
	}
	root, err := os.MkdirTemp("", "attune-sensor-") // a folder of t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	y := newYard(t, func(y *yard) {
		y.opts.DataDir, y.opts.TempDir = filepath.Join(root, "data"), filepath.Join(root, "tmp")
		y.folder = root
	})
	y.put("s", "1", `
touch "$HOME/x" "$TMPDIR/y" && grep -q instance "$ATTUNE_SENSOR_TRIGGERS_FILE"
status=$?
echo "{\"payload\":{\"user\":\"$(id -un)\",\"status\":$status}}"
sleep 999`, func(m *manifest.Sensor, _ map[string]string) { m.RunAs = "nobody" })
	y.set(store.TriggerInstance{ID: "p.t#1", Trigger: "p.t"})
	until(t, "its event", func() bool {
		events := y.sink.all()
		return len(events) > 0 && string(events[len(events)-1].Payload) == `{"user":"nobody","status":0}`
	})
	y.put("unknown", "1", "sleep 999", func(m *manifest.Sensor, _ map[string]string) { m.RunAs = "no-such-user" })
	y.reaches("unknown", StateBackoff)
	if got := y.info("unknown").Problem; !strings.Contains(got, `there is no such user`) {
		t.Error(got)
	}
}

// TestAFloodIsHeldBack lets sensors print without end, what means nothing and to stderr.
func TestAFloodIsHeldBack(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	begin := time.Now()
	y.put("out", "1", "exec yes")
	y.put("err", "1", "exec yes >&2")
	y.put("quiet", "1", `while read -r line; do echo "{\"payload\":$line}"; done`, func(m *manifest.Sensor, _ map[string]string) { m.Updates = true })
	y.running("quiet")
	until(t, "a flood", func() bool { return y.info("out").BadLines > badLinesPerSecond && len(y.info("err").Stderr) > 0 })
	for i := range 5 {
		y.set(store.TriggerInstance{ID: "p.t#" + strconv.Itoa(i), Trigger: "p.t"})
		y.sink.payloads(t, i+1)
	}
	bad := y.info("out").BadLines
	if most := badLinesPerSecond * (2 + int64(time.Since(begin)/time.Second)); bad > most {
		t.Errorf("%d bad lines were read, want at most %d", bad, most)
	}
}

func TestRemovingASensor(t *testing.T) {
	t.Parallel()
	y := newYard(t, func(y *yard) {
		y.catalog.Sensors["p.past"] = &store.Record{Ref: "p.past", Pack: "p", Spec: &manifest.Sensor{}}
	})
	y.put("s", "1", "sleep 999")
	pid := y.running("s")
	if list := y.List(); len(list) != 1 {
		t.Errorf("a sensor that was gone before is listed: %+v", list)
	}
	y.remove("s")
	y.reaches("s", StateStopped)
	if info := y.info("s"); alive(pid) || info.Problem != "its manifest has vanished from the pack" {
		t.Errorf("alive %v, it shows %+v", alive(pid), info)
	}
	y.put("s", "1", "sleep 999")
	y.running("s")
}

func TestADatabaseThatIsAwayStopsNothing(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("s", "1", "sleep 999")
	pid := y.running("s")
	y.mu.Lock()
	y.away = errors.New("no database")
	y.mu.Unlock()
	y.put("s", "2", "sleep 999")
	until(t, "a word about it", func() bool { return strings.Contains(y.log.String(), "sensors stay as they are") })
	if info := y.info("s"); info.PID != pid || info.State != StateRunning {
		t.Errorf("it shows %+v", info)
	}
	y.mu.Lock()
	y.away = nil
	y.mu.Unlock()
	y.other("s", pid)
}

func TestLogs(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("s", "1", `for ((n = 0; n < 1500; n++)); do echo "line $n" >&2; done; read -r; printf 'the end' >&2; exit 78`, func(m *manifest.Sensor, _ map[string]string) { m.Ack = true })
	until(t, "all lines", func() bool { return slices.Contains(y.info("s").Stderr, "line 1499") })
	if _, _, ok := y.Logs(t.Context(), "p.nobody", false, 0); ok {
		t.Error("there are logs of an unknown sensor")
	}
	lines, name, ok := y.Logs(t.Context(), "p.s", false, 0)
	if !ok {
		t.Fatal("there are no logs")
	}
	n := 500
	for line := range lines {
		if want := fmt.Sprintf("line %d", n); line.Text != want || line.Number != int64(n)+1 {
			t.Fatalf("got %+v, want %q", line, want)
		}
		n++
	}
	again, same, _ := y.Logs(t.Context(), "p.s", false, 1498)
	var rest []string
	for line := range again {
		rest = append(rest, line.Text)
	}
	if !slices.Equal(rest, []string{"line 1498", "line 1499"}) || same != name || name == "" {
		t.Errorf("behind line 1498 there is %q, of %q and %q", rest, same, name)
	}
	if n != 1500 {
		t.Errorf("%d lines were kept", n-500)
	}
	ctx, cancel := context.WithCancel(t.Context())
	followed, _, _ := y.Logs(ctx, "p.s", true, 0)
	pid := y.running("s")
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var count atomic.Int64
	go func() {
		until(t, "its end", func() bool { return !alive(pid) })
		y.Restart("p.s")
		until(t, "the next, and what was kept", func() bool { return y.info("s").Restarts > 0 && count.Load() >= 1000 })
		cancel()
	}()
	for line := range followed {
		if count.Add(1); line.Text == "" {
			t.Error("an empty line")
		}
	}
	if n := count.Load(); n < 1000 {
		t.Errorf("%d lines followed", n)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	y := newYard(t, func(y *yard) { y.opts.Registerer = registry })
	y.put("s", "1", `echo oops >&2; echo '{"payload":{}}'; exec sleep 999`)
	y.put("t", "1", `exit 78`)
	y.reaches("t", StateFailed)
	y.running("s")
	y.sink.payloads(t, 1)
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	want := `
# HELP attune_sensors Sensors, by state.
# TYPE attune_sensors gauge
attune_sensors{state="backoff"} 0
attune_sensors{state="failed"} 1
attune_sensors{state="idle"} 0
attune_sensors{state="running"} 1
attune_sensors{state="starting"} 0
attune_sensors{state="stopped"} 0
attune_sensors{state="stopping"} 0
attune_sensors{state="unkillable"} 0
attune_sensors{state="waiting"} 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "attune_sensors"); err != nil {
		t.Error(err)
	}
	want = `
# HELP attune_sensor_bytes_total Bytes that sensors printed, by stream.
# TYPE attune_sensor_bytes_total counter
attune_sensor_bytes_total{sensor="p.s",stream="stderr"} 5
attune_sensor_bytes_total{sensor="p.s",stream="stdout"} 15
attune_sensor_bytes_total{sensor="p.t",stream="stderr"} 0
attune_sensor_bytes_total{sensor="p.t",stream="stdout"} 0
# HELP attune_sensor_running 1 while a process of the sensor runs.
# TYPE attune_sensor_running gauge
attune_sensor_running{sensor="p.s"} 1
attune_sensor_running{sensor="p.t"} 0
`
	until(t, "every byte counted", func() bool {
		return testutil.GatherAndCompare(registry, strings.NewReader(want), "attune_sensor_bytes_total", "attune_sensor_running") == nil
	})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if name := f.GetName(); name == "attune_sensor_last_event_timestamp_seconds" {
			// Of the sensor that never had an event nothing is told.
			if len(f.Metric) != 1 || f.Metric[0].Label[0].GetValue() != "p.s" || time.Since(time.UnixMilli(int64(f.Metric[0].Gauge.GetValue()*1000))).Abs() > time.Hour {
				t.Errorf("%s is %v", name, f.Metric)
			}
		}
	}
}

// TestTimerDelay has a firing that is an hour late, of which an hour is its jitter, and one without.
func TestTimerDelay(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	y := newYard(t, func(y *yard) { y.opts.Registerer = registry })
	y.put("s", "1", `due=$(date -u -d "-1 hour" +%Y-%m-%dT%H:%M:%SZ)
echo '{"payload":{},"due":"'"$due"'","jitter_ms":3600000}'
echo '{"payload":{},"due":"'"$due"'"}'
echo '{"payload":{}}'
sleep 999`)
	y.sink.payloads(t, 3)
	y.stop() // by when the fate of each event is known, and its delay
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "attune_timer_delay_seconds" {
			continue
		}
		h := f.GetMetric()[0].GetHistogram()
		if h.GetSampleCount() != 2 || h.GetSampleSum() < 3600 || h.GetSampleSum() > 2*3600-600 {
			t.Errorf("%d firings, %v seconds in all, want 2 that are an hour late together", h.GetSampleCount(), h.GetSampleSum())
		}
		return
	}
	t.Error("there is no attune_timer_delay_seconds")
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "Options.") {
		t.Errorf("got %v", err)
	}
}

// TestStartAndStopUnderStress ends supervisors at any moment of their sensors' lives.
func TestStartAndStopUnderStress(t *testing.T) {
	t.Parallel()
	for round := range 20 {
		y := newYard(t, func(y *yard) { y.opts.StopGrace = time.Second })
		for i := range 6 {
			script := []string{"sleep 999", "exit 1", `while :; do echo '{"payload":{}}'; done`}[i%3]
			y.put("s"+strconv.Itoa(i), "1", script)
		}
		for i := range 3 {
			y.put("s"+strconv.Itoa(i), strconv.Itoa(round+2), "sleep 999")
			y.Restart("p.s" + strconv.Itoa(5-i))
		}
		until(t, "something to end", func() bool { return strings.Count(y.log.String(), "\n") >= round%10 })
		y.stop()
		for _, i := range y.List() {
			if i.State != StateStopped || i.PID != 0 {
				t.Fatalf("round %d: after the end %+v", round, i)
			}
		}
	}
}

func BenchmarkIngest(b *testing.B) {
	line := []byte(`{"trigger":"p.t","payload":{"n":12345,"text":"` + strings.Repeat("x", 150) + `"}}`)
	b.SetBytes(int64(len(line)))
	src := one()
	for b.Loop() {
		if _, err := parseLine(line, src); err != nil {
			b.Fatal(err)
		}
	}
}

// countingSink takes everything at once.
type countingSink struct {
	left atomic.Int64
	none chan struct{}
}

func (s *countingSink) SubmitAsync(_ context.Context, _ store.NewEvent, done func(store.StoredEvent, error)) error {
	done(store.StoredEvent{}, nil)
	if s.left.Add(-1) == 0 {
		close(s.none)
	}
	return nil
}

// BenchmarkEventsOfAProcess is a real process whose events nobody keeps.
func BenchmarkEventsOfAProcess(b *testing.B) {
	sink := &countingSink{none: make(chan struct{})}
	sink.left.Store(int64(b.N))
	y := newYard(b, func(y *yard) { y.opts.Sink = sink })
	b.ResetTimer()
	y.put("s", "1", fmt.Sprintf(`yes '{"payload":{"n":12345,"text":"%s"}}' | head -n %d; sleep 999`, strings.Repeat("x", 150), b.N))
	<-sink.none
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// A process tells under which lease its lines are events, and is stopped when the Sink says that it is
// another node's.
func TestLinesUnderALostLease(t *testing.T) {
	t.Parallel()
	var lease atomic.Value
	lease.Store("one")
	lost := make(chan string, 1)
	y := newYard(t, func(y *yard) {
		y.opts.Holds = func(string) (string, bool) { return lease.Load().(string), true }
		y.opts.LeaseLost = func(ref string) { lost <- ref }
	})
	y.sink.refuseWith(fmt.Errorf("not stored: %w", store.ErrNotHeld))
	y.put("s", "1", "#!/bin/bash\nwhile echo '{\"payload\": {}}'; do sleep 0.1; done\n")
	if got := <-lost; got != "p.s" {
		t.Errorf("%s lost its lease", got)
	}
	y.reaches("s", StateStopped) // again, as it was in the beginning
	y.sink.refuseWith(nil)
	lease.Store("two")
	y.Changed()
	y.running("s")
	y.sink.payloads(t, 1)
	if e := y.sink.all()[0]; e.Lease != "two" {
		t.Errorf("the event came under the lease %q", e.Lease)
	}
}
