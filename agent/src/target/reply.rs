//! Replies of RESP2, without their contents where nobody wants them.

use dts_common::redis::resp::Malformed;

/// The head of a reply. The elements of an array are replies of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A status, or a number.
    Line(Vec<u8>),
    Error(String),
    Bulk(Option<Vec<u8>>),
    Array(Option<usize>),
}

const LONGEST: usize = 1 << 32;

/// The reply at the start of `buffer`, and its length; `None` if it is cut off.
pub(super) fn parse(buffer: &[u8]) -> Result<Option<(Reply, usize)>, Malformed> {
    let Some(end) = memchr::memchr(b'\n', buffer) else { return Ok(None) };
    let Some((kind, line)) = buffer[..end].strip_suffix(b"\r").and_then(|line| line.split_first()) else {
        return Err(Malformed::new("an empty reply"));
    };
    let next = end + 1;
    let reply = match kind {
        b'+' | b':' => Reply::Line(line.to_vec()),
        b'-' => Reply::Error(String::from_utf8_lossy(line).into_owned()),
        b'*' => Reply::Array(length(line)?),
        b'$' => match length(line)? {
            None => Reply::Bulk(None),
            Some(length) => {
                let Some(bytes) = buffer.get(next..next + length + 2) else { return Ok(None) };
                return Ok(Some((Reply::Bulk(Some(bytes[..length].to_vec())), next + length + 2)));
            }
        },
        _ => return Err(Malformed::new("a reply of no known kind")),
    };
    Ok(Some((reply, next)))
}

fn length(line: &[u8]) -> Result<Option<usize>, Malformed> {
    if line == b"-1" {
        return Ok(None);
    }
    let length = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).filter(|length| *length < LONGEST);
    length.map(Some).ok_or(Malformed::new("a length in a reply"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_of_reply_is_read() {
        assert_eq!(parse(b"+OK\r\n"), Ok(Some((Reply::Line(b"OK".to_vec()), 5))));
        assert_eq!(parse(b"-ERR no\r\n"), Ok(Some((Reply::Error("ERR no".into()), 9))));
        assert_eq!(parse(b"$-1\r\n"), Ok(Some((Reply::Bulk(None), 5))));
        assert_eq!(parse(b"$2\r\nhi\r\n+"), Ok(Some((Reply::Bulk(Some(b"hi".to_vec())), 8))));
        assert_eq!(parse(b"*-1\r\n"), Ok(Some((Reply::Array(None), 5))));
        assert_eq!(parse(b"$2\r\nhi\r"), Ok(None));
        assert!(parse(b"hello\r\n").is_err());
    }

    proptest! {
        #[test]
        fn no_reply_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _malformed_or_not = parse(&bytes);
        }
    }
}
