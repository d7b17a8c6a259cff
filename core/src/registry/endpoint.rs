//! Where an entry's backend is reached (SPEC 3.4, 6.3; DESIGN "What the arbiter governs").
//!
//! Owns: base URLs, default ports, the loopback alias. Must never do: connect.

use std::sync::Arc;

use url::Url;

use super::entry::{BackendConfig, Entry};
use super::ollama::{OllamaModel, OllamaRules};
use crate::engine::{EngineRules, Launch};

/// What settings have to say about addresses.
#[derive(Debug, Clone, Default)]
pub struct EndpointRules {
    /// Replaces `localhost`, `127.0.0.1` and `::1` in backend addresses.
    pub loopback_alias: Option<String>,
    /// Supervise vLLM on one port; otherwise its entries are relayed to their own ports.
    pub vllm_single_port: bool,
    /// How the engines on that port are started.
    pub engine: EngineRules,
    /// Where Ollama is.
    pub ollama: OllamaRules,
}

/// Who answers for an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// A vLLM that we start and stop.
    SinglePort(Arc<Launch>),
    /// Ollama, through its own protocol.
    Ollama(Arc<OllamaModel>),
    /// An OpenAI-compatible server that somebody else runs.
    External(Endpoint),
}

/// An OpenAI-compatible server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The base with its path, no slash at the end: `http://127.0.0.1:8000/v1`.
    base: String,
    /// Of the address, sent as Basic authorization.
    pub userinfo: Option<UserInfo>,
    /// Name of the variable that holds the backend's key.
    pub api_key_env: Option<String>,
    /// Certificate authority for HTTPS.
    pub ca_file: Option<String>,
}

/// User and password of an address; not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct UserInfo {
    /// The user.
    pub user: String,
    /// The password, perhaps empty.
    pub password: String,
}

impl std::fmt::Debug for UserInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserInfo(…)")
    }
}

impl Endpoint {
    /// A server of our own on this machine; the error says why that host cannot be one.
    pub fn local(host: &str, port: u16) -> Result<Endpoint, String> {
        let url = Url::parse(&with_scheme(host)).map_err(|e| format!("is not an address: {e}"))?;
        let mut url = url;
        url.set_port(Some(port)).map_err(|()| "cannot have a port".to_owned())?;
        Ok(Endpoint { base: base_of(&url), userinfo: None, api_key_env: None, ca_file: None })
    }

    /// A server at an address that has been read; the error names the field.
    pub(super) fn at(field: &str, mut url: Url, rules: &EndpointRules) -> Result<Endpoint, String> {
        let text = url.to_string();
        apply_alias(&mut url, rules)
            .map_err(|alias| bad(field, &text, &format!("cannot take the alias {alias:?}")))?;
        let userinfo = take_userinfo(&mut url);
        Ok(Endpoint { userinfo, base: base_of(&url), api_key_env: None, ca_file: None })
    }

    /// A server at a port of this machine.
    pub fn loopback(port: u16) -> Endpoint {
        let base = format!("http://127.0.0.1:{port}/v1");
        Endpoint { base, userinfo: None, api_key_env: None, ca_file: None }
    }

    /// The server itself, without the path: where `/health` is.
    pub fn origin(&self) -> &str {
        self.base.strip_suffix("/v1").unwrap_or(&self.base)
    }

    /// The port, the scheme's own where none is named.
    pub fn port(&self) -> Option<u16> {
        Url::parse(&self.base).ok()?.port_or_known_default()
    }

    /// The address of an `OpenAI` path such as `/chat/completions`, below the base.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The base itself, without credentials: safe to show.
    pub fn base(&self) -> &str {
        &self.base
    }
}

impl Placement {
    /// Where `entry` lives; the error names the field at fault.
    pub fn of(entry: &Entry, rules: &EndpointRules) -> Result<Placement, String> {
        let config = &entry.backend_config;
        match entry.backend.as_str() {
            "ollama" => OllamaModel::of(entry, rules).map(Arc::new).map(Placement::Ollama),
            "vllm" if config.base_url.is_none() && rules.vllm_single_port => {
                Launch::of(entry, &rules.engine).map(Arc::new).map(Placement::SinglePort)
            }
            backend => external(backend, config, rules).map(Placement::External),
        }
    }
}

fn external(
    backend: &str,
    config: &BackendConfig,
    rules: &EndpointRules,
) -> Result<Endpoint, String> {
    let (field, text) = match (&config.base_url, &config.host) {
        (Some(base), _) => ("base_url", with_scheme(base)),
        (None, Some(host)) => ("host", with_scheme(host)),
        (None, None) => ("host", "http://127.0.0.1".to_owned()),
    };
    let named = format!("`backend_config.{field}`");
    let mut url = address(&named, &text)?;
    if field == "host" && url.port().is_none() {
        let port = match url.scheme() {
            "http" => Some(config.port.unwrap_or_else(|| default_port(backend))),
            _ => config.port,
        };
        url.set_port(port).map_err(|()| bad(&named, &text, "cannot have a port"))?;
    }
    let endpoint = Endpoint::at(&named, url, rules)?;
    Ok(Endpoint {
        api_key_env: config.api_key_env.clone(),
        ca_file: config.ca_file.clone(),
        ..endpoint
    })
}

/// What is wrong with an address, without the password that may stand in it.
fn bad(field: &str, text: &str, why: &str) -> String {
    format!("{field} {:?} {why}", without_userinfo(text))
}

/// Reads an address of a backend; the error names the field.
pub(super) fn address(field: &str, text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| bad(field, text, &format!("is not an address: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad(field, text, "must begin with http:// or https://"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad(field, text, "must have no query and no fragment"));
    }
    Ok(url)
}

/// An address as it may be shown: what stands before an `@` may be a password.
fn without_userinfo(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..authority_end].rfind('@') {
        Some(at) => format!("{scheme}://…{}", &rest[at..]),
        None => text.to_owned(),
    }
}

pub(super) fn with_scheme(text: &str) -> String {
    let text = text.trim();
    if text.contains("://") {
        return text.to_owned();
    }
    // A bare IPv6 address needs its brackets in a URL.
    match text.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("http://[{address}]"),
        Err(_) => format!("http://{text}"),
    }
}

/// SPEC 6.3.
fn default_port(backend: &str) -> u16 {
    match backend {
        "vllm" | "lmdeploy" => 24001,
        "triton" => 9000,
        _ => 8000,
    }
}

/// SPEC 3.4: ports, credentials and paths stay.
fn apply_alias(url: &mut Url, rules: &EndpointRules) -> Result<(), String> {
    let loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match &rules.loopback_alias {
        Some(alias) if loopback => url.set_host(Some(alias)).map_err(|_| alias.clone()),
        _ => Ok(()),
    }
}

fn take_userinfo(url: &mut Url) -> Option<UserInfo> {
    let user = url.username().to_owned();
    let password = url.password().map(str::to_owned);
    if user.is_empty() && password.is_none() {
        return None;
    }
    // Cannot fail: the address has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let password = percent_decode(&password.unwrap_or_default());
    Some(UserInfo { user: percent_decode(&user), password })
}

fn percent_decode(text: &str) -> String {
    // `url` escapes credentials; form decoding also turns + into a space, which is escaped first.
    let pair = format!("k={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map_or_else(String::new, |(_, v)| v.into_owned())
}

/// No path means `/v1`; slashes at the end go.
fn base_of(url: &Url) -> String {
    let path = url.path().trim_end_matches('/');
    let path = if path.is_empty() { "/v1" } else { path };
    let origin = url.origin().ascii_serialization();
    format!("{origin}{path}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use serde_json::{Value, json};

    fn place(backend: &str, config: &Value, rules: &EndpointRules) -> Result<Placement, String> {
        let value = json!({"name": "m", "backend": backend, "backend_config": config});
        Placement::of(&Entry::parse(value.as_object().unwrap()).unwrap(), rules)
    }

    fn base(backend: &str, config: &Value, alias: Option<&str>) -> String {
        let rules = EndpointRules {
            loopback_alias: alias.map(str::to_owned),
            vllm_single_port: true,
            ..EndpointRules::default()
        };
        match place(backend, config, &rules) {
            Ok(Placement::External(endpoint)) => endpoint.base().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn base_urls_follow_the_rules() {
        let cases = [
            ("openai", json!({"base_url": "http://h:9/v1"}), "http://h:9/v1"),
            ("openai", json!({"base_url": "http://h:9/v1/"}), "http://h:9/v1"),
            ("openai", json!({"base_url": "http://h:9"}), "http://h:9/v1"),
            (
                "openai",
                json!({"base_url": "https://api.example.com"}),
                "https://api.example.com/v1",
            ),
            ("openai", json!({"base_url": "https://x.test/openai/v2"}), "https://x.test/openai/v2"),
            ("openai", json!({"base_url": "h:9"}), "http://h:9/v1"),
            ("lmdeploy", json!({}), "http://127.0.0.1:24001/v1"),
            ("triton", json!(null), "http://127.0.0.1:9000/v1"),
            ("gguf", json!({}), "http://127.0.0.1:8000/v1"),
            ("anything", json!({"port": 7777}), "http://127.0.0.1:7777/v1"),
            ("gguf", json!({"host": "http://box", "port": 8080}), "http://box:8080/v1"),
            ("gguf", json!({"host": "box:81", "port": 8080}), "http://box:81/v1"),
            ("gguf", json!({"host": "https://box"}), "https://box/v1"),
            ("gguf", json!({"host": "::1", "port": 5}), "http://[::1]:5/v1"),
            ("vllm", json!({"base_url": "http://h:9"}), "http://h:9/v1"),
        ];
        for (backend, config, want) in cases {
            assert_eq!(base(backend, &config, None), want, "{backend} {config}");
        }
    }

    #[test]
    fn the_loopback_alias_replaces_the_host_and_nothing_else() {
        let alias = Some("imageworks-chat");
        for (url, want) in [
            ("http://localhost:1/x", "http://imageworks-chat:1/x"),
            ("http://127.0.0.1:1", "http://imageworks-chat:1/v1"),
            ("http://[::1]:1", "http://imageworks-chat:1/v1"),
            ("http://127.0.0.2:1", "http://127.0.0.2:1/v1"),
            ("http://localhost.example:1", "http://localhost.example:1/v1"),
        ] {
            assert_eq!(base("openai", &json!({"base_url": url}), alias), want);
        }
        let rules = EndpointRules {
            loopback_alias: Some("box".into()),
            vllm_single_port: true,
            ..EndpointRules::default()
        };
        let Ok(Placement::External(endpoint)) =
            place("openai", &json!({"base_url": "http://me:p%40ss+w@localhost:1"}), &rules)
        else {
            panic!("external");
        };
        assert_eq!(endpoint.base(), "http://box:1/v1");
        let user = endpoint.userinfo.clone().unwrap();
        assert_eq!((user.user.as_str(), user.password.as_str()), ("me", "p@ss+w"));
        assert!(!format!("{endpoint:?}").contains("p@ss"));
    }

    #[test]
    fn vllm_is_supervised_unless_told_otherwise() {
        let mut rules = EndpointRules { vllm_single_port: true, ..EndpointRules::default() };
        let placed = place("vllm", &json!({"port": 24005}), &rules);
        assert!(matches!(placed, Ok(Placement::SinglePort(_))), "{placed:?}");
        let ollama = place("ollama", &json!({}), &rules);
        assert!(matches!(ollama, Ok(Placement::Ollama(_))), "{ollama:?}");
        rules.vllm_single_port = false;
        let Ok(Placement::External(endpoint)) = place("vllm", &json!({"port": 24005}), &rules)
        else {
            panic!("external");
        };
        assert_eq!(endpoint.url("/chat/completions"), "http://127.0.0.1:24005/v1/chat/completions");
    }

    #[test]
    fn bad_addresses_are_named() {
        let rules = EndpointRules::default();
        for (config, why) in [
            (json!({"base_url": "ftp://h"}), "http://"),
            (json!({"base_url": "http://h/?a=1"}), "query"),
            (json!({"base_url": "http://"}), "not an address"),
            (json!({"host": "a b"}), "`backend_config.host`"),
        ] {
            let error = place("openai", &config, &rules).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let config = json!({"base_url": "http://me:s3cret@h/v1?x=1"});
        let error = place("openai", &config, &rules).unwrap_err();
        assert!(!error.contains("s3cret") && error.contains("@h/v1"), "{error}");
    }
}
