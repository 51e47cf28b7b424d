package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
)

// TriggerInstance is a trigger with the parameters that some enabled rule gives it.
type TriggerInstance struct {
	ID         string
	Trigger    string
	Parameters json.RawMessage // identity and the rest (misfire, jitter) merged
	Rules      []string        // enabled rules that ask for it
	AnchorAt   time.Time       // when it came to be; intervals count from here
	LastDue    *time.Time      // due time, or time, of its newest stored event
	// Sealed says that what is secret of Parameters could not be read: it is masked there.
	Sealed error
}

// instanceRow is a TriggerInstance with its secrets encrypted.
type instanceRow struct {
	ID         string
	Trigger    string
	Parameters json.RawMessage
	Rules      []string
	AnchorAt   time.Time
	LastDue    *time.Time
	// RuleSecrets are those of the first rule's parameters, Secrets those of the identity.
	RuleSecrets map[string]string
	Secrets     map[string]string
}

// open gives the instance with its secrets, as far as they can be read.
func (r *instanceRow) open(s *Store) TriggerInstance {
	t := TriggerInstance{
		ID: r.ID, Trigger: r.Trigger, Parameters: r.Parameters, Rules: r.Rules, AnchorAt: r.AnchorAt, LastDue: r.LastDue,
	}
	if len(r.RuleSecrets)+len(r.Secrets) == 0 {
		return t
	}
	parameters, err := decodeObject(r.Parameters)
	if err == nil {
		// What makes the identity is in both; a rule may have more.
		rest := maps.Clone(r.RuleSecrets)
		maps.DeleteFunc(rest, func(pointer, _ string) bool { return r.Secrets[pointer] != "" })
		err = errors.Join(
			s.openSecrets(ownerRule(r.Rules[0]), rest, parameters), s.openSecrets(ownerInstance(r.ID), r.Secrets, parameters))
	}
	if err != nil {
		t.Sealed = err
		return t
	}
	t.Parameters, t.Sealed = json.Marshal(parameters)
	return t
}

// TriggerInstances lists those that an enabled rule asks for, of the given triggers (nil: all),
// sorted by id. What rules say outside the identity (misfire, jitter) is the first rule's by name.
// The time of an event for every instance of a trigger is kept to the second.
func (s *Store) TriggerInstances(ctx context.Context, triggers []string) ([]TriggerInstance, error) {
	rows, err := list(ctx, s, "TriggerInstances", pgx.StrictNamedArgs{
		"trigger_refs": triggers,
	}, pgx.RowToStructByPos[instanceRow])
	if err != nil {
		return nil, s.failed("list trigger instances", err)
	}
	found := make([]TriggerInstance, len(rows))
	for i := range rows {
		found[i] = rows[i].open(s)
	}
	return found, nil
}

// SensorCursor gives the cursor last committed with an event of the sensor; nil: none yet.
func (s *Store) SensorCursor(ctx context.Context, sensor string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	cursors, err := collect(ctx, s, s.pool, "SensorCursor", pgx.StrictNamedArgs{"ref": sensor}, pgx.RowTo[json.RawMessage])
	if err != nil || len(cursors) == 0 {
		return nil, s.failed("read the cursor of sensor "+sensor, err)
	}
	return cursors[0], nil
}

// SetSensorCursor keeps a cursor that came without an event, under the sensor's lease; ErrNotHeld. Without
// the lease's token it is nobody's.
func (s *Store) SetSensorCursor(ctx context.Context, sensor, lease string, cursor json.RawMessage) error {
	err := s.hot(ctx, "keep the cursor of sensor "+sensor, func(batch *pgx.Batch) {
		s.queue(batch, "PutCursors", pgx.StrictNamedArgs{
			"sensor_refs": []string{sensor},
			"cursors":     []string{storable(cursor)},
		})
		if lease != "" {
			s.queue(batch, "MustHold", pgx.StrictNamedArgs{"names": []string{LeaseSensor + sensor}, "tokens": []string{lease}})
		}
	})
	if isNotHeld(err) {
		return fmt.Errorf("cannot keep the cursor of sensor %s: %w", sensor, ErrNotHeld)
	}
	return err
}
