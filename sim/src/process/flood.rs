//! Owns lines of log that are there to be many: numbered, of equal length, as fast as they go.
//!
//! They are written by a thread of their own: nobody may be reading, and then the engine has to
//! serve on, and to end when it is told. Must never write two lines at once, nor half of one.

use std::io::{self, Write};
use std::thread;

use serde::Deserialize;
use tokio::sync::oneshot;

/// All lines of one order together.
const MOST: usize = 1024 * 1024 * 1024;

/// An order of such lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Flood {
    /// How many.
    pub(crate) lines: usize,
    /// The length of each, its end included.
    bytes: usize,
    /// The number of the first.
    #[serde(default)]
    from: usize,
}

impl Flood {
    /// Reads an order, or says what is wrong with it.
    pub(crate) fn read(body: &[u8]) -> Result<Self, String> {
        let order: Self = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        if order.lines.checked_mul(order.bytes).is_none_or(|all| all > MOST) {
            return Err(format!("lines times bytes is more than {MOST}"));
        }
        let last = order.from.checked_add(order.lines.saturating_sub(1));
        let last = last.ok_or("the numbers are too large")?;
        // The last number is the longest.
        let least = head(last).len() + 1;
        if order.bytes < least {
            return Err(format!("bytes is {}, and line {last} needs {least}", order.bytes));
        }
        Ok(order)
    }

    /// Writes the lines to the standard error; returns when all are written.
    pub(crate) async fn pour(self) -> io::Result<()> {
        let (done, poured) = oneshot::channel();
        thread::Builder::new().name("sim-log".to_owned()).spawn(move || {
            // Whoever ordered it may have gone.
            let _ = done.send(self.write(&mut io::stderr()));
        })?;
        poured.await.map_err(io::Error::other)?
    }

    /// One write for each line. The standard error has no buffer that would join or part them.
    fn write(self, out: &mut impl Write) -> io::Result<()> {
        let mut line = Vec::with_capacity(self.bytes);
        for number in (self.from..).take(self.lines) {
            line.clear();
            line.extend_from_slice(head(number).as_bytes());
            line.resize(self.bytes - 1, b'.');
            line.push(b'\n');
            out.write_all(&line)?;
        }
        Ok(())
    }
}

/// What a line begins with.
fn head(number: usize) -> String {
    format!("sim-log {number} ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Keeps what came with each write.
    #[derive(Default)]
    struct Writes(Vec<String>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(order: &str) -> Vec<String> {
        let mut writes = Writes::default();
        Flood::read(order.as_bytes()).unwrap().write(&mut writes).unwrap();
        writes.0
    }

    #[test]
    fn each_line_is_one_write_of_exactly_so_many_bytes() {
        let lines = written(r#"{"lines": 3, "bytes": 15, "from": 9}"#);
        assert_eq!(lines, ["sim-log 9 ....\n", "sim-log 10 ...\n", "sim-log 11 ...\n"]);
        assert_eq!(written(r#"{"lines": 1, "bytes": 11}"#), ["sim-log 0 \n"]);
        assert!(written(r#"{"lines": 0, "bytes": 11}"#).is_empty());
    }

    #[test]
    fn an_order_that_cannot_be_carried_out_is_refused_with_the_reason() {
        for (order, told) in [
            (r#"{"lines": 11, "bytes": 11}"#, "line 10 needs 12"),
            (r#"{"lines": 1, "bytes": 0}"#, "line 0 needs 11"),
            (r#"{"lines": 1048577, "bytes": 1024}"#, "more than 1073741824"),
            (r#"{"lines": 18446744073709551615, "bytes": 99}"#, "more than 1073741824"),
            (r#"{"lines": 2, "bytes": 99, "from": 18446744073709551615}"#, "too large"),
            (r#"{"lines": 1}"#, "`bytes`"),
            (r#"{"lines": 1, "bytes": 20, "form": 1}"#, "`form`"),
            ("", "EOF"),
        ] {
            let problem = Flood::read(order.as_bytes()).unwrap_err();
            assert!(problem.contains(told), "{order}: {problem}");
        }
        assert!(Flood::read(br#"{"lines": 1048576, "bytes": 1024}"#).is_ok());
    }
}
