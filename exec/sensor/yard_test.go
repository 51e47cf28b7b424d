package sensor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// patience bounds what should take milliseconds, on a machine that others load.
const patience = 60 * time.Second

// yard is a Supervisor with real processes, and stand-ins for everything else.
type yard struct {
	t    testing.TB
	opts Options
	sink *collectingSink
	log  *logBuffer

	mu        sync.Mutex
	catalog   *store.Catalog
	dirs      map[string]string // tree digest to folder
	instances []store.TriggerInstance
	cursors   map[string]json.RawMessage
	config    map[string]any
	away      error
	folder    string // where revisions stand; empty: the test's own

	*Supervisor
	end   context.CancelFunc
	ended chan struct{}
}

// newYard makes a yard; change may change what its Supervisor is made of.
func newYard(t testing.TB, change ...func(*yard)) *yard {
	t.Helper()
	y := &yard{
		t: t, sink: newCollectingSink(), log: &logBuffer{}, dirs: map[string]string{}, cursors: map[string]json.RawMessage{},
		catalog: &store.Catalog{Packs: map[string]*store.PackRow{}, Sensors: map[string]*store.Record{}},
		ended:   make(chan struct{}),
	}
	y.opts = Options{
		Runner: shared.runner, Interpreters: shared.interpreters, Catalogs: y, Instances: y, Revisions: y, Sink: y.sink,
		PackConfig: func(string) map[string]any { y.mu.Lock(); defer y.mu.Unlock(); return y.config },
		Secret: func(name string) (string, error) {
			if name == "key" {
				return "open sesame", nil
			}
			return "", fmt.Errorf("there is no secret %q", name)
		},
		DataDir: filepath.Join(t.TempDir(), "data"), TempDir: filepath.Join(t.TempDir(), "tmp"),
		Binary: "/usr/bin/attune", LogLevel: "info", StopGrace: 5 * time.Second,
		Logger: slog.New(slog.NewTextHandler(y.log, nil)), Registerer: prometheus.NewRegistry(),
	}
	for _, c := range change {
		c(y)
	}
	s, err := New(y.opts)
	if err != nil {
		t.Fatal(err)
	}
	y.Supervisor = s
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	y.end = cancel
	go func() {
		defer close(y.ended)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		y.sink.open()
		y.stop()
	})
	return y
}

// stop ends the Supervisor and waits for it.
func (y *yard) stop() {
	y.end()
	<-y.ended
}

func (y *yard) Catalog(context.Context, int64) (*store.Catalog, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.catalog, y.away
}

func (y *yard) TriggerInstances(_ context.Context, triggers []string) ([]store.TriggerInstance, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	var found []store.TriggerInstance
	for _, i := range y.instances {
		for _, trigger := range triggers {
			if i.Trigger == trigger {
				found = append(found, i)
			}
		}
	}
	return found, y.away
}

func (y *yard) SensorCursor(_ context.Context, sensor string) (json.RawMessage, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.cursors[sensor], y.away
}

func (y *yard) SetSensorCursor(_ context.Context, sensor, _ string, cursor json.RawMessage) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.cursors[sensor] = cursor
	return y.away
}

func (y *yard) Dir(_ context.Context, _ int64, treeDigest string) (string, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.dirs[treeDigest], nil
}

// put puts a sensor of pack p into force: its script, and other files of the pack by their paths.
// Another digest is another restart key.
func (y *yard) put(name, digest, script string, change ...func(*manifest.Sensor, map[string]string)) {
	y.t.Helper()
	spec := &manifest.Sensor{
		Header:       manifest.Header{Ref: "p." + name, Pack: "p", Name: name, Enabled: true},
		Runner:       manifest.Runner{RunnerType: manifest.RuntimeShell, Interpreter: "bash", EntryPoint: name + ".sh"},
		TriggerTypes: []string{"p.t"},
	}
	files := map[string]string{}
	for _, c := range change {
		c(spec, files)
	}
	files["sensors/"+spec.EntryPoint] = script
	dir := filepath.Join(y.folder, name+digest)
	if y.folder == "" {
		dir = y.t.TempDir()
	}
	for path, content := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			y.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			y.t.Fatal(err)
		}
		// Whatever the umask is, revisions can be read by all.
		for ; len(path) >= len(dir); path = filepath.Dir(path) {
			if err := os.Chmod(path, 0o755); err != nil {
				y.t.Fatal(err)
			}
		}
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.dirs[name+digest] = dir
	y.replace(spec.Ref, &store.Record{
		Kind: manifest.KindSensor, Ref: spec.Ref, Pack: "p", Enabled: true, Present: true, ManifestEnabled: true,
		Digest: digest, FilesDigest: "files", TreeDigest: name + digest, Spec: spec,
	})
}

// remove takes a sensor's files away.
func (y *yard) remove(name string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	r := *y.catalog.Sensors["p."+name]
	r.Enabled, r.Present = false, false
	y.replace(r.Ref, &r)
}

// replace makes a new catalog, as catalogs never change.
func (y *yard) replace(ref string, r *store.Record) {
	c := &store.Catalog{Generation: y.catalog.Generation + 1, Packs: y.catalog.Packs, Triggers: y.catalog.Triggers, Sensors: maps.Clone(y.catalog.Sensors)}
	c.Sensors[ref] = r
	y.catalog = c
	if y.Supervisor != nil {
		y.Changed()
	}
}

// set replaces the trigger instances.
func (y *yard) set(instances ...store.TriggerInstance) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.instances = instances
	y.Changed()
}

func (y *yard) info(name string) Info {
	for _, i := range y.List() {
		if i.Ref == "p."+name {
			return i
		}
	}
	return Info{}
}

// until waits for a condition.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to %s", what)
		}
		<-tick.C
	}
}

// running waits for a sensor to run, and gives its pid.
func (y *yard) running(name string) int {
	y.t.Helper()
	y.reaches(name, StateRunning)
	return y.info(name).PID
}

func (y *yard) reaches(name string, state State) {
	y.t.Helper()
	deadline := time.Now().Add(patience)
	for y.info(name).State != state {
		if time.Now().After(deadline) {
			y.t.Fatalf("sensor %s does not get %s: %+v\n%s", name, state, y.info(name), y.log)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// other waits for a process that is not the one of the pid.
func (y *yard) other(name string, pid int) {
	y.t.Helper()
	until(y.t, "another process of "+name, func() bool {
		i := y.info(name)
		return i.State == StateRunning && i.PID != pid
	})
}

// collectingSink keeps what it gets, and can be shut.
type collectingSink struct {
	mu      sync.Mutex
	events  []store.NewEvent
	gate    chan struct{} // closed: open
	refuse  error
	onEvent func(store.NewEvent)
	more    chan struct{}
}

func newCollectingSink() *collectingSink {
	s := &collectingSink{gate: make(chan struct{}), more: make(chan struct{}, 1)}
	close(s.gate)
	return s
}

func (s *collectingSink) SubmitAsync(ctx context.Context, e store.NewEvent, done func(store.StoredEvent, error)) error {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	select {
	case <-gate:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	err := s.refuse
	if err == nil {
		s.events = append(s.events, e)
		if s.onEvent != nil {
			s.onEvent(e)
		}
	}
	s.mu.Unlock()
	token(s.more)
	go done(store.StoredEvent{}, err)
	return nil
}

// refuseWith has the events to come refused; nil: they are taken again.
func (s *collectingSink) refuseWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = err
}

func (s *collectingSink) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = make(chan struct{})
}

func (s *collectingSink) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.gate:
	default:
		close(s.gate)
	}
}

func (s *collectingSink) all() []store.NewEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clip(s.events)
}

// payloads waits for n events and gives their payloads.
func (s *collectingSink) payloads(t testing.TB, n int) []string {
	t.Helper()
	timeout := time.After(patience)
	for {
		if events := s.all(); len(events) >= n {
			payloads := make([]string, len(events))
			for i, e := range events {
				payloads[i] = string(e.Payload)
			}
			return payloads
		}
		select {
		case <-s.more:
		case <-timeout:
			t.Fatalf("%d events came, want %d: %v", len(s.all()), n, s.all())
		}
	}
}

type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
