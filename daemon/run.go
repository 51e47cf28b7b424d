package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/oklog/run"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// maintainPeriod is how often partitions are made and dropped: days are made ahead, so it may
	// fail for long before anybody notices.
	maintainPeriod = time.Hour

	// maintainRetry is when it is tried again after it failed.
	maintainRetry = time.Minute

	// readyPatience is how long systemd is kept waiting for the first scan. A packs folder that is not
	// there yet must not have the daemon killed.
	readyPatience = 30 * time.Second

	// sameSignal is the time within which a second signal is the first one's echo: timeout(1), and
	// service managers, send theirs to the process and to its group.
	sameSignal = 300 * time.Millisecond

	// stopMargin is what stopping may take beside the drain of actions and the grace of children:
	// with the defaults 60 s, 2 times 10 s and this stay below the unit's TimeoutStopSec.
	stopMargin = 30 * time.Second
)

// stage is a part that runs, and its place in the order of stopping.
type stage struct {
	name string
	run  func(ctx context.Context) error
	// because says why it stops where it does: after the stages before it, before those after it.
	because string
}

// stages are all parts, in the order in which they stop. They start in no order: each waits for what
// it needs.
func (d *Daemon) stages() []stage {
	return []stage{
		{
			"reconciler", d.reconcile,
			"because a change that it applied now would start what is about to be stopped",
		},
		{
			"sensors", d.sensors.Run,
			"because their last lines still become events, for which everything below has to run",
		},
		{
			"leases", d.electLeaders,
			"because what was done under them has ended, and other nodes may go on with it at once",
		},
		{
			"news", d.tellNews,
			"because what has happened up to here is still told, by those below",
		},
		{
			"intake", d.intake.Run,
			"because it commits the sensors' last events and queues what follows from them",
		},
		{
			"workers", d.workers.Run,
			"because running actions may take as long as the drain, and nobody queues behind them any more but the API",
		},
		{
			"catalog", d.keepCatalog,
			"because sensors and workers ask for it until they have ended",
		},
		{
			"environments", d.keepEnvironments,
			"because nobody asks for one any more, and what is being made is not worth waiting for",
		},
		{
			"housekeeping", d.keepHouse,
			"because it hinders nobody and ends at once",
		},
		{
			"metrics", d.measure,
			"because the queue is worth seeing while it drains",
		},
		{
			"http", d.server.Run,
			"because health is asked for, and executions are followed, until the last action has ended",
		},
		{
			"certificate", d.keepCertificate,
			"because nobody connects any more",
		},
		{
			"listener", d.listener.Run,
			"because cancels, and the ends of executions, are told through it to those above",
		},
		{
			"node", d.leave,
			"because all that this node held in the database has been given back by those above",
		},
		{
			"database", d.runDatabase,
			"because every part above writes to it until its end",
		},
	}
}

// Run runs all parts until a signal asks for an end, ctx ends or a part fails, and then stops them in
// order. It returns when everything has ended; nil after an end that was asked for.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.Close()
	setPercent(os.Getenv, startPercent)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	actors, endActors := context.WithCancel(context.WithoutCancel(ctx))
	defer endActors()

	// Interrupts only cancel: the stopping itself is the work of runStages, in its order.
	var group run.Group
	group.Add(func() error { return d.runStages(ctx) }, func(error) { cancel() })
	reload := &reloads{
		notify: d.notify, log: d.log, asked: make(chan struct{}, 1), patient: readyPatience,
		scan: d.reload,
	}
	group.Add(func() error { return d.watchSignals(actors, reload, cancel) }, func(error) { endActors() })
	group.Add(func() error { return d.announce(actors) }, func(error) { endActors() })
	group.Add(func() error { return d.notify.watchdog(actors, watchdogInterval(d.log), d.progress) }, func(error) { endActors() })
	// No actor of the group: that it ends with ctx ends nothing else.
	var reloading sync.WaitGroup
	reloading.Go(func() { reload.run(ctx) })
	defer reloading.Wait()
	return group.Run()
}

// reload does what a signal asks for: it reads the configuration again, and scans the packs.
func (d *Daemon) reload(ctx context.Context) error {
	return errors.Join(d.reread(), d.rescan(ctx))
}

// rescan scans the packs. A node that follows applies nothing, but tries again to watch its packs folders, and
// says how they differ from what is in force.
func (d *Daemon) rescan(ctx context.Context) error {
	_, err := d.reconciler.Reload(ctx, "signal")
	follows, ok := errors.AsType[*reconcile.FollowsError](err)
	if !ok {
		return err
	}
	if _, err := d.reconciler.Plan(ctx); err != nil {
		return err
	}
	d.log.Info("packs compared with what is in force, and not applied: this node follows", "leader", follows.Leader)
	return nil
}

// runStage runs a stage. One that panics has ended like any other: what it knew may be torn, so the daemon stops, in
// order, with what it runs and holds, and whoever looks after it starts another.
func (d *Daemon) runStage(ctx context.Context, s stage) (err error) {
	defer func() {
		if v := recover(); v != nil {
			d.log.Error("part panicked", "part", s.name, "err", fmt.Sprint(v), stackKey, string(debug.Stack()))
			err = fmt.Errorf("it panicked: %v", v)
		}
	}()
	return s.run(ctx)
}

// ending is a stage that has ended.
type ending struct {
	name string
	err  error
}

// runStages runs the stages until ctx ends or one of them does, and stops them in order, all within
// one deadline.
func (d *Daemon) runStages(ctx context.Context) error {
	stages := d.stages()
	cancels := make([]context.CancelFunc, len(stages))
	done := make([]chan struct{}, len(stages))
	ended := make(chan ending, len(stages))
	for i, s := range stages {
		var stageCtx context.Context
		stageCtx, cancels[i] = context.WithCancel(context.WithoutCancel(ctx))
		done[i] = make(chan struct{})
		go func() {
			defer close(done[i])
			ended <- ending{s.name, d.runStage(stageCtx, s)}
		}()
	}
	var errs []error
	select {
	case <-ctx.Done():
	case e := <-ended:
		// Nobody asked it to: whatever it says, the daemon is no longer whole.
		errs = append(errs, fmt.Errorf("cannot go on without %s: it ended: %v", e.name, e.err))
	}
	began := time.Now()
	// Before anything else ends, which may take its time: what is claimed now would only be given back.
	d.workers.StopClaiming()
	d.log.Info("stopping")
	telling, told := context.WithCancel(context.WithoutCancel(ctx))
	defer told()
	go d.notify.stopping(telling, d.stopState)
	limit := time.NewTimer(d.config.Exec.Drain + 2*d.config.Exec.StopGrace + stopMargin)
	defer limit.Stop()
	for i, s := range stages {
		cancels[i]()
		select {
		case <-done[i]:
			d.log.Debug("part stopped", "part", s.name, "duration", time.Since(began))
			continue
		case <-limit.C:
		}
		// The rest is told to end at once; what they leave behind, the keeper ends.
		for _, cancel := range cancels {
			cancel()
		}
		errs = append(errs, fmt.Errorf("cannot stop in time: %s did not end", s.name))
		break
	}
	errs = append(errs, d.lateErrors(ended)...)
	d.log.Info("stopped", "duration", time.Since(began))
	return errors.Join(errs...)
}

// stopState says in a word what is waited for.
func (d *Daemon) stopState() string {
	switch n := d.workers.Stats().Busy; n {
	case 0:
		return "stopping"
	case 1:
		return "stopping: waiting for 1 running action"
	default:
		return fmt.Sprintf("stopping: waiting for %d running actions", n)
	}
}

// lateErrors are those of stages that failed while they stopped.
func (d *Daemon) lateErrors(ended <-chan ending) []error {
	var errs []error
	for {
		select {
		case e := <-ended:
			if e.err != nil && !errors.Is(e.err, context.Canceled) {
				errs = append(errs, fmt.Errorf("cannot stop %s cleanly: %v", e.name, e.err))
			}
		default:
			return errs
		}
	}
}

// watchSignals acts on signals until ctx ends: the first that asks for an end calls stop, the second
// hurries, and after that the next one kills, as it does without us.
func (d *Daemon) watchSignals(ctx context.Context, reload *reloads, stop func()) error {
	signals := d.opts.Signals
	release := func() {}
	if signals == nil {
		own := make(chan os.Signal, 4) // one of each that may come at once
		signal.Notify(own, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		signals, release = own, func() { signal.Stop(own) }
	}
	defer func() { release() }()
	var first time.Time // when an end was asked for
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-signals:
			if s == syscall.SIGHUP {
				d.log.Info("reload asked for", "signal", s.String())
				d.certificate.ask()
				reload.ask()
				continue
			}
			if first.IsZero() {
				first = d.signalTime()
				d.log.Info("stop asked for, running actions may finish", "signal", s.String(), "drain", d.config.Exec.Drain)
				stop()
				continue
			}
			if d.signalTime().Sub(first) < sameSignal {
				d.log.Debug("signal taken for the first one's echo", "signal", s.String())
				continue
			}
			d.log.Warn("stop asked for again, running actions are stopped", "signal", s.String())
			d.workers.Hurry()
			release()
		}
	}
}

// Ready is what a daemon has loaded and where it can be reached, at the moment when it is ready.
type Ready struct {
	Version    string
	Packs      []api.Pack
	Components api.ComponentCounts
	Socket     string
	URL        string // empty: TCP is off
	State      string
	Database   string // "private PostgreSQL 15.18" or the URL without its password
	ConfigFile string // empty: defaults
	Command    string // what to type to run this program
	Took       time.Duration
}

// announce tells the log, systemd and whoever asked that the daemon is ready, once.
func (d *Daemon) announce(ctx context.Context) error {
	patience := time.NewTimer(readyPatience)
	defer patience.Stop()
	for ready := false; !ready; {
		select {
		case <-ctx.Done():
			return nil
		case <-d.reconciler.Ready():
			ready = true
		case <-patience.C:
			d.log.Warn("started, but the packs are not loaded yet", "reasons", d.unready(ctx))
			d.notify.ready("waiting for the packs")
		}
	}
	info := d.ready(ctx)
	boundGarbage(os.Getenv)
	d.log.Info("ready", "packs", len(info.Packs), "actions", info.Components.Actions, "sensors", info.Components.Sensors,
		"rules", info.Components.Rules, "socket", info.Socket, "url", info.URL, "state", info.State, "node", d.node, "duration", info.Took)
	d.notify.ready(fmt.Sprintf("%d packs, %d rules", len(info.Packs), info.Components.Rules))
	if d.opts.OnReady != nil {
		d.opts.OnReady(info)
	}
	<-ctx.Done()
	return nil
}

func (d *Daemon) ready(ctx context.Context) Ready {
	took := time.Since(d.began)
	info := Ready{
		Version: d.opts.Version, Socket: d.server.Socket(), URL: d.server.URL(), State: d.state,
		Database: redactURL(d.config.Database.URL), ConfigFile: d.config.File(), Took: took,
		Command: commandName(d.opts.Binary, d.config.machine.env["PATH"], d.config.machine.directory),
	}
	if d.cluster != nil {
		info.Database = "private PostgreSQL " + d.cluster.Version()
	}
	// The reconciler is ready, and its word may have come before the catalog's.
	if err := d.catalogs.refresh(ctx); err != nil {
		d.log.Debug("catalog not refreshed", "err", err)
	}
	if catalog := d.catalogs.current.Load(); catalog != nil {
		info.Packs, info.Components = api.Summary(catalog)
	}
	return info
}

// progress succeeds when the daemon does what it is for: the API answers, and the loops of the parts
// give their state.
func (d *Daemon) progress(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		d.reconciler.Status()
		d.sensors.List()
		d.workers.Stats()
		client, err := api.NewSocketClient([]string{d.server.Socket()})
		if err != nil {
			done <- err
			return
		}
		defer client.Close()
		done <- client.Healthy(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.New("the parts did not tell their state in time")
	}
}

// reconcile is the stage: the loop, with what other nodes ask for.
func (d *Daemon) reconcile(ctx context.Context) error {
	errands, unsubscribe := d.listener.Subscribe(store.ChannelErrand)
	defer unsubscribe()
	listening, ended := context.WithCancel(ctx)
	defer ended()
	go func() {
		for {
			select {
			case <-listening.Done():
				return
			case <-errands:
				d.reconciler.Asked()
			}
		}
	}()
	return d.reconciler.Run(ctx)
}

// keepCatalog keeps the snapshot fresh and tells the sensors when there is a newer one.
func (d *Daemon) keepCatalog(ctx context.Context) error {
	notices, unsubscribe := d.listener.Subscribe(store.ChannelCatalog)
	defer unsubscribe()
	return d.catalogs.run(ctx, notices, func() {
		d.sensors.Changed()
		d.elector.poke()
		d.reconciler.Noticed(d.catalogs.generation())
		select {
		case d.environmentsDirty <- struct{}{}:
		default:
		}
	})
}

// keepHouse has the database make and drop partitions, and removes revisions that nothing needs: first those
// that the last process left.
func (d *Daemon) keepHouse(ctx context.Context) error {
	wait, ready := maintainPeriod, d.reconciler.Ready()
	for {
		d.reseal(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
			ready = nil
			d.pruneLeft(ctx)
			continue
		case <-time.After(wait):
		}
		report, err := d.store.Maintain(ctx, d.retention())
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			d.log.Warn("database not maintained, it is tried again", "err", err)
			wait = maintainRetry
			continue
		case report != store.MaintainReport{}:
			d.log.Info("database maintained", "partitions_made", report.PartitionsMade, "partitions_dropped", report.PartitionsDropped,
				"revisions_dropped", report.RevisionsDropped, "files_dropped", report.FilesDropped)
		}
		wait = maintainPeriod
		d.pruneLeft(ctx)
	}
}

// pruneLeft is pruneRevisions, whose failure is no more than room that is taken.
func (d *Daemon) pruneLeft(ctx context.Context) {
	if err := d.pruneRevisions(ctx); err != nil && ctx.Err() == nil {
		d.log.Warn("unused revisions not removed", "err", err)
	}
}

// keepCertificate reads the certificate anew when its files change.
func (d *Daemon) keepCertificate(ctx context.Context) error {
	d.certificate.run(ctx)
	<-ctx.Done()
	return nil
}

func (d *Daemon) measure(ctx context.Context) error {
	return d.queueMetrics.run(ctx, d.store.QueueStats, d.log)
}

// leaveTimeout bounds the goodbye to the database: a node that cannot say it is noticed as gone.
const leaveTimeout = 5 * time.Second

// leave takes this node out of the database when its time has come. Only then is its id forgotten: if
// it fails, the next start ends what this one still holds.
func (d *Daemon) leave(ctx context.Context) error {
	<-ctx.Done()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	if err := d.store.RemoveNode(bounded, d.node); err != nil {
		d.log.Warn("node not signed off", "node", d.node, "err", err)
		return nil
	}
	return forgetNode(d.state)
}

// runDatabase runs the private PostgreSQL, if there is one. The connections are closed before it is
// stopped.
func (d *Daemon) runDatabase(ctx context.Context) error {
	if d.cluster == nil {
		<-ctx.Done()
		d.store.Close()
		return nil
	}
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		d.store.Close()
		cancel()
	})()
	err := d.cluster.Run(inner)
	d.databaseEnded.Store(err == nil)
	return err
}
