//! Edits of hand-written layers, and their laws on random ones.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn set(name: &str, fields: Value) -> Change {
    let Value::Object(fields) = fields else { panic!("an object") };
    Change::Set { name: name.to_owned(), fields }
}

fn gone(name: &str) -> Change {
    Change::Remove { name: name.to_owned() }
}

fn edit(text: &str, changes: &[Change]) -> Option<String> {
    apply("l.json", Some(text.as_bytes()), changes).unwrap()
}

const LAYER: &str = r#"[
  {
    "zeta": [1, null],
    "name": "b",
    "metadata": {
      "x": 1,
      "notes": { "k": "v" }
    }
  },
  { "name": "a", "backend": "gguf" }
]"#;

#[test]
fn fields_are_merged_and_all_else_stays_as_it_was() {
    let fields =
        json!({"metadata": {"x": null, "new": {"y": null, "z": 2}}, "quantization": "awq"});
    let want = r#"[
  {
    "zeta": [
      1,
      null
    ],
    "name": "b",
    "metadata": {
      "notes": {
        "k": "v"
      },
      "new": {
        "z": 2
      }
    },
    "quantization": "awq"
  },
  {
    "name": "a",
    "backend": "gguf"
  }
]
"#;
    assert_eq!(edit(LAYER, &[set("b", fields)]).as_deref(), Some(want));
}

#[test]
fn what_is_so_already_is_no_change() {
    for nothing in [
        vec![],
        vec![set("a", json!({"backend": "gguf", "gone": null}))],
        vec![set("b", json!({"metadata": {"notes": {"k": "v", "l": null}}}))],
        vec![set("new", json!({}))],
        vec![set("new", json!({"x": null}))],
        vec![gone("no-such")],
    ] {
        assert_eq!(edit(LAYER, &nothing), None, "{nothing:?}");
    }
}

#[test]
fn entries_come_at_the_end_and_go_wherever_they_are() {
    let text = edit(LAYER, &[set("c", json!({"backend": "ollama"})), gone("b")]).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list, json!([{"name": "a", "backend": "gguf"}, {"name": "c", "backend": "ollama"}]));
    let first = apply("l.json", None, &[set("a", json!({"x": 1}))]).unwrap().unwrap();
    assert_eq!(first, "[\n  {\n    \"name\": \"a\",\n    \"x\": 1\n  }\n]\n");
}

#[test]
fn the_first_of_two_is_the_one_that_counts_and_strangers_stay() {
    let text = r#"[7, {"name": " a "}, {"name": "a", "x": 1}, {"backend": "vllm"}]"#;
    let text = edit(text, &[set("a", json!({"x": 2}))]).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let want = json!([7, {"name": " a ", "x": 2}, {"name": "a", "x": 1}, {"backend": "vllm"}]);
    assert_eq!(list, want);
}

#[test]
fn a_layer_that_cannot_be_read_is_not_written() {
    let change = [set("a", json!({"x": 1}))];
    let error = apply("l.json", Some(b"[{\"name\": \"a\",}]"), &change).unwrap_err();
    assert!(error.to_string().starts_with("l.json:1:15: "), "{error}");
    assert!(matches!(apply("l.json", Some(b"{}"), &change), Err(LoadError::NotAList { .. })));
    assert!(apply("l.json", Some(b"\xef\xbb\xbf[]"), &change).unwrap().is_some());
}

fn layers(curated: &Value, discovered: &Value) -> Layers {
    let read = |list: &Value| layers::read_layer("l", list.to_string().as_bytes()).unwrap().entries;
    Layers { curated: read(curated), discovered: read(discovered) }
}

#[test]
fn it_is_told_which_layer_says_what() {
    let layers = layers(
        &json!([{"name": "a", "quantization": null, "chat_template": {"path": null},
            "probes": {"vision": {"vision_ok": false}}}]),
        &json!([{"name": "b"}, {"name": "a", "quantization": "awq", "version_lock": {"locked": true}}]),
    );
    assert_eq!(layers.names(), ["a", "b"]);
    assert!(
        !layers.is_curated("a", &["quantization"]) && !layers.is_curated("a", &["chat_template"])
    );
    assert!(layers.is_curated("a", &["probes", "vision", "vision_ok"]));
    assert!(!layers.is_curated("b", &["name"]) && !layers.is_curated("b", &[]));
    let merged = layers.merged("a").unwrap();
    assert_eq!(merged["quantization"], "awq");
    assert!(is_locked(&merged) && layers.merged("c").is_none());
    assert!(!is_locked(layers.in_layer(Layer::Discovered, "b").unwrap()));
    for (lock, want) in [(json!(null), false), (json!({}), false), (json!(true), true)] {
        let entry = Map::from_iter([("version_lock".to_owned(), lock)]);
        assert_eq!(is_locked(&entry), want);
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-zé\"\\\\\n]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec(("[a-d]", inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn fields() -> impl Strategy<Value = Map<String, Value>> {
    proptest::collection::vec(("[a-d]", value()), 0..4)
        .prop_map(|pairs| pairs.into_iter().collect())
}

fn layer() -> impl Strategy<Value = Vec<Value>> {
    proptest::collection::vec(("[p-s]", fields()), 0..5).prop_map(|entries| {
        let named = |(name, fields): (String, Map<String, Value>)| {
            let mut entry = Map::from_iter([("name".to_owned(), Value::from(name))]);
            entry.extend(fields);
            Value::Object(entry)
        };
        entries.into_iter().map(named).collect()
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => ("[p-t]", fields()).prop_map(|(name, fields)| Change::Set { name, fields }),
        1 => "[p-t]".prop_map(|name| Change::Remove { name }),
    ]
}

/// Keys in their order, with values.
fn pairs(entry: &Value) -> Vec<(&String, &Value)> {
    entry.as_object().unwrap().iter().collect()
}

proptest! {
    #[test]
    fn setting_twice_is_setting_once(layer in layer(), name in "[p-t]", fields in fields()) {
        let text = Value::from(layer).to_string();
        let change = [Change::Set { name, fields }];
        if let Some(once) = edit(&text, &change) {
            prop_assert_eq!(edit(&once, &change), None);
        }
    }

    #[test]
    fn what_no_change_names_is_kept_in_its_order(layer in layer(), name in "[p-t]", fields in fields()) {
        let before = Value::from(layer.clone()).to_string();
        let Some(text) = edit(&before, &[Change::Set { name: name.clone(), fields: fields.clone() }]) else {
            return Ok(());
        };
        let after: Vec<Value> = serde_json::from_str(&text).unwrap();
        let first = layer.iter().position(|entry| entry["name"] == name.as_str());
        prop_assert_eq!(after.len(), layer.len() + usize::from(first.is_none()));
        for (position, (old, new)) in layer.iter().zip(&after).enumerate() {
            if Some(position) != first {
                prop_assert_eq!(pairs(old), pairs(new));
                continue;
            }
            let kept = |pairs: Vec<(&String, &Value)>| -> Vec<(String, Value)> {
                let kept = pairs.into_iter().filter(|(key, _)| !fields.contains_key(*key));
                kept.map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            prop_assert_eq!(kept(pairs(old)), kept(pairs(new)));
        }
    }

    #[test]
    fn a_change_says_whether_it_changed(layer in layer(), changes in proptest::collection::vec(change(), 0..4)) {
        let before = Value::from(layer.clone());
        let after = edit(&before.to_string(), &changes);
        if let Some(text) = &after {
            let list = Value::from(read_list("l", Some(text.as_bytes())).unwrap());
            prop_assert!(text.ends_with("]\n") && list != before, "{}", text);
        }
        // What is done and undone is no change.
        let sets_and_removes: Vec<Change> = [set("new", json!({"x": 1})), gone("new")].into();
        prop_assert_eq!(edit(&before.to_string(), &sets_and_removes), None);
    }
}
