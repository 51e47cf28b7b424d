package api

import (
	"context"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

func (s *Server) listActions(ctx context.Context, q *componentQuery) ([]Action, error) {
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	list := []Action{}
	for _, r := range selected(ctx, catalog, manifest.KindAction, q) {
		list = append(list, action(catalog, r))
	}
	return list, nil
}

func (s *Server) showAction(ctx context.Context, in *byRef) (*Action, error) {
	catalog, r, err := s.find(ctx, manifest.KindAction, in.Ref)
	if err != nil {
		return nil, err
	}
	a := action(catalog, r)
	a.Manifest, err = normalForm(catalog, r.Spec)
	return &a, err
}

func action(catalog *store.Catalog, r *store.Record) Action {
	spec := r.Spec.(*manifest.Action)
	return Action{
		Component: component(catalog, r), RunnerType: spec.RunnerType, EntryPoint: spec.EntryPoint,
		TimeoutSeconds: seconds(spec.Timeout), Parameters: spec.Parameters.Masked(), OutputSchema: spec.OutputSchema,
	}
}
