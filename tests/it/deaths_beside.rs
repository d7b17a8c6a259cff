//! What the death of an actor costs where Ollama and services are at work: an answer at the worst,
//! and never the rule that one alone holds the GPU.

use std::thread;

use serde_json::json;

use crate::support::engines::{Engined, greeting, hello, text_of};
use crate::support::ollama::Ollama;
use crate::support::{Ask, BOUND, Daemon, Engines, eventually};

fn explode(daemon: &Daemon, actor: &str) {
    let told = Ask::post(&format!("/v1/debug/panic/{actor}"), &json!({})).reply(daemon.addr());
    assert_eq!(told.status(), 204, "{}", told.text());
}

fn wait_rebuilt(it: &Engined, actor: &str) {
    let figure = format!("imageworks_proxy_actor_restarts_total{{actor=\"{actor}\"}}");
    eventually("the actor is rebuilt", BOUND, || it.figure(&figure).filter(|n| *n >= 1.0));
}

fn house(ollama: &Ollama) -> Engined {
    Engines::two()
        .set("ollama", "ollama_base_url", format!("{:?}", ollama.base()))
        .entry(json!({"name": "o", "backend": "ollama", "served_model_id": "tiny-o"}))
        .start()
}

#[test]
fn a_load_goes_on_when_whoever_ordered_it_dies() {
    let ollama = Ollama::start("tiny-o", &[]);
    let it = house(&ollama);
    ollama.order(json!({"on": "/api/chat", "fault": {"load_ms": 700}, "times": 1}));
    thread::scope(|scope| {
        let asking = scope.spawn(|| it.hello("o"));
        eventually("it loads", BOUND, || {
            (ollama.stats()["loading"].as_array().map(Vec::len) == Some(1)).then_some(())
        });
        explode(&it.daemon, "ollama");
        let reply = asking.join().expect("an answer");
        assert_eq!(reply.status(), 200, "{}", reply.text());
        assert_eq!(text_of(&reply), greeting("tiny-o"));
    });
    wait_rebuilt(&it, "ollama");
    assert_eq!(it.hello("o").status(), 200);
}

#[test]
fn an_order_to_give_the_gpu_back_survives_whoever_carries_it() {
    let ollama = Ollama::start("tiny-o", &[]);
    let it = house(&ollama);
    assert_eq!(it.hello("o").status(), 200);
    ollama.order(json!({"on": "/api/chat", "fault": {"unload_hangs": true}}));
    thread::scope(|scope| {
        let asking = scope.spawn(|| it.hello("tiny-a"));
        eventually("Ollama is told", BOUND, || {
            let told = ollama.asked("/api/chat").into_iter();
            told.into_iter().any(|ask| ask["body"]["keep_alive"] == 0).then_some(())
        });
        explode(&it.daemon, "ollama");
        wait_rebuilt(&it, "ollama");
        assert!(it.starts().is_empty(), "Ollama still holds the GPU");
        ollama.release();
        let reply = asking.join().expect("an answer");
        assert_eq!(reply.status(), 200, "{}", reply.text());
        assert_eq!(text_of(&reply), greeting("tiny-a"));
    });
    assert!(ollama.loaded().is_empty());
}

#[test]
fn a_new_arbiter_waits_for_the_streams_of_ollama() {
    let ollama = Ollama::start("tiny-o", &[]);
    let it = house(&ollama);
    ollama.order(json!({"on": "/api/chat", "fault": {"tokens": 150, "delay_token_ms": 10}}));
    let mut stream = hello("o", true, json!({})).open(it.daemon.addr());
    stream.head();
    stream.read_until("tok0");
    thread::scope(|scope| {
        let asking = scope.spawn(|| it.hello("tiny-a"));
        it.wait_queue(1);
        explode(&it.daemon, "arbiter");
        wait_rebuilt(&it, "arbiter");
        it.wait_queue(1);
        assert!(it.starts().is_empty());
        let told = stream.read_until("[DONE]");
        assert!(String::from_utf8_lossy(&told).contains("tok149"));
        let reply = asking.join().expect("an answer");
        assert_eq!(text_of(&reply), greeting("tiny-a"), "{}", reply.text());
    });
    assert!(ollama.loaded().is_empty());
}
