//! Figures: names, labels, and how many there can be (SPEC 7.2).

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use serde_json::json;

use super::{count, samples};
use crate::support::daemon::entry;
use crate::support::engines::hello;
use crate::support::{Ask, BOUND, Client, Engines, Setup, Upstream, alone, eventually, vllm};

#[test]
fn ten_thousand_names_that_nobody_has_add_no_series() {
    const NAMES: usize = 10_000;
    const CLIENTS: usize = 4;
    let _alone = alone();
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let daemon = Setup::new()
        .entry(entry("tiny-a", &upstream))
        .set("server", "enable_metrics", true)
        .start();
    let junk = |n: usize| {
        let body =
            json!({"model": format!("junk-{n}"), "messages": [{"role": "user", "content": "x"}]});
        Ask::chat(body.to_string())
            .header("x-request-id", &format!("id-{n}"))
            .header("user-agent", &format!("agent-{n}"))
    };
    assert_eq!(Ask::chat(vllm::ask(false)).reply(daemon.addr()).status(), 200);
    assert_eq!(junk(0).reply(daemon.addr()).status(), 404);
    let names = |samples: BTreeMap<String, f64>| samples.into_keys().collect::<BTreeSet<_>>();
    let before = names(samples(&daemon));
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (daemon, junk) = (&daemon, &junk);
            scope.spawn(move || {
                let mut client = Client::connect(daemon.addr());
                for n in (number..NAMES).step_by(CLIENTS) {
                    client.send(&junk(n).bytes(daemon.addr()));
                    assert_eq!(client.reply().status(), 404);
                }
            });
        }
    });
    let other = "imageworks_proxy_requests_total{backend=\"other\",model=\"other\",status=\"404\"}";
    eventually("all are counted", BOUND, || (count(&daemon, other) == NAMES + 1).then_some(()));
    assert_eq!(names(samples(&daemon)), before);
}

/// SPEC 7.2's names, typed off by hand, with their types.
const SPEC: &str = "requests_total:counter request_duration_seconds:histogram \
    time_to_first_token_seconds:histogram inter_token_seconds:histogram queue_seconds:histogram \
    swap_seconds:histogram tokens_total:counter swaps_total:counter backend_restarts_total:counter \
    in_flight:gauge queue_depth:gauge backend_up:gauge errors_total:counter";

#[test]
fn every_figure_of_the_specification_is_there_and_well_formed() {
    let engines = Engines::new().model("a", &[]).model("b", &[]).start();
    let daemon = &engines.daemon;
    for model in ["a", "b"] {
        assert_eq!(
            hello(model, true, json!({"tokens": 5, "delay_token_ms": 5}))
                .reply(daemon.addr())
                .status(),
            200
        );
    }
    assert_eq!(Ask::chat("{}").reply(daemon.addr()).status(), 400);
    let b = "imageworks_proxy_requests_total{backend=\"vllm\",model=\"b\",status=\"200\"}";
    let written = "imageworks_proxy_log_records_total{outcome=\"written\"}";
    eventually("it is counted, and the records are written", BOUND, || {
        let samples = samples(daemon);
        (samples.contains_key(b) && samples.get(written) == Some(&3.0)).then_some(())
    });
    let reply = Ask::get("/metrics").reply(daemon.addr());
    assert_eq!(reply.head.get("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = reply.text();
    for figure in SPEC.split_whitespace() {
        let (name, kind) = figure.split_once(':').unwrap();
        let line = format!("# TYPE imageworks_proxy_{name} {kind}\n");
        assert_eq!(text.matches(&line).count(), 1, "{line}{text}");
        assert!(text.contains(&format!("# HELP imageworks_proxy_{name} ")), "{name}");
    }
    let samples = samples(daemon);
    for (name, value) in [
        ("resident{model=\"b\"}", 1.0),
        ("backend_up{backend=\"vllm\"}", 1.0),
        ("in_flight{model=\"a\"}", 0.0),
        ("queue_depth", 0.0),
        ("swap_seconds_count", 2.0),
        ("queue_seconds_count", 3.0),
        ("inter_token_seconds_count{backend=\"vllm\",model=\"b\"}", 1.0),
        ("time_to_first_token_seconds_count{backend=\"vllm\",model=\"b\"}", 1.0),
        ("errors_total{code=\"err_invalid_request\"}", 1.0),
        ("log_records_total{outcome=\"written\"}", 3.0),
        ("program_log_dropped_total", 0.0),
    ] {
        assert_eq!(
            samples.get(&format!("imageworks_proxy_{name}")),
            Some(&value),
            "{name}\n{text}"
        );
    }
    let lines = daemon.log_lines(3);
    let b = lines.iter().find(|line| line["model_logical"] == "b").unwrap();
    for (kind, field) in [("completion", "completion_tokens"), ("prompt", "prompt_tokens")] {
        let name = format!("imageworks_proxy_tokens_total{{kind=\"{kind}\",model=\"b\"}}");
        let tokens = b[field].as_f64().filter(|tokens| *tokens >= 5.0);
        assert_eq!(samples.get(&name), tokens.as_ref(), "{b}");
    }
    assert!(samples["process_resident_memory_bytes"] > 1e6 && samples["process_open_fds"] > 5.0);
}

#[test]
fn what_a_model_costs_is_counted() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let mut priced = entry("tiny-a", &upstream);
    priced["metadata"] =
        json!({"pricing": {"input_per_mtok": 1000.0, "output_per_mtok": 10_000.0}});
    let daemon = Setup::new().entry(priced).set("server", "enable_metrics", true).start();
    assert_eq!(Ask::chat(vllm::ask(false)).reply(daemon.addr()).status(), 200);
    // 13 tokens there, 16 back.
    let cost = 13.0 * 1000.0 / 1e6 + 16.0 * 10_000.0 / 1e6;
    assert!((daemon.log_line()["cost"].as_f64().unwrap() - cost).abs() < 1e-9);
    let name = "imageworks_proxy_cost_total{backend=\"openai\",model=\"tiny-a\"}";
    assert!((samples(&daemon)[name] - cost).abs() < 1e-9);
    let shown = Ask::get("/v1/metrics").reply(daemon.addr()).json();
    assert!((shown["cost"].as_f64().unwrap() - cost).abs() < 1e-9, "{shown}");
    assert_eq!((&shown["log"]["written"], &shown["log"]["dropped"]), (&json!(1), &json!(0)));
    assert_eq!(shown["rolling"]["count"], 1);
}
