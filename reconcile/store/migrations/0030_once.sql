-- An execution is in one place: in the queue until it ends, and in the history from then on, written once. What
-- waits or runs leaves the history for the queue, a few thousand at a time, each in a transaction of its own, so that
-- nodes go on renewing and ending what they hold. Anything in here may be done again after it was broken off.

-- +goose NO TRANSACTION
-- +goose Up

-- +goose StatementBegin
DO $$
BEGIN
    SET LOCAL lock_timeout = '5s';

    ALTER TABLE attune.queue
        ADD COLUMN IF NOT EXISTS enforcement_id bigint,
        ADD COLUMN IF NOT EXISTS ordinal integer NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS item integer NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS rerun_of bigint;
    COMMENT ON TABLE attune.queue IS 'Executions that wait or run, which are nowhere else until they end.';
    COMMENT ON COLUMN attune.queue.enforcement_id IS 'The enforcement that it belongs to.';
    COMMENT ON COLUMN attune.queue.ordinal IS 'Its place in the rule''s actions.';
    COMMENT ON COLUMN attune.queue.item IS 'Its place in the rule''s for_each.';
    COMMENT ON COLUMN attune.queue.rerun_of IS 'The execution that it repeats; NULL: none.';

    ALTER TABLE attune.enforcement ADD COLUMN IF NOT EXISTS execution_ids bigint[];
    COMMENT ON COLUMN attune.enforcement.execution_ids IS 'The executions that it led to; NULL: of a former version, theirs name it.';

    COMMENT ON TABLE attune.execution IS 'Executions that have ended; the view execution_now has all. Partitioned by the day on which they were asked for.';
    COMMENT ON COLUMN attune.execution.status IS 'How it ended.';
    COMMENT ON COLUMN attune.execution.due_at IS 'Its last attempt was not to be started before.';
    COMMENT ON COLUMN attune.execution.finished_at IS 'When it ended.';
END
$$;
-- +goose StatementEnd

-- Partitions that are there already did not get the comments; those to come do.
-- +goose StatementBegin
DO $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT inhrelid::regclass AS name, inhparent = 'attune.enforcement'::regclass AS of_enforcement
        FROM pg_catalog.pg_inherits
        WHERE inhparent IN ('attune.enforcement'::regclass, 'attune.execution'::regclass)
    LOOP
        IF part.of_enforcement THEN
            EXECUTE format('COMMENT ON COLUMN %s.execution_ids IS %L', part.name,
                'The executions that it led to; NULL: of a former version, theirs name it.');
        ELSE
            EXECUTE format('COMMENT ON COLUMN %s.status IS %L', part.name, 'How it ended.');
            EXECUTE format('COMMENT ON COLUMN %s.due_at IS %L', part.name, 'Its last attempt was not to be started before.');
            EXECUTE format('COMMENT ON COLUMN %s.finished_at IS %L', part.name, 'When it ended.');
        END IF;
    END LOOP;
END
$$;
-- +goose StatementEnd

-- Without a condition on either, or no list of what is newest would find it by index. Until what follows has moved
-- the rows, it shows some twice.
CREATE OR REPLACE VIEW attune.execution_now AS
SELECT
    execution_id AS id,
    created_at,
    action_ref,
    pack_ref,
    rule_ref,
    trigger_ref,
    event_id,
    enforcement_id,
    status,
    priority,
    requested_by,
    due_at,
    parameters,
    attempt,
    node,
    revision,
    started_at,
    NULL::timestamptz AS finished_at,
    lease_until,
    cancel_by,
    NULL::integer AS exit_code,
    NULL::text AS signal,
    NULL::text AS error,
    NULL::jsonb AS result,
    FALSE AS stdout_truncated,
    FALSE AS stderr_truncated,
    rerun_of
FROM attune.queue
UNION ALL
SELECT
    id,
    created_at,
    action_ref,
    pack_ref,
    rule_ref,
    trigger_ref,
    event_id,
    enforcement_id,
    status,
    priority,
    requested_by,
    due_at,
    parameters,
    attempt,
    node,
    revision,
    started_at,
    finished_at,
    NULL::timestamptz AS lease_until,
    NULL::text AS cancel_by,
    exit_code,
    signal,
    error,
    result,
    stdout_truncated,
    stderr_truncated,
    rerun_of
FROM attune.execution;
COMMENT ON VIEW attune.execution_now IS 'All executions: the queue, and the history of those that have ended.';

-- A node of the former version that is still running goes on as it did: it writes what it queues into both tables,
-- and of what ends only what is new. This puts that right. A later version drops it, when there is nobody like that.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION attune.write_once() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    queued attune.queue;
BEGIN
    IF NEW.finished_at IS NULL THEN
        UPDATE attune.queue
        SET enforcement_id = NEW.enforcement_id,
            ordinal = NEW.ordinal,
            item = NEW.item,
            rerun_of = NEW.rerun_of
        WHERE execution_id = NEW.id;
        RETURN NULL;
    END IF;
    SELECT *
    INTO queued
    FROM attune.queue
    WHERE execution_id = NEW.id;
    NEW.rule_ref := queued.rule_ref;
    NEW.trigger_ref := queued.trigger_ref;
    NEW.event_id := queued.event_id;
    NEW.enforcement_id := queued.enforcement_id;
    NEW.ordinal := COALESCE(queued.ordinal, 0);
    NEW.item := COALESCE(queued.item, 0);
    NEW.priority := COALESCE(queued.priority, 0);
    NEW.requested_by := COALESCE(queued.requested_by, '');
    NEW.due_at := COALESCE(queued.put_off_from, queued.due_at, NEW.due_at);
    NEW.timeout := queued.timeout;
    NEW.parameters := COALESCE(queued.parameters, '{}');
    NEW.secrets := queued.secrets;
    NEW.retry := queued.retry;
    NEW.rerun_of := queued.rerun_of;
    NEW.depth := COALESCE(queued.depth, 0);
    RETURN NEW;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION attune.write_once IS 'Makes of what a node of a former version writes into the history what one of this version does.';

-- What names no parameters is of such a node. Where none lives there is nothing to put right: one that comes later
-- refuses this schema.
-- +goose StatementBegin
DO $$
BEGIN
    SET LOCAL lock_timeout = '5s';
    ALTER TABLE attune.execution ALTER COLUMN parameters DROP DEFAULT;
    DROP TRIGGER IF EXISTS write_once ON attune.execution;
    IF EXISTS (SELECT FROM attune.node WHERE seen_at > now() - INTERVAL '1 day') THEN
        CREATE TRIGGER write_once
        BEFORE INSERT ON attune.execution
        FOR EACH ROW
        WHEN (NEW.parameters IS NULL OR NEW.finished_at IS NULL)
        EXECUTE FUNCTION attune.write_once();
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
DECLARE
    last     bigint := -1;
    ids      bigint[];
    earliest timestamptz;
    latest   timestamptz;
BEGIN
    LOOP
        SET LOCAL lock_timeout = '5s';
        SET LOCAL enable_hashjoin = off;
        SET LOCAL enable_mergejoin = off;
        SET LOCAL enable_seqscan = off;
        SELECT array_agg(execution_id), max(execution_id), min(created_at), max(created_at)
        INTO ids, last, earliest, latest
        FROM (
            SELECT execution_id, created_at
            FROM attune.queue
            WHERE execution_id > last
            ORDER BY execution_id
            LIMIT 5000
            FOR UPDATE
        ) AS chosen;
        EXIT WHEN last IS NULL;
        -- By their numbers and days: joined with the days, they might be looked for in the place of the rows.
        WITH moved AS (
            DELETE FROM attune.execution
            WHERE id = ANY (ids)
                AND created_at BETWEEN earliest AND latest
                AND finished_at IS NULL
            RETURNING id, enforcement_id, ordinal, item, rerun_of
        )
        UPDATE attune.queue
        SET enforcement_id = moved.enforcement_id,
            ordinal = moved.ordinal,
            item = moved.item,
            rerun_of = moved.rerun_of
        FROM moved
        WHERE queue.execution_id = moved.id;
        COMMIT;
    END LOOP;
END
$$;
-- +goose StatementEnd

-- Rows are written once, so their pages are filled.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION attune.make_partitions(first_day date, last_day date) RETURNS integer
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    history text;
    day     date;
    part    text;
    low     text;
    high    text;
    made    integer := 0;
BEGIN
    FOREACH history IN ARRAY ARRAY['event', 'enforcement', 'execution', 'attempt', 'output'] LOOP
        day := first_day;
        WHILE day <= last_day LOOP
            part := history || '_' || to_char(day, 'YYYYMMDD');
            low  := to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00';
            high := to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+00';
            IF to_regclass(format('attune.%I', part)) IS NULL THEN
                EXECUTE format('LOCK TABLE attune.%I IN ACCESS EXCLUSIVE MODE', history || '_default');
                EXECUTE format('CREATE TABLE attune.%I (LIKE attune.%I INCLUDING ALL)', part, history);
                EXECUTE format(
                    'WITH moved AS (DELETE FROM attune.%I WHERE created_at >= %L AND created_at < %L RETURNING *) INSERT INTO attune.%I SELECT * FROM moved',
                    history || '_default', low, high, part
                );
                EXECUTE format('COMMENT ON TABLE attune.%I IS %L', part, 'The rows of ' || history || ' of ' || day || ' (UTC).');
                EXECUTE format('ALTER TABLE attune.%I ATTACH PARTITION attune.%I FOR VALUES FROM (%L) TO (%L)', history, part, low, high);
                made := made + 1;
            END IF;
            day := day + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
-- +goose StatementEnd

-- Each ALTER holds a lock that only maintenance wants, for a moment.
-- +goose StatementBegin
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN
        SELECT inhrelid::regclass
        FROM pg_catalog.pg_inherits
        WHERE inhparent = 'attune.execution'::regclass
    LOOP
        SET LOCAL lock_timeout = '5s';
        EXECUTE format('ALTER TABLE %s RESET (fillfactor)', part);
        COMMIT;
    END LOOP;
END
$$;
-- +goose StatementEnd

-- Of an event's executions the enforcement knows, so the index is for lists; and what no event or no rule led to
-- need not be in one. It is made a day at a time, which keeps what was asked for on that day from ending meanwhile:
-- about a second for a million.
-- +goose StatementBegin
DO $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT relname AS name
        FROM pg_catalog.pg_inherits
        JOIN pg_catalog.pg_class
            ON pg_class.oid = inhrelid
        WHERE inhparent = 'attune.execution'::regclass
        ORDER BY relname DESC
    LOOP
        SET LOCAL lock_timeout = '5s';
        EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON attune.%I (event_id) WHERE event_id IS NOT NULL', part.name || '_of_event', part.name);
        EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON attune.%I (rule_ref, id) WHERE rule_ref IS NOT NULL', part.name || '_of_rule', part.name);
        COMMIT;
    END LOOP;
    SET LOCAL lock_timeout = '5s';
    -- Those of the days become part of these.
    CREATE INDEX IF NOT EXISTS execution_of_event ON attune.execution (event_id) WHERE event_id IS NOT NULL;
    CREATE INDEX IF NOT EXISTS execution_of_rule ON attune.execution (rule_ref, id) WHERE rule_ref IS NOT NULL;
    DROP INDEX IF EXISTS attune.execution_event, attune.execution_rule;
END
$$;
-- +goose StatementEnd

-- PostgreSQL parses a CHECK anew in each statement. These statuses are those of the execution, of which the CHECK
-- stays; and nobody can name a third stream.
-- +goose StatementBegin
DO $$
DECLARE
    old record;
BEGIN
    SET LOCAL lock_timeout = '5s';
    FOR old IN
        SELECT conrelid::regclass AS name, conname
        FROM pg_catalog.pg_constraint
        LEFT JOIN pg_catalog.pg_inherits
            ON inhrelid = conrelid
        WHERE contype = 'c'
            AND (
                conrelid IN ('attune.execution'::regclass, 'attune.attempt'::regclass, 'attune.output'::regclass)
                OR inhparent IN ('attune.execution'::regclass, 'attune.attempt'::regclass, 'attune.output'::regclass)
            )
        -- A partition has its constraints of its own, too.
        ORDER BY inhparent IS NOT NULL
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I', old.name, old.conname);
    END LOOP;
    ALTER TABLE attune.execution
        ADD CONSTRAINT execution_status_check CHECK (status IN ('succeeded', 'failed', 'timed_out', 'cancelled', 'lost'))
        NOT VALID;
END
$$;
-- +goose StatementEnd
