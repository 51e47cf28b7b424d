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

// RemoveNode forgets a node that stops in order. Its unstarted claims must be released before.
func (s *Store) RemoveNode(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, s.queries.get("RemoveNode"), pgx.StrictNamedArgs{"id": id})
	return s.failed("remove node "+id, err)
}

// Nodes lists the nodes that are recorded, oldest first.
func (s *Store) Nodes(ctx context.Context) ([]Node, error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	nodes, err := collect(ctx, s, s.pool, "ListNodes", nil, pgx.RowToStructByPos[Node])
	return nodes, s.failed("list nodes", err)
}
