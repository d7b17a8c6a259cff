//! A directory with a registry and downloads, and files as model hubs have them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::models_cli::run::{Models, Ran};
use crate::support::Daemon;

/// See the module.
pub struct Shop {
    _own: Option<TempDir>,
    dir: PathBuf,
    models: Models,
}

impl Shop {
    pub fn new(curated: Value, discovered: Value) -> Self {
        let own = tempfile::tempdir().expect("a directory");
        let dir = own.path().canonicalize().expect("a directory");
        write(&dir.join("registry/model_registry.curated.json"), curated.to_string().as_bytes());
        let discovered = discovered.to_string();
        write(&dir.join("registry/model_registry.discovered.json"), discovered.as_bytes());
        let shop = Shop { models: Models::at(&dir), _own: Some(own), dir };
        // Never the Ollama that whoever runs the tests may have.
        shop.settings("[ollama]\nollama_base_url = \"http://127.0.0.1:1\"\n");
        shop
    }

    /// The directory of a daemon.
    pub fn of(daemon: &Daemon) -> Self {
        Shop { _own: None, dir: daemon.path(""), models: Models::of(daemon) }
    }

    pub fn env(self, name: &str, value: &str) -> Self {
        let models = self.models.env(name, value);
        Shop { models, ..self }
    }

    pub fn settings(&self, more: &str) {
        let text = format!("[server]\nport = 0\nregistry_dir = \"registry\"\n{more}");
        write(&self.dir.join("chat_proxy.toml"), text.as_bytes());
    }

    pub fn dir(&self) -> String {
        self.dir.display().to_string()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.models.run(args)
    }

    pub fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.models.named(args);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program")
    }

    #[track_caller]
    pub fn discovered(&self) -> Value {
        self.json("model_registry.discovered.json")
    }

    #[track_caller]
    pub fn ghosts(&self) -> Value {
        self.json("model_registry.ghosts.json")
    }

    pub fn ghosts_exist(&self) -> bool {
        self.path("registry/model_registry.ghosts.json").exists()
    }

    #[track_caller]
    fn json(&self, name: &str) -> Value {
        let text = fs::read(self.dir.join("registry").join(name)).expect("a file");
        serde_json::from_slice(&text).expect("JSON")
    }
}

pub fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, bytes).expect("a file");
}

/// Sixteen numbers of this type.
pub fn safetensors(dtype: &str) -> Vec<u8> {
    let json = format!(r#"{{"w":{{"dtype":"{dtype}","shape":[4,4],"data_offsets":[0,32]}}}}"#);
    let size = (json.len() as u64).to_le_bytes();
    [&size[..], json.as_bytes(), &[0; 32]].concat()
}

/// A head, version 3: architecture, type of file, context, and perhaps a template.
pub fn gguf(file_type: u32, has_template: bool) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let string = |key: &str, value: &str| [text(key), vec![8, 0, 0, 0], text(value)].concat();
    let number = |key: &str, value: u32| {
        [text(key), vec![4, 0, 0, 0], value.to_le_bytes().to_vec()].concat()
    };
    let mut pairs = vec![
        string("general.architecture", "llama"),
        number("general.file_type", file_type),
        number("llama.context_length", 4096),
    ];
    if has_template {
        pairs.push(string("tokenizer.chat_template", "{{ messages }}"));
    }
    let count = (pairs.len() as u64).to_le_bytes();
    [b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0".to_vec(), count.to_vec(), pairs.concat()].concat()
}
