-- What CREATE EXTENSION makes, who may run it, and that DROP EXTENSION leaves nothing.
\set SHOW_CONTEXT never

-- Every object has a comment.
SELECT pg_describe_object(d.classid, d.objid, 0) AS without_comment
FROM pg_depend d
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_reactions')
    AND d.classid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_namespace'::regclass)
    AND obj_description(d.objid, d.classid::regclass::name) IS NULL
ORDER BY 1;
SELECT obj_description((SELECT oid FROM pg_extension WHERE extname = 'pg_reactions'), 'pg_extension');

-- Every table has a primary key: publications FOR ALL TABLES would refuse their updates.
SELECT c.relname AS without_primary_key FROM pg_class c
WHERE c.relnamespace = 'reactions'::regnamespace AND c.relkind = 'r'
    AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary);

-- Nothing is granted to PUBLIC.
SELECT p.oid::regprocedure AS granted_to_public FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
WHERE p.pronamespace = 'reactions'::regnamespace AND a.grantee = 0;
SELECT c.relname AS granted_to_public FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'reactions'::regnamespace AND a.grantee = 0;
SELECT n.nspname AS granted_to_public FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = 'reactions' AND a.grantee = 0;

-- Functions: language, volatility, strictness, parallel safety; those in SQL and PL/pgSQL pin their search_path.
SELECT p.oid::regprocedure AS function, l.lanname AS language, p.provolatile AS volatile, p.proisstrict AS strict,
    p.proparallel AS parallel, p.prosecdef AS definer
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = 'reactions'::regnamespace
ORDER BY p.proname COLLATE "C", 1;
-- A procedure that commits cannot; it qualifies every name.
SELECT p.oid::regprocedure AS without_search_path
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = 'reactions'::regnamespace AND l.lanname <> 'c' AND p.prokind <> 'p'
    AND coalesce(p.proconfig[1], '') <> 'search_path=pg_catalog, pg_temp';

SELECT rolname, rolcanlogin, rolsuper, rolinherit FROM pg_roles WHERE rolname LIKE 'reactions\_%' ORDER BY 1;

-- It is for superusers.
CREATE DATABASE install_test;
CREATE ROLE regress_dba LOGIN CREATEDB CREATEROLE;
GRANT ALL ON DATABASE install_test TO regress_dba;
\c install_test regress_dba
CREATE EXTENSION pg_reactions;
\c - postgres

-- Away with it, and again, in one session and in another.
CREATE EXTENSION pg_reactions;
-- The script inserts no rows: a restored dump would collide with them.
SELECT (SELECT count(*) FROM reactions.entity_type) + (SELECT count(*) FROM reactions._mirror) + (SELECT count(*) FROM reactions._generation);
SELECT reactions.add_entity_type('Image');
SELECT reactions.react(1, 1, 'Like');
DROP EXTENSION pg_reactions;
SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = n.oid), (SELECT count(*) FROM pg_proc WHERE pronamespace = n.oid)
FROM pg_namespace n WHERE nspname = 'reactions';
CREATE EXTENSION pg_reactions;
SELECT reactions.add_entity_type('Image');
SELECT reactions.react(1, 1, 'Like');
\c -
SELECT reactions.react(1, 2, 'Like');
SELECT user_id, entity_id, set_mask, clear_mask FROM reactions._outbox ORDER BY version;
DROP EXTENSION pg_reactions;
SELECT reactions.react(1, 1, 'Like');
CREATE EXTENSION pg_reactions;
SELECT reactions.add_entity_type('Image');
SELECT reactions.react(1, 3, 'Like');

-- An attached table keeps its triggers from losing the extension unseen.
CREATE TABLE reaction (user_id bigint, image_id bigint, kind text, PRIMARY KEY (user_id, image_id, kind));
SELECT reactions.attach('reaction', 'Photo', 'user_id', 'image_id', 'kind');
DROP EXTENSION pg_reactions;
SELECT reactions.detach('Photo');
DROP EXTENSION pg_reactions;
INSERT INTO reaction VALUES (1, 1, 'Like');

\c regression
DROP DATABASE install_test;
DROP ROLE regress_dba;
