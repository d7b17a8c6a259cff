//! Hashes of files, and one over all of them.
//!
//! Owns: reading every byte, and saying how far it is. Must never do: believe a size.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use chat_proxy_core::artifacts::record::Hashed;
use sha2::{Digest, Sha256};

use crate::digest;

/// Read at once.
const CHUNK: usize = 1 << 20;

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub struct Hashing<'a> {
    /// The file that is read.
    pub path: &'a str,
    /// Bytes that were read, of all files.
    pub done: u64,
}

/// Hashes one file; `done` counts on from where it stands.
pub fn hash(
    root: &Path,
    path: &str,
    done: &mut u64,
    tell: &mut dyn FnMut(Hashing<'_>),
) -> io::Result<Hashed> {
    let mut file = File::open(root.join(path))?;
    let (mut hasher, mut size, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        tell(Hashing { path, done: *done });
        let read = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&chunk[..read]);
        size += read as u64;
        *done += read as u64;
    }
    let sha256 = digest::hex(&hasher.finalize());
    Ok(Hashed { path: path.to_owned(), size, sha256 })
}

/// One checksum over all: SHA-256 over a line for each file, sorted by path (as bytes), of its path,
/// its size in digits and its SHA-256 in hexadecimal digits, with NUL between and a line end behind:
/// `relative/path\0size\0sha256\n`.
pub fn directory_checksum(files: &[Hashed]) -> String {
    let mut sorted: Vec<&Hashed> = files.iter().collect();
    sorted.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let lines = sorted.iter().fold(String::new(), |mut text, file| {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{}\0{}\0{}", file.path, file.size, file.sha256);
        text
    });
    digest::whole(lines.as_bytes())
}

/// The checksum that earlier tools have recorded as `aggregate_sha256`: over lines of a hash, two
/// spaces and a path, sorted, with line ends between them.
pub fn lines_checksum(files: &[Hashed]) -> String {
    let mut lines: Vec<String> =
        files.iter().map(|file| format!("{}  {}", file.sha256, file.path)).collect();
    lines.sort_unstable();
    digest::whole(lines.join("\n").as_bytes())
}
