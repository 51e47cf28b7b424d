-- Reruns, callers' own retries, and attempts that do not count. New columns have constant defaults, so
-- no table is written anew: each ALTER holds its lock for a moment.

-- +goose Up
SET LOCAL lock_timeout = '5s';

ALTER TABLE attune.execution
    ADD COLUMN retry jsonb,
    ADD COLUMN rerun_of bigint;
COMMENT ON COLUMN attune.execution.retry IS 'Its own retry, in the form of an action''s; NULL: the action''s.';
COMMENT ON COLUMN attune.execution.rerun_of IS 'The execution that it repeats; NULL: none.';

ALTER TABLE attune.queue
    ADD COLUMN retry jsonb,
    ADD COLUMN spared integer NOT NULL DEFAULT 0,
    ADD COLUMN former_revision_id bigint,
    ADD COLUMN former_manifest jsonb,
    ADD CHECK (spared BETWEEN 0 AND attempt),
    ADD CHECK ((former_revision_id IS NULL) = (former_manifest IS NULL));
COMMENT ON COLUMN attune.queue.retry IS 'Its own retry, in the form of an action''s; NULL: the action''s.';
COMMENT ON COLUMN attune.queue.spared IS 'How many of its attempts do not count, because their node was stopping.';
COMMENT ON COLUMN attune.queue.former_revision_id IS 'The older revision that it runs from; NULL: what is in force.';
COMMENT ON COLUMN attune.queue.former_manifest IS 'The action as that revision has it.';

CREATE OR REPLACE VIEW attune.execution_now AS
SELECT
    execution.id,
    execution.created_at,
    execution.action_ref,
    execution.pack_ref,
    execution.rule_ref,
    execution.trigger_ref,
    execution.event_id,
    execution.enforcement_id,
    COALESCE(queue.status, execution.status) AS status,
    execution.priority,
    execution.requested_by,
    COALESCE(queue.due_at, execution.due_at) AS due_at,
    execution.parameters,
    COALESCE(queue.attempt, execution.attempt) AS attempt,
    COALESCE(queue.node, execution.node) AS node,
    COALESCE(queue.revision, execution.revision) AS revision,
    COALESCE(queue.started_at, execution.started_at) AS started_at,
    execution.finished_at,
    queue.lease_until,
    queue.cancel_by,
    execution.exit_code,
    execution.signal,
    execution.error,
    execution.result,
    execution.stdout_truncated,
    execution.stderr_truncated,
    execution.rerun_of
FROM attune.execution
LEFT JOIN attune.queue
    ON queue.execution_id = execution.id;
COMMENT ON COLUMN attune.execution_now.rerun_of IS 'The execution that it repeats.';

-- Partitions that are there already did not get the comments; those to come do.
-- +goose StatementBegin
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN SELECT inhrelid::regclass FROM pg_catalog.pg_inherits WHERE inhparent = 'attune.execution'::regclass LOOP
        EXECUTE format('COMMENT ON COLUMN %s.retry IS %L', part, 'Its own retry, in the form of an action''s; NULL: the action''s.');
        EXECUTE format('COMMENT ON COLUMN %s.rerun_of IS %L', part, 'The execution that it repeats; NULL: none.');
    END LOOP;
END
$$;
-- +goose StatementEnd
