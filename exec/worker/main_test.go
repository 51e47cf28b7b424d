package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// patience is how long a test waits for what should come at once: a busy machine is no failure.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	// A locale that is named here and not installed would have Python name another in its place.
	if err := os.Unsetenv("LANG"); err != nil {
		panic(err)
	}
	storetest.Main(m)
}

// pollEvery is how often a test looks again.
const pollEvery = 5 * time.Millisecond

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !condition() {
		select {
		case <-limit.C:
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

// machine is what a test's pools have in common: a database, a pack and its files.
type machine struct {
	t       testing.TB
	url     string
	store   *store.Store
	runner  *child.Runner
	found   *child.Interpreters
	pack    string // folder of the pack's files
	state   string
	actions []manifest.Component
	nodes   int
	prepare func(*Pool) // of each pool, before it runs; nil: nothing
}

// interpreters are probed once: it takes longer than most tests.
var interpreters = sync.OnceValues(func() (*child.Interpreters, error) {
	runner, err := child.NewRunner(context.Background(), child.Options{Logger: slog.New(slog.DiscardHandler), NoKeeper: true})
	if err != nil {
		return nil, err
	}
	defer runner.Close()
	return child.ProbeInterpreters(context.Background(), runner, "")
})

func newMachine(t testing.TB) *machine {
	t.Helper()
	found, err := interpreters()
	if err != nil {
		t.Fatal(err)
	}
	url := storetest.NewURL(t)
	m := &machine{t: t, url: url, store: storetest.Open(t, url), found: found, pack: t.TempDir(), state: t.TempDir()}
	if m.runner, err = child.NewRunner(t.Context(), child.Options{Logger: m.logger(), NoKeeper: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.runner.Close(); err != nil {
			t.Error(err)
		}
	})
	m.write("pack.yaml", "ref: p\n")
	return m
}

func (m *machine) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(m.t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func (m *machine) write(name, content string) {
	m.t.Helper()
	path := filepath.Join(m.pack, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// Dir is of Revisions: there is one, and it stands there.
func (m *machine) Dir(context.Context, int64, string) (string, error) { return m.pack, nil }

// action puts an action into force that runs a bash script.
func (m *machine) action(name, script string, edit ...func(*manifest.Action)) string {
	m.t.Helper()
	a := &manifest.Action{Header: manifest.Header{Ref: "p." + name, Pack: "p", Name: name, Enabled: true}}
	a.File = "actions/" + name + ".yaml"
	a.RunnerType, a.Interpreter, a.EntryPoint = manifest.RuntimeShell, "bash", name+".sh"
	a.Parameters = schema(m.t, `{"type": "object", "additionalProperties": true}`, false)
	for _, e := range edit {
		e(a)
	}
	m.write("actions/"+a.EntryPoint, script)
	m.actions = append(m.actions, a)
	m.apply()
	return a.Ref
}

func schema(t testing.TB, text string, open bool) *manifest.Schema {
	t.Helper()
	var doc any
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	s, errs := manifest.NewSchema(doc, open)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return s
}

func (m *machine) apply(disable ...store.ComponentRef) {
	m.t.Helper()
	sum := sha256.Sum256(fmt.Append(nil, len(m.actions)))
	change := store.PackChange{
		Ref: "p", Directory: "/packs", Manifest: &manifest.Pack{Ref: "p", Version: "1.0.0", Enabled: true},
		Revision: &store.NewRevision{
			Version: "1.0.0", Cause: "edit", Digest: hex.EncodeToString(sum[:]), Tree: []store.TreeEntry{},
			Content: func(string) ([]byte, error) { return nil, os.ErrNotExist },
		},
		Disable: disable,
	}
	for _, a := range m.actions {
		data, err := manifest.Encode(a)
		if err != nil {
			m.t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		change.Put = append(change.Put, store.PutComponent{Spec: a, Digest: hex.EncodeToString(sum[:]), FilesDigest: "f"})
	}
	if _, err := m.store.Apply(m.t.Context(), []store.PackChange{change}); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) options(edit ...func(*Options)) Options {
	m.nodes++
	opts := Options{
		Node: fmt.Sprintf("n%d", m.nodes), Store: m.store, Listener: m.store.NewListener(), Runner: m.runner,
		Interpreters: m.found, Revisions: m, Workers: 4, Timeout: time.Minute, StopGrace: 5 * time.Second, Drain: time.Minute,
		DataDir: filepath.Join(m.state, "data"), TempDir: filepath.Join(m.state, "tmp"), SpoolDir: filepath.Join(m.state, "spool"),
		LogLevel: "info", Logger: m.logger(),
	}
	for _, e := range edit {
		e(&opts)
	}
	return opts
}

// running is a pool that runs.
type running struct {
	*Pool
	m     *machine
	stop  func() // asks it to end, and waits
	leave func() // asks it to end
	ended chan struct{}
}

// run starts a pool, which ends with the test at the latest.
func (m *machine) run(edit ...func(*Options)) *running {
	m.t.Helper()
	return m.runWith(nil, edit...)
}

// runWith puts something between the pool and the store.
func (m *machine) runWith(wrap func(queue) queue, edit ...func(*Options)) *running {
	m.t.Helper()
	opts := m.options(edit...)
	if err := m.store.PutNode(m.t.Context(), store.Node{ID: opts.Node, Host: "h", PID: 1, Version: "1"}); err != nil {
		m.t.Fatal(err)
	}
	pool, err := New(opts)
	if err != nil {
		m.t.Fatal(err)
	}
	if wrap != nil {
		q := wrap(m.store)
		pool.queue, pool.starter.queue, pool.finisher.queue = q, q, q
	}
	if m.prepare != nil {
		m.prepare(pool)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.t.Context()))
	r := &running{Pool: pool, m: m, leave: cancel, ended: make(chan struct{})}
	listening, deaf := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := opts.Listener.Run(listening); err != nil {
			m.t.Error(err)
		}
	})
	all.Go(func() {
		if err := pool.Run(ctx); err != nil {
			m.t.Error(err)
		}
		close(r.ended)
		deaf()
	})
	r.stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
	})
	m.t.Cleanup(func() {
		pool.Hurry()
		r.stop()
	})
	return r
}

func (m *machine) enqueue(list ...store.NewExecution) []int64 {
	m.t.Helper()
	for i := range list {
		if list[i].RequestedBy == "" {
			list[i].RequestedBy = "test"
		}
	}
	ids, err := m.store.Enqueue(m.t.Context(), list)
	if err != nil {
		m.t.Fatal(err)
	}
	return ids
}

func (m *machine) execution(id int64) (*store.Execution, []store.Attempt) {
	m.t.Helper()
	e, attempts, err := m.store.Execution(m.t.Context(), id)
	if err != nil {
		m.t.Fatal(err)
	}
	return e, attempts
}

// await waits for an execution to end.
func (m *machine) await(id int64) *store.Execution {
	m.t.Helper()
	var e *store.Execution
	eventually(m.t, fmt.Sprintf("execution %d ends", id), func() bool {
		e, _ = m.execution(id)
		return e.Status.Final()
	})
	return e
}

// do queues one execution and waits for its end.
func (m *machine) do(action, parameters string) *store.Execution {
	m.t.Helper()
	return m.await(m.enqueue(store.NewExecution{Action: action, Parameters: json.RawMessage(parameters)})[0])
}

func (m *machine) want(e *store.Execution, status store.Status, text string) {
	m.t.Helper()
	message := ""
	if e.Error != nil {
		message = *e.Error
	}
	if e.Status != status || !strings.Contains(message, text) {
		m.t.Errorf("execution is %s with error %q, want %s and %q; stderr: %s", e.Status, message, status, text, e.Stderr)
	}
}

// now is the database's clock.
func (m *machine) now() (now time.Time) {
	m.t.Helper()
	if err := storetest.Connect(m.t, m.url).QueryRow(m.t.Context(), "SELECT now()").Scan(&now); err != nil {
		m.t.Fatal(err)
	}
	return now
}

// file gives a path outside the pack for scripts to leave marks at.
func (m *machine) file(name string) string { return filepath.Join(m.state, name) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// alive tells whether a process runs.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + strings.TrimSpace(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
