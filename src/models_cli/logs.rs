//! `logs NAME`: what an engine or a service writes; `logs chat`: the request log.

use std::time::Duration;

use futures_util::StreamExt;

use super::Tools;
use super::daemon::in_path;
use super::error::CliError;
use super::tail::Following;

/// The request log goes by this name.
const CHAT: &str = "chat";
/// Pieces of an answer come within this of each other.
const SILENCE: Duration = Duration::from_secs(90);

/// Print the log of an engine, by its model, of a service, or the request log.
///
/// `chat` is the request log: one JSON object for each request that has ended. A model or a service
/// that is called `chat` is meant with --backend.
///
/// With -f it goes on with each line as it is written, also over a restart of the engine; a log that
/// is not there yet is waited for. When the daemon ends or the connection breaks, it tries to
/// connect again, says so, and goes on behind the last line, until Ctrl-C, or until the daemon
/// has been away for ten minutes (exit code 4).
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models logs qwen2.5vl_7b
  imageworks-models logs qwen2.5vl_7b -f --lines 10
  imageworks-models logs qwen2.5vl_7b --lines 10000 | grep -i error
  imageworks-models logs chat -f | jq -c '[.ts, .model_logical, .status, .duration_ms]'")]
pub(super) struct Args {
    /// A model that the daemon starts, or a service; `chat`: the request log.
    #[arg(value_name = "NAME")]
    name: String,
    /// NAME is a model or a service, also where it is `chat`.
    #[arg(long)]
    backend: bool,
    /// Go on with what is written.
    #[arg(short, long)]
    follow: bool,
    /// So many of the last lines.
    #[arg(long, value_name = "N", default_value = "100")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000))]
    lines: u32,
}

impl Args {
    fn is_chat(&self) -> bool {
        self.name == CHAT && !self.backend
    }

    fn path(&self) -> String {
        if self.is_chat() {
            return "/v1/logs/chat".to_owned();
        }
        format!("/v1/logs/backends/{}", in_path(&self.name))
    }
}

pub(super) async fn run(args: &Args, tools: &Tools) -> Result<(), CliError> {
    let path = args.path();
    if args.follow {
        let path = format!("{path}?follow=1&lines={}", args.lines);
        let mut log = Following::begin(tools, path).await?;
        loop {
            tools.out.line(&log.next().await?)?;
        }
    }
    let (daemon, path) = (tools.daemon()?, format!("{path}?lines={}", args.lines));
    if !args.is_chat() {
        return tools.out.text(&daemon.text(&path).await?);
    }
    // Conversations may be in it: it is not held as a whole.
    let mut pieces = daemon.open(&path, SILENCE).await?;
    let mut part = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        let whole = piece.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        part.extend_from_slice(&piece[..whole]);
        if whole > 0 {
            tools.out.text(&String::from_utf8_lossy(&part))?;
            part.clear();
        }
        part.extend_from_slice(&piece[whole..]);
    }
    Ok(())
}
