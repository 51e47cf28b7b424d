-- What rules give their actions is encrypted where it is secret, as what they give their triggers. A new column
-- without a default, and two indexes of a small table, lock the rules for a moment; what is stored in clear a
-- daemon encrypts, which has the key, when it starts.

-- +goose Up
SET LOCAL lock_timeout = '5s';

ALTER TABLE attune.rule ADD COLUMN action_secrets jsonb;
COMMENT ON COLUMN attune.rule.action_secrets IS 'JSON pointers into the actions of the manifest, each with the encrypted value that belongs there: sealed:KEY:DATA; there stands {{ encrypted }}. NULL: nothing of them is secret.';
COMMENT ON COLUMN attune.file.content IS 'The content, compressed by zstd; encrypted where it is the manifest of a rule whose pack gives triggers or actions secrets.';

DROP INDEX attune.rule_sealed;
CREATE INDEX rule_sealed ON attune.rule (pack_id) WHERE trigger_secrets IS NOT NULL OR action_secrets IS NOT NULL;
-- The rules that name an action, when its schema calls something secret: there may be ten thousand others.
CREATE INDEX rule_actions ON attune.rule USING gin (action_refs);
