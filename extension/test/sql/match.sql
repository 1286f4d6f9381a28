-- What reactiond match calls: the event of a repair, and its refusals.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CREATE TABLE test.matched (u int, e bigint, k text, "made at" timestamp, PRIMARY KEY (u, e, k));
SELECT reactions.attach('test.matched', 'Matched', 'u', 'e', 'k', 'made at', kind_map => '{"heart": "Heart", "Heart": null, "bad": null}');
INSERT INTO test.matched VALUES (1, 1, 'Like', '2020-01-02'), (1, 1, 'heart', '2020-01-01'), (1, 2, 'bad', '2020-01-03'), (3, 3, 'Cry', NULL);
INSERT INTO reactions.match_run (type_id, scope, finished_at, differences)
SELECT type_id, 'full', clock_timestamp(), 5 FROM reactions.entity_type WHERE entity_type = 'Matched';
INSERT INTO reactions.difference (match_run_id, user_id, entity_id, in_table, in_clickhouse, class)
SELECT max(match_run_id), 1, 1, 3, 0, 'missing' FROM reactions.match_run;
CREATE VIEW test.repairs AS
    SELECT user_id, entity_id, set_mask, clear_mask, scope, delta_known, created_at < '2021-01-01' AS is_old,
        version > max(version) FILTER (WHERE delta_known) OVER () AS is_newest
    FROM reactions._outbox WHERE type_id = (SELECT type_id FROM reactions.entity_type WHERE entity_type = 'Matched');

-- The flags of the table are set and all others cleared: of the mapped kinds, of those that are skipped (none), of what is not there.
SELECT reactions._repair('Matched', '{1,1,2,3}', '{1,2,2,3}', (SELECT max(match_run_id) FROM reactions.match_run));
SELECT * FROM test.repairs WHERE NOT delta_known ORDER BY 1, 2;
SELECT entity_type, user_id, entity_id, in_table, in_clickhouse, class, repaired_at IS NOT NULL FROM reactions.differences;
SELECT differences, repaired FROM reactions.match_run ORDER BY match_run_id DESC LIMIT 1;

-- Only while the table is the truth, and only where it is seen as it is.
SELECT reactions.add_entity_type('Unmatched');
SELECT reactions._repair('Unmatched', '{1}', '{1}', 1);
SELECT reactions._repair('Nothing', '{1}', '{1}', 1);
UPDATE reactions.entity_type SET phase = 'stop_writes', stop_version = 1 WHERE entity_type = 'Matched';
SELECT reactions._repair('Matched', '{1}', '{1}', 1);
UPDATE reactions.entity_type SET phase = 'attached', stop_version = NULL WHERE entity_type = 'Matched';
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT reactions._repair('Matched', '{1}', '{1}', 1);
ROLLBACK;
SELECT count(*) FROM test.repairs WHERE NOT delta_known;

-- A match from before the backfill was sealed says nothing.
UPDATE reactions.match_run SET repaired = differences;
SELECT ok FROM reactions.readiness('Matched') WHERE condition = 'match';
INSERT INTO reactions._backfill (type_id, version, seal_version, number, relfilenode, blocks, sealed_at)
SELECT type_id, 2, 1, nextval('reactions._backfill_number'), 1, 0, clock_timestamp() FROM reactions.entity_type WHERE entity_type = 'Matched';
SELECT actual, ok FROM reactions.readiness('Matched') WHERE condition = 'match';

DELETE FROM reactions._backfill WHERE version = 2;
-- Nor does one from before something that asks for another.
INSERT INTO reactions._mirror (match_wanted) VALUES ('a test') ON CONFLICT (only_row) DO UPDATE SET match_wanted = 'a test';
SELECT actual, ok FROM reactions.readiness('Matched') WHERE condition = 'match';

-- Capture is as attach has made it; what is altered is noticed once, and orders a match.
UPDATE reactions._mirror SET match_wanted = NULL;
SELECT * FROM reactions._watch_capture() WHERE entity_type = 'Matched';
BEGIN;
ALTER TABLE test.matched DISABLE TRIGGER reactions_capture_3_delete;
ALTER TABLE test.matched ENABLE ALWAYS TRIGGER reactions_capture_3_delete;
COMMIT;
SELECT * FROM reactions._watch_capture() WHERE entity_type = 'Matched';
SELECT * FROM reactions._watch_capture() WHERE entity_type = 'Matched';
SELECT match_wanted LIKE '%capture of Matched at %: capture triggers were altered%' FROM reactions._mirror;
SELECT capture_problem, is_capture_in_doubt FROM reactions.match_status WHERE entity_type = 'Matched';
DROP TRIGGER reactions_capture_3_delete ON test.matched;
ALTER TABLE test.matched DROP CONSTRAINT matched_pkey;
SELECT * FROM reactions._watch_capture() WHERE entity_type = 'Matched';
SELECT "check", ok FROM reactions.doctor() WHERE "check" LIKE '%Matched' ORDER BY 1;
DELETE FROM reactions._mirror;
DELETE FROM reactions.difference;
DELETE FROM reactions.match_run;
SELECT reactions.detach('Matched');
DROP VIEW test.repairs;
DROP TABLE test.matched;
