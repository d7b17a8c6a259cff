//! Certificates that are replaced while the daemon serves.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustls::pki_types::CertificateDer;

use super::{OTHER, Pair, RSA, SERVER, put, renew, serving};
use crate::support::tls_client::{certificate, shown};
use crate::support::{Ask, Daemon, End, Gate, Setup, Upstream, eventually, vllm};

/// Well before a regular look would find it.
const HEARD: Duration = Duration::from_secs(5);

#[track_caller]
fn wait_shown(daemon: &Daemon, pair: &Pair) {
    let want = certificate(pair.cert);
    eventually("the new certificate", HEARD, || (shown(daemon.addr()) == want).then_some(()));
}

/// A problem as those see it who are trusted.
fn problem(daemon: &Daemon) -> Option<String> {
    let ready = Ask::get("/v1/readyz").reply_tls(daemon.addr());
    assert_eq!(ready.status(), 200, "the old one serves");
    ready.json()["details"]["tls_problem"].as_str().map(str::to_owned)
}

#[test]
fn no_running_stream_notices_and_every_new_handshake_does() {
    let gate = Gate::default();
    let waits = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        wire.chunk(vllm::role(0).as_bytes());
        wire.chunk(vllm::word(0, "before").as_bytes());
        waits.pass();
        for event in [vllm::word(0, "after"), vllm::finish(0), vllm::DONE.to_owned()] {
            wire.chunk(event.as_bytes());
        }
        wire.last_chunk();
    });
    let daemon = serving(Setup::with(&upstream), &SERVER).start();
    let mut clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = Ask::chat(vllm::ask(true)).open_tls(daemon.addr());
            assert_eq!(client.head().status, 200);
            client.read_until("before");
            client
        })
        .collect();
    for pair in [&OTHER, &RSA, &SERVER, &OTHER] {
        renew(&daemon, pair);
        wait_shown(&daemon, pair);
    }
    gate.open();
    for client in &mut clients {
        client.read_until("after");
        let (_, end) = client.rest();
        assert_eq!(end, End::Whole);
        // And the connection is good for another request.
        client.ask(&Ask::get("/v1/healthz"), daemon.addr());
        assert_eq!(client.reply().status(), 200);
    }
    assert!(daemon.log_lines(20).iter().all(|line| line["status"] == 200));
}

#[test]
fn broken_files_leave_the_old_certificate_and_are_told_once() {
    let daemon = serving(Setup::new(), &SERVER).start();
    let told = || daemon.stderr().matches("the new certificate cannot be used").count();
    for (round, (name, text, what)) in [
        ("tls.crt", "", "holds no certificate"),
        ("tls.key", "x", "holds no private key"),
        ("tls.key", OTHER.key, "does not belong"),
    ]
    .into_iter()
    .enumerate()
    {
        put(&daemon.path("certs").join(name), text);
        let said = eventually("the problem", HEARD, || problem(&daemon));
        assert!(said.contains(what) && said.contains(name), "{said}");
        assert_eq!(shown(daemon.addr()), certificate(SERVER.cert));
        // Looked at again, it is the same.
        daemon.signal(Signal::SIGHUP);
        renew(&daemon, &SERVER);
        eventually("the end of the problem", HEARD, || problem(&daemon).is_none().then_some(()));
        assert_eq!(told(), round + 1, "{}", daemon.stderr());
    }
    fs::remove_dir_all(daemon.path("certs")).unwrap();
    eventually("the problem", HEARD, || problem(&daemon));
    assert_eq!(shown(daemon.addr()), certificate(SERVER.cert));
    // The directory that comes back is another one.
    fs::create_dir(daemon.path("certs")).unwrap();
    renew(&daemon, &RSA);
    wait_shown(&daemon, &RSA);
    eventually("the end of the problem", HEARD, || problem(&daemon).is_none().then_some(()));
    renew(&daemon, &OTHER);
    wait_shown(&daemon, &OTHER);
}

/// Swaps a link at once.
fn point(link: &Path, to: &str) {
    let beside = link.with_file_name("to-be-renamed");
    symlink(to, &beside).unwrap();
    fs::rename(beside, link).unwrap();
}

fn write_into(dir: &Path, pair: &Pair) {
    fs::create_dir_all(dir).unwrap();
    put(&dir.join("tls.crt"), pair.cert);
    put(&dir.join("tls.key"), pair.key);
}

#[test]
fn a_secret_that_kubernetes_swaps_is_taken() {
    let setup = Setup::new();
    let certs = setup.path("certs");
    write_into(&certs.join("..2026_1"), &SERVER);
    symlink("..2026_1", certs.join("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), certs.join(name)).unwrap();
    }
    let daemon = setup
        .set("security", "tls_cert_file", "\"certs/tls.crt\"")
        .set("security", "tls_key_file", "\"certs/tls.key\"")
        .start();
    assert_eq!(shown(daemon.addr()), certificate(SERVER.cert));
    let certs = daemon.path("certs");
    write_into(&certs.join("..2026_2"), &OTHER);
    point(&certs.join("..data"), "..2026_2");
    fs::remove_dir_all(certs.join("..2026_1")).unwrap();
    wait_shown(&daemon, &OTHER);
    assert_eq!(problem(&daemon), None);
}

#[test]
fn links_that_certbot_moves_on_are_followed_also_from_two_directories() {
    let setup = Setup::new();
    for (number, pair) in [(1, &SERVER), (2, &OTHER)] {
        write_into(&setup.path(&format!("archive/{number}")), pair);
    }
    for (dir, name) in [("live", "tls.crt"), ("private", "tls.key")] {
        fs::create_dir(setup.path(dir)).unwrap();
        symlink(format!("../archive/1/{name}"), setup.path(dir).join(name)).unwrap();
    }
    let daemon = setup
        .set("security", "tls_cert_file", "\"live/tls.crt\"")
        .set("security", "tls_key_file", "\"private/tls.key\"")
        .start();
    assert_eq!(shown(daemon.addr()), certificate(SERVER.cert));
    point(&daemon.path("live/tls.crt"), "../archive/2/tls.crt");
    point(&daemon.path("private/tls.key"), "../archive/2/tls.key");
    wait_shown(&daemon, &OTHER);
}

#[test]
fn sighup_reads_what_no_watch_can_see() {
    let setup = Setup::new();
    write_into(&setup.path("far/away"), &SERVER);
    fs::create_dir(setup.path("certs")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("../far/away/{name}"), setup.path("certs").join(name)).unwrap();
    }
    let daemon = setup
        .set("security", "tls_cert_file", "\"certs/tls.crt\"")
        .set("security", "tls_key_file", "\"certs/tls.key\"")
        .start();
    let first: CertificateDer<'_> = shown(daemon.addr());
    assert_eq!(first, certificate(SERVER.cert));
    write_into(&daemon.path("far/away"), &OTHER);
    daemon.signal(Signal::SIGHUP);
    wait_shown(&daemon, &OTHER);
}
