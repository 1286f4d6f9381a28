-- Private functions. ------------------------------------------------------------------------------------------------------------

CREATE FUNCTION _configuration_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'reactions_configuration_changed';
COMMENT ON FUNCTION _configuration_changed() IS 'trigger: every session reads entity types and kinds anew';

CREATE TRIGGER configuration_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON entity_type
    FOR EACH STATEMENT EXECUTE FUNCTION _configuration_changed();
CREATE TRIGGER configuration_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON kind
    FOR EACH STATEMENT EXECUTE FUNCTION _configuration_changed();
CREATE TRIGGER configuration_changed AFTER INSERT OR UPDATE OF current_outbox ON _mirror
    FOR EACH STATEMENT EXECUTE FUNCTION _configuration_changed();

CREATE FUNCTION _template_shape(template text, required text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'reactions_template_shape';
COMMENT ON FUNCTION _template_shape(text, text) IS 'checks a key template; templates of one shape could render to one key';

CREATE FUNCTION _current_generation() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reactions_current_generation';
COMMENT ON FUNCTION _current_generation() IS 'generation of this cluster and timeline, raised if it is a new one';

CREATE FUNCTION _draw_version() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reactions_draw_version';
COMMENT ON FUNCTION _draw_version() IS 'next version of an event';

CREATE FUNCTION _cluster(OUT system_identifier bigint, OUT timeline bigint) RETURNS record
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'reactions_cluster';
COMMENT ON FUNCTION _cluster() IS 'what the stamp of a user map is made of, besides the history of Redis and the epoch';

CREATE FUNCTION _set_asleep(asleep boolean) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE WHEN asleep THEN pg_advisory_lock(1380013139, 2)::text ELSE pg_advisory_unlock(1380013139, 2)::text END;
END;
COMMENT ON FUNCTION _set_asleep(boolean) IS 'for the agent: while asleep it holds the lock that makes committing writers notify it';

CREATE FUNCTION _raise_epoch(of_type smallint) RETURNS bigint
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    UPDATE entity_type SET epoch = epoch + 1 WHERE type_id = of_type RETURNING epoch;
END;
COMMENT ON FUNCTION _raise_epoch(smallint) IS 'makes every user map and entity of the type absent in Redis';

CREATE FUNCTION _stats(OUT name text, OUT value bigint, OUT shared boolean, OUT since timestamptz) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 21 AS 'MODULE_PATHNAME', 'reactions_stats';
COMMENT ON FUNCTION _stats() IS 'counters of all sessions if the library is preloaded, else of this session';

CREATE FUNCTION _probe(OUT "check" text, OUT ok boolean, OUT detail text, OUT hint text) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 4 AS 'MODULE_PATHNAME', 'reactions_probe';
COMMENT ON FUNCTION _probe() IS 'asks Redis and ClickHouse who they are';

-- Capture. ----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION _capture_begin() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'reactions_capture_begin';
COMMENT ON FUNCTION _capture_begin() IS 'trigger of an attached table: takes the fence';

CREATE FUNCTION _capture_end() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'reactions_capture_end';
COMMENT ON FUNCTION _capture_end() IS 'trigger of an attached table: writes the changed rows to the outbox';

CREATE FUNCTION _capture_truncate() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'reactions_capture_truncate';
COMMENT ON FUNCTION _capture_truncate() IS 'trigger of an attached table: writes that every reaction is gone';

CREATE FUNCTION _capture_truncate_epoch() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    of_type smallint;
BEGIN
    -- ClickHouse does not know yet that everything is gone: until it agrees with the table, counts are the table's.
    UPDATE reactions.entity_type t SET epoch = t.epoch + 1, backfilled = false WHERE t.legacy_table = TG_RELID
    RETURNING t.type_id INTO of_type;
    -- What has been read of the table, and may be under way to ClickHouse, is gone.
    PERFORM reactions._begin_backfill(of_type, TG_RELID);
    -- There is nothing to be read that anybody would have to be asked for.
    UPDATE reactions._backfill b SET requested_at = coalesce(b.requested_at, clock_timestamp())
        WHERE b.type_id = of_type AND b.sealed_at IS NULL;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _capture_truncate_epoch() IS
    'trigger of an attached table: makes the type''s user maps and entities absent, and begins a backfill, until whose end counts are the table''s';

