#![allow(clippy::unwrap_used)]
//! The settings file on the disk: what a change leaves of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

#[test]
fn a_link_stays_a_link_and_rights_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real.toml"), dir.path().join("link.toml"));
    fs::write(&real, "old").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&real, &link).unwrap();
    replace(&link, "new").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&real).unwrap(), "new");
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no/such/dir/x.toml");
    replace(&path, "new").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    // A directory in its place cannot be replaced by a file.
    let taken = dir.path().join("taken.toml");
    fs::create_dir(&taken).unwrap();
    assert!(replace(&taken, "new").is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
}

#[test]
fn only_settings_are_a_reason_to_look() {
    for (name, matters) in [
        ("/c/chat_proxy.toml", true),
        ("/c/..data", true),
        ("/c/model_registry.json", false),
        ("/c/.chat_proxy.toml.77.new", false),
    ] {
        assert_eq!(files::is_settings(Path::new(name)), matters, "{name}");
    }
}
