-- Events are stored only under the lease of the sensor that they come from. Touches no table.

-- +goose Up

-- Raised, not answered: it ends the transaction that it stands in without another round trip, in which
-- a node could freeze and keep whoever takes the lease waiting.
-- +goose StatementBegin
CREATE FUNCTION attune.must_hold(names text[], tokens uuid[]) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    held integer;
BEGIN
    SELECT count(*)
    INTO held
    FROM (
        SELECT
        FROM unnest(names, tokens) AS input (name, token)
        JOIN attune.lease
            ON lease.name = input.name
            AND lease.token = input.token
        ORDER BY lease.name
        FOR SHARE OF lease
    ) AS locked;
    IF held < cardinality(names) THEN
        RAISE EXCEPTION 'a lease is held by somebody else' USING ERRCODE = 'AT001';
    END IF;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION attune.must_hold IS 'Fails unless each lease has the token that goes with it, and keeps it so until the transaction ends.';
