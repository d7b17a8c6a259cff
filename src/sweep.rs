//! `sweep`: ends what a dead daemon left, when it is not to come back (SPEC 11).
//!
//! Owns: the look at what is left, the words for people. Must never do: touch anything while a
//! daemon lives that may want it; how an engine is ended is the supervisor's, for there is one way.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use actix::Actor;
use chat_proxy_actors::autostart::messages::StopAll;
use chat_proxy_actors::autostart::{AutostartActor, AutostartParts, Preload, Switch, left_over};
use chat_proxy_actors::guard::{Guard, Role};
use chat_proxy_actors::live::Live;
use chat_proxy_actors::metrics::Metrics;
use chat_proxy_actors::port::Port;
use chat_proxy_actors::process::identity;
use chat_proxy_actors::vllm_supervisor::messages::{Ended, ShutDown};
use chat_proxy_actors::vllm_supervisor::{SupervisorParts, VllmSupervisor, survivors};
use chat_proxy_core::config::Settings;

use crate::lock::OwnerLock;
use crate::terminal::say;
use crate::{serve, settings};

/// Ends what is left; with `dry_run` it only says what that is. 0: nothing is left.
pub(crate) fn run(settings: &Settings, dry_run: bool) -> ExitCode {
    let state_path = PathBuf::from(&settings.vllm.vllm_state_path);
    match sweep(settings, &state_path, dry_run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            say(&mut io::stderr(), &format!("error: {message}"));
            ExitCode::FAILURE
        }
    }
}

fn sweep(settings: &Settings, state_path: &Path, dry_run: bool) -> Result<(), String> {
    // Each for itself: what hinders one is no reason to leave the other.
    let both = [sweep_engine(settings, state_path, dry_run), sweep_services(settings, dry_run)];
    let failed: Vec<String> = both.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

/// Services, too, outlive a daemon that was killed.
fn sweep_services(settings: &Settings, dry_run: bool) -> Result<(), String> {
    let (out, dir) = (&mut io::stdout(), settings::services_dir());
    if !dir.exists() {
        return Ok(());
    }
    let lock = (!dry_run).then(|| OwnerLock::of_services(&dir)).transpose();
    let _lock = lock.map_err(|error| error.to_string())?;
    let left = left_over(&dir);
    for (name, pids) in &left {
        say(out, &format!("{} processes are left of the service {name}:", pids.len()));
        for pid in pids {
            say(out, &format!("  {}", identity::describe(*pid)));
        }
    }
    if dry_run || left.is_empty() {
        return Ok(());
    }
    actix_rt::System::new().block_on(end_services(settings))?;
    let still: Vec<String> = left_over(&dir).into_keys().collect();
    if still.is_empty() {
        say(out, "nothing is left of any service");
        return Ok(());
    }
    Err(format!("what is left of {} cannot be ended", still.join(", ")))
}

/// An actor without services ends whatever it finds.
async fn end_services(settings: &Settings) -> Result<(), String> {
    let stop_timeout = settings.autostart.autostart_stop_timeout_s.get();
    let parts = AutostartParts {
        plan: Arc::default(),
        dir: settings::services_dir(),
        owns: true,
        enabled: Switch::default(),
        keep_on_exit: false,
        stop_timeout,
        log_max_bytes: u64::MAX,
        keep_logs: 0,
        secrets: settings::secret_variables(settings),
        registry: chat_proxy_actors::registry::RegistryView::default(),
        entries: Arc::new(|_| Box::pin(async { Ok(()) })),
        preload: Preload::default(),
        events: Arc::default(),
    };
    let actor = AutostartActor::new(parts, Guard::unwatched(Role::Autostart)).start();
    let budget = stop_timeout + settings::KILL_GRACE * 2;
    let ended = actor.send(StopAll { keep: false }).timeout(budget).await;
    ended.map_err(|error| format!("what is left did not end in time: {error}"))
}

fn sweep_engine(settings: &Settings, state_path: &Path, dry_run: bool) -> Result<(), String> {
    let out = &mut io::stdout();
    // Before anything is looked at: a daemon's engine is not left over.
    let lock = (!dry_run).then(|| OwnerLock::take(state_path)).transpose();
    let lock = lock.map_err(|error| error.to_string())?;
    let (state, left) = survivors(state_path)
        .map_err(|error| format!("cannot look at what {} names: {error}", state_path.display()))?;
    if left.is_empty() && state.is_none() {
        say(out, "nothing is left of any engine");
        return Ok(());
    }
    let model = state.as_ref().map_or("an engine that no file names", |s| s.logical_name.as_str());
    say(out, &format!("{} processes are left of {model}:", left.len()));
    for process in &left {
        say(out, &format!("  {}", identity::describe(process.pid)));
    }
    if dry_run {
        return Ok(());
    }
    let limit = settings.vllm.vllm_stop_timeout_s.get();
    say(out, &format!("ending them; SIGKILL comes after {} s", limit.as_secs_f64()));
    let ended = actix_rt::System::new().block_on(end(settings, state_path))?;
    drop(lock);
    match ended {
        Ended::Clean => {
            say(out, "nothing is left");
            Ok(())
        }
        Ended::Left(what) => Err(what),
        Ended::Kept(model, pid) => Err(format!("{model} (pid {pid}) was kept: a defect")),
    }
}

/// A supervisor that wants nothing, and so ends whatever it finds.
async fn end(settings: &Settings, state_path: &Path) -> Result<Ended, String> {
    let rules = settings::lifecycle(settings);
    let budget = serve::engine_budget(&rules);
    let parts = SupervisorParts {
        bounds: Live::new(settings::supervisor(settings)),
        state_path: state_path.to_owned(),
        port: settings.vllm.vllm_port,
        pulse: chat_proxy_actors::permits::Pulse::default(),
        templates: settings::templates(),
        ends_all: true,
        secrets: settings::secret_variables(settings),
        registry: chat_proxy_actors::registry::RegistryView::default(),
        arbiter: Port::new(|| None),
        metrics: Metrics::new().map_err(|error| error.to_string())?,
        events: Arc::default(),
    };
    let supervisor = VllmSupervisor::new(parts, false, Guard::unwatched(Role::Vllm)).start();
    match supervisor.send(ShutDown { keep: false }).timeout(budget).await {
        Ok(ended) => Ok(ended),
        Err(error) => Err(format!("what is left did not end in time: {error}")),
    }
}
