//! Messages to whoever is there now.
//!
//! Owns: a way to an actor that outlives the actor: the address is looked up for each message, for
//! one that is kept may be that of an actor that has died. Must never do: know who the actors are.

use std::sync::Arc;
use std::time::Duration;

use actix::{MailboxError, Message, Recipient};

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
    /// Whoever `find` finds at the moment of use.
    pub fn new(find: impl Fn() -> Option<Recipient<M>> + Send + Sync + 'static) -> Self {
        Port { find: Arc::new(find) }
    }

    /// Always the same one.
    #[cfg(test)]
    pub(crate) fn fixed(recipient: Recipient<M>) -> Self
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
