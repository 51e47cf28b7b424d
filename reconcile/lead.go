package reconcile

import "errors"

// ErrFollows says that another node applies the packs.
var ErrFollows = errors.New("cannot reload the packs: another node leads and applies them; ask that one, `attune status` there says that it leads")

// lead finds out for one pass whether this node may apply. One that has come to lead looks again at what
// it could only tell before: it may have missed what the node before it applied, and must not take the
// others back with it. So files of an older revision are held, and what its folders lack is not removed.
func (r *Reconciler) lead() {
	followed, leads := r.planOnly, true
	r.lease = ""
	if r.opts.Leads != nil {
		r.lease, leads = r.opts.Leads()
	}
	r.planOnly = r.opts.PlanOnly || !leads
	if !followed || r.planOnly {
		return
	}
	for ref := range r.drifts {
		if p := r.packs[ref]; p != nil {
			p.stale = true
			r.unsure = append(r.unsure, ref)
		} else {
			r.absent[ref] = true
		}
	}
}
