package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// queued is what the queue says of an execution.
type queued struct {
	Status  string
	Attempt int
	Held    bool // something is left of who held it
	Due     time.Time
	OffFrom *time.Time
}

func queuedOf(t *testing.T, s *store.Store, id int64) queued {
	t.Helper()
	rows, err := s.Pool().Query(t.Context(), `
		SELECT status, attempt, num_nonnulls(token, node, claimed_at, lease_until, started_at, revision_id, revision) > 0 AS held, due_at AS due, put_off_from AS off_from
		FROM attune.queue WHERE execution_id = $1`, id)
	if err != nil {
		t.Fatal(err)
	}
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[queued])
	if err != nil {
		t.Fatal(err)
	}
	return row
}

// Whatever goes back to the queue is as if nobody had held it, is told to those who claim, and keeps its place where
// it has not had a try.
func TestWaysBackToTheQueue(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change(
		"a", action("a", "x"), action("a", "at_once", onLostRetry),
		action("a", "later", func(a *manifest.Action) {
			a.Retry = &manifest.Retry{MaxAttempts: 5, Delay: manifest.Duration(time.Hour), On: []string{"lost"}}
		}),
	))
	ready := one[int64](t, s, "SELECT max(id) FROM attune.revision")
	l := listen(t, s)
	wakes, leave := l.Subscribe(store.ChannelQueue)
	defer leave()
	waitListening(t, s, l)
	release := func(c store.Claimed) error { return s.Release(t.Context(), []string{c.Token}) }
	again := func(o store.Outcome, in time.Duration) func(store.Claimed) error {
		return func(c store.Claimed) error {
			o.Token, o.Status, o.RetryAt = c.Token, store.StatusFailed, new(time.Now().Add(in))
			accepted, err := s.Finish(t.Context(), []store.Outcome{o})
			if err == nil && !accepted[0] {
				return fmt.Errorf("refused")
			}
			return err
		}
	}
	lose := func(store.Claimed) error {
		_, _, err := s.LoseNode(t.Context(), "n")
		return err
	}
	for name, test := range map[string]struct {
		action  string
		begun   bool
		back    func(store.Claimed) error
		status  store.Status
		attempt int
		keeps   bool // its place among those that wait
	}{
		"released":                {"a.x", false, release, store.StatusRequested, 0, true},
		"released, recorded":      {"a.x", true, release, store.StatusRequested, 0, true},
		"spared":                  {"a.x", true, again(store.Outcome{Spare: true}, 0), store.StatusRequested, 1, true},
		"spared for a while":      {"a.x", true, again(store.Outcome{Spare: true}, time.Hour), store.StatusScheduled, 1, true},
		"tried again":             {"a.x", true, again(store.Outcome{}, 0), store.StatusRequested, 1, false},
		"tried again later":       {"a.x", true, again(store.Outcome{}, time.Hour), store.StatusScheduled, 1, false},
		"lost":                    {"a.at_once", true, lose, store.StatusRequested, 1, false},
		"lost, later":             {"a.later", true, lose, store.StatusScheduled, 1, false},
		"lost before it began":    {"a.later", false, lose, store.StatusRequested, 0, true},
		"lost, of no other tries": {"a.x", false, lose, store.StatusRequested, 0, true},
	} {
		id := enqueue(t, s, store.NewExecution{Action: test.action})[0]
		due, from := time.Now().Add(-time.Hour).Round(time.Second), time.Now().Add(-2*time.Hour).Round(time.Second)
		sql(t, s, "UPDATE attune.queue SET due_at = $2, put_off_from = $3 WHERE execution_id = $1", id, due, from)
		var files []int64
		if test.begun {
			files = []int64{ready}
		}
		claimed, err := s.Claim(t.Context(), "n", 1, files...)
		if err != nil || len(claimed) != 1 || claimed[0].Begun != test.begun {
			t.Fatalf("%s: claimed %+v: %v", name, claimed, err)
		}
		sql(t, s, "SELECT pg_notify('attune_queue', 'begin')")
		next(t, wakes, func(payload string) bool { return payload == "begin" })
		if err := test.back(claimed[0]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		next(t, wakes, nothing)
		got := queuedOf(t, s, id)
		if got.Status != string(test.status) || got.Attempt != test.attempt || got.Held {
			t.Errorf("%s: it is %+v", name, got)
		}
		if got.Due.Equal(due) != test.keeps || (got.OffFrom != nil && got.OffFrom.Equal(from)) != test.keeps {
			t.Errorf("%s: due at %v, before %v; put off from %v, before %v", name, got.Due, due, got.OffFrom, from)
		}
		sql(t, s, "DELETE FROM attune.queue")
	}
}

// However an execution ends, who waits for that is told, and a place that it had is free for the next.
func TestWaysToEnd(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x", limited(1, ""), func(a *manifest.Action) { a.Expires = manifest.Duration(time.Hour) })))
	l := listen(t, s)
	ends, leave := l.Subscribe(store.ChannelFinished)
	defer leave()
	waitListening(t, s, l)
	finish := func(o store.Outcome) func(store.Claimed) error {
		return func(c store.Claimed) error {
			o.Token = c.Token
			_, err := s.Finish(t.Context(), []store.Outcome{o})
			return err
		}
	}
	cancel := func(c store.Claimed) error {
		_, err := s.Cancel(t.Context(), c.ExecutionID, "ada")
		return err
	}
	then := func(all ...func(store.Claimed) error) func(store.Claimed) error {
		return func(c store.Claimed) error {
			for _, do := range all {
				if err := do(c); err != nil {
					return err
				}
			}
			return nil
		}
	}
	begin := func(c store.Claimed) error {
		_, err := s.Start(t.Context(), []string{c.Token})
		return err
	}
	release := func(c store.Claimed) error { return s.Release(t.Context(), []string{c.Token}) }
	for name, test := range map[string]struct {
		do     func(store.Claimed) error
		status store.Status
		tries  int
	}{
		"ended":                     {then(begin, finish(store.Outcome{Status: store.StatusSucceeded})), store.StatusSucceeded, 1},
		"cancelled, tried no more":  {then(begin, cancel, finish(store.Outcome{Status: store.StatusFailed, RetryAt: new(time.Now())})), store.StatusCancelled, 1},
		"cancelled before it began": {cancel, store.StatusCancelled, 0},
		"cancelled, and given back": {then(begin, cancel, release), store.StatusCancelled, 0},
		"cancelled, and put off":    {then(begin, cancel, func(c store.Claimed) error { return s.PutOff(t.Context(), c.Token, "files", time.Hour) }), store.StatusCancelled, 0},
		"lost":                      {then(begin, func(store.Claimed) error { _, _, err := s.LoseNode(t.Context(), "n"); return err }), store.StatusLost, 1},
		"expired while it had its place": {then(release, func(c store.Claimed) error {
			sql(t, s, "UPDATE attune.queue SET due_at = now() - INTERVAL '2 hours' WHERE execution_id = $1", c.ExecutionID)
			_, _, err := storetest.Open(t, s.Pool().Config().ConnString()).Reap(t.Context())
			return err
		}), store.StatusCancelled, 0},
	} {
		both := enqueue(t, s, keyed("k"), keyed("k"))
		due := one[time.Time](t, s, "SELECT due_at FROM attune.queue WHERE execution_id = $1", both[0])
		c := wantClaimed(t, s, both[0])[0]
		if err := test.do(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		next(t, ends, func(payload string) bool { return payload == fmt.Sprint(both[0]) })
		e, attempts := execution(t, s, both[0])
		if e.Status != test.status || len(attempts) != test.tries || e.Attempt != test.tries {
			t.Errorf("%s: it is %s after attempt %d: %+v", name, e.Status, e.Attempt, attempts)
		}
		if name != "expired while it had its place" && (e.DueAt == nil || !e.DueAt.Equal(due)) {
			t.Errorf("%s: it had been due at %v, and is told as due at %v", name, due, e.DueAt)
		}
		if got := ids(claim(t, s, "n", 9)); !slices.Equal(got, both[1:]) {
			t.Errorf("%s: claimed %v next, expected %v", name, got, both[1:])
		}
		sql(t, s, "DELETE FROM attune.queue")
	}
}

// A place that a lost attempt gives up until it is tried again is free meanwhile.
func TestAPlaceIsFreeUntilTheNextTry(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x", limited(1, ""), func(a *manifest.Action) {
		a.Retry = &manifest.Retry{MaxAttempts: 5, Delay: manifest.Duration(time.Hour), On: []string{"lost"}}
	})))
	both := enqueue(t, s, keyed("k"), keyed("k"))
	start(t, s, wantClaimed(t, s, both[0])...)
	if _, _, err := s.LoseNode(t.Context(), "n"); err != nil {
		t.Fatal(err)
	}
	wantClaimed(t, s, both[1])
}

// What is kept of an attempt's streams: nothing of one that was silent, the count of one whose text is gone, and
// which was cut.
func TestWhatIsKeptOfStreams(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	for name, test := range map[string]struct {
		stdout, stderr store.Output
		want           string
	}{
		"silent":             {want: ""},
		"stdout":             {stdout: store.Output{Text: "x", Bytes: 1}, want: "stdout 1 0 x"},
		"stderr":             {stderr: store.Output{Text: "x", Bytes: 1}, want: "stderr 1 0 x"},
		"both without text":  {stdout: store.Output{Bytes: 3}, stderr: store.Output{Bytes: 4}, want: "stderr 4 0 , stdout 3 0 "},
		"cut":                {stdout: store.Output{Text: "x", Bytes: 9, Omitted: 8}, want: "stdout 9 8 x"},
		"cut stderr":         {stderr: store.Output{Text: "x", Bytes: 9, Omitted: 8}, want: "stderr 9 8 x"},
		"masked to nothing?": {stdout: store.Output{Text: "x"}, stderr: store.Output{Text: "y"}, want: "stderr 0 0 y, stdout 0 0 x"},
	} {
		for _, again := range []bool{false, true} {
			id := enqueue(t, s, store.NewExecution{Action: "a.x"})[0]
			due := one[time.Time](t, s, "SELECT due_at FROM attune.queue WHERE execution_id = $1", id)
			c := claim(t, s, "n", 1)[0]
			start(t, s, c)
			o := store.Outcome{Token: c.Token, Status: store.StatusSucceeded, Stdout: test.stdout, Stderr: test.stderr}
			if again {
				// Of one that may be tried again another statement tells.
				if _, err := s.Cancel(t.Context(), id, "ada"); err != nil {
					t.Fatal(err)
				}
				o.RetryAt = new(time.Now())
			}
			finish(t, s, o)
			got := one[string](t, s, "SELECT COALESCE(string_agg(concat_ws(' ', stream, bytes, omitted, text), ', ' ORDER BY stream), '') FROM attune.output WHERE execution_id = $1", id)
			if got != test.want {
				t.Errorf("%s, again %v: kept are %q, expected %q", name, again, got, test.want)
			}
			e, _ := execution(t, s, id)
			if e.StdoutTruncated != (test.stdout.Omitted > 0) || e.StderrTruncated != (test.stderr.Omitted > 0) {
				t.Errorf("%s, again %v: cut are %v and %v", name, again, e.StdoutTruncated, e.StderrTruncated)
			}
			if at := one[time.Time](t, s, "SELECT queued_at FROM attune.attempt WHERE execution_id = $1", id); !at.Equal(due) {
				t.Errorf("%s, again %v: it was due at %v and is told as queued at %v", name, again, due, at)
			}
		}
	}
}

// The first start of an attempt and the first who wants it cancelled are those that are told.
func TestTheFirstCounts(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	id := enqueue(t, s, store.NewExecution{Action: "a.x"})[0]
	c := claim(t, s, "n", 1)[0]
	row := func() string {
		return one[string](t, s, "SELECT concat_ws(' ', started_at, cancel_at, cancel_by) FROM attune.queue WHERE execution_id = $1", id)
	}
	start(t, s, c)
	begun := row()
	start(t, s, c)
	if got := row(); got != begun {
		t.Errorf("started at %s, and said again at %s", begun, got)
	}
	for _, who := range []string{"ada", "bob"} {
		before := row()
		if _, err := s.Cancel(t.Context(), id, who); err != nil {
			t.Fatal(err)
		}
		if got := row(); who == "bob" && got != before {
			t.Errorf("cancelled at %s, and again at %s", before, got)
		}
	}
	// Nobody waits for files that an execution needs no more, and the first time that one was due is kept.
	other := enqueue(t, s, store.NewExecution{Action: "a.x"})[0]
	due := queuedOf(t, s, other).Due
	for range 2 {
		sql(t, s, "UPDATE attune.queue SET status = 'requested' WHERE execution_id = $1", other)
		c := claim(t, s, "n", 1)[0]
		if err := s.PutOff(t.Context(), c.Token, "files", time.Hour); err != nil {
			t.Fatal(err)
		}
		if got := queuedOf(t, s, other); got.Status != "scheduled" || got.OffFrom == nil || !got.OffFrom.Equal(due) || got.Held {
			t.Errorf("put off, it is %+v, first due at %v", got, due)
		}
	}
}

// What runs an older revision is judged by that one's manifest also when it is lost.
func TestLostOfAnOlderRevision(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "x")))
	manifests := map[string]*manifest.Action{
		"on_lost": action("a", "x", onLostRetry),
		"retry": action("a", "x", func(a *manifest.Action) {
			a.Retry = &manifest.Retry{MaxAttempts: 2, On: []string{"lost"}}
		}),
		"neither": action("a", "x"),
	}
	revision := one[int64](t, s, "SELECT max(id) FROM attune.revision")
	for name, then := range manifests {
		text, err := manifest.Encode(then)
		if err != nil {
			t.Fatal(err)
		}
		id := enqueue(t, s, store.NewExecution{Action: "a.x", Former: &store.Former{RevisionID: revision, Manifest: text}})[0]
		start(t, s, claim(t, s, "n", 1)...)
		requeued, lost, err := s.LoseNode(t.Context(), "n")
		var want []int64
		if name != "neither" {
			want = []int64{id}
		}
		if diff := cmp.Diff(want, requeued); diff != "" || err != nil || len(lost) != 1 {
			t.Errorf("%s: lost %v, %v: %s", name, lost, err, diff)
		}
		sql(t, s, "DELETE FROM attune.queue")
	}
}

// changing changes a row of the queue in a transaction that stays open until the returned func is called.
func changing(t *testing.T, url, change string, id int64) (commit func()) {
	t.Helper()
	tx, err := storetest.Connect(t, url).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "UPDATE attune.queue SET "+change+" WHERE execution_id = $1", id); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever waits for a row acts on what it is by then, not on what it was.
func TestRowsThatChangeMeanwhile(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change string
		do     func(*testing.T, *store.Store, store.Claimed) error
		want   string
	}{
		"release, and it is another's by then": {
			"token = gen_random_uuid(), node = 'm'",
			func(t *testing.T, s *store.Store, c store.Claimed) error {
				return s.Release(t.Context(), []string{c.Token})
			},
			"running m 1 ",
		},
		"put off, and it is another's by then": {
			"token = gen_random_uuid(), node = 'm'",
			func(t *testing.T, s *store.Store, c store.Claimed) error {
				return s.PutOff(t.Context(), c.Token, "files", time.Hour)
			},
			"running m 1 ",
		},
		"cancel, and it has begun by then": {
			"started_at = now()",
			func(t *testing.T, s *store.Store, c store.Claimed) error {
				_, err := s.Cancel(t.Context(), c.ExecutionID, "ada")
				return err
			},
			"running n 1 ada",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := storetest.NewURL(t)
			s := storetest.Open(t, url)
			enqueue(t, s, store.NewExecution{Action: "a.x"})
			c := claim(t, s, "n", 1)[0]
			commit := changing(t, url, test.change, c.ExecutionID)
			done := make(chan error, 1)
			go func() { done <- test.do(t, s, c) }()
			waitFor(t, func() bool {
				return one[int](t, s, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") > 0
			})
			commit()
			if err := <-done; err != nil {
				t.Error(err)
			}
			got := one[string](t, s, "SELECT COALESCE(string_agg(concat_ws(' ', status, node, attempt, COALESCE(cancel_by, '')), ''), 'gone') FROM attune.queue")
			if got != test.want {
				t.Errorf("it is %q, expected %q", got, test.want)
			}
		})
	}
}

// What another session has locked is left for later by those who act on many, and the others are done.
func TestLockedIsPassedOver(t *testing.T) {
	t.Parallel()
	hour := func(a *manifest.Action) { a.Expires = manifest.Duration(time.Hour) }
	for name, test := range map[string]struct {
		setup func(*testing.T, *store.Store, []int64)
		do    func(*testing.T, *store.Store, []int64) error
		done  string // condition on a row of the queue
	}{
		"reap": {
			func(t *testing.T, s *store.Store, _ []int64) {
				start(t, s, claim(t, s, "n", 3)...)
				lapse(t, s)
			},
			func(t *testing.T, s *store.Store, _ []int64) error {
				_, _, err := s.Reap(t.Context())
				return err
			},
			"FALSE",
		},
		"finish": {
			func(t *testing.T, s *store.Store, _ []int64) { start(t, s, claim(t, s, "n", 3)...) },
			func(t *testing.T, s *store.Store, _ []int64) error {
				renewal, err := s.Renew(t.Context(), "n")
				if err != nil {
					return err
				}
				var outcomes []store.Outcome
				for _, token := range renewal.Held {
					outcomes = append(outcomes, store.Outcome{Token: token, Status: store.StatusFailed, RetryAt: new(time.Now().Add(time.Hour))})
				}
				if _, err := s.Finish(t.Context(), outcomes); err == nil {
					t.Error("all are finished")
				}
				return nil
			},
			"status = 'scheduled'",
		},
		"expire": {
			func(t *testing.T, s *store.Store, _ []int64) {
				sql(t, s, "UPDATE attune.queue SET due_at = now() - INTERVAL '2 hours'")
			},
			func(t *testing.T, s *store.Store, _ []int64) error {
				_, _, err := s.Reap(t.Context())
				return err
			},
			"FALSE",
		},
		"claim": {
			func(*testing.T, *store.Store, []int64) {},
			func(t *testing.T, s *store.Store, _ []int64) error {
				_, err := s.Claim(t.Context(), "n", 3)
				return err
			},
			"token IS NOT NULL",
		},
		"promote": {
			func(t *testing.T, s *store.Store, _ []int64) {
				sql(t, s, "UPDATE attune.queue SET status = 'scheduled', due_at = now()")
			},
			func(t *testing.T, s *store.Store, _ []int64) error {
				_, err := s.Claim(t.Context(), "n", 3)
				return err
			},
			"token IS NOT NULL",
		},
		"admit": {
			func(t *testing.T, s *store.Store, _ []int64) {
				apply(t, s, change("a", action("a", "x", limited(9, ""))))
				sql(t, s, "UPDATE attune.queue SET status = 'scheduled', in_line = TRUE, concurrency_key = 'k'")
			},
			func(t *testing.T, s *store.Store, _ []int64) error {
				_, _, err := s.Reap(t.Context())
				return err
			},
			"status = 'requested'",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := storetest.NewURL(t)
			s := storetest.Open(t, url)
			apply(t, s, change("a", action("a", "x", hour)))
			all := enqueue(t, s, times(3, store.NewExecution{Action: "a.x"})...)
			test.setup(t, s, all)
			// For a node that knows of nothing yet: it looks at what has expired once in a while.
			fresh := storetest.Open(t, url)
			commit := changing(t, url, "priority = priority", all[1])
			if err := test.do(t, fresh, all); err != nil {
				t.Error(err)
			}
			left := one[[]int64](t, s, "SELECT COALESCE(array_agg(execution_id), '{}') FROM attune.queue WHERE ("+test.done+") IS NOT TRUE")
			if !slices.Equal(left, all[1:2]) {
				t.Errorf("left are %v, expected %v", left, all[1:2])
			}
			commit()
		})
	}

	// A node whose row is locked renews what it holds.
	t.Run("renew", func(t *testing.T) {
		t.Parallel()
		url := storetest.NewURL(t)
		s := storetest.Open(t, url)
		if err := s.PutNode(t.Context(), store.Node{ID: "n", Host: "h"}); err != nil {
			t.Fatal(err)
		}
		seen := func() time.Time { return one[time.Time](t, s, "SELECT seen_at FROM attune.node") }
		before := seen()
		enqueue(t, s, store.NewExecution{Action: "a.x"})
		c := claim(t, s, "n", 1)[0]
		tx, err := storetest.Connect(t, url).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "SELECT FROM attune.node FOR UPDATE"); err != nil {
			t.Fatal(err)
		}
		renewal, err := s.Renew(t.Context(), "n")
		if err != nil || !slices.Equal(renewal.Held, []string{c.Token}) || len(renewal.Locked) != 0 {
			t.Errorf("renewed %+v: %v", renewal, err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Renew(t.Context(), "n"); err != nil || !seen().After(before) {
			t.Errorf("seen at %v, before %v: %v", seen(), before, err)
		}
	})
}

// What two streams printed by turns is read in that order, as far as it is known, of each attempt.
func TestOutputsByTurns(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	id := enqueue(t, s, store.NewExecution{Action: "a.x"})[0]
	var createdAt time.Time
	for i, o := range []store.Outcome{
		{Stdout: store.Output{Text: "ab", Bytes: 2}, Stderr: store.Output{Text: "xyz", Bytes: 3}, Arrival: []int{0, 1, 1, 2}},
		{Stdout: store.Output{Text: "ab", Bytes: 2}, Stderr: store.Output{Text: "xyz", Bytes: 3}},
		{Stdout: store.Output{Text: "äb", Bytes: 3}, Stderr: store.Output{Text: "x", Bytes: 1}, Arrival: []int{1, 9, 1}},
		{Stderr: store.Output{Text: "x", Bytes: 1}},
	} {
		c := claim(t, s, "n", 1)[0]
		start(t, s, c)
		createdAt = c.CreatedAt
		o.Token, o.Status = c.Token, store.StatusFailed
		if i < 3 {
			o.RetryAt = new(time.Now())
		}
		finish(t, s, o)
	}
	printed, err := s.Outputs(t.Context(), id, createdAt, 0, 9)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, p := range printed {
		got += fmt.Sprintf("%d%s:%s ", p.Attempt, p.Stream, p.Text)
	}
	const want = "1stderr:x 1stdout:a 1stderr:yz 1stdout:b 2stdout:ab 2stderr:xyz 3stdout:ä 3stderr:x 3stdout:b 4stderr:x "
	if got != want {
		t.Errorf("read as %s, expected %s", got, want)
	}
}

// What a claim says of an attempt: whether it begins with it, and whether it came too late to begin at all.
func TestWhatAClaimSays(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	hour := func(a *manifest.Action) { a.Expires = manifest.Duration(time.Hour) }
	apply(t, s, change("a", action("a", "x", hour), action("a", "y"), action("a", "gone")))
	revision := one[int64](t, s, "SELECT max(id) FROM attune.revision")
	sql(t, s, "UPDATE attune.action SET present = FALSE WHERE ref = 'a.gone'")
	then := func(a *manifest.Action) *store.Former {
		text, err := manifest.Encode(a)
		if err != nil {
			t.Fatal(err)
		}
		return &store.Former{RevisionID: revision, Manifest: text}
	}
	late, now := new(time.Now().Add(-2*time.Hour)), time.Now()
	for name, test := range map[string]struct {
		e              store.NewExecution
		tried          int
		putOff         bool // it was due two hours ago, and put off until now
		unready        bool
		begun, expired bool
	}{
		"ready":                             {e: store.NewExecution{Action: "a.x"}, begun: true},
		"not ready":                         {e: store.NewExecution{Action: "a.x"}, unready: true},
		"disabled":                          {e: store.NewExecution{Action: "a.gone"}},
		"an older revision":                 {e: store.NewExecution{Action: "a.x", Former: then(action("a", "x"))}},
		"too late":                          {e: store.NewExecution{Action: "a.x", DueAt: late}, expired: true},
		"late, and patient":                 {e: store.NewExecution{Action: "a.y", DueAt: late}, begun: true},
		"late, and tried before":            {e: store.NewExecution{Action: "a.x", DueAt: late}, tried: 1, begun: true},
		"put off for too long":              {e: store.NewExecution{Action: "a.x", DueAt: &now}, putOff: true, expired: true},
		"late, and was patient":             {e: store.NewExecution{Action: "a.x", DueAt: late, Former: then(action("a", "x"))}},
		"late, and is patient, but was not": {e: store.NewExecution{Action: "a.y", DueAt: late, Former: then(action("a", "y", hour))}, expired: true},
	} {
		id := enqueue(t, s, test.e)[0]
		sql(t, s, "UPDATE attune.queue SET attempt = $2, put_off_from = CASE WHEN $3 THEN $4::timestamptz END WHERE execution_id = $1", id, test.tried, test.putOff, late)
		ready := []int64{revision}
		if test.unready {
			ready = []int64{revision + 1}
		}
		claimed, err := s.Claim(t.Context(), "n", 1, ready...)
		if err != nil || len(claimed) != 1 {
			t.Fatalf("%s: claimed %v: %v", name, claimed, err)
		}
		if c := claimed[0]; c.Begun != test.begun || c.Expired != test.expired || (c.Record == nil) != (test.e.Action == "a.gone") {
			t.Errorf("%s: begun %v, expired %v, action %v", name, c.Begun, c.Expired, c.Record)
		}
		sql(t, s, "DELETE FROM attune.queue")
	}

	// Two actions of one generation are told apart by whoever knows one of them.
	enqueue(t, s, store.NewExecution{Action: "a.x"}, store.NewExecution{Action: "a.y"})
	fresh := storetest.Open(t, s.Pool().Config().ConnString())
	for _, ref := range []string{"a.x", "a.y"} {
		if c := claim(t, fresh, "n", 1)[0]; c.Record == nil || c.Record.Ref != ref {
			t.Errorf("claimed %s with the action %v", ref, c.Record)
		}
	}
}

// A look ahead is of a moment ago: what is not to be claimed any more by then is not.
func TestClaimOfWhatWasLookedUp(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	all := enqueue(t, s, times(60, store.NewExecution{Action: "a.x"})...)
	for range 2 {
		claim(t, s, "n", 2)
	}
	sql(t, s, "UPDATE attune.queue SET status = 'scheduled', due_at = now() + INTERVAL '1 hour' WHERE execution_id = ANY ($1)", all[4:30])
	for range 10 {
		for _, c := range claim(t, s, "n", 2) {
			if slices.Contains(all[4:30], c.ExecutionID) {
				t.Fatalf("execution %d is claimed, which is for later", c.ExecutionID)
			}
		}
	}
}

// The first of a pack is the most urgent, and then who has been due for longest, however few are claimed.
func TestTheFirstOfMany(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	all := enqueue(t, s, times(9, store.NewExecution{Action: "a.x"})...)
	sql(t, s, "UPDATE attune.queue SET due_at = now() - INTERVAL '1 hour' WHERE execution_id = $1", all[4])
	sql(t, s, "UPDATE attune.queue SET priority = 9 WHERE execution_id = $1", all[7])
	for _, want := range []int64{all[7], all[4], all[0]} {
		// A store that has looked at nothing yet.
		if got := claim(t, storetest.Open(t, s.Pool().Config().ConnString()), "n", 1)[0].ExecutionID; got != want {
			t.Errorf("claimed %d, expected %d", got, want)
		}
	}
}

// What was put off and has come is hurried, of that pack, unless it runs by now.
func TestHurryLeavesTheOthers(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	enqueue(
		t, s, store.NewExecution{Action: "a.runs"}, store.NewExecution{Action: "a.waits"}, store.NewExecution{Action: "b.waits"},
		store.NewExecution{Action: "a.runs"}, store.NewExecution{Action: "a.lined"},
	)
	l := listen(t, s)
	wakes, leave := l.Subscribe(store.ChannelQueue)
	defer leave()
	waitListening(t, s, l)
	for _, c := range claim(t, s, "n", 5) {
		if err := s.PutOff(t.Context(), c.Token, "files", time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	enqueue(t, s, store.NewExecution{Action: "a.later", DueAt: new(time.Now().Add(time.Hour))})
	sql(t, s, "UPDATE attune.queue SET due_at = now(), waits_until = now() WHERE action_ref = 'a.runs'")
	if n := len(claim(t, s, "n", 2)); n != 2 {
		t.Fatalf("claimed %d", n)
	}
	// One whose time had come before stands in line by now.
	sql(t, s, "UPDATE attune.queue SET in_line = TRUE, concurrency_key = 'k' WHERE action_ref = 'a.lined'")
	sql(t, s, "SELECT pg_notify('attune_queue', 'begin')")
	next(t, wakes, func(payload string) bool { return payload == "begin" })
	hurried, err := s.Hurry(t.Context(), "a")
	if err != nil || hurried != 1 {
		t.Errorf("hurried %d: %v", hurried, err)
	}
	next(t, wakes, nothing)
	const want = "a.later scheduled, a.lined scheduled, a.runs running held, a.runs running held, a.waits requested, b.waits scheduled"
	if got := one[string](t, s, "SELECT string_agg(concat_ws(' ', action_ref, status, CASE WHEN token IS NOT NULL THEN 'held' END), ', ' ORDER BY action_ref) FROM attune.queue"); got != want {
		t.Errorf("they are %s, expected %s", got, want)
	}
}

// However often it is put off, it counts from when it was first due; and only who holds it puts it off.
func TestPutOffByItsHolder(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	due := time.Now().Add(-time.Hour).Round(time.Second)
	id := enqueue(t, s, store.NewExecution{Action: "a.x", DueAt: &due})[0]
	former := claim(t, s, "n", 1)[0]
	if err := s.PutOff(t.Context(), former.Token, "files", 0); err != nil {
		t.Fatal(err)
	}
	holder := claim(t, s, "n", 1)[0]
	if err := s.PutOff(t.Context(), former.Token, "nothing", time.Hour); err != nil {
		t.Fatal(err)
	}
	if now := queuedOf(t, s, id); now.Status != string(store.StatusRunning) || now.Due.After(time.Now().Add(time.Minute)) {
		t.Errorf("who no longer holds it has put it off: %+v", now)
	}
	if err := s.PutOff(t.Context(), holder.Token, "files", time.Hour); err != nil {
		t.Fatal(err)
	}
	if now := queuedOf(t, s, id); now.Status != string(store.StatusScheduled) || now.OffFrom == nil || !now.OffFrom.Equal(due) {
		t.Errorf("put off twice it is %+v, and was due at %v", now, due)
	}
}

// What waits and would be too late is judged by what it runs, from when it was first due, and only while its action
// is there.
func TestWhatExpires(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	hour := func(a *manifest.Action) { a.Expires = manifest.Duration(time.Hour) }
	apply(t, s, change("a", action("a", "x", hour), action("a", "gone", hour)))
	text, err := manifest.Encode(action("a", "x"))
	if err != nil {
		t.Fatal(err)
	}
	sql(t, s, "UPDATE attune.action SET present = FALSE WHERE ref = 'a.gone'")
	late := new(time.Now().Add(-2 * time.Hour))
	all := enqueue(
		t, s, store.NewExecution{Action: "a.x", DueAt: late}, store.NewExecution{Action: "a.gone", DueAt: late},
		store.NewExecution{Action: "a.x", DueAt: late, Former: &store.Former{RevisionID: one[int64](t, s, "SELECT max(id) FROM attune.revision"), Manifest: text}},
		store.NewExecution{Action: "a.x"}, store.NewExecution{Action: "a.x", DueAt: late},
	)
	sql(t, s, "UPDATE attune.queue SET put_off_from = due_at - INTERVAL '2 hours' WHERE execution_id = $1", all[3])
	sql(t, s, "UPDATE attune.queue SET put_off_from = now(), attempt = 0 WHERE execution_id = $1", all[4])
	reap(t, s)
	for i, want := range []store.Status{store.StatusCancelled, store.StatusRequested, store.StatusRequested, store.StatusCancelled, store.StatusRequested} {
		if e, _ := execution(t, s, all[i]); e.Status != want {
			t.Errorf("%d is %s, expected %s", i, e.Status, want)
		}
	}
}

// Places are counted for an action and a key; a line that nothing bounds any more is let go by the next look, and who
// is skipped is told of.
func TestPlacesOfActions(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := counted(t, url)
	apply(t, s, change("a", action("a", "x", limited(1, "")), action("a", "y", limited(1, "skip"))))
	of := func(ref string) store.NewExecution {
		return keyed("k", func(e *store.NewExecution) { e.Action = ref })
	}
	l := listen(t, s)
	ends, leave := l.Subscribe(store.ChannelFinished)
	defer leave()
	waitListening(t, s, l)
	all := append(enqueue(t, s, of("a.x")), enqueue(t, s, of("a.y"), of("a.x"), of("a.y"))...)
	next(t, ends, func(payload string) bool { return payload == fmt.Sprint(all[3]) })
	held := wantClaimed(t, s, all[0], all[1])
	apply(t, s, change("a", action("a", "x"), action("a", "y", limited(1, "skip"))))
	wantClaimed(t, s)
	reap(t, s)
	wantClaimed(t, s, all[2])

	// Whoever claims is woken for who gets a place.
	apply(t, s, change("a", action("a", "x", limited(3, "")), action("a", "y", limited(1, "skip"))))
	start(t, s, held...)
	last := enqueue(t, s, of("a.x"), of("a.x"))
	wantClaimed(t, s, last[0])
	wakes, leaveQueue := l.Subscribe(store.ChannelQueue)
	defer leaveQueue()
	sql(t, s, "SELECT pg_notify('attune_queue', 'begin')")
	next(t, wakes, func(payload string) bool { return payload == "begin" })
	for _, c := range held {
		if c.Action == "a.x" {
			finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusSucceeded})
		}
	}
	next(t, wakes, nothing)
	wantClaimed(t, s, last[1])
}

// Who cancels is recorded, and what became of it: an execution that has begun is to be stopped, another has ended.
// What replaces another is nobody.
func TestCancelIsAudited(t *testing.T) {
	t.Parallel()
	s := counted(t, storetest.NewURL(t))
	apply(t, s, change("a", action("a", "x"), action("a", "y", limited(1, "replace"))))
	all := enqueue(t, s, store.NewExecution{Action: "a.x"}, store.NewExecution{Action: "a.x", DueAt: new(time.Now().Add(time.Hour))})
	start(t, s, claim(t, s, "n", 1)...)
	if _, err := s.CancelAll(t.Context(), all, "ada"); err != nil {
		t.Fatal(err)
	}
	of := func(e *store.NewExecution) { e.Action = "a.y" }
	enqueue(t, s, keyed("k", of))
	start(t, s, claim(t, s, "n", 1)...)
	enqueue(t, s, keyed("k", of))
	if n := one[int](t, s, "SELECT count(*) FROM attune.queue WHERE cancel_by LIKE 'execution %'"); n != 1 {
		t.Fatalf("%d are replaced", n)
	}
	got := one[string](t, s, "SELECT string_agg(concat_ws(' ', actor, object, before ->> 'status', after ->> 'status', after ->> 'cancel_by'), ', ' ORDER BY object::bigint) FROM attune.audit WHERE action = 'cancel execution'")
	if want := fmt.Sprintf("ada %d running running ada, ada %d scheduled cancelled", all[0], all[1]); got != want {
		t.Errorf("recorded is %s, expected %s", got, want)
	}
}

// Who held an attempt once is not believed for what another attempt of that execution came to.
func TestLateAndTheSame(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "x", onLostRetry)))
	enqueue(t, s, store.NewExecution{Action: "a.x"})
	former := claim(t, s, "n", 1)[0]
	start(t, s, former)
	if _, _, err := s.LoseNode(t.Context(), "n"); err != nil {
		t.Fatal(err)
	}
	holder := claim(t, s, "m", 1)[0]
	start(t, s, holder)
	done := func(c store.Claimed) store.Outcome {
		return store.Outcome{Token: c.Token, Status: store.StatusSucceeded}
	}
	finish(t, s, done(holder))
	late := done(former)
	late.Status = store.StatusFailed
	if accepted := finish(t, s, late); accepted[0] {
		t.Error("the former holder's outcome counts")
	}
	if kept := one[string](t, s, "SELECT string_agg(number || ' ' || status, ', ' ORDER BY number) FROM attune.attempt WHERE late IS NOT NULL"); kept != "1 lost" {
		t.Errorf("it is kept beside attempts %s, expected the one that was lost", kept)
	}
	if accepted := finish(t, s, done(holder)); !accepted[0] {
		t.Error("the holder's outcome, sent again, does not count")
	}
}
