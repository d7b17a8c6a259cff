//! Which Ollamas there are.
//!
//! Owns: reading them off the registry, and remembering those that the proxy loaded models at: an entry
//! may be changed while its model is loaded at the old address. Must never do: ask one.

use chat_proxy_core::chat::ollama::same_model;
use chat_proxy_core::registry::{Endpoint, Placement, Snapshot};

/// One Ollama.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) endpoint: Endpoint,
    /// It takes turns at the GPU with vLLM.
    pub(super) shares: bool,
    /// What the registry's entries are called there.
    pub(super) names: Vec<String>,
    /// Those of them that no entry runs on the GPU.
    pub(super) on_cpu: Vec<String>,
}

/// Those of the registry, in its order, each once.
pub(super) fn of(snapshot: &Snapshot) -> Vec<Server> {
    let mut servers: Vec<Server> = Vec::new();
    let models = (0..snapshot.entries().len()).filter_map(|at| match snapshot.placement(at) {
        Placement::Ollama(model) => Some(model.clone()),
        _ => None,
    });
    let models: Vec<_> = models.collect();
    for model in &models {
        let server = entry(&mut servers, &model.server);
        server.shares |= model.server_shares_gpu;
        server.names.push(model.tag.clone());
        let on_gpu = models.iter().any(|other| {
            other.uses_gpu
                && other.server.base() == model.server.base()
                && same_model(&other.tag, &model.tag)
        });
        if !on_gpu {
            server.on_cpu.push(model.tag.clone());
        }
    }
    servers
}

/// The one at an address, made if it is not there.
pub(super) fn entry<'a>(servers: &'a mut Vec<Server>, endpoint: &Endpoint) -> &'a mut Server {
    let known = servers.iter().position(|server| server.endpoint.base() == endpoint.base());
    let at = known.unwrap_or_else(|| {
        let endpoint = endpoint.clone();
        servers.push(Server { endpoint, shares: false, names: Vec::new(), on_cpu: Vec::new() });
        servers.len() - 1
    });
    &mut servers[at]
}
