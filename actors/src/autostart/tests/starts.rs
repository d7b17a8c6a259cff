//! Starting, and what tells that a service is ready.

use super::*;
use futures_util::future::join_all;

#[actix_rt::test]
async fn all_who_ask_for_one_service_get_one_start() {
    let house = house(sh(
        "echo once >>starts; until [ -e go ]; do sleep 0.01; done; echo is up; exec sleep 600",
    ));
    let asks: Vec<_> = (0..20).map(|number| house.asks(number % 2 == 0, None)).collect();
    until("it does not start", || house.path("starts").exists().then_some(())).await;
    assert_eq!(house.is("starting").await.starts, 1);
    assert!(!house.run_file("svc.ready").exists());
    fs::write(house.path("go"), "").unwrap();
    assert!(join_all(asks).await.into_iter().all(|answer| answer.is_ok()));
    let status = house.status().await;
    assert_eq!((status.state, status.starts, status.adapter), ("ready", 1, "shell"));
    assert_eq!(fs::read_to_string(house.path("starts")).unwrap(), "once\n");
    let written = fs::read_to_string(house.run_file("svc.pid")).unwrap();
    assert_eq!(written.lines().next(), Some(status.pid.unwrap().to_string().as_str()));
    assert!(house.run_file("svc.ready").exists());
    let leader = house.leader().await;
    house.stop_all().await;
    assert!(is_no_more(leader));
    assert!(!house.run_file("svc.ready").exists() && !house.run_file("svc.pid").exists());
    assert_eq!(house.by_hand().await.unwrap_err().code, Code::Draining);
}

#[actix_rt::test]
async fn a_service_is_ready_when_its_address_answers() {
    let port = free_port();
    let url = Some(format!("http://127.0.0.1:{port}/yes"));
    let house = house(Table { ready_url: url, ..server(port) });
    let asked = house.asks(true, None);
    house.is("starting").await;
    // Until the file is there it answers 404, and that is not enough.
    fs::write(house.path("yes"), "").unwrap();
    asked.await.unwrap();
    assert!(house.run_file("svc.ready").exists());
    house.stop_all().await;
}

#[actix_rt::test]
async fn without_a_sign_of_its_own_the_backend_that_is_wanted_tells() {
    let port = free_port();
    let house = house(server(port));
    house.asks(true, Some(Endpoint::loopback(port))).await.unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let leader = house.leader().await;
    // It still answers: nothing is started anew.
    house.request().await.unwrap();
    assert_eq!(house.leader().await, leader);
    house.stop_all().await;
}

#[actix_rt::test]
async fn without_any_sign_it_is_ready_when_it_has_lived_for_a_while() {
    let house = house(Table { ready_log: None, ..sh("exec sleep 600") });
    house.by_hand().await.unwrap();
    assert_eq!(house.status().await.state, "ready");
    house.stop_all().await;
}

#[actix_rt::test]
async fn what_somebody_else_runs_is_not_started_beside_it() {
    let port = free_port();
    let url = Some(format!("http://127.0.0.1:{port}/"));
    let mut theirs = std::process::Command::new("python3")
        .args(["-m", "http.server", &port.to_string(), "--bind", "127.0.0.1"])
        .spawn()
        .unwrap();
    until("it is not up", || std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await;
    let house = house(Table { ready_url: url, ..server(port) });
    house.request().await.unwrap();
    let status = house.status().await;
    assert_eq!((status.state, status.pid, status.starts), ("ready", None, 0));
    assert_eq!(house.stop().await.unwrap_err().code, Code::InvalidRequest);
    // When they are gone, ours takes their place.
    theirs.kill().unwrap();
    theirs.wait().unwrap();
    house.request().await.unwrap();
    assert!(house.status().await.pid.is_some());
    house.stop_all().await;
}

#[actix_rt::test]
async fn an_early_end_tells_its_line_and_is_not_tried_again_at_once() {
    let house = house(sh("echo once >>starts; echo 'ValueError: no model' >&2; exit 3"));
    for _ in 0..3 {
        let error = house.request().await.unwrap_err();
        assert_eq!((error.code, hint(&error)), (Code::ModelStartFailed, "ValueError: no model"));
        assert!(error.message.contains("exit code 3"), "{error}");
    }
    assert_eq!(house.is("failed").await.starts, 1);
    assert!(!house.run_file("svc.pid").exists());
    // A person is not kept waiting.
    house.by_hand().await.unwrap_err();
    assert_eq!(house.is("failed").await.starts, 2);
    assert_eq!(fs::read_to_string(house.path("starts")).unwrap(), "once\nonce\n");
}

#[actix_rt::test]
async fn a_program_that_is_not_there_is_named() {
    let house = house(Table { command: vec!["no-such-program".into()], ..Table::default() });
    let error = house.request().await.unwrap_err();
    assert_eq!(error.code, Code::ModelStartFailed);
    assert!(error.message.contains("no-such-program"), "{error}");
    assert!(!house.run_file("svc.pid").exists());
}

#[actix_rt::test]
async fn one_that_is_too_slow_is_ended_with_all_that_it_started() {
    let script = "trap '' TERM; setsid sleep 600 & echo $! >child; wait";
    let table = Table { grace_period_s: Some(0.5), ..sh(script) };
    let house = house_with(table, |parts| parts.stop_timeout = Duration::from_millis(100));
    let asked = house.asks(true, None);
    let child = house.process_of("child").await;
    let leader = house.leader().await;
    let error = asked.await.unwrap_err();
    assert_eq!(error.code, Code::ModelStartTimeout);
    assert!(
        hint(&error).contains("grace_period_s") && hint(&error).contains("svc.log"),
        "{error:?}"
    );
    house.is("failed").await;
    assert!(is_no_more(leader) && !identity::is_alive(child));
}

#[actix_rt::test]
async fn requests_start_nothing_while_that_is_switched_off() {
    let house = house_with(sh(RUNS), |parts| parts.enabled = false.into());
    let error = house.request().await.unwrap_err();
    assert_eq!(error.code, Code::BackendUnavailable);
    assert!(hint(&error).contains("autostart_enabled = true"));
    assert_eq!(house.status().await.starts, 0);
    house.by_hand().await.unwrap();
    house.stop().await.unwrap();
    house.parts.enabled.set(true);
    assert!(house.actor.send(GetServices).await.unwrap().enabled);
    house.request().await.unwrap();
    house.stop_all().await;
}

#[actix_rt::test]
async fn a_service_that_no_setting_names_is_refused() {
    let house = house(sh(RUNS));
    let (reply, answer) = oneshot::channel();
    let service = "other".to_owned();
    house.actor.do_send(EnsureStarted { service, probe: None, by_request: true, reply });
    assert_eq!(answer.await.unwrap().unwrap_err().code, Code::BackendUnavailable);
    let (reply, answer) = oneshot::channel();
    house.actor.do_send(StopService { service: "other".into(), reply });
    assert_eq!(answer.await.unwrap().unwrap_err().code, Code::NotFound);
}

#[actix_rt::test]
async fn each_start_has_a_log_of_its_own() {
    let house = house(sh("echo $$ is up; exec sleep 600"));
    let mut pids = Vec::new();
    for _ in 0..2 {
        house.by_hand().await.unwrap();
        pids.push(house.status().await.pid.unwrap());
        house.stop().await.unwrap();
    }
    let held = |name| fs::read_to_string(house.run_file(name)).unwrap();
    assert_eq!(held("svc.log"), format!("{} is up\n", pids[1]));
    assert_eq!(held("svc.log.1"), format!("{} is up\n", pids[0]));
}
