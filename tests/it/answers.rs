//! What becomes of answers over the wire: calls, thoughts and fields, streamed and in one piece.

use serde_json::{Value, json};

use crate::policies::{daemon, says};
use crate::support::{Ask, Daemon, Reply, Upstream};

/// Thoughts as today's engines write them, streamed and not.
fn thinking(stream: bool) -> Upstream {
    let delta =
        |delta: &str| format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}\n\n");
    let last = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    if stream {
        let events = [delta(r#"{"reasoning":"hm"}"#), delta(r#"{"content":"a"}"#)];
        return Upstream::streaming(
            [&events[..], &[last.to_owned(), "data: [DONE]\n\n".to_owned()]].concat(),
        );
    }
    let message = json!({"role": "assistant", "content": "a", "reasoning": "hm"});
    let body = json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]});
    Upstream::answering("200 OK", "application/json", &body.to_string())
}

#[test]
fn reasoning_comes_under_the_names_that_are_wanted() {
    for (setting, names) in [
        (None, vec!["reasoning", "reasoning_content"]),
        (Some("reasoning"), vec!["reasoning"]),
        (Some("reasoning_content"), vec!["reasoning_content"]),
    ] {
        for stream in [false, true] {
            let upstream = thinking(stream);
            let mut setup = daemon(&upstream, json!({}));
            if let Some(setting) = setting {
                setup = setup.set("limits", "reasoning_field", format!("{setting:?}"));
            }
            let daemon = setup.start();
            let body = json!({"model": "tiny-a", "stream": stream, "messages": [says("user", json!("u"))]});
            let reply = Ask::chat(body.to_string()).reply(daemon.addr());
            let said = if stream {
                let text = reply.text();
                let first = text.lines().next().and_then(|line| line.strip_prefix("data: "));
                let first: Value = serde_json::from_str(first.expect("an event")).expect("JSON");
                first["choices"][0]["delta"].clone()
            } else {
                reply.json()["choices"][0]["message"].clone()
            };
            for name in ["reasoning", "reasoning_content"] {
                let wanted = names.contains(&name).then(|| json!("hm"));
                assert_eq!(said.get(name), wanted.as_ref(), "{setting:?} {stream} {name}");
            }
        }
    }
}

const CALL: &str =
    "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\"}}</tool_call>";

/// An engine without a parser for its model's calls.
fn writes_calls() -> Upstream {
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        format!("data: {}\n\n", json!({"id": "c1", "choices": [choice]}))
    };
    let mut events = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    let text = format!("I look. {CALL}");
    let cut: Vec<char> = text.chars().collect();
    events.extend(
        cut.chunks(5)
            .map(|part| chunk(json!({"content": part.iter().collect::<String>()}), Value::Null)),
    );
    events.extend([chunk(json!({}), json!("stop")), "data: [DONE]\n\n".to_owned()]);
    Upstream::start(move |seen, wire| {
        if seen.json()["stream"] == true {
            return wire.stream(&events);
        }
        let message = json!({"role": "assistant", "content": text});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        let body = json!({"id": "c1", "choices": [choice]}).to_string();
        wire.answer("200 OK", "application/json", body.as_bytes());
    })
}

#[test]
fn calls_that_a_model_writes_as_text_become_real_ones_where_tools_are_offered() {
    let upstream = writes_calls();
    let daemon = daemon(&upstream, json!({})).start();
    let tools = json!([{"type": "function", "function": {"name": "weather"}}]);
    let ask = |stream: bool, tools: &Value| {
        let body = json!({"model": "tiny-a", "stream": stream, "tools": tools,
            "messages": [says("user", json!("u"))]});
        Ask::chat(body.to_string()).reply(daemon.addr())
    };
    let choice = ask(false, &tools).json()["choices"][0].clone();
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!("I look."))
    );
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "weather");
    let streamed = ask(true, &tools).text();
    let events: Vec<Value> = streamed
        .split("\n\n")
        .filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok())
        .collect();
    let text: String =
        events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "I look.");
    let calls: Vec<&Value> =
        events.iter().filter_map(|e| e["choices"][0]["delta"]["tool_calls"].get(0)).collect();
    assert_eq!(calls.len(), 1);
    assert_eq!((&calls[0]["id"], &calls[0]["function"]), (&call["id"], &call["function"]));
    assert!(streamed.ends_with("data: [DONE]\n\n"));
    let reasons: Vec<Value> =
        daemon.log_lines(2).iter().map(|l| l["finish_reason"].clone()).collect();
    assert_eq!(reasons, ["tool_calls", "tool_calls"]);
    // A tool that was not offered, or none at all: it is text.
    for tools in [json!([]), json!([{"type": "function", "function": {"name": "other"}}])] {
        let choice = ask(false, &tools).json()["choices"][0].clone();
        assert_eq!(choice["message"]["content"], format!("I look. {CALL}"));
        assert!(ask(true, &tools).text().contains("\"finish_reason\":\"stop\""));
    }
}

#[test]
fn text_that_might_have_become_a_call_is_not_lost_with_its_engine() {
    let begun =
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"so: <tool_call>{\"}}]}\n\n";
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        wire.chunk(begun.as_bytes());
        wire.fin(); // it dies
    });
    let daemon = daemon(&upstream, json!({})).start();
    let tools = json!([{"type": "function", "function": {"name": "weather"}}]);
    let body = json!({"model": "tiny-a", "stream": true, "tools": tools,
        "messages": [says("user", json!("u"))]});
    let text = Ask::chat(body.to_string()).reply(daemon.addr()).text();
    let (held, error) = (text.find("<tool_call>{"), text.find("err_backend_unavailable"));
    assert!(held.is_some() && held < error, "{text}");
    assert!(!text.contains("[DONE]"), "{text}");
}

/// An engine that says this text, in pieces of five characters, with fields of its own around it.
fn saying(text: &'static str) -> Upstream {
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish,
            "stop_reason": 7, "token_ids": null});
        format!(
            "data: {}\n\n",
            json!({"id": "c1", "choices": [choice], "prompt_token_ids": [1, 2]})
        )
    };
    let all: Vec<char> = text.chars().collect();
    let piece = |part: &[char]| json!({"content": part.iter().collect::<String>()});
    let mut events: Vec<String> =
        all.chunks(5).map(|part| chunk(piece(part), Value::Null)).collect();
    events.extend([chunk(json!({}), json!("stop")), "data: [DONE]\n\n".to_owned()]);
    Upstream::start(move |seen, wire| {
        if seen.json()["stream"] == true {
            return wire.stream(&events);
        }
        let message = json!({"role": "assistant", "content": text, "x_own": true});
        let choice =
            json!({"index": 0, "message": message, "finish_reason": "stop", "stop_reason": 7});
        let body = json!({"id": "c1", "choices": [choice], "prompt_token_ids": [1, 2]}).to_string();
        wire.answer("200 OK", "application/json", body.as_bytes());
    })
}

fn asked(daemon: &Daemon, stream: bool, more: Value) -> Reply {
    let mut body =
        json!({"model": "tiny-a", "stream": stream, "messages": [says("user", json!("u"))]});
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    Ask::chat(body.to_string()).reply(daemon.addr())
}

fn events(text: &str) -> Vec<Value> {
    text.split("\n\n")
        .filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok())
        .collect()
}

/// Text and reasoning of an answer, streamed or not.
fn said(reply: &Reply, stream: bool) -> (String, String) {
    if !stream {
        let message = reply.json()["choices"][0]["message"].clone();
        let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        return (text("content"), text("reasoning"));
    }
    let events = events(&reply.text());
    let text = |name: &str| {
        events.iter().filter_map(|e| e["choices"][0]["delta"][name].as_str()).collect::<String>()
    };
    (text("content"), text("reasoning"))
}

#[test]
fn thoughts_in_the_text_go_where_they_are_wanted() {
    let text = "<think>\nhm, hm\n</think>\nHello";
    let flagged = json!({"capabilities": {"reasoning": true}});
    for (format, more, content, reasoning) in [
        (None, &flagged, text, ""),
        (Some("keep"), &flagged, text, ""),
        (Some("extract"), &flagged, "Hello", "hm, hm"),
        (Some("strip"), &flagged, "Hello", ""),
        // Not known to think: whatever stands there is its answer.
        (Some("strip"), &json!({}), text, ""),
    ] {
        let upstream = saying(text);
        let mut setup = daemon(&upstream, more.clone());
        if let Some(format) = format {
            setup = setup.set("limits", "reasoning_format", format!("{format:?}"));
        }
        let daemon = setup.start();
        for stream in [false, true] {
            let reply = asked(&daemon, stream, json!({}));
            let want = (content.to_owned(), reasoning.to_owned());
            assert_eq!(said(&reply, stream), want, "{format:?} {stream}");
            if stream {
                assert!(reply.text().ends_with("data: [DONE]\n\n"));
            }
        }
    }
}

#[test]
fn thoughts_that_the_prompt_opens_are_found_and_flow_where_the_entry_says_so() {
    let upstream = saying("hm, hm\n</think>\n\nHello");
    for opened_by in [Value::Null, json!("prompt")] {
        let more = json!({"capabilities": {"reasoning": true}, "metadata": {"think_opened_by": opened_by}});
        let daemon =
            daemon(&upstream, more).set("limits", "reasoning_format", "\"extract\"").start();
        for stream in [false, true] {
            let reply = asked(&daemon, stream, json!({}));
            assert_eq!(said(&reply, stream), ("\nHello".to_owned(), "hm, hm".to_owned()));
        }
        // Thinking is off: nothing was opened.
        let off = json!({"chat_template_kwargs": {"enable_thinking": false}});
        let (content, reasoning) = said(&asked(&daemon, true, off), true);
        assert_eq!((content.as_str(), reasoning.as_str()), ("hm, hm\n</think>\n\nHello", ""));
    }
}

#[test]
fn fields_that_are_not_openais_leave_where_they_are_asked_for_or_wanted() {
    let upstream = saying("Hello");
    let foreign = |reply: &Reply, stream: bool| {
        let answer = if stream { events(&reply.text()).remove(0) } else { reply.json() };
        let choice = &answer["choices"][0];
        let message = if stream { &choice["delta"] } else { &choice["message"] };
        [&answer["prompt_token_ids"], &choice["stop_reason"], &message["x_own"]]
            .map(|v| !v.is_null())
    };
    let daemon_with = |suppress: bool| {
        daemon(&upstream, json!({})).set("general", "suppress_decorations", suppress).start()
    };
    let daemon = daemon_with(true);
    for stream in [false, true] {
        let reply = asked(&daemon, stream, json!({}));
        assert_eq!(foreign(&reply, stream), [false, false, false]);
        // What holds nothing says nothing, and stays.
        assert_eq!(reply.text().contains("\"token_ids\":null"), stream);
        let wanted = json!({"return_token_ids": true});
        assert_eq!(foreign(&asked(&daemon, stream, wanted), stream), [true, false, false]);
    }
    let daemon = daemon_with(false);
    for stream in [false, true] {
        assert_eq!(foreign(&asked(&daemon, stream, json!({})), stream), [true, true, !stream]);
    }
}
