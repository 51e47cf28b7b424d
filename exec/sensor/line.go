package sensor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/attune-io/attune/reconcile/store"
)

const (
	// maxEventID bounds an event_id in bytes: it is a key of an index.
	maxEventID = 512

	// maxCursor bounds a cursor in bytes: it goes back to the sensor in its environment, where the
	// kernel takes 128 KiB at most.
	maxCursor = 64 << 10
)

// The types of control lines.
const (
	typeHeartbeat = "heartbeat"
	typeCursor    = "cursor"
	// typeBlocked says that an address was asked for that the configuration forbids: operators count those.
	typeBlocked = "blocked"
)

// source is what a line is read against: whose it is, and what it may fire.
type source struct {
	ref, pack string
	triggers  []string
	lease     string // the token of the lease that its process runs under; empty: none
}

// message is what one line says: events, or control.
type message struct {
	control string // typeHeartbeat, typeCursor, typeBlocked, or empty
	events  []store.NewEvent
	cursor  json.RawMessage // of a control line
	ack     string          // what to acknowledge once all events are stored; empty: nothing
	jitter  time.Duration   // how much later than due it was meant to be
}

// wireLine is a line as sensors write it. Payload and cursor stay the bytes they are.
type wireLine struct {
	Type              *string           `json:"type"`
	Trigger           *string           `json:"trigger"`
	TriggerRef        *string           `json:"trigger_ref"`
	TriggerType       *string           `json:"trigger_type"`
	Instance          *string           `json:"instance"`
	TriggerInstanceID *string           `json:"trigger_instance_id"`
	EventID           json.RawMessage   `json:"event_id"`
	Payload           json.RawMessage   `json:"payload"`
	Events            []json.RawMessage `json:"events"`
	Cursor            json.RawMessage   `json:"cursor"`
	Due               *string           `json:"due"`
	JitterMS          int64             `json:"jitter_ms"`
}

// parseLine reads one line. It is pure, and keeps nothing of data.
func parseLine(data []byte, src *source) (*message, error) {
	data = bytes.TrimSpace(data)
	var w wireLine
	if w.readPlain(data, src) {
		return w.eventLine(src)
	}
	if !utf8.Valid(data) {
		return nil, errors.New("not UTF-8")
	}
	if len(data) == 0 || data[0] != '{' {
		return nil, fmt.Errorf("found %s, expected a JSON object; what is for people goes to stderr", excerpt(data))
	}
	w = wireLine{}
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, jsonProblem(err)
	}
	if w.Type != nil {
		return w.controlLine()
	}
	if w.empty() && absent(w.Cursor) {
		return nil, w.unknown(src)
	}
	if w.empty() {
		return w.cursorLine()
	}
	return w.eventLine(src)
}

// readPlain reads what nearly all lines are, an event without anything unusual, for a small part of what json.Unmarshal takes
// for the same; false: that has to look.
func (w *wireLine) readPlain(data []byte, src *source) bool {
	plain := store.PlainFields(data, func(key, value []byte) bool {
		switch string(key) {
		case "trigger":
			return plainText(&w.Trigger, value, src.triggers)
		case "instance":
			return plainText(&w.Instance, value, nil)
		case "due":
			return plainText(&w.Due, value, nil)
		case "event_id":
			return plainValue(&w.EventID, value)
		case "payload":
			return plainValue(&w.Payload, value)
		case "cursor":
			return plainValue(&w.Cursor, value)
		default: // json.Unmarshal takes TRIGGER for trigger, and knows more keys
			return false
		}
	})
	return plain && !w.empty()
}

// plainText takes a text without escapes, if it is the first of its key. Of those that are known it makes no copy.
func plainText(into **string, value []byte, known []string) bool {
	if *into != nil || value[0] != '"' || bytes.IndexByte(value, '\\') >= 0 {
		return false
	}
	value = value[1 : len(value)-1]
	for i := range known {
		if known[i] == string(value) {
			*into = &known[i]
			return true
		}
	}
	text := string(value)
	*into = &text
	return true
}

// plainValue takes a copy of a value, if it is the first of its key.
func plainValue(into *json.RawMessage, value []byte) bool {
	if *into != nil {
		return false
	}
	*into = bytes.Clone(value)
	return true
}

// jsonProblem tells what is wrong in words that do not name our types.
func jsonProblem(err error) error {
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("not JSON: %s at byte %d", strings.TrimPrefix(syntax.Error(), "json: "), syntax.Offset)
	case errors.As(err, &mismatch):
		expected := "a string"
		if mismatch.Field == "events" {
			expected = "a list"
		}
		return fmt.Errorf("%s: found %s, expected %s", mismatch.Field, mismatch.Value, expected)
	default:
		return fmt.Errorf("not JSON: %v", err)
	}
}

func (w *wireLine) controlLine() (*message, error) {
	switch *w.Type {
	case typeHeartbeat:
		return &message{control: typeHeartbeat}, nil
	case typeCursor:
		return w.cursorLine()
	case typeBlocked:
		return &message{control: typeBlocked}, nil
	default:
		return nil, fmt.Errorf(`type: found %s, expected "heartbeat", "cursor" or "blocked"; what an event carries goes under "payload"`, excerpt([]byte(*w.Type)))
	}
}

func (w *wireLine) cursorLine() (*message, error) {
	cursor, err := w.position()
	if err != nil {
		return nil, err
	}
	if cursor == nil {
		return nil, errors.New(`a line of type "cursor" without a cursor`)
	}
	return &message{control: typeCursor, cursor: cursor}, nil
}

// empty says that no key of the line is one that only an event's line has.
func (w *wireLine) empty() bool {
	return w.Trigger == nil && w.TriggerRef == nil && w.TriggerType == nil && w.Instance == nil &&
		w.TriggerInstanceID == nil && w.EventID == nil && w.Payload == nil && w.Events == nil && w.Due == nil
}

// unknown is the error for an object that is probably a payload without its envelope.
func (w *wireLine) unknown(src *source) error {
	if len(src.triggers) == 1 {
		return errors.New(`no key of an event; write {"payload": {…}} around it`)
	}
	return errors.New(`no key of an event; write {"trigger": "…", "payload": {…}}`)
}

func (w *wireLine) eventLine(src *source) (*message, error) {
	trigger, instance, err := w.aim(src)
	if err != nil {
		return nil, err
	}
	eventID, err := w.id()
	if err != nil {
		return nil, err
	}
	payloads, err := w.payloads()
	if err != nil {
		return nil, err
	}
	cursor, err := w.position()
	if err != nil {
		return nil, err
	}
	var due *time.Time
	if w.Due != nil {
		t, err := time.Parse(time.RFC3339Nano, *w.Due)
		if err != nil {
			return nil, fmt.Errorf("due: found %s, expected a time like 2026-01-31T13:45:00Z", excerpt([]byte(*w.Due)))
		}
		due = &t
	}
	m := &message{
		events: make([]store.NewEvent, len(payloads)), ack: eventID, jitter: time.Duration(w.JitterMS) * time.Millisecond,
	}
	for i, payload := range payloads {
		m.events[i] = store.NewEvent{
			Trigger: trigger, Instance: instance, Source: src.ref, EventID: eventID, Payload: payload, Due: due, Lease: src.lease,
		}
		if w.Events != nil && eventID != "" {
			// Each event of a line needs a name of its own, and the same one in a replay.
			m.events[i].EventID = eventID + "#" + strconv.Itoa(i)
		}
	}
	if len(m.events) > 0 {
		m.events[len(m.events)-1].Cursor = cursor
	} else if cursor != nil {
		return &message{control: typeCursor, cursor: cursor}, nil
	}
	return m, nil
}

// aim finds the trigger and the instance that a line is for.
func (w *wireLine) aim(src *source) (trigger, instance string, err error) {
	instance, err = same("instance", w.Instance, w.TriggerInstanceID)
	if err != nil {
		return "", "", err
	}
	trigger, err = same("trigger", w.Trigger, w.TriggerRef, w.TriggerType)
	if err != nil {
		return "", "", err
	}
	ofInstance, _, _ := cutLast(instance, "#")
	if trigger == "" {
		switch {
		case ofInstance != "":
			trigger = ofInstance
		case len(src.triggers) == 1:
			trigger = src.triggers[0]
		default:
			return "", "", fmt.Errorf("no trigger, expected one of %s", strings.Join(src.triggers, ", "))
		}
	}
	if !strings.Contains(trigger, ".") {
		trigger = src.pack + "." + trigger
	}
	if !slices.Contains(src.triggers, trigger) {
		return "", "", fmt.Errorf("trigger: found %s, expected one of its trigger_types: %s", excerpt([]byte(trigger)), strings.Join(src.triggers, ", "))
	}
	if ofInstance != "" && ofInstance != trigger {
		return "", "", fmt.Errorf("instance: found %s, expected one of trigger %s", excerpt([]byte(instance)), trigger)
	}
	return trigger, instance, nil
}

// same gives the one value that a key and its aliases have.
func same(key string, values ...*string) (string, error) {
	var found string
	for _, v := range values {
		if v == nil || *v == "" {
			continue
		}
		if found != "" && found != *v {
			return "", fmt.Errorf("%s: found both %s and %s", key, excerpt([]byte(found)), excerpt([]byte(*v)))
		}
		found = *v
	}
	return found, nil
}

func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):], true
	}
	return "", "", false
}

// id reads event_id: a string, or a number as it is written.
func (w *wireLine) id() (string, error) {
	if absent(w.EventID) {
		return "", nil
	}
	id := string(w.EventID)
	switch c := w.EventID[0]; {
	case c == '"' && bytes.IndexByte(w.EventID, '\\') < 0:
		id = id[1 : len(id)-1]
	case c == '"':
		if err := json.Unmarshal(w.EventID, &id); err != nil {
			return "", jsonProblem(err)
		}
	case c != '-' && (c < '0' || c > '9'):
		return "", fmt.Errorf("event_id: found %s, expected a string or a number", excerpt(w.EventID))
	}
	if len(id) > maxEventID {
		return "", fmt.Errorf("event_id: found %d bytes, expected at most %d", len(id), maxEventID)
	}
	return id, nil
}

func (w *wireLine) payloads() ([]json.RawMessage, error) {
	if w.Events == nil {
		payload, err := object("payload", w.Payload)
		if err != nil {
			return nil, err
		}
		return []json.RawMessage{payload}, nil
	}
	if w.Payload != nil {
		return nil, errors.New("found both payload and events, expected one of them")
	}
	payloads := make([]json.RawMessage, len(w.Events))
	for i, event := range w.Events {
		payload, err := object("events/"+strconv.Itoa(i), event)
		if err != nil {
			return nil, err
		}
		payloads[i] = payload
	}
	return payloads, nil
}

func object(key string, value json.RawMessage) (json.RawMessage, error) {
	if absent(value) {
		return json.RawMessage("{}"), nil
	}
	if value[0] != '{' {
		return nil, fmt.Errorf("%s: found %s, expected an object", key, excerpt(value))
	}
	return value, nil
}

func (w *wireLine) position() (json.RawMessage, error) {
	if absent(w.Cursor) {
		return nil, nil
	}
	if len(w.Cursor) > maxCursor {
		return nil, fmt.Errorf("cursor: found %d bytes, expected at most %d", len(w.Cursor), maxCursor)
	}
	return w.Cursor, nil
}

func absent(value json.RawMessage) bool { return len(value) == 0 || string(value) == "null" }

// excerpt shows the beginning of what was found.
func excerpt(data []byte) string {
	const longest = 40 // bytes
	if len(data) == 0 {
		return "nothing"
	}
	if len(data) > longest {
		return strconv.Quote(strings.ToValidUTF8(string(data[:longest]), "")) + "…"
	}
	return strconv.Quote(string(data))
}
