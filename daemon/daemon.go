package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/daemon/webhook"
	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/environment"
	"github.com/attune-io/attune/exec/postgres"
	"github.com/attune-io/attune/exec/rule"
	"github.com/attune-io/attune/exec/sensor"
	"github.com/attune-io/attune/exec/worker"
	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/seal"
	"github.com/attune-io/attune/reconcile/store"
)

// Options are what a Daemon needs.
type Options struct {
	Config  *Config
	Logger  *slog.Logger
	Version string
	// Binary is this program's own file, which is started again as keeper and as timer engine.
	Binary string
	// Signals are told to the daemon: the first SIGTERM or SIGINT drains and stops, the second hurries,
	// SIGHUP reads the configuration again and scans the packs. nil: those of the process.
	Signals <-chan os.Signal
	// Reread reads the configuration as it is now; nil: it stays as it is until a restart.
	Reread func() (*Config, error)
	// SetLog changes level and format of Logger; nil: they stay.
	SetLog func(LogConfig) error
	// OnReady, where set, is called once, when the first scan was applied; it must not wait long.
	OnReady func(Ready)
	// Inherited are the sockets that systemd has opened.
	Inherited []net.Listener
	// UnsafeDatabase turns fsync of the private PostgreSQL off: for tests only.
	UnsafeDatabase bool
}

// Daemon is one running Attune: all parts, built and wired, and the order in which they stop.
type Daemon struct {
	config *Config // as it was at the start
	// rereadConfig is the newest, of which only some is in force: see live.
	rereadConfig atomic.Pointer[Config]
	opts         Options
	log          *slog.Logger
	state        string
	node         string
	began        time.Time
	secrets      secrets
	keys         *seal.Keys
	// resealed is the key that everything was last encrypted with anew.
	resealed string
	notify   *notifier

	registry     *prometheus.Registry
	queueMetrics *queueMetrics
	runner       *child.Runner
	warm         *child.Warm // ends with the runner
	environments *environment.Manager
	interpreters *child.Interpreters
	cluster      *postgres.Cluster // nil with a database.url
	store        *store.Store
	listener     *store.Listener
	catalogs     *catalogs
	revisions    *reconcile.Revisions
	reconciler   *reconcile.Reconciler
	intake       *rule.Intake
	webhooks     *webhook.Receiver
	news         *news
	sensors      *sensor.Supervisor
	workers      *worker.Pool
	server       *api.Server
	certificate  *certificate // nil: TCP is plain
	elector      *elector
	// configs are the packs' configurations, *configured by ref.
	configs sync.Map

	// caughtUp says that the catalog was loaded after the first scan was applied.
	caughtUp atomic.Bool
	// environmentsDirty says that the packs in force may ask for others.
	environmentsDirty chan struct{}
	// environmentPeriod is how often they are looked through nevertheless.
	environmentPeriod time.Duration
	// signalTime tells when a signal comes.
	signalTime func() time.Time

	// databaseEnded says that the private PostgreSQL was stopped in its place among the others.
	databaseEnded atomic.Bool
	// undo gives back what was built, the last first.
	undo []func()
}

// spoolFolder of the state directory keeps results while the database is away.
const spoolFolder = "spool"

// New builds the daemon: state directory, children, database, and every part; what was built is given
// back when a later step fails. It waits for a database that is not there yet until ctx ends. Nothing
// is reconciled, started or served before Run; a Daemon that is never run is to be closed.
func New(ctx context.Context, opts Options) (*Daemon, error) {
	if opts.Config == nil || opts.Logger == nil || opts.Binary == "" {
		return nil, errors.New("cannot build the daemon: Options needs Config, Logger and Binary")
	}
	registry := newRegistry(opts.Version)
	opts.Logger = slog.New(countPanics(opts.Logger.Handler(), registry))
	d := &Daemon{
		config: opts.Config, opts: opts, log: opts.Logger.With("component", "daemon"), began: time.Now(),
		notify:   newNotifier(opts.Logger),
		secrets:  secrets{opts.Config.SecretsDirectory()},
		keys:     seal.New(opts.Config.KeyFile()),
		registry: registry,

		environmentsDirty: make(chan struct{}, 1),
		environmentPeriod: environmentPeriod,
		signalTime:        time.Now,
	}
	d.rereadConfig.Store(opts.Config)
	d.queueMetrics = newQueueMetrics(d.registry)
	if err := d.build(ctx); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Close gives back what New took, in reverse order. Run does it itself.
func (d *Daemon) Close() {
	for _, undo := range slices.Backward(d.undo) {
		undo()
	}
	d.undo = nil
}

// build is one straight line, and long for it: each step needs the ones before, and a reader sees the
// order of the start in one place.
func (d *Daemon) build(ctx context.Context) error {
	c := d.config
	var err error
	if d.state, err = MakeStateDirectory(c.StateDirectory()); err != nil {
		return err
	}
	socket, err := c.SocketPath()
	if err != nil {
		return err
	}
	if d.certificate, err = loadCertificate(c.HTTP, d.log, d.registry); err != nil {
		return err
	}

	if _, _, err := d.keys.Rotating(); err != nil {
		return err
	}

	// From here on children can be started; those that a dead run left are gone.
	if d.runner, err = child.NewRunner(ctx, child.Options{
		Binary: d.opts.Binary, StateDir: d.state, Logger: d.opts.Logger, Limits: child.Limits{
			Memory: c.Exec.LimitMemory, Pids: int64(c.Exec.LimitPids), CPU: c.Exec.LimitCPU,
			OpenFiles: int64(c.Exec.LimitOpenFiles), FileSize: c.Exec.LimitFileSize,
		},
	}); err != nil {
		return err
	}
	d.undo = append(d.undo, func() {
		if err := d.runner.Close(); err != nil {
			d.log.Error("children not all ended", "err", err)
		}
	})
	if run, killed := d.runner.DeadRun(); run != "" {
		d.log.Warn("a former run ended without a word", "run", run, "processes_killed", killed)
	}

	// The database takes longest: the interpreters are probed meanwhile.
	both, starting := errgroup.WithContext(ctx)
	both.Go(func() error { return d.openDatabase(starting) })
	both.Go(func() (err error) {
		d.interpreters, err = child.ProbeInterpreters(starting, d.runner, c.machine.env["PATH"])
		return err
	})
	if err := both.Wait(); err != nil {
		return err
	}
	if err := d.openToOthers(ctx); err != nil {
		return err
	}
	if err := d.join(ctx); err != nil {
		return err
	}

	d.catalogs = newCatalogs(d.store.Catalog, d.log)
	d.listener = d.store.NewListener()
	// Whether this node leads is known before anything asks.
	d.elector = newElector(d.node, d.store, d.opts.Logger, d.registry)
	if _, err := d.elector.elect(ctx); err != nil {
		return fmt.Errorf("cannot find out who leads: %w", err)
	}
	if d.revisions, err = reconcile.NewRevisions(filepath.Join(d.state, "revisions"), d.store, d.opts.Logger); err != nil {
		return err
	}
	d.undo = append(d.undo, d.revisions.Close)
	if d.reconciler, err = reconcile.New(reconcile.Options{
		Directories: c.Packs.Directories, AutoLoad: c.Packs.AutoLoad, PackConfig: c.Packs.Config, ConfigPlace: d.configPlace,
		Trust: c.Trust(), Store: d.store, Revisions: d.revisions, Interpreters: Interpreters{d.interpreters}, Seals: d.keys.Usable,
		Version:     d.opts.Version,
		Environment: environmentOf(d.opts.Binary, d.interpreters), Memory: filepath.Join(d.state, memoryFile),
		Logger: d.opts.Logger, Registerer: d.registry,
		Quiet: c.Reconcile.Debounce, MaxWait: c.Reconcile.MaxWait, Resync: c.Reconcile.Resync,
		PlanOnly: c.Reconcile.Mode == "plan", Node: d.node, Leads: d.elector.Leads,
		Applied: func(int64, []string) { d.catalogs.signal() }, Many: d.boundLoading,
	}); err != nil {
		return err
	}
	tracer, err := d.makeTracer(ctx)
	if err != nil {
		return err
	}
	d.news = newNews(d.node, d.store, d.listens, d.opts.Logger)
	if err := d.makeEnvironments(); err != nil {
		return err
	}
	if d.warm, err = child.NewWarm(child.WarmOptions{
		Runner: d.runner, Dir: filepath.Join(d.state, "warm"), Logger: d.opts.Logger, Started: newWarmMetrics(d.registry, func() (int, int) { return d.warm.Parents() }),
	}); err != nil {
		return err
	}
	blocked := newBlockedCounter(d.registry)
	if d.workers, err = worker.New(worker.Options{
		Recorded: blocked.recorded,
		Node:     d.node, Store: d.store, Listener: d.listener, Runner: d.runner, Interpreters: d.interpreters,
		Revisions: d.revisions, PackConfig: d.packConfig, Secret: d.secrets.secret, Unseal: d.keys.Open, ConfSchema: d.confSchema, Workers: c.Exec.Workers,
		Timeout: c.Exec.Timeout, OutputLimit: c.Exec.OutputLimit, StopGrace: c.Exec.StopGrace, Drain: c.Exec.Drain,
		MaxTimeout: d.maxTimeout, RunAs: c.Exec.RunAs, Starter: d.warm, Warm: c.Exec.Warm, Environments: d.environments,
		DataDir: filepath.Join(d.state, "data"), TempDir: filepath.Join(d.state, "tmp"), SpoolDir: filepath.Join(d.state, spoolFolder),
		Tracer: tracer.attempts, Binary: d.opts.Binary, LogLevel: c.Log.Level, Logger: d.opts.Logger, Registerer: d.registry,
	}); err != nil {
		return err
	}
	d.intake = rule.New(rule.Options{
		Traced: tracer.event, Store: d.store, Catalogs: d.catalogs, PackConfig: d.rulesConfig, Hand: d.workers, Chain: c.Exec.ChainLimit, Logger: d.opts.Logger, Registerer: d.registry,
	})
	if d.sensors, err = sensor.New(sensor.Options{
		Blocked: blocked.total.Inc,
		Runner:  d.runner, Interpreters: d.interpreters, Environments: d.environments, Catalogs: d.catalogs, Instances: d.store, Revisions: d.revisions,
		Sink: d.intake, Holds: d.elector.Holds, Elsewhere: d.elector.Elsewhere, LeaseLost: func(string) { d.elector.poke() }, StateChanged: d.news.sensorChanged, PackConfig: d.packConfig, RunAs: c.Exec.RunAs, Secret: d.secrets.secret,
		DataDir: filepath.Join(d.state, "data"), TempDir: filepath.Join(d.state, "tmp"),
		Binary: d.opts.Binary, LogLevel: c.Log.Level, StopGrace: c.Exec.StopGrace, Logger: d.opts.Logger, Registerer: d.registry,
	}); err != nil {
		return err
	}

	d.webhooks = webhook.New(webhook.Options{
		Catalogs: d.catalogs, Events: d.intake, Tokens: d.store, Secret: d.secrets.secret, PackConfig: d.packConfig,
		Logger: d.opts.Logger, Registerer: d.registry,
	})
	d.elector.wanted, d.elector.isEnded, d.elector.changed = d.wantedSensors, d.sensorEnded, d.sensors.Changed
	d.elector.ledChanged = func() { d.reconciler.Dirty("leader") }
	d.elector.canLead = func() bool { return d.reconciler.Status().SourceProblem == "" }

	// The addresses come last: whoever can connect is answered.
	if d.server, err = api.New(d.serverOptions(socket)); err != nil {
		return err
	}
	d.undo = append(d.undo, d.server.Close)
	return nil
}

func (d *Daemon) serverOptions(socket string) api.Options {
	opts := api.Options{
		Socket: socket, Listen: d.config.HTTP.Listen, Inherited: d.opts.Inherited, TLS: d.certificate.config(), ServesHost: d.servesHost,
		Info: api.Info{
			Version: d.opts.Version, Node: d.node, PID: os.Getpid(), StartedAt: d.began, StateDirectory: d.state,
			Directories: d.config.Packs.Directories, Interpreters: d.interpreters.All(), Trees: d.runner.Trees(),
			Database: api.DatabaseStatus{Private: d.cluster != nil, URL: redactURL(d.config.Database.URL)},
		},
		Store: d.store, Access: d.store, Catalogs: d.catalogs, Events: d.intake, Rules: d.intake, PackConfig: d.rulesConfig, Sensors: d.sensors, Workers: d.workers,
		Environments: d.environments, Webhooks: d.webhooks, Keys: d.keys,
		Reconciler: d.reconciler, Trust: d.config.Trust(), Notices: d.listener, OperatorConfig: func(pack string) map[string]any { return d.live().Packs.Config[pack] }, ConfigPlace: d.configPlace, Unready: d.unready, Degraded: d.degraded,
		Gatherer: d.registry, Registerer: d.registry, Logger: d.opts.Logger.With("component", "api"),
	}
	if d.cluster != nil {
		opts.DatabasePID = d.cluster.PID
	}
	return opts
}

// MakeStateDirectory makes the folder for what outlives a restart, and refuses one that others may
// write: who can change what is in it can run code as the daemon.
func MakeStateDirectory(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("cannot choose a state directory: there is no $HOME; set state.directory")
	}
	// Under root the private database and children with run_as have users of their own, who have to
	// pass through; what is secret lies deeper, in folders of mode 0700.
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711
	}
	info, err := os.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(dir, mode); err != nil {
			return "", fmt.Errorf("cannot make the state directory: %v; set state.directory to a folder that this user may write", err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			return "", fmt.Errorf("cannot make the state directory: %v", err)
		}
		info, err = os.Stat(dir)
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("cannot use the state directory: %v", err)
	case !info.IsDir():
		return "", fmt.Errorf("cannot use state directory %s: it is no folder", dir)
	case info.Mode().Perm()&0o022 != 0:
		return "", fmt.Errorf("cannot use state directory %s: others may write it (mode %04o); chmod go-w it", dir, info.Mode().Perm())
	}
	return dir, nil
}

// openToOthers refuses to listen where other machines could reach the daemon before anybody has said who may come
// in.
func (d *Daemon) openToOthers(ctx context.Context) error {
	if isLoopback(d.config.HTTP.Listen) {
		return nil
	}
	has, err := d.store.HasTokens(ctx)
	if err != nil {
		return err
	}
	if !has {
		return fmt.Errorf("cannot listen on %s: other machines could reach it, and there is no token yet; start once with http.listen = %q, run `attune token create NAME --scope admin`, and set http.listen back",
			d.config.HTTP.Listen, DefaultConfig().HTTP.Listen)
	}
	return nil
}

// servesHost says under which names TCP is served.
func (d *Daemon) servesHost(name string) bool {
	return d.certificate.serves(name) || slices.ContainsFunc(d.config.HTTP.Hosts, func(host string) bool { return host != "" && strings.EqualFold(host, name) })
}

const (
	// databaseFirst and databaseLast bound the wait between two tries to reach a database that is not
	// there yet, doubling.
	databaseFirst = 200 * time.Millisecond
	databaseLast  = 5 * time.Second
)

// openDatabase starts the private PostgreSQL where none is configured, connects and migrates. A
// database that is not there yet is waited for; one that refuses us is an error.
func (d *Daemon) openDatabase(ctx context.Context) error {
	url := d.config.Database.URL
	if url == "" {
		var err error
		d.cluster, err = postgres.Start(ctx, postgres.Options{
			Dir: filepath.Join(d.state, "postgres"), Runner: d.runner, Logger: d.opts.Logger, Unsafe: d.opts.UnsafeDatabase,
			Progress: d.notify.status,
		})
		if err != nil {
			return err
		}
		d.undo = append(d.undo, d.stopDatabase)
		url = d.cluster.URL()
	}
	for wait := databaseFirst; ; wait = min(2*wait, databaseLast) {
		err := d.tryDatabase(ctx, url)
		if err == nil || !store.IsTransient(err) || ctx.Err() != nil {
			return err
		}
		if wait == databaseFirst {
			d.log.Warn("waiting for the database", "err", err)
			d.notify.status("waiting for the database")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up waiting for the database: %v", err)
		case <-time.After(wait):
		}
	}
}

func (d *Daemon) tryDatabase(ctx context.Context, url string) error {
	if d.store == nil {
		opened, err := store.Open(ctx, url, store.Options{
			Pooler: d.config.Database.Pooler, Seal: d.sealParameters, Keys: d.keys, Concurrency: d.concurrencyKey, Logger: d.opts.Logger, Registerer: d.registry,
		})
		if err != nil {
			return err
		}
		d.store = opened
		d.undo = append(d.undo, opened.Close)
	}
	from, to, err := d.store.Migrate(ctx)
	if err != nil {
		return err
	}
	if from != to {
		d.log.Info("database migrated", "from", from, "to", to)
	}
	d.sealStored(ctx)
	return nil
}

// stopDatabase stops the private PostgreSQL of a daemon that was not run, or not to its end.
func (d *Daemon) stopDatabase() {
	if d.databaseEnded.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), databaseStopTimeout)
	defer cancel()
	if err := d.cluster.Stop(ctx); err != nil {
		d.log.Error("private database not stopped", "err", err)
	}
}

// databaseStopTimeout is ample for a fast stop, which has only to write what is in memory.
const databaseStopTimeout = 30 * time.Second

// join makes this daemon a node: the attempts of the run before it, if that died, are told as lost at
// once, for its children are known to be gone.
func (d *Daemon) join(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot name this node: %v", err)
	}
	d.node = newNodeID(host)
	former, err := formerNode(d.state)
	if err != nil {
		return err
	}
	if former != "" {
		// What a killed run had finished is told before its tokens become void.
		if err := worker.FlushSpool(ctx, d.store, filepath.Join(d.state, spoolFolder), d.opts.Logger); err != nil {
			return fmt.Errorf("cannot record the results of the former run: %w", err)
		}
		requeued, lost, err := d.store.LoseNode(ctx, former)
		if err != nil {
			return fmt.Errorf("cannot end the attempts of the former run: %w", err)
		}
		if len(requeued)+len(lost) > 0 {
			d.log.Warn("attempts of the former run ended", "node", former, "lost", lost, "requeued", requeued)
		}
	}
	if err := recordNode(d.state, d.node); err != nil {
		return err
	}
	if err := d.store.PutNode(ctx, store.Node{
		ID: d.node, Host: host, PID: os.Getpid(), Version: d.opts.Version, StartedAt: d.began, SeenAt: d.began,
	}); err != nil {
		return fmt.Errorf("cannot join as node %s: %w", d.node, err)
	}
	if err := d.recordInterpreters(ctx); err != nil {
		return err
	}
	if _, err := d.store.Maintain(ctx, d.retention()); err != nil {
		return fmt.Errorf("cannot prepare the database's partitions: %w", err)
	}
	return nil
}

func (d *Daemon) retention() store.Retention {
	r := d.live().Retention
	return store.Retention{
		Events: r.Events, EventsCount: r.EventsCount, Executions: r.Executions, ExecutionsCount: r.ExecutionsCount,
		Revisions: r.Revisions, RevisionsAge: r.RevisionsAge, Audit: r.Audit,
	}
}

// pruneRevisions removes the folders of revisions from which nothing runs and nothing in force would:
// whoever needs one again has it made anew. A sensor may run from an older one than what is in force,
// and so may an attempt.
func (d *Daemon) pruneRevisions(ctx context.Context) error {
	keep, err := d.revisionsInUse(ctx)
	if err != nil {
		return err
	}
	removed, err := d.revisions.Prune(keep)
	if err != nil {
		// Leftovers cost room, not correctness.
		d.log.Warn("unused revisions not all removed", "err", err)
	}
	if removed > 0 {
		d.log.Info("unused revisions removed", "count", removed)
	}
	return nil
}

// revisionsInUse gives the digests of what is in force, and of what runs here or anywhere.
func (d *Daemon) revisionsInUse(ctx context.Context) (map[string]bool, error) {
	catalog, err := d.catalogs.Catalog(ctx, 0)
	if err != nil {
		return nil, err
	}
	keep := map[string]bool{}
	for _, p := range catalog.Packs {
		keep[p.TreeDigest] = true
	}
	for _, kind := range manifest.ComponentKinds() {
		for _, r := range catalog.Records(kind) {
			keep[r.TreeDigest] = true
		}
	}
	used, err := d.store.RevisionsInUse(ctx)
	if err != nil {
		return nil, err
	}
	for _, digest := range used {
		keep[digest] = true
	}
	if d.sensors != nil {
		for _, one := range d.sensors.List() {
			keep[one.Revision] = true
		}
	}
	return keep, nil
}

// configured is the configuration of a pack, and the same as its rules see it, as long as its row and
// attune.toml are the same.
type configured struct {
	row       *store.PackRow
	live      *Config
	config    map[string]any
	referring map[string]any
}

// packConfig is the configuration of a pack: its own, what attune.toml says above that, and its
// schema's defaults for the rest; what attune.toml says and the schema refuses is left out. Nobody
// changes what it gives. References to secrets are in it as they are written: who starts a child reads them.
func (d *Daemon) packConfig(pack string) map[string]any { return d.configured(pack).config }

// rulesConfig is packConfig as the rules of the pack see it, which hand references on.
func (d *Daemon) rulesConfig(pack string) map[string]any { return d.configured(pack).referring }

// configured is asked for with each event and each attempt, so it is made once.
func (d *Daemon) configured(pack string) *configured {
	var row *store.PackRow
	if known := d.catalogs.current.Load(); known != nil {
		row = known.Packs[pack]
	}
	live := d.live()
	if row == nil || row.Manifest == nil {
		config := live.Packs.Config[pack]
		return &configured{config: config, referring: manifest.ReferringConfig(config)}
	}
	if found, ok := d.configs.Load(pack); ok && found.(*configured).row == row && found.(*configured).live == live {
		return found.(*configured)
	}
	config, _ := row.Manifest.EffectiveConfig(live.Packs.Config[pack])
	made := &configured{row: row, live: live, config: config, referring: manifest.ReferringConfig(config)}
	d.configs.Store(pack, made)
	return made
}

// confSchema says what a pack's configuration may hold, and what of it is secret.
func (d *Daemon) confSchema(pack string) *manifest.Schema {
	known := d.catalogs.current.Load()
	if known == nil || known.Packs[pack] == nil || known.Packs[pack].Manifest == nil {
		return nil
	}
	return known.Packs[pack].Manifest.ConfSchema
}

// maxTimeout bounds the timeouts of a pack's actions; 0: nothing does.
func (d *Daemon) maxTimeout(pack string) time.Duration {
	var seconds float64
	switch v := d.packConfig(pack)["max_action_timeout"].(type) {
	case int64:
		seconds = float64(v)
	case int:
		seconds = float64(v)
	case float64:
		seconds = v
	case json.Number:
		seconds, _ = v.Float64() // what is no number bounds nothing
	}
	if seconds <= 0 || seconds >= math.MaxInt64/float64(time.Second) {
		return 0
	}
	return time.Duration(seconds * float64(time.Second))
}

// unready says why the daemon is not ready; nothing: it is.
func (d *Daemon) unready(ctx context.Context) []string {
	var reasons []string
	select {
	case <-d.reconciler.Ready():
		// Who is told that it is ready must find what was applied.
		if !d.caughtUp.Load() {
			if err := d.catalogs.refresh(ctx); err != nil {
				reasons = append(reasons, "what was applied is not loaded yet: "+err.Error())
			} else {
				d.caughtUp.Store(true)
			}
		}
	default:
		reason := "the first scan of the packs is not applied yet"
		if status := d.reconciler.Status(); status.Error != "" {
			reason += ": " + status.Error
		} else if status.SourceProblem != "" {
			reason += ": " + status.SourceProblem
		}
		reasons = append(reasons, reason)
	}
	if err := d.store.Ping(ctx); err != nil {
		reasons = append(reasons, fmt.Sprintf("the database does not answer: %v", err))
	}
	return reasons
}

// degraded says what is wrong without keeping the daemon from its work.
func (d *Daemon) degraded() []string {
	var problems []string
	status := d.reconciler.Status()
	if status.SourceProblem != "" {
		problems = append(problems, status.SourceProblem)
	}
	if status.Error != "" {
		problems = append(problems, status.Error)
	}
	if status.WatchReason != "" {
		problems = append(problems, "packs are polled, not watched: "+status.WatchReason)
	}
	if problem := d.elector.Problem(); problem != "" {
		problems = append(problems, problem)
	}
	for _, b := range d.intake.Breakers() {
		problems = append(problems, fmt.Sprintf("the breaker of rule %s is open until %s: %s", b.Rule, b.OpenUntil.Format(time.RFC3339), b.Reason))
	}
	return problems
}
