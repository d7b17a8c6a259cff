#!/usr/bin/env bash
# The daemon in front of a real Ollama on the CPU: run.sh [DAEMON]
#
# Needs an Ollama: the program that $OLLAMA names, or `ollama` in the PATH, or what build.sh made in
# target/real/ollama/ollama. Makes or reuses a Python environment, makes tiny models whose answers are
# known, starts Ollama on a port and with a directory of its own, and the daemon, runs check.py, and stops
# what it started. vLLM's side of the GPU is the simulated engine. Takes a minute. Exit status: 0 all
# checks pass, 1 not, 2 something is missing. KEEP=1 keeps the logs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
daemon=$(realpath -m "${1:-${CARGO_TARGET_DIR:-$root/target}/release/imageworks-chat-proxy}")
base=${IMAGEWORKS_REAL_DIR:-$root/target/real}/ollama
python=$base/venv/bin/python
ollama=${OLLAMA:-$(command -v ollama || true)}
ollama=${ollama:-$base/ollama}

if [ ! -x "$daemon" ]; then
    echo "run.sh: no daemon at $daemon: cargo build --release" >&2
    exit 2
fi
if [ ! -x "$ollama" ]; then
    echo "run.sh: no Ollama: set OLLAMA, or $here/build.sh $base/ollama" >&2
    exit 2
fi
if ! "$python" -c 'import gguf, numpy, openai' >/dev/null 2>&1; then
    python3 -m venv "$base/venv" || exit 2
    "$base/venv/bin/pip" install --quiet gguf numpy openai >&2 || exit 2
fi

work=$(mktemp -d)
pids=()
clean_up() {
    status=$?
    trap - EXIT
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [ "$status" != 0 ]; then
        for log in ollama.log daemon.log; do
            printf -- '--- %s\n' "$log" >&2
            tail -n 25 "$work/$log" >&2 || true
        done
    fi
    if [ -n "${KEEP:-}" ]; then echo "logs: $work" >&2; else rm -rf "$work"; fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

free_port() {
    "$python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
port=$(free_port)
vllm_port=$(free_port)
export OLLAMA_HOST=127.0.0.1:$port

(HOME=$work OLLAMA_MODELS=$work/models OLLAMA_KEEP_ALIVE=10m exec "$ollama" serve) >"$work/ollama.log" 2>&1 &
pids+=($!)
for _ in $(seq 200); do
    if curl -sf "http://$OLLAMA_HOST/api/version" >/dev/null; then break; fi
    sleep 0.1
done

"$python" "$here/../llamacpp/make_model.py" "$work/tiny.gguf" "$work/unused.jinja" >/dev/null
for answer in hello unicode sing; do
    # Ollama takes models of one file for one model: each has a file of its own.
    printf '%s' "$answer" | cat "$work/tiny.gguf" - >"$work/$answer.gguf"
    # shellcheck disable=SC2016
    printf 'FROM %s\nTEMPLATE """{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}<|end|>{{ end }}<|%s|>"""\nPARAMETER stop <|end|>\n' \
        "$work/$answer.gguf" "$answer" >"$work/Modelfile"
    HOME=$work "$ollama" create "real-$answer" -f "$work/Modelfile" >/dev/null 2>&1
done

mkdir "$work/registry"
cat >"$work/chat_proxy.toml" <<TOML
[server]
port = 0
heartbeat_ms = 500
registry_dir = "$work/registry"
log_path = "$work/logs/chat.jsonl"

[vllm]
vllm_command = ["$daemon", "sim-engine", "serve"]
vllm_port = $vllm_port

[ollama]
ollama_base_url = "http://$OLLAMA_HOST"
TOML
cat >"$work/registry/model_registry.curated.json" <<JSON
[{"name": "hello", "backend": "ollama", "served_model_id": "real-hello",
  "backend_config": {"extra_args": ["--num-ctx", "256"], "keep_alive": "5m"}},
 {"name": "unicode", "backend": "ollama", "served_model_id": "real-unicode"},
 {"name": "sing", "backend": "ollama", "served_model_id": "real-sing"},
 {"name": "gone", "backend": "ollama", "served_model_id": "not-there:7b"},
 {"name": "engine", "backend": "vllm", "served_model_id": "engine",
  "chat_template": {"source": "embedded"},
  "backend_config": {"model_path": "/models/engine", "extra_args": ["--like-vllm"]}}]
JSON

(cd "$work" && CHAT_PROXY_CONFIG_FILE="$work/chat_proxy.toml" exec "$daemon" serve) \
    >"$work/daemon.out" 2>"$work/daemon.log" &
pids+=($!)
for _ in $(seq 100); do
    if grep -qs '^listening on http://' "$work/daemon.out"; then break; fi
    sleep 0.1
done
url=$(sed -n 's/^listening on \(http:[^ ]*\).*/\1/p' "$work/daemon.out" | head -n 1)
if [ -z "$url" ]; then
    echo "run.sh: the daemon does not listen" >&2
    exit 1
fi
"$python" "$here/check.py" --proxy "$url" --ollama "http://$OLLAMA_HOST" --ollama-log "$work/ollama.log"
