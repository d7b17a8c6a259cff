//! `LoggerActor`: the one writer of the JSONL request log.
//!
//! Owns: the file, its rotation, and the count of lines that could not be written. Accepts:
//! records through a [`LogHandle`] (never waits; bounded in bytes), [`Flush`]. Emits nothing.
//! Stops with its arbiter. Must never do: tear a line, or fail a request because the disk is full.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use actix::{Actor, Addr, Arbiter, Context, Handler, Message};
use chat_proxy_core::telemetry::record::Record;

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

/// How everybody else reaches the log writer.
#[derive(Clone)]
pub struct LogHandle {
    addr: Addr<LoggerActor>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting_bytes: AtomicUsize,
    dropped: AtomicU64,
    log_prompts: bool,
}

impl LogHandle {
    /// Hands a record to the writer; never waits.
    pub fn write(&self, record: Record) {
        let bytes = RECORD_BYTES
            + [&record.messages, &record.response].into_iter().flatten().map(weight).sum::<usize>();
        let before = self.shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > MAX_WAITING_BYTES || !self.addr.connected() {
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // The bound above is the queue's limit; a mailbox's own would let every clone pass anyway.
        self.addr.do_send(Write1 { record: Box::new(record), bytes });
    }

    /// Whether conversations are to be put into records.
    pub fn keeps_prompts(&self) -> bool {
        self.shared.log_prompts
    }

    /// The writer's address, for [`Flush`].
    pub fn addr(&self) -> &Addr<LoggerActor> {
        &self.addr
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

/// One record to write.
#[derive(Message)]
#[rtype(result = "()")]
struct Write1 {
    record: Box<Record>,
    bytes: usize,
}

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
    settings: LogSettings,
    shared: Arc<Shared>,
    file: Option<Live>,
    written: u64,
    failing: bool,
}

/// The open file and what we know of it.
struct Live {
    file: File,
    inode: u64,
    size: u64,
}

impl LoggerActor {
    /// Opens the log and starts the writer on a thread of its own; fails if the file cannot be
    /// opened now, so that a wrong path stops the start.
    pub fn start(settings: LogSettings, arbiter: &Arbiter) -> io::Result<LogHandle> {
        let live = open(&settings.path)?;
        let shared = Arc::new(Shared { log_prompts: settings.log_prompts, ..Shared::default() });
        let actor = LoggerActor {
            settings,
            shared: shared.clone(),
            file: Some(live),
            written: 0,
            failing: false,
        };
        let addr = LoggerActor::start_in_arbiter(&arbiter.handle(), |_| actor);
        Ok(LogHandle { addr, shared })
    }

    fn append(&mut self, record: &mut Record) -> io::Result<()> {
        record.ts = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let line = record.to_line()?;
        let mut live = match self.file.take() {
            Some(live) if live.is_still_at(&self.settings.path) => live,
            // Somebody moved or removed it: a new one takes its place.
            _ => open(&self.settings.path)?,
        };
        if live.size > 0 && live.size + line.len() as u64 > self.settings.max_bytes {
            rotate(&self.settings.path, self.settings.max_files)?;
            live = open(&self.settings.path)?;
        }
        write_whole(&mut live, &line)?;
        self.file = Some(live);
        Ok(())
    }

    fn report(&self) -> FlushReport {
        FlushReport { written: self.written, dropped: self.shared.dropped.load(Ordering::Relaxed) }
    }
}

impl Live {
    fn is_still_at(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|meta| meta.ino() == self.inode)
    }
}

/// Writes a line or nothing: what a full disk took of it is cut off again.
fn write_whole(live: &mut Live, line: &[u8]) -> io::Result<()> {
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

fn open(path: &Path) -> io::Result<Live> {
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let meta = file.metadata()?;
    Ok(Live { file, inode: meta.ino(), size: meta.len() })
}

/// `x.jsonl` → `x.jsonl.1` → … ; what would be number `keep + 1` goes.
fn rotate(path: &Path, keep: u32) -> io::Result<()> {
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

impl Actor for LoggerActor {
    type Context = Context<Self>;
}

impl Handler<Write1> for LoggerActor {
    type Result = ();

    fn handle(&mut self, mut message: Write1, _: &mut Self::Context) {
        self.shared.waiting_bytes.fetch_sub(message.bytes, Ordering::Relaxed);
        match self.append(&mut message.record) {
            Ok(()) => {
                self.written += 1;
                if std::mem::take(&mut self.failing) {
                    let lost = self.shared.dropped.load(Ordering::Relaxed);
                    tracing::info!(lost, "the request log is written again");
                }
            }
            Err(error) => {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    let path = self.settings.path.display().to_string();
                    tracing::error!(%error, path, "the request log cannot be written; requests go on without it");
                }
            }
        }
    }
}

impl Handler<Flush> for LoggerActor {
    type Result = FlushReport;

    fn handle(&mut self, _: Flush, _: &mut Self::Context) -> FlushReport {
        self.report()
    }
}

#[cfg(test)]
mod tests;
