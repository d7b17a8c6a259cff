//! Rotation of a file by renaming: `x` becomes `x.1`, `x.1` becomes `x.2`, and so on.
//!
//! Owns: the numbers of the older parts. Must never do: read or write what is in them.

use std::io;
use std::path::{Path, PathBuf};

/// `x.jsonl` → `x.jsonl.1` → … ; what would be number `keep + 1` goes.
pub(crate) fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    if keep == 0 {
        return std::fs::remove_file(path);
    }
    make_room(path, keep)?;
    rename_if_there(path, &numbered(path, 1))
}

/// Moves older parts up, so that number 1 may be written; with `keep` of them what is there as
/// number `keep` goes. A free number is filled and nobody behind it moves: to make room again
/// after a failure costs no part.
pub(crate) fn make_room(path: &Path, keep: u32) -> io::Result<()> {
    let is_free = |number: &u32| numbered(path, *number).symlink_metadata().is_err();
    let last = (1..=keep).find(is_free).unwrap_or(keep);
    for number in (1..last).rev() {
        rename_if_there(&numbered(path, number), &numbered(path, number + 1))?;
    }
    Ok(())
}

/// `x.jsonl` and 2 → `x.jsonl.2`.
pub(crate) fn numbered(path: &Path, number: u32) -> PathBuf {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// What the numbers 1 to 4 hold after `make_room`, `-` for none.
    fn after(there: &[(u32, &str)], keep: u32) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for (number, text) in there {
            fs::write(numbered(&path, *number), text).unwrap();
        }
        make_room(&path, keep).unwrap();
        let held = |number| fs::read_to_string(numbered(&path, number)).unwrap_or("-".to_owned());
        (1..=4).map(held).collect()
    }

    #[test]
    fn parts_move_up_to_the_first_free_number() {
        let full = [(1, "a"), (2, "b"), (3, "c")];
        for (there, keep, want) in [
            (&full[..], 4, "-abc"),
            (&full[..], 3, "-ab-"),
            (&full[..], 2, "-ac-"), // what an earlier, larger number left is not touched
            (&full[..], 1, "abc-"), // number 1 is written over
            (&full[1..], 3, "-bc-"),
            (&[(1, "a"), (3, "c")], 3, "-ac-"),
            (&[], 3, "----"),
        ] {
            assert_eq!(after(there, keep), want, "{there:?}, {keep} kept");
        }
    }

    #[test]
    fn the_file_itself_becomes_number_one_or_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for text in ["a", "b", "c"] {
            fs::write(&path, text).unwrap();
            rotate(&path, 2).unwrap();
        }
        let held = |number| fs::read_to_string(numbered(&path, number)).ok();
        assert_eq!([held(1), held(2), held(3)], [Some("c".into()), Some("b".into()), None]);
        fs::write(&path, "d").unwrap();
        rotate(&path, 0).unwrap();
        assert!(!path.exists());
        assert_eq!(held(1).as_deref(), Some("c"));
    }
}
