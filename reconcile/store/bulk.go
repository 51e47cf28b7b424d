package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// Cancel ends a waiting execution, or marks a running one to be stopped by its node. It gives the
// status found; ErrNotFound. It is recorded in the audit in the same transaction.
func (s *Store) Cancel(ctx context.Context, id int64, by string) (Status, error) {
	doing := fmt.Sprintf("cancel execution %d", id)
	found, err := s.cancel(ctx, doing, []int64{id}, by, true)
	if err != nil {
		return "", err
	}
	if status, ok := found[id]; ok {
		return status, nil
	}
	ended, err := list(ctx, s, "ExecutionStatus", pgx.StrictNamedArgs{"id": id}, pgx.RowTo[Status])
	switch {
	case err != nil:
		return "", s.failed(doing, err)
	case len(ended) == 0:
		return "", s.failed(doing, ErrNotFound)
	}
	return ended[0], nil
}

// CancelAll is Cancel for many, in one transaction. It gives the status found of those that had not
// ended; the others are left as they are. Where the database refuses one, the others are cancelled all the
// same, and the error is of the first that it refuses.
func (s *Store) CancelAll(ctx context.Context, ids []int64, by string) (map[int64]Status, error) {
	all := map[int64]Status{}
	if len(ids) == 0 {
		return all, nil
	}
	var first error
	err := inHalves(
		ids, func(some []int64) error {
			found, err := s.cancel(ctx, fmt.Sprintf("cancel %d executions", len(some)), some, by, true)
			maps.Copy(all, found)
			return err
		}, func(id int64, err error) error {
			if first == nil {
				first = fmt.Errorf("the database refuses the end of execution %d, the others are cancelled: %w", id, err)
			}
			return nil
		})
	return all, cmp.Or(err, first)
}

// cancel is audited where somebody wants it, and not where an action's concurrency does.
func (s *Store) cancel(ctx context.Context, doing string, ids []int64, by string, audited bool) (map[int64]Status, error) {
	found, freed := map[int64]Status{}, keyedSet{}
	err := s.hot(ctx, doing, func(batch *pgx.Batch) {
		batch.Queue(s.queries.get("CancelExecutions"), originArgs(ctx, pgx.StrictNamedArgs{
			"ids":          ids,
			"cancelled_by": cleanText(by),
			"audited":      audited,
		})).Query(func(rows pgx.Rows) error {
			var id, notified int64
			var status Status
			var action string
			var key *string
			_, err := pgx.ForEachRow(rows, []any{&id, &status, &action, &key, &notified}, func() error {
				found[id] = status
				freed.add(&action, key)
				return nil
			})
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	s.admit(ctx, freed)
	return found, nil
}

// ChooseExecutions gives the ids of the executions that a filter names, newest first.
func (s *Store) ChooseExecutions(ctx context.Context, f ExecutionFilter) ([]int64, error) {
	// History may be long, and the queue is short.
	query := "ChooseQueued"
	for _, status := range f.Status {
		if status.Final() {
			query = "ChooseExecutions"
		}
	}
	if len(f.Status) == 0 {
		query = "ChooseExecutions"
	}
	ids, err := list(ctx, s, query, f.args(), pgx.RowTo[int64])
	return ids, s.failed("choose executions", err)
}

func (f *ExecutionFilter) args() pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{
		"action_ref": optional(f.Action),
		"rule_ref":   optional(f.Rule),
		"pack_ref":   optional(f.Pack),
		"statuses":   f.Status,
		"event_id":   optional(f.EventID),
		"since":      optionalTime(f.Since),
		"before":     optional(f.Before),
		"most":       limitOf(f.Limit),
	}
}

// Rerun is an execution that is about to be repeated.
type Rerun struct {
	ID     int64
	Status Status
	// Revision is the digest of the pack's tree that it ran from; empty: it never ran. RevisionID is a
	// revision of that digest; 0: none is kept any more.
	Revision   string
	RevisionID int64
	// Again is what to queue: the same action with the same parameters, secrets and limits, due at once,
	// for the same rule and event.
	Again NewExecution
}

type rerunRow struct {
	ID             int64
	ActionRef      string
	Status         Status
	RuleRef        string
	TriggerRef     string
	EventID        int64
	Parameters     json.RawMessage
	Secrets        map[string]string
	Priority       int
	TimeoutSeconds float64
	Retry          *ownRetry
	Revision       string
	RevisionID     int64
}

// Reruns reads what it takes to repeat executions, by id; those that are not there are left out.
func (s *Store) Reruns(ctx context.Context, ids []int64) ([]Rerun, error) {
	rows, err := list(ctx, s, "RerunSources", pgx.StrictNamedArgs{"ids": ids}, pgx.RowToStructByName[rerunRow])
	if err != nil {
		return nil, s.failed("read executions to be repeated", err)
	}
	reruns := make([]Rerun, len(rows))
	for i, row := range rows {
		own := deref(row.Retry)
		reruns[i] = Rerun{
			ID: row.ID, Status: row.Status, Revision: row.Revision, RevisionID: row.RevisionID,
			Again: NewExecution{
				Action: row.ActionRef, Rule: row.RuleRef, Trigger: row.TriggerRef, EventID: row.EventID,
				Parameters: row.Parameters, Secrets: row.Secrets, Priority: row.Priority, Retry: own.Retry,
				Timeout: time.Duration(row.TimeoutSeconds * float64(time.Second)), TimeoutTotal: time.Duration(own.TimeoutTotal),
				rerunOf: row.ID, stored: true,
			},
		}
	}
	return reruns, nil
}

// Printed is what an attempt printed on a stream.
type Printed struct {
	Attempt int
	Stream  string
	Text    string
}

type printedRow struct {
	Printed
	Arrival []int // of stderr
}

// Outputs gives what the attempts of an execution between two numbers printed, in the order in which it came.
func (s *Store) Outputs(ctx context.Context, id int64, createdAt time.Time, after, before int) ([]Printed, error) {
	rows, err := list(ctx, s, "Outputs", pgx.StrictNamedArgs{
		"id": id, "created_at": createdAt, "after": after, "before": before,
	}, pgx.RowToStructByPos[printedRow])
	if err != nil {
		return nil, s.failed(fmt.Sprintf("read the outputs of execution %d", id), err)
	}
	var printed []Printed
	for i := 0; i < len(rows); i++ {
		if i+1 < len(rows) && rows[i+1].Attempt == rows[i].Attempt {
			printed = append(printed, byTurns(rows[i].Printed, rows[i+1].Printed, rows[i+1].Arrival)...)
			i++
			continue
		}
		printed = append(printed, rows[i].Printed)
	}
	return printed, nil
}

// byTurns cuts two texts into what came by turns. What is between two characters stays there, whatever the order says.
func byTurns(stdout, stderr Printed, arrival []int) (pieces []Printed) {
	left := [2]Printed{stdout, stderr}
	for i, n := range arrival {
		of := &left[i%2]
		n = max(min(n, len(of.Text)), 0)
		for n < len(of.Text) && !utf8.RuneStart(of.Text[n]) {
			n++
		}
		if n > 0 {
			pieces = append(pieces, Printed{Attempt: of.Attempt, Stream: of.Stream, Text: of.Text[:n]})
			of.Text = of.Text[n:]
		}
	}
	for _, rest := range left {
		if rest.Text != "" {
			pieces = append(pieces, rest)
		}
	}
	return pieces
}

// End is how an execution ended.
type End struct {
	ID       int64   `json:"id"`
	Status   Status  `json:"status"`
	ExitCode *int    `json:"exit_code"`
	Signal   *string `json:"signal"`
	Error    *string `json:"error"`
}

// Ends gives how those of the executions ended that have. All must have been asked for at since or
// later, which keeps older history out of the search.
func (s *Store) Ends(ctx context.Context, ids []int64, since time.Time) ([]End, error) {
	var ends []End
	err := s.hot(ctx, "look for executions that have ended", func(batch *pgx.Batch) {
		batch.Queue(s.queries.get("Ends"), pgx.StrictNamedArgs{"ids": ids, "since": since}).Query(func(rows pgx.Rows) (err error) {
			ends, err = pgx.CollectRows(rows, pgx.RowToStructByPos[End])
			return err
		})
	})
	return ends, err
}
