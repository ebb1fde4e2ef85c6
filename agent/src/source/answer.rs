//! What a source answers to PSYNC and SYNC.

use dts_common::error::{Code, Error, Result};
use dts_common::position::ReplicationId;

use crate::endpoint::Side;

use super::payload::Payload;

/// The answer to PSYNC.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A snapshot follows, then the history after `offset`.
    Full { history: ReplicationId, offset: u64 },
    /// The stream goes on where it was asked to, maybe under a new name (4.0).
    Continue(Option<ReplicationId>),
    /// The source does not know PSYNC.
    Unknown,
}

/// Reads the answer to PSYNC, without its line end.
pub(super) fn psync(line: &[u8]) -> Result<Answer> {
    let text = String::from_utf8_lossy(line);
    let mut words = text.split_ascii_whitespace();
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some("+FULLRESYNC"), Some(history), Some(offset), None) => match (history.parse(), offset.parse()) {
            (Ok(history), Ok(offset)) => Ok(Answer::Full { history, offset }),
            _ => Err(garbage("PSYNC", line)),
        },
        (Some("+CONTINUE"), None, None, None) => Ok(Answer::Continue(None)),
        (Some("+CONTINUE"), Some(history), None, None) => match history.parse() {
            Ok(history) => Ok(Answer::Continue(Some(history))),
            Err(_) => Err(garbage("PSYNC", line)),
        },
        _ => match text.strip_prefix('-') {
            Some(error) if unknown_command(error) => Ok(Answer::Unknown),
            Some(error) => Err(refused("PSYNC", error)),
            None => Err(garbage("PSYNC", line)),
        },
    }
}

/// Reads the line that begins a snapshot, without its line end.
pub(super) fn payload(line: &[u8]) -> Result<Payload> {
    if let Some(error) = line.strip_prefix(b"-") {
        let error = String::from_utf8_lossy(error);
        if unknown_command(&error) {
            let message = "the source knows neither PSYNC nor SYNC";
            return Err(Error::new(Code::SourceNoReplication, message));
        }
        return Err(refused("to send a snapshot", &error));
    }
    Payload::announced(line).ok_or_else(|| garbage("the request for a snapshot", line))
}

/// The error for an error reply, given without its dash.
pub(super) fn refused(what: &str, error: &str) -> Error {
    // 2.8 and 3.0 have plain ERR for what later versions call NOMASTERLINK; a failed fork is ERR everywhere.
    const PASSING: [&str; 3] = ["BGSAVE failed", "background save", "Can't SYNC while"];
    let code =
        if PASSING.iter().any(|words| error.contains(words)) { Code::SourceBusy } else { Side::Source.refusal(error) };
    Error::new(code, format!("the source refuses {what}: {}", shown(error.as_bytes())))
}

/// The error for what is no reply at all.
pub(super) fn garbage(what: &str, line: &[u8]) -> Error {
    Error::new(Code::SourceProtocol, format!("the source answered {what} with \"{}\"", shown(line)))
}

pub(super) fn unknown_command(error: &str) -> bool {
    error.to_ascii_lowercase().starts_with("err unknown command")
}

fn shown(line: &[u8]) -> String {
    const LONGEST: usize = 120;
    line[..line.len().min(LONGEST)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn the_good_answers_are_understood() {
        let history = ID.parse().unwrap();
        let full = psync(format!("+FULLRESYNC {ID} 42").as_bytes()).unwrap();
        assert_eq!(full, Answer::Full { history, offset: 42 });
        assert_eq!(psync(b"+CONTINUE").unwrap(), Answer::Continue(None));
        assert_eq!(psync(format!("+CONTINUE {ID}").as_bytes()).unwrap(), Answer::Continue(Some(history)));
        assert_eq!(psync(b"-ERR unknown command 'PSYNC'").unwrap(), Answer::Unknown);
        assert_eq!(psync(b"-ERR unknown command `PSYNC`, with args beginning with: `?`").unwrap(), Answer::Unknown);
    }

    #[test]
    fn refusals_have_their_rows() {
        for (line, code) in [
            ("-NOMASTERLINK Can't SYNC while not connected with my master", Code::SourceBusy),
            ("-ERR Can't SYNC while not connected with my master", Code::SourceBusy),
            ("-LOADING Redis is loading the dataset in memory", Code::SourceBusy),
            ("-BUSY Redis is busy running a script.", Code::SourceBusy),
            ("-ERR BGSAVE failed, replication can't continue", Code::SourceBusy),
            ("-ERR Unable to perform background save", Code::SourceBusy),
            ("-NOPERM this user has no permissions to run the 'psync' command", Code::SourcePermission),
            ("-NOAUTH Authentication required.", Code::SourceAuth),
            ("-ERR SYNC and PSYNC are invalid with pending output", Code::SourceProtocol),
            ("HTTP/1.1 400 Bad Request", Code::SourceProtocol),
            ("+FULLRESYNC short 1", Code::SourceProtocol),
            ("+FULLRESYNC 0123456789abcdef0123456789abcdef01234567 -1", Code::SourceProtocol),
            ("+CONTINUE 1", Code::SourceProtocol),
            ("", Code::SourceProtocol),
        ] {
            assert_eq!(psync(line.as_bytes()).unwrap_err().code, code, "{line}");
        }
    }

    #[test]
    fn a_source_without_sync_is_told_apart_from_one_that_cannot_save() {
        assert_eq!(payload(b"-ERR unknown command 'SYNC'").unwrap_err().code, Code::SourceNoReplication);
        assert_eq!(payload(b"-ERR BGSAVE failed").unwrap_err().code, Code::SourceBusy);
        assert_eq!(payload(b"$x").unwrap_err().code, Code::SourceProtocol);
    }
}
