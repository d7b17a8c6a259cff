//! What a request said, for the log that was asked to keep it (SPEC 7.1).
//!
//! Owns: which part of a body is the conversation, and what stands for an image there. Must never do:
//! let the bytes of an image, a sound or a file through.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// The fields that hold a conversation, by endpoint: chat and `/v1/messages`, `/v1/completions`,
/// `/v1/embeddings` and `/v1/responses`, `/v1/rerank`, `/v1/score`.
const FIELDS: [&str; 8] =
    ["messages", "prompt", "suffix", "input", "query", "documents", "text_1", "text_2"];
/// Instructions beside it.
const SYSTEM: [&str; 2] = ["system", "instructions"];
/// Shorter texts are no files.
const SHORTEST: usize = 64;

/// The conversation of a request's JSON body; `None`: it has none, or is no JSON object.
///
/// Where one field holds all of it, this is that field's value; else an object of the fields.
pub fn prompt(body: &[u8]) -> Option<Value> {
    let Ok(Value::Object(mut body)) = serde_json::from_slice(body) else { return None };
    let mut found = Map::new();
    for name in SYSTEM.iter().chain(&FIELDS) {
        if let Some(mut value) = body.remove(*name) {
            without_files(&mut value);
            found.insert((*name).to_owned(), value);
        }
    }
    if found.len() == 1 {
        return found.into_iter().next().map(|(_, value)| value);
    }
    (!found.is_empty()).then_some(Value::Object(found))
}

/// Puts `{sha256, bytes, mime}` in the place of every file.
pub(super) fn without_files(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some((mime, data)) = data_uri(text) {
                *value = stand_in(data, mime);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(without_files),
        Value::Object(object) => {
            if let Some(file) = bare_file(object) {
                *value = file;
                return;
            }
            if let Some(Value::String(data)) = object.get("b64_json") {
                let picture = stand_in(data, "image/*");
                object.insert("b64_json".to_owned(), picture);
            }
            object.values_mut().for_each(without_files);
        }
        _ => {}
    }
}

/// `data:image/png;base64,…`: its type and what is encoded.
fn data_uri(text: &str) -> Option<(&str, &str)> {
    let scheme = text.get(..5)?;
    let (head, data) =
        scheme.eq_ignore_ascii_case("data:").then(|| text[5..].split_once(','))??;
    let mime = head.split(';').next().unwrap_or_default();
    Some((if mime.is_empty() { "text/plain" } else { mime }, data))
}

/// `{data, media_type}` of `/v1/messages`, and `{data, format}` of sounds.
fn bare_file(object: &Map<String, Value>) -> Option<Value> {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let data = text("data").filter(|data| data.len() >= SHORTEST)?;
    let mime = match (text("media_type"), text("format")) {
        (Some(mime), _) => mime.to_owned(),
        (None, Some(format)) => format!("audio/{format}"),
        (None, None) => return None,
    };
    Some(stand_in(data, &mime))
}

/// Of what cannot be decoded the text is hashed.
fn stand_in(data: &str, mime: &str) -> Value {
    let decoded = STANDARD.decode(data.trim());
    file(decoded.as_deref().unwrap_or(data.as_bytes()), mime)
}

pub(super) fn file(bytes: &[u8], mime: &str) -> Value {
    let hash = Sha256::digest(bytes);
    let hash = hash.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    json!({"sha256": hash, "bytes": bytes.len(), "mime": mime})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf abc | sha256sum`
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn of(body: &Value) -> Value {
        prompt(body.to_string().as_bytes()).unwrap_or_default()
    }

    #[test]
    fn images_are_replaced_by_hash_size_and_type() {
        let image =
            json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,YWJj"}});
        let body = json!({"model": "m", "messages": [
            {"role": "user", "content": [{"type": "text", "text": "look"}, image]}
        ]});
        let stand_in = json!({"sha256": ABC, "bytes": 3, "mime": "image/png"});
        let want = json!([{"role": "user", "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": stand_in}},
        ]}]);
        assert_eq!(of(&body), want);
    }

    #[test]
    fn so_are_files_in_the_words_of_other_endpoints() {
        let data = STANDARD.encode([7; 60]);
        let source = |extra: Value| {
            let mut object = json!({"data": data});
            if let (Value::Object(all), Value::Object(more)) = (&mut object, extra) {
                all.extend(more);
            }
            object
        };
        for (part, mime) in [
            (
                json!({"type": "image", "source": source(json!({"media_type": "image/jpeg"}))}),
                "image/jpeg",
            ),
            (
                json!({"type": "input_audio", "input_audio": source(json!({"format": "wav"}))}),
                "audio/wav",
            ),
            (
                json!({"type": "input_image", "image_url": format!("DATA:image/gif;base64,{data}")}),
                "image/gif",
            ),
            (
                json!({"file": {"file_data": format!("data:application/pdf;base64,{data}")}}),
                "application/pdf",
            ),
            (json!({"image_url": {"url": format!("data:;base64,{data}")}}), "text/plain"),
        ] {
            let said = of(&json!({"messages": [{"content": [part]}]})).to_string();
            assert!(!said.contains(&data), "{said}");
            assert!(said.contains(&format!("\"bytes\":60,\"mime\":\"{mime}\"")), "{said}");
        }
    }

    #[test]
    fn what_only_looks_like_a_file_stays() {
        let said = json!([{"role": "user", "content": "data: is what I want"},
            {"content": {"data": "short", "format": "wav"}}, {"content": "ü"}]);
        assert_eq!(of(&json!({"messages": said})), said);
        // Nothing of it is base64: the text's own hash.
        let odd = of(&json!({"prompt": "data:text/plain,abc"}));
        assert_eq!(odd, json!({"sha256": ABC, "bytes": 3, "mime": "text/plain"}).clone());
    }

    #[test]
    fn every_endpoint_has_its_field() {
        assert_eq!(of(&json!({"prompt": "a"})), json!("a"));
        assert_eq!(of(&json!({"input": ["a", "b"]})), json!(["a", "b"]));
        let both = json!({"system": "be kind", "messages": [{"content": "a"}]});
        assert_eq!(of(&both), both);
        assert_eq!(prompt(b"{\"model\":\"m\"}"), None);
        assert_eq!(prompt(b"[1]"), None);
        assert_eq!(prompt(b"{"), None);
    }
}
