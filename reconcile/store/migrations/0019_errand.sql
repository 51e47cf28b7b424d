-- What a node that does not lead asks of the one that does.

-- +goose Up
SET LOCAL lock_timeout = '5s';

CREATE TABLE attune.errand (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    node       text NOT NULL,
    verb       text NOT NULL CHECK (verb IN ('rollback', 'unpin')),
    pack_ref   text NOT NULL,
    revision   integer NOT NULL DEFAULT 0 CHECK (revision >= 0),
    actor      text NOT NULL,
    reason     text NOT NULL DEFAULT '',
    expires_at timestamptz NOT NULL,
    done_at    timestamptz,
    answer     jsonb CHECK (jsonb_typeof(answer) = 'object')
);
COMMENT ON TABLE attune.errand IS 'What nodes ask the leader to do. The node that asked deletes the row with the answer.';
COMMENT ON COLUMN attune.errand.id IS 'The row''s number.';
COMMENT ON COLUMN attune.errand.created_at IS 'When it was asked for.';
COMMENT ON COLUMN attune.errand.node IS 'The node that asks.';
COMMENT ON COLUMN attune.errand.verb IS 'rollback or unpin.';
COMMENT ON COLUMN attune.errand.pack_ref IS 'The pack.';
COMMENT ON COLUMN attune.errand.revision IS 'The revision to go back to; 0: the newest whose files are not those in force.';
COMMENT ON COLUMN attune.errand.actor IS 'Who wants it.';
COMMENT ON COLUMN attune.errand.reason IS 'Why.';
COMMENT ON COLUMN attune.errand.expires_at IS 'From then on it is not done any more.';
COMMENT ON COLUMN attune.errand.done_at IS 'When it was done, committed with what was asked for; NULL: not yet, or it was refused.';
COMMENT ON COLUMN attune.errand.answer IS 'What came of it; NULL: nothing yet.';
