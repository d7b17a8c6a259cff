#!/usr/bin/env bash
# Builds the daemon and the load harness, then measures: run.sh [--quick] [--out FILE] [--peers LIST]
# and whatever else `load run --help` lists. Exit status: 0 all bounds hold, 1 one is broken,
# 2 it could not be measured. It measures the build for packages (profile dist); PROFILE=release is quicker to build.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
profile=${PROFILE:-dist}

peers=direct,nginx,imageworks
previous=
for argument in "$@"; do
    case $argument in --peers=*) peers=${argument#--peers=} ;; esac
    if [ "$previous" = --peers ]; then peers=$argument; fi
    previous=$argument
done

options=()
case ,$peers, in *,nginx,*)
    PATH=$PATH:/usr/sbin
    if ! command -v nginx >/dev/null; then
        if [ "$(id -u)" != 0 ]; then
            echo 'run.sh: nginx is missing: sudo apt-get install nginx-light' >&2
            exit 2
        fi
        apt-get install -y --no-install-recommends nginx-light >&2 || exit 2
    fi
    options+=(--nginx "$(command -v nginx)")
    ;;
esac
case ,$peers, in *,imageworks,*)
    cargo build --manifest-path "$root/Cargo.toml" --profile "$profile" || exit 2
    options+=(--daemon "$target/$profile/imageworks-chat-proxy")
    ;;
esac

cargo build --manifest-path "$root/Cargo.toml" --release -p load || exit 2
exec "$target/release/load" run "${options[@]}" "$@"
