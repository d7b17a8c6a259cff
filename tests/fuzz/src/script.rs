//! A streamed answer, as a seed can be written by hand.
//!
//! A line that begins with `{` (or `data: {`) is a chunk as it is; `#role`, `#think TEXT`,
//! `#call INDEX NAME`, `#args INDEX TEXT`, `#legacy NAME`, `#legacy-args TEXT`, `#end REASON` and
//! `#choice INDEX` (for the lines that follow) are short for chunks; any other line is text, in which
//! `\n` is a line end. Text is cut into several chunks.
//!
//! Owns: that language. Must never do: judge what it says.

use serde_json::{Value, json};

use crate::input::Input;

/// The answer's id, where the chunks do not say another.
pub(crate) const ID: &str = "chatcmpl-1";

/// The lines of text are cut that often altogether; what comes behind that stays whole.
const MAX_CUTS: usize = 48;

/// See the module.
pub(crate) struct Script<'a>(Vec<Line<'a>>);

enum Line<'a> {
    /// A chunk as it is.
    Chunk(&'a str),
    /// A delta of a choice.
    Delta(u64, Value),
    /// How it ends.
    End(u64, &'a str),
    /// Text of a choice.
    Says(u64, String),
}

impl<'a> Script<'a> {
    /// `line_ends`: lines of text have theirs.
    pub(crate) fn of(text: &'a str, line_ends: bool) -> Self {
        let mut choice = 0;
        let mut lines = Vec::new();
        for line in text.lines() {
            let chunk = line.strip_prefix("data: ").unwrap_or(line);
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            if chunk.starts_with('{') {
                lines.push(Line::Chunk(chunk));
            } else if word == "#choice" {
                choice = rest.parse().unwrap_or(0).min(7);
            } else if word == "#end" {
                lines.push(Line::End(choice, rest));
            } else if let Some(delta) = short(word, rest) {
                lines.push(Line::Delta(choice, delta));
            } else {
                let end = if line_ends { "\n" } else { "" };
                lines.push(Line::Says(choice, line.replace("\\n", "\n") + end));
            }
        }
        Script(lines)
    }

    /// In how many ways its texts can be cut.
    pub(crate) fn cuts(&self) -> usize {
        if self.0.iter().any(|line| matches!(line, Line::Says(..))) { 3 } else { 1 }
    }

    /// The chunks, their texts cut in this way.
    pub(crate) fn chunks(&self, input: &Input<'_>, cut: usize) -> Vec<Vec<u8>> {
        let (mut chunks, mut cuts) = (Vec::new(), MAX_CUTS);
        for line in &self.0 {
            match line {
                Line::Chunk(chunk) => chunks.push(chunk.as_bytes().to_vec()),
                Line::Delta(choice, delta) => chunks.push(chunk(*choice, delta, None)),
                Line::End(choice, reason) => chunks.push(chunk(*choice, &json!({}), Some(reason))),
                Line::Says(choice, text) => {
                    let pieces = pieces(text, input, cut, cuts);
                    cuts = (cuts + 1).saturating_sub(pieces.len());
                    let deltas = pieces.iter().map(|text| json!({"content": text}));
                    chunks.extend(deltas.map(|delta| chunk(*choice, &delta, None)));
                }
            }
        }
        chunks
    }
}

/// What a word is short for.
fn short(word: &str, rest: &str) -> Option<Value> {
    let (index, behind) = rest.split_once(' ').unwrap_or((rest, ""));
    let index = index.parse::<u64>().unwrap_or(0);
    let function = |name: &str| json!({"name": name, "arguments": ""});
    let delta = match word {
        "#role" => json!({"role": "assistant", "content": ""}),
        "#think" => json!({"reasoning": rest}),
        "#call" => {
            let id = format!("own-{index}-{behind}");
            let call =
                json!({"index": index, "id": id, "type": "function", "function": function(behind)});
            json!({"tool_calls": [call]})
        }
        "#args" => {
            json!({"tool_calls": [{"index": index, "function": {"arguments": behind}}]})
        }
        "#legacy" => json!({"function_call": function(rest)}),
        "#legacy-args" => json!({"function_call": {"arguments": rest}}),
        _ => return None,
    };
    Some(delta)
}

fn pieces<'t>(text: &'t str, input: &Input<'_>, cut: usize, most: usize) -> Vec<&'t str> {
    if text.is_empty() || most == 0 {
        return vec![text]; // nothing is a chunk all the same
    }
    let texts = input.texts(text);
    // Long texts are not cut in every way.
    let pieces = texts.each().nth(cut).or(texts.each().nth(1)).unwrap_or_default();
    let mut pieces = pieces.to_vec();
    if pieces.len() > most {
        let taken = pieces[..most].iter().map(|piece| piece.len()).sum();
        pieces.truncate(most);
        pieces.push(&text[taken..]);
    }
    pieces
}

fn chunk(choice: u64, delta: &Value, end: Option<&str>) -> Vec<u8> {
    let choice = json!({"index": choice, "delta": delta, "finish_reason": end});
    let chunk = json!({"id": ID, "object": "chat.completion.chunk", "choices": [choice]});
    chunk.to_string().into_bytes()
}
