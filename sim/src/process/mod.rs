//! Owns the engine as a process: which of its roles this process has, its start and its exit code.
//!
//! The same executable plays all roles; a hidden flag says which. Must never read a request.

mod family;
mod flood;
mod follower;
mod habits;
mod journal;
mod leader;
mod log;
mod sigterm;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use serde_json::{Map, Value};

pub(crate) use family::Family;
pub(crate) use flood::Flood;
pub use habits::Habits;
use habits::Role;
use journal::Journal;
use leader::Leader;
use sigterm::Sigterm;

use crate::engine::runtime;
use crate::life::Life;
use crate::options::{ArgsError, Command, HELP, Options};
use crate::server;

/// Runs an engine as a process, with a command line that lacks the program's name.
///
/// The command line must be the end of the process's own, because children are started with it.
/// It prints one line when it listens, and serves until it is told to end or dies as ordered.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    match Options::from_args(args.iter().cloned()) {
        Ok(Command::Help) => {
            log::say(&mut io::stdout(), HELP.trim_end());
            ExitCode::SUCCESS
        }
        Ok(Command::Serve(options, habits)) => {
            let ended = play(*options, *habits, &args);
            ended.unwrap_or_else(|error| {
                log::error(&error);
                ExitCode::FAILURE
            })
        }
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &ArgsError) -> ExitCode {
    log::say(&mut io::stderr(), &format!("error: {error}"));
    ExitCode::from(2)
}

/// Plays the role that the command line names, to its end.
fn play(options: Options, habits: Habits, args: &[OsString]) -> io::Result<ExitCode> {
    let journal = Journal::open(&habits, options.served.first().map_or("", String::as_str))?;
    let family = Family::new(args, habits.family.clone())?;
    if habits.own_session {
        // First of all: where it is found, it is in its own session.
        nix::unistd::setsid()?;
    }
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let sigterm = Sigterm::listen(&journal)?;
        // Whoever reads this may signal: the process has its habits from here on.
        journal.note("start");
        if habits.role != Role::Leader {
            return follower::follow(&habits, sigterm, &family).await;
        }
        let life = Life::new(habits.crash_after_tokens);
        let core = server::core(options, life, Some(family.clone()));
        Leader::new(core, habits, &journal, family, sigterm).lead().await
    });
    // All sockets are closed before the end is told.
    drop(runtime);
    journal.note("exit");
    Ok(ExitCode::from(code?))
}

/// The variables of this process, for tests that look for what must not be passed on.
pub(crate) fn environment() -> Value {
    let text = |s: OsString| s.to_string_lossy().into_owned();
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value).into()));
    Value::Object(variables.collect::<Map<_, _>>())
}
