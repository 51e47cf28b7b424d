-- The concurrency of actions. An execution that is counted has a concurrency_key. While it is scheduled it
-- waits, for a time or in line; from then on, until it has ended or is scheduled again, it holds a place.
-- So places need no counter that could go wrong: they are counted, by who has the key's row for itself.
-- That row is locked after rows of the queue and never before one that is waited for: what is admitted
-- is taken only where nobody else holds it, because who does admits too, or the next sweep.

-- name: LockConcurrency
-- On its own, before anything is counted: a statement sees what was committed before it began, and this
-- one may wait.
INSERT INTO attune.concurrency (action_ref, key)
SELECT action_ref, key
FROM unnest(@actions::text[], @keys::text[]) AS input (action_ref, key)
GROUP BY action_ref, key
ORDER BY action_ref, key
ON CONFLICT (action_ref, key) DO UPDATE
SET counted_at = now();

-- name: Admit
-- Gives the free places of these keys to those in line, and decides about the others by the policy in
-- force: queue lets them wait; skip ends those that have never begun; replace wants the newest of all,
-- so older ones end, and those of them that hold a place are answered, to be cancelled. Without @ending those
-- who were to end stay in line.
WITH
counted AS MATERIALIZED (
    SELECT
        input.action_ref,
        input.key,
        (action.manifest -> 'concurrency' ->> 'max')::integer AS most,
        COALESCE(action.manifest -> 'concurrency' ->> 'policy', 'queue') AS policy,
        places.held,
        places.holder
    FROM (
        SELECT DISTINCT action_ref, key
        FROM unnest(@actions::text[], @keys::text[]) AS input (action_ref, key)
    ) AS input
    LEFT JOIN attune.action
        ON action.ref = input.action_ref
    CROSS JOIN LATERAL (
        SELECT count(*) AS held, min(queue.execution_id) AS holder
        FROM attune.queue
        WHERE queue.action_ref = input.action_ref
            AND queue.concurrency_key = input.key
            AND queue.status <> 'scheduled'
    ) AS places
),
line AS MATERIALIZED (
    SELECT counted.*, waiting.*
    FROM counted
    CROSS JOIN LATERAL (
        SELECT queue.execution_id, queue.attempt, queue.priority, queue.due_at
        FROM attune.queue
        WHERE queue.action_ref = counted.action_ref
            AND queue.concurrency_key = counted.key
            AND queue.in_line
        ORDER BY queue.priority DESC, queue.due_at, queue.execution_id
        -- Where all wait, only those that need not wait any more are looked at.
        LIMIT CASE
            WHEN counted.policy = 'queue' AND counted.most IS NOT NULL THEN GREATEST(counted.most - counted.held, 0)
            ELSE 10000
        END
        FOR UPDATE OF queue SKIP LOCKED
    ) AS waiting
),
holding AS MATERIALIZED (
    SELECT counted.*, queue.execution_id
    FROM counted
    JOIN attune.queue
        ON queue.action_ref = counted.action_ref
        AND queue.concurrency_key = counted.key
        AND queue.status <> 'scheduled'
    WHERE counted.policy = 'replace'
        AND queue.cancel_at IS NULL
),
-- From the newest on, those that are wanted; the oldest of these replaces the others.
wanted AS MATERIALIZED (
    SELECT action_ref, key, execution_id
    FROM (
        SELECT
            action_ref, key, execution_id, most,
            row_number() OVER (PARTITION BY action_ref, key ORDER BY execution_id DESC) AS newness
        FROM (
            SELECT action_ref, key, execution_id, most FROM line WHERE policy = 'replace'
            UNION ALL
            SELECT action_ref, key, execution_id, most FROM holding
        ) AS rivals
    ) AS ranked
    WHERE newness <= most
),
judged AS MATERIALIZED (
    SELECT
        line.*,
        line.policy = 'replace'
            AND line.most IS NOT NULL
            AND NOT EXISTS (SELECT FROM wanted WHERE wanted.execution_id = line.execution_id)
            AS replaced,
        row_number() OVER (
            PARTITION BY line.action_ref, line.key
            ORDER BY line.priority DESC, line.due_at, line.execution_id
        ) AS rank
    FROM line
),
placed AS MATERIALIZED (
    SELECT
        judged.*,
        NOT replaced
            AND (
                most IS NULL
                OR sum((NOT replaced)::integer) OVER (PARTITION BY action_ref, key ORDER BY rank) <= most - held
            ) AS admitted
    FROM judged
),
fated AS MATERIALIZED (
    SELECT
        placed.*,
        CASE
            WHEN admitted THEN 'admitted'
            WHEN replaced THEN 'replaced'
            WHEN policy = 'skip' AND attempt = 0 THEN 'skipped'
            ELSE 'waiting'
        END AS fate
    FROM placed
),
admitted AS (
    UPDATE attune.queue
    SET status = 'requested',
        in_line = FALSE
    FROM fated
    WHERE queue.execution_id = fated.execution_id
        AND fated.fate = 'admitted'
    RETURNING queue.execution_id
),
gone AS (
    DELETE FROM attune.queue
    USING fated
    WHERE queue.execution_id = fated.execution_id
        AND fated.fate IN ('replaced', 'skipped')
        AND @ending::boolean
    RETURNING queue.*, fated.fate, fated.most, fated.holder
),
ended AS (
    SELECT
        ASKED_COLUMNS, attempt, UNBEGUN_COLUMNS,
        CASE fate
            WHEN 'replaced' THEN 'replaced by execution ' || (
                SELECT min(wanted.execution_id)
                FROM wanted
                WHERE wanted.action_ref = gone.action_ref
                    AND wanted.key = gone.concurrency_key
            )
            ELSE format(
                'skipped: concurrency allows %s at once%s, and execution %s has not ended',
                most, CASE WHEN concurrency_key <> '' THEN format(' for key %s', to_json(concurrency_key)) ELSE '' END,
                -- Of those that were queued together the first may have taken the last place.
                COALESCE(holder, (
                    SELECT min(first.execution_id)
                    FROM fated AS first
                    WHERE first.action_ref = gone.action_ref
                        AND first.key = gone.concurrency_key
                        AND first.fate = 'admitted'
                ))
            )
        END AS error
    FROM gone
),
KEEP_ENDED,
told AS (
    TELL_ENDED
),
woken AS (
    SELECT pg_notify('attune_queue', '')
    FROM admitted
    LIMIT 1
)
SELECT
    answer.execution_id,
    answer.fate,
    answer.replaced_by,
    (SELECT count(*) FROM told) + (SELECT count(*) FROM woken) AS notified
FROM (
    SELECT execution_id, fate, NULL::bigint AS replaced_by
    FROM fated
    UNION ALL
    SELECT
        holding.execution_id,
        'unwanted',
        (
            SELECT min(wanted.execution_id)
            FROM wanted
            WHERE wanted.action_ref = holding.action_ref
                AND wanted.key = holding.key
        )
    FROM holding
    WHERE NOT EXISTS (SELECT FROM wanted WHERE wanted.execution_id = holding.execution_id)
) AS answer;

-- name: StrayLines
-- Keys with somebody in line who need not be, because whoever was to admit them died, or the action was
-- edited, or they were passed over while somebody held them. Only the first of each line is looked at.
WITH RECURSIVE
line AS (
    (
        SELECT action_ref, concurrency_key AS key
        FROM attune.queue
        WHERE in_line
        ORDER BY action_ref, concurrency_key
        LIMIT 1
    )
    UNION ALL
    SELECT later.*
    FROM line
    CROSS JOIN LATERAL (
        SELECT queue.action_ref, queue.concurrency_key
        FROM attune.queue
        WHERE queue.in_line
            AND (queue.action_ref, queue.concurrency_key) > (line.action_ref, line.key)
        ORDER BY queue.action_ref, queue.concurrency_key
        LIMIT 1
    ) AS later
)
SELECT line.action_ref, line.key
FROM line
LEFT JOIN attune.action
    ON action.ref = line.action_ref
WHERE action.manifest -> 'concurrency' IS NULL
    OR action.manifest -> 'concurrency' ->> 'policy' IN ('skip', 'replace')
    OR (
        SELECT count(*)
        FROM attune.queue
        WHERE queue.action_ref = line.action_ref
            AND queue.concurrency_key = line.key
            AND queue.status <> 'scheduled'
    ) < (action.manifest -> 'concurrency' ->> 'max')::integer
LIMIT @most::integer;

-- name: PruneConcurrency
WITH old AS (
    SELECT action_ref, key
    FROM attune.concurrency
    WHERE counted_at < now() - INTERVAL '1 day'
    ORDER BY action_ref, key
    LIMIT @most::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM attune.concurrency
USING old
WHERE concurrency.action_ref = old.action_ref
    AND concurrency.key = old.key;
