//! Many clients, two models, one GPU.

use std::thread;

use serde_json::json;

use crate::support::engines::{Sampler, greeting, hello, text_of};
use crate::support::{BOUND, End, Engines, alone, eventually, sse};

#[test]
fn sixty_four_streams_across_two_swapping_models_all_complete_by_their_own_model() {
    let _alone = alone();
    let it = Engines::two().start();
    let sampler = Sampler::of(it.port);
    let replies: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..64)
            .map(|n| {
                let model = if n % 2 == 0 { "tiny-a" } else { "tiny-b" };
                let addr = it.daemon.addr();
                let ask = hello(model, true, json!({"delay_token_ms": 3}));
                scope.spawn(move || (model, ask.reply(addr)))
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for (model, reply) in &replies {
        assert_eq!((reply.status(), &reply.end), (200, &End::Whole), "{}", reply.text());
        assert_eq!(text_of(reply), greeting(model));
        assert!(reply.text().ends_with(sse::DONE));
    }
    sampler.assert_never_two();
    assert!(it.starts().len() >= 2, "{:?}", it.starts());
    let lines = it.daemon.log_lines(64);
    assert!(lines.iter().all(|line| line["status"] == 200 && line.get("error").is_none()));
}

#[test]
fn mixed_requests_and_departures_leave_the_books_balanced() {
    let _alone = alone();
    let it = Engines::two().set("scheduler", "max_swap_wait_s", 0.2).start();
    thread::scope(|scope| {
        for n in 0..16 {
            let it = &it;
            scope.spawn(move || {
                for round in 0..12 {
                    let model = if (n + round) % 3 == 0 { "tiny-b" } else { "tiny-a" };
                    if (n + round) % 5 == 0 {
                        // Leaves while it waits, or in its stream.
                        drop(hello(model, true, json!({"tokens": 50})).open(it.daemon.addr()));
                    } else {
                        it.assert_answers(model);
                    }
                }
            });
        }
    });
    it.wait_queue(0);
    eventually("all permits are back", BOUND, || (it.engine()["in_flight"] == 0).then_some(()));
    for model in ["tiny-a", "tiny-b"] {
        let figure = format!("imageworks_proxy_in_flight{{model=\"{model}\"}}");
        assert_eq!(it.figure(&figure), Some(0.0));
    }
}
