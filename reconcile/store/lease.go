package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// LeaseLeader is the lease of the node that reconciles; that of a sensor is LeaseSensor and its ref.
const (
	LeaseLeader = "leader"
	LeaseSensor = "sensor:"
)

// ErrNotHeld says that the lease that a write was to be made under is not held any more.
var ErrNotHeld = errors.New("the lease is not held any more")

// Leases is who holds what at this moment.
type Leases struct {
	Nodes  int               // that live, this one included
	Holder map[string]string // node by the lease's name; who is not here holds nothing
	// NextLapse is when the first lease of another node ends, unless it is renewed; 0: there is none.
	NextLapse time.Duration
}

// Leases tells who holds what. A lease that looks lapsed counts as held until it has not been renewed for
// as long as it lasts by this process's clock, too: the database's may have been put forward.
func (s *Store) Leases(ctx context.Context, node string) (*Leases, error) {
	leases := &Leases{Holder: map[string]string{}}
	var seen []sign
	holders, lefts := map[string]string{}, map[string]time.Duration{}
	err := s.hot(ctx, "look at the leases", func(batch *pgx.Batch) {
		s.queue(batch, "LeasesNow", pgx.StrictNamedArgs{
			"node": node, "lease_seconds": LeaseDuration.Seconds(),
		}).Query(func(rows pgx.Rows) error {
			var name *string
			var holder string
			var until time.Time
			var seconds float64
			_, err := pgx.ForEachRow(rows, []any{&name, &holder, &until, &seconds, &leases.Nodes}, func() error {
				if name == nil {
					return nil
				}
				left := time.Duration(seconds * float64(time.Second))
				seen = append(seen, sign{name: *name, at: until, age: LeaseDuration - left})
				holders[*name], lefts[*name] = holder, left
				return nil
			})
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	renewed := s.leaseVigil.look(s.now(), seen)
	for name, holder := range holders {
		left := lefts[name]
		if left <= 0 {
			if left = renewed[name]; left <= 0 {
				continue // it is nobody's
			}
		}
		leases.Holder[name] = holder
		if holder != node && (leases.NextLapse == 0 || left < leases.NextLapse) {
			leases.NextLapse = left
		}
	}
	return leases, nil
}

// HoldLeases renews and takes leases for LeaseDuration: of the names, those that the node holds or that
// nobody does. It gives the tokens of those that are the node's now.
func (s *Store) HoldLeases(ctx context.Context, node string, names []string) (tokens map[string]string, err error) {
	tokens = map[string]string{}
	err = s.hot(ctx, "hold the leases of node "+node, func(batch *pgx.Batch) {
		s.queue(batch, "LeaseSettings", nil)
		s.queue(batch, "HoldLeases", pgx.StrictNamedArgs{
			"node": node, "names": names, "lease_seconds": LeaseDuration.Seconds(), "kept": s.leaseVigil.living(s.now()),
		}).Query(func(rows pgx.Rows) error {
			var name, token string
			_, err := pgx.ForEachRow(rows, []any{&name, &token}, func() error {
				tokens[name] = token
				return nil
			})
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return tokens, nil
}

// ReleaseLeases gives leases of the node back, for others to take at once. What was done under them must
// have ended.
func (s *Store) ReleaseLeases(ctx context.Context, node string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	return s.hot(ctx, "release the leases of node "+node, func(batch *pgx.Batch) {
		s.queue(batch, "LeaseSettings", nil)
		s.queue(batch, "ReleaseLeases", pgx.StrictNamedArgs{"node": node, "names": names})
	})
}

// ResignLeases is ReleaseLeases of all that the node has, also of what it does not know that it has.
func (s *Store) ResignLeases(ctx context.Context, node string) error {
	return s.hot(ctx, "release the leases of node "+node, func(batch *pgx.Batch) {
		s.queue(batch, "LeaseSettings", nil)
		s.queue(batch, "ResignLeases", pgx.StrictNamedArgs{"node": node})
	})
}

// checkLease makes a transaction count only if the lease is held; without a token it is nobody's. It has
// to be the last statement before the commit. From it on the row is locked: a renewal waits no longer
// than a commit takes, whatever the transaction did before, and who takes the lease gets its token only
// when the transaction has ended, so that all that was done under the old one is there to be seen. Where
// the lease was taken before this statement, the token is another and nothing is committed.
func (a *apply) checkLease(name, token string) {
	if token == "" {
		return
	}
	a.queue("CheckLease", pgx.StrictNamedArgs{"name": name, "token": token}).Query(func(rows pgx.Rows) error {
		held, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err == nil && len(held) == 0 {
			err = fmt.Errorf("lease %q: %w", name, ErrNotHeld)
		}
		return err
	})
}
