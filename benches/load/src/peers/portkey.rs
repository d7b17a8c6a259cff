//! Portkey's gateway in front of one backend of kind `openai`. It is one process, and it listens on
//! all addresses because it cannot be told otherwise. It must never be given a real key.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{free_port, serve};
use crate::Fault;
use crate::client::Target;
use crate::process::Managed;

/// Starts it. It has no settings of its own: each request says where it goes.
pub(super) fn start(
    program: &Path,
    engine: SocketAddr,
    folder: &Path,
) -> Result<(Target, Managed), Fault> {
    let address = free_port()?;
    let mut command = Command::new(program);
    command
        // Without its console, which would watch each request.
        .args(["--headless", &format!("--port={}", address.port())])
        .env("NODE_ENV", "production");
    let target = Target {
        address,
        // It drops fields that OpenAI does not have.
        knobs_in_user: true,
        headers: format!(
            "x-portkey-provider: openai\r\nx-portkey-custom-host: http://{engine}/v1\r\n"
        ),
    };
    Ok((target, serve(&mut command, folder)?))
}
