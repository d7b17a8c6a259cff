//! What an earlier daemon, or an earlier actor, has left: services that the runfiles name, and
//! processes that carry our marker and that no file names.
//!
//! Owns: the look around at the beginning, before anything is started. Must never do: trust a pid
//! without its start time and boot, or touch a process without our marker or proof.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use chat_proxy_core::autostart::life::Event;
use chat_proxy_core::autostart::{Adapter, Plan, StopSignal, is_name};
use chat_proxy_core::engine::state_file::Process;
use futures_util::future::join_all;

use super::ending::end;
use super::runfiles::{self, Record, Runfiles};
use super::service::Running;
use super::{AutostartActor, Name};
use crate::process::tree::{self, Tree};
use crate::process::{Handle, children, identity};

/// A service that nobody wants any more may end by itself for this long.
const UNWANTED_GRACE: Duration = Duration::from_secs(5);

/// What there is of one service.
#[derive(Debug, Default)]
struct Left {
    record: Option<Record>,
    /// Living processes that carry its marker.
    marked: Vec<Process>,
}

/// A service that runs and is still wanted.
#[derive(Debug)]
struct Survivor {
    name: String,
    record: Record,
    ready: bool,
}

impl AutostartActor {
    /// Takes over what the runfiles name and the settings still want; ends the rest.
    pub(super) fn look_around(&mut self, ctx: &mut Context<Self>) {
        if !self.parts.owns {
            return self.has_looked(ctx);
        }
        let (dir, plan) = (self.parts.dir.clone(), self.parts.plan.clone());
        let work = async move {
            let at = dir.clone();
            let found = tokio::task::spawn_blocking(move || what_is_left(&at)).await;
            let found = found.unwrap_or_else(|error| {
                tracing::error!(%error, "what an earlier daemon left could not be looked for");
                BTreeMap::new()
            });
            sort_out(&dir, &plan, found).await
        };
        ctx.spawn(work.into_actor(self).map(|survivors, actor, ctx| {
            for survivor in survivors {
                actor.adopt(survivor, ctx);
            }
            actor.has_looked(ctx);
        }));
    }

    fn adopt(&mut self, survivor: Survivor, ctx: &mut Context<Self>) {
        let Survivor { name, record, ready } = survivor;
        let (name, process) = (Name::from(name), record.leader);
        let Some(service) = self.services.get_mut(&name) else { return };
        let snapshot = &self.parts.registry.load().snapshot;
        service.was_started_for(record.started_for.as_deref(), snapshot);
        if let Ok(Some(handle)) = Handle::open(process) {
            let (handle, members) = (Arc::new(handle), record.members);
            children::claim(&service.files.mark(), &members);
            service.running = Some(Running { generation: 0, handle, members });
        }
        tracing::info!(service = %name, pid = process.pid, ready, "a running service is taken over");
        self.apply(&name, Event::Found { process, ready }, ctx);
    }
}

/// Living processes that services have left, by service. Blocking: reads the environment of every
/// process.
pub fn left_over(dir: &Path) -> BTreeMap<String, Vec<i32>> {
    let boot = identity::boot_id().unwrap_or_default();
    let pids = |left: Left| {
        let record = left.record.filter(|record| record.boot == boot);
        let named = record.into_iter().flat_map(|r| std::iter::once(r.leader).chain(r.members));
        let mut pids: Vec<i32> = named
            .filter(|process| identity::is_alive(*process))
            .chain(left.marked)
            .map(|process| process.pid)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    };
    let all = what_is_left(dir).into_iter().map(|(name, left)| (name, pids(left)));
    all.filter(|(_, pids)| !pids.is_empty()).collect()
}

/// By service. Blocking: reads the environment of every process.
fn what_is_left(dir: &Path) -> BTreeMap<String, Left> {
    let mut found: BTreeMap<String, Left> = BTreeMap::new();
    for name in runfiles::names(dir) {
        let record = Runfiles::of(dir, &name).read();
        found.entry(name).or_default().record = record;
    }
    for (name, process) in tree::left_by_services(&runfiles::hash(dir)) {
        found.entry(name).or_default().marked.push(process);
    }
    found
}

/// Ends what nobody wants; answers what is taken over.
async fn sort_out(dir: &Path, plan: &Plan, found: BTreeMap<String, Left>) -> Vec<Survivor> {
    let boot = identity::boot_id().unwrap_or_default();
    let mut survivors = Vec::new();
    let mut ends = Vec::new();
    for (name, left) in found {
        let files = Runfiles::of(dir, &name);
        let record = left.record.filter(|record| record.boot == boot);
        match record.clone().filter(|record| identity::is_alive(record.leader)) {
            Some(record) if is_wanted(plan, &name, &record) => {
                let ready = files.is_ready();
                survivors.push(Survivor { name, record, ready });
            }
            _ => ends.push(end_left(name, files, record, left.marked)),
        }
    }
    join_all(ends).await;
    survivors
}

/// Whether the settings still have this very command.
fn is_wanted(plan: &Plan, name: &str, record: &Record) -> bool {
    plan.get(name).is_some_and(|spec| match &spec.adapter {
        Adapter::Shell(command) => runfiles::fingerprint(command) == record.spec,
        Adapter::Entry => false,
    })
}

async fn end_left(name: String, files: Runfiles, record: Option<Record>, marked: Vec<Process>) {
    let mut listed = marked;
    let leader = record.as_ref().map(|record| record.leader);
    listed.extend(record.into_iter().flat_map(|record| record.members));
    let oldest = listed.iter().min_by_key(|process| process.start_time).copied();
    if let Some(leader) = leader.or(oldest) {
        let tree = Tree { leader, listed, marker: files.mark(), cgroup: None };
        let alive = tree.look_soon(tree::Look::Whole).await;
        for process in &alive {
            let who = identity::describe(process.pid);
            tracing::warn!(
                service = name,
                who,
                "a process of a service that nobody wants is ended"
            );
        }
        if let Err(who) = end(&tree, StopSignal::Term, UNWANTED_GRACE).await {
            tracing::error!(service = name, who, "what is left of a service cannot be ended");
            return; // its runfile still names it
        }
        // Some may be our children: an actor's before us.
        for handle in alive.into_iter().filter_map(|process| Handle::open(process).ok().flatten()) {
            handle.reap();
        }
    }
    children::disclaim(&files.mark());
    // A name that stands in a process's environment can be anything: also a path.
    if is_name(&name) {
        files.forget();
    }
}
