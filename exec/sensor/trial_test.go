package sensor

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// TestTrial runs a sensor beside itself: with its cursor and acknowledgements, and without a trace in the
// Sink, the cursors, and what is told of the sensor.
func TestTrial(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("s", "1", `
echo hello >&2
echo "{\"payload\":{\"cursor\":${ATTUNE_SENSOR_CURSOR:-0}},\"event_id\":\"a\",\"cursor\":8}"
read -r ack
echo nonsense
echo '{"type":"cursor","cursor":9}'
echo "{\"payload\":{\"ack\":$ack}}"
exec sleep 999`, func(m *manifest.Sensor, _ map[string]string) { m.Ack = true })
	pid := y.running("s")
	stored := len(y.sink.payloads(t, 2)) // the cursor between them is kept
	until(t, "both counted", func() bool { return y.info("s").Events == int64(stored) })
	y.mu.Lock()
	y.cursors["p.s"] = json.RawMessage(`{"at":7}`)
	y.mu.Unlock()

	ctx, enough := context.WithCancel(t.Context())
	defer enough()
	var events, cursors, logs, notes []string
	tried := 0
	check := func() {
		if len(events) == 2 && len(logs) == 1 {
			enough()
		}
	}
	exit, err := y.Try(ctx, "p.s", Trial{
		Started: func(pid int, _ string) { tried = pid },
		Event:   func(e store.NewEvent) { events = append(events, string(e.Payload)+string(e.Cursor)); check() },
		Cursor:  func(c json.RawMessage) { cursors = append(cursors, string(c)) },
		Log:     func(line string) { logs = append(logs, line); check() },
		Note:    func(text string) { notes = append(notes, text) },
	})
	if err != nil || exit.Signal == "" {
		t.Errorf("it ended with %v, %v, want a signal", exit, err)
	}
	if want := []string{`{"cursor":{"at":7}}8`, `{"ack":{"ack":"a"}}`}; !slices.Equal(events, want) {
		t.Errorf("events are %v, want %v", events, want)
	}
	if !slices.Equal(cursors, []string{"9"}) || !slices.Equal(logs, []string{"hello"}) {
		t.Errorf("cursors are %v, the log is %v", cursors, logs)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "nonsense") {
		t.Errorf("notes are %q", notes)
	}
	if tried == 0 || tried == pid || y.running("s") != pid {
		t.Errorf("tried was %d, supervised is %d, before it %d", tried, y.running("s"), pid)
	}
	if now := len(y.sink.payloads(t, 2)); now != stored {
		t.Errorf("%d events are stored, %d were before", now, stored)
	}
	y.mu.Lock()
	if kept := string(y.cursors["p.s"]); kept != `{"at":7}` {
		t.Errorf("the cursor has become %s", kept)
	}
	y.mu.Unlock()
	if info := y.info("s"); info.Events != int64(stored) {
		t.Errorf("%d events are counted for the sensor, want %d", info.Events, stored)
	}
}

func TestTrialOfWhatEnds(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("s", "1", `echo last words >&2; printf '{"payload":{}}'; exit 3`)
	var logs []string
	events := 0
	nothing := Trial{
		Started: func(int, string) {}, Event: func(store.NewEvent) { events++ }, Cursor: func(json.RawMessage) {},
		Log: func(line string) { logs = append(logs, line) }, Note: func(string) {},
	}
	y.reaches("s", StateBackoff)
	exit, err := y.Try(t.Context(), "p.s", nothing)
	if err != nil || exit.Code != 3 || events != 1 || !slices.Equal(logs, []string{"last words"}) {
		t.Errorf("exit %v, %v; %d events, log %v", exit, err, events, logs)
	}
	if exit, err := y.Try(t.Context(), "p.none", nothing); !errors.Is(err, ErrUnknown) || exit != (child.Exit{}) {
		t.Errorf("one that is not there gives %v, %v", exit, err)
	}
}
