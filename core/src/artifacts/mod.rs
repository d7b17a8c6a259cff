//! What a downloaded model is: its format, quantisation, size and template.
//!
//! Owns: what to read of a listing ([`wanted`]), and what that and the listing mean ([`recognise`]);
//! the heads of [`gguf`] and [`safetensors`] files; what the registry is to be told ([`normalize`]);
//! hashes that an entry has recorded ([`record`]).
//! Must never do: I/O; whoever does brings names, sizes and bytes. The bytes may be anybody's: none
//! may do harm.

mod config;
pub mod gguf;
pub mod normalize;
pub mod record;
pub mod safetensors;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::registry::template::{ADDITIONAL, Embedded, TOKENIZER_CONFIG, candidates, embedded};
use config::{CONFIG, Config, QUANTIZERS, Quantized};
use gguf::GgufError;

/// A file of a download.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct File {
    /// Below the download's directory, with `/` between parts.
    pub path: String,
    /// In bytes.
    pub size: u64,
}

/// What of a file is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it; it is a small one.
    Whole,
    /// As much of its begin as [`gguf::read`] needs.
    Gguf,
    /// As much of its begin as [`safetensors::head_size`] says.
    Safetensors,
}

/// Parts of files that were read, by path.
pub type Parts = BTreeMap<String, Vec<u8>>;

/// What a download is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// `gguf`, `awq`, `gptq`, `fp8`, `compressed-tensors`, `bitsandbytes`, `safetensors`, `pytorch`, …
    pub format: String,
    /// `Q4_K_M`, `awq`, `w4a16`, `BF16`, …; none: it cannot be told.
    pub quantization: Option<String>,
    /// Of all its files.
    pub size_bytes: u64,
    /// Their paths, sorted.
    pub files: Vec<String>,
    /// How much it can read, in tokens.
    pub context_window: Option<u64>,
    /// Its chat template.
    pub template: FoundTemplate,
    /// What it seems to be able to do besides text: `vision`, `audio`.
    pub capabilities: BTreeSet<&'static str>,
    /// `llama`, `Qwen2ForCausalLM`, …
    pub architecture: Option<String>,
    /// What is odd about it: parts that are missing, heads that are broken.
    pub oddities: Vec<String>,
}

/// Where a download has its chat template.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FoundTemplate {
    /// It has none.
    #[default]
    None,
    /// Inside of another file.
    Embedded,
    /// In this file, below the download's directory.
    External(String),
}

/// Why a listing is no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoModel {
    /// Nothing is there.
    #[error("there is no file in it")]
    Empty,
    /// Nothing that we know.
    #[error("there are no weights in it: no .safetensors, .gguf or .bin file")]
    NoWeights,
}

/// GGUF models whose heads are read; a directory with more than that is a shelf.
const MOST_HEADS: usize = 8;

/// What to read of these files, and how.
pub fn wanted(files: &[File]) -> Vec<(String, Part)> {
    let top = files.iter().map(|file| file.path.as_str()).filter(|path| !path.contains('/'));
    let is_text = |path: &&str| {
        *path == CONFIG
            || *path == TOKENIZER_CONFIG
            || QUANTIZERS.contains(path)
            || path.ends_with(".safetensors.index.json")
            || (path.starts_with("chat_template") && has_ending(path, "json"))
    };
    let texts = top.filter(is_text).map(|path| (path.to_owned(), Part::Whole));
    let shelf = Shelf::of(files);
    let models = shelf.models.values().filter_map(|parts| parts.first());
    let projectors = shelf.projectors.iter().take(2);
    let ggufs = models.take(MOST_HEADS).chain(projectors).map(|p| ((*p).to_owned(), Part::Gguf));
    let weights = weights_in(files, "safetensors").into_iter().take(1);
    let weights = weights.map(|path| (path.to_owned(), Part::Safetensors));
    texts.chain(ggufs).chain(weights).collect()
}

/// What these files are, by their names, sizes and the parts that were read.
pub fn recognise(files: &[File], parts: &Parts) -> Result<Found, NoModel> {
    if files.is_empty() {
        return Err(NoModel::Empty);
    }
    let mut found = Found {
        size_bytes: files.iter().fold(0, |sum, file| sum.saturating_add(file.size)),
        files: files.iter().map(|file| file.path.clone()).collect(),
        ..Found::default()
    };
    found.files.sort_unstable();
    let shelf = Shelf::of(files);
    if !weights_in(files, "safetensors").is_empty() {
        read_safetensors(&mut found, files, parts);
    } else if !shelf.models.is_empty() {
        read_gguf(&mut found, &shelf, parts);
    } else if !weights_in(files, "bin").is_empty() || !weights_in(files, "pth").is_empty() {
        "pytorch".clone_into(&mut found.format);
        read_config(&mut found, parts);
    } else {
        return Err(NoModel::NoWeights);
    }
    if found.template == FoundTemplate::None {
        found.template = template_in(&mut found.oddities, files, parts);
    }
    Ok(found)
}

fn has_ending(path: &str, ending: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case(ending))
}

/// Those at the top; where there are none, those below it. Adapters are no weights of a model.
fn weights_in<'a>(files: &'a [File], ending: &str) -> Vec<&'a str> {
    let named = |file: &&File| {
        has_ending(&file.path, ending) && !name_of(&file.path).starts_with("adapter_")
    };
    let all: Vec<&str> = files.iter().filter(named).map(|file| file.path.as_str()).collect();
    let mut top: Vec<&str> = all.iter().filter(|path| !path.contains('/')).copied().collect();
    if top.is_empty() {
        top = all;
    }
    top.sort_unstable();
    top
}

fn name_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// The GGUF files of a directory.
struct Shelf<'a> {
    /// By what their names have in common, the parts in order.
    models: BTreeMap<&'a str, Vec<&'a str>>,
    /// What lets a model see.
    projectors: Vec<&'a str>,
}

impl<'a> Shelf<'a> {
    fn of(files: &'a [File]) -> Self {
        let mut shelf = Shelf { models: BTreeMap::new(), projectors: Vec::new() };
        for path in weights_in(files, "gguf") {
            if name_of(path).to_ascii_lowercase().contains("mmproj") {
                shelf.projectors.push(path);
            } else {
                shelf.models.entry(model_of(path)).or_default().push(path);
            }
        }
        shelf
    }
}

/// The part that a file is, and of how many: `…-00001-of-00003.gguf`.
fn part_of(path: &str) -> Option<(&str, usize, usize)> {
    let (stem, _) = path.rsplit_once('.')?;
    let (rest, total) = stem.rsplit_once("-of-")?;
    let (model, part) = rest.rsplit_once('-')?;
    let number = |text: &str| {
        let is_number = (1..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| text.parse().ok()).flatten()
    };
    Some((model, number(part)?, number(total)?))
}

/// What the parts of one model have in common.
pub fn model_of(path: &str) -> &str {
    let whole = || path.rsplit_once('.').map_or(path, |(stem, _)| stem);
    part_of(path).map_or_else(whole, |(model, ..)| model)
}

fn read_gguf(found: &mut Found, shelf: &Shelf<'_>, parts: &Parts) {
    "gguf".clone_into(&mut found.format);
    if !shelf.projectors.is_empty() {
        read_projectors(found, shelf, parts);
    }
    if shelf.models.len() > 1 {
        let names: Vec<&str> = shelf.models.keys().copied().take(4).collect();
        let many = shelf.models.len();
        found.oddities.push(format!(
            "there are {many} models in it ({}, …): let `download_path` name one of the files",
            names.join(", ")
        ));
        return;
    }
    for (model, files) in &shelf.models {
        let total = files.first().and_then(|first| part_of(first)).map(|(_, _, total)| total);
        if let Some(total) = total.filter(|total| *total != files.len()) {
            let here = files.len();
            found.oddities.push(format!("{here} of {total} parts of {model} are here"));
        }
        if let Some((path, head)) = files.first().and_then(|path| parts.get_key_value(*path)) {
            read_gguf_head(found, path, head);
        }
    }
}

fn read_gguf_head(found: &mut Found, path: &str, head: &[u8]) {
    let header = match gguf::read(head) {
        Ok(header) => header,
        Err(error) => {
            found.oddities.push(format!("{path}: {error}"));
            let GgufError::Short(header) = error else { return };
            *header
        }
    };
    found.quantization = header.quantization.map(str::to_owned);
    found.context_window = header.context_length;
    found.architecture = header.architecture;
    if header.has_template {
        found.template = FoundTemplate::Embedded;
    }
}

/// One beside a model belongs to it, whatever its head says; what it is for, the head says.
fn read_projectors(found: &mut Found, shelf: &Shelf<'_>, parts: &Parts) {
    let heads = shelf.projectors.iter().filter_map(|path| parts.get(*path));
    for header in heads.filter_map(|head| gguf::read(head).ok()) {
        if header.has_audio {
            found.capabilities.insert("audio");
        }
        if header.has_vision {
            found.capabilities.insert("vision");
        }
    }
    if found.capabilities.is_empty() {
        found.capabilities.insert("vision");
    }
}

fn json(parts: &Parts, path: &str) -> Option<Value> {
    serde_json::from_slice(parts.get(path)?).ok()
}

/// What the settings files say; answers the precision that they claim.
fn read_config(found: &mut Found, parts: &Parts) -> Option<&'static str> {
    if parts.contains_key(CONFIG) && json(parts, CONFIG).is_none() {
        found.oddities.push(format!("{CONFIG} is no JSON"));
    }
    let config = json(parts, CONFIG).map(|json| Config::read(&json)).unwrap_or_default();
    let from_file =
        || QUANTIZERS.iter().find_map(|name| Quantized::of_file(name, &json(parts, name)?));
    let senses = [("vision", config.has_vision), ("audio", config.has_audio)];
    found.capabilities.extend(senses.into_iter().filter_map(|(name, has)| has.then_some(name)));
    found.context_window = config.context_window;
    found.architecture = config.architecture;
    found.quantization = config.precision.map(str::to_owned);
    if let Some(quantized) = config.quantized.or_else(from_file) {
        found.format = quantized.format;
        found.quantization = Some(quantized.name);
        return None;
    }
    config.precision
}

fn read_safetensors(found: &mut Found, files: &[File], parts: &Parts) {
    "safetensors".clone_into(&mut found.format);
    read_config(found, parts);
    let is_quantized = found.format != "safetensors";
    for (path, head) in parts.iter().filter(|(path, _)| has_ending(path, "safetensors")) {
        match safetensors::read(head) {
            Ok(counts) if !is_quantized => {
                if let Some(precision) = safetensors::precision(&counts) {
                    found.quantization = Some(precision.to_owned());
                }
            }
            Ok(_) => {}
            Err(error) => found.oddities.push(format!("{path}: {error}")),
        }
    }
    if !is_quantized && found.quantization.as_deref() == Some("FP8") {
        "fp8".clone_into(&mut found.format);
    }
    for (path, _) in parts.iter().filter(|(path, _)| path.ends_with(".safetensors.index.json")) {
        if let Some(missing) = json(parts, path).and_then(|index| missing_of(&index, files)) {
            found.oddities.push(missing);
        }
    }
}

/// Files that an index names and that are not there.
fn missing_of(index: &Value, files: &[File]) -> Option<String> {
    let here: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let named = index["weight_map"].as_object()?.values().filter_map(Value::as_str);
    let named: BTreeSet<&str> = named.collect();
    let missing: Vec<&str> = named.difference(&here).copied().collect();
    let shown = missing.iter().take(3).copied().collect::<Vec<_>>().join(", ");
    (!missing.is_empty())
        .then(|| format!("{} of {} parts are missing: {shown}", missing.len(), named.len()))
}

/// As the engine's launch looks for it (SPEC 5.1).
fn template_in(oddities: &mut Vec<String>, files: &[File], parts: &Parts) -> FoundTemplate {
    let below = |file: &File| file.path.split_once('/').is_some_and(|(dir, _)| dir == ADDITIONAL);
    if files.iter().any(below) {
        return FoundTemplate::Embedded;
    }
    let top = files.iter().map(|file| &file.path).filter(|path| !path.contains('/'));
    let names: Vec<String> = top.cloned().collect();
    for name in candidates(&names) {
        if has_ending(name, "jinja") {
            return FoundTemplate::External(name.to_owned());
        }
        match parts.get(name).map(|bytes| embedded(bytes)) {
            Some(Ok(Embedded::One(_) | Embedded::Several)) => return FoundTemplate::Embedded,
            Some(Ok(Embedded::None)) | None => {}
            Some(Err(_)) => oddities.push(format!("{name} is no JSON")),
        }
    }
    FoundTemplate::None
}

#[cfg(test)]
mod tests;
