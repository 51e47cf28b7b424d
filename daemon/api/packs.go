package api

import (
	"context"
	"maps"
	"slices"

	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// packQuery narrows the list of packs.
type packQuery struct {
	All bool `query:"all" doc:"The disabled and the vanished too"`
}

func (s *Server) listPacks(ctx context.Context, q *packQuery) ([]Pack, error) {
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	list := slices.DeleteFunc(packs(catalog, q.All), func(p Pack) bool { return !sees(ctx, p.Ref) })
	for i, p := range list {
		list[i] = s.withEnvironments(p)
	}
	return list, nil
}

// packs lists the packs by ref: those in force and those that want to be but cannot, or all.
func packs(catalog *store.Catalog, all bool) []Pack {
	counts := countByPack(catalog)
	list := []Pack{}
	for _, ref := range slices.Sorted(maps.Keys(catalog.Packs)) {
		if row := catalog.Packs[ref]; row.Enabled || row.Present && row.DisabledBy == "" && row.Errors.HasErrors() || all {
			list = append(list, pack(row, counts[ref]))
		}
	}
	return list
}

func pack(row *store.PackRow, counts ComponentCounts) Pack {
	p := Pack{
		Ref: row.Ref, Enabled: row.Enabled, Present: row.Present, ManifestEnabled: row.ManifestEnabled, DisabledBy: optional(row.DisabledBy),
		DisabledAt: row.DisabledAt, DisabledReason: optional(row.DisabledReason), WhyDisabled: row.WhyDisabled(), Directory: row.Directory, Revision: row.Revision, Digest: row.TreeDigest,
		PinnedBy: optional(row.PinnedBy), PinnedAt: row.PinnedAt, PinnedReason: optional(row.PinnedReason),
		Errors: orEmpty(row.Errors), Components: counts, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt,
	}
	// A pack whose first pack.yaml was refused has none.
	if m := row.Manifest; m != nil {
		p.Label, p.Description, p.Version, p.System = m.Label, m.Description, m.Version, m.System
	}
	return p
}

// countByPack counts the components in force.
func countByPack(catalog *store.Catalog) map[string]ComponentCounts {
	counts := map[string]ComponentCounts{}
	for _, kind := range manifest.ComponentKinds() {
		for _, r := range catalog.Records(kind) {
			if !r.Enabled {
				continue
			}
			c := counts[r.Pack]
			switch kind {
			case manifest.KindAction:
				c.Actions++
			case manifest.KindTrigger:
				c.Triggers++
			case manifest.KindSensor:
				c.Sensors++
			case manifest.KindRule:
				c.Rules++
			default:
				panic("api: unknown component kind " + string(kind))
			}
			counts[r.Pack] = c
		}
	}
	return counts
}

func (s *Server) findPack(ctx context.Context, ref string) (*store.Catalog, *store.PackRow, error) {
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, nil, err
	}
	if row, ok := catalog.Packs[ref]; ok {
		return catalog, row, nil
	}
	return nil, nil, unknown("pack", ref, slices.Collect(maps.Keys(catalog.Packs)))
}

func (s *Server) showPack(ctx context.Context, in *byRef) (*PackDetail, error) {
	catalog, row, err := s.findPack(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	detail := &PackDetail{Environments: s.environments(row.Ref), Pack: s.withEnvironments(pack(row, countByPack(catalog)[row.Ref]))}
	for _, drift := range s.opts.Reconciler.Status().Drift {
		if drift.Pack == row.Ref {
			detail.Drift = &drift
		}
	}
	detail.Config = s.configOf(row)
	if detail.Signature, err = s.signatureOf(ctx, row); err != nil {
		return nil, err
	}
	if row.Manifest != nil {
		if detail.Manifest, err = normalForm(catalog, row.Manifest); err != nil {
			return nil, err
		}
	}
	states := func(kind manifest.Kind) []ComponentState {
		list := []ComponentState{}
		for _, r := range selected(ctx, catalog, kind, &componentQuery{All: true, Pack: row.Ref}) {
			list = append(list, ComponentState{
				Ref: r.Ref, Label: r.Spec.Head().Label, Enabled: r.Enabled, Present: r.Present, Held: held(row, r),
				DisabledBy: optional(r.DisabledBy), WhyDisabled: store.WhyDisabled(r, row),
			})
		}
		return list
	}
	detail.Actions = states(manifest.KindAction)
	detail.Triggers = states(manifest.KindTrigger)
	detail.Sensors = states(manifest.KindSensor)
	detail.Rules = states(manifest.KindRule)
	return detail, nil
}

// signatureOf checks the signature of what is in force: of the files as the database has them, by the keys that count
// now.
func (s *Server) signatureOf(ctx context.Context, row *store.PackRow) (string, error) {
	trust := s.opts.Trust
	if row.RevisionID == 0 || trust.Signatures == "" || trust.Signatures == reconcile.SignaturesOff {
		return "", nil
	}
	_, tree, err := s.opts.Store.RevisionTree(ctx, row.RevisionID)
	if err != nil {
		return "", err
	}
	by, err := trust.VerifyTree(row.Ref, tree, func(digest string) ([]byte, error) { return s.opts.Store.FileContent(ctx, digest) })
	switch {
	case store.IsTransient(err):
		return "", err
	case err != nil:
		return err.Error(), nil
	}
	return "good, by " + by.String(), nil
}

// configOf tells a pack's configuration, where each key comes from, and hides what is secret.
func (s *Server) configOf(row *store.PackRow) []ConfigValue {
	values := []ConfigValue{}
	if row.Manifest == nil {
		return values
	}
	var operator map[string]any
	if s.opts.OperatorConfig != nil {
		operator = s.opts.OperatorConfig(row.Ref)
	}
	config, misfits := row.Manifest.EffectiveConfig(operator)
	schema := row.Manifest.ConfSchema
	shown := manifest.MaskedValues(config, schema)
	descriptions := map[string]string{}
	for _, p := range schema.Properties() {
		descriptions[p.Name] = p.Description
	}
	refused := map[string]bool{}
	for _, misfit := range misfits {
		refused[misfit.Key()] = true
	}
	for _, key := range slices.Sorted(maps.Keys(config)) {
		origin := "default"
		_, own := row.Manifest.Config[key]
		_, said := operator[key]
		switch {
		case said && !refused[key] && s.opts.ConfigPlace != nil:
			if place := s.opts.ConfigPlace(row.Ref, key); place != (manifest.Place{}) {
				origin = place.String()
			}
		case own:
			origin = "pack.yaml"
		}
		values = append(values, ConfigValue{
			Key: key, Value: shown[key], Secret: schema.HoldsSecret(key), Origin: origin, Description: descriptions[key],
		})
	}
	return values
}

// onePack is the input of what can be asked of all packs or of one.
type onePack struct {
	Pack string `query:"pack" doc:"Report on this pack only"`
}

func (s *Server) plan(ctx context.Context, in *onePack) (*Plan, error) {
	if err := mayTouch(ctx, in.Pack); err != nil {
		return nil, err
	}
	if err := s.sourceProblem(); err != nil {
		return nil, err
	}
	plan, err := s.opts.Reconciler.Plan(ctx)
	if err != nil {
		return nil, err
	}
	return s.planOf(ctx, plan, in.Pack)
}

// reloadInput says what is reported, and what is forced.
type reloadInput struct {
	Pack  string `query:"pack" doc:"Report on this pack only"`
	Force bool   `query:"force" doc:"Apply this pack's files although they are of an older revision"`
}

func (s *Server) reload(ctx context.Context, in *reloadInput) (*Report, error) {
	if err := mayTouch(ctx, in.Pack); err != nil {
		return nil, err
	}
	force := ""
	if in.Force {
		if err := s.forced(ctx, in.Pack); err != nil {
			return nil, err
		}
		force = in.Pack
	}
	report, err := s.opts.Reconciler.ReloadForced(ctx, caller(ctx), force)
	if err != nil {
		return nil, err
	}
	if err := s.sourceProblem(); err != nil {
		return nil, err
	}
	return s.told(ctx, report, in.Pack)
}

// told gives a report to who asked, of one pack or (empty) all, when whoever asks next sees what it did.
func (s *Server) told(ctx context.Context, report *Report, pack string) (*Report, error) {
	if _, err := s.opts.Catalogs.Catalog(ctx, report.Generation); err != nil {
		return nil, err
	}
	narrowed := *report
	var err error
	if narrowed.Plan, err = s.planOf(ctx, report.Plan, pack); err != nil {
		return nil, err
	}
	if pack != "" {
		narrowed.Waits = slices.DeleteFunc(slices.Clone(report.Waits), func(w reconcile.PackWait) bool { return w.Pack != pack })
		narrowed.Errors = nil
		for _, e := range report.Errors {
			if e.Ref == pack || packOf(e) == pack {
				narrowed.Errors = append(narrowed.Errors, e)
			}
		}
	}
	narrowed.Errors = orEmpty(narrowed.Errors)
	return &narrowed, nil
}

// sourceProblem refuses to tell of files that cannot be read: nothing seen is not nothing changed.
func (s *Server) sourceProblem() error {
	if problem := s.opts.Reconciler.Status().SourceProblem; problem != "" {
		return newError(CodeUnavailable, "cannot scan the packs: "+problem, "what is in force stays; see packs.directory")
	}
	return nil
}

// planOf narrows a plan to one pack, which has to be known: by the files or by the database.
func (s *Server) planOf(ctx context.Context, plan *reconcile.Plan, ref string) (*Plan, error) {
	narrowed := &Plan{Packs: []reconcile.PackPlan{}}
	if plan != nil {
		for _, p := range plan.Packs {
			if ref == "" || p.Ref == ref {
				narrowed.Packs = append(narrowed.Packs, p)
			}
		}
	}
	if ref != "" && len(narrowed.Packs) == 0 {
		if _, _, err := s.findPack(ctx, ref); err != nil {
			return nil, err
		}
	}
	return narrowed, nil
}

// Summary gives the packs in force, and how many components are.
func Summary(catalog *store.Catalog) ([]Pack, ComponentCounts) {
	return packs(catalog, false), inForce(catalog)
}
