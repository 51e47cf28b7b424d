-- Why an operator switched something off, and pins of packs to a revision. Adding columns without a
-- default and CHECKs to small tables locks each for a moment.

-- +goose Up
SET LOCAL lock_timeout = '5s';

-- +goose StatementBegin
DO $$
DECLARE
    kind text;
BEGIN
    FOREACH kind IN ARRAY ARRAY['pack', 'action', 'trigger', 'sensor', 'rule'] LOOP
        EXECUTE format('ALTER TABLE attune.%I ADD COLUMN disabled_reason text', kind);
        EXECUTE format(
            'ALTER TABLE attune.%I ADD CONSTRAINT %I CHECK (disabled_reason IS NULL OR disabled_at IS NOT NULL)',
            kind, kind || '_disabled_reason_check'
        );
        EXECUTE format(
            'COMMENT ON COLUMN attune.%I.disabled_reason IS %L', kind, 'Why the operator disabled it; NULL: no reason was given.'
        );
    END LOOP;
END
$$;
-- +goose StatementEnd

ALTER TABLE attune.pack
    ADD COLUMN pinned_at timestamptz,
    ADD COLUMN pinned_by text,
    ADD COLUMN pinned_reason text,
    ADD CONSTRAINT pack_pinned_check CHECK ((pinned_at IS NULL) = (pinned_by IS NULL)),
    ADD CONSTRAINT pack_pinned_reason_check CHECK (pinned_reason IS NULL OR pinned_at IS NOT NULL),
    -- A pin holds the newest revision, so there has to be one.
    ADD CONSTRAINT pack_pinned_revision_check CHECK (pinned_at IS NULL OR revision_id IS NOT NULL);
COMMENT ON COLUMN attune.pack.pinned_at IS 'When it was pinned to its newest revision, whatever its folder says; NULL: it is not.';
COMMENT ON COLUMN attune.pack.pinned_by IS 'The operator who pinned it.';
COMMENT ON COLUMN attune.pack.pinned_reason IS 'Why; NULL: no reason was given.';
COMMENT ON COLUMN attune.revision.cause IS 'Why it was applied: start, edit, resync, signal, command NAME, rollback to N by NAME.';
