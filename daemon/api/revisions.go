package api

import (
	"context"
	"errors"
	"fmt"

	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/store"
)

// Revision is one applied state of a pack.
type Revision = store.RevisionRow

// Difference is what lies between two states of a pack's files.
type Difference = reconcile.Difference

// NewRollback asks for an older revision to be put back into force, and pinned.
type NewRollback struct {
	// Revision is its number. Defaults to the newest whose files are not those in force.
	Revision int `json:"revision,omitempty" minimum:"0" maximum:"2147483647"`
	// Reason says why, for whoever wonders later.
	Reason string `json:"reason,omitempty" maxLength:"1000"`
}

// revisionQuery says whose revisions are wanted.
type revisionQuery struct {
	Ref   string `path:"ref"`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

func (s *Server) listRevisions(ctx context.Context, in *revisionQuery) ([]Revision, error) {
	if _, _, err := s.findPack(ctx, in.Ref); err != nil {
		return nil, err
	}
	revisions, err := s.opts.Store.Revisions(ctx, in.Ref, in.Limit)
	return orEmpty(revisions), err
}

// differenceQuery says which two states are compared.
type differenceQuery struct {
	Ref  string `path:"ref"`
	From string `query:"from" doc:"The number of a revision, or folder. Defaults to the one before to"`
	To   string `query:"to" doc:"The number of a revision, or folder. Defaults to the newest"`
}

func (s *Server) difference(ctx context.Context, in *differenceQuery) (*Difference, error) {
	if _, _, err := s.findPack(ctx, in.Ref); err != nil {
		return nil, err
	}
	d, err := s.opts.Reconciler.Difference(ctx, in.Ref, in.From, in.To)
	return d, refusal(err)
}

// rollbackInput is the body of a rollback.
type rollbackInput struct {
	Ref  string `path:"ref"`
	Body NewRollback
}

func (s *Server) rollback(ctx context.Context, in *rollbackInput) (*Report, error) {
	if _, _, err := s.findPack(ctx, in.Ref); err != nil {
		return nil, err
	}
	report, err := s.opts.Reconciler.Rollback(ctx, in.Ref, in.Body.Revision, caller(ctx), in.Body.Reason)
	if err != nil {
		return nil, refusal(err)
	}
	return s.told(ctx, report, "")
}

func (s *Server) unpin(ctx context.Context, in *byRef) (*Report, error) {
	if _, _, err := s.findPack(ctx, in.Ref); err != nil {
		return nil, err
	}
	report, err := s.opts.Reconciler.Unpin(ctx, in.Ref, caller(ctx))
	if err != nil {
		return nil, refusal(err)
	}
	return s.told(ctx, report, "")
}

// refusal turns what the reconciler refuses into an answer; anything else stays what it is.
func refusal(err error) error {
	if refused, ok := errors.AsType[*reconcile.RefusedError](err); ok {
		problem := newError(CodeConflict, err.Error(), "correct the pack's files in its folder instead, or choose another revision (`attune pack history "+refused.Pack+"`)")
		for _, e := range refused.Errors {
			problem.Errors = append(problem.Errors, ErrorDetail{Message: e.Error()})
		}
		return problem
	}
	switch {
	case errors.Is(err, reconcile.ErrNoPack), errors.Is(err, reconcile.ErrNoRevision):
		return newError(CodeNotFound, err.Error(), "`attune pack history` lists the revisions that were kept")
	case errors.Is(err, reconcile.ErrNoSide):
		return newError(CodeInvalidRequest, err.Error(), "")
	case errors.Is(err, reconcile.ErrPlanOnly), errors.Is(err, reconcile.ErrNotPinned):
		return newError(CodeConflict, err.Error(), "")
	}
	return err
}

// forced refuses to force what is not held, and what a pin holds.
func (s *Server) forced(ctx context.Context, ref string) error {
	if ref == "" {
		return newError(CodeInvalidRequest, "cannot force all packs at once", "name the pack")
	}
	_, row, err := s.findPack(ctx, ref)
	if err != nil {
		return err
	}
	if row.PinnedBy != "" {
		return newError(CodeConflict, fmt.Sprintf("cannot apply the folder of pack %s: it is pinned to revision %d by %s", ref, row.Revision, row.PinnedBy),
			"`attune pack rollback "+ref+" --unpin` lets the folder rule again")
	}
	return nil
}
