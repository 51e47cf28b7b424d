-- name: Pause
-- Who pauses what is paused already changes nothing.
WITH
paused AS (
    INSERT INTO attune.pause (paused_by, reason)
    VALUES (@by::text, @reason::text)
    ON CONFLICT (one) DO NOTHING
    RETURNING paused_at, paused_by, reason
),
audited AS (
    INSERT INTO attune.audit (actor, action, object, origin, request_id, before, after, detail)
    SELECT
        paused_by, 'pause', 'executions', @origin::text, @request_id::text,
        '{"paused": false}', '{"paused": true}', @detail::text::jsonb
    FROM paused
)
SELECT paused_at, paused_by, reason
FROM paused;

-- name: Resume
WITH
resumed AS (
    DELETE FROM attune.pause
    RETURNING paused_at, paused_by, reason
),
audited AS (
    INSERT INTO attune.audit (actor, action, object, origin, request_id, before, after, detail)
    SELECT
        @by::text, 'resume', 'executions', @origin::text, @request_id::text,
        '{"paused": true}', '{"paused": false}', jsonb_build_object('paused_at', paused_at, 'paused_by', paused_by)
    FROM resumed
),
told AS (
    SELECT pg_notify('attune_queue', '')
    FROM resumed
)
SELECT resumed.paused_at, resumed.paused_by, resumed.reason
FROM resumed
CROSS JOIN told;

-- name: Paused
SELECT paused_at, paused_by, reason
FROM attune.pause;
