# Sourced by up and down: private servers, each in its own session, with a pid file, a log and a working directory below $run.
# shellcheck shell=bash
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

ready_within=60   # seconds that a server may take to answer

# Where the servers live, made at first use.
make_run_directory() {
    if ! [ -d "$run_link/" ]; then
        ln -sfn "$(mktemp -d /var/tmp/pg_reactions.XXXXXX)" "$run_link"
        chmod 755 "$run_link/"
    fi
    run=$(readlink -f "$run_link")
}

find_run_directory() {
    [ -d "$run_link/" ] || return 1
    run=$(readlink -f "$run_link")
}

# A directory that servers may write in.
server_directory() {
    mkdir -p "$run/$1"
    [ "$(id -u)" != 0 ] || chown postgres: "$run/$1"
}

# The pid of the server `name`, if it runs and is ours: a process that works in our directory.
pid_of() {
    local pid
    pid=$(cat "$run/$1.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    case $(readlink "/proc/$pid/cwd" 2>/dev/null) in
        "$run" | "$run"/*) printf '%s' "$pid" ;;
        *) return 1 ;;
    esac
}

# Starts a command as server `name`, working in $run/name.
spawn() {
    local name=$1
    shift
    (
        cd "$run/$name" || exit
        exec setsid "$@" </dev/null >>"$run/$name.log" 2>&1
    ) &
    echo $! >"$run/$name.pid"
}

# Waits until the command succeeds; says what the log says if the server ends or does not become ready.
wait_ready() {
    local name=$1 deadline=$((SECONDS + ready_within))
    shift
    until "$@" >/dev/null 2>&1; do
        pid_of "$name" >/dev/null || fail_with_log "$name" "did not start"
        ((SECONDS < deadline)) || fail_with_log "$name" "was not ready within $ready_within seconds"
        sleep 0.1
    done
}

fail_with_log() {
    {
        echo "$1 $2. The end of $run/$1.log:"
        tail -n 25 "$run/$1.log" | sed 's/^/    /'
    } >&2
    exit 1
}

# Ends the server `name` by the signal, if it runs, and waits.
stop() {
    local name=$1 signal=$2 pid deadline=$((SECONDS + ready_within))
    if pid=$(pid_of "$name"); then
        say "stopping $name"
        kill -s "$signal" "$pid"
        while pid_of "$name" >/dev/null; do
            ((SECONDS < deadline)) || die "$name (pid $pid) did not stop within $ready_within seconds; see $run/$name.log"
            sleep 0.1
        done
    fi
    rm -f "$run/$name.pid"
}

# A port of the loopback interface that nobody listens on, from below the range that the kernel gives to outgoing connections.
free_port() {
    local port
    while port=$((20000 + RANDOM % 12000)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    printf '%s' "$port"
}
