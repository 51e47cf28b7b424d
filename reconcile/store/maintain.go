package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// partitionDays is how far ahead partitions are made: maintenance may fail for a long weekend.
	partitionDays = 3
	// pruneBatch bounds one DELETE, so that none holds locks or the WAL for long.
	pruneBatch = 1000
	// pruneRounds bounds one Maintain; the rest is for the next.
	pruneRounds = 1000
)

// IdempotencyWindow is how long a request's key makes its repetition harmless: as long as anybody tries again.
const IdempotencyWindow = 24 * time.Hour

// Retention is how long history is kept. Zero keeps for ever.
type Retention struct {
	Events     time.Duration
	Executions time.Duration
	// EventsCount and ExecutionsCount end days, oldest first, as long as so many are left.
	EventsCount, ExecutionsCount int
	Revisions                    int // a pack's newest
	// RevisionsAge ends also those that are younger by number. Whatever both say, revisions in force, and
	// those that executions wait to run or run from, are kept.
	RevisionsAge time.Duration
	// Audit is how long it is known who changed what.
	Audit time.Duration
}

// MaintainReport is what Maintain did, for one log line.
type MaintainReport struct {
	PartitionsMade, PartitionsDropped, RevisionsDropped, FilesDropped int
}

// Maintain makes the partitions of the coming days and drops those that retention no longer wants
// and nothing in the queue refers into; it prunes event_key, rule_state, concurrency, idempotency_key, audit and outdated revisions'
// files, and forgets nodes that were not seen for a day. Where another node is at it, it does nothing.
func (s *Store) Maintain(ctx context.Context, keep Retention) (MaintainReport, error) {
	var report MaintainReport
	for _, step := range []func(context.Context, Retention, *MaintainReport) error{
		s.makePartitions,
		s.dropPartitions,
		s.pruneEventKeys,
		s.pruneRuleStates,
		s.pruneConcurrency,
		s.pruneIdempotencyKeys,
		s.pruneAudit,
		s.pruneRevisions,
		s.forgetNodes,
	} {
		if err := step(ctx, keep, &report); err != nil {
			return report, err
		}
	}
	return report, nil
}

// alone runs fn in a transaction, unless another node is maintaining.
func (s *Store) alone(ctx context.Context, fn func(pgx.Tx) error) error {
	return s.inTx(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		mine, err := collect(ctx, s, tx, "LockMaintenance", pgx.StrictNamedArgs{"key": int64(lockMaintenance)}, pgx.RowTo[bool])
		if err != nil || len(mine) == 0 || !mine[0] {
			return err
		}
		if _, err := collect(ctx, s, tx, "ShortLocks", nil, pgx.RowTo[string]); err != nil {
			return err
		}
		return fn(tx)
	})
}

// count runs a query that answers with one number.
func (s *Store) count(ctx context.Context, tx pgx.Tx, name string, args pgx.StrictNamedArgs) (int, error) {
	numbers, err := collect(ctx, s, tx, name, args, pgx.RowTo[int])
	if err != nil || len(numbers) == 0 {
		return 0, err
	}
	return numbers[0], nil
}

func (s *Store) makePartitions(ctx context.Context, _ Retention, report *MaintainReport) error {
	err := s.alone(ctx, func(tx pgx.Tx) (err error) {
		report.PartitionsMade, err = s.count(ctx, tx, "MakePartitions", pgx.StrictNamedArgs{"days": partitionDays})
		return err
	})
	return s.failed("make partitions", err)
}

func (s *Store) dropPartitions(ctx context.Context, keep Retention, report *MaintainReport) error {
	for _, part := range []struct {
		histories []string
		keep      time.Duration
		most      int
		bound     string // the query that gives the time of the oldest that is kept
	}{
		{[]string{"event", "enforcement"}, keep.Events, keep.EventsCount, "EventsKeptSince"},
		{[]string{"execution", "attempt", "output"}, keep.Executions, keep.ExecutionsCount, "ExecutionsKeptSince"},
	} {
		if part.keep <= 0 && part.most <= 0 {
			continue
		}
		err := s.alone(ctx, func(tx pgx.Tx) error {
			// Apart from dropping, which wants nobody to be reading.
			bounds, err := collect(ctx, s, tx, part.bound, pgx.StrictNamedArgs{
				"keep_seconds": max(part.keep.Seconds(), 0), "most": max(part.most, 0),
			}, pgx.RowTo[*time.Time])
			if err != nil || len(bounds) == 0 || bounds[0] == nil {
				return err
			}
			dropped, err := s.count(ctx, tx, "DropPartitions", pgx.StrictNamedArgs{
				"histories": part.histories, "before": *bounds[0],
			})
			report.PartitionsDropped += dropped
			return err
		})
		if err != nil {
			return s.failed("drop outdated partitions", err)
		}
	}
	return nil
}

func (s *Store) pruneEventKeys(ctx context.Context, _ Retention, _ *MaintainReport) error {
	return s.pruneRows(ctx, "prune event keys", "PruneEventKeys", pgx.StrictNamedArgs{"keep_seconds": EventKeyWindow.Seconds()})
}

func (s *Store) pruneRuleStates(ctx context.Context, _ Retention, _ *MaintainReport) error {
	return s.pruneRows(ctx, "prune the states of rules", "PruneRuleStates", pgx.StrictNamedArgs{})
}

func (s *Store) pruneConcurrency(ctx context.Context, _ Retention, _ *MaintainReport) error {
	return s.pruneRows(ctx, "prune the keys of concurrency", "PruneConcurrency", pgx.StrictNamedArgs{})
}

func (s *Store) pruneIdempotencyKeys(ctx context.Context, _ Retention, _ *MaintainReport) error {
	return s.pruneRows(ctx, "prune idempotency keys", "PruneIdempotencyKeys", pgx.StrictNamedArgs{"keep_seconds": IdempotencyWindow.Seconds()})
}

func (s *Store) pruneAudit(ctx context.Context, keep Retention, _ *MaintainReport) error {
	if keep.Audit <= 0 {
		return nil
	}
	for range pruneRounds {
		pruned, err := collect(ctx, s, s.pool, "PruneAudit", pgx.StrictNamedArgs{"keep_seconds": keep.Audit.Seconds(), "most": pruneBatch}, pgx.RowTo[int])
		if err != nil {
			return s.failed("prune the audit", err)
		}
		if len(pruned) == 0 || pruned[0] < pruneBatch {
			break
		}
	}
	return nil
}

// pruneRows repeats a query that removes at most so many rows, so that none holds its locks for long. What
// is left after the last round is for the next maintenance.
func (s *Store) pruneRows(ctx context.Context, doing, query string, args pgx.StrictNamedArgs) error {
	args["most"] = pruneBatch
	for range pruneRounds {
		ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
		tag, err := s.pool.Exec(ctx, s.queries.get(query), args)
		cancel()
		if err != nil {
			return s.failed(doing, err)
		}
		if tag.RowsAffected() < pruneBatch {
			break
		}
	}
	return nil
}

// pruneRevisions holds the catalog's lock, so that no apply relies on a file that is about to go.
func (s *Store) pruneRevisions(ctx context.Context, keep Retention, report *MaintainReport) error {
	if keep.Revisions <= 0 && keep.RevisionsAge <= 0 {
		return nil
	}
	for range pruneRounds {
		var dropped, files int
		err := s.alone(ctx, func(tx pgx.Tx) (err error) {
			dropped, files, err = s.pruneSomeRevisions(ctx, tx, keep)
			return err
		})
		if err != nil {
			return s.failed("prune revisions", err)
		}
		report.RevisionsDropped += dropped
		report.FilesDropped += files
		if dropped < pruneBatch {
			break
		}
	}
	return nil
}

func (s *Store) pruneSomeRevisions(ctx context.Context, tx pgx.Tx, keep Retention) (revisions, files int, err error) {
	if _, err := collect(ctx, s, tx, "LockCatalog", pgx.StrictNamedArgs{"key": int64(lockCatalog)}, pgx.RowTo[any]); err != nil {
		return 0, 0, err
	}
	dropped, err := collect(ctx, s, tx, "PruneRevisions", pgx.StrictNamedArgs{
		"keep": max(keep.Revisions, 0), "keep_seconds": max(keep.RevisionsAge.Seconds(), 0), "most": pruneBatch,
	}, pgx.RowTo[[]string])
	if err != nil || len(dropped) == 0 {
		return 0, 0, err
	}
	var digests []string
	for _, some := range dropped {
		digests = append(digests, some...)
	}
	tag, err := tx.Exec(ctx, s.queries.get("PruneFiles"), pgx.StrictNamedArgs{"digests": digests})
	return len(dropped), int(tag.RowsAffected()), err
}

// RevisionsInUse gives the digests of the revisions that executions run from now, or wait to.
func (s *Store) RevisionsInUse(ctx context.Context) ([]string, error) {
	digests, err := collect(ctx, s, s.pool, "RevisionsInUse", nil, pgx.RowTo[string])
	return digests, s.failed("list the revisions in use", err)
}

func (s *Store) forgetNodes(ctx context.Context, _ Retention, _ *MaintainReport) error {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, s.queries.get("ForgetNodes"), pgx.StrictNamedArgs{"living": s.nodeVigil.living(s.now())})
	return s.failed("forget nodes", err)
}
