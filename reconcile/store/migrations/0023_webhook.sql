-- The tokens of webhooks. A new table locks nothing that others use.

-- +goose Up
SET LOCAL lock_timeout = '5s';

CREATE TABLE attune.webhook_token (
    trigger_ref  text PRIMARY KEY CHECK (trigger_ref <> ''),
    hash         bytea NOT NULL CHECK (octet_length(hash) = 32),
    sealed       text NOT NULL CHECK (sealed LIKE 'sealed:%'),
    former_hash  bytea CHECK (octet_length(former_hash) = 32),
    former_until timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    created_by   text NOT NULL,
    CHECK ((former_hash IS NULL) = (former_until IS NULL))
);
COMMENT ON TABLE attune.webhook_token IS 'The tokens that webhooks without a signature ask for, made when somebody first asks to see one.';
COMMENT ON COLUMN attune.webhook_token.trigger_ref IS 'The trigger.';
COMMENT ON COLUMN attune.webhook_token.hash IS 'SHA-256 of the token, to know it again.';
COMMENT ON COLUMN attune.webhook_token.sealed IS 'The token, encrypted, to show it again: sealed:KEY:DATA.';
COMMENT ON COLUMN attune.webhook_token.former_hash IS 'SHA-256 of the token before it; NULL: it counts no more.';
COMMENT ON COLUMN attune.webhook_token.former_until IS 'How long that one counts beside it.';
COMMENT ON COLUMN attune.webhook_token.created_at IS 'When the token was made.';
COMMENT ON COLUMN attune.webhook_token.created_by IS 'Who asked for it.';
