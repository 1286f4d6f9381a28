-- Looking at it. ----------------------------------------------------------------------------------------------------------------

-- By the primary key of each table, which is nearly the order of writing: a backlog of millions is not read to find its oldest event.
CREATE VIEW _oldest_event AS
    WITH finished AS (
        SELECT coalesce(
            (SELECT pg_snapshot_xmax(b.snapshot) FROM reactions._batch b WHERE b.finished_at IS NOT NULL ORDER BY b.batch DESC LIMIT 1),
            '0'::xid8) AS xmax)
    SELECT min(o.written_at) AS written_at FROM finished CROSS JOIN LATERAL (
        (SELECT e.written_at FROM reactions._outbox_0 e WHERE e.xid >= finished.xmax ORDER BY e.xid, e.version LIMIT 1)
        UNION ALL
        (SELECT e.written_at FROM reactions._outbox_1 e WHERE e.xid >= finished.xmax ORDER BY e.xid, e.version LIMIT 1)
        UNION ALL
        (SELECT e.written_at FROM reactions._outbox_2 e WHERE e.xid >= finished.xmax ORDER BY e.xid, e.version LIMIT 1)) o;
COMMENT ON VIEW _oldest_event IS 'when the oldest event was written that is in no finished batch; null without one';

CREATE VIEW stats AS
    WITH redis AS (
        SELECT sum(s.regular_entities) AS regular, sum(s.viral_entities) AS viral,
            CASE WHEN bool_and(s.entity_bytes IS NOT NULL) THEN sum(s.entity_bytes) END AS entity_bytes,
            CASE WHEN bool_and(s.user_map_bytes IS NOT NULL) THEN sum(s.user_map_bytes) END AS user_map_bytes,
            min(s.finished_at) AS looked_at
        FROM reactions.redis_shards s
    )
    SELECT s.name, 'counter' AS kind, s.value::numeric AS value,
        round(s.value / nullif(extract(epoch FROM clock_timestamp() - s.since), 0)::numeric, 3) AS per_second, s.shared, s.since
    FROM reactions._stats() s
    UNION ALL
    SELECT 'skipped_rows', 'counter', coalesce(sum(rows), 0), NULL, true, NULL FROM reactions._skipped
    UNION ALL
    SELECT g.name, 'gauge', g.value, NULL, true, g.since
    FROM redis r CROSS JOIN LATERAL (VALUES
        ('regular_entities', r.regular, r.looked_at),
        ('viral_entities', r.viral, r.looked_at),
        ('regular_per_viral_entity', round(r.regular / nullif(r.viral, 0), 3), r.looked_at),
        ('entity_bytes', r.entity_bytes, r.looked_at),
        ('user_map_bytes', r.user_map_bytes, r.looked_at),
        ('reconcile_seconds', (SELECT round(extract(epoch FROM s.duration)::numeric, 3) FROM reactions.reconcile_status s),
            (SELECT s.finished_at FROM reactions.reconcile_status s)),
        ('reconciled_last_day', (SELECT count(*)::numeric FROM reactions.reconcile_run n
            WHERE n.finished_at > clock_timestamp() - interval '1 day'), NULL),
        ('batches_behind', (SELECT count(*)::numeric FROM reactions._batch b WHERE b.finished_at IS NULL), NULL),
        ('batches_unconfirmed', (SELECT count(*)::numeric FROM reactions._batch b WHERE b.confirmed_at IS NULL AND b.finished_at IS NULL),
            NULL),
        ('oldest_event_seconds', (SELECT coalesce(extract(epoch FROM clock_timestamp() - e.written_at)::numeric, 0)
            FROM reactions._oldest_event e), NULL)
    ) g (name, value, since);
COMMENT ON VIEW stats IS
    'counters since the server started (shared) or since the session has the library, with their mean rate; and gauges, null as long as they are not known. since: when the counter began, or as of when the gauge is, if not now';

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
        (SELECT count(*) FROM reactions._batch b WHERE b.finished_at IS NULL) AS batches_behind,
        (SELECT count(*) FROM reactions._batch b WHERE b.finished_at IS NULL AND b.confirmed_at IS NULL) AS batches_unconfirmed,
        (SELECT m.floor FROM reactions._mirror m) AS floor,
        o.events AS events_above_floor,
        o.oldest AS oldest_event_above_floor,
        (SELECT count(*) FROM reactions.parked_event p WHERE p.redriven_at IS NULL) AS parked_events,
        (SELECT m.match_wanted FROM reactions._mirror m) AS match_wanted
    FROM outbox o;
COMMENT ON VIEW mirror_status IS
    'how far the mirror is: the agent''s backend, its batches, how many are not finished (behind) and not in ClickHouse (unconfirmed), and the events that are not certain to be mirrored yet';

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

