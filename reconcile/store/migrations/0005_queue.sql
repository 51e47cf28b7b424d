-- Less to write for each execution: a token begins with the number of its execution, so no index has to
-- find it, and an attempt's row is written once, when it has ended; until then the queue's row is it.
-- Locks the queue and the attempts for the moment that dropping an index takes.

-- +goose Up
SET LOCAL lock_timeout = '5s';

DROP INDEX attune.queue_token;
DROP INDEX attune.attempt_token;

COMMENT ON TABLE attune.attempt IS 'Starts of executions that have ended, each with its fate; one that runs is in the queue. Partitioned by the day of the execution.';
COMMENT ON COLUMN attune.attempt.token IS 'Names the attempt: only who holds it in the queue can end it. Its first 8 bytes are the execution''s number.';
COMMENT ON COLUMN attune.queue.token IS 'Names the attempt that holds it; every write for it carries this. Its first 8 bytes are the execution''s number.';
COMMENT ON COLUMN attune.queue.started_at IS 'Committed before the process is started, with the claim where it starts at once; NULL: not yet.';
