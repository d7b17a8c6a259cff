//! `data:` URIs as they stand in a JSON string.
//!
//! Owns: where the base64 begins, and how much it is. Must never do: copy it before it is decoded.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

/// As clients write it: padded or not.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The base64 of a JSON string (its quotes may be there) that holds such a URI, escapes and all; `None`:
/// it is none, or not base64.
fn payload(string: &[u8]) -> Option<&[u8]> {
    let inner = string.strip_prefix(b"\"").unwrap_or(string);
    let inner = inner.strip_suffix(b"\"").unwrap_or(inner);
    let comma = inner.iter().take(256).position(|byte| *byte == b',')?;
    let (head, data) = (&inner[..comma], &inner[comma + 1..]);
    let base64 = head.len() >= 7 && head[head.len() - 7..].eq_ignore_ascii_case(b";base64");
    base64.then_some(data)
}

/// The same as the string means it: some writers of JSON escape every slash.
fn plain(data: &[u8]) -> Option<Cow<'_, [u8]>> {
    if memchr::memchr(b'\\', data).is_none() {
        return Some(Cow::Borrowed(data));
    }
    let quoted = [b"\"", data, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).ok().map(|text| Cow::Owned(text.into_bytes()))
}

/// How many bytes it is when decoded, whatever they are.
pub fn decoded_len(string: &[u8]) -> u64 {
    let data = payload(string).unwrap_or(string);
    let data = plain(data).unwrap_or(Cow::Borrowed(data));
    let padding = data.iter().rev().take_while(|byte| **byte == b'=').count();
    (data.len() - padding) as u64 * 3 / 4
}

/// The bytes; `None`: it is not base64.
pub(super) fn decode(string: &[u8]) -> Option<Vec<u8>> {
    ENGINE.decode(plain(payload(string)?)?).ok()
}

/// A JPEG as a JSON string.
pub(super) fn jpeg(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 4 / 3 + 32);
    text.push_str("\"data:image/jpeg;base64,");
    base64::engine::general_purpose::STANDARD.encode_string(bytes, &mut text);
    text.push('"');
    text
}
