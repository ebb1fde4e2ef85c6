//! A trigger in one word, as `--when` takes it.

use dts_proto::v1::{AlarmKind, AlarmTrigger};

use super::show::kind;
use crate::show::parse_bytes;

/// `lag>30s:1m`.
pub(super) fn trigger(text: &str) -> Result<AlarmTrigger, String> {
    let (what, held) = text.split_once(':').map_or((text, None), |(what, held)| (what, Some(held)));
    let seconds = |text: &str| -> Result<u32, String> {
        let time = humantime::parse_duration(text).map_err(|error| format!("{text}: {error}"))?;
        u32::try_from(time.as_secs()).map_err(|_| format!("{text} is too long"))
    };
    let at = what.find(['<', '>']).unwrap_or(what.len());
    let (name, bound) = (&what[..at], what.get(at + 1..).filter(|bound| !bound.is_empty()));
    let kind = match name {
        "interrupted" => AlarmKind::Interrupted,
        "needs-decision" => AlarmKind::NeedsDecision,
        "failed" => AlarmKind::Failed,
        "lag" => AlarmKind::Lag,
        "backlog" => AlarmKind::Backlog,
        "agent-lost" => AlarmKind::AgentLost,
        "degraded" => AlarmKind::Degraded,
        "certificate" => AlarmKind::Certificate,
        "foreign-writes" => AlarmKind::ForeignWrites,
        "verification-mismatch" => AlarmKind::VerificationMismatch,
        "replay-short" => AlarmKind::ReplayShort,
        other => return Err(format!("{other:?} is no trigger")),
    };
    let mut trigger = AlarmTrigger { kind: kind.into(), ..AlarmTrigger::default() };
    let sign = what.as_bytes().get(at);
    match (kind, sign, bound) {
        (AlarmKind::Lag, Some(b'>'), Some(bound)) => match humantime::parse_duration(bound) {
            Ok(_) => trigger.threshold_seconds = seconds(bound)?,
            Err(_) => trigger.threshold_bytes = parse_bytes(bound)?,
        },
        (AlarmKind::Backlog | AlarmKind::Certificate, Some(b'<'), Some(bound)) => {
            trigger.threshold_seconds = seconds(bound)?;
        }
        (AlarmKind::Lag, ..) => return Err("lag needs a bound: lag>30s, or lag>64MiB".into()),
        (AlarmKind::Backlog | AlarmKind::Certificate, ..) => return Err(format!("{name} needs a bound: {name}<10m")),
        (_, None, None) => {}
        _ => return Err(format!("{name} takes no bound")),
    }
    if let Some(held) = held {
        trigger.for_seconds = seconds(held)?;
    }
    Ok(trigger)
}

/// As `--when` takes it.
pub(super) fn words(trigger: &AlarmTrigger) -> String {
    let name = kind(trigger.kind()).to_ascii_lowercase().replace('_', "-");
    let sign = if trigger.kind() == AlarmKind::Lag { '>' } else { '<' };
    let mut text = name;
    if trigger.threshold_seconds > 0 {
        text += &format!("{sign}{}s", trigger.threshold_seconds);
    }
    if trigger.threshold_bytes > 0 {
        text += &format!("{sign}{}B", trigger.threshold_bytes);
    }
    if trigger.for_seconds > 0 {
        text += &format!(":{}s", trigger.for_seconds);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_are_read_as_they_are_shown() {
        for text in [
            "interrupted",
            "failed:60s",
            "lag>30s:60s",
            "lag>1024B",
            "backlog<600s",
            "agent-lost",
            "certificate<86400s",
        ] {
            assert_eq!(words(&trigger(text).unwrap()), text);
        }
        assert_eq!(trigger("lag>64MiB").unwrap().threshold_bytes, 64 << 20);
        assert_eq!(trigger("backlog<10m").unwrap().threshold_seconds, 600);
        for wrong in ["", "lag", "lag<3s", "backlog>3s", "failed>3s", "sunshine", "lag>", "failed:soon"] {
            assert!(trigger(wrong).is_err(), "{wrong}");
        }
    }
}
