//! Where the peers' programs are, and which of them are there. It must never start one.

use std::path::{Path, PathBuf};

use super::Kind;

/// Where the programs are. A name without a slash is looked for in PATH.
#[derive(Clone, clap::Args)]
pub(crate) struct Programs {
    /// The daemon.
    #[arg(long, default_value = "target/release/imageworks-chat-proxy")]
    daemon: PathBuf,
    /// nginx.
    #[arg(long, default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    /// HAProxy.
    #[arg(long, default_value = "/usr/sbin/haproxy")]
    haproxy: PathBuf,
    /// LiteLLM's command.
    #[arg(long, default_value = "litellm")]
    litellm: PathBuf,
    /// The command of Portkey's gateway.
    #[arg(long, default_value = "gateway")]
    portkey: PathBuf,
}

impl Programs {
    /// The daemon alone, for those who measure nothing else.
    pub(crate) fn only_daemon(daemon: &Path) -> Self {
        let none = PathBuf::new();
        Self {
            daemon: daemon.to_owned(),
            nginx: none.clone(),
            haproxy: none.clone(),
            litellm: none.clone(),
            portkey: none,
        }
    }

    /// The program of a peer; the direct way has none.
    pub(crate) fn of(&self, kind: Kind) -> PathBuf {
        match kind {
            Kind::Direct => PathBuf::new(),
            Kind::Nginx => in_path(&self.nginx),
            Kind::Haproxy => in_path(&self.haproxy),
            Kind::Litellm => in_path(&self.litellm),
            Kind::Portkey => in_path(&self.portkey),
            Kind::Imageworks => self.daemon.clone(),
        }
    }

    /// Why a peer has to be left out. The daemon never is: without it, that is a failure.
    pub(crate) fn lacks(&self, kind: Kind) -> Option<String> {
        let program = self.of(kind);
        let optional = !matches!(kind, Kind::Direct | Kind::Imageworks);
        (optional && !program.is_file())
            .then(|| format!("{}: there is no program {}", kind.name(), program.display()))
    }
}

/// The first file of this name in PATH, or the name itself.
fn in_path(program: &Path) -> PathBuf {
    let bare = program.components().count() == 1;
    let folders = std::env::var_os("PATH").filter(|_| bare).unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(program));
    found.into_iter().find(|path| path.is_file()).unwrap_or_else(|| program.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_looked_for_in_the_path_and_others_are_not() {
        assert!(in_path(Path::new("sh")).is_absolute());
        assert_eq!(in_path(Path::new("./sh")), Path::new("./sh"));
        assert_eq!(in_path(Path::new("no-such-program")), Path::new("no-such-program"));
    }

    #[test]
    fn only_others_may_be_left_out() {
        let programs = Programs::only_daemon(Path::new("/no/daemon"));
        assert_eq!(programs.lacks(Kind::Imageworks), None);
        assert_eq!(programs.lacks(Kind::Direct), None);
        assert!(programs.lacks(Kind::Haproxy).is_some_and(|why| why.starts_with("haproxy: ")));
    }
}
