//! Who may call, and what everybody gets: the guard, CORS, methods, paths (SPEC 2.1, 10).

use serde_json::json;

use crate::support::{Ask, Daemon, Reply, Setup, Upstream, vllm};

const PAGE: &str = "http://gui.example:3000";

fn backend() -> Upstream {
    Upstream::answering("200 OK", "application/json", vllm::WHOLE)
}

fn models(daemon: &Daemon, headers: &[(&str, &str)]) -> Reply {
    headers.iter().fold(Ask::get("/v1/models"), |ask, (n, v)| ask.header(n, v)).reply(daemon.addr())
}

#[test]
fn hosts_that_only_rebinding_would_send_are_refused() {
    let upstream = backend();
    let daemon = Setup::with(&upstream)
        .set("security", "allowed_hosts", "[\"proxy.example.com\"]")
        .set("general", "loopback_alias", "\"box.example\"")
        .start();
    for host in [
        "127.0.0.1:8100",
        "192.168.1.7",
        "[::1]:9",
        "localhost",
        "workstation:80",
        "a.localhost",
        "ws.local",
        "api.internal",
        "x.lan",
        "nas.home.arpa",
        "proxy.example.com:1",
        "box.example",
    ] {
        assert_eq!(models(&daemon, &[("host", host)]).status(), 200, "{host}");
    }
    for host in
        ["evil.example", "evil.example:8100", "localhost.evil.example", "127.0.0.1.evil.example"]
    {
        let reply = models(&daemon, &[("host", host)]);
        let error = reply.error(403, "err_forbidden");
        assert_eq!(error["type"], "permission_error");
        assert!(error["hint"].as_str().unwrap().contains("allowed_hosts"), "{error}");
        assert_eq!(reply.head.get("x-should-retry"), Some("false"));
        let chat = Ask::chat(vllm::ask(false)).header("host", host).reply(daemon.addr());
        chat.error(403, "err_forbidden");
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn web_pages_that_are_not_listed_are_refused() {
    let upstream = backend();
    let daemon =
        Setup::with(&upstream).set("security", "cors_origins", format!("[{PAGE:?}]")).start();
    for origin in
        ["http://evil.example", "null", "http://gui.example:3001", "http://gui.example:3000.x"]
    {
        let reply = models(&daemon, &[("origin", origin)]);
        reply.error(403, "err_forbidden");
        assert_eq!(reply.head.get("access-control-allow-origin"), None);
    }
    models(&daemon, &[("sec-fetch-site", "cross-site")]).error(403, "err_forbidden");
    for site in ["same-origin", "none"] {
        assert_eq!(models(&daemon, &[("sec-fetch-site", site)]).status(), 200);
    }
    let reply = models(&daemon, &[("origin", PAGE), ("sec-fetch-site", "cross-site")]);
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.head.get("access-control-allow-origin"), Some(PAGE));
    assert!(reply.head.get("vary").is_some_and(|v| v.to_ascii_lowercase().contains("origin")));
    // Errors and answers of backends must be readable for the page too.
    let reply = Ask::chat("{}").header("origin", PAGE).reply(daemon.addr());
    assert_eq!((reply.status(), reply.head.get("access-control-allow-origin")), (400, Some(PAGE)));
    let reply = Ask::chat(vllm::ask(false)).header("origin", PAGE).reply(daemon.addr());
    assert_eq!((reply.status(), reply.head.get("access-control-allow-origin")), (200, Some(PAGE)));
}

#[test]
fn a_preflight_of_a_listed_page_is_answered_without_a_key() {
    let upstream = backend();
    let daemon = Setup::with(&upstream)
        .set("security", "cors_origins", format!("[{PAGE:?}]"))
        .set("security", "api_keys", "[{ name = \"gui\", key = \"s3cret\" }]")
        .start();
    let preflight = |origin: &str| {
        Ask::new("OPTIONS", "/v1/chat/completions")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type")
            .reply(daemon.addr())
    };
    let reply = preflight(PAGE);
    assert!(matches!(reply.status(), 200 | 204), "{}", reply.status());
    let header = |name: &str| reply.head.get(name).unwrap_or_default().to_ascii_lowercase();
    assert_eq!(header("access-control-allow-origin"), PAGE);
    assert!(header("access-control-allow-methods").contains("post"));
    let headers = header("access-control-allow-headers");
    assert!(headers.contains("authorization") && headers.contains("content-type"), "{headers}");
    preflight("http://evil.example").error(403, "err_forbidden");
}

#[test]
fn keys_are_asked_for_everywhere_but_at_the_health_endpoints() {
    let upstream = backend();
    let daemon = Setup::with(&upstream)
        .set(
            "security",
            "api_keys",
            "[{ name = \"gui\", key = \"s3cret\" }, { name = \"env\", key_env = \"OTHER_KEY\" }]",
        )
        .env("OTHER_KEY", "0ther")
        .start();
    for headers in [
        &[][..],
        &[("authorization", "Bearer wrong")],
        &[("authorization", "Basic czNjcmV0")],
        &[("authorization", "s3cret")],
        &[("x-api-key", "s3cret2")],
        &[("x-api-key", "")],
    ] {
        let reply = models(&daemon, headers);
        let error = reply.error(401, "err_unauthorized");
        assert_eq!(error["type"], "authentication_error");
        assert_eq!(reply.head.get("x-should-retry"), Some("false"));
    }
    for headers in [
        [("authorization", "Bearer s3cret")],
        [("authorization", "bearer s3cret")],
        [("x-api-key", "s3cret")],
        [("x-api-key", "0ther")],
    ] {
        assert_eq!(models(&daemon, &headers).status(), 200, "{headers:?}");
    }
    for path in ["/v1/healthz", "/v1/health", "/v1/readyz"] {
        let reply = Ask::get(path).header("host", "any.example").reply(daemon.addr());
        assert_eq!(reply.status(), 200, "{path}");
    }
    Ask::chat(vllm::ask(false)).reply(daemon.addr()).error(401, "err_unauthorized");
    Ask::get("/v1/nope").reply(daemon.addr()).error(401, "err_unauthorized");
    let chat = Ask::chat(vllm::ask(false)).header("authorization", "Bearer s3cret");
    assert_eq!(chat.reply(daemon.addr()).status(), 200);
    let lines = daemon.log_lines(2);
    assert_eq!(
        (&lines[0]["status"], &lines[0]["error"]["code"]),
        (&json!(401), &json!("err_unauthorized"))
    );
    assert_eq!((&lines[1]["status"], &lines[1]["client"]), (&json!(200), &json!("gui")));
    assert!(!upstream.only().head.contains("s3cret"));
    assert!(!daemon.stderr().contains("s3cret") && !daemon.stderr().contains("0ther"));
}

#[test]
fn wrong_methods_and_unknown_paths_are_told_in_the_one_error_shape() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).start();
    for (method, path, allow) in [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("PUT", "/v1/healthz", "GET"),
    ] {
        let reply = Ask::new(method, path).reply(daemon.addr());
        reply.error(405, "err_method_not_allowed");
        let allowed = reply.head.get("allow").expect("Allow");
        assert!(allowed.split(',').any(|m| m.trim() == allow), "{path}: {allowed}");
    }
    for path in ["/", "/v1", "/v1/nope", "/v1/chat/completions/x", "/V1/MODELS", "//v1/models"] {
        let reply = Ask::get(path).reply(daemon.addr());
        reply.error(404, "err_not_found");
        assert_eq!(reply.head.get("x-should-retry"), Some("false"));
    }
}

#[test]
fn every_response_carries_a_request_id() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).start();
    for path in ["/v1/healthz", "/v1/models", "/v1/readyz", "/nope", "/v1/chat/completions"] {
        let head = Ask::get(path).header("x-request-id", "abc.1").reply(daemon.addr()).head;
        assert_eq!(head.get("x-request-id"), Some("abc.1"), "{path}");
        let head = Ask::get(path).reply(daemon.addr()).head;
        assert!(head.get("x-request-id").is_some_and(|id| !id.is_empty()), "{path}");
    }
    let refused = models(&daemon, &[("host", "evil.example"), ("x-request-id", "abc.2")]);
    assert_eq!(refused.head.get("x-request-id"), Some("abc.2"));
}

#[test]
fn health_tells_the_uptime_and_readiness_what_is_loaded() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).start();
    for path in ["/v1/healthz", "/v1/health"] {
        let health = Ask::get(path).reply(daemon.addr()).json();
        assert_eq!(health["status"], "ok");
        assert!(health["uptime_seconds"].is_number());
    }
    let ready = Ask::get("/v1/readyz").reply(daemon.addr());
    assert_eq!(ready.status(), 200);
    assert_eq!(ready.json()["details"]["models"], 1);
}

#[test]
fn what_is_no_http_harms_nobody() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).start();
    for noise in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\0\0\0\0",
    ] {
        let mut client = crate::support::Client::connect(daemon.addr());
        client.send(noise);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        client.until_closed();
    }
    let many = "x-many: 1\r\n".repeat(500);
    let mut client = crate::support::Client::connect(daemon.addr());
    client.send(format!("GET /v1/healthz HTTP/1.1\r\nhost: localhost\r\n{many}\r\n").as_bytes());
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    client.until_closed();
    daemon.assert_serves();
}
