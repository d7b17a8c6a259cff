//! Starts that cannot succeed, and the programs that check settings (SPEC 1, 3.1, 10).

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde_json::json;

use crate::support::daemon::{Ended, entry};
use crate::support::{BOUND, Setup, Upstream, eventually, vllm};

/// What a test itself puts into the directory.
const OURS: [&str; 4] = ["chat_proxy.toml", "registry", "stderr", "stdout"];

#[track_caller]
fn assert_nothing_left_behind(dir: &Path) {
    let names = fs::read_dir(dir).unwrap().map(|item| item.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| !OURS.iter().any(|ours| name == ours)).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert_eq!(fs::read_dir(dir.join("registry")).unwrap().count(), 1);
}

#[track_caller]
fn assert_refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is not in: {}", ended.stderr);
    }
    assert_eq!(ended.stdout, "");
    assert_nothing_left_behind(ended.dir.path());
}

#[test]
fn all_problems_of_the_settings_are_told_together_with_their_places() {
    let text = "[server]\nprot = 1\n\n[timeouts]\nbackend_timeout_ms = \"soon\"\nheartbeat_ms = 1\n[tiemouts]\n";
    let ended = Setup::new()
        .text(text)
        .env("CHAT_PROXY_HEARTBAET_MS", "5")
        .env("CHAT_PROXY_DRAIN_TIMEOUT_S", "-1")
        .run(&[]);
    let words = [
        "chat_proxy.toml:2",
        "prot",
        "port",
        "chat_proxy.toml:5",
        "backend_timeout_ms",
        "chat_proxy.toml:6",
        "[server]",
        "chat_proxy.toml:7",
        "tiemouts",
        "timeouts",
        "CHAT_PROXY_HEARTBAET_MS",
        "CHAT_PROXY_HEARTBEAT_MS",
        "CHAT_PROXY_DRAIN_TIMEOUT_S",
    ];
    assert_refused(&ended, 78, &words);
}

#[test]
fn settings_that_are_no_toml_are_refused_with_the_line() {
    let ended = Setup::new().text("[server]\nport = 1\nhost = = 2\n").run(&["serve"]);
    assert_refused(&ended, 78, &["chat_proxy.toml:3"]);
}

#[test]
fn a_settings_file_that_is_named_must_exist() {
    let ended = Setup::new().env("CHAT_PROXY_CONFIG_FILE", "nowhere.toml").run(&[]);
    assert_refused(&ended, 78, &["CHAT_PROXY_CONFIG_FILE", "nowhere.toml"]);
}

#[test]
fn a_variable_that_is_no_text_is_refused_by_name() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = std::ffi::OsString::from_vec(b"\xff\xfe".to_vec());
    let ended = Setup::new()
        .env_os("CHAT_PROXY_DEFAULT_MODEL", bytes)
        .env("CHAT_PROXY_PORT", "-2")
        .run(&[]);
    assert_refused(&ended, 78, &["CHAT_PROXY_PORT", "CHAT_PROXY_DEFAULT_MODEL"]);
}

#[test]
fn an_open_address_without_keys_is_refused() {
    for host in ["0.0.0.0", "::", "192.0.2.7"] {
        let ended = Setup::new().set("server", "host", format!("{host:?}")).run(&[]);
        assert_refused(&ended, 78, &["chat_proxy.toml:", "api_keys", "allow_unauthenticated"]);
    }
    let upstream = Upstream::streaming(vllm::stream(&["a"]));
    let open = || Setup::with(&upstream).set("server", "host", "\"0.0.0.0\"");
    let daemon = open().set("security", "allow_unauthenticated", true).start();
    assert!(daemon.addr().ip().is_unspecified());
    open().set("security", "api_keys", "[{ name = \"a\", key = \"b\" }]").start();
}

#[test]
fn a_taken_port_fails_with_a_clear_message() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap();
    let ended = Setup::new().set("server", "port", addr.port()).run(&[]);
    assert_refused(&ended, 1, &[&addr.to_string(), "CHAT_PROXY_PORT"]);
}

#[test]
fn a_log_that_cannot_be_written_fails_the_start() {
    // A file stands where the directory should be: not even root gets past that.
    let ended = Setup::new().set("server", "log_path", "\"chat_proxy.toml/chat.jsonl\"").run(&[]);
    assert_refused(&ended, 1, &["chat_proxy.toml/chat.jsonl"]);
}

#[test]
fn a_key_that_cannot_be_had_fails_the_start_by_name() {
    let keys = "[{ name = \"gui\", key_env = \"NO_SUCH_KEY\" }]";
    let ended = Setup::new().set("security", "api_keys", keys).run(&[]);
    assert!(matches!(ended.code, Some(1 | 78)), "{:?}", ended.code);
    assert!(
        ended.stderr.contains("gui") && ended.stderr.contains("NO_SUCH_KEY"),
        "{}",
        ended.stderr
    );
    assert_nothing_left_behind(ended.dir.path());
}

#[test]
fn wrong_usage_is_exit_2() {
    assert_eq!(Setup::new().run(&["serv"]).code, Some(2));
    assert_eq!(Setup::new().run(&["--no-such-flag"]).code, Some(2));
    let help = Setup::new().run(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("78") && help.stdout.contains("check-config"), "{}", help.stdout);
}

#[test]
fn a_free_port_is_announced_on_stdout_and_in_its_file() {
    let upstream = Upstream::streaming(vllm::stream(&["a"]));
    let daemon = Setup::with(&upstream).start();
    let text = fs::read_to_string(daemon.path("_staging/chat_proxy.port")).unwrap();
    assert_eq!(text.trim(), daemon.addr().port().to_string());
    daemon.assert_serves();
    assert!(daemon.more_stdout().is_empty(), "one line");
}

#[test]
fn service_links_of_container_platforms_are_ignored_with_one_warning() {
    let daemon = Setup::new()
        .env("CHAT_PROXY_PORT", "tcp://10.0.0.1:8100")
        .env("CHAT_PROXY_PORT_8100_TCP_ADDR", "10.0.0.1")
        .env("CHAT_PROXY_SERVICE_HOST", "10.0.0.1")
        .start();
    daemon.assert_serves();
    // What is said later is written later.
    eventually("it listens", BOUND, || daemon.stderr().contains("\"listening\"").then_some(()));
    let warnings: Vec<String> =
        daemon.stderr().lines().filter(|l| l.contains("service link")).map(str::to_owned).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("CHAT_PROXY_SERVICE_HOST"));
}

#[test]
fn check_config_says_good_and_which_profiles_hold() {
    let upstream = Upstream::streaming(vllm::stream(&["a"]));
    for (setup, profile) in [
        (Setup::with(&upstream).set("profiles", "profile", "\"auto\""), "development"),
        (Setup::with(&upstream).env("CHAT_PROXY_PROFILE", "balanced_24gb"), "balanced_24gb"),
    ] {
        let ended = setup.run(&["check-config"]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let said = &ended.stdout;
        assert!(said.contains(&format!("profiles: production, {profile}")), "{said}");
        assert!(said.contains("1 models") && said.contains("good"), "{said}");
        assert_nothing_left_behind(ended.dir.path());
    }
}

#[test]
fn check_config_fails_on_settings_and_on_registry_entries_that_are_wrong() {
    let ended = Setup::new().text("[server]\nprot = 1\n").run(&["check-config"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("chat_proxy.toml:2"), "{}", ended.stderr);
    let upstream = Upstream::streaming(vllm::stream(&["a"]));
    let bad =
        json!({"name": "bad-one", "backend": "openai", "backend_config": {"base_url": "ftp://x"}});
    let ended = Setup::new().entry(entry("good-one", &upstream)).entry(bad).run(&["check-config"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.contains("bad-one") && ended.stderr.contains("base_url"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains("good-one"), "{}", ended.stderr);
}

#[test]
fn print_config_tells_every_value_and_where_it_came_from_but_no_secret() {
    let ended = Setup::new()
        .set("server", "drain_timeout_s", 7)
        .set("server", "heartbeat_ms", 1)
        .set("security", "api_keys", "[{ name = \"gui\", key = \"s3cret-one\" }]")
        .env("CHAT_PROXY_HEARTBEAT_MS", "1234")
        .run(&["print-config"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let line = |key: &str| {
        let found = ended.stdout.lines().find(|l| l.starts_with(&format!("{key} ")));
        found.unwrap_or_else(|| panic!("{key} is not in {}", ended.stdout)).to_owned()
    };
    assert!(
        line("drain_timeout_s").contains('7')
            && line("drain_timeout_s").contains("chat_proxy.toml:")
    );
    assert!(
        line("heartbeat_ms").contains("1234")
            && line("heartbeat_ms").contains("CHAT_PROXY_HEARTBEAT_MS")
    );
    assert!(line("keep_alive_s").contains("75") && line("keep_alive_s").contains("default"));
    assert!(line("default_model").contains("unset"));
    let ended_env =
        Setup::new().env("CHAT_PROXY_API_KEYS", "admin:s3cret-two").run(&["print-config"]);
    let all = [&ended.stdout, &ended.stderr, &ended_env.stdout, &ended_env.stderr];
    assert!(all.iter().all(|text| !text.contains("s3cret")), "{all:?}");
    assert_eq!(ended_env.code, Some(0));
}

#[test]
fn a_secret_in_a_broken_setting_is_not_shown() {
    for keys in [
        "[{ name = \"gui\", key = \"s3cret\", rihgts = [\"chat\"] }]",
        "[{ name = \"gui\", key = [\"s3cret\"] }]",
        "\"s3cret\"",
    ] {
        let ended = Setup::new().set("security", "api_keys", keys).run(&[]);
        assert_eq!(ended.code, Some(78), "{}", ended.stderr);
        assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
        assert!(ended.stderr.contains("api_keys"), "{}", ended.stderr);
    }
}

#[test]
fn a_registry_that_is_missing_or_broken_serves_nothing_but_says_why() {
    let daemon = Setup::new().set("server", "registry_dir", "\"elsewhere\"").start();
    let ready = crate::support::Ask::get("/v1/readyz").reply(daemon.addr());
    assert_eq!(ready.status(), 503);
    assert!(ready.text().contains("elsewhere"), "{}", ready.text());
    daemon.assert_serves();
    let reply = crate::support::Ask::chat(vllm::ask(true)).reply(daemon.addr());
    reply.error(404, "err_model_not_found");
}
