-- Configuration: dumped by pg_dump. ---------------------------------------------------------------------------------------------

CREATE TABLE entity_type (
    type_id           smallint PRIMARY KEY,
    entity_type       text NOT NULL UNIQUE,
    mode              text NOT NULL CHECK (mode IN ('multi', 'exclusive')),
    phase             text NOT NULL CHECK (
        phase IN ('native', 'attached', 'dual_read', 'switch_reads', 'stop_writes', 'archived', 'detached')),
    legacy_table      regclass UNIQUE,
    user_column       name,
    entity_column     name,
    kind_column       name,
    created_column    name,
    extra_values      jsonb NOT NULL DEFAULT '{}',
    kind_map          jsonb NOT NULL DEFAULT '{}',
    unknown_kinds     text NOT NULL DEFAULT 'error' CHECK (unknown_kinds IN ('error', 'skip')),
    backfilled        boolean NOT NULL DEFAULT true,
    -- Drawn by the flip to stop_writes: every event up to it was a change of the table, none after it was.
    stop_version      bigint,
    direct_inserts    text NOT NULL DEFAULT 'refuse' CHECK (direct_inserts IN ('refuse', 'redirect')),
    auto_advance      jsonb NOT NULL DEFAULT '{}',
    acknowledged      text[] NOT NULL DEFAULT '{}',
    user_map_key      text NOT NULL,
    entity_key        text NOT NULL,
    user_map_shape    text NOT NULL,
    entity_shape      text NOT NULL,
    shard_count       integer NOT NULL DEFAULT 100 CHECK (shard_count BETWEEN 1 AND 16384),
    user_map_limit    integer NOT NULL DEFAULT 5000 CHECK (user_map_limit BETWEEN 1 AND 100000),
    user_map_ttl      interval NOT NULL DEFAULT '7 days' CHECK (user_map_ttl >= '1 minute'),
    user_map_max_age  interval NOT NULL DEFAULT '30 days' CHECK (user_map_max_age >= user_map_ttl),
    viral_threshold   integer NOT NULL DEFAULT 10000 CHECK (viral_threshold <= 1000000),
    regular_threshold integer NOT NULL DEFAULT 8000 CHECK (regular_threshold BETWEEN 1 AND viral_threshold),
    epoch             bigint NOT NULL DEFAULT 0,
    created_at        timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_map_shape),
    UNIQUE (entity_shape),
    CHECK (phase IN ('stop_writes', 'archived') OR (legacy_table IS NULL) = (phase IN ('native', 'detached'))),
    CHECK ((stop_version IS NOT NULL) = (phase IN ('stop_writes', 'archived')))
);

-- No foreign key: a parallel pg_restore loads an extension's tables in any order.
CREATE TABLE kind (
    type_id smallint NOT NULL,
    -- Beside the kinds' counts Redis keeps those of all reactions and of the users.
    kind    text NOT NULL CHECK (kind ~ '^[A-Za-z][A-Za-z0-9_]{0,47}$' AND kind NOT IN ('total', 'users')),
    flag    integer NOT NULL CHECK (flag > 0 AND flag & (flag - 1) = 0),
    PRIMARY KEY (type_id, kind),
    UNIQUE (type_id, flag)
);

CREATE TABLE phase_log (
    phase_log_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity_type  text NOT NULL,
    from_phase   text,
    to_phase     text,
    forced       boolean NOT NULL DEFAULT false,
    readiness    jsonb,
    changed_by   text NOT NULL DEFAULT session_user,
    -- Tells the agent, which calls itself "reactiond auto_advance", from a person of the same role.
    application  text NOT NULL DEFAULT current_setting('application_name'),
    changed_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Whom the foreign keys of a type's table reference. Kept from prepare_stop_writes on: when the table is dropped they go with it.
CREATE TABLE _referenced (
    type_id     smallint NOT NULL,
    of_table    regclass NOT NULL,
    scope       "char" NOT NULL CHECK (scope IN ('u', 'e')),
    -- As it was called then: the triggers know it under its present name.
    column_name name NOT NULL,
    PRIMARY KEY (type_id, of_table, scope, column_name)
);

-- Several rows of one generation come from transactions that wrote their first events at the same time.
CREATE TABLE _generation (
    generation        smallint NOT NULL CHECK (generation BETWEEN 0 AND 511),
    system_identifier bigint NOT NULL,
    timeline          bigint NOT NULL,
    raised_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    raised_by         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (generation, raised_by)
);

-- The outbox: written in the transaction of the reaction, read by the agent and on cache misses. --------------------------------

CREATE SEQUENCE _version AS bigint MINVALUE 1 MAXVALUE 17592186044415 CACHE 1;

CREATE TABLE _outbox_0 (
    version     bigint NOT NULL,
    xid         xid8 NOT NULL,
    user_id     bigint NOT NULL,
    entity_id   bigint NOT NULL,
    created_at  timestamptz NOT NULL,
    written_at  timestamptz NOT NULL,
    set_mask    integer NOT NULL,
    clear_mask  integer NOT NULL,
    type_id     smallint NOT NULL,
    scope       "char" NOT NULL,
    delta_known boolean NOT NULL,
    PRIMARY KEY (xid, version)
);
CREATE INDEX _outbox_0_key ON _outbox_0 (type_id, user_id, entity_id);

CREATE TABLE _outbox_1 (LIKE _outbox_0);
ALTER TABLE _outbox_1 ADD PRIMARY KEY (xid, version);
CREATE INDEX _outbox_1_key ON _outbox_1 (type_id, user_id, entity_id);

CREATE TABLE _outbox_2 (LIKE _outbox_0);
ALTER TABLE _outbox_2 ADD PRIMARY KEY (xid, version);
CREATE INDEX _outbox_2_key ON _outbox_2 (type_id, user_id, entity_id);

CREATE VIEW _outbox AS
    SELECT * FROM _outbox_0 UNION ALL SELECT * FROM _outbox_1 UNION ALL SELECT * FROM _outbox_2;

CREATE TABLE parked_event (
    version     bigint PRIMARY KEY,
    batch       bigint NOT NULL,
    user_id     bigint NOT NULL,
    entity_id   bigint NOT NULL,
    created_at  timestamptz NOT NULL,
    written_at  timestamptz NOT NULL,
    set_mask    integer NOT NULL,
    clear_mask  integer NOT NULL,
    type_id     smallint NOT NULL,
    scope       "char" NOT NULL,
    delta_known boolean NOT NULL,
    error_code  integer NOT NULL,
    error       text NOT NULL,
    parked_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    redriven_at timestamptz
);

-- Rows of a captured table whose kind is not a reaction, one row per statement; the agent folds them.
CREATE TABLE _skipped (
    version    bigint PRIMARY KEY,
    type_id    smallint NOT NULL,
    kind       text NOT NULL,
    rows       bigint NOT NULL,
    skipped_at timestamptz NOT NULL
);

-- The mirror's progress: belongs to one cluster, so it is not dumped. -----------------------------------------------------------

-- One row, made by the agent at its first start.
CREATE TABLE _mirror (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    current_outbox smallint NOT NULL DEFAULT 0 CHECK (current_outbox BETWEEN 0 AND 2),
    floor          bigint NOT NULL DEFAULT 0,
    base_version   bigint NOT NULL DEFAULT 0,
    match_wanted   text,
    rotated_at     timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

CREATE TABLE _batch (
    batch         bigint PRIMARY KEY,
    snapshot      pg_snapshot NOT NULL,
    sequence_seen bigint NOT NULL,
    chunk_events  integer NOT NULL,
    events        bigint NOT NULL,
    checksum      bigint NOT NULL,
    formed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    confirmed_at  timestamptz,
    -- What ClickHouse confirmed: rows and checksum of each table. Null if the server made some of the rows itself.
    mirrored      bigint[],
    finished_at   timestamptz,
    lag_histogram integer[]
);

-- Backfills of attached tables; a restored dump begins them anew. ---------------------------------------------------------------

-- Names the readings of tables; 19 bits of a batch number in ClickHouse.
CREATE SEQUENCE _backfill_number AS integer MINVALUE 1 MAXVALUE 524287 CACHE 1;

-- One row for each time that a type's table was, or is, brought over; the one with the highest version counts.
CREATE TABLE _backfill (
    type_id        smallint NOT NULL,
    version        bigint NOT NULL,
    seal_version   bigint NOT NULL CHECK (seal_version < version),
    number         integer NOT NULL UNIQUE,
    relfilenode    oid NOT NULL,
    blocks         bigint NOT NULL,
    range_blocks   integer NOT NULL DEFAULT 1024 CHECK (range_blocks > 0),
    abandoned      bigint[] NOT NULL DEFAULT '{}',
    begun_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    requested_at   timestamptz,
    rows           bigint,
    skipped        bigint,
    read_at        timestamptz,
    complete_batch bigint,
    sealed_users   bigint,
    doubled        boolean NOT NULL DEFAULT false,
    sealed_at      timestamptz,
    error          text,
    PRIMARY KEY (type_id, version)
);

-- Ranges of a reading that were sent to ClickHouse, and those that it has confirmed.
CREATE TABLE _backfill_range (
    number       integer NOT NULL,
    range        integer NOT NULL,
    rows         bigint NOT NULL,
    skipped      bigint NOT NULL,
    confirmed_at timestamptz,
    PRIMARY KEY (number, range)
);
