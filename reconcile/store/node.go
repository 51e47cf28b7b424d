package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Node is a row of node.
type Node struct {
	ID        string    `json:"id"`
	Host      string    `json:"host"`
	PID       int       `json:"pid"`
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"`
	SeenAt    time.Time `json:"seen_at"`
}

// PutNode records this node; ID is "<host>-<random>", new at each start. The times are the
// database's, whatever n says.
func (s *Store) PutNode(ctx context.Context, n Node) error {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, s.queries.get("PutNode"), pgx.StrictNamedArgs{
		"id":      n.ID,
		"host":    cleanText(n.Host),
		"pid":     n.PID,
		"version": cleanText(n.Version),
	})
	return s.failed("record node "+n.ID, err)
}

// The states of a node that core.node_state_changed tells; it is also joined, and back after it was lost.
const (
	nodeLeft = "left"
	nodeLost = "lost"
)

// nodeLostAfter is how long a node is not seen before it is told as lost: its leases have lapsed by then.
const nodeLostAfter = LeaseDuration + 5*time.Second

// lookAtNodes tells which nodes live: those that have renewed their leases within the time of one, by this
// process's clock.
func (s *Store) lookAtNodes(ctx context.Context) (living []string, err error) {
	var seen []sign
	err = s.hot(ctx, "look which nodes live", func(batch *pgx.Batch) {
		s.queue(batch, "NodesSeen", nil).Query(func(rows pgx.Rows) error {
			var one sign
			var seconds float64
			_, err := pgx.ForEachRow(rows, []any{&one.name, &one.at, &seconds}, func() error {
				one.age = time.Duration(seconds * float64(time.Second))
				seen = append(seen, one)
				return nil
			})
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	now := s.now()
	s.nodeVigil.look(now, seen)
	return s.nodeVigil.living(now), nil
}

// markLostNodes tells of nodes that are not seen any more.
func (s *Store) markLostNodes(ctx context.Context, living []string) error {
	lost, err := collect(ctx, s, s.pool, "MarkLostNodes", pgx.StrictNamedArgs{"seconds": nodeLostAfter.Seconds(), "living": living}, pgx.RowTo[string])
	for _, id := range lost {
		s.log.Warn("node lost: it has not been seen for longer than a lease lasts", "component", "store", "node", id)
	}
	return s.failed("look for lost nodes", err)
}

// RemoveNode forgets a node that stops in order. Its unstarted claims must be released before.
func (s *Store) RemoveNode(ctx context.Context, id string) error {
	return s.removeNode(ctx, id, nodeLeft)
}

func (s *Store) removeNode(ctx context.Context, id, state string) error {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, s.queries.get("RemoveNode"), pgx.StrictNamedArgs{"id": id, "state": state})
	return s.failed("remove node "+id, err)
}

// Nodes lists the nodes that are recorded, oldest first.
func (s *Store) Nodes(ctx context.Context) ([]Node, error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	nodes, err := collect(ctx, s, s.pool, "ListNodes", nil, pgx.RowToStructByPos[Node])
	return nodes, s.failed("list nodes", err)
}
