//! The arbiter among recorders, with a real ledger. What is decided when is the core's and tested
//! there; here it is seen that decisions reach those whom they concern.
#![allow(clippy::unwrap_used, clippy::panic)]

mod leasing;
mod ollama;

use std::time::Duration;

use super::messages::*;
use super::*;
use crate::guard::Role;
use crate::permits::Permit;
use crate::root::fault::Explode;
use crate::testing::{Inbox, PATIENCE, launch, recorder};
use actix::Addr;
use chat_proxy_core::engine::{Cause, EngineReport, Held, Phase};
use chat_proxy_core::gpu::scheduler::Stopping;
use chat_proxy_core::gpu::{Asker, GpuBudget, Side};
use chat_proxy_core::{ApiError, Code};
use tokio::sync::oneshot::Receiver;

const BEFORE: Generation = Generation(7);
const FIRST: Generation = Generation(8);
const SECOND: Generation = Generation(9);

struct House {
    arbiter: Addr<GpuArbiter>,
    parts: ArbiterParts,
    goals: Inbox<SetGoal>,
    announce: Inbox<Announce>,
    shown: Inbox<ShowActivity>,
    vacates: Inbox<Vacate>,
    dir: tempfile::TempDir,
}

fn rules() -> SchedulerRules {
    SchedulerRules {
        abandoned_grace: None,
        max_queue: 8,
        max_wait: None,
        swap_wait: Duration::ZERO,
        background_wait: Duration::ZERO,
        background_idle: Duration::ZERO,
        max_concurrent: None,
        idle_unload: None,
        swap_drain: None,
        start_on_request: true,
        beside_ollama: false,
        budget: GpuBudget::default(),
        lease_wait: false,
        lease_drain: None,
    }
}

fn start(parts: &ArbiterParts) -> Addr<GpuArbiter> {
    GpuArbiter::new(parts.clone(), Guard::unwatched(Role::Arbiter)).start()
}

fn house(rules: SchedulerRules) -> House {
    let ledger = PermitLedger::new(BEFORE);
    let (goals_port, goals) = recorder();
    let (announce_port, announce) = recorder();
    let (show_port, shown) = recorder();
    let (vacate, vacates) = recorder();
    let rules_start = rules.start_on_request;
    let dir = tempfile::tempdir().unwrap();
    let parts = ArbiterParts {
        leases: Arc::new(LeaseShelf::open(&dir.path().join("gpu_lease.json"))),
        registry: RegistryView::default(),
        rules: crate::live::Live::new(rules),
        cut: Arc::new(|_| {}),
        ledger,
        goals: goals_port,
        announce: announce_port,
        vacate,
        starts: rules_start.into(),
        show: show_port,
        metrics: Metrics::new().unwrap(),
        events: Arc::default(),
    };
    House { arbiter: start(&parts), parts, goals, announce, shown, vacates, dir }
}

/// A house where nothing runs, and the arbiter knows.
async fn empty(rules: SchedulerRules) -> House {
    let house = house(rules);
    house.report(BEFORE, None);
    assert_eq!(house.status().await.state, "empty");
    house
}

/// A house where `a` is resident.
async fn serving(rules: SchedulerRules) -> House {
    let house = house(rules);
    house.report(FIRST, Some((FIRST, "a", Phase::Ready)));
    assert_eq!(house.status().await.state, "ready");
    house
}

struct Asked {
    ticket: Ticket,
    progress: Arc<Progress>,
    outcome: Receiver<Outcome>,
}

impl House {
    fn report(&self, newest: Generation, held: Option<(Generation, &str, Phase)>) {
        self.tell_report(newest, held, false);
    }

    fn tell_report(
        &self,
        newest: Generation,
        held: Option<(Generation, &str, Phase)>,
        fresh: bool,
    ) {
        let held = held.map(|(generation, model, phase)| Held {
            generation,
            launch: launch(model),
            phase,
        });
        self.arbiter.do_send(EngineChanged {
            report: EngineReport { held, newest, broken: Vec::new() },
            fresh,
        });
    }

    fn ask(&self, model: &str) -> Asked {
        let (reply, outcome) = oneshot::channel();
        let (ticket, progress) = (self.parts.ledger.ticket(), Arc::new(Progress::default()));
        self.arbiter.do_send(Admit {
            ticket,
            tenant: launch(model).into(),
            arrived: clock::now(),
            refused_by: None,
            who: Asker::default(),
            request_id: "test".into(),
            progress: progress.clone(),
            reply,
        });
        Asked { ticket, progress, outcome }
    }

    /// Once this is answered, everything told before has been handled.
    async fn status(&self) -> Status {
        self.arbiter.send(GetStatus).await.unwrap()
    }

    async fn runs(&mut self) -> (Generation, String) {
        self.goals
            .until("a start", |goal| match goal {
                SetGoal::Run(generation, launch) => Some((*generation, launch.model.to_string())),
                SetGoal::Stop(_) | SetGoal::Pardon(_) => None,
            })
            .await
    }

    async fn stops(&mut self) -> Generation {
        loop {
            match self.goals.next().await {
                SetGoal::Stop(generation) => return generation,
                SetGoal::Pardon(_) => {}
                SetGoal::Run(..) => panic!("a start, and no stop"),
            }
        }
    }
}

impl Asked {
    async fn end(self) -> Outcome {
        tokio::time::timeout(PATIENCE, self.outcome).await.expect("no answer").expect("it died")
    }

    async fn permit(self) -> Permit {
        match self.end().await {
            Outcome::Granted(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    async fn refusal(self) -> ApiError {
        match self.end().await {
            Outcome::Refused(error) => error,
            other => panic!("{other:?}"),
        }
    }

    fn waits(&mut self) -> bool {
        matches!(self.outcome.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }
}

#[actix_rt::test]
async fn an_arbiter_asks_what_runs_and_decides_nothing_before_it_knows() {
    let mut house = house(rules());
    house.announce.next().await;
    let mut asked = house.ask("a");
    let status = house.status().await;
    assert_eq!((status.state, status.queue.len()), ("unknown", 1));
    assert!(asked.waits());
    house.report(BEFORE, None);
    assert_eq!(house.runs().await, (FIRST, "a".to_owned()));
    assert_eq!(house.status().await.state, "loading");
    assert!(house.goals.rest().is_empty());
}

#[actix_rt::test]
async fn a_request_becomes_a_goal_and_then_a_permit() {
    let mut house = empty(rules()).await;
    let asked = house.ask("a");
    assert_eq!(house.runs().await, (FIRST, "a".to_owned()));
    assert_eq!(house.parts.ledger.newest(), FIRST);
    assert_eq!(house.parts.metrics.waiting(0), 1);
    house.report(FIRST, Some((FIRST, "a", Phase::Starting)));
    house.report(FIRST, Some((FIRST, "a", Phase::Ready)));
    let permit = asked.permit().await;
    assert_eq!((permit.generation, permit.tenant.id().to_string().as_str()), (FIRST, "a"));
    let status = house.status().await;
    assert_eq!((status.state, status.in_flight, status.queue.len()), ("ready", 1, 0));
    assert_eq!(house.parts.metrics.waiting(0), 0);
    drop(permit);
    assert_eq!(house.status().await.in_flight, 0);
}

#[actix_rt::test]
async fn a_load_that_fails_is_the_answer_to_those_who_waited_for_it() {
    let mut house = empty(rules()).await;
    let asked = house.ask("a");
    house.runs().await;
    let cause = Cause::NotStarted { message: "no such program".into() };
    house.report(FIRST, Some((FIRST, "a", Phase::Failed(cause))));
    let error = asked.refusal().await;
    assert_eq!(error.code, Code::ModelStartFailed);
    assert!(error.message.contains("no such program"), "{}", error.message);
}

#[actix_rt::test]
async fn a_permit_that_nobody_takes_comes_back_and_the_swap_goes_on() {
    let mut house = serving(rules()).await;
    drop(house.ask("a").outcome);
    let other = house.ask("b");
    assert_eq!(house.stops().await, FIRST);
    assert_eq!(house.parts.ledger.in_flight(FIRST), 0);
    house.report(FIRST, Some((FIRST, "a", Phase::Leaving)));
    house.report(FIRST, None);
    assert_eq!(house.runs().await, (SECOND, "b".to_owned()));
    house.report(SECOND, Some((SECOND, "b", Phase::Ready)));
    assert_eq!(other.permit().await.generation, SECOND);
}

#[actix_rt::test]
async fn a_swap_begins_when_the_last_permit_comes_back_from_whatever_thread() {
    let mut house = serving(rules()).await;
    let (one, two) = (house.ask("a").permit().await, house.ask("a").permit().await);
    let mut other = house.ask("b");
    drop(one);
    assert_eq!(house.status().await.state, "draining");
    assert!(other.waits());
    std::thread::spawn(move || drop(two)).join().unwrap();
    assert_eq!(house.stops().await, FIRST);
}

#[actix_rt::test]
async fn who_goes_leaves_the_queue_and_what_was_granted_meanwhile_comes_back() {
    let mut house = serving(rules()).await;
    let permit = house.ask("a").permit().await;
    let gone = house.ask("b");
    assert_eq!(house.status().await.queue.len(), 1);
    house.arbiter.do_send(Abandon(gone.ticket));
    let status = house.status().await;
    assert_eq!((status.state, status.queue.len()), ("ready", 0));
    assert!(gone.outcome.await.is_err());
    // Granted and abandoned at once: the news cross.
    let crossing = house.ask("a");
    house.arbiter.do_send(Abandon(crossing.ticket));
    drop(crossing.outcome);
    drop(permit);
    assert_eq!(house.status().await.in_flight, 0);
    assert!(house.goals.rest().is_empty());
}

#[actix_rt::test]
async fn those_who_wait_are_told_their_place_and_what_they_wait_for() {
    let mut house = serving(rules()).await;
    let permit = house.ask("a").permit().await;
    let (first, second) = (house.ask("b"), house.ask("b"));
    house.status().await;
    assert_eq!(first.progress.get(), (1, WaitStage::Draining));
    assert_eq!(second.progress.get(), (2, WaitStage::Draining));
    drop(permit);
    house.stops().await;
    assert_eq!(first.progress.get(), (1, WaitStage::Stopping));
    house.arbiter.do_send(Abandon(first.ticket));
    house.report(FIRST, None);
    house.runs().await;
    assert_eq!(second.progress.get(), (1, WaitStage::Loading));
}

#[actix_rt::test]
async fn a_drain_refuses_those_who_wait_and_those_who_come_by_every_arbiter() {
    let house = serving(rules()).await;
    let permit = house.ask("a").permit().await;
    let waiting = house.ask("b");
    house.parts.ledger.drain();
    house.arbiter.do_send(Drain);
    assert_eq!(waiting.refusal().await.code, Code::Draining);
    assert_eq!(house.ask("a").refusal().await.code, Code::Draining);
    let successor = House { arbiter: start(&house.parts), ..house };
    assert_eq!(successor.ask("a").refusal().await.code, Code::Draining);
    assert_eq!(successor.parts.ledger.in_flight(permit.generation), 1);
}

#[actix_rt::test]
async fn who_waits_learns_of_the_arbiters_death_and_the_next_one_waits_for_the_permits() {
    let house = serving(rules()).await;
    let permit = house.ask("a").permit().await;
    let waiting = house.ask("b");
    assert!(house.arbiter.send(Explode).await.is_err());
    assert!(waiting.outcome.await.is_err());
    let mut house = House { arbiter: start(&house.parts), ..house };
    house.report(FIRST, Some((FIRST, "a", Phase::Ready)));
    let mut other = house.ask("b");
    let status = house.status().await;
    assert_eq!((status.state, status.in_flight), ("draining", 1));
    assert!(other.waits() && house.goals.rest().is_empty());
    drop(permit);
    assert_eq!(house.stops().await, FIRST);
    house.report(FIRST, None);
    assert_eq!(house.runs().await, (SECOND, "b".to_owned()));
}

#[actix_rt::test]
async fn a_supervisor_that_never_heard_of_a_start_is_told_again() {
    let mut house = empty(rules()).await;
    let _asked = house.ask("a");
    assert_eq!(house.runs().await.0, FIRST);
    house.tell_report(Generation(0), None, true);
    assert_eq!(house.runs().await.0, FIRST);
}

#[actix_rt::test]
async fn an_order_to_stop_is_answered_with_what_it_waits_for() {
    let mut house = serving(rules()).await;
    let permit = house.ask("a").permit().await;
    let met = house.arbiter.send(Deactivate { side: Side::Vllm, force: false }).await.unwrap();
    assert_eq!(met, Stopping::WaitsFor(launch("a").as_ref().into(), 1));
    drop(permit);
    assert_eq!(house.stops().await, FIRST);
    house.report(FIRST, None);
    assert_eq!(
        house.arbiter.send(Deactivate { side: Side::Vllm, force: true }).await.unwrap(),
        Stopping::Idle
    );
}

#[actix_rt::test]
async fn an_order_to_activate_is_answered_when_the_model_serves_and_takes_no_permit() {
    let mut house = empty(rules()).await;
    let (reply, outcome) = oneshot::channel();
    let ticket = house.parts.ledger.ticket();
    house.arbiter.do_send(Activate { ticket, tenant: launch("a").into(), reply });
    house.runs().await;
    house.report(FIRST, Some((FIRST, "a", Phase::Ready)));
    assert!(matches!(outcome.await.unwrap(), Outcome::Activated));
    assert_eq!(house.status().await.in_flight, 0);
}

// The cores' moments are counted on the real clock, so a paused one cannot be used.
#[actix_rt::test]
async fn a_wait_over_its_bound_ends_by_the_clock_alone() {
    let bound = Duration::from_millis(30);
    let house = serving(SchedulerRules { max_wait: Some(bound), ..rules() }).await;
    let _permit = house.ask("a").permit().await;
    let begin = std::time::Instant::now();
    let error = house.ask("b").refusal().await;
    assert_eq!(error.code, Code::QueueTimeout);
    assert!(begin.elapsed() >= bound && begin.elapsed() < Duration::from_secs(5));
}

#[actix_rt::test]
async fn the_list_is_told_what_is_active_once_for_each_change() {
    let mut house = serving(rules()).await;
    let permit = house.ask("a").permit().await;
    let _other = house.ask("b");
    house.status().await;
    drop(permit);
    house.stops().await;
    house.report(FIRST, None);
    house.runs().await;
    let mut told = Vec::new();
    while told.last() != Some(&("b".to_owned(), "loading")) {
        let ShowActivity(activity) = house.shown.next().await;
        told.extend(activity.map(|activity| (activity.model, activity.state)));
    }
    let expected = [("a", "ready"), ("a", "draining"), ("a", "stopping"), ("b", "loading")];
    assert_eq!(told, expected.map(|(model, state)| (model.to_owned(), state)));
}
