//! The end of a service: by itself, by hand, by a hang.

use super::*;

#[actix_rt::test]
async fn a_death_is_seen_at_once_and_the_next_request_starts_it_anew() {
    let house = house(sh(WITH_CHILD));
    house.request().await.unwrap();
    let (leader, child) = (house.leader().await, house.process_of("child").await);
    signal(leader, Signal::SIGKILL);
    let status = house.is("failed").await;
    assert!(status.last_error.unwrap().contains("SIGKILL"));
    assert!(is_no_more(leader) && !identity::is_alive(child), "its orphans go too");
    assert!(!house.run_file("svc.ready").exists() && !house.run_file("svc.pid").exists());
    house.request().await.unwrap();
    assert_eq!(house.status().await.starts, 2);
    house.stop_all().await;
}

#[actix_rt::test]
async fn a_request_that_comes_while_its_death_is_not_known_gets_the_new_one() {
    let house = house(sh(RUNS));
    house.request().await.unwrap();
    let leader = house.leader().await;
    signal(leader, Signal::SIGKILL);
    house.by_hand().await.unwrap();
    house.request().await.unwrap();
    until("it is not replaced", || is_no_more(leader).then_some(())).await;
    house.by_hand().await.unwrap();
    assert_ne!(house.leader().await, leader);
    house.stop_all().await;
}

#[actix_rt::test]
async fn a_grandchild_in_a_session_of_its_own_ends_with_it() {
    let house = house(sh(WITH_CHILD));
    house.request().await.unwrap();
    let (leader, child) = (house.leader().await, house.process_of("child").await);
    assert_ne!(identity::stat(child.pid).unwrap().group, leader.pid);
    house.stop().await.unwrap();
    assert!(is_no_more(leader) && !identity::is_alive(child));
    assert_eq!(house.status().await.state, "stopped");
}

#[actix_rt::test]
async fn one_that_ignores_its_signal_is_killed_when_its_time_is_up() {
    let grace = Duration::from_millis(200);
    let script = "trap '' TERM; sleep 600 & echo $! >child; echo is up; wait";
    let house = house_with(sh(script), |parts| parts.stop_timeout = grace);
    house.request().await.unwrap();
    let (leader, child) = (house.leader().await, house.process_of("child").await);
    let began = Instant::now();
    house.stop().await.unwrap();
    assert!(began.elapsed() >= grace && began.elapsed() < Duration::from_secs(5));
    assert!(is_no_more(leader) && !identity::is_alive(child));
}

#[actix_rt::test]
async fn a_service_is_told_to_end_in_the_way_that_it_understands() {
    let script = "trap 'echo bye >bye; exit' INT; echo is up; while :; do sleep 0.01; done";
    let house = house(Table { stop_signal: Some("SIGINT".into()), ..sh(script) });
    house.request().await.unwrap();
    house.stop().await.unwrap();
    assert_eq!(fs::read_to_string(house.path("bye")).unwrap(), "bye\n");
}

#[actix_rt::test]
async fn those_who_wait_are_told_when_it_is_stopped() {
    let house = house(sh("exec sleep 600"));
    let asked = house.asks(true, None);
    until("it does not start", || house.run_file("svc.pid").exists().then_some(())).await;
    house.stop().await.unwrap();
    assert_eq!(asked.await.unwrap_err().code, Code::BackendUnavailable);
    assert_eq!(house.status().await.state, "stopped");
    house.stop().await.unwrap();
}

#[actix_rt::test]
async fn one_that_lives_but_hangs_is_replaced() {
    let port = free_port();
    let table = Table { grace_period_s: Some(3.0), ..server(port) };
    let house = house_with(table, |parts| parts.stop_timeout = Duration::from_millis(200));
    let probe = || Some(Endpoint::loopback(port));
    house.asks(true, probe()).await.unwrap();
    let leader = house.leader().await;
    signal(leader, Signal::SIGSTOP);
    house.asks(true, probe()).await.unwrap();
    assert!(is_no_more(leader));
    let status = house.status().await;
    assert_eq!((status.state, status.starts), ("ready", 2));
    house.stop_all().await;
}
