-- Statements of the version before 0030, as its nodes send them to a database that a newer one has migrated.

-- name: QueueExecutions
WITH
enforced AS MATERIALIZED (
    SELECT
        nextval('attune.enforcement_id') AS id,
        input.*
    FROM unnest(
        @enforced_event_ids::bigint[], @enforced_rule_refs::text[], @enforced_statuses::text[],
        @enforced_errors::text[], @enforced_warnings::text[]
    ) WITH ORDINALITY AS input (event_id, rule_ref, status, error, warnings, place)
    ORDER BY input.place
),
judged AS (
    INSERT INTO attune.enforcement (id, event_id, rule_ref, status, error, warnings)
    SELECT id, event_id, rule_ref, status, error, NULLIF(warnings, '')::jsonb
    FROM enforced
),
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
recorded AS (
    INSERT INTO attune.execution (
        id, action_ref, pack_ref, rule_ref, trigger_ref, event_id, enforcement_id, ordinal, item,
        status, priority, requested_by, due_at, timeout, parameters, secrets, retry, rerun_of, depth
    )
    SELECT
        id, action_ref, pack_ref, rule_ref, trigger_ref, event_id, enforcement_id, ordinal, item,
        status, priority, requested_by, due_at, timeout, parameters, secrets, retry, rerun_of, depth
    FROM asked
),
queued AS (
    INSERT INTO attune.queue (
        execution_id, created_at, status, pack_ref, action_ref, rule_ref, trigger_ref, event_id,
        priority, due_at, timeout, parameters, secrets, retry, former_revision_id, former_manifest,
        concurrency_key, in_line, requested_by, depth
    )
    SELECT
        id, now(), status, pack_ref, action_ref, rule_ref, trigger_ref, event_id,
        priority, due_at, timeout, parameters, secrets, retry, former_revision_id, former_manifest,
        concurrency_key, in_line, requested_by, depth
    FROM asked
)
SELECT id
FROM asked
ORDER BY place;

-- name: EndAttempts
WITH
held AS MATERIALIZED (
    SELECT
        queue.execution_id,
        queue.created_at,
        queue.action_ref,
        queue.pack_ref,
        queue.rule_ref,
        queue.trigger_ref,
        queue.event_id,
        queue.requested_by,
        queue.depth,
        queue.attempt,
        queue.node,
        queue.revision,
        queue.due_at,
        queue.started_at,
        queue.concurrency_key,
        outcome.token,
        outcome.status,
        outcome.exit_code,
        NULLIF(outcome.signal, '') AS signal,
        NULLIF(outcome.error, '') AS error,
        NULLIF(outcome.result, '') AS result,
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
        id, token, status, exit_code, signal, error,
        result,
        stdout_text, stdout_bytes, stdout_omitted,
        stderr_text, stderr_bytes, stderr_omitted
    )
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
),
ended AS (
    SELECT
        execution_id AS id, action_ref, pack_ref, rule_ref, trigger_ref, event_id, requested_by, status, attempt, node,
        exit_code, signal, error, created_at, started_at, now() AS finished_at, depth
    FROM held
),
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
),
kept AS (
    INSERT INTO attune.execution AS execution (
        id, created_at, action_ref, pack_ref,
        status, attempt, node, revision, started_at, finished_at, exit_code, signal, error, result,
        stdout_truncated, stderr_truncated
    )
    SELECT
        execution_id, created_at, action_ref, pack_ref,
        status, attempt, node, revision, started_at, now(), exit_code, signal, error, result::jsonb,
        stdout_omitted > 0, stderr_omitted > 0
    FROM held
    ON CONFLICT (id, created_at) DO UPDATE
    SET status = EXCLUDED.status,
        attempt = EXCLUDED.attempt,
        node = EXCLUDED.node,
        revision = EXCLUDED.revision,
        started_at = EXCLUDED.started_at,
        finished_at = EXCLUDED.finished_at,
        exit_code = EXCLUDED.exit_code,
        signal = EXCLUDED.signal,
        error = EXCLUDED.error,
        result = EXCLUDED.result,
        stdout_truncated = EXCLUDED.stdout_truncated,
        stderr_truncated = EXCLUDED.stderr_truncated
),
recorded AS (
    INSERT INTO attune.attempt (
        execution_id, created_at, number, token, status, node, revision, queued_at, started_at,
        finished_at, exit_code, signal, error
    )
    SELECT
        execution_id, created_at, attempt, token, status, node, revision, due_at, started_at,
        now(), exit_code, signal, error
    FROM held
),
printed AS (
    INSERT INTO attune.output (execution_id, created_at, attempt, stream, text, bytes, omitted)
    SELECT execution_id, created_at, attempt, 'stdout', stdout_text, stdout_bytes, stdout_omitted
    FROM held
    WHERE stdout_bytes > 0
        OR stdout_text <> ''
    UNION ALL
    SELECT execution_id, created_at, attempt, 'stderr', stderr_text, stderr_bytes, stderr_omitted
    FROM held
    WHERE stderr_bytes > 0
        OR stderr_text <> ''
),
told AS (
    SELECT pg_notify('attune_finished', CASE WHEN length(list.ids) < 7900 THEN list.ids ELSE '' END)
    FROM (SELECT string_agg(id::text, ',') AS ids FROM ended) AS list
    WHERE list.ids IS NOT NULL
)
SELECT held.token, held.action_ref, held.concurrency_key AS freed, (SELECT count(*) FROM told) AS notified
FROM held;

-- name: CancelExecutions
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
    INSERT INTO attune.execution AS execution (
        id, created_at, action_ref, pack_ref, status, attempt, finished_at, error
    )
    SELECT
        execution_id, created_at, action_ref, pack_ref, 'cancelled',
        CASE WHEN token IS NULL THEN attempt ELSE attempt - 1 END,
        now(), 'cancelled by ' || @cancelled_by::text
    FROM found
    WHERE started_at IS NULL
    ON CONFLICT (id, created_at) DO UPDATE
    SET status = EXCLUDED.status,
        attempt = EXCLUDED.attempt,
        finished_at = EXCLUDED.finished_at,
        error = EXCLUDED.error
    RETURNING execution.id, execution.action_ref, execution.pack_ref, execution.rule_ref, execution.trigger_ref, execution.event_id,
        execution.requested_by, execution.status, execution.attempt, execution.node, execution.exit_code, execution.signal,
        execution.error, execution.created_at, execution.started_at, execution.finished_at, execution.depth
),
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
),
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
    SELECT pg_notify('attune_finished', CASE WHEN length(list.ids) < 7900 THEN list.ids ELSE '' END)
    FROM (SELECT string_agg(id::text, ',') AS ids FROM ended) AS list
    WHERE list.ids IS NOT NULL
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
