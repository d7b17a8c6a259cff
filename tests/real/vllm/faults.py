#!/usr/bin/env python3
"""Faults of a real vLLM and of its daemon: what the client sees, and what is left.

usage: faults.py --daemon FILE --venv DIR --models DIR --port PORT

The rows of docs/RELIABILITY.md that a real engine allows: its processes are killed or stopped, it is told
to end while it loads, and the daemon is killed while its engine loads, waits and answers. It starts and
kills daemons itself; it must never leave a process of an engine behind.
"""
import argparse
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import processes
from common import note, until

MODEL = "tiny-a"
HELLO = f"Hello! I am {MODEL}, a tiny test model."
LOAD_S = 300
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
    "VLLM_NO_USAGE_STATS": "1",
}


class Stream:
    """A streamed request that never ends by itself, read as it comes."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LOAD_S)
        body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "sing"}]}
        body["max_tokens"] = 4000
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body),
                                {"content-type": "application/json"})
        self.response = self.connection.getresponse()
        self.first = self._event()

    def _event(self):
        """The next event's data, or None at the end."""
        while line := self.response.readline():
            if line.startswith(b"data: "):
                return line[6:].strip().decode()
        return None

    def end(self):
        """The last event, and whether any was [DONE]."""
        last, done = self.first, False
        while (event := self._event()) is not None:
            last, done = event, done or event == "[DONE]"
        return last, done


class House:
    """A daemon in a directory of its own, and the engine that it has."""

    def __init__(self, options):
        self.options, self.work = options, tempfile.mkdtemp(prefix="faults-")
        self.mark = f"IMAGEWORKS_REAL_RUN={self.work}"
        self.daemon = None
        os.makedirs(f"{self.work}/registry")
        os.makedirs(f"{self.work}/tmp")
        env = {**ENVIRONMENT, "TMPDIR": f"{self.work}/tmp"}
        env = ", ".join(f"{name} = {json.dumps(value)}" for name, value in env.items())
        python = f"{options.venv}/bin/python"
        with open(f"{self.work}/chat_proxy.toml", "w", encoding="utf-8") as file:
            file.write(f"""[server]
port = 0
registry_dir = "{self.work}/registry"
log_path = "{self.work}/logs/chat.jsonl"
[vllm]
vllm_command = ["{python}", "-m", "vllm.entrypoints.openai.api_server"]
vllm_port = {options.port}
breaker_failures = 1000
vllm_restart_backoff_s = 0.1
health_interval_s = 1
health_probe_timeout_s = 1
env = {{ {env} }}
""")
        entry = {"name": MODEL, "backend": "vllm", "chat_template": {"source": "embedded"},
                 "backend_config": {"model_path": f"{options.models}/tiny-a",
                                    "extra_args": ["--enforce-eager", "--max-model-len", "4096"]}}
        with open(f"{self.work}/registry/model_registry.curated.json", "w", encoding="utf-8") as file:
            json.dump([entry], file)

    # The daemon.

    def start(self, **settings):
        names = {f"CHAT_PROXY_{name.upper()}": value for name, value in settings.items()}
        name, value = self.mark.split("=", 1)
        env = {**os.environ, "CHAT_PROXY_CONFIG_FILE": f"{self.work}/chat_proxy.toml", name: value, **names}
        log = open(f"{self.work}/daemon.log", "ab")
        self.daemon = subprocess.Popen([self.options.daemon, "serve"], cwd=self.work, env=env,
                                       stdout=subprocess.PIPE, stderr=log)
        line = self.daemon.stdout.readline().decode()
        self.port = int(line.rsplit(":", 1)[1])
        self.up = time.monotonic()

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()

    def stop(self):
        self.daemon.terminate()
        assert self.daemon.wait(120) == 0

    def sweep(self):
        env = {**os.environ, "CHAT_PROXY_CONFIG_FILE": f"{self.work}/chat_proxy.toml"}
        return subprocess.run([self.options.daemon, "sweep"], cwd=self.work, env=env, text=True,
                              capture_output=True, timeout=120, check=False)

    # Requests.

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LOAD_S)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def hello(self):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
        return self.ask("POST", "/v1/chat/completions", body)

    def serves(self):
        status, answer = self.hello()
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"] == HELLO, answer

    def engine(self):
        return self.ask("GET", "/v1/backends")[1]["backends"][0]

    # The engine's processes.

    def family(self):
        """Its processes by their names: leader, EngineCore, Worker, others."""
        found = processes.tree(self.engine()["pid"])
        processes.write_down(f"{self.work}/seen", found)
        return found

    def member(self, word):
        named = [pid for pid in self.family() if word in processes.command(pid)]
        assert named, f"no {word} among {[processes.command(pid) for pid in self.family()]}"
        return named[0]

    def gone(self, family, within_s):
        began = time.monotonic()
        lives = lambda: [pid for pid, start in family.items() if processes.lives(pid, start)]
        until(lambda: not lives(), within_s, "processes of the old engine are left")
        return time.monotonic() - began

    def left(self):
        known, names = processes.seen(f"{self.work}/seen")
        found = processes.leftovers(self.options.venv, self.options.port, self.mark, known)
        found.pop(self.daemon.pid, None)
        memory = [name for name in names if os.path.exists(f"/dev/shm/{name}")]
        return list(found.values()) + memory


class Rows(House):
    """Each row begins with an engine that serves, and ends so."""

    def _streamed(self, fault, within_s, names=None):
        """A stream, the fault, and how the stream ends."""
        stream, family = Stream(self.port), self.family()
        began = time.monotonic()
        fault()
        last, done = stream.end()
        took = time.monotonic() - began
        note(f"error at the client after {took * 1000:.0f} ms: {last[:160]}")
        assert "error" in json.loads(last) and not done, (last, done)
        assert names is None or names in last, last
        assert took < within_s, took
        note(f"nothing of it lived {self.gone(family, 30):.2f} s later")
        self.serves()

    def leader_killed_while_idle(self):
        family = self.family()
        os.kill(self.engine()["pid"], signal.SIGKILL)
        self.serves()
        assert self.gone(family, 1) < 1

    def leader_killed_while_streaming(self):
        pid = self.engine()["pid"]
        self._streamed(lambda: os.kill(pid, signal.SIGKILL), 2, "signal SIGKILL")

    def engine_core_killed_while_streaming(self):
        core = self.member("EngineCore")
        self._streamed(lambda: os.kill(core, signal.SIGKILL), 5)

    def worker_killed_while_idle(self):
        family, worker = self.family(), self.member("Worker")
        os.kill(worker, signal.SIGKILL)
        began = time.monotonic()
        until(lambda: self.engine()["state"] != "ready", 15, "nobody has noticed")
        note(f"noticed after {time.monotonic() - began:.2f} s: {self.engine()['last_error']}")
        self.gone(family, 15)
        self.serves()

    def leader_frozen_while_idle(self):
        family, pid = self.family(), self.engine()["pid"]
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        until(lambda: self.engine()["state"] != "ready", 20, "nobody has noticed")
        note(f"noticed after {time.monotonic() - began:.2f} s")
        self.gone(family, 20)
        self.serves()

    def forced_stop_while_streaming(self):
        order = lambda: self.ask("POST", "/v1/backends/vllm/deactivate", {"force": True})
        self._streamed(order, 2)

    def told_to_end_while_loading(self):
        """Once EngineCore is there, SIGTERM is ignored until it is ready."""
        os.kill(self.engine()["pid"], signal.SIGKILL)
        waiting = threading.Thread(target=self.hello)
        waiting.start()
        core = lambda: [p for p in processes.tree(self.engine()["pid"] or -1) if "EngineCore" in processes.command(p)]
        until(lambda: self.engine()["state"] == "starting" and core(), LOAD_S, "no EngineCore")
        family, began = self.family(), time.monotonic()
        self.ask("POST", "/v1/backends/vllm/deactivate", {})
        waiting.join(10)
        assert not waiting.is_alive(), "the one who waited was not told"
        self.gone(family, 15)
        note(f"gone after {time.monotonic() - began:.2f} s (the grace is 3 s)")
        self.serves()

    def daemon_killed_while_the_engine_waits(self):
        pid = self.engine()["pid"]
        self.kill()
        self.start()
        self.serves()
        note(f"first answer {time.monotonic() - self.up:.3f} s after the new daemon was up")
        assert time.monotonic() - self.up < 1
        assert self.engine()["pid"] == pid, "it was loaded again"

    def daemon_killed_while_the_engine_streams(self):
        pid, _ = self.engine()["pid"], Stream(self.port)
        self.kill()
        self.start()
        self.serves()
        note(f"first answer {time.monotonic() - self.up:.3f} s after the new daemon was up")
        assert self.engine()["pid"] == pid, "it was loaded again"

    def daemon_killed_while_the_engine_loads(self):
        os.kill(self.engine()["pid"], signal.SIGKILL)
        until(lambda: self.engine()["state"] == "failed", 15, "not failed")
        threading.Thread(target=lambda: self._try(self.hello), daemon=True).start()
        until(lambda: self.engine()["state"] == "starting", 15, "no start")
        pid = until(lambda: self.engine()["pid"], 5, "no pid")
        until(lambda: any("EngineCore" in processes.command(p) for p in processes.tree(pid)), LOAD_S, "no EngineCore")
        self.kill()
        self.start()
        self.serves()
        assert self.engine()["pid"] == pid, "it was started again"

    def _try(self, what):
        try:
            what()
        except (OSError, http.client.HTTPException):
            pass  # the daemon was killed, which is the point

    def kept_at_the_daemons_end_and_swept(self):
        self.stop()
        self.start(keep_backends_on_exit="true")
        self.serves()
        family = self.family()
        self.stop()
        assert all(processes.lives(pid, start) for pid, start in family.items()), "it was not kept"
        swept = self.sweep()
        note(swept.stdout.strip().splitlines()[-1])
        assert swept.returncode == 0, swept
        self.gone(family, 1)
        self.start()
        self.serves()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("daemon", "venv", "models"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--only", help="one row")
    options = parser.parse_args()
    options.daemon = os.path.realpath(options.daemon)
    house = Rows(options)
    rows = [name for name in vars(Rows) if name[0] != "_" and house.options.only in (None, name)]
    passed = 0
    house.start()
    try:
        house.serves()
        for name in rows:
            try:
                getattr(house, name)()
                passed += 1
                print(f"ok      {name}", flush=True)
            except Exception:  # whatever it is, the other rows still tell something
                print(f"FAILED  {name}\n{traceback.format_exc(limit=-2)}", flush=True)
                house.serves()
    finally:
        house.stop()
        left = house.left()
    print(f"{passed} of {len(rows)} rows as they should be; left at the end: {left or 'nothing'}")
    good = passed == len(rows) and not left
    if good:
        shutil.rmtree(house.work)
    else:
        print(f"logs: {house.work}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
