//! Streams of events and of logs, opened by the hundred.

use std::time::Duration;

use super::{Siege, backend, hasty};
use crate::support::{Ask, BOUND, Client, eventually};

/// As many are served at once (`LISTENERS` in the daemon).
const PLACES: usize = 128;

#[test]
fn streams_that_never_end_are_bounded_and_say_so() {
    let upstream = backend();
    let daemon = hasty(&upstream).set("server", "heartbeat_ms", 500).start();
    let siege = Siege::lay(&daemon);
    let paths = ["/v1/events", "/v1/logs/chat?follow=1"];
    siege.attack(|| {
        let mut held: Vec<Client> = (0..PLACES)
            .map(|n| {
                let mut client = Ask::get(paths[n % 2]).open(daemon.addr());
                assert_eq!(client.head().status, 200, "number {n}");
                client
            })
            .collect();
        for path in paths {
            let reply = Ask::get(path).reply(daemon.addr());
            let error = reply.error(429, "err_queue_full");
            let told = error.to_string();
            assert!(told.contains(&PLACES.to_string()), "{told}");
            assert!(reply.head.get("retry-after").is_some());
        }
        // Whoever only wants to look is not kept out.
        assert_eq!(Ask::get("/v1/logs/chat").reply(daemon.addr()).status(), 200);
        held.truncate(PLACES - 2);
        eventually("there is room again", BOUND, || {
            let mut client = Ask::get(paths[0]).open(daemon.addr());
            (client.head().status == 200).then_some(())
        });
    });
    siege.lift();
}

#[test]
fn who_opens_and_leaves_by_the_hundred_leaves_nothing() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    siege.attack(|| {
        for n in 0..600 {
            let path = ["/v1/events", "/v1/logs/chat?follow=1"][n % 2];
            let mut client = Ask::get(path).open(daemon.addr());
            if n % 3 == 0 {
                // Refused where the daemon has not yet seen that the others left.
                assert!(matches!(client.head().status, 200 | 429));
            }
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
    siege.lift();
}
