#!/usr/bin/env bash
# The daemon in front of a real llama.cpp server: run.sh [DAEMON]
#
# Makes or reuses a Python environment (the first time llama.cpp is compiled: about ten minutes, a C++
# compiler and Python's venv are needed), makes a tiny model, starts the engine and the daemon on free
# ports of 127.0.0.1, runs check.py, and stops what it started. Exit status: 0 all checks pass, 1 not,
# 2 something is missing. IMAGEWORKS_REAL_DIR moves the environment; KEEP=1 keeps the logs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
daemon=$(realpath -m "${1:-${CARGO_TARGET_DIR:-$root/target}/release/imageworks-chat-proxy}")
venv=${IMAGEWORKS_REAL_DIR:-$root/target/real}/llamacpp/venv
python=$venv/bin/python
version=0.3.36

if [ ! -x "$daemon" ]; then
    echo "run.sh: no daemon at $daemon: cargo build --release" >&2
    exit 2
fi

environment_is_ready() {
    [ -x "$python" ] && "$python" - "$version" <<'PYTHON' >/dev/null 2>&1
import importlib.metadata, sys
import gguf, llama_cpp.server.app, numpy, openai
sys.exit(importlib.metadata.version("llama-cpp-python") != sys.argv[1])
PYTHON
}

if ! environment_is_ready; then
    echo "making $venv (llama.cpp is compiled; this takes a while)" >&2
    mkdir -p "$(dirname "$venv")"
    python3 -m venv "$venv" || exit 2
    "$venv/bin/pip" install --quiet "llama-cpp-python[server]==$version" openai gguf numpy >&2 || exit 2
fi

work=$(mktemp -d)
pids=()

clean_up() {
    status=$?
    trap - EXIT
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do
        # An engine that is still busy gets ten seconds.
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [ "$status" != 0 ]; then
        for log in engine.log daemon.log chat.jsonl; do
            if [ -s "$work/$log" ]; then
                printf -- '--- %s\n' "$log" >&2
                tail -n 25 "$work/$log" >&2
            fi
        done
    fi
    if [ -n "${KEEP:-}" ]; then echo "logs: $work" >&2; else rm -rf "$work"; fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Waits until a command succeeds, while process $1 lives: until_ready PID WHAT COMMAND…
until_ready() {
    local pid=$1 what=$2
    shift 2
    for _ in $(seq 240); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        if ! kill -0 "$pid" 2>/dev/null; then
            echo "run.sh: $what ended before it was ready" >&2
            return 1
        fi
        sleep 0.25
    done
    echo "run.sh: $what was not ready within a minute" >&2
    return 1
}

"$python" "$here/make_model.py" "$work/tiny.gguf" "$work/chat.jinja"

port=$("$python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
PYTHONUNBUFFERED=1 "$python" -m llama_cpp.server --model "$work/tiny.gguf" --model_alias tiny-gguf \
    --n_ctx 512 --host 127.0.0.1 --port "$port" --verbose false >"$work/engine.log" 2>&1 &
engine=$!
pids+=("$engine")
until_ready "$engine" "the engine" curl -sf "http://127.0.0.1:$port/v1/models"

mkdir "$work/registry"
cat >"$work/chat_proxy.toml" <<TOML
[server]
host = "127.0.0.1"
port = 0
registry_dir = "$work/registry"
log_path = "$work/chat.jsonl"
TOML
cat >"$work/registry/model_registry.curated.json" <<JSON
[{"name": "tiny", "backend": "gguf", "chat_template": {"source": "embedded"}, "served_model_id": "tiny-gguf",
  "backend_config": {"host": "127.0.0.1", "port": $port},
  "chat_template": {"source": "external", "path": "$work/chat.jinja"}}]
JSON
(cd "$work" && CHAT_PROXY_CONFIG_FILE="$work/chat_proxy.toml" exec "$daemon" serve) \
    >"$work/daemon.out" 2>"$work/daemon.log" &
proxy=$!
pids=("$proxy" "${pids[@]}")
until_ready "$proxy" "the daemon" grep -q '^listening on http://' "$work/daemon.out"
url=$(sed -n 's/^listening on \(http:[^ ]*\).*/\1/p' "$work/daemon.out" | head -n 1)

"$python" "$here/check.py" --proxy "$url" --engine "http://127.0.0.1:$port" --engine-log "$work/engine.log"
