//! Models as the daemon tells them, or as the registry's files do where no daemon runs here.
//!
//! Owns: which of the two it is, and saying so; reading an item of the list. Must never do: read
//! the files of this machine for a daemon elsewhere, or write them.

use std::collections::BTreeMap;

use chat_proxy_actors::registry::{self, View};
use chat_proxy_core::registry::layers::Layer;
use serde_json::{Value, json};

use super::Tools;
use super::daemon::{Daemon, in_path};
use super::error::CliError;

/// What is said where the files are read.
pub(super) const FROM_FILES: &str = "the daemon does not run; read from the files";

/// Models, and where they are known from.
pub(super) struct Models {
    /// As `GET /v1/models` has them.
    pub(super) items: Vec<Value>,
    pub(super) source: &'static str,
    /// By logical name; of all that are known.
    known: BTreeMap<String, Known>,
}

/// What the list does not tell.
#[derive(Debug, Clone, Default)]
struct Known {
    backend: String,
    layers: Vec<String>,
}

/// One model to be shown.
pub(super) struct Model<'a> {
    pub(super) item: &'a Value,
    known: Option<&'a Known>,
}

/// All that are listed.
pub(super) async fn all(tools: &Tools) -> Result<Models, CliError> {
    or_files(tools, listed(tools).await, |view| {
        let items = view.listing.shown.iter().map(|position| &view.listing.items[*position]);
        items.map(|item| json!(item)).collect()
    })
}

/// One, by any of its names.
pub(super) async fn one(tools: &Tools, name: &str) -> Result<Models, CliError> {
    let told = named(tools, name).await;
    let mut position = Ok(0);
    let models = or_files(tools, told, |view| {
        position = view.snapshot.position(name);
        let item = position.as_ref().ok().and_then(|position| view.listing.items.get(*position));
        item.map(|item| json!(item)).into_iter().collect()
    })?;
    position?;
    Ok(models)
}

/// What the daemon has told; or what is in the files, where none runs on this machine.
fn or_files(
    tools: &Tools,
    told: Result<Models, CliError>,
    items: impl FnOnce(&View) -> Vec<Value>,
) -> Result<Models, CliError> {
    match told {
        Err(absence) if absence.is_absence() && tools.place.is_here() => {}
        told => return told,
    }
    let settings = tools.place.registry()?;
    let view = registry::inspect(&settings)?;
    tools.out.note(FROM_FILES);
    for problem in view.snapshot.problems() {
        tools.out.note(&format!("warning: {problem}"));
    }
    let mut items = items(&view);
    items.iter_mut().for_each(forget_state);
    Ok(Models { items, source: "files", known: known_of(&view) })
}

/// Without a daemon nobody knows what runs.
fn forget_state(item: &mut Value) {
    let shown = &mut item["extensions"];
    if shown["state"] != "external" {
        shown["state"] = json!("unknown");
        shown["active"] = Value::Null;
    }
}

fn known_of(view: &View) -> BTreeMap<String, Known> {
    let word = |layer: &Layer| json!(layer).as_str().unwrap_or_default().to_owned();
    let known = view.snapshot.entries().iter().enumerate().map(|(position, entry)| {
        let layers = view.snapshot.layers(position).iter().map(word).collect();
        (entry.name.clone(), Known { backend: entry.backend.clone(), layers })
    });
    known.collect()
}

async fn listed(tools: &Tools) -> Result<Models, CliError> {
    let daemon = tools.daemon()?;
    let mut list = daemon.get("/v1/models").await?;
    let items = list["data"].as_array_mut().map(std::mem::take).unwrap_or_default();
    Ok(Models { items, source: "daemon", known: ask_known(&daemon).await })
}

async fn named(tools: &Tools, name: &str) -> Result<Models, CliError> {
    let daemon = tools.daemon()?;
    let item = daemon.get(&format!("/v1/models/{}", in_path(name))).await?;
    Ok(Models { items: vec![item], source: "daemon", known: ask_known(&daemon).await })
}

/// Told to admins only; others do without.
async fn ask_known(daemon: &Daemon) -> BTreeMap<String, Known> {
    let told = daemon.get("/v1/debug/registry").await.unwrap_or_default();
    let entries = told["entries"].as_array().into_iter().flatten();
    let known = entries.filter_map(|entry| {
        let known = Known {
            backend: text(&entry["backend"]),
            layers: words(&entry["layers"]).map(str::to_owned).collect(),
        };
        Some((entry["name"].as_str()?.to_owned(), known))
    });
    known.collect()
}

impl Models {
    #[cfg(test)]
    pub(super) fn of_items(items: Vec<Value>) -> Self {
        Models { items, source: "daemon", known: BTreeMap::new() }
    }

    pub(super) fn models(&self) -> impl Iterator<Item = Model<'_>> {
        self.items.iter().map(|item| {
            let name = item["extensions"]["logical_id"].as_str().unwrap_or_default();
            Model { item, known: self.known.get(name) }
        })
    }
}

impl Model<'_> {
    /// A text of the item's extensions; empty where it has none.
    pub(super) fn text(&self, key: &str) -> String {
        text(&self.item["extensions"][key])
    }

    /// Names of a list, one behind the other.
    pub(super) fn list(&self, key: &str) -> String {
        words(&self.item["extensions"][key]).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn id(&self) -> String {
        text(&self.item["id"])
    }

    pub(super) fn name(&self) -> String {
        self.text("logical_id")
    }

    pub(super) fn backend(&self) -> String {
        self.known.map_or_else(|| self.text("backend"), |known| known.backend.clone())
    }

    pub(super) fn layers(&self) -> String {
        self.known.map_or_else(String::new, |known| known.layers.join(" over "))
    }

    /// What is not known is not said.
    pub(super) fn state(&self) -> String {
        Some(self.text("state")).filter(|state| state != "unknown").unwrap_or_default()
    }

    pub(super) fn size(&self) -> String {
        self.item["extensions"]["size_bytes"].as_u64().map_or_else(String::new, bytes)
    }

    pub(super) fn context(&self) -> String {
        let window = self.item["extensions"]["context_window"].as_u64();
        window.map_or_else(String::new, |tokens| tokens.to_string())
    }

    /// What it can do, apart from text.
    pub(super) fn capabilities(&self) -> String {
        let all = self.item["extensions"]["capabilities"].as_object();
        let able = all.into_iter().flatten().filter(|(_, can)| **can == json!(true));
        able.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn has_role(&self, role: &str) -> bool {
        words(&self.item["extensions"]["roles"]).any(|own| own == role)
    }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(super) fn words(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// A number as it is; empty where there is none.
pub(super) fn number(value: &Value) -> String {
    if value.is_number() { value.to_string() } else { String::new() }
}

/// Bytes for people, in powers of ten as disks and model hubs count.
pub(super) fn bytes(count: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut tenths = count / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < units.len() {
        (tenths, unit) = (tenths / 1000, unit + 1);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 999, 1000, 1_949, 999_949, 1_000_000, 4_661_224_676, 140_000_000_000_000];
        let shown: Vec<String> = sizes.iter().map(|size| bytes(*size)).collect();
        insta::assert_snapshot!(shown.join(", "), @"0 B, 999 B, 1.0 kB, 1.9 kB, 999.9 kB, 1.0 MB, 4.6 GB, 140.0 TB");
    }
}
