package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// fakeHand has room for some, and notes what it is given.
type fakeHand struct {
	room    int
	ready   []int64
	asked   []int
	took    [][]store.Claimed
	claimed []store.Claimed
}

func (h *fakeHand) Reserve(n int) (store.Claiming, bool) {
	h.asked = append(h.asked, n)
	return store.Claiming{Node: "n", Most: min(n, h.room), Ready: h.ready}, h.room > 0
}

func (h *fakeHand) Take(_ store.Claiming, claimed []store.Claimed) {
	h.took = append(h.took, claimed)
	h.claimed = append(h.claimed, claimed...)
}

// commitFor commits events whose executions the hand may claim.
func commitFor(ctx context.Context, s *store.Store, hand store.Hand, match store.Matcher, events ...store.NewEvent) ([]store.StoredEvent, error) {
	g, err := s.BeginEvents(ctx, events, false, nil)
	if err != nil {
		return nil, err
	}
	g.ClaimFor(hand)
	return g.Commit(ctx, match)
}

// each queues one execution with these parameters for each.
func each(due *time.Time, parameters ...string) store.Matcher {
	return func(_ context.Context, _ int64, events []store.Event) ([][]store.Match, error) {
		m := store.Match{Rule: "a.r", Status: store.EnforcementMatched}
		for item, text := range parameters {
			m.Executions = append(m.Executions, store.NewExecution{
				Action: "a.x", Rule: "a.r", Trigger: "a.t", EventID: events[0].ID, Item: item, Parameters: json.RawMessage(text), RequestedBy: "rule", DueAt: due,
			})
		}
		return [][]store.Match{{m}}, nil
	}
}

// What an event queues is claimed with it as far as a node has room, as any claim would have it; the rest is
// left to those who look, and they are woken for it.
func TestClaimedAsItIsQueued(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := counted(t, url)
	apply(t, s, change("a", action("a", "x"), trigger("a", "t")))
	l := listen(t, s)
	waitListening(t, s, l)
	queue, leave := l.Subscribe(store.ChannelQueue)
	defer leave()
	catalog, err := s.Catalog(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	event := store.NewEvent{Trigger: "a.t", Source: "s"}
	hand := &fakeHand{room: 2, ready: []int64{catalog.Actions["a.x"].RevisionID}}
	stored, err := commitFor(t.Context(), s, hand, each(nil, `{"n":0}`, `{"n":1}`, `{"n":2}`, `{"k":"line"}`), event)
	if err != nil {
		t.Fatal(err)
	}
	next(t, queue, anything)
	want := stored[0].Executions
	if len(hand.claimed) != 2 || !slices.Equal(hand.asked, []int{3}) {
		t.Fatalf("asked for %v, took %+v", hand.asked, hand.took)
	}
	for i, c := range hand.claimed {
		if c.ExecutionID != want[i] || c.EventID != stored[0].ID || c.Rule != "a.r" || !c.Begun || c.Attempt != 1 || c.Record == nil {
			t.Errorf("claimed %+v", c)
		}
		// pgx gives jsonb as PostgreSQL prints it.
		if text := fmt.Sprintf(`{"n": %d}`, i); string(c.Parameters) != text {
			t.Errorf("parameters %s, want %s", c.Parameters, text)
		}
		finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusSucceeded})
		if e, attempts := execution(t, s, c.ExecutionID); e.Status != store.StatusSucceeded || len(attempts) != 1 || attempts[0].Node != "n" {
			t.Errorf("%+v %+v", e, attempts)
		}
	}
	if got := ids(claim(t, s, "m", 9)); !slices.Equal(got, want[2:]) {
		t.Errorf("left were %v, want %v", got, want[2:])
	}
	drain(queue)

	// With room for all nobody is woken.
	hand.room, hand.claimed = 9, nil
	if _, err := commitFor(t.Context(), s, hand, each(nil, `{}`, `{}`), event, event); err == nil {
		t.Error("two events have the matches of one")
	}
	if took := hand.took[len(hand.took)-1]; len(hand.took) != len(hand.asked) || took == nil && len(hand.claimed) > 0 {
		t.Errorf("asked %v, took %v", hand.asked, hand.took)
	}
	if _, err := commitFor(t.Context(), s, hand, each(nil, `{}`, `{}`), event); err != nil || len(hand.claimed) != 2 {
		t.Errorf("claimed %d: %v", len(hand.claimed), err)
	}
	sql(t, s, "SELECT pg_notify('attune_queue', 'mark')")
	if payload := next(t, queue, anything); payload != "mark" {
		t.Errorf("%q came, although nothing is left for others", payload)
	}
}

// Plain matches of several events, of which the hand has room for some.
func TestPlainMatchesAreClaimedInTheirOrder(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "x"), trigger("a", "t")))
	hand := &fakeHand{room: 2}
	var events []store.NewEvent
	for n := range 3 {
		events = append(events, store.NewEvent{Trigger: "a.t", Source: "s", Payload: fmt.Appendf(nil, `{"n": %d}`, n)})
	}
	stored, err := commitFor(t.Context(), s, hand, matchAll("a.x", 1), events...)
	if err != nil || len(hand.claimed) != 2 {
		t.Fatalf("claimed %+v: %v", hand.claimed, err)
	}
	for i, c := range append(hand.claimed, claim(t, s, "m", 9)...) {
		e, _ := execution(t, s, c.ExecutionID)
		if c.ExecutionID != stored[i].Executions[0] || c.EventID != stored[i].ID || string(c.Parameters) != fmt.Sprintf(`{"n": %d}`, i) || *e.EventID != c.EventID || e.Status != store.StatusRunning {
			t.Errorf("claimed %+v as number %d, it is %+v", c, i, e)
		}
	}
}

// What is not due is nobody's, and the hand is not asked for it.
func TestNothingToClaimAsItIsQueued(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x", limited(1, "")), trigger("a", "t")))
	event := store.NewEvent{Trigger: "a.t", Source: "s"}
	hand := &fakeHand{room: 9}
	if _, err := commitFor(t.Context(), s, hand, each(new(time.Now().Add(time.Hour)), `{}`), event); err != nil {
		t.Error(err)
	}
	if _, err := commitFor(t.Context(), s, hand, each(nil, `{"k":"a"}`, `{"k":"a"}`), event); err != nil {
		t.Error(err)
	}
	if _, err := commitFor(t.Context(), s, hand, nil, event); err != nil {
		t.Error(err)
	}
	if len(hand.asked) > 0 || len(hand.took) > 0 {
		t.Errorf("asked %v, took %v", hand.asked, hand.took)
	}
	if n := len(claim(t, s, "m", 1)); n != 1 {
		t.Errorf("%d got a place", n)
	}

	// Of very many it would be few.
	if _, err := commitFor(t.Context(), s, hand, each(nil, slices.Repeat([]string{`{}`}, 65)...), event); err != nil || len(hand.asked) > 0 {
		t.Errorf("asked %v: %v", hand.asked, err)
	}

	// While all is paused nothing is claimed, and the room is given back.
	if _, _, err := s.Pause(t.Context(), "ada", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := commitFor(t.Context(), s, hand, each(nil, `{}`), event); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([][]store.Claimed{{}}, hand.took); diff != "" {
		t.Error(diff)
	}
}

// A rollback leaves nothing claimed. Of a commit that lost its answer and was done, nobody may know what was
// claimed: then the node has it, and finds at its renewals that nobody runs it.
func TestClaimsOfLostCommits(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after=%v", after), func(t *testing.T) {
			t.Parallel()
			direct := storetest.NewURL(t)
			proxy := newProxy(t, direct)
			s := storetest.Open(t, proxy.url)
			hand := &fakeHand{room: 9}
			match := func(ctx context.Context, generation int64, events []store.Event) ([][]store.Match, error) {
				proxy.cutAtCommit(after)
				return each(nil, `{}`)(ctx, generation, events)
			}
			_, err := commitFor(t.Context(), s, hand, match, store.NewEvent{Trigger: "a.t", Source: "s"})
			if len(hand.took) != 1 || len(hand.claimed) > 0 || (err == nil) != after {
				t.Fatalf("took %+v: %v", hand.took, err)
			}
			renewal, err := s.Renew(t.Context(), "n")
			if err != nil || len(renewal.Held) == 1 != after {
				t.Fatalf("held %+v: %v", renewal, err)
			}
			if err := s.Release(t.Context(), renewal.Held); err != nil {
				t.Fatal(err)
			}
			if n := len(claim(t, s, "m", 9)); n == 1 != after {
				t.Errorf("claimed %d", n)
			}
		})
	}
	s := storetest.New(t)
	hand := &fakeHand{room: 9}
	// Refused at last, when what was claimed is known already.
	lost := store.NewEvent{Trigger: "a.t", Source: "a.s", Lease: uuid.NewString()}
	if _, err := commitFor(t.Context(), s, hand, each(nil, `{}`), lost); err == nil || len(hand.took) != 1 || len(hand.claimed) > 0 {
		t.Errorf("took %+v: %v", hand.took, err)
	}
	refuse := func(context.Context, int64, []store.Event) ([][]store.Match, error) { return nil, errors.New("no") }
	if _, err := commitFor(t.Context(), s, hand, refuse, store.NewEvent{Trigger: "a.t", Source: "s"}); err == nil || len(hand.took) != len(hand.asked) {
		t.Errorf("asked %v, took %v: %v", hand.asked, hand.took, err)
	}
}

// What is claimed as it is queued is what a claim right after it would have made of it, in the answer and in the row.
func TestClaimedAsItIsQueuedIsAsClaimedLater(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	hour := func(a *manifest.Action) { a.Expires = manifest.Duration(time.Hour) }
	apply(t, s, change("a", action("a", "x", limited(1, "")), action("a", "late", hour), action("a", "off"), trigger("a", "t")))
	apply(t, s, change("b", action("b", "elsewhere")))
	sql(t, s, "UPDATE attune.action SET disabled_by = 'ada', disabled_at = now() WHERE ref = 'a.off'")
	catalog, err := s.Catalog(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ready := []int64{catalog.Actions["a.x"].RevisionID}
	before, day, second := new(time.Now().Add(-2*time.Hour)), new(time.Now().Add(24*time.Hour)), new(time.Now().Add(-time.Second))
	manifestText, err := manifest.Encode(action("a", "late"))
	if err != nil {
		t.Fatal(err)
	}
	former := &store.Former{RevisionID: ready[0], Manifest: manifestText}
	type pair struct {
		Claimed store.Claimed
		Row     string
	}
	// last gives what was claimed last, without what must differ.
	last := func(claimed []store.Claimed) (p pair) {
		t.Helper()
		if len(claimed) > 1 {
			t.Fatalf("claimed %+v", claimed)
		}
		if len(claimed) == 1 {
			p.Claimed = claimed[0]
			if id, err := uuid.Parse(p.Claimed.Token); err != nil || fmt.Sprintf("%x", id[:8]) != fmt.Sprintf("%016x", p.Claimed.ExecutionID) {
				t.Errorf("token %s of execution %d: %v", p.Claimed.Token, p.Claimed.ExecutionID, err)
			}
		}
		p.Claimed.ExecutionID, p.Claimed.Token, p.Claimed.EventID = 0, "", 0
		p.Claimed.CreatedAt, p.Claimed.QueuedAt = time.Time{}, time.Time{}
		p.Row = one[string](t, s, `
			SELECT (to_jsonb(queue)
				- ARRAY['execution_id', 'event_id', 'enforcement_id', 'created_at', 'due_at', 'token', 'claimed_at', 'lease_until', 'started_at']
				|| jsonb_build_object(
					'token', token IS NOT NULL, 'lease', lease_until - claimed_at, 'claimed', claimed_at >= created_at,
					'started', started_at >= claimed_at, 'due', due_at > now()
				))::text
			FROM attune.queue
			ORDER BY execution_id DESC
			LIMIT 1`)
		sql(t, s, "DELETE FROM attune.queue")
		return p
	}
	for name, e := range map[string]store.NewExecution{
		"plain":                {Action: "a.late", Priority: 3, Timeout: time.Minute, Secrets: map[string]string{"/token": "name"}, Retry: &manifest.Retry{MaxAttempts: 2}},
		"known":                {Action: "a.late"},
		"prior":                {Action: "a.late", Priority: 7},
		"expired":              {Action: "a.late", DueAt: before},
		"due a moment ago":     {Action: "a.late", DueAt: second},
		"scheduled":            {Action: "a.late", DueAt: day},
		"switched off":         {Action: "a.off"},
		"of a former revision": {Action: "a.late", Former: former},
		"unknown action":       {Action: "a.none"},
		"files not in place":   {Action: "b.elsewhere"},
		"while all is paused":  {Action: "a.late"},
		"files and parameters": {Action: "a.late", Parameters: json.RawMessage(`{"n":1}`)},
	} {
		if e.Parameters == nil {
			e.Parameters = json.RawMessage(`{}`)
		}
		e.Rule, e.Trigger, e.RequestedBy = "a.r", "a.t", "rule"
		match := func(_ context.Context, _ int64, events []store.Event) ([][]store.Match, error) {
			e.EventID = events[0].ID
			return [][]store.Match{{{Rule: "a.r", Status: store.EnforcementMatched, Executions: []store.NewExecution{e}}}}, nil
		}
		paused := name == "while all is paused"
		if paused {
			if _, _, err := s.Pause(t.Context(), "ada", ""); err != nil {
				t.Fatal(err)
			}
		}
		event := store.NewEvent{Trigger: "a.t", Source: "s"}
		hand := &fakeHand{room: 1, ready: ready}
		if _, err := commitFor(t.Context(), s, hand, match, event); err != nil {
			t.Fatal(err)
		}
		atOnce := last(hand.claimed)
		if _, err := commitFor(t.Context(), s, nil, match, event); err != nil {
			t.Fatal(err)
		}
		claimed, err := s.Claim(t.Context(), "n", 1, ready...)
		if err != nil {
			t.Fatal(err)
		}
		later := last(claimed)
		if diff := cmp.Diff(later, atOnce, cmp.AllowUnexported(store.Claimed{})); diff != "" {
			t.Errorf("%s: claimed at once is not as claimed later:\n%s", name, diff)
		}
		if paused {
			if _, err := s.Resume(t.Context(), "ada"); err != nil {
				t.Fatal(err)
			}
		}
	}

	// What is counted has to stand in line, also before one that is claimed.
	hand := &fakeHand{room: 1, ready: ready}
	stored, err := commitFor(t.Context(), s, hand, each(nil, `{"k":"line"}`, `{}`), store.NewEvent{Trigger: "a.t", Source: "s"})
	if err != nil || !slices.Equal(ids(hand.claimed), stored[0].Executions[1:]) {
		t.Errorf("claimed %v of %v: %v", ids(hand.claimed), stored[0].Executions, err)
	}

	// An action that was edited is sent anew.
	for _, timeout := range []manifest.Duration{1, 2} {
		edited := action("a", "x", func(a *manifest.Action) { a.Timeout = timeout * manifest.Duration(time.Second) })
		apply(t, s, change("a", edited, action("a", "late", hour), trigger("a", "t")))
		hand := &fakeHand{room: 1, ready: ready}
		if _, err := commitFor(t.Context(), s, hand, each(nil, `{}`), store.NewEvent{Trigger: "a.t", Source: "s"}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(edited.Timeout, hand.claimed[0].Record.Spec.(*manifest.Action).Timeout); diff != "" {
			t.Error(diff)
		}
	}
}
