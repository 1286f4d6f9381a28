-- Pages of who has reacted, from attached tables of several shapes: as the table's rows say, read by no more of them than it takes.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CREATE TYPE test.shape_kind AS ENUM ('Like', 'Heart', 'Laugh', 'Dislike');
CREATE TABLE test.shape_enum (
    u integer NOT NULL, e integer NOT NULL, k test.shape_kind NOT NULL, at timestamp(3) NOT NULL DEFAULT now(), PRIMARY KEY (e, u, k));
CREATE TABLE test.shape_text (u bigint NOT NULL, e bigint NOT NULL, k text NOT NULL, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (u, e, k));
CREATE TABLE test.shape_nullable (
    u integer NOT NULL, e integer NOT NULL, k test.shape_kind NOT NULL, at timestamp, PRIMARY KEY (e, u, k));
CREATE TABLE test.shape_timeless (u smallint NOT NULL, e integer NOT NULL, k varchar NOT NULL, PRIMARY KEY (e, u, k));
-- Ties in time, within users and between them; 2,500 users, of whom a few have Laugh, the oldest ones.
INSERT INTO test.shape_enum
SELECT u, e, k::test.shape_kind, timestamp '2026-01-01' + make_interval(mins => (u * 7919 + n) % 1000)
FROM generate_series(1, 2500) u, generate_series(1, 2) e, (VALUES (1, 'Like'), (2, 'Heart'), (3, 'Dislike')) v (n, k)
WHERE (u + n) % 3 > 0 AND (e = 1 OR u < 40);
INSERT INTO test.shape_enum SELECT u, 1, 'Laugh', '2025-01-01' FROM (VALUES (5), (3000), (3001)) v (u);
INSERT INTO test.shape_enum VALUES (4000, 2, 'Like', 'infinity'), (4001, 2, 'Like', '-infinity');
INSERT INTO test.shape_text SELECT u, e, k::text, at AT TIME ZONE 'UTC' FROM test.shape_enum;
INSERT INTO test.shape_nullable SELECT u, e, k, nullif(at, '2026-01-01 00:07') FROM test.shape_enum;
INSERT INTO test.shape_timeless SELECT u, e, k::text FROM test.shape_enum;
SELECT reactions.attach('test.shape_' || lower(t), t, 'u', 'e', 'k', CASE t WHEN 'Timeless' THEN NULL ELSE 'at' END::name,
    unknown_kinds => 'skip') FROM unnest('{Enum,Text,Nullable,Timeless}'::text[]) t;
ANALYZE test.shape_enum, test.shape_text, test.shape_nullable, test.shape_timeless;

CREATE FUNCTION test.paged(of_type text, of_entity bigint, of_kind text, size integer) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    found text[] := '{}';
    page text[];
    after text;
BEGIN
    LOOP
        SELECT array_agg(user_id || '=' || flags || ' ' || coalesce(reacted_at AT TIME ZONE 'UTC', '-infinity')), (array_agg(next_cursor))[count(*)]
            INTO page, after FROM reactions.reactors(of_entity, of_kind, size, after, of_type);
        found := found || page;
        EXIT WHEN coalesce(cardinality(page), 0) < size;
    END LOOP;
    RETURN found;
END
$$;
CREATE FUNCTION test.expected(of_type text, of_entity bigint, of_kind text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    found text[];
BEGIN
    EXECUTE format($query$
        SELECT coalesce(array_agg(u || '=' || flags || ' ' || at ORDER BY at DESC, u DESC), '{}') FROM (
            SELECT u, sum(flag) AS flags, coalesce(max(%s), '-infinity')::timestamp AS at, array_agg(kind) AS kinds
            FROM test.shape_%s JOIN (VALUES ('Like', 1), ('Heart', 2), ('Laugh', 4)) f (kind, flag) ON kind = k::text
            WHERE e = $1 GROUP BY u) users
        WHERE $2 IS NULL OR $2 = ANY (kinds)$query$,
        CASE of_type WHEN 'Timeless' THEN 'NULL::timestamp' WHEN 'Text' THEN 'at AT TIME ZONE ''UTC'''  ELSE 'at' END, lower(of_type))
        INTO found USING of_entity, of_kind;
    RETURN found;
END
$$;
SELECT t, size, bool_and(test.paged(t, e, k, size) = test.expected(t, e, k)), sum(cardinality(test.expected(t, e, k)))
FROM unnest('{Enum,Text,Nullable,Timeless}'::text[]) t, unnest('{37,1000,10000}'::integer[]) size, generate_series(1, 3) e,
    unnest('{NULL,Like,Heart,Laugh,Cry}'::text[]) k
GROUP BY 1, 2 ORDER BY 1, 2;
SELECT bool_and(test.paged(t, 2, k, 1) = test.expected(t, 2, k))
FROM unnest('{Enum,Text,Nullable,Timeless}'::text[]) t, unnest('{NULL,Like,Laugh}'::text[]) k;

-- With the right index a page reads little of the 5,000 rows, the first one and a deep one.
CREATE INDEX ON test.shape_enum (e, at);
VACUUM ANALYZE test.shape_enum;
CREATE FUNCTION test.rows_read(of_kind text, after text DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    before bigint := pg_stat_get_xact_tuples_returned('test.shape_enum'::regclass) + sum(pg_stat_get_xact_tuples_returned(indexrelid))
        FROM pg_index WHERE indrelid = 'test.shape_enum'::regclass;
BEGIN
    PERFORM reactions.reactors(1, of_kind, 20, after, 'Enum');
    RETURN pg_stat_get_xact_tuples_returned('test.shape_enum'::regclass) + sum(pg_stat_get_xact_tuples_returned(indexrelid)) - before
        FROM pg_index WHERE indrelid = 'test.shape_enum'::regclass;
END
$$;
SELECT next_cursor AS deep FROM reactions.reactors(1, page_size => 2000, entity_type => 'Enum') OFFSET 1999 \gset
-- As the planner chooses for a larger table.
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT test.rows_read(NULL) BETWEEN 20 AND 1000, test.rows_read(NULL, :'deep') BETWEEN 20 AND 1000;
RESET ALL;

-- A column that may be null from now on.
ALTER TABLE test.shape_enum ALTER at DROP NOT NULL;
INSERT INTO test.shape_enum VALUES (5000, 1, 'Like', NULL);
SELECT test.paged('Enum', 1, NULL, 1000) = test.expected('Enum', 1, NULL), (test.paged('Enum', 1, NULL, 1000))[2503];

SELECT reactions.detach(t) FROM unnest('{Enum,Text,Nullable,Timeless}'::text[]) t;
DROP TABLE test.shape_enum, test.shape_text, test.shape_nullable, test.shape_timeless;
