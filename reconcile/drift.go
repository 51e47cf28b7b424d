package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Why all differences are left as they are.
const (
	driftPlanned = "the daemon only plans"
	driftFollows = "another node leads and applies the packs"
)

// mismatchAfter is how long the folders of a node that follows may differ from what is in force before it is
// told: less is two nodes that are being deployed to one after the other.
const mismatchAfter = time.Minute

// checkout is a pack's folder whose files were of an older revision when this process first looked.
type checkout struct {
	digest string
	number int // of the newest revision that had these files
}

// frozen says why a pack's folder does not rule for now; empty: it does.
func (r *Reconciler) frozen(ref string) string {
	row := r.catalog.Packs[ref]
	if row != nil && row.PinnedBy != "" {
		return fmt.Sprintf("pinned to revision %d by %s", row.Revision, row.PinnedBy)
	}
	if old, ok := r.checkouts[ref]; ok && row != nil {
		return fmt.Sprintf("its files are those of revision %d, and revision %d is in force", old.number, row.Revision)
	}
	if r.absent[ref] && row != nil {
		return fmt.Sprintf("the packs folders of this node did not have it when it came to lead, and revision %d is in force", row.Revision)
	}
	return ""
}

// first notes that a pack was looked at for the first time.
func (r *Reconciler) first(ref string) {
	if !r.seen[ref] {
		r.seen[ref] = true
		r.unsure = append(r.unsure, ref)
	}
}

// hold finds stale checkouts among the packs that were looked at for the first time. Somebody who makes
// a folder older while the daemon runs means it; a folder that is older when a daemon starts, or comes
// to lead, is more often one that missed an update, and must not take the others back with it.
func (r *Reconciler) hold(ctx context.Context, j *job) error {
	for _, w := range j.waiters {
		if _, ok := r.checkouts[w.force]; ok {
			r.logger.Info("stale checkout applied by order", "pack", w.force, "by", w.by)
			r.release(w.force, "")
			r.forced[w.force] = w
		}
	}
	digests := map[string]string{}
	for _, ref := range r.unsure {
		row, p := r.catalog.Packs[ref], r.packs[ref]
		if row == nil || p == nil || !row.Present || row.TreeDigest == "" || row.PinnedBy != "" {
			continue
		}
		if p.folder.digest != row.TreeDigest && !p.folder.held {
			digests[ref] = p.folder.digest
		}
	}
	if len(digests) > 0 {
		older, err := r.opts.Store.OlderRevisions(ctx, digests)
		if err != nil {
			return err // unsure stays, for the next pass
		}
		for ref, number := range older {
			r.checkouts[ref] = checkout{digest: digests[ref], number: number}
			r.logger.Warn("folder is not applied: its files are of an older revision", "pack", ref,
				"revision", number, "in_force", r.catalog.Packs[ref].Revision, "hint", "attune pack reload "+ref+" --force applies them")
		}
	}
	r.unsure = nil
	return nil
}

// release ends the hold of a stale checkout when its files have become others.
func (r *Reconciler) release(ref, digest string) {
	old, ok := r.checkouts[ref]
	if !ok || old.digest == digest {
		return
	}
	delete(r.checkouts, ref)
	if p := r.packs[ref]; p != nil {
		p.stale = true
	}
}

// drift compares the folders that do not rule now with what is in force, where either changed, and
// applies nothing.
func (r *Reconciler) drift(j *job, now time.Time) {
	written := r.written(j)
	for ref, p := range r.packs {
		if !p.stale || written[ref] && ref != j.about { // who asked about it is told of it as it is
			continue
		}
		if why := r.frozen(ref); why != "" {
			r.driftOf(ref, p, why, now)
		}
	}
	for _, ref := range slices.Concat(slices.Collect(maps.Keys(r.pinned)), slices.Collect(maps.Keys(r.absent))) {
		row := r.catalog.Packs[ref]
		if row == nil || r.packs[ref] != nil || r.listing == nil || r.hasFolder(ref) || r.listing.unavailable(row.Directory) {
			continue
		}
		d := &differ{wanted: &Snapshot{}, scope: map[string]bool{ref: true}, actual: r.catalog, records: r.records}
		one := d.vanished(row)
		one.Held, one.writes = r.frozen(ref), false
		r.noteDrift(ref, one)
	}
}

func (r *Reconciler) driftOf(ref string, p *pack, why string, now time.Time) {
	state := r.parseOne(ref, now)
	if state == nil {
		return
	}
	states := map[string]*PackState{ref: state}
	r.check(states, now)
	scope := map[string]bool{ref: true}
	plan := diff(&Snapshot{Packs: states, Scope: scope, Config: r.opts.PackConfig}, scope, r.catalog, r.records)
	var one *PackPlan
	if len(plan.Packs) > 0 && (len(plan.Packs[0].Steps) > 0 || plan.Packs[0].Errors.HasErrors()) {
		one = &plan.Packs[0]
		one.Held, one.writes = why, false
	}
	r.tell(ref, p.errors, state.Bundle.Errors)
	p.errors, p.content, p.rest = state.Bundle.Errors, nil, one
	p.stale, p.cause, p.since = false, "", time.Time{}
	p.row = r.catalog.Packs[ref]
	p.enabled = p.row.ManifestEnabled
	p.needs, p.broken = state.needs, nil             // what is in force of it, others may name
	r.world.recorded(ref, r.catalog, r.records[ref]) // which somebody else may have changed
	r.noteDrift(ref, one)
}

// noteDrift puts down what is not applied of a pack; nil: nothing.
func (r *Reconciler) noteDrift(ref string, one *PackPlan) {
	if one == nil && r.drifts[ref] == nil {
		return
	}
	r.drifted = true
	if one == nil {
		delete(r.drifts, ref)
		r.metrics.drift.DeleteLabelValues(ref)
		return
	}
	r.drifts[ref] = one
	r.metrics.drift.WithLabelValues(ref).Set(float64(max(len(one.Steps), 1)))
}

// notePin puts down whether a pack is pinned.
func (r *Reconciler) notePin(ref string, pinned bool) {
	if pinned {
		r.pinned[ref] = true
		r.metrics.pinned.WithLabelValues(ref).Set(1)
		return
	}
	if r.pinned[ref] {
		delete(r.pinned, ref)
		r.metrics.pinned.DeleteLabelValues(ref)
	}
}

// tellMismatches tells of packs that this node has had otherwise for long than what the leader applied.
func (r *Reconciler) tellMismatches(now time.Time) {
	follows := r.planOnly && !r.opts.PlanOnly
	for ref := range r.differs {
		if r.drifts[ref] == nil || !follows {
			delete(r.differs, ref)
			r.metrics.mismatch.DeleteLabelValues(ref)
		}
	}
	if !follows {
		return
	}
	for ref := range r.drifts {
		since, known := r.differs[ref]
		switch {
		case !known:
			r.differs[ref] = now
			r.metrics.mismatch.WithLabelValues(ref).Set(0)
		case !since.IsZero() && now.Sub(since) >= mismatchAfter:
			r.differs[ref] = time.Time{} // told
			r.metrics.mismatch.WithLabelValues(ref).Set(1)
			r.logger.Warn("packs folder is not what the leader applied, bring it up to date", "pack", ref, "duration", mismatchAfter)
		}
	}
}

// tellDrift puts the drift into the status.
func (r *Reconciler) tellDrift() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.drifted {
		return
	}
	r.drifted = false
	r.status.Drift = nil
	for _, ref := range sortedKeys(r.drifts) {
		one := r.drifts[ref]
		why := one.Held
		if why == "" {
			why = driftFollows
			if r.opts.PlanOnly {
				why = driftPlanned
			}
		}
		r.status.Drift = append(r.status.Drift, Drift{Pack: ref, Why: why, Steps: changesOf(one)})
	}
}

// Applies says whether an apply would change something. What is held, and what keeps its last good
// version, it leaves as it is.
func (p *Plan) Applies() bool {
	return slices.ContainsFunc(p.Packs, func(one PackPlan) bool { return one.Held == "" && changesOf(&one) > 0 })
}

// changesOf counts the steps that an apply would take.
func changesOf(one *PackPlan) int {
	n := 0
	for _, s := range one.Steps {
		if s.Op != StepKeep {
			n++
		}
	}
	return n
}
