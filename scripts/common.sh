# Sourced by the other scripts: where things are, and how to say what happens.
# shellcheck shell=bash disable=SC2034

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# .run leads to a directory under /var/tmp, never into the checkout: a Unix socket's path may have 107 bytes at most, and the
# user that PostgreSQL runs as cannot enter a checkout below /root.
run_link=$root/.run

say() { printf '%s\n' "$*"; }
step() { printf '\n==> %s\n' "$*"; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "\"$*\" needs root, and there is no sudo"
    fi
}

pg_config=${PG_CONFIG:-pg_config}

# A program of the PostgreSQL that pg_config describes.
pg_bin() { printf '%s/%s' "$("$pg_config" --bindir)" "$1"; }
