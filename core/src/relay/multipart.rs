//! A scanner for `multipart/form-data` (RFC 7578, RFC 2046 5.1) that comes in pieces: finds the
//! fields that matter among parts that may be megabytes of audio.
//!
//! Owns: where the value of `model` lies. Must never do: hold a part's content beyond those fields.

use std::ops::Range;

use bytes::{Buf, BytesMut};
use memchr::memmem;

use super::scan::Found;
use crate::error::ApiError;

/// The longest head of a part.
const MAX_HEAD: usize = 16 << 10;
/// The longest value of a field that is read.
const MAX_VALUE: usize = 8 << 10;
/// RFC 2046: a boundary has at most 70 characters.
const MAX_BOUNDARY: usize = 70;

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Before the first boundary.
    Preamble,
    /// Behind a boundary: the end of its line, or of everything.
    BoundaryEnd,
    /// A part's head.
    Head,
    /// A part's content.
    Content { name: String, from: u64 },
    /// Behind the last boundary.
    Epilogue,
}

/// See the module.
#[derive(Debug)]
pub struct MultipartScan {
    boundary: String,
    /// CR LF, two dashes, the boundary.
    delimiter: Vec<u8>,
    state: State,
    /// Bytes that are not judged yet; the first of them stands at `at`.
    rest: BytesMut,
    at: u64,
    /// The content of one of our fields.
    kept: Vec<u8>,
    insert_at: u64,
    model: Option<(String, Range<u64>)>,
    stream: bool,
}

impl MultipartScan {
    /// For a body of this content type.
    pub fn new(content_type: &str) -> Result<Self, ApiError> {
        let boundary = parameter(content_type, "boundary")
            .filter(|boundary| (1..=MAX_BOUNDARY).contains(&boundary.len()))
            .ok_or_else(|| {
                ApiError::invalid("", "the content-type multipart/form-data names no boundary")
            })?;
        Ok(MultipartScan {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            boundary,
            state: State::Preamble,
            // The first boundary may begin the body: as if a line had ended before it.
            rest: BytesMut::from(&b"\r\n"[..]),
            at: 0,
            kept: Vec::new(),
            insert_at: 0,
            model: None,
            stream: false,
        })
    }

    /// The place of a byte of `rest` in the body; the line end before it does not count.
    fn place(&self, offset: usize) -> u64 {
        (self.at + offset as u64).saturating_sub(2)
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        if self.state == State::Epilogue {
            return Ok(());
        }
        self.rest.extend_from_slice(piece);
        while self.step()? {}
        Ok(())
    }

    /// The body has ended.
    pub fn finish(self) -> Result<Found, ApiError> {
        if self.state != State::Epilogue {
            let message = "the multipart body ends before its closing boundary";
            return Err(ApiError::invalid("", message));
        }
        Ok(Found {
            model: self.model,
            stream: self.stream,
            stream_options: None,
            metadata: None,
            insert_at: self.insert_at,
            is_empty: false,
            boundary: Some(self.boundary),
        })
    }

    /// Forgets so many bytes of `rest`.
    fn drop_first(&mut self, count: usize) {
        self.rest.advance(count);
        self.at += count as u64;
    }

    /// One step; whether another may follow.
    fn step(&mut self) -> Result<bool, ApiError> {
        match &self.state {
            State::Preamble | State::Content { .. } => self.until_boundary(),
            State::BoundaryEnd => self.boundary_end(),
            State::Head => self.head(),
            State::Epilogue => {
                self.rest.clear();
                Ok(false)
            }
        }
    }

    fn until_boundary(&mut self) -> Result<bool, ApiError> {
        let found = memmem::find(&self.rest, &self.delimiter);
        // What may be the beginning of a boundary is kept.
        let content = found.unwrap_or((self.rest.len() + 1).saturating_sub(self.delimiter.len()));
        if let State::Content { name, .. } = &self.state
            && is_ours(name)
        {
            let room = (MAX_VALUE + 1).saturating_sub(self.kept.len());
            self.kept.extend_from_slice(&self.rest[..content.min(room)]);
        }
        let end = self.place(content);
        if found.is_none() {
            self.drop_first(content);
            return Ok(false);
        }
        match std::mem::replace(&mut self.state, State::BoundaryEnd) {
            State::Content { name, from } => self.field_ends(&name, from..end)?,
            // The first boundary: a further part can be put before it.
            _ => self.insert_at = self.place(content + 2),
        }
        self.drop_first(content + self.delimiter.len());
        Ok(true)
    }

    /// Behind a boundary stands `--` at the very end, or white space and a line end.
    fn boundary_end(&mut self) -> Result<bool, ApiError> {
        if self.rest.len() < 2 {
            return Ok(false);
        }
        if self.rest.starts_with(b"--") {
            self.state = State::Epilogue;
            return Ok(true);
        }
        let Some(end) = self.head_ends(b"\r\n")? else { return Ok(false) };
        if !self.rest[..end].iter().all(|b| matches!(b, b' ' | b'\t')) {
            return Err(self.broken());
        }
        // The line end stays: a head without a line begins with its own.
        self.drop_first(end);
        self.state = State::Head;
        Ok(true)
    }

    /// Where a head ends; `None`: more is to come. One that is too long is so however it comes.
    fn head_ends(&self, mark: &[u8]) -> Result<Option<usize>, ApiError> {
        let most = MAX_HEAD + mark.len();
        let found = memmem::find(&self.rest[..self.rest.len().min(most)], mark);
        if found.is_none() && self.rest.len() >= most {
            return Err(self.broken());
        }
        Ok(found)
    }

    fn head(&mut self) -> Result<bool, ApiError> {
        let Some(end) = self.head_ends(b"\r\n\r\n")? else { return Ok(false) };
        let head = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        let name = field_name(&head).map_err(|why| {
            let at = self.place(0);
            ApiError::invalid("", format!("a part of the multipart body (at byte {at}) {why}"))
        })?;
        let from = self.place(end + 4);
        self.drop_first(end + 4);
        self.kept.clear();
        self.state = State::Content { name: name.unwrap_or_default(), from };
        Ok(true)
    }

    fn field_ends(&mut self, name: &str, place: Range<u64>) -> Result<(), ApiError> {
        let value = std::mem::take(&mut self.kept);
        let text = || -> Option<String> {
            let text = std::str::from_utf8(&value).ok()?;
            (value.len() <= MAX_VALUE).then(|| text.trim().to_owned())
        };
        match name {
            "model" => {
                let text =
                    text().ok_or_else(|| ApiError::invalid("model", "`model` must be a text"))?;
                if self.model.replace((text, place)).is_some() {
                    return Err(ApiError::invalid("model", "duplicate field `model`"));
                }
            }
            "stream" => {
                self.stream = match text().as_deref() {
                    Some("true" | "True" | "1") => true,
                    Some("false" | "False" | "0" | "") => false,
                    _ => {
                        let message = "`stream` must be true or false";
                        return Err(ApiError::invalid("stream", message));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn broken(&self) -> ApiError {
        let at = self.place(0);
        ApiError::invalid("", format!("the multipart body is malformed (at byte {at})"))
    }
}

fn is_ours(name: &str) -> bool {
    matches!(name, "model" | "stream")
}

/// The field that a part is, by its head; files are none of ours. What parsers read in different ways
/// is refused: it could mean one thing to us and another to the backend.
fn field_name(head: &str) -> Result<Option<String>, &'static str> {
    let is_disposition = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case("content-disposition")
    };
    let mut lines = head.lines().filter(is_disposition);
    let Some((_, value)) = lines.next().and_then(|line| line.split_once(':')) else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err("has two Content-Dispositions");
    }
    let parameters = parameters(value).ok_or("has a Content-Disposition that cannot be read")?;
    let named = |wanted: &str| parameters.iter().filter(|(name, _)| name == wanted).count();
    if named("name") > 1 || named("filename") > 1 {
        return Err("names a parameter twice");
    }
    if named("name*") > 0 {
        return Err("has a name in a form that not everybody reads (name*)");
    }
    if named("filename") + named("filename*") > 0 {
        return Ok(None);
    }
    Ok(parameters.into_iter().find(|(name, _)| name == "name").map(|(_, value)| value))
}

/// A parameter of a header's value.
fn parameter(value: &str, wanted: &str) -> Option<String> {
    parameters(value)?.into_iter().find(|(name, _)| name == wanted).map(|(_, value)| value)
}

/// The parameters of a header's value, their names in lower case, with or without quotes.
fn parameters(value: &str) -> Option<Vec<(String, String)>> {
    let mut all = Vec::new();
    let mut rest = value;
    while let Some(at) = rest.find(';') {
        rest = rest[at + 1..].trim_start();
        if rest.trim().is_empty() {
            break; // a semicolon at the end
        }
        let (name, after) = rest.split_once('=')?;
        let (found, left) = if let Some(quoted) = after.trim_start().strip_prefix('"') {
            quoted_text(quoted)?
        } else {
            let end = after.find(';').unwrap_or(after.len());
            (after[..end].trim().to_owned(), &after[end..])
        };
        all.push((name.trim().to_ascii_lowercase(), found));
        rest = left;
    }
    Some(all)
}

/// The text up to the closing quote, and what stands behind it.
fn quoted_text(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((text, &quoted[at + 1..])),
            '\\' => text.push(chars.next()?.1),
            c => text.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
    use super::*;
    use crate::relay::Dialect;
    use proptest::prelude::*;

    const TYPE: &str = "multipart/form-data; boundary=xYz";

    fn scan(pieces: &[&[u8]]) -> Result<Found, ApiError> {
        let mut scan = MultipartScan::new(TYPE)?;
        for piece in pieces {
            scan.push(piece)?;
        }
        scan.finish()
    }

    fn form(parts: &[(&str, &str)]) -> String {
        let part = |(head, content): &(&str, &str)| {
            format!("--xYz\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
        };
        parts.iter().map(part).collect::<String>() + "--xYz--\r\n"
    }

    fn upstream(text: &str) -> String {
        let edits = scan(&[text.as_bytes()]).unwrap().edits(Dialect::Transcriptions, "served/id");
        let [edit] = edits.try_into().unwrap();
        let (start, end) = (edit.place.start as usize, edit.place.end as usize);
        format!("{}{}{}", &text[..start], edit.text, &text[end..])
    }

    #[test]
    fn the_model_is_replaced_and_every_other_byte_stays() {
        let audio = ("name=\"file\"; filename=\"a.wav\"", "RIFF\r\n--xY\r\n\0model");
        let sent = form(&[audio, ("name=\"model\"", "whisper"), ("name=language", "en")]);
        let want = form(&[audio, ("name=\"model\"", "served/id"), ("name=language", "en")]);
        assert_eq!(upstream(&sent), want);
        assert_eq!(scan(&[sent.as_bytes()]).unwrap().model(), Some("whisper"));
        let without = form(&[audio]);
        assert_eq!(upstream(&without), form(&[("name=\"model\"", "served/id"), audio]));
        let preamble = format!("hello\r\n{without}");
        let want = format!("hello\r\n{}", form(&[("name=\"model\"", "served/id"), audio]));
        assert_eq!(upstream(&preamble), want);
        let empty = form(&[("name=\"model\"", "")]);
        assert_eq!(upstream(&empty), form(&[("name=\"model\"", "served/id")]));
        assert_eq!(scan(&[empty.as_bytes()]).unwrap().model(), None);
    }

    #[test]
    fn a_file_called_model_is_no_model_and_stream_is_read() {
        let form = form(&[
            ("name=\"model\"; filename=\"m\"", "x"),
            ("name=\"model\"; filename*=utf-8''m", "y"),
            ("name=\"stream\"", "true"),
        ]);
        let found = scan(&[form.as_bytes()]).unwrap();
        assert_eq!((found.model(), found.stream), (None, true));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(MultipartScan::new("multipart/form-data").is_err());
        for (body, message) in [
            ("", "ends before"),
            ("--xYz\r\n", "ends before"),
            ("--xYz junk\r\n\r\n\r\n--xYz--", "malformed"),
            (&form(&[("name=\"z\"; name=\"model\"", "a")]), "parameter twice"),
            (&form(&[("name*=utf-8''model", "a")]), "name*"),
            (&form(&[("name=a\r\nContent-Disposition: form-data; name=model", "a")]), "two"),
            (&form(&[("name=\"stream\"", "yes")]), "true or false"),
            (&form(&[("name=model", "a"), ("name=model", "b")]), "duplicate"),
            (&form(&[("name=model", &"x".repeat(9000))]), "must be a text"),
        ] {
            let error = scan(&[body.as_bytes()]).unwrap_err();
            assert!(error.message.contains(message), "{body:.40}: {}", error.message);
        }
    }

    #[test]
    fn boundaries_are_read_in_every_form() {
        for (value, want) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("multipart/form-data; charset=utf-8; Boundary=\"a;b\"", Some("a;b")),
            ("multipart/form-data; boundary=", Some("")),
            ("multipart/form-data", None),
        ] {
            assert_eq!(parameter(value, "boundary").as_deref(), want, "{value}");
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            before in "[a-z\r\n-]{0,20}", model in "[a-z0-9/:.-]{1,12}", stream: bool,
            cuts in prop::collection::vec(0usize..400, 0..12),
        ) {
            let audio = format!("{before}--xY\r\n");
            let text = form(&[
                ("name=\"file\"; filename=\"f\"", &audio),
                ("name=\"model\"", &model),
                ("name=\"stream\"", if stream { "true" } else { "false" }),
            ]);
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);
            let found = scan(&pieces).unwrap();
            prop_assert_eq!(&found, &scan(&[bytes]).unwrap());
            prop_assert_eq!((found.model(), found.stream), (Some(model.as_str()), stream));
            let place = found.model.clone().unwrap().1;
            prop_assert_eq!(&bytes[place.start as usize..place.end as usize], model.as_bytes());
        }
    }
}
