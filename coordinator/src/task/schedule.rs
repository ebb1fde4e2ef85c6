//! When a task shall start: a moment, said with its zone.

use dts_common::error::{Code, Error, Result};
use jiff::{Timestamp, ZonedDateTime};

/// `2026-11-26T22:00[Asia/Shanghai]`, or with an offset, or in UTC with `Z`. What names no zone means another moment to everybody.
pub fn parse(text: &str) -> Result<Timestamp> {
    let zoned = text.parse::<ZonedDateTime>().map(|zoned| zoned.timestamp());
    zoned.or_else(|_| text.parse::<Timestamp>()).map_err(|error| {
        let example = "give a time with its zone, like 2026-11-26T22:00[Asia/Shanghai] or 2026-11-26T14:00:00Z";
        Error::new(Code::InvalidRequest, format!("start_at {text:?}: {error}; {example}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_with_a_zone_is_a_moment_and_without_one_is_refused() {
        let moment = parse("2026-11-26T14:00:00Z").unwrap();
        for same in
            ["2026-11-26T22:00[Asia/Shanghai]", "2026-11-26T22:00:00+08:00", "2026-11-26T15:00+01:00[Europe/Berlin]"]
        {
            assert_eq!(parse(same).unwrap(), moment, "{same}");
        }
        for wrong in ["2026-11-26T22:00", "22:00", "tomorrow", "", "2026-11-26T22:00[Mars/Base]"] {
            assert!(parse(wrong).unwrap_err().message.contains("start_at"), "{wrong}");
        }
    }
}
