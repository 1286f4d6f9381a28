-- Who may do what: readers, writers, administrators, monitors, and everybody else nothing.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CREATE ROLE regress_reader IN ROLE reactions_reader;
CREATE ROLE regress_writer IN ROLE reactions_writer;
CREATE ROLE regress_admin IN ROLE reactions_admin;
CREATE ROLE regress_monitor IN ROLE pg_monitor;
CREATE ROLE regress_nobody;

-- Functions.
SELECT p.oid::regprocedure AS function, string_agg(r.role, ' ' ORDER BY r.place)
FROM pg_proc p, (VALUES (1, 'reader'), (2, 'writer'), (3, 'admin'), (4, 'monitor'), (5, 'nobody')) r (place, role)
WHERE p.pronamespace = 'reactions'::regnamespace AND has_function_privilege('regress_' || r.role, p.oid, 'EXECUTE')
GROUP BY p.oid HAVING string_agg(r.role, ' ' ORDER BY r.place) <> 'admin' ORDER BY p.proname COLLATE "C";

-- Relations.
SELECT c.relname, r.role, string_agg(left(v.privilege, 1), '' ORDER BY v.place)
FROM pg_class c, unnest('{reader,writer,monitor,nobody}'::text[]) r (role),
    (VALUES (1, 'SELECT'), (2, 'INSERT'), (3, 'UPDATE'), (4, 'DELETE'), (5, 'TRUNCATE')) v (place, privilege)
WHERE c.relnamespace = 'reactions'::regnamespace AND c.relkind IN ('r', 'v') AND has_table_privilege('regress_' || r.role, c.oid, v.privilege)
GROUP BY 1, 2 ORDER BY r.role, c.relname;
SELECT c.relname FROM pg_class c
WHERE c.relnamespace = 'reactions'::regnamespace AND c.relkind IN ('r', 'v')
    AND NOT has_table_privilege('regress_admin', c.oid, 'SELECT');
SELECT r, has_schema_privilege('regress_' || r, 'reactions', 'USAGE'), has_schema_privilege('regress_' || r, 'reactions', 'CREATE')
FROM unnest('{reader,writer,admin,monitor,nobody}'::text[]) r;

-- In use: no privilege on the table that is attached is needed, and none on the outbox.
CREATE TABLE test.secret_reaction (user_id bigint, image_id bigint, kind text, PRIMARY KEY (user_id, image_id, kind));
SELECT reactions.attach('test.secret_reaction', 'Private', 'user_id', 'image_id', 'kind');
SELECT reactions.add_entity_type('Open');
SET ROLE regress_writer;
SELECT reactions.set_flags(1, 1, 3, 'Private'), reactions.set_flags(1, 1, 3, 'Open'), reactions.toggle(1, 1, 'Cry', 'Open');
SELECT reactions.flags(1, 1, 'Private'), (SELECT count(*) FROM reactions.by_user(1, entity_type => 'Private'));
\set VERBOSITY terse
SELECT * FROM test.secret_reaction;
SELECT * FROM reactions._outbox;
SELECT reactions.add_kind('Private', 'Sad');
SELECT reactions.invalidate('Private', 1);
SELECT * FROM reactions.doctor();
SELECT reactions._draw_version();
SET ROLE regress_reader;
SELECT reactions.flags(1, 1, 'Private'), reactions.kinds(3, 'Private');
SELECT reactions.react(1, 1, 'Like', 'Private');
SELECT reactions.toggle(1, 1, 'Like', 'Open');
SELECT count(*) > 0 FROM reactions.status();
SELECT * FROM reactions.stats;
SET ROLE regress_nobody;
SELECT reactions.flags(1, 1, 'Private');
SET ROLE regress_monitor;
SELECT count(*) > 0 FROM reactions.stats;
SELECT agent_pid IS NULL, events_above_floor > 0, parked_events FROM reactions.mirror_status;
SELECT count(*) FROM reactions.parked_events;
SELECT count(*) > 0 FROM reactions.status();
SELECT reactions.flags(1, 1, 'Private');
SELECT user_id FROM reactions.parked_event;
SET ROLE regress_admin;
SELECT reactions.add_entity_type('Mine'), reactions.add_kind('Mine', 'Sad'), reactions.raise_epoch('Mine');
SELECT reactions.react(1, 1, 'Sad', 'Mine');
SELECT count(*) > 0 FROM reactions.doctor();
SELECT reactions._current_generation() > 0, reactions._draw_version() > 0;
SELECT * FROM test.secret_reaction;
RESET ROLE;
\set VERBOSITY default

-- Nobody but an owner may name a table that the functions would then act on as its owner.
\set VERBOSITY sqlstate
SET ROLE regress_admin;
UPDATE reactions.entity_type SET legacy_table = 'pg_catalog.pg_authid', phase = 'attached' WHERE entity_type = 'Mine';
UPDATE reactions.entity_type SET extra_values = '{"secret": 1}' WHERE entity_type = 'Private';
RESET ROLE;
\set VERBOSITY default

-- Statements on the attached table run as its owner: what the caller may see or has put in the way does not matter.
ALTER TABLE test.secret_reaction ENABLE ROW LEVEL SECURITY;
-- Operators of the caller's that come first for him.
CREATE FUNCTION test.intrude(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'ran as %', current_user; END $$;
CREATE FUNCTION test.intrude(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'ran as %', current_user; END $$;
CREATE OPERATOR test.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = test.intrude);
CREATE OPERATOR test.= (LEFTARG = text, RIGHTARG = text, FUNCTION = test.intrude);
GRANT USAGE ON SCHEMA test TO regress_writer;
SET ROLE regress_writer;
SET search_path = test, pg_catalog;
SELECT kind, count FROM reactions.counts('{1}', 'Private') WHERE count > 0;
SELECT reactions.unique_reactors(1, 'Private'), (SELECT count(*) FROM reactions.reactors(1, NULL, entity_type => 'Private')),
    (SELECT count(*) FROM reactions.reactors(1, 'Like', entity_type => 'Private'));
SELECT reactions.unreact(1, 1, 'Like', 'Private');
SELECT reactions.flags(1, 1, 'Private'), current_user;
RESET search_path;
RESET ROLE;
DROP OPERATOR test.= (bigint, bigint), test.= (text, text);
DROP FUNCTION test.intrude(bigint, bigint), test.intrude(text, text);
SELECT * FROM test.differences('Private');

-- A user who may write the attached table needs nothing of the extension's for its capture, TRUNCATE included.
GRANT USAGE ON SCHEMA test TO regress_nobody;
ALTER TABLE test.secret_reaction DISABLE ROW LEVEL SECURITY;
GRANT ALL ON test.secret_reaction TO regress_nobody;
CALL test.forget_events();
SET ROLE regress_nobody;
INSERT INTO test.secret_reaction VALUES (2, 2, 'Like');
UPDATE test.secret_reaction SET kind = 'Cry' WHERE user_id = 2;
DELETE FROM test.secret_reaction WHERE user_id = 2;
TRUNCATE test.secret_reaction;
RESET ROLE;
SELECT * FROM test.new_events();

SELECT reactions.detach('Private');
DROP TABLE test.secret_reaction;
DROP OWNED BY regress_reader, regress_writer, regress_admin, regress_monitor, regress_nobody;
DROP ROLE regress_reader, regress_writer, regress_admin, regress_monitor, regress_nobody;
