//! A large photograph, as clients send it.
//!
//! Owns: its limits. Must never do: time the making of the photograph.

use std::io::Write;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use chat_proxy_core::chat::images::{ImageJob, ImageRules, Scaled};
use image::{Rgb, RgbImage};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rustix::time::{ClockId, clock_gettime};

use crate::{memory, say};

const WIDTH: u16 = 4000;
const HEIGHT: u16 = 3000;
/// From the request's string to the string that goes upstream: processor time, median of [`ROUNDS`].
const MOST_TIME: Duration = Duration::from_millis(60);
/// Held beside the request, in sizes of the decoded image.
const MOST_MEMORY: f64 = 3.0;
const ROUNDS: usize = 9;

/// Scales it some times, and tells.
pub(crate) fn measure(check: bool, out: &mut impl Write) -> Result<(), String> {
    let url = photograph()?;
    let rules = ImageRules { long_edge: 448, quality: 85, max_pixels: 100_000_000 };
    let job = ImageJob { url: url.clone(), rules };
    let (mut times, mut held) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let before = memory::restart();
        let begun = processor_time();
        let scaled = job.run();
        times.push(processor_time().saturating_sub(begun));
        held = held.max(memory::most() - before);
        if !matches!(scaled, Scaled::Anew { .. }) {
            return Err("the photograph was not scaled".to_owned());
        }
    }
    times.sort_unstable();
    let (median, slowest) = (times[ROUNDS / 2], times[ROUNDS - 1]);
    #[allow(clippy::cast_precision_loss)] // some megabytes
    let sizes = held as f64 / f64::from(u32::from(WIDTH) * u32::from(HEIGHT) * 3);
    let line = format!(
        "{WIDTH} × {HEIGHT} JPEG, {} bytes of base64: {:.1} ms of one core (slowest of {ROUNDS}: {:.1} ms; limit {} ms), \
         {sizes:.2} × the decoded image in memory (limit {MOST_MEMORY})",
        url.len(),
        median.as_secs_f64() * 1e3,
        slowest.as_secs_f64() * 1e3,
        MOST_TIME.as_millis(),
    );
    say(out, &line)?;
    if check && (median > MOST_TIME || sizes > MOST_MEMORY) {
        return Err("over the limit".to_owned());
    }
    Ok(())
}

/// Of this thread alone: what else runs on the machine does not count.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Smooth shades with grain, at the quality at which its base64 has about 5 MB.
fn photograph() -> Result<Bytes, String> {
    let mut noise = 1_u32;
    let pixels = RgbImage::from_fn(WIDTH.into(), HEIGHT.into(), |x, y| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let grain = (noise >> 27) as u8;
        let shade = |value: u32| (value % 224) as u8;
        Rgb([shade(x / 17) + grain, shade(y / 13) + grain, shade((x + y) / 29) + grain / 2])
    });
    let mut jpeg = Vec::new();
    let mut encoder = Encoder::new(&mut jpeg, 88);
    // As cameras and telephones have it.
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder
        .encode(pixels.as_raw(), WIDTH, HEIGHT, ColorType::Rgb)
        .map_err(|error| error.to_string())?;
    let text = base64::engine::general_purpose::STANDARD.encode(&jpeg);
    Ok(Bytes::from(format!("\"data:image/jpeg;base64,{text}\"")))
}
