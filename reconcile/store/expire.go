package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// expirePeriod is how often one node looks for what has expired. A claim finds it by itself: this is so
	// that people see it, also where nothing is claimed.
	expirePeriod = 15 * time.Second
	// expireBatch bounds one look; the rest is for the next.
	expireBatch = 1000
)

// ExpiredText says why an execution was cancelled that did not begin in time.
func ExpiredText(expires time.Duration) string {
	return fmt.Sprintf("expired: it did not start within %v of when it was due", expires)
}

type expiredRow struct {
	ID      int64
	Seconds float64
}

// endExpired ends what waits and did not begin in time.
func (s *Store) endExpired(ctx context.Context) error {
	now := time.Now()
	if last := s.expired.Load(); last != nil && now.Sub(*last) < expirePeriod {
		return nil
	}
	rows, err := collect(ctx, s, s.pool, "FindExpired", pgx.StrictNamedArgs{"most": expireBatch}, pgx.RowToStructByPos[expiredRow])
	if err != nil {
		return s.failed("look for expired executions", err)
	}
	if len(rows) < expireBatch {
		s.expired.Store(&now)
	}
	if len(rows) == 0 {
		return nil
	}
	return inHalves(
		rows, func(some []expiredRow) error { return s.endSomeExpired(ctx, some) },
		func(one expiredRow, err error) error {
			s.noteStuck(one.ID, err)
			return nil
		})
}

func (s *Store) endSomeExpired(ctx context.Context, some []expiredRow) error {
	ids, reasons := make([]int64, len(some)), make([]string, len(some))
	for i, r := range some {
		ids[i], reasons[i] = r.ID, ExpiredText(time.Duration(r.Seconds*float64(time.Second)))
	}
	freed := keyedSet{}
	err := s.hot(ctx, "end expired executions", func(batch *pgx.Batch) {
		batch.Queue(s.queries.get("EndExpired"), pgx.StrictNamedArgs{"ids": ids, "reasons": reasons}).Query(func(rows pgx.Rows) error {
			var action string
			var key *string
			var notified int64
			_, err := pgx.ForEachRow(rows, []any{&action, &key, &notified}, func() error {
				freed.add(&action, key)
				return nil
			})
			return err
		})
	})
	if err != nil {
		return err
	}
	s.admit(ctx, freed)
	return nil
}
