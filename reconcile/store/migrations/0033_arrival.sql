-- stdout and stderr are kept apart, and people read them together.

-- +goose Up
SET LOCAL lock_timeout = '5s';

ALTER TABLE attune.output ADD COLUMN arrival integer[];
COMMENT ON COLUMN attune.output.arrival IS 'Of stderr, where the two streams were written by turns: lengths in bytes of their texts, by turns of stdout and of stderr. What it does not tell of came last.';
COMMENT ON COLUMN attune.execution.retry IS 'Its own retry, in the form of an action''s, and timeout_total in seconds; NULL: the action''s.';
COMMENT ON COLUMN attune.queue.retry IS 'Its own retry, in the form of an action''s, and timeout_total in seconds; NULL: the action''s.';

-- Partitions that are there already did not get the comments; those to come do.
-- +goose StatementBegin
DO $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT inhrelid::regclass AS name, inhparent = 'attune.output'::regclass AS of_output
        FROM pg_catalog.pg_inherits
        WHERE inhparent IN ('attune.output'::regclass, 'attune.execution'::regclass)
    LOOP
        IF part.of_output THEN
            EXECUTE format('COMMENT ON COLUMN %s.arrival IS %L', part.name, col_description('attune.output'::regclass, (
                SELECT attnum FROM pg_catalog.pg_attribute WHERE attrelid = 'attune.output'::regclass AND attname = 'arrival'
            )));
        ELSE
            EXECUTE format('COMMENT ON COLUMN %s.retry IS %L', part.name, col_description('attune.execution'::regclass, (
                SELECT attnum FROM pg_catalog.pg_attribute WHERE attrelid = 'attune.execution'::regclass AND attname = 'retry'
            )));
        END IF;
    END LOOP;
END
$$;
-- +goose StatementEnd
