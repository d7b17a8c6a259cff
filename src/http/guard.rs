//! Who may call: API keys, the Host header, web pages (SPEC 10).
//!
//! Owns: the rules, as plain functions of a request's head. Must never do: compare a secret in a
//! time that depends on it, or show one.

use std::net::IpAddr;

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, Uri};
use chat_proxy_core::config::{ApiKey, KeySecret, Right, Settings};
use chat_proxy_core::{ApiError, Code};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Endings of names that only a local network gives out.
const LOCAL_SUFFIXES: [&str; 5] = [".localhost", ".local", ".internal", ".lan", ".home.arpa"];
/// What browsers say of the page that asks.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Answered without a key.
const OPEN_PATHS: [&str; 3] = ["/v1/healthz", "/v1/health", "/v1/readyz"];

/// See the module.
pub(crate) struct Guard {
    keys: Vec<Key>,
    allowed_hosts: Vec<String>,
    cors_origins: Vec<String>,
    metrics_public: bool,
}

struct Key {
    name: String,
    admin: bool,
    hash: [u8; 32],
}

/// What a request passed as.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// The key's name, where keys are configured.
    pub(super) key: Option<String>,
    /// It may do what changes or shows the inside (SPEC 10): a key with the admin right, or
    /// anybody where no keys are configured.
    pub(super) admin: bool,
    /// It has a right key, or none is needed: it may see details of the inside.
    pub(super) trusted: bool,
}

impl Guard {
    /// Reads the secrets that settings name; the error says which cannot be had.
    pub(crate) fn new(settings: &Settings) -> Result<Self, String> {
        let keys = settings.security.api_keys.iter().map(Key::read).collect::<Result<_, _>>()?;
        let mut allowed_hosts: Vec<String> =
            settings.security.allowed_hosts.iter().map(|h| h.to_ascii_lowercase()).collect();
        allowed_hosts
            .extend(settings.general.loopback_alias.iter().map(|h| h.to_ascii_lowercase()));
        Ok(Guard {
            keys,
            allowed_hosts,
            cors_origins: settings.security.cors_origins.clone(),
            metrics_public: settings.metrics.metrics_public,
        })
    }

    /// Lets a request through or says why not.
    pub(super) fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Passed, ApiError> {
        if self.keys.is_empty() {
            self.check_host(uri, headers)?;
        }
        self.check_origin(headers)?;
        let preflight = is_preflight(method, headers);
        let key = match self.check_key(headers) {
            Ok(key) => key,
            // A wrong key on an open path is no key.
            Err(_) if preflight || self.is_open(uri.path()) => None,
            Err(refusal) => return Err(refusal),
        };
        Ok(Passed {
            trusted: self.keys.is_empty() || key.is_some(),
            admin: self.keys.is_empty() || key.is_some_and(|key| key.admin),
            key: key.map(|key| key.name.clone()),
        })
    }

    /// The request's origin if it is a listed one: its page may read refusals too.
    pub(super) fn listed_origin(&self, headers: &HeaderMap) -> Option<String> {
        self.check_origin(headers).ok().flatten()
    }

    fn is_open(&self, path: &str) -> bool {
        OPEN_PATHS.contains(&path) || (self.metrics_public && path == "/metrics")
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let header = headers
            .get(header::HOST)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        // No browser leaves it out, so a missing one is no rebinding. An absolute address in the
        // request's line goes before the header, but nobody has a reason to name two hosts.
        let named = uri.host().map(str::to_owned).into_iter().chain(header);
        for host in named {
            let name = without_port(&host).to_ascii_lowercase();
            let name = name.trim_end_matches('.');
            if !self.is_ours(name) {
                let shown: String = name.chars().take(100).collect();
                return Err(ApiError::new(
                    Code::Forbidden,
                    format!("the Host header names {shown:?}, which is not this proxy"),
                )
                .hint("if it is, add it to [security] allowed_hosts, or configure API keys"));
            }
        }
        Ok(())
    }

    /// Whether a name, in small letters, can only mean this machine or its neighbours.
    fn is_ours(&self, name: &str) -> bool {
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let local = is_name
            && (!name.contains('.') || LOCAL_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)));
        local || is_ip(name) || self.allowed_hosts.iter().any(|allowed| allowed == name)
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
        let origin = headers
            .get(header::ORIGIN)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        if let Some(origin) = origin {
            if self.cors_origins.contains(&origin) {
                return Ok(Some(origin));
            }
            let shown: String = origin.chars().take(100).collect();
            return Err(ApiError::new(
                Code::Forbidden,
                format!("web pages of {shown:?} may not call this proxy"),
            )
            .hint("add the origin to [security] cors_origins if they should"));
        }
        if headers.get(FETCH_SITE).is_some_and(|site| site.as_bytes() == b"cross-site") {
            return Err(ApiError::new(
                Code::Forbidden,
                "another web site's page may not call this proxy",
            )
            .hint("add its origin to [security] cors_origins if it should"));
        }
        Ok(None)
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<Option<&Key>, ApiError> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        let Some(presented) = presented_key(headers) else {
            return Err(ApiError::new(Code::Unauthorized, "an API key is needed")
                .hint("send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"));
        };
        let hash: [u8; 32] = Sha256::digest(presented).into();
        // All keys are compared, whichever matches: the time tells nothing.
        let mut found = None;
        for key in &self.keys {
            if bool::from(key.hash.ct_eq(&hash)) {
                found = Some(key);
            }
        }
        found
            .map(Some)
            .ok_or_else(|| ApiError::new(Code::Unauthorized, "this API key is not known"))
    }
}

impl Key {
    fn read(key: &ApiKey) -> Result<Key, String> {
        let admin = key.rights.contains(&Right::Admin);
        let hash = match &key.secret {
            KeySecret::Sha256(hash) => *hash,
            _ => Sha256::digest(secret_of(key)?.as_bytes()).into(),
        };
        Ok(Key { name: key.name.clone(), admin, hash })
    }
}

/// The secret of a key, or why it cannot be had.
pub(crate) fn secret_of(key: &ApiKey) -> Result<String, String> {
    let place = |what: &str| format!("API key {:?}: {what}", key.name);
    let secret = match &key.secret {
        KeySecret::Sha256(_) => return Err(place("only its hash is known")),
        KeySecret::Plain(text) => text.clone(),
        KeySecret::Env(name) => {
            std::env::var(name).map_err(|_| place(&format!("the variable {name} is not set")))?
        }
        KeySecret::File(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| place(&format!("{path}: {e}")))?;
            text.lines().next().unwrap_or_default().to_owned()
        }
    };
    match secret.trim() {
        "" => Err(place("the secret is empty")),
        secret => Ok(secret.to_owned()),
    }
}

fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    let key = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes))?;
    Some(key.trim_ascii()).filter(|key| !key.is_empty())
}

/// A browser asks whether it may ask.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn without_port(host: &str) -> &str {
    if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let is_port = port.strip_prefix(':').is_some_and(is_number);
        return if port.is_empty() || is_port { address } else { host };
    }
    match host.rsplit_once(':') {
        Some((name, port)) if is_number(port) && !name.contains(':') => name,
        _ => host,
    }
}

fn is_number(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit())
}

fn is_ip(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use chat_proxy_core::config::{Input, load};

    fn guard(toml: &str) -> Guard {
        let input = Input { file: Some(("c".into(), toml.into())), env: Vec::new() };
        Guard::new(&load(&input).unwrap().settings).unwrap()
    }

    fn check(guard: &Guard, path: &str, headers: &[(&str, &str)]) -> Result<Passed, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        guard.check(&Method::POST, &path.parse().unwrap(), &map).map_err(|e| e.status)
    }

    #[test]
    fn hosts_that_only_rebinding_would_send_are_refused() {
        let guard = guard(
            "[security]\nallowed_hosts = [\"Proxy.Example.com\"]\n[general]\nloopback_alias = \"box.example\"\n",
        );
        for (host, passes) in [
            ("127.0.0.1:8100", true),
            ("[::1]:8100", true),
            ("192.168.1.7", true),
            ("localhost:8100", true),
            ("workstation", true),
            ("a.localhost:1", true),
            ("ws.local", true),
            ("api.internal", true),
            ("x.lan", true),
            ("nas.home.arpa", true),
            ("box.example:80", true),
            ("proxy.example.com:8100", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("evil.example.", false),
            ("[::1].evil.example", false),
            ("[::1]:80.evil.example", false),
            ("evil.example#.local", false),
            ("evil.example/.lan", false),
        ] {
            assert_eq!(check(&guard, "/v1/models", &[("host", host)]).is_ok(), passes, "{host}");
        }
        assert!(check(&guard, "/v1/models", &[]).is_ok());
        // The request's line may name one too: neither hides the other.
        for (url, host, passes) in [
            ("http://localhost/v1/models", "localhost", true),
            ("http://evil.example/v1/models", "localhost", false),
            ("http://localhost/v1/models", "evil.example", false),
        ] {
            assert_eq!(check(&guard, url, &[("host", host)]).is_ok(), passes, "{url} {host}");
        }
    }

    #[test]
    fn with_keys_the_host_does_not_matter_and_the_key_does() {
        let guard = guard("[security]\napi_keys = [{ name = \"gui\", key = \"s3cret\" }]\n");
        let host = ("host", "evil.example");
        assert_eq!(check(&guard, "/v1/models", &[host]), Err(401));
        assert_eq!(
            check(&guard, "/v1/models", &[host, ("authorization", "Bearer wrong")]),
            Err(401)
        );
        for header in [
            ("authorization", "Bearer s3cret"),
            ("authorization", "bearer s3cret"),
            ("x-api-key", "s3cret"),
        ] {
            let passed = check(&guard, "/v1/models", &[host, header]).unwrap();
            assert_eq!(passed.key.as_deref(), Some("gui"));
        }
        for open in OPEN_PATHS {
            assert!(check(&guard, open, &[host]).is_ok(), "{open}");
        }
    }

    #[test]
    fn web_pages_need_to_be_listed() {
        let guard = guard("[security]\ncors_origins = [\"http://gui.local:3000\"]\n");
        assert!(check(&guard, "/v1/models", &[("origin", "http://gui.local:3000")]).is_ok());
        let mut map = HeaderMap::new();
        map.insert(header::ORIGIN, HeaderValue::from_static("http://gui.local:3000"));
        assert_eq!(guard.listed_origin(&map).as_deref(), Some("http://gui.local:3000"));
        for origin in
            ["http://evil.example", "null", "http://gui.local:3001", "http://gui.local:3000.evil"]
        {
            assert_eq!(check(&guard, "/v1/models", &[("origin", origin)]), Err(403), "{origin}");
        }
        assert_eq!(check(&guard, "/v1/models", &[("sec-fetch-site", "cross-site")]), Err(403));
        assert!(check(&guard, "/v1/models", &[("sec-fetch-site", "none")]).is_ok());
    }

    #[test]
    fn keys_come_from_hashes_files_and_variables_and_missing_ones_are_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from-file\nsecond line\n").unwrap();
        let toml = format!(
            "[security]\napi_keys = [{{ name = \"f\", key_file = {:?} }}, {{ name = \"h\", key_sha256 = \"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae\" }}]\n",
            file.path()
        );
        let guard = guard(&toml);
        assert!(check(&guard, "/x", &[("x-api-key", "from-file")]).is_ok());
        assert!(check(&guard, "/x", &[("x-api-key", "foo")]).is_ok(), "sha256 of foo");
        let input = Input {
            file: Some((
                "c".into(),
                "[security]\napi_keys = [{ name = \"e\", key_env = \"NO_SUCH_VARIABLE_X\" }]\n"
                    .into(),
            )),
            env: Vec::new(),
        };
        let error = Guard::new(&load(&input).unwrap().settings).err().unwrap();
        assert!(error.contains("NO_SUCH_VARIABLE_X"), "{error}");
    }
}
