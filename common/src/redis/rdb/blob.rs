//! The compact encodings that one string holds: listpack, ziplist, intset, zipmap. Every entry is checked to lie inside.

use super::cursor::{Fault, Read, push_decimal};

/// An element of a compact blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element<'a> {
    Bytes(&'a [u8]),
    Integer(i64),
}

impl<'a> Element<'a> {
    pub(super) fn text<'b>(&self, scratch: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        match *self {
            Element::Bytes(bytes) => bytes,
            Element::Integer(value) => {
                scratch.clear();
                push_decimal(scratch, value);
                scratch
            }
        }
    }

    pub(super) fn integer(&self) -> Read<i64> {
        match self {
            Element::Integer(value) => Ok(*value),
            Element::Bytes(bytes) => {
                std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or(Fault::Bad("number in a blob"))
            }
        }
    }

    pub(super) fn double(&self) -> Read<f64> {
        match self {
            #[allow(clippy::cast_precision_loss)] // servers make a double of it in the same way
            Element::Integer(value) => Ok(*value as f64),
            Element::Bytes(bytes) => {
                std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or(Fault::Bad("score in a blob"))
            }
        }
    }
}

fn at<const N: usize>(data: &[u8], from: usize) -> Read<[u8; N]> {
    let end = from.checked_add(N).ok_or(Fault::Bad("blob"))?;
    data.get(from..end).and_then(|bytes| bytes.try_into().ok()).ok_or(Fault::Bad("blob ends early"))
}

fn slice(data: &[u8], from: usize, length: usize) -> Read<&[u8]> {
    let end = from.checked_add(length).ok_or(Fault::Bad("blob"))?;
    data.get(from..end).ok_or(Fault::Bad("blob ends early"))
}

fn size(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

fn i24(bytes: [u8; 3]) -> i64 {
    i64::from(i32::from_le_bytes([0, bytes[0], bytes[1], bytes[2]]) >> 8)
}

/// Walks a listpack (`listpack.c`).
#[derive(Clone, Debug)]
pub(super) struct Listpack<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Listpack<'a> {
    pub(super) fn new(data: &'a [u8]) -> Read<Self> {
        let total = size(u32::from_le_bytes(at(data, 0)?));
        if total != data.len() || total < 7 || data[total - 1] != 0xFF {
            return Err(Fault::Bad("listpack header"));
        }
        Ok(Self { data, at: 6 })
    }

    pub(super) fn next(&mut self) -> Read<Option<Element<'a>>> {
        let data = self.data;
        let first = at::<1>(data, self.at)?[0];
        if first == 0xFF {
            return if self.at + 1 == data.len() { Ok(None) } else { Err(Fault::Bad("listpack end")) };
        }
        let from = self.at;
        let (element, length) = match first {
            0x00..=0x7F => (Element::Integer(i64::from(first)), 1),
            0x80..=0xBF => {
                let length = usize::from(first & 63);
                (Element::Bytes(slice(data, from + 1, length)?), 1 + length)
            }
            0xC0..=0xDF => {
                let raw = u16::from(first & 31) << 8 | u16::from(at::<1>(data, from + 1)?[0]);
                (Element::Integer(i64::from((raw << 3).cast_signed() >> 3)), 2)
            }
            0xE0..=0xEF => {
                let length = usize::from(first & 15) << 8 | usize::from(at::<1>(data, from + 1)?[0]);
                (Element::Bytes(slice(data, from + 2, length)?), 2 + length)
            }
            0xF0 => {
                let length = size(u32::from_le_bytes(at(data, from + 1)?));
                (Element::Bytes(slice(data, from + 5, length)?), 5 + length)
            }
            0xF1 => (Element::Integer(i64::from(i16::from_le_bytes(at(data, from + 1)?))), 3),
            0xF2 => (Element::Integer(i24(at(data, from + 1)?)), 4),
            0xF3 => (Element::Integer(i64::from(i32::from_le_bytes(at(data, from + 1)?))), 5),
            0xF4 => (Element::Integer(i64::from_le_bytes(at(data, from + 1)?)), 9),
            _ => return Err(Fault::Bad("listpack entry")),
        };
        let back = match length {
            0..128 => 1,
            128..16_384 => 2,
            16_384..2_097_152 => 3,
            2_097_152..268_435_456 => 4,
            _ => 5,
        };
        self.at = from + length + back;
        Ok(Some(element))
    }

    /// An element that has to be there.
    pub(super) fn expect(&mut self) -> Read<Element<'a>> {
        self.next()?.ok_or(Fault::Bad("listpack is one element short"))
    }
}

/// Walks a ziplist (`ziplist.c`).
#[derive(Clone, Debug)]
pub(super) struct Ziplist<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Ziplist<'a> {
    pub(super) fn new(data: &'a [u8]) -> Read<Self> {
        let total = size(u32::from_le_bytes(at(data, 0)?));
        if total != data.len() || total < 11 || data[total - 1] != 0xFF {
            return Err(Fault::Bad("ziplist header"));
        }
        Ok(Self { data, at: 10 })
    }

    pub(super) fn next(&mut self) -> Read<Option<Element<'a>>> {
        let data = self.data;
        let first = at::<1>(data, self.at)?[0];
        if first == 0xFF {
            return if self.at + 1 == data.len() { Ok(None) } else { Err(Fault::Bad("ziplist end")) };
        }
        let from = self.at + if first == 0xFE { 5 } else { 1 };
        let kind = at::<1>(data, from)?[0];
        let bytes = |skip: usize, length: usize| -> Read<(Element<'a>, usize)> {
            Ok((Element::Bytes(slice(data, from + skip, length)?), skip + length))
        };
        let (element, length) = match kind {
            0x00..=0x3F => bytes(1, usize::from(kind))?,
            0x40..=0x7F => bytes(2, usize::from(kind & 63) << 8 | usize::from(at::<1>(data, from + 1)?[0]))?,
            0x80 => bytes(5, size(u32::from_be_bytes(at(data, from + 1)?)))?,
            0xC0 => (Element::Integer(i64::from(i16::from_le_bytes(at(data, from + 1)?))), 3),
            0xD0 => (Element::Integer(i64::from(i32::from_le_bytes(at(data, from + 1)?))), 5),
            0xE0 => (Element::Integer(i64::from_le_bytes(at(data, from + 1)?)), 9),
            0xF0 => (Element::Integer(i24(at(data, from + 1)?)), 4),
            0xFE => (Element::Integer(i64::from(i8::from_le_bytes(at(data, from + 1)?))), 2),
            0xF1..=0xFD => (Element::Integer(i64::from(kind & 15) - 1), 1),
            _ => return Err(Fault::Bad("ziplist entry")),
        };
        self.at = from + length;
        Ok(Some(element))
    }

    pub(super) fn expect(&mut self) -> Read<Element<'a>> {
        self.next()?.ok_or(Fault::Bad("ziplist is one element short"))
    }
}

/// The members of an intset (`intset.c`).
pub(super) fn intset(data: &[u8]) -> Read<impl Iterator<Item = i64> + '_> {
    let width = size(u32::from_le_bytes(at(data, 0)?));
    let count = size(u32::from_le_bytes(at(data, 4)?));
    let values = &data[8..];
    if !matches!(width, 2 | 4 | 8) || count.checked_mul(width) != Some(values.len()) {
        return Err(Fault::Bad("intset header"));
    }
    Ok(values.chunks_exact(width).map(move |value| {
        let mut bytes = [if value[width - 1] >= 0x80 { 0xFF } else { 0 }; 8];
        bytes[..width].copy_from_slice(value);
        i64::from_le_bytes(bytes)
    }))
}

/// The pairs of a zipmap (`zipmap.c`, up to Redis 2.4).
pub(super) fn zipmap<'a>(data: &'a [u8], mut each: impl FnMut(&'a [u8], &'a [u8]) -> Read<()>) -> Read<()> {
    let mut from = 1;
    let length = |from: &mut usize| -> Read<Option<usize>> {
        let first = at::<1>(data, *from)?[0];
        *from += 1;
        match first {
            0xFF => Ok(None),
            0xFE => {
                let length = size(u32::from_le_bytes(at(data, *from)?));
                *from += 4;
                Ok(Some(length))
            }
            length => Ok(Some(usize::from(length))),
        }
    };
    while let Some(size) = length(&mut from)? {
        let field = slice(data, from, size)?;
        from += size;
        let size = length(&mut from)?.ok_or(Fault::Bad("zipmap is one value short"))?;
        let free = usize::from(at::<1>(data, from)?[0]);
        let value = slice(data, from + 1, size)?;
        from += 1 + size + free;
        each(field, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_intset_keeps_its_signs() {
        let data = [2, 0, 0, 0, 2, 0, 0, 0, 0xFE, 0xFF, 5, 0];
        assert_eq!(intset(&data).unwrap().collect::<Vec<_>>(), [-2, 5]);
    }

    #[test]
    fn a_listpack_of_every_small_kind_is_walked() {
        let body = [1, 1, 0x82, b'h', b'i', 3, 0xDF, 0xFF, 2, 0xF1, 0x00, 0x80, 3];
        let total = u32::try_from(body.len() + 7).unwrap();
        let data = [&total.to_le_bytes()[..], &[4, 0], &body, &[0xFF]].concat();
        let mut list = Listpack::new(&data).unwrap();
        let mut found = Vec::new();
        while let Some(element) = list.next().unwrap() {
            found.push(element);
        }
        assert_eq!(found, [Element::Integer(1), Element::Bytes(b"hi"), Element::Integer(-1), Element::Integer(-32768)]);
    }

    proptest! {
        #[test]
        fn no_blob_panics_or_hangs(mut data in prop::collection::vec(any::<u8>(), 7..300)) {
            let total = u32::try_from(data.len()).unwrap().to_le_bytes();
            data[..4].copy_from_slice(&total);
            *data.last_mut().unwrap() = 0xFF;
            if let Ok(mut list) = Listpack::new(&data) { while let Ok(Some(_)) = list.next() {} }
            if let Ok(mut list) = Ziplist::new(&data) { while let Ok(Some(_)) = list.next() {} }
            if let Ok(set) = intset(&data) { prop_assert!(set.count() <= data.len()); }
            let _damage_or_not = zipmap(&data, |_, _| Ok(()));
        }
    }
}
