//! Owns the lives of those processes of an engine that serve nobody.
//!
//! They are small and wait. Must never notice that the leader has gone, as the real ones don't;
//! only after a long time do they end by themselves, so that nothing stays for ever.

use std::io;
use std::os::unix::process::parent_id;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::sleep;

use super::family::Family;
use super::habits::{Habits, Left, Role};
use super::log;
use super::sigterm::Sigterm;

/// The exit code of an EngineCore whose Worker died; the leader knows it by that.
pub(super) const WORKER_DIED: u8 = 70;

/// How often is looked whether the parent has gone.
const LOOK: Duration = Duration::from_millis(50);

/// How long a process lives on whose parent has gone.
const ORPHAN: Duration = Duration::from_secs(600);

/// Lives one of the smaller lives to its end, and gives its exit code.
pub(super) async fn follow(
    habits: &Habits,
    mut sigterm: Sigterm<'_>,
    family: &Family,
) -> io::Result<u8> {
    let parent = habits.parent.unwrap_or_default();
    match habits.role {
        Role::EngineCore => return engine_core(habits, sigterm, parent, family).await,
        Role::Between => return between(habits, sigterm, parent, family).await,
        Role::Worker => tokio::select! {
            () = sigterm.heard(!habits.ignore_sigterm) => {}
            () = lingers(habits, parent) => {}
        },
        Role::Holder => tokio::select! {
            () = sigterm.heard(false) => {}
            () = sleep(Duration::from_millis(habits.hold_port_ms.unwrap_or(0))) => {}
        },
        Role::Child | Role::Leader => tokio::select! {
            () = sigterm.heard(false) => {}
            () = forgotten(parent) => {}
        },
    }
    Ok(0)
}

/// Has a Worker, and goes with it.
async fn engine_core(
    habits: &Habits,
    mut sigterm: Sigterm<'_>,
    parent: u32,
    family: &Family,
) -> io::Result<u8> {
    let mut worker = family.start(Role::Worker, Stdio::null())?;
    let died = tokio::select! {
        biased;
        () = sigterm.heard(!habits.ignore_sigterm) => false,
        // However it ended: it was not told to.
        _ = worker.wait() => true,
        () = forgotten(parent) => false,
    };
    if died {
        let said = "Worker proc VllmWorker-0 died unexpectedly, shutting down executor.";
        log::vllm("EngineCore", "ERROR", "multiproc_executor.py:315", &[said]);
        return Ok(WORKER_DIED);
    }
    worker.kill().await?;
    Ok(0)
}

/// Stands between the leader and a grandchild in a session of its own.
async fn between(
    habits: &Habits,
    mut sigterm: Sigterm<'_>,
    parent: u32,
    family: &Family,
) -> io::Result<u8> {
    let left = habits.leave_child.unwrap_or_default();
    let _child = family.start_apart(left.has_environment())?;
    match left {
        Left::Group | Left::Daemon | Left::Stray => {}
        Left::Session => tokio::select! {
            () = sigterm.heard(true) => {}
            () = orphaned(parent) => {}
        },
        Left::Bare => tokio::select! {
            () = sigterm.heard(!habits.ignore_sigterm) => {}
            () = forgotten(parent) => {}
        },
    }
    Ok(0)
}

/// Returns some time after an EngineCore has gone without a word.
async fn lingers(habits: &Habits, parent: u32) {
    orphaned(parent).await;
    log::vllm(
        "Worker",
        "INFO",
        "multiproc_executor.py:843",
        &["Parent process exited, terminating worker queues"],
    );
    sleep(Duration::from_millis(habits.linger_ms())).await;
}

/// Returns when the parent has gone.
async fn orphaned(parent: u32) {
    while parent_id() == parent {
        sleep(LOOK).await;
    }
}

/// Returns a long time after the parent has gone.
async fn forgotten(parent: u32) {
    orphaned(parent).await;
    sleep(ORPHAN).await;
}
