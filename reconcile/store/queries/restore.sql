-- name: RestoreTarget
-- What a restore would replace, and who lives on it.
SELECT
    to_regnamespace('attune') IS NOT NULL AS has_schema,
    to_regnamespace('attune_before_restore') IS NOT NULL AS is_unfinished,
    has_database_privilege(current_database(), 'CREATE') AS may_create,
    current_user::text AS role,
    ARRAY(
        SELECT DISTINCT COALESCE(client_addr::text, 'this machine') || ', pid ' || pid
        FROM pg_stat_activity
        WHERE datname = current_database()
            AND application_name = 'attune'
            AND pid <> pg_backend_pid()
        ORDER BY 1
    ) AS connected;

-- name: NodesAlive
SELECT id || ', seen ' || EXTRACT(EPOCH FROM now() - seen_at)::integer || ' s ago'
FROM attune.node
WHERE seen_at > now() - make_interval(secs => @lease_seconds::double precision)
ORDER BY id;

-- name: SetAside
ALTER SCHEMA attune RENAME TO attune_before_restore;

-- name: MarkRestore
CREATE SCHEMA attune_before_restore;

-- name: ForgetHolders
-- Whoever held something when the backup was made is gone. A young backup would else have the next daemon wait
-- until the leases of the one before lapse.
DELETE FROM attune.lease;

-- name: PutBack
ALTER SCHEMA attune_before_restore RENAME TO attune;

-- name: TablesOf
SELECT format('%I.%I', nspname, relname)
FROM pg_class
JOIN pg_namespace
    ON pg_namespace.oid = relnamespace
WHERE nspname = @schema::text
    AND relkind = 'r'
    AND relispartition;

-- name: RestoreUnfinished
SELECT to_regnamespace('attune_before_restore') IS NOT NULL;
