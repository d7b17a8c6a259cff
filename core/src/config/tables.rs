//! Values of settings that are tables of their own: API keys and autostart services.
//!
//! Owns: their shape and checks. Must never do: read the files and variables that they name.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Chat, relay and read-only endpoints.
    Chat,
    /// Everything.
    Admin,
}

/// Where a key's secret comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySecret {
    /// It stands in the settings.
    Plain(String),
    /// Its SHA-256, in hex.
    Sha256([u8; 32]),
    /// The first line of a file.
    File(String),
    /// A variable.
    Env(String),
}

impl fmt::Debug for KeySecret {
    /// Never the secret itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySecret::Plain(_) => f.write_str("Plain(…)"),
            KeySecret::Sha256(_) => f.write_str("Sha256(…)"),
            KeySecret::File(path) => write!(f, "File({path:?})"),
            KeySecret::Env(name) => write!(f, "Env({name:?})"),
        }
    }
}

/// One API key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "KeyWire")]
pub struct ApiKey {
    /// Shown in logs instead of the secret.
    pub name: String,
    /// Where the secret comes from.
    pub secret: KeySecret,
    /// What it may be used for.
    pub rights: Vec<Right>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyWire {
    name: String,
    key: Option<String>,
    key_sha256: Option<String>,
    key_file: Option<String>,
    key_env: Option<String>,
    #[serde(default = "chat_only")]
    rights: Vec<Right>,
}

fn chat_only() -> Vec<Right> {
    vec![Right::Chat]
}

impl TryFrom<KeyWire> for ApiKey {
    type Error = String;

    fn try_from(wire: KeyWire) -> Result<Self, String> {
        let mut secrets = Vec::new();
        secrets.extend(wire.key.map(KeySecret::Plain));
        if let Some(hex) = wire.key_sha256 {
            secrets.push(KeySecret::Sha256(parse_sha256(&hex)?));
        }
        secrets.extend(wire.key_file.map(KeySecret::File));
        secrets.extend(wire.key_env.map(KeySecret::Env));
        let name = wire.name;
        let [secret] = <[KeySecret; 1]>::try_from(secrets).map_err(|all| {
            format!("key {name:?} must have exactly one of key, key_sha256, key_file and key_env, not {}", all.len())
        })?;
        if secret == KeySecret::Plain(String::new()) {
            return Err(format!("key {name:?} is empty"));
        }
        if wire.rights.is_empty() {
            return Err(format!(
                "key {name:?} has no rights; give it [\"chat\"] or [\"chat\", \"admin\"]"
            ));
        }
        Ok(ApiKey { name, secret, rights: wire.rights })
    }
}

fn parse_sha256(hex: &str) -> Result<[u8; 32], String> {
    let wrong = || "key_sha256 must be 64 hexadecimal digits".to_owned();
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return Err(wrong());
    }
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let text = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(text, 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

/// How a service of the autostart map is started (SPEC 6.4).
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// Environment on top of the daemon's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Ready when this address answers 2xx.
    pub ready_url: Option<String>,
    /// Ready when this text stands in its output.
    pub ready_log: Option<String>,
    /// Must be ready within this (s).
    pub grace_period_s: Option<f64>,
    /// Signal that stops it.
    pub stop_signal: Option<String>,
    /// Entries of the registry that it serves.
    #[serde(default)]
    pub models: Vec<String>,
}
