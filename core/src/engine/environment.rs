//! An engine's environment: the daemon's own without its secrets, and what settings add.
//!
//! Owns: which variables an engine never sees (SPEC 6.1, 10). Must never do: read the process's
//! environment; it is handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

/// The variable that marks an engine and all that it starts: `<state-path hash>:<generation>`.
pub const MARKER: &str = "IMAGEWORKS_ENGINE";

/// Variables by which the service manager speaks to the daemon alone.
const OURS: [&str; 4] =
    ["NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM", "IMAGEWORKS_HANDOVER"];
const OUR_PREFIXES: [&str; 3] = ["CHAT_PROXY_", "WATCHDOG_", "LISTEN_"];

/// The environment of an engine. `secrets` are names of variables that hold keys.
pub fn of_engine(
    own: impl Iterator<Item = (OsString, OsString)>,
    secrets: &BTreeSet<String>,
    on_top: &BTreeMap<String, Option<String>>,
    marker: String,
) -> BTreeMap<OsString, OsString> {
    let mut environment: BTreeMap<OsString, OsString> =
        own.filter(|(name, _)| name.to_str().is_none_or(|name| is_shared(name, secrets))).collect();
    for (name, value) in on_top {
        match value {
            Some(value) => drop(environment.insert(name.into(), value.into())),
            None => drop(environment.remove(&OsString::from(name))),
        }
    }
    environment.insert(MARKER.into(), marker.into());
    environment
}

fn is_shared(name: &str, secrets: &BTreeSet<String>) -> bool {
    !OURS.contains(&name)
        && !OUR_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && !secrets.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_gets_what_it_needs_and_none_of_the_daemons_secrets() {
        let own = [
            "PATH=/bin",
            "HF_HOME=/hf",
            "CHAT_PROXY_API_KEYS=s",
            "UPSTREAM_KEY=s",
            "NOTIFY_SOCKET=s",
            "WATCHDOG_USEC=1",
            "LISTEN_FDS=1",
            "CREDENTIALS_DIRECTORY=/c",
            "IMAGEWORKS_ENGINE=old",
        ];
        let own = own.iter().filter_map(|pair| pair.split_once('='));
        let own = own.map(|(name, value)| (name.into(), value.into()));
        let secrets = BTreeSet::from(["UPSTREAM_KEY".to_owned()]);
        let on_top = BTreeMap::from([
            ("HF_HOME".to_owned(), None),
            ("CUDA_VISIBLE_DEVICES".to_owned(), Some("0".to_owned())),
        ]);
        let got = of_engine(own, &secrets, &on_top, "h:7".to_owned());
        let got: Vec<String> =
            got.iter().map(|(n, v)| format!("{}={}", n.display(), v.display())).collect();
        assert_eq!(got, ["CUDA_VISIBLE_DEVICES=0", "IMAGEWORKS_ENGINE=h:7", "PATH=/bin"]);
    }

    #[test]
    fn what_settings_put_there_on_purpose_stays() {
        let on_top = BTreeMap::from([("UPSTREAM_KEY".to_owned(), Some("meant".to_owned()))]);
        let secrets = BTreeSet::from(["UPSTREAM_KEY".to_owned()]);
        let got = of_engine(std::iter::empty(), &secrets, &on_top, String::new());
        assert_eq!(got[&OsString::from("UPSTREAM_KEY")], "meant");
    }
}
