//! The head of a GGUF file: what its key-value pairs say of the model.
//!
//! Owns: reading the format (versions 1 to 3, little endian) with a bound on every length. Must
//! never do: panic, or take more memory than the head itself has, whatever the file says.

/// No key is longer, by the format's own rule.
const LONGEST_KEY: u64 = 65_535;
/// Names that are kept; anything longer is no name.
const LONGEST_NAME: usize = 256;
/// Arrays of arrays of arrays are in no file.
const DEEPEST: u8 = 4;
/// "Guessed", which is said beside the type.
const GUESSED: u32 = 1024;

/// What the head says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// `general.architecture`, such as `llama`.
    pub architecture: Option<String>,
    /// `general.type`: `model`, `mmproj`, `adapter`.
    pub kind: Option<String>,
    /// `general.file_type` by its name, such as `Q4_K_M`.
    pub quantization: Option<&'static str>,
    /// `<architecture>.context_length`.
    pub context_length: Option<u64>,
    /// It brings a chat template along.
    pub has_template: bool,
    /// It reads images.
    pub has_vision: bool,
    /// It hears.
    pub has_audio: bool,
}

/// Why a head cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// The file begins otherwise.
    #[error("it is no GGUF file")]
    Stranger,
    /// A version that we do not know, or big endian.
    #[error("its GGUF version is {0}, which is not known")]
    Version(u32),
    /// The head goes on behind these bytes; this is what they say.
    #[error("its head ends too soon")]
    Short(Box<Header>),
    /// It contradicts the format.
    #[error("its head is broken: {0}")]
    Broken(&'static str),
}

/// Reads the head out of a file's first bytes.
pub fn read(head: &[u8]) -> Result<Header, GgufError> {
    let mut cursor = Cursor { rest: head, wide: true };
    let mut raw = Raw::default();
    match read_pairs(&mut cursor, &mut raw) {
        Ok(()) => Ok(raw.header()),
        Err(Stop::Short) => Err(GgufError::Short(Box::new(raw.header()))),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// Whether a quantisation has this name in the format's own list.
pub fn is_quantization(name: &str) -> bool {
    FILE_TYPES.iter().any(|(_, known)| known.eq_ignore_ascii_case(name))
}

enum Stop {
    Short,
    Error(GgufError),
}

fn broken<T>(why: &'static str) -> Result<T, Stop> {
    Err(Stop::Error(GgufError::Broken(why)))
}

/// What was read so far; the architecture, which names other keys, may come behind them.
#[derive(Default)]
struct Raw {
    header: Header,
    lengths: Vec<(String, u64)>,
}

impl Raw {
    fn header(mut self) -> Header {
        let own = self.header.architecture.as_deref();
        let named = self.lengths.iter().find(|(of, _)| Some(of.as_str()) == own);
        self.header.context_length = named.or(self.lengths.first()).map(|(_, length)| *length);
        if own == Some("clip") && !self.header.has_audio {
            self.header.has_vision = true;
        }
        self.header
    }

    fn take(&mut self, key: &str, value: &Taken<'_>) {
        let name = || value.text().filter(|text| !text.is_empty() && text.len() <= LONGEST_NAME);
        match key {
            "general.architecture" => self.header.architecture = name().map(str::to_owned),
            "general.type" => self.header.kind = name().map(str::to_owned),
            "general.file_type" => {
                self.header.quantization = value.number().and_then(name_of_type);
            }
            "clip.has_vision_encoder" => self.header.has_vision = value.number() == Some(1),
            "clip.has_audio_encoder" => self.header.has_audio = value.number() == Some(1),
            _ if key == "tokenizer.chat_template"
                || key.starts_with("tokenizer.chat_template.") =>
            {
                self.header.has_template |= value.text().is_some_and(|t| !t.trim().is_empty());
            }
            _ => {
                let length = key.strip_suffix(".context_length").zip(value.number());
                if let Some((of, length)) = length.filter(|_| self.lengths.len() < 16) {
                    self.lengths.push((of.to_owned(), length));
                }
            }
        }
    }
}

/// A value that is looked at; the others are passed over.
enum Taken<'a> {
    Text(&'a str),
    Number(u64),
    Other,
}

impl<'a> Taken<'a> {
    fn text(&self) -> Option<&'a str> {
        match self {
            Taken::Text(text) => Some(text),
            _ => None,
        }
    }

    fn number(&self) -> Option<u64> {
        match self {
            Taken::Number(number) => Some(*number),
            _ => None,
        }
    }
}

fn read_pairs(cursor: &mut Cursor<'_>, raw: &mut Raw) -> Result<(), Stop> {
    let is_gguf = cursor.rest.iter().zip(b"GGUF").all(|(a, b)| a == b);
    if !is_gguf {
        return Err(Stop::Error(GgufError::Stranger));
    }
    cursor.take(4)?;
    let version = cursor.u32()?;
    if !(1..=3).contains(&version) {
        return Err(Stop::Error(GgufError::Version(version)));
    }
    cursor.wide = version > 1;
    let _tensors = cursor.length()?;
    // Each pair takes some bytes, so that the head's own length bounds the loop.
    for _ in 0..cursor.length()? {
        let length = cursor.length()?;
        if length > LONGEST_KEY {
            return broken("a key is too long");
        }
        let key = cursor.take(length)?;
        let kind = cursor.u32()?;
        let value = cursor.value(kind, 0)?;
        if let Ok(key) = std::str::from_utf8(key) {
            raw.take(key, &value);
        }
    }
    Ok(())
}

struct Cursor<'a> {
    rest: &'a [u8],
    /// Lengths have 64 bits; those of version 1 have 32.
    wide: bool,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], Stop> {
        let length = usize::try_from(length).map_err(|_| Stop::Short)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Stop::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: u64) -> Result<u64, Stop> {
        let taken = self.take(bytes)?;
        Ok(taken.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    fn u32(&mut self) -> Result<u32, Stop> {
        self.number(4).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
    }

    fn length(&mut self) -> Result<u64, Stop> {
        self.number(if self.wide { 8 } else { 4 })
    }

    fn value(&mut self, kind: u32, depth: u8) -> Result<Taken<'a>, Stop> {
        if let Some(size) = fixed_size(kind) {
            let number = self.number(size)?;
            // Floats are none of ours, and of negative numbers none means anything.
            let is_whole = !matches!(kind, 6 | 12);
            return Ok(if is_whole { Taken::Number(number) } else { Taken::Other });
        }
        match kind {
            8 => {
                let length = self.length()?;
                let text = self.take(length)?;
                Ok(std::str::from_utf8(text).map_or(Taken::Other, Taken::Text))
            }
            9 => self.pass_array(depth).map(|()| Taken::Other),
            _ => broken("a value has a type that the format does not know"),
        }
    }

    fn pass_array(&mut self, depth: u8) -> Result<(), Stop> {
        if depth >= DEEPEST {
            return broken("arrays lie in arrays too deep");
        }
        let (kind, count) = (self.u32()?, self.length()?);
        if let Some(size) = fixed_size(kind) {
            let Some(all) = count.checked_mul(size) else { return broken("an array is too long") };
            return self.take(all).map(|_| ());
        }
        for _ in 0..count {
            self.value(kind, depth + 1)?;
        }
        Ok(())
    }
}

/// Bytes of a value whose type has always the same.
fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// `general.file_type`, as llama.cpp numbers and names them.
const FILE_TYPES: &[(u32, &str)] = &[
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K"),
    (11, "Q3_K_S"),
    (12, "Q3_K_M"),
    (13, "Q3_K_L"),
    (14, "Q4_K_S"),
    (15, "Q4_K_M"),
    (16, "Q5_K_S"),
    (17, "Q5_K_M"),
    (18, "Q6_K"),
    (19, "IQ2_XXS"),
    (20, "IQ2_XS"),
    (21, "Q2_K_S"),
    (22, "IQ3_XS"),
    (23, "IQ3_XXS"),
    (24, "IQ1_S"),
    (25, "IQ4_NL"),
    (26, "IQ3_S"),
    (27, "IQ3_M"),
    (28, "IQ2_S"),
    (29, "IQ2_M"),
    (30, "IQ4_XS"),
    (31, "IQ1_M"),
    (32, "BF16"),
    (36, "TQ1_0"),
    (37, "TQ2_0"),
    (38, "MXFP4"),
    (39, "NVFP4"),
    (40, "Q1_0"),
];

fn name_of_type(number: u64) -> Option<&'static str> {
    let number = u32::try_from(number).ok()? & !GUESSED;
    FILE_TYPES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests;
