//! Services and the daemon's end, wanted or not.

use super::*;

#[test]
fn a_service_outlives_a_daemon_that_is_killed_and_is_taken_over() {
    let service = Service::new(&[]);
    let mut daemon = service.setup("").start();
    assert_answers(&daemon);
    let first = pid(&daemon);
    daemon.kill();
    assert!(is_alive(first));
    daemon.restart();
    eventually("it is taken over", BOUND, || {
        (status(&daemon)["services"]["llama"]["state"] == "ready").then_some(())
    });
    assert_eq!(pid(&daemon), first);
    assert_answers(&daemon);
    assert_eq!(Service::starts(&daemon), 1);
    daemon.terminate();
    daemon.wait_exit(BOUND);
    service.assert_gone();
}

#[test]
fn the_engines_sweep_leaves_services_alone_and_the_other_way_round() {
    let service = Service::new(&["--sim-leave-child=daemon"]);
    let table = format!("{{ llama = {{ command = {} }} }}", service.command());
    let mut engined = Engines::two()
        .set("autostart", "services", table)
        .set("autostart", "autostart_map", "\"gguf:llama\"")
        // Its child ends only when it must.
        .set("autostart", "autostart_stop_timeout_s", 2)
        .entry(
            json!({"name": "tiny-c", "backend": "gguf", "chat_template": {"source": "embedded"}, 
            "backend_config": {"host": "127.0.0.1", "port": service.port}}),
        )
        .start();
    assert_answers(&engined.daemon);
    let family = || crate::support::engines::families(service.port);
    let before = family();
    assert!(before.len() >= 2, "the service has a child in a session of its own: {before:?}");
    // Two swaps sweep what engines leave.
    for model in ["tiny-a", "tiny-b", "tiny-a"] {
        engined.assert_answers(model);
    }
    assert_eq!(family(), before, "the service and its child live");
    let reply = order(&engined.daemon, "stop", &json!({"service": "llama"}));
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert!(family().is_empty(), "the service's child went with it");
    engined.assert_answers("tiny-a");
    let engines = engined.starts().into_iter().filter(|model| model != "tiny-c").count();
    assert_eq!(engines, 3, "the engine was left alone");
    engined.daemon.terminate();
    engined.daemon.wait_exit(BOUND);
}

#[test]
fn a_daemon_that_is_told_to_end_does_not_wait_for_a_start() {
    let service = Service::new(&["--sim-never-ready"]);
    let mut daemon = service.setup("").start();
    let waiting = hello("tiny-c", false, json!({})).open(daemon.addr());
    eventually("it is starting", BOUND, || {
        (status(&daemon)["services"]["llama"]["state"] == "starting").then_some(())
    });
    let begun = Instant::now();
    daemon.terminate();
    let mut waiting = waiting;
    waiting.reply().error(503, "err_draining");
    assert_eq!(daemon.wait_exit(BOUND).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    service.assert_gone();
}

#[test]
fn what_a_dead_daemon_left_is_swept_and_a_living_ones_is_not() {
    let service = Service::new(&["--sim-leave-child=daemon"]);
    let mut daemon = service.setup("").start();
    assert_answers(&daemon);
    let (code, said) = daemon.program(&["sweep"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("owner.lock"), "{said}");
    assert_answers(&daemon);
    daemon.kill();
    let (code, said) = daemon.program(&["sweep", "--dry-run"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 processes are left of the service llama"), "{said}");
    let (code, said) = daemon.program(&["sweep"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nothing is left of any service"), "{said}");
    assert!(crate::support::engines::families(service.port).is_empty());
    service.assert_gone();
}

#[test]
fn two_daemons_do_not_share_a_directory_of_services() {
    let service = Service::new(&[]);
    let daemon = service.setup("").start();
    assert_answers(&daemon);
    let state = ("CHAT_PROXY_VLLM_STATE_PATH", "elsewhere/active.json");
    let (code, said) = daemon.program_with(&["serve"], &[state]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("autostart/owner.lock") && said.contains("services"), "{said}");
    assert_answers(&daemon);
}

#[test]
fn a_start_survives_the_death_of_whoever_made_it() {
    let service = Service::new(&["--sim-load-ms", "800"]);
    let daemon = service.setup("").start();
    thread::scope(|scope| {
        let asking = scope.spawn(|| hello("tiny-c", false, json!({})).reply(daemon.addr()));
        eventually("it is starting", BOUND, || (Service::starts(&daemon) == 1).then_some(()));
        let told = Ask::post("/v1/debug/panic/autostart", &json!({})).reply(daemon.addr());
        assert_eq!(told.status(), 204, "{}", told.text());
        // Whoever asked hears that the start got lost; what was started is not.
        asking.join().expect("an answer").error(502, "err_backend_unavailable");
    });
    assert_answers(&daemon);
    assert_eq!(Service::starts(&daemon), 1, "it was taken over");
}

#[test]
fn a_second_signal_has_services_killed() {
    // It tells its server to end, and that one does not.
    let script = "trap '' TERM; echo is up; while :; do sleep 0.1; done";
    let table =
        format!("{{ command = {:?}, ready_log = \"is up\", cwd = \"/\" }}", ["sh", "-c", script]);
    let mut daemon = Setup::new()
        .set("autostart", "services", format!("{{ llama = {table} }}"))
        .set("autostart", "autostart_stop_timeout_s", 60)
        .start();
    let reply = order(&daemon, "start", &json!({"service": "llama"}));
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let service = pid(&daemon);
    daemon.terminate();
    eventually("it is told to end", BOUND, || {
        daemon.stderr().contains("service is told to end").then_some(())
    });
    daemon.terminate();
    assert_eq!(daemon.wait_exit(BOUND).code(), Some(0));
    assert!(!is_alive(service));
}

#[test]
fn a_person_who_waits_for_a_start_is_told_that_the_daemon_ends() {
    let service = Service::new(&["--sim-never-ready"]);
    let mut daemon = service.setup("").start();
    let body = json!({"service": "llama"});
    let mut waiting = Ask::post("/v1/autostart/start", &body).open(daemon.addr());
    eventually("it is starting", BOUND, || {
        (status(&daemon)["services"]["llama"]["state"] == "starting").then_some(())
    });
    daemon.terminate();
    waiting.reply().error(503, "err_draining");
    assert_eq!(daemon.wait_exit(BOUND).code(), Some(0));
    service.assert_gone();
}

#[test]
fn services_are_swept_also_where_the_engine_cannot_be() {
    let service = Service::new(&[]);
    let mut daemon = service.setup("").start();
    assert_answers(&daemon);
    daemon.kill();
    // No directory can be made below a file.
    let (code, said) =
        daemon.program_with(&["sweep"], &[("CHAT_PROXY_VLLM_STATE_PATH", "/dev/null/active.json")]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("/dev/null") && said.contains("nothing is left of any service"),
        "{said}"
    );
    service.assert_gone();
}

#[test]
fn a_daemon_without_services_does_not_keep_the_right_to_them() {
    let mut daemon = Setup::new().start();
    fs::create_dir_all(daemon.path("_staging/autostart")).expect("a directory");
    daemon.kill();
    daemon.restart();
    // Who has services here, or sweeps what one has left, needs the right to them.
    let state = ("CHAT_PROXY_VLLM_STATE_PATH", "elsewhere/active.json");
    let (code, said) = daemon.program_with(&["sweep"], &[state]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn an_upgrade_leaves_it_running() {
    let service = Service::new(&[]);
    let mut daemon = service.setup("").start();
    assert_answers(&daemon);
    let before = pid(&daemon);
    daemon.upgrade_by_its_log();
    assert_eq!(daemon.wait_exit(BOUND).code(), Some(0));
    eventually("it is known as ready", BOUND, || {
        (status(&daemon)["services"]["llama"]["state"] == "ready").then_some(())
    });
    assert_eq!(pid(&daemon), before);
    assert_answers(&daemon);
    assert_eq!(Service::starts(&daemon), 1);
    // It is the new daemon's: with it, it ends.
    kill(daemon.main(), Signal::SIGTERM).unwrap();
    service.assert_gone();
}
