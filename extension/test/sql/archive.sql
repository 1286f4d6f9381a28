-- What an archive's manifest says of a table makes the table anew.
CREATE DATABASE archive_test;
\c archive_test
\set VERBOSITY terse
CREATE EXTENSION pg_reactions;
CREATE ROLE regress_owner;
CREATE ROLE regress_app;
CREATE SCHEMA app;
GRANT USAGE, CREATE ON SCHEMA app TO regress_owner;
SET ROLE regress_owner;
CREATE TABLE app.users (id integer PRIMARY KEY);
CREATE TABLE app.albums (id integer PRIMARY KEY);
INSERT INTO app.albums SELECT generate_series(1, 10);
CREATE TABLE app.pages (entity integer, album integer, PRIMARY KEY (entity, album));
INSERT INTO app.pages VALUES (1, 2), (7, 2), (1, 8);
CREATE TYPE app."Kind of" AS ENUM ('Like', 'two words', 'it''s', '"quoted"');
CREATE TYPE app.pair AS (a integer, b text);
CREATE TABLE app."Odd, table" (
    id serial PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY (START 1000 INCREMENT 5 MAXVALUE 9223372036854775806),
    "user Id" integer NOT NULL REFERENCES app.users ON DELETE CASCADE,
    entity integer NOT NULL,
    album integer DEFAULT 2 REFERENCES app.albums ON DELETE SET NULL,
    other_album integer DEFAULT 4 REFERENCES app.albums ON DELETE SET DEFAULT,
    kind app."Kind of" NOT NULL DEFAULT 'two words',
    flag boolean, padded character(5), raw bytea, amount numeric(12, 3), ratio double precision, doc jsonb, tags text[],
    kinds app."Kind of"[], pair app.pair, at timestamptz DEFAULT now(), span interval, address inet,
    "no,te" text COLLATE "C",
    doubled integer GENERATED ALWAYS AS (entity * 2) STORED,
    CONSTRAINT page FOREIGN KEY (entity, album) REFERENCES app.pages ON DELETE SET NULL (album),
    CONSTRAINT positive CHECK (entity > 0),
    UNIQUE ("user Id", entity, kind) INCLUDE (at)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX "by, time" ON app."Odd, table" (at DESC NULLS LAST) WHERE flag;
CREATE INDEX on_expression ON app."Odd, table" (lower("no,te") text_pattern_ops);
ALTER TABLE app."Odd, table" CLUSTER ON "Odd, table_pkey";
CREATE STATISTICS app.together ON entity, kind FROM app."Odd, table";
ALTER TABLE app."Odd, table" ALTER entity SET STATISTICS 500;
ALTER TABLE app."Odd, table" ALTER "no,te" SET STORAGE EXTERNAL;
COMMENT ON TABLE app."Odd, table" IS 'it''s odd';
COMMENT ON COLUMN app."Odd, table".kind IS 'which';
COMMENT ON CONSTRAINT positive ON app."Odd, table" IS 'no zero';
COMMENT ON INDEX app.on_expression IS 'lower';
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touch BEFORE UPDATE OF entity ON app."Odd, table" FOR EACH ROW WHEN (NEW.entity > 5) EXECUTE FUNCTION app.touch();
ALTER TABLE app."Odd, table" DISABLE TRIGGER touch;
GRANT SELECT, INSERT ON app."Odd, table" TO regress_app WITH GRANT OPTION;
GRANT UPDATE (flag) ON app."Odd, table" TO PUBLIC;
GRANT USAGE ON SEQUENCE app."Odd, table_id_seq" TO regress_app;
INSERT INTO app.users SELECT generate_series(1, 10);
INSERT INTO app."Odd, table" ("user Id", entity, kind, flag, padded, raw, amount, ratio, doc, tags, kinds, pair, at, span, address, "no,te") VALUES
    (1, 1, 'Like', true, 'ab', '\x00ff', 1.500, 0.1, '{"a": "x,\"y\""}', '{a,"b c",NULL,""}', '{two words,"\"quoted\""}', '(1,"a b")', '2020-02-29 12:00+05', '1 mon 2 days', '10.0.0.1', E'line\nbreak, "quoted" \\back\tslash'),
    (2, 1, 'it''s', false, '', '', 0, 'NaN', 'null', '{}', NULL, '(,)', '1999-12-31 23:59:59.123456-08', NULL, '::1/64', ''),
    (3, 7, '"quoted"', NULL, NULL, NULL, NULL, '-Infinity', NULL, NULL, NULL, NULL, 'infinity', NULL, NULL, NULL),
    (4, 7, 'two words', true, 'ü', '\x22', 99, 1e300, '[1, 2]', '{ü,"\\"}', '{}', '(2,"")', '-infinity', '-1 s', '10.0.0.0/8', E'Größe 漢字 \U0001F600 \\.\r\n\\N');
RESET ROLE;

CREATE TABLE kept AS SELECT reactions._table_description('app."Odd, table"') AS description;
\pset format unaligned
SELECT jsonb_pretty(description) FROM kept;
SELECT * FROM reactions._archived_columns('app."Odd, table"');
-- The checksum is over the lines that COPY writes, in whatever order.
SET timezone = 'UTC';
\copy (SELECT id, number, "user Id", entity, album, other_album, kind, flag, padded, raw, amount, ratio, doc, tags, kinds, pair, at, span, address, "no,te" FROM app."Odd, table") TO /tmp/pg_reactions_archive_test.csv (FORMAT csv, FORCE_QUOTE *)
SELECT pg_read_file('/tmp/pg_reactions_archive_test.csv') AS file \gset
SELECT format('SELECT %s AS of_table FROM app."Odd, table"', (reactions._archived_columns('app."Odd, table"')).checksum) AS statement \gset
:statement \gset
-- Records end with a line feed that has an even number of quotes before it.
WITH RECURSIVE record (number, line, rest) AS (
    SELECT 0, NULL, :'file'
    UNION ALL
    SELECT number + 1, m[1], substr(rest, length(m[1]) + 2)
    FROM record, regexp_match(rest, '^((?:[^"\n]|"(?:[^"]|"")*")*)\n') AS m WHERE rest <> ''
)
SELECT max(number) AS records,
    sum(('x' || encode(substring(sha256(convert_to(line, 'UTF8')) FROM 1 FOR 8), 'hex'))::bit(64)::bigint) = :of_table AS agrees FROM record;
\! rm -f /tmp/pg_reactions_archive_test.csv

-- Gone, and made anew.
CREATE TABLE rows_kept AS SELECT id, number, "user Id", entity, album, other_album, kind, flag, padded, raw, amount, ratio, doc, tags, kinds, pair, at, span, address, "no,te", doubled FROM app."Odd, table";
DROP TABLE app."Odd, table";
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, regress_app;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC, regress_app;
SELECT reactions._restore_table(description, 'a', 'Odd, table') FROM kept;
SELECT reactions._restore_table(description, 'a', 'Odd, table') FROM kept;
SELECT reactions._restore_table(description, 'b', 'Odd, table') FROM kept;
-- What it can no longer have is found before a row is loaded, and nothing is left of the attempt.
DROP TABLE app."Odd, table";
\set VERBOSITY default
\set SHOW_CONTEXT never
ALTER TABLE app.users RENAME id TO user_no;
SELECT reactions._restore_table(description, 'a', 'Odd, table') FROM kept;
\set VERBOSITY terse
ALTER TABLE app.users RENAME user_no TO id;
SELECT to_regclass('app."Odd, table"');
SELECT reactions._restore_table(description, 'a', 'Odd, table') FROM kept;
-- Until it has its privileges it is its owner's alone.
SELECT c.relname, g.grantee, g.privilege_type FROM pg_class c, aclexplode(c.relacl) g WHERE c.relname LIKE 'Odd, table%' AND g.grantee <> c.relowner;
INSERT INTO app."Odd, table" (id, number, "user Id", entity, album, other_album, kind, flag, padded, raw, amount, ratio, doc, tags, kinds, pair, at, span, address, "no,te")
    OVERRIDING SYSTEM VALUE
    SELECT id, number, "user Id", entity, album, other_album, kind, flag, padded, raw, amount, ratio, doc, tags, kinds, pair, at, span, address, "no,te" FROM rows_kept;
-- A user has gone meanwhile, an album, and a page of another.
DELETE FROM app.users WHERE id = 3;
UPDATE app."Odd, table" SET album = CASE id WHEN 1 THEN 7 ELSE 8 END, other_album = CASE id WHEN 1 THEN 7 ELSE 8 END;
DELETE FROM app.albums WHERE id = 7;
SELECT s.* FROM kept, reactions._restore_steps(description, 'app."Odd, table"') s;
SELECT s.statement FROM kept, reactions._restore_steps(description, 'app."Odd, table"') s \gexec
SELECT p.* FROM kept, reactions._restore_properties(description, 'app."Odd, table"') p;
SELECT description = reactions._table_description('app."Odd, table"') AS same FROM kept;
SELECT id, album, other_album FROM app."Odd, table" ORDER BY id;
UPDATE app."Odd, table" SET album = DEFAULT, other_album = DEFAULT;
TABLE app."Odd, table" EXCEPT TABLE rows_kept;
SELECT id, "user Id" FROM (TABLE rows_kept EXCEPT TABLE app."Odd, table") missing;
-- Under another name, and by a cluster that lacks a role.
SELECT jsonb_set(jsonb_set(jsonb_set(description, '{sequences}', '[]'), '{columns,0}', '{"name": "id", "type": "integer", "not_null": true}'), '{owner}', '"regress_gone"') #- '{indexes}' #- '{constraints}' #- '{statistics}' AS description FROM kept \gset
SELECT reactions._restore_table(:'description', 'a', 'other');
SELECT p.* FROM reactions._restore_properties(:'description', 'app.other') p;

\pset format aligned
-- What stands in the way of a rename or drop.
CREATE TABLE legacy (user_id bigint, image_id bigint, kind text, PRIMARY KEY (user_id, image_id, kind));
SELECT reactions.attach('legacy', 'Image', 'user_id', 'image_id', 'kind');
SELECT * FROM reactions._archive_obstacles(1::smallint, 'drop');
CREATE VIEW legacy_view AS SELECT * FROM legacy;
CREATE MATERIALIZED VIEW legacy_summary AS SELECT count(*) FROM legacy;
CREATE TABLE pointing (user_id bigint, image_id bigint, kind text, FOREIGN KEY (user_id, image_id, kind) REFERENCES legacy);
CREATE PUBLICATION legacy_publication FOR TABLE legacy;
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE FUNCTION atomic() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM legacy; END;
CREATE FUNCTION mentions() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM public."legacy"); END';
CREATE FUNCTION no_mention() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM legacy_2); END';
CREATE POLICY nobody ON legacy USING (false);
SELECT * FROM reactions._archive_obstacles(1::smallint, 'rename');
SELECT count(*) FROM reactions._archive_obstacles(1::smallint, 'drop');
SELECT count(*) FROM reactions._archive_obstacles(1::smallint, 'keep');

\c regression
DROP DATABASE archive_test;
DROP ROLE regress_owner, regress_app;
