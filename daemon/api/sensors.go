package api

import (
	"context"
	"slices"

	"github.com/attune-io/attune/exec/sensor"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

func (s *Server) listSensors(ctx context.Context, q *componentQuery) ([]Sensor, error) {
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	return s.sensors(ctx, catalog, q), nil
}

func (s *Server) sensors(ctx context.Context, catalog *store.Catalog, q *componentQuery) []Sensor {
	running := map[string]sensor.Info{}
	for _, info := range s.opts.Sensors.List() {
		running[info.Ref] = info
	}
	list := []Sensor{}
	for _, r := range selected(ctx, catalog, manifest.KindSensor, q) {
		one := sensorOf(catalog, r, running[r.Ref])
		if (q.State == "" || q.State == one.State) && (q.Trigger == "" || slices.Contains(one.TriggerTypes, q.Trigger)) {
			list = append(list, one)
		}
	}
	return list
}

func (s *Server) showSensor(ctx context.Context, in *byRef) (*Sensor, error) {
	catalog, r, err := s.find(ctx, manifest.KindSensor, in.Ref)
	if err != nil {
		return nil, err
	}
	info := s.process(r.Ref)
	one := sensorOf(catalog, r, info)
	one.Stderr = info.Stderr
	if one.Manifest, err = normalForm(catalog, r.Spec); err != nil {
		return nil, err
	}
	if s.opts.Store != nil { // a catalog alone is enough for all the rest
		one.Cursor, err = s.opts.Store.SensorCursor(ctx, r.Ref)
	}
	return &one, err
}

// process gives what the supervisor knows of a sensor.
func (s *Server) process(ref string) sensor.Info {
	list := s.opts.Sensors.List()
	if i := slices.IndexFunc(list, func(info sensor.Info) bool { return info.Ref == ref }); i >= 0 {
		return list[i]
	}
	return sensor.Info{}
}

func sensorOf(catalog *store.Catalog, r *store.Record, info sensor.Info) Sensor {
	spec := r.Spec.(*manifest.Sensor)
	one := Sensor{
		Component: component(catalog, r), RunnerType: spec.RunnerType, EntryPoint: spec.EntryPoint,
		TriggerTypes: orEmpty(spec.TriggerTypes), OnDemand: spec.OnDemand,
		State: string(info.State), StartedAt: info.StartedAt, Restarts: info.Restarts, LastExit: info.LastExit,
		Problem: info.Problem, NextStart: info.NextStart, Events: info.Events, BadLines: info.BadLines,
		LastEventAt: info.LastEventAt, EventsPerMinute: info.EventsPerMinute, BlockedSeconds: info.BlockedSeconds,
	}
	if info.PID != 0 {
		one.PID = &info.PID
	}
	if one.State == "" {
		// The supervisor has no sensor that is not in force, and a new one only after a moment.
		one.State = string(sensor.StateStopped)
		if r.Enabled {
			one.State = string(sensor.StateStarting)
		}
	}
	return one
}

func (s *Server) restartSensor(ctx context.Context, in *byRef) (*Sensor, error) {
	catalog, r, err := s.find(ctx, manifest.KindSensor, in.Ref)
	if err != nil {
		return nil, err
	}
	if !r.Enabled {
		return nil, disabled(catalog, r)
	}
	if err := s.opts.Access.Audit(ctx, *s.auditOf(ctx, "restart sensor", r.Ref)); err != nil {
		return nil, err
	}
	if !s.opts.Sensors.Restart(r.Ref) {
		return nil, newError(CodeConflict, "cannot restart sensor "+r.Ref+": it is not supervised here yet", "try again in a moment")
	}
	s.log.Info("sensor restart asked for", "sensor", r.Ref, "by", caller(ctx))
	one := sensorOf(catalog, r, s.process(r.Ref))
	return &one, nil
}

// logQuery says whose log is wanted, and whether what comes as well.
type logQuery struct {
	Ref    string `path:"ref"`
	Follow bool   `query:"follow" doc:"Go on with the lines that come"`
}

func (s *Server) sensorLogs(ctx context.Context, in *logQuery) (func(*lineWriter), error) {
	catalog, r, err := s.find(ctx, manifest.KindSensor, in.Ref)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.streaming(ctx)
	lines, _, ok := s.opts.Sensors.Logs(ctx, r.Ref, in.Follow, 0)
	if !ok {
		cancel()
		if !r.Enabled {
			return nil, disabled(catalog, r)
		}
		return func(*lineWriter) {}, nil
	}
	return func(w *lineWriter) {
		defer cancel()
		for {
			select {
			case <-ctx.Done():
				return
			case line, open := <-lines:
				if !open || w.write(LogLine{Text: line.Text}, len(lines) == 0) != nil {
					return
				}
			}
		}
	}, nil
}
