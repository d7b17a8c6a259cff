//! `demo`: the daemon on a sample registry with simulated engines, and a tour of it (SPEC 1.1).
//!
//! Owns: a temporary directory with all that a user would write, the simulated engines: two that
//! the daemon starts and stops as it would vLLM, an Ollama, one that runs already. Must never do:
//! pretend; the [`tour`] shows real exchanges with the daemon, and a step that fails makes
//! `demo --once` exit 1.

mod tour;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chat_proxy_core::config::{self, Input};
use serde_json::json;
use sim_engine::{Engine, Fault, Handle, Ollama, Options, Order as FaultOrder};
use tokio::sync::mpsc;

use crate::serve::{self, Order, Ready};
use crate::settings::Source;
use crate::terminal::say;

/// How long a simulated engine loads: long enough to be seen, short enough to be waited for.
const LOAD_MS: &str = "1200";
/// The same at Ollama.
const OLLAMA_LOAD_MS: u64 = 600;
/// From one token to the next.
const TOKEN_MS: u64 = 60;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
enum TourError {
    #[error("{what}: {message}")]
    Step { what: &'static str, message: String },
    #[error("{0}")]
    Io(#[from] io::Error),
}

#[allow(clippy::needless_pass_by_value)] // so that it fits `map_err(|e| failed(what, e))`
fn failed(what: &'static str, message: impl ToString) -> TourError {
    TourError::Step { what, message: message.to_string() }
}

/// Shows the tour; with `once` exits after it.
pub(crate) fn run(once: bool) -> ExitCode {
    match actix_rt::System::new().block_on(demo(once)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&mut io::stderr(), &format!("demo: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether the tour went well.
async fn demo(once: bool) -> Result<bool, Box<dyn std::error::Error>> {
    let home = tempfile::tempdir()?;
    let relayed = Engine::start(Options {
        port: 0,
        served: vec!["tiny-c".to_owned()],
        ..Options::default()
    })?;
    let slow = Fault { delay_token_ms: Some(TOKEN_MS), ..Fault::default() };
    let ollama = Engine::start(Options {
        port: 0,
        ollama: Some(Ollama {
            models: vec!["tiny-o".to_owned()],
            load_ms: OLLAMA_LOAD_MS,
            orders: vec![FaultOrder { fault: slow, ..FaultOrder::default() }],
            ..Ollama::default()
        }),
        ..Options::default()
    })?;
    write_registry(home.path(), &relayed)?;
    let settings = settings(home.path(), ollama.addr())?;
    let (outcome_in, mut outcome) = mpsc::channel(1);
    let files = Files::of(home.path());
    let state_file = files.state.clone();
    let orders = move |ready: Ready| {
        let (stop, orders) = mpsc::channel(4);
        if !once {
            relay_signals(ready.clone(), stop.clone())?;
        }
        actix_rt::spawn(async move {
            let outcome = tour::tour(&ready, &files, once).await;
            if let Err(error) = &outcome {
                say(&mut io::stderr(), &format!("\nThe tour failed: {error}"));
            }
            // Nobody reads these any more only if the daemon has ended by itself.
            let _ = outcome_in.try_send(outcome.is_ok());
            if once || outcome.is_err() {
                let _ = stop.try_send(Order::Stop);
            }
        });
        Ok(orders)
    };
    serve::run(settings, orders).await?;
    let went_well = outcome.recv().await.unwrap_or(false);
    Ok(went_well && nothing_is_left(&state_file))
}

/// The last promise of the tour: an engine lives no longer than its daemon.
fn nothing_is_left(state_file: &Path) -> bool {
    let gone = !state_file.exists();
    let said = if gone {
        "The daemon has stopped its engine and ended."
    } else {
        "The daemon has ended and left an engine behind."
    };
    say(&mut io::stdout(), said);
    gone
}

/// What the tour looks into.
struct Files {
    log: PathBuf,
    state: PathBuf,
}

impl Files {
    fn of(home: &Path) -> Files {
        Files { log: home.join("logs/chat_proxy.jsonl"), state: home.join("active_vllm.json") }
    }
}

fn relay_signals(ready: Ready, stop: mpsc::Sender<Order>) -> Result<(), serve::ServeError> {
    let mut signals = serve::signals(ready)?;
    actix_rt::spawn(async move {
        while let Some(order) = signals.recv().await {
            // A full queue holds this order already.
            let _ = stop.try_send(order);
        }
    });
    Ok(())
}

/// What a user would write by hand.
fn write_registry(home: &Path, relayed: &Handle) -> io::Result<()> {
    let vllm = |name: &str, display: &str, alias: &str| {
        json!({
            "name": name, "display_name": display, "backend": "vllm", "served_model_id": name,
            "model_aliases": [alias], "chat_template": {"source": "embedded"},
            "backend_config": {
                "model_path": format!("/models/{name}"),
                "extra_args": ["--like-vllm", "--sim-load-ms", LOAD_MS],
            }
        })
    };
    let addr = relayed.addr();
    let registry = json!([
        vllm("tiny-a", "Tiny A", "first"),
        vllm("tiny-b", "Tiny B", "second"),
        {
            "name": "tiny-o", "display_name": "Tiny O", "backend": "ollama",
            "served_model_id": "tiny-o",
            "backend_config": {"extra_args": ["--num-ctx", "4096"]}
        },
        {
            "name": "tiny-c", "display_name": "Tiny C", "backend": "gguf", "chat_template": {"source": "embedded"},
            "backend_config": {"host": addr.ip().to_string(), "port": addr.port()}
        }
    ]);
    std::fs::write(home.join("model_registry.curated.json"), format!("{registry:#}\n"))
}

fn settings(home: &Path, ollama: SocketAddr) -> Result<Source, TourError> {
    let path = home.join("chat_proxy.toml");
    let files = Files::of(home);
    let program = std::env::current_exe()?;
    // Free now; the daemon would name whoever took it before its first engine does.
    let vllm_port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let text = format!(
        "[server]\nport = 0\nheartbeat_ms = 400\nenable_metrics = true\n\
         registry_dir = {}\nlog_path = {}\n\n\
         [vllm]\nvllm_port = {vllm_port}\nvllm_state_path = {}\n\
         vllm_command = [{}, \"sim-engine\", \"serve\"]\n\n\
         [ollama]\nollama_base_url = \"http://{ollama}\"\n",
        quoted(home),
        quoted(&files.log),
        quoted(&files.state),
        quoted(&program)
    );
    let input = Input { file: Some((path.display().to_string(), text.clone())), env: Vec::new() };
    let loaded = config::load(&input).map_err(|problems| {
        failed("settings", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })?;
    std::fs::write(&path, &text)?;
    Ok(Source { loaded, path, env: Vec::new() })
}

/// A path as TOML has it.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
