-- The first schema. It locks nothing that others use, because nothing is there yet.

-- +goose Up
SET LOCAL lock_timeout = '5s';

-- Generated columns may only call immutable functions, and jsonb has none that gives a text[].
-- +goose StatementBegin
CREATE FUNCTION attune.texts(list jsonb) RETURNS text[]
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
AS $$
    SELECT COALESCE(array_agg(item ORDER BY place), '{}')
    FROM jsonb_array_elements_text(CASE jsonb_typeof(list) WHEN 'array' THEN list ELSE '[]' END)
        WITH ORDINALITY AS element (item, place)
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION attune.texts IS 'A JSON list of strings as text[]; empty for anything else.';

-- +goose StatementBegin
CREATE FUNCTION attune.requirements(list jsonb) RETURNS text[]
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
AS $$
    SELECT COALESCE(array_agg(concat_ws(' ', item ->> 'ref', NULLIF(item ->> 'version', '')) ORDER BY place), '{}')
    FROM jsonb_array_elements(CASE jsonb_typeof(list) WHEN 'array' THEN list ELSE '[]' END)
        WITH ORDINALITY AS element (item, place)
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION attune.requirements IS 'Requirements of a manifest as "name range" texts.';

-- +goose StatementBegin
CREATE FUNCTION attune.refs(list jsonb) RETURNS text[]
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
AS $$
    SELECT COALESCE(array_agg(item ->> 'ref' ORDER BY place), '{}')
    FROM jsonb_array_elements(CASE jsonb_typeof(list) WHEN 'array' THEN list ELSE '[]' END)
        WITH ORDINALITY AS element (item, place)
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION attune.refs IS 'The refs in a JSON list of {ref, …} as text[].';

CREATE TABLE attune.generation (
    one       boolean PRIMARY KEY DEFAULT TRUE CHECK (one),
    number    bigint NOT NULL CHECK (number >= 0),
    raised_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO attune.generation (number) VALUES (0);
COMMENT ON TABLE attune.generation IS 'One row: counts the applies that changed what is in force.';
COMMENT ON COLUMN attune.generation.one IS 'Always true: there is one row.';
COMMENT ON COLUMN attune.generation.number IS 'The generation in force.';
COMMENT ON COLUMN attune.generation.raised_at IS 'When it was last raised.';

-- What readers want to see of a manifest are generated columns: they cannot disagree with it.
CREATE TABLE attune.pack (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ref              text NOT NULL UNIQUE CHECK (ref <> ''),
    label            text GENERATED ALWAYS AS (manifest ->> 'label') STORED,
    description      text GENERATED ALWAYS AS (manifest ->> 'description') STORED,
    version          text GENERATED ALWAYS AS (manifest ->> 'version') STORED,
    author           text GENERATED ALWAYS AS (manifest ->> 'author') STORED,
    email            text GENERATED ALWAYS AS (manifest ->> 'email') STORED,
    system           boolean GENERATED ALWAYS AS (COALESCE(manifest -> 'system' = 'true', FALSE)) STORED,
    enabled          boolean GENERATED ALWAYS AS (
                         present AND disabled_at IS NULL AND COALESCE(manifest -> 'enabled' = 'true', FALSE)
                     ) STORED,
    conf_schema      jsonb GENERATED ALWAYS AS (manifest -> 'conf_schema') STORED,
    config           jsonb GENERATED ALWAYS AS (manifest -> 'config') STORED,
    meta             jsonb GENERATED ALWAYS AS (manifest -> 'meta') STORED,
    tags             text[] GENERATED ALWAYS AS (attune.texts(manifest -> 'tags')) STORED,
    runtime_deps     text[] GENERATED ALWAYS AS (attune.requirements(manifest -> 'runtime_deps')) STORED,
    dependencies     text[] GENERATED ALWAYS AS (attune.requirements(manifest -> 'dependencies')) STORED,
    directory        text NOT NULL,
    present          boolean NOT NULL,
    manifest_enabled boolean GENERATED ALWAYS AS (COALESCE(manifest -> 'enabled' = 'true', FALSE)) STORED,
    disabled_at      timestamptz,
    disabled_by      text,
    errors           jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(errors) = 'array'),
    manifest         jsonb,
    digest           text NOT NULL DEFAULT '',
    revision_id      bigint,
    generation       bigint NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CHECK ((disabled_at IS NULL) = (disabled_by IS NULL))
);
CREATE INDEX pack_generation ON attune.pack (generation);
COMMENT ON TABLE attune.pack IS 'Packs, one row for each folder that ever was one. Rows are never deleted.';
COMMENT ON COLUMN attune.pack.id IS 'The row''s number, for joins.';
COMMENT ON COLUMN attune.pack.ref IS 'The pack''s name, that of its folder.';
COMMENT ON COLUMN attune.pack.label IS 'From the manifest: the name for people.';
COMMENT ON COLUMN attune.pack.description IS 'From the manifest: what the pack is for.';
COMMENT ON COLUMN attune.pack.version IS 'From the manifest: its semantic version.';
COMMENT ON COLUMN attune.pack.author IS 'From the manifest: who wrote it.';
COMMENT ON COLUMN attune.pack.email IS 'From the manifest: how to reach the author.';
COMMENT ON COLUMN attune.pack.system IS 'From the manifest: disabling the pack wants --force.';
COMMENT ON COLUMN attune.pack.enabled IS 'In force: present, enabled by its manifest and not disabled by an operator.';
COMMENT ON COLUMN attune.pack.conf_schema IS 'From the manifest: JSON Schema of the pack''s configuration.';
COMMENT ON COLUMN attune.pack.config IS 'From the manifest: its configuration''s defaults.';
COMMENT ON COLUMN attune.pack.meta IS 'From the manifest: free data of the author.';
COMMENT ON COLUMN attune.pack.tags IS 'From the manifest: words to find it by.';
COMMENT ON COLUMN attune.pack.runtime_deps IS 'From the manifest: runtimes that it needs, each with its version range.';
COMMENT ON COLUMN attune.pack.dependencies IS 'From the manifest: packs that it needs, each with its version range.';
COMMENT ON COLUMN attune.pack.directory IS 'The packs directory that it was read from.';
COMMENT ON COLUMN attune.pack.present IS 'Whether its files are there.';
COMMENT ON COLUMN attune.pack.manifest_enabled IS 'Whether its manifest enables it.';
COMMENT ON COLUMN attune.pack.disabled_at IS 'When an operator disabled it; NULL: nobody did.';
COMMENT ON COLUMN attune.pack.disabled_by IS 'The operator who disabled it.';
COMMENT ON COLUMN attune.pack.errors IS 'Findings of the newest scan, warnings included: file, line, col, severity, message, hint.';
COMMENT ON COLUMN attune.pack.manifest IS 'The normal form of pack.yaml; NULL until a valid one was seen.';
COMMENT ON COLUMN attune.pack.digest IS 'SHA-256 of the manifest''s normal form.';
COMMENT ON COLUMN attune.pack.revision_id IS 'The newest applied revision.';
COMMENT ON COLUMN attune.pack.generation IS 'The generation at which it, or anything in it, last changed.';
COMMENT ON COLUMN attune.pack.created_at IS 'When it was first seen.';
COMMENT ON COLUMN attune.pack.updated_at IS 'When it, or anything in it, last changed.';

CREATE TABLE attune.revision (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pack_id    bigint NOT NULL REFERENCES attune.pack (id),
    number     integer NOT NULL CHECK (number > 0),
    digest     text NOT NULL,
    version    text NOT NULL,
    cause      text NOT NULL,
    changes    text[] NOT NULL DEFAULT '{}',
    tree       jsonb NOT NULL CHECK (jsonb_typeof(tree) = 'array'),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (pack_id, number)
);
ALTER TABLE attune.pack ADD FOREIGN KEY (revision_id) REFERENCES attune.revision (id);
COMMENT ON TABLE attune.revision IS 'Applied states of packs'' files.';
COMMENT ON COLUMN attune.revision.id IS 'The row''s number, for joins.';
COMMENT ON COLUMN attune.revision.pack_id IS 'The pack.';
COMMENT ON COLUMN attune.revision.number IS 'Counts the pack''s revisions from 1.';
COMMENT ON COLUMN attune.revision.digest IS 'SHA-256 of the whole tree.';
COMMENT ON COLUMN attune.revision.version IS 'The version that pack.yaml named.';
COMMENT ON COLUMN attune.revision.cause IS 'Why it was applied: start, edit, resync, signal, command NAME.';
COMMENT ON COLUMN attune.revision.changes IS 'What it changed, a line for each component.';
COMMENT ON COLUMN attune.revision.tree IS 'Its files: path, digest, size, x (executable), link.';
COMMENT ON COLUMN attune.revision.created_at IS 'When it was applied.';

CREATE TABLE attune.file (
    digest     text PRIMARY KEY,
    size       bigint NOT NULL CHECK (size >= 0),
    content    bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
-- The content is zstd already: trying to compress it again only costs time.
ALTER TABLE attune.file ALTER COLUMN content SET STORAGE EXTERNAL;
COMMENT ON TABLE attune.file IS 'Contents of the files of all revisions, each once.';
COMMENT ON COLUMN attune.file.digest IS 'SHA-256 of the content as it was in the pack.';
COMMENT ON COLUMN attune.file.size IS 'Bytes of the content as it was in the pack.';
COMMENT ON COLUMN attune.file.content IS 'The content, compressed by zstd.';
COMMENT ON COLUMN attune.file.created_at IS 'When it was first stored.';

CREATE TABLE attune.runtime (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node      text NOT NULL,
    name      text NOT NULL CHECK (name <> ''),
    path      text NOT NULL,
    version   text NOT NULL,
    problem   text NOT NULL,
    probed_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (node, name, path)
);
COMMENT ON TABLE attune.runtime IS 'Interpreters that nodes found.';
COMMENT ON COLUMN attune.runtime.id IS 'The row''s number.';
COMMENT ON COLUMN attune.runtime.node IS 'The node that found it.';
COMMENT ON COLUMN attune.runtime.name IS 'shell, sh, python, node or native.';
COMMENT ON COLUMN attune.runtime.path IS 'Where it is; empty: not found.';
COMMENT ON COLUMN attune.runtime.version IS 'What it says its version is.';
COMMENT ON COLUMN attune.runtime.problem IS 'Why it cannot be used; empty: it can.';
COMMENT ON COLUMN attune.runtime.probed_at IS 'When the node looked.';

-- The four kinds of component share their first columns; pack_enabled repeats the pack's, so that
-- "enabled" is one column that cannot be wrong for want of a join.
CREATE TABLE attune.action (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ref              text NOT NULL UNIQUE CHECK (ref <> ''),
    pack_id          bigint NOT NULL REFERENCES attune.pack (id),
    name             text GENERATED ALWAYS AS (manifest ->> 'name') STORED,
    label            text GENERATED ALWAYS AS (manifest ->> 'label') STORED,
    description      text GENERATED ALWAYS AS (manifest ->> 'description') STORED,
    runner_type      text GENERATED ALWAYS AS (manifest ->> 'runner_type') STORED,
    entry_point      text GENERATED ALWAYS AS (manifest ->> 'entry_point') STORED,
    enabled          boolean GENERATED ALWAYS AS (
                         present AND pack_enabled AND disabled_at IS NULL AND COALESCE(manifest -> 'enabled' = 'true', FALSE)
                     ) STORED,
    parameters       jsonb GENERATED ALWAYS AS (manifest -> 'parameters') STORED,
    output_schema    jsonb GENERATED ALWAYS AS (manifest -> 'output_schema') STORED,
    tags             text[] GENERATED ALWAYS AS (attune.texts(manifest -> 'tags')) STORED,
    file             text NOT NULL,
    present          boolean NOT NULL,
    manifest_enabled boolean GENERATED ALWAYS AS (COALESCE(manifest -> 'enabled' = 'true', FALSE)) STORED,
    pack_enabled     boolean NOT NULL,
    disabled_at      timestamptz,
    disabled_by      text,
    manifest         jsonb NOT NULL,
    digest           text NOT NULL,
    files_digest     text NOT NULL,
    revision_id      bigint REFERENCES attune.revision (id),
    generation       bigint NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CHECK ((disabled_at IS NULL) = (disabled_by IS NULL))
);
CREATE INDEX action_pack ON attune.action (pack_id);
COMMENT ON TABLE attune.action IS 'Actions. Rows are never deleted: one whose file vanished is not present.';

CREATE TABLE attune.trigger (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ref               text NOT NULL UNIQUE CHECK (ref <> ''),
    pack_id           bigint NOT NULL REFERENCES attune.pack (id),
    name              text GENERATED ALWAYS AS (manifest ->> 'name') STORED,
    label             text GENERATED ALWAYS AS (manifest ->> 'label') STORED,
    description       text GENERATED ALWAYS AS (manifest ->> 'description') STORED,
    type              text GENERATED ALWAYS AS (manifest ->> 'type') STORED,
    enabled           boolean GENERATED ALWAYS AS (
                          present AND pack_enabled AND disabled_at IS NULL AND COALESCE(manifest -> 'enabled' = 'true', FALSE)
                      ) STORED,
    parameters_schema jsonb GENERATED ALWAYS AS (manifest -> 'parameters_schema') STORED,
    payload_schema    jsonb GENERATED ALWAYS AS (manifest -> 'payload_schema') STORED,
    tags              text[] GENERATED ALWAYS AS (attune.texts(manifest -> 'tags')) STORED,
    last_event_at     timestamptz,
    file              text NOT NULL,
    present           boolean NOT NULL,
    manifest_enabled  boolean GENERATED ALWAYS AS (COALESCE(manifest -> 'enabled' = 'true', FALSE)) STORED,
    pack_enabled      boolean NOT NULL,
    disabled_at       timestamptz,
    disabled_by       text,
    manifest          jsonb NOT NULL,
    digest            text NOT NULL,
    files_digest      text NOT NULL,
    revision_id       bigint REFERENCES attune.revision (id),
    generation        bigint NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    CHECK ((disabled_at IS NULL) = (disabled_by IS NULL))
);
CREATE INDEX trigger_pack ON attune.trigger (pack_id);
COMMENT ON TABLE attune.trigger IS 'Triggers. Rows are never deleted: one whose file vanished is not present.';
COMMENT ON COLUMN attune.trigger.last_event_at IS 'When an event of it for every instance was last committed, to the second.';

CREATE TABLE attune.sensor (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ref              text NOT NULL UNIQUE CHECK (ref <> ''),
    pack_id          bigint NOT NULL REFERENCES attune.pack (id),
    name             text GENERATED ALWAYS AS (manifest ->> 'name') STORED,
    label            text GENERATED ALWAYS AS (manifest ->> 'label') STORED,
    description      text GENERATED ALWAYS AS (manifest ->> 'description') STORED,
    runner_type      text GENERATED ALWAYS AS (manifest ->> 'runner_type') STORED,
    entry_point      text GENERATED ALWAYS AS (manifest ->> 'entry_point') STORED,
    trigger_types    text[] GENERATED ALWAYS AS (attune.texts(manifest -> 'trigger_types')) STORED,
    enabled          boolean GENERATED ALWAYS AS (
                         present AND pack_enabled AND disabled_at IS NULL AND COALESCE(manifest -> 'enabled' = 'true', FALSE)
                     ) STORED,
    parameters       jsonb GENERATED ALWAYS AS (manifest -> 'parameters') STORED,
    poll_interval    double precision GENERATED ALWAYS AS ((manifest ->> 'poll_interval')::double precision) STORED,
    tags             text[] GENERATED ALWAYS AS (attune.texts(manifest -> 'tags')) STORED,
    cursor           jsonb,
    cursor_at        timestamptz,
    file             text NOT NULL,
    present          boolean NOT NULL,
    manifest_enabled boolean GENERATED ALWAYS AS (COALESCE(manifest -> 'enabled' = 'true', FALSE)) STORED,
    pack_enabled     boolean NOT NULL,
    disabled_at      timestamptz,
    disabled_by      text,
    manifest         jsonb NOT NULL,
    digest           text NOT NULL,
    files_digest     text NOT NULL,
    revision_id      bigint REFERENCES attune.revision (id),
    generation       bigint NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CHECK ((disabled_at IS NULL) = (disabled_by IS NULL))
)
-- A cursor is written with each group of events: with room on the page, no index is touched.
WITH (fillfactor = 60);
CREATE INDEX sensor_pack ON attune.sensor (pack_id);
COMMENT ON TABLE attune.sensor IS 'Sensors. Rows are never deleted: one whose file vanished is not present.';
COMMENT ON COLUMN attune.sensor.cursor IS 'The cursor committed with its newest event, handed back when it starts.';
COMMENT ON COLUMN attune.sensor.cursor_at IS 'When the cursor was committed.';

CREATE TABLE attune.rule (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ref                text NOT NULL UNIQUE CHECK (ref <> ''),
    pack_id            bigint NOT NULL REFERENCES attune.pack (id),
    name               text GENERATED ALWAYS AS (manifest ->> 'name') STORED,
    label              text GENERATED ALWAYS AS (manifest ->> 'label') STORED,
    description        text GENERATED ALWAYS AS (manifest ->> 'description') STORED,
    trigger_ref        text GENERATED ALWAYS AS (manifest #>> '{trigger,ref}') STORED,
    condition          text GENERATED ALWAYS AS (manifest ->> 'when') STORED,
    action_refs        text[] GENERATED ALWAYS AS (attune.refs(manifest -> 'actions')) STORED,
    enabled            boolean GENERATED ALWAYS AS (
                           present AND pack_enabled AND disabled_at IS NULL AND COALESCE(manifest -> 'enabled' = 'true', FALSE)
                       ) STORED,
    tags               text[] GENERATED ALWAYS AS (attune.texts(manifest -> 'tags')) STORED,
    instance_id        text,
    trigger_parameters jsonb,
    file               text NOT NULL,
    present            boolean NOT NULL,
    manifest_enabled   boolean GENERATED ALWAYS AS (COALESCE(manifest -> 'enabled' = 'true', FALSE)) STORED,
    pack_enabled       boolean NOT NULL,
    disabled_at        timestamptz,
    disabled_by        text,
    manifest           jsonb NOT NULL,
    digest             text NOT NULL,
    files_digest       text NOT NULL,
    revision_id        bigint REFERENCES attune.revision (id),
    generation         bigint NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    CHECK ((disabled_at IS NULL) = (disabled_by IS NULL))
);
CREATE INDEX rule_pack ON attune.rule (pack_id);
CREATE INDEX rule_trigger ON attune.rule (trigger_ref);
CREATE INDEX rule_instance ON attune.rule (instance_id);
COMMENT ON TABLE attune.rule IS 'Rules. Rows are never deleted: one whose file vanished is not present.';
COMMENT ON COLUMN attune.rule.trigger_ref IS 'From the manifest: the trigger whose events it looks at.';
COMMENT ON COLUMN attune.rule.condition IS 'From the manifest: its when; NULL: always.';
COMMENT ON COLUMN attune.rule.action_refs IS 'From the manifest: the actions that it queues.';
COMMENT ON COLUMN attune.rule.instance_id IS 'The trigger instance that it asks for; NULL while there is no such trigger.';
COMMENT ON COLUMN attune.rule.trigger_parameters IS 'The trigger''s parameters with defaults, those outside the identity included.';

-- +goose StatementBegin
DO $$
DECLARE
    kind text;
    told record;
BEGIN
    FOREACH kind IN ARRAY ARRAY['action', 'trigger', 'sensor', 'rule'] LOOP
        FOR told IN
            SELECT *
            FROM (VALUES
                ('id', 'The row''s number, for joins.'),
                ('ref', 'Its name everywhere: pack.name.'),
                ('pack_id', 'The pack that it belongs to.'),
                ('name', 'From the manifest: its name inside the pack.'),
                ('label', 'From the manifest: the name for people.'),
                ('description', 'From the manifest: what it is for.'),
                ('type', 'From the manifest: interval, cron, datetime, webhook or custom.'),
                ('runner_type', 'From the manifest: shell, python, node or native.'),
                ('entry_point', 'From the manifest: the script, inside the pack''s folder for this kind.'),
                ('enabled', 'In force: the pack is enabled, and present, manifest and operator agree.'),
                ('parameters', 'From the manifest: JSON Schema of its parameters.'),
                ('parameters_schema', 'From the manifest: JSON Schema of its parameters.'),
                ('payload_schema', 'From the manifest: JSON Schema of its events'' payload.'),
                ('output_schema', 'From the manifest: JSON Schema of its result.'),
                ('trigger_types', 'From the manifest: the triggers whose events it may print.'),
                ('poll_interval', 'From the manifest: seconds after which one that exited 0 is run again.'),
                ('tags', 'From the manifest: words to find it by.'),
                ('file', 'Its manifest''s path inside the pack.'),
                ('present', 'Whether its manifest is there.'),
                ('manifest_enabled', 'Whether its manifest enables it.'),
                ('pack_enabled', 'Whether its pack is enabled.'),
                ('disabled_at', 'When an operator disabled it; NULL: nobody did.'),
                ('disabled_by', 'The operator who disabled it.'),
                ('manifest', 'The manifest''s normal form: what the daemon works from.'),
                ('digest', 'SHA-256 of the manifest''s normal form.'),
                ('files_digest', 'Digest of the files whose change concerns it.'),
                ('revision_id', 'The revision that it runs from, which is not the newest where a newer version was refused.'),
                ('generation', 'The generation at which it last changed.'),
                ('created_at', 'When it was first seen.'),
                ('updated_at', 'When it last changed.')
            ) AS t (name, text)
            WHERE EXISTS (
                SELECT FROM pg_catalog.pg_attribute
                WHERE attrelid = format('attune.%I', kind)::regclass AND attname = t.name
            )
        LOOP
            EXECUTE format('COMMENT ON COLUMN attune.%I.%I IS %L', kind, told.name, told.text);
        END LOOP;
    END LOOP;
END
$$;
-- +goose StatementEnd

CREATE TABLE attune.trigger_instance (
    id          text PRIMARY KEY,
    trigger_ref text NOT NULL,
    parameters  jsonb NOT NULL,
    active      boolean NOT NULL,
    anchor_at   timestamptz NOT NULL DEFAULT now(),
    last_due    timestamptz,
    updated_at  timestamptz NOT NULL DEFAULT now()
)
-- last_due is written with each firing, and is in no index.
WITH (fillfactor = 70);
CREATE INDEX trigger_instance_trigger ON attune.trigger_instance (trigger_ref);
COMMENT ON TABLE attune.trigger_instance IS 'A trigger with the parameters that some rule gives it; rules that say the same share one.';
COMMENT ON COLUMN attune.trigger_instance.id IS 'Made from the trigger and the canonical parameters.';
COMMENT ON COLUMN attune.trigger_instance.trigger_ref IS 'The trigger.';
COMMENT ON COLUMN attune.trigger_instance.parameters IS 'The canonical parameters: those that make its identity.';
COMMENT ON COLUMN attune.trigger_instance.active IS 'Whether an enabled rule of an enabled trigger asks for it.';
COMMENT ON COLUMN attune.trigger_instance.anchor_at IS 'When it came to be; intervals count from here.';
COMMENT ON COLUMN attune.trigger_instance.last_due IS 'Due time, or time, of the newest stored event for it alone.';
COMMENT ON COLUMN attune.trigger_instance.updated_at IS 'When it last became active or inactive.';

-- History: partitioned by the UTC day of created_at, no foreign keys among themselves, so that a day
-- is dropped in a moment. Numbers come from sequences of their own, because identity columns of
-- partitioned tables need PostgreSQL 17.
CREATE SEQUENCE attune.event_id;
CREATE SEQUENCE attune.enforcement_id;
CREATE SEQUENCE attune.execution_id;

CREATE TABLE attune.event (
    id          bigint NOT NULL DEFAULT nextval('attune.event_id'),
    created_at  timestamptz NOT NULL DEFAULT now(),
    trigger_ref text NOT NULL,
    instance    text NOT NULL DEFAULT '',
    source      text NOT NULL,
    event_id    text NOT NULL DEFAULT '',
    problem     text NOT NULL DEFAULT '',
    payload     jsonb NOT NULL,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX event_trigger ON attune.event (trigger_ref, id);
COMMENT ON TABLE attune.event IS 'What happened. Partitioned by day.';
COMMENT ON COLUMN attune.event.id IS 'Its number.';
COMMENT ON COLUMN attune.event.created_at IS 'When it was committed.';
COMMENT ON COLUMN attune.event.trigger_ref IS 'The trigger that it is of.';
COMMENT ON COLUMN attune.event.instance IS 'The trigger instance that it is meant for; empty: every one.';
COMMENT ON COLUMN attune.event.source IS 'The sensor''s ref, api or webhook.';
COMMENT ON COLUMN attune.event.event_id IS 'The source''s own number for it, which makes a replay harmless; empty: none.';
COMMENT ON COLUMN attune.event.problem IS 'What was wrong with its payload; empty: nothing.';
COMMENT ON COLUMN attune.event.payload IS 'Its data.';

CREATE TABLE attune.enforcement (
    id         bigint NOT NULL DEFAULT nextval('attune.enforcement_id'),
    created_at timestamptz NOT NULL DEFAULT now(),
    event_id   bigint NOT NULL,
    rule_ref   text NOT NULL,
    status     text NOT NULL CHECK (status IN ('matched', 'throttled', 'deduplicated', 'skipped', 'error')),
    error      text NOT NULL DEFAULT '',
    warnings   jsonb,
    -- One for each event and rule: it is committed with its event and shares its created_at.
    PRIMARY KEY (event_id, rule_ref, created_at)
) PARTITION BY RANGE (created_at);
COMMENT ON TABLE attune.enforcement IS 'What a rule made of an event that it matched. Partitioned by day.';
COMMENT ON COLUMN attune.enforcement.id IS 'Its number.';
COMMENT ON COLUMN attune.enforcement.created_at IS 'When it was committed, with its event.';
COMMENT ON COLUMN attune.enforcement.event_id IS 'The event.';
COMMENT ON COLUMN attune.enforcement.rule_ref IS 'The rule.';
COMMENT ON COLUMN attune.enforcement.status IS 'matched, throttled, deduplicated, skipped or error.';
COMMENT ON COLUMN attune.enforcement.error IS 'Why the rule could not be evaluated; empty: it could.';
COMMENT ON COLUMN attune.enforcement.warnings IS 'What was odd about it, as a list of texts.';

CREATE TABLE attune.execution (
    id               bigint NOT NULL DEFAULT nextval('attune.execution_id'),
    created_at       timestamptz NOT NULL DEFAULT now(),
    action_ref       text NOT NULL,
    pack_ref         text NOT NULL,
    rule_ref         text,
    trigger_ref      text,
    event_id         bigint,
    enforcement_id   bigint,
    ordinal          integer NOT NULL DEFAULT 0,
    item             integer NOT NULL DEFAULT 0,
    status           text NOT NULL CHECK (
                         status IN ('requested', 'scheduled', 'succeeded', 'failed', 'timed_out', 'cancelled', 'lost')
                     ),
    priority         integer NOT NULL DEFAULT 0,
    requested_by     text NOT NULL DEFAULT '',
    due_at           timestamptz NOT NULL DEFAULT now(),
    timeout          interval,
    parameters       jsonb NOT NULL DEFAULT '{}',
    secrets          jsonb,
    attempt          integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    node             text,
    revision         text,
    started_at       timestamptz,
    finished_at      timestamptz,
    exit_code        integer,
    signal           text,
    error            text,
    result           jsonb,
    stdout_truncated boolean NOT NULL DEFAULT FALSE,
    stderr_truncated boolean NOT NULL DEFAULT FALSE,
    PRIMARY KEY (id, created_at),
    CHECK ((status IN ('requested', 'scheduled')) = (finished_at IS NULL))
) PARTITION BY RANGE (created_at);
-- One for each enforcement, place in the rule's actions and item; and the way from an event to what
-- it caused. What people asked for has no enforcement, and NULLs are distinct.
CREATE UNIQUE INDEX execution_event ON attune.execution (event_id, enforcement_id, ordinal, item, created_at);
CREATE INDEX execution_action ON attune.execution (action_ref, id);
CREATE INDEX execution_rule ON attune.execution (rule_ref, id);
COMMENT ON TABLE attune.execution IS 'Actions asked for, written when queued and once more at the end; the view execution_now has the truth meanwhile. Partitioned by day.';
COMMENT ON COLUMN attune.execution.id IS 'Its number.';
COMMENT ON COLUMN attune.execution.created_at IS 'When it was asked for.';
COMMENT ON COLUMN attune.execution.action_ref IS 'The action.';
COMMENT ON COLUMN attune.execution.pack_ref IS 'The action''s pack.';
COMMENT ON COLUMN attune.execution.rule_ref IS 'The rule that asked for it; NULL: a person or a program.';
COMMENT ON COLUMN attune.execution.trigger_ref IS 'The trigger of its event.';
COMMENT ON COLUMN attune.execution.event_id IS 'The event that caused it.';
COMMENT ON COLUMN attune.execution.enforcement_id IS 'The enforcement that it belongs to.';
COMMENT ON COLUMN attune.execution.ordinal IS 'Its place in the rule''s actions.';
COMMENT ON COLUMN attune.execution.item IS 'Its place in the rule''s for_each.';
COMMENT ON COLUMN attune.execution.status IS 'requested or scheduled as it was queued, then how it ended.';
COMMENT ON COLUMN attune.execution.priority IS 'Higher ones of its pack go first.';
COMMENT ON COLUMN attune.execution.requested_by IS 'Who asked for it: rule, or the name of a person or program.';
COMMENT ON COLUMN attune.execution.due_at IS 'Not to be started before.';
COMMENT ON COLUMN attune.execution.timeout IS 'Its own time limit; NULL: the action''s.';
COMMENT ON COLUMN attune.execution.parameters IS 'What the action is given.';
COMMENT ON COLUMN attune.execution.secrets IS 'JSON pointers of parameters, each with the name of the secret that belongs there.';
COMMENT ON COLUMN attune.execution.attempt IS 'How many attempts it took.';
COMMENT ON COLUMN attune.execution.node IS 'The node of the last attempt.';
COMMENT ON COLUMN attune.execution.revision IS 'Digest of the pack''s tree that the last attempt ran from.';
COMMENT ON COLUMN attune.execution.started_at IS 'When the last attempt started.';
COMMENT ON COLUMN attune.execution.finished_at IS 'When it ended; NULL: it has not.';
COMMENT ON COLUMN attune.execution.exit_code IS 'Exit code of the last attempt; NULL: a signal ended it, or it never started.';
COMMENT ON COLUMN attune.execution.signal IS 'The signal that ended the last attempt.';
COMMENT ON COLUMN attune.execution.error IS 'Why it did not succeed.';
COMMENT ON COLUMN attune.execution.result IS 'Its result.';
COMMENT ON COLUMN attune.execution.stdout_truncated IS 'Whether the middle of its stdout was not kept.';
COMMENT ON COLUMN attune.execution.stderr_truncated IS 'Whether the middle of its stderr was not kept.';

-- Attempts and outputs carry the created_at of their execution, so that a day goes as a whole.
CREATE TABLE attune.attempt (
    execution_id bigint NOT NULL,
    created_at   timestamptz NOT NULL,
    number       integer NOT NULL CHECK (number > 0),
    token        uuid NOT NULL,
    status       text NOT NULL CHECK (
                     status IN ('running', 'succeeded', 'failed', 'timed_out', 'cancelled', 'lost')
                 ),
    node         text NOT NULL,
    revision     text,
    queued_at    timestamptz NOT NULL,
    started_at   timestamptz,
    finished_at  timestamptz,
    exit_code    integer,
    signal       text,
    error        text,
    late         jsonb,
    late_at      timestamptz,
    PRIMARY KEY (execution_id, number, created_at),
    CHECK ((status = 'running') = (finished_at IS NULL))
) PARTITION BY RANGE (created_at);
CREATE INDEX attempt_token ON attune.attempt (token);
COMMENT ON TABLE attune.attempt IS 'Starts of executions, each with its fate. Partitioned by the day of the execution.';
COMMENT ON COLUMN attune.attempt.execution_id IS 'The execution.';
COMMENT ON COLUMN attune.attempt.created_at IS 'When the execution was asked for.';
COMMENT ON COLUMN attune.attempt.number IS 'Counts the execution''s attempts from 1.';
COMMENT ON COLUMN attune.attempt.token IS 'Names the attempt: only who holds it in the queue can end it.';
COMMENT ON COLUMN attune.attempt.status IS 'running, or how it ended.';
COMMENT ON COLUMN attune.attempt.node IS 'The node that had it.';
COMMENT ON COLUMN attune.attempt.revision IS 'Digest of the pack''s tree that it ran from.';
COMMENT ON COLUMN attune.attempt.queued_at IS 'When it was due.';
COMMENT ON COLUMN attune.attempt.started_at IS 'Committed before its process was started; NULL: none was.';
COMMENT ON COLUMN attune.attempt.finished_at IS 'When its end was recorded.';
COMMENT ON COLUMN attune.attempt.exit_code IS 'Exit code; NULL: a signal ended it, or it never started.';
COMMENT ON COLUMN attune.attempt.signal IS 'The signal that ended it.';
COMMENT ON COLUMN attune.attempt.error IS 'Why it did not succeed.';
COMMENT ON COLUMN attune.attempt.late IS 'Evidence: an outcome that came after the attempt was no longer its node''s. It changed nothing.';
COMMENT ON COLUMN attune.attempt.late_at IS 'When that came.';

CREATE TABLE attune.output (
    execution_id bigint NOT NULL,
    created_at   timestamptz NOT NULL,
    attempt      integer NOT NULL,
    stream       text NOT NULL CHECK (stream IN ('stdout', 'stderr')),
    text         text NOT NULL,
    bytes        bigint NOT NULL,
    omitted      bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (execution_id, attempt, stream, created_at)
) PARTITION BY RANGE (created_at);
COMMENT ON TABLE attune.output IS 'What attempts printed; no row where they printed nothing. Partitioned by the day of the execution.';
COMMENT ON COLUMN attune.output.execution_id IS 'The execution.';
COMMENT ON COLUMN attune.output.created_at IS 'When the execution was asked for.';
COMMENT ON COLUMN attune.output.attempt IS 'The attempt''s number.';
COMMENT ON COLUMN attune.output.stream IS 'stdout or stderr.';
COMMENT ON COLUMN attune.output.text IS 'What was kept of it.';
COMMENT ON COLUMN attune.output.bytes IS 'Bytes that the process wrote.';
COMMENT ON COLUMN attune.output.omitted IS 'Bytes of the middle that were not kept.';

-- Unpartitioned, because a unique key must hold over midnight.
CREATE TABLE attune.event_key (
    source      text NOT NULL,
    trigger_ref text NOT NULL,
    event_id    text NOT NULL,
    id          bigint NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, trigger_ref, event_id)
);
CREATE INDEX event_key_created ON attune.event_key (created_at);
COMMENT ON TABLE attune.event_key IS 'Events of the last days by their source''s own number, so that a replay stores nothing twice.';
COMMENT ON COLUMN attune.event_key.source IS 'As in event.';
COMMENT ON COLUMN attune.event_key.trigger_ref IS 'As in event.';
COMMENT ON COLUMN attune.event_key.event_id IS 'As in event; a long one is cut and ends in its SHA-256.';
COMMENT ON COLUMN attune.event_key.id IS 'The stored event.';
COMMENT ON COLUMN attune.event_key.created_at IS 'When that was committed.';

CREATE TABLE attune.queue (
    execution_id     bigint PRIMARY KEY,
    created_at       timestamptz NOT NULL,
    status           text NOT NULL CHECK (status IN ('requested', 'scheduled', 'running')),
    pack_ref         text NOT NULL,
    action_ref       text NOT NULL,
    rule_ref         text,
    trigger_ref      text,
    event_id         bigint,
    priority         integer NOT NULL DEFAULT 0,
    due_at           timestamptz NOT NULL,
    timeout          interval,
    parameters       jsonb NOT NULL,
    secrets          jsonb,
    attempt          integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    token            uuid,
    node             text,
    revision_id      bigint,
    revision         text,
    claimed_at       timestamptz,
    lease_until      timestamptz,
    started_at       timestamptz,
    cancel_at        timestamptz,
    cancel_by        text,
    CHECK ((status = 'running') = (token IS NOT NULL)),
    CHECK ((token IS NULL) = (node IS NULL)),
    CHECK ((token IS NULL) = (claimed_at IS NULL)),
    CHECK ((token IS NULL) = (lease_until IS NULL)),
    CHECK (started_at IS NULL OR token IS NOT NULL),
    CHECK ((cancel_at IS NULL) = (cancel_by IS NULL))
)
-- Every row here is soon dead. Statistics and free space must follow the queue, not a share of it; and
-- a row is written at its claim, at its start and at each renewal, best on its own page.
WITH (
    fillfactor = 40,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02,
    autovacuum_analyze_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
-- The order in which a pack's due executions are claimed.
CREATE INDEX queue_waiting ON attune.queue (pack_ref, priority DESC, due_at, execution_id)
WHERE status = 'requested';
CREATE INDEX queue_scheduled ON attune.queue (due_at)
WHERE status = 'scheduled';
-- Partial, because most rows wait and have no token.
CREATE UNIQUE INDEX queue_token ON attune.queue (token)
WHERE token IS NOT NULL;
-- lease_until is in no index: renewing a lease must stay a write to the row alone.
CREATE INDEX queue_node ON attune.queue (node)
WHERE token IS NOT NULL;
COMMENT ON TABLE attune.queue IS 'Executions that wait or run: the truth until they end.';
COMMENT ON COLUMN attune.queue.execution_id IS 'The execution.';
COMMENT ON COLUMN attune.queue.created_at IS 'When it was asked for.';
COMMENT ON COLUMN attune.queue.status IS 'requested (due), scheduled (waits for due_at) or running (claimed).';
COMMENT ON COLUMN attune.queue.pack_ref IS 'The action''s pack: packs take turns.';
COMMENT ON COLUMN attune.queue.action_ref IS 'The action.';
COMMENT ON COLUMN attune.queue.rule_ref IS 'The rule that asked for it.';
COMMENT ON COLUMN attune.queue.trigger_ref IS 'The trigger of its event.';
COMMENT ON COLUMN attune.queue.event_id IS 'The event that caused it.';
COMMENT ON COLUMN attune.queue.priority IS 'Higher ones of a pack go first.';
COMMENT ON COLUMN attune.queue.due_at IS 'Not to be started before.';
COMMENT ON COLUMN attune.queue.timeout IS 'Its own time limit; NULL: the action''s.';
COMMENT ON COLUMN attune.queue.parameters IS 'What the action is given.';
COMMENT ON COLUMN attune.queue.secrets IS 'JSON pointers of parameters, each with the name of the secret that belongs there.';
COMMENT ON COLUMN attune.queue.attempt IS 'The attempt that runs, or how many there were.';
COMMENT ON COLUMN attune.queue.token IS 'Names the attempt that holds it; every write for it carries this.';
COMMENT ON COLUMN attune.queue.node IS 'The node that holds it.';
COMMENT ON COLUMN attune.queue.revision_id IS 'The revision that the attempt runs from.';
COMMENT ON COLUMN attune.queue.revision IS 'Digest of that revision''s tree.';
COMMENT ON COLUMN attune.queue.claimed_at IS 'When the node took it.';
COMMENT ON COLUMN attune.queue.lease_until IS 'When it is taken from the node that has not renewed it.';
COMMENT ON COLUMN attune.queue.started_at IS 'Committed before the process is started; NULL: not yet.';
COMMENT ON COLUMN attune.queue.cancel_at IS 'When somebody asked for it to be cancelled.';
COMMENT ON COLUMN attune.queue.cancel_by IS 'Who asked.';

CREATE TABLE attune.node (
    id         text PRIMARY KEY,
    host       text NOT NULL,
    pid        integer NOT NULL,
    version    text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now()
)
WITH (fillfactor = 70);
COMMENT ON TABLE attune.node IS 'Running daemons.';
COMMENT ON COLUMN attune.node.id IS 'Host name and a random part, new at each start.';
COMMENT ON COLUMN attune.node.host IS 'Its host''s name.';
COMMENT ON COLUMN attune.node.pid IS 'Its process number there.';
COMMENT ON COLUMN attune.node.version IS 'Its version.';
COMMENT ON COLUMN attune.node.started_at IS 'When it started.';
COMMENT ON COLUMN attune.node.seen_at IS 'When it last renewed its leases.';

CREATE TABLE attune.lease (
    name        text PRIMARY KEY,
    node        text NOT NULL,
    token       uuid NOT NULL,
    lease_until timestamptz NOT NULL,
    acquired_at timestamptz NOT NULL DEFAULT now()
)
WITH (fillfactor = 70);
COMMENT ON TABLE attune.lease IS 'What one node at a time may do: reconcile, run a sensor.';
COMMENT ON COLUMN attune.lease.name IS 'What is held: leader, sensor:REF.';
COMMENT ON COLUMN attune.lease.node IS 'The node that holds it.';
COMMENT ON COLUMN attune.lease.token IS 'Names this holding; every write for it carries this.';
COMMENT ON COLUMN attune.lease.lease_until IS 'When another node may take it.';
COMMENT ON COLUMN attune.lease.acquired_at IS 'Since when the node has it.';

CREATE TABLE attune.token (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE,
    hash         bytea NOT NULL UNIQUE,
    scope        text NOT NULL CHECK (scope IN ('read', 'run', 'admin')),
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz
);
COMMENT ON TABLE attune.token IS 'Tokens for the API.';
COMMENT ON COLUMN attune.token.id IS 'The row''s number.';
COMMENT ON COLUMN attune.token.name IS 'What people call it.';
COMMENT ON COLUMN attune.token.hash IS 'SHA-256 of the token, which itself is stored nowhere.';
COMMENT ON COLUMN attune.token.scope IS 'read, run or admin.';
COMMENT ON COLUMN attune.token.created_by IS 'Who made it.';
COMMENT ON COLUMN attune.token.created_at IS 'When it was made.';
COMMENT ON COLUMN attune.token.expires_at IS 'When it stops being good; NULL: never.';
COMMENT ON COLUMN attune.token.last_used_at IS 'When it was last used.';
COMMENT ON COLUMN attune.token.revoked_at IS 'When it was revoked.';

CREATE TABLE attune.audit (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    actor      text NOT NULL,
    action     text NOT NULL,
    object     text NOT NULL,
    detail     jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_created ON attune.audit (created_at);
COMMENT ON TABLE attune.audit IS 'Who changed what by command or API.';
COMMENT ON COLUMN attune.audit.id IS 'The row''s number.';
COMMENT ON COLUMN attune.audit.created_at IS 'When.';
COMMENT ON COLUMN attune.audit.actor IS 'Who.';
COMMENT ON COLUMN attune.audit.action IS 'What was done, as verb and noun: cancel execution.';
COMMENT ON COLUMN attune.audit.object IS 'To what: a ref or an id.';
COMMENT ON COLUMN attune.audit.detail IS 'The rest.';

CREATE TABLE attune.idempotency_key (
    key        text PRIMARY KEY,
    digest     text NOT NULL,
    answer     jsonb,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idempotency_key_created ON attune.idempotency_key (created_at);
COMMENT ON TABLE attune.idempotency_key IS 'Requests that carried an Idempotency-Key, with their answers.';
COMMENT ON COLUMN attune.idempotency_key.key IS 'The key, with the caller''s name.';
COMMENT ON COLUMN attune.idempotency_key.digest IS 'SHA-256 of the request: the same key with another request is refused.';
COMMENT ON COLUMN attune.idempotency_key.answer IS 'The answer that was given; NULL while the request is under way.';
COMMENT ON COLUMN attune.idempotency_key.created_at IS 'When it was first seen.';

CREATE VIEW attune.execution_now AS
SELECT
    execution.id,
    execution.created_at,
    execution.action_ref,
    execution.pack_ref,
    execution.rule_ref,
    execution.trigger_ref,
    execution.event_id,
    execution.enforcement_id,
    COALESCE(queue.status, execution.status) AS status,
    execution.priority,
    execution.requested_by,
    COALESCE(queue.due_at, execution.due_at) AS due_at,
    execution.parameters,
    COALESCE(queue.attempt, execution.attempt) AS attempt,
    COALESCE(queue.node, execution.node) AS node,
    COALESCE(queue.revision, execution.revision) AS revision,
    COALESCE(queue.started_at, execution.started_at) AS started_at,
    execution.finished_at,
    queue.lease_until,
    queue.cancel_by,
    execution.exit_code,
    execution.signal,
    execution.error,
    execution.result,
    execution.stdout_truncated,
    execution.stderr_truncated
FROM attune.execution
LEFT JOIN attune.queue
    ON queue.execution_id = execution.id;
COMMENT ON VIEW attune.execution_now IS 'Executions as they are now: history, and the queue for those that have not ended.';
COMMENT ON COLUMN attune.execution_now.id IS 'Its number.';
COMMENT ON COLUMN attune.execution_now.created_at IS 'When it was asked for.';
COMMENT ON COLUMN attune.execution_now.action_ref IS 'The action.';
COMMENT ON COLUMN attune.execution_now.pack_ref IS 'The action''s pack.';
COMMENT ON COLUMN attune.execution_now.rule_ref IS 'The rule that asked for it; NULL: a person or a program.';
COMMENT ON COLUMN attune.execution_now.trigger_ref IS 'The trigger of its event.';
COMMENT ON COLUMN attune.execution_now.event_id IS 'The event that caused it.';
COMMENT ON COLUMN attune.execution_now.enforcement_id IS 'The enforcement that it belongs to.';
COMMENT ON COLUMN attune.execution_now.status IS 'requested, scheduled, running, succeeded, failed, timed_out, cancelled or lost.';
COMMENT ON COLUMN attune.execution_now.priority IS 'Higher ones of its pack go first.';
COMMENT ON COLUMN attune.execution_now.requested_by IS 'Who asked for it.';
COMMENT ON COLUMN attune.execution_now.due_at IS 'Not to be started before.';
COMMENT ON COLUMN attune.execution_now.parameters IS 'What the action is given.';
COMMENT ON COLUMN attune.execution_now.attempt IS 'The attempt that runs, or how many there were.';
COMMENT ON COLUMN attune.execution_now.node IS 'The node that has it, or had the last attempt.';
COMMENT ON COLUMN attune.execution_now.revision IS 'Digest of the pack''s tree that it runs, or the last attempt ran, from.';
COMMENT ON COLUMN attune.execution_now.started_at IS 'When the last attempt started.';
COMMENT ON COLUMN attune.execution_now.finished_at IS 'When it ended.';
COMMENT ON COLUMN attune.execution_now.lease_until IS 'When it is taken from the node that has not renewed it.';
COMMENT ON COLUMN attune.execution_now.cancel_by IS 'Who asked for it to be cancelled.';
COMMENT ON COLUMN attune.execution_now.exit_code IS 'Exit code of the last attempt.';
COMMENT ON COLUMN attune.execution_now.signal IS 'The signal that ended the last attempt.';
COMMENT ON COLUMN attune.execution_now.error IS 'Why it did not succeed.';
COMMENT ON COLUMN attune.execution_now.result IS 'Its result.';
COMMENT ON COLUMN attune.execution_now.stdout_truncated IS 'Whether the middle of its stdout was not kept.';
COMMENT ON COLUMN attune.execution_now.stderr_truncated IS 'Whether the middle of its stderr was not kept.';

-- The net under partitioning: a day that nobody made a partition for still has a place.
CREATE TABLE attune.event_default PARTITION OF attune.event DEFAULT;
CREATE TABLE attune.enforcement_default PARTITION OF attune.enforcement DEFAULT;
CREATE TABLE attune.execution_default PARTITION OF attune.execution DEFAULT;
CREATE TABLE attune.attempt_default PARTITION OF attune.attempt DEFAULT;
CREATE TABLE attune.output_default PARTITION OF attune.output DEFAULT;

-- A new partition is filled and then attached, which blocks no reader of the history; rows of its
-- day that fell into the net move over. What is locked is the net, which nobody else should need.
-- +goose StatementBegin
CREATE FUNCTION attune.make_partitions(first_day date, last_day date) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    history text;
    day     date;
    part    text;
    low     text;
    high    text;
    made    integer := 0;
BEGIN
    FOREACH history IN ARRAY ARRAY['event', 'enforcement', 'execution', 'attempt', 'output'] LOOP
        day := first_day;
        WHILE day <= last_day LOOP
            part := history || '_' || to_char(day, 'YYYYMMDD');
            low  := to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00';
            high := to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+00';
            IF to_regclass(format('attune.%I', part)) IS NULL THEN
                EXECUTE format('LOCK TABLE attune.%I IN ACCESS EXCLUSIVE MODE', history || '_default');
                EXECUTE format('CREATE TABLE attune.%I (LIKE attune.%I INCLUDING ALL)', part, history);
                IF history IN ('execution', 'attempt') THEN
                    -- Each row is written a second time, on the same page and with no index knowing. Half of
                    -- the page would be dead rows otherwise, and the indexes twice as large.
                    EXECUTE format('ALTER TABLE attune.%I SET (fillfactor = 50)', part);
                END IF;
                EXECUTE format(
                    'WITH moved AS (DELETE FROM attune.%I WHERE created_at >= %L AND created_at < %L RETURNING *) INSERT INTO attune.%I SELECT * FROM moved',
                    history || '_default', low, high, part
                );
                EXECUTE format('COMMENT ON TABLE attune.%I IS %L', part, 'The rows of ' || history || ' of ' || day || ' (UTC).');
                EXECUTE format('ALTER TABLE attune.%I ATTACH PARTITION attune.%I FOR VALUES FROM (%L) TO (%L)', history, part, low, high);
                made := made + 1;
            END IF;
            day := day + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION attune.make_partitions IS 'Makes the partitions of the history for these UTC days, where missing; gives how many.';

-- +goose StatementBegin
CREATE FUNCTION attune.drop_partitions(histories text[], before timestamptz) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    history text;
    part    record;
    dropped integer := 0;
BEGIN
    FOREACH history IN ARRAY histories LOOP
        FOR part IN
            SELECT child.relname AS name, to_date(substring(child.relname FROM '\d{8}$'), 'YYYYMMDD') AS day
            FROM pg_catalog.pg_inherits
            JOIN pg_catalog.pg_class child
                ON child.oid = pg_inherits.inhrelid
            WHERE pg_inherits.inhparent = format('attune.%I', history)::regclass
                AND child.relname ~ '_\d{8}$'
            ORDER BY child.relname
        LOOP
            CONTINUE WHEN (part.day + 1)::timestamp AT TIME ZONE 'UTC' > before;
            -- What waits or runs still has its execution, and its event, in there.
            CONTINUE WHEN EXISTS (
                SELECT
                FROM attune.queue
                WHERE queue.created_at >= part.day::timestamp AT TIME ZONE 'UTC'
                    AND queue.created_at < (part.day + 1)::timestamp AT TIME ZONE 'UTC'
            );
            EXECUTE format('DROP TABLE attune.%I', part.name);
            dropped := dropped + 1;
        END LOOP;
        EXECUTE format(
            'DELETE FROM attune.%I AS old WHERE old.created_at < $1 AND NOT EXISTS (SELECT FROM attune.queue WHERE queue.created_at = old.created_at)',
            history || '_default'
        ) USING before;
    END LOOP;
    RETURN dropped;
END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION attune.drop_partitions IS 'Drops the partitions of these histories that end before a time and that nothing in the queue refers into; gives how many.';

SELECT attune.make_partitions((now() AT TIME ZONE 'UTC')::date, (now() AT TIME ZONE 'UTC')::date + 3);

COMMENT ON SCHEMA attune IS 'Attune: what its daemons want, do and did. Columns say what they hold; reading is free, writing is the daemons''.';
COMMENT ON TABLE attune.schema_version IS 'Migrations that were applied.';
COMMENT ON COLUMN attune.schema_version.id IS 'The row''s number.';
COMMENT ON COLUMN attune.schema_version.version_id IS 'The migration.';
COMMENT ON COLUMN attune.schema_version.is_applied IS 'Always true.';
COMMENT ON COLUMN attune.schema_version.tstamp IS 'When it was applied.';
COMMENT ON SEQUENCE attune.event_id IS 'Numbers events.';
COMMENT ON SEQUENCE attune.enforcement_id IS 'Numbers enforcements.';
COMMENT ON SEQUENCE attune.execution_id IS 'Numbers executions.';
