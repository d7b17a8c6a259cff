//! Where the actors are.
//!
//! Owns: the book of living addresses, written by [`Root`](crate::root) alone, read for each use:
//! an address that is kept for longer may be that of an actor that has died. Must never do: wait
//! for one; who finds nobody is told so.

use std::sync::Arc;
use std::time::Duration;

use actix::dev::{MessageResponse, ToEnvelope};
use actix::{Actor, Addr, Handler, MailboxError, Message, Recipient};
use arc_swap::ArcSwap;

use crate::gpu_arbiter::GpuArbiter;
use crate::logger::LoggerActor;
use crate::metrics::MetricsActor;
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
    /// Has the rolling view.
    pub metrics: Option<Addr<MetricsActor>>,
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

    /// Writes an address in. Root's right alone.
    pub(crate) fn write(&self, enter: impl Fn(&mut Book)) {
        self.0.rcu(|book| {
            let mut book = Book::clone(book);
            enter(&mut book);
            book
        });
    }
}

/// The other side is not there: it died and its successor is not there yet, or it did not answer
/// in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody is there.
    #[error("the actor is not there")]
    Gone,
    /// It did not answer in time.
    #[error("the actor did not answer in time")]
    Late,
}

impl From<MailboxError> for NoAnswer {
    fn from(error: MailboxError) -> Self {
        match error {
            MailboxError::Closed => NoAnswer::Gone,
            MailboxError::Timeout => NoAnswer::Late,
        }
    }
}

/// Whom a message is for. It looks the address up for each message; tests put a recorder in.
pub struct Port<M: Message + Send>
where
    M::Result: Send,
{
    find: Arc<dyn Fn() -> Option<Recipient<M>> + Send + Sync>,
}

impl<M: Message + Send> Clone for Port<M>
where
    M::Result: Send,
{
    fn clone(&self) -> Self {
        Port { find: self.find.clone() }
    }
}

impl<M> Port<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    /// The actor that `pick` finds in the book.
    pub fn to<A>(
        directory: &Directory,
        pick: impl Fn(&Book) -> Option<Addr<A>> + Send + Sync + 'static,
    ) -> Self
    where
        A: Actor + Handler<M>,
        A::Context: ToEnvelope<A, M>,
        <A as Handler<M>>::Result: MessageResponse<A, M>,
    {
        let directory = directory.clone();
        Port { find: Arc::new(move || pick(&directory.book()).map(Addr::recipient)) }
    }

    /// Always the same one: for tests.
    pub fn fixed(recipient: Recipient<M>) -> Self
    where
        M::Result: Sync,
    {
        Port { find: Arc::new(move || Some(recipient.clone())) }
    }

    /// Tells it, without waiting; the volume must be bounded by its meaning.
    pub fn tell(&self, message: M) -> Result<(), NoAnswer> {
        let recipient = (self.find)().filter(Recipient::connected).ok_or(NoAnswer::Gone)?;
        recipient.do_send(message);
        Ok(())
    }

    /// Asks it, within a bound.
    pub async fn ask(&self, message: M, within: Duration) -> Result<M::Result, NoAnswer> {
        let recipient = (self.find)().ok_or(NoAnswer::Gone)?;
        Ok(recipient.send(message).timeout(within).await?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::metrics::GetRolling;
    use crate::root::fault::Explode;
    use crate::root::{Guard, Role};
    use actix::{Context, ResponseActFuture, WrapFuture};

    const SOON: Duration = Duration::from_secs(5);

    fn enter(directory: &Directory) -> Addr<MetricsActor> {
        let addr = MetricsActor::new(Guard::unwatched(Role::Metrics)).start();
        let entered = addr.clone();
        directory.write(move |book| book.metrics = Some(entered.clone()));
        addr
    }

    #[actix_rt::test]
    async fn a_port_finds_whoever_is_in_the_book_when_it_is_used() {
        let directory = Directory::default();
        let port: Port<GetRolling> = Port::to(&directory, |book| book.metrics.clone());
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
        let port: Port<GetRolling> = Port::to(&directory, |book| book.metrics.clone());
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
