//! A wrong entry, or somebody else's server, does a service no harm.

use super::*;

#[test]
fn a_request_for_a_dead_backend_leaves_the_service_of_another_alone() {
    let service = Service::new(&[]);
    let down = free_port();
    let daemon = service
        .setup("")
        .entry(
            json!({"name": "tiny-d", "backend": "gguf", "chat_template": {"source": "embedded"}, 
            "backend_config": {"host": "127.0.0.1", "port": down}}),
        )
        .start();
    assert_answers(&daemon);
    let first = pid(&daemon);
    for _ in 0..2 {
        let error = hello("tiny-d", false, json!({}))
            .reply(daemon.addr())
            .error(502, "err_backend_unavailable");
        let told = error["message"].as_str().expect("a text");
        assert!(told.contains("llama") && told.contains(&down.to_string()), "{error}");
        assert!(error["hint"].as_str().expect("a text").contains("entry"), "{error}");
        assert_answers(&daemon);
    }
    // Nor does it stick: by hand it is the service that is asked for.
    let reply = order(&daemon, "start", &json!({"service": "llama"}));
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!((pid(&daemon), Service::starts(&daemon)), (first, 1));
}

#[test]
fn a_start_for_a_wrong_entry_is_good_for_the_right_one() {
    let service = Service::new(&["--sim-load-ms", "500"]);
    let down = free_port();
    let daemon = service
        .setup(", grace_period_s = 20.0")
        .entry(
            json!({"name": "tiny-d", "backend": "gguf", "chat_template": {"source": "embedded"}, 
            "backend_config": {"host": "127.0.0.1", "port": down}}),
        )
        .start();
    // It comes up, if not where this one needs it.
    let begun = Instant::now();
    let error = hello("tiny-d", false, json!({}))
        .reply(daemon.addr())
        .error(502, "err_backend_unavailable");
    assert!(error["message"].as_str().expect("a text").contains("nothing listens"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let first = pid(&daemon);
    assert_eq!(status(&daemon)["services"]["llama"]["state"], "ready");
    assert_answers(&daemon);
    hello("tiny-d", false, json!({})).reply(daemon.addr()).error(502, "err_backend_unavailable");
    assert_answers(&daemon);
    assert_eq!((pid(&daemon), Service::starts(&daemon)), (first, 1));
}

#[test]
fn nothing_is_started_for_a_backend_of_another_machine() {
    let service = Service::new(&[]);
    let daemon = service
        .setup("")
        .entry(
            json!({"name": "tiny-far", "backend": "gguf", "chat_template": {"source": "embedded"}, 
            "backend_config": {"host": "far.invalid", "port": 1}}),
        )
        .start();
    let error = hello("tiny-far", false, json!({}))
        .reply(daemon.addr())
        .error(502, "err_backend_unavailable");
    assert!(error["message"].as_str().expect("a text").contains("far.invalid"), "{error}");
    assert_eq!(Service::starts(&daemon), 0);
}
