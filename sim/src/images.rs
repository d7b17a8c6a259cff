//! Owns which images a prompt may have.
//!
//! It looks at an image's first bytes only, and must never fetch one from anywhere.

use serde_json::Value;

use crate::errors::ApiError;
use crate::options::Options;

/// Counts the images of a conversation, or refuses them.
pub(crate) fn check(messages: &[Value], options: &Options, model: &str) -> Result<usize, ApiError> {
    let urls = urls(messages);
    if urls.is_empty() {
        return Ok(0);
    }
    let Some(limit) = options.images else {
        return Err(ApiError::bad_request(format!("{model} is not a multimodal model")));
    };
    if urls.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
        return Err(ApiError::too_many_images(limit));
    }
    for url in &urls {
        load(url)?;
    }
    Ok(urls.len())
}

fn urls(messages: &[Value]) -> Vec<&str> {
    let parts = messages.iter().filter_map(|m| m.get("content").and_then(Value::as_array));
    let image = |part: &'_ Value| part.get("type").is_some_and(|t| t == "image_url");
    parts
        .flatten()
        .filter(|part| image(part))
        .map(|part| {
            let url = part.get("image_url");
            url.and_then(Value::as_str)
                .or_else(|| url.and_then(|u| u.get("url")).and_then(Value::as_str))
                .unwrap_or_default()
        })
        .collect()
}

fn load(url: &str) -> Result<(), ApiError> {
    if let Some(rest) = url.strip_prefix("http://") {
        return Err(unreachable(rest, 80));
    }
    if let Some(rest) = url.strip_prefix("https://") {
        return Err(unreachable(rest, 443));
    }
    let data = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    let start = data.map(|(_, data)| first_bytes(data)).unwrap_or_default();
    let known: [&[u8]; 6] = [b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0"];
    if known.iter().any(|magic| start.starts_with(magic)) {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "Failed to load image: cannot identify image file <_io.BytesIO object>",
    ))
}

fn unreachable(rest: &str, default_port: u16) -> ApiError {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once(':') {
        Some((host, port)) => ApiError::unreachable(host, port.parse().unwrap_or(default_port)),
        None => ApiError::unreachable(authority, default_port),
    }
}

/// The first bytes of a base64 text; stops at what is not base64.
fn first_bytes(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0_u32, 0_u32);
    for digit in text.bytes().take(16).map_while(value) {
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    bytes
}
