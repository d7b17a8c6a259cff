#!/usr/bin/env python3
"""Checks the daemon in front of a real Ollama, with the openai SDK and with raw HTTP.

Each check is a function whose name says what must be true. It must never start or stop a process.
"""
import argparse
import json
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request

import openai

HELLO = "Hello! I am tiny-a, a tiny test model."
ENGINE = "Hello! I am engine, a tiny test model."
UNICODE = "Grüße 世界 😀!!"
NOTICED_WITHIN_S = 1.0


class Answer:
    """What came back: status, headers, body."""

    def __init__(self, url, body=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
        try:
            response = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            response = error
        self.status, self.headers, self.body = response.status, response.headers, response.read().decode()

    def json(self):
        return json.loads(self.body)


def until(what, condition, within_s=15):
    began = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - began < within_s, f"not within {within_s} s: {what}"
        time.sleep(0.02)
    return found


class Checks:
    def __init__(self, proxy, ollama, log):
        self.root, self.proxy, self.ollama, self.log = proxy, proxy + "/v1", ollama, log
        self.sdk = openai.OpenAI(base_url=self.proxy, api_key="client-secret", max_retries=0, timeout=60)

    def create(self, model, content="hi", **more):
        messages = [{"role": "user", "content": content}]
        return self.sdk.chat.completions.create(model=model, messages=messages, **more)

    def chat(self, model, **more):
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
        return Answer(self.proxy + "/chat/completions", body)

    def loaded(self):
        models = Answer(self.ollama + "/api/ps").json()["models"]
        return {model["name"]: model for model in models}

    def state(self, model):
        return Answer(f"{self.proxy}/models/{model}").json()["extensions"]["state"]

    def generations(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return [line for line in log if "/api/chat" in line]

    # Checks.

    def the_list_says_what_there_is(self):
        until("Ollama was asked", lambda: self.state("hello") == "stopped")
        assert self.state("gone") == "missing"

    def an_answer_is_whole(self):
        raw = self.sdk.chat.completions.with_raw_response.create(
            model="hello", messages=[{"role": "user", "content": "hi"}], temperature=0, seed=1)
        answer = raw.parse()
        assert answer.choices[0].message.content == HELLO, answer
        assert answer.choices[0].finish_reason == "stop", answer
        assert answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens > 8, answer
        assert raw.headers["x-imageworks-model"] == "hello"
        assert "x-imageworks-policy" not in raw.headers, raw.headers

    def a_stream_is_the_same_answer_in_pieces(self):
        options = {"include_usage": True}
        chunks = list(self.create("hello", stream=True, stream_options=options))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == HELLO, chunks
        assert len(chunks) > 9, "pieces were joined"
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[-1].usage.completion_tokens > 8 and not chunks[-1].choices, chunks[-1]

    def no_letter_is_torn(self):
        assert self.create("unicode").choices[0].message.content == UNICODE
        chunks = self.create("unicode", stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == UNICODE, text

    def options_that_load_come_from_the_registry_alone(self):
        until("its context", lambda: self.loaded().get("real-hello:latest", {}).get("context_length") == 256)
        answer = self.chat("hello", num_ctx=512, options={"num_ctx": 512, "top_k": 5})
        assert answer.status == 200 and "num_ctx" in answer.headers["x-imageworks-policy"], answer.headers
        assert self.loaded()["real-hello:latest"]["context_length"] == 256

    def limits_and_stops_are_honoured(self):
        answer = self.create("hello", max_tokens=2)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello! I", "length")
        answer = self.create("hello", stop="tiny-a")
        assert answer.choices[0].message.content.strip() == "Hello! I am", answer

    def log_probabilities_come_in_openais_shape(self):
        answer = self.create("hello", max_tokens=2, logprobs=True, top_logprobs=1)
        content = answer.choices[0].logprobs.content
        assert [one.token for one in content] == ["Hello", "! I"], content
        assert content[0].top_logprobs[0].token == "Hello", content

    def a_schema_constrains_the_answer(self):
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        answer = self.create("hello", response_format=form, max_tokens=40)
        assert answer.choices[0].message.content.lstrip().startswith("{"), answer

    def what_the_model_cannot_do_is_not_asked_of_it_or_told(self):
        answer = self.chat("hello", reasoning_effort="high")
        assert answer.status == 200, answer.body
        assert answer.headers["x-imageworks-policy"] == "dropped=reasoning_effort", answer.headers
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        answer = self.chat("hello", tools=[tool])
        assert answer.status == 400 and "does not support tools" in answer.body, answer.body

    def a_model_that_is_not_there_says_how_to_get_it(self):
        answer = self.chat("gone")
        assert answer.status == 404, answer.body
        assert "ollama pull not-there:7b" in answer.json()["error"]["hint"], answer.body

    def ollama_hears_at_once_that_a_client_left(self):
        before = len(self.generations())
        stream = self.create("sing", stream=True)
        for _ in range(5):
            next(stream)
        # Nothing is told of a chat before its end.
        seen = len(self.generations())
        left = time.monotonic()
        stream.close()
        until("the end of the chat", lambda: len(self.generations()) > max(before, seen), NOTICED_WITHIN_S)
        print(f"        told after {(time.monotonic() - left) * 1000:.0f} ms")

    def other_endpoints_go_to_ollamas_own(self):
        answer = self.sdk.completions.create(model="hello", prompt="hi", max_tokens=2)
        assert answer.choices[0].text == "Hello! I", answer
        chunks = list(self.sdk.completions.create(model="hello", prompt="hi", max_tokens=2, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "Hello! I", chunks
        body = {"model": "hello", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}
        answer = Answer(self.proxy + "/messages", body)
        assert answer.json()["content"][0]["text"] == "Hello! I", answer.body
        answer = self.sdk.responses.create(model="hello", input="hi")
        assert answer.output_text == HELLO, answer
        answer = Answer(self.root + "/tokenize", {"model": "hello", "prompt": "hi"})
        assert answer.status == 404, answer.body

    def a_model_is_loaded_and_unloaded_by_hand(self):
        answer = Answer(self.proxy + "/backends/ollama/unload", {"model": "hello"})
        assert answer.json()["models"] == ["real-hello:latest"], answer.body
        assert "real-hello:latest" not in self.loaded()
        answer = Answer(self.proxy + "/backends/ollama/load", {"model": "hello", "wait": True})
        assert answer.json()["state"] == "ready" and "real-hello:latest" in self.loaded(), answer.body

    def the_engine_and_ollama_take_turns(self):
        assert self.loaded(), "something to be unloaded"
        seen, stop = [], threading.Event()

        def watch():
            while not stop.is_set():
                engine = Answer(self.proxy + "/backends").json()["backends"][0]
                names = list(self.loaded())
                again = Answer(self.proxy + "/backends").json()["backends"][0]
                if engine["pid"] and engine["pid"] == again["pid"] and names:
                    seen.append((engine, names))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for model, want in [("engine", ENGINE), ("hello", HELLO), ("engine", ENGINE), ("unicode", UNICODE)]:
                began = time.monotonic()
                answer = self.create(model, "hello").choices[0].message.content
                assert answer == want, answer
                print(f"        {model} after {time.monotonic() - began:.2f} s")
        finally:
            stop.set()
            watcher.join()
        assert not seen, seen

    def both_at_once_are_all_answered(self):
        failed = []

        def ask(model, want):
            try:
                answer = self.create(model, "hello").choices[0].message.content
                assert answer == want, answer
            except Exception as error:
                failed.append((model, error))

        pairs = [("engine", ENGINE), ("hello", HELLO), ("unicode", UNICODE)] * 6
        threads = [threading.Thread(target=ask, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed


NOT_CHECKS = {"create", "chat", "loaded", "state", "generations"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proxy", required=True, metavar="URL")
    parser.add_argument("--ollama", required=True, metavar="URL")
    parser.add_argument("--ollama-log", required=True, metavar="FILE")
    options = parser.parse_args()
    checks = Checks(options.proxy, options.ollama, options.ollama_log)
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
