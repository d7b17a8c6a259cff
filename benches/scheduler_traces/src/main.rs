//! Runs the traces and prints the table and the bars.
//!
//! Owns: the command line. Must never do: reckon.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use scheduler_traces::baselines::Baseline;
use scheduler_traces::policy::{Policy, Production, rules};
use scheduler_traces::table::{self, Line};
use scheduler_traces::traces::{self, Trace};
use scheduler_traces::world;

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

/// Bars that the policy misses, as docs/SCHEDULING.md says, by trace and the beginning of the bar.
const MISSED: &[(&str, &str)] = &[
    // People ask for another model as often as they do: each fifth swap only would leave them waiting.
    ("two-light-3s", "strict order"),
    ("two-bursty-20s", "strict order"),
    ("three-bursty-60s-bg", "strict order"),
    ("three-light-20s-bg", "strict order"),
    ("two-uneven-20s", "strict order"),
    // Each visit to the background's model comes at its bound of 600 s.
    ("three-bursty-60s-bg", "resident first"),
    // A steeper price meets it, but people wait longer and nothing more gets done.
    ("three-saturated-3s-bg", "resident first"),
];

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
        let (lines, missed, text) = try_trace(&trace, args.faster)?;
        rows.push_str(&lines);
        bars.push_str(&text);
        broken |= missed;
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

/// The table's lines, whether a bar is missed that should hold, and the bars in words.
fn try_trace(trace: &Trace, faster: u32) -> Result<(String, bool, String), String> {
    let mut ours = Production::new(trace.loads.len(), rules(faster))?;
    let (mut strict, mut resident) = (Baseline::strict(), Baseline::resident_first());
    let policies: [&mut dyn Policy; 3] = [&mut ours, &mut strict, &mut resident];
    let lines =
        policies.map(|policy| Line { policy: policy.name(), outcome: world::run(trace, policy) });
    let bounds = [120_000, 600_000].map(|bound: u64| bound / u64::from(faster));
    let [us, them, others] = &lines;
    let bars = table::bars(trace, &us.outcome, &them.outcome, &others.outcome, bounds);
    let mut text = format!("{} ({}):\n", trace.name, trace.about);
    let mut broken = false;
    for bar in &bars {
        let known =
            MISSED.iter().any(|(name, what)| *name == trace.name && bar.what.contains(what));
        broken |= !bar.holds && !known;
        let word = if bar.holds { "holds" } else { "MISSED" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "- {word}: {}", bar.what);
    }
    Ok((table::lines(trace, &lines), broken, text))
}
