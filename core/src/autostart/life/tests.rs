//! Each way through a life, and random histories of it.

mod bounds;
mod histories;

use super::*;

const GRACE: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);

fn s(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn life() -> Life {
    Life::new(LifeRules { grace: GRACE, stop_timeout: STOP })
}

fn process(pid: i32) -> Process {
    Process { pid, start_time: 1 }
}

fn ask(ticket: u64) -> Event {
    Event::Ask { ticket: Ticket(ticket), by_request: true }
}

fn by_hand(ticket: u64) -> Event {
    Event::Ask { ticket: Ticket(ticket), by_request: false }
}

fn exited(of: u64) -> Event {
    Event::Exited(of, "exit code 3".into(), Some("boom".into()))
}

/// Takes the events in turn; answers who was told what, in order, `7 ready` for ticket 7.
fn told(life: &mut Life, events: &[(Event, u64)]) -> String {
    let mut words = Vec::new();
    for (event, at) in events {
        for effect in life.on(event.clone(), s(*at)) {
            let Effect::Answer(tickets, outcome) = effect else { continue };
            let word = match outcome {
                Outcome::Ready => "ready".to_owned(),
                Outcome::Gone => "gone".to_owned(),
                Outcome::NotOurs => "not ours".to_owned(),
                Outcome::Failed(failure) => {
                    let name = format!("{failure:?}");
                    name.split([' ', '{']).next().unwrap_or_default().to_owned()
                }
            };
            words.extend(tickets.iter().map(|ticket| format!("{} {word}", ticket.0)));
        }
    }
    words.join(", ")
}

/// A start that went well, its number being 1.
fn up() -> Vec<(Event, u64)> {
    vec![
        (ask(1), 0),
        (Event::Seen(1, false), 0),
        (Event::Spawned(1, process(7)), 0),
        (Event::Ready(1), 3),
    ]
}

/// What it is about, the events and when they come, who is told what, and the state in the end.
type Case = (&'static str, Vec<(Event, u64)>, &'static str, &'static str);

#[test]
fn who_asks_is_told_and_the_state_is_the_right_one() {
    let spawned = |life: &[(Event, u64)]| [&up()[..3], life].concat();
    let ready = |life: &[(Event, u64)]| [&up()[..], life].concat();
    let stop = |ticket| Event::Stop(Ticket(ticket));
    let others = [(by_hand(1), 0), (Event::Seen(1, true), 0)];
    let cases: Vec<Case> = vec![
        ("a start", ready(&[]), "1 ready", "ready"),
        (
            "all join one start",
            spawned(&[(ask(2), 1), (by_hand(3), 1), (Event::Ready(1), 2)]),
            "1 ready, 2 ready, 3 ready",
            "ready",
        ),
        ("others run it", others.to_vec(), "1 ready", "ready"),
        (
            "others' is not stopped",
            [&others[..], &[(stop(2), 1)]].concat(),
            "1 ready, 2 not ours",
            "ready",
        ),
        (
            "others' is stopped while it is doubted",
            [
                &others[..],
                &[(by_hand(2), 1), (stop(3), 1), (Event::Probed(1, false), 2), (Event::Tick, 9)],
            ]
            .concat(),
            "1 ready, 2 Stopped, 3 not ours",
            "stopped",
        ),
        (
            "others' that went is replaced",
            [&others[..], &[(ask(2), 1), (Event::Probed(1, false), 1), (Event::Seen(2, false), 1)]]
                .concat(),
            "1 ready",
            "starting",
        ),
        (
            "not made",
            vec![(ask(1), 0), (Event::Seen(1, false), 0), (Event::NotSpawned(1, "no".into()), 0)],
            "1 NotStarted",
            "failed",
        ),
        ("ended at start", spawned(&[(exited(1), 1)]), "1 EndedAtStart", "stopping"),
        (
            "ended at start, swept",
            spawned(&[(exited(1), 1), (Event::Swept(1), 1)]),
            "1 EndedAtStart",
            "failed",
        ),
        (
            "asked in its back-off",
            spawned(&[(exited(1), 1), (ask(2), 1), (Event::Swept(1), 1), (ask(3), 1)]),
            "1 EndedAtStart, 2 EndedAtStart, 3 EndedAtStart",
            "failed",
        ),
        (
            "asked behind its back-off",
            spawned(&[(exited(1), 1), (Event::Swept(1), 1), (ask(2), 2)]),
            "1 EndedAtStart",
            "starting",
        ),
        (
            "asked by hand in its back-off",
            spawned(&[(exited(1), 1), (Event::Swept(1), 1), (by_hand(2), 1)]),
            "1 EndedAtStart",
            "starting",
        ),
        ("too slow", spawned(&[(Event::Tick, 59), (Event::Tick, 60)]), "1 TooSlow", "stopping"),
        (
            "too slow, killed",
            spawned(&[(Event::Tick, 60), (Event::Tick, 65), (Event::Swept(1), 66)]),
            "1 TooSlow",
            "failed",
        ),
        ("died", ready(&[(exited(1), 9), (Event::Swept(1), 9)]), "1 ready", "failed"),
        (
            "died, asked at once",
            ready(&[(exited(1), 9), (Event::Swept(1), 9), (ask(2), 9)]),
            "1 ready",
            "starting",
        ),
        (
            "died, asked meanwhile",
            ready(&[(exited(1), 9), (ask(2), 9), (Event::Swept(1), 9)]),
            "1 ready",
            "starting",
        ),
        (
            "died while doubted",
            ready(&[(ask(2), 9), (exited(1), 9), (Event::Swept(1), 9)]),
            "1 ready",
            "starting",
        ),
        (
            "doubted and well",
            ready(&[(ask(2), 9), (by_hand(3), 9), (Event::Probed(1, true), 9)]),
            "1 ready, 2 ready, 3 ready",
            "ready",
        ),
        ("a young one has its grace", ready(&[(ask(2), 9), (Event::Tick, 59)]), "1 ready", "ready"),
        ("hung", ready(&[(ask(2), 90), (Event::Tick, 95)]), "1 ready", "stopping"),
        (
            "hung, again",
            ready(&[(ask(2), 90), (Event::Tick, 95), (exited(1), 96), (Event::Swept(1), 96)]),
            "1 ready",
            "starting",
        ),
        (
            "by hand a living one is asked too",
            ready(&[(by_hand(2), 90), (Event::Probed(1, true), 91)]),
            "1 ready, 2 ready",
            "ready",
        ),
        (
            "by hand, and it hangs",
            ready(&[
                (by_hand(2), 90),
                (Event::Tick, 95),
                (exited(1), 96),
                (Event::Swept(1), 96),
                (Event::Seen(2, false), 96),
                (Event::Spawned(2, process(8)), 96),
                (Event::Ready(2), 97),
            ]),
            "1 ready, 2 ready",
            "ready",
        ),
        (
            "stopped",
            ready(&[(stop(2), 9), (exited(1), 9), (Event::Swept(1), 9)]),
            "1 ready, 2 gone",
            "stopped",
        ),
        (
            "stopped, and killed",
            ready(&[(stop(2), 9), (Event::Tick, 29), (Event::Swept(1), 29)]),
            "1 ready, 2 gone",
            "stopped",
        ),
        (
            "stopped, and back",
            ready(&[(stop(2), 9), (ask(3), 9), (exited(1), 9), (Event::Swept(1), 9)]),
            "1 ready, 2 gone",
            "starting",
        ),
        (
            "stopped twice",
            ready(&[(stop(2), 9), (ask(3), 9), (stop(4), 9), (exited(1), 9), (Event::Swept(1), 9)]),
            "1 ready, 3 Stopped, 2 gone, 4 gone",
            "stopped",
        ),
        ("stopped at nothing", vec![(stop(1), 0)], "1 gone", "stopped"),
        (
            "stopped while looking",
            vec![(ask(1), 0), (stop(2), 0), (Event::Seen(1, false), 0)],
            "1 Stopped, 2 gone",
            "stopped",
        ),
        (
            "stopped while it is made",
            vec![
                (ask(1), 0),
                (Event::Seen(1, false), 0),
                (stop(2), 0),
                (Event::Spawned(1, process(7)), 0),
            ],
            "1 Stopped",
            "stopping",
        ),
        (
            "stopped and not made",
            vec![
                (ask(1), 0),
                (Event::Seen(1, false), 0),
                (stop(2), 0),
                (Event::NotSpawned(1, "no".into()), 0),
            ],
            "1 Stopped, 2 gone",
            "stopped",
        ),
        ("stopped while starting", spawned(&[(stop(2), 1)]), "1 Stopped", "stopping"),
        (
            "stuck",
            ready(&[(stop(2), 9), (exited(1), 9), (Event::NotSwept(1, "pid 7".into()), 9)]),
            "1 ready, 2 Stuck",
            "failed",
        ),
        (
            "stuck, tried again",
            ready(&[
                (stop(2), 9),
                (exited(1), 9),
                (Event::NotSwept(1, "pid 7".into()), 9),
                (by_hand(3), 9),
                (Event::Swept(1), 10),
            ]),
            "1 ready, 2 Stuck",
            "starting",
        ),
        (
            "found ready",
            vec![
                (Event::Found { process: process(7), ready: true }, 0),
                (by_hand(1), 0),
                (Event::Probed(1, true), 0),
            ],
            "1 ready",
            "ready",
        ),
        (
            "found starting",
            vec![
                (Event::Found { process: process(7), ready: false }, 0),
                (ask(1), 0),
                (Event::Ready(1), 0),
            ],
            "1 ready",
            "ready",
        ),
    ];
    for (what, events, want, state) in cases {
        let mut life = life();
        assert_eq!(told(&mut life, &events), want, "{what}");
        assert_eq!(life.word(), state, "{what}");
    }
}

#[test]
fn pauses_double_up_to_a_bound_and_a_person_ends_them() {
    let mut life = life();
    let mut now = s(0);
    let mut pauses = Vec::new();
    for round in 1..=8 {
        life.on(ask(round), now);
        let of = life.generation;
        life.on(Event::Seen(of, false), now);
        life.on(Event::NotSpawned(of, "no".into()), now);
        let State::Failed(_, until) = life.state() else { panic!("{:?}", life.state()) };
        pauses.push(until.saturating_sub(now).as_secs());
        now = *until;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
    life.on(by_hand(9), now);
    assert_eq!((life.failures, life.word()), (0, "starting"));
}

#[test]
fn one_that_keeps_dying_young_is_not_started_by_every_request() {
    let mut life = life();
    let round = |life: &mut Life, ticket, at| {
        life.on(ask(ticket), s(at));
        let of = life.generation;
        for event in [
            Event::Seen(of, false),
            Event::Spawned(of, process(7)),
            Event::Ready(of),
            exited(of),
            Event::Swept(of),
        ] {
            life.on(event, s(at));
        }
    };
    round(&mut life, 1, 0);
    round(&mut life, 2, 0);
    assert_eq!(told(&mut life, &[(ask(3), 0)]), "3 Died");
    round(&mut life, 4, 1);
    assert_eq!(told(&mut life, &[(ask(5), 2)]), "5 Died");
    // One that has done well for a while begins anew.
    life.on(ask(6), s(10));
    let of = life.generation;
    for event in [Event::Seen(of, false), Event::Spawned(of, process(7)), Event::Ready(of)] {
        life.on(event, s(10));
    }
    life.on(exited(of), s(40));
    life.on(Event::Swept(of), s(40));
    assert_eq!((told(&mut life, &[(ask(7), 40)]), life.word()), (String::new(), "starting"));
}
