//! The command parser: whole and in pieces, and against another parser. The first byte says how the stream is cut.
#![no_main]

use dts_common::redis::resp::{CommandParser, Malformed};
use dts_fuzz::pieces::pieces;
use libfuzzer_sys::fuzz_target;
use redis_protocol::resp2::decode::decode_range;
use redis_protocol::resp2::types::RangeFrame;

/// The arguments of every command, where the last of them ends, and what ended it.
fn commands<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<Vec<u8>>>, usize, Option<Malformed>) {
    let (mut parser, mut buffer) = (CommandParser::default(), Vec::new());
    let (mut found, mut end) = (Vec::new(), 0);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parser.parse(&buffer) {
                Ok(Some(length)) => {
                    assert!(length > 0 && length <= buffer.len());
                    found.push(parser.arguments().iter().map(|(from, to)| buffer[*from..*to].to_vec()).collect());
                    buffer.drain(..length);
                    end += length;
                }
                Ok(None) => break,
                Err(error) => return (found, end, Some(error)),
            }
        }
    }
    (found, end, None)
}

/// The arguments as another parser sees them, if it sees a command.
fn oracle(data: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let Ok(Some((RangeFrame::Array(frames), length))) = decode_range(data) else { return None };
    let argument = |frame: &RangeFrame| match frame {
        RangeFrame::BulkString((from, to)) => Some(data[*from..*to].to_vec()),
        _ => None,
    };
    Some((frames.iter().map(argument).collect::<Option<_>>()?, length))
}

fuzz_target!(|data: &[u8]| {
    let Some((seed, data)) = data.split_first() else { return };
    let (whole, end, error) = commands(std::iter::once(data));
    assert_eq!(commands(pieces(*seed, data)), (whole.clone(), end, error));
    let mut rest = data;
    for ours in whole {
        if ours.is_empty() && rest[0] != b'*' {
            // Bare line ends, which are no commands to others.
            let line = rest.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            rest = &rest[line..];
            continue;
        }
        let Some((theirs, length)) = oracle(rest) else { panic!("only we see {ours:?}") };
        assert_eq!(ours, theirs);
        rest = &rest[length..];
    }
    assert_eq!(rest.len(), data.len() - end);
    // What we do not see must not be a command as servers write them: with lengths in plain digits.
    if let Some((arguments, length)) = oracle(rest) {
        let mut plain = Vec::new();
        dts_common::redis::resp::command(&mut plain, &arguments.iter().map(Vec::as_slice).collect::<Vec<_>>());
        assert_ne!(&rest[..length], plain);
    }
});
