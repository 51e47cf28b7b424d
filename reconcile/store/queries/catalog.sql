-- Statements whose name ends in KIND are made four times: for action, trigger, sensor and rule, whose
-- tables share the columns used here.

-- name: LockCatalog
-- Applies, and what deletes files, take turns. Events do not wait for this.
SELECT pg_advisory_xact_lock(@key::bigint);

-- name: LockGeneration
-- Events wait from here to the commit, so it comes after all that takes long. It comes before the
-- rows that events write too (sensors' cursors, instances' due times): those are always locked
-- after the generation.
SELECT number
FROM attune.generation
FOR UPDATE;

-- name: MovedPacks
-- The packs whose rows are no longer those that changes were made from; -1: there was none.
SELECT input.ref
FROM unnest(@refs::text[], @bases::bigint[]) AS input (ref, base)
LEFT JOIN attune.pack
    ON pack.ref = input.ref
WHERE COALESCE(pack.generation, -1) <> input.base
ORDER BY input.ref;

-- name: PutPacks
-- Gives those that changed.
WITH
-- Looked at only where a rule listens.
before AS MATERIALIZED (
    SELECT ref, errors
    FROM attune.pack
    WHERE ref = ANY (@refs::text[])
),
put AS (
    INSERT INTO attune.pack AS pack (ref, directory, present, errors, manifest, digest, generation)
    SELECT ref, directory, NOT vanished, errors::jsonb, NULLIF(manifest, '')::jsonb, digest, @generation::bigint
    FROM unnest(
        @refs::text[], @directories::text[], @vanished::boolean[], @errors::text[], @manifests::text[],
        @digests::text[]
    ) AS input (ref, directory, vanished, errors, manifest, digest)
    -- One that vanished before it was ever recorded leaves nothing.
    WHERE NOT vanished
        OR EXISTS (SELECT FROM attune.pack AS known WHERE known.ref = input.ref)
    ORDER BY ref
    ON CONFLICT (ref) DO UPDATE
    SET directory = COALESCE(NULLIF(EXCLUDED.directory, ''), pack.directory),
        present = EXCLUDED.present,
        errors = EXCLUDED.errors,
        manifest = COALESCE(EXCLUDED.manifest, pack.manifest),
        digest = CASE WHEN EXCLUDED.manifest IS NULL THEN pack.digest ELSE EXCLUDED.digest END,
        generation = EXCLUDED.generation,
        updated_at = now()
    WHERE (EXCLUDED.directory <> '' AND EXCLUDED.directory <> pack.directory)
        OR EXCLUDED.present <> pack.present
        OR EXCLUDED.errors <> pack.errors
        OR (EXCLUDED.manifest IS NOT NULL AND EXCLUDED.digest <> pack.digest)
    RETURNING pack.id, pack.ref, pack.errors
),
noted AS (
    INSERT INTO attune.notice (trigger_ref, payload)
    SELECT
        'core.pack_failed',
        jsonb_build_object(
            'pack', put.ref,
            'errors', jsonb_path_query_array(put.errors, '$[*] ? (@.severity == "error")'),
            'generation', @generation::bigint
        )
    FROM put
    LEFT JOIN before
        ON before.ref = put.ref
    WHERE put.errors @> '[{"severity": "error"}]'
        AND put.errors IS DISTINCT FROM before.errors
        AND EXISTS (SELECT FROM attune.rule WHERE rule.trigger_ref = 'core.pack_failed' AND rule.enabled)
    ORDER BY put.ref
)
SELECT id
FROM put;

-- name: MissingFiles
SELECT digest
FROM unnest(@digests::text[]) AS wanted (digest)
WHERE NOT EXISTS (
    SELECT
    FROM attune.file
    WHERE file.digest = wanted.digest
        -- What was encrypted with a key that is lost is stored anew.
        AND (file.sealed_by IS NULL OR @keys::text[] IS NULL OR file.sealed_by = ANY (@keys::text[]))
);

-- name: PutFiles
INSERT INTO attune.file (digest, size, content)
SELECT digest, size, content
FROM unnest(@digests::text[], @sizes::bigint[], @contents::bytea[]) AS input (digest, size, content)
ON CONFLICT (digest) DO UPDATE
SET content = EXCLUDED.content,
    sealed_by = NULL
WHERE file.sealed_by IS NOT NULL;

-- name: TreesOfPacks
SELECT tree
FROM attune.revision
WHERE pack_id = ANY (@pack_ids::bigint[]);

-- name: FilesToSeal
SELECT digest, content
FROM attune.file
WHERE digest = ANY (@digests::text[])
    AND sealed_by IS NULL
ORDER BY digest;

-- name: SealedFiles
SELECT digest, content
FROM attune.file
WHERE sealed_by IS NOT NULL
    AND sealed_by <> @key::text
    AND digest > @after::text
ORDER BY digest
LIMIT @most::integer;

-- name: SealFile
UPDATE attune.file
SET content = @content::bytea,
    sealed_by = @key::text
WHERE digest = @digest::text;

-- name: AddRevisions
-- A tree that equals the newest one is no new revision. Gives the packs that got one.
WITH
input AS (
    SELECT *
    FROM unnest(
        @refs::text[], @digests::text[], @versions::text[], @causes::text[], @changes::text[],
        @trees::text[]
    ) AS given (ref, digest, version, cause, changes, tree)
),
added AS (
    INSERT INTO attune.revision (pack_id, number, digest, version, cause, changes, tree)
    SELECT
        pack.id,
        COALESCE(newest.number, 0) + 1,
        input.digest,
        input.version,
        input.cause,
        attune.texts(input.changes::jsonb),
        input.tree::jsonb
    FROM input
    JOIN attune.pack
        ON pack.ref = input.ref
    LEFT JOIN attune.revision AS newest
        ON newest.id = pack.revision_id
    WHERE newest.digest IS DISTINCT FROM input.digest
    RETURNING id, pack_id, number, version, digest, cause, changes
),
noted AS (
    INSERT INTO attune.notice (trigger_ref, payload)
    SELECT
        'core.pack_applied',
        jsonb_build_object(
            'pack', pack.ref, 'revision', added.number, 'version', added.version, 'digest', added.digest,
            'cause', added.cause, 'changes', to_jsonb(added.changes), 'generation', @generation::bigint
        )
    FROM added
    JOIN attune.pack
        ON pack.id = added.pack_id
    WHERE EXISTS (SELECT FROM attune.rule WHERE rule.trigger_ref = 'core.pack_applied' AND rule.enabled)
    ORDER BY pack.ref
)
UPDATE attune.pack
SET revision_id = added.id
FROM added
WHERE pack.id = added.pack_id
RETURNING pack.id;

-- name: PutKIND
-- A row that comes back keeps its id, and what an operator said of it. Gives the packs of those that
-- changed.
INSERT INTO attune.KIND AS component (
    ref, pack_id, file, present, pack_enabled, manifest, digest, files_digest, revision_id, generation
)
SELECT
    input.ref, pack.id, input.file, TRUE, pack.enabled, input.manifest::jsonb, input.digest,
    input.files_digest, pack.revision_id, @generation::bigint
FROM unnest(
    @refs::text[], @packs::text[], @files::text[], @manifests::text[], @digests::text[],
    @files_digests::text[]
) AS input (ref, pack, file, manifest, digest, files_digest)
JOIN attune.pack
    ON pack.ref = input.pack
ORDER BY input.ref
ON CONFLICT (ref) DO UPDATE
SET pack_id = EXCLUDED.pack_id,
    file = EXCLUDED.file,
    present = TRUE,
    pack_enabled = EXCLUDED.pack_enabled,
    manifest = EXCLUDED.manifest,
    digest = EXCLUDED.digest,
    files_digest = EXCLUDED.files_digest,
    revision_id = EXCLUDED.revision_id,
    generation = EXCLUDED.generation,
    updated_at = CASE
        WHEN component.present
            AND (component.pack_id, component.file, component.pack_enabled, component.digest, component.files_digest)
                IS NOT DISTINCT FROM
                (EXCLUDED.pack_id, EXCLUDED.file, EXCLUDED.pack_enabled, EXCLUDED.digest, EXCLUDED.files_digest)
        THEN component.updated_at -- another file of its pack has changed
        ELSE now()
    END
WHERE NOT component.present
    OR (component.pack_id, component.file, component.pack_enabled, component.digest, component.files_digest, component.revision_id)
        IS DISTINCT FROM
        (EXCLUDED.pack_id, EXCLUDED.file, EXCLUDED.pack_enabled, EXCLUDED.digest, EXCLUDED.files_digest, EXCLUDED.revision_id)
RETURNING component.pack_id;

-- name: VanishKIND
-- Gives the packs of those that changed.
UPDATE attune.KIND AS component
SET present = FALSE,
    generation = @generation::bigint,
    updated_at = now()
WHERE component.present
    AND component.id IN (
        SELECT gone.id
        FROM attune.KIND AS gone
        WHERE gone.ref = ANY (@refs::text[])
        UNION ALL
        SELECT gone.id
        FROM attune.pack
        JOIN attune.KIND AS gone
            ON gone.pack_id = pack.id
        WHERE pack.ref = ANY (@vanished_packs::text[])
    )
RETURNING component.pack_id;

-- name: FollowPackKIND
-- Gives the packs of those that changed.
UPDATE attune.KIND AS component
SET pack_enabled = pack.enabled,
    generation = @generation::bigint,
    updated_at = now()
FROM attune.pack
WHERE pack.ref = ANY (@packs::text[])
    AND component.pack_id = pack.id
    AND component.pack_enabled <> pack.enabled
RETURNING component.pack_id;

-- name: RaiseGeneration
WITH
raised AS (
    UPDATE attune.generation
    SET number = @generation::bigint,
        raised_at = now()
    RETURNING number
),
touched AS (
    UPDATE attune.pack
    SET generation = @generation::bigint,
        updated_at = now()
    WHERE id = ANY (@pack_ids::bigint[])
)
SELECT pg_notify('attune_catalog', number::text)
FROM raised;

-- name: PinPacks
-- Gives those that changed. Who pins again says so by a new time.
UPDATE attune.pack
SET pinned_at = CASE WHEN input.pinned THEN now() END,
    pinned_by = CASE WHEN input.pinned THEN input.pinned_by END,
    pinned_reason = CASE WHEN input.pinned THEN NULLIF(input.reason, '') END
FROM unnest(@refs::text[], @pinned::boolean[], @pinned_by::text[], @reasons::text[])
    AS input (ref, pinned, pinned_by, reason)
WHERE pack.ref = input.ref
    AND (input.pinned OR pack.pinned_at IS NOT NULL)
RETURNING pack.id;

-- name: SwitchPack
-- Gives those that changed. One that is switched off already keeps who did it, and when.
UPDATE attune.pack
SET disabled_at = CASE WHEN NOT @enable::boolean THEN now() END,
    disabled_by = CASE WHEN NOT @enable::boolean THEN @actor::text END,
    disabled_reason = CASE WHEN NOT @enable::boolean THEN NULLIF(@reason::text, '') END,
    generation = @generation::bigint,
    updated_at = now()
WHERE ref = ANY (@refs::text[])
    AND (disabled_at IS NULL) = (NOT @enable::boolean)
RETURNING id, ref;

-- name: SwitchKIND
-- As SwitchPack; gives the pack of each, and its ref.
UPDATE attune.KIND
SET disabled_at = CASE WHEN NOT @enable::boolean THEN now() END,
    disabled_by = CASE WHEN NOT @enable::boolean THEN @actor::text END,
    disabled_reason = CASE WHEN NOT @enable::boolean THEN NULLIF(@reason::text, '') END,
    generation = @generation::bigint,
    updated_at = now()
WHERE ref = ANY (@refs::text[])
    AND (disabled_at IS NULL) = (NOT @enable::boolean)
RETURNING pack_id AS id, ref;

-- name: RULE_TO_PLACE
-- A fragment: a rule as it is looked at to give it its trigger instance. asked is its trigger, whose manifest goes
-- with the first of its rules alone; secretive are its actions that take something secret.
rule.id,
    rule.pack_id,
    rule.ref,
    rule.trigger_ref,
    rule.manifest #> '{trigger,parameters}' AS parameters,
    rule.trigger_secrets AS secrets,
    COALESCE(rule.instance_id, '') AS instance_id,
    CASE WHEN row_number() OVER (PARTITION BY rule.trigger_ref ORDER BY rule.ref) = 1 THEN asked.manifest END AS trigger,
    rule.manifest -> 'actions' AS actions,
    rule.action_secrets,
    ARRAY(
        SELECT action.ref
        FROM attune.action
        WHERE action.ref = ANY (rule.action_refs)
            AND action.parameters::text LIKE '%"secret": true%'
    ) AS secretive

-- name: TakenByActions
SELECT ref, parameters
FROM attune.action
WHERE ref = ANY (@refs::text[]);

-- name: RulesToPlace
-- Rules that this apply changed or was given parameters for, and rules of any pack whose trigger it changed, or an
-- action with secret parameters.
WITH
touched AS MATERIALIZED (
    SELECT id
    FROM attune.pack
    WHERE ref = ANY (@packs::text[])
        OR id = ANY (@pack_ids::bigint[])
),
concerned AS MATERIALIZED (
    SELECT changed.id
    FROM touched
    JOIN attune.rule AS changed
        ON changed.pack_id = touched.id
    WHERE changed.generation = @generation::bigint
    UNION
    SELECT given.id
    FROM attune.rule AS given
    WHERE given.ref = ANY (@given::text[])
    UNION
    SELECT asking.id
    FROM touched
    JOIN attune.trigger
        ON trigger.pack_id = touched.id
    JOIN attune.rule AS asking
        ON asking.trigger_ref = trigger.ref
    WHERE trigger.generation = @generation::bigint
    UNION
    SELECT running.id
    FROM attune.rule AS running
    WHERE cardinality(@secretive::text[]) > 0
        AND running.action_refs && @secretive::text[]
)
SELECT
    RULE_TO_PLACE,
    rule.generation = @generation::bigint AS changed
FROM concerned
JOIN attune.rule
    ON rule.id = concerned.id
LEFT JOIN attune.trigger AS asked
    ON asked.ref = rule.trigger_ref
ORDER BY rule.ref;

-- name: RulesToSeal
-- As RulesToPlace: those whose trigger, or an action of theirs, has secret parameters, and that have none encrypted
-- for it.
WITH
unsealed AS MATERIALIZED (
    SELECT rule.id
    FROM attune.trigger
    JOIN attune.rule
        ON rule.trigger_ref = trigger.ref
    WHERE trigger.parameters_schema::text LIKE '%"secret": true%'
        AND rule.trigger_secrets IS NULL
    UNION
    SELECT rule.id
    FROM attune.action
    JOIN attune.rule
        ON rule.action_refs @> ARRAY[action.ref]
    WHERE action.parameters::text LIKE '%"secret": true%'
        AND rule.action_secrets IS NULL
)
SELECT
    RULE_TO_PLACE,
    FALSE AS changed
FROM unsealed
JOIN attune.rule
    ON rule.id = unsealed.id
LEFT JOIN attune.trigger AS asked
    ON asked.ref = rule.trigger_ref
ORDER BY rule.ref;

-- name: InstancesToDrop
-- Instances that no rule asks for, of triggers that have secret parameters: nobody would come by to encrypt
-- what they were made from.
SELECT
    trigger_instance.id,
    trigger.manifest AS trigger,
    trigger_instance.parameters
FROM attune.trigger
JOIN attune.trigger_instance
    ON trigger_instance.trigger_ref = trigger.ref
WHERE trigger.parameters_schema::text LIKE '%"secret": true%'
    AND trigger_instance.signature IS NULL
    AND NOT EXISTS (SELECT FROM attune.rule WHERE rule.instance_id = trigger_instance.id)
ORDER BY trigger_instance.id;

-- name: PlaceRules
-- The manifest lacks the parameters of a rule that was just put, until here.
UPDATE attune.rule
SET instance_id = NULLIF(input.instance_id, ''),
    trigger_parameters = NULLIF(input.parameters, '')::jsonb,
    trigger_secrets = NULLIF(input.secrets, '')::jsonb,
    action_secrets = NULLIF(input.action_secrets, '')::jsonb,
    manifest = CASE
        WHEN input.written = '' THEN rule.manifest
        ELSE jsonb_set(rule.manifest, '{trigger,parameters}', input.written::jsonb)
    END || CASE
        WHEN input.actions = '' THEN '{}'
        ELSE jsonb_build_object('actions', input.actions::jsonb)
    END
FROM unnest(
    @ids::bigint[], @instance_ids::text[], @parameters::text[], @secrets::text[], @written::text[],
    @action_secrets::text[], @actions::text[]
) AS input (id, instance_id, parameters, secrets, written, action_secrets, actions)
WHERE rule.id = input.id;

-- name: InstancesSigned
SELECT signature, id
FROM attune.trigger_instance
WHERE signature = ANY (@signatures::text[]);

-- name: SealInstances
-- What was stored before its parameters were secret goes on under the other id.
UPDATE attune.trigger_instance
SET id = input.id,
    parameters = input.parameters::jsonb,
    secrets = input.secrets::jsonb,
    signature = input.signature
FROM unnest(@formers::text[], @ids::text[], @parameters::text[], @secrets::text[], @signatures::text[])
    AS input (former, id, parameters, secrets, signature)
WHERE trigger_instance.id = input.former
    AND trigger_instance.signature IS NULL;

-- name: PutInstances
INSERT INTO attune.trigger_instance (id, trigger_ref, parameters, secrets, signature, active)
SELECT DISTINCT ON (id) id, trigger_ref, parameters::jsonb, NULLIF(secrets, '')::jsonb, NULLIF(signature, ''), FALSE
FROM unnest(@ids::text[], @trigger_refs::text[], @parameters::text[], @secrets::text[], @signatures::text[])
    AS input (id, trigger_ref, parameters, secrets, signature)
ORDER BY id
ON CONFLICT DO NOTHING;

-- name: DropInstances
DELETE FROM attune.trigger_instance
WHERE id = ANY (@ids::text[])
    AND signature IS NULL
    AND NOT EXISTS (SELECT FROM attune.rule WHERE rule.instance_id = trigger_instance.id);

-- name: ActivateInstances
WITH wanted AS (
    SELECT
        trigger_instance.id,
        EXISTS (
            SELECT
            FROM attune.rule
            JOIN attune.trigger
                ON trigger.ref = rule.trigger_ref
            WHERE rule.instance_id = trigger_instance.id
                AND rule.enabled
                AND trigger.enabled
        ) AS active
    FROM attune.trigger_instance
    WHERE trigger_instance.id = ANY (@ids::text[])
    ORDER BY trigger_instance.id
    FOR NO KEY UPDATE OF trigger_instance
)
UPDATE attune.trigger_instance
SET active = wanted.active,
    updated_at = now()
FROM wanted
WHERE trigger_instance.id = wanted.id
    AND trigger_instance.active <> wanted.active;

-- name: Generation
SELECT number
FROM attune.generation;

-- name: LoadPacks
SELECT
    pack.id,
    pack.ref,
    pack.directory,
    pack.enabled,
    pack.present,
    pack.manifest_enabled,
    COALESCE(pack.disabled_by, '') AS disabled_by,
    pack.disabled_at,
    COALESCE(pack.disabled_reason, '') AS disabled_reason,
    COALESCE(pack.pinned_by, '') AS pinned_by,
    pack.pinned_at,
    COALESCE(pack.pinned_reason, '') AS pinned_reason,
    pack.manifest,
    pack.digest,
    COALESCE(revision.id, 0) AS revision_id,
    COALESCE(revision.number, 0) AS revision,
    COALESCE(revision.digest, '') AS tree_digest,
    pack.errors,
    pack.generation,
    pack.created_at,
    pack.updated_at
FROM attune.pack
LEFT JOIN attune.revision
    ON revision.id = pack.revision_id
WHERE pack.generation > @after::bigint;

-- name: LoadKIND
-- Few packs have changed, mostly, so their components are looked up by pack. Left to itself the planner
-- goes through all components, because it expects every third pack.
WITH changed AS MATERIALIZED (
    SELECT id, ref
    FROM attune.pack
    WHERE generation > @after::bigint
)
SELECT
    component.id,
    component.ref,
    changed.ref AS pack,
    component.file,
    component.enabled,
    component.present,
    component.manifest_enabled,
    COALESCE(component.disabled_by, '') AS disabled_by,
    component.disabled_at,
    COALESCE(component.disabled_reason, '') AS disabled_reason,
    component.digest,
    component.files_digest,
    COALESCE(revision.id, 0) AS revision_id,
    COALESCE(revision.digest, '') AS tree_digest,
    component.manifest,
    component.created_at,
    component.updated_at
FROM changed
JOIN attune.KIND AS component
    ON component.pack_id = changed.id
LEFT JOIN attune.revision
    ON revision.id = component.revision_id;

-- name: LoadSealedRules
SELECT
    rule.ref,
    COALESCE(CASE WHEN rule.trigger_secrets IS NOT NULL THEN rule.instance_id END, '') AS instance_id,
    rule.trigger_secrets AS secrets,
    rule.action_secrets
FROM attune.rule
JOIN attune.pack
    ON pack.id = rule.pack_id
WHERE (rule.trigger_secrets IS NOT NULL OR rule.action_secrets IS NOT NULL)
    AND pack.generation > @after::bigint;

-- name: Revisions
SELECT
    revision.id,
    pack.ref AS pack,
    revision.number,
    revision.version,
    revision.digest,
    revision.cause,
    revision.changes,
    revision.created_at
FROM attune.pack
JOIN attune.revision
    ON revision.pack_id = pack.id
WHERE pack.ref = @pack::text
ORDER BY revision.number DESC
LIMIT @most::integer;

-- name: Revision
SELECT
    revision.id,
    pack.ref AS pack,
    revision.number,
    revision.version,
    revision.digest,
    revision.cause,
    revision.changes,
    revision.created_at,
    revision.tree
FROM attune.pack
JOIN attune.revision
    ON revision.pack_id = pack.id
WHERE pack.ref = @pack::text
    AND revision.number = @number::integer;

-- name: OlderRevisions
-- For each pack and digest of files the number of the newest revision that had them, where that is not
-- the newest of all.
SELECT input.ref, max(revision.number) AS number
FROM unnest(@refs::text[], @digests::text[]) AS input (ref, digest)
JOIN attune.pack
    ON pack.ref = input.ref
JOIN attune.revision AS newest
    ON newest.id = pack.revision_id
JOIN attune.revision
    ON revision.pack_id = pack.id
    AND revision.digest = input.digest
WHERE newest.digest <> input.digest
GROUP BY input.ref;

-- name: RevisionTree
SELECT pack.ref, revision.tree
FROM attune.revision
JOIN attune.pack
    ON pack.id = revision.pack_id
WHERE revision.id = @id::bigint;

-- name: FileContent
SELECT size, content, sealed_by IS NOT NULL AS sealed
FROM attune.file
WHERE digest = @digest::text;

-- name: SealedRules
SELECT ref, trigger_secrets, action_secrets
FROM attune.rule
WHERE trigger_secrets IS NOT NULL OR action_secrets IS NOT NULL
ORDER BY ref;

-- name: ResealRule
-- Not where it was written anew meanwhile.
UPDATE attune.rule
SET trigger_secrets = @trigger_secrets::jsonb,
    action_secrets = @action_secrets::jsonb
WHERE ref = @ref::text
    AND trigger_secrets IS NOT DISTINCT FROM @trigger_were::jsonb
    AND action_secrets IS NOT DISTINCT FROM @actions_were::jsonb;

-- name: SealedInstances
SELECT id, trigger_ref AS trigger, parameters, secrets
FROM attune.trigger_instance
WHERE secrets IS NOT NULL
ORDER BY id;

-- name: ResealInstance
UPDATE attune.trigger_instance
SET secrets = @secrets::jsonb,
    signature = @signature::text
WHERE id = @id::text;

-- name: TriggerInstances
-- What is outside the identity (misfire, jitter) is the first rule's by name, so that everybody
-- sees the same.
SELECT
    trigger_instance.id,
    trigger_instance.trigger_ref AS trigger,
    COALESCE((array_agg(rule.trigger_parameters ORDER BY rule.ref))[1], '{}') || trigger_instance.parameters AS parameters,
    array_agg(rule.ref ORDER BY rule.ref) AS rules,
    trigger_instance.anchor_at,
    GREATEST(trigger_instance.last_due, trigger.last_event_at) AS last_due,
    (array_agg(rule.trigger_secrets ORDER BY rule.ref))[1] AS rule_secrets,
    trigger_instance.secrets
FROM attune.trigger_instance
JOIN attune.trigger
    ON trigger.ref = trigger_instance.trigger_ref
JOIN attune.rule
    ON rule.instance_id = trigger_instance.id
WHERE trigger_instance.active
    AND trigger.enabled
    AND rule.enabled
    AND (@trigger_refs::text[] IS NULL OR trigger_instance.trigger_ref = ANY (@trigger_refs))
GROUP BY trigger_instance.id, trigger.id
ORDER BY trigger_instance.id COLLATE "C";
