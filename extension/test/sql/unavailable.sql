-- Redis is not configured, or not there: reads say so, and writes go on.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CALL test.forget_events();
CREATE TABLE test.image_reaction (user_id bigint, image_id bigint, kind text, PRIMARY KEY (user_id, image_id, kind));
SELECT reactions.attach('test.image_reaction', 'Away', 'user_id', 'image_id', 'kind', phase => 'switch_reads');
SELECT reactions.add_entity_type('Afar');

-- Not configured: an error whatever on_unavailable says, because nothing will mend it by itself.
\set VERBOSITY sqlstate
SELECT reactions.flags(1, 1, 'Away');
SELECT reactions.flags(1, 1, 'Afar');
SET reactions.on_unavailable = 'null';
SELECT reactions.flags(1, 1, 'Away');
SELECT reactions.react(1, 1, 'Like', 'Away'), reactions.react(1, 1, 'Like', 'Afar');

-- Not there.
SET reactions.redis_url = 'unix:///no/such/socket?db=0';
SELECT reactions.flags(1, 1, 'Away') IS NULL, reactions.flags(1, 1, 'Afar') IS NULL;
SELECT entity_id, flags IS NULL FROM reactions.flags_many(1, '{1,2}', 'Away');
SELECT * FROM reactions.by_user(1, entity_type => 'Away');
SELECT reactions.invalidate('Away', 1);
SET reactions.on_unavailable = 'error';
SELECT reactions.flags(1, 1, 'Away');
SELECT * FROM reactions.flags_many(1, '{1,2}', 'Afar');
SELECT reactions.toggle(1, 1, 'Like', 'Afar');
SELECT reactions.invalidate('Away');
SELECT reactions.invalidate('Away', NULL, NULL);
\set VERBOSITY default

-- Writes.
SELECT reactions.set_flags(2, 2, 3, 'Away'), reactions.toggle(2, 2, 'Cry', 'Away');
INSERT INTO test.image_reaction VALUES (3, 3, 'Heart');
SELECT * FROM test.new_events();
SELECT * FROM test.folded('Away') ORDER BY 1;
SELECT user_id, kind FROM test.image_reaction ORDER BY 1, 2;

-- A transaction that has written reads the table, which needs nobody.
BEGIN;
SELECT reactions.react(4, 4, 'Like', 'Away');
SELECT reactions.flags(4, 4, 'Away');
ROLLBACK;

-- Phases of a type without a table need Redis or ClickHouse also then, except for what the outbox knows.
BEGIN;
SELECT reactions.set_flags(5, 5, 3, 'Afar');
SELECT reactions.toggle(5, 5, 'Like', 'Afar');
COMMIT;

SELECT "check", ok FROM reactions.doctor() WHERE "check" IN ('agent_running', 'parked_events', 'match', 'capture_Away') ORDER BY 1;
SELECT reactions.detach('Away');
DROP TABLE test.image_reaction;
