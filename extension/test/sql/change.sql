-- Changing reactions of a type without a table: what reaches the outbox.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CALL test.forget_events();
SELECT reactions.add_entity_type('Image');
SELECT reactions.add_entity_type('Poll', 'exclusive');


-- Nothing is known of the first change; the outbox knows more with each.
SELECT reactions.react(1, 10, 'Like');
SELECT * FROM test.new_events();
SELECT reactions.react(1, 10, 'Like');
SELECT * FROM test.new_events();
SELECT reactions.set_flags(1, 10, 3);
SELECT * FROM test.new_events();
SELECT reactions.set_flags(1, 10, 3), reactions.react(1, 10, 'Heart'), reactions.unreact(1, 10, 'Cry');
SELECT * FROM test.new_events();
SELECT reactions.unreact(1, 10, 'Like');
SELECT reactions.toggle(1, 10, 'Cry');
SELECT reactions.toggle(1, 10, 'Cry') FROM generate_series(1, 3);
SELECT reactions.set_flags(1, 10, 0);
SELECT * FROM test.new_events();
SELECT reactions.unreact(2, 10, 'Like');
SELECT * FROM test.new_events();

-- Exclusive: one kind at a time.
SELECT reactions.react(1, 10, 'Like', 'Poll');
SELECT reactions.react(1, 10, 'Heart', 'Poll');
SELECT reactions.toggle(1, 10, 'Cry', 'Poll');
SELECT reactions.toggle(1, 10, 'Cry', 'Poll');
SELECT reactions.set_flags(1, 10, 4, 'Poll');
SELECT * FROM test.new_events();
SELECT reactions.set_flags(1, 10, 5, 'Poll');
SELECT count(*) FROM test.folded('Poll') WHERE flags = 4;

-- What is refused.
SELECT reactions.react(1, 10, 'like');
SELECT reactions.react(1, 10, '');
SELECT reactions.react(1, 10, 'Like', 'Video');
SELECT reactions.set_flags(1, 10, 16);
SELECT reactions.set_flags(1, 10, -1);
SELECT reactions.react(NULL, 10, 'Like');
\set VERBOSITY sqlstate
SELECT reactions.react(1, NULL, 'Like');
SELECT reactions.unreact(1, 10, NULL);
SELECT reactions.set_flags(1, 10, NULL);
SELECT reactions.toggle(1, 10, 'Like', NULL);
SELECT reactions.unreact(1, 10, 'Dislike');
SELECT reactions.toggle(1, 10, 'Dislike');
SELECT reactions.set_flags(1, 10, 2147483647);
BEGIN READ ONLY;
SELECT reactions.react(1, 10, 'Like');
ROLLBACK;
SELECT reactions._draw_version() FROM set_config('transaction_read_only', 'on', true);
\set VERBOSITY default
SELECT count(*) FROM test.new_events();

-- Every bigint is an id.
SELECT reactions.set_flags(u, e, 1) FROM (VALUES (0::bigint), (-1), (-9223372036854775808), (9223372036854775807)) a (u),
    (VALUES (0::bigint), (-9223372036854775808), (9223372036854775807)) b (e);
SELECT "user", entity, sets, clears FROM test.new_events();

-- Savepoints and rollbacks.
BEGIN;
SELECT reactions.set_flags(3, 1, 1);
SAVEPOINT a;
SELECT reactions.set_flags(3, 1, 2), reactions.set_flags(3, 2, 1);
ROLLBACK TO a;
SELECT reactions.toggle(3, 1, 'Cry');
SAVEPOINT b;
SELECT reactions.set_flags(3, 3, 1);
RELEASE b;
COMMIT;
BEGIN;
SELECT reactions.set_flags(3, 4, 1);
ROLLBACK;
DO $$
BEGIN
    PERFORM reactions.set_flags(3, 5, 1);
    BEGIN
        PERFORM reactions.set_flags(3, 6, 1);
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        PERFORM reactions.set_flags(3, 6, 2);
    END;
END
$$;
SELECT * FROM test.new_events();

-- All events of a transaction carry its top-level transaction, also from within savepoints.
BEGIN;
SELECT reactions.set_flags(3, 7, 1);
SAVEPOINT a;
SELECT reactions.set_flags(3, 8, 1);
SELECT count(*), bool_and(xid = pg_current_xact_id()) FROM reactions._outbox JOIN reactions.entity_type USING (type_id)
WHERE entity_type = 'Image' AND user_id = 3 AND entity_id IN (7, 8);
COMMIT;

-- At most so many keys; a key counts once, and one whose savepoint is rolled back not at all.
BEGIN;
SET LOCAL reactions.max_keys_per_transaction = 2;
SELECT reactions.set_flags(4, 1, n), reactions.set_flags(4, 2, n) FROM generate_series(1, 3) n;
SAVEPOINT a;
SELECT reactions.set_flags(4, 3, 1);
ROLLBACK;
BEGIN;
SET LOCAL reactions.max_keys_per_transaction = 2;
SELECT reactions.set_flags(4, 1, 1);
SAVEPOINT a;
SELECT reactions.set_flags(4, 2, 1);
ROLLBACK TO a;
SELECT reactions.set_flags(4, 3, 1);
SAVEPOINT b;
SELECT reactions.set_flags(4, 1, 2);
RELEASE b;
COMMIT;
SELECT count(*) FROM test.folded('Image') WHERE user_id = 4;

-- Two-phase commit.
BEGIN;
SELECT reactions.set_flags(5, 1, 1);
PREPARE TRANSACTION 'regress_a';
BEGIN;
SELECT reactions.set_flags(5, 2, 1);
PREPARE TRANSACTION 'regress_b';
SELECT count(*) FROM test.folded('Image') WHERE user_id = 5;
SET lock_timeout = '10ms';
\set VERBOSITY sqlstate
SELECT reactions.react(5, 1, 'Cry');
\set VERBOSITY default
RESET lock_timeout;
COMMIT PREPARED 'regress_a';
ROLLBACK PREPARED 'regress_b';
SELECT reactions.react(5, 1, 'Cry');
SELECT user_id, entity_id, flags FROM test.folded('Image') WHERE user_id = 5;

-- From any caller: prepared statement, cursor, trigger, many rows.
PREPARE p AS SELECT reactions.set_flags($1, $2, 1);
EXECUTE p(6, 1);
EXECUTE p(6, 1);
DEALLOCATE p;
CREATE TABLE test.seen_images (image_id bigint);
CREATE FUNCTION test.like_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM reactions.react(6, NEW.image_id, 'Like'); RETURN NULL; END $$;
CREATE TRIGGER like_it AFTER INSERT ON test.seen_images FOR EACH ROW EXECUTE FUNCTION test.like_it();
INSERT INTO test.seen_images SELECT generate_series(2, 501);
DROP TABLE test.seen_images;
SELECT count(*), sum(flags) FROM test.folded('Image') WHERE user_id = 6;

-- Versions rise with the sequence, within the generation, and time goes with them.
SELECT count(*) = count(DISTINCT version), min(version) >> 44, bool_and(written_at >= created_at), min(version) > 0 FROM reactions._outbox JOIN reactions.entity_type USING (type_id) WHERE entity_type = 'Image';
SELECT count(*) FROM reactions._generation;
SELECT reactions._current_generation();

-- A unique index of the application's own is in the way: told, not taken for a reaction that is there.
CREATE TABLE test.once (id serial PRIMARY KEY, u bigint NOT NULL, e bigint NOT NULL, k text NOT NULL, UNIQUE (u, e, k));
SELECT reactions.attach('test.once', 'Once', 'u', 'e', 'k');
INSERT INTO test.once (id, u, e, k) VALUES (1, 9001, 1, 'Like');
\set VERBOSITY default
SELECT reactions.react(9001, 2, 'Like', 'Once');
SELECT reactions.react(9001, 1, 'Like', 'Once');
SELECT u, e, k FROM test.once ORDER BY e;
SELECT reactions.detach('Once');
DROP TABLE test.once;
