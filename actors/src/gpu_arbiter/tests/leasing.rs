//! Leases: what is written down, when, and what the deaths of those concerned cost.

use chat_proxy_core::gpu::lease::{LeaseAsk, LeaseOrder};

use super::*;
use crate::lease::LeaseRecord;

type Leased = Receiver<Result<Arc<LeaseRecord>, ApiError>>;

impl House {
    fn ask_lease(&self) -> (Ticket, Leased) {
        let (reply, answer) = oneshot::channel();
        let ticket = self.parts.ledger.ticket();
        let ask = LeaseAsk {
            ticket,
            token: "secret".into(),
            owner: "judge".into(),
            restart_model: true,
            ttl: Duration::from_secs(60),
        };
        let reason = Some("to judge".to_owned());
        self.arbiter.do_send(AcquireLease { ask, reason, running: None, reply });
        (ticket, answer)
    }

    async fn order_lease(&self, order: LeaseOrder) -> Result<LeaseAnswer, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.arbiter.do_send(OrderLease { order, reply });
        answer.await.unwrap()
    }

    fn written(&self) -> Option<String> {
        std::fs::read_to_string(self.dir.path().join("gpu_lease.json")).ok()
    }

    async fn until_free(&self) {
        let mut watch = self.parts.leases.watch();
        let free = watch.wait_for(Option::is_none);
        tokio::time::timeout(PATIENCE, free).await.unwrap().unwrap();
    }
}

fn release() -> LeaseOrder {
    LeaseOrder::Release { token: "secret".into(), restart_model: None }
}

#[actix_rt::test]
async fn a_lease_is_told_when_it_is_written_down_and_a_new_arbiter_knows_of_it() {
    let mut house = serving(rules()).await;
    let (_, answer) = house.ask_lease();
    let SetGoal::Stop(of) = house.goals.next().await else { panic!("no stop") };
    house.report(of, None);
    let record = answer.await.unwrap().unwrap();
    assert_eq!(record.saved_model.as_ref().unwrap().logical_name, "a");
    assert!(house.written().unwrap().contains("secret"));
    let refused = house.ask("a").outcome.await.unwrap();
    assert!(matches!(refused, Outcome::Refused(error) if error.code == Code::GpuLeaseActive));

    assert!(house.arbiter.send(Explode).await.is_err());
    house.arbiter = start(&house.parts);
    house.report(of, None);
    let refused = house.ask("a").outcome.await.unwrap();
    assert!(matches!(refused, Outcome::Refused(error) if error.code == Code::GpuLeaseActive));
    let renewed = house.order_lease(LeaseOrder::Renew { token: "secret".into(), ttl: None }).await;
    assert!(matches!(renewed, Ok(LeaseAnswer::Renewed(again)) if again.token == record.token));
    let wrong = house.order_lease(LeaseOrder::Renew { token: "guess".into(), ttl: None }).await;
    assert_eq!(wrong.unwrap_err().code, Code::LeaseToken);
    assert!(matches!(house.order_lease(release()).await, Ok(LeaseAnswer::Released)));
    assert_eq!(house.written(), None);
}

#[actix_rt::test]
async fn nobody_is_left_with_a_lease_that_nobody_heard_of() {
    let house = empty(rules()).await;
    let (_, answer) = house.ask_lease();
    drop(answer);
    house.until_free().await;
    // One who goes while the GPU is in use withdraws.
    let mut house = serving(rules()).await;
    let asked = house.ask("a");
    let Outcome::Granted(permit) = asked.outcome.await.unwrap() else { panic!("no turn") };
    let (ticket, answer) = house.ask_lease();
    assert_eq!(house.status().await.state, "draining");
    house.arbiter.do_send(Abandon(ticket));
    assert_eq!(house.status().await.state, "ready");
    assert!(answer.await.is_err());
    drop(permit);
    assert!(house.goals.rest().is_empty());
}

#[actix_rt::test]
async fn a_lease_that_cannot_be_written_down_is_none() {
    let house = empty(rules()).await;
    std::fs::create_dir(house.dir.path().join("gpu_lease.json")).unwrap();
    let (_, answer) = house.ask_lease();
    let error = answer.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::Internal);
    house.until_free().await;
    let asked = house.ask("a");
    assert_eq!(house.status().await.state, "loading");
    drop(asked);
}

#[actix_rt::test]
async fn a_lease_that_follows_another_at_once_is_the_one_that_is_written_down() {
    let house = empty(rules()).await;
    let (_, answer) = house.ask_lease();
    answer.await.unwrap().unwrap();
    let (reply, released) = oneshot::channel();
    house.arbiter.do_send(OrderLease { order: release(), reply });
    let (_, again) = house.ask_lease();
    assert!(released.await.unwrap().is_ok());
    assert!(again.await.unwrap().is_ok());
    assert!(house.parts.leases.current().is_some() && house.written().is_some());
}
