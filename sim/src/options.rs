//! Owns what an engine is started with, and how a command line becomes that.
//!
//! The command line is vLLM's; what it has and this engine has not is accepted and ignored. One
//! flag makes an Ollama of it.
//! Must never start anything.

use std::ffi::OsString;

use serde::Deserialize;

use crate::fault::Fault;
use crate::ollama::Ollama;
use crate::process::Habits;

/// Text of `--help`.
pub(crate) const HELP: &str = include_str!("help.txt");

/// What an engine is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address or name to listen at.
    pub host: String,
    /// The port to listen at; 0 takes a free one.
    pub port: u16,
    /// The names the model is served under, the first being its own; `tiny-a` if there is none.
    pub served: Vec<String>,
    /// The model's path, as `/v1/models` tells it.
    pub root: String,
    /// Tokens of a prompt and its answer together.
    pub max_model_len: u32,
    /// The name of the reasoning parser, if what the model thinks is told apart.
    pub reasoning_parser: Option<String>,
    /// The name of the parser of tool calls.
    pub tool_call_parser: Option<String>,
    /// Whether the model may choose by itself to call a tool.
    pub auto_tool_choice: bool,
    /// How many images a prompt may have; `None` is a model that takes text alone.
    pub images: Option<u32>,
    /// Whether the routes for sleeping are served.
    pub sleep_mode: bool,
    /// What each request has as faults unless it says otherwise.
    pub fault: Fault,
    /// The status of `/health`, until another is ordered.
    pub health: u16,
    /// What `/v1/models` lists instead of the served names.
    pub wrong_id: Option<String>,
    /// The command line, told at `/sim/argv`.
    pub argv: Vec<String>,
    /// What it is as an Ollama, if it is one and no vLLM.
    pub ollama: Option<Ollama>,
}

impl Default for Options {
    /// A healthy text model `tiny-a` without parsers, at a free port of 127.0.0.1.
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 0,
            served: vec!["tiny-a".to_owned()],
            root: "tiny-a".to_owned(),
            max_model_len: 512,
            reasoning_parser: None,
            tool_call_parser: None,
            auto_tool_choice: false,
            images: None,
            sleep_mode: false,
            fault: Fault::default(),
            health: 200,
            wrong_id: None,
            argv: Vec::new(),
            ollama: None,
        }
    }
}

/// A command line that was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// The flag needs a value and has none.
    #[error("argument {0}: expected one argument")]
    NoValue(String),
    /// A flag of this engine's own that it does not have. Those of vLLM are ignored.
    #[error("unrecognized arguments: {0}")]
    Unknown(String),
    /// The flag's value was not understood.
    #[error("argument {flag}: invalid value: {value:?} ({problem})")]
    BadValue {
        /// The flag.
        flag: String,
        /// What stood behind it.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What a command line asks for.
#[derive(Debug, Clone)]
pub enum Command {
    /// To serve so, and to have such habits as a process.
    Serve(Box<Options>, Box<Habits>),
    /// To tell its flags.
    Help,
}

impl Options {
    /// Reads a command line, without the program's name.
    pub fn from_args(line: impl Iterator<Item = OsString>) -> Result<Command, ArgsError> {
        let argv: Vec<String> = line.map(|a| a.to_string_lossy().into_owned()).collect();
        let mut reader = Reader::new(&argv);
        while let Some(arg) = reader.next_arg() {
            match arg {
                Arg::Positional(value) => reader.positional(value),
                Arg::Flag(flag) if flag == "--help" || flag == "-h" => return Ok(Command::Help),
                Arg::Flag(flag) => reader.flag(&flag)?,
            }
        }
        reader.settle();
        let habits = Box::new(std::mem::take(&mut reader.habits));
        Ok(Command::Serve(Box::new(reader.finish()), habits))
    }
}

enum Arg {
    Positional(String),
    Flag(String),
}

/// Walks over a command line.
pub(crate) struct Reader<'a> {
    argv: &'a [String],
    next: usize,
    /// The part behind `=` of the present flag.
    attached: Option<String>,
    model: Option<String>,
    served: Vec<String>,
    pub(crate) options: Options,
    pub(crate) habits: Habits,
}

impl<'a> Reader<'a> {
    fn new(argv: &'a [String]) -> Self {
        let options = Options { port: 8000, argv: argv.to_vec(), ..Options::default() };
        let (served, habits) = (Vec::new(), Habits::default());
        Self { argv, next: 0, attached: None, model: None, served, options, habits }
    }

    fn next_arg(&mut self) -> Option<Arg> {
        let arg = self.argv.get(self.next)?;
        self.next += 1;
        self.attached = None;
        if !arg.starts_with('-') {
            return Some(Arg::Positional(arg.clone()));
        }
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        self.attached = value;
        // vLLM takes `--max_model_len` for `--max-model-len` as well.
        Some(Arg::Flag(name.replace('_', "-")))
    }

    /// `serve` is the command and is skipped; the first other word is the model.
    fn positional(&mut self, value: String) {
        if value != "serve" || self.next != 1 {
            self.model.get_or_insert(value);
        }
    }

    /// What stands behind `=` of the present flag.
    pub(crate) fn attached(&mut self) -> Option<String> {
        self.attached.take()
    }

    /// The present flag's value, if there is one.
    fn optional(&mut self) -> Option<String> {
        if let Some(value) = self.attached.take() {
            return Some(value);
        }
        let value = self.argv.get(self.next).filter(|v| !v.starts_with("--"))?;
        self.next += 1;
        Some(value.clone())
    }

    pub(crate) fn value(&mut self, flag: &str) -> Result<String, ArgsError> {
        self.optional().ok_or_else(|| ArgsError::NoValue(flag.to_owned()))
    }

    pub(crate) fn parsed<T>(&mut self, flag: &str) -> Result<T, ArgsError>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let value = self.value(flag)?;
        value.parse().map_err(|e: T::Err| bad(flag, &value, &e))
    }

    fn flag(&mut self, flag: &str) -> Result<(), ArgsError> {
        match flag {
            "--model" => self.model = Some(self.value(flag)?),
            "--host" => self.options.host = self.value(flag)?,
            "--port" => self.options.port = self.parsed(flag)?,
            "--served-model-name" => self.names(flag)?,
            "--max-model-len" => self.options.max_model_len = self.length(flag)?,
            "--reasoning-parser" => self.options.reasoning_parser = Some(self.value(flag)?),
            "--tool-call-parser" => self.options.tool_call_parser = Some(self.value(flag)?),
            "--enable-auto-tool-choice" => self.options.auto_tool_choice = true,
            "--enable-sleep-mode" => self.options.sleep_mode = true,
            "--limit-mm-per-prompt" => self.options.images = self.images(flag)?,
            "--sim-images" => self.options.images = Some(self.parsed(flag)?),
            "--sim-fault" => {
                let value = self.value(flag)?;
                let fault = serde_json::from_str(&value).map_err(|e| bad(flag, &value, &e))?;
                self.options.fault = fault;
            }
            _ if self.habit(flag)? || self.of_ollama(flag)? => {}
            _ if flag.starts_with("--sim-") => return Err(ArgsError::Unknown(flag.to_owned())),
            _ => {
                // Not known here: whatever stands behind it is taken for its value.
                if !SWITCHES.contains(&flag) {
                    let _ = self.optional();
                }
            }
        }
        Ok(())
    }

    /// Whether a flag stands on the command line.
    pub(crate) fn has(&self, flag: &str) -> bool {
        let is = |arg: &String| arg.split('=').next() == Some(flag);
        self.argv.iter().any(is)
    }

    fn names(&mut self, flag: &str) -> Result<(), ArgsError> {
        self.served = vec![self.value(flag)?];
        while let Some(name) = self.optional() {
            self.served.push(name);
        }
        Ok(())
    }

    /// A number, with `k` (1000) or `K` (1024) behind it if liked.
    fn length(&mut self, flag: &str) -> Result<u32, ArgsError> {
        let value = self.value(flag)?;
        let (digits, unit) = match value.as_bytes().last() {
            Some(b'k') => (&value[..value.len() - 1], 1000),
            Some(b'K') => (&value[..value.len() - 1], 1024),
            _ => (value.as_str(), 1),
        };
        let number: u32 = digits.parse().map_err(|e| bad(flag, &value, &e))?;
        number.checked_mul(unit).ok_or_else(|| bad(flag, &value, &"too large"))
    }

    /// `{"image": 2}` or `image=2`.
    fn images(&mut self, flag: &str) -> Result<Option<u32>, ArgsError> {
        #[derive(Deserialize)]
        struct Limit {
            image: Option<u32>,
        }
        let value = self.value(flag)?;
        if let Some(number) = value.strip_prefix("image=") {
            return number.parse().map(Some).map_err(|e| bad(flag, &value, &e));
        }
        let limit: Limit = serde_json::from_str(&value).map_err(|e| bad(flag, &value, &e))?;
        Ok(limit.image)
    }

    fn finish(self) -> Options {
        let mut options = self.options;
        if let Some(model) = self.model {
            options.served = vec![model.clone()];
            options.root = model;
        }
        if !self.served.is_empty() {
            options.served = self.served;
        }
        options
    }
}

/// Flags of vLLM that take no value, so that a model's path may follow them.
const SWITCHES: [&str; 16] = [
    "--trust-remote-code",
    "--enforce-eager",
    "--enable-prefix-caching",
    "--no-enable-prefix-caching",
    "--enable-chunked-prefill",
    "--no-enable-chunked-prefill",
    "--enable-expert-parallel",
    "--enable-lora",
    "--enable-request-id-headers",
    "--enable-prompt-tokens-details",
    "--enable-force-include-usage",
    "--enable-log-requests",
    "--disable-log-requests",
    "--disable-log-stats",
    "--disable-uvicorn-access-log",
    "--disable-custom-all-reduce",
];

pub(crate) fn bad(flag: &str, value: &str, problem: &dyn std::fmt::Display) -> ArgsError {
    ArgsError::BadValue {
        flag: flag.to_owned(),
        value: value.to_owned(),
        problem: problem.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn serve(line: &str) -> Options {
        match Options::from_args(line.split(' ').filter(|w| !w.is_empty()).map(Into::into)) {
            Ok(Command::Serve(options, _)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn without_arguments_it_is_like_vllm() {
        let o = serve("");
        assert_eq!((o.port, o.max_model_len, o.served[0].as_str()), (8000, 512, "tiny-a"));
    }

    #[test]
    fn the_real_flags_are_understood_in_both_forms() {
        let o = serve(
            "serve /models/x --served-model-name a b --port=81 --max-model-len 4k \
             --gpu-memory-utilization 0.9 --enforce-eager --chat-template=x.jinja \
             --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes \
             --limit-mm-per-prompt {\"image\":3} --not-known-at-all -1 --nor-this",
        );
        assert_eq!(o.served, ["a", "b"]);
        assert_eq!((o.root.as_str(), o.port, o.max_model_len), ("/models/x", 81, 4000));
        assert_eq!(o.reasoning_parser.as_deref(), Some("qwen3"));
        assert_eq!(o.tool_call_parser.as_deref(), Some("hermes"));
        assert!(o.auto_tool_choice);
        assert_eq!(o.images, Some(3));
        assert_eq!(o.argv.len(), 22);
    }

    #[test]
    fn a_model_may_follow_a_switch_and_be_named_by_flag() {
        assert_eq!(serve("serve --enforce-eager m").served, ["m"]);
        assert_eq!(serve("--model m --port 1").root, "m");
    }

    #[test]
    fn a_fault_that_is_not_known_is_named() {
        let args = ["--sim-fault", r#"{"tokns": 1}"#];
        let error = Options::from_args(args.iter().map(Into::into)).unwrap_err().to_string();
        assert!(error.contains("tokns"), "{error}");
        let args = ["--port", "many"];
        let error = Options::from_args(args.iter().map(Into::into)).unwrap_err();
        assert!(error.to_string().starts_with("argument --port"), "{error}");
    }
}
