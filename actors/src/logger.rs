//! `LoggerActor`: the one writer of the JSONL request log.
//!
//! Owns: the file, its rotation, and the count of lines that could not be written. Accepts:
//! records through a [`LogHandle`] (never waits; bounded in bytes), [`Flush`]. Emits nothing.
//! Stops with its arbiter. Restarts: goes on with the queue, which is the handle's. Must never do: tear a line, or fail a request because the disk is full.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use actix::{Actor, Context, Handler, Message};
use chat_proxy_core::telemetry::record::Record;

use crate::guard::Guard;
use crate::live::Live;
use crate::port::{NoAnswer, Port};
use crate::rotation;

/// Records that may wait for the disk, in bytes; beyond it they are dropped and counted.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// What a record without conversation takes, roughly.
const RECORD_BYTES: usize = 1024;

/// Where and how to write.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The live file.
    pub path: PathBuf,
    /// It is rotated before it grows over this.
    pub max_bytes: u64,
    /// Rotated files that are kept beside it.
    pub max_files: u32,
    /// Whether conversations are written.
    pub log_prompts: bool,
}

/// How everybody else reaches the log writer. The queue is here and not in the actor's mailbox, so
/// that the actor's death loses no line: its successor goes on with the queue.
#[derive(Clone)]
pub struct LogHandle {
    shared: Arc<Shared>,
    wake: Port<Wake>,
    flush: Port<Flush>,
}

struct Shared {
    settings: Live<LogSettings>,
    queue: Mutex<VecDeque<Waiting>>,
    waiting_bytes: AtomicUsize,
    /// The last waking found nobody.
    unheard: AtomicBool,
    written: AtomicU64,
    dropped: AtomicU64,
}

/// A record that is to be written.
struct Waiting {
    record: Box<Record>,
    bytes: usize,
}

impl LogHandle {
    /// Opens the log once, so that a wrong path stops the start; the writer is started by
    /// [`LogHandle::writer`].
    pub fn new(
        settings: Live<LogSettings>,
        wake: Port<Wake>,
        flush: Port<Flush>,
    ) -> io::Result<LogHandle> {
        open(&settings.load().path)?;
        let shared = Arc::new(Shared {
            settings,
            queue: Mutex::default(),
            waiting_bytes: AtomicUsize::default(),
            unheard: AtomicBool::default(),
            written: AtomicU64::default(),
            dropped: AtomicU64::default(),
        });
        Ok(LogHandle { shared, wake, flush })
    }

    /// The writer, to be started on a thread of its own.
    pub fn writer(&self, guard: Guard) -> LoggerActor {
        LoggerActor { shared: self.shared.clone(), file: None, failing: false, _guard: guard }
    }

    /// Hands a record to the writer; never waits for the disk.
    pub fn write(&self, record: Record) {
        let bytes = RECORD_BYTES
            + [&record.messages, &record.response].into_iter().flatten().map(weight).sum::<usize>();
        let before = self.shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > MAX_WAITING_BYTES {
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut queue = self.shared.queue();
        queue.push_back(Waiting { record: Box::new(record), bytes });
        let first = queue.len() == 1;
        drop(queue);
        // Who finds others waiting knows that the writer has been woken, unless nobody was there.
        // A writer's successor looks at the queue first, but before it can be found.
        if first || self.shared.unheard.load(Ordering::Relaxed) {
            self.shared.unheard.store(self.wake.tell(Wake).is_err(), Ordering::Relaxed);
        }
    }

    /// Whether conversations are to be put into records.
    pub fn keeps_prompts(&self) -> bool {
        self.shared.settings.load().log_prompts
    }

    /// Waits until everything handed over before has been written.
    pub async fn flush(&self, within: Duration) -> Result<FlushReport, NoAnswer> {
        self.flush.ask(Flush, within).await
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Roughly how many bytes a value takes as text.
fn weight(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(list) => list.iter().map(weight).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + weight(v) + 4).sum::<usize>() + 2,
        _ => 8,
    }
}

/// There is something to write.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Wake;

/// Everything handed over before has been written when this is answered.
#[derive(Message)]
#[rtype(result = "FlushReport")]
pub struct Flush;

/// What the writer has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, actix::MessageResponse)]
pub struct FlushReport {
    /// Lines written.
    pub written: u64,
    /// Records lost: disk full, or too many waiting.
    pub dropped: u64,
}

/// See the module.
pub struct LoggerActor {
    shared: Arc<Shared>,
    file: Option<OpenFile>,
    failing: bool,
    _guard: Guard,
}

/// The open file and what we know of it.
struct OpenFile {
    file: File,
    inode: u64,
    size: u64,
}

impl LoggerActor {
    /// Writes what waits.
    fn drain(&mut self) {
        loop {
            let next = self.shared.queue().pop_front();
            let Some(Waiting { mut record, bytes }) = next else { return };
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.write(&mut record);
        }
    }

    fn write(&mut self, record: &mut Record) {
        match self.append(record) {
            Ok(()) => {
                self.shared.written.fetch_add(1, Ordering::Relaxed);
                if std::mem::take(&mut self.failing) {
                    let lost = self.shared.dropped.load(Ordering::Relaxed);
                    tracing::info!(lost, "the request log is written again");
                }
            }
            Err(error) => {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    let path = self.shared.settings.load().path.display().to_string();
                    tracing::error!(%error, path, "the request log cannot be written; requests go on without it");
                }
            }
        }
    }

    fn append(&mut self, record: &mut Record) -> io::Result<()> {
        record.ts = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let line = record.to_line()?;
        let settings = self.shared.settings.load();
        let mut live = match self.file.take() {
            Some(live) if live.is_still_at(&settings.path) => live,
            // Somebody moved or removed it: a new one takes its place.
            _ => open(&settings.path)?,
        };
        if live.size > 0 && live.size + line.len() as u64 > settings.max_bytes {
            rotation::rotate(&settings.path, settings.max_files)?;
            live = open(&settings.path)?;
        }
        write_whole(&mut live, &line)?;
        self.file = Some(live);
        Ok(())
    }

    fn report(&self) -> FlushReport {
        FlushReport {
            written: self.shared.written.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
        }
    }
}

impl OpenFile {
    fn is_still_at(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|meta| meta.ino() == self.inode)
    }
}

/// Writes a line or nothing: what a full disk took of it is cut off again.
fn write_whole(live: &mut OpenFile, line: &[u8]) -> io::Result<()> {
    match live.file.write_all(line) {
        Ok(()) => {
            live.size += line.len() as u64;
            Ok(())
        }
        Err(error) => {
            live.file.set_len(live.size)?;
            Err(error)
        }
    }
}

fn open(path: &Path) -> io::Result<OpenFile> {
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let meta = file.metadata()?;
    Ok(OpenFile { file, inode: meta.ino(), size: meta.len() })
}

impl Actor for LoggerActor {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        // A predecessor that died may have left something.
        self.drain();
    }
}

impl Handler<Wake> for LoggerActor {
    type Result = ();

    fn handle(&mut self, _: Wake, _: &mut Self::Context) {
        self.drain();
    }
}

impl Handler<Flush> for LoggerActor {
    type Result = FlushReport;

    fn handle(&mut self, _: Flush, _: &mut Self::Context) -> FlushReport {
        self.drain();
        self.report()
    }
}

#[cfg(test)]
mod tests;
