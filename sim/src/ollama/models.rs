//! Owns which models are installed: their names, what they can do, and how they are described.
//!
//! All of it follows from the name. Must never know whether a model is loaded.

use serde_json::{Value, json};

/// When all of them were installed.
pub(super) const MODIFIED: &str = "2026-01-02T03:04:05.678901234Z";
/// The context that a model has unless a request says otherwise.
pub(super) const CONTEXT: u64 = 4096;
/// The context that a model was made for.
const TRAINED: u64 = 32_768;
/// The length of an embedding.
pub(super) const EMBEDDING: usize = 8;
/// How many parts of a model can lie in the memory of the GPU.
const LAYERS: u64 = 33;

/// One installed model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Model {
    /// Its name with its tag, as it was installed.
    pub(super) name: String,
    /// What two names of one model have in common.
    key: String,
}

impl Model {
    pub(super) fn new(name: &str) -> Self {
        Self { name: tagged(name), key: key(name) }
    }

    /// Whether this name means it.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.key == key(name)
    }

    /// The name that it calls itself: without the tag that is understood.
    pub(super) fn own_name(&self) -> &str {
        self.name.strip_suffix(":latest").unwrap_or(&self.name)
    }

    fn has(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.key.contains(word))
    }

    /// It only makes vectors of texts.
    pub(super) fn embeds(&self) -> bool {
        self.has(&["embed"])
    }

    pub(super) fn thinks(&self) -> bool {
        !self.embeds() && self.has(&["think", "gpt-oss"])
    }

    /// It thinks with a level and cannot be told not to.
    pub(super) fn always_thinks(&self) -> bool {
        self.has(&["gpt-oss"])
    }

    pub(super) fn sees(&self) -> bool {
        !self.embeds() && self.has(&["vision", "vl"])
    }

    pub(super) fn calls_tools(&self) -> bool {
        !self.embeds() && !self.has(&["plain"])
    }

    /// What it can do, in Ollama's words.
    pub(super) fn capabilities(&self) -> Vec<&'static str> {
        if self.embeds() {
            return vec!["embedding"];
        }
        let all = [
            ("completion", true),
            ("vision", self.sees()),
            ("tools", self.calls_tools()),
            ("thinking", self.thinks()),
        ];
        all.into_iter().filter(|(_, can)| *can).map(|(word, _)| word).collect()
    }

    /// The bytes of its file.
    pub(super) fn size(&self) -> u64 {
        1_000_000_000 + self.number(0) % 1_000_000_000
    }

    /// The bytes of memory that it holds with such a context, and those of them in the GPU if so
    /// many of its layers are there.
    pub(super) fn memory(&self, context: u64, layers: Option<u64>) -> (u64, u64) {
        let size = self.size() + context * 100_000;
        let layers = layers.map_or(LAYERS, |n| n.min(LAYERS));
        (size, size / LAYERS * layers + if layers == LAYERS { size % LAYERS } else { 0 })
    }

    pub(super) fn digest(&self) -> String {
        let parts = [0, 1, 2, 3].map(|part| self.number(part));
        let [a, b, c, d] = parts;
        format!("{a:016x}{b:016x}{c:016x}{d:016x}")
    }

    /// Its line in `/api/tags`.
    pub(super) fn tag(&self) -> Value {
        json!({
            "name": self.name, "model": self.name, "modified_at": MODIFIED, "size": self.size(),
            "digest": self.digest(), "details": details(),
            "capabilities": self.capabilities(),
        })
    }

    /// What `/api/show` says.
    pub(super) fn show(&self) -> Value {
        let mut show = json!({
            "license": "nobody's", "modelfile": format!("FROM {}\n", self.name),
            "parameters": "temperature 0.7", "template": "{{ .Prompt }}",
            "details": details(),
            "model_info": {
                "general.architecture": "tiny", "general.parameter_count": 1_000_000_000,
                "tiny.context_length": TRAINED, "tiny.embedding_length": EMBEDDING,
            },
            "capabilities": self.capabilities(), "modified_at": MODIFIED,
        });
        if self.sees() {
            show["projector_info"] = json!({"general.architecture": "clip"});
        }
        show
    }

    /// A number that is always the same for this name.
    fn number(&self, part: u8) -> u64 {
        hash(part, &self.key)
    }
}

/// What is told of all of them alike.
pub(super) fn details() -> Value {
    json!({
        "parent_model": "", "format": "gguf", "family": "tiny", "families": ["tiny"],
        "parameter_size": "1B", "quantization_level": "Q4_K_M",
    })
}

/// A vector of length 1 that is always the same for this text.
pub(super) fn embedding(text: &str) -> Vec<f64> {
    let part = |i: usize| {
        let number = hash(u8::try_from(i).unwrap_or(0), text) % 2001;
        f64::from(u32::try_from(number).unwrap_or(0)) / 1000.0 - 1.0
    };
    let parts: Vec<f64> = (0..EMBEDDING).map(part).collect();
    let length = parts.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    parts.iter().map(|x| x / length).collect()
}

/// The same in every program and at every time (FNV-1a).
fn hash(part: u8, text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().chain([part]).fold(0xcbf2_9ce4_8422_2325, step)
}

/// A name with its tag.
fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or_default();
    if last.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

/// The long name, without regard to case.
fn key(name: &str) -> String {
    let name = tagged(name).to_lowercase();
    let short = name.strip_prefix("registry.ollama.ai/").unwrap_or(&name);
    short.strip_prefix("library/").unwrap_or(short).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_means_the_latest_and_case_does_not_matter() {
        let model = Model::new("tiny-a");
        assert_eq!((model.name.as_str(), model.own_name()), ("tiny-a:latest", "tiny-a"));
        for name in ["tiny-a", "tiny-a:latest", "Tiny-A:LATEST", "library/tiny-a"] {
            assert!(model.is_named(name), "{name}");
        }
        for name in ["tiny-a:7b", "tiny", "me/tiny-a"] {
            assert!(!model.is_named(name), "{name}");
        }
        assert_eq!(Model::new("host:1/ns/m").name, "host:1/ns/m:latest");
        assert_eq!(Model::new("b:7b").own_name(), "b:7b");
    }

    #[test]
    fn what_a_model_can_do_follows_from_its_name() {
        for (name, can) in [
            ("tiny-a", vec!["completion", "tools"]),
            ("tiny-think", vec!["completion", "tools", "thinking"]),
            ("gpt-oss:20b", vec!["completion", "tools", "thinking"]),
            ("tiny-vision", vec!["completion", "vision", "tools"]),
            ("qwen-vl", vec!["completion", "vision", "tools"]),
            ("tiny-plain", vec!["completion"]),
            ("tiny-embed", vec!["embedding"]),
        ] {
            assert_eq!(Model::new(name).capabilities(), can, "{name}");
        }
    }

    #[test]
    fn memory_is_split_by_layers() {
        let model = Model::new("m");
        let (size, vram) = model.memory(CONTEXT, None);
        assert_eq!(size, vram);
        assert_eq!(model.memory(CONTEXT, Some(99)), (size, size));
        assert_eq!(model.memory(CONTEXT, Some(0)), (size, 0));
        let (_, part) = model.memory(CONTEXT, Some(16));
        assert!(0 < part && part < size);
        assert!(model.memory(2 * CONTEXT, None).0 > size);
    }

    #[test]
    fn embeddings_have_length_one_and_differ() {
        let one = embedding("a");
        assert_eq!(one, embedding("a"));
        assert_ne!(one, embedding("b"));
        assert!((one.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
