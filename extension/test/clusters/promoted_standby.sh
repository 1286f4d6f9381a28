# A standby serves reads, refuses changes, and raises the generation with its first event after promotion. A restart
# raises nothing.
# shellcheck shell=bash
. "$(dirname -- "$0")/common.sh"

generation="SELECT max(version) >> 44 FROM reactions._outbox"
count="SELECT count(*) FROM reactions._outbox"

init primary
start primary
sql primary "
    CREATE EXTENSION pg_reactions;
    SELECT reactions.add_entity_type('Image');
    CREATE TABLE reaction (u bigint, i bigint, k text, PRIMARY KEY (u, i, k));
    SELECT reactions.attach('reaction', 'Photo', 'u', 'i', 'k');
    SELECT reactions.set_flags(1, 1, 1);
    INSERT INTO reaction VALUES (1, 1, 'Like');
    CREATE TABLE person (id bigint PRIMARY KEY);
    INSERT INTO person VALUES (1);
    CREATE TABLE frozen (u bigint REFERENCES person ON DELETE CASCADE, i bigint, k text, PRIMARY KEY (u, i, k));
    SELECT reactions.attach('frozen', 'Frozen', 'u', 'i', 'k', phase => 'switch_reads')" >/dev/null
sql primary "CALL reactions.advance('Frozen', true)"

for standby in one two; do
    PGHOST=$work/primary.socket quietly "$bin/pg_basebackup" --pgdata="$standby" --write-recovery-conf --checkpoint=fast \
        --wal-method=stream --no-sync
done
start one
start two
sql primary "SELECT reactions.set_flags(2, 2, 1)" >/dev/null
first=$(sql primary "$generation")
end=$(sql primary "SELECT pg_current_wal_lsn()")
caught_up() {
    for _ in $(seq 1200); do
        [ "$(sql "$1" "SELECT pg_last_wal_replay_lsn() >= '$end'::pg_lsn")" = f ] || return 0
        sleep 0.05
    done
    return 1
}
caught_up one
caught_up two

expect "a standby reads the attached table" "1" "$(sql one "SELECT reactions.flags(1, 1, 'Photo')")"
expect "a standby has the outbox" "3" "$(sql one "$count")"
expect "a standby refuses to change" "ERROR:  cannot execute reactions.react() in a read-only transaction" \
    "$(sql one "SELECT reactions.react(3, 3, 'Like')" || true)"
expect "a standby has the primary's timeline" "$(sql primary "SELECT * FROM reactions._cluster()")" \
    "$(sql one "SELECT * FROM reactions._cluster()")"

stop primary
quietly "$bin/pg_ctl" --pgdata=one --wait promote
sql one "SELECT reactions.set_flags(3, 3, 1)" >/dev/null
second=$(sql one "$generation")
expect "the first event after a promotion has the next generation" "$((first + 1))" "$second"
expect "the generations are on record" "$first|1 $second|2" \
    "$(sql one "SELECT generation, timeline FROM reactions._generation ORDER BY 1" | xargs)"
sql one "INSERT INTO reaction VALUES (3, 3, 'Heart')"
expect "capture uses it, too" "$second" "$(sql one "$generation")"
expect "a frozen table is frozen on the new primary" \
    'ERROR:  cannot insert into table "frozen": the reactions of entity type "Frozen" are no longer written to it' \
    "$(sql one "INSERT INTO frozen VALUES (1, 1, 'Like')" | head -n 1 || true)"
sql one "SELECT reactions.react(1, 1, 'Like', 'Frozen')" >/dev/null
sql one "DELETE FROM person WHERE id = 1"
expect "its reactions go on above the version at which it was frozen" "r|t u|t" "$(sql one "
    SELECT o.scope, o.version > t.stop_version FROM reactions._outbox o JOIN reactions.entity_type t USING (type_id)
    WHERE t.entity_type = 'Frozen' ORDER BY o.version" | xargs)"
stop one
start one
sql one "SELECT reactions.set_flags(4, 4, 1)" >/dev/null
expect "a restart does not raise it" "$second" "$(sql one "$generation")"

# The old primary, started once more by mistake, and the standby that was left: each on its own history.
start primary
sql primary "SELECT reactions.set_flags(3, 3, 2)" >/dev/null
expect "the old primary goes on with the old generation" "$first" "$(sql primary "$generation")"
stop primary

# A second failover after the first.
quietly "$bin/pg_ctl" --pgdata=one --mode=immediate stop
start one
PGHOST=$work/one.socket quietly "$bin/pg_basebackup" --pgdata=three --write-recovery-conf --checkpoint=fast \
    --wal-method=stream --no-sync
start three
stop one
quietly "$bin/pg_ctl" --pgdata=three --wait promote
sql three "SELECT reactions.set_flags(5, 5, 1)" >/dev/null
expect "every failover raises it" "$((second + 1))" "$(sql three "$generation")"
expect "versions never went back" "t" "$(sql three "
    SELECT bool_and(version > before) IS NOT FALSE
    FROM (SELECT version, lag(version) OVER (ORDER BY xid, version) AS before FROM reactions._outbox) v")"
