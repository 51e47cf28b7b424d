-- What the limits of rules remember, and which event an event repeats. The new column locks event and
-- its partitions for a moment (no row is rewritten, NULL is the default).

-- +goose Up
SET LOCAL lock_timeout = '5s';

CREATE TABLE attune.rule_state (
    rule_ref   text NOT NULL CHECK (rule_ref <> ''),
    kind       text NOT NULL CHECK (kind IN ('throttle', 'debounce', 'dedupe', 'breaker')),
    key        text NOT NULL,
    state      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(state) = 'object'),
    expires_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (rule_ref, kind, key),
    -- A rule has one breaker, whatever its events carry.
    CHECK (kind <> 'breaker' OR key = '')
)
-- A busy rule writes its row with each group of events: with room on the page, no index is touched.
WITH (
    fillfactor = 60,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000
);
-- expires_at moves by the hour, so that this index is seldom written.
CREATE INDEX rule_state_expires ON attune.rule_state (expires_at);
-- Few, and looked for every few seconds.
CREATE INDEX rule_state_breaker ON attune.rule_state (rule_ref)
WHERE kind = 'breaker';
COMMENT ON TABLE attune.rule_state IS 'What throttle, debounce, dedupe and breaker of rules remember, until it no longer counts.';
COMMENT ON COLUMN attune.rule_state.rule_ref IS 'The rule.';
COMMENT ON COLUMN attune.rule_state.kind IS 'throttle, debounce, dedupe or breaker.';
COMMENT ON COLUMN attune.rule_state.key IS 'The value of the limit''s key, as JSON; empty: all events of the rule count together.';
COMMENT ON COLUMN attune.rule_state.state IS 'Times are microseconds since 1970. hits: when it fired, each with how often; event_id and at: the event that went through or waits; due and first: of the one that waits; open_until, opened_at and reason: of a breaker that is or was open; closed_at: when somebody reset it or it closed.';
COMMENT ON COLUMN attune.rule_state.expires_at IS 'From then on it may be deleted.';
COMMENT ON COLUMN attune.rule_state.updated_at IS 'When it last changed.';

ALTER TABLE attune.event ADD COLUMN replay_of bigint;
COMMENT ON COLUMN attune.event.replay_of IS 'The event that it repeats, because somebody asked; NULL: none.';

-- Partitions that are there already have the column, and no comment of it.
-- +goose StatementBegin
DO $$
DECLARE
    part text;
BEGIN
    FOR part IN
        SELECT child.relname
        FROM pg_catalog.pg_inherits
        JOIN pg_catalog.pg_class child
            ON child.oid = pg_inherits.inhrelid
        WHERE pg_inherits.inhparent = 'attune.event'::regclass
    LOOP
        EXECUTE format('COMMENT ON COLUMN attune.%I.replay_of IS %L', part,
            'The event that it repeats, because somebody asked; NULL: none.');
    END LOOP;
END
$$;
-- +goose StatementEnd
