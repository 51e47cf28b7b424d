-- What those who follow are told of. History may be searched by number alone here; what changes is found in
-- the queue.

-- name: NewestExecutions
-- Numbers, newest first.
SELECT id
FROM attune.execution_now
ORDER BY id DESC
LIMIT @most::integer;

-- name: NewestEvents
SELECT id
FROM attune.event
ORDER BY id DESC
LIMIT @most::integer;

-- name: NewestWaiting
SELECT execution_id
FROM attune.queue
WHERE token IS NULL
ORDER BY execution_id DESC
LIMIT @most::integer;

-- name: HeldAttempts
-- As many as there are workers.
SELECT execution_id, attempt
FROM attune.queue
WHERE token IS NOT NULL
ORDER BY execution_id;

-- name: WaitingNoMore
-- Which of these wait no more: they run, or have ended.
SELECT input.id
FROM unnest(@ids::bigint[]) AS input (id)
WHERE NOT EXISTS (
    SELECT
    FROM attune.queue
    WHERE queue.execution_id = input.id
        AND queue.token IS NULL
);

-- name: ExecutionsAfter
-- As ListExecutions, in the order of their numbers, from one on.
SELECT
    EXECUTION_COLUMNS
FROM attune.execution_now AS execution
WHERE execution.id > @after::bigint
ORDER BY execution.id
LIMIT @most::integer;

-- name: ExecutionsOf
-- As ListExecutions, of these.
SELECT
    EXECUTION_COLUMNS
FROM attune.execution_now AS execution
WHERE execution.id = ANY (@ids::bigint[])
ORDER BY execution.id;

-- name: EventsAfter
SELECT id, created_at, trigger_ref, instance, source, event_id, payload, problem, replay_of, depth
FROM attune.event
WHERE id > @after::bigint
ORDER BY id
LIMIT @most::integer;

-- name: EventsOf
SELECT id, created_at, trigger_ref, instance, source, event_id, payload, problem, replay_of, depth
FROM attune.event
WHERE id = ANY (@ids::bigint[])
ORDER BY id;

-- name: EXECUTION_COLUMNS
-- An execution without its outputs and its result; a fragment.
execution.id, execution.action_ref, execution.pack_ref, execution.rule_ref, execution.trigger_ref, execution.event_id,
    execution.status, execution.parameters, execution.priority, execution.requested_by, execution.created_at, execution.due_at,
    execution.started_at, execution.finished_at, execution.attempt, execution.node, execution.revision, execution.exit_code,
    execution.signal, execution.error, NULL::jsonb AS result, '' AS stdout, '' AS stderr, execution.stdout_truncated,
    execution.stderr_truncated, execution.rerun_of, NULL::text AS waits_for
