-- Why an execution waits although it is due. Adding columns without a default locks the queue for a
-- moment.

-- +goose Up
SET LOCAL lock_timeout = '5s';

ALTER TABLE attune.queue
    ADD COLUMN waits_for text,
    ADD COLUMN waits_until timestamptz,
    ADD CHECK ((waits_for IS NULL) = (waits_until IS NULL));
COMMENT ON COLUMN attune.queue.waits_for IS 'What it was waiting for when it was last put off; it counts while waits_until is due_at. NULL: it never was.';
COMMENT ON COLUMN attune.queue.waits_until IS 'When it is looked at again.';
