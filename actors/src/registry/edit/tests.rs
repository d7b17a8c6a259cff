use std::os::unix::fs::PermissionsExt;

use serde_json::{Map, json};

use super::super::files::CURATED;
use super::*;

fn settings(dir: &Path) -> RegistrySettings {
    RegistrySettings {
        dir: dir.join("registry"),
        state_dir: dir.join("state"),
        ..RegistrySettings::default()
    }
}

fn set(name: &str, fields: &Value) -> Edits {
    let fields: Map<String, Value> = fields.as_object().unwrap().clone();
    let change = Change::Set { name: name.to_owned(), fields };
    Edits { changes: vec![change], dropped: Vec::new() }
}

fn discovered(settings: &RegistrySettings) -> Value {
    serde_json::from_slice(&fs::read(settings.dir.join(DISCOVERED)).unwrap()).unwrap()
}

#[test]
fn changes_of_many_at_once_are_all_there() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let settings = &settings;
            scope.spawn(move || {
                for number in 0..10 {
                    let name = format!("m-{writer}-{number}");
                    let (is_new, seen) = change(settings, |opened| {
                        (set(&name, &json!({"backend": "gguf"})), opened.layers.discovered.len())
                    })
                    .unwrap();
                    assert!(is_new && seen < 40);
                }
            });
        }
    });
    assert_eq!(discovered(&settings).as_array().unwrap().len(), 40);
}

#[test]
fn who_holds_the_lock_too_long_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let held = Lock::take(dir.path(), PATIENCE).unwrap();
    let error = Lock::take(dir.path(), Duration::from_millis(30)).err().unwrap();
    let owner = format!("process {}", std::process::id());
    assert!(error.to_string().contains(&owner), "{error}");
    drop(held);
    Lock::take(dir.path(), Duration::ZERO).unwrap();
}

#[test]
fn what_has_not_changed_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    fs::create_dir_all(&settings.dir).unwrap();
    let path = settings.dir.join(DISCOVERED);
    let text = r#"[{"name":"a","backend":"gguf"}]"#;
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let same = change(&settings, |_| (set("a", &json!({"backend": "gguf"})), ())).unwrap();
    assert!(!same.0 && fs::read_to_string(&path).unwrap() == text);
    let other = change(&settings, |_| (set("a", &json!({"backend": "vllm"})), ())).unwrap();
    assert!(other.0 && fs::metadata(&path).unwrap().permissions().mode() & 0o777 == 0o640);
}

#[test]
fn dropped_entries_are_added_to_those_before() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    for name in ["a", "b"] {
        let edits = Edits { changes: Vec::new(), dropped: vec![json!({"name": name})] };
        change(&settings, |_| (edits, ())).unwrap();
    }
    let path = settings.dir.join(GHOSTS);
    let list: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(list, json!([{"name": "a"}, {"name": "b"}]));
    // A list that somebody has broken is not lost, and nothing is dropped.
    fs::write(&path, "[{").unwrap();
    let remove = Edits {
        changes: vec![Change::Set {
            name: "x".into(),
            fields: Map::from_iter([("y".into(), 1.into())]),
        }],
        dropped: vec![json!({"name": "c"})],
    };
    change(&settings, |_| (remove, ())).unwrap_err();
    assert_eq!(fs::read_to_string(&path).unwrap(), "[{");
    assert!(!settings.dir.join(DISCOVERED).exists());
}

#[test]
fn an_old_single_file_is_split_before_it_would_be_hidden() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    fs::create_dir_all(&settings.dir).unwrap();
    let old = json!([{"name": "mine", "backend": "vllm"}, {"name": "theirs", "backend": "ollama"}]);
    fs::write(settings.dir.join("model_registry.json"), old.to_string()).unwrap();
    let names = change(&settings, |opened| {
        let names = opened.layers.names().join(" ");
        (set("new", &json!({"backend": "gguf"})), names)
    });
    assert_eq!(names.unwrap().1, "mine theirs");
    assert_eq!(discovered(&settings).as_array().unwrap().len(), 2);
    assert!(settings.dir.join(CURATED).exists());
}

#[test]
fn what_the_killed_have_left_is_swept_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    fs::create_dir_all(&settings.dir).unwrap();
    let left = ".model_registry.discovered.json.123.new";
    let others =
        [".model_registry.discovered.json.new", ".model_registry.curated.json.1.new", "x.new"];
    for name in others.iter().chain([&left]) {
        fs::write(settings.dir.join(name), "").unwrap();
    }
    change(&settings, |_| (Edits::default(), ())).unwrap();
    assert!(!settings.dir.join(left).exists());
    assert!(others.iter().all(|name| settings.dir.join(name).exists()));
}
