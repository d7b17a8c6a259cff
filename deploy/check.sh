#!/usr/bin/env bash
# Whether systemd accepts the units, and how exposed it finds them: check.sh
#
# `systemd-analyze verify` must have nothing to say about service and socket, with the drop-in and
# without. `systemd-analyze security` must find an exposure of 5.0 at most for the service as it is, and
# of 3.0 with proxy-only.conf. What sysusers.d and tmpfiles.d make is tried in a folder, if this is root.
# Nothing on this machine is changed, and systemd need not run. Seconds.
#
# Exit status: 0 all is well, 1 something is not, 2 it could not be tried.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=imageworks-chat-proxy
units=/usr/lib/systemd/system
failed=0
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

fail() { printf 'FAILED: %s\n' "$*"; failed=1; }

command -v systemd-analyze >/dev/null || { echo 'check.sh: systemd-analyze is missing' >&2; exit 2; }
[ -d "$units" ] || units=/lib/systemd/system

# A root of its own: the units that ours lean on, and programs that are only there.
mkdir -p "$root"{/usr/lib/systemd,/etc/systemd/system,/usr/local/bin,/usr/bin,/usr/share/doc/$name}
cp -r "$units" "$root/usr/lib/systemd/system"
ln -s usr/bin "$root/bin"
ln -s usr/lib "$root/lib"
for program in /usr/local/bin/$name /usr/bin/kill /usr/bin/sh; do
    install -m 755 /dev/null "$root$program"
done
install -m 644 "$here"/systemd/*.{service,socket} "$root/etc/systemd/system"

# verify WHAT: it must accept both units without a word.
verify() {
    local said
    said=$(SYSTEMD_LOG_LEVEL=warning systemd-analyze --root="$root" --man=no verify $name.service $name.socket 2>&1) ||
        fail "verify, $1"
    # Debian's own units lean on some that are not installed here; only ours are ours.
    said=$(grep -F $name <<<"$said" || true)
    [ -z "$said" ] || fail "verify, $1: $said"
}

# exposure WHAT LIMIT: tenths, as systemd counts its threshold.
exposure() {
    local said
    if ! said=$(systemd-analyze --root="$root" --offline=true --threshold="$2" --no-pager security $name.service 2>&1); then
        fail "exposure, $1, is over $2 tenths"
        grep '^✗' <<<"$said" || true
    fi
    printf '%s: %s\n' "$1" "$(tail -1 <<<"$said")"
}

verify 'as it is'
exposure 'as it is' 50
mkdir "$root/etc/systemd/system/$name.service.d"
install -m 644 "$here/systemd/$name.service.d/proxy-only.conf" "$root/etc/systemd/system/$name.service.d"
verify 'with proxy-only.conf'
exposure 'with proxy-only.conf' 30

# Users and folders, where that can be tried.
if [ "$(id -u)" = 0 ] && command -v systemd-sysusers systemd-tmpfiles >/dev/null; then
    share=$root/usr/share/$name
    mkdir -p "$root"/var/{lib,log} "$share"
    touch "$root"/etc/{passwd,group,shadow,gshadow}
    cp "$here"/../configs/*.toml "$share"
    cp -r "$here/../chat_templates" "$share"
    systemd-sysusers --root="$root" "$here/sysusers.d/$name.conf" >/dev/null || fail sysusers
    systemd-tmpfiles --root="$root" --create "$here/tmpfiles.d/$name.conf" || fail tmpfiles
    # Once more, over what is there now.
    systemd-tmpfiles --root="$root" --create "$here/tmpfiles.d/$name.conf" || fail 'tmpfiles, again'
    grep -q "^$name:" "$root/etc/passwd" || fail 'sysusers made no user'
    user=$(awk -F: -v name=$name '$1 == name { print $3 ":" $4 }' "$root/etc/passwd")
    # is PATH OWNER MODE
    is() {
        local found
        found=$(stat -c '%u:%g %a' "$root$1" 2>&1) || true
        [ "$found" = "$2 $3" ] || fail "$1 is $found, not $2 $3"
    }
    is /etc/$name "0:${user#*:}" 770
    is /etc/$name/chat_proxy.toml "0:${user#*:}" 660
    is /var/lib/$name/configs "$user" 750
    is /var/log/$name "$user" 750
    for link in logs chat_templates; do
        [ -L "$root/var/lib/$name/$link" ] || fail "/var/lib/$name/$link is no link"
    done
    echo 'users and folders: tried'
else
    echo 'users and folders: not tried (root, systemd-sysusers and systemd-tmpfiles are needed)'
fi
exit $failed
