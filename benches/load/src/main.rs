//! The command line of the load harness: a fast fake engine, a load generator, a few peers, one table.
//! It owns argument parsing and exit codes; it must never measure or serve anything itself.

mod bounds;
mod client;
mod clock;
mod departure;
mod findings;
mod fresh;
mod growth;
mod measure;
mod peers;
mod process;
mod report;
mod rounds;
mod run;
mod silent;
mod stats;
mod swaps;
mod upstream;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Whatever went wrong, in words: a harness has nobody who would match on variants.
pub(crate) type Fault = Box<dyn Error + Send + Sync>;

/// Measures what a streaming chat proxy costs.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve as the fake engine, until a signal.
    Upstream(upstream::Options),
    /// Start the engine and the peers, measure them in turns, print the tables, check the bounds.
    Run(run::Options),
    /// Let the daemon swap two simulated engines: what a swap costs beyond their own stop and load.
    Swaps(swaps::Options),
    /// A steady load for an hour: does the daemon's memory grow, do its answers become slower?
    Growth(growth::Options),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(fault) => {
            // Nothing is left to do if stderr is closed.
            let _ = writeln!(std::io::stderr(), "load: {fault}");
            ExitCode::from(2)
        }
    }
}

/// `Ok(false)` means: measured, and a bound is broken.
fn dispatch(command: Command) -> Result<bool, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        Command::Upstream(options) => runtime.block_on(upstream::serve(&options)).map(|()| true),
        Command::Run(options) => runtime.block_on(run::run(&options)),
        Command::Swaps(options) => swaps::run(&options),
        Command::Growth(options) => runtime.block_on(growth::run(&options)),
    }
}
