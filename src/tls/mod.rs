//! HTTPS on the daemon's own sockets (SPEC 10): the certificate, and who serves with it.
//!
//! Owns: the certificate in force ([`Tls`]), and what is wrong with newer files. Who reads the files
//! is [`files`], who reads them again while we run is [`keeper`], who serves is [`mod@server`]. Must never
//! do: serve plain HTTP to somebody who asked for HTTPS, take a certificate without its key, or touch
//! a connection that has had its handshake.

mod expiry;
mod files;
mod keeper;
mod server;

use std::path::PathBuf;
use std::sync::Arc;

use chat_proxy_actors::live::Live;
use chat_proxy_core::config::{Problem, Settings};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

pub(crate) use keeper::{Keeper, Look};
pub(crate) use server::{Bounds, server};

use files::Pair;

/// Where certificate and key are.
#[derive(Debug, Clone)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    /// `None`: plain HTTP is asked for.
    fn of(settings: &Settings) -> Option<Files> {
        let security = &settings.security;
        let (cert, key) = (security.tls_cert_file.as_ref()?, security.tls_key_file.as_ref()?);
        Some(Files { cert: cert.into(), key: key.into() })
    }
}

/// The certificate in force. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    files: Files,
    pair: Live<Pair>,
    /// Why the newest files are not in force, if so.
    problem: Live<Option<Problem>>,
}

impl Tls {
    /// Reads what the settings name; `None`: they name nothing, and HTTP is served. May block.
    pub(crate) fn open(settings: &Settings) -> Result<Option<Tls>, Problem> {
        let Some(files) = Files::of(settings) else { return Ok(None) };
        let pair = files::read(&files)?;
        Ok(Some(Tls { files, pair: Live::new(pair), problem: Live::new(None) }))
    }

    /// Why the newest files are not in force, if so.
    pub(crate) fn problem(&self) -> Option<Problem> {
        Option::clone(&self.problem.load())
    }
}

/// Every handshake gets the certificate that is in force when it begins, whatever name it asks for.
impl ResolvesServerCert for Tls {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.pair.load().key.clone())
    }
}
