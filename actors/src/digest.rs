//! Names that follow from contents.
//!
//! Owns: SHA-256 as text. Must never do: serve for secrets; nothing here is salted.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// All of it: 64 hexadecimal digits.
pub(crate) fn whole(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A digest as text.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The first 16 digits: enough to tell apart what lies in one directory.
pub(crate) fn short(bytes: &[u8]) -> String {
    let mut text = whole(bytes);
    text.truncate(16);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_fips_180() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(whole(b"abc"), abc);
        assert_eq!(short(b"abc"), &abc[..16]);
    }
}
