//! The tails of logs as server-sent events (SPEC 2): reconnects, rotation, slow readers.

mod chat;
mod engines;
mod following;
mod slow;
mod tail;
