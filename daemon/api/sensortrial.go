package api

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/attune-io/attune/exec/rule"
	"github.com/attune-io/attune/exec/sensor"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// SensorTrialLine is one line of the trial of a sensor; one of its fields is set.
type SensorTrialLine struct {
	Started *SensorTrialStart `json:"started,omitempty"`
	Event   *SensorTrialEvent `json:"event,omitempty"`
	// Cursor is one that came without an event.
	Cursor json.RawMessage `json:"cursor,omitempty"`
	Log    *string         `json:"log,omitempty"`  // a line of its stderr
	Note   *string         `json:"note,omitempty"` // what the daemon would log of it
	Exit   *string         `json:"exit,omitempty"` // how it ended
	Error  *Error          `json:"error,omitempty"`
}

// SensorTrialStart is the begin of a trial.
type SensorTrialStart struct {
	PID    int    `json:"pid"`
	Digest string `json:"digest"` // of the revision that it runs from
}

// SensorTrialEvent is an event that a sensor would emit, with what would follow.
type SensorTrialEvent struct {
	Trigger  string          `json:"trigger_ref"`
	Instance string          `json:"instance,omitempty"`
	EventID  string          `json:"event_id,omitempty"`
	Payload  json.RawMessage `json:"payload"`
	Cursor   json.RawMessage `json:"cursor,omitempty"`
	// Problem says how the payload fails its schema, and Refused that the event would not be stored.
	Problem string `json:"problem,omitempty"`
	Refused string `json:"refused,omitempty"`
	// Rules are those that would match, or fail; Others counts the rules on its trigger that would not.
	Rules  []SensorTrialRule `json:"rules"`
	Others int               `json:"others"`
}

// SensorTrialRule is a rule that would match.
type SensorTrialRule struct {
	Rule       string           `json:"rule_ref"`
	Outcome    string           `json:"outcome"` // matched, skipped or error
	Reason     string           `json:"reason,omitempty"`
	Executions []TrialExecution `json:"executions"`
	Limits     []string         `json:"limits,omitempty"` // which are not asked
}

// trySensor runs a sensor for as long as somebody reads.
func (s *Server) trySensor(ctx context.Context, in *byRef) (func(*lineWriter), error) {
	_, r, err := s.find(ctx, manifest.KindSensor, in.Ref)
	if err != nil {
		return nil, err
	}
	if err := s.opts.Access.Audit(ctx, *s.auditOf(ctx, "test sensor", r.Ref)); err != nil {
		return nil, err
	}
	s.log.Info("sensor is tried", "sensor", r.Ref, "by", caller(ctx))
	return func(w *lineWriter) {
		ctx, cancel := s.streaming(ctx)
		defer cancel()
		write := func(line SensorTrialLine) {
			if w.write(line, true) != nil {
				cancel()
			}
		}
		exit, err := s.opts.Sensors.Try(ctx, r.Ref, sensor.Trial{
			Started: func(pid int, revision string) {
				write(SensorTrialLine{Started: &SensorTrialStart{PID: pid, Digest: revision}})
			},
			Event:  func(e store.NewEvent) { write(s.sensorTrialEvent(ctx, &e)) },
			Cursor: func(cursor json.RawMessage) { write(SensorTrialLine{Cursor: cursor}) },
			Log:    func(line string) { write(SensorTrialLine{Log: &line}) },
			Note:   func(text string) { write(SensorTrialLine{Note: &text}) },
		})
		if err != nil {
			if errors.Is(err, sensor.ErrUnknown) {
				err = newError(CodeConflict, "cannot try sensor "+r.Ref+": this node has not heard of it yet", "try again in a moment")
			}
			write(SensorTrialLine{Error: problemOf(ctx, err)})
			return
		}
		text := exit.String()
		write(SensorTrialLine{Exit: &text})
	}, nil
}

// sensorTrialEvent tells what would become of an event.
func (s *Server) sensorTrialEvent(ctx context.Context, e *store.NewEvent) SensorTrialLine {
	told := &SensorTrialEvent{
		Trigger: e.Trigger, Instance: e.Instance, EventID: e.EventID, Payload: e.Payload, Cursor: e.Cursor,
		Rules: []SensorTrialRule{},
	}
	line := SensorTrialLine{Event: told}
	index, err := s.opts.Rules.Newest(ctx)
	if err != nil {
		told.Refused = err.Error()
		return line
	}
	catalog := index.Catalog()
	record := catalog.Triggers[e.Trigger]
	switch {
	case record == nil || !record.Present:
		told.Refused = "there is no trigger " + e.Trigger
		return line
	case !record.Enabled:
		told.Refused = "trigger " + e.Trigger + " is disabled"
		return line
	}
	payload, problem, err := payloadFor(record.Spec.(*manifest.Trigger), e.Payload)
	if err != nil {
		told.Refused = err.Error()
		return line
	}
	event := &store.Event{
		CreatedAt: time.Now(), Trigger: e.Trigger, Instance: e.Instance, Source: e.Source, EventID: e.EventID,
		Payload: payload, Problem: problem,
	}
	told.Payload, told.Problem = maskedPayload(catalog, event), problem
	for _, ref := range index.Concerned(e.Trigger) {
		if v := index.Explain(ref, event, s.opts.PackConfig); v.Outcome == store.EnforcementMatched ||
			v.Outcome == store.EnforcementSkipped || v.Outcome == store.EnforcementError {
			told.Rules = append(told.Rules, s.sensorTrialRule(catalog, ref, &v))
		} else {
			told.Others++
		}
	}
	return line
}

func (s *Server) sensorTrialRule(catalog *store.Catalog, ref string, v *rule.Verdict) SensorTrialRule {
	told := SensorTrialRule{Rule: ref, Outcome: v.Outcome, Reason: v.Reason, Executions: []TrialExecution{}}
	if record := catalog.Rules[ref]; record != nil {
		told.Limits = limitsOf(record.Spec.(*manifest.Rule))
	}
	for _, e := range v.Executions {
		told.Executions = append(told.Executions, TrialExecution{
			Action: e.Action, Item: e.Item, Secrets: e.Secrets,
			Parameters: masked(catalog, &store.Execution{Action: e.Action, Parameters: e.Parameters}),
		})
	}
	return told
}
