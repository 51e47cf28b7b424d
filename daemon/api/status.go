package api

import (
	"context"
	"time"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// measureTimeout bounds each question that status puts to the database: the rest is worth seeing
// while that is away.
const measureTimeout = 2 * time.Second

// status is on one screen what people look at first. It answers without the database too.
func (s *Server) status(ctx context.Context, _ *none) (*Status, error) {
	info := s.opts.Info
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	status := &Status{
		Version: info.Version, Node: info.Node, PID: info.PID, StartedAt: info.StartedAt, Time: time.Now(),
		StateDirectory: info.StateDirectory, Socket: s.Socket(), URL: s.URL(),
		Packs: packs(catalog, true), Components: inForce(catalog),
		Sensors: s.sensors(ctx, catalog, &componentQuery{}), Workers: s.opts.Workers.Stats(),
		Database: s.database(ctx), Queue: s.queue(ctx), Reconcile: s.reconcile(catalog.Generation),
		Interpreters: []RuntimeProgram{},
	}
	for _, i := range info.Interpreters {
		status.Interpreters = append(status.Interpreters, RuntimeProgram{Name: i.Name, Path: i.Path, Version: i.Version})
	}
	bounded, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	unready := s.opts.Unready(bounded)
	status.Ready = len(unready) == 0
	status.Problems = orEmpty(append(unready, s.opts.Degraded()...))
	return status, nil
}

// Examination is what only a running daemon can find out for doctor.
type Examination struct {
	Database *store.ServerExamination `json:"database"`
	// DatabaseError says why the database could not be examined; empty: it was.
	DatabaseError string      `json:"database_error,omitempty"`
	Trees         child.Trees `json:"trees"`
}

// examine answers without the database too.
func (s *Server) examine(ctx context.Context, _ *none) (*Examination, error) {
	e := &Examination{Trees: s.opts.Info.Trees}
	var err error
	if e.Database, err = s.opts.Store.Examine(ctx); err != nil {
		e.DatabaseError = err.Error()
	}
	return e, nil
}

// inForce counts the components in force.
func inForce(catalog *store.Catalog) ComponentCounts {
	var total ComponentCounts
	for _, c := range countByPack(catalog) {
		total.Actions += c.Actions
		total.Triggers += c.Triggers
		total.Sensors += c.Sensors
		total.Rules += c.Rules
	}
	return total
}

func (s *Server) database(ctx context.Context) DatabaseStatus {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	status := s.opts.Info.Database
	if s.opts.DatabasePID != nil {
		status.PID = s.opts.DatabasePID()
	}
	server, err := s.opts.Store.ServerInfo(ctx)
	if err != nil {
		status.Error = err.Error()
		return status
	}
	status.Version, status.SchemaVersion, status.SizeBytes = server.Version, server.SchemaVersion, server.SizeBytes
	return status
}

func (s *Server) queue(ctx context.Context) QueueStatus {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	stats, err := s.opts.Store.QueueStats(ctx)
	if err != nil {
		return QueueStatus{Error: err.Error()}
	}
	return QueueStatus{
		Pause:     stats.Pause,
		Requested: stats.Depth[store.StatusRequested], Scheduled: stats.Depth[store.StatusScheduled],
		Running: stats.Depth[store.StatusRunning], OldestSeconds: stats.OldestWaiting.Seconds(),
	}
}

func (s *Server) reconcile(generation int64) ReconcileStatus {
	r := s.opts.Reconciler.Status()
	return ReconcileStatus{
		Generation: generation, LastScan: optionalTime(r.LastScan), LastApply: optionalTime(r.LastApply),
		ScanSeconds: r.ScanDuration.Seconds(), Mode: r.Mode, WatchMode: r.WatchMode, WatchReason: r.WatchReason,
		SourceProblem: r.SourceProblem, Error: r.Error, Directories: orEmpty(s.opts.Info.Directories), Drift: orEmpty(r.Drift),
		Compared: r.Compared,
	}
}

// optionalTime is nil for a time that has not been.
func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// packOf is the pack that a finding's file is in.
func packOf(e *manifest.Error) string {
	for i, r := range e.File {
		if r == '/' {
			return e.File[:i]
		}
	}
	return e.File
}
