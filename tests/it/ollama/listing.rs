//! What is said of Ollama's models, and orders by hand.

use super::*;

fn states(daemon: &Daemon) -> Vec<(String, String)> {
    let models = Ask::get("/v1/models").reply(daemon.addr()).json();
    let state = |model: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&model["id"]), text(&model["extensions"]["state"]))
    };
    models["data"].as_array().expect("a list").iter().map(state).collect()
}

#[track_caller]
fn wait_state(daemon: &Daemon, model: &str, state: &str) {
    eventually(&format!("{model} is {state}"), BOUND, || {
        states(daemon).contains(&(model.to_owned(), state.to_owned())).then_some(())
    });
}

fn order(daemon: &Daemon, path: &str, body: &Value) -> crate::support::Reply {
    Ask::post(&format!("/v1/backends/ollama/{path}"), body).reply(daemon.addr())
}

#[test]
fn the_list_tells_what_ollama_has_and_has_loaded() {
    let ollama = Ollama::start("tiny-a,tiny-think", &[]);
    let bare = json!({"name": "not-there", "backend": "ollama",
        "backend_config": {"base_url": ollama.base()}});
    let daemon = setup(&ollama).entry(bare).start();
    wait_state(&daemon, "tiny-a", "stopped");
    wait_state(&daemon, "tiny-embed", "missing");
    // Without a served id, and not among Ollama's: not installed.
    assert!(states(&daemon).iter().all(|(name, _)| name != "not-there"));
    let models = Ask::get("/v1/models/tiny-think").reply(daemon.addr()).json();
    assert_eq!(models["extensions"]["capabilities"]["reasoning"], true);
    ask("tiny-a", json!({})).reply(daemon.addr());
    wait_state(&daemon, "tiny-a", "ready");
}

#[test]
fn models_are_loaded_and_unloaded_by_hand() {
    let ollama = Ollama::start(MODELS, &["--sim-load-ms", "100", "--sim-unload-ms", "100"]);
    let daemon = daemon(&ollama);
    let reply = order(&daemon, "load", &json!({"model": "tiny-a", "wait": true}));
    assert_eq!((reply.status(), &reply.json()["state"]), (200, &json!("ready")));
    assert_eq!(ollama.loaded(), ["tiny-a:latest"]);
    let reply = order(&daemon, "load", &json!({"model": "tiny-think"}));
    assert_eq!((reply.status(), &reply.json()["state"]), (202, &json!("loading")));
    eventually("both are loaded", BOUND, || (ollama.loaded().len() == 2).then_some(()));

    let backends = eventually("the list of backends", BOUND, || {
        let all = Ask::get("/v1/backends").reply(daemon.addr()).json();
        let line = all["backends"].as_array()?.iter().find(|b| b["kind"] == "ollama")?.clone();
        (line["models"].as_array()?.len() == 2).then_some(line)
    });
    assert_eq!((&backends["state"], &backends["shares_gpu"]), (&json!("ready"), &json!(true)));
    assert_eq!(backends["port"], ollama.addr().port());

    let reply = order(&daemon, "unload", &json!({"model": "tiny-a"}));
    assert_eq!(reply.json(), json!({"status": "unloaded", "models": ["tiny-a:latest"]}));
    assert_eq!(ollama.loaded(), ["tiny-think:latest"]);
    order(&daemon, "unload", &json!({}));
    eventually("nothing is loaded", BOUND, || ollama.loaded().is_empty().then_some(()));
    eventually("nothing is there to be unloaded, which is no error", BOUND, || {
        let reply = order(&daemon, "unload", &json!({}));
        (reply.json()["status"] == "unloaded").then_some(())
    });
    order(&daemon, "load", &json!({"model": "nobody"})).error(404, "err_model_not_found");
}

#[test]
fn a_model_that_only_embeds_is_loaded_too() {
    let ollama = Ollama::start(MODELS, &[]);
    let daemon = daemon(&ollama);
    let reply = order(&daemon, "load", &json!({"model": "tiny-embed", "wait": true}));
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(ollama.loaded(), ["tiny-embed:latest"]);
}

#[test]
fn one_model_is_not_unloaded_by_force() {
    let ollama = Ollama::start(MODELS, &[]);
    let daemon = daemon(&ollama);
    let reply = order(&daemon, "unload", &json!({"model": "tiny-a", "force": true}));
    let error = reply.error(400, "err_invalid_request");
    assert_eq!(error["param"], "force");
}

#[test]
fn an_order_to_unload_waits_for_what_runs_or_ends_it() {
    let ollama = Ollama::start(MODELS, &[]);
    let daemon = daemon(&ollama);
    let slow = json!({"tokens": 5000, "delay_token_ms": 10});
    ollama.order(json!({"on": "/api/chat", "fault": slow}));
    let mut client = ask("tiny-a", json!({"stream": true})).open(daemon.addr());
    client.head();
    client.read_until("tok0");
    let reply = order(&daemon, "unload", &json!({}));
    assert_eq!((reply.status(), &reply.json()["status"]), (202, &json!("draining")));
    assert_eq!(reply.json()["waits_for"]["in_flight"], 1);
    let reply = order(&daemon, "unload", &json!({"force": true}));
    assert_eq!((reply.status(), &reply.json()["status"]), (202, &json!("stopping")));
    let (pieces, _) = client.rest();
    let text: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.data).collect();
    assert!(String::from_utf8_lossy(&text).contains("err_backend_unavailable"));
    eventually("nothing is loaded", BOUND, || ollama.loaded().is_empty().then_some(()));
}
