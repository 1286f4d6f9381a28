-- Entity types. -----------------------------------------------------------------------------------------------------------------

CREATE FUNCTION _below(shape text, entity_shape text) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN starts_with(shape || ':', entity_shape || ':');
COMMENT ON FUNCTION _below(text, text) IS 'whether keys of a shape could be keys of an entity, which are its template and what follows it after a colon';

CREATE FUNCTION _insert_entity_type(
    new_entity_type text, new_mode text, new_phase text, user_map_template text, entity_template text, shards integer
) RETURNS smallint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    map_template text := coalesce(user_map_template, CASE new_entity_type
        WHEN 'Image' THEN 'reactions:<user>'
        WHEN 'Post' THEN 'user:<shard>:<user>:reactions'
        ELSE 'reactions:' || lower(new_entity_type) || ':<user>' END);
    key_template text := coalesce(entity_template, lower(new_entity_type) || ':<shard>:<entity>');
    map_shape text;
    key_shape text;
    taken_by text;
    new_id smallint;
BEGIN
    IF new_entity_type IS NULL OR new_entity_type !~ '^[A-Za-z][A-Za-z0-9_]{0,47}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('"%s" is not a name for an entity type', new_entity_type),
            HINT = 'A name starts with a letter and has at most 48 letters, digits and underscores.';
    END IF;
    IF new_mode IS NULL OR new_mode NOT IN ('multi', 'exclusive') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('"%s" is not a mode', new_mode),
            HINT = 'Modes are multi (kinds combine) and exclusive (one kind at a time).';
    END IF;
    map_shape := reactions._template_shape(map_template, '<user>');
    key_shape := reactions._template_shape(key_template, '<entity>');
    -- KeySpace makes these, with the name of a type behind them, which begins with a letter: an id there does no harm.
    IF EXISTS (SELECT FROM unnest(ARRAY[map_template, key_template]) k WHERE k ~ '^reactions:(applied|wanted|compared):[[:alpha:]]') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('key templates of entity type "%s" could render to keys that pg_reactions has for itself', new_entity_type),
            DETAIL = format('The templates are "%s" and "%s".', map_template, key_template),
            HINT = 'Begin the templates with something else than reactions:applied:, reactions:wanted: or reactions:compared:.';
    END IF;

    -- One configuration change at a time; writers are not disturbed.
    LOCK TABLE reactions.kind IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM reactions.entity_type t WHERE t.entity_type = new_entity_type) THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = format('entity type "%s" already exists', new_entity_type);
    END IF;
    SELECT t.entity_type INTO taken_by FROM reactions.entity_type t
        WHERE map_shape = t.user_map_shape
            OR reactions._below(map_shape, t.entity_shape) OR reactions._below(t.user_map_shape, key_shape)
            OR reactions._below(key_shape, t.entity_shape) OR reactions._below(t.entity_shape, key_shape)
        LIMIT 1;
    IF taken_by IS NOT NULL OR reactions._below(map_shape, key_shape) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('key templates of entity type "%s" could render to keys of entity type "%s"',
                new_entity_type, coalesce(taken_by, new_entity_type)),
            DETAIL = format('The templates are "%s" and "%s".', map_template, key_template),
            HINT = 'Put the name of the type into its templates.';
    END IF;
    SELECT coalesce(max(type_id), 0) + 1 INTO new_id FROM reactions.entity_type;
    INSERT INTO reactions.entity_type
        (type_id, entity_type, mode, phase, user_map_key, entity_key, user_map_shape, entity_shape, shard_count)
    VALUES (new_id, new_entity_type, new_mode, 'native', map_template, key_template, map_shape, key_shape, shards);
    INSERT INTO reactions.kind (type_id, kind, flag)
    VALUES (new_id, 'Like', 1), (new_id, 'Heart', 2), (new_id, 'Laugh', 4), (new_id, 'Cry', 8);
    INSERT INTO reactions.phase_log (entity_type, from_phase, to_phase) VALUES (new_entity_type, NULL, new_phase);
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION _insert_entity_type(text, text, text, text, text, integer) IS 'adds a type with the four kinds';

CREATE FUNCTION add_entity_type(
    entity_type text, mode text DEFAULT 'multi', user_map_key text DEFAULT NULL, entity_key text DEFAULT NULL,
    shard_count integer DEFAULT 100
) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM reactions._insert_entity_type($1, $2, 'native', $3, $4, $5);
END
$$;
COMMENT ON FUNCTION add_entity_type(text, text, text, text, integer) IS
    'makes an entity type without a table, with the kinds Like, Heart, Laugh and Cry';

CREATE FUNCTION add_kind(entity_type text, kind text) RETURNS integer
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    of_type smallint;
    next_flag bigint;
BEGIN
    IF $2 IS NULL OR $2 !~ '^[A-Za-z][A-Za-z0-9_]{0,47}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('"%s" is not a name for a kind', $2),
            HINT = 'A name starts with a letter and has at most 48 letters, digits and underscores.';
    END IF;
    IF $2 IN ('total', 'users') THEN
        RAISE EXCEPTION USING ERRCODE = 'reserved_name',
            MESSAGE = format('"%s" cannot be the name of a kind', $2),
            DETAIL = 'Redis keeps another number under this name, beside the counts of kinds.',
            HINT = 'Names are case-sensitive: another spelling will do.';
    END IF;
    LOCK TABLE reactions.kind IN SHARE ROW EXCLUSIVE MODE;
    SELECT t.type_id INTO of_type FROM reactions.entity_type t WHERE t.entity_type = $1;
    IF of_type IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('entity type "%s" does not exist', $1);
    END IF;
    IF EXISTS (SELECT FROM reactions.kind k WHERE k.type_id = of_type AND k.kind = $2) THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = format('entity type "%s" already has a kind "%s"', $1, $2);
    END IF;
    SELECT max(k.flag)::bigint * 2 INTO next_flag FROM reactions.kind k WHERE k.type_id = of_type;
    IF next_flag > 1 << 30 THEN
        RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded',
            MESSAGE = format('entity type "%s" already has 31 kinds', $1);
    END IF;
    INSERT INTO reactions.kind (type_id, kind, flag) VALUES (of_type, $2, next_flag);
    RETURN next_flag;
END
$$;
COMMENT ON FUNCTION add_kind(text, text) IS 'adds a kind to an entity type and returns its flag';

CREATE FUNCTION raise_epoch(entity_type text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    raised bigint;
BEGIN
    UPDATE reactions.entity_type t SET epoch = t.epoch + 1 WHERE t.entity_type = $1 RETURNING t.epoch INTO raised;
    IF raised IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('entity type "%s" does not exist', $1);
    END IF;
    RETURN raised;
END
$$;
COMMENT ON FUNCTION raise_epoch(text) IS 'makes every user map and entity of the type absent in Redis at once; returns the new epoch';

