//! `lock NAME` and `unlock NAME`: a version that is not to change.

use chat_proxy_actors::artifacts::{Listing, directory_checksum};
use chat_proxy_actors::clock::rfc3339;
use chat_proxy_actors::registry::edit::Edits;
use chat_proxy_core::artifacts::normalize::Paths;
use chat_proxy_core::artifacts::record::{self, Hashed, Recorded};
use chat_proxy_core::registry::edit::{Change, is_locked};
use serde_json::json;

use super::Tools;
use super::error::CliError;
use super::files::{Named, Reader, Registry};
use super::model::bytes;

/// Record the hashes of a model's files, and lock its version.
///
/// Every file is read to its end. `verify` compares later; `normalize-formats` and `import-ollama`
/// leave what they have written of a locked model alone.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models lock qwen2.5vl_7b
  imageworks-models verify qwen2.5vl_7b")]
pub(super) struct LockArgs {
    /// Any name of the model.
    #[arg(value_name = "NAME")]
    name: String,
}

/// Unlock a model's version; the recorded hashes stay.
#[derive(clap::Args)]
#[command(after_help = "Example:
  imageworks-models unlock qwen2.5vl_7b")]
pub(super) struct UnlockArgs {
    /// Any name of the model.
    #[arg(value_name = "NAME")]
    name: String,
}

pub(super) fn lock(args: &LockArgs, tools: &Tools) -> Result<(), CliError> {
    let registry = Registry::of(tools)?;
    let named = registry.named(tools, &args.name)?;
    named.refuse_if_curated(&[&["version_lock"], &["artifacts"]])?;
    let listing = named.files(&registry.places())?;
    for oddity in &listing.oddities {
        tools.out.note(&format!("{}: {oddity}", named.name));
    }
    let files = read(&listing)?;
    let checksum = directory_checksum(&files);
    let size: u64 = files.iter().map(|file| file.size).sum();
    if is_locked(&named.entry) {
        return locked_before(&named, &checksum, tools);
    }
    write(&registry, &named, &files, &checksum)?;
    if tools.out.json {
        return tools.out.value(&json!({"model": named.name, "locked": true, "size_bytes": size,
            "files": files.len(), "directory_checksum": checksum}));
    }
    let many =
        if files.len() == 1 { "1 file".to_owned() } else { format!("{} files", files.len()) };
    tools.out.line(&format!(
        "{} is locked: {many}, {}, checksum {checksum}",
        named.name,
        bytes(size)
    ))
}

fn read(listing: &Listing) -> Result<Vec<Hashed>, CliError> {
    let mut reader = Reader::new(listing);
    let files = listing.files.iter().map(|file| {
        reader.read(&file.path).map_err(|error| CliError::Failed {
            message: format!("{}: {error}", listing.root.join(&file.path).display()),
            hint: None,
        })
    });
    files.collect()
}

/// What was locked is not locked anew with other files behind somebody's back.
fn locked_before(named: &Named, checksum: &str, tools: &Tools) -> Result<(), CliError> {
    let recorded = Recorded::of(&named.entry);
    if recorded.own() != Some(checksum) {
        return Err(CliError::failed(
            format!(
                "{} is locked already, and its files are not those that were recorded",
                named.name
            ),
            "`verify` tells which; `unlock` it first if they are meant to be so",
        ));
    }
    if tools.out.json {
        return tools.out.value(&json!({"model": named.name, "locked": true, "unchanged": true,
            "directory_checksum": checksum}));
    }
    tools.out.line(&format!("{} is locked already, and its files are as recorded", named.name))
}

/// Reading took its time: what was read must still be what the entry means.
fn write(
    registry: &Registry,
    named: &Named,
    files: &[Hashed],
    checksum: &str,
) -> Result<(), CliError> {
    let at = rfc3339();
    let (_, is_same) = registry.change(|opened| {
        let now = opened.layers.merged(&named.name).unwrap_or_default();
        if Paths::of(&now) != Paths::of(&named.entry) {
            return (Edits::default(), false);
        }
        let fields = record::lock(&now, files, checksum, &at);
        let change = Change::Set { name: named.name.clone(), fields };
        (Edits { changes: vec![change], dropped: Vec::new() }, true)
    })?;
    if is_same {
        return Ok(());
    }
    Err(CliError::failed(
        format!("the entry {} was changed while its files were read", named.name),
        "try again",
    ))
}

pub(super) fn unlock(args: &UnlockArgs, tools: &Tools) -> Result<(), CliError> {
    let registry = Registry::of(tools)?;
    let named = registry.named(tools, &args.name)?;
    named.refuse_if_curated(&[&["version_lock"]])?;
    let was_locked = is_locked(&named.entry);
    if was_locked {
        registry.set(&named.name, record::unlock())?;
    }
    if tools.out.json {
        return tools
            .out
            .value(&json!({"model": named.name, "locked": false, "unchanged": !was_locked}));
    }
    let told = if was_locked { "is unlocked; the recorded hashes stay" } else { "was not locked" };
    tools.out.line(&format!("{} {told}", named.name))
}
