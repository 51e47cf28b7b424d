package api

import (
	"context"
	"slices"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

func (s *Server) listRules(ctx context.Context, q *componentQuery) ([]Rule, error) {
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	list := []Rule{}
	for _, record := range selected(ctx, catalog, manifest.KindRule, q) {
		r := s.rule(catalog, record)
		runs := func(a RuleAction) bool { return a.Action == q.Action }
		if (q.Trigger == "" || q.Trigger == r.Trigger) && (q.Action == "" || slices.ContainsFunc(r.Actions, runs)) {
			list = append(list, r)
		}
	}
	return list, nil
}

func (s *Server) showRule(ctx context.Context, in *byRef) (*Rule, error) {
	catalog, record, err := s.find(ctx, manifest.KindRule, in.Ref)
	if err != nil {
		return nil, err
	}
	r := s.rule(catalog, record)
	if record.Spec.(*manifest.Rule).Debounce != nil {
		if r.WaitingForQuiet, err = s.opts.Store.WaitingForQuiet(ctx, in.Ref); err != nil {
			return nil, err
		}
	}
	r.Manifest, err = normalForm(catalog, record.Spec)
	return &r, err
}

func (s *Server) rule(catalog *store.Catalog, record *store.Record) Rule {
	spec := record.Spec.(*manifest.Rule)
	r := Rule{
		Component: component(catalog, record), Trigger: spec.Trigger.Ref, TriggerParameters: shownParameters(catalog, manifest.KindTrigger, spec.Trigger),
		When: spec.When, ForEach: spec.ForEach, Priority: spec.Priority, Actions: []RuleAction{},
		Limits: limitsOf(spec), Breaker: s.breakerOf(record.Ref), Obstacles: obstacles(catalog, record),
	}
	for _, use := range spec.Actions {
		r.Actions = append(r.Actions, RuleAction{Action: use.Ref, Parameters: shownParameters(catalog, manifest.KindAction, use)})
	}
	if len(r.Actions) > 0 {
		r.Action = r.Actions[0].Action
	}
	return r
}

// shownParameters are what a rule gives, without what is secret of it.
func shownParameters(catalog *store.Catalog, kind manifest.Kind, use manifest.Use) map[string]any {
	parameters := orObject(use.Parameters)
	if known := catalog.Records(kind)[use.Ref]; known != nil {
		parameters = manifest.MaskedValues(parameters, takenBy(known))
	}
	return parameters
}

// obstacles are what a rule in force names and is not in force, its trigger first.
func obstacles(catalog *store.Catalog, rule *store.Record) []Obstacle {
	found := []Obstacle{}
	if !rule.Enabled {
		return found
	}
	look := func(kind manifest.Kind, ref string) {
		named := catalog.Records(kind)[ref]
		if named == nil || named.Enabled || slices.ContainsFunc(found, func(o Obstacle) bool { return o.Kind == kind && o.Ref == ref }) {
			return
		}
		pack := catalog.Packs[named.Pack]
		found = append(found, Obstacle{Kind: kind, Ref: ref, Why: store.WhyDisabled(named, pack), Hint: store.WayBack(named, pack)})
	}
	spec := rule.Spec.(*manifest.Rule)
	look(manifest.KindTrigger, spec.Trigger.Ref)
	for _, use := range spec.Actions {
		look(manifest.KindAction, use.Ref)
	}
	return found
}

func orObject(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}
