//! How long each thing may take: making one, ending one, and all of it in a hurry.

use super::*;

/// For how long each sweep may wait.
fn patience(life: &mut Life, events: &[(Event, u64)]) -> Vec<u64> {
    let effects = events.iter().flat_map(|(event, at)| life.on(event.clone(), s(*at)));
    effects
        .filter_map(|effect| match effect {
            Effect::Sweep(_, patience) => Some(patience.as_secs()),
            _ => None,
        })
        .collect()
}

#[test]
fn what_is_left_of_one_that_is_stopped_has_what_is_left_of_its_time() {
    let stop = (Event::Stop(Ticket(2)), 9);
    for (what, events, want) in [
        ("its leader ends at once", vec![stop.clone(), (exited(1), 9)], 20),
        ("its leader takes its time", vec![stop.clone(), (exited(1), 21)], 8),
        ("its time is up", vec![stop.clone(), (Event::Tick, 29)], 0),
        ("it died", vec![(exited(1), 9)], 0),
        ("it hangs", vec![(ask(2), 90), (Event::Tick, 95), (exited(1), 95)], 0),
    ] {
        let mut life = life();
        told(&mut life, &up());
        assert_eq!(patience(&mut life, &events), [want], "{what}");
    }
}

#[test]
fn in_a_hurry_nobody_gets_any_time() {
    let stop = (Event::Stop(Ticket(2)), 9);
    let hurry = (Event::Hurry, 10);
    let mut life = life();
    told(&mut life, &up());
    assert_eq!(patience(&mut life, &[stop.clone(), hurry.clone()]), [0]);
    // Others were waited for already.
    let mut life = super::life();
    told(&mut life, &up());
    assert_eq!(patience(&mut life, &[stop, (exited(1), 9), hurry]), [20, 0]);
    assert_eq!(told(&mut life, &[(Event::Swept(1), 10), (Event::Swept(1), 11)]), "2 gone");
    // And one that is only being made when the order comes.
    let mut life = super::life();
    told(&mut life, &[up()[0].clone(), up()[1].clone(), (Event::Stop(Ticket(2)), 0)]);
    life.on(Event::Hurry, s(1));
    life.on(Event::Spawned(1, process(7)), s(1));
    assert_eq!(patience(&mut life, &[(Event::Tick, 1)]), [0]);
}

#[test]
fn a_start_that_the_system_does_not_carry_out_is_given_up() {
    for (what, events) in
        [("looking", vec![(ask(1), 0)]), ("making", vec![(ask(1), 0), (Event::Seen(1, false), 0)])]
    {
        let mut life = life();
        assert_eq!(told(&mut life, &events), "");
        assert_eq!(
            told(&mut life, &[(Event::Tick, 9), (Event::Tick, 10)]),
            "1 NotStarted",
            "{what}"
        );
        assert_eq!(life.word(), "failed", "{what}");
        // What comes late changes nothing.
        let late = [Event::Seen(1, false), Event::Held(1), Event::Spawned(1, process(7))];
        for event in late {
            assert_eq!(life.on(event, s(11)), [], "{what}");
        }
    }
}

#[test]
fn a_child_that_is_known_is_not_given_up_for_being_slow() {
    let mut life = life();
    told(&mut life, &[(ask(1), 0), (Event::Seen(1, false), 0), (Event::Held(1), 9)]);
    assert_eq!(told(&mut life, &[(Event::Tick, 10)]), "");
    told(&mut life, &[(Event::Spawned(1, process(7)), 19)]);
    assert_eq!(told(&mut life, &[(Event::Ready(1), 20)]), "1 ready");
}

#[test]
fn nothing_is_begun_while_the_daemon_ends() {
    for events in [vec![(ask(1), 0)], vec![(ask(1), 0), (Event::Seen(1, false), 0)]] {
        let mut life = life();
        told(&mut life, &events);
        assert_eq!(told(&mut life, &[(Event::Refused(1), 1)]), "1 Stopped");
        assert_eq!(life.word(), "stopped");
        assert_eq!(life.on(Event::Seen(1, false), s(2)), []);
    }
}
