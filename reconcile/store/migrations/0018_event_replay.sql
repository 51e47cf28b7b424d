-- The way from an event to those that repeat it. Building it reads every event once and keeps events
-- from being written meanwhile: a few seconds for ten million.

-- +goose Up
SET LOCAL lock_timeout = '5s';

-- Of the rows alone that have one: no other insert pays for it.
CREATE INDEX event_replay ON attune.event (replay_of)
WHERE replay_of IS NOT NULL;
