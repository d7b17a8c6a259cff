//! The last lines of a log.
//!
//! Owns: reading backwards, over the border to `<file>.1`. Must never do: read more than it
//! was allowed to, whatever the file's size.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::rotation;

/// Read at once.
const BLOCK: usize = 32 << 10;

/// The last `lines` lines, oldest first, of the file's last `max_bytes` bytes; when it has fewer,
/// those before come from `<file>.1`. A line that `max_bytes` cuts is left out, unless there is no
/// other. What is not UTF-8 is replaced. Blocking: waits for whoever shortens the file.
pub(crate) fn tail(path: &Path, lines: usize, max_bytes: u64) -> io::Result<Vec<String>> {
    let live = File::open(path)?;
    // While it is shortened the same lines are in both, and then they move. Where there are no
    // locks, nothing is shortened.
    let _ = live.lock_shared();
    let end = live.metadata()?.len();
    tail_before(path, &live, end, lines, max_bytes)
}

/// The same before a place in the live file, which nobody shortens meanwhile.
pub(crate) fn tail_before(
    path: &Path,
    live: &File,
    end: u64,
    lines: usize,
    max_bytes: u64,
) -> io::Result<Vec<String>> {
    let mut gathered = Gathered { room: max_bytes, ..Gathered::default() };
    gathered.read_back(live, end, lines)?;
    if !gathered.is_enough(lines)
        && let Some(older) = older(path, live)?
    {
        gathered.read_back(&older, older.metadata()?.len(), lines)?;
    }
    Ok(gathered.last(lines))
}

/// The part before the live one.
fn older(path: &Path, live: &File) -> io::Result<Option<File>> {
    let older = match File::open(rotation::numbered(path, 1)) {
        Ok(older) => older,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // A start may have renamed the live one just now.
    let is_same = older.metadata()?.ino() == live.metadata()?.ino();
    Ok((!is_same).then_some(older))
}

/// What was read, from the end on.
#[derive(Default)]
struct Gathered {
    /// The last one first.
    blocks: Vec<Vec<u8>>,
    newlines: usize,
    /// Bytes that may still be read.
    room: u64,
    /// There is more before it.
    is_cut: bool,
}

impl Gathered {
    /// One newline more than lines: the last line may have one at its end.
    fn is_enough(&self, lines: usize) -> bool {
        self.newlines > lines || self.is_cut
    }

    fn read_back(&mut self, file: &File, mut end: u64, lines: usize) -> io::Result<()> {
        while end > 0 && !self.is_enough(lines) {
            let size = usize::try_from(end.min(self.room)).map_or(BLOCK, |size| size.min(BLOCK));
            if size == 0 {
                self.is_cut = true;
                break;
            }
            end -= size as u64;
            self.room -= size as u64;
            let mut block = vec![0; size];
            file.read_exact_at(&mut block, end)?;
            self.newlines += memchr::memchr_iter(b'\n', &block).count();
            self.blocks.push(block);
        }
        Ok(())
    }

    fn last(mut self, lines: usize) -> Vec<String> {
        self.blocks.reverse();
        let bytes = self.blocks.concat();
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if bytes.is_empty() {
            return Vec::new();
        }
        let all: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        let torn = usize::from(self.is_cut && all.len() > 1);
        let from = all.len().saturating_sub(lines).max(torn);
        let shown = all.get(from..).unwrap_or_default();
        shown.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    /// A log, and the part before it.
    fn log(older: Option<&[u8]>, live: &[u8]) -> (TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.log");
        fs::write(&path, live).unwrap();
        if let Some(older) = older {
            fs::write(rotation::numbered(&path, 1), older).unwrap();
        }
        (dir, path)
    }

    /// The older part, the live file, lines and bytes that are wanted at most.
    type Case = (Option<&'static str>, &'static str, usize, u64);

    #[test]
    fn the_last_lines_are_found_and_lines_go_on_over_the_border() {
        let cases: [(Case, &[&str]); 14] = [
            ((None, "", 3, 99), &[]),
            ((None, "\n", 3, 99), &[""]),
            ((None, "a\nb\nc\n", 2, 99), &["b", "c"]),
            ((None, "a\nb\nc", 2, 99), &["b", "c"]),
            ((None, "a\nb\nc\n", 3, 99), &["a", "b", "c"]),
            ((None, "a\nb\nc\n", 9, 99), &["a", "b", "c"]),
            ((None, "a\n\nc\n", 2, 99), &["", "c"]),
            ((None, "a\nb\n", 0, 99), &[]),
            // The border may be within a line: the head that is moved has whole blocks.
            ((Some("a\nb\nhal"), "f\nc\n", 2, 99), &["half", "c"]),
            ((Some("a\nb\n"), "c\n", 2, 99), &["b", "c"]),
            ((Some("a\nb\n"), "", 1, 99), &["b"]),
            // The limit.
            ((None, "aaaa\nbbbb\ncccc\n", 3, 11), &["bbbb", "cccc"]),
            ((Some("aaaa\nbb"), "bb\ncc\n", 3, 7), &["cc"]),
            ((None, "aaaaaaaa", 3, 4), &["aaaa"]),
        ];
        for ((older, live, lines, max), want) in cases {
            let (_dir, path) = log(older.map(str::as_bytes), live.as_bytes());
            assert_eq!(tail(&path, lines, max).unwrap(), want, "{older:?} {live:?} {lines} {max}");
        }
    }

    #[test]
    fn more_than_a_block_is_read_and_no_more_than_allowed() {
        let text: String =
            (0..20_000).flat_map(|number| [number.to_string(), "\n".into()]).collect();
        let (_dir, path) = log(Some(text.as_bytes()), text.as_bytes());
        let all: Vec<&str> = text.lines().collect();
        for lines in [1, 10, 5_000, 20_000] {
            assert_eq!(tail(&path, lines, 1 << 30).unwrap(), all[20_000 - lines..], "{lines}");
        }
        assert_eq!(tail(&path, usize::MAX, 1 << 30).unwrap(), [&all[..], &all[..]].concat());
        // Six bytes a line at the end; the first one is cut.
        assert_eq!(tail(&path, 20_000, 6 * 100 + 3).unwrap(), all[20_000 - 100..]);
        assert_eq!(tail(&path, 20_000, 6 * 10_000 + 3).unwrap(), all[10_000..]);
    }

    #[test]
    fn what_is_no_text_is_shown_and_no_file_is_an_error() {
        let (_dir, path) = log(None, b"a\xff\nb\r\n");
        assert_eq!(tail(&path, 9, 99).unwrap(), ["a\u{fffd}", "b\r"]);
        let missing = tail(&path.with_extension("x"), 9, 99).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
