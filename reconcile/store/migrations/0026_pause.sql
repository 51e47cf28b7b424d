-- That people have paused everything. A new table locks nothing that is in use.

-- +goose Up
SET LOCAL lock_timeout = '5s';

CREATE TABLE attune.pause (
    one       boolean PRIMARY KEY DEFAULT TRUE CHECK (one),
    paused_at timestamptz NOT NULL DEFAULT now(),
    paused_by text NOT NULL CHECK (paused_by <> ''),
    reason    text NOT NULL DEFAULT ''
);
COMMENT ON TABLE attune.pause IS 'A row while nothing is to be claimed, on no node; none: all goes on.';
COMMENT ON COLUMN attune.pause.one IS 'There is one row at most.';
COMMENT ON COLUMN attune.pause.paused_at IS 'Since when.';
COMMENT ON COLUMN attune.pause.paused_by IS 'Who paused it.';
COMMENT ON COLUMN attune.pause.reason IS 'Why; empty: nobody said.';
