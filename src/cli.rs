//! Arguments into programs, outcomes into exit codes.
//!
//! Signals: SIGTERM and SIGINT end it, a second one cuts what still runs; SIGHUP reads settings and
//! registry again; SIGUSR2 hands over to a new binary, without a request lost.
//!
//! Exit codes: 0 good, 1 failed, 2 wrong usage, 78 bad configuration (`EX_CONFIG` of sysexits.h);
//! `imageworks-models` has more, see [`models_cli`].

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::ExitCode;

use chat_proxy_actors::process::descriptors;
use clap::{Parser, Subcommand};

use crate::terminal::say;
use crate::{check, demo, handover, logging, models_cli, serve, settings, sweep};

/// Bad configuration.
pub(crate) const BAD_CONFIGURATION: u8 = 78;

const AFTER_HELP: &str = "\
Configuration: configs/chat_proxy.toml, or the file that CHAT_PROXY_CONFIG_FILE names, and
CHAT_PROXY_* variables, which go before the file. `print-config` shows every value and where it
came from. The log on stderr is filtered by RUST_LOG (default: info); log_format says how it looks.

Signals: SIGTERM and SIGINT end it, a second one cuts what still runs; SIGHUP reads settings and
registry again; SIGUSR2 hands over to a new binary, without a request lost.

Exit codes: 0 good, 1 failed, 2 wrong usage, 78 bad configuration.";

/// One OpenAI-compatible endpoint in front of local LLM engines.
#[derive(Parser)]
#[command(name = "imageworks-chat-proxy", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    program: Option<Program>,
}

#[derive(Subcommand)]
enum Program {
    /// Serve until SIGTERM or Ctrl-C (the default).
    Serve,
    /// Show what the proxy does, with simulated engines: nothing needs to be installed.
    Demo {
        /// Exit after the tour: 0 if every step went well.
        #[arg(long)]
        once: bool,
    },
    /// Check settings and registry; say what is wrong, with file and line.
    CheckConfig,
    /// Show every setting with where it came from.
    PrintConfig,
    /// End the engine that a dead daemon left, when it is not to come back; 0 if nothing is left.
    Sweep {
        /// Only say what is left.
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the JSON Schema of the settings file, for editors and tools.
    ConfigSchema,
    /// Print the JSON Schema of registry files, for editors and tools.
    RegistrySchema,
    /// See and steer the models of a running daemon: `imageworks-models`; see `models --help`.
    #[command(disable_help_flag = true)]
    Models {
        /// The verb, and what it takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// A simulated engine that speaks vLLM's HTTP surface; see `sim-engine --help`.
    #[command(disable_help_flag = true)]
    SimEngine {
        /// vLLM's flags, and the simulator's own.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

pub(crate) fn run() -> ExitCode {
    if is_called(models_cli::NAME) {
        return models_cli::run(models_cli::NAME, std::env::args_os().skip(1));
    }
    let cli = Cli::parse();
    match cli.program.unwrap_or(Program::Serve) {
        Program::Serve => serve_program(),
        Program::Demo { once } => {
            let _logging = logging::start("auto", "warn,notify=error");
            demo::run(once)
        }
        Program::CheckConfig => check::check_config(),
        Program::PrintConfig => check::print_config(),
        Program::Sweep { dry_run } => {
            let _logging = logging::start("auto", "warn");
            match settings::from_process() {
                Ok(loaded) => sweep::run(&loaded.settings, dry_run),
                Err(problems) => {
                    check::complain(&problems);
                    ExitCode::from(BAD_CONFIGURATION)
                }
            }
        }
        Program::ConfigSchema => {
            say(&mut io::stdout(), &format!("{:#}", chat_proxy_core::config::schema()));
            ExitCode::SUCCESS
        }
        Program::RegistrySchema => {
            say(&mut io::stdout(), &format!("{:#}", chat_proxy_core::registry::schema::schema()));
            ExitCode::SUCCESS
        }
        Program::Models { args } => {
            models_cli::run("imageworks-chat-proxy models", args.into_iter())
        }
        Program::SimEngine { args } => sim_engine::run(args.into_iter()),
    }
}

/// Whether the program was called by this name, which a link to it may have.
fn is_called(name: &str) -> bool {
    let called = std::env::args_os().next().unwrap_or_default();
    Path::new(&called).file_name() == Some(OsStr::new(name))
}

fn serve_program() -> ExitCode {
    handover::remember();
    let descriptors = descriptors::raise();
    let source = match settings::source() {
        Ok(source) => source,
        Err(problems) => {
            check::complain(&problems);
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let loaded = &source.loaded;
    let logging = logging::start(&loaded.settings.logging.log_format, "info,notify=error");
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if let Err(error) = descriptors {
        tracing::warn!(%error, "the limit of descriptors cannot be raised");
    }
    let outcome = actix_rt::System::new().block_on(serve::run(source, serve::signals));
    let lost = logging::dropped();
    if lost > 0 {
        tracing::warn!(lost, "lines of this log were lost: nobody took them in time");
    }
    drop(logging);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut io::stderr(), &format!("imageworks-chat-proxy: {error}"));
            match error {
                serve::ServeError::Keys(_)
                | serve::ServeError::Tls(_)
                | serve::ServeError::Profiles(_)
                | serve::ServeError::Open(_) => ExitCode::from(BAD_CONFIGURATION),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
