//! Lines for systemd's journal, with their fields, so that `journalctl -p warning` and
//! `journalctl REQUEST_ID=…` find them.
//!
//! Owns: the journal's native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>) in its form for
//! values of one line. Must never do: be called on a request's thread: a journal that hangs would keep it.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

const SOCKET: &str = "/run/systemd/journal/socket";
const NAME: &str = "imageworks-chat-proxy";
/// A longer value is cut: a datagram has a bound, and a line of a log should have one.
const LONGEST: usize = 16 << 10;

/// Whether stderr is the journal's (`sd_journal_stream_fd(3)`: the variable names its device and inode).
pub(super) fn takes_stderr() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = nix::sys::stat::fstat(io::stderr().as_fd());
    stderr.is_ok_and(|stat| format!("{}:{}", stat.st_dev, stat.st_ino) == named)
}

/// The journal's socket.
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    pub(super) fn connect() -> io::Result<Journal> {
        Journal::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> io::Result<Journal> {
        let journal = Journal { socket: UnixDatagram::unbound()?, path: path.to_owned() };
        // An empty message is none; who is not there is known at once.
        journal.socket.send_to(b"", path)?;
        Ok(journal)
    }
}

impl Write for Journal {
    /// One message a line of the log. Each goes to whoever has the socket now: a journal that was
    /// started anew has another.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.socket.send_to(line, &self.path) {
            // It is seen where the journal takes stderr, which it does where it is used.
            io::stderr().write_all(line)?;
            writeln!(io::stderr(), "the journal did not take this: {error}")?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fields as lines `NAME=value`.
pub(super) struct JournalFields;

impl<'w> FormatFields<'w> for JournalFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut lines = Lines { writer, result: Ok(()) };
        fields.record(&mut lines);
        lines.result
    }
}

/// Events as messages.
pub(super) struct JournalFormat;

impl<S, N> FormatEvent<S, N> for JournalFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let meta = event.metadata();
        writeln!(writer, "PRIORITY={}", priority(*meta.level()))?;
        writeln!(writer, "SYSLOG_IDENTIFIER={NAME}\nTARGET={}", meta.target())?;
        ctx.format_fields(writer.by_ref(), event)?;
        for span in ctx.event_scope().into_iter().flatten() {
            writeln!(writer, "SPAN={}", span.name())?;
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<N>>() {
                writer.write_str(fields)?;
            }
        }
        Ok(())
    }
}

/// syslog(3): 3 is an error, 7 is for debugging.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

struct Lines<'w> {
    writer: Writer<'w>,
    result: fmt::Result,
}

impl Lines<'_> {
    fn line(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() {
            self.result = writeln!(self.writer, "{}={}", name(field.name()), one_line(value));
        }
    }
}

impl Visit for Lines<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.line(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.line(field, &format!("{value:?}"));
    }
}

/// The journal takes capitals, digits and `_`, begun with a letter; `id` of a request's span is what
/// people look for.
fn name(field: &str) -> String {
    match field {
        "message" => "MESSAGE".to_owned(),
        "id" => "REQUEST_ID".to_owned(),
        _ => {
            let plain =
                |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
            field.chars().map(plain).collect::<String>().trim_start_matches('_').to_owned()
        }
    }
}

/// Line ends are shown as in a string of a program: a value of several lines would need another form.
fn one_line(value: &str) -> String {
    let mut end = value.len().min(LONGEST);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].replace('\r', "\\r").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use std::sync::Mutex;
    use std::time::Duration;

    /// What a journal hears while something is done.
    fn heard(count: usize, doing: impl FnOnce()) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let journal = Mutex::new(Journal::at(&path).unwrap());
        let subscriber = tracing_subscriber::fmt()
            .with_writer(journal)
            .with_ansi(false)
            .fmt_fields(JournalFields)
            .event_format(JournalFormat)
            .finish();
        tracing::subscriber::with_default(subscriber, doing);
        let mut buffer = vec![0; 65536];
        let mut read = || {
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!(read(), "", "the greeting");
        (0..count).map(|_| read()).collect()
    }

    #[test]
    fn fields_and_those_of_the_request_can_be_searched_by() {
        let heard = heard(2, || {
            let span = tracing::info_span!("request", id = "req-1", path = "/v1/x");
            let _in = span.enter();
            tracing::warn!(model = "m", took = ?Duration::from_secs(2), "went wrong");
            tracing::error!("two\nlines\r\nMESSAGE=forged");
        });
        let target = module_path!();
        let span = "SPAN=request\nREQUEST_ID=req-1\nPATH=/v1/x\n";
        assert_eq!(
            heard[0],
            format!(
                "PRIORITY=4\nSYSLOG_IDENTIFIER=imageworks-chat-proxy\nTARGET={target}\n\
                 MESSAGE=went wrong\nMODEL=m\nTOOK=2s\n{span}"
            )
        );
        let forged = format!(
            "PRIORITY=3\nSYSLOG_IDENTIFIER=imageworks-chat-proxy\nTARGET={target}\n\
             MESSAGE=two\\nlines\\r\\nMESSAGE=forged\n{span}"
        );
        assert_eq!(heard[1], forged);
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let value = "é".repeat(LONGEST);
        assert_eq!(one_line(&value).len(), LONGEST);
        assert_eq!(one_line(&format!("x{value}")).len(), LONGEST - 1);
    }

    #[test]
    fn names_are_such_as_the_journal_takes() {
        for (field, want) in
            [("model", "MODEL"), ("http.status", "HTTP_STATUS"), ("_x", "X"), ("id", "REQUEST_ID")]
        {
            assert_eq!(name(field), want);
        }
    }

    #[test]
    fn where_there_is_no_journal_that_is_said() {
        assert!(Journal::at(Path::new("/no/such/socket")).is_err());
    }
}
