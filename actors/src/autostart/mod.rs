//! Services that are started on demand.

pub mod messages;
