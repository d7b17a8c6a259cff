//! Listening sockets: bound before anything else starts, so that a taken port stops a clean start.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;

use socket2::{Domain, Socket, Type};

/// Where a daemon with `port = 0` says which port it took.
pub(crate) const PORT_FILE: &str = "_staging/chat_proxy.port";

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("cannot find the address of host {host:?}: {error}")]
    Resolve { host: String, error: io::Error },
    #[error(
        "cannot listen on {addr}: another program does already (is a second copy running?); stop \
         it, or choose another port with CHAT_PROXY_PORT"
    )]
    Taken { addr: SocketAddr },
    #[error("cannot listen on {addr}: {error}")]
    Bind { addr: SocketAddr, error: io::Error },
    #[error("cannot write {PORT_FILE}: {error}")]
    PortFile { error: io::Error },
}

/// Binds every address of `host`; a port of 0 is chosen once and shared.
pub(crate) fn bind(host: &str, port: u16) -> Result<Vec<TcpListener>, ListenError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let resolve = |error| ListenError::Resolve { host: host.to_owned(), error };
    let addrs: Vec<SocketAddr> = (bare, port).to_socket_addrs().map_err(resolve)?.collect();
    let mut listeners: Vec<TcpListener> = Vec::new();
    for mut addr in addrs {
        if let Some(first) = listeners.first() {
            addr.set_port(
                first.local_addr().map_err(|error| ListenError::Bind { addr, error })?.port(),
            );
        }
        match listen_on(addr) {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(ListenError::Taken { addr });
            }
            // `localhost` names ::1 too on machines without IPv6.
            Err(error) if !listeners.is_empty() => {
                tracing::warn!(%addr, %error, "not listening on this address");
            }
            Err(error) => return Err(ListenError::Bind { addr, error }),
        }
    }
    if listeners.is_empty() {
        return Err(resolve(io::Error::other("it has no address")));
    }
    Ok(listeners)
}

/// The standard library's queue of 128 is short for a burst of clients: whom it has no place for tries
/// again after a second. The kernel's own bound (net.core.somaxconn) is the same by default.
const BACKLOG: i32 = 4096;

fn listen_on(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Says which port was taken, once everything is up.
pub(crate) fn write_port_file(port: u16) -> Result<(), ListenError> {
    let write = || {
        if let Some(dir) = Path::new(PORT_FILE).parent() {
            std::fs::create_dir_all(dir)?;
        }
        // Renamed into place: whoever watches for it never reads half a number.
        let temporary = format!("{PORT_FILE}.new");
        std::fs::write(&temporary, format!("{port}\n"))?;
        std::fs::rename(&temporary, PORT_FILE)
    };
    write().map_err(|error| ListenError::PortFile { error })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_what_to_do() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = bind("127.0.0.1", port).unwrap_err().to_string();
        assert!(error.contains(&format!("127.0.0.1:{port}")) && error.contains("CHAT_PROXY_PORT"));
    }
}
