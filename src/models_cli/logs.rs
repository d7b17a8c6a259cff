//! `logs NAME`: what an engine or a service writes.

use super::Tools;
use super::daemon::in_path;
use super::error::CliError;
use super::tail::Tail;

/// Print the log of an engine, by its model, or of a service.
///
/// With -f it goes on with each line as it is written, also over a restart of the engine, until
/// Ctrl-C or the daemon's end; a log that is not there yet is waited for.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models logs qwen2.5vl_7b
  imageworks-models logs qwen2.5vl_7b -f --lines 10
  imageworks-models logs qwen2.5vl_7b --lines 10000 | grep -i error")]
pub(super) struct Args {
    /// A model that the daemon starts, or a service.
    #[arg(value_name = "NAME")]
    name: String,
    /// Go on with what is written.
    #[arg(short, long)]
    follow: bool,
    /// So many of the last lines.
    #[arg(long, value_name = "N", default_value = "100")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000))]
    lines: u32,
}

pub(super) async fn run(args: &Args, tools: &Tools) -> Result<(), CliError> {
    let daemon = tools.daemon()?;
    if !args.follow {
        let path = format!("/v1/logs/backends/{}?lines={}", in_path(&args.name), args.lines);
        return tools.out.text(&daemon.text(&path).await?);
    }
    let mut tail = Tail::of(&daemon, &args.name, args.lines).await?;
    while let Some(line) = tail.next().await {
        tools.out.line(&line?)?;
    }
    tools.out.note("the daemon has ended");
    Ok(())
}
