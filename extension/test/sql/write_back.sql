-- What a frozen table has missed, written back into it without events.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CREATE TABLE test.person (id integer PRIMARY KEY);
INSERT INTO test.person SELECT generate_series(1, 5);
CREATE TYPE test.back_kind AS ENUM ('like', 'Heart', 'Laugh', 'Cry', 'Dislike');
CREATE TABLE test.back (
    id serial PRIMARY KEY, u integer NOT NULL REFERENCES test.person ON DELETE CASCADE, e integer NOT NULL CHECK (e < 1000), k test.back_kind NOT NULL,
    at timestamp NOT NULL DEFAULT '2020-01-01', source text NOT NULL, UNIQUE (u, e, k));
SELECT reactions.attach('test.back', 'Back', 'u', 'e', 'k', 'at', kind_map => '{"like": "Like", "Dislike": null}', extra_values => '{"source": "back"}');
INSERT INTO test.back (u, e, k, source) VALUES (1, 1, 'like', 'app'), (1, 1, 'Cry', 'app'), (1, 2, 'Dislike', 'app'), (2, 1, 'like', 'app');
CALL test.forget_events();
SELECT * FROM reactions._write_back('Back', '{1}', '{1}', '{1}', '{0}', '{now}');
CALL reactions.advance('Back', true);
CALL reactions.advance('Back', true);
CALL reactions.advance('Back', true);
SELECT phase, stop_version > 0 FROM reactions.entity_type WHERE entity_type = 'Back';

-- In the order of the arrays; times as UTC; kinds that are skipped stay; no event.
SET timezone = 'Asia/Tokyo';
SELECT * FROM reactions._write_back('Back', '{1,1,2,3,3}', '{1,2,1,7,7}', '{3,0,0,1,2}', '{12,15,15,0,1}',
    '{2021-01-01 00:00+00, 2021-01-02 00:00+00, 2021-01-03 00:00+00, 2021-01-04 00:00+00, 2021-01-05 00:00+00}');
RESET timezone;
SELECT u, e, k, at, source FROM test.back ORDER BY u, e, k;
SELECT * FROM test.new_events();

-- What the table refuses is told, the rest is done.
CREATE FUNCTION test.no_five() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.e = 5 THEN RAISE 'no fives'; END IF; RETURN NEW; END $$;
CREATE TRIGGER no_five BEFORE INSERT ON test.back FOR EACH ROW EXECUTE FUNCTION test.no_five();
SELECT * FROM reactions._write_back('Back', '{4,99,4,4,5,4}', '{1,1,2000,5,1,3000000000}', '{1,1,1,1,1,1}', '{0,0,0,0,0,0}',
    array_fill('2021-01-01 00:00+00'::timestamptz, '{6}'));
SELECT u, e, k FROM test.back WHERE u > 3 ORDER BY 1, 2, 3;
SELECT * FROM test.new_events();
-- What was taken away stays away although what was set is refused, and of several kinds only that one is missing.
ALTER TABLE test.back ADD CONSTRAINT no_cry CHECK (k <> 'Cry' OR u <> 4);
SELECT * FROM reactions._write_back('Back', '{4}', '{6}', '{1}', '{0}', '{2021-01-01}');
SELECT * FROM reactions._write_back('Back', '{4}', '{6}', '{14}', '{1}', '{2021-01-02}');
SELECT u, e, k FROM test.back WHERE u = 4 AND e = 6 ORDER BY k;
ALTER TABLE test.back DROP CONSTRAINT no_cry;
-- A constraint that is deferred refuses at once, too.
ALTER TABLE test.back ALTER CONSTRAINT back_u_fkey DEFERRABLE INITIALLY DEFERRED;
SELECT * FROM reactions._write_back('Back', '{99}', '{1}', '{1}', '{0}', '{now}');

-- What is no refusal is an error, and nothing is written.
SELECT * FROM reactions._write_back('Back', '{4,4}', '{11,12}', '{1,1024}', '{0,0}', '{now,now}');
ALTER TABLE test.back ADD COLUMN late integer NOT NULL DEFAULT 0;
ALTER TABLE test.back ALTER COLUMN late DROP DEFAULT;
SELECT * FROM reactions._write_back('Back', '{4}', '{11}', '{1}', '{0}', '{now}');
ALTER TABLE test.back DROP COLUMN late;
ALTER TABLE test.back RENAME COLUMN source TO origin;
SELECT * FROM reactions._write_back('Back', '{4}', '{11}', '{1}', '{0}', '{now}');
ALTER TABLE test.back RENAME COLUMN origin TO source;
SELECT count(*) FROM test.back WHERE e > 10;
SELECT * FROM reactions._write_back('Back', '{4}', '{1,2}', '{1}', '{0}', '{now}');
SELECT * FROM reactions._write_back('Back', '{4}', '{1}', '{1}', '{0}', '{NULL}');
SELECT * FROM reactions._write_back('Back', '{}', '{}', '{}', '{}', '{}');

-- An exclusive type: the row is replaced, time included.
CREATE TABLE test.one (u bigint, e bigint, k text NOT NULL, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (u, e));
SELECT reactions.attach('test.one', 'One', 'u', 'e', 'k', 'at', mode => 'exclusive');
INSERT INTO test.one VALUES (1, 1, 'Like', '2020-01-01'), (1, 2, 'Like', '2020-01-01'), (1, 3, 'Like', '2020-01-01');
CALL reactions.advance('One', true);
CALL reactions.advance('One', true);
CALL reactions.advance('One', true);
CALL test.forget_events();
SELECT * FROM reactions._write_back('One', '{1,1,1,1}', '{1,2,3,4}', '{2,0,1,4}', '{13,15,14,11}', array_fill('2021-01-01'::timestamptz, '{4}'));
SELECT u, e, k, at::date FROM test.one ORDER BY 1, 2;
ALTER TABLE test.one ADD CONSTRAINT no_cry CHECK (k <> 'Cry');
SELECT * FROM reactions._write_back('One', '{1}', '{1}', '{8}', '{7}', '{2021-01-02}');
SELECT u, e, k FROM test.one WHERE e = 1;
SELECT * FROM test.new_events();

-- Whoever goes back draws another version the next time.
SELECT reactions._flip('One', 'stop_writes', 'switch_reads', false, NULL);
SELECT phase, stop_version FROM reactions.entity_type WHERE entity_type = 'One';
SELECT reactions.detach('One');
SELECT reactions._flip('Back', 'stop_writes', 'switch_reads', false, NULL);
SELECT reactions.detach('Back');
DROP TABLE test.one, test.back, test.person;
DROP TYPE test.back_kind;

-- Configuring.
SELECT reactions.configure('Back', direct_inserts => 'swallow');
SELECT reactions.configure('Back', auto_advance => '[]');
SELECT reactions.configure('Back', auto_advance => '{"stop_writes": "1 day"}');
SELECT reactions.configure('Back', auto_advance => '{"attached": "soon"}');
SELECT reactions.configure('Back', auto_advance => '{"attached": "-1 day"}');
SELECT reactions.configure('Back', auto_advance => '{"attached": null}');
SELECT reactions.configure('Back', acknowledged => '{views,weather}');
SELECT reactions.configure('Back', acknowledged => '{NULL}');
SELECT reactions.configure('None', direct_inserts => 'redirect');
SELECT reactions.configure('Back', direct_inserts => 'redirect');
SELECT reactions.configure('Back', auto_advance => '{"attached": "1 hour", "switch_reads": "7 days"}', acknowledged => '{views}');
SELECT direct_inserts, auto_advance, acknowledged FROM reactions.entity_type WHERE entity_type = 'Back';
SELECT reactions.configure('Back', acknowledged => '{}');
SELECT direct_inserts, auto_advance, acknowledged FROM reactions.entity_type WHERE entity_type = 'Back';
