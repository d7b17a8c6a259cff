//! Text that may become one or several calls, read byte by byte.
//!
//! Owns: the forms of [`super::grammar`] as one machine: after each byte it says whether a call
//! can still come of it. Must never do: keep the text, look at a byte twice, or accept a byte that
//! no form has at this place.

use std::ops::Range;

use super::grammar::{
    ARGS, END_FUNCTION, END_PARAMETER, END_TAG, FENCE_TAGS, FUNCTION, MARK, PARTS, Piece, TAGS,
};
use super::json::{Json, is_space};
use super::offered::Offered;
use super::parameters;
use super::reader::{CallReader, Written};
use super::words::Prefix;

/// What came of a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It may still become a call.
    More,
    /// With this byte it is whole.
    Whole,
    /// It cannot become one any more, because of this byte.
    Dead,
}

/// A form in which JSON calls stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Tag,
    Mark,
    /// With so many backticks.
    Fence(usize),
    Bare,
}

/// A place where white space may stand, by what comes behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    /// JSON or a function.
    InTag,
    EndTag,
    /// JSON or a name.
    BehindMark,
    /// An object, parameters or nothing.
    InFunction,
    BehindParameter,
    BehindObject,
    /// An object.
    BehindArgs,
    InFence(usize),
    EndFence(usize),
    /// The end of the text.
    End,
}

#[derive(Debug, Clone)]
enum Phase {
    Gap(Gap),
    Word(&'static [&'static str], Prefix),
    Calls(CallReader, Form),
    /// The name behind `<function=`, or else behind `[TOOL_CALLS]`.
    Name {
        function: bool,
        word: Prefix,
    },
    /// The arguments' object, begun here, of a function or else behind `[ARGS]`.
    Object {
        json: Json,
        begun: usize,
        function: bool,
    },
    /// A parameter's name, begun here.
    Key {
        begun: usize,
    },
    /// A parameter's value; so much of its end has been seen.
    Value {
        key: Range<usize>,
        begun: usize,
        seen: usize,
    },
    Ticks(usize),
    FenceTag(usize, Prefix),
    /// So many backticks of the closing fence are still to come.
    Closing(usize),
}

#[derive(Debug, Clone)]
enum Found {
    Json(Written),
    Parameters { tool: usize, pairs: Vec<(Range<usize>, Range<usize>)> },
}

/// One candidate.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    phase: Phase,
    /// How many bytes it has.
    len: usize,
    /// Where a function within a tag begins.
    inner_begun: Option<usize>,
    /// Where it lies, once whole.
    inner: Option<Range<usize>>,
    tool: usize,
    pairs: Vec<(Range<usize>, Range<usize>)>,
    found: Vec<Found>,
}

impl Candidate {
    /// One that begins with `<`.
    pub(super) fn tag() -> Self {
        Candidate::at(word(TAGS))
    }

    /// One that begins with `[`, in the midst of text.
    pub(super) fn mark() -> Self {
        Candidate::at(word(MARK))
    }

    /// One that begins with a backtick.
    pub(super) fn fence() -> Self {
        Candidate::at(Phase::Ticks(0))
    }

    /// One that is to be the whole text.
    pub(super) fn bare() -> Self {
        Candidate::at(Phase::Calls(CallReader::new(false), Form::Bare))
    }

    fn at(phase: Phase) -> Self {
        let (pairs, found) = (Vec::new(), Vec::new());
        Candidate { phase, len: 0, inner_begun: None, inner: None, tool: 0, pairs, found }
    }

    /// Whether it is to be the whole text.
    pub(super) fn is_bare(&self) -> bool {
        matches!(self.phase, Phase::Calls(_, Form::Bare) | Phase::Gap(Gap::End))
    }

    /// Whether the end of the text makes it whole.
    pub(super) fn whole_at_end(&self) -> bool {
        matches!(self.phase, Phase::Gap(Gap::End))
    }

    /// The function in it that is a call of its own if the tag around it is none.
    pub(super) fn inner(&self) -> Option<Range<usize>> {
        self.inner.clone()
    }

    /// The calls in it, whose text this is; `None` if arguments turn out to be no JSON object.
    pub(super) fn calls(&self, text: &str, offered: &Offered) -> Option<Vec<Piece>> {
        let call = |found: &Found| {
            let (tool, arguments) = match found {
                Found::Json(written) => {
                    (written.tool, parameters::of_json(text.get(written.arguments.clone())?)?)
                }
                Found::Parameters { tool, pairs } => {
                    let pairs = pairs.iter().map(|(k, v)| (&text[k.clone()], &text[v.clone()]));
                    (*tool, parameters::of_parameters(offered, *tool, pairs))
                }
            };
            Some(Piece::Call { name: offered.names().get(tool)?.clone(), arguments })
        };
        self.found.iter().map(call).collect()
    }

    /// Takes the next byte.
    pub(super) fn step(&mut self, offered: &Offered, byte: u8) -> Step {
        let at = self.len;
        self.len += 1;
        match &mut self.phase {
            Phase::Gap(_) if is_space(byte) => Step::More,
            Phase::Gap(gap) => {
                let gap = *gap;
                self.behind(gap, offered, byte)
            }
            Phase::Word(words, prefix) => {
                let words = *words;
                if !prefix.step(words, byte) {
                    return Step::Dead;
                }
                let whole = prefix.whole(words);
                whole.map_or(Step::More, |place| self.word_ends(words[place], offered))
            }
            Phase::Calls(reader, form) => match reader.step(offered, byte, at) {
                Ok(true) => {
                    let (calls, form) = (reader.take_calls(), *form);
                    self.calls_end(calls, form)
                }
                Ok(false) => Step::More,
                Err(_) => Step::Dead,
            },
            Phase::Name { .. } => self.name(offered, byte),
            Phase::Object { json, begun, function } => match json.step(byte) {
                Ok(_) if json.depth() > 0 => Step::More,
                Ok(_) => {
                    let (arguments, function) = (*begun..at + 1, *function);
                    self.found.push(Found::Json(Written { tool: self.tool, arguments }));
                    if function { self.goes_to(Phase::Gap(Gap::BehindObject)) } else { Step::Whole }
                }
                Err(_) => Step::Dead,
            },
            Phase::Key { .. } | Phase::Value { .. } => self.parameter(byte, at),
            Phase::Ticks(_) | Phase::FenceTag(..) | Phase::Closing(_) => {
                self.fence_line(offered, byte)
            }
        }
    }

    fn goes_to(&mut self, phase: Phase) -> Step {
        self.phase = phase;
        Step::More
    }

    /// The byte just taken is the first of this phase.
    fn enter(&mut self, phase: Phase, offered: &Offered, byte: u8) -> Step {
        self.phase = phase;
        self.len -= 1;
        self.step(offered, byte)
    }

    /// The first byte behind white space.
    fn behind(&mut self, gap: Gap, offered: &Offered, byte: u8) -> Step {
        let at = self.len - 1;
        let calls = |marked, form| Phase::Calls(CallReader::new(marked), form);
        let object = |function| Phase::Object { json: Json::new(), begun: at, function };
        let next = match (gap, byte) {
            (Gap::InTag, b'{' | b'[') => calls(true, Form::Tag),
            (Gap::InTag, b'<') => {
                self.inner_begun = Some(at);
                word(FUNCTION)
            }
            (Gap::EndTag, b'<') => word(END_TAG),
            (Gap::BehindMark, b'{' | b'[') => calls(true, Form::Mark),
            (Gap::BehindMark, _) => {
                Phase::Name { function: false, word: Prefix::new(offered.names()) }
            }
            (Gap::InFunction, b'{') => object(true),
            (Gap::InFunction | Gap::BehindParameter, b'<') => word(PARTS),
            (Gap::BehindObject, b'<') => word(END_FUNCTION),
            (Gap::BehindArgs, b'{') => object(false),
            (Gap::InFence(ticks), b'{' | b'[') => calls(false, Form::Fence(ticks)),
            (Gap::EndFence(ticks), b'`') => Phase::Closing(ticks),
            _ => return Step::Dead,
        };
        self.enter(next, offered, byte)
    }

    fn word_ends(&mut self, word: &'static str, offered: &Offered) -> Step {
        match word {
            "<tool_call>" => self.goes_to(Phase::Gap(Gap::InTag)),
            "<function=" => {
                self.goes_to(Phase::Name { function: true, word: Prefix::new(offered.names()) })
            }
            "<parameter=" => self.goes_to(Phase::Key { begun: self.len }),
            "</function>" => self.function_ends(),
            "[TOOL_CALLS]" => self.goes_to(Phase::Gap(Gap::BehindMark)),
            "[ARGS]" => self.goes_to(Phase::Gap(Gap::BehindArgs)),
            _ => Step::Whole, // `</tool_call>`
        }
    }

    fn function_ends(&mut self) -> Step {
        if self.found.is_empty() {
            let pairs = std::mem::take(&mut self.pairs);
            self.found.push(Found::Parameters { tool: self.tool, pairs });
        }
        match self.inner_begun {
            Some(begun) => {
                self.inner = Some(begun..self.len);
                self.goes_to(Phase::Gap(Gap::EndTag))
            }
            None => Step::Whole,
        }
    }

    fn calls_end(&mut self, calls: Vec<Written>, form: Form) -> Step {
        self.found = calls.into_iter().map(Found::Json).collect();
        match form {
            Form::Tag => self.goes_to(Phase::Gap(Gap::EndTag)),
            Form::Mark => Step::Whole,
            Form::Fence(ticks) => self.goes_to(Phase::Gap(Gap::EndFence(ticks))),
            Form::Bare => self.goes_to(Phase::Gap(Gap::End)),
        }
    }

    fn name(&mut self, offered: &Offered, byte: u8) -> Step {
        let Phase::Name { function, word: name } = &mut self.phase else { return Step::Dead };
        let ends = byte == if *function { b'>' } else { b'[' };
        match name.whole(offered.names()).filter(|_| ends) {
            Some(tool) => {
                self.tool = tool;
                if *function {
                    return self.goes_to(Phase::Gap(Gap::InFunction));
                }
                self.enter(word(ARGS), offered, byte)
            }
            None if name.step(offered.names(), byte) => Step::More,
            None => Step::Dead,
        }
    }

    fn parameter(&mut self, byte: u8, at: usize) -> Step {
        match &mut self.phase {
            Phase::Key { begun } => {
                let key = *begun..at;
                match byte {
                    b'>' if !key.is_empty() => {
                        self.goes_to(Phase::Value { key, begun: at + 1, seen: 0 })
                    }
                    b'>' | b'<' => Step::Dead,
                    _ if is_space(byte) => Step::Dead,
                    _ => Step::More,
                }
            }
            Phase::Value { key, begun, seen } => {
                // The end's first byte occurs in it only once: no other overlap needs a look.
                *seen = match byte {
                    _ if END_PARAMETER[*seen] == byte => *seen + 1,
                    _ => usize::from(byte == END_PARAMETER[0]),
                };
                if *seen < END_PARAMETER.len() {
                    return Step::More;
                }
                let value = *begun..self.len - END_PARAMETER.len();
                self.pairs.push((key.clone(), value));
                self.goes_to(Phase::Gap(Gap::BehindParameter))
            }
            _ => Step::Dead,
        }
    }

    /// The lines of backticks around the JSON of a fence.
    fn fence_line(&mut self, offered: &Offered, byte: u8) -> Step {
        let (ticks, named) = match &mut self.phase {
            Phase::Ticks(ticks) if byte == b'`' => {
                *ticks += 1;
                return Step::More;
            }
            Phase::Closing(left) if byte == b'`' => {
                *left -= 1;
                return if *left == 0 { Step::Whole } else { Step::More };
            }
            Phase::Ticks(ticks) if *ticks >= 3 => (*ticks, None),
            Phase::FenceTag(ticks, tag) => (*ticks, Some(tag)),
            _ => return Step::Dead,
        };
        let ends = is_space(byte) || matches!(byte, b'{' | b'[');
        match named {
            Some(tag) if !ends => {
                if tag.step(FENCE_TAGS, byte) {
                    Step::More
                } else {
                    Step::Dead
                }
            }
            Some(tag) if tag.whole(FENCE_TAGS).is_none() => Step::Dead,
            None if !ends => {
                self.enter(Phase::FenceTag(ticks, Prefix::new(FENCE_TAGS)), offered, byte)
            }
            _ => self.enter(Phase::Gap(Gap::InFence(ticks)), offered, byte),
        }
    }
}

fn word(words: &'static [&'static str]) -> Phase {
    Phase::Word(words, Prefix::new(words))
}
