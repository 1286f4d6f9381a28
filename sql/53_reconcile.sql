-- Looking through what is in Redis. docs/internals.md, "Reconciliation", has the rules. ---------------------------------------------

-- Written by reactiond reconcile. A run that did not end, by an error or because its process died, has no finished_at.
CREATE TABLE reconcile_run (
    reconcile_run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity_types     text[] NOT NULL,
    -- Nothing was to be changed; the sums in ClickHouse were compared with its events.
    is_dry           boolean NOT NULL,
    is_deep          boolean NOT NULL,
    started_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When keys were last looked at, by this run.
    looked_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at      timestamptz,
    -- Keys of Redis: about so many there are, so many were looked at; entities whose counts were compared with ClickHouse.
    expected         bigint NOT NULL DEFAULT 0 CHECK (expected >= 0),
    scanned          bigint NOT NULL DEFAULT 0 CHECK (scanned >= 0),
    verified         bigint NOT NULL DEFAULT 0 CHECK (verified >= 0),
    found            bigint NOT NULL DEFAULT 0 CHECK (found >= 0),
    repaired         bigint NOT NULL DEFAULT 0 CHECK (repaired BETWEEN 0 AND found),
    -- Entities whose time to live was refreshed.
    kept             bigint NOT NULL DEFAULT 0 CHECK (kept >= 0),
    error            text
);
COMMENT ON TABLE reconcile_run IS 'looks through what is in Redis';
COMMENT ON SEQUENCE reconcile_run_reconcile_run_id_seq IS 'numbers of reconcile_run';

CREATE TABLE reconcile_class (
    reconcile_run_id bigint NOT NULL REFERENCES reconcile_run ON DELETE CASCADE,
    -- Empty for what belongs to no type.
    entity_type      text NOT NULL,
    class            text NOT NULL,
    is_fault         boolean NOT NULL,
    found            bigint NOT NULL CHECK (found >= 0),
    repaired         bigint NOT NULL DEFAULT 0 CHECK (repaired BETWEEN 0 AND found),
    PRIMARY KEY (reconcile_run_id, entity_type, class)
);
COMMENT ON TABLE reconcile_class IS
    'what was found in Redis, counted; class: regular and viral (entities that are right), stale (absent for everybody), user_map, other (watermarks and the like), unknown (not made by this database), unverified (entities that could not be compared with ClickHouse), and the classes of reconcile_finding';

CREATE TABLE reconcile_shard (
    reconcile_run_id bigint NOT NULL REFERENCES reconcile_run ON DELETE CASCADE,
    entity_type      text NOT NULL,
    shard            integer NOT NULL CHECK (shard >= 0),
    regular_entities bigint NOT NULL CHECK (regular_entities >= 0),
    viral_entities   bigint NOT NULL CHECK (viral_entities >= 0),
    -- Memory of Redis by MEMORY USAGE, of all keys of entities, also of those that are stale or wrong; null if Redis does not tell.
    entity_bytes     bigint CHECK (entity_bytes >= 0),
    -- Of users, by the shard of their id.
    user_maps        bigint NOT NULL CHECK (user_maps >= 0),
    user_map_bytes   bigint CHECK (user_map_bytes >= 0),
    PRIMARY KEY (reconcile_run_id, entity_type, shard)
);
COMMENT ON TABLE reconcile_shard IS 'what a type had in Redis when it was looked through: a row for each of its shards';

CREATE TABLE reconcile_finding (
    reconcile_run_id bigint NOT NULL REFERENCES reconcile_run ON DELETE CASCADE,
    redis_key        text NOT NULL,
    entity_type      text NOT NULL,
    entity_id        bigint,
    class            text NOT NULL CHECK (class IN ('wrong_type', 'no_counts', 'missing_part', 'wrong_nonce', 'leftover',
        'shrunk_sample', 'drift', 'wrong_deltas', 'orphan')),
    detail           text NOT NULL,
    is_repaired      boolean NOT NULL,
    PRIMARY KEY (reconcile_run_id, redis_key, class)
);
COMMENT ON TABLE reconcile_finding IS
    'keys of Redis with which something was wrong, the first 1,000 of each class and run; reconcile_class counts them all. class: wrong_type (somebody else has written it), no_counts (a list without counts), missing_part (counts without their list or sample), wrong_nonce (a list of another life), leftover (of the other tier), shrunk_sample (too few in it), drift (counts, or who has reacted, that ClickHouse does not confirm), wrong_deltas (sums in ClickHouse that its events do not confirm), orphan (of a type or shard that does not exist)';

CREATE VIEW reconcile_status AS
    SELECT r.reconcile_run_id, r.started_at, r.finished_at, r.finished_at - r.started_at AS duration, r.is_dry, r.is_deep, r.entity_types,
        r.scanned, r.verified, r.found, r.repaired, r.found - r.repaired AS remaining, r.kept,
        (SELECT coalesce(jsonb_object_agg(s.class, s.remaining), '{}') FROM (
            SELECT c.class, sum(c.found - c.repaired) AS remaining FROM reconcile_class c
            WHERE c.reconcile_run_id = r.reconcile_run_id AND c.is_fault AND c.found > c.repaired GROUP BY c.class) s) AS classes
    FROM reconcile_run r
    WHERE r.finished_at IS NOT NULL ORDER BY r.reconcile_run_id DESC LIMIT 1;
COMMENT ON VIEW reconcile_status IS 'what the last reconciliation that ended has found and left';

CREATE VIEW redis_shards AS
    SELECT t.entity_type, s.shard, s.regular_entities, s.viral_entities, s.entity_bytes, s.user_maps, s.user_map_bytes, last.finished_at
    FROM reactions.entity_type t
    CROSS JOIN LATERAL (
        SELECT r.reconcile_run_id, r.finished_at FROM reactions.reconcile_run r
        WHERE r.finished_at IS NOT NULL AND t.entity_type = ANY (r.entity_types) ORDER BY r.reconcile_run_id DESC LIMIT 1) last
    JOIN reactions.reconcile_shard s ON s.reconcile_run_id = last.reconcile_run_id AND s.entity_type = t.entity_type;
COMMENT ON VIEW redis_shards IS
    'entities by tier, and memory in Redis, of each shard of each type, as the last reconciliation of the type that ended has found them';
