package sensor

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/environment"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// maxStarts is how many sensors are stopped and started at once: a change of a library must not
	// stop two hundred of them in one moment, nor start as many interpreters.
	maxStarts = 4

	// rotationPeriod is how often it is looked whether a secret of a sensor has changed.
	rotationPeriod = 10 * time.Second

	// lookRetry is the wait after the database could not be asked.
	lookRetry = time.Second

	// reasonElsewhere is what people read of a sensor that is another node's.
	reasonElsewhere = "another node runs it"

	// lastWords is how long, after the processes are gone, the Sink may take for their last lines.
	lastWords = 10 * time.Second
)

// Sink takes events; rule.Intake is it.
type Sink interface {
	SubmitAsync(ctx context.Context, e store.NewEvent, done func(store.StoredEvent, error)) error
}

// Instances tells what the rules want of the sensors' triggers; store.Store is it.
type Instances interface {
	TriggerInstances(ctx context.Context, triggers []string) ([]store.TriggerInstance, error)
	SensorCursor(ctx context.Context, sensor string) (json.RawMessage, error)
	SetSensorCursor(ctx context.Context, sensor, lease string, cursor json.RawMessage) error
}

var _ Instances = (*store.Store)(nil)

// Catalogs gives the newest snapshot that is at least of the generation (0: whatever is newest).
type Catalogs interface {
	Catalog(ctx context.Context, generation int64) (*store.Catalog, error)
}

// Environments makes what packs require; environment.Manager is it.
type Environments interface {
	For(need environment.Need) (*environment.Environment, error)
}

// Revisions gives the folder that a revision's files stand in; reconcile.Revisions is it.
type Revisions interface {
	Dir(ctx context.Context, revisionID int64, treeDigest string) (string, error)
}

// Options are what a Supervisor needs.
type Options struct {
	Runner       *child.Runner
	Interpreters *child.Interpreters
	// Environments gives what a script runs with beside its interpreter; nil: nothing.
	Environments Environments
	Catalogs     Catalogs
	Instances    Instances
	Revisions    Revisions
	Sink         Sink
	PackConfig   func(pack string) map[string]any
	// Holds tells whether this node is the one that runs a sensor, and the token of the lease by which it
	// is; Changed is to be called when the answer changes. nil: it runs all.
	Holds func(ref string) (lease string, holds bool)
	// Elsewhere tells people why this node is not the one that runs a sensor. nil: another node runs it.
	Elsewhere func(ref string) string
	// LeaseLost hears that a lease which Holds gave turned out to be another node's. nil: nobody hears.
	LeaseLost func(ref string)
	// Blocked hears of each address that a sensor was not allowed to ask; nil: nobody counts.
	Blocked func()
	// StateChanged hears of each sensor whose state has changed for longer than a start or a stop takes. It
	// must not wait. nil: nobody hears.
	StateChanged func(Change)
	// RunAs is the user of sensors that name none. Defaults to the daemon's own.
	RunAs string
	// Secret resolves a secret by name for sensors' secret configuration.
	Secret func(name string) (string, error)
	// DataDir holds a folder for each pack that its children may write; TempDir their TMPDIRs.
	DataDir, TempDir string
	// Binary is this program's own file, given to sensors as ATTUNE_BINARY.
	Binary     string
	LogLevel   string
	StopGrace  time.Duration
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

func (o *Options) check() error {
	for name, missing := range map[string]bool{
		"Runner": o.Runner == nil, "Interpreters": o.Interpreters == nil, "Catalogs": o.Catalogs == nil,
		"Instances": o.Instances == nil, "Revisions": o.Revisions == nil, "Sink": o.Sink == nil,
		"DataDir": o.DataDir == "", "TempDir": o.TempDir == "", "Logger": o.Logger == nil,
	} {
		if missing {
			return fmt.Errorf("cannot make a supervisor of sensors: Options.%s is missing", name)
		}
	}
	return nil
}

// Info is a sensor as people see it.
type Info struct {
	Ref             string     `json:"ref"`
	State           State      `json:"state"`
	PID             int        `json:"pid"`
	StartedAt       *time.Time `json:"started_at"`
	Restarts        int64      `json:"restarts"`
	LastExit        string     `json:"last_exit"`
	Problem         string     `json:"problem"` // why it is not running
	NextStart       *time.Time `json:"next_start"`
	Events          int64      `json:"events"`
	BadLines        int64      `json:"bad_lines"`
	LastEventAt     *time.Time `json:"last_event_at"`
	EventsPerMinute float64    `json:"events_per_minute"`
	BlockedSeconds  float64    `json:"blocked_seconds"`
	Stderr          []string   `json:"stderr"` // last 20 lines
	// Revision is the digest of the revision that its process runs from, which may be older than what is
	// in force: nothing that it is made of has changed since. Empty: no process runs.
	Revision string `json:"revision"`
}

// Supervisor keeps the running sensors equal to those that the catalog wants.
type Supervisor struct {
	opts    Options
	logger  *slog.Logger
	metrics *metrics
	slots   chan struct{}
	changed chan struct{}

	mu      sync.Mutex
	sensors map[string]*sensor
	secrets map[string]string // digest of the secrets that a sensor is given, by its ref
}

// New makes a Supervisor.
func New(opts Options) (*Supervisor, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	if opts.PackConfig == nil {
		opts.PackConfig = func(string) map[string]any { return nil }
	}
	if opts.Secret == nil {
		opts.Secret = func(name string) (string, error) { return "", fmt.Errorf("there is no secret %q", name) }
	}
	s := &Supervisor{
		opts:    opts,
		logger:  opts.Logger.With("component", "sensors"),
		slots:   make(chan struct{}, maxStarts),
		changed: make(chan struct{}, 1),
		sensors: map[string]*sensor{},
		secrets: map[string]string{},
	}
	s.metrics = newMetrics(opts.Registerer, s.all)
	return s, nil
}

// Run supervises until ctx ends, then stops every sensor, reads what they wrote to its end, and
// returns when their last events are with the Sink.
func (s *Supervisor) Run(ctx context.Context) error {
	sink, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var running sync.WaitGroup
	s.Changed()
	again := time.NewTimer(0)
	again.Stop()
	defer again.Stop()
	rotation := time.NewTicker(rotationPeriod)
	defer rotation.Stop()
	failing := false
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-rotation.C:
			s.lookAtSecrets()
			continue
		case <-s.changed:
		case <-again.C:
		}
		err := s.look(ctx, func(sn *sensor) {
			sn.launch = func(ctx context.Context, sn *sensor, t *target) (life, error) { return s.launch(ctx, sink, sn, t) }
			running.Go(func() { sn.run(ctx) })
		})
		switch {
		case err == nil && failing:
			failing = false
			s.logger.Info("sensors follow the catalog again")
		case err != nil && ctx.Err() == nil:
			if !failing {
				s.logger.Warn("sensors stay as they are", "err", err)
			}
			failing = true
			again.Reset(lookRetry)
		}
	}
	// The processes have their grace and the time of a kill; after it their lines have a little more.
	limit := time.AfterFunc(s.opts.StopGrace+child.KillWait+lastWords, cancel)
	defer limit.Stop()
	running.Wait()
	s.endJournals()
	return nil
}

// Changed says that the catalog or the trigger instances may have changed.
func (s *Supervisor) Changed() { token(s.changed) }

// look compares what is wanted with the sensors there are; begin starts the goroutine of a new one.
func (s *Supervisor) look(ctx context.Context, begin func(*sensor)) error {
	catalog, err := s.opts.Catalogs.Catalog(ctx, 0)
	if err != nil {
		return fmt.Errorf("cannot load the catalog: %w", err)
	}
	instances, err := s.instances(ctx, catalog)
	if err != nil {
		return err
	}
	configs := map[string]map[string]any{}
	for _, record := range catalog.Sensors {
		config, ok := configs[record.Pack]
		if !ok {
			config = s.opts.PackConfig(record.Pack)
			configs[record.Pack] = config
		}
		var own []store.TriggerInstance
		if spec, ok := record.Spec.(*manifest.Sensor); ok {
			for _, trigger := range spec.TriggerTypes {
				own = append(own, instances[trigger]...)
			}
		}
		slices.SortFunc(own, func(a, b store.TriggerInstance) int { return cmp.Compare(a.ID, b.ID) })
		t := newTarget(record, catalog.Packs[record.Pack], own, config)
		t.hide(catalog.Triggers)
		if s.opts.Holds != nil {
			lease, holds := s.opts.Holds(record.Ref)
			t.hold(lease, holds)
			if t.reason == reasonElsewhere && s.opts.Elsewhere != nil {
				t.reason = s.opts.Elsewhere(record.Ref)
			}
		}
		t.key += s.secretsOf(t)
		s.aim(t, begin)
	}
	s.vanish(catalog)
	return nil
}

// secretsOf gives a part of the restart key: a sensor whose secret was rotated is to have the new one. One that
// cannot be read has not changed.
func (s *Supervisor) secretsOf(t *target) string {
	if t.want == hUnwanted {
		return ""
	}
	found, err := t.secrets(s.opts.Secret)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.secrets[t.record.Ref] = found
	}
	return s.secrets[t.record.Ref]
}

// lookAtSecrets has sensors looked at anew where one of their secrets is another one by now.
func (s *Supervisor) lookAtSecrets() {
	for _, sn := range s.all() {
		sn.mu.Lock()
		t := sn.target
		sn.mu.Unlock()
		if t == nil || t.want == hUnwanted {
			continue
		}
		s.mu.Lock()
		known := s.secrets[sn.ref]
		s.mu.Unlock()
		if s.secretsOf(t) != known {
			s.logger.Info("a secret of the sensor has changed, it is restarted", "sensor", sn.ref)
			s.Changed()
		}
	}
}

// aim hands a sensor its target. One that is not there and never ran is not made for it.
func (s *Supervisor) aim(t *target, begin func(*sensor)) {
	s.mu.Lock()
	sn := s.sensors[t.record.Ref]
	if sn == nil && !t.record.Present {
		s.mu.Unlock()
		return
	}
	fresh := sn == nil
	if fresh {
		sn = newSensor(t.record.Ref, s)
		s.sensors[sn.ref] = sn
	}
	s.mu.Unlock()
	sn.aim(t)
	if fresh {
		begin(sn)
	}
}

// vanish stops sensors whose records are gone. The catalog keeps all it ever had, so this is for a
// database that was replaced.
func (s *Supervisor) vanish(catalog *store.Catalog) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref, sn := range s.sensors {
		if catalog.Sensors[ref] == nil {
			sn.drop()
		}
	}
}

// instances asks for the trigger instances of all enabled sensors, by trigger.
func (s *Supervisor) instances(ctx context.Context, catalog *store.Catalog) (map[string][]store.TriggerInstance, error) {
	var triggers []string
	for _, record := range catalog.Sensors {
		if spec, ok := record.Spec.(*manifest.Sensor); ok && record.Enabled {
			triggers = append(triggers, spec.TriggerTypes...)
		}
	}
	if len(triggers) == 0 {
		return nil, nil
	}
	slices.Sort(triggers)
	list, err := s.opts.Instances.TriggerInstances(ctx, slices.Compact(triggers))
	if err != nil {
		return nil, fmt.Errorf("cannot load the trigger instances: %w", err)
	}
	byTrigger := map[string][]store.TriggerInstance{}
	for _, instance := range list {
		byTrigger[instance.Trigger] = append(byTrigger[instance.Trigger], instance)
	}
	return byTrigger, nil
}

// List gives all sensors, by ref.
func (s *Supervisor) List() []Info {
	sensors := s.all()
	list := make([]Info, len(sensors))
	for i, sn := range sensors {
		list[i] = sn.info()
	}
	return list
}

func (s *Supervisor) all() []*sensor {
	s.mu.Lock()
	sensors := make([]*sensor, 0, len(s.sensors))
	for _, sn := range s.sensors {
		sensors = append(sensors, sn)
	}
	s.mu.Unlock()
	slices.SortFunc(sensors, func(a, b *sensor) int { return cmp.Compare(a.ref, b.ref) })
	return sensors
}

func (s *Supervisor) find(ref string) *sensor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sensors[ref]
}

// Logs gives the lines of a sensor's stderr behind that number, as far as they are kept, and with follow also
// those that come; the channel is closed when ctx ends. Numbers mean something in the journal of that name alone:
// another run of the daemon has others. ok is false for an unknown sensor.
func (s *Supervisor) Logs(ctx context.Context, ref string, follow bool, after int64) (lines <-chan LogLine, journal string, ok bool) {
	sn := s.find(ref)
	if sn == nil {
		return nil, "", false
	}
	return sn.journal.follow(ctx, follow, after), sn.journal.name, true
}

// Restart restarts one sensor now, whatever its backoff; false: unknown.
func (s *Supervisor) Restart(ref string) bool {
	sn := s.find(ref)
	if sn == nil {
		return false
	}
	sn.ask()
	return true
}

func (s *Supervisor) endJournals() {
	for _, sn := range s.all() {
		sn.journal.close()
	}
}
