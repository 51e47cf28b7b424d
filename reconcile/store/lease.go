package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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

// lockWait is how long is waited in all for leases that another session has locked, of which one alone gets no
// less than lockWaitLeast: longer than a commit of ours takes. What is left then can be renewed no later.
const (
	lockWait      = 2 * time.Second
	lockWaitLeast = 100 * time.Millisecond
)

// LeasesLockedError is what HoldLeases gives where another session has locked the rows of some. The answer counts
// for the others.
type LeasesLockedError struct {
	Names []string // of leases, sorted
	Err   error    // of the one that was waited for last: who holds the lock is named after a second
}

func (e *LeasesLockedError) Error() string {
	const most = 3
	names := strings.Join(e.Names[:min(most, len(e.Names))], ", ")
	if more := len(e.Names) - most; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("the rows in attune.lease of %s are locked: %v", names, e.Err)
}

func (e *LeasesLockedError) Unwrap() error { return e.Err }

// HoldLeases renews and takes leases for LeaseDuration: of the names, those that the node holds or that
// nobody does. It gives the tokens of those that are the node's now. A row that is locked holds no other up:
// after a [LeasesLockedError] the answer counts, and those that it names may be held, but were not renewed.
func (s *Store) HoldLeases(ctx context.Context, node string, names []string) (tokens map[string]string, err error) {
	tokens = map[string]string{}
	if len(names) == 0 {
		return tokens, nil
	}
	var locked []string
	doing, kept := "hold the leases of node "+node, s.leaseVigil.living(s.now())
	err = s.hot(ctx, doing, func(batch *pgx.Batch) {
		s.queueLockWait(batch, lockWait)
		s.queue(batch, "HoldLeases", pgx.StrictNamedArgs{
			"node": node, "names": names, "lease_seconds": LeaseDuration.Seconds(), "kept": kept,
		}).Query(func(rows pgx.Rows) error {
			var name string
			var token *string
			_, err := pgx.ForEachRow(rows, []any{&name, &token}, func() error {
				if token == nil {
					locked = append(locked, name)
				} else {
					tokens[name] = *token
				}
				return nil
			})
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return tokens, s.awaitLocked(locked, func(name string, wait time.Duration) error {
		return s.hot(ctx, doing, func(batch *pgx.Batch) {
			s.queueLockWait(batch, wait)
			s.queue(batch, "AwaitLease", pgx.StrictNamedArgs{
				"node": node, "name": name, "lease_seconds": LeaseDuration.Seconds(), "kept": kept,
			}).Query(func(rows pgx.Rows) error {
				var token string
				_, err := pgx.ForEachRow(rows, []any{&token}, func() error {
					tokens[name] = token
					return nil
				})
				return err
			})
		})
	})
}

func (s *Store) queueLockWait(batch *pgx.Batch, wait time.Duration) {
	s.queue(batch, "LeaseSettings", pgx.StrictNamedArgs{"wait": fmt.Sprintf("%dms", wait.Milliseconds())})
}

// awaitLocked does one by one what was left for a lock. Nearly always that is the commit of what was done under a
// lease, which takes a moment. As it may be a session that never ends there is a bound for all together, and
// the order is another each time, so that those behind it have their turn.
func (s *Store) awaitLocked(names []string, do func(name string, wait time.Duration) error) error {
	wait := max(lockWait/time.Duration(max(len(names), 1)), lockWaitLeast)
	until := time.Now().Add(lockWait)
	var locked LeasesLockedError
	for _, i := range rand.Perm(len(names)) {
		if len(locked.Names) > 0 && time.Now().After(until) {
			locked.Names = append(locked.Names, names[i])
			continue
		}
		err := do(names[i], wait)
		switch pg, ok := errors.AsType[*pgconn.PgError](err); {
		case err == nil:
		case !ok || pg.Code != codeLocked:
			return err
		default:
			locked.Names = append(locked.Names, names[i])
			locked.Err = err
		}
	}
	if len(locked.Names) == 0 {
		return nil
	}
	slices.Sort(locked.Names)
	return &locked
}

// ReleaseLeases gives leases of the node back, for others to take at once. What was done under them must
// have ended. After a [LeasesLockedError] all but those that it names are given back.
func (s *Store) ReleaseLeases(ctx context.Context, node string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	return s.releaseLeases(ctx, node, names)
}

// ResignLeases is ReleaseLeases of all that the node has, also of what it does not know that it has.
func (s *Store) ResignLeases(ctx context.Context, node string) error {
	return s.releaseLeases(ctx, node, nil)
}

func (s *Store) releaseLeases(ctx context.Context, node string, names []string) error {
	var locked []string
	doing := "release the leases of node " + node
	err := s.hot(ctx, doing, func(batch *pgx.Batch) {
		s.queueLockWait(batch, lockWait)
		s.queue(batch, "ReleaseLeases", pgx.StrictNamedArgs{"node": node, "names": names}).Query(func(rows pgx.Rows) (err error) {
			locked, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		})
	})
	if err != nil {
		return err
	}
	return s.awaitLocked(locked, func(name string, wait time.Duration) error {
		return s.hot(ctx, doing, func(batch *pgx.Batch) {
			s.queueLockWait(batch, wait)
			s.queue(batch, "AwaitRelease", pgx.StrictNamedArgs{"node": node, "name": name})
		})
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
