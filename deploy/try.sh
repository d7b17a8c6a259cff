#!/usr/bin/env bash
# Whether the service does under a real systemd what its unit promises: try.sh [PROGRAM]
#
# systemd runs as process 1 of namespaces of its own (processes, mounts, network, control groups), over
# a view of this machine's files whose changes are thrown away. There: users and folders by sysusers.d
# and tmpfiles.d; start and READY; reload; an engine (simulated) in a control group of its own; a daemon
# that is killed, and one that hangs until the watchdog ends it: the engine lives on and is taken over;
# an upgrade (SIGUSR2) that names another main process, and a stop after it that waits; a configuration
# that cannot be used; a restart behind the socket that refuses nobody; HTTPS with proxy-only.conf.
# A minute.
#
# Needs root, Linux with control groups v2 and overlayfs, systemd's programs (no systemd need run), curl
# and openssl. PROGRAM: the daemon; else the newest one below the build folder.
#
# Exit status: 0 all is well, 1 something is not, 2 it could not be tried.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")" && pwd)
top=$(cd "$here/.." && pwd)
name=imageworks-chat-proxy
# Its three parts are one file.
part=${TRY_PART:-outside}

give_up() { printf 'try.sh: %s\n' "$*" >&2; exit 2; }

outside() {
    local target=${CARGO_TARGET_DIR:-$top/target} program
    program=${1:-$(ls -t "$target"/{debug,release,dist}/$name 2>/dev/null | head -1)}
    [ -x "$program" ] || give_up 'there is no daemon; cargo build makes one'
    [ "$(id -u)" = 0 ] || give_up 'only root can do this'
    for needed in unshare nsenter curl openssl systemctl; do
        command -v $needed >/dev/null || give_up "$needed is missing"
    done
    [ -x /lib/systemd/systemd ] || give_up 'systemd is missing'
    grep -q overlay /proc/filesystems || modprobe overlay 2>/dev/null || give_up 'there is no overlayfs'
    group=$(findmnt --noheadings --output TARGET --types cgroup2 | head -1)
    [ -n "$group" ] || give_up 'there are no control groups v2'
    group=$group/try-$$
    home=$(mktemp -d)
    mkdir "$group" && mkfifo "$home/up"
    # Out of the group again, whose last process ends with the namespaces.
    (
        echo $BASHPID >"$group/cgroup.procs"
        TRY_PART=within TRY_HOME=$home TRY_PROGRAM=$(realpath "$program") exec unshare --mount --pid --fork \
            --kill-child --uts --ipc --net --cgroup --propagation private "$here/try.sh"
    ) >"$home/log" 2>&1 &
    pid=$!
    tidy() {
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
        for _ in $(seq 50); do
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [ -d "$group" ] || break
            sleep 0.1
        done
        rm -rf "$home"
    }
    trap tidy EXIT
    trap 'exit 2' INT TERM
    local first='' end=$((SECONDS + 30))
    until [ -n "$first" ] && in_there systemctl is-system-running --quiet 2>/dev/null; do
        [ $SECONDS -lt $end ] || { cat "$home/log" >&2; give_up 'systemd does not come up here'; }
        sleep 0.3
        first=$(pgrep --parent "$pid" 2>/dev/null || true)
    done
    in_there env TRY_PART=trial bash <"$here/try.sh" || exit 1
}

# Runs a command beside that systemd.
in_there() { nsenter --target "$first" --mount --pid --uts --ipc --net --cgroup env --chdir=/ "$@"; }

# Files for that systemd, and then systemd itself.
within() {
    local view=$TRY_HOME/view root=$TRY_HOME/view/root unit node major minor
    mkdir "$view"
    mount -t tmpfs -o size=4g none "$view"
    mkdir "$view"/{up,work,root}
    mount -t overlay -o "lowerdir=/,upperdir=$view/up,workdir=$view/work" overlay "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t tmpfs none "$root/run"
    mount -t tmpfs none "$root/tmp"
    mount -t tmpfs -o mode=755 none "$root/dev"
    chmod 1777 "$root/tmp"
    while read -r node major minor; do mknod -m 666 "$root/dev/$node" c "$major" "$minor"; done <<-'NODES'
		null 1 3
		zero 1 5
		full 1 7
		random 1 8
		urandom 1 9
		tty 5 0
	NODES
    mkdir -m 1777 "$root/dev/shm"
    mkdir "$root/dev/pts"
    mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    # The journal and what comes before everything; nothing that this machine's own systemd would start.
    rm -rf "$root"/etc/systemd/system/*.wants
    printf '[Unit]\nRequires=sysinit.target\nWants=systemd-journald.service\n' >"$root/etc/systemd/system/try.target"
    for unit in systemd-{udevd,udev-trigger,timesyncd,modules-load,sysctl,binfmt,random-seed}.service \
        dev-{hugepages,mqueue}.mount sys-kernel-{debug,tracing}.mount; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    # As deploy/README.md has it.
    install -m 755 "$TRY_PROGRAM" "$root/usr/local/bin/$name"
    ln -sf $name "$root/usr/local/bin/imageworks-models"
    install -m 644 "$here"/systemd/*.{service,socket} "$root/etc/systemd/system"
    install -D -m 644 "$here/sysusers.d/$name.conf" "$root/usr/lib/sysusers.d/$name.conf"
    install -D -m 644 "$here/tmpfiles.d/$name.conf" "$root/usr/lib/tmpfiles.d/$name.conf"
    install -D -m 644 -t "$root/usr/share/$name" "$top"/configs/*.toml
    cp -r "$top/chat_templates" "$root/usr/share/$name"
    cp -r "$here/systemd/$name.service.d" "$root/usr/share/$name"
    cd "$root"
    mkdir before
    pivot_root . before
    umount -l /before
    exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --system --unit=try.target --log-target=console --log-level=notice
}

url=http://127.0.0.1:8100
settings=/etc/$name/chat_proxy.toml
registry=/var/lib/$name/configs/model_registry.curated.json
failed=0

fail() { printf 'FAILED: %s\n' "$*"; failed=1; }
show() { systemctl show $name --property="$1" --value; }
models() { imageworks-models --url $url "$@" 2>&1; }
engine() { systemctl status --no-pager --full $name | grep -o '[0-9]* [^ ]* sim-engine serve /models' | head -1 | cut -d' ' -f1; }
is() { [ "$2" = "$3" ] || fail "$1: $2, not $3"; }
until_is() {
    local end=$((SECONDS + $1))
    until [ "$($3)" = "$4" ]; do
        [ $SECONDS -lt $end ] || { fail "$2: $($3), not $4, after $1 s"; return 0; }
        sleep 0.2
    done
}
main_of() { show MainPID; }
restarts() { show NRestarts; }
resident() { models current-model | head -1; }
known() { models list --json | grep -o tiny | head -1; }
step() { printf -- '- %s\n' "$1"; }

use_engines() {
    printf '[vllm]\nvllm_command = ["/usr/local/bin/%s", "sim-engine", "serve"]\n' $name >$settings
    cat >$registry <<-'JSON'
		[{"name": "tiny", "backend": "vllm", "served_model_id": "tiny", "chat_template": {"source": "embedded"},
		  "backend_config": {"model_path": "/models/tiny", "extra_args": ["--like-vllm"]}}]
	JSON
}

trial() {
    local main tiny answers
    step 'start'
    systemctl start $name || fail 'it does not start'
    is 'status' "$(show StatusText)" 'no model loaded: 0 running, 0 waiting'
    is 'ready' "$(curl -s -o /dev/null -w '%{http_code}' $url/v1/readyz)" 200

    step 'reload, and an engine in a control group of its own'
    use_engines
    systemctl reload $name
    until_is 10 'the model is known' known tiny
    models activate-model tiny >/dev/null || fail 'the model does not load'
    until_is 10 'the model' resident tiny
    tiny=$(engine)
    grep -q "$name.service/imageworks-" "/proc/$tiny/cgroup" || fail 'the engine has no control group of its own'
    is 'a setting by PUT' "$(curl -s -o /dev/null -w '%{http_code}' -X PUT -H 'content-type: application/json' \
        -d '{"max_queue_wait_s": 500}' $url/v1/config/chat-proxy)" 200

    step 'a daemon that is killed'
    systemctl kill --signal=KILL --kill-whom=main $name
    until_is 15 'restarts' restarts 1
    until_is 15 'the model' resident tiny
    is 'the engine' "$(engine)" "$tiny"

    step 'a daemon that hangs'
    systemctl kill --signal=STOP --kill-whom=main $name
    until_is 60 'restarts' restarts 2
    until_is 15 'the model' resident tiny
    is 'the engine' "$(engine)" "$tiny"

    step 'an upgrade, and a stop after it'
    main=$(main_of)
    systemctl kill --signal=USR2 --kill-whom=main $name
    for _ in $(seq 50); do [ "$(main_of)" = "$main" ] && sleep 0.2; done
    [ "$(main_of)" != "$main" ] || fail 'the main process is the old one'
    until_is 15 'the model' resident tiny
    is 'the engine' "$(engine)" "$tiny"
    systemctl stop $name
    is 'the end' "$(show Result) $(pgrep -c -f 'sim-engine serve /models' || true)" 'success 0'

    step 'a configuration that cannot be used'
    echo '[server]' >>$settings
    echo 'prot = 1' >>$settings
    systemctl start $name 2>/dev/null && fail 'it starts'
    sleep 4 # longer than the pause before a restart
    is 'what came of it' "$(show ActiveState) $(show ExecMainStatus) $(show NRestarts)" 'failed 78 0'
    use_engines
    systemctl reset-failed $name

    step 'a restart behind the socket'
    systemctl start $name.socket
    answers=$(
        for _ in $(seq 40); do
            curl -s -o /dev/null -w '%{http_code}\n' --max-time 20 $url/v1/healthz || true
        done &
        sleep 0.3
        systemctl restart $name
        wait
    )
    is 'answers' "$(sort -u <<<"$answers")" 200
    systemctl stop $name.socket $name

    step 'proxy-only.conf, with HTTPS'
    cp -r /usr/share/$name/$name.service.d /etc/systemd/system/
    mkdir /etc/$name/tls
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -subj /CN=try \
        -keyout /etc/$name/tls/tls.key -out /etc/$name/tls/tls.crt 2>/dev/null
    chgrp -R $name /etc/$name/tls
    chmod 640 /etc/$name/tls/*
    printf '[autostart]\nautostart_enabled = false\n[security]\ntls_cert_file = "/etc/%s/tls/tls.crt"\ntls_key_file = "/etc/%s/tls/tls.key"\n' $name $name >$settings
    echo '[{"name": "far", "backend": "openai", "backend_config": {"base_url": "http://127.0.0.1:9009/v1"}}]' >$registry
    $name sim-engine --port 9009 --served-model-name far >/dev/null 2>&1 &
    systemctl daemon-reload
    systemctl start $name || fail 'it does not start'
    export CHAT_PROXY_CONFIG_FILE=$settings
    imageworks-models list | grep -q far || fail 'the operator cannot see the model'
    is 'a chat' "$(curl -s -o /dev/null -w '%{http_code}' --insecure -H 'content-type: application/json' \
        -d '{"model": "far", "messages": [{"role": "user", "content": "hello"}]}' https://127.0.0.1:8100/v1/chat/completions)" 200
    journalctl -u $name --no-pager -o cat | grep -q 'can read the private key' && fail 'it warns of a key that is well kept'
    systemctl stop $name
    is 'the end' "$(show Result)" success
    kill %1 2>/dev/null || true

    if [ $failed != 0 ]; then
        journalctl -u $name --no-pager -o short-precise | tail -60
        return 1
    fi
    echo 'the service does what its unit promises'
}

case $part in
outside) outside "$@" ;;
within) within ;;
trial) trial ;;
esac
