//! Rotation of a file by renaming: `x` becomes `x.1`, `x.1` becomes `x.2`, and so on.

use std::io;
use std::path::{Path, PathBuf};

/// `x.jsonl` → `x.jsonl.1` → … ; what would be number `keep + 1` goes.
pub(crate) fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    if keep == 0 {
        return std::fs::remove_file(path);
    }
    for number in (1..keep).rev() {
        rename_if_there(&numbered(path, number), &numbered(path, number + 1))?;
    }
    rename_if_there(path, &numbered(path, 1))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
