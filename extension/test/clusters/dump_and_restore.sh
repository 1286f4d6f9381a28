# A dump takes configuration, outbox and generations along, and not the mirror's progress; where it is restored,
# versions go on above.
# shellcheck shell=bash
. "$(dirname -- "$0")/common.sh"

configuration="SELECT entity_type, mode, phase, legacy_table, kinds, epoch, backfilled FROM reactions.status()"
outbox="SELECT version, xid, user_id, entity_id, set_mask, clear_mask, type_id, scope, delta_known
    FROM reactions._outbox ORDER BY version"
log="SELECT entity_type, from_phase, to_phase FROM reactions.phase_log ORDER BY phase_log_id"
highest="SELECT max(version) FROM reactions._outbox"

# The checks of a restored database: cluster, database, what it is.
check_restored() {
    local cluster=$1 database=$2 what=$3 before
    here() { sql "$cluster" "$database" "$1"; }

    expect "$what has the entity types" "$(sql old app "$configuration")" "$(here "$configuration")"
    expect "$what has the outbox" "$(sql old app "$outbox")" "$(here "$outbox")"
    expect "$what has the log of phases" "$(sql old app "$log")" "$(here "$log")"
    expect "$what has the skipped and the parked" "1|1" \
        "$(here "SELECT (SELECT count(*) FROM reactions._skipped), (SELECT count(*) FROM reactions.parked_event)")"
    [ "$database" = clone ] || expect "$what has no progress of the mirror" "0|0" \
        "$(here "SELECT (SELECT count(*) FROM reactions._batch), (SELECT count(*) FROM reactions._mirror)")"
    expect "$what has the rows of the attached table" "3" "$(here "SELECT count(*) FROM shop.reaction")"

    before=$(here "$highest")
    here "SELECT reactions.set_flags(9, 9, 1)" >/dev/null
    expect "$what: the next event has a higher generation and version" "t|t" "$(here \
        "SELECT max(version) > $before, max(version) >> 44 > $before >> 44 FROM reactions._outbox")"
    here "INSERT INTO shop.reaction VALUES (9, 9, 'Cry')"
    expect "$what: the attached table is captured" "8" \
        "$(here "SELECT set_mask FROM reactions._outbox ORDER BY version DESC LIMIT 1")"
    expect "$what: its reactions are read" "8" "$(here "SELECT reactions.flags(9, 9, 'Photo')")"
    expect "$what: the frozen table has its stop version, below the next event's" "t|f" "$(here \
        "SELECT stop_version < (SELECT max(version) FROM reactions._outbox), EXISTS (SELECT FROM reactions._missing_triggers(type_id))
         FROM reactions.entity_type WHERE entity_type = 'Frozen'")"
    expect "$what: the frozen table is refused" \
        'ERROR:  cannot delete from table "frozen": the reactions of entity type "Frozen" are no longer written to it' \
        "$(here "DELETE FROM shop.frozen" | head -n 1 || true)"
    # Of another number there, and of another name than when the triggers were made.
    here "DELETE FROM shop.person WHERE person_id = 2"
    expect "$what: a user that is deleted takes everything along" "u|2|0 r|2|1" "$(here \
        "SELECT scope, user_id, entity_id FROM reactions._outbox ORDER BY version DESC LIMIT 2" | sort -r | xargs)"
    expect "$what: another type can be added" "" \
        "$(here "SELECT reactions.add_entity_type('Post', 'exclusive')")"
}

init old
start old
sql old "CREATE DATABASE app"
sql old app "
    CREATE EXTENSION pg_reactions;
    SELECT reactions.add_entity_type('Image');
    SELECT reactions.add_kind('Image', 'Sad');
    SELECT reactions.set_flags(u, 1, 17) FROM generate_series(1, 3) u;
    CREATE SCHEMA shop;
    CREATE TYPE shop.kind AS ENUM ('Like', 'Heart', 'Laugh', 'Cry', 'Dislike');
    CREATE TABLE shop.reaction (u integer, i integer, k shop.kind, PRIMARY KEY (u, i, k));
    SELECT reactions.attach('shop.reaction', 'Photo', 'u', 'i', 'k', unknown_kinds => 'skip');
    INSERT INTO shop.reaction VALUES (1, 1, 'Like'), (1, 1, 'Heart'), (2, 1, 'Dislike');
    CREATE TABLE shop.person (dropped bigint DEFAULT 3, id bigint PRIMARY KEY, other bigint DEFAULT 3);
    ALTER TABLE shop.person DROP dropped;
    INSERT INTO shop.person (id) SELECT generate_series(1, 3);
    CREATE TABLE shop.frozen (u bigint REFERENCES shop.person ON DELETE CASCADE, i bigint, k text, PRIMARY KEY (u, i, k));
    SELECT reactions.attach('shop.frozen', 'Frozen', 'u', 'i', 'k', phase => 'switch_reads');
    INSERT INTO shop.frozen VALUES (1, 1, 'Like'), (2, 1, 'Like');
    SELECT reactions.raise_epoch('Photo');
    INSERT INTO reactions._mirror (current_outbox, floor) VALUES (1, 1);
    SELECT reactions.react(4, 1, 'Like');
    INSERT INTO reactions._batch (batch, snapshot, sequence_seen, chunk_events, events, checksum)
        VALUES (1, pg_current_snapshot(), 1, 1, 1, 1);
    INSERT INTO reactions.parked_event (version, batch, user_id, entity_id, created_at, written_at, set_mask, clear_mask, type_id,
        scope, delta_known, error_code, error) VALUES (1, 1, 1, 1, now(), now(), 1, 0, 1, 'r', true, 6, 'refused')" >/dev/null

sql old app "CALL reactions.advance('Frozen', true)"
sql old app "ALTER TABLE shop.person RENAME id TO person_id"
sql old app "SELECT reactions.react(3, 1, 'Like', 'Frozen')" >/dev/null

for format in plain custom; do
    init "$format"
    start "$format"
    sql "$format" "CREATE DATABASE app"
    PGHOST=$work/old.socket quietly "$bin/pg_dump" --format="$format" --file="$format.dump" app
    if [ "$format" = plain ]; then
        PGHOST=$work/$format.socket quietly "$bin/psql" -Xq -v ON_ERROR_STOP=1 -d app -f "$format.dump"
    else
        PGHOST=$work/$format.socket quietly "$bin/pg_restore" --exit-on-error --dbname=app --jobs=2 "$format.dump"
    fi
    check_restored "$format" app "a new cluster ($format dump)"
    stop "$format"
done

# In the same cluster, beside the original: neither may draw the other's versions.
sql old "CREATE DATABASE copy"
PGHOST=$work/old.socket quietly "$bin/pg_restore" --exit-on-error --dbname=copy custom.dump
check_restored old copy "another database of the cluster"
sql old "CREATE DATABASE clone TEMPLATE app"
check_restored old clone "a clone of the database"

# Over itself, as an operator does who goes back to a dump.
before=$(sql old app "$highest")
PGHOST=$work/old.socket quietly "$bin/pg_restore" --exit-on-error --clean --dbname=app custom.dump
sql old app "SELECT reactions.set_flags(9, 9, 1)" >/dev/null
expect "restored over itself: the next event has a higher version" "t" \
    "$(sql old app "SELECT max(version) > $before FROM reactions._outbox")"

# Schema without data, as for a test system.
sql old "CREATE DATABASE empty"
PGHOST=$work/old.socket quietly "$bin/pg_dump" --schema-only --file=schema.dump app
PGHOST=$work/old.socket quietly "$bin/psql" -Xq -v ON_ERROR_STOP=1 -d empty -f schema.dump
expect "a dump of the schema alone has the extension" "1" \
    "$(sql old empty "SELECT count(*) FROM pg_extension WHERE extname = 'pg_reactions'")"
