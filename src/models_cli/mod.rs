//! `imageworks-models`: the operator's command line (SPEC 9).
//!
//! Owns: the verbs, one file each; what all of them share: where the daemon is ([`place`]), how it
//! is asked ([`daemon`]), what is shown ([`output`]), exit codes ([`error`]). Must never do: start
//! or stop an engine by itself: only the daemon does, by its API. The registry's files are read
//! where no daemon runs, and written by the verbs that are about them ([`files`]).

mod activate;
mod backends;
mod completions;
mod current;
mod daemon;
mod error;
mod files;
mod import_ollama;
mod list;
mod lock;
mod logs;
mod metrics;
mod model;
mod normalize;
mod output;
mod place;
mod probe_vision;
mod progress;
mod select;
mod show;
mod table;
mod tail;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use daemon::Daemon;
use error::CliError;
use output::Output;
use place::Place;

/// The name under which the same binary is this program.
pub(crate) const NAME: &str = "imageworks-models";

const AFTER_HELP: &str = "\
Where the daemon is: --url, or IMAGEWORKS_PROXY_URL, or else what the settings say that a daemon \
started in this directory would listen at. Which key is sent: --api-key, or IMAGEWORKS_API_KEY, \
or else the first admin key of the settings whose secret can be read here (never to another \
machine).

Exit codes:
  0    good
  1    failed
  2    wrong usage
  3    not found: no such model or role, or nothing is resident
  4    the daemon cannot be reached
  5    refused: by rights, by a lease, or because the model cannot do it
  130  interrupted

With --json an error is also an object on stdout: {\"error\": {\"message\": …, \"code\": …, \"hint\": …}}.";

/// See and steer the models of a chat proxy.
#[derive(Parser)]
#[command(name = NAME, version, after_help = AFTER_HELP, subcommand_required = true)]
#[command(arg_required_else_help = true, propagate_version = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Args)]
struct Global {
    /// The daemon's address, such as http://127.0.0.1:8100.
    #[arg(long, global = true, env = "IMAGEWORKS_PROXY_URL", value_name = "URL")]
    #[arg(value_parser = place::parse_url)]
    url: Option<place::Url>,
    /// The key to be sent; better by the variable, for arguments are seen by everybody.
    #[arg(long, global = true, env = "IMAGEWORKS_API_KEY", value_name = "KEY")]
    #[arg(hide_env_values = true)]
    api_key: Option<String>,
    /// Answer in JSON, for scripts.
    #[arg(long, global = true)]
    json: bool,
    /// How long the daemon may take for an answer, in seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30")]
    #[arg(value_parser = seconds)]
    timeout: Duration,
}

/// What to do.
#[derive(Subcommand)]
enum Verb {
    List(list::Args),
    Show(show::Args),
    Select(select::Args),
    ActivateModel(activate::Args),
    CurrentModel(current::Args),
    ProbeVision(probe_vision::Args),
    Verify(verify::Args),
    Lock(lock::LockArgs),
    Unlock(lock::UnlockArgs),
    NormalizeFormats(normalize::Args),
    ImportOllama(import_ollama::Args),
    Metrics(metrics::Args),
    Backends(backends::Args),
    Logs(logs::Args),
    Completions(completions::Args),
}

/// What verbs work with.
struct Tools {
    place: Place,
    timeout: Duration,
    out: Output,
}

impl Tools {
    fn daemon(&self) -> Result<Daemon, CliError> {
        Ok(Daemon::new(self.place.address()?, self.timeout))
    }
}

impl Verb {
    async fn run(self, tools: &Tools) -> Result<(), CliError> {
        match self {
            Verb::List(args) => list::run(&args, tools).await,
            Verb::Show(args) => show::run(&args, tools).await,
            Verb::Select(args) => select::run(&args, tools).await,
            Verb::ActivateModel(args) => activate::run(&args, tools).await,
            Verb::CurrentModel(args) => current::run(&args, tools).await,
            Verb::ProbeVision(args) => probe_vision::run(&args, tools).await,
            Verb::Verify(args) => verify::run(&args, tools),
            Verb::Lock(args) => lock::lock(&args, tools),
            Verb::Unlock(args) => lock::unlock(&args, tools),
            Verb::NormalizeFormats(args) => normalize::run(&args, tools),
            Verb::ImportOllama(args) => import_ollama::run(&args, tools).await,
            Verb::Metrics(args) => metrics::run(&args, tools).await,
            Verb::Backends(args) => backends::run(&args, tools).await,
            Verb::Logs(args) => logs::run(&args, tools).await,
            Verb::Completions(args) => completions::run(&args, &tools.out),
        }
    }
}

/// Runs it; `name` is how it was called, `args` what follows that.
pub(crate) fn run(name: &str, args: impl Iterator<Item = OsString>) -> ExitCode {
    let line = std::iter::once(OsString::from(name)).chain(args);
    let parsed = Cli::command().bin_name(name).try_get_matches_from(line);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is its reader's choice.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    let Global { url, api_key, json, timeout } = cli.global;
    let tools = Tools { place: Place::new(url, api_key), timeout, out: Output::of_process(json) };
    let outcome = actix_rt::System::new().block_on(cli.verb.run(&tools));
    ExitCode::from(outcome.map_or_else(|error| tools.out.fail(&error), |()| 0))
}

/// Seconds that somebody may wait.
fn seconds(text: &str) -> Result<Duration, String> {
    let read = text.parse().ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
    let good = read.filter(|time| !time.is_zero() && *time <= Duration::from_secs(7 * 86_400));
    good.ok_or_else(|| "a number of seconds above 0, and not more than a week".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_every_verb_has_an_example() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let help = verb.clone().render_long_help().to_string();
            assert!(help.contains("Example"), "{help}");
            assert!(help.contains(&format!("{NAME} {}", verb.get_name())), "{help}");
        }
    }

    #[test]
    fn waits_have_bounds() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for bad in ["0", "-1", "1e9", "NaN", "inf", "soon", ""] {
            seconds(bad).unwrap_err();
        }
    }
}
