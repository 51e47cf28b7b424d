package store

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What tests outside the package look at.

// Pool is the store's pool, to look behind its back.
func (s *Store) Pool() *pgxpool.Pool { return s.pool }

// Query gives a named statement.
func (s *Store) Query(name string) string { return s.queries.get(name) }

// QueryNames lists the named statements.
func (s *Store) QueryNames() []string {
	var names []string
	for name := range s.queries {
		names = append(names, name)
	}
	return names
}

// Next is what may follow a status.
func (s Status) Next() []Status { return s.next() }

// LockMigration is the advisory lock of a migration.
const LockMigration = lockMigration

// CleanJSON, CleanText and CleanKey are what makes content storable.
var (
	CleanJSON = cleanJSON
	CleanText = cleanText
	CleanKey  = cleanKey
)

// MigrateTo brings an empty database to a former version.
func (s *Store) MigrateTo(ctx context.Context, version int64) error {
	if err := s.createSchema(ctx); err != nil {
		return err
	}
	return s.up(ctx, version)
}

// SplitQueries cuts a file of queries.
var SplitQueries = splitQueries

// QueueArgs are those of QueueExecutions.
func QueueArgs(t testing.TB, executions ...NewExecution) pgx.StrictNamedArgs {
	t.Helper()
	var rows executionRows
	for _, e := range executions {
		if err := rows.add(e, 0); err != nil {
			t.Fatal(err)
		}
	}
	return rows.args()
}
