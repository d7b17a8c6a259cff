//! The measures that need a process of their own: how quickly it starts, and what silent streams cost
//! it. Each process has its own temporary folder and lives for one measure; it must never be one that
//! the rounds measure.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Fault;
use crate::findings::Findings;
use crate::peers::{Kind, Peer, Programs};
use crate::silent::{COUNTS, Silent, silent};
use crate::stats::Shuffle;

/// A peer is started no more often after this; only one that takes its time notices.
const ENOUGH: Duration = Duration::from_secs(10);

/// What all of these measures need.
pub(crate) struct Fresh<'a> {
    /// Where the programs are.
    pub(crate) programs: &'a Programs,
    /// The engine.
    pub(crate) engine: SocketAddr,
    /// Where the temporary folders are made.
    pub(crate) folder: &'a Path,
}

impl Fresh<'_> {
    /// Starts each peer so often, in a new order each time.
    pub(crate) async fn starts(
        &self,
        findings: &mut [Findings],
        times: usize,
        shuffle: &mut Shuffle,
    ) -> Result<(), Fault> {
        writeln!(std::io::stderr(), "starts")?;
        each(findings, times, shuffle, async |of_peer: &mut Findings| {
            let (_folder, peer) = self.start(of_peer.kind).await?;
            of_peer.ready_ms.push(peer.ready.as_secs_f64() * 1e3);
            Ok(())
        })
        .await
    }

    /// Opens silent streams through each peer so often, of each count through a process of its own.
    pub(crate) async fn silent_streams(
        &self,
        findings: &mut [Findings],
        times: usize,
        shuffle: &mut Shuffle,
    ) -> Result<(), Fault> {
        writeln!(std::io::stderr(), "silent streams")?;
        each(findings, times, shuffle, async |of_peer: &mut Findings| {
            for (found, count) in of_peer.silent.iter_mut().zip(COUNTS) {
                found.extend(self.silent(of_peer.kind, count).await?);
            }
            Ok(())
        })
        .await
    }

    async fn silent(&self, kind: Kind, count: usize) -> Result<Option<Silent>, Fault> {
        let (_folder, peer) = self.start(kind).await?;
        let found = silent(&peer, self.engine, count).await;
        found.map_err(|fault| format!("{}: {count} silent streams: {fault}", kind.name()).into())
    }

    /// A fresh process behind the folder that it lives in, so that the process goes first.
    async fn start(&self, kind: Kind) -> Result<(TempDir, Peer), Fault> {
        let folder = tempfile::Builder::new().prefix("fresh-").tempdir_in(self.folder)?;
        let peer = Peer::start(kind, self.programs, self.engine, folder.path()).await?;
        Ok((folder, peer))
    }
}

/// Measures each peer that has a process so often, in a new order each time.
async fn each(
    findings: &mut [Findings],
    times: usize,
    shuffle: &mut Shuffle,
    mut measure: impl AsyncFnMut(&mut Findings) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut spent = vec![Duration::ZERO; findings.len()];
    for _ in 0..times {
        for at in shuffle.order(findings.len()) {
            if findings[at].kind == Kind::Direct || spent[at] > ENOUGH {
                continue;
            }
            let begun = Instant::now();
            measure(&mut findings[at]).await?;
            spent[at] += begun.elapsed();
        }
    }
    Ok(())
}
