-- What the other tests use: the extension, and a schema of helpers that look at the outbox.
SET client_min_messages = warning;
CREATE EXTENSION pg_reactions;
CREATE SCHEMA test;

-- Kinds of a mask, in the order of the flags.
CREATE FUNCTION test.kinds(of_type smallint, mask integer) RETURNS text
    LANGUAGE sql STABLE
RETURN (SELECT string_agg(k.kind, ',' ORDER BY k.flag) FROM reactions.kind k WHERE k.type_id = of_type AND k.flag & mask <> 0);

-- Events since the last look, in the order of keys, those of one key in the order of versions.
CREATE TABLE test.seen (version bigint NOT NULL);
INSERT INTO test.seen VALUES (0);
CREATE FUNCTION test.new_events(
    OUT type text, OUT "user" bigint, OUT entity bigint, OUT sets text, OUT clears text, OUT known boolean, OUT scope "char"
) RETURNS SETOF record
    LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
        SELECT t.entity_type, o.user_id, o.entity_id, test.kinds(o.type_id, o.set_mask), test.kinds(o.type_id, o.clear_mask),
            o.delta_known, o.scope
        FROM reactions._outbox o LEFT JOIN reactions.entity_type t USING (type_id)
        WHERE o.version > (SELECT version FROM test.seen)
        ORDER BY o.type_id, o.user_id, o.entity_id, o.version;
    UPDATE test.seen SET version = (SELECT coalesce(max(o.version), 0) FROM reactions._outbox o);
END
$$;

CREATE PROCEDURE test.forget_events()
    LANGUAGE sql
BEGIN ATOMIC
    UPDATE test.seen SET version = (SELECT coalesce(max(o.version), 0) FROM reactions._outbox o);
END;

-- Reactions as the events tell them: folded in the order of versions, after the last "all gone".
CREATE FUNCTION test.apply(flags integer, set_mask integer, clear_mask integer) RETURNS integer
    LANGUAGE sql IMMUTABLE
RETURN flags & ~clear_mask | set_mask;
CREATE AGGREGATE test.fold(set_mask integer, clear_mask integer) (SFUNC = test.apply, STYPE = integer, INITCOND = 0);
CREATE FUNCTION test.folded(of_type text) RETURNS TABLE (user_id bigint, entity_id bigint, flags integer)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH events AS MATERIALIZED (
        SELECT o.* FROM reactions._outbox o JOIN reactions.entity_type t USING (type_id) WHERE t.entity_type = of_type
    )
    SELECT o.user_id, o.entity_id, test.fold(o.set_mask, o.clear_mask ORDER BY o.version)
    FROM events o
    WHERE o.scope = 'r' AND o.version > coalesce((SELECT max(g.version) FROM events g WHERE g.scope = 't'), 0)
    GROUP BY o.user_id, o.entity_id
    HAVING test.fold(o.set_mask, o.clear_mask ORDER BY o.version) <> 0;
END;

-- Reactions as the attached table holds them.
CREATE FUNCTION test.in_table(of_type text) RETURNS TABLE (user_id bigint, entity_id bigint, flags integer)
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    t reactions.entity_type;
BEGIN
    SELECT * INTO t FROM reactions.entity_type e WHERE e.entity_type = of_type;
    RETURN QUERY EXECUTE format(
        'SELECT l.%1$I::bigint, l.%2$I::bigint, bit_or(k.flag) FROM %3$s l JOIN reactions.kind k ON k.type_id = %4$s '
        'AND k.kind = CASE WHEN %5$L::jsonb ? l.%6$I::text THEN %5$L::jsonb ->> l.%6$I::text ELSE l.%6$I::text END '
        'GROUP BY 1, 2',
        t.user_column, t.entity_column, t.legacy_table, t.type_id, t.kind_map, t.kind_column);
END
$$;

-- Where table, events and read functions disagree: no row if all is well.
CREATE FUNCTION test.differences(of_type text) RETURNS TABLE (what text, user_id bigint, entity_id bigint, flags integer)
    LANGUAGE sql VOLATILE
BEGIN ATOMIC
    (SELECT 'only in the table', * FROM test.in_table(of_type) EXCEPT SELECT 'only in the table', * FROM test.folded(of_type))
    UNION ALL
    (SELECT 'only in the events', * FROM test.folded(of_type) EXCEPT SELECT 'only in the events', * FROM test.in_table(of_type))
    UNION ALL
    SELECT 'read otherwise', t.user_id, r.entity_id, r.flags
    FROM (SELECT user_id, jsonb_object_agg(entity_id, flags) AS flags, array_agg(entity_id) AS entity_ids
          FROM test.in_table(of_type) GROUP BY user_id) t,
        LATERAL reactions.flags_many(t.user_id, t.entity_ids, of_type) r
    WHERE r.flags <> (t.flags ->> r.entity_id::text)::integer
    ORDER BY 1, 2, 3;
END;
