-- Events about Attune itself, and how deep in a chain each event and execution is. New columns have
-- constant defaults, so no table is written anew: each ALTER holds its lock for a moment.

-- +goose Up
SET LOCAL lock_timeout = '5s';

CREATE TABLE attune.notice (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at  timestamptz NOT NULL DEFAULT now(),
    trigger_ref text NOT NULL CHECK (trigger_ref <> ''),
    event_id    text CHECK (event_id <> ''),
    depth       integer NOT NULL DEFAULT 0 CHECK (depth >= 0),
    payload     jsonb NOT NULL CHECK (jsonb_typeof(payload) = 'object'),
    taken_until timestamptz
)
-- Each row is soon dead, and is written once before.
WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000
);
COMMENT ON TABLE attune.notice IS 'What happened to Attune itself, written with it where a rule listens, until it is stored as an event.';
COMMENT ON COLUMN attune.notice.id IS 'Its number.';
COMMENT ON COLUMN attune.notice.created_at IS 'When it happened.';
COMMENT ON COLUMN attune.notice.trigger_ref IS 'The trigger that it will be an event of.';
COMMENT ON COLUMN attune.notice.event_id IS 'What tells it from others, so that it is one event; NULL: its number does.';
COMMENT ON COLUMN attune.notice.depth IS 'How many executions led to it, one after the other.';
COMMENT ON COLUMN attune.notice.payload IS 'The event''s data.';
COMMENT ON COLUMN attune.notice.taken_until IS 'Until when a node is at it; NULL: nobody is.';

-- +goose StatementBegin
CREATE FUNCTION attune.tell_notice() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    -- Equal notifications of one transaction become one.
    PERFORM pg_notify('attune_notice', '');
    RETURN NULL;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION attune.tell_notice IS 'Tells the nodes that there is a notice.';

CREATE TRIGGER told
AFTER INSERT ON attune.notice
FOR EACH ROW EXECUTE FUNCTION attune.tell_notice();

ALTER TABLE attune.node ADD COLUMN lost_at timestamptz;
COMMENT ON COLUMN attune.node.lost_at IS 'Since when it has not been seen for longer than a lease lasts; NULL: it is seen.';

ALTER TABLE attune.event ADD COLUMN depth integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN attune.event.depth IS 'How many executions led to it, one after the other; 0: it came from outside.';
ALTER TABLE attune.execution ADD COLUMN depth integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN attune.execution.depth IS 'How many executions led to it, one after the other.';

-- Partitions that are there already did not get the comments; those to come do.
-- +goose StatementBegin
DO $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT inhrelid::regclass AS name, inhparent = 'attune.event'::regclass AS event
        FROM pg_catalog.pg_inherits
        WHERE inhparent IN ('attune.event'::regclass, 'attune.execution'::regclass)
    LOOP
        EXECUTE format('COMMENT ON COLUMN %s.depth IS %L', part.name, CASE
            WHEN part.event THEN 'How many executions led to it, one after the other; 0: it came from outside.'
            ELSE 'How many executions led to it, one after the other.'
        END);
    END LOOP;
END
$$;
-- +goose StatementEnd
