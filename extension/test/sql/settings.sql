-- Settings: unit, who may set them, limits.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
LOAD 'pg_reactions';
SELECT name, setting, unit, context, vartype, min_val, max_val, enumvals FROM pg_settings WHERE name LIKE 'reactions.%' ORDER BY name COLLATE "C";
SELECT name FROM pg_settings WHERE name LIKE 'reactions.%' AND short_desc !~ '\.$';


SET reactions.no_such_setting = 1;
SET reactions.on_unavailable = off;
SET reactions.commit_timeout = '1s';
SET reactions.redis_timeout = '2s';
SHOW reactions.redis_timeout;
SET reactions.redis_timeout = 0;
RESET reactions.redis_timeout;

-- Endpoints and limits are the superuser's.
CREATE ROLE regress_user;
SET ROLE regress_user;
\set VERBOSITY sqlstate
SET reactions.redis_url = 'redis://elsewhere';
SET reactions.clickhouse_url = 'http://elsewhere';
SET reactions.secrets_file = '/etc/shadow';
SET reactions.key_prefix = 'x';
SET reactions.max_keys_per_transaction = 1000000;
\set VERBOSITY default
SET reactions.on_unavailable = 'null';

-- Nor can they be set before the library is loaded.
\c -
SET ROLE regress_user;
SET reactions.redis_url = 'redis://elsewhere';
RESET ROLE;
LOAD 'pg_reactions';
SELECT current_setting('reactions.redis_url') = '';
DROP ROLE regress_user;

-- The file of secrets must be readable by the server alone, and what is in it is shown to nobody.
SELECT reactions.add_entity_type('Secret');
UPDATE reactions.entity_type SET phase = 'archived', stop_version = 0 WHERE entity_type = 'Secret';
COPY (SELECT 'redis_password=hush') TO PROGRAM 'umask 022 && rm -f reactions_secrets && cat > reactions_secrets';
SET reactions.secrets_file = 'reactions_secrets';
SELECT reactions.flags(1, 1, 'Secret');
SET reactions.on_unavailable = 'null';
SELECT reactions.flags(1, 1, 'Secret');
RESET reactions.on_unavailable;
COPY (SELECT '') TO PROGRAM 'chmod 600 reactions_secrets && cat > /dev/null';
SELECT reactions.flags(1, 1, 'Secret');
SELECT count(*) FROM pg_settings WHERE setting LIKE '%hush%';
SET reactions.secrets_file = 'no_such_file';
SELECT reactions.flags(1, 1, 'Secret');
SET reactions.secrets_file = '/';
\set VERBOSITY sqlstate
SELECT reactions.flags(1, 1, 'Secret');
COPY (SELECT '') TO PROGRAM 'rm reactions_secrets && cat > /dev/null';
