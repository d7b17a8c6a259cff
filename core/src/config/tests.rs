//! Settings from hand-written files and environments.
#![allow(clippy::unwrap_used)]

use super::*;

mod changing;

fn file(text: &str) -> Result<Loaded, Vec<String>> {
    with_env(text, &[])
}

fn with_env(text: &str, env: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    let input = Input {
        file: (!text.is_empty()).then(|| ("c.toml".to_owned(), text.to_owned())),
        env: env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
    };
    load(&input).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn defaults_are_those_of_the_specification() {
    let loaded = file("").unwrap();
    let s = &loaded.settings;
    assert_eq!((s.server.host.as_str(), s.server.port), ("127.0.0.1", 8100));
    assert_eq!(s.timeouts.backend_timeout_ms, Millis(120_000));
    assert_eq!(s.timeouts.stream_idle_timeout_ms, Millis(60_000));
    assert_eq!(s.timeouts.unary_timeout_ms, Millis(1_200_000));
    assert_eq!(s.server.log_path, "logs/chat_proxy.jsonl");
    assert_eq!(s.server.max_log_bytes, 25_000_000);
    assert_eq!(s.limits.max_body_bytes, 64 << 20);
    assert_eq!(s.limits.max_buffered_bytes, 512 << 20);
    assert_eq!(s.vllm.vllm_max_model_len, None);
    assert_eq!(s.vllm.vllm_command, None);
    assert_eq!(s.vision_preprocess.vision_downscale_backends, ["vllm"]);
    assert_eq!(s.scheduler.max_queue_depth, 512);
    assert!(s.security.api_keys.is_empty());
    assert!(loaded.origins.values().all(|o| *o == Origin::Default));
}

/// Each name and default of SPEC 3.2, typed off by hand.
#[test]
fn every_key_of_the_specification_exists_with_its_default() {
    let spec = "host=\"127.0.0.1\" port=8100 enable_metrics=false log_path=\"logs/chat_proxy.jsonl\" \
        max_log_bytes=25000000 log_prompts=false backend_timeout_ms=120000 stream_idle_timeout_ms=60000 \
        autostart_enabled=true autostart_map=unset autostart_grace_period_s=120.0 require_template=true \
        max_image_bytes=6000000 auto_downscale_images=true max_image_pixels=448 image_jpeg_quality=85 \
        vision_downscale_backends=[\"vllm\"] disable_tool_normalization=false suppress_decorations=true \
        include_non_installed=false include_test_models=false loopback_alias=unset registry_dir=\"configs\" \
        profile=\"auto\" deployment=\"production\" vllm_single_port=true vllm_port=24001 \
        vllm_state_path=\"_staging/active_vllm.json\" vllm_start_timeout_s=600.0 vllm_stop_timeout_s=30.0 \
        vllm_health_timeout_s=180.0 vllm_gpu_memory_utilization=0.75 vllm_max_model_len=unset \
        vllm_remote_url=unset vllm_executor_cwd=unset vllm_health_host=\"127.0.0.1\" \
        vllm_restart_backoff_s=2.0 vision_truncate_history=true vision_keep_system=true \
        vision_keep_last_n_turns=0 reasoning_truncate_history=false reasoning_keep_system=true \
        reasoning_keep_last_n_turns=1 ollama_base_url=\"http://127.0.0.1:11434\" ollama_stop_timeout_s=30.0 \
        ollama_allow_cpu_fallback=false schema_version=1 template_dir=\"chat_templates\" vllm_command=unset \
        default_model=unset heartbeat_ms=10000 client_write_timeout_s=30.0 drain_timeout_s=60.0 \
        swap_drain_timeout_s=0.0 max_swap_wait_s=120.0 background_swap_wait_s=600.0 max_queue_depth=512 \
        max_queue_wait_s=600.0 max_buffered_bytes=536870912 body_spool_bytes=1048576 \
        unary_timeout_ms=1200000 first_token_timeout_ms=600000 idle_unload_s=0.0 preload=[] \
        allowed_hosts=[] cors_origins=[] max_concurrent_per_model=0 max_log_files=5 \
        max_body_bytes=67108864 lease_wait=false fetch_remote_images=false strict_capabilities=false \
        reasoning_format=\"keep\" reasoning_field=\"both\" keep_backends_on_exit=false \
        allow_unauthenticated=false api_keys=[] abandoned_load_grace_s=unset loading_stop_grace_s=3.0 \
        background_idle_s=20.0 breaker_failures=3 breaker_window_s=600.0 breaker_open_s=60.0 \
        health_interval_s=5.0 health_probe_timeout_s=5.0 health_failures=3 vllm_log_max_bytes=25000000 \
        lease_drain_timeout_s=120.0 ollama_load_timeout_s=300.0 fetch_remote_images_private=false \
        max_decode_pixels=100000000 client_header_timeout_s=15.0 keep_alive_s=75.0 max_connections=4096 \
        metrics_public=false";
    let loaded = file("").unwrap();
    for pair in spec.split_whitespace() {
        let (name, default) = pair.split_once('=').unwrap();
        let value = loaded.values.get(name).unwrap_or_else(|| panic!("no key {name}"));
        let value = if value.is_null() { "unset".to_owned() } else { value.to_string() };
        assert_eq!(value, default, "{name}");
    }
    // Beyond the specification's list: tables, what [security] needs for HTTPS, and what it says of
    // Ollama without naming a key.
    let further = [
        "autostart_stop_timeout_s",
        "services",
        "vllm_env",
        "tls_cert_file",
        "tls_key_file",
        "ollama_shares_gpu",
        "ollama_keep_alive",
        "max_spooled_bytes",
        "background_rules",
        "log_format",
    ];
    let named = spec.split_whitespace().count();
    assert_eq!(KEYS.len(), named + further.len(), "{further:?}");
}

#[test]
fn environment_beats_file_beats_default() {
    let text = "[server]\nport = 1\nhost = \"localhost\"\n";
    let loaded = with_env(text, &[("CHAT_PROXY_PORT", "2"), ("HOME", "/x")]).unwrap();
    assert_eq!(
        (loaded.settings.server.port, loaded.settings.server.host.as_str()),
        (2, "localhost")
    );
    assert_eq!(loaded.origins["port"], Origin::Env("CHAT_PROXY_PORT".into()));
    assert_eq!(loaded.origins["host"], Origin::File { path: "c.toml".into(), line: 3 });
    assert_eq!(loaded.origins["log_path"], Origin::Default);
}

#[test]
fn all_problems_are_reported_together_with_their_places() {
    let text = "[server]\nprot = 8100\nport = \"x\"\nvllm_port = 5\n\n[servr]\na = 1\n[limits]\nreasoning_format = \"loud\"\n";
    let env = [("CHAT_PROXY_HEARTBEET_MS", "1"), ("CHAT_PROXY_LOG_PROMPTS", "perhaps")];
    let problems = with_env(text, &env).unwrap_err();
    assert_eq!(
        problems,
        [
            "c.toml:2: there is no key prot; did you mean port in [server]?",
            "c.toml:3: port: expected a whole number from 0 to 65535, found string",
            "c.toml:4: vllm_port belongs in [vllm], not in [server]",
            "c.toml:6: there is no section [servr]; did you mean [server]?",
            "c.toml:9: reasoning_format: expected one of keep, extract, strip, found \"loud\"",
            "CHAT_PROXY_HEARTBEET_MS: there is no such setting; did you mean CHAT_PROXY_HEARTBEAT_MS?",
            "CHAT_PROXY_LOG_PROMPTS: expected true or false, found \"perhaps\"",
        ]
    );
}

#[test]
fn a_file_that_is_not_toml_says_where() {
    let problems = file("[server]\nport = = 3\n").unwrap_err();
    assert!(problems[0].starts_with("c.toml:2: not TOML: "), "{problems:?}");
}

#[test]
fn settings_of_existing_installs_load_as_they_are() {
    let text = r#"
[general]
schema_version = 1
[server]
host = "127.0.0.1"
log_path = "logs/x.jsonl"
max_log_bytes = 1000000
enable_metrics = true
[autostart]
autostart_map_raw = "vllm:qlora-prod,ollama:color-narrator"
[vllm]
vllm_max_model_len = ""
vllm_remote_executor_url = ""
vllm_executor_workdir = "/srv"
vllm_stop_timeout_s = 12
[misc]
loopback_alias = ""
log_prompts = true
"#;
    let s = file(text).unwrap().settings;
    assert_eq!(s.autostart.autostart_map.as_deref(), Some("vllm:qlora-prod,ollama:color-narrator"));
    assert_eq!((s.vllm.vllm_max_model_len, s.general.loopback_alias), (None, None));
    assert_eq!(s.vllm.vllm_executor_cwd.as_deref(), Some("/srv"));
    assert!(s.logging.log_prompts);
}

#[test]
fn the_guides_own_example_environment_loads() {
    let env = [
        ("CHAT_PROXY_HOST", "0.0.0.0"),
        ("CHAT_PROXY_ALLOW_UNAUTHENTICATED", "1"),
        ("CHAT_PROXY_BACKEND_TIMEOUT_MS", "180000"),
        ("CHAT_PROXY_AUTOSTART_MAP", "vllm:qlora-prod,ollama:color-narrator"),
        ("CHAT_PROXY_LOOPBACK_ALIAS", "imageworks-chat"),
        ("CHAT_PROXY_VLLM_GPU_MEMORY_UTILIZATION", "0.85"),
        ("CHAT_PROXY_VLLM_MAX_MODEL_LEN", "8000"),
        ("CHAT_PROXY_VLLM_COMMAND", "uv run 'vllm' serve"),
        ("CHAT_PROXY_PRELOAD", "a, b,"),
        ("IMAGEWORKS_REGISTRY_DIR", "/etc/models"),
    ];
    let s = with_env("", &env).unwrap().settings;
    assert_eq!(s.vllm.vllm_max_model_len, Some(8000));
    assert_eq!(s.vllm.vllm_command.unwrap(), ["uv", "run", "vllm", "serve"]);
    assert_eq!(s.scheduler.preload, ["a", "b"]);
    assert_eq!(s.server.registry_dir, "/etc/models");
}

#[test]
fn an_empty_variable_means_unset_only_where_that_is_a_value() {
    let s = with_env("[server]\ndefault_model = \"m\"\n", &[("CHAT_PROXY_VLLM_MAX_MODEL_LEN", "")])
        .unwrap();
    assert_eq!(s.settings.server.default_model.as_deref(), Some("m"));
    let problems = with_env("", &[("CHAT_PROXY_PORT", "")]).unwrap_err();
    assert_eq!(problems, ["CHAT_PROXY_PORT: expected a whole number from 0 to 65535, found \"\""]);
}

#[test]
fn an_empty_variable_does_not_wipe_out_a_list_of_the_file() {
    let text = "[security]\napi_keys = [{ name = \"a\", key = \"k\" }]\n";
    let loaded = with_env(text, &[("CHAT_PROXY_API_KEYS", "")]).unwrap();
    assert_eq!(loaded.settings.security.api_keys.len(), 1);
}

#[test]
fn what_would_be_ignored_to_somebodys_harm_is_refused() {
    for half in ["tls_cert_file", "tls_key_file"] {
        let problems = file(&format!("[security]\n{half} = \"x.pem\"\n")).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with(&format!("c.toml:2: {half}: HTTPS")), "{problems:?}");
        for key in ["tls_cert_file", "tls_key_file"] {
            assert!(problems[0].contains(key), "{problems:?}");
        }
    }
    file("[security]\ntls_cert_file = \"c.pem\"\ntls_key_file = \"k.pem\"\n").unwrap();
}

#[test]
fn of_two_variables_for_one_key_the_keys_own_counts() {
    let env = [("IMAGEWORKS_REGISTRY_DIR", "/a"), ("CHAT_PROXY_REGISTRY_DIR", "/b")];
    let loaded = with_env("", &env).unwrap();
    assert_eq!(loaded.settings.server.registry_dir, "/b");
    assert_eq!(loaded.origins["registry_dir"], Origin::Env("CHAT_PROXY_REGISTRY_DIR".into()));
}

#[test]
fn service_links_of_container_platforms_are_ignored_with_one_warning() {
    let env = [
        ("CHAT_PROXY_PORT", "tcp://10.0.0.1:8100"),
        ("CHAT_PROXY_SERVICE_HOST", "10.0.0.1"),
        ("CHAT_PROXY_PORT_8100_TCP_ADDR", "10.0.0.1"),
    ];
    let loaded = with_env("", &env).unwrap();
    assert_eq!(loaded.settings.server.port, 8100);
    assert_eq!(loaded.warnings.len(), 1);
}

#[test]
fn an_open_address_without_keys_is_refused() {
    for host in ["0.0.0.0", "::", "192.168.1.5", "box"] {
        let problems = file(&format!("[server]\nhost = \"{host}\"\n")).unwrap_err();
        assert!(
            problems[0].starts_with("c.toml:2: host: ") && problems[0].contains("api_keys"),
            "{problems:?}"
        );
    }
    for host in ["127.0.0.1", "::1", "localhost", "127.8.8.8"] {
        assert!(file(&format!("[server]\nhost = \"{host}\"\n")).is_ok(), "{host}");
    }
    assert!(
        with_env("[server]\nhost = \"0.0.0.0\"\n", &[("CHAT_PROXY_API_KEYS", "s3cret")]).is_ok()
    );
}

#[test]
fn api_keys_are_read_in_every_form_and_never_shown() {
    let text = r#"
[security]
api_keys = [
  { name = "gui", key = "hush-hush" },
  { name = "ops", key_sha256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae", rights = ["chat", "admin"] },
  { name = "file", key_file = "/run/key" },
]
"#;
    let loaded = file(text).unwrap();
    let keys = &loaded.settings.security.api_keys;
    assert_eq!(keys.len(), 3);
    assert_eq!(keys[0].rights, [Right::Chat]);
    assert_eq!(keys[1].rights, [Right::Chat, Right::Admin]);
    let shown = format!("{:?} {:?}", loaded.settings, loaded.values);
    assert!(!shown.contains("hush") && !shown.contains("2c26b46b"), "{shown}");
    let keys = with_env("", &[("CHAT_PROXY_API_KEYS", "one,admin:two")])
        .unwrap()
        .settings
        .security
        .api_keys;
    assert_eq!(keys[1].rights, [Right::Chat, Right::Admin]);
    assert_eq!(keys[1].secret, KeySecret::Plain("two".into()));
    for (bad, why) in [
        ("[[security.api_keys]]\nname = \"a\"\n", "exactly one of"),
        ("[[security.api_keys]]\nname = \"a\"\nkey = \"\"\n", "empty"),
        ("[[security.api_keys]]\nname = \"a\"\nkey = \"x\"\nright = []\n", "right"),
        ("[[security.api_keys]]\nname = \"a\"\nkey_sha256 = \"12\"\n", "64 hexadecimal"),
        ("[[security.api_keys]]\nname = \"a\"\nkey = \"x\"\nrights = [\"admin\"]\n", "rights are"),
    ] {
        let problems = file(bad).unwrap_err();
        assert!(problems[0].contains(why), "{problems:?}");
    }
}

#[test]
fn services_are_checked() {
    let good = "[autostart.services.color]\ncommand = [\"ollama\", \"serve\"]\nready_url = \"http://x\"\nenv = { A = \"secret\" }\n";
    let loaded = file(good).unwrap();
    assert_eq!(loaded.settings.autostart.services["color"].command[0], "ollama");
    assert!(!format!("{:?}", loaded.values).contains("secret"));
    let problems = file("[autostart.services.color]\ncomand = [\"x\"]\n").unwrap_err();
    assert!(
        problems[0].contains("service color") && problems[0].contains("comand"),
        "{problems:?}"
    );
}

#[test]
fn credentials_in_addresses_are_not_shown() {
    let loaded = file("[ollama]\nollama_base_url = \"http://me:hush@h:1\"\n").unwrap();
    assert!(!format!("{:?}", loaded.values).contains("hush"));
}

#[test]
fn the_sample_file_documents_every_key_with_its_default() {
    let sample = include_str!("../../../configs/chat_proxy.toml");
    for spec in KEYS {
        let default = if spec.default.is_empty() { "\"\"" } else { spec.default };
        let line = format!("# {} = {default}", spec.name);
        let services = spec.name == "services";
        assert!(
            services || sample.lines().any(|l| l.starts_with(&line)),
            "the sample file lacks: {line}"
        );
    }
    let loaded = file(sample).unwrap();
    assert_eq!(loaded.settings, file("").unwrap().settings, "the sample file changes nothing");
    // What needs a restart is marked, and nothing else.
    let lines: Vec<&str> = sample.lines().collect();
    for spec in KEYS.iter().filter(|spec| spec.name != "services") {
        let key = format!("# {} = ", spec.name);
        let at = lines.iter().position(|line| line.starts_with(&key)).unwrap();
        let marked = lines[at - 1].ends_with("(restart)");
        assert_eq!(marked, spec.applies == Applies::Restart, "{}", spec.name);
    }
    // Uncommented it loads too: each line is a valid one.
    let is_key = |rest: &&str| {
        rest.split(" = ").next().is_some_and(|key| KEYS.iter().any(|spec| spec.name == key))
    };
    let lines = sample.lines().map(|l| l.strip_prefix("# ").filter(is_key).unwrap_or(l));
    let live = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(file(&live).unwrap().settings, loaded.settings);
}
