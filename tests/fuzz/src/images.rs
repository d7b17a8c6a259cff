//! An inline image, made smaller.
//!
//! The content is an image's bytes, or with switch 0 the JSON string that holds its address. Switch 1:
//! more pixels are allowed; 2: the checksums of a PNG are made right first; 3: poor quality.
//!
//! Owns: that nothing panics, that what comes out is a JPEG within the rules, that it comes out once
//! only, and what counts against the size gate. Must never do: decode with limits wider than the rules.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::Bytes;
use chat_proxy_core::chat::images::{ImageJob, ImageRules, Scaled, check_size, decoded_len};
use image::ImageReader;

use crate::input::Input;

const HEAD: &str = "\"data:image/jpeg;base64,";
/// As clients write it: padded or not.
const ANY: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(crate) fn run(bytes: &[u8]) {
    let input = Input::of(bytes);
    let rules = ImageRules {
        long_edge: 16,
        quality: if input.on(3) { 1 } else { 90 },
        max_pixels: if input.on(1) { 1 << 16 } else { 1 << 10 },
    };
    let (url, image) = if input.on(0) {
        (Bytes::copy_from_slice(input.content), None)
    } else {
        let mut image = input.content.to_vec();
        if input.on(2) {
            mend_png(&mut image);
        }
        let base64 = STANDARD.encode(&image);
        (Bytes::from(format!("\"data:image/png;base64,{base64}\"")), Some(image))
    };
    let scaled = ImageJob { url: url.clone(), rules }.run();
    gate(&scaled);
    match &scaled {
        Scaled::Stays { bytes } => {
            assert_eq!(*bytes, decoded_len(&url));
            assert!(*bytes <= url.len() as u64);
            assert!(image.is_none_or(|image| *bytes == image.len() as u64));
        }
        Scaled::Anew { url: small, bytes } => {
            assert_eq!(decoded_len(small), *bytes);
            is_within(small, *bytes, &rules);
            let again = ImageJob { url: small.clone(), rules }.run();
            assert_eq!(again, Scaled::Stays { bytes: *bytes }, "once is enough");
            came_within(&url, &rules);
        }
    }
}

/// The size gate is exact.
fn gate(scaled: &Scaled) {
    let bytes = scaled.bytes();
    assert!(check_size(bytes, bytes).is_ok());
    assert!(bytes == 0 || check_size(bytes, bytes - 1).is_err_and(|error| error.status == 413));
}

/// What came out is a JPEG no larger than the rules allow.
fn is_within(url: &[u8], bytes: u64, rules: &ImageRules) {
    let base64 = url.strip_prefix(HEAD.as_bytes()).and_then(|rest| rest.strip_suffix(b"\""));
    let jpeg = base64.and_then(|base64| STANDARD.decode(base64).ok()).unwrap_or_default();
    assert_eq!(jpeg.len() as u64, bytes);
    let edge = u64::from(rules.long_edge);
    assert!(bytes <= edge * edge * 4 + 1024, "{bytes} bytes");
    let decoded = image::load_from_memory_with_format(&jpeg, image::ImageFormat::Jpeg);
    let edges = decoded.map_or((0, 0), |image| (image.width(), image.height()));
    assert!(edges.0.max(edges.1) == rules.long_edge && edges.0.min(edges.1) > 0, "{edges:?}");
}

/// What went in had no more pixels than the rules allow.
fn came_within(url: &[u8], rules: &ImageRules) {
    let comma = url.iter().position(|byte| *byte == b',').map_or(0, |at| at + 1);
    let base64 = url[comma..].strip_suffix(b"\"").unwrap_or(&url[comma..]);
    let image = ANY.decode(base64).unwrap_or_default();
    assert_eq!(image.len() as u64, decoded_len(url), "all that was decoded counts");
    let reader = ImageReader::new(Cursor::new(&image)).with_guessed_format();
    let edges = reader.ok().and_then(|reader| reader.into_dimensions().ok());
    let pixels = edges.map(|(width, height)| u64::from(width) * u64::from(height));
    assert!(pixels.is_some_and(|pixels| pixels <= rules.max_pixels), "{edges:?}");
}

/// Writes the checksums of a PNG's chunks anew, so that changed bytes get past them.
fn mend_png(png: &mut [u8]) {
    let mut at = 8;
    while let Some(head) = png.get(at..at + 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(end) = at.checked_add(8 + length).filter(|end| end + 4 <= png.len()) else {
            return;
        };
        let sum = crc32(&png[at + 4..end]);
        png[end..end + 4].copy_from_slice(&sum.to_be_bytes());
        at = end + 4;
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_mended() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\0IEND????".to_vec();
        mend_png(&mut png);
        assert_eq!(png[16..], [0xae, 0x42, 0x60, 0x82]);
    }
}
