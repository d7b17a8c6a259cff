//! The daemon seen from outside: the real binary as a process, over real sockets, before scripted
//! backends.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]
#![allow(clippy::must_use_candidate, clippy::missing_panics_doc, clippy::missing_errors_doc)]
#![allow(
    clippy::format_push_string,
    clippy::needless_pass_by_value,
    clippy::return_self_not_must_use
)]

mod support;

mod answers;
mod autostart;
mod bodies;
mod by_hand;
mod chat_templates;
mod classes;
mod config;
mod cuts;
mod deaths;
mod deaths_beside;
mod departure;
mod engine_ends;
mod engine_failures;
mod engines;
mod errors;
mod events;
mod fault_matrix;
mod front;
mod heartbeats;
mod hostile;
mod https;
mod https_server;
mod leases;
mod load;
mod log;
mod log_tails;
mod models_cli;
mod models_files;
mod ollama;
mod policies;
mod profiles;
mod reactions;
mod registry;
mod registry_changes;
mod relay;
mod scheduling;
mod shutdown;
mod slow;
mod soak;
mod startup;
mod storm;
mod streaming;
mod survival;
mod swaps;
mod systemd;
mod telemetry;
mod templates;
mod timeouts;
mod traces;
mod troubleshooting;
mod unary;
mod upgrade;
