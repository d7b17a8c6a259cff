//! Every answer has the shape of the one that the real engine gave.
//!
//! Compared: the status, the heads' names in order and the values that matter, the sequence of
//! events, and the keys of all JSON in their order at every depth. Ids, times, numbers and the
//! model's words are masked; an error's words are not.

use std::time::Duration;

use serde_json::Value;
use sim_engine::{Handle, Options};

use crate::client::{Client, Response, engine, request};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/vllm");

/// Rows that are not answered, each with the reason.
const NOT_ANSWERED: [(&str, &str); 0] = [];

/// Rows where the number of like events in a row is not compared: the real engine put several
/// tokens into one by chance.
const RUNS_COUNT_ONCE: [&str; 1] = ["responses_stream.txt"];

/// Strings that are compared as they are.
const KEPT: [&str; 17] = [
    "object",
    "role",
    "type",
    "finish_reason",
    "stop_reason",
    "stop_sequence",
    "status",
    "model",
    "owned_by",
    "version",
    "organization",
    "param",
    "tool_choice",
    "truncation",
    "service_tier",
    "detail",
    "logprobs",
];

struct Capture {
    method: String,
    path: String,
    body: String,
    status_line: String,
    headers: Vec<(String, String)>,
    answer: String,
}

fn capture(file: &str) -> Capture {
    let text = std::fs::read_to_string(format!("{FOLDER}/{file}")).unwrap();
    let (request, response) = text.split_once("\n### RESPONSE").unwrap();
    let (_, response) = response.split_once('\n').unwrap_or_default();
    let (line, body) = request.split_once('\n').unwrap();
    let (method, path) = line.strip_prefix("### REQUEST ").unwrap().split_once(' ').unwrap();
    let (head, answer) = response.split_once("\r\n\r\n").unwrap_or_default();
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default().to_owned();
    let headers = lines.map(|l| l.split_once(": ").unwrap());
    Capture {
        method: method.to_owned(),
        path: path.to_owned(),
        body: body.to_owned(),
        status_line,
        headers: headers.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        answer: answer.to_owned(),
    }
}

/// The engines that the captures were taken from.
struct Engines {
    plain: Handle,
    reasoning: Handle,
    vision: Handle,
}

impl Engines {
    fn start() -> Self {
        let tools = Options {
            auto_tool_choice: true,
            tool_call_parser: Some("hermes".to_owned()),
            ..Options::default()
        };
        let reasoning = Options {
            reasoning_parser: Some("qwen3".to_owned()),
            sleep_mode: true,
            ..tools.clone()
        };
        let vision =
            Options { served: vec!["tiny-vl".to_owned()], images: Some(2), ..Options::default() };
        Self { plain: engine(tools), reasoning: engine(reasoning), vision: engine(vision) }
    }

    fn of(&self, file: &str) -> &Handle {
        let asleep = ["sleep", "wake"].iter().any(|w| file.contains(w));
        if file.starts_with("vision") || file.contains("without_parser") {
            &self.vision
        } else if file.starts_with("reasoning") || asleep {
            &self.reasoning
        } else {
            &self.plain
        }
    }
}

#[test]
fn every_answer_has_the_shape_of_the_captured_one() {
    let engines = Engines::start();
    let index = std::fs::read_to_string(format!("{FOLDER}/INDEX.tsv")).unwrap();
    let mut problems = Vec::new();
    let mut compared = 0;
    for file in index.lines().map(|row| row.split('\t').next().unwrap()) {
        if NOT_ANSWERED.iter().any(|(name, _)| *name == file) {
            continue;
        }
        compared += 1;
        if let Err(problem) = compare(engines.of(file), file) {
            problems.push(format!("{file}: {problem}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
    assert!(compared > 90, "only {compared} rows were compared");
}

#[test]
fn every_row_that_is_not_answered_exists() {
    let index = std::fs::read_to_string(format!("{FOLDER}/INDEX.tsv")).unwrap();
    for (name, reason) in NOT_ANSWERED {
        assert!(!reason.is_empty() && index.lines().any(|row| row.starts_with(name)), "{name}");
    }
}

fn compare(engine: &Handle, file: &str) -> Result<(), String> {
    let wanted = capture(file);
    let mut client = Client::connect(engine.addr());
    let kind = if file == "err_text_plain.txt" { "text/plain" } else { "application/json" };
    client.send(&request(&wanted.method, &wanted.path, kind, &wanted.body));
    if wanted.status_line.is_empty() {
        // The real engine was silent for two minutes; that it stays so is not waited for.
        let silent = client.is_silent(Duration::from_millis(100));
        return if silent { Ok(()) } else { Err("not silent".to_owned()) };
    }
    let got = client.response();
    same("status", &wanted.status_line, &got.status_line)?;
    same("head", &masked_head(&wanted.headers), &masked_head(&got.headers))?;
    let streamed = got.header("content-type").is_some_and(|k| k.starts_with("text/event-stream"));
    if streamed {
        let once = RUNS_COUNT_ONCE.contains(&file);
        return same("events", &events(&wanted.answer, once), &events(&got.text(), once));
    }
    same("body", &vec![body_shape(&wanted.answer)], &vec![body_shape(&got.text())])
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, wanted: &T, got: &T) -> Result<(), String> {
    if wanted == got { Ok(()) } else { Err(format!("{what}\nwanted {wanted:#?}\ngot {got:#?}")) }
}

fn masked_head(headers: &[(String, String)]) -> Vec<String> {
    let mask = |(name, value): &(String, String)| match name.as_str() {
        "date" | "content-length" => name.clone(),
        _ => format!("{name}: {value}"),
    };
    headers.iter().map(mask).collect()
}

fn body_shape(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    shape("", &serde_json::from_str(text).unwrap())
}

/// The events, each as its lines with masked data.
fn events(text: &str, runs_count_once: bool) -> Vec<String> {
    let line = |line: &str| match line.strip_prefix("data: ") {
        Some("[DONE]") | None => line.to_owned(),
        Some(data) => shape("", &serde_json::from_str(data).unwrap()),
    };
    let event = |event: &str| event.lines().map(line).collect::<Vec<_>>().join(" ");
    let mut events: Vec<String> = text.trim_end().split("\n\n").map(event).collect();
    if runs_count_once {
        events.dedup();
    }
    events
}

/// The shape of a value under this key.
fn shape(key: &str, value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let error = map.contains_key("message") && map.contains_key("type");
            let one = |(name, value): (&String, &Value)| match value {
                Value::String(text) if error && name == "message" => format!("{name}:{text:?}"),
                _ => format!("{name}:{}", shape(name, value)),
            };
            format!("{{{}}}", map.iter().map(one).collect::<Vec<_>>().join(","))
        }
        Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_number) => {
            "[numbers]".to_owned()
        }
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(|v| shape("", v)).collect();
            format!("[{}]", list.join(","))
        }
        Value::String(text) if KEPT.contains(&key) => format!("{text:?}"),
        Value::String(_) => "text".to_owned(),
        Value::Number(number) if key == "code" => number.to_string(),
        Value::Number(_) => "number".to_owned(),
        other => other.to_string(),
    }
}

/// The captured words are met where they are the model's own.
#[test]
fn the_canned_answers_are_the_captured_ones() {
    let engines = Engines::start();
    for (file, pointer) in [
        ("chat.txt", "/choices/0/message/content"),
        ("chat_max_tokens.txt", "/choices/0/message/content"),
        ("chat_stop.txt", "/choices/0/message/content"),
        ("chat_stop.txt", "/choices/0/stop_reason"),
        ("chat_json_object.txt", "/choices/0/message/content"),
        ("chat_logprobs.txt", "/choices/0/message/content"),
        ("completions.txt", "/choices/0/text"),
        ("chat.txt", "/usage/completion_tokens"),
        ("reasoning.txt", "/choices/0/message/reasoning"),
        ("reasoning.txt", "/choices/0/message/content"),
        ("reasoning.txt", "/usage/completion_tokens"),
        ("reasoning.txt", "/usage/completion_tokens_details"),
        ("reasoning_truncated.txt", "/choices/0/message/reasoning"),
        ("reasoning_truncated.txt", "/usage/completion_tokens_details"),
        ("reasoning_tools_auto.txt", "/usage/completion_tokens"),
        ("tools_auto.txt", "/choices/0/message/tool_calls/0/function"),
    ] {
        let wanted = capture(file);
        let mut client = Client::connect(engines.of(file).addr());
        client.post(&wanted.path, &wanted.body);
        let got: Response = client.response();
        let wanted: Value = serde_json::from_str(&wanted.answer).unwrap();
        assert_eq!(got.json().pointer(pointer), wanted.pointer(pointer), "{file} {pointer}");
    }
}
