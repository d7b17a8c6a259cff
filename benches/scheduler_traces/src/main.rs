//! Runs the traces and prints the table and the bars.
//!
//! Owns: the command line. Must never do: reckon.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use scheduler_traces::report::Report;
use scheduler_traces::table;
use scheduler_traces::traces::{self, Trace};

/// Runs the traces and prints the table and the bars.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Only this trace, as often as wanted.
    #[arg(long)]
    trace: Vec<String>,
    /// What the traces are made from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print a trace as CSV instead: at_ms,model,class,service_ms.
    #[arg(long)]
    print_trace: Option<String>,
    /// All times in so many times less.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    faster: u32,
    /// Exit with 1 if a bar is missed that docs/SCHEDULING.md says is held.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (text, broken) = match args.print_trace.as_deref() {
        Some(name) => match print_trace(&args, name) {
            Ok(text) => (text, false),
            Err(error) => return fail(&error),
        },
        None => match try_all(&args) {
            Ok(tried) => tried,
            Err(error) => return fail(&error),
        },
    };
    if let Err(error) = std::io::stdout().lock().write_all(text.as_bytes()) {
        return fail(&error.to_string());
    }
    if args.check && broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn fail(error: &str) -> ExitCode {
    // Nobody is left to tell of a stderr that is closed.
    let _ = writeln!(std::io::stderr(), "scheduler-traces: {error}");
    ExitCode::from(2)
}

fn asked(args: &Args) -> impl Iterator<Item = Trace> {
    let faster = u64::from(args.faster);
    traces::all(args.seed).into_iter().map(move |trace| trace.faster(faster))
}

/// The table and the bars in words, and whether a bar is missed that should hold.
fn try_all(args: &Args) -> Result<(String, bool), String> {
    let wanted =
        |trace: &Trace| args.trace.is_empty() || args.trace.iter().any(|n| n == trace.name);
    let (mut rows, mut bars, mut broken) = (String::new(), String::new(), false);
    for trace in asked(args).filter(wanted) {
        let report = Report::of(&trace, args.faster)?;
        rows.push_str(&report.lines);
        bars.push_str(&report.bars);
        broken |= report.broken;
    }
    Ok((format!("{}{rows}\n{bars}", table::HEAD), broken))
}

fn print_trace(args: &Args, name: &str) -> Result<String, String> {
    let trace = asked(args).find(|trace| trace.name == name);
    let trace = trace.ok_or_else(|| format!("there is no trace {name}"))?;
    let mut text = String::from("at_ms,model,class,service_ms\n");
    for request in &trace.requests {
        let (at, model, service) = (request.at, request.model, request.service);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{at},{model},{},{service}", request.class.as_str());
    }
    Ok(text)
}
