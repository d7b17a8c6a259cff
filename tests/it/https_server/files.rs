//! What can be wrong with certificate and key at the start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::{OTHER, SERVER, put, serving};
use crate::support::{Daemon, Setup, eventually};

/// Starts a daemon that must refuse; `what` it must say, in one line with the file.
#[track_caller]
fn refused(change: impl Fn(&Setup), place: &str, what: &str) {
    let broken = || {
        let setup = serving(Setup::new(), &SERVER);
        change(&setup);
        setup
    };
    for (args, code) in [(&[][..], 78), (&["check-config"], 1)] {
        let ended = broken().run(args);
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.stderr);
        let told = |line: &str| line.contains(place) && line.contains(what);
        assert!(ended.stderr.lines().any(told), "{place}, {what}: {}", ended.stderr);
        assert!(!ended.stdout.contains("listening"), "{}", ended.stdout);
    }
}

#[test]
fn each_way_in_which_the_files_are_wrong_stops_the_start_with_its_reason() {
    let (cert, key) =
        ("[security] tls_cert_file: certs/tls.crt:", "[security] tls_key_file: certs/tls.key:");
    let write = |name: &'static str, text: &'static str| {
        move |setup: &Setup| fs::write(setup.path("certs").join(name), text).unwrap()
    };
    let remove = |name: &'static str| {
        move |setup: &Setup| fs::remove_file(setup.path("certs").join(name)).unwrap()
    };
    refused(remove("tls.crt"), cert, "cannot be read: No such file");
    refused(remove("tls.key"), key, "cannot be read: No such file");
    let dir = |setup: &Setup| {
        fs::remove_file(setup.path("certs/tls.key")).unwrap();
        fs::create_dir(setup.path("certs/tls.key")).unwrap();
    };
    refused(dir, key, "cannot be read: Is a directory");
    refused(write("tls.crt", ""), cert, "holds no certificate");
    refused(write("tls.crt", SERVER.key), cert, "holds no certificate");
    refused(write("tls.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n"), cert, "is no proper PEM");
    let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    refused(write("tls.crt", rubbish), cert, "its first certificate cannot be read");
    refused(write("tls.key", ""), key, "holds no private key");
    refused(write("tls.key", SERVER.cert), key, "holds no private key");
    refused(write("tls.key", "-----BEGIN PRIVATE KEY-----\nAA"), key, "is no proper PEM");
    let rubbish = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    refused(write("tls.key", rubbish), key, "cannot be used");
    refused(
        write("tls.key", OTHER.key),
        key,
        "does not belong to the first certificate in certs/tls.crt",
    );
    let encrypted = include_str!("../support/tls/encrypted.key");
    refused(write("tls.key", encrypted), key, "is encrypted");
    let old = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n";
    refused(write("tls.key", old), key, "is encrypted");
    let large = |setup: &Setup| {
        fs::File::create(setup.path("certs/tls.key")).unwrap().set_len(2 << 20).unwrap();
    };
    refused(large, key, "too large");
}

#[test]
fn one_of_the_two_keys_alone_is_told_with_the_other() {
    for half in ["tls_cert_file", "tls_key_file"] {
        let ended = Setup::new().set("security", half, "\"x.pem\"").run(&[]);
        assert_eq!(ended.code, Some(78), "{}", ended.stderr);
        let both = |line: &str| line.contains("tls_cert_file") && line.contains("tls_key_file");
        assert!(ended.stderr.lines().any(both), "{}", ended.stderr);
    }
}

#[test]
fn a_key_that_others_can_read_is_warned_of_and_one_of_ours_alone_is_not() {
    let warning = "others than its owner can read the private key";
    let setup = serving(Setup::new(), &SERVER);
    fs::set_permissions(setup.path("certs/tls.key"), PermissionsExt::from_mode(0o644)).unwrap();
    // The log is written in its own time, and in order: what is warned of stands before this.
    let said = |daemon: &Daemon| {
        eventually("the log", Duration::from_secs(5), || {
            Some(daemon.stderr()).filter(|text| text.contains("\"listening\""))
        })
    };
    let stderr = said(&setup.start());
    assert!(stderr.contains(warning) && stderr.contains("chmod 600"), "{stderr}");
    let daemon = serving(Setup::new(), &SERVER).start();
    assert!(!said(&daemon).contains(warning));
}

#[test]
fn one_file_may_hold_both() {
    let setup = Setup::new();
    put(&setup.path("both.pem"), &format!("{}{}", OTHER.key, OTHER.cert));
    let daemon = setup
        .set("security", "tls_cert_file", "\"both.pem\"")
        .set("security", "tls_key_file", "\"both.pem\"")
        .start();
    let shown = crate::support::tls_client::shown(daemon.addr());
    assert_eq!(shown, crate::support::tls_client::certificate(OTHER.cert));
}
