-- What monitoring asks: counters with their rates, gauges, and what each shard of Redis holds.
\pset format unaligned
\pset tuples_only on
SELECT string_agg(name, ' ') FROM reactions.stats WHERE kind = 'counter';
SELECT string_agg(name, ' ') FROM reactions.stats WHERE kind = 'gauge';
-- Of this session alone, since the library is not preloaded, and no rate before there was time.
SELECT bool_or(shared), bool_and(since BETWEEN (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()) AND clock_timestamp()),
    count(DISTINCT since), bool_and(per_second >= 0), bool_and(value >= 0)
FROM reactions.stats WHERE kind = 'counter' AND name <> 'skipped_rows';

-- A read that is the table's is no fallback, and none of a tier.
CREATE TABLE test.counted (u bigint, e bigint, k text, PRIMARY KEY (u, e, k));
SELECT reactions.attach('test.counted', 'Counted', 'u', 'e', 'k');
INSERT INTO test.counted SELECT u, 1, 'Like' FROM generate_series(1, 3) u;
SELECT set_config('test.' || name, value::text, false) IS NULL FROM reactions.stats WHERE kind = 'counter' AND name IN ('reads', 'table_reads');
SELECT count FROM reactions.counts('{1}', 'Counted') WHERE kind = 'Like';
SELECT count(*) FROM reactions.reactors(1, entity_type => 'Counted');
SELECT reactions.flags(1, 1, 'Counted'), (SELECT count(*) FROM reactions.by_user(1, entity_type => 'Counted'));
SELECT name, value - coalesce(current_setting('test.' || name, true), '0')::numeric FROM reactions.stats
WHERE name IN ('reads', 'table_reads') OR name LIKE '%fallback%' OR name LIKE '%entity%hits' OR name LIKE '%entity_misses' ORDER BY name;
SELECT per_second > 0 FROM reactions.stats WHERE name = 'reads';

-- What is not known yet is null, not 0.
SELECT name, value, since FROM reactions.stats
WHERE name IN ('regular_entities', 'viral_entities', 'regular_per_viral_entity', 'entity_bytes', 'user_map_bytes', 'reconcile_seconds') ORDER BY name;
SELECT name, value FROM reactions.stats WHERE name IN ('reconciled_last_day', 'batches_behind', 'batches_unconfirmed') ORDER BY name;
SELECT value > 0 FROM reactions.stats WHERE name = 'oldest_event_seconds';

-- Each type as the last run that ended has found it: an older one of both, a newer one of one, and one that did not end.
SELECT reactions.add_entity_type('Watched');
INSERT INTO reactions.reconcile_run (entity_types, is_dry, is_deep, started_at, finished_at) VALUES
    ('{Counted,Watched}', false, false, now() - interval '2 days 2 s', now() - interval '2 days'),
    ('{Watched}', true, false, now() - interval '1 hour', now() - interval '1 hour' + interval '1.5 s'),
    ('{Counted,Watched}', false, false, now(), NULL);
INSERT INTO reactions.reconcile_shard
SELECT r.run, v.of_type, v.shard, v.regular, v.viral, v.bytes, v.maps, v.map_bytes
FROM (SELECT reconcile_run_id AS run, row_number() OVER (ORDER BY reconcile_run_id) AS n FROM reactions.reconcile_run) r
JOIN (VALUES (1, 'Counted', 0, 30, 2, 1000, 5, 70), (1, 'Counted', 1, 10, 1, 500, 0, 0), (1, 'Watched', 0, 999, 999, 999, 999, 999),
    (2, 'Watched', 0, 5, 0, 40, 1, 9), (2, 'Watched', 1, 0, 0, 0, 0, 0), (3, 'Watched', 0, 777, 7, 7, 7, 7))
    v (n, of_type, shard, regular, viral, bytes, maps, map_bytes) ON v.n = r.n;
SELECT s.entity_type, s.shard, s.regular_entities, s.viral_entities, s.entity_bytes, s.user_maps, s.user_map_bytes,
    (SELECT count(*) FROM reactions.reconcile_run r WHERE r.finished_at <= s.finished_at) AS run
FROM reactions.redis_shards s ORDER BY 1, 2;
SELECT name, value, (SELECT count(*) FROM reactions.reconcile_run r WHERE r.finished_at <= since) AS run FROM reactions.stats
WHERE name IN ('regular_entities', 'viral_entities', 'regular_per_viral_entity', 'entity_bytes', 'user_map_bytes', 'reconcile_seconds',
    'reconciled_last_day') ORDER BY name;
-- A memory that Redis does not tell is not left out of a sum.
UPDATE reactions.reconcile_shard SET entity_bytes = NULL WHERE entity_type = 'Counted' AND shard = 1;
SELECT name, value FROM reactions.stats WHERE name IN ('entity_bytes', 'user_map_bytes') ORDER BY name;

-- Batches that are behind: one not in ClickHouse, one that Redis was not offered, one that is finished.
INSERT INTO reactions._batch (batch, snapshot, sequence_seen, chunk_events, events, checksum, confirmed_at, finished_at) VALUES
    (1, pg_current_snapshot(), 1, 1, 1, 1, now(), now()), (2, '1:1:', 1, 1, 1, 1, now(), NULL), (3, '1:1:', 1, 1, 1, 1, NULL, NULL);
SELECT name, value FROM reactions.stats WHERE name IN ('batches_behind', 'batches_unconfirmed') ORDER BY name;
SELECT batches_behind, batches_unconfirmed FROM reactions.mirror_status;
SELECT value = 0 FROM reactions.stats WHERE name = 'oldest_event_seconds';
DELETE FROM test.counted;
SELECT value > 0 FROM reactions.stats WHERE name = 'oldest_event_seconds';
DELETE FROM reactions._batch;
DELETE FROM reactions.reconcile_run;
