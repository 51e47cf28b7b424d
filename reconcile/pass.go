package reconcile

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// pass makes the database equal to the files, or only says how it would.
func (r *Reconciler) pass(ctx context.Context, j *job, now time.Time) (*Report, string, error) {
	r.lead()
	r.adopt()
	looked := r.lookAhead()
	err := r.refresh(ctx)
	looked()
	if err != nil {
		return nil, "", err
	}
	vanished := r.survey(j, now)
	if err := r.hold(ctx, j); err != nil {
		return nil, "", err
	}
	plan, outcome, err := r.converge(ctx, j, vanished, now)
	if err != nil {
		return nil, "", err
	}
	r.drift(j, now)
	switch {
	case j.silent:
		return nil, outcome, nil
	case j.about != "":
		return r.reportAbout(j.about, plan), outcome, nil
	}
	return r.report(plan), outcome, nil
}

// refresh loads what others, or a pass before, changed in the database. Whose rows changed is compared
// again, whatever its files say.
func (r *Reconciler) refresh(ctx context.Context) error {
	next, err := r.opts.Store.Catalog(ctx, r.catalog)
	if err != nil {
		return err
	}
	before := r.catalog
	if next == before {
		return nil
	}
	r.catalog = next
	changed := map[string]bool{}
	for ref, row := range next.Packs {
		if before == nil || before.Packs[ref] != row {
			changed[ref] = true
		}
	}
	if before == nil {
		r.world, r.records = newWorld(next), map[string][]*store.Record{}
	}
	if before != nil {
		for ref := range before.Packs {
			if next.Packs[ref] == nil { // the database was put back to an older state
				r.world.forget(ref)
				delete(r.records, ref)
				r.notePin(ref, false)
			}
		}
	}
	if len(changed) > 0 {
		maps.Copy(r.records, recordsOf(next, changed))
	}
	for ref := range changed {
		r.notePin(ref, next.Packs[ref].PinnedBy != "")
	}
	for ref, p := range r.packs {
		if p.row != next.Packs[ref] {
			p.stale = true
		}
	}
	return nil
}

// converge compares what is stale, and what depends on that, and applies it.
func (r *Reconciler) converge(ctx context.Context, j *job, vanished []string, now time.Time) (*Plan, string, error) {
	seeds := r.seeds(j, vanished)
	if len(seeds) > r.roundPacks {
		return r.convergeMany(ctx, j, seeds, vanished, now)
	}
	states, more := r.compare(j, seeds, now)
	if more != nil && len(more) > r.roundPacks {
		return r.convergeMany(ctx, j, more, vanished, now)
	}
	if more != nil {
		states = r.parse(more, now)
		r.check(states, now)
	}
	if j.plan && !r.planOnly {
		defer r.unsuppose(vanished)
	}
	return r.round(ctx, j, states, vanished)
}

// round plans and applies packs that were compared.
func (r *Reconciler) round(ctx context.Context, j *job, states map[string]*PackState, vanished []string) (plan *Plan, outcome string, err error) {
	scope := map[string]bool{}
	for ref := range states {
		scope[ref] = true
	}
	for _, ref := range vanished {
		scope[ref] = true
	}
	plan = diff(&Snapshot{Packs: states, Scope: scope, Config: r.opts.PackConfig}, scope, r.catalog, r.records)
	outcome = outcomeUnchanged
	var applied map[string]bool
	switch writes := slices.ContainsFunc(plan.Packs, func(p PackPlan) bool { return p.writes }); {
	case writes && (j.plan || r.planOnly):
		outcome = outcomePlanned
	case writes:
		outcome = outcomeApplied
		r.sign(j, plan)
		applied, err = r.apply(ctx, j, plan)
	}
	r.settle(plan, states, applied)
	for i := range plan.Packs {
		plan.Packs[i].change = store.PackChange{} // it holds all that was parsed
	}
	return plan, outcome, err
}

// seeds are the packs to be compared: what is stale, and what depends on what has vanished.
func (r *Reconciler) seeds(j *job, vanished []string) map[string]bool {
	gone := map[string]bool{}
	for _, ref := range vanished {
		gone[ref] = true
		r.world.forget(ref)
		r.metrics.packErrors.DeleteLabelValues(ref)
	}
	seeds := r.dependents(gone)
	for ref, p := range r.packs {
		if p.stale {
			seeds[ref] = true
		}
	}
	// Whoever asked for a plan looked at what was not quiet yet, too. That is not applied before it is.
	written := r.written(j)
	for ref := range written {
		delete(seeds, ref)
	}
	// Why a pack was refused may lie in another, or in the machine.
	if len(seeds) > 0 || j.now {
		for ref, p := range r.packs {
			if p.errors.HasErrors() && !written[ref] {
				seeds[ref] = true
			}
		}
	}
	return seeds
}

// compare parses and checks packs. What it gives is what the plan is made from, unless others depend on what
// they offer now: then it gives all that is to be compared.
func (r *Reconciler) compare(j *job, seeds map[string]bool, now time.Time) (states map[string]*PackState, more map[string]bool) {
	if len(seeds) == 0 {
		return nil, nil
	}
	states = r.parse(seeds, now)
	r.check(states, now)
	more = r.dependents(r.changedOffers(states))
	written := r.written(j)
	missing := false
	for ref := range more {
		if written[ref] {
			delete(more, ref) // it is checked again when it is quiet
		}
		missing = missing || more[ref] && states[ref] == nil && r.frozen(ref) == ""
	}
	if !missing {
		return states, nil
	}
	maps.Copy(more, seeds)
	return nil, more
}

// changedOffers are the packs in which something changed that others may name.
func (r *Reconciler) changedOffers(states map[string]*PackState) map[string]bool {
	changed := map[string]bool{}
	for ref, s := range states {
		if p := r.packs[ref]; p.offer != offerOf(s, r.world.set, r.catalog.Packs[ref], r.records[ref]) {
			changed[ref] = true
		}
	}
	return changed
}

// written are the packs that are being written: they are stale, and not quiet yet. Who asks for a pass
// asks for them as they are.
func (r *Reconciler) written(j *job) map[string]bool {
	written := map[string]bool{}
	if j.now {
		return written
	}
	for ref, p := range r.packs {
		if p.stale && r.watcher.isOpen(p.folder.key) {
			written[ref] = true
		}
	}
	return written
}

// dependents are the packs that name components of the given ones, or of packs that do.
func (r *Reconciler) dependents(of map[string]bool) map[string]bool {
	found := map[string]bool{}
	for len(of) > 0 {
		next := map[string]bool{}
		for ref, p := range r.packs {
			if !found[ref] && slices.ContainsFunc(p.needs, func(need string) bool { return of[need] }) {
				found[ref], next[ref] = true, true
			}
		}
		of = next
	}
	return found
}

// parse reads the manifests of packs, on all cores: at a first load it is most of the work. One that changes
// meanwhile is left for a later pass.
func (r *Reconciler) parse(refs map[string]bool, now time.Time) map[string]*PackState {
	var ruling []string
	for _, ref := range sortedKeys(refs) {
		if r.frozen(ref) == "" { // else drift compares it
			ruling = append(ruling, ref)
		}
	}
	parsed := make([]*PackState, len(ruling))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, ref := range ruling {
		group.Go(func() (err error) {
			p := r.packs[ref]
			parsed[i], err = r.stateOf(p.folder, p.content, r.records[ref])
			return err
		})
	}
	// The only error is of what changes, and which do is told by their not being there.
	_ = group.Wait()
	states := map[string]*PackState{}
	for i, ref := range ruling {
		if state := r.parsed(ref, parsed[i], now); state != nil {
			states[ref] = state
		}
	}
	return states
}

// parseOne is parse for one pack; nil: it changes meanwhile.
func (r *Reconciler) parseOne(ref string, now time.Time) *PackState {
	p := r.packs[ref]
	state, err := r.stateOf(p.folder, p.content, r.records[ref])
	if err != nil {
		state = nil
	}
	return r.parsed(ref, state, now)
}

// parsed takes what came of parsing a pack, and has it looked at again where that is nothing.
func (r *Reconciler) parsed(ref string, state *PackState, now time.Time) *PackState {
	p := r.packs[ref]
	if state == nil {
		p.content = nil
		r.scanner.forget(p.folder.key)
		r.watcher.again(p.folder.key, r.opts.Quiet, now)
		return nil
	}
	if other := r.listing.twice[ref]; other != "" {
		state.Bundle.Errors = append(state.Bundle.Errors, twiceWarning(p.folder.place, other))
	}
	return state
}

// stateOf parses one pack, and judges its signature.
func (r *Reconciler) stateOf(f *folder, content map[string][]byte, records []*store.Record) (*PackState, error) {
	state, err := stateOf(f, content, records)
	if err != nil {
		return nil, err
	}
	if err := r.opts.Trust.judge(f, content, state.Bundle); err != nil {
		return nil, err
	}
	return state, nil
}

// stateOf parses one pack. records are what the database has of it.
func stateOf(f *folder, content map[string][]byte, records []*store.Record) (*PackState, error) {
	b, err := f.bundle(content)
	if err != nil {
		return nil, err
	}
	var known []manifest.Component
	for _, r := range records {
		known = append(known, r.Spec)
	}
	return &PackState{
		Folder: f.ref, Directory: f.directory, Digest: f.digest, Tree: treeOf(f.files), Bundle: b,
		FilesDigests: filesDigests(reachable(f.files), b.Components(), known), folder: f, needs: needsOf(b),
	}, nil
}

func (r *Reconciler) check(states map[string]*PackState, now time.Time) {
	var bundles []*manifest.Bundle
	var folders []*folder
	for _, ref := range sortedKeys(states) {
		bundles = append(bundles, states[ref].Bundle)
		folders = append(folders, states[ref].folder)
	}
	manifest.Check(bundles, manifest.CheckOptions{
		InForce:     r.world.around(states, r.refused),
		Refused:     r.refused,
		Config:      r.opts.PackConfig,
		ConfigPlace: r.opts.ConfigPlace,
		SwitchedOff: switchedOff(r.catalog),
		Environment: newPreflight(r.opts.Interpreters, folders, now),
		Seals:       r.opts.Seals,
		Version:     r.opts.Version,
		Now:         now,
	})
}

// refused gives what manifest.Check asks of packs that it is not given.
func (r *Reconciler) refused() map[manifest.Kind]map[string]string {
	files := map[manifest.Kind]map[string]string{}
	for ref, p := range r.packs {
		for _, b := range p.broken {
			if files[b.Kind] == nil {
				files[b.Kind] = map[string]string{}
			}
			files[b.Kind][b.Ref] = ref + "/" + b.File
		}
	}
	return files
}

// switchedOff gives what manifest.Check asks of operators' switches.
func switchedOff(c *store.Catalog) func(kind manifest.Kind, ref string) (why, wayBack string) {
	return func(kind manifest.Kind, ref string) (why, wayBack string) {
		pack, _ := manifest.SplitRef(ref)
		return store.SwitchedOff(c.Records(kind)[ref], c.Packs[pack])
	}
}

// offerOf is a digest of what other packs may name in this one: when it changes, they are checked again.
// records are what the database has of it, for what operators switched off.
func offerOf(s *PackState, world *manifest.Set, row *store.PackRow, records []*store.Record) string {
	pack := s.Bundle.Pack
	if pack == nil {
		pack = world.Packs[s.Folder]
	}
	h := sha256.New()
	if pack != nil {
		field(h, pack.Version)
		if pack.Enabled {
			field(h, "enabled")
		}
	}
	for _, record := range records {
		if why, _ := store.SwitchedOff(record, row); why != "" {
			field(h, "off", string(record.Kind), record.Ref, why)
		}
	}
	offer := func(c manifest.Component) {
		_, digest := normalForm(c)
		field(h, string(c.Kind()), c.Head().Ref, digest)
	}
	for _, t := range s.Bundle.Triggers {
		offer(t)
	}
	for _, a := range s.Bundle.Actions {
		offer(a)
	}
	for _, b := range s.Bundle.Broken {
		if b.Kind != manifest.KindSensor && b.Kind != manifest.KindRule {
			field(h, "broken", string(b.Kind), b.Ref, b.File)
		}
	}
	if s.Bundle.Pack == nil {
		field(h, "held")
	}
	return hex.EncodeToString(h.Sum(nil))
}

// needsOf are the other packs that a pack names.
func needsOf(b *manifest.Bundle) []string {
	needs := map[string]bool{}
	name := func(ref string) {
		if pack, _ := manifest.SplitRef(ref); pack != "" {
			needs[pack] = true
		}
	}
	if b.Pack != nil {
		for _, d := range b.Pack.Dependencies {
			needs[d.Ref] = true
		}
	}
	for _, s := range b.Sensors {
		for _, t := range s.TriggerTypes {
			name(t)
		}
	}
	for _, rule := range b.Rules {
		name(rule.Trigger.Ref)
		for _, a := range rule.Actions {
			name(a.Ref)
		}
	}
	delete(needs, b.Folder)
	return sortedKeys(needs)
}

// settle remembers what the pass found of each pack. What is not in force yet stays stale.
func (r *Reconciler) settle(plan *Plan, states map[string]*PackState, applied map[string]bool) {
	plans := map[string]*PackPlan{}
	for i := range plan.Packs {
		plans[plan.Packs[i].Ref] = &plan.Packs[i]
	}
	r.unkept = r.unkept || len(states) > 0 || len(plan.Packs) > 0
	for ref, s := range states {
		p, one := r.packs[ref], plans[ref]
		r.tell(ref, p.errors, s.Bundle.Errors)
		p.content, p.rest = nil, one
		p.errors, p.needs, p.broken = s.Bundle.Errors, s.needs, s.Bundle.Broken
		p.enabled = s.Bundle.Pack == nil || s.Bundle.Pack.Enabled
		r.noteDrift(ref, nil)
		if one != nil && one.writes && r.planOnly {
			r.noteDrift(ref, one)
		}
		if applied[ref] || !r.planOnly && (one == nil || !one.writes) {
			delete(r.forced, ref)
		}
		if one != nil && one.writes && !applied[ref] && !r.planOnly {
			p.stale = true // only planned, or the database did not take it
			continue
		}
		if applied[ref] {
			p.rest = one.rest()
		}
		p.stale, p.cause, p.since = false, "", time.Time{}
		p.row = r.catalog.Packs[ref]
		if r.planOnly {
			r.suppose(map[string]*PackState{ref: s})
		} else {
			r.world.recorded(ref, r.catalog, r.records[ref])
		}
		p.offer = offerOf(s, r.world.set, r.catalog.Packs[ref], r.records[ref])
	}
	for ref, one := range plans {
		if states[ref] == nil { // it has vanished
			if applied[ref] {
				delete(r.forced, ref)
			}
			r.noteDrift(ref, nil)
			if r.planOnly && one.writes {
				r.noteDrift(ref, one)
			}
		}
	}
	r.count()
}

// rest is what is left of a plan that was applied: what it keeps, and why.
func (p *PackPlan) rest() *PackPlan {
	if !p.Errors.HasErrors() {
		return nil
	}
	left := &PackPlan{Ref: p.Ref, Version: p.Version, Digest: p.Digest, Errors: p.Errors, Steps: []Step{}}
	for _, s := range p.Steps {
		if s.Op == StepKeep {
			left.Steps = append(left.Steps, s)
		}
	}
	return left
}

// tell logs the findings that are new.
func (r *Reconciler) tell(ref string, before, now manifest.Errors) {
	for _, e := range now {
		if slices.ContainsFunc(before, func(old *manifest.Error) bool { return *old == *e }) {
			continue
		}
		if e.Severity == manifest.SeverityError {
			r.logger.Error("refused, the last good version stays", "pack", ref, "err", e.Error())
		} else {
			r.logger.Warn("accepted with a warning", "pack", ref, "err", e.Error())
		}
	}
}

// count tells Prometheus of the packs.
func (r *Reconciler) count() {
	states := map[string]int{packLoaded: 0, packBroken: 0, packDisabled: 0}
	asked, signed := r.opts.Trust.asks(), 0
	for ref, p := range r.packs {
		errs := 0
		for _, e := range p.errors {
			if e.Severity == manifest.SeverityError {
				errs++
			}
		}
		if asked && isSigned(ref, p.errors) {
			signed++
		}
		if p.told != errs+1 { // to look up ten thousand gauges takes longer than an edit
			p.told = errs + 1
			r.metrics.packErrors.WithLabelValues(ref).Set(float64(errs))
		}
		switch {
		case errs > 0:
			states[packBroken]++
		case !p.enabled || p.row != nil && p.row.DisabledBy != "":
			states[packDisabled]++
		default:
			states[packLoaded]++
		}
	}
	for state, n := range states {
		r.metrics.packs.WithLabelValues(state).Set(float64(n))
	}
	if asked {
		r.metrics.signatures.WithLabelValues("signed").Set(float64(signed))
		r.metrics.signatures.WithLabelValues("unsigned").Set(float64(len(r.packs) - signed))
	}
}

// report tells what the pass found, with what earlier passes found and is still not in force.
func (r *Reconciler) report(plan *Plan) *Report {
	told := map[string]bool{}
	for _, p := range plan.Packs {
		told[p.Ref] = true
	}
	whole := &Plan{Packs: slices.Clone(plan.Packs)}
	errs := manifest.Errors{}
	for _, ref := range sortedKeys(r.packs) {
		p := r.packs[ref]
		errs = append(errs, p.errors...)
		if p.rest != nil && !told[ref] {
			whole.Packs = append(whole.Packs, *p.rest)
		}
	}
	for ref := range r.pinned {
		if one := r.drifts[ref]; one != nil && r.packs[ref] == nil {
			whole.Packs = append(whole.Packs, *one) // its folder is gone
		}
	}
	slices.SortFunc(whole.Packs, func(a, b PackPlan) int { return cmp.Compare(a.Ref, b.Ref) })
	return &Report{Generation: r.catalog.Generation, Plan: whole, Errors: errs, Held: r.heldRefs(), Waits: r.scanner.waitsFor()}
}

// reportAbout tells what a command about one pack did: to the pack, and to those that it changed because of
// that. What was wrong with others before is not its doing.
func (r *Reconciler) reportAbout(ref string, plan *Plan) *Report {
	report := &Report{Generation: r.catalog.Generation, Plan: &Plan{Packs: []PackPlan{}}, Errors: manifest.Errors{}}
	for _, p := range plan.Packs {
		if p.writes || p.Ref == ref {
			report.Plan.Packs = append(report.Plan.Packs, p)
			report.Errors = append(report.Errors, p.Errors...)
		}
	}
	return report
}

// sign has what was ordered recorded with who ordered it, by force or by a reload that came from somewhere.
func (r *Reconciler) sign(j *job, plan *Plan) {
	for i := range plan.Packs {
		p := &plan.Packs[i]
		by, action := r.forced[p.Ref], "force pack"
		if by == nil && len(j.waiters) > 0 && j.waiters[0].origin.From != "" {
			by, action = j.waiters[0], "reload pack"
		}
		if by == nil || !p.writes {
			continue
		}
		audit := &store.NewAudit{Actor: by.by, Action: action, Object: p.Ref, Origin: by.origin}
		if row := r.catalog.Packs[p.Ref]; row != nil {
			audit.Before = fmt.Appendf(nil, `{"revision": %d, "digest": %q}`, row.Revision, row.TreeDigest)
		}
		audit.After = fmt.Appendf(nil, `{"digest": %q}`, p.Digest)
		p.change.Audit = audit
	}
}
