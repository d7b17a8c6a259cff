//! The request log (SPEC 7.1).

use std::fs;

use serde_json::{Value, json};

use crate::support::daemon::entry;
use crate::support::{Ask, BOUND, Daemon, Setup, Upstream, eventually, vllm};

const FIELDS: &str = "ts request_id client endpoint model_requested model_logical backend \
    model_backend_id stream status queue_ms activate_ms ttft_ms duration_ms prompt_tokens \
    completion_tokens tokens_estimated tokens_per_second finish_reason policy cancelled";
const PROMPT: &str = "a-very-private-question";

fn body(stream: bool) -> String {
    format!(
        r#"{{"model":"Tiny A","messages":[{{"role":"user","content":"{PROMPT}"}}],"stream":{stream}}}"#
    )
}

fn ask(stream: bool) -> Ask {
    Ask::chat(body(stream)).header("x-request-id", "log-1").header("user-agent", "x")
}

#[track_caller]
fn assert_common(line: &Value, stream: bool) {
    let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    for field in FIELDS.split_whitespace() {
        assert!(keys.contains(&field), "{field} is missing: {line}");
    }
    let ts = line["ts"].as_str().unwrap();
    // 2026-11-23T04:54:04.123Z
    let shape: String = ts.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{ts}");
    for (field, want) in [
        ("request_id", json!("log-1")),
        ("client", json!("127.0.0.1")),
        ("endpoint", json!("/v1/chat/completions")),
        ("model_requested", json!("Tiny A")),
        ("model_logical", json!("tiny-a")),
        ("backend", json!("openai")),
        ("model_backend_id", json!("served/tiny-a")),
        ("stream", json!(stream)),
        ("status", json!(200)),
        ("queue_ms", json!(0)),
        ("activate_ms", json!(0)),
        ("cancelled", json!(false)),
        ("finish_reason", json!("stop")),
        ("policy", json!({})),
    ] {
        assert_eq!(line[field], want, "{field}");
    }
    let (first, whole) = (line["ttft_ms"].as_u64(), line["duration_ms"].as_u64());
    assert!(first.is_some() || !stream, "{line}");
    assert!(whole.is_some() && first <= whole, "{line}");
    assert_eq!(line.get("error"), None);
}

fn named(upstream: &Upstream) -> Value {
    let mut entry = entry("tiny-a", upstream);
    entry["display_name"] = json!("Tiny A");
    entry
}

fn streamed() -> Upstream {
    Upstream::start(|_, wire| {
        wire.stream_head();
        for event in vllm::stream(&["a", " b", " c"]) {
            // Slow enough for a rate of tokens to be there.
            std::thread::sleep(std::time::Duration::from_millis(10));
            wire.chunk(event.as_bytes());
        }
        wire.last_chunk();
    })
}

#[test]
fn a_streamed_request_has_one_line_with_every_field() {
    let upstream = streamed();
    let daemon = Setup::new().entry(named(&upstream)).start();
    assert_eq!(ask(true).reply(daemon.addr()).status(), 200);
    let line = daemon.log_line();
    assert_common(&line, true);
    assert_eq!((&line["prompt_tokens"], &line["completion_tokens"]), (&json!(13), &json!(3)));
    assert_eq!(line["tokens_estimated"], false);
    assert!(line["tokens_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{line}");
    let said = line.to_string() + &daemon.stderr();
    assert!(
        !said.contains(PROMPT) && line.get("messages").is_none() && line.get("response").is_none()
    );
}

#[test]
fn a_request_in_one_piece_has_one_line_with_every_field() {
    let whole = vllm::WHOLE.replace(
        "\"prompt_tokens_details\":null,\"completion_tokens_details\":null",
        "\"prompt_tokens_details\":{\"cached_tokens\":8},\"completion_tokens_details\":{\"reasoning_tokens\":5}",
    );
    let upstream = Upstream::answering("200 OK", "application/json", &whole);
    let daemon = Setup::new().entry(named(&upstream)).start();
    assert_eq!(ask(false).reply(daemon.addr()).status(), 200);
    let line = daemon.log_line();
    assert_common(&line, false);
    assert_eq!((&line["prompt_tokens"], &line["completion_tokens"]), (&json!(13), &json!(16)));
    assert_eq!((&line["cached_tokens"], &line["reasoning_tokens"]), (&json!(8), &json!(5)));
    assert!(!line.to_string().contains(PROMPT));
}

#[test]
fn tokens_are_estimated_where_the_backend_does_not_count() {
    let mut events = vllm::stream(&["a", "b", "c", "d"]);
    events.retain(|event| !event.contains("usage"));
    let upstream = Upstream::streaming(events);
    let daemon = Setup::with(&upstream).start();
    ask(true).reply(daemon.addr());
    let line = daemon.log_line();
    assert_eq!((&line["completion_tokens"], &line["tokens_estimated"]), (&json!(4), &json!(true)));
    // A token for each four bytes of what was asked.
    assert_eq!(line["prompt_tokens"], json!(body(true).len().div_ceil(4)));
}

#[test]
fn so_are_those_of_an_answer_in_one_piece() {
    let mut whole: Value = serde_json::from_str(vllm::WHOLE).unwrap();
    whole.as_object_mut().unwrap().remove("usage");
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap().len();
    let upstream = Upstream::answering("200 OK", "application/json", &whole.to_string());
    let daemon = Setup::with(&upstream).start();
    ask(false).reply(daemon.addr());
    let line = daemon.log_line();
    assert_eq!(line["completion_tokens"], json!(text.div_ceil(4)));
    assert_eq!(line["tokens_estimated"], true);
    assert_eq!(line["prompt_tokens"], json!(body(false).len().div_ceil(4)));
}

#[test]
fn prompts_and_answers_are_logged_only_on_demand() {
    let (one, stream) = (
        Upstream::answering("200 OK", "application/json", vllm::WHOLE),
        Upstream::streaming(vllm::stream(&["un", "usual"])),
    );
    for (upstream, streamed) in [(&one, false), (&stream, true)] {
        let daemon = Setup::with(upstream).set("logging", "log_prompts", true).start();
        assert_eq!(ask(streamed).reply(daemon.addr()).status(), 200);
        let line = daemon.log_line();
        assert_eq!(line["messages"], json!([{"role": "user", "content": PROMPT}]));
        let response = line["response"].to_string();
        assert!(
            response.contains(if streamed { "usual" } else { "tiny test model" }),
            "{response}"
        );
    }
}

#[test]
fn a_keys_name_stands_for_the_client() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let daemon = Setup::with(&upstream).env("CHAT_PROXY_API_KEYS", "one-key,admin:two-key").start();
    assert_eq!(ask(false).header("x-api-key", "one-key").reply(daemon.addr()).status(), 200);
    let line = daemon.log_line();
    assert!(!line.to_string().contains("one-key"), "{line}");
    assert!(line["client"].as_str().is_some_and(|client| !client.is_empty()), "{line}");
}

#[test]
fn line_breaks_and_long_names_stay_within_one_line() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let daemon = Setup::with(&upstream).start();
    let name = format!("a\nb\u{2028}{}", "x".repeat(5000));
    let reply = Ask::chat(json!({"model": name, "messages": []}).to_string()).reply(daemon.addr());
    reply.error(404, "err_model_not_found");
    let line = daemon.log_line();
    assert!(line["model_requested"].as_str().unwrap().starts_with("a\nb"));
    assert!(line.to_string().len() < 4000, "a name of any length is not kept whole");
}

/// All lines of the live log and of its rotated ones, oldest first.
fn all_lines(daemon: &Daemon, files: &[&str]) -> Vec<Value> {
    let read = |name: &&str| fs::read_to_string(daemon.path(name)).unwrap_or_default();
    let text: String = files.iter().map(read).collect();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}")))
        .collect()
}

#[test]
fn rotation_loses_and_tears_no_line() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let daemon = Setup::with(&upstream)
        .set("server", "max_log_bytes", 4096)
        .set("logging", "max_log_files", 20)
        .start();
    let count = 60;
    for i in 0..count {
        let ask = Ask::chat(vllm::ask(false)).header("x-request-id", &format!("n-{i}"));
        assert_eq!(ask.reply(daemon.addr()).status(), 200);
    }
    let names: Vec<String> = (1..=20).rev().map(|n| format!("logs/chat.jsonl.{n}")).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.push("logs/chat.jsonl");
    let lines = eventually("all lines are written", BOUND, || {
        Some(all_lines(&daemon, &names)).filter(|lines| lines.len() >= count)
    });
    // Lines of two requests that ended at nearly the same time may change places.
    let mut numbers: Vec<usize> = lines.iter().map(number).collect();
    let rotated: Vec<usize> =
        all_lines(&daemon, &["logs/chat.jsonl.1"]).iter().map(number).collect();
    let oldest: Vec<usize> =
        all_lines(&daemon, &["logs/chat.jsonl.3"]).iter().map(number).collect();
    assert!(!oldest.is_empty() && oldest.iter().min() < rotated.iter().min(), "`.1` is the newest");
    numbers.sort_unstable();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
    for name in names {
        let size = fs::metadata(daemon.path(name)).map_or(0, |meta| meta.len());
        assert!(size <= 4096, "{name} has {size} bytes");
    }
}

/// Which request a line is about.
fn number(line: &Value) -> usize {
    line["request_id"].as_str().unwrap().strip_prefix("n-").unwrap().parse().unwrap()
}

#[test]
fn only_so_many_rotated_logs_are_kept() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let mut daemon = Setup::with(&upstream)
        .set("server", "max_log_bytes", 1024)
        .set("logging", "max_log_files", 2)
        .start();
    for _ in 0..20 {
        assert_eq!(Ask::chat(vllm::ask(false)).reply(daemon.addr()).status(), 200);
    }
    daemon.terminate();
    assert_eq!(daemon.wait_exit(BOUND).code(), Some(0));
    let mut names: Vec<String> = fs::read_dir(daemon.path("logs"))
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["chat.jsonl", "chat.jsonl.1", "chat.jsonl.2"]);
}
