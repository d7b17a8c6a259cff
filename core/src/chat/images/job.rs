//! One image: decoded, turned upright, scaled, written anew.
//!
//! Owns: the steps and their limits. Must never do: I/O, or hold more than the pixels that are allowed.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use super::ImageRules;
use super::{data_uri, reduced};

/// Bytes of memory that a pixel of a decoded image takes at most: RGBA of 16 bits.
const BYTES_PER_PIXEL: u64 = 8;

/// An image that is to be looked at: a `data:` URI as it stands in the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageJob {
    /// The JSON string, quotes included.
    pub url: Bytes,
    /// How.
    pub rules: ImageRules,
}

/// What became of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scaled {
    /// It stays, byte for byte: it is small enough, or nobody could decode it.
    Stays {
        /// Its bytes, decoded from base64.
        bytes: u64,
    },
    /// It is another one.
    Anew {
        /// The JSON string that holds it, quotes included.
        url: Bytes,
        /// Its bytes, decoded from base64.
        bytes: u64,
    },
}

impl Scaled {
    /// How much it counts against the size gate.
    pub fn bytes(&self) -> u64 {
        match self {
            Scaled::Stays { bytes } | Scaled::Anew { bytes, .. } => *bytes,
        }
    }
}

impl ImageJob {
    /// Does it. It takes tens of milliseconds: not on a thread that serves.
    pub fn run(&self) -> Scaled {
        let stays = Scaled::Stays { bytes: data_uri::decoded_len(&self.url) };
        let Some(bytes) = data_uri::decode(&self.url) else { return stays };
        // The decoders are others' work, and some panic at files that are made to harm: such a file is one
        // that nobody can decode.
        let scaled = catch_unwind(AssertUnwindSafe(|| scale(&bytes, &self.rules)));
        let Some(jpeg) = scaled.ok().flatten() else { return stays };
        let url = Bytes::from(data_uri::jpeg(&jpeg));
        Scaled::Anew { url, bytes: jpeg.len() as u64 }
    }
}

/// A smaller JPEG; `None`: it stays as it is.
fn scale(bytes: &[u8], rules: &ImageRules) -> Option<Vec<u8>> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
    let format = reader.format()?;
    if !is_supported(format) {
        return None;
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(rules.max_pixels.saturating_mul(BYTES_PER_PIXEL));
    reader.limits(limits);
    let mut decoder = reader.into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    let too_many = u64::from(width) * u64::from(height) > rules.max_pixels;
    if too_many || width == 0 || height == 0 || width.max(height) <= rules.long_edge {
        return None;
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let to = target(width, height, rules.long_edge);
    let is_jpeg = format == ImageFormat::Jpeg;
    let reduced = || reduced::decode(bytes, (width, height), rules.long_edge);
    let decoded = match is_jpeg.then(reduced).flatten() {
        Some(reduced) => reduced,
        None => DynamicImage::from_decoder(decoder).ok()?,
    };
    let mut small = DynamicImage::ImageRgb8(resized(decoded, to)?);
    // Turning the small one is cheaper, and comes to the same.
    small.apply_orientation(orientation);
    encoded(&small.into_rgb8(), rules.quality)
}

fn is_supported(format: ImageFormat) -> bool {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    matches!(format, Png | Jpeg | WebP | Gif | Bmp)
}

/// Scaled to this width and height, on white.
fn resized(decoded: DynamicImage, to: (u32, u32)) -> Option<RgbImage> {
    let (width, height) = (decoded.width(), decoded.height());
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
    if decoded.color().has_alpha() {
        let from =
            Image::from_vec_u8(width, height, decoded.into_rgba8().into_raw(), PixelType::U8x4);
        let mut small = Image::new(to.0, to.1, PixelType::U8x4);
        Resizer::new().resize(&from.ok()?, &mut small, &options).ok()?;
        return RgbImage::from_raw(to.0, to.1, on_white(small.buffer()));
    }
    let from = Image::from_vec_u8(width, height, decoded.into_rgb8().into_raw(), PixelType::U8x3);
    let mut small = Image::new(to.0, to.1, PixelType::U8x3);
    Resizer::new().resize(&from.ok()?, &mut small, &options).ok()?;
    RgbImage::from_raw(to.0, to.1, small.into_vec())
}

/// The shape stays, as far as whole pixels allow.
fn target(width: u32, height: u32, long_edge: u32) -> (u32, u32) {
    let long = u64::from(width.max(height));
    let side = |length: u32| {
        let scaled = (u64::from(length) * u64::from(long_edge) + long / 2) / long;
        u32::try_from(scaled).unwrap_or(long_edge).clamp(1, long_edge)
    };
    (side(width), side(height))
}

fn on_white(rgba: &[u8]) -> Vec<u8> {
    let mix = |color: u8, alpha: u8| {
        let (color, alpha) = (u32::from(color), u32::from(alpha));
        // At most 255.
        u8::try_from((color * alpha + 255 * (255 - alpha) + 127) / 255).unwrap_or(255)
    };
    let pixels = rgba.chunks_exact(4);
    pixels.flat_map(|p| [mix(p[0], p[3]), mix(p[1], p[3]), mix(p[2], p[3])]).collect()
}

fn encoded(image: &RgbImage, quality: u8) -> Option<Vec<u8>> {
    let (width, height) = (u16::try_from(image.width()).ok()?, u16::try_from(image.height()).ok()?);
    let mut jpeg = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut jpeg, quality);
    encoder.encode(image.as_raw(), width, height, jpeg_encoder::ColorType::Rgb).ok()?;
    Some(jpeg)
}
