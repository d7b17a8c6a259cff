//! Merging on hand-written layers, and its laws on random ones.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn layer(list: &Value) -> Vec<LayerEntry> {
    read_layer("l.json", format!("{list:#}").as_bytes()).unwrap().entries
}

fn merged(curated: &Value, discovered: &Value) -> Value {
    let merged = merge(layer(curated), layer(discovered));
    serde_json::from_str(&materialize(&merged)).unwrap()
}

#[test]
fn curated_values_go_over_discovered_ones_and_nulls_do_not() {
    let got = merged(
        &json!([{"name": "a", "display_name": "A", "backend": null, "roles": ["x"],
                 "metadata": {"testing": null, "notes": {"b": 2}}, "mine": 1}]),
        &json!([{"name": "a", "backend": "ollama", "roles": ["y", "z"], "display_name": "old",
                 "metadata": {"testing": true, "notes": {"a": 1}}, "theirs": [1]},
                {"name": "b", "backend": "gguf"}]),
    );
    assert_eq!(
        got,
        json!([{"name": "a", "backend": "ollama", "roles": ["x"], "display_name": "A",
                "metadata": {"testing": true, "notes": {"a": 1, "b": 2}}, "theirs": [1], "mine": 1},
               {"name": "b", "backend": "gguf"}])
    );
}

#[test]
fn every_entry_knows_its_layers_and_its_place() {
    let curated = layer(&json!([{"name": "both"}, {"name": "mine"}]));
    let discovered = layer(&json!([{"name": "theirs"}, {"name": "both"}]));
    let merged = merge(curated, discovered);
    let seen: Vec<_> =
        merged.iter().map(|m| (m.value["name"].as_str().unwrap(), m.layers.clone())).collect();
    assert_eq!(seen[0], ("both", vec![Layer::Curated, Layer::Discovered]));
    assert_eq!(seen[1], ("mine", vec![Layer::Curated]));
    assert_eq!(seen[2], ("theirs", vec![Layer::Discovered]));
    assert_eq!(merged[1].place.to_string(), "l.json:5:3");
}

#[test]
fn bad_entries_are_named_with_line_and_column() {
    let text = "[\n  {\"name\": \"a\"},\n  7,\n  {\"backend\": \"x\"},\n    {\"name\": \"a\"},\n  {\"name\": 5}\n]";
    let layer = read_layer("l.json", text.as_bytes()).unwrap();
    assert_eq!(layer.entries.len(), 1);
    let shown: Vec<String> = layer.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "l.json:3:3: entry: an entry must be an object",
            "l.json:4:3: entry: `name` is missing",
            "l.json:5:5: entry \"a\": the name stands at line 2 already; the first one counts",
            "l.json:6:3: entry: `name` must be a text that is not empty",
        ]
    );
}

#[test]
fn a_file_that_is_no_json_says_where_and_in_which_entry() {
    let error = read_layer(
        "l.json",
        b"[\n {\"name\": \"first\"},\n {\"name\": \"second\", \"backend\": }\n]",
    );
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("l.json:3:") && error.contains("\"second\""), "{error}");
    let error = read_layer("l.json", b"[{\"name\": \"a\xff\"}]").unwrap_err().to_string();
    assert!(error.starts_with("l.json:1:13") && error.contains("UTF-8"), "{error}");
    let error = read_layer("l.json", b"{\"models\": []}").unwrap_err();
    assert!(matches!(error, LoadError::NotAList { .. }), "{error}");
    assert!(read_layer("l.json", b"").is_err());
}

#[test]
fn an_old_single_file_is_split_by_who_wrote_its_entries() {
    let entries = layer(&json!([
        {"name": "a", "backend": "vllm"},
        {"name": "b", "backend": "vllm", "metadata": {"created_from_download": true}},
        {"name": "c", "backend": "Ollama"},
        {"name": "d", "backend": "unassigned", "odd": {"kept": [1]}},
    ]));
    let (curated, discovered) = split_legacy(&entries);
    let names = |text: &str| {
        read_layer("x", text.as_bytes())
            .unwrap()
            .entries
            .into_iter()
            .map(|e| e.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names(&curated), names(&discovered)),
        (vec!["a".into()], vec!["b".into(), "c".into(), "d".into()])
    );
    assert!(discovered.contains("\"kept\""));
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z]{0,4}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn any_layer() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(
        "[a-e]",
        prop::collection::btree_map("[p-t]", any_value(), 0..4),
        0..5,
    )
    .prop_map(|entries| {
        let entry = |(name, fields): (String, std::collections::BTreeMap<String, Value>)| {
            let mut object: Map<String, Value> = fields.into_iter().collect();
            object.insert("name".into(), name.into());
            Value::Object(object)
        };
        Value::Array(entries.into_iter().map(entry).collect())
    })
}

/// What must hold of one value over another, written down without the code's own recursion order.
fn holds(over: &Value, under: Option<&Value>, got: &Value) -> bool {
    match (over, under) {
        (Value::Null, Some(under)) => got == under,
        (Value::Object(over), Some(Value::Object(under))) => {
            let Value::Object(got) = got else { return false };
            over.iter().all(|(k, v)| got.get(k).is_some_and(|g| holds(v, under.get(k), g)))
                && under.iter().all(|(k, v)| over.contains_key(k) || got.get(k) == Some(v))
                && got.keys().all(|k| over.contains_key(k) || under.contains_key(k))
        }
        (over, _) => got == over,
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_and_the_curated_layer_goes_before(curated in any_layer(), discovered in any_layer()) {
        let got = merged(&curated, &discovered);
        let find = |list: &Value, name: &str| {
            list.as_array().unwrap().iter().find(|e| e["name"] == name).cloned()
        };
        let got_list = got.as_array().unwrap();
        for entry in curated.as_array().unwrap() {
            let name = entry["name"].as_str().unwrap();
            let out = find(&got, name).unwrap();
            let below = find(&discovered, name);
            prop_assert!(holds(entry, below.as_ref(), &out), "{entry} over {below:?} gave {out}");
        }
        for entry in discovered.as_array().unwrap() {
            let name = entry["name"].as_str().unwrap();
            if find(&curated, name).is_none() {
                prop_assert_eq!(find(&got, name), Some(entry.clone()));
            }
        }
        let names: std::collections::HashSet<_> = got_list.iter().map(|e| e["name"].as_str()).collect();
        prop_assert_eq!(names.len(), got_list.len());
    }

    /// Reading what was materialised gives the same registry: no field is lost on the way.
    #[test]
    fn entries_round_trip(curated in any_layer(), discovered in any_layer()) {
        let once = merged(&curated, &discovered);
        let again = merged(&once, &json!([]));
        prop_assert_eq!(once, again);
    }
}
