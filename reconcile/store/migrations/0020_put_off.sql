-- When what was put off had been due. A new column without a default locks the queue for a moment.

-- +goose Up
SET LOCAL lock_timeout = '5s';

ALTER TABLE attune.queue
    ADD COLUMN put_off_from timestamptz;
COMMENT ON COLUMN attune.queue.put_off_from IS 'When it had been due before it was put off, from which it expires and where it comes back into the order; NULL: due_at says so.';
