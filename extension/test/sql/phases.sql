-- Advancing and going back: readiness, force, the log.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CREATE TABLE test.moving (u bigint, e bigint, k text, PRIMARY KEY (u, e, k));
SELECT reactions.attach('test.moving', 'Moving', 'u', 'e', 'k');
SELECT condition, required, CASE condition WHEN 'lag' THEN '' ELSE actual END, ok FROM reactions.readiness('Moving');

-- Not ready: refused, nothing changed.
CALL reactions.advance('Moving');
SELECT phase FROM reactions.status() WHERE entity_type = 'Moving';

-- A match that left a difference, an old one, and one of another scope do not count.
INSERT INTO reactions.match_run (type_id, scope, finished_at, compared, differences, repaired)
SELECT type_id, 'full', clock_timestamp() - interval '2 days', 10, 0, 0 FROM reactions.entity_type WHERE entity_type = 'Moving';
SELECT ok FROM reactions.readiness('Moving') WHERE condition = 'match';
INSERT INTO reactions.match_run (type_id, scope, finished_at, compared, differences, repaired)
SELECT type_id, s, clock_timestamp(), 10, d, 1
FROM reactions.entity_type, (VALUES ('recent', 1), ('full', 2)) v (s, d) WHERE entity_type = 'Moving';
SELECT ok FROM reactions.readiness('Moving') WHERE condition = 'match';
UPDATE reactions.match_run SET repaired = differences WHERE scope = 'full';
SELECT ok FROM reactions.readiness('Moving') WHERE condition = 'match';

-- What is lost is seen: a disabled trigger, a table that became a parent, a backfill that is not complete.
ALTER TABLE test.moving DISABLE TRIGGER reactions_capture_3_delete;
CREATE TABLE test.moving_child () INHERITS (test.moving);
UPDATE reactions.entity_type SET backfilled = false WHERE entity_type = 'Moving';
SELECT condition, actual FROM reactions.readiness('Moving') WHERE NOT ok ORDER BY 1;
ALTER TABLE test.moving ENABLE ALWAYS TRIGGER reactions_capture_3_delete;
DROP TABLE test.moving_child;
UPDATE reactions.entity_type SET backfilled = true WHERE entity_type = 'Moving';

-- By force, which is logged with what was missing.
CALL reactions.advance('Moving', force => true);
SELECT phase FROM reactions.status() WHERE entity_type = 'Moving';
CALL reactions.advance('Moving', true);
SELECT from_phase, to_phase, forced, (SELECT string_agg(r ->> 'condition', ' ') FROM jsonb_array_elements(readiness) r WHERE NOT (r ->> 'ok')::boolean)
FROM reactions.phase_log WHERE entity_type = 'Moving' ORDER BY phase_log_id;

-- And back.
CALL reactions.rollback('Moving');
CALL reactions.rollback('Moving');
CALL reactions.rollback('Moving');
SELECT from_phase, to_phase, forced FROM reactions.phase_log WHERE entity_type = 'Moving' ORDER BY phase_log_id DESC LIMIT 3;
SELECT phase FROM reactions.status() WHERE entity_type = 'Moving';

-- What has no phases, or does not exist; and within a transaction.
SELECT reactions.add_entity_type('Still');
SELECT count(*) FROM reactions.readiness('Still');
CALL reactions.advance('Still');
CALL reactions.rollback('Still');
CALL reactions.advance('None');
CALL reactions.rollback('None');
SELECT * FROM reactions.readiness('None');
BEGIN;
CALL reactions.advance('Moving', true);
ROLLBACK;
SELECT phase FROM reactions.status() WHERE entity_type = 'Moving';

-- Reads and writes go on in every phase that there is so far.
CREATE FUNCTION test.phase_of(name text) RETURNS text LANGUAGE sql RETURN (SELECT phase FROM reactions.status() WHERE entity_type = name);
INSERT INTO test.moving VALUES (1, 1, 'Like');
SELECT test.phase_of('Moving'), reactions.flags(1, 1, 'Moving');
CALL reactions.advance('Moving', true);
SELECT reactions.react(1, 2, 'Heart', 'Moving');
SELECT test.phase_of('Moving'), reactions.flags(1, 2, 'Moving');
SELECT reactions.detach('Moving');
CALL reactions.advance('Moving', true);
DROP TABLE test.moving;
