-- name: LockMaintenance
-- One node at a time; the others leave it to that one.
SELECT pg_try_advisory_xact_lock(@key::bigint);

-- name: ShortLocks
-- DROP and ATTACH need a moment alone with the table. Everybody queues up behind who waits for
-- that, so the wait is short, and the next round tries again.
SELECT set_config('lock_timeout', '5s', TRUE);

-- name: MakePartitions
SELECT attune.make_partitions(
    (now() AT TIME ZONE 'UTC')::date,
    (now() AT TIME ZONE 'UTC')::date + @days::integer
);

-- name: DropPartitions
SELECT attune.drop_partitions(@histories::text[], @before::timestamptz);

-- name: EventsKeptSince
-- 0 is no bound.
SELECT GREATEST(
    now() - make_interval(secs => NULLIF(@keep_seconds::double precision, 0)),
    (
        SELECT created_at
        FROM attune.event
        WHERE @most::integer > 0
        ORDER BY id DESC
        LIMIT 1
        OFFSET GREATEST(@most::integer - 1, 0)
    )
);

-- name: ExecutionsKeptSince
-- As EventsKeptSince.
SELECT GREATEST(
    now() - make_interval(secs => NULLIF(@keep_seconds::double precision, 0)),
    (
        SELECT created_at
        FROM attune.execution_now
        WHERE @most::integer > 0
        ORDER BY id DESC
        LIMIT 1
        OFFSET GREATEST(@most::integer - 1, 0)
    )
);

-- name: PruneEventKeys
WITH old AS (
    SELECT source, trigger_ref, event_id
    FROM attune.event_key
    WHERE created_at < now() - make_interval(secs => @keep_seconds::double precision)
    LIMIT @most::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM attune.event_key
USING old
WHERE event_key.source = old.source
    AND event_key.trigger_ref = old.trigger_ref
    AND event_key.event_id = old.event_id;

-- name: PruneIdempotencyKeys
WITH old AS (
    SELECT key
    FROM attune.idempotency_key
    WHERE created_at < now() - make_interval(secs => @keep_seconds::double precision)
    LIMIT @most::integer
    FOR UPDATE SKIP LOCKED
)
DELETE FROM attune.idempotency_key
USING old
WHERE idempotency_key.key = old.key;

-- name: PruneAudit
SELECT attune.prune_audit(make_interval(secs => @keep_seconds::double precision), @most::integer);

-- name: PruneRevisions
-- Kept whatever their age: what a pack or a component names, and what an attempt runs, or will run, from.
WITH
kept AS (
    SELECT revision_id FROM attune.pack
    UNION SELECT revision_id FROM attune.action
    UNION SELECT revision_id FROM attune.trigger
    UNION SELECT revision_id FROM attune.sensor
    UNION SELECT revision_id FROM attune.rule
    UNION SELECT revision_id FROM attune.queue
    UNION SELECT former_revision_id FROM attune.queue
),
outdated AS (
    SELECT revision.id
    FROM attune.pack
    CROSS JOIN LATERAL (
        SELECT id, created_at, row_number() OVER (ORDER BY number DESC) AS place
        FROM attune.revision
        WHERE revision.pack_id = pack.id
    ) AS revision
    LEFT JOIN kept
        ON kept.revision_id = revision.id
    WHERE kept.revision_id IS NULL
        AND (
            @keep::integer > 0 AND revision.place > @keep
            OR @keep_seconds::double precision > 0 AND revision.created_at < now() - make_interval(secs => @keep_seconds)
        )
    LIMIT @most::integer
)
DELETE FROM attune.revision
USING outdated
WHERE revision.id = outdated.id
RETURNING ARRAY(
    SELECT entry ->> 'digest'
    FROM jsonb_array_elements(revision.tree) AS entry
    WHERE entry ->> 'digest' <> ''
) AS digests;

-- name: RevisionsInUse
WITH used AS (
    SELECT revision_id AS id
    FROM attune.queue
    WHERE revision_id IS NOT NULL
    UNION
    SELECT former_revision_id
    FROM attune.queue
    WHERE former_revision_id IS NOT NULL
)
SELECT DISTINCT revision.digest
FROM used
JOIN attune.revision
    ON revision.id = used.id;

-- name: PruneFiles
-- Of the files that the deleted revisions had, those that no other revision has.
WITH used AS (
    SELECT DISTINCT entry ->> 'digest' AS digest
    FROM attune.revision
    CROSS JOIN LATERAL jsonb_array_elements(revision.tree) AS entry
    WHERE entry ->> 'digest' = ANY (@digests::text[])
)
DELETE FROM attune.file
WHERE digest = ANY (@digests::text[])
    AND digest NOT IN (SELECT used.digest FROM used);

-- name: ServerInfo
SELECT
    current_setting('server_version') AS version,
    pg_database_size(current_database()) AS size_bytes;

-- name: SchemaExists
-- Apart from SchemaVersion, which cannot be planned before the table is there.
SELECT EXISTS (
    SELECT
    FROM pg_catalog.pg_namespace
    JOIN pg_catalog.pg_class
        ON pg_class.relnamespace = pg_namespace.oid
    WHERE pg_namespace.nspname = 'attune'
        AND pg_class.relname = 'schema_version'
);

-- name: SchemaVersion
SELECT COALESCE(max(version_id), 0)
FROM attune.schema_version
WHERE is_applied;

-- name: Installation
-- When the schema was made, to the microsecond: no other database says the same.
SELECT COALESCE(EXTRACT(EPOCH FROM min(tstamp))::text, '')
FROM attune.schema_version;

-- name: RowsWithSecrets
SELECT id, created_at, action_ref, secrets
FROM (
    SELECT execution_id AS id, created_at, action_ref, secrets FROM attune.queue
    UNION ALL
    SELECT id, created_at, action_ref, secrets FROM attune.execution
) AS kept
WHERE secrets IS NOT NULL
    AND id > @after::bigint
ORDER BY id
LIMIT @most::integer;

-- name: ResealQueue
-- Before ResealExecutions: what ends meanwhile goes that way.
UPDATE attune.queue
SET secrets = input.secrets::jsonb
FROM unnest(@ids::bigint[], @secrets::text[]) AS input (id, secrets)
WHERE queue.execution_id = input.id;

-- name: ResealExecutions
UPDATE attune.execution
SET secrets = input.secrets::jsonb
FROM unnest(@ids::bigint[], @created_at::timestamptz[], @secrets::text[]) AS input (id, created_at, secrets)
WHERE execution.id = input.id
    AND execution.created_at = input.created_at;

-- name: VacuumQueue
VACUUM (SKIP_LOCKED) attune.queue;

-- name: LastNumber
SELECT last_value
FROM attune.execution_id;

-- name: PutNumbersForward
-- Whoever waited for the lock finds that another was first.
SELECT setval('attune.execution_id', @number::bigint);

-- name: Examine
SELECT
    current_setting('server_version_num')::integer AS version_number,
    split_part(current_setting('server_version'), ' ', 1) AS version,
    current_setting('server_encoding') AS encoding,
    pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on' AS read_only,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('fsync') = 'on' AS fsync,
    current_setting('full_page_writes') = 'on' AS full_page_writes,
    current_setting('autovacuum') = 'on' AS autovacuum,
    current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer AS connections,
    (
        SELECT count(*)::integer
        FROM pg_stat_activity
        WHERE backend_type = 'client backend'
    ) AS connected,
    (
        SELECT count(*)::integer
        FROM pg_stat_activity
        WHERE backend_type = 'client backend'
            AND usename = current_user
            AND application_name = 'attune'
    ) AS own_connected,
    current_user::text AS role,
    has_database_privilege(current_database(), 'CREATE') AS may_create,
    has_function_privilege('pg_ls_waldir()', 'EXECUTE') AS may_see_wal,
    pg_database_size(current_database()) AS size_bytes,
    COALESCE((
        SELECT EXTRACT(EPOCH FROM max(clock_timestamp() - xact_start))
        FROM pg_stat_activity
        WHERE pid <> pg_backend_pid()
            AND xact_start IS NOT NULL
            AND backend_type = 'client backend'
    ), 0)::double precision AS oldest_seconds,
    ARRAY(
        SELECT slot_name::text
        FROM pg_replication_slots
        WHERE NOT active
        ORDER BY slot_name
    ) AS idle_slots,
    to_regnamespace('attune') IS NOT NULL AS has_schema,
    COALESCE((
        SELECT pg_has_role(nspowner, 'USAGE')
        FROM pg_namespace
        WHERE nspname = 'attune'
    ), FALSE) AS owns_schema,
    ARRAY(
        SELECT pg_class.relname || ': ' || string_agg(wanted.privilege, ', ' ORDER BY wanted.privilege)
        FROM pg_class
        CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS wanted (privilege)
        WHERE pg_class.relnamespace = to_regnamespace('attune')
            AND pg_class.relkind IN ('r', 'p')
            AND NOT pg_class.relispartition
            AND pg_class.relname <> 'schema_version'
            AND NOT has_table_privilege(pg_class.oid, wanted.privilege)
        GROUP BY pg_class.relname
        ORDER BY pg_class.relname
    ) AS missing_privileges,
    pg_backend_pid()::bigint AS backend;

-- name: WALSize
SELECT COALESCE(sum(size), 0)::bigint
FROM pg_ls_waldir();

-- name: HistoryAhead
-- For how many whole days from now a partition of each history is there.
SELECT COALESCE(min(ahead), 0)::integer
FROM (
    SELECT max(substring(child.relname FROM '\d{8}$')::date - (now() AT TIME ZONE 'UTC')::date) AS ahead
    FROM pg_class AS parent
    JOIN pg_inherits
        ON pg_inherits.inhparent = parent.oid
    JOIN pg_class AS child
        ON child.oid = pg_inherits.inhrelid
    WHERE parent.relnamespace = to_regnamespace('attune')
        AND parent.relname IN ('event', 'enforcement', 'execution', 'attempt', 'output')
        AND child.relname ~ '\d{8}$'
    GROUP BY parent.relname
) AS histories;

-- name: TableLocks
-- Who keeps everybody else from writing to a whole table of ours, or from the leases, in words. Whose row it is
-- that a session has locked cannot be seen; but nobody of ours has any of attune.lease for a second, unless it
-- waits itself.
SELECT format(
        'session %s%s%s holds %s on attune.%s%s',
        pg_locks.pid,
        ' of ' || pg_stat_activity.usename,
        ' (' || NULLIF(pg_stat_activity.application_name, '') || ')',
        string_agg(DISTINCT pg_locks.mode, ' and '),
        pg_class.relname,
        ', in a transaction that has been open for ' || date_trunc('second', clock_timestamp() - pg_stat_activity.xact_start)
    )
FROM pg_catalog.pg_locks
JOIN pg_catalog.pg_class
    ON pg_class.oid = pg_locks.relation
JOIN pg_catalog.pg_database
    ON pg_database.oid = pg_locks.database
JOIN pg_catalog.pg_stat_activity
    ON pg_stat_activity.pid = pg_locks.pid
WHERE pg_locks.locktype = 'relation'
    AND pg_locks.granted
    AND (
        pg_locks.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        OR (
            pg_class.relname = 'lease'
            AND pg_locks.mode IN ('RowShareLock', 'RowExclusiveLock')
            AND pg_stat_activity.xact_start < clock_timestamp() - INTERVAL '1 second'
            AND pg_stat_activity.wait_event_type IS DISTINCT FROM 'Lock'
        )
    )
    AND pg_class.relnamespace = 'attune'::regnamespace
    AND pg_class.relkind IN ('r', 'p')
    AND pg_database.datname = current_database()
GROUP BY pg_locks.pid, pg_class.relname, pg_stat_activity.usename, pg_stat_activity.application_name, pg_stat_activity.xact_start
ORDER BY pg_stat_activity.xact_start
LIMIT 3;
