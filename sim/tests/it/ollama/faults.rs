//! Each fault of an Ollama does what it says.

use std::time::Duration;

use serde_json::{Value, json};
use sim_engine::{Fault, Ollama, Options, Order};

use super::{
    body, chat, get, joined, lines, load, models, ollama, order, post, ps, release, wait_models,
    with,
};
use crate::client::{Client, End, engine, find, request, wait_for};

/// How long a silence is listened to.
const QUIET: Duration = Duration::from_millis(50);

fn sim(fault: &Value) -> Value {
    json!({"sim": fault})
}

#[test]
fn an_error_inside_a_stream_is_its_last_line() {
    let engine = ollama();
    let fault = json!({"error_after_events": 3, "error_text": "out of memory"});
    let response = chat(&engine, "tiny-a", "count", &sim(&fault));
    assert_eq!(response.status_line, "HTTP/1.1 200 OK");
    let lines = lines(&response);
    assert_eq!(lines.len(), 4);
    assert_eq!(joined(&lines, "/message/content"), "1 2 3");
    assert_eq!(lines[3], json!({"error": "out of memory"}));
    let own =
        super::lines(&chat(&engine, "tiny-a", "count", &sim(&json!({"error_after_events": 1}))));
    assert!(own[1]["error"].is_string());
}

#[test]
fn an_error_before_the_first_line_has_a_status() {
    let engine = ollama();
    let fault = json!({"error_after_events": 0, "error_text": "no"});
    for stream in [true, false] {
        let more = json!({"sim": fault, "stream": stream});
        let response = chat(&engine, "tiny-a", "count", &more);
        assert_eq!(response.status_line, "HTTP/1.1 500 Internal Server Error");
        assert_eq!(response.header("content-type"), Some("application/json; charset=utf-8"));
        assert_eq!(response.json(), json!({"error": "no"}));
    }
    let response = chat(&engine, "tiny-a", "count", &sim(&json!({"status": 503})));
    assert_eq!(response.status_line, "HTTP/1.1 503 Service Unavailable");
    let busy = "server busy, please try again.  maximum pending requests exceeded";
    assert_eq!(response.json(), json!({"error": busy}));
    let fault = json!({"status": 500, "body": "{\"error\":\"mine\"}"});
    assert_eq!(chat(&engine, "tiny-a", "x", &sim(&fault)).json(), json!({"error": "mine"}));
}

#[test]
fn a_stream_can_end_without_done() {
    let engine = ollama();
    let ended = lines(&chat(&engine, "tiny-a", "count", &sim(&json!({"end_after_events": 2}))));
    assert_eq!((ended.len(), &ended[1]["done"]), (2, &json!(false)));
    let open = lines(&chat(&engine, "tiny-a", "hello", &sim(&json!({"no_finish": true}))));
    assert_eq!(joined(&open, "/message/content"), "Hello! I am tiny-a, a tiny test model.");
    assert!(open.iter().all(|line| line["done"] == false));
    let none = chat(&engine, "tiny-a", "hello", &sim(&json!({"empty_stream": true})));
    assert_eq!((none.status_line.as_str(), none.body.len()), ("HTTP/1.1 200 OK", 0));
    let mut client = Client::connect(engine.addr());
    let cut = sim(&json!({"cut": {"after_events": 2}}));
    client.post("/api/chat", &body("tiny-a", "count", &cut).to_string());
    let (got, end) = client.rest();
    let parts = String::from_utf8(got).unwrap().matches("\"done\":false").count();
    assert_eq!((parts, end), (2, End::Fin));
}

#[test]
fn the_line_with_done_can_lack_what_it_has_or_have_more() {
    let engine = ollama();
    let last = |fault: &Value| {
        let lines = lines(&chat(&engine, "tiny-a", "count", &sim(fault)));
        assert_eq!(
            joined(&lines, "/message/content"),
            "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20."
        );
        lines.last().unwrap().clone()
    };
    let bare = last(&json!({"no_done_reason": true, "no_counts": true}));
    assert_eq!((&bare["done"], bare.get("done_reason")), (&json!(true), None));
    assert_eq!((bare.get("prompt_eval_count"), bare.get("eval_count")), (None, None));
    let full = last(&json!({"full_done": true}));
    assert_eq!((&full["done"], &full["message"]["content"]), (&json!(true), &json!(".")));
    assert_eq!(full["done_reason"], "stop");
}

#[test]
fn a_call_can_come_with_done() {
    let engine = ollama();
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let more = json!({"tools": [tool], "sim": {"full_done": true}});
    let lines = lines(&chat(&engine, "tiny-a", "weather", &more));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["message"]["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(lines[0]["done"], true);
}

#[test]
fn a_line_can_be_no_json_and_an_answer_no_ollamas() {
    let engine = ollama();
    let text = chat(&engine, "tiny-a", "count", &sim(&json!({"malformed_after_events": 2}))).text();
    let bad: Vec<usize> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| serde_json::from_str::<Value>(line).is_err())
        .map(|(at, _)| at)
        .collect();
    assert_eq!(bad, [2]);
    assert!(text.trim_end().lines().last().unwrap().contains("\"done\":true"));
    let html = json!({"status": 200, "body": "<html>hello</html>", "content_type": "text/html"});
    let page = chat(&engine, "tiny-a", "count", &sim(&html));
    assert_eq!(page.header("content-type"), Some("text/html"));
    assert_eq!(page.text(), "<html>hello</html>");
}

#[test]
fn lines_are_cut_at_odd_places() {
    let engine = ollama();
    let response = chat(&engine, "tiny-a", "unicode", &sim(&json!({"split_writes": 1})));
    assert_eq!(response.chunks.len(), response.body.len());
    assert_eq!(joined(&lines(&response), "/message/content"), "Grüße, señor! 你好,世界。 😀🎉");
    let together = chat(&engine, "tiny-a", "count", &sim(&json!({"events_per_write": 1000})));
    assert_eq!(together.chunks.len(), 1);
    let crlf = chat(&engine, "tiny-a", "hello", &sim(&json!({"crlf": true}))).text();
    assert!(crlf.lines().count() == crlf.matches("\r\n").count() && crlf.ends_with("}\r\n"));
}

#[test]
fn the_head_goes_out_with_the_first_line() {
    let engine = ollama();
    let mut client = Client::connect(engine.addr());
    let slow = sim(&json!({"delay_first_ms": 600_000}));
    client.post("/api/chat", &body("tiny-a", "count", &slow).to_string());
    wait_for(&engine, "it is asked", |s| s.in_flight == 1);
    assert!(client.is_silent(QUIET));
}

#[test]
fn silence_before_the_head_and_inside_a_stream_ends_with_the_client() {
    let engine = ollama();
    for (n, (fault, begun)) in [
        (json!({"hang_before_head": true}), ""),
        (json!({"hang_after_events": 1}), "\"content\":\"1\""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Client::connect(engine.addr());
        client.post("/api/chat", &body("tiny-a", "count", &sim(&fault)).to_string());
        client.until(|b| begun.is_empty() || find(b, begun.as_bytes()).is_some());
        client.skip();
        assert!(client.is_silent(QUIET));
        drop(client);
        wait_for(&engine, "it is noticed", |s| s.aborted == n as u64 + 1 && s.in_flight == 0);
    }
}

#[test]
fn a_load_fails_for_all_who_wait_and_the_next_one_may_succeed() {
    let engine = ollama();
    let response = chat(&engine, "tiny-a", "x", &sim(&json!({"load_error": ""})));
    assert_eq!(response.status_line, "HTTP/1.1 500 Internal Server Error");
    let error = response.json()["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("model failed to load, "), "{error}");
    let fault = json!({"load_error": "llama runner died", "load_hangs": true});
    let mut clients: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = Client::connect(engine.addr());
            client.post("/api/chat", &body("tiny-think", "x", &sim(&fault)).to_string());
            client
        })
        .collect();
    wait_for(&engine, "both wait", |s| s.in_flight == 2);
    release(&engine);
    for client in &mut clients {
        assert_eq!(client.response().json(), json!({"error": "llama runner died"}));
    }
    assert_eq!(load(&engine, "tiny-think", &json!({}))["done_reason"], "load");
    let stats = models(&engine);
    assert_eq!((stats.loads, stats.loaded), (3, vec!["tiny-think:latest".to_owned()]));
}

#[test]
fn a_load_can_last_until_it_is_released_or_given_up() {
    let engine = ollama();
    order(&engine, &json!({"on": "/api/chat", "fault": {"load_hangs": true}}));
    let mut client = Client::connect(engine.addr());
    client.post("/api/chat", &json!({"model": "tiny-a"}).to_string());
    wait_models(&engine, "it loads", |m| m.loading == ["tiny-a:latest"]);
    assert!(client.is_silent(QUIET));
    drop(client);
    wait_models(&engine, "it is given up", |m| m.loading.is_empty());
    let mut client = Client::connect(engine.addr());
    client.post("/api/chat", &json!({"model": "tiny-a"}).to_string());
    wait_models(&engine, "it loads again", |m| m.loading == ["tiny-a:latest"]);
    release(&engine);
    assert_eq!(client.response().json()["done_reason"], "load");
}

#[test]
fn memory_can_be_held_until_it_is_released() {
    let engine = ollama();
    load(&engine, "tiny-a", &json!({}));
    let unload = json!({"keep_alive": 0, "sim": {"unload_hangs": true}});
    assert_eq!(load(&engine, "tiny-a", &unload)["done_reason"], "unload");
    assert_eq!((ps(&engine), models(&engine).unloads), (vec!["tiny-a:latest".to_owned()], 0));
    // Whoever wants it now waits until it is gone.
    let mut client = Client::connect(engine.addr());
    client.post("/api/chat", &json!({"model": "tiny-a"}).to_string());
    assert!(client.is_silent(QUIET));
    release(&engine);
    assert_eq!(client.response().json()["done_reason"], "load");
    assert_eq!((models(&engine).loads, models(&engine).unloads), (2, 1));
}

#[test]
fn an_order_to_unload_can_come_to_nothing() {
    let engine = ollama();
    load(&engine, "tiny-a", &json!({}));
    order(&engine, &json!({"times": 1, "fault": {"unload_never": true}}));
    let unload = json!({"keep_alive": 0});
    assert_eq!(load(&engine, "tiny-a", &unload)["done_reason"], "unload");
    assert_eq!((ps(&engine), models(&engine).unloads), (vec!["tiny-a:latest".to_owned()], 0));
    load(&engine, "tiny-a", &unload);
    wait_models(&engine, "the next order counts", |m| m.unloads == 1);
}

#[test]
fn listings_can_be_slow_or_fail() {
    let order_of = |on: &str, fault: Fault| Order { on: Some(on.to_owned()), times: None, fault };
    let slow = Fault { hang_before_head: Some(true), ..Fault::default() };
    let fails = Fault { status: Some(500), ..Fault::default() };
    let orders = vec![order_of("/api/ps", slow), order_of("/api/tags", fails)];
    let engine = with(Ollama { orders, ..Ollama::default() });
    assert_eq!(get(&engine, "/api/tags").status_line, "HTTP/1.1 500 Internal Server Error");
    let mut client = Client::connect(engine.addr());
    client.send(&request("GET", "/api/ps", "text/plain", ""));
    assert!(client.is_silent(QUIET));
    assert_eq!(get(&engine, "/api/version").status_line, "HTTP/1.1 200 OK");
    order(&engine, &json!([]));
    assert_eq!(ps(&engine), Vec::<String>::new());
    assert_eq!(get(&engine, "/api/tags").status_line, "HTTP/1.1 200 OK");
    order(&engine, &json!([{"on": "/", "times": 1, "fault": {"delay_head_ms": 1, "status": 502}}]));
    assert_eq!(get(&engine, "/").status_line, "HTTP/1.1 502 Bad Gateway");
    assert_eq!(get(&engine, "/").text(), "Ollama is running");
}

#[test]
fn the_engines_faults_are_those_of_all_that_generate_and_a_request_wins() {
    let fault = Fault { tokens: Some(2), ..Fault::default() };
    let engine = engine(Options { ollama: Some(Ollama::default()), fault, ..Options::default() });
    let two = lines(&chat(&engine, "tiny-a", "hello", &json!({})));
    assert_eq!(joined(&two, "/message/content"), "tok0 tok1");
    let one = lines(&chat(&engine, "tiny-a", "hello", &sim(&json!({"tokens": 1}))));
    assert_eq!(joined(&one, "/message/content"), "tok0");
    let bad = post(&engine, "/sim/fault", &json!({"fault": {"tokns": 1}}));
    assert_eq!(bad.status_line, "HTTP/1.1 400 Bad Request");
}

#[test]
fn health_is_ordered_as_on_the_other_face() {
    let engine = ollama();
    post(&engine, "/sim/health", &json!({"status": 503}));
    assert_eq!(get(&engine, "/").status_line, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(get(&engine, "/api/version").status_line, "HTTP/1.1 503 Service Unavailable");
    post(&engine, "/sim/health", &json!({"ok": true}));
    assert_eq!(get(&engine, "/").text(), "Ollama is running");
    assert_eq!(get(&engine, "/sim/argv").json(), json!([]));
}
