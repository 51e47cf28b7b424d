-- Secret parameters of triggers are encrypted where they are stored, as those of executions are. New columns
-- without a default lock three tables for a moment; what they already hold a daemon encrypts, which has
-- the key, when it starts.

-- +goose Up
SET LOCAL lock_timeout = '5s';

ALTER TABLE attune.rule ADD COLUMN trigger_secrets jsonb;
COMMENT ON COLUMN attune.rule.trigger_secrets IS 'JSON pointers of what it gives its trigger, each with the encrypted value that belongs there: sealed:KEY:DATA. NULL: nothing of it is secret.';
CREATE INDEX rule_sealed ON attune.rule (pack_id) WHERE trigger_secrets IS NOT NULL;

ALTER TABLE attune.trigger_instance
    ADD COLUMN secrets jsonb,
    ADD COLUMN signature text,
    ADD CHECK ((secrets IS NULL) = (signature IS NULL));
COMMENT ON COLUMN attune.trigger_instance.secrets IS 'JSON pointers of parameters, each with the encrypted value that belongs there: sealed:KEY:DATA. NULL: nothing of them is secret.';
COMMENT ON COLUMN attune.trigger_instance.signature IS 'KEY:MAC of the parameters where some are secret, so that equal ones are known again by who has the key.';
COMMENT ON COLUMN attune.trigger_instance.id IS 'Made from the trigger and the canonical parameters; where some are secret, by a key.';
CREATE UNIQUE INDEX trigger_instance_signature ON attune.trigger_instance (signature) WHERE signature IS NOT NULL;

ALTER TABLE attune.file ADD COLUMN sealed_by text;
COMMENT ON COLUMN attune.file.sealed_by IS 'The key that the content, compressed, is encrypted with: sealed:KEY:DATA. NULL: it is not.';
COMMENT ON COLUMN attune.file.content IS 'The content, compressed by zstd; encrypted where it is the manifest of a rule whose pack gives triggers secrets.';
CREATE INDEX file_sealed ON attune.file (sealed_by) WHERE sealed_by IS NOT NULL;
