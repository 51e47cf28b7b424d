package daemon

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// demoPack is a pack with one of everything, in shell, which every machine has.
const demoPack = `
-- demo/pack.yaml --
ref: demo
label: Demo
version: 1.0.0
-- demo/actions/greet.yaml --
name: greet
label: Greet
runner_type: shell
entry_point: greet.sh
parameters:
  name: {type: string, required: true}
  times: {type: integer, default: 1, minimum: 1}
  token: {type: string, secret: true}
-- demo/actions/greet.sh --
i=0
echo "$TRACEPARENT" >&2
while [ $i -lt "$ATTUNE_ACTION_TIMES" ]; do echo "hello $ATTUNE_ACTION_NAME"; i=$((i+1)); done
-- demo/actions/slow.yaml --
name: slow
runner_type: shell
entry_point: slow.sh
parameters:
  gate: {type: string, required: true}
-- demo/actions/slow.sh --
echo first
echo problem >&2
while [ ! -e "$ATTUNE_ACTION_GATE" ]; do sleep 0.02; done
echo last
exit 3
-- demo/actions/off.yaml --
name: off
enabled: false
runner_type: shell
entry_point: greet.sh
-- demo/triggers/called.yaml --
name: called
payload_schema:
  who: {type: string, required: true}
-- demo/sensors/once.yaml --
name: once
runner_type: shell
entry_point: once.sh
trigger_types: [demo.called]
-- demo/sensors/once.sh --
echo '{"payload": {"who": "sensor"}}'
echo "I am up" >&2
while :; do sleep 1; done
-- demo/rules/on_call.yaml --
name: on_call
trigger: demo.called
when: event.payload.who != "nobody"
action: {ref: demo.greet, parameters: {name: "{{ event.payload.who }}"}}
`

// running is a daemon in this process, over a database of its own, and a client for it.
type running struct {
	*Daemon
	client  *api.Client
	packs   string
	state   string
	url     string // of the database
	signals chan os.Signal
	log     *lockedBuffer
	ended   chan struct{}
	// file is its attune.toml; empty: there is none, and it logs everything.
	file string
	// waiting, where set, runs while the daemon is built; built changes what was, before it runs.
	waiting func()
	built   func(*Daemon)
	// stop ends it and waits; wait only waits.
	stop func()
	wait func() error
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// start runs a daemon on demoPack until the test ends.
func start(t *testing.T, flags ...Flag) *running {
	t.Helper()
	dir := shortDir(t)
	r := &running{packs: filepath.Join(dir, "packs"), state: filepath.Join(dir, "state"), url: storetest.NewURL(t)}
	writePacks(t, r.packs, demoPack)
	r.run(t, flags...)
	return r
}

// run starts a daemon where a former one has ended, or for the first time.
func (r *running) run(t *testing.T, flags ...Flag) {
	t.Helper()
	home, file := t.TempDir(), r.file
	if file == "" {
		file = os.DevNull
		flags = append(flags, Flag{"log.level", "debug", "test"})
	}
	flags = append([]Flag{
		{"packs.directory", r.packs, "test"},
		{"state.directory", r.state, "test"},
		{"database.url", r.url, "test"},
		{"http.socket", filepath.Join(r.state, "a.sock"), "test"},
		{"http.listen", "127.0.0.1:0", "test"},
		{"exec.stop_grace", "2s", "test"},
	}, flags...)
	read := func() (*Config, error) {
		return FindConfig(file, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}, flags...)
	}
	config, err := read()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r.log = &lockedBuffer{}
	log, err := NewSwitchedLog(r.log, config.Log)
	if err != nil {
		t.Fatal(err)
	}
	r.signals = make(chan os.Signal, 4)
	ready := make(chan Ready, 1)
	options := Options{
		Config: config, Logger: log.Logger(), Reread: read, SetLog: log.Set,
		Version: "1.2.3", Binary: binary, Signals: r.signals, OnReady: func(i Ready) { ready <- i },
		UnsafeDatabase: true,
	}
	built := make(chan error, 1)
	go func() {
		var err error
		r.Daemon, err = New(t.Context(), options)
		built <- err
	}()
	if r.waiting != nil {
		r.waiting()
	}
	if err := <-built; err != nil {
		t.Fatalf("%v\n%s", err, r.log)
	}
	if r.built != nil {
		r.built(r.Daemon)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	r.ended = make(chan struct{})
	go func() {
		defer close(r.ended)
		done <- r.Run(ctx)
	}()
	r.wait = sync.OnceValue(func() error { return <-done })
	r.stop = func() {
		cancel()
		if err := r.wait(); err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
	}
	t.Cleanup(func() {
		r.stop()
		r.client.Close()
		if t.Failed() {
			t.Logf("log of the daemon:\n%s", r.log)
		}
	})
	if r.client, err = api.NewSocketClient(config.SocketCandidates()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("the daemon is not ready")
	}
}

// patience bounds the waiting for what has to happen, on a machine with much else to do.
const patience = 60 * time.Second

// eventually polls until check gives no problem.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-tick.C
	}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "att")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// Under root the private database has a user of its own, who has to pass through.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writePacks(t *testing.T, dir, archive string) {
	t.Helper()
	for _, f := range txtar.Parse([]byte(archive)).Files {
		name := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// collect gives an each for Output that puts the streams together.
func collect(stdout, stderr *strings.Builder) func(*api.OutputLine) error {
	return func(c *api.OutputLine) error {
		if c.Stream == "stderr" {
			stderr.WriteString(c.Text)
		} else {
			stdout.WriteString(c.Text)
		}
		return nil
	}
}

func TestEveryRoute(t *testing.T) {
	t.Parallel()
	traces := newCollector(t)
	var traceparent string
	t.Cleanup(func() { traces.checkChild(t, traceparent) }) // when the daemon has ended
	r := start(t, Flag{"trace.endpoint", traces.url, "test"})
	t.Run("status", r.testStatus)
	t.Run("components", r.testComponents)
	t.Run("sensor to execution", r.testSensorToExecution)
	t.Run("fire", r.testFire)
	t.Run("execute", r.testExecute)
	t.Run("follow and cancel", r.testFollowAndCancel)
	t.Run("streams", func(t *testing.T) { traceparent = r.testStreams(t) })
	t.Run("packs", r.testPacks)
	t.Run("tcp", r.testTCP)
	t.Run("metrics", r.testMetrics)
}

// What happens is told to who follows: an event, the execution that it leads to, its changes and its output. It
// gives what the child was told of its trace.
func (r *running) testStreams(t *testing.T) (traceparent string) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, told := make(chan string, 2), make(chan string, 100)
	follow := func(name string, stream func(ready func() error) error) {
		go func() {
			err := stream(func() error { ready <- name; return nil })
			if ctx.Err() == nil {
				told <- fmt.Sprintf("%s ended: %v", name, err)
			}
		}()
	}
	follow("executions", func(ready func() error) error {
		return r.client.StreamExecutions(ctx, api.ExecutionFilter{Action: "demo.greet"}, api.Follow[api.Execution]{
			Ready: ready, Item: func(e *api.Execution) error { told <- fmt.Sprintf("execution %d %s", e.ID, e.Status); return nil },
		})
	})
	follow("events", func(ready func() error) error {
		return r.client.StreamEvents(ctx, api.EventFilter{Trigger: "demo.called", Source: "api"}, api.Follow[api.Event]{
			Ready: ready, Item: func(e *api.Event) error { told <- fmt.Sprintf("event %d", e.ID); return nil },
		})
	})
	<-ready
	<-ready
	fired, err := r.client.Fire(ctx, "demo.called", api.Fire{Payload: json.RawMessage(`{"who": "streams"}`)})
	if err != nil || len(fired.Executions) != 1 {
		t.Fatalf("found %+v, %v", fired, err)
	}
	id := fired.Executions[0]
	missing := map[string]bool{fmt.Sprintf("event %d", fired.ID): true, fmt.Sprintf("execution %d succeeded", id): true}
	for late := time.After(patience); len(missing) > 0; {
		select {
		case said := <-told:
			if strings.Contains(said, "ended") {
				t.Fatal(said)
			}
			delete(missing, said)
		case <-late:
			t.Fatalf("never told: %v", slices.Collect(maps.Keys(missing)))
		}
	}
	var printed strings.Builder
	var last *api.ExecutionDetail
	err = r.client.StreamOutput(ctx, id, api.Follow[api.OutputLine]{Item: func(l *api.OutputLine) error {
		if l.Stream == "stdout" {
			printed.WriteString(l.Text)
		}
		last = l.Execution
		return nil
	}})
	if err != nil || printed.String() != "hello streams\n" || last == nil || last.Status != store.StatusSucceeded {
		t.Fatalf("found %q, %+v, %v", printed.String(), last, err)
	}
	return strings.TrimSpace(last.Stderr)
}

func (r *running) testStatus(t *testing.T) {
	s, err := r.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !s.Ready || len(s.Problems) != 0 || s.Version != "1.2.3" || s.PID != os.Getpid() || s.Socket == "" || s.URL == "" {
		t.Errorf("found %+v", s)
	}
	if want := (api.ComponentCounts{Actions: 2, Triggers: 1, Sensors: 1, Rules: 1}); s.Components != want {
		t.Errorf("found %+v, want %+v", s.Components, want)
	}
	if s.Database.Private || s.Database.Version == "" || s.Database.SchemaVersion == 0 || s.Database.Error != "" || s.Queue.Error != "" {
		t.Errorf("database %+v, queue %+v", s.Database, s.Queue)
	}
	if s.Reconcile.LastScan == nil || s.Reconcile.LastApply == nil || s.Reconcile.Generation == 0 || s.Reconcile.Mode != "apply" {
		t.Errorf("reconcile %+v", s.Reconcile)
	}
	if s.Workers.Workers == 0 || len(s.Interpreters) == 0 || len(s.Packs) != 1 || len(s.Sensors) != 1 {
		t.Errorf("found %+v", s)
	}
}

func (r *running) testComponents(t *testing.T) {
	ctx := t.Context()
	a, err := r.client.Action(ctx, "demo.greet")
	if err != nil {
		t.Fatal(err)
	}
	if p := a.Parameters.Properties(); len(p) != 3 || a.RunnerType != "shell" || a.EntryPoint != "greet.sh" || a.Pack != "demo" {
		t.Errorf("found %+v with %+v", a, p)
	}
	all, err := r.client.Actions(ctx, api.ComponentFilter{All: true})
	if err != nil || len(all) != 3 {
		t.Errorf("found %d actions, %v; want 3", len(all), err)
	}
	trigger, err := r.client.Trigger(ctx, "demo.called")
	if err != nil || len(trigger.Instances) != 1 || !slices.Equal(trigger.Rules, []string{"demo.on_call"}) {
		t.Errorf("found %+v, %v; want one instance of one rule", trigger, err)
	}
	rule, err := r.client.Rule(ctx, "demo.on_call")
	if err != nil || rule.When == "" || rule.Action != "demo.greet" {
		t.Errorf("found %+v, %v", rule, err)
	}
	for _, list := range []func() (int, error){
		func() (int, error) { l, err := r.client.Triggers(ctx, api.ComponentFilter{}); return len(l), err },
		func() (int, error) { l, err := r.client.Sensors(ctx, api.ComponentFilter{}); return len(l), err },
		func() (int, error) { l, err := r.client.Rules(ctx, api.ComponentFilter{}); return len(l), err },
	} {
		if n, err := list(); n != 1 || err != nil {
			t.Errorf("found %d, %v; want one", n, err)
		}
	}
}

func (r *running) testSensorToExecution(t *testing.T) {
	ctx := t.Context()
	var done []api.Execution
	eventually(t, func() (err error) {
		done, err = r.client.Executions(ctx, api.ExecutionFilter{Rule: "demo.on_call", Status: []store.Status{store.StatusSucceeded}})
		if err == nil && len(done) == 0 {
			err = errors.New("the sensor's event has not become an execution")
		}
		return err
	})
	e, err := r.client.Execution(ctx, done[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if e.Stdout != "hello sensor\n" || e.EventID == nil || *e.Trigger != "demo.called" || len(e.Attempts) != 1 || *e.ExitCode != 0 {
		t.Errorf("found %+v", e)
	}
	event, err := r.client.Event(ctx, *e.EventID)
	if err != nil || event.Source != "demo.once" || len(event.Enforcements) != 1 || event.Enforcements[0].Rule != "demo.on_call" {
		t.Errorf("found %+v, %v", event, err)
	}
	var s *api.Sensor
	eventually(t, func() (err error) { // it is counted when it is stored, and may have led to its execution before
		s, err = r.client.Sensor(ctx, "demo.once")
		if err == nil && (s.State != "running" || s.PID == nil || s.Events != 1) {
			err = fmt.Errorf("found %+v", s)
		}
		return err
	})
	eventually(t, func() error { // it says so after its event
		var lines []string
		err := r.client.SensorLogs(ctx, "demo.once", false, func(line string) error { lines = append(lines, line); return nil })
		if err == nil && !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "I am up") }) {
			err = fmt.Errorf("found log %q", lines)
		}
		return err
	})
	before := *s.PID
	if _, err := r.client.RestartSensor(ctx, "demo.once"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		now, err := r.client.Sensor(ctx, "demo.once")
		if err == nil && (now.PID == nil || *now.PID == before || now.Events == s.Events) {
			err = errors.New("the sensor was not restarted")
		}
		return err
	})
}

func (r *running) testFire(t *testing.T) {
	ctx := t.Context()
	fire := api.Fire{Payload: json.RawMessage(`{"who": "you", "big": 12345678901234567890}`), EventID: "one"}
	fired, err := r.client.Fire(ctx, "demo.called", fire)
	if err != nil {
		t.Fatal(err)
	}
	if fired.Duplicate || len(fired.Executions) != 1 || len(fired.Enforcements) != 1 || fired.Source != "api" {
		t.Errorf("found %+v, want one execution", fired)
	}
	again, err := r.client.Fire(ctx, "demo.called", fire)
	if err != nil || !again.Duplicate || again.ID != fired.ID {
		t.Errorf("the second time: found %+v, %v; want the first one's event", again, err)
	}
	if !strings.Contains(string(again.Payload), "12345678901234567890") {
		t.Errorf("a number lost its digits: %s", again.Payload)
	}
	nobody, err := r.client.Fire(ctx, "demo.called", api.Fire{Payload: json.RawMessage(`{"who": "nobody"}`)})
	if err != nil || len(nobody.Executions) != 0 {
		t.Errorf("found %+v, %v; want no execution", nobody, err)
	}
	misfit, err := r.client.Fire(ctx, "demo.called", api.Fire{})
	if err != nil || misfit.Problem == "" {
		t.Errorf("found %+v, %v; want it kept with its problem", misfit, err)
	}
	if _, err := r.client.Fire(ctx, "demo.called", api.Fire{Instance: "demo.called#0"}); !api.IsNotFound(err) {
		t.Errorf("found %v for an unknown instance", err)
	}
	events, err := r.client.Events(ctx, api.EventFilter{Trigger: "demo.called", Source: "api", Since: "1h", Limit: 2})
	if err != nil || len(events) != 2 || events[0].ID <= events[1].ID {
		t.Errorf("found %+v, %v; want two, newest first", events, err)
	}
	older, err := r.client.Events(ctx, api.EventFilter{Source: "api", Before: events[1].ID})
	if err != nil || len(older) != 1 {
		t.Errorf("found %+v, %v; want the rest", older, err)
	}
}

func (r *running) testExecute(t *testing.T) {
	ctx := t.Context()
	queued, err := r.client.Execute(ctx, api.NewExecution{Action: "demo.greet", Parameters: map[string]any{"name": "you", "times": 2, "token": "hunter2"}})
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	e, err := r.client.Output(ctx, queued.ID, true, collect(&stdout, &stderr))
	if err != nil {
		t.Fatal(err)
	}
	if e.Status != store.StatusSucceeded || stdout.String() != "hello you\nhello you\n" || e.Stdout != stdout.String() {
		t.Errorf("found %+v and output %q", e, stdout.String())
	}
	if strings.Contains(string(e.Parameters), "hunter2") || !strings.Contains(string(e.Parameters), `"times":2`) {
		t.Errorf("found parameters %s, want the secret one masked", e.Parameters)
	}
	once := api.NewExecution{Action: "demo.greet", Parameters: map[string]any{"name": "once"}}
	first, err := r.client.ExecuteOnce(ctx, "k1", once)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.client.ExecuteOnce(ctx, "k1", once); err != nil || again.ID != first.ID {
		t.Errorf("asked again with the key: found %+v, %v; want execution %d", again, err, first.ID)
	}
	if other, err := r.client.ExecuteOnce(ctx, "k2", once); err != nil || other.ID == first.ID {
		t.Errorf("with another key: found %+v, %v", other, err)
	}
	once.Parameters["name"] = "twice"
	var misused *api.Error
	if _, err := r.client.ExecuteOnce(ctx, "k1", once); !errors.As(err, &misused) || misused.Code != api.CodeConflict {
		t.Errorf("another request with the key: %v", err)
	}
	for name, parameters := range map[string]map[string]any{
		"missing": {}, "wrong type": {"name": 1}, "too small": {"name": "x", "times": 0}, "unknown": {"name": "x", "nme": "y"},
	} {
		_, err := r.client.Execute(ctx, api.NewExecution{Action: "demo.greet", Parameters: parameters})
		var problem *api.Error
		if !errors.As(err, &problem) || problem.Code != api.CodeInvalidParameters || len(problem.Errors) == 0 {
			t.Errorf("%s: found %v", name, err)
		}
	}
	var problem *api.Error
	if _, err := r.client.Execute(ctx, api.NewExecution{Action: "demo.off"}); !errors.As(err, &problem) || problem.Code != api.CodeDisabled {
		t.Errorf("found %v for a disabled action", err)
	}
	for _, missing := range []func() error{
		func() error { _, err := r.client.Execution(ctx, 1<<40); return err },
		func() error { _, err := r.client.Event(ctx, 1<<40); return err },
		func() error { _, err := r.client.Cancel(ctx, 1<<40); return err },
		func() error { _, err := r.client.Output(ctx, 1<<40, true, collect(&stdout, &stderr)); return err },
	} {
		if err := missing(); !api.IsNotFound(err) {
			t.Errorf("found %v for a number that is not there", err)
		}
	}
}

func (r *running) testFollowAndCancel(t *testing.T) {
	ctx := t.Context()
	gate := filepath.Join(t.TempDir(), "gate")
	queued, err := r.client.Execute(ctx, api.NewExecution{Action: "demo.slow", Parameters: map[string]any{"gate": gate}})
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	each := collect(&stdout, &stderr)
	e, err := r.client.Output(ctx, queued.ID, true, func(c *api.OutputLine) error {
		if strings.Contains(c.Text, "first") {
			// It came while the action still runs: only now can that end.
			if err := os.WriteFile(gate, nil, 0o600); err != nil {
				return err
			}
		}
		return each(c)
	})
	if err != nil {
		t.Fatal(err)
	}
	if e.Status != store.StatusFailed || e.ExitCode == nil || *e.ExitCode != 3 || stdout.String() != "first\nlast\n" || stderr.String() != "problem\n" {
		t.Errorf("found %+v, stdout %q, stderr %q", e, stdout.String(), stderr.String())
	}
	var problem *api.Error
	if _, err := r.client.Cancel(ctx, queued.ID); !errors.As(err, &problem) || problem.Code != api.CodeConflict {
		t.Errorf("cancelling what has ended: %v", err)
	}

	running, err := r.client.Execute(ctx, api.NewExecution{Action: "demo.slow", Parameters: map[string]any{"gate": gate + "-never"}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		now, err := r.client.Execution(ctx, running.ID)
		if err == nil && now.Status != store.StatusRunning {
			err = errors.New("it is not running")
		}
		return err
	})
	if c, err := r.client.Cancel(ctx, running.ID); err != nil || c.Status != store.StatusRunning {
		t.Errorf("found %+v, %v", c, err)
	}
	e, err = r.client.Output(ctx, running.ID, true, each)
	if err != nil || e.Status != store.StatusCancelled {
		t.Errorf("found %+v, %v; want it cancelled", e, err)
	}

	tomorrow := time.Now().Add(24 * time.Hour)
	waiting, err := r.client.Execute(ctx, api.NewExecution{Action: "demo.greet", Parameters: map[string]any{"name": "x"}, DueAt: &tomorrow})
	if err != nil {
		t.Fatal(err)
	}
	if now, err := r.client.Output(ctx, waiting.ID, false, each); err != nil || now.Status.Final() {
		t.Errorf("without following: found %+v, %v", now, err)
	}
	if _, err := r.client.Cancel(ctx, waiting.ID); err != nil {
		t.Error(err)
	}
	if now, err := r.client.Execution(ctx, waiting.ID); err != nil || now.Status != store.StatusCancelled {
		t.Errorf("found %+v, %v", now, err)
	}
}

func (r *running) testPacks(t *testing.T) {
	ctx := t.Context()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(r.packs, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	plan, err := r.client.Plan(ctx, "")
	if err != nil || len(plan.Packs) != 0 {
		t.Errorf("found %+v, %v; want an empty plan", plan, err)
	}
	write("demo/actions/new.yaml", "name: new\nrunner_type: shell\nentry_point: greet.sh\n")
	report, err := r.client.Reload(ctx, "")
	if err != nil || report.Errors.HasErrors() {
		t.Fatalf("found %+v, %v", report, err)
	}
	if _, err := r.client.Action(ctx, "demo.new"); err != nil {
		t.Errorf("a reload was answered before its action was there: %v", err)
	}
	write("demo/actions/new.yaml", "name: new\nrunner_type: shell\nentry_point: [\n")
	if _, err := r.client.Reload(ctx, "demo"); err != nil {
		t.Fatal(err)
	}
	p, err := r.client.Pack(ctx, "demo")
	if err != nil || !p.Errors.HasErrors() || p.Errors[0].Line == 0 {
		t.Errorf("found %+v, %v; want the error with its line", p, err)
	}
	a, err := r.client.Action(ctx, "demo.new")
	if err != nil || !a.Held || !a.Enabled {
		t.Errorf("found %+v, %v; want the last good one, held", a, err)
	}
	history, err := r.client.History(ctx, "demo", 1)
	if err != nil || len(history) != 1 || history[0].Number != p.Revision {
		t.Errorf("found %+v, %v; want the newest revision, %d", history, err, p.Revision)
	}
	if err := os.Remove(filepath.Join(r.packs, "demo/actions/new.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Reload(ctx, ""); err != nil {
		t.Fatal(err)
	}
	gone, err := r.client.Action(ctx, "demo.new")
	if err != nil || gone.Enabled || gone.Present {
		t.Errorf("found %+v, %v; want it disabled, and not forgotten", gone, err)
	}
}

func (r *running) testTCP(t *testing.T) {
	url := r.server.URL()
	for path, want := range map[string]int{"/-/healthy": 200, "/-/ready": 200, "/metrics": 200, "/api/v1/status": 401} {
		status, body := httpGet(t, url+path)
		if status != want {
			t.Errorf("%s: found %d %s, want %d", path, status, body, want)
		}
	}
	client, err := api.NewClient(url)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Healthy(t.Context()); err != nil {
		t.Error(err)
	}
	var problem *api.Error
	if _, err := client.Status(t.Context()); !errors.As(err, &problem) || problem.Code != api.CodeUnauthorized || !strings.Contains(problem.Hint, "attune token create") {
		t.Errorf("found %v, want a refusal that says what to do", err)
	}
	if err := r.progress(t.Context()); err != nil {
		t.Errorf("the watchdog would not be fed: %v", err)
	}
}

func httpGet(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func (r *running) testMetrics(t *testing.T) {
	problems, err := testutil.GatherAndLint(r.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, f := range families {
		found[f.GetName()] = true
		if !strings.HasPrefix(f.GetName(), "attune_") && !strings.HasPrefix(f.GetName(), "go_") && !strings.HasPrefix(f.GetName(), "process_") {
			t.Errorf("metric %s has no prefix of ours", f.GetName())
		}
	}
	for _, want := range []string{
		"attune_build_info", "attune_packs", "attune_reconcile_duration_seconds", "attune_reconcile_total", "attune_watch_mode",
		"attune_sensors", "attune_sensor_lines_total", "attune_events_total", "attune_event_latency_seconds", "attune_enforcements_total",
		"attune_executions_total", "attune_execution_duration_seconds", "attune_execution_wait_seconds", "attune_queue_depth",
		"attune_queue_oldest_seconds", "attune_workers", "attune_db_reconnects_total", "attune_db_oldest_xact_seconds",
	} {
		if !found[want] {
			t.Errorf("metric %s is missing", want)
		}
	}
}

// TestReloadOfTheConfiguration: SIGHUP puts in force what can be, names what waits for a restart in one line, and
// leaves everything as it is where the file is wrong.
func TestReloadOfTheConfiguration(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	r := &running{packs: filepath.Join(dir, "packs"), state: filepath.Join(dir, "state"), url: storetest.NewURL(t), file: filepath.Join(dir, "attune.toml")}
	writePacks(t, r.packs, `
-- demo/pack.yaml --
ref: demo
label: Demo
version: 1.0.0
conf_schema: {zone: {type: string, default: north}, n: {type: integer}}
-- demo/actions/zone.yaml --
name: zone
runner_type: shell
entry_point: zone.sh
-- demo/actions/zone.sh --
echo "zone $ATTUNE_PACK_CONFIG_ZONE"
-- demo/triggers/t.yaml --
name: t
-- demo/sensors/zone.yaml --
name: zone
runner_type: shell
entry_point: zone.sh
trigger_types: [demo.t]
-- demo/sensors/zone.sh --
echo "sensor in $ATTUNE_PACK_CONFIG_ZONE" >&2
while :; do sleep 1; done
-- other/pack.yaml --
ref: other
label: Other
version: 1.0.0
-- other/triggers/t.yaml --
name: t
-- other/sensors/stays.yaml --
name: stays
runner_type: shell
entry_point: stays.sh
trigger_types: [other.t]
-- other/sensors/stays.sh --
while :; do sleep 1; done
`)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	logged := func(text string) {
		t.Helper()
		eventually(t, func() error {
			if !strings.Contains(r.log.String(), text) {
				return fmt.Errorf("the log does not say %q", text)
			}
			return nil
		})
	}
	ctx := t.Context()
	zone := func(want string) {
		t.Helper()
		queued, err := r.client.Execute(ctx, api.NewExecution{Action: "demo.zone"})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			if done, err := r.client.Execution(ctx, queued.ID); err != nil || done.Stdout != want {
				return fmt.Errorf("found %+v, %v, want stdout %q", done, err, want)
			}
			return nil
		})
	}
	pid := func(sensor string) int {
		t.Helper()
		var found int
		eventually(t, func() error {
			s, err := r.client.Sensor(ctx, sensor)
			if err != nil || s.PID == nil {
				return fmt.Errorf("%s does not run: %v", sensor, err)
			}
			found = *s.PID
			return nil
		})
		return found
	}
	write("[log]\nlevel = \"error\"\n")
	r.run(t)
	zone("zone north\n")
	changed, stays := pid("demo.zone"), pid("other.stays")
	if text := r.log.String(); strings.Contains(text, "level=INFO") {
		t.Errorf("it says more than errors:\n%s", text)
	}

	write("[log]\nlevel = \"info\"\nformat = \"json\"\n[packs.config.demo]\nzone = \"south\"\n[retention]\nevents = \"7d\"\n[exec]\nworkers = 3\n[http]\ntls_cert = \"\"\n")
	r.signals <- syscall.SIGHUP
	logged(`"msg":"configuration read again, some of it waits for a restart","component":"daemon",` +
		`"applied":["log.format","log.level","packs.config.demo.zone","retention.events"],"waiting":["exec.workers"]}`)
	eventually(t, func() error {
		if s, err := r.client.Sensor(ctx, "demo.zone"); err != nil || s.PID == nil || *s.PID == changed {
			return fmt.Errorf("the sensor is not started anew: %v", err)
		}
		return nil
	})
	zone("zone south\n")
	if now := pid("other.stays"); now != stays {
		t.Errorf("a sensor whose input is the same was started anew: %d, then %d", stays, now)
	}
	if days := r.retention().Events; days != 7*24*time.Hour {
		t.Errorf("events are kept for %v", days)
	}
	detail, err := r.client.Pack(ctx, "demo")
	if err != nil || len(detail.Config) != 1 || detail.Config[0].Value != "south" || !strings.HasSuffix(detail.Config[0].Origin, "attune.toml:5:1") {
		t.Errorf("the pack shows %+v, %v", detail.Config, err)
	}

	// What the schema refuses is told with its place in attune.toml, and reaches nobody.
	write("[log]\nformat = \"json\"\n[packs.config.demo]\nzone = 7\n")
	r.signals <- syscall.SIGHUP
	logged(`attune.toml:4:1: cannot use packs.config.demo.zone: found 7, expected string`)
	zone("zone north\n")

	write("[log]\nformat = \"json\"\n[packs.config.demo]\nzone = \"west\n")
	r.signals <- syscall.SIGHUP
	logged(`"msg":"configuration is wrong, the one in force stays","component":"daemon","err":"` + r.file + `:4:`)
	zone("zone north\n")
}

func TestSignals(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	r := &running{packs: filepath.Join(dir, "packs"), state: filepath.Join(dir, "state"), url: storetest.NewURL(t)}
	began := time.Now()
	var passed atomic.Int64
	r.built = func(d *Daemon) { d.signalTime = func() time.Time { return began.Add(time.Duration(passed.Load())) } }
	writePacks(t, r.packs, demoPack)
	// Nothing but the signal has the packs scanned, and nothing but the second one ends the drain.
	r.run(t, Flag{"reconcile.debounce", "1h", "test"}, Flag{"reconcile.max_wait", "1h", "test"},
		Flag{"reconcile.resync", "1h", "test"}, Flag{"exec.drain", "1h", "test"})
	ctx := t.Context()
	writePacks(t, r.packs, "-- demo/actions/new.yaml --\nname: new\nrunner_type: shell\nentry_point: greet.sh\n")
	r.signals <- syscall.SIGHUP
	eventually(t, func() error { _, err := r.client.Action(ctx, "demo.new"); return err })

	// An action that would run for ever, and a drain that would wait for it.
	queued, err := r.client.Execute(ctx, api.NewExecution{Action: "demo.slow", Parameters: map[string]any{"gate": filepath.Join(r.state, "never")}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		now, err := r.client.Execution(ctx, queued.ID)
		if err == nil && now.Status != store.StatusRunning {
			err = errors.New("it is not running")
		}
		return err
	})
	// What is queued from now on is for the next run.
	r.signals <- syscall.SIGTERM
	r.signals <- syscall.SIGTERM // an echo
	eventually(t, func() error {
		if !strings.Contains(r.log.String(), "msg=stopping") {
			return errors.New("it does not stop")
		}
		return nil
	})
	if s, err := r.client.Execution(ctx, queued.ID); err != nil || s.Status != store.StatusRunning {
		t.Errorf("found %+v, %v: the API has to answer while actions drain", s, err)
	}
	later, err := r.client.Execute(ctx, api.NewExecution{Action: "demo.greet", Parameters: map[string]any{"name": "x"}})
	if err != nil {
		t.Error(err)
	}
	eventually(t, func() error {
		if !strings.Contains(r.log.String(), "signal taken for the first one's echo") {
			return errors.New("one signal, sent to process and group, hurries the drain")
		}
		return nil
	})
	passed.Store(int64(sameSignal))
	r.signals <- syscall.SIGTERM
	select {
	case <-r.ended:
	case <-time.After(patience):
		t.Fatal("the second signal did not end the drain")
	}
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(r.state, "a.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket stayed: %v", err)
	}
	if _, err := os.Stat(filepath.Join(r.state, nodeFile)); !os.IsNotExist(err) {
		t.Errorf("the node did not leave in order: %v", err)
	}
	s := storetest.Open(t, r.url)
	for id, attempts := range map[int64]int{queued.ID: 1, later.ID: 0} {
		e, list, err := s.Execution(ctx, id)
		if err != nil || e.Status != store.StatusRequested || len(list) != attempts {
			t.Errorf("execution %d: found %+v with %d attempts, %v; want it queued for the next run", id, e, len(list), err)
		}
	}
}

// The private database dies under a running daemon, is started anew, and everything goes on.
func TestDatabaseDiesUnderTheDaemon(t *testing.T) {
	t.Parallel()
	r := start(t, Flag{"database.url", "", "test"})
	ctx := t.Context()
	var s *api.Status
	eventually(t, func() (err error) {
		s, err = r.client.Status(ctx)
		if err == nil && s.Sensors[0].PID == nil {
			err = errors.New("the sensor does not run")
		}
		return err
	})
	if !s.Database.Private || s.Database.PID == 0 || s.Database.Error != "" {
		t.Fatalf("found %+v, want a private database", s.Database)
	}
	sensorPID := *s.Sensors[0].PID
	if err := syscall.Kill(s.Database.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Health, metrics and lists are answered all the while.
	if status, _ := httpGet(t, r.server.URL()+"/-/healthy"); status != http.StatusOK {
		t.Errorf("alive: found %d", status)
	}
	if _, err := r.client.Actions(ctx, api.ComponentFilter{}); err != nil {
		t.Errorf("the catalog is not served without the database: %v", err)
	}
	var e *api.ExecutionDetail
	eventually(t, func() (err error) {
		e, err = r.client.Execute(ctx, api.NewExecution{Action: "demo.greet", Parameters: map[string]any{"name": "again"}})
		return err
	})
	var stdout, stderr strings.Builder
	id := e.ID
	eventually(t, func() (err error) {
		stdout.Reset()
		e, err = r.client.Output(ctx, id, true, collect(&stdout, &stderr))
		return err
	})
	if e.Status != store.StatusSucceeded || stdout.String() != "hello again\n" {
		t.Errorf("found %+v and output %q", e, stdout.String())
	}
	eventually(t, func() error {
		if status, body := httpGet(t, r.server.URL()+"/-/ready"); status != http.StatusOK {
			return errors.New(body)
		}
		return nil
	})
	now, err := r.client.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if now.Database.PID == s.Database.PID || now.Database.PID == 0 || now.Database.Error != "" {
		t.Errorf("found database %+v", now.Database)
	}
	if pid := now.Sensors[0].PID; pid == nil || *pid != sensorPID {
		t.Errorf("the sensor was restarted: found pid %v, want %d", pid, sensorPID)
	}
}

// line is a connection to the database that can be cut. Its own end is a socket in a folder: a port that is let go
// may be another's when it is wanted back.
type line struct {
	network, address string // of the server
	socket           string
	listener         net.Listener
	mu               sync.Mutex
	conns            []net.Conn
	wg               sync.WaitGroup
}

// newLine gives a line that is cut, and the URL through it.
func newLine(t *testing.T, databaseURL string) (*line, string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	l := &line{network: "tcp", address: u.Host}
	query := u.Query()
	if host := query.Get("host"); strings.HasPrefix(host, "/") {
		l.network, l.address = "unix", filepath.Join(host, ".s.PGSQL."+cmp.Or(query.Get("port"), "5432"))
		query.Del("host")
		query.Del("port")
	}
	dir := shortDir(t)
	l.socket = filepath.Join(dir, ".s.PGSQL.5432")
	u.Host = ""
	query.Set("host", dir)
	query.Set("sslmode", "disable")
	u.RawQuery = query.Encode()
	t.Cleanup(l.cut)
	return l, u.String()
}

// mend lets connections through.
func (l *line) mend(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("unix", l.socket)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	l.listener = listener
	l.mu.Unlock()
	l.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial(l.network, l.address)
			if err != nil {
				conn.Close()
				continue
			}
			l.mu.Lock()
			if l.listener != listener {
				conn.Close()
				server.Close()
			}
			l.conns = append(l.conns, conn, server)
			l.mu.Unlock()
			pump := func(to, from net.Conn) {
				io.Copy(to, from)
				to.Close()
			}
			l.wg.Go(func() { pump(server, conn) })
			l.wg.Go(func() { pump(conn, server) })
		}
	})
}

// cut ends every connection and lets none through.
func (l *line) cut() {
	l.mu.Lock()
	if l.listener != nil {
		l.listener.Close()
	}
	l.listener = nil
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns = nil
	l.mu.Unlock()
	l.wg.Wait()
}

// The database is not there yet when the daemon starts, and later goes away for a while.
func TestDatabaseComesAndGoes(t *testing.T) {
	t.Parallel()
	line, through := newLine(t, storetest.NewURL(t))
	dir := shortDir(t)
	r := &running{packs: filepath.Join(dir, "packs"), state: filepath.Join(dir, "state"), url: through}
	writePacks(t, r.packs, demoPack)
	r.waiting = func() {
		eventually(t, func() error {
			if !strings.Contains(r.log.String(), "waiting for the database") {
				return errors.New("it does not say that it waits")
			}
			return nil
		})
		line.mend(t)
	}
	r.run(t)
	ctx := t.Context()
	ready := func(want int) {
		t.Helper()
		eventually(t, func() error {
			if status, body := httpGet(t, r.server.URL()+"/-/ready"); status != want {
				return fmt.Errorf("ready: found %d %s, want %d", status, body, want)
			}
			return nil
		})
	}
	ready(http.StatusOK)
	gate := filepath.Join(dir, "gate")
	slow, err := r.client.Execute(ctx, api.NewExecution{Action: "demo.slow", Parameters: map[string]any{"gate": gate}})
	if err != nil {
		t.Fatal(err)
	}
	began, followed := make(chan struct{}), make(chan error, 1)
	var stdout, stderr strings.Builder
	go func() {
		each, first := collect(&stdout, &stderr), sync.OnceFunc(func() { close(began) })
		e, err := r.client.Output(ctx, slow.ID, true, func(c *api.OutputLine) error {
			first()
			return each(c)
		})
		if err == nil && (*e.ExitCode != 3 || stdout.String() != "first\nlast\n") {
			err = fmt.Errorf("found %+v and output %q", e, stdout.String())
		}
		followed <- err
	}()
	select {
	case <-began:
	case err := <-followed:
		t.Fatalf("following ended: %v", err)
	}
	line.cut()
	// The action ends while nobody can write that down.
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ready(http.StatusServiceUnavailable)
	if status, _ := httpGet(t, r.server.URL()+"/-/healthy"); status != http.StatusOK {
		t.Errorf("alive: found %d", status)
	}
	var problem *api.Error
	if _, err := r.client.Executions(ctx, api.ExecutionFilter{}); !errors.As(err, &problem) || problem.Code != api.CodeUnavailable {
		t.Errorf("found %v, want %s", err, api.CodeUnavailable)
	}
	if s, err := r.client.Status(ctx); err != nil || s.Ready || s.Database.Error == "" || len(s.Packs) != 1 {
		t.Errorf("found %+v, %v; want a status that says what is wrong", s, err)
	}
	if err := r.progress(ctx); err != nil {
		t.Errorf("the watchdog would not be fed while the database is away: %v", err)
	}
	line.mend(t)
	ready(http.StatusOK)
	if err := <-followed; err != nil {
		t.Errorf("following through the outage: %v", err)
	}
	writePacks(t, r.packs, "-- demo/actions/new.yaml --\nname: new\nrunner_type: shell\nentry_point: greet.sh\n")
	eventually(t, func() error { _, err := r.client.Action(ctx, "demo.new"); return err })
}

func TestStartAgainFindsTheSame(t *testing.T) {
	t.Parallel()
	r := start(t)
	before, err := r.client.Pack(t.Context(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.run(t)
	after, err := r.client.Pack(t.Context(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(before, after); diff != "" {
		t.Errorf("a restart without a change changed the pack: %s", diff)
	}
}

// Who waits for an action is told its end by the daemon that lets it finish before it stops.
func TestStopTellsTheEndOfWhatItDrained(t *testing.T) {
	t.Parallel()
	r := start(t)
	ctx := t.Context()
	gate := filepath.Join(shortDir(t), "gate")
	queued, err := r.client.Execute(ctx, api.NewExecution{Action: "demo.slow", Parameters: map[string]any{"gate": gate}})
	if err != nil {
		t.Fatal(err)
	}
	began, told := make(chan struct{}), make(chan string, 2)
	go func() {
		first := sync.OnceFunc(func() { close(began) })
		var stdout, stderr strings.Builder
		each := collect(&stdout, &stderr)
		e, err := r.client.Output(ctx, queued.ID, true, func(c *api.OutputLine) error {
			first()
			return each(c)
		})
		if err != nil || *e.ExitCode != 3 || stdout.String() != "first\nlast\n" {
			told <- fmt.Sprintf("following found %+v, %v, and output %q", e, err, stdout.String())
			return
		}
		told <- ""
	}()
	<-began
	go func() {
		ends, err := r.client.Ends(ctx, []int64{queued.ID}, queued.CreatedAt, patience)
		if err != nil || len(ends) != 1 || ends[0].Status != store.StatusFailed {
			told <- fmt.Sprintf("waiting found %v, %v", ends, err)
			return
		}
		told <- ""
	}()
	eventually(t, func() error { // a server that stops takes nobody who comes later
		if !strings.Contains(r.log.String(), "waiting for executions to end") {
			return errors.New("nobody waits yet")
		}
		return nil
	})
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	eventually(t, func() error {
		if !strings.Contains(r.log.String(), "waiting for running attempts to finish") {
			return errors.New("it does not drain")
		}
		return nil
	})
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	<-stopped
	for range 2 {
		if problem := <-told; problem != "" {
			t.Error(problem)
		}
	}
}

// A run that died left its node's id; the next one ends what that node held.
func TestFormerNodeIsEndedAtTheStart(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.stop()
	if err := os.WriteFile(filepath.Join(r.state, nodeFile), []byte("dead-node\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := storetest.Open(t, r.url)
	if err := s.PutNode(t.Context(), store.Node{ID: "dead-node", Host: "h", PID: 1, Version: "x", StartedAt: time.Now(), SeenAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	ids, err := s.Enqueue(t.Context(), []store.NewExecution{
		{Action: "demo.greet", Parameters: json.RawMessage(`{"name":"a","times":1}`), RequestedBy: "test"},
		{Action: "demo.greet", Parameters: json.RawMessage(`{"name":"b","times":1}`), RequestedBy: "test"},
	})
	if err != nil {
		t.Fatal(err)
	}
	// One was started, the other only claimed.
	claimed, err := s.Claim(t.Context(), "dead-node", 10)
	begun := slices.IndexFunc(claimed, func(c store.Claimed) bool { return c.ExecutionID == ids[0] })
	if err != nil || begun < 0 {
		t.Fatalf("claimed %+v, %v; want those that were queued", claimed, err)
	}
	if _, err := s.Start(t.Context(), []string{claimed[begun].Token}); err != nil {
		t.Fatal(err)
	}
	r.run(t)
	if e, err := r.client.Execution(t.Context(), ids[0]); err != nil || e.Status != store.StatusLost {
		t.Errorf("what had begun: found %+v, %v; want it lost at once", e, err)
	}
	eventually(t, func() error {
		e, err := r.client.Execution(t.Context(), ids[1])
		if err == nil && e.Status != store.StatusSucceeded {
			err = fmt.Errorf("what had not begun is %s, want it to run", e.Status)
		}
		return err
	})
}

func TestSecondDaemonOfAStateDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	r := start(t)
	_, err := New(t.Context(), Options{Config: r.config, Logger: slog.New(slog.DiscardHandler), Version: "x", Binary: r.opts.Binary})
	if err == nil || !strings.Contains(err.Error(), r.state) {
		t.Fatalf("found %v, want a refusal that names %s", err, r.state)
	}
	if _, err := r.client.Status(t.Context()); err != nil {
		t.Errorf("the first one was hurt: %v", err)
	}
}

func TestStartThatCannotBeMadeLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	blocked := filepath.Join(dir, "blocked")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]Flag{
		"socket":   {{"http.socket", blocked, "test"}},
		"database": {{"database.url", "postgres://nobody:hunter2@127.0.0.1:1/x?sslmode=bogus", "test"}},
		"tls":      {{"http.tls_cert", blocked, "test"}, {"http.tls_key", blocked, "test"}},
	} {
		config, err := FindConfig(os.DevNull, []string{"PATH=" + os.Getenv("PATH")}, append([]Flag{
			{"packs.directory", dir, "test"},
			{"state.directory", filepath.Join(dir, "s-"+name), "test"},
			{"database.url", storetest.NewURL(t), "test"},
			{"http.socket", filepath.Join(dir, "a.sock"), "test"},
			{"http.listen", "", "test"},
		}, flags...)...)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second try finds nothing in its way
			d, err := New(t.Context(), Options{Config: config, Logger: slog.New(slog.DiscardHandler), Binary: binary})
			if err == nil {
				d.Close()
				t.Errorf("%s: it was built", name)
			} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "another daemon") {
				t.Errorf("%s: found %v", name, err)
			}
		}
	}
}

// TestRevisionsOfRunningSensorsAreKept edits what concerns no sensor: its process goes on in the folder of
// the older revision.
func TestRevisionsOfRunningSensorsAreKept(t *testing.T) {
	t.Parallel()
	r := start(t)
	eventually(t, func() error {
		s, err := r.client.Sensor(t.Context(), "demo.once")
		if err == nil && s.PID == nil {
			err = errors.New("the sensor does not run yet")
		}
		return err
	})
	old, err := r.client.Pack(t.Context(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	writePacks(t, r.packs, "-- demo/README.md --\nedited\n")
	if _, err := r.client.Reload(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	edited, err := r.client.Pack(t.Context(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	keep, err := r.revisionsInUse(t.Context())
	if err != nil || !keep[old.Digest] || !keep[edited.Digest] || old.Digest == edited.Digest {
		t.Errorf("kept %v, %v; want %s and %s", keep, err, old.Digest, edited.Digest)
	}
}

// TestEnvironmentsAreMadeOnceTheyAreAskedFor edits what a pack requires. Nothing of it runs, and it is long until
// environments are looked through.
func TestEnvironmentsAreMadeOnceTheyAreAskedFor(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	r := &running{packs: filepath.Join(dir, "packs"), state: filepath.Join(dir, "state"), url: storetest.NewURL(t)}
	r.built = func(d *Daemon) { d.environmentPeriod = 24 * time.Hour }
	writePacks(t, r.packs, demoPack)
	r.run(t, Flag{"runtimes.python_wheels", t.TempDir(), "test"})
	writePacks(t, r.packs, "-- demo/actions/py.yaml --\nname: py\n-- demo/actions/py.py --\nprint(1)\n-- demo/requirements.txt --\nattune-nothing\n")
	if _, err := r.client.Reload(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		p, err := r.client.Pack(t.Context(), "demo")
		if err == nil && len(p.Environments) == 0 {
			err = errors.New("nothing is made of what the pack requires")
		}
		return err
	})
}

// TestQueuedExecutionsOfADisabledActionFail disables an action while one of its executions waits for its
// time: it is not started, and says why; what comes after an enable runs.
func TestQueuedExecutionsOfADisabledActionFail(t *testing.T) {
	t.Parallel()
	r := start(t)
	ctx := t.Context()
	// However late its time is noticed, nothing begins before the action is disabled.
	if _, err := r.client.Pause(ctx, api.NewPause{}); err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(100 * time.Millisecond)
	waiting, err := r.client.Execute(ctx, api.NewExecution{Action: "demo.greet", Parameters: map[string]any{"name": "ada"}, DueAt: &soon})
	if err != nil {
		t.Fatal(err)
	}
	action := api.NewSwitch{Kind: manifest.KindAction, Refs: []string{"demo.greet"}, Reason: "it floods"}
	if _, err := r.client.Switch(ctx, action, false); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		e, err := r.client.Execution(ctx, waiting.ID)
		if err == nil && e.Status != store.StatusFailed {
			err = fmt.Errorf("it is %s", e.Status)
		}
		return err
	})
	e, err := r.client.Execution(ctx, waiting.ID)
	if err != nil || e.Error == nil || !strings.Contains(*e.Error, "is disabled") || e.Stdout != "" {
		t.Errorf("found %+v, %v", e, err)
	}
	if _, err := r.client.Switch(ctx, action, true); err != nil {
		t.Fatal(err)
	}
	again, err := r.client.Execute(ctx, api.NewExecution{Action: "demo.greet", Parameters: map[string]any{"name": "ada"}})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := r.client.Output(ctx, again.ID, true, func(*api.OutputLine) error { return nil }); err != nil || e.Status != store.StatusSucceeded {
		t.Errorf("found %+v, %v", e, err)
	}
}
