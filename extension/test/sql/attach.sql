-- Attaching a table: what is refused, and what is taken.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CALL test.forget_events();
CREATE TYPE test.reaction_kind AS ENUM ('Like', 'Heart', 'Laugh', 'Cry');
CREATE TABLE test.good (u bigint, e bigint, k test.reaction_kind, at timestamptz DEFAULT now(), PRIMARY KEY (u, e, k));

-- Not an ordinary table.
CREATE VIEW test.a_view AS SELECT * FROM test.good;
CREATE TABLE test.partitioned (u bigint, e bigint, k text, PRIMARY KEY (u, e, k)) PARTITION BY HASH (u);
CREATE TABLE test.a_partition PARTITION OF test.partitioned FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE test.parent (u bigint, e bigint, k text, PRIMARY KEY (u, e, k));
CREATE TABLE test.child (PRIMARY KEY (u, e, k)) INHERITS (test.parent);
CREATE UNLOGGED TABLE test.unlogged (u bigint, e bigint, k text, PRIMARY KEY (u, e, k));
CREATE TEMPORARY TABLE temporary (u bigint, e bigint, k text, PRIMARY KEY (u, e, k));
SELECT reactions.attach('test.a_view', 'Bad', 'u', 'e', 'k');
SELECT reactions.attach('test.partitioned', 'Bad', 'u', 'e', 'k');
SELECT reactions.attach('test.a_partition', 'Bad', 'u', 'e', 'k');
SELECT reactions.attach('test.parent', 'Bad', 'u', 'e', 'k');
SELECT reactions.attach('test.child', 'Bad', 'u', 'e', 'k');
SELECT reactions.attach('test.unlogged', 'Bad', 'u', 'e', 'k');
SELECT reactions.attach('temporary', 'Bad', 'u', 'e', 'k');
SELECT reactions.attach('test.no_such_table', 'Bad', 'u', 'e', 'k');
SET client_min_messages = error;
CREATE SUBSCRIPTION regress_subscription CONNECTION 'dbname=none' PUBLICATION none WITH (connect = false, slot_name = NONE);
RESET client_min_messages;
INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)
SELECT oid, 'test.good'::regclass, 'r' FROM pg_subscription WHERE subname = 'regress_subscription';
SELECT reactions.attach('test.good', 'Bad', 'u', 'e', 'k');
DROP SUBSCRIPTION regress_subscription;

-- Statements of the functions would be taken for those of a foreign key.
ALTER TABLE test.good FORCE ROW LEVEL SECURITY;
SELECT reactions.attach('test.good', 'Bad', 'u', 'e', 'k');
ALTER TABLE test.good NO FORCE ROW LEVEL SECURITY;

-- No unique index that orders concurrent changes.
CREATE TABLE test.bare (u bigint NOT NULL, e bigint NOT NULL, k text NOT NULL, at timestamp, note text);
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k');
\set VERBOSITY sqlstate
CREATE UNIQUE INDEX partial ON test.bare (u, e, k) WHERE u > 0;
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k');
CREATE UNIQUE INDEX expression ON test.bare (u, e, lower(k));
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k');
CREATE UNIQUE INDEX more ON test.bare (u, e, k, at);
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k');
ALTER TABLE test.bare ADD CONSTRAINT late UNIQUE (u, e, k) DEFERRABLE;
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k');
DROP INDEX test.expression;
CREATE UNIQUE INDEX in_any_order ON test.bare (k, u, e) INCLUDE (at);
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k', mode => 'exclusive');
\set VERBOSITY default

-- Columns.
SELECT reactions.attach('test.bare', 'Bad', 'user_id', 'e', 'k');
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k', 'created');
SELECT reactions.attach('test.bare', 'Bad', 'k', 'e', 'u');
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'e');
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k', 'note');
SELECT reactions.attach('test.bare', 'Bad', 'u', 'u', 'k');
ALTER TABLE test.bare ALTER u DROP NOT NULL;
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k');
ALTER TABLE test.bare ALTER u SET NOT NULL, ADD source text NOT NULL;
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k');
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k', extra_values => '{"source": null}');
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k', extra_values => '{"source": "app", "no_such_column": 1}');
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k', extra_values => '{"source": {"deep": 1}}');

-- Arguments.
SELECT reactions.attach(NULL, 'Bad', 'u', 'e', 'k');
SELECT reactions.attach('test.good', 'Bad', 'u', 'e', 'k', phase => 'archived');
SELECT reactions.attach('test.good', 'Bad', 'u', 'e', 'k', unknown_kinds => 'ignore');
SELECT reactions.attach('test.good', 'Bad', 'u', 'e', 'k', kind_map => '[]');
SELECT reactions.attach('test.good', 'Bad', 'u', 'e', 'k', mode => 'single');
SELECT reactions.attach('test.good', 'Bad thing', 'u', 'e', 'k');

-- Labels of an enum that are no kinds.
ALTER TYPE test.reaction_kind ADD VALUE 'Dislike';
ALTER TYPE test.reaction_kind ADD VALUE 'Angry';
SELECT reactions.attach('test.good', 'Bad', 'u', 'e', 'k');
SELECT reactions.attach('test.good', 'Bad', 'u', 'e', 'k', kind_map => '{"Dislike": null, "Angry": "Rage"}');
SELECT reactions.attach('test.good', 'Bad', 'u', 'e', 'k', kind_map => '{"Dislike": null, "Angry": "Cry"}');
SELECT reactions.attach('test.bare', 'Bad', 'u', 'e', 'k', kind_map => '{"love": "Heart"}', extra_values => '{"source": "app"}');
SELECT entity_type FROM reactions.entity_type WHERE entity_type = 'Bad';
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'reactions%';

-- Only the owner, who also needs the privilege to configure.
CREATE ROLE regress_owner;
CREATE ROLE regress_admin IN ROLE reactions_admin;
CREATE TABLE test.owned (u integer, e smallint, k varchar(8), PRIMARY KEY (u, e, k));
ALTER TABLE test.owned OWNER TO regress_owner;
GRANT USAGE, CREATE ON SCHEMA test TO regress_owner, regress_admin;
SET ROLE regress_admin;
SELECT reactions.attach('test.owned', 'Owned', 'u', 'e', 'k');
SET ROLE regress_owner;
SELECT reactions.attach('test.owned', 'Owned', 'u', 'e', 'k');
RESET ROLE;
GRANT regress_owner TO regress_admin;
SET ROLE regress_admin;
SELECT reactions.attach('test.owned', 'Owned', 'u', 'e', 'k');
SELECT reactions.react(1, 1, 'Like', 'Owned');
SELECT reactions.detach('Owned');
RESET ROLE;
SELECT phase, backfilled FROM reactions.status() WHERE entity_type = 'Owned';

-- What is taken: labels mapped and skipped, columns with values of their own.
SELECT reactions.attach('test.good', 'Photo', 'u', 'e', 'k', 'at', kind_map => '{"Dislike": null, "Cry": null, "Angry": "Cry"}');
SELECT reactions.attach('test.good', 'Second', 'u', 'e', 'k');
SELECT reactions.attach('test.bare', 'Photo', 'u', 'e', 'k', extra_values => '{"source": "app"}');
SELECT entity_type, mode, phase, legacy_table, kinds, epoch, backfilled FROM reactions.status() WHERE entity_type = 'Photo';
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'test.good'::regclass AND NOT tgisinternal ORDER BY 1;
CALL test.forget_events();
INSERT INTO test.good (u, e, k) VALUES (1, 1, 'Like'), (1, 1, 'Dislike'), (1, 2, 'Angry'), (2, 2, 'Dislike');
SELECT * FROM test.new_events();
SELECT * FROM test.differences('Photo');
SELECT reactions.flags(1, 1, 'Photo'), reactions.flags(1, 2, 'Photo'), reactions.flags(2, 2, 'Photo');
SELECT reactions.react(3, 3, 'Cry', 'Photo');
SELECT k FROM test.good WHERE u = 3;

SET client_min_messages = error;
SELECT reactions.attach('test.bare', 'Bare', 'u', 'e', 'k', 'at', extra_values => '{"source": "app", "note": "it''s", "at": "now"}');
RESET client_min_messages;
SELECT reactions.set_flags(1, 1, 5, 'Bare');
SELECT u, e, k, source, note, at > 'today' FROM test.bare ORDER BY k;
INSERT INTO test.bare VALUES (1, 2, 'like', NULL, '', '');
INSERT INTO test.bare VALUES (1, 2, 'Like', '2001-02-03 04:05:06', '', '');
SELECT created_at AT TIME ZONE 'UTC' FROM reactions._outbox ORDER BY version DESC LIMIT 1;

-- Detach, which is final for the events, and attach again, which keeps type, kinds and keys.
SELECT type_id AS before FROM reactions.entity_type WHERE entity_type = 'Photo' \gset
CALL test.forget_events();
SELECT reactions.detach('Photo');
SELECT reactions.detach('Photo');
SELECT reactions.detach('Nothing');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'test.good'::regclass AND NOT tgisinternal;
DELETE FROM test.good WHERE u = 1;
SELECT count(*) FROM test.new_events();
SELECT reactions.flags(1, 1, 'Photo');
SELECT reactions.react(1, 1, 'Like', 'Photo');
SELECT reactions.attach('test.good', 'Photo', 'u', 'e', 'k', mode => 'exclusive', unknown_kinds => 'skip');
ALTER TABLE test.good ADD UNIQUE (u, e);
SELECT reactions.attach('test.good', 'Photo', 'u', 'e', 'k', mode => 'exclusive', unknown_kinds => 'skip');
SELECT reactions.attach('test.good', 'Photo', 'u', 'e', 'k', unknown_kinds => 'skip');
SELECT type_id = :before, backfilled, epoch, phase FROM reactions.entity_type WHERE entity_type = 'Photo';
SELECT from_phase, to_phase FROM reactions.phase_log WHERE entity_type = 'Photo' ORDER BY phase_log_id;

-- A type without a table cannot be detached, a table whose capture was dropped by hand can, and so can one that is gone.
SELECT reactions.add_entity_type('Native');
SELECT reactions.detach('Native');
DROP TRIGGER reactions_capture_1_insert ON test.good;
SELECT "check", ok, detail, hint FROM reactions.doctor() WHERE "check" = 'capture_Photo';
SELECT reactions.detach('Photo');
DROP TABLE test.bare;
\set VERBOSITY terse
SELECT reactions.react(1, 1, 'Like', 'Bare');
SELECT reactions.flags(1, 1, 'Bare');
SELECT reactions.detach('Bare');
\set VERBOSITY default

-- Prisma's table: quoted names, an enum with a kind that is none, timestamps without a zone.
CREATE TYPE test."ReviewReactions" AS ENUM ('Like', 'Dislike', 'Laugh', 'Cry', 'Heart');
CREATE TABLE test."ImageReaction" (
    id serial PRIMARY KEY, "imageId" integer NOT NULL, "userId" integer NOT NULL, reaction test."ReviewReactions" NOT NULL,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, "updatedAt" timestamp(3) NOT NULL
);
CREATE UNIQUE INDEX "ImageReaction_imageId_userId_reaction_key" ON test."ImageReaction" ("imageId", "userId", reaction);
SELECT reactions.attach('test."ImageReaction"', 'PrismaImage', 'userId', 'imageId', 'reaction', 'createdAt');
SELECT reactions.attach('test."ImageReaction"', 'PrismaImage', 'userId', 'imageId', 'reaction', 'createdAt',
    unknown_kinds => 'skip', extra_values => '{"updatedAt": "now"}');
CREATE INDEX ON test."ImageReaction" ("userId");
SELECT reactions.react(7, 70, 'Heart', 'PrismaImage'), reactions.toggle(7, 70, 'Cry', 'PrismaImage');
INSERT INTO test."ImageReaction" ("imageId", "userId", reaction, "updatedAt") VALUES (70, 7, 'Dislike', now()), (71, 7, 'Like', now());
SELECT * FROM test.new_events();
SELECT * FROM reactions.by_user(7, entity_type => 'PrismaImage');
SELECT * FROM test.differences('PrismaImage');
\set VERBOSITY terse
SELECT reactions.react(7, 3000000000, 'Heart', 'PrismaImage');
SELECT reactions.flags(3000000000, 70, 'PrismaImage'), reactions.flags(7, 3000000000, 'PrismaImage');

DROP TABLE test.good, test.partitioned, test.parent, test.child, test.unlogged, test.owned CASCADE;
DROP OWNED BY regress_owner, regress_admin;
DROP ROLE regress_owner, regress_admin;
