//! Models of local engines need a chat template (SPEC 5.1): found, refused, passed on.

use std::fs;

use serde_json::{Value, json};

use crate::support::engines::{Engines, hello};
use crate::support::{Ask, Setup, Upstream};

/// An engine on a port of somebody else's, with these fields on top.
fn local(upstream: &Upstream, more: Value) -> Setup {
    let port = upstream.addr().port();
    let mut entry =
        json!({"name": "tiny-a", "backend": "lmdeploy", "backend_config": {"port": port}});
    for (key, value) in more.as_object().expect("an object") {
        entry[key] = value.clone();
    }
    Setup::new().set("server", "template_dir", "\"templates\"").entry(entry)
}

fn ask() -> Ask {
    let messages = json!([{"role": "user", "content": "u"}]);
    Ask::chat(json!({"model": "tiny-a", "messages": messages}).to_string())
}

fn answering() -> Upstream {
    Upstream::answering("200 OK", "application/json", "{}")
}

#[test]
fn chats_without_a_template_are_refused_until_there_is_one() {
    let upstream = answering();
    let daemon = local(&upstream, json!({})).start();
    let refused = ask().reply(daemon.addr());
    let error = refused.error(409, "err_template_required");
    let text = error.to_string();
    for told in ["tiny-a", "templates/tiny-a.jinja", "chat_template.path", "require_template"] {
        assert!(text.contains(told), "{told} is not in {text}");
    }
    assert_eq!(daemon.log_line()["status"], 409);
    assert!(upstream.seen().is_empty());
    // Put there, it counts at once.
    fs::create_dir_all(daemon.path("templates")).expect("a directory");
    fs::write(daemon.path("templates/tiny-a.jinja"), "{{ messages }}").expect("a file");
    assert_eq!(ask().reply(daemon.addr()).status(), 200);
}

#[test]
fn what_needs_no_template_or_has_one_passes() {
    let upstream = answering();
    let base = json!({"backend_config": {"base_url": upstream.base_url()}});
    let named = json!({"chat_template": {"path": "x.jinja"}});
    for (more, status) in [
        (json!({"backend": "openai"}), 200),
        (base, 200),
        (json!({"chat_template": {"source": "embedded"}}), 200),
        (json!({"chat_template": {"source": "none"}}), 409),
        (named, 409),
        (json!({"download_path": "model"}), 409),
    ] {
        let daemon = local(&upstream, more.clone()).start();
        assert_eq!(ask().reply(daemon.addr()).status(), status, "{more}");
        drop(daemon);
        let daemon = local(&upstream, more).set("limits", "require_template", "false").start();
        assert_eq!(ask().reply(daemon.addr()).status(), 200);
    }
}

#[test]
fn a_tokenizers_template_is_put_aside_once_and_told_to_the_engine() {
    let engines = Engines::new().set("server", "template_dir", "\"templates\"");
    let bare = |name: &str, path: &str| {
        json!({"name": name, "backend": "vllm", "served_model_id": name, "backend_config": {
            "model_path": path, "extra_args": ["--like-vllm", "--sim-journal", "journal"]}})
    };
    let model = tempfile::tempdir().expect("a directory");
    let path = model.path().display().to_string();
    let config = json!({"chat_template": "{{ messages[0].content }}", "model_max_length": 512});
    fs::write(model.path().join("tokenizer_config.json"), config.to_string()).expect("a file");
    let engines = engines.entry(bare("tiny-a", &path)).entry(bare("tiny-b", "/no/such/model"));
    let it = engines.start();
    let daemon = &it.daemon;
    hello("tiny-b", false, json!({})).reply(daemon.addr()).error(409, "err_template_required");
    for _ in 0..2 {
        let reply = hello("tiny-a", true, json!({})).reply(daemon.addr());
        assert_eq!(reply.status(), 200, "{}", reply.text());
    }
    let put_aside: Vec<_> = fs::read_dir(daemon.path("_staging/chat_templates"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert_eq!(put_aside.len(), 1, "{put_aside:?}");
    assert_eq!(fs::read_to_string(&put_aside[0]).expect("a file"), "{{ messages[0].content }}");
    let line = fs::read_to_string(format!("/proc/{}/cmdline", it.pid())).expect("a process");
    let words: Vec<&str> = line.split('\0').collect();
    let at = words.iter().position(|word| *word == "--chat-template").expect("the flag");
    let same = |path: &str| fs::canonicalize(path).expect("a file");
    assert_eq!(same(words[at + 1]), same(&put_aside[0].display().to_string()));
}
