-- Phase stop_writes: the table is frozen, reactions go to the outbox alone.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CREATE TABLE test.owner (id integer PRIMARY KEY, name text);
CREATE TABLE test.picture (id bigint PRIMARY KEY, title text);
CREATE TABLE test.device (id integer PRIMARY KEY);
INSERT INTO test.owner SELECT generate_series(1, 9);
INSERT INTO test.picture SELECT generate_series(1, 9);
INSERT INTO test.device VALUES (1);
CREATE TYPE test.frozen_kind AS ENUM ('Like', 'Heart', 'Laugh', 'Cry', 'Dislike');
CREATE TABLE test.frozen (
    id serial PRIMARY KEY, u integer NOT NULL REFERENCES test.owner ON DELETE CASCADE ON UPDATE CASCADE,
    e bigint NOT NULL REFERENCES test.picture ON DELETE CASCADE, k test.frozen_kind NOT NULL,
    device integer REFERENCES test.device ON DELETE SET NULL, at timestamp NOT NULL DEFAULT '2020-01-01', UNIQUE (u, e, k));
SELECT reactions.attach('test.frozen', 'Frozen', 'u', 'e', 'k', 'at', unknown_kinds => 'skip');
INSERT INTO test.frozen (u, e, k, device) VALUES
    (1, 1, 'Like', 1), (1, 2, 'Heart', 1), (2, 1, 'Like', 1), (3, 3, 'Cry', NULL), (3, 3, 'Dislike', NULL), (4, 4, 'Like', NULL);
CALL reactions.advance('Frozen', true);
CALL reactions.advance('Frozen', true);

-- What must be right cannot be forced.
UPDATE reactions.entity_type SET backfilled = false WHERE entity_type = 'Frozen';
CALL reactions.advance('Frozen', true);
UPDATE reactions.entity_type SET backfilled = true WHERE entity_type = 'Frozen';
BEGIN;
TRUNCATE test.frozen;
SELECT reactions._flip('Frozen', 'switch_reads', 'stop_writes', true, NULL);
ROLLBACK;
-- The triggers are there, and do nothing before.
SELECT tgrelid::regclass, regexp_replace(tgname, '\d+', 'N'), tgenabled FROM pg_trigger WHERE tgname ~ 'reactions_(gone|redirect)' ORDER BY tgrelid::regclass::text, 2;
CALL test.forget_events();
INSERT INTO test.owner VALUES (10);
UPDATE test.owner SET id = 11 WHERE id = 10;
DELETE FROM test.owner WHERE id = 11;
SELECT * FROM test.new_events();
-- Without them the flip is refused; advance makes them again. To a rename they do not mind.
ALTER TABLE test.picture RENAME COLUMN id TO picture_id;
SELECT * FROM reactions._missing_triggers((SELECT type_id FROM reactions.entity_type WHERE entity_type = 'Frozen'));
ALTER TABLE test.picture DISABLE TRIGGER USER;
SELECT reactions._flip('Frozen', 'switch_reads', 'stop_writes', true, NULL);

-- What will stop working is named.
CREATE VIEW test.hearts AS SELECT * FROM test.frozen WHERE k = 'Heart';
CREATE MATERIALIZED VIEW test.frozen_count AS SELECT count(*) FROM test.frozen;
CREATE RULE frozen_rule AS ON DELETE TO test.frozen WHERE OLD.u = -1 DO INSTEAD NOTHING;
CREATE FUNCTION test.mentions() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM test.frozen';
CREATE FUNCTION test.depends() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM test.frozen; END;
CREATE FUNCTION test.does_not() RETURNS text LANGUAGE sql AS $$ SELECT 'frozenness' $$;
CREATE FUNCTION test.frozen_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER own_trigger BEFORE INSERT ON test.frozen FOR EACH ROW EXECUTE FUNCTION test.frozen_trigger();
CREATE TABLE test.team (id integer, member integer, PRIMARY KEY (id, member));
CREATE TABLE test.place (id numeric PRIMARY KEY);
ALTER TABLE test.frozen ADD team integer, ADD CONSTRAINT of_team FOREIGN KEY (team, u) REFERENCES test.team ON DELETE CASCADE,
    ADD CONSTRAINT of_place FOREIGN KEY (e) REFERENCES test.place ON DELETE CASCADE NOT VALID,
    ADD CONSTRAINT held FOREIGN KEY (u) REFERENCES test.owner NOT VALID,
    ADD CONSTRAINT moved FOREIGN KEY (u) REFERENCES test.owner ON DELETE SET DEFAULT NOT VALID;
CREATE TABLE test.notice (reaction integer REFERENCES test.frozen ON DELETE SET NULL);
CREATE PUBLICATION frozen_rows FOR TABLE test.frozen;
SELECT condition, required, actual, ok FROM reactions.readiness('Frozen') WHERE condition = ANY (reactions._advisory_conditions());
CALL reactions.advance('Frozen');
SELECT reactions.configure('Frozen', acknowledged => '{triggers,views,foreign_keys,referenced,publications,functions}');
SELECT condition, actual, ok FROM reactions.readiness('Frozen') WHERE condition = ANY (reactions._advisory_conditions());
DROP VIEW test.hearts;
DROP MATERIALIZED VIEW test.frozen_count;
DROP RULE frozen_rule ON test.frozen;
DROP FUNCTION test.mentions, test.depends, test.does_not;
DROP TRIGGER own_trigger ON test.frozen;
DROP TABLE test.notice;
ALTER TABLE test.frozen DROP team, DROP CONSTRAINT of_place, DROP CONSTRAINT held, DROP CONSTRAINT moved;
DROP TABLE test.team, test.place;
DROP PUBLICATION frozen_rows;
SELECT condition, actual, ok FROM reactions.readiness('Frozen') WHERE condition = ANY (reactions._advisory_conditions());
SET ROLE pg_monitor;
SELECT count(*) FROM reactions.readiness('Frozen');
RESET ROLE;

CALL reactions.advance('Frozen', true);
SELECT phase, stop_version > (SELECT max(version) FROM reactions._outbox) FROM reactions.entity_type WHERE entity_type = 'Frozen';
SELECT regexp_replace(pg_get_triggerdef(oid), '(gone_|'')\d+', '\1N', 'g') FROM pg_trigger WHERE tgrelid = 'test.picture'::regclass AND tgname LIKE '%update';
CALL reactions.advance('Frozen', true);
SELECT reactions.detach('Frozen');
SELECT reactions.restart_backfill('Frozen');

-- Direct changes are refused, also of rows that are not there.
INSERT INTO test.frozen (u, e, k) VALUES (5, 5, 'Like');
UPDATE test.frozen SET k = 'Heart' WHERE u = 1;
DELETE FROM test.frozen WHERE u = 77;
TRUNCATE test.frozen;
INSERT INTO test.frozen (u, e, k) VALUES (1, 1, 'Like') ON CONFLICT DO NOTHING;
MERGE INTO test.frozen f USING (VALUES (1)) v (u) ON f.u = v.u WHEN MATCHED THEN DELETE;
COPY test.frozen (u, e, k) FROM PROGRAM 'echo 5,5,Like' WITH (FORMAT csv);
-- Not by the depth of triggers: those of the application's own triggers are direct, too.
CREATE FUNCTION test.clean_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM test.frozen WHERE u = 1; RETURN NULL; END $$;
CREATE TRIGGER clean_up AFTER INSERT ON test.owner FOR EACH ROW EXECUTE FUNCTION test.clean_up();
INSERT INTO test.owner VALUES (12);
DROP TRIGGER clean_up ON test.owner;
-- Not even of triggers that fire within our own statement on another table.
CREATE TABLE test.other (u bigint, e bigint, k text, PRIMARY KEY (u, e, k));
SELECT reactions.attach('test.other', 'Other', 'u', 'e', 'k');
CREATE TRIGGER clean_up AFTER INSERT ON test.other FOR EACH ROW EXECUTE FUNCTION test.clean_up();
SELECT reactions.react(1, 1, 'Like', 'Other');
SELECT reactions.detach('Other');
DROP TABLE test.other;
-- A cascade within a trigger is one still.
CREATE TABLE test.other (id integer);
CREATE FUNCTION test.remove_owner() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM test.owner WHERE id = NEW.id; RETURN NULL; END $$;
CREATE TRIGGER remove_owner AFTER INSERT ON test.other FOR EACH ROW EXECUTE FUNCTION test.remove_owner();
BEGIN;
INSERT INTO test.other VALUES (2);
SELECT count(*) FROM test.frozen WHERE u = 2;
ROLLBACK;
DROP TABLE test.other;
SELECT * FROM test.new_events();

-- The functions go on.
SELECT reactions.react(5, 5, 'Like', 'Frozen'), reactions.unreact(1, 1, 'Like', 'Frozen'), reactions.set_flags(1, 2, 4, 'Frozen');
SELECT reactions.react(5, 5, 'Like', 'Frozen');
SELECT * FROM test.new_events();
SELECT count(*) FROM test.frozen;

-- Redirected.
SELECT reactions.configure('Frozen', direct_inserts => 'redirect');
INSERT INTO test.frozen (u, e, k) VALUES (5, 6, 'Like'), (5, 6, 'Heart'), (5, 5, 'Like') RETURNING id, u, e, k;
WITH given AS (INSERT INTO test.frozen (u, e, k, at) VALUES (5, 7, 'Cry', '2021-02-03') RETURNING 1) SELECT count(*) FROM given;
COPY test.frozen (u, e, k) FROM PROGRAM 'echo 5,8,Like' WITH (FORMAT csv);
INSERT INTO test.frozen (u, e, k) VALUES (5, 6, 'Like') ON CONFLICT DO NOTHING;
SELECT * FROM test.new_events();
SELECT created_at AT TIME ZONE 'UTC' FROM reactions._outbox WHERE user_id = 5 AND entity_id = 7 AND version > (SELECT stop_version FROM reactions.entity_type WHERE entity_type = 'Frozen');
INSERT INTO test.frozen (u, e, k) VALUES (5, 9, 'Like'), (5, 9, 'Dislike');
INSERT INTO test.frozen (u, e, k) VALUES (NULL, 9, 'Like');
INSERT INTO test.frozen (u, e, k) VALUES (5, 6, 'Like') ON CONFLICT (u, e, k) DO UPDATE SET at = now();
DELETE FROM test.frozen WHERE u = 5;
-- The row is redirected as the application's own triggers leave it.
CREATE FUNCTION test.to_heart() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.k := 'Heart'; RETURN NEW; END $$;
CREATE TRIGGER to_heart BEFORE INSERT ON test.frozen FOR EACH ROW EXECUTE FUNCTION test.to_heart();
INSERT INTO test.frozen (u, e, k) VALUES (6, 6, 'Like');
DROP TRIGGER to_heart ON test.frozen;
SELECT * FROM test.new_events();
-- Policies are not gone round.
CREATE ROLE regress_stranger;
GRANT USAGE ON SCHEMA test TO regress_stranger;
GRANT INSERT, SELECT ON test.frozen TO regress_stranger;
GRANT USAGE ON SEQUENCE test.frozen_id_seq TO regress_stranger;
SET ROLE regress_stranger;
INSERT INTO test.frozen (u, e, k) VALUES (6, 7, 'Like');
RESET ROLE;
ALTER TABLE test.frozen ENABLE ROW LEVEL SECURITY;
SET ROLE regress_stranger;
INSERT INTO test.frozen (u, e, k) VALUES (6, 8, 'Like');
RESET ROLE;
ALTER TABLE test.frozen DISABLE ROW LEVEL SECURITY;
DROP OWNED BY regress_stranger;
DROP ROLE regress_stranger;
-- Nothing gets into the table past the trigger.
ALTER TABLE test.frozen DISABLE TRIGGER zz_reactions_redirect;
INSERT INTO test.frozen (u, e, k) VALUES (6, 8, 'Like');
ALTER TABLE test.frozen ENABLE ALWAYS TRIGGER zz_reactions_redirect;
SELECT count(*) FROM test.frozen;
SELECT * FROM test.new_events();

-- Referential actions pass; users and entities that are gone take everything along.
DELETE FROM test.owner WHERE id IN (1, 6, 8);
SELECT * FROM test.new_events();
DELETE FROM test.picture WHERE picture_id = 3;
SELECT * FROM test.new_events();
DELETE FROM test.device;
SELECT * FROM test.new_events();
SELECT u, e, k FROM test.frozen ORDER BY id;
WITH moved AS (DELETE FROM test.owner WHERE id = 9 RETURNING id) INSERT INTO test.picture SELECT id + 100 FROM moved;
SELECT * FROM test.new_events();
DELETE FROM test.owner WHERE id = 99;
SELECT * FROM test.new_events();
-- What cannot be told is refused.
UPDATE test.owner SET id = 14 WHERE id = 2;
UPDATE test.owner SET id = 14 WHERE id = 7;
UPDATE test.owner SET name = 'seven' WHERE id = 7;
UPDATE test.picture SET picture_id = 14 WHERE picture_id = 7;
TRUNCATE test.picture CASCADE;
SELECT * FROM test.new_events();

-- After "gone" nothing is known before, whatever Redis still says; what came after is.
SELECT reactions.react(6, 1, 'Like', 'Frozen');
SELECT reactions.react(6, 1, 'Like', 'Frozen');
SELECT * FROM test.new_events();
SELECT reactions.set_flags(7, 7, 3, 'Frozen'), reactions.set_flags(7, 7, 1, 'Frozen');
SELECT reactions.toggle(7, 7, 'Cry', 'Frozen');
DELETE FROM test.picture WHERE picture_id = 7;
SELECT reactions.toggle(7, 7, 'Heart', 'Frozen');
SELECT * FROM test.new_events();

-- Many at once: the locks are bounded.
INSERT INTO test.owner SELECT generate_series(1001, 11000);
BEGIN;
DELETE FROM test.owner WHERE id > 1000;
SELECT count(*) < 50 FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory';
SELECT count(*), min(user_id), max(user_id), count(DISTINCT version) FROM reactions._outbox WHERE scope = 'u' AND user_id > 1000;
COMMIT;
CALL test.forget_events();
INSERT INTO test.owner SELECT generate_series(1001, 1300);
BEGIN;
DO $$ BEGIN FOR i IN 1001..1300 LOOP DELETE FROM test.owner WHERE id = i; END LOOP; END $$;
SELECT mode, count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' GROUP BY 1 ORDER BY 1;
COMMIT;
BEGIN;
SELECT count(reactions.react(u, u, 'Like', 'Frozen')) FROM generate_series(2001, 2200) u;
SELECT mode, count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' GROUP BY 1 ORDER BY 1;
ROLLBACK;

-- What doctor sees.
SELECT ok, detail, hint FROM reactions.doctor() WHERE "check" = 'gone_Frozen';
ALTER TABLE test.owner DISABLE TRIGGER USER;
SELECT ok, regexp_replace(detail, '\d+_', 'N_', 'g'), hint FROM reactions.doctor() WHERE "check" = 'gone_Frozen';
SELECT reactions.prepare_stop_writes('Frozen');
SELECT ok FROM reactions.doctor() WHERE "check" = 'gone_Frozen';
SELECT reactions.prepare_stop_writes('None');
CREATE FUNCTION test.of_type(statements text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    EXECUTE format(statements, type_id) FROM reactions.entity_type WHERE entity_type = 'Frozen'; END $$;
-- A rename does no harm; a trigger that others made is none of ours.
CALL test.forget_events();
BEGIN;
ALTER TABLE test.owner RENAME id TO "owner Id";
ALTER TABLE test.owner RENAME name TO id;
DELETE FROM test.owner WHERE "owner Id" = 7;
UPDATE test.owner SET id = 'four' WHERE "owner Id" = 4;
SELECT * FROM test.new_events();
SELECT ok FROM reactions.doctor() WHERE "check" = 'gone_Frozen';
SAVEPOINT renamed;
UPDATE test.owner SET "owner Id" = 14 WHERE "owner Id" = 4;
ROLLBACK TO renamed;
SELECT test.of_type('DROP TRIGGER reactions_gone_%s_u_update ON test.owner');
\set VERBOSITY sqlstate
DELETE FROM test.owner WHERE "owner Id" = 4;
ROLLBACK TO renamed;
CREATE TRIGGER ours AFTER UPDATE ON test.owner FOR EACH ROW EXECUTE FUNCTION reactions._refuse_gone('1', 'u');
UPDATE test.owner SET id = 'four';
\set VERBOSITY default
ROLLBACK;

-- A table that is gone in phase archived leaves the reactions, and those who delete users, as they are.
BEGIN;
SELECT reactions._flip('Frozen', 'stop_writes', 'archived', false, NULL);
INSERT INTO test.frozen (u, e, k) VALUES (4, 2, 'Cry');
DELETE FROM test.frozen;
ROLLBACK;
BEGIN;
SELECT reactions._flip('Frozen', 'stop_writes', 'archived', false, NULL);
UPDATE reactions.entity_type SET legacy_table = NULL WHERE entity_type = 'Frozen';
DROP TABLE test.frozen;
CALL test.forget_events();
DELETE FROM test.owner WHERE id = 4;
SELECT reactions.react(5, 1, 'Cry', 'Frozen');
SELECT * FROM test.new_events();
SELECT * FROM reactions._write_back('Frozen', '{1}', '{1}', '{1}', '{0}', '{now}');
ROLLBACK;

-- What its foreign keys referenced is kept, and watched, when the table is gone: by the archive, or later by hand.
CREATE FUNCTION test.gone() RETURNS TABLE (ok boolean, detail text, hint text) LANGUAGE sql AS $$
    SELECT ok, regexp_replace(regexp_replace(detail, 'gone_\d+_', 'gone_N_', 'g'), '\d{4,}', 'N', 'g'), hint FROM reactions.doctor() WHERE "check" LIKE '%\_Frozen' AND "check" NOT LIKE 'match%' AND "check" NOT LIKE '%altered%' $$;
BEGIN;
SELECT reactions._flip('Frozen', 'stop_writes', 'archived', false, NULL);
DROP TABLE test.frozen;
SELECT * FROM test.gone();
SELECT reactions.react(5, 1, 'Cry', 'Frozen');
SELECT * FROM reactions._watch_capture() WHERE entity_type = 'Frozen';
SELECT phase, legacy_table FROM reactions.status() WHERE entity_type = 'Frozen';
SELECT * FROM test.gone();
ALTER TABLE test.owner RENAME id TO owner_id;
CALL test.forget_events();
DELETE FROM test.owner WHERE owner_id = 4;
SELECT * FROM test.new_events();
SELECT ok FROM test.gone();
-- Missing, disabled, not for replicas; of each pair the other one knows the column.
SELECT test.of_type('DROP TRIGGER reactions_gone_%1$s_u_delete ON test.owner; ALTER TABLE test.owner DISABLE TRIGGER reactions_gone_%1$s_u_truncate;'
    'ALTER TABLE test.picture ENABLE TRIGGER reactions_gone_%1$s_e_update');
SELECT * FROM test.gone();
SELECT reactions.prepare_stop_writes('Frozen');
SELECT ok FROM test.gone();
DELETE FROM test.owner WHERE owner_id = 5;
SELECT * FROM test.new_events();
ROLLBACK;
-- All of them, and renamed: nobody knows the column any more.
BEGIN;
SELECT reactions._flip('Frozen', 'stop_writes', 'archived', false, NULL);
DROP TABLE test.frozen;
SELECT test.of_type('DROP TRIGGER reactions_gone_%1$s_u_delete ON test.owner; DROP TRIGGER reactions_gone_%1$s_u_update ON test.owner;'
    'DROP TRIGGER reactions_gone_%1$s_u_truncate ON test.owner');
ALTER TABLE test.owner RENAME id TO owner_id;
CALL test.forget_events();
SELECT * FROM test.gone();
SAVEPOINT renamed;
SELECT reactions.prepare_stop_writes('Frozen');
ROLLBACK TO renamed;
ALTER TABLE test.owner RENAME owner_id TO id;
SELECT reactions.prepare_stop_writes('Frozen');
ALTER TABLE test.owner RENAME id TO owner_id;
DELETE FROM test.owner WHERE owner_id = 4;
SELECT * FROM test.new_events();
SELECT ok FROM test.gone();
-- A table of users that is gone itself.
DROP TABLE test.owner;
SELECT * FROM test.gone();
SELECT reactions.prepare_stop_writes('Frozen');
SELECT ok FROM test.gone();
ROLLBACK;

-- Going back: the triggers go.
SELECT reactions._drop_frozen_triggers(type_id) FROM reactions.entity_type WHERE entity_type = 'Frozen';
SELECT count(*) FROM pg_trigger WHERE tgname ~ 'reactions_(gone|redirect)';
SELECT reactions._flip('Frozen', 'stop_writes', 'switch_reads', false, NULL);
SELECT reactions._drop_frozen_triggers(type_id) FROM reactions.entity_type WHERE entity_type = 'Frozen';
SELECT count(*) FROM pg_trigger WHERE tgname ~ 'reactions_(gone|redirect)';
SELECT reactions.prepare_stop_writes('Frozen');
SELECT reactions.detach('Frozen');
SELECT count(*) FROM pg_trigger WHERE tgname ~ 'reactions_(gone|redirect)';
DROP TABLE test.frozen, test.owner, test.picture, test.device;
DROP TYPE test.frozen_kind;

-- A type that never had a table heeds what is gone as well.
SELECT reactions.add_entity_type('Unbound');
CALL test.forget_events();
SELECT reactions.react(1, 1, 'Like', 'Unbound');
SELECT reactions._write_removal(type_id, 1, NULL) > 0 FROM reactions.entity_type WHERE entity_type = 'Unbound';
SELECT reactions.react(1, 1, 'Like', 'Unbound');
SELECT reactions.react(1, 1, 'Like', 'Unbound');
SELECT * FROM test.new_events();

-- Several keys of one table: users who react to users, and a second key by which users are referenced.
CREATE TABLE test.member (id integer PRIMARY KEY, card bigint UNIQUE, name text);
INSERT INTO test.member SELECT g, 100 - g, 'member ' || g FROM generate_series(1, 9) g;
INSERT INTO test.member VALUES (91, 1), (92, 2), (93, 3), (94, NULL);
CREATE TABLE test.follow (
    u bigint NOT NULL REFERENCES test.member (id) ON DELETE CASCADE REFERENCES test.member (card) ON DELETE CASCADE,
    e bigint NOT NULL REFERENCES test.member (id) ON DELETE CASCADE, k text NOT NULL, UNIQUE (u, e, k));
SELECT reactions.attach('test.follow', 'Follow', 'u', 'e', 'k');
INSERT INTO test.follow VALUES (1, 5, 'Like'), (2, 5, 'Like'), (3, 5, 'Like'), (3, 6, 'Like');
CALL reactions.advance('Follow', true);
CALL reactions.advance('Follow', true);
CALL reactions.advance('Follow', true);
SELECT phase FROM reactions.entity_type WHERE entity_type = 'Follow';
SELECT regexp_replace(pg_get_triggerdef(oid), '(gone_|'')\d+', '\1N', 'g') FROM pg_trigger WHERE tgrelid = 'test.member'::regclass AND tgname LIKE '%update' ORDER BY 1;
SELECT scope, column_name FROM reactions._referenced WHERE of_table = 'test.member'::regclass ORDER BY 1, 2;
SELECT ok FROM reactions.doctor() WHERE "check" = 'gone_Follow';
SELECT reactions.prepare_stop_writes('Follow');
-- By either key, and as an entity; not by what is null.
CALL test.forget_events();
DELETE FROM test.member WHERE id = 91;
SELECT * FROM test.new_events();
SELECT u, e FROM test.follow ORDER BY 1, 2;
DELETE FROM test.member WHERE id IN (94, 5);
SELECT * FROM test.new_events();
UPDATE test.member SET card = 77 WHERE id = 6;
UPDATE test.member SET card = NULL WHERE id = 6;
UPDATE test.member SET id = 66 WHERE id = 7;
UPDATE test.member SET name = 'six' WHERE id = 6;
-- Renamed, and without its table.
ALTER TABLE test.member RENAME card TO "Card no";
SELECT ok FROM reactions.doctor() WHERE "check" = 'gone_Follow';
SELECT reactions._flip('Follow', 'stop_writes', 'archived', false, NULL);
DROP TABLE test.follow;
DELETE FROM test.member WHERE "Card no" = 3;
SELECT * FROM test.new_events();
SELECT ok FROM reactions.doctor() WHERE "check" = 'gone_Follow';
DO $$ BEGIN EXECUTE format('DROP TRIGGER reactions_gone_%s_u_delete ON test.member', (SELECT type_id FROM reactions.entity_type WHERE entity_type = 'Follow')); END $$;
SELECT reactions.prepare_stop_writes('Follow');
DELETE FROM test.member WHERE id = 8;
SELECT * FROM test.new_events();
DROP TABLE test.member;
