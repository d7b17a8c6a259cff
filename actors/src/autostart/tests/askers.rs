//! Who asks, and for what: nobody's wrong entry harms a service that does well.

use super::super::messages::Hurry;
use super::super::runfiles::Runfiles;
use super::*;

/// Somebody else's server, which answers 404 where a backend lists its models.
fn theirs(port: u16) -> std::process::Child {
    std::process::Command::new("python3")
        .args(["-m", "http.server", &port.to_string(), "--bind", "127.0.0.1"])
        .spawn()
        .unwrap()
}

async fn is_up(port: u16) {
    until("it is not up", || std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await;
}

/// One asks for a backend that is down, of a service that serves another one well.
async fn is_refused_alone(sign: fn(u16) -> Table) {
    let (port, down) = (free_port(), free_port());
    let mut house = house(Table { grace_period_s: Some(1.0), ..sign(port) });
    house.asks(true, Some(Endpoint::loopback(port))).await.unwrap();
    let leader = house.leader().await;
    for round in 0..2 {
        let error = house.asks(true, Some(Endpoint::loopback(down))).await.unwrap_err();
        assert_eq!(error.code, Code::BackendUnavailable);
        assert!(
            error.message.contains(&format!("nothing listens at http://127.0.0.1:{down}")),
            "{error}"
        );
        // What it was told before makes no difference to who comes after.
        house.by_hand().await.unwrap();
        house.asks(true, Some(Endpoint::loopback(port))).await.unwrap();
        assert_eq!(house.leader().await, leader);
        if round == 0 {
            // Nor does it to one that was taken over.
            assert!(house.actor.send(Die).await.is_ok());
            house.actor = start(&house.parts);
        }
    }
    house.stop_all().await;
}

#[actix_rt::test]
async fn who_needs_a_backend_that_is_down_is_refused_alone() {
    is_refused_alone(server).await;
}

#[actix_rt::test]
async fn also_where_an_address_tells_that_the_service_is_ready() {
    let sign =
        |port| Table { ready_url: Some(format!("http://127.0.0.1:{port}/")), ..server(port) };
    is_refused_alone(sign).await;
}

#[actix_rt::test]
async fn also_where_its_log_tells_that_the_service_is_ready() {
    is_refused_alone(|port| Table {
        ready_log: Some("Serving".into()),
        ..unbuffered(server(port))
    })
    .await;
}

fn unbuffered(table: Table) -> Table {
    Table { env: BTreeMap::from([("PYTHONUNBUFFERED".into(), "1".into())]), ..table }
}

#[actix_rt::test]
async fn nothing_is_started_here_for_a_backend_of_another_machine() {
    let house = house(sh(RUNS));
    let probe = Endpoint::local("192.0.2.7", 1).unwrap();
    let error = house.asks(true, Some(probe)).await.unwrap_err();
    assert_eq!(error.code, Code::BackendUnavailable);
    assert!(error.message.contains("192.0.2.7") && hint(&error).contains("models"), "{error:?}");
    assert_eq!((house.status().await.state, house.status().await.starts), ("stopped", 0));
}

#[actix_rt::test]
async fn somebody_elses_server_has_the_place_whatever_it_answers() {
    let port = free_port();
    let mut theirs = theirs(port);
    is_up(port).await;
    let house = house(server(port));
    house.asks(true, Some(Endpoint::loopback(port))).await.unwrap();
    let status = house.status().await;
    assert_eq!((status.state, status.pid, status.starts), ("ready", None, 0));
    theirs.kill().unwrap();
    theirs.wait().unwrap();
}

#[actix_rt::test]
async fn nothing_takes_the_place_of_somebody_elses_server_while_the_daemon_ends() {
    let port = free_port();
    let mut theirs = theirs(port);
    is_up(port).await;
    let url = Some(format!("http://127.0.0.1:{port}/"));
    let house = house(Table { ready_url: url, ..server(port) });
    house.by_hand().await.unwrap();
    let process = identity::identify(theirs.id().cast_signed()).unwrap();
    signal(process, Signal::SIGSTOP);
    let asked = house.asks(false, None);
    house.stop_all().await;
    theirs.kill().unwrap();
    theirs.wait().unwrap();
    assert_eq!(asked.await.unwrap_err().code, Code::Draining);
    assert_eq!((house.status().await.state, house.status().await.starts), ("stopped", 0));
}

#[actix_rt::test]
async fn by_hand_one_that_hangs_is_replaced_too() {
    let port = free_port();
    let url = Some(format!("http://127.0.0.1:{port}/"));
    let table = Table { grace_period_s: Some(3.0), ready_url: url, ..server(port) };
    let house = house_with(table, |parts| parts.stop_timeout = Duration::from_millis(200));
    house.by_hand().await.unwrap();
    let leader = house.leader().await;
    signal(leader, Signal::SIGSTOP);
    // It still takes connections: no request meets nobody.
    is_up(port).await;
    house.by_hand().await.unwrap();
    assert!(is_no_more(leader));
    assert_eq!(house.status().await.starts, 2);
    house.stop_all().await;
}

#[actix_rt::test]
async fn in_a_hurry_one_that_ends_slowly_is_killed() {
    let script = "trap '' TERM; sleep 600 & echo $! >child; echo is up; wait";
    let house = house(sh(script));
    house.request().await.unwrap();
    let child = house.process_of("child").await;
    let began = Instant::now();
    let stopping = house.stop();
    tokio::pin!(stopping);
    tokio::select! {
        _ = &mut stopping => panic!("it ends slowly"),
        state = house.is("stopping") => drop(state),
    }
    house.actor.send(Hurry).await.unwrap();
    stopping.await.unwrap();
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    assert!(!identity::is_alive(child));
}

#[actix_rt::test]
async fn what_a_wrapper_leaves_is_told_to_end_in_its_way_and_has_its_time() {
    let server =
        "trap 'sleep 0.3; echo bye >bye; exit' USR1; echo is up; while :; do sleep 0.01; done";
    let script = format!("trap 'exit' USR1; sh -c \"{server}\" & wait");
    let house = house(Table { stop_signal: Some("USR1".into()), ..sh(&script) });
    house.request().await.unwrap();
    house.stop().await.unwrap();
    assert_eq!(fs::read_to_string(house.path("bye")).unwrap(), "bye\n");
}

#[actix_rt::test]
async fn a_log_that_would_block_is_refused() {
    let house = house(sh(RUNS));
    fs::create_dir_all(&house.parts.dir).unwrap();
    let log = house.run_file("svc.log");
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = house.request().await.unwrap_err();
    assert_eq!(error.code, Code::ModelStartFailed);
    assert!(error.message.contains("svc.log"), "{error}");
    // Also where somebody reads it.
    let _reader = fs::OpenOptions::new().read(true).write(true).open(&log).unwrap();
    let error = house.by_hand().await.unwrap_err();
    assert!(error.message.contains("no regular file"), "{error}");
}

#[actix_rt::test]
async fn one_that_leaves_everything_behind_while_it_starts_was_seen_before() {
    let child = "env -i setsid sh -c 'echo $$ >child.tmp; mv child.tmp child; exec sleep 600' &";
    let script =
        format!("({child} sleep 1; : >left); until [ -e go ]; do sleep 0.01; done; {RUNS}");
    let house = house(sh(&script));
    let asked = house.asks(true, None);
    let child = house.process_of("child").await;
    until("its parent lives on", || house.path("left").exists().then_some(())).await;
    let seen = || {
        let record = Runfiles::of(&house.parts.dir, SVC).read()?;
        record.members.contains(&child).then_some(())
    };
    until("it was not seen", seen).await;
    fs::write(house.path("go"), "").unwrap();
    asked.await.unwrap();
    house.stop_all().await;
    assert!(!identity::is_alive(child));
}
