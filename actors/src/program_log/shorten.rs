//! Shortening the log of a running engine: its older part moves to `<file>.1`.
//!
//! Owns: the copy of the head, and its removal from the live file. Must never do: replace the live
//! file (the engine appends to that very one), or remove what is not kept elsewhere.
//!
//! To copy and truncate loses what is written between the two. So the head is collapsed where the
//! file system can (ext4, xfs, f2fs): the kernel takes whole blocks out of the file's beginning,
//! whoever appends goes on at the new end, and **nothing is lost**. Its last [`TAIL`] bytes stay,
//! for the telling line of a crash that comes right after.
//!
//! Elsewhere (tmpfs, btrfs, NFS, …) the file is copied to its end and truncated at once. **What is
//! written in between is lost**: the time from a look at its size to the truncation, microseconds.
//! The lines at the edges of such a gap may be torn, and nothing stays for the telling line.
//!
//! The order makes sure that a crash of ours doubles lines at worst:
//! 1. the head is copied to `<file>.1.part`, all of it, to the disk; a leftover is written over
//! 2. the older parts move up (to the first free number: doing this again costs none of them)
//! 3. `.1.part` becomes `.1`
//! 4. the head is removed from the live file; until here it holds all

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chat_proxy_core::engine::telling::TAIL;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::rotation;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shortened {
    /// Bytes that were taken out of the live file.
    pub(crate) moved: u64,
    /// Bytes that it held afterwards.
    pub(crate) left: u64,
    /// In which way.
    pub(crate) how: How,
}

/// The way in which a file got shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Its head was taken out; nothing is lost.
    Collapsed,
    /// It was emptied; what was written just then is lost.
    Truncated,
}

/// Moves the older part of a file of more than `max_bytes` to `<file>.1`, and of those keeps
/// `keep`. `None`: it is small enough, or somebody else is at it, be it to read its tail. After an
/// error the live file holds what it held, or `<file>.1` does. Blocking: copies up to all of it
/// and waits for the disk.
pub(crate) fn shorten(path: &Path, max_bytes: u64, keep: u32) -> io::Result<Option<Shortened>> {
    if fs::metadata(path)?.len() <= max_bytes {
        return Ok(None);
    }
    let live = OpenOptions::new().read(true).write(true).open(path)?;
    // Two at once would write over each other's copy; an actor that died may have left one behind.
    // The engine knows nothing of this lock.
    match live.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let meta = live.metadata()?;
    let head = head(meta.len(), meta.blksize(), max_bytes);
    if head == 0 {
        return Ok(None);
    }
    // The collapse writes out what is not on the disk yet, and the engine's writes wait for it.
    live.sync_data()?;
    let (moved, how) =
        if keep == 0 { drop_head(&live, head) } else { keep_head(path, &live, head, keep) }?;
    Ok(Some(Shortened { moved, left: live.metadata()?.len(), how }))
}

/// How much may go: whole blocks, so that [`TAIL`] stays, or half of a limit that leaves no room
/// for it.
fn head(size: u64, block: u64, max_bytes: u64) -> u64 {
    if size <= max_bytes {
        return 0;
    }
    let block = block.max(1);
    size.saturating_sub(TAIL.min(max_bytes / 2)) / block * block
}

fn drop_head(live: &File, head: u64) -> io::Result<(u64, How)> {
    if collapse(live, head)? {
        return Ok((head, How::Collapsed));
    }
    let size = live.metadata()?.len();
    live.set_len(0)?;
    Ok((size, How::Truncated))
}

fn keep_head(path: &Path, live: &File, head: u64, keep: u32) -> io::Result<(u64, How)> {
    let part = part(path);
    let mut copy = File::create(&part)?;
    let placed = copy_exactly(live, &mut copy, head)
        .and_then(|()| copy.sync_data())
        .and_then(|()| place(path, live, &part, keep));
    if let Err(error) = placed {
        // Worth nothing without a place; what cannot be removed is written over next time.
        let _ = fs::remove_file(&part);
        return Err(error);
    }
    // An error of the disk can come when the head is half gone: then `.1` is the one that has it.
    if collapse(live, head)? {
        return Ok((head, How::Collapsed));
    }
    match move_all(live, &mut copy, head) {
        Ok(moved) => Ok((moved, How::Truncated)),
        Err(error) => {
            // The live file has it all. Copies that pile up would push out what is older.
            let _ = fs::remove_file(rotation::numbered(path, 1));
            Err(error)
        }
    }
}

/// The name under which a copy is not whole yet.
fn part(path: &Path) -> PathBuf {
    let mut name = rotation::numbered(path, 1).into_os_string();
    name.push(".part");
    PathBuf::from(name)
}

/// Makes the whole copy number 1.
fn place(path: &Path, live: &File, part: &Path, keep: u32) -> io::Result<()> {
    let (there, ours) = (fs::metadata(path)?, live.metadata()?);
    if (there.dev(), there.ino()) != (ours.dev(), ours.ino()) {
        return Err(io::Error::other("another log has taken its place"));
    }
    rotation::make_room(path, keep)?;
    fs::rename(part, rotation::numbered(path, 1))
}

/// `false`: the file system cannot do it, or not so, or the file may only grow; nothing was done.
fn collapse(live: &File, head: u64) -> io::Result<bool> {
    let length = i64::try_from(head).map_err(io::Error::other)?;
    match fallocate(live, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, length) {
        Ok(()) => Ok(true),
        Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS | Errno::EPERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// How often what came during the last copy is copied too, before it is given up to the window.
const ROUNDS: u32 = 8;

/// Copies the rest, of which the first `copied` bytes are there, and empties the live file.
fn move_all(live: &File, copy: &mut File, mut copied: u64) -> io::Result<u64> {
    copied += copy_new(live, copy, copied)?;
    copy.sync_data()?; // the bulk of it: waiting for the disk later would widen the window
    for _ in 0..ROUNDS {
        let new = copy_new(live, copy, copied)?;
        copied += new;
        if new == 0 {
            break;
        }
    }
    live.set_len(0)?;
    Ok(copied)
}

fn copy_new(live: &File, copy: &mut File, copied: u64) -> io::Result<u64> {
    let size = live.metadata()?.len();
    let Some(new) = size.checked_sub(copied) else {
        return Err(io::Error::other("somebody else has shortened it"));
    };
    copy_exactly(live, copy, new)?;
    Ok(new)
}

/// Copies from where the last copy ended.
fn copy_exactly(live: &File, copy: &mut File, length: u64) -> io::Result<()> {
    let copied = io::copy(&mut live.take(length), copy)?;
    if copied == length {
        return Ok(());
    }
    let short = format!("only {copied} of {length} bytes could be copied");
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_go_and_the_tail_stays() {
        const B: u64 = 4096;
        let large = 10 * TAIL;
        for (size, block, max_bytes, want) in [
            (0, B, 1024, 0),
            (large, B, large, 0),
            (large + 1, B, large, large - TAIL),
            (large + B - 1, B, large, large - TAIL),
            (large + B, B, large, large - TAIL + B),
            (large + B + 1, B, large, large - TAIL + B),
            (large + 1, 1 << 20, large, 0), // less than a block
            (large + 1, 0, large, large + 1 - TAIL), // no such thing
            // Limits that leave no room for the tail.
            (TAIL, B, TAIL - 1, TAIL / 2),
            (B + 511, B, 1024, 0),
            (B + 512, B, 1024, B),
            (3 * B, B, 0, 3 * B),
        ] {
            assert_eq!(head(size, block, max_bytes), want, "{size} {block} {max_bytes}");
        }
    }

    #[test]
    fn a_log_of_another_start_is_not_taken_for_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.log");
        fs::write(&path, "ours").unwrap();
        let live = File::open(&path).unwrap();
        rotation::rotate(&path, 3).unwrap();
        fs::write(&path, "theirs").unwrap();
        fs::write(part(&path), "ou").unwrap();
        place(&path, &live, &part(&path), 3).unwrap_err();
        assert_eq!(fs::read_to_string(rotation::numbered(&path, 1)).unwrap(), "ours");
    }

    #[test]
    fn a_file_that_got_shorter_meanwhile_is_not_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.log");
        fs::write(&path, "12345").unwrap();
        let live = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut copy = File::create(part(&path)).unwrap();
        copy_exactly(&live, &mut copy, 4).unwrap();
        live.set_len(3).unwrap();
        move_all(&live, &mut copy, 4).unwrap_err();
        copy_exactly(&live, &mut copy, 1).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "123");
    }
}
