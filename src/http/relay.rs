//! The endpoints that are passed on by their model (SPEC 2, second row).
//!
//! Owns: receiving a body whole, in memory or on the disk, while it is looked through for the few
//! fields that matter. Must never do: copy it, or wait for the disk on a thread that serves.

use std::future::Future;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use chat_proxy_actors::forwarder::{Content, RequestBody};
use chat_proxy_actors::spool::Spool;
use chat_proxy_core::relay::{Dialect, Found, Scan};
use chat_proxy_core::{ApiError, Code};

use super::body::{self, NoBody, Share};
use super::chat::Arrival;
use super::resource;
use super::state::AppState;

/// All of them.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    for dialect in Dialect::RELAYED {
        let handle = move |request, payload, state| relay(dialect, request, payload, state);
        config.service(resource(dialect.path(), Method::POST, web::post().to(handle)));
    }
}

async fn relay(
    dialect: Dialect,
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    let arrival = Arrival::of(&request, &state, dialect);
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let receiving = receive(dialect, kind.as_deref(), &mut payload, request.headers(), &state);
    match arrival.read(&state, receiving).await {
        Ok((arrival, Received { found, content, shares })) => {
            let content_type = kind.unwrap_or_else(|| "application/json".to_owned());
            let body = RequestBody::Relay { dialect, found, content_type, content };
            arrival.forward(&state, body, Box::new(shares)).await
        }
        Err(refused) => refused,
    }
}

/// A body that has been received.
struct Received {
    found: Box<Found>,
    content: Content,
    shares: Shares,
}

/// What it holds of the memory and of the disk; given back when dropped.
struct Shares {
    memory: Share,
    disk: Share,
}

async fn receive(
    dialect: Dialect,
    content_type: Option<&str>,
    payload: &mut web::Payload,
    headers: &HeaderMap,
    state: &AppState,
) -> Result<Received, NoBody> {
    let settings = state.settings();
    let limits = &settings.limits;
    let promised = body::promised(headers, limits.max_body_bytes)?;
    let mut scan = Scan::of(dialect, content_type)?;
    let mut store = Store::new(state, limits.body_spool_bytes);
    store.expect(promised)?;
    let stall: Option<Duration> = settings.server.client_header_timeout_s.limit();
    while let Some(chunk) = body::next(payload, stall).await? {
        body::within(store.length + chunk.len() as u64, limits.max_body_bytes)?;
        scan.push(&chunk)?;
        store.push(chunk, state).await?;
    }
    let found = Box::new(scan.finish()?);
    let (content, shares) = store.finish().await?;
    Ok(Received { found, content, shares })
}

/// Where a body goes while it comes in.
struct Store {
    memory: BytesMut,
    /// The only piece so far: most bodies are one, and it is not copied.
    first: Bytes,
    spool: Option<Spool>,
    length: u64,
    shares: Shares,
    most_in_memory: u64,
}

impl Store {
    fn new(state: &AppState, most_in_memory: u64) -> Self {
        let shares = Shares { memory: state.budget.share(), disk: state.disk.share() };
        let (memory, first) = (BytesMut::new(), Bytes::new());
        Store { memory, first, spool: None, length: 0, shares, most_in_memory }
    }

    /// What is promised must have room where it will wait.
    fn expect(&self, promised: Option<u64>) -> Result<(), ApiError> {
        let promised = promised.unwrap_or(0);
        let Shares { memory, disk } = &self.shares;
        if promised > self.most_in_memory { disk } else { memory }.room_for(promised)
    }

    async fn push(&mut self, chunk: Bytes, state: &AppState) -> Result<(), ApiError> {
        self.length += chunk.len() as u64;
        if self.spool.is_none() && self.length > self.most_in_memory {
            self.shares.disk.grow(self.length - chunk.len() as u64)?;
            let spool = told(Spool::create(state.spool_dir.clone())).await?;
            let begun = if self.memory.is_empty() { &self.first[..] } else { &self.memory[..] };
            told(self.spool.insert(spool).push(begun)).await?;
            (self.memory, self.first) = (BytesMut::new(), Bytes::new());
            self.shares.memory.give_back();
        }
        if let Some(spool) = &mut self.spool {
            self.shares.disk.grow(chunk.len() as u64)?;
            return told(spool.push(&chunk)).await;
        }
        self.shares.memory.grow(chunk.len() as u64)?;
        if self.first.is_empty() && self.memory.is_empty() {
            self.first = chunk;
            return Ok(());
        }
        if self.memory.is_empty() {
            self.memory.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.memory.extend_from_slice(&chunk);
        Ok(())
    }

    async fn finish(self) -> Result<(Content, Shares), ApiError> {
        let content = match self.spool {
            Some(spool) => Content::Disk(told(spool.finish()).await?),
            None if self.memory.is_empty() => Content::Memory(self.first),
            None => Content::Memory(self.memory.freeze()),
        };
        Ok((content, self.shares))
    }
}

/// A disk that is full or broken is ours to mend, not the client's.
async fn told<T>(work: impl Future<Output = std::io::Result<T>>) -> Result<T, ApiError> {
    work.await.map_err(|error| {
        tracing::error!(%error, "a large request body cannot be spooled");
        ApiError::new(Code::Internal, format!("the request body cannot be spooled: {error}"))
            .hint("look at the disk under _staging, or raise body_spool_bytes")
    })
}
