#!/usr/bin/env python3
"""What /proc knows of a real vLLM, and the search for what is left of it.

usage: processes.py --venv DIR --port PORT --mark NAME=VALUE [--seen FILE] [--kill]

Prints a line for each process that is one of the engine's, with the reasons why, and for each piece of
shared memory that is left, and exits with 1 if there is any; --kill ends and removes them as well. An engine's children overwrite their arguments and their
environment, so neither finds an orphan; what they cannot hide is the environment's libraries that
they have mapped. It must never name a process that the environment's own engines did not start.
"""
import argparse
import os
import re
import signal
import socket
import sys
import time

TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def read(pid, name):
    """A file of /proc; empty where the process is gone or not ours."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def stat(pid):
    """State, parent, group, session and start (seconds since boot) of a process, or None."""
    text = read(pid, "stat")
    if not text:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]) * TICK


def everybody():
    found = {int(name): stat(name) for name in os.listdir("/proc") if name.isdigit()}
    return {pid: facts for pid, facts in found.items() if facts and facts[0] not in "ZX"}


def lives(pid, started):
    """Whether this very process lives; a number that was given again does not count, nor a zombie."""
    facts = stat(pid)
    return facts is not None and facts[0] not in "ZX" and facts[4] == started


def tree(leader):
    """The leader, its group and its descendants: start times by pid."""
    alive = everybody()
    members = {pid for pid, facts in alive.items() if pid == leader or facts[2] == leader}
    while True:
        more = {pid for pid, facts in alive.items() if facts[1] in members} - members
        if not more:
            return {pid: alive[pid][4] for pid in members}
        members |= more


def since_boot():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def command(pid):
    return read(pid, "cmdline").replace("\0", " ").strip()


def shared_memory(pid):
    """Names below /dev/shm that a process has mapped."""
    return set(re.findall(r"/dev/shm/(psm_\w+|sem\.mp-\w+)", read(pid, "maps")))


def resident_mib(pid):
    line = next((line for line in read(pid, "status").splitlines() if line.startswith("VmRSS:")), "x 0")
    return int(line.split()[1]) // 1024


def refuses(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except ConnectionRefusedError:
        return True
    return False


def write_down(path, members):
    """Adds an engine's processes, with start and group, and its shared memory to a file."""
    with open(path, "a", encoding="utf-8") as file:
        for pid, start in members.items():
            facts = stat(pid)
            if facts:
                file.write(f"{pid} {start} {facts[2]}\n")
            file.writelines(f"{name}\n" for name in shared_memory(pid))


def seen(path):
    """What was written down: processes, and names of shared memory."""
    if not path or not os.path.exists(path):
        return [], set()
    with open(path, encoding="utf-8") as file:
        rows = [line.split() for line in file]
    known = [(int(row[0]), float(row[1]), int(row[2])) for row in rows if len(row) == 3]
    return known, {row[0] for row in rows if len(row) == 1}


def leftovers(venv, port, mark, known):
    """Processes of the engines, with reasons. Whoever made this search is none."""
    venv = os.path.join(os.path.realpath(venv), "")
    # A group that none of them leads would be somebody else's.
    groups = {group for _, _, group in known} & {pid for pid, _, _ in known}
    found = {}
    for pid, (_, _, group, _, start) in everybody().items():
        if pid in (os.getpid(), os.getppid()):
            continue
        arguments, reasons = command(pid), []
        if any(pid == other and start == begun for other, begun, _ in known):
            reasons.append("was seen as an engine's")
        if group in groups:
            reasons.append(f"process group {group}")
        if arguments.startswith(venv) or (".api_server" in arguments and f"--port {port}" in arguments):
            reasons.append("arguments")
        if mark in read(pid, "environ").split("\0"):
            reasons.append("environment")
        if venv in read(pid, "maps"):
            reasons.append("libraries")
        if reasons:
            found[pid] = f"{pid} {arguments[:100] or '?'} ({', '.join(reasons)})"
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mark", required=True, metavar="NAME=VALUE")
    parser.add_argument("--seen")
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    known, names = seen(options.seen)
    found = leftovers(options.venv, options.port, options.mark, known)
    for pid, line in found.items():
        print(line)
        if options.kill:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    segments = [path for path in (f"/dev/shm/{name}" for name in sorted(names)) if os.path.exists(path)]
    for path in segments:
        print(f"{path} ({os.stat(path).st_blocks // 2} KiB of {os.stat(path).st_size // 1024})")
        if options.kill:
            os.unlink(path)
    listens = not options.kill and not refuses(options.port)
    if listens:
        print(f"port {options.port} is still answered")
    sys.exit(1 if found or segments or listens else 0)


if __name__ == "__main__":
    main()
