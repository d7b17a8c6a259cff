//! Owns the way from a script to what is told of it: limits, stop strings, parsers, deltas.
//!
//! Everything is worked out before the first byte is sent. Must never know a JSON key.

use crate::ask::{Ask, ToolChoice};
use crate::script::{self, Part, Token};

/// What a step adds to the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Delta {
    /// Nothing that is told.
    Silent,
    /// A piece of the answer's text.
    Content(String),
    /// A piece of what the model thought.
    Reasoning(String),
    /// A call begins, of this tool.
    ToolName(String),
    /// A piece of the call's arguments.
    ToolArgs(String),
}

/// Why an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finish {
    pub(crate) reason: &'static str,
    /// The stop string that was met.
    pub(crate) stop: Option<String>,
}

/// One delta and the tokens behind it.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) delta: Delta,
    pub(crate) tokens: Vec<String>,
    /// Tokens of the answer so far.
    pub(crate) total: u64,
    pub(crate) finish: Option<Finish>,
}

impl Step {
    /// Whether a stream tells this step at all.
    pub(crate) fn is_told(&self) -> bool {
        self.finish.is_some() || self.delta != Delta::Silent
    }
}

/// One whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Generation {
    pub(crate) steps: Vec<Step>,
    pub(crate) completion_tokens: u64,
    pub(crate) reasoning_tokens: u64,
}

impl Generation {
    /// The answer's text.
    pub(crate) fn content(&self) -> Option<String> {
        self.collect(|d| if let Delta::Content(t) = d { Some(t) } else { None })
    }

    /// What the model thought.
    pub(crate) fn reasoning(&self) -> Option<String> {
        self.collect(|d| if let Delta::Reasoning(t) = d { Some(t) } else { None })
    }

    /// The called tool and its arguments.
    pub(crate) fn call(&self) -> Option<(String, String)> {
        let name = self.collect(|d| if let Delta::ToolName(t) = d { Some(t) } else { None })?;
        let args = self.collect(|d| if let Delta::ToolArgs(t) = d { Some(t) } else { None });
        Some((name, args.unwrap_or_default()))
    }

    /// Why it ended.
    pub(crate) fn finish(&self) -> Option<&Finish> {
        self.steps.last().and_then(|s| s.finish.as_ref())
    }

    fn collect<'a>(&'a self, part: impl Fn(&'a Delta) -> Option<&'a String>) -> Option<String> {
        let parts: Vec<&str> =
            self.steps.iter().filter_map(|s| part(&s.delta)).map(String::as_str).collect();
        (!parts.is_empty()).then(|| parts.concat())
    }
}

/// Works out one answer to `ask`.
pub(crate) fn generate(ask: &Ask) -> Generation {
    let script = script::answer(ask);
    let endless = script.endless || ask.ignore_end;
    // Only a song that is the whole answer to a chat begins without a space.
    let from = if ask.raw_prompt || !script.endless { 2 } else { 0 };
    let song = (from..).map(script::song).take_while(|_| endless);
    let opens = script.tokens.first().is_some_and(|t| t.part == Part::ThinkOpen);
    let thinking = ask.thinking && !script.content_only && (opens || !ask.opened_only);
    let mut run = Run::new(ask, thinking);
    for token in script.tokens.into_iter().chain(song) {
        run.token(token);
        if let Some(stop) = run.stop_string() {
            return run.end("stop", Some(stop));
        }
        if run.count >= ask.max_tokens {
            return run.end("length", None);
        }
    }
    run.natural_end()
}

struct Run<'a> {
    ask: &'a Ask,
    steps: Vec<Step>,
    /// Tokens that wait for the one behind them.
    held: Vec<String>,
    held_delta: Option<Delta>,
    /// The parser of reasoning has not seen the end of it.
    thinking: bool,
    /// The space in front of what comes next is dropped.
    trims: bool,
    tool: String,
    called: bool,
    /// Text so far; kept only if there are stop strings.
    content: String,
    count: u64,
    reasoning_count: u64,
}

impl<'a> Run<'a> {
    fn new(ask: &'a Ask, thinking: bool) -> Self {
        Self {
            ask,
            steps: Vec::new(),
            held: Vec::new(),
            held_delta: None,
            thinking: ask.parse_reasoning && thinking,
            trims: false,
            tool: String::new(),
            called: false,
            content: String::new(),
            count: 0,
            reasoning_count: 0,
        }
    }

    fn token(&mut self, token: Token) {
        self.count += 1;
        let held = token.held;
        let text = if self.ask.logprobs.is_some() { Some(token.text.clone()) } else { None };
        let delta = self.parse(token);
        let delta = match self.held_delta.take() {
            Some(before) => merge(before, delta),
            None => delta,
        };
        self.held.extend(text);
        // What is cut off by a limit goes out, held or not.
        if held && self.count < self.ask.max_tokens {
            self.held_delta = Some(delta);
            return;
        }
        let tokens = std::mem::take(&mut self.held);
        self.steps.push(Step { delta, tokens, total: self.count, finish: None });
    }

    /// What the parsers make of a token.
    fn parse(&mut self, mut token: Token) -> Delta {
        let tools = self.ask.tool_choice != ToolChoice::None;
        match token.part {
            Part::ThinkOpen if self.thinking => {
                self.trims = self.ask.opened_only;
                return Delta::Silent;
            }
            Part::ThinkClose if self.thinking => {
                self.thinking = false;
                self.trims = self.ask.opened_only;
                return Delta::Silent;
            }
            Part::CallMark if tools => {
                self.thinking = false;
                return Delta::Silent;
            }
            Part::CallName if tools => {
                self.tool.push_str(&token.text);
                return Delta::Silent;
            }
            Part::CallNameEnd if tools => {
                self.called = true;
                return Delta::ToolName(std::mem::take(&mut self.tool));
            }
            Part::CallArgs if tools => return Delta::ToolArgs(token.text),
            _ => {}
        }
        if self.trims {
            token.text.drain(..token.text.len() - token.text.trim_start().len());
            if token.text.is_empty() {
                self.reasoning_count += u64::from(self.thinking);
                return Delta::Silent;
            }
            self.trims = false;
        }
        if !self.thinking {
            if !self.ask.stop.is_empty() {
                self.content.push_str(&token.text);
            }
            return Delta::Content(token.text);
        }
        self.reasoning_count += 1;
        if self.ask.include_reasoning { Delta::Reasoning(token.text) } else { Delta::Silent }
    }

    /// The stop string that the text has met; what lies behind its start is taken back.
    fn stop_string(&mut self) -> Option<String> {
        let met = |stop: &&String| !stop.is_empty() && self.content.contains(stop.as_str());
        let stop = self.ask.stop.iter().find(met)?.clone();
        if let Some(delta) = self.held_delta.take() {
            let tokens = std::mem::take(&mut self.held);
            self.steps.push(Step { delta, tokens, total: self.count, finish: None });
        }
        let mut excess = self.content.len() - self.content.find(&stop).unwrap_or(0);
        for step in self.steps.iter_mut().rev() {
            let Delta::Content(text) = &mut step.delta else {
                continue;
            };
            let kept = text.len().saturating_sub(excess);
            excess -= text.len() - kept;
            text.truncate(kept);
            if text.is_empty() {
                step.delta = Delta::Silent;
            }
            if excess == 0 {
                break;
            }
        }
        Some(stop)
    }

    /// The model says that it is done, with a token that is counted and not told.
    fn natural_end(mut self) -> Generation {
        self.count += 1;
        let tokens =
            if self.ask.logprobs.is_some() { vec!["<|im_end|>".to_owned()] } else { vec![] };
        // A raw text has no notion of "nothing": it adds an empty piece.
        let delta = if self.ask.parsed { Delta::Silent } else { Delta::Content(String::new()) };
        self.steps.push(Step { delta, tokens, total: self.count, finish: None });
        self.end("stop", None)
    }

    fn end(mut self, reason: &'static str, stop: Option<String>) -> Generation {
        let named = matches!(self.ask.tool_choice, ToolChoice::Named(_));
        let calls = self.called && !named && reason == "stop";
        let reason = if calls { "tool_calls" } else { reason };
        if let Some(last) = self.steps.last_mut() {
            last.finish = Some(Finish { reason, stop });
        }
        Generation {
            steps: self.steps,
            completion_tokens: self.count,
            reasoning_tokens: self.reasoning_count,
        }
    }
}

/// Puts two deltas into one; where they are of different kinds the later one is told.
fn merge(before: Delta, after: Delta) -> Delta {
    match (before, after) {
        (Delta::Content(a), Delta::Content(b)) => Delta::Content(a + &b),
        (Delta::Reasoning(a), Delta::Reasoning(b)) => Delta::Reasoning(a + &b),
        (_, after) => after,
    }
}
