//! What the tables compare: differences and ratios to the direct way, round by round, then medians and
//! ranges. It must never leave out a peer or a round.

use crate::Fault;
use crate::findings::{Finding, Findings};
use crate::peers::Kind;
use crate::silent::Silent;
use crate::stats::Spread;

/// One peer's line. For the direct way, latencies and rates are absolute.
pub(crate) struct Row {
    /// Which peer.
    pub(crate) kind: Kind,
    /// Added to an unary chat, µs.
    pub(crate) unary: Spread,
    /// Added to the first event, µs.
    pub(crate) first: Spread,
    /// Events per second, 16 per write, as a part of direct.
    pub(crate) batched: Spread,
    /// The same, one per write.
    pub(crate) single: Spread,
    /// Unary chats per second, as a part of direct.
    pub(crate) saturation: Spread,
    /// Gaps of paced streams, ms: median, 99 of 100, longest. Absolute for all.
    pub(crate) gaps: [Spread; 3],
    /// Paced streams that were not whole in time, over all rounds.
    pub(crate) cut: usize,
    /// Until the engine noticed, over all rounds, ms.
    pub(crate) departures: [Spread; 3],
    /// What it takes of the machine; the direct way takes nothing.
    pub(crate) resources: Option<Resources>,
}

/// What a peer takes of the machine.
pub(crate) struct Resources {
    /// CPU seconds of 1000 streams.
    pub(crate) stream_cpu_s: Spread,
    /// CPU seconds of 1000 unary chats.
    pub(crate) unary_cpu_s: Spread,
    /// The most memory in a round, MiB.
    pub(crate) peak_mib: Spread,
    /// Resident memory of a silent stream, kB, for each count of them.
    pub(crate) silent_kb: [Spread; 3],
    /// Its share of what is resident, of the largest count.
    pub(crate) silent_pss_kb: Option<Spread>,
    /// Silent streams of whose end the engine was not told, of the largest count.
    pub(crate) missed: Spread,
    /// From the start to ready, ms.
    pub(crate) ready_ms: Spread,
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
    let absolute = |own: f64, _: f64| own;
    Ok(Row {
        kind: of_peer.kind,
        unary: over(|f| f.unary_us, added)?,
        first: over(|f| f.first_us, added)?,
        batched: over(|f| f.batched, ratio)?,
        single: over(|f| f.single, ratio)?,
        saturation: over(|f| f.saturation, ratio)?,
        gaps: [
            over(|f| f.gaps.p50, absolute)?,
            over(|f| f.gaps.p99, absolute)?,
            over(|f| f.gaps.max, absolute)?,
        ],
        cut: of_peer.rounds.iter().map(|found| found.gaps.cut).sum(),
        departures: [departures(of_peer, 0)?, departures(of_peer, 1)?, departures(of_peer, 2)?],
        resources: (!is_base).then(|| resources(of_peer)).transpose()?,
    })
}

fn departures(of_peer: &Findings, phase: usize) -> Result<Spread, Fault> {
    let times = of_peer.rounds.iter().flat_map(|found| found.departures[phase].iter().copied());
    Spread::of(times).ok_or_else(|| "no departures".into())
}

fn resources(of_peer: &Findings) -> Result<Resources, Fault> {
    let over = |value: fn(&Finding) -> Option<f64>| {
        Spread::of(of_peer.rounds.iter().filter_map(value)).ok_or("a peer without a process")
    };
    let silent = |at: usize, value: fn(&Silent) -> f64| {
        Spread::of(of_peer.silent[at].iter().map(value)).ok_or("no silent streams")
    };
    Ok(Resources {
        stream_cpu_s: over(|f| f.stream_cpu_s)?,
        unary_cpu_s: over(|f| f.unary_cpu_s)?,
        peak_mib: over(|f| f.peak_mib)?,
        silent_kb: [silent(0, |s| s.rss_kb)?, silent(1, |s| s.rss_kb)?, silent(2, |s| s.rss_kb)?],
        silent_pss_kb: Spread::of(of_peer.silent[2].iter().filter_map(|s| s.pss_kb)),
        missed: silent(2, |s| s.missed)?,
        ready_ms: Spread::of(of_peer.ready_ms.iter().copied()).ok_or("no starts")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(unary_us: f64, peak_mib: Option<f64>) -> Finding {
        let departures = [vec![0.5], vec![0.5], vec![0.5]];
        let (stream_cpu_s, unary_cpu_s) = (peak_mib.map(|_| 0.1), peak_mib.map(|_| 0.05));
        Finding { unary_us, stream_cpu_s, unary_cpu_s, departures, peak_mib, ..Finding::default() }
    }

    #[test]
    fn a_round_is_compared_with_the_same_round_of_the_direct_way() -> Result<(), Fault> {
        let mut direct = Findings::none(Kind::Direct);
        direct.rounds = vec![round(10.0, None), round(100.0, None), round(20.0, None)];
        let mut nginx = Findings::none(Kind::Nginx);
        nginx.rounds =
            vec![round(60.0, Some(1.0)), round(151.0, Some(9.0)), round(69.0, Some(2.0))];
        nginx.silent = [const { Vec::new() }; 3].map(|_: Vec<Silent>| vec![Silent::default()]);
        nginx.ready_ms = vec![5.0, 7.0, 6.0];
        let rows = rows(&[direct, nginx])?;
        let spread = |median, low, high| Spread { median, low, high };
        assert_eq!(rows[0].unary, spread(20.0, 10.0, 100.0));
        assert_eq!(rows[1].unary, spread(50.0, 49.0, 51.0));
        assert!(rows[0].resources.is_none());
        let resources = rows[1].resources.as_ref().ok_or("no resources")?;
        assert_eq!(resources.peak_mib, spread(2.0, 1.0, 9.0));
        assert_eq!(resources.ready_ms, spread(6.0, 5.0, 7.0));
        assert_eq!(resources.silent_pss_kb, None);
        Ok(())
    }
}
