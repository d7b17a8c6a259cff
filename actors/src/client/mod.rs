//! The thread's HTTP clients for backends.
//!
//! Owns: connection settings, TLS and the backends' keys. Must never do: follow redirects, decompress, limit
//! connections or time out by itself (the pump's own timers do); each of these awc defaults would
//! break a long generation.

mod framing;
mod own;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_service::Service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection, ConnectorService};
use awc::error::FreezeRequestError;
use awc::http::{Uri, header};
use awc::{Client, Connector, FrozenClientRequest};
use chat_proxy_core::registry::Endpoint;
use chat_proxy_core::{ApiError, Code};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use framing::Framed;

/// Name resolution and TCP connect together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// uvicorn closes idle connections after 5 s; ours must be given up before.
pub(crate) const IDLE_CONNECTION: Duration = Duration::from_secs(3);
const CONNECTION_LIFETIME: Duration = Duration::from_secs(3600);

/// Whom a connection trusts; each kind has a client, and so a pool, of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Trust {
    /// `http://`: no TLS at all, and no certificates to read.
    Plain,
    /// The system's certificates.
    System,
    /// The certificates of one file.
    File(String),
}

impl Trust {
    fn of(endpoint: &Endpoint) -> Trust {
        match &endpoint.ca_file {
            _ if endpoint.base().starts_with("http://") => Trust::Plain,
            None => Trust::System,
            Some(path) => Trust::File(path.clone()),
        }
    }
}

/// The thread's clients.
pub(crate) struct Clients {
    by_trust: RefCell<HashMap<Trust, Known>>,
    last_use: Cell<Instant>,
}

/// A client, and what is sent by it often, ready but for what differs from request to request: to put
/// a head together takes longer than to send it.
struct Known {
    client: Client,
    prepared: HashMap<Box<str>, Prepared>,
}

/// The two heads of requests to one address.
#[derive(Clone)]
struct Prepared {
    stream: FrozenClientRequest,
    whole: FrozenClientRequest,
}

/// Addresses whose heads are kept; there are some for each entry of a registry.
const MOST_PREPARED: usize = 1024;

impl Default for Clients {
    fn default() -> Self {
        Clients { by_trust: RefCell::default(), last_use: Cell::new(Instant::now()) }
    }
}

impl Known {
    /// A head; `shows`: whose key goes with it.
    fn head(
        &self,
        url: &str,
        stream: bool,
        shows: Option<&Endpoint>,
    ) -> Result<FrozenClientRequest, PostError> {
        let mut request = self.client.post(url).no_decompress();
        let host = host_of(request.get_uri());
        let accept = if stream { "text/event-stream" } else { "application/json" };
        request = request
            .insert_header((header::HOST, host))
            .insert_header((header::CONTENT_TYPE, "application/json"))
            .insert_header((header::ACCEPT, accept))
            .insert_header((header::ACCEPT_ENCODING, "identity"))
            .insert_header((header::USER_AGENT, OUR_NAME));
        if let Some(name) = shows.and_then(|endpoint| endpoint.api_key_env.as_deref()) {
            request = request.bearer_auth(key_of(name)?);
        } else if let Some(user) = shows.and_then(|endpoint| endpoint.userinfo.as_ref()) {
            request = request.basic_auth(&user.user, &user.password);
        }
        Ok(request.freeze()?)
    }

    fn prepare(&mut self, url: &str) -> Result<&Prepared, PostError> {
        let prepared =
            Prepared { stream: self.head(url, true, None)?, whole: self.head(url, false, None)? };
        if self.prepared.len() >= MOST_PREPARED {
            self.prepared.clear();
        }
        Ok(self.prepared.entry(url.into()).or_insert(prepared))
    }
}

/// As awc writes it.
fn host_of(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    match uri.port_u16() {
        None | Some(80 | 443) => host.to_owned(),
        Some(port) => format!("{host}:{port}"),
    }
}

const OUR_NAME: &str = concat!("imageworks-chat-proxy/", env!("CARGO_PKG_VERSION"));

/// Why a backend cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The address, or a header, is none.
    #[error("{0}")]
    Head(#[from] FreezeRequestError),
    /// There is no key for it.
    #[error(transparent)]
    Key(#[from] ApiError),
}

/// A CA file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("ca_file {path}: {message}")]
pub(crate) struct CaError {
    path: String,
    message: String,
}

impl Clients {
    /// The client for a backend.
    pub(crate) fn get(&self, endpoint: &Endpoint) -> Result<Client, CaError> {
        self.known(endpoint, |known| known.client.clone())
    }

    /// The head of a POST of JSON to one of a backend's addresses, for a stream or a whole answer; what is
    /// added to it goes before what it has.
    pub(crate) fn post(
        &self,
        endpoint: &Endpoint,
        url: &str,
        stream: bool,
    ) -> Result<FrozenClientRequest, PostError> {
        self.known(endpoint, |known| {
            // Who shows a key may share the address with others who show another.
            if endpoint.api_key_env.is_some() || endpoint.userinfo.is_some() {
                return known.head(url, stream, Some(endpoint));
            }
            let prepared = match known.prepared.get(url) {
                Some(prepared) => prepared,
                None => known.prepare(url)?,
            };
            Ok(if stream { prepared.stream.clone() } else { prepared.whole.clone() })
        })?
    }

    fn known<T>(
        &self,
        endpoint: &Endpoint,
        look: impl FnOnce(&mut Known) -> T,
    ) -> Result<T, CaError> {
        let trust = Trust::of(endpoint);
        self.last_use.set(Instant::now());
        let mut clients = self.by_trust.borrow_mut();
        if let Some(known) = clients.get_mut(&trust) {
            return Ok(look(known));
        }
        let tls = match &trust {
            Trust::Plain => None,
            Trust::System => Some(system_tls()),
            Trust::File(path) => Some(Arc::new(tls_config(ca_roots(path)?))),
        };
        let known = Known { client: build(tls), prepared: HashMap::new() };
        Ok(look(clients.entry(trust).or_insert(known)))
    }

    /// Gives up all pools once nobody has used them for a while. awc looks at the age of an idle
    /// connection only when it hands one out: until then it, and the backend's side of it, stay
    /// open for ever.
    pub(crate) fn drop_idle(&self) {
        if self.last_use.get().elapsed() >= IDLE_CONNECTION {
            self.by_trust.borrow_mut().clear();
        }
    }

    /// Gives up the pool that served a backend which broke the protocol: it may close the
    /// connections that it has just handed back (seen: llama.cpp, a few milliseconds after an
    /// empty stream), and the next request on one of them would fail through no fault of its own.
    /// Requests that are under way keep their connections.
    pub(crate) fn forget(&self, endpoint: &Endpoint) {
        self.by_trust.borrow_mut().remove(&Trust::of(endpoint));
    }
}

fn build(tls: Option<Arc<ClientConfig>>) -> Client {
    let mut connector = Connector::new().connector(Connect { connector: Rc::default() });
    if let Some(tls) = tls {
        connector = connector.rustls_0_23(tls);
    }
    let connector = connector
        .timeout(CONNECT_TIMEOUT)
        .handshake_timeout(TLS_TIMEOUT)
        .conn_keep_alive(IDLE_CONNECTION)
        .conn_lifetime(CONNECTION_LIFETIME)
        .limit(0);
    Client::builder()
        .connector(connector)
        .disable_timeout()
        .disable_redirects()
        .no_default_headers()
        .finish()
}

/// A client that shares no connection with any backend's.
pub fn fresh(tls: bool) -> Client {
    build(tls.then(system_tls))
}

/// The same, for the daemon of this machine whose certificate is in that file (see `own`).
pub fn fresh_for_own(cert_file: &Path) -> Client {
    let own = own::config(cert_file, system_roots()).map(|config| Arc::new(http1(config)));
    build(Some(own.unwrap_or_else(system_tls)))
}

/// The key of a backend, from the variable that its entry names.
pub(crate) fn key_of(name: &str) -> Result<String, ApiError> {
    match std::env::var(name) {
        Ok(key) if !key.trim().is_empty() => Ok(key.trim().to_owned()),
        _ => Err(ApiError::new(
            Code::BackendUnavailable,
            format!("the backend's key is missing: the variable {name} is not set"),
        )
        .hint(format!("set {name} in the daemon's environment and restart it"))),
    }
}

/// Reading the system's certificates takes milliseconds: once per process.
fn system_tls() -> Arc<ClientConfig> {
    static TLS: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    TLS.get_or_init(|| Arc::new(tls_config(system_roots()))).clone()
}

fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a system certificate could not be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}

fn ca_roots(path: &str) -> Result<RootCertStore, CaError> {
    let fail = |message: String| CaError { path: path.to_owned(), message };
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(path).map_err(|e| fail(e.to_string()))? {
        let cert = cert.map_err(|e| fail(e.to_string()))?;
        roots.add(cert).map_err(|e| fail(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(fail("holds no certificate".to_owned()));
    }
    Ok(roots)
}

fn tls_config(roots: RootCertStore) -> ClientConfig {
    http1(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// HTTP/1.1 only: one request per connection is what cancels exactly when it is dropped.
fn http1(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Connects, and mends what awc leaves undone: Nagle's algorithm holds a request's last part back
/// (measured with awc 3.11), and answers without a length end unread (see [`framing`]).
#[derive(Clone)]
struct Connect {
    connector: Rc<ConnectorService>,
}

impl Service<ConnectInfo<Uri>> for Connect {
    type Response = Connection<Uri, Framed>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<ConnectInfo<Uri>>::poll_ready(&*self.connector, cx)
    }

    fn call(&self, request: ConnectInfo<Uri>) -> Self::Future {
        let connecting = self.connector.call(request);
        Box::pin(async move {
            let connection = connecting.await?;
            if let Err(error) = connection.io_ref().set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY could not be set");
            }
            let (stream, uri) = connection.into_parts();
            Ok(Connection::new(uri, Framed::new(stream)))
        })
    }
}
