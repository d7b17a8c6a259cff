//! The daemon's own log: its formats, the request in it, and that it keeps nobody waiting (SPEC 7.3).

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::engines::hello;
use crate::support::{Ask, BOUND, Daemon, Engines, Setup, Upstream, eventually, vllm};

/// Lines of the log in JSON.
fn lines(daemon: &Daemon) -> Vec<Value> {
    let text = daemon.stderr();
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    // The last one may still be on its way.
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(line).collect()
}

fn wait_for(daemon: &Daemon, message: &str) -> Value {
    eventually(message, BOUND, || {
        lines(daemon).into_iter().find(|line| line["fields"]["message"] == message)
    })
}

#[test]
fn machines_get_json_with_the_request_that_a_line_is_about() {
    let events = vllm::stream(&["a", " b"]);
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        wire.chunk(events[0].as_bytes());
        wire.chunk(events[1].as_bytes());
        wire.fin();
    });
    let daemon = Setup::with(&upstream).start();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let ask =
        Ask::chat(vllm::ask(true)).header("x-request-id", "mine").header("traceparent", trace);
    assert_eq!(ask.reply(daemon.addr()).status(), 200);
    // Said when the stream has ended, long after the handler has: the span is still there.
    let line = wait_for(&daemon, "request failed");
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["fields"]["model"], "tiny-a");
    assert_eq!(line["fields"]["code"], "err_backend_unavailable");
    assert_eq!(line["span"]["id"], "mine");
    assert_eq!(line["span"]["path"], "/v1/chat/completions");
    assert_eq!(line["span"]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
}

/// From a request to the engine that was started for it, through all the actors between.
#[test]
fn a_request_is_found_with_everybody_who_worked_for_it() {
    let engines = Engines::new().model("a", &[]).start();
    let daemon = &engines.daemon;
    let ask = hello("a", false, json!({})).header("x-request-id", "it-was-me");
    assert_eq!(ask.reply(daemon.addr()).status(), 200);
    assert_eq!(wait_for(daemon, "swap begins")["fields"]["request_id"], "it-was-me");
    let ordered = wait_for(daemon, "engine ordered");
    assert_eq!(ordered["fields"]["request_id"], "it-was-me");
    let generation = &ordered["fields"]["generation"];
    for said in ["engine started", "engine ready", "its model was loaded for it"] {
        assert_eq!(&wait_for(daemon, said)["fields"]["generation"], generation, "{said}");
    }
    assert_eq!(wait_for(daemon, "its model was loaded for it")["span"]["id"], "it-was-me");
}

#[test]
fn people_get_lines() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let daemon = Setup::with(&upstream).set("logging", "log_format", "\"human\"").start();
    let line = eventually("a line", BOUND, || {
        daemon.stderr().lines().find(|line| line.contains("listening")).map(str::to_owned)
    });
    assert!(
        line.contains(" INFO ") && !line.starts_with('{') && !line.contains('\u{1b}'),
        "{line}"
    );
}

/// Whether a file system can be mounted, in a name space of its own.
fn can_mount() -> bool {
    let able = Command::new("unshare").args(["-rm", "true"]).status();
    let able = able.is_ok_and(|status| status.success());
    if !able {
        eprintln!("NOT TESTED: nothing can be mounted here (unshare -rm)");
    }
    able
}

/// As systemd starts a service whose stderr is its journal: by `JOURNAL_STREAM` it is known.
#[test]
fn under_systemd_lines_go_to_the_journal_with_their_fields() {
    if !can_mount() {
        return;
    }
    let upstream = Upstream::answering("500 Oh", "text/plain", "no");
    let setup = Setup::with(&upstream);
    let place = setup.path("journal");
    fs::create_dir(&place).unwrap();
    let journal = UnixDatagram::bind(place.join("socket")).unwrap();
    journal.set_read_timeout(Some(BOUND)).unwrap();
    let stderr = File::create(setup.path("stderr")).unwrap().metadata().unwrap();
    let puts = format!(
        "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && \
         mount --bind {} /run/systemd/journal && exec \"$@\"",
        place.display()
    );
    let daemon = setup
        .env("JOURNAL_STREAM", &format!("{}:{}", stderr.dev(), stderr.ino()))
        .through(&["unshare", "-rm", "sh", "-c", &puts, "sh"])
        .start();
    let ask = Ask::chat(vllm::ask(false)).header("x-request-id", "mine");
    assert_eq!(ask.reply(daemon.addr()).status(), 500);
    let mut buffer = vec![0; 1 << 16];
    let line = loop {
        let length = journal.recv(&mut buffer).expect("a line in time");
        let line = String::from_utf8(buffer[..length].to_vec()).unwrap();
        if line.contains("MESSAGE=request failed\n") {
            break line;
        }
    };
    for field in [
        "PRIORITY=4",
        "SYSLOG_IDENTIFIER=imageworks-chat-proxy",
        "REQUEST_ID=mine",
        "CODE=err_backend_error",
        "STATUS=500",
    ] {
        assert!(line.lines().any(|is| is == field), "{field}\n{line}");
    }
    assert_eq!(daemon.stderr(), "");
}

#[test]
fn a_journal_that_is_not_there_is_said_and_json_comes_instead() {
    if !can_mount() {
        return;
    }
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    // In a name space without /run, whatever this machine has.
    let daemon = Setup::with(&upstream).set("logging", "log_format", "\"journald\"");
    let hides = "mount -t tmpfs tmpfs /run && exec \"$@\"";
    let daemon = daemon.through(&["unshare", "-rm", "sh", "-c", hides, "sh"]).start();
    let text = eventually("lines", BOUND, || {
        Some(daemon.stderr()).filter(|text| text.contains("listening"))
    });
    let (first, rest) = text.split_once('\n').unwrap();
    assert!(first.starts_with("the journal cannot be reached ("), "{first}");
    assert!(rest.starts_with('{'), "{rest}");
}

/// A terminal that was stopped with Ctrl-S, a pipe that nobody reads.
#[test]
fn a_log_that_nobody_takes_keeps_no_request_waiting() {
    const REQUESTS: usize = 1500;
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let setup = Setup::with(&upstream)
        .set("server", "enable_metrics", true)
        .env("RUST_LOG", "imageworks_chat_proxy=trace,chat_proxy_actors=trace,actix_http=trace,actix_server=trace,mio=trace");
    let pipe = setup.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Somebody has it open and does not read.
    let mut reader = File::options().read(true).write(true).open(&pipe).unwrap();
    let into = format!("exec \"$@\" 2>{}", pipe.display());
    let mut daemon = setup.through(&["sh", "-c", &into, "sh"]).start();
    let began = Instant::now();
    let mut sent = 0;
    while super::samples(&daemon)["imageworks_proxy_program_log_dropped_total"] < 1.0 {
        for _ in 0..100 {
            assert_eq!(Ask::chat(vllm::ask(false)).reply(daemon.addr()).status(), 200);
        }
        sent += 100;
        assert!(sent < 20 * REQUESTS, "it never filled up");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(60), "{sent} requests took {took:?}");
    // Nor does it hold up the end.
    daemon.terminate();
    assert_eq!(daemon.wait_exit(BOUND).code(), Some(0));
    let mut begin = [0; 1000];
    reader.read_exact(&mut begin).unwrap();
    assert!(begin.starts_with(b"{"), "what was taken is whole");
}
