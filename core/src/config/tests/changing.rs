//! Changing settings: what a partial object means, what becomes of the file's text, what is in force.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::config::changes::new_item;
use crate::config::keys::Kind;

const HAND_WRITTEN: &str = "\
# Our box. Ask Ann before you change anything.

[server]   # where we listen
port = 8100        # the old port
  host    =   '127.0.0.1'

# Slow models.
[timeouts]
# Ten minutes.
backend_timeout_ms = 600_000
[misc]
log_prompts = true # legal says yes
[unknown_to_nobody]
";

fn known(text: &str) -> Loaded {
    file(text).unwrap()
}

fn changed(text: &str, object: &Json) -> Result<String, Vec<String>> {
    let texts = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
    let changes = Changes::read(object.as_object().unwrap(), &known(text)).map_err(texts)?;
    edit("c.toml", text, &changes).map_err(|problem| texts(vec![problem]))
}

#[test]
fn comments_order_and_odd_spacing_stay_and_only_the_value_changes() {
    let text = HAND_WRITTEN.replace("[unknown_to_nobody]\n", "");
    let object =
        json!({"port": 9000, "host": "::1", "log_prompts": false, "backend_timeout_ms": 1000});
    let want = text
        .replace("port = 8100 ", "port = 9000 ")
        .replace("'127.0.0.1'", "\"::1\"")
        .replace("log_prompts = true", "log_prompts = false")
        .replace("600_000", "1000");
    assert_eq!(changed(&text, &object).unwrap(), want);
}

#[test]
fn a_new_key_stands_at_the_end_of_its_section_and_a_new_section_at_the_end_of_the_file() {
    let text = "[server]\nport = 1\n\n# the log\n[logging]\n# keep few\nmax_log_files = 2\n";
    let want = "[server]\nport = 1\nheartbeat_ms = 5\n\n# the log\n[logging]\n# keep few\nmax_log_files = 2\n\n[limits]\nmax_image_bytes = 7\n";
    assert_eq!(changed(text, &json!({"heartbeat_ms": 5, "max_image_bytes": 7})).unwrap(), want);
    assert_eq!(changed("", &json!({"heartbeat_ms": 5})).unwrap(), "[server]\nheartbeat_ms = 5\n");
}

#[test]
fn a_key_that_is_taken_out_takes_its_line_along_and_no_comment_above_it() {
    let text = "[server]\n# ours\ndefault_model = \"a\" # b\n# the port\nport = 1\n";
    let want = "[server]\n# ours\n# the port\nport = 1\n";
    for unset in [json!(""), Json::Null] {
        assert_eq!(changed(text, &json!({"default_model": unset})).unwrap(), want);
    }
    let inline = "server = { port = 1, default_model = \"a\" }\n";
    let left = changed(inline, &json!({"default_model": ""})).unwrap();
    assert_eq!(left, "server = { port = 1}\n");
}

#[test]
fn names_and_sections_of_the_original_are_changed_where_they_stand() {
    let text = "[vllm]\nvllm_executor_workdir = \"/a\"\n[misc]\nmax_log_files = 3\n";
    let object = json!({"vllm_executor_workdir": "/b", "max_log_files": 4});
    let want = "[vllm]\nvllm_executor_workdir = \"/b\"\n[misc]\nmax_log_files = 4\n";
    assert_eq!(changed(text, &object).unwrap(), want);
    // Under its new name too.
    let object = json!({"vllm_executor_cwd": "/b"});
    assert!(changed(text, &object).unwrap().contains("vllm_executor_workdir = \"/b\""));
}

#[test]
fn line_ends_of_other_systems_stay() {
    let text = "[server]\r\nport = 1\r\n# x\r\nheartbeat_ms = 2\r\n";
    let want = "[server]\r\nport = 9\r\n# x\r\nheartbeat_ms = 2\r\n";
    assert_eq!(changed(text, &json!({"port": 9})).unwrap(), want);
    let want = "[server]\r\n# x\r\nheartbeat_ms = 2\r\n";
    assert_eq!(changed(text, &json!({"port": null})).unwrap(), want);
}

#[test]
fn tables_are_changed_inside() {
    let text = "[vllm.vllm_env]\n# for us\nA = \"1\"\nB = \"2\" # two\n";
    let want = "[vllm.vllm_env]\n# for us\nA = \"3\"\nC = \"4\"\n";
    assert_eq!(changed(text, &json!({"vllm_env": {"A": "3", "C": "4"}})).unwrap(), want);
    let text = "[[security.api_keys]]\nname = \"a\"\nkey = \"k\"\n";
    let keys = json!([{"name": "b", "key_env": "K"}]);
    let new = changed(text, &json!({"api_keys": keys})).unwrap();
    assert_eq!(known(&new).settings.security.api_keys[0].name, "b", "{new}");
}

#[test]
fn what_is_said_back_as_it_was_shown_changes_nothing() {
    let text = "[server]\nport = 1\n[security]\napi_keys = [{ name = \"a\", key = \"k\" }]\n[ollama]\nollama_base_url = \"http://u:pw@h:1\"\n";
    let known = known(text);
    let shown: Json = known.values.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    let changes = Changes::read(shown.as_object().unwrap(), &known).unwrap();
    assert_eq!(changes.names().collect::<Vec<_>>(), [] as [&str; 0]);
    // As a form may send it: "" for unset, whole numbers for seconds.
    let form =
        json!({"default_model": "", "drain_timeout_s": 60, "autostart_map_raw": "", "port": 1});
    assert_eq!(Changes::read(form.as_object().unwrap(), &known).unwrap().names().count(), 0);
}

#[test]
fn a_value_of_the_file_that_a_variable_covers_is_changed_all_the_same() {
    let known = with_env("[server]\nport = 1\n", &[("CHAT_PROXY_PORT", "2")]).unwrap();
    let changes = Changes::read(json!({"port": 2}).as_object().unwrap(), &known).unwrap();
    assert_eq!(changes.names().collect::<Vec<_>>(), ["port"]);
    assert_eq!(known.env_overrides["CHAT_PROXY_PORT"], 2);
    assert_eq!(known.file["port"], 1);
}

#[test]
fn bad_keys_and_values_are_all_named() {
    let object = json!({
        "prot": 1, "port": "x", "heartbeat_ms": 1.5, "reasoning_format": "loud", "preload": [1],
        "api_keys": [{"name": "a", "key": "***"}], "autostart_enabled": "yes", "max_log_files": "",
        "vllm_env": {"A": null}, "autostart_map": "a", "autostart_map_raw": "b",
    });
    let problems = changed("", &object).unwrap_err();
    assert_eq!(
        problems,
        [
            "prot: there is no such setting; did you mean port?",
            "port: expected a whole number from 0 to 65535, found string",
            "heartbeat_ms: expected a whole number from 0 to 86400000, found float",
            "reasoning_format: expected one of keep, extract, strip, found \"loud\"",
            "preload: expected a list of texts, found array",
            "api_keys: *** stands for a secret that is not shown; send the whole new value, or leave the key out",
            "autostart_enabled: expected true or false, found string",
            "max_log_files: expected a whole number from 0 to 1000, found string",
            "vllm_env: null stands inside of it; leave out what is unset",
            "autostart_map_raw: autostart_map is given twice, with two values",
        ]
    );
    let broken = changed_text("[server\n", &json!({"port": 1}));
    assert!(broken.starts_with("c.toml:1: not TOML: ") && broken.contains("mend"), "{broken}");
}

fn changed_text(text: &str, object: &Json) -> String {
    let changes = Changes::read(object.as_object().unwrap(), &known("")).unwrap();
    edit("c.toml", text, &changes).unwrap_err().to_string()
}

#[test]
fn keys_that_need_a_restart_stay_and_the_others_follow() {
    let env = [("CHAT_PROXY_HEARTBEAT_MS".to_owned(), "7".to_owned())];
    let input = |text: &str| Input { file: Some(("c".into(), text.into())), env: env.to_vec() };
    let running = load(&input("[server]\nport = 1\n")).unwrap();
    let text = "[server]\nport = 2\nheartbeat_ms = 8\n[limits]\nmax_image_bytes = 9\n";
    let again = load_onto(&input(text), &running).unwrap();
    assert_eq!((again.applied, again.pending), (vec!["max_image_bytes"], vec!["port"]));
    let now = &again.effective;
    assert_eq!((now.settings.server.port, now.values["port"].clone()), (1, json!(1)));
    assert_eq!(now.settings.limits.max_image_bytes, 9);
    assert_eq!(now.settings.server.heartbeat_ms, Millis(7));
    assert_eq!(again.wanted.settings.server.port, 2);
    assert_eq!(now.file["port"], 2);
    // Back again: nothing is pending.
    let back = load_onto(&input("[server]\nport = 1\n"), &again.effective).unwrap();
    assert_eq!((back.applied, back.pending), (vec!["max_image_bytes"], vec![]));
}

#[test]
fn what_would_be_wrong_with_what_stays_until_a_restart_is_refused() {
    let input = |text: &str| Input { file: Some(("c".into(), text.into())), env: Vec::new() };
    let open =
        "[server]\nhost = \"0.0.0.0\"\n[security]\napi_keys = [{ name = \"a\", key = \"k\" }]\n";
    let running = load(&input(open)).unwrap();
    // Good for a start, but now it would leave an open address without keys.
    let problems = load_onto(&input("[server]\nhost = \"127.0.0.1\"\n"), &running).unwrap_err();
    let said = problems[0].to_string();
    assert!(said.contains("api_keys") && said.contains("until a restart (host)"), "{said}");
}

#[test]
fn keys_that_reach_outside_are_guarded() {
    let guarded: Vec<_> = KEYS.iter().filter(|k| k.is_guarded()).map(|k| k.name).collect();
    for name in [
        "vllm_command",
        "vllm_executor_cwd",
        "vllm_remote_url",
        "services",
        "log_path",
        "vllm_state_path",
        "registry_dir",
        "template_dir",
        "api_keys",
        "allowed_hosts",
        "cors_origins",
        "allow_unauthenticated",
        "autostart_map",
        "vllm_env",
    ] {
        assert!(guarded.contains(&name), "{name}");
    }
    assert!(!guarded.contains(&"max_image_bytes") && !guarded.contains(&"autostart_enabled"));
}

#[test]
fn the_schema_says_what_the_reader_checks() {
    let schema = schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let sample = include_str!("../../../../configs/chat_proxy.toml");
    let of = |text: &str| -> Json {
        let text: toml_edit::DocumentMut = text.parse().unwrap();
        toml_json(text.as_item())
    };
    let is_key = |rest: &&str| {
        rest.split(" = ").next().is_some_and(|key| KEYS.iter().any(|spec| spec.name == key))
    };
    let lines = sample.lines().map(|l| l.strip_prefix("# ").filter(is_key).unwrap_or(l));
    let live = of(&lines.collect::<Vec<_>>().join("\n"));
    let errors: Vec<_> = validator.iter_errors(&live).map(|e| e.to_string()).collect();
    assert_eq!(errors, [] as [String; 0]);
    for bad in [
        "[server]\nprot = 1\n",
        "[server]\nport = 70000\n",
        "[limits]\nreasoning_format = \"loud\"\n",
        "[security]\napi_keys = [{ name = \"a\" }]\n",
        "[servr]\n",
    ] {
        assert!(!validator.is_valid(&of(bad)) && file(bad).is_err(), "{bad}");
    }
}

fn toml_json(item: &toml_edit::Item) -> Json {
    use toml_edit::{Item, Value};
    match item {
        Item::None => Json::Null,
        Item::Table(table) => table
            .iter()
            .map(|(k, v)| (k.to_owned(), toml_json(v)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Item::ArrayOfTables(list) => {
            list.iter().map(|t| toml_json(&Item::Table(t.clone()))).collect::<Vec<_>>().into()
        }
        Item::Value(value) => match value {
            Value::String(text) => json!(text.value()),
            Value::Integer(number) => json!(number.value()),
            Value::Float(number) => json!(number.value()),
            Value::Boolean(yes) => json!(yes.value()),
            Value::Datetime(time) => json!(time.value().to_string()),
            Value::Array(list) => {
                list.iter().map(|v| toml_json(&Item::Value(v.clone()))).collect::<Vec<_>>().into()
            }
            Value::InlineTable(table) => table
                .iter()
                .map(|(k, v)| (k.to_owned(), toml_json(&Item::Value(v.clone()))))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        },
    }
}

/// A value for a key that its kind allows.
fn value(spec: &KeySpec) -> BoxedStrategy<Json> {
    match spec.kind {
        Kind::Bool => any::<bool>().prop_map(Json::from).boxed(),
        Kind::Int(low, high) => (low..=high).prop_map(Json::from).boxed(),
        Kind::Float(low, high) => (low..=high).prop_map(Json::from).boxed(),
        Kind::Choice(words) => prop::sample::select(words).prop_map(Json::from).boxed(),
        Kind::Text => "[a-z][a-z '\"#\\\\äö]{0,9}".prop_map(Json::from).boxed(),
        _ => prop::collection::vec("[a-z#\"]{1,4}", 1..3).prop_map(Json::from).boxed(),
    }
}

fn one_change() -> impl Strategy<Value = (&'static KeySpec, Json)> {
    let plain = |k: &&KeySpec| {
        !matches!(k.kind, Kind::Map | Kind::Services | Kind::ApiKeys) && k.name != "schema_version"
    };
    let keys: Vec<&'static KeySpec> = KEYS.iter().filter(plain).collect();
    prop::sample::select(keys).prop_flat_map(|spec| value(spec).prop_map(move |v| (spec, v)))
}

proptest! {
    /// However often keys are changed and taken out: the text says just the last word on each, and every
    /// line that is a comment is still there, in its order.
    #[test]
    fn edits_say_what_was_asked_and_keep_every_comment(
        changes in prop::collection::vec((one_change(), any::<bool>()), 1..12),
    ) {
        let mut text = include_str!("../../../../configs/chat_proxy.toml").to_owned();
        let comments = |text: &str| -> Vec<String> {
            text.lines().filter(|l| l.starts_with('#')).map(str::to_owned).collect()
        };
        let before = comments(&text);
        let mut want = std::collections::BTreeMap::new();
        for ((spec, value), gone) in changes {
            let value = if gone { Json::Null } else { value };
            let item = new_item(spec, &value).unwrap();
            let change = Changes { keys: vec![(spec, item)] };
            text = edit("c", &text, &change).unwrap();
            want.insert(spec.path(), value);
        }
        prop_assert_eq!(comments(&text), before);
        let read: toml_edit::DocumentMut = text.parse().unwrap();
        let read = toml_json(read.as_item());
        for (path, value) in want {
            let (section, name) = path.split_once('.').unwrap();
            prop_assert_eq!(&read[section][name], &value, "{}", path);
        }
    }
}
