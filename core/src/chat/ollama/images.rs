//! Images in messages: OpenAI's URLs as Ollama's bare base64.
//!
//! Owns: which images must be fetched first ([`remote_images`]), and the form of each. Must never
//! do: fetch, or look into an image.

use std::collections::HashMap;
use std::hash::BuildHasher;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use crate::error::ApiError;

/// The http(s) images in the messages of a body, in order, each once. A body that is not
/// understood has none: [`super::translate`] says what is wrong with it.
pub fn remote_images(body: &[u8]) -> Vec<String> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let parts = messages.iter().filter_map(|message| message["content"].as_array()).flatten();
    let mut found: Vec<String> = Vec::new();
    for part in parts.filter(|part| part["type"] == "image_url") {
        let url = url_of(&part["image_url"]).filter(|url| is_remote(url));
        if let Some(url) = url.filter(|url| !found.iter().any(|known| known == url)) {
            found.push(url.to_owned());
        }
    }
    found
}

/// The URL of an `image_url`, which is an object or, with some clients, the URL itself.
pub(super) fn url_of(image_url: &Value) -> Option<&str> {
    image_url.as_str().or_else(|| image_url.get("url")?.as_str())
}

/// An image as Ollama takes it; `at` names the content part.
pub(super) fn bare<S: BuildHasher>(
    url: &str,
    fetched: &HashMap<String, Bytes, S>,
    at: &str,
) -> Result<String, ApiError> {
    if is_remote(url) {
        return match fetched.get(url) {
            Some(bytes) => Ok(STANDARD.encode(bytes)),
            None => Err(ApiError::invalid(
                at,
                format!("`{at}`: images at http(s) addresses are not fetched for Ollama"),
            )
            .hint("set fetch_remote_images = true, or send the image as a data: URI")),
        };
    }
    inline(url).ok_or_else(|| {
        let message = format!("`{at}`: the image must be a data: URI with base64 data");
        ApiError::invalid(at, message).hint("data:image/png;base64,…")
    })
}

fn is_remote(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| has_prefix(url, scheme))
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The base64 text of a `data:` URI of an image. No media type at all counts as an image: Ollama
/// looks for itself.
fn inline(url: &str) -> Option<String> {
    let (head, data) = url.split_once(',')?;
    let media = has_prefix(head, "data:").then(|| &head["data:".len()..])?;
    let (media, encoding) = media.rsplit_once(';')?;
    let is_image = media.is_empty() || has_prefix(media, "image/");
    (is_image && encoding.trim().eq_ignore_ascii_case("base64")).then(|| tidy(data)).flatten()
}

/// Base64 as Ollama's strict reader wants it: white space goes, missing padding is put back.
fn tidy(data: &str) -> Option<String> {
    let mut text: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    text.truncate(text.trim_end_matches('=').len());
    let known = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
    if text.is_empty() || !known || text.len() % 4 == 1 {
        return None;
    }
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    Some(text)
}
