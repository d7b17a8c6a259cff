use super::*;
use crate::registry::layers::read_layer;

fn layers(curated: &Value, discovered: &Value) -> Layers {
    let read = |list: &Value| read_layer("l", list.to_string().as_bytes()).unwrap().entries;
    Layers { curated: read(curated), discovered: read(discovered) }
}

fn at(path: &str) -> Paths {
    Paths { download: Some(path.to_owned()), model: None }
}

fn awq() -> Look {
    let template = json!({"source": "external", "path": "/m/a/chat_template.jinja"});
    Look::Found(Box::new(Sight {
        found: Found {
            format: "awq".into(),
            quantization: Some("awq".into()),
            size_bytes: 12,
            files: vec!["a".into(), "b".into()],
            ..Found::default()
        },
        template: template.as_object().cloned(),
    }))
}

fn planned(curated: &Value, discovered: &Value, looks: &[(Paths, Look)], rebuild: bool) -> Plan {
    let looks = looks.iter().cloned().collect();
    plan(&layers(curated, discovered), &looks, Rules { rebuild })
}

fn changed(plan: &Plan) -> Vec<String> {
    let line = |field: &FieldChange| {
        let (was, now) = (shown(Some(&field.was)), shown(Some(&field.now)));
        format!("{} {}: {was} > {now}", field.name, field.field)
    };
    plan.fields.iter().map(line).collect()
}

fn notes(plan: &Plan) -> Vec<String> {
    plan.notes.iter().map(|note| format!("{} {}: {}", note.name, note.kind, note.message)).collect()
}

#[test]
fn facts_are_filled_in_where_there_are_none() {
    let discovered = json!([{"name": "a", "backend": "vllm", "download_path": "/m/a",
        "quantization": "None", "chat_template": {"source": null}, "download_files": []}]);
    let plan = planned(&json!([]), &discovered, &[(at("/m/a"), awq())], false);
    let want = [
        "a download_format:  > awq",
        "a quantization:  > awq",
        "a download_size_bytes:  > 12",
        "a download_files:  > 2 files",
        "a chat_template:  > external /m/a/chat_template.jinja",
    ];
    assert_eq!(changed(&plan), want);
    let Change::Set { name, fields } = &plan.changes[0] else { panic!("{plan:?}") };
    assert_eq!((name.as_str(), fields.len()), ("a", 5));
}

#[test]
fn what_tools_wrote_is_overwritten_only_when_that_is_asked_for() {
    let discovered = json!([{"name": "a", "backend": "vllm", "download_path": "/m/a",
        "download_format": "AWQ", "quantization": "gptq", "download_size_bytes": 12.0,
        "download_files": ["b", "a"],
        "chat_template": {"source": "external", "path": "/m/a/chat_template.jinja", "sha256": "x"}}]);
    let looks = [(at("/m/a"), awq())];
    let without = planned(&json!([]), &discovered, &looks, false);
    assert_eq!((changed(&without), without.changes.len()), (Vec::new(), 0));
    assert_eq!(
        notes(&without),
        ["a differs: quantization is gptq, found was awq (--rebuild writes that)"]
    );
    let with = planned(&json!([]), &discovered, &looks, true);
    assert_eq!(changed(&with), ["a quantization: gptq > awq"]);
}

#[test]
fn what_is_curated_stands_and_a_curated_entry_gets_a_twin_of_facts() {
    let curated = json!([{"name": "a", "backend": "vllm", "quantization": "my own",
        "backend_config": {"model_path": "/m/a"}, "chat_template": {"path": "t.jinja"}}]);
    let paths = Paths { download: None, model: Some("/m/a".into()) };
    let plan = planned(&curated, &json!([]), &[(paths, awq())], true);
    let Change::Set { name, fields } = &plan.changes[0] else { panic!("{plan:?}") };
    assert_eq!(name, "a");
    let names: Vec<&String> = fields.keys().collect();
    assert_eq!(names, ["download_format", "download_size_bytes", "download_files"]);
}

#[test]
fn locked_entries_are_left_alone() {
    let discovered = json!([
        {"name": "a", "backend": "vllm", "download_path": "/m/a", "version_lock": {"locked": true}},
        {"name": "g", "backend": "vllm", "download_path": "/m/g", "version_lock": {"locked": true}}]);
    let looks = [(at("/m/a"), awq()), (at("/m/g"), Look::Gone)];
    let plan = planned(&json!([]), &discovered, &looks, true);
    assert_eq!(plan.changes, []);
    assert_eq!(
        notes(&plan),
        [
            "a locked: it is locked: its facts are left alone (see `unlock`)",
            "g missing: /m/g is not there; the entry is locked, so it stays"
        ]
    );
}

#[test]
fn ghosts_are_dropped_unless_they_are_curated() {
    let curated = json!([{"name": "mine", "display_name": "Mine"}]);
    let discovered = json!([
        {"name": "here", "backend": "vllm", "download_path": "/m/a"},
        {"name": "gone", "backend": "vllm", "download_path": "/m/gone", "extra": 1},
        {"name": "mine", "backend": "vllm", "download_path": "/m/mine"},
        {"name": "tag", "backend": "ollama", "served_model_id": "t:1"},
        {"name": "away", "backend": "vllm", "download_path": "/m/away"},
        {"name": "newer", "backend": "vllm", "download_path": "/m/newer"},
    ]);
    let looks = [
        (at("/m/a"), awq()),
        (at("/m/gone"), Look::Gone),
        (at("/m/mine"), Look::Gone),
        (at("/m/away"), Look::Unclear("/m/away: permission denied".into())),
    ];
    let plan = planned(&curated, &discovered, &looks, false);
    assert_eq!(plan.ghosts.len(), 1);
    assert_eq!(
        (plan.ghosts[0].path.as_str(), &plan.ghosts[0].entry["extra"]),
        ("/m/gone", &json!(1))
    );
    assert!(plan.changes.contains(&Change::Remove { name: "gone".into() }));
    assert_eq!(
        notes(&plan),
        [
            "mine missing: /m/mine is not there; the entry is curated, so it stays",
            "away unclear: /m/away: permission denied"
        ]
    );
}

#[test]
fn a_disk_that_is_away_takes_no_entries_with_it() {
    let discovered = json!([
        {"name": "a", "backend": "vllm", "download_path": "/m/a"},
        {"name": "b", "backend": "vllm", "download_path": "/m/b"}]);
    let looks = [(at("/m/a"), Look::Gone), (at("/m/b"), Look::Gone)];
    let careful = planned(&json!([]), &discovered, &looks, false);
    assert_eq!((careful.changes.len(), careful.ghosts.len(), careful.notes.len()), (0, 0, 2));
    assert!(careful.notes[0].message.contains("is a disk away?"), "{careful:?}");
    let told = planned(&json!([]), &discovered, &looks, true);
    assert_eq!((told.changes.len(), told.ghosts.len()), (2, 2));
    let one = json!([discovered[0].clone()]);
    assert_eq!(planned(&json!([]), &one, &looks, false).ghosts.len(), 1);
}

#[test]
fn templates_of_servers_are_their_own_affair() {
    let discovered = json!([{"name": "a", "backend": "Ollama", "download_path": "/m/a"}]);
    let plan = planned(&json!([]), &discovered, &[(at("/m/a"), awq())], false);
    assert!(plan.fields.iter().all(|field| field.field != "chat_template"), "{plan:?}");
}

#[test]
fn paths_are_read_as_sloppily_as_files_are() {
    let of = |entry: Value| Paths::of(entry.as_object().unwrap());
    assert_eq!(of(json!({"download_path": " "})), None);
    assert_eq!(of(json!({"download_path": null, "backend_config": null})), None);
    assert_eq!(of(json!({"download_path": "None"})), None);
    assert_eq!(of(json!({"download_path": "ollama://qwen:7b"})), None);
    let both = of(json!({"download_path": "/d", "backend_config": {"model_path": "/m"}})).unwrap();
    assert_eq!((both.iter().collect::<Vec<_>>(), both.shown()), (vec!["/d", "/m"], "/d"));
}
