//! Ollama's lines as events of OpenAI's, and requests in Ollama's words.
//!
//! Switch 0: the content is a request; 1: that model cannot think; 2: options are pinned; 3: the content
//! is a list of Ollama's.
//!
//! Owns: that cuts never matter, that what leaves is a stream that a strict client can read, that it
//! comes to the same as the answer in one piece, and that a request keeps its messages. Must never do:
//! know what a parameter means.

use std::collections::HashMap;

use bytes::Bytes;
use chat_proxy_core::chat::ollama::{
    LOAD_TIME, NativeStream, Nonsense, Pinned, Think, embed_nothing, load_body, parse_abilities,
    parse_ps, parse_tags, remote_images, same_model, translate, whole_answer,
};
use chat_proxy_core::chat::sse::is_error_event;
use chat_proxy_core::chat::stream::{ChatStream, Progress};
use serde_json::{Map, Value, json};

use crate::client::{self, Reading};
use crate::input::Input;
use crate::json;
use crate::sse::{data_of, shown, whole_events};

const ID: &str = "chatcmpl-1";

pub(crate) fn run(bytes: &[u8]) {
    let input = Input::of(bytes);
    if input.on(0) {
        request(&input);
    } else if input.on(3) {
        lists(&input);
    } else {
        answer(&input);
    }
}

/// What left, and how it ended.
type Left = (Vec<u8>, Result<(), Nonsense>);

fn leaves(pieces: &[&[u8]]) -> Left {
    let mut stream = NativeStream::new(ID.to_owned(), 7);
    let mut out = Vec::new();
    for piece in pieces {
        match stream.push(piece) {
            Ok(bytes) => out.extend(bytes),
            Err(nonsense) => return (out, Err(nonsense)),
        }
    }
    loop {
        match stream.end() {
            Ok(bytes) if bytes.is_empty() => return (out, Ok(())),
            Ok(bytes) => out.extend(bytes),
            Err(nonsense) => return (out, Err(nonsense)),
        }
    }
}

fn answer(input: &Input<'_>) {
    let (out, end) = input.cuttings().same(leaves);
    let events = whole_events(&out);
    assert_eq!(events.concat(), out);
    let datas: Vec<Vec<u8>> = events.iter().filter_map(|event| data_of(event)).collect();
    assert_eq!(datas.len(), events.len());
    let done = datas.iter().filter(|data| *data == b"[DONE]").count();
    assert!(done == 0 || done == 1 && datas.last().is_some_and(|data| data == b"[DONE]"));
    assert!(done == 0 || end.is_ok());
    let datas = &datas[..datas.len() - done];
    assert!(datas.iter().all(|data| json::is_valid(data)), "no JSON: {}", shown(&out));
    let chunks = datas.iter().map(|data| json::strict(data)).collect::<Option<Vec<Value>>>();
    // Numbers stay the text that came: some are too large for us.
    let Some(chunks) = chunks else { return };
    let errors = chunks.iter().filter(|chunk| chunk.get("error").is_some()).count();
    assert!(errors + done <= 1, "it ends once");
    assert!(errors == 0 || chunks.last().is_some_and(|chunk| chunk.get("error").is_some()));
    let told = client::of_stream(&chunks, Reading::Strict);
    assert!(told.is_ok(), "{told:?} of {}", shown(&out));
    behind_the_chain(&out, done == 1, errors == 1);
    let lines = input.content.split(|byte| *byte == b'\n').filter(|l| !l.trim_ascii().is_empty());
    let mut lines = lines.collect::<Vec<_>>().into_iter();
    if let (Some(line), None) = (lines.next(), lines.next()) {
        one_line(line, &told.unwrap_or_default(), done == 1);
    }
    names(&out, input.content.len());
}

/// As the daemon has it: the events go on through the chain of all chat answers.
fn behind_the_chain(out: &[u8], done: bool, failed: bool) {
    let mut stream = ChatStream::new(true);
    let mut left = Vec::new();
    let end = stream.push(&Bytes::copy_from_slice(out), &mut left);
    assert_eq!(left.concat(), out, "nothing is changed any more");
    let want = if done {
        Progress::Done
    } else if failed {
        Progress::Failed
    } else {
        Progress::Flowing
    };
    assert_eq!(end, Ok(want));
    assert!(!failed || !is_error_event(out));
}

/// An answer of one line is the same streamed or not.
fn one_line(line: &[u8], streamed: &client::Answer, done: bool) {
    let whole = whole_answer(line, ID, 7);
    assert_eq!(whole.is_ok(), done, "{whole:?}");
    let Ok(whole) = whole else { return };
    let answer = json::strict(&whole).map(|answer| client::of_whole(&answer).map(client::settled));
    assert_eq!(answer, Some(Ok(client::settled(streamed.clone()))));
}

/// Every event repeats the model's name: what leaves is bounded by what came all the same.
fn names(out: &[u8], came: usize) {
    assert!(out.len() <= (came + 1024) * (came / 2 + 4), "{} bytes of {came}", out.len());
}

fn request(input: &Input<'_>) {
    let body = input.content;
    let pinned = pinned(input);
    let images = remote_images(body);
    let fetched: HashMap<String, Bytes> =
        images.iter().map(|url| (url.clone(), Bytes::from_static(b"GIF89a"))).collect();
    assert_eq!(images.len(), fetched.len(), "each once");
    let native = match translate(body, &pinned, &fetched) {
        Ok(native) => native,
        Err(error) => {
            assert!(error.status == 400 && !error.message.is_empty(), "{error:?}");
            return;
        }
    };
    let header = native.losses.header().unwrap_or_default();
    assert!(header.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) && header.len() < 1000);
    assert_eq!(native.losses.is_empty(), header.is_empty());
    let left = json::strict(&native.body).and_then(|left| left.as_object().cloned());
    assert!(json::is_valid(&native.body), "{}", shown(&native.body));
    // The arguments of calls stay text, with whatever is in them.
    let Some(left) = left else { return };
    assert_eq!(left.get("model"), Some(&json!(pinned.tag)));
    assert!(left.get("stream").is_some_and(Value::is_boolean), "or Ollama would stream");
    let options = left.get("options").and_then(Value::as_object).cloned().unwrap_or_default();
    for name in LOAD_TIME {
        assert_eq!(options.get(name), pinned.options.get(name), "load-time options are pinned");
    }
    if let Some(Value::Object(came)) = json::strict(body) {
        history(&came, &left);
    }
}

fn pinned(input: &Input<'_>) -> Pinned {
    let mut options = Map::new();
    if input.on(2) {
        options.insert("num_ctx".to_owned(), json!(4096));
        options.insert("temperature".to_owned(), json!(0.5));
        options.insert("num_gpu".to_owned(), Value::Null);
    }
    options.retain(|_, value| !value.is_null());
    Pinned {
        tag: "qwen3:8b".to_owned(),
        options,
        keep_alive: input.on(2).then(|| json!("10m")),
        think: Some(Think::On),
        can_think: input.on(1).then_some(false),
    }
}

/// One message stays one message, and says what it said.
fn history(came: &Map<String, Value>, left: &Map<String, Value>) {
    let list = |body: &Map<String, Value>| {
        body.get("messages").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let (came, left) = (list(came), list(left));
    assert_eq!(came.len(), left.len());
    for (came, left) in came.iter().zip(&left) {
        let said = left["content"].as_str().unwrap_or_default();
        let parts = came["content"].as_array().cloned().unwrap_or_default();
        let texts = parts.iter().filter_map(|part| part["text"].as_str());
        for text in came["content"].as_str().into_iter().chain(texts) {
            assert!(said.contains(text), "{text:?} is not in {said:?}");
        }
        let images = parts.iter().filter(|part| part["type"] == "image_url").count();
        assert_eq!(images, left["images"].as_array().map_or(0, Vec::len));
        let calls = |message: &Value| message["tool_calls"].as_array().map_or(0, Vec::len);
        let older = usize::from(came["function_call"].is_object());
        let assistant = left["role"] == "assistant";
        assert_eq!(if assistant { calls(came) + older } else { 0 }, calls(left));
    }
}

fn lists(input: &Input<'_>) {
    let bytes = input.content;
    let text = input.text();
    for model in parse_ps(bytes).unwrap_or_default() {
        assert!(model.context_length != Some(0) && model.expires_at.as_deref() != Some(""));
    }
    for tag in parse_tags(bytes).unwrap_or_default() {
        assert!(same_model(&tag.name, &tag.name));
    }
    let _ = parse_abilities(bytes);
    let (one, other) = text.split_once('\n').unwrap_or((&text, "m"));
    assert!(same_model(one, one));
    assert_eq!(same_model(one, other), same_model(other, one));
    let plain = !one.contains([':', '/']) && !one.is_empty();
    assert!(!plain || same_model(one, &format!("{one}:latest")));
    let pinned = pinned(input);
    for body in [load_body(&pinned), embed_nothing(&pinned)] {
        assert!(json::strict(&body).is_some_and(|body| body["model"] == pinned.tag.as_str()));
    }
}
