//! One service that is a program of ours, as the actor knows it.
//!
//! Owns: its life, who waits for it, what is known of its process, and what tells how it is: a sign of
//! its own. Must never do: act, or take the word of one who asks for a sign: his entry may be wrong.

use std::collections::HashMap;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use actix::SpawnHandle;
use chat_proxy_core::autostart::life::{Life, LifeRules, Run, Ticket};
use chat_proxy_core::autostart::{Command, Ready, ServiceSpec};
use chat_proxy_core::engine::state_file::Process;
use chat_proxy_core::registry::{Endpoint, Placement, Snapshot};
use url::Host;

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

/// Who waits for an answer.
pub(super) struct Asker {
    pub(super) reply: Reply,
    /// The backend that he needs.
    pub(super) probe: Option<Endpoint>,
}

/// See the module.
pub(super) struct Service {
    pub(super) spec: ServiceSpec,
    pub(super) command: Command,
    pub(super) files: Runfiles,
    pub(super) life: Life,
    pub(super) askers: HashMap<Ticket, Asker>,
    /// The backend that this start is for, where the service has no sign of its own.
    pub(super) started_for: Option<Endpoint>,
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
            started_for: None,
            running: None,
            looking: None,
            timer: None,
            word: "stopped",
            since: None,
            log_trouble: false,
            shortening: false,
        }
    }

    /// A start begins, for whoever needs that backend.
    pub(super) fn starts_for(&mut self, probe: Option<Endpoint>, snapshot: &Snapshot) {
        self.started_for = probe.or_else(|| self.mapped(snapshot).next());
    }

    /// It was found running; the address is that of the backend that it was started for.
    pub(super) fn was_started_for(&mut self, base: Option<&str>, snapshot: &Snapshot) {
        let all = (0..snapshot.entries().len()).map(|at| endpoint(snapshot.placement(at)));
        self.started_for = base.and_then(|base| all.into_iter().find(|e| e.base() == base));
    }

    /// The backends of the entries that it names.
    fn named(&self, snapshot: &Snapshot) -> impl Iterator<Item = Endpoint> {
        let positions = self.spec.models.iter().filter_map(|model| snapshot.position(model).ok());
        positions.map(|at| endpoint(snapshot.placement(at)))
    }

    /// Those of the entries of this machine that it is mapped to.
    fn mapped(&self, snapshot: &Snapshot) -> impl Iterator<Item = Endpoint> {
        let mapped = |at: &usize| {
            let kind = &snapshot.entries()[*at].backend;
            self.spec.backends.iter().any(|backend| backend.eq_ignore_ascii_case(kind))
        };
        let all = (0..snapshot.entries().len()).filter(mapped);
        all.map(|at| endpoint(snapshot.placement(at))).filter(is_here)
    }

    /// Whether a start can help one who needs that backend: it is on this machine, or an entry that
    /// the service names.
    pub(super) fn is_for(&self, probe: &Endpoint, snapshot: &Snapshot) -> bool {
        is_here(probe) || self.named(snapshot).any(|named| named.base() == probe.base())
    }

    /// The backend that tells how it is: that of the first entry that it names, else the one that it
    /// was started for.
    pub(super) fn backend(&self, snapshot: &Snapshot) -> Option<Endpoint> {
        self.named(snapshot).next().or_else(|| self.started_for.clone())
    }

    /// Whether its sign says that this very backend answers.
    pub(super) fn tells_of(&self, probe: &Endpoint, snapshot: &Snapshot) -> bool {
        self.command.ready == Ready::Backend
            && self.backend(snapshot).is_some_and(|own| own.base() == probe.base())
    }

    /// Where it may come up, if it does not where the one who caused the start needs it: his entry may
    /// be wrong. The first is where he does.
    pub(super) fn places(&self, snapshot: &Snapshot) -> Vec<Endpoint> {
        if self.command.ready != Ready::Backend || self.named(snapshot).next().is_some() {
            return Vec::new();
        }
        self.started_for.iter().cloned().chain(self.mapped(snapshot)).collect()
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

    /// Where somebody would answer already, before a start.
    pub(super) fn place(&self, snapshot: &Snapshot) -> Option<Target> {
        match &self.command.ready {
            Ready::Url(url) => Some(Target::Url(url.clone())),
            Ready::Log(_) | Ready::Backend => self.backend(snapshot).map(Target::Backend),
        }
    }

    /// Who is asked whether it still answers; `None`: that it lives must do. What a log said once
    /// tells nothing of now, and the backend that such a start was for nothing of the service.
    pub(super) fn target(&self, snapshot: &Snapshot) -> Option<Target> {
        match &self.command.ready {
            Ready::Log(_) => self.named(snapshot).next().map(Target::Backend),
            Ready::Url(_) | Ready::Backend => self.place(snapshot),
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
            started_for: self.started_for.as_ref().map(|endpoint| endpoint.base().to_owned()),
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

/// Whether a server there may be one that is started here: on this machine, or under a name that has
/// no dot or is one of those that containers have for it.
fn is_here(endpoint: &Endpoint) -> bool {
    let Some(url) = url::Url::parse(endpoint.base()).ok() else { return false };
    // An address that can be bound is one of ours.
    let ours = |address: IpAddr| UdpSocket::bind((address, 0)).is_ok();
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback() || ours(address.into()),
        Some(Host::Ipv6(address)) => address.is_loopback() || ours(address.into()),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            !name.contains('.') || name.ends_with(".localhost") || name.ends_with(".internal")
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_this_machine_is_told_from_others() {
        for (host, here) in [
            ("127.0.0.1", true),
            ("127.3.2.1", true),
            ("[::1]", true),
            ("0.0.0.0", true),
            ("localhost", true),
            ("chat-proxy", true),
            ("host.docker.internal", true),
            ("192.0.2.7", false),
            ("[2001:db8::7]", false),
            ("gpu.example.com", false),
        ] {
            let endpoint = Endpoint::local(host, 1).unwrap();
            assert_eq!(is_here(&endpoint), here, "{host}");
        }
    }
}
