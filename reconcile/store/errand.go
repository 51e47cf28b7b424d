package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// The verbs of errands.
const (
	ErrandRollback = "rollback"
	ErrandUnpin    = "unpin"
)

// ErrErrandGone says that an errand was done before, or that nobody waits for it any more.
var ErrErrandGone = errors.New("it was done before, or who asked for it has given up")

// Errand is what a node asks of the one that leads, because only that one may do it.
type Errand struct {
	ID       int64
	Node     string // that asks
	Verb     string
	Pack     string
	Revision int // of a rollback
	Actor    string
	Reason   string
	Origin   // from where it is wanted
}

// AddErrand asks, and tells the leader, who does it unless patience has passed.
func (s *Store) AddErrand(ctx context.Context, e Errand, patience time.Duration) (id int64, err error) {
	ids, err := collect(ctx, s, s.pool, "AddErrand", pgx.StrictNamedArgs{
		"node": e.Node, "verb": e.Verb, "pack": cleanText(e.Pack), "revision": e.Revision, "actor": cleanText(e.Actor),
		"reason": cleanText(e.Reason), "origin": cleanText(e.From), "request_id": cleanText(e.RequestID), "seconds": patience.Seconds(),
	}, pgx.RowTo[int64])
	if err == nil && len(ids) != 1 {
		err = errors.New("the database gave it no number")
	}
	if err != nil {
		return 0, s.failed(fmt.Sprintf("ask the leader to %s pack %s", e.Verb, e.Pack), err)
	}
	return ids[0], nil
}

// OpenErrands are those that are to be done yet, in the order in which they were asked for.
func (s *Store) OpenErrands(ctx context.Context) ([]Errand, error) {
	errands, err := collect(ctx, s, s.pool, "OpenErrands", nil, pgx.RowToStructByPos[Errand])
	return errands, s.failed("read what other nodes ask for", err)
}

// AnswerErrand tells what came of an errand. answer is a JSON object.
func (s *Store) AnswerErrand(ctx context.Context, id int64, answer json.RawMessage) error {
	_, err := collect(ctx, s, s.pool, "AnswerErrand", pgx.StrictNamedArgs{"id": id, "answer": storable(answer)}, pgx.RowTo[any])
	return s.failed(fmt.Sprintf("answer errand %d", id), err)
}

// ErrandAnswer reads the answer; nil: there is none yet. done says that what was asked for is in force.
// ErrErrandGone where the errand is not there any more.
func (s *Store) ErrandAnswer(ctx context.Context, id int64) (answer json.RawMessage, done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	var text string
	err = s.pool.QueryRow(ctx, s.queries.get("ErrandAnswer"), pgx.StrictNamedArgs{"id": id}).Scan(&done, &text)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrErrandGone
	}
	if err != nil {
		return nil, false, s.failed(fmt.Sprintf("read the answer to errand %d", id), err)
	}
	if text != "" {
		answer = json.RawMessage(text)
	}
	return answer, done, nil
}

// WithdrawErrand takes an errand back, or away with its answer. withdrawn says that nothing has come of it
// and nothing will; one that was done stays until there is an answer.
func (s *Store) WithdrawErrand(ctx context.Context, id int64) (withdrawn bool, err error) {
	open, err := collect(ctx, s, s.pool, "WithdrawErrand", pgx.StrictNamedArgs{"id": id}, pgx.RowTo[bool])
	return len(open) > 0 && open[0], s.failed(fmt.Sprintf("withdraw errand %d", id), err)
}

// LeaseHolder is the node that holds a lease; empty: nobody does.
func (s *Store) LeaseHolder(ctx context.Context, name string) (node string, err error) {
	nodes, err := collect(ctx, s, s.pool, "LeaseHolder", pgx.StrictNamedArgs{"name": name}, pgx.RowTo[string])
	if err != nil || len(nodes) == 0 {
		return "", s.failed("find out who holds lease "+name, err)
	}
	return nodes[0], nil
}

// doErrands marks the errands that the changes do as done.
func (a *apply) doErrands(changes []PackChange) {
	for _, c := range changes {
		if c.Errand == 0 {
			continue
		}
		a.queue("DoErrand", pgx.StrictNamedArgs{"id": c.Errand}).Query(func(rows pgx.Rows) error {
			done, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			if err == nil && len(done) == 0 {
				err = fmt.Errorf("errand %d: %w", c.Errand, ErrErrandGone)
			}
			return err
		})
	}
}
