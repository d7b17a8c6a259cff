//! Bodies that are relayed, looked at as they come in, and streams that are relayed back.
//!
//! Switch 0: the content is a form with the boundary `xYz`; 1: its first line is the content type; 2: it
//! is an answer's stream of events. Switches 3 to 5 choose the endpoint.
//!
//! Owns: that cuts never matter, that edits lie within the body, and that after them the body says the
//! served model and otherwise what it said. Must never do: judge what a backend would refuse.

use bytes::Bytes;
use chat_proxy_core::ApiError;
use chat_proxy_core::relay::{Dialect, EventStream, Found, Scan};
use serde_json::{Map, Value};

use crate::input::{Cuttings, Input};
use crate::json;
use crate::sse::{data_of, split, whole_events};

const SERVED: &str = "served/id";
const FORM: &str = "multipart/form-data; boundary=xYz";

pub(crate) fn run(bytes: &[u8]) {
    let input = Input::of(bytes);
    let chosen = (0..3).filter(|bit| input.on(bit + 3)).fold(0, |sum, bit| sum | 1 << bit);
    let dialect = Dialect::RELAYED[chosen];
    let form = Dialect::Transcriptions;
    if input.on(2) {
        return events(&input, if input.on(0) { form } else { dialect });
    }
    if input.on(1) {
        let text = input.text();
        let (kind, body) = text.split_once('\n').unwrap_or((&text, ""));
        return body_of(&input.with(body.as_bytes()).cuttings(), form, kind);
    }
    let kind = if input.on(0) { FORM } else { "application/json" };
    body_of(&input.cuttings(), dialect, kind);
}

fn body_of(cuttings: &Cuttings<&[u8]>, dialect: Dialect, kind: &str) {
    let found = cuttings.same(|pieces| scan(dialect, kind, pieces));
    let body = cuttings.each().next().map(<[&[u8]]>::concat).unwrap_or_default();
    let object = json::strict(&body).and_then(|value| value.as_object().cloned());
    let is_form =
        kind.trim_start().get(..9).is_some_and(|kind| kind.eq_ignore_ascii_case("multipart"));
    match found {
        Err(error) => {
            assert!(error.status == 400 && !error.message.is_empty(), "{error:?}");
            let fields = object.as_ref().filter(|_| dialect != Dialect::Transcriptions && !is_form);
            assert!(fields.is_none_or(|fields| is_ours_to_refuse(fields, &error)), "{error:?}");
        }
        Ok(found) => {
            let edited = edited(&body, &found, dialect);
            let again = scan(dialect, kind, &[&edited]);
            let model = again.as_ref().map(Found::model);
            let shown = String::from_utf8_lossy(&edited);
            assert!(matches!(model, Ok(Some(SERVED))), "{again:?} in {shown}");
            assert!(again.is_ok_and(|again| again.stream == found.stream), "{shown}");
            if let Some(object) = object.filter(|_| found.boundary.is_none()) {
                is_understood(&object, &found, dialect, &edited);
            }
        }
    }
}

fn scan(dialect: Dialect, kind: &str, pieces: &[&[u8]]) -> Result<Found, ApiError> {
    let mut scan = Scan::of(dialect, Some(kind))?;
    for piece in pieces {
        scan.push(piece)?;
    }
    scan.finish()
}

/// The body as it goes to its backend.
fn edited(body: &[u8], found: &Found, dialect: Dialect) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    for edit in found.edits(dialect, SERVED) {
        let place = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
        let (start, end) = (place(edit.place.start), place(edit.place.end));
        assert!(at <= start && start <= end && end <= body.len(), "{edit:?} of {}", body.len());
        out.extend_from_slice(&body[at..start]);
        out.extend_from_slice(edit.text.as_bytes());
        at = end;
    }
    out.extend_from_slice(&body[at..]);
    out
}

/// Real JSON is refused for one of our own fields only.
fn is_ours_to_refuse(object: &Map<String, Value>, error: &ApiError) -> bool {
    let wrong = |name: &str, right: fn(&Value) -> bool| object.get(name).is_some_and(|v| !right(v));
    let long = |name: &str| object.get(name).is_some_and(|value| value.to_string().len() > 1000);
    match error.param.as_deref() {
        Some("model") => wrong("model", |v| v.is_string() || v.is_null()) || long("model"),
        Some("stream") => wrong("stream", |v| v.is_boolean() || v.is_null()) || long("stream"),
        Some("stream_options") => {
            wrong("stream_options", |v| v.is_object() || v.is_null()) || long("stream_options")
        }
        // A name in other letters.
        Some(name) => object.contains_key(name) && name.to_lowercase() != name || !name.is_ascii(),
        None => error.message.contains("deeper"),
    }
}

/// What was found in real JSON is what it says, and only the edits change it.
fn is_understood(object: &Map<String, Value>, found: &Found, dialect: Dialect, edited: &[u8]) {
    let model = object.get("model").and_then(Value::as_str).filter(|name| !name.is_empty());
    assert_eq!(found.model(), model);
    assert_eq!(found.stream, object.get("stream") == Some(&Value::Bool(true)));
    let mut want = object.clone();
    want.insert("model".to_owned(), SERVED.into());
    if dialect == Dialect::Completions && found.stream && !found.wants_usage() {
        let options = want.get("stream_options").and_then(Value::as_object);
        let mut options = options.cloned().unwrap_or_default();
        options.insert("include_usage".to_owned(), true.into());
        want.insert("stream_options".to_owned(), Value::Object(options));
    }
    let (left, want) = (json::strict(edited), Value::Object(want));
    assert!(left.is_some_and(|left| json::same(&left, &want)), "only the edits change {want}");
}

/// An answer's events: they leave as they came.
fn events(input: &Input<'_>, dialect: Dialect) {
    let (out, end, _) = input.cuttings().same(|pieces| {
        let mut stream = EventStream::new(dialect);
        let mut out = Vec::new();
        let pushed = pieces
            .iter()
            .try_for_each(|piece| stream.push(&Bytes::copy_from_slice(piece), &mut out).map(drop));
        let end = pushed.and_then(|()| stream.finish(&mut out));
        (out.concat(), end, format!("{:?}", stream.summary()))
    });
    let left = whole_events(&out);
    assert!(left.iter().all(|event| data_of(event).is_some()), "comments do not leave");
    let (came, _) = split(&[input.content]);
    let came = came.iter().filter(|event| data_of(event).is_some());
    let pairs = left.iter().zip(came).filter(|(left, came)| left != came).count();
    assert_eq!(pairs, 0, "events leave as they came");
    assert!(out.len() <= input.content.len() + 2 && (end.is_ok() || out.len() < 1 << 20));
}
