-- Users and entities that are forgotten.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CREATE TABLE test.remembered (u integer NOT NULL, e integer NOT NULL, k text NOT NULL, UNIQUE (u, e, k));
CREATE INDEX ON test.remembered (u);
SELECT reactions.attach('test.remembered', 'Remembered', 'u', 'e', 'k');
SELECT reactions.add_entity_type('Recalled');
-- Other tests leave detached types.
SET client_min_messages = warning;
INSERT INTO test.remembered VALUES (701, 10, 'Like'), (701, 10, 'Cry'), (701, 11, 'Like'), (702, 10, 'Like'), (703, 10, 'Heart');
SET reactions.on_unavailable = 'null';
SELECT reactions.react(701, 10, 'Like', 'Recalled'), reactions.react(702, 10, 'Like', 'Recalled');
CALL test.forget_events();

-- Every type: what its table has is deleted and captured, and one event says that the user is gone.
CREATE FUNCTION test.of_types() RETURNS SETOF record LANGUAGE sql AS $$
    SELECT e.* FROM test.new_events() e WHERE e.type IN ('Remembered', 'Recalled')
$$;
CALL reactions.forget_user(701);
SELECT * FROM test.of_types() AS (type text, "user" bigint, entity bigint, sets text, clears text, known boolean, scope "char");
SELECT * FROM test.remembered ORDER BY u, e, k;
SELECT user_id, entity_type, state, table_rows, clickhouse_rows, requested_by = session_user, finished_at
FROM reactions.forgotten_users WHERE entity_type IN ('Remembered', 'Recalled') ORDER BY entity_type;
-- The tombstone has the highest version that the user's events have.
SELECT f.version = max(o.version) FROM reactions.forgotten_user f, reactions._outbox o WHERE o.user_id = 701 GROUP BY f.version;
SELECT ok, detail FROM reactions.doctor() WHERE "check" = 'erasures';
UPDATE reactions.forgotten_user SET requested_at = requested_at - interval '2 days';
SELECT ok, detail, hint FROM reactions.doctor() WHERE "check" = 'erasures';

-- Whoever comes back may be forgotten again; a user without anything, too.
INSERT INTO test.remembered VALUES (701, 12, 'Like');
CALL test.forget_events();
CALL reactions.forget_user(701);
CALL reactions.forget_user(799);
SELECT user_id, table_rows FROM reactions.forgotten_users WHERE entity_type = 'Remembered' ORDER BY version;
SELECT scope, count(*) FROM test.of_types() AS (type text, "user" bigint, entity bigint, sets text, clears text, known boolean, scope "char") GROUP BY 1 ORDER BY 1;

-- A snapshot from before the fence would miss what others commit meanwhile.
SET default_transaction_isolation = 'repeatable read';
CALL reactions.forget_user(798);
RESET default_transaction_isolation;

-- Whoever administers the reactions owns neither the table nor the extension.
SET ROLE reactions_admin;
CALL reactions.forget_user(797);
SELECT reactions.forget_entity(797, 'Remembered'), reactions.forget_entity(797, 'Recalled');
SELECT user_id, requested_by = session_user FROM reactions.forgotten_user WHERE user_id = 797;
RESET ROLE;

-- What the agent says in the end; what else names the user is deleted.
INSERT INTO reactions.mismatch (type_id, user_id, entity_id, in_table, in_cache, read_at)
SELECT type_id, u, 10, 1, 0, clock_timestamp() - interval '3 days' FROM reactions.entity_type, unnest(ARRAY[701, 702]) u WHERE entity_type = 'Remembered';
SELECT reactions._erased(701, version, '{"Remembered": {"clickhouse": 6, "maps": 1}}') FROM reactions.forgotten_user WHERE user_id = 701 ORDER BY version LIMIT 1;
SELECT state, table_rows, clickhouse_rows, user_maps, finished_at IS NOT NULL FROM reactions.forgotten_users
WHERE user_id = 701 AND entity_type IN ('Remembered', 'Recalled') ORDER BY version, entity_type;
SELECT user_id FROM reactions.mismatch ORDER BY user_id;
DELETE FROM reactions.mismatch;

-- An entity: rows of a table are captured one by one, else there is one event.
SELECT reactions.forget_entity(10, 'Remembered'), reactions.forget_entity(10, 'Recalled'), reactions.forget_entity(77, 'Remembered');
SELECT * FROM test.of_types() AS (type text, "user" bigint, entity bigint, sets text, clears text, known boolean, scope "char");
SELECT count(*) FROM test.remembered;

-- A frozen table loses the rows without events, but for the one that says who is gone.
INSERT INTO test.remembered VALUES (705, 10, 'Like'), (706, 10, 'Like'), (707, 11, 'Like');
CALL reactions.advance('Remembered', true);
CALL reactions.advance('Remembered', true);
CALL reactions.advance('Remembered', true);
CALL test.forget_events();
CALL reactions.forget_user(705);
SELECT reactions.forget_entity(10, 'Remembered');
SELECT * FROM test.of_types() AS (type text, "user" bigint, entity bigint, sets text, clears text, known boolean, scope "char");
SELECT * FROM test.remembered;

-- Refused.
\set VERBOSITY sqlstate
CALL reactions.forget_user(NULL);
SELECT reactions.forget_entity(NULL);
SELECT reactions.forget_entity(1, 'None');
BEGIN;
CALL reactions.forget_user(701);
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT reactions.forget_entity(1, 'Recalled');
ROLLBACK;
SET ROLE reactions_writer;
CALL reactions.forget_user(701);
SELECT reactions.forget_entity(1, 'Recalled');
RESET ROLE;
DROP TABLE test.remembered;
