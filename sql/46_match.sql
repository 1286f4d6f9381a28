-- Comparing an attached table with ClickHouse, reaction by reaction. docs/internals.md, "Match", has the rules. --------------------

-- Written by reactiond match. A run that did not end, by an error or because its process died, has no finished_at.
CREATE TABLE match_run (
    match_run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type_id      smallint NOT NULL,
    scope        text NOT NULL CHECK (scope IN ('full', 'recent')),
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz,
    -- Rows of the table that are to be compared, about; reactions that were compared.
    expected     bigint NOT NULL DEFAULT 0 CHECK (expected >= 0),
    compared     bigint NOT NULL DEFAULT 0 CHECK (compared >= 0),
    differences  bigint NOT NULL DEFAULT 0 CHECK (differences >= 0),
    repaired     bigint NOT NULL DEFAULT 0 CHECK (repaired BETWEEN 0 AND differences),
    in_flight    bigint NOT NULL DEFAULT 0 CHECK (in_flight >= 0),
    classes      jsonb NOT NULL DEFAULT '{}',
    as_of        bigint,
    error        text
);
COMMENT ON TABLE match_run IS 'comparisons of a table with ClickHouse, reaction by reaction';
COMMENT ON SEQUENCE match_run_match_run_id_seq IS 'numbers of match_run';

CREATE TABLE difference (
    match_run_id  bigint NOT NULL,
    user_id       bigint NOT NULL,
    entity_id     bigint NOT NULL,
    in_table      integer NOT NULL,
    in_clickhouse integer NOT NULL,
    class         text NOT NULL CHECK (class IN ('missing', 'phantom', 'different', 'sums', 'policy', 'explained')),
    repaired_at   timestamptz,
    PRIMARY KEY (match_run_id, user_id, entity_id)
);
COMMENT ON TABLE difference IS
    'reactions on which a match found table and ClickHouse apart, the first 10,000 of each class and run; match_run counts them all';

CREATE VIEW differences AS
    SELECT d.match_run_id, t.entity_type, d.user_id, d.entity_id, d.in_table, d.in_clickhouse, d.class, m.finished_at,
        d.repaired_at
    FROM difference d JOIN match_run m USING (match_run_id) LEFT JOIN entity_type t USING (type_id);
COMMENT ON VIEW differences IS
    'what matches have found; class: missing (the table has it), phantom (ClickHouse has it), different (both have what the other has not), sums (only the sum of values is wrong), policy (the table refused to take it back), explained (gone from a closed table by an event that ClickHouse has)';

CREATE FUNCTION _repair(entity_type text, user_ids bigint[], entity_ids bigint[], run bigint) RETURNS bigint
    LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    of_type reactions.entity_type;
    created text;
    written bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM reactions._refuse('a repair must run at isolation level READ COMMITTED',
            'Behind the fence it has to see what was committed before it.');
    END IF;
    -- Every writer before the fence is committed, and has a lower version than the event; every later one will have a higher version.
    PERFORM reactions._fence_out(NULL);
    SELECT * INTO of_type FROM reactions.entity_type t WHERE t.entity_type = $1;
    IF of_type.phase IS NULL OR of_type.phase NOT IN ('attached', 'dual_read', 'switch_reads') THEN
        PERFORM reactions._refuse(format('entity type "%s" has no table that is the truth', $1),
            'Repairs make ClickHouse agree with the table; in this phase the table is the older of the two.');
    END IF;
    SELECT CASE WHEN a.attname IS NULL THEN 'NULL::timestamptz'
            WHEN a.atttypid = 'timestamp'::regtype THEN format('max(l.%I) FILTER (WHERE d.flag IS NOT NULL) AT TIME ZONE ''UTC''', a.attname)
            ELSE format('max(l.%I) FILTER (WHERE d.flag IS NOT NULL)', a.attname) END
        INTO created FROM (VALUES (1)) one
        LEFT JOIN pg_attribute a ON a.attrelid = of_type.legacy_table AND a.attname = of_type.created_column AND NOT a.attisdropped;
    EXECUTE format(
        $insert$
        INSERT INTO reactions._outbox_%1$s (version, xid, user_id, entity_id, created_at, written_at, set_mask, clear_mask,
            type_id, scope, delta_known)
        SELECT reactions._draw_version(), pg_current_xact_id(), s.user_id, s.entity_id, coalesce(s.created_at, clock_timestamp()),
            clock_timestamp(), s.flags, $4 & ~s.flags, $3, 'r', false
        FROM (
            SELECT k.user_id, k.entity_id, coalesce(bit_or(d.flag), 0) AS flags, %2$s AS created_at
            FROM unnest($1, $2) k (user_id, entity_id)
            LEFT JOIN ONLY %3$s l ON l.%4$I = k.user_id AND l.%5$I = k.entity_id
            LEFT JOIN reactions.kind d ON d.type_id = $3
                AND d.kind = CASE WHEN $5 ? l.%6$I::text THEN $5 ->> l.%6$I::text ELSE l.%6$I::text END
            GROUP BY k.user_id, k.entity_id
            ORDER BY k.user_id, k.entity_id) s
        $insert$,
        coalesce((SELECT m.current_outbox FROM reactions._mirror m), 0), created, of_type.legacy_table,
        of_type.user_column, of_type.entity_column, of_type.kind_column)
        USING user_ids, entity_ids, of_type.type_id,
            (SELECT bit_or(k.flag) FROM reactions.kind k WHERE k.type_id = of_type.type_id), of_type.kind_map;
    GET DIAGNOSTICS written = ROW_COUNT;
    UPDATE reactions.difference d SET repaired_at = clock_timestamp()
        FROM unnest(user_ids, entity_ids) k (user_id, entity_id)
        WHERE d.match_run_id = run AND d.user_id = k.user_id AND d.entity_id = k.entity_id;
    UPDATE reactions.match_run m SET repaired = m.repaired + written WHERE m.match_run_id = run;
    PERFORM pg_notify('reactions', '');
    RETURN written;
END
$$;
COMMENT ON FUNCTION _repair(text, bigint[], bigint[], bigint) IS
    'writes, for reactions on which ClickHouse is wrong, an event with the flags of the table';
