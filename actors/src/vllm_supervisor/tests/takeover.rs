//! What the next supervisor makes of the engine, and of the state file, that the last one left.

use std::path::Path;

use super::*;
use crate::process::Handle;

#[actix_rt::test]
async fn the_next_supervisor_takes_a_living_engine_over_and_can_stop_it() {
    let mut house = house(RUNS);
    let state = house.settled().await;
    assert!(house.supervisor.send(Explode).await.is_err());
    assert!(identity::is_alive(state.leader()));
    house.reports.rest();
    house.supervisor = start(&house.parts);
    let fresh = |changed: &EngineChanged| changed.fresh.then(|| changed.report.clone());
    let report = house.reports.until("a first report", fresh).await;
    let held = report.held.unwrap();
    assert_eq!((held.generation, held.phase), (FIRST, Phase::Starting));
    assert!(Arc::ptr_eq(&held.launch, &house.launch));
    assert_eq!(house.supervisor.send(GetEngine).await.unwrap().pid, Some(state.pid));
    house.stop();
    house.gone().await;
    assert!(is_no_more(&state) && house.written().is_none());
}

#[actix_rt::test]
async fn an_engine_that_the_registry_does_not_want_any_more_is_ended_by_the_next_supervisor() {
    let mut house = house(RUNS);
    let state = house.settled().await;
    assert!(house.supervisor.send(Explode).await.is_err());
    house.reports.rest();
    house.parts.registry.store(Arc::new(View { loaded: true, ..View::default() }));
    house.supervisor = start(&house.parts);
    house.held(|held| held.phase == Phase::Leaving).await;
    house.gone().await;
    assert!(is_no_more(&state) && house.written().is_none());
}

#[actix_rt::test]
async fn an_engine_stays_when_the_registry_cannot_be_read() {
    let mut house = house(RUNS);
    let state = house.settled().await;
    assert!(house.supervisor.send(Explode).await.is_err());
    house.reports.rest();
    house.parts.registry.store(Arc::new(View::default()));
    house.supervisor = start(&house.parts);
    let held = house.held(|held| held.phase == Phase::Starting).await;
    assert_eq!((held.generation, held.launch.model.as_str()), (FIRST, "a"));
    assert!(identity::is_alive(state.leader()));
    house.stop();
    house.gone().await;
}

#[actix_rt::test]
async fn an_engine_that_ended_while_nobody_looked_leaves_neither_file_nor_zombie() {
    let mut house = house("sleep 600 & : >ready; wait");
    let state = house.settled().await;
    let left = Handle::open(state.leader()).unwrap().unwrap();
    assert!(house.supervisor.send(Explode).await.is_err());
    signal(state.pid, Signal::SIGKILL);
    left.ended().await.unwrap();
    house.reports.rest();
    house.supervisor = start(&house.parts);
    house.gone().await;
    assert!(house.written().is_none());
    assert!(is_no_more(&state), "{:?}", identity::stat(state.pid));
}

/// Writes the state file as if this process were the engine.
fn remember_ourselves(path: &Path, change: impl Fn(&mut StateFile)) {
    let us = identity::identify(i32::try_from(std::process::id()).unwrap()).unwrap();
    let mut state = StateFile {
        logical_name: "a".into(),
        served_model_id: "a".to_owned(),
        port: free_port(),
        pid: us.pid,
        started_at: clock::unix_seconds(),
        generation: Generation(5),
        phase: Written::Ready,
        boot_id: identity::boot_id().unwrap(),
        start_time: us.start_time,
        process_group: us.pid,
        spec_hash: "h".to_owned(),
        log_path: "l".to_owned(),
        members: Vec::new(),
        cgroup: None,
    };
    change(&mut state);
    fs::write(path, serde_json::to_vec(&state).unwrap()).unwrap();
}

/// A house whose first supervisor meets this state file. That no signal reaches this very process
/// shows itself.
async fn meeting(change: impl Fn(&mut StateFile)) -> House {
    let mut house = house(RUNS);
    house.gone().await;
    assert!(house.supervisor.send(Explode).await.is_err());
    house.reports.rest();
    remember_ourselves(&house.parts.state_path, change);
    house.supervisor = start(&house.parts);
    house
}

#[actix_rt::test]
async fn a_state_file_of_another_boot_means_nothing_and_is_removed() {
    let mut house = meeting(|state| state.boot_id = "another".to_owned()).await;
    house.gone().await;
    assert!(!house.parts.state_path.exists());
}

#[actix_rt::test]
async fn a_process_that_only_has_the_number_of_an_engine_is_left_alone() {
    let mut house = meeting(|state| state.start_time += 1).await;
    house.gone().await;
    assert!(!house.parts.state_path.exists());
    let newest = |changed: &EngineChanged| changed.report.newest;
    assert!(house.reports.rest().iter().map(newest).all(|newest| newest == Generation(5)));
}

#[actix_rt::test]
async fn a_state_file_that_cannot_be_understood_stops_nobody() {
    let mut house = house(RUNS);
    house.gone().await;
    assert!(house.supervisor.send(Explode).await.is_err());
    fs::write(&house.parts.state_path, "{").unwrap();
    house.supervisor = start(&house.parts);
    house.settled().await;
    house.supervisor.send(ShutDown { keep: false }).await.unwrap();
}

#[actix_rt::test]
async fn an_engine_that_no_file_names_is_known_by_its_marker_and_ended_before_anything_else() {
    let mut house = house(RUNS);
    let state = house.settled().await;
    assert!(house.supervisor.send(Explode).await.is_err());
    std::fs::remove_file(&house.parts.state_path).unwrap();
    house.reports.rest();
    house.supervisor = start(&house.parts);
    house.run(Generation(2));
    let first = house.reports.until("a first report", |c| c.fresh.then(|| c.report.clone())).await;
    assert!(is_no_more(&state), "it lives when the first report comes");
    assert_eq!(first.held, None);
    // What was wanted meanwhile is not forgotten.
    house.held(|held| held.generation == Generation(2)).await;
    house.supervisor.do_send(SetGoal::Stop(Generation(2)));
    house.gone().await;
}
