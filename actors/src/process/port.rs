//! Whether a port is free, and who has it.
//!
//! Owns: the probe by binding, the kernel's socket tables, the way from a socket to its process.
//! Must never do: listen, connect, or touch whoever has the port.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::time::{Instant, sleep};

use super::identity;

/// The kernel does not tell when a port becomes free: it is looked at this often.
const LOOK: Duration = Duration::from_millis(10);
/// A row of a socket table in this state accepts connections.
const LISTEN: u8 = 0x0a;

/// A row of `/proc/net/tcp` and its IPv6 twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    port: u16,
    state: u8,
    /// 0: no process has it any more.
    inode: u64,
}

/// Waits for the port; the error says who still has it in the end.
pub async fn wait_free(port: u16, within: Duration) -> Result<(), String> {
    let until = Instant::now() + within;
    loop {
        let looked = tokio::task::spawn_blocking(move || is_free(port)).await;
        match looked.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => return Ok(()),
            Err(by) if Instant::now() >= until => return Err(by),
            Err(_) => sleep(LOOK).await,
        }
    }
}

/// Free: it can be bound without SO_REUSEADDR (with it, one could bind beside an engine that has
/// bound and does not listen yet), or all that is left of it are connections that close.
fn is_free(port: u16) -> Result<(), String> {
    let bound = match bind(Domain::IPV4, port).and_then(|()| bind_v6(port)) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => rows(port),
        Err(error) => return Err(format!("nobody, but it cannot be bound: {error}")),
    };
    let held: Vec<&Row> = bound.iter().filter(|row| row.inode != 0).collect();
    if held.is_empty() && !bound.is_empty() {
        return Ok(());
    }
    let inodes: HashSet<u64> = held.iter().map(|row| row.inode).collect();
    let owners = owners(&inodes);
    match owners.first() {
        Some(pid) => Err(identity::describe(*pid)),
        None if bound.is_empty() => {
            Err("a program that has bound it and does not listen (an engine that loads?)"
                .to_owned())
        }
        None => Err("a process that cannot be seen from here".to_owned()),
    }
}

fn bind(family: Domain, port: u16) -> io::Result<()> {
    let socket = Socket::new(family, Type::STREAM, None)?;
    if family == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    let any = if family == Domain::IPV6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    socket.bind(&SocketAddr::new(any, port).into())
}

/// A machine without IPv6 has nobody there.
fn bind_v6(port: u16) -> io::Result<()> {
    match bind(Domain::IPV6, port) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => Ok(()),
        other => other,
    }
}

/// Whether one of these processes is the one that accepts connections at the port. Blocking.
pub fn is_listened_by(port: u16, pids: &[i32]) -> bool {
    let listening: HashSet<u64> = rows(port)
        .iter()
        .filter(|row| row.state == LISTEN && row.inode != 0)
        .map(|row| row.inode)
        .collect();
    pids.iter().any(|pid| !sockets(*pid).is_disjoint(&listening))
}

/// Who accepts connections at the port, for people. Blocking.
pub fn listener(port: u16) -> Option<String> {
    let listening = rows(port).into_iter().filter(|row| row.state == LISTEN && row.inode != 0);
    let inodes: HashSet<u64> = listening.map(|row| row.inode).collect();
    owners(&inodes).first().map(|pid| identity::describe(*pid))
}

fn rows(port: u16) -> Vec<Row> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let texts = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    texts
        .flat_map(|text| text.lines().skip(1).filter_map(parse).collect::<Vec<_>>())
        .filter(|row| row.port == port)
        .collect()
}

/// `sl local_address rem_address st … inode`; addresses and states are hexadecimal.
fn parse(line: &str) -> Option<Row> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, port) = fields.get(1)?.rsplit_once(':')?;
    Some(Row {
        port: u16::from_str_radix(port, 16).ok()?,
        state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

fn owners(inodes: &HashSet<u64>) -> Vec<i32> {
    if inodes.is_empty() {
        return Vec::new();
    }
    identity::all().into_iter().filter(|pid| !sockets(*pid).is_disjoint(inodes)).collect()
}

/// The sockets that a process has open.
fn sockets(pid: i32) -> HashSet<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return HashSet::new() };
    let inode = |link: std::path::PathBuf| {
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    entries.flatten().filter_map(|entry| inode(fs::read_link(entry.path()).ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn me() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    #[test]
    fn rows_are_read_by_their_columns() {
        let line = "   1: 0100007F:5DC1 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0";
        assert_eq!(parse(line), Some(Row { port: 24001, state: LISTEN, inode: 4242 }));
        assert_eq!(parse("nonsense"), None);
    }

    #[actix_rt::test]
    async fn a_listener_is_found_and_named_and_leaves_a_free_port() {
        let listener_socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener_socket.local_addr().unwrap().port();
        assert!(is_listened_by(port, &[me()]));
        assert!(!is_listened_by(port, &[1_000_000]));
        assert_eq!(is_free(port).unwrap_err(), identity::describe(me()));
        assert_eq!(listener(port).unwrap(), identity::describe(me()));
        drop(listener_socket);
        // A child that another test is just making has a copy for a moment.
        wait_free(port, Duration::from_secs(10)).await.unwrap();
        assert_eq!(listener(port), None);
    }

    #[test]
    fn a_listener_of_the_other_family_is_found_too() {
        // Nowhere to be had on a machine without IPv6.
        let Ok(listening) = TcpListener::bind("[::1]:0") else { return };
        let port = listening.local_addr().unwrap().port();
        assert_eq!(is_free(port).unwrap_err(), identity::describe(me()));
    }

    #[actix_rt::test]
    async fn connections_that_close_do_not_hold_a_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop(listener);
        // The server's side closes first: it is the one that lingers in the table.
        drop(server);
        drop(client);
        wait_free(port, Duration::from_secs(10)).await.unwrap();
        assert!(!rows(port).iter().any(|row| row.inode != 0));
    }

    #[test]
    fn a_port_that_is_bound_and_not_listened_at_is_taken() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        assert!(is_free(port).unwrap_err().contains("does not listen"));
    }
}
