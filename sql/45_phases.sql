-- The migration of an attached table. -------------------------------------------------------------------------------------------

-- What _digest_compared has made of the compared reads of phase dual_read.
CREATE TABLE compared_reads (
    type_id   smallint NOT NULL,
    minute    timestamptz NOT NULL,
    reads     bigint NOT NULL,
    failed    bigint NOT NULL,
    slow      bigint NOT NULL,
    ids       bigint NOT NULL,
    hits      bigint NOT NULL,
    differing bigint NOT NULL,
    PRIMARY KEY (type_id, minute)
);
COMMENT ON TABLE compared_reads IS
    'reads that were answered both ways, by minute: slow took over 10 ms by way of Redis, hits are ids that Redis knew';

CREATE TABLE mismatch (
    mismatch_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type_id     smallint NOT NULL,
    user_id     bigint NOT NULL,
    entity_id   bigint NOT NULL,
    in_table    integer NOT NULL,
    in_cache    integer NOT NULL,
    read_at     timestamptz NOT NULL,
    class       text CHECK (class IN ('in_flight', 'stale_cache', 'missing', 'phantom', 'different')),
    checked_at  timestamptz,
    UNIQUE (type_id, user_id, entity_id, read_at)
);
COMMENT ON TABLE mismatch IS 'reactions on which a compared read found the table and the way through Redis apart';
COMMENT ON SEQUENCE mismatch_mismatch_id_seq IS 'numbers of mismatch';
CREATE INDEX mismatch_unchecked ON mismatch (read_at) WHERE class IS NULL;
COMMENT ON INDEX mismatch_unchecked IS 'those that are to be looked at again';

CREATE VIEW mismatches AS
    SELECT m.mismatch_id, t.entity_type, m.user_id, m.entity_id, m.in_table, m.in_cache, m.read_at, m.class, m.checked_at
    FROM mismatch m LEFT JOIN entity_type t USING (type_id);
COMMENT ON VIEW mismatches IS
    'differences that compared reads have found; class: in_flight (gone at the second look), stale_cache (gone when the map was dropped), missing, phantom, different; null: not looked at again yet';

CREATE FUNCTION _take_compared(entity_type text, drop integer, take integer) RETURNS SETOF text
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reactions_take_compared';
COMMENT ON FUNCTION _take_compared(text, integer, integer) IS
    'drops the oldest records of compared reads from Redis, then reads the oldest that are left';

CREATE FUNCTION _compare(user_id bigint, entity_id bigint, entity_type text, OUT in_table integer, OUT in_cache integer) RETURNS record
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reactions_compare';
COMMENT ON FUNCTION _compare(bigint, bigint, text) IS 'flags by the table, and by way of Redis as in phase switch_reads';

CREATE FUNCTION _store_compared(of_type smallint, records jsonb[]) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    INSERT INTO compared_reads (type_id, minute, reads, failed, slow, ids, hits, differing)
    SELECT of_type, date_trunc('minute', to_timestamp((r ->> 'at')::bigint / 1e6)), count(*),
        count(*) FILTER (WHERE r ? 'failed'), count(*) FILTER (WHERE (r ->> 'microseconds')::bigint > 10000),
        coalesce(sum((r ->> 'ids')::bigint) FILTER (WHERE NOT r ? 'failed'), 0),
        coalesce(sum((r ->> 'ids')::bigint - (r ->> 'missed')::bigint), 0), coalesce(sum((r ->> 'differing')::bigint), 0)
    FROM unnest(records) r GROUP BY 2
    ON CONFLICT (type_id, minute) DO UPDATE SET
        reads = compared_reads.reads + excluded.reads, failed = compared_reads.failed + excluded.failed,
        slow = compared_reads.slow + excluded.slow, ids = compared_reads.ids + excluded.ids,
        hits = compared_reads.hits + excluded.hits, differing = compared_reads.differing + excluded.differing;
    INSERT INTO mismatch (type_id, user_id, entity_id, in_table, in_cache, read_at)
    SELECT of_type, (r ->> 'user')::bigint, (d ->> 0)::bigint, (d ->> 1)::integer, (d ->> 2)::integer,
        to_timestamp((r ->> 'at')::bigint / 1e6)
    FROM unnest(records) r, jsonb_array_elements(r -> 'differences') d
    ON CONFLICT DO NOTHING;
END;
COMMENT ON FUNCTION _store_compared(smallint, jsonb[]) IS 'adds records of compared reads to compared_reads and mismatch';

CREATE FUNCTION _recheck_mismatches(of_type text, of_user bigint, before timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found reactions.mismatch;
    again record;
    lasting bigint[] := '{}';
    is_moving boolean := false;
BEGIN
    FOR found IN
        SELECT m.* FROM reactions.mismatch m JOIN reactions.entity_type t USING (type_id)
        WHERE t.entity_type = of_type AND m.user_id = of_user AND m.class IS NULL AND m.read_at < before
    LOOP
        again := reactions._compare(found.user_id, found.entity_id, of_type);
        IF again.in_table = again.in_cache THEN
            UPDATE reactions.mismatch m SET class = 'in_flight', checked_at = clock_timestamp()
            WHERE m.mismatch_id = found.mismatch_id;
        ELSIF EXISTS (
            SELECT FROM reactions._outbox o
            WHERE o.type_id = found.type_id AND o.user_id = found.user_id AND o.entity_id = found.entity_id
                AND NOT EXISTS (SELECT FROM reactions._mirror m WHERE o.version <= m.floor)
        ) THEN
            is_moving := true;
        ELSE
            lasting := lasting || found.mismatch_id;
        END IF;
    END LOOP;
    -- All of the user at once: without the map nothing can be told of it any more.
    IF is_moving OR lasting = '{}' THEN
        RETURN;
    END IF;
    PERFORM reactions.invalidate(of_type, of_user);
    FOR found IN SELECT m.* FROM reactions.mismatch m WHERE m.mismatch_id = ANY (lasting) LOOP
        again := reactions._compare(found.user_id, found.entity_id, of_type);
        UPDATE reactions.mismatch m SET
            class = CASE
                WHEN again.in_table = again.in_cache THEN 'stale_cache'
                WHEN again.in_cache & ~again.in_table = 0 THEN 'missing'
                WHEN again.in_table & ~again.in_cache = 0 THEN 'phantom'
                ELSE 'different' END,
            checked_at = clock_timestamp()
        WHERE m.mismatch_id = found.mismatch_id;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _recheck_mismatches(text, bigint, timestamptz) IS
    'looks at a user''s differences again, unless events on them are still on their way';

-- A procedure that commits cannot have a search_path of its own: every name is qualified.
CREATE PROCEDURE _digest_compared()
    LANGUAGE plpgsql
AS $$
DECLARE
    -- Records at a time, and how long a difference is left alone.
    most constant integer := 1000;
    before constant timestamptz := pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '5 seconds'::pg_catalog.interval;
    of_type record;
    records pg_catalog.jsonb[];
BEGIN
    FOR of_type IN SELECT t.type_id, t.entity_type FROM reactions.entity_type t WHERE t.phase OPERATOR(pg_catalog.=) 'dual_read' LOOP
        LOOP
            records := ARRAY(SELECT r::pg_catalog.jsonb FROM reactions._take_compared(of_type.entity_type, 0, most) r);
            PERFORM reactions._store_compared(of_type.type_id, records);
            COMMIT;
            -- Dropped when they are stored: a crash in between counts them twice, but loses no difference.
            PERFORM reactions._take_compared(of_type.entity_type, pg_catalog.cardinality(records), 0);
            EXIT WHEN pg_catalog.cardinality(records) OPERATOR(pg_catalog.<) most;
        END LOOP;
    END LOOP;
    FOR of_type IN
        SELECT DISTINCT t.entity_type, m.user_id
        FROM reactions.mismatch m JOIN reactions.entity_type t ON t.type_id OPERATOR(pg_catalog.=) m.type_id
        WHERE m.class IS NULL AND m.read_at OPERATOR(pg_catalog.<) before
            AND t.phase OPERATOR(pg_catalog.=) ANY (ARRAY['dual_read', 'switch_reads'])
        LIMIT 100
    LOOP
        PERFORM reactions._recheck_mismatches(of_type.entity_type, of_type.user_id, before);
        COMMIT;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE _digest_compared() IS
    'takes the compared reads from Redis into compared_reads and mismatch, and looks at differences again; commits';

CREATE FUNCTION _phase_beside(phase text, steps integer) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN (ARRAY['attached', 'dual_read', 'switch_reads', 'stop_writes', 'archived'])
    [array_position(ARRAY['attached', 'dual_read', 'switch_reads', 'stop_writes', 'archived'], phase) + steps];
COMMENT ON FUNCTION _phase_beside(text, integer) IS 'the phase so many steps on, or back; null where there is none';

CREATE FUNCTION readiness(
    entity_type text, OUT condition text, OUT required text, OUT actual text, OUT ok boolean
) RETURNS SETOF record
    LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    -- What is asked of a type before its next phase.
    longest_lag constant interval := '30 seconds';
    oldest_match constant interval := '24 hours';
    -- The ids that must have been compared since the phase began, and of 1,000 how many may fail, be slow or be misses.
    least_compared constant bigint := 10000;
    most_failed constant bigint := 1;
    most_slow constant bigint := 10;
    most_missed constant bigint := 50;
    of_type reactions.entity_type;
    began timestamptz;
    mirror record;
    found record;
BEGIN
    SELECT * INTO of_type FROM reactions.entity_type t WHERE t.entity_type = $1;
    IF of_type.type_id IS NULL THEN
        PERFORM reactions._refuse(format('entity type "%s" does not exist', $1), NULL, 'undefined_object');
    END IF;
    IF reactions._phase_beside(of_type.phase, 1) IS NULL THEN
        RETURN;
    END IF;

    SELECT count(*) FILTER (WHERE tgenabled = 'A') AS enabled INTO found
        FROM pg_trigger WHERE tgrelid = of_type.legacy_table AND tgname LIKE 'reactions\_capture\_%' AND NOT tgisinternal;
    condition := 'capture';
    required := '6 triggers enabled';
    actual := format('%s of 6', found.enabled);
    ok := found.enabled = 6;
    RETURN NEXT;

    SELECT string_agg(p.problem, '; ') AS problems INTO found
        FROM reactions._table_problems(of_type.legacy_table, of_type.mode, of_type.user_column, of_type.entity_column,
            of_type.kind_column, of_type.created_column, of_type.extra_values) p;
    condition := 'table';
    required := 'can stay attached';
    actual := coalesce(found.problems, 'can stay attached');
    ok := found.problems IS NULL;
    RETURN NEXT;

    condition := 'backfill';
    required := 'complete';
    actual := CASE WHEN of_type.backfilled THEN 'complete' ELSE 'not complete' END;
    ok := of_type.backfilled;
    RETURN NEXT;

    SELECT m.* INTO found FROM reactions.match_run m
        WHERE m.type_id = of_type.type_id AND m.scope = 'full' AND m.finished_at IS NOT NULL
            AND m.started_at >= coalesce(
                (SELECT max(b.sealed_at) FROM reactions._backfill b WHERE b.type_id = of_type.type_id), m.started_at)
        ORDER BY m.finished_at DESC LIMIT 1;
    condition := 'match';
    required := format('no difference left, within %s', oldest_match);
    actual := CASE WHEN found.match_run_id IS NULL THEN 'never matched'
        ELSE format('%s of %s reactions differ, %s repaired, at %s', found.differences, found.compared, found.repaired, found.finished_at)
        || CASE WHEN found.in_flight > 0 THEN format(', %s could not be judged', found.in_flight) ELSE '' END END;
    ok := found.match_run_id IS NOT NULL AND found.differences = found.repaired AND found.in_flight = 0
        AND found.finished_at > clock_timestamp() - oldest_match;
    -- A failover, a restore or an alteration of capture since: what was found before says nothing of it.
    SELECT max(m.match_wanted) AS wish INTO found FROM reactions._mirror m;
    IF found.wish IS NOT NULL THEN
        actual := format('another one is wanted: %s', found.wish);
        ok := false;
    END IF;
    RETURN NEXT;

    SELECT * INTO mirror FROM reactions.mirror_status;
    condition := 'agent';
    required := 'running';
    actual := CASE WHEN mirror.agent_pid IS NULL THEN 'not running' ELSE format('backend %s', mirror.agent_pid) END;
    ok := mirror.agent_pid IS NOT NULL;
    RETURN NEXT;

    condition := 'lag';
    required := format('no event older than %s above the floor', longest_lag);
    actual := CASE WHEN mirror.oldest_event_above_floor IS NULL THEN 'no event above the floor'
        ELSE format('%s old', date_trunc('milliseconds', clock_timestamp() - mirror.oldest_event_above_floor)) END;
    ok := coalesce(clock_timestamp() - mirror.oldest_event_above_floor < longest_lag, true);
    RETURN NEXT;

    SELECT count(*) AS parked INTO found FROM reactions.parked_events p
        WHERE p.entity_type = of_type.entity_type AND p.redriven_at IS NULL;
    condition := 'parked_events';
    required := '0';
    actual := found.parked;
    ok := found.parked = 0;
    RETURN NEXT;

    IF of_type.phase NOT IN ('dual_read', 'switch_reads') THEN
        RETURN;
    END IF;
    -- Reads are compared in dual_read alone: in switch_reads they are judged as they were when it was left.
    SELECT max(l.changed_at) INTO began FROM reactions.phase_log l WHERE l.entity_type = $1 AND l.to_phase = 'dual_read';
    SELECT coalesce(sum(c.reads), 0) AS reads, coalesce(sum(c.failed), 0) AS failed, coalesce(sum(c.slow), 0) AS slow,
            coalesce(sum(c.ids), 0) AS ids, coalesce(sum(c.hits), 0) AS hits INTO found
        FROM reactions.compared_reads c WHERE c.type_id = of_type.type_id AND c.minute >= date_trunc('minute', began);
    condition := 'compared_reads';
    required := format('%s reactions compared', least_compared);
    actual := found.ids;
    ok := found.ids >= least_compared;
    RETURN NEXT;

    condition := 'failed_reads';
    required := format('at most %s in 1000', most_failed);
    actual := format('%s of %s', found.failed, found.reads);
    ok := found.reads > 0 AND found.failed * 1000 <= found.reads * most_failed;
    RETURN NEXT;

    condition := 'slow_reads';
    required := format('at most %s in 1000 over 10 ms', most_slow);
    actual := format('%s of %s', found.slow, found.reads);
    ok := found.reads > 0 AND found.slow * 1000 <= found.reads * most_slow;
    RETURN NEXT;

    condition := 'misses';
    required := format('at most %s in 1000', most_missed);
    actual := format('%s of %s', found.ids - found.hits, found.ids);
    ok := found.ids > 0 AND (found.ids - found.hits) * 1000 <= found.ids * most_missed;
    RETURN NEXT;

    SELECT count(*) FILTER (WHERE m.class <> 'in_flight') AS unexplained, count(*) FILTER (WHERE m.class IS NULL) AS unchecked INTO found
        FROM reactions.mismatch m WHERE m.type_id = of_type.type_id AND m.read_at >= began;
    condition := 'mismatches';
    required := 'none unexplained, none to be looked at again';
    actual := format('%s unexplained, %s to be looked at again', found.unexplained, found.unchecked);
    ok := found.unexplained = 0 AND found.unchecked = 0;
    RETURN NEXT;

    IF of_type.phase <> 'switch_reads' THEN
        RETURN;
    END IF;
    FOR found IN SELECT a.condition, a.objects FROM reactions._advice(of_type.type_id) a LOOP
        condition := found.condition;
        required := 'none, or acknowledged';
        actual := CASE WHEN found.objects = '{}' THEN 'none' ELSE array_to_string(found.objects, ', ') END
            || CASE WHEN found.objects <> '{}' AND found.condition = ANY (of_type.acknowledged) THEN ' (acknowledged)' ELSE '' END;
        ok := found.objects = '{}' OR found.condition = ANY (of_type.acknowledged);
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION readiness(text) IS 'whether a type is ready for its next phase: one row for each condition';

CREATE FUNCTION _flip(of_type text, from_phase text, to_phase text, forced boolean, readiness jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM reactions._fence_out(NULL);
    IF to_phase = 'stop_writes' THEN
        PERFORM reactions._refuse_to_freeze(of_type);
    END IF;
    -- Behind the fence: whoever came first has flipped.
    UPDATE reactions.entity_type t SET
        phase = to_phase,
        -- Maps were filled from the table, and from now on ClickHouse decides: it has what the table has refused.
        epoch = t.epoch + CASE WHEN to_phase = 'stop_writes'
            AND EXISTS (SELECT FROM reactions.write_back_refused r WHERE r.type_id = t.type_id) THEN 1 ELSE 0 END,
        stop_version = CASE WHEN to_phase IN ('stop_writes', 'archived') THEN coalesce(t.stop_version, reactions._draw_version()) END
    WHERE t.entity_type = of_type AND t.phase = from_phase;
    IF NOT FOUND THEN
        PERFORM reactions._refuse(format('entity type "%s" is no longer in phase %s', of_type, from_phase),
            'Somebody else has changed it; reactions.status() tells the phase.', 'serialization_failure');
    END IF;
    INSERT INTO reactions.phase_log (entity_type, from_phase, to_phase, forced, readiness)
    VALUES (of_type, from_phase, to_phase, forced, readiness);
    PERFORM pg_notify('reactions', '');
END
$$;
COMMENT ON FUNCTION _flip(text, text, text, boolean, jsonb) IS 'changes the phase of a type when no writer is between statement and commit';

-- A procedure that commits cannot have a search_path of its own: every name is qualified.
CREATE PROCEDURE _advance_from(entity_type text, from_phase text, force boolean)
    LANGUAGE plpgsql
AS $$
DECLARE
    to_phase text;
    conditions pg_catalog.jsonb;
    missing text;
    advisory text;
BEGIN
    to_phase := reactions._phase_beside(from_phase, 1);
    SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(r)),
            pg_catalog.string_agg(pg_catalog.format('%s: required %s, actual %s.', r.condition, r.required, r.actual), E'\n')
                FILTER (WHERE NOT r.ok),
            pg_catalog.string_agg(r.condition, ',')
                FILTER (WHERE r.condition OPERATOR(pg_catalog.=) ANY (reactions._advisory_conditions())
                    AND r.actual OPERATOR(pg_catalog.<>) 'none')
        INTO conditions, missing, advisory FROM reactions.readiness($1) r;
    IF to_phase IS NULL THEN
        PERFORM reactions._refuse(pg_catalog.format('entity type "%s" has no phase after %s', $1, from_phase));
    END IF;
    IF to_phase OPERATOR(pg_catalog.=) 'archived' THEN
        PERFORM reactions._refuse(pg_catalog.format('entity type "%s" is archived by reactiond archive', $1),
            'It writes the table to files, reads them back, and then takes the type to phase archived.');
    END IF;
    IF missing IS NOT NULL AND NOT coalesce(force, false) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = pg_catalog.format('entity type "%s" is not ready for phase %s', $1, to_phase),
            DETAIL = missing,
            HINT = pg_catalog.concat(
                pg_catalog.format('reactions.readiness(%L) shows all conditions. ', $1),
                CASE WHEN advisory IS NOT NULL THEN pg_catalog.format(
                    'SELECT reactions.configure(%L, acknowledged => ''{%s}'') accepts those that are advisory. ', $1, advisory) END,
                pg_catalog.format('CALL reactions.advance(%L, force => true) does without, and is logged.', $1));
    END IF;
    -- The conditions took time: the flip is a transaction of its own, which holds the fence for two statements.
    COMMIT;
    IF to_phase OPERATOR(pg_catalog.=) 'stop_writes' THEN
        PERFORM reactions.prepare_stop_writes($1);
        COMMIT;
    END IF;
    PERFORM reactions._flip($1, from_phase, to_phase, missing IS NOT NULL, conditions);
    COMMIT;
END
$$;
COMMENT ON PROCEDURE _advance_from(text, text, boolean) IS
    'takes a type from this phase to the next one if it is ready for it, unless somebody else has; commits';

CREATE PROCEDURE advance(entity_type text, force boolean DEFAULT false)
    LANGUAGE plpgsql
AS $$
DECLARE
    from_phase text;
BEGIN
    SELECT t.phase INTO from_phase FROM reactions.entity_type t WHERE t.entity_type OPERATOR(pg_catalog.=) $1;
    CALL reactions._advance_from($1, from_phase, force);
END
$$;
COMMENT ON PROCEDURE advance(text, boolean) IS 'takes a type to its next phase if it is ready for it; commits';

CREATE PROCEDURE rollback(entity_type text)
    LANGUAGE plpgsql
AS $$
DECLARE
    from_phase text;
    to_phase text;
BEGIN
    SELECT t.phase INTO from_phase FROM reactions.entity_type t WHERE t.entity_type OPERATOR(pg_catalog.=) $1;
    IF from_phase IS NULL THEN
        PERFORM reactions._refuse(pg_catalog.format('entity type "%s" does not exist', $1), NULL, 'undefined_object');
    END IF;
    to_phase := reactions._phase_beside(from_phase, -1);
    IF to_phase IS NULL OR from_phase OPERATOR(pg_catalog.=) 'archived' THEN
        PERFORM reactions._refuse(pg_catalog.format('entity type "%s" cannot go back from phase %s', $1, from_phase),
            CASE WHEN from_phase OPERATOR(pg_catalog.=) 'archived' THEN 'reactiond restore brings its table back, and the type to phase stop_writes.' END);
    END IF;
    IF from_phase OPERATOR(pg_catalog.=) 'stop_writes' THEN
        CALL reactions._roll_back_by_agent($1);
        BEGIN
            PERFORM reactions._drop_frozen_triggers(t.type_id)
            FROM reactions.entity_type t WHERE t.entity_type OPERATOR(pg_catalog.=) $1;
        EXCEPTION WHEN lock_not_available THEN
            RAISE WARNING USING MESSAGE = pg_catalog.concat('triggers of phase stop_writes are left: ', SQLERRM),
                HINT = 'They do nothing in other phases. The next advance uses them, and detach drops them.';
        END;
        COMMIT;
        RETURN;
    END IF;
    COMMIT;
    PERFORM reactions._flip($1, from_phase, to_phase, false, NULL);
    COMMIT;
END
$$;
COMMENT ON PROCEDURE rollback(text) IS
    'takes a type back to the phase before; from stop_writes the agent first writes into the table what it has missed; commits';
