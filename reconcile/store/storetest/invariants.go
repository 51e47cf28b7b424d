package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// invariants are what holds of every database, whatever happened to the nodes that wrote to it: each query
// gives what breaks it.
var invariants = []struct{ name, query string }{
	{"an execution is in the queue until it ends, and in the history then", `
		SELECT 'execution ' || execution_id || ' is ' || queue.status || ' in the queue and ' || execution.status || ' in the history'
		FROM attune.queue JOIN attune.execution ON id = execution_id`},
	{"what an enforcement asked for is kept", `
		SELECT 'execution ' || asked.id || ' of event ' || event_id || ', rule ' || rule_ref
		FROM attune.enforcement CROSS JOIN LATERAL unnest(execution_ids) AS asked (id)
		WHERE NOT EXISTS (SELECT FROM attune.execution_now WHERE execution_now.id = asked.id)`},
	{"an end and its time come together", `
		SELECT 'execution ' || id || ' is ' || status || ' and finished at ' || COALESCE(finished_at::text, 'no time')
		FROM attune.execution
		WHERE (status IN ('succeeded', 'failed', 'timed_out', 'cancelled', 'lost')) <> (finished_at IS NOT NULL)`},
	{"an attempt that is told of has ended", `
		SELECT 'execution ' || execution_id || ', attempt ' || number || ' is ' || status || ' and finished at ' || COALESCE(finished_at::text, 'no time')
		FROM attune.attempt
		WHERE status = 'running' OR finished_at IS NULL OR number < 1`},
	{"what a row of the queue says fits together", `
		SELECT 'execution ' || execution_id || ' ' || problem
		FROM attune.queue
		CROSS JOIN LATERAL (
			VALUES
				(started_at IS NOT NULL AND token IS NULL, 'has begun, and nobody holds it'),
				(in_line AND (status <> 'scheduled' OR concurrency_key IS NULL), 'stands in line, and is not scheduled or has no key'),
				((cancel_at IS NULL) <> (cancel_by IS NULL), 'is to be cancelled by nobody, or at no time'),
				((waits_for IS NULL) <> (waits_until IS NULL), 'waits for nothing, or until no time'),
				((former_revision_id IS NULL) <> (former_manifest IS NULL), 'has half of a former revision'),
				(spared NOT BETWEEN 0 AND attempt, 'had ' || attempt || ' attempts, of which ' || spared || ' do not count')
		) AS rule (broken, problem)
		WHERE broken`},
	{"an attempt has one outcome", `
		SELECT 'execution ' || execution_id || ', attempt ' || min(number) || ' has ' || count(*)
		FROM attune.attempt GROUP BY execution_id, token HAVING count(*) > 1
		UNION ALL
		SELECT 'execution ' || execution_id || ', attempt ' || number || ' has ' || count(*)
		FROM attune.attempt GROUP BY execution_id, number HAVING count(*) > 1`},
	{"attempts are counted without a gap", `
		SELECT 'execution ' || execution.id || ' had ' || execution.attempt || ' attempts, of which ' || count(attempt.number) || ' are told of, up to ' || COALESCE(max(attempt.number), 0)
		FROM attune.execution LEFT JOIN attune.attempt ON attempt.execution_id = execution.id
		WHERE execution.finished_at IS NOT NULL
		GROUP BY execution.id, execution.attempt
		HAVING count(attempt.number) <> execution.attempt OR COALESCE(max(attempt.number), 0) <> execution.attempt`},
	{"an execution ends as its last attempt did", `
		SELECT 'execution ' || execution.id || ' is ' || execution.status || ', its last attempt ' || COALESCE(attempt.status, 'nowhere')
		FROM attune.execution
		LEFT JOIN attune.attempt ON attempt.execution_id = execution.id AND attempt.number = execution.attempt
		WHERE execution.finished_at IS NOT NULL
			AND execution.status <> 'cancelled'
			AND attempt.status IS DISTINCT FROM execution.status`},
	{"a place of an enforcement has one execution", `
		SELECT count(*) || ' executions of event ' || event_id || ', rule ' || rule_ref || ', action ' || ordinal || ', item ' || item
		FROM (
			SELECT event_id, rule_ref, enforcement_id, ordinal, item FROM attune.queue
			UNION ALL SELECT event_id, rule_ref, enforcement_id, ordinal, item FROM attune.execution
		) AS asked
		WHERE enforcement_id IS NOT NULL
		GROUP BY event_id, rule_ref, enforcement_id, ordinal, item HAVING count(*) > 1`},
	{"an event has one enforcement for each rule", `
		SELECT count(*) || ' enforcements of event ' || event_id || ' and rule ' || rule_ref
		FROM attune.enforcement GROUP BY event_id, rule_ref HAVING count(*) > 1`},
	{"an execution that a rule asked for has its enforcement", `
		SELECT 'execution ' || execution.id
		FROM attune.execution_now AS execution
		WHERE enforcement_id IS NOT NULL AND NOT EXISTS (
			SELECT FROM attune.enforcement
			WHERE enforcement.id = execution.enforcement_id AND enforcement.event_id = execution.event_id AND enforcement.status = 'matched'
				AND (execution_ids IS NULL OR execution.id = ANY (execution_ids))
		)`},
	{"an event is stored once by its source's own number", `
		SELECT count(*) || ' events of ' || source || ' and trigger ' || trigger_ref || ' are ' || event_id
		FROM attune.event WHERE event_id <> ''
		GROUP BY source, trigger_ref, event_id HAVING count(*) > 1`},
	{"a token begins with the number of its execution", `
		SELECT 'execution ' || execution_id || ' has token ' || token
		FROM (SELECT execution_id, token FROM attune.queue WHERE token IS NOT NULL UNION ALL SELECT execution_id, token FROM attune.attempt) AS held
		WHERE substring(uuid_send(token) FOR 8) <> int8send(execution_id)`},
	{"what was printed is of an attempt that is told of", `
		SELECT 'execution ' || execution_id || ', attempt ' || attempt
		FROM attune.output
		WHERE NOT EXISTS (SELECT FROM attune.attempt WHERE attempt.execution_id = output.execution_id AND number = output.attempt)`},
	{"what is in force runs from a revision of its pack that is whole", `
		SELECT ref || ' runs from revision ' || component.revision_id || ' of pack ' || revision.pack_id || ', which has no ' || COALESCE(entry ->> 'path', 'such revision')
		FROM (
			SELECT ref, pack_id, revision_id FROM attune.action WHERE enabled
			UNION ALL SELECT ref, pack_id, revision_id FROM attune.trigger WHERE enabled
			UNION ALL SELECT ref, pack_id, revision_id FROM attune.sensor WHERE enabled
			UNION ALL SELECT ref, pack_id, revision_id FROM attune.rule WHERE enabled
		) AS component
		JOIN attune.revision ON revision.id = component.revision_id
		LEFT JOIN LATERAL jsonb_array_elements(revision.tree) AS entry
			ON entry ->> 'digest' <> '' AND NOT EXISTS (SELECT FROM attune.file WHERE digest = entry ->> 'digest')
		WHERE entry IS NOT NULL OR revision.pack_id <> component.pack_id`},
	{"a matched event is stored", `
		SELECT 'event ' || event_id || ', rule ' || rule_ref
		FROM attune.enforcement
		WHERE NOT EXISTS (SELECT FROM attune.event WHERE event.id = enforcement.event_id)`},
}

// CheckInvariants fails the test where the database says what must never be: an execution that is neither
// waiting nor ended, an attempt with two outcomes, an event that led to too much, a component in force
// without its files. Others may write to it meanwhile.
func CheckInvariants(t testing.TB, url string) {
	t.Helper()
	for _, problem := range Broken(t, url) {
		t.Error(problem)
	}
}

// Broken tells what is not as it must be, each as the name of the invariant and what breaks it.
func Broken(t testing.TB, url string) (problems []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	conn := Connect(t, url)
	for _, one := range invariants {
		rows, err := conn.Query(ctx, one.query+" LIMIT 10")
		if err != nil {
			problems = append(problems, one.name+": "+err.Error())
			continue
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			problems = append(problems, one.name+": "+err.Error())
		}
		for _, what := range found {
			problems = append(problems, one.name+", but: "+what)
		}
	}
	return problems
}

// Invariants are their names.
func Invariants() (names []string) {
	for _, one := range invariants {
		names = append(names, one.name)
	}
	return names
}

// Settle waits until nothing waits or runs any more, for as long as that goes on, and then checks the invariants.
func Settle(t testing.TB, url string) {
	t.Helper()
	conn := Connect(t, url)
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for last := -1; last != 0; {
		var left int
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM attune.queue").Scan(&left); err != nil {
			t.Fatal(err)
		}
		if left != last {
			last = left
			deadline.Reset(patience)
			continue
		}
		select {
		case <-deadline.C:
			t.Errorf("%d executions have not ended", left)
			return
		case <-tick.C:
		}
	}
	CheckInvariants(t, url)
}
