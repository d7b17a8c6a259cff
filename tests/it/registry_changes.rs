//! The registry changes while engines run (SPEC 4.3): a difference, not a restart.

use serde_json::{Value, json};

use crate::support::engines::Engined;
use crate::support::{Ask, BOUND, End, Engines, eventually};

/// Changes the registry's entries.
fn edit(it: &Engined, change: impl Fn(&mut Vec<Value>)) {
    let mut entries: Vec<Value> = serde_json::from_str(&it.daemon.registry()).unwrap();
    change(&mut entries);
    it.daemon.write_registry(&Value::from(entries).to_string());
}

fn entry<'a>(entries: &'a mut [Value], name: &str) -> &'a mut Value {
    entries.iter_mut().find(|entry| entry["name"] == name).unwrap()
}

fn loads(it: &Engined) -> u64 {
    let shown = Ask::get("/v1/debug/registry").reply(it.daemon.addr()).json();
    shown["loads"].as_u64().unwrap()
}

#[test]
fn an_engine_whose_entry_did_not_change_runs_on_untouched() {
    let it = Engines::two().start();
    it.assert_answers("tiny-a");
    let (pid, before) = (it.pid(), loads(&it));
    edit(&it, |entries| {
        entry(entries, "tiny-a")["display_name"] = json!("Tiny A");
        entry(entries, "tiny-a")["backend_config"]["start_timeout_s"] = json!(77);
        entry(entries, "tiny-b")["backend_config"]["model_path"] = json!("/models/other");
        entries.push(
            json!({"name": "tiny-c", "backend": "vllm", "backend_config": {"model_path": "/c"}}),
        );
    });
    eventually("the registry is read", BOUND, || (loads(&it) > before).then_some(()));
    it.assert_answers("tiny-a");
    assert_eq!((it.pid(), it.starts().len()), (pid, 1));
}

#[test]
fn a_changed_one_serves_on_and_is_started_anew_when_nobody_uses_it() {
    let it = Engines::two().start();
    let mut stream = it.stream("tiny-a", 120);
    let (pid, before) = (it.pid(), loads(&it));
    edit(&it, |entries| {
        let args = entry(entries, "tiny-a")["backend_config"]["extra_args"].as_array_mut().unwrap();
        args.extend([json!("--max-num-seqs"), json!("7")]);
    });
    eventually("the registry is read", BOUND, || (loads(&it) > before).then_some(()));
    assert_eq!(it.pid(), pid, "it serves on");
    let (_, end) = stream.rest();
    assert_eq!(end, End::Whole);
    eventually("it has been started anew", BOUND, || {
        let engine = it.engine();
        (engine["state"] == "ready" && engine["pid"] != pid).then_some(())
    });
    assert!(it.ask_engine("/sim/argv").to_string().contains("--max-num-seqs"));
    it.assert_answers("tiny-a");
    assert_eq!(it.starts().len(), 2);
}

#[test]
fn a_removed_one_finishes_and_stops() {
    let it = Engines::two().start();
    let mut stream = it.stream("tiny-a", 100);
    let before = loads(&it);
    edit(&it, |entries| entries.retain(|entry| entry["name"] != "tiny-a"));
    eventually("the registry is read", BOUND, || (loads(&it) > before).then_some(()));
    it.hello("tiny-a").error(404, "err_model_not_found");
    let (_, end) = stream.rest();
    assert_eq!(end, End::Whole);
    it.wait_engine("stopped");
    it.assert_answers("tiny-b");
}

#[test]
fn one_that_is_broken_by_an_edit_or_whose_file_is_runs_on() {
    let it = Engines::two().start();
    it.assert_answers("tiny-a");
    let pid = it.pid();
    let good = it.daemon.registry();
    it.daemon.write_registry("[{");
    eventually("the error is told", BOUND, || {
        let shown = Ask::get("/v1/debug/registry").reply(it.daemon.addr()).json();
        shown["error"].is_string().then_some(())
    });
    it.assert_answers("tiny-a");
    it.daemon.write_registry(&good);
    it.assert_answers("tiny-a");
    assert_eq!((it.pid(), it.starts().len()), (pid, 1));
}
