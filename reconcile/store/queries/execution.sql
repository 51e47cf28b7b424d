-- The queue. Three rules keep it fast and right:
-- · what waits or runs is in attune.queue alone, and found by index; history is written once, by the
--   statement that takes it from the queue, and never searched;
-- · an attempt is found by the execution's number, which its token begins with, and nothing else: a
--   predicate on the status would let stale statistics ("nobody runs") talk the planner into walking
--   dead index entries, and an index of tokens would be one more to write at each claim;
-- · who locks several rows locks them in the order of execution_id, so that nobody deadlocks, or passes over
--   what is locked, so that nobody waits.

-- name: HotSettings
-- For statements that look up little in tables that may be large. A plan made while they were empty
-- would scan them, and would be kept when they are full; and planning anew each time costs more than
-- the statement. Lasts for the transaction.
SELECT
    set_config('enable_seqscan', 'off', TRUE),
    set_config('enable_hashjoin', 'off', TRUE),
    set_config('enable_mergejoin', 'off', TRUE),
    set_config('enable_bitmapscan', 'off', TRUE),
    set_config('plan_cache_mode', 'force_generic_plan', TRUE),
    set_config('jit', 'off', TRUE);

-- name: NEW_EXECUTIONS
-- Enforcements and the executions that they cause, or executions alone, but for the queue. Each execution names
-- the place of its enforcement, 0 for none, and each enforcement the places of its first and last execution.
-- Numbers are drawn in the given order, before anything is inserted, because one statement cannot see what
-- another part of it inserts.
--
-- An enforcement has one execution for each action and item, and no index has to hold that: an event has
-- one enforcement for each rule, by the primary key of enforcement, that one's number is drawn here, and who
-- is told of it afterwards queues nothing for it.
enforced AS MATERIALIZED (
    SELECT
        nextval('attune.enforcement_id') AS id,
        input.*
    FROM unnest(
        @enforced_event_ids::bigint[], @enforced_rule_refs::text[], @enforced_statuses::text[],
        @enforced_errors::text[], @enforced_warnings::text[],
        @enforced_firsts::integer[], @enforced_lasts::integer[]
    ) WITH ORDINALITY AS input (event_id, rule_ref, status, error, warnings, first, last, place)
    ORDER BY input.place
),
-- Lists, not joins: joining a thousand with a thousand needs a hash, which is off here.
enforcement_ids AS MATERIALIZED (
    SELECT array_agg(id ORDER BY place) AS ids
    FROM enforced
),
asked AS MATERIALIZED (
    SELECT
        nextval('attune.execution_id') AS id,
        input.place,
        input.action_ref,
        split_part(input.action_ref, '.', 1) AS pack_ref,
        NULLIF(input.rule_ref, '') AS rule_ref,
        NULLIF(input.trigger_ref, '') AS trigger_ref,
        NULLIF(input.event_id, 0) AS event_id,
        (SELECT ids FROM enforcement_ids)[input.enforcement_place] AS enforcement_id,
        input.ordinal,
        input.item,
        -- What is counted waits in line until it is admitted.
        CASE WHEN input.due_at > now() OR input.concurrency_key IS NOT NULL THEN 'scheduled' ELSE 'requested' END AS status,
        input.concurrency_key,
        input.concurrency_key IS NOT NULL AND COALESCE(input.due_at <= now(), TRUE) AS in_line,
        input.priority,
        input.requested_by,
        COALESCE(input.due_at, now()) AS due_at,
        make_interval(secs => NULLIF(input.timeout, 0)) AS timeout,
        input.parameters::jsonb AS parameters,
        NULLIF(input.secrets, '')::jsonb AS secrets,
        NULLIF(input.retry, '')::jsonb AS retry,
        NULLIF(input.rerun_of, 0) AS rerun_of,
        NULLIF(input.former_revision_id, 0) AS former_revision_id,
        NULLIF(input.former_manifest, '')::jsonb AS former_manifest,
        input.depth
    FROM unnest(
        @action_refs::text[], @rule_refs::text[], @trigger_refs::text[], @event_ids::bigint[],
        @enforcement_places::integer[], @ordinals::integer[], @items::integer[],
        @priorities::integer[], @requested_by::text[], @due_at::timestamptz[],
        @timeouts::double precision[], @parameters::text[], @secrets::text[],
        @retries::text[], @reruns_of::bigint[], @former_revision_ids::bigint[], @former_manifests::text[],
        @concurrency_keys::text[], @depths::integer[]
    ) WITH ORDINALITY AS input (
        action_ref, rule_ref, trigger_ref, event_id,
        enforcement_place, ordinal, item,
        priority, requested_by, due_at,
        timeout, parameters, secrets,
        retry, rerun_of, former_revision_id, former_manifest,
        concurrency_key, depth, place
    )
    ORDER BY input.place
),
execution_ids AS MATERIALIZED (
    SELECT array_agg(id ORDER BY place) AS ids
    FROM asked
),
judged AS (
    INSERT INTO attune.enforcement (id, event_id, rule_ref, status, error, warnings, execution_ids)
    SELECT
        id, event_id, rule_ref, status, error, NULLIF(warnings, '')::jsonb,
        COALESCE((SELECT ids FROM execution_ids)[first:last], '{}')
    FROM enforced
)

-- name: CLAIMED_ACTION
-- A fragment: the action in force, as a claim answers it. Its manifest is not sent where it is known.
action.id AS action_id,
        action.generation AS action_generation,
        action.enabled AS action_enabled,
        action.disabled_by AS action_disabled_by,
        action.file,
        CASE WHEN NOT EXISTS (
            SELECT
            FROM unnest(@known_ids::bigint[], @known_generations::bigint[]) AS known (id, generation)
            WHERE known.id = action.id
                AND known.generation = action.generation
        ) THEN action.manifest END AS manifest,
        action.digest,
        action.files_digest,
        action.created_at AS action_created_at,
        action.updated_at AS action_updated_at

-- name: QueueExecutions
WITH
NEW_EXECUTIONS,
queued AS (
    INSERT INTO attune.queue (
        execution_id, created_at, status, pack_ref, action_ref, rule_ref, trigger_ref, event_id, enforcement_id,
        ordinal, item, priority, due_at, timeout, parameters, secrets, retry, former_revision_id, former_manifest,
        concurrency_key, in_line, requested_by, depth, rerun_of
    )
    SELECT
        id, now(), status, pack_ref, action_ref, rule_ref, trigger_ref, event_id, enforcement_id,
        ordinal, item, priority, due_at, timeout, parameters, secrets, retry, former_revision_id, former_manifest,
        concurrency_key, in_line, requested_by, depth, rerun_of
    FROM asked
)
SELECT id
FROM asked
ORDER BY place;

-- name: NUMBERED_MATCHES
-- A fragment: what QueueMatches and ClaimMatches are given, text being the parameters, with the numbers that it gets.
nextval('attune.enforcement_id') AS enforcement_id,
            nextval('attune.execution_id') AS execution_id,
            given.*
        FROM unnest(
            @event_ids::bigint[], @rule_refs::text[], @trigger_refs::text[], @action_refs::text[], @priorities::integer[],
            @parameters::text[]
        )

-- name: JUDGED_MATCHES
-- A fragment: their enforcements. It stands behind placed.
judged AS (
    INSERT INTO attune.enforcement (id, event_id, rule_ref, status, execution_ids)
    SELECT enforcement_id, event_id, rule_ref, 'matched', ARRAY[execution_id]
    FROM placed
)

-- name: QueueMatches
-- QueueExecutions where each enforcement has one execution, which is due and of which nothing but its parameters is
-- said: most of what floods. They get their numbers in their order.
WITH
placed AS MATERIALIZED (
    SELECT NUMBERED_MATCHES AS given (event_id, rule_ref, trigger_ref, action_ref, priority, text)
),
JUDGED_MATCHES,
queued AS (
    INSERT INTO attune.queue (
        execution_id, created_at, status, pack_ref, action_ref, rule_ref, trigger_ref, event_id, enforcement_id,
        priority, due_at, parameters, requested_by, depth
    )
    SELECT
        execution_id, now(), 'requested', split_part(action_ref, '.', 1), action_ref, rule_ref, trigger_ref, event_id, enforcement_id,
        priority, now(), text::jsonb, @requested_by::text, @depth::integer
    FROM placed
)
SELECT array_agg(execution_id ORDER BY execution_id) AS ids
FROM placed;

-- name: QueueClaimed
-- QueueExecutions, and of those that are due and stand no further back than @last_claimed what ClaimExecutions
-- would make of them: nobody has seen them yet, so they are written as claimed. The answer has all of them, with
-- what ClaimExecutions answers of those.
WITH
NEW_EXECUTIONS,
placed AS MATERIALIZED (
    SELECT
        asked.*,
        CASE WHEN asked.is_claimed THEN
            encode(int8send(asked.id) || substring(uuid_send(gen_random_uuid()) FROM 9), 'hex')::uuid
        END AS token,
        CASE WHEN asked.is_claimed
            AND asked.former_revision_id IS NULL
            AND action.enabled
            AND action.revision_id = ANY (@ready_revisions::bigint[])
            AND COALESCE(now() <= asked.due_at + make_interval(secs => action.expires), TRUE)
        THEN now() END AS started_at,
        COALESCE(
            now() > asked.due_at + make_interval(secs => CASE
                WHEN asked.former_manifest IS NULL THEN action.expires
                ELSE (asked.former_manifest ->> 'expires')::double precision
            END),
            FALSE
        ) AS expired,
        CASE WHEN asked.is_claimed THEN revision.id END AS revision_id,
        CASE WHEN asked.is_claimed THEN revision.digest END AS revision,
        CLAIMED_ACTION
    FROM (
        SELECT
            asked.*,
            asked.status = 'requested'
                AND asked.place <= @last_claimed::bigint
                AND NOT EXISTS (SELECT FROM attune.pause WHERE one) AS is_claimed
        FROM asked
        OFFSET 0 -- once for each, not for each use
    ) AS asked
    LEFT JOIN attune.action
        ON action.ref = asked.action_ref
    LEFT JOIN attune.revision
        ON revision.id = COALESCE(asked.former_revision_id, action.revision_id)
),
queued AS (
    INSERT INTO attune.queue (
        execution_id, created_at, status, pack_ref, action_ref, rule_ref, trigger_ref, event_id, enforcement_id,
        ordinal, item, priority, due_at, timeout, parameters, secrets, retry, former_revision_id, former_manifest,
        concurrency_key, in_line, requested_by, depth, rerun_of,
        attempt, token, node, claimed_at, lease_until, started_at, revision_id, revision
    )
    SELECT
        id, now(), CASE WHEN is_claimed THEN 'running' ELSE status END, pack_ref, action_ref, rule_ref, trigger_ref, event_id, enforcement_id,
        ordinal, item, priority, due_at, timeout, parameters, secrets, retry, former_revision_id, former_manifest,
        concurrency_key, in_line, requested_by, depth, rerun_of,
        is_claimed::integer, token, CASE WHEN is_claimed THEN @node::text END, CASE WHEN is_claimed THEN now() END,
        CASE WHEN is_claimed THEN now() + make_interval(secs => @lease_seconds::double precision) END,
        started_at, revision_id, revision
    FROM placed
)
SELECT
    is_claimed,
    id,
    now() AS created_at,
    COALESCE(token::text, '') AS token,
    is_claimed::integer AS attempt,
    0 AS spared,
    pack_ref,
    action_ref,
    rule_ref,
    trigger_ref,
    event_id,
    parameters,
    secrets,
    retry,
    former_manifest,
    priority,
    EXTRACT(EPOCH FROM timeout)::double precision AS timeout_seconds,
    due_at,
    started_at IS NOT NULL AS begun,
    expired,
    revision_id,
    revision,
    action_id,
    action_generation,
    action_enabled,
    action_disabled_by,
    file,
    manifest,
    digest,
    files_digest,
    action_created_at,
    action_updated_at,
    concurrency_key,
    place
FROM placed
ORDER BY place;

-- name: ClaimMatches
-- QueueMatches as QueueClaimed: what an event leads to where nothing else is to be done.
WITH
placed AS MATERIALIZED (
    SELECT
        matched.*,
        matched.text::jsonb AS parameters,
        split_part(matched.action_ref, '.', 1) AS pack_ref,
        CASE WHEN matched.is_claimed THEN
            encode(int8send(matched.execution_id) || substring(uuid_send(gen_random_uuid()) FROM 9), 'hex')::uuid
        END AS token,
        CASE WHEN matched.is_claimed AND action.enabled AND action.revision_id = ANY (@ready_revisions::bigint[]) THEN now() END AS started_at,
        CASE WHEN matched.is_claimed THEN revision.id END AS revision_id,
        CASE WHEN matched.is_claimed THEN revision.digest END AS revision,
        CLAIMED_ACTION
    FROM (
        SELECT
            given.place <= @last_claimed::bigint AND NOT EXISTS (SELECT FROM attune.pause WHERE one) AS is_claimed,
            NUMBERED_MATCHES WITH ORDINALITY AS given (event_id, rule_ref, trigger_ref, action_ref, priority, text, place)
        OFFSET 0 -- once for each, not for each use
    ) AS matched
    LEFT JOIN attune.action
        ON action.ref = matched.action_ref
    LEFT JOIN attune.revision
        ON revision.id = action.revision_id
),
JUDGED_MATCHES,
queued AS (
    INSERT INTO attune.queue (
        execution_id, created_at, status, pack_ref, action_ref, rule_ref, trigger_ref, event_id, enforcement_id,
        priority, due_at, parameters, requested_by, depth,
        attempt, token, node, claimed_at, lease_until, started_at, revision_id, revision
    )
    SELECT
        execution_id, now(), CASE WHEN is_claimed THEN 'running' ELSE 'requested' END, pack_ref, action_ref, rule_ref, trigger_ref, event_id, enforcement_id,
        priority, now(), parameters, @requested_by::text, @depth::integer,
        is_claimed::integer, token, CASE WHEN is_claimed THEN @node::text END, CASE WHEN is_claimed THEN now() END,
        CASE WHEN is_claimed THEN now() + make_interval(secs => @lease_seconds::double precision) END,
        started_at, revision_id, revision
    FROM placed
)
SELECT
    is_claimed,
    execution_id,
    now() AS created_at,
    COALESCE(token::text, '') AS token,
    is_claimed::integer AS attempt,
    0 AS spared,
    pack_ref,
    action_ref,
    rule_ref,
    trigger_ref,
    event_id,
    parameters,
    NULL::jsonb AS secrets,
    NULL::jsonb AS retry,
    NULL::jsonb AS former_manifest,
    priority,
    NULL::double precision AS timeout_seconds,
    now() AS due_at,
    started_at IS NOT NULL AS begun,
    FALSE AS expired,
    revision_id,
    revision,
    action_id,
    action_generation,
    action_enabled,
    action_disabled_by,
    file,
    manifest,
    digest,
    files_digest,
    action_created_at,
    action_updated_at,
    NULL::text AS concurrency_key,
    place
FROM placed
ORDER BY place;

-- name: WakeQueue
SELECT pg_notify('attune_queue', '');

-- name: NextDue
SELECT EXTRACT(EPOCH FROM min(due_at) - now())::double precision AS seconds
FROM attune.queue
WHERE status = 'scheduled'
    AND NOT in_line;

-- name: PromoteScheduled
-- Bounded, so that a million retries that fall due at once do not hold up the claim before it. What is
-- counted stands in line from now on; its keys are answered, to be admitted.
WITH due AS (
    SELECT execution_id
    FROM attune.queue
    WHERE status = 'scheduled'
        AND NOT in_line
        AND due_at <= now()
    ORDER BY due_at
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
),
promoted AS (
    UPDATE attune.queue
    SET status = CASE WHEN queue.concurrency_key IS NULL THEN 'requested' ELSE 'scheduled' END,
        in_line = queue.concurrency_key IS NOT NULL
    FROM due
    WHERE queue.execution_id = due.execution_id
    RETURNING queue.action_ref, queue.concurrency_key
)
SELECT action_ref, concurrency_key
FROM promoted
WHERE concurrency_key IS NOT NULL
GROUP BY action_ref, concurrency_key;

-- name: PeekQueue
-- The next @most executions in the order in which they are to be claimed; nothing is locked. Packs take
-- turns: the turn begins after the pack that this node served last, goes round the packs that have
-- something due, and takes one from each before a second from any. Only the first entry of each pack is
-- looked at to find the packs, and only @most packs are looked for, so the cost follows what is wanted,
-- not what waits. What it does follow is what was claimed and not yet vacuumed away, for that still
-- stands at the front of the index: so a node looks at many at once, and claims them by their numbers.
WITH RECURSIVE
turn AS (
    (
        SELECT 0 AS lap, pack_ref, 1 AS place
        FROM attune.queue
        WHERE status = 'requested'
            AND pack_ref > @after_pack::text
        ORDER BY pack_ref
        LIMIT 1
    )
    UNION ALL
    (
        SELECT 1 AS lap, pack_ref, 1 AS place
        FROM attune.queue
        WHERE status = 'requested'
            AND pack_ref <= @after_pack::text
        ORDER BY pack_ref
        LIMIT 1
    )
    UNION ALL
    SELECT turn.lap, later.pack_ref, turn.place + 1
    FROM turn
    CROSS JOIN LATERAL (
        SELECT queue.pack_ref
        FROM attune.queue
        WHERE queue.status = 'requested'
            AND queue.pack_ref > turn.pack_ref
            AND (turn.lap = 0 OR queue.pack_ref <= @after_pack::text)
        ORDER BY queue.pack_ref
        LIMIT 1
    ) AS later
    WHERE turn.place < @most::integer
),
pack AS MATERIALIZED (
    SELECT
        pack_ref,
        row_number() OVER (ORDER BY lap, pack_ref) AS seat
    FROM turn
    ORDER BY lap, pack_ref
    LIMIT @most::integer
),
share AS MATERIALIZED (
    SELECT ceil(@most::numeric / GREATEST(count(*), 1))::bigint AS depth
    FROM pack
),
head AS MATERIALIZED (
    SELECT
        pack.seat,
        first.execution_id,
        row_number() OVER (
            PARTITION BY pack.seat
            ORDER BY first.priority DESC, first.due_at, first.execution_id
        ) AS round
    FROM pack
    CROSS JOIN LATERAL (
        SELECT queue.execution_id, queue.priority, queue.due_at
        FROM attune.queue
        WHERE queue.status = 'requested'
            AND queue.pack_ref = pack.pack_ref
        ORDER BY queue.priority DESC, queue.due_at, queue.execution_id
        LIMIT (SELECT depth FROM share)
    ) AS first
)
SELECT execution_id
FROM head
ORDER BY round, seat
LIMIT @most::integer;

-- name: ClaimExecutions
-- Of these executions, in this order, the first @most that nobody else has. Where the files of an
-- action's revision are in place (@ready_revisions) the attempt begins with the claim: its node starts
-- it at once. A token begins with the number of its execution. While people have paused everything nothing
-- is claimed. What holds no token and is not scheduled is requested; said so, the index of what is
-- requested would be walked for each where statistics are from when little was.
WITH
chosen AS MATERIALIZED (
    SELECT queue.execution_id, queue.action_ref, queue.former_revision_id, input.place
    FROM unnest(@ids::bigint[]) WITH ORDINALITY AS input (id, place)
    JOIN attune.queue
        ON queue.execution_id = input.id
    WHERE queue.token IS NULL
        AND queue.status <> 'scheduled'
        AND NOT EXISTS (SELECT FROM attune.pause WHERE one)
    ORDER BY input.place
    LIMIT @most::integer
    FOR UPDATE OF queue SKIP LOCKED
)
UPDATE attune.queue
SET status = 'running',
    attempt = queue.attempt + 1,
    token = encode(int8send(queue.execution_id) || substring(uuid_send(gen_random_uuid()) FROM 9), 'hex')::uuid,
    node = @node::text,
    claimed_at = now(),
    lease_until = now() + make_interval(secs => @lease_seconds::double precision),
    started_at = CASE
        WHEN chosen.former_revision_id IS NULL
            AND action.enabled
            AND action.revision_id = ANY (@ready_revisions::bigint[])
            AND COALESCE(
                queue.attempt > 0
                OR now() <= COALESCE(queue.put_off_from, queue.due_at) + make_interval(secs => action.expires),
                TRUE
            )
        THEN now()
    END,
    revision_id = revision.id,
    revision = revision.digest
FROM chosen
LEFT JOIN attune.action
    ON action.ref = chosen.action_ref
LEFT JOIN attune.revision
    ON revision.id = COALESCE(chosen.former_revision_id, action.revision_id)
WHERE queue.execution_id = chosen.execution_id
RETURNING
    queue.execution_id,
    queue.created_at,
    queue.token,
    queue.attempt,
    queue.spared,
    queue.pack_ref,
    queue.action_ref,
    queue.rule_ref,
    queue.trigger_ref,
    queue.event_id,
    queue.parameters,
    queue.secrets,
    queue.retry,
    queue.former_manifest,
    queue.priority,
    EXTRACT(EPOCH FROM queue.timeout)::double precision AS timeout_seconds,
    queue.due_at,
    queue.started_at IS NOT NULL AS begun,
    -- One that has begun before is past expiring.
    COALESCE(
        queue.attempt = 1
        AND now() > COALESCE(queue.put_off_from, queue.due_at)
            + make_interval(secs => CASE
                WHEN queue.former_manifest IS NULL THEN action.expires
                ELSE (queue.former_manifest ->> 'expires')::double precision
            END),
        FALSE
    ) AS expired,
    queue.revision_id,
    queue.revision,
    CLAIMED_ACTION,
    queue.concurrency_key,
    chosen.place;

-- name: StartAttempts
-- Committed before the exec. Saying it twice for one token is harmless: who lost the connection at
-- the commit says it again. A lease that has lapsed no longer counts, reaped or not. One whose row is
-- locked is left out, so that the others need not wait.
WITH
held AS (
    SELECT queue.execution_id
    FROM unnest(@ids::bigint[], @tokens::uuid[]) AS input (id, token)
    JOIN attune.queue
        ON queue.execution_id = input.id
    WHERE queue.token = input.token
        AND queue.lease_until > now()
        AND queue.cancel_at IS NULL
    ORDER BY queue.execution_id
    FOR NO KEY UPDATE OF queue SKIP LOCKED
)
UPDATE attune.queue
SET started_at = COALESCE(queue.started_at, now())
FROM held
WHERE queue.execution_id = held.execution_id
RETURNING queue.token;

-- name: ReleaseAttempts
-- Their holder says that nothing of them was begun, whatever was recorded: they go back to the queue
-- and used no attempt. What somebody wants cancelled ends.
WITH
held AS MATERIALIZED (
    SELECT queue.*
    FROM unnest(@ids::bigint[], @tokens::uuid[]) AS input (id, token)
    JOIN attune.queue
        ON queue.execution_id = input.id
    WHERE queue.token = input.token
    ORDER BY queue.execution_id
    FOR UPDATE OF queue
),
gone AS (
    DELETE FROM attune.queue
    USING held
    WHERE queue.execution_id = held.execution_id
        AND held.cancel_at IS NOT NULL
),
ended AS (
    SELECT ASKED_COLUMNS, attempt - 1 AS attempt, UNBEGUN_COLUMNS, 'cancelled by ' || cancel_by AS error
    FROM held
    WHERE cancel_at IS NOT NULL
),
KEEP_ENDED,
released AS (
    UPDATE attune.queue
    SET status = 'requested',
        attempt = queue.attempt - 1,
        token = NULL,
        node = NULL,
        claimed_at = NULL,
        lease_until = NULL,
        started_at = NULL,
        revision_id = NULL,
        revision = NULL
    FROM held
    WHERE queue.execution_id = held.execution_id
        AND held.cancel_at IS NULL
    RETURNING queue.execution_id
),
told AS (
    TELL_ENDED
),
woken AS (
    SELECT pg_notify('attune_queue', '')
    FROM released
    LIMIT 1
)
SELECT
    held.action_ref,
    held.concurrency_key,
    (SELECT count(*) FROM told) + (SELECT count(*) FROM woken) AS notified
FROM (SELECT) AS one
LEFT JOIN held
    ON held.cancel_at IS NOT NULL;

-- name: PutOffAttempt
-- Before it is released: its holder says that it cannot begin, why, and when to look again.
UPDATE attune.queue
SET waits_for = @reason::text,
    waits_until = now() + make_interval(secs => @seconds::double precision),
    put_off_from = COALESCE(put_off_from, due_at),
    due_at = now() + make_interval(secs => @seconds::double precision)
WHERE execution_id = @id::bigint
    AND token = @token::uuid
    AND cancel_at IS NULL;

-- name: ScheduleReleased
-- After it was released: it is not to be claimed again before its time, and gives up its place.
UPDATE attune.queue
SET status = 'scheduled'
WHERE execution_id = @id::bigint
    AND token IS NULL
    AND status = 'requested'
    AND waits_until = due_at
    AND due_at > now()
RETURNING action_ref, concurrency_key;

-- name: LineUpReleased
-- After it was released: its action is counted by another key than when it was queued, or is now, so it
-- gets into that line.
UPDATE attune.queue
SET status = 'scheduled',
    in_line = TRUE,
    concurrency_key = @key::text
FROM (
    -- The key that it had, of which a place is free now.
    SELECT execution_id, concurrency_key
    FROM attune.queue
    WHERE execution_id = @id::bigint
) AS former
WHERE queue.execution_id = former.execution_id
    AND token IS NULL
    AND status = 'requested'
RETURNING queue.action_ref, former.concurrency_key;

-- name: HurryPack
-- What a pack's executions were put off for has come: they are as due as they were before.
WITH
hurried AS (
    UPDATE attune.queue
    SET due_at = COALESCE(put_off_from, now()),
        put_off_from = NULL,
        status = CASE WHEN concurrency_key IS NULL THEN 'requested' ELSE 'scheduled' END,
        in_line = concurrency_key IS NOT NULL
    WHERE status = 'scheduled'
        AND NOT in_line
        AND pack_ref = @pack::text
        AND waits_until = due_at
    RETURNING execution_id, action_ref, concurrency_key
),
woken AS (
    SELECT pg_notify('attune_queue', '')
    FROM hurried
    LIMIT 1
)
SELECT
    hurried.action_ref,
    hurried.concurrency_key,
    count(*),
    (SELECT count(*) FROM woken) AS notified
FROM hurried
GROUP BY hurried.action_ref, hurried.concurrency_key;

-- name: RenewLeases
-- All that the node holds, also what looks lapsed: nobody has ended it, so it is the node's, and the clock
-- may have been put forward. A row that somebody else has locked does not hold the others up: it is told
-- as held and not renewed. The last part sees what was there before.
WITH
seen AS (
    UPDATE attune.node
    SET seen_at = now(),
        lost_at = NULL
    WHERE id IN (SELECT id FROM attune.node WHERE id = @node::text FOR NO KEY UPDATE SKIP LOCKED)
),
noted AS (
    INSERT INTO attune.notice (trigger_ref, payload)
    SELECT
        'core.node_state_changed',
        jsonb_build_object('node', id, 'state', 'back', 'host', host, 'pid', pid, 'version', version, 'seen_at', now())
    FROM attune.node
    WHERE id = @node::text
        AND lost_at IS NOT NULL
        AND EXISTS (SELECT FROM attune.rule WHERE rule.trigger_ref = 'core.node_state_changed' AND rule.enabled)
),
held AS (
    SELECT execution_id
    FROM attune.queue
    WHERE node = @node::text
        AND token IS NOT NULL
    ORDER BY execution_id
    FOR NO KEY UPDATE SKIP LOCKED
),
renewed AS (
    UPDATE attune.queue
    SET lease_until = now() + make_interval(secs => @lease_seconds::double precision)
    FROM held
    WHERE queue.execution_id = held.execution_id
    RETURNING queue.token, queue.cancel_at IS NOT NULL AS cancel
)
SELECT token, cancel, TRUE AS renewed
FROM renewed
UNION ALL
SELECT token, cancel_at IS NOT NULL, FALSE
FROM attune.queue
WHERE node = @node::text
    AND token IS NOT NULL;

-- name: ASKED_COLUMNS
-- A fragment: what history keeps of what was asked for, as the queue has it. What was put off is told with the
-- time at which it had been due.
execution_id AS id, created_at, action_ref, pack_ref, rule_ref, trigger_ref, event_id, enforcement_id, ordinal, item,
        priority, requested_by, COALESCE(put_off_from, due_at) AS due_at, timeout, parameters, secrets, retry, rerun_of, depth

-- name: UNBEGUN_COLUMNS
-- A fragment: what history keeps of the end where nothing of the execution runs, but for attempt and error.
'cancelled' AS status, NULL::text AS node, NULL::text AS revision, NULL::timestamptz AS started_at, now() AS finished_at,
        NULL::integer AS exit_code, NULL::text AS signal, NULL::jsonb AS result,
        FALSE AS stdout_truncated, FALSE AS stderr_truncated

-- name: KEEP_ENDED
-- A fragment: it stands behind ended, whose columns are those of the history. It is in the same statement as the
-- DELETE from the queue, so that whoever reads sees an execution in one of them.
kept AS (
    INSERT INTO attune.execution (
        id, created_at, action_ref, pack_ref, rule_ref, trigger_ref, event_id, enforcement_id, ordinal, item,
        status, priority, requested_by, due_at, timeout, parameters, secrets, retry, rerun_of, depth,
        attempt, node, revision, started_at, finished_at, exit_code, signal, error, result,
        stdout_truncated, stderr_truncated
    )
    SELECT
        id, created_at, action_ref, pack_ref, rule_ref, trigger_ref, event_id, enforcement_id, ordinal, item,
        status, priority, requested_by, due_at, timeout, parameters, secrets, retry, rerun_of, depth,
        attempt, node, revision, started_at, finished_at, exit_code, signal, error, result,
        stdout_truncated, stderr_truncated
    FROM ended
),
NOTE_ENDED

-- name: FinishAttempts
-- The token is the fence: who does not hold it finds no row here and changes nothing. Nor does who finds
-- it locked: the others must not wait for that one.
-- Times to retry at are given as seconds from now, so that only the database's clock counts. One
-- that somebody wants cancelled is not tried again.
WITH
outcome AS MATERIALIZED (
    SELECT *
    FROM unnest(
        @ids::bigint[], @tokens::uuid[], @statuses::text[], @exit_codes::integer[], @signals::text[], @errors::text[],
        @results::text[], @retry_seconds::double precision[],
        @spares::boolean[],
        @stdout_texts::text[], @stdout_bytes::bigint[], @stdout_omitted::bigint[],
        @stderr_texts::text[], @stderr_bytes::bigint[], @stderr_omitted::bigint[],
        @arrivals::text[]
    ) AS input (
        id, token, status, exit_code, signal, error,
        result, retry_seconds, spare,
        stdout_text, stdout_bytes, stdout_omitted,
        stderr_text, stderr_bytes, stderr_omitted,
        arrival
    )
),
held AS MATERIALIZED (
    SELECT
        queue.*,
        outcome.status AS outcome, outcome.exit_code, outcome.signal, outcome.error, outcome.result,
        outcome.retry_seconds, outcome.spare,
        outcome.stdout_text, outcome.stdout_bytes, outcome.stdout_omitted,
        outcome.stderr_text, outcome.stderr_bytes, outcome.stderr_omitted, outcome.arrival,
        (outcome.retry_seconds IS NOT NULL AND queue.cancel_at IS NULL) AS again
    FROM outcome
    JOIN attune.queue
        ON queue.execution_id = outcome.id
    WHERE queue.token = outcome.token
    ORDER BY queue.execution_id
    FOR UPDATE OF queue SKIP LOCKED
),
gone AS (
    DELETE FROM attune.queue
    USING held
    WHERE queue.execution_id = held.execution_id
        AND NOT held.again
),
requeued AS (
    UPDATE attune.queue
    SET status = CASE WHEN held.retry_seconds > 0 THEN 'scheduled' ELSE 'requested' END,
        -- One that was spared keeps its place among those that wait.
        due_at = CASE
            WHEN held.spare THEN queue.due_at
            ELSE now() + make_interval(secs => GREATEST(held.retry_seconds, 0))
        END,
        put_off_from = CASE WHEN held.spare THEN queue.put_off_from END,
        spared = queue.spared + held.spare::integer,
        token = NULL,
        node = NULL,
        claimed_at = NULL,
        lease_until = NULL,
        started_at = NULL,
        revision_id = NULL,
        revision = NULL
    FROM held
    WHERE queue.execution_id = held.execution_id
        AND held.again
    RETURNING queue.execution_id
),
ended AS (
    SELECT
        ASKED_COLUMNS,
        CASE WHEN retry_seconds IS NOT NULL THEN 'cancelled' ELSE outcome END AS status,
        attempt, node, revision, started_at, now() AS finished_at,
        exit_code, NULLIF(signal, '') AS signal, NULLIF(error, '') AS error, NULLIF(result, '')::jsonb AS result,
        stdout_omitted > 0 AS stdout_truncated, stderr_omitted > 0 AS stderr_truncated
    FROM held
    WHERE NOT again
),
KEEP_ENDED,
recorded AS (
    INSERT INTO attune.attempt (
        execution_id, created_at, number, token, status, node, revision, queued_at, started_at,
        finished_at, exit_code, signal, error
    )
    SELECT
        execution_id, created_at, attempt, token, outcome, node, revision, due_at, started_at,
        now(), exit_code, NULLIF(signal, ''), NULLIF(error, '')
    FROM held
),
printed AS (
    INSERT INTO attune.output (execution_id, created_at, attempt, stream, text, bytes, omitted, arrival)
    SELECT
        held.execution_id, held.created_at, held.attempt, stream.name, stream.text, stream.bytes, stream.omitted,
        stream.arrival
    FROM held
    CROSS JOIN LATERAL (
        VALUES
            ('stdout', held.stdout_text, held.stdout_bytes, held.stdout_omitted, NULL),
            ('stderr', held.stderr_text, held.stderr_bytes, held.stderr_omitted, NULLIF(held.arrival, '')::integer[])
    ) AS stream (name, text, bytes, omitted, arrival)
    WHERE stream.bytes > 0
        OR stream.text <> ''
),
told AS (
    TELL_ENDED
),
woken AS (
    SELECT pg_notify('attune_queue', '')
    FROM requeued
    LIMIT 1
)
SELECT
    held.token,
    held.action_ref,
    -- Of which a place is free now.
    CASE WHEN NOT held.again OR held.retry_seconds > 0 THEN held.concurrency_key END AS freed,
    (SELECT count(*) FROM told) + (SELECT count(*) FROM woken) AS notified
FROM held;

-- name: EndAttempts
-- FinishAttempts for outcomes of which none is to be tried again or has printed by turns, which is nearly always. A statement
-- prepares also for what does not come, and that costs more than what does.
WITH
ended AS MATERIALIZED (
    SELECT
        ASKED_COLUMNS,
        queue.due_at AS queued_at,
        queue.attempt,
        queue.node,
        queue.revision,
        queue.started_at,
        queue.concurrency_key,
        outcome.token,
        outcome.status,
        now() AS finished_at,
        outcome.exit_code,
        NULLIF(outcome.signal, '') AS signal,
        NULLIF(outcome.error, '') AS error,
        NULLIF(outcome.result, '')::jsonb AS result,
        outcome.stdout_omitted > 0 AS stdout_truncated,
        outcome.stderr_omitted > 0 AS stderr_truncated,
        outcome.stdout_text,
        outcome.stdout_bytes,
        outcome.stdout_omitted,
        outcome.stderr_text,
        outcome.stderr_bytes,
        outcome.stderr_omitted
    FROM unnest(
        @ids::bigint[], @tokens::uuid[], @statuses::text[], @exit_codes::integer[], @signals::text[], @errors::text[],
        @results::text[],
        @stdout_texts::text[], @stdout_bytes::bigint[], @stdout_omitted::bigint[],
        @stderr_texts::text[], @stderr_bytes::bigint[], @stderr_omitted::bigint[]
    ) AS outcome (
        outcome_id, token, status, exit_code, signal, error,
        result,
        stdout_text, stdout_bytes, stdout_omitted,
        stderr_text, stderr_bytes, stderr_omitted
    )
    JOIN attune.queue
        ON queue.execution_id = outcome.outcome_id
    WHERE queue.token = outcome.token
    FOR UPDATE OF queue SKIP LOCKED
),
gone AS (
    DELETE FROM attune.queue
    USING ended
    WHERE queue.execution_id = ended.id
),
KEEP_ENDED,
recorded AS (
    INSERT INTO attune.attempt (
        execution_id, created_at, number, token, status, node, revision, queued_at, started_at,
        finished_at, exit_code, signal, error
    )
    SELECT
        id, created_at, attempt, token, status, node, revision, queued_at, started_at,
        finished_at, exit_code, signal, error
    FROM ended
),
printed AS (
    INSERT INTO attune.output (execution_id, created_at, attempt, stream, text, bytes, omitted)
    SELECT id, created_at, attempt, 'stdout', stdout_text, stdout_bytes, stdout_omitted
    FROM ended
    WHERE stdout_bytes > 0
        OR stdout_text <> ''
    UNION ALL
    SELECT id, created_at, attempt, 'stderr', stderr_text, stderr_bytes, stderr_omitted
    FROM ended
    WHERE stderr_bytes > 0
        OR stderr_text <> ''
),
told AS (
    TELL_ENDED
)
SELECT token, action_ref, concurrency_key AS freed, (SELECT count(*) FROM told) AS notified
FROM ended;

-- name: StillHeld
-- Of these, those that are held by these tokens, and whether they could begin.
SELECT queue.token, queue.lease_until > now() AND queue.cancel_at IS NULL
FROM unnest(@ids::bigint[], @tokens::uuid[]) AS input (id, token)
JOIN attune.queue
    ON queue.execution_id = input.id
WHERE queue.token = input.token;

-- name: KeepEvidence
-- Where the attempt ended just as this outcome says, it is that very outcome, sent again because the
-- first answer was lost: accepted. Everything else is late, and is kept beside the attempt.
WITH
outcome AS (
    SELECT *
    FROM unnest(@ids::bigint[], @tokens::uuid[], @statuses::text[], @outcomes::text[])
        AS input (id, token, status, outcome)
),
kept AS (
    UPDATE attune.attempt
    SET late = outcome.outcome::jsonb,
        late_at = now()
    FROM outcome
    WHERE attempt.execution_id = outcome.id
        AND attempt.token = outcome.token
        AND attempt.status <> outcome.status
)
SELECT attempt.token
FROM outcome
JOIN attune.attempt
    ON attempt.execution_id = outcome.id
    AND attempt.token = outcome.token
    AND attempt.status = outcome.status;

-- name: ListHeld
SELECT execution_id
FROM attune.queue
WHERE token IS NOT NULL
ORDER BY execution_id;

-- name: EndLapsed
-- With a node: all that this node holds, because it is known to be dead. Without: what nobody has
-- renewed, except by nodes that are known to live, for then it is the clock that was put forward. A lease
-- that ends further ahead than one can last is from before the clock was put back. The lock and the
-- condition are one, so a lease renewed meanwhile is left alone.
WITH
lapsed AS MATERIALIZED (
    SELECT queue.*
    FROM attune.queue
    WHERE token IS NOT NULL
        AND CASE
            WHEN @node::text <> '' THEN node = @node::text
            ELSE node <> ALL (@living::text[])
                AND (
                    lease_until < now()
                    OR lease_until > now() + make_interval(secs => 2 * @lease_seconds::double precision)
                )
        END
        AND (@only::bigint = 0 OR execution_id = @only::bigint)
    ORDER BY execution_id
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
),
judged AS MATERIALIZED (
    SELECT
        lapsed.*,
        lapsed.started_at IS NULL AS unstarted,
        lapsed.started_at IS NOT NULL
            AND lapsed.cancel_at IS NULL
            AND (
                COALESCE(spec.manifest ->> 'on_lost' = 'retry', FALSE)
                OR COALESCE(spec.retry -> 'on' ? 'lost', FALSE)
            )
            AND lapsed.attempt - lapsed.spared < COALESCE((spec.retry ->> 'max_attempts')::integer, @most_attempts::integer)
            AS again,
        -- As exec/worker counts it for the attempts that a node gives up by itself.
        LEAST(
            COALESCE((spec.retry ->> 'delay')::double precision, 0)
                * CASE WHEN spec.retry ->> 'backoff' = 'exponential' THEN power(2, LEAST(lapsed.attempt - lapsed.spared - 1, 62)) ELSE 1 END,
            COALESCE(NULLIF((spec.retry ->> 'max_delay')::double precision, 0), 'infinity'),
            @longest_delay::double precision
        ) AS delay
    FROM lapsed
    LEFT JOIN attune.action
        ON action.ref = lapsed.action_ref
    CROSS JOIN LATERAL (
        SELECT
            COALESCE(lapsed.former_manifest, action.manifest) AS manifest,
            CASE
                WHEN lapsed.retry ? 'max_attempts' THEN lapsed.retry
                ELSE COALESCE(lapsed.former_manifest, action.manifest) -> 'retry'
            END AS retry
    ) AS spec
),
requeued AS (
    UPDATE attune.queue
    SET status = CASE WHEN judged.again AND judged.delay > 0 THEN 'scheduled' ELSE 'requested' END,
        -- A start that never came about was no attempt.
        attempt = CASE WHEN judged.unstarted THEN judged.attempt - 1 ELSE judged.attempt END,
        due_at = CASE
            WHEN judged.again THEN now() + make_interval(secs => judged.delay)
            ELSE judged.due_at
        END,
        put_off_from = CASE WHEN NOT judged.again THEN judged.put_off_from END,
        token = NULL,
        node = NULL,
        claimed_at = NULL,
        lease_until = NULL,
        started_at = NULL,
        revision_id = NULL,
        revision = NULL
    FROM judged
    WHERE queue.execution_id = judged.execution_id
        AND (judged.unstarted OR judged.again)
    RETURNING queue.execution_id
),
gone AS (
    DELETE FROM attune.queue
    USING judged
    WHERE queue.execution_id = judged.execution_id
        AND NOT judged.unstarted
        AND NOT judged.again
),
ended AS (
    SELECT
        ASKED_COLUMNS,
        'lost' AS status, attempt, node, revision, started_at, now() AS finished_at,
        NULL::integer AS exit_code, NULL::text AS signal, 'node ' || node || @reason::text AS error, NULL::jsonb AS result,
        FALSE AS stdout_truncated, FALSE AS stderr_truncated
    FROM judged
    WHERE NOT unstarted
        AND NOT again
),
KEEP_ENDED,
recorded AS (
    INSERT INTO attune.attempt (
        execution_id, created_at, number, token, status, node, revision, queued_at, started_at,
        finished_at, error
    )
    SELECT
        execution_id, created_at, attempt, token, 'lost', node, revision, due_at, started_at,
        now(), 'node ' || node || @reason::text
    FROM judged
    WHERE NOT unstarted
),
told AS (
    TELL_ENDED
),
woken AS (
    SELECT pg_notify('attune_queue', '')
    FROM requeued
    LIMIT 1
)
SELECT
    judged.execution_id,
    NOT judged.unstarted AS lost,
    (judged.unstarted OR judged.again) AS requeued,
    judged.action_ref,
    CASE
        WHEN NOT judged.unstarted AND (NOT judged.again OR judged.delay > 0) THEN judged.concurrency_key
    END AS freed,
    (SELECT count(*) FROM told) + (SELECT count(*) FROM woken) AS notified
FROM judged
ORDER BY judged.execution_id;

-- name: CancelExecutions
-- What waits, or was claimed and not started, ends here: its node finds at Start that it no longer
-- holds it. What runs is marked, and its node told.
WITH
found AS MATERIALIZED (
    SELECT *
    FROM attune.queue
    WHERE execution_id = ANY (@ids::bigint[])
    ORDER BY execution_id
    FOR UPDATE
),
gone AS (
    DELETE FROM attune.queue
    USING found
    WHERE queue.execution_id = found.execution_id
        AND found.started_at IS NULL
),
ended AS (
    SELECT
        ASKED_COLUMNS,
        CASE WHEN token IS NULL THEN attempt ELSE attempt - 1 END AS attempt,
        UNBEGUN_COLUMNS,
        'cancelled by ' || @cancelled_by::text AS error
    FROM found
    WHERE started_at IS NULL
),
KEEP_ENDED,
marked AS (
    UPDATE attune.queue
    SET cancel_at = COALESCE(queue.cancel_at, now()),
        cancel_by = COALESCE(queue.cancel_by, @cancelled_by::text)
    FROM found
    WHERE queue.execution_id = found.execution_id
        AND found.started_at IS NOT NULL
    RETURNING queue.execution_id
),
audited AS (
    INSERT INTO attune.audit (actor, action, object, origin, request_id, before, after)
    SELECT
        @cancelled_by, 'cancel execution', execution_id::text, @origin::text, @request_id::text,
        jsonb_build_object('status', status),
        CASE
            WHEN started_at IS NULL THEN jsonb_build_object('status', 'cancelled')
            ELSE jsonb_build_object('status', status, 'cancel_by', @cancelled_by)
        END
    FROM found
    WHERE @audited::boolean
    ORDER BY execution_id
),
told AS (
    TELL_ENDED
    UNION ALL
    SELECT pg_notify('attune_cancel', execution_id::text)
    FROM marked
)
SELECT
    found.execution_id,
    found.status,
    found.action_ref,
    CASE WHEN found.started_at IS NULL AND found.status <> 'scheduled' THEN found.concurrency_key END AS freed,
    (SELECT count(*) FROM told) AS notified
FROM found;

-- name: FindExpired
-- What of an action with expires is over its time and was never begun. Few actions have one, so the queue
-- is read only where there is such an action.
SELECT queue.execution_id, action.expires AS seconds
FROM attune.action
JOIN attune.queue
    ON queue.action_ref = action.ref
WHERE action.enabled
    AND action.expires IS NOT NULL
    AND queue.token IS NULL
    AND queue.attempt = 0
    AND queue.former_manifest IS NULL
    AND now() > COALESCE(queue.put_off_from, queue.due_at)
        + make_interval(secs => action.expires)
ORDER BY queue.execution_id
LIMIT @most::integer;

-- name: EndExpired
-- Of these, what is still not begun: who has claimed one meanwhile finds out by itself that it is over.
WITH
found AS MATERIALIZED (
    SELECT queue.*, input.reason
    FROM unnest(@ids::bigint[], @reasons::text[]) AS input (id, reason)
    JOIN attune.queue
        ON queue.execution_id = input.id
    WHERE queue.token IS NULL
        AND queue.attempt = 0
    ORDER BY queue.execution_id
    FOR UPDATE OF queue SKIP LOCKED
),
gone AS (
    DELETE FROM attune.queue
    USING found
    WHERE queue.execution_id = found.execution_id
),
ended AS (
    SELECT ASKED_COLUMNS, 0 AS attempt, UNBEGUN_COLUMNS, reason AS error
    FROM found
),
KEEP_ENDED,
told AS (
    TELL_ENDED
)
SELECT
    found.action_ref,
    CASE WHEN found.status <> 'scheduled' THEN found.concurrency_key END AS freed,
    (SELECT count(*) FROM told) AS notified
FROM found;

-- name: ExecutionStatus
SELECT status
FROM attune.execution_now
WHERE id = @id::bigint;

-- name: ChooseExecutions
-- Ids for what is done to many, newest first. A filter that is not wanted is NULL.
SELECT execution.id
FROM attune.execution_now AS execution
WHERE (@action_ref::text IS NULL OR execution.action_ref = @action_ref)
    AND (@rule_ref::text IS NULL OR execution.rule_ref = @rule_ref)
    AND (@pack_ref::text IS NULL OR execution.pack_ref = @pack_ref)
    AND (@statuses::text[] IS NULL OR execution.status = ANY (@statuses))
    AND (@event_id::bigint IS NULL OR execution.event_id = @event_id)
    AND (@since::timestamptz IS NULL OR execution.created_at >= @since)
    AND (@before::bigint IS NULL OR execution.id < @before)
ORDER BY execution.id DESC
LIMIT @most::integer;

-- name: ChooseQueued
-- As ChooseExecutions, of those that have not ended, without a look at the history.
SELECT execution_id
FROM attune.queue
WHERE (@action_ref::text IS NULL OR action_ref = @action_ref)
    AND (@rule_ref::text IS NULL OR rule_ref = @rule_ref)
    AND (@pack_ref::text IS NULL OR pack_ref = @pack_ref)
    AND (@statuses::text[] IS NULL OR status = ANY (@statuses))
    AND (@event_id::bigint IS NULL OR event_id = @event_id)
    AND (@since::timestamptz IS NULL OR created_at >= @since)
    AND (@before::bigint IS NULL OR execution_id < @before)
ORDER BY execution_id DESC
LIMIT @most::integer;

-- name: RerunSources
-- The revision's number is NULL where no revision of that digest is kept any more.
SELECT
    execution.id,
    execution.action_ref,
    execution.status,
    COALESCE(execution.rule_ref, '') AS rule_ref,
    COALESCE(execution.trigger_ref, '') AS trigger_ref,
    COALESCE(execution.event_id, 0) AS event_id,
    execution.parameters,
    execution.secrets,
    execution.priority,
    COALESCE(EXTRACT(EPOCH FROM execution.timeout), 0)::double precision AS timeout_seconds,
    execution.retry,
    COALESCE(execution.revision, '') AS revision,
    COALESCE((
        SELECT max(revision.id)
        FROM attune.pack
        JOIN attune.revision
            ON revision.pack_id = pack.id
        WHERE pack.ref = execution.pack_ref
            AND revision.digest = execution.revision
    ), 0) AS revision_id
FROM (
    SELECT
        execution_id AS id, action_ref, pack_ref, status, rule_ref, trigger_ref, event_id, parameters, secrets, priority,
        timeout, retry, revision
    FROM attune.queue
    UNION ALL
    SELECT
        id, action_ref, pack_ref, status, rule_ref, trigger_ref, event_id, parameters, secrets, priority,
        timeout, retry, revision
    FROM attune.execution
) AS execution
WHERE execution.id = ANY (@ids::bigint[])
ORDER BY execution.id;

-- name: Ends
-- What waits or runs is found in the queue; only the others are looked up in the history, in the days
-- since they were asked for.
WITH ended AS MATERIALIZED (
    SELECT input.id
    FROM unnest(@ids::bigint[]) AS input (id)
    WHERE NOT EXISTS (
        SELECT
        FROM attune.queue
        WHERE queue.execution_id = input.id
    )
)
SELECT execution.id, execution.status, execution.exit_code, execution.signal, execution.error
FROM ended
JOIN attune.execution
    ON execution.id = ended.id
    AND execution.created_at >= @since::timestamptz
ORDER BY execution.id;

-- name: Execution
SELECT
    execution.id,
    execution.action_ref,
    execution.pack_ref,
    execution.rule_ref,
    execution.trigger_ref,
    execution.event_id,
    execution.status,
    execution.parameters,
    execution.priority,
    execution.requested_by,
    execution.created_at,
    execution.due_at,
    execution.started_at,
    execution.finished_at,
    execution.attempt,
    execution.node,
    execution.revision,
    execution.exit_code,
    execution.signal,
    execution.error,
    execution.result,
    COALESCE(stdout.text, '') AS stdout,
    COALESCE(stderr.text, '') AS stderr,
    execution.stdout_truncated,
    execution.stderr_truncated,
    execution.rerun_of,
    NULL::text AS waits_for
FROM attune.execution_now AS execution
LEFT JOIN attune.output AS stdout
    ON stdout.execution_id = execution.id
    AND stdout.created_at = execution.created_at
    AND stdout.attempt = execution.attempt
    AND stdout.stream = 'stdout'
LEFT JOIN attune.output AS stderr
    ON stderr.execution_id = execution.id
    AND stderr.created_at = execution.created_at
    AND stderr.attempt = execution.attempt
    AND stderr.stream = 'stderr'
WHERE execution.id = @id::bigint;

-- name: WaitingFor
-- What an execution that has not begun may be waiting for. Counts end at @most: who waits behind a
-- thousand wants no more exact number, and the queue may be long.
SELECT
    queue.status,
    queue.due_at,
    queue.due_at > now() AS early,
    queue.attempt,
    COALESCE(queue.node, '') AS node,
    COALESCE(queue.waits_for, '') AS waits_for,
    COALESCE(queue.waits_until = queue.due_at, FALSE) AS put_off,
    queue.in_line,
    COALESCE(queue.concurrency_key, '') AS concurrency_key,
    COALESCE((action.manifest -> 'concurrency' ->> 'max')::integer, 0) AS places,
    ARRAY(
        SELECT holder.execution_id
        FROM attune.queue AS holder
        WHERE queue.in_line
            AND holder.action_ref = queue.action_ref
            AND holder.concurrency_key = queue.concurrency_key
            AND holder.status <> 'scheduled'
        ORDER BY holder.execution_id
        LIMIT 5
    ) AS holders,
    (
        SELECT count(*)
        FROM (
            SELECT other.priority, other.due_at, other.execution_id
            FROM attune.queue AS other
            WHERE queue.in_line
                AND other.in_line
                AND other.action_ref = queue.action_ref
                AND other.concurrency_key = queue.concurrency_key
            ORDER BY other.priority DESC, other.due_at, other.execution_id
            LIMIT @most::integer
        ) AS line
        WHERE (-line.priority, line.due_at, line.execution_id) < (-queue.priority, queue.due_at, queue.execution_id)
    ) AS in_front,
    (
        SELECT count(*)
        FROM (
            SELECT other.priority, other.due_at, other.execution_id
            FROM attune.queue AS other
            WHERE queue.status = 'requested'
                AND other.status = 'requested'
                AND other.pack_ref = queue.pack_ref
            ORDER BY other.priority DESC, other.due_at, other.execution_id
            LIMIT @most::integer
        ) AS before
        WHERE (-before.priority, before.due_at, before.execution_id) < (-queue.priority, queue.due_at, queue.execution_id)
    ) AS before_it,
    -- Two questions, because an index knows before and after, and not beside.
    EXISTS (
        SELECT
        FROM attune.queue AS other
        WHERE other.status = 'requested'
            AND other.pack_ref < queue.pack_ref
    ) OR EXISTS (
        SELECT
        FROM attune.queue AS other
        WHERE other.status = 'requested'
            AND other.pack_ref > queue.pack_ref
    ) AS others,
    (SELECT count(*) FROM attune.queue AS running WHERE running.token IS NOT NULL) AS running,
    (
        SELECT count(*)
        FROM attune.node
        WHERE seen_at > now() - make_interval(secs => @lease_seconds::double precision)
    ) AS nodes,
    COALESCE((SELECT paused_by FROM attune.pause), '') AS paused_by
FROM attune.queue
LEFT JOIN attune.action
    ON action.ref = queue.action_ref
WHERE queue.execution_id = @id::bigint
    AND queue.started_at IS NULL;

-- name: Attempts
-- Those that ended, and the one that runs.
SELECT number, status, node, started_at, finished_at, exit_code, signal, error
FROM attune.attempt
WHERE execution_id = @id::bigint
    AND created_at = @created_at::timestamptz
UNION ALL
SELECT attempt, 'running', node, started_at, NULL, NULL, NULL, NULL
FROM attune.queue
WHERE execution_id = @id::bigint
    AND started_at IS NOT NULL
ORDER BY number;

-- name: SinceFirstStart
SELECT COALESCE(EXTRACT(EPOCH FROM now() - min(started_at)), 0)::double precision
FROM attune.attempt
WHERE execution_id = @id::bigint
    AND created_at = @created_at::timestamptz;

-- name: Outputs
SELECT attempt, stream, text, arrival
FROM attune.output
WHERE execution_id = @id::bigint
    AND created_at = @created_at::timestamptz
    AND attempt > @after::integer
    AND attempt < @before::integer
ORDER BY attempt, stream DESC;

-- name: ListExecutions
-- A filter that is not wanted is NULL (or 0). The day bound lets the planner leave partitions out.
SELECT
    execution.id,
    execution.action_ref,
    execution.pack_ref,
    execution.rule_ref,
    execution.trigger_ref,
    execution.event_id,
    execution.status,
    execution.parameters,
    execution.priority,
    execution.requested_by,
    execution.created_at,
    execution.due_at,
    execution.started_at,
    execution.finished_at,
    execution.attempt,
    execution.node,
    execution.revision,
    execution.exit_code,
    execution.signal,
    execution.error,
    NULL::jsonb AS result,
    '' AS stdout,
    '' AS stderr,
    execution.stdout_truncated,
    execution.stderr_truncated,
    execution.rerun_of,
    NULL::text AS waits_for
FROM attune.execution_now AS execution
WHERE (@action_ref::text IS NULL OR execution.action_ref = @action_ref)
    AND (@rule_ref::text IS NULL OR execution.rule_ref = @rule_ref)
    AND (@pack_ref::text IS NULL OR execution.pack_ref = @pack_ref)
    AND (@statuses::text[] IS NULL OR execution.status = ANY (@statuses))
    AND (@event_id::bigint IS NULL OR execution.event_id = @event_id)
    AND (@since::timestamptz IS NULL OR execution.created_at >= @since)
    AND (@before::bigint IS NULL OR execution.id < @before)
ORDER BY execution.id DESC
LIMIT @most::integer;

-- name: QueueDepth
SELECT status, count(*)
FROM attune.queue
GROUP BY status;

-- name: QueueAges
SELECT
    COALESCE((
        SELECT EXTRACT(EPOCH FROM now() - min(due_at))
        FROM attune.queue
        WHERE token IS NULL
            AND NOT in_line
            AND due_at <= now()
    ), 0)::double precision AS oldest_waiting,
    COALESCE((
        SELECT EXTRACT(EPOCH FROM clock_timestamp() - min(xact_start))
        FROM pg_catalog.pg_stat_activity
        WHERE datname = current_database()
            AND pid <> pg_backend_pid()
    ), 0)::double precision AS oldest_xact;

-- name: AddIdempotencyKey
INSERT INTO attune.idempotency_key (key, digest)
VALUES (@key::text, @digest::text)
ON CONFLICT (key) DO NOTHING
RETURNING key;

-- name: IdempotencyKey
SELECT digest = @digest::text AS same, answer
FROM attune.idempotency_key
WHERE key = @key::text;

-- name: AnswerIdempotencyKey
UPDATE attune.idempotency_key
SET answer = @answer::text::jsonb
WHERE key = @key::text;
