//! The engine as a process of its own. The daemon has the same as a subcommand, whose name is
//! taken here as well, so that tests can be started as the daemon is.

use std::process::ExitCode;

fn main() -> ExitCode {
    let named = std::env::args_os().nth(1).is_some_and(|word| word == "sim-engine");
    sim_engine::run(std::env::args_os().skip(1 + usize::from(named)))
}
