package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// Why a rollback, or the end of a pin, is refused.
var (
	ErrPlanOnly   = errors.New("the daemon applies nothing: reconcile.mode is plan, or it was started with --read-only")
	ErrNoPack     = errors.New("there is no such pack")
	ErrNoRevision = errors.New("there is no such revision")
	ErrNotPinned  = errors.New("it is not pinned")
)

// RefusedError tells why a revision is not put back into force: its files do not fit what they would
// meet today.
type RefusedError struct {
	Pack     string
	Revision int
	Errors   manifest.Errors
}

// Error counts the reasons; they are in Errors.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("revision %d of pack %s no longer validates: %d findings", e.Revision, e.Pack, len(e.Errors))
}

// Rollback puts an older revision of a pack back into force, as a new revision, and pins the pack to
// it: from then on its folder does not rule. The whole revision has to validate, else it is a
// *RefusedError. number 0 is the newest revision whose files are not those in force.
func (r *Reconciler) Rollback(ctx context.Context, pack string, number int, by, reason string) (*Report, error) {
	report, err := r.order(ctx, store.Errand{
		Verb: store.ErrandRollback, Pack: pack, Revision: number, Actor: by, Reason: reason, Origin: store.OriginOf(ctx),
	})
	if err != nil {
		return nil, fmt.Errorf("cannot roll back pack %s: %w", pack, err)
	}
	return report, nil
}

// Unpin lets a pack's folder rule again, and waits until what that says is in force.
func (r *Reconciler) Unpin(ctx context.Context, pack, by string) (*Report, error) {
	report, err := r.order(ctx, store.Errand{Verb: store.ErrandUnpin, Pack: pack, Actor: by, Origin: store.OriginOf(ctx)})
	if err != nil {
		return nil, fmt.Errorf("cannot unpin pack %s: %w", pack, err)
	}
	return report, nil
}

func (r *Reconciler) rollback(ctx context.Context, e *store.Errand, now time.Time) (*Report, error) {
	ref := e.Pack
	row, err := r.commandable(ctx, ref)
	if err != nil {
		return nil, err
	}
	target, tree, err := r.target(ctx, row, e.Revision)
	if err != nil {
		return nil, err
	}
	state, err := r.stateOfRevision(ctx, row, target, tree, r.records[ref], now)
	if err != nil {
		return nil, err
	}
	states := map[string]*PackState{ref: state}
	r.check(states, now)
	if state.Bundle.Pack == nil || state.Bundle.Errors.HasErrors() {
		return nil, &RefusedError{Pack: ref, Revision: target.Number, Errors: state.Bundle.Errors}
	}
	scope := map[string]bool{ref: true}
	plan := diff(&Snapshot{Packs: states, Scope: scope, Config: r.opts.PackConfig}, scope, r.catalog, r.records)
	if len(plan.Packs) == 0 { // it is in force already: all there is to do is to pin it
		plan.Packs = []PackPlan{{
			Ref: ref, Version: state.Bundle.Pack.Version, Digest: state.Digest, Steps: []Step{},
			change: store.PackChange{Ref: ref, Directory: row.Directory, Errors: state.Bundle.Errors, Base: baseOf(row)},
		}}
	}
	one := &plan.Packs[0]
	one.writes, one.change.Pin, one.change.Errand = true, &store.Pin{By: e.Actor, Reason: e.Reason}, e.ID
	if one.change.Audit, err = auditOf(e, "rollback pack", row, target.Number); err != nil {
		return nil, err
	}
	if revision := one.change.Revision; revision != nil {
		revision.Cause = fmt.Sprintf("rollback to %d by %s", target.Number, e.Actor)
		revision.Content = state.folder.contentOf
	}
	// All that can fail for any other reason than the database has been done.
	generation, err := r.commitAlone(ctx, plan)
	if err != nil {
		return nil, err
	}
	r.logger.Info("pack rolled back and pinned", "pack", ref, "revision", target.Number, "by", e.Actor, "reason", e.Reason)
	report := r.follow(ctx, &job{cause: "rollback by " + e.Actor, about: ref, since: map[string]time.Time{}}, generation, now)
	// What its folder says is not of the answer: it does not rule.
	report.Plan.Packs = slices.DeleteFunc(report.Plan.Packs, func(p PackPlan) bool { return p.Ref == ref })
	report.Plan.Packs = append([]PackPlan{*one}, report.Plan.Packs...)
	return report, nil
}

func (r *Reconciler) unpin(ctx context.Context, e *store.Errand, now time.Time) (*Report, error) {
	ref := e.Pack
	row, err := r.commandable(ctx, ref)
	if err != nil {
		return nil, err
	}
	if row.PinnedBy == "" {
		return nil, ErrNotPinned
	}
	audit, err := auditOf(e, "unpin pack", row, 0)
	if err != nil {
		return nil, err
	}
	plan := &Plan{Packs: []PackPlan{{
		Ref: ref, Steps: []Step{}, writes: true,
		change: store.PackChange{
			Ref: ref, Directory: row.Directory, Errors: row.Errors, Pin: &store.Pin{Unpin: true},
			Base: baseOf(row), Audit: audit, Errand: e.ID,
		},
	}}}
	generation, err := r.commitAlone(ctx, plan)
	if err != nil {
		return nil, err
	}
	delete(r.checkouts, ref) // whatever was held of it: its folder is to rule
	delete(r.absent, ref)
	r.logger.Info("pack unpinned, its folder rules again", "pack", ref, "by", e.Actor)
	return r.follow(ctx, &job{cause: "unpin by " + e.Actor, about: ref, all: true, now: true, since: map[string]time.Time{}}, generation, now), nil
}

// auditOf is the row of audit that goes with a command.
func auditOf(e *store.Errand, action string, row *store.PackRow, revision int) (*store.NewAudit, error) {
	detail, err := json.Marshal(struct {
		Revision int    `json:"revision,omitempty"`
		Reason   string `json:"reason,omitempty"`
	}{revision, e.Reason})
	if err != nil {
		return nil, fmt.Errorf("cannot encode the audit of it: %w", err)
	}
	before, err := json.Marshal(struct {
		Revision int    `json:"revision"`
		PinnedBy string `json:"pinned_by,omitempty"`
	}{row.Revision, row.PinnedBy})
	if err != nil {
		return nil, fmt.Errorf("cannot encode the audit of it: %w", err)
	}
	pinnedBy := e.Actor
	if revision == 0 {
		pinnedBy = ""
	}
	after, err := json.Marshal(struct {
		FilesOf  int    `json:"files_of_revision,omitempty"`
		PinnedBy string `json:"pinned_by,omitempty"`
	}{revision, pinnedBy})
	if err != nil {
		return nil, fmt.Errorf("cannot encode the audit of it: %w", err)
	}
	return &store.NewAudit{
		Actor: e.Actor, Action: action, Object: e.Pack, Origin: e.Origin, Before: before, After: after, Detail: detail,
	}, nil
}

// commandable gives the row of a pack that an operator may change now, and here.
func (r *Reconciler) commandable(ctx context.Context, ref string) (*store.PackRow, error) {
	switch r.lead(); {
	case r.opts.PlanOnly:
		return nil, ErrPlanOnly
	case r.planOnly:
		return nil, r.follows(ctx)
	}
	if err := r.refresh(ctx); err != nil {
		return nil, err
	}
	row := r.catalog.Packs[ref]
	if row == nil {
		return nil, ErrNoPack
	}
	return row, nil
}

// target finds the revision to go back to.
func (r *Reconciler) target(ctx context.Context, row *store.PackRow, number int) (*store.RevisionRow, []store.TreeEntry, error) {
	if number == 0 {
		const most = 1000 // more than retention keeps, by default
		revisions, err := r.opts.Store.Revisions(ctx, row.Ref, most)
		if err != nil {
			return nil, nil, err
		}
		i := slices.IndexFunc(revisions, func(one store.RevisionRow) bool { return one.Digest != row.TreeDigest })
		if i < 0 {
			return nil, nil, fmt.Errorf("%w with other files than those in force", ErrNoRevision)
		}
		number = revisions[i].Number
	}
	revision, tree, err := r.opts.Store.Revision(ctx, row.Ref, number)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, fmt.Errorf("%w: %d", ErrNoRevision, number)
	}
	return revision, tree, err
}

// stateOfRevision reads a revision as if it were the pack's folder: from the files that children get.
// records are what the database has of the pack.
func (r *Reconciler) stateOfRevision(ctx context.Context, row *store.PackRow, revision *store.RevisionRow, tree []store.TreeEntry,
	records []*store.Record, now time.Time,
) (*PackState, error) {
	dir, err := r.opts.Revisions.Dir(ctx, revision.ID, revision.Digest)
	if err != nil {
		return nil, err
	}
	v := scanAt(revisionPlace(dir, row.Ref, row.Directory), now)
	if v.folder == nil || v.folder.digest != revision.Digest {
		return nil, fmt.Errorf("revision %d cannot be read back: %d files were recorded, and what is in %s is not those", revision.Number, len(tree), dir)
	}
	return r.stateOf(v.folder, v.content, records)
}

// commitAlone applies a plan of one pack and tells everybody.
func (r *Reconciler) commitAlone(ctx context.Context, plan *Plan) (int64, error) {
	applied := map[string]bool{}
	generation, errs := r.commit(ctx, []*PackPlan{&plan.Packs[0]}, applied)
	if len(errs) > 0 {
		return 0, errors.Join(errs...)
	}
	r.announce(ctx, plan, applied, generation)
	return generation, nil
}

// follow is the pass after a command: what depends on the pack is checked again, and its folder is
// compared with what is in force now. The command has been done: what fails here is done later.
func (r *Reconciler) follow(ctx context.Context, j *job, generation int64, now time.Time) *Report {
	r.world.recorded(j.about, r.catalog, r.records[j.about])
	for other := range r.dependents(map[string]bool{j.about: true}) {
		r.packs[other].stale = true
	}
	if p := r.packs[j.about]; p != nil {
		p.stale = true
	}
	report, _, err := r.pass(ctx, j, now)
	if err != nil {
		r.failed(ctx, j, err)
		return &Report{Generation: generation, Plan: &Plan{Packs: []PackPlan{}}, Errors: manifest.Errors{}}
	}
	return report
}
