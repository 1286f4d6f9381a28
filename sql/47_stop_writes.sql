-- Phase stop_writes: the attached table is frozen. docs/internals.md, "Stop writes", has the rules. ------------------------------

CREATE FUNCTION _check_auto_advance(auto_advance jsonb) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
    soak interval;
BEGIN
    IF jsonb_typeof(auto_advance) <> 'object' THEN
        PERFORM reactions._refuse('auto_advance must be a JSON object',
            'It leads a phase to the time that is spent in it, as {"attached": "1 hour", "dual_read": "1 day"}.',
            'invalid_parameter_value');
    END IF;
    FOR found IN SELECT e.key, e.value #>> '{}' AS value FROM jsonb_each(auto_advance) e LOOP
        IF found.key NOT IN ('attached', 'dual_read', 'switch_reads') THEN
            PERFORM reactions._refuse(format('auto_advance cannot leave phase "%s"', found.key),
                'Phases that are left by themselves are attached, dual_read and switch_reads.', 'invalid_parameter_value');
        END IF;
        BEGIN
            soak := found.value::interval;
        EXCEPTION WHEN data_exception THEN
            soak := NULL;
        END;
        IF soak IS NULL OR soak < interval '0' THEN
            PERFORM reactions._refuse(format('auto_advance has no time for phase "%s": %s', found.key, coalesce(found.value, 'null')),
                'It is an interval such as "1 day".', 'invalid_parameter_value');
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _check_auto_advance(jsonb) IS 'refuses what is no policy of advancing by itself';

CREATE FUNCTION _advisory_conditions() RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN ARRAY['triggers', 'views', 'foreign_keys', 'references', 'publications', 'functions', 'statements'];
COMMENT ON FUNCTION _advisory_conditions() IS 'conditions of readiness that the owner of the table may acknowledge';

CREATE FUNCTION configure(
    entity_type text, direct_inserts text DEFAULT NULL, auto_advance jsonb DEFAULT NULL, acknowledged text[] DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    unknown text[];
BEGIN
    IF direct_inserts NOT IN ('refuse', 'redirect') THEN
        PERFORM reactions._refuse(format('direct_inserts cannot be "%s"', direct_inserts),
            'It is refuse or redirect: what becomes of INSERTs into the table in phase stop_writes.', 'invalid_parameter_value');
    END IF;
    PERFORM reactions._check_auto_advance(auto_advance);
    unknown := ARRAY(SELECT a FROM unnest(acknowledged) a WHERE a IS NULL OR a <> ALL (reactions._advisory_conditions()));
    IF unknown <> '{}' THEN
        PERFORM reactions._refuse(format('not an advisory condition: %s', array_to_string(unknown, ', ', 'null')),
            format('Those that can be acknowledged are %s.', array_to_string(reactions._advisory_conditions(), ', ')),
            'invalid_parameter_value');
    END IF;
    UPDATE reactions.entity_type t SET
        direct_inserts = coalesce($2, t.direct_inserts), auto_advance = coalesce($3, t.auto_advance),
        acknowledged = coalesce($4, t.acknowledged)
    WHERE t.entity_type = $1;
    IF NOT FOUND THEN
        PERFORM reactions._refuse(format('entity type "%s" does not exist', $1), NULL, 'undefined_object');
    END IF;
END
$$;
COMMENT ON FUNCTION configure(text, text, jsonb, text[]) IS
    'sets how a type is migrated: what is not given stays as it is';

CREATE FUNCTION _write_back(
    entity_type text, user_ids bigint[], entity_ids bigint[], set_masks integer[], clear_masks integer[], created_at timestamptz[],
    OUT user_id bigint, OUT entity_id bigint, OUT problem text
) RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reactions_write_back';
COMMENT ON FUNCTION _write_back(text, bigint[], bigint[], integer[], integer[], timestamptz[]) IS
    'clears and sets kinds in the frozen table, in the order of the arrays and without events; returns what the table refuses';
