-- Tokens of one pack, and an audit that says from where and from what to what. Every new column is NULL or has
-- a constant default, so no table is written anew.

-- +goose Up
SET LOCAL lock_timeout = '5s';

ALTER TABLE attune.token
ADD COLUMN pack_ref text CHECK (pack_ref <> ''),
ADD COLUMN revoked_by text;
COMMENT ON COLUMN attune.token.pack_ref IS 'The pack that it is good for; NULL: all of them.';
COMMENT ON COLUMN attune.token.revoked_by IS 'Who revoked it.';
-- The name of a revoked one is free again; its row stays, for the audit names it.
ALTER TABLE attune.token DROP CONSTRAINT token_name_key;
CREATE UNIQUE INDEX token_name ON attune.token (name)
WHERE revoked_at IS NULL;

ALTER TABLE attune.audit
ADD COLUMN origin text NOT NULL DEFAULT '',
ADD COLUMN request_id text NOT NULL DEFAULT '',
ADD COLUMN before jsonb,
ADD COLUMN after jsonb;
COMMENT ON COLUMN attune.audit.origin IS 'From where: an address, or the unix socket.';
COMMENT ON COLUMN attune.audit.request_id IS 'The id of the request, which the daemon''s log has too.';
COMMENT ON COLUMN attune.audit.before IS 'What it was; NULL: nothing, or nobody knows.';
COMMENT ON COLUMN attune.audit.after IS 'What it became.';
CREATE INDEX audit_object ON attune.audit (object, id);
CREATE INDEX audit_actor ON attune.audit (actor, id);

ALTER TABLE attune.errand
ADD COLUMN origin text NOT NULL DEFAULT '',
ADD COLUMN request_id text NOT NULL DEFAULT '';
COMMENT ON COLUMN attune.errand.origin IS 'From where it is wanted.';
COMMENT ON COLUMN attune.errand.request_id IS 'The id of the request.';
