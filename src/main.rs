//! The command line: which of the programs runs (SPEC 1).

mod check;
mod cli;
mod demo;
mod http;
mod life;
mod listen;
mod serve;
mod settings;
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
