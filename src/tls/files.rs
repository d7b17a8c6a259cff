//! Certificate and key on the disk.
//!
//! Owns: reading the two, and what can be wrong with them, in words that name the file. Must never
//! do: keep the key's text, or say any of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use chat_proxy_core::config::Problem;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use sha2::{Digest, Sha256};

use super::{Files, expiry};

/// A chain has some kilobytes; whoever names a disk image by mistake is told so.
const LARGEST: u64 = 1 << 20;

/// A certificate and its key.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    /// When the certificate ends, Unix seconds; `None`: its dates cannot be read.
    pub(super) ends: Option<i64>,
    /// Of both files, so that a change is seen.
    pub(super) digest: [u8; 32],
}

/// Reads both. Blocking.
pub(super) fn read(files: &Files) -> Result<Pair, Problem> {
    let of_cert = |message: String| problem("tls_cert_file", &files.cert, &message);
    let of_key = |message: String| problem("tls_key_file", &files.key, &message);
    let cert_text = text(&files.cert).map_err(of_cert)?;
    let key_text = text(&files.key).map_err(of_key)?;
    let chain = chain(&cert_text).map_err(of_cert)?;
    let ends = chain.first().and_then(|cert| expiry::not_after(cert));
    let key = private_key(&key_text).map_err(of_key)?;
    let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| {
        match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => of_key(format!(
                "does not belong to the first certificate in {} (the server's own one comes first)",
                files.cert.display()
            )),
            // Not `InvalidCertificate` alone: what it says of one that is none varies.
            Error::InvalidCertificate(error) => {
                of_cert(format!("its first certificate cannot be read: {error:?}"))
            }
            error => of_key(format!("cannot be used: {error}")),
        }
    })?;
    let digest = Sha256::new().chain_update(&cert_text).chain_update([0]).chain_update(&key_text);
    Ok(Pair { key: Arc::new(key), ends, digest: digest.finalize().into() })
}

/// What is wrong with a file, in whatever way.
fn problem(key: &str, path: &Path, message: &str) -> Problem {
    Problem {
        place: format!("[security] {key}"),
        message: format!("{}: {message}", path.display()),
    }
}

fn text(path: &Path) -> Result<Vec<u8>, String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        File::open(path)?.take(LARGEST + 1).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > LARGEST {
        return Err("is too large for a PEM file".to_owned());
    }
    Ok(text)
}

fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => {
            Err("holds no certificate (PEM, -----BEGIN CERTIFICATE-----)".to_owned())
        }
        Ok(chain) => Ok(chain),
        Err(error) => Err(format!("is no proper PEM: {error}")),
    }
}

fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let holds = |what: &[u8]| text.windows(what.len()).any(|part| part == what);
    // PKCS#8 says so in its first line, older forms in a header.
    if holds(b"BEGIN ENCRYPTED PRIVATE KEY") || holds(b"Proc-Type: 4,ENCRYPTED") {
        return Err(
            "is encrypted, and nobody is there to give a passphrase; write it without one: \
                    openssl pkey -in OLD -out NEW"
                .to_owned(),
        );
    }
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            "holds no private key (PEM, -----BEGIN PRIVATE KEY-----)".to_owned()
        }
        // What the parser says may quote the file.
        _ => "is no proper PEM".to_owned(),
    })
}

/// Whether others can read the key; they could pretend to be us.
pub(super) fn is_open_to_others(files: &Files) -> bool {
    let rights =
        |path: &Path| std::fs::metadata(path).map(|meta| (meta.mode(), meta.uid(), meta.gid()));
    // The process's own entry belongs to the user and the group that it runs as.
    match (rights(&files.key), rights(Path::new("/proc/self"))) {
        (Ok((mode, owner, group)), Ok((_, user, own))) => {
            is_open(mode, owner == user, group == own)
        }
        _ => false,
    }
}

/// A key that belongs to root, and that we can read only by our own group, is as it should be.
fn is_open(mode: u32, is_owner: bool, is_own_group: bool) -> bool {
    let others = if is_own_group && !is_owner { 0o007 } else { 0o077 };
    mode & others != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_for_its_owner_or_for_the_group_by_which_we_read_it() {
        for (mode, is_owner, is_own_group, open) in [
            (0o100_600, true, true, false),
            (0o100_400, true, false, false),
            (0o100_640, true, true, true),
            (0o100_640, false, true, false),
            (0o100_640, false, false, true),
            (0o100_644, false, true, true),
            (0o100_604, true, true, true),
        ] {
            let found = is_open(mode, is_owner, is_own_group);
            assert_eq!(found, open, "{mode:o}, owner {is_owner}, group {is_own_group}");
        }
    }
}
