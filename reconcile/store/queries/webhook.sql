-- The tokens of webhooks. A trigger has one, and while it is renewed perhaps two.

-- name: WebhookTokens
SELECT trigger_ref, hash, CASE WHEN former_until > now() THEN former_hash END
FROM attune.webhook_token;

-- name: WebhookToken
SELECT trigger_ref, sealed, created_at, created_by, CASE WHEN former_until > now() THEN former_until END
FROM attune.webhook_token
WHERE trigger_ref = @trigger_ref::text;

-- name: AddWebhookToken
INSERT INTO attune.webhook_token (trigger_ref, hash, sealed, created_by)
VALUES (@trigger_ref::text, @hash::bytea, @sealed::text, @actor::text)
ON CONFLICT (trigger_ref) DO NOTHING;

-- name: RenewWebhookToken
INSERT INTO attune.webhook_token AS known (trigger_ref, hash, sealed, created_by)
VALUES (@trigger_ref::text, @hash::bytea, @sealed::text, @actor::text)
ON CONFLICT (trigger_ref) DO UPDATE
SET hash = EXCLUDED.hash,
    sealed = EXCLUDED.sealed,
    former_hash = CASE WHEN @grace::interval > INTERVAL '0' THEN known.hash END,
    former_until = CASE WHEN @grace::interval > INTERVAL '0' THEN now() + @grace::interval END,
    created_at = now(),
    created_by = EXCLUDED.created_by;

-- name: SealedWebhookTokens
SELECT trigger_ref, sealed
FROM attune.webhook_token
ORDER BY trigger_ref;

-- name: ResealWebhookToken
-- Not where it was renewed meanwhile.
UPDATE attune.webhook_token
SET sealed = @sealed::text
WHERE trigger_ref = @trigger_ref::text
    AND sealed = @was::text;
