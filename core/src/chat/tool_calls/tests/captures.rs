//! What a real vLLM sent, through the whole chain: nothing is lost, nothing foreign leaves, and streams
//! come to what the same answers in one piece come to.

use std::fs;
use std::path::Path;

use super::*;
use crate::chat::edits::splice;
use crate::chat::fields::{self, FieldRules, Foreign, Level, ReasoningField};
use crate::chat::stream::ChatStream;
use crate::chat::think::{Opener, ThinkFormat, Thinking};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/vllm");

/// A request and its good answer.
struct Exchange {
    name: String,
    request: Value,
    body: String,
}

impl Exchange {
    /// Chat exchanges that went well; each file holds one.
    fn all() -> Vec<Exchange> {
        let mut all: Vec<Exchange> = fs::read_dir(Path::new(FOLDER))
            .unwrap()
            .filter_map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_stem()?.to_str()?.to_owned();
                (path.extension()? == "txt")
                    .then(|| Exchange::read(name, &fs::read_to_string(&path).unwrap()))?
            })
            .collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    fn read(name: String, text: &str) -> Option<Exchange> {
        let asked = text.strip_prefix("### REQUEST POST /v1/chat/completions\n")?;
        let (request, answer) = asked.split_once("\n### RESPONSE")?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let request = serde_json::from_str(request).ok()?;
        head.contains("HTTP/1.1 200").then(|| Exchange { name, request, body: body.to_owned() })
    }

    fn streams(&self) -> bool {
        self.request["stream"] == true
    }

    fn rules(&self) -> (FieldRules, TextRules) {
        let chat = ChatRequest::parse(Bytes::from(self.request.to_string())).unwrap();
        let foreign = Foreign::Go { asked: chat.asked_fields().to_vec() };
        let thinking = Some(Thinking { format: ThinkFormat::Extract, opener: Opener::Unknown });
        let fields = FieldRules { reasoning: ReasoningField::Reasoning, foreign };
        (fields, TextRules { offered: offered(&chat), thinking })
    }

    /// What leaves of a stream whose wire is cut into pieces of this size.
    fn streamed(&self, size: usize) -> String {
        let (fields, text) = self.rules();
        let mut stream = ChatStream::new(true).with_fields(fields).with_text(text);
        let (bytes, mut out) = (Bytes::from(self.body.clone()), Vec::new());
        for at in (0..bytes.len()).step_by(size) {
            stream.push(&bytes.slice(at..bytes.len().min(at + size)), &mut out).unwrap();
        }
        stream.finish(&mut out).unwrap();
        String::from_utf8(out.concat()).unwrap()
    }

    /// What leaves of an answer in one piece.
    fn whole(&self) -> Value {
        let (fields, text) = self.rules();
        let body = whole(self.body.trim().as_bytes(), &text);
        let body = Bytes::from(body.unwrap_or_else(|| self.body.trim().into()));
        let edits = fields::edits(&body, &fields);
        serde_json::from_slice(&splice(&body, edits).concat()).unwrap()
    }
}

fn chunks(text: &str) -> Vec<Value> {
    let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// No field that is not `OpenAI`'s holds a value.
fn assert_plain(answer: &Value, asked: &[&str], name: &str) {
    let check = |level: Level, fields: &Value| {
        for (field, value) in fields.as_object().into_iter().flatten() {
            let known = level.knows(field.as_bytes()) || asked.contains(&field.as_str());
            assert!(known || value.is_null(), "{name}: {field} of {level:?}");
        }
    };
    check(Level::Root, answer);
    for choice in answer["choices"].as_array().into_iter().flatten() {
        check(Level::Choice, choice);
        check(Level::Message, &choice["delta"]);
        check(Level::Message, &choice["message"]);
    }
}

/// One choice's share of chunks or of an answer.
fn only_choice(mut chunk: Value, index: u64) -> Value {
    if let Some(choices) = chunk["choices"].as_array_mut() {
        choices.retain(|choice| choice["index"] == index);
    }
    chunk
}

#[test]
fn every_captured_stream_is_acceptable_and_loses_nothing_however_it_is_cut() {
    let streams: Vec<Exchange> = Exchange::all().into_iter().filter(Exchange::streams).collect();
    assert!(streams.len() >= 12, "{}", streams.len());
    for exchange in &streams {
        let uncut = exchange.streamed(usize::MAX);
        for size in [1, 7, 100] {
            assert_eq!(exchange.streamed(size), uncut, "{} by {size}", exchange.name);
        }
        assert!(uncut.ends_with("data: [DONE]\n\n"), "{}", exchange.name);
        for index in 0..exchange.request["n"].as_u64().unwrap_or(1) {
            let of = |text: &str| {
                let chunks: Vec<Value> =
                    chunks(text).into_iter().map(|chunk| only_choice(chunk, index)).collect();
                Accumulated::of(&chunks)
            };
            let (came, left) = (of(&exchange.body), of(&uncut));
            assert_eq!(left.content, came.content, "{}", exchange.name);
            assert_eq!(left.reasoning, came.reasoning, "{}", exchange.name);
            assert_eq!(left.calls, came.calls, "{}", exchange.name);
            let reason =
                if came.calls.is_empty() { came.finish } else { Some("tool_calls".to_owned()) };
            assert_eq!(left.finish, reason, "{}", exchange.name);
        }
        for chunk in chunks(&uncut) {
            assert_plain(&chunk, &[], &exchange.name);
        }
    }
}

#[test]
fn captured_answers_in_one_piece_come_to_what_their_streams_come_to() {
    let all = Exchange::all();
    let mut pairs = 0;
    for exchange in all.iter().filter(|exchange| !exchange.streams()) {
        let whole = exchange.whole();
        assert_plain(&whole, &[], &exchange.name);
        // What was drawn by lot came out otherwise the second time.
        let same = exchange.request["temperature"] == 0;
        let twin = format!("{}_stream", exchange.name);
        let Some(stream) = all.iter().find(|other| same && other.name == twin) else { continue };
        let calls = |mut all: Accumulated| {
            all.calls.iter_mut().for_each(|(id, ..)| id.clear());
            all
        };
        let streamed = Accumulated::of(
            &chunks(&stream.streamed(64))
                .into_iter()
                .map(|chunk| only_choice(chunk, 0))
                .collect::<Vec<_>>(),
        );
        assert_eq!(calls(Accumulated::of_whole(&whole)), calls(streamed), "{}", exchange.name);
        pairs += 1;
    }
    assert!(pairs >= 6, "{pairs}");
}
