//! A reader's place in a log as a text: given to a client with each line, and taken back when it
//! comes again, by this daemon or by one after it.
//!
//! Owns: its form, and the digests in it. Must never do: name a file or hold what stands in one, or
//! hang on anything that a restart changes.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;
use std::time::UNIX_EPOCH;

/// By so many bytes before it a place is known. Enough for a whole line of the request log: the
/// ends of those are all alike, their beginnings have time and id.
pub(super) const WINDOW: usize = 1024;

/// Which file it is, under whatever name: device, inode and, where the file system knows it, the
/// time of its birth, for numbers of inodes are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(u64);

impl Identity {
    pub(super) fn of(meta: &Metadata) -> Self {
        let born = meta.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let born = born.unwrap_or_default();
        let parts = [meta.dev(), meta.ino(), born.as_secs(), u64::from(born.subsec_nanos())];
        Identity(digest(parts.map(u64::to_le_bytes).as_flattened()))
    }

    /// Enough to tell it from the others beside it; never 0.
    pub(super) fn short(self) -> u32 {
        short(self.0).max(1)
    }
}

/// A place behind a line: see the module. Opaque to whoever gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub(super) file: Identity,
    /// So many bytes of the file are before it.
    pub(super) at: u64,
    /// What those bytes are, the last [`WINDOW`] of them.
    pub(super) before: u32,
    /// The file that was before this one in the row; 0: none.
    pub(super) older: u32,
    /// The file is the head of another one, taken from it.
    pub(super) is_head: bool,
}

impl Cursor {
    /// How many bytes tell where it is.
    pub(super) fn window(&self) -> usize {
        usize::try_from(self.at).map_or(WINDOW, |at| at.min(WINDOW))
    }

    /// Whether it is behind these bytes.
    pub(super) fn is_behind(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.window() && mark(bytes) == self.before
    }
}

/// What is kept of the bytes before a place.
pub(super) fn mark(bytes: &[u8]) -> u32 {
    short(digest(bytes))
}

fn short(digest: u64) -> u32 {
    let [a, b, c, d, ..] = digest.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// FNV-1a, eight bytes at a time, and mixed so that each bit of the end hangs on all of them. The
/// same for ever: clients keep it over the daemon's update.
/// Source: <http://www.isthe.com/chongo/tech/comp/fnv/>; the mixer is MurmurHash3's.
fn digest(bytes: &[u8]) -> u64 {
    let mut digest = 0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        digest = (digest ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3);
        digest ^= digest >> 29;
    }
    digest = (digest ^ (digest >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    digest ^ (digest >> 33)
}

/// `file-at-before-older`, in hexadecimal digits, and `-h` behind a head.
impl fmt::Display for Cursor {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cursor { file: Identity(file), at, before, older, is_head } = self;
        write!(to, "{file:x}-{at:x}-{before:x}-{older:x}")?;
        if *is_head { to.write_str("-h") } else { Ok(()) }
    }
}

/// What was sent is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no place in a log")]
pub struct NoCursor;

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let (numbers, is_head) = match text.strip_suffix("-h") {
            Some(numbers) => (numbers, true),
            None => (text, false),
        };
        let mut numbers = numbers.split('-').map(hexadecimal);
        let mut next = || numbers.next().flatten().ok_or(NoCursor);
        let small = |number: u64| u32::try_from(number).map_err(|_| NoCursor);
        let (file, at) = (Identity(next()?), next()?);
        let (before, older) = (small(next()?)?, small(next()?)?);
        match numbers.next() {
            None => Ok(Cursor { file, at, before, older, is_head }),
            Some(_) => Err(NoCursor),
        }
    }
}

/// Digits only: no sign, as the standard library would have it.
fn hexadecimal(text: &str) -> Option<u64> {
    let are_digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if are_digits { u64::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_fits_into_a_header() {
        let small = Cursor { file: Identity(0), at: 0, before: 0, older: 0, is_head: false };
        let large = Cursor {
            file: Identity(u64::MAX),
            at: u64::MAX,
            before: u32::MAX,
            older: u32::MAX,
            is_head: true,
        };
        for cursor in [small, large, Cursor { is_head: true, at: 0x1f, ..small }] {
            let text = cursor.to_string();
            assert!(
                text.len() <= 54 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            );
            assert_eq!(text.parse(), Ok(cursor), "{text}");
        }
        assert_eq!(Cursor { at: 0x1f, is_head: true, ..small }.to_string(), "0-1f-0-0-h");
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let beyond = "1-10000000000000000-0-0";
        for text in [
            "",
            "7",
            "-",
            "---",
            "1-2-3",
            "1-2-3-4-5",
            "1-2-3-4-",
            "1-2-3-x",
            "+1-2-3-4",
            "h",
            "1-2-3--h",
            "1-2-100000000-4",
            "1-2-3-4-h-h",
            " 1-2-3-4",
            "1-2-3-4\n",
            beyond,
            "é-2-3-4",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(NoCursor), "{text:?}");
        }
    }

    #[test]
    fn other_bytes_have_another_mark() {
        let text = b"the same end of all lines\n".repeat(40);
        let mut marks: Vec<u32> = (0..text.len()).map(|from| mark(&text[from..])).collect();
        for place in 0..text.len() {
            let mut other = text.clone();
            other[place] ^= 1;
            marks.push(mark(&other));
        }
        let count = marks.len();
        marks.sort_unstable();
        marks.dedup();
        assert_eq!(marks.len(), count);
        assert_eq!(mark(b"kept by clients"), 3_335_488_435, "never to be changed");
    }
}
