//! The lease of the GPU, as it is written down and shown (SPEC 6.5, 12).
//!
//! Owns: `_staging/gpu_lease.json`, and the one record that says who holds the GPU. Outlives the
//! arbiter. Must never do: decide; what the arbiter says is written, in that order, before anybody
//! is told of it.

use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chat_proxy_core::engine::lifecycle::Moment;
use chat_proxy_core::gpu::LeaseToken;
use chat_proxy_core::gpu::lease::Lease;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use crate::clock;

/// A lease, by the wall clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Who holds it.
    pub owner: String,
    /// What for, in its words.
    pub reason: Option<String>,
    /// Unix seconds.
    pub granted_at: f64,
    /// Unix seconds.
    pub expires_at: f64,
    /// How long it lives without being renewed, in seconds.
    pub ttl_s: f64,
    /// Load again what was resident, when it ends.
    pub restart_model: bool,
    /// What was resident.
    pub saved_model: Option<SavedModel>,
    /// What its holder shows.
    pub token: Token,
}

/// A token in a record; it is not shown by accident.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(***)")
    }
}

impl Token {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// To be compared.
    pub fn key(&self) -> LeaseToken {
        self.0.as_str().into()
    }
}

impl From<&LeaseToken> for Token {
    fn from(token: &LeaseToken) -> Self {
        Token(token.reveal().to_owned())
    }
}

/// The engine that made room for a lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedModel {
    /// Its logical name.
    pub logical_name: String,
    /// What it called itself.
    pub served_model_id: Option<String>,
    /// Where it answered.
    pub port: Option<u16>,
    /// Its leader.
    pub pid: Option<i32>,
    /// Unix seconds.
    pub started_at: Option<f64>,
}

impl LeaseRecord {
    /// A lease that has just been granted.
    pub fn of(lease: &Lease, reason: Option<String>, saved_model: Option<SavedModel>) -> Self {
        let now = clock::unix_seconds();
        let left = lease.until.saturating_sub(clock::now()).as_secs_f64();
        LeaseRecord {
            owner: lease.owner.clone(),
            reason,
            granted_at: to_millis(now),
            expires_at: to_millis(now + left),
            ttl_s: lease.ttl.as_secs_f64(),
            restart_model: lease.restart_model,
            saved_model,
            token: Token::from(&lease.token),
        }
    }

    /// The same after it was renewed.
    #[must_use]
    pub fn renewed(&self, lease: &Lease) -> Self {
        let left = lease.until.saturating_sub(clock::now()).as_secs_f64();
        let expires_at = to_millis(clock::unix_seconds() + left);
        LeaseRecord { expires_at, ttl_s: lease.ttl.as_secs_f64(), ..self.clone() }
    }

    /// As the scheduler counts.
    pub fn lease(&self) -> Lease {
        let (wall, now) = (clock::unix_seconds(), clock::now());
        let seconds = |s: f64| Duration::try_from_secs_f64(s).unwrap_or_default();
        let granted: Moment = now.saturating_sub(seconds(wall - self.granted_at));
        Lease {
            token: self.token.key(),
            owner: self.owner.clone(),
            restart_model: self.restart_model,
            ttl: seconds(self.ttl_s),
            granted,
            // A clock that was set back meanwhile gives it no second life.
            until: now.saturating_add(seconds(self.expires_at - wall).min(seconds(self.ttl_s))),
            saved: self.saved_model.as_ref().map(|saved| saved.logical_name.as_str().into()),
        }
    }
}

/// To whole milliseconds: what is written down is read again to the last bit.
fn to_millis(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// Who holds the GPU. One for the daemon's life.
#[derive(Debug)]
pub struct LeaseShelf {
    path: PathBuf,
    current: watch::Sender<Option<Arc<LeaseRecord>>>,
    /// One write at a time, in the order of their orders.
    writing: Mutex<()>,
    /// It was read from before, and nobody has taken it up yet.
    fresh: AtomicBool,
}

impl LeaseShelf {
    /// Reads what was written down. What cannot be read is put aside: nobody knows its token, so
    /// nobody could end it.
    pub fn open(path: &Path) -> Self {
        let record = match read(path) {
            Ok(record) => record,
            Err(error) => {
                let aside = path.with_extension("json.bad");
                let moved = std::fs::rename(path, &aside);
                tracing::error!(path = %path.display(), %error, ?moved, "the GPU lease cannot be read; nobody holds it");
                None
            }
        };
        if let Some(record) = &record {
            tracing::info!(owner = record.owner, "the GPU is leased, by what was written down");
        }
        LeaseShelf {
            path: path.to_owned(),
            fresh: AtomicBool::new(record.is_some()),
            current: watch::Sender::new(record.map(Arc::new)),
            writing: Mutex::new(()),
        }
    }

    /// Who holds it.
    pub fn current(&self) -> Option<Arc<LeaseRecord>> {
        self.current.borrow().clone()
    }

    /// To hear when that changes.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<LeaseRecord>>> {
        self.current.subscribe()
    }

    /// The lease of before, for an arbiter that begins; and whether it is the first to hear of it.
    pub fn take_up(&self) -> Option<(Arc<LeaseRecord>, bool)> {
        let record = self.current()?;
        Some((record, self.fresh.swap(false, Ordering::SeqCst)))
    }

    /// Says who holds it, from this moment on; the future writes that down, and must be polled to its
    /// end.
    pub fn put(
        self: Arc<Self>,
        record: Option<Arc<LeaseRecord>>,
    ) -> impl Future<Output = io::Result<()>> + 'static {
        self.current.send_replace(record);
        async move {
            let _turn = self.writing.lock().await;
            // The newest: a later order may have overtaken this one while it waited.
            let (record, path) = (self.current(), self.path.clone());
            let writing = actix_rt::task::spawn_blocking(move || write(&path, record.as_deref()));
            writing.await.map_err(io::Error::other)?
        }
    }
}

fn read(path: &Path) -> io::Result<Option<LeaseRecord>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A whole file or none, also if the machine goes down.
fn write(path: &Path, record: Option<&LeaseRecord>) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let Some(record) = record else {
        return match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => std::fs::File::open(dir)?.sync_all(),
        };
    };
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(&serde_json::to_vec_pretty(record)?)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(owner: &str) -> Arc<LeaseRecord> {
        let lease = Lease {
            token: "secret".into(),
            owner: owner.to_owned(),
            restart_model: true,
            ttl: Duration::from_secs(60),
            granted: clock::now(),
            until: clock::now() + Duration::from_secs(60),
            saved: Some("a".into()),
        };
        let saved = SavedModel {
            logical_name: "a".into(),
            served_model_id: None,
            port: Some(1),
            pid: Some(2),
            started_at: Some(3.5),
        };
        Arc::new(LeaseRecord::of(&lease, None, Some(saved)))
    }

    #[actix_rt::test]
    async fn what_was_put_is_there_again_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/gpu_lease.json");
        let shelf = Arc::new(LeaseShelf::open(&path));
        assert_eq!(shelf.current(), None);
        shelf.clone().put(Some(record("somebody"))).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let again = Arc::new(LeaseShelf::open(&path));
        assert_eq!(again.current(), shelf.current());
        assert!(again.take_up().unwrap().1, "the first to hear of it");
        assert!(!again.take_up().unwrap().1);
        let lease = again.current().unwrap().lease();
        assert_eq!((lease.saved, lease.owner.as_str()), (Some("a".into()), "somebody"));
        assert!(lease.until > clock::now() + Duration::from_secs(50));
        again.clone().put(None).await.unwrap();
        assert!(!path.exists());
        again.put(None).await.unwrap();
    }

    #[actix_rt::test]
    async fn a_clock_that_was_set_back_gives_no_second_life() {
        let mut later = (*record("somebody")).clone();
        later.expires_at += 1e9;
        assert!(later.lease().until <= clock::now() + Duration::from_secs(60));
        later.expires_at = 0.0;
        assert!(later.lease().until <= clock::now());
    }

    #[test]
    fn what_cannot_be_read_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gpu_lease.json");
        std::fs::write(&path, "{half").unwrap();
        assert_eq!(LeaseShelf::open(&path).current(), None);
        assert!(!path.exists() && dir.path().join("gpu_lease.json.bad").exists());
    }
}
