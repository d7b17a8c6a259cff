//! One service that is a program of ours, as the actor knows it.
//!
//! Owns: its life, who waits for it, what is known of its process. Must never do: act.

use std::collections::HashMap;
use std::sync::Arc;

use actix::SpawnHandle;
use chat_proxy_core::autostart::life::{Life, LifeRules, Run, Ticket};
use chat_proxy_core::autostart::{Command, Ready, ServiceSpec};
use chat_proxy_core::engine::state_file::Process;
use chat_proxy_core::registry::{Endpoint, Placement, Snapshot};

use super::messages::ServiceStatus;
use super::probe::{Sign, Target};
use super::runfiles::{Record, Runfiles};
use super::{AutostartParts, Reply};
use crate::process::tree::Tree;
use crate::process::{Handle, identity};

/// What is known of a living process.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) generation: u64,
    pub(super) handle: Arc<Handle>,
    pub(super) members: Vec<Process>,
}

/// See the module.
pub(super) struct Service {
    pub(super) spec: ServiceSpec,
    pub(super) command: Command,
    pub(super) files: Runfiles,
    pub(super) life: Life,
    /// Who waits for an answer.
    pub(super) askers: HashMap<Ticket, Reply>,
    /// The backend that was wanted last.
    pub(super) wanted: Option<Endpoint>,
    pub(super) running: Option<Running>,
    /// The look for readiness, or for a sign of life.
    pub(super) looking: Option<SpawnHandle>,
    pub(super) timer: Option<SpawnHandle>,
    pub(super) word: &'static str,
    pub(super) since: Option<f64>,
    /// Its log could not be shortened, and that has been said.
    pub(super) log_trouble: bool,
    /// Its log is being shortened.
    pub(super) shortening: bool,
}

impl Service {
    pub(super) fn new(spec: &ServiceSpec, command: &Command, parts: &AutostartParts) -> Self {
        let rules = LifeRules { grace: spec.grace, stop_timeout: parts.stop_timeout };
        Service {
            spec: spec.clone(),
            command: command.clone(),
            files: Runfiles::of(&parts.dir, &spec.name),
            life: Life::new(rules),
            askers: HashMap::new(),
            wanted: None,
            running: None,
            looking: None,
            timer: None,
            word: "stopped",
            since: None,
            log_trouble: false,
            shortening: false,
        }
    }

    /// The backend that it is to serve: the one that was wanted, else that of the first entry that
    /// is its.
    pub(super) fn backend(&self, snapshot: &Snapshot) -> Option<Endpoint> {
        self.wanted.clone().or_else(|| {
            let named = self.spec.models.iter().filter_map(|model| snapshot.position(model).ok());
            let mapped = |at: &usize| {
                let kind = &snapshot.entries()[*at].backend;
                self.spec.backends.iter().any(|backend| backend.eq_ignore_ascii_case(kind))
            };
            let all = (0..snapshot.entries().len()).filter(mapped);
            named.chain(all).next().map(|at| endpoint(snapshot.placement(at)))
        })
    }

    /// What tells that it is ready.
    pub(super) fn sign(&self, snapshot: &Snapshot) -> Sign {
        match &self.command.ready {
            Ready::Url(url) => Sign::Answer(Target::Url(url.clone())),
            Ready::Log(text) => Sign::Log(self.files.log(), text.clone()),
            Ready::Backend => match self.backend(snapshot) {
                Some(endpoint) => Sign::Answer(Target::Backend(endpoint)),
                None => Sign::Lives,
            },
        }
    }

    /// Where somebody would answer if it were up; a request asks for its own backend.
    pub(super) fn target(&self, snapshot: &Snapshot) -> Option<Target> {
        match (&self.command.ready, &self.wanted) {
            (Ready::Url(url), None) => Some(Target::Url(url.clone())),
            _ => self.backend(snapshot).map(Target::Backend),
        }
    }

    /// All its processes.
    pub(super) fn tree(&self, run: Run) -> Tree {
        let known = self.running.as_ref().filter(|known| known.generation == run.generation);
        Tree {
            leader: run.process,
            listed: known.map(|known| known.members.clone()).unwrap_or_default(),
            marker: self.files.mark(),
            cgroup: None,
        }
    }

    /// What is written down of the running process.
    pub(super) fn record(&self, process: Process, members: Vec<Process>) -> Record {
        Record {
            leader: process,
            boot: identity::boot_id().unwrap_or_default(),
            spec: super::runfiles::fingerprint(&self.command),
            members,
        }
    }

    pub(super) fn status(&self) -> ServiceStatus {
        ServiceStatus {
            adapter: "shell",
            state: self.life.word(),
            pid: self.running.as_ref().map(|running| running.handle.process().pid),
            since: self.since,
            starts: self.life.starts(),
            last_error: self.life.last_error().map(str::to_owned),
            log: Some(self.files.shown_log()),
            models: self.spec.models.clone(),
            backends: self.spec.backends.clone(),
        }
    }
}

fn endpoint(placement: &Placement) -> Endpoint {
    match placement {
        Placement::SinglePort(launch) => launch.endpoint.clone(),
        Placement::Ollama(model) => model.server.clone(),
        Placement::External(endpoint) => endpoint.clone(),
    }
}
