package store_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// look says what an ExecutionTrack tells, each as "place in ids: status".
func look(t *testing.T, track *store.ExecutionTrack, ids *[]int64, ended ...string) string {
	t.Helper()
	changed, lost, _, err := track.Look(t.Context(), ended)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, e := range changed {
		said = append(said, fmt.Sprintf("%d: %s", slices.Index(*ids, e.ID), e.Status))
	}
	if lost {
		said = append(said, "lost")
	}
	return strings.Join(said, ", ")
}

// Each change of an execution is told once, by whatever way it is found out.
func TestExecutionTrack(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "x")))
	ids := enqueue(t, s, times(2, store.NewExecution{Action: "a.x"})...)
	track, err := s.TrackExecutions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	step := func(what, want string, ended ...string) {
		t.Helper()
		if got := look(t, track, &ids, ended...); got != want {
			t.Errorf("%s: told %q, want %q", what, got, want)
		}
	}
	step("nothing happened", "")
	claimed := claim(t, s, "n", 1)
	step("claimed", "0: running")
	start(t, s, claimed...)
	finish(t, s, store.Outcome{Token: claimed[0].Token, Status: store.StatusSucceeded})
	step("ended, and nobody has said so", "0: succeeded")
	step("now it is said", "", fmt.Sprint(ids[0]))
	ids = append(ids, enqueue(t, s, store.NewExecution{Action: "a.x"})...)
	step("queued", "2: requested")
	if _, err := s.Cancel(t.Context(), ids[1], "alice"); err != nil {
		t.Fatal(err)
	}
	step("ended before it ran, and said", "1: cancelled", fmt.Sprint(ids[1]))
	if _, err := s.Cancel(t.Context(), ids[2], "alice"); err != nil {
		t.Fatal(err)
	}
	step("nobody has said so", "")
	step("many have ended", "2: cancelled", "")
}

// A row whose transaction commits after later ones is not passed over.
func TestTracksWaitForLateCommits(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "x"), trigger("a", "t")))
	executions, err := s.TrackExecutions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	events, err := s.TrackEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	late, err := s.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Rollback(context.Background()) }() // done already, where nothing failed
	var execution, event int64
	const draw = "SELECT nextval('attune.execution_id'), nextval('attune.event_id')"
	if err := late.QueryRow(t.Context(), draw).Scan(&execution, &event); err != nil {
		t.Fatal(err)
	}
	ids := append([]int64{execution}, enqueue(t, s, store.NewExecution{Action: "a.x"})...)
	stored := commit(t, s, matchAll("a.x", 0), store.NewEvent{Trigger: "a.t", Source: "api", Payload: []byte(`{}`)})
	if got := look(t, executions, &ids); got != "1: requested" {
		t.Errorf("told %q", got)
	}
	if got := eventsCame(t, events); !slices.Equal(got, []int64{stored[0].ID}) {
		t.Errorf("told of events %v, want %d", got, stored[0].ID)
	}
	for text, id := range map[string]int64{
		"INSERT INTO attune.event (id, trigger_ref, source, payload) VALUES ($1, 'a.t', 'api', '{}')":                                                            event,
		"INSERT INTO attune.execution (id, action_ref, pack_ref, status, attempt, finished_at, parameters) VALUES ($1, 'a.x', 'a', 'succeeded', 1, now(), '{}')": execution,
	} {
		if _, err := late.Exec(t.Context(), text, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := look(t, executions, &ids); got != "0: succeeded" {
		t.Errorf("after the late commit: told %q", got)
	}
	if got := eventsCame(t, events); !slices.Equal(got, []int64{event}) {
		t.Errorf("after the late commit: told of events %v, want %d", got, event)
	}
	if got := eventsCame(t, events); len(got) > 0 {
		t.Errorf("told again of events %v", got)
	}
}

func eventsCame(t *testing.T, track *store.EventTrack) []int64 {
	t.Helper()
	came, _, err := track.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []int64
	for _, e := range came {
		ids = append(ids, e.ID)
	}
	return ids
}
