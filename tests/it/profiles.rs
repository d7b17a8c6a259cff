//! Deployment and hardware profiles, and models by role (SPEC 8).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::daemon::Setup;
use crate::support::engines::{hello, text_of};
use crate::support::{Ask, BOUND, Daemon, Engines, Reply, Upstream, eventually};

const PATH: &str = "/v1/config/profile";

fn get(daemon: &Daemon, path: &str) -> Value {
    let reply = Ask::get(path).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply.json()
}

fn switch(daemon: &Daemon, name: &str) -> Reply {
    Ask::new("PUT", PATH).json_body(&json!({"name": name})).reply(daemon.addr())
}

fn ids(daemon: &Daemon) -> Vec<String> {
    let list = get(daemon, "/v1/models");
    let ids = list["data"].as_array().unwrap().iter();
    ids.map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// A server that says which model it was asked for.
fn echo() -> Upstream {
    Upstream::start(|seen, wire| {
        let body = json!({"choices": [{"index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": seen.json()["model"]}}]});
        wire.answer("200 OK", "application/json", body.to_string().as_bytes());
    })
}

fn entry(upstream: &Upstream, name: &str, more: &Value) -> Value {
    let mut entry = json!({
        "name": name, "backend": "openai", "served_model_id": format!("served/{name}"),
        "backend_config": {"base_url": upstream.base_url()},
    });
    for (key, value) in more.as_object().unwrap() {
        entry[key] = value.clone();
    }
    entry
}

/// A program that says what `nvidia-smi` says of such cards.
fn fake_gpus(dir: &Path, cards: &[(&str, u64)]) -> String {
    let lines = cards.iter().enumerate().map(|(index, (name, total))| {
        format!("{index}, {name}, {total}, {}, 500, GPU-{index}", total - 500)
    });
    let text = format!("#!/bin/sh\ncat <<'END'\n{}\nEND\n", lines.collect::<Vec<_>>().join("\n"));
    let program = dir.join("nvidia-smi");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:/usr/bin:/bin", dir.display())
}

#[test]
fn entries_are_there_by_their_deployment_and_a_switch_is_in_force_at_once_and_kept() {
    let upstream = echo();
    let flagged = |name: &str, profiles: Value| {
        entry(&upstream, name, &json!({"metadata": {"profiles": profiles}}))
    };
    let mut daemon = Setup::new()
        .entry(entry(&upstream, "everywhere", &json!({})))
        .entry(flagged("prod", json!(["production"])))
        .entry(flagged("both", json!(["staging", "Production"])))
        .entry(flagged("stage", json!(["staging"])))
        .entry(entry(&upstream, "testmodel-x", &json!({})))
        .start();
    assert_eq!(ids(&daemon), ["both", "everywhere", "prod"]);
    hello("stage", false, json!({})).reply(daemon.addr()).error(404, "err_model_not_found");
    let shown = get(&daemon, PATH);
    assert_eq!(shown["deployment"], "production");
    let reply = switch(&daemon, "staging");
    assert_eq!((reply.status(), reply.json()["deployment"].clone()), (200, json!("staging")));
    eventually("the other entries are there", BOUND, || {
        (ids(&daemon) == ["both", "everywhere", "stage"]).then_some(())
    });
    assert_eq!(hello("stage", false, json!({})).reply(daemon.addr()).status(), 200);
    hello("prod", false, json!({})).reply(daemon.addr()).error(404, "err_model_not_found");
    assert_eq!(switch(&daemon, "testing").status(), 200);
    eventually("fixtures too", BOUND, || {
        (ids(&daemon) == ["everywhere", "testmodel-x"]).then_some(())
    });
    // It is in the file, among what stood there.
    let text = fs::read_to_string(daemon.path("chat_proxy.toml")).unwrap();
    assert!(text.ends_with("\n[profiles]\ndeployment = \"testing\"\n"), "{text}");
    daemon.terminate();
    daemon.wait_exit(BOUND);
    daemon.restart();
    assert_eq!(get(&daemon, PATH)["deployment"], "testing");
    let error = switch(&daemon, "stagin").error(400, "err_invalid_request");
    assert!(error["message"].as_str().unwrap().contains("did you mean staging?"), "{error}");
    switch(&daemon, "").error(400, "err_invalid_request");
}

#[test]
fn hardware_profiles_are_chosen_by_the_gpus_or_by_name() {
    let bin = tempfile::tempdir().unwrap();
    for (cards, profile, usable) in [
        (vec![("NVIDIA RTX 4080", 16_376)], "constrained_16gb", 15_352),
        (vec![("NVIDIA RTX 4090", 24_564)], "balanced_24gb", 23_028),
        (
            vec![("NVIDIA RTX 4080", 16_376), ("NVIDIA RTX 4080", 16_376)],
            "multi_gpu_2x16gb",
            30_704,
        ),
        (vec![("NVIDIA RTX PRO 6000", 97_887)], "generous_96gb", 91_769),
    ] {
        let path = fake_gpus(bin.path(), &cards);
        let daemon = Setup::new().env("PATH", &path).start();
        let shown = get(&daemon, PATH);
        assert_eq!(
            (shown["active_profile"].clone(), shown["manual_override"].clone()),
            (json!(profile), json!(false)),
            "{shown}"
        );
        assert_eq!(shown["detected_gpus"].as_array().unwrap().len(), cards.len());
        assert_eq!(shown["detected_gpus"][0]["name"], cards[0].0);
        let total = shown["total_usable_vram_mb"].as_i64().unwrap();
        assert!((total - usable).abs() <= 2, "{total} for {usable}");
        // By name it holds whatever there is, until it is `auto` again.
        let shown = switch(&daemon, "development").json();
        assert_eq!(
            (shown["active_profile"].clone(), shown["manual_override"].clone()),
            (json!("development"), json!(true))
        );
        assert_eq!(switch(&daemon, "auto").json()["active_profile"], profile);
    }
    // Neither library nor program.
    let daemon = Setup::new().env("PATH", "/nowhere").start();
    let shown = get(&daemon, PATH);
    assert_eq!(
        (shown["active_profile"].clone(), shown["detected_gpus"].clone()),
        (json!("development"), json!([]))
    );
    for name in [
        "auto",
        "constrained_16gb",
        "balanced_24gb",
        "multi_gpu_2x16gb",
        "generous_96gb",
        "development",
        "production",
        "staging",
        "testing",
    ] {
        assert!(shown["available_profiles"].as_array().unwrap().contains(&json!(name)), "{name}");
    }
}

#[test]
fn a_variable_that_names_the_profile_goes_before_a_switch_and_says_so() {
    let daemon = Setup::new().env("IMAGEWORKS_DEPLOYMENT_PROFILE", "balanced_24gb").start();
    assert_eq!(get(&daemon, PATH)["active_profile"], "balanced_24gb");
    let error = switch(&daemon, "development").error(400, "err_invalid_request");
    assert!(
        error["message"].as_str().unwrap().contains("IMAGEWORKS_DEPLOYMENT_PROFILE"),
        "{error}"
    );
}

#[test]
fn profiles_of_ones_own_are_read_and_an_edit_is_in_force_at_once() {
    let daemon = Setup::new().set("profiles", "profile", "\"auto\"").start();
    let path = daemon.path("deployment_profiles.toml");
    fs::write(&path, "[hardware.mine]\nmax_vram_mb = 1234\n[deployment.lab]\n").unwrap();
    eventually("the new profile is there", BOUND, || {
        let shown = get(&daemon, PATH);
        shown["hardware_profiles"].as_array().unwrap().contains(&json!("mine")).then_some(())
    });
    let shown = switch(&daemon, "mine").json();
    assert_eq!(shown["profile"]["max_vram_mb"], 1234);
    assert_eq!(switch(&daemon, "lab").json()["deployment"], "lab");
    // One that is in use cannot be broken.
    fs::write(&path, "[hardware.mine]\nmax_vram_bm = 1\n").unwrap();
    eventually("what is wrong is told", BOUND, || {
        let problems = get(&daemon, "/v1/config/chat-proxy")["problems"].to_string();
        problems.contains("deployment_profiles.toml:2").then_some(())
    });
    assert_eq!(get(&daemon, PATH)["profile"]["max_vram_mb"], 1234);
}

#[test]
fn wrong_profiles_stop_the_start() {
    for (key, value) in [("profile", "\"balanced_24\""), ("deployment", "\"prod\"")] {
        let ended = Setup::new().set("profiles", key, value).run(&[]);
        assert_eq!(ended.code, Some(78), "{}", ended.stderr);
        assert!(
            ended.stderr.contains(key) && ended.stderr.contains("chat_proxy.toml:"),
            "{}",
            ended.stderr
        );
        let ended = Setup::new().set("profiles", key, value).run(&["check-config"]);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(key), "{}", ended.stderr);
    }
}

#[test]
fn models_are_chosen_for_a_role_and_a_request_may_name_it() {
    let upstream = echo();
    let model = |name: &str, more: Value| entry(&upstream, name, &more);
    let vision = json!({"vision": true});
    let daemon = Setup::new()
        .set("profiles", "profile", "\"constrained_16gb\"")
        .entry(model("small", json!({"role_priority": {"caption": 60}, "capabilities": vision, "vram_estimate_mb": 4000, "quantization": "Q4_K_M", "display_name": "Small (Q4)"})))
        .entry(model("good", json!({"role_priority": {"caption": 90}, "capabilities": vision, "vram_estimate_mb": 12_000})))
        .entry(model("huge", json!({"role_priority": {"caption": 99}, "capabilities": vision, "vram_estimate_mb": 60_000})))
        .entry(model("blind", json!({"role_priority": {"caption": 95}, "capabilities": {"vision": false}, "vram_estimate_mb": 100})))
        .start();
    let selected = get(&daemon, "/v1/models/select_by_role?role=caption&top_n=1");
    assert_eq!(
        selected,
        json!({"role": "caption", "profile": "constrained_16gb", "max_vram_mb": 15_000,
            "model_selection_bias": "efficiency", "top_n": 1,
            "models": [{"id": "good", "name": "good", "backend": "openai", "quantization": null,
                "vram_estimate_mb": 12_000, "role_priority": 90}]})
    );
    let explained = get(&daemon, "/v1/models/select_by_role?role=caption&top_n=1&explain=1");
    let why = |name: &str| {
        let one = explained["explain"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == name)
            .unwrap();
        (one["taken"].as_bool().unwrap(), one["reason"].to_string())
    };
    assert!(why("good").0 && !why("huge").0);
    assert!(why("huge").1.contains("60000") && why("blind").1.contains("vision"), "{explained}");
    let error = Ask::get("/v1/models/select_by_role?role=captoin")
        .reply(daemon.addr())
        .error(400, "err_invalid_request");
    assert!(error["hint"].as_str().unwrap().contains("caption"), "{error}");
    Ask::get("/v1/models/select_by_role").reply(daemon.addr()).error(400, "err_invalid_request");
    // As a model.
    let reply = hello("role:caption", false, json!({})).reply(daemon.addr());
    assert_eq!(text_of(&reply), "served/good", "{}", reply.text());
    let line = daemon.log_line();
    assert_eq!(
        (line["model_requested"].clone(), line["model_logical"].clone()),
        (json!("role:caption"), json!("good"))
    );
    let error = hello("role:chess", false, json!({}))
        .reply(daemon.addr())
        .error(404, "err_model_not_found");
    assert!(error["hint"].as_str().unwrap().contains("caption"), "{error}");
    assert_eq!(get(&daemon, "/v1/models/role:caption")["extensions"]["logical_id"], "good");
    // Another profile, another choice, at once.
    assert_eq!(switch(&daemon, "generous_96gb").status(), 200);
    eventually("the big one fits now", BOUND, || {
        let selected = get(&daemon, "/v1/models/select_by_role?role=caption&top_n=1");
        (selected["models"][0]["name"] == "huge").then_some(())
    });
    assert_eq!(
        text_of(&hello("role:caption", false, json!({})).reply(daemon.addr())),
        "served/huge"
    );
}

#[test]
fn a_profile_with_room_for_several_lets_ollama_stay() {
    let bin = tempfile::tempdir().unwrap();
    let path = fake_gpus(bin.path(), &[("NVIDIA RTX PRO 6000", 97_887)]);
    let it = Engines::two().env("PATH", &path).start();
    it.assert_answers("tiny-a");
    let budget = || it.backends()["budget"].clone();
    assert_eq!(budget(), 3, "{}", it.backends());
    assert_eq!(switch(&it.daemon, "constrained_16gb").status(), 200);
    eventually("there is room for one only", BOUND, || (budget() == 1).then_some(()));
    it.assert_answers("tiny-a");
    assert_eq!(it.starts().len(), 1, "a switch ends nothing that runs");
}
