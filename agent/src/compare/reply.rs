//! What servers answer, in the forms that are compared.

use dts_common::error::{Error, Result};
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use crate::endpoint::Side;

/// True for a refusal that has nothing to do with the key's value.
pub(super) fn is_elsewhere(text: &str) -> bool {
    let word = text.split(' ').next().unwrap_or_default();
    ["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "BUSY", "MASTERDOWN", "NOAUTH", "NOPERM"].contains(&word)
}

/// True if the key belongs to another node of a cluster.
pub(super) fn moved(text: &str) -> bool {
    text.starts_with("MOVED ") || text.starts_with("ASK ")
}

/// A number; `None` for an error about the key's type, which changed between two questions.
pub(super) fn number(frame: &BytesFrame, side: Side, command: &str) -> Result<Option<i64>> {
    match frame {
        BytesFrame::Integer(number) => Ok(Some(*number)),
        BytesFrame::Null => Ok(None),
        BytesFrame::Error(text) => changed(text, side, command).map(|()| None),
        other => Ok(other.as_str().and_then(|text| text.parse().ok())),
    }
}

/// The elements of an array; `None` as for [`number`].
pub(super) fn elements(frame: BytesFrame, side: Side, command: &str) -> Result<Option<Vec<BytesFrame>>> {
    match frame {
        BytesFrame::Array(elements) => Ok(Some(elements)),
        BytesFrame::Error(text) => changed(&text, side, command).map(|()| None),
        _ => Ok(None),
    }
}

/// A key that changed its type meanwhile is no error of the run.
pub(super) fn changed(text: &str, side: Side, command: &str) -> Result<()> {
    if text.starts_with("WRONGTYPE") || text.starts_with("NOGROUP") || text.contains("no such key") {
        return Ok(());
    }
    // An unknown command is answered with its arguments, which are the user's data.
    let shown = text.split(", with args").next().unwrap_or_default();
    Err(Error::new(side.refusal(text), format!("the {} refuses {command}: {shown}", name(side))))
}

/// For people.
pub(super) fn name(side: Side) -> &'static str {
    match side {
        Side::Source => "source",
        Side::Target => "target",
    }
}

/// Bytes of a bulk or a status; empty for what has none.
pub(super) fn bytes(frame: &BytesFrame) -> &[u8] {
    frame.as_bytes().unwrap_or_default()
}

/// A cursor and what came with it.
pub(super) fn page(frame: BytesFrame, side: Side, command: &str) -> Result<Option<(Vec<u8>, Vec<BytesFrame>)>> {
    let Some(parts) = elements(frame, side, command)? else { return Ok(None) };
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next()) {
        (Some(cursor), Some(BytesFrame::Array(found))) => Ok(Some((bytes(&cursor).to_vec(), found))),
        _ => Ok(None),
    }
}

/// How much was read, about.
pub(super) fn size(frame: &BytesFrame) -> u64 {
    match frame {
        BytesFrame::Array(elements) => elements.iter().map(size).sum::<u64>() + 8,
        other => other.as_bytes().map_or(8, |bytes| bytes.len() as u64 + 8),
    }
}

/// A score, in the spelling of any version.
pub(super) fn score(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// True for one score in two spellings.
pub(super) fn same_score(left: &[u8], right: &[u8]) -> bool {
    left == right
        || match (score(left), score(right)) {
            (Some(left), Some(right)) => left == right || (left.is_nan() && right.is_nan()),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_score_in_the_spellings_of_two_versions_is_one_score() {
        assert!(same_score(b"0.33333333333333331", b"0.3333333333333333"));
        assert!(same_score(b"inf", b"inf") && same_score(b"1e+20", b"100000000000000000000"));
        assert!(!same_score(b"0.33333333333333331", b"0.33333333333333337"));
    }

    #[test]
    fn a_type_that_changed_is_no_error_and_a_refusal_is_one() {
        let wrong = BytesFrame::Error("WRONGTYPE Operation against a key".into());
        assert_eq!(number(&wrong, Side::Source, "LLEN").unwrap(), None);
        let refused = BytesFrame::Error("ERR unknown command 'XLEN', with args beginning with: 'secret'".into());
        let error = number(&refused, Side::Target, "XLEN").unwrap_err();
        assert!(error.message.contains("XLEN") && !error.message.contains("secret"), "{error}");
    }
}
