//! Tool calls that a model wrote into its text become real tool calls (SPEC 5.6).
//!
//! Owns: what a written call looks like ([`grammar`]), finding calls in text that comes in pieces
//! ([`scanner`]), which names count ([`offered`]), and how a found call is written for the client
//! ([`assemble`]). Must never do: I/O, hold more text than may still become a call, or make a call
//! of a name that the request did not offer.

pub mod assemble;
pub mod grammar;
pub mod offered;
pub mod scanner;

mod candidate;
mod fences;
mod json;
mod parameters;
mod reader;
mod words;

pub use assemble::CallIds;
pub use grammar::{Piece, split};
pub use offered::{Offered, ToolFields};
pub use scanner::TextScanner;

#[cfg(test)]
mod tests;
