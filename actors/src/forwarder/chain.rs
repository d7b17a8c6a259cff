//! The chain that a streamed answer goes through, by what it was asked for.
//!
//! Owns: which core it is. Must never do: more than hand bytes over.

use bytes::Bytes;
use chat_proxy_core::chat::ollama::{NativeStream, Nonsense};
use chat_proxy_core::chat::stream::{ChatStream, Incomplete, Progress, Summary};
use chat_proxy_core::relay::EventStream;

use super::answers::AnswerRules;
use super::prepare::Prepared;

/// Why an upstream stream is no whole answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
    #[error("Ollama sent something that is not its protocol: {0}")]
    Nonsense(#[from] Nonsense),
}

/// A streamed answer with `choices`, as it is to leave.
fn stream(prepared: &Prepared) -> ChatStream {
    let AnswerRules { fields, text } = prepared.answer.clone();
    ChatStream::new(prepared.wants_usage).with_fields(fields).with_text(text)
}

/// See the module.
pub(super) enum Chain {
    /// Events with `choices`.
    Chat(ChatStream),
    /// Lines of Ollama, which become such events.
    Native(Box<NativeStream>, ChatStream),
    /// Events of another kind.
    Events(EventStream),
}

impl Chain {
    /// For an answer in the client's own dialect.
    pub(super) fn of(prepared: &Prepared) -> Chain {
        if prepared.dialect.has_choices() {
            return Chain::Chat(stream(prepared));
        }
        Chain::Events(EventStream::new(prepared.dialect))
    }

    /// For an answer in Ollama's own words.
    pub(super) fn native(native: NativeStream, prepared: &Prepared) -> Chain {
        Chain::Native(Box::new(native), stream(prepared))
    }

    /// Takes a chunk from upstream and puts what leaves for the client into `out`.
    pub(super) fn push(&mut self, chunk: &Bytes, out: &mut Vec<Bytes>) -> Result<Progress, Broken> {
        match self {
            Chain::Chat(chat) => Ok(chat.push(chunk, out)?),
            Chain::Events(events) => Ok(events.push(chunk, out)?),
            Chain::Native(native, chat) => {
                let events = native.push(chunk)?;
                Ok(chat.push(&events, out)?)
            }
        }
    }

    /// The upstream body has ended.
    pub(super) fn finish(&mut self, out: &mut Vec<Bytes>) -> Result<Progress, Broken> {
        match self {
            Chain::Chat(chat) => Ok(chat.finish(out)?),
            Chain::Events(events) => Ok(events.finish(out)?),
            Chain::Native(native, chat) => {
                // What came before something that is no line of Ollama's leaves first.
                loop {
                    let events = native.end()?;
                    if events.is_empty() {
                        return Ok(chat.finish(out)?);
                    }
                    let progress = chat.push(&events, out)?;
                    if progress != Progress::Flowing {
                        return Ok(progress);
                    }
                }
            }
        }
    }

    /// What is still held, for an answer that ends here.
    pub(super) fn give_up(&mut self, out: &mut Vec<Bytes>) {
        if let Chain::Chat(chat) | Chain::Native(_, chat) = self {
            out.extend(chat.rest_of_text());
        }
    }

    /// What was learnt so far.
    pub(super) fn summary(&self) -> &Summary {
        match self {
            Chain::Chat(chat) | Chain::Native(_, chat) => chat.summary(),
            Chain::Events(events) => events.summary(),
        }
    }

    /// Whether any event with content has come.
    pub(super) fn has_content(&self) -> bool {
        self.summary().content_events > 0
    }

    /// Whether a body of this content type is such a stream.
    pub(super) fn takes(&self, content_type: &str) -> bool {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |wanted: &str| essence.eq_ignore_ascii_case(wanted);
        match self {
            Chain::Chat(_) | Chain::Events(_) => is("text/event-stream"),
            Chain::Native(..) => {
                is("application/x-ndjson") || is("application/ndjson") || is("application/json")
            }
        }
    }
}
