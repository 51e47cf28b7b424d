package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
)

// The triggers of what happens to Attune itself.
const (
	TriggerExecutionFinished  = "core.execution_finished"
	TriggerSensorStateChanged = "core.sensor_state_changed"
	TriggerPackApplied        = "core.pack_applied"
	TriggerPackFailed         = "core.pack_failed"
	TriggerNodeStateChanged   = "core.node_state_changed"
)

// Notice is something that happened to Attune itself, on its way to become an event. It was written in
// the transaction of what it tells of, and only because an enabled rule listens.
type Notice struct {
	ID      int64
	Trigger string
	// EventID makes it one event, however often it is handed on.
	EventID string
	// Depth is how many executions led to it, one after the other.
	Depth   int
	Payload json.RawMessage
}

// noticeTime is how long who took notices may take to have them stored, before another does it again.
const noticeTime = 30 * time.Second

// AddNotices writes of what is in no transaction of the database, where a rule listens. Saying it again,
// with the same EventID, leads to no second event. IDs are not looked at.
func (s *Store) AddNotices(ctx context.Context, notices []Notice) error {
	n := len(notices)
	triggers, ids, payloads := make([]string, n), make([]string, n), make([]string, n)
	for i, one := range notices {
		triggers[i], ids[i], payloads[i] = one.Trigger, one.EventID, storable(one.Payload)
	}
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, s.queries.get("AddNotices"), pgx.StrictNamedArgs{
		"trigger_refs": triggers, "event_ids": ids, "payloads": payloads,
	})
	return s.failed("tell of what happened", err)
}

// TakeNotices gives the oldest notices after one (0: of all) that no other node is at, or with others also
// those that one is at. They stay until DropNotices, so that who takes them and dies loses none.
func (s *Store) TakeNotices(ctx context.Context, after int64, others bool, most int) ([]Notice, error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	notices, err := collect(ctx, s, s.pool, "TakeNotices", pgx.StrictNamedArgs{
		"after": after, "others": others, "most": most, "seconds": noticeTime.Seconds(),
	}, pgx.RowToStructByPos[Notice])
	return notices, s.failed("look for what happened", err)
}

// DropNotices forgets those that are stored as events.
func (s *Store) DropNotices(ctx context.Context, ids []int64) error {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, s.queries.get("DropNotices"), pgx.StrictNamedArgs{"ids": ids})
	return s.failed("forget what was told", err)
}
