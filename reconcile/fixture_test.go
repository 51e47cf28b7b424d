package reconcile

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// patience is how long a test waits for what must come; it only matters when it does not.
const patience = 60 * time.Second

// TestMain fixes the seed of the property tests, so that a run tells the same twice; -rapid.seed tries
// others.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{"rapid.seed": "1", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	storetest.Main(m)
}

// tree is a folder that a test writes to.
type testTree struct {
	t   testing.TB
	dir string
}

func newTree(t testing.TB) *testTree {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "packs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return &testTree{t, dir}
}

func (f *testTree) path(name string) string { return filepath.Join(f.dir, name) }

func (f *testTree) do(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// write writes a file in place; a script gets the x bit.
func (f *testTree) write(name, content string) {
	f.t.Helper()
	f.do(os.MkdirAll(filepath.Dir(f.path(name)), 0o755))
	mode := os.FileMode(0o644)
	if strings.HasSuffix(name, ".sh") {
		mode = 0o755
	}
	f.do(os.WriteFile(f.path(name), []byte(content), mode))
	if info, err := os.Stat(f.path(name)); err == nil && info.Mode().Perm() != mode {
		f.do(os.Chmod(f.path(name), mode)) // the umask is the process's, and not this test's to set
	}
}

// replace writes a file as editors do: beside it, then renamed into place.
func (f *testTree) replace(name, content string) {
	f.t.Helper()
	temporary := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".new")
	f.write(temporary, content)
	if strings.HasSuffix(name, ".sh") {
		f.do(os.Chmod(f.path(temporary), 0o755))
	}
	f.do(os.Rename(f.path(temporary), f.path(name)))
}

func (f *testTree) remove(name string) {
	f.t.Helper()
	f.do(os.RemoveAll(f.path(name)))
}

func (f *testTree) rename(from, to string) {
	f.t.Helper()
	f.do(os.Rename(f.path(from), f.path(to)))
}

// pack writes a whole pack with one component of each kind.
func (f *testTree) pack(ref string) {
	f.t.Helper()
	f.write(ref+"/actions/act.sh", "#!/bin/bash\necho "+ref+"\n")
	f.write(ref+"/actions/act.yaml", "name: act\nrunner_type: shell\nentry_point: act.sh\nparameters:\n  text: {type: string}\n")
	f.write(ref+"/triggers/tick.yaml", "name: tick\npayload_schema:\n  n: {type: integer}\n")
	f.write(ref+"/sensors/sense.sh", "#!/bin/bash\nsleep 1000\n")
	f.write(ref+"/sensors/sense.yaml", "name: sense\nrunner_type: shell\nentry_point: sense.sh\ntrigger_types: ["+ref+".tick]\n")
	f.write(ref+"/rules/rule.yaml", "name: rule\ntrigger: {ref: "+ref+".tick}\naction: {ref: "+ref+".act, parameters: {text: \"{{ event.payload.n }}\"}}\n")
	f.write(ref+"/pack.yaml", "ref: "+ref+"\nlabel: "+ref+"\nversion: 1.0.0\n")
}

func quietLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

// lines collects what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// bench is a reconciler at work on a tree and a database of its own.
type bench struct {
	*testTree
	store     *store.Store
	url       string
	state     string
	revisions *Revisions
	registry  *prometheus.Registry
	log       *lines
	options   func(*Options)
	prepare   func(*Reconciler)

	*Reconciler
	mu      sync.Mutex
	applied [][]string // packs of each announcement
	stop    func()
}

// setup makes the bench; start starts it.
func setup(t testing.TB) *bench {
	t.Helper()
	b := &bench{testTree: newTree(t), state: filepath.Join(t.TempDir(), "revisions"), log: &lines{}}
	b.url = storetest.NewURL(t)
	b.store = storetest.Open(t, b.url)
	revisions, err := NewRevisions(b.state, b.store, quietLogger())
	b.do(err)
	b.revisions = revisions
	t.Cleanup(func() {
		if b.stop != nil {
			b.stop()
		}
		b.revisions.Close()
		if err := removeTree(b.state); err != nil {
			t.Error(err)
		}
	})
	return b
}

// start runs a new reconciler and waits until it is ready.
func (b *bench) start() {
	b.t.Helper()
	b.launch()
	select {
	case <-b.Ready():
	case <-time.After(patience):
		b.t.Fatalf("not ready; log:\n%s", b.log)
	}
}

// launch runs a new reconciler without waiting for it.
func (b *bench) launch() {
	b.t.Helper()
	b.registry = prometheus.NewRegistry()
	opts := Options{
		Directories: []string{b.dir}, Store: b.store, Revisions: b.revisions, Version: "1.0.0",
		Logger:     slog.New(slog.NewTextHandler(b.log, nil)),
		Registerer: b.registry,
		Resync:     time.Hour, // what is found is found by watching, unless a test says otherwise
		Applied: func(_ int64, packs []string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.applied = append(b.applied, packs)
		},
	}
	if b.options != nil {
		b.options(&opts)
	}
	r, err := New(opts)
	b.do(err)
	if b.prepare != nil {
		b.prepare(r)
	}
	b.Reconciler = r
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	b.stop = func() {
		cancel()
		b.stop = nil
		if err := <-ended; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	}
}

// quiet changes how long a pack is waited for that is being written, also one that is waited for now.
func (b *bench) quiet(window time.Duration) {
	b.watcher.mu.Lock()
	b.watcher.windows.quiet = window
	b.watcher.mu.Unlock()
	b.signal()
}

// applications is how often something was applied.
func (b *bench) applications() [][]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.applied)
}

func (b *bench) catalog() *store.Catalog {
	b.t.Helper()
	c, err := b.store.Catalog(b.t.Context(), nil)
	b.do(err)
	return c
}

// await waits until a condition holds of the catalog.
func (b *bench) await(what string, holds func(c *store.Catalog) bool) {
	b.t.Helper()
	awaitCondition(b.t, what, func() bool { return holds(b.catalog()) }, func() string { return b.log.String() })
}

// awaitCondition looks again and again, until the patience is at its end.
func awaitCondition(t testing.TB, what string, holds func() bool, why func() string) {
	t.Helper()
	const between = 5 * time.Millisecond
	ticker := time.NewTicker(between)
	defer ticker.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("waited in vain for: %s\n%s", what, why())
		}
	}
}

// reload asks for a pass and waits for it.
func (b *bench) reload() *Report {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	report, err := b.Reload(ctx, "tester")
	b.do(err)
	return report
}

// metric is the value of a metric, with its label's value where it has one.
func (b *bench) metric(name, label string) float64 {
	b.t.Helper()
	families, err := b.registry.Gather()
	b.do(err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if label != "" && (len(m.GetLabel()) == 0 || m.GetLabel()[0].GetValue() != label) {
				continue
			}
			switch {
			case m.GetGauge() != nil:
				return m.GetGauge().GetValue()
			case m.GetCounter() != nil:
				return m.GetCounter().GetValue()
			case m.GetHistogram() != nil:
				return float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	b.t.Fatalf("no metric %s %s", name, label)
	return 0
}

// steps are the steps of a plan as lines.
func steps(p *Plan) []string {
	lines := []string{}
	for _, one := range p.Packs {
		for _, s := range one.Steps {
			line := s.line()
			if s.Files {
				line += " (files)"
			}
			for _, f := range s.Fields {
				line += " " + f.Field
			}
			if s.Consequence != "" && s.Consequence != consequenceNone {
				line += " => " + s.Consequence
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// texts are findings as lines.
func texts(errs manifest.Errors) []string {
	lines := []string{}
	for _, e := range errs {
		lines = append(lines, string(e.Severity)+": "+e.Error())
	}
	return lines
}

// launchUnwatched runs a reconciler on a machine that has no inotify instance left.
func (b *bench) launchUnwatched() {
	b.t.Helper()
	b.prepare = func(r *Reconciler) {
		r.watcher.open = func() (*fsnotify.Watcher, error) { return nil, unix.EMFILE }
	}
	b.launch()
}
