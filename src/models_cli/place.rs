//! Where the daemon is, and which key it is sent; where the registry's files are.
//!
//! Owns: the order in which these are looked for. Must never do: send a key that was found in the
//! settings of this machine to another machine, or take this machine's files for those of a daemon
//! elsewhere.

use std::cell::OnceCell;
use std::fs;
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use awc::http::Uri;
use chat_proxy_actors::registry::RegistrySettings;
use chat_proxy_core::config::{Problem, Right, Settings, is_loopback};

use super::error::CliError;
use crate::http::secret_of;
use crate::listen::PORT_FILE;
use crate::settings::{self, Source};

/// An address that somebody gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    /// `http://host:port`, without anything behind it.
    base: String,
    host: String,
}

/// Where to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) base: String,
    pub(super) key: Option<String>,
    /// The certificate that a daemon of this machine serves HTTPS with.
    pub(super) certificate: Option<PathBuf>,
}

/// See the module.
pub(super) struct Place {
    url: Option<Url>,
    key: Option<String>,
    settings: OnceCell<Result<Source, Vec<Problem>>>,
}

impl Place {
    pub(super) fn new(url: Option<Url>, key: Option<String>) -> Self {
        let key = key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
        Place { url, key, settings: OnceCell::new() }
    }

    /// The settings that a daemon which was started here would have.
    pub(super) fn settings(&self) -> Result<&Settings, CliError> {
        self.source().map(|source| &source.loaded.settings)
    }

    /// How that daemon would read its registry: with its profiles, and what fits this machine.
    pub(super) fn registry(&self) -> Result<RegistrySettings, CliError> {
        let source = self.source()?;
        let (loaded, gpus) = (&source.loaded, settings::gpus(&source.loaded.settings));
        let profiled = settings::profiled(loaded, &source.path, gpus).map_err(|problems| {
            let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
            CliError::failed(said.join("; "), "`imageworks-chat-proxy check-config` says all of it")
        })?;
        Ok(settings::registry_with(&loaded.settings, &profiled))
    }

    /// The same, and what they were read from.
    fn source(&self) -> Result<&Source, CliError> {
        match self.settings.get_or_init(settings::source) {
            Ok(source) => Ok(source),
            Err(problems) => Err(CliError::Settings(problems.clone())),
        }
    }

    /// Whether the daemon that is meant is one of this machine.
    pub(super) fn is_here(&self) -> bool {
        self.url.as_ref().is_none_or(|url| is_loopback(&url.host))
    }

    pub(super) fn address(&self) -> Result<Address, CliError> {
        let base = match &self.url {
            Some(url) => url.base.clone(),
            None => base_of(self.settings()?)?,
        };
        let key = match &self.key {
            Some(key) => Some(key.clone()),
            // Somebody who gave the address may have no settings here, or wrong ones.
            None if self.is_here() => self.settings().ok().and_then(admin_key),
            None => None,
        };
        let is_https = base.starts_with("https:");
        let certificate = (is_https && self.is_here()).then(|| self.settings().ok()).flatten();
        let certificate = certificate
            .and_then(|settings| settings.security.tls_cert_file.as_ref().map(PathBuf::from));
        Ok(Address { base, key, certificate })
    }
}

/// The first one that may do everything and whose secret can be had.
fn admin_key(settings: &Settings) -> Option<String> {
    let mut keys = settings.security.api_keys.iter();
    keys.find_map(|key| key.rights.contains(&Right::Admin).then(|| secret_of(key).ok()).flatten())
}

/// Somebody who listens on this machine, or near it, answers within this.
const PROBE: Duration = Duration::from_millis(300);

fn base_of(settings: &Settings) -> Result<String, CliError> {
    let server = &settings.server;
    let port = match server.port {
        0 => read_port().ok_or_else(|| CliError::NoPort { file: PORT_FILE.to_owned() })?,
        port => port,
    };
    let host = reachable(&server.host);
    // The settings may have another port by now than the daemon that runs.
    let elsewhere = || read_port().filter(|other| *other != port && listens(&host, *other));
    let port = if listens(&host, port) { port } else { elsewhere().unwrap_or(port) };
    Ok(match settings.security.tls_cert_file {
        None => format!("http://{host}:{port}"),
        // The client has no way to name an IPv6 address to TLS.
        Some(_) if host.starts_with('[') => format!("https://localhost:{port}"),
        Some(_) => format!("https://{host}:{port}"),
    })
}

/// Whether somebody takes connections there.
fn listens(host: &str, port: u16) -> bool {
    let Ok(addrs) = format!("{host}:{port}").to_socket_addrs() else { return false };
    let mut addrs = addrs;
    addrs.any(|addr| TcpStream::connect_timeout(&addr, PROBE).is_ok())
}

fn read_port() -> Option<u16> {
    fs::read_to_string(PORT_FILE).ok()?.trim().parse().ok()
}

/// A host to listen at as one to connect to.
fn reachable(host: &str) -> String {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => "[::1]".to_owned(),
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => bare.to_owned(),
    }
}

/// Reads an address; a path of `/v1` is what clients of OpenAI's have in theirs.
pub(super) fn parse_url(text: &str) -> Result<Url, String> {
    let wrong = || "an address such as http://127.0.0.1:8100".to_owned();
    let uri: Uri = text.trim().parse().map_err(|_| wrong())?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority())
    else {
        return Err(wrong());
    };
    let is_bare = matches!(uri.path().trim_end_matches('/'), "" | "/v1") && uri.query().is_none();
    if !is_bare || authority.as_str().contains('@') {
        return Err(wrong());
    }
    Ok(Url { base: format!("{scheme}://{authority}"), host: authority.host().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chat_proxy_core::config::{Input, load};

    fn settings(toml: &str) -> Settings {
        load(&Input { file: Some(("c".into(), toml.into())), env: Vec::new() }).unwrap().settings
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, base, is_here) in [
            ("http://127.0.0.1:8100", "http://127.0.0.1:8100", true),
            ("http://localhost:8100/", "http://localhost:8100", true),
            (" https://[::1]:1/v1/ ", "https://[::1]:1", true),
            ("http://gpu.lan/v1", "http://gpu.lan", false),
        ] {
            let url = parse_url(text).unwrap();
            assert_eq!(url.base, base);
            assert_eq!(Place::new(Some(url), None).is_here(), is_here, "{text}");
        }
        for bad in ["", "127.0.0.1:8100", "ftp://h", "http://", "http://h/x", "http://u:p@h", "/v1"]
        {
            parse_url(bad).unwrap_err();
        }
    }

    #[test]
    fn where_a_daemon_listens_is_where_it_is_asked() {
        for (host, base) in [
            ("127.0.0.1", "http://127.0.0.1:8100"),
            ("0.0.0.0", "http://127.0.0.1:8100"),
            ("::", "http://[::1]:8100"),
            ("[::1]", "http://[::1]:8100"),
            ("gpu.lan", "http://gpu.lan:8100"),
        ] {
            let settings = settings(&format!(
                "[server]\nhost = \"{host}\"\n[security]\nallow_unauthenticated = true\n"
            ));
            assert_eq!(base_of(&settings).unwrap(), base);
        }
        let with_tls = |host: &str| {
            base_of(&settings(&format!(
                "[server]\nhost = \"{host}\"\n[security]\nallow_unauthenticated = true\n\
                 tls_cert_file = \"c\"\ntls_key_file = \"k\"\n"
            )))
            .unwrap()
        };
        assert_eq!(with_tls("0.0.0.0"), "https://127.0.0.1:8100");
        assert_eq!(with_tls("::"), "https://localhost:8100");
    }

    #[test]
    fn the_first_admin_key_that_can_be_read_is_taken() {
        let hash = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
        let toml = format!(
            "[security]\napi_keys = [{{ name = \"chat\", key = \"a\" }},\n\
             {{ name = \"hash\", key_sha256 = \"{hash}\", rights = [\"chat\", \"admin\"] }},\n\
             {{ name = \"away\", key_env = \"NO_SUCH_VARIABLE_X\", rights = [\"chat\", \"admin\"] }},\n\
             {{ name = \"op\", key = \" b \", rights = [\"chat\", \"admin\"] }}]\n"
        );
        assert_eq!(admin_key(&settings(&toml)).as_deref(), Some("b"));
        assert_eq!(admin_key(&settings("")), None);
    }

    #[test]
    fn a_key_of_this_machine_stays_on_it() {
        let place = |url: &str, key: Option<&str>| {
            let place = Place::new(Some(parse_url(url).unwrap()), key.map(str::to_owned));
            let toml = "[security]\napi_keys = [{ name = \"op\", key = \"b\", rights = [\"chat\", \"admin\"] }]\n";
            let input = Input { file: Some(("c".into(), toml.into())), env: Vec::new() };
            let source = load(&input).map(|loaded| Source {
                loaded,
                path: "chat_proxy.toml".into(),
                env: Vec::new(),
            });
            assert!(place.settings.set(source).is_ok());
            place.address().unwrap().key
        };
        assert_eq!(place("http://127.0.0.1:1", None).as_deref(), Some("b"));
        assert_eq!(place("http://127.0.0.1:1", Some("own")).as_deref(), Some("own"));
        assert_eq!(place("http://gpu.lan:1", None), None);
        assert_eq!(place("http://gpu.lan:1", Some("own")).as_deref(), Some("own"));
    }
}
