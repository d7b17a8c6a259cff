//! What the rest of the machine does while we measure. It must never count our own tree.

use std::fs;
use std::time::Instant;

use nix::unistd::SysconfVar;

use super::tree::constant;
use super::{cpu_s, float};
use crate::Fault;

/// A watch over the work of others.
pub(crate) struct Neighbours {
    since: Instant,
    others_s: f64,
}

impl Neighbours {
    /// From now on.
    pub(crate) fn watch() -> Result<Self, Fault> {
        Ok(Self { since: Instant::now(), others_s: others_s()? })
    }

    /// How many cores others kept busy on average, the hypervisor's other guests among them.
    pub(crate) fn cores(&self) -> Result<f64, Fault> {
        Ok(((others_s()? - self.others_s) / self.since.elapsed().as_secs_f64()).max(0.0))
    }
}

/// CPU seconds of the machine, stolen ones too, less those of our own tree.
fn others_s() -> Result<f64, Fault> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq steal; the guests behind them are in user.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum();
    Ok(float(busy) / constant(SysconfVar::CLK_TCK)? - cpu_s(std::process::id())?)
}
