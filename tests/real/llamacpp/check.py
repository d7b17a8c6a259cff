#!/usr/bin/env python3
"""Checks the daemon in front of a real llama.cpp server, with the openai SDK and with curl.

Each check is a function whose name says what must be true. First the engine's own quirks are
checked, so that a new release that drops one is told apart from a fault of the daemon.
It must never start or stop a process other than curl.
"""
import argparse
import json
import subprocess
import sys
import time
import traceback

import openai

HELLO = "Hello! I am tiny-a, a tiny test model."
UNICODE = "Grüße 世界 😀!!"
# The engine reads each of its bytes as a token, and has room for 512.
TOO_LONG = "word " * 200
GONE = "Disconnected from client"
NOTICED_WITHIN_S = 0.5


def chat(content, **more):
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **more}


class Answer:
    """What curl brought: status, headers by lower-case name, body."""

    def __init__(self, url, body=None):
        command = ["curl", "-sS", "-i", "-m", "30", "-H", "Expect:", url]
        if body is not None:
            text = body if isinstance(body, str) else json.dumps(body)
            command += ["-H", "content-type: application/json", "-d", text]
        output = subprocess.run(command, check=True, capture_output=True).stdout.decode()
        head, _, self.body = output.partition("\r\n\r\n")
        lines = head.split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:] if ": " in line)}

    def json(self):
        return json.loads(self.body)

    def events(self):
        """The data of every event; whatever else stands in the body is an error, comments apart."""
        blocks = [block for block in self.body.split("\n\n") if block]
        assert self.body.endswith("\n\n"), f"cut: {self.body[-80:]!r}"
        blocks = [block for block in blocks if not block.startswith(":")]
        assert all(block.startswith("data: ") for block in blocks), blocks
        return [block.removeprefix("data: ") for block in blocks]


class Checks:
    def __init__(self, proxy, engine, engine_log):
        self.proxy, self.engine, self.engine_log = proxy + "/v1", engine, engine_log
        self.completions = self.proxy + "/chat/completions"
        self.sdk = openai.OpenAI(base_url=self.proxy, api_key="none", max_retries=0, timeout=30)

    def create(self, content, **more):
        return self.sdk.chat.completions.create(**chat(content, **more))

    def departures(self):
        with open(self.engine_log, encoding="utf-8", errors="replace") as log:
            return log.read().count(GONE)

    # The engine itself.

    def engine_has_no_health(self):
        assert Answer(self.engine + "/health").status == 404

    def engine_takes_any_model_and_echoes_its_name(self):
        answer = Answer(self.engine + "/v1/chat/completions", chat("hello") | {"model": "anything"})
        assert (answer.status, answer.json()["model"]) == (200, "anything"), answer.body

    def engine_answers_bad_json_with_500_as_text(self):
        answer = Answer(self.engine + "/v1/chat/completions", '{"x":')
        assert (answer.status, answer.body) == (500, "Internal Server Error"), answer.body

    def engine_streams_nothing_at_all_when_the_context_overflows(self):
        answer = Answer(self.engine + "/v1/chat/completions", chat(TOO_LONG, stream=True))
        assert (answer.status, answer.body) == (200, ""), answer.body

    def engine_sends_no_usage_in_streams(self):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        answer = Answer(self.engine + "/v1/chat/completions", chat("hello", **options))
        assert answer.events()[-1] == "[DONE]"
        assert not any("usage" in event for event in answer.events()), answer.body

    # The daemon in front of it.

    def models_are_listed(self):
        assert [model.id for model in self.sdk.models.list()] == ["tiny"]

    def an_answer_is_whole_and_the_engine_was_asked_for_the_served_id(self):
        raw = self.sdk.chat.completions.with_raw_response.create(**chat("hello", temperature=0))
        answer = raw.parse()
        assert answer.choices[0].message.content == HELLO, answer
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens > 0
        assert answer.model == "tiny-gguf", "the engine echoes the name that it was asked for"
        assert raw.headers["x-imageworks-model"] == "tiny"

    def a_stream_is_the_same_answer_in_pieces(self):
        chunks = list(self.create("hello", stream=True))
        assert self.text(chunks) == HELLO, chunks
        assert sum(1 for chunk in chunks if self.text([chunk])) >= 9, "pieces were joined"
        assert {chunk.model for chunk in chunks} == {"tiny-gguf"}
        assert self.finishes(chunks) == ["stop"]

    def no_letter_is_torn(self):
        assert self.create("unicode").choices[0].message.content == UNICODE
        assert self.text(self.create("unicode", stream=True)) == UNICODE

    def a_stream_ends_with_one_done_on_the_wire(self):
        answer = Answer(self.completions, chat("hello", stream=True))
        events = answer.events()
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream"), answer.headers
        assert events.count("[DONE]") == 1 and events[-1] == "[DONE]"
        assert all("error" not in json.loads(event) for event in events[:-1])

    def a_stream_without_the_usage_that_was_asked_for_is_still_a_good_one(self):
        chunks = list(self.create("hello", stream=True, stream_options={"include_usage": True}))
        assert self.text(chunks) == HELLO
        assert self.finishes(chunks) == ["stop"]
        assert all(not chunk.choices for chunk in chunks if chunk.usage), "usage beside content"

    def the_end_of_the_context_is_told_as_length(self):
        assert self.create("sing").choices[0].finish_reason == "length"
        chunks = list(self.create("sing", stream=True))
        assert self.finishes(chunks) == ["length"] and len(self.text(chunks)) > 1000

    def completions_are_relayed_whole_and_streamed(self):
        raw = self.sdk.completions.with_raw_response.create(
            model="tiny", prompt="<|hello|>", max_tokens=6, temperature=0)
        answer = raw.parse()
        assert raw.headers["x-imageworks-model"] == "tiny"
        assert answer.object == "text_completion" and answer.model == "tiny-gguf", answer
        assert answer.usage.completion_tokens > 0, answer
        chunks = list(self.sdk.completions.create(
            model="tiny", prompt="<|hello|>", max_tokens=6, temperature=0, stream=True))
        text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        assert text == answer.choices[0].text, (text, answer)

    def an_endpoint_that_the_engine_lacks_is_answered_by_the_engine(self):
        for path in ("/v1/rerank", "/v1/messages"):
            answer = Answer(self.proxy.removesuffix("/v1") + path, {"model": "tiny", "messages": []})
            assert answer.status == 404 and "error" in answer.json(), (path, answer.status, answer.body)

    def max_tokens_and_unknown_fields_reach_the_engine(self):
        answer = self.create("hello", max_tokens=3, extra_body={"min_p": 0.1, "unheard_of": [1]})
        assert answer.choices[0].message.content == "Hello! I am"
        assert answer.choices[0].finish_reason == "length"

    def bad_json_is_refused_by_the_daemon_itself(self):
        answer = Answer(self.completions, '{"x":')
        assert answer.status == 400, answer.body
        assert answer.json()["error"]["code"] == "err_invalid_request", answer.body

    def an_unknown_model_is_refused_though_the_engine_would_take_it(self):
        answer = Answer(self.completions, chat("hello") | {"model": "no-such-thing"})
        assert answer.status == 404, answer.body
        assert answer.json()["error"]["code"] == "err_model_not_found", answer.body

    def a_context_overflow_passes_through(self):
        answer = Answer(self.completions, chat(TOO_LONG))
        assert answer.status == 400, answer.body
        error = answer.json()["error"]
        assert error["code"] == "context_length_exceeded" and "512" in error["message"], answer.body
        try:
            self.create(TOO_LONG)
        except openai.BadRequestError:
            return
        raise AssertionError("the SDK saw no error")

    def an_empty_stream_is_an_error_and_never_a_good_answer(self):
        answer = Answer(self.completions, chat(TOO_LONG, stream=True))
        assert answer.status == 502, (answer.status, answer.body)
        assert answer.json()["error"]["code"] == "err_backend_unavailable", answer.body
        try:
            list(self.create(TOO_LONG, stream=True))
        except openai.InternalServerError as error:
            assert error.status_code == 502
            return
        raise AssertionError("the SDK saw no error")

    def an_empty_stream_does_not_spoil_the_next_request(self):
        # The engine ends the body properly and closes the kept-alive connection a moment later.
        for _ in range(5):
            assert Answer(self.completions, chat(TOO_LONG, stream=True)).status == 502
            answer = Answer(self.completions, chat("hello"))
            assert answer.status == 200, (answer.status, answer.body)

    def the_engine_hears_at_once_that_a_client_left(self):
        before = self.departures()
        for nth in (1, 2, 3):
            stream = self.create("sing", stream=True)
            for _ in range(5):
                next(stream)
            left = time.monotonic()
            stream.close()
            while self.departures() < before + nth:
                late = time.monotonic() - left
                assert late < NOTICED_WITHIN_S, f"departure {nth} not noticed in {late:.2f} s"
                time.sleep(0.005)
        assert self.create("hello").choices[0].message.content == HELLO

    def daemon_and_engine_still_live(self):
        assert Answer(self.proxy + "/healthz").status == 200
        assert Answer(self.engine + "/v1/models").status == 200

    @staticmethod
    def text(chunks):
        return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)

    @staticmethod
    def finishes(chunks):
        reasons = (c.finish_reason for chunk in chunks for c in chunk.choices)
        return [reason for reason in reasons if reason]


NOT_CHECKS = {"create", "departures", "text", "finishes"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proxy", required=True, metavar="URL")
    parser.add_argument("--engine", required=True, metavar="URL")
    parser.add_argument("--engine-log", required=True, metavar="FILE")
    options = parser.parse_args()
    checks = Checks(options.proxy, options.engine, options.engine_log)
    names = [name for name in vars(Checks) if name[0] != "_" and name not in NOT_CHECKS]
    failed = 0
    for name in names:
        try:
            getattr(checks, name)()
            print(f"ok      {name}", flush=True)
        except Exception:  # whatever it is, the other checks still tell something
            failed += 1
            print(f"FAILED  {name}\n{traceback.format_exc(limit=-2)}", flush=True)
    print(f"{len(names) - failed} of {len(names)} checks passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
