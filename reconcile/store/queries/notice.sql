-- What happened to Attune itself. A part of other statements writes it, and only where an enabled rule
-- listens: the look for one is by an index, and once a statement.

-- name: NOTE_ENDED
-- A fragment: it stands behind ended, whose columns are those of the history.
noted AS (
    INSERT INTO attune.notice (trigger_ref, event_id, depth, payload)
    SELECT
        'core.execution_finished',
        'execution ' || id,
        depth + 1,
        jsonb_build_object(
            'execution_id', id, 'status', status, 'action', action_ref, 'action_ref', action_ref, 'pack', pack_ref,
            'rule', rule_ref, 'rule_ref', rule_ref, 'trigger', trigger_ref, 'event_id', event_id, 'requested_by', requested_by,
            'exit_code', exit_code, 'signal', signal, 'error', error, 'attempts', attempt, 'node', node,
            'created_at', created_at, 'started_at', started_at, 'finished_at', finished_at,
            'duration_seconds', EXTRACT(EPOCH FROM finished_at - started_at)::double precision, 'depth', depth
        )
    FROM ended
    WHERE EXISTS (SELECT FROM attune.rule WHERE rule.trigger_ref = 'core.execution_finished' AND rule.enabled)
)

-- name: TELL_ENDED
-- A payload holds less than 8000 bytes: many are told by an empty one. A fragment, of told.
SELECT pg_notify('attune_finished', CASE WHEN length(list.ids) < 7900 THEN list.ids ELSE '' END)
    FROM (SELECT string_agg(id::text, ',') AS ids FROM ended) AS list
    WHERE list.ids IS NOT NULL

-- name: AddNotices
INSERT INTO attune.notice (trigger_ref, event_id, payload)
SELECT input.trigger_ref, input.event_id, input.payload::jsonb
FROM unnest(@trigger_refs::text[], @event_ids::text[], @payloads::text[]) WITH ORDINALITY
    AS input (trigger_ref, event_id, payload, place)
WHERE EXISTS (SELECT FROM attune.rule WHERE rule.trigger_ref = input.trigger_ref AND rule.enabled)
ORDER BY input.place;

-- name: TakeNotices
-- The oldest after @after that nobody is at, or all of them. Whoever takes them and dies has them taken by
-- another.
WITH
free AS MATERIALIZED (
    SELECT id
    FROM attune.notice
    WHERE id > @after::bigint
        AND (@others::boolean OR taken_until IS NULL OR taken_until < now())
    ORDER BY id
    LIMIT @most::integer
    FOR UPDATE SKIP LOCKED
),
taken AS (
    UPDATE attune.notice
    SET taken_until = now() + make_interval(secs => @seconds::double precision)
    FROM free
    WHERE notice.id = free.id
    RETURNING notice.id, notice.trigger_ref, notice.event_id, notice.depth, notice.payload
)
SELECT id, trigger_ref, COALESCE(event_id, 'notice ' || id), depth, payload
FROM taken
ORDER BY id;

-- name: DropNotices
DELETE FROM attune.notice
WHERE id = ANY (@ids::bigint[]);

-- name: MarkLostNodes
-- Those that have not been seen for that long.
WITH lost AS (
    UPDATE attune.node
    SET lost_at = now()
    WHERE lost_at IS NULL
        AND seen_at < now() - make_interval(secs => @seconds::double precision)
        AND id <> ALL (@living::text[])
    RETURNING id, host, pid, version, seen_at
),
noted AS (
    INSERT INTO attune.notice (trigger_ref, payload)
    SELECT
        'core.node_state_changed',
        jsonb_build_object('node', id, 'state', 'lost', 'host', host, 'pid', pid, 'version', version, 'seen_at', seen_at)
    FROM lost
    WHERE EXISTS (SELECT FROM attune.rule WHERE rule.trigger_ref = 'core.node_state_changed' AND rule.enabled)
)
SELECT id
FROM lost
ORDER BY id;
