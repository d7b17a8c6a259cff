//! What the scheduler says of itself, and what it does over real sockets.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::engines::hello;
use crate::support::{Ask, BOUND, Engines, eventually};

#[test]
fn a_request_that_waited_can_be_asked_why_and_each_swap_has_its_reason() {
    let engined = Engines::two().start();
    let mut stream = engined.stream("tiny-a", 200);
    let waiting = hello("tiny-b", false, json!({})).header("x-request-id", "why-me");
    let mut client = waiting.open(engined.daemon.addr());
    let explain = |id: &str| {
        Ask::get(&format!("/v1/scheduler/explain?request_id={id}")).reply(engined.daemon.addr())
    };
    let queued = eventually("it waits", BOUND, || engined.backends()["queue"].get(0).cloned());
    assert_eq!((&queued["model"], &queued["class"]), (&json!("tiny-b"), &json!("interactive")));
    assert_eq!(queued["request_id"], "why-me");
    let told = queued["waits_for"].as_str().expect("a text");
    assert!(told.contains("tiny-a serves 1 requests"), "{told}");
    assert!(queued["due_in_ms"].as_u64() > Some(60_000), "{queued}");
    assert_eq!(explain("why-me").json()["outcome"], "waiting");
    stream.read_until("[DONE]");
    assert_eq!(client.reply().status(), 200);

    let story = explain("why-me").json();
    assert_eq!((&story["outcome"], &story["model"]), (&json!("served"), &json!("tiny-b")));
    assert!(story["waited_ms"].as_u64() > Some(0), "{story}");
    let chapters = story["waited_for"].as_array().expect("chapters");
    let texts: Vec<&str> = chapters.iter().filter_map(|c| c["why"].as_str()).collect();
    assert!(texts.iter().any(|text| text.contains("tiny-a is being stopped")), "{texts:?}");
    assert_eq!(texts.last(), Some(&"its model is loading"));
    let error = explain("nobody").error(404, "err_not_found");
    assert!(error["message"].as_str().expect("a text").contains("nobody"));
    Ask::get("/v1/scheduler/explain")
        .reply(engined.daemon.addr())
        .error(400, "err_invalid_request");

    let swaps = engined.backends()["swaps"].clone();
    let (last, first) = (&swaps[0], &swaps[1]);
    assert_eq!((&last["from"], &last["to"]), (&json!("tiny-a"), &json!("tiny-b")));
    assert_eq!((&first["from"], &first["because"]), (&Value::Null, &json!("nothing was loaded")));
    assert!(last["because"].as_str().expect("a text").contains("nobody used"), "{last}");
    assert!(last["took_ms"].as_u64() > Some(0), "{last}");
}

#[test]
fn a_steady_stream_of_requests_for_one_model_does_not_starve_another() {
    const BOUND_S: f64 = 1.5;
    let _alone = crate::support::alone();
    let engined = Engines::two().set("scheduler", "max_swap_wait_s", BOUND_S).start();
    engined.assert_answers("tiny-a");
    let (stop, served, engine) = (AtomicBool::new(false), AtomicUsize::new(0), &engined);
    thread::scope(|scope| {
        let steady = |_| {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let sim = json!({"tokens": 20, "delay_token_ms": 10});
                    let reply = hello("tiny-a", true, sim).reply(engine.daemon.addr());
                    assert!(reply.text().contains("[DONE]"), "evicted while generating");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let clients: Vec<_> = (0..4).map(steady).collect();
        for _ in 0..3 {
            eventually("A is busy", BOUND, || {
                (engine.engine()["in_flight"].as_u64() > Some(1)).then_some(())
            });
            let begun = Instant::now();
            engine.assert_answers("tiny-b");
            // Its bound, what runs, a stop and a load.
            assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        }
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().expect("no client fails");
        }
    });
    let lines = engined.daemon.log_lines(served.load(Ordering::SeqCst) + 4);
    assert!(lines.iter().all(|line| line["error"].is_null()), "{lines:?}");
}

#[test]
fn whoever_waits_hears_its_place_and_the_state_in_every_dialect() {
    let engined = Engines::two().set("server", "heartbeat_ms", 50).start();
    let mut running = engined.stream("tiny-a", 300);
    let said = json!([{"role": "user", "content": "hello"}]);
    let asks = [
        ("/v1/chat/completions", json!({"messages": said}), "[DONE]"),
        ("/v1/completions", json!({"prompt": "hello"}), "[DONE]"),
        ("/v1/responses", json!({"input": "hello"}), "response.completed"),
        ("/v1/messages", json!({"messages": said, "max_tokens": 20}), "message_stop"),
    ];
    let mut waiting = Vec::new();
    for (place, (path, mut body, end)) in (1..).zip(asks) {
        body["model"] = json!("tiny-b");
        body["stream"] = json!(true);
        let mut client = Ask::post(path, &body).open(engined.daemon.addr());
        assert_eq!(client.head().status, 200, "{path}");
        client.read_until(&format!(": waiting (position {place}, "));
        waiting.push((client, end));
    }
    running.read_until("[DONE]");
    for (mut client, end) in waiting {
        client.read_until("the model is loading)");
        client.read_until(end);
    }
    assert_eq!(engined.starts(), ["tiny-a", "tiny-b"]);
}
