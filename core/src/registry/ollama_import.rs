//! The models of an Ollama as entries of the discovered layer (SPEC 9, `import-ollama`).
//!
//! Owns: what of Ollama's answers becomes which field, and the names of new entries. Must never do:
//! ask Ollama; add a second entry for a model that has one; or write a context that Ollama would
//! have to hold in memory because of it: what a model could read is noted beside, not ordered.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::edit::{Change, Layers, is_locked};
use super::endpoint::{Endpoint, Placement};
use super::layers::Layer;
use super::snapshot::Snapshot;
use crate::artifacts::normalize::Ghost;
use crate::chat::ollama::{Tag, same_model};

/// What `/api/show` says of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Show {
    /// `vision`, `tools`, `thinking`, …; none: that version does not say.
    pub capabilities: Option<Vec<String>>,
    /// What it was trained to read, in tokens.
    pub context_length: Option<u64>,
    /// The context that its Modelfile orders.
    pub num_ctx: Option<u64>,
    /// The form of its files, such as `gguf`.
    pub format: Option<String>,
}

impl Show {
    /// Reads the answer; `None`: it is none.
    pub fn parse(body: &[u8]) -> Option<Show> {
        #[derive(Deserialize)]
        struct Wire {
            capabilities: Option<Vec<String>>,
            #[serde(default)]
            model_info: Value,
            #[serde(default)]
            parameters: Value,
            #[serde(default)]
            details: Value,
        }
        let wire: Wire = serde_json::from_slice(body).ok()?;
        let architecture = wire.model_info["general.architecture"].as_str().unwrap_or_default();
        let length = wire.model_info.get(format!("{architecture}.context_length"));
        let lines = wire.parameters.as_str().unwrap_or_default().lines();
        let mut num_ctx =
            lines.filter_map(|line| line.trim().strip_prefix("num_ctx")?.trim().parse().ok());
        Some(Show {
            capabilities: wire.capabilities,
            context_length: length.and_then(Value::as_u64).filter(|length| *length > 0),
            num_ctx: num_ctx.next_back().filter(|length| *length > 0),
            format: wire.details["format"].as_str().filter(|f| !f.is_empty()).map(str::to_owned),
        })
    }
}

/// A model of the Ollama.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Its line of `/api/tags`.
    pub tag: Tag,
    /// What `/api/show` says, if it says anything.
    pub show: Option<Show>,
}

/// The Ollama that was asked.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    /// Where it is.
    pub server: &'a Endpoint,
    /// `backend_config.base_url` of its entries, where it is not the one of the settings.
    pub base_url: Option<&'a str>,
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is new.
    New,
    /// It gets other facts.
    Updated,
    /// All is known.
    Same,
    /// It is locked, and left alone.
    Locked,
    /// Ollama does not have it any more; the entry stays.
    Gone,
    /// Ollama does not have it any more, and the entry is dropped.
    Dropped,
}

impl Fate {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Fate::New => "new",
            Fate::Updated => "updated",
            Fate::Same => "unchanged",
            Fate::Locked => "locked",
            Fate::Gone => "gone",
            Fate::Dropped => "dropped",
        }
    }
}

/// One entry of the outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The entry's name.
    pub name: String,
    /// Its tag.
    pub tag: String,
    /// What becomes of it.
    pub fate: Fate,
    /// What is written of it.
    pub fields: Map<String, Value>,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// To the discovered layer.
    pub changes: Vec<Change>,
    /// All entries of that Ollama, in Ollama's order, then those that it does not have.
    pub rows: Vec<Row>,
    /// Entries that are dropped.
    pub ghosts: Vec<Ghost>,
}

/// Decides what is to be done; `snapshot` is that of the layers.
pub fn plan(
    layers: &Layers,
    snapshot: &Snapshot,
    source: &Source<'_>,
    models: &[Model],
    prune: bool,
) -> Plan {
    let known = known_at(snapshot, source.server);
    let mut plan = Plan::default();
    let mut taken: Vec<String> = layers.names().into_iter().map(str::to_owned).collect();
    for model in models {
        let tag = &model.tag.name;
        let own: Vec<&str> =
            known.iter().filter(|(_, t)| same_model(t, tag)).map(|(name, _)| *name).collect();
        let discovered: Vec<&str> = own
            .iter()
            .filter(|name| layers.in_layer(Layer::Discovered, name).is_some())
            .copied()
            .collect();
        match (own.first(), discovered.is_empty()) {
            (None, _) => plan.add(model, source, &mut taken),
            (Some(curated), true) => plan.update(layers, curated, model),
            _ => discovered.iter().for_each(|name| plan.update(layers, name, model)),
        }
    }
    for (name, tag) in &known {
        if !models.iter().any(|model| same_model(&model.tag.name, tag)) {
            plan.gone(layers, name, tag, prune);
        }
    }
    plan
}

/// Entries of this Ollama with their tags.
fn known_at<'a>(snapshot: &'a Snapshot, server: &Endpoint) -> Vec<(&'a str, &'a str)> {
    let entries = snapshot.entries().iter().enumerate();
    let known = entries.filter_map(|(position, entry)| match snapshot.placement(position) {
        Placement::Ollama(model) if model.server.base() == server.base() => {
            Some((entry.name.as_str(), model.tag.as_str()))
        }
        _ => None,
    });
    known.collect()
}

impl Plan {
    fn add(&mut self, model: &Model, source: &Source<'_>, taken: &mut Vec<String>) {
        let name = free_name(&entry_name(&model.tag), taken);
        taken.push(name.clone());
        let tag = model.tag.name.clone();
        let mut fields = Map::from_iter([
            ("display_name".to_owned(), json!(tag.strip_suffix(":latest").unwrap_or(&tag))),
            ("backend".to_owned(), json!("ollama")),
            ("served_model_id".to_owned(), json!(tag)),
        ]);
        if let Some(base) = source.base_url {
            fields.insert("backend_config".to_owned(), json!({"base_url": base}));
        }
        fields.extend(facts(model));
        self.changes.push(Change::Set { name: name.clone(), fields: fields.clone() });
        self.rows.push(Row { name, tag, fate: Fate::New, fields });
    }

    fn update(&mut self, layers: &Layers, name: &str, model: &Model) {
        let locked = layers.merged(name).is_some_and(|entry| is_locked(&entry));
        let mut fields = if locked { Map::new() } else { facts(model) };
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata")
            && layers.is_curated(name, &[])
        {
            // It is not tools alone who have made that one.
            metadata.shift_remove("registry_layer");
        }
        let there = layers.in_layer(Layer::Discovered, name).cloned().unwrap_or_default();
        let fields = news(&there, &fields);
        let fate = match fields.is_empty() {
            true if locked => Fate::Locked,
            true => Fate::Same,
            false => Fate::Updated,
        };
        if fate == Fate::Updated {
            self.changes.push(Change::Set { name: name.to_owned(), fields: fields.clone() });
        }
        let tag = model.tag.name.clone();
        self.rows.push(Row { name: name.to_owned(), tag, fate, fields });
    }

    fn gone(&mut self, layers: &Layers, name: &str, tag: &str, prune: bool) {
        let entry = layers.in_layer(Layer::Discovered, name);
        let entry = entry.filter(|entry| !layers.is_curated(name, &[]) && !is_locked(entry));
        let mut fate = Fate::Gone;
        if let Some(entry) = entry.filter(|_| prune) {
            fate = Fate::Dropped;
            self.changes.push(Change::Remove { name: name.to_owned() });
            let (name, path) = (name.to_owned(), tag.to_owned());
            self.ghosts.push(Ghost { name, path, entry: entry.clone() });
        }
        let (name, tag) = (name.to_owned(), tag.to_owned());
        self.rows.push(Row { name, tag, fate, fields: Map::new() });
    }
}

/// Of these fields those that say something new.
fn news(there: &Map<String, Value>, fields: &Map<String, Value>) -> Map<String, Value> {
    let new = fields.iter().filter_map(|(key, value)| match (there.get(key), value) {
        (Some(Value::Object(there)), Value::Object(fields)) => {
            let new = news(there, fields);
            (!new.is_empty()).then(|| (key.clone(), Value::Object(new)))
        }
        (Some(there), value) if there == value => None,
        (_, value) => Some((key.clone(), value.clone())),
    });
    new.collect()
}

/// What Ollama says of a model, as the registry writes it.
fn facts(model: &Model) -> Map<String, Value> {
    let (tag, show) = (&model.tag, model.show.clone().unwrap_or_default());
    let said = show.capabilities.or_else(|| tag.capabilities.clone());
    let mut facts = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        facts.extend(value.map(|value| (key.to_owned(), value)));
    };
    put("family", tag.family.as_deref().map(Value::from));
    put("quantization", tag.quantization.as_deref().map(Value::from));
    put("capabilities", said.as_deref().map(capabilities));
    put("download_format", Some(json!(show.format.as_deref().unwrap_or("gguf"))));
    put("download_size_bytes", tag.size.map(Value::from));
    put("generation_defaults", show.num_ctx.map(|tokens| json!({"context_window": tokens})));
    let mut metadata = Map::from_iter([("registry_layer".to_owned(), json!("discovered"))]);
    let more = [
        ("ollama_capabilities", said.map(Value::from)),
        ("trained_context_window", show.context_length.map(Value::from)),
        ("parameter_size", tag.parameter_size.as_deref().map(Value::from)),
    ];
    metadata.extend(more.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    facts.insert("metadata".to_owned(), Value::Object(metadata));
    facts
}

/// What decides about requests is said either way, the rest only where it is so.
fn capabilities(said: &[String]) -> Value {
    let can = |word: &str| said.iter().any(|known| known == word);
    let mut all =
        json!({"vision": can("vision"), "tools": can("tools"), "reasoning": can("thinking")});
    for word in ["embedding", "audio"] {
        if can(word) {
            all[word] = json!(true);
        }
    }
    all
}

/// `qwen2.5vl:7b` of `Q4_K_M` is `qwen2.5vl_7b_(Q4_K_M)`.
fn entry_name(tag: &Tag) -> String {
    let short = tag.name.strip_suffix(":latest").unwrap_or(&tag.name);
    let plain = |c: char| if matches!(c, ':' | '/') || c.is_whitespace() { '_' } else { c };
    let name: String = short.chars().map(plain).collect();
    match &tag.quantization {
        Some(quantization) if !name.to_lowercase().contains(&quantization.to_lowercase()) => {
            format!("{name}_({quantization})")
        }
        _ => name,
    }
}

fn free_name(name: &str, taken: &[String]) -> String {
    let is_free = |name: &String| !taken.contains(name) && !super::entry::is_reserved(name);
    let numbered = (2..).map(|number| format!("{name}_{number}"));
    std::iter::once(name.to_owned()).chain(numbered).find(is_free).unwrap_or_default()
}

#[cfg(test)]
mod tests;
