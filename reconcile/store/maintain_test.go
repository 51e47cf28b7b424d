package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func maintain(t testing.TB, s *store.Store, keep store.Retention) store.MaintainReport {
	t.Helper()
	report, err := s.Maintain(t.Context(), keep)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// today is the day by the database's clock. Tests that count days ask for it once, or midnight comes between.
func today(t testing.TB, s *store.Store) string {
	t.Helper()
	return one[string](t, s, "SELECT (now() AT TIME ZONE 'UTC')::date::text")
}

func TestMaintainMakesPartitions(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	const histories, days = 5, 4 // that of the migration and three ahead
	if n := one[int](t, s, `SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^(event|enforcement|execution|attempt|output)_\d{8}$'`); n != histories*days {
		t.Errorf("migrating has made %d partitions, expected %d", n, histories*days)
	}
	// Whichever day it is by then, nothing is missing but what is dropped below.
	sql(t, s, "SELECT attune.make_partitions($1::date, $1::date + 10)", today(t, s))
	if report := maintain(t, s, store.Retention{}); report.PartitionsMade != 0 {
		t.Errorf("%d partitions were made that were there", report.PartitionsMade)
	}
	// end gives an execution of a day, which has just ended, and the partition that holds it.
	end := func(ahead int) (id int64, where func() string) {
		t.Helper()
		id = enqueue(t, s, store.NewExecution{Action: "a.x"})[0]
		sql(t, s, "UPDATE attune.queue SET created_at = created_at + make_interval(days => $1)", ahead)
		if ahead > 0 {
			sql(t, s, "DROP TABLE attune.execution_"+one[string](t, s, "SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYYMMDD') FROM attune.queue"))
		}
		c := claim(t, s, "n", 1)[0]
		start(t, s, c)
		if !finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusSucceeded})[0] {
			t.Error("refused")
		}
		return id, func() string {
			t.Helper()
			return one[string](t, s, "SELECT (SELECT relname::text FROM pg_class WHERE oid = execution.tableoid) FROM attune.execution WHERE id = $1", id)
		}
	}
	if _, where := end(0); where() == "execution_default" {
		t.Error("a partition of today is missing")
	}
	// What fell into the net moves to its day, when there is one.
	id, where := end(2)
	if in := where(); in != "execution_default" {
		t.Fatalf("it is in %s", in)
	}
	if report := maintain(t, s, store.Retention{}); report.PartitionsMade != 1 {
		t.Errorf("%+v", report)
	}
	if in := where(); in == "execution_default" {
		t.Error("it stayed in the net")
	}
	if e, attempts := execution(t, s, id); e.Status != store.StatusSucceeded || len(attempts) != 1 {
		t.Errorf("%+v, %+v", e, attempts)
	}
}

// What was asked for so long ago that its day is gone, or never was, ends like any other.
func TestEndOfADayThatIsGone(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	ids := enqueue(t, s, times(4, store.NewExecution{Action: "a.x"})...)
	sql(t, s, "UPDATE attune.queue SET created_at = now() - make_interval(days => 398 + execution_id::integer)")
	claimed := claim(t, s, "n", 2)
	start(t, s, claimed...)
	keep := store.Retention{Executions: 24 * time.Hour}
	maintain(t, s, keep)
	finish(t, s,
		store.Outcome{Token: claimed[0].Token, Status: store.StatusFailed, Error: "late", Stdout: store.Output{Text: "said", Bytes: 4}},
		store.Outcome{Token: claimed[1].Token, Status: store.StatusFailed, RetryAt: new(time.Now())})
	if _, err := s.Cancel(t.Context(), ids[2], "ada"); err != nil {
		t.Fatal(err)
	}
	again := claim(t, s, "n", 1)
	start(t, s, again...)
	lapse(t, s)
	if _, lost, err := s.Reap(t.Context()); err != nil || len(lost) != 1 {
		t.Fatalf("lost %v: %v", lost, err)
	}
	storetest.CheckInvariants(t, url)
	for i, want := range []store.Status{store.StatusFailed, "", store.StatusCancelled, ""} {
		e, attempts := execution(t, s, ids[i])
		if want != "" && e.Status != want || time.Since(e.CreatedAt) < 390*24*time.Hour {
			t.Errorf("execution %d is %s, asked for at %s", e.ID, e.Status, e.CreatedAt)
		}
		if i == 0 && (e.Stdout != "said" || len(attempts) != 1) {
			t.Errorf("it said %q in %d attempts", e.Stdout, len(attempts))
		}
	}
	// Retention takes it as soon as nothing of its moment waits.
	maintain(t, s, keep)
	if n := one[int](t, s, "SELECT count(*) FROM attune.execution"); n != 0 {
		t.Errorf("%d are left", n)
	}
	if n := one[int](t, s, "SELECT count(*) FROM attune.queue"); n != 1 {
		t.Errorf("%d wait", n)
	}
}

func TestMaintainDropsWhatRetentionSays(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	begin := today(t, s)
	sql(t, s, "SELECT attune.make_partitions($1::date - 40, $1::date - 1)", begin)
	add := func(days int) int64 {
		return one[int64](t, s, `INSERT INTO attune.execution (created_at, action_ref, pack_ref, status, finished_at, parameters)
			VALUES ($2::date::timestamp AT TIME ZONE 'UTC' - make_interval(days => $1), 'a.x', 'a', 'succeeded', now(), '{}') RETURNING id`, days, begin)
	}
	old, young := add(20), add(5)
	// Another of a day on which something was asked for that still waits.
	held := add(21)
	sql(t, s, `INSERT INTO attune.queue (execution_id, created_at, status, pack_ref, action_ref, due_at, parameters)
		SELECT nextval('attune.execution_id'), created_at, 'requested', 'a', 'a.x', created_at, '{}' FROM attune.execution WHERE id = $1`, held)
	day := 24 * time.Hour
	report := maintain(t, s, store.Retention{Executions: 10 * day, Events: 30 * day})
	// 30 days of three tables, but for the one that the queue refers into; 10 days of two. A day more of each, where
	// midnight came between.
	if want := 29*3 + 10*2; report.PartitionsDropped != want && (today(t, s) == begin || report.PartitionsDropped != want+5) {
		t.Errorf("%d partitions dropped, expected %d", report.PartitionsDropped, want)
	}
	for id, want := range map[int64]int{old: 0, young: 1, held: 1} {
		if n := one[int](t, s, "SELECT count(*) FROM attune.execution WHERE id = $1", id); n != want {
			t.Errorf("execution %d: %d rows, expected %d", id, n, want)
		}
	}
	if report := maintain(t, s, store.Retention{}); report.PartitionsDropped != 0 {
		t.Errorf("for ever is no time: %+v", report)
	}
}

// Days go as long as so many executions are left, whatever their age.
func TestMaintainCounts(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	begin := today(t, s)
	sql(t, s, "SELECT attune.make_partitions($1::date - 5, $1::date - 1)", begin)
	for days := 5; days > 0; days-- {
		sql(t, s, `INSERT INTO attune.execution (created_at, action_ref, pack_ref, status, finished_at, parameters)
			SELECT $2::date::timestamp AT TIME ZONE 'UTC' - make_interval(days => $1) + INTERVAL '1 hour', 'a.x', 'a', 'succeeded', now(), '{}'
			FROM generate_series(1, 10)`, days, begin)
		sql(t, s, `INSERT INTO attune.event (id, created_at, trigger_ref, source, payload)
			VALUES (nextval('attune.event_id'), $2::date::timestamp AT TIME ZONE 'UTC' - make_interval(days => $1) + INTERVAL '1 hour', 'a.t', 's', '{}')`, days, begin)
	}
	for _, test := range []struct{ keep, left int }{{100, 50}, {31, 40}, {30, 30}, {11, 20}} {
		maintain(t, s, store.Retention{ExecutionsCount: test.keep})
		if n := one[int](t, s, "SELECT count(*) FROM attune.execution"); n != test.left {
			t.Errorf("%d executions left of %d to be kept, expected %d", n, test.keep, test.left)
		}
	}
	maintain(t, s, store.Retention{EventsCount: 2, Events: 1000 * time.Hour, ExecutionsCount: 1})
	if events, executions := one[int](t, s, "SELECT count(*) FROM attune.event"), one[int](t, s, "SELECT count(*) FROM attune.execution"); events != 2 || executions != 10 {
		t.Errorf("%d events and %d executions left, expected 2 and 10", events, executions)
	}
	maintain(t, s, store.Retention{EventsCount: 5, Events: time.Millisecond})
	if n := one[int](t, s, "SELECT count(*) FROM attune.event"); n != 0 {
		t.Errorf("%d events left although they are too old", n)
	}
}

func TestMaintainPrunesEventKeys(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	commit(t, s, nil, store.NewEvent{Trigger: "a.t", Source: "s", EventID: "old"}, store.NewEvent{Trigger: "a.t", Source: "s", EventID: "new"})
	sql(t, s, "UPDATE attune.event_key SET created_at = now() - make_interval(secs => $1) WHERE event_id = 'old'", store.EventKeyWindow.Seconds()+60)
	sql(t, s, "INSERT INTO attune.event_key SELECT 's', 'a.t', n::text, 1, now() - INTERVAL '30 days' FROM generate_series(1, 2500) AS n")
	maintain(t, s, store.Retention{})
	if got := one[string](t, s, "SELECT string_agg(event_id, ' ') FROM attune.event_key"); got != "new" {
		t.Errorf("left: %.80s", got)
	}
}

func TestMaintainPrunesRevisions(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	revise := func(n int) {
		c := change("core", action("core", "echo"))
		c.Revision = files(map[string]string{"pack.yaml": fmt.Sprint("only of ", n), "lib": fmt.Sprint("of two ", n/2), "same": "of all"})
		if n > 1 {
			c.Put = nil // the action's newer versions are refused: it stays on revision 1
		}
		apply(t, s, c)
	}
	revise(0)
	revise(1)
	enqueue(t, s, store.NewExecution{Action: "core.echo"})
	running := claim(t, s, "n", 1)[0]
	sql(t, s, "UPDATE attune.queue SET revision_id = (SELECT id FROM attune.revision WHERE number = 1)")
	for n := 2; n < 8; n++ {
		revise(n)
	}
	report := maintain(t, s, store.Retention{Revisions: 2})
	list, err := s.Revisions(t.Context(), "core", 100)
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for _, r := range list {
		numbers = append(numbers, r.Number)
	}
	if fmt.Sprint(numbers) != "[8 7 2 1]" || report.RevisionsDropped != 4 {
		t.Errorf("left %v, %+v", numbers, report)
	}
	// Four files of one revision each, and the lib of the pairs 3+4 and 5+6.
	if report.FilesDropped != 6 {
		t.Errorf("%+v", report)
	}
	for _, r := range list {
		_, tree, err := s.RevisionTree(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range tree {
			if _, err := s.FileContent(t.Context(), entry.Digest); err != nil {
				t.Errorf("revision %d: %v", r.Number, err)
			}
		}
	}
	start(t, s, running)
	finish(t, s, store.Outcome{Token: running.Token, Status: store.StatusSucceeded})
	if report := maintain(t, s, store.Retention{Revisions: 2}); report.RevisionsDropped != 1 {
		t.Errorf("when the attempt is over: %+v", report)
	}
	// A file that went comes back when it is needed.
	revise(3)

	// Age ends also what is among the newest, but nothing that is in force.
	sql(t, s, "UPDATE attune.revision SET created_at = now() - INTERVAL '3 days'")
	revise(4)
	maintain(t, s, store.Retention{Revisions: 50, RevisionsAge: 24 * time.Hour})
	if got := one[string](t, s, "SELECT string_agg(number::text, ' ' ORDER BY number) FROM attune.revision"); got != "2 10" {
		t.Errorf("left by age: %s", got)
	}
}

// TestRevisionsInUse names what waits and what runs, whatever is in force.
func TestRevisionsInUse(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	first := change("core", action("core", "echo"))
	apply(t, s, first)
	enqueue(t, s, store.NewExecution{Action: "core.echo"})
	if used, err := s.RevisionsInUse(t.Context()); err != nil || len(used) != 0 {
		t.Errorf("what waits runs from what is in force then: %v, %v", used, err)
	}
	running := claim(t, s, "n", 1)[0]
	second := change("core", action("core", "echo"))
	second.Revision = files(map[string]string{"pack.yaml": "second"})
	apply(t, s, second)
	if used, err := s.RevisionsInUse(t.Context()); err != nil || len(used) != 1 || used[0] != first.Revision.Digest {
		t.Errorf("found %v, %v; want %s", used, err, first.Revision.Digest)
	}
	start(t, s, running)
	finish(t, s, store.Outcome{Token: running.Token, Status: store.StatusSucceeded})
	if used, err := s.RevisionsInUse(t.Context()); err != nil || len(used) != 0 {
		t.Errorf("found %v, %v", used, err)
	}
}

func TestMaintainForgetsDeadNodes(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	for _, id := range []string{"dead", "alive"} {
		if err := s.PutNode(t.Context(), store.Node{ID: id, Host: "h", PID: 1, Version: "1"}); err != nil {
			t.Fatal(err)
		}
		if err := s.PutRuntimes(t.Context(), id, []store.Runtime{{Name: "shell"}}); err != nil {
			t.Fatal(err)
		}
	}
	sql(t, s, "UPDATE attune.node SET seen_at = now() - INTERVAL '2 days' WHERE id = 'dead'")
	maintain(t, s, store.Retention{})
	if got := one[string](t, s, "SELECT string_agg(node, ' ') FROM attune.runtime"); got != "alive" {
		t.Errorf("left: %s", got)
	}
}

// What went through the queue is vacuumed away by its own nodes, long before autovacuum looks.
func TestQueueIsVacuumed(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "x")))
	for range 5 {
		enqueue(t, s, times(1000, store.NewExecution{Action: "a.x"})...)
		var outcomes []store.Outcome
		for _, c := range claim(t, s, "n", 1000) {
			outcomes = append(outcomes, store.Outcome{Token: c.Token, Status: store.StatusSucceeded})
		}
		finish(t, s, outcomes...)
	}
	if _, _, err := s.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		return one[int](t, s, "SELECT vacuum_count::integer FROM pg_stat_user_tables WHERE schemaname = 'attune' AND relname = 'queue'") > 0
	})
}
