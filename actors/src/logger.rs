//! `LoggerActor`: the one writer of the JSONL request log.
//!
//! Owns: the file, its rotation, and the count of lines that could not be written. Accepts:
//! records through a [`LogHandle`] (never waits; bounded in bytes), [`Flush`]. Emits nothing.
//! Stops with its arbiter. Restarts: goes on with the queue, which is the handle's. Must never do: tear a line, or fail a request because the disk is full.

mod file;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use actix::{Actor, AsyncContext, Context, Handler, Message};
use chat_proxy_core::telemetry::record::Record;

use crate::guard::Guard;
use crate::live::Live;
use crate::metrics::LogFigures;
use crate::port::{NoAnswer, Port};
use file::LogFile;

/// Records that may wait for the disk, in bytes; beyond it they are dropped and counted.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// Records of this weight together are written with one call.
const BATCH_BYTES: usize = 64 << 10;

/// While records come, the writer looks for them this often. As many are lost, at most, when the
/// daemon is killed.
const LOOK: Duration = Duration::from_millis(5);

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
    /// Records that are not written yet, and what they take: the one that is being written too.
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// The writer will look at the queue by itself: nobody needs to wake it.
    looks: AtomicBool,
    /// Records are dropped because too many wait, which has been said.
    behind: AtomicBool,
    figures: LogFigures,
}

/// A record that is to be written.
struct Waiting {
    record: Box<Record>,
    ended: SystemTime,
    bytes: usize,
}

impl LogHandle {
    /// Opens the log once, so that a wrong path stops the start; the writer is started by
    /// [`LogHandle::writer`].
    pub fn new(
        settings: Live<LogSettings>,
        figures: LogFigures,
        wake: Port<Wake>,
        flush: Port<Flush>,
    ) -> io::Result<LogHandle> {
        LogFile::open(&settings.load().path)?;
        let shared = Arc::new(Shared {
            settings,
            queue: Mutex::default(),
            waiting: AtomicUsize::default(),
            waiting_bytes: AtomicUsize::default(),
            looks: AtomicBool::default(),
            behind: AtomicBool::default(),
            figures,
        });
        Ok(LogHandle { shared, wake, flush })
    }

    /// The writer, to be started on a thread of its own.
    pub fn writer(&self, guard: Guard) -> LoggerActor {
        LoggerActor { shared: self.shared.clone(), file: None, failing: false, _guard: guard }
    }

    /// Hands a record to the writer; never waits for the disk.
    pub fn write(&self, record: Box<Record>) {
        let bytes = record.weight();
        if !self.shared.takes(bytes) {
            return;
        }
        self.shared.queue().push_back(Waiting { record, ended: SystemTime::now(), bytes });
        // To wake another thread costs more than all else that is done here: once for all records of
        // a while (see `LoggerActor::look`). Where nobody is there, the next record tries again; a
        // writer's successor looks at the queue first, but before it can be found.
        if !self.shared.looks.swap(true, Ordering::SeqCst) && self.wake.tell(Wake).is_err() {
            self.shared.looks.store(false, Ordering::SeqCst);
        }
    }

    /// Records that have not been written yet.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
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
    /// Makes room for a record of that size; if there is none, it is counted as dropped.
    fn takes(&self, bytes: usize) -> bool {
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= MAX_WAITING_BYTES {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            self.figures.waiting_bytes.add(signed(bytes));
            return true;
        }
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.figures.dropped.inc();
        // The writer cannot say it: it waits for the disk.
        if !self.behind.swap(true, Ordering::Relaxed) {
            let path = self.settings.load().path.display().to_string();
            tracing::error!(
                path,
                waiting_bytes = before,
                "the disk does not take the request log in time: records are dropped and counted; \
                 requests go on"
            );
        }
        false
    }

    /// The next records to be written together.
    fn batch(&self) -> Vec<Waiting> {
        let mut queue = self.queue();
        let mut bytes = 0;
        let fits = |waiting: &&Waiting| {
            bytes += waiting.bytes;
            bytes <= BATCH_BYTES
        };
        let count = queue.iter().take_while(fits).count().max(1).min(queue.len());
        queue.drain(..count).collect()
    }

    fn taken(&self, count: usize, bytes: usize) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.figures.waiting_bytes.sub(signed(bytes));
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
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
    file: Option<LogFile>,
    failing: bool,
    _guard: Guard,
}

impl LoggerActor {
    /// Writes what waits, and looks again a little later, until nothing has come meanwhile: the first
    /// record is written at once, and under load the others share their wakings.
    fn look(&mut self, ctx: &mut Context<Self>) {
        self.shared.looks.store(true, Ordering::SeqCst);
        if !self.drain() {
            self.shared.looks.store(false, Ordering::SeqCst);
            // One that came before this was said has woken nobody.
            if !self.drain() {
                return;
            }
            self.shared.looks.store(true, Ordering::SeqCst);
        }
        ctx.run_later(LOOK, Self::look);
    }

    /// Writes what waits; whether there was anything.
    fn drain(&mut self) -> bool {
        let mut any = false;
        loop {
            let batch = self.shared.batch();
            if batch.is_empty() {
                break;
            }
            any = true;
            let bytes = batch.iter().map(|waiting| waiting.bytes).sum();
            let count = batch.len();
            self.write(batch);
            // Not before they are written: what waits for the disk takes memory.
            self.shared.taken(count, bytes);
        }
        if self.shared.behind.swap(false, Ordering::Relaxed) {
            let dropped = self.shared.figures.dropped.get();
            tracing::info!(dropped, "the disk takes the request log again");
        }
        any
    }

    /// Writes records with one call, or, where that cannot be, one by one.
    fn write(&mut self, batch: Vec<Waiting>) {
        let (mut lines, mut text) = (Vec::with_capacity(batch.len()), Vec::new());
        for Waiting { mut record, ended, .. } in batch {
            record.ts = humantime::format_rfc3339_millis(ended).to_string();
            let start = text.len();
            match record.write_line(&mut text) {
                Ok(()) => lines.push(start..text.len()),
                Err(error) => {
                    text.truncate(start);
                    self.wrote(Err(error.into()), 1);
                }
            }
        }
        let at_once = lines.len() > 1
            && matches!(self.append(|file, set| file.append_all(&text, set)), Ok(true));
        if at_once {
            return self.wrote(Ok(()), lines.len() as u64);
        }
        for line in lines {
            let written = self.append(|file, settings| file.append(&text[line], settings));
            self.wrote(written, 1);
        }
    }

    /// Counts, and says what has changed.
    fn wrote(&mut self, written: io::Result<()>, lines: u64) {
        match written {
            Ok(()) => {
                self.shared.figures.written.inc_by(lines);
                if std::mem::take(&mut self.failing) {
                    let dropped = self.shared.figures.dropped.get();
                    tracing::info!(dropped, "the request log is written again");
                }
            }
            Err(error) => {
                self.shared.figures.dropped.inc_by(lines);
                if !std::mem::replace(&mut self.failing, true) {
                    let path = self.shared.settings.load().path.display().to_string();
                    tracing::error!(%error, path, "the request log cannot be written; requests go on without it");
                }
            }
        }
    }

    fn append<T>(
        &mut self,
        write: impl FnOnce(&mut LogFile, &LogSettings) -> io::Result<T>,
    ) -> io::Result<T> {
        let settings = self.shared.settings.load();
        let mut file = match self.file.take() {
            Some(file) => file,
            None => LogFile::open(&settings.path)?,
        };
        // After a failure it is opened anew, which mends its end.
        let written = write(&mut file, &settings)?;
        self.file = Some(file);
        Ok(written)
    }

    fn report(&self) -> FlushReport {
        let figures = &self.shared.figures;
        FlushReport { written: figures.written.get(), dropped: figures.dropped.get() }
    }
}

impl Actor for LoggerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // A predecessor that died may have left something.
        self.look(ctx);
    }
}

impl Handler<Wake> for LoggerActor {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        self.look(ctx);
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
