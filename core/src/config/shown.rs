//! Values as people see them: without secrets.
//!
//! Owns: what is hidden of which kind of value (SPEC 3.3, 10). Must never do: forget a kind: a value
//! that may hold a secret goes through here before it goes anywhere.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::keys::{KEYS, KeySpec, Kind};

/// Stands where a secret stood.
pub(super) const PLACEHOLDER: &str = "***";

/// All values by key.
pub(super) fn all(raw: &BTreeMap<&'static str, Json>) -> BTreeMap<&'static str, Json> {
    let shown = |spec: &'static KeySpec| {
        (spec.name, redact(spec, raw.get(spec.name).cloned().unwrap_or_default()))
    };
    KEYS.iter().map(shown).collect()
}

/// One value.
pub(super) fn redact(spec: &KeySpec, value: Json) -> Json {
    match (spec.kind, value) {
        (Kind::ApiKeys, Json::Array(keys)) => {
            let hide = |mut key: Json| {
                for field in ["key", "key_sha256"] {
                    if let Some(secret) = key.get_mut(field) {
                        *secret = Json::from(PLACEHOLDER);
                    }
                }
                key
            };
            Json::Array(keys.into_iter().map(hide).collect())
        }
        (Kind::Map, Json::Object(map)) => {
            Json::Object(map.into_iter().map(|(name, _)| (name, Json::from(PLACEHOLDER))).collect())
        }
        (Kind::Services, mut services) => {
            services
                .as_object_mut()
                .into_iter()
                .flat_map(|map| map.values_mut())
                .for_each(hide_service);
            services
        }
        (Kind::Text, Json::String(text)) if spec.name == "autostart_map" => {
            Json::from(without_secrets_of_services(&text))
        }
        (Kind::Text, Json::String(text)) => Json::from(without_password(&text)),
        (Kind::Command, Json::Array(words)) => Json::Array(without_key_arguments(words)),
        (_, value) => value,
    }
}

/// A program's arguments; what follows one that asks for a key or a token is hidden.
fn without_key_arguments(mut words: Vec<Json>) -> Vec<Json> {
    let is_secret = |name: &str| name.ends_with("key") || name.ends_with("token");
    let mut hide_next = false;
    for word in &mut words {
        let text = word.as_str().unwrap_or_default().to_owned();
        if std::mem::take(&mut hide_next) && !text.starts_with("--") {
            *word = PLACEHOLDER.into();
        }
        match text.strip_prefix("--").map(|flag| flag.split_once('=').unwrap_or((flag, ""))) {
            Some((name, "")) => hide_next = is_secret(name),
            Some((name, _)) if is_secret(name) => *word = format!("--{name}={PLACEHOLDER}").into(),
            _ => {}
        }
    }
    words
}

/// What a service's table says that is nobody's business.
fn hide_service(table: &mut Json) {
    let env = table.get_mut("env").and_then(Json::as_object_mut);
    for value in env.into_iter().flat_map(|env| env.values_mut()) {
        *value = PLACEHOLDER.into();
    }
    if let Some(url) = table.get_mut("ready_url")
        && let Some(text) = url.as_str()
    {
        // A name alone may be a token.
        *url = without_userinfo(text).into();
    }
}

/// The map's JSON form has tables in it; what cannot be read may have anything.
fn without_secrets_of_services(map: &str) -> String {
    if !map.trim_start().starts_with('{') {
        return map.to_owned();
    }
    let Ok(mut services) = serde_json::from_str::<Json>(map) else {
        return PLACEHOLDER.to_owned();
    };
    services.as_object_mut().into_iter().flat_map(|map| map.values_mut()).for_each(hide_service);
    services.to_string()
}

fn without_userinfo(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) if !url.username().is_empty() || url.password().is_some() => {
            // Neither can fail: an address with these has a host.
            let _ = url.set_password(None);
            let _ = url.set_username(PLACEHOLDER);
            url.to_string()
        }
        _ => text.to_owned(),
    }
}

/// `http://user:password@host` without the password.
fn without_password(text: &str) -> String {
    let is_secret = url::Url::parse(text).is_ok_and(|url| url.password().is_some());
    let hidden = is_secret.then(|| {
        // As it was written otherwise: nobody has changed it who says it back.
        let begin = text.find("://")? + 3;
        let authority = text[begin..].split(['/', '?', '#']).next()?;
        let end = authority.rfind('@')?;
        let colon = authority[..end].find(':')?;
        Some(format!("{}{PLACEHOLDER}{}", &text[..=begin + colon], &text[begin + end..]))
    });
    match hidden {
        None => text.to_owned(),
        Some(hidden) => hidden.unwrap_or_else(|| PLACEHOLDER.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Input, load};

    /// How a setting is shown.
    fn shown(toml: &str, key: &str) -> String {
        let file = Some(("chat_proxy.toml".into(), toml.to_owned()));
        let loaded = load(&Input { file, env: Vec::new() }).unwrap();
        loaded.values[key].to_string()
    }

    #[test]
    fn what_services_are_given_to_keep_is_not_shown_in_the_table_nor_in_the_map() {
        let table =
            "command = [\"serve\"], env = { A = \"hush\" }, ready_url = \"http://hush@h:1/x\"";
        let services =
            shown(&format!("[autostart]\nservices = {{ s = {{ {table} }} }}"), "services");
        let map = r#"{"m": {"command": ["serve"], "env": {"A": "hush"}, "ready_url": "http://a:hush@h:1/x"}, "n": ["serve"]}"#;
        let map = shown(&format!("[autostart]\nautostart_map = '{map}'"), "autostart_map");
        for text in [services, map] {
            assert!(!text.contains("hush"), "{text}");
            assert!(text.contains("serve") && text.contains("***@h:1/x"), "{text}");
        }
        assert_eq!(without_secrets_of_services("{\"m\": hush"), "***");
        let plain = shown("[autostart]\nautostart_map = \"gguf:m, shell:n\"", "autostart_map");
        assert_eq!(plain, "\"gguf:m, shell:n\"");
        let command = r#"["vllm", "serve", "--api-key", "hush", "--hf-token=hush", "--port", "1"]"#;
        let command = shown(&format!("[vllm]\nvllm_command = {command}"), "vllm_command");
        assert_eq!(command, r#"["vllm","serve","--api-key","***","--hf-token=***","--port","1"]"#);
    }
}
