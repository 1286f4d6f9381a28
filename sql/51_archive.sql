-- Archiving a frozen table, and restoring it. docs/internals.md, "Archive", has the rules. -----------------------------------------

CREATE FUNCTION _archived_columns(
    of_table regclass, OUT names text[], OUT list text, OUT checksum text
) RETURNS record
    LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- The line that COPY writes with FORCE_QUOTE *, by other means: every value by its output function, quoted; NULL is nothing at all.
    -- IS NOT DISTINCT FROM NULL, since a composite value of nulls IS NULL. Of the line's SHA-256 the first 64 bits are summed.
    SELECT array_agg(a.attname::text ORDER BY a.attnum), string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
        format($f$coalesce(sum(('x' || encode(substring(sha256(convert_to(%s, 'UTF8')) FROM 1 FOR 8), 'hex'))::bit(64)::bigint), 0)$f$,
            string_agg(format($f$CASE WHEN %1$I IS NOT DISTINCT FROM NULL THEN '' ELSE '"' || replace(format('%%s', %1$I), '"', '""') || '"' END$f$,
                a.attname), $f$ || ',' || $f$ ORDER BY a.attnum))
    FROM pg_attribute a
    WHERE a.attrelid = of_table AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
END;
COMMENT ON FUNCTION _archived_columns(regclass) IS
    'the columns whose values are archived, and the checksum over the lines that they make in a file: an aggregate, whatever the order';

CREATE FUNCTION _grants(acl aclitem[]) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE WHEN acl IS NOT NULL THEN coalesce(jsonb_agg(jsonb_build_object(
            'grantee', CASE WHEN g.grantee <> 0 THEN pg_get_userbyid(g.grantee) END,
            'privilege', g.privilege_type, 'grantable', g.is_grantable)
        ORDER BY g.grantee, g.privilege_type), '[]') END
    FROM aclexplode(acl) g;
END;
COMMENT ON FUNCTION _grants(aclitem[]) IS 'an access control list as JSON; PUBLIC has no grantee';

CREATE FUNCTION _sequence_descriptions(of_table regclass) RETURNS jsonb
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
    state record;
    result jsonb := '[]';
BEGIN
    FOR found IN
        SELECT c.oid, n.nspname, c.relname, a.attname, d.deptype = 'i' AS is_identity, s.*, c.relacl, c.relowner
        FROM pg_depend d
        JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_sequence s ON s.seqrelid = c.oid
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = of_table
            AND d.deptype IN ('a', 'i')
        ORDER BY a.attnum, c.relname
    LOOP
        EXECUTE format('SELECT last_value, is_called FROM %I.%I', found.nspname, found.relname) INTO state;
        -- Numbers of 64 bits as text: not every reader of JSON keeps them.
        result := result || jsonb_build_object(
            'schema', found.nspname, 'name', found.relname, 'column', found.attname, 'identity', found.is_identity,
            'type', format_type(found.seqtypid, NULL), 'start', found.seqstart::text, 'increment', found.seqincrement::text,
            'minimum', found.seqmin::text, 'maximum', found.seqmax::text, 'cache', found.seqcache::text, 'cycle', found.seqcycle,
            'last_value', state.last_value::text, 'is_called', state.is_called,
            'comment', obj_description(found.oid, 'pg_class'), 'grants', reactions._grants(coalesce(found.relacl, acldefault('s', found.relowner))));
    END LOOP;
    RETURN result;
END
$$;
COMMENT ON FUNCTION _sequence_descriptions(regclass) IS 'the sequences that belong to columns of a table, with their last values';

CREATE FUNCTION _table_description(of_table regclass) RETURNS jsonb
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'schema', n.nspname, 'name', c.relname, 'owner', pg_get_userbyid(c.relowner), 'options', to_jsonb(c.reloptions),
        'access_method', (SELECT m.amname FROM pg_am m WHERE m.oid = c.relam),
        'tablespace', (SELECT s.spcname FROM pg_tablespace s WHERE s.oid = c.reltablespace),
        'replica_identity', CASE WHEN c.relreplident IN ('n', 'f') THEN c.relreplident END,
        'comment', obj_description(c.oid, 'pg_class'), 'grants', reactions._grants(coalesce(c.relacl, acldefault('r', c.relowner))),
        'columns', (
            SELECT jsonb_agg(jsonb_build_object(
                'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'not_null', a.attnotnull,
                'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
                'generated', CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END,
                'generation', nullif(a.attgenerated, ''), 'identity', nullif(a.attidentity, ''),
                'collation', (SELECT format('%I.%I', o.nspname, l.collname) FROM pg_collation l JOIN pg_namespace o ON o.oid = l.collnamespace
                    WHERE l.oid = a.attcollation AND a.attcollation <> t.typcollation),
                'storage', CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage END,
                'compression', nullif(a.attcompression, ''), 'statistics', nullif(a.attstattarget, -1),
                'comment', col_description(c.oid, a.attnum), 'grants', reactions._grants(a.attacl)) ORDER BY a.attnum)
            FROM pg_attribute a
            JOIN pg_type t ON t.oid = a.atttypid
            LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        'enum_types', (
            SELECT jsonb_agg(jsonb_build_object(
                'type', format_type(t.oid, NULL), 'owner', pg_get_userbyid(t.typowner), 'comment', obj_description(t.oid, 'pg_type'),
                'labels', (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid))
                ORDER BY format_type(t.oid, NULL))
            FROM pg_type t
            WHERE t.typtype = 'e' AND EXISTS (
                SELECT FROM pg_attribute a JOIN pg_type b ON b.oid = a.atttypid
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND t.oid IN (b.oid, b.typelem))),
        'sequences', reactions._sequence_descriptions(c.oid),
        'constraints', (
            SELECT jsonb_agg(jsonb_build_object(
                'name', o.conname, 'type', o.contype, 'definition', pg_get_constraintdef(o.oid),
                'comment', obj_description(o.oid, 'pg_constraint'), 'clustered', nullif(i.indisclustered, false),
                'replica_identity', nullif(i.indisreplident, false),
                'on_delete', CASE WHEN o.contype = 'f' THEN o.confdeltype END,
                -- Those that ON DELETE SET NULL (…) names; nothing: all of them.
                'on_delete_columns', (
                    SELECT jsonb_agg(l.attname ORDER BY k.place)
                    FROM unnest(o.confdelsetcols) WITH ORDINALITY AS k (here, place)
                    JOIN pg_attribute l ON l.attrelid = o.conrelid AND l.attnum = k.here),
                'references', CASE WHEN o.contype = 'f' THEN (
                    SELECT format('%I.%I', s.nspname, r.relname) FROM pg_class r JOIN pg_namespace s ON s.oid = r.relnamespace
                    WHERE r.oid = o.confrelid) END,
                'columns', CASE WHEN o.contype = 'f' THEN (
                    SELECT jsonb_agg(jsonb_build_array(l.attname, r.attname) ORDER BY k.place)
                    FROM unnest(o.conkey, o.confkey) WITH ORDINALITY AS k (here, there, place)
                    JOIN pg_attribute l ON l.attrelid = o.conrelid AND l.attnum = k.here
                    JOIN pg_attribute r ON r.attrelid = o.confrelid AND r.attnum = k.there) END)
                ORDER BY o.contype = 'f', o.contype <> 'p', o.conname)
            FROM pg_constraint o LEFT JOIN pg_index i ON i.indexrelid = o.conindid AND i.indrelid = o.conrelid
            WHERE o.conrelid = c.oid AND o.contype IN ('p', 'u', 'x', 'c', 'f')),
        'indexes', (
            SELECT jsonb_agg(jsonb_build_object(
                'name', x.relname, 'definition', pg_get_indexdef(x.oid), 'comment', obj_description(x.oid, 'pg_class'),
                'clustered', nullif(i.indisclustered, false), 'replica_identity', nullif(i.indisreplident, false)) ORDER BY x.relname)
            FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
            WHERE i.indrelid = c.oid AND i.indisvalid AND NOT EXISTS (
                SELECT FROM pg_constraint o WHERE o.conrelid = c.oid AND o.conindid = x.oid AND o.contype IN ('p', 'u', 'x'))),
        'statistics', (
            SELECT jsonb_agg(pg_get_statisticsobjdef(s.oid) ORDER BY s.oid) FROM pg_statistic_ext s WHERE s.stxrelid = c.oid),
        'triggers', (
            SELECT jsonb_agg(jsonb_build_object(
                'name', g.tgname, 'definition', pg_get_triggerdef(g.oid), 'enabled', g.tgenabled,
                'comment', obj_description(g.oid, 'pg_trigger')) ORDER BY g.tgname)
            FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
            WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND p.pronamespace <> n_reactions.oid)))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
        (SELECT oid FROM pg_namespace WHERE nspname = 'reactions') AS n_reactions
    WHERE c.oid = of_table;
END;
COMMENT ON FUNCTION _table_description(regclass) IS 'everything that a restore needs to make a table anew, as an archive''s manifest keeps it';

CREATE FUNCTION _archive_obstacles(of_type smallint, disposition text, OUT obstacle text, OUT hint text) RETURNS SETOF record
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE a.condition WHEN 'functions' THEN 'function ' WHEN 'referenced' THEN 'foreign key '
            ELSE CASE WHEN o.object LIKE 'rule %' THEN '' ELSE 'view ' END END || o.object AS obstacle,
        CASE a.condition WHEN 'referenced' THEN 'Drop the constraint.'
            ELSE 'Have it use the functions of pg_reactions, or drop it.' END AS hint
    FROM reactions._advice(of_type) a, unnest(a.objects) AS o (object)
    WHERE a.condition IN ('views', 'functions', 'referenced') AND disposition <> 'keep'
    UNION ALL
    SELECT format('publication %I', p.pubname), format('ALTER PUBLICATION %I DROP TABLE %s.', p.pubname, r.prrelid::regclass)
    FROM entity_type t JOIN pg_publication_rel r ON r.prrelid = t.legacy_table JOIN pg_publication p ON p.oid = r.prpubid
    WHERE t.type_id = of_type AND disposition <> 'keep'
    UNION ALL
    SELECT format('policy %I', p.polname), 'Policies are not archived: drop it, or archive with --then rename.'
    FROM entity_type t JOIN pg_policy p ON p.polrelid = t.legacy_table WHERE t.type_id = of_type AND disposition = 'drop'
    UNION ALL
    SELECT 'a rollback', 'Wait until it is done, or cancel it; reactions.write_backs shows it.'
    FROM write_back w WHERE w.type_id = of_type AND w.finished_at IS NULL
    ORDER BY 1;
END;
COMMENT ON FUNCTION _archive_obstacles(smallint, text) IS
    'what would break if the table of a type were renamed or dropped, and what to do about it';

CREATE FUNCTION _archive_table(entity_type text, stop_version bigint, disposition text, report jsonb) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    of_type reactions.entity_type;
    found record;
    suffix constant text := '_archived_' || to_char(clock_timestamp(), 'YYYYMMDD');
    new_name text;
BEGIN
    SELECT * INTO of_type FROM reactions.entity_type t WHERE t.entity_type = $1;
    PERFORM reactions._fence_out(of_type.legacy_table);
    -- Behind the fence: a rollback may have made the table the truth, and an advance have frozen it again.
    IF NOT EXISTS (SELECT FROM reactions.entity_type t WHERE t.type_id = of_type.type_id AND t.stop_version = $2) THEN
        PERFORM reactions._refuse(format('the table of entity type "%s" has been written since it was archived', $1),
            'Somebody has rolled the type back meanwhile; archive it again into another directory.', 'serialization_failure');
    END IF;
    SELECT string_agg(o.obstacle, ', ') AS obstacles, min(o.hint) AS hint INTO found
        FROM reactions._archive_obstacles(of_type.type_id, disposition) o;
    IF found.obstacles IS NOT NULL THEN
        PERFORM reactions._refuse(format('table %s is still needed by %s', of_type.legacy_table, found.obstacles), found.hint,
            'dependent_objects_still_exist');
    END IF;
    IF disposition = 'drop' THEN
        UPDATE reactions.entity_type t SET legacy_table = NULL WHERE t.type_id = of_type.type_id;
        EXECUTE format('DROP TABLE %s', of_type.legacy_table);
    ELSIF disposition = 'rename' THEN
        SELECT c.relname, c.relnamespace INTO found FROM pg_class c WHERE c.oid = of_type.legacy_table;
        FOR attempt IN 1..100 LOOP
            new_name := found.relname || suffix || CASE WHEN attempt > 1 THEN '_' || attempt ELSE '' END;
            -- PostgreSQL would cut the end off, which tells the archives of a table apart.
            WHILE octet_length(new_name) > 63 LOOP
                found.relname := left(found.relname, -1);
                new_name := found.relname || suffix || CASE WHEN attempt > 1 THEN '_' || attempt ELSE '' END;
            END LOOP;
            EXIT WHEN NOT EXISTS (SELECT FROM pg_class c WHERE c.relname = new_name AND c.relnamespace = found.relnamespace);
        END LOOP;
        EXECUTE format('ALTER TABLE %s RENAME TO %I', of_type.legacy_table, new_name);
    END IF;
    PERFORM reactions._flip($1, 'stop_writes', 'archived', false, report || jsonb_build_object('renamed_to', new_name));
    RETURN new_name;
END
$$;
COMMENT ON FUNCTION _archive_table(text, bigint, text, jsonb) IS
    'renames, drops or keeps a frozen table whose archive is written and verified, and takes its type to phase archived';

-- Restoring. --------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION _restore_mark(archive text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN format('being restored from archive %s', archive);
COMMENT ON FUNCTION _restore_mark(text) IS 'comment of a table that a restore has begun: only such a table is dropped by the next attempt';

CREATE FUNCTION _restore_column(of_column jsonb, sequences jsonb) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT concat_ws(' ', quote_ident(of_column ->> 'name'), of_column ->> 'type', 'COLLATE ' || (of_column ->> 'collation'),
        'DEFAULT ' || (of_column ->> 'default'),
        'GENERATED ALWAYS AS (' || (of_column ->> 'generated') || ')' || CASE of_column ->> 'generation' WHEN 's' THEN ' STORED' ELSE ' VIRTUAL' END,
        CASE of_column ->> 'identity' WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY' WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY' END,
        (SELECT format('(SEQUENCE NAME %I.%I START %s INCREMENT %s MINVALUE %s MAXVALUE %s CACHE %s%s)', s ->> 'schema', s ->> 'name',
                s ->> 'start', s ->> 'increment', s ->> 'minimum', s ->> 'maximum', s ->> 'cache',
                CASE WHEN (s ->> 'cycle')::boolean THEN ' CYCLE' END)
            FROM jsonb_array_elements(sequences) s WHERE s ->> 'column' = of_column ->> 'name' AND (s ->> 'identity')::boolean),
        CASE WHEN (of_column ->> 'not_null')::boolean THEN 'NOT NULL' END);
END;
COMMENT ON FUNCTION _restore_column(jsonb, jsonb) IS 'a column''s definition for CREATE TABLE';

CREATE FUNCTION _revoke_from_others(of_relation regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT DISTINCT c.relkind, CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END AS grantee
        FROM pg_class c, aclexplode(c.relacl) g WHERE c.oid = of_relation AND g.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM %s', CASE found.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, of_relation, found.grantee);
    END LOOP;
END
$$;
COMMENT ON FUNCTION _revoke_from_others(regclass) IS 'leaves a new relation to its owner, whatever the default privileges are';

CREATE FUNCTION _restore_table(description jsonb, archive text, table_name text) RETURNS regclass
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    qualified text := format('%I.%I', description ->> 'schema', table_name);
    item jsonb;
BEGIN
    IF to_regclass(qualified) IS NOT NULL THEN
        IF obj_description(to_regclass(qualified), 'pg_class') IS DISTINCT FROM reactions._restore_mark(archive) THEN
            PERFORM reactions._refuse(format('relation %s already exists', qualified),
                'Rename it, or restore under another name with --table.', 'duplicate_table');
        END IF;
        EXECUTE format('DROP TABLE %s', qualified);
    END IF;
    FOR item IN SELECT * FROM jsonb_array_elements(description -> 'enum_types') LOOP
        IF to_regtype(item ->> 'type') IS NULL THEN
            EXECUTE format('CREATE TYPE %s AS ENUM (%s)', item ->> 'type',
                (SELECT string_agg(quote_literal(l), ', ' ORDER BY place)
                 FROM jsonb_array_elements_text(item -> 'labels') WITH ORDINALITY AS e (l, place)));
            EXECUTE format('COMMENT ON TYPE %s IS %L', item ->> 'type', item ->> 'comment');
        ELSIF EXISTS (
            SELECT FROM jsonb_array_elements_text(item -> 'labels') l
            WHERE NOT EXISTS (SELECT FROM pg_enum e WHERE e.enumtypid = to_regtype(item ->> 'type') AND e.enumlabel = l)
        ) THEN
            PERFORM reactions._refuse(format('type %s lacks labels that the archive has', item ->> 'type'),
                format('ALTER TYPE %s ADD VALUE ...; the manifest has them all.', item ->> 'type'));
        END IF;
    END LOOP;
    FOR item IN SELECT s FROM jsonb_array_elements(description -> 'sequences') s WHERE NOT (s ->> 'identity')::boolean LOOP
        EXECUTE format('CREATE SEQUENCE %I.%I AS %s START %s INCREMENT %s MINVALUE %s MAXVALUE %s CACHE %s%s',
            item ->> 'schema', item ->> 'name', item ->> 'type', item ->> 'start', item ->> 'increment', item ->> 'minimum',
            item ->> 'maximum', item ->> 'cache', CASE WHEN (item ->> 'cycle')::boolean THEN ' CYCLE' END);
    END LOOP;
    EXECUTE format('CREATE TABLE %s (%s) USING %I%s%s', qualified,
        (SELECT string_agg(reactions._restore_column(c, description -> 'sequences'), ', ' ORDER BY place)
         FROM jsonb_array_elements(description -> 'columns') WITH ORDINALITY AS e (c, place)),
        description ->> 'access_method',
        ' WITH (' || (SELECT string_agg(format('%s=%L', split_part(o, '=', 1), substring(o FROM position('=' IN o) + 1)), ', ')
            FROM jsonb_array_elements_text(description -> 'options') o) || ')',
        ' TABLESPACE ' || quote_ident(description ->> 'tablespace'));
    EXECUTE format('COMMENT ON TABLE %s IS %L', qualified, reactions._restore_mark(archive));
    FOR item IN SELECT * FROM jsonb_array_elements(description -> 'columns') LOOP
        IF item ? 'storage' THEN
            EXECUTE format('ALTER TABLE %s ALTER %I SET STORAGE %s', qualified, item ->> 'name',
                CASE item ->> 'storage' WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END);
        END IF;
        IF item ? 'compression' THEN
            EXECUTE format('ALTER TABLE %s ALTER %I SET COMPRESSION %s', qualified, item ->> 'name',
                CASE item ->> 'compression' WHEN 'l' THEN 'lz4' ELSE 'pglz' END);
        END IF;
        IF item ? 'statistics' THEN
            EXECUTE format('ALTER TABLE %s ALTER %I SET STATISTICS %s', qualified, item ->> 'name', item ->> 'statistics');
        END IF;
    END LOOP;
    -- Nobody else reads the rows, or writes them, before it has the privileges of the archive.
    PERFORM reactions._revoke_from_others(qualified::regclass);
    FOR item IN SELECT * FROM jsonb_array_elements(description -> 'sequences') LOOP
        PERFORM reactions._revoke_from_others(format('%I.%I', item ->> 'schema', item ->> 'name')::regclass);
        -- With the table they go when it is dropped.
        IF NOT (item ->> 'identity')::boolean THEN
            EXECUTE format('ALTER SEQUENCE %I.%I OWNED BY %s.%I', item ->> 'schema', item ->> 'name', qualified, item ->> 'column');
        END IF;
    END LOOP;
    PERFORM reactions._rehearse_restore(description, qualified::regclass);
    RETURN qualified::regclass;
END
$$;
COMMENT ON FUNCTION _restore_table(jsonb, text, text) IS
    'makes the table of an archive''s manifest without rows, indexes, constraints and privileges, when it is sure that it can have these; drops what an attempt before has left';

CREATE FUNCTION _restore_steps(
    description jsonb, of_table regclass, OUT step text, OUT statement text, OUT removes_rows boolean
) RETURNS SETOF record
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item jsonb;
    -- As definitions name the table: it may be restored under another name.
    former constant text := format('%I.%I', description ->> 'schema', description ->> 'name');
    never_valid boolean;
BEGIN
    removes_rows := false;
    FOR item IN SELECT c FROM jsonb_array_elements(description -> 'constraints') c WHERE c ->> 'type' <> 'f' LOOP
        step := format('constraint %I', item ->> 'name');
        statement := format('ALTER TABLE %s ADD CONSTRAINT %I %s', of_table, item ->> 'name', item ->> 'definition');
        RETURN NEXT;
    END LOOP;
    FOR item IN SELECT * FROM jsonb_array_elements(description -> 'indexes') LOOP
        step := format('index %I', item ->> 'name');
        statement := replace(item ->> 'definition', format(' ON %s ', former), format(' ON %s ', of_table));
        RETURN NEXT;
    END LOOP;
    FOR item IN SELECT * FROM jsonb_array_elements(description -> 'statistics') LOOP
        step := 'extended statistics';
        statement := replace(item #>> '{}', format(' FROM %s', former), format(' FROM %s', of_table));
        RETURN NEXT;
    END LOOP;
    step := 'statistics';
    statement := format('ANALYZE %s', of_table);
    RETURN NEXT;
    -- Last: from then on a delete in the referenced table looks for rows here, by an index.
    FOR item IN SELECT c FROM jsonb_array_elements(description -> 'constraints') c WHERE c ->> 'type' = 'f' LOOP
        never_valid := item ->> 'definition' LIKE '% NOT VALID';
        step := format('constraint %I', item ->> 'name');
        removes_rows := false;
        statement := format('ALTER TABLE %s ADD CONSTRAINT %I %s%s', of_table, item ->> 'name', item ->> 'definition',
            CASE WHEN NOT never_valid THEN ' NOT VALID' END);
        RETURN NEXT;
        IF never_valid THEN
            CONTINUE;
        END IF;
        -- The constraint keeps new violations out; those that are there are rows whose user or entity has gone meanwhile. They go, or
        -- lose what is gone, as they would have in the table.
        step := format('rows that violate foreign key %I', item ->> 'name');
        removes_rows := item ->> 'on_delete' NOT IN ('n', 'd');
        SELECT format(CASE WHEN removes_rows THEN 'DELETE FROM ONLY %1$s t' ELSE 'UPDATE ONLY %1$s t SET ' || string_agg(
                    format('%I = %s', c ->> 0, CASE item ->> 'on_delete' WHEN 'n' THEN 'NULL' ELSE 'DEFAULT' END), ', ')
                    FILTER (WHERE coalesce(item -> 'on_delete_columns' ? (c ->> 0), true)) END
                || ' WHERE %2$s AND NOT EXISTS (SELECT FROM %3$s r WHERE %4$s)' || CASE WHEN removes_rows THEN ' RETURNING %5$s' ELSE '' END,
                of_table, string_agg(format('t.%I IS NOT NULL', c ->> 0), ' AND '), item ->> 'references',
                string_agg(format('r.%I = t.%I', c ->> 1, c ->> 0), ' AND '), (reactions._archived_columns(of_table)).list)
            INTO statement FROM jsonb_array_elements(item -> 'columns') c;
        RETURN NEXT;
        step := format('validation of foreign key %I', item ->> 'name');
        removes_rows := false;
        statement := format('ALTER TABLE %s VALIDATE CONSTRAINT %I', of_table, item ->> 'name');
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _restore_steps(jsonb, regclass) IS
    'statements that give a loaded table its constraints and indexes, each for a transaction of its own; some remove rows and return them';

CREATE FUNCTION _restore_grant(privilege jsonb, on_columns text, on_object text) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF privilege ? 'grantee' AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = privilege ->> 'grantee') THEN
        RETURN NEXT format('role "%s" does not exist: %s on %s is not granted', privilege ->> 'grantee', privilege ->> 'privilege', on_object);
        RETURN;
    END IF;
    EXECUTE format('GRANT %s%s ON %s TO %s%s', privilege ->> 'privilege', on_columns, on_object,
        coalesce(quote_ident(privilege ->> 'grantee'), 'PUBLIC'),
        CASE WHEN (privilege ->> 'grantable')::boolean AND privilege ? 'grantee' THEN ' WITH GRANT OPTION' END);
END
$$;
COMMENT ON FUNCTION _restore_grant(jsonb, text, text) IS 'grants what an archived access control list says, or returns why not';

CREATE FUNCTION _restore_properties(description jsonb, of_table regclass) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item jsonb;
    former constant text := format('%I.%I', description ->> 'schema', description ->> 'name');
BEGIN
    FOR item IN SELECT * FROM jsonb_array_elements(description -> 'sequences') LOOP
        PERFORM setval(format('%I.%I', item ->> 'schema', item ->> 'name')::regclass, (item ->> 'last_value')::bigint, (item ->> 'is_called')::boolean);
        EXECUTE format('COMMENT ON SEQUENCE %I.%I IS %L', item ->> 'schema', item ->> 'name', item ->> 'comment');
        EXECUTE format('REVOKE ALL ON SEQUENCE %I.%I FROM CURRENT_USER', item ->> 'schema', item ->> 'name');
        RETURN QUERY SELECT g.* FROM jsonb_array_elements(item -> 'grants') p,
            reactions._restore_grant(p, '', format('SEQUENCE %I.%I', item ->> 'schema', item ->> 'name')) g;
    END LOOP;
    FOR item IN SELECT * FROM jsonb_array_elements(description -> 'columns') LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', of_table, item ->> 'name', item ->> 'comment');
    END LOOP;
    FOR item IN SELECT * FROM jsonb_array_elements(description -> 'constraints') LOOP
        EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', item ->> 'name', of_table, item ->> 'comment');
    END LOOP;
    FOR item IN SELECT i || jsonb_build_object('is_index', true) FROM jsonb_array_elements(description -> 'indexes') i
        UNION ALL SELECT * FROM jsonb_array_elements(description -> 'constraints')
    LOOP
        IF item ? 'is_index' THEN
            EXECUTE format('COMMENT ON INDEX %I.%I IS %L', description ->> 'schema', item ->> 'name', item ->> 'comment');
        END IF;
        IF item ? 'clustered' THEN
            EXECUTE format('ALTER TABLE %s CLUSTER ON %I', of_table, item ->> 'name');
        END IF;
        IF item ? 'replica_identity' THEN
            EXECUTE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', of_table, item ->> 'name');
        END IF;
    END LOOP;
    IF description ? 'replica_identity' THEN
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY %s', of_table, CASE description ->> 'replica_identity' WHEN 'n' THEN 'NOTHING' ELSE 'FULL' END);
    END IF;
    FOR item IN SELECT * FROM jsonb_array_elements(description -> 'triggers') LOOP
        EXECUTE replace(item ->> 'definition', format(' ON %s ', former), format(' ON %s ', of_table));
        EXECUTE format('COMMENT ON TRIGGER %I ON %s IS %L', item ->> 'name', of_table, item ->> 'comment');
        EXECUTE format('ALTER TABLE %s %s TRIGGER %I', of_table, CASE item ->> 'enabled' WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
            WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END, item ->> 'name');
    END LOOP;
    EXECUTE format('COMMENT ON TABLE %s IS %L', of_table, description ->> 'comment');
    EXECUTE format('REVOKE ALL ON %s FROM CURRENT_USER', of_table);
    RETURN QUERY SELECT g.* FROM jsonb_array_elements(description -> 'grants') p, reactions._restore_grant(p, '', format('TABLE %s', of_table)) g;
    RETURN QUERY SELECT g.* FROM jsonb_array_elements(description -> 'columns') c, jsonb_array_elements(c -> 'grants') p,
        reactions._restore_grant(p, format(' (%I)', c ->> 'name'), format('TABLE %s', of_table)) g;
    -- Last: it takes the right to do the rest.
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = description ->> 'owner') THEN
        EXECUTE format('ALTER TABLE %s OWNER TO %I', of_table, description ->> 'owner');
    ELSE
        RETURN NEXT format('role "%s" does not exist: table %s belongs to %s', description ->> 'owner', of_table, current_user);
    END IF;
END
$$;
COMMENT ON FUNCTION _restore_properties(jsonb, regclass) IS
    'gives a restored table its sequence values, comments, triggers, privileges and owner; returns what could not be given';

CREATE FUNCTION _rehearse_restore(description jsonb, of_table regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms'
AS $$
DECLARE
    found record;
    step text;
    is_complete boolean := false;
    state text;
    problem text;
BEGIN
    -- It locks every table that it refers to at once, so it waits for none of them long, and tries again.
    FOR attempt IN 1..20 LOOP
        BEGIN
            FOR found IN SELECT s.step, s.statement FROM reactions._restore_steps(description, of_table) s LOOP
                step := found.step;
                EXECUTE found.statement;
            END LOOP;
            step := 'triggers, comments and privileges';
            PERFORM reactions._restore_properties(description, of_table);
            is_complete := true;
            -- Taken back: rows are loaded without.
            RAISE SQLSTATE 'P0001';
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, problem = MESSAGE_TEXT;
        END;
        EXIT WHEN state <> '55P03';
        PERFORM pg_sleep(0.2);
    END LOOP;
    IF NOT is_complete THEN
        RAISE EXCEPTION USING ERRCODE = state,
            MESSAGE = format('table %s cannot be what it was: %s', of_table, step),
            DETAIL = format('%s.', problem),
            HINT = CASE state WHEN '55P03' THEN 'A table that it refers to is written to without a gap: try again when there is less to do. Nothing was loaded.'
                ELSE 'Something that it needs was renamed or dropped since it was archived, or a name is taken that it had. Give that its former '
                'name back, or make it again. After the restore it may be renamed: foreign keys and triggers follow. Nothing was loaded.' END;
    END IF;
END
$$;
COMMENT ON FUNCTION _rehearse_restore(jsonb, regclass) IS
    'gives a table without rows all that an archive says it had, and takes it back: what cannot be given is found before the load';

CREATE FUNCTION _attach_restored(entity_type text, of_table regclass, table_name text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    of_type constant reactions.entity_type := (SELECT t FROM reactions.entity_type t WHERE t.entity_type = $1);
BEGIN
    PERFORM reactions._fence_out(of_table);
    IF table_name <> (SELECT c.relname FROM pg_class c WHERE c.oid = of_table) THEN
        EXECUTE format('ALTER TABLE %s RENAME TO %I', of_table, table_name);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = of_table AND g.tgname LIKE 'reactions\_capture\_%') THEN
        -- Who was forgotten while the files were read: whoever forgets takes the fence as well.
        EXECUTE format('DELETE FROM ONLY %s r USING reactions.forgotten_user f WHERE f.user_id = r.%I AND f.version > $1',
            of_table, of_type.user_column) USING of_type.stop_version;
        PERFORM reactions._create_capture(of_table);
    END IF;
    UPDATE reactions.entity_type t SET legacy_table = of_table WHERE t.entity_type = $1 AND t.phase = 'archived';
    IF NOT FOUND THEN
        PERFORM reactions._refuse(format('entity type "%s" is no longer in phase archived', $1),
            'Somebody else has changed it; reactions.status() tells the phase.', 'serialization_failure');
    END IF;
    PERFORM reactions._note_capture(of_table);
END
$$;
COMMENT ON FUNCTION _attach_restored(text, regclass, text) IS
    'makes a restored table, frozen, the table of its archived type; prepare_stop_writes and a flip follow';
