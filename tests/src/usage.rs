//! What a process costs, as /proc tells it: CPU seconds with those of its ended children, and peak memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Linux counts CPU time in hundredths of a second on every machine that we run on (`getconf CLK_TCK`).
const TICKS: f64 = 100.0;
const EVERY: Duration = Duration::from_millis(10);

/// CPU seconds of a process until now; `None` once it is gone.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = (11..15).filter_map(|at| fields.get(at)?.parse::<f64>().ok()).sum::<f64>();
    Some(ticks / TICKS)
}

/// Most memory that a process ever held, in MiB.
pub fn peak_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_ascii_whitespace().next()?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// Looks at a process until it is told to stop or the process ends.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(f64, f64)>,
}

impl Watch {
    /// Begins.
    pub fn start(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut last = (0.0, 0.0);
            while !stopped.load(Ordering::Relaxed) {
                match (cpu_seconds(pid), peak_mib(pid)) {
                    (Some(cpu), Some(peak)) => last = (cpu, peak),
                    _ => return last,
                }
                std::thread::sleep(EVERY);
            }
            last
        });
        Self { stop, thread }
    }

    /// CPU seconds and peak MiB, as they were seen last.
    pub fn stop(self) -> (f64, f64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}
