//! Checks that need more than one key.
//!
//! Owns: what settings must not say together. Must never do: change a value.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::keys::Settings;
use super::layers::Origin;
use super::{Problem, tables::Right};
use crate::autostart::Plan;
use crate::gpu::ClassRules;
use crate::registry::ollama::default_server;
use crate::registry::{EndpointRules, OllamaRules};

/// Whether a host is this machine's own loopback, by its spelling.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

pub(super) fn together(
    settings: &Settings,
    origins: &BTreeMap<&'static str, Origin>,
    problems: &mut Vec<Problem>,
) {
    let mut say = |key: &str, message: String| {
        let place = match origins.get(key) {
            Some(Origin::Default) | None => key.to_owned(),
            Some(Origin::File { .. }) => format!("{}: {key}", origins[key]),
            Some(Origin::Env(name)) => name.clone(),
        };
        problems.push(Problem { place, message });
    };
    exposure(settings, &mut say);
    keys_of_clients(settings, &mut say);
    services(settings, &mut say);
    backends(settings, &mut say);
    https(settings, &mut say);
    if let Err(problem) = ClassRules::read(&settings.scheduler.background_rules) {
        say("background_rules", problem);
    }
    for origin in &settings.security.cors_origins {
        let parsed = url::Url::parse(origin).ok();
        if parsed.is_none_or(|u| u.origin().ascii_serialization() != *origin) {
            say(
                "cors_origins",
                format!("{origin:?} is no origin; write it as scheme://host[:port]"),
            );
        }
    }
}

/// Says what is wrong with a key.
type Say<'a> = dyn FnMut(&str, String) + 'a;

/// Who can reach the daemon.
fn exposure(settings: &Settings, say: &mut Say<'_>) {
    let (host, security) = (&settings.server.host, &settings.security);
    if !is_host(host) {
        say("host", format!("expected an address or a host name, found {host:?}"));
    }
    if !is_loopback(host) && security.api_keys.is_empty() && !security.allow_unauthenticated {
        say(
            "host",
            format!(
                "{host} can be reached from other machines and there is no API key: set \
                 [security] api_keys, or allow_unauthenticated = true if something else guards it"
            ),
        );
    }
}

fn keys_of_clients(settings: &Settings, say: &mut Say<'_>) {
    let mut names = std::collections::BTreeSet::new();
    for key in &settings.security.api_keys {
        if !names.insert(&key.name) {
            say("api_keys", format!("two keys are named {:?}", key.name));
        }
        if !key.rights.contains(&Right::Chat) {
            say(
                "api_keys",
                format!("key {:?}: rights are [\"chat\"] or [\"chat\", \"admin\"]", key.name),
            );
        }
    }
}

/// The tables first: what is wrong with them makes the map wrong too.
fn services(settings: &Settings, say: &mut Say<'_>) {
    let autostart = &settings.autostart;
    let grace = autostart.autostart_grace_period_s.get();
    let tables = Plan::of(None, &autostart.services, grace).err().unwrap_or_default();
    let tables_are_good = tables.is_empty();
    for problem in tables {
        say("services", problem);
    }
    let map = autostart.autostart_map.as_deref();
    for problem in Plan::of(map, &autostart.services, grace).err().unwrap_or_default() {
        if tables_are_good {
            say("autostart_map", problem);
        }
    }
}

fn backends(settings: &Settings, say: &mut Say<'_>) {
    let base_url = settings.ollama.ollama_base_url.clone();
    let ollama = OllamaRules { base_url, ..OllamaRules::default() };
    let rules = EndpointRules { ollama, ..EndpointRules::default() };
    if let Err(problem) = default_server(&rules) {
        say("ollama_base_url", problem);
    }
    if settings.vllm.vllm_remote_url.is_some() {
        say("vllm_remote_url", "there is no remote executor yet; leave this unset".to_owned());
    }
}

/// One half alone means a slip: plain HTTP for somebody who asked for HTTPS would send keys in the clear.
fn https(settings: &Settings, say: &mut Say<'_>) {
    let security = &settings.security;
    let (has, lacks) = match (&security.tls_cert_file, &security.tls_key_file) {
        (Some(_), None) => ("tls_cert_file", "tls_key_file"),
        (None, Some(_)) => ("tls_key_file", "tls_cert_file"),
        _ => return,
    };
    say(
        has,
        format!("HTTPS needs {lacks} as well; set both tls_cert_file and tls_key_file, or neither"),
    );
}

/// An IP address, or something that could be a name; whether it resolves is seen at binding.
fn is_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok()
        || (!bare.is_empty()
            && bare.len() <= 253
            && bare.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')))
}
