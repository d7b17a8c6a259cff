//! What an Ollama says, streamed and not.

use serde_json::{Value, json};
use sim_engine::Ollama;

use super::{chat, get, joined, lines, load, ollama, post, ps, whole, with};
use crate::client::{Client, request};

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
}

/// `2026-11-23T04:54:04.005000001Z`, or another moment so written.
fn is_a_moment(value: &Value) -> bool {
    let text = value.as_str().unwrap();
    let form = |(c, f): (char, char)| if f == '0' { c.is_ascii_digit() } else { c == f };
    text.len() == 30 && text.chars().zip("0000-00-00T00:00:00.000000000Z".chars()).all(form)
}

#[test]
fn it_says_that_it_runs_and_which_version_it_is() {
    let engine = ollama();
    let root = get(&engine, "/");
    assert_eq!(
        (root.status_line.as_str(), root.text().as_str()),
        ("HTTP/1.1 200 OK", "Ollama is running")
    );
    assert_eq!(root.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!((root.header("server"), root.header("vary")), (None, None));
    let mut client = Client::connect(engine.addr());
    client.send(b"HEAD / HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\n");
    let (head, _) = client.rest();
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let version = get(&engine, "/api/version").json();
    assert_eq!(version["version"].as_str().unwrap().split('.').count(), 3);
    assert_eq!(get(&engine, "/health").status_line, "HTTP/1.1 404 Not Found");
    assert_eq!(get(&engine, "/api/chat").status_line, "HTTP/1.1 405 Method Not Allowed");
}

#[test]
fn a_stream_is_one_object_in_each_line_and_ends_with_done() {
    let engine = ollama();
    let response = chat(&engine, "tiny-a", "hello", &json!({}));
    assert_eq!(response.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    let lines = lines(&response);
    assert_eq!(response.chunks.len(), lines.len());
    assert_eq!(joined(&lines, "/message/content"), "Hello! I am tiny-a, a tiny test model.");
    let (last, parts) = lines.split_last().unwrap();
    for part in parts {
        let keys: Vec<&String> = part.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["model", "created_at", "message", "done"]);
        assert_eq!((&part["model"], &part["done"]), (&json!("tiny-a"), &json!(false)));
        assert_eq!(part["message"]["role"], "assistant");
        assert!(is_a_moment(&part["created_at"]), "{part}");
    }
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    assert_eq!(last["message"], json!({"role": "assistant", "content": ""}));
    for key in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"] {
        assert!(last[key].as_u64().unwrap() > 0, "{key}");
    }
    assert!(last["total_duration"].as_u64() > last["load_duration"].as_u64());
    assert!(last["prompt_eval_count"].as_u64().unwrap() > 0);
    // Each part is a token here, but one that is held for the next, and the end is one.
    assert!(last["eval_count"].as_u64().unwrap() > parts.len() as u64);
}

#[test]
fn without_a_stream_there_is_one_object_with_everything() {
    let engine = ollama();
    let response = chat(&engine, "Tiny-A", "count", &json!({"stream": false}));
    assert_eq!(response.header("content-type"), Some("application/json; charset=utf-8"));
    let told = response.json();
    assert_eq!(told["model"], "Tiny-A"); // as the request spelt it
    assert_eq!(
        told["message"],
        json!({
            "role": "assistant",
            "content": "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20.",
        })
    );
    assert_eq!((&told["done"], &told["done_reason"]), (&json!(true), &json!("stop")));
    let other = whole(&engine, "tiny-a:latest", "Something else", &json!({}));
    assert_eq!(other["message"]["content"], "tiny-a heard: Something else");
}

#[test]
fn thoughts_come_first_and_with_empty_content() {
    let engine = ollama();
    let lines = lines(&chat(&engine, "tiny-think", "think", &json!({})));
    let thoughts = lines.iter().take_while(|line| line["message"].get("thinking").is_some());
    let thoughts: Vec<Value> = thoughts.cloned().collect();
    assert!(thoughts.len() > 1);
    assert_eq!(joined(&thoughts, "/message/content"), "");
    let said = "Let me think about it. Two and two make four.\n";
    assert_eq!(joined(&lines, "/message/thinking"), said);
    assert_eq!(joined(&thoughts, "/message/thinking"), said);
    assert_eq!(joined(&lines, "/message/content"), "The answer is 4.");
    let whole = whole(&engine, "tiny-think", "think", &json!({"think": "high"}));
    assert_eq!(whole["message"]["thinking"], said);
    assert_eq!(whole["message"]["content"], "The answer is 4.");
}

#[test]
fn thinking_can_be_turned_off_and_is_left_out_where_there_is_none() {
    let mut settings = Ollama::default();
    settings.models.push("gpt-oss:20b".to_owned());
    let engine = with(settings);
    for (model, text, think, thinks) in [
        ("tiny-think", "think", json!(false), false),
        ("tiny-think", "think", json!(true), true),
        ("tiny-think", "hello", json!(true), false),
        ("tiny-a", "think", json!(false), false),
        ("gpt-oss:20b", "think", json!(false), true),
        ("gpt-oss:20b", "think", json!("low"), true),
    ] {
        let told = whole(&engine, model, text, &json!({"think": think}));
        assert_eq!(told["message"].get("thinking").is_some(), thinks, "{model} {think}");
        assert_ne!(told["message"]["content"], "");
    }
}

#[test]
fn a_call_comes_whole_in_one_line_and_its_text_is_withheld() {
    let engine = ollama();
    let more = json!({"tools": [tool("get_weather"), tool("other")]});
    let lines = lines(&chat(&engine, "tiny-a", "weather", &more));
    assert_eq!(lines.len(), 2);
    let call = &lines[0]["message"]["tool_calls"][0];
    let id = call["id"].as_str().unwrap();
    assert!(id.starts_with("call_") && id.len() == 13, "{id}");
    let function = json!({"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}});
    assert_eq!(call["function"], function);
    assert_eq!((&lines[0]["message"]["content"], &lines[0]["done"]), (&json!(""), &json!(false)));
    assert_eq!(lines[1]["done_reason"], "stop");
    let told = whole(&engine, "tiny-a", "weather", &more);
    assert_eq!(told["message"]["tool_calls"][0]["function"], function);
    assert_eq!((&told["message"]["content"], &told["done_reason"]), (&json!(""), &json!("stop")));
}

#[test]
fn several_calls_have_their_own_lines_and_numbers() {
    let engine = ollama();
    let more = json!({"tools": [tool("one"), tool("two")], "sim": {"calls": 2}});
    let lines = lines(&chat(&engine, "tiny-a", "weather", &more));
    let calls: Vec<(&Value, &Value)> = lines[..2]
        .iter()
        .map(|line| &line["message"]["tool_calls"][0]["function"])
        .map(|function| (&function["index"], &function["name"]))
        .collect();
    assert_eq!(calls, [(&json!(0), &json!("one")), (&json!(1), &json!("two"))]);
}

#[test]
fn what_a_tool_said_is_understood() {
    let engine = ollama();
    let call = json!({"id": "call_1", "function": {"name": "f", "arguments": {"x": 1}}});
    let told = post(
        &engine,
        "/api/chat",
        &json!({
            "model": "tiny-a", "stream": false, "tools": [tool("f")], "messages": [
                {"role": "user", "content": "weather"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "TOOL", "content": "rain", "tool_name": "f", "tool_call_id": "call_1"},
            ],
        }),
    );
    assert_eq!(told.json()["message"]["content"], "The tool said: rain.");
}

#[test]
fn images_are_seen_by_a_model_that_sees() {
    let engine = ollama();
    let message = json!({"role": "user", "content": "what?", "images": ["iVBORw0KGgo="]});
    let body = json!({"model": "tiny-vision", "stream": false, "messages": [message]});
    let told = post(&engine, "/api/chat", &body).json();
    assert_eq!(told["message"]["content"], "A small red square. It is tiny.");
}

#[test]
fn a_format_is_kept_and_a_thought_before_it_is_free() {
    let engine = ollama();
    let text = |told: &Value| told["message"]["content"].as_str().unwrap().to_owned();
    let told = whole(&engine, "tiny-a", "hello", &json!({"format": "json"}));
    assert!(serde_json::from_str::<Value>(&text(&told)).unwrap().is_object());
    let schema = json!({"type": "object", "properties": {
        "n": {"type": "integer"}, "ok": {"type": "boolean"}}});
    let told = whole(&engine, "tiny-think", "think", &json!({"format": schema}));
    assert_eq!(text(&told), r#"{"n":0,"ok":true}"#);
    let thought = "Let me think about it. Two and two make four.\n";
    assert_eq!(told["message"]["thinking"], thought);
    let told = whole(&engine, "tiny-think", "think", &json!({"format": schema, "think": false}));
    assert_eq!(told["message"].get("thinking"), None);
}

#[test]
fn a_limit_and_a_stop_end_an_answer() {
    let engine = ollama();
    let told = whole(&engine, "tiny-a", "sing", &json!({"options": {"num_predict": 3}}));
    assert_eq!((&told["done_reason"], &told["eval_count"]), (&json!("length"), &json!(3)));
    let told = whole(&engine, "tiny-a", "count", &json!({"options": {"stop": [" 5", " 9"]}}));
    assert_eq!(told["message"]["content"], "1 2 3 4");
    assert_eq!(told["done_reason"], "stop");
    // What never ends by itself ends with the context.
    let told = whole(&engine, "tiny-a", "sing", &json!({"options": {"num_ctx": 64}}));
    let tokens = |key: &str| told[key].as_u64().unwrap();
    assert_eq!(
        (tokens("prompt_eval_count") + tokens("eval_count"), &told["done_reason"]),
        (64, &json!("length"))
    );
    let told = whole(&engine, "tiny-a", "count", &json!({"options": {"num_predict": -1}}));
    assert_eq!(told["done_reason"], "stop");
}

#[test]
fn probabilities_are_told_when_they_are_asked_for() {
    let engine = ollama();
    let more = json!({"logprobs": true, "top_logprobs": 2});
    let lines = lines(&chat(&engine, "tiny-a", "count", &more));
    let first = &lines[0]["logprobs"][0];
    assert_eq!((&first["token"], &first["bytes"]), (&json!("1"), &json!([49])));
    assert!(first["logprob"].as_f64().unwrap() < 0.0);
    assert_eq!(first["top_logprobs"].as_array().unwrap().len(), 2);
    let told = whole(&engine, "tiny-a", "count", &json!({"logprobs": true}));
    let tokens = told["logprobs"].as_array().unwrap();
    let text: String = tokens.iter().map(|t| t["token"].as_str().unwrap()).collect();
    assert_eq!(text, told["message"]["content"]);
    assert_eq!(tokens[0].get("top_logprobs"), None);
    assert_eq!(whole(&engine, "tiny-a", "count", &json!({})).get("logprobs"), None);
}

#[test]
fn generate_says_the_same_under_another_key() {
    let engine = ollama();
    let lines =
        lines(&post(&engine, "/api/generate", &json!({"model": "tiny-a", "prompt": "hello"})));
    assert_eq!(joined(&lines, "/response"), "Hello! I am tiny-a, a tiny test model.");
    let last = lines.last().unwrap();
    assert_eq!((&last["done_reason"], &last["response"]), (&json!("stop"), &json!("")));
    assert!(last["eval_count"].as_u64().unwrap() > 0 && last.get("message").is_none());
    let body = json!({"model": "tiny-think", "prompt": "think", "stream": false});
    let told = post(&engine, "/api/generate", &body).json();
    assert_eq!(told["response"], "The answer is 4.");
    assert_eq!(told["thinking"], "Let me think about it. Two and two make four.\n");
}

#[test]
fn the_installed_models_are_listed_and_shown() {
    let engine =
        with(Ollama { models: vec!["a".to_owned(), "me/vl:7b".to_owned()], ..Ollama::default() });
    let tags = get(&engine, "/api/tags").json();
    let models = tags["models"].as_array().unwrap();
    assert_eq!((&models[0]["name"], &models[0]["model"]), (&json!("a:latest"), &json!("a:latest")));
    assert_eq!(models[1]["name"], "me/vl:7b");
    assert_eq!(models[1]["capabilities"], json!(["completion", "vision", "tools"]));
    for model in models {
        assert!(is_a_moment(&model["modified_at"]));
        assert!(model["size"].as_u64().unwrap() > 0);
        assert_eq!(model["digest"].as_str().unwrap().len(), 64);
        for key in
            ["parent_model", "format", "family", "families", "parameter_size", "quantization_level"]
        {
            assert!(model["details"].get(key).is_some(), "{key}");
        }
    }
    let show = post(&engine, "/api/show", &json!({"model": "A"})).json();
    let family = show["model_info"]["general.architecture"].as_str().unwrap();
    assert!(show["model_info"][format!("{family}.context_length")].as_u64().unwrap() > 0);
    assert_eq!(show["capabilities"], json!(["completion", "tools"]));
    for key in ["license", "modelfile", "parameters", "template", "details", "modified_at"] {
        assert!(show.get(key).is_some(), "{key}");
    }
    let none = post(&engine, "/api/show", &json!({"model": "b"}));
    assert_eq!(none.status_line, "HTTP/1.1 404 Not Found");
}

#[test]
fn the_loaded_models_are_listed_longest_first() {
    let engine = ollama();
    assert_eq!(ps(&engine), Vec::<String>::new());
    load(&engine, "tiny-a", &json!({"keep_alive": "10m", "options": {"num_ctx": 8192}}));
    load(&engine, "tiny-think", &json!({"keep_alive": -1, "options": {"num_gpu": 0}}));
    load(&engine, "tiny-vision", &json!({"options": {"num_gpu": 10}}));
    let told = get(&engine, "/api/ps").json();
    let models = told["models"].as_array().unwrap();
    let names: Vec<&str> = models.iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["tiny-think:latest", "tiny-a:latest", "tiny-vision:latest"]);
    let size =
        |model: &Value| (model["size"].as_u64().unwrap(), model["size_vram"].as_u64().unwrap());
    let (cpu, gpu, split) = (size(&models[0]), size(&models[1]), size(&models[2]));
    assert_eq!((cpu.1, gpu.1), (0, gpu.0));
    assert!(split.1 > 0 && split.1 < split.0, "{split:?}");
    assert_eq!(
        (&models[0]["context_length"], &models[1]["context_length"]),
        (&json!(4096), &json!(8192))
    );
    assert!(models.iter().all(|model| is_a_moment(&model["expires_at"])));
    // "For ever" is told as a moment that is far away.
    assert!(models[0]["expires_at"].as_str() > Some("2200"));
}

#[test]
fn texts_are_embedded_the_same_way_every_time() {
    let engine = ollama();
    let told =
        post(&engine, "/api/embed", &json!({"model": "tiny-embed", "input": ["a", "b"]})).json();
    let again = post(&engine, "/api/embed", &json!({"model": "tiny-embed", "input": "b"})).json();
    assert_eq!(told["embeddings"][1], again["embeddings"][0]);
    assert_ne!(told["embeddings"][0], told["embeddings"][1]);
    assert_eq!((&told["model"], &told["prompt_eval_count"]), (&json!("tiny-embed"), &json!(2)));
}

#[test]
fn what_it_was_asked_can_be_read() {
    let engine = ollama();
    let mut client = Client::connect(engine.addr());
    client.send(b"GET /api/tags?x=1 HTTP/1.1\r\nHost: sim\r\nX-Mark: 7\r\n\r\n");
    client.response();
    chat(&engine, "tiny-a", "hello", &json!({"keep_alive": "1m"}));
    let told = get(&engine, "/sim/requests?last=2").json();
    assert_eq!(told.as_array().unwrap().len(), 2);
    assert_eq!((&told[0]["method"], &told[0]["path"]), (&json!("GET"), &json!("/api/tags")));
    assert_eq!((&told[0]["query"], &told[0]["body"]), (&json!("x=1"), &Value::Null));
    assert!(told[0]["headers"].as_array().unwrap().contains(&json!(["X-Mark", "7"])));
    assert_eq!(
        (&told[1]["path"], &told[1]["body"]["keep_alive"]),
        (&json!("/api/chat"), &json!("1m"))
    );
    assert_eq!(get(&engine, "/sim/requests?last=1").json()[0]["path"], "/api/chat");
    client.send(&request("POST", "/sim/reset", "text/plain", ""));
    client.response();
    assert_eq!(get(&engine, "/sim/requests").json(), json!([]));
}

#[test]
fn only_the_last_requests_are_remembered() {
    let engine = ollama();
    let mut client = Client::connect(engine.addr());
    for n in 0..40 {
        client.send(format!("GET /api/version?n={n} HTTP/1.1\r\nHost: sim\r\n\r\n").as_bytes());
        client.response();
    }
    let told = get(&engine, "/sim/requests").json();
    assert_eq!(told.as_array().unwrap().len(), 32);
    assert_eq!((&told[0]["query"], &told[31]["query"]), (&json!("n=8"), &json!("n=39")));
}
