//! The verbs of `imageworks-models` that read and write files (SPEC 9): real files, the real
//! binary, with and without a daemon.

mod files;

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::ollama::Ollama;
use crate::support::{Ask, BOUND, Setup, Upstream, daemon, eventually};
use files::{Shop, gguf, safetensors, write};

#[test]
fn downloads_are_looked_at_and_told_to_the_registry() {
    let shop = Shop::new(
        json!([{"name": "curated", "backend": "vllm", "quantization": "mine",
            "backend_config": {"model_path": "models/awq"}}]),
        json!([
            {"name": "quantized", "backend": "gguf", "download_path": "models/q.gguf",
                "backend_config": {"port": 1}, "mine": {"kept": [1, null]}},
            {"name": "plain", "backend": "vllm", "download_path": "models/plain", "quantization": "old"},
            {"name": "ghost", "backend": "vllm", "download_path": "models/ghost", "extra": 1},
            {"name": "tag", "backend": "ollama", "served_model_id": "t:1"}
        ]),
    );
    write(&shop.path("models/q.gguf"), &gguf(15, true));
    write(&shop.path("models/plain/model.safetensors"), &safetensors("BF16"));
    write(&shop.path("models/plain/chat_template.jinja"), b"{{ messages }}");
    write(&shop.path("models/awq/model.safetensors"), &safetensors("I32"));
    let awq = json!({"quantization_config": {"quant_method": "awq", "bits": 4}}).to_string();
    write(&shop.path("models/awq/config.json"), awq.as_bytes());
    let before = shop.discovered();
    let dry = shop.run(&["normalize-formats", "--dry-run"]);
    insta::assert_snapshot!(dry.out().replace(&shop.dir(), "[dir]"), @"
    NAME       FIELD                WAS           NOW
    curated    download_format      -             awq
    curated    download_size_bytes  -             152
    curated    download_files       -             2 files
    quantized  download_format      -             gguf
    quantized  quantization         -             Q4_K_M
    quantized  download_size_bytes  -             195
    quantized  download_files       -             1 file
    quantized  chat_template        -             embedded
    plain      download_format      -             safetensors
    plain      download_size_bytes  -             112
    plain      download_files       -             2 files
    plain      chat_template        -             external [dir]/models/plain/chat_template.jinja
    ghost      (entry)              models/ghost  dropped
    4 entries looked at, 3 entries changed, 1 entry dropped (kept in registry/model_registry.ghosts.json) (not written: --dry-run)
    ");
    assert_eq!(dry.stderr, "plain: quantization is old, found was BF16 (--rebuild writes that)\n");
    assert_eq!(shop.discovered(), before);
    shop.run(&["normalize-formats"]).out();
    let after = shop.discovered();
    let names: Vec<&str> =
        after.as_array().unwrap().iter().filter_map(|e| e["name"].as_str()).collect();
    assert_eq!(names, ["quantized", "plain", "tag", "curated"]);
    assert_eq!(after[0]["mine"], json!({"kept": [1, null]}));
    assert_eq!(after[0]["chat_template"], json!({"source": "embedded"}));
    let twin = json!({"name": "curated", "download_format": "awq", "download_size_bytes": 152,
        "download_files": ["config.json", "model.safetensors"]});
    assert_eq!(after[3], twin);
    let ghosts = shop.ghosts();
    assert_eq!((&ghosts[0]["name"], &ghosts[0]["entry"]["extra"]), (&json!("ghost"), &json!(1)));
    insta::assert_snapshot!(shop.run(&["normalize-formats", "--rebuild"]).out(), @"
    NAME   FIELD         WAS  NOW
    plain  quantization  old  BF16
    3 entries looked at, 1 entry changed
    ");
    assert_eq!(
        shop.run(&["normalize-formats", "--rebuild"]).out(),
        "3 entries looked at, nothing to fill in\n"
    );
    let told = shop.run(&["normalize-formats", "--json"]).json();
    assert_eq!((&told["looked_at"], &told["changed"]), (&json!(3), &json!([])));
}

#[test]
fn a_daemon_hears_of_what_was_written() {
    let daemon = Setup::new()
        .set("general", "include_non_installed", true)
        .entry(json!({"name": "tiny", "backend": "openai", "download_path": "models/tiny",
            "backend_config": {"base_url": "http://127.0.0.1:1"}}))
        .start();
    write(&daemon.path("models/tiny/model.safetensors"), &safetensors("F16"));
    let models = Shop::of(&daemon);
    models.run(&["normalize-formats"]).out();
    eventually("the daemon knows it", BOUND, || {
        let reply = Ask::get("/v1/models/tiny").reply(daemon.addr()).json();
        (reply["extensions"]["size_bytes"] == 97).then_some(())
    });
    assert!(!models.ghosts_exist());
}

#[test]
fn a_version_is_locked_verified_and_unlocked() {
    let shop = Shop::new(
        json!([]),
        json!([{"name": "tiny", "display_name": "Tiny One", "backend": "vllm", "download_path": "models/tiny"}]),
    );
    let (weights, config) =
        (shop.path("models/tiny/model.safetensors"), shop.path("models/tiny/sub/config.json"));
    write(&weights, &safetensors("BF16"));
    write(&config, b"abc");
    shop.run(&["verify", "tiny"]).failed(1, "nothing is recorded of the files of tiny");
    let locked = shop.run(&["lock", "Tiny One"]);
    insta::assert_snapshot!(locked.out(), @"tiny is locked: 2 files, 101 B, checksum 441d992e2e1b8953b2e1b6f721749b375bbf168e91744b353280a8cc060c7096");
    assert!(locked.stderr.contains("reading 101 B\n"), "{}", locked.stderr);
    let entry = &shop.discovered()[0];
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let file = json!({"path": "sub/config.json", "size": 3, "sha256": abc});
    assert_eq!(entry["artifacts"]["files"][1], file);
    assert_eq!(entry["version_lock"]["locked"], true);
    assert_eq!(entry["version_lock"]["directory_checksum"], entry["artifacts"]["aggregate_sha256"]);
    insta::assert_snapshot!(shop.run(&["verify", "tiny"]).out(), @"2 files, 101 B: all as recorded");
    assert!(
        shop.run(&["lock", "tiny"]).out().contains("locked already, and its files are as recorded")
    );
    // Its facts are left alone.
    let told = shop.run(&["normalize-formats", "--rebuild"]);
    assert!(
        told.stderr.contains("tiny: it is locked") && told.out().contains("nothing to fill in")
    );
    // A byte of the same number, a file less, a file more.
    write(&config, b"abd");
    fs::remove_file(&weights).unwrap();
    write(&shop.path("models/tiny/more.bin"), b"x");
    let differs = shop.run(&["verify", "tiny"]);
    assert_eq!(differs.code, Some(1));
    insta::assert_snapshot!(differs.stdout, @"
    FILE               RESULT
    model.safetensors  is not there
    more.bin           is not among the recorded ones
    sub/config.json    has other bytes of the same number
    version_lock.directory_checksum is not met
    ");
    assert!(
        differs.stderr.contains("error: 3 files of tiny are not as recorded"),
        "{}",
        differs.stderr
    );
    let told: Value =
        serde_json::from_str(&shop.run(&["verify", "tiny", "--json"]).stdout).unwrap();
    assert_eq!((&told["ok"], &told["files"][0]["result"]), (&json!(false), &json!("missing")));
    shop.run(&["lock", "tiny"]).failed(1, "is locked already, and its files are not those");
    assert_eq!(shop.run(&["unlock", "tiny"]).out(), "tiny is unlocked; the recorded hashes stay\n");
    let entry = &shop.discovered()[0];
    assert_eq!(
        (&entry["version_lock"]["locked"], &entry["artifacts"]["files"][1]),
        (&json!(false), &file)
    );
    assert_eq!(shop.run(&["unlock", "tiny"]).out(), "tiny was not locked\n");
    shop.run(&["lock", "tiny"]).out();
    shop.run(&["verify", "tiny"]).out();
    shop.run(&["lock", "no-such"]).failed(3, "no-such");
}

#[test]
fn what_is_curated_gets_a_twin_and_what_the_curated_layer_says_is_not_hidden() {
    let shop = Shop::new(
        json!([
            {"name": "mine", "backend": "vllm", "backend_config": {"model_path": "models/mine"}},
            {"name": "held", "backend": "vllm", "version_lock": {"locked": true},
                "backend_config": {"model_path": "models/mine"}},
            {"name": "server", "backend": "openai", "backend_config": {"base_url": "http://127.0.0.1:1"}}
        ]),
        json!([]),
    );
    write(&shop.path("models/mine/model.safetensors"), &safetensors("BF16"));
    shop.run(&["lock", "mine"]).out();
    assert_eq!(shop.discovered()[0]["name"], "mine");
    shop.run(&["verify", "mine"]).out();
    shop.run(&["lock", "held"]).failed(1, "the curated layer itself has `version_lock`");
    shop.run(&["unlock", "held"]).failed(1, "the curated layer itself has `version_lock`");
    shop.run(&["lock", "server"]).failed(1, "server names no files");
    let elsewhere = shop.run(&["--url", "http://192.0.2.1:9", "lock", "mine"]);
    elsewhere.failed(1, "--url names a daemon elsewhere");
}

#[test]
fn hashes_of_earlier_tools_are_compared_as_far_as_they_go() {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let entry = |name: &str, more: Value| {
        let mut entry = json!({"name": name, "backend": "vllm", "download_path": "models/m"});
        for (key, value) in more.as_object().unwrap() {
            entry[key] = value.clone();
        }
        entry
    };
    let shop = Shop::new(
        json!([]),
        json!([
            entry(
                "some",
                json!({"artifacts": {"files": [{"path": "a", "sha256": abc}]},
                "download_directory_checksum": "0123456789abcdef"})
            ),
            entry("wrong", json!({"download_directory_checksum": abc})),
            entry(
                "leaves",
                json!({"artifacts": {"files": [{"path": "../../secret", "sha256": abc}]}})
            ),
        ]),
    );
    write(&shop.path("models/m/a"), b"abc");
    write(&shop.path("models/m/b"), b"not recorded");
    write(&shop.path("secret"), b"abc");
    let good = shop.run(&["verify", "some"]);
    assert_eq!(good.out(), "1 file, 3 B: all as recorded\n");
    assert!(good.stderr.contains("download_directory_checksum was counted in another way"));
    shop.run(&["verify", "leaves"]);
    let told: Value =
        serde_json::from_str(&shop.run(&["verify", "leaves", "--json"]).stdout).unwrap();
    assert_eq!(told["files"][0]["result"], "missing");
    let wrong = shop.run(&["verify", "wrong"]);
    assert_eq!(
        (wrong.code, wrong.stdout.as_str()),
        (Some(1), "download_directory_checksum is not met\n")
    );
}

#[test]
fn the_hubs_cache_is_followed_into_its_blobs() {
    let shop = Shop::new(
        json!([]),
        json!([{"name": "hub", "backend": "vllm", "backend_config": {"model_path": "org/tiny"}}]),
    );
    let model = shop.path("hf/hub/models--org--tiny");
    write(&model.join("blobs/aa"), &safetensors("BF16"));
    write(&model.join("refs/main"), b"v1");
    fs::create_dir_all(model.join("snapshots/v1")).unwrap();
    symlink("../../blobs/aa", model.join("snapshots/v1/model.safetensors")).unwrap();
    let shop = shop.env("HF_HOME", "hf");
    shop.run(&["normalize-formats"]).out();
    assert_eq!(shop.discovered()[0]["quantization"], "BF16");
    shop.run(&["lock", "hub"]).out();
    write(&model.join("blobs/aa"), &safetensors("F16"));
    let differs = shop.run(&["verify", "hub"]);
    assert_eq!(differs.code, Some(1), "{}", differs.stdout);
}

#[test]
fn ollamas_models_become_entries_once() {
    let ollama = Ollama::start("tiny-vision:7b,tiny-think", &[]);
    let shop = Shop::new(
        json!([]),
        json!([{"name": "old", "backend": "ollama", "served_model_id": "gone:1"}]),
    );
    shop.settings(&format!("[ollama]\nollama_base_url = {:?}\n", ollama.base()));
    insta::assert_snapshot!(shop.run(&["import-ollama", "--dry-run"]).out(), @"
    NAME                     TAG                OUTCOME  QUANT   SIZE    CAN
    tiny-vision_7b_(Q4_K_M)  tiny-vision:7b     new      Q4_K_M  1.3 GB  vision, tools
    tiny-think_(Q4_K_M)      tiny-think:latest  new      Q4_K_M  1.5 GB  tools, reasoning
    old                      gone:1             gone     -       -       -
    2 new, 1 gone (--prune drops what is not curated) (not written: --dry-run)
    ");
    assert_eq!(shop.discovered().as_array().unwrap().len(), 1);
    shop.run(&["import-ollama"]).out();
    let entry = &shop.discovered()[1];
    assert_eq!(entry["name"], "tiny-vision_7b_(Q4_K_M)");
    assert_eq!(entry["served_model_id"], "tiny-vision:7b");
    assert_eq!(entry["metadata"]["trained_context_window"], 32_768);
    assert_eq!(entry["metadata"]["registry_layer"], "discovered");
    let before = shop.discovered();
    let again = shop.run(&["import-ollama"]);
    insta::assert_snapshot!(again.out(), @"
    NAME                     TAG                OUTCOME
    tiny-vision_7b_(Q4_K_M)  tiny-vision:7b     unchanged
    tiny-think_(Q4_K_M)      tiny-think:latest  unchanged
    old                      gone:1             gone
    2 unchanged, 1 gone (--prune drops what is not curated)
    ");
    assert_eq!(shop.discovered(), before);
    let pruned = shop.run(&["import-ollama", "--prune", "--json"]).json();
    assert_eq!(pruned["models"][2]["outcome"], "dropped");
    assert_eq!(shop.ghosts()[0]["entry"]["served_model_id"], "gone:1");
    assert_eq!(ollama.loaded(), [""; 0]);
    // Another Ollama than that of the settings is named in its entries.
    let other = Ollama::start("tiny-plain", &[]);
    shop.run(&["import-ollama", "--ollama-url", &other.base()]).out();
    assert_eq!(shop.discovered()[2]["backend_config"]["base_url"], other.base());
    assert!(
        shop.run(&["import-ollama", "--ollama-url", &other.base()])
            .out()
            .ends_with("1 unchanged\n")
    );
    drop(ollama);
    shop.run(&["import-ollama"]).failed(1, "cannot be reached");
    shop.run(&["import-ollama", "--ollama-url", "ftp://x"]).failed(1, "--ollama-url");
}

#[test]
fn a_probe_writes_its_verdict_where_the_daemon_reads_it() {
    let upstream = Upstream::start(|seen, wire| {
        let tokens =
            if seen.json().to_string().contains("data:image/png;base64,") { 300 } else { 20 };
        let body = json!({"choices": [{"index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": "a cat"}}],
            "usage": {"completion_tokens": 3, "prompt_tokens": tokens}});
        wire.answer("200 OK", "application/json", body.to_string().as_bytes());
    });
    let daemon = Setup::new().entry(daemon::entry("sees", &upstream)).start();
    image::RgbImage::new(8, 8)
        .save_with_format(daemon.path("picture"), image::ImageFormat::Png)
        .expect("a picture");
    let models = Shop::of(&daemon);
    let told = models.run(&["probe-vision", "sees", "--image", "picture", "--write"]);
    assert!(told.out().contains("Written into its entry of the registry"), "{}", told.stdout);
    let want = json!([{"name": "sees", "probes": {"vision": {"vision_ok": true}}}]);
    assert_eq!(models.discovered(), want);
}

#[test]
fn command_lines_beside_each_other_lose_nothing_and_a_killed_one_leaves_a_whole_file() {
    let entries: Vec<Value> = (0..8)
        .map(|n| json!({"name": format!("m{n}"), "backend": "vllm", "download_path": format!("models/m{n}")}))
        .collect();
    let shop = Shop::new(json!([]), entries.into());
    for n in 0..8 {
        write(&shop.path(&format!("models/m{n}/model.safetensors")), &safetensors("BF16"));
    }
    // At once: each locks another one.
    let running: Vec<_> = (0..8).map(|n| shop.spawn(&["lock", &format!("m{n}")])).collect();
    for mut child in running {
        assert!(child.wait().expect("its end").success());
    }
    let all = shop.discovered();
    assert!(all.as_array().unwrap().iter().all(|e| e["version_lock"]["locked"] == true), "{all:#}");
    // A storm of writers, each killed a little later than the one before.
    for round in 0..60u64 {
        let verb = if round % 2 == 0 { "unlock" } else { "lock" };
        let mut child = shop.spawn(&[verb, "m0"]);
        std::thread::sleep(Duration::from_micros(500 * round));
        let _ = child.kill();
        child.wait().expect("its end");
        assert_eq!(shop.discovered().as_array().unwrap().len(), 8, "round {round}");
    }
    shop.run(&["unlock", "m1"]).out();
    let left = fs::read_dir(shop.path("registry")).unwrap().flatten();
    let left: Vec<String> = left.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    assert!(left.iter().all(|name| !name.contains(".new")), "{left:?}");
}
