package worker

import (
	"encoding/json"
	"path/filepath"
	"sync"
	"testing"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/environment"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// warmth counts what became of starts.
type warmth struct {
	mu       sync.Mutex
	outcomes map[string]int
}

func (w *warmth) add(kind, outcome string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.outcomes == nil {
		w.outcomes = map[string]int{}
	}
	w.outcomes[kind+" "+outcome]++
}

// warm is how many of a kind came from a parent.
func (w *warmth) warm(kind string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.outcomes[kind+" "+child.WarmStarted]
}

func (m *machine) warm(seen *warmth) *child.Warm {
	m.t.Helper()
	w, err := child.NewWarm(child.WarmOptions{
		Runner: m.runner, Dir: filepath.Join(m.state, "warm"), Logger: m.logger(), Started: seen.add,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return w
}

// A warm attempt is one like any other: parameters, secrets, results, timeouts.
func TestWarm(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	python := func(a *manifest.Action) {
		a.RunnerType, a.Interpreter, a.EntryPoint, a.Warm = manifest.RuntimePython, "", a.Name+".py", true
	}
	greet := m.action("greet", "import json, os, sys\np = json.load(sys.stdin)\nprint(json.dumps({'hello': p['name'], 'variable': os.environ['ATTUNE_ACTION_NAME'], 'attempt': os.environ['ATTUNE_ATTEMPT'], 'tmp': os.path.isdir(os.environ['TMPDIR'])}))", edit(python))
	slow := m.action("slow", "import time\nprint('begun')\ntime.sleep(300)", edit(python), edit(func(a *manifest.Action) { a.Timeout = manifest.Duration(200e6) }))
	shell := m.action("shell", `echo "$ATTUNE_ACTION_NAME" >&2; exit 3`, edit(func(a *manifest.Action) { a.Warm = true }))
	cold := m.action("cold", "exit 0")
	seen := new(warmth)
	m.run(func(o *Options) { o.Starter = m.warm(seen) })
	for _, name := range []string{"Ann", "Bob", "it's"} {
		eventually(t, "a greeting is warm", func() bool {
			before := seen.warm(child.WarmPython)
			parameters, err := json.Marshal(map[string]string{"name": name})
			if err != nil {
				t.Fatal(err)
			}
			e := m.do(greet, string(parameters))
			m.want(e, store.StatusSucceeded, "")
			var result struct {
				Hello, Variable, Attempt string
				Tmp                      bool
			}
			if err := json.Unmarshal(e.Result, &result); err != nil || result.Hello != name || result.Variable != name || result.Attempt != "1" || !result.Tmp {
				t.Fatalf("result %s: %v", e.Result, err)
			}
			return seen.warm(child.WarmPython) > before
		})
	}
	e := m.do(slow, `{}`)
	m.want(e, store.StatusTimedOut, "timed out")
	eventually(t, "a shell is warm", func() bool {
		e := m.do(shell, `{"name": "Eve"}`)
		m.want(e, store.StatusFailed, "exit 3")
		if e.Stderr != "Eve\n" || e.ExitCode == nil || *e.ExitCode != 3 {
			t.Fatalf("stderr %q, exit code %v", e.Stderr, e.ExitCode)
		}
		return seen.warm(child.WarmBash) > 0
	})
	m.want(m.do(cold, `{}`), store.StatusSucceeded, "")
}

// With Options.Warm an action need not ask for it.
func TestWarmForAll(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	action := m.action("plain", "echo hello")
	seen := new(warmth)
	m.run(func(o *Options) { o.Starter, o.Warm = m.warm(seen), true })
	eventually(t, "a start is warm", func() bool {
		m.want(m.do(action, `{}`), store.StatusSucceeded, "")
		return seen.warm(child.WarmBash) > 0
	})
}

// waits is an environment that is not there until it is.
type waits struct {
	mu    sync.Mutex
	there bool
}

func (w *waits) For(need environment.Need) (*environment.Environment, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.there {
		return nil, &environment.WaitError{Reason: "waits for the moon"}
	}
	return &environment.Environment{Path: need.Interpreter.Path, NodePath: "/modules"}, nil
}

// An attempt whose environment is not there goes back to the queue, says what it waits for, uses no
// attempt, can be cancelled, and begins as soon as somebody says that it has come.
func TestWaitsForEnvironment(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	action := m.action("plain", "echo hello")
	moon := new(waits)
	m.run(func(o *Options) { o.Environments = moon })
	ids := m.enqueue(store.NewExecution{Action: action, Parameters: json.RawMessage(`{}`)}, store.NewExecution{Action: action, Parameters: json.RawMessage(`{}`)})
	for _, id := range ids {
		eventually(t, "it says what it waits for", func() bool {
			e, attempts := m.execution(id)
			return e.Status == store.StatusScheduled && e.WaitsFor != nil && *e.WaitsFor == "waits for the moon" && len(attempts) == 0
		})
	}
	if _, err := m.store.Cancel(t.Context(), ids[1], "test"); err != nil {
		t.Fatal(err)
	}
	m.want(m.await(ids[1]), store.StatusCancelled, "")
	moon.mu.Lock()
	moon.there = true
	moon.mu.Unlock()
	if n, err := m.store.Hurry(t.Context(), "p"); err != nil || n != 1 {
		t.Errorf("hurried %d: %v", n, err)
	}
	e := m.await(ids[0])
	m.want(e, store.StatusSucceeded, "")
	if e.WaitsFor != nil || e.Attempt != 1 {
		t.Errorf("waits for %v, attempt %d", e.WaitsFor, e.Attempt)
	}
}
