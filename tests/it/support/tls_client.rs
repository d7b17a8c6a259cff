//! A client that speaks HTTPS, believes everybody, and notes which certificate it was shown.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
};

use super::{Ask, Client, Reply};

/// A connection that has had its handshake.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Everybody may be the server, if it has the key of what it shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Versions and protocols that a client offers.
pub fn offering(
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Connects, and ends the handshake.
pub fn shake(addr: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Client<TlsStream>> {
    let name = ServerName::IpAddress(addr.ip().into());
    let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, Client::connect(addr).stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Client::over(stream))
}

/// The same, as most clients do it.
pub fn connect(addr: SocketAddr) -> Client<TlsStream> {
    shake(addr, offering(rustls::DEFAULT_VERSIONS, &["h2", "http/1.1"])).expect("a handshake")
}

/// The certificate that new connections are shown.
pub fn shown(addr: SocketAddr) -> CertificateDer<'static> {
    let client = connect(addr);
    client.stream.conn.peer_certificates().expect("a certificate")[0].clone().into_owned()
}

/// A certificate as a file has it.
pub fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

impl<S: Read + Write> Client<S> {
    /// Sends a request on this connection.
    pub fn ask(&mut self, ask: &Ask, addr: SocketAddr) {
        self.stream.write_all(&ask.bytes(addr)).expect("the daemon takes the request");
        self.stream.flush().expect("the daemon takes the request");
    }
}

impl Ask {
    /// Sends it over TLS, on a connection of its own.
    pub fn open_tls(&self, addr: SocketAddr) -> Client<TlsStream> {
        let mut client = connect(addr);
        client.ask(self, addr);
        client
    }

    /// The same, and reads the whole answer.
    pub fn reply_tls(&self, addr: SocketAddr) -> Reply {
        self.open_tls(addr).reply()
    }
}
