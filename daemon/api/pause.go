package api

import (
	"context"

	"github.com/attune-io/attune/reconcile/store"
)

// Pause says that nothing is begun, on no node, until somebody resumes.
type Pause = store.Pause

// NewPause asks for a pause.
type NewPause struct {
	// Reason says why, for whoever wonders later.
	Reason string `json:"reason,omitempty" maxLength:"1000"`
}

// Paused is what became of a pause or of its end.
type Paused struct {
	// Pause is the one that there is now, or, after a resume, the one that there was; null: there was none.
	Pause *Pause `json:"pause"`
	// Changed says that it was not so before.
	Changed bool `json:"changed"`
}

// pauseInput is the body of a pause.
type pauseInput struct{ Body NewPause }

func (s *Server) pause(ctx context.Context, in *pauseInput) (*Paused, error) {
	pause, changed, err := s.opts.Store.Pause(ctx, caller(ctx), in.Body.Reason)
	if err != nil {
		return nil, err
	}
	if changed {
		s.log.Warn("paused: nothing is claimed until somebody resumes", "by", pause.By, "reason", pause.Reason)
	}
	return &Paused{Pause: pause, Changed: changed}, nil
}

func (s *Server) resume(ctx context.Context, _ *none) (*Paused, error) {
	was, err := s.opts.Store.Resume(ctx, caller(ctx))
	if err != nil {
		return nil, err
	}
	if was != nil {
		s.log.Info("resumed", "by", caller(ctx), "paused_by", was.By, "paused_at", was.At)
	}
	return &Paused{Pause: was, Changed: was != nil}, nil
}
