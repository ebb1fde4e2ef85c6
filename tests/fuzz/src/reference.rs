//! The compact encodings once more, written from their descriptions and without a thought for speed: oracles.

type Texts = Option<Vec<Vec<u8>>>;

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        if count > self.0.len() {
            return None;
        }
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Some(taken.to_vec())
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.bytes(1)?[0])
    }

    fn little(&mut self, width: usize) -> Option<u64> {
        Some(self.bytes(width)?.iter().rev().fold(0, |value, byte| value * 256 + u64::from(*byte)))
    }

    fn big(&mut self, width: usize) -> Option<usize> {
        Some(self.bytes(width)?.iter().fold(0, |value, byte| value * 256 + usize::from(*byte)))
    }

    fn signed(&mut self, width: usize) -> Option<Vec<u8>> {
        let value = i128::from(self.little(width)?);
        Some(two_complement(value, width * 8))
    }
}

/// The decimal text of a number of `bits` bits.
fn two_complement(value: i128, bits: usize) -> Vec<u8> {
    let value = if value >= 1 << (bits - 1) { value - (1 << bits) } else { value };
    value.to_string().into_bytes()
}

/// Entries between a header of `header` bytes, whose first four are the length of all, and the end mark.
fn framed(data: &[u8], header: usize, mut entry: impl FnMut(&mut Reader<'_>) -> Option<Vec<u8>>) -> Texts {
    let mut reader = Reader(data);
    if reader.little(4)? != data.len() as u64 || data.last() != Some(&0xFF) {
        return None;
    }
    reader.bytes(header - 4)?;
    let mut found = Vec::new();
    while *reader.0.first()? != 0xFF {
        found.push(entry(&mut reader)?);
    }
    (reader.0.len() == 1).then_some(found)
}

/// The elements of a listpack.
pub fn listpack(data: &[u8]) -> Texts {
    framed(data, 6, |reader| {
        let before = reader.0.len();
        let kind = reader.byte()?;
        let text = if kind < 128 {
            kind.to_string().into_bytes()
        } else if kind < 192 {
            reader.bytes(usize::from(kind) - 128)?
        } else if kind < 224 {
            let low = reader.byte()?;
            two_complement((i128::from(kind) - 192) * 256 + i128::from(low), 13)
        } else if kind < 240 {
            let length = (usize::from(kind) - 224) * 256 + usize::from(reader.byte()?);
            reader.bytes(length)?
        } else {
            match kind - 240 {
                0 => {
                    let length = reader.little(4)?;
                    reader.bytes(usize::try_from(length).ok()?)?
                }
                width @ 1..=3 => reader.signed(usize::from(width) + 1)?,
                4 => reader.signed(8)?,
                _ => return None,
            }
        };
        let mut rest = (before - reader.0.len()) / 128;
        reader.byte()?;
        while rest > 0 {
            reader.byte()?;
            rest /= 128;
        }
        Some(text)
    })
}

/// The elements of a ziplist.
pub fn ziplist(data: &[u8]) -> Texts {
    framed(data, 10, |reader| {
        if reader.byte()? == 0xFE {
            reader.bytes(4)?;
        }
        let kind = reader.byte()?;
        match kind / 64 {
            0 => return reader.bytes(usize::from(kind)),
            1 => {
                let length = usize::from(kind - 64) * 256 + usize::from(reader.byte()?);
                return reader.bytes(length);
            }
            _ => {}
        }
        match kind {
            0x80 => {
                let length = reader.big(4)?;
                reader.bytes(length)
            }
            0xC0 => reader.signed(2),
            0xD0 => reader.signed(4),
            0xE0 => reader.signed(8),
            0xF0 => reader.signed(3),
            0xFE => reader.signed(1),
            0xF1..=0xFD => Some((kind - 0xF1).to_string().into_bytes()),
            _ => None,
        }
    })
}

/// The members of an intset.
pub fn intset(data: &[u8]) -> Texts {
    let mut reader = Reader(data);
    let (width, count) = (reader.little(4)?, reader.little(4)?);
    if ![2, 4, 8].contains(&width) || width * count != reader.0.len() as u64 {
        return None;
    }
    (0..count).map(|_| reader.signed(usize::try_from(width).ok()?)).collect()
}

/// Fields and values of a zipmap in turn. What stands behind its end mark is not looked at.
pub fn zipmap(data: &[u8]) -> Texts {
    let mut reader = Reader(data);
    reader.byte()?;
    let mut found = Vec::new();
    loop {
        let mut length = reader.little(1)?;
        if length == 255 {
            return (found.len() % 2 == 0).then_some(found);
        }
        if length == 254 {
            length = reader.little(4)?;
        }
        let is_value = found.len() % 2 == 1;
        let free = if is_value { reader.byte()? } else { 0 };
        found.push(reader.bytes(usize::try_from(length).ok()?)?);
        reader.bytes(usize::from(free))?;
    }
}

/// What an LZF string stands for.
pub fn lzf(data: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader(data);
    let mut out: Vec<u8> = Vec::new();
    while !reader.0.is_empty() {
        let control = usize::from(reader.byte()?);
        if control < 32 {
            out.extend(reader.bytes(control + 1)?);
            continue;
        }
        let mut length = control / 32;
        if length == 7 {
            length += usize::from(reader.byte()?);
        }
        let distance = control % 32 * 256 + usize::from(reader.byte()?) + 1;
        for _ in 0..length + 2 {
            out.push(*out.get(out.len().checked_sub(distance)?)?);
        }
    }
    Some(out)
}
