//! Leases of the GPU over HTTP: the shapes that clients hold on to, and what a killed daemon costs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::engines::{Engined, families, greeting, text_of};
use crate::support::ollama::Ollama;
use crate::support::{Ask, BOUND, Engines, Reply, eventually, repeats};

fn post(engined: &Engined, path: &str, body: &Value) -> Reply {
    Ask::post(&format!("/v1/gpu/{path}"), body).reply(engined.daemon.addr())
}

fn status(engined: &Engined) -> Value {
    Ask::get("/v1/gpu/status").reply(engined.daemon.addr()).json()
}

/// Leases the GPU; answers the token.
#[track_caller]
fn lease(engined: &Engined, more: Value) -> String {
    let mut body = json!({"owner": "judge"});
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    let reply = post(engined, "lease", &body);
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply.json()["token"].as_str().expect("a token").to_owned()
}

/// SIGKILL, and the next daemon in its place.
#[track_caller]
fn again(engined: &mut Engined) {
    engined.daemon.kill();
    engined.daemon.restart();
}

/// A new daemon takes the lease over as it is.
#[test]
fn a_lease_outlives_an_upgrade() {
    let mut engined = Engines::two().start();
    engined.assert_answers("tiny-a");
    let token = lease(&engined, json!({"ttl_s": 60}));
    let before = status(&engined);
    engined.daemon.upgrade_by_its_log();
    let after = eventually("the lease is known", BOUND, || {
        Some(status(&engined)).filter(|status| status["leased"] == true)
    });
    assert_eq!(after["lease"]["expires_at"], before["lease"]["expires_at"], "{before} {after}");
    assert_eq!(chat_with(&engined, "tiny-a", "none").status(), 423);
    let reply = post(&engined, "release", &json!({"token": token}));
    assert_eq!(reply.status(), 200, "{}", reply.text());
    engined.assert_answers("tiny-a");
    assert_eq!(engined.daemon.wait_exit(BOUND).code(), Some(0));
}

/// A chat request whose sender shows a token.
fn chat_with(engined: &Engined, model: &str, token: &str) -> Reply {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
    Ask::post("/v1/chat/completions", &body)
        .header("x-gpu-lease-token", token)
        .reply(engined.daemon.addr())
}

#[test]
fn a_lease_stops_the_engine_and_gives_it_back() {
    let engined = Engines::two().start();
    assert_eq!(status(&engined), json!({"leased": false}));
    engined.assert_answers("tiny-a");
    let body = json!({"owner": "judge", "reason": "judging", "ttl_s": 60});
    let reply = post(&engined, "lease", &body);
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let (token, lease) = (reply.json()["token"].clone(), reply.json()["lease"].clone());
    assert!(families(engined.port).is_empty(), "the engine has gone before the answer");
    assert_eq!((&lease["owner"], &lease["reason"]), (&json!("judge"), &json!("judging")));
    assert_eq!(lease["restart_model"], true);
    let (granted, expires) = (lease["granted_at"].as_f64(), lease["expires_at"].as_f64());
    let lives = expires.expect("a time") - granted.expect("a time");
    assert!((59.0..=60.5).contains(&lives), "{lives}");
    let saved = &lease["saved_model"];
    assert_eq!((&saved["logical_name"], &saved["port"]), (&json!("tiny-a"), &json!(engined.port)));
    assert!(saved["pid"].is_i64() && saved["started_at"].is_f64(), "{saved}");
    let shown = status(&engined);
    assert_eq!((&shown["leased"], &shown["lease"]["token"]), (&json!(true), &token));

    let reply = engined.hello("tiny-a");
    let error = reply.error(423, "err_gpu_lease_active");
    assert!(error["message"].as_str().expect("a text").contains("judge"), "{error}");
    let wait: u64 = reply.head.get("retry-after").expect("advice").parse().expect("seconds");
    assert!((1..=30).contains(&wait), "{wait}");

    let second = post(&engined, "lease", &json!({"owner": "somebody"}));
    second.error(409, "err_gpu_lease_busy");
    assert!(second.json()["detail"].as_str().expect("a text").contains("judge"));
    let wrong = post(&engined, "release", &json!({"token": "guess"}));
    wrong.error(400, "err_lease_token");
    assert!(wrong.json()["detail"].is_string());
    let reply = post(&engined, "release", &json!({"token": token}));
    assert_eq!(reply.json(), json!({"status": "released"}));
    assert_eq!(status(&engined), json!({"leased": false}));
    eventually("the model is back", BOUND, || (engined.engine()["state"] == "ready").then_some(()));
    assert_eq!(engined.starts(), ["tiny-a", "tiny-a"]);
    engined.assert_answers("tiny-a");
}

#[test]
fn running_answers_finish_first_and_its_holder_passes() {
    let engined = Engines::two().start();
    let mut stream = engined.stream("tiny-a", 400);
    std::thread::scope(|scope| {
        let leasing = scope.spawn(|| lease(&engined, json!({"restart_model": false})));
        eventually("newcomers are refused", BOUND, || {
            (engined.hello("tiny-a").status() == 423).then_some(())
        });
        assert!(!leasing.is_finished());
        stream.read_until("[DONE]");
        let token = leasing.join().expect("a lease");
        let reply = chat_with(&engined, "tiny-b", &token);
        assert_eq!(reply.status(), 200, "{}", reply.text());
        assert_eq!(text_of(&reply), greeting("tiny-b"));
        chat_with(&engined, "tiny-b", "guess").error(423, "err_gpu_lease_active");
        let forced = post(&engined, "force_release", &json!({"owner": "somebody"}));
        forced.error(409, "err_gpu_lease_busy");
        let forced = post(&engined, "force_release", &json!({"max_age": 3600}));
        forced.error(409, "err_gpu_lease_busy");
        let forced = post(&engined, "force_release", &json!({"owner": "judge", "max_age": 0}));
        assert_eq!(forced.json(), json!({"status": "released"}));
        assert_eq!(post(&engined, "force_release", &json!({})).json(), json!({"status": "idle"}));
        chat_with(&engined, "tiny-b", &token).json();
    });
    assert_eq!(engined.starts(), ["tiny-a", "tiny-b"]);
}

#[test]
fn a_lease_is_renewed_and_dies_of_age() {
    let engined = Engines::two().start();
    let token = lease(&engined, json!({"ttl_s": 0.8}));
    let begun = Instant::now();
    let reply = post(&engined, "renew", &json!({"token": token, "ttl_s": 1.5}));
    assert_eq!(reply.json()["status"], "renewed", "{}", reply.text());
    eventually("it has died", BOUND, || (status(&engined)["leased"] == false).then_some(()));
    assert!(begun.elapsed() >= Duration::from_millis(1400), "{:?}", begun.elapsed());
    post(&engined, "renew", &json!({"token": token})).error(400, "err_lease_token");
    engined.assert_answers("tiny-a");
}

#[test]
fn orders_that_make_no_sense_are_refused_with_what_is_wrong() {
    let engined = Engines::two().start();
    for (path, body, told) in [
        ("lease", json!({}), "owner"),
        ("lease", json!({"owner": ""}), "owner"),
        ("lease", json!({"owner": "x".repeat(65)}), "owner"),
        ("lease", json!({"owner": "judge", "ttl_s": 0}), "ttl_s"),
        ("lease", json!({"owner": "judge", "ttl_s": 1e12}), "ttl_s"),
        ("renew", json!({}), "token"),
        ("release", json!({"token": 7}), "string"),
        ("force_release", json!({"max_age": -1}), "max_age"),
        ("unload_all", json!({"sorce": true}), "sorce"),
    ] {
        let reply = post(&engined, path, &body);
        let error = reply.error(400, "err_invalid_request");
        assert!(error["message"].as_str().expect("a text").contains(told), "{body}: {error}");
        assert_eq!(reply.json()["detail"], error["message"]);
    }
    assert_eq!(status(&engined), json!({"leased": false}));
}

/// What costs comes last: the images of a request that is refused anyway are not even measured.
#[test]
fn a_refusal_goes_before_the_look_at_images() {
    let url = format!("data:image/png;base64,{}", "A".repeat(4000));
    let part = json!({"type": "image_url", "image_url": {"url": url, "alt_text": "a dot"}});
    let body = json!({"model": "tiny-a", "messages": [{"role": "user", "content": [part]}]});
    let engined = Engines::two().set("limits", "max_image_bytes", 1000).start();
    let ask = || Ask::chat(body.to_string()).reply(engined.daemon.addr());
    ask().error(413, "err_payload_too_large");
    lease(&engined, json!({}));
    ask().error(423, "err_gpu_lease_active");
}

#[test]
fn requests_may_wait_for_the_end_of_a_lease() {
    let engined = Engines::two()
        .set("scheduler", "lease_wait", true)
        .set("server", "heartbeat_ms", 50)
        .start();
    let token = lease(&engined, json!({}));
    let mut waiting =
        crate::support::engines::hello("tiny-b", true, json!({})).open(engined.daemon.addr());
    waiting.head();
    waiting.read_until(": waiting");
    post(&engined, "release", &json!({"token": token}));
    waiting.read_until("[DONE]");
    assert_eq!(engined.starts(), ["tiny-b"]);
}

#[test]
fn ollama_gives_the_gpu_up_too() {
    let ollama = Ollama::start("tiny-o", &["--sim-unload-ms", "50"]);
    let engined = Engines::two()
        .set("ollama", "ollama_base_url", format!("{:?}", ollama.base()))
        .entry(json!({"name": "o", "backend": "ollama", "served_model_id": "tiny-o"}))
        .start();
    assert_eq!(engined.hello("o").status(), 200);
    let token = lease(&engined, json!({}));
    assert!(ollama.loaded().is_empty());
    engined.hello("o").error(423, "err_gpu_lease_active");
    assert_eq!(chat_with(&engined, "o", &token).status(), 200);
    post(&engined, "release", &json!({"token": token}));
    assert_eq!(engined.hello("o").status(), 200);
}

#[test]
fn everything_is_unloaded_by_hand() {
    let engined = Engines::two().start();
    engined.assert_answers("tiny-a");
    // Its answer is there a moment before it is counted as ended.
    eventually("nobody uses it", BOUND, || (engined.engine()["in_flight"] == 0).then_some(()));
    let reply = post(&engined, "unload_all", &json!({}));
    assert_eq!(reply.json()["vllm"], json!({"status": "stopping", "model": "tiny-a"}));
    assert_eq!(reply.json()["ollama"], json!({"status": "idle"}));
    eventually("nothing is left", BOUND, || families(engined.port).is_empty().then_some(()));
}

#[test]
fn an_unused_model_is_stopped_after_its_time() {
    let engined = Engines::two().set("scheduler", "idle_unload_s", 0.5).start();
    engined.assert_answers("tiny-a");
    eventually("it was stopped", BOUND, || families(engined.port).is_empty().then_some(()));
    engined.assert_answers("tiny-a");
    assert_eq!(engined.starts(), ["tiny-a", "tiny-a"]);
}

/// At each edge of a lease's life the daemon is killed; the next one must neither have lost a lease
/// that its holder knows of nor hold one that nobody knows of.
#[test]
fn a_lease_survives_the_daemons_death_at_each_edge() {
    for _ in 0..repeats() {
        held();
        acquiring();
        released();
        expired_meanwhile();
    }
}

fn held() {
    let mut engined = Engines::two().start();
    engined.assert_answers("tiny-a");
    let token = lease(&engined, json!({"ttl_s": 60}));
    again(&mut engined);
    assert_eq!(status(&engined)["lease"]["token"], json!(token), "not lost");
    engined.hello("tiny-a").error(423, "err_gpu_lease_active");
    post(&engined, "lease", &json!({"owner": "somebody"})).error(409, "err_gpu_lease_busy");
    assert_eq!(chat_with(&engined, "tiny-b", &token).status(), 200);
    // Again, with the holder's engine running: the lease wins, and its holder starts it anew.
    again(&mut engined);
    assert_eq!(chat_with(&engined, "tiny-b", &token).status(), 200);
    let reply = post(&engined, "release", &json!({"token": token}));
    assert_eq!(reply.json(), json!({"status": "released"}));
    engined.assert_answers("tiny-a");
    again(&mut engined);
    assert_eq!(status(&engined), json!({"leased": false}), "not doubled");
}

fn acquiring() {
    let mut engined = Engines::two().start();
    let mut stream = engined.stream("tiny-a", 2000);
    let body = json!({"owner": "judge"});
    let client = Ask::post("/v1/gpu/lease", &body).open(engined.daemon.addr());
    eventually("it is being acquired", BOUND, || {
        (engined.hello("tiny-a").status() == 423).then_some(())
    });
    again(&mut engined);
    drop((client, stream.rest()));
    assert_eq!(status(&engined), json!({"leased": false}), "nobody was told of one");
    engined.assert_answers("tiny-a");
}

fn released() {
    let mut engined = Engines::two().start();
    let token = lease(&engined, json!({}));
    let reply = post(&engined, "release", &json!({"token": token}));
    assert_eq!(reply.status(), 200);
    again(&mut engined);
    assert_eq!(status(&engined), json!({"leased": false}));
    post(&engined, "renew", &json!({"token": token})).error(400, "err_lease_token");
}

fn expired_meanwhile() {
    let mut engined = Engines::two().start();
    let token = lease(&engined, json!({"ttl_s": 0.7}));
    let expires = status(&engined)["lease"]["expires_at"].as_f64().expect("a time");
    engined.daemon.kill();
    eventually("its life is over, by the wall clock", BOUND, || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        (now.as_secs_f64() > expires).then_some(())
    });
    engined.daemon.restart();
    eventually("it has died", BOUND, || (status(&engined)["leased"] == false).then_some(()));
    post(&engined, "release", &json!({"token": token})).error(400, "err_lease_token");
    engined.assert_answers("tiny-a");
}
