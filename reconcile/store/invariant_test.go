package store_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// Each invariant is seen to be broken by what breaks it, and by nothing else.
func TestInvariantsAreSeenToBreak(t *testing.T) {
	t.Parallel()
	breaks := map[string]string{
		"an execution is in the queue until it ends, and in the history then": "INSERT INTO attune.execution (id, action_ref, pack_ref, status, finished_at, parameters) SELECT execution_id, action_ref, pack_ref, 'cancelled', now(), '{}' FROM attune.queue WHERE attempt = 0",
		"what an enforcement asked for is kept":                               "DELETE FROM attune.execution WHERE enforcement_id IS NOT NULL",
		"an end and its time come together":                                   "UPDATE attune.execution SET finished_at = NULL WHERE status = 'cancelled'",
		"an attempt that is told of has ended":                                "UPDATE attune.attempt SET finished_at = NULL",
		"what a row of the queue says fits together":                          "UPDATE attune.queue SET spared = attempt + 1",
		"an attempt has one outcome":                                          "INSERT INTO attune.attempt SELECT execution_id, created_at + INTERVAL '1 microsecond', number, token, status, node, revision, queued_at, started_at, finished_at FROM attune.attempt WHERE status = 'succeeded'",
		"attempts are counted without a gap":                                  "UPDATE attune.execution SET attempt = attempt + 1 WHERE status = 'cancelled'",
		"an execution ends as its last attempt did":                           "UPDATE attune.attempt SET status = 'failed' WHERE status = 'succeeded'",
		"a place of an enforcement has one execution":                         "INSERT INTO attune.execution SELECT (jsonb_populate_record(execution, jsonb_build_object('id', 424242, 'created_at', created_at + INTERVAL '1 microsecond'))).* FROM attune.execution WHERE status = 'succeeded'",
		"an event has one enforcement for each rule":                          "INSERT INTO attune.enforcement (event_id, rule_ref, status) SELECT event_id, rule_ref, 'skipped' FROM attune.enforcement",
		"an execution that a rule asked for has its enforcement":              "UPDATE attune.enforcement SET status = 'skipped'",
		"an event is stored once by its source's own number":                  "INSERT INTO attune.event (trigger_ref, source, event_id, payload) SELECT trigger_ref, source, event_id, '{}' FROM attune.event",
		"a token begins with the number of its execution":                     "UPDATE attune.queue SET token = gen_random_uuid() WHERE token IS NOT NULL",
		"what was printed is of an attempt that is told of":                   "INSERT INTO attune.output (execution_id, created_at, attempt, stream, text, bytes) SELECT execution_id, created_at, number + 1, 'stderr', 'x', 1 FROM attune.attempt",
		"what is in force runs from a revision of its pack that is whole":     "DELETE FROM attune.file",
		"a matched event is stored":                                           "DELETE FROM attune.event",
	}
	for _, name := range storetest.Invariants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := storetest.NewURL(t)
			s := storetest.Open(t, url)
			apply(t, s, change("a", action("a", "x"), trigger("a", "t")))
			commit(t, s, matchAll("a.x", 1), store.NewEvent{Trigger: "a.t", Source: "s", EventID: "one", Payload: json.RawMessage("{}")})
			done := claim(t, s, "n", 1)
			start(t, s, done...)
			finish(t, s, store.Outcome{Token: done[0].Token, Status: store.StatusSucceeded, Stdout: store.Output{Text: "said", Bytes: 4}})
			ids := enqueue(t, s, times(3, store.NewExecution{Action: "a.x"})...)
			start(t, s, claim(t, s, "n", 1)...)
			if _, err := s.Cancel(t.Context(), ids[1], "ada"); err != nil {
				t.Fatal(err)
			}
			if problems := storetest.Broken(t, url); len(problems) != 0 {
				t.Fatalf("broken from the start: %q", problems)
			}
			storetest.Exec(t, url, breaks[name])
			if problems := storetest.Broken(t, url); !slices.ContainsFunc(problems, func(p string) bool { return strings.HasPrefix(p, name+", but: ") }) {
				t.Errorf("not seen to break, but: %q", problems)
			}
		})
	}
}

// Whoever held an attempt and does not any more changes nothing of it, whatever it says: somebody else may
// hold it by now.
func TestOnlyTheHolderWrites(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	apply(t, s, change("a", action("a", "x", onLostRetry)))
	id := enqueue(t, s, store.NewExecution{Action: "a.x"})[0]
	former := claim(t, s, "former", 1)
	start(t, s, former...)
	lapse(t, s)
	if requeued, _, err := s.Reap(t.Context()); err != nil || len(requeued) != 1 {
		t.Fatalf("requeued %v: %v", requeued, err)
	}
	holder := claim(t, s, "holder", 1)
	old, token := former[0].Token, holder[0].Token
	row := func() string {
		return one[string](t, s, "SELECT to_jsonb(queue)::text FROM attune.queue WHERE execution_id = $1", id)
	}
	for _, started := range []bool{false, true} {
		if started {
			start(t, s, holder...)
		}
		before := row()
		for name, write := range map[string]func() error{
			"start": func() error {
				held, err := s.Start(t.Context(), []string{old})
				if held[old] {
					t.Error("a former holder may start")
				}
				return err
			},
			"finish": func() error {
				accepted, err := s.Finish(t.Context(), []store.Outcome{{Token: old, Status: store.StatusSucceeded}})
				if accepted[0] {
					t.Error("what a former holder says counts")
				}
				return err
			},
			"retry": func() error {
				_, err := s.Finish(t.Context(), []store.Outcome{{Token: old, Status: store.StatusFailed, RetryAt: new(time.Now())}})
				return err
			},
			"release": func() error { return s.Release(t.Context(), []string{old}) },
			"put off": func() error { return s.PutOff(t.Context(), old, "because", time.Minute) },
			"line up": func() error { return s.LineUp(t.Context(), old, "key") },
			"renew": func() error {
				renewal, err := s.Renew(t.Context(), "former")
				if len(renewal.Held) != 0 {
					t.Errorf("a former holder holds %v", renewal.Held)
				}
				return err
			},
			"reap": func() error {
				_, _, err := s.Reap(t.Context())
				return err
			},
			"die": func() error {
				_, _, err := s.LoseNode(t.Context(), "former")
				return err
			},
		} {
			if err := write(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if after := row(); after != before {
				t.Errorf("%s, started %v: %s\nbecame %s", name, started, before, after)
			}
		}
	}
	if accepted := finish(t, s, store.Outcome{Token: token, Status: store.StatusSucceeded}); !accepted[0] {
		t.Error("what the holder says does not count")
	}
	storetest.Settle(t, url)
}

// What has lapsed, or is to be cancelled, does not begin, although its token is still there.
func TestStartsOnlyWhatIsHeld(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	enqueue(t, s, times(3, store.NewExecution{Action: "a.x"})...)
	claimed := claim(t, s, "n", 3)
	sql(t, s, "UPDATE attune.queue SET lease_until = now() WHERE token = $1", claimed[0].Token)
	sql(t, s, "UPDATE attune.queue SET cancel_at = now(), cancel_by = 'ada' WHERE token = $1", claimed[1].Token)
	held := start(t, s, claimed...)
	if held[claimed[0].Token] || held[claimed[1].Token] || !held[claimed[2].Token] {
		t.Errorf("started %v of %v", held, tokens(claimed))
	}
	if n := one[int](t, s, "SELECT count(*) FROM attune.queue WHERE started_at IS NOT NULL"); n != 1 {
		t.Errorf("%d are said to have begun", n)
	}
}
