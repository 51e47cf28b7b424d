-- Less to do for each statement that writes to the queue and its history. PostgreSQL parses every CHECK of
-- a table anew in each statement that writes to it: those of the queue took twice as long as the write. What
-- is left says what others would read wrongly; the rest is looked for by the tests.

-- +goose Up
SET LOCAL lock_timeout = '5s';

ALTER TABLE attune.queue
    ADD COLUMN requested_by text NOT NULL DEFAULT '',
    ADD COLUMN depth integer NOT NULL DEFAULT 0;
UPDATE attune.queue
SET requested_by = execution.requested_by,
    depth = execution.depth
FROM attune.execution
WHERE execution.id = queue.execution_id
    AND execution.created_at = queue.created_at;
COMMENT ON COLUMN attune.queue.requested_by IS 'Who asked for it.';
COMMENT ON COLUMN attune.queue.depth IS 'How many executions led to it, one by the end of the other.';

ALTER TABLE attune.action
    ADD COLUMN expires double precision GENERATED ALWAYS AS ((manifest ->> 'expires')::double precision) STORED;
COMMENT ON COLUMN attune.action.expires IS 'From the manifest: after how many seconds an execution that has not begun is not begun any more.';

-- +goose StatementBegin
DO $$
DECLARE
    old record;
BEGIN
    -- A partition was made like its table and then attached, so it has its constraints of its own too.
    FOR old IN
        SELECT conrelid::regclass AS name, conname
        FROM pg_catalog.pg_constraint
        WHERE contype = 'c'
            AND coninhcount = 0
            AND conrelid IN ('attune.queue'::regclass, 'attune.execution'::regclass, 'attune.attempt'::regclass)
            AND conname !~ '_status_check$'
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', old.name, old.conname);
    END LOOP;
    FOR old IN
        SELECT conrelid::regclass AS name, conname
        FROM pg_catalog.pg_constraint
        JOIN pg_catalog.pg_inherits
            ON inhrelid = conrelid
        WHERE contype = 'c'
            AND inhparent IN ('attune.execution'::regclass, 'attune.attempt'::regclass)
            AND conname !~ '_status_check$'
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', old.name, old.conname);
    END LOOP;
END
$$;
-- +goose StatementEnd

-- Who runs has a holder, and nobody else has.
ALTER TABLE attune.queue
    ADD CONSTRAINT queue_holder_check CHECK (
        num_nulls(token, node, claimed_at, lease_until) = CASE WHEN status = 'running' THEN 0 ELSE 4 END
    );
