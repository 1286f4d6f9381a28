# What pg_stat_statements has seen of an attached table is told before the table is frozen.
# shellcheck shell=bash
. "$(dirname -- "$0")/common.sh"

init server
echo "shared_preload_libraries = 'pg_reactions, pg_stat_statements'" >>server/postgresql.conf
echo "pg_stat_statements.track = all" >>server/postgresql.conf
start server
statements="SELECT actual, ok FROM reactions.readiness('Photo') WHERE condition = 'statements'"
sql server "
    CREATE EXTENSION pg_reactions;
    CREATE TABLE person (id bigint PRIMARY KEY);
    CREATE TABLE \"Reaction\" (u bigint REFERENCES person ON DELETE CASCADE, i bigint, k text, PRIMARY KEY (u, i, k));
    INSERT INTO person VALUES (1);
    SELECT reactions.attach('\"Reaction\"', 'Photo', 'u', 'i', 'k')" >/dev/null
sql server "SELECT reactions.react(1, 2, 'Like', 'Photo')" >/dev/null
for _ in dual_read switch_reads; do sql server "CALL reactions.advance('Photo', true)"; done
expect "without pg_stat_statements nothing is known" "none|t" "$(sql server "$statements")"

sql server "CREATE SCHEMA monitoring; CREATE EXTENSION pg_stat_statements SCHEMA monitoring"
sql server "SELECT reactions.react(1, 1, 'Like', 'Photo')" >/dev/null
sql server "DELETE FROM person WHERE id = 1"
expect "the functions and foreign keys do not count" "none|t" "$(sql server "$statements")"

for user in 1 2; do sql server "SELECT count(*) FROM \"Reaction\" WHERE u = $user" >/dev/null; done
sql server "INSERT INTO person VALUES (2)"
sql server "INSERT INTO \"Reaction\" VALUES (2, 2,   'Like')"
sql server "SELECT 1 AS reactions_of_nobody" >/dev/null
expect "the application's own do, the most frequent first" \
    'SELECT count(*) FROM "Reaction" WHERE u = $1, INSERT INTO "Reaction" VALUES ($1, $2, $3)|f' "$(sql server "$statements")"
sql server "SELECT reactions.configure('Photo', acknowledged => '{statements}')" >/dev/null
expect "acknowledged" "t" "$(sql server "SELECT ok FROM reactions.readiness('Photo') WHERE condition = 'statements'")"
sql server "CREATE ROLE somebody; GRANT reactions_admin TO somebody" >/dev/null
expect "what may not be read is no error" "t" \
    "$(sql server "SET ROLE somebody; SELECT count(*) > 0 FROM reactions.readiness('Photo')" | tail -n 1)"
