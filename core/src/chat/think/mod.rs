//! Thoughts that a model writes into its text as `<think>…</think>` (SPEC 5.6).
//!
//! Owns: which parts of a text are thoughts ([`ThinkSplitter`]) and what an operator wants of them.
//! Must never do: judge differently for other cuts of the text, or lose a byte: the parts that it
//! puts out, joined, are the text.
//!
//! | where it stands | what it is |
//! |---|---|
//! | `<think>` at the beginning, white space before it or not | thought up to the first `</think>`, or to the end |
//! | no `<think>` before the first `</think>` | thought up to there: the prompt had opened it |
//! | `<think>` later | thought if a `</think>` follows within [`MAX_UNSURE`]; text if not |
//! | either tag right behind a quotation mark or a backtick | text: somebody speaks of tags |
//!
//! One line end at each inner side of a thought goes with its tag, and one behind the closing tag.
//! (The mark of speaking does not count inside of a thought that the model itself has opened: engines end
//! it at the first `</think>`, whatever stands around it.)

mod off;
mod splitter;
#[cfg(test)]
mod tests;

pub use off::is_off;
pub use splitter::{MAX_UNSURE, ThinkSplitter};

/// What becomes of thoughts in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ThinkFormat {
    /// They stay in the text.
    #[default]
    Keep,
    /// They go into the field for reasoning.
    Extract,
    /// They go.
    Strip,
}

impl ThinkFormat {
    /// Reads the setting.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "keep" => Some(ThinkFormat::Keep),
            "extract" => Some(ThinkFormat::Extract),
            "strip" => Some(ThinkFormat::Strip),
            _ => None,
        }
    }
}

/// Who writes the opening tag: some templates end the prompt with it, and then the text begins with
/// a thought that nothing opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Opener {
    /// Nobody has said: text is a thought or not by what comes later.
    #[default]
    Unknown,
    /// The prompt: text begins as a thought.
    Prompt,
    /// The model itself: without a tag there is no thought.
    Model,
}

impl Opener {
    /// Reads an entry's word for it.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "prompt" => Some(Opener::Prompt),
            "model" => Some(Opener::Model),
            _ => None,
        }
    }
}

/// How an answer's thoughts are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Thinking {
    /// What becomes of them.
    pub format: ThinkFormat,
    /// Who opens them.
    pub opener: Opener,
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// What is meant for the reader.
    Answer(String),
    /// A thought, or a part of it.
    Thought(String),
    /// A tag, with the line ends that go with it.
    Mark(String),
    /// One or the other: [`Part::Settled`] will say.
    Unsure(String),
    /// All that was unsure is a thought (`true`) or text (`false`).
    Settled(bool),
}
