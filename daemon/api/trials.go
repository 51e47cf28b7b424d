package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/attune-io/attune/exec/rule"
	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// NewTrial asks what a rule would make of an event. Nothing is stored and nothing runs.
type NewTrial struct {
	// EventID is a stored event; 0: Payload is the event's.
	EventID int64 `json:"event_id,omitempty" minimum:"0"`
	// Payload of an event of the rule's trigger and instance. Defaults to {}.
	Payload json.RawMessage `json:"payload,omitempty"`
	TrialSource
}

// TrialSource says which form of the rule is tried. Where nothing is given, it is the one of the packs
// folder, where that is not in force yet, and else the one in force.
type TrialSource struct {
	// Source is the text of a rule's manifest, and File its name for messages.
	Source string `json:"source,omitempty" maxLength:"1048576"`
	File   string `json:"file,omitempty" maxLength:"4096"`
	// InForce wants the form that is in force, whatever the packs folder has.
	InForce bool `json:"in_force,omitempty"`
}

// Trial is what a rule would make of an event.
type Trial struct {
	Rule string `json:"rule_ref"`
	// File is where the form that was tried stands; Applied says that it is the one in force.
	File    string `json:"file"`
	Applied bool   `json:"applied"`
	// Matched says that it would queue something, were it not for its limits.
	Matched bool `json:"matched"`
	// Outcome is matched, skipped, error, not_matched, other_instance or disabled.
	Outcome    string           `json:"outcome"`
	Reason     string           `json:"reason"`
	When       string           `json:"when"` // empty: always
	Parts      []manifest.Part  `json:"parts"`
	Warnings   []string         `json:"warnings"`
	Executions []TrialExecution `json:"executions"`
	// Limits are the rule's limits, which are not asked: they depend on what came before.
	Limits []string `json:"limits"`
	// Problem says how the payload fails the trigger's schema; empty: it fits.
	Problem string `json:"problem,omitempty"`
	// Findings are those about the form that was tried.
	Findings manifest.Errors `json:"findings"`
}

// TrialExecution is an execution that a rule would queue.
type TrialExecution struct {
	Action     string            `json:"action_ref"`
	Item       int               `json:"item"` // of for_each
	Parameters json.RawMessage   `json:"parameters"`
	Secrets    map[string]string `json:"secrets,omitempty"` // JSON pointer to the secret that belongs there
}

// trialRequest is the input of a trial.
type trialRequest struct {
	Ref  string `path:"ref" doc:"The rule's ref"`
	Body NewTrial
}

func (s *Server) tryRule(ctx context.Context, in *trialRequest) (*Trial, error) {
	t, err := s.tried(ctx, in.Ref, in.Body.TrialSource)
	if err != nil {
		return nil, err
	}
	event := &store.Event{CreatedAt: time.Now(), Trigger: t.spec.Trigger.Ref, Source: sourceAPI, Payload: json.RawMessage("{}")}
	problem := ""
	switch {
	case in.Body.EventID != 0:
		if event, _, err = s.opts.Store.Event(ctx, in.Body.EventID); err != nil {
			return nil, numbered("event", in.Body.EventID, err)
		}
		problem = event.Problem
	case len(bytes.TrimSpace(in.Body.Payload)) > 0:
		if event.Payload, problem, err = s.trialPayload(t, in.Body.Payload); err != nil {
			return nil, err
		}
	}
	trial := t.trial(event, s.opts.PackConfig)
	trial.Problem = problem
	return trial, nil
}

func (s *Server) trialPayload(t *tried, payload json.RawMessage) (json.RawMessage, string, error) {
	record := t.index.Catalog().Triggers[t.spec.Trigger.Ref]
	if record == nil {
		return payload, "", nil
	}
	return payloadFor(record.Spec.(*manifest.Trigger), payload)
}

// tried is one form of a rule, ready to be tried.
type tried struct {
	ref      string
	spec     *manifest.Rule
	index    *rule.Index
	file     string
	applied  bool
	findings manifest.Errors
}

// tried finds the form that is wanted.
func (s *Server) tried(ctx context.Context, ref string, source TrialSource) (*tried, error) {
	index, err := s.opts.Rules.Newest(ctx)
	if err != nil {
		return nil, err
	}
	catalog := index.Catalog()
	record := catalog.Rules[ref]
	var candidate *reconcile.Candidate
	switch {
	case source.Source != "":
		name := source.File
		if name == "" {
			name = "the given text"
		}
		if candidate = reconcile.CandidateFile(ref, name, []byte(source.Source), catalog); candidate == nil {
			return nil, newError(CodeInvalidRequest, fmt.Sprintf("cannot try %s: it holds no rule %s", name, ref), "name the rule as its file does")
		}
	case !source.InForce:
		if candidate, err = reconcile.CandidateInFolder(s.opts.Info.Directories, ref, catalog); err != nil {
			return nil, newError(CodeConflict, err.Error(), "try the rule in force, or name a file")
		}
	}
	if candidate == nil || source.Source == "" && record != nil && candidate.Rule != nil && sameForm(candidate.Rule, record.Spec) {
		if record == nil {
			_, _, err := s.find(ctx, manifest.KindRule, ref)
			return nil, err
		}
		return &tried{
			ref: ref, spec: record.Spec.(*manifest.Rule), index: index, file: filepath.Join(record.Pack, record.File),
			applied: true, findings: manifest.Errors{},
		}, nil
	}
	if candidate.Errors.HasErrors() || candidate.Rule == nil {
		return nil, newError(CodeConflict, fmt.Sprintf("cannot try rule %s: its file would be refused", ref), "correct it first", findingDetails(candidate.Errors)...)
	}
	return &tried{
		ref: ref, spec: candidate.Rule, index: rule.Try(catalog, candidate.Components, s.log), file: candidate.File,
		applied:  record != nil && sameForm(candidate.Rule, record.Spec),
		findings: candidate.Errors,
	}, nil
}

func findingDetails(errs manifest.Errors) []ErrorDetail {
	var list []ErrorDetail
	for _, e := range errs {
		if e.Severity == manifest.SeverityError {
			list = append(list, ErrorDetail{Message: e.Error()})
		}
	}
	return list
}

// sameForm says whether two manifests mean the same.
func sameForm(a, b manifest.Component) bool {
	one, err := manifest.Encode(a)
	if err != nil {
		return false
	}
	other, err := manifest.Encode(b)
	return err == nil && bytes.Equal(one, other)
}

// trial tries the rule on one event.
func (t *tried) trial(event *store.Event, config func(string) map[string]any) *Trial {
	v := t.index.Explain(t.ref, event, config)
	trial := &Trial{
		Rule: t.ref, File: t.file, Applied: t.applied, Matched: v.Outcome == store.EnforcementMatched, Outcome: v.Outcome,
		Reason: v.Reason, When: t.spec.When, Parts: maskedParts(t.index.Catalog(), event.Trigger, v.Parts), Warnings: orEmpty(v.Warnings),
		Executions: []TrialExecution{}, Limits: limitsOf(t.spec), Findings: t.findings,
	}
	if trial.Findings == nil {
		trial.Findings = manifest.Errors{}
	}
	for _, e := range v.Executions {
		trial.Executions = append(trial.Executions, TrialExecution{
			Action: e.Action, Item: e.Item, Secrets: e.Secrets,
			Parameters: masked(t.index.Catalog(), &store.Execution{Action: e.Action, Parameters: e.Parameters}),
		})
	}
	return trial
}

// limitsOf tells the limits of a rule as people would.
func limitsOf(r *manifest.Rule) []string {
	list := []string{}
	by := func(key string) string {
		if key == "" {
			return ""
		}
		return ", by " + key
	}
	if t := r.Throttle; t != nil {
		list = append(list, fmt.Sprintf("throttle: at most %d per %s%s", t.Max, t.Per, by(t.Key)))
	}
	if b := r.Debounce; b != nil {
		text := fmt.Sprintf("debounce: once it is quiet for %s", b.Window)
		if b.MaxWait > 0 {
			text += fmt.Sprintf(", after %s at the latest", b.MaxWait)
		}
		list = append(list, text+by(b.Key))
	}
	if u := r.Dedupe; u != nil {
		key := u.Key
		if key == "" {
			key = "the whole payload"
		}
		list = append(list, fmt.Sprintf("dedupe: once per %s%s", u.Window, by(key)))
	}
	if b := r.Breaker; b != nil {
		text := "breaker:"
		if b.Executions > 0 {
			text += fmt.Sprintf(" more than %d executions per %s", b.Executions, b.Per)
		}
		if b.Failures > 0 {
			if b.Executions > 0 {
				text += " or"
			}
			text += fmt.Sprintf(" %d failures in a row", b.Failures)
		}
		list = append(list, text+fmt.Sprintf(" stop it for %s", b.Pause))
	}
	return list
}

// NewTrialRun asks how an edited rule would differ from the one in force, over the stored events.
type NewTrialRun struct {
	Since string `json:"since" minLength:"1" doc:"90s, 1h or 7d before now, or an RFC 3339 time"`
	TrialSource
}

// trialRunRequest is the input of a run over stored events.
type trialRunRequest struct {
	Ref  string `path:"ref" doc:"The rule's ref"`
	Body NewTrialRun
}

// TrialLine is one line of a run: an event whose verdict differs, how far it has come, or at the end the
// sum.
type TrialLine struct {
	Difference *TrialDifference `json:"difference,omitempty"`
	Progress   *TrialProgress   `json:"progress,omitempty"`
	Sum        *TrialSum        `json:"sum,omitempty"`
	Error      *Error           `json:"error,omitempty"` // the run ended early
}

// TrialDifference is an event that a rule would treat otherwise.
type TrialDifference struct {
	EventID   int64     `json:"event_id"`
	CreatedAt time.Time `json:"created_at"`
	// Change is newly_matches, no_longer_matches, runs_otherwise (other actions or parameters) or
	// newly_fails.
	Change string `json:"change"`
	Was    string `json:"was"` // outcome of the rule in force
	Is     string `json:"is"`  // outcome of the edited one
	Reason string `json:"reason"`
	// Payload is the event's.
	Payload json.RawMessage `json:"payload"`
}

// TrialProgress is how far a run has come, newest events first.
type TrialProgress struct {
	Events int       `json:"events"`
	Back   time.Time `json:"back"` // the oldest event so far
}

// TrialSum is the end of a run.
type TrialSum struct {
	Rule            string    `json:"rule_ref"`
	File            string    `json:"file"`
	Applied         bool      `json:"applied"` // it is the form in force: there can be no difference
	Since           time.Time `json:"since"`
	Events          int       `json:"events"`
	Matched         int       `json:"matched"` // by the edited rule
	NewlyMatches    int       `json:"newly_matches"`
	NoLongerMatches int       `json:"no_longer_matches"`
	RunsOtherwise   int       `json:"runs_otherwise"`
	NewlyFails      int       `json:"newly_fails"`
	Limits          []string  `json:"limits"` // which are not asked
}

// The changes of a TrialDifference.
const (
	changeNewly     = "newly_matches"
	changeNoLonger  = "no_longer_matches"
	changeOtherwise = "runs_otherwise"
	changeFails     = "newly_fails"
)

// trialPage is how many events are read at once: few enough that a run in the background disturbs nobody.
const trialPage = 500

// tryRuleSince runs an edited rule and the one in force over the stored events.
func (s *Server) tryRuleSince(ctx context.Context, in *trialRunRequest) (func(*lineWriter), error) {
	since, err := parseSince(in.Body.Since, time.Now())
	if err != nil {
		return nil, err
	}
	edited, err := s.tried(ctx, in.Ref, in.Body.TrialSource)
	if err != nil {
		return nil, err
	}
	inForce, err := s.opts.Rules.Newest(ctx)
	if err != nil {
		return nil, err
	}
	triggers := []string{edited.spec.Trigger.Ref}
	if r := inForce.Catalog().Rules[in.Ref]; r != nil {
		triggers = append(triggers, r.Spec.(*manifest.Rule).Trigger.Ref)
	}
	return func(w *lineWriter) {
		ctx, cancel := s.streaming(ctx)
		defer cancel()
		run := trialRun{edited: edited, inForce: inForce, config: s.opts.PackConfig, sum: TrialSum{
			Rule: in.Ref, File: edited.file, Applied: edited.applied, Since: since, Limits: limitsOf(edited.spec),
		}}
		if err := s.runTrial(ctx, w, &run, triggers, since); err != nil {
			if ctx.Err() == nil {
				_ = w.write(TrialLine{Error: problemOf(ctx, err)}, true) // a reader that has gone needs no error
			}
			return
		}
		_ = w.write(TrialLine{Sum: &run.sum}, true)
	}, nil
}

// runTrial goes back through the events page by page, and ends when its reader goes.
func (s *Server) runTrial(ctx context.Context, w *lineWriter, run *trialRun, triggers []string, since time.Time) error {
	before := int64(0)
	for {
		events, err := s.opts.Store.ListEvents(ctx, store.EventFilter{Triggers: triggers, Since: since, Before: before, Limit: trialPage})
		if err != nil {
			return err
		}
		for i := range events {
			d := run.compare(&events[i])
			if d == nil {
				continue
			}
			d.Payload = maskedPayload(run.inForce.Catalog(), &events[i])
			if err := w.write(TrialLine{Difference: d}, false); err != nil {
				return err
			}
		}
		if len(events) < trialPage {
			return nil
		}
		last := &events[len(events)-1]
		before = last.ID
		if err := w.write(TrialLine{Progress: &TrialProgress{Events: run.sum.Events, Back: last.CreatedAt}}, true); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

type trialRun struct {
	edited  *tried
	inForce *rule.Index
	config  func(string) map[string]any
	sum     TrialSum
}

// compare gives the difference that an event makes; nil: none.
func (r *trialRun) compare(event *store.Event) *TrialDifference {
	r.sum.Events++
	was := r.inForce.Explain(r.edited.ref, event, r.config)
	is := r.edited.index.Explain(r.edited.ref, event, r.config)
	matchedBefore, matches := was.Outcome == store.EnforcementMatched, is.Outcome == store.EnforcementMatched
	if matches {
		r.sum.Matched++
	}
	d := &TrialDifference{
		EventID: event.ID, CreatedAt: event.CreatedAt, Was: was.Outcome, Is: is.Outcome, Reason: is.Reason, Payload: event.Payload,
	}
	switch {
	case is.Outcome == store.EnforcementError && was.Outcome != store.EnforcementError:
		d.Change = changeFails
		r.sum.NewlyFails++
	case matches && !matchedBefore:
		d.Change, d.Reason = changeNewly, was.Reason
		r.sum.NewlyMatches++
	case !matches && matchedBefore:
		d.Change = changeNoLonger
		r.sum.NoLongerMatches++
	case matches && !sameExecutions(was.Executions, is.Executions):
		d.Change, d.Reason = changeOtherwise, ""
		r.sum.RunsOtherwise++
	default:
		return nil
	}
	return d
}

func sameExecutions(a, b []store.NewExecution) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		one, other := a[i], b[i]
		if one.Action != other.Action || one.Item != other.Item || one.Priority != other.Priority ||
			!bytes.Equal(one.Parameters, other.Parameters) || fmt.Sprint(one.Secrets) != fmt.Sprint(other.Secrets) {
			return false
		}
	}
	return true
}
