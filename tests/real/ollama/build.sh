#!/usr/bin/env bash
# Builds Ollama for the CPU from its Go module: build.sh TARGET-FILE
#
# For machines that have a Go and a C++ compiler, the headers of nlohmann-json and stb (Debian:
# nlohmann-json3-dev libstb-dev), and no way to the project's own downloads. The Go module lacks the
# folder with these headers; they come from the system. What reads audio is left out, for its header
# is not to be had as a package. Takes a few minutes on two cores.
set -euo pipefail

target=$(realpath -m "$1")
version=${OLLAMA_VERSION:-v0.17.4}
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

cd "$work"
go mod init fetch >/dev/null 2>&1
GOFLAGS=-mod=mod go get "github.com/ollama/ollama@$version" >&2
cp -r "$(go env GOMODCACHE)/github.com/ollama/ollama@$version" source
chmod -R u+w source
vendor=source/llama/llama.cpp/vendor
mkdir -p "$vendor/stb" "$vendor/miniaudio"
ln -s /usr/include/nlohmann "$vendor/nlohmann"
cp /usr/include/stb/stb_image.h "$vendor/stb/"
echo '/* audio is left out */' >"$vendor/miniaudio/miniaudio.h"
python3 - source/llama/llama.cpp/tools/mtmd/mtmd-helper.cpp <<'PYTHON'
import sys
path = sys.argv[1]
text = open(path).read()
begin = text.index("    ma_result result;\n    const int channels")
end = text.index("    return true;", begin) + len("    return true;")
unused = "    (void)buf_in; (void)len; (void)target_sampler_rate; (void)pcmf32_mono;\n    return false;"
open(path, "w").write(text[:begin] + unused + text[end:])
PYTHON
mkdir -p "$(dirname "$target")"
(cd source && GOFLAGS=-buildvcs=false go build -o "$target" .)
echo "$target"
