-- Reading from an attached table.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CREATE TABLE test.image_reaction (user_id bigint, image_id bigint, kind text, PRIMARY KEY (user_id, image_id, kind));
SELECT reactions.attach('test.image_reaction', 'Read', 'user_id', 'image_id', 'kind', unknown_kinds => 'skip');
INSERT INTO test.image_reaction
SELECT u, i, k FROM generate_series(1, 3) u, generate_series(1, 30) i, (VALUES (1, 'Like'), (2, 'Heart'), (3, 'Laugh'), (5, 'Dislike')) v (n, k)
WHERE i % n = 0 AND i % (u + 1) = 0;

-- One, many, pages.
SELECT reactions.flags(1, 2, 'Read'), reactions.flags(1, 6, 'Read'), reactions.flags(1, 1, 'Read'), reactions.flags(4, 2, 'Read');
SELECT * FROM reactions.flags_many(1, '{6,2,1,6,2}', 'Read');
SELECT * FROM reactions.by_user(3, entity_type => 'Read');
SELECT * FROM reactions.by_user(1, 'Laugh', 2, entity_type => 'Read');
SELECT * FROM reactions.by_user(1, 'Laugh', 2, 12, 'Read');
SELECT * FROM reactions.by_user(1, 'Laugh', 2, 24, 'Read');
SELECT * FROM reactions.by_user(1, 'Laugh', 2, 30, 'Read');
SELECT count(*) FROM reactions.by_user(1, 'Cry', 100000, entity_type => 'Read');
SELECT reactions.kinds(7, 'Read'), reactions.kinds(0, 'Read'), reactions.has(6, 'Heart', 'Read'), reactions.has(6, 'Like', 'Read');

-- Nulls.
SELECT reactions.flags(NULL, 2, 'Read') IS NULL, reactions.flags(1, NULL, 'Read') IS NULL, reactions.flags(1, 2, NULL) IS NULL,
    reactions.kinds(NULL, 'Read') IS NULL, reactions.has(1, NULL, 'Read') IS NULL;
SELECT count(*) FROM reactions.flags_many(1, NULL, 'Read');
SELECT count(*) FROM reactions.flags_many(NULL, '{1}', 'Read');
SELECT * FROM reactions.by_user(NULL, entity_type => 'Read');
SELECT count(*) FROM reactions.by_user(1, NULL, 5, NULL, 'Read');

-- Arrays of every shape.
SELECT count(*) FROM reactions.flags_many(1, '{}', 'Read');
SELECT * FROM reactions.flags_many(1, '[5:6]={2,3}', 'Read');
SELECT count(*), sum(flags) FROM reactions.flags_many(1, ARRAY(SELECT n FROM generate_series(1, 100000) n), 'Read');
SELECT count(*) FROM reactions.flags_many(1, ARRAY(SELECT n FROM generate_series(1, 100001) n), 'Read');
SELECT count(*) FROM reactions.flags_many(1, ARRAY(SELECT n FROM generate_series(1, 1000000) n), 'Read');
SELECT count(*) FROM reactions.flags_many(1, '{1,NULL,2}', 'Read');
SELECT count(*) FROM reactions.flags_many(1, '{{1,2},{3,4}}', 'Read');
SELECT * FROM reactions.flags_many(1, '{0,-9223372036854775808,9223372036854775807}', 'Read');

-- Bad arguments.
SELECT * FROM reactions.by_user(1, page_size => 0, entity_type => 'Read');
SELECT * FROM reactions.by_user(1, page_size => 100001, entity_type => 'Read');
SELECT * FROM reactions.by_user(1, 'Dislike', entity_type => 'Read');
SELECT reactions.flags(1, 1, 'Unread');
SELECT reactions.kinds(16, 'Read');
SELECT reactions.has(-1, 'Like', 'Read');
SELECT reactions.has(1, 'Dislike', 'Read');

-- For every row of a statement: one or two questions per user, whatever the number of rows.
SELECT value AS before FROM reactions.stats WHERE name = 'table_reads' \gset
SELECT count(*), sum(reactions.flags(1, i, 'Read')) FROM generate_series(1, 1000) i;
SELECT value - :before FROM reactions.stats WHERE name = 'table_reads';
SELECT u, sum(reactions.flags(u, i, 'Read')) FROM (SELECT u, i FROM generate_series(1, 3) u, generate_series(1, 100) i ORDER BY u, i) t GROUP BY u ORDER BY u;
SELECT value - :before FROM reactions.stats WHERE name = 'table_reads';
SELECT reactions.kinds(reactions.flags(1, i, 'Read'), 'Read') FROM generate_series(29, 31) i;

-- A user with more than a map holds is asked about entity by entity.
UPDATE reactions.entity_type SET user_map_limit = 3 WHERE entity_type = 'Read';
SELECT sum(reactions.flags(1, i, 'Read')) = (SELECT sum(flags) FROM reactions.by_user(1, entity_type => 'Read')) FROM generate_series(1, 30) i;
UPDATE reactions.entity_type SET user_map_limit = 5000 WHERE entity_type = 'Read';

-- Own uncommitted changes are seen, by the next command.
BEGIN;
SELECT reactions.react(7, 1, 'Like', 'Read'), reactions.flags(7, 1, 'Read');
SELECT reactions.flags(7, 1, 'Read');
INSERT INTO test.image_reaction VALUES (7, 1, 'Cry');
SELECT reactions.flags(7, 1, 'Read'), (SELECT count(*) FROM reactions.by_user(7, entity_type => 'Read'));
SAVEPOINT a;
DELETE FROM test.image_reaction WHERE user_id = 7;
SELECT reactions.flags(7, 1, 'Read');
ROLLBACK TO a;
SELECT reactions.flags(7, 1, 'Read');
ROLLBACK;
SELECT reactions.flags(7, 1, 'Read');

-- In a function, where one call site serves many statements; a function that changes and reads in turn.
CREATE FUNCTION test.by_turns() RETURNS SETOF integer LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..3 LOOP
        PERFORM reactions.set_flags(8, 1, n, 'Read');
        RETURN NEXT reactions.flags(8, 1, 'Read');
        RETURN NEXT reactions.flags(8, 2, 'Read');
    END LOOP;
END
$$;
SELECT * FROM test.by_turns();

-- Through a cursor that was opened before a change.
BEGIN;
DECLARE c CURSOR FOR SELECT i, reactions.flags(8, i, 'Read') FROM generate_series(1, 4) i;
FETCH 1 FROM c;
SELECT reactions.set_flags(8, 4, 8, 'Read');
FETCH ALL FROM c;
ROLLBACK;

-- Read-only, prepared, repeatable read.
BEGIN READ ONLY;
SELECT reactions.flags(1, 6, 'Read');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT reactions.flags(1, 6, 'Read');
COMMIT;
PREPARE p AS SELECT sum(flags) FROM reactions.flags_many($1, $2, 'Read');
EXECUTE p(1, '{2,4,6}');
EXECUTE p(2, '{2,4,6}');
DEALLOCATE p;

-- In parallel plans: the functions stay in the leader.
CREATE TABLE test.image AS SELECT i FROM generate_series(1, 1000) i;
ANALYZE test.image;
SET force_parallel_mode = on;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT sum(reactions.flags(1, i, 'Read')) FROM test.image;
SELECT sum(reactions.flags(1, i, 'Read')) FROM test.image;
SELECT count(*) FROM test.image WHERE reactions.flags(1, i, 'Read') > 0;
SELECT count(*) FROM test.image JOIN reactions.flags_many(1, ARRAY(SELECT n FROM generate_series(1, 30) n), 'Read') ON entity_id = i;
SELECT count(*) FROM test.image JOIN reactions.by_user(1, entity_type => 'Read') ON entity_id = i;
SELECT reactions.kinds(7, 'Read'), reactions.has(7, 'Cry', 'Read');
-- The catalog is read once for a query, and not for each of its rows, and anew for the next one.
SELECT reactions.raise_epoch('Read') > 0;
BEGIN;
SELECT sum(reactions.flags(1, i, 'Read')) FROM test.image;
SELECT count(*) <= 3 FROM pg_backend_memory_contexts WHERE name = 'pg_reactions catalog';
SELECT reactions.add_kind('Read', 'Late');
SELECT count(*) FROM test.image WHERE reactions.has(16, 'Late', 'Read');
ROLLBACK;
RESET ALL;

-- Types that are changed are noticed at once.
SELECT reactions.add_kind('Read', 'Dislike');
SELECT reactions.flags(1, 10, 'Read'), reactions.kinds(16, 'Read');

SELECT reactions.detach('Read');
DROP TABLE test.image_reaction, test.image;
