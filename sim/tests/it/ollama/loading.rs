//! How models come into memory and go.

use std::time::Duration;

use serde_json::json;
use sim_engine::Ollama;

use super::{
    body, chat, get, lines, load, models, ollama, order, post, ps, release, slow, wait_models,
    whole, with,
};
use crate::client::{Client, find, wait_for};

/// A load that no test waits out.
const ENDLESS: u64 = 600_000;

#[test]
fn a_model_is_loaded_by_its_first_request_and_used_by_the_next() {
    let engine = slow(30);
    let first = whole(&engine, "tiny-a", "hello", &json!({}));
    assert!(first["load_duration"].as_u64().unwrap() >= 30_000_000);
    let second = whole(&engine, "TINY-A:latest", "hello", &json!({}));
    assert!(second["load_duration"].as_u64() < first["load_duration"].as_u64());
    let stats = models(&engine);
    assert_eq!((stats.loaded, stats.loads), (vec!["tiny-a:latest".to_owned()], 1));
    // Another one has a load of its own, and both stay.
    whole(&engine, "tiny-think", "hello", &json!({}));
    let stats = models(&engine);
    assert_eq!((stats.loads, stats.most_loaded, stats.loaded.len()), (2, 2, 2));
}

#[test]
fn requests_for_one_model_join_its_load() {
    let engine = ollama();
    order(&engine, &json!({"fault": {"load_hangs": true}}));
    let clients: Vec<Client> = (0..4)
        .map(|_| {
            let mut client = Client::connect(engine.addr());
            client.post("/api/chat", &body("tiny-a", "hello", &json!({})).to_string());
            client
        })
        .collect();
    wait_for(&engine, "all wait", |s| s.in_flight == 4);
    assert_eq!(models(&engine).loading, ["tiny-a:latest"]);
    assert_eq!(ps(&engine), Vec::<String>::new());
    release(&engine);
    for mut client in clients {
        assert_eq!(lines(&client.response()).last().unwrap()["done"], true);
    }
    assert_eq!(models(&engine).loads, 1);
}

#[test]
fn a_model_that_loads_is_listed_if_that_is_wanted() {
    let engine = with(Ollama { load_ms: ENDLESS, ps_loading: true, ..Ollama::default() });
    let mut client = Client::connect(engine.addr());
    client.post("/api/chat", &json!({"model": "tiny-a"}).to_string());
    wait_models(&engine, "it loads", |m| !m.loading.is_empty());
    assert_eq!(ps(&engine), ["tiny-a:latest"]);
}

#[test]
fn an_order_to_load_answers_when_it_is_loaded() {
    let engine = slow(30);
    for (path, more) in
        [("/api/chat", json!({"messages": []})), ("/api/generate", json!({"prompt": ""}))]
    {
        let mut body = json!({"model": "tiny-a", "stream": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let response = post(&engine, path, &body);
        assert_eq!(response.header("content-type"), Some("application/json; charset=utf-8"));
        let told = response.json();
        assert_eq!((&told["done"], &told["done_reason"]), (&json!(true), &json!("load")));
        let said = told.pointer("/message/content").or(told.get("response"));
        assert_eq!(said, Some(&json!("")));
        assert_eq!(ps(&engine), ["tiny-a:latest"]);
    }
    assert_eq!(models(&engine).loads, 1);
}

#[test]
fn an_order_to_unload_answers_before_the_memory_is_free() {
    let engine = ollama();
    order(&engine, &json!({"fault": {"unload_hangs": true}}));
    load(&engine, "tiny-a", &json!({}));
    let told = load(&engine, "tiny-a", &json!({"messages": [], "keep_alive": 0}));
    assert_eq!((&told["done"], &told["done_reason"]), (&json!(true), &json!("unload")));
    assert_eq!(ps(&engine), ["tiny-a:latest"]);
    assert_eq!(models(&engine).unloads, 0);
    release(&engine);
    let stats = wait_models(&engine, "it is gone", |m| m.loaded.is_empty());
    assert_eq!((stats.unloads, ps(&engine).len()), (1, 0));
    // What is not loaded can be told to go as well.
    let told = load(&engine, "tiny-a", &json!({"keep_alive": "0"}));
    assert_eq!(told["done_reason"], "unload");
    assert_eq!(models(&engine).loads, 1);
}

#[test]
fn an_unloaded_model_serves_those_who_have_it() {
    let engine = ollama();
    let mut client = Client::connect(engine.addr());
    let sim = json!({"sim": {"hang_after_events": 2}});
    client.post("/api/chat", &body("tiny-a", "count", &sim).to_string());
    client.until(|b| find(b, b" 2").is_some());
    assert_eq!(load(&engine, "tiny-a", &json!({"keep_alive": 0}))["done_reason"], "unload");
    assert_eq!(ps(&engine), ["tiny-a:latest"]);
    assert_eq!(models(&engine).unloads, 0);
    drop(client);
    wait_models(&engine, "it goes with its last client", |m| m.unloads == 1 && m.loaded.is_empty());
    wait_for(&engine, "the client is gone", |s| s.aborted == 1 && s.in_flight == 0);
}

#[test]
fn a_model_goes_when_it_was_not_used_for_so_long() {
    let engine = with(Ollama { keep_alive: Duration::from_millis(20), ..Ollama::default() });
    whole(&engine, "tiny-a", "hello", &json!({}));
    wait_models(&engine, "it goes by itself", |m| m.unloads == 1);
    // Requests say for how long from then on, and what they leave open stays as it was.
    whole(&engine, "tiny-a", "hello", &json!({"keep_alive": "1h"}));
    whole(&engine, "tiny-a", "hello", &json!({}));
    whole(&engine, "tiny-think", "hello", &json!({"keep_alive": -1}));
    whole(&engine, "tiny-vision", "hello", &json!({"keep_alive": 0}));
    let stats = wait_models(&engine, "the last one goes", |m| m.unloads == 2);
    assert_eq!(stats.loaded, ["tiny-a:latest", "tiny-think:latest"]);
}

#[test]
fn other_options_for_the_load_load_it_anew() {
    let engine = ollama();
    load(&engine, "tiny-a", &json!({"options": {"num_ctx": 8192}}));
    load(&engine, "tiny-a", &json!({"options": {"num_ctx": 8192, "temperature": 0}}));
    assert_eq!((models(&engine).loads, models(&engine).reloads), (1, 0));
    // What is not said is the default, which is another context.
    load(&engine, "tiny-a", &json!({}));
    let stats = models(&engine);
    assert_eq!((stats.loads, stats.reloads, stats.unloads, stats.most_loaded), (2, 1, 1, 1));
    assert_eq!(get(&engine, "/api/ps").json()["models"][0]["context_length"], 4096);
}

#[test]
fn a_reload_waits_for_those_who_use_the_model() {
    let engine = ollama();
    let mut first = Client::connect(engine.addr());
    let sim = json!({"sim": {"hang_after_events": 2}});
    first.post("/api/chat", &body("tiny-a", "count", &sim).to_string());
    first.until(|b| find(b, b" 2").is_some());
    let mut second = Client::connect(engine.addr());
    let more = json!({"options": {"num_ctx": 8192}, "stream": false});
    second.post("/api/chat", &body("tiny-a", "hello", &more).to_string());
    wait_models(&engine, "a reload is due", |m| m.reloads == 1);
    assert_eq!(models(&engine).loads, 1);
    drop(first);
    assert_eq!(second.response().json()["done"], true);
    let stats = models(&engine);
    assert_eq!((stats.loads, stats.most_loaded), (2, 1));
}

#[test]
fn a_client_that_leaves_ends_its_answer_and_its_load() {
    let engine = slow(ENDLESS);
    let mut client = Client::connect(engine.addr());
    client.post("/api/chat", &body("tiny-a", "hello", &json!({})).to_string());
    wait_models(&engine, "it loads", |m| m.loading.len() == 1);
    drop(client);
    wait_for(&engine, "it is noticed", |s| s.aborted == 1 && s.in_flight == 0);
    let stats = wait_models(&engine, "the load is given up", |m| m.loading.is_empty());
    assert_eq!((stats.loaded.len(), stats.loads, stats.unloads), (0, 1, 0));
    let mut client = Client::connect(engine.addr());
    let sim = json!({"sim": {"load_ms": 0, "delay_token_ms": ENDLESS}});
    client.post("/api/chat", &body("tiny-a", "count", &sim).to_string());
    client.until(|b| find(b, b"\"content\":\"1\"").is_some());
    drop(client);
    wait_for(&engine, "the answer ends", |s| s.aborted == 2 && s.in_flight == 0);
    assert_eq!(models(&engine).loaded, ["tiny-a:latest"]);
}

#[test]
fn a_load_goes_on_for_those_who_stay() {
    let engine = ollama();
    order(&engine, &json!({"fault": {"load_hangs": true}}));
    let mut clients: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = Client::connect(engine.addr());
            client.post("/api/chat", &json!({"model": "tiny-a"}).to_string());
            client
        })
        .collect();
    wait_for(&engine, "both wait", |s| s.in_flight == 2);
    clients.remove(0);
    wait_for(&engine, "one is gone", |s| s.aborted == 1);
    release(&engine);
    assert_eq!(clients[0].response().json()["done_reason"], "load");
    assert_eq!(models(&engine).loads, 1);
}

#[test]
fn a_counter_can_be_reset_and_what_is_loaded_stays() {
    let engine = ollama();
    chat(&engine, "tiny-a", "hello", &json!({}));
    post(&engine, "/sim/reset", &json!({}));
    let told = get(&engine, "/sim/stats").json();
    assert_eq!(told["loaded"], json!(["tiny-a:latest"]));
    assert_eq!((&told["loads"], &told["posts_total"]), (&json!(0), &json!(0)));
}
