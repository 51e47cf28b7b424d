package api

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/attune-io/attune/exec/rule"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// Rules evaluates rules for events that are stored already; rule.Intake is it.
type Rules interface {
	// Newest gives the rules of the newest catalog that is known.
	Newest(ctx context.Context) (*rule.Index, error)
	// Breakers lists the rules whose breaker is open.
	Breakers() []store.Breaker
	// Closed is told that somebody closed a breaker by hand.
	Closed(rule string)
}

// RuleVerdict is what one rule made of an event.
type RuleVerdict struct {
	Rule string `json:"rule_ref"`
	// Outcome is what is stored with the event (matched, throttled, deduplicated, skipped, error), or for
	// rules that left nothing there what they give when they are evaluated now: not_matched,
	// other_instance, disabled, or again matched, skipped or error, where the rule is newer than the event.
	Outcome string `json:"outcome"`
	// Stored says that the outcome is the one that is stored.
	Stored bool `json:"stored"`
	// Reason says why it did not match, or did not run.
	Reason string `json:"reason"`
	// ChangedSince says that the rule is not the one that saw the event: Parts are those of today's.
	ChangedSince bool   `json:"changed_since"`
	When         string `json:"when"` // empty: always
	// Parts are the terms of the condition, each with its value for this event.
	Parts    []manifest.Part `json:"parts"`
	Warnings []string        `json:"warnings,omitempty"`
	// File is the rule's manifest, and Digest the revision of its pack that it runs from.
	File       string  `json:"file"`
	Digest     string  `json:"digest"`
	Executions []int64 `json:"executions"`
}

// maxVerdicts bounds the rules that are told beside those that left something: what ten thousand rules
// did not do is told in one number.
const maxVerdicts = 200

// verdicts tells what each rule on an event's trigger made of it: those that left something first, the
// others by ref. more are those that are not told.
func (s *Server) verdicts(ctx context.Context, event *store.Event, enforcements []store.Enforcement) (list []RuleVerdict, more int, err error) {
	index, err := s.opts.Rules.Newest(ctx)
	if err != nil {
		return nil, 0, err
	}
	catalog := index.Catalog()
	list = []RuleVerdict{}
	told := map[string]bool{}
	for _, e := range enforcements {
		v := s.verdict(index, event, e.Rule)
		v.Outcome, v.Stored, v.Reason, v.Warnings = e.Status, true, e.Error, e.Warnings
		v.Executions = orEmpty(e.Executions)
		list, told[e.Rule] = append(list, v), true
	}
	for _, ref := range index.Concerned(event.Trigger) {
		if told[ref] {
			continue
		}
		if len(list)-len(told) >= maxVerdicts {
			more++
			continue
		}
		v := s.verdict(index, event, ref)
		if r := catalog.Rules[ref]; r != nil && r.CreatedAt.After(event.CreatedAt) {
			v.Reason = joinReasons("the rule is newer than the event", v.Reason)
		} else if v.ChangedSince {
			v.Reason = joinReasons("as the rule is now", v.Reason)
		}
		list = append(list, v)
	}
	return list, more, nil
}

func joinReasons(first, second string) string {
	if second == "" {
		return first
	}
	return first + ": " + second
}

// verdict evaluates one rule anew.
func (s *Server) verdict(index *rule.Index, event *store.Event, ref string) RuleVerdict {
	found := index.Explain(ref, event, s.opts.PackConfig)
	v := RuleVerdict{
		Rule: ref, Outcome: found.Outcome, Reason: found.Reason, Parts: maskedParts(index.Catalog(), event.Trigger, found.Parts), Warnings: found.Warnings,
		Executions: []int64{},
	}
	record := index.Catalog().Rules[ref]
	if record == nil {
		return v
	}
	v.File, v.Digest = record.Pack+"/"+record.File, record.TreeDigest
	v.ChangedSince = record.UpdatedAt.After(event.CreatedAt)
	if spec, ok := record.Spec.(*manifest.Rule); ok {
		v.When = spec.When
	}
	return v
}

// replayBody is Replay as it comes in.
type replayBody struct {
	Rules []string `json:"rules,omitempty" maxItems:"1000" doc:"Only for these rules, whatever instance they wait for. Defaults to all that the event concerns."`
}

// replayRequest is the input of a replay.
type replayRequest struct {
	ID   int64 `path:"id" minimum:"1"`
	Body replayBody
}

// replayEvent stores an event anew, under the rules of today.
func (s *Server) replayEvent(ctx context.Context, in *replayRequest) (*Fired, error) {
	old, _, err := s.opts.Store.Event(ctx, in.ID)
	if err == nil && !sees(ctx, packOfRef(old.Trigger)) {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, numbered("event", in.ID, err)
	}
	rules, err := s.replayed(ctx, old, in.Body.Rules)
	if err != nil {
		return nil, err
	}
	stored, err := s.opts.Events.Submit(ctx, store.NewEvent{
		Trigger: old.Trigger, Instance: old.Instance, Source: sourceAPI, Payload: old.Payload, ReplayOf: old.ID, Rules: rules,
		Audit: s.auditOf(ctx, "replay event", strconv.FormatInt(old.ID, 10)),
	})
	if err != nil {
		return nil, fmt.Errorf("cannot replay event %d: %w", old.ID, err)
	}
	s.log.Info("event replayed", "event_id", stored.ID, "replay_of", old.ID, "by", caller(ctx))
	detail, err := s.eventDetail(ctx, stored.ID)
	if err != nil {
		// It is stored. An error would have the caller replay again.
		s.log.Warn("event stored, but not read back", "event_id", stored.ID, "err", err)
		stored.Payload = json.RawMessage("{}")
		detail = &EventDetail{Event: stored.Event, Enforcements: []Enforcement{}, Rules: []RuleVerdict{}}
	}
	return &Fired{EventDetail: *detail, Executions: orEmpty(stored.Executions)}, nil
}

// replayed checks the rules that somebody names for a replay: one that cannot hear of the event would
// make a replay that does nothing, and nobody would know why.
func (s *Server) replayed(ctx context.Context, event *store.Event, refs []string) ([]string, error) {
	for _, ref := range refs {
		if err := mayTouch(ctx, ref); err != nil {
			return nil, err
		}
		catalog, record, err := s.find(ctx, manifest.KindRule, ref)
		if err != nil {
			return nil, err
		}
		if !record.Enabled {
			return nil, disabled(catalog, record)
		}
		if on := record.Spec.(*manifest.Rule).Trigger.Ref; on != event.Trigger {
			return nil, newError(CodeConflict, fmt.Sprintf("cannot replay event %d for rule %s: the rule waits for %s, the event is of %s",
				event.ID, ref, on, event.Trigger), "")
		}
	}
	if len(refs) == 0 {
		return nil, nil
	}
	return slices.Compact(slices.Sorted(slices.Values(refs))), nil
}

// BreakerState is a rule's open breaker.
type BreakerState struct {
	OpenedAt  time.Time `json:"opened_at"`
	OpenUntil time.Time `json:"open_until"`
	Reason    string    `json:"reason"`
}

// breakerOf gives the rule's breaker where it is open; nil: it is not.
func (s *Server) breakerOf(ref string) *BreakerState {
	for _, b := range s.opts.Rules.Breakers() {
		if b.Rule == ref {
			return &BreakerState{OpenedAt: b.OpenedAt, OpenUntil: b.OpenUntil, Reason: b.Reason}
		}
	}
	return nil
}

// Reset is what a reset of a rule found.
type Reset struct {
	Rule string `json:"rule_ref"`
	store.Reset
}

// resetRule closes a rule's breaker and has its throttle and dedupe begin anew.
func (s *Server) resetRule(ctx context.Context, in *byRef) (*Reset, error) {
	if _, _, err := s.find(ctx, manifest.KindRule, in.Ref); err != nil {
		return nil, err
	}
	reset, err := s.opts.Store.ResetRule(ctx, in.Ref, caller(ctx))
	if err != nil {
		return nil, err
	}
	if reset.Closed {
		s.opts.Rules.Closed(in.Ref)
	}
	s.log.Info("rule reset", "rule", in.Ref, "by", caller(ctx), "breaker_closed", reset.Closed)
	return &Reset{Rule: in.Ref, Reset: reset}, nil
}
