-- Going back from phase stop_writes: the agent writes into the table what it has missed. docs/internals.md, "Write-back". -----------

-- Who leads; a role that may not see that an agent's lock is an agent's sees its number all the same.
CREATE FUNCTION _agent_pid() RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT l.pid FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.classid = 1380013139 AND l.objid = 1 AND l.objsubid = 2 AND l.granted
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
    LIMIT 1;
END;
COMMENT ON FUNCTION _agent_pid() IS 'the backend of the agent that leads; null if none does';

CREATE TABLE write_back (
    write_back_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type_id       smallint NOT NULL,
    state         text NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'writing', 'done', 'failed', 'withdrawn')),
    requested_by  text NOT NULL DEFAULT session_user,
    requested_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Set by whoever waits, again and again: what nobody waits for is not gone on with.
    awaited_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Counts the agents that took it up; only the last one writes.
    term          integer NOT NULL DEFAULT 0,
    -- The table has everything up to from_batch; what came up to to_batch is written, of users up to users_done.
    from_batch    bigint NOT NULL DEFAULT 0,
    to_batch      bigint,
    users_done    bigint,
    rounds        integer NOT NULL DEFAULT 0,
    keys_total    bigint,
    keys_done     bigint NOT NULL DEFAULT 0,
    events_done   bigint NOT NULL DEFAULT 0,
    error         text,
    fence_ms      double precision,
    finished_at   timestamptz,
    CHECK ((state IN ('requested', 'writing')) = (finished_at IS NULL))
);
COMMENT ON TABLE write_back IS 'rollbacks from phase stop_writes, how far they are and how they ended';
COMMENT ON SEQUENCE write_back_write_back_id_seq IS 'numbers of write_back';
CREATE UNIQUE INDEX write_back_open ON write_back (type_id) WHERE finished_at IS NULL;
COMMENT ON INDEX write_back_open IS 'one rollback of a type at a time';

CREATE VIEW write_backs AS
    SELECT w.write_back_id, t.entity_type, w.state, w.keys_done, w.keys_total, w.events_done, w.rounds, w.fence_ms, w.error,
        w.requested_by, w.requested_at, w.finished_at,
        -- The agent carries them out in the order in which they were asked for.
        CASE WHEN w.finished_at IS NULL THEN (
            SELECT o.entity_type FROM write_back b JOIN entity_type o USING (type_id)
            WHERE b.finished_at IS NULL AND b.write_back_id < w.write_back_id ORDER BY b.write_back_id LIMIT 1) END AS waits_for
    FROM write_back w LEFT JOIN entity_type t USING (type_id);
COMMENT ON VIEW write_backs IS
    'rollbacks from phase stop_writes: reactions and events written into the table, for how long writers waited at its end, and the type whose rollback comes first';

CREATE TABLE write_back_refused (
    type_id   smallint NOT NULL,
    user_id   bigint NOT NULL,
    entity_id bigint NOT NULL,
    flags     integer NOT NULL,
    problem   text NOT NULL,
    noted_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (type_id, user_id, entity_id)
);
COMMENT ON TABLE write_back_refused IS
    'reactions that a table refused when they were written back; flags are the kinds that it has not, or still has, other than ClickHouse';

-- The one who asks. ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION _request_write_back(entity_type text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    of_type reactions.entity_type;
    problems text;
    request bigint;
BEGIN
    SELECT * INTO of_type FROM reactions.entity_type t WHERE t.entity_type = $1 AND t.phase = 'stop_writes';
    IF of_type.type_id IS NULL THEN
        PERFORM reactions._refuse(format('entity type "%s" is no longer in phase stop_writes', $1),
            'Somebody else has changed it; reactions.status() tells the phase.', 'serialization_failure');
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = of_type.legacy_table) THEN
        PERFORM reactions._refuse(format('entity type "%s" has no table to go back to', $1),
            'reactiond restore makes it again from an archive.');
    END IF;
    SELECT string_agg(format('%s.', p.problem), E'\n') INTO problems
        FROM reactions._table_problems(of_type.legacy_table, of_type.mode, of_type.user_column, of_type.entity_column,
            of_type.kind_column, of_type.created_column, of_type.extra_values) p;
    IF problems IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('table %s cannot take the reactions of entity type "%s" back', of_type.legacy_table, $1),
            DETAIL = problems, HINT = 'Put the table right; reactions.doctor() says how.';
    END IF;
    IF of_type.stop_version IS NULL THEN
        PERFORM reactions._refuse(format('it is not known what the table of entity type "%s" has missed', $1),
            'The type was not taken to phase stop_writes by reactions.advance().');
    END IF;
    IF reactions._agent_pid() IS NULL THEN
        PERFORM reactions._refuse('no agent leads, and the agent writes the reactions back',
            'Start reactiond run, and call this again.');
    END IF;
    INSERT INTO reactions.write_back (type_id) VALUES (of_type.type_id)
        ON CONFLICT (type_id) WHERE finished_at IS NULL DO NOTHING RETURNING write_back_id INTO request;
    IF request IS NULL THEN
        PERFORM reactions._refuse(format('entity type "%s" is being rolled back', $1),
            'reactions.write_backs tells how far it is.', 'object_in_use');
    END IF;
    PERFORM pg_notify('reactions', '');
    RETURN request;
END
$$;
COMMENT ON FUNCTION _request_write_back(text) IS 'asks the agent to roll a type back from stop_writes, unless something is in the way';

CREATE FUNCTION _await_write_back(request bigint, withdraw boolean) RETURNS reactions.write_back
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found reactions.write_back;
BEGIN
    IF withdraw THEN
        UPDATE reactions.write_back w SET state = 'withdrawn', finished_at = clock_timestamp(), error = 'it was cancelled'
        WHERE w.write_back_id = request AND w.finished_at IS NULL;
    ELSE
        UPDATE reactions.write_back w SET awaited_at = clock_timestamp()
        WHERE w.write_back_id = request AND w.finished_at IS NULL AND w.awaited_at < clock_timestamp() - interval '1 second';
    END IF;
    SELECT * INTO found FROM reactions.write_back w WHERE w.write_back_id = request;
    RETURN found;
END
$$;
COMMENT ON FUNCTION _await_write_back(bigint, boolean) IS 'says that somebody still waits for a rollback, or no longer wants it';

CREATE FUNCTION _tell_write_back(request reactions.write_back, entity_type text) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    refused bigint;
    waits_for text;
BEGIN
    CASE request.state
        WHEN 'done' THEN
            SELECT count(*) INTO refused FROM reactions.write_back_refused r
                WHERE r.type_id = request.type_id AND r.noted_at >= request.requested_at;
            IF refused > 0 THEN
                RAISE WARNING USING MESSAGE = format('the table of entity type "%s" refused %s reactions', entity_type, refused),
                    DETAIL = 'They are in ClickHouse alone, and are not shown any more.',
                    HINT = 'reactions.write_back_refused lists them, with the reasons.';
            END IF;
            RAISE NOTICE 'entity type "%": % reactions and % events written back; writers waited for % ms', entity_type,
                request.keys_done, request.events_done, round(request.fence_ms::numeric, 1);
        WHEN 'failed' THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('entity type "%s" could not be rolled back', entity_type),
                DETAIL = request.error,
                HINT = 'The phase is stop_writes still, and nothing is lost. Put it right, and call this again.';
        WHEN 'withdrawn' THEN
            RAISE EXCEPTION USING ERRCODE = 'query_canceled',
                MESSAGE = format('the rollback of entity type "%s" was withdrawn: %s', entity_type, request.error),
                HINT = 'The phase is stop_writes still. What was written into the table stays there and is written over by the next rollback.';
        ELSE
            SELECT w.waits_for INTO waits_for FROM reactions.write_backs w WHERE w.write_back_id = request.write_back_id;
            RAISE NOTICE 'entity type "%": % of % reactions and % events written back%', entity_type, request.keys_done,
                coalesce(request.keys_total::text, '?'), request.events_done,
                CASE WHEN request.error IS NOT NULL THEN '; the agent tries again: ' || request.error
                    WHEN reactions._agent_pid() IS NULL THEN '; no agent leads: start reactiond run'
                    WHEN waits_for IS NOT NULL THEN format('; the rollback of entity type "%s" comes first', waits_for) ELSE '' END;
    END CASE;
END
$$;
COMMENT ON FUNCTION _tell_write_back(reactions.write_back, text) IS 'tells how far a rollback is, or how it ended';

-- A procedure that commits cannot have a search_path of its own: every name is qualified.
CREATE PROCEDURE _roll_back_by_agent(entity_type text)
    LANGUAGE plpgsql
AS $$
DECLARE
    request constant pg_catalog.int8 := reactions._request_write_back($1);
    found reactions.write_back;
    is_cancelled pg_catalog.bool := false;
    polls pg_catalog.int4 := 0;
BEGIN
    LOOP
        COMMIT;
        -- Whatever the session's default is: it has to see what the agent commits.
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        found := reactions._await_write_back(request, is_cancelled);
        IF is_cancelled OR found.finished_at IS NOT NULL THEN
            COMMIT;
            PERFORM reactions._tell_write_back(found, $1);
            RETURN;
        END IF;
        polls := polls OPERATOR(pg_catalog.+) 1;
        IF polls OPERATOR(pg_catalog.%) 25 OPERATOR(pg_catalog.=) 0 THEN
            PERFORM reactions._tell_write_back(found, $1);
        END IF;
        COMMIT;
        BEGIN
            PERFORM pg_catalog.pg_sleep(0.2);
        EXCEPTION WHEN query_canceled THEN
            is_cancelled := true;
        END;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE _roll_back_by_agent(text) IS 'asks the agent to roll a type back from stop_writes, and waits until it has; commits';

-- The agent. ----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION _withdraw_deserted() RETURNS void
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    UPDATE write_back SET state = 'withdrawn', finished_at = clock_timestamp(), error = 'nobody waits for it any more'
    WHERE finished_at IS NULL AND awaited_at < clock_timestamp() - interval '10 seconds';
END;
COMMENT ON FUNCTION _withdraw_deserted() IS 'ends the rollbacks that nobody waits for';

CREATE FUNCTION _note_write_back(
    entity_type text, user_ids bigint[], entity_ids bigint[], set_masks integer[], clear_masks integer[], created_at timestamptz[]
) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    of_type smallint := (SELECT t.type_id FROM reactions.entity_type t WHERE t.entity_type = $1);
    places integer[];
    flags integer[];
    problems text[];
    step record;
BEGIN
    SELECT array_agg(p.place), array_agg(p.flags), array_agg(p.problem) INTO places, flags, problems
    FROM reactions._write_back($1, user_ids, entity_ids, set_masks, clear_masks, created_at) p;
    -- In order: what a step has written is no longer missing, whatever was refused before; what it was refused is.
    FOR step IN
        WITH step AS (
            SELECT k.*, p.flags, p.problem
            FROM unnest(user_ids, entity_ids, set_masks, clear_masks) WITH ORDINALITY AS k (user_id, entity_id, set_mask, clear_mask, place)
            LEFT JOIN unnest(places, flags, problems) AS p (place, flags, problem) USING (place)
        )
        SELECT s.user_id, s.entity_id, s.set_mask | s.clear_mask AS written, coalesce(s.flags, 0) AS refused, s.problem
        FROM step s JOIN (
            SELECT user_id, entity_id FROM step WHERE problem IS NOT NULL
            UNION
            SELECT user_id, entity_id FROM step JOIN reactions.write_back_refused r USING (user_id, entity_id) WHERE r.type_id = of_type
        ) noted USING (user_id, entity_id)
        ORDER BY s.place
    LOOP
        INSERT INTO reactions.write_back_refused AS r (type_id, user_id, entity_id, flags, problem)
        VALUES (of_type, step.user_id, step.entity_id, step.refused, coalesce(step.problem, ''))
        ON CONFLICT (type_id, user_id, entity_id) DO UPDATE SET flags = r.flags & ~step.written | step.refused,
            problem = coalesce(step.problem, r.problem),
            noted_at = CASE WHEN step.problem IS NULL THEN r.noted_at ELSE clock_timestamp() END;
    END LOOP;
    DELETE FROM reactions.write_back_refused r USING unnest(user_ids, entity_ids) AS k (user_id, entity_id)
        WHERE r.type_id = of_type AND r.user_id = k.user_id AND r.entity_id = k.entity_id AND r.flags = 0;
END
$$;
COMMENT ON FUNCTION _note_write_back(text, bigint[], bigint[], integer[], integer[], timestamptz[]) IS
    '_write_back, with what the table refuses kept in write_back_refused';

CREATE FUNCTION _hold_write_back(request bigint, of_term integer) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The fence first, as everywhere; then the row, until the transaction ends: nobody can take the request over meanwhile.
    LOCK TABLE reactions.entity_type IN ROW EXCLUSIVE MODE;
    PERFORM FROM reactions.write_back w
        WHERE w.write_back_id = request AND w.term = of_term AND w.finished_at IS NULL
            AND w.awaited_at >= clock_timestamp() - interval '10 seconds'
        FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM reactions._refuse('the rollback was withdrawn, or another agent has taken it up', NULL, 'serialization_failure');
    END IF;
    -- Behind the fence: an archive that was under way may have come first.
    IF NOT EXISTS (
        SELECT FROM reactions.write_back w JOIN reactions.entity_type t USING (type_id)
        WHERE w.write_back_id = request AND t.phase = 'stop_writes'
    ) THEN
        PERFORM reactions._refuse('the type is no longer in phase stop_writes');
    END IF;
END
$$;
COMMENT ON FUNCTION _hold_write_back(bigint, integer) IS 'makes sure that a rollback is still wanted, and this agent''s, to the end of the transaction';

CREATE FUNCTION _write_back_page(
    request bigint, of_term integer, user_ids bigint[], entity_ids bigint[], set_masks integer[], clear_masks integer[],
    created_at timestamptz[], keys bigint, through_user bigint
) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM reactions._hold_write_back(request, of_term);
    UPDATE reactions.write_back w
    SET state = 'writing', error = NULL, keys_done = w.keys_done + keys, users_done = coalesce(through_user, w.users_done)
    WHERE w.write_back_id = request;
    PERFORM reactions._note_write_back(
        (SELECT t.entity_type FROM reactions.entity_type t JOIN reactions.write_back w USING (type_id) WHERE w.write_back_id = request),
        user_ids, entity_ids, set_masks, clear_masks, created_at);
END
$$;
COMMENT ON FUNCTION _write_back_page(bigint, integer, bigint[], bigint[], integer[], integer[], timestamptz[], bigint, bigint) IS
    'writes reactions into the table of a type that is rolled back';

-- Every reaction of a user, or of an entity, goes.
CREATE FUNCTION _write_back_gone(of_type reactions.entity_type, of_user bigint, of_entity bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    user_ids bigint[];
    entity_ids bigint[];
    flags integer := (SELECT bit_or(k.flag) FROM reactions.kind k WHERE k.type_id = of_type.type_id);
BEGIN
    DELETE FROM reactions.write_back_refused r
        WHERE r.type_id = of_type.type_id AND (r.user_id = of_user OR r.entity_id = of_entity);
    EXECUTE format('SELECT array_agg(%1$I::bigint), array_agg(%2$I::bigint) FROM ONLY %3$s WHERE %4$I = $1',
            of_type.user_column, of_type.entity_column, of_type.legacy_table,
            CASE WHEN of_user IS NOT NULL THEN of_type.user_column ELSE of_type.entity_column END)
        INTO user_ids, entity_ids USING coalesce(of_user, of_entity);
    IF user_ids IS NOT NULL THEN
        PERFORM reactions._note_write_back(of_type.entity_type, user_ids, entity_ids, array_fill(0, ARRAY[cardinality(user_ids)]),
            array_fill(flags, ARRAY[cardinality(user_ids)]), array_fill(now(), ARRAY[cardinality(user_ids)]));
    END IF;
END
$$;
COMMENT ON FUNCTION _write_back_gone(reactions.entity_type, bigint, bigint) IS
    'deletes the reactions of a user or an entity that is gone from a type''s table';

CREATE FUNCTION _write_back_events(
    request bigint, of_term integer, since pg_snapshot, most bigint, OUT until pg_snapshot, OUT events bigint
) RETURNS record
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    of_type reactions.entity_type;
    lowest bigint;
    part record;
BEGIN
    PERFORM reactions._hold_write_back(request, of_term);
    SELECT t.* INTO of_type FROM reactions.entity_type t JOIN reactions.write_back w USING (type_id) WHERE w.write_back_id = request;
    SELECT greatest(of_type.stop_version, m.base_version - 1) INTO lowest FROM reactions._mirror m;
    -- One statement, so one snapshot.
    SELECT pg_current_snapshot(), count(*) INTO until, events FROM (
        SELECT FROM reactions._outbox o
        WHERE o.xid >= pg_snapshot_xmax(since) AND o.type_id = of_type.type_id AND o.version > lowest
        UNION ALL
        SELECT FROM reactions._outbox o
        WHERE o.xid = ANY (ARRAY(SELECT pg_snapshot_xip(since))) AND o.type_id = of_type.type_id AND o.version > lowest) o;
    IF events > most THEN
        RETURN;
    END IF;
    -- Runs of reactions between two events that everything of a user or an entity is gone, in version order.
    FOR part IN
        SELECT min(scope) AS scope, array_agg(user_id ORDER BY version) AS user_ids, array_agg(entity_id ORDER BY version) AS entity_ids,
            array_agg(set_mask ORDER BY version) AS set_masks, array_agg(clear_mask ORDER BY version) AS clear_masks,
            array_agg(created_at ORDER BY version) AS created_at
        FROM (
            SELECT o.*, count(*) FILTER (WHERE scope <> 'r') OVER (ORDER BY version) AS gone
            FROM (
                SELECT * FROM reactions._outbox WHERE xid >= pg_snapshot_xmax(since)
                UNION ALL
                SELECT * FROM reactions._outbox WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip(since)))
            ) o
            WHERE pg_visible_in_snapshot(xid, until) AND type_id = of_type.type_id AND version > lowest
        ) o
        GROUP BY gone, scope <> 'r' ORDER BY gone, scope <> 'r' DESC
    LOOP
        CASE part.scope
            WHEN 'r' THEN
                PERFORM reactions._note_write_back(of_type.entity_type, part.user_ids, part.entity_ids, part.set_masks,
                    part.clear_masks, part.created_at);
            WHEN 'u' THEN PERFORM reactions._write_back_gone(of_type, part.user_ids[1], NULL);
            WHEN 'e' THEN PERFORM reactions._write_back_gone(of_type, NULL, part.entity_ids[1]);
            ELSE PERFORM reactions._refuse(format('event of unexpected scope "%s"', part.scope), NULL, 'data_corrupted');
        END CASE;
    END LOOP;
    UPDATE reactions.write_back w SET events_done = w.events_done + events, error = NULL WHERE w.write_back_id = request;
END
$$;
COMMENT ON FUNCTION _write_back_events(bigint, integer, pg_snapshot, bigint) IS
    'writes the events of the outbox that a snapshot does not show into the table of a type that is rolled back, unless they are too many';

-- Writers wait at the fence meanwhile: a lock that one of them holds is waited for shortly, and everything tried again.
CREATE FUNCTION _finish_write_back(request bigint, of_term integer, since pg_snapshot, most bigint, OUT events bigint) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms'
AS $$
DECLARE
    of_type reactions.entity_type;
    asked reactions.write_back;
    fenced_at timestamptz;
BEGIN
    PERFORM reactions._fence_out(NULL);
    fenced_at := clock_timestamp();
    SELECT w.events INTO events FROM reactions._write_back_events(request, of_term, since, most) w;
    IF events > most THEN
        PERFORM reactions._refuse(format('too many events to be written while writers wait: %s', events), NULL, 'lock_not_available');
    END IF;
    SELECT * INTO asked FROM reactions.write_back w WHERE w.write_back_id = request;
    SELECT * INTO of_type FROM reactions.entity_type t WHERE t.type_id = asked.type_id;
    -- What ClickHouse has refused is in no batch's rows.
    INSERT INTO reactions.write_back_refused (type_id, user_id, entity_id, flags, problem)
    SELECT p.type_id, p.user_id, p.entity_id, bit_or(p.set_mask), 'ClickHouse refused it: ' || min(p.error) FROM reactions.parked_event p
    WHERE p.type_id = of_type.type_id AND p.version > of_type.stop_version AND p.redriven_at IS NULL AND p.scope = 'r'
    GROUP BY p.type_id, p.user_id, p.entity_id
    ON CONFLICT (type_id, user_id, entity_id) DO UPDATE SET problem = excluded.problem, noted_at = clock_timestamp();
    PERFORM reactions._flip(of_type.entity_type, 'stop_writes', 'switch_reads', false,
        jsonb_build_object('write_back', request, 'keys', asked.keys_done, 'events', asked.events_done));
    UPDATE reactions.phase_log l SET changed_by = asked.requested_by
    WHERE l.phase_log_id = (SELECT max(n.phase_log_id) FROM reactions.phase_log n WHERE n.entity_type = of_type.entity_type);
    -- User maps show what the table does not have.
    IF EXISTS (SELECT FROM reactions.write_back_refused r WHERE r.type_id = of_type.type_id) THEN
        UPDATE reactions.entity_type t SET epoch = t.epoch + 1 WHERE t.type_id = of_type.type_id;
    END IF;
    UPDATE reactions.write_back w SET state = 'done', finished_at = clock_timestamp(), error = NULL,
        fence_ms = extract(epoch FROM clock_timestamp() - fenced_at) * 1000
    WHERE w.write_back_id = request;
END
$$;
COMMENT ON FUNCTION _finish_write_back(bigint, integer, pg_snapshot, bigint) IS
    'keeps writers waiting, writes the last events back, and takes the type to phase switch_reads';

