//! Whom the operator's tools trust to be this machine's daemon.
//!
//! Owns: that choice. Must never do: take anybody's word for a name. The file that the daemon's
//! settings name is on this machine, so whoever can sign with that very certificate's key is the
//! daemon, whatever name stands in the certificate (127.0.0.1 seldom does) and whoever signed it. All
//! others are judged as usual, name and all, by the system's certificates and those of the file.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// See the module.
#[derive(Debug)]
struct Own {
    certificate: CertificateDer<'static>,
    usual: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Own {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    // That the other side has the key is proved by these, for our own certificate too.

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// How to speak to the daemon whose certificate is in `cert_file`; `None`: there is none to be had,
/// and the usual trust has to do.
pub(super) fn config(cert_file: &Path, mut roots: RootCertStore) -> Option<ClientConfig> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert_file).ok()?.flatten().collect();
    let certificate = chain.first()?.clone();
    // A self-signed one is no authority; it is known by being the same.
    roots.add_parsable_certificates(chain);
    let provider = Arc::new(ring::default_provider());
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let own = Own { certificate, usual: usual.build().ok()? };
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().ok()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(own));
    Some(builder.with_no_client_auth())
}
