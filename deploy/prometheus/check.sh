#!/usr/bin/env bash
# Whether the alerts, the dashboard and the daemon's figures fit together: check.sh
#
# Starts the daemon on simulated engines and a driver without a GPU, a Prometheus that scrapes it every
# second with the configuration and the rules that lie here, and traffic of all kinds: streams, whole
# answers, a model that does not exist, clients that leave, a backend that is gone, streams that break,
# swaps, a part of the daemon that fails, an engine that is killed, a driver that hangs. Every query of the dashboard must
# have samples, the killed engine's alert must fire and none that means something else, and promtool
# must have nothing to say about any of it. Two minutes, after the build.
#
# Needs cargo, python3, curl, and Prometheus: the one in PATH, else Debian's package, which is unpacked
# below the build folder and not installed (so that no service is started; apt-get fetches it).
# PROGRAM=PATH takes a daemon that is there instead of building one; it must be a debug build.
#
# Exit status: 0 all is well, 1 something is not, 2 it could not be tried.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
board=$here/../grafana/imageworks-chat-proxy.json
home=$(mktemp -d)
pids=()
failed=0

say() { printf '%s\n' "$*"; }
fail() { say "FAILED: $*"; failed=1; }
give_up() { say "check.sh: $*" >&2; exit 2; }
ask() { python3 "$here/ask.py" "$@"; }

# Ends what was started, each by its id, the last one first.
tidy() {
    local pid
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        pid=${pids[$i]}
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
    done
    wait
    rm -rf "$home"
}
trap tidy EXIT
trap 'exit 2' INT TERM

# until_true SECONDS WHAT COMMAND…: waits for a condition.
until_true() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $end ] || { say "timed out: $what"; return 1; }
        sleep 0.2
    done
}

find_prometheus() {
    command -v prometheus >/dev/null && command -v promtool >/dev/null && return
    local folder=$target/prometheus-of-debian
    if [ ! -x "$folder/usr/bin/promtool" ]; then
        command -v apt-get >/dev/null || give_up 'Prometheus is missing: put prometheus and promtool into PATH'
        mkdir -p "$folder"
        (cd "$folder" && apt-get -qq download prometheus 2>/dev/null) || {
            [ "$(id -u)" = 0 ] || give_up 'Prometheus is missing, and so are the lists of packages: run apt-get update as root'
            apt-get -qq update
            (cd "$folder" && apt-get -qq download prometheus 2>/dev/null) || give_up 'apt-get has no package prometheus'
        }
        dpkg-deb -x "$folder"/prometheus_*.deb "$folder"
    fi
    PATH=$folder/usr/bin:$PATH
}

build() {
    if [ -z "${PROGRAM:-}" ]; then
        cargo build --manifest-path "$root/Cargo.toml" --bin imageworks-chat-proxy || give_up 'the daemon cannot be built'
        PROGRAM=$target/debug/imageworks-chat-proxy
    fi
    mkdir "$home/driver"
    "${RUSTC:-rustc}" --crate-type cdylib --edition 2024 -C panic=abort -o "$home/driver/libnvidia-ml.so.1" \
        "$root/actors/src/gpus/fake_nvml.rs" || give_up 'the simulated driver cannot be built'
    printf 'card Simulated 24 GB,24564,18000,6200,35\n' >"$home/driver/gpus"
}

start_engine() {
    "$PROGRAM" sim-engine serve --port 0 --served-model-name tiny-c >"$home/engine.out" 2>"$home/engine.log" &
    pids+=($!)
    until_true 30 'the simulated engine listens' grep -q '^listening on' "$home/engine.out"
    engine=$(sed -n 's/^listening on //p' "$home/engine.out" | head -n 1)
}

write_files() {
    printf 'key-of-traffic' >"$home/traffic.key"
    printf 'key-of-prometheus' >"$home/prometheus.key"
    cat >"$home/chat_proxy.toml" <<TOML
[server]
port = 0
enable_metrics = true
registry_dir = "registry"
log_path = "logs/chat.jsonl"

[vllm]
vllm_port = $vllm_port
vllm_command = ["$PROGRAM", "sim-engine", "serve"]
vllm_restart_backoff_s = 0.2

[ollama]
ollama_base_url = "http://127.0.0.1:1"

[security]
api_keys = [
  { name = "traffic", key_file = "$home/traffic.key", rights = ["chat", "admin"] },
  { name = "prometheus", key_file = "$home/prometheus.key" },
]
TOML
    mkdir "$home/registry"
    cat >"$home/registry/model_registry.curated.json" <<JSON
[
  {"name": "priced", "backend": "openai", "served_model_id": "tiny-c",
   "backend_config": {"base_url": "$engine/v1"},
   "metadata": {"pricing": {"input_per_mtok": 1.0, "output_per_mtok": 4.0}}},
  {"name": "gone", "backend": "openai", "served_model_id": "x",
   "backend_config": {"base_url": "http://127.0.0.1:$closed_port/v1"}},
  {"name": "tiny-a", "backend": "vllm", "served_model_id": "tiny-a", "chat_template": {"source": "embedded"},
   "backend_config": {"model_path": "/models/tiny-a", "extra_args": ["--like-vllm", "--sim-load-ms", "700"]}},
  {"name": "tiny-b", "backend": "vllm", "served_model_id": "tiny-b", "chat_template": {"source": "embedded"},
   "backend_config": {"model_path": "/models/tiny-b", "extra_args": ["--like-vllm", "--sim-load-ms", "700"]}}
]
JSON
}

start_daemon() {
    # By `exec` the id is the daemon's own.
    (cd "$home" && LD_LIBRARY_PATH=$home/driver CHAT_PROXY_CONFIG_FILE=chat_proxy.toml exec "$PROGRAM" \
        >daemon.out 2>daemon.log) &
    daemon_pid=$!
    pids+=("$daemon_pid")
    until_true 60 'the daemon listens' grep -q '^listening on' "$home/daemon.out" || {
        tail -n 20 "$home/daemon.log" >&2
        give_up 'the daemon does not start'
    }
    daemon=$(sed -n 's/^listening on //p' "$home/daemon.out" | head -n 1)
}

# The configuration that lies here, with the key, another place, and once a second.
start_prometheus() {
    cp "$here/rules.yml" "$home/rules.yml"
    sed -e "s|127.0.0.1:8100|${daemon#http://}|" -e 's|_interval: 15s|_interval: 1s|' \
        -e 's|scrape_timeout: 10s|scrape_timeout: 1s|' \
        -e 's|^    #authorization:|    authorization:|' -e 's|^    #  type:|      type:|' \
        -e "s|^    #  credentials_file: .*|      credentials_file: $home/prometheus.key|" \
        "$here/prometheus.yml" >"$home/prometheus.yml"
    prometheus --config.file="$home/prometheus.yml" --storage.tsdb.path="$home/data" \
        --web.listen-address="127.0.0.1:$prometheus_port" --log.level=warn >"$home/prometheus.log" 2>&1 &
    pids+=($!)
    prometheus=http://127.0.0.1:$prometheus_port
    until_true 60 'Prometheus is ready' curl -fso /dev/null "$prometheus/-/ready"
}

is() { [ "$(ask value "$prometheus" "$1")" = "$2" ]; }
some() { [ -n "$(ask value "$prometheus" "$1")" ]; }

# chat MODEL STREAM MESSAGE [SIM]: one request; its body goes nowhere.
chat() {
    curl -sN -o /dev/null --max-time "${PATIENCE:-60}" "$daemon/v1/chat/completions" \
        -H 'authorization: Bearer key-of-traffic' -H 'content-type: application/json' \
        -d "{\"model\": \"$1\", \"stream\": $2, \"messages\": [{\"role\": \"user\", \"content\": \"$3\"}], \"sim\": ${4:-{\}}}" || true
}

# All kinds of requests, until the file `enough` is there.
traffic() {
    local round=0
    while [ ! -e "$home/enough" ]; do
        round=$((round + 1))
        for _ in 1 2 3; do
            chat priced true hello '{"delay_first_ms": 40, "delay_token_ms": 15}'
            chat priced false count
        done
        PATIENCE=0.3 chat priced true sing '{"delay_token_ms": 20}'
        chat priced true count '{"cut": {"after_events": 3, "how": "rst"}}'
        chat gone false hello
        chat no-such-model false hello
        # Two that need the GPU at the same time: one of them waits.
        chat tiny-a true hello '{"delay_token_ms": 10}' &
        [ -e "$home/no-swaps" ] || [ $((round % 3)) != 0 ] || chat tiny-b true think &
        wait
    done
}

get() { curl -fs "$daemon$1" -H 'authorization: Bearer key-of-traffic'; }

engine_pid() {
    get /v1/backends | python3 -c 'import json, sys
for line in json.load(sys.stdin)["backends"]:
    if line["kind"] == "vllm" and line["state"] == "ready": print(line["pid"])'
}

engine_runs() { [ -n "$(engine_pid)" ]; }

# An engine dies, and the next request starts one again.
kill_engine() {
    chat tiny-a false hello
    until_true 30 'an engine serves' engine_runs || return
    kill -9 "$(engine_pid)"
    until_true 60 'the engine that failed is replaced' restarted
}
restarted() { chat tiny-a false hello; some 'imageworks_proxy_backend_restarts_total > 0'; }

check_files() {
    promtool check rules "$here/rules.yml" || fail 'promtool check rules'
    promtool check config "$here/prometheus.yml" || fail 'promtool check config, without a key'
    promtool check config "$home/prometheus.yml" || fail 'promtool check config, with a key'
    promtool test rules "$here/rules_test.yml" || fail 'promtool test rules'
}

check_metrics() {
    get /metrics >"$home/metrics.txt"
    local words
    words=$(promtool check metrics <"$home/metrics.txt" 2>&1) || true
    [ -z "$words" ] || { say "$words"; fail 'promtool check metrics'; }
    ask names "$home/metrics.txt" "$here/rules.yml" "$board" || fail 'these metrics do not exist'
    [ "$(curl -so /dev/null -w '%{http_code}' "$daemon/metrics")" = 401 ] || fail 'the figures are read without a key'
}

# The engine's alert fires. What the traffic's failures mean may do so by now, on a slow machine.
check_alerts() {
    local alerts firing other
    alerts=$(ask alerts "$prometheus")
    say "$alerts" | cut -c 1-150
    firing=$(sed -n 's/^firing \([^ ]*\) .*/\1/p' <<<"$alerts" | sort -u)
    grep -qx ImageworksProxyEngineFailed <<<"$firing" || fail 'the alert for the engine does not fire'
    grep -qx ImageworksProxyActorRebuilt <<<"$firing" || fail 'the alert for the part that failed does not fire'
    other=$(grep -vxE 'ImageworksProxy(EngineFailed|ActorRebuilt|StreamsBreak|Errors)' <<<"$firing") || true
    [ -z "$other" ] || fail "alerts that nobody expects: $other"
    ! grep -q 'error expanding' <<<"$alerts" || fail 'an alert has broken words'
}

# The daemon ends, and its engine with it.
stop_daemon() {
    kill "$daemon_pid"
    until_true 60 'the daemon ends' ended || fail 'the daemon does not end'
    ! pgrep -f -- "--port $vllm_port" >/dev/null || fail 'an engine is left'
}
ended() { ! kill -0 "$daemon_pid" 2>/dev/null; }

# A driver that hangs keeps the figures back for two seconds, and what it said before is not told on.
hang_driver() {
    (echo hang && cat "$home/driver/gpus") >"$home/driver/new"
    cp "$home/driver/gpus" "$home/driver/well"
    mv "$home/driver/new" "$home/driver/gpus"
    until_true 30 'figures without a GPU' shows_no_gpu || return
    mv "$home/driver/well" "$home/driver/gpus"
    until_true 30 'figures with the GPU again' shows_gpu
}
figures() { curl -fs --max-time 5 "$daemon/metrics" -H 'authorization: Bearer key-of-traffic'; }
shows_gpu() { figures | grep '^imageworks_proxy_gpu_memory_bytes' >/dev/null; }
shows_no_gpu() { local text && text=$(figures) && ! grep -q '^imageworks_proxy_gpu_' <<<"$text"; }

find_prometheus
build
read -r vllm_port closed_port prometheus_port < <(ask ports 3)
start_engine
write_files
start_daemon
start_prometheus
say '== files'
check_files
say '== nobody asks: no alert, not even a pending one'
until_true 30 'Prometheus has the figures' is 'count_over_time(up[10s]) >= bool 5' 1 || fail 'no figures'
is 'up' 1 || fail 'the daemon is down for Prometheus'
[ -z "$(ask alerts "$prometheus")" ] || { ask alerts "$prometheus"; fail 'alerts on an idle system'; }
say '== traffic'
traffic &
traffic_pid=$!
pids+=("$traffic_pid")
curl -fs -X POST "$daemon/v1/debug/panic/registry" -H 'authorization: Bearer key-of-traffic' || fail 'no part could be made to fail'
until_true 30 'a part is rebuilt' some 'imageworks_proxy_actor_restarts_total > 0' || fail 'no part was rebuilt'
until_true 120 'models have had the GPU in turn' some 'imageworks_proxy_swaps_total >= 6' || fail 'no swaps'
say '== the dashboard'
ask dashboard "$prometheus" "$board" 15s || fail 'queries without a sample'
say '== the figures themselves'
check_metrics
say '== alerts'
touch "$home/no-swaps"
kill_engine || fail 'no engine was replaced'
until_true 150 'the alert for the killed engine fires' \
    some 'ALERTS{alertname="ImageworksProxyEngineFailed", alertstate="firing"}' || true
check_alerts
say '== sums'
for query in 'sum(imageworks_proxy_requests_total)' 'sum(imageworks_proxy_errors_total)' \
    'imageworks_proxy:requests_failed:increase10m' 'imageworks_proxy:streams_broken:increase15m' \
    'sum(imageworks_proxy_swaps_total)' 'imageworks_proxy_backend_restarts_total'; do
    say "$(ask value "$prometheus" "$query")  $query"
done
say '== a driver that hangs'
hang_driver || fail 'the figures do not stand a driver that hangs'
touch "$home/enough"
wait "$traffic_pid"
stop_daemon
! grep -iE 'level=error|out of order|duplicate' "$home/prometheus.log" || fail 'Prometheus complains'
if [ "$failed" = 0 ]; then say 'all is well'; else say 'something is not well'; fi
exit "$failed"
