-- name: AddToken
INSERT INTO attune.token (name, hash, scope, pack_ref, created_by, expires_at)
VALUES (
    @name::text, @hash::bytea, @scope::text, @pack_ref::text, @actor::text,
    now() + make_interval(secs => @seconds::double precision)
)
ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING
RETURNING
    id, name, scope, pack_ref, created_by, created_at, expires_at, last_used_at, revoked_at, revoked_by,
    FALSE AS expired;

-- name: RevokeToken
UPDATE attune.token
SET revoked_at = now(),
    revoked_by = @actor::text
WHERE name = @name::text
    AND revoked_at IS NULL
RETURNING
    id, name, scope, pack_ref, created_by, created_at, expires_at, last_used_at, revoked_at, revoked_by,
    COALESCE(expires_at <= now(), FALSE) AS expired;

-- name: ListTokens
SELECT
    id, name, scope, pack_ref, created_by, created_at, expires_at, last_used_at, revoked_at, revoked_by,
    COALESCE(expires_at <= now(), FALSE) AS expired
FROM attune.token
WHERE @all::boolean
    OR revoked_at IS NULL AND COALESCE(expires_at > now(), TRUE)
ORDER BY name, id;

-- name: GoodTokens
-- With how many seconds each is good for yet, by the database's clock; NULL: for ever.
SELECT
    id, name, hash, scope, COALESCE(pack_ref, '') AS pack_ref,
    EXTRACT(EPOCH FROM expires_at - now())::double precision AS seconds
FROM attune.token
WHERE revoked_at IS NULL
    AND COALESCE(expires_at > now(), TRUE)
ORDER BY id;

-- name: HasTokens
-- Those that have expired too: somebody has thought of who may come in.
SELECT EXISTS (SELECT FROM attune.token);

-- name: UseTokens
UPDATE attune.token
SET last_used_at = GREATEST(token.last_used_at, now() - make_interval(secs => used.seconds))
FROM unnest(@ids::bigint[], @seconds::double precision[]) AS used (id, seconds)
WHERE token.id = used.id;
