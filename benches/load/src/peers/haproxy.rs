//! HAProxy, set up as one would in front of an engine: kept-alive connections to the engine, no delay,
//! no log. It must never use the system's configuration or folders.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{free_port, serve};
use crate::Fault;
use crate::client::Target;
use crate::process::Managed;

/// Starts it.
pub(super) fn start(
    program: &Path,
    engine: SocketAddr,
    folder: &Path,
) -> Result<(Target, Managed), Fault> {
    let address = free_port()?;
    let file = folder.join("haproxy.cfg");
    fs::write(&file, configuration(address, engine))?;
    let mut command = Command::new(program);
    // -db: in the foreground, so that the process that we started is the one that serves.
    command.arg("-db").arg("-f").arg(&file);
    Ok((Target::plain(address), serve(&mut command, folder)?))
}

fn configuration(listen: SocketAddr, engine: SocketAddr) -> String {
    format!(
        "global
    # As many as the daemon has threads for requests on the two cores of our tables.
    nbthread 2
    # 512 streams at once are the most that we open.
    maxconn 2048
defaults
    mode http
    # No log line, so there is no access log either.
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    # Idle connections are kept on both sides, and those to the engine serve any client.
    timeout http-keep-alive 1h
    option http-keep-alive
    http-reuse always
    # Each event goes on when it comes, instead of waiting for a full segment.
    option http-no-delay
    # A client that has left is told to the engine also while it waits for the answer.
    option abortonclose
listen bench
    bind {listen}
    # An idle connection to the engine is not purged between two measures.
    server engine {engine} pool-purge-delay 1h
"
    )
}
