//! Images that are scaled before they are sent (SPEC 5.3), off the threads that serve.
//!
//! Owns: how many are decoded at once, and what is remembered: an image of a long history is decoded
//! once. Must never do: decode on a thread that serves, or remember without a bound.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::live::Live;
use bytes::Bytes;
use chat_proxy_core::ApiError;
use chat_proxy_core::chat::images::{ImageJob, ImageRules, Scaled, check_size, decoded_len};
use chat_proxy_core::config::Settings;
use chat_proxy_core::registry::Entry;
use futures_util::future::join_all;
use lru::LruCache;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

/// What is remembered of images holds so many bytes at most, all together.
const MAX_REMEMBERED: usize = 32 << 20;
/// What an entry costs beside its image.
const ENTRY: usize = 128;

/// When images are scaled, and how.
#[derive(Debug, Clone)]
pub struct ScalingRules {
    /// Backends whose images are, in small letters.
    backends: Vec<String>,
    usual: ImageRules,
    /// Of one request's images together.
    max_bytes: u64,
}

impl ScalingRules {
    /// What the settings say.
    pub fn of(settings: &Settings) -> Self {
        let (preprocess, limits) = (&settings.vision_preprocess, &settings.limits);
        let named = preprocess.vision_downscale_backends.iter();
        ScalingRules {
            backends: named
                .filter(|_| preprocess.auto_downscale_images)
                .map(|name| name.trim().to_ascii_lowercase())
                .collect(),
            usual: ImageRules {
                long_edge: preprocess.max_image_pixels,
                quality: preprocess.image_jpeg_quality,
                max_pixels: limits.max_decode_pixels,
            },
            max_bytes: limits.max_image_bytes,
        }
    }

    /// How images for this model are; `None`: they are not.
    fn for_entry(&self, entry: &Entry) -> Option<ImageRules> {
        let long_edge = entry.policy.vision_target_long_edge.unwrap_or(self.usual.long_edge);
        let scales = self.backends.contains(&entry.backend);
        scales.then_some(ImageRules { long_edge, ..self.usual })
    }
}

/// Who scales images. One for the daemon's life.
#[derive(Debug)]
pub struct Scaler {
    rules: Live<ScalingRules>,
    at_once: Arc<Semaphore>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug)]
struct Known {
    images: LruCache<[u8; 32], Scaled>,
    bytes: usize,
}

impl Scaler {
    /// Nothing is remembered yet.
    pub fn new(rules: Live<ScalingRules>) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let known = Known { images: LruCache::unbounded(), bytes: 0 };
        let at_once = Arc::new(Semaphore::new(cores));
        Arc::new(Scaler { rules, at_once, known: Arc::new(Mutex::new(known)) })
    }

    /// Scales the images that stand at these places of a body, if the model's are; answers what stands
    /// there instead. An error: all of them together are too large.
    pub(super) async fn scale(
        &self,
        body: &Bytes,
        places: &[Range<usize>],
        entry: &Entry,
        sees: bool,
    ) -> Result<BTreeMap<usize, Bytes>, ApiError> {
        let settings = self.rules.load();
        let rules = settings.for_entry(entry).filter(|_| sees);
        let distinct = distinct(body, places);
        let jobs = distinct.iter().map(|(url, _)| self.one(url.clone(), rules));
        let scaled = join_all(jobs).await;
        let each = || distinct.iter().map(|(_, starts)| starts).zip(&scaled);
        let bytes = each().map(|(starts, scaled)| scaled.bytes() * starts.len() as u64).sum();
        check_size(bytes, settings.max_bytes)?;
        let anew = each().filter_map(|(starts, scaled)| match scaled {
            Scaled::Anew { url, .. } => Some(starts.iter().map(move |at| (*at, url.clone()))),
            Scaled::Stays { .. } => None,
        });
        Ok(anew.flatten().collect())
    }

    async fn one(&self, url: Bytes, rules: Option<ImageRules>) -> Scaled {
        let stays = Scaled::Stays { bytes: decoded_len(&url) };
        let Some(rules) = rules else { return stays };
        // It is never closed.
        let Ok(turn) = self.at_once.clone().acquire_owned().await else { return stays };
        let known = self.known.clone();
        let work = actix_rt::task::spawn_blocking(move || {
            let _turn = turn;
            Known::look_up(&known, &ImageJob { url, rules })
        });
        work.await.unwrap_or_else(|error| {
            tracing::error!(%error, "an image could not be scaled and stays as it is");
            stays
        })
    }
}

/// The images that differ, each with the places where it begins: one that stands in every turn is
/// decoded once.
fn distinct(body: &Bytes, places: &[Range<usize>]) -> Vec<(Bytes, Vec<usize>)> {
    let mut order: Vec<(Bytes, Vec<usize>)> = Vec::new();
    let mut seen: HashMap<Bytes, usize> = HashMap::new();
    for place in places {
        let url = body.slice(place.clone());
        let at = *seen.entry(url.clone()).or_insert_with(|| {
            order.push((url, Vec::new()));
            order.len() - 1
        });
        order[at].1.push(place.start);
    }
    order
}

impl Known {
    /// What is known of an image, or what becomes of it now. Blocking.
    fn look_up(known: &Mutex<Known>, job: &ImageJob) -> Scaled {
        let lock =
            || -> MutexGuard<'_, Known> { known.lock().unwrap_or_else(PoisonError::into_inner) };
        let key = key(job);
        if let Some(scaled) = lock().images.get(&key) {
            return scaled.clone();
        }
        let scaled = job.run();
        lock().remember(key, scaled.clone());
        scaled
    }

    fn remember(&mut self, key: [u8; 32], scaled: Scaled) {
        self.bytes += weight(&scaled);
        if let Some((_, old)) = self.images.push(key, scaled) {
            self.bytes -= weight(&old);
        }
        while self.bytes > MAX_REMEMBERED {
            let Some((_, oldest)) = self.images.pop_lru() else { return };
            self.bytes -= weight(&oldest);
        }
    }
}

fn weight(scaled: &Scaled) -> usize {
    match scaled {
        Scaled::Stays { .. } => ENTRY,
        Scaled::Anew { url, .. } => ENTRY + url.len(),
    }
}

/// By its content and how it is scaled: nobody can make another image stand in its place.
fn key(job: &ImageJob) -> [u8; 32] {
    let ImageRules { long_edge, quality, max_pixels } = job.rules;
    let mut hash = Sha256::new();
    hash.update(long_edge.to_le_bytes());
    hash.update([quality]);
    hash.update(max_pixels.to_le_bytes());
    hash.update(&job.url);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known { images: LruCache::unbounded(), bytes: 0 }
    }

    fn anew(length: usize) -> Scaled {
        Scaled::Anew { url: vec![b'x'; length].into(), bytes: 1 }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes() {
        let mut known = known();
        for number in 0..5_u8 {
            known.remember([number; 32], anew(8 << 20));
        }
        assert!(known.bytes <= MAX_REMEMBERED);
        assert_eq!(known.images.len(), 3, "each is a little more than a quarter");
        assert!(known.images.contains(&[4; 32]) && !known.images.contains(&[1; 32]));
        known.remember([4; 32], Scaled::Stays { bytes: 7 });
        assert_eq!(known.bytes, 2 * (ENTRY + (8 << 20)) + ENTRY, "counted once");
        known.remember([9; 32], anew(MAX_REMEMBERED));
        assert_eq!((known.bytes, known.images.len()), (0, 0), "one that is larger than all");
    }

    #[test]
    fn one_image_in_many_places_is_one() {
        let body = Bytes::from_static(b"aa bb aa");
        let found = distinct(&body, &[0..2, 3..5, 6..8]);
        let want = [(Bytes::from("aa"), vec![0, 6]), (Bytes::from("bb"), vec![3])];
        assert_eq!(found, want);
    }

    #[test]
    fn another_size_is_another_image() {
        let rules = ImageRules { long_edge: 448, quality: 85, max_pixels: 1 };
        let job = |rules| ImageJob { url: "\"data:,\"".into(), rules };
        let (one, same) = (key(&job(rules)), key(&job(rules)));
        assert_eq!(one, same);
        assert_ne!(one, key(&job(ImageRules { long_edge: 336, ..rules })));
    }
}
