-- Bringing the rows of an attached table over that were there before its capture. docs/internals.md, "Backfill", has the rules. ---

CREATE FUNCTION _backfill_partition(version bigint, number integer) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN (version >> 44 << 20) | (1 << 19) | number;
COMMENT ON FUNCTION _backfill_partition(bigint, integer) IS 'where ClickHouse keeps the rows of one reading of a table';

CREATE FUNCTION _begin_backfill(of_type smallint, of_table regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before reactions._backfill;
    seal bigint := reactions._draw_version();
BEGIN
    -- Earlier ones tell the mirror how to resolve the events of their time. When a later one is sealed those are all confirmed; when their
    -- batches are no longer kept, none of them is sent again.
    DELETE FROM reactions._backfill b USING reactions._backfill later
    WHERE b.type_id = of_type AND later.type_id = of_type AND later.version > b.version
        AND later.sealed_at < coalesce((SELECT min(n.formed_at) FROM reactions._batch n), 'infinity')
        AND NOT EXISTS (
            SELECT FROM reactions.parked_event p
            WHERE p.type_id = of_type AND p.version < later.version AND p.redriven_at IS NULL);
    SELECT * INTO before FROM reactions._backfill b
        WHERE b.type_id = of_type AND b.sealed_at IS NULL ORDER BY b.version DESC LIMIT 1;
    INSERT INTO reactions._backfill
        (type_id, seal_version, version, number, relfilenode, blocks, abandoned, requested_at)
    VALUES (of_type, seal, reactions._draw_version(), nextval('reactions._backfill_number'),
        pg_relation_filenode(of_table), pg_relation_size(of_table) / current_setting('block_size')::bigint,
        CASE WHEN before.number IS NULL THEN '{}'
            ELSE before.abandoned || reactions._backfill_partition(before.version, before.number) END, before.requested_at);
END
$$;
COMMENT ON FUNCTION _begin_backfill(smallint, regclass) IS
    'draws the versions of a backfill; the caller keeps writers out of the table until its transaction ends';

CREATE FUNCTION restart_backfill(entity_type text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms'
AS $$
DECLARE
    of_type record;
    pause double precision := 0.01;
BEGIN
    SELECT t.type_id, t.legacy_table, t.phase INTO of_type FROM reactions.entity_type t WHERE t.entity_type = $1;
    IF of_type.legacy_table IS NULL THEN
        PERFORM reactions._refuse(format('entity type "%s" is not attached to a table', $1), NULL, 'undefined_object');
    END IF;
    IF of_type.phase IN ('stop_writes', 'archived') THEN
        PERFORM reactions._refuse(format('the table of entity type "%s" does not hold its newest reactions', $1),
            'ClickHouse would be made to agree with what the table was when it was frozen. Go back with reactions.rollback first.');
    END IF;
    -- Whoever queues for the lock keeps every writer waiting behind it: so it is tried shortly, and again.
    FOR attempt IN 1..100 LOOP
        BEGIN
            EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', of_type.legacy_table);
            UPDATE reactions.entity_type t SET backfilled = false WHERE t.type_id = of_type.type_id AND t.phase = of_type.phase;
            IF NOT FOUND THEN
                PERFORM reactions._refuse(format('entity type "%s" is no longer in phase %s', $1, of_type.phase),
                    'Somebody else has changed it; reactions.status() tells the phase.', 'serialization_failure');
            END IF;
            PERFORM reactions._begin_backfill(of_type.type_id, of_type.legacy_table);
            UPDATE reactions._backfill b SET requested_at = clock_timestamp()
            WHERE b.type_id = of_type.type_id AND b.version = (
                SELECT max(c.version) FROM reactions._backfill c WHERE c.type_id = of_type.type_id);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(pause);
            pause := least(pause * 1.5, 0.2);
        END;
    END LOOP;
    PERFORM reactions._refuse(format('writers of table %s did not leave a gap', of_type.legacy_table),
        'Nothing was changed. Look for long transactions and prepared ones, and try again.', 'lock_not_available');
END
$$;
COMMENT ON FUNCTION restart_backfill(text) IS
    'has the agent read an attached table anew, and make ClickHouse agree with it';

CREATE VIEW backfill AS
    SELECT t.entity_type,
        CASE WHEN b.sealed_at IS NOT NULL THEN 'sealed'
            WHEN t.legacy_table IS NULL THEN 'given up'
            WHEN b.complete_batch IS NOT NULL THEN 'sealing'
            WHEN b.read_at IS NOT NULL THEN 'waiting for the mirror'
            ELSE 'reading' END AS state,
        b.blocks,
        CASE WHEN b.read_at IS NOT NULL THEN b.blocks
            ELSE least(b.blocks, coalesce(r.ranges, 0) * b.range_blocks) END AS blocks_read,
        coalesce(b.rows, r.rows, 0) AS rows,
        coalesce(b.skipped, r.skipped, 0) AS skipped_rows,
        b.begun_at, b.read_at, b.sealed_at, b.error, b.version
    FROM reactions.entity_type t
    JOIN LATERAL (SELECT * FROM reactions._backfill c WHERE c.type_id = t.type_id ORDER BY c.version DESC LIMIT 1) b ON true
    LEFT JOIN LATERAL (
        SELECT count(*) AS ranges, sum(rows)::bigint AS rows, sum(skipped)::bigint AS skipped
        FROM reactions._backfill_range WHERE number = b.number AND confirmed_at IS NOT NULL) r ON true;
COMMENT ON VIEW backfill IS
    'how far the rows that an attached table had before its capture are in ClickHouse; one row per type that had any';
