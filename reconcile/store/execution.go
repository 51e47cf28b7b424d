package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/attune-io/attune/reconcile/manifest"
)

// NewExecution is an execution about to be queued.
type NewExecution struct {
	Action      string
	Rule        string // empty: asked for by a person or a program
	Trigger     string
	EventID     int64 // 0: none
	Ordinal     int   // place in the rule's actions
	Item        int   // place in for_each
	Parameters  json.RawMessage
	Secrets     map[string]string // JSON pointer to the name of a secret, or to an encrypted value
	Priority    int
	DueAt       *time.Time    // nil: now
	Timeout     time.Duration // 0: the action's, else the daemon's
	RequestedBy string        // "rule", "alice", …
	// Retry is instead of the action's; nil: the action's.
	Retry *manifest.Retry
	// TimeoutTotal bounds all attempts together; 0: the action's does.
	TimeoutTotal time.Duration
	// Former is the action as an older revision has it, to run that; nil: what is in force.
	Former *Former

	key     *string // by which it is counted; nil: its action has no concurrency
	rerunOf int64   // 0: of none
	depth   int     // how many executions led to it
	stored  bool    // it comes from the database, secrets encrypted
}

// ownRetry is what an execution says of its attempts in place of its action.
type ownRetry struct {
	*manifest.Retry
	TimeoutTotal manifest.Duration `json:"timeout_total,omitempty"`
}

// Former is an action as a former revision of its pack has it.
type Former struct {
	RevisionID int64
	Manifest   json.RawMessage // in normal form
}

// Enqueue queues executions in one transaction and notifies. It gives their ids in order.
func (s *Store) Enqueue(ctx context.Context, executions []NewExecution) ([]int64, error) {
	return s.EnqueueFor(ctx, nil, executions)
}

// EnqueueFor is Enqueue with a row in the audit, in the same transaction; its object is the execution's number,
// or how many there are. nil: there is none.
func (s *Store) EnqueueFor(ctx context.Context, audit *NewAudit, executions []NewExecution) ([]int64, error) {
	if len(executions) == 0 {
		return nil, nil
	}
	rows, err := s.rowsOf(executions)
	if err != nil {
		return nil, err
	}
	sending, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	var ids []int64
	var batch pgx.Batch
	s.queueExecutions(ctx, &batch, rows, audit, &ids)
	if err := s.pool.SendBatch(sending, &batch).Close(); err != nil {
		return nil, s.failed("queue executions", err)
	}
	s.highest.note(ids...)
	s.admit(ctx, rows.counted())
	return ids, nil
}

// rowsOf makes executions ready to be queued.
func (s *Store) rowsOf(executions []NewExecution) (*executionRows, error) {
	var rows executionRows
	for _, e := range executions {
		if err := s.ready(&e); err != nil {
			return nil, fmt.Errorf("cannot queue executions: %w", err)
		}
		if err := rows.add(e, 0); err != nil {
			return nil, fmt.Errorf("cannot queue executions: %w", err)
		}
	}
	return &rows, nil
}

// queueExecutions adds to a batch what queues executions, records who wanted them, and wakes workers.
func (s *Store) queueExecutions(ctx context.Context, batch *pgx.Batch, rows *executionRows, audit *NewAudit, ids *[]int64) {
	batch.Queue(s.queries.get("QueueExecutions"), rows.args()).Query(func(answer pgx.Rows) (err error) {
		*ids, err = pgx.CollectRows(answer, pgx.RowTo[int64])
		return err
	})
	if audit != nil {
		args := audit.args(ctx)
		delete(args, "object")
		delete(args, "before")
		args["count"] = len(rows.actions)
		batch.Queue(s.queries.get("AuditQueued"), args)
	}
	batch.Queue(s.queries.get("WakeQueue"))
}

// ErrOtherRequest says that a key was used for another request before.
var ErrOtherRequest = errors.New("the key was used for another request")

// Once makes the repetition of a request harmless: its key is stored in the transaction of what it asks for.
type Once struct {
	Key    string // with the caller's name, whose keys are no other's
	Digest string // of the request
	// Answer makes the answer that a repetition gets out of the ids of what was queued, a JSON object.
	Answer func(ids []int64) (json.RawMessage, error)
}

// EnqueueOnce is EnqueueFor for a request that may be a repetition: then nothing is queued, and former is the
// answer to the first. ErrOtherRequest where it is another request.
func (s *Store) EnqueueOnce(ctx context.Context, once Once, audit *NewAudit, executions []NewExecution) (ids []int64, former json.RawMessage, err error) {
	rows, err := s.rowsOf(executions)
	if err != nil {
		return nil, nil, err
	}
	err = s.inTx(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		ctx, cancel := context.WithTimeout(ctx, hotTimeout)
		defer cancel()
		key := pgx.StrictNamedArgs{"key": cleanKey(once.Key), "digest": once.Digest}
		// Whoever is at it with the same key at this moment is waited for.
		fresh, err := collect(ctx, s, tx, "AddIdempotencyKey", key, pgx.RowTo[string])
		if err != nil {
			return err
		}
		if len(fresh) == 0 {
			former, err = s.formerAnswer(ctx, tx, key)
			return err
		}
		if len(executions) > 0 {
			var batch pgx.Batch
			s.queueExecutions(ctx, &batch, rows, audit, &ids)
			if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
				return err
			}
		}
		answer, err := once.Answer(ids)
		if err != nil {
			return err
		}
		_, err = collect(ctx, s, tx, "AnswerIdempotencyKey", pgx.StrictNamedArgs{"key": key["key"], "answer": storable(answer)}, pgx.RowTo[any])
		return err
	})
	if err != nil || former != nil {
		return nil, former, s.failed("queue executions", err)
	}
	s.highest.note(ids...)
	s.admit(ctx, rows.counted())
	return ids, nil, nil
}

// FormerAnswer gives the answer to the first request of the key; nil: this is the first. ErrOtherRequest where it
// was another request.
func (s *Store) FormerAnswer(ctx context.Context, once Once) (json.RawMessage, error) {
	former, err := s.formerAnswer(ctx, s.pool, pgx.StrictNamedArgs{"key": cleanKey(once.Key), "digest": once.Digest})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return former, s.failed("look for a former request", err)
}

func (s *Store) formerAnswer(ctx context.Context, tx querier, key pgx.StrictNamedArgs) (json.RawMessage, error) {
	type row struct {
		Same   bool
		Answer json.RawMessage
	}
	found, err := collect(ctx, s, tx, "IdempotencyKey", key, pgx.RowToStructByPos[row])
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0: // it was pruned in this moment
		return nil, ErrNotFound
	case !found[0].Same:
		return nil, ErrOtherRequest
	}
	return found[0].Answer, nil
}

// ready encrypts the secret parameters of an execution that is about to be queued, and finds out by what
// it is counted, which what is secret has no part in.
func (s *Store) ready(e *NewExecution) (err error) {
	if s.seal != nil && !e.stored {
		if e.Parameters, e.Secrets, err = s.seal(e.Action, e.Parameters, e.Secrets); err != nil {
			return err
		}
	}
	if s.keyOf != nil {
		if key, counted := s.keyOf(e.Action, e.Parameters); counted {
			e.key = new(cleanKey(key))
		}
	}
	return nil
}

// executionRows are enforcements and executions as the columns of QueueExecutions.
type executionRows struct {
	enforcedEvents                                            []int64
	enforcedRules, enforcedStatuses, enforcedErrors, warnings []string
	enforcedFirsts, enforcedLasts                             []int // places of executions, from 1

	actions, rules, triggers, requestedBy, parameters, secrets []string
	events                                                     []int64
	enforcements, ordinals, items, priorities                  []int
	due                                                        []*time.Time
	timeouts                                                   []float64 // seconds
	retries, formerManifests                                   []string
	rerunsOf, formerRevisions                                  []int64
	keys                                                       []*string
	depths                                                     []int

	// special says that there is more to some than QueueMatches and ClaimMatches take.
	special bool
}

func (r *executionRows) empty() bool { return len(r.enforcedRules) == 0 && len(r.actions) == 0 }

// addMatch adds an enforcement with its executions.
func (r *executionRows) addMatch(event Event, m Match) error {
	warnings := ""
	if len(m.Warnings) > 0 {
		text, err := encode(m.Warnings)
		if err != nil {
			return fmt.Errorf("cannot encode the warnings of rule %s: %w", m.Rule, err)
		}
		warnings = text
	}
	r.special = r.special || m.Status != EnforcementMatched || m.Error != "" || warnings != "" || len(m.Executions) != 1
	r.enforcedEvents = append(r.enforcedEvents, event.ID)
	r.enforcedRules = append(r.enforcedRules, m.Rule)
	r.enforcedStatuses = append(r.enforcedStatuses, m.Status)
	r.enforcedErrors = append(r.enforcedErrors, cleanText(m.Error))
	r.warnings = append(r.warnings, warnings)
	r.enforcedFirsts = append(r.enforcedFirsts, len(r.actions)+1)
	r.enforcedLasts = append(r.enforcedLasts, len(r.actions)+len(m.Executions))
	for _, e := range m.Executions {
		e.EventID, e.depth = event.ID, event.Depth
		if err := r.add(e, len(r.enforcedRules)); err != nil {
			return err
		}
	}
	return nil
}

// add adds an execution; place is that of its enforcement, from 1, or 0.
func (r *executionRows) add(e NewExecution, place int) error {
	secrets := ""
	if len(e.Secrets) > 0 {
		text, err := encode(e.Secrets)
		if err != nil {
			return fmt.Errorf("cannot encode the secrets of action %s: %w", e.Action, err)
		}
		secrets = text
	}
	retry := ""
	if e.Retry != nil || e.TimeoutTotal > 0 {
		text, err := encode(ownRetry{e.Retry, manifest.Duration(e.TimeoutTotal)})
		if err != nil {
			return fmt.Errorf("cannot encode the retry of an execution of action %s: %w", e.Action, err)
		}
		retry = text
	}
	former := Former{}
	if e.Former != nil {
		former = *e.Former
	}
	r.special = r.special || place == 0 || secrets != "" || retry != "" || e.Former != nil || e.key != nil || e.rerunOf != 0 ||
		e.Ordinal != 0 || e.Item != 0 || e.DueAt != nil || e.Timeout != 0 ||
		e.Rule != r.enforcedRules[place-1] || e.Trigger == "" ||
		len(r.actions) > 0 && (cleanText(e.RequestedBy) != r.requestedBy[0] || e.depth != r.depths[0])
	r.keys = append(r.keys, e.key)
	r.retries = append(r.retries, retry)
	r.rerunsOf = append(r.rerunsOf, e.rerunOf)
	r.formerRevisions = append(r.formerRevisions, former.RevisionID)
	r.formerManifests = append(r.formerManifests, string(former.Manifest))
	r.actions = append(r.actions, cleanText(e.Action))
	r.rules = append(r.rules, e.Rule)
	r.triggers = append(r.triggers, e.Trigger)
	r.requestedBy = append(r.requestedBy, cleanText(e.RequestedBy))
	r.parameters = append(r.parameters, storable(e.Parameters))
	r.secrets = append(r.secrets, secrets)
	r.events = append(r.events, e.EventID)
	r.enforcements = append(r.enforcements, place)
	r.ordinals = append(r.ordinals, e.Ordinal)
	r.items = append(r.items, e.Item)
	r.priorities = append(r.priorities, e.Priority)
	r.due = append(r.due, e.DueAt)
	r.timeouts = append(r.timeouts, e.Timeout.Seconds())
	r.depths = append(r.depths, e.depth)
	return nil
}

// counted are the keys of those that are due: they stand in line now.
func (r *executionRows) counted() keyedSet {
	set := keyedSet{}
	for i := range r.actions {
		set.add(&r.actions[i], r.keys[i])
	}
	return set
}

// claimable gives the places, from 1, of those that may be claimed at that time, which is the transaction's.
func (r *executionRows) claimable(now time.Time) (places []int) {
	for i, due := range r.due {
		if r.keys[i] == nil && (due == nil || !due.After(now)) {
			places = append(places, i+1)
		}
	}
	return places
}

func (r *executionRows) args() pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{
		"enforced_event_ids":  r.enforcedEvents,
		"enforced_rule_refs":  r.enforcedRules,
		"enforced_statuses":   r.enforcedStatuses,
		"enforced_errors":     r.enforcedErrors,
		"enforced_warnings":   r.warnings,
		"enforced_firsts":     r.enforcedFirsts,
		"enforced_lasts":      r.enforcedLasts,
		"action_refs":         r.actions,
		"rule_refs":           r.rules,
		"trigger_refs":        r.triggers,
		"event_ids":           r.events,
		"enforcement_places":  r.enforcements,
		"ordinals":            r.ordinals,
		"items":               r.items,
		"priorities":          r.priorities,
		"requested_by":        r.requestedBy,
		"due_at":              r.due,
		"timeouts":            r.timeouts,
		"parameters":          r.parameters,
		"secrets":             r.secrets,
		"retries":             r.retries,
		"reruns_of":           r.rerunsOf,
		"former_revision_ids": r.formerRevisions,
		"former_manifests":    r.formerManifests,
		"concurrency_keys":    r.keys,
		"depths":              r.depths,
	}
}

// plainArgs are those of QueueMatches, and a part of those of ClaimMatches; there have to be some, and none of them special.
func (r *executionRows) plainArgs() pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{
		"event_ids":    r.events,
		"rule_refs":    r.rules,
		"trigger_refs": r.triggers,
		"action_refs":  r.actions,
		"priorities":   r.priorities,
		"parameters":   r.parameters,
		"requested_by": r.requestedBy[0],
		"depth":        r.depths[0],
	}
}

// Execution is a row of the view execution_now.
type Execution struct {
	ID              int64           `json:"id"`
	Action          string          `json:"action_ref"`
	Pack            string          `json:"pack_ref"`
	Rule            *string         `json:"rule_ref"`
	Trigger         *string         `json:"trigger_ref"`
	EventID         *int64          `json:"event_id"`
	Status          Status          `json:"status"`
	Parameters      json.RawMessage `json:"parameters"`
	Priority        int             `json:"priority"`
	RequestedBy     string          `json:"requested_by"`
	CreatedAt       time.Time       `json:"created_at"`
	DueAt           *time.Time      `json:"due_at"`
	StartedAt       *time.Time      `json:"started_at"`
	FinishedAt      *time.Time      `json:"finished_at"`
	Attempt         int             `json:"attempt"`
	Node            *string         `json:"node"`
	Revision        *string         `json:"revision"` // digest that ran
	ExitCode        *int            `json:"exit_code"`
	Signal          *string         `json:"signal"`
	Error           *string         `json:"error"`
	Result          json.RawMessage `json:"result"`
	Stdout          string          `json:"stdout"`
	Stderr          string          `json:"stderr"`
	StdoutTruncated bool            `json:"stdout_truncated"`
	StderrTruncated bool            `json:"stderr_truncated"`
	RerunOf         *int64          `json:"rerun_of"` // the execution that it repeats
	// WaitsFor says why it has not begun; lists leave it out.
	WaitsFor *string `json:"waits_for"`
}

// Attempt is a row of attempt.
type Attempt struct {
	Number     int        `json:"attempt"`
	Status     Status     `json:"status"`
	Node       string     `json:"node"`
	StartedAt  *time.Time `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at"`
	ExitCode   *int       `json:"exit_code"`
	Signal     *string    `json:"signal"`
	Error      *string    `json:"error"`
}

// SinceFirstStart tells how long ago the first attempt of an execution began; 0: none has ended that did.
func (s *Store) SinceFirstStart(ctx context.Context, id int64, createdAt time.Time) (since time.Duration, err error) {
	err = s.hot(ctx, "look when an execution began", func(batch *pgx.Batch) {
		s.queue(batch, "SinceFirstStart", pgx.StrictNamedArgs{"id": id, "created_at": createdAt}).QueryRow(func(row pgx.Row) error {
			var seconds float64
			err := row.Scan(&seconds)
			since = time.Duration(seconds * float64(time.Second))
			return err
		})
	})
	return since, err
}

// Execution gives one execution, with outputs and result, and its attempts; ErrNotFound.
func (s *Store) Execution(ctx context.Context, id int64) (*Execution, []Attempt, error) {
	doing := fmt.Sprintf("read execution %d", id)
	found, err := list(ctx, s, "Execution", pgx.StrictNamedArgs{"id": id}, pgx.RowToStructByPos[Execution])
	if err != nil {
		return nil, nil, s.failed(doing, err)
	}
	if len(found) == 0 {
		return nil, nil, s.failed(doing, ErrNotFound)
	}
	if e := &found[0]; !e.Status.Final() && e.StartedAt == nil {
		if e.WaitsFor, err = s.waitsFor(ctx, id); err != nil {
			return nil, nil, s.failed(doing, err)
		}
	}
	attempts, err := list(ctx, s, "Attempts", pgx.StrictNamedArgs{
		"id":         id,
		"created_at": found[0].CreatedAt,
	}, pgx.RowToStructByPos[Attempt])
	return &found[0], attempts, s.failed(doing, err)
}

// ExecutionFilter narrows ListExecutions. Zero fields do not filter.
type ExecutionFilter struct {
	Action, Rule, Pack string
	Status             []Status
	EventID            int64
	Since              time.Time
	Before             int64
	Limit              int // Defaults to 100.
}

// ListExecutions lists executions, newest first, without outputs and results.
func (s *Store) ListExecutions(ctx context.Context, f ExecutionFilter) ([]Execution, error) {
	executions, err := list(ctx, s, "ListExecutions", f.args(), pgx.RowToStructByPos[Execution])
	return executions, s.failed("list executions", err)
}
