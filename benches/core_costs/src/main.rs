//! What the pure stages of a request cost.
//!
//! Owns: the stages ([`stages`]), their limits in instructions, and the image ([`picture`]). Instructions
//! are counted by valgrind, which every machine counts alike; time is not, so only the image has a limit
//! in milliseconds, which `--check` holds to; what telemetry adds ([`telemetry`]). Must never do: measure
//! anything with a socket, a thread or a disk in it.

mod memory;
mod picture;
mod stages;
mod telemetry;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

#[global_allocator]
static MEMORY: memory::Counting = memory::Counting;

/// What the pure stages of a request cost.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Instructions of every stage, counted by valgrind, beside their limits. Exit status 1: one is over.
    Instructions,
    /// One stage, so many times: what valgrind is given.
    Stage {
        /// Its name.
        name: String,
        /// How often.
        times: u32,
    },
    /// A JPEG of 4000 × 3000 pixels as 5 MB of base64: time and memory of scaling it.
    Image {
        /// Exit status 1 if it is over its limits.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let mut out = std::io::stdout();
    let done = match Cli::parse().what {
        What::Instructions => instructions(&mut out),
        What::Stage { name, times } => stages::run(&name, times),
        What::Image { check } => picture::measure(check, &mut out),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    // Who cannot be told has the status.
    let _ = writeln!(std::io::stderr(), "{error}");
    ExitCode::FAILURE
}

fn say(out: &mut impl Write, line: &str) -> Result<(), String> {
    writeln!(out, "{line}").map_err(|error| format!("cannot write: {error}"))
}

/// What telemetry may add to a request, about a tenth above what was counted last.
const MOST_A_REQUEST: u64 = 8_500;
/// And to each chunk: whether the first content has come is asked, and nothing else.
const MOST_A_CHUNK: u64 = 20;

/// Counts each stage once and eleven times: the difference is ten times the stage alone.
fn instructions(out: &mut impl Write) -> Result<(), String> {
    say(out, "| stage | instructions | limit |\n|---|---|---|")?;
    let (mut over, mut all) = (Vec::new(), BTreeMap::new());
    for stage in stages::ALL {
        let counted = (counted(stage.name, 11)? - counted(stage.name, 1)?) / 10;
        say(out, &format!("| {} | {counted} | {} |", stage.what, stage.limit))?;
        if counted > stage.limit {
            over.push(stage.name);
        }
        all.insert(stage.name, counted);
    }
    let added = |watched: &str, alone: &str| all[watched].saturating_sub(all[alone]);
    let (request, long) = (added("watched", "stream"), added("watched-long", "long"));
    let chunk = long.saturating_sub(request) / (640 - 64);
    say(
        out,
        &format!("\nTelemetry adds {request} instructions to a request, and {chunk} to a chunk."),
    )?;
    if request > MOST_A_REQUEST || chunk > MOST_A_CHUNK {
        over.push("telemetry");
    }
    if over.is_empty() { Ok(()) } else { Err(format!("over the limit: {}", over.join(", "))) }
}

fn counted(stage: &str, times: u32) -> Result<u64, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let ran = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(own)
        .args(["stage", stage, &times.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error} (Debian's package is `valgrind`)"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    let line = said.lines().find(|line| line.contains("refs:")).filter(|_| ran.status.success());
    let figure = line.and_then(|line| line.split_whitespace().last());
    figure
        .and_then(|figure| figure.replace(',', "").parse().ok())
        .ok_or_else(|| format!("valgrind counted nothing for {stage}: {said}"))
}
