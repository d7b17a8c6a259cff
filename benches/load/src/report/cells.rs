//! Figures as they stand in a cell. It must never compute one.

use crate::departure::NEVER;
use crate::stats::Spread;

/// Median and range.
pub(super) fn cell(spread: &Spread, digits: usize) -> String {
    let Spread { median, low, high } = spread;
    format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
}

/// The same, where there may be nothing.
pub(super) fn optional(spread: Option<&Spread>, digits: usize) -> String {
    spread.map_or_else(|| "—".to_owned(), |spread| cell(spread, digits))
}

/// A part of direct; a very slow peer needs more digits to show one.
pub(super) fn part(spread: &Spread) -> String {
    cell(spread, if spread.median < 0.095 { 4 } else { 2 })
}

/// Median and range in thousands.
pub(super) fn rate(spread: &Spread) -> String {
    let thousand = |value: f64| value / 1000.0;
    let Spread { median, low, high } = *spread;
    format!("{:.0} k ({:.0}–{:.0})", thousand(median), thousand(low), thousand(high))
}

/// Median and worst; a departure that was never noticed shows as the time that we waited.
pub(super) fn departure_cell(times: &Spread) -> String {
    let show = |ms: f64| {
        if ms >= NEVER.as_secs_f64() * 1e3 { "never".to_owned() } else { format!("{ms:.1}") }
    };
    format!("{}, max {}", show(times.median), show(times.high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_show_median_and_range() {
        let spread = Spread { median: 1.234, low: 1.0, high: 2.0 };
        assert_eq!(cell(&spread, 2), "1.23 (1.00–2.00)");
        assert_eq!(part(&spread), cell(&spread, 2));
        let slow = Spread { median: 0.00123, low: 0.001, high: 0.2 };
        assert_eq!(part(&slow), "0.0012 (0.0010–0.2000)");
        assert_eq!(optional(Some(&spread), 0), "1 (1–2)");
        assert_eq!(optional(None, 0), "—");
        assert_eq!(rate(&Spread { median: 1500.0, low: 1000.0, high: 2000.0 }), "2 k (1–2)");
        let gone = Spread { median: 0.25, low: 0.1, high: 1000.0 };
        assert_eq!(departure_cell(&gone), "0.2, max never");
    }
}
