//! Backends behind HTTPS.

use serde_json::{Value, json};

use crate::support::tls::TlsUpstream;
use crate::support::{Ask, Setup, vllm};

fn entry(upstream: &TlsUpstream, ca_file: Option<String>) -> Value {
    json!({"name": "m", "backend": "openai", "backend_config": {
        "base_url": upstream.base_url(), "ca_file": ca_file, "api_key_env": "BACKEND_KEY"}})
}

#[test]
fn a_backend_with_a_known_authority_is_asked_with_its_own_key() {
    let upstream = TlsUpstream::answering("application/json", r#"{"data": []}"#);
    let dir = tempfile::tempdir().expect("a directory");
    let authority = TlsUpstream::write_authority(dir.path());
    let daemon = Setup::new()
        .entry(entry(&upstream, Some(authority)))
        .env("BACKEND_KEY", "backend-secret")
        .start();
    let reply = Ask::post("/v1/embeddings", &json!({"model": "m", "input": "x"}))
        .header("authorization", "Bearer client-secret")
        .reply(daemon.addr());
    assert_eq!((reply.status(), reply.text().as_str()), (200, r#"{"data": []}"#));
    let head = upstream.heads().remove(0).to_lowercase();
    assert!(head.starts_with("post /v1/embeddings "), "{head}");
    assert!(head.contains("authorization: bearer backend-secret"), "{head}");
    assert!(!head.contains("client-secret"), "{head}");
}

#[test]
fn a_stream_comes_through_it() {
    let stream: &'static str = vllm::stream(&["a", "b"]).concat().leak();
    let upstream = TlsUpstream::answering("text/event-stream", stream);
    let dir = tempfile::tempdir().expect("a directory");
    let authority = TlsUpstream::write_authority(dir.path());
    let daemon =
        Setup::new().entry(entry(&upstream, Some(authority))).env("BACKEND_KEY", "k").start();
    let body = json!({"model": "m", "stream": true, "messages": [],
        "stream_options": {"include_usage": true}});
    let reply = Ask::chat(body.to_string()).reply(daemon.addr());
    assert_eq!((reply.status(), reply.text().as_str()), (200, stream));
}

#[test]
fn an_authority_that_nobody_named_is_not_trusted() {
    let upstream = TlsUpstream::answering("application/json", "{}");
    let daemon = Setup::new().entry(entry(&upstream, None)).env("BACKEND_KEY", "secret").start();
    let ask = Ask::post("/tokenize", &json!({"model": "m", "prompt": "x"}));
    let error = ask.reply(daemon.addr()).error(502, "err_backend_unavailable");
    assert!(error["message"].as_str().expect("a text").contains("ertificate"), "{error}");
    assert!(upstream.heads().is_empty(), "the key was not told");
}
