//! Images of a request, for models that see (SPEC 5.3).
//!
//! Owns: which images are scaled, and how one is. Costly work is in [`ImageJob::run`], which is pure and
//! bounded, and knows nothing of where it runs. Must never do: hold more than the rules allow, or fail
//! a request over an image that it does not understand: that one passes.

mod data_uri;
mod job;
mod reduced;
#[cfg(test)]
mod tests;

use crate::error::{ApiError, Code};

pub use data_uri::decoded_len;
pub use job::{ImageJob, Scaled};

/// How images are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageRules {
    /// The long edge is at most so long, in pixels.
    pub long_edge: u32,
    /// Quality of the JPEG that is written, from 1 to 100.
    pub quality: u8,
    /// Images with more pixels are not decoded.
    pub max_pixels: u64,
}

/// The size gate: `bytes`: of all images of a request, decoded from base64, as they would be sent.
pub fn check_size(bytes: u64, max_bytes: u64) -> Result<(), ApiError> {
    if bytes <= max_bytes {
        return Ok(());
    }
    let message = format!("the images have {bytes} bytes together, at most {max_bytes} are taken");
    Err(ApiError::new(Code::PayloadTooLarge, message)
        .param("messages")
        .hint("send fewer or smaller images, or raise max_image_bytes"))
}
