//! The daemon's own log: what it says of itself on stderr, or to the journal (SPEC 7.3).
//!
//! Owns: its format, and the thread that writes it. Must never do: keep anybody waiting: a terminal
//! that is stopped, a pipe that nobody reads and a journal that hangs cost lines, which are counted.

mod journal;
mod json;

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;
use tracing_subscriber::fmt::format::{DefaultFields, Format as TextFormat};

use journal::{Journal, JournalFields, JournalFormat};
use json::JsonSpanFields;

/// So many lines may wait for whoever reads them; a line has some 200 bytes.
const MOST_WAITING: usize = 16_384;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
    /// The journal's own fields.
    Journald,
}

/// Held while the log is written; what waits is written when it is dropped, or given up after a second.
pub(crate) struct Logging {
    _guard: WorkerGuard,
}

/// Lines that nobody took in time, so far.
pub(crate) fn dropped() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Starts the log. `wanted`: `log_format`. `default`: what is said where `RUST_LOG` does not tell.
pub(crate) fn start(wanted: &str, default: &str) -> Logging {
    let (filter, wrong) = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(text) if !text.is_empty() => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(default), Some(error)),
        },
        _ => (EnvFilter::new(default), None),
    };
    let (format, journal) = choose(wanted);
    let (writer, guard) = match journal {
        Some(journal) => writer(journal),
        None => writer(io::stderr()),
    };
    // A second start in one process does not happen; its counter would be the first one's.
    let _ = DROPPED.set(writer.error_counter());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    install(format, builder);
    if let Some(error) = wrong {
        tracing::warn!(%error, "RUST_LOG is not understood and does not count");
    }
    Logging { _guard: guard }
}

type Builder = SubscriberBuilder<DefaultFields, TextFormat, EnvFilter, NonBlocking>;

fn install(format: Format, builder: Builder) {
    match format {
        Format::Human => builder.with_target(false).with_ansi(io::stderr().is_terminal()).init(),
        Format::Json => {
            let builder = builder.json().with_span_list(false).with_ansi(false);
            builder.fmt_fields(JsonSpanFields).init();
        }
        Format::Journald => {
            builder.with_ansi(false).fmt_fields(JournalFields).event_format(JournalFormat).init();
        }
    }
}

fn writer<W: Write + Send + 'static>(to: W) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MOST_WAITING)
        .thread_name("log")
        .finish(to)
}

/// People get lines, machines get JSON, and the journal what it can search by.
fn choose(wanted: &str) -> (Format, Option<Journal>) {
    let journal = || match Journal::connect() {
        Ok(journal) => (Format::Journald, Some(journal)),
        Err(error) => {
            // Nothing logs yet; who cannot be told has the lines.
            let _ = writeln!(io::stderr(), "the journal cannot be reached ({error}): JSON instead");
            (Format::Json, None)
        }
    };
    match wanted {
        "human" => (Format::Human, None),
        "json" => (Format::Json, None),
        "journald" => journal(),
        _ if io::stderr().is_terminal() => (Format::Human, None),
        _ if journal::takes_stderr() => journal(),
        _ => (Format::Json, None),
    }
}
