//! RESP2 on the hot path: encoding commands, and parsing them by offsets.

/// Appends the header of a command of `args` arguments.
pub fn array_header(out: &mut Vec<u8>, args: usize) {
    header(out, b'*', args);
}

/// Appends one argument.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole command.
pub fn command(out: &mut Vec<u8>, args: &[&[u8]]) {
    array_header(out, args.len());
    for arg in args {
        bulk(out, arg);
    }
}

/// Appends `kind`, a decimal number, and CRLF.
pub fn header(out: &mut Vec<u8>, kind: u8, number: usize) {
    out.push(kind);
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// No server takes a longer argument list or a longer argument than this.
const MOST_ARGUMENTS: usize = 1 << 24;
const LONGEST_ARGUMENT: usize = 1 << 32;
const LONGEST_LINE: usize = 64 << 10;

/// The stream does not hold a command where one has to begin.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a command: {0}")]
pub struct Malformed(&'static str);

impl Malformed {
    /// Says what is wrong.
    pub fn new(what: &'static str) -> Self {
        Self(what)
    }
}

/// Finds the arguments of one command after the other by their offsets. A command that is cut off is gone on with where
/// it was left, not begun again.
#[derive(Debug, Default)]
pub struct CommandParser {
    /// Start and end of every argument, from the command's first byte.
    arguments: Vec<(usize, usize)>,
    expected: usize,
    /// How far the command is parsed; 0: not begun.
    at: usize,
}

impl CommandParser {
    /// The length of the command at the start of `buffer`, once it is complete. Bare line ends are commands without arguments.
    pub fn parse(&mut self, buffer: &[u8]) -> Result<Option<usize>, Malformed> {
        if self.at == 0 {
            self.arguments.clear();
            match buffer.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some((count, next)) = number(buffer, 1)? else { return Ok(None) };
                    if count > MOST_ARGUMENTS {
                        return Err(Malformed("too many arguments"));
                    }
                    (self.expected, self.at) = (count, next);
                }
                Some(_) => return self.inline(buffer),
            }
        }
        while self.arguments.len() < self.expected {
            match buffer.get(self.at) {
                None => return Ok(None),
                Some(b'$') => {}
                Some(_) => return Err(Malformed("an argument does not begin with $")),
            }
            let Some((length, start)) = number(buffer, self.at + 1)? else { return Ok(None) };
            if length > LONGEST_ARGUMENT {
                return Err(Malformed("an argument is too long"));
            }
            let end = start + length;
            match buffer.get(end..end + 2) {
                None => return Ok(None),
                Some(b"\r\n") => {}
                Some(_) => return Err(Malformed("an argument does not end where it says")),
            }
            self.arguments.push((start, end));
            self.at = end + 2;
        }
        Ok(Some(std::mem::take(&mut self.at)))
    }

    /// The arguments of the command that [`CommandParser::parse`] found last.
    pub fn arguments(&self) -> &[(usize, usize)] {
        &self.arguments
    }

    /// How many arguments the command that is cut off has, and those that are whole.
    pub fn partial(&self) -> Option<(usize, &[(usize, usize)])> {
        (self.at != 0).then_some((self.expected, self.arguments.as_slice()))
    }

    fn inline(&mut self, buffer: &[u8]) -> Result<Option<usize>, Malformed> {
        let Some(end) = memchr::memchr(b'\n', &buffer[..buffer.len().min(LONGEST_LINE)]) else {
            return if buffer.len() < LONGEST_LINE { Ok(None) } else { Err(Malformed("a line does not end")) };
        };
        // A source writes commands as arrays only; what else it says (an error reply, for one) must not be run on a target.
        if buffer[..end].iter().any(|byte| *byte != b'\r') {
            return Err(Malformed("a line that is no command"));
        }
        Ok(Some(end + 1))
    }
}

/// A decimal number from `from` to CRLF, and what is behind it; `None` if it is cut off.
fn number(buffer: &[u8], from: usize) -> Result<Option<(usize, usize)>, Malformed> {
    const DIGITS: usize = 12;
    let mut value = 0usize;
    for (index, byte) in buffer.iter().enumerate().skip(from).take(DIGITS + 1) {
        match byte {
            b'0'..=b'9' if index < from + DIGITS => value = value * 10 + usize::from(byte - b'0'),
            b'\r' if index > from => {
                return match buffer.get(index + 1) {
                    None => Ok(None),
                    Some(b'\n') => Ok(Some((value, index + 2))),
                    Some(_) => Err(Malformed("a length does not end in CRLF")),
                };
            }
            _ => return Err(Malformed("a length is not a number")),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis_protocol::resp2::decode::decode_range;
    use redis_protocol::resp2::types::RangeFrame;

    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        command(&mut out, &[b"SET", b"", b"0123456789"]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$10\r\n0123456789\r\n");
    }

    #[test]
    fn bare_line_ends_are_commands_without_arguments() {
        let mut parser = CommandParser::default();
        assert_eq!(parser.parse(b"\r\n*1"), Ok(Some(2)));
        assert!(parser.arguments().is_empty());
        assert_eq!(parser.parse(b"\n"), Ok(Some(1)));
    }

    #[test]
    fn an_argument_that_does_not_end_where_it_says_is_refused() {
        assert!(CommandParser::default().parse(b"*1\r\n$3\r\nabcXX").is_err());
        assert!(CommandParser::default().parse(b"*-1\r\n").is_err());
        assert!(CommandParser::default().parse(b"*1\r\n*1\r\n").is_err());
        assert!(CommandParser::default().parse(b"-ERR unknown command\r\n").is_err());
    }

    proptest! {
        #[test]
        fn it_agrees_with_another_parser_wherever_the_stream_is_cut(
            words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            command(&mut bytes, &words);
            let cut = cut.index(bytes.len());
            let mut parser = CommandParser::default();
            prop_assert_eq!(parser.parse(&bytes[..cut]), Ok(None));
            prop_assert_eq!(parser.parse(&bytes), Ok(Some(bytes.len())));
            let Ok(Some((RangeFrame::Array(oracle), length))) = decode_range(&bytes) else { panic!("oracle") };
            prop_assert_eq!(length, bytes.len());
            for (ours, theirs) in parser.arguments().iter().zip(oracle) {
                let RangeFrame::BulkString((start, end)) = theirs else { panic!("oracle") };
                prop_assert_eq!(*ours, (start, end));
            }
        }

        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _malformed_or_not = CommandParser::default().parse(&bytes);
        }
    }
}
