//! What is there although its entry says something else by now (SPEC 4.3).
//!
//! Owns: when an engine is no longer what the registry means, and what follows: it serves on, and when
//! nobody uses it, it is started anew, or goes. Must never do: end what is in use.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Effect, Gpu, Reason, Scheduler, SchedulerRules};
use crate::engine::Launch;
use crate::engine::lifecycle::Moment;
use crate::ids::ModelName;

/// How each model of the registry is started.
pub type Specs = HashMap<ModelName, Arc<Launch>>;

/// What became of the entry of an engine that runs.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outdated {
    /// It is started in another way now.
    Changed(Arc<Launch>),
    /// It is there no more.
    Removed,
}

impl Outdated {
    pub(super) fn reason(&self) -> Reason {
        match self {
            Outdated::Changed(_) => Reason::Changed,
            Outdated::Removed => Reason::Removed,
        }
    }
}

impl Scheduler {
    /// The registry as it is from now on. Until it is known, nothing is outdated.
    pub fn specs(&mut self, specs: Arc<Specs>) {
        self.specs = Some(specs);
    }

    /// Other bounds, from now on. Whether requests start anything is told apart.
    pub fn rules(&mut self, rules: &SchedulerRules, now: Moment) -> Vec<Effect> {
        let (budget, old) = (rules.budget, &self.rules);
        self.rules = SchedulerRules {
            budget: old.budget,
            start_on_request: old.start_on_request,
            ..rules.clone()
        };
        self.budget(budget, now)
    }

    /// What became of this launch's entry, if it is not what it was.
    pub(super) fn outdated(&self, launch: &Launch) -> Option<Outdated> {
        match self.specs.as_ref()?.get(&launch.model) {
            None => Some(Outdated::Removed),
            Some(now) if now.same_engine(launch) => None,
            Some(now) => Some(Outdated::Changed(now.clone())),
        }
    }

    /// The same of what is resident.
    pub(super) fn resident_outdated(&self) -> Option<Outdated> {
        let Gpu::Resident(resident) = &self.gpu else { return None };
        self.outdated(resident.tenant.launch()?)
    }

    /// What has gone, or is going, is to come back in its new form, unless somebody wants another.
    pub(super) fn come_back(&mut self, outdated: &Outdated) {
        if let (Outdated::Changed(launch), false) = (outdated, self.draining) {
            self.restore = Some((launch.clone(), Reason::Changed));
        }
    }
}
