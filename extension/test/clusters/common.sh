# Sourced by the tests of this directory, which bash runs with the arguments BINDIR WORKDIR: PostgreSQL clusters on sockets of their own, and expectations.
# shellcheck shell=bash
set -euo pipefail
[ "$#" = 2 ] || { echo "usage: ${0##*/} BINDIR WORKDIR" >&2; exit 64; }
bin=$1 work=$2
cd "$work"
export PGDATABASE=postgres PGUSER=postgres PGPORT=5432

clusters=()
failed=0

# Stops what runs; the exit status says whether an expectation failed.
finish() {
    local status=$? cluster
    for cluster in "${clusters[@]}"; do
        "$bin/pg_ctl" --pgdata="$cluster" --mode=immediate --silent stop >/dev/null 2>&1 || true
    done
    [ "$status" = 0 ] || echo "not ok - ${0##*/} ran to its end"
    [ "$failed" = 0 ] || status=1
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a command and shows what it says only if it fails.
quietly() {
    "$@" >command.log 2>&1 || {
        local status=$?
        cat command.log
        return "$status"
    }
}

init() {
    quietly "$bin/initdb" --pgdata="$1" --username=postgres --auth=trust --no-sync --encoding=UTF8 --locale=C
    printf '%s\n' "listen_addresses = ''" "fsync = off" "max_prepared_transactions = 5" "shared_preload_libraries = 'pg_reactions'" \
        >>"$1/postgresql.conf"
}

# The socket's directory is the data directory.
start() {
    clusters+=("$work/$1")
    quietly "$bin/pg_ctl" --pgdata="$1" --log="$1.log" --options="-k $work/$1" --wait start
}

stop() {
    quietly "$bin/pg_ctl" --pgdata="$1" --mode=fast --wait stop
}

# sql CLUSTER [DATABASE] STATEMENT
sql() {
    local cluster=$1
    shift
    local database=postgres
    [ "$#" = 1 ] || { database=$1; shift; }
    PGHOST=$work/$cluster "$bin/psql" -XqAt -v ON_ERROR_STOP=1 -d "$database" -c "$1" 2>&1
}

# expect WHAT EXPECTED FOUND
expect() {
    if [ "$2" = "$3" ]; then
        echo "ok - $1"
    else
        echo "not ok - $1"
        printf 'expected: %s\nfound:    %s\n' "$2" "$3" | sed 's/^/    /'
        failed=1
    fi
}
