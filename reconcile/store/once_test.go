package store_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// former is a node of the version before the history was written once. It knows nothing of the new columns, and
// writes what it queues into both tables.
type former struct {
	t       *testing.T
	s       *store.Store
	queries map[string]string
}

func newFormer(t *testing.T, s *store.Store) *former {
	t.Helper()
	text, err := os.ReadFile("testdata/former.sql")
	if err != nil {
		t.Fatal(err)
	}
	return &former{t: t, s: s, queries: store.SplitQueries(string(text))}
}

func run[T any](f *former, name string, args pgx.StrictNamedArgs, scan pgx.RowToFunc[T]) []T {
	f.t.Helper()
	return runIn(f, f.s.Pool(), name, args, scan)
}

func runIn[T any](f *former, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, name string, args pgx.StrictNamedArgs, scan pgx.RowToFunc[T],
) []T {
	f.t.Helper()
	rows, err := db.Query(f.t.Context(), f.queries[name], args)
	if err != nil {
		f.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, scan)
	if err != nil {
		f.t.Fatalf("%s: %v", name, err)
	}
	return all
}

// queue stores an event, and queues one execution for each of two actions of a rule and for each of two items.
func (f *former) queue() (ids []int64) {
	f.t.Helper()
	const n = 4
	tx, err := f.s.Pool().Begin(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	var event int64
	if err := tx.QueryRow(f.t.Context(), "INSERT INTO attune.event (trigger_ref, source, payload) VALUES ('a.t', 's', '{}') RETURNING id").Scan(&event); err != nil {
		f.t.Fatal(err)
	}
	ids = runIn(f, tx, "QueueExecutions", pgx.StrictNamedArgs{
		"enforced_event_ids": []int64{event}, "enforced_rule_refs": []string{"a.r"}, "enforced_statuses": []string{"matched"},
		"enforced_errors": []string{""}, "enforced_warnings": []string{""},
		"action_refs": slices.Repeat([]string{"a.x"}, n), "rule_refs": slices.Repeat([]string{"a.r"}, n),
		"trigger_refs": slices.Repeat([]string{"a.t"}, n), "event_ids": slices.Repeat([]int64{event}, n),
		"enforcement_places": []int{1, 1, 1, 1}, "ordinals": []int{0, 0, 1, 1}, "items": []int{0, 1, 0, 1},
		"priorities": []int{1, 2, 3, 4}, "requested_by": slices.Repeat([]string{"rule"}, n),
		"due_at": make([]*time.Time, n), "timeouts": []float64{60, 60, 60, 60},
		"parameters": slices.Repeat([]string{`{"n": 1}`}, n), "secrets": slices.Repeat([]string{`{"/token": "name"}`}, n),
		"retries": slices.Repeat([]string{`{"max_attempts": 2}`}, n), "reruns_of": slices.Repeat([]int64{7}, n),
		"former_revision_ids": make([]int64, n), "former_manifests": make([]string, n),
		"concurrency_keys": make([]*string, n), "depths": slices.Repeat([]int{3}, n),
	}, pgx.RowTo[int64])
	if err := tx.Commit(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return ids
}

func (f *former) end(c store.Claimed) {
	f.t.Helper()
	done := run(f, "EndAttempts", pgx.StrictNamedArgs{
		"ids": []int64{c.ExecutionID}, "tokens": []uuid.UUID{uuid.MustParse(c.Token)}, "statuses": []string{"succeeded"},
		"exit_codes": []int{0}, "signals": []string{""}, "errors": []string{""}, "results": []string{`{"a": 1}`},
		"stdout_texts": []string{"said"}, "stdout_bytes": []int64{4}, "stdout_omitted": []int64{0},
		"stderr_texts": []string{""}, "stderr_bytes": []int64{0}, "stderr_omitted": []int64{0},
	}, pgx.RowToMap)
	if len(done) != 1 {
		f.t.Errorf("execution %d was not ended", c.ExecutionID)
	}
}

func (f *former) cancel(id int64) {
	f.t.Helper()
	run(f, "CancelExecutions", pgx.StrictNamedArgs{
		"ids": []int64{id}, "cancelled_by": "ada", "audited": true, "origin": "", "request_id": "",
	}, pgx.RowToMap)
}

// asked is what was asked for, which is told of an execution wherever it is.
func asked(t *testing.T, s *store.Store, id int64) string {
	t.Helper()
	const columns = `action_ref, pack_ref, rule_ref, trigger_ref, event_id IS NOT NULL, enforcement_id IS NOT NULL, ordinal, item,
		priority, requested_by, timeout, parameters, secrets, retry, rerun_of, depth`
	return one[string](t, s, fmt.Sprintf(`
		SELECT string_agg(row::text, ' AND ')
		FROM (
			SELECT ROW(%[1]s) AS row FROM attune.queue WHERE execution_id = $1
			UNION ALL SELECT ROW(%[1]s) FROM attune.execution WHERE id = $1
		) AS rows`, columns), id)
}

// begin claims one execution, with a store that has not looked ahead.
func begin(t *testing.T, url string, id int64) store.Claimed {
	t.Helper()
	s := storetest.Open(t, url)
	sql(t, s, "UPDATE attune.queue SET priority = priority + 1000 WHERE execution_id = $1", id)
	c := claim(t, s, "old", 1)
	sql(t, s, "UPDATE attune.queue SET priority = priority - 1000 WHERE execution_id = $1", id)
	if len(c) != 1 || c[0].ExecutionID != id {
		t.Fatalf("claimed %v", c)
	}
	return c[0]
}

// A database of the version before is brought up to date: what waits, runs or has ended stays what it is, in one
// place, and goes on from there.
func TestHistoryOfBeforeIsWrittenOnce(t *testing.T) {
	t.Parallel()
	url := storetest.NewEmptyURL(t)
	s := storetest.Open(t, url)
	if err := s.MigrateTo(t.Context(), 29); err != nil {
		t.Fatal(err)
	}
	sql(t, s, `INSERT INTO attune.pack (ref, directory, present, errors, manifest, digest, generation)
		VALUES ('a', '/packs', TRUE, '[]', '{"enabled": true}', 'd', 1)`)
	sql(t, s, `INSERT INTO attune.revision (pack_id, number, digest, version, cause, tree)
		SELECT id, 1, 'r', '1.0.0', 'edit', '[]' FROM attune.pack`)
	sql(t, s, "UPDATE attune.pack SET revision_id = (SELECT id FROM attune.revision)")
	for table, component := range map[string]manifest.Component{"action": action("a", "x"), "trigger": trigger("a", "t")} {
		text, err := manifest.Encode(component)
		if err != nil {
			t.Fatal(err)
		}
		sql(t, s, fmt.Sprintf(`INSERT INTO attune.%s (ref, pack_id, file, present, pack_enabled, manifest, digest, files_digest, revision_id, generation)
			SELECT $1, id, 'f', TRUE, TRUE, $2, 'd', 'f', revision_id, 1 FROM attune.pack`, table), component.Head().Ref, text)
	}
	if err := s.PutNode(t.Context(), store.Node{ID: "old", Host: "h"}); err != nil {
		t.Fatal(err)
	}
	f := newFormer(t, s)
	before := slices.Concat(f.queue(), f.queue(), f.queue())
	statuses := map[int64]store.Status{}
	for _, id := range before {
		statuses[id] = store.StatusRequested
	}
	ended, running, unstarted := begin(t, url, before[0]), begin(t, url, before[1]), begin(t, url, before[2])
	start(t, s, ended, running)
	f.end(ended)
	statuses[before[0]], statuses[before[1]], statuses[before[2]] = store.StatusSucceeded, store.StatusRunning, store.StatusRunning
	f.cancel(before[3])
	statuses[before[3]] = store.StatusCancelled
	sql(t, s, "UPDATE attune.queue SET status = 'scheduled', due_at = now() + INTERVAL '1 hour' WHERE execution_id = $1", before[4])
	statuses[before[4]] = store.StatusScheduled
	later := begin(t, url, before[5])
	start(t, s, later)
	again := begin(t, url, before[6])
	// A long queue, which is moved in several parts.
	const long = 5_200
	sql(t, s, `WITH made AS (
			INSERT INTO attune.execution (action_ref, pack_ref, status, rerun_of)
			SELECT 'b.x', 'b', 'requested', 7 FROM generate_series(1, $1) RETURNING *)
		INSERT INTO attune.queue (execution_id, created_at, status, pack_ref, action_ref, due_at, parameters)
		SELECT id, created_at, status, pack_ref, action_ref, due_at, parameters FROM made`, long)

	// Broken off, it may be done again.
	if err := s.MigrateTo(t.Context(), 30); err != nil {
		t.Fatal(err)
	}
	sql(t, s, "DELETE FROM attune.schema_version WHERE version_id = 30")
	if _, to, err := s.Migrate(t.Context()); err != nil || to < 30 {
		t.Fatalf("migrated to %d: %v", to, err)
	}
	same := func(ids ...int64) {
		t.Helper()
		for i, id := range ids {
			want := fmt.Sprintf(`(a.x,a,a.r,a.t,t,t,%d,%d,%d,rule,00:01:00,"{""n"": 1}","{""/token"": ""name""}","{""max_attempts"": 2}",7,3)`, i/2%2, i%2, i%4+1)
			if got := asked(t, s, id); got != want {
				t.Errorf("execution %d is %s, expected %s", id, got, want)
			}
		}
	}
	same(before...)
	storetest.CheckInvariants(t, url)
	if n := one[int](t, s, "SELECT count(*) FROM attune.execution WHERE finished_at IS NULL"); n != 0 {
		t.Errorf("%d that have not ended are in the history", n)
	}
	if n := one[int](t, s, "SELECT count(*) FROM attune.execution_now WHERE rerun_of = 7"); n != long+len(before) {
		t.Errorf("%d executions, expected %d", n, long+len(before))
	}
	statuses[before[5]], statuses[before[6]] = store.StatusRunning, store.StatusRunning
	list, err := s.ListExecutions(t.Context(), store.ExecutionFilter{Rule: "a.r", Limit: 1000})
	if err != nil || len(list) != len(before) {
		t.Fatalf("%d executions, %v", len(list), err)
	}
	for _, e := range list {
		if e.Status != statuses[e.ID] {
			t.Errorf("execution %d is %s, expected %s", e.ID, e.Status, statuses[e.ID])
		}
	}
	if _, enforcements, err := s.Event(t.Context(), *list[0].EventID); err != nil || !slices.Equal(enforcements[0].Executions, before[8:]) {
		t.Errorf("%+v, expected %d: %v", enforcements, before[8:], err)
	}

	// What was queued and claimed before is ended as ever.
	sql(t, s, "DELETE FROM attune.queue WHERE action_ref = 'b.x'")
	if held := start(t, s, unstarted); !held[unstarted.Token] {
		t.Error("what was claimed before cannot be started")
	}
	if _, err := s.Cancel(t.Context(), before[4], "ada"); err != nil {
		t.Error(err)
	}
	finish(t, s, store.Outcome{Token: running.Token, Status: store.StatusSucceeded}, store.Outcome{Token: later.Token, Status: store.StatusFailed})
	for _, c := range append(claim(t, s, "new", 100), unstarted, again) {
		start(t, s, c)
		finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusSucceeded})
	}
	same(before...)
	storetest.Settle(t, url)

	if n := one[int](t, s, "SELECT count(*) FROM pg_trigger WHERE tgrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'attune.execution'::regclass) OR tgrelid = 'attune.execution'::regclass"); n != 0 {
		t.Errorf("each end pays for %d triggers, although a node of the version before was about", n)
	}
}

// An execution goes from the queue to the history in one statement: held up in the middle of it, wherever that is,
// and after it, it is seen once.
func TestAnEndIsSeenOnce(t *testing.T) {
	t.Parallel()
	for table, row := range map[string]string{
		"execution": "(id, created_at, action_ref, pack_ref, status, finished_at, parameters) VALUES ($1, $2, 'a.x', 'a', 'lost', now(), '{}')",
		"attempt":   "(execution_id, created_at, number, token, status, node, queued_at, finished_at) VALUES ($1, $2, 1, gen_random_uuid(), 'lost', 'n', now(), now())",
		"output":    "(execution_id, created_at, attempt, stream, text, bytes) VALUES ($1, $2, 1, 'stdout', 'x', 1)",
	} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			url := storetest.NewURL(t)
			s := storetest.Open(t, url)
			id := enqueue(t, s, store.NewExecution{Action: "a.x"})[0]
			c := claim(t, s, "n", 1)[0]
			start(t, s, c)
			seen := func() string {
				return one[string](t, s, "SELECT string_agg(status, ' and ') FROM attune.execution_now WHERE id = $1", id)
			}
			// Whoever has a row of that key and has not said yet whether it stays has the statement wait.
			blocker, err := storetest.Connect(t, url).Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := blocker.Exec(t.Context(), "INSERT INTO attune."+table+row, id, c.CreatedAt); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := s.Finish(t.Context(), []store.Outcome{{Token: c.Token, Status: store.StatusSucceeded, Stdout: store.Output{Text: "said", Bytes: 4}}})
				done <- err
			}()
			deadline := time.Now().Add(patience)
			for one[int](t, s, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == 0 {
				if len(done) > 0 || time.Now().After(deadline) {
					t.Fatal("it is not held up")
				}
			}
			if got := seen(); got != "running" {
				t.Errorf("meanwhile it is %s", got)
			}
			if err := blocker.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if got := seen(); got != "succeeded" {
				t.Errorf("afterwards it is %s", got)
			}
		})
	}
}

// Lists of what is newest find it by index, in the queue and in each day, however much there is, and whatever they
// are narrowed to.
func TestListPlans(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	// What is made, filled and asked for are days before one midnight.
	begin := today(t, s)
	sql(t, s, "SELECT attune.make_partitions($1::date - 3, $1::date - 1)", begin)
	sql(t, s, `INSERT INTO attune.execution (created_at, action_ref, pack_ref, rule_ref, event_id, status, attempt, finished_at, parameters)
		SELECT $1::date::timestamp AT TIME ZONE 'UTC' - n * INTERVAL '12 seconds', 'a.x' || n % 20, 'a', 'a.r' || n % 20, n, 'succeeded', 1, now(), '{}'
		FROM generate_series(1, 20000) AS n`, begin)
	sql(t, s, `INSERT INTO attune.queue (execution_id, created_at, status, pack_ref, action_ref, due_at, parameters)
		SELECT nextval('attune.execution_id'), now(), 'requested', 'a', 'a.x1', now(), '{}' FROM generate_series(1, 5000)`)
	sql(t, s, "ANALYZE")
	for name, filter := range map[string]pgx.StrictNamedArgs{
		"all":          {},
		"an action":    {"action_ref": "a.x1"},
		"a rule":       {"rule_ref": "a.r1"},
		"a page":       {"before": int64(15_000)},
		"what failed":  {"statuses": []string{"succeeded"}},
		"what is late": {"since": time.Now().Add(-36 * time.Hour)},
	} {
		for _, query := range []string{"ListExecutions", "ChooseExecutions"} {
			args := pgx.StrictNamedArgs{
				"action_ref": nil, "rule_ref": nil, "pack_ref": nil, "statuses": []string(nil), "event_id": nil, "since": nil, "before": nil, "most": 100,
			}
			maps.Copy(args, filter)
			plan := planned(t, s, query, args)
			if !strings.Contains(plan, "Merge Append") || strings.Contains(plan, "Sort  ") || strings.Contains(plan, "Seq Scan") {
				t.Errorf("%s of %s are not found by index:\n%s", query, name, plan)
			}
		}
	}
	event := planned(t, s, "ChooseExecutions", pgx.StrictNamedArgs{
		"action_ref": nil, "rule_ref": nil, "pack_ref": nil, "statuses": []string(nil), "event_id": int64(777), "since": nil, "before": nil, "most": 100,
	})
	if strings.Contains(event, "Seq Scan on execution_"+one[string](t, s, "SELECT to_char($1::date - 1, 'YYYYMMDD')", begin)) {
		t.Errorf("what an event led to is not found by index:\n%s", event)
	}
}

// What is rare in a long history is found by index too: nobody looks through all that succeeded for what failed, or
// for the pack that runs once a day.
func TestRareListPlans(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	sql(t, s, `INSERT INTO attune.execution (action_ref, pack_ref, rule_ref, event_id, status, finished_at, parameters)
		SELECT 'a.x' || n % 10, 'a', 'a.r' || n % 10, n, CASE WHEN n = 7 THEN 'failed' ELSE 'succeeded' END, now(), '{}'
		FROM generate_series(1, 50000) AS n`)
	sql(t, s, "ANALYZE")
	passed := regexp.MustCompile(`Rows Removed by Filter: (\d+)`)
	for name, filter := range map[string]pgx.StrictNamedArgs{
		"no action":           {"action_ref": "a.none"},
		"no rule":             {"rule_ref": "a.none"},
		"no pack":             {"pack_ref": "none"},
		"no event":            {"event_id": int64(99_999)},
		"what failed":         {"statuses": []string{"failed"}},
		"what did not finish": {"statuses": []string{"failed", "timed_out"}, "pack_ref": "a"},
		"an action's":         {"statuses": []string{"failed"}, "action_ref": "a.x7", "since": time.Now().Add(-time.Hour)},
	} {
		for _, query := range []string{"ListExecutions", "ChooseExecutions"} {
			args := pgx.StrictNamedArgs{
				"action_ref": nil, "rule_ref": nil, "pack_ref": nil, "statuses": []string(nil), "event_id": nil, "since": nil, "before": nil, "most": 100,
			}
			maps.Copy(args, filter)
			plan := planned(t, s, query, args, "ANALYZE")
			for _, found := range passed.FindAllStringSubmatch(plan, -1) {
				if n, err := strconv.Atoi(found[1]); err != nil || n > 10 {
					t.Errorf("%s for %s passes over %d:\n%s", query, name, n, plan)
				}
			}
		}
	}
}

// planned explains a list as it is sent: planned for its arguments.
func planned(t *testing.T, s *store.Store, name string, args pgx.StrictNamedArgs, options ...string) string {
	t.Helper()
	explain := "EXPLAIN "
	if len(options) > 0 {
		explain += "(" + strings.Join(options, ", ") + ") "
	}
	rows, err := s.Pool().Query(t.Context(), explain+s.Query(name), pgx.QueryExecModeCacheDescribe, args)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return strings.Join(lines, "\n")
}
