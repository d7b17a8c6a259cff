//! `imageworks-models` (SPEC 9): the real binary by its own name and as `models`, before real
//! daemons with simulated engines. What is shown is looked at with times, ports and pids left out.

mod activating;
mod following;
mod refusals;
pub mod run;

use serde_json::{Value, json};

use crate::support::ollama::Ollama;
use crate::support::{Engines, Setup, Upstream, daemon};
use run::{Models, masked};

#[test]
fn models_are_listed_and_shown_by_either_name_of_the_program() {
    let it = Engines::new()
        .model_with("tiny-a", &["--like-vllm"], json!({}))
        .entry(json!({
            "name": "there", "display_name": "Over there", "backend": "openai",
            "backend_config": {"base_url": "http://127.0.0.1:1"}, "model_aliases": ["t"],
            "roles": ["caption", "judge"], "capabilities": {"vision": true},
            "generation_defaults": {"context_window": 4096},
        }))
        .start();
    let models = Models::of(&it.daemon);
    let list = models.run(&["list"]);
    insta::assert_snapshot!(list.out(), @"
    NAME    SHOWN AS    BACKEND  STATE     CONTEXT  CAN     ROLES
    there   Over there  openai   external  4096     vision  caption, judge
    tiny-a  -           vllm     stopped   -        -       -
    ");
    assert_eq!(models.run_as_subcommand(&["list"]).out(), list.out());
    insta::assert_snapshot!(models.run(&["list", "--role", "judge"]).out(), @"
    NAME   SHOWN AS    BACKEND  STATE     CONTEXT  CAN     ROLES
    there  Over there  openai   external  4096     vision  caption, judge
    ");
    insta::assert_snapshot!(models.run(&["show", "t"]).out(), @"
    name       there
    shown as   Over there
    also       t
    served as  there
    backend    openai
    layers     curated
    state      external
    installed  yes
    context    4096
    can        vision
    reads      text, image
    roles      caption, judge
    templates  none was found
    ");
    let told: Value = models.run(&["list", "--json"]).json();
    assert_eq!((&told["source"], &told["data"][0]["id"]), (&json!("daemon"), &json!("Over there")));
    let one: Value = models.run(&["show", "tiny-a", "--json"]).json();
    assert_eq!(one["extensions"]["logical_id"], "tiny-a");
    let by_url = ["--url", &format!("http://{}/v1/", it.daemon.addr()), "list"];
    assert_eq!(models.run(&by_url).out(), list.out());
}

#[test]
fn figures_and_backends_are_shown() {
    let it = Engines::two().start();
    let models = Models::of(&it.daemon);
    it.assert_answers("tiny-a");
    insta::assert_snapshot!(masked(models.run(&["backends"]).out()), @"
    NAME KIND STATE MODEL PID PORT IN FLIGHT QUEUED UP
    vllm vllm ready tiny-a # # 0 0 [time]
    resident: tiny-a
    ");
    let figures = models.run(&["metrics"]).out().to_owned();
    assert!(figures.contains("active model") && figures.contains("tiny-a"), "{figures}");
    assert!(figures.contains("1 (request 1)"), "{figures}");
    let shown: Value = models.run(&["backends", "--json"]).json();
    assert_eq!(shown["resident"], "tiny-a");
}

#[test]
fn without_a_daemon_the_files_are_read_and_what_needs_one_says_so() {
    let ollama_is_not_asked = "\"http://127.0.0.1:1\"";
    let mut it = Engines::two().set("ollama", "ollama_base_url", ollama_is_not_asked).start();
    let models = Models::of(&it.daemon);
    let before = models.run(&["show", "tiny-a"]).out().to_owned();
    it.daemon.kill();
    let list = models.run(&["list"]);
    assert_eq!(list.stderr, "the daemon does not run; read from the files\n");
    insta::assert_snapshot!(list.out(), @"
    NAME    BACKEND
    tiny-a  vllm
    tiny-b  vllm
    ");
    let after = models.run(&["show", "tiny-a"]);
    assert_eq!(after.out(), before.replace("state      stopped\n", ""));
    let one: Value = models.run(&["show", "tiny-a", "--json"]).json();
    let known = (&one["source"], &one["extensions"]["state"]);
    assert_eq!(known, (&json!("files"), &json!("unknown")));
    models.run(&["show", "no-such"]).failed(3, "no-such");
    models.run(&["select", "caption"]).failed(3, "no model can be taken for the role");
    models.run(&["select", "no-such"]).failed(3, "no-such");
    for verb in
        [&["current-model"][..], &["backends"], &["activate-model", "tiny-a"], &["logs", "x"]]
    {
        let failed = models.run(verb);
        failed.failed(4, "nobody listens at http://127.0.0.1:");
        assert!(failed.stderr.contains("hint: start it with"), "{}", failed.stderr);
    }
    // Files of this machine are not those of a daemon elsewhere.
    models.run(&["--url", "http://192.0.2.1:9", "--timeout", "0.2", "list"]).failed(4, "192.0.2.1");
}

#[test]
fn models_for_a_role_are_the_same_with_a_daemon_and_without() {
    let captions = |name: &str, score: u32| {
        json!({"name": name, "backend": "openai", "role_priority": {"caption": score},
            "capabilities": {"vision": true}, "backend_config": {"base_url": format!("http://127.0.0.1:1/{name}")}})
    };
    let setup = Setup::new().set("profiles", "profile", "\"development\"");
    let mut daemon = setup.entry(captions("good", 50)).entry(captions("best", 90)).start();
    let models = Models::of(&daemon);
    let select = |args: &[&str]| models.run(&[&["select", "caption"], args].concat());
    let told = select(&[]);
    insta::assert_snapshot!(told.out(), @"
    role caption, profile development, 8000 MB of GPU memory, bias efficiency
    #  NAME  BACKEND  SCORE
    1  best  openai   90
    2  good  openai   50
    ");
    assert_eq!(select(&["--top-n", "1", "--json"]).json()["models"][0]["name"], "best");
    let explained = select(&["--explain"]);
    assert!(explained.out().contains("CANDIDATE  TAKEN  WHY"), "{}", explained.out());
    models.run(&["select", "no-such"]).failed(3, "no-such");
    daemon.kill();
    assert_eq!(select(&[]).out(), told.out());
    assert_eq!(select(&["--explain"]).out(), explained.out());
}

#[test]
fn a_port_that_nobody_has_written_down_means_that_no_daemon_runs() {
    let ended = Setup::new().run(&["models", "current-model"]);
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains("no _staging/chat_proxy.port says"), "{}", ended.stderr);
    let empty = Setup::new().run(&["models", "list", "--json"]);
    let list: Value = serde_json::from_str(&empty.stdout).expect("JSON");
    assert_eq!((empty.code, &list["data"]), (Some(0), &json!([])));
}

/// A server that counts a picture as so many tokens; without a number it will not have any.
fn eyes(tokens: Option<u64>) -> Upstream {
    Upstream::start(move |seen, wire| {
        let has_image = seen.json().to_string().contains("data:image/png;base64,");
        let (status, body) = match (has_image, tokens) {
            (true, None) => (
                "400 Bad Request",
                json!({"error": {"code": 400,
                "message": "it is not a multimodal model", "type": "BadRequestError"}}),
            ),
            (_, tokens) => (
                "200 OK",
                json!({"choices": [{"index": 0, "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "a cat"}}],
                "usage": {"completion_tokens": 3,
                    "prompt_tokens": 20 + tokens.filter(|_| has_image).unwrap_or(0)}}),
            ),
        };
        wire.answer(status, "application/json", body.to_string().as_bytes());
    })
}

#[test]
fn a_model_is_probed_for_what_it_does_with_a_picture() {
    let servers = [("sees", eyes(Some(258))), ("ignores", eyes(Some(0))), ("refuses", eyes(None))];
    let setup = servers.iter().fold(Setup::new(), |setup, (name, server)| {
        let mut entry = daemon::entry(name, server);
        entry["capabilities"] = json!({"vision": true});
        setup.entry(entry)
    });
    let daemon = setup.start();
    let picture = daemon.path("picture");
    let png = image::ImageFormat::Png;
    image::RgbImage::new(64, 48).save_with_format(&picture, png).expect("a picture");
    let models = Models::of(&daemon);
    let probe = |name: &str| models.run(&["probe-vision", name, "--image", "picture"]);
    insta::assert_snapshot!(probe("sees").out(), @r#"
    model              sees
    without the image  20 tokens of prompt, 3 of answer: a cat
    with the image     278 tokens of prompt, 3 of answer: a cat
    verdict            it sees images

    In its entry of the registry:
    {"probes":{"vision":{"vision_ok":true}}}
    "#);
    assert!(probe("ignores").out().contains("it does not see images"));
    insta::assert_snapshot!(probe("refuses").out(), @r#"
    model              refuses
    without the image  20 tokens of prompt, 3 of answer: a cat
    with the image     refused: it is not a multimodal model
    verdict            it does not see images

    In its entry of the registry:
    {"probes":{"vision":{"vision_ok":false}}}
    "#);
    let told = models.run(&["probe-vision", "sees", "--image", "picture", "--json"]).json();
    assert_eq!(told["vision_ok"], true, "{told}");
    assert_eq!(told["entry"], json!({"probes": {"vision": {"vision_ok": true}}}));
    probe("no-such").failed(3, "no-such");
    models.run(&["probe-vision", "sees", "--image", "chat_proxy.toml"]).failed(1, "is no picture");
    models.run(&["probe-vision", "sees", "--image", "no-such"]).failed(1, "No such file");
}

#[test]
fn ollamas_models_are_loaded_named_and_unloaded() {
    let ollama = Ollama::start("tiny-o", &["--sim-load-ms", "300"]);
    let it = Engines::two()
        .set("ollama", "ollama_base_url", format!("{:?}", ollama.base()))
        .entry(ollama.entry("small", "tiny-o"))
        .start();
    let models = Models::of(&it.daemon);
    models.run(&["activate-model", "tiny-a"]);
    let done = models.run(&["activate-model", "small"]);
    assert_eq!(masked(done.out()), "small is ready ([time])\n");
    assert_eq!(models.run(&["current-model"]).out(), "tiny-o:latest\n");
    assert_eq!(ollama.loaded(), ["tiny-o:latest"]);
    assert_eq!(models.run(&["activate-model", "--stop"]).out(), "stopped: tiny-o:latest\n");
    assert_eq!(ollama.loaded(), [""; 0]);
    assert_eq!(models.run(&["activate-model", "--stop"]).out(), "nothing is resident\n");
}
