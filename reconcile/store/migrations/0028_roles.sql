-- What takes the owner of the tables, for a daemon that is somebody else: partitions come and go by functions
-- that run as the owner, and the audit is pruned by one that leaves what is young. Touches no table.

-- +goose Up
ALTER FUNCTION attune.make_partitions(date, date) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION attune.drop_partitions(text[], timestamptz) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
REVOKE ALL ON FUNCTION attune.make_partitions(date, date) FROM PUBLIC;
REVOKE ALL ON FUNCTION attune.drop_partitions(text[], timestamptz) FROM PUBLIC;

-- +goose StatementBegin
CREATE FUNCTION attune.prune_audit(keep interval, most integer) RETURNS integer
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pruned integer;
BEGIN
    DELETE FROM attune.audit
    WHERE id IN (
        SELECT id
        FROM attune.audit
        -- Whoever is in the daemon's place must not wipe out what just happened.
        WHERE created_at < now() - GREATEST(keep, INTERVAL '1 day')
        LIMIT most
        FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION attune.prune_audit IS 'Removes rows of the audit that are older than that, at most so many; never those of the last day. Gives how many.';
REVOKE ALL ON FUNCTION attune.prune_audit(interval, integer) FROM PUBLIC;
