//! Models at Ollama: translated both ways, loaded and unloaded, and in turn with vLLM.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::engines::{greeting, hello, text_of};
use crate::support::ollama::Ollama;
use crate::support::sse::{DONE, broken, events, without_comments};
use crate::support::{Ask, BOUND, Daemon, Engines, Setup, Upstream, eventually};

mod beside_vllm;
mod failures;
mod listing;

const MODELS: &str = "tiny-a,tiny-think,tiny-vision,tiny-embed";

/// A daemon with the usual models of an Ollama, each under its own name.
fn daemon(ollama: &Ollama) -> Daemon {
    setup(ollama).start()
}

fn setup(ollama: &Ollama) -> Setup {
    let names = ["tiny-a", "tiny-think", "tiny-vision", "tiny-embed"];
    names.iter().fold(Setup::new(), |setup, name| setup.entry(ollama.entry(name, name)))
}

fn ask(model: &str, more: Value) -> Ask {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    Ask::chat(body.to_string())
}

fn chunks(body: &[u8]) -> Vec<Value> {
    let all = without_comments(events(body));
    let (last, all) = all.split_last().expect("events");
    assert_eq!(last, DONE);
    let parse = |event: &String| {
        serde_json::from_str(event.strip_prefix("data: ").expect("data").trim()).expect("JSON")
    };
    all.iter().map(parse).collect()
}

#[test]
fn a_chat_goes_in_ollamas_words_and_comes_back_in_openais() {
    let ollama = Ollama::start(MODELS, &[]);
    let config = json!({"extra_args": ["--num-ctx", "2048"], "keep_alive": "7m"});
    let daemon = Setup::new().entry(ollama.entry_with("m", "tiny-a", config)).start();
    let more = json!({"max_tokens": 50, "temperature": 0.5, "stop": "STOP", "seed": 7,
        "tool_choice": "required", "logit_bias": {"1": 2}, "num_ctx": 99,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]});
    let reply = ask("m", more).header("authorization", "Bearer client-secret").reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let answer = reply.json();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["content"], greeting("tiny-a"));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!(answer["usage"]["completion_tokens"].as_u64().is_some_and(|n| n > 0), "{answer}");
    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")), "{answer}");
    assert_eq!(reply.head.get("x-imageworks-model"), Some("m"));
    let policy = reply.head.get("x-imageworks-policy").expect("losses are named");
    for loss in ["tool_choice=auto", "logit_bias", "num_ctx"] {
        assert!(policy.contains(loss), "{policy}");
    }

    let asked = ollama.chats().remove(0);
    let sent = &asked["body"];
    assert_eq!((&sent["model"], &sent["stream"]), (&json!("tiny-a"), &json!(false)));
    assert_eq!(sent["keep_alive"], "7m");
    let want = json!({"num_predict": 50, "temperature": 0.5, "stop": ["STOP"], "seed": 7, "num_ctx": 2048});
    assert_eq!(sent["options"], want);
    let told = asked["headers"].to_string();
    assert!(!told.contains("client-secret") && !told.contains("authorization"), "{told}");
    let line = daemon.log_line();
    assert_eq!((&line["backend"], &line["model_backend_id"]), (&json!("ollama"), &json!("tiny-a")));
    assert!(line["prompt_tokens"].as_u64().is_some_and(|n| n > 0), "{line}");
}

#[test]
fn a_stream_has_chunks_one_done_and_usage_for_those_who_asked() {
    let ollama = Ollama::start(MODELS, &[]);
    let daemon = daemon(&ollama);
    let reply = ask("tiny-a", json!({"stream": true})).reply(daemon.addr());
    assert_eq!(reply.head.get("content-type"), Some("text/event-stream"));
    assert_eq!(text_of(&reply), greeting("tiny-a"));
    let all = chunks(&reply.body());
    assert_eq!(all[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(all.iter().all(|chunk| chunk.get("usage").is_none_or(Value::is_null)), "{all:?}");
    assert_eq!(all.last().expect("one")["choices"][0]["finish_reason"], "stop");

    let more = json!({"stream": true, "stream_options": {"include_usage": true}});
    let reply = ask("tiny-a", more).reply(daemon.addr());
    let all = chunks(&reply.body());
    let last = all.last().expect("one");
    assert_eq!(last["choices"], json!([]));
    assert!(last["usage"]["total_tokens"].as_u64().is_some_and(|n| n > 2), "{last}");
    let lines = daemon.log_lines(2);
    assert!(lines.iter().all(|line| line["completion_tokens"].as_u64() > Some(0)), "{lines:?}");
    assert!(lines.iter().all(|line| line["tokens_estimated"] == false), "{lines:?}");
}

#[test]
fn thoughts_and_calls_arrive_streamed_and_whole() {
    let ollama = Ollama::start(MODELS, &[]);
    let daemon = daemon(&ollama);
    let think = json!({"messages": [{"role": "user", "content": "think"}]});
    let whole = ask("tiny-think", think.clone()).reply(daemon.addr()).json();
    let message = &whole["choices"][0]["message"];
    let thoughts = message["reasoning"].as_str().expect("thoughts").to_owned();
    assert!(!thoughts.is_empty() && message["reasoning_content"] == message["reasoning"]);

    let mut streamed = think;
    streamed["stream"] = json!(true);
    let all = chunks(&ask("tiny-think", streamed).reply(daemon.addr()).body());
    let parts = |field: &str| -> String {
        all.iter().filter_map(|c| c["choices"][0]["delta"][field].as_str()).collect()
    };
    assert_eq!(parts("reasoning"), thoughts);
    assert_eq!(parts("content"), message["content"].as_str().expect("an answer"));

    let weather = json!({"messages": [{"role": "user", "content": "weather"}], "tools": [
        {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]});
    let whole = ask("tiny-a", weather.clone()).reply(daemon.addr()).json();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(
        (&call["type"], &call["function"]["name"]),
        (&json!("function"), &json!("get_weather"))
    );
    assert_eq!(call["function"]["arguments"], "{\"city\":\"Paris\"}");

    // And back: the result's name is looked up from the call.
    let history = json!({"messages": [
        {"role": "user", "content": "weather"}, choice["message"],
        {"role": "tool", "tool_call_id": call["id"], "content": "rain"},
    ]});
    let reply = ask("tiny-a", history).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let sent = ollama.chats().pop().expect("a chat")["body"]["messages"].clone();
    assert_eq!(sent[2]["tool_name"], "get_weather");
    assert_eq!(sent[1]["tool_calls"][0]["function"]["arguments"], json!({"city": "Paris"}));
}

#[test]
fn a_model_that_cannot_think_is_not_asked_to() {
    let ollama = Ollama::start(MODELS, &[]);
    let daemon = daemon(&ollama);
    // Ollama says which models can: once it has been asked.
    eventually("Ollama's list", BOUND, || {
        let models = Ask::get("/v1/models").reply(daemon.addr()).json();
        let states = models["data"].as_array()?.iter().map(|m| m["extensions"]["state"].clone());
        states.into_iter().all(|state| state != "unknown").then_some(())
    });
    let reply = ask("tiny-a", json!({"reasoning_effort": "high"})).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let policy = reply.head.get("x-imageworks-policy");
    assert_eq!(policy, Some("dropped=reasoning_effort"));
    let reply = ask("tiny-think", json!({"reasoning_effort": "high"})).reply(daemon.addr());
    assert_eq!((reply.status(), reply.head.get("x-imageworks-policy")), (200, None));
    assert_eq!(ollama.chats().pop().expect("a chat")["body"]["think"], "high");
}

#[test]
fn what_cannot_be_said_in_ollamas_words_is_refused_before_anything_is_done() {
    let ollama = Ollama::start(MODELS, &[]);
    let daemon = daemon(&ollama);
    let remote = json!([{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}]);
    let arguments = json!([{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "not json"}}]}]);
    for (model, more, message) in [
        ("tiny-a", json!({"n": 2}), "n"),
        ("tiny-a", json!({"messages": []}), "messages"),
        ("tiny-a", json!({"messages": arguments}), "arguments"),
        ("tiny-vision", json!({"messages": [{"role": "user", "content": remote}]}), "image"),
    ] {
        for stream in [false, true] {
            let mut more = more.clone();
            more["stream"] = json!(stream);
            let error = ask(model, more).reply(daemon.addr()).error(400, "err_invalid_request");
            let told = error["message"].as_str().expect("a text");
            assert!(told.contains(message), "{told}");
        }
    }
    assert!(ollama.asked("/api/chat").is_empty());
}

#[test]
fn a_remote_image_is_fetched_where_that_is_allowed() {
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\nnot looked into";
    let ollama = Ollama::start(MODELS, &[]);
    let web = Upstream::start(|seen, wire| {
        if seen.head.starts_with("GET /moved") {
            wire.send(b"HTTP/1.1 302 Found\r\nlocation: /x.png\r\ncontent-length: 0\r\n\r\n");
            return;
        }
        wire.answer("200 OK", "image/png", PNG);
    });
    let url = format!("http://{}/moved", web.addr());
    let image = json!({"messages": [{"role": "user", "content": [
        {"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": url}}]}]});
    let public = setup(&ollama).set("limits", "fetch_remote_images", true).start();
    let error =
        ask("tiny-vision", image.clone()).reply(public.addr()).error(400, "err_invalid_request");
    assert!(error["message"].as_str().expect("a text").contains("private"), "{error}");
    assert!(web.seen().is_empty(), "nobody was asked");

    let private = setup(&ollama)
        .set("limits", "fetch_remote_images", true)
        .set("limits", "fetch_remote_images_private", true)
        .start();
    let reply = ask("tiny-vision", image.clone())
        .header("authorization", "Bearer client-secret")
        .header("cookie", "a=b")
        .reply(private.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let sent = ollama.chats().pop().expect("a chat")["body"]["messages"][0]["images"][0].clone();
    assert_eq!(sent, "iVBORw0KGgpub3QgbG9va2VkIGludG8=");
    let seen = web.seen();
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter().all(|s| s.header("authorization").is_none() && s.header("cookie").is_none())
    );

    let small = setup(&ollama)
        .set("limits", "fetch_remote_images", true)
        .set("limits", "fetch_remote_images_private", true)
        .set("limits", "max_image_bytes", 10)
        .start();
    ask("tiny-vision", image).reply(small.addr()).error(400, "err_invalid_request");
}

#[test]
fn a_client_that_leaves_is_told_to_ollama() {
    let ollama = Ollama::start(MODELS, &[]);
    // A song ends where the context does: at full speed that may be before the client has gone.
    ollama.order(json!({"on": "/api/chat", "fault": {"delay_token_ms": 10}}));
    let daemon = daemon(&ollama);
    let sing = json!({"stream": true, "messages": [{"role": "user", "content": "sing"}]});
    let mut client = ask("tiny-a", sing).open(daemon.addr());
    client.head();
    client.read_until("content");
    drop(client);
    eventually("Ollama sees that nobody listens", BOUND, || {
        (ollama.stats()["aborted"].as_u64()? > 0).then_some(())
    });
    assert_eq!(daemon.log_line()["cancelled"], true);
}

#[test]
fn waiting_clients_hear_that_their_model_loads_and_all_share_the_load() {
    let ollama = Ollama::start(MODELS, &["--sim-load-ms", "600"]);
    let daemon = setup(&ollama).set("server", "heartbeat_ms", 50).start();
    let clients: Vec<_> =
        (0..6).map(|_| ask("tiny-a", json!({"stream": true})).open(daemon.addr())).collect();
    for mut client in clients {
        let reply = client.reply();
        assert!(reply.text().starts_with(": waiting (position 0, the model is loading)\n\n"));
        assert_eq!(text_of(&reply), greeting("tiny-a"));
    }
    assert_eq!(ollama.stats()["loads"], 1);
    let lines = daemon.log_lines(6);
    assert!(lines.iter().all(|line| line["activate_ms"].as_u64() > Some(300)), "{lines:?}");
    // Once more: it is there.
    let begun = Instant::now();
    ask("tiny-a", json!({})).reply(daemon.addr());
    assert!(begun.elapsed() < Duration::from_millis(500));
    assert_eq!(ollama.stats()["loads"], 1);
}

#[test]
fn embeddings_go_to_ollamas_own_route() {
    let ollama = Ollama::start(MODELS, &[]);
    let daemon = daemon(&ollama);
    let body = json!({"input": ["a", "b"], "model": "tiny-embed"});
    let reply = Ask::post("/v1/embeddings", &body).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(reply.json()["data"].as_array().map(Vec::len), Some(2));
    let asked = ollama.asked("/v1/embeddings").remove(0);
    assert_eq!(asked["body"], json!({"input": ["a", "b"], "model": "tiny-embed"}));
    let line = daemon.log_line();
    assert_eq!(line["endpoint"], "/v1/embeddings");
}
