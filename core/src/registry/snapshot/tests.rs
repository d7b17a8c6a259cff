//! Loading and resolution on hand-written registries.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn load(list: &Value) -> Snapshot {
    let rules = EndpointRules { vllm_single_port: true, ..EndpointRules::default() };
    Snapshot::load("r.json", list.to_string().as_bytes(), &rules).unwrap()
}

fn found(snapshot: &Snapshot, name: &str) -> Result<String, Code> {
    snapshot.resolve(name).map(|(e, _)| e.name.clone()).map_err(|e| e.code)
}

#[test]
fn names_are_found_on_every_level() {
    let snapshot = load(&json!([
        {"name": "qwen2.5vl_7b_(Q4_K_M)", "backend": "ollama", "served_model_id": "qwen2.5vl:7b",
         "display_name": "Qwen VL", "quantization": "Q4_K_M", "model_aliases": ["vl", "eyes"]},
        {"name": "mini", "backend": "gguf"},
    ]));
    let qwen = Ok("qwen2.5vl_7b_(Q4_K_M)".to_owned());
    for name in [
        "qwen2.5vl_7b_(Q4_K_M)",
        "vl",
        "EYES",
        "qwen2.5vl:7b",
        "Qwen VL",
        "qwen-vl",
        "qwen2.5vl 7b (Q4 K M)",
        "Qwen VL (Q4_K_M)",
        "qwen vl-q4_k_m",
    ] {
        assert_eq!(found(&snapshot, name), qwen, "{name}");
    }
    assert_eq!(found(&snapshot, "nothing"), Err(Code::ModelNotFound));
    assert_eq!(found(&snapshot, ""), Err(Code::ModelNotFound));
    assert_eq!(found(&snapshot, "()"), Err(Code::ModelNotFound));
}

#[test]
fn an_earlier_level_beats_a_later_one() {
    let snapshot = load(&json!([
        {"name": "a", "backend": "gguf", "display_name": "b", "backend_config": {"port": 1}},
        {"name": "b", "backend": "gguf", "backend_config": {"port": 2}},
        {"name": "c", "backend": "gguf", "model_aliases": ["A"], "backend_config": {"port": 3}},
    ]));
    assert_eq!(found(&snapshot, "b"), Ok("b".into()));
    assert_eq!(found(&snapshot, "A"), Ok("c".into()), "an exact alias beats a folded name");
}

#[test]
fn two_backends_of_one_name_are_ambiguous_and_one_target_is_not() {
    let snapshot = load(&json!([
        {"name": "x1", "backend": "gguf", "display_name": "X", "backend_config": {"port": 1}},
        {"name": "x2", "backend": "gguf", "display_name": "X", "backend_config": {"port": 2}},
        {"name": "old", "backend": "ollama", "served_model_id": "t:1", "display_name": "T", "deprecated": true},
        {"name": "zz", "backend": "ollama", "served_model_id": "t:1", "display_name": "T"},
    ]));
    let error = snapshot.resolve("X").unwrap_err();
    assert_eq!(error.code, Code::ModelAmbiguous);
    assert!(error.message.contains("x1, x2"), "{}", error.message);
    assert_eq!(found(&snapshot, "t:1"), Ok("zz".into()), "the one that is listed");
}

#[test]
fn near_misses_are_named() {
    let snapshot = load(&json!([
        {"name": "llama-3.1-8b-instruct", "backend": "gguf"},
        {"name": "whisper", "backend": "gguf"},
    ]));
    let error = snapshot.resolve("llama-3.1-8b").unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("did you mean: llama-3.1-8b-instruct?"));
    let error = snapshot.resolve("zzzzqq").unwrap_err();
    assert!(error.hint.unwrap().contains("/v1/models"));
}

#[test]
fn a_name_of_megabytes_costs_nothing() {
    let list: Vec<Value> =
        (0..50).map(|i| json!({"name": format!("m{i}"), "backend": "gguf"})).collect();
    let snapshot = load(&Value::Array(list));
    let error = snapshot.resolve(&"m".repeat(64 << 20)).unwrap_err();
    assert_eq!(error.code, Code::ModelNotFound);
    assert!(error.message.len() < 500);
}

#[test]
fn reserved_names_have_their_own_answer() {
    let snapshot = load(&json!([{"name": "a", "backend": "gguf", "model_aliases": ["resident"]}]));
    assert_eq!(found(&snapshot, "resident"), Err(Code::NoResident));
    assert_eq!(found(&snapshot, "role:caption"), Err(Code::ModelNotFound));
}

#[test]
fn one_bad_entry_does_not_hide_the_good_ones() {
    let snapshot = load(&json!([
        {"name": "good", "backend": "gguf"},
        {"name": "bad", "backend": "gguf", "backend_config": {"port": "x"}},
        "noise",
        {"name": "good", "backend": "triton"},
        {"name": "worse", "backend": "openai", "backend_config": {"base_url": "ftp://x"}},
    ]));
    assert_eq!(snapshot.entries().len(), 1);
    let shown: Vec<String> = snapshot.problems().iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 4);
    assert!(
        shown.iter().any(|s| s.starts_with("r.json:1:") && s.contains("entry \"bad\": port")),
        "{shown:?}"
    );
    assert!(shown.iter().any(|s| s.contains("the name stands at line 1 already")), "{shown:?}");
    assert!(shown.iter().any(|s| s.contains("must be an object")), "{shown:?}");
    assert!(shown.iter().any(|s| s.contains("\"worse\"") && s.contains("http://")), "{shown:?}");
}

#[test]
fn a_broken_file_says_where() {
    let rules = EndpointRules::default();
    let error = Snapshot::load("r.json", b"[\n  {\"name\": }\n]", &rules).unwrap_err();
    assert!(matches!(&error, LoadError::Syntax { place, .. } if place.line == 2), "{error}");
    let error = Snapshot::load("r.json", b"{}", &rules).unwrap_err();
    assert!(matches!(error, LoadError::NotAList { .. }));
    assert!(Snapshot::load("r.json", b"\xef\xbb\xbf[]", &rules).is_ok());
}

proptest! {
    /// Every entry is reachable by its own logical name, whatever the others are called.
    #[test]
    fn a_logical_name_always_finds_its_own_entry(
        names in prop::collection::btree_set("[a-cA-C._ -]{1,4}[a-c]", 1..12),
        aliases in prop::collection::vec("[a-c]{1,3}", 0..12),
    ) {
        let list: Vec<Value> = names.iter().enumerate().map(|(i, name)| json!({
            "name": name, "backend": "gguf", "backend_config": {"port": i + 1},
            "model_aliases": aliases.get(i).map_or(json!(null), |a| json!([a])),
        })).collect();
        let snapshot = load(&Value::Array(list));
        for entry in snapshot.entries() {
            prop_assert_eq!(found(&snapshot, &entry.name), Ok(entry.name.clone()));
        }
    }
}
