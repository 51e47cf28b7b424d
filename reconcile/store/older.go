package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// numberGap is added to the highest known number of a database that came back older: other nodes may
	// have seen higher ones.
	numberGap = 1_000_000
	// olderLock is the advisory lock under which numbers are put forward, so that nobody puts them back.
	olderLock = 0x61747475_6f6c64 // "attuold"
)

// highest remembers the highest number of an execution that this process has seen. After a failover to a
// copy that lags behind, or a restored backup, the database would give numbers a second time that
// processes, logs and people know already; so each new connection looks before it is used.
type highest struct {
	number  atomic.Int64
	queries queries
	log     *slog.Logger
	found   prometheus.Counter
}

func (h *highest) note(ids ...int64) {
	for _, id := range ids {
		for known := h.number.Load(); id > known && !h.number.CompareAndSwap(known, id); known = h.number.Load() {
		}
	}
}

// look compares a new connection's database with what was seen.
func (h *highest) look(ctx context.Context, conn *pgx.Conn) error {
	known := h.number.Load()
	if known == 0 { // nothing was seen, not even a schema
		return nil
	}
	last, err := h.last(ctx, conn)
	if err != nil {
		return fmt.Errorf("cannot compare the database with what was seen of it: %w", err)
	}
	if last >= known {
		return nil
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
		if _, err = tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(olderLock)); err != nil {
			return err
		}
		if last, err = h.last(ctx, tx); err != nil || last >= known {
			return err // another connection was first
		}
		_, err = tx.Exec(ctx, h.queries.get("PutNumbersForward"), pgx.StrictNamedArgs{"number": known + numberGap})
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot put the numbers of executions forward: %w", err)
	}
	if last >= known {
		return nil
	}
	h.found.Inc()
	h.log.Error("the database is older than it was, what was stored since is lost", "component", "store",
		"first_lost", last+1, "last_seen", known, "next", known+numberGap+1,
		"hint", "a failover to a copy that lagged behind, or a restored backup; compare with the logs of the executions between the two numbers")
	return nil
}

// last gives 0 where there is no schema yet.
func (h *highest) last(ctx context.Context, db querier) (int64, error) {
	rows, err := db.Query(ctx, h.queries.get("LastNumber"))
	if err != nil {
		return 0, err
	}
	last, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == codeUndefinedTable {
		return 0, nil
	}
	return last, err
}
