//! The engine as a process: `cargo run -p sim-engine --example serve -- --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sim_engine::run(std::env::args_os().skip(1))
}
