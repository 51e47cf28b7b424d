-- Lists of what failed, and of a pack that seldom runs, looked through all that ever succeeded.

-- +goose Up
SET LOCAL lock_timeout = '5s';

-- By number, not by status: whoever asks for several wants the newest of all of them. An execution that succeeds
-- writes no entry here.
CREATE INDEX execution_unsuccessful ON attune.execution (id) WHERE status <> 'succeeded';
CREATE INDEX execution_pack ON attune.execution (pack_ref, id);
