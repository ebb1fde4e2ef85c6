//! LZF, the compression of RDB strings: whole, and in pieces for values that are too large to hold.

/// How far back a reference may point (`lzf.h`: 13 bits).
const WINDOW: usize = 1 << 13;

/// Decompresses block after block of one string, keeping only the window.
#[derive(Debug, Default)]
pub struct Inflate {
    /// Input of a token that is not complete yet.
    rest: Vec<u8>,
    /// The last output, at least a window of it once there is as much.
    window: Vec<u8>,
}

impl Inflate {
    /// Appends the output of `input` to `out`; `None` if the data is damaged.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Option<()> {
        self.rest.extend_from_slice(input);
        let begin = self.window.len();
        let mut at = 0;
        while let Some(token) = token(&self.rest[at..]) {
            at += token.size;
            match token.kind {
                Kind::Literal(length) => self.window.extend_from_slice(self.rest.get(at - length..at)?),
                Kind::Back { distance, length } => {
                    let from = self.window.len().checked_sub(distance)?;
                    for i in from..from + length {
                        self.window.push(*self.window.get(i)?);
                    }
                }
            }
        }
        self.rest.drain(..at);
        out.extend_from_slice(&self.window[begin..]);
        let surplus = self.window.len().saturating_sub(WINDOW);
        self.window.drain(..surplus);
        Some(())
    }

    /// True if no token was cut off.
    pub fn is_whole(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Appends the `length` bytes that `input` stands for to `out`; `None` if the data is damaged or has another length.
pub fn decompress(input: &[u8], length: usize, out: &mut Vec<u8>) -> Option<()> {
    let begin = out.len();
    let mut at = 0;
    while at < input.len() {
        let token = token(&input[at..])?;
        at += token.size;
        match token.kind {
            Kind::Literal(literal) => out.extend_from_slice(&input[at - literal..at]),
            Kind::Back { distance, length } => {
                let from = (out.len() - begin).checked_sub(distance)? + begin;
                for i in from..from + length {
                    out.push(*out.get(i)?);
                }
            }
        }
        if out.len() - begin > length {
            return None;
        }
    }
    (out.len() - begin == length).then_some(())
}

struct Token {
    size: usize,
    kind: Kind,
}

enum Kind {
    Literal(usize),
    Back { distance: usize, length: usize },
}

/// The first token, if it is complete.
fn token(input: &[u8]) -> Option<Token> {
    let control = usize::from(*input.first()?);
    if control < 32 {
        let literal = control + 1;
        return (input.len() > literal).then_some(Token { size: 1 + literal, kind: Kind::Literal(literal) });
    }
    let (long, size) = if control >> 5 == 7 { (usize::from(*input.get(1)?), 3) } else { (0, 2) };
    let low = usize::from(*input.get(size - 1)?);
    let distance = ((control & 31) << 8 | low) + 1;
    Some(Token { size, kind: Kind::Back { distance, length: (control >> 5) + long + 2 } })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// "abc" literally, then 30 bytes from 3 back.
    const BLOCK: &[u8] = &[2, b'a', b'b', b'c', 0xE0, 21, 2];

    #[test]
    fn a_reference_may_overlap_its_own_output() {
        let mut out = Vec::new();
        decompress(BLOCK, 33, &mut out).unwrap();
        assert_eq!(out, b"abc".repeat(11));
    }

    #[test]
    fn a_wrong_length_or_a_reference_before_the_start_is_damage() {
        assert!(decompress(BLOCK, 32, &mut Vec::new()).is_none());
        assert!(decompress(&[0x20, 5], 3, &mut Vec::new()).is_none());
    }

    #[test]
    fn pieces_give_the_same_as_the_whole() {
        for cut in 0..=BLOCK.len() {
            let (mut inflate, mut out) = (Inflate::default(), Vec::new());
            inflate.feed(&BLOCK[..cut], &mut out).unwrap();
            inflate.feed(&BLOCK[cut..], &mut out).unwrap();
            assert!(inflate.is_whole());
            assert_eq!(out, b"abc".repeat(11), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics_or_outgrows_its_length(input in prop::collection::vec(any::<u8>(), 0..200), length in 0usize..400) {
            let mut out = Vec::new();
            let whole = decompress(&input, length, &mut out);
            prop_assert!(out.len() <= length + 300);
            prop_assert!(whole.is_none() || out.len() == length);
            let _damage_or_not = Inflate::default().feed(&input, &mut Vec::new());
        }
    }
}
