//! The fields of spans as JSON, for log lines that are JSON.
//!
//! Every request makes a span, and few of them are ever written: so its fields are put into text the
//! short way, without a tree and a serializer (measured: a third of the instructions of the library's
//! own). Owns: that text, which is always an object. Must never do: write a line.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::span::Record;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, FormattedFields};

/// See the module.
pub(super) struct JsonSpanFields;

impl<'w> FormatFields<'w> for JsonSpanFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut object = Object { writer, begun: false, result: Ok(()) };
        fields.record(&mut object);
        object.end()
    }

    fn add_fields(
        &self,
        current: &'w mut FormattedFields<Self>,
        fields: &Record<'_>,
    ) -> fmt::Result {
        // What is there ends with the bracket that now comes later.
        let begun = current.fields.len() > "{}".len();
        current.fields.truncate(if begun { current.fields.len() - 1 } else { 0 });
        let mut object = Object { writer: current.as_writer(), begun, result: Ok(()) };
        fields.record(&mut object);
        object.end()
    }
}

struct Object<'w> {
    writer: Writer<'w>,
    begun: bool,
    result: fmt::Result,
}

impl Object<'_> {
    fn end(mut self) -> fmt::Result {
        self.result?;
        self.writer.write_str(if self.begun { "}" } else { "{}" })
    }

    fn member(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_err() {
            return;
        }
        let before = if std::mem::replace(&mut self.begun, true) { "," } else { "{" };
        // Names of fields are those of Rust, or were written into the program: nothing to escape.
        let name = field.name();
        self.result = [before, "\"", name.strip_prefix("r#").unwrap_or(name), "\":"]
            .iter()
            .try_for_each(|piece| self.writer.write_str(piece))
            .and_then(|()| value(&mut self.writer));
    }

    fn text(&mut self, field: &Field, text: &str) {
        let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        self.member(field, |writer| {
            if text.bytes().all(plain) {
                writer.write_char('"')?;
                writer.write_str(text)?;
                return writer.write_char('"');
            }
            writer.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?)
        });
    }
}

impl Visit for Object<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no other numbers.
        self.member(field, |writer| {
            if value.is_finite() { write!(writer, "{value}") } else { writer.write_str("null") }
        });
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |writer| write!(writer, "{value}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a line says of the span that it was written in.
    fn span_of(write: impl FnOnce()) -> Value {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .json()
            .fmt_fields(JsonSpanFields)
            .finish();
        tracing::subscriber::with_default(subscriber, write);
        let line: Value = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
        line["span"].clone()
    }

    #[test]
    fn fields_of_all_kinds_are_found_in_the_line() {
        let seen = span_of(|| {
            let odd = "a\"b\\c\n\u{1b}é";
            let span = tracing::info_span!("s", odd, n = 7u64, z = -7i64, yes = true, f = 0.5);
            let debug =
                tracing::info_span!(parent: &span, "t", list = ?["x"], shown = %1, r#type = "k");
            let _entered = (span.enter(), debug.enter());
            tracing::info!("line");
        });
        assert_eq!(seen, json!({"name": "t", "list": "[\"x\"]", "shown": "1", "type": "k"}));
        let seen = span_of(|| {
            let odd = "a\"b\\c\n\u{1b}é";
            let _entered =
                tracing::info_span!("s", odd, n = 7u64, z = -7i64, yes = true, f = 0.5).entered();
            tracing::info!("line");
        });
        let want =
            json!({"name": "s", "odd": "a\"b\\c\n\u{1b}é", "n": 7, "z": -7, "yes": true, "f": 0.5});
        assert_eq!(seen, want);
    }

    #[test]
    fn fields_that_come_later_are_added() {
        for first in [None, Some("a")] {
            let seen = span_of(|| {
                let empty = tracing::field::Empty;
                let span = tracing::info_span!("s", first, later = empty, last = empty);
                span.record("later", "b");
                span.record("last", 3u64);
                let _entered = span.enter();
                tracing::info!("line");
            });
            let mut want = json!({"name": "s", "later": "b", "last": 3});
            if let Some(first) = first {
                want["first"] = json!(first);
            }
            assert_eq!(seen, want);
        }
    }
}
