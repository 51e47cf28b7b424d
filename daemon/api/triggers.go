package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// sourceAPI is the source of events that people and programs fire.
const sourceAPI = "api"

func (s *Server) listTriggers(ctx context.Context, q *componentQuery) ([]Trigger, error) {
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	rules := rulesByTrigger(catalog)
	list := []Trigger{}
	for _, r := range selected(ctx, catalog, manifest.KindTrigger, q) {
		t := s.trigger(catalog, r, rules)
		t.Rules = onlyRefs(ctx, t.Rules)
		if q.Type == "" || q.Type == t.Type {
			list = append(list, t)
		}
	}
	return list, nil
}

func (s *Server) showTrigger(ctx context.Context, in *byRef) (*Trigger, error) {
	catalog, r, err := s.find(ctx, manifest.KindTrigger, in.Ref)
	if err != nil {
		return nil, err
	}
	t := s.trigger(catalog, r, rulesByTrigger(catalog))
	if t.Manifest, err = normalForm(catalog, r.Spec); err != nil {
		return nil, err
	}
	instances, err := s.opts.Store.TriggerInstances(ctx, []string{r.Ref})
	if err != nil {
		return nil, err
	}
	t.Rules = onlyRefs(ctx, t.Rules)
	for _, i := range instances {
		rules := onlyRefs(ctx, orEmpty(i.Rules))
		if len(rules) == 0 && len(i.Rules) > 0 {
			continue
		}
		t.Instances = append(t.Instances, TriggerInstance{
			ID: i.ID, Parameters: maskSecrets(takenBy(r), i.Parameters), Rules: rules, AnchorAt: i.AnchorAt, LastDue: i.LastDue,
		})
	}
	return &t, nil
}

func (s *Server) trigger(catalog *store.Catalog, r *store.Record, rules map[string][]string) Trigger {
	spec := r.Spec.(*manifest.Trigger)
	return Trigger{
		Component: component(catalog, r), Type: spec.Type, WebhookURL: s.webhookURL(spec), ParametersSchema: spec.ParametersSchema.Masked(),
		PayloadSchema: spec.PayloadSchema, Rules: orEmpty(rules[r.Ref]),
	}
}

// rulesByTrigger lists the rules in force by their trigger, each list by ref.
func rulesByTrigger(catalog *store.Catalog) map[string][]string {
	rules := map[string][]string{}
	for _, ref := range slices.Sorted(maps.Keys(catalog.Rules)) {
		if r := catalog.Rules[ref]; r.Enabled {
			on := r.Spec.(*manifest.Rule).Trigger.Ref
			rules[on] = append(rules[on], ref)
		}
	}
	return rules
}

// fireBody is Fire as it comes in.
type fireBody struct {
	Payload  json.RawMessage `json:"payload,omitempty" doc:"The event's payload, an object. Defaults to {}."`
	Instance string          `json:"instance,omitempty" doc:"The trigger instance that it is meant for. Defaults to all."`
	EventID  string          `json:"event_id,omitempty" maxLength:"255" doc:"Makes a repetition harmless."`
}

// fireRequest is the input of a fire.
type fireRequest struct {
	Ref  string `path:"ref"`
	Body fireBody
}

func (s *Server) fireTrigger(ctx context.Context, in *fireRequest) (*Fired, error) {
	catalog, r, err := s.find(ctx, manifest.KindTrigger, in.Ref)
	if err != nil {
		return nil, err
	}
	if !r.Enabled {
		return nil, disabled(catalog, r)
	}
	event := store.NewEvent{Trigger: r.Ref, Instance: in.Body.Instance, Source: sourceAPI, EventID: in.Body.EventID, Audit: s.auditOf(ctx, "fire trigger", r.Ref)}
	if event.Payload, event.Problem, err = payloadFor(r.Spec.(*manifest.Trigger), in.Body.Payload); err != nil {
		return nil, err
	}
	if event.Instance != "" {
		if err := s.knownInstance(ctx, r.Ref, event.Instance); err != nil {
			return nil, err
		}
	}
	stored, err := s.opts.Events.Submit(ctx, event)
	if err != nil {
		return nil, fmt.Errorf("cannot fire trigger %s: %w", r.Ref, err)
	}
	detail, err := s.eventDetail(ctx, stored.ID)
	if err != nil {
		// It is stored. An error would have the caller fire again.
		s.log.Warn("event stored, but not read back", "event_id", stored.ID, "err", err)
		stored.Payload = maskedPayload(catalog, &stored.Event)
		detail = &EventDetail{Event: stored.Event, Enforcements: []Enforcement{}, Rules: []RuleVerdict{}}
	}
	return &Fired{EventDetail: *detail, Duplicate: stored.Duplicate, Executions: orEmpty(stored.Executions)}, nil
}

// payloadFor checks a payload against the trigger. A misfit refuses the event only where the trigger
// says so; else it is kept with the event, as for a sensor's.
func payloadFor(t *manifest.Trigger, payload json.RawMessage) (json.RawMessage, string, error) {
	if len(bytes.TrimSpace(payload)) == 0 || string(payload) == "null" {
		payload = json.RawMessage("{}")
	}
	value, err := decode(payload)
	if err != nil {
		return nil, "", newError(CodeInvalidParameters, fmt.Sprintf("cannot read the payload for trigger %s: %v", t.Ref, err), "")
	}
	if _, ok := value.(map[string]any); !ok {
		return nil, "", newError(CodeInvalidParameters, fmt.Sprintf("cannot use the payload for trigger %s: expected a JSON object", t.Ref), "")
	}
	misfits := t.PayloadSchema.Validate(value)
	switch {
	case len(misfits) == 0:
		return payload, "", nil
	case t.OnInvalid == "refuse":
		return nil, "", newError(CodeInvalidParameters, fmt.Sprintf("the payload does not fit trigger %s", t.Ref),
			"see `attune trigger show "+t.Ref+"`", details(misfits)...)
	}
	var told []string
	for _, m := range misfits {
		told = append(told, strings.TrimPrefix(m.Pointer+": "+m.Message, ": "))
	}
	return payload, strings.Join(told, "; "), nil
}

// knownInstance refuses an instance that no rule asks for: the event would match nothing, and nobody
// would know why.
func (s *Server) knownInstance(ctx context.Context, trigger, instance string) error {
	instances, err := s.opts.Store.TriggerInstances(ctx, []string{trigger})
	if err != nil {
		return err
	}
	var ids []string
	for _, i := range instances {
		if i.ID == instance {
			return nil
		}
		ids = append(ids, i.ID)
	}
	return unknown("trigger instance", instance, ids)
}

// decode reads JSON as schemas want it: numbers keep their digits.
func decode(text json.RawMessage) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	if decoder.More() {
		return nil, errors.New("found more than one value")
	}
	return value, nil
}

func details(misfits []manifest.SchemaError) []ErrorDetail {
	list := make([]ErrorDetail, len(misfits))
	for i, m := range misfits {
		list[i] = ErrorDetail{Pointer: m.Pointer, Message: m.Message}
	}
	return list
}
