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
RETURN ARRAY['triggers', 'views', 'foreign_keys', 'referenced', 'publications', 'functions', 'statements', 'refused'];
COMMENT ON FUNCTION _advisory_conditions() IS 'conditions of readiness that configure can acknowledge';

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
    OUT place integer, OUT user_id bigint, OUT entity_id bigint, OUT flags integer, OUT problem text
) RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reactions_write_back';
COMMENT ON FUNCTION _write_back(text, bigint[], bigint[], integer[], integer[], timestamptz[]) IS
    'clears and sets kinds in the frozen table, in the order of the arrays and without events; returns what the table refuses: where in the arrays, and which kinds';

-- Triggers. ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION _redirect() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'reactions_redirect';
COMMENT ON FUNCTION _redirect() IS 'trigger of an attached table: a row that is inserted while the table is frozen goes the way of react';

CREATE FUNCTION _gone() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'reactions_gone';
COMMENT ON FUNCTION _gone() IS
    'trigger of a table of users or entities: while the reactions'' table is frozen, tells that everything of the deleted rows is gone';

CREATE FUNCTION _refuse_gone() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'reactions_refuse_gone';
COMMENT ON FUNCTION _refuse_gone() IS
    'trigger of a table of users or entities: refuses TRUNCATE and new keys while the reactions'' table is frozen';

CREATE FUNCTION _references(
    of_type smallint, OUT name name, OUT of_table regclass, OUT scope "char", OUT column_name name, OUT is_integer boolean,
    OUT problem text
) RETURNS SETOF record
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT c.conname, c.confrelid::regclass, s.scope, f.attname, coalesce(i.is_integer, false),
        CASE WHEN c.confdeltype IN ('a', 'r') THEN 'it is not ON DELETE CASCADE, and the frozen rows would hold what they reference for ever'
            WHEN s.scope IS NULL AND c.confdeltype = 'c' THEN 'it deletes rows by other columns than the user or the entity alone, which newer reactions do not have'
            WHEN s.scope IS NULL THEN NULL
            WHEN c.confdeltype <> 'c' THEN 'it changes the user or the entity of a row instead of deleting it'
            WHEN NOT i.is_integer THEN 'it references a column that is no integer'
            WHEN r.relkind <> 'r' THEN 'it references a partitioned table, and deletions from a partition itself are not seen'
        END
    FROM entity_type t
    JOIN pg_constraint c ON c.conrelid = t.legacy_table AND c.contype = 'f' AND c.conparentid = 0
    JOIN pg_class r ON r.oid = c.confrelid
    LEFT JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1] AND cardinality(c.conkey) = 1
    LEFT JOIN LATERAL (
        SELECT CASE a.attname WHEN t.user_column THEN 'u' WHEN t.entity_column THEN 'e' END::"char") s (scope) ON true
    LEFT JOIN pg_attribute f ON s.scope IS NOT NULL AND f.attrelid = c.confrelid AND f.attnum = c.confkey[1]
    LEFT JOIN LATERAL (SELECT f.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)) i (is_integer) ON true
    WHERE t.type_id = of_type
    ORDER BY c.conname;
END;
COMMENT ON FUNCTION _references(smallint) IS
    'foreign keys of a type''s table: the users (u) or entities (e) that each references, and why a trigger there does not do all of its work';

CREATE FUNCTION _compared_columns(of_table regclass, trigger_name text) RETURNS name[]
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT array_agg(DISTINCT a.attname ORDER BY a.attname)
    FROM pg_trigger g
    JOIN pg_depend d ON d.classid = 'pg_trigger'::regclass AND d.objid = g.oid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = g.tgrelid AND d.refobjsubid > 0
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE g.tgrelid = of_table AND g.tgname = trigger_name;
END;
COMMENT ON FUNCTION _compared_columns(regclass, text) IS
    'the columns that the condition of a trigger compares, as they are called now; null without the trigger';

CREATE FUNCTION _gone_keys(of_type smallint, OUT of_table regclass, OUT scope "char", OUT column_names name[]) RETURNS SETOF record
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT r.of_table, r.scope, array_agg(DISTINCT r.column_name ORDER BY r.column_name)
    FROM reactions._references(of_type) r WHERE r.is_integer GROUP BY r.of_table, r.scope
    UNION ALL
    SELECT k.of_table, k.scope,
        coalesce(reactions._compared_columns(k.of_table, format('reactions_gone_%s_%s_update', of_type, k.scope)),
            array_agg(k.column_name ORDER BY k.column_name))
    FROM _referenced k
    WHERE k.type_id = of_type AND NOT EXISTS (
        SELECT FROM entity_type t JOIN pg_class c ON c.oid = t.legacy_table WHERE t.type_id = of_type)
    GROUP BY k.of_table, k.scope;
END;
COMMENT ON FUNCTION _gone_keys(smallint) IS
    'the tables of users (u) and entities (e) that a type''s foreign keys reference, or did when its table was still there, and the keys by which they do, of which a table may have several';

CREATE FUNCTION _frozen_triggers(
    of_type smallint, OUT of_table regclass, OUT name text, OUT definition text, OUT arguments text[], OUT compared name[]
) RETURNS SETOF record
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- The last of all BEFORE triggers: the row is then as it would have been stored.
    SELECT c.oid::regclass, 'zz_reactions_redirect',
        format('BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION reactions._redirect()', c.oid::regclass), '{}'::text[], NULL::name[]
    FROM entity_type t JOIN pg_class c ON c.oid = t.legacy_table WHERE t.type_id = of_type
    UNION ALL
    -- Only the condition of the one on UPDATE names the columns, and PostgreSQL keeps it right when they are renamed, dumped or restored:
    -- the one on DELETE looks there.
    SELECT k.of_table, format('reactions_gone_%s_%s_%s', of_type, k.scope, w.what),
        format(w.definition, k.of_table,
            (SELECT string_agg(format('OLD.%1$I IS DISTINCT FROM NEW.%1$I', c), ' OR ') FROM unnest(k.column_names) c),
            format('%L, %L', of_type, k.scope)),
        ARRAY[of_type::text, k.scope::text], CASE w.what WHEN 'update' THEN k.column_names END
    FROM reactions._gone_keys(of_type) k,
        (VALUES
            ('delete', 'AFTER DELETE ON %1$s REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION reactions._gone(%3$s)'),
            ('update', 'AFTER UPDATE ON %1$s FOR EACH ROW WHEN (%2$s) EXECUTE FUNCTION reactions._refuse_gone(%3$s)'),
            ('truncate', 'BEFORE TRUNCATE ON %1$s FOR EACH STATEMENT EXECUTE FUNCTION reactions._refuse_gone(%3$s)')
        ) w (what, definition);
END;
COMMENT ON FUNCTION _frozen_triggers(smallint) IS 'the triggers that a type needs in phases stop_writes and archived, beside those of capture';

CREATE FUNCTION _missing_triggers(of_type smallint, OUT of_table regclass, OUT name text, OUT definition text) RETURNS SETOF record
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT t.of_table, t.name, t.definition
    FROM reactions._frozen_triggers(of_type) t
    WHERE NOT EXISTS (
        SELECT FROM pg_trigger g
        WHERE g.tgrelid = t.of_table AND g.tgname = t.name AND g.tgenabled = 'A'
            AND (t.compared IS NULL OR t.compared = reactions._compared_columns(t.of_table, t.name))
            AND g.tgargs = coalesce((SELECT string_agg(convert_to(a, getdatabaseencoding()) || '\x00', '' ORDER BY n)
                                     FROM unnest(t.arguments) WITH ORDINALITY AS u (a, n)), ''))
    ORDER BY t.of_table, t.name;
END;
COMMENT ON FUNCTION _missing_triggers(smallint) IS 'those of _frozen_triggers that do not exist, or not so, or are not enabled';

CREATE FUNCTION _note_referenced(of_type smallint) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
BEGIN
    IF EXISTS (SELECT FROM reactions.entity_type t JOIN pg_class c ON c.oid = t.legacy_table WHERE t.type_id = of_type) THEN
        INSERT INTO reactions._referenced (type_id, of_table, scope, column_name)
            SELECT of_type, k.of_table, k.scope, unnest(k.column_names) FROM reactions._gone_keys(of_type) k ON CONFLICT DO NOTHING;
        DELETE FROM reactions._referenced r
            WHERE r.type_id = of_type AND NOT EXISTS (
                SELECT FROM reactions._gone_keys(of_type) k
                WHERE k.of_table = r.of_table AND k.scope = r.scope AND r.column_name = ANY (k.column_names));
        RETURN;
    END IF;
    FOR found IN
        DELETE FROM reactions._referenced r
        WHERE r.type_id = of_type AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.of_table) RETURNING r.*
    LOOP
        RAISE WARNING USING
            MESSAGE = format('the table of %s was dropped: its deletions are no longer told to the reactions',
                CASE found.scope WHEN 'u' THEN 'users' ELSE 'entities' END),
            HINT = format('Where they are deleted now, call reactions.%s.', CASE found.scope WHEN 'u' THEN 'forget_user' ELSE 'forget_entity' END);
    END LOOP;
    FOR found IN
        SELECT k.of_table, c.column_name FROM reactions._gone_keys(of_type) k, unnest(k.column_names) AS c (column_name)
        WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = k.of_table AND a.attname = c.column_name)
    LOOP
        PERFORM reactions._refuse(format('column "%s" of table %s does not exist', found.column_name, found.of_table),
            'It was renamed when its triggers were missing: give it this name back, call this again, and rename it then.', 'undefined_column');
    END LOOP;
END
$$;
COMMENT ON FUNCTION _note_referenced(smallint) IS
    'keeps what a type''s foreign keys reference for the time after its table; without the table forgets what was dropped since';

CREATE FUNCTION prepare_stop_writes(entity_type text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    of_type record;
    missing record;
BEGIN
    SELECT t.type_id, t.legacy_table, t.phase INTO of_type FROM reactions.entity_type t WHERE t.entity_type = $1;
    IF of_type.legacy_table IS NULL AND of_type.phase IS DISTINCT FROM 'archived' THEN
        PERFORM reactions._refuse(format('entity type "%s" is not attached to a table', $1), NULL, 'undefined_object');
    END IF;
    PERFORM reactions._note_referenced(of_type.type_id);
    IF NOT EXISTS (SELECT FROM reactions._missing_triggers(of_type.type_id)) THEN
        RETURN;
    END IF;
    PERFORM reactions._lock_shortly(
        ARRAY(SELECT DISTINCT m.of_table FROM reactions._missing_triggers(of_type.type_id) m ORDER BY 1), 'SHARE ROW EXCLUSIVE');
    FOR missing IN SELECT * FROM reactions._missing_triggers(of_type.type_id) LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER %I %s', missing.name, missing.definition);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', missing.of_table, missing.name);
    END LOOP;
END
$$;
COMMENT ON FUNCTION prepare_stop_writes(text) IS
    'makes the triggers that a type needs in phases stop_writes and archived and that do nothing before; advance calls it';

CREATE FUNCTION _made_triggers(of_type smallint, OUT of_table regclass, OUT name name) RETURNS SETOF record
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT g.tgrelid::regclass, g.tgname FROM pg_trigger g
    WHERE g.tgname LIKE format('reactions\_gone\_%s\_%%', of_type)
        OR g.tgname = 'zz_reactions_redirect'
            AND g.tgrelid = (SELECT t.legacy_table FROM entity_type t WHERE t.type_id = of_type)
    ORDER BY g.tgrelid;
END;
COMMENT ON FUNCTION _made_triggers(smallint) IS 'what prepare_stop_writes has made for a type';

CREATE FUNCTION _drop_frozen_triggers(of_type smallint) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made record;
BEGIN
    IF NOT EXISTS (SELECT FROM reactions._made_triggers(of_type)) THEN
        RETURN;
    END IF;
    -- Behind the fence: nobody takes the type to stop_writes before they are gone, and is told then that they are missing.
    PERFORM reactions._lock_shortly(ARRAY(SELECT DISTINCT m.of_table FROM reactions._made_triggers(of_type) m ORDER BY 1),
        'ACCESS EXCLUSIVE', 'reactions.entity_type IN ROW EXCLUSIVE MODE');
    IF EXISTS (SELECT FROM reactions.entity_type t WHERE t.type_id = of_type AND t.phase IN ('stop_writes', 'archived')) THEN
        RETURN;
    END IF;
    FOR made IN SELECT * FROM reactions._made_triggers(of_type) LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', made.name, made.of_table);
    END LOOP;
END
$$;
COMMENT ON FUNCTION _drop_frozen_triggers(smallint) IS 'drops what prepare_stop_writes has made, unless the type needs it';

CREATE FUNCTION _refuse_to_freeze(of_type text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found reactions.entity_type;
BEGIN
    SELECT * INTO found FROM reactions.entity_type t WHERE t.entity_type = of_type;
    IF NOT found.backfilled THEN
        PERFORM reactions._refuse(format('the table of entity type "%s" is not brought over yet', of_type),
            'Its rows would be read as none. reactions.backfill shows how far it is; this cannot be forced.');
    END IF;
    IF EXISTS (SELECT FROM reactions._missing_triggers(found.type_id)) THEN
        PERFORM reactions._refuse(format('entity type "%s" is not prepared for phase stop_writes', of_type),
            format('SELECT reactions.prepare_stop_writes(%L).', of_type));
    END IF;
END
$$;
COMMENT ON FUNCTION _refuse_to_freeze(text) IS 'raises for what makes phase stop_writes wrong, not only unwise; behind the fence';

-- Readiness: what stops working when the table is frozen. ------------------------------------------------------------------------

CREATE FUNCTION _statements_on(of_table regclass, pattern text) RETURNS SETOF text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    statements text := (
        SELECT format('%I.pg_stat_statements', n.nspname) FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace
        WHERE x.extname = 'pg_stat_statements');
BEGIN
    IF statements IS NULL THEN
        RETURN;
    END IF;
    -- Not those within functions, which are named by themselves, nor of foreign keys.
    RETURN QUERY EXECUTE format(
        'SELECT left(regexp_replace(s.query, ''\s+'', '' '', ''g''), 100) FROM %s s '
        'WHERE s.toplevel AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.query ~ $1 '
        'AND s.query !~* ''^\s*(CREATE|ALTER|DROP|VACUUM|ANALYZE|COMMENT|LOCK|GRANT)\y'' '
        'ORDER BY s.calls DESC LIMIT 10', statements) USING pattern;
EXCEPTION
    -- Created, but not preloaded; or not for us to read.
    WHEN object_not_in_prerequisite_state OR insufficient_privilege THEN
        RETURN;
END
$$;
COMMENT ON FUNCTION _statements_on(regclass, text) IS 'statements that pg_stat_statements has seen and that mention a table, the most frequent first';

CREATE FUNCTION _advice(of_type smallint, OUT condition text, OUT objects text[]) RETURNS SETOF record
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    of_table constant regclass := (SELECT t.legacy_table FROM reactions.entity_type t WHERE t.type_id = of_type);
    -- The table's name as a word. One with capitals is always quoted, so it is written as it is.
    pattern constant text := (
        SELECT CASE WHEN c.relname = lower(c.relname) THEN '(?i)' ELSE '' END || '\y' || regexp_replace(c.relname, '([^[:alnum:]_])', '\\\1', 'g') || '\y' FROM pg_class c WHERE c.oid = of_table);
BEGIN
    condition := 'triggers';
    objects := ARRAY(
        SELECT g.tgname::text FROM pg_trigger g
        WHERE g.tgrelid = of_table AND NOT g.tgisinternal AND g.tgfoid NOT IN (
            SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'reactions'::regnamespace)
        ORDER BY 1);
    RETURN NEXT;

    condition := 'views';
    objects := ARRAY(
        SELECT DISTINCT CASE WHEN r.ev_class = of_table THEN format('rule %I', r.rulename) ELSE r.ev_class::regclass::text END
        FROM pg_rewrite r
        WHERE r.ev_class = of_table OR r.oid IN (
            SELECT d.objid FROM pg_depend d
            WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = of_table)
        ORDER BY 1);
    RETURN NEXT;

    condition := 'foreign_keys';
    objects := ARRAY(SELECT format('%I: %s', r.name, r.problem) FROM reactions._references(of_type) r WHERE r.problem IS NOT NULL ORDER BY 1);
    RETURN NEXT;

    condition := 'referenced';
    objects := ARRAY(
        SELECT format('%I of %s', c.conname, c.conrelid::regclass) FROM pg_constraint c
        WHERE c.contype = 'f' AND c.confrelid = of_table AND c.conrelid <> of_table AND c.conparentid = 0 ORDER BY 1);
    RETURN NEXT;

    condition := 'publications';
    objects := ARRAY(
        SELECT p.pubname::text FROM pg_publication p
        WHERE p.puballtables
            OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = of_table)
            OR EXISTS (SELECT FROM pg_publication_namespace n JOIN pg_class c ON c.relnamespace = n.pnnspid
                       WHERE n.pnpubid = p.oid AND c.oid = of_table)
        ORDER BY 1);
    RETURN NEXT;

    condition := 'functions';
    objects := ARRAY(
        SELECT p.oid::regprocedure::text FROM pg_proc p
        WHERE p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'reactions'::regnamespace)
            AND (p.prosrc ~ pattern OR EXISTS (
                SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid = of_table))
        ORDER BY 1);
    RETURN NEXT;

    condition := 'statements';
    objects := ARRAY(SELECT * FROM reactions._statements_on(of_table, pattern));
    RETURN NEXT;

    condition := 'refused';
    objects := ARRAY(
        SELECT format('%s in reactions.write_back_refused', count(*)) FROM reactions.write_back_refused r
        WHERE r.type_id = of_type HAVING count(*) > 0);
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION _advice(smallint) IS
    'what is around an attached table that will not do its work, or not find what it looks for, when the table is frozen, and what the table has refused, which then comes into view';
