//! The daemon of this repository with one model, whose engine is ours. It must never share a folder
//! with a daemon that somebody uses.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use super::START;
use crate::Fault;
use crate::client::Target;
use crate::process::Managed;

const ANNOUNCEMENT: &str = "listening on http://";

/// Starts it and reads from its first lines where it listens.
pub(super) fn start(
    program: &Path,
    engine: SocketAddr,
    folder: &Path,
) -> Result<(Target, Managed), Fault> {
    let models = json!([{
        "name": "bench",
        "backend": "openai",
        "backend_config": {"base_url": format!("http://{engine}/v1")},
        "served_model_id": "bench",
    }]);
    let settings = settle(folder, &models, "")?;
    let (address, process) = launch(program, &settings, folder)?;
    Ok((Target::plain(address), process))
}

/// Starts the daemon with these settings in this folder.
pub(crate) fn launch(
    program: &Path,
    settings: &Path,
    folder: &Path,
) -> Result<(SocketAddr, Managed), Fault> {
    let program = fs::canonicalize(program).map_err(|e| format!("{}: {e}", program.display()))?;
    let mut process = Managed::start(
        Command::new(program)
            .arg("serve")
            .current_dir(folder)
            .env("CHAT_PROXY_CONFIG_FILE", settings)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("error.log"))?),
    )?;
    let output = process.child().stdout.take().ok_or("the daemon has no output")?;
    let address = announcements(output).recv_timeout(START).map_err(|_| {
        format!("imageworks did not say where it listens{}", super::last_words(folder))
    })?;
    Ok((address, process))
}

/// Writes settings and registry as they lie in an installation: both in `configs`, the request log in
/// `logs`. The daemon watches the folder of its settings, so a log in there would wake it with every
/// line. `more` are further sections. The path of the settings.
pub(crate) fn settle(folder: &Path, models: &Value, more: &str) -> Result<PathBuf, Fault> {
    let (configs, logs) = (folder.join("configs"), folder.join("logs"));
    fs::create_dir_all(&configs)?;
    fs::create_dir_all(&logs)?;
    fs::write(configs.join("model_registry.curated.json"), models.to_string())?;
    let settings = configs.join("chat_proxy.toml");
    let text = format!(
        "[server]\nhost = \"127.0.0.1\"\nport = 0\nregistry_dir = {:?}\nlog_path = {:?}\n{more}",
        configs.display().to_string(),
        logs.join("chat_proxy.jsonl").display().to_string(),
    );
    fs::write(&settings, text)?;
    Ok(settings)
}

/// The addresses that the daemon prints; reads on to the end, so that it never blocks on the pipe.
fn announcements(output: ChildStdout) -> Receiver<SocketAddr> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let address = line.split_once(ANNOUNCEMENT).and_then(|(_, a)| a.trim().parse().ok());
            if let Some(address) = address {
                // Nobody listens any more after the first one.
                let _ = send.send(address);
            }
        }
    });
    receive
}
