-- name: ShareGeneration
-- An apply waits for this transaction before it raises the generation, so the rules that were matched
-- are those in force at the commit. The number of the transaction tells later whether a commit whose
-- answer was lost has happened.
SELECT number, pg_current_xact_id()::text
FROM attune.generation
FOR SHARE;

-- name: InsertEvents
-- Keys are inserted in one order by everybody, so that two nodes with the same replay do not
-- deadlock; of two equal ones in here the first is kept.
WITH
input AS MATERIALIZED (
    SELECT
        nextval('attune.event_id') AS id,
        given.*
    FROM unnest(
        @trigger_refs::text[], @instances::text[], @sources::text[], @event_ids::text[],
        @keys::text[], @problems::text[], @payloads::text[], @replays::bigint[],
        @depths::integer[]
    ) WITH ORDINALITY AS given (trigger_ref, instance, source, event_id, key, problem, payload, replay_of, depth, place)
    ORDER BY given.place
),
keyed AS (
    INSERT INTO attune.event_key (source, trigger_ref, event_id, id)
    SELECT source, trigger_ref, key, id
    FROM input
    WHERE key <> ''
    ORDER BY source, trigger_ref, key, place
    ON CONFLICT (source, trigger_ref, event_id) DO NOTHING
    RETURNING id
),
stored AS (
    INSERT INTO attune.event (id, trigger_ref, instance, source, event_id, problem, payload, replay_of, depth)
    SELECT id, trigger_ref, instance, source, event_id, problem, payload::jsonb, NULLIF(replay_of, 0), depth
    FROM input
    WHERE key = ''
        OR id IN (SELECT id FROM keyed)
)
SELECT
    id,
    now() AS created_at,
    key <> '' AND id NOT IN (SELECT id FROM keyed) AS duplicate
FROM input
ORDER BY place;

-- name: InsertPlainEvents
-- InsertEvents where nothing is known but who saw what: most of what floods. They get their numbers in their order.
WITH stored AS (
    INSERT INTO attune.event (id, trigger_ref, source, payload)
    SELECT nextval('attune.event_id'), given.trigger_ref, given.source, given.payload::jsonb
    FROM unnest(@trigger_refs::text[], @sources::text[], @payloads::text[]) AS given (trigger_ref, source, payload)
    RETURNING id
)
SELECT array_agg(id ORDER BY id) AS ids, now() AS created_at
FROM stored;

-- name: NumberEvents
-- Numbers of events that are inserted with them, so that others can be numbered meanwhile.
SELECT
    ARRAY(
        SELECT nextval('attune.event_id')
        FROM generate_series(1, @count::integer)
    ) AS ids,
    now() AS created_at;

-- name: InsertNumberedEvents
INSERT INTO attune.event (id, trigger_ref, source, payload)
SELECT given.id, given.trigger_ref, given.source, given.payload::jsonb
FROM unnest(@ids::bigint[], @trigger_refs::text[], @sources::text[], @payloads::text[]) AS given (id, trigger_ref, source, payload);

-- name: KnownEvents
-- Apart from InsertEvents: a row that another transaction has just committed is in no snapshot there.
SELECT COALESCE(event_key.id, 0) AS id
FROM unnest(@sources::text[], @trigger_refs::text[], @keys::text[])
    WITH ORDINALITY AS input (source, trigger_ref, key, place)
LEFT JOIN attune.event_key
    ON event_key.source = input.source
    AND event_key.trigger_ref = input.trigger_ref
    AND event_key.event_id = input.key
ORDER BY input.place;

-- name: PutLastDue
WITH
fired AS (
    SELECT id, max(COALESCE(due, now())) AS due
    FROM unnest(@ids::text[], @dues::timestamptz[]) AS input (id, due)
    GROUP BY id
),
locked AS (
    SELECT trigger_instance.id, fired.due
    FROM fired
    JOIN attune.trigger_instance
        ON trigger_instance.id = fired.id
    ORDER BY trigger_instance.id
    FOR NO KEY UPDATE OF trigger_instance
)
UPDATE attune.trigger_instance
SET last_due = GREATEST(trigger_instance.last_due, locked.due)
FROM locked
WHERE trigger_instance.id = locked.id;

-- name: PutLastEvent
-- To the second, and never in anybody's way: a busy trigger must not make its commits queue up.
WITH stale AS (
    SELECT trigger.id
    FROM attune.trigger
    WHERE ref = ANY (@trigger_refs::text[])
        AND (last_event_at IS NULL OR last_event_at < now() - INTERVAL '1 second')
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE attune.trigger
SET last_event_at = now()
FROM stale
WHERE trigger.id = stale.id;

-- name: PutCursors
WITH locked AS (
    SELECT sensor.id, input.cursor
    FROM unnest(@sensor_refs::text[], @cursors::text[]) AS input (ref, cursor)
    JOIN attune.sensor
        ON sensor.ref = input.ref
    ORDER BY sensor.ref
    FOR NO KEY UPDATE OF sensor
)
UPDATE attune.sensor
SET cursor = locked.cursor::jsonb,
    cursor_at = now()
FROM locked
WHERE sensor.id = locked.id;

-- name: SensorCursor
SELECT cursor
FROM attune.sensor
WHERE ref = @ref::text;

-- name: TransactionStatus
SELECT pg_xact_status(@xid::text::xid8);

-- name: ExecutionsOfEvents
SELECT enforcement.event_id, array_agg(asked.id ORDER BY asked.id) AS ids
FROM attune.enforcement
CROSS JOIN LATERAL unnest(enforcement.execution_ids) AS asked (id)
WHERE enforcement.event_id = ANY (@event_ids::bigint[])
    AND enforcement.created_at = @created_at::timestamptz
GROUP BY enforcement.event_id;

-- name: ListEvents
-- A filter that is not wanted is NULL.
SELECT id, created_at, trigger_ref, instance, source, event_id, payload, problem, replay_of, depth
FROM attune.event
WHERE (@trigger_refs::text[] IS NULL OR trigger_ref = ANY (@trigger_refs))
    AND (@source::text IS NULL OR source = @source)
    AND (@since::timestamptz IS NULL OR created_at >= @since)
    AND (@before::bigint IS NULL OR id < @before)
ORDER BY id DESC
LIMIT @most::integer;

-- name: Event
SELECT id, created_at, trigger_ref, instance, source, event_id, payload, problem, replay_of, depth
FROM attune.event
WHERE id = @id::bigint;

-- name: Replays
-- A replay is later than what it repeats, and few events are one: the index holds those alone.
SELECT id
FROM attune.event
WHERE replay_of = @id::bigint
ORDER BY id
LIMIT 100;

-- name: Enforcements
-- With those of their executions that are kept. One of a former version does not name them.
SELECT
    enforcement.id,
    enforcement.created_at,
    enforcement.event_id,
    enforcement.rule_ref,
    enforcement.status,
    enforcement.error,
    enforcement.warnings,
    ARRAY(
        SELECT asked.id
        FROM (
            SELECT unnest(enforcement.execution_ids) AS id
            UNION ALL
            SELECT former.id
            FROM attune.execution_now AS former
            WHERE enforcement.execution_ids IS NULL
                AND former.event_id = enforcement.event_id
                AND former.enforcement_id = enforcement.id
        ) AS asked
        WHERE EXISTS (
            SELECT
            FROM attune.execution_now AS execution
            WHERE execution.id = asked.id
                AND execution.created_at = enforcement.created_at
        )
        ORDER BY asked.id
    ) AS executions
FROM attune.enforcement
WHERE enforcement.event_id = @event_id::bigint
    AND enforcement.created_at = @created_at::timestamptz
ORDER BY enforcement.id;
