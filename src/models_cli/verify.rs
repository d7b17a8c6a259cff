//! `verify NAME`: whether the files of a model are those that were recorded.

use std::collections::BTreeMap;

use chat_proxy_actors::artifacts::{Listing, directory_checksum, lines_checksum};
use chat_proxy_core::artifacts::record::{Checksum, Hashed, OWN, Recorded, RecordedFile, Verdict};
use chat_proxy_core::registry::edit::is_locked;
use serde_json::{Value, json};

use super::Tools;
use super::error::CliError;
use super::files::{Named, Reader, Registry};
use super::model::bytes;
use super::table::{Cell, Table};

/// Check a model's files against the hashes that were recorded of them.
///
/// Every file is read to its end. The exit code is 1 if any differs, or if nothing was recorded.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models verify qwen2.5vl_7b
  imageworks-models verify qwen2.5vl_7b --json | jq '.files[] | select(.result != \"same\")'")]
pub(super) struct Args {
    /// Any name of the model.
    #[arg(value_name = "NAME")]
    name: String,
}

pub(super) fn run(args: &Args, tools: &Tools) -> Result<(), CliError> {
    let registry = Registry::of(tools)?;
    let named = registry.named(tools, &args.name)?;
    let recorded = Recorded::of(&named.entry);
    if recorded.is_empty() {
        return Err(CliError::failed(
            format!("nothing is recorded of the files of {}", named.name),
            &format!("`imageworks-models lock {}` records their hashes", named.name),
        ));
    }
    let listing = named.files(&registry.places())?;
    for oddity in &listing.oddities {
        tools.out.note(&format!("{}: {oddity}", named.name));
    }
    let outcome = compare(&recorded, &listing);
    if tools.out.json {
        tools.out.value(&to_json(&outcome, &named, &listing))?;
    } else {
        show(&outcome, &listing, tools)?;
    }
    if outcome.is_good() {
        return Ok(());
    }
    let differ = outcome.differences().count();
    let message = match differ {
        0 => format!("the files of {} are not those that were recorded", named.name),
        1 => format!("1 file of {} is not as recorded", named.name),
        many => format!("{many} files of {} are not as recorded", named.name),
    };
    let hint = "fetch them anew, or `unlock` and `lock` if they are meant to be so";
    Err(CliError::failed(message, hint))
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    files: BTreeMap<String, Verdict>,
    /// Checksums over several files, and whether each is met; none: it was counted in another way.
    checksums: Vec<(Checksum, Option<bool>)>,
    read: u64,
}

impl Outcome {
    pub(super) fn is_good(&self) -> bool {
        self.files.values().all(Verdict::is_good)
            && self.checksums.iter().all(|(_, met)| *met != Some(false))
    }

    fn differences(&self) -> impl Iterator<Item = (&String, &Verdict)> {
        self.files.iter().filter(|(_, verdict)| !verdict.is_good())
    }
}

/// Reads what is recorded, and all the rest where a checksum is over that too.
pub(super) fn compare(recorded: &Recorded, listing: &Listing) -> Outcome {
    let mut reader = Reader::new(listing);
    let mut outcome = Outcome::default();
    let mut hashed: BTreeMap<String, Hashed> = BTreeMap::new();
    for file in &recorded.files {
        let verdict = check(file, listing, &mut reader, &mut hashed);
        outcome.files.insert(file.path.clone(), verdict);
    }
    if recorded.is_complete() || recorded.files.is_empty() {
        let others = listing.files.iter().filter(|file| !outcome.files.contains_key(&file.path));
        let others: Vec<&str> = others.map(|file| file.path.as_str()).collect();
        for path in others {
            match reader.read(path) {
                Ok(found) => {
                    hashed.insert(path.to_owned(), found);
                    if !recorded.files.is_empty() {
                        outcome.files.insert(path.to_owned(), Verdict::Unrecorded);
                    }
                }
                Err(error) => {
                    outcome.files.insert(path.to_owned(), Verdict::Unreadable(error.to_string()));
                }
            }
        }
    }
    outcome.read = hashed.values().map(|file| file.size).sum();
    let all: Vec<Hashed> = hashed.into_values().collect();
    let checks = recorded.checksums.iter().map(|checksum| {
        let met = is_met(checksum, &all, recorded.files.is_empty());
        (checksum.clone(), met)
    });
    outcome.checksums = checks.collect();
    outcome
}

fn check(
    file: &RecordedFile,
    listing: &Listing,
    reader: &mut Reader,
    hashed: &mut BTreeMap<String, Hashed>,
) -> Verdict {
    let listed = listing.files.iter().find(|listed| listed.path == file.path);
    match (listed, file.size) {
        // What has another size need not be read.
        (Some(listed), Some(recorded)) if listed.size != recorded => {
            return Verdict::Size { recorded, found: listed.size };
        }
        // Files of tools are not listed, but may have been recorded.
        (None, _) if !file.is_within() || !listing.root.join(&file.path).is_file() => {
            return Verdict::Missing;
        }
        _ => {}
    }
    match reader.read(&file.path) {
        Ok(found) => {
            let verdict = Verdict::of(file, &found);
            hashed.insert(file.path.clone(), found);
            verdict
        }
        Err(error) => Verdict::Unreadable(error.to_string()),
    }
}

/// Our own checksum says it for sure. Another one is met if it is counted in a way that we know;
/// if not, it says something only where nothing else does.
fn is_met(checksum: &Checksum, all: &[Hashed], is_alone: bool) -> Option<bool> {
    let is_digest = checksum.value.len() == 64;
    if [directory_checksum(all), lines_checksum(all)].contains(&checksum.value) {
        return Some(true);
    }
    let is_sure = checksum.field == OWN || (is_alone && is_digest);
    is_sure.then_some(false)
}

fn show(outcome: &Outcome, listing: &Listing, tools: &Tools) -> Result<(), CliError> {
    let mut table = Table::new(&["FILE", "RESULT"]);
    for (path, verdict) in outcome.differences() {
        table.row(vec![path.into(), Cell::from(verdict.words())]);
    }
    if outcome.differences().next().is_some() {
        tools.out.table(&table)?;
    }
    for (checksum, met) in &outcome.checksums {
        let field = checksum.field;
        match met {
            Some(true) => {}
            Some(false) => tools.out.line(&format!("{field} is not met"))?,
            // Where files differ, it goes without saying that what is over them does too.
            None if outcome.differences().next().is_some() => {}
            None => {
                tools.out.note(&format!("{field} was counted in another way, and is not compared"));
            }
        }
    }
    if !outcome.is_good() {
        return Ok(());
    }
    let files = match outcome.files.len() {
        // Only a checksum over all of them was recorded.
        0 => listing.files.len(),
        recorded => recorded,
    };
    let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
    tools.out.line(&format!("{files}, {}: all as recorded", bytes(outcome.read)))
}

fn to_json(outcome: &Outcome, named: &Named, listing: &Listing) -> Value {
    let file = |(path, verdict): (&String, &Verdict)| {
        let mut file = json!({"path": path, "result": verdict.as_str()});
        if let Verdict::Size { recorded, found } = verdict {
            file["recorded_size"] = json!(recorded);
            file["size"] = json!(found);
        }
        if let Verdict::Unreadable(why) = verdict {
            file["message"] = json!(why);
        }
        file
    };
    let checksum = |(checksum, met): &(Checksum, Option<bool>)| {
        let result = match met {
            Some(true) => "same",
            Some(false) => "differs",
            None => "not_comparable",
        };
        json!({"field": checksum.field, "recorded": checksum.value, "result": result})
    };
    json!({"model": named.name, "path": listing.root.display().to_string(),
        "ok": outcome.is_good(), "locked": is_locked(&named.entry),
        "files": outcome.files.iter().map(file).collect::<Vec<_>>(),
        "checksums": outcome.checksums.iter().map(checksum).collect::<Vec<_>>()})
}
