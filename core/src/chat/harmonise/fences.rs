//! Where a Markdown code fence may open in text.
//!
//! Owns: following the lines of plain text, so that the line that closes one fence is not taken
//! for the opening of the next. (CommonMark 4.5, backticks only; any indentation counts, for lists
//! indent their fences.) Must never do: keep text.

use super::json::is_space;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Nothing but white space so far.
    Blank,
    /// It begins with so many backticks.
    Ticks(usize),
    /// It opened a fence with so many, unless a backtick follows on it.
    Opening(usize),
    /// It closes the fence, unless something follows on it.
    Closing,
    /// Anything else.
    Other,
}

/// The state of the lines seen so far.
#[derive(Debug, Clone)]
pub(super) struct Fences {
    line: Line,
    /// The backticks of the fence that is open.
    open: Option<usize>,
}

impl Default for Fences {
    fn default() -> Self {
        Fences { line: Line::Blank, open: None }
    }
}

impl Fences {
    /// Whether backticks here would open a fence.
    pub(super) fn may_open(&self) -> bool {
        self.open.is_none() && self.line == Line::Blank
    }

    /// A call was taken out of the text here: its line has begun, and is none of ours.
    pub(super) fn call(&mut self) {
        self.line = Line::Other;
    }

    /// Takes text that stays text.
    pub(super) fn text(&mut self, text: &str) {
        text.bytes().for_each(|byte| self.step(byte));
    }

    /// Takes one byte of it.
    pub(super) fn step(&mut self, byte: u8) {
        if byte == b'\n' {
            match self.line {
                Line::Opening(ticks) => self.open = Some(ticks),
                Line::Ticks(ticks) => self.run_ends_the_line(ticks),
                Line::Closing => self.open = None,
                Line::Blank | Line::Other => {}
            }
            self.line = Line::Blank;
            return;
        }
        self.line = match (self.line, byte) {
            (Line::Blank, b'`') => Line::Ticks(1),
            (Line::Ticks(ticks), b'`') => Line::Ticks(ticks + 1),
            (Line::Blank, _) if is_space(byte) => Line::Blank,
            (Line::Closing, _) if is_space(byte) => Line::Closing,
            (Line::Ticks(ticks), _) => match self.open {
                None if ticks >= 3 => Line::Opening(ticks),
                Some(open) if ticks >= open && is_space(byte) => Line::Closing,
                _ => Line::Other,
            },
            (Line::Opening(ticks), _) if byte != b'`' => Line::Opening(ticks),
            _ => Line::Other,
        };
    }

    fn run_ends_the_line(&mut self, ticks: usize) {
        match self.open {
            None if ticks >= 3 => self.open = Some(ticks),
            Some(open) if ticks >= open => self.open = None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_opens_only_at_the_beginning_of_a_line_outside_fences() {
        for (text, may_open) in [
            ("", true),
            ("  ", true),
            ("text\n", true),
            ("text ", false),
            ("```", false),
            ("```python\n", false),
            ("```python\nx = 1\n", false),
            ("```python\nx = 1\n```\n", true),
            ("```python\nx = 1\n```  \r\n\n", true),
            ("```python\nx = 1\n``` x\n", false),
            ("```\nx\n````\n", true),
            ("````\n```\n", false),
            ("````\n```\n````\n", true),
            ("```inline``` code\n", true),
            ("``\n", true),
            ("text ```\n", true),
        ] {
            let mut fences = Fences::default();
            fences.text(text);
            assert_eq!(fences.may_open(), may_open, "{text:?}");
        }
    }
}
