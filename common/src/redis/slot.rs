//! The slots of Redis Cluster: which one a key has, and sets of them.

use std::fmt;

/// How many there are.
pub const SLOTS: u16 = 16384;

/// The slot of a key: CRC-16 (XMODEM) of its hash tag, or of all of it.
pub fn slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOTS
}

/// What is between the first `{` and the next `}`, unless that is nothing.
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else { return key };
    match memchr::memchr(b'}', &key[open + 1..]) {
        None | Some(0) => key,
        Some(length) => &key[open + 1..open + 1 + length],
    }
}

/// How many slots codis has.
pub const CODIS_SLOTS: u16 = 1024;

/// The slot that codis gives a key: CRC-32 of its hash tag, which may be empty, or of all of it.
pub fn codis_slot(key: &[u8]) -> u16 {
    let tag = memchr::memchr(b'{', key).and_then(|open| {
        let rest = key.get(open + 1..)?;
        rest.get(..memchr::memchr(b'}', rest)?)
    });
    u16::try_from(crc32_of(tag.unwrap_or(key)) % u64::from(CODIS_SLOTS)).unwrap_or(0)
}

/// CRC-32 (IEEE).
pub fn crc32_of(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes)
}

/// CRC-16 (XMODEM) in a register of 32 bits, whose upper half keeps what was shifted out of the lower: what twemproxy calls crc16.
pub fn crc16_in_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ u32::from(TABLE[usize::from(crc.to_be_bytes()[2] ^ byte)]))
}

const TABLE: [u16; 256] = table();

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte: u16 = 0;
    while byte < 256 {
        let mut crc = byte << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

/// A set of slots.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SlotSet(Box<[u64; SLOTS as usize / 64]>);

impl Default for SlotSet {
    fn default() -> Self {
        Self(Box::new([0; SLOTS as usize / 64]))
    }
}

impl SlotSet {
    /// From `0-5460,5470`; words may be parted by spaces too.
    pub fn parse(text: &str) -> Option<Self> {
        let mut set = Self::default();
        for word in text.split([',', ' ']).filter(|word| !word.is_empty()) {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            set.insert_range(first.parse().ok()?, last.parse().ok()?)?;
        }
        Some(set)
    }

    /// Adds `first` to `last`; `None` if there are no such slots.
    pub fn insert_range(&mut self, first: u16, last: u16) -> Option<()> {
        if first > last || last >= SLOTS {
            return None;
        }
        (first..=last).for_each(|slot| self.0[usize::from(slot / 64)] |= 1 << (slot % 64));
        Some(())
    }

    /// True if the slot is in it.
    pub fn contains(&self, slot: u16) -> bool {
        self.0.get(usize::from(slot / 64)).is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    /// What is in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.combined(other, |left, right| left & right)
    }

    /// What is in any.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        self.combined(other, |left, right| left | right)
    }

    /// What is in this and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.combined(other, |left, right| left & !right)
    }

    fn combined(&self, other: &Self, by: impl Fn(u64, u64) -> u64) -> Self {
        let mut set = self.clone();
        set.0.iter_mut().zip(other.0.iter()).for_each(|(left, right)| *left = by(*left, *right));
        set
    }

    /// All 16384.
    pub fn all() -> Self {
        Self(Box::new([u64::MAX; SLOTS as usize / 64]))
    }

    /// The smallest that is in it.
    pub fn first(&self) -> Option<u16> {
        self.iter().next()
    }

    /// All that are in it, in their order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        (0..SLOTS).filter(|slot| self.contains(*slot))
    }

    /// Adds one.
    pub fn insert(&mut self, slot: u16) {
        let _within = self.insert_range(slot, slot);
    }

    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many are in it.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

impl fmt::Display for SlotSet {
    /// As ranges, `0-5460,5470`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut slot, mut comma) = (0, "");
        while slot < SLOTS {
            if !self.contains(slot) {
                slot += 1;
                continue;
            }
            let first = slot;
            while slot < SLOTS && self.contains(slot) {
                slot += 1;
            }
            match slot - 1 {
                last if last == first => write!(f, "{comma}{first}")?,
                last => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_slot_that_a_real_cluster_gives_it() {
        // CLUSTER KEYSLOT of a 7.0.
        for (key, expected) in [
            ("", 0),
            ("123456789", 12739),
            ("foo", 12182),
            ("{user1000}.following", 3443),
            ("{user1000}.followers", 3443),
            ("foo{}{bar}", 8363),
            ("foo{{bar}}zap", 4015),
            ("foo{bar}{zap}", 5061),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn codis_takes_the_tag_also_if_it_is_empty() {
        // CRC-32 of "123456789" is 0xCBF43926.
        assert_eq!(codis_slot(b"123456789"), 0x0126);
        assert_eq!(codis_slot(b"a{123456789}b"), codis_slot(b"123456789"));
        assert_eq!((codis_slot(b"a{}b"), codis_slot(b"")), (0, 0));
        assert_eq!(codis_slot(b"a{b"), codis_slot(b"a{b"));
    }

    #[test]
    fn a_set_is_read_and_shown_as_ranges() {
        let set = SlotSet::parse("0-2,5 16383").unwrap();
        assert_eq!((set.to_string().as_str(), set.count()), ("0-2,5,16383", 5));
        assert_eq!(SlotSet::all().without(&set).to_string(), "3-4,6-16382");
        assert_eq!(set.and(&SlotSet::parse("2-9").unwrap()).to_string(), "2,5");
        for wrong in ["3-2", "16384", "x", "1-"] {
            assert_eq!(SlotSet::parse(wrong), None, "{wrong}");
        }
    }
}
