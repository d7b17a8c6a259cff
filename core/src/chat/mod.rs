//! What a chat request means and what its answer may look like on the way to the client.
//!
//! Owns: the request view and its edits ([`request`]), SSE framing ([`sse`]), what one streamed
//! chunk says ([`chunk`]), and the chain that every streamed answer goes through ([`stream`]);
//! for answers in one piece [`unary`]; Ollama's native protocol to and fro [`ollama`]. Must never
//! do: I/O.

pub mod chunk;
pub mod edits;
pub mod fields;
pub mod harmonise;
pub mod images;
pub mod ollama;
pub mod policy;

pub mod remote;
pub mod request;
pub mod sse;
pub mod stream;
pub mod think;
pub mod tool_calls;
pub mod unary;
pub mod usage;
