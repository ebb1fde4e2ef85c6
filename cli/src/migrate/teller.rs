//! What becomes of a migration, told by a line that changes, by lines now and then, or by JSON.

use std::time::{Duration, Instant};

use dts_proto::v1::{CheckItem, CheckRun, Severity, Task, TaskState};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::show::bytes;
use crate::{COMPLETED, FAILED, event, switch, verification};

const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Tells in the way that was asked for.
pub(super) struct Teller {
    json: bool,
    bar: Option<ProgressBar>,
    phase: String,
    reason: String,
    /// The warnings that were told.
    warned: Vec<String>,
    told: Instant,
}

impl Teller {
    pub(super) fn new(json: bool, shows_progress: bool) -> Self {
        let bar = shows_progress.then(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(250));
            style.map(|style| bar.clone().with_style(style)).unwrap_or(bar)
        });
        Self { json, bar, phase: String::new(), reason: String::new(), warned: Vec::new(), told: Instant::now() }
    }

    pub(super) fn tell(&self, event: &Value, line: impl FnOnce() -> String) {
        if self.json {
            println!("{event}");
        } else if let Some(bar) = &self.bar {
            bar.println(line());
        } else {
            eprintln!("{}", line());
        }
    }

    pub(super) fn progress(&mut self, task: &Task) {
        let phase = event::phase(task);
        if phase != self.phase {
            let before = std::mem::replace(&mut self.phase, phase.clone());
            let event = json!({"event": "phase", "phase": phase, "before": before, "task": task.id});
            self.tell(&event, || event::line(task));
        }
        let status = event::status(task);
        for warning in &status.warnings {
            self.warn(warning.clone());
        }
        let reason = event::status(task).reason.or(task.reason.clone());
        let said = reason.as_ref().map(|reason| reason.message.clone()).unwrap_or_default();
        if said != self.reason {
            if let Some(reason) = &reason {
                self.tell(&event::reason("retrying", reason), || {
                    format!("retrying: {}: {}", reason.code, reason.message)
                });
            }
            self.reason = said;
        }
        if self.json {
            println!("{}", event::progress(task));
        } else if let Some(bar) = &self.bar {
            bar.set_message(event::line(task));
        } else if self.told.elapsed() >= PLAIN_EVERY {
            self.told = Instant::now();
            eprintln!("{}", event::line(task));
        }
    }

    /// What the check warns of, which whoever started takes upon themselves.
    pub(super) fn warnings(&mut self, run: &CheckRun) {
        let warns = |item: &&CheckItem| item.needs_acknowledgement && item.severity() == Severity::Warns;
        for finding in run.items.iter().filter(warns).flat_map(|item| &item.findings) {
            self.warn(finding.message.clone());
        }
    }

    pub(super) fn warn(&mut self, warning: String) {
        if !self.warned.contains(&warning) {
            self.tell(&json!({"event": "warning", "message": warning}), || format!("warning: {warning}"));
            self.warned.push(warning);
        }
    }

    pub(super) fn completed(&self, task: &Task, elapsed: Duration) -> u8 {
        let status = event::status(task);
        let (snapshot, stream) = (status.snapshot.unwrap_or_default(), status.stream.clone().unwrap_or_default());
        let event = json!({
            "event": "completed", "task": task.id, "seconds": elapsed.as_secs_f64(),
            "snapshot_keys": snapshot.applied_keys, "snapshot_bytes": snapshot.applied_bytes,
            "applied_commands": stream.applied_commands, "completion_offset": stream.completion_offset,
            "completion": task.completion.as_ref().map_or(Value::Null, verification::completion_as_json),
            "switch_over": task.switch_over.as_ref().map_or(Value::Null, switch::as_json),
        });
        self.tell(&event, || {
            let report = task.completion.as_ref().map(verification::completion_lines).unwrap_or_default();
            let report: String = report.into_iter().map(|line| format!("\n{line}")).collect();
            format!(
                "completed in {:.1} s: {} keys ({}), then {} commands, up to offset {}{report}",
                elapsed.as_secs_f64(),
                snapshot.applied_keys,
                bytes(snapshot.applied_bytes),
                stream.applied_commands,
                stream.completion_offset
            )
        });
        COMPLETED
    }

    pub(super) fn failed(&self, task: &Task) -> u8 {
        let reason = task.reason.clone().unwrap_or_default();
        let cancelled = task.state() == TaskState::Cancelled;
        if self.json {
            let event = if cancelled {
                json!({"event": "cancelled", "task": task.id})
            } else {
                event::reason("failed", &reason)
            };
            println!("{event}");
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if cancelled {
            eprintln!("dts: the task was cancelled");
        } else {
            eprintln!("dts: {}: {} \u{2014} {}", reason.code, reason.message, reason.fix);
        }
        FAILED
    }
}
