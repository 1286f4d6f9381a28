-- Capture of an attached table: after every statement the events, folded in the order of versions, tell what the table holds.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CALL test.forget_events();
CREATE TABLE test.image (id integer PRIMARY KEY);
CREATE TABLE test.account (id integer PRIMARY KEY);
CREATE TABLE test.image_reaction (
    user_id integer NOT NULL REFERENCES test.account ON DELETE CASCADE ON UPDATE CASCADE,
    image_id integer NOT NULL DEFAULT 1 REFERENCES test.image ON DELETE SET DEFAULT ON UPDATE CASCADE,
    kind text NOT NULL,
    note text,
    PRIMARY KEY (user_id, image_id, kind)
);
INSERT INTO test.image SELECT generate_series(1, 200);
INSERT INTO test.account SELECT generate_series(1, 50);
SELECT reactions.attach('test.image_reaction', 'Captured', 'user_id', 'image_id', 'kind', unknown_kinds => 'skip');

-- One row at a time.
INSERT INTO test.image_reaction VALUES (1, 1, 'Like');
UPDATE test.image_reaction SET kind = 'Heart' WHERE user_id = 1;
UPDATE test.image_reaction SET image_id = 2 WHERE user_id = 1;
UPDATE test.image_reaction SET user_id = 2 WHERE user_id = 1;
UPDATE test.image_reaction SET user_id = 3, image_id = 3, kind = 'Cry';
SELECT * FROM test.differences('Captured');
DELETE FROM test.image_reaction;
SELECT * FROM test.new_events();
SELECT * FROM test.differences('Captured');

-- Statements that change nothing.
INSERT INTO test.image_reaction VALUES (1, 1, 'Like'), (1, 1, 'Cry');
SELECT * FROM test.new_events();
UPDATE test.image_reaction SET note = 'x';
UPDATE test.image_reaction SET kind = kind, user_id = user_id;
UPDATE test.image_reaction SET kind = 'Heart' WHERE false;
DELETE FROM test.image_reaction WHERE false;
INSERT INTO test.image_reaction SELECT 1, 1, 'Like' WHERE false;
INSERT INTO test.image_reaction VALUES (1, 1, 'Like') ON CONFLICT DO NOTHING;
SELECT * FROM test.new_events();
BEGIN;
DELETE FROM test.image_reaction WHERE kind = 'Like';
INSERT INTO test.image_reaction VALUES (1, 1, 'Like');
COMMIT;
SELECT * FROM test.new_events();

-- Kinds that are no reactions: counted, never written.
INSERT INTO test.image_reaction VALUES (2, 1, 'Dislike'), (2, 2, 'Dislike'), (2, 3, 'like');
UPDATE test.image_reaction SET kind = 'Like' WHERE user_id = 2 AND image_id = 1;
UPDATE test.image_reaction SET kind = 'Dislike' WHERE user_id = 2 AND image_id = 1;
DELETE FROM test.image_reaction WHERE user_id = 2;
SELECT * FROM test.new_events();
SELECT kind, rows FROM reactions._skipped JOIN reactions.entity_type USING (type_id) WHERE entity_type = 'Captured' ORDER BY version;
SELECT value >= 4 FROM reactions.stats WHERE name = 'skipped_rows';
SELECT * FROM test.differences('Captured');

-- In bulk.
INSERT INTO test.image_reaction SELECT u, i, k FROM generate_series(1, 20) u, generate_series(1, 40) i, unnest('{Like,Heart,Cry}'::text[]) k
    ON CONFLICT DO NOTHING;
SELECT * FROM test.differences('Captured');
UPDATE test.image_reaction SET kind = 'Laugh' WHERE kind = 'Like' AND image_id % 2 = 0;
UPDATE test.image_reaction SET image_id = image_id + 100 WHERE user_id < 5;
SELECT * FROM test.differences('Captured');
DELETE FROM test.image_reaction WHERE user_id % 3 = 0;
SELECT * FROM test.differences('Captured');
SELECT count(*), count(DISTINCT "user") FROM test.new_events();

-- Upsert, MERGE, COPY.
INSERT INTO test.image_reaction SELECT u, 1, k FROM generate_series(1, 10) u, unnest('{Like,Laugh}'::text[]) k
    ON CONFLICT (user_id, image_id, kind) DO UPDATE SET kind = 'Cry' WHERE image_reaction.kind <> 'Laugh' AND image_reaction.user_id = 3;
INSERT INTO test.image_reaction VALUES (11, 1, 'Like'), (21, 1, 'Like')
    ON CONFLICT (user_id, image_id, kind) DO UPDATE SET user_id = 22;
SELECT * FROM test.differences('Captured');
MERGE INTO test.image_reaction r USING (SELECT u, i FROM generate_series(10, 25) u, generate_series(1, 3) i) s
    ON r.user_id = s.u AND r.image_id = s.i AND r.kind = 'Like'
    WHEN MATCHED AND s.i = 1 THEN DELETE
    WHEN MATCHED THEN UPDATE SET kind = 'Laugh'
    WHEN NOT MATCHED THEN INSERT (user_id, image_id, kind) VALUES (s.u, s.i, 'Like');
SELECT * FROM test.differences('Captured');
COPY test.image_reaction (user_id, image_id, kind) FROM stdin;
30	1	Like
30	2	Dislike
30	3	Heart
\.
SELECT * FROM test.differences('Captured');
SELECT "user", entity, sets, clears FROM test.new_events() WHERE "user" = 30;

-- Through writable CTEs, one of which takes what another brings.
WITH gone AS (DELETE FROM test.image_reaction WHERE user_id = 10 RETURNING *)
INSERT INTO test.image_reaction SELECT user_id, image_id, CASE kind WHEN 'Like' THEN 'Heart' ELSE 'Like' END FROM gone ON CONFLICT DO NOTHING;
WITH gone AS (DELETE FROM test.image_reaction WHERE user_id = 11 RETURNING *)
INSERT INTO test.image_reaction SELECT user_id, image_id, kind FROM gone;
WITH a AS (UPDATE test.image_reaction SET user_id = 40 WHERE user_id = 12 RETURNING *),
    b AS (DELETE FROM test.image_reaction WHERE user_id = 13 RETURNING *)
INSERT INTO test.image_reaction SELECT 41, image_id, kind FROM a UNION SELECT 41, image_id, kind FROM b;
SELECT * FROM test.differences('Captured');

-- Foreign keys: cascades, on two tables at once.
DELETE FROM test.account WHERE id IN (14, 15, 16);
SELECT * FROM test.differences('Captured');
UPDATE test.account SET id = id + 1000 WHERE id IN (17, 19);
UPDATE test.image SET id = id + 1000 WHERE id BETWEEN 2 AND 5;
SELECT * FROM test.differences('Captured');
DELETE FROM test.image_reaction WHERE image_id = 1 OR user_id <> 20;
DELETE FROM test.image_reaction WHERE image_id = 7 AND kind <> 'Cry';
DELETE FROM test.image WHERE id = 7;
SELECT * FROM test.differences('Captured');
SELECT image_id, kind FROM test.image_reaction WHERE image_id IN (1, 7);

CALL test.forget_events();

-- By the functions.
SELECT reactions.react(5, 50, 'Like', 'Captured'), reactions.react(5, 50, 'Like', 'Captured'), reactions.set_flags(5, 51, 11, 'Captured'),
    reactions.toggle(5, 50, 'Cry', 'Captured'), reactions.toggle(5, 50, 'Cry', 'Captured');
SELECT reactions.set_flags(5, 51, 6, 'Captured'), reactions.unreact(5, 51, 'Heart', 'Captured'), reactions.unreact(5, 52, 'Like', 'Captured');
SELECT entity, sets, clears FROM test.new_events() WHERE "user" = 5;
SELECT * FROM test.differences('Captured');
SELECT reactions.react(999, 50, 'Like', 'Captured');

-- Row triggers that change the same key: one that takes back what a delete takes away, one that deletes what is inserted.
CREATE FUNCTION test.put_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO test.image_reaction VALUES (OLD.user_id, OLD.image_id, OLD.kind), (OLD.user_id, OLD.image_id, 'Heart')
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE FUNCTION test.take_away() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM test.image_reaction WHERE user_id = NEW.user_id AND image_id = NEW.image_id AND kind = NEW.kind;
    RETURN NULL;
END
$$;
CREATE TRIGGER put_back AFTER DELETE ON test.image_reaction FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION test.put_back();
DELETE FROM test.image_reaction WHERE user_id IN (5, 20);
SELECT * FROM test.differences('Captured');
DROP TRIGGER put_back ON test.image_reaction;
CREATE TRIGGER take_away AFTER INSERT ON test.image_reaction FOR EACH ROW WHEN (NEW.kind = 'Laugh') EXECUTE FUNCTION test.take_away();
INSERT INTO test.image_reaction VALUES (6, 60, 'Laugh'), (6, 60, 'Like'), (6, 61, 'Laugh');
SELECT * FROM test.differences('Captured');
DROP TRIGGER take_away ON test.image_reaction;

-- A row trigger that runs before, a statement trigger whose name comes before those of capture, one whose name comes after.
CREATE FUNCTION test.meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE test.image_reaction SET kind = 'Cry' WHERE user_id = 8 AND kind = 'Like';
    DELETE FROM test.image_reaction WHERE user_id = 8 AND kind = 'Heart';
    INSERT INTO test.image_reaction VALUES (8, 80, 'Heart') ON CONFLICT DO NOTHING;
    RETURN NEW;
END
$$;
CREATE TRIGGER meddle_row BEFORE INSERT ON test.image_reaction FOR EACH ROW WHEN (pg_trigger_depth() = 0 AND NEW.user_id = 8)
    EXECUTE FUNCTION test.meddle();
INSERT INTO test.image_reaction VALUES (8, 80, 'Like'), (8, 81, 'Like'), (8, 82, 'Like');
SELECT * FROM test.differences('Captured');
DROP TRIGGER meddle_row ON test.image_reaction;
CREATE TRIGGER a_meddle AFTER INSERT ON test.image_reaction FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION test.meddle();
INSERT INTO test.image_reaction VALUES (8, 83, 'Like'), (8, 84, 'Heart');
SELECT * FROM test.differences('Captured');
ALTER TRIGGER a_meddle ON test.image_reaction RENAME TO z_meddle;
INSERT INTO test.image_reaction VALUES (8, 85, 'Like'), (8, 86, 'Heart');
SELECT * FROM test.differences('Captured');
DROP TRIGGER z_meddle ON test.image_reaction;

-- Errors and savepoints within.
DO $$
BEGIN
    INSERT INTO test.image_reaction VALUES (9, 90, 'Like');
    BEGIN
        INSERT INTO test.image_reaction VALUES (9, 91, 'Like'), (9, 90, 'Like');
    EXCEPTION WHEN unique_violation THEN
        UPDATE test.image_reaction SET kind = 'Cry' WHERE user_id = 9;
    END;
    BEGIN
        DELETE FROM test.image_reaction WHERE user_id = 9;
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        INSERT INTO test.image_reaction VALUES (9, 92, 'Like');
    END;
END
$$;
SELECT * FROM test.differences('Captured');
SELECT entity, sets, clears, known FROM test.new_events() WHERE "user" = 9;

-- A session of a replication or restore that fires no ordinary triggers.
SET session_replication_role = replica;
INSERT INTO test.image_reaction VALUES (31, 1, 'Like');
RESET session_replication_role;
SELECT * FROM test.differences('Captured');
SELECT * FROM test.new_events();

-- TRUNCATE is one event, and an epoch.
SELECT epoch AS before FROM reactions.entity_type WHERE entity_type = 'Captured' \gset
TRUNCATE test.image_reaction;
SELECT * FROM test.new_events();
INSERT INTO test.image_reaction VALUES (1, 1, 'Like');
SELECT * FROM test.differences('Captured');
TRUNCATE test.account CASCADE;
SELECT * FROM test.differences('Captured');
SELECT epoch - :before FROM reactions.entity_type WHERE entity_type = 'Captured';

-- An exclusive type: one row per user and entity.
CREATE TABLE test.vote (voter bigint, post bigint, choice varchar(10) NOT NULL, cast_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (voter, post));
SELECT reactions.attach('test.vote', 'Vote', 'voter', 'post', 'choice', 'cast_at', mode => 'exclusive');
INSERT INTO test.vote VALUES (1, 1, 'Like'), (1, 2, 'Cry'), (2, 1, 'Heart');
UPDATE test.vote SET choice = 'Laugh' WHERE voter = 1;
INSERT INTO test.vote VALUES (1, 1, 'Heart'), (3, 1, 'Like') ON CONFLICT (voter, post) DO UPDATE SET choice = EXCLUDED.choice;
SELECT * FROM test.differences('Vote');
SELECT reactions.react(1, 1, 'Cry', 'Vote'), reactions.react(1, 1, 'Cry', 'Vote'), reactions.toggle(1, 2, 'Laugh', 'Vote'),
    reactions.toggle(2, 1, 'Cry', 'Vote'), reactions.set_flags(3, 1, 0, 'Vote');
SELECT * FROM test.differences('Vote');
SELECT * FROM test.new_events();
INSERT INTO test.vote VALUES (4, 1, 'Dislike');

-- Until the backfill is complete a rewritten row is reported, because it may have moved past it.
UPDATE reactions.entity_type SET backfilled = false WHERE entity_type = 'Vote';
UPDATE test.vote SET cast_at = '2020-01-01' WHERE voter = 1;
SELECT * FROM test.new_events();

-- Capture must not be called by hand, and a table that has only the triggers says so.
\set VERBOSITY sqlstate
SELECT reactions._capture_begin();
CREATE TABLE test.copied (LIKE test.vote INCLUDING DEFAULTS);
CREATE TRIGGER copied AFTER INSERT ON test.copied REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION reactions._capture_end();
INSERT INTO test.copied VALUES (1, 1, 'Like');
CREATE TRIGGER by_row AFTER DELETE ON test.copied FOR EACH ROW EXECUTE FUNCTION reactions._capture_end();
ALTER TABLE test.copied DISABLE TRIGGER copied;
INSERT INTO test.copied VALUES (1, 1, 'Like');
DELETE FROM test.copied;
ALTER TABLE test.vote RENAME choice TO chosen;
INSERT INTO test.vote VALUES (9, 9, 'Like');
\set VERBOSITY default

SELECT reactions.detach('Vote'), reactions.detach('Captured');
DROP TABLE test.vote, test.copied, test.image_reaction, test.image, test.account;
