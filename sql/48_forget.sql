-- Forgetting users and entities. docs/internals.md, "Forgetting a user", has the rules. ------------------------------------------

-- A tombstone: of the user nothing is left of a version up to this one, of no type, when the state is erased.
CREATE TABLE forgotten_user (
    user_id      bigint NOT NULL,
    version      bigint NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    requested_by text NOT NULL DEFAULT session_user,
    state        text NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'removed', 'erased')),
    waits_for    text,
    -- By entity type: rows deleted from its table, rows erased in ClickHouse, user maps dropped.
    report       jsonb NOT NULL,
    finished_at  timestamptz CHECK ((finished_at IS NULL) = (state <> 'erased')),
    PRIMARY KEY (user_id, version)
);
COMMENT ON TABLE forgotten_user IS 'tombstones of users: what they had reacted up to a version is being erased, or is';
CREATE INDEX forgotten_user_pending ON forgotten_user (requested_at) WHERE state <> 'erased';
COMMENT ON INDEX forgotten_user_pending IS 'erasures that are not finished';

CREATE VIEW forgotten_users AS
    SELECT f.user_id, r.key AS entity_type, f.state, f.waits_for, (r.value ->> 'table')::bigint AS table_rows,
        (r.value ->> 'clickhouse')::bigint AS clickhouse_rows, (r.value ->> 'maps')::bigint AS user_maps,
        f.requested_at, f.requested_by, f.finished_at, f.version
    FROM forgotten_user f CROSS JOIN LATERAL jsonb_each(f.report) r;
COMMENT ON VIEW forgotten_users IS
    'how far each user is forgotten, by entity type, and what was deleted; requested: un-reacted here, removed: everywhere, erased: no row is left';

CREATE FUNCTION _delete_rows(entity_type text, user_id bigint, entity_id bigint) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reactions_delete_rows';
COMMENT ON FUNCTION _delete_rows(text, bigint, bigint) IS
    'deletes the rows of a user, or of an entity, from a type''s table as its owner; a frozen table without events';

CREATE FUNCTION _write_removal(type_id smallint, user_id bigint, entity_id bigint) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reactions_write_removal';
COMMENT ON FUNCTION _write_removal(smallint, bigint, bigint) IS
    'writes the event that a user, or an entity, is gone, when no writer of theirs is before its commit';

CREATE FUNCTION _entomb(of_user bigint, deleted jsonb) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $$
DECLARE
    of_type record;
    rows bigint;
    report jsonb := '{}';
    total bigint := 0;
    newest bigint;
BEGIN
    PERFORM reactions._fence_out(NULL);
    FOR of_type IN
        SELECT t.type_id, t.entity_type, EXISTS (SELECT FROM pg_class c WHERE c.oid = t.legacy_table) AS has_table
        FROM reactions.entity_type t ORDER BY t.type_id
    LOOP
        rows := NULL;
        IF of_type.has_table THEN
            BEGIN
                rows := reactions._delete_rows(of_type.entity_type, of_user, NULL)
                    + coalesce((deleted ->> of_type.entity_type)::bigint, 0);
            EXCEPTION WHEN lock_not_available THEN
                PERFORM reactions._refuse(
                    format('rows of user %s in the table of entity type "%s" are locked', of_user, of_type.entity_type),
                    'Some of the user''s reactions are deleted. Look for who holds the rows, and forget the user again.',
                    'lock_not_available');
            END;
        END IF;
        total := total + coalesce(rows, 0);
        report := report || jsonb_build_object(of_type.entity_type, jsonb_build_object('table', rows));
        newest := reactions._write_removal(of_type.type_id, of_user, NULL);
    END LOOP;
    IF newest IS NULL THEN
        PERFORM reactions._refuse('there is no entity type');
    END IF;
    INSERT INTO reactions.forgotten_user (user_id, version, report) VALUES (of_user, newest, report);
    RETURN total;
END
$$;
COMMENT ON FUNCTION _entomb(bigint, jsonb) IS
    'un-reacts what a user has, when no writer is between statement and commit, and writes the tombstone';

-- A procedure that commits cannot have a search_path of its own: every name is qualified.
CREATE PROCEDURE forget_user(user_id bigint)
    LANGUAGE plpgsql
AS $$
DECLARE
    of_type record;
    deleted pg_catalog.jsonb := '{}';
    total pg_catalog.int8;
BEGIN
    IF $1 IS NULL THEN
        PERFORM reactions._refuse('user_id must not be null', NULL, 'null_value_not_allowed');
    END IF;
    -- What there is much of, before anybody is kept out.
    FOR of_type IN
        SELECT t.entity_type FROM reactions.entity_type t JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.legacy_table
        ORDER BY t.type_id
    LOOP
        deleted := pg_catalog.jsonb_set(deleted, ARRAY[of_type.entity_type],
            pg_catalog.to_jsonb(reactions._delete_rows(of_type.entity_type, $1, NULL)));
        COMMIT;
    END LOOP;
    -- Behind the fence every statement has to see what the writers before it have committed.
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    total := reactions._entomb($1, deleted);
    COMMIT;
    RAISE NOTICE 'user % has no reactions any more; % rows were deleted from tables', $1, total;
    FOR of_type IN SELECT t.entity_type FROM reactions.entity_type t WHERE t.phase OPERATOR(pg_catalog.=) 'detached' ORDER BY t.type_id LOOP
        RAISE NOTICE 'entity type "%" is detached: rows of the table that it had were left alone', of_type.entity_type;
    END LOOP;
    RAISE NOTICE 'the agent now erases the user from ClickHouse and Redis; reactions.forgotten_users shows how far it is';
END
$$;
COMMENT ON PROCEDURE forget_user(bigint) IS
    'un-reacts everything that a user has, of every entity type, and has the agent erase it; commits';

CREATE FUNCTION forget_entity(entity_id bigint, entity_type text DEFAULT 'Image') RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
    rows bigint := 0;
BEGIN
    IF $1 IS NULL THEN
        PERFORM reactions._refuse('entity_id must not be null', NULL, 'null_value_not_allowed');
    END IF;
    -- The phase decides the way: it is read behind the fence, by a statement whose snapshot is taken then.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        PERFORM reactions._refuse('forget_entity must run at isolation level READ COMMITTED',
            'An older snapshot may show another phase than the one that the reactions are in.');
    END IF;
    LOCK TABLE reactions.entity_type IN ROW EXCLUSIVE MODE;
    SELECT t.type_id, t.phase, EXISTS (SELECT FROM pg_class c WHERE c.oid = t.legacy_table) AS has_table INTO found
        FROM reactions.entity_type t WHERE t.entity_type = $2;
    IF found.phase IS NULL THEN
        PERFORM reactions._refuse(format('entity type "%s" does not exist', $2), NULL, 'undefined_object');
    END IF;
    IF found.phase = 'detached' THEN
        PERFORM reactions._refuse(format('entity type "%s" is detached', $2), 'Its table is not ours any more.');
    END IF;
    IF found.phase NOT IN ('attached', 'dual_read', 'switch_reads') THEN
        PERFORM reactions._write_removal(found.type_id, NULL, $1);
    END IF;
    IF found.has_table THEN
        rows := reactions._delete_rows($2, NULL, $1);
    END IF;
    RETURN rows;
END
$$;
COMMENT ON FUNCTION forget_entity(bigint, text) IS
    'un-reacts everything on an entity; returns the rows deleted from the type''s table. Where that is not written, writers of the entity wait until the caller commits';

CREATE FUNCTION _erased(of_user bigint, of_version bigint, erased jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM reactions.mismatch m USING reactions.forgotten_user f
    WHERE m.user_id = of_user AND f.user_id = of_user AND f.version = of_version AND m.read_at <= f.requested_at;
    DELETE FROM reactions.difference d USING reactions.match_run r, reactions.forgotten_user f
    WHERE d.user_id = of_user AND r.match_run_id = d.match_run_id AND f.user_id = of_user AND f.version = of_version
        AND r.started_at <= f.requested_at;
    DELETE FROM reactions.write_back_refused w USING reactions.forgotten_user f
    WHERE w.user_id = of_user AND f.user_id = of_user AND f.version = of_version AND w.noted_at <= f.requested_at;
    DELETE FROM reactions.parked_event p WHERE p.user_id = of_user AND p.version <= of_version;
    UPDATE reactions.forgotten_user f SET
        state = 'erased', waits_for = NULL, finished_at = clock_timestamp(),
        report = (SELECT jsonb_object_agg(r.key, r.value || coalesce(erased -> r.key, '{}')) FROM jsonb_each(f.report) r)
    WHERE f.user_id = of_user AND f.version = of_version AND f.state <> 'erased';
END
$$;
COMMENT ON FUNCTION _erased(bigint, bigint, jsonb) IS
    'for the agent: ClickHouse, Redis and the outbox have nothing of a user any more; deletes what else names the user here';
