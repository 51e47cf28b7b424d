package store

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/attune-io/attune/reconcile/manifest"
)

const (
	// LeaseDuration is how long a lease lasts without being renewed.
	LeaseDuration = 30 * time.Second

	// MaxLostAttempts bounds how often an execution is lost and tried again where its action's retry
	// names no max_attempts: one that kills its node must not do so for ever.
	MaxLostAttempts = 10

	// claimPasses: more than one is needed where some packs have less than their share, and where
	// other nodes claim at the same moment.
	claimPasses = 3

	// finishRows and finishBytes bound one statement of Finish.
	finishRows  = 1000
	finishBytes = 16 << 20

	// vacuumAfter is how many attempts end on this node before it vacuums the queue: that many dead entries
	// take as long to pass over as a claim.
	vacuumAfter = 5000

	// longestDelay bounds the pause before a lost attempt is followed by another: doubled often enough, any
	// delay is longer than a timestamp can tell.
	longestDelay = 100 * 365 * 24 * time.Hour

	// reapRounds bounds one Reap; each takes up to 1000 attempts.
	reapRounds = 100
)

// Claimed is an attempt that a node holds: nobody else may finish it while its lease lasts.
type Claimed struct {
	ExecutionID int64
	CreatedAt   time.Time
	Token       string // UUID of the attempt
	Attempt     int    // from 1
	// Tries is how many of its attempts count, this one included: those that ended because their node
	// was stopping do not.
	Tries      int
	Action     string
	Rule       string
	Trigger    string
	EventID    int64
	Parameters json.RawMessage
	Secrets    map[string]string
	Priority   int
	Timeout    time.Duration   // of the execution; 0: the action's
	Retry      *manifest.Retry // of the execution; nil: the action's
	// TimeoutTotal is the execution's own bound on all its attempts; 0: the action's.
	TimeoutTotal time.Duration
	QueuedAt     time.Time // requested, or due
	// Begun says that it is recorded as begun already: it is started at once, or released.
	Begun bool
	// Expired says that its action's expires is over, and nothing of it ever began: it is not to be.
	Expired bool
	// Key is that by which it is counted, as it is stored; nil: it is not.
	Key *string
	// Action's row at the claim, or that of an older revision where a rerun asked for it: nil when the
	// action no longer exists or is disabled.
	Record *Record
}

// turn is the pack that this node served last, and what it has looked up to be served next. Each node
// takes its own turns.
type turn struct {
	mu    sync.Mutex
	after string
	// ahead are executions in the order in which they are to be claimed, looked up at lookedUp.
	ahead    []int64
	lookedUp time.Time
	// life is how long that counts; 0: nothing was looked up.
	life time.Duration
	// deep says that more waited than was asked for, so that it pays to look ahead.
	deep bool
}

const (
	// aheadFactor and aheadLeast are how much more is looked up than is claimed at once, at most
	// aheadMost: what was claimed before stands in the way of every look, until it is vacuumed away.
	aheadFactor = 8
	aheadLeast  = 64
	aheadMost   = 2000
	// aheadLife is how long what was looked up counts at least: what is queued meanwhile with a higher priority,
	// or by a pack whose turn it is, waits that much longer at most.
	aheadLife = 50 * time.Millisecond
	// aheadPrice is how many times as long as the look took it counts, up to aheadLifeMost, and the more is looked
	// up: somebody's open transaction keeps what was claimed from being vacuumed away, and each look walks past it.
	aheadPrice    = 10
	aheadLifeMost = 10 * aheadLife
	// aheadSpare is how many more are offered to a claim than it may take, for other nodes look ahead too.
	aheadSpare = 8
)

// next gives executions to claim from, in order; nil: it is to be looked up.
func (t *turn) next(limit int, now time.Time) (ids []int64, after string, deep bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.lookedUp) > t.life {
		t.ahead = nil
	}
	return t.ahead[:min(len(t.ahead), 2*limit+aheadSpare)], t.after, t.deep
}

// depth is how many are to be looked up.
func (t *turn) depth(limit int) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return min(max(aheadFactor*limit, aheadLeast)*int(max(t.life/aheadLife, 1)), aheadMost)
}

// price says how long the last look took.
func (t *turn) price(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.life = min(max(aheadPrice*took, aheadLife), aheadLifeMost)
}

// look takes what was looked up; more says that more waits.
func (t *turn) look(ids []int64, more bool, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ahead, t.lookedUp, t.deep = ids, now, more
}

// took says which of them are claimed now; what was offered before the last of these is somebody else's.
func (t *turn) took(claimed []Claimed, offered []int64, limit int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(claimed); n > 0 {
		t.after, _, _ = strings.Cut(claimed[n-1].Action, ".")
	}
	used := len(offered)
	if len(offered) > 0 && len(claimed) == limit {
		used = slices.Index(offered, claimed[limit-1].ExecutionID) + 1
	}
	if used <= len(t.ahead) {
		t.ahead = t.ahead[used:]
	}
}

// Claim takes at most limit executions that are due, round robin over packs, then by priority, then
// by due time, with a lease for the node that lasts LeaseDuration. Nothing is locked afterwards. Those
// whose action runs from one of the ready revisions begin with the claim (Claimed.Begun): the node has to
// start them at once or to release them.
func (s *Store) Claim(ctx context.Context, node string, limit int, ready ...int64) ([]Claimed, error) {
	var claimed []Claimed
	for range claimPasses {
		want := limit - len(claimed)
		if want <= 0 {
			break
		}
		pass, more, err := s.claim(ctx, node, want, ready)
		if err != nil && len(claimed) == 0 {
			return nil, err
		}
		claimed = append(claimed, pass...)
		if err != nil || !more {
			break // what was claimed before the error is the caller's
		}
	}
	return claimed, nil
}

// NextDue tells in how long the first of those executions falls due that wait for a time, which may be less
// than nothing; false: none waits.
func (s *Store) NextDue(ctx context.Context) (left time.Duration, waits bool, err error) {
	err = s.hot(ctx, "look for what falls due next", func(batch *pgx.Batch) {
		s.queue(batch, "NextDue", nil).QueryRow(func(row pgx.Row) error {
			var seconds *float64
			if err := row.Scan(&seconds); err != nil || seconds == nil {
				return err
			}
			left, waits = time.Duration(*seconds*float64(time.Second)), true
			return nil
		})
	})
	return left, waits, err
}

// claim is one try; more says that another may find something.
func (s *Store) claim(ctx context.Context, node string, limit int, ready []int64) (claimed []Claimed, more bool, err error) {
	offered, after, deep := s.turn.next(limit, s.now())
	if len(offered) == 0 && deep {
		most, began := s.turn.depth(limit), s.now()
		if offered, err = s.peek(ctx, after, most); err != nil {
			return nil, false, err
		}
		more = len(offered) == most
		now := s.now()
		s.turn.price(now.Sub(began))
		s.turn.look(offered, more, now)
		if len(offered) == 0 {
			return nil, false, nil
		}
		offered = offered[:min(len(offered), 2*limit+aheadSpare)]
	}
	known := s.actions.recent()
	args := Claiming{Node: node, Most: limit, Ready: ready}.args(known)
	statement := "ClaimNext"
	if len(offered) > 0 {
		statement = "ClaimExecutions"
		args["ids"] = offered
	} else {
		args["after_pack"] = after
	}
	var rows []claimRow
	lined := keyedSet{}
	err = s.hot(ctx, "claim executions", func(batch *pgx.Batch) {
		if len(offered) == 0 {
			s.queue(batch, "PromoteScheduled", nil).Query(lined.read)
		}
		s.queue(batch, statement, args).Query(func(answer pgx.Rows) (err error) {
			rows, err = pgx.CollectRows(answer, pgx.RowToStructByPos[claimRow])
			return err
		})
	})
	if err != nil {
		return nil, false, err
	}
	s.admit(ctx, lined)
	claimed = s.claimedFrom(rows, known)
	if len(offered) == 0 {
		s.turn.look(nil, len(rows) == limit, s.now())
		s.turn.took(claimed, nil, limit)
		return claimed, len(rows) < limit && ofSeveralPacks(rows), nil
	}
	s.turn.took(claimed, offered, limit)
	return claimed, len(rows) < limit, nil
}

// ofSeveralPacks says whether some packs may have had less than their share, which others would have used.
func ofSeveralPacks(rows []claimRow) bool {
	return slices.ContainsFunc(rows, func(row claimRow) bool { return row.PackRef != rows[0].PackRef })
}

// peek looks at the queue from the turn of the pack after this one on.
func (s *Store) peek(ctx context.Context, after string, most int) (ids []int64, err error) {
	lined := keyedSet{}
	err = s.hot(ctx, "look at the queue", func(batch *pgx.Batch) {
		s.queue(batch, "PromoteScheduled", nil).Query(lined.read)
		s.queue(batch, "PeekQueue", pgx.StrictNamedArgs{
			"after_pack": after,
			"most":       most,
		}).Query(func(answer pgx.Rows) (err error) {
			ids, err = pgx.CollectRows(answer, pgx.RowTo[int64])
			return err
		})
	})
	if err == nil {
		s.admit(ctx, lined)
	}
	return ids, err
}

// claimRow is what ClaimExecutions answers.
type claimRow struct {
	ExecutionID      int64
	CreatedAt        time.Time
	Token            string
	Attempt          int
	Spared           int
	PackRef          string
	ActionRef        string
	RuleRef          *string
	TriggerRef       *string
	EventID          *int64
	Parameters       json.RawMessage
	Secrets          map[string]string
	Retry            *ownRetry
	FormerManifest   []byte
	Priority         int
	TimeoutSeconds   *float64
	DueAt            time.Time
	Begun            bool
	Expired          bool
	RevisionID       *int64
	Revision         *string
	ActionID         *int64
	ActionGeneration *int64
	ActionEnabled    *bool
	ActionDisabledBy *string
	File             *string
	Manifest         []byte
	Digest           *string
	FilesDigest      *string
	ActionCreatedAt  *time.Time
	ActionUpdatedAt  *time.Time
	ConcurrencyKey   *string
	Place            int64
}

func (s *Store) claimedOf(row *claimRow, seen actions) Claimed {
	record, err := s.recordOf(row, seen)
	if err != nil {
		// It is claimed already, and its neighbours with it: its node ends it as one without an action.
		s.log.Error("a claimed action cannot be read", "component", "store", "action", row.ActionRef, "execution_id", row.ExecutionID, "err", err)
	}
	own := deref(row.Retry)
	return Claimed{
		ExecutionID:  row.ExecutionID,
		CreatedAt:    row.CreatedAt,
		Token:        row.Token,
		Attempt:      row.Attempt,
		Tries:        row.Attempt - row.Spared,
		Begun:        row.Begun,
		Expired:      row.Expired,
		Action:       row.ActionRef,
		Rule:         deref(row.RuleRef),
		Trigger:      deref(row.TriggerRef),
		EventID:      deref(row.EventID),
		Parameters:   row.Parameters,
		Secrets:      row.Secrets,
		Priority:     row.Priority,
		Timeout:      time.Duration(deref(row.TimeoutSeconds) * float64(time.Second)),
		Retry:        own.Retry,
		TimeoutTotal: time.Duration(own.TimeoutTotal),
		QueuedAt:     row.DueAt,
		Key:          row.ConcurrencyKey,
		Record:       record,
	}
}

// recordOf gives what an attempt runs: the action in force, or the one of an older revision where it
// asks for that, which runs also when it has gone from the files since, but not when an operator has
// disabled it.
func (s *Store) recordOf(row *claimRow, seen actions) (*Record, error) {
	switch {
	case row.FormerManifest == nil:
		return s.actions.record(row, seen)
	case row.Revision == nil || deref(row.ActionDisabledBy) != "":
		return nil, nil
	}
	former := recordRow{
		Ref: row.ActionRef, Pack: row.PackRef, Enabled: true, Present: true, ManifestEnabled: true,
		RevisionID: deref(row.RevisionID), TreeDigest: *row.Revision, Manifest: row.FormerManifest,
	}
	return former.decode(manifest.KindAction)
}

// deref gives the zero value for NULL.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// actions are decoded actions by id and generation.
type actions map[actionKey]*Record

type actionKey struct{ id, generation int64 }

// keys gives them as two columns.
func (a actions) keys() (ids, generations []int64) {
	for key := range a {
		ids, generations = append(ids, key.id), append(generations, key.generation)
	}
	return ids, generations
}

// actionCache keeps decoded actions, because decoding one and compiling its schema costs more than
// claiming an execution of it. An entry is good for one generation of the row.
type actionCache struct {
	mu      sync.Mutex
	records actions
	newest  actions // of the last claims; never written to once it is here
}

const (
	// maxCachedActions bounds the cache; a full one starts anew, which is simpler than being clever.
	maxCachedActions = 4096
	// maxRecentActions bounds those whose manifests a claim tells the database not to send again.
	maxRecentActions = 32
)

// recent are the actions of the last claims.
func (c *actionCache) recent() actions {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newest
}

// record gives an action's row at the claim; nil when there is none that is enabled. seen are the
// actions whose manifests came before: each comes once.
func (c *actionCache) record(row *claimRow, seen actions) (*Record, error) {
	if row.ActionID == nil || !deref(row.ActionEnabled) {
		return nil, nil
	}
	key := actionKey{*row.ActionID, *row.ActionGeneration}
	if record := seen[key]; record != nil {
		return record, nil
	}
	record, err := c.decoded(row, key)
	seen[key] = record
	return record, err
}

func (c *actionCache) decoded(row *claimRow, key actionKey) (*Record, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	record := c.records[key]
	if record == nil {
		fresh := recordRow{
			ID:              *row.ActionID,
			Ref:             row.ActionRef,
			Pack:            row.PackRef,
			File:            *row.File,
			Enabled:         true,
			Present:         true,
			ManifestEnabled: true,
			Digest:          *row.Digest,
			FilesDigest:     *row.FilesDigest,
			RevisionID:      deref(row.RevisionID),
			TreeDigest:      deref(row.Revision),
			Manifest:        row.Manifest,
			CreatedAt:       *row.ActionCreatedAt,
			UpdatedAt:       *row.ActionUpdatedAt,
		}
		var err error
		if record, err = fresh.decode(manifest.KindAction); err != nil {
			return nil, err
		}
		if c.records == nil || len(c.records) >= maxCachedActions {
			c.records = actions{}
		}
		c.records[key] = record
	}
	newest := actions{key: record}
	if len(c.newest) < maxRecentActions {
		maps.Copy(newest, c.newest)
	}
	c.newest = newest
	return record, nil
}

// parseTokens gives the tokens that can be tokens at all, with the numbers of their executions, which
// they begin with; the others are held by nobody.
func parseTokens(tokens []string) (ids []int64, parsed []uuid.UUID) {
	for _, text := range tokens {
		if token, err := uuid.Parse(text); err == nil {
			ids, parsed = append(ids, executionOf(token)), append(parsed, token)
		}
	}
	return ids, parsed
}

// executionOf is the execution whose attempt a token names.
func executionOf(token uuid.UUID) int64 { return int64(binary.BigEndian.Uint64(token[:8])) }

// ErrRowLocked says that somebody else has locked the row of an attempt; trying again will do.
var ErrRowLocked = errors.New("its row in attune.queue is locked by another session")

// LockedError is what Start gives where somebody else has locked the rows of some.
type LockedError struct{ Tokens []string }

func (e *LockedError) Error() string {
	return fmt.Sprintf("cannot start %d attempts: %v", len(e.Tokens), ErrRowLocked)
}

// Unwrap gives ErrRowLocked.
func (e *LockedError) Unwrap() error { return ErrRowLocked }

// Start records, before the exec, that an attempt begins. Those whose token no longer holds are
// absent from the answer, and must not be started. After a [LockedError] the answer counts, and those that
// it names are to be said again.
func (s *Store) Start(ctx context.Context, tokens []string) (held map[string]bool, err error) {
	held = map[string]bool{}
	if len(tokens) == 0 {
		return held, nil
	}
	ids, parsed := parseTokens(tokens)
	err = s.hot(ctx, "start attempts", func(batch *pgx.Batch) {
		s.queue(batch, "StartAttempts", pgx.StrictNamedArgs{
			"ids":    ids,
			"tokens": parsed,
		}).Query(func(rows pgx.Rows) error {
			found, err := pgx.CollectRows(rows, pgx.RowTo[string])
			for _, token := range found {
				held[token] = true
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	if len(held) == len(parsed) {
		return held, nil
	}
	left, err := s.stillHeld(ctx, ids, parsed)
	if err != nil {
		return nil, err
	}
	var locked []string
	for token, canStart := range left {
		if canStart && !held[token] {
			locked = append(locked, token)
		}
	}
	if len(locked) > 0 {
		return held, &LockedError{Tokens: locked}
	}
	return held, nil
}

// stillHeld tells which attempts are held by these tokens, and whether they could begin.
func (s *Store) stillHeld(ctx context.Context, ids []int64, tokens []uuid.UUID) (held map[string]bool, err error) {
	held = map[string]bool{}
	err = s.hot(ctx, "look which attempts are still held", func(batch *pgx.Batch) {
		s.queue(batch, "StillHeld", pgx.StrictNamedArgs{"ids": ids, "tokens": tokens}).Query(func(rows pgx.Rows) error {
			var token string
			var canStart bool
			_, err := pgx.ForEachRow(rows, []any{&token, &canStart}, func() error {
				held[token] = canStart
				return nil
			})
			return err
		})
	})
	return held, err
}

// Release gives claimed attempts of which nothing was begun back to the queue, without using an attempt:
// their holder says so, whatever was recorded. One that somebody wants cancelled ends so.
func (s *Store) Release(ctx context.Context, tokens []string) error {
	if len(tokens) == 0 {
		return nil
	}
	ids, parsed := parseTokens(tokens)
	freed := keyedSet{}
	err := s.hot(ctx, "release attempts", func(batch *pgx.Batch) {
		s.queue(batch, "ReleaseAttempts", pgx.StrictNamedArgs{"ids": ids, "tokens": parsed}).Query(freed.readReleased)
	})
	if err == nil {
		s.admit(ctx, freed)
	}
	return err
}

// PutOff gives one claimed attempt of which nothing was begun back to the queue, as Release does, and
// says what it waits for and for how long.
func (s *Store) PutOff(ctx context.Context, token, reason string, wait time.Duration) error {
	ids, parsed := parseTokens([]string{token})
	if len(ids) == 0 {
		return nil
	}
	freed := keyedSet{}
	err := s.hot(ctx, "put an attempt off", func(batch *pgx.Batch) {
		s.queue(batch, "PutOffAttempt", pgx.StrictNamedArgs{
			"id": ids[0], "token": parsed[0], "reason": reason, "seconds": wait.Seconds(),
		})
		s.queue(batch, "ReleaseAttempts", pgx.StrictNamedArgs{"ids": ids, "tokens": parsed}).Query(freed.readReleased)
		s.queue(batch, "ScheduleReleased", pgx.StrictNamedArgs{"id": ids[0]}).Query(freed.read)
	})
	if err == nil {
		s.admit(ctx, freed)
	}
	return err
}

// Hurry makes the executions of a pack that were put off due at once, and tells how many.
func (s *Store) Hurry(ctx context.Context, pack string) (hurried int64, err error) {
	lined := keyedSet{}
	err = s.hot(ctx, "hurry the executions of pack "+pack, func(batch *pgx.Batch) {
		s.queue(batch, "HurryPack", pgx.StrictNamedArgs{"pack": pack}).Query(func(rows pgx.Rows) error {
			var action string
			var key *string
			var count, notified int64
			_, err := pgx.ForEachRow(rows, []any{&action, &key, &count, &notified}, func() error {
				hurried += count
				lined.add(&action, key)
				return nil
			})
			return err
		})
	})
	if err == nil {
		s.admit(ctx, lined)
	}
	return hurried, err
}

// Renewal is what renewing a node's leases tells.
type Renewal struct {
	Held []string // tokens still held
	// Locked are those of them that could not be renewed now, because somebody else has locked their row.
	Locked []string
	// Cancel are the tokens whose execution somebody wants cancelled.
	Cancel []string
}

// Renew extends every lease of the node, in one statement, and records that the node lives. What is
// locked it leaves alone; a lease that looks lapsed and was not reaped is the node's and is renewed.
func (s *Store) Renew(ctx context.Context, node string) (*Renewal, error) {
	renewal := &Renewal{}
	err := s.hot(ctx, "renew the leases of node "+node, func(batch *pgx.Batch) {
		s.queue(batch, "RenewLeases", pgx.StrictNamedArgs{
			"node":          node,
			"lease_seconds": LeaseDuration.Seconds(),
		}).Query(func(rows pgx.Rows) error {
			var token string
			var cancel, renewed bool
			done := map[string]bool{}
			_, err := pgx.ForEachRow(rows, []any{&token, &cancel, &renewed}, func() error {
				if done[token] {
					return nil
				}
				done[token] = true
				renewal.Held = append(renewal.Held, token)
				if !renewed {
					renewal.Locked = append(renewal.Locked, token)
				}
				if cancel {
					renewal.Cancel = append(renewal.Cancel, token)
				}
				return nil
			})
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return renewal, nil
}

// Reap ends the attempts whose lease has lapsed: not started ones go back to the queue, started ones
// end as lost and are queued again where the action says on_lost: retry. An id can be in both
// answers: its attempt was lost and there will be another. A node that was seen to renew within the time
// of a lease, by this process's clock, is spared: then it is the database's clock that was put forward.
//
// It ends what expired while it waited, admits what stands in line for no reason, tells of nodes that are
// not seen any more, and vacuums the queue once enough has gone through it: autovacuum looks once a minute,
// and till then every look at the queue has to pass over what was claimed.
func (s *Store) Reap(ctx context.Context) (requeued, lost []int64, err error) {
	living, err := s.lookAtNodes(ctx)
	if err == nil {
		requeued, lost, err = s.endLapsed(ctx, "", living)
	}
	if err == nil {
		err = s.endExpired(ctx)
	}
	if err == nil {
		err = s.sweep(ctx)
	}
	if err == nil {
		err = s.markLostNodes(ctx, living)
	}
	if err == nil && s.finished.Load() >= vacuumAfter {
		s.finished.Store(0)
		s.vacuumQueue(ctx)
	}
	return requeued, lost, err
}

// vacuumQueue leaves it alone where somebody else is at it, and where the role may not.
func (s *Store) vacuumQueue(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, maintenanceTimeout)
	defer cancel()
	if _, err := s.pool.Exec(ctx, s.queries.get("VacuumQueue")); err != nil {
		s.log.Debug("cannot vacuum the queue", "component", "store", "err", err)
	}
}

// LoseNode ends, at once, the attempts of a node that is known to be dead (same host, a former run
// of this state directory), as Reap would after the lease.
func (s *Store) LoseNode(ctx context.Context, id string) (requeued, lost []int64, err error) {
	if id == "" {
		return nil, nil, errors.New("cannot lose a node without an id")
	}
	requeued, lost, err = s.endLapsed(ctx, id, nil)
	if err != nil {
		return requeued, lost, err
	}
	if err := s.hot(ctx, "end the leases of node "+id, func(batch *pgx.Batch) {
		s.queue(batch, "LoseLeases", pgx.StrictNamedArgs{"node": id})
	}); err != nil {
		return requeued, lost, err
	}
	return requeued, lost, s.removeNode(ctx, id, nodeLost)
}

type lapsedRow struct {
	ExecutionID int64
	Lost        bool
	Requeued    bool
	ActionRef   string
	Freed       *string
	Notified    int64
}

// endLapsed ends all that a node holds or, without one, what nobody of the living has renewed. Where the
// database refuses the end of one attempt, the others end all the same.
func (s *Store) endLapsed(ctx context.Context, node string, living []string) (requeued, lost []int64, err error) {
	for range reapRounds {
		rows, err := s.endSomeLapsed(ctx, node, living, 0)
		if isRefused(err) {
			rows, err = s.endEachLapsed(ctx, node, living)
			requeued, lost = reaped(rows, requeued, lost)
			return requeued, lost, err
		}
		if err != nil {
			return requeued, lost, err
		}
		requeued, lost = reaped(rows, requeued, lost)
		if len(rows) == 0 {
			break
		}
	}
	return requeued, lost, nil
}

// reaped adds what became of attempts.
func reaped(rows []lapsedRow, requeued, lost []int64) (more, gone []int64) {
	for _, row := range rows {
		if row.Requeued {
			requeued = append(requeued, row.ExecutionID)
		}
		if row.Lost {
			lost = append(lost, row.ExecutionID)
		}
	}
	return requeued, lost
}

// endEachLapsed is for when one of them cannot be ended, and nobody knows which.
func (s *Store) endEachLapsed(ctx context.Context, node string, living []string) (all []lapsedRow, err error) {
	ids, err := collect(ctx, s, s.pool, "ListHeld", nil, pgx.RowTo[int64])
	if err != nil {
		return nil, s.failed("list the attempts that are held", err)
	}
	for _, id := range ids {
		rows, err := s.endSomeLapsed(ctx, node, living, id)
		switch {
		case isRefused(err):
			s.noteStuck(id, err)
		case err != nil:
			return all, err
		}
		all = append(all, rows...)
	}
	return all, nil
}

// noteStuck tells once of an execution that the database does not let end; what goes with it goes on.
func (s *Store) noteStuck(id int64, err error) {
	if s.stuck.isNews(id) {
		s.metrics.stuck.Inc()
		s.log.Error("an execution cannot be ended, the database refuses it: see what refuses it (a constraint, a trigger, a partition that is gone) and mend that", "component", "store", "execution_id", id, "err", err)
	}
}

// stuck are executions, and keys of lines, that were told of.
type stuck struct {
	mu   sync.Mutex
	told map[any]bool
}

// maxStuck bounds what is remembered; who has more of them has other troubles than a line too many.
const maxStuck = 10_000

func (s *stuck) isNews(what any) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told[what] {
		return false
	}
	if s.told == nil || len(s.told) >= maxStuck {
		s.told = map[any]bool{}
	}
	s.told[what] = true
	return true
}

// endSomeLapsed ends up to 1000 of them or, with its number, one.
func (s *Store) endSomeLapsed(ctx context.Context, node string, living []string, only int64) (rows []lapsedRow, err error) {
	doing, reason := "end lapsed attempts", " stopped renewing its lease"
	if node != "" {
		doing, reason = "end the attempts of node "+node, " died"
	}
	err = s.hot(ctx, doing, func(batch *pgx.Batch) {
		s.queue(batch, "EndLapsed", pgx.StrictNamedArgs{
			"node":          node,
			"living":        living,
			"lease_seconds": LeaseDuration.Seconds(),
			"only":          only,
			"reason":        reason,
			"most_attempts": MaxLostAttempts,
			"longest_delay": longestDelay.Seconds(),
		}).Query(func(answer pgx.Rows) (err error) {
			rows, err = pgx.CollectRows(answer, pgx.RowToStructByPos[lapsedRow])
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	freed := keyedSet{}
	for _, row := range rows {
		freed.add(&row.ActionRef, row.Freed)
	}
	s.admit(ctx, freed)
	return rows, nil
}

// QueueStats is the state of the queue, for status and metrics.
type QueueStats struct {
	Depth         map[Status]int64
	OldestWaiting time.Duration // of those that are due
	OldestXact    time.Duration // oldest open transaction of the database
	Pause         *Pause        // nil: there is none
}

// QueueStats measures the queue. Depth has an entry for each status of the queue.
func (s *Store) QueueStats(ctx context.Context) (*QueueStats, error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	stats := &QueueStats{Depth: map[Status]int64{}}
	for _, status := range Statuses() {
		if !status.Final() {
			stats.Depth[status] = 0
		}
	}
	var batch pgx.Batch
	batch.Queue(s.queries.get("QueueDepth")).Query(func(rows pgx.Rows) error {
		var status Status
		var count int64
		_, err := pgx.ForEachRow(rows, []any{&status, &count}, func() error {
			stats.Depth[status] = count
			return nil
		})
		return err
	})
	batch.Queue(s.queries.get("QueueAges")).QueryRow(func(row pgx.Row) error {
		var waiting, xact float64
		err := row.Scan(&waiting, &xact)
		stats.OldestWaiting = time.Duration(waiting * float64(time.Second))
		stats.OldestXact = time.Duration(xact * float64(time.Second))
		return err
	})
	batch.Queue(s.queries.get("Paused")).Query(func(rows pgx.Rows) error {
		found, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[Pause])
		if len(found) > 0 {
			stats.Pause = found[0]
		}
		return err
	})
	// So that also a node that has nothing to do knows how far the numbers have come.
	batch.Queue(s.queries.get("LastNumber")).QueryRow(func(row pgx.Row) error {
		var last int64
		err := row.Scan(&last)
		s.highest.note(last)
		return err
	})
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, s.failed("measure the queue", err)
	}
	return stats, nil
}
