//! What Ollama has loaded and installed, and when two names mean one model.
//!
//! Owns: reading `/api/ps`, `/api/tags` and what `/api/show` says of abilities, and Ollama's rule for
//! names. Must never do: make up
//! what an older version leaves out; that stays absent.

use serde::Deserialize;

use super::line::{Nonsense, object};

/// A model in memory, as `/api/ps` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its name with its tag.
    pub name: String,
    /// All of its memory, in bytes.
    pub size: u64,
    /// The part that lies on GPUs: 0 = all on the CPU, less than `size` = split.
    pub size_vram: u64,
    /// The context that it was loaded with.
    pub context_length: Option<u64>,
    /// When it will be unloaded, as Ollama writes it.
    pub expires_at: Option<String>,
}

/// An installed model, as `/api/tags` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Its name with its tag.
    pub name: String,
    /// Its size on disk, in bytes.
    pub size: Option<u64>,
    /// The digest of its manifest.
    pub digest: Option<String>,
    /// What it can do; only recent versions say so.
    pub capabilities: Option<Vec<String>>,
    /// The architecture, such as `llama`.
    pub family: Option<String>,
    /// How many parameters, such as `8.0B`.
    pub parameter_size: Option<String>,
    /// How they are stored, such as `Q4_K_M`.
    pub quantization: Option<String>,
}

/// An empty list may be `null`; a body without any list is something else.
#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct List<T> {
    #[serde(deserialize_with = "Option::deserialize")]
    models: Option<Vec<T>>,
}

/// What a model can do, by `/api/show`; `None`: that version does not say.
pub fn parse_abilities(body: &[u8]) -> Result<Option<Vec<String>>, Nonsense> {
    #[derive(Deserialize)]
    struct Show {
        capabilities: Option<Vec<String>>,
    }
    object::<Show>(body).map(|show| show.capabilities)
}

#[derive(Deserialize)]
struct WireLoaded {
    name: String,
    size: Option<u64>,
    size_vram: Option<u64>,
    context_length: Option<u64>,
    expires_at: Option<String>,
}

#[derive(Deserialize)]
struct WireTag {
    name: String,
    size: Option<u64>,
    digest: Option<String>,
    capabilities: Option<Vec<String>>,
    details: Option<Details>,
}

#[derive(Default, Deserialize)]
struct Details {
    family: Option<String>,
    parameter_size: Option<String>,
    quantization_level: Option<String>,
}

/// Reads the answer of `/api/ps`.
pub fn parse_ps(body: &[u8]) -> Result<Vec<Loaded>, Nonsense> {
    let read = |model: WireLoaded| Loaded {
        name: model.name,
        size: model.size.unwrap_or(0),
        size_vram: model.size_vram.unwrap_or(0),
        context_length: model.context_length.filter(|length| *length > 0),
        expires_at: said(model.expires_at),
    };
    Ok(models(body)?.into_iter().map(read).collect())
}

/// Reads the answer of `/api/tags`.
pub fn parse_tags(body: &[u8]) -> Result<Vec<Tag>, Nonsense> {
    let read = |model: WireTag| {
        let details = model.details.unwrap_or_default();
        Tag {
            name: model.name,
            size: model.size,
            digest: said(model.digest),
            capabilities: model.capabilities,
            family: said(details.family),
            parameter_size: said(details.parameter_size),
            quantization: said(details.quantization_level),
        }
    };
    Ok(models(body)?.into_iter().map(read).collect())
}

fn models<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<Vec<T>, Nonsense> {
    let list: List<T> = object(body)?;
    Ok(list.models.unwrap_or_default())
}

fn said(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Whether two names mean the same model: a missing tag is `latest`, a missing namespace `library`,
/// a missing host Ollama's own, and case does not matter.
pub fn same_model(a: &str, b: &str) -> bool {
    let (a, b) = (Name::of(a), Name::of(b));
    let parts = [(a.host, b.host), (a.namespace, b.namespace), (a.model, b.model), (a.tag, b.tag)];
    parts.iter().all(|(a, b)| a.eq_ignore_ascii_case(b))
}

struct Name<'a> {
    host: &'a str,
    namespace: &'a str,
    model: &'a str,
    tag: &'a str,
}

impl<'a> Name<'a> {
    /// Reads `[[host/]namespace/]model[:tag]`; a host may have a port.
    fn of(text: &'a str) -> Self {
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, ""),
        };
        let (path, model) = path.rsplit_once('/').unwrap_or(("", path));
        let (host, namespace) = path.rsplit_once('/').unwrap_or(("", path));
        let or = |part: &'a str, default| if part.is_empty() { default } else { part };
        Name {
            host: or(host, "registry.ollama.ai"),
            namespace: or(namespace, "library"),
            model,
            tag: or(tag, "latest"),
        }
    }
}
