package daemon

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/attune-io/attune/exec/environment"
	"github.com/attune-io/attune/exec/worker"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// environmentPeriod is how often environments are looked through, for what failed and what is unused,
	// and interpreters, for what was installed meanwhile.
	environmentPeriod = 30 * time.Second

	// hurryTimeout bounds the telling of the queue that an environment is ready; it is looked at again
	// without that, too.
	hurryTimeout = 10 * time.Second
)

// handedOn are the daemon's own variables that pip and npm need to reach the network.
var handedOn = []string{
	"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
}

// makeEnvironments builds the keeper of environments.
func (d *Daemon) makeEnvironments() (err error) {
	c := d.config.Runtimes
	variables := map[string]string{}
	for _, name := range handedOn {
		if value := d.config.machine.env[name]; value != "" {
			variables[name] = value
		}
	}
	d.environments, err = environment.New(environment.Options{
		Dir: filepath.Join(d.state, "environments"), Runner: d.runner, PythonIndex: c.PythonIndex, PythonWheels: c.PythonWheels,
		NodeRegistry: c.NodeRegistry, Variables: variables, Timeout: c.BuildTimeout, Settled: d.environmentSettled,
		Logger: d.opts.Logger, Registerer: d.registry,
	})
	if err == nil {
		d.undo = append(d.undo, d.environments.Close)
	}
	return err
}

// environmentSettled has the executions that wait for an environment looked at again.
func (d *Daemon) environmentSettled(pack string) {
	ctx, cancel := context.WithTimeout(context.Background(), hurryTimeout)
	defer cancel()
	if _, err := d.store.Hurry(ctx, pack); err != nil {
		d.log.Warn("executions that waited for an environment are looked at later", "pack", pack, "err", err)
	}
}

// keepEnvironments makes what the packs in force ask for, as soon as they do, and follows the machine's
// interpreters.
func (d *Daemon) keepEnvironments(ctx context.Context) error {
	defer d.environments.Close()
	tick := time.NewTicker(d.environmentPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			d.refreshInterpreters(ctx)
		case <-d.environmentsDirty:
		}
		if catalog := d.catalogs.current.Load(); catalog != nil {
			d.environments.Keep(d.environmentNeeds(ctx, catalog))
		}
	}
}

// environmentNeeds tells what the components in force run with. What cannot be told now is told when it
// is started.
func (d *Daemon) environmentNeeds(ctx context.Context, catalog *store.Catalog) []environment.Need {
	needs := map[environment.Need]bool{}
	add := func(record *store.Record, r manifest.Runner) {
		if !record.Enabled || r.RunnerType != manifest.RuntimePython && r.RunnerType != manifest.RuntimeNode {
			return
		}
		dir, err := d.revisions.Dir(ctx, record.RevisionID, record.TreeDigest)
		if err != nil {
			return
		}
		satisfies, err := worker.VersionCheck(r.RuntimeVersion)
		if err != nil {
			return
		}
		if in, err := d.interpreters.Find(r.RunnerType, r.Interpreter, satisfies); err == nil {
			needs[environment.Need{Pack: record.Pack, Runtime: r.RunnerType, Dir: dir, Interpreter: *in}] = true
		}
	}
	for _, record := range catalog.Actions {
		if action, ok := record.Spec.(*manifest.Action); ok {
			add(record, action.Runner)
		}
	}
	for _, record := range catalog.Sensors {
		if sensor, ok := record.Spec.(*manifest.Sensor); ok {
			add(record, sensor.Runner)
		}
	}
	return slices.Collect(maps.Keys(needs))
}

// refreshInterpreters looks for interpreters again where the machine's programs have changed.
func (d *Daemon) refreshInterpreters(ctx context.Context) {
	changed, err := d.interpreters.Refresh(ctx, d.runner, d.config.machine.env["PATH"])
	if err == nil && changed {
		d.log.Info("interpreters changed", "found", d.interpreters.All())
		err = d.recordInterpreters(ctx)
		d.reconciler.EnvironmentChanged(environmentOf(d.opts.Binary, d.interpreters), "interpreters")
	}
	if err != nil && ctx.Err() == nil {
		d.log.Warn("interpreters not looked for", "err", err)
	}
}

func (d *Daemon) recordInterpreters(ctx context.Context) error {
	var found []store.Runtime
	for _, i := range d.interpreters.All() {
		found = append(found, store.Runtime{Name: i.Name, Path: i.Path, Version: i.Version})
	}
	if err := d.store.PutRuntimes(ctx, d.node, found); err != nil {
		return fmt.Errorf("cannot record the interpreters found: %w", err)
	}
	return nil
}
