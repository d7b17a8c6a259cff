//! A service's environment: the daemon's own without its secrets, and what its table adds.
//!
//! Owns: the variable that marks a service and all that it starts. Must never do: read the
//! process's environment; it is handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use crate::engine::environment as engines;

/// The variable that marks a service and all that it starts: `<directory hash>:<service>`.
pub const SERVICE_MARKER: &str = "IMAGEWORKS_SERVICE";

/// The environment of a service. `secrets` are names of variables that hold keys.
pub fn of_service(
    own: impl Iterator<Item = (OsString, OsString)>,
    secrets: &BTreeSet<String>,
    on_top: &BTreeMap<String, String>,
    marker: String,
) -> BTreeMap<OsString, OsString> {
    let on_top = on_top.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
    let mut environment = engines::of_engine(own, secrets, &on_top, String::new());
    environment.remove(&OsString::from(engines::MARKER));
    environment.insert(SERVICE_MARKER.into(), marker.into());
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_marked_as_one_and_sees_none_of_the_daemons_secrets() {
        let own = [
            "PATH=/bin",
            "CHAT_PROXY_API_KEYS=s",
            "KEY=s",
            "NOTIFY_SOCKET=s",
            "IMAGEWORKS_ENGINE=h:1",
            "IMAGEWORKS_SERVICE=other",
        ];
        let own = own.iter().filter_map(|pair| pair.split_once('='));
        let own = own.map(|(name, value)| (name.into(), value.into()));
        let secrets = BTreeSet::from(["KEY".to_owned()]);
        let on_top = BTreeMap::from([("A".to_owned(), "b".to_owned())]);
        let got = of_service(own, &secrets, &on_top, "h:svc".to_owned());
        let got: Vec<String> =
            got.iter().map(|(n, v)| format!("{}={}", n.display(), v.display())).collect();
        assert_eq!(got, ["A=b", "IMAGEWORKS_SERVICE=h:svc", "PATH=/bin"]);
    }
}
