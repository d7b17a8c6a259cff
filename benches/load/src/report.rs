//! The table: differences and ratios to the direct way, round by round, then medians and ranges.
//! It must never leave out a peer or a round.

use std::fmt::Write;

use crate::Fault;
use crate::bounds::Verdict;
use crate::departure::NEVER;
use crate::peers::Kind;
use crate::process::float;
use crate::rounds::{Finding, Findings};
use crate::stats::Spread;

/// With more cores than this taken by others, latencies are not worth much.
const NOISY: f64 = 0.2;
const HEADER: &str = "| peer | unary added µs | first chunk added µs | streams, 16 events per write \
    | streams, 1 event per write | CPU s per 1000 streams | unary saturation | RSS MiB \
    | gone mid-stream, ms | gone before the head, ms | gone not streamed, ms |\n\
    |---|---|---|---|---|---|---|---|---|---|---|\n";

/// One line of the table. For the direct way, latencies and rates are absolute.
pub(crate) struct Row {
    /// Which peer.
    pub(crate) kind: Kind,
    /// Added to an unary chat, µs.
    pub(crate) unary: Spread,
    /// Added to the first event, µs.
    pub(crate) first: Spread,
    /// Events per second, as a part of direct.
    pub(crate) batched: Spread,
    single: Spread,
    cpu_s: Option<Spread>,
    saturation: Spread,
    rss_mib: Option<Spread>,
    /// Until the engine noticed, over all rounds, ms.
    pub(crate) departures: [Spread; 3],
}

/// All lines; a round of a peer is compared with the same round of the direct way.
pub(crate) fn rows(findings: &[Findings]) -> Result<Vec<Row>, Fault> {
    let direct = findings.iter().find(|f| f.kind == Kind::Direct).ok_or("no direct way")?;
    findings.iter().map(|of_peer| row(of_peer, direct)).collect()
}

fn row(of_peer: &Findings, direct: &Findings) -> Result<Row, Fault> {
    let is_base = of_peer.kind == Kind::Direct;
    let over =
        |value: fn(&Finding) -> f64, relate: fn(f64, f64) -> f64| {
            let pairs = of_peer.rounds.iter().zip(&direct.rounds);
            Spread::of(pairs.map(|(own, base)| {
                if is_base { value(own) } else { relate(value(own), value(base)) }
            }))
            .ok_or("no rounds")
        };
    let (added, ratio) = (|own: f64, base: f64| own - base, |own: f64, base: f64| own / base);
    let costs = || of_peer.rounds.iter().filter_map(|found| found.cost);
    Ok(Row {
        kind: of_peer.kind,
        unary: over(|f| f.unary_us, added)?,
        first: over(|f| f.first_us, added)?,
        batched: over(|f| f.batched, ratio)?,
        single: over(|f| f.single, ratio)?,
        saturation: over(|f| f.saturation, ratio)?,
        cpu_s: Spread::of(costs().map(|cost| cost.cpu_s)),
        rss_mib: Spread::of(costs().map(|cost| cost.rss_mib)),
        departures: [departures(of_peer, 0)?, departures(of_peer, 1)?, departures(of_peer, 2)?],
    })
}

fn departures(of_peer: &Findings, phase: usize) -> Result<Spread, Fault> {
    let times = of_peer.rounds.iter().flat_map(|found| found.departures[phase].iter().copied());
    Spread::of(times).ok_or_else(|| "no departures".into())
}

/// Table, verdicts, and under which circumstances.
pub(crate) fn render(
    findings: &[Findings],
    verdicts: &[Verdict],
    others: f64,
    quick: bool,
) -> Result<String, Fault> {
    let mut text = String::from(HEADER);
    for row in rows(findings)? {
        line(&mut text, &row)?;
    }
    writeln!(text, "\n{}", circumstances(findings, others, quick))?;
    for verdict in verdicts {
        let mark = if verdict.holds { "holds" } else { "BROKEN" };
        writeln!(text, "- {mark}: {}; measured {:.2}", verdict.bound, verdict.measured)?;
    }
    Ok(text)
}

fn line(text: &mut String, row: &Row) -> Result<(), Fault> {
    write!(text, "| {} ", row.kind.name())?;
    if row.kind == Kind::Direct {
        write!(text, "| = {} | = {} ", cell(&row.unary, 0), cell(&row.first, 0))?;
        write!(text, "| = {} /s | = {} /s ", rate(&row.batched), rate(&row.single))?;
        write!(text, "| — | = {} /s | — ", rate(&row.saturation))?;
    } else {
        write!(text, "| {} | {} ", cell(&row.unary, 0), cell(&row.first, 0))?;
        write!(text, "| {} | {} ", cell(&row.batched, 2), cell(&row.single, 2))?;
        let optional = |spread: &Option<Spread>, digits| {
            spread.map_or_else(|| "—".to_owned(), |spread| cell(&spread, digits))
        };
        write!(text, "| {} | {} ", optional(&row.cpu_s, 2), cell(&row.saturation, 2))?;
        write!(text, "| {} ", optional(&row.rss_mib, 0))?;
    }
    for times in &row.departures {
        write!(text, "| {} ", departure_cell(times))?;
    }
    writeln!(text, "|")?;
    Ok(())
}

fn cell(spread: &Spread, digits: usize) -> String {
    let Spread { median, low, high } = spread;
    format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
}

fn rate(spread: &Spread) -> String {
    let thousand = |value: f64| value / 1000.0;
    let Spread { median, low, high } = *spread;
    format!("{:.0} k ({:.0}–{:.0})", thousand(median), thousand(low), thousand(high))
}

/// Median and worst; a departure that was never noticed shows as the time that we waited.
fn departure_cell(times: &Spread) -> String {
    let show = |ms: f64| {
        if ms >= NEVER.as_secs_f64() * 1e3 { "never".to_owned() } else { format!("{ms:.1}") }
    };
    format!("{}, max {}", show(times.median), show(times.high))
}

fn circumstances(findings: &[Findings], others: f64, quick: bool) -> String {
    let rounds = findings.first().map_or(0, |f| f.rounds.len());
    let each = findings.first().and_then(|f| f.rounds.first()).map_or(0, |f| f.departures[0].len());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kind = if quick { " (quick: a look, not a measurement)" } else { "" };
    let noise = if others > NOISY { ": noisy, measure again" } else { "" };
    format!(
        "Medians over {rounds} rounds{kind}, lowest and highest round in parentheses; {} departures \
         in each phase. {cores} cores for engine, peer and generator together; {}.\n\
         The line `direct` is absolute; the others are differences (µs) and ratios to it, round by \
         round.\nOther work kept {others:.2} cores busy meanwhile{noise}.\n",
        float((rounds * each) as u64),
        processor(),
    )
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(": "));
    name.map_or_else(|| "unknown processor".to_owned(), |(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_show_median_and_range() {
        let spread = Spread { median: 1.234, low: 1.0, high: 2.0 };
        assert_eq!(cell(&spread, 2), "1.23 (1.00–2.00)");
        assert_eq!(rate(&Spread { median: 1500.0, low: 1000.0, high: 2000.0 }), "2 k (1–2)");
        let gone = Spread { median: 0.25, low: 0.1, high: 1000.0 };
        assert_eq!(departure_cell(&gone), "0.2, max never");
    }
}
