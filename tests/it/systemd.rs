//! Under a service manager: what it is told, sockets that it opened (SPEC 11).

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Ask, BOUND, End, Engines, Gate, Setup, Upstream, eventually, vllm};

/// Where a service manager hears us.
struct Manager(UnixDatagram);

impl Manager {
    fn of(setup: &Setup) -> (Manager, String) {
        let path = setup.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        (Manager(socket), path.display().to_string())
    }

    /// The next message.
    #[track_caller]
    fn hears(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("a message in time");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next message that says this; those between say something else.
    #[track_caller]
    fn waits_for(&self, what: &str) -> String {
        loop {
            let said = self.hears();
            if said.contains(what) {
                return said;
            }
        }
    }

    fn is_quiet_for(&self, time: Duration, about: &str) -> bool {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|t| !t.is_zero())
        {
            self.0.set_read_timeout(Some(left)).unwrap();
            let mut buffer = [0; 4096];
            if let Ok(length) = self.0.recv(&mut buffer)
                && String::from_utf8_lossy(&buffer[..length]).contains(about)
            {
                return false;
            }
        }
        self.0.set_read_timeout(Some(BOUND)).unwrap();
        true
    }
}

fn managed(engines: Engines) -> (crate::support::engines::Engined, Manager) {
    let (manager, path) = Manager::of(engines.setup());
    (engines.env("NOTIFY_SOCKET", &path).start(), manager)
}

#[test]
fn the_manager_hears_of_the_whole_life() {
    let (mut it, manager) = managed(Engines::two());
    assert_eq!(manager.hears(), "READY=1\nSTATUS=no model loaded: 0 running, 0 waiting\n");
    it.assert_answers("tiny-a");
    manager.waits_for("STATUS=tiny-a: 0 running, 0 waiting\n");
    let client = it.stream("tiny-a", 500);
    manager.waits_for("STATUS=tiny-a: 1 running, 0 waiting\n");
    it.daemon.signal(Signal::SIGHUP);
    let said = manager.waits_for("RELOADING=1\n");
    let at = said.split_once("MONOTONIC_USEC=").expect("when it began").1.trim();
    assert!(at.parse::<u64>().is_ok_and(|at| at > 0), "{said}");
    assert_eq!(manager.waits_for("READY=1"), "READY=1\n");
    it.daemon.terminate();
    assert_eq!(manager.waits_for("STOPPING=1"), "STOPPING=1\nSTATUS=draining: 1 running\n");
    drop(client);
    assert_eq!(it.daemon.wait_exit(BOUND).code(), Some(0));
}

/// An engine that an earlier daemon left: only when it is known to be ours are we ready.
#[test]
fn ready_waits_for_what_runs_already() {
    let (mut it, manager) = managed(Engines::two());
    it.assert_answers("tiny-a");
    it.daemon.kill();
    it.daemon.restart();
    // The one of the first daemon, and then the second one's.
    manager.waits_for("READY=1");
    let said = manager.waits_for("READY=1");
    assert!(said.starts_with("READY=1\nSTATUS=tiny-a"), "{said}");
    assert_eq!(it.starts(), ["tiny-a"]);
}

#[test]
fn the_watchdog_is_told_while_every_actor_answers_and_not_by_a_clock() {
    let engines = Engines::two().env("WATCHDOG_USEC", "600000");
    let (it, manager) = managed(engines);
    for _ in 0..5 {
        manager.waits_for("WATCHDOG=1");
    }
    // An actor that dies and is rebuilt is no reason.
    assert_eq!(Ask::new("POST", "/v1/debug/panic/arbiter").reply(it.daemon.addr()).status(), 204);
    for _ in 0..5 {
        manager.waits_for("WATCHDOG=1");
    }
    assert_eq!(Ask::new("POST", "/v1/debug/freeze/arbiter").reply(it.daemon.addr()).status(), 204);
    eventually("it is said", BOUND, || {
        it.daemon.stderr().contains("the watchdog is not told").then_some(())
    });
    // A ping may have been on its way.
    manager.is_quiet_for(Duration::from_millis(50), "nothing");
    assert!(manager.is_quiet_for(Duration::from_secs(2), "WATCHDOG=1"), "only a clock ticks");
    it.daemon.assert_serves();
}

fn opened() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// The first request is what has the daemon started; while it starts more come.
#[test]
fn requests_that_came_before_the_daemon_are_answered() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let (listener, addr) = opened();
    let clients: Vec<_> = (0..20)
        .map(|_| thread::spawn(move || Ask::chat(vllm::ask(false)).reply(addr).status()))
        .collect();
    let daemon = Setup::with(&upstream).socket(listener.try_clone().unwrap()).start();
    assert_eq!(daemon.addr(), addr);
    for client in clients {
        assert_eq!(client.join().unwrap(), 200);
    }
    assert_eq!(
        fs::read_to_string(daemon.path("_staging/chat_proxy.port")).unwrap().trim(),
        addr.port().to_string()
    );
}

/// What comes while it ends is for whoever comes next: nobody is refused.
#[test]
fn requests_between_two_daemons_wait_for_the_next() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        let events = vllm::stream(&["a", "b"]);
        wire.stream_head();
        wire.chunk(events[0].as_bytes());
        wire.chunk(events[1].as_bytes());
        held.pass();
        for event in &events[2..] {
            wire.chunk(event.as_bytes());
        }
        wire.last_chunk();
    });
    let (listener, addr) = opened();
    let mut first = Setup::with(&upstream).socket(listener.try_clone().unwrap()).start();
    let mut running = Ask::chat(vllm::ask(true)).open(addr);
    running.head();
    running.read_until("\"a\"");
    first.terminate();
    eventually("it drains", BOUND, || first.stderr().contains("\"draining\"").then_some(()));
    let late = thread::spawn(move || Ask::get("/v1/models").reply(addr).status());
    gate.open();
    assert_eq!(running.rest().1, End::Whole);
    assert_eq!(first.wait_exit(BOUND).code(), Some(0));
    let _second = Setup::with(&upstream).socket(listener).start();
    assert_eq!(late.join().unwrap(), 200);
}

#[test]
fn a_socket_that_others_can_reach_needs_keys_whoever_opened_it() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let open = || TcpListener::bind("0.0.0.0:0").unwrap();
    let ended = Setup::with(&upstream).socket(open()).run(&[]);
    assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    assert!(ended.stderr.contains("can be reached from other machines"), "{}", ended.stderr);
    let keyed = Setup::with(&upstream).socket(open()).env("CHAT_PROXY_API_KEYS", "k").start();
    keyed.assert_serves();
}

#[test]
fn what_is_no_listening_socket_is_refused() {
    let setup = Setup::new();
    let says = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\" 3</dev/null";
    let ended = setup.through(&["sh", "-c", says, "sh"]).run(&[]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("LISTEN_FDS: "), "{}", ended.stderr);
}

/// What is for the daemon alone is not an engine's.
#[test]
fn engines_hear_nothing_of_the_manager() {
    let (it, _manager) = managed(Engines::two().env("WATCHDOG_USEC", "600000000"));
    it.assert_answers("tiny-a");
    let pid = it.engine()["pid"].as_i64().unwrap();
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"] {
        assert!(!environment.contains(name), "{name}");
    }
}
