//! The table as it stands in `docs/RELIABILITY.md`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{NONE_LEFT, Row, rows};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/RELIABILITY.md");
/// Set, the tests print the table with the times that they measured.
const PRINT: &str = "IMAGEWORKS_PRINT_MATRIX";
const HEAD: &str =
    "| fault | the client sees | within | processes left | port | the next request |";

/// The line of a row; the time that was measured stands behind the bound.
fn line(row: &Row, took: &str) -> String {
    let Row { fault, sees, within, port, gets, .. } = row;
    let within = within.as_secs_f64();
    format!("| {fault} | {sees} | {within} s ({took}) | {NONE_LEFT} | {port} | {gets} |")
}

/// Notes a time; with the last one the table is printed, if that is wanted.
pub(super) fn measured(row: &Row, took: Duration) {
    static TIMES: Mutex<BTreeMap<&'static str, Duration>> = Mutex::new(BTreeMap::new());
    if std::env::var_os(PRINT).is_none() {
        return;
    }
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    times.insert(row.fault, took);
    if times.len() == rows().count() {
        let shown = |row| line(row, &format!("{:.3} s", times[row.fault].as_secs_f64()));
        let lines: Vec<String> = rows().map(shown).collect();
        eprintln!("{HEAD}\n|---|---|---|---|---|---|\n{}", lines.join("\n"));
    }
}

/// The document's table has the rows of the code, in their order, with their words and bounds.
pub(super) fn is_true() {
    let page = fs::read_to_string(PAGE).expect("the document");
    let below = page.lines().skip_while(|line| *line != HEAD).skip(2);
    let table: Vec<&str> = below.take_while(|line| line.starts_with('|')).collect();
    for (row, stands) in rows().zip(&table) {
        let wanted = line(row, "\n");
        let (before, behind) = wanted.split_once('\n').expect("two parts");
        let times = stands.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
        let times = times.unwrap_or_else(|| panic!("{stands}\nis not\n{before}…{behind}"));
        let seconds = times.strip_suffix(" s").and_then(|number| number.parse::<f64>().ok());
        assert!(seconds.is_some_and(|s| s <= row.within.as_secs_f64()), "{stands}: {times}");
    }
    assert_eq!(table.len(), rows().count(), "rows of the table in the document");
}
