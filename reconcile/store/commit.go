package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// retryFirst and retryMost bound the wait between tries of one event out of a batch.
	retryFirst = 100 * time.Millisecond
	retryMost  = 2 * time.Second

	// numberFirst is how many events of a group are worth a round trip of their own for their numbers.
	numberFirst = 64

	// resolveTimeout is how long a commit without an answer is looked for: a backend that lost its
	// client notices within that, or it never will.
	resolveTimeout = 10 * time.Second
	resolvePeriod  = 50 * time.Millisecond
)

// CommitEvents stores events with their cursors, enforcements and executions in one transaction.
// Order is kept. An event whose lease is not held any more is left out, and its fate says so. An event that PostgreSQL refuses for its content (a NUL, say) is sanitized and
// flagged, never lost, and never stops its neighbours: where that takes a transaction for each event,
// passing failures are waited out, and an error comes with those that were stored before it.
func (s *Store) CommitEvents(ctx context.Context, events []NewEvent, match Matcher) ([]StoredEvent, error) {
	if len(events) == 0 {
		return nil, nil
	}
	clean := slices.Clone(events)
	cleanEvents(clean)
	stored, err := s.commit(ctx, clean, match)
	if err == nil || !isData(err) {
		return stored, s.failed("store events", err)
	}
	s.log.Warn("events are stored one by one, because one of them is refused", "component", "store", "err", err)
	stored = nil
	for i := range clean {
		one, err := s.commitAlone(ctx, clean[i], match)
		if err != nil {
			return stored, s.failed("store events", err)
		}
		stored = append(stored, one...)
	}
	return stored, nil
}

// commitAlone stores one event whatever it takes: as it is, or else without its payload and without
// what rules would have made of it, flagged in both places.
func (s *Store) commitAlone(ctx context.Context, event NewEvent, match Matcher) ([]StoredEvent, error) {
	one := []NewEvent{event}
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		stored, err := s.commit(ctx, one, match)
		switch {
		case err == nil:
			return stored, nil
		case isData(err) && one[0].Problem == event.Problem:
			one[0].Payload = []byte(`{}`)
			one[0].Problem = addProblem(event.Problem, "the database refused its payload or what a rule made of it: "+cleanText(err.Error()))
			match = refuseMatches(match, one[0].Problem)
			continue
		case !IsTransient(err):
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// refuseMatches makes every match an error that says why nothing was queued.
func refuseMatches(match Matcher, problem string) Matcher {
	return func(ctx context.Context, generation int64, events []Event) ([][]Match, error) {
		all, err := match(ctx, generation, events)
		if err != nil {
			return nil, err
		}
		refused := make([][]Match, len(all))
		for i, matches := range all {
			for _, m := range matches {
				refused[i] = append(refused[i], Match{Rule: m.Rule, Status: EnforcementError, Error: problem})
			}
		}
		return refused, nil
	}
}

// cleanEvents makes events such that PostgreSQL takes them, with what had to be changed in their Problem.
func cleanEvents(events []NewEvent) {
	for i := range events {
		e := &events[i]
		payload, problem := cleanJSON(e.Payload)
		e.Payload = payload
		e.Problem = cleanText(e.Problem)
		if problem != "" {
			e.Problem = addProblem(e.Problem, "the payload was changed: "+problem)
		}
		e.Trigger = cleanText(e.Trigger)
		e.Instance = cleanText(e.Instance)
		e.Source = cleanText(e.Source)
	}
}

func addProblem(problem, more string) string {
	if problem == "" {
		return more
	}
	return problem + "; " + more
}

// commit is one try at one transaction for all events that are stored under a lease that is held, or under
// none.
func (s *Store) commit(ctx context.Context, events []NewEvent, match Matcher) ([]StoredEvent, error) {
	stored, err := s.transact(ctx, events, match)
	if !isNotHeld(err) {
		return stored, err
	}
	// A lease that is lost does not come back, so this ends when none is left.
	for lost := map[string]bool{}; ; {
		more, err := s.lostLeases(ctx, events, lost)
		if err != nil {
			return nil, err
		}
		if len(more) == 0 {
			return nil, fmt.Errorf("a lease was lost and found: %w", ErrNotHeld)
		}
		maps.Copy(lost, more)
		held := slices.DeleteFunc(slices.Clone(events), func(e NewEvent) bool { return lost[e.Lease] })
		if len(held) > 0 {
			stored, err = s.transact(ctx, held, match)
		}
		if !isNotHeld(err) {
			return withFenced(events, lost, stored), err
		}
	}
}

// withFenced puts the fate of the events that were left out into its place.
func withFenced(events []NewEvent, lost map[string]bool, stored []StoredEvent) []StoredEvent {
	all := make([]StoredEvent, 0, len(events))
	for _, e := range events {
		switch {
		case lost[e.Lease]:
			all = append(all, StoredEvent{Fenced: true})
		case len(stored) > 0:
			all, stored = append(all, stored[0]), stored[1:]
		}
	}
	return all
}

// leasesOf gives the leases that events are stored under, each once.
func leasesOf(events []NewEvent) (names, tokens []string) {
	for i := range events {
		if e := &events[i]; e.Lease != "" && !slices.Contains(tokens, e.Lease) {
			names, tokens = append(names, LeaseSensor+e.Source), append(tokens, e.Lease)
		}
	}
	return names, tokens
}

// lostLeases gives the tokens of events that no lease has, but for those that are known.
func (s *Store) lostLeases(ctx context.Context, events []NewEvent, known map[string]bool) (map[string]bool, error) {
	names, tokens := leasesOf(events)
	held, err := collect(ctx, s, s.pool, "HeldLeases", pgx.StrictNamedArgs{"names": names, "tokens": tokens}, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	lost := map[string]bool{}
	for _, token := range tokens {
		if !known[token] && !slices.Contains(held, token) {
			lost[token] = true
		}
	}
	return lost, nil
}

// LockedLeases gives the leases of events that another session has locked: as long as it has, what came under them
// cannot be stored.
func (s *Store) LockedLeases(ctx context.Context, events []NewEvent) ([]string, error) {
	names, tokens := leasesOf(events)
	if len(names) == 0 {
		return nil, nil
	}
	locked, err := collect(ctx, s, s.pool, "LockedLeases", pgx.StrictNamedArgs{"names": names, "tokens": tokens}, pgx.RowTo[string])
	return locked, s.failed("look for locked leases", err)
}

// transact is one transaction for all events. It takes two round trips, with the matcher between them.
func (s *Store) transact(ctx context.Context, events []NewEvent, match Matcher) ([]StoredEvent, error) {
	c, err := s.begin(ctx, events, false, nil)
	if err != nil {
		return nil, err
	}
	return c.commit(ctx, match)
}

// EventGroup is a group of events in an open transaction: they are inserted, and not yet matched or
// committed. It has to be ended by Commit or Rollback, once.
type EventGroup struct{ c *eventCommit }

// BeginEvents is the first half of CommitEvents, for who commits one group while the next is inserted. With
// ahead another group of the same caller's is not committed yet. It then waits for that one where both
// have an event with the same EventID, and leaves the generation alone, so that an apply finds its place
// between two groups. It calls numbered, once and unless it fails, as soon as the events have their numbers: from
// then on the next group may be begun without taking a lower one. Of many events that is before they are inserted.
// The events are the group's from now on.
func (s *Store) BeginEvents(ctx context.Context, events []NewEvent, ahead bool, numbered func()) (*EventGroup, error) {
	cleanEvents(events)
	c, err := s.begin(ctx, events, ahead, numbered)
	if err != nil {
		return nil, s.failed("store events", err)
	}
	return &EventGroup{c}, nil
}

// Commit stores what follows, and commits. Of what CommitEvents does with events that cannot be stored it
// does nothing: after an error none of them is, unless the answer to the commit was lost, and
// CommitEvents takes them.
func (g *EventGroup) Commit(ctx context.Context, match Matcher) ([]StoredEvent, error) {
	stored, err := g.c.commit(ctx, match)
	return stored, g.c.s.failed("store events", err)
}

// Rollback leaves nothing of the group.
func (g *EventGroup) Rollback(ctx context.Context) {
	g.c.s.release(ctx, g.c.conn, errRolledBack)
}

var errRolledBack = errors.New("rolled back")

// begin opens the transaction and inserts events that are clean.
func (s *Store) begin(ctx context.Context, events []NewEvent, ahead bool, numbered func()) (c *eventCommit, err error) {
	conn, err := s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.release(ctx, conn, err)
		}
	}()
	c = &eventCommit{s: s, conn: conn, events: events}
	if err := c.insert(ctx, ahead, numbered); err != nil {
		return nil, err
	}
	if err := c.nameDuplicates(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// commit matches and commits, and gives the connection back.
func (c *eventCommit) commit(ctx context.Context, match Matcher) (stored []StoredEvent, err error) {
	committed := false
	defer func() { c.handOver(ctx, committed) }()
	defer func() { c.s.release(ctx, c.conn, err) }()
	if err := c.share(ctx); err != nil {
		return nil, err
	}
	if err := c.match(ctx, match); err != nil {
		return nil, err
	}
	if err := c.limit(ctx); err != nil {
		return nil, err
	}
	if err := c.finish(ctx); err != nil {
		// While the connection stands, whatever came over it is an answer.
		if !c.conn.Conn().IsClosed() || c.resolve(ctx) != nil {
			return nil, err
		}
		c.s.log.Warn("a commit lost its answer and was found done", "component", "store", "err", err)
	}
	committed = true
	c.s.heard.note(c.heard, time.Now())
	c.s.admit(ctx, c.counted)
	return c.stored, nil
}

func (s *Store) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	if s.hotPool == nil {
		return s.pool.Acquire(ctx)
	}
	return s.hotPool.Acquire(ctx)
}

// release gives a connection back without an open transaction.
func (s *Store) release(ctx context.Context, conn *pgxpool.Conn, err error) {
	defer conn.Release()
	if err == nil || conn.Conn().IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hotTimeout)
	defer cancel()
	// A connection that cannot do it is dropped by the pool, which looks at the protocol's state.
	if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
		s.log.Debug("cannot roll back, the connection is dropped", "component", "store", "err", err)
	}
}

// eventCommit is the state of one transaction.
type eventCommit struct {
	s          *Store
	conn       *pgxpool.Conn
	events     []NewEvent
	stored     []StoredEvent
	fresh      []int // places of those that are no duplicates
	generation int64
	xid        string
	executions int
	limiter    *limiter // nil: no match has limits
	counted    keyedSet // the keys of what is queued
	handing    handing
	heard      []string // triggers of which it is recorded that they had an event
}

// heard remembers when it was last recorded of each trigger that it had an event, which is done once a second.
type heard struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (h *heard) isOld(trigger string, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Sub(h.at[trigger]) > time.Second
}

func (h *heard) note(triggers []string, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at == nil {
		h.at = map[string]time.Time{}
	}
	for _, trigger := range triggers {
		h.at[trigger] = now
	}
}

func (c *eventCommit) send(ctx context.Context, batch *pgx.Batch) error {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	return c.conn.SendBatch(ctx, batch).Close()
}

// insert begins the transaction and stores the events that are not stored already.
func (c *eventCommit) insert(ctx context.Context, ahead bool, numbered func()) error {
	var batch pgx.Batch
	batch.Queue("BEGIN")
	if c.s.hotPool == nil {
		c.s.queue(&batch, "HotSettings", nil)
	}
	if !ahead {
		c.queueShare(&batch)
	}
	plain := !slices.ContainsFunc(c.events, func(e NewEvent) bool { return !e.isPlain() })
	if plain && numbered != nil && len(c.events) >= numberFirst {
		return c.insertNumbered(ctx, &batch, numbered)
	}
	if plain {
		c.queuePlainEvents(&batch)
	} else {
		c.queueEvents(&batch)
	}
	if err := c.send(ctx, &batch); err != nil {
		return err
	}
	if numbered != nil {
		numbered()
	}
	return nil
}

// insertNumbered takes a round trip more, and lets the next group be inserted meanwhile.
func (c *eventCommit) insertNumbered(ctx context.Context, batch *pgx.Batch, numbered func()) error {
	c.s.queue(batch, "NumberEvents", pgx.StrictNamedArgs{"count": len(c.events)}).QueryRow(c.readPlain)
	if err := c.send(ctx, batch); err != nil {
		return err
	}
	numbered()
	n := len(c.events)
	ids, triggers, sources, payloads := make([]int64, n), make([]string, n), make([]string, n), make([][]byte, n)
	for i := range c.events {
		e := &c.events[i]
		ids[i], triggers[i], sources[i], payloads[i] = c.stored[i].ID, e.Trigger, e.Source, e.Payload
	}
	var insert pgx.Batch
	c.s.queue(&insert, "InsertNumberedEvents", pgx.StrictNamedArgs{
		"ids":          ids,
		"trigger_refs": triggers,
		"sources":      sources,
		"payloads":     payloads,
	})
	return c.send(ctx, &insert)
}

func (c *eventCommit) queueEvents(batch *pgx.Batch) {
	n := len(c.events)
	triggers, instances, sources := make([]string, n), make([]string, n), make([]string, n)
	ids, keys, problems, payloads := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	replays, depths := make([]int64, n), make([]int, n)
	for i := range c.events {
		e := &c.events[i]
		triggers[i], instances[i], sources[i] = e.Trigger, e.Instance, e.Source
		ids[i], keys[i] = cleanText(e.EventID), cleanKey(e.EventID)
		problems[i], payloads[i], replays[i] = e.Problem, string(e.Payload), e.ReplayOf
		depths[i] = e.Depth
	}
	c.s.queue(batch, "InsertEvents", pgx.StrictNamedArgs{
		"trigger_refs": triggers,
		"instances":    instances,
		"sources":      sources,
		"event_ids":    ids,
		"keys":         keys,
		"problems":     problems,
		"payloads":     payloads,
		"replays":      replays,
		"depths":       depths,
	}).Query(c.read)
}

func (c *eventCommit) queuePlainEvents(batch *pgx.Batch) {
	n := len(c.events)
	triggers, sources, payloads := make([]string, n), make([]string, n), make([]string, n)
	for i := range c.events {
		e := &c.events[i]
		triggers[i], sources[i], payloads[i] = e.Trigger, e.Source, string(e.Payload)
	}
	c.s.queue(batch, "InsertPlainEvents", pgx.StrictNamedArgs{
		"trigger_refs": triggers,
		"sources":      sources,
		"payloads":     payloads,
	}).QueryRow(c.readPlain)
}

// queueShare keeps the generation as it is until the transaction ends.
func (c *eventCommit) queueShare(batch *pgx.Batch) {
	c.s.queue(batch, "ShareGeneration", nil).QueryRow(func(row pgx.Row) error {
		return row.Scan(&c.generation, &c.xid)
	})
}

// share does it where insert did not.
func (c *eventCommit) share(ctx context.Context) error {
	if c.xid != "" {
		return nil
	}
	var batch pgx.Batch
	c.queueShare(&batch)
	return c.send(ctx, &batch)
}

// read takes what InsertEvents answers.
func (c *eventCommit) read(rows pgx.Rows) error {
	c.stored = make([]StoredEvent, 0, len(c.events))
	for rows.Next() {
		var id int64
		var at time.Time
		var duplicate bool
		if err := rows.Scan(&id, &at, &duplicate); err != nil {
			return err
		}
		c.place(id, at, duplicate)
	}
	return rows.Err()
}

// readPlain takes what InsertPlainEvents and NumberEvents answer.
func (c *eventCommit) readPlain(row pgx.Row) error {
	var ids []int64
	var at time.Time
	if err := row.Scan(&ids, &at); err != nil {
		return err
	}
	if len(ids) != len(c.events) {
		return fmt.Errorf("cannot tell the numbers of %d events: there are %d", len(c.events), len(ids))
	}
	c.stored = make([]StoredEvent, 0, len(c.events))
	for _, id := range ids {
		c.place(id, at, false)
	}
	return nil
}

// place notes how the next event is stored.
func (c *eventCommit) place(id int64, at time.Time, duplicate bool) {
	e := &c.events[len(c.stored)]
	if !duplicate {
		c.fresh = append(c.fresh, len(c.stored))
	}
	c.stored = append(c.stored, StoredEvent{
		Event: Event{
			ID:        id,
			CreatedAt: at,
			Trigger:   e.Trigger,
			Instance:  e.Instance,
			Source:    e.Source,
			EventID:   cleanText(e.EventID),
			Payload:   e.Payload,
			Problem:   e.Problem,
			ReplayOf:  optional(e.ReplayOf),
			Rules:     e.Rules,
			Depth:     e.Depth,
		},
		Duplicate: duplicate,
	})
}

// nameDuplicates gives duplicates the id of the event that is stored.
func (c *eventCommit) nameDuplicates(ctx context.Context) error {
	if len(c.fresh) == len(c.stored) {
		return nil
	}
	var places []int
	var sources, triggers, keys []string
	for i := range c.stored {
		if e := c.events[i]; c.stored[i].Duplicate {
			places = append(places, i)
			sources, triggers, keys = append(sources, e.Source), append(triggers, e.Trigger), append(keys, cleanKey(e.EventID))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	ids, err := collect(ctx, c.s, c.conn, "KnownEvents", pgx.StrictNamedArgs{
		"sources": sources, "trigger_refs": triggers, "keys": keys,
	}, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	for i, id := range ids {
		c.stored[places[i]].ID = id
	}
	return nil
}

// match asks what follows from the new events.
func (c *eventCommit) match(ctx context.Context, match Matcher) error {
	if len(c.fresh) == 0 || match == nil {
		return nil
	}
	events := make([]Event, len(c.fresh))
	for i, place := range c.fresh {
		events[i] = c.stored[place].Event
	}
	all, err := match(ctx, c.generation, events)
	if err != nil {
		return err
	}
	if len(all) != len(events) {
		return fmt.Errorf("cannot use the matches of %d events: there are %d", len(events), len(all))
	}
	for i, place := range c.fresh {
		c.stored[place].Matches = all[i]
	}
	return nil
}

// finish stores what follows, and commits.
func (c *eventCommit) finish(ctx context.Context) error {
	var batch pgx.Batch
	if err := c.queueMatches(&batch); err != nil {
		return err
	}
	if err := c.queueStates(&batch); err != nil {
		return err
	}
	c.queueDue(&batch)
	c.queueCursors(&batch)
	for _, place := range c.fresh {
		if audit := c.events[place].Audit; audit != nil {
			row := *audit
			row.After = fmt.Appendf(nil, `{"event_id": %d}`, c.stored[place].ID)
			c.s.queue(&batch, "Audit", row.args(ctx))
		}
	}
	if c.executions > 0 && c.handing.isLeft() {
		c.s.queue(&batch, "WakeQueue", nil)
	}
	c.queueLeases(&batch)
	batch.Queue("COMMIT")
	return c.send(ctx, &batch)
}

// queueLeases has the transaction fail where a lease is not held. It is the last before the commit: see
// checkLease.
func (c *eventCommit) queueLeases(batch *pgx.Batch) {
	if names, tokens := leasesOf(c.events); len(names) > 0 {
		c.s.queue(batch, "MustHold", pgx.StrictNamedArgs{"names": names, "tokens": tokens})
	}
}

func (c *eventCommit) queueMatches(batch *pgx.Batch) error {
	var rows executionRows
	for _, place := range c.fresh {
		event := &c.stored[place]
		for i := range event.Matches {
			m := &event.Matches[i]
			c.sealMatch(m)
			if err := rows.addMatch(event.Event, *m); err != nil {
				return err
			}
		}
	}
	if rows.empty() {
		return nil
	}
	c.executions, c.counted = len(rows.actions), rows.counted()
	c.queueRows(batch, &rows, func(ids []int64) {
		for _, place := range c.fresh {
			for _, m := range c.stored[place].Matches {
				n := len(m.Executions)
				c.stored[place].Executions = append(c.stored[place].Executions, ids[:n]...)
				ids = ids[n:]
			}
		}
	})
	return nil
}

// sealMatch encrypts the secret parameters of what a rule queues. Where that cannot be, nothing is
// queued and the enforcement says why: the event must not wait for a key.
func (c *eventCommit) sealMatch(m *Match) {
	for i := range m.Executions {
		if err := c.s.ready(&m.Executions[i]); err != nil {
			m.Status, m.Error, m.Executions = EnforcementError, err.Error(), nil
			return
		}
	}
}

func (c *eventCommit) queueDue(batch *pgx.Batch) {
	var ids, triggers []string
	var dues []*time.Time
	for _, place := range c.fresh {
		e := c.events[place]
		switch {
		case e.Instance != "":
			ids, dues = append(ids, e.Instance), append(dues, e.Due)
		case !slices.Contains(triggers, e.Trigger) && c.s.heard.isOld(e.Trigger, time.Now()):
			triggers = append(triggers, e.Trigger)
		}
	}
	c.heard = triggers
	if len(ids) > 0 {
		c.s.queue(batch, "PutLastDue", pgx.StrictNamedArgs{"ids": ids, "dues": dues})
	}
	if len(triggers) > 0 {
		c.s.queue(batch, "PutLastEvent", pgx.StrictNamedArgs{"trigger_refs": triggers})
	}
}

// queueCursors keeps the newest cursor of each sensor; a replayed event moves it too.
func (c *eventCommit) queueCursors(batch *pgx.Batch) {
	newest := map[string]string{}
	for _, e := range c.events {
		if e.Cursor != nil {
			newest[e.Source] = storable(e.Cursor)
		}
	}
	if len(newest) == 0 {
		return
	}
	var sensors, cursors []string
	for sensor, cursor := range newest {
		sensors, cursors = append(sensors, sensor), append(cursors, cursor)
	}
	c.s.queue(batch, "PutCursors", pgx.StrictNamedArgs{"sensor_refs": sensors, "cursors": cursors})
}

// resolve finds out what became of a commit whose answer was lost, and reads back what it stored. It
// gives no error where it has happened.
func (c *eventCommit) resolve(ctx context.Context) error {
	// The caller may have gone: whether the commit happened is still to be told right.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveTimeout)
	defer cancel()
	for {
		var status *string
		args := pgx.StrictNamedArgs{"xid": c.xid}
		err := c.s.pool.QueryRow(ctx, c.s.queries.get("TransactionStatus"), args).Scan(&status)
		switch {
		case err != nil && !IsTransient(err):
			return err
		case err == nil && status != nil && *status == "committed":
			return c.readBack(ctx)
		case err == nil && (status == nil || *status == "aborted"):
			return errors.New("the transaction was rolled back")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(resolvePeriod):
		}
	}
}

func (c *eventCommit) readBack(ctx context.Context) error {
	if c.executions == 0 {
		return nil
	}
	places := map[int64]int{}
	var ids []int64
	for _, place := range c.fresh {
		places[c.stored[place].ID] = place
		ids = append(ids, c.stored[place].ID)
	}
	type caused struct {
		EventID int64
		IDs     []int64
	}
	found, err := collect(ctx, c.s, c.s.pool, "ExecutionsOfEvents", pgx.StrictNamedArgs{
		"event_ids":  ids,
		"created_at": c.stored[c.fresh[0]].CreatedAt,
	}, pgx.RowToStructByPos[caused])
	if err != nil {
		return err
	}
	for _, f := range found {
		c.stored[places[f.EventID]].Executions = f.IDs
	}
	return nil
}
