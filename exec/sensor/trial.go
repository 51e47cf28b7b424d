package sensor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/store"
)

// ErrUnknown says that there is no such sensor here.
var ErrUnknown = errors.New("no such sensor")

// Trial is told what a sensor does that is tried. Its functions are called one at a time.
type Trial struct {
	// Started is told once, before all else.
	Started func(pid int, revision string)
	// Event is what would be stored.
	Event func(store.NewEvent)
	// Cursor is one that came without an event, and would be kept.
	Cursor func(json.RawMessage)
	// Log is a line of its stderr.
	Log func(line string)
	// Note is what the daemon would log of it: a line that is no event, mostly.
	Note func(text string)
}

// Try runs a sensor beside the one that is supervised, as that is run: from the revision in force, with its
// environment, configuration, secrets, instances and cursor. What it prints is told and goes nowhere; events
// are acknowledged as if they were stored. It ends with ctx or by itself, and then gives its exit. Disabled
// sensors, and those of another node, can be tried as well.
func (s *Supervisor) Try(ctx context.Context, ref string, trial Trial) (child.Exit, error) {
	known := s.find(ref)
	if known == nil {
		return child.Exit{}, fmt.Errorf("cannot try sensor %s: %w", ref, ErrUnknown)
	}
	known.mu.Lock()
	t := known.target
	known.mu.Unlock()
	if t == nil {
		return child.Exit{}, fmt.Errorf("cannot try sensor %s: %w", ref, ErrUnknown)
	}
	told := &teller{trial: trial}
	opts := s.opts
	opts.Sink = trialSink{told}
	opts.Instances = trialInstances{s.opts.Instances, told}
	logger := slog.New(noteHandler{told: told})
	apart := &Supervisor{opts: opts, logger: logger, metrics: newMetrics(nil, nil)}
	sn := &sensor{ref: ref, logger: logger, metrics: apart.metrics}

	sink, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	life, err := apart.launch(ctx, sink, sn, t)
	if err != nil {
		return child.Exit{}, fmt.Errorf("cannot start sensor %s: %w", ref, err)
	}
	told.start(life.PID(), t.record.TreeDigest)
	var helpers sync.WaitGroup
	helpers.Go(func() {
		for line := range sn.journal.follow(sink, true, 0) {
			told.tell(func() { trial.Log(line.Text) })
		}
	})
	select {
	case <-life.Done():
	case <-ctx.Done():
		// Nobody listens any more, so nothing may hang on what it still says.
		limit := time.AfterFunc(s.opts.StopGrace+child.KillWait+lastWords, cancel)
		defer limit.Stop()
		if err := life.Stop(s.opts.StopGrace); err != nil {
			cancel()
			return child.Exit{}, fmt.Errorf("cannot end sensor %s: %w", ref, err)
		}
	}
	sn.journal.close()
	helpers.Wait()
	return life.Exit(), nil
}

// teller calls a Trial's functions one at a time, and none before Started.
type teller struct {
	trial Trial

	mu      sync.Mutex
	started bool
	early   []func()
}

func (t *teller) tell(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.started {
		t.early = append(t.early, f)
		return
	}
	f()
}

func (t *teller) start(pid int, revision string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trial.Started(pid, revision)
	for _, f := range t.early {
		f()
	}
	t.started, t.early = true, nil
}

// trialSink takes every event and stores none.
type trialSink struct{ told *teller }

// SubmitAsync is of Sink.
func (s trialSink) SubmitAsync(ctx context.Context, e store.NewEvent, done func(store.StoredEvent, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.told.tell(func() { s.told.trial.Event(e) })
	// Duplicate, so that it counts as no firing.
	done(store.StoredEvent{Duplicate: true}, nil)
	return nil
}

// trialInstances reads as others do, and keeps nothing.
type trialInstances struct {
	Instances
	told *teller
}

// SetSensorCursor is of Instances.
func (i trialInstances) SetSensorCursor(_ context.Context, _, _ string, cursor json.RawMessage) error {
	i.told.tell(func() { i.told.trial.Cursor(cursor) })
	return nil
}

// noteHandler makes notes of what would be logged.
type noteHandler struct {
	told  *teller
	attrs []slog.Attr
}

// Enabled is of slog.Handler.
func (h noteHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

// Handle is of slog.Handler.
func (h noteHandler) Handle(_ context.Context, r slog.Record) error {
	var text strings.Builder
	text.WriteString(r.Message)
	add := func(a slog.Attr) bool {
		fmt.Fprintf(&text, " %s=%q", a.Key, a.Value.String())
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	h.told.tell(func() { h.told.trial.Note(text.String()) })
	return nil
}

// WithAttrs is of slog.Handler.
func (h noteHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = append(slices.Clip(h.attrs), attrs...)
	return h
}

// WithGroup is of slog.Handler. Nobody here groups.
func (h noteHandler) WithGroup(string) slog.Handler { return h }
