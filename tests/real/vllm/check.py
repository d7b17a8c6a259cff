#!/usr/bin/env python3
"""Checks the daemon that starts, swaps and stops a real vLLM, with the openai SDK and with raw HTTP.

Each check is a function whose name says what must be true; they run in the order they stand in, for
a load takes a minute and each check uses the engine that the one before left running. It must never
start or stop a process itself.
"""
import argparse
import concurrent.futures
import datetime
import http.client
import json
import os
import re
import socket
import statistics
import sys
import threading
import time
import traceback

import openai

import processes
from common import note, until

FIRST, SECOND, BROKEN = "tiny-a", "tiny-b", "too-long"
# What --served-model-name must be: the first entry has no served_model_id, so its name is used.
SERVED = {FIRST: "tiny-a", SECOND: "tiny-b-served"}
UNICODE = "Grüße 世界 😀!!"
LOAD_TIMEOUT_S = 900
PROMPT = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
HEARTBEAT_S = 2
REPEATS = 5
# The promise is 0.1 s to the engine; the engine's own bookkeeping and our polling come on top, so
# the promise is held against the median, and a single one may be late on a busy machine.
FREED_WITHIN_S = 0.1
FREED_AT_WORST_S = 0.5


def hello(model):
    return f"Hello! I am {model}, a tiny test model."


def chat(model, content, **more):
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


def moment(value):
    """Seconds since 1970, from a number or from RFC 3339."""
    if isinstance(value, (int, float)):
        return float(value)
    return datetime.datetime.fromisoformat(value).timestamp()


class Answer:
    """What came back over one connection: status, headers by lower-case name, body."""

    def __init__(self, port, path, body=None, timeout_s=30):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        headers = {"content-type": "application/json"}
        text = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, text, headers)
        response = connection.getresponse()
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read().decode()
        connection.close()

    def json(self):
        return json.loads(self.body)

    def blocks(self):
        assert self.body.endswith("\n\n"), f"cut: {self.body[-80:]!r}"
        return [block for block in self.body.split("\n\n") if block]

    def comments(self):
        """The comments; none may stand behind data."""
        blocks = self.blocks()
        first = next(place for place, block in enumerate(blocks) if not block.startswith(":"))
        assert not any(block.startswith(":") for block in blocks[first:]), "a comment within the data"
        return blocks[:first]

    def events(self):
        """The data of every event; whatever else stands in the body is an error, comments apart."""
        blocks = self.blocks()[len(self.comments()) :]
        assert all(block.startswith("data: ") for block in blocks), blocks
        return [block.removeprefix("data: ") for block in blocks]

    def chunks(self):
        """The chunks of a stream that ended well."""
        events = self.events()
        assert events.count("[DONE]") == 1 and events[-1] == "[DONE]", events[-3:]
        return [json.loads(event) for event in events[:-1]]


def text_of(chunks):
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])


def finishes_of(chunks):
    reasons = (c.get("finish_reason") for chunk in chunks for c in chunk["choices"])
    return [reason for reason in reasons if reason]


def sample(text, name, **labels):
    """The sum over all lines of a metric that carry these labels, in Prometheus' text format."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    values = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for found, value in values if all(part in found for part in wanted))


class Engine:
    """vLLM itself, on its own port."""

    def __init__(self, port):
        self.port = port

    def metrics(self):
        return Answer(self.port, "/metrics").body

    def running(self):
        return sample(self.metrics(), "vllm:num_requests_running")

    def tokens(self):
        return sample(self.metrics(), "vllm:generation_tokens_total")

    def ran_to_the_end(self):
        return sample(self.metrics(), "vllm:request_success_total", finished_reason="length")


class Client:
    """A client that sends one request and may leave at any moment, as one that is killed does."""

    def __init__(self, port, body):
        text = json.dumps(body).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.sendall(head.encode() + text)

    def read_events(self, count):
        received = b""
        while received.count(b"data: ") < count:
            piece = self.socket.recv(65536)
            assert piece, received
            received += piece

    def leave(self):
        self.socket.close()


class Watch(threading.Thread):
    """Notes, from before a swap to its end, when each process of the old engine was last alive."""

    def __init__(self, leader):
        super().__init__(daemon=True)
        self.old = processes.tree(leader)
        self.last_alive = 0.0
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.005):
            now = processes.since_boot()
            if any(processes.lives(pid, start) for pid, start in self.old.items()):
                self.last_alive = now

    def stop(self):
        self.done.set()
        self.join()


class Daemon:
    """The daemon under test and what several checks have in common."""

    def __init__(self, options):
        self.port = int(options.proxy.rsplit(":", 1)[1])
        self.state_file, self.log_dir, self.seen_file = options.state, options.log_dir, options.seen
        self.began = time.time()
        self.engine = Engine(options.engine_port)
        self.sdk = openai.OpenAI(
            base_url=options.proxy + "/v1", api_key="none", max_retries=0, timeout=LOAD_TIMEOUT_S
        )

    def post(self, model, content, **more):
        return Answer(self.port, "/v1/chat/completions", chat(model, content, **more), LOAD_TIMEOUT_S)

    def create(self, model, content, **more):
        return self.sdk.chat.completions.create(**chat(model, content, **more))

    def backend(self):
        """What the daemon says about its engine."""
        backends = Answer(self.port, "/v1/backends").json()["backends"]
        return next((backend for backend in backends if backend["kind"] == "vllm"), {})

    def state(self):
        """What the daemon wrote down about its engine."""
        with open(self.state_file, encoding="utf-8") as file:
            return json.load(file)

    def tree(self):
        """The processes of the engine that runs, which the search at the end must not find again."""
        members = processes.tree(self.state()["pid"])
        processes.write_down(self.seen_file, members)
        return members

    def swaps(self):
        return sample(Answer(self.port, "/metrics").body, "imageworks_proxy_swaps_total")

    def shown_is(self, model):
        shown, written = self.backend(), self.state()
        assert shown["state"].lower() in ("ready", "running", "serving"), shown
        assert (shown["model"], shown["pid"], shown["port"]) == (model, written["pid"], self.engine.port)

    def written_is(self, model):
        written = self.state()
        facts = (written["logical_name"], written["served_model_id"], written["port"])
        assert facts == (model, SERVED[model], self.engine.port), written
        served = Answer(self.engine.port, "/v1/models").json()["data"]
        assert [entry["id"] for entry in served] == [SERVED[model]], served
        assert f"--port {self.engine.port}" in processes.command(written["pid"]), written
        started = moment(written["started_at"])
        assert self.began - 60 < started < time.time(), written

    def answers_are_whole(self, model):
        """Streamed and not, with the SDK and without, with and without usage in the stream."""
        raw = self.sdk.chat.completions.with_raw_response.create(**chat(model, "hello", temperature=0))
        answer = raw.parse()
        assert raw.headers["x-imageworks-model"] == model
        assert answer.choices[0].message.content == hello(model), answer
        assert answer.choices[0].finish_reason == "stop"
        assert answer.model == SERVED[model], answer.model
        assert answer.usage.completion_tokens == 10, answer.usage

        answer = self.post(model, "hello", temperature=0).json()
        assert answer["choices"][0]["message"]["content"] == hello(model), answer
        assert answer["usage"]["completion_tokens"] == 10, answer

        usage = {"stream_options": {"include_usage": True}}
        for wanted in ({}, usage):
            chunks = [c.model_dump() for c in self.create(model, "hello", stream=True, temperature=0, **wanted)]
            self.stream_is_whole(model, chunks, bool(wanted))
            answer = self.post(model, "hello", stream=True, temperature=0, **wanted)
            assert answer.status == 200 and not answer.comments(), answer.body
            self.stream_is_whole(model, answer.chunks(), bool(wanted))

    def stream_is_whole(self, model, chunks, with_usage):
        assert text_of(chunks) == hello(model), chunks
        assert finishes_of(chunks) == ["stop"], chunks
        assert {chunk["model"] for chunk in chunks} == {SERVED[model]}, chunks
        told = [chunk for chunk in chunks if chunk.get("usage")]
        assert len(told) == with_usage, told
        assert all(not c["choices"] and c["usage"]["completion_tokens"] == 10 for c in told), told

    def is_freed(self, port, stream):
        """An endless answer is left half-way; measured from the close to the engine's own word."""
        model = self.state()["served_model_id"] if port == self.engine.port else FIRST
        times = []
        for _ in range(REPEATS):
            until(lambda: self.engine.running() == 0, 30, "the engine is free beforehand")
            tokens, complete = self.engine.tokens(), self.engine.ran_to_the_end()
            client = Client(port, chat(model, "sing", stream=stream))
            until(self.engine.running, 10, "the request runs")
            if stream:
                client.read_events(20)
            else:
                until(lambda: self.engine.tokens() > tokens + 20, 10, "the engine is well into it")
            left = time.monotonic()
            client.leave()
            until(lambda: self.engine.running() == 0, FREED_AT_WORST_S, "the engine is free")
            times.append(time.monotonic() - left)
            assert self.engine.ran_to_the_end() == complete, "the answer had come to its end"
        shown = " ".join(f"{1000 * took:.0f}" for took in times)
        note(f"free after {shown} ms ({'streamed' if stream else 'not streamed'})")
        assert statistics.median(times) <= FREED_WITHIN_S, times

    def swapped(self, model, ask):
        """Asks for another model and compares when the old engine ended with when the new one began."""
        self.tree()
        before, watch = self.swaps(), Watch(self.state()["pid"])
        watch.start()
        began, asked = time.monotonic(), processes.since_boot()
        try:
            ask()
        finally:
            watch.stop()
        took = time.monotonic() - began
        started = min(self.tree().values())
        note(
            f"swap to {model}: {took:.1f} s; the old engine was gone after "
            f"{watch.last_alive - asked:.2f} s, the new one began at {started - asked:.2f} s"
        )
        assert asked < watch.last_alive, "the old engine was gone before anybody asked"
        assert watch.last_alive <= started + 2 * processes.TICK, "both engines lived at one time"
        assert not any(processes.lives(pid, start) for pid, start in watch.old.items())
        assert self.swaps() == before + 1


class Checks(Daemon):
    # Before anything runs.

    def nothing_runs_before_the_first_request(self):
        assert not os.path.exists(self.state_file)
        assert processes.refuses(self.engine.port)
        assert self.backend().get("pid") is None, self.backend()

    def an_engine_that_cannot_start_tells_why(self):
        began = time.monotonic()
        answer = self.post(BROKEN, "hello")
        note(f"a start that fails was told after {time.monotonic() - began:.1f} s")
        assert answer.status == 502, (answer.status, answer.body)
        error = answer.json()["error"]
        assert error["code"] == "err_model_start_failed", answer.body
        assert "max_model_len (1000000) is greater than" in error["hint"], answer.body
        assert answer.headers["x-should-retry"] == "false", answer.headers
        assert not os.path.exists(self.state_file)
        assert processes.refuses(self.engine.port)

    # The first model.

    def the_first_request_starts_the_engine_and_hears_comments_meanwhile(self):
        began = time.monotonic()
        answer = self.post(FIRST, "hello", stream=True, temperature=0)
        took = time.monotonic() - began
        note(f"activation of {FIRST}: {took:.1f} s from the request to its answer's end")
        assert answer.status == 200, (answer.status, answer.body)
        assert answer.headers["content-type"].startswith("text/event-stream"), answer.headers
        assert answer.headers["x-imageworks-model"] == FIRST, answer.headers
        assert text_of(answer.chunks()) == hello(FIRST), answer.body
        assert len(answer.comments()) >= max(1, took / HEARTBEAT_S - 2), (took, answer.comments())

    def the_backend_is_shown(self):
        self.shown_is(FIRST)

    def the_state_file_tells_of_the_living_engine(self):
        self.written_is(FIRST)

    def the_engine_is_one_process_group_of_its_own(self):
        leader = self.state()["pid"]
        members = self.tree()
        for pid in sorted(members):
            note(f"{processes.resident_mib(pid):6} MiB  {processes.command(pid)[:70]}")
        assert len(members) >= 3, members
        assert {processes.stat(pid)[2] for pid in members} == {leader}, members
        assert leader != os.getpgid(0), "the engine is in the group of whoever called"

    def its_output_is_in_a_log_of_its_own(self):
        with open(os.path.join(self.log_dir, FIRST + ".log"), encoding="utf-8", errors="replace") as log:
            text = log.read()
        assert "Application startup complete." in text, text[-300:]

    def it_was_given_the_settings(self):
        arguments = processes.command(self.state()["pid"])
        for part in ("--served-model-name tiny-a", "--gpu-memory-utilization 0.75", "--enforce-eager"):
            assert part in arguments, arguments

    def an_answer_is_whole(self):
        self.answers_are_whole(FIRST)

    def completions_are_relayed_whole_and_streamed(self):
        asked = {"model": FIRST, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
        whole = self.sdk.completions.create(**asked)
        assert whole.object == "text_completion" and whole.usage.completion_tokens > 0, whole
        options = {"include_usage": True}
        chunks = list(self.sdk.completions.create(**asked, stream=True, stream_options=options))
        text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].text, (text, whole)
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens, chunks[-1]
        plain = Answer(self.port, "/v1/completions", {**asked, "stream": True})
        assert all("usage" not in chunk or chunk["usage"] is None for chunk in plain.chunks())

    def responses_are_relayed_whole_and_streamed(self):
        whole = self.sdk.responses.create(model=FIRST, input="hello", temperature=0)
        assert whole.output_text == hello(FIRST), whole
        events = list(self.sdk.responses.create(model=FIRST, input="hello", temperature=0, stream=True))
        assert events[0].type == "response.created" and events[-1].type == "response.completed"
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == hello(FIRST), deltas

    def messages_are_relayed_whole_and_streamed(self):
        asked = {**chat(FIRST, "hello"), "max_tokens": 60, "temperature": 0}
        whole = Answer(self.port, "/v1/messages", asked)
        assert whole.status == 200 and whole.json()["content"][0]["text"] == hello(FIRST), whole.body
        told = Answer(self.port, "/v1/messages", {**asked, "stream": True})
        blocks = [block.split("\n", 1) for block in told.blocks()]
        names = [name.removeprefix("event: ") for name, _ in blocks]
        assert names[0] == "message_start" and names[-1] == "message_stop", names
        data = [json.loads(rest.removeprefix("data: ")) for _, rest in blocks]
        text = "".join(d["delta"].get("text", "") for d in data if d["type"] == "content_block_delta")
        assert text == hello(FIRST), text
        counted = Answer(self.port, "/v1/messages/count_tokens", chat(FIRST, "hello"))
        assert counted.json()["input_tokens"] > 0, counted.body
        missing = Answer(self.port, "/v1/messages", {**asked, "model": "nobody"})
        assert missing.status == 404 and missing.json()["type"] == "error", missing.body

    def tokens_are_counted_and_read_back(self):
        tokens = Answer(self.port, "/tokenize", {"model": FIRST, "prompt": "hello"}).json()
        assert tokens["count"] == len(tokens["tokens"]) > 0, tokens
        back = Answer(self.port, "/detokenize", {"model": FIRST, "tokens": tokens["tokens"]})
        assert back.status == 200 and "hello" in back.json()["prompt"], back.body

    def an_endpoint_that_the_engine_lacks_is_answered_by_the_engine(self):
        answer = Answer(self.port, "/v1/rerank", {"model": FIRST, "query": "a", "documents": ["b"]})
        assert answer.status in (400, 404, 405) and "error" in answer.json(), (answer.status, answer.body)

    def no_letter_is_torn(self):
        assert self.create(FIRST, "unicode").choices[0].message.content == UNICODE
        assert text_of(self.post(FIRST, "unicode", stream=True).chunks()) == UNICODE

    def the_context_overflow_passes_through(self):
        answer = self.post(FIRST, "word " * 1000)
        assert answer.status == 400 and "4096" in answer.body, (answer.status, answer.body)

    # Clients that leave. First without the daemon, so that a slow engine is told apart.

    def the_engine_alone_is_freed_when_a_client_leaves_a_stream(self):
        self.is_freed(self.engine.port, stream=True)

    def the_engine_alone_is_freed_when_a_client_leaves_before_an_answer(self):
        self.is_freed(self.engine.port, stream=False)

    def the_engine_is_freed_when_a_client_leaves_a_stream(self):
        self.is_freed(self.port, stream=True)

    def the_engine_is_freed_when_a_client_leaves_before_an_answer(self):
        self.is_freed(self.port, stream=False)

    def the_engine_is_freed_when_a_client_of_the_sdk_leaves(self):
        stream = self.create(FIRST, "sing", stream=True)
        for _ in range(5):
            next(stream)
        until(self.engine.running, 10, "the request runs")
        stream.close()
        until(lambda: self.engine.running() == 0, FREED_AT_WORST_S, "the engine is free")

    # Swaps.

    def a_swap_waits_until_the_old_engine_is_gone(self):
        def ask():
            chunks = [chunk.model_dump() for chunk in self.create(SECOND, "hello", stream=True, temperature=0)]
            assert text_of(chunks) == hello(SECOND), chunks

        self.swapped(SECOND, ask)

    def the_second_model_is_shown_and_written_down(self):
        self.shown_is(SECOND)
        self.written_is(SECOND)

    def the_second_model_answers_in_every_way(self):
        self.answers_are_whole(SECOND)

    def a_swap_back_waits_as_well(self):
        def ask():
            answer = self.post(FIRST, "hello", temperature=0)
            assert answer.json()["choices"][0]["message"]["content"] == hello(FIRST), answer.body

        self.swapped(FIRST, ask)

    def the_first_model_is_shown_and_written_down_again(self):
        self.shown_is(FIRST)
        self.written_is(FIRST)

    def requests_for_both_models_at_once_all_complete(self):
        before = self.swaps()

        def ask(nth):
            model = (FIRST, SECOND)[nth % 2]
            if nth % 4 < 2:
                return text_of(self.post(model, "hello", stream=True).chunks()) == hello(model)
            return self.create(model, "hello").choices[0].message.content == hello(model)

        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            assert all(pool.map(ask, range(12)))
        swaps = self.swaps() - before
        note(f"twelve requests for both models: {time.monotonic() - began:.1f} s, {swaps:.0f} swaps")
        self.tree()
        assert 1 <= swaps <= 2, swaps

    # What is told about it all.

    def metrics_count_swaps_and_requests(self):
        text = Answer(self.port, "/metrics").body
        assert sample(text, "imageworks_proxy_swaps_total") >= 3, text
        for model in (FIRST, SECOND):
            assert sample(text, "imageworks_proxy_requests_total", model=model) >= 10, (model, text)

    def daemon_and_engine_still_live(self):
        assert Answer(self.port, "/v1/healthz").status == 200
        assert Answer(self.engine.port, "/health").status == 200


# Where this one fails there is no engine to try the others with.
ESSENTIAL = "the_first_request_starts_the_engine_and_hears_comments_meanwhile"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proxy", required=True, metavar="URL")
    parser.add_argument("--engine-port", required=True, type=int, metavar="PORT")
    parser.add_argument("--state", required=True, metavar="FILE", help="what the daemon writes of its engine")
    parser.add_argument("--log-dir", required=True, metavar="DIR", help="where engines' logs are")
    parser.add_argument("--seen", required=True, metavar="FILE", help="every process of an engine is added to it")
    checks = Checks(parser.parse_args())
    names = [name for name in vars(Checks) if name[0] != "_"]
    passed = 0
    for name in names:
        try:
            getattr(checks, name)()
            passed += 1
            print(f"ok      {name}", flush=True)
        except Exception:  # whatever it is, the other checks still tell something
            print(f"FAILED  {name}\n{traceback.format_exc(limit=-2)}", flush=True)
            if name == ESSENTIAL:
                break
    print(f"{passed} of {len(names)} checks passed")
    sys.exit(0 if passed == len(names) else 1)


if __name__ == "__main__":
    main()
