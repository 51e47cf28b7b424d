package reconcile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
)

const (
	// removalHold is how long the removal of many packs at once must last to be believed: a mount that
	// comes late, or a tree that is being swapped, takes less.
	removalHold = 5 * time.Second
	// fewPacks is how many may always vanish at once.
	fewPacks = 1
)

// removal is a removal of over half of the packs, held until a second scan finds the same.
type removal struct {
	refs  []string // empty: none is held
	since time.Time
}

// survey looks at the packs that the job names, and gives those that vanished. What it finds changed
// is stale afterwards.
func (r *Reconciler) survey(j *job, now time.Time) (vanished []string) {
	defer r.scanner.lookedAhead() // what is scanned later is looked at then
	if j.all || r.listing == nil {
		if !r.scanner.ahead() {
			r.relist()
		}
		for _, ref := range sortedKeys(r.listing.places) {
			p := r.listing.places[ref]
			if j.now || !r.watcher.isOpen(p.key) {
				r.visit(p, j, now)
			}
		}
		return r.vanished(j, now)
	}
	if r.visitChanged(j, now) {
		// One came or went: only the whole says what that means.
		before := r.listing
		r.relist()
		for _, ref := range sortedKeys(r.listing.places) {
			p := r.listing.places[ref]
			_, due := j.since[p.key]
			if (due || before.places[ref] != p) && !r.watcher.isOpen(p.key) {
				r.visit(p, j, now)
			}
		}
		return r.vanished(j, now)
	}
	return nil
}

// visitChanged looks at the packs whose windows closed, and says whether one of them is not where the
// last listing has it.
func (r *Reconciler) visitChanged(j *job, now time.Time) (relist bool) {
	for _, key := range sortedKeys(j.since) {
		p, ok := r.listing.places[filepath.Base(key)]
		if !ok || p.key != key {
			relist = true
			continue
		}
		if _, known := r.packs[p.ref]; r.visit(p, j, now) == gone || !known {
			relist = true
		}
	}
	return relist
}

// relist reads the packs folders again, and says what is wrong with them once.
func (r *Reconciler) relist() {
	r.listing = list(r.opts.Directories, r.opts.AutoLoad, r.watcher, r.known, r.opts.Trust.WorldWritable)
	listed := map[string]bool{}
	for _, p := range r.listing.places {
		listed[p.key] = true
	}
	for key := range r.scanner.folders {
		if !listed[key] && !r.listing.unavailable(filepath.Dir(key)) {
			r.scanner.forget(key)
			r.watcher.begin(key)
			r.watcher.end(key)
		}
	}
	for ref, p := range r.packs {
		if !listed[p.folder.key] && !r.listing.unavailable(p.folder.directory) {
			delete(r.packs, ref)
			delete(r.afar, ref)
			r.metrics.packErrors.DeleteLabelValues(ref)
		}
	}
	problems := 0
	for _, s := range r.listing.sources {
		if s.problem != "" {
			problems++
		} else {
			r.known[s.directory] = s.id
		}
		for _, warning := range s.warnings {
			if !r.warned[warning] {
				r.warned[warning] = true
				r.logger.Warn("packs folder can be changed by others", "err", warning)
			}
		}
	}
	r.metrics.unavailable.Set(float64(problems))
	r.sourceAt = time.Now().Add(sourceRetry)
	problem := r.listing.problem()
	r.mu.Lock()
	before := r.status.SourceProblem
	r.status.SourceProblem = problem
	r.mu.Unlock()
	switch {
	case problem != "" && problem != before:
		r.logger.Error("packs folder is not available, its packs stay as they are", "err", problem)
	case problem == "" && before != "":
		r.logger.Info("packs folder is available again")
	}
}

// sourcesChanged looks whether a packs folder that could not be read can be, or the other way round, and
// whether another folder stands in its place: of a file system that is mounted over it nobody tells.
func (r *Reconciler) sourcesChanged(now time.Time) bool {
	r.sourceAt = now.Add(sourceRetry)
	before := r.listing.problem()
	if before == "" {
		return slices.ContainsFunc(r.listing.sources, func(s source) bool {
			info, err := os.Stat(s.directory)
			return err != nil || markOf(info).identity() != s.id
		})
	}
	r.relist()
	return r.listing.problem() != before
}

// visit scans one pack.
func (r *Reconciler) visit(p place, j *job, now time.Time) outcome {
	if row := r.catalog.Packs[p.ref]; row != nil && row.Directory != p.directory && r.listing.unavailable(row.Directory) {
		return same // the one in force is in a folder that cannot be read now: it is not replaced
	}
	first, noticed := j.since[p.key]
	v := r.scanner.scan(p, now, !noticed && !j.now)
	r.unkept = r.unkept || v.read || v.outcome == fresh
	delete(r.afar, p.ref)
	if v.folder != nil && v.folder.remote != "" {
		r.afar[p.ref] = v.folder.remote
	}
	known := r.packs[p.ref]
	switch v.outcome {
	case unsure:
		r.watcher.again(p.key, v.retry, now)
	case gone:
		delete(r.packs, p.ref)
		if v.folder != nil {
			r.notice(v.folder)
		}
	case same, fresh:
		if known == nil {
			known = r.recall(v)
			r.packs[p.ref] = known
			r.first(p.ref)
		}
		if known.folder == nil || known.folder.sum != v.folder.sum {
			r.markStale(known, p, j, first, noticed)
			known.content = v.content
			r.release(p.ref, v.folder.digest)
		}
		known.folder = v.folder
	}
	return v.outcome
}

// markStale notes that a pack's files changed, and what told so.
func (r *Reconciler) markStale(known *pack, p place, j *job, first time.Time, noticed bool) {
	known.stale = true
	if known.since.IsZero() && noticed {
		known.since = first
	}
	if known.cause == "" {
		known.cause = j.cause
		// Who only asks for a plan applies nothing: what comes of the edit is the edit's doing.
		if j.plan || noticed && !strings.HasPrefix(j.cause, causeCommand) {
			known.cause = causeEdit
		}
	}
	if j.cause == causeResync && !noticed {
		r.metrics.resyncFound.Inc()
		r.logger.Warn("changed files were found without an event of them", "pack", p.ref)
	}
	delete(r.noticed, p.key)
}

// notice tells once of a folder that is no pack.
func (r *Reconciler) notice(f *folder) {
	if r.noticed[f.key] {
		return
	}
	r.noticed[f.key] = true
	for _, e := range noPack(f) {
		r.logger.Warn("folder is not loaded", "path", f.key, "err", e.Error())
	}
}

// vanished gives the packs in force whose files are gone, and holds them where they are too many.
func (r *Reconciler) vanished(j *job, now time.Time) []string {
	for _, w := range j.waiters {
		if r.absent[w.force] {
			r.logger.Info("pack without a folder removed by order", "pack", w.force, "by", w.by)
			delete(r.absent, w.force)
			r.forced[w.force] = w
		}
	}
	var absent, quiet, past []string // past: only their findings are left
	present := 0
	for ref, row := range r.catalog.Packs {
		if row.PinnedBy != "" {
			continue // whatever becomes of its folder
		}
		if row.Present {
			present++
		}
		if r.hasFolder(ref) || r.listing.unavailable(row.Directory) {
			delete(r.absent, ref)
			continue
		}
		if r.absent[ref] {
			continue
		}
		switch {
		case !row.Present && len(row.Errors) > 0:
			past = append(past, ref)
		case row.Present:
			absent = append(absent, ref)
			if j.now || !r.watcher.isOpen(filepath.Join(row.Directory, ref)) {
				quiet = append(quiet, ref)
			}
		}
	}
	slices.Sort(absent)
	slices.Sort(quiet)
	switch {
	case len(quiet) > 0 && !j.now && len(j.since) == 0 && r.sourcesYoung(now):
		r.watcher.again(everything, r.opts.Quiet, now)
		return past
	case !r.believed(absent, present, now):
		return past
	}
	return append(quiet, past...)
}

// hasFolder says whether a pack is there, or may be: one that could not be looked at counts.
func (r *Reconciler) hasFolder(ref string) bool {
	p, listed := r.listing.places[ref]
	if !listed {
		return false
	}
	f := r.scanner.folders[p.key]
	return r.packs[ref] != nil || f == nil || !f.noPack
}

// sourcesYoung says that an entry of a packs folder came or went just now: what is gone may only be on
// its way to being replaced.
func (r *Reconciler) sourcesYoung(now time.Time) bool {
	return slices.ContainsFunc(r.listing.sources, func(s source) bool {
		return s.ctime <= now.UnixNano() && now.UnixNano()-s.ctime < r.opts.Quiet.Nanoseconds()
	})
}

// believed says whether packs may be taken for removed. Over half of all at once is more often a mount
// that failed or a tree that is being swapped than what somebody wants.
func (r *Reconciler) believed(absent []string, present int, now time.Time) bool {
	if len(absent) <= fewPacks || len(absent)*2 <= present {
		r.removal = removal{}
		return true
	}
	if !slices.Equal(absent, r.removal.refs) {
		if r.removal.refs == nil {
			r.metrics.held.Inc()
		}
		r.removal = removal{refs: absent, since: now}
		r.logger.Warn("over half of the packs have vanished, held until a second scan agrees",
			"vanished", len(absent), "packs", present, "duration", removalHold)
	}
	if left := removalHold - now.Sub(r.removal.since); left > 0 {
		r.watcher.again(everything, left, now)
		return false
	}
	r.removal = removal{}
	return true
}

// noPack are the findings about a folder without pack.yaml.
func noPack(f *folder) manifest.Errors {
	files := map[string]manifest.File{}
	for _, one := range f.files {
		files[one.path] = manifest.File{}
	}
	return manifest.Parse(f.ref, files).Errors
}

// heldRefs are the vanished packs that are not believed yet.
func (r *Reconciler) heldRefs() []string { return slices.Clone(r.removal.refs) }
