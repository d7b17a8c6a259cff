//! One GPU: vLLM and Ollama take turns, and never hold it together.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::*;
use crate::support::engines::{Engined, families};

/// A daemon with two vLLM models and Ollama's.
fn house(ollama: &Ollama) -> Engines {
    Engines::two()
        .set("ollama", "ollama_base_url", format!("{:?}", ollama.base()))
        .entry(json!({"name": "o", "backend": "ollama", "served_model_id": "tiny-o"}))
        .entry(json!({"name": "p", "backend": "ollama", "served_model_id": "tiny-p"}))
}

fn ollama() -> Ollama {
    Ollama::start("tiny-o,tiny-p", &["--sim-unload-ms", "50", "--sim-load-ms", "30"])
}

/// Looks all the time whether both hold something.
fn watch(engined: &Engined, ollama: &Ollama, stop: &AtomicBool) -> (usize, usize) {
    let (mut looks, mut both) = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        looks += 1;
        // In this order: a vLLM that starts after Ollama was seen empty is no overlap.
        let vllm = !families(engined.port).is_empty();
        let loaded = !ollama.loaded().is_empty();
        let still = !families(engined.port).is_empty();
        both += usize::from(vllm && loaded && still);
    }
    (looks, both)
}

#[test]
fn each_goes_before_the_other_comes() {
    let ollama = ollama();
    let engined = house(&ollama).start();
    let (stop, engine) = (AtomicBool::new(false), &engined);
    thread::scope(|scope| {
        let watching = scope.spawn(|| watch(engine, &ollama, &stop));
        for model in ["tiny-a", "o", "p", "tiny-b", "o", "tiny-a"] {
            let reply = engined.hello(model);
            assert_eq!(reply.status(), 200, "{model}: {}", reply.text());
            assert_eq!(
                text_of(&reply),
                greeting(&model.replace('o', "tiny-o").replace('p', "tiny-p"))
            );
        }
        stop.store(true, Ordering::SeqCst);
        let (looks, both) = watching.join().expect("looks");
        assert!(looks > 20, "only {looks} looks");
        assert_eq!(both, 0, "both held the GPU");
    });
    assert_eq!(engined.starts(), ["tiny-a", "tiny-b", "tiny-a"]);
    assert!(ollama.loaded().is_empty());
    assert_eq!(ollama.stats()["loads"], 3);
}

#[test]
fn what_others_loaded_into_ollama_goes_too() {
    let ollama = ollama();
    ollama.load("tiny-p");
    let engined = house(&ollama).start();
    engined.assert_answers("tiny-a");
    assert!(ollama.loaded().is_empty());
}

#[test]
fn an_ollama_that_does_not_give_the_gpu_back_is_named_and_the_next_request_works_when_it_does() {
    let ollama = ollama();
    let engined = house(&ollama).set("ollama", "ollama_stop_timeout_s", 0.4).start();
    assert_eq!(engined.hello("o").status(), 200);
    ollama.order(json!({"on": "/api/chat", "fault": {"unload_never": true}}));
    let begun = Instant::now();
    let error = engined.hello("tiny-a").error(502, "err_model_start_failed");
    assert!(
        error["message"].as_str().expect("a text").contains("tiny-o:latest still loaded"),
        "{error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(engined.starts().is_empty());
    // Ollama itself serves on.
    assert_eq!(engined.hello("o").status(), 200);
    ollama.order(json!([]));
    engined.assert_answers("tiny-a");
}

#[test]
fn an_ollama_that_is_away_or_is_none_holds_nothing() {
    let mut away = ollama();
    away.kill();
    let engined = house(&away).start();
    engined.assert_answers("tiny-a");
    let stranger = Upstream::answering("200 OK", "text/html", "<html>hello</html>");
    let engined = Engines::two()
        .set("ollama", "ollama_base_url", format!("\"http://{}\"", stranger.addr()))
        .start();
    engined.assert_answers("tiny-b");
}

#[test]
fn entries_that_do_not_use_the_gpu_take_no_turn() {
    let ollama = ollama();
    let cpu = json!({"name": "cpu", "backend": "ollama", "served_model_id": "tiny-o",
        "backend_config": {"uses_gpu": false}});
    let engined = house(&ollama).entry(cpu).start();
    let mut stream = engined.stream("tiny-a", 200);
    let reply = engined.hello("cpu");
    assert_eq!(text_of(&reply), greeting("tiny-o"));
    assert_eq!(ollama.chats()[0]["body"]["options"]["num_gpu"], 0);
    stream.read_until("[DONE]");
    assert_eq!(engined.engine()["state"], "ready");
}

/// An entry that keeps `tiny-p` off the GPU.
fn on_cpu() -> Value {
    json!({"name": "cpu", "backend": "ollama", "served_model_id": "tiny-p",
        "backend_config": {"uses_gpu": false}})
}

fn with_cpu(ollama: &Ollama) -> Engined {
    Engines::two()
        .set("ollama", "ollama_base_url", format!("{:?}", ollama.base()))
        .entry(json!({"name": "o", "backend": "ollama", "served_model_id": "tiny-o"}))
        .entry(on_cpu())
        .start()
}

#[test]
fn what_is_on_the_cpu_loads_and_stays_while_the_gpu_is_wanted() {
    let ollama = Ollama::start("tiny-o,tiny-p", &["--sim-load-ms", "500"]);
    let engined = with_cpu(&ollama);
    let mut waiting = hello("cpu", false, json!({})).open(engined.daemon.addr());
    eventually("its load began", BOUND, || (!ollama.asked("/api/chat").is_empty()).then_some(()));
    engined.assert_answers("tiny-a");
    let reply = waiting.reply();
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(ollama.stats()["loads"], 1);
    assert_eq!(engined.hello("o").status(), 200);
    engined.assert_answers("tiny-b");
    assert_eq!(ollama.loaded(), ["tiny-p:latest"]);
}

#[test]
fn ollamas_own_routes_take_a_turn_since_they_may_load_onto_the_gpu() {
    let ollama = ollama();
    let engined = with_cpu(&ollama);
    engined.assert_answers("tiny-a");
    let body = json!({"model": "cpu", "prompt": "hello"});
    let reply = Ask::post("/v1/completions", &body).reply(engined.daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert!(families(engined.port).is_empty(), "vLLM has gone before");
    assert_eq!(ollama.loaded(), ["tiny-p:latest"]);
    engined.assert_answers("tiny-a");
    assert!(ollama.loaded().is_empty(), "it was on the GPU");
}

#[test]
fn thirty_two_clients_of_both_are_all_answered_and_never_are_both_there() {
    const CLIENTS: usize = 32;
    const ROUNDS: usize = 4;
    let _alone = crate::support::alone();
    let ollama = ollama();
    let engined = house(&ollama).set("scheduler", "max_swap_wait_s", 1).start();
    let models = ["tiny-a", "o", "tiny-b", "p"];
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (engine, asked, done) = (&engined, &answered, &stop);
    thread::scope(|scope| {
        let watching = scope.spawn(|| watch(engine, &ollama, done));
        let client = |number: usize| {
            move || {
                for round in 0..ROUNDS {
                    let model = models[(number + round) % models.len()];
                    let reply = hello(model, !(number + round).is_multiple_of(3), json!({}))
                        .reply(engine.daemon.addr());
                    assert_eq!(reply.status(), 200, "{model}: {}", reply.text());
                    let served = model.replace('o', "tiny-o").replace('p', "tiny-p");
                    assert_eq!(text_of(&reply), greeting(&served), "{}", reply.text());
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(client(number))).collect();
        let ended: Vec<bool> = clients.into_iter().map(|client| client.join().is_ok()).collect();
        stop.store(true, Ordering::SeqCst);
        let (looks, both) = watching.join().expect("looks");
        assert!(ended.iter().all(|well| *well));
        assert!(looks > 20, "only {looks} looks");
        assert_eq!(both, 0, "both held the GPU");
    });
    assert_eq!(answered.load(Ordering::SeqCst), CLIENTS * ROUNDS);
    let lines = engined.daemon.log_lines(CLIENTS * ROUNDS);
    assert!(lines.iter().all(|line| line["status"] == 200 && line["error"].is_null()));
}
