//! A service's log: opened anew for each start, shortened while it runs, read at its end.
//!
//! Owns: its rotation before a start and during a run, and the way from its tail to the telling
//! line. Must never do: stand between the service and the file, or replace the live one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use chat_proxy_core::engine::telling::{TAIL, telling_line, telling_line_of_the_killed};

use crate::rotation;

/// The file for a new start; what an earlier one wrote is kept beside it. Blocking.
pub(super) fn open(path: &Path, keep: u32) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if fs::metadata(path).is_ok_and(|meta| meta.len() > 0) {
        rotation::rotate(path, keep)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// The line that tells why the service ended; `killed`: by a signal. Blocking.
pub(super) fn why(path: &Path, killed: bool) -> Option<String> {
    match end(path) {
        Ok(text) if killed => telling_line_of_the_killed(&text),
        Ok(text) => telling_line(&text),
        Err(error) => Some(format!("its log {} cannot be read: {error}", path.display())),
    }
}

fn end(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Moves what a file of more than `max_bytes` holds to `<file>.1`, and of those keeps `keep`;
/// answers whether it did. Only what is written between the last look at its end and the
/// truncation is lost: microseconds. After an error the live file holds what it held. Blocking.
pub(super) fn shorten(path: &Path, max_bytes: u64, keep: u32) -> io::Result<bool> {
    if fs::metadata(path)?.len() <= max_bytes {
        return Ok(false);
    }
    let mut live = OpenOptions::new().read(true).write(true).open(path)?;
    if keep > 0 {
        let part = part(path);
        let mut copy = File::create(&part)?;
        let placed = io::copy(&mut live, &mut copy)
            .and_then(|_| rotation::make_room(path, keep))
            .and_then(|()| fs::rename(&part, rotation::numbered(path, 1)));
        if let Err(error) = placed {
            // What cannot be removed is written over next time.
            let _ = fs::remove_file(&part);
            return Err(error);
        }
        // What came meanwhile.
        io::copy(&mut live, &mut copy)?;
    }
    live.set_len(0)?;
    Ok(true)
}

fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1.part");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_large_log_moves_aside_and_whoever_appends_goes_on_in_the_live_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("svc.log");
        let mut writer = open(&path, 2).unwrap();
        for text in ["one\n", "two\n", "three\n"] {
            writer.write_all(text.as_bytes()).unwrap();
            assert!(!shorten(&path, 100, 2).unwrap());
            assert!(shorten(&path, 1, 2).unwrap());
        }
        writer.write_all(b"four\n").unwrap();
        let held = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(held(&path), "four\n");
        assert_eq!(held(&rotation::numbered(&path, 1)), "three\n");
        assert_eq!(held(&rotation::numbered(&path, 2)), "two\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        assert!(shorten(&path, 1, 0).unwrap());
        assert_eq!(held(&path), "");
    }

    #[test]
    fn each_start_begins_with_an_empty_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/svc.log");
        open(&path, 1).unwrap().write_all(b"ValueError: x\n").unwrap();
        assert_eq!(why(&path, false).as_deref(), Some("ValueError: x"));
        open(&path, 1).unwrap();
        assert_eq!(why(&path, false), None);
        assert_eq!(fs::read(rotation::numbered(&path, 1)).unwrap(), b"ValueError: x\n");
    }
}
