-- name: PutNode
INSERT INTO attune.node (id, host, pid, version)
VALUES (@id::text, @host::text, @pid::integer, @version::text)
ON CONFLICT (id) DO UPDATE
SET host = EXCLUDED.host,
    pid = EXCLUDED.pid,
    version = EXCLUDED.version,
    seen_at = now();

-- name: RemoveNode
WITH runtimes AS (
    DELETE FROM attune.runtime
    WHERE node = @id::text
)
DELETE FROM attune.node
WHERE id = @id::text;

-- name: ListNodes
SELECT id, host, pid, version, started_at, seen_at
FROM attune.node
ORDER BY started_at, id;

-- name: ForgetNodes
-- Dead ones that nobody said good-bye for. What they held was reaped long before.
WITH forgotten AS (
    DELETE FROM attune.node
    WHERE seen_at < now() - INTERVAL '1 day'
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
INSERT INTO attune.audit (actor, action, object, detail)
VALUES (@actor::text, @action::text, @object::text, @detail::text::jsonb);

-- name: AuditEach
INSERT INTO attune.audit (actor, action, object, detail)
SELECT @actor::text, @action::text, object, @detail::text::jsonb
FROM unnest(@objects::text[]) WITH ORDINALITY AS input (object, place)
ORDER BY place;

-- name: ListAudit
SELECT id, created_at, actor, action, object, detail
FROM attune.audit
WHERE (@actor::text IS NULL OR actor = @actor)
    AND (@object::text IS NULL OR object = @object)
    AND (@since::timestamptz IS NULL OR created_at >= @since)
ORDER BY id DESC
LIMIT @most::integer;
