package store

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Hand takes executions in the transaction that queues them. With a node that has nothing else to do, nobody
// has to be woken for them, look for them and claim them: that is a third of the time from an event to the
// start of its action.
type Hand interface {
	// Reserve is asked before the commit how many of n executions, which are due, may be claimed; false: none.
	// They are claimed as Claim does it, without a look at what else waits, so it is for who knows that
	// nothing does.
	Reserve(n int) (Claiming, bool)
	// Take follows each Reserve that gave something, once: with what was claimed, which is committed. It may
	// be less, and after a rollback is nothing.
	Take(c Claiming, claimed []Claimed)
}

// Claiming says who claims.
type Claiming struct {
	Node string
	// Most is how many executions are claimed at most.
	Most int
	// Ready are the revisions whose actions begin with the claim, as for Claim.
	Ready []int64
}

// args are those that all claims have, but for what is claimed.
func (c Claiming) args(known actions) pgx.StrictNamedArgs {
	ids, generations := known.keys()
	return pgx.StrictNamedArgs{
		"node":              c.Node,
		"most":              c.Most,
		"lease_seconds":     LeaseDuration.Seconds(),
		"ready_revisions":   c.Ready,
		"known_ids":         ids,
		"known_generations": generations,
	}
}

// claimedFrom makes what was claimed out of the answer to a claim, in its order.
func (s *Store) claimedFrom(rows []claimRow, known actions) []Claimed {
	slices.SortFunc(rows, func(a, b claimRow) int { return cmp.Compare(a.Place, b.Place) })
	claimed := make([]Claimed, 0, len(rows))
	seen := actions{}
	maps.Copy(seen, known)
	for i := range rows {
		s.highest.note(rows[i].ExecutionID)
		claimed = append(claimed, s.claimedOf(&rows[i], seen))
	}
	return claimed
}

// handMost is how many executions a group queues at most for some of them to be claimed with it: all of them are
// looked at again, and where there are many nobody has room for more than a few.
const handMost = 64

// handing is the part of an eventCommit that has to do with a Hand.
type handing struct {
	hand     Hand // nil: there is none
	reserved *Claiming
	known    actions
	rows     []claimRow
	// due are how many of what is queued may be claimed.
	due int
}

// ClaimFor has what the group queues claimed with it, as far as the hand has room.
func (g *EventGroup) ClaimFor(hand Hand) { g.c.handing.hand = hand }

// queuedRow is what QueueClaimed and ClaimMatches answer.
type queuedRow struct {
	IsClaimed bool
	claimRow
}

// queueRows has the executions queued, and claimed as far as the hand has room, and gives queued their numbers.
func (c *eventCommit) queueRows(batch *pgx.Batch, rows *executionRows, queued func(ids []int64)) {
	due := rows.claimable(c.stored[c.fresh[0]].CreatedAt)
	claiming, ok := c.reserve(len(due))
	switch {
	case !ok && !rows.special:
		c.s.queue(batch, "QueueMatches", rows.plainArgs()).QueryRow(func(row pgx.Row) error {
			var ids []int64
			if err := row.Scan(&ids); err != nil {
				return err
			}
			queued(ids)
			return nil
		})
		return
	case !ok:
		c.s.queue(batch, "QueueExecutions", rows.args()).Query(func(answer pgx.Rows) error {
			ids, err := pgx.CollectRows(answer, pgx.RowTo[int64])
			if err == nil {
				queued(ids)
			}
			return err
		})
		return
	}
	h := &c.handing
	h.reserved, h.known, h.due = &claiming, c.s.actions.recent(), len(due)
	args := claiming.args(h.known)
	delete(args, "most")
	args["last_claimed"] = due[min(claiming.Most, len(due))-1]
	statement := "QueueClaimed"
	if rows.special {
		maps.Copy(args, rows.args())
	} else {
		statement = "ClaimMatches"
		maps.Copy(args, rows.plainArgs())
	}
	c.s.queue(batch, statement, args).Query(func(answer pgx.Rows) error {
		all, err := pgx.CollectRows(answer, pgx.RowToStructByPos[queuedRow])
		if err != nil {
			return err
		}
		ids := make([]int64, len(all))
		for i := range all {
			ids[i] = all[i].ExecutionID
			if all[i].IsClaimed {
				h.rows = append(h.rows, all[i].claimRow)
			}
		}
		queued(ids)
		return nil
	})
}

// reserve asks the hand for room.
func (c *eventCommit) reserve(due int) (Claiming, bool) {
	if c.handing.hand == nil || due == 0 || c.executions > handMost {
		return Claiming{}, false
	}
	return c.handing.hand.Reserve(due)
}

// isLeft says that the hand leaves something for others.
func (h *handing) isLeft() bool { return h.reserved == nil || h.reserved.Most < h.due }

// handOver gives the hand what it has claimed, or its room back.
func (c *eventCommit) handOver(ctx context.Context, committed bool) {
	h := &c.handing
	if h.reserved == nil {
		return
	}
	if !committed {
		h.hand.Take(*h.reserved, nil)
		return
	}
	claimed := c.s.claimedFrom(h.rows, h.known)
	c.s.turn.took(claimed, nil, h.reserved.Most)
	h.hand.Take(*h.reserved, claimed)
	if h.reserved.Most >= h.due && len(claimed) < h.due {
		c.s.wake(ctx) // somebody paused everything, or drew numbers between ours
	}
}

// wake has the nodes look at the queue. Without it they would find what is there by themselves, later.
func (s *Store) wake(ctx context.Context) {
	err := s.hot(context.WithoutCancel(ctx), "wake the workers", func(batch *pgx.Batch) { s.queue(batch, "WakeQueue", nil) })
	if err != nil {
		s.log.Debug("cannot wake the workers", "component", "store", "err", err)
	}
}
