//! Owns what an Ollama is started with, and the flags that say it.
//!
//! Must never start anything.

use std::time::Duration;

use super::keep::Keep;
use super::orders::Order;
use crate::options::{ArgsError, Reader, bad};

/// What an engine is as an Ollama.
#[derive(Debug, Clone)]
pub struct Ollama {
    /// The names of the models that are installed. What a model can do follows from its name.
    pub models: Vec<String>,
    /// How long a model loads.
    pub load_ms: u64,
    /// How long a model that is unloaded holds its memory.
    pub unload_ms: u64,
    /// How long an unused model stays, unless a request says otherwise.
    pub keep_alive: Duration,
    /// Whether `/api/ps` lists the models that are being loaded as well.
    pub ps_loading: bool,
    /// What goes wrong from the start, until other orders come.
    pub orders: Vec<Order>,
}

impl Default for Ollama {
    /// One model of each kind, loaded at once and unloaded soon.
    fn default() -> Self {
        let models = ["tiny-a", "tiny-think", "tiny-vision", "tiny-embed"];
        Self {
            models: models.iter().map(|name| format!("{name}:latest")).collect(),
            load_ms: 0,
            unload_ms: 5,
            keep_alive: Duration::from_secs(300),
            ps_loading: false,
            orders: Vec::new(),
        }
    }
}

impl Reader<'_> {
    /// Takes a flag that concerns an Ollama, and says whether it was one.
    pub(crate) fn of_ollama(&mut self, flag: &str) -> Result<bool, ArgsError> {
        match flag {
            "--ollama" => {
                self.ollama();
            }
            "--sim-models" => {
                let names = self.value(flag)?;
                self.ollama().models = names.split(',').map(str::to_owned).collect();
            }
            "--sim-unload-ms" => self.ollama().unload_ms = self.parsed(flag)?,
            "--sim-keep-alive" => self.ollama().keep_alive = self.keep_alive(flag)?,
            "--sim-ps-loading" => self.ollama().ps_loading = true,
            "--sim-fault-on" => {
                let order = self.order(flag)?;
                self.ollama().orders.push(order);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Any of these flags makes an Ollama of the engine.
    fn ollama(&mut self) -> &mut Ollama {
        self.options.ollama.get_or_insert_default()
    }

    fn keep_alive(&mut self, flag: &str) -> Result<Duration, ArgsError> {
        let value = self.value(flag)?;
        match Keep::read(&value.clone().into()) {
            Ok(Some(Keep::For(time))) => Ok(time),
            Ok(_) => Ok(Keep::FOREVER),
            Err(problem) => Err(bad(flag, &value, &problem)),
        }
    }

    /// `PATH={…}`.
    fn order(&mut self, flag: &str) -> Result<Order, ArgsError> {
        let value = self.value(flag)?;
        let Some((path, fault)) = value.split_once('=') else {
            return Err(bad(flag, &value, &"PATH=JSON is expected"));
        };
        let fault = serde_json::from_str(fault).map_err(|e| bad(flag, &value, &e))?;
        Ok(Order { on: Some(path.to_owned()), times: None, fault })
    }

    /// What the flags mean together: an Ollama has its own port, is ready at once, and it is its
    /// models that take time to load.
    pub(crate) fn settle(&mut self) {
        if self.options.ollama.is_none() {
            return;
        }
        if !self.has("--port") {
            self.options.port = 11_434;
        }
        let load_ms = std::mem::take(&mut self.habits.load_ms);
        self.ollama().load_ms = load_ms;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::options::{Command, Options};

    fn read(line: &str) -> Result<Options, ArgsError> {
        match Options::from_args(line.split(' ').map(Into::into))? {
            Command::Serve(options, _) => Ok(*options),
            Command::Help => panic!("help"),
        }
    }

    #[test]
    fn one_flag_makes_an_ollama_with_its_own_port_and_models() {
        let options = read("serve --ollama").unwrap();
        let ollama = options.ollama.unwrap();
        assert_eq!(options.port, 11_434);
        assert_eq!(
            ollama.models,
            ["tiny-a:latest", "tiny-think:latest", "tiny-vision:latest", "tiny-embed:latest"]
        );
        assert_eq!((ollama.load_ms, ollama.keep_alive), (0, Duration::from_secs(300)));
        assert!(read("serve tiny-a").unwrap().ollama.is_none());
    }

    #[test]
    fn the_time_to_load_is_that_of_a_model() {
        let options = read(
            "--ollama --port 8000 --sim-load-ms 70 --sim-models a,b:7b --sim-unload-ms=9 \
             --sim-keep-alive 300ms --sim-ps-loading --sim-fault-on /api/ps={\"status\":500}",
        )
        .unwrap();
        let ollama = options.ollama.unwrap();
        assert_eq!((options.port, ollama.load_ms, ollama.unload_ms), (8000, 70, 9));
        assert_eq!(ollama.models, ["a", "b:7b"]);
        assert_eq!(ollama.keep_alive, Duration::from_millis(300));
        assert!(ollama.ps_loading);
        assert_eq!(ollama.orders[0].on.as_deref(), Some("/api/ps"));
        assert_eq!(ollama.orders[0].fault.status, Some(500));
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for (line, told) in [
            ("--ollama --sim-keep-alive 60", "missing unit"),
            ("--ollama --sim-fault-on /api/ps", "PATH=JSON"),
            ("--ollama --sim-fault-on /api/ps={\"stats\":1}", "stats"),
            ("--ollama --sim-models", "expected one argument"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
