-- Limits of rules. Whoever locks several states locks them in the order of rule, kind and key.

-- name: MakeRuleStates
-- So that LockRuleStates has a row to lock: two nodes that see a key for the first time at once must
-- not both find nothing.
INSERT INTO attune.rule_state (rule_ref, kind, key, expires_at)
SELECT rule_ref, kind, key, now() + INTERVAL '1 hour'
FROM unnest(@rule_refs::text[], @kinds::text[], @keys::text[]) AS input (rule_ref, kind, key)
ORDER BY rule_ref, kind, key
ON CONFLICT (rule_ref, kind, key) DO NOTHING;

-- name: LockRuleStates
SELECT rule_state.rule_ref, rule_state.kind, rule_state.key, rule_state.state
FROM unnest(@rule_refs::text[], @kinds::text[], @keys::text[]) AS input (rule_ref, kind, key)
JOIN attune.rule_state
    ON rule_state.rule_ref = input.rule_ref
    AND rule_state.kind = input.kind
    AND rule_state.key = input.key
ORDER BY rule_state.rule_ref, rule_state.kind, rule_state.key
FOR NO KEY UPDATE OF rule_state;

-- name: RecentFailures
-- Of each rule, how many of its newest executions ended without success, one after the other, since its
-- breaker was last closed. What was cancelled says nothing. The look back is bounded.
SELECT input.rule_ref, failed.failures, failed.last
FROM unnest(@rule_refs::text[]) AS input (rule_ref)
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE ended.successes = 0) AS failures,
        COALESCE(max(ended.id) FILTER (WHERE ended.successes = 0), 0) AS last
    FROM (
        SELECT recent.id, count(*) FILTER (WHERE recent.status = 'succeeded') OVER (ORDER BY recent.id DESC) AS successes
        FROM (
            SELECT execution.id, execution.status
            FROM attune.execution
            WHERE execution.rule_ref = input.rule_ref
                AND execution.created_at > now() - INTERVAL '7 days'
                AND execution.created_at > COALESCE((
                    SELECT to_timestamp((rule_state.state ->> 'closed_at')::bigint / 1000000.0)
                    FROM attune.rule_state
                    WHERE rule_state.rule_ref = input.rule_ref
                        AND rule_state.kind = 'breaker'
                        AND rule_state.key = ''
                ), '-infinity')
            ORDER BY execution.id DESC
            LIMIT 1000
        ) AS recent
        WHERE recent.status IN ('succeeded', 'failed', 'timed_out', 'lost')
    ) AS ended
) AS failed;

-- name: PutRuleStates
INSERT INTO attune.rule_state (rule_ref, kind, key, state, expires_at)
SELECT rule_ref, kind, key, state::jsonb, expires_at
FROM unnest(
    @rule_refs::text[], @kinds::text[], @keys::text[], @states::text[], @expires_at::timestamptz[]
) AS input (rule_ref, kind, key, state, expires_at)
ORDER BY rule_ref, kind, key
ON CONFLICT (rule_ref, kind, key) DO UPDATE
SET state = EXCLUDED.state,
    expires_at = EXCLUDED.expires_at,
    updated_at = now();

-- name: SupersedeExecutions
-- What an event has had waiting for quiet ends when the next event comes: it was never due, and leaves
-- nothing but its enforcement, which says by which event. What somebody cancelled, or what fell due
-- meanwhile, is left alone. An enforcement of a former version does not name its executions.
WITH
waiting AS MATERIALIZED (
    SELECT
        queue.execution_id,
        enforcement.created_at,
        enforcement.event_id,
        enforcement.rule_ref,
        input.reason
    FROM unnest(@rule_refs::text[], @event_ids::bigint[], @created_at::timestamptz[], @reasons::text[])
        AS input (rule_ref, event_id, created_at, reason)
    JOIN attune.enforcement
        ON enforcement.event_id = input.event_id
        AND enforcement.created_at = input.created_at
        AND enforcement.rule_ref = input.rule_ref
    CROSS JOIN LATERAL unnest(COALESCE(enforcement.execution_ids, ARRAY(
        SELECT former.execution_id
        FROM attune.queue AS former
        WHERE former.event_id = enforcement.event_id
            AND former.enforcement_id = enforcement.id
    ))) AS asked (id)
    JOIN attune.queue
        ON queue.execution_id = asked.id
    WHERE queue.token IS NULL
        AND queue.due_at > now()
    ORDER BY queue.execution_id
    FOR UPDATE OF queue
),
gone AS (
    DELETE FROM attune.queue
    USING waiting
    WHERE queue.execution_id = waiting.execution_id
)
UPDATE attune.enforcement
SET status = 'skipped',
    error = waiting.reason,
    execution_ids = ARRAY(
        SELECT kept.id
        FROM unnest(enforcement.execution_ids) AS kept (id)
        WHERE kept.id NOT IN (SELECT execution_id FROM waiting)
    )
FROM (SELECT DISTINCT event_id, rule_ref, created_at, reason FROM waiting) AS waiting
WHERE enforcement.event_id = waiting.event_id
    AND enforcement.rule_ref = waiting.rule_ref
    AND enforcement.created_at = waiting.created_at;

-- name: PruneRuleStates
WITH old AS (
    SELECT rule_ref, kind, key
    FROM attune.rule_state
    WHERE expires_at < now()
    ORDER BY rule_ref, kind, key
    LIMIT @most::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM attune.rule_state
USING old
WHERE rule_state.rule_ref = old.rule_ref
    AND rule_state.kind = old.kind
    AND rule_state.key = old.key;

-- name: OpenBreakers
SELECT
    rule_ref,
    to_timestamp((state ->> 'opened_at')::bigint / 1000000.0) AS opened_at,
    to_timestamp((state ->> 'open_until')::bigint / 1000000.0) AS open_until,
    state ->> 'reason' AS reason
FROM attune.rule_state
WHERE kind = 'breaker'
    AND (state ->> 'open_until')::bigint > EXTRACT(EPOCH FROM now()) * 1000000
    AND (@rule_ref::text IS NULL OR rule_ref = @rule_ref)
ORDER BY rule_ref;

-- name: ResetRule
-- Forgets what throttle and dedupe remember and closes the breaker. What waits for quiet goes on
-- waiting.
WITH
held AS MATERIALIZED (
    SELECT rule_ref, kind, key, state
    FROM attune.rule_state
    WHERE rule_ref = @rule_ref::text
        AND kind <> 'debounce'
    ORDER BY kind, key
    FOR UPDATE
),
forgotten AS (
    DELETE FROM attune.rule_state
    USING held
    WHERE rule_state.rule_ref = held.rule_ref
        AND rule_state.kind = held.kind
        AND rule_state.key = held.key
        AND held.kind <> 'breaker'
),
closed AS (
    UPDATE attune.rule_state
    SET state = jsonb_build_object('closed_at', (EXTRACT(EPOCH FROM now()) * 1000000)::bigint),
        expires_at = now() + INTERVAL '8 days',
        updated_at = now()
    FROM held
    WHERE rule_state.rule_ref = held.rule_ref
        AND rule_state.kind = held.kind
        AND rule_state.key = held.key
        AND held.kind = 'breaker'
)
SELECT
    COALESCE(bool_or(kind = 'breaker' AND (state ->> 'open_until')::bigint > EXTRACT(EPOCH FROM now()) * 1000000), FALSE) AS opened,
    count(*) FILTER (WHERE kind <> 'breaker') AS forgotten
FROM held;

-- name: CountWaiting
-- What of a rule waits for quiet.
SELECT count(*)
FROM attune.rule_state
WHERE rule_ref = @rule_ref::text
    AND kind = 'debounce'
    AND (state ->> 'due')::bigint > EXTRACT(EPOCH FROM now()) * 1000000;
