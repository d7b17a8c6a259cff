//! The files of a download.
//!
//! Owns: which files belong to it. Must never do: follow a link out of it, but into the `blobs` of the
//! hub's cache that it lies in; or go on for ever.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chat_proxy_core::artifacts::{File, model_of};

/// Directories within directories.
const DEEPEST: usize = 8;
/// No model has so many files.
const MOST_FILES: usize = 20_000;
/// Names that are told of each kind of oddity.
const MOST_TOLD: usize = 3;

/// What belongs to a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The directory that paths are seen from.
    pub root: PathBuf,
    /// Sorted by path.
    pub files: Vec<File>,
    /// What was left out, and why.
    pub oddities: Vec<String>,
}

/// Why there is no listing.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// More files than any model has.
    #[error("there are more than {MOST_FILES} files in it: it is no model's own directory")]
    TooMany,
    /// Something else than a file or a directory.
    #[error("it is neither a directory nor a file")]
    Neither,
}

/// Lists what belongs to the model at this path: a directory, a version in the hub's cache, or a file
/// with its parts. What begins with a dot belongs to tools.
pub fn list(path: &Path) -> Result<Listing, WalkError> {
    let meta = fs::metadata(path)?;
    if meta.is_file() {
        return list_beside(path);
    }
    if !meta.is_dir() {
        return Err(WalkError::Neither);
    }
    let root = version_of(path).unwrap_or_else(|| path.to_owned());
    let mut walk = Walk::new(&root)?;
    walk.directory(&root, "", 0)?;
    Ok(walk.listing(root))
}

/// The directory of a model in the hub's cache holds versions; the one that `main` means, else the
/// only one.
fn version_of(path: &Path) -> Option<PathBuf> {
    let versions = path.join("snapshots");
    if !path.join("blobs").is_dir() || !versions.is_dir() {
        return None;
    }
    let named = fs::read_to_string(path.join("refs/main")).ok();
    let named = named.map(|name| versions.join(name.trim())).filter(|path| path.is_dir());
    named.or_else(|| {
        let mut all = fs::read_dir(&versions).ok()?.flatten().map(|entry| entry.path());
        let only = all.next()?;
        all.next().is_none().then_some(only)
    })
}

/// A file, its other parts, and what lets it see if there is no other model beside it.
fn list_beside(path: &Path) -> Result<Listing, WalkError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let root = parent.unwrap_or(Path::new(".")).to_owned();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut walk = Walk::new(&root)?;
    walk.is_shallow = true;
    walk.directory(&root, "", 0)?;
    let mut listing = walk.listing(root);
    // What else lies there is none of its business.
    listing.oddities.clear();
    let model = model_of(&name).to_owned();
    let is_gguf = |file: &File| file.path.to_ascii_lowercase().ends_with(".gguf");
    let is_projector = |file: &File| file.path.to_ascii_lowercase().contains("mmproj");
    let is_other =
        |file: &File| is_gguf(file) && !is_projector(file) && model_of(&file.path) != model;
    let is_alone = !listing.files.iter().any(is_other);
    let belongs = |file: &File| {
        file.path == name
            || (is_gguf(file) && model_of(&file.path) == model)
            || (is_alone && is_gguf(file) && is_projector(file))
    };
    listing.files.retain(belongs);
    if !listing.files.iter().any(|file| file.path == name) {
        // A link to where the file really is.
        let real = fs::canonicalize(path)?;
        let size = fs::metadata(&real)?.len();
        let root = real.parent().unwrap_or(Path::new("/")).to_owned();
        let path = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(Listing { root, files: vec![File { path, size }], oddities: Vec::new() });
    }
    Ok(listing)
}

struct Walk {
    /// Where files may really be.
    homes: Vec<PathBuf>,
    is_shallow: bool,
    files: Vec<File>,
    left_out: BTreeMap<&'static str, Vec<String>>,
}

impl Walk {
    fn new(root: &Path) -> io::Result<Self> {
        let real = fs::canonicalize(root)?;
        let blobs = blobs_of(&real);
        let homes = std::iter::once(real).chain(blobs).collect();
        Ok(Walk { homes, is_shallow: false, files: Vec::new(), left_out: BTreeMap::new() })
    }

    fn leave_out(&mut self, why: &'static str, path: String) {
        self.left_out.entry(why).or_default().push(path);
    }

    fn directory(&mut self, dir: &Path, below: &str, depth: usize) -> Result<(), WalkError> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                self.leave_out("no UTF-8", entry.file_name().to_string_lossy().into_owned());
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                match (self.is_shallow, depth + 1 < DEEPEST) {
                    (true, _) => {}
                    (false, true) => self.directory(&entry.path(), &path, depth + 1)?,
                    (false, false) => self.leave_out("too deep", path),
                }
            } else {
                self.file(&entry.path(), path, kind.is_symlink());
            }
            if self.files.len() > MOST_FILES {
                return Err(WalkError::TooMany);
            }
        }
        Ok(())
    }

    fn file(&mut self, real: &Path, path: String, is_link: bool) {
        if is_link {
            match fs::canonicalize(real) {
                Ok(target) if self.homes.iter().any(|home| target.starts_with(home)) => {}
                Ok(_) => return self.leave_out("links to elsewhere", path),
                Err(_) => return self.leave_out("links to nothing", path),
            }
        }
        match fs::metadata(real) {
            Ok(meta) if meta.is_file() => self.files.push(File { path, size: meta.len() }),
            // Directories that are linked within, sockets and such.
            Ok(_) => self.leave_out("no regular files", path),
            Err(_) => self.leave_out("not to be read", path),
        }
    }

    fn listing(mut self, root: PathBuf) -> Listing {
        self.files.sort_unstable();
        let told = self.left_out.iter_mut().map(|(why, paths)| {
            paths.sort_unstable();
            let some: Vec<&str> = paths.iter().take(MOST_TOLD).map(String::as_str).collect();
            let more = if paths.len() > MOST_TOLD { ", …" } else { "" };
            format!("left out, {why}: {}{more}", some.join(", "))
        });
        Listing { root, oddities: told.collect(), files: self.files }
    }
}

/// `models--x/snapshots/<version>` has its files in `models--x/blobs`.
fn blobs_of(real: &Path) -> Option<PathBuf> {
    let snapshots = real.parent().filter(|parent| parent.ends_with("snapshots"))?;
    fs::canonicalize(snapshots.parent()?.join("blobs")).ok()
}
