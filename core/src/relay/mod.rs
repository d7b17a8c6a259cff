//! Requests that are passed on as they are, but for the model (SPEC 2, second row).
//!
//! Owns: which endpoints there are and how each of them speaks ([`Dialect`]), finding the few
//! fields that matter in a body that comes in pieces ([`JsonScan`], [`MultipartScan`]), the edits
//! that a body needs, and when a streamed answer is whole ([`EventStream`]). Must never do: hold a
//! body, or change a byte that no edit names.

mod dialect;
mod events;
mod json_scan;
mod multipart;
mod scan;

pub use dialect::Dialect;
pub use events::EventStream;
pub use json_scan::JsonScan;
pub use multipart::MultipartScan;
pub use scan::{Edit, Found, Scan};
