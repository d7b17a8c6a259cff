//! What people said is nowhere but where it was asked for: not in logs, not in figures, not in state.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::daemon::entry;
use crate::support::{Ask, BOUND, Daemon, End, Setup, Upstream, eventually, vllm};

/// A part of everything that is said, by clients and by backends.
const SECRET: &str = "c0ffee-is-what-i-asked";

/// A backend that shows what it was sent, in every way in which one can fail.
fn talkative() -> Upstream {
    Upstream::start(|seen, wire| {
        let said = String::from_utf8_lossy(&seen.body).into_owned();
        let quoted = format!("input_value={:?}", said.chars().take(3000).collect::<String>());
        let error = json!({"error": {"message": quoted, "type": "BadRequestError", "code": 400}});
        let has = |what: &str| said.contains(what);
        match () {
            () if has("do:400") => {
                wire.answer("400 Bad Request", "application/json", error.to_string().as_bytes());
            }
            () if has("do:text") => wire.answer("422 No", "text/plain", quoted.as_bytes()),
            () if has("do:500") => {
                wire.answer("500 Oh", "application/json", error.to_string().as_bytes());
            }
            () if has("do:html") => {
                wire.answer("200 OK", "text/html", format!("<p>{quoted}").as_bytes());
            }
            () if has("do:moved") => {
                let head = format!(
                    "HTTP/1.1 302 Found\r\nlocation: /login?{SECRET}\r\ncontent-length: 0\r\n\r\n"
                );
                wire.send(head.as_bytes());
            }
            () if has("do:cut") => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999\r\n\r\n";
                wire.send(head.as_bytes());
                wire.send(
                    format!("{{\"choices\":[{{\"message\":{{\"content\":\"{SECRET}").as_bytes(),
                );
                wire.fin();
            }
            () if has("do:break") || has("do:error") || has("do:junk") => {
                wire.stream_head();
                wire.chunk(vllm::role(0).as_bytes());
                wire.chunk(vllm::word(0, SECRET).as_bytes());
                if has("do:error") {
                    wire.chunk(format!("data: {error}\n\n").as_bytes());
                    wire.last_chunk();
                } else if has("do:junk") {
                    wire.chunk(format!("data: {{\"choices\": {SECRET}\n\n").as_bytes());
                }
                wire.fin();
            }
            () if has("\"stream\":true") => wire.stream(&vllm::stream(&[SECRET, " b"])),
            () => {
                let answer = vllm::WHOLE.replace("Hello!", SECRET);
                wire.answer("200 OK", "application/json", answer.as_bytes());
            }
        }
    })
}

/// An Ollama that has one model, and complains of what it was asked.
fn talkative_ollama() -> Upstream {
    Upstream::start(|seen, wire| {
        let model =
            json!({"name": "m:1", "model": "m:1", "size": 1, "size_vram": 1, "digest": "d"});
        let ok = |wire: &mut crate::support::Wire, body: Value| {
            wire.answer("200 OK", "application/json", body.to_string().as_bytes());
        };
        let said = String::from_utf8_lossy(&seen.body).into_owned();
        match () {
            () if !seen.head.contains("/api/chat") => ok(wire, json!({"models": [model]})),
            () if said.contains("do:400") => {
                let error = json!({"error": format!("cannot parse {said}")}).to_string();
                wire.answer("400 Bad Request", "application/json", error.as_bytes());
            }
            () if said.contains("do:junk") => {
                wire.answer("200 OK", "application/x-ndjson", format!("{SECRET}\n").as_bytes());
            }
            () => {
                let line = json!({"error": format!("no: {SECRET}")}).to_string() + "\n";
                wire.answer("200 OK", "application/x-ndjson", line.as_bytes());
            }
        }
    })
}

fn chat(content: &Value, stream: bool) -> Ask {
    let body = json!({"model": "tiny-a", "messages": [{"role": "user", "content": content}], "stream": stream});
    Ask::chat(body.to_string())
}

/// Everything that somebody may send.
fn asks() -> Vec<Ask> {
    let mut all = Vec::new();
    for what in [
        "", "do:400", "do:text", "do:500", "do:html", "do:moved", "do:cut", "do:break", "do:error",
        "do:junk",
    ] {
        for stream in [false, true] {
            let said = json!(format!("{SECRET} {what}"));
            all.push(chat(&said, stream));
            let ollama = json!({"model": "at-ollama", "messages": [{"role": "user", "content": said}], "stream": stream});
            all.push(Ask::chat(ollama.to_string()));
            let prompt = json!({"model": "tiny-a", "prompt": said, "stream": stream});
            all.push(Ask::post("/v1/completions", &prompt));
            let input = json!({"model": "tiny-a", "input": said, "stream": stream});
            all.push(Ask::post("/v1/responses", &input));
            let messages = json!({"model": "tiny-a", "max_tokens": 9, "system": said,
                "messages": [{"role": "user", "content": said}], "stream": stream});
            all.push(Ask::post("/v1/messages", &messages));
        }
        all.push(Ask::post(
            "/v1/embeddings",
            &json!({"model": "tiny-a", "input": [format!("{SECRET} {what}")]}),
        ));
        all.push(Ask::post(
            "/v1/rerank",
            &json!({"model": "tiny-a", "query": SECRET, "documents": [what, SECRET]}),
        ));
    }
    let url = |url: String| json!([{"type": "image_url", "image_url": {"url": url}}]);
    for content in [
        url(format!("https://127.0.0.1:1/{SECRET}.png?{SECRET}")),
        url(format!("{SECRET}://x")),
        url(format!("data:image/png;base64,{SECRET}")),
        json!([{"type": SECRET, "text": SECRET}]),
        json!({"text": SECRET}),
        json!(7),
    ] {
        all.push(chat(&content, false));
        let ollama =
            json!({"model": "at-ollama", "messages": [{"role": "user", "content": content}]});
        all.push(Ask::chat(ollama.to_string()));
    }
    for body in [
        format!("{{\"model\":\"tiny-a\",\"messages\":[{{\"content\":\"{SECRET}\""),
        format!("{{\"model\":\"tiny-a\",\"messages\":\"{SECRET}\"}}"),
        format!("{{\"model\":\"tiny-a\",\"messages\":[\"{SECRET}\"],\"stream\":\"{SECRET}\"}}"),
        format!("{{\"model\":\"tiny-a\",\"messages\":[],\"stream_options\":\"{SECRET}\"}}"),
        format!("{{\"model\":{{\"x\":\"{SECRET}\"}},\"messages\":[]}}"),
        format!(
            "{{\"model\":\"at-ollama\",\"messages\":[{{\"role\":\"{SECRET}\",\"content\":\"\"}}]}}"
        ),
        format!(
            "{{\"model\":\"at-ollama\",\"messages\":[{{\"role\":\"user\",\"content\":\"\",\"tool_calls\":[{{\"function\":{{\"name\":\"f\",\"arguments\":\"{SECRET}\"}}}}]}}]}}"
        ),
        format!("[\"{SECRET}\"]"),
        SECRET.to_owned(),
    ] {
        all.push(Ask::chat(body));
    }
    all
}

/// Every file below a directory, with what it holds.
fn files(dir: &Path, found: &mut Vec<(String, String)>) {
    for item in fs::read_dir(dir).expect("a directory") {
        let path = item.expect("a file").path();
        if path.is_dir() {
            files(&path, found);
        } else if let Ok(bytes) = fs::read(&path) {
            found.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
}

fn start(log_prompts: bool) -> (Daemon, Upstream, Upstream) {
    let (backend, ollama) = (talkative(), talkative_ollama());
    let mut seeing = entry("tiny-a", &backend);
    seeing["capabilities"] = json!({"vision": true});
    let at_ollama = json!({"name": "at-ollama", "backend": "ollama", "served_model_id": "m:1",
        "capabilities": {"vision": true},
        "backend_config": {"base_url": format!("http://{}", ollama.addr())}});
    let daemon = Setup::new()
        .entry(seeing)
        .entry(at_ollama)
        .set("server", "enable_metrics", true)
        .set("logging", "log_prompts", log_prompts)
        .set("limits", "fetch_remote_images", true)
        .env(
            "RUST_LOG",
            "info,imageworks_chat_proxy=trace,chat_proxy_actors=trace,chat_proxy_core=trace",
        )
        .start();
    (daemon, backend, ollama)
}

#[test]
fn what_was_said_is_nowhere() {
    let (mut daemon, _backend, _ollama) = start(false);
    let mut asked = 0;
    for ask in asks() {
        let reply = ask.header("x-request-id", &format!("n-{asked}")).reply(daemon.addr());
        assert_eq!(reply.end, End::Whole, "{}", reply.text());
        asked += 1;
    }
    for path in ["/metrics", "/v1/metrics", "/v1/backends", "/v1/scheduler/explain?request_id=n-1"]
    {
        let shown = Ask::get(path).reply(daemon.addr()).text();
        assert!(!shown.contains(SECRET), "{path}: {shown}");
    }
    daemon.terminate();
    assert_eq!(daemon.wait_exit(BOUND).code(), Some(0));
    let records = super::records(&daemon.path("logs"));
    assert_eq!(records.len(), asked);
    // Each failure is there all the same, with its code.
    let failed = records.iter().filter(|record| record.get("error").is_some()).count();
    assert!(failed > asked / 2, "{failed} of {asked}");
    let mut found = Vec::new();
    files(&daemon.path("."), &mut found);
    assert!(
        found
            .iter()
            .any(|(name, text)| name.ends_with("stderr") && text.contains("request failed"))
    );
    let mut told = 0;
    for (name, text) in &found {
        for line in text.lines().filter(|line| line.contains(SECRET)) {
            eprintln!("{name}: {line}");
            told += 1;
        }
    }
    assert_eq!(told, 0, "what was said stands in {told} lines");
}

#[test]
fn where_it_was_asked_for_it_is_whole() {
    let (daemon, _backend, _ollama) = start(true);
    let said = format!("{SECRET} do:400");
    let error = chat(&json!(said), false).reply(daemon.addr()).json();
    let line = daemon.log_line();
    assert_eq!(line["messages"], json!([{"role": "user", "content": said}]));
    assert_eq!(line["error"]["message"], error["error"]["message"]);
    let prompt = json!({"model": "tiny-a", "prompt": SECRET, "stream": true});
    assert_eq!(Ask::post("/v1/completions", &prompt).reply(daemon.addr()).status(), 200);
    let line = daemon.log_lines(2).remove(1);
    assert_eq!(line["messages"], SECRET);
    assert!(line["response"]["choices"].to_string().contains(SECRET), "{line}");
}

/// Pictures are not written, whatever is: their hash, size and type are.
#[test]
fn pictures_are_hashes_in_the_log() {
    let (daemon, _backend, _ollama) = start(true);
    // `head -c 100002 /dev/zero | sha256sum`
    let hash = "05bc3ebfe7e38d8d541c38f23be5bad5cd34e13ac2dcad6df61c8c623d06d639";
    let picture = "A".repeat(133_336);
    let url = format!("data:image/bmp;base64,{picture}");
    let content =
        json!([{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": url}}]);
    let body = json!({"model": "tiny-a", "messages": [{"role": "user", "content": content}]});
    // Whatever becomes of it: no picture is one of so many zeros.
    Ask::chat(body.to_string()).reply(daemon.addr());
    let line = eventually("a line", BOUND, || Some(daemon.log_lines(1).remove(0)));
    let stand_in = &line["messages"][0]["content"][1]["image_url"]["url"];
    assert_eq!((&stand_in["bytes"], &stand_in["mime"]), (&json!(100_002), &json!("image/bmp")));
    assert_eq!(stand_in["sha256"], hash);
    assert!(!line.to_string().contains("AAAAAAAA"));
}
