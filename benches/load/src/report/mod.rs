//! What is printed at the end: a table of speed, a table of resources, under which circumstances, and
//! the verdicts. It must never leave out a peer.

mod cells;
mod rows;

use std::fmt::Write;

use crate::Fault;
use crate::bounds::Verdict;
use crate::findings::Findings;
use crate::peers::Kind;
use crate::silent::COUNTS;
use cells::{cell, departure_cell, optional, part, rate};
pub(crate) use rows::{Resources, Row, rows};

/// With more cores than this taken by others, latencies are not worth much.
const NOISY: f64 = 0.2;
const SPEED: [&str; 12] = [
    "peer",
    "unary added µs",
    "first chunk added µs",
    "streams, 16 events per write",
    "streams, 1 event per write",
    "unary saturation",
    "gaps of 200 paced streams, p50 ms",
    "p99 ms",
    "longest ms",
    "gone mid-stream, ms",
    "gone before the head, ms",
    "gone not streamed, ms",
];

/// What else has to be said about a run.
pub(crate) struct Circumstances {
    /// How many cores others kept busy.
    pub(crate) others: f64,
    /// A look, not a measurement.
    pub(crate) quick: bool,
    /// Which peers are missing, and why.
    pub(crate) left_out: Vec<String>,
}

/// Tables, circumstances and verdicts.
pub(crate) fn render(
    findings: &[Findings],
    verdicts: &[Verdict],
    circumstances: &Circumstances,
) -> Result<String, Fault> {
    let (rows, mut text) = (rows(findings)?, String::new());
    header(&mut text, &SPEED.map(str::to_owned))?;
    for row in &rows {
        speed(&mut text, row)?;
    }
    text.push('\n');
    let [few, some, many] = COUNTS;
    let titles = [
        "peer".to_owned(),
        "CPU s per 1000 streams".to_owned(),
        "CPU s per 1000 unary".to_owned(),
        "peak RSS MiB".to_owned(),
        format!("a silent stream of {few}, RSS kB"),
        format!("of {some}"),
        format!("of {many}"),
        format!("of {many}, PSS kB"),
        "their ends that the engine missed".to_owned(),
        "start to ready, ms".to_owned(),
    ];
    header(&mut text, &titles)?;
    for row in &rows {
        if let Some(resources) = &row.resources {
            line(&mut text, row.kind, resources)?;
        }
    }
    write!(text, "\n{}", remarks(findings, &rows, circumstances)?)?;
    for verdict in verdicts {
        writeln!(text, "- {verdict}")?;
    }
    Ok(text)
}

fn header(text: &mut String, titles: &[String]) -> Result<(), Fault> {
    writeln!(text, "| {} |", titles.join(" | "))?;
    writeln!(text, "|{}", "---|".repeat(titles.len()))?;
    Ok(())
}

fn speed(text: &mut String, row: &Row) -> Result<(), Fault> {
    write!(text, "| {} ", row.kind.name())?;
    if row.kind == Kind::Direct {
        write!(text, "| = {} | = {} ", cell(&row.unary, 0), cell(&row.first, 0))?;
        write!(text, "| = {} /s | = {} /s ", rate(&row.batched), rate(&row.single))?;
        write!(text, "| = {} /s ", rate(&row.saturation))?;
    } else {
        write!(text, "| {} | {} ", cell(&row.unary, 0), cell(&row.first, 0))?;
        write!(text, "| {} | {} ", part(&row.batched), part(&row.single))?;
        write!(text, "| {} ", part(&row.saturation))?;
    }
    for gap in &row.gaps {
        write!(text, "| {} ", cell(gap, 1))?;
    }
    for times in &row.departures {
        write!(text, "| {} ", departure_cell(times))?;
    }
    writeln!(text, "|")?;
    Ok(())
}

fn line(text: &mut String, kind: Kind, of: &Resources) -> Result<(), Fault> {
    write!(text, "| {} ", kind.name())?;
    write!(text, "| {} | {} ", cell(&of.stream_cpu_s, 3), cell(&of.unary_cpu_s, 3))?;
    write!(text, "| {} ", cell(&of.peak_mib, 1))?;
    for silent in &of.silent_kb {
        write!(text, "| {} ", cell(silent, 1))?;
    }
    write!(text, "| {} ", optional(of.silent_pss_kb.as_ref(), 1))?;
    writeln!(text, "| {:.0} | {} |", of.missed.high, cell(&of.ready_ms, 0))?;
    Ok(())
}

fn remarks(findings: &[Findings], rows: &[Row], run: &Circumstances) -> Result<String, Fault> {
    let rounds = findings.first().map_or(0, |f| f.rounds.len());
    let each = findings.first().and_then(|f| f.rounds.first()).map_or(0, |f| f.departures[0].len());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kind = if run.quick { " (quick: a look, not a measurement)" } else { "" };
    let noise = if run.others > NOISY { ": noisy, measure again" } else { "" };
    let mut text = format!(
        "Medians over {rounds} rounds{kind}, lowest and highest in parentheses; {} departures in \
         each phase; {} starts. {cores} cores for engine, peer and generator together; {}.\n\
         The line `direct` is absolute; the others are differences (µs) and ratios to it, round by \
         round. Gaps, departures and resources are absolute.\n\
         Other work kept {:.2} cores busy meanwhile{noise}.\n",
        rounds * each,
        findings.iter().map(|f| f.ready_ms.len()).max().unwrap_or(0),
        processor(),
        run.others,
    );
    for row in rows.iter().filter(|row| row.cut > 0) {
        let (name, cut) = (row.kind.name(), row.cut);
        writeln!(text, "{name} fell behind: {cut} paced streams were cut two seconds late.")?;
    }
    for why in &run.left_out {
        writeln!(text, "Left out: {why}.")?;
    }
    text.push('\n');
    Ok(text)
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(": "));
    name.map_or_else(|| "unknown processor".to_owned(), |(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Finding;

    #[test]
    fn every_line_has_as_many_cells_as_its_header() -> Result<(), Fault> {
        let mut direct = Findings::none(Kind::Direct);
        let departures = [vec![0.5], vec![0.5], vec![0.5]];
        direct.rounds = vec![Finding { departures, ..Finding::default() }];
        let mut ours = Findings::none(Kind::Imageworks);
        ours.rounds = vec![Finding {
            stream_cpu_s: Some(0.1),
            unary_cpu_s: Some(0.1),
            peak_mib: Some(20.0),
            ..direct.rounds[0].clone()
        }];
        ours.ready_ms = vec![20.0];
        ours.silent.iter_mut().for_each(|found| found.push(crate::silent::Silent::default()));
        let left_out = vec!["haproxy: there is no program x".to_owned()];
        let run = Circumstances { others: 0.5, quick: true, left_out };
        let text = render(&[direct, ours], &[], &run)?;
        for (table, lines) in text.split("\n\n").zip([4, 3]) {
            let bars: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
            assert_eq!(bars, vec![bars[0]; lines], "{table}");
        }
        assert!(text.contains("noisy") && text.contains("Left out: haproxy"));
        Ok(())
    }
}
