//! What processes use, from the kernel; what etcd has written, from its revision.

use std::process::Child;

use anyhow::{Context as _, Result};
use dts_tests::etcd::Etcd;

/// A process that ends with its owner.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn of(child: Child) -> Self {
        Self(child)
    }

    /// Seconds of CPU so far.
    pub(crate) fn cpu(&self) -> Result<f64> {
        cpu_of(self.0.id())
    }

    /// Resident memory now.
    pub(crate) fn memory_mib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Seconds of CPU of a process so far.
pub(crate) fn cpu_of(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("stat")?;
    let ticks: Vec<f64> = rest.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    // USER_HZ is 100 on every Linux.
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// Grows by one with every write.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn revision(etcd: &Etcd) -> Result<f64> {
    let said: serde_json::Value = serde_json::from_str(&etcd.ctl(&["endpoint", "status", "-w", "json"])?)?;
    Ok(said[0]["Status"]["header"]["revision"].as_u64().context("a revision")? as f64)
}
