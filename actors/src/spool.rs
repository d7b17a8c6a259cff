//! Request bodies that are too large to wait in memory.
//!
//! Owns: unlinked temporary files: they have no name, so whatever happens none is left. Must never
//! do: read or write on a thread that serves; a disk may stall for seconds.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// What is written at once: fewer hops to other threads.
const BATCH: usize = 256 << 10;

/// A body that is being written.
pub struct Spool {
    file: Arc<File>,
    written: u64,
    batch: BytesMut,
}

/// A body that has been written.
#[derive(Debug, Clone)]
pub struct Spooled {
    file: Arc<File>,
    length: u64,
}

impl Spool {
    /// A new one, in a directory that is on a disk.
    pub async fn create(dir: PathBuf) -> io::Result<Spool> {
        let file = blocking(move || {
            std::fs::create_dir_all(&dir)?;
            tempfile::tempfile_in(&dir)
        });
        Ok(Spool { file: Arc::new(file.await?), written: 0, batch: BytesMut::new() })
    }

    /// Takes the next piece.
    pub async fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        self.batch.extend_from_slice(piece);
        if self.batch.len() >= BATCH { self.write().await } else { Ok(()) }
    }

    async fn write(&mut self) -> io::Result<()> {
        let (file, batch, at) = (self.file.clone(), self.batch.split().freeze(), self.written);
        self.written += batch.len() as u64;
        blocking(move || file.write_all_at(&batch, at)).await
    }

    /// All has been pushed.
    pub async fn finish(mut self) -> io::Result<Spooled> {
        self.write().await?;
        Ok(Spooled { file: self.file, length: self.written })
    }
}

impl Spooled {
    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads so many bytes from a place; they are there.
    pub async fn read(self, at: u64, length: usize) -> io::Result<Bytes> {
        blocking(move || {
            let mut bytes = BytesMut::zeroed(length);
            self.file.read_exact_at(&mut bytes, at)?;
            Ok(bytes.freeze())
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    actix_rt::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[actix_rt::test]
    async fn what_was_pushed_is_read_and_no_name_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path().join("spool")).await.unwrap();
        let bytes: Vec<u8> = (0..700_000u32).map(|n| n.to_le_bytes()[1]).collect();
        for piece in bytes.chunks(9000) {
            spool.push(piece).await.unwrap();
        }
        let spooled = spool.finish().await.unwrap();
        assert_eq!(spooled.length(), bytes.len() as u64);
        let read = spooled.clone().read(300_000, 1234).await.unwrap();
        assert_eq!(read, bytes[300_000..301_234]);
        assert!(spooled.read(699_999, 2).await.is_err());
        assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0);
    }
}
