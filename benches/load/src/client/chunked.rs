//! Takes chunked framing off a body, piece by piece. It must never look into the payload.

use crate::Fault;

/// The longest size line that is taken for one.
const LONGEST_LINE: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Data(usize),
    DataEnd,
    Trailer,
    Done,
}

/// The decoder of one body.
pub(super) struct Chunked(State);

impl Chunked {
    /// At the start of a body.
    pub(super) fn new() -> Self {
        Self(State::Size)
    }

    /// The last chunk and the trailer have been read.
    pub(super) fn is_done(&self) -> bool {
        self.0 == State::Done
    }

    /// Hands payload to `sink` and returns how much of `input` is used up; the rest must come again,
    /// with more behind it.
    pub(super) fn feed(
        &mut self,
        input: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<usize, Fault> {
        let mut used = 0;
        while self.0 != State::Done {
            let rest = &input[used..];
            let step = match self.0 {
                State::Data(left) => {
                    let now = left.min(rest.len());
                    sink(&rest[..now])?;
                    self.0 = if now == left { State::DataEnd } else { State::Data(left - now) };
                    now
                }
                State::Size | State::DataEnd | State::Trailer => {
                    let Some(line) = line(rest)? else {
                        return Ok(used);
                    };
                    self.0 = after_line(self.0, &rest[..line])?;
                    line + 1
                }
                State::Done => 0,
            };
            used += step;
            if used == input.len() {
                break;
            }
        }
        Ok(used)
    }
}

/// The length of the first line without its line feed, if it is whole.
fn line(input: &[u8]) -> Result<Option<usize>, Fault> {
    match memchr::memchr(b'\n', input) {
        None if input.len() > LONGEST_LINE => Err("a chunk's size line has no end".into()),
        found => Ok(found),
    }
}

fn after_line(state: State, line: &[u8]) -> Result<State, Fault> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match state {
        State::Size => {
            let digits = line.split(|b| *b == b';').next().unwrap_or_default();
            let size = usize::from_str_radix(std::str::from_utf8(digits)?.trim(), 16)?;
            Ok(if size == 0 { State::Trailer } else { State::Data(size) })
        }
        State::DataEnd if line.is_empty() => Ok(State::Size),
        State::DataEnd => Err("a chunk is longer than its size line says".into()),
        State::Trailer if line.is_empty() => Ok(State::Done),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"5\r\nhello\r\n1;x=y\r\n,\r\n6\r\n world\r\n0\r\nt: v\r\n\r\nnext";

    fn decode(body: &[u8], step: usize) -> Result<(Vec<u8>, usize), Fault> {
        let (mut decoder, mut out, mut used, mut end) = (Chunked::new(), Vec::new(), 0, 0);
        while !decoder.is_done() && end < body.len() {
            end = (end + step).min(body.len());
            used += decoder.feed(&body[used..end], |part| {
                out.extend_from_slice(part);
                Ok(())
            })?;
        }
        Ok((out, used))
    }

    #[test]
    fn any_cut_of_the_input_gives_the_same_payload() -> Result<(), Fault> {
        for step in 1..=BODY.len() {
            let (out, used) = decode(BODY, step)?;
            assert_eq!(out, b"hello, world", "in steps of {step}");
            assert_eq!(&BODY[used..], b"next");
        }
        Ok(())
    }

    #[test]
    fn broken_framing_is_an_error() {
        assert!(decode(b"x\r\nhello\r\n", 100).is_err());
        assert!(decode(b"2\r\nhello\r\n", 100).is_err());
    }
}
