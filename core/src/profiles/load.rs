//! The file of profiles into typed ones.
//!
//! Owns: its sections, what its keys mean, how it goes before what is built in. Must never do: stop
//! at the first problem.

use std::collections::BTreeMap;
use std::ops::Range;

use toml_edit::{Document, Item, Key, TableLike};

use super::choose::AUTO;
use super::fields::{Fields, Source, did_you_mean};
use super::{Bias, DeploymentProfile, Detect, HardwareProfile, Profiles, RoleRule, Strategy};
use crate::config::Problem;
use crate::registry::capabilities::canonical;

/// What is shipped, and counts where the file is silent.
const BUILT_IN: &str = include_str!("../../../configs/deployment_profiles.toml");

const SECTIONS: &[&str] = &["deployment", "hardware", "roles"];
/// No GPU, nor all of a machine's, has more (MB).
const MOST_MB: u64 = 16_777_216;
const DAY_S: u64 = 86_400;

impl Profiles {
    /// What is built in.
    pub fn built_in() -> Profiles {
        // The file parses: a test holds it.
        read("built-in profiles", BUILT_IN, Profiles::default()).unwrap_or_default()
    }

    /// What is built in, under the file of that name and text. `Err` holds every problem there is.
    pub fn load(file: Option<(&str, &str)>) -> Result<Profiles, Vec<Problem>> {
        match file {
            Some((path, text)) => read(path, text, Profiles::built_in()),
            None => Ok(Profiles::built_in()),
        }
    }
}

fn read(path: &str, text: &str, below: Profiles) -> Result<Profiles, Vec<Problem>> {
    let source = Source { path, text, problems: Vec::new() };
    let mut reader = Reader { source, profiles: below };
    match Document::parse(text) {
        Ok(document) => reader.document(document.as_table()),
        Err(error) => {
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            reader.source.problem(error.span(), format!("not TOML: {message}"));
        }
    }
    let Reader { source, profiles } = reader;
    if source.problems.is_empty() { Ok(profiles) } else { Err(source.problems) }
}

struct Reader<'a> {
    source: Source<'a>,
    profiles: Profiles,
}

impl Reader<'_> {
    fn document(&mut self, document: &dyn TableLike) {
        let mut heads = BTreeMap::new();
        for (section, item) in document.iter() {
            let span = document.key(section).and_then(Key::span).or_else(|| item.span());
            let table = item.as_table_like();
            match table.filter(|_| SECTIONS.contains(&section)) {
                Some(tables) => self.section(section, tables, &mut heads),
                None => self.source.problem(span.or_else(|| deep(item)), no_section(section)),
            }
        }
        self.one_name_one_meaning(&heads);
    }

    fn section(&mut self, section: &str, tables: &dyn TableLike, heads: &mut Heads) {
        for (name, item) in tables.iter() {
            let head = tables.key(name).and_then(Key::span).or_else(|| item.span());
            let full = format!("{section}.{name}");
            let Some(table) = item.as_table_like() else {
                let message = format!("{full} must be a table: [{section}.NAME]");
                self.source.problem(head, message);
                continue;
            };
            if let Err(message) = check_name(&full, name) {
                self.source.problem(head.clone(), message);
                continue;
            }
            if section != "roles" {
                heads.insert((section.to_owned(), name.to_owned()), head.clone());
            }
            let mut fields = Fields { source: &mut self.source, name: full, table, head };
            let name = name.to_owned();
            match section {
                "deployment" => {
                    let profile = deployment(name, &mut fields);
                    self.profiles.deployments.insert(profile.name.clone(), profile);
                }
                "hardware" => {
                    let profile = hardware(name, &mut fields);
                    self.profiles.hardware.insert(profile.name.clone(), profile);
                }
                _ => {
                    let rule = role(name, &mut fields);
                    self.profiles.roles.insert(rule.name.clone(), rule);
                }
            }
        }
    }

    /// A profile is switched by its name alone, so that must say which kind is meant.
    fn one_name_one_meaning(&mut self, heads: &Heads) {
        let Profiles { deployments, hardware, .. } = &self.profiles;
        let both = |name: &str| deployments.contains_key(name) && hardware.contains_key(name);
        for ((section, name), head) in heads.iter().filter(|((_, name), _)| both(name)) {
            let other = if section == "hardware" { "deployment" } else { "hardware" };
            let message =
                format!("[{section}.{name}]: {name} is a {other} profile; use another name");
            self.source.problem(head.clone(), message);
        }
    }
}

/// Where profiles of the file begin, by section and name.
type Heads = BTreeMap<(String, String), Option<Range<usize>>>;

/// A table that is only there for those in it has no place of its own.
fn deep(item: &Item) -> Option<Range<usize>> {
    let table = item.as_table_like()?;
    table.iter().find_map(|(key, _)| table.key(key).and_then(Key::span))
}

fn no_section(name: &str) -> String {
    if SECTIONS.contains(&name) {
        return format!("{name} must be tables: [{name}.NAME]");
    }
    let near = did_you_mean(name, SECTIONS.iter().copied())
        .unwrap_or_else(|| "; there are deployment, hardware and roles".to_owned());
    format!("there is no section [{name}]{near}")
}

fn check_name(full: &str, name: &str) -> Result<(), String> {
    if name == AUTO {
        return Err(format!("[{full}]: {AUTO} means a choice by the GPUs; use another name"));
    }
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c);
    if name.is_empty() || !name.chars().all(fits) {
        return Err(format!("[{full}]: use lower-case letters, digits, _, - and . in names"));
    }
    Ok(())
}

fn deployment(name: String, fields: &mut Fields<'_, '_>) -> DeploymentProfile {
    fields.only(&["description", "include_test_models"]);
    DeploymentProfile {
        name,
        description: fields.text("description").unwrap_or_default(),
        include_test_models: fields.truth("include_test_models").unwrap_or_default(),
    }
}

fn hardware(name: String, fields: &mut Fields<'_, '_>) -> HardwareProfile {
    fields.only(&[
        "description",
        "max_vram_mb",
        "max_concurrent_models",
        "preferred_quantizations",
        "strategy",
        "autostart_timeout_seconds",
        "grace_period_seconds",
        "model_selection_bias",
        "detect",
    ]);
    if fields.table.get("max_vram_mb").is_none() {
        let message = format!("[{}] needs max_vram_mb: what a model may need, in MB", fields.name);
        fields.source.problem(fields.head.clone(), message);
    }
    let models = fields.whole("max_concurrent_models", 1..=64).unwrap_or(1);
    let strategy = fields.choice("strategy", Strategy::WORDS).unwrap_or_default();
    if models > 1 && strategy == Strategy::OneAtATime {
        let message = format!(
            "max_concurrent_models of [{}] is {models}, and its strategy one_at_a_time: use 1, or \
             strategy side_by_side or spread",
            fields.name
        );
        fields.source.problem(fields.span("max_concurrent_models"), message);
    }
    HardwareProfile {
        name,
        description: fields.text("description").unwrap_or_default(),
        max_vram_mb: fields.whole("max_vram_mb", 1..=MOST_MB).unwrap_or(1),
        max_concurrent_models: usize::try_from(models).unwrap_or(1),
        preferred_quantizations: fields.texts("preferred_quantizations"),
        strategy,
        autostart_timeout: fields.seconds("autostart_timeout_seconds", 1..=DAY_S),
        grace_period: fields.seconds("grace_period_seconds", 0..=30 * DAY_S),
        bias: fields.choice("model_selection_bias", Bias::WORDS).unwrap_or_default(),
        detect: detect(fields),
    }
}

fn detect(fields: &mut Fields<'_, '_>) -> Option<Detect> {
    let item = fields.table.get("detect")?;
    let head = fields.span("detect");
    let name = format!("{}.detect", fields.name);
    let Some(table) = item.as_table_like() else {
        let message = format!("[{name}] must be a table {{gpus, gpu_mb, total_mb}}");
        fields.source.problem(head, message);
        return None;
    };
    let mut inner = Fields { source: &mut *fields.source, name, table, head };
    inner.only(&["gpus", "gpu_mb", "total_mb"]);
    let gpus = inner.whole("gpus", 1..=64).unwrap_or(1);
    Some(Detect {
        gpus: usize::try_from(gpus).unwrap_or(1),
        gpu_mb: inner.whole("gpu_mb", 0..=MOST_MB).unwrap_or(0),
        total_mb: inner.whole("total_mb", 0..=MOST_MB).unwrap_or(0),
    })
}

fn role(name: String, fields: &mut Fields<'_, '_>) -> RoleRule {
    fields.only(&["description", "required_capabilities"]);
    let mut required: Vec<String> =
        fields.texts("required_capabilities").iter().map(|name| canonical(name)).collect();
    required.sort();
    required.dedup();
    RoleRule {
        name,
        description: fields.text("description").unwrap_or_default(),
        required_capabilities: required,
    }
}
