//! Engines that the daemon starts, swaps and stops (SPEC 6.1, 6.6).

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::engines::{STATE, Sampler, families, greeting, hello, is_alive, text_of};
use crate::support::{Ask, BOUND, End, Engines, Setup, eventually, sse};

#[test]
fn the_first_request_starts_the_engine_and_the_next_ones_find_it() {
    let it = Engines::two().start();
    assert!(!it.daemon.path(STATE).exists());
    it.assert_answers("tiny-a");
    it.assert_answers("tiny-a");
    assert_eq!(it.starts(), ["tiny-a"]);
    let state: Value = serde_json::from_slice(&fs::read(it.daemon.path(STATE)).unwrap()).unwrap();
    assert_eq!(state["logical_name"], "tiny-a");
    assert_eq!(state["served_model_id"], "tiny-a");
    assert_eq!(state["port"], it.port);
    assert_eq!(state["pid"], it.pid());
    assert!(state["started_at"].as_f64().unwrap() > 1.7e9);
    let log = fs::read_to_string(it.daemon.path("logs/vllm/tiny-a.log")).unwrap();
    assert!(log.contains("Application startup complete"), "{log}");
    let lines = it.daemon.log_lines(2);
    assert!(lines[0]["activate_ms"].as_u64().unwrap() > 0, "{}", lines[0]);
    assert_eq!(lines[1]["activate_ms"], 0);
}

#[test]
fn the_state_file_names_all_processes_once_the_engine_is_ready() {
    let it = Engines::two().start();
    it.assert_answers("tiny-a");
    let members = eventually("the members of the tree", BOUND, || {
        let state: Value = serde_json::from_slice(&fs::read(it.daemon.path(STATE)).ok()?).ok()?;
        state["members"].as_array().filter(|members| members.len() == 3).cloned()
    });
    for member in &members {
        assert!(is_alive(i32::try_from(member["pid"].as_i64().unwrap()).unwrap()), "{member}");
    }
}

#[test]
fn requests_that_meet_a_loading_model_join_its_load() {
    let it = Engines::new().model("tiny-a", &["--sim-load-ms", "400"]).start();
    let replies: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..12).map(|_| scope.spawn(|| it.hello("tiny-a"))).collect();
        asked.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(replies.iter().all(|reply| text_of(reply) == greeting("tiny-a")));
    assert_eq!(it.starts(), ["tiny-a"]);
}

#[test]
fn models_take_turns_on_one_port_and_two_never_live_at_once() {
    let it = Engines::two().start();
    let sampler = Sampler::of(it.port);
    for model in ["tiny-a", "tiny-b", "tiny-a", "tiny-b"] {
        it.assert_answers(model);
        let reply = hello(model, true, json!({})).reply(it.daemon.addr());
        assert_eq!((text_of(&reply), &reply.end), (greeting(model), &End::Whole));
        assert!(reply.text().ends_with(sse::DONE));
    }
    sampler.assert_never_two();
    assert_eq!(it.starts(), ["tiny-a", "tiny-b", "tiny-a", "tiny-b"]);
    assert_eq!(families(it.port).len(), 1);
    // By the engines' own journal: each leader had ended before the next one began.
    let journal = it.journal();
    let leaders: Vec<_> = journal.iter().filter(|life| life.role == "leader").collect();
    let mut last_exit = 0;
    for life in leaders {
        match life.event.as_str() {
            "start" => assert!(life.at_us > last_exit, "{life:?}"),
            "exit" => last_exit = life.at_us,
            _ => {}
        }
    }
    assert_eq!(it.figure("imageworks_proxy_swaps_total{reason=\"request\"}"), Some(4.0));
}

#[test]
fn streaming_clients_hear_what_they_wait_for() {
    let it = Engines::new()
        .model("tiny-a", &["--sim-load-ms", "500"])
        .set("server", "heartbeat_ms", 100)
        .start();
    let reply = hello("tiny-a", true, json!({})).reply(it.daemon.addr());
    let body = reply.text();
    let comments: Vec<&str> = body.lines().filter(|line| line.starts_with(':')).collect();
    assert!(comments.len() >= 3, "{body}");
    assert!(comments.contains(&": waiting (position 1, the model is loading)"), "{comments:?}");
    assert!(body.ends_with(sse::DONE));
    let first_data = body.find("data:").unwrap();
    assert!(!body[first_data..].contains("\n:"), "no comment once data has flowed");
}

#[test]
fn a_swap_waits_for_the_stream_that_runs() {
    let it = Engines::two().start();
    it.assert_answers("tiny-a");
    let mut stream = it.stream("tiny-a", 60);
    let begun = Instant::now();
    let other = hello("tiny-b", false, json!({})).open(it.daemon.addr());
    it.wait_queue(1);
    let (pieces, end) = stream.rest();
    let body: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.data).collect();
    assert_eq!(end, End::Whole);
    assert!(String::from_utf8_lossy(&body).contains("tok59"));
    assert!(body.ends_with(sse::DONE.as_bytes()));
    let mut other = other;
    assert_eq!(text_of(&other.reply()), greeting("tiny-b"));
    assert!(begun.elapsed() >= Duration::from_millis(400), "the stream was waited for");
    let line = it.daemon.log_lines(3).into_iter().find(|l| l["model_logical"] == "tiny-b").unwrap();
    assert!(line["queue_ms"].as_u64().unwrap() >= 200, "{line}");
}

#[test]
fn a_client_that_leaves_the_queue_causes_no_swap() {
    let it = Engines::two().start();
    it.assert_answers("tiny-a");
    let mut stream = it.stream("tiny-a", 40);
    let other = hello("tiny-b", true, json!({})).open(it.daemon.addr());
    it.wait_queue(1);
    let left = Instant::now();
    drop(other);
    it.wait_queue(0);
    assert!(left.elapsed() < Duration::from_millis(500), "{:?}", left.elapsed());
    assert_eq!(stream.rest().1, End::Whole);
    it.assert_answers("tiny-a");
    assert_eq!(it.starts(), ["tiny-a"]);
    let lines = it.daemon.log_lines(4);
    let gone = lines.iter().find(|line| line["model_logical"] == "tiny-b").unwrap();
    assert_eq!((&gone["status"], &gone["cancelled"]), (&json!(499), &json!(true)));
}

#[test]
fn a_load_that_nobody_waits_for_any_more_becomes_an_idle_resident() {
    let it = Engines::new().model("tiny-a", &["--sim-load-ms", "400"]).start();
    let client = hello("tiny-a", false, json!({})).open(it.daemon.addr());
    it.wait_engine("starting");
    drop(client);
    it.wait_engine("ready");
    it.assert_answers("tiny-a");
    assert_eq!(it.starts(), ["tiny-a"]);
}

#[test]
fn a_load_that_nobody_waits_for_gives_way_to_another_model() {
    let it = Engines::new()
        .model("tiny-a", &["--like-vllm", "--sim-never-ready"])
        .model("tiny-b", &[])
        .set("vllm", "loading_stop_grace_s", 0.3)
        .start();
    let client = hello("tiny-a", false, json!({})).open(it.daemon.addr());
    it.wait_engine("starting");
    drop(client);
    // The engine ignores SIGTERM while it loads, as the real one does.
    it.assert_answers("tiny-b");
    assert_eq!(families(it.port).len(), 1);
}

#[test]
fn a_full_queue_refuses_at_once_and_says_when_to_come_again() {
    let it = Engines::two().set("scheduler", "max_queue_depth", 1).start();
    it.assert_answers("tiny-a");
    let mut stream = it.stream("tiny-a", 60);
    let mut first = hello("tiny-b", false, json!({})).open(it.daemon.addr());
    it.wait_queue(1);
    let refused = it.hello("tiny-b");
    refused.error(429, "err_queue_full");
    let after: u32 = refused.head.get("retry-after").unwrap().parse().unwrap();
    assert!((1..=600).contains(&after));
    // Who needs no swap takes no place in the queue.
    it.assert_answers("tiny-a");
    assert_eq!(stream.rest().1, End::Whole);
    assert_eq!(text_of(&first.reply()), greeting("tiny-b"));
}

#[test]
fn who_waits_too_long_for_a_turn_is_told_so() {
    let it = Engines::two().set("scheduler", "max_queue_wait_s", 0.3).start();
    it.assert_answers("tiny-a");
    let mut stream = it.stream("tiny-a", 150);
    let refused = it.hello("tiny-b");
    refused.error(503, "err_queue_timeout");
    assert!(refused.head.get("retry-after").is_some());
    assert_eq!(stream.rest().1, End::Whole);
}

#[test]
fn a_swap_that_has_waited_for_its_bound_stops_newcomers_and_cuts_after_its_drain() {
    let it = Engines::two()
        .set("scheduler", "max_swap_wait_s", 0.2)
        .set("scheduler", "swap_drain_timeout_s", 0.4)
        .start();
    it.assert_answers("tiny-a");
    let mut endless = it.stream("tiny-a", 100_000);
    let mut other = hello("tiny-b", false, json!({})).open(it.daemon.addr());
    assert_eq!(text_of(&other.reply()), greeting("tiny-b"));
    let (pieces, _) = endless.rest();
    let body: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.data).collect();
    let last = String::from_utf8_lossy(&body);
    let last = last.trim_end().rsplit("\n\n").next().unwrap();
    assert_eq!(sse::error_of(last).unwrap()["code"], "err_backend_unavailable", "{last}");
    assert!(!body.ends_with(sse::DONE.as_bytes()));
}

#[test]
fn engines_get_what_they_need_and_none_of_the_daemons_secrets() {
    let it = Engines::new()
        .model_with("tiny-a", &[], json!({"env": {"ENTRY_VAR": "1", "SETTINGS_VAR": null}}))
        .entry(json!({"name": "cloud", "backend": "openai", "backend_config":
            {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "CLOUD_KEY"}}))
        .set("vllm", "vllm_env", "{ SETTINGS_VAR = \"2\", OTHER_VAR = \"3\" }")
        .env("CLOUD_KEY", "secret")
        .env("NOTIFY_SOCKET", "/nowhere")
        .env("CHAT_PROXY_KEEP_ALIVE_S", "60")
        .env("HARMLESS", "4")
        .start();
    it.assert_answers("tiny-a");
    let env = it.ask_engine("/sim/env");
    for (name, want) in [("ENTRY_VAR", "1"), ("OTHER_VAR", "3"), ("HARMLESS", "4")] {
        assert_eq!(env[name], want, "{name}");
    }
    for name in [
        "SETTINGS_VAR",
        "CLOUD_KEY",
        "NOTIFY_SOCKET",
        "CHAT_PROXY_KEEP_ALIVE_S",
        "CHAT_PROXY_CONFIG_FILE",
    ] {
        assert!(env.get(name).is_none(), "{name}");
    }
    assert!(env["IMAGEWORKS_ENGINE"].as_str().unwrap().contains(':'), "{env}");
    let argv = it.ask_engine("/sim/argv");
    let argv: Vec<&str> = argv.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(&argv[..2], ["serve", "/models/tiny-a"]);
    let line = argv.join(" ");
    assert!(
        line.contains(&format!(
            "--host 127.0.0.1 --port {} --served-model-name tiny-a --gpu-memory-utilization 0.75",
            it.port
        )),
        "{line}"
    );
}

#[test]
fn a_daemon_that_starts_no_engines_leaves_the_engine_of_another_one_alone() {
    let it = Engines::two().start();
    it.assert_answers("tiny-a");
    let (pid, state) = (it.pid(), it.daemon.path(STATE));
    let mut other = Setup::new()
        .set("vllm", "vllm_single_port", false)
        .set("vllm", "vllm_state_path", format!("{state:?}"))
        .start();
    other.terminate();
    assert!(other.wait_exit(BOUND).success());
    it.assert_answers("tiny-a");
    assert_eq!((it.pid(), it.starts()), (pid, vec!["tiny-a".to_owned()]));
    assert!(state.exists());
}

#[test]
fn external_backends_need_no_turn_and_are_shown_too() {
    let other = Engines::new().model("tiny-c", &[]).start();
    other.assert_answers("tiny-c");
    let it = Engines::two()
        .entry(
            json!({"name": "tiny-c", "backend": "gguf", "chat_template": {"source": "embedded"}, 
            "backend_config": {"host": "127.0.0.1", "port": other.port}}),
        )
        .start();
    it.assert_answers("tiny-a");
    it.assert_answers("tiny-c");
    assert_eq!(it.starts(), ["tiny-a"]);
    let shown = it.backends();
    let external = &shown["backends"][1];
    assert_eq!((&external["name"], &external["kind"]), (&json!("tiny-c"), &json!("external")));
    assert_eq!(external["port"], other.port);
}

#[test]
fn the_summary_and_the_figures_tell_the_same_story() {
    let it = Engines::two().start();
    it.assert_answers("tiny-a");
    it.assert_answers("tiny-b");
    assert_eq!(it.hello("nobody").status(), 404);
    it.daemon.log_lines(3);
    let summary = Ask::get("/v1/metrics").reply(it.daemon.addr()).json();
    assert_eq!(summary["rolling"]["count"], 3);
    assert_eq!(summary["requests_by_backend"], json!({"other": 1, "vllm": 2}));
    assert_eq!(summary["errors_by_code"], json!({"err_model_not_found": 1}));
    assert_eq!(summary["active_model"], "tiny-b");
    assert_eq!(summary["swaps"], json!({"total": 2, "by_reason": {"request": 2}}));
    assert_eq!(summary["schema_version"], 1);
    assert!(summary["uptime_seconds"].as_f64().unwrap() > 0.0);
    let of = "imageworks_proxy_requests_total{backend=\"vllm\",model=\"tiny-a\",status=\"200\"}";
    assert_eq!(it.figure(of), Some(1.0));
    assert_eq!(it.figure("imageworks_proxy_swap_seconds_count"), Some(2.0));
    assert_eq!(it.figure("imageworks_proxy_in_flight{model=\"tiny-a\"}"), Some(0.0));
}

#[test]
fn a_chat_template_is_found_by_the_daemon_and_named_so_that_the_engine_finds_it() {
    let elsewhere = tempfile::tempdir().unwrap();
    let it = Engines::new()
        .model("tiny-a", &[])
        .set("vllm", "vllm_executor_cwd", format!("{:?}", elsewhere.path().display().to_string()))
        .start();
    fs::create_dir(it.daemon.path("chat_templates")).unwrap();
    let template = it.daemon.path("chat_templates/tiny-a.jinja");
    fs::write(&template, "{{ messages }}").unwrap();
    it.assert_answers("tiny-a");
    let argv = it.ask_engine("/sim/argv");
    let argv: Vec<&str> = argv.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let at = argv.iter().position(|word| *word == "--chat-template").unwrap();
    assert_eq!(fs::canonicalize(argv[at + 1]).unwrap(), fs::canonicalize(&template).unwrap());
    assert!(argv[at + 1].starts_with('/'), "{argv:?}");
    let cwd = it.ask_engine("/sim/process")["cwd"].as_str().unwrap().to_owned();
    assert_eq!(fs::canonicalize(cwd).unwrap(), fs::canonicalize(elsewhere.path()).unwrap());
}

#[test]
fn the_model_list_says_which_model_is_active() {
    let it = Engines::two().start();
    let shown = || {
        let list = Ask::get("/v1/models").reply(it.daemon.addr()).json();
        let of = |n: usize| list["data"][n]["extensions"].clone();
        [of(0), of(1)].map(|e| (e["state"].as_str().unwrap().to_owned(), e["active"] == true))
    };
    let stopped = || ("stopped".to_owned(), false);
    let ready = || ("ready".to_owned(), true);
    assert_eq!(shown(), [stopped(), stopped()]);
    it.assert_answers("tiny-b");
    eventually("tiny-b is shown as active", BOUND, || {
        (shown() == [stopped(), ready()]).then_some(())
    });
    it.assert_answers("tiny-a");
    eventually("tiny-a is shown as active", BOUND, || {
        (shown() == [ready(), stopped()]).then_some(())
    });
    it.daemon.signal(nix::sys::signal::Signal::SIGHUP);
    eventually("the registry was loaded anew", BOUND, || {
        let loads = Ask::get("/v1/debug/registry").reply(it.daemon.addr()).json()["loads"].as_u64();
        loads.filter(|loads| *loads >= 2)
    });
    assert_eq!(shown(), [ready(), stopped()], "also after a reload");
}

#[test]
fn a_running_engine_is_asked_by_the_name_that_it_was_started_with() {
    let it = Engines::two().start();
    // While somebody uses it, it is not started anew.
    let mut stream = it.stream("tiny-a", 200);
    let renamed = it
        .daemon
        .registry()
        .replace("\"served_model_id\":\"tiny-a\"", "\"served_model_id\":\"renamed\"");
    it.daemon.write_registry(&renamed);
    eventually("the edit is seen", BOUND, || {
        let list = Ask::get("/v1/models").reply(it.daemon.addr()).text();
        list.contains("renamed").then_some(())
    });
    it.assert_answers("tiny-a");
    assert_eq!(it.starts(), ["tiny-a"], "it serves on");
    assert_eq!(it.daemon.log_line()["model_backend_id"], "tiny-a");
    // Started anew, it has its new name.
    stream.rest();
    eventually("it is started anew", BOUND, || (it.starts().len() == 2).then_some(()));
    let reply = it.hello("tiny-a");
    assert_eq!(text_of(&reply), greeting("renamed"), "{}", reply.text());
}

#[test]
fn a_second_daemon_at_the_same_state_file_says_who_has_it_and_ends() {
    let it = Engines::two().start();
    let state = it.daemon.path(STATE);
    let ended = crate::support::Setup::new()
        .set("vllm", "vllm_state_path", format!("{state:?}"))
        .run(&["serve"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains(&format!("pid {}", it.daemon.pid())), "{}", ended.stderr);
    it.assert_answers("tiny-a");
}

/// Written lines of the simulator, by number, from a log file.
fn numbered_lines(path: &std::path::Path) -> Vec<u64> {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8(text).expect("a text");
    let number = |line: &str| line.strip_prefix("sim-log ")?.split(' ').next()?.parse().ok();
    text.lines().filter_map(number).collect()
}

#[test]
fn a_running_engines_log_is_shortened_and_no_line_is_lost() {
    let it = Engines::new()
        .model("tiny-a", &[])
        .set("vllm", "vllm_log_max_bytes", 200_000)
        .set("vllm", "health_interval_s", 0.1)
        .set("logging", "max_log_files", 9)
        .start();
    it.assert_answers("tiny-a");
    let pid = it.pid();
    let log = it.daemon.path("logs/vllm/tiny-a.log");
    let part = |number: u32| it.daemon.path(&format!("logs/vllm/tiny-a.log.{number}"));
    let order = json!({"lines": 4000, "bytes": 100});
    Ask::post("/sim/log", &order).reply(([127, 0, 0, 1], it.port).into()).json();
    eventually("the log is shorter", BOUND, || {
        let size = std::fs::metadata(&log).ok()?.len();
        (part(1).exists() && size <= 200_000).then_some(())
    });
    // A line may lie across the border: the parts are read as one.
    let whole: Vec<u8> = [part(2), part(1), log]
        .iter()
        .flat_map(|path| std::fs::read(path).unwrap_or_default())
        .collect();
    let joined = it.daemon.path("joined");
    std::fs::write(&joined, whole).unwrap();
    let found = numbered_lines(&joined);
    // Where the file system cannot take a head out of a file, a gap is possible, but no disorder.
    assert!(found.is_sorted(), "{found:?}");
    if collapses(it.daemon.path("probe").as_path()) {
        assert_eq!(found, (0..4000).collect::<Vec<_>>());
    }
    let shown = Ask::get("/v1/logs/backends/tiny-a?lines=2").reply(it.daemon.addr()).text();
    assert!(shown.lines().count() == 2 && shown.contains("sim-log 3999"), "{shown}");
    it.assert_answers("tiny-a");
    assert_eq!(it.pid(), pid, "the engine has not noticed");
}

/// Whether the file system can take whole blocks out of the beginning of a file.
fn collapses(probe: &std::path::Path) -> bool {
    std::fs::write(probe, vec![b'x'; 1 << 20]).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(probe).unwrap();
    let flag = nix::fcntl::FallocateFlags::FALLOC_FL_COLLAPSE_RANGE;
    nix::fcntl::fallocate(&file, flag, 0, 64 << 10).is_ok()
}
