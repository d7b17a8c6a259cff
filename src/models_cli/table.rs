//! Columns for people.
//!
//! Owns: widths and colours. Must never do: wrap or cut; a line of a table is one line of output,
//! so that it can be searched and cut by other programs.

use unicode_width::UnicodeWidthStr;

/// How a cell is shown where there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Plain,
    Bold,
    Good,
    Busy,
    Bad,
}

impl Colour {
    /// Of a state of an engine or a server.
    pub(super) fn of_state(state: &str) -> Self {
        match state {
            "ready" => Colour::Good,
            "loading" | "starting" | "draining" | "stopping" | "backoff" => Colour::Busy,
            "failed" | "stuck" | "unreachable" | "missing" => Colour::Bad,
            _ => Colour::Plain,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Colour::Plain => "",
            Colour::Bold => "\x1b[1m",
            Colour::Good => "\x1b[32m",
            Colour::Busy => "\x1b[33m",
            Colour::Bad => "\x1b[31m",
        }
    }
}

/// One cell; an empty one is nothing to say.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    colour: Colour,
}

impl Cell {
    pub(super) fn state(text: &str) -> Self {
        Cell { text: shown(text), colour: Colour::of_state(text) }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell { text: shown(text.as_ref()), colour: Colour::Plain }
    }
}

/// What would move the cursor, or turn the text that follows around, does not get to it.
pub(super) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || turns(c) { ' ' } else { c }).collect()
}

/// Unicode's characters that set the direction of text (UAX 9, 2).
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// See the module.
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// Between columns.
const GAP: &str = "  ";
/// In the place of nothing.
const NOTHING: &str = "-";

impl Table {
    /// Columns with these names.
    pub(super) fn new(head: &[&'static str]) -> Self {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    /// Names on the left, what they are on the right.
    pub(super) fn of_pairs(pairs: Vec<(&str, String)>) -> Self {
        let said = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        let rows = said.map(|(name, value)| vec![name.into(), value.into()]).collect();
        Table { head: Vec::new(), rows }
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// A column that says nothing in any row is left out, but for the first one.
    pub(super) fn render(&self, colours: bool) -> String {
        let count = self.rows.iter().map(Vec::len).max().unwrap_or(0).max(self.head.len());
        let told = |column: &usize| {
            let has_words = |row: &Vec<Cell>| row.get(*column).is_some_and(|c| !c.text.is_empty());
            *column == 0 || self.rows.iter().any(has_words)
        };
        let columns: Vec<usize> = (0..count).filter(told).collect();
        let head: Vec<Cell> = self
            .head
            .iter()
            .map(|name| Cell { text: (*name).to_owned(), colour: Colour::Bold })
            .collect();
        let head = (!head.is_empty()).then_some(&head);
        let lines: Vec<&Vec<Cell>> = head.into_iter().chain(&self.rows).collect();
        let widths: Vec<usize> = columns
            .iter()
            .map(|column| {
                lines.iter().filter_map(|line| line.get(*column)).map(width).max().unwrap_or(0)
            })
            .collect();
        lines.iter().map(|line| render_line(line, &columns, &widths, colours)).collect()
    }
}

fn width(cell: &Cell) -> usize {
    if cell.text.is_empty() { NOTHING.len() } else { cell.text.width() }
}

fn render_line(line: &[Cell], columns: &[usize], widths: &[usize], colours: bool) -> String {
    let mut text = String::new();
    let mut gap = 0; // written before the next cell, so that none stands at a line's end
    for (column, wide) in columns.iter().zip(widths) {
        let Some(cell) = line.get(*column) else { continue };
        text.push_str(&" ".repeat(gap));
        let said = if cell.text.is_empty() { NOTHING } else { &cell.text };
        let colour = if colours { cell.colour.code() } else { "" };
        text.push_str(colour);
        text.push_str(said);
        text.push_str(if colour.is_empty() { "" } else { "\x1b[0m" });
        gap = wide - width(cell) + GAP.len();
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "EMPTY", "STATE", "ROLES"]);
        table.row(vec!["tiny-a".into(), "".into(), Cell::state("ready"), "caption".into()]);
        table.row(vec!["大きい".into(), "".into(), Cell::state("failed"), "".into()]);
        table.row(vec!["a\nb\x1b[2J".into(), "".into(), Cell::state("stopped"), "x, y".into()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        insta::assert_snapshot!(table().render(false), @r"
        NAME     STATE    ROLES
        tiny-a   ready    caption
        大きい   failed   -
        a b [2J  stopped  x, y
        ");
        let pairs = vec![("name", "a".to_owned()), ("gone", String::new()), ("b", "c".to_owned())];
        insta::assert_snapshot!(Table::of_pairs(pairs).render(false), @r"
        name  a
        b     c
        ");
        assert_eq!(Table::new(&["A", "B"]).render(false), "A\n");
    }

    #[test]
    fn colours_do_not_move_the_columns() {
        let coloured = table().render(true);
        let plain = ["\x1b[1m", "\x1b[32m", "\x1b[31m", "\x1b[0m"]
            .iter()
            .fold(coloured.clone(), |text, code| text.replace(code, ""));
        assert_eq!(plain, table().render(false));
        assert!(coloured.contains("\x1b[32mready\x1b[0m    caption"), "{coloured:?}");
        assert!(coloured.contains("\x1b[31mfailed\x1b[0m"), "{coloured:?}");
    }
}
