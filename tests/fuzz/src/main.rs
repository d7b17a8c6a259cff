//! Runs fuzz bodies without a coverage-guided fuzzer: over given files, or over inputs made at random
//! from a body's corpus.
//!
//! Owns: the command line, and keeping an input that broke a law. Must never do: judge.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use fuzz_bodies::mutate::{Mutator, dictionary};
use fuzz_bodies::{BODIES, Body};

/// Tries the laws of the pure cores on inputs.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the bodies.
    List,
    /// Run a body over files, such as one that a fuzzer has kept.
    Replay {
        /// Which; `list` names them.
        body: String,
        /// What.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Run a body over inputs made from its corpus.
    Random {
        /// Which; `list` names them.
        body: String,
        /// How long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// The same inputs come from the same seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Where an input that breaks a law is put.
        #[arg(long, default_value = "target/fuzz/crashes")]
        keep: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::List => list(),
        Command::Replay { body, files } => named(&body).and_then(|body| replay(body, &files)),
        Command::Random { body, seconds, seed, keep } => {
            named(&body).and_then(|body| random(body, Duration::from_secs(seconds), seed, &keep))
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Nothing is left to do if stderr is closed.
            let _ = writeln!(io::stderr(), "fuzz-bodies: {error}");
            ExitCode::from(2)
        }
    }
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

fn list() -> io::Result<bool> {
    for body in &BODIES {
        say(body.name)?;
    }
    Ok(true)
}

fn named(name: &str) -> io::Result<&'static Body> {
    Body::named(name).ok_or_else(|| io::Error::other(format!("there is no body {name}")))
}

/// Whether the laws hold; what the panic said stands on stderr.
fn holds(body: &Body, bytes: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| body.check(bytes))).is_ok()
}

fn replay(body: &Body, files: &[PathBuf]) -> io::Result<bool> {
    let mut all_hold = true;
    for file in files {
        let bytes = std::fs::read(file)?;
        let held = holds(body, &bytes);
        say(&format!("{} {}", if held { "holds " } else { "BROKEN" }, file.display()))?;
        all_hold &= held;
    }
    Ok(all_hold)
}

fn random(body: &Body, time: Duration, seed: u64, keep: &Path) -> io::Result<bool> {
    let corpus = body.corpus()?.iter().map(std::fs::read).collect::<io::Result<_>>()?;
    let mut mutator = Mutator::new(seed, corpus, dictionary(include_str!("../words.dict")));
    let (begun, mut runs) = (Instant::now(), 0u64);
    while begun.elapsed() < time {
        let input = mutator.make();
        runs += 1;
        if !holds(body, &input) {
            std::fs::create_dir_all(keep)?;
            let file = keep.join(format!("{}-seed-{seed}-run-{runs}", body.name));
            std::fs::write(&file, input)?;
            say(&format!("{}: a law is broken by {}", body.name, file.display()))?;
            return Ok(false);
        }
    }
    let rate = runs / begun.elapsed().as_secs().max(1);
    say(&format!("{}: {runs} inputs, {rate} a second, seed {seed}: all laws hold", body.name))?;
    Ok(true)
}
