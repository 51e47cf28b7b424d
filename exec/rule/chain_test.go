package rule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/reconcile/store"
)

// feeding are a rule that feeds itself, and one that is not concerned.
const feeding = `
-- core/pack.yaml --
ref: core
version: 1.0.0
-- core/actions/echo.sh --
-- core/actions/echo.yaml --
name: echo
parameters: {message: {type: string}}
-- core/triggers/execution_finished.yaml --
name: execution_finished
-- core/rules/again.yaml --
trigger: execution_finished
action: {ref: echo, parameters: {message: "after {{ event.payload.execution_id }}"}}
-- core/rules/failed.yaml --
trigger: execution_finished
when: event.payload.status == "failed"
action: echo
`

// A rule that feeds itself is stopped after as many executions as a chain may have, and says so; who
// begins anew has as many again.
func TestChainsEnd(t *testing.T) {
	t.Parallel()
	const limit = 4
	h := newHouse(t)
	h.apply(t, feeding)
	registry := prometheus.NewRegistry()
	i := New(Options{Store: h.Store, Catalogs: h, Chain: limit, Logger: quiet(), Registerer: registry})
	h.run(t, i)
	told := make(chan string, 1)
	relay := NewRelay(h, i, told, quiet())
	pass := func() {
		t.Helper()
		if _, err := relay.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// runAll ends whatever waits, as the worker would.
	runAll := func() (ended int) {
		t.Helper()
		claimed, err := h.Claim(t.Context(), "n", 100)
		if err != nil {
			t.Fatal(err)
		}
		var outcomes []store.Outcome
		var tokens []string
		for _, c := range claimed {
			tokens = append(tokens, c.Token)
			outcomes = append(outcomes, store.Outcome{Token: c.Token, Status: store.StatusSucceeded})
		}
		if _, err := h.Start(t.Context(), tokens); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Finish(t.Context(), outcomes); err != nil {
			t.Fatal(err)
		}
		return len(claimed)
	}
	for round := range 2 {
		if _, err := h.Enqueue(t.Context(), []store.NewExecution{{Action: "core.echo", RequestedBy: "ada"}}); err != nil {
			t.Fatal(err)
		}
		executions := 0
		for range 3 * limit {
			executions += runAll()
			pass()
		}
		if executions != limit {
			t.Errorf("round %d: a chain of %d executions, want %d", round, executions, limit)
		}
	}
	events, err := h.ListEvents(t.Context(), store.EventFilter{})
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != 2*limit || events[0].Depth != limit || events[0].Source != "attune" || events[len(events)-1].Depth != 1 {
		t.Fatalf("%d events, the last of depth %d from %s", len(events), events[0].Depth, events[0].Source)
	}
	_, enforcements, err := h.Event(t.Context(), events[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(enforcements) != 1 || enforcements[0].Status != store.EnforcementSkipped || enforcements[0].Rule != "core.again" ||
		!strings.Contains(enforcements[0].Error, "a chain of 4 executions") || !strings.Contains(enforcements[0].Error, "core.again") {
		t.Errorf("the last link: %+v", enforcements)
	}
	if n := testutil.ToFloat64(i.metrics.stopped.WithLabelValues("core.again")); n != 2 {
		t.Errorf("counted %v chains that were stopped, want 2", n)
	}
}

// relayed stand for the store and the intake of a relay.
type relayed struct {
	mu      sync.Mutex
	notices []store.Notice
	dropped []int64
	away    error
	fate    func(store.NewEvent) error // nil: it is stored
	full    error                      // of SubmitAsync itself
	events  []string
}

func (r *relayed) TakeNotices(context.Context, int64, bool, int) ([]store.Notice, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.notices
	if r.away == nil {
		r.notices = nil
	}
	return taken, r.away
}

func (r *relayed) DropNotices(_ context.Context, ids []int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropped = append(r.dropped, ids...)
	return nil
}

func (r *relayed) SubmitAsync(_ context.Context, e store.NewEvent, done func(store.StoredEvent, error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full != nil {
		return r.full
	}
	r.events = append(r.events, fmt.Sprintf("%s %s %d", e.EventID, e.Source, e.Depth))
	var err error
	if r.fate != nil {
		err = r.fate(e)
	}
	go done(store.StoredEvent{}, err)
	return nil
}

// What is stored, or refused for good, is forgotten; everything else is left for whoever comes next.
func TestRelay(t *testing.T) {
	t.Parallel()
	notice := func(id int64) store.Notice {
		return store.Notice{ID: id, Trigger: "core.x", EventID: fmt.Sprint("n", id), Depth: int(id), Payload: json.RawMessage("{}")}
	}
	synctest.Test(t, func(t *testing.T) {
		r := &relayed{notices: []store.Notice{notice(1), notice(2), notice(3)}}
		r.fate = func(e store.NewEvent) error {
			return map[string]error{"n2": ErrUnknownTrigger, "n3": fmt.Errorf("cannot: %w", ErrClosed)}[e.EventID]
		}
		ctx, cancel := context.WithCancel(t.Context())
		told := make(chan string, 1)
		ended := make(chan error)
		go func() { ended <- NewRelay(r, r, told, quiet()).Run(ctx) }()
		dropped := func(want string) {
			t.Helper()
			synctest.Wait()
			r.mu.Lock()
			defer r.mu.Unlock()
			ids := map[int64]bool{}
			for _, id := range r.dropped {
				ids[id] = true
			}
			if have := fmt.Sprint(ids); have != want {
				t.Errorf("forgot %s, want %s", have, want)
			}
		}
		dropped("map[1:true 2:true]")
		if r.events[0] != "n1 attune 1" {
			t.Errorf("handed on %q", r.events)
		}
		r.mu.Lock()
		r.notices = []store.Notice{notice(4)}
		r.mu.Unlock()
		dropped("map[1:true 2:true]") // nobody told
		told <- ""
		dropped("map[1:true 2:true 4:true]")
		// It looks by itself as well, and waits for a database that is away.
		r.mu.Lock()
		r.notices, r.away = []store.Notice{notice(5)}, errors.New("away")
		r.mu.Unlock()
		time.Sleep(relayPeriod) //nolint:forbidigo // of a bubble
		dropped("map[1:true 2:true 4:true]")
		r.mu.Lock()
		r.away = nil
		r.mu.Unlock()
		time.Sleep(relayPeriod) //nolint:forbidigo // of a bubble
		dropped("map[1:true 2:true 4:true 5:true]")
		// An intake that takes nothing loses nothing.
		r.mu.Lock()
		r.full, r.notices = ErrClosed, []store.Notice{notice(6)}
		r.mu.Unlock()
		told <- ""
		dropped("map[1:true 2:true 4:true 5:true]")
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
