//! Keys, wrong usage, who does not read on.

use std::process::Stdio;

use serde_json::{Value, json};

use super::run::Models;
use crate::support::{Engines, Setup, Upstream};

#[test]
fn the_settings_key_is_sent_and_a_wrong_one_is_refused() {
    let keys = "[{ name = \"gui\", key = \"chat-key\" }, \
                 { name = \"op\", key = \"admin-key\", rights = [\"chat\", \"admin\"] }]";
    let it = Engines::two().set("security", "api_keys", keys).start();
    let models = || Models::of(&it.daemon);
    assert!(
        models().run(&["list"]).out().contains("tiny-a"),
        "the first admin key of the settings"
    );
    models().run(&["activate-model", "tiny-a"]).out();
    let wrong = models().env("IMAGEWORKS_API_KEY", "wrong").run(&["list"]);
    wrong.failed(5, "this API key is not known");
    assert!(wrong.stderr.contains("hint: give a key with --api-key"), "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("wrong"), "no secret is shown: {}", wrong.stderr);
    let gui = models().env("IMAGEWORKS_API_KEY", "chat-key");
    assert!(gui.run(&["list"]).out().contains("tiny-a"));
    gui.run(&["activate-model", "--stop"]).failed(5, "this needs a key with the admin right");
    gui.run(&["logs", "tiny-a", "-f"]).failed(5, "this needs a key with the admin right");
    let told = gui.run(&["activate-model", "--stop", "--json"]);
    let error: Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert_eq!((told.code, &error["error"]["code"]), (Some(5), &json!("err_forbidden")));
    assert!(told.stderr.starts_with("error: "), "{}", told.stderr);
    let by_flag = models().env("IMAGEWORKS_API_KEY", "wrong");
    assert!(by_flag.run(&["--api-key", "admin-key", "current-model"]).out().contains("tiny-a"));
}

#[test]
fn errors_are_told_with_hints_and_codes() {
    let it = Engines::two().set("server", "enable_metrics", false).start();
    let models = Models::of(&it.daemon);
    let unknown = models.run(&["show", "tiny-x"]);
    unknown.failed(3, "tiny-x");
    assert!(unknown.stderr.contains("hint: ") && unknown.stderr.contains("tiny-a"));
    models.run(&["list", "--role", "caption"]).failed(3, "no model has the role \"caption\"");
    models.run(&["metrics"]).failed(1, "metrics are off");
    let told = models.run(&["show", "tiny-x", "--json"]);
    let error: Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert_eq!((told.code, &error["error"]["code"]), (Some(3), &json!("err_model_not_found")));
}

#[test]
fn wrong_usage_is_told_before_anybody_is_asked() {
    let run = |args: &[&str]| Setup::new().run(&[&["models"], args].concat());
    for args in [
        &[][..],
        &["no-such-verb"],
        &["activate-model"],
        &["activate-model", "a", "--stop"],
        &["--url", "127.0.0.1:8100", "list"],
        &["list", "--timeout", "0"],
        &["completions", "tcsh"],
    ] {
        let ended = run(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{args:?} {}", ended.stderr);
    }
    let help = run(&["--help"]);
    assert_eq!(help.code, Some(0), "{}", help.stderr);
    assert!(help.stdout.contains("Usage: imageworks-chat-proxy models"), "{}", help.stdout);
    assert!(help.stdout.contains("130  interrupted"), "{}", help.stdout);
    let wrong = Setup::new().set("server", "prot", 1).run(&["models", "list"]);
    assert_eq!(wrong.code, Some(1), "{}", wrong.stderr);
    assert!(
        wrong.stderr.contains("prot") && wrong.stderr.contains("check-config"),
        "{}",
        wrong.stderr
    );
}

#[test]
fn shells_get_their_completions() {
    for (shell, has) in [
        ("bash", "-F _imageworks__models"),
        ("zsh", "#compdef imageworks-models"),
        ("fish", "complete -c imageworks-models"),
    ] {
        let ended = Setup::new().run(&["models", "completions", shell]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stdout.contains(has), "{shell}: {}", ended.stdout);
    }
}

#[test]
fn who_does_not_read_on_is_no_error() {
    let upstream = Upstream::answering("200 OK", "application/json", "{}");
    let daemon = Setup::with(&upstream).start();
    let models = Models::of(&daemon);
    for args in [&["list", "--json"][..], &["completions", "bash"]] {
        let mut child = models
            .named(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        drop(child.stdout.take());
        let ended = child.wait_with_output().expect("its end");
        assert_eq!(ended.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{args:?}");
    }
}
