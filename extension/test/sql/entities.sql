-- An entity's side, read from an attached table: counts, and pages of who has reacted.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CREATE TYPE test.seen_kind AS ENUM ('Thumb', 'Heart', 'Laugh', 'Dislike');
CREATE TABLE test.seen_reaction (
    user_id integer NOT NULL, image_id integer NOT NULL, kind test.seen_kind NOT NULL, at timestamp,
    PRIMARY KEY (image_id, user_id, kind));
CREATE INDEX ON test.seen_reaction (user_id);
SELECT reactions.attach('test.seen_reaction', 'Seen', 'user_id', 'image_id', 'kind', 'at',
    kind_map => '{"Thumb": "Like"}', unknown_kinds => 'skip');
INSERT INTO test.seen_reaction
SELECT u, i, k::test.seen_kind, timestamp '2026-01-01' + make_interval(mins => u % 3, secs => n)
FROM generate_series(1, 20) u, generate_series(1, 3) i, (VALUES (1, 'Thumb'), (2, 'Heart'), (4, 'Laugh'), (1, 'Dislike')) v (n, k)
WHERE u % (n * i) = 0;
INSERT INTO test.seen_reaction VALUES (99, 1, 'Dislike', '2030-01-01'), (50, 9, 'Thumb', NULL), (51, 9, 'Heart', 'infinity');

-- One row for each id and kind, in the order of the ids; the first occurrence of an id counts.
SELECT * FROM reactions.counts('{2,1,7,2}', 'Seen');
SELECT e, reactions.total(e, 'Seen'), reactions.unique_reactors(e, 'Seen'), reactions.is_viral(e, 'Seen') FROM generate_series(1, 4) e;
SELECT count(*), sum(count) FROM reactions.counts(ARRAY(SELECT n FROM generate_series(1, 100000) n), 'Seen');
SELECT count(*) FROM reactions.counts('{}', 'Seen');
SELECT * FROM reactions.counts('{-9223372036854775808,9223372036854775807}', 'Seen') WHERE kind = 'Like';
SELECT count(*) FROM reactions.counts('{1,NULL}', 'Seen');
SELECT count(*) FROM reactions.counts('{{1},{2}}', 'Seen');
SELECT count(*) FROM reactions.counts(ARRAY(SELECT n FROM generate_series(1, 100001) n), 'Seen');
SELECT count(*) FROM reactions.counts('{1}', 'Unseen');
UPDATE reactions.entity_type SET viral_threshold = 35, regular_threshold = 30 WHERE entity_type = 'Seen';
SELECT reactions.is_viral(1, 'Seen'), reactions.is_viral(2, 'Seen');

-- Who, newest first; pages end where the last row's cursor says.
CREATE FUNCTION test.pages(of_entity bigint, of_kind text, size integer) RETURNS TABLE (page integer, users text)
    LANGUAGE plpgsql AS $$
DECLARE
    after text;
    seen integer;
BEGIN
    page := 0;
    LOOP
        SELECT string_agg(user_id || '=' || flags, ' '), count(*), (array_agg(next_cursor))[count(*)] INTO users, seen, after
            FROM reactions.reactors(of_entity, of_kind, size, after, 'Seen');
        EXIT WHEN seen = 0;
        page := page + 1;
        RETURN NEXT;
        EXIT WHEN seen < size;
    END LOOP;
END
$$;
SELECT user_id, flags, reacted_at AT TIME ZONE 'UTC' FROM reactions.reactors(3, entity_type => 'Seen');
SELECT * FROM test.pages(3, NULL, 1);
SELECT * FROM test.pages(3, NULL, 4);
SELECT * FROM test.pages(3, 'Heart', 2);
SELECT * FROM test.pages(3, 'Cry', 2);
SELECT user_id, flags, reacted_at FROM reactions.reactors(9, entity_type => 'Seen');
SELECT * FROM test.pages(9, NULL, 1);
SELECT count(*), count(DISTINCT user_id), sum((flags & 1) + (flags & 2) / 2 + (flags & 4) / 4) = reactions.total(1, 'Seen')
FROM reactions.reactors(1, page_size => 10000, entity_type => 'Seen');

-- Pages while rows come and go: who was there all the time comes once.
SELECT next_cursor AS cursor FROM reactions.reactors(1, page_size => 7, entity_type => 'Seen') OFFSET 6 \gset
INSERT INTO test.seen_reaction VALUES (60, 1, 'Heart', '2026-02-01'), (61, 1, 'Heart', '2025-01-01');
DELETE FROM test.seen_reaction WHERE image_id = 1 AND user_id IN (20, 18);
SELECT string_agg(user_id::text, ' ') FROM reactions.reactors(1, page_size => 100, cursor => :'cursor', entity_type => 'Seen');

-- Arguments that are none.
SELECT * FROM reactions.reactors(1, page_size => 0, entity_type => 'Seen');
SELECT * FROM reactions.reactors(1, page_size => -1, entity_type => 'Seen');
SELECT * FROM reactions.reactors(1, page_size => 1000000, entity_type => 'Seen');
SELECT * FROM reactions.reactors(NULL, entity_type => 'Seen');
SELECT * FROM reactions.reactors(1, 'Dislike', entity_type => 'Seen');
SELECT reactions.total(NULL, 'Seen') IS NULL, reactions.unique_reactors(NULL) IS NULL;

-- A cursor belongs to a type, an entity and a kind, and is not to be changed.
CREATE TABLE test.other_reaction (u bigint, e bigint, k text, PRIMARY KEY (u, e, k));
SELECT reactions.attach('test.other_reaction', 'Other', 'u', 'e', 'k');
\set VERBOSITY sqlstate
SELECT * FROM reactions.reactors(1, cursor => :'cursor', entity_type => 'Other');
SELECT * FROM reactions.reactors(2, cursor => :'cursor', entity_type => 'Seen');
SELECT * FROM reactions.reactors(1, 'Heart', cursor => :'cursor', entity_type => 'Seen');
SELECT * FROM reactions.reactors(1, cursor => '', entity_type => 'Seen');
SELECT * FROM reactions.reactors(1, cursor => 'of no form', entity_type => 'Seen');
SELECT * FROM reactions.reactors(1, cursor => upper(:'cursor'), entity_type => 'Seen');
SELECT * FROM reactions.reactors(1, cursor => :'cursor' || '00', entity_type => 'Seen');
\set VERBOSITY default
SELECT * FROM reactions.reactors(1, cursor => overlay(:'cursor' PLACING 'ffff' FROM 7), entity_type => 'Seen');
CREATE FUNCTION test.refused(cursor text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM reactions.reactors(1, NULL, 5, cursor, 'Seen');
    RETURN false;
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN true;
END
$$;
SELECT bool_and(test.refused(overlay(:'cursor' PLACING translate(substr(:'cursor', n, 1), '0123456789abcdef', '123456789abcdef0') FROM n)))
FROM generate_series(1, length(:'cursor')) n;

-- Own uncommitted changes count where the table is read.
BEGIN;
SELECT reactions.react(70, 2, 'Heart', 'Seen');
SELECT count FROM reactions.counts('{2}', 'Seen') WHERE kind = 'Heart';
SELECT user_id, flags FROM reactions.reactors(2, entity_type => 'Seen') WHERE user_id = 70;
ROLLBACK;

-- A table without a column of times: by user.
INSERT INTO test.other_reaction VALUES (1, 1, 'Like'), (3, 1, 'Like'), (3, 1, 'Cry'), (-2, 1, 'Heart');
SELECT user_id, flags, reacted_at IS NULL FROM reactions.reactors(1, entity_type => 'Other');

-- What only ClickHouse knows it has to have.
SELECT reactions.add_entity_type('Kept');
SELECT reactions.ever_reacted(1, 'Kept');
UPDATE reactions.entity_type SET backfilled = false WHERE entity_type = 'Seen';
SELECT reactions.ever_reacted(1, 'Seen');

-- Redis is not configured, or not there.
\set VERBOSITY sqlstate
SELECT * FROM reactions.counts('{1}', 'Kept');
SELECT reactions.total(1, 'Kept');
SELECT * FROM reactions.entity_status(1, 'Kept');
SET reactions.redis_url = 'unix:///no/such/socket?db=0';
SELECT * FROM reactions.counts('{1}', 'Kept');
SELECT reactions.unique_reactors(1, 'Kept');
SELECT * FROM reactions.reactors(1, entity_type => 'Kept');
SET reactions.on_unavailable = 'null';
SELECT * FROM reactions.counts('{1,2}', 'Kept') WHERE kind < 'I';
SELECT reactions.total(1, 'Kept') IS NULL, reactions.unique_reactors(1, 'Kept') IS NULL, reactions.is_viral(1, 'Kept') IS NULL;
SELECT * FROM reactions.reactors(1, entity_type => 'Kept');
SELECT * FROM reactions.entity_status(1, 'Kept');
RESET ALL;

-- An order ends with its phase.
UPDATE reactions.entity_type SET backfilled = true WHERE entity_type = 'Seen';
CALL reactions.advance('Seen', force => true);
CALL reactions.advance('Seen', force => true);
\set VERBOSITY default
SELECT count(*) FROM reactions.reactors(1, page_size => 3, cursor => :'cursor', entity_type => 'Seen');
SET client_min_messages = warning;
CALL reactions.advance('Seen', force => true);
RESET client_min_messages;
SELECT count(*) FROM reactions.reactors(1, page_size => 3, cursor => :'cursor', entity_type => 'Seen');

-- Names that are no kinds.
SELECT reactions.add_kind('Kept', 'total');
SELECT reactions.add_kind('Kept', 'users');
INSERT INTO reactions.kind VALUES (1, 'total', 1 << 30);
SELECT reactions.add_kind('Kept', 'Total');

-- A kind whose row was deleted counts no more, and nothing else changes.
DELETE FROM reactions.kind k USING reactions.entity_type t WHERE t.type_id = k.type_id AND t.entity_type = 'Other' AND kind = 'Cry';
UPDATE reactions.entity_type SET unknown_kinds = 'skip' WHERE entity_type = 'Other';
SELECT * FROM reactions.counts('{1}', 'Other');
SELECT reactions.total(1, 'Other'), reactions.unique_reactors(1, 'Other');

SELECT reactions.detach('Other');
DROP TABLE test.other_reaction;
UPDATE reactions.entity_type SET phase = 'attached', stop_version = NULL WHERE entity_type = 'Seen';
SELECT reactions.detach('Seen');
DROP TABLE test.seen_reaction;
