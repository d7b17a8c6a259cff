#!/usr/bin/env bash
# The daemon that starts, swaps and stops a real vLLM on the CPU: run.sh [DAEMON]
#
# Makes or reuses what setup.sh makes (the first time 3 GB are downloaded), starts the daemon on a free
# port of 127.0.0.1 with two tiny models, runs check.py, stops the daemon, and looks for anything that
# is left of an engine; then policies.py and faults.py. Takes eight to fourteen minutes. Exit status: 0 all
# checks pass, 1 not, 2 something is missing. IMAGEWORKS_REAL_DIR moves the environment; KEEP=1 keeps the logs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
daemon=$(realpath -m "${1:-${CARGO_TARGET_DIR:-$root/target}/release/imageworks-chat-proxy}")

if [ ! -x "$daemon" ]; then
    echo "run.sh: no daemon at $daemon: cargo build --release" >&2
    exit 2
fi
base=$("$here/setup.sh") || exit 2
venv=$base/venv
python=$venv/bin/python

# The environment's engines are told from others by the environment itself: one run at a time.
exec 8>"$base/.running"
if ! flock --nonblock 8; then
    echo "run.sh: another run uses $base" >&2
    exit 2
fi

work=$(mktemp -d)
port=$("$python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
proxy=
checker=

# The engines' processes and shared memory that are there, and whether the port is answered.
left_of_engines() {
    python3 "$here/processes.py" --venv "$venv" --port "$port" --mark "IMAGEWORKS_REAL_RUN=$work" \
        --seen "$work/seen" "$@"
}

clean_up() {
    status=$?
    trap - EXIT
    if [ -n "$checker" ]; then kill -TERM "$checker" 2>/dev/null || true; fi
    if [ -n "$proxy" ]; then
        kill -TERM "$proxy" 2>/dev/null || true
        # Stopping an engine may take vllm_stop_timeout_s.
        for _ in $(seq 400); do kill -0 "$proxy" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$proxy" 2>/dev/null || true
        wait "$proxy" 2>/dev/null || true
    fi
    left_of_engines --kill >&2 || true
    if [ "$status" != 0 ]; then
        for log in daemon.log logs/chat.jsonl logs/vllm/*.log; do
            # shellcheck disable=SC2086
            for file in $work/$log; do
                if [ -s "$file" ]; then
                    printf -- '--- %s\n' "${file#"$work/"}" >&2
                    tail -n 25 "$file" >&2
                fi
            done
        done
    fi
    if [ -n "${KEEP:-}" ]; then echo "logs: $work" >&2; else rm -rf "$work"; fi
    exit "$status"
}

if ! left_of_engines >&2; then
    echo "run.sh: an engine of an earlier run is still there" >&2
    rm -rf "$work"
    exit 2
fi
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$work/registry" "$work/tmp"
cat >"$work/chat_proxy.toml" <<TOML
[server]
host = "127.0.0.1"
port = 0
heartbeat_ms = 2000
enable_metrics = true
registry_dir = "$work/registry"
log_path = "$work/logs/chat.jsonl"

[limits]
require_template = false

[vllm]
vllm_command = ["$python", "-m", "vllm.entrypoints.openai.api_server"]
vllm_port = $port
vllm_start_timeout_s = 900
env = { HF_HUB_OFFLINE = "1", VLLM_TARGET_DEVICE = "cpu", VLLM_CPU_KVCACHE_SPACE = "1", VLLM_CPU_OMP_THREADS_BIND = "nobind", OMP_NUM_THREADS = "1", CUDA_VISIBLE_DEVICES = "", VLLM_NO_USAGE_STATS = "1", TMPDIR = "$work/tmp" }
TOML
cat >"$work/registry/model_registry.curated.json" <<JSON
[{"name": "tiny-a", "backend": "vllm", "chat_template": {"source": "embedded"},
  "backend_config": {"model_path": "$base/models/tiny-a",
                     "extra_args": ["--enforce-eager", "--max-model-len", "4096"]}},
 {"name": "tiny-b", "backend": "vllm", "chat_template": {"source": "embedded"},
  "served_model_id": "tiny-b-served",
  "backend_config": {"model_path": "$base/models/tiny-b",
                     "extra_args": ["--enforce-eager", "--max-model-len=4096"]}},
 {"name": "too-long", "backend": "vllm", "chat_template": {"source": "embedded"},
  "backend_config": {"model_path": "$base/models/tiny-a",
                     "extra_args": ["--enforce-eager", "--max-model-len", "1000000"]}}]
JSON

(cd "$work" && CHAT_PROXY_CONFIG_FILE="$work/chat_proxy.toml" IMAGEWORKS_REAL_RUN="$work" exec "$daemon" serve) \
    >"$work/daemon.out" 2>"$work/daemon.log" 8>&- &
proxy=$!
for _ in $(seq 240); do
    if grep -qs '^listening on http://' "$work/daemon.out" || ! kill -0 "$proxy" 2>/dev/null; then break; fi
    sleep 0.25
done
url=$(sed -n 's/^listening on \(http:[^ ]*\).*/\1/p' "$work/daemon.out" | head -n 1)
if [ -z "$url" ]; then
    echo "run.sh: the daemon does not listen" >&2
    exit 1
fi

# Not in the foreground, for a trap would then wait until it ends.
checked=0
"$python" "$here/check.py" --proxy "$url" --engine-port "$port" --state "$work/_staging/active_vllm.json" \
    --log-dir "$work/logs/vllm" --seen "$work/seen" &
checker=$!
wait "$checker" || checked=1
checker=

# The end: the daemon goes by itself, with status 0, and nothing is left of what it started.
stopping=$(date +%s%N)
kill -TERM "$proxy" 2>/dev/null || true
ended=0
wait "$proxy" || ended=$?
proxy=
echo "        the daemon and its engine ended within $((($(date +%s%N) - stopping) / 1000000)) ms"
if [ "$ended" != 0 ]; then
    echo "FAILED  the daemon ended with status $ended"
    checked=1
fi
if [ ! -s "$work/seen" ]; then
    echo "FAILED  no engine was ever seen, so the search for what is left of it proves nothing"
    checked=1
elif left=$(left_of_engines); then
    echo "ok      no process and no shared memory is left of any engine, and port $port refuses"
else
    printf 'FAILED  left of the engines:\n%s\n' "$left"
    checked=1
fi
if [ -e "$work/_staging/active_vllm.json" ]; then
    echo "FAILED  the state file is still there"
    checked=1
else
    echo "ok      the state file is gone"
fi

# Policies and faults, with daemons of their own.
"$python" "$here/policies.py" --daemon "$daemon" --venv "$venv" --models "$base/models" --node "$base/node" \
    --templates "$root/chat_templates" --port "$port" || checked=1
"$python" "$here/faults.py" --daemon "$daemon" --venv "$venv" --models "$base/models" --port "$port" || checked=1
exit "$checked"
