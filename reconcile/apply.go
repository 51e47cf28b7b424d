package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// batchPacks is how many packs one transaction takes: enough that ten thousand are fifty commits,
	// few enough that events, which wait for the end of it, hardly notice.
	batchPacks = 200
	// eagerPacks is up to how many changed packs their files are made at once. Beyond it, at the first
	// load of a great many, they are made when the first child of each needs them.
	eagerPacks = 100
	// manySteps is from where on the log has a line for each pack instead of one for each component.
	manySteps = 100
)

// apply puts the plan into force and gives the packs that are known to be in force by it. An error is of those that it
// could not; the others are in force nevertheless.
func (r *Reconciler) apply(ctx context.Context, j *job, plan *Plan) (applied map[string]bool, err error) {
	var ready []*PackPlan
	var errs []error
	revisions := 0
	for i := range plan.Packs {
		if p := &plan.Packs[i]; p.change.Revision != nil {
			revisions++
		}
	}
	eager := revisions <= eagerPacks && !j.many
	for i := range plan.Packs {
		p := &plan.Packs[i]
		if !p.writes {
			continue
		}
		err := r.prepare(ctx, j, p, eager)
		switch {
		case errors.Is(err, errUnstable):
			r.watcher.again(r.packs[p.Ref].folder.key, r.opts.Quiet, time.Now())
		case err != nil:
			errs = append(errs, err)
		default:
			ready = append(ready, p)
		}
	}
	// All that can fail for any other reason than the database has been done; from here on, what is in
	// force changes.
	applied = map[string]bool{}
	var generation int64
	for batch := range slices.Chunk(ready, batchPacks) {
		number, failed := r.commit(ctx, batch, applied)
		generation = max(generation, number)
		errs = append(errs, failed...)
		if ctx.Err() != nil || slices.ContainsFunc(failed, endsAll) {
			break
		}
	}
	if len(applied) > 0 && !r.announce(ctx, plan, applied, generation) {
		// The next pass compares these packs again: by then the database may be an older one, in which they are
		// what they were when this pass began, and nothing else would tell that they are not in force.
		applied = nil
	}
	return applied, joinFew(errs)
}

// endsAll says that what could not be applied tells of all that is to be: the database is away, or another
// node leads.
func endsAll(err error) bool { return store.IsTransient(err) || errors.Is(err, store.ErrNotHeld) }

// joinFew joins errors, and counts those beyond what anybody reads.
func joinFew(errs []error) error {
	const most = 10
	if more := len(errs) - most; more > 0 {
		errs = append(slices.Clone(errs[:most]), fmt.Errorf("and %d more", more))
	}
	return errors.Join(errs...)
}

// prepare makes the files that children of the new revision will run from.
func (r *Reconciler) prepare(ctx context.Context, j *job, p *PackPlan, eager bool) error {
	revision := p.change.Revision
	if revision == nil {
		return nil
	}
	known := r.packs[p.Ref]
	revision.Cause = cmp.Or(known.cause, j.cause)
	revision.Content = known.contentOf
	if !eager {
		return nil
	}
	dir, err := r.opts.Revisions.Put(ctx, revision.Digest, revision.Tree, known.contentOf)
	if err != nil {
		return fmt.Errorf("cannot apply pack %s: %w", p.Ref, err)
	}
	// The database gets the bytes that children get: these no longer change.
	paths := map[string]string{}
	for _, entry := range revision.Tree {
		paths[entry.Digest] = entry.Path
	}
	revision.Content = func(digest string) ([]byte, error) { return readKept(filepath.Join(dir, paths[digest])) }
	return nil
}

// readKept reads a file of a revision. A pipe that a child put into its place is not waited for; what is
// not the file's content, the database does not take.
func readKept(at string) ([]byte, error) {
	f, err := os.OpenFile(at, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPackBytes+1))
}

// commit applies packs in one transaction. If the database refuses what is in it, each is tried alone,
// so that one pack costs one pack; those that somebody else changed meanwhile are left out.
func (r *Reconciler) commit(ctx context.Context, batch []*PackPlan, applied map[string]bool) (int64, []error) {
	changes := make([]store.PackChange, len(batch))
	for i, p := range batch {
		changes[i] = p.change
	}
	generation, err := r.opts.Store.ApplyAs(ctx, r.lease, changes)
	if err == nil {
		for _, p := range batch {
			applied[p.Ref] = true
		}
		return generation, nil
	}
	if len(batch) == 1 || endsAll(err) || ctx.Err() != nil {
		return 0, []error{err}
	}
	if moved, ok := errors.AsType[*store.MovedError](err); ok {
		rest := slices.DeleteFunc(slices.Clone(batch), func(p *PackPlan) bool { return slices.Contains(moved.Packs, p.Ref) })
		if len(rest) == 0 {
			return 0, []error{err}
		}
		generation, errs := r.commit(ctx, rest, applied)
		return generation, append(errs, err)
	}
	var errs []error
	for _, p := range batch {
		number, failed := r.commit(ctx, []*PackPlan{p}, applied)
		generation = max(generation, number)
		for _, err := range failed {
			errs = append(errs, fmt.Errorf("pack %s: %w", p.Ref, err))
		}
		if ctx.Err() != nil || slices.ContainsFunc(failed, endsAll) {
			break
		}
	}
	return generation, errs
}

// announce tells everybody what is in force now: the log, Prometheus, and who listens. It gives whether the
// catalog tells of it.
func (r *Reconciler) announce(ctx context.Context, plan *Plan, applied map[string]bool, generation int64) bool {
	now := time.Now()
	r.mu.Lock()
	r.status.LastApply = now
	r.mu.Unlock()
	for ref := range applied {
		if p := r.packs[ref]; p != nil && !p.since.IsZero() {
			r.metrics.lag.Observe(now.Sub(p.since).Seconds())
		}
	}
	r.logApplied(plan, applied)
	r.opts.Applied(generation, sortedKeys(applied))
	if err := r.refresh(ctx); err != nil {
		r.logger.Warn("catalog is read later", "err", err)
		return false
	}
	return true
}

func (r *Reconciler) logApplied(plan *Plan, applied map[string]bool) {
	steps := 0
	for _, p := range plan.Packs {
		if applied[p.Ref] {
			steps += len(p.Steps)
		}
	}
	for _, p := range plan.Packs {
		if !applied[p.Ref] {
			continue
		}
		// A pack that is new is one thing that changed; so is each of very many.
		if steps > manySteps || p.isNew() {
			r.logPack(p)
			continue
		}
		for _, s := range p.Steps {
			if s.Op == StepKeep {
				continue
			}
			log := r.logger
			if s.Consequence != consequenceNone {
				log = log.With("consequence", s.Consequence)
			}
			log.Info("component applied", "pack", p.Ref, "kind", string(s.Kind), "ref", s.Ref, "op", s.Op)
		}
	}
}

// logPack tells in one line what became of a pack.
func (r *Reconciler) logPack(p PackPlan) {
	ops := map[string]int{}
	for _, s := range p.Steps {
		ops[s.Op]++
	}
	log := r.logger
	for _, op := range []string{StepCreate, StepChange, StepEnable, StepDisable, StepKeep} {
		if ops[op] > 0 {
			log = log.With(op, ops[op])
		}
	}
	if len(p.Steps) > 0 {
		log.Info("pack applied", "pack", p.Ref)
	}
}

// isNew says that the database has not had the pack before.
func (p *PackPlan) isNew() bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Op == StepCreate && s.Kind == manifest.KindPack })
}
