//! SIGUSR2: a new daemon takes over from the running one, and nothing is lost (SPEC 11).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::daemon::PROGRAM;
use crate::support::engines::{Engined, hello};
use crate::support::{Ask, BOUND, Client, Daemon, End, Engines, Setup, alone, eventually};

/// A daemon whose service manager is a test.
struct Managed {
    it: Engined,
    notify: UnixDatagram,
}

impl Managed {
    fn start(engines: Engines) -> Managed {
        let path = engines.setup().path("notify");
        let notify = UnixDatagram::bind(&path).unwrap();
        notify.set_read_timeout(Some(BOUND)).unwrap();
        let it = engines.env("NOTIFY_SOCKET", &path.display().to_string()).start();
        Managed { it, notify }
    }

    /// Waits for what says this, and gives what follows it in its line.
    #[track_caller]
    fn told(&self, what: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.notify.recv(&mut buffer).expect("a message in time");
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if let Some(rest) = said.lines().find_map(|line| line.strip_prefix(what)) {
                return rest.to_owned();
            }
        }
    }

    #[track_caller]
    fn upgrade(&mut self) -> (Pid, Pid) {
        let notify = &self.notify;
        let heir = || {
            let mut buffer = [0; 4096];
            loop {
                let length = notify.recv(&mut buffer).expect("a new main process in time");
                let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if let Some(pid) = said.lines().find_map(|line| line.strip_prefix("MAINPID=")) {
                    return pid.parse().expect("a pid");
                }
            }
        };
        self.it.daemon.upgrade(heir)
    }
}

fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    // One that nobody has waited for yet is gone too.
    stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

fn owner(daemon: &Daemon) -> String {
    fs::read_to_string(daemon.path("_staging/owner.lock")).unwrap_or_default().trim().to_owned()
}

#[test]
fn a_new_daemon_takes_over_with_the_engine_and_a_stream_is_finished_by_the_old_one() {
    let mut managed = Managed::start(Engines::two());
    managed.it.assert_answers("tiny-a");
    let pid = managed.it.engine()["pid"].clone();
    let mut stream = managed.it.stream("tiny-a", 200);
    managed.told("READY=1");
    let (old, new) = managed.upgrade();
    managed.told("READY=1");
    assert_eq!(owner(&managed.it.daemon), new.to_string());
    // The new one serves, with the same engine, while the old one finishes.
    managed.it.assert_answers("tiny-a");
    assert_eq!(managed.it.engine()["pid"], pid);
    assert!(!is_gone(old), "its stream is not over yet");
    let (pieces, end) = stream.rest();
    let text: Vec<u8> = pieces.iter().flat_map(|piece| piece.data.clone()).collect();
    assert_eq!(end, End::Whole);
    assert!(String::from_utf8_lossy(&text).contains("tok199"), "a stream that was cut");
    drop(stream);
    assert_eq!(managed.it.daemon.wait_exit(BOUND).code(), Some(0));
    managed.it.assert_answers("tiny-b");
    assert_eq!(managed.it.starts(), ["tiny-a", "tiny-b"]);
}

/// Another model is wanted of the new daemon: the old one's stream is a request in flight.
#[test]
fn no_swap_cuts_a_stream_of_the_daemon_before() {
    let mut managed = Managed::start(Engines::two());
    managed.it.assert_answers("tiny-a");
    let mut stream = managed.it.stream("tiny-a", 150);
    managed.upgrade();
    let addr = managed.it.daemon.addr();
    let other = thread::spawn(move || hello("tiny-b", false, json!({})).reply(addr).status());
    let (pieces, end) = stream.rest();
    let text: Vec<u8> = pieces.iter().flat_map(|piece| piece.data.clone()).collect();
    assert_eq!(end, End::Whole);
    assert!(String::from_utf8_lossy(&text).contains("tok149"));
    drop(stream);
    assert_eq!(other.join().unwrap(), 200);
    assert_eq!(managed.it.starts(), ["tiny-a", "tiny-b"]);
}

#[test]
fn requests_that_wait_are_sent_to_the_new_daemon_at_once() {
    let mut managed = Managed::start(Engines::two());
    managed.it.assert_answers("tiny-a");
    let stream = managed.it.stream("tiny-a", 300);
    let mut waiting = hello("tiny-b", false, json!({})).open(managed.it.daemon.addr());
    managed.it.wait_queue(1);
    // And one that has an idle connection.
    let mut idle = Client::connect(managed.it.daemon.addr());
    let ask = Ask::get("/v1/models").bytes(managed.it.daemon.addr());
    idle.send(&ask);
    assert_eq!(idle.reply().status(), 200);
    managed.upgrade();
    idle.send(&ask);
    let reply = waiting.reply();
    reply.error(503, "err_draining");
    assert_eq!(reply.head.get("retry-after"), Some("0"));
    // Who kept a connection is answered by the new one, and told to come to it.
    let passed_on = idle.reply();
    assert_eq!((passed_on.status(), &passed_on.end), (200, &End::Whole));
    for reply in [&reply, &passed_on] {
        let said = reply.head.get("connection").map(str::to_ascii_lowercase);
        assert_eq!(said.as_deref(), Some("close"));
    }
    drop(stream);
    assert_eq!(hello("tiny-b", false, json!({})).reply(managed.it.daemon.addr()).status(), 200);
}

/// A program that is called by a link, as installations have it.
fn linked(setup: &Setup) -> std::path::PathBuf {
    let path = setup.path("bin");
    fs::create_dir(&path).unwrap();
    let path = path.join("imageworks-chat-proxy");
    symlink(PROGRAM, &path).unwrap();
    path
}

#[test]
fn a_new_daemon_that_cannot_start_changes_nothing() {
    let engines = Engines::two();
    let link = linked(engines.setup());
    let mut managed = Managed::start(engines.called(&link));
    managed.it.assert_answers("tiny-a");
    let main = managed.it.daemon.main();
    let said = |times: usize| {
        let stderr = managed.it.daemon.stderr();
        (stderr.matches("the new daemon cannot take over").count() == times).then_some(())
    };
    // A program that is broken, and then settings that are.
    fs::remove_file(&link).unwrap();
    fs::write(&link, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&link, fs::Permissions::from_mode(0o755)).unwrap();
    kill(main, Signal::SIGUSR2).unwrap();
    eventually("it is said", BOUND, || said(1));
    fs::remove_file(&link).unwrap();
    symlink(PROGRAM, &link).unwrap();
    let settings = managed.it.daemon.path("chat_proxy.toml");
    let good = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, "[server]\nport = \"none\"\n").unwrap();
    kill(main, Signal::SIGUSR2).unwrap();
    eventually("it is said again", BOUND, || said(2));
    managed.it.assert_answers("tiny-a");
    // And when both are good, it goes.
    fs::write(&settings, good).unwrap();
    managed.upgrade();
    managed.it.assert_answers("tiny-a");
    assert_eq!(managed.it.starts(), ["tiny-a"]);
}

/// It says that it is prepared, and is gone when everything is its own: the worst moment.
#[test]
fn a_new_daemon_that_dies_while_it_takes_over_costs_a_restart_and_no_stream() {
    let engines = Engines::two();
    let link = linked(engines.setup());
    let mut it = engines.called(&link).start();
    it.assert_answers("tiny-a");
    let mut stream = it.stream("tiny-a", 300);
    let mut idle = Client::connect(it.daemon.addr());
    let ask = Ask::get("/v1/models").bytes(it.daemon.addr());
    idle.send(&ask);
    assert_eq!(idle.reply().status(), 200);
    fs::remove_file(&link).unwrap();
    let script = "#!/bin/sh\nn=${IMAGEWORKS_HANDOVER%%:*}\n\
        eval \"printf p >&$n; head -c 1 <&$n >/dev/null\"\nsleep 1\nexit 1\n";
    fs::write(&link, script).unwrap();
    fs::set_permissions(&link, fs::Permissions::from_mode(0o755)).unwrap();
    kill(it.daemon.main(), Signal::SIGUSR2).unwrap();
    eventually("it hands over", BOUND, || {
        it.daemon.stderr().contains("handing over").then_some(())
    });
    // To a socket that takes connections, for nobody.
    idle.send(&ask);
    let reply = idle.reply();
    reply.error(503, "err_draining");
    assert_eq!(reply.head.get("retry-after"), Some("0"));
    assert_eq!(stream.rest().1, End::Whole);
    drop((stream, idle));
    assert_eq!(it.daemon.wait_exit(BOUND).code(), Some(1));
    // Whoever starts it again finds the engine where it was.
    it.daemon.restart();
    it.assert_answers("tiny-a");
    assert_eq!(it.starts(), ["tiny-a"]);
}

/// What clients saw.
#[derive(Default, Debug)]
struct Seen {
    whole: usize,
    again: usize,
    faults: BTreeMap<String, usize>,
}

/// One client: streams and answers in one piece, for the resident, over a connection that it keeps for as long as it
/// may. Who is told to come again does.
fn client(addr: std::net::SocketAddr, number: usize, over: &AtomicBool) -> Seen {
    const PACE: Duration = Duration::from_millis(80);
    let mut seen = Seen::default();
    let mut connection = Client::connect(addr);
    let mut count = number;
    while !over.load(Ordering::SeqCst) {
        let began = Instant::now();
        count += 1;
        let stream = count.is_multiple_of(2);
        let ask = hello(
            "tiny-a",
            stream,
            json!({"tokens": 8, "delay_token_ms": if stream { 5 } else { 0 }}),
        );
        connection.send(&ask.bytes(addr));
        match connection.try_head() {
            Err(why) => {
                *seen.faults.entry(format!("no head: {why}")).or_default() += 1;
                connection = Client::connect(addr);
                continue;
            }
            Ok(head) => {
                let (pieces, end) = connection.rest();
                let body: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.data).collect();
                let body = String::from_utf8_lossy(&body).into_owned();
                let whole = !stream || body.ends_with("data: [DONE]\n\n");
                match (head.status, head.get("retry-after"), end) {
                    (200, _, End::Whole) if whole && !body.contains("\"error\"") => seen.whole += 1,
                    (503, Some("0"), End::Whole) => seen.again += 1,
                    (status, after, end) => {
                        let fault = format!("{status} {after:?} {end:?} {body}");
                        *seen.faults.entry(fault).or_default() += 1;
                    }
                }
                if head.get("connection").is_some_and(|it| it.eq_ignore_ascii_case("close")) {
                    connection = Client::connect(addr);
                }
            }
        }
        thread::sleep(PACE.saturating_sub(began.elapsed())); // the pace is the load
    }
    seen
}

#[test]
fn ten_upgrades_under_load_lose_no_request() {
    const CLIENTS: usize = 16; // of twelve or so requests a second each
    const UPGRADES: usize = 10;
    let _alone = alone();
    let mut managed = Managed::start(Engines::two());
    managed.it.assert_answers("tiny-a");
    let (addr, over) = (managed.it.daemon.addr(), AtomicBool::new(false));
    let began = Instant::now();
    let seen = thread::scope(|scope| {
        let over = &over;
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || client(addr, number, over))).collect();
        for _ in 0..UPGRADES {
            thread::sleep(Duration::from_secs(1)); // in the midst of the load
            let (old, _) = managed.upgrade();
            eventually("the old one ends", BOUND, || is_gone(old).then_some(()));
        }
        over.store(true, Ordering::SeqCst);
        let seen = clients.into_iter().map(|client| client.join().expect("a client"));
        seen.fold(Seen::default(), |mut all, one| {
            all.whole += one.whole;
            all.again += one.again;
            for (fault, times) in one.faults {
                *all.faults.entry(fault).or_default() += times;
            }
            all
        })
    });
    let took = began.elapsed();
    eprintln!("{} whole, {} sent on, in {took:?}, {:?}", seen.whole, seen.again, seen.faults);
    assert!(seen.faults.is_empty(), "{:?}", seen.faults);
    assert!(seen.whole > 20 * UPGRADES && seen.again <= CLIENTS, "{seen:?}");
    assert_eq!(managed.it.starts(), ["tiny-a"], "an engine was loaded again");
}
