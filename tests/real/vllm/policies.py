#!/usr/bin/env python3
"""What becomes of requests and answers on their way to a real vLLM, through two SDKs.

usage: policies.py --daemon FILE --venv DIR --models DIR --node DIR --templates DIR --port PORT

Each check is a function whose name says what must be true. What it asks, it asks four times: with the
openai SDK for Python and with the one for Node, streamed and not. The checks of one engine stand
together, for a load takes a minute; other settings are given to a new daemon, which takes the engine
over. It must never leave a process of an engine behind.
"""
import argparse
import base64
import io
import json
import os
import shutil
import subprocess
import sys
import traceback

import httpx
import openai
from openai.lib.streaming.chat import ChatCompletionStreamState
from PIL import Image

import faults
import processes
from common import note

LOAD_S = 300
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "The weather.", "parameters": PARAMETERS}
CLOCK = {"name": "get_time", "description": "The time.", "parameters": PARAMETERS}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "get_weather"}}
THOUGHT = "Two and two make four."
CONCLUSION = "The answer is 4."
THOUGHT_ALOUD = f"<think>\n{THOUGHT}\n</think>\n\n{CONCLUSION}"
# One line end goes with the closing tag, and no more.
THOUGHT_TAKEN_OUT = f"\n{CONCLUSION}"
ALT = "a red square"
OMITTED = f"[Image omitted: model does not support vision content] (alt: {ALT})"
# What an answer may have, but for what is null.
KNOWN = {
    "root": "id object created model choices usage system_fingerprint service_tier",
    "choice": "index message delta finish_reason logprobs",
    "message": "role content refusal annotations audio tool_calls function_call reasoning reasoning_content",
}
# Parameters that are vLLM's own, which Python's SDK wants apart.
OURS = ("return_token_ids",)


def hello(model):
    return f"Hello! I am {model}, a tiny test model."


def offer(*functions):
    return {"tools": [{"type": "function", "function": function} for function in functions]}


def image(width, height, **more):
    """A part of a message, with a red PNG in it."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}", **more}}


def ask_python(url, body):
    """What Python's SDK makes of an answer, as sdk.mjs has it of Node's."""
    reply = {"status": None, "headers": {}, "chunks": [], "answer": None, "final": None, "error": None}

    def head(response):
        reply["status"], reply["headers"] = response.status_code, dict(response.headers)

    body = {**body, "extra_body": {name: body[name] for name in OURS if name in body}}
    body = {name: value for name, value in body.items() if name not in OURS}
    with httpx.Client(timeout=LOAD_S, event_hooks={"response": [head]}) as http:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=http)
        try:
            if body.get("stream"):
                state = ChatCompletionStreamState()
                for chunk in client.chat.completions.create(**body):
                    reply["chunks"].append(chunk.model_dump())
                    state.handle_chunk(chunk)
                reply["final"] = state.get_final_completion().model_dump()
            else:
                reply["final"] = reply["answer"] = client.chat.completions.create(**body).model_dump()
        except openai.APIError as error:
            reply["error"] = {"kind": type(error).__name__, "code": error.code, "message": str(error)}
    return reply


class Node:
    """Node's SDK, in a process that is asked line by line."""

    def __init__(self, directory):
        script = os.path.join(os.path.dirname(os.path.realpath(__file__)), "sdk.mjs")
        self.process = subprocess.Popen(["node", script, directory], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, url, body):
        self.process.stdin.write(json.dumps({"url": url, "body": body}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "Node has ended"
        return json.loads(line)

    def end(self):
        self.process.stdin.close()
        self.process.wait(30)


class Reply:
    """An answer, or an error, as an SDK tells it."""

    def __init__(self, way, made):
        self.way, self.made = way, made
        self.status, self.error, self.chunks = made["status"], made["error"], made["chunks"]
        self.policy = made["headers"].get("x-imageworks-policy", "")

    def __repr__(self):
        return f"{self.way}: {json.dumps(self.made, ensure_ascii=False)[:3000]}"

    def choice(self):
        """What the SDK has put together."""
        assert not self.error and self.status == 200, self
        (choice,) = self.made["final"]["choices"]
        return choice

    def deltas(self):
        return [choice["delta"] for chunk in self.chunks for choice in chunk["choices"]]

    def text(self):
        return self.choice()["message"].get("content") or ""

    def reasoning(self, field):
        """Node's SDK keeps only the last piece of a field that it does not know: they are joined here."""
        if self.chunks:
            return "".join(delta.get(field) or "" for delta in self.deltas())
        return self.choice()["message"].get(field) or ""

    def finish(self):
        reasons = [choice["finish_reason"] for chunk in self.chunks for choice in chunk["choices"]]
        assert not self.chunks or len([reason for reason in reasons if reason]) == 1, self
        return self.choice()["finish_reason"]

    def prompt_tokens(self):
        return self.made["final"]["usage"]["prompt_tokens"]

    def foreign(self):
        """Fields with a value that are not OpenAI's: whole names, as choice.stop_reason."""
        found = set()
        for root in self.chunks or [self.made["answer"]]:
            levels = [("root", root)]
            for choice in root["choices"]:
                levels += [("choice", choice), ("message", choice.get("message") or choice.get("delta") or {})]
            for level, fields in levels:
                strange = set(fields) - set(KNOWN[level].split())
                found |= {f"{level}.{name}" for name in strange if fields[name] is not None}
        return found

    # What several checks want to be true.

    def is_text(self, text):
        assert self.text() == text, (text, self)
        assert not self.choice()["message"].get("tool_calls"), self
        assert self.finish() == "stop", self

    def is_call(self):
        """One real call: its id and its name came once, its arguments are JSON."""
        assert self.finish() == "tool_calls", self
        assert not self.text(), self
        (call,) = self.choice()["message"]["tool_calls"]
        assert call["id"] and call["type"] == "function", self
        assert call["function"]["name"] == "get_weather", self
        assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}, self
        if self.chunks:
            parts = [part for delta in self.deltas() for part in delta.get("tool_calls") or []]
            named = [(part.get("function") or {}).get("name") for part in parts]
            assert [part["id"] for part in parts if part.get("id")] == [call["id"]], self
            assert [name for name in named if name] == ["get_weather"], self
            assert parts[0].get("id") and named[0] and {part["index"] for part in parts} == {0}, self

    def is_refused(self, status, kind, code, words):
        assert self.status == status and self.error, self
        assert self.error["kind"] == kind and self.error["code"] == code, self
        assert words in self.error["message"], self


class Place(faults.House):
    """A daemon with entries that differ in what their engine can, and both SDKs before it."""

    def __init__(self, options):
        super().__init__(options)
        self.settings, self.node = None, Node(options.node)
        with open(f"{self.work}/registry/model_registry.curated.json", "w", encoding="utf-8") as file:
            json.dump(self._entries(), file)

    def _entries(self):
        def started(name, model, arguments=(), **more):
            arguments = ["--enforce-eager", "--max-model-len", "4096", *arguments]
            config = {"model_path": f"{self.options.models}/{model}", "extra_args": arguments}
            return {"name": name, "backend": "vllm", "backend_config": config, **more}

        def parser(name):
            return ["--enable-auto-tool-choice", "--tool-call-parser", name]

        thinks = {"capabilities": {"reasoning": True}}
        chatml = {"chat_template": {"source": "external", "path": "chatml.jinja"}}
        return [
            started("plain", "tiny-a", **thinks),
            # The same engine, by an entry that says nothing of it.
            {"name": "plain-unsaid", "backend": "vllm", "served_model_id": "plain",
             "backend_config": {"base_url": f"http://127.0.0.1:{self.options.port}/v1"}},
            started("bare", "tiny-bare"),
            started("caller", "tiny-a", parser("hermes")),
            # This parser reads another way of writing calls than the model's.
            started("thinker", "tiny-a", ["--reasoning-parser", "qwen3", *parser("pythonic")], **thinks),
            started("seer", "tiny-vl", ["--limit-mm-per-prompt", '{"image": 2, "video": 0}'],
                    capabilities={"vision": True}, **chatml),
        ]

    def under(self, **settings):
        """Another daemon if these are not its settings; it takes the engine over."""
        if settings == self.settings:
            return
        if self.settings is not None:
            self.stop()
        self.settings = settings
        self.start(keep_backends_on_exit="true", template_dir=self.options.templates, **settings)

    def asked(self, model, content, **more):
        """The four answers."""
        body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, **more}
        return self.asked_body(body)

    def asked_body(self, body):
        url, streamed = f"http://127.0.0.1:{self.port}", {"stream_options": {"include_usage": True}}
        replies = []
        for name, ask in (("Python", ask_python), ("Node", self.node.ask)):
            replies.append(Reply(name, ask(url, body)))
            replies.append(Reply(f"{name}, streamed", ask(url, {**body, "stream": True, **streamed})))
        return replies

    def running(self):
        """The running engine's model and its arguments."""
        engine = self.engine()
        return engine["model"], processes.read(engine["pid"], "cmdline").split("\0")

    def template_of(self, model):
        """The file that the engine was given."""
        running, arguments = self.running()
        assert running == model, (running, arguments)
        return os.path.join(self.work, arguments[arguments.index("--chat-template") + 1])

    def prompt(self, reply):
        """What the engine has read, from the tokens in an answer that was asked for them."""
        tokens = (reply.chunks[0] if reply.chunks else reply.made["answer"])["prompt_token_ids"]
        status, answer = self.ask("POST", "/detokenize", {"model": "plain", "tokens": tokens})
        assert status == 200, answer
        return answer["prompt"]

    def end(self):
        """Ends the daemon, and the engine that it leaves."""
        self.node.end()
        self.stop()
        swept = self.sweep()
        assert swept.returncode == 0, swept


class Checks(Place):
    # An engine without any parser, whose template stands in its tokenizer's settings.

    def a_template_is_taken_out_of_the_tokenizers_settings(self):
        self.under()
        for reply in self.asked("plain", "hello"):
            reply.is_text(hello("tiny-a"))
        path = self.template_of("plain")
        assert path.startswith(f"{self.work}/_staging/chat_templates/"), path
        with open(f"{self.options.models}/tiny-a/tokenizer_config.json", encoding="utf-8") as file:
            own = json.load(file)["chat_template"]
        with open(path, encoding="utf-8") as file:
            assert file.read() == own, path

    def a_model_without_a_template_is_refused_and_nothing_is_stopped_for_it(self):
        self.under()
        for reply in self.asked("bare", "hello"):
            reply.is_refused(409, "ConflictError", "err_template_required", "bare")
        assert self.running()[0] == "plain"

    def foreign_fields_come_only_where_they_were_asked_for(self):
        self.under()
        for reply in [*self.asked("plain", "hello"), *self.asked("plain", "think")]:
            assert reply.text() and not reply.foreign(), (reply.foreign(), reply)
        token_ids = set()
        for reply in self.asked("plain", "hello", return_token_ids=True):
            reply.is_text(hello("tiny-a"))
            assert reply.foreign() == {"root.prompt_token_ids", "choice.token_ids"}, (reply.foreign(), reply)
            roots = reply.chunks or [reply.made["answer"]]
            choices = [choice for root in roots for choice in root["choices"]]
            token_ids.add(tuple(token for choice in choices for token in choice.get("token_ids") or []))
            assert "hello" in self.prompt(reply), reply
        assert [len(ids) for ids in token_ids] == [10], token_ids

    def a_foreign_field_with_a_value_goes_unless_it_is_let(self):
        """Which word ended an answer is a field of vLLM's own."""
        for settings, fields in (({}, set()), ({"suppress_decorations": "false"}, {"choice.stop_reason"})):
            self.under(**settings)
            for reply in self.asked("plain", "hello", stop=[" test"]):
                reply.is_text("Hello! I am tiny-a, a tiny")
                assert reply.foreign() == fields, (reply.foreign(), reply)

    def tools_are_refused_by_an_engine_without_a_parser(self):
        """vLLM's own words come through, whatever the choice is."""
        self.under()
        for choice in ({}, {"tool_choice": "auto"}, {"tool_choice": "required"}, {"tool_choice": NAMED}):
            for reply in self.asked("plain", "weather", **offer(WEATHER), **choice):
                assert reply.status == 400 and reply.error["kind"] == "BadRequestError", reply
                assert "--tool-call-parser to be set" in reply.error["message"], reply

    def a_call_in_the_text_is_real_where_functions_are_offered_the_old_way(self):
        """vLLM overlooks functions, so they work without a parser."""
        self.under()
        for reply in self.asked("plain", "weather", functions=[WEATHER]):
            reply.is_call()

    def a_call_in_the_text_stays_text_where_nothing_was_offered(self):
        self.under()
        for reply in self.asked("plain", "weather"):
            reply.is_text(CALL)

    def a_call_in_the_text_stays_text_where_calls_are_forbidden(self):
        self.under()
        for reply in self.asked("plain", "weather", **offer(WEATHER), tool_choice="none"):
            reply.is_text(CALL)

    def an_image_becomes_words_for_a_model_that_sees_none(self):
        self.under()
        content = [{"type": "text", "text": "hello"}, image(600, 600, alt_text=ALT)]
        for reply in self.asked("plain", content, return_token_ids=True):
            reply.is_text(hello("tiny-a"))
            assert reply.policy == "images_stripped=1", reply
            assert OMITTED in self.prompt(reply), self.prompt(reply)

    def an_image_without_words_is_refused_for_a_model_that_sees_none(self):
        self.under()
        for reply in self.asked("plain", [{"type": "text", "text": "hello"}, image(600, 600)]):
            reply.is_refused(409, "ConflictError", "err_capability_mismatch", "plain")

    def thoughts_stay_in_the_text(self):
        self.under()
        for reply in self.asked("plain", "think"):
            reply.is_text(THOUGHT_ALOUD)
            assert not reply.reasoning("reasoning") and not reply.reasoning("reasoning_content"), reply

    def thoughts_are_extracted(self):
        self.under(reasoning_format="extract")
        for reply in self.asked("plain", "think"):
            reply.is_text(THOUGHT_TAKEN_OUT)
            assert reply.reasoning("reasoning") == THOUGHT, reply
            assert reply.reasoning("reasoning_content") == THOUGHT, reply
        assert self.running()[0] == "plain"

    def an_answer_without_thoughts_is_whole_where_thoughts_are_extracted(self):
        self.under(reasoning_format="extract")
        for reply in self.asked("plain", "hello"):
            reply.is_text(hello("tiny-a"))
            assert not reply.reasoning("reasoning") and not reply.reasoning("reasoning_content"), reply

    def thoughts_of_a_model_that_nobody_says_reasons_stay_in_the_text(self):
        self.under(reasoning_format="extract")
        for reply in self.asked("plain-unsaid", "think"):
            reply.is_text(THOUGHT_ALOUD)

    def thoughts_are_extracted_into_the_one_field_that_is_wanted(self):
        for wanted, other in (("reasoning", "reasoning_content"), ("reasoning_content", "reasoning")):
            self.under(reasoning_format="extract", reasoning_field=wanted)
            for reply in self.asked("plain", "think"):
                reply.is_text(THOUGHT_TAKEN_OUT)
                assert reply.reasoning(wanted) == THOUGHT and not reply.reasoning(other), reply

    def thoughts_are_stripped(self):
        self.under(reasoning_format="strip")
        for reply in self.asked("plain", "think"):
            reply.is_text(THOUGHT_TAKEN_OUT)
            assert not reply.reasoning("reasoning") and not reply.reasoning("reasoning_content"), reply
            assert THOUGHT not in json.dumps(reply.made), reply

    # An engine whose parser reads the model's calls.

    def a_call_that_the_engine_reads_is_real_whatever_the_choice_is(self):
        self.under()
        for choice in ({}, {"tool_choice": "auto"}, {"tool_choice": "required"}, {"tool_choice": NAMED}):
            for reply in self.asked("caller", "weather", **offer(WEATHER), **choice):
                reply.is_call()
                assert not reply.foreign(), (reply.foreign(), reply)

    def text_stays_text_where_the_engine_could_read_calls(self):
        self.under()
        for reply in self.asked("caller", "hello", **offer(WEATHER)):
            reply.is_text(hello("tiny-a"))
        for reply in self.asked("caller", "weather", **offer(WEATHER), tool_choice="none"):
            reply.is_text(CALL)

    def a_calls_result_is_answered(self):
        """The call goes back as the SDK gave it, with its result."""
        self.under()
        asked = {"role": "user", "content": "weather"}
        for before in self.asked("caller", "weather", **offer(WEATHER)):
            message = before.choice()["message"]
            (call,) = message["tool_calls"]
            result = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
            message = {"role": "assistant", "content": None, "tool_calls": [
                {name: call[name] for name in ("id", "type", "function")}]}
            body = {"model": "caller", "temperature": 0, "messages": [asked, message, result], **offer(WEATHER)}
            for reply in self.asked_body(body):
                reply.is_text(hello("tiny-a"))

    # An engine that reads thoughts, and whose parser for calls does not know the model's way of writing them.

    def thoughts_that_the_engine_reads_come_in_both_fields(self):
        self.under()
        texts = set()
        for reply in self.asked("thinker", "think"):
            assert reply.finish() == "stop" and reply.text().strip() == CONCLUSION, reply
            assert reply.reasoning("reasoning") == reply.reasoning("reasoning_content"), reply
            assert reply.reasoning("reasoning").strip() == THOUGHT, reply
            assert not reply.foreign(), (reply.foreign(), reply)
            texts.add((reply.text(), reply.reasoning("reasoning")))
        assert len(texts) == 1, texts

    def thoughts_that_the_engine_reads_come_in_the_one_field_that_is_wanted(self):
        self.under(reasoning_field="reasoning_content", reasoning_format="strip")
        for reply in self.asked("thinker", "think"):
            assert reply.text().strip() == CONCLUSION, reply
            assert reply.reasoning("reasoning_content").strip() == THOUGHT, reply
            assert not reply.reasoning("reasoning"), reply

    def a_call_that_the_engine_overlooks_is_real(self):
        self.under()
        for choice in ({}, {"tool_choice": "auto"}):
            for reply in self.asked("thinker", "weather", **offer(CLOCK, WEATHER), **choice):
                reply.is_call()

    def a_call_that_the_engine_overlooks_is_text_where_nothing_is_put_right(self):
        self.under(disable_tool_normalization="true")
        for reply in self.asked("thinker", "weather", **offer(WEATHER)):
            reply.is_text(CALL)

    def a_call_of_a_tool_that_was_not_offered_stays_text(self):
        self.under()
        for reply in self.asked("thinker", "weather", **offer(CLOCK)):
            reply.is_text(CALL)

    def a_request_that_the_engine_fails_at_is_an_error(self):
        """vLLM cannot force calls in this parser's way: a 500, or an error within the stream."""
        self.under()
        for choice in ("required", NAMED):
            for reply in self.asked("thinker", "weather", **offer(WEATHER), tool_choice=choice):
                assert reply.status == (200 if "streamed" in reply.way else 500), reply
                assert reply.error and "Internal server error" in reply.error["message"], reply

    # An engine that sees, with a template of ours.

    def a_shipped_template_serves(self):
        self.under()
        for reply in self.asked("seer", "hello"):
            reply.is_text(hello("tiny-vl"))
        assert self.template_of("seer") == os.path.join(self.options.templates, "chatml.jinja")

    def a_large_image_is_scaled_for_a_model_that_sees(self):
        """A picture costs the engine a token for each 28 by 28 pixels, and one before and one behind."""
        self.under()
        words = {reply.prompt_tokens() for reply in self.asked("seer", "hello")}
        (words,) = words
        sizes = (((1000, 500), 16 * 8, "images_downscaled=1"), ((224, 224), 8 * 8, ""))
        for (width, height), tokens, policy in sizes:
            content = [{"type": "text", "text": "hello"}, image(width, height)]
            for reply in self.asked("seer", content):
                reply.is_text(hello("tiny-vl"))
                assert reply.policy == policy, reply
                assert reply.prompt_tokens() == words + tokens + 2, (words, reply)


# Where this one fails there is no engine to try the others with.
ESSENTIAL = "a_template_is_taken_out_of_the_tokenizers_settings"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("daemon", "venv", "models", "node", "templates"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--only", help="one check")
    options = parser.parse_args()
    for name in ("daemon", "venv", "models", "node", "templates"):
        setattr(options, name, os.path.realpath(getattr(options, name)))
    checks = Checks(options)
    names = [name for name in vars(Checks) if name[0] != "_" and options.only in (None, name)]
    passed, engine = 0, None
    checks.under()
    try:
        for name in names:
            try:
                getattr(checks, name)()
                passed += 1
                print(f"ok      {name}", flush=True)
            except Exception:  # whatever it is, the other checks still tell something
                print(f"FAILED  {name}\n{traceback.format_exc(limit=-2)}", flush=True)
                if name == ESSENTIAL:
                    break
            if checks.engine()["pid"] not in (None, engine):
                engine = checks.engine()["pid"]
                checks.family()
    finally:
        checks.end()
        left = checks.left()
    print(f"{passed} of {len(names)} checks passed; left at the end: {left or 'nothing'}")
    good = passed == len(names) and not left
    if good:
        shutil.rmtree(checks.work)
    else:
        note(f"logs: {checks.work}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
