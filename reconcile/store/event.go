package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// EventKeyWindow is how long an event's EventID makes a replay harmless.
const EventKeyWindow = 7 * 24 * time.Hour

// NewEvent is an event about to be stored.
type NewEvent struct {
	Trigger string
	// Instance is the trigger instance that it is meant for; empty: every instance of the trigger.
	Instance string
	// Source is the sensor's ref, "api", "webhook" or, of what happens to Attune itself, "attune".
	Source string
	// EventID makes a replay harmless: unique with source and trigger within the window. Empty: none.
	EventID string
	Payload json.RawMessage
	// Problem says how the payload fails its schema, where the trigger keeps such events.
	Problem string
	// Cursor is the sensor's new cursor, committed with the event; nil: unchanged.
	Cursor json.RawMessage
	// Due is the due time of a timer's firing, kept as the instance's last due time.
	Due *time.Time
	// ReplayOf is the event that this one repeats; 0: none.
	ReplayOf int64
	// Rules are the only rules that it is matched with; nil: all. Others do not hear of it.
	Rules []string
	// Depth is how many executions led to it, one after the other; 0: it comes from outside.
	Depth int
	// Lease is the token of its sensor's lease under which it was handed over: it is stored, and its cursor
	// kept, only while that is held. Empty: it is nobody's.
	Lease string
	// Audit says who fired it, recorded with it where it is no duplicate; its After is filled in. nil: nobody did.
	Audit *NewAudit
}

// isPlain says that all there is to an event is who saw it, and what.
func (e *NewEvent) isPlain() bool {
	return e.Instance == "" && e.EventID == "" && e.Problem == "" && e.ReplayOf == 0 && e.Depth == 0
}

// Event is a stored event.
type Event struct {
	ID        int64           `json:"id"`
	CreatedAt time.Time       `json:"created_at"`
	Trigger   string          `json:"trigger_ref"`
	Instance  string          `json:"instance,omitempty"`
	Source    string          `json:"source"`
	EventID   string          `json:"event_id,omitempty"`
	Payload   json.RawMessage `json:"payload"`
	Problem   string          `json:"problem,omitempty"`
	ReplayOf  *int64          `json:"replay_of,omitempty"`
	// Depth is how many executions led to it, one after the other.
	Depth int `json:"depth,omitempty"`

	// Rules are those of the NewEvent, while it is being stored.
	Rules []string `json:"-" db:"-"`
}

// The statuses of an enforcement.
const (
	EnforcementMatched      = "matched"
	EnforcementThrottled    = "throttled"
	EnforcementDeduplicated = "deduplicated"
	EnforcementSkipped      = "skipped"
	EnforcementError        = "error"
)

// Match is what one rule made of one event.
type Match struct {
	Rule     string
	Status   string // one of the Enforcement constants
	Error    string
	Warnings []string
	// Executions are queued in the same transaction.
	Executions []NewExecution
	// Limits may leave nothing of it, or put it off; nil: there are none.
	Limits *Limits
	// Stopped says that nothing is left of it, because the chain of executions is too long.
	Stopped bool
	// Opened says why the rule's breaker opened at this event; empty: it did not.
	Opened string
}

// Matcher gives the matches of stored events, in their order. generation is that of the transaction:
// a matcher whose index is older loads the newer one first. It may be called again for the same
// events, with other ids, when a commit has to be repeated.
type Matcher func(ctx context.Context, generation int64, events []Event) ([][]Match, error)

// StoredEvent is the fate of a NewEvent.
type StoredEvent struct {
	Event
	// Duplicate says that an event with this EventID is stored already; ID is that one's.
	Duplicate bool
	// Fenced says that another node has the sensor by now: nothing of the event is stored.
	Fenced     bool
	Executions []int64
	Matches    []Match
}

// EventFilter narrows ListEvents. Zero fields do not filter.
type EventFilter struct {
	Trigger string
	// Triggers are several of them; nil: Trigger alone counts.
	Triggers []string
	Source   string
	Since    time.Time
	Before   int64 // ids below this one, for paging
	Limit    int   // Defaults to 100.
}

// ListEvents lists events, newest first.
func (s *Store) ListEvents(ctx context.Context, f EventFilter) ([]Event, error) {
	events, err := list(ctx, s, "ListEvents", pgx.StrictNamedArgs{
		"trigger_refs": f.triggers(),
		"source":       optional(f.Source),
		"since":        optionalTime(f.Since),
		"before":       optional(f.Before),
		"most":         limitOf(f.Limit),
	}, pgx.RowToStructByPos[Event])
	return events, s.failed("list events", err)
}

func (f EventFilter) triggers() []string {
	if f.Trigger != "" {
		return append(slices.Clone(f.Triggers), f.Trigger)
	}
	return f.Triggers
}

// Replays lists the events that repeat one, oldest first.
func (s *Store) Replays(ctx context.Context, id int64) ([]int64, error) {
	ids, err := list(ctx, s, "Replays", pgx.StrictNamedArgs{"id": id}, pgx.RowTo[int64])
	return ids, s.failed(fmt.Sprintf("list the replays of event %d", id), err)
}

// Enforcement is a row of enforcement.
type Enforcement struct {
	ID         int64     `json:"id"`
	CreatedAt  time.Time `json:"created_at"`
	EventID    int64     `json:"event_id"`
	Rule       string    `json:"rule_ref"`
	Status     string    `json:"status"`
	Error      string    `json:"error,omitempty"`
	Warnings   []string  `json:"warnings,omitempty"`
	Executions []int64   `json:"executions,omitempty"`
}

// Event gives one event with its enforcements; ErrNotFound.
func (s *Store) Event(ctx context.Context, id int64) (*Event, []Enforcement, error) {
	doing := fmt.Sprintf("read event %d", id)
	found, err := list(ctx, s, "Event", pgx.StrictNamedArgs{"id": id}, pgx.RowToStructByPos[Event])
	if err != nil {
		return nil, nil, s.failed(doing, err)
	}
	if len(found) == 0 {
		return nil, nil, s.failed(doing, ErrNotFound)
	}
	enforcements, err := list(ctx, s, "Enforcements", pgx.StrictNamedArgs{
		"event_id":   id,
		"created_at": found[0].CreatedAt,
	}, pgx.RowToStructByPos[Enforcement])
	return &found[0], enforcements, s.failed(doing, err)
}

const defaultLimit = 100 // rows of a list that names no limit

func limitOf(limit int) int {
	if limit <= 0 {
		return defaultLimit
	}
	return limit
}

// optional gives NULL for a zero value: the filter is not wanted.
func optional[T comparable](value T) *T {
	var zero T
	if value == zero {
		return nil
	}
	return &value
}

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
