//! Owns what an engine does as a process, and the flags that order it.
//!
//! Must never do any of it.

use std::path::PathBuf;
use std::str::FromStr;

use crate::options::{ArgsError, Reader};

/// What an engine does as a process; a well-behaved one unless flags say otherwise.
#[derive(Debug, Clone, Default)]
pub struct Habits {
    /// How long it loads.
    pub(crate) load_ms: u64,
    pub(crate) silent_load: bool,
    pub(crate) never_ready: bool,
    /// It exits with this code while it starts.
    pub(crate) exit: Option<u8>,
    pub(crate) exit_after_ms: u64,
    pub(crate) exit_log: Failure,
    pub(crate) crash_after_tokens: Option<u64>,
    pub(crate) crash_idle_ms: Option<u64>,
    pub(crate) late_child_ms: Option<u64>,
    pub(crate) ignore_sigterm: bool,
    stop_ms: Option<u64>,
    pub(crate) leave_child: Option<Left>,
    pub(crate) hold_port_ms: Option<u64>,
    pub(crate) journal: Option<PathBuf>,
    pub(crate) like_vllm: bool,
    pub(crate) shutdown_timeout_s: u64,
    linger_ms: Option<u64>,
    worker_exit_ms: Option<u64>,
    pub(crate) role: Role,
    /// What all processes of one engine have in common on their command lines.
    pub(crate) family: Option<String>,
    /// The process that started this one.
    pub(crate) parent: Option<u32>,
    /// It leaves the session that it was started in.
    pub(crate) own_session: bool,
}

impl Habits {
    /// How long it takes to end.
    pub(crate) fn stop_ms(&self) -> u64 {
        self.stop_ms.unwrap_or(if self.like_vllm { 300 } else { 0 })
    }

    /// How long a Worker stays behind its EngineCore.
    pub(crate) fn linger_ms(&self) -> u64 {
        self.linger_ms.unwrap_or(2000)
    }

    /// How long the leader stays behind a Worker.
    pub(crate) fn worker_exit_ms(&self) -> u64 {
        self.worker_exit_ms.unwrap_or(5000)
    }

    /// Whether there is anything to tell of its start.
    pub(crate) fn tells_of_loading(&self) -> bool {
        let loads = self.load_ms > 0 || self.never_ready || self.exit.is_some() || self.like_vllm;
        loads && !self.silent_load
    }

    /// Whether there are an EngineCore and a Worker. The failures of arguments come before them.
    pub(crate) fn has_engine(&self) -> bool {
        self.like_vllm && (self.exit.is_none() || self.exit_log == Failure::Oom)
    }

    /// The roles of the processes that are to be there before it is ready.
    pub(crate) fn household(&self) -> Vec<Role> {
        let mut roles = Vec::new();
        if self.has_engine() {
            roles.extend([Role::EngineCore, Role::Worker]);
        }
        roles.extend(self.leave_child.map(|_| Role::Child));
        roles
    }
}

/// A word of the command line that stands for something.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$of])* $variant,)* }

        impl $name {
            /// The word.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                let mut all = [$(Self::$variant),*].into_iter();
                let problem = || format!("choose from {}", [$($word),*].join(", "));
                all.find(|one| one.word() == word).ok_or_else(problem)
            }
        }
    };
}

words! {
    /// What a process is to its engine.
    Role {
        #[default]
        Leader = "leader",
        EngineCore = "engine-core",
        Worker = "worker",
        /// It stays when the others go.
        Child = "child",
        /// It starts the child that has a session of its own.
        Between = "between",
        /// It keeps the listening socket.
        Holder = "holder",
    }
}

words! {
    /// Why an engine exits while it starts.
    Failure {
        #[default]
        Oom = "oom",
        BadPath = "bad-path",
        MaxLen = "max-len",
        Port = "port",
    }
}

words! {
    /// How a child that stays is related to its leader.
    Left {
        /// A child in the leader's group.
        #[default]
        Group = "group",
        /// A grandchild in a session of its own.
        Session = "session",
        /// The same, and the process between them ends at once.
        Daemon = "daemon",
        /// As `daemon`, and without an environment.
        Stray = "stray",
        /// As `session`, without an environment; the process between them stays as well.
        Bare = "bare",
    }
}

impl Left {
    /// Whether the child is started with the leader's environment.
    pub(crate) fn has_environment(self) -> bool {
        !matches!(self, Self::Stray | Self::Bare)
    }
}

impl Reader<'_> {
    /// Takes a flag that orders a habit, and says whether it was one.
    pub(crate) fn habit(&mut self, flag: &str) -> Result<bool, ArgsError> {
        match flag {
            "--sim-load-ms" => self.habits.load_ms = self.parsed(flag)?,
            "--sim-silent-load" => self.habits.silent_load = true,
            "--sim-never-ready" => self.habits.never_ready = true,
            "--sim-wrong-id" => self.options.wrong_id = Some(self.value(flag)?),
            "--sim-health" => self.options.health = self.parsed(flag)?,
            "--sim-exit" => self.habits.exit = Some(self.parsed(flag)?),
            "--sim-exit-after-ms" => self.habits.exit_after_ms = self.parsed(flag)?,
            "--sim-exit-log" => self.habits.exit_log = self.parsed(flag)?,
            "--sim-crash-after-tokens" => {
                self.habits.crash_after_tokens = Some(self.parsed(flag)?);
            }
            "--sim-crash-idle-ms" => self.habits.crash_idle_ms = Some(self.parsed(flag)?),
            "--sim-late-child-ms" => self.habits.late_child_ms = Some(self.parsed(flag)?),
            "--sim-ignore-sigterm" => self.habits.ignore_sigterm = true,
            "--sim-stop-ms" => self.habits.stop_ms = Some(self.parsed(flag)?),
            "--sim-leave-child" => self.habits.leave_child = Some(self.left(flag)?),
            "--sim-hold-port-ms" => self.habits.hold_port_ms = Some(self.parsed(flag)?),
            "--sim-journal" => self.habits.journal = Some(self.value(flag)?.into()),
            "--like-vllm" => self.habits.like_vllm = true,
            "--shutdown-timeout" => self.habits.shutdown_timeout_s = self.parsed(flag)?,
            "--sim-linger-ms" => self.habits.linger_ms = Some(self.parsed(flag)?),
            "--sim-worker-exit-ms" => self.habits.worker_exit_ms = Some(self.parsed(flag)?),
            _ => return self.hidden(flag),
        }
        Ok(true)
    }

    /// The flags with which an engine starts its own children.
    fn hidden(&mut self, flag: &str) -> Result<bool, ArgsError> {
        match flag {
            "--sim-role" => self.habits.role = self.parsed(flag)?,
            "--sim-family" => self.habits.family = Some(self.value(flag)?),
            "--sim-parent" => self.habits.parent = Some(self.parsed(flag)?),
            "--sim-own-session" => self.habits.own_session = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Only what is attached by `=` belongs to this flag, so that a model's name may follow it.
    fn left(&mut self, flag: &str) -> Result<Left, ArgsError> {
        let Some(word) = self.attached() else { return Ok(Left::Group) };
        word.parse().map_err(|problem: String| crate::options::bad(flag, &word, &problem))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::options::{Command, Options};

    fn read(line: &str) -> Result<(Options, Habits), ArgsError> {
        match Options::from_args(line.split(' ').map(Into::into))? {
            Command::Serve(options, habits) => Ok((*options, *habits)),
            Command::Help => panic!("help"),
        }
    }

    #[test]
    fn flags_are_understood_in_both_forms() {
        let (options, habits) = read(
            "serve --sim-load-ms 5 --sim-leave-child m --sim-exit=3 --sim-exit-log max-len \
             --sim_stop_ms=7 --like-vllm --sim-wrong-id=other --sim-health 503 \
             --sim-late-child-ms=40",
        )
        .unwrap();
        assert_eq!((options.root.as_str(), options.health), ("m", 503));
        assert_eq!(options.wrong_id.as_deref(), Some("other"));
        assert_eq!((habits.load_ms, habits.exit, habits.stop_ms()), (5, Some(3), 7));
        assert_eq!((habits.leave_child, habits.exit_log), (Some(Left::Group), Failure::MaxLen));
        assert!(habits.like_vllm && !habits.has_engine());
        assert_eq!(habits.late_child_ms, Some(40));
        let (_, habits) = read("--sim-leave-child=session --like-vllm").unwrap();
        assert_eq!(habits.leave_child, Some(Left::Session));
        assert_eq!(habits.stop_ms(), 300);
        assert_eq!(habits.household(), [Role::EngineCore, Role::Worker, Role::Child]);
    }

    #[test]
    fn own_flags_that_do_not_exist_and_bad_values_are_refused_by_name() {
        for (line, told) in [
            ("--sim-lod-ms 5", "--sim-lod-ms"),
            ("--sim-exit-log fire", "oom, bad-path"),
            ("--sim-leave-child=alone", "group, session, daemon, stray, bare"),
            ("--sim-late-child-ms soon", "soon"),
            ("--sim-late-child-ms", "expected one argument"),
            ("--sim-exit 256", "256"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
