//! Downloads on the disk: finding, looking at, hashing.
//!
//! Owns: walking a download with bounds, the reading of heads, hashes of files. Must never do: leave
//! the download's directory, but for the hub's own cache, whose files are links into its `blobs`;
//! open what is no regular file; write. Blocking: for command lines, not for threads that serve.

mod hash;
mod place;
mod walk;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use chat_proxy_core::artifacts::gguf::{self, GgufError};
use chat_proxy_core::artifacts::normalize::{Look, Looks, Paths, Sight};
use chat_proxy_core::artifacts::{
    File as Listed, FoundTemplate, Part, Parts, recognise, safetensors, wanted,
};
use serde_json::{Map, Value, json};

use crate::digest;
pub use hash::{Hashing, directory_checksum, hash, lines_checksum};
pub use place::{Places, Whereabouts};
pub use walk::{Listing, WalkError, list};

/// No settings file of a model is larger; tokenizers' may have some megabytes.
const LARGEST_TEXT: u64 = 64 << 20;
/// Heads of GGUF files hold the tokenizer, some megabytes of it.
const GGUF_HEADS: [u64; 4] = [1 << 20, 8 << 20, 32 << 20, 128 << 20];

/// Looks at everything that these entries name.
pub fn look_at(all: impl IntoIterator<Item = Paths>, places: &Places) -> Looks {
    let distinct: BTreeSet<Paths> = all.into_iter().collect();
    let look_at = |paths: Paths| {
        let look = look(&paths, places);
        (paths, look)
    };
    distinct.into_iter().map(look_at).collect()
}

fn look(paths: &Paths, places: &Places) -> Look {
    match places.find(paths) {
        Whereabouts::At(path) => match sight(&path) {
            Ok(sight) => Look::Found(Box::new(sight)),
            Err(why) => Look::Unclear(format!("{}: {why}", path.display())),
        },
        Whereabouts::Gone => Look::Gone,
        Whereabouts::Unclear(why) => Look::Unclear(why),
    }
}

/// What a download is.
fn sight(path: &Path) -> Result<Sight, String> {
    let listing = list(path).map_err(|error| error.to_string())?;
    let mut oddities = listing.oddities.clone();
    let parts = read_parts(&listing.root, &listing.files, &mut oddities);
    let mut found = recognise(&listing.files, &parts).map_err(|no_model| no_model.to_string())?;
    found.oddities.append(&mut oddities);
    let template = template_of(&listing.root, &found.template);
    Ok(Sight { found, template })
}

fn read_parts(root: &Path, files: &[Listed], oddities: &mut Vec<String>) -> Parts {
    let mut parts = Parts::new();
    for (path, part) in wanted(files) {
        match read_part(&root.join(&path), part) {
            Ok(bytes) => {
                parts.insert(path, bytes);
            }
            Err(error) => oddities.push(format!("{path}: {error}")),
        }
    }
    parts
}

fn read_part(path: &Path, part: Part) -> io::Result<Vec<u8>> {
    match part {
        Part::Whole => {
            let bytes = begin_of(path, LARGEST_TEXT + 1)?;
            if bytes.len() as u64 > LARGEST_TEXT {
                return Err(io::Error::other(format!("it is larger than {LARGEST_TEXT} bytes")));
            }
            Ok(bytes)
        }
        Part::Safetensors => {
            let begin = begin_of(path, 8)?;
            match safetensors::head_size(&begin) {
                Ok(size) => begin_of(path, size),
                // Whoever reads it says what is wrong with it.
                Err(_) => Ok(begin),
            }
        }
        Part::Gguf => {
            let mut bytes = Vec::new();
            for size in GGUF_HEADS {
                bytes = begin_of(path, size)?;
                let is_short = matches!(gguf::read(&bytes), Err(GgufError::Short(_)));
                if !is_short || (bytes.len() as u64) < size {
                    break;
                }
            }
            Ok(bytes)
        }
    }
}

fn begin_of(path: &Path, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `chat_template`, as the registry writes it.
fn template_of(root: &Path, template: &FoundTemplate) -> Option<Map<String, Value>> {
    let value = match template {
        FoundTemplate::None => return None,
        FoundTemplate::Embedded => json!({"source": "embedded"}),
        FoundTemplate::External(name) => {
            let path: PathBuf = root.join(name);
            let mut value = json!({"source": "external", "path": path.display().to_string()});
            if let Ok(text) = read_part(&path, Part::Whole) {
                value["sha256"] = json!(digest::whole(&text));
            }
            value
        }
    };
    value.as_object().cloned()
}

/// Whether something is there; an error says that it is not known.
fn is_there(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
