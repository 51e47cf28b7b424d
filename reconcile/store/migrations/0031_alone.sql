-- No version was ever released that writes the history twice, so there is nobody whose writing has to be put right:
-- where a node of such a version was about when 0030 ran, each end of an execution would go on paying for it.

-- +goose Up
SET LOCAL lock_timeout = '5s';

-- With it go those of the days.
DROP TRIGGER IF EXISTS write_once ON attune.execution;
DROP FUNCTION IF EXISTS attune.write_once();
