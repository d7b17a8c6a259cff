//! The arbiter between a vLLM and Ollama.

use chat_proxy_core::gpu::lease::LeaseAsk;

use super::*;

/// A house that shares its GPU with Ollama.
async fn sharing() -> House {
    empty(SchedulerRules { beside_ollama: true, ..rules() }).await
}

impl House {
    fn ask_ollama(&self) -> Receiver<Outcome> {
        let (reply, outcome) = oneshot::channel();
        self.arbiter.do_send(Admit {
            ticket: self.parts.ledger.ticket(),
            tenant: Tenant::Ollama,
            arrived: clock::now(),
            refused_by: None,
            who: Asker::default(),
            request_id: "test".into(),
            progress: Arc::default(),
            reply,
        });
        outcome
    }
}

#[actix_rt::test]
async fn a_vllm_starts_when_ollama_says_that_it_holds_nothing() {
    let mut house = sharing().await;
    let asked = house.ask("a");
    let Vacate(generation) = house.vacates.next().await;
    assert!(generation > BEFORE);
    let status = house.status().await;
    assert_eq!((status.state, status.model.as_deref()), ("loading", Some("a")));
    assert!(house.goals.rest().is_empty(), "not before");
    house.arbiter.do_send(OllamaVacated { generation, given: Ok(()) });
    let (started, model) = house.runs().await;
    assert_eq!(model, "a");
    house.report(started, Some((started, "a", Phase::Ready)));
    let outcome = asked.outcome.await.unwrap();
    assert!(matches!(outcome, Outcome::Granted(permit) if permit.generation == started));
}

#[actix_rt::test]
async fn who_waits_for_a_vllm_is_told_that_ollama_stays() {
    let mut house = sharing().await;
    let asked = house.ask("a");
    let Vacate(generation) = house.vacates.next().await;
    let given = Err(Cause::OllamaStays { why: "m:latest still loaded after 30 s".into() });
    house.arbiter.do_send(OllamaVacated { generation, given });
    let Outcome::Refused(error) = asked.outcome.await.unwrap() else { panic!("no turn") };
    assert_eq!(error.code, Code::ModelStartFailed);
    assert!(error.message.contains("m:latest still loaded"), "{}", error.message);
}

#[actix_rt::test]
async fn a_new_asker_is_told_again_and_a_new_arbiter_knows_of_requests_at_ollama() {
    let mut house = sharing().await;
    let Outcome::Granted(permit) = house.ask_ollama().await.unwrap() else { panic!("no turn") };
    let status = house.status().await;
    assert_eq!(
        (status.state, status.model.as_deref(), status.in_flight),
        ("ready", Some("ollama"), 1)
    );
    assert!(house.arbiter.send(Explode).await.is_err());
    house.arbiter = start(&house.parts);
    house.report(BEFORE, None);
    let _asked = house.ask("a");
    let status = house.status().await;
    assert_eq!((status.model.as_deref(), status.in_flight), (Some("ollama"), 1));
    assert!(house.vacates.rest().is_empty(), "it is in use");
    drop(permit);
    let Vacate(generation) = house.vacates.next().await;
    house.arbiter.do_send(OllamaForgot);
    assert_eq!(house.vacates.next().await, Vacate(generation));
}

#[actix_rt::test]
async fn where_both_fit_ollama_takes_no_turns_and_a_lease_waits_for_its_requests() {
    let budget = GpuBudget { residents: 2 };
    let mut house = serving(SchedulerRules { beside_ollama: true, budget, ..rules() }).await;
    let Outcome::Granted(held) = house.ask_ollama().await.unwrap() else { panic!("no permit") };
    let asked = house.ask("a").outcome.await.unwrap();
    assert!(matches!(asked, Outcome::Granted(permit) if permit.generation == FIRST));
    let (reply, leased) = oneshot::channel();
    let ask = LeaseAsk {
        ticket: house.parts.ledger.ticket(),
        token: "secret".into(),
        owner: "judge".into(),
        restart_model: false,
        ttl: PATIENCE,
    };
    house.arbiter.do_send(AcquireLease { ask, reason: None, running: None, reply });
    assert_eq!(house.stops().await, FIRST);
    house.report(FIRST, None);
    // What its permit's drop says comes to the arbiter by the ledger.
    let generation = held.generation;
    drop(held);
    assert_eq!(house.vacates.next().await, Vacate(generation));
    house.arbiter.do_send(OllamaVacated { generation, given: Ok(()) });
    let Vacate(generation) = house.vacates.next().await;
    house.arbiter.do_send(OllamaVacated { generation, given: Ok(()) });
    assert_eq!(leased.await.unwrap().unwrap().owner, "judge");
}
