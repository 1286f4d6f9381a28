-- Looking at it. ----------------------------------------------------------------------------------------------------------------

CREATE VIEW stats AS
    SELECT counter, value, shared FROM reactions._stats()
    UNION ALL
    SELECT 'skipped_rows', coalesce(sum(rows), 0)::bigint, true FROM reactions._skipped;
COMMENT ON VIEW stats IS
    'counters since the server started (shared) or since the session started; skipped_rows: captured rows whose kind is no reaction';

CREATE VIEW mirror_status AS
    WITH outbox AS (
        SELECT count(*) AS events, min(o.written_at) AS oldest
        FROM reactions._outbox o
        WHERE NOT EXISTS (SELECT FROM reactions._mirror m WHERE o.version <= m.floor)
    )
    SELECT
        reactions._agent_pid() AS agent_pid,
        (SELECT max(b.batch) FROM reactions._batch b) AS last_batch,
        (SELECT max(b.batch) FROM reactions._batch b WHERE b.finished_at IS NOT NULL) AS last_finished_batch,
        (SELECT max(b.finished_at) FROM reactions._batch b) AS last_finished_at,
        (SELECT m.floor FROM reactions._mirror m) AS floor,
        o.events AS events_above_floor,
        o.oldest AS oldest_event_above_floor,
        (SELECT count(*) FROM reactions.parked_event p WHERE p.redriven_at IS NULL) AS parked_events,
        (SELECT m.match_wanted FROM reactions._mirror m) AS match_wanted
    FROM outbox o;
COMMENT ON VIEW mirror_status IS
    'how far the mirror is: the agent''s backend, its batches, and the events that are not certain to be mirrored yet';

CREATE VIEW parked_events AS
    SELECT p.version, t.entity_type, p.user_id, p.entity_id, p.set_mask, p.clear_mask, p.created_at, p.batch,
        p.error_code, p.error, p.parked_at, p.redriven_at
    FROM reactions.parked_event p LEFT JOIN reactions.entity_type t USING (type_id);
COMMENT ON VIEW parked_events IS 'events that ClickHouse has refused; they are kept here whole';

CREATE FUNCTION status(
    OUT entity_type text, OUT mode text, OUT phase text, OUT legacy_table regclass, OUT kinds text[], OUT epoch bigint,
    OUT backfilled boolean
) RETURNS SETOF record
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT t.entity_type, t.mode, t.phase, t.legacy_table,
        ARRAY(SELECT k.kind FROM kind k WHERE k.type_id = t.type_id ORDER BY k.flag), t.epoch, t.backfilled
    FROM entity_type t ORDER BY t.type_id;
END;
COMMENT ON FUNCTION status() IS 'the entity types, their phases and kinds';

CREATE FUNCTION doctor(OUT "check" text, OUT ok boolean, OUT detail text, OUT hint text) RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    of_type record;
    found record;
    mirror record;
    age interval;
BEGIN
    "check" := 'preloaded';
    ok := (SELECT bool_and(s.shared) FROM reactions._stats() s);
    detail := CASE WHEN ok THEN 'counters are shared' ELSE 'counters are of each session' END;
    hint := CASE WHEN NOT ok THEN 'Optional: add pg_reactions to shared_preload_libraries and restart.' END;
    ok := true;
    RETURN NEXT;

    RETURN QUERY SELECT * FROM reactions._probe();

    SELECT * INTO mirror FROM reactions.mirror_status;
    "check" := 'agent_running';
    ok := mirror.agent_pid IS NOT NULL OR pg_is_in_recovery();
    detail := CASE WHEN ok THEN format('backend %s', mirror.agent_pid) ELSE 'no agent holds the leader''s lock' END;
    hint := CASE WHEN NOT ok THEN 'Start reactiond run; until then nothing is mirrored and the outbox grows.' END;
    RETURN NEXT;

    "check" := 'outbox_age';
    age := coalesce(clock_timestamp() - mirror.oldest_event_above_floor, '0');
    ok := age < interval '5 minutes';
    detail := format('%s events above the floor, the oldest %s old', mirror.events_above_floor, date_trunc('milliseconds', age));
    hint := CASE WHEN NOT ok THEN 'Look at the agent''s log, and for long transactions: the floor waits for the oldest one.' END;
    RETURN NEXT;

    "check" := 'parked_events';
    ok := mirror.parked_events = 0;
    detail := format('%s parked', mirror.parked_events);
    hint := CASE WHEN NOT ok THEN 'reactions.parked_events says what ClickHouse refused and why.' END;
    RETURN NEXT;

    "check" := 'erasures';
    SELECT count(*) AS pending, min(f.requested_at) AS oldest INTO found FROM reactions.forgotten_user f WHERE f.state <> 'erased';
    ok := coalesce(found.oldest > clock_timestamp() - interval '1 day', true);
    detail := format('%s users not erased yet', found.pending);
    hint := CASE WHEN NOT ok THEN 'reactions.forgotten_users says since when, and what each waits for.' END;
    RETURN NEXT;

    "check" := 'match';
    ok := mirror.match_wanted IS NULL;
    detail := coalesce(mirror.match_wanted, 'none wanted');
    hint := CASE WHEN NOT ok THEN 'After a failover or restore ClickHouse may hold events that PostgreSQL lost: compare the two.' END;
    RETURN NEXT;

    "check" := 'reconcile';
    SELECT s.*, f.error INTO found FROM (VALUES (1)) one
        LEFT JOIN reactions.reconcile_status s ON true
        LEFT JOIN LATERAL (
            SELECT r.error FROM reactions.reconcile_run r
            WHERE r.reconcile_run_id > coalesce(s.reconcile_run_id, 0) AND r.error IS NOT NULL
            ORDER BY r.reconcile_run_id DESC LIMIT 1) f ON true;
    ok := coalesce(found.remaining = 0, true) AND found.error IS NULL;
    detail := CASE WHEN found.reconcile_run_id IS NULL THEN 'Redis was not looked through yet'
        ELSE format('%s faults left %s at %s', found.remaining, found.classes, found.finished_at) END
        || coalesce('; the last attempt failed: ' || found.error, '');
    hint := CASE WHEN NOT ok THEN 'reactions.reconcile_finding has them; reactiond reconcile repairs what it can.' END;
    RETURN NEXT;

    FOR found IN SELECT * FROM reactions.backfill b WHERE b.error IS NOT NULL ORDER BY b.entity_type LOOP
        "check" := format('backfill_%s', found.entity_type);
        ok := false;
        detail := found.error;
        hint := 'The agent tries again by itself; until then the rows from before attach are not in ClickHouse.';
        RETURN NEXT;
    END LOOP;

    FOR found IN SELECT * FROM reactions.match_status m ORDER BY m.entity_type LOOP
        "check" := format('match_%s', found.entity_type);
        ok := found.differences = 0;
        detail := CASE WHEN found.last_full_at IS NULL AND found.last_recent_at IS NULL THEN 'not matched yet'
            ELSE format('%s differences left %s, last full match %s', found.differences, found.classes, coalesce(found.last_full_at::text, 'never')) END;
        hint := CASE WHEN NOT ok THEN 'reactions.differences has them; find the cause, then run reactiond match --repair.' END;
        RETURN NEXT;
        "check" := format('capture_altered_%s', found.entity_type);
        ok := NOT found.is_capture_in_doubt;
        detail := CASE WHEN ok THEN 'as it was when the last clean match began'
            ELSE format('altered at %s%s', found.capture_altered_at, ': ' || found.capture_problem) END;
        hint := CASE WHEN NOT ok THEN 'Changes may have been lost: the agent runs a full match; see reactions.match_status.' END;
        RETURN NEXT;
    END LOOP;

    -- An archived table may go.
    FOR of_type IN
        SELECT * FROM reactions.entity_type t
        WHERE t.legacy_table IS NOT NULL AND (t.phase <> 'archived' OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.legacy_table))
        ORDER BY t.type_id
    LOOP
        "check" := format('capture_%s', of_type.entity_type);
        SELECT count(*) FILTER (WHERE tgenabled = 'A') AS enabled, count(*) AS present INTO found
            FROM pg_trigger WHERE tgrelid = of_type.legacy_table AND tgname LIKE 'reactions\_capture\_%' AND NOT tgisinternal;
        ok := found.enabled = 6;
        detail := format('%s of 6 capture triggers enabled on %s', found.enabled, of_type.legacy_table);
        hint := CASE WHEN NOT ok THEN 'Changes are being lost: detach and attach the table again.' END;
        RETURN NEXT;
        FOR found IN
            SELECT * FROM reactions._table_problems(of_type.legacy_table, of_type.mode, of_type.user_column,
                of_type.entity_column, of_type.kind_column, of_type.created_column, of_type.extra_values)
        LOOP
            "check" := format('table_%s', of_type.entity_type);
            ok := false;
            detail := found.problem;
            hint := found.hint;
            RETURN NEXT;
        END LOOP;
    END LOOP;

    FOR of_type IN SELECT * FROM reactions.entity_type t WHERE t.phase IN ('stop_writes', 'archived') ORDER BY t.type_id LOOP
        "check" := format('gone_%s', of_type.entity_type);
        detail := (SELECT string_agg(format('%s on %s', m.name, m.of_table), ', ') FROM reactions._missing_triggers(of_type.type_id) m);
        ok := detail IS NULL;
        detail := coalesce('missing or not enabled: ' || detail, 'users and entities that are deleted take their reactions along');
        hint := CASE WHEN NOT ok THEN format('SELECT reactions.prepare_stop_writes(%L).', of_type.entity_type) END;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION doctor() IS 'checks everything that must be right, with a hint for what is not';

