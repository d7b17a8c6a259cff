//! Streams of backends that are cut very small, or very large.

use std::time::{Duration, Instant};

use super::{Siege, hasty};
use crate::support::{Ask, End, Upstream, vllm};

#[test]
fn a_stream_of_single_bytes_arrives_whole_and_holds_little() {
    let words: Vec<String> = (0..1500).map(|n| vllm::word(0, &format!("w{n} "))).collect();
    let stream = [vllm::role(0), words.concat(), vllm::finish(0), vllm::DONE.to_owned()].concat();
    let want = stream.clone();
    let upstream = Upstream::start(move |seen, wire| {
        if seen.json()["stream"] != true {
            return wire.answer("200 OK", "application/json", vllm::WHOLE.as_bytes());
        }
        wire.stream_head();
        let bytes: Vec<u8> =
            stream.bytes().flat_map(|byte| [b'1', b'\r', b'\n', byte, b'\r', b'\n']).collect();
        wire.send(&bytes);
        wire.last_chunk();
    });
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    siege.attack(|| {
        let begun = Instant::now();
        let reply = Ask::chat(vllm::ask(true)).reply(daemon.addr());
        assert_eq!((reply.status(), &reply.end), (200, &End::Whole));
        assert!(reply.text() == want, "{} of {} bytes", reply.text().len(), want.len());
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    });
    siege.lift();
}

#[test]
fn events_without_an_end_are_cut_at_their_bound() {
    let upstream = Upstream::start(move |seen, wire| {
        if seen.json()["stream"] != true {
            return wire.answer("200 OK", "application/json", vllm::WHOLE.as_bytes());
        }
        wire.stream_head();
        // Never ended: the bound of one event (16 MB) is met.
        wire.flood(&vec![b'x'; 256 << 10]);
    });
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    siege.attack(|| {
        super::at_once(&[(); 32], |()| {
            let said = super::talk_once(daemon.addr(), &Ask::chat(vllm::ask(true)));
            assert!(said.contains("larger than"), "{said:.500}");
        });
    });
    siege.lift();
}
