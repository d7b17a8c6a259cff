//! Having Ollama give memory back.
//!
//! Owns: the order to unload, and the proof: `/api/ps` names the model no more (SPEC 6.2). Ollama
//! answers the order at once and frees the memory later, when the model's requests have ended. Must
//! never do: take silence for an empty GPU.

use std::collections::BTreeMap;
use std::time::Duration;

use chat_proxy_core::chat::ollama::{Loaded, same_model, unload_body};
use chat_proxy_core::registry::Endpoint;
use tokio::time::{Instant, sleep};

use super::api::{self, ASK, Trouble};
use crate::client::Clients;

/// Memory is looked for in short steps: nothing tells that it is free.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(200);
/// A model that is still there is told again after this.
const AGAIN: Duration = Duration::from_secs(2);

/// Whom to unload.
pub(super) enum Whom {
    /// Everything, but for these where they hold no memory of a GPU.
    AllBut(Vec<String>),
    /// One model.
    One(String),
}

impl Whom {
    pub(super) fn means(&self, loaded: &Loaded) -> bool {
        match self {
            Whom::AllBut(names) => {
                loaded.size_vram > 0 || !names.iter().any(|name| same_model(name, &loaded.name))
            }
            Whom::One(name) => same_model(name, &loaded.name),
        }
    }
}

/// When to believe it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// It must be gone within this.
    pub(super) limit: Duration,
    /// An empty list of before proves nothing.
    pub(super) not_before: Instant,
}

/// Unloads and waits until it is gone, within its bounds; answers what went. An Ollama that nobody
/// runs, or an address where something else answers, holds no model.
pub(super) async fn unload(
    clients: &Clients,
    server: &Endpoint,
    whom: &Whom,
    bounds: Bounds,
) -> Result<Vec<String>, String> {
    let Bounds { limit, not_before } = bounds;
    let until = (Instant::now() + limit).max(not_before);
    let mut went: BTreeMap<String, Instant> = BTreeMap::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let why = match api::ps(clients, server).await {
            Ok(loaded) => {
                let left: Vec<Loaded> = loaded.into_iter().filter(|m| whom.means(m)).collect();
                if left.is_empty() && Instant::now() >= not_before {
                    return Ok(went.into_keys().collect());
                }
                order_all(clients, server, &left, &mut went).await;
                told(&left, limit)
            }
            Err(trouble) if trouble.is_absence() => return Ok(went.into_keys().collect()),
            Err(Trouble::Status { status: 404 | 405, .. } | Trouble::Nonsense { .. }) => {
                tracing::warn!(address = server.origin(), "no Ollama answers there");
                return Ok(went.into_keys().collect());
            }
            Err(trouble) => trouble.to_string(),
        };
        if Instant::now() >= until {
            return Err(why);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

fn told(left: &[Loaded], limit: Duration) -> String {
    let names: Vec<&str> = left.iter().map(|model| model.name.as_str()).collect();
    format!("{} still loaded after {} s", names.join(", "), limit.as_secs_f64())
}

/// Orders each, and again after a while: another client of Ollama may have loaded it anew.
async fn order_all(
    clients: &Clients,
    server: &Endpoint,
    left: &[Loaded],
    ordered: &mut BTreeMap<String, Instant>,
) {
    for model in left {
        if ordered.get(&model.name).is_none_or(|at| at.elapsed() >= AGAIN) {
            ordered.insert(model.name.clone(), Instant::now());
            order(clients, server, &model.name).await;
        }
    }
}

/// What comes of it is seen in the next list.
async fn order(clients: &Clients, server: &Endpoint, name: &str) {
    for path in ["/api/chat", "/api/generate"] {
        match api::post(clients, server, path, unload_body(name), Some(ASK)).await {
            Ok(_) => return,
            Err(trouble) => {
                tracing::warn!(model = name, path, %trouble, "Ollama refused to unload");
            }
        }
    }
}
