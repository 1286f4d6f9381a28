-- Attaching a table. ------------------------------------------------------------------------------------------------------------

CREATE FUNCTION _refuse(message text, hint text DEFAULT NULL, code text DEFAULT 'object_not_in_prerequisite_state') RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF hint IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message;
    END IF;
    RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message, HINT = hint;
END
$$;
COMMENT ON FUNCTION _refuse(text, text, text) IS 'raises an error with a hint';

CREATE FUNCTION _table_problems(
    of_table regclass, of_mode text, user_column name, entity_column name, kind_column name, created_column name,
    extra_values jsonb, OUT problem text, OUT hint text, OUT code text
) RETURNS SETOF record
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation pg_class;
    wanted record;
    attribute pg_attribute;
    keys name[] := CASE of_mode WHEN 'exclusive' THEN ARRAY[user_column, entity_column]
        ELSE ARRAY[user_column, entity_column, kind_column] END;
BEGIN
    SELECT * INTO relation FROM pg_class WHERE oid = of_table;
    IF relation.oid IS NULL THEN
        problem := format('relation with OID %s does not exist', of_table::oid);
        hint := 'The table was dropped: detach the entity type.';
        code := 'undefined_table';
        RETURN NEXT;
        RETURN;
    END IF;
    code := 'wrong_object_type';
    IF relation.relkind <> 'r' THEN
        problem := format('%s is not an ordinary table', of_table);
        hint := 'Views, foreign tables and partitioned tables cannot be attached.';
        RETURN NEXT;
        RETURN;
    END IF;
    IF relation.relispartition THEN
        problem := format('table %s is a partition', of_table);
        hint := 'Rows that are written through its parent would not be captured.';
        RETURN NEXT;
    END IF;
    IF EXISTS (SELECT FROM pg_inherits WHERE of_table IN (inhrelid, inhparent)) AND NOT relation.relispartition THEN
        problem := format('table %s has a parent or children by inheritance', of_table);
        hint := 'Rows that are written through the parent would not be captured.';
        RETURN NEXT;
    END IF;
    IF relation.relpersistence <> 'p' THEN
        problem := format('table %s is temporary or unlogged', of_table);
        hint := 'Make it permanent with ALTER TABLE ... SET LOGGED.';
        RETURN NEXT;
    END IF;
    -- Statements of the functions run as the owner, and are told from those of foreign keys by whom such a policy binds.
    IF relation.relforcerowsecurity THEN
        problem := format('table %s has FORCE ROW LEVEL SECURITY', of_table);
        hint := format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY. Policies still bind everybody but its owner.', of_table);
        RETURN NEXT;
    END IF;
    IF EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = of_table) THEN
        problem := format('table %s is the target of a subscription', of_table);
        hint := 'Replicated rows fire no statement-level triggers; attach the table on the publisher.';
        RETURN NEXT;
    END IF;
    FOR wanted IN
        SELECT * FROM (VALUES ('user', user_column), ('entity', entity_column), ('kind', kind_column), ('created', created_column))
            AS v (purpose, column_name)
        WHERE purpose <> 'created' OR column_name IS NOT NULL
    LOOP
        SELECT * INTO attribute FROM pg_attribute a
            WHERE a.attrelid = of_table AND a.attname = wanted.column_name AND a.attnum > 0 AND NOT a.attisdropped;
        IF attribute.attnum IS NULL THEN
            problem := format('column "%s" of table %s does not exist', wanted.column_name, of_table);
            hint := format('Name the %1$s column with %1$s_column.', wanted.purpose);
            code := 'undefined_column';
            RETURN NEXT;
            CONTINUE;
        END IF;
        code := 'datatype_mismatch';
        IF wanted.purpose IN ('user', 'entity') AND attribute.atttypid NOT IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN
            problem := format('column "%s" has type %s, not an integer type', wanted.column_name, format_type(attribute.atttypid, NULL));
            hint := 'User and entity ids are smallint, integer or bigint.';
            RETURN NEXT;
        ELSIF wanted.purpose = 'kind' AND attribute.atttypid NOT IN ('text'::regtype, 'varchar'::regtype)
            AND NOT EXISTS (SELECT FROM pg_type WHERE oid = attribute.atttypid AND typtype = 'e') THEN
            problem := format('column "%s" has type %s, not an enum or text', wanted.column_name, format_type(attribute.atttypid, NULL));
            hint := 'The kind column is an enum, text or varchar.';
            RETURN NEXT;
        ELSIF wanted.purpose = 'created' AND attribute.atttypid NOT IN ('timestamp'::regtype, 'timestamptz'::regtype) THEN
            problem := format('column "%s" has type %s, not a timestamp', wanted.column_name, format_type(attribute.atttypid, NULL));
            hint := 'The created column is timestamp (taken as UTC) or timestamptz.';
            RETURN NEXT;
        END IF;
        code := 'object_not_in_prerequisite_state';
        IF wanted.purpose <> 'created' AND NOT attribute.attnotnull THEN
            problem := format('column "%s" of table %s may be null', wanted.column_name, of_table);
            hint := format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL.', of_table, wanted.column_name);
            RETURN NEXT;
        END IF;
    END LOOP;
    IF code = 'undefined_column' THEN
        RETURN;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = of_table AND i.indisunique AND i.indisvalid AND i.indimmediate
            AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = cardinality(keys)
            AND (SELECT array_agg(a.attname ORDER BY a.attname)
                 FROM unnest((i.indkey::smallint[])[0:i.indnkeyatts - 1]) AS k (attnum)
                 JOIN pg_attribute a ON a.attrelid = of_table AND a.attnum = k.attnum)
                = (SELECT array_agg(k ORDER BY k) FROM unnest(keys) AS k)
    ) THEN
        problem := format('table %s has no unique index over (%s)', of_table, array_to_string(keys, ', '));
        hint := format('CREATE UNIQUE INDEX CONCURRENTLY ON %s (%s). Its entries order concurrent changes of one reaction.',
            of_table, (SELECT string_agg(quote_ident(k), ', ') FROM unnest(keys) AS k));
        RETURN NEXT;
    END IF;
    FOR attribute IN
        SELECT a.* FROM pg_attribute a
        WHERE a.attrelid = of_table AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND NOT a.atthasdef
            AND a.attidentity = '' AND a.attgenerated = ''
            AND a.attname <> ALL (ARRAY[user_column, entity_column, kind_column]) AND extra_values ->> a.attname IS NULL
    LOOP
        problem := format('column "%s" of table %s is NOT NULL and has no default', attribute.attname, of_table);
        hint := format('reactions.react could not insert a row: give it a default, or pass extra_values => ''{"%s": ...}''.',
            attribute.attname);
        RETURN NEXT;
    END LOOP;
    FOR wanted IN
        SELECT e.key, jsonb_typeof(e.value) AS type, a.attnum
        FROM jsonb_each(extra_values) e
        LEFT JOIN pg_attribute a ON a.attrelid = of_table AND a.attname = e.key AND a.attnum > 0 AND NOT a.attisdropped
    LOOP
        IF wanted.attnum IS NULL THEN
            problem := format('column "%s" of table %s does not exist', wanted.key, of_table);
            hint := 'The keys of extra_values are columns.';
            code := 'undefined_column';
            RETURN NEXT;
        ELSIF wanted.type IN ('object', 'array') THEN
            problem := format('extra_values has no single value for column "%s"', wanted.key);
            hint := 'Pass the text of the value as a string.';
            code := 'invalid_parameter_value';
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _table_problems(regclass, text, name, name, name, name, jsonb) IS
    'why a table cannot be attached, or cannot stay attached';

CREATE FUNCTION _unmapped_labels(of_table regclass, kind_column name, kind_map jsonb, known text[]) RETURNS SETOF text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT e.enumlabel::text
    FROM pg_attribute a JOIN pg_enum e ON e.enumtypid = a.atttypid
    WHERE a.attrelid = of_table AND a.attname = kind_column
        AND CASE WHEN kind_map ? e.enumlabel THEN kind_map ->> e.enumlabel IS NOT NULL AND kind_map ->> e.enumlabel <> ALL (known)
            ELSE e.enumlabel <> ALL (known) END
    ORDER BY e.enumsortorder;
END;
COMMENT ON FUNCTION _unmapped_labels(regclass, name, jsonb, text[]) IS 'labels of an enum kind column that are no kind of the type';

CREATE FUNCTION _ambiguous_kinds(of_table regclass, kind_column name, kind_map jsonb, known text[]) RETURNS SETOF text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH label AS (
        SELECT e.enumlabel::text AS label
        FROM pg_attribute a JOIN pg_enum e ON e.enumtypid = a.atttypid
        WHERE a.attrelid = of_table AND a.attname = kind_column
        UNION
        SELECT l.label
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid, (SELECT jsonb_object_keys(kind_map) UNION SELECT unnest(known)) AS l (label)
        WHERE a.attrelid = of_table AND a.attname = kind_column AND t.typtype <> 'e'
    )
    SELECT k.kind
    FROM label l, LATERAL (SELECT CASE WHEN kind_map ? l.label THEN kind_map ->> l.label ELSE l.label END) AS k (kind)
    WHERE k.kind = ANY (known)
    GROUP BY k.kind HAVING count(*) > 1
    ORDER BY k.kind;
END;
COMMENT ON FUNCTION _ambiguous_kinds(regclass, name, jsonb, text[]) IS 'kinds that more than one label of the kind column leads to';

CREATE FUNCTION _create_capture(of_table regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    trigger_name text;
BEGIN
    EXECUTE format('CREATE TRIGGER reactions_capture_0_begin BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION reactions._capture_begin()', of_table);
    EXECUTE format('CREATE TRIGGER reactions_capture_1_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows '
        'FOR EACH STATEMENT EXECUTE FUNCTION reactions._capture_end()', of_table);
    EXECUTE format('CREATE TRIGGER reactions_capture_2_update AFTER UPDATE ON %s '
        'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows '
        'FOR EACH STATEMENT EXECUTE FUNCTION reactions._capture_end()', of_table);
    EXECUTE format('CREATE TRIGGER reactions_capture_3_delete AFTER DELETE ON %s REFERENCING OLD TABLE AS old_rows '
        'FOR EACH STATEMENT EXECUTE FUNCTION reactions._capture_end()', of_table);
    EXECUTE format('CREATE TRIGGER reactions_capture_4_truncate AFTER TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION reactions._capture_truncate()', of_table);
    EXECUTE format('CREATE TRIGGER reactions_capture_5_epoch AFTER TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION reactions._capture_truncate_epoch()', of_table);
    FOR trigger_name IN
        SELECT tgname FROM pg_trigger WHERE tgrelid = of_table AND tgname LIKE 'reactions\_capture\_%' AND NOT tgisinternal
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', of_table, trigger_name);
    END LOOP;
    PERFORM reactions._note_capture(of_table);
END
$$;
COMMENT ON FUNCTION _create_capture(regclass) IS 'creates the capture triggers of a table, enabled also for replica sessions';

CREATE FUNCTION _reattach(detached_type text, wanted_mode text, new_phase text) RETURNS smallint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
BEGIN
    SELECT t.type_id, t.mode INTO found FROM reactions.entity_type t
        WHERE t.entity_type = detached_type AND t.phase = 'detached';
    IF found.type_id IS NULL THEN
        RETURN NULL;
    END IF;
    IF found.mode <> wanted_mode THEN
        PERFORM reactions._refuse(format('entity type "%s" was attached with mode %s', detached_type, found.mode),
            'Attach it with the same mode, or under another name.', 'invalid_parameter_value');
    END IF;
    INSERT INTO reactions.phase_log (entity_type, from_phase, to_phase) VALUES (detached_type, 'detached', new_phase);
    RETURN found.type_id;
END
$$;
COMMENT ON FUNCTION _reattach(text, text, text) IS 'the id of a type that was detached, which keeps its kinds and keys';

CREATE FUNCTION _table_owner_only() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = NEW.legacy_table), 'USAGE') THEN
        PERFORM reactions._refuse(format('must be owner of table %s', NEW.legacy_table), NULL, 'insufficient_privilege');
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION _table_owner_only() IS
    'trigger: the functions act on a type''s table as its owner, so nobody else may name the table or its columns';

CREATE TRIGGER table_owner_only_insert BEFORE INSERT ON entity_type FOR EACH ROW WHEN (NEW.legacy_table IS NOT NULL)
    EXECUTE FUNCTION _table_owner_only();
CREATE TRIGGER table_owner_only_update
    BEFORE UPDATE OF legacy_table, user_column, entity_column, kind_column, created_column, extra_values, kind_map ON entity_type
    FOR EACH ROW WHEN (NEW.legacy_table IS NOT NULL)
    EXECUTE FUNCTION _table_owner_only();

CREATE FUNCTION attach(
    legacy_table regclass, entity_type text, user_column name, entity_column name, kind_column name,
    created_column name DEFAULT NULL, mode text DEFAULT 'multi', phase text DEFAULT 'attached',
    kind_map jsonb DEFAULT '{}', unknown_kinds text DEFAULT 'error', extra_values jsonb DEFAULT '{}',
    user_map_key text DEFAULT NULL, entity_key text DEFAULT NULL, shard_count integer DEFAULT 100
) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    found record;
    of_type smallint;
    labels text[];
    is_empty boolean;
    is_complete boolean;
    attached_to text;
BEGIN
    IF $1 IS NULL OR $2 IS NULL OR $3 IS NULL OR $4 IS NULL OR $5 IS NULL THEN
        PERFORM reactions._refuse('legacy_table, entity_type and the columns of user, entity and kind must not be null',
            NULL, 'null_value_not_allowed');
    END IF;
    IF $8 IS NULL OR $8 NOT IN ('attached', 'switch_reads') THEN
        PERFORM reactions._refuse(format('"%s" is not a phase to attach in', $8),
            'attached: reads come from the table. switch_reads: reads come from Redis, and on a miss from the table.',
            'invalid_parameter_value');
    END IF;
    IF $10 IS NULL OR $10 NOT IN ('error', 'skip') THEN
        PERFORM reactions._refuse(format('unknown_kinds cannot be "%s"', $10), 'It is error or skip.', 'invalid_parameter_value');
    END IF;
    IF jsonb_typeof($9) IS DISTINCT FROM 'object' OR jsonb_typeof($11) IS DISTINCT FROM 'object' THEN
        PERFORM reactions._refuse('kind_map and extra_values must be JSON objects',
            'kind_map leads labels to kinds, or to null to skip them; extra_values gives columns values.',
            'invalid_parameter_value');
    END IF;
    IF NOT pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = $1), 'USAGE') THEN
        PERFORM reactions._refuse(format('must be owner of table %s', $1), NULL, 'insufficient_privilege');
    END IF;

    -- Nobody writes between the look at the table and the first captured statement.
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', $1);
    SELECT t.entity_type INTO attached_to FROM reactions.entity_type t WHERE t.legacy_table = $1;
    IF attached_to IS NOT NULL THEN
        PERFORM reactions._refuse(format('table %s is already attached to entity type "%s"', $1, attached_to),
            'Detach it first with reactions.detach.', 'duplicate_object');
    END IF;
    FOR found IN SELECT * FROM reactions._table_problems($1, $7, $3, $4, $5, $6, $11) LOOP
        PERFORM reactions._refuse(found.problem, found.hint, found.code);
    END LOOP;

    of_type := reactions._reattach($2, $7, $8);
    IF of_type IS NULL THEN
        of_type := reactions._insert_entity_type($2, $7, $8, $12, $13, $14);
    ELSIF $12 IS NOT NULL OR $13 IS NOT NULL THEN
        PERFORM reactions._refuse(format('entity type "%s" keeps the key templates that it had before it was detached', $2),
            'Leave user_map_key and entity_key out, or attach the table under another name.', 'invalid_parameter_value');
    END IF;
    SELECT array_agg(l) INTO labels
        FROM reactions._unmapped_labels($1, $5, $9,
            ARRAY(SELECT k.kind FROM reactions.kind k WHERE k.type_id = of_type)) AS l;
    IF labels IS NOT NULL AND $10 = 'error' THEN
        PERFORM reactions._refuse(
            format('column "%s" of table %s knows kinds that entity type "%s" has not: %s', $5, $1, $2, array_to_string(labels, ', ')),
            'Pass unknown_kinds => ''skip'' to leave such rows out, or a kind_map that leads them to a kind or to null.',
            'invalid_parameter_value');
    END IF;
    -- Two rows of one kind: the unique index would not order them, and one that goes would not mean that the kind is gone.
    SELECT array_agg(l) INTO labels
        FROM reactions._ambiguous_kinds($1, $5, $9, ARRAY(SELECT k.kind FROM reactions.kind k WHERE k.type_id = of_type)) AS l;
    IF labels IS NOT NULL AND $7 = 'multi' THEN
        PERFORM reactions._refuse(
            format('kind_map leads several labels of column "%s" to one kind: %s', $5, array_to_string(labels, ', ')),
            'Lead all labels but one to null, or make a kind of each with reactions.add_kind.', 'invalid_parameter_value');
    END IF;
    EXECUTE format('SELECT NOT EXISTS (SELECT FROM ONLY %s)', $1) INTO is_empty;
    UPDATE reactions.entity_type t SET
        phase = $8, legacy_table = $1, user_column = $3, entity_column = $4, kind_column = $5, created_column = $6,
        extra_values = $11, kind_map = $9, unknown_kinds = $10,
        -- What was written while nobody captured is in no event: a type that was attached before is not complete.
        backfilled = is_empty AND t.phase <> 'detached', epoch = t.epoch + 1
    WHERE t.type_id = of_type RETURNING t.backfilled INTO is_complete;
    PERFORM reactions._create_capture($1);
    IF NOT is_complete THEN
        PERFORM reactions._begin_backfill(of_type, $1);
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL AND a.attname = $3
    ) THEN
        RAISE WARNING USING ERRCODE = '01000',
            MESSAGE = format('no index of table %s begins with column "%s"', $1, $3),
            DETAIL = 'A cache miss asks the table for everything that a user has reacted to.',
            HINT = format('CREATE INDEX CONCURRENTLY ON %s (%I).', $1, $3);
    END IF;
END
$$;
COMMENT ON FUNCTION attach(regclass, text, name, name, name, name, text, text, jsonb, text, jsonb, text, text, integer) IS
    'makes an entity type of an existing table and captures every change of it';

CREATE FUNCTION _lock_shortly(tables regclass[], mode text, more text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms'
AS $$
DECLARE
    pause double precision := 0.01;
    of_table regclass;
BEGIN
    -- Whoever queues for a lock keeps every writer waiting behind it, and whoever keeps one while waiting for the next may meet a writer in
    -- a deadlock: so all are tried shortly, and given back together.
    FOR attempt IN 1..100 LOOP
        BEGIN
            FOREACH of_table IN ARRAY tables LOOP
                EXECUTE format('LOCK TABLE ONLY %s IN %s MODE', of_table, mode);
            END LOOP;
            IF more IS NOT NULL THEN
                EXECUTE format('LOCK TABLE %s', more);
            END IF;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(pause);
            pause := least(pause * 1.5, 0.2);
        END;
    END LOOP;
    PERFORM reactions._refuse(
        CASE WHEN tables = '{}' THEN 'writers did not leave a gap'
            ELSE format('writers of %s did not leave a gap', array_to_string(tables, ', ')) END,
        'Nothing was changed. Look for long transactions and prepared ones, and try again.', 'lock_not_available');
END
$$;
COMMENT ON FUNCTION _lock_shortly(regclass[], text, text) IS 'locks all of some tables without keeping others waiting';

CREATE FUNCTION _fence_out(of_table regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A writer has the table first and then the fence, or with the functions the other way round.
    PERFORM reactions._lock_shortly(ARRAY(SELECT oid::regclass FROM pg_class WHERE oid = of_table), 'ACCESS EXCLUSIVE',
        'reactions.entity_type IN EXCLUSIVE MODE');
END
$$;
COMMENT ON FUNCTION _fence_out(regclass) IS 'waits until no writer is between its statement and its commit, and keeps new ones out';

CREATE FUNCTION detach(entity_type text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
    trigger_name text;
BEGIN
    SELECT t.type_id, t.legacy_table, t.phase INTO found FROM reactions.entity_type t WHERE t.entity_type = $1;
    IF found.type_id IS NULL THEN
        PERFORM reactions._refuse(format('entity type "%s" does not exist', $1), NULL, 'undefined_object');
    END IF;
    IF found.legacy_table IS NULL OR found.phase IN ('stop_writes', 'archived') THEN
        PERFORM reactions._refuse(format('entity type "%s" has no table that holds its reactions', $1),
            'Only a type whose table is complete can be detached.');
    END IF;

    -- A writer has a table first and then the fence, or with the functions the other way round: so all are taken together.
    PERFORM reactions._lock_shortly(ARRAY(
            SELECT oid::regclass FROM pg_class WHERE oid = found.legacy_table
            UNION SELECT m.of_table FROM reactions._made_triggers(found.type_id) m ORDER BY 1),
        'ACCESS EXCLUSIVE', 'reactions.entity_type IN EXCLUSIVE MODE');
    FOR trigger_name IN
        SELECT tgname FROM pg_trigger
        WHERE tgrelid = found.legacy_table AND tgname LIKE 'reactions\_capture\_%' AND NOT tgisinternal
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', trigger_name, found.legacy_table);
    END LOOP;
    PERFORM reactions._drop_frozen_triggers(found.type_id);
    -- The type stays known: its last events are on their way.
    UPDATE reactions.entity_type t SET phase = 'detached', legacy_table = NULL, epoch = t.epoch + 1
    WHERE t.type_id = found.type_id;
    INSERT INTO reactions.phase_log (entity_type, from_phase, to_phase) VALUES ($1, found.phase, 'detached');
END
$$;
COMMENT ON FUNCTION detach(text) IS 'drops the capture of a table, which stays as it is; the entity type can be attached again';

