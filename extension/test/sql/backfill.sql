-- What begins a backfill, and what its versions are worth.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CALL test.forget_events();
CREATE TABLE test.filled (u bigint, e bigint, k text, PRIMARY KEY (u, e, k));
CREATE TABLE test.unfilled (LIKE test.filled INCLUDING ALL);
INSERT INTO test.filled SELECT g, g, 'Like' FROM generate_series(1, 1000) g;
SELECT reactions.attach('test.filled', 'Filled', 'u', 'e', 'k'), reactions.attach('test.unfilled', 'Unfilled', 'u', 'e', 'k');
CREATE VIEW test.backfills AS
    SELECT t.entity_type, count(*) AS begun, max(cardinality(b.abandoned)) AS abandoned, bool_and(b.seal_version < b.version) AS ordered
    FROM reactions._backfill b JOIN reactions.entity_type t USING (type_id)
    WHERE t.entity_type IN ('Filled', 'Unfilled') GROUP BY 1 ORDER BY 1;

-- A table without rows has nothing to be brought over.
SELECT * FROM test.backfills;
SELECT entity_type, state, blocks = pg_relation_size('test.filled') / 8192, blocks_read, rows, error FROM reactions.backfill
WHERE entity_type IN ('Filled', 'Unfilled');
SELECT entity_type, backfilled FROM reactions.status() WHERE entity_type IN ('Filled', 'Unfilled') ORDER BY 1;

-- Everything that is captured since is newer than what will be read.
INSERT INTO test.filled VALUES (1, 2, 'Heart');
SELECT bool_and(o.version > b.version)
FROM reactions._outbox o JOIN reactions._backfill b USING (type_id) JOIN reactions.entity_type t USING (type_id)
WHERE t.entity_type = 'Filled';

-- TRUNCATE begins it anew, above its own event; a rolled back one does not.
BEGIN;
TRUNCATE test.filled;
ROLLBACK;
SELECT * FROM test.backfills;
TRUNCATE test.filled;
INSERT INTO test.filled VALUES (1, 1, 'Like');
SELECT * FROM test.backfills;
SELECT o.scope, o.version > b.version AS newer FROM reactions._outbox o, reactions._backfill b
WHERE b.version = (SELECT max(version) FROM reactions._backfill) AND o.type_id = b.type_id ORDER BY o.version DESC LIMIT 2;
UPDATE reactions.entity_type SET backfilled = true WHERE entity_type = 'Filled';
UPDATE reactions._backfill SET sealed_at = now();
TRUNCATE test.filled;
SELECT * FROM test.backfills;
SELECT t.backfilled, b.requested_at IS NOT NULL AS is_requested FROM reactions.entity_type t JOIN reactions._backfill b USING (type_id)
WHERE t.entity_type = 'Filled' ORDER BY b.version DESC LIMIT 1;

-- An operator begins it anew, also of a table that had no rows; writers meanwhile are waited for, not forever.
SELECT reactions.restart_backfill('Filled'), reactions.restart_backfill('Unfilled');
SELECT * FROM test.backfills;
SELECT entity_type, state FROM reactions.backfill WHERE entity_type IN ('Filled', 'Unfilled');
SELECT entity_type, backfilled FROM reactions.status() WHERE entity_type IN ('Filled', 'Unfilled') ORDER BY 1;
\set VERBOSITY sqlstate
SELECT reactions.restart_backfill('Nothing');
SELECT reactions.detach('Filled');
SELECT reactions.restart_backfill('Filled');
\set VERBOSITY default
SELECT state FROM reactions.backfill WHERE entity_type = 'Filled';

-- What vanishes while nobody captures has to be found, even if nothing is left.
SELECT reactions.attach('test.filled', 'Filled', 'u', 'e', 'k');
SELECT * FROM test.backfills;

-- Those before a sealed one are kept as long as their events may be sent again, by a batch that is kept or from among the parked.
SELECT reactions.restart_backfill('Filled');
UPDATE reactions._backfill SET sealed_at = clock_timestamp() WHERE version = (SELECT max(version) FROM reactions._backfill);
SELECT begun FROM test.backfills WHERE entity_type = 'Filled';
BEGIN;
INSERT INTO reactions._batch (batch, snapshot, sequence_seen, chunk_events, events, checksum, formed_at)
    VALUES (1, pg_current_snapshot(), 1, 1, 1, 1, clock_timestamp() - interval '1 minute');
SELECT reactions.restart_backfill('Filled');
SELECT begun FROM test.backfills WHERE entity_type = 'Filled';
ROLLBACK;
BEGIN;
INSERT INTO reactions.parked_event SELECT max(b.version) - 1, 1, 1, 1, now(), now(), 1, 0, t.type_id, 'r', false, 6, 'refused'
    FROM reactions._backfill b JOIN reactions.entity_type t USING (type_id) WHERE t.entity_type = 'Filled' GROUP BY t.type_id;
SELECT reactions.restart_backfill('Filled');
SELECT begun FROM test.backfills WHERE entity_type = 'Filled';
ROLLBACK;
INSERT INTO reactions._batch (batch, snapshot, sequence_seen, chunk_events, events, checksum) VALUES (1, pg_current_snapshot(), 1, 1, 1, 1);
SELECT reactions.restart_backfill('Filled');
SELECT begun, abandoned FROM test.backfills WHERE entity_type = 'Filled';
DELETE FROM reactions._batch;

-- An error is the doctor's business.
UPDATE reactions._backfill SET error = 'something is wrong' WHERE version = (SELECT max(version) FROM reactions._backfill);
SELECT "check", ok, detail FROM reactions.doctor() WHERE "check" LIKE 'backfill%';

SELECT reactions.detach('Filled'), reactions.detach('Unfilled');
DROP VIEW test.backfills;
DROP TABLE test.filled, test.unfilled;
