#!/usr/bin/env bash
# Builds the daemon and the load harness, then measures and judges:
#   run.sh [--quick] [--out FILE] [--peers LIST] ...   the tables, then the swaps (`load run --help`, `load swaps --help`)
#   run.sh growth [--minutes N]                        a steady load for an hour (`load growth --help`)
# Exit status: 0 all bounds hold, 1 one is broken, 2 it could not be measured. It measures the build for
# packages (profile dist); PROFILE=release is quicker to build, DAEMON=FILE measures that program.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
profile=${PROFILE:-dist}
daemon=${DAEMON:-$target/$profile/imageworks-chat-proxy}
load=$target/release/load

build_daemon() {
    if [ -z "${DAEMON:-}" ]; then
        cargo build --manifest-path "$root/Cargo.toml" --locked --profile "$profile" || exit 2
    fi
}

build_load() {
    cargo build --manifest-path "$root/Cargo.toml" --locked --release -p load || exit 2
}

if [ "${1:-}" = growth ]; then
    shift
    build_daemon
    build_load
    exec "$load" growth --daemon "$daemon" "$@"
fi

peers=direct,nginx,imageworks
out=
swaps=(swaps --daemon "$daemon")
previous=
for argument in "$@"; do
    case $previous in
    --peers) peers=$argument ;;
    --out) out=$argument ;;
    esac
    case $argument in
    --peers=*) peers=${argument#--peers=} ;;
    --out=*) out=${argument#--out=} ;;
    --quick) swaps+=(--swaps 6) ;;
    esac
    previous=$argument
done

# Those that Debian has; of the others the README says where they come from.
PATH=$PATH:/usr/sbin
for program in nginx haproxy; do
    case ,$peers, in *,$program,*) ;; *) continue ;; esac
    if command -v "$program" >/dev/null; then continue; fi
    package=$program
    if [ "$program" = nginx ]; then package=nginx-light; fi
    if [ "$(id -u)" != 0 ]; then
        echo "run.sh: $program is missing and will be left out: sudo apt-get install $package" >&2
    else
        apt-get install -y --no-install-recommends "$package" >&2 ||
            echo "run.sh: $program could not be installed and will be left out" >&2
    fi
done

options=()
case ,$peers, in *,imageworks,*)
    build_daemon
    options+=(--daemon "$daemon")
    ;;
esac
build_load

status=0
"$load" run "${options[@]}" "$@" || status=$?
if [ "$status" -gt 1 ] || [ ${#options[@]} = 0 ]; then exit "$status"; fi

echo
swapped=0
if [ -n "$out" ]; then
    echo >>"$out"
    "$load" "${swaps[@]}" | tee -a "$out" || swapped=$?
else
    "$load" "${swaps[@]}" || swapped=$?
fi
if [ "$swapped" -gt "$status" ]; then status=$swapped; fi
exit "$status"
