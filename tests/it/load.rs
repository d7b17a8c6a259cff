//! Many streams at once.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Ask, Daemon, End, Setup, Upstream, alone, eventually, sse, vllm};

const STREAMS: usize = 64;
/// Between two events of one stream.
const PACE: Duration = Duration::from_millis(25);

/// How long; the full run is ordered by the environment.
fn duration() -> Duration {
    let ordered = std::env::var("IMAGEWORKS_IT_LOAD_S").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(ordered.unwrap_or(3.0))
}

fn backend(events: Vec<String>) -> Upstream {
    Upstream::start(move |_, wire| {
        wire.stream_head();
        for event in &events {
            thread::sleep(PACE); // the pace is the load
            wire.chunk(event.as_bytes());
        }
        wire.last_chunk();
    })
}

fn run(daemon: &Daemon, until: Instant, want: &str) -> usize {
    let mut count = 0;
    while Instant::now() < until {
        let reply = Ask::chat(vllm::ask(true)).reply(daemon.addr());
        assert_eq!((reply.status(), &reply.end), (200, &End::Whole), "{}", reply.text());
        assert_eq!(reply.text(), want);
        count += 1;
    }
    count
}

#[test]
fn many_streams_at_once_are_all_whole() {
    let _alone = alone();
    load(duration());
}

#[test]
fn many_streams_at_once_leave_no_descriptor_behind() {
    let _alone = alone();
    let (daemon, baseline, _upstream) = load(Duration::from_millis(500));
    eprintln!("descriptors: {baseline} before, {} after", daemon.fd_count());
    eventually("descriptors return to the baseline", Duration::from_secs(10), || {
        (daemon.fd_count() <= baseline).then_some(())
    });
}

/// Runs the load; gives the daemon and how many descriptors it had before.
fn load(duration: Duration) -> (Daemon, usize, Upstream) {
    let events = vllm::stream(&["a", " b", " c", " d", " e", " f", " g", " h", " i", " j"]);
    let want = vllm::for_client(&events).concat();
    assert!(want.ends_with(sse::DONE));
    let upstream = backend(events);
    let daemon = Setup::with(&upstream).start();
    // What a thread opens once, for its first request, is no leak.
    for _ in 0..8 {
        assert_eq!(Ask::chat(vllm::ask(true)).reply(daemon.addr()).status(), 200);
    }
    let baseline = daemon.fd_count();
    let until = Instant::now() + duration;
    let count: usize = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..STREAMS).map(|_| scope.spawn(|| run(&daemon, until, &want))).collect();
        clients.into_iter().map(|client| client.join().expect("a client that found no fault")).sum()
    });
    assert!(count >= STREAMS);
    eprintln!("{count} streams");
    for line in daemon.log_lines(count + 8) {
        assert_eq!(line["status"], 200, "{line}");
        assert!(line.get("error").is_none() && line["cancelled"] == false, "{line}");
    }
    (daemon, baseline, upstream)
}
