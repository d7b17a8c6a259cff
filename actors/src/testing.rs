//! What tests of one actor share: neighbours that record, and launches.
//!
//! Waits are for messages, within a bound that is only met by a defect.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler, Message};
use chat_proxy_core::engine::{EngineRules, Launch};
use chat_proxy_core::registry::{EndpointRules, Placement, Snapshot};
use tokio::sync::mpsc;

use crate::port::Port;

/// No test needs as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A neighbour that keeps what it hears.
struct Recorder<M>(mpsc::UnboundedSender<M>);

impl<M: 'static> Actor for Recorder<M> {
    type Context = Context<Self>;
}

impl<M: Message<Result = ()> + 'static> Handler<M> for Recorder<M> {
    type Result = ();

    fn handle(&mut self, message: M, _: &mut Self::Context) {
        // A test that has ended reads no more.
        let _ = self.0.send(message);
    }
}

/// What a recording neighbour has heard.
pub(crate) struct Inbox<M>(mpsc::UnboundedReceiver<M>);

/// A recording neighbour, and what it hears.
pub(crate) fn recorder<M>() -> (Port<M>, Inbox<M>)
where
    M: Message<Result = ()> + Send + 'static,
{
    let (told, heard) = mpsc::unbounded_channel();
    (Port::fixed(Recorder(told).start().recipient()), Inbox(heard))
}

impl<M: Debug> Inbox<M> {
    /// The next message.
    pub(crate) async fn next(&mut self) -> M {
        tokio::time::timeout(PATIENCE, self.0.recv()).await.expect("no message came").unwrap()
    }

    /// The first message that is wanted; those before it are dropped.
    pub(crate) async fn until<T>(&mut self, what: &str, pick: impl Fn(&M) -> Option<T>) -> T {
        let mut others = Vec::new();
        let wanted = async {
            loop {
                let message = self.0.recv().await.unwrap();
                match pick(&message) {
                    Some(wanted) => return wanted,
                    None => others.push(message),
                }
            }
        };
        let met = tokio::time::timeout(PATIENCE, wanted).await;
        met.unwrap_or_else(|_| panic!("{what} did not come, but {others:?}"))
    }

    /// What has come and was not read.
    pub(crate) fn rest(&mut self) -> Vec<M> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }
}

/// A registry of supervised vLLM models.
pub(crate) fn snapshot(models: &[&str], engine: EngineRules) -> Snapshot {
    let rules = EndpointRules { vllm_single_port: true, engine, ..EndpointRules::default() };
    let entry = |name| format!(r#"{{"name": "{name}", "backend": "vllm"}}"#);
    let entries: Vec<String> = models.iter().map(entry).collect();
    Snapshot::load("r", format!("[{}]", entries.join(",")).as_bytes(), &rules).unwrap()
}

/// How a model is started.
pub(crate) fn launch_of(snapshot: &Snapshot, model: &str) -> Arc<Launch> {
    match snapshot.resolve(model).unwrap().1 {
        Placement::SinglePort(launch) => launch.clone(),
        other => panic!("{other:?}"),
    }
}

/// A launch that is never carried out.
pub(crate) fn launch(model: &str) -> Arc<Launch> {
    launch_of(&snapshot(&[model], EngineRules::default()), model)
}
