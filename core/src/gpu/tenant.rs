//! What can hold the GPU.
//!
//! Owns: the shapes, and when two of them are the same. Must never do: know how either is started.

use std::fmt;
use std::sync::Arc;

use crate::engine::Launch;
use crate::ids::ModelName;

/// Somebody who can hold the GPU.
#[derive(Debug, Clone, PartialEq)]
pub enum Tenant {
    /// A vLLM with one model: a process of ours.
    Vllm(Arc<Launch>),
    /// Ollama, with whatever models it has loaded: it orders those among themselves, so all
    /// requests for it run at once. It loads nothing before somebody asks it to, so it needs no
    /// start; but it must give the GPU back before a vLLM starts.
    Ollama,
}

/// Which one it is, whatever its launch says just now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TenantId {
    /// A vLLM with this model.
    Model(ModelName),
    /// Ollama.
    Ollama,
}

/// Whose tenants somebody means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The vLLM that we supervise.
    Vllm,
    /// Ollama.
    Ollama,
}

impl Tenant {
    /// Which one it is.
    pub fn id(&self) -> TenantId {
        match self {
            Tenant::Vllm(launch) => TenantId::Model(launch.model.clone()),
            Tenant::Ollama => TenantId::Ollama,
        }
    }

    /// Whether it is that one.
    pub fn is(&self, id: &TenantId) -> bool {
        match (self, id) {
            (Tenant::Vllm(launch), TenantId::Model(model)) => launch.model == *model,
            (Tenant::Ollama, TenantId::Ollama) => true,
            _ => false,
        }
    }

    /// Whose it is.
    pub fn side(&self) -> Side {
        match self {
            Tenant::Vllm(_) => Side::Vllm,
            Tenant::Ollama => Side::Ollama,
        }
    }

    /// How the engine is started, if it is one of ours.
    pub fn launch(&self) -> Option<&Arc<Launch>> {
        match self {
            Tenant::Vllm(launch) => Some(launch),
            Tenant::Ollama => None,
        }
    }
}

impl From<Arc<Launch>> for Tenant {
    fn from(launch: Arc<Launch>) -> Self {
        Tenant::Vllm(launch)
    }
}

impl From<&Launch> for TenantId {
    fn from(launch: &Launch) -> Self {
        TenantId::Model(launch.model.clone())
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TenantId::Model(model) => model.fmt(f),
            TenantId::Ollama => f.write_str("ollama"),
        }
    }
}
