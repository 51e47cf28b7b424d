package sensor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/Masterminds/semver/v3"
	"golang.org/x/time/rate"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/environment"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// maxVariable is the longest list of instances that goes into a variable, in bytes: the kernel takes
// 128 KiB for one, and the others need room too.
const maxVariable = 64 << 10

// Kinds of failure to start, which decide what comes next.
var (
	// errAway: something that a start needs is not there for now. It says nothing about the sensor.
	errAway = errors.New("not available now")
	// errRefused: only a change of the pack can help.
	errRefused = errors.New("refused")
)

// life is one process of a sensor, from its start until its last line is with the Sink.
type life interface {
	PID() int
	StartedAt() time.Time
	// Done is closed when the process and its tree are gone, and every line of it is settled.
	Done() <-chan struct{}
	// Exit waits for Done.
	Exit() child.Exit
	// Gone is closed when also what outlived the process is gone (child.Exit.Outlived); not before Done.
	Gone() <-chan struct{}
	// Stop ends the tree and waits for Done; an error says that it could not be killed.
	Stop(grace time.Duration) error
	// Tell hands a sensor with updates its instances.
	Tell(instances []store.TriggerInstance)
}

// process is the life of a real child.
type process struct {
	*child.Process
	spool   *spool
	stderr  *lineWriter
	feed    *feed // nil: its stdin is closed
	temp    string
	owner   *child.User
	logger  *slog.Logger
	settled chan struct{}
	gone    chan struct{}
}

// launch starts a sensor's process. sink bounds the handing over of what it prints: it outlives ctx,
// so that the last lines are taken when the daemon stops.
func (s *Supervisor) launch(ctx, sink context.Context, sn *sensor, t *target) (life, error) {
	l := &launcher{Supervisor: s, target: t, ref: t.record.Ref, pack: t.record.Pack}
	if err := l.gather(ctx); err != nil {
		return nil, err
	}
	if err := l.folders(); err != nil {
		return nil, err
	}
	p, err := l.start(ctx, sink, sn)
	if err != nil {
		removeTemp(l.temp, sn.logger)
		return nil, err
	}
	return p, nil
}

func removeTemp(dir string, logger *slog.Logger) {
	if err := child.RemoveFolder(dir); err != nil {
		logger.Warn("cannot remove the folder for temporary files, it is left", "err", err)
	}
}

// launcher gathers what one start needs.
type launcher struct {
	*Supervisor
	target    *target
	ref, pack string

	dir       string // the revision's pack folder
	path      string
	args      []string
	modules   string // node's, of the pack's environment; empty: none
	owner     *child.User
	config    *config
	cursor    json.RawMessage
	instances []store.TriggerInstance
	data      string // the pack's own folder
	temp      string
}

// gather asks everybody; nothing is made yet.
func (l *launcher) gather(ctx context.Context) (err error) {
	spec, record := l.target.spec, l.target.record
	resolved := *l.target
	if resolved.packConfig, err = manifest.ResolvedConfig(l.target.packConfig, l.opts.Secret); err != nil {
		return fmt.Errorf("%w: %v", errAway, err) // the secret may come any moment
	}
	l.target = &resolved
	if l.config, err = readConfig(l.target, l.opts.Secret); err != nil {
		if errors.Is(err, errAway) {
			return err
		}
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if l.dir, err = l.opts.Revisions.Dir(ctx, record.RevisionID, record.TreeDigest); err != nil {
		return fmt.Errorf("cannot make the files of the revision: %w", err)
	}
	script, err := entryPoint(l.dir, spec.EntryPoint)
	if err != nil {
		return err
	}
	satisfies, err := versionCheck(spec.RuntimeVersion)
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	l.path, l.args = script, nil
	if spec.RunnerType != manifest.RuntimeNative {
		in, err := l.opts.Interpreters.Find(spec.RunnerType, spec.Interpreter, satisfies)
		if err != nil {
			return err
		}
		l.path, l.args = in.Path, []string{script}
		if err := l.equip(in); err != nil {
			return err
		}
	}
	if l.owner, err = l.opts.Runner.User(cmp.Or(spec.RunAs, l.opts.RunAs)); err != nil {
		return err
	}
	if l.cursor, err = l.opts.Instances.SensorCursor(ctx, l.ref); err != nil {
		return fmt.Errorf("%w: cannot read its cursor: %v", errAway, err)
	}
	l.instances, err = l.withLast(ctx)
	return err
}

// equip finds the environment that the pack's requirements ask for.
func (l *launcher) equip(in *child.Interpreter) error {
	if l.opts.Environments == nil {
		return nil
	}
	env, err := l.opts.Environments.For(environment.Need{Pack: l.pack, Runtime: l.target.spec.RunnerType, Dir: l.dir, Interpreter: *in})
	if _, waits := errors.AsType[*environment.WaitError](err); waits {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	if err != nil {
		return err
	}
	l.path, l.modules = env.Path, env.NodePath
	return nil
}

// withLast gives the target's instances with their newest due times: the process before this one may
// have fired since the target was made, and whoever starts from an older time fires twice.
func (l *launcher) withLast(ctx context.Context) ([]store.TriggerInstance, error) {
	if len(l.target.instances) == 0 {
		return nil, nil
	}
	fresh, err := l.opts.Instances.TriggerInstances(ctx, l.target.spec.TriggerTypes)
	if err != nil {
		return nil, fmt.Errorf("%w: cannot read its trigger instances: %v", errAway, err)
	}
	last := make(map[string]*time.Time, len(fresh))
	for _, instance := range fresh {
		if instance.Sealed != nil { // the key may come any moment
			return nil, fmt.Errorf("%w: cannot read its trigger instances: %v", errAway, instance.Sealed)
		}
		last[instance.ID] = instance.LastDue
	}
	instances := append([]store.TriggerInstance(nil), l.target.instances...)
	for i := range instances {
		if due := last[instances[i].ID]; due != nil {
			instances[i].LastDue = due
		}
	}
	return instances, nil
}

// entryPoint gives the real path of a sensor's script, which neither "..", nor a link, may lead out
// of the pack.
func entryPoint(dir, name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("%w: cannot use entry_point %q: it is not inside sensors/", errRefused, name)
	}
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("cannot find the pack's folder: %v", err)
	}
	script, err := filepath.EvalSymlinks(filepath.Join(root, "sensors", name))
	if err != nil {
		return "", fmt.Errorf("cannot find entry_point %q: %v", name, err)
	}
	if !strings.HasPrefix(script, root+string(filepath.Separator)) {
		return "", fmt.Errorf("%w: cannot use entry_point %q: it leads out of the pack", errRefused, name)
	}
	return script, nil
}

// versionCheck makes the test of a runtime_version; nil: any version will do.
func versionCheck(versions string) (func(string) bool, error) {
	if versions == "" {
		return nil, nil
	}
	constraint, err := semver.NewConstraint(versions)
	if err != nil {
		return nil, fmt.Errorf("cannot use runtime_version %q: %v", versions, err)
	}
	return func(version string) bool {
		v, err := semver.NewVersion(version)
		return err == nil && constraint.Check(v)
	}, nil
}

// folders makes the pack's data folder and a folder for this process alone.
func (l *launcher) folders() (err error) {
	// Others may pass through, as they run children of their own there, but not look around.
	for _, dir := range []string{l.opts.DataDir, l.opts.TempDir} {
		if err := makePassage(dir); err != nil {
			return fmt.Errorf("cannot make a folder for children: %v", err)
		}
	}
	l.data = filepath.Join(l.opts.DataDir, child.DataFolder(l.pack, l.owner))
	if err := child.MakeFolder(l.data, l.owner); err != nil {
		return fmt.Errorf("cannot make the pack's data folder: %v", err)
	}
	if l.temp, err = os.MkdirTemp(l.opts.TempDir, "sensor-"+l.ref+"-"); err != nil {
		return fmt.Errorf("cannot make a folder for temporary files: %v", err)
	}
	if err := child.GiveFolder(l.temp, l.owner); err != nil {
		os.RemoveAll(l.temp)
		return err
	}
	return nil
}

// makePassage makes a folder, where it is not there, that the daemon's umask does not close.
func makePassage(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	return os.Chmod(dir, 0o711)
}

// start makes the environment and starts the child. Nothing of it can be waited for.
func (l *launcher) start(ctx, sink context.Context, sn *sensor) (*process, error) {
	spec := l.target.spec
	list, err := json.Marshal(items(l.instances))
	if err != nil {
		return nil, fmt.Errorf("%w: cannot encode its trigger instances: %w", errRefused, err)
	}
	if err := writeTriggers(l.temp, list, l.owner); err != nil {
		return nil, err
	}
	env, err := l.environment(list)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	}
	p := &process{
		spool:   newSpool(),
		temp:    l.temp,
		owner:   l.owner,
		logger:  sn.logger,
		settled: make(chan struct{}),
		gone:    make(chan struct{}),
	}
	mask := child.NewMask(l.config.hidden)
	p.stderr = newLineWriter(&sn.journal, mask)
	childSpec := child.Spec{
		Name: "sensor " + l.ref, Path: l.path, Args: l.args, Env: env, Dir: l.dir,
		KeepStdin: spec.Ack || spec.Updates, User: l.owner,
		Stdout: counted{p.spool, &sn.stdout},
		Stderr: counted{p.stderr, &sn.stderr},
	}
	if m := spec.Limits; m != nil {
		childSpec.Limits = child.Limits{
			Memory: m.Memory, FileSize: m.FileSize, OpenFiles: m.OpenFiles, Pids: m.Pids, CPU: m.CPU,
		}
	}
	if len(l.config.secret) > 0 {
		secret, err := json.Marshal(map[string]any{"config": l.config.secret})
		if err != nil {
			return nil, fmt.Errorf("%w: cannot encode its configuration: %w", errRefused, err)
		}
		childSpec.Stdin = bytes.NewReader(append(secret, '\n'))
	}
	if p.Process, err = l.opts.Runner.Start(ctx, childSpec); err != nil {
		return nil, err
	}
	if childSpec.KeepStdin {
		p.feed = newFeed()
	}
	in := &ingest{
		src:     source{ref: l.ref, pack: l.pack, triggers: spec.TriggerTypes, lease: l.target.lease},
		lost:    sn.lose,
		blocked: l.opts.Blocked,
		sink:    l.opts.Sink,
		cursors: l.opts.Instances,
		stats:   &sn.stats,
		metrics: l.metrics,
		logger:  sn.logger,
		mask:    mask,
	}
	if spec.Ack {
		in.feed = p.feed
	}
	in.init()
	go p.run(sink, in)
	return p, nil
}

// writeTriggers writes the file that ATTUNE_SENSOR_TRIGGERS_FILE names, whole or not at all.
func writeTriggers(dir string, list []byte, owner *child.User) error {
	name := triggersFile(dir)
	if err := child.HandFile(name+".new", list, owner); err != nil {
		return fmt.Errorf("cannot write its trigger instances: %v", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("cannot write its trigger instances: %v", err)
	}
	return nil
}

func triggersFile(dir string) string { return filepath.Join(dir, "triggers.json") }

// environment is complete but for what exec/child adds. What the manifest names comes before what is
// ours, so that ours holds.
func (l *launcher) environment(list []byte) ([]string, error) {
	spec := l.target.spec
	env := child.NewEnv(l.data, l.temp)
	var errs []error
	set := func(name, value string) { errs = append(errs, env.Set(name, value)) }
	lib := filepath.Join(l.dir, "lib")
	switch spec.RunnerType {
	case manifest.RuntimePython:
		set("PYTHONPATH", lib)
		// Without it an event waits in the sensor until 8 KiB of them are there.
		set("PYTHONUNBUFFERED", "1")
	case manifest.RuntimeNode:
		if l.modules != "" {
			lib += ":" + l.modules
		}
		set("NODE_PATH", lib)
	case manifest.RuntimeShell:
		set("SHELL", l.path)
	}
	for name, value := range spec.Env {
		set(name, value)
	}
	for key, value := range l.target.packConfig {
		if text, ok := variable(value); ok && !l.target.confSchema.HoldsSecret(key) {
			set("ATTUNE_PACK_CONFIG_"+child.Key(key), text)
		}
	}
	if file, err := l.configFile(); err != nil {
		errs = append(errs, err)
	} else if file != "" {
		set("ATTUNE_PACK_CONFIG_FILE", file)
	}
	for key, text := range l.config.open {
		set("ATTUNE_SENSOR_"+child.Key(key), text)
	}
	set("ATTUNE_SENSOR_REF", l.ref)
	set("ATTUNE_SENSOR_TRIGGERS_FILE", triggersFile(l.temp))
	// A secret stands in no variable: who runs as the same user reads those, and children get them.
	l.config.hidden = append(l.config.hidden, l.target.hidden...)
	if len(list) <= maxVariable && len(l.target.hidden) == 0 {
		set("ATTUNE_SENSOR_TRIGGERS", string(list))
	}
	if l.cursor != nil {
		set("ATTUNE_SENSOR_CURSOR", string(l.cursor))
	}
	set("ATTUNE_PACK_REF", l.pack)
	set("ATTUNE_PACK_DIR", l.dir)
	set("ATTUNE_DATA_DIR", l.data)
	set("ATTUNE_LOG_LEVEL", l.opts.LogLevel)
	set("ATTUNE_BINARY", l.opts.Binary)
	return env.List(), errors.Join(errs...)
}

// configFile hands over the pack's whole configuration, where some of it is secret and so in no variable:
// it gives the path of a file that only the sensor can read, or nothing.
func (l *launcher) configFile() (string, error) {
	hidden := l.target.confSchema.SecretTexts(l.target.packConfig)
	if len(hidden) == 0 {
		return "", nil
	}
	l.config.hidden = append(l.config.hidden, hidden...)
	text, err := json.Marshal(l.target.packConfig)
	if err != nil {
		return "", fmt.Errorf("cannot encode the pack's configuration: %v", err)
	}
	file := filepath.Join(l.temp, "config.json")
	if err := child.HandFile(file, append(text, '\n'), l.owner); err != nil {
		return "", fmt.Errorf("cannot write the pack's configuration: %v", err)
	}
	return file, nil
}

// run carries lines until the process is gone and all of them are settled, and then waits for what outlived it. That
// may use the folder for temporary files still.
func (p *process) run(sink context.Context, in *ingest) {
	p.carry(sink, in)
	if p.Wait().Outlived {
		close(p.settled)
		if p.Outlast(sink) != nil {
			return // the daemon ends, and the keeper goes on trying
		}
		removeTemp(p.temp, p.logger)
	} else {
		removeTemp(p.temp, p.logger)
		close(p.settled)
	}
	close(p.gone)
}

// carry carries lines until the process is gone and all of them are settled.
func (p *process) carry(sink context.Context, in *ingest) {
	giveUp := context.AfterFunc(sink, p.spool.discard)
	defer giveUp()
	var helpers sync.WaitGroup
	if p.feed != nil {
		helpers.Go(func() { p.feed.run(p.Stdin(), p.Process.Done()) })
	}
	helpers.Go(func() {
		<-p.Process.Done()
		p.spool.end()
		p.stderr.flush()
	})
	in.run(sink, p.spool)
	helpers.Wait()
}

// Done is of life.
func (p *process) Done() <-chan struct{} { return p.settled }

// Gone is of life.
func (p *process) Gone() <-chan struct{} { return p.gone }

// Exit is of life.
func (p *process) Exit() child.Exit {
	<-p.settled
	return p.Wait()
}

// Stop is of life.
func (p *process) Stop(grace time.Duration) error {
	p.spool.widen(spoolRoomStopping)
	p.stderr.flood.SetLimit(rate.Inf)
	if err := p.Process.Stop(grace); err != nil {
		// A killed process that is not done may be one whose last lines find no room here: what a
		// pipe can hold is bounded, so all of it may come.
		p.spool.widen(0)
		timer := time.NewTimer(time.Second)
		defer timer.Stop()
		select {
		case <-p.Process.Done():
		case <-timer.C:
			return err
		}
	}
	<-p.settled
	return nil
}

// Tell is of life.
func (p *process) Tell(instances []store.TriggerInstance) {
	line, err := update(instances)
	if err == nil {
		var list []byte
		if list, err = json.Marshal(items(instances)); err == nil {
			err = writeTriggers(p.temp, list, p.owner)
		}
	}
	if err != nil {
		p.logger.Error("cannot tell the sensor its trigger instances", "err", err)
		return
	}
	p.feed.send(line)
}
