//! The fake engine: vLLM's wire shape, no thinking time, and a note of the moment each client leaves.
//! It owns its listener and its connections; it must never be the slowest link, so every byte that
//! it sends is rendered beforehand, and one thread serves all.

pub(crate) mod ask;
mod connection;
mod ledger;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::Fault;
use ledger::Ledger;
use wire::Wire;

/// How the fake engine is started.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to listen; port 0 takes a free one. The address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// What all connections share.
pub(crate) struct Engine {
    wire: Wire,
    ledger: Ledger,
}

/// Serves until SIGTERM or SIGINT ends the process.
pub(crate) async fn serve(options: &Options) -> Result<(), Fault> {
    let listener = TcpListener::bind(options.listen).await?;
    writeln!(std::io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    accept(listener).await
}

/// Takes connections for ever.
pub(crate) async fn accept(listener: TcpListener) -> Result<(), Fault> {
    let engine = Arc::new(Engine { wire: Wire::render(), ledger: Ledger::default() });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            // A connection that breaks is the peer's business; what matters is in the ledger.
            let _ = connection::serve(stream, &engine).await;
        });
    }
}
