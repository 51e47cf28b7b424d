-- A lease is looked at by the statement itself: a procedure around it takes as long again.

-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION attune.not_held() RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'a lease is held by somebody else' USING ERRCODE = 'AT001';
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION attune.not_held IS 'Fails: for a statement that found a lease not held.';
DROP FUNCTION attune.must_hold(text[], uuid[]);
