//! JPEGs that are decoded at a half, a quarter or an eighth of their size.
//!
//! Owns: when that is worth it. Must never do: go below twice the size that is wanted, or take an image
//! that the ordinary decoder would show in other colours: that one decodes it.
//!
//! The cosine transform of a JPEG's blocks can give 4 × 4, 2 × 2 or 1 pixels instead of 8 × 8: a photograph of
//! 12 megapixels then takes two thirds of the time and a sixteenth of the memory.

use image::{DynamicImage, GrayImage, RgbImage};
use jpeg_decoder::{Decoder, PixelFormat};

/// The wanted size is reached from an image that is at least so many times as large.
const AT_LEAST: u32 = 2;

/// The image smaller than it is, but at least twice as large as wanted; `None`: decode it whole. `size`: its
/// width and height.
pub(super) fn decode(bytes: &[u8], size: (u32, u32), long_edge: u32) -> Option<DynamicImage> {
    let enough = long_edge.checked_mul(AT_LEAST)?;
    let long = size.0.max(size.1);
    if long / 2 < enough {
        return None;
    }
    let side = |length: u32| {
        let wanted = u64::from(length) * u64::from(enough) / u64::from(long);
        u16::try_from(wanted.max(1)).ok()
    };
    let mut decoder = Decoder::new(bytes);
    decoder.read_info().ok()?;
    decoder.scale(side(size.0)?, side(size.1)?).ok()?;
    let pixels = decoder.decode().ok()?;
    let info = decoder.info()?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    match info.pixel_format {
        PixelFormat::RGB24 => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
        PixelFormat::L8 => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
        PixelFormat::L16 | PixelFormat::CMYK32 => None,
    }
}
