package store

import "github.com/jackc/pgx/v5/pgxpool"

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

// CleanJSON, CleanText and CleanKey are what makes content storable.
var (
	CleanJSON = cleanJSON
	CleanText = cleanText
	CleanKey  = cleanKey
)
