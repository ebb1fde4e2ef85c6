//! Primitives of the file format: lengths, strings, numbers.

use crate::redis::lzf;

/// Why a piece cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It goes on behind the end of the buffer.
    More,
    /// It is damaged.
    Bad(&'static str),
    /// It is something that we do not decode.
    Unknown(&'static str),
}

pub(super) type Read<T> = Result<T, Fault>;

/// Longest string that a server makes or takes (`proto-max-bulk-len` can be raised; nobody stores more than 4 GiB).
const LONGEST: u64 = 1 << 32;

/// A place in a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    data: &'a [u8],
    pub(super) at: usize,
}

/// A length, or the kind of a special string encoding.
enum Length {
    Plain(u64),
    Special(u8),
}

/// A string as it stands in the file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Text<'a> {
    Raw(&'a [u8]),
    Integer(i64),
    Lzf { data: &'a [u8], length: usize },
}

impl<'a> Text<'a> {
    /// The bytes that it stands for; `scratch` is overwritten where it has to be made.
    pub(super) fn decode<'b>(&self, scratch: &'b mut Vec<u8>) -> Read<&'b [u8]>
    where
        'a: 'b,
    {
        scratch.clear();
        match *self {
            Text::Raw(bytes) => return Ok(bytes),
            Text::Integer(value) => push_decimal(scratch, value),
            Text::Lzf { data, length } => lzf::decompress(data, length, scratch).ok_or(Fault::Bad("LZF string"))?,
        }
        Ok(scratch)
    }
}

/// Appends the decimal text of a number.
pub(super) fn push_decimal(out: &mut Vec<u8>, value: i64) {
    use std::io::Write as _;
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{value}");
}

impl<'a> Cursor<'a> {
    pub(super) fn new(data: &'a [u8], at: usize) -> Self {
        Self { data, at }
    }

    pub(super) fn remaining(&self) -> usize {
        self.data.len() - self.at
    }

    pub(super) fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or(Fault::Bad("length"))?;
        let bytes = self.data.get(self.at..end).ok_or(Fault::More)?;
        self.at = end;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| Fault::More)
    }

    pub(super) fn byte(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u64_le(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A length; a special string encoding here is damage.
    pub(super) fn length(&mut self) -> Read<u64> {
        match self.any_length()? {
            Length::Plain(length) => Ok(length),
            Length::Special(_) => Err(Fault::Bad("length")),
        }
    }

    fn any_length(&mut self) -> Read<Length> {
        let first = self.byte()?;
        Ok(Length::Plain(match (first >> 6, first) {
            (0, _) => u64::from(first & 63),
            (1, _) => u64::from(first & 63) << 8 | u64::from(self.byte()?),
            (_, 0x80) => u64::from(u32::from_be_bytes(self.array()?)),
            (_, 0x81) => u64::from_be_bytes(self.array()?),
            (3, _) => return Ok(Length::Special(first & 63)),
            _ => return Err(Fault::Bad("length encoding")),
        }))
    }

    pub(super) fn text(&mut self) -> Read<Text<'a>> {
        let length = match self.any_length()? {
            Length::Plain(length) => return Ok(Text::Raw(self.take(size(length)?)?)),
            Length::Special(kind) => kind,
        };
        match length {
            0 => Ok(Text::Integer(i64::from(i8::from_le_bytes(self.array()?)))),
            1 => Ok(Text::Integer(i64::from(i16::from_le_bytes(self.array()?)))),
            2 => Ok(Text::Integer(i64::from(i32::from_le_bytes(self.array()?)))),
            3 => {
                let (compressed, length) = (size(self.length()?)?, size(self.length()?)?);
                Ok(Text::Lzf { data: self.take(compressed)?, length })
            }
            _ => Err(Fault::Bad("string encoding")),
        }
    }

    /// The head of a string: what follows it, without needing the bytes themselves.
    pub(super) fn text_head(&mut self) -> Read<Head> {
        match self.any_length()? {
            Length::Plain(length) => Ok(Head::Raw(size(length)? as u64)),
            Length::Special(3) => {
                let (compressed, length) = (size(self.length()?)?, size(self.length()?)?);
                Ok(Head::Lzf { compressed: compressed as u64, length: length as u64 })
            }
            Length::Special(_) => Ok(Head::Short),
        }
    }

    /// A score as RDB 7 and older write it: text with its length, or a mark.
    pub(super) fn old_double(&mut self) -> Read<f64> {
        match self.byte()? {
            253 => Ok(f64::NAN),
            254 => Ok(f64::INFINITY),
            255 => Ok(f64::NEG_INFINITY),
            length => {
                let text = self.take(usize::from(length))?;
                std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).ok_or(Fault::Bad("score"))
            }
        }
    }
}

/// What stands before the bytes of a string.
pub(super) enum Head {
    Raw(u64),
    Lzf {
        compressed: u64,
        length: u64,
    },
    /// An integer: nothing large follows.
    Short,
}

fn size(length: u64) -> Read<usize> {
    if length > LONGEST {
        Err(Fault::Bad("string length"))
    } else {
        usize::try_from(length).map_err(|_| Fault::Bad("string length"))
    }
}
