-- name: PutNode
WITH noted AS (
    INSERT INTO attune.notice (trigger_ref, payload)
    SELECT
        'core.node_state_changed',
        jsonb_build_object(
            'node', @id::text, 'state', 'joined', 'host', @host::text, 'pid', @pid::integer, 'version', @version::text, 'seen_at', now()
        )
    WHERE NOT EXISTS (SELECT FROM attune.node WHERE id = @id::text)
        AND EXISTS (SELECT FROM attune.rule WHERE rule.trigger_ref = 'core.node_state_changed' AND rule.enabled)
)
INSERT INTO attune.node (id, host, pid, version)
VALUES (@id::text, @host::text, @pid::integer, @version::text)
ON CONFLICT (id) DO UPDATE
SET host = EXCLUDED.host,
    pid = EXCLUDED.pid,
    version = EXCLUDED.version,
    seen_at = now(),
    lost_at = NULL;

-- name: RemoveNode
-- It left in order, or is known to be dead.
WITH
runtimes AS (
    DELETE FROM attune.runtime
    WHERE node = @id::text
),
noted AS (
    INSERT INTO attune.notice (trigger_ref, payload)
    SELECT
        'core.node_state_changed',
        jsonb_build_object('node', id, 'state', @state::text, 'host', host, 'pid', pid, 'version', version, 'seen_at', seen_at)
    FROM attune.node
    WHERE id = @id::text
        AND (@state::text <> 'lost' OR lost_at IS NULL)
        AND EXISTS (SELECT FROM attune.rule WHERE rule.trigger_ref = 'core.node_state_changed' AND rule.enabled)
)
DELETE FROM attune.node
WHERE id = @id::text;

-- name: NodesSeen
SELECT id, seen_at, EXTRACT(EPOCH FROM now() - seen_at)::double precision AS seconds
FROM attune.node;

-- name: ListNodes
SELECT id, host, pid, version, started_at, seen_at
FROM attune.node
ORDER BY started_at, id;

-- name: ForgetNodes
-- Dead ones that nobody said good-bye for. What they held was reaped long before.
WITH forgotten AS (
    DELETE FROM attune.node
    WHERE seen_at < now() - INTERVAL '1 day'
        AND id <> ALL (@living::text[])
    RETURNING id
)
DELETE FROM attune.runtime
USING forgotten
WHERE runtime.node = forgotten.id;

-- name: PutRuntimes
WITH
found AS (
    SELECT *
    FROM unnest(@names::text[], @paths::text[], @versions::text[], @problems::text[])
        AS input (name, path, version, problem)
),
missing AS (
    DELETE FROM attune.runtime
    WHERE node = @node::text
        AND NOT EXISTS (
            SELECT
            FROM found
            WHERE found.name = runtime.name
                AND found.path = runtime.path
        )
)
INSERT INTO attune.runtime (node, name, path, version, problem)
SELECT @node::text, name, path, version, problem
FROM found
ON CONFLICT (node, name, path) DO UPDATE
SET version = EXCLUDED.version,
    problem = EXCLUDED.problem,
    probed_at = now();

-- name: Audit
INSERT INTO attune.audit (actor, action, object, origin, request_id, before, after, detail)
VALUES (
    @actor::text, @action::text, @object::text, @origin::text, @request_id::text,
    @before::text::jsonb, @after::text::jsonb, @detail::text::jsonb
);

-- name: AuditEach
INSERT INTO attune.audit (actor, action, object, origin, request_id, before, after, detail)
SELECT
    @actor::text, @action::text, object, @origin::text, @request_id::text,
    @before::text::jsonb, @after::text::jsonb, @detail::text::jsonb
FROM unnest(@objects::text[]) WITH ORDINALITY AS input (object, place)
ORDER BY place;

-- name: AuditQueued
-- In the transaction that queued them, whose last one has the sequence's last number of this session.
INSERT INTO attune.audit (actor, action, object, origin, request_id, after, detail)
SELECT
    @actor::text, @action::text,
    CASE WHEN @count::integer = 1 THEN last.id::text ELSE @count::text || ' executions' END,
    @origin::text, @request_id::text,
    COALESCE(@after::text::jsonb, '{}') || CASE
        WHEN @count > 1 THEN jsonb_build_object('last_id', last.id)
        ELSE '{}'
    END,
    @detail::text::jsonb
FROM (SELECT currval('attune.execution_id') AS id) AS last;

-- name: ListAudit
SELECT id, created_at, actor, origin, request_id, action, object, before, after, detail
FROM attune.audit
WHERE (@actor::text IS NULL OR actor = @actor)
    AND (@action::text IS NULL OR action = @action)
    AND (@object::text IS NULL OR object = @object)
    AND (@origin::text IS NULL OR origin = @origin)
    AND (@since::timestamptz IS NULL OR created_at >= @since)
    AND (@before::bigint IS NULL OR id < @before)
ORDER BY id DESC
LIMIT @most::integer;

-- name: LeasesNow
-- What is held, by whom, until when, for how many seconds yet, and how many nodes live: those that were
-- seen within the time of a lease. Whether a lapsed lease is nobody's is for who asks to say.
SELECT
    lease.name,
    COALESCE(lease.node, '') AS node,
    COALESCE(lease.lease_until, now()) AS lease_until,
    COALESCE(EXTRACT(EPOCH FROM lease.lease_until - now()), 0)::double precision AS seconds,
    (
        SELECT count(*)
        FROM attune.node
        WHERE seen_at > now() - make_interval(secs => @lease_seconds::double precision)
            OR id = @node::text
    ) AS nodes
FROM (SELECT) AS one
LEFT JOIN attune.lease
    ON TRUE;

-- name: LeaseSettings
-- Renewals have to come in time, and nobody of ours keeps a row for longer than a commit takes: who does is
-- named while there is time to end that session.
SELECT set_config('lock_timeout', @wait::text, TRUE);

-- name: HoldLeases
-- Renews what the node holds and takes what nobody does, of these names, but for rows that somebody else has
-- locked: one must not hold the others up. Those are told without a token; the last part sees what was there
-- before. A lease that lapsed and that nobody else took keeps its token: what was done under it meanwhile, by
-- the node alone, still counts. Those to be kept only look lapsed, and are taken from nobody.
WITH
due AS (
    SELECT name
    FROM attune.lease
    WHERE name = ANY (@names::text[])
        AND (node = @node::text OR (lease_until <= now() AND name <> ALL (@kept::text[])))
),
free AS (
    SELECT name
    FROM attune.lease
    WHERE name = ANY (@names::text[])
        AND (node = @node::text OR (lease_until <= now() AND name <> ALL (@kept::text[])))
    ORDER BY name
    FOR NO KEY UPDATE SKIP LOCKED
),
renewed AS (
    UPDATE attune.lease
    SET RENEWED_LEASE
    FROM free
    WHERE lease.name = free.name
    RETURNING lease.name, lease.token
),
taken AS (
    INSERT INTO attune.lease (name, node, token, lease_until)
    SELECT name, @node::text, gen_random_uuid(), now() + make_interval(secs => @lease_seconds::double precision)
    FROM unnest(@names::text[]) AS input (name)
    WHERE NOT EXISTS (SELECT FROM attune.lease WHERE lease.name = input.name)
    ORDER BY name
    ON CONFLICT (name) DO NOTHING
    RETURNING name, token
)
SELECT name, token::text
FROM renewed
UNION ALL
SELECT name, token::text
FROM taken
UNION ALL
SELECT name, NULL
FROM due
WHERE NOT EXISTS (SELECT FROM renewed WHERE renewed.name = due.name);

-- name: AwaitLease
-- HoldLeases of one that is there, which waits for who has locked its row.
UPDATE attune.lease
SET RENEWED_LEASE
WHERE name = @name::text
    AND (node = @node::text OR (lease_until <= now() AND name <> ALL (@kept::text[])))
RETURNING token::text;

-- name: RENEWED_LEASE
-- A fragment.
node = @node::text,
        token = CASE WHEN lease.node = @node::text THEN lease.token ELSE gen_random_uuid() END,
        acquired_at = CASE WHEN lease.node = @node::text THEN lease.acquired_at ELSE now() END,
        lease_until = now() + make_interval(secs => @lease_seconds::double precision)

-- name: ReleaseLeases
-- Without names all of the node. Those whose rows somebody else has locked are left, and told: they must not
-- hold the others up.
WITH
held AS (
    SELECT name
    FROM attune.lease
    WHERE node = @node::text
        AND (@names::text[] IS NULL OR name = ANY (@names))
),
free AS (
    SELECT name
    FROM attune.lease
    WHERE name IN (SELECT name FROM held)
        AND node = @node::text
    ORDER BY name
    FOR UPDATE SKIP LOCKED
),
released AS (
    DELETE FROM attune.lease
    USING free
    WHERE lease.name = free.name
    RETURNING lease.name, pg_notify('attune_lease', '')
)
SELECT name
FROM held
WHERE NOT EXISTS (SELECT FROM released WHERE released.name = held.name);

-- name: AwaitRelease
-- ReleaseLeases of one, which waits for who has locked its row.
DELETE FROM attune.lease
WHERE node = @node::text
    AND name = @name::text
RETURNING pg_notify('attune_lease', '');

-- name: LoseLeases
-- Of a node that is known to be dead.
DELETE FROM attune.lease
WHERE node = @node::text;

-- name: CheckLease
-- Whether a holding counts at this moment, not when the transaction began; whoever renews or takes it
-- waits from here to the end of the transaction.
SELECT name
FROM attune.lease
WHERE name = @name::text
    AND token = @token::uuid
    AND lease_until > clock_timestamp()
FOR SHARE;

-- name: MustHold
-- Fails unless each lease has the token that goes with it, and keeps it so until the transaction ends.
WITH held AS MATERIALIZED (
    SELECT
    FROM unnest(@names::text[], @tokens::uuid[]) AS input (name, token)
    JOIN attune.lease
        ON lease.name = input.name
        AND lease.token = input.token
    ORDER BY lease.name
    FOR SHARE OF lease
)
SELECT CASE WHEN (SELECT count(*) FROM held) < cardinality(@names) THEN attune.not_held() END;

-- name: HeldLeases
SELECT input.token::text
FROM unnest(@names::text[], @tokens::uuid[]) AS input (name, token)
JOIN attune.lease
    ON lease.name = input.name
    AND lease.token = input.token;

-- name: LockedLeases
-- Those of these tokens that MustHold would wait for. A lease that is gone has nobody wait.
WITH free AS MATERIALIZED (
    SELECT name
    FROM attune.lease
    WHERE name = ANY (@names::text[])
    FOR SHARE SKIP LOCKED
)
SELECT input.token::text
FROM unnest(@names::text[], @tokens::uuid[]) AS input (name, token)
JOIN attune.lease
    ON lease.name = input.name
WHERE NOT EXISTS (SELECT FROM free WHERE free.name = input.name);

-- name: LeaseHolder
SELECT node
FROM attune.lease
WHERE name = @name::text
    AND lease_until > now();

-- name: AddErrand
-- Those of nodes that died before they read the answer go on the way.
WITH
old AS (
    DELETE FROM attune.errand
    WHERE expires_at < now() - INTERVAL '1 day'
),
added AS (
    INSERT INTO attune.errand (node, verb, pack_ref, revision, actor, reason, origin, request_id, expires_at)
    VALUES (
        @node::text, @verb::text, @pack::text, @revision::integer, @actor::text, @reason::text,
        @origin::text, @request_id::text,
        now() + make_interval(secs => @seconds::double precision)
    )
    RETURNING id
),
told AS (
    SELECT pg_notify('attune_errand', id::text)
    FROM added
)
SELECT added.id
FROM added
CROSS JOIN told;

-- name: OpenErrands
SELECT id, node, verb, pack_ref, revision, actor, reason, origin, request_id
FROM attune.errand
WHERE done_at IS NULL
    AND answer IS NULL
    AND expires_at > now()
ORDER BY id;

-- name: DoErrand
-- In the transaction of what was asked for: once, and not when who asked has taken it back.
UPDATE attune.errand
SET done_at = clock_timestamp()
WHERE id = @id::bigint
    AND done_at IS NULL
    AND expires_at > clock_timestamp()
RETURNING id;

-- name: AnswerErrand
UPDATE attune.errand
SET answer = @answer::text::jsonb
WHERE id = @id::bigint;

-- name: ErrandAnswer
SELECT done_at IS NOT NULL, COALESCE(answer::text, '')
FROM attune.errand
WHERE id = @id::bigint;

-- name: WithdrawErrand
-- One that was done stays until its answer is read.
DELETE FROM attune.errand
WHERE id = @id::bigint
    AND (done_at IS NULL OR answer IS NOT NULL)
RETURNING done_at IS NULL AND answer IS NULL;
