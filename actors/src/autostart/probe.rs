//! Whether a service is ready, and whether one that was still answers.
//!
//! Owns: the ways of asking. Must never do: give up; the life has the deadlines. Signs are looked for
//! in short steps, for nothing tells when a server begins to answer.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use chat_proxy_core::registry::Endpoint;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Clients, fresh, key_of};

/// One question takes no longer.
const PROBE: Duration = Duration::from_secs(5);
/// Pauses between looks: short at first.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LATER_PAUSE: Duration = Duration::from_millis(100);
/// How long the pauses stay short.
const FIRST_TIME: Duration = Duration::from_secs(5);
/// One without any other sign is ready when it has lived for this long.
const LIVED: Duration = Duration::from_secs(1);
/// A backend that somebody asks for has this long to answer when its service is ready.
const BESIDE: Duration = Duration::from_secs(3);
/// As much of a log is read at once.
const PIECE: u64 = 1 << 20;

/// Who is asked.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// This address.
    Url(String),
    /// A backend's list of models.
    Backend(Endpoint),
}

impl Target {
    /// The status that is answered; `None`: nobody answers.
    async fn ask(&self, clients: &Clients) -> Option<u16> {
        let request = match self {
            Target::Url(url) => fresh(url.starts_with("https:")).get(url.as_str()),
            Target::Backend(endpoint) => {
                let request = clients.get(endpoint).ok()?.get(endpoint.url("/models"));
                match (&endpoint.api_key_env, &endpoint.userinfo) {
                    // Without its key it answers too, if only with a refusal.
                    (Some(name), _) => match key_of(name) {
                        Ok(key) => request.bearer_auth(key),
                        Err(_) => request,
                    },
                    (None, Some(user)) => request.basic_auth(&user.user, &user.password),
                    (None, None) => request,
                }
            }
        };
        let answer = timeout(PROBE, request.send()).await.ok()?.ok()?;
        Some(answer.status().as_u16())
    }

    /// Whether the server is up, or, before a start, somebody else's has its place: what would count
    /// as ours must not be there before. An address that was named for this must say so itself; a backend
    /// that refuses us (401, 404) is up as well, but not one that still loads (503).
    pub(super) async fn is_up(&self, clients: &Clients) -> bool {
        let up = match self {
            Target::Url(_) => 200..300,
            Target::Backend(_) => 200..500,
        };
        self.ask(clients).await.is_some_and(|status| up.contains(&status))
    }

    /// Whether anybody answers there, however, within a short time: it may be the last of several
    /// that a service opens.
    pub(super) async fn answers_soon(&self, clients: &Clients) -> bool {
        let until = Instant::now() + BESIDE;
        loop {
            if self.ask(clients).await.is_some() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            sleep(LATER_PAUSE).await;
        }
    }

    /// Looks until it is.
    pub(super) async fn until_up(&self, clients: &Clients) {
        let began = Instant::now();
        while !self.is_up(clients).await {
            sleep(pause(began)).await;
        }
    }
}

/// What tells that a service is ready.
#[derive(Debug, Clone)]
pub(super) enum Sign {
    /// Somebody answers.
    Answer(Target),
    /// This text stands in its log.
    Log(PathBuf, String),
    /// It lives.
    Lives,
}

impl Sign {
    /// Looks until it is there.
    pub(super) async fn wait(self, clients: Rc<Clients>) {
        match self {
            Sign::Answer(target) => target.until_up(&clients).await,
            Sign::Log(path, text) => until_written(Scan::of(path, text)).await,
            Sign::Lives => sleep(LIVED).await,
        }
    }
}

fn pause(began: Instant) -> Duration {
    if began.elapsed() < FIRST_TIME { FIRST_PAUSE } else { LATER_PAUSE }
}

async fn until_written(mut scan: Scan) {
    let began = Instant::now();
    let mut told = false;
    loop {
        let looked = tokio::task::spawn_blocking(move || {
            let found = scan.look();
            (scan, found)
        });
        let Ok((again, found)) = looked.await else { return std::future::pending().await };
        match found {
            Ok(true) => return,
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(path = %again.path.display(), %error, "a service's log cannot be read");
            }
            Ok(false) | Err(_) => {}
        }
        scan = again;
        sleep(pause(began)).await;
    }
}

/// Looks for a text in a file that grows; each byte is read once.
struct Scan {
    path: PathBuf,
    text: String,
    read: u64,
    /// The end of what was read, in which the text may have begun.
    rest: Vec<u8>,
}

impl Scan {
    /// From the beginning: the file is of this start alone.
    fn of(path: PathBuf, text: String) -> Self {
        Scan { path, text, read: 0, rest: Vec::new() }
    }

    /// Whether it stands there. Blocking.
    fn look(&mut self) -> io::Result<bool> {
        let mut file = File::open(&self.path)?;
        if file.metadata()?.len() < self.read {
            self.read = 0; // it was shortened
            self.rest.clear();
        }
        loop {
            file.seek(SeekFrom::Start(self.read))?;
            let got = (&mut file).take(PIECE).read_to_end(&mut self.rest)?;
            if memchr::memmem::find(&self.rest, self.text.as_bytes()).is_some() {
                return Ok(true);
            }
            let beginning = self.rest.len().saturating_sub(self.text.len());
            self.rest.drain(..beginning);
            self.read += got as u64;
            if got == 0 {
                return Ok(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_text_is_found_wherever_it_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut scan = Scan::of(path.clone(), "server is up".into());
        assert!(scan.look().is_err(), "there is no file yet");
        let mut file = File::create(&path).unwrap();
        for piece in ["noise\nserver", " is ", "u"] {
            file.write_all(piece.as_bytes()).unwrap();
            assert!(!scan.look().unwrap(), "{piece}");
        }
        file.write_all(b"p\n").unwrap();
        assert!(scan.look().unwrap());
    }

    #[test]
    fn a_log_that_was_shortened_is_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "a long beginning").unwrap();
        let mut scan = Scan::of(path.clone(), "up".into());
        assert!(!scan.look().unwrap());
        std::fs::write(&path, "up").unwrap();
        assert!(scan.look().unwrap());
    }
}
