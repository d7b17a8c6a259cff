//! Owns how a process hears SIGTERM: every one is noted, and some are heeded.
//!
//! Must never decide what a heeded one leads to.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::journal::Journal;

/// The ear of a process. As long as the process lives, SIGTERM alone does not end it.
#[derive(Debug)]
pub(super) struct Sigterm<'a> {
    signal: Signal,
    journal: &'a Journal,
}

impl<'a> Sigterm<'a> {
    pub(super) fn listen(journal: &'a Journal) -> io::Result<Self> {
        Ok(Self { signal: signal(SignalKind::terminate())?, journal })
    }

    /// Returns at the next one, if it is to be heeded; never otherwise.
    pub(super) async fn heard(&mut self, heeds: bool) {
        loop {
            self.signal.recv().await;
            self.journal.note("sigterm");
            if heeds {
                return;
            }
        }
    }
}
