-- How many executions of an action, or of one key of it, run at once. Adding the columns and the indexes
-- locks the queue for as long as it takes to read it once, and the queue is small.

-- +goose Up
SET LOCAL lock_timeout = '5s';

CREATE TABLE attune.concurrency (
    action_ref text NOT NULL,
    key        text NOT NULL,
    counted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (action_ref, key)
);
COMMENT ON TABLE attune.concurrency IS 'The keys by which actions with concurrency are counted. Who lets an execution of a key take its place holds the row while it counts, so that two never see the same free place.';
COMMENT ON COLUMN attune.concurrency.action_ref IS 'The action.';
COMMENT ON COLUMN attune.concurrency.key IS 'What its key gives for the parameters; empty: all of the action are counted together.';
COMMENT ON COLUMN attune.concurrency.counted_at IS 'When it was last counted; one that nothing refers to is forgotten after a day.';

ALTER TABLE attune.queue
    ADD COLUMN concurrency_key text,
    ADD COLUMN in_line boolean NOT NULL DEFAULT FALSE,
    ADD CHECK (NOT in_line OR status = 'scheduled' AND concurrency_key IS NOT NULL);
COMMENT ON COLUMN attune.queue.concurrency_key IS 'By which key it is counted; NULL: its action has no concurrency. One that is not scheduled holds a place.';
COMMENT ON COLUMN attune.queue.in_line IS 'It is due, and waits for a place under its key.';

-- What waits for a place is no longer looked at by time, or each look would find all of it again.
DROP INDEX attune.queue_scheduled;
CREATE INDEX queue_scheduled ON attune.queue (due_at)
WHERE status = 'scheduled' AND NOT in_line;
CREATE INDEX queue_line ON attune.queue (action_ref, concurrency_key, priority DESC, due_at, execution_id)
WHERE in_line;
CREATE INDEX queue_places ON attune.queue (action_ref, concurrency_key)
WHERE concurrency_key IS NOT NULL AND status <> 'scheduled';
