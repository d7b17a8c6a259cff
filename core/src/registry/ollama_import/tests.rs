use serde_json::json;

use super::*;
use crate::registry::edit;
use crate::registry::layers::{LayerEntry, LayerFile, read_layer};
use crate::registry::ollama::default_server;
use crate::registry::{EndpointRules, Rules};

fn read(list: &Value) -> Vec<LayerEntry> {
    read_layer("l", list.to_string().as_bytes()).unwrap().entries
}

fn planned(curated: &Value, discovered: &Value, models: &[Model], prune: bool) -> Plan {
    let layers = Layers { curated: read(curated), discovered: read(discovered) };
    let file = |list: &Value| LayerFile { entries: read(list), problems: Vec::new() };
    let (snapshot, _) = Snapshot::build(file(curated), file(discovered), &Rules::default());
    let server = default_server(&EndpointRules::default()).unwrap();
    plan(&layers, &snapshot, &Source { server: &server, base_url: None }, models, prune)
}

fn model(tag: &str, quantization: &str) -> Model {
    let tag = Tag {
        name: tag.to_owned(),
        size: Some(4_700_000_000),
        digest: None,
        capabilities: None,
        family: Some("qwen25vl".into()),
        parameter_size: Some("8.3B".into()),
        quantization: Some(quantization.to_owned()),
    };
    let capabilities = Some(vec!["completion".to_owned(), "vision".to_owned()]);
    let show = Show { capabilities, context_length: Some(128_000), ..Show::default() };
    Model { tag, show: Some(show) }
}

fn rows(plan: &Plan) -> Vec<String> {
    plan.rows.iter().map(|row| format!("{} {} {}", row.name, row.tag, row.fate.as_str())).collect()
}

#[test]
fn a_model_becomes_an_entry_and_then_nothing_changes() {
    let models = [model("qwen2.5vl:7b", "Q4_K_M")];
    let plan = planned(&json!([]), &json!([]), &models, true);
    assert_eq!(rows(&plan), ["qwen2.5vl_7b_(Q4_K_M) qwen2.5vl:7b new"]);
    let text = edit::apply("l", None, &plan.changes).unwrap().unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        list,
        json!([{"name": "qwen2.5vl_7b_(Q4_K_M)", "display_name": "qwen2.5vl:7b",
            "backend": "ollama", "served_model_id": "qwen2.5vl:7b", "family": "qwen25vl",
            "quantization": "Q4_K_M", "capabilities": {"vision": true, "tools": false,
            "reasoning": false}, "download_format": "gguf", "download_size_bytes": 4_700_000_000_u64,
            "metadata": {"registry_layer": "discovered",
                "ollama_capabilities": ["completion", "vision"],
                "trained_context_window": 128_000, "parameter_size": "8.3B"}}])
    );
    let again = planned(&json!([]), &list, &models, true);
    assert_eq!(
        (again.changes.len(), rows(&again)),
        (0, vec!["qwen2.5vl_7b_(Q4_K_M) qwen2.5vl:7b unchanged".into()])
    );
}

#[test]
fn entries_of_other_names_are_kept_and_told_the_facts() {
    let curated = json!([{"name": "mine", "backend": "ollama", "served_model_id": "m"},
        {"name": "else", "backend": "ollama", "served_model_id": "x",
            "backend_config": {"base_url": "http://10.0.0.1:11434"}}]);
    let discovered = json!([
        {"name": "old-1", "backend": "ollama", "served_model_id": "q:7b", "extra": 1},
        {"name": "old-2", "backend": "ollama", "served_model_id": "q:7b", "quantization": "Q8_0"},
        {"name": "held", "backend": "ollama", "served_model_id": "h", "version_lock": {"locked": true}},
        {"name": "x_(F16)", "backend": "vllm"}]);
    let models = [
        model("m:latest", "F16"),
        model("q:7b", "F16"),
        model("h:latest", "F16"),
        model("x:latest", "F16"),
    ];
    let plan = planned(&curated, &discovered, &models, true);
    assert_eq!(
        rows(&plan),
        [
            "mine m:latest updated",
            "old-1 q:7b updated",
            "old-2 q:7b updated",
            "held h:latest locked",
            "x_(F16)_2 x:latest new",
        ]
    );
    let text = edit::apply("l", Some(discovered.to_string().as_bytes()), &plan.changes).unwrap();
    let list: Value = serde_json::from_str(&text.unwrap()).unwrap();
    assert_eq!((&list[0]["extra"], &list[1]["quantization"]), (&json!(1), &json!("F16")));
    assert_eq!((&list[4]["name"], &list[4]["backend"]), (&json!("mine"), &json!(null)));
}

#[test]
fn what_is_gone_stays_until_it_is_pruned_and_curated_entries_stay_for_ever() {
    let curated = json!([{"name": "both", "roles": ["chat"]}]);
    let discovered = json!([
        {"name": "both", "backend": "ollama", "served_model_id": "b:1"},
        {"name": "lone", "backend": "ollama", "served_model_id": "l:1", "extra": 1},
        {"name": "other", "backend": "vllm"}]);
    let plan = planned(&curated, &discovered, &[], false);
    assert_eq!(rows(&plan), ["both b:1 gone", "lone l:1 gone"]);
    assert_eq!(plan.changes, []);
    let plan = planned(&curated, &discovered, &[], true);
    assert_eq!(rows(&plan), ["both b:1 gone", "lone l:1 dropped"]);
    assert_eq!(plan.changes, [Change::Remove { name: "lone".into() }]);
    assert_eq!(plan.ghosts[0].entry["extra"], 1);
}

#[test]
fn names_are_plain_and_say_the_quantisation_once() {
    for (tag, quantization, want) in [
        ("qwen2.5vl:7b", Some("Q4_K_M"), "qwen2.5vl_7b_(Q4_K_M)"),
        ("tiny:latest", Some("F16"), "tiny_(F16)"),
        ("hf.co/org/M-GGUF:Q4_K_M", Some("Q4_K_M"), "hf.co_org_M-GGUF_Q4_K_M"),
        ("llama3.1:8b-instruct-q8_0", Some("Q8_0"), "llama3.1_8b-instruct-q8_0"),
        ("m:1", None, "m_1"),
    ] {
        let tag = Tag { quantization: quantization.map(str::to_owned), ..model(tag, "").tag };
        assert_eq!(entry_name(&tag), want);
    }
    assert_eq!(free_name("resident", &[]), "resident_2");
}

#[test]
fn shows_of_every_age_are_read() {
    let show = json!({"parameters": "stop \"x\"\nnum_ctx                        8192\n",
        "model_info": {"general.architecture": "a", "a.context_length": 4096, "b.context_length": 1},
        "details": {"format": "gguf"}, "capabilities": ["completion"]});
    let want = Show {
        capabilities: Some(vec!["completion".into()]),
        context_length: Some(4096),
        num_ctx: Some(8192),
        format: Some("gguf".into()),
    };
    assert_eq!(Show::parse(show.to_string().as_bytes()), Some(want));
    assert_eq!(Show::parse(b"{}"), Some(Show::default()));
    assert_eq!(Show::parse(b"[]"), None);
    let old = Model { show: None, ..model("m:1", "F16") };
    assert!(facts(&old).get("capabilities").is_none(), "what is not said is not written");
}
