-- Secret parameters are encrypted beside the names of secrets. No lock beyond those of the indexes,
-- which hold up writes to a table while its rows with secrets are looked for.

-- +goose Up
COMMENT ON COLUMN attune.execution.secrets IS 'JSON pointers of parameters, each with the name of the secret that belongs there, or with its encrypted value: sealed:KEY:DATA.';
COMMENT ON COLUMN attune.queue.secrets IS 'JSON pointers of parameters, each with the name of the secret that belongs there, or with its encrypted value: sealed:KEY:DATA.';

-- After a change of keys these are the rows to look through.
CREATE INDEX execution_secrets ON attune.execution (id)
WHERE secrets IS NOT NULL;
