//! Where the actors are.
//!
//! Owns: the book of living addresses, written by [`Root`](crate::root) alone, read for each use:
//! an address that is kept for longer may be that of an actor that has died. Must never do: wait
//! for one; who finds nobody is told so.

use std::sync::Arc;

use actix::dev::{MessageResponse, ToEnvelope};
use actix::{Actor, Addr, Handler, Message};
use arc_swap::ArcSwap;

use crate::autostart::AutostartActor;
use crate::config::ConfigActor;
use crate::gpu_arbiter::GpuArbiter;
use crate::logger::LoggerActor;
use crate::metrics::MetricsActor;
use crate::ollama::OllamaActor;
use crate::port::Port;
use crate::registry::RegistryActor;
use crate::vllm_supervisor::VllmSupervisor;

/// The addresses of one moment.
#[derive(Default, Clone)]
pub struct Book {
    /// Reads and publishes the registry.
    pub registry: Option<Addr<RegistryActor>>,
    /// Says who may use the GPU.
    pub arbiter: Option<Addr<GpuArbiter>>,
    /// Has the vLLM process.
    pub vllm: Option<Addr<VllmSupervisor>>,
    /// Asks Ollama.
    pub ollama: Option<Addr<OllamaActor>>,
    /// Has the services.
    pub autostart: Option<Addr<AutostartActor>>,
    /// Has the rolling view.
    pub metrics: Option<Addr<MetricsActor>>,
    /// Reads and writes the settings file.
    pub config: Option<Addr<ConfigActor>>,
    /// Writes the request log.
    pub logger: Option<Addr<LoggerActor>>,
}

/// The book, for everybody.
#[derive(Default, Clone)]
pub struct Directory(Arc<ArcSwap<Book>>);

impl Directory {
    /// The addresses now.
    pub fn book(&self) -> arc_swap::Guard<Arc<Book>> {
        self.0.load()
    }

    /// A way to the actor that `pick` finds in the book.
    pub fn port<A, M>(
        &self,
        pick: impl Fn(&Book) -> Option<Addr<A>> + Send + Sync + 'static,
    ) -> Port<M>
    where
        A: Actor + Handler<M>,
        A::Context: ToEnvelope<A, M>,
        M: Message + Send + 'static,
        M::Result: Send,
        <A as Handler<M>>::Result: MessageResponse<A, M>,
    {
        let directory = self.clone();
        Port::new(move || pick(&directory.book()).map(Addr::recipient))
    }

    /// Writes an address in. Root's right alone.
    pub(crate) fn write(&self, enter: impl Fn(&mut Book)) {
        self.0.rcu(|book| {
            let mut book = Book::clone(book);
            enter(&mut book);
            book
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::guard::{Guard, Role};
    use crate::metrics::{GetRolling, Samples};
    use crate::port::NoAnswer;
    use crate::root::fault::Explode;
    use actix::{Context, ResponseActFuture, WrapFuture};
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(5);

    fn enter(directory: &Directory) -> Addr<MetricsActor> {
        let addr = MetricsActor::new(Samples::default(), Guard::unwatched(Role::Metrics)).start();
        let entered = addr.clone();
        directory.write(move |book| book.metrics = Some(entered.clone()));
        addr
    }

    #[actix_rt::test]
    async fn a_port_finds_whoever_is_in_the_book_when_it_is_used() {
        let directory = Directory::default();
        let port: Port<GetRolling> = directory.port(|book| book.metrics.clone());
        assert_eq!(port.tell(GetRolling), Err(NoAnswer::Gone));
        assert_eq!(port.ask(GetRolling, SOON).await.err(), Some(NoAnswer::Gone));
        let first = enter(&directory);
        assert!(port.ask(GetRolling, SOON).await.is_ok());
        assert!(first.send(Explode).await.is_err());
        assert_eq!(port.tell(GetRolling), Err(NoAnswer::Gone));
        assert_eq!(port.ask(GetRolling, SOON).await.err(), Some(NoAnswer::Gone));
        let _second = enter(&directory);
        assert_eq!(port.tell(GetRolling), Ok(()));
        assert!(port.ask(GetRolling, SOON).await.is_ok());
    }

    #[actix_rt::test]
    async fn a_question_that_its_actor_dies_over_is_not_answered() {
        let directory = Directory::default();
        let addr = enter(&directory);
        let port: Port<GetRolling> = directory.port(|book| book.metrics.clone());
        addr.do_send(Explode);
        assert_eq!(port.ask(GetRolling, SOON).await.err(), Some(NoAnswer::Gone));
    }

    /// Never answers.
    struct Silent;

    impl Actor for Silent {
        type Context = Context<Self>;
    }

    impl Handler<GetRolling> for Silent {
        type Result = ResponseActFuture<Self, <GetRolling as Message>::Result>;

        fn handle(&mut self, _: GetRolling, _: &mut Self::Context) -> Self::Result {
            Box::pin(std::future::pending().into_actor(self))
        }
    }

    #[actix_rt::test]
    async fn who_does_not_answer_in_time_is_late() {
        tokio::time::pause();
        let port: Port<GetRolling> = Port::fixed(Silent.start().recipient());
        assert_eq!(port.ask(GetRolling, SOON).await.err(), Some(NoAnswer::Late));
    }
}
