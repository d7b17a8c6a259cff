//! Orders about engines: activate, deactivate (SPEC 2, 6.6).

use serde_json::{Value, json};

use crate::support::{Ask, End, Engines, sse};

#[test]
fn what_is_asked_for_by_hand_is_done_and_told() {
    let it = Engines::two().start();
    let accepted = it.order("activate", json!({"model": "tiny-b"}));
    assert_eq!(accepted.status(), 202, "{}", accepted.text());
    assert_eq!(accepted.json()["state"], "loading");
    it.wait_engine("ready");
    let done = it.order("activate", json!({"model": "tiny-a", "wait": true}));
    assert_eq!((done.status(), &done.json()["state"]), (200, &json!("ready")));
    assert_eq!(it.starts(), ["tiny-b", "tiny-a"]);
    let shown = it.backends();
    assert_eq!(shown["resident"], "tiny-a");
    let engine = &shown["backends"][0];
    assert_eq!((&engine["kind"], &engine["port"]), (&json!("vllm"), &json!(it.port)));
    assert_eq!((&engine["restarts"], &engine["last_error"]), (&json!(0), &Value::Null));
    assert_eq!(it.figure("imageworks_proxy_backend_up{backend=\"vllm\"}"), Some(1.0));
    let stopped = it.order("deactivate", json!({}));
    assert_eq!((stopped.status(), &stopped.json()["status"]), (202, &json!("stopping")));
    it.wait_engine("stopped");
    assert_eq!(it.order("deactivate", json!({})).json()["status"], "idle");
    assert_eq!(it.figure("imageworks_proxy_backend_up{backend=\"vllm\"}"), Some(0.0));
    it.assert_nothing_left();
    it.order("activate", json!({"model": "no-such"})).error(404, "err_model_not_found");
    it.order("activate", json!({})).error(400, "err_invalid_request");
    it.order("activate", json!({"model": "tiny-a", "wiat": true}))
        .error(400, "err_invalid_request");
    let text =
        Ask::new("POST", "/v1/backends/vllm/deactivate").header("content-type", "text/plain");
    text.body("{}").reply(it.daemon.addr()).error(400, "err_invalid_request");
}

#[test]
fn a_stop_by_hand_lets_streams_finish_and_force_ends_them() {
    let it = Engines::two().start();
    it.assert_answers("tiny-a");
    let mut stream = it.stream("tiny-a", 40);
    let draining = it.order("deactivate", json!({"force": false})).json();
    assert_eq!(
        (&draining["status"], &draining["waits_for"]["in_flight"]),
        (&json!("draining"), &json!(1))
    );
    assert_eq!(stream.rest().1, End::Whole);
    it.wait_engine("stopped");
    it.assert_answers("tiny-a");
    let mut endless = it.stream("tiny-a", 100_000);
    let forced = it.order("deactivate", json!({"force": true})).json();
    assert_eq!(forced["status"], "stopping");
    let (pieces, end) = endless.rest();
    assert_eq!(end, End::Whole);
    let body: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.data).collect();
    // The first events have been read already.
    let rest = body.windows(6).position(|window| window == b"data: ").unwrap();
    sse::broken(&body[rest..], "err_backend_unavailable", 502);
    it.wait_engine("stopped");
    it.assert_nothing_left();
}

#[test]
fn with_autostart_off_requests_start_nothing_and_hands_do() {
    let it = Engines::two().set("autostart", "autostart_enabled", false).start();
    let error = it.hello("tiny-a").error(502, "err_backend_unavailable");
    assert!(error["hint"].as_str().unwrap().contains("autostart_enabled"), "{error}");
    assert_eq!(it.order("activate", json!({"model": "tiny-a", "wait": true})).status(), 200);
    it.assert_answers("tiny-a");
    it.hello("tiny-b").error(502, "err_backend_unavailable");
    assert_eq!(it.starts(), ["tiny-a"]);
}
