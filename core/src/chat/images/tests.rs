//! Images made here, as clients send them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;
use image::{DynamicImage, GenericImageView, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use proptest::prelude::*;

use super::*;

const RULES: ImageRules = ImageRules { long_edge: 64, quality: 85, max_pixels: 1_000_000 };
const RED: Rgb<u8> = Rgb([250, 10, 10]);
const BLUE: Rgb<u8> = Rgb([10, 10, 250]);

/// The left half is red, the right one blue.
fn halves(width: u32, height: u32) -> DynamicImage {
    let color = |x, _| if x < width / 2 { RED } else { BLUE };
    RgbImage::from_fn(width, height, color).into()
}

fn written(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn uri(bytes: &[u8]) -> Bytes {
    // The type is often wrong, and does not matter.
    Bytes::from(format!("\"data:image/png;base64,{}\"", STANDARD.encode(bytes)))
}

fn run(url: Bytes) -> Scaled {
    ImageJob { url, rules: RULES }.run()
}

#[track_caller]
fn scaled(bytes: &[u8]) -> DynamicImage {
    let Scaled::Anew { url, bytes } = run(uri(bytes)) else { panic!("it stays") };
    let text = std::str::from_utf8(&url).unwrap().trim_matches('"');
    let jpeg = STANDARD.decode(text.strip_prefix("data:image/jpeg;base64,").unwrap()).unwrap();
    assert_eq!(jpeg.len() as u64, bytes);
    image::load_from_memory_with_format(&jpeg, ImageFormat::Jpeg).unwrap()
}

#[track_caller]
fn assert_color(image: &DynamicImage, x: u32, y: u32, want: [u8; 3]) {
    let Rgba(found) = image.get_pixel(x, y);
    let near = found.iter().zip(want).all(|(one, other)| one.abs_diff(other) < 24);
    assert!(near, "{found:?} at {x} {y}");
}

#[test]
fn every_format_becomes_a_small_jpeg() {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    for format in [Png, Jpeg, Gif, WebP, Bmp] {
        let small = scaled(&written(&halves(200, 100), format));
        assert_eq!(small.dimensions(), (64, 32), "{format:?}");
        assert_color(&small, 8, 16, RED.0);
        assert_color(&small, 56, 16, BLUE.0);
    }
}

/// A photograph's stand-in: no two halves are alike, and no edge is sharp.
fn shades(width: u32, height: u32) -> DynamicImage {
    let shade = |at: u32, of: u32| u8::try_from(at * 255 / of).unwrap();
    DynamicImage::from(image::RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([shade(x, width), shade(y, height), shade(x + y, width + height)])
    }))
}

#[test]
fn large_jpegs_look_as_if_they_had_been_decoded_whole() {
    for (width, height) in [(1000, 750), (750, 1000), (1023, 511), (4001, 37)] {
        let small = scaled(&written(&shades(width, height), ImageFormat::Jpeg));
        // A PNG has no other way than to be decoded whole.
        let whole = scaled(&written(&shades(width, height), ImageFormat::Png));
        assert_eq!((small.width(), small.height()), (whole.width(), whole.height()));
        let (small, whole) = (small.into_rgb8(), whole.into_rgb8());
        let apart = small.iter().zip(whole.iter()).map(|(one, other)| one.abs_diff(*other)).max();
        assert!(apart.unwrap() <= 16, "{apart:?} at {width} x {height}");
    }
    let gray = DynamicImage::from(shades(960, 600).into_luma8());
    let small = scaled(&written(&gray, ImageFormat::Jpeg));
    assert_eq!((small.width(), small.height()), (64, 40));
}

#[test]
fn shapes_stay_and_no_side_vanishes() {
    for (from, to) in [((100, 300), (21, 64)), ((999, 65), (64, 4)), ((2000, 1), (64, 1))] {
        let small = scaled(&written(&halves(from.0, from.1), ImageFormat::Png));
        assert_eq!(small.dimensions(), to, "{from:?}");
    }
}

#[test]
fn what_is_transparent_becomes_white() {
    let clear =
        RgbaImage::from_fn(200, 200, |x, _| Rgba([200, 0, 0, if x < 100 { 0 } else { 255 }]));
    let small = scaled(&written(&clear.into(), ImageFormat::Png));
    assert_color(&small, 8, 32, [255, 255, 255]);
    assert_color(&small, 56, 32, [200, 0, 0]);
}

/// A JPEG whose camera was held so.
fn turned(orientation: u8) -> Vec<u8> {
    let jpeg = written(&halves(200, 100), ImageFormat::Jpeg);
    let tiff = [
        b'I',
        b'I',
        42,
        0,
        8,
        0,
        0,
        0,
        1,
        0,
        0x12,
        1,
        3,
        0,
        1,
        0,
        0,
        0,
        orientation,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let length = u16::try_from(2 + 6 + tiff.len()).unwrap();
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xff, 0xe1]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(b"Exif\0\0");
    bytes.extend(tiff);
    bytes.extend(&jpeg[2..]);
    bytes
}

#[test]
fn pictures_stand_upright() {
    assert_color(&scaled(&turned(1)), 8, 16, RED.0);
    let upside_down = scaled(&turned(3));
    assert_color(&upside_down, 8, 16, BLUE.0);
    let quarter = scaled(&turned(6));
    assert_eq!(quarter.dimensions(), (32, 64));
    assert_color(&quarter, 16, 8, RED.0);
    assert_color(&quarter, 16, 56, BLUE.0);
}

#[track_caller]
#[test]
fn escapes_of_json_are_read_through() {
    let plain = uri(&written(&halves(200, 100), ImageFormat::Png));
    let text = String::from_utf8(plain.to_vec()).unwrap();
    assert!(text.contains('/') && text.contains('+'));
    let escaped = text.replace('/', "\\/").replace('+', "\\u002b");
    assert_eq!(decoded_len(escaped.as_bytes()), decoded_len(&plain));
    assert_eq!(run(escaped.into()), run(plain));
}

fn assert_stays(url: Bytes, bytes: u64) {
    assert_eq!(run(url), Scaled::Stays { bytes });
}

#[test]
fn what_is_small_or_not_understood_stays_as_it_came() {
    let small = written(&halves(64, 20), ImageFormat::Png);
    assert_stays(uri(&small), small.len() as u64);
    let unpadded = format!("\"data:image/png;base64,{}\"", STANDARD_NO_PAD.encode(&small));
    assert_stays(unpadded.into(), small.len() as u64);
    assert_stays(uri(b"no image at all"), 15);
    let mut cut = written(&halves(200, 100), ImageFormat::Png);
    cut.truncate(cut.len() / 2);
    assert_stays(uri(&cut), cut.len() as u64);
    assert_stays("\"data:image/png;base64,%%%%\"".into(), 3);
    // Not base64: its 22 characters count as if they were.
    assert_stays("\"data:image/png,plain\"".into(), 16);
    assert_stays(uri(b""), 0);
}

/// The head of a PNG that claims to be so large.
fn claims(width: u32, height: u32) -> Vec<u8> {
    let mut png = written(&halves(2, 2), ImageFormat::Png);
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    png
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

#[test]
fn bombs_are_not_decoded() {
    for (width, height) in [(1, 1_000_000_000), (60_000, 60_000), (1001, 1000)] {
        let bomb = claims(width, height);
        assert_stays(uri(&bomb), bomb.len() as u64);
    }
}

#[test]
fn the_gate_is_for_all_images_together() {
    assert!(check_size(6_000_000, 6_000_000).is_ok());
    let error = check_size(6_000_001, 6_000_000).unwrap_err();
    assert_eq!((error.code, error.status), (Code::PayloadTooLarge, 413));
}

proptest! {
    /// Whatever comes: an answer, no panic, and never more bytes than a small JPEG can have.
    #[test]
    fn hostile_bytes_do_no_harm(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        format in prop_oneof![
            Just(ImageFormat::Png), Just(ImageFormat::Jpeg), Just(ImageFormat::Gif),
            Just(ImageFormat::WebP), Just(ImageFormat::Bmp),
        ],
        at: prop::sample::Index,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let mut real = written(&halves(100, 70), format);
        for (place, byte) in flips {
            let place = place.index(real.len());
            real[place] = byte;
        }
        let split = at.index(real.len());
        let tail = real.split_off(split);
        if !bytes.len().is_multiple_of(2) {
            bytes = tail;
        }
        real.extend(bytes);
        if let Scaled::Anew { bytes, .. } = run(uri(&real)) {
            prop_assert!(bytes < 64 * 64 * 4);
        }
    }
}
