package reconcile

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

const (
	// roundPacks is how many packs are parsed, checked and applied at a time. A parsed pack takes a hundred
	// times what is remembered of it: ten thousand at once would take more than a gigabyte.
	roundPacks = 2 * batchPacks
	// mostRounds is how often one pass takes up a pack whose neighbours go on changing.
	mostRounds = 3
)

// rounds takes a pass over very many packs in parts, each pack with those that it names or after them, so that
// each is checked against what it will meet.
type rounds struct {
	*Reconciler
	todo map[string]bool
	// known says of packs that their needs are those of their files of now, and taken how often each was
	// compared.
	known map[string]bool
	taken map[string]int
}

// convergeMany is converge for more packs than are compared at once. A pack that fails does not hold up the
// others, unless it is the database that fails.
func (r *Reconciler) convergeMany(ctx context.Context, j *job, seeds map[string]bool, vanished []string, now time.Time) (*Plan, string, error) {
	j.many = true
	r.opts.Many()
	defer r.compared(0, 0)
	s := &rounds{Reconciler: r, todo: maps.Clone(seeds), known: map[string]bool{}, taken: map[string]int{}}
	var supposed []string
	if j.plan && !r.planOnly {
		supposed = slices.Clone(vanished)
	}
	defer func() { r.unsuppose(supposed) }()
	for ref := range seeds {
		s.known[ref] = !r.packs[ref].stale
	}
	written := r.written(j)
	whole := &Plan{Packs: []PackPlan{}}
	at := map[string]int{}
	outcome := outcomeUnchanged
	for len(s.todo) > 0 || len(vanished) > 0 {
		if err := ctx.Err(); err != nil {
			return whole, outcome, err
		}
		r.compared(len(s.taken), len(s.taken)+len(s.todo))
		states := s.next(now)
		r.check(states, now)
		for ref := range states {
			delete(s.todo, ref)
			s.taken[ref]++
		}
		for ref := range r.dependents(r.changedOffers(states)) {
			if states[ref] == nil && s.taken[ref] < mostRounds && !written[ref] && r.packs[ref] != nil {
				s.todo[ref] = true
			}
		}
		plan, what, err := r.round(ctx, j, states, vanished)
		if j.plan && !r.planOnly {
			r.suppose(states)
			supposed = append(supposed, sortedKeys(states)...)
		}
		vanished = nil
		for _, one := range plan.Packs {
			switch before, again := at[one.Ref]; {
			case j.silent:
			case again:
				one.Steps = slices.Concat(whole.Packs[before].Steps, one.Steps)
				whole.Packs[before] = one
			default:
				at[one.Ref] = len(whole.Packs)
				whole.Packs = append(whole.Packs, one)
			}
		}
		if what != outcomeUnchanged {
			outcome = what
		}
		if err != nil {
			return whole, outcome, err
		}
	}
	return whole, outcome, nil
}

// compared tells the status how far a long pass is; of 0: it is over.
func (r *Reconciler) compared(packs, of int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Compared = nil
	if of > 0 {
		r.status.Compared = &Compared{Packs: packs, Of: of}
	}
}

// suppose puts packs into the world as a plan has them, for what is compared after them: an apply would have
// them there.
func (r *Reconciler) suppose(states map[string]*PackState) {
	for ref, s := range states {
		components := s.Bundle.Components()
		accepted := map[store.ComponentRef]bool{}
		for _, c := range components {
			accepted[store.ComponentRef{Kind: c.Kind(), Ref: c.Head().Ref}] = true
		}
		for _, record := range r.records[ref] {
			if _, kept := brokenOf(s.Bundle, record); kept && record.Present && !accepted[store.ComponentRef{Kind: record.Kind, Ref: record.Ref}] {
				components = append(components, record.Spec)
			}
		}
		r.world.put(ref, s.Bundle.Pack, components)
	}
}

// unsuppose puts packs into the world as the database has them.
func (r *Reconciler) unsuppose(refs []string) {
	for _, ref := range refs {
		r.world.recorded(ref, r.catalog, r.records[ref])
	}
}

// next parses the packs of the next round; none where all that were looked at have to wait for others.
func (s *rounds) next(now time.Time) map[string]*PackState {
	picked := s.pick()
	states := s.parse(picked, now)
	for ref := range picked {
		if states[ref] == nil {
			delete(s.todo, ref) // it does not rule, or it changes meanwhile and is looked at later
			continue
		}
		s.known[ref] = true
		s.packs[ref].needs = states[ref].needs
	}
	for again := true; again; {
		again = false
		for ref := range states {
			if s.waits(ref, func(need string) bool { return states[need] != nil }) {
				delete(states, ref)
				again = true
			}
		}
	}
	return states
}

// waits says whether a pack names one that is still to come and is not here.
func (s *rounds) waits(ref string, here func(need string) bool) bool {
	return slices.ContainsFunc(s.packs[ref].needs, func(need string) bool { return s.todo[need] && !here(need) })
}

// pick gives packs that wait for nothing, as far as that is known, those first that others wait for. Where
// all wait for each other, it gives a few that do and all that they name.
func (s *rounds) pick() map[string]bool {
	picked := map[string]bool{}
	wanted := map[string]bool{}
	for ref := range s.todo {
		if s.known[ref] {
			for _, need := range s.packs[ref].needs {
				wanted[need] = true
			}
		}
	}
	nobody := func(string) bool { return false }
	refs := sortedKeys(s.todo)
	for _, first := range []bool{true, false} {
		for _, ref := range refs {
			if len(picked) < s.roundPacks && wanted[ref] == first && (!s.known[ref] || !s.waits(ref, nobody)) {
				picked[ref] = true
			}
		}
	}
	if len(picked) > 0 {
		return picked
	}
	smallest := map[string]bool(nil)
	for _, ref := range refs {
		if one := s.closure(ref); smallest == nil || len(one) < len(smallest) {
			smallest = one
		}
		if len(smallest) <= s.roundPacks {
			break
		}
	}
	return smallest
}

// closure gives a pack with all that it names and that is still to come.
func (s *rounds) closure(ref string) map[string]bool {
	found := map[string]bool{ref: true}
	for next := []string{ref}; len(next) > 0; {
		one := next[len(next)-1]
		next = next[:len(next)-1]
		for _, need := range s.packs[one].needs {
			if s.todo[need] && !found[need] {
				found[need] = true
				next = append(next, need)
			}
		}
	}
	return found
}
