package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Pause says that nothing is claimed, on no node, until somebody resumes. Events, the rules that match them
// and what they queue are recorded meanwhile, and what was claimed before runs on.
type Pause struct {
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Reason string    `json:"reason"` // empty: nobody said
}

// Pause pauses, with a row in the audit. changed is false where somebody had done so before, whose word then
// stands.
func (s *Store) Pause(ctx context.Context, by, reason string) (pause *Pause, changed bool, err error) {
	detail, err := encode(struct {
		Reason string `json:"reason,omitempty"`
	}{reason})
	if err != nil {
		return nil, false, fmt.Errorf("cannot pause: %w", err)
	}
	pause, err = s.pause(ctx, "Pause", originArgs(ctx, pgx.StrictNamedArgs{
		"by": cleanText(by), "reason": cleanText(reason), "detail": detail,
	}))
	if err != nil || pause != nil {
		return pause, pause != nil, s.failed("pause", err)
	}
	pause, err = s.Paused(ctx)
	return pause, false, err
}

// Resume ends a pause, with a row in the audit, and wakes all nodes. It gives the pause that there was; nil:
// there was none.
func (s *Store) Resume(ctx context.Context, by string) (*Pause, error) {
	was, err := s.pause(ctx, "Resume", originArgs(ctx, pgx.StrictNamedArgs{"by": cleanText(by)}))
	return was, s.failed("resume", err)
}

// Paused gives the pause that there is; nil: there is none.
func (s *Store) Paused(ctx context.Context) (*Pause, error) {
	pause, err := s.pause(ctx, "Paused", nil)
	return pause, s.failed("look for a pause", err)
}

// pause runs a query that gives a pause or none.
func (s *Store) pause(ctx context.Context, name string, args pgx.StrictNamedArgs) (*Pause, error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	found, err := collect(ctx, s, s.pool, name, args, pgx.RowToAddrOfStructByPos[Pause])
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}
