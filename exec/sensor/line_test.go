package sensor

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/store"
)

func one() *source {
	return &source{ref: "p.s", pack: "p", triggers: []string{"p.t"}}
}

func two() *source {
	return &source{ref: "p.s", pack: "p", triggers: []string{"p.t", "q.u"}}
}

func TestLines(t *testing.T) {
	t.Parallel()
	due := time.Date(2026, 1, 31, 13, 45, 0, 500_000_000, time.UTC)
	event := func(change func(*store.NewEvent)) *message {
		e := store.NewEvent{Trigger: "p.t", Source: "p.s", Payload: json.RawMessage("{}")}
		change(&e)
		return &message{events: []store.NewEvent{e}, ack: e.EventID}
	}
	same := func(*store.NewEvent) {}
	tests := []struct {
		name, line string
		src        *source
		want       *message
		err        string
	}{
		{name: "payload", line: `{"payload":{"a":1}}`, src: one(), want: event(func(e *store.NewEvent) { e.Payload = json.RawMessage(`{"a":1}`) })},
		{name: "trigger", line: `{"trigger":"p.t"}`, src: two(), want: event(same)},
		{name: "trigger_ref", line: `{"trigger_ref":"p.t"}`, src: two(), want: event(same)},
		{name: "trigger_type", line: `{"trigger_type":"p.t","payload":null}`, src: two(), want: event(same)},
		{name: "trigger of its own pack", line: `{"trigger":"t"}`, src: two(), want: event(same)},
		{name: "the same twice", line: `{"trigger":"p.t","trigger_ref":"p.t"}`, src: two(), want: event(same)},
		{name: "carriage return", line: "{\"payload\":{}}\r", src: one(), want: event(same)},
		{name: "unknown keys beside known ones", line: `{"payload":{},"color":"red"}`, src: one(), want: event(same)},
		{name: "instance", line: `{"trigger":"p.t","instance":"p.t#1"}`, src: two(), want: event(func(e *store.NewEvent) { e.Instance = "p.t#1" })},
		{name: "trigger_instance_id names the trigger too", line: `{"trigger_instance_id":"p.t#1"}`, src: two(), want: event(func(e *store.NewEvent) { e.Instance = "p.t#1" })},
		{name: "event_id", line: `{"event_id":"x\u00e4","payload":{}}`, src: one(), want: event(func(e *store.NewEvent) { e.EventID = "xä" })},
		{name: "event_id as a number", line: `{"event_id":12345678901234567890}`, src: one(), want: event(func(e *store.NewEvent) { e.EventID = "12345678901234567890" })},
		{name: "cursor", line: `{"payload":{},"cursor":{"at":7}}`, src: one(), want: event(func(e *store.NewEvent) { e.Cursor = json.RawMessage(`{"at":7}`) })},
		{name: "due", line: `{"payload":{},"due":"2026-01-31T14:45:00.5+01:00"}`, src: one(), want: event(func(e *store.NewEvent) { e.Due = &due })},
		{
			name: "events", line: `{"events":[{"n":1},{"n":2}],"event_id":"e","cursor":2}`, src: one(),
			want: &message{ack: "e", events: []store.NewEvent{
				{Trigger: "p.t", Source: "p.s", EventID: "e#0", Payload: json.RawMessage(`{"n":1}`)},
				{Trigger: "p.t", Source: "p.s", EventID: "e#1", Payload: json.RawMessage(`{"n":2}`), Cursor: json.RawMessage(`2`)},
			}},
		},
		{name: "no events", line: `{"events":[]}`, src: one(), want: &message{events: []store.NewEvent{}}},
		{name: "no events, but a cursor", line: `{"events":[],"cursor":3}`, src: one(), want: &message{control: typeCursor, cursor: json.RawMessage("3")}},
		{name: "heartbeat", line: `{"type":"heartbeat"}`, src: two(), want: &message{control: typeHeartbeat}},
		{name: "forbidden address", line: `{"type":"blocked"}`, src: two(), want: &message{control: typeBlocked}},
		{name: "cursor line", line: `{"type":"cursor","cursor":"abc"}`, src: two(), want: &message{control: typeCursor, cursor: json.RawMessage(`"abc"`)}},
		{name: "cursor alone", line: `{"cursor":"abc"}`, src: two(), want: &message{control: typeCursor, cursor: json.RawMessage(`"abc"`)}},

		{name: "text", line: `starting up`, src: one(), err: `found "starting up", expected a JSON object; what is for people goes to stderr`},
		{name: "list", line: `[1]`, src: one(), err: `found "[1]", expected a JSON object`},
		{name: "cut off", line: `{"payload":{"a`, src: one(), err: `not JSON: unexpected end of JSON input at byte 14`},
		{name: "two objects", line: `{} {}`, src: one(), err: `not JSON: invalid character '{' after top-level value`},
		{name: "not UTF-8", line: "{\"payload\":{\"a\":\"\xff\"}}", src: one(), err: "not UTF-8"},
		{name: "deep", line: `{"payload":` + strings.Repeat("[", 20_000), src: one(), err: `not JSON: invalid character '[' exceeded max depth`},
		{name: "a payload alone", line: `{"temperature":21}`, src: one(), err: `no key of an event; write {"payload": {…}} around it`},
		{name: "nothing, of several triggers", line: `{}`, src: two(), err: `no key of an event; write {"trigger": "…", "payload": {…}}`},
		{name: "unknown type", line: `{"type":"alarm","payload":{}}`, src: one(), err: `type: found "alarm", expected "heartbeat", "cursor" or "blocked"`},
		{name: "cursor line without one", line: `{"type":"cursor"}`, src: one(), err: `a line of type "cursor" without a cursor`},
		{name: "payload of another type", line: `{"payload":[1]}`, src: one(), err: `payload: found "[1]", expected an object`},
		{name: "an event of another type", line: `{"events":[{},7]}`, src: one(), err: `events/1: found "7", expected an object`},
		{name: "events of another type", line: `{"events":{}}`, src: one(), err: `events: found object, expected a list`},
		{name: "both", line: `{"events":[],"payload":{}}`, src: one(), err: `found both payload and events`},
		{name: "no trigger", line: `{"payload":{}}`, src: two(), err: `no trigger, expected one of p.t, q.u`},
		{name: "foreign trigger", line: `{"trigger":"core.intervaltimer"}`, src: two(), err: `trigger: found "core.intervaltimer", expected one of its trigger_types: p.t, q.u`},
		{name: "two triggers", line: `{"trigger":"p.t","trigger_ref":"q.u"}`, src: two(), err: `trigger: found both "p.t" and "q.u"`},
		{name: "trigger of another type", line: `{"trigger":7}`, src: two(), err: `trigger: found number, expected a string`},
		{name: "foreign instance", line: `{"trigger":"p.t","instance":"q.u#1"}`, src: two(), err: `instance: found "q.u#1", expected one of trigger p.t`},
		{name: "event_id of another type", line: `{"event_id":{"a":1}}`, src: one(), err: `event_id: found "{\"a\":1}", expected a string or a number`},
		{name: "long event_id", line: `{"event_id":"` + strings.Repeat("x", 600) + `"}`, src: one(), err: `event_id: found 600 bytes, expected at most 512`},
		{name: "long cursor", line: `{"payload":{},"cursor":"` + strings.Repeat("x", maxCursor) + `"}`, src: one(), err: `cursor: found 65538 bytes, expected at most 65536`},
		{name: "bad due", line: `{"payload":{},"due":"tomorrow"}`, src: one(), err: `due: found "tomorrow", expected a time like 2026-01-31T13:45:00Z`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseLine([]byte(test.line), test.src)
			if test.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), test.err) {
					t.Fatalf("got error %v, want %s", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(message{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestLinesKeepNothing proves that a reader may use its buffer again.
func TestLinesKeepNothing(t *testing.T) {
	t.Parallel()
	data := []byte(`{"payload":{"a":"bbbb"},"cursor":"cccc","event_id":"dddd"}`)
	m, err := parseLine(data, one())
	if err != nil {
		t.Fatal(err)
	}
	clear(data)
	e := m.events[0]
	if string(e.Payload) != `{"a":"bbbb"}` || string(e.Cursor) != `"cccc"` || e.EventID != "dddd" {
		t.Errorf("the message changed with the buffer: %+v", e)
	}
}

// What nearly all lines are is read by us, to the same end as json.Unmarshal; what is unusual is left to that.
func TestPlainLines(t *testing.T) {
	t.Parallel()
	for line, plain := range map[string]bool{
		`{"trigger":"p.t","payload":{"a":1}}`:                                                  true,
		` { "trigger" : "t" , "payload" : { "a" : [ 1 ] } , "event_id" : "x" , "cursor" : 7} `: true,
		`{"event_id":12,"instance":"p.t#1","due":"2026-01-31T13:45:00Z"}`:                      true,
		`{"payload":null,"cursor":null}`:                                                       true,
		`{"trigger":"","payload":{}}`:                                                          true,
		`{"payload":{},"payload":{"a":1}}`:                                                     false,
		`{"trigger":"p.t","trigger":"q.u"}`:                                                    false,
		`{"Trigger":"p.t"}`:                                                                    false,
		`{"trigger":"p\u002et"}`:                                                               false,
		`{"trigger":null,"payload":{}}`:                                                        false,
		`{"trigger":7}`:                                                                        false,
		`{"cursor":7}`:                                                                         false,
		`{"type":"heartbeat"}`:                                                                 false,
		`{"payload":{},"color":"red"}`:                                                         false,
		`{"payload":{"a":1e400}}`:                                                              false,
	} {
		var quick, thorough wireLine
		if got := quick.readPlain([]byte(line), two()); got != plain {
			t.Errorf("%s: plain %v, want %v", line, got, plain)
		}
		if err := json.Unmarshal([]byte(line), &thorough); plain && err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if diff := cmp.Diff(thorough, quick); plain && diff != "" {
			t.Errorf("%s: %s", line, diff)
		}
	}
}

func FuzzIngestLine(f *testing.F) {
	for _, seed := range []string{
		`{"payload":{"a":1}}`, `{"events":[{},{}],"event_id":"e","cursor":[1]}`, `{"type":"heartbeat"}`,
		`{"type":"cursor","cursor":1}`, `{"trigger":"t","due":"2026-01-31T13:45:00Z"}`, `{"event_id":-1e9}`,
		`{"instance":"p.t#0"}`, `{"payload":{"a":"\u0000\ud800"}}`, "", "{", "null", "{\"cursor\":null}",
	} {
		f.Add(seed)
	}
	src := two()
	f.Fuzz(func(t *testing.T, line string) {
		var quick, thorough wireLine
		if quick.readPlain([]byte(line), src) {
			if err := json.Unmarshal([]byte(line), &thorough); err != nil {
				t.Fatalf("it is taken for plain: %v", err)
			}
			if diff := cmp.Diff(thorough, quick); diff != "" {
				t.Fatal(diff)
			}
		}
		m, err := parseLine([]byte(line), src)
		if err != nil {
			if m != nil {
				t.Fatal("a message and an error")
			}
			return
		}
		if m.control != "" && len(m.events) > 0 {
			t.Fatal("control with events")
		}
		for _, e := range m.events {
			if e.Trigger != "p.t" && e.Trigger != "q.u" {
				t.Fatalf("an event of %q", e.Trigger)
			}
			if !json.Valid(e.Payload) || e.Payload[0] != '{' {
				t.Fatalf("payload %q is no object", e.Payload)
			}
			if e.Cursor != nil && !json.Valid(e.Cursor) {
				t.Fatalf("cursor %q is no JSON", e.Cursor)
			}
			if e.Source != "p.s" || len(e.EventID) > maxEventID+len("#999999") {
				t.Fatalf("source %q, event_id %q", e.Source, e.EventID)
			}
		}
	})
}
