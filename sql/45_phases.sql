-- The migration of an attached table. -------------------------------------------------------------------------------------------

-- Written by reactiond match.
CREATE TABLE match_run (
    match_run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type_id      smallint NOT NULL,
    scope        text NOT NULL CHECK (scope IN ('full', 'recent')),
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz,
    compared     bigint NOT NULL DEFAULT 0 CHECK (compared >= 0),
    differences  bigint NOT NULL DEFAULT 0 CHECK (differences >= 0),
    repaired     bigint NOT NULL DEFAULT 0 CHECK (repaired BETWEEN 0 AND differences)
);
COMMENT ON TABLE match_run IS 'comparisons of a table with ClickHouse, reaction by reaction';
COMMENT ON SEQUENCE match_run_match_run_id_seq IS 'numbers of match_run';

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
    of_type reactions.entity_type;
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
        ORDER BY m.finished_at DESC LIMIT 1;
    condition := 'match';
    required := format('no difference left, within %s', oldest_match);
    actual := CASE WHEN found.match_run_id IS NULL THEN 'never matched'
        ELSE format('%s of %s reactions differ, %s repaired, at %s', found.differences, found.compared, found.repaired, found.finished_at) END;
    ok := found.match_run_id IS NOT NULL AND found.differences = found.repaired
        AND found.finished_at > clock_timestamp() - oldest_match;
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

    SELECT count(*) AS parked INTO found FROM reactions.parked_event p
        WHERE p.type_id = of_type.type_id AND p.redriven_at IS NULL;
    condition := 'parked_events';
    required := '0';
    actual := found.parked;
    ok := found.parked = 0;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION readiness(text) IS 'whether a type is ready for its next phase: one row for each condition';

CREATE FUNCTION _flip(of_type text, from_phase text, to_phase text, forced boolean, readiness jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM reactions._fence_out(NULL);
    -- Behind the fence: whoever came first has flipped.
    UPDATE reactions.entity_type t SET phase = to_phase WHERE t.entity_type = of_type AND t.phase = from_phase;
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
CREATE PROCEDURE advance(entity_type text, force boolean DEFAULT false)
    LANGUAGE plpgsql
AS $$
DECLARE
    from_phase text;
    to_phase text;
    conditions pg_catalog.jsonb;
    missing text;
BEGIN
    SELECT t.phase INTO from_phase FROM reactions.entity_type t WHERE t.entity_type OPERATOR(pg_catalog.=) $1;
    to_phase := reactions._phase_beside(from_phase, 1);
    SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(r)),
            pg_catalog.string_agg(pg_catalog.format('%s: required %s, actual %s.', r.condition, r.required, r.actual), E'\n')
                FILTER (WHERE NOT r.ok)
        INTO conditions, missing FROM reactions.readiness($1) r;
    IF to_phase IS NULL THEN
        PERFORM reactions._refuse(pg_catalog.format('entity type "%s" has no phase after %s', $1, from_phase));
    END IF;
    IF to_phase OPERATOR(pg_catalog.=) 'stop_writes' THEN
        PERFORM reactions._refuse('phase stop_writes is not supported yet', NULL, 'feature_not_supported');
    END IF;
    IF missing IS NOT NULL AND NOT coalesce(force, false) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = pg_catalog.format('entity type "%s" is not ready for phase %s', $1, to_phase),
            DETAIL = missing,
            HINT = pg_catalog.format('reactions.readiness(%L) shows all conditions. CALL reactions.advance(%L, force => true) does without, and is logged.', $1, $1);
    END IF;
    -- The conditions took time: the flip is a transaction of its own, which holds the fence for two statements.
    COMMIT;
    PERFORM reactions._flip($1, from_phase, to_phase, missing IS NOT NULL, conditions);
    COMMIT;
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
        PERFORM reactions._refuse(pg_catalog.format('entity type "%s" cannot go back from phase %s', $1, from_phase));
    END IF;
    COMMIT;
    PERFORM reactions._flip($1, from_phase, to_phase, false, NULL);
    COMMIT;
END
$$;
COMMENT ON PROCEDURE rollback(text) IS 'takes a type back to the phase before; commits';
