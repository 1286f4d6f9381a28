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
    -- Every transaction below it had ended when the run began: rows and events from it on are what the next recent match looks at.
    seen_xid     xid8 NOT NULL DEFAULT pg_snapshot_xmin(pg_current_snapshot()),
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

-- Whether capture is what it was. A trigger that was disabled and enabled again has a new row in pg_trigger. -----------------------

-- As the agent saw it last; belongs to one cluster, so it is not dumped.
CREATE TABLE _capture_seen (
    type_id    smallint PRIMARY KEY,
    triggers   text NOT NULL,
    problem    text,
    altered_at timestamptz
);
COMMENT ON TABLE _capture_seen IS 'the capture of each attached table as the agent saw it last, and when it was altered';

CREATE FUNCTION _capture_triggers(of_table regclass) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT coalesce(string_agg(concat_ws(':', t.tgname, t.oid, t.xmin, t.tgenabled), ' ' ORDER BY t.tgname), '')
    FROM pg_trigger t
    WHERE t.tgrelid = of_table AND t.tgname LIKE 'reactions\_capture\_%' AND NOT t.tgisinternal;
END;
COMMENT ON FUNCTION _capture_triggers(regclass) IS 'changes when a capture trigger of the table is made, altered or dropped';

CREATE FUNCTION _capture_problem(of_type smallint) RETURNS text
    LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT nullif(concat_ws('; ',
        (SELECT CASE WHEN count(*) < 6 THEN format('%s of 6 capture triggers enabled', count(*)) END
         FROM pg_trigger g
         WHERE g.tgrelid = t.legacy_table AND g.tgname LIKE 'reactions\_capture\_%' AND NOT g.tgisinternal AND g.tgenabled = 'A'),
        (SELECT string_agg(p.problem, '; ')
         FROM _table_problems(t.legacy_table, t.mode, t.user_column, t.entity_column, t.kind_column, t.created_column, t.extra_values) p)),
        '')
    FROM entity_type t WHERE t.type_id = of_type;
END;
COMMENT ON FUNCTION _capture_problem(smallint) IS 'why changes of a type''s table may be lost now; null if nothing is wrong';

CREATE FUNCTION _note_capture(of_table regclass) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    INSERT INTO _capture_seen (type_id, triggers)
    SELECT t.type_id, _capture_triggers(of_table) FROM entity_type t WHERE t.legacy_table = of_table
    ON CONFLICT (type_id) DO UPDATE SET triggers = excluded.triggers, problem = NULL, altered_at = NULL;
END;
COMMENT ON FUNCTION _note_capture(regclass) IS 'remembers the capture of a table that has just been made';

CREATE FUNCTION _watch_capture(OUT entity_type text, OUT problem text) RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    found record;
BEGIN
    -- An archived table may be dropped at any time: its type is then like one whose table the archive has dropped.
    FOR found IN
        SELECT t.type_id FROM reactions.entity_type t
        WHERE t.phase = 'archived' AND t.legacy_table IS NOT NULL AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.legacy_table)
    LOOP
        UPDATE reactions.entity_type t SET legacy_table = NULL
        WHERE t.type_id = found.type_id AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.legacy_table);
    END LOOP;
    FOR found IN
        SELECT t.type_id, t.entity_type, reactions._capture_triggers(t.legacy_table) AS triggers,
            reactions._capture_problem(t.type_id) AS problem, c.triggers AS triggers_before, c.problem AS problem_before
        FROM reactions.entity_type t LEFT JOIN reactions._capture_seen c USING (type_id)
        WHERE t.legacy_table IS NOT NULL ORDER BY t.type_id
    LOOP
        CONTINUE WHEN found.triggers = found.triggers_before AND found.problem IS NOT DISTINCT FROM found.problem_before;
        INSERT INTO reactions._capture_seen (type_id, triggers, problem) VALUES (found.type_id, found.triggers, found.problem)
        ON CONFLICT (type_id) DO UPDATE SET triggers = excluded.triggers, problem = excluded.problem;
        -- The first look at a restored dump.
        CONTINUE WHEN found.triggers_before IS NULL AND found.problem IS NULL;
        entity_type := found.entity_type;
        problem := coalesce(found.problem, CASE WHEN found.problem_before IS NULL THEN 'capture triggers were altered'
            ELSE 'is whole again' END);
        UPDATE reactions._capture_seen c SET altered_at = clock_timestamp() WHERE c.type_id = found.type_id;
        -- In other words each time, so that a match which is under way does not count for it.
        UPDATE reactions._mirror m SET match_wanted =
            right(concat_ws('; ', m.match_wanted, format('capture of %s at %s: %s', entity_type, clock_timestamp(), problem)), 1000);
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _watch_capture() IS
    'tells which captures were altered since it was called last, and orders a full match; takes note of archived tables that were dropped';

CREATE VIEW match_status AS
    SELECT t.entity_type, f.finished_at AS last_full_at, f.finished_at - f.started_at AS last_full_time,
        r.last_at AS last_recent_at, r.last_time AS last_recent_time,
        coalesce(f.differences - f.repaired, 0) + coalesce(r.differences, 0) AS differences,
        CASE WHEN coalesce(f.differences - f.repaired, 0) + coalesce(r.differences, 0) = 0 THEN '{}' ELSE (
            SELECT jsonb_object_agg(s.class, s.found) FROM (
                SELECT e.key AS class, sum(e.value::bigint) AS found
                FROM match_run m, jsonb_each_text(m.classes) e
                WHERE m.type_id = t.type_id AND m.finished_at IS NOT NULL AND m.differences > m.repaired
                    AND (m.match_run_id = f.match_run_id OR m.scope = 'recent' AND m.match_run_id > coalesce(f.match_run_id, 0))
                GROUP BY e.key) s) END AS classes,
        clean.finished_at AS last_clean_at, c.problem AS capture_problem, c.altered_at AS capture_altered_at,
        c.problem IS NOT NULL OR coalesce(c.altered_at > coalesce(clean.started_at, '-infinity'), false) AS is_capture_in_doubt
    FROM entity_type t
    LEFT JOIN LATERAL (
        SELECT * FROM match_run m WHERE m.type_id = t.type_id AND m.scope = 'full' AND m.finished_at IS NOT NULL
        ORDER BY m.match_run_id DESC LIMIT 1) f ON true
    LEFT JOIN LATERAL (
        SELECT * FROM match_run m
        WHERE m.type_id = t.type_id AND m.scope = 'full' AND m.finished_at IS NOT NULL AND m.differences = m.repaired AND m.in_flight = 0
        ORDER BY m.match_run_id DESC LIMIT 1) clean ON true
    -- A later recent match does not look again at what an earlier one has found: a full one does.
    LEFT JOIN LATERAL (
        SELECT max(m.finished_at) AS last_at, (array_agg(m.finished_at - m.started_at ORDER BY m.match_run_id DESC))[1] AS last_time,
            sum(m.differences - m.repaired) FILTER (WHERE m.match_run_id > coalesce(f.match_run_id, 0)) AS differences
        FROM match_run m WHERE m.type_id = t.type_id AND m.scope = 'recent' AND m.finished_at IS NOT NULL) r ON true
    LEFT JOIN _capture_seen c ON c.type_id = t.type_id
    WHERE t.legacy_table IS NOT NULL;
COMMENT ON VIEW match_status IS
    'what the last matches of each attached table have left, and whether its capture was altered since the last clean one';
