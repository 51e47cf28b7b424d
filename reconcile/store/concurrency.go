package store

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
)

const (
	// admitAtOnce bounds how many keys one transaction holds.
	admitAtOnce = 100
	// sweepMost bounds one look for lines that nobody admits.
	sweepMost = 1000
)

// A KeyFunc gives the key by which an execution of an action with these parameters, as they are stored, is
// counted; false: the action has no concurrency.
type KeyFunc func(action string, parameters json.RawMessage) (key string, counted bool)

// What becomes of who stands in line, as Admit answers.
const (
	fateAdmitted = "admitted"
	fateSkipped  = "skipped"
	fateReplaced = "replaced"
	fateUnwanted = "unwanted" // it holds a place, and newer ones want it
)

// keyed is what executions are counted by together.
type keyed struct{ action, key string }

// keyedSet are those of which a place may be free.
type keyedSet map[keyed]bool

func (k keyedSet) add(action *string, key *string) {
	if action != nil && key != nil {
		k[keyed{*action, *key}] = true
	}
}

// read takes the two columns of a statement that answers with nothing else.
func (k keyedSet) read(rows pgx.Rows) error {
	var action, key *string
	_, err := pgx.ForEachRow(rows, []any{&action, &key}, func() error {
		k.add(action, key)
		return nil
	})
	return err
}

// admit gives free places to those in line. It comes after the transaction that freed them or lined them
// up, so that no outcome waits for a key that somebody holds; where it fails, or its node dies before it,
// the next sweep does it.
func (s *Store) admit(ctx context.Context, freed keyedSet) {
	if len(freed) == 0 {
		return
	}
	ctx = context.WithoutCancel(ctx)
	all := make([]keyed, 0, len(freed))
	for k := range freed {
		all = append(all, k)
	}
	for part := range slices.Chunk(all, admitAtOnce) {
		err := inHalves(
			part, func(some []keyed) error { return s.admitSome(ctx, some, true) },
			func(one keyed, err error) error {
				// One that the database does not let end must not keep the others from their places.
				if s.stuck.isNews(one) {
					s.metrics.stuck.Inc()
					s.log.Error("an execution that is to be skipped or replaced cannot be ended, the database refuses it, so it stays in line: see what refuses it (a constraint, a trigger, a partition that is gone) and mend that", "component", "store", "action", one.action, "key", one.key, "err", err)
				}
				return s.admitSome(ctx, []keyed{one}, false)
			})
		if err != nil {
			s.log.Warn("executions in line are not admitted, the next sweep tries it again", "component", "store", "keys", len(part), "err", err)
		}
	}
}

func (s *Store) admitSome(ctx context.Context, part []keyed, ending bool) error {
	var actions, keys []string
	for _, k := range part {
		actions, keys = append(actions, k.action), append(keys, k.key)
	}
	// By whom each that holds a place is replaced.
	unwanted := map[int64][]int64{}
	fates := map[string]int{}
	err := s.hot(ctx, "admit executions in line", func(batch *pgx.Batch) {
		s.queue(batch, "LockConcurrency", pgx.StrictNamedArgs{"actions": actions, "keys": keys})
		s.queue(batch, "Admit", pgx.StrictNamedArgs{"actions": actions, "keys": keys, "ending": ending}).Query(func(rows pgx.Rows) error {
			var id, notified int64
			var fate string
			var by *int64
			_, err := pgx.ForEachRow(rows, []any{&id, &fate, &by, &notified}, func() error {
				if ending || fate == fateUnwanted {
					fates[fate]++
				}
				if by != nil {
					unwanted[*by] = append(unwanted[*by], id)
				}
				return nil
			})
			return err
		})
	})
	if err != nil {
		return err
	}
	for _, fate := range []string{fateSkipped, fateReplaced, fateUnwanted} {
		s.metrics.concurrency.WithLabelValues(fate).Add(float64(fates[fate]))
	}
	for by, ids := range unwanted {
		if _, err := s.cancel(ctx, "cancel executions that are replaced", ids, "execution "+strconv.FormatInt(by, 10)+", which replaces it", false); err != nil {
			return err
		}
	}
	return nil
}

// sweep admits what stands in line for no reason: its action was edited, or who was to admit it died.
func (s *Store) sweep(ctx context.Context) error {
	stray := keyedSet{}
	err := s.hot(ctx, "look for executions in line", func(batch *pgx.Batch) {
		s.queue(batch, "StrayLines", pgx.StrictNamedArgs{"most": sweepMost}).Query(stray.read)
	})
	if err != nil {
		return err
	}
	s.admit(ctx, stray)
	return nil
}

// LineUp gives one claimed attempt of which nothing was begun back to the queue, as Release does, to wait
// for a place under this key: its action has had another key, or none, when it was queued.
func (s *Store) LineUp(ctx context.Context, token, key string) error {
	ids, parsed := parseTokens([]string{token})
	if len(ids) == 0 {
		return nil
	}
	key = cleanKey(key)
	freed := keyedSet{}
	err := s.hot(ctx, "line up an attempt", func(batch *pgx.Batch) {
		s.queue(batch, "ReleaseAttempts", pgx.StrictNamedArgs{"ids": ids, "tokens": parsed}).Query(freed.readReleased)
		s.queue(batch, "LineUpReleased", pgx.StrictNamedArgs{"id": ids[0], "key": key}).Query(func(rows pgx.Rows) error {
			var action string
			var former *string
			_, err := pgx.ForEachRow(rows, []any{&action, &former}, func() error {
				freed.add(&action, former)
				freed.add(&action, &key)
				return nil
			})
			return err
		})
	})
	if err != nil {
		return err
	}
	s.admit(ctx, freed)
	return nil
}

// readReleased takes what ReleaseAttempts answers.
func (k keyedSet) readReleased(rows pgx.Rows) error {
	var action, key *string
	var notified int64
	_, err := pgx.ForEachRow(rows, []any{&action, &key, &notified}, func() error {
		k.add(action, key)
		return nil
	})
	return err
}

// SameKey says whether a key, as it is stored, is this one.
func SameKey(stored *string, key string) bool { return stored != nil && *stored == cleanKey(key) }
