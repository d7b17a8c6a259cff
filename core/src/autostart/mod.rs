//! Services that are started when a request needs them (SPEC 6.4).
//!
//! Owns: reading the map in all its forms and the tables of services, which service is for whom,
//! and what happens to one in its life. Must never do: start one, or look whether it runs.

pub mod environment;
pub mod failure;
pub mod life;
mod map;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Service;
pub use failure::Failure;
pub use map::is_name;

/// How a service is started.
#[derive(Debug, Clone, PartialEq)]
pub enum Adapter {
    /// A program of ours.
    Shell(Command),
    /// An entry of the registry: a vLLM is activated, a model of Ollama loaded.
    Entry,
}

/// A program that is a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Program and arguments; never empty.
    pub command: Vec<String>,
    /// Working directory; `None`: the daemon's.
    pub cwd: Option<String>,
    /// Environment on top of the daemon's own.
    pub env: BTreeMap<String, String>,
    /// What tells that it is ready.
    pub ready: Ready,
    /// The signal that stops it, such as `SIGTERM`.
    pub stop_signal: StopSignal,
}

/// What tells that a service is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// This address answers 2xx.
    Url(String),
    /// This text stands in its output.
    Log(String),
    /// The backend that was asked for answers `/v1/models`.
    Backend,
}

/// A signal that stops a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StopSignal {
    /// The usual one.
    #[default]
    Term,
    /// As Ctrl-C.
    Int,
    /// With a core dump, for those that want it.
    Quit,
    /// As a terminal that closes.
    Hup,
    /// For programs that ask for it.
    Usr1,
    /// For programs that ask for it.
    Usr2,
    /// At once.
    Kill,
}

impl StopSignal {
    /// Reads its name, with or without `SIG`.
    pub fn parse(text: &str) -> Option<StopSignal> {
        let name = text.trim().to_ascii_uppercase();
        Some(match name.strip_prefix("SIG").unwrap_or(&name) {
            "TERM" => StopSignal::Term,
            "INT" => StopSignal::Int,
            "QUIT" => StopSignal::Quit,
            "HUP" => StopSignal::Hup,
            "USR1" => StopSignal::Usr1,
            "USR2" => StopSignal::Usr2,
            "KILL" => StopSignal::Kill,
            _ => return None,
        })
    }
}

/// One service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSpec {
    /// Its name: that of its table, or of the entry.
    pub name: String,
    /// How it is started.
    pub adapter: Adapter,
    /// It must be ready within this.
    pub grace: Duration,
    /// Entries of the registry that it serves.
    pub models: Vec<String>,
    /// Backends that it is mapped to.
    pub backends: Vec<String>,
}

/// All services, in the order in which they are chosen: those of the map first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    services: Vec<ServiceSpec>,
}

impl Plan {
    /// Reads map and tables. Problems name the service, or the part of the map, at fault.
    pub fn of(
        map: Option<&str>,
        tables: &BTreeMap<String, Service>,
        grace: Duration,
    ) -> Result<Plan, Vec<String>> {
        map::read(map.unwrap_or_default(), tables, grace)
    }

    /// All services.
    pub fn services(&self) -> &[ServiceSpec] {
        &self.services
    }

    /// A service by its name.
    pub fn get(&self, name: &str) -> Option<&ServiceSpec> {
        self.services.iter().find(|service| service.name == name)
    }

    /// The service for an entry: the first that names it, else the first that is mapped to its
    /// backend.
    pub fn service_for(&self, entry: &str, backend: &str) -> Option<&str> {
        let names_it = |service: &&ServiceSpec| service.models.iter().any(|model| model == entry);
        let mapped = |service: &&ServiceSpec| {
            service.backends.iter().any(|other| other.eq_ignore_ascii_case(backend))
        };
        let mut all = self.services.iter();
        let found = all.clone().find(names_it).or_else(|| all.find(mapped))?;
        Some(&found.name)
    }
}
