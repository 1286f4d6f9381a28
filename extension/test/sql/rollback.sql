-- Going back from phase stop_writes: what is refused, and what the agent calls.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
SET statement_timeout = '20s';
CREATE TABLE test.reactor (id integer PRIMARY KEY);
INSERT INTO test.reactor SELECT generate_series(1, 9);
CREATE TABLE test.returning (u integer NOT NULL REFERENCES test.reactor, e bigint NOT NULL, k text NOT NULL, at timestamptz, PRIMARY KEY (u, e, k));
SELECT reactions.attach('test.returning', 'Returning', 'u', 'e', 'k', 'at', phase => 'switch_reads');
INSERT INTO test.returning VALUES (1, 1, 'Like', '2020-01-01'), (2, 1, 'Heart', '2020-01-01'), (3, 5, 'Like', '2020-01-01'), (3, 6, 'Like', '2020-01-01');
CALL reactions.advance('Returning', true);

-- No agent; then one that leads and does nothing.
CALL reactions.rollback('Returning');
SELECT pg_try_advisory_lock(1380013139, 1);
SELECT reactions._agent_pid() = pg_backend_pid(), (SELECT agent_pid FROM reactions.mirror_status) = pg_backend_pid();
-- A table that cannot take them.
ALTER TABLE test.returning ADD COLUMN more integer NOT NULL DEFAULT 1;
ALTER TABLE test.returning ALTER COLUMN more DROP DEFAULT;
CALL reactions.rollback('Returning');
ALTER TABLE test.returning DROP COLUMN more;
BEGIN;
CALL reactions.rollback('Returning');
ROLLBACK;
DELETE FROM reactions.write_back;

-- Cancelled while it waits.
SET statement_timeout = '300ms';
CALL reactions.rollback('Returning');
SET statement_timeout = '20s';
SELECT state, error, requested_by = session_user FROM reactions.write_backs;
SELECT phase FROM reactions.status() WHERE entity_type = 'Returning';

-- Two at a time; and one that nobody waits for.
SELECT reactions._request_write_back('Returning') AS request \gset
SELECT reactions._request_write_back('Returning');
UPDATE reactions.write_back SET awaited_at = awaited_at - interval '11 seconds' WHERE finished_at IS NULL;
SELECT reactions._write_back_page(:request, 0, '{}', '{}', '{}', '{}', '{}', 0, NULL);
SELECT reactions._withdraw_deserted();
SELECT state, error FROM reactions.write_backs ORDER BY write_back_id DESC LIMIT 1;

-- One type after the other.
CREATE TABLE test.second (LIKE test.returning INCLUDING ALL);
SELECT reactions.attach('test.second', 'Second', 'u', 'e', 'k', 'at', phase => 'switch_reads');
CALL reactions.advance('Second', true);
SELECT reactions._request_write_back('Returning') AS request, reactions._request_write_back('Second') AS second \gset
SELECT entity_type, state, waits_for FROM reactions.write_backs WHERE finished_at IS NULL ORDER BY write_back_id;
SELECT reactions._tell_write_back(w, 'Returning') FROM reactions.write_back w WHERE write_back_id = :request;
SELECT reactions._tell_write_back(w, 'Second') FROM reactions.write_back w WHERE write_back_id = :second;
SELECT state FROM reactions._await_write_back(:request, true);
SELECT reactions._tell_write_back(w, 'Second') FROM reactions.write_back w WHERE write_back_id = :second;
SELECT state FROM reactions._await_write_back(:second, true);
SELECT entity_type, waits_for FROM reactions.write_backs WHERE waits_for IS NOT NULL;
SELECT reactions._flip('Second', 'stop_writes', 'switch_reads', true, NULL);
SELECT reactions.detach('Second');
DROP TABLE test.second;

-- The agent's steps. Only the last one that took it up writes.
SELECT reactions._request_write_back('Returning') AS request \gset
UPDATE reactions.write_back SET term = 2 WHERE write_back_id = :request;
SELECT reactions._write_back_page(:request, 1, '{1}', '{1}', '{0}', '{1}', '{now}', 1, 1);
SELECT reactions._write_back_page(:request, 2, '{1,77,4}', '{1,1,1}', '{2,1,5}', '{1,0,0}', array_fill('2021-01-01'::timestamptz, '{3}'), 3, 77);
SELECT keys_done, users_done, state FROM reactions.write_back WHERE write_back_id = :request;
SELECT u, e, k, at FROM test.returning ORDER BY 1, 2, 3;
SELECT user_id, entity_id, flags, problem FROM reactions.write_back_refused;

-- A kind that is refused stays noted until it is written, or taken away again: within a call and in a later one.
SELECT reactions._write_back_page(:request, 2, '{77,77,78,78,78}', '{1,2,1,1,1}', '{6,3,1,2,0}', '{0,0,0,0,1}',
    array_fill('2021-01-01'::timestamptz, '{5}'), 5, 78);
SELECT user_id, entity_id, flags FROM reactions.write_back_refused ORDER BY 1, 2;
SELECT reactions._write_back_page(:request, 2, '{77,78,77}', '{1,1,2}', '{0,0,0}', '{3,2,8}', array_fill('2021-01-01'::timestamptz, '{3}'), 3, 78);
SELECT user_id, entity_id, flags FROM reactions.write_back_refused ORDER BY 1, 2;
INSERT INTO test.reactor VALUES (77);
SELECT reactions._write_back_page(:request, 2, '{77,77}', '{2,1}', '{1,4}', '{0,0}', array_fill('2021-01-01'::timestamptz, '{2}'), 2, 78);
SELECT user_id, entity_id, flags FROM reactions.write_back_refused ORDER BY 1, 2;
-- So does one that the table will not give up.
CREATE FUNCTION test.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'it stays'; END $$;
CREATE TRIGGER keep BEFORE DELETE ON test.returning FOR EACH ROW WHEN (OLD.u = 77) EXECUTE FUNCTION test.keep();
SELECT reactions._write_back_page(:request, 2, '{77}', '{1}', '{8}', '{4}', array_fill('2021-01-01'::timestamptz, '{1}'), 2, 78);
SELECT user_id, entity_id, flags, problem FROM reactions.write_back_refused WHERE entity_id = 1;
DROP TRIGGER keep ON test.returning;
SELECT reactions._write_back_page(:request, 2, '{77,77}', '{1,2}', '{0,0}', '{15,15}', array_fill('2021-01-01'::timestamptz, '{2}'), 2, 78);
SELECT count(*) FROM reactions.write_back_refused;
SELECT reactions._write_back_page(:request, 2, '{77}', '{1}', '{1}', '{0}', '{2021-01-01}', 1, 78);
SELECT reactions._write_back_page(:request, 2, '{80}', '{1}', '{1}', '{0}', '{2021-01-01}', 1, 80);

-- Events behind a snapshot, in version order; who and what is gone takes everything with it that came before.
INSERT INTO reactions._mirror DEFAULT VALUES ON CONFLICT DO NOTHING;
SELECT pg_current_snapshot() AS since \gset
SELECT reactions.react(5, 1, 'Like', 'Returning'), reactions.react(2, 1, 'Cry', 'Returning'), reactions.react(88, 1, 'Like', 'Returning');
CREATE FUNCTION test.gone(of_user bigint, of_entity bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO reactions._outbox_0
    SELECT reactions._draw_version(), pg_current_xact_id(), of_user, of_entity, now(), now(), 0, 0, t.type_id,
        CASE WHEN of_user > 0 THEN 'u' ELSE 'e' END, true
    FROM reactions.entity_type t WHERE t.entity_type = 'Returning'
$$;
SELECT test.gone(3, 0);
SELECT reactions.react(3, 6, 'Heart', 'Returning');
SELECT test.gone(0, 1);
SELECT reactions.react(1, 1, 'Laugh', 'Returning'), reactions.unreact(3, 6, 'Heart', 'Returning'), reactions.react(3, 6, 'Cry', 'Returning');
SELECT events FROM reactions._write_back_events(:request, 2, :'since', 3);
SELECT events, until AS until FROM reactions._write_back_events(:request, 2, :'since', 100) \gset
SELECT :events;
SELECT u, e, k FROM test.returning ORDER BY 1, 2, 3;
-- Of entity 1 nothing is left to be refused; again, nothing changes.
SELECT user_id, entity_id FROM reactions.write_back_refused;
SELECT events FROM reactions._write_back_events(:request, 2, :'since', 100);
SELECT u, e, k FROM test.returning ORDER BY 1, 2, 3;
SELECT events FROM reactions._write_back_events(:request, 2, :'until', 100);

-- An archive is in the way of a rollback, and the other way round.
SELECT obstacle FROM reactions._archive_obstacles((SELECT type_id FROM reactions.entity_type WHERE entity_type = 'Returning'), 'keep');
BEGIN;
UPDATE reactions.entity_type SET phase = 'archived' WHERE entity_type = 'Returning';
SELECT reactions._write_back_page(:request, 2, '{1}', '{1}', '{0}', '{15}', '{now}', 1, 1);
ROLLBACK;

-- The end: the last events, the phase, who asked. What was refused makes the maps absent.
SELECT reactions.react(99, 2, 'Cry', 'Returning');
SELECT epoch AS epoch FROM reactions.entity_type WHERE entity_type = 'Returning' \gset
SELECT reactions._finish_write_back(:request, 2, :'until', 0);
SELECT reactions._finish_write_back(:request, 2, :'until', 100);
SELECT phase, stop_version, epoch - :epoch FROM reactions.entity_type WHERE entity_type = 'Returning';
SELECT state, events_done, fence_ms >= 0 FROM reactions.write_backs WHERE write_back_id = :request;
SELECT from_phase, to_phase, changed_by = session_user, application FROM reactions.phase_log WHERE entity_type = 'Returning' ORDER BY phase_log_id DESC LIMIT 1;
SELECT user_id, flags, problem FROM reactions.write_back_refused;
SELECT reactions._finish_write_back(:request, 2, :'until', 100);
SELECT reactions._write_back_page(:request, 2, '{1}', '{1}', '{0}', '{15}', '{now}', 1, 1);
SELECT u, e, k FROM test.returning ORDER BY 1, 2, 3;

-- Nobody takes the type to stop_writes again, where it comes into view, without having looked at it.
SELECT required, actual, ok FROM reactions.readiness('Returning') WHERE condition = 'refused';
SELECT reactions.configure('Returning', acknowledged => '{refused}');
SELECT actual, ok FROM reactions.readiness('Returning') WHERE condition = 'refused';
SELECT reactions.configure('Returning', acknowledged => '{}');

-- What was refused, and is written after all, ClickHouse has already: the agent finds out what it changes. Maps do not have it, so that
-- they go when ClickHouse decides again.
INSERT INTO test.reactor VALUES (99);
CALL test.forget_events();
SELECT reactions.react(99, 2, 'Cry', 'Returning'), reactions.react(99, 3, 'Cry', 'Returning');
SELECT * FROM test.new_events();
SELECT epoch AS epoch FROM reactions.entity_type WHERE entity_type = 'Returning' \gset
CALL reactions.advance('Returning', true);
SELECT epoch - :epoch FROM reactions.entity_type WHERE entity_type = 'Returning';

-- A table that is gone.
SET client_min_messages = error;
DROP TABLE test.returning CASCADE;
RESET client_min_messages;
CALL reactions.rollback('Returning');
SELECT pg_advisory_unlock(1380013139, 1);
DROP TABLE test.reactor;
